package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/txn"
)

// EncodeSubmission is how the submission of an operation is kept until a
// [Dispatcher] has it carried out.
func EncodeSubmission(s txn.Submission) ([]byte, error) { return proto.Marshal(submissionToWire(s, 0)) }

func decodeSubmission(stored []byte) (txn.Submission, error) {
	w := &peerv1.Submission{}
	if err := proto.Unmarshal(stored, w); err != nil {
		return txn.Submission{}, err
	}
	s, err := submissionFromWire(w)
	if err == nil && len(s.Commands) != 1 {
		err = fmt.Errorf("it has %d commands", len(s.Commands))
	}
	return s, err
}

// DispatcherConfig tunes the carrying out of operations.
type DispatcherConfig struct {
	// Batch is how many operations of a clinic are carried out at a time.
	// Default 128.
	Batch int
	// Clinics is how many clinics' operations are. Default 16.
	Clinics int
	// LookEvery is how often clinics are looked for that nobody told of. Default
	// 5 s.
	LookEvery time.Duration
	// Attempts is how often an operation is tried that comes to no verdict, with
	// pauses that begin at RetryAfter and double. Default 10, and 1 s.
	Attempts   int
	RetryAfter time.Duration
	// Reports is how many reports are read at a time, each of another clinic.
	// Default 2.
	Reports int
	// ReportBytes is how large a report's result may become. Default 1 GiB.
	ReportBytes int64
	Log         *slog.Logger
}

// Dispatcher has the operations of this node's clinics carried out, high
// priority before normal before low, and reports beside them.
type Dispatcher struct {
	ops     *txn.Operations
	local   txn.Submitter
	router  *Router
	reports ReportReader // nil: another node reads them
	cfg     DispatcherConfig
	metrics *dispatcherMetrics
	places  map[laneKind]chan struct{} // one for each clinic at a time

	countAfter time.Time // when what waits may be counted again; of Run alone

	mu      sync.Mutex
	ctx     context.Context               // of Run; nil while that does not run
	lanes   map[laneID]bool               // whether it was woken since it last rested
	urgent  map[ledger.ClinicID]time.Time // when something of high priority was last taken
	running sync.WaitGroup
}

// laneKind tells a clinic's lanes apart. What is of high priority has a lane of
// its own, so that it never waits for other operations to end, and so have
// reports, so that nothing waits for them.
type laneKind int

const (
	commandLane laneKind = iota
	urgentLane
	reportLane
)

func laneOf(p txn.Priority) laneKind {
	switch p {
	case txn.HighPriority:
		return urgentLane
	case txn.ReportPriority:
		return reportLane
	}
	return commandLane
}

// laneID names a lane of a clinic.
type laneID struct {
	clinic ledger.ClinicID
	kind   laneKind
}

// NewDispatcher returns a dispatcher that does nothing until [Dispatcher.Run].
func NewDispatcher(ops *txn.Operations, local txn.Submitter, router *Router, cfg DispatcherConfig) *Dispatcher {
	if cfg.Batch == 0 {
		cfg.Batch = 128
	}
	if cfg.Clinics == 0 {
		cfg.Clinics = 16
	}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = 5 * time.Second
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 10
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = time.Second
	}
	if cfg.Reports == 0 {
		cfg.Reports = 2
	}
	if cfg.ReportBytes == 0 {
		cfg.ReportBytes = 1 << 30
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Dispatcher{
		ops: ops, local: local, router: router, cfg: cfg, metrics: newDispatcherMetrics(),
		places: map[laneKind]chan struct{}{
			commandLane: make(chan struct{}, cfg.Clinics), urgentLane: make(chan struct{}, cfg.Clinics), reportLane: make(chan struct{}, cfg.Reports),
		},
		lanes: make(map[laneID]bool), urgent: make(map[ledger.ClinicID]time.Time),
	}
}

// RegisterMetrics makes the dispatcher's metrics known.
func (d *Dispatcher) RegisterMetrics(to prometheus.Registerer) { d.metrics.register(to) }

