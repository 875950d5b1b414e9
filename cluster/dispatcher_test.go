package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// dispatching runs a node's dispatcher until the test ends.
func (r *testRouter) dispatching(tb testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.dispatcher.Run(ctx) })
	tb.Cleanup(func() { cancel(); running.Wait() })
}

func operation(tb testing.TB, clinic ledger.ClinicID, key string, p txn.Priority, body ledger.CommandBody) txn.NewOperation {
	tb.Helper()
	command := ledger.Command{Clinic: clinic, IdempotencyKey: key, Actor: "amina", Body: body}
	stored, err := EncodeSubmission(txn.Submission{Clinic: clinic, Commands: []ledger.Command{command}})
	if err != nil {
		tb.Fatal(err)
	}
	return txn.NewOperation{Command: command, Priority: p, Submission: stored}
}

func receiving(quantity int64) *ledger.ReceiveStock {
	return &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: quantity}
}

func submitTo(tb testing.TB, db *txn.DB, clinic ledger.ClinicID, ops ...txn.NewOperation) {
	tb.Helper()
	submitted, err := txn.NewOperations(txn.NewDirectory(db)).Submit(tb.Context(), clinic, ops, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range submitted {
		if s.Err != nil {
			tb.Fatal(s.Err)
		}
	}
}

func ended(tb testing.TB, db *txn.DB, clinic ledger.ClinicID, key string, state txn.OperationState) {
	tb.Helper()
	var op txn.Operation
	eventually(tb, fmt.Sprint(key, " ends as ", state), func() bool {
		var err error
		if op, _, err = txn.NewOperations(txn.NewDirectory(db)).Get(context.Background(), clinic, key); err != nil {
			tb.Fatal(err)
		}
		return op.State == state
	})
}

// What is submitted anywhere is carried out at the clinic's home.
func TestOperationsAreCarriedOutAtHome(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	meet(map[ledger.ClinicID]string{clinic: "b"}, a, b)
	eventually(t, "a forgets the clinic", func() bool { _, kept := a.executor.Load(); return kept == 0 })
	a.dispatching(t)
	b.dispatching(t)
	eventually(t, "b has nothing to do", func() bool {
		b.dispatcher.mu.Lock()
		defer b.dispatcher.mu.Unlock()
		return b.dispatcher.ctx != nil && len(b.dispatcher.lanes) == 0
	})
	submitTo(t, db, clinic, operation(t, clinic, "o1", txn.LowPriority, receiving(5)), operation(t, clinic, "o2", txn.HighPriority, &ledger.IssueStock{
		LocationID: "store", MedicineID: "zinc", Quantity: 1_000_000, ReasonCode: "WARD",
	}))
	a.dispatcher.Submitted(clinic, txn.LowPriority) // which tells b
	ended(t, db, clinic, "o1", txn.OperationAccepted)
	ended(t, db, clinic, "o2", txn.OperationRejected)
	if _, kept := a.executor.Load(); kept != 0 {
		t.Error("a carried something out")
	}
}

// scripted answers submissions as a test wants.
type scripted struct {
	mu     sync.Mutex
	order  []string
	answer func(key string, attempt int) error
	tries  map[string]int
	next   txn.Submitter
}

func (s *scripted) Submit(ctx context.Context, sub txn.Submission) ([]txn.Verdict, error) {
	key := sub.Commands[0].IdempotencyKey
	s.mu.Lock()
	s.order = append(s.order, key)
	s.tries[key]++
	err := s.answer(key, s.tries[key])
	s.mu.Unlock()
	if err != nil {
		return []txn.Verdict{{Err: err}}, nil //nolint:nilerr // it is the verdict
	}
	return s.next.Submit(ctx, sub)
}

// What comes to no verdict is tried again, with pauses; where only a defect can
// be the reason, not for ever.
func TestOperationsAreTriedAgain(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	a := newTestRouter(t, db, "a")
	clinic := clinics(t, a.executor, 1, 0)[0]
	script := &scripted{tries: make(map[string]int), next: a.executor, answer: func(key string, attempt int) error {
		switch {
		case key == "away" && attempt <= 20:
			return txn.ErrUnavailable
		case key == "odd" && attempt <= 2, key == "broken":
			return txn.ErrInternal
		}
		return nil
	}}
	d := NewDispatcher(txn.NewOperations(txn.NewDirectory(db)), script, a.Router, DispatcherConfig{LookEvery: 20 * time.Millisecond, RetryAfter: time.Millisecond, Attempts: 4, Log: quiet})
	a.dispatcher = d
	a.dispatching(t)
	submitTo(t, db, clinic, operation(t, clinic, "away", txn.NormalPriority, receiving(1)), operation(t, clinic, "odd", txn.NormalPriority, receiving(1)),
		operation(t, clinic, "broken", txn.HighPriority, receiving(1)))
	ended(t, db, clinic, "broken", txn.OperationFailed)
	ended(t, db, clinic, "odd", txn.OperationAccepted)
	ended(t, db, clinic, "away", txn.OperationAccepted)
	op, _, err := txn.NewOperations(txn.NewDirectory(db)).Get(t.Context(), clinic, "broken")
	if err != nil || op.Attempts != 4 || op.Failure == nil || op.Failure.Reason != "INTERNAL" || op.FinishedAt.IsZero() {
		t.Errorf("what never worked is %+v, %v", op, err)
	}
	script.mu.Lock()
	tries := script.tries["broken"]
	script.answer = func(string, int) error { return nil }
	script.mu.Unlock()
	if tries != 4 {
		t.Errorf("it was tried %d times", tries)
	}
	if _, _, err := txn.NewOperations(txn.NewDirectory(db)).Resubmit(t.Context(), clinic, "broken", time.Now()); err != nil {
		t.Fatal(err)
	}
	ended(t, db, clinic, "broken", txn.OperationAccepted)
}

// High comes first, and low is not left out.
func TestSharesOfPriorities(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	a := newTestRouter(t, db, "a")
	clinic := clinics(t, a.executor, 1, 0)[0]
	var ops []txn.NewOperation
	for _, p := range []txn.Priority{txn.LowPriority, txn.NormalPriority, txn.HighPriority} {
		for i := range 60 {
			ops = append(ops, operation(t, clinic, fmt.Sprint(p, i), p, receiving(1)))
		}
	}
	submitTo(t, db, clinic, ops...)
	d := NewDispatcher(txn.NewOperations(txn.NewDirectory(db)), a.executor, a.Router, DispatcherConfig{Batch: 32, Log: quiet})
	rounds := func(kind laneKind, most int) (rounds [][3]int) {
		l := &lane{laneID: laneID{clinic, kind}, after: make(map[txn.Priority]txn.OperationPlace)}
		for len(rounds) < most {
			batch, err := d.take(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			if len(batch) == 0 {
				break
			}
			var round [3]int
			for _, op := range batch {
				round[op.Priority-1]++
			}
			rounds = append(rounds, round)
			if done := d.carryOut(t.Context(), batch); done != len(batch) {
				t.Fatalf("%d of %d came to something", done, len(batch))
			}
		}
		return rounds
	}
	var all [][3]int
	for _, test := range []struct {
		kind laneKind
		most int
		want [][3]int
	}{
		{commandLane, 1, [][3]int{{0, 32, 1}}},              // nothing urgent was seen yet
		{urgentLane, 100, [][3]int{{32, 0, 0}, {28, 0, 0}}}, // it has its own lane
		{commandLane, 2, [][3]int{{0, 2, 1}, {0, 2, 1}}},    // and the others make way for a while
	} {
		got := rounds(test.kind, test.most)
		if !slices.Equal(got, test.want) {
			t.Errorf("the rounds are %v, not %v", got, test.want)
		}
		all = append(all, got...)
	}
	eventually(t, "nothing urgent comes any more", func() bool { return !d.isUrgent(clinic, time.Now()) })
	if got := rounds(commandLane, 2); !slices.Equal(got, [][3]int{{0, 24, 1}, {0, 0, 8}}) {
		t.Errorf("the rounds are %v", got)
	} else {
		all = append(all, got...)
	}
	all = append(all, rounds(commandLane, 100)...)
	sum := [3]int{}
	for _, r := range all {
		for i := range sum {
			sum[i] += r[i]
		}
	}
	if sum != [3]int{60, 60, 60} {
		t.Errorf("%v were taken", sum)
	}
	if _, err := decodeSubmission([]byte("x")); err == nil || errors.Is(err, context.Canceled) {
		t.Error("nonsense was read:", err)
	}
}
