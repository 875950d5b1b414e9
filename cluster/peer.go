package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1/peerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// Errors of deliver beside those of the executor at the other end.
var (
	// errUnreachable means that the submission did not leave this node.
	errUnreachable = errors.New("cluster: the node cannot be reached")
	// errLost means that the connection broke before the answer came.
	errLost = errors.New("cluster: the connection to the node was lost")
)

// A peer that is not heard of for pingAfter is asked whether it is there, and
// given up pingTimeout later. One that cannot be reached is left alone for
// downFor.
const (
	connectTimeout = time.Second
	pingAfter      = 2 * time.Second
	pingTimeout    = 2 * time.Second
	downFor        = 500 * time.Millisecond
)

// What one message carries at most, unless a single submission has more.
const (
	messageSubmissions = 1000
	messageBytes       = 1 << 20
)

// peer is the connection to another node. What is submitted while a message is
// on its way leaves together in the next one.
type peer struct {
	client    peerv1connect.PeerServiceClient
	transport *http.Transport
	ctx       context.Context
	close     context.CancelFunc
	log       *slog.Logger

	mu        sync.Mutex
	running   bool
	wake      chan struct{}
	queue     []*delivery
	sent      map[uint64]*delivery
	number    uint64
	downUntil time.Time
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

func newPeer(n Node, security *tls.Config, log *slog.Logger) *peer {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: security.Clone(), TLSHandshakeTimeout: connectTimeout, Protocols: protocols,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, MaxReadFrameSize: 256 << 10},
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := connecthttp.NewTransport(&http.Client{Transport: transport}, "https://"+n.Peer, connecthttp.WithCompressors())
	return &peer{
		client: peerv1connect.NewPeerServiceClient(connect.NewClient(over)), transport: transport, ctx: ctx, close: cancel,
		log: log.With("peer", n.ID), wake: make(chan struct{}, 1), sent: make(map[uint64]*delivery),
	}
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
	if !p.enqueue(d) {
		return nil, errUnreachable
	}
	select {
	case <-d.done:
		return d.verdicts, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *peer) enqueue(d *delivery) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || time.Now().Before(p.downUntil) {
		return false
	}
	p.number++
	d.submission.Number = p.number
	p.queue = append(p.queue, d)
	if !p.running {
		p.running = true
		go p.run()
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// run keeps one stream until it breaks. What was sent on it and not answered is
// lost, and what was not sent did not leave.
func (p *peer) run() {
	err := p.stream()
	p.transport.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	p.downUntil = time.Now().Add(downFor)
	for _, d := range p.sent {
		d.end(nil, errLost)
	}
	clear(p.sent)
	for _, d := range p.queue {
		d.end(nil, errUnreachable)
	}
	p.queue = nil
	if p.ctx.Err() == nil {
		p.log.Info("the connection to another node ended", "error", err)
	}
}

func (p *peer) stream() error {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	stream, err := p.client.Forward(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	broken := make(chan error, 1)
	go func() { broken <- p.receive(stream) }()
	for {
		if batch := p.take(); batch != nil {
			if err := stream.Send(batch); err != nil {
				cancel()
				return errors.Join(err, <-broken)
			}
			continue
		}
		select {
		case <-p.wake:
		case err := <-broken:
			return err
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

func (p *peer) receive(stream peerv1connect.PeerServiceForwardClientStream) error {
	for {
		message, err := stream.Receive()
		if err != nil {
			return err
		}
		for _, answer := range message.GetAnswers() {
			p.mu.Lock()
			d := p.sent[answer.GetNumber()]
			delete(p.sent, answer.GetNumber())
			p.mu.Unlock()
			if d != nil {
				d.end(answerFromWire(answer, d.commands))
			}
		}
	}
}
