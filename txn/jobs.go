package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// JobRun is one run of a background job.
type JobRun struct {
	Job string
	// ScheduledAt is when it was due, or when somebody asked for it. With Job it
	// names the run.
	ScheduledAt time.Time
	RequestedBy ledger.Actor // empty: the schedule
	Node        string       // the leader that has it; empty until one has
	Epoch       int64        // of that leader
	StartedAt   time.Time    // zero until it was begun
	FinishedAt  time.Time    // zero until it was ended
	// After is the clinic up to which all are done, in the order of their ids.
	After    ledger.ClinicID
	Clinics  int64 // that were looked at
	Total    int64 // that there are to look at, from the start of the run on
	Commands int64 // that were accepted
	Findings int64
	Failures int64  // clinics that could not be done
	Failure  string // why the last of them could not
}

// Finding is something that a job wants somebody to look at.
type Finding struct {
	Clinic       ledger.ClinicID
	Job          string
	Subject      string // what it is about: a document, a shelf, an account
	Kind         string // what is the matter, a fixed word
	Message      string
	Sequence     ledger.Sequence // the command concerned; 0 where none can be named
	FirstFoundAt time.Time
	FoundAt      time.Time
}

// Looked is what a job came to at one clinic.
type Looked struct {
	Commands int64 // that were accepted
	// Findings replace what the job had found at the clinic before.
	Findings []Finding
}

// ClinicLooked is what a job came to at a certain clinic, or why it could not.
type ClinicLooked struct {
	Clinic ledger.ClinicID
	Looked
	Failure error
	// Away tells that the clinic was being restored or moved.
	Away bool
	// Owed tells that an earlier run had missed the clinic.
	Owed bool
}

// missed tells that the job was not done at the clinic.
func (l *ClinicLooked) missed() bool { return l.Away || l.Failure != nil }

// JobReconcile is the job whose findings mean that what is stored does not
// follow from a journal.
const JobReconcile = "reconcile"

// Jobs keeps the runs of background jobs and what they found.
type Jobs struct{ db *DB }

// NewJobs returns the jobs of a database.
func NewJobs(db *DB) *Jobs { return &Jobs{db} }

const (
	jobRunColumns = `job, scheduled_at, requested_by, node, epoch, started_at, finished_at, after_clinic, clinics, clinics_total, commands, findings, failures, failure`
	insertJobRun  = `INSERT INTO job_runs (` + jobRunColumns + `)
		VALUES ($1, $2, $3, '', 0, NULL, NULL, '', 0, 0, 0, 0, 0, '') ON CONFLICT (job, scheduled_at) DO NOTHING`
	updateJobRun = `UPDATE job_runs SET node = $3, epoch = $4, started_at = $5, finished_at = $6, after_clinic = $7,
		clinics = $8, clinics_total = $9, commands = $10, findings = $11, failures = $12, failure = $13 WHERE job = $1 AND scheduled_at = $2`
	deleteJobRuns = `DELETE FROM job_runs WHERE scheduled_at < $1 AND finished_at IS NOT NULL`
	upsertFinding = `INSERT INTO job_findings (clinic_id, job, subject, kind, message, sequence, first_found_at, found_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (clinic_id, job, subject, kind)
		DO UPDATE SET message = excluded.message, sequence = excluded.sequence, found_at = excluded.found_at`
	deleteStaleFindings = `DELETE FROM job_findings WHERE clinic_id = $1 AND job = $2 AND found_at <> $3`
	upsertMissed        = `INSERT INTO job_missed (job, clinic_id, missed_at) VALUES ($1, $2, $3) ON CONFLICT (job, clinic_id) DO NOTHING`
	deleteMissed        = `DELETE FROM job_missed WHERE job = $1 AND clinic_id = $2`
	selectMissed        = `SELECT clinic_id FROM job_missed WHERE job = $1 AND clinic_id > $2 ORDER BY clinic_id`
	countFlagged        = `SELECT count(DISTINCT clinic_id) FROM job_findings WHERE job = $1`
)

func scanJobRun(rows pgx.Rows, r *JobRun) error {
	var started, finished *time.Time
	err := rows.Scan(&r.Job, &r.ScheduledAt, &r.RequestedBy, &r.Node, &r.Epoch, &started, &finished,
		&r.After, &r.Clinics, &r.Total, &r.Commands, &r.Findings, &r.Failures, &r.Failure)
	if started != nil {
		r.StartedAt = *started
	}
	if finished != nil {
		r.FinishedAt = *finished
	}
	return err
}

