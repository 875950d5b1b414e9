package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// aisle is a clinic whose operations are carried out by hand.
type aisle struct {
	*testClinic
	ops *Operations
}

func newAisle(t *testing.T) *aisle {
	t.Helper()
	c := newTestClinic(t, testExecutorOn(t, testDB(t), ExecutorConfig{}))
	c.receive(1000)
	return &aisle{c, NewOperations(NewDirectory(c.e.db))}
}

func (a *aisle) issueOf(key string, quantity int64) NewOperation {
	return NewOperation{Priority: NormalPriority, Submission: []byte(key), Command: ledger.Command{
		Clinic: a.id, Actor: "amina", IdempotencyKey: key,
		Body: &ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: quantity, ReasonCode: "WARD"},
	}}
}

func (a *aisle) submit(t *testing.T, operations ...NewOperation) []SubmittedOperation {
	t.Helper()
	submitted, err := a.ops.Submit(t.Context(), a.id, operations, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return submitted
}

func (a *aisle) carryOut(e *Executor, n NewOperation) Verdict {
	verdicts, err := e.Submit(context.Background(), Submission{Clinic: a.id, Commands: []ledger.Command{n.Command}, Queued: true})
	if err != nil {
		return Verdict{Err: err}
	}
	return verdicts[0]
}

func (a *aisle) available(t *testing.T) int64 {
	t.Helper()
	stock, _, err := NewQueries(NewDirectory(a.e.db)).Stock(t.Context(), a.id, ledger.Shelf{Location: "store", Medicine: "zinc"}, ReadOptions{Consistency: Strong})
	if err != nil {
		t.Fatal(err)
	}
	return stock.Totals.Available
}

func (a *aisle) state(t *testing.T, key string) Operation {
	t.Helper()
	op, ok, err := a.ops.Get(t.Context(), a.id, key)
	if err != nil || !ok {
		t.Fatal(key, ok, err)
	}
	return op
}

func TestOperationEndsWhereItIsCarriedOut(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	few, many := a.issueOf("few", 3), a.issueOf("many", 100_000)
	for _, s := range a.submit(t, few, many) {
		if s.Err != nil || s.Repeated || s.State != OperationWaiting {
			t.Errorf("submitted: %+v", s)
		}
	}
	if v := a.carryOut(a.e, few); v.Err != nil || v.Replayed {
		t.Errorf("carried out: %+v", v)
	}
	if op := a.state(t, "few"); op.State != OperationAccepted || op.Sequence == 0 || op.FinishedAt.IsZero() || op.Failure != nil {
		t.Errorf("it is %+v", op)
	}
	var rejection *ledger.Rejection
	if v := a.carryOut(a.e, many); !errors.As(v.Err, &rejection) {
		t.Errorf("too many: %+v", v)
	}
	if op := a.state(t, "many"); op.State != OperationRejected || op.Failure == nil || op.Failure.Reason != ledger.ReasonInsufficientStock || op.Failure.Metadata["available"] != rejection.Metadata["available"] {
		t.Errorf("it is %+v", op)
	}
	// Again, it is found where it is, and is not done again.
	if v := a.carryOut(a.e, few); !errors.Is(v.Err, ErrNotQueued) {
		t.Errorf("carried out again: %+v", v)
	}
	again := a.submit(t, few, a.issueOf("many", 4))
	if !again[0].Repeated || again[0].State != OperationAccepted {
		t.Errorf("submitted again: %+v", again[0])
	}
	if !errors.As(again[1].Err, &rejection) || rejection.Reason != ledger.ReasonIdempotencyKeyReused {
		t.Errorf("another command under the key: %+v", again[1])
	}
	// A key that a direct command has is answered from the journal.
	direct := a.issueOf("direct", 1)
	if _, err := a.e.Submit(t.Context(), Submission{Clinic: a.id, Commands: []ledger.Command{direct.Command}}); err != nil {
		t.Fatal(err)
	}
	a.submit(t, direct)
	if v := a.carryOut(a.e, direct); v.Err != nil || !v.Replayed {
		t.Errorf("done before: %+v", v)
	}
	if op := a.state(t, "direct"); op.State != OperationAccepted || op.Sequence == 0 {
		t.Errorf("it is %+v", op)
	}
	if _, err := a.ops.Submit(t.Context(), "nowhere", []NewOperation{few}, time.Now()); !errors.As(err, &rejection) || rejection.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("at no clinic: %v", err)
	}
}

