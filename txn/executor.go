package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

// MaxLinked is the largest number of commands in a linked submission.
const MaxLinked = 500

// Errors of [Executor.Submit] and in a [Verdict], beside [ErrUnavailable],
// [ErrAmbiguous] and *[ledger.Rejection].
var (
	// ErrBusy means that too many commands wait for the clinic. None of the
	// submission was taken; try again after a pause.
	ErrBusy = errors.New("txn: too many commands wait for this clinic")
	// ErrClosed means that the executor is shutting down. None of the
	// submission was taken; try another node.
	ErrClosed = errors.New("txn: this node is shutting down")
	// ErrInternal means that the database itself refused a command, which only
	// a defect can make it do. The command was not carried out.
	ErrInternal = errors.New("txn: the command could not be recorded")
	// ErrNoExecutor means that this process executes nothing itself and no node
	// that does can be reached. None of the submission was taken.
	ErrNoExecutor = errors.New("txn: no node that executes commands can be reached")
)

// ExecutorConfig tunes the execution of commands.
type ExecutorConfig struct {
	// GroupCommands is the largest number of commands in one transaction.
	// Default 1000 on PostgreSQL and 500 on CockroachDB, where larger ones
	// exceed the transaction's intent budget.
	GroupCommands int
	// GroupsInFlight is how many groups may execute at a time. 0 means 2, and 1
	// on a PostgreSQL server whose predicate locks were not enlarged.
	GroupsInFlight int
	// QueueCommands is how many commands may wait for one clinic. Default 4000.
	QueueCommands int
	// CachedDocuments bounds the clinic states kept in memory, counted in
	// documents (lots, stock rows, open holds …) of about 300 bytes. Default
	// 400,000.
	CachedDocuments int
	// ResolveTimeout is how long commands are tried again that another node was
	// in the way of, or looked up whose outcome is unknown, before their callers
	// are told so. Default 5 s.
	ResolveTimeout time.Duration
	// Directory tells which clinics are on this shard. Default: one that knows no
	// other.
	Directory *Directory
	// Feed, where there is one, is told of what this executor commits.
	Feed *Feed
	// Cache, where there is one, is told as well, before anybody is answered.
	Cache *Cache
	// ReadModels, where there are any, are told too.
	ReadModels *ReadModels
	// Clock tells the time of recording. Default time.Now.
	Clock func() time.Time
	// Log gets one line for each defect that costs a command. Default
	// slog.Default().
	Log *slog.Logger
}

