package txn

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

func (a *aisle) report(key string) NewReport {
	return NewReport{Clinic: a.id, IdempotencyKey: key, Name: "stock-on-hand", Actor: "amina", Submission: []byte("{}")}
}

func (a *aisle) ask(t *testing.T, key string, at time.Time) Operation {
	t.Helper()
	submitted, err := a.ops.SubmitReport(t.Context(), a.report(key), at)
	if err != nil || submitted.Err != nil {
		t.Fatal(err, submitted.Err)
	}
	return submitted.Operation
}

func (a *aisle) parts(t *testing.T, key string) (n int) {
	t.Helper()
	if err := a.e.db.read.QueryRow(t.Context(), "SELECT count(*) FROM report_parts WHERE clinic_id = $1 AND idempotency_key = $2", a.id, key).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A page becomes parts that are small enough, once, from where the report was.
func TestReportsAdvance(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	now := time.Now()
	begun := a.ask(t, "r", now)
	large := bytes.Repeat([]byte("0123456789"), MaxReportPart/4)
	next, err := a.ops.AdvanceReport(t.Context(), begun, &ReportPage{Data: large, Rows: 10, Sequence: 3, Next: "b"}, now)
	if err != nil || next.Report.Parts != 3 || next.Report.Bytes != int64(len(large)) || next.State != OperationWaiting {
		t.Fatalf("%+v, %+v, %v", next, next.Report, err)
	}
	if _, err := a.ops.AdvanceReport(t.Context(), begun, &ReportPage{Data: []byte("x"), Rows: 1, Next: "b"}, now); !errors.Is(err, ErrReportMoved) {
		t.Errorf("from where it was before: %v", err)
	}
	// A page without rows moves it too.
	empty, err := a.ops.AdvanceReport(t.Context(), next, &ReportPage{Sequence: 9, Next: "c"}, now)
	if err != nil || empty.Report.Parts != 3 || empty.Report.Sequence != 3 {
		t.Fatal(empty.Report, err)
	}
	if _, err := a.ops.AdvanceReport(t.Context(), next, &ReportPage{Next: "c"}, now); !errors.Is(err, ErrReportMoved) {
		t.Errorf("a page without rows twice: %v", err)
	}
	done, err := a.ops.AdvanceReport(t.Context(), empty, &ReportPage{Data: []byte("end"), Rows: 1}, now)
	if err != nil || done.State != OperationAccepted {
		t.Fatal(done, err)
	}
	if _, err := a.ops.AdvanceReport(t.Context(), empty, &ReportPage{Data: []byte("end"), Rows: 1}, now); !errors.Is(err, ErrNotQueued) {
		t.Errorf("after its end: %v", err)
	}
	stored := a.state(t, "r")
	if *stored.Report != *done.Report || stored.Report.Total != 11 || stored.Report.Rows != 11 {
		t.Errorf("stored is %+v, and returned was %+v", stored.Report, done.Report)
	}
	var whole []byte
	for part := range stored.Report.Parts {
		body, err := a.ops.ReportPart(t.Context(), &stored, part)
		if err != nil || len(body) > MaxReportPart {
			t.Errorf("part %d has %d bytes, %v", part, len(body), err)
		}
		whole = append(whole, body...)
	}
	if !bytes.Equal(whole, append(large, "end"...)) {
		t.Errorf("the parts come to %d bytes", len(whole))
	}
	if body, err := a.ops.ReportPart(t.Context(), &stored, stored.Report.Parts); body != nil || err != nil {
		t.Errorf("there is a part after the last: %v", err)
	}
}

func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	for i := range maxWaitingReports {
		a.ask(t, fmt.Sprint("r", i), time.Now())
	}
	if _, err := a.ops.SubmitReport(t.Context(), a.report("more"), time.Now()); !errors.Is(err, ErrTooManyReports) {
		t.Errorf("one more: %v", err)
	}
	if again, err := a.ops.SubmitReport(t.Context(), a.report("r0"), time.Now()); err != nil || !again.Repeated {
		t.Errorf("one of them again: %+v, %v", again, err)
	}
	if _, _, err := a.ops.Cancel(t.Context(), a.id, "r0", time.Now()); err != nil {
		t.Fatal(err)
	}
	a.ask(t, "more", time.Now())
	var absent *ledger.Rejection
	nowhere := a.report("r")
	nowhere.Clinic = "nowhere"
	if _, err := a.ops.SubmitReport(t.Context(), nowhere, time.Now()); !errors.As(err, &absent) || absent.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("at no clinic: %v", err)
	}
}