// Cancelling, carrying out at two nodes and submitting again meet in the
// database: each operation ends once, and what it says is what happened.
func TestOperationsEndOnce(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	other := testExecutorOn(t, a.e.db, ExecutorConfig{})
	const each = 60
	var operations []NewOperation
	for i := range each {
		operations = append(operations, a.issueOf(fmt.Sprint("o", i), 1))
	}
	a.submit(t, operations...)
	before := a.available(t)
	var done, cancelled atomic.Int64
	var wg sync.WaitGroup
	for _, n := range operations {
		for _, e := range []*Executor{a.e, other} {
			wg.Go(func() {
				if v := a.carryOut(e, n); v.Err == nil && !v.Replayed {
					done.Add(1)
				} else if v.Err != nil && !errors.Is(v.Err, ErrNotQueued) {
					t.Error(v.Err)
				}
			})
		}
		wg.Go(func() {
			op, ok, err := a.ops.Cancel(context.Background(), a.id, n.Command.IdempotencyKey, time.Now())
			if err != nil || !ok {
				t.Error(ok, err)
			}
			if op.State == OperationCancelled {
				cancelled.Add(1)
			}
		})
		wg.Go(func() {
			if _, err := a.ops.Submit(context.Background(), a.id, []NewOperation{n}, time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done.Load()+cancelled.Load() != each {
		t.Errorf("%d operations were carried out and %d cancelled of %d", done.Load(), cancelled.Load(), each)
	}
	if used := before - a.available(t); used != done.Load() {
		t.Errorf("%d units are gone for %d operations", used, done.Load())
	}
	ended := map[OperationState]int64{}
	for i := range each {
		ended[a.state(t, fmt.Sprint("o", i)).State]++
	}
	if ended[OperationAccepted] != done.Load() || ended[OperationCancelled] != cancelled.Load() {
		t.Errorf("they say %v; %d were carried out and %d cancelled", ended, done.Load(), cancelled.Load())
	}
}

func TestOperationsWaitTheirTurn(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	begin := time.Now().Truncate(time.Microsecond)
	for i, p := range []Priority{LowPriority, HighPriority, NormalPriority, HighPriority} {
		n := a.issueOf(fmt.Sprint("o", i), 1)
		n.Priority = p
		if _, err := a.ops.Submit(t.Context(), a.id, []NewOperation{n}, begin.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	late := begin.Add(time.Hour)
	next := func(p Priority, after OperationPlace, now time.Time) (keys []string) {
		t.Helper()
		ops, err := a.ops.Next(t.Context(), a.id, p, after, now, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range ops {
			if string(q.Submission) != q.IdempotencyKey {
				t.Errorf("%s came back with %q", q.IdempotencyKey, q.Submission)
			}
			keys = append(keys, q.IdempotencyKey)
		}
		return keys
	}
	want := func(got []string, keys ...string) {
		t.Helper()
		if !slices.Equal(got, keys) {
			t.Errorf("%v waits, not %v", got, keys)
		}
	}
	want(next(HighPriority, OperationPlace{}, late), "o1", "o3")
	want(next(HighPriority, OperationPlace{begin.Add(time.Second), "o1"}, late), "o3")
	want(next(HighPriority, OperationPlace{}, begin.Add(2*time.Second)), "o1")
	want(next(LowPriority, OperationPlace{}, late), "o0")
	if clinics, err := a.ops.WaitingClinics(t.Context()); err != nil || !slices.Contains(clinics, a.id) || !slices.IsSorted(clinics) {
		t.Errorf("at %v something waits, %v", clinics, err)
	}
	if depths, err := a.ops.Depths(t.Context()); err != nil || len(depths) < 3 {
		t.Errorf("the depths are %v, %v", depths, err)
	}

	trouble := &ledger.Rejection{Reason: "INTERNAL", Message: "It did not work."}
	if err := a.ops.Postpone(t.Context(), a.state(t, "o1"), trouble, begin.Add(2*time.Hour), begin); err != nil {
		t.Fatal(err)
	}
	want(next(HighPriority, OperationPlace{}, late), "o3")
	if op := a.state(t, "o1"); op.Attempts != 1 || op.State != OperationWaiting || op.Failure.Message != trouble.Message {
		t.Errorf("postponed, it is %+v", op)
	}
	if err := a.ops.Postpone(t.Context(), a.state(t, "o3"), trouble, time.Time{}, begin); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := a.ops.Cancel(t.Context(), a.id, "o0", begin); err != nil || !ok {
		t.Fatal(ok, err)
	}
	list := func(filter OperationFilter, before OperationPlace, limit int) (keys []string) {
		t.Helper()
		ops, err := a.ops.List(t.Context(), a.id, filter, before, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			keys = append(keys, op.IdempotencyKey)
		}
		return keys
	}
	end := OperationPlace{SubmittedAt: ledger.MaxDate.Time()}
	want(list(OperationFilter{}, end, 3), "o3", "o2", "o1")
	want(list(OperationFilter{}, OperationPlace{begin.Add(time.Second), "o1"}, 3), "o0")
	want(list(OperationFilter{State: OperationFailed}, end, 3), "o3")
	want(list(OperationFilter{State: OperationWaiting}, end, 3), "o2", "o1")
	want(list(OperationFilter{Actor: "nobody"}, end, 3))
	if op, _, err := a.ops.Resubmit(t.Context(), a.id, "o3", begin); err != nil || op.State != OperationWaiting || op.Attempts != 0 || op.Failure != nil {
		t.Errorf("submitted again, it is %+v, %v", op, err)
	}
	want(next(HighPriority, OperationPlace{}, late), "o3")
	if err := a.ops.Forget(t.Context(), Term{}, a.id, late); err != nil {
		t.Fatal(err)
	}
	want(list(OperationFilter{}, end, 9), "o2", "o1", "o3")
	if _, ok, err := a.ops.Get(t.Context(), a.id, "o0"); ok || err != nil {
		t.Error("what ended is there still", err)
	}
}

// TestPlansOfOperations explains what keeps and takes operations.
func TestPlansOfOperations(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(1000)
	a, e, ctx := &aisle{c, NewOperations(NewDirectory(db))}, testExecutorOn(t, db, ExecutorConfig{}), t.Context()
	var operations []NewOperation
	for i := range 500 {
		operations = append(operations, a.issueOf(fmt.Sprint("o", i), 1))
	}
	a.submit(t, operations...)
	if _, err := testDB(t).write.Exec(ctx, "ANALYZE operations"); err != nil {
		t.Fatal(err)
	}
	const (
		key     = "operations_pkey(clinic_id, idempotency_key)"
		waiting = "operations_waiting(clinic_id, priority, submitted_at)"
		byState = "operations_by_state(clinic_id, state, submitted_at)"
		heads   = "heads_pkey(clinic_id)"
		sealed  = "sealed_clinics_pkey(clinic_id)"
		reports = "reports_pkey(clinic_id, idempotency_key)"
	)
	read.take()
	write.take()
	p.check(wantPlan{"submit", func() error {
		_, err := a.ops.Submit(ctx, c.id, []NewOperation{a.issueOf("new", 1), operations[0]}, time.Now())
		return err
	}, []string{key, sealed}}, writeSession)
	p.check(wantPlan{"take", func() error {
		_, err := a.ops.Next(ctx, c.id, NormalPriority, OperationPlace{}, time.Now(), 50)
		return err
	}, []string{waiting, sealed}}, readSession)
	p.check(wantPlan{"take what is high", func() error {
		_, err := a.ops.Next(ctx, c.id, HighPriority, OperationPlace{}, time.Now(), 50)
		return err
	}, []string{waiting, sealed}}, readSession)
	p.check(wantPlan{"the clinics", func() error {
		_, err := a.ops.WaitingClinics(ctx)
		return err
	}, []string{"operations_waiting(clinic_id)"}}, readSession)
	p.check(wantPlan{"get", func() error {
		_, _, err := a.ops.Get(ctx, c.id, "o1")
		return err
	}, []string{key, sealed}}, readSession)
	p.check(wantPlan{"list", func() error {
		_, err := a.ops.List(ctx, c.id, OperationFilter{State: OperationCancelled}, OperationPlace{SubmittedAt: time.Now()}, 20)
		return err
	}, []string{byState, sealed}}, readSession)
	p.check(wantPlan{"carry out", func() error {
		return errors.Join(a.carryOut(e, operations[1]).Err, a.carryOut(e, operations[2]).Err)
	}, []string{key, heads, "journal_pkey(clinic_id, sequence)", "journal_idempotency_key(clinic_id, idempotency_key)", "stock_pkey(conflict)", "heads_pkey(conflict)"}}, writeSession)
	p.check(wantPlan{"cancel", func() error {
		_, _, err := a.ops.Cancel(ctx, c.id, "o3", time.Now())
		return err
	}, []string{key, sealed}}, writeSession)
	p.check(wantPlan{"postpone", func() error {
		return a.ops.Postpone(ctx, a.state(t, "o4"), &ledger.Rejection{Reason: "INTERNAL"}, time.Now(), time.Now())
	}, []string{key, sealed}}, writeSession)
	p.check(wantPlan{"resubmit", func() error {
		_, _, err := a.ops.Resubmit(ctx, c.id, "o3", time.Now())
		return err
	}, []string{key, sealed, reports}}, writeSession)
	p.check(wantPlan{"forget", func() error { return a.ops.Forget(ctx, Term{}, c.id, time.Now()) }, []string{byState, sealed}}, writeSession)
	read.take()
	p.check(wantPlan{"what it came to", func() error {
		_, _, err := a.ops.Record(ctx, c.id, "o1")
		return err
	}, []string{"journal_idempotency_key(clinic_id, idempotency_key)", sealed}}, readSession)
}
