package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/robfig/cron/v3"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// Job is work that is done at every clinic now and then.
type Job struct {
	Name  string
	About string
	// Schedule is a cron expression of five fields, in TimeZone. Empty: the job
	// runs when somebody asks for it.
	Schedule string
	TimeZone *time.Location
	// Jitter bounds the delay after which a run begins, so that not all jobs of
	// all installations do at the same second. Runs by hand begin at once.
	Jitter time.Duration
	// Parallel is how many clinics are worked at at a time. Default 4.
	Parallel int
	// Clinics lists the clinics at which there may be something to do, in the
	// order of their ids, from after one.
	Clinics func(ctx context.Context, turn Turn, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error)
	// Do does the work at one clinic. It may be done again, and by two nodes at a
	// time.
	Do func(ctx context.Context, e txn.Errand) (txn.Looked, error)
	// Finally, where not nil, runs once after the last clinic.
	Finally func(ctx context.Context, term txn.Term) error
}

// Turn is when a run of a job was due.
type Turn struct {
	Due time.Time
	// Previous is when the scheduled run before it was; zero: there was none, or
	// somebody asked for this one.
	Previous time.Time
	Now      time.Time
}

// RunnerConfig tunes the running of jobs.
type RunnerConfig struct {
	// LookEvery is how often the leader looks for runs that are due or asked for.
	// Default 1 s.
	LookEvery time.Duration
	// Attempts is how often a clinic is tried before a run goes on without it,
	// with pauses of up to RetryAfter in between. Default 6, and 10 s.
	Attempts   int
	RetryAfter time.Duration
	Clock      func() time.Time
	Log        *slog.Logger
}

// Runner runs jobs while it leads.
type Runner struct {
	db      *txn.DB
	runs    *txn.Jobs
	jobs    []*scheduledJob
	cfg     RunnerConfig
	metrics *runnerMetrics
}

type scheduledJob struct {
	Job
	schedule cron.Schedule
}