// Run has operations carried out until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		d.mu.Lock()
		d.ctx = nil
		d.mu.Unlock()
		cancel()
		d.running.Wait()
	}()
	d.mu.Lock()
	d.ctx = ctx
	d.mu.Unlock()
	tick := time.NewTicker(d.cfg.LookEvery)
	defer tick.Stop()
	for {
		if err := d.look(ctx); err != nil && ctx.Err() == nil {
			d.cfg.Log.Warn("operations cannot be looked for; trying again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look finds the clinics at which something waits.
func (d *Dispatcher) look(ctx context.Context) error {
	clinics, err := d.ops.WaitingClinics(ctx)
	for _, clinic := range clinics {
		if d.router.executesHere(clinic) {
			d.Wake(clinic)
		}
	}
	if err != nil {
		return err
	}
	return d.count(ctx)
}

// countShare is how much of the time may go into counting what waits, where that
// is much: one part in so many.
const countShare = 100

// count tells the metrics what waits.
func (d *Dispatcher) count(ctx context.Context) error {
	began := time.Now()
	if began.Before(d.countAfter) {
		return nil
	}
	defer func() { d.countAfter = time.Now().Add(countShare * time.Since(began)) }()
	depths, err := d.ops.Depths(ctx)
	if err != nil {
		return err
	}
	letters, err := d.ops.DeadLetters(ctx)
	if err != nil {
		return err
	}
	d.metrics.waits(depths, letters, time.Now())
	return nil
}

// Submitted tells the clinic's home that operations of a priority wait.
func (d *Dispatcher) Submitted(clinic ledger.ClinicID, p txn.Priority) {
	if d.router.executesHere(clinic) {
		d.wakeLanes(clinic, laneOf(p))
		return
	}
	// Where that does not arrive, the home finds them by itself.
	go d.router.wake(clinic)
}

// Wake has this node look at a clinic now.
func (d *Dispatcher) Wake(clinic ledger.ClinicID) {
	d.wakeLanes(clinic, urgentLane, commandLane, reportLane)
}

func (d *Dispatcher) wakeLanes(clinic ledger.ClinicID, kinds ...laneKind) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil {
		return
	}
	for _, kind := range kinds {
		if kind != reportLane || d.reports != nil {
			d.wake(d.ctx, laneID{clinic, kind})
		}
	}
}

func (d *Dispatcher) wake(ctx context.Context, id laneID) {
	_, running := d.lanes[id]
	d.lanes[id] = true
	if running {
		return
	}
	d.running.Go(func() {
		places := d.places[id.kind]
		for again := true; again; {
			select {
			case places <- struct{}{}:
				if id.kind == reportLane {
					again = d.readReports(ctx, id)
				} else {
					d.drain(ctx, id)
					again = false
				}
				<-places
			case <-ctx.Done():
				return
			}
		}
	})
}

// rest ends the work in a lane, unless it was woken since the last time.
func (d *Dispatcher) rest(id laneID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lanes[id] {
		d.lanes[id] = false
		return false
	}
	delete(d.lanes, id)
	return true
}

// lane is where the operations of a clinic are taken from.
type lane struct {
	laneID
	// after is, by priority, where it stands: looking again through those that
	// have ended would take time.
	after map[txn.Priority]txn.OperationPlace
	began time.Time // at the first operation
}

// beginAgainAfter is how long a lane goes on from where it stands. An operation
// may become visible later than others that were submitted after it.
const beginAgainAfter = 2 * time.Second

func (l *lane) beginAgain() {
	clear(l.after)
	l.began = time.Now()
}

// drain carries out what waits in a lane, until nothing is due.
func (d *Dispatcher) drain(ctx context.Context, id laneID) {
	l := &lane{laneID: id, after: make(map[txn.Priority]txn.OperationPlace), began: time.Now()}
	wait := d.cfg.RetryAfter / 16
	for ctx.Err() == nil && d.router.executesHere(id.clinic) {
		if time.Since(l.began) > beginAgainAfter {
			l.beginAgain()
		}
		whole, began := len(l.after) == 0, time.Now()
		batch, err := d.take(ctx, l)
		switch {
		case err == nil && len(batch) == 0 && whole:
			if d.rest(id) {
				return
			}
		case err == nil && len(batch) == 0:
			l.beginAgain()
		case err == nil && d.carryOut(ctx, batch) > 0:
			wait = d.cfg.RetryAfter / 16
			if id.kind == urgentLane && len(batch) < d.cfg.Batch {
				// That was all. Who submits more wakes the lane.
				if l.beginAgain(); d.rest(id) {
					return
				}
			}
			d.makeWay(ctx, id, began)
		default: // the database is away, or the clinic has too much to do
			l.beginAgain()
			pause(ctx, wait)
			wait = min(2*wait, 5*time.Second)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lanes, id)
}

// recently is for how long after one of high priority the others make way.
const recently = time.Second

// shares divides a batch between normal and low priority, none of which ever
// waits for ever. Of what is low, little is taken at a time, and of everything
// while something urgent comes: what comes meanwhile waits for it to end.
func shares(batch int, urgent bool) (normal, low int) {
	if urgent {
		return max(batch/16, 1), max(batch/32, 1)
	}
	return batch, max(batch/4, 1)
}

func (d *Dispatcher) noteUrgent(clinic ledger.ClinicID, some bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if some {
		d.urgent[clinic] = now
	} else if now.Sub(d.urgent[clinic]) > recently {
		delete(d.urgent, clinic)
	}
}

// way is how much of the time the others leave to what is urgent, as a multiple
// of what they take themselves.
const way = 4

// makeWay has a lane pause while something urgent comes, after work that began at
// a moment: what is urgent shares the machine with it, even where it does not
// wait for it.
func (d *Dispatcher) makeWay(ctx context.Context, id laneID, began time.Time) {
	if now := time.Now(); id.kind != urgentLane && d.isUrgent(id.clinic, now) {
		pause(ctx, min(way*now.Sub(began), recently))
	}
}

func (d *Dispatcher) isUrgent(clinic ledger.ClinicID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now.Sub(d.urgent[clinic]) < recently
}

// take reads what is to be carried out next.
func (d *Dispatcher) take(ctx context.Context, l *lane) ([]txn.QueuedOperation, error) {
	now := time.Now()
	next := func(p txn.Priority, limit int) ([]txn.QueuedOperation, error) {
		ops, err := d.ops.Next(ctx, l.clinic, p, l.after[p], now, limit)
		if n := len(ops); n > 0 {
			l.after[p] = txn.OperationPlace{SubmittedAt: ops[n-1].SubmittedAt, IdempotencyKey: ops[n-1].IdempotencyKey}
		}
		return ops, err
	}
	if l.kind == urgentLane {
		high, err := next(txn.HighPriority, d.cfg.Batch)
		d.noteUrgent(l.clinic, len(high) > 0, now)
		return high, err
	}
	forNormal, forLow := shares(d.cfg.Batch, d.isUrgent(l.clinic, now))
	normal, err := next(txn.NormalPriority, forNormal)
	if err != nil {
		return nil, err
	}
	if len(normal) > 0 {
		forLow = max(d.cfg.Batch/32, 1)
	}
	low, err := next(txn.LowPriority, forLow)
	return append(normal, low...), err
}

// carryOut has operations carried out, and tells how many of them came to
// something.
func (d *Dispatcher) carryOut(ctx context.Context, batch []txn.QueuedOperation) int {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		ended int
	)
	for _, op := range batch {
		submission, err := decodeSubmission(op.Submission)
		if err != nil {
			d.cfg.Log.Warn("an operation was submitted that this node cannot read", "clinic", op.Clinic, "idempotency_key", op.IdempotencyKey, "error", err)
			d.postpone(ctx, op, &ledger.Rejection{Reason: "INTERNAL", Message: "The operation was submitted through a later release and cannot be read by this one."})
			continue
		}
		submission.Queued, submission.Bulk = true, op.Priority == txn.LowPriority
		all.Go(func() {
			if !d.settle(ctx, op, submission) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ended++
		})
	}
	all.Wait()
	return ended
}

// settle has one operation carried out and reports whether that came to
// something.
func (d *Dispatcher) settle(ctx context.Context, op txn.QueuedOperation, s txn.Submission) bool {
	if r := ledger.Check(s.Commands[0]); r != nil { // by the rules of this release
		d.fail(ctx, op, r)
		return true
	}
	verdicts, err := d.local.Submit(ctx, s)
	if err == nil {
		err = verdicts[0].Err
	}
	var rejection *ledger.Rejection
	switch {
	case err == nil:
		d.metrics.end(op, "accepted")
	case errors.As(err, &rejection):
		d.metrics.end(op, "rejected")
	case errors.Is(err, txn.ErrNotQueued):
		d.metrics.end(op, "gone")
	case errors.Is(err, txn.ErrInternal):
		d.postpone(ctx, op, &ledger.Rejection{Reason: "INTERNAL", Message: "Something went wrong inside the ledger."})
	case errors.Is(err, txn.ErrRestoring):
		d.postpone(ctx, op, &ledger.Rejection{Reason: "CLINIC_RESTORING", Message: "The clinic is being restored."})
	default:
		return false
	}
	return true
}

// postpone has an operation tried again later, unless it was often enough.
func (d *Dispatcher) postpone(ctx context.Context, op txn.QueuedOperation, cause *ledger.Rejection) {
	if op.Attempts+1 >= d.cfg.Attempts {
		d.fail(ctx, op, cause)
		return
	}
	now := time.Now()
	due := now.Add(min(d.cfg.RetryAfter<<op.Attempts, 5*time.Minute))
	if err := d.ops.Postpone(ctx, op.Operation, cause, due, now); err != nil {
		d.cfg.Log.Debug("an operation cannot be postponed", "error", err)
	}
	d.metrics.end(op, "postponed")
}

func (d *Dispatcher) fail(ctx context.Context, op txn.QueuedOperation, cause *ledger.Rejection) {
	d.cfg.Log.Error("an operation failed for good; see what it says, and resubmit it once the cause is gone",
		"clinic", op.Clinic, "idempotency_key", op.IdempotencyKey, "kind", op.Kind, "reason", cause.Reason)
	if err := d.ops.Postpone(ctx, op.Operation, cause, time.Time{}, time.Now()); err != nil {
		d.cfg.Log.Debug("an operation cannot be ended", "error", err)
	}
	d.metrics.end(op, "failed")
}

type dispatcherMetrics struct {
	waiting, oldest   *prometheus.GaugeVec
	failed, failedAge prometheus.Gauge
	ended             *prometheus.CounterVec
}

func newDispatcherMetrics() *dispatcherMetrics {
	return &dispatcherMetrics{
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stockledger_operations_waiting",
			Help: "Operations that wait at all clinics, by priority, and reports, as of some seconds ago. A value that only grows means that more is submitted than is carried out.",
		}, []string{"priority"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stockledger_operations_oldest_seconds",
			Help: "How long the oldest waiting operation has waited, by priority.",
		}, []string{"priority"}),
		failed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stockledger_operations_dead_letters",
			Help: "Operations of all clinics that failed again and again and are not tried any more. Any value above zero needs an operator: see what they say, and resubmit or leave them.",
		}),
		failedAge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stockledger_operations_dead_letters_oldest_seconds",
			Help: "How long ago the oldest dead letter failed for good.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_operations_total",
			Help: "Operations that this node took, by priority and by what became of them: accepted, rejected, gone (ended before), postponed, failed.",
		}, []string{"priority", "outcome"}),
	}
}

func (m *dispatcherMetrics) register(to prometheus.Registerer) {
	to.MustRegister(m.waiting, m.oldest, m.failed, m.failedAge, m.ended)
}

func (m *dispatcherMetrics) waits(depths []txn.Depth, letters txn.DeadLetters, now time.Time) {
	m.failed.Set(float64(letters.Count))
	m.failedAge.Set(0)
	if letters.Count > 0 {
		m.failedAge.Set(max(0, now.Sub(letters.Oldest).Seconds()))
	}
	for _, p := range append(txn.Priorities(), txn.ReportPriority) {
		var waiting, age float64
		for _, depth := range depths {
			if depth.Priority == p {
				waiting, age = float64(depth.Waiting), max(0, now.Sub(depth.Oldest).Seconds())
			}
		}
		m.waiting.WithLabelValues(p.String()).Set(waiting)
		m.oldest.WithLabelValues(p.String()).Set(age)
	}
}

func (m *dispatcherMetrics) end(op txn.QueuedOperation, outcome string) {
	m.ended.WithLabelValues(op.Priority.String(), outcome).Inc()
}
