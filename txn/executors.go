package txn

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

// Executors execute the commands of all shards that a directory reaches: each
// shard has an executor and read models of its own, so that one that is slow or
// away holds up none of the others.
type Executors struct {
	directory *Directory
	on        map[*DB]*Executor
	models    map[*DB]*ReadModels
}

// NewExecutors returns an executor for each shard. The limits of cfg are for
// all of them together, where they bound memory, and for each one elsewhere.
// models says how the read models are kept up; nil: by other nodes.
func NewExecutors(d *Directory, cfg ExecutorConfig, models *ReadModelsConfig) *Executors {
	x := &Executors{directory: d, on: make(map[*DB]*Executor), models: make(map[*DB]*ReadModels)}
	cfg.Directory = d
	if cfg.CachedDocuments > 0 {
		cfg.CachedDocuments = max(1, cfg.CachedDocuments/len(d.ids))
	}
	for _, db := range d.shards {
		of := cfg
		if models != nil {
			of.ReadModels = NewReadModels(db, *models)
			x.models[db] = of.ReadModels
		}
		x.on[db] = NewExecutor(db, of)
	}
	return x
}

// RegisterMetrics makes the metrics of all shards known, each under its shard.
func (x *Executors) RegisterMetrics(r prometheus.Registerer) {
	for id, db := range x.directory.shards {
		of := prometheus.WrapRegistererWith(prometheus.Labels{"shard": string(id)}, r)
		x.on[db].RegisterMetrics(of)
		if models := x.models[db]; models != nil {
			models.RegisterMetrics(of)
		}
	}
}

// Submit has commands executed by the executor of their clinic's shard, as
// [Executor.Submit] does. Where the clinic has moved, it follows.
func (x *Executors) Submit(ctx context.Context, s Submission) ([]Verdict, error) {
	if len(s.Commands) == 0 {
		return nil, nil
	}
	db, err := x.home(ctx, s)
	if err != nil {
		return nil, err
	}
	verdicts, err := x.on[db].Submit(ctx, s)
	if !hasMoved(verdicts, err) {
		return verdicts, err
	}
	now, failed := x.directory.Moved(ctx, s.Clinic)
	if failed != nil || now == db {
		return verdicts, err // it is still on its way
	}
	return x.on[now].Submit(ctx, s)
}

// home is the database of a submission's clinic. What is malformed is refused
// on any.
func (x *Executors) home(ctx context.Context, s Submission) (*DB, error) {
	if len(x.on) == 1 {
		return x.directory.main, nil // which looks the clinic up
	}
	return x.directory.locate(ctx, s)
}

// hasMoved reports whether nothing was executed because the clinic is not there
// any more. Commands of one submission can be in several groups, and those that
// came before the seal are executed: they are answered again under their keys.
func hasMoved(verdicts []Verdict, err error) bool {
	return errors.Is(err, ErrMoving) || slices.ContainsFunc(verdicts, func(v Verdict) bool { return errors.Is(v.Err, ErrMoving) })
}

// Run keeps up what follows from commands, recalls and read models, until ctx
// ends; it looks every so often for what other nodes left behind.
func (x *Executors) Run(ctx context.Context, every time.Duration) {
	var running sync.WaitGroup
	for _, e := range x.on {
		running.Go(func() { e.FollowRecalls(ctx, every) })
	}
	for _, m := range x.models {
		running.Go(func() { m.Run(ctx) })
	}
	running.Wait()
}

// Close closes all of them, as [Executor.Close] does.
func (x *Executors) Close(ctx context.Context) error {
	var failed error
	for _, e := range x.on {
		failed = errors.Join(failed, e.Close(ctx))
	}
	return failed
}

// Forget drops the states in memory of clinics that another node executes now.
func (x *Executors) Forget(gone func(ledger.ClinicID) bool) {
	for _, e := range x.on {
		e.Forget(gone)
	}
}

// Load is how busy they are together: commands that wait, and clinics whose
// states are in memory.
func (x *Executors) Load() (waiting, clinics int) {
	for _, e := range x.on {
		w, c := e.Load()
		waiting, clinics = waiting+w, clinics+c
	}
	return waiting, clinics
}

// Heard tells this node's readers of commands that another node executed for a
// caller of this one, before the caller is answered.
func (x *Executors) Heard(verdicts []Verdict) { x.on[x.directory.main].Heard(verdicts) }

// Accepting reports whether submissions are taken.
func (x *Executors) Accepting() bool { return x.on[x.directory.main].Accepting() }