// NewRunner returns a runner of jobs, or says which of their schedules is wrong.
func NewRunner(db *txn.DB, jobs []Job, cfg RunnerConfig) (*Runner, error) {
	if cfg.LookEvery == 0 {
		cfg.LookEvery = time.Second
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 6
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = 10 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	r := &Runner{db: db, runs: txn.NewJobs(db), cfg: cfg, metrics: newRunnerMetrics()}
	for _, job := range jobs {
		if job.TimeZone == nil {
			job.TimeZone = time.UTC
		}
		if job.Parallel == 0 {
			job.Parallel = 4
		}
		schedule, err := parseSchedule(job.Schedule)
		if err != nil {
			return nil, fmt.Errorf("schedule %q of job %s: %w; write five fields: minute, hour, day of month, month, day of week", job.Schedule, job.Name, err)
		}
		r.jobs = append(r.jobs, &scheduledJob{job, schedule})
	}
	return r, nil
}

// never is the schedule of what runs by hand alone.
type never struct{}

// Next is at no time.
func (never) Next(time.Time) time.Time { return time.Time{} }

func parseSchedule(text string) (cron.Schedule, error) {
	if text == "" {
		return never{}, nil
	}
	return cron.ParseStandard(text)
}

// RegisterMetrics makes the runner's metrics known.
func (r *Runner) RegisterMetrics(registry prometheus.Registerer) { r.metrics.register(registry) }

// ScheduledJob is a job with when it runs next, in its own time zone.
type ScheduledJob struct {
	Job
	Next time.Time
}

// Jobs are those that the runner knows.
func (r *Runner) Jobs() []ScheduledJob {
	now := r.cfg.Clock()
	list := make([]ScheduledJob, len(r.jobs))
	for i, job := range r.jobs {
		list[i] = ScheduledJob{job.Job, job.schedule.Next(now.In(job.TimeZone))}
	}
	return list
}

// Knows reports whether there is a job of a name.
func (r *Runner) Knows(name string) bool { return r.find(name) != nil }

func (r *Runner) find(name string) *scheduledJob {
	for _, job := range r.jobs {
		if job.Name == name {
			return job
		}
	}
	return nil
}

// Lead runs what is due until ctx ends or another node leads. It goes on with
// the runs that earlier leaders left.
func (r *Runner) Lead(ctx context.Context, holder string) {
	term, err := r.takeLead(ctx, holder)
	if err != nil {
		return
	}
	r.cfg.Log.Info("this node leads the jobs", "epoch", term.Epoch)
	r.metrics.leading.Set(1)
	ctx, depose := context.WithCancel(ctx)
	defer depose()
	l := &leadership{Runner: r, term: term, depose: depose, busy: make(map[string]bool), due: make(map[string]time.Time)}
	defer func() {
		l.running.Wait()
		r.metrics.leading.Set(0)
		r.cfg.Log.Info("this node leads no more", "epoch", term.Epoch)
	}()
	tick := time.NewTicker(r.cfg.LookEvery)
	defer tick.Stop()
	away := false
	for {
		err := l.look(ctx)
		if err != nil && ctx.Err() == nil && !away {
			r.cfg.Log.Warn("jobs cannot be looked for; trying again", "error", err)
		}
		away = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// takeLead raises the epoch, as often as it takes.
func (r *Runner) takeLead(ctx context.Context, holder string) (txn.Term, error) {
	for {
		term, err := r.db.TakeLead(ctx, holder)
		if err == nil || ctx.Err() != nil {
			return term, err
		}
		r.cfg.Log.Warn("this node is to lead the jobs, and the database does not answer; trying again", "error", err)
		pause(ctx, r.cfg.LookEvery)
	}
}

// leadership is one term of a runner.
type leadership struct {
	*Runner
	term   txn.Term
	depose func()

	running sync.WaitGroup
	mu      sync.Mutex
	busy    map[string]bool      // jobs that are running
	due     map[string]time.Time // when each job was last due
}

// look schedules what is due and starts what is to run.
func (l *leadership) look(ctx context.Context) error {
	for _, job := range l.jobs {
		if err := l.schedule(ctx, job); err != nil {
			return l.noted(err)
		}
	}
	// What ends while the runs are read may be listed as unfinished.
	running := l.busyJobs()
	runs, err := l.runs.Unfinished(ctx)
	if err != nil {
		return err
	}
	for _, run := range runs {
		job := l.find(run.Job)
		if job == nil || running[run.Job] || !l.begin(run.Job) {
			continue
		}
		l.running.Go(func() {
			defer l.end(run.Job)
			if err := l.run(ctx, job, run); err != nil && ctx.Err() == nil {
				l.cfg.Log.Warn("a run of a job was interrupted; it goes on where it was", "job", run.Job, "scheduled", run.ScheduledAt, "error", l.noted(err))
			}
		})
	}
	return nil
}

// noted ends the term where the database says that it has ended.
func (l *leadership) noted(err error) error {
	if errors.Is(err, txn.ErrDeposed) {
		l.depose()
	}
	return err
}

func (l *leadership) busyJobs() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.busy)
}

func (l *leadership) begin(job string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[job] {
		return false
	}
	l.busy[job] = true
	return true
}

func (l *leadership) end(job string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, job)
}

// schedule records the latest run of a job that is due. Runs that nobody was
// there for are not made up for one by one: one run does for all of them.
func (l *leadership) schedule(ctx context.Context, job *scheduledJob) error {
	now := l.cfg.Clock().In(job.TimeZone)
	last, known := l.due[job.Name]
	if !known {
		var err error
		if last, err = l.runs.LastScheduled(ctx, job.Name, now.Add(time.Second)); err != nil {
			return err
		}
		if last.IsZero() {
			last = now
		}
		l.due[job.Name] = last
	}
	due := latest(job, last.In(job.TimeZone), now)
	if due.IsZero() || now.Before(due.Add(job.delay(due))) {
		return nil
	}
	if err := l.runs.Schedule(ctx, l.term, job.Name, due); err != nil {
		return err
	}
	l.due[job.Name] = due
	return nil
}

