package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// The retention forgets operations and runs that ended long ago, at every
// clinic, and nothing else.
func TestRetention(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	d, runs, now := txn.NewDirectory(db), txn.NewJobs(db), time.Now()
	ids := clinics(t, newExecutor(t, db, nil), 3, 0)
	operations := txn.NewOperations(d)
	daysAgo := func(n int) time.Time { return now.AddDate(0, 0, -n) }
	for _, id := range ids {
		for key, at := range map[string]time.Time{"old": daysAgo(31), "young": daysAgo(29), "waits": daysAgo(31)} {
			command := ledger.Command{Clinic: id, IdempotencyKey: key, Actor: "mary", Body: &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1}}
			if _, err := operations.Submit(t.Context(), id, []txn.NewOperation{{Command: command, Priority: txn.LowPriority, Submission: []byte{1}}}, at); err != nil {
				t.Fatal(err)
			}
			if key == "waits" {
				continue
			}
			if _, ok, err := operations.Cancel(t.Context(), id, key, at); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}
	}
	term, err := db.TakeLead(t.Context(), "before")
	if err != nil {
		t.Fatal(err)
	}
	for days, ended := range map[int]bool{61: true, 59: true, 62: false} {
		run := txn.JobRun{Job: "reconcile", ScheduledAt: daysAgo(days).Truncate(time.Microsecond), StartedAt: daysAgo(days)}
		if err := runs.Schedule(t.Context(), term, run.Job, run.ScheduledAt); err != nil {
			t.Fatal(err)
		}
		if ended {
			run.FinishedAt = run.StartedAt
		}
		if err := runs.Record(t.Context(), term, &run, nil, run.StartedAt); err != nil {
			t.Fatal(err)
		}
	}
	standard := StandardJobs(d, txn.NewChores(d, nil, quiet))
	retention := standard[slices.IndexFunc(standard, func(j Job) bool { return j.Name == "retention" })]
	lead(t, newRunner(t, db, RunnerConfig{}, retention), "a")
	ask(t, db, retention.Name)
	if run := lastRun(t, db, retention.Name); run.Clinics != int64(len(ids)) || run.Failures != 0 {
		t.Errorf("the run is %+v", run)
	}
	for _, id := range ids {
		for key, want := range map[string]bool{"old": false, "young": true, "waits": true} {
			if _, ok, err := operations.Get(t.Context(), id, key); err != nil || ok != want {
				t.Errorf("operation %q of %s is there: %v, %v", key, id, ok, err)
			}
		}
	}
	left, err := runs.Runs(t.Context(), "reconcile", now, 10)
	if err != nil || len(left) != 2 || left[0].FinishedAt.IsZero() || !left[1].FinishedAt.IsZero() {
		t.Errorf("the runs that are left: %+v, %v", left, err)
	}
}
