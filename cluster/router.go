package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// Router brings commands to the homes of their clinics. Where no home is known
// or none can be reached, it has them executed here: where a command is executed
// decides how fast it is and not whether it is right.
type Router struct {
	local    *txn.Executors
	security *tls.Config
	log      *slog.Logger

	mu    sync.RWMutex
	self  string
	homes *Homes
	peers map[string]*peer // by the nodes' ids
	// told is closed when the router is told of nodes for the first time.
	told     chan struct{}
	tellOnce sync.Once

	forwarded, taken *prometheus.CounterVec
}

// NewRouter returns a router that executes everything at an executor until
// [Router.Follow] tells it of other nodes.
func NewRouter(local *txn.Executors, security *tls.Config, log *slog.Logger) *Router {
	return &Router{
		local: local, security: security, log: log, homes: NewHomes(nil, nil), peers: make(map[string]*peer), told: make(chan struct{}),
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_forwarded_submissions_total",
			Help: "Submissions that were brought to the home of their clinic, by what became of them: answered, left (the caller did not wait), lost (the connection broke first), unreachable, refused.",
		}, []string{"outcome"}),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_executed_submissions_total",
			Help: "Submissions that this node was asked for and executed, by why: home, unknown (no home), unreachable (the home).",
		}, []string{"why"}),
	}
}

// RegisterMetrics makes the router's metrics known.
func (r *Router) RegisterMetrics(to prometheus.Registerer) { to.MustRegister(r.forwarded, r.taken) }

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
			r.peers[n.ID] = newPeer(n, r.security, r.log)
		}
	}
	for id, p := range r.peers {
		if !there[id] {
			p.close()
			delete(r.peers, id)
		}
	}
	r.mu.Unlock()
	r.local.Forget(func(clinic ledger.ClinicID) bool {
		home, ok := homes.Of(clinic)
		return ok && home.ID != self
	})
}

// Close ends the connections to other nodes.
func (r *Router) Close() { r.Follow(r.self, NewHomes(nil, nil)) }

// Accepting reports whether commands are taken.
func (r *Router) Accepting() bool { return r.local.Accepting() }

// attempts is how often a submission is brought to its home again after the
// connection was lost.
const attempts = 3

// Submit has commands executed by their clinic's home, as [txn.Executors.Submit]
// does here. After a connection was lost it asks the home again, under the same
// keys: what was carried out is answered from the journal.
func (r *Router) Submit(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	if len(s.Commands) == 0 || !travels(s) {
		return r.local.Submit(ctx, s)
	}
	for range attempts {
		p, why := r.route(s.Clinic)
		if p == nil {
			r.taken.WithLabelValues(why).Inc()
			return r.local.Submit(ctx, s)
		}
		verdicts, err := p.deliver(ctx, s)
		switch {
		case errors.Is(err, errLost):
			r.forwarded.WithLabelValues("lost").Inc()
			continue
		case errors.Is(err, errUnreachable):
			r.forwarded.WithLabelValues("unreachable").Inc()
		case errors.Is(err, errRefused):
			r.forwarded.WithLabelValues("refused").Inc()
		case ctx.Err() != nil:
			r.forwarded.WithLabelValues("left").Inc()
			return verdicts, err
		default:
			r.forwarded.WithLabelValues("answered").Inc()
			r.local.Heard(verdicts)
			return verdicts, err
		}
		break
	}
	r.taken.WithLabelValues("unreachable").Inc()
	return r.local.Submit(ctx, s)
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
	return p == nil
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
		if c.Clinic != s.Clinic || ledger.Check(c) != nil {
			return false
		}
	}
	return true
}