// latest is the last time after one, and not after now, at which a job is due;
// zero where there is none.
func latest(job *scheduledJob, after, now time.Time) time.Time {
	next := job.schedule.Next(after)
	if next.IsZero() {
		return next
	}
	// After a long silence, start near the end: a job runs at least once a year.
	for _, near := range []time.Duration{time.Hour, 25 * time.Hour, 32 * 24 * time.Hour} {
		if from := job.schedule.Next(now.Add(-near)); !from.After(now) && from.After(next) {
			next = from
			break
		}
	}
	var found time.Time
	for !next.IsZero() && !next.After(now) {
		found, next = next, job.schedule.Next(next)
	}
	return found
}

// delay is by how much a run begins later than it is due: the same on every
// node.
func (j *scheduledJob) delay(due time.Time) time.Duration {
	if j.Jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, j.Name, due.Unix())
	return time.Duration(h.Sum64() % uint64(j.Jitter))
}

// run does a run of a job, from where it is to its end.
func (l *leadership) run(ctx context.Context, job *scheduledJob, run txn.JobRun) error {
	list, owed, err := l.toVisit(ctx, job, &run)
	if err != nil {
		return err
	}
	if run.StartedAt.IsZero() {
		run.StartedAt = l.cfg.Clock()
	}
	run.Total = run.Clinics + int64(len(list))
	if err := l.runs.Record(ctx, l.term, &run, nil, l.cfg.Clock()); err != nil {
		return err
	}
	if err := l.visit(ctx, job, &run, list, owed); err != nil {
		return err
	}
	if job.Finally != nil {
		if err := job.Finally(ctx, l.term); err != nil {
			return err
		}
	}
	run.FinishedAt = l.cfg.Clock()
	if err := l.runs.Record(ctx, l.term, &run, nil, l.cfg.Clock()); err != nil {
		return err
	}
	l.metrics.ended(&run)
	level := slog.LevelInfo
	if run.Commands+run.Findings+run.Failures == 0 {
		level = slog.LevelDebug
	}
	l.cfg.Log.Log(ctx, level, "a job has run", "job", run.Job, "clinics", run.Clinics, "commands", run.Commands, "findings", run.Findings, "failures", run.Failures)
	return nil
}

// listedAtOnce is how many clinics are asked for at a time.
const listedAtOnce = 1000

// toVisit lists the clinics that a run has still to visit, in order: those that
// the job is about, and those that earlier runs have missed, which are owed.
func (l *leadership) toVisit(ctx context.Context, job *scheduledJob, run *txn.JobRun) (list []ledger.ClinicID, owed map[ledger.ClinicID]bool, err error) {
	turn := Turn{Due: run.ScheduledAt, Now: l.cfg.Clock()}
	if run.RequestedBy == "" {
		if turn.Previous, err = l.runs.LastScheduled(ctx, job.Name, run.ScheduledAt); err != nil {
			return nil, nil, err
		}
	}
	for after := run.After; ; after = list[len(list)-1] {
		some, err := job.Clinics(ctx, turn, after, listedAtOnce)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, some...)
		if len(some) < listedAtOnce {
			break
		}
	}
	missed, err := l.runs.Missed(ctx, job.Name, run.After)
	if err != nil {
		return nil, nil, err
	}
	owed = make(map[ledger.ClinicID]bool, len(missed))
	for _, clinic := range missed {
		owed[clinic] = true
	}
	list = append(list, missed...)
	slices.Sort(list)
	return slices.Compact(list), owed, nil
}

// ahead is how far the work may get ahead of a clinic that holds up the run's
// record, in multiples of what is done at a time: it is what a crash repeats.
const ahead = 16

// visit does the work at clinics, several at a time, and records each as soon as
// all before it are done.
func (l *leadership) visit(ctx context.Context, job *scheduledJob, run *txn.JobRun, list []ledger.ClinicID, owed map[ledger.ClinicID]bool) error {
	ctx, stop := context.WithCancel(ctx)
	looked, isDone := make([]txn.ClinicLooked, len(list)), make([]bool, len(list))
	next, done := make(chan int, job.Parallel), make(chan int, len(list))
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	for range min(job.Parallel, len(list)) {
		workers.Go(func() {
			each(ctx, next, func(i int) {
				looked[i] = l.patiently(ctx, job, list[i])
				looked[i].Owed = owed[list[i]]
				done <- i
			})
		})
	}
	given, recorded := 0, 0
	for recorded < len(list) {
		give := next
		if given == len(list) || given >= recorded+ahead*job.Parallel {
			give = nil
		}
		select {
		case give <- given:
			given++
			continue
		case i := <-done:
			isDone[i] = true
		case <-ctx.Done():
		}
		for len(done) > 0 { // whatever ended while the last ones were recorded
			isDone[<-done] = true
		}
		if ctx.Err() != nil {
			return ctx.Err() // who was cut off does not know what it left undone
		}
		from := recorded
		for recorded < len(list) && isDone[recorded] {
			recorded++
		}
		if recorded == from {
			continue
		}
		if err := l.runs.Record(ctx, l.term, run, looked[from:recorded], l.cfg.Clock()); err != nil {
			return err
		}
		clear(looked[from:recorded])
	}
	return nil
}

