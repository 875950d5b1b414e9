package txn

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// How much is deleted in one transaction: operations, and parts of results.
const (
	forgetAtATime = 500
	partsAtATime  = 32
)

const (
	markDeleted     = `UPDATE reports SET deleted_at = $4 WHERE clinic_id = $1 AND idempotency_key = $2 AND run = $3`
	deleteReport    = `DELETE FROM reports WHERE clinic_id = $1 AND idempotency_key = $2 AND run = $3`
	deletePartsUpTo = `DELETE FROM report_parts WHERE clinic_id = $1 AND idempotency_key = $2 AND (run, part) <= ($3, $4)`
)

// endedReport is a report in its last run.
type endedReport struct {
	key      string
	run      int
	finished *time.Time // nil while it waits
}

// ForgetResults deletes what was read of a clinic's reports that ended before a
// moment, a few parts at a time. What became of them is told further on.
func (o *Operations) ForgetResults(ctx context.Context, clinic ledger.ClinicID, before, at time.Time) error {
	for after, more := "", true; more; {
		reports, err := o.withResults(ctx, clinic, after)
		if err != nil {
			return fmt.Errorf("txn: list the results of reports: %w", err)
		}
		for _, r := range reports {
			after = r.key
			if r.finished == nil || !r.finished.Before(before) {
				continue
			}
			if err := o.forgetResult(ctx, clinic, r, at); err != nil {
				return fmt.Errorf("txn: delete the result of a report: %w", err)
			}
		}
		more = len(reports) == forgetAtATime
	}
	return nil
}

// withResults lists a clinic's reports whose results were not deleted.
func (o *Operations) withResults(ctx context.Context, clinic ledger.ClinicID, after string) (reports []endedReport, err error) {
	err = o.directory.read(ctx, clinic, func(tx pgx.Tx) error {
		reports, err = collect(ctx, tx, selectFrom(`SELECT r.idempotency_key, r.run,
			(SELECT o.finished_at FROM operations AS o WHERE o.clinic_id = r.clinic_id AND o.idempotency_key = r.idempotency_key)
			FROM reports AS r WHERE`).
			add(` r.clinic_id = ? AND r.idempotency_key > ? AND r.deleted_at IS NULL`, clinic, after).
			add(` ORDER BY r.idempotency_key LIMIT ?`, forgetAtATime), func(rows pgx.Rows, r *endedReport) error { return rows.Scan(&r.key, &r.run, &r.finished) })
		return err
	})
	return reports, err
}

// forgetResult deletes a result. That it is deleted stands there first, so that
// nobody gets a piece of it; a report that was begun anew keeps its new run.
func (o *Operations) forgetResult(ctx context.Context, clinic ledger.ClinicID, r endedReport, at time.Time) error {
	err := o.directory.write(ctx, clinic, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, markDeleted, clinic, r.key, r.run, at)
		return err
	})
	if err != nil {
		return err
	}
	return o.deleteParts(ctx, clinic, r)
}

func (o *Operations) deleteParts(ctx context.Context, clinic ledger.ClinicID, r endedReport) error {
	type place struct{ run, part int }
	for more := true; more; {
		err := o.directory.write(ctx, clinic, func(tx pgx.Tx) error {
			places, err := collect(ctx, tx, selectFrom(`SELECT run, part FROM report_parts WHERE`).
				add(` clinic_id = ? AND idempotency_key = ? AND run <= ? ORDER BY run, part LIMIT ?`, clinic, r.key, r.run, partsAtATime),
				func(rows pgx.Rows, p *place) error { return rows.Scan(&p.run, &p.part) })
			if more = len(places) == partsAtATime; err != nil || len(places) == 0 {
				return err
			}
			last := places[len(places)-1]
			_, err = tx.Exec(ctx, deletePartsUpTo, clinic, r.key, last.run, last.part)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Forget deletes a clinic's operations that ended before a moment, some at a
// time, and with reports what is left of their results, for the leader of a
// term.
func (o *Operations) Forget(ctx context.Context, term Term, clinic ledger.ClinicID, before time.Time) error {
	// Who does not lead any more need not look for anything.
	if err := o.directory.writeInTerm(ctx, term, clinic, func(pgx.Tx) error { return nil }); err != nil {
		return fmt.Errorf("txn: forget operations: %w", err)
	}
	for _, state := range operationStates[1:] {
		for after, more := (OperationPlace{}), true; more; {
			old, err := o.old(ctx, clinic, state, after, before)
			if err == nil && len(old) > 0 {
				err = o.forget(ctx, term, clinic, state, after, old, before)
				after = old[len(old)-1].OperationPlace
			}
			if err != nil {
				return fmt.Errorf("txn: forget operations: %w", err)
			}
			more = len(old) == forgetAtATime
		}
	}
	return nil
}

// oldOperation is one that ended long ago.
type oldOperation struct {
	OperationPlace
	kind ledger.Kind
	run  int // of a report
}

// old lists operations that ended before a moment. They were submitted before it
// too, which is what the index knows.
func (o *Operations) old(ctx context.Context, clinic ledger.ClinicID, state OperationState, after OperationPlace, before time.Time) (old []oldOperation, err error) {
	err = o.directory.read(ctx, clinic, func(tx pgx.Tx) error {
		old, err = collect(ctx, tx, selectFrom(`SELECT o.submitted_at, o.idempotency_key, o.kind,
			COALESCE((SELECT r.run FROM reports AS r WHERE r.clinic_id = o.clinic_id AND r.idempotency_key = o.idempotency_key), 0)
			FROM operations AS o WHERE`).
			add(` o.clinic_id = ? AND o.state = ? AND (o.submitted_at, o.idempotency_key) > (?, ?)`, clinic, state, after.SubmittedAt, after.IdempotencyKey).
			add(` AND o.submitted_at < ? AND o.finished_at < ?`, before, before).
			add(` ORDER BY o.submitted_at, o.idempotency_key LIMIT ?`, forgetAtATime),
			func(rows pgx.Rows, o *oldOperation) error {
				return rows.Scan(&o.SubmittedAt, &o.IdempotencyKey, &o.kind, &o.run)
			})
		return err
	})
	return old, err
}

func (o *Operations) forget(ctx context.Context, term Term, clinic ledger.ClinicID, state OperationState, after OperationPlace, old []oldOperation, before time.Time) error {
	var reports []endedReport
	for _, op := range old {
		if op.kind != reportKind {
			continue
		}
		reports = append(reports, endedReport{key: op.IdempotencyKey, run: op.run})
		if err := o.forgetResult(ctx, clinic, reports[len(reports)-1], before); err != nil {
			return err
		}
	}
	last := old[len(old)-1]
	return o.directory.writeInTerm(ctx, term, clinic, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, deleteOperations, clinic, state, after.SubmittedAt, after.IdempotencyKey, last.SubmittedAt, last.IdempotencyKey, before)
		if err != nil || len(reports) == 0 {
			return err
		}
		var b pgx.Batch
		for _, r := range reports {
			b.Queue(deleteReport, clinic, r.key, r.run)
		}
		return tx.SendBatch(ctx, &b).Close()
	})
}