// Schedule records that a run is due, unless it was recorded before.
func (j *Jobs) Schedule(ctx context.Context, term Term, job string, at time.Time) error {
	err := j.db.inTerm(ctx, term, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertJobRun, job, at, "")
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: schedule job %s: %w", job, err)
	}
	return nil
}

// Request asks for a run by hand. The leader sees it within a second or so.
func (j *Jobs) Request(ctx context.Context, job string, by ledger.Actor, at time.Time) (JobRun, error) {
	at = at.Truncate(time.Microsecond)
	err := j.db.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertJobRun, job, at, by)
		return err
	})
	if err != nil {
		return JobRun{}, fmt.Errorf("txn: request job %s: %w", job, err)
	}
	return JobRun{Job: job, ScheduledAt: at, RequestedBy: by}, nil
}

// Unfinished returns the runs that have not ended, the oldest first.
func (j *Jobs) Unfinished(ctx context.Context) ([]JobRun, error) {
	return j.list(ctx, selectFrom(`SELECT `+jobRunColumns+` FROM job_runs WHERE finished_at IS NULL ORDER BY scheduled_at, job`))
}

// LastScheduled returns when the last run of a job that the schedule asked for
// was due, before a moment; zero where there was none.
func (j *Jobs) LastScheduled(ctx context.Context, job string, before time.Time) (time.Time, error) {
	runs, err := j.list(ctx, selectFrom(`SELECT `+jobRunColumns+` FROM job_runs WHERE`).
		add(` job = ? AND requested_by = '' AND scheduled_at < ? ORDER BY scheduled_at DESC LIMIT 1`, job, before))
	if err != nil || len(runs) == 0 {
		return time.Time{}, err
	}
	return runs[0].ScheduledAt, nil
}

// Runs returns the runs of a job before a moment, the latest first.
func (j *Jobs) Runs(ctx context.Context, job string, before time.Time, limit int) ([]JobRun, error) {
	return j.list(ctx, selectFrom(`SELECT `+jobRunColumns+` FROM job_runs WHERE`).
		add(` job = ? AND scheduled_at < ? ORDER BY scheduled_at DESC LIMIT ?`, job, before, limit))
}

func (j *Jobs) list(ctx context.Context, s *selection) (runs []JobRun, err error) {
	err = j.db.readTx(ctx, func(tx pgx.Tx) error {
		runs, err = collect(ctx, tx, s, scanJobRun)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list runs of jobs: %w", err)
	}
	return runs, nil
}

// Record writes how far a run has come, with what it came to at clinics since it
// was last recorded. It is refused with [ErrDeposed] once the term has ended.
func (j *Jobs) Record(ctx context.Context, term Term, run *JobRun, looked []ClinicLooked, at time.Time) error {
	next := *run
	next.Node, next.Epoch = term.Holder, term.Epoch
	for _, l := range looked {
		next.After = max(next.After, l.Clinic)
		next.Clinics++
		next.Commands += l.Commands
		next.Findings += int64(len(l.Findings))
		if l.Failure != nil {
			next.Failures++
			next.Failure = fmt.Sprintf("clinic %s: %v", l.Clinic, l.Failure)
		}
	}
	// Microseconds, as they come back: what has another time was found before.
	at = at.Truncate(time.Microsecond)
	err := j.db.inTerm(ctx, term, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, updateJobRun, next.Job, next.ScheduledAt, next.Node, next.Epoch, nullTime(next.StartedAt), nullTime(next.FinishedAt),
			next.After, next.Clinics, next.Total, next.Commands, next.Findings, next.Failures, next.Failure)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errors.New("the run is not recorded any more")
		}
		return replaceFindings(ctx, tx, next.Job, looked, at)
	})
	if err != nil {
		return fmt.Errorf("txn: record the run of job %s: %w", run.Job, err)
	}
	*run = next
	return nil
}

