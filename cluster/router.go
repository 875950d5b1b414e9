package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// Router brings commands to the homes of their clinics. Where no home is known
// or none can be reached, it has them executed here: where a command is executed
// decides how fast it is and not whether it is right. A remote router has them
// executed by any other node instead.
type Router struct {
	local    *txn.Executors
	remote   bool
	security *tls.Config
	log      *slog.Logger
	ctx      context.Context // of the connections
	cancel   context.CancelFunc

	mu    sync.RWMutex
	self  string
	homes *Homes
	peers map[string]*peer // by the nodes' ids
	met   bool             // another node, once
	// told is closed when the router is told of nodes for the first time.
	told     chan struct{}
	tellOnce sync.Once

	forwarded, taken *prometheus.CounterVec
}

// NewRouter returns a router that executes everything at an executor until
// [Router.Follow] tells it of other nodes.
func NewRouter(local *txn.Executors, security *tls.Config, log *slog.Logger) *Router {
	ctx, cancel := context.WithCancel(context.Background())
	return &Router{
		local: local, security: security, log: log, ctx: ctx, cancel: cancel, homes: NewHomes(nil, nil, nil), peers: make(map[string]*peer), told: make(chan struct{}),
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_forwarded_submissions_total",
			Help: "Submissions that were brought to another node, by what became of them: answered, left (the caller did not wait), lost (the connection broke first), unreachable, open (the node was left alone), refused.",
		}, []string{"outcome"}),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_executed_submissions_total",
			Help: "Submissions that this node was asked for and executed, by why: home, unknown (no home), unreachable (the home).",
		}, []string{"why"}),
	}
}

// NewRemoteRouter returns a router that executes nothing: [Router.Submit] fails
// with [txn.ErrNoExecutor] where no other node can be reached. Only what no node
// would execute is refused by local, whose readers hear what the others
// executed.
func NewRemoteRouter(local *txn.Executors, security *tls.Config, log *slog.Logger) *Router {
	r := NewRouter(local, security, log)
	r.remote = true
	return r
}

// RegisterMetrics makes the router's metrics known.
func (r *Router) RegisterMetrics(to prometheus.Registerer) {
	to.MustRegister(r.forwarded, r.taken, breakers{r})
}

// Follow takes over who is there. Clinics whose home is elsewhere now are
// forgotten here; what is kept of the others was never trusted without the
// database's word.
func (r *Router) Follow(self string, homes *Homes) {
	defer r.tellOnce.Do(func() { close(r.told) })
	r.mu.Lock()
	r.self, r.homes = self, homes
	there := make(map[string]bool)
	for _, n := range homes.nodes {
		there[n.ID] = true
		if n.ID != self && r.peers[n.ID] == nil {
			r.peers[n.ID] = newPeer(r.ctx, n, r.security, r.log)
		}
	}
	for id, p := range r.peers {
		if !there[id] {
			p.retire()
			delete(r.peers, id)
		}
	}
	r.met = r.met || len(r.peers) > 0
	r.mu.Unlock()
	r.local.Forget(func(clinic ledger.ClinicID) bool {
		home, ok := homes.Of(clinic)
		return ok && home.ID != self
	})
}

// Close ends the connections to other nodes.
func (r *Router) Close() {
	r.cancel()
	r.mu.RLock()
	self := r.self
	r.mu.RUnlock()
	r.Follow(self, NewHomes(nil, nil, nil))
}

// Accepting reports whether commands are taken. A remote router takes none
// before it has heard of a node that executes them.
func (r *Router) Accepting() bool {
	if r.remote {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.met && r.ctx.Err() == nil
	}
	return r.local.Accepting()
}

// Reachable reports whether another node can be reached, as far as this one
// knows.
func (r *Router) Reachable() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, p := range r.peers {
		if p.reachable() {
			return true
		}
	}
	return false
}

// attempts is how often a submission is brought to another node again after the
// connection was lost, or, where nobody else can execute it, could not be made.
const attempts = 4

// pauses are those between two attempts: short, since the caller waits, and
// never the same, so that not all that were lost together come back together.
func pauses() backoff.RetryOption {
	return backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, RandomizationFactor: backoff.DefaultRandomizationFactor, Multiplier: 2, MaxInterval: 200 * time.Millisecond,
	})
}

// final is an error that another attempt would not mend.
func final(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}