func (c ExecutorConfig) withDefaults(db *DB) ExecutorConfig {
	groupCommands := 1000
	if db.server.Kind == CockroachDB {
		groupCommands = 500
	}
	setDefault(&c.GroupCommands, groupCommands)
	setDefault(&c.QueueCommands, 4000)
	setDefault(&c.CachedDocuments, 400_000)
	setDefault(&c.ResolveTimeout, 5*time.Second)
	if c.Directory == nil {
		c.Directory = NewDirectory(db)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// groupsInFlight may change once: when a shard that was away is reached.
func (c ExecutorConfig) groupsInFlight(db *DB) int {
	switch {
	case c.GroupsInFlight > 0:
		return c.GroupsInFlight
	case db.PredicateLocksTuned():
		return 2
	}
	return 1
}

// Submission is a set of commands for one clinic by one actor.
type Submission struct {
	Clinic ledger.ClinicID
	// Commands are executed in their order. Clinic and Actor of each must be
	// those of the submission.
	Commands []ledger.Command
	// Linked makes all commands succeed or fail as one; at most MaxLinked.
	Linked bool
	// Bulk lets interactive commands of the same clinic go first.
	Bulk bool
	// Queued tells that the commands are operations, which are carried out only
	// while they wait and end in the transaction that does it.
	Queued bool
	// Locations, where not empty, are the only ones whose stock the commands
	// may move.
	Locations []ledger.LocationID
	// Permits tells which commands the caller may give. Who decides on another
	// person's command must be permitted to give it. Nil permits all.
	Permits func(ledger.Kind) bool
	// MayBackdate tells that the caller may record what happened before the
	// clinic's window for backdating.
	MayBackdate bool
	// Private are the private texts of commands, by their idempotency keys.
	Private map[string][]PrivateText
	// Refused are commands, by their idempotency keys, that cannot be carried
	// out for a reason that the core does not know. One whose key is bound is
	// answered from the journal all the same.
	Refused map[string]*ledger.Rejection
	// Witnesses are the second persons of the commands, each with the only
	// locations that they are entitled to; none means all.
	Witnesses map[ledger.Actor][]ledger.LocationID
}

// Verdict is the answer to one command: a record, or an error.
type Verdict struct {
	// Record is the accepted command's place in the journal.
	Record ledger.Record
	// Replayed tells that the command was accepted before, under the same key.
	Replayed bool
	// Err is a *[ledger.Rejection], or one of this package's errors.
	Err error
}

// submission is a Submission on its way.
type submission struct {
	Submission
	verdicts []Verdict
	left     atomic.Int64
	done     chan struct{}
}

// answer sets the verdicts of one unit and wakes the caller after the last one.
func (s *submission) answer(first int, verdicts []Verdict) {
	copy(s.verdicts[first:], verdicts)
	if s.left.Add(-int64(len(verdicts))) == 0 {
		close(s.done)
	}
}

// Executor executes the commands of one shard's clinics in groups. It is safe for
// concurrent use.
type Executor struct {
	db      *DB
	cfg     ExecutorConfig
	sql     statements
	homes   *homeCache
	metrics *executorMetrics

	recalled chan struct{} // wakes FollowRecalls

	mu     sync.Mutex
	former *former
	closed bool
	idle   *sync.Cond // no group is in flight and none waits
}

// NewExecutor returns an executor on an open, migrated database.
func NewExecutor(db *DB, cfg ExecutorConfig) *Executor {
	cfg = cfg.withDefaults(db)
	e := &Executor{
		db: db, cfg: cfg,
		sql:      newStatements(db.server.Kind),
		homes:    newHomeCache(cfg.CachedDocuments),
		metrics:  newExecutorMetrics(),
		recalled: make(chan struct{}, 1),
		former: newFormer(formerLimits{
			groupCommands: cfg.GroupCommands, queueCommands: cfg.QueueCommands, inFlight: cfg.groupsInFlight(db),
		}),
	}
	e.idle = sync.NewCond(&e.mu)
	return e
}

// RegisterMetrics makes the executor's metrics known.
func (e *Executor) RegisterMetrics(r prometheus.Registerer) {
	e.metrics.register(r, func() float64 {
		e.mu.Lock()
		defer e.mu.Unlock()
		return float64(e.former.waiting())
	}, e.homes.documents)
}

// Submit executes commands and returns a verdict for each, in their order. It
// returns an error, and has taken nothing, where the whole submission is
// refused. When ctx ends first, it returns ctx's error and the commands go on:
// their outcome is found by sending them again under the same keys.
func (e *Executor) Submit(ctx context.Context, s Submission) ([]Verdict, error) {
	if len(s.Commands) == 0 {
		return nil, nil
	}
	if s.Linked && len(s.Commands) > MaxLinked {
		return nil, fmt.Errorf("txn: %d linked commands were submitted; at most %d are allowed", len(s.Commands), MaxLinked)
	}
	sub := &submission{Submission: s, verdicts: make([]Verdict, len(s.Commands)), done: make(chan struct{})}
	units := e.units(sub)
	if len(units) == 0 {
		return sub.verdicts, nil
	}
	if err := e.locate(ctx, s); err != nil {
		return nil, err
	}
	if err := e.enqueue(sub, units); err != nil {
		return nil, err
	}
	select {
	case <-sub.done:
		return sub.verdicts, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("txn: the caller left before the commands ended: %w", ctx.Err())
	}
}

// units splits a submission into what is accepted or rejected as one, and
// answers what is malformed at once: no state and no key could change that.
func (e *Executor) units(sub *submission) []*unit {
	if sub.Linked {
		for i, c := range sub.Commands {
			if r := check(sub, c); r != nil {
				rejectLinked(sub.verdicts, i, r)
				return nil
			}
		}
		sub.left.Store(int64(len(sub.Commands)))
		return []*unit{{submission: sub, commands: sub.Commands}}
	}
	units := make([]*unit, 0, len(sub.Commands))
	all := make([]unit, len(sub.Commands))
	for i, c := range sub.Commands {
		if r := check(sub, c); r != nil {
			sub.verdicts[i].Err = r
			continue
		}
		all[i] = unit{submission: sub, first: i, commands: sub.Commands[i : i+1]}
		units = append(units, &all[i])
	}
	sub.left.Store(int64(len(units)))
	return units
}

func check(sub *submission, c ledger.Command) *ledger.Rejection {
	if c.Clinic != sub.Clinic {
		return &ledger.Rejection{
			Reason: ledger.ReasonInvalidField, Field: "clinic_id",
			Message: fmt.Sprintf("The command is for clinic %q, and it was submitted for %q.", c.Clinic, sub.Clinic),
		}
	}
	return ledger.Check(c)
}

// rejectLinked sets the verdicts of a linked batch one of whose commands was
// rejected.
func rejectLinked(verdicts []Verdict, offender int, cause *ledger.Rejection) {
	for i := range verdicts {
		if i == offender {
			verdicts[i] = Verdict{Err: cause}
			continue
		}
		verdicts[i] = Verdict{Err: &ledger.Rejection{
			Reason:   ledger.ReasonLinkedCommandRejected,
			Message:  fmt.Sprintf("Command %d of the linked batch was rejected (%s).", offender+1, cause.Reason),
			Metadata: map[string]string{"rejected_index": fmt.Sprint(offender), "rejected_reason": string(cause.Reason)},
		}}
	}
}

// locate makes sure that the clinic is on this shard. A clinic that is about to
// be created gets its place in the directory first.
func (e *Executor) locate(ctx context.Context, s Submission) error {
	db, err := e.cfg.Directory.locate(ctx, s)
	if err == nil && db != e.db {
		return fmt.Errorf("clinic %s: %w", s.Clinic, ErrMoving)
	}
	return err
}

func (e *Executor) enqueue(sub *submission, units []*unit) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return ErrClosed
	}
	e.former.limits.inFlight = e.cfg.groupsInFlight(e.db)
	start, accepted := e.former.arrive(sub.Clinic, units, sub.Bulk)
	e.mu.Unlock()
	if !accepted {
		e.metrics.busy.Inc()
		return ErrBusy
	}
	e.start(start)
	return nil
}

