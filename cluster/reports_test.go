package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// book is a report of some pages with a line each.
type book struct {
	pages int
	// answer says how a page is read; nil: as it is.
	answer func(ctx context.Context, page int) error

	mu    sync.Mutex
	reads map[int]int // by page
}

func (b *book) ReadReport(ctx context.Context, op *txn.QueuedOperation) (*txn.ReportPage, error) {
	page := 0
	if op.Report.PageToken != "" {
		var err error
		if page, err = strconv.Atoi(op.Report.PageToken); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	if b.reads == nil {
		b.reads = make(map[int]int)
	}
	b.reads[page]++
	b.mu.Unlock()
	if b.answer != nil {
		if err := b.answer(ctx, page); err != nil {
			return nil, err
		}
	}
	read := &txn.ReportPage{Data: fmt.Appendf(nil, "page %d\n", page), Rows: 1, Sequence: 7}
	if page+1 < b.pages {
		read.Next = strconv.Itoa(page + 1)
	}
	return read, nil
}

func (b *book) text() string {
	var text strings.Builder
	for page := range b.pages {
		fmt.Fprintf(&text, "page %d\n", page)
	}
	return text.String()
}

func submitReport(tb testing.TB, db *txn.DB, clinic ledger.ClinicID, key string) *txn.Operations {
	tb.Helper()
	ops := txn.NewOperations(txn.NewDirectory(db))
	submitted, err := ops.SubmitReport(tb.Context(), txn.NewReport{Clinic: clinic, IdempotencyKey: key, Name: "book", Actor: "amina", Submission: []byte("{}")}, time.Now())
	if err != nil || submitted.Err != nil {
		tb.Fatal(err, submitted.Err)
	}
	return ops
}

// result puts a report's parts together.
func result(tb testing.TB, ops *txn.Operations, clinic ledger.ClinicID, key string) string {
	tb.Helper()
	op, _, err := ops.Get(tb.Context(), clinic, key)
	if err != nil {
		tb.Fatal(err)
	}
	var text strings.Builder
	for part := range op.Report.Parts {
		body, err := ops.ReportPart(tb.Context(), &op, part)
		if err != nil || body == nil {
			tb.Fatalf("part %d: %v", part, err)
		}
		text.Write(body)
	}
	if int64(text.Len()) != op.Report.Bytes {
		tb.Errorf("%d bytes, and it says %d", text.Len(), op.Report.Bytes)
	}
	return text.String()
}

// running runs a dispatcher; the returned function stops it.
func running(tb testing.TB, d *Dispatcher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { d.Run(ctx); close(ended) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	tb.Cleanup(stop)
	return stop
}

// A dispatcher takes whatever waits in its database, so these have one of their
// own, and one after the other.
func TestReports(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *txn.DB)
	}{
		{"metrics", testMetricsOfOperations},
		{"go on at another node", testReportsGoOnAtAnotherNode},
		{"two nodes", testTwoNodesReadOneReport},
		{"are tried again", testReportsAreTriedAgain},
		{"are rejected", testReportsAreRejected},
		{"commands pass", testCommandsPassReports},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, db) })
	}
}

// A report whose node ends in the middle of it is gone on with by another one,
// from the page that was next.
func testReportsGoOnAtAnotherNode(t *testing.T, db *txn.DB) {
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	reached := make(chan struct{})
	first := &book{pages: 9, answer: func(ctx context.Context, page int) error {
		if page < 4 {
			return nil
		}
		close(reached)
		<-ctx.Done() // it was about to be read
		return ctx.Err()
	}}
	second := &book{pages: 9}
	a.dispatcher.ReadReports(first)
	b.dispatcher.ReadReports(second)
	ops := submitReport(t, db, clinic, "r")
	stop := running(t, a.dispatcher)
	<-reached
	op, _, err := ops.Get(t.Context(), clinic, "r")
	if err != nil || op.State != txn.OperationWaiting || op.Report.Rows != 4 || op.Report.PageToken != "4" {
		t.Errorf("under way it is %+v, %+v, %v", op, op.Report, err)
	}
	stop()
	running(t, b.dispatcher)
	ended(t, db, clinic, "r", txn.OperationAccepted)
	if got := result(t, ops, clinic, "r"); got != second.text() {
		t.Errorf("the result is %q", got)
	}
	if op, _, err = ops.Get(t.Context(), clinic, "r"); err != nil || op.Report.Rows != 9 || op.Report.Total != 9 || op.Report.Sequence != 7 || op.FinishedAt.IsZero() || op.Attempts != 0 {
		t.Errorf("it is %+v, %+v, %v", op, op.Report, err)
	}
	if second.reads[3] != 0 || second.reads[4] != 1 {
		t.Errorf("the second node read %v", second.reads)
	}
}

