package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/stockledger/stockledger/ledger"
	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1/peerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// PeerServer takes commands from the other nodes.
type PeerServer struct {
	executor txn.Submitter
	wake     func(ledger.ClinicID)
	http     *http.Server
	listener net.Listener
	log      *slog.Logger
	closing  chan struct{}
}

// ListenForPeers takes a HOST:PORT address for the other nodes, which call wake
// when operations wait at a clinic of this node's. Nobody is served before
// [PeerServer.Serve].
func ListenForPeers(ctx context.Context, address string, security *tls.Config, executor txn.Submitter, wake func(ledger.ClinicID), log *slog.Logger) (*PeerServer, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cluster: listen for other nodes: %w", err)
	}
	s := &PeerServer{executor: executor, wake: wake, listener: listener, log: log, closing: make(chan struct{})}
	handlers := connect.NewServer()
	peerv1connect.RegisterPeerServiceHandler(handlers, s)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, handlers, connecthttp.WithCompressors())
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	s.http = &http.Server{
		Handler: mux, TLSConfig: security.Clone(), Protocols: protocols, ReadHeaderTimeout: connectTimeout,
		HTTP2:    &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, MaxReadFrameSize: 256 << 10},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Addr is where other nodes reach this one.
func (s *PeerServer) Addr() string { return s.listener.Addr().String() }

// Serve serves until Close.
func (s *PeerServer) Serve() error {
	if err := s.http.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cluster: serve other nodes on %s: %w", s.Addr(), err)
	}
	return nil
}

// Close takes nothing more, answers what was taken, and ends the connections, or
// cuts them off when ctx ends.
func (s *PeerServer) Close(ctx context.Context) error {
	close(s.closing)
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("cluster: other nodes still waited for answers: %w", err), s.http.Close())
	}
	return nil
}

// Forward executes what comes on a stream. It says at once that it is there: the
// first answer may take as long as the database does.
func (s *PeerServer) Forward(ctx context.Context, stream peerv1connect.PeerServiceForwardServerStream) error {
	if err := stream.Send(&peerv1.ForwardResponse{}); err != nil {
		return err
	}
	in, out := &intake{}, &outbox{wake: make(chan struct{}, 1)}
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			message, err := stream.Receive()
			if err != nil {
				return // the other node left
			}
			for _, submission := range message.GetSubmissions() {
				if !in.begin(func() { out.put(s.execute(ctx, submission)) }) {
					out.put(answerToWire(submission.GetNumber(), nil, errRefused))
				}
			}
		}
	}()
	for {
		if answers := out.take(); len(answers) > 0 {
			if err := stream.Send(&peerv1.ForwardResponse{Answers: answers}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-out.wake:
		case <-received:
			return nil
		case <-s.closing:
			in.close()
			return stream.Send(&peerv1.ForwardResponse{Answers: out.take()})
		}
	}
}

// intake is what is executed of a stream.
type intake struct {
	mu        sync.Mutex
	closed    bool
	executing sync.WaitGroup
}

// begin executes something, or reports that nothing is taken any more.
func (i *intake) begin(execute func()) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return false
	}
	i.executing.Go(execute)
	return true
}

// close takes nothing more and waits for what was taken.
func (i *intake) close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.executing.Wait()
}

// forwardTimeout bounds a submission whose caller set no limit.
const forwardTimeout = time.Minute

// execute carries a submission out, whether or not the other node stays.
func (s *PeerServer) execute(ctx context.Context, w *peerv1.Submission) *peerv1.Answer {
	submission, err := submissionFromWire(w)
	if err != nil {
		s.log.Warn("another node sent a command that this one cannot read", "clinic", w.GetClinicId(), "error", err)
		return answerToWire(w.GetNumber(), nil, errRefused)
	}
	if len(submission.Commands) == 0 {
		s.wake(submission.Clinic)
		return answerToWire(w.GetNumber(), nil, nil)
	}
	limit := forwardTimeout
	if w.GetTimeLeft() != nil {
		limit = w.GetTimeLeft().AsDuration()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	verdicts, err := s.executor.Submit(ctx, submission)
	return answerToWire(w.GetNumber(), verdicts, err)
}

// outbox holds answers until they are sent.
type outbox struct {
	mu      sync.Mutex
	answers []*peerv1.Answer
	wake    chan struct{}
}

func (o *outbox) put(a *peerv1.Answer) {
	o.mu.Lock()
	o.answers = append(o.answers, a)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() []*peerv1.Answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	answers := o.answers
	o.answers = nil
	return answers
}
