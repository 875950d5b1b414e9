package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/txn"
)

// Errors of deliver beside those of the executor at the other end.
var (
	// errUnreachable means that the submission did not leave this node.
	errUnreachable = errors.New("cluster: the node cannot be reached")
	// errOpen means that it was not even tried: the node is left alone.
	errOpen = errors.New("cluster: the node could not be reached a moment ago")
	// errLost means that the connection broke before the answer came.
	errLost = errors.New("cluster: the connection to the node was lost")
)

// A peer whose connections end openAfter times in a row before it has said
// anything is left alone for openFor. A connection that breaks later does not
// count: it is made again at once.
const (
	openAfter = 3
	openFor   = time.Second
)

// What one message carries at most, unless a single submission has more.
const (
	messageSubmissions = 1000
	messageBytes       = 1 << 20
)

// peer is the connection to another node. What is submitted while a message is
// on its way leaves together in the next one.
type peer struct {
	name     string
	address  string
	security *tls.Config
	ctx      context.Context
	close    context.CancelFunc
	log      *slog.Logger
	// breaker judges connections and not submissions: many of these are lost with
	// one of those.
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu      sync.Mutex
	running bool
	left    bool // there is a connection, so that something may have left
	retired bool
	wake    chan struct{}
	queue   []*delivery
	sent    map[uint64]*delivery
	number  uint64
}

// delivery is a submission on its way.
type delivery struct {
	submission *peerv1.Submission
	bytes      int
	commands   int
	done       chan struct{}
	verdicts   []txn.Verdict
	err        error
}

func (d *delivery) end(verdicts []txn.Verdict, err error) {
	d.verdicts, d.err = verdicts, err
	close(d.done)
}

// newPeer returns a connection that is made when it is needed, until ctx ends or
// it is closed.
func newPeer(ctx context.Context, n Node, security *tls.Config, log *slog.Logger) *peer {
	ctx, cancel := context.WithCancel(ctx)
	log = log.With("peer", n.ID)
	return &peer{
		name: n.Name, address: n.Peer, security: security, ctx: ctx, close: cancel,
		log: log, breaker: newBreaker(log), wake: make(chan struct{}, 1), sent: make(map[uint64]*delivery),
	}
}

func newBreaker(log *slog.Logger) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     openFor,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= openAfter },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch {
			case to == gobreaker.StateOpen && from == gobreaker.StateClosed:
				log.Warn("another node cannot be reached; it is left alone, and tried again every now and then", "every", openFor)
			case to == gobreaker.StateClosed:
				log.Info("another node can be reached again")
			}
		},
	})
}

// deliver sends a submission and waits for its verdicts. When ctx ends first,
// the submission goes on without its caller.
func (p *peer) deliver(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	var left time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		left = max(time.Until(deadline), time.Millisecond)
	}
	d := &delivery{submission: submissionToWire(s, left), commands: len(s.Commands), done: make(chan struct{})}
	for _, c := range d.submission.GetCommands() {
		d.bytes += len(c)
	}
	if err := p.enqueue(d); err != nil {
		return nil, err
	}
	select {
	case <-d.done:
		return d.verdicts, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *peer) enqueue(d *delivery) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || p.retired {
		return errUnreachable
	}
	if err := p.connect(); err != nil {
		return err
	}
	p.number++
	d.submission.Number = p.number
	p.queue = append(p.queue, d)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// connect makes a connection where there is none. Where it is not known whether
// the node is back, one submission finds out, and the others need not wait for
// it.
func (p *peer) connect() error {
	if p.running {
		if p.breaker.State() == gobreaker.StateHalfOpen {
			return errOpen
		}
		return nil
	}
	done, err := p.breaker.Allow()
	if err != nil {
		return errOpen
	}
	p.running = true
	var once sync.Once
	go p.run(func(err error) { once.Do(func() { done(err) }) })
	return nil
}

// reachable reports whether it could be reached when it was last tried.
func (p *peer) reachable() bool { return p.breaker.State() == gobreaker.StateClosed }

// retire takes nothing more, and ends the connection once what is on its way is
// answered.
func (p *peer) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	p.closeIfDone()
}

func (p *peer) closeIfDone() {
	if p.retired && len(p.queue) == 0 && len(p.sent) == 0 {
		p.close()
	}
}

// run keeps one connection until it breaks. What was sent on it and not answered is
// lost, and what was not sent did not leave. It calls judged with how the
// connection turned out, once or more: the first time counts.
func (p *peer) run(judged func(error)) {
	err := p.exchange(judged)
	judged(errUnreachable)
	p.mu.Lock()
	defer p.mu.Unlock()
	lost := errUnreachable
	if p.left {
		lost = errLost
	}
	p.running, p.left = false, false
	for _, d := range p.sent {
		d.end(nil, lost)
	}
	clear(p.sent)
	for _, d := range p.queue {
		d.end(nil, errUnreachable)
	}
	p.queue = nil
	if p.ctx.Err() == nil {
		p.log.Info("the connection to another node ended", "error", err)
	}
	p.closeIfDone()
}

// exchange sends what waits and receives the answers.
func (p *peer) exchange(judged func(error)) error {
	connection, err := dialFrames(p.ctx, p.address, p.security)
	if err != nil {
		return err
	}
	defer connection.close()
	defer context.AfterFunc(p.ctx, connection.close)()
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	broken := make(chan error, 1)
	go func() { broken <- p.receive(connection, judged) }()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case err := <-broken: // before anything more leaves
			return err
		default:
		}
		message := p.take()
		if message == nil {
			select {
			case <-p.wake:
				continue
			case <-beat.C:
				message = &peerv1.ForwardRequest{}
			case err := <-broken:
				return err
			}
		}
		if err := connection.send(message); err != nil {
			connection.close()
			return errors.Join(err, <-broken)
		}
	}
}

// take makes a message of what waits.
func (p *peer) take() *peerv1.ForwardRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	n, bytes := 0, 0
	batch := &peerv1.ForwardRequest{}
	for ; n < len(p.queue) && n < messageSubmissions && (n == 0 || bytes < messageBytes); n++ {
		d := p.queue[n]
		bytes += d.bytes
		batch.Submissions = append(batch.Submissions, d.submission)
		p.sent[d.submission.GetNumber()] = d
	}
	p.queue = append(p.queue[:0], p.queue[n:]...)
	return batch
}

func (p *peer) receive(connection *frames, judged func(error)) error {
	for {
		message := &peerv1.ForwardResponse{}
		if err := connection.receive(message); err != nil {
			return err
		}
		judged(nil)
		for _, answer := range message.GetAnswers() {
			if d := p.answered(answer.GetNumber()); d != nil {
				d.end(answerFromWire(answer, d.commands))
			}
		}
	}
}

func (p *peer) answered(number uint64) *delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.sent[number]
	delete(p.sent, number)
	p.closeIfDone()
	return d
}