// Two nodes that both take themselves for the home write each part once.
func testTwoNodesReadOneReport(t *testing.T, db *txn.DB) {
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	var both sync.WaitGroup
	both.Add(2)
	books := make([]*book, 2)
	ops := submitReport(t, db, clinic, "r")
	for i, d := range []*Dispatcher{a.dispatcher, b.dispatcher} {
		begun := sync.OnceFunc(both.Done)
		books[i] = &book{pages: 40, answer: func(context.Context, int) error {
			begun()
			both.Wait() // neither is alone at the first page
			return nil
		}}
		d.ReadReports(books[i])
		running(t, d)
	}
	ended(t, db, clinic, "r", txn.OperationAccepted)
	if got := result(t, ops, clinic, "r"); got != books[0].text() {
		t.Errorf("the result is %q", got)
	}
	if op, _, err := ops.Get(t.Context(), clinic, "r"); err != nil || op.Report.Rows != 40 || op.Report.Parts != 40 {
		t.Errorf("it is %+v, %v", op.Report, err)
	}
}

// What can't be read is tried again, with pauses; not for ever. It says why, and
// can be submitted again.
func testReportsAreTriedAgain(t *testing.T, db *txn.DB) {
	a := newTestRouter(t, db, "a")
	clinic := clinics(t, a.executor, 1, 0)[0]
	var mu sync.Mutex
	broken, rewound := true, true
	reader := &book{pages: 3, answer: func(_ context.Context, page int) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case page == 1 && rewound: // once
			rewound = false
			return &txn.ReportError{Anew: true, Cause: &ledger.Rejection{Reason: "JOURNAL_REWOUND", Message: "It was restored."}}
		case page == 2 && broken:
			return &txn.ReportError{Cause: &ledger.Rejection{Reason: "REPORT_BEHIND", Message: "It is behind."}}
		}
		return nil
	}}
	d := NewDispatcher(txn.NewOperations(txn.NewDirectory(db)), a.executor, a.Router, DispatcherConfig{LookEvery: 20 * time.Millisecond, RetryAfter: time.Millisecond, Attempts: 4, Log: quiet})
	d.ReadReports(reader)
	ops := submitReport(t, db, clinic, "r")
	running(t, d)
	ended(t, db, clinic, "r", txn.OperationFailed)
	op, _, err := ops.Get(t.Context(), clinic, "r")
	if err != nil || op.Attempts != 4 || op.Failure.Reason != "REPORT_BEHIND" || op.Report.Rows != 2 || op.Report.Run != 2 || op.FinishedAt.IsZero() {
		t.Errorf("it is %+v, %+v, %v", op, op.Report, err)
	}
	reader.mu.Lock()
	if reader.reads[0] != 2 || reader.reads[2] != 4 {
		t.Errorf("the pages were read %v times", reader.reads)
	}
	reader.mu.Unlock()
	if letters, err := ops.DeadLetters(t.Context()); err != nil || letters.Count != 1 || letters.Oldest.Sub(op.FinishedAt).Abs() > time.Microsecond {
		t.Errorf("the dead letters are %+v, %v", letters, err)
	}
	eventually(t, "the dead letter is counted", func() bool { return testutil.ToFloat64(d.metrics.failed) == 1 })
	mu.Lock()
	broken = false
	mu.Unlock()
	if _, _, err := ops.Resubmit(t.Context(), clinic, "r", time.Now()); err != nil {
		t.Fatal(err)
	}
	ended(t, db, clinic, "r", txn.OperationAccepted)
	if got := result(t, ops, clinic, "r"); got != reader.text() {
		t.Errorf("the result is %q", got)
	}
	eventually(t, "there are no dead letters", func() bool {
		return testutil.ToFloat64(d.metrics.failed) == 0 && testutil.ToFloat64(d.metrics.failedAge) == 0
	})
}

// What will not be otherwise ends a report at once, and so does a result that
// is too large.
func testReportsAreRejected(t *testing.T, db *txn.DB) {
	a := newTestRouter(t, db, "a")
	clinic := clinics(t, a.executor, 1, 0)[0]
	d := NewDispatcher(txn.NewOperations(txn.NewDirectory(db)), a.executor, a.Router, DispatcherConfig{LookEvery: 20 * time.Millisecond, ReportBytes: 20, Log: quiet})
	d.ReadReports(&book{pages: 1000})
	ops := submitReport(t, db, clinic, "large")
	stop := running(t, d)
	ended(t, db, clinic, "large", txn.OperationRejected)
	stop()
	if op, _, err := ops.Get(t.Context(), clinic, "large"); err != nil || op.Failure.Reason != "REPORT_TOO_LARGE" || op.Report.Bytes > 20 {
		t.Errorf("it is %+v, %+v, %v", op, op.Report, err)
	}
	d = NewDispatcher(ops, a.executor, a.Router, DispatcherConfig{LookEvery: 20 * time.Millisecond, Log: quiet})
	d.ReadReports(&book{pages: 2, answer: func(_ context.Context, page int) error {
		if page == 1 {
			return &txn.ReportError{Final: true, Cause: &ledger.Rejection{Reason: "PERMISSION_DENIED", Message: "No."}}
		}
		return nil
	}})
	submitReport(t, db, clinic, "denied")
	running(t, d)
	ended(t, db, clinic, "denied", txn.OperationRejected)
}