func (e *Executor) start(groups []*group) {
	for _, g := range groups {
		go e.drive(g)
	}
}

// drive executes a group and then whatever its end sets free.
func (e *Executor) drive(g *group) {
	for {
		e.run(g)
		// Let the callers who were just answered come back with their next
		// command before the next group closes.
		runtime.Gosched()
		e.mu.Lock()
		start := e.former.finish(g)
		if e.former.inFlight == 0 {
			e.idle.Broadcast()
		}
		e.mu.Unlock()
		if len(start) == 0 {
			return
		}
		e.start(start[1:])
		g = start[0]
	}
}

// Close refuses new submissions and waits until those under way are answered,
// or ctx ends.
func (e *Executor) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.idle.Broadcast()
	})
	defer stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for e.former.inFlight > 0 && ctx.Err() == nil {
		e.idle.Wait()
	}
	if e.former.inFlight > 0 {
		return fmt.Errorf("txn: %d groups were still executing: %w", e.former.inFlight, ctx.Err())
	}
	return nil
}

// Forget drops the states in memory of clinics that another node executes now.
func (e *Executor) Forget(gone func(ledger.ClinicID) bool) { e.homes.drop(gone) }

// Load is how busy the executor is: commands that wait, and clinics whose states
// are in memory.
func (e *Executor) Load() (waiting, clinics int) {
	e.mu.Lock()
	waiting = e.former.waiting()
	e.mu.Unlock()
	return waiting, e.homes.clinics()
}

// Heard tells this node's readers of commands that another node executed for a
// caller of this one, before the caller is answered.
func (e *Executor) Heard(verdicts []Verdict) {
	for _, v := range verdicts {
		if v.Err != nil || v.Replayed {
			continue
		}
		event := v.Record.Event
		if e.cfg.Cache != nil {
			e.cfg.Cache.heard(event)
		}
		if e.cfg.Feed != nil {
			e.cfg.Feed.heard(event.Clinic, event.Sequence)
		}
	}
}

// Accepting reports whether the executor takes submissions.
func (e *Executor) Accepting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.closed
}
