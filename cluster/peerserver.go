package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/stockledger/stockledger/ledger"
	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/txn"
)

// PeerServer takes commands from the other nodes.
type PeerServer struct {
	executor txn.Submitter
	wake     func(ledger.ClinicID)
	security *tls.Config
	listener net.Listener
	log      *slog.Logger
	closing  chan struct{}

	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	serving sync.WaitGroup
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
	return &PeerServer{
		executor: executor, wake: wake, security: security, listener: listener, log: log,
		closing: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}, nil
}

// Addr is where other nodes reach this one.
func (s *PeerServer) Addr() string { return s.listener.Addr().String() }

// acceptPause is how long nobody is accepted after that has failed, as it does
// while the process has too many open files.
const acceptPause = 100 * time.Millisecond

// Serve serves until Close.
func (s *PeerServer) Serve() error {
	for failures := 0; ; {
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			failures = 0
			s.begin(conn)
		case s.isClosing():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("cluster: serve other nodes on %s: %w", s.Addr(), err)
		default:
			if failures++; failures == 1 {
				s.log.Warn("other nodes cannot connect to this one; it goes on trying to accept them", "error", err)
			}
			select {
			case <-time.After(acceptPause):
			case <-s.closing:
			}
		}
	}
}

func (s *PeerServer) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// begin serves a connection, unless the server closes.
func (s *PeerServer) begin(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		_ = conn.Close()
		return
	}
	s.conns[conn] = struct{}{}
	s.serving.Go(func() {
		err := s.serve(conn)
		s.log.Debug("a connection from another node ended", "from", conn.RemoteAddr().String(), "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = conn.Close()
		delete(s.conns, conn)
	})
}

// Close takes nothing more, answers what was taken, and ends the connections, or
// cuts them off when ctx ends.
func (s *PeerServer) Close(ctx context.Context) error {
	err := s.stopAccepting()
	served := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(served)
	}()
	select {
	case <-served:
		return err
	case <-ctx.Done():
		s.cut()
		return errors.Join(fmt.Errorf("cluster: other nodes still waited for answers: %w", ctx.Err()), err)
	}
}

func (s *PeerServer) stopAccepting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return nil
	}
	close(s.closing)
	return s.listener.Close()
}

// cut ends all connections at once.
func (s *PeerServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}

// leaveTimeout is how long a node may take to end a connection after the last
// answer.
const leaveTimeout = time.Second

// serve executes what comes on a connection. It says at once that it is there:
// the first answer may take as long as the database does.
func (s *PeerServer) serve(conn net.Conn) error {
	connection, err := acceptFrames(context.Background(), conn, s.security)
	if err != nil {
		return err
	}
	if err := connection.send(&peerv1.ForwardResponse{}); err != nil {
		return err
	}
	in, out := &intake{}, &outbox{wake: make(chan struct{}, 1)}
	left := make(chan error, 1)
	go func() { left <- s.receive(connection, in, out) }()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	closing, done := s.closing, make(chan struct{})
	for {
		answers := out.take()
		if len(answers) == 0 {
			select {
			case <-out.wake:
				continue
			case <-beat.C:
			case err := <-left:
				return err
			case <-closing:
				closing = nil
				go func() {
					in.close()
					close(done)
				}()
				continue
			case <-done:
				err := connection.sendLast(&peerv1.ForwardResponse{Answers: out.take()})
				select {
				case gone := <-left:
					return errors.Join(err, gone)
				case <-time.After(leaveTimeout):
					return err
				}
			}
		}
		if err := connection.send(&peerv1.ForwardResponse{Answers: answers}); err != nil {
			return err
		}
	}
}

// receive begins to execute what comes, until the other node leaves.
func (s *PeerServer) receive(connection *frames, in *intake, out *outbox) error {
	for {
		message := &peerv1.ForwardRequest{}
		if err := connection.receive(message); err != nil {
			return err
		}
		for _, submission := range message.GetSubmissions() {
			if !in.begin(func() { out.put(s.execute(submission)) }) {
				out.put(answerToWire(submission.GetNumber(), nil, errRefused))
			}
		}
	}
}

// intake is what is executed of a connection.
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
func (s *PeerServer) execute(w *peerv1.Submission) *peerv1.Answer {
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
	ctx, cancel := context.WithTimeout(context.Background(), limit)
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
