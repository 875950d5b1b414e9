package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func newRunner(tb testing.TB, db *txn.DB, cfg RunnerConfig, jobs ...Job) *Runner {
	tb.Helper()
	cfg.Log, cfg.LookEvery = quiet, 20*time.Millisecond
	r, err := NewRunner(db, jobs, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// lead leads until the returned function is called, or the test ends.
func lead(tb testing.TB, r *Runner, holder string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var leading sync.WaitGroup
	leading.Go(func() { r.Lead(ctx, holder) })
	stop = sync.OnceFunc(func() {
		cancel()
		leading.Wait()
	})
	tb.Cleanup(stop)
	return stop
}

// lastRun waits until the latest run of a job has ended.
func lastRun(tb testing.TB, db *txn.DB, job string) txn.JobRun {
	tb.Helper()
	var last txn.JobRun
	eventually(tb, "a run of "+job+" ends", func() bool {
		runs, err := txn.NewJobs(db).Runs(context.Background(), job, ledger.MaxDate.Time(), 1)
		if err != nil {
			tb.Fatal(err)
		}
		if len(runs) == 0 || runs[0].FinishedAt.IsZero() {
			return false
		}
		last = runs[0]
		return true
	})
	return last
}

func ask(tb testing.TB, db *txn.DB, job string) {
	tb.Helper()
	if _, err := txn.NewJobs(db).Request(context.Background(), job, "mary", time.Now()); err != nil {
		tb.Fatal(err)
	}
}

func inOrder(ids []ledger.ClinicID) func(context.Context, Turn, ledger.ClinicID, int) ([]ledger.ClinicID, error) {
	return func(_ context.Context, _ Turn, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
		var rest []ledger.ClinicID
		for _, id := range ids {
			if id > after && len(rest) < limit {
				rest = append(rest, id)
			}
		}
		return rest, nil
	}
}

// A leader is cut off in the middle of a clinic. The next one goes on with the
// run; the old one finishes its clinic, and can record nothing; each hold was
// given up once.
func TestLeaderIsCutOffInTheMiddleOfAStep(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	past := func() time.Time { return time.Now().Add(-time.Hour) } // when the holds were made
	ids := clinics(t, newExecutor(t, db, past), 20, 3)
	executor := newExecutor(t, db, nil)
	chores := txn.NewChores(txn.NewDirectory(db), executor, quiet)

	etcd := member(t, db, "etcd")
	t.Cleanup(func() { _ = etcd.Close() })
	v := newValve(t, strings.TrimPrefix(etcd.EtcdAddresses(t.Context())[0], "http://"))

	reached, let := make(chan struct{}), make(chan struct{})
	var once sync.Once
	oldEnded := make(chan error, 1)
	job := Job{Name: "expire-holds", Schedule: "", Parallel: 1, Clinics: inOrder(ids)}
	slow := job
	slow.Do = func(_ context.Context, e txn.Errand) (txn.Looked, error) {
		if e.Clinic == ids[12] {
			once.Do(func() { close(reached) })
			<-let // whatever its context says: the process was stopped here
		}
		// It does not know that it was cut off.
		looked, err := chores.ExpireHolds(context.Background(), e)
		if e.Clinic == ids[12] {
			oldEnded <- err
		}
		return looked, err
	}
	job.Do = chores.ExpireHolds
	old, next := newRunner(t, db, RunnerConfig{}, slow), newRunner(t, db, RunnerConfig{}, job)

	cut := joined(t, db, "cut", EtcdConfig{Endpoints: []string{"http://" + v.listener.Addr().String()}})
	start(t, cut, func(ctx context.Context) { old.Lead(ctx, "cut") })
	ask(t, db, job.Name)
	<-reached
	other := joined(t, db, "other", EtcdConfig{Endpoints: etcd.EtcdAddresses(t.Context())})
	start(t, other, func(ctx context.Context) { next.Lead(ctx, "other") })
	v.turn(true)
	run := lastRun(t, db, job.Name)
	close(let)
	if err := <-oldEnded; err != nil {
		t.Error("the old leader's clinic:", err)
	}
	// The old one had recorded all up to the clinic that it was at.
	if run.Node != "other" || run.Clinics != int64(len(ids)) || run.Total != int64(len(ids)) || run.After != ids[len(ids)-1] || run.Failures != 0 {
		t.Errorf("the run is %+v", run)
	}
	after, err := txn.NewJobs(db).Runs(t.Context(), job.Name, ledger.MaxDate.Time(), 1)
	if err != nil || after[0].Node != "other" || after[0].Clinics != run.Clinics {
		t.Errorf("the old leader recorded something: %+v, %v", after, err)
	}
	for _, id := range ids {
		events, _, _, err := txn.NewQueries(txn.NewDirectory(db)).Events(t.Context(), id, txn.Place{}, &txn.EventFilter{}, 100, txn.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		given := 0
		for _, e := range events {
			if e.Event.Kind() == ledger.KindExpireReservation {
				given++
			}
		}
		if given != 3 {
			t.Errorf("clinic %s: %d holds were given up, want each of 3 once", id, given)
		}
	}
}

// A runner that still believes that it leads is refused by the database.
func TestDeposedRunnerStops(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	ids := []ledger.ClinicID{"a", "b", "c"}
	reached, let := make(chan struct{}), make(chan struct{})
	var once sync.Once
	job := Job{Name: "slow", Parallel: 1, Clinics: inOrder(ids)}
	job.Do = func(context.Context, txn.Errand) (txn.Looked, error) {
		once.Do(func() { close(reached) })
		<-let
		return txn.Looked{Commands: 1}, nil
	}
	r := newRunner(t, db, RunnerConfig{}, job)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Lead(context.Background(), "old")
	}()
	ask(t, db, "slow")
	<-reached
	if _, err := db.TakeLead(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	close(let)
	<-ended // although nobody told it
	runs, err := txn.NewJobs(db).Unfinished(t.Context())
	if err != nil || len(runs) != 1 || runs[0].Clinics != 0 {
		t.Errorf("the runs are %+v, %v", runs, err)
	}
}

func TestRunsResumeAndRecordFailures(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	var ids []ledger.ClinicID
	for range 30 {
		ids = append(ids, ledger.ClinicID(txntest.NewClinicID(t)))
	}
	slices.Sort(ids)
	var mu sync.Mutex
	visits := make(map[ledger.ClinicID]int)
	reached := make(chan struct{})
	var once sync.Once
	job := Job{Name: "visit", Parallel: 2, Clinics: inOrder(ids)}
	job.Do = func(ctx context.Context, e txn.Errand) (txn.Looked, error) {
		mu.Lock()
		visits[e.Clinic]++
		n := visits[e.Clinic]
		mu.Unlock()
		switch {
		case e.Clinic == ids[3]:
			return txn.Looked{}, errors.New("it never works here")
		case e.Clinic == ids[5] && n < 3:
			return txn.Looked{}, txn.ErrUnavailable
		case e.Clinic == ids[20] && n == 1:
			once.Do(func() { close(reached) })
			<-ctx.Done()
			return txn.Looked{}, ctx.Err()
		}
		return txn.Looked{Commands: 2, Findings: []txn.Finding{{Subject: "it", Kind: "K"}}}, nil
	}
	r := newRunner(t, db, RunnerConfig{Attempts: 3, RetryAfter: time.Millisecond}, job)
	registry := prometheus.NewRegistry()
	r.RegisterMetrics(registry)
	stop := lead(t, r, "first")
	ask(t, db, "visit")
	<-reached
	eventually(t, "all before it are recorded", func() bool {
		runs, err := txn.NewJobs(db).Unfinished(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(runs) == 1 && runs[0].Clinics == 20
	})
	stop()
	lead(t, r, "second")
	run := lastRun(t, db, "visit")
	if run.Clinics != 30 || run.Total != 30 || run.Failures != 1 || run.Commands != 58 || run.Findings != 29 || run.Node != "second" || run.RequestedBy != "mary" {
		t.Errorf("the run is %+v", run)
	}
	if want := "clinic " + string(ids[3]) + ": it never works here"; run.Failure != want {
		t.Errorf("it failed with %q, want %q", run.Failure, want)
	}
	mu.Lock()
	defer mu.Unlock()
	for i, id := range ids {
		// What was recorded is not done again.
		if n := visits[id]; i < 20 && i != 3 && i != 5 && n != 1 {
			t.Errorf("clinic %d was visited %d times", i, n)
		}
	}
	eventually(t, "the run shows in the metrics", func() bool {
		families, err := registry.Gather()
		return err == nil && len(families) >= 5
	})
}

// A job that is due runs once, whoever leads when; what was missed is not made
// up for run by run.
func TestScheduledRuns(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	var mu sync.Mutex
	now := time.Date(2027, 3, 1, 10, 59, 0, 0, time.UTC)
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	set := func(to time.Time) {
		mu.Lock()
		defer mu.Unlock()
		now = to
	}
	nairobi, err := time.LoadLocation("Africa/Nairobi")
	if err != nil {
		t.Fatal(err)
	}
	var turns []Turn
	job := Job{
		Name: "hourly", Schedule: "0 14-20 * * *", TimeZone: nairobi, Jitter: time.Minute, // from 11:00 UTC
		Clinics: func(_ context.Context, turn Turn, after ledger.ClinicID, _ int) ([]ledger.ClinicID, error) {
			if after == "" {
				mu.Lock()
				defer mu.Unlock()
				turns = append(turns, turn)
			}
			return nil, nil
		},
	}
	r := newRunner(t, db, RunnerConfig{Clock: clock}, job)
	if next := r.Jobs()[0].Next; !next.Equal(now.Add(time.Minute)) {
		t.Errorf("it is due next at %s", next)
	}
	stop := lead(t, r, "first")
	ask(t, db, "hourly") // once that has run, the runner knows what time it is
	byHand := lastRun(t, db, "hourly")
	scheduled := func(want ...int) {
		t.Helper()
		eventually(t, "the runs are there", func() bool {
			runs, err := txn.NewJobs(db).Runs(t.Context(), "hourly", ledger.MaxDate.Time(), 10)
			if err != nil {
				t.Fatal(err)
			}
			var hours []int
			for _, run := range runs {
				if run.FinishedAt.IsZero() {
					return false
				}
				if run.RequestedBy == "" {
					hours = append(hours, run.ScheduledAt.UTC().Hour())
				}
			}
			slices.Reverse(hours)
			return slices.Equal(hours, want)
		})
	}
	set(time.Date(2027, 3, 1, 11, 2, 0, 0, time.UTC))
	scheduled(11)
	stop()
	set(time.Date(2027, 3, 1, 14, 30, 0, 0, time.UTC)) // 12, 13 and 14 were missed
	lead(t, r, "second")
	scheduled(11, 14)
	mu.Lock()
	defer mu.Unlock()
	if len(turns) != 3 || !turns[0].Due.Equal(byHand.ScheduledAt) || !turns[1].Previous.IsZero() || turns[2].Previous.UTC().Hour() != 11 {
		t.Errorf("the turns are %+v", turns)
	}
}

func TestLatest(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.DateTime, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, test := range []struct{ schedule, after, now, want string }{
		{"* * * * *", "2027-01-01 10:00:30", "2027-01-01 10:00:59", ""},
		{"* * * * *", "2027-01-01 10:00:30", "2027-01-01 10:01:00", "2027-01-01 10:01:00"},
		{"* * * * *", "2020-01-01 10:00:30", "2027-01-01 10:01:30", "2027-01-01 10:01:00"},
		{"0 2 * * *", "2027-01-01 02:00:00", "2027-01-02 01:59:00", ""},
		{"0 2 * * *", "2026-01-01 02:00:00", "2027-01-02 01:59:00", "2027-01-01 02:00:00"},
		{"0 2 1 * *", "2026-01-01 02:00:00", "2027-01-15 01:59:00", "2027-01-01 02:00:00"},
		{"0 2 29 2 *", "2020-03-01 02:00:00", "2027-01-15 01:59:00", "2024-02-29 02:00:00"},
		{"", "2020-03-01 02:00:00", "2027-01-15 01:59:00", ""},
	} {
		schedule, err := parseSchedule(test.schedule)
		if err != nil {
			t.Fatal(err)
		}
		got := latest(&scheduledJob{schedule: schedule}, at(test.after), at(test.now))
		if (test.want == "") != got.IsZero() || test.want != "" && !got.Equal(at(test.want)) {
			t.Errorf("%q after %s, at %s: %s, want %s", test.schedule, test.after, test.now, got, test.want)
		}
	}
}

func TestJobsAndTheirSchedules(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	r := newRunner(t, db, RunnerConfig{}, StandardJobs(txn.NewDirectory(db), txn.NewChores(txn.NewDirectory(db), nil, quiet))...)
	for _, job := range r.Jobs() {
		if job.About == "" || job.Next.IsZero() || time.Until(job.Next) > 25*time.Hour || !r.Knows(job.Name) {
			t.Errorf("job %s is due at %s: %s", job.Name, job.Next, job.About)
		}
	}
	_, err := NewRunner(db, []Job{{Name: "odd", Schedule: "every day"}}, RunnerConfig{})
	if err == nil || !strings.Contains(err.Error(), "five fields") {
		t.Errorf("a schedule that makes no sense: %v", err)
	}
}

// What a clinic that is slow holds up is recorded when it is done, and not more
// is begun meanwhile than a crash may repeat.
func TestSlowClinicHoldsUpTheRecordAndLittleElse(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	var ids []ledger.ClinicID
	for i := range 100 {
		ids = append(ids, ledger.ClinicID(fmt.Sprintf("c%03d", i)))
	}
	let := make(chan struct{})
	var begun atomic.Int64
	job := Job{Name: "slow", Parallel: 2, Clinics: inOrder(ids)}
	job.Do = func(_ context.Context, e txn.Errand) (txn.Looked, error) {
		begun.Add(1)
		if e.Clinic == ids[10] {
			<-let
		}
		return txn.Looked{Commands: 1}, nil
	}
	lead(t, newRunner(t, db, RunnerConfig{}, job), "a")
	ask(t, db, "slow")
	unfinished := func() txn.JobRun {
		runs, err := txn.NewJobs(db).Unfinished(t.Context())
		if err != nil || len(runs) != 1 {
			t.Fatalf("the runs are %v, %v", runs, err)
		}
		return runs[0]
	}
	eventually(t, "all before it are recorded, and others are done", func() bool { return unfinished().Clinics == 10 && begun.Load() == 10+ahead*2 })
	if run := unfinished(); run.After != ids[9] || run.Total != 100 {
		t.Errorf("the run is %+v", run)
	}
	close(let)
	if run := lastRun(t, db, "slow"); run.Clinics != 100 || run.Commands != 100 || begun.Load() != 100 {
		t.Errorf("the run is %+v after %d visits", run, begun.Load())
	}
}

// A clinic that could not be done is taken again by the next run, even one that
// is not about it, until it could.
func TestMissedClinicsGetAnotherTurn(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	ids := []ledger.ClinicID{"a", "b", "c", "d"}
	var mu sync.Mutex
	about, errs, visited := ids, map[ledger.ClinicID]error{"b": errors.New("odd"), "d": fmt.Errorf("wrapped: %w", txn.ErrRestoring)}, []ledger.ClinicID(nil)
	job := Job{Name: "midnight", Parallel: 1}
	job.Clinics = func(ctx context.Context, turn Turn, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
		mu.Lock()
		defer mu.Unlock()
		return inOrder(about)(ctx, turn, after, limit)
	}
	job.Do = func(_ context.Context, e txn.Errand) (txn.Looked, error) {
		mu.Lock()
		defer mu.Unlock()
		if e.Term.Epoch == 0 {
			t.Error("an errand does not know its term")
		}
		visited = append(visited, e.Clinic)
		return txn.Looked{Findings: []txn.Finding{{Subject: "it", Kind: "K"}}}, errs[e.Clinic]
	}
	lead(t, newRunner(t, db, RunnerConfig{Attempts: 1}, job), "first")
	run := func(want string) txn.JobRun {
		t.Helper()
		mu.Lock()
		visited = nil
		mu.Unlock()
		ask(t, db, "midnight")
		last := lastRun(t, db, "midnight")
		mu.Lock()
		defer mu.Unlock()
		if got := fmt.Sprint(visited); got != want {
			t.Errorf("visited were %s, want %s", got, want)
		}
		return last
	}
	if r := run("[a b c d]"); r.Failures != 1 || r.Findings != 2 || r.Clinics != 4 {
		t.Errorf("the first run is %+v", r)
	}
	mu.Lock()
	about, errs = nil, map[ledger.ClinicID]error{"d": txn.ErrRestoring}
	mu.Unlock()
	if r := run("[b d]"); r.Failures != 0 || r.Total != 2 {
		t.Errorf("the second run is %+v", r)
	}
	mu.Lock()
	about, errs = []ledger.ClinicID{"c", "d"}, nil
	mu.Unlock()
	run("[c d]") // once each
	mu.Lock()
	about = nil
	mu.Unlock()
	if r := run("[]"); r.Clinics != 0 || r.Total != 0 {
		t.Errorf("the last run is %+v", r)
	}
}
