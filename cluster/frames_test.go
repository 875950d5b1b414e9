package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/txn"
)

// quietNode shakes hands with whoever connects, and does no more.
func quietNode(t *testing.T) (address string, security *tls.Config, accepted <-chan *frames) {
	t.Helper()
	security, err := PeerTLS(testSecret())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan *frames, 1)
	go func() {
		defer close(ends)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if f, err := acceptFrames(context.Background(), conn, security); err == nil {
			ends <- f
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		for f := range ends {
			f.close()
		}
	})
	return listener.Addr().String(), security, ends
}

// twoEnds returns both ends of a connection.
func twoEnds(t *testing.T) (near, far *frames) {
	t.Helper()
	address, security, accepted := quietNode(t)
	near, err := dialFrames(t.Context(), address, security)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(near.close)
	if far = <-accepted; far == nil {
		t.Fatal("the other end was not accepted")
	}
	t.Cleanup(far.close)
	return near, far
}

// Messages of every size arrive whole and in their order, both ways.
func TestFramesCarryMessages(t *testing.T) {
	t.Parallel()
	near, far := twoEnds(t)
	sizes := []int{0, 1, 100, writePiece - 1, writePiece, 2*writePiece + 1, 3 * frameBuffer, 5, frameBuffer, 0}
	for _, ends := range [][2]*frames{{near, far}, {far, near}} {
		sent := make(chan error, 1)
		go func() {
			for i, size := range sizes {
				if err := ends[0].send(sized(i, size)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for i, size := range sizes {
			got := &peerv1.ForwardRequest{}
			if err := ends[1].receive(got); err != nil {
				t.Fatalf("message %d, of %d bytes: %v", i, size, err)
			}
			if want := sized(i, size); !proto.Equal(got, want) {
				t.Errorf("message %d, of %d bytes, arrived changed", i, size)
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

func sized(number, size int) *peerv1.ForwardRequest {
	if size == 0 {
		return &peerv1.ForwardRequest{}
	}
	return &peerv1.ForwardRequest{Submissions: []*peerv1.Submission{{Number: uint64(number + 1), Commands: [][]byte{bytes.Repeat([]byte{byte(number)}, size)}}}}
}

func TestFramesRefuseWhatIsNoMessage(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string][]byte{
		"too long":      {0xff, 0xff, 0xff, 0xff},
		"not a message": {0, 0, 0, 1, 0xff},
		"cut off":       {0, 0, 0, 9, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, far := twoEnds(t)
			if _, err := near.conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			if name == "cut off" {
				near.close()
			}
			// What is whole, or announces too much, is refused at once.
			if err := far.receive(&peerv1.ForwardRequest{}); err == nil || isTimeout(err) {
				t.Errorf("it was taken for a message, or for the beginning of one: %v", err)
			}
		})
	}
}

// A node that speaks another protocol, or none that it names, is refused.
func TestNodesAgreeOnAProtocol(t *testing.T) {
	t.Parallel()
	other := otherNode(t, func(context.Context, txn.Submission) ([]txn.Verdict, error) { return nil, txn.ErrBusy })
	for name, protocols := range map[string][]string{"HTTP/2": {"h2"}, "none": nil} {
		security, err := PeerTLS(testSecret())
		if err != nil {
			t.Fatal(err)
		}
		security.NextProtos = protocols
		conn, err := tls.Dial("tcp", other.Peer, security)
		if err != nil {
			if !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Error(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		_ = conn.Close()
	}
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// An answer may take longer than a node may be silent, also while the node that
// owes it stops.
func TestSlowAnswersAreAwaited(t *testing.T) {
	t.Parallel()
	for name, stops := range map[string]bool{"the node stays": false, "the node stops": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			security, err := PeerTLS(testSecret())
			if err != nil {
				t.Fatal(err)
			}
			took := make(chan struct{})
			slow := submitter(func(context.Context, txn.Submission) ([]txn.Verdict, error) {
				close(took)
				<-time.After(silenceLimit + beatEvery)
				return nil, txn.ErrBusy
			})
			server, err := ListenForPeers(t.Context(), "127.0.0.1:0", security, slow, func(ledger.ClinicID) {}, quiet)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- server.Serve() }()
			p := newPeer(t.Context(), Node{ID: "slow-1", Name: "slow", Peer: server.Addr()}, security, quiet)
			defer p.close()
			told := make(chan error, 1)
			go func() {
				_, err := p.deliver(context.Background(), issue("i", "c", 1))
				told <- err
			}()
			<-took
			if stops {
				if err := server.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := <-told; !errors.Is(err, txn.ErrBusy) {
				t.Errorf("the caller was told %v", err)
			}
			cutOff(server)
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// A node that shakes hands and then says nothing is given up, and what may have
// left is lost.
func TestSilentNodesAreGivenUp(t *testing.T) {
	t.Parallel()
	address, security, _ := quietNode(t)
	p := newPeer(t.Context(), Node{ID: "silent-1", Name: "silent", Peer: address}, security, quiet)
	defer p.close()
	began := time.Now()
	if _, err := p.deliver(t.Context(), issue("i", "c", 1)); !errors.Is(err, errLost) {
		t.Errorf("the caller was told %v", err)
	}
	if took := time.Since(began); took < silenceLimit {
		t.Errorf("it was given up after %s", took)
	}
}

// A node that reads nothing holds up who sends to it for a while only.
func TestSendingToWhoReadsNothingEnds(t *testing.T) {
	t.Parallel()
	near, _ := twoEnds(t)
	for {
		if err := near.send(sized(0, 8<<20)); err != nil {
			if !isTimeout(err) {
				t.Errorf("it ended with %v", err)
			}
			return
		}
	}
}