// A clinic's reports come one after the other, and commands do not wait for
// them.
func testCommandsPassReports(t *testing.T, db *txn.DB) {
	a := newTestRouter(t, db, "a")
	ids := clinics(t, a.executor, 3, 0)
	var mu sync.Mutex
	underWay, most := map[ledger.ClinicID]int{}, 0
	open := make(chan struct{})
	d := NewDispatcher(txn.NewOperations(txn.NewDirectory(db)), a.executor, a.Router, DispatcherConfig{LookEvery: 20 * time.Millisecond, Reports: 2, Log: quiet})
	d.ReadReports(reader(func(ctx context.Context, op *txn.QueuedOperation) (*txn.ReportPage, error) {
		mu.Lock()
		underWay[op.Clinic]++
		if underWay[op.Clinic] > 1 {
			t.Error("two reports of a clinic at a time")
		}
		most = max(most, len(underWay))
		mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
		}
		mu.Lock()
		defer mu.Unlock()
		if underWay[op.Clinic]--; underWay[op.Clinic] == 0 {
			delete(underWay, op.Clinic)
		}
		return &txn.ReportPage{Data: []byte("x"), Rows: 1}, nil
	}))
	for _, id := range ids {
		submitReport(t, db, id, "r1")
		submitReport(t, db, id, "r2")
	}
	running(t, d)
	eventually(t, "two reports are read", func() bool { mu.Lock(); defer mu.Unlock(); return most == 2 })
	for i, p := range txn.Priorities() {
		for _, id := range ids {
			submitTo(t, db, id, operation(t, id, fmt.Sprint("o", i), p, receiving(1)))
		}
	}
	for i := range txn.Priorities() {
		for _, id := range ids {
			ended(t, db, id, fmt.Sprint("o", i), txn.OperationAccepted)
		}
	}
	mu.Lock()
	if most != 2 || len(underWay) != 2 {
		t.Errorf("%d reports are under way, at most %d were", len(underWay), most)
	}
	mu.Unlock()
	close(open)
	for _, id := range ids {
		ended(t, db, id, "r1", txn.OperationAccepted)
		ended(t, db, id, "r2", txn.OperationAccepted)
	}
}

type reader func(context.Context, *txn.QueuedOperation) (*txn.ReportPage, error)

func (r reader) ReadReport(ctx context.Context, op *txn.QueuedOperation) (*txn.ReportPage, error) {
	return r(ctx, op)
}

// The metrics show what waits, since when, and what it came to.
func testMetricsOfOperations(t *testing.T, db *txn.DB) {
	a := newTestRouter(t, db, "a")
	clinic := clinics(t, a.executor, 1, 0)[0]
	ops := txn.NewOperations(txn.NewDirectory(db))
	d := NewDispatcher(ops, a.executor, a.Router, DispatcherConfig{LookEvery: 20 * time.Millisecond, Log: quiet})
	long := time.Now().Add(-time.Hour)
	if _, err := ops.Submit(t.Context(), clinic, []txn.NewOperation{operation(t, clinic, "h", txn.HighPriority, receiving(1))}, long); err != nil {
		t.Fatal(err)
	}
	submitTo(t, db, clinic, operation(t, clinic, "l1", txn.LowPriority, receiving(1)), operation(t, clinic, "l2", txn.LowPriority, &ledger.IssueStock{
		LocationID: "store", MedicineID: "zinc", Quantity: 1_000_000, ReasonCode: "WARD",
	}))
	submitReport(t, db, clinic, "r")
	// As its Run does, but for carrying out.
	a.Follow("a-1", NewHomes([]Node{{ID: "elsewhere-1", Name: "elsewhere"}}, nil, nil))
	if err := d.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := func(priority string) float64 { return testutil.ToFloat64(d.metrics.waiting.WithLabelValues(priority)) }
	oldest := func(priority string) float64 { return testutil.ToFloat64(d.metrics.oldest.WithLabelValues(priority)) }
	if waiting("high") != 1 || waiting("normal") != 0 || waiting("low") != 2 || waiting("report") != 1 {
		t.Errorf("%v high, %v normal, %v low and %v reports wait", waiting("high"), waiting("normal"), waiting("low"), waiting("report"))
	}
	if age := oldest("high"); age < 3600 || age > 7200 || oldest("normal") != 0 || oldest("low") > 600 {
		t.Errorf("the oldest wait %v, %v and %v s", age, oldest("normal"), oldest("low"))
	}
	a.Follow("a-1", NewHomes(nil, nil, nil))
	d.ReadReports(&book{pages: 2})
	running(t, d)
	eventually(t, "nothing waits", func() bool {
		return waiting("high")+waiting("low")+waiting("report") == 0 && oldest("high") == 0 && oldest("low") == 0
	})
	for labels, want := range map[[2]string]float64{{"high", "accepted"}: 1, {"low", "accepted"}: 1, {"low", "rejected"}: 1, {"report", "accepted"}: 1} {
		eventually(t, fmt.Sprintf("%v of priority %s are counted as %s", want, labels[0], labels[1]), func() bool {
			return testutil.ToFloat64(d.metrics.ended.WithLabelValues(labels[0], labels[1])) == want
		})
	}
}