// What ended is kept for its time, counted from its end; then it goes, in steps,
// and nothing is left of results.
func TestOperationsAreForgotten(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	now := time.Now().Truncate(time.Microsecond)
	long, before := now.Add(-60*24*time.Hour), now.Add(-30*24*time.Hour)
	var many []NewOperation
	for i := range forgetAtATime + 20 {
		many = append(many, a.issueOf(fmt.Sprint("o", i), 1))
	}
	if _, err := a.ops.Submit(t.Context(), a.id, many, long); err != nil {
		t.Fatal(err)
	}
	for _, n := range many {
		if _, _, err := a.ops.Cancel(t.Context(), a.id, n.Command.IdempotencyKey, long.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	// Submitted long ago as well, and failed today.
	if _, err := a.ops.Submit(t.Context(), a.id, []NewOperation{a.issueOf("letter", 1), a.issueOf("waits", 1)}, long); err != nil {
		t.Fatal(err)
	}
	if err := a.ops.Postpone(t.Context(), a.state(t, "letter"), &ledger.Rejection{Reason: "INTERNAL"}, time.Time{}, now); err != nil {
		t.Fatal(err)
	}
	old, young := a.ask(t, "old", long), a.ask(t, "young", long)
	var err error
	for range 2*partsAtATime + 5 {
		if old, err = a.ops.AdvanceReport(t.Context(), old, &ReportPage{Data: []byte("x"), Rows: 1, Next: fmt.Sprint(old.Report.Parts)}, long); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = a.ops.AdvanceReport(t.Context(), old, &ReportPage{Data: []byte("x"), Rows: 1}, long); err != nil {
		t.Fatal(err)
	}
	if _, err = a.ops.AdvanceReport(t.Context(), young, &ReportPage{Data: []byte("x"), Rows: 1}, now); err != nil {
		t.Fatal(err)
	}
	if err := a.ops.ForgetResults(t.Context(), a.id, before, now); err != nil {
		t.Fatal(err)
	}
	if n := a.parts(t, "old"); n != 0 || a.state(t, "old").Report.DeletedAt.IsZero() {
		t.Errorf("%d parts of an old result are there", n)
	}
	if n := a.parts(t, "young"); n != 1 || !a.state(t, "young").Report.DeletedAt.IsZero() {
		t.Errorf("%d parts of a young result are there", n)
	}
	if err := a.ops.Forget(t.Context(), Term{}, a.id, before); err != nil {
		t.Fatal(err)
	}
	list, err := a.ops.List(t.Context(), a.id, OperationFilter{}, OperationPlace{SubmittedAt: ledger.MaxDate.Time()}, 1000)
	kept := map[string]bool{}
	for _, op := range list {
		kept[op.IdempotencyKey] = true
	}
	if err != nil || len(kept) != 3 || !kept["letter"] || !kept["waits"] || !kept["young"] {
		t.Errorf("%v are kept, %v", kept, err)
	}
	// Nor is a result that nobody deleted before.
	if err := a.ops.Forget(t.Context(), Term{}, a.id, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := a.parts(t, "young"); n != 0 {
		t.Errorf("%d parts are left of what is forgotten", n)
	}
	if _, ok, err := a.ops.Get(t.Context(), a.id, "letter"); ok || err != nil {
		t.Error("the dead letter is there still", err)
	}
	var reports int
	if err := a.e.db.read.QueryRow(t.Context(), "SELECT count(*) FROM reports WHERE clinic_id = $1", a.id).Scan(&reports); err != nil || reports != 0 {
		t.Errorf("%d reports are left, %v", reports, err)
	}
}

// A report that is submitted again has nothing of the run before, which goes
// with its end.
func TestReportsBeginAnew(t *testing.T) {
	t.Parallel()
	a := newAisle(t)
	now := time.Now()
	first := a.ask(t, "r", now)
	first, err := a.ops.AdvanceReport(t.Context(), first, &ReportPage{Data: []byte("old"), Rows: 1, Next: "b"}, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ops.RejectReport(t.Context(), first, &ledger.Rejection{Reason: "PERMISSION_DENIED", Message: "No."}, now); err != nil {
		t.Fatal(err)
	}
	if op := a.state(t, "r"); op.State != OperationRejected || op.Failure.Message != "No." || op.Report.Rows != 1 {
		t.Errorf("it is %+v, %+v", op, op.Report)
	}
	again, _, err := a.ops.Resubmit(t.Context(), a.id, "r", now)
	if err != nil || again.State != OperationWaiting || again.Report.Rows != 0 || again.Report.Run != 2 {
		t.Fatalf("again it is %+v, %+v, %v", again, again.Report, err)
	}
	if err := a.ops.BeginReportAnew(t.Context(), first); err != nil || a.state(t, "r").Report.Run != 2 {
		t.Errorf("who knows an earlier run began it anew, %v", err)
	}
	done, err := a.ops.AdvanceReport(t.Context(), again, &ReportPage{Data: []byte("new"), Rows: 1}, now)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := a.ops.ReportPart(t.Context(), &done, 0); string(body) != "new" || err != nil {
		t.Errorf("it is %q, %v", body, err)
	}
	if err := a.ops.ForgetResults(t.Context(), a.id, now.Add(time.Hour), now); err != nil || a.parts(t, "r") != 0 {
		t.Errorf("%d parts are left, %v", a.parts(t, "r"), err)
	}
}

// TestPlansOfReports explains what keeps reports and their results.
func TestPlansOfReports(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	a := &aisle{newTestClinic(t, testExecutor(t, ExecutorConfig{})), NewOperations(NewDirectory(db))}
	ctx, now := t.Context(), time.Now()
	for i := range maxWaitingReports - 10 {
		op := a.ask(t, fmt.Sprint("r", i), now)
		if i < 50 {
			if _, err := a.ops.AdvanceReport(ctx, op, &ReportPage{Data: []byte("x"), Rows: 1}, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	var others []NewOperation // as many as the clinic's are not all looked at
	for i := range 500 {
		others = append(others, a.issueOf(fmt.Sprint("o", i), 1))
	}
	a.submit(t, others...)
	for _, name := range []string{"operations", "reports", "report_parts"} {
		if _, err := testDB(t).write.Exec(ctx, "ANALYZE "+name); err != nil {
			t.Fatal(err)
		}
	}
	const (
		key     = "operations_pkey(clinic_id, idempotency_key)"
		waiting = "operations_waiting(clinic_id, priority)"
		reports = "reports_pkey(clinic_id, idempotency_key)"
		parts   = "report_parts_pkey(clinic_id, idempotency_key, run)"
		sealed  = "sealed_clinics_pkey(clinic_id)"
	)
	read.take()
	write.take()
	p.check(wantPlan{"submit", func() error {
		_, err := a.ops.SubmitReport(ctx, a.report("new"), now)
		if err == nil {
			_, err = a.ops.SubmitReport(ctx, a.report("new"), now)
		}
		return err
	}, []string{key, waiting, reports, sealed}}, writeSession)
	p.check(wantPlan{"advance", func() error {
		_, err := a.ops.AdvanceReport(ctx, a.state(t, "r60"), &ReportPage{Data: []byte("x"), Rows: 1, Next: "b"}, now)
		return err
	}, []string{key, reports, sealed}}, writeSession)
	p.check(wantPlan{"begin anew", func() error { return a.ops.BeginReportAnew(ctx, a.state(t, "r60")) }, []string{reports, sealed}}, writeSession)
	p.check(wantPlan{"reject", func() error {
		return a.ops.RejectReport(ctx, a.state(t, "r60"), &ledger.Rejection{Reason: "INTERNAL"}, now)
	}, []string{key, sealed}}, writeSession)
	read.take()
	p.check(wantPlan{"take", func() error {
		_, err := a.ops.Next(ctx, a.id, ReportPriority, OperationPlace{}, time.Now(), 1)
		return err
	}, []string{waiting, reports, sealed}}, readSession)
	done := a.state(t, "r1")
	read.take()
	p.check(wantPlan{"a part", func() error {
		_, err := a.ops.ReportPart(ctx, &done, 0)
		return err
	}, []string{parts, sealed}}, readSession)
	p.check(wantPlan{"the submission", func() error {
		_, err := a.ops.Submission(ctx, a.id, "r1")
		return err
	}, []string{key, sealed}}, readSession)
	p.check(wantPlan{"delete results", func() error { return a.ops.ForgetResults(ctx, a.id, now.Add(time.Hour), now) }, []string{key, reports, parts, sealed}}, readSession, writeSession)
	p.check(wantPlan{"forget", func() error { return a.ops.Forget(ctx, Term{}, a.id, now.Add(time.Hour)) },
		[]string{"operations_by_state(clinic_id, state, submitted_at)", reports, parts, sealed}}, readSession, writeSession)
}
