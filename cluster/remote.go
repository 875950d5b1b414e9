package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// This file is how a router has commands executed that executes none itself.

// send has commands executed by another node: their clinic's home, or else
// whichever can be reached.
func (r *Router) send(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	switch {
	case len(s.Commands) == 0:
		return nil, nil
	case travels(s):
		return r.sendSound(ctx, s)
	case s.Linked:
		return r.local.Submit(ctx, s) // refuses all of them
	}
	return r.sendApart(ctx, s)
}

// sendApart has the commands refused here that no node would execute, and sends
// the others.
func (r *Router) sendApart(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	malformed, sound := s, s
	malformed.Commands, sound.Commands = nil, nil
	for _, c := range s.Commands {
		if isSound(s, c) {
			sound.Commands = append(sound.Commands, c)
		} else {
			malformed.Commands = append(malformed.Commands, c)
		}
	}
	refused, err := r.local.Submit(ctx, malformed)
	if err != nil {
		return nil, err
	}
	executed, err := r.send(ctx, sound)
	if err != nil {
		return nil, err
	}
	verdicts := make([]txn.Verdict, len(s.Commands))
	for i, c := range s.Commands {
		from := &refused
		if isSound(s, c) {
			from = &executed
		}
		verdicts[i], *from = (*from)[0], (*from)[1:]
	}
	return verdicts, nil
}

// sendSound tries again, with pauses, while the connection is lost or cannot be
// made, and not where all nodes are left alone already: that is told at once.
func (r *Router) sendSound(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	lost := false
	verdicts, err := backoff.Retry(ctx, func() ([]txn.Verdict, error) {
		verdicts, err := r.sendOnce(ctx, s)
		lost = lost || errors.Is(err, errLost)
		return verdicts, err
	}, pauses(), backoff.WithMaxTries(attempts))
	switch {
	case errors.Is(err, errLost), lost && notTaken(err):
		return nil, fmt.Errorf("%w: %w", txn.ErrAmbiguous, err)
	case notTaken(err):
		return nil, fmt.Errorf("%w: %w", txn.ErrNoExecutor, err)
	}
	return verdicts, err
}

// sendOnce tries one node after the other until one takes the submission. After
// a loss the home is asked first again.
func (r *Router) sendOnce(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	none := final(errOpen)
	for p := range r.inOrder(s.Clinic) {
		verdicts, err := r.deliver(ctx, p, s)
		switch {
		case errors.Is(err, errLost):
			return nil, err
		case !notTaken(err):
			return verdicts, final(err)
		case !errors.Is(err, errOpen):
			none = err // there is hope
		}
	}
	return nil, none
}

// inOrder are the nodes that execute a clinic's commands: its home, the one that
// would be home without it, and so on.
func (r *Router) inOrder(clinic ledger.ClinicID) func(yield func(*peer) bool) {
	r.mu.RLock()
	homes := r.homes
	r.mu.RUnlock()
	return func(yield func(*peer) bool) {
		for home, ok := homes.Of(clinic); ok; home, ok = homes.Of(clinic) {
			r.mu.RLock()
			p := r.peers[home.ID]
			r.mu.RUnlock()
			if p != nil && !yield(p) {
				return
			}
			rest := slices.DeleteFunc(slices.Clone(homes.nodes), func(n Node) bool { return n.ID == home.ID })
			homes = NewHomes(rest, homes.pins, homes.regionOf)
		}
	}
}

// breakers tell of each other node whether it is left alone.
type breakers struct{ router *Router }

var breakerState = prometheus.NewDesc("stockledger_peer_breaker_state",
	"Whether another node can be reached, by its name: 0 (closed) yes or not known, 1 (half-open) it is being tried, 2 (open) no, and it is left alone.",
	[]string{"peer"}, nil)

// Describe is for prometheus.
func (b breakers) Describe(to chan<- *prometheus.Desc) { to <- breakerState }

// Collect is for prometheus.
func (b breakers) Collect(to chan<- prometheus.Metric) {
	worst := make(map[string]gobreaker.State) // a node that starts again is there twice for a moment
	b.router.mu.RLock()
	for _, p := range b.router.peers {
		worst[p.name] = max(worst[p.name], p.breaker.State())
	}
	b.router.mu.RUnlock()
	for name, state := range worst {
		to <- prometheus.MustNewConstMetric(breakerState, prometheus.GaugeValue, float64(state), name)
	}
}