// each does what comes, until ctx ends.
func each(ctx context.Context, next <-chan int, do func(int)) {
	for {
		select {
		case i := <-next:
			do(i)
		case <-ctx.Done():
			return
		}
	}
}

// patiently does the work at a clinic, several times where it fails.
func (l *leadership) patiently(ctx context.Context, job *scheduledJob, clinic ledger.ClinicID) txn.ClinicLooked {
	wait := l.cfg.RetryAfter / 64
	for attempt := 1; ; attempt++ {
		looked, err := job.Do(ctx, txn.Errand{Clinic: clinic, Now: l.cfg.Clock(), Term: l.term})
		switch {
		case err == nil:
			return txn.ClinicLooked{Clinic: clinic, Looked: looked}
		case errors.Is(err, txn.ErrRestoring) || errors.Is(err, txn.ErrMoving):
			return txn.ClinicLooked{Clinic: clinic, Away: true} // its turn comes when it is back
		case errors.Is(l.noted(err), txn.ErrDeposed), ctx.Err() != nil:
			return txn.ClinicLooked{Clinic: clinic, Failure: err}
		case attempt >= l.cfg.Attempts:
			l.cfg.Log.Error("a job cannot be done at a clinic, and goes on with the others", "job", job.Name, "clinic", clinic, "error", err)
			return txn.ClinicLooked{Clinic: clinic, Failure: err}
		}
		pause(ctx, wait)
		wait = min(2*wait, l.cfg.RetryAfter)
	}
}

type runnerMetrics struct {
	leading  prometheus.Gauge
	runs     *prometheus.CounterVec
	findings *prometheus.GaugeVec
	failures *prometheus.CounterVec
	finished *prometheus.GaugeVec
	took     *prometheus.HistogramVec
}

func newRunnerMetrics() *runnerMetrics {
	job := []string{"job"}
	return &runnerMetrics{
		leading:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "stockledger_jobs_leading", Help: "1 while this node runs the background jobs. The sum over all nodes is 1, but for a few seconds after the leader was lost."}),
		runs:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stockledger_job_runs_total", Help: "Runs of background jobs that this node ended."}, job),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "stockledger_job_failures_total", Help: "Clinics at which a job could not be done. stockledger jobs runs says why."}, job),
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "stockledger_job_findings", Help: "What the last run on this node found that somebody should look at. For the reconciliation, anything above 0 is an emergency."}, job),
		finished: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "stockledger_job_finished_timestamp_seconds", Help: "When the last run on this node ended."}, job),
		took:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "stockledger_job_duration_seconds", Help: "Time from the start of a run to its end, over all leaders.", Buckets: prometheus.ExponentialBuckets(0.1, 4, 10)}, job),
	}
}

func (m *runnerMetrics) register(r prometheus.Registerer) {
	r.MustRegister(m.leading, m.runs, m.failures, m.findings, m.finished, m.took)
}

func (m *runnerMetrics) ended(run *txn.JobRun) {
	m.runs.WithLabelValues(run.Job).Inc()
	m.failures.WithLabelValues(run.Job).Add(float64(run.Failures))
	m.findings.WithLabelValues(run.Job).Set(float64(run.Findings))
	m.finished.WithLabelValues(run.Job).Set(float64(run.FinishedAt.Unix()))
	m.took.WithLabelValues(run.Job).Observe(run.FinishedAt.Sub(run.StartedAt).Seconds())
}
