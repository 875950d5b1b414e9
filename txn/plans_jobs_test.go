package txn

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// TestPlansOfJobs explains what the leader records and what operators ask of it.
// It leads alone while it runs: other tests of leaders do not run beside it.
func TestPlansOfJobs(t *testing.T) {
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	ctx, jobs := t.Context(), NewJobs(db)
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(5)
	chores := NewChores(NewDirectory(db), nil, slog.Default())
	job, at := "test-"+newClinicID(t), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	var term Term
	run := JobRun{Job: job, ScheduledAt: at, StartedAt: at}
	const (
		leader = "leadership_pkey(role)"
		runs   = "job_runs_pkey(job, scheduled_at)"
		found  = "job_findings_pkey(clinic_id, job)"
	)
	for _, test := range []wantPlan{
		{"take the lead", func() (err error) { term, err = db.TakeLead(ctx, "leader"); return err }, []string{"leadership_pkey(conflict)"}},
		{"schedule", func() error { return jobs.Schedule(ctx, term, job, at) }, []string{leader, "job_runs_pkey(conflict)"}},
		{"record", func() error {
			return jobs.Record(ctx, term, &run, []ClinicLooked{
				{Clinic: c.id, Owed: true, Looked: Looked{Findings: []Finding{{Subject: "it", Kind: "K"}}}}, {Clinic: "other", Away: true},
			}, at)
		}, []string{leader, runs, found, "job_findings_pkey(conflict)", "job_missed_pkey(job, clinic_id)", "job_missed_pkey(conflict)"}},
		{"note in a term", func() error {
			_, err := chores.Reconcile(ctx, Errand{Clinic: c.id, Now: at, Term: term})
			return err
		}, []string{leader, "reconciled_pkey(conflict)"}},
	} {
		p.check(test, writeSession)
	}
	read.take() // of the reconciliation, which others explain
	for _, test := range []wantPlan{
		{"who leads", func() error { _, err := db.Leader(ctx); return err }, []string{leader}},
		{"runs", func() error {
			_, unfinished := jobs.Unfinished(ctx)
			_, last := jobs.LastScheduled(ctx, job, at)
			_, all := jobs.Runs(ctx, job, at, 10)
			return errors.Join(unfinished, last, all)
		}, []string{runs, "job_runs_unfinished"}},
		{"missed", func() error { _, err := jobs.Missed(ctx, job, "a"); return err }, []string{"job_missed_pkey(job, clinic_id)"}},
		{"findings", func() error { _, err := jobs.Findings(ctx, c.id, job, FindingPlace{}, 10); return err }, []string{found}},
		{"clinics with findings", func() error {
			_, all := jobs.ClinicsWithFindings(ctx, "", "", ClinicFindings{}, 10)
			_, some := jobs.ClinicsWithFindings(ctx, job, "K", ClinicFindings{Job: job, Kind: "K", Clinic: "a"}, 10)
			_, flagged := jobs.Flagged(ctx)
			return errors.Join(all, some, flagged)
		}, []string{"job_findings_by_kind(job)", "job_findings_by_kind(job, kind, clinic_id)"}},
		{"new days", func() error { _, err := chores.WithNewDay(ctx, at, at, c.id, 5); return err }, []string{"heads_pkey(clinic_id)", "clinics_pkey(clinic_id)"}},
		{"a head", func() error { _, err := HeadOf(ctx, NewDirectory(db), c.id); return err }, []string{"heads_pkey(clinic_id)", "sealed_clinics_pkey(clinic_id)"}},
		{"clinics", func() error { _, err := chores.Clinics(ctx, at, ledger.ClinicID("a"), 5); return err }, []string{"heads_pkey(clinic_id)"}},
	} {
		p.check(test, readSession)
	}
}