func replaceFindings(ctx context.Context, tx pgx.Tx, job string, looked []ClinicLooked, at time.Time) error {
	var b pgx.Batch
	for i := range looked {
		l := &looked[i]
		switch {
		case l.missed():
			b.Queue(upsertMissed, job, l.Clinic, at)
			continue // what was found before is as true as it was
		case l.Owed:
			b.Queue(deleteMissed, job, l.Clinic)
		}
		for _, f := range l.Findings {
			b.Queue(upsertFinding, l.Clinic, job, f.Subject, f.Kind, f.Message, f.Sequence, at)
		}
		b.Queue(deleteStaleFindings, l.Clinic, job, at)
	}
	if b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &b).Close()
}

func nullTime(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

// Forget deletes what is known of runs that ended and were due before a moment.
func (j *Jobs) Forget(ctx context.Context, term Term, before time.Time) (runs int64, err error) {
	err = j.db.inTerm(ctx, term, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, deleteJobRuns, before)
		runs = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("txn: forget old runs of jobs: %w", err)
	}
	return runs, nil
}

// Missed returns the clinics after one that earlier runs of a job have missed.
func (j *Jobs) Missed(ctx context.Context, job string, after ledger.ClinicID) (ids []ledger.ClinicID, err error) {
	err = j.db.readTx(ctx, func(tx pgx.Tx) error {
		s := selectFrom(selectMissed)
		s.args = []any{job, after}
		ids, err = collect(ctx, tx, s, func(rows pgx.Rows, id *ledger.ClinicID) error { return rows.Scan(id) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list the clinics that job %s missed: %w", job, err)
	}
	return ids, nil
}

// FindingPlace is a place in the list of a clinic's findings.
type FindingPlace struct{ Job, Subject, Kind string }

// Findings returns what the jobs found at a clinic, by job (empty: all), from
// after a place.
func (j *Jobs) Findings(ctx context.Context, clinic ledger.ClinicID, job string, after FindingPlace, limit int) (findings []Finding, err error) {
	err = j.db.readTx(ctx, func(tx pgx.Tx) error {
		s := selectFrom(`SELECT clinic_id, job, subject, kind, message, sequence, first_found_at, found_at FROM job_findings WHERE`).
			add(` clinic_id = ?`, clinic).addIf(job != "", ` AND job = ?`, job).
			add(` AND (job, subject, kind) > (?, ?, ?) ORDER BY job, subject, kind LIMIT ?`, after.Job, after.Subject, after.Kind, limit)
		findings, err = collect(ctx, tx, s, func(rows pgx.Rows, f *Finding) error {
			return rows.Scan(&f.Clinic, &f.Job, &f.Subject, &f.Kind, &f.Message, &f.Sequence, &f.FirstFoundAt, &f.FoundAt)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list findings: %w", err)
	}
	return findings, nil
}

// ClinicFindings is how much a job found of one kind at a clinic.
type ClinicFindings struct {
	Job, Kind    string
	Clinic       ledger.ClinicID
	Findings     int64
	FirstFoundAt time.Time // of those that are there still
}

// ClinicsWithFindings returns at which clinics the jobs found something, by job
// (empty: all), kind (empty: all) and clinic, from after a place, which is told
// by those three.
func (j *Jobs) ClinicsWithFindings(ctx context.Context, job, kind string, after ClinicFindings, limit int) (list []ClinicFindings, err error) {
	err = j.db.readTx(ctx, func(tx pgx.Tx) error {
		s := selectFrom(`SELECT job, kind, clinic_id, count(*), min(first_found_at) FROM job_findings WHERE`).
			add(` (job, kind, clinic_id) > (?, ?, ?)`, after.Job, after.Kind, after.Clinic).
			addIf(job != "", ` AND job = ?`, job).addIf(kind != "", ` AND kind = ?`, kind).
			add(` GROUP BY job, kind, clinic_id ORDER BY job, kind, clinic_id LIMIT ?`, limit)
		list, err = collect(ctx, tx, s, func(rows pgx.Rows, c *ClinicFindings) error {
			return rows.Scan(&c.Job, &c.Kind, &c.Clinic, &c.Findings, &c.FirstFoundAt)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list clinics with findings: %w", err)
	}
	return list, nil
}

// Flagged counts the clinics at which the last reconciliation found that what is
// stored does not follow from the journal.
func (j *Jobs) Flagged(ctx context.Context) (clinics int64, err error) {
	err = j.db.readTx(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, countFlagged, JobReconcile).Scan(&clinics) })
	if err != nil {
		return 0, fmt.Errorf("txn: count the clinics that are flagged: %w", err)
	}
	return clinics, nil
}
