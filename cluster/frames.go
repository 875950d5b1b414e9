package cluster

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/protobuf/proto"
)

// peerProtocol is what nodes agree on when they connect. A node that speaks
// another one is refused, and can be reached as little as one that is away.
const peerProtocol = "stockledger-peer/1"

// Each side says something every beatEvery, if only that it is there, and takes
// the other for gone that has said nothing for silenceLimit.
const (
	connectTimeout = time.Second
	beatEvery      = 2 * time.Second
	silenceLimit   = 4 * time.Second
)

const (
	// frameHeader is the length of the message that follows, in bytes, as a big-endian number.
	frameHeader = 4
	// frameLimit is beyond what any message comes to.
	frameLimit = 1 << 30
	// frameBuffer is how much of a connection's buffers outlasts a message.
	frameBuffer = 1 << 20
	// writePiece is what has to be gone within silenceLimit.
	writePiece = 256 << 10
)

// frames is a connection between two nodes, under mutual TLS, that carries
// messages each behind its length. One goroutine may send while another one
// receives.
//
// It is not HTTP/2, whose streams hand a message from goroutine to goroutine on
// its way: those two ways were two fifths of what bringing a command home cost.
type frames struct {
	conn     *tls.Conn
	in       *bufio.Reader
	received []byte
	sent     []byte
}

// dialFrames connects to another node.
func dialFrames(ctx context.Context, address string, security *tls.Config) (*frames, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return newFrames(ctx, tls.Client(conn, peerConfig(security)))
}

// acceptFrames takes another node's connection.
func acceptFrames(ctx context.Context, conn net.Conn, security *tls.Config) (*frames, error) {
	return newFrames(ctx, tls.Server(conn, peerConfig(security)))
}

func peerConfig(security *tls.Config) *tls.Config {
	config := security.Clone()
	config.NextProtos = []string{peerProtocol}
	config.DynamicRecordSizingDisabled = true
	return config
}

// newFrames shakes hands.
func newFrames(ctx context.Context, conn *tls.Conn) (*frames, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	err := conn.HandshakeContext(ctx)
	if agreed := conn.ConnectionState().NegotiatedProtocol; err == nil && agreed != peerProtocol {
		err = fmt.Errorf("the other node speaks %q and not %q", agreed, peerProtocol)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	f := &frames{conn: conn}
	f.in = bufio.NewReaderSize(f, 64<<10)
	return f, nil
}

// close ends the connection at once, whoever sends or receives.
func (f *frames) close() { _ = f.conn.NetConn().Close() }

// Read reads from the connection, for at most silenceLimit.
func (f *frames) Read(b []byte) (int, error) {
	if err := f.conn.SetReadDeadline(time.Now().Add(silenceLimit)); err != nil {
		return 0, err
	}
	return f.conn.Read(b)
}

// receive waits for the next message.
func (f *frames) receive(message proto.Message) error {
	var header [frameHeader]byte
	if _, err := io.ReadFull(f.in, header[:]); err != nil {
		return err
	}
	length := int(binary.BigEndian.Uint32(header[:]))
	if length > frameLimit {
		return fmt.Errorf("the other node announces a message of %d bytes; at most %d are allowed", length, frameLimit)
	}
	if cap(f.received) < length || cap(f.received) > frameBuffer {
		f.received = make([]byte, length)
	}
	f.received = f.received[:length]
	if _, err := io.ReadFull(f.in, f.received); err != nil {
		return err
	}
	return proto.Unmarshal(f.received, message)
}

// send returns when the message has left.
func (f *frames) send(message proto.Message) error {
	frame, err := proto.MarshalOptions{}.MarshalAppend(append(f.sent[:0], make([]byte, frameHeader)...), message)
	if err != nil {
		return err
	}
	if f.sent = frame; cap(frame) > frameBuffer {
		f.sent = nil
	}
	if len(frame)-frameHeader > frameLimit {
		return fmt.Errorf("a message of %d bytes is too long; at most %d are allowed", len(frame)-frameHeader, frameLimit)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-frameHeader))
	for len(frame) > 0 {
		piece := frame[:min(len(frame), writePiece)]
		frame = frame[len(piece):]
		if err := f.conn.SetWriteDeadline(time.Now().Add(silenceLimit)); err != nil {
			return err
		}
		if _, err := f.conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// sendLast sends a message and that nothing will follow. The connection stays
// open for the other node to end it: closing it while that still sends could cut
// off what it has not read.
func (f *frames) sendLast(message proto.Message) error {
	if err := f.send(message); err != nil {
		f.close()
		return err
	}
	return f.conn.CloseWrite()
}