// Submit has commands executed by their clinic's home, as [txn.Executors.Submit]
// does here. After a connection was lost it asks the home again, under the same
// keys: what was carried out is answered from the journal. A home that can be
// reached and loses it again and again may have it, so it is executed nowhere
// else; the error is [txn.ErrAmbiguous] then.
func (r *Router) Submit(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	if r.remote {
		return r.send(ctx, s)
	}
	p, why := r.route(s.Clinic)
	switch {
	case len(s.Commands) == 0 || !travels(s):
		return r.local.Submit(ctx, s)
	case p == nil:
		return r.here(ctx, s, why)
	}
	verdicts, err := backoff.Retry(ctx, func() ([]txn.Verdict, error) { return r.bring(ctx, s) }, pauses(), backoff.WithMaxTries(attempts))
	if errors.Is(err, errLost) {
		return nil, fmt.Errorf("%w: %w", txn.ErrAmbiguous, err)
	}
	return verdicts, err
}

func (r *Router) here(ctx context.Context, s txn.Submission, why string) ([]txn.Verdict, error) {
	r.taken.WithLabelValues(why).Inc()
	return r.local.Submit(ctx, s)
}

// bring is one attempt at a clinic's home, which may be another one by now. Only
// errLost is not final.
func (r *Router) bring(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	p, why := r.route(s.Clinic)
	if p == nil {
		verdicts, err := r.here(ctx, s, why)
		return verdicts, final(err)
	}
	verdicts, err := r.deliver(ctx, p, s)
	switch {
	case errors.Is(err, errLost):
		return nil, err
	case notTaken(err):
		verdicts, err = r.here(ctx, s, "unreachable")
	}
	return verdicts, final(err)
}

// notTaken reports whether the other node took nothing, so that another one may
// execute it.
func notTaken(err error) bool {
	return errors.Is(err, errUnreachable) || errors.Is(err, errOpen) || errors.Is(err, errRefused)
}

// deliver brings a submission to another node, and counts what became of it.
func (r *Router) deliver(ctx context.Context, p *peer, s txn.Submission) ([]txn.Verdict, error) {
	verdicts, err := p.deliver(ctx, s)
	outcome := "answered"
	switch {
	case errors.Is(err, errLost):
		outcome = "lost"
	case errors.Is(err, errUnreachable):
		outcome = "unreachable"
	case errors.Is(err, errOpen):
		outcome = "open"
	case errors.Is(err, errRefused):
		outcome = "refused"
	case ctx.Err() != nil:
		outcome = "left"
	default:
		r.local.Heard(verdicts)
	}
	r.forwarded.WithLabelValues(outcome).Inc()
	return verdicts, err
}

// route returns the peer that is home to a clinic, or none and why.
func (r *Router) route(clinic ledger.ClinicID) (*peer, string) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	home, ok := r.homes.Of(clinic)
	switch {
	case !ok:
		return nil, "unknown"
	case home.ID == r.self:
		return nil, "home"
	}
	return r.peers[home.ID], "unknown"
}

// executesHere reports whether this node executes a clinic's commands as far as
// it knows.
func (r *Router) executesHere(clinic ledger.ClinicID) bool {
	p, _ := r.route(clinic)
	return p == nil && !r.remote
}

// awaitHomes waits until the router knows of other nodes, at most so long.
func (r *Router) awaitHomes(ctx context.Context, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	select {
	case <-r.told:
	case <-ctx.Done():
	}
}

// wakeTimeout bounds the message that something waits.
const wakeTimeout = 5 * time.Second

// wake tells a clinic's home that operations wait there: a submission without
// commands.
func (r *Router) wake(clinic ledger.ClinicID) {
	p, _ := r.route(clinic)
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), wakeTimeout)
	defer cancel()
	if _, err := p.deliver(ctx, txn.Submission{Clinic: clinic}); err != nil {
		r.log.Debug("the home of a clinic does not hear that operations wait; it finds them by itself", "clinic", clinic, "error", err)
	}
}

// travels reports whether a submission can be sent. What can't is refused
// whatever the clinic's state is, so this node may as well do it.
func travels(s txn.Submission) bool {
	for _, c := range s.Commands {
		if !isSound(s, c) {
			return false
		}
	}
	return true
}

func isSound(s txn.Submission, c ledger.Command) bool {
	return c.Clinic == s.Clinic && ledger.Check(c) == nil
}
