package txn

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ReportPriority is where reports wait, which come after all commands.
const ReportPriority Priority = 4

// reportKind marks an operation that is no command.
const reportKind ledger.Kind = 0

// MaxReportPart is the most bytes that a part of a result has.
const MaxReportPart = 1 << 20

// maxWaitingReports is how many reports may wait at a clinic.
const maxWaitingReports = 100

// ResultsAreKept is how long a report's result can be fetched after it ended.
const ResultsAreKept = 7 * 24 * time.Hour

// ErrTooManyReports means that so many reports wait at the clinic that no further
// one is taken.
var ErrTooManyReports = errors.New("txn: too many reports wait at the clinic")

// ErrReportMoved means that somebody else has taken the report a step further, or
// has begun it anew. Nothing was written.
var ErrReportMoved = errors.New("txn: another node has taken the report further")

// NewReport is a report that is to be read later.
type NewReport struct {
	Clinic         ledger.ClinicID
	IdempotencyKey string
	Name           string
	Parameters     string // in one spelling, since they are compared
	Actor          ledger.Actor
	// Submission is the report with the rights of who asks, in an encoding of the
	// caller's: it comes back as it is.
	Submission []byte
}

// hash tells reports under the same key apart.
func (n *NewReport) hash() []byte {
	sum := sha256.New()
	for _, part := range []string{"report", string(n.Clinic), string(n.Actor), n.Name, n.Parameters} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		sum.Write(length[:])
		sum.Write([]byte(part))
	}
	return sum.Sum(nil)
}

// ReportProgress tells which report an operation is, and how far it has come.
type ReportProgress struct {
	Name       string
	Parameters string
	Run        int    // counts how often it was begun
	PageToken  string // where the next page begins
	Rows       int64  // that were read
	Total      int64  // rows that there will be; 0 where it is not known
	Parts      int    // of the result, until now
	Bytes      int64
	Sequence   ledger.Sequence // that the first rows show
	DeletedAt  time.Time       // zero while the result is there
}

// IsReport tells a report from a command.
func (o *Operation) IsReport() bool { return o.Kind == reportKind }

// ReportPage is a page that was read of a report, as bytes of its result.
type ReportPage struct {
	Data     []byte
	Rows     int64
	Total    int64 // rows that there will be; 0 where it is not known
	Sequence ledger.Sequence
	Next     string // the token of the next page; empty at the end
}

// ReportError is why a page of a report can't be read.
type ReportError struct {
	Cause *ledger.Rejection
	// Final tells that it will not be otherwise next time.
	Final bool
	// Anew tells that the report can be read, but not on from where it is.
	Anew bool
}

// Error is the cause.
func (e *ReportError) Error() string { return e.Cause.Error() }

var reportPartsTable = table{"report_parts", []string{"clinic_id", "idempotency_key", "run", "part"}, []column{
	{"clinic_id", "text"}, {"idempotency_key", "text"}, {"run", "int4"}, {"part", "int4"}, {"body", "bytea"},
}}

var reportColumns = []string{
	"idempotency_key", "name", "parameters", "run", "page_token", "rows_done", "rows_total", "parts", "bytes", "as_of_sequence", "deleted_at",
}

const (
	insertReport = `INSERT INTO reports (clinic_id, idempotency_key, name, parameters, run, page_token, rows_done, rows_total, parts, bytes, as_of_sequence)
		VALUES ($1, $2, $3, $4, 1, '', 0, 0, 0, 0, 0)`
	// Only from where it was expected to be: what two nodes have read becomes one
	// part.
	advanceReport = `UPDATE reports SET page_token = $6, rows_done = $7, rows_total = $8, parts = $9, bytes = $10, as_of_sequence = $11
		WHERE clinic_id = $1 AND idempotency_key = $2 AND run = $3 AND parts = $4 AND page_token = $5`
	touchReport = `UPDATE operations SET state = $3, finished_at = $4, attempts = 0, failure = ''
		WHERE clinic_id = $1 AND idempotency_key = $2 AND state + 0 = 1`
	beginReportAnew = `UPDATE reports SET run = run + 1, page_token = '', rows_done = 0, rows_total = 0, parts = 0, bytes = 0, as_of_sequence = 0, deleted_at = NULL
		WHERE clinic_id = $1 AND idempotency_key = $2`
	selectSubmission = `SELECT submission FROM operations WHERE clinic_id = $1 AND idempotency_key = $2`
	selectReportPart = `SELECT body FROM report_parts WHERE clinic_id = $1 AND idempotency_key = $2 AND run = $3 AND part = $4`
)

func scanReport(rows pgx.Rows, key *string, r *ReportProgress) error {
	var deleted *time.Time
	err := rows.Scan(key, &r.Name, &r.Parameters, &r.Run, &r.PageToken, &r.Rows, &r.Total, &r.Parts, &r.Bytes, &r.Sequence, &deleted)
	if deleted != nil {
		r.DeletedAt = *deleted
	}
	return err
}

// withReports adds to those operations that are reports how far they have come.
func withReports(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, operations []*Operation) error {
	at := make(map[string]*Operation)
	var keys []string
	for _, o := range operations {
		if o.IsReport() {
			at[o.IdempotencyKey] = o
			keys = append(keys, o.IdempotencyKey)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	s := selectFrom(selectByKeysSQL(server, "reports", reportColumns, operationsTable.key, []string{"text", "text"}, ""))
	s.args = []any{slices.Repeat([]string{string(clinic)}, len(keys)), keys}
	_, err := collect(ctx, tx, s, func(rows pgx.Rows, r *ReportProgress) error {
		var key string
		if err := scanReport(rows, &key, r); err != nil {
			return err
		}
		progress := *r
		at[key].Report = &progress
		return nil
	})
	return err
}

// SubmitReport records a report to be read later. One whose key was submitted
// before is answered with what has become of that.
func (o *Operations) SubmitReport(ctx context.Context, n NewReport, at time.Time) (SubmittedOperation, error) {
	if _, err := o.directory.DB(ctx, n.Clinic); err != nil {
		return SubmittedOperation{}, err
	}
	at = at.Truncate(time.Microsecond)
	for {
		var submitted SubmittedOperation
		err := o.directory.writeOn(ctx, n.Clinic, func(db *DB, tx pgx.Tx) (err error) {
			submitted, err = submitReport(ctx, tx, db.server.Kind, n, at)
			return err
		})
		if _, duplicate := uniqueViolation(err); duplicate {
			continue // somebody submits the same at this moment
		}
		if err != nil {
			return SubmittedOperation{}, fmt.Errorf("txn: submit a report: %w", err)
		}
		return submitted, nil
	}
}

func submitReport(ctx context.Context, tx pgx.Tx, server ServerKind, n NewReport, at time.Time) (SubmittedOperation, error) {
	hash := n.hash()
	known, err := collect(ctx, tx, selectFrom(`SELECT `+operationColumns+`, request_hash FROM operations WHERE`).
		add(` clinic_id = ? AND idempotency_key = ?`, n.Clinic, n.IdempotencyKey), func(rows pgx.Rows, k *knownOperation) error {
		return scanOperationAnd(rows, &k.Operation, &k.hash)
	})
	if err != nil {
		return SubmittedOperation{}, err
	}
	if len(known) > 0 {
		if !slices.Equal(known[0].hash, hash) {
			return SubmittedOperation{Err: keyReused(n.IdempotencyKey)}, nil
		}
		is := known[0].Operation
		err := withReports(ctx, tx, server, n.Clinic, []*Operation{&is})
		return SubmittedOperation{Operation: is, Repeated: true}, err
	}
	waiting, err := collect(ctx, tx, selectFrom(`SELECT idempotency_key FROM operations WHERE`).
		add(` clinic_id = ? AND state = 1 AND priority >= ?`, n.Clinic, ReportPriority).
		add(inOrderOfPriority, maxWaitingReports), func(rows pgx.Rows, key *string) error { return rows.Scan(key) })
	if err != nil {
		return SubmittedOperation{}, err
	}
	if len(waiting) == maxWaitingReports {
		return SubmittedOperation{}, ErrTooManyReports
	}
	added := Operation{
		Clinic: n.Clinic, IdempotencyKey: n.IdempotencyKey, Priority: ReportPriority, State: OperationWaiting, Kind: reportKind,
		Actor: n.Actor, SubmittedAt: at, DueAt: at, Report: &ReportProgress{Name: n.Name, Parameters: n.Parameters, Run: 1},
	}
	rows := operationRows{}
	rows.add(added, hash, n.Submission)
	if _, err := tx.Exec(ctx, operationsTable.insert(), rows.columns()...); err != nil {
		return SubmittedOperation{}, err
	}
	_, err = tx.Exec(ctx, insertReport, n.Clinic, n.IdempotencyKey, n.Name, n.Parameters)
	return SubmittedOperation{Operation: added}, err
}

// AdvanceReport writes a page that was read of a report, and where the next one
// begins: both, or neither. The last page ends the operation. It returns the
// operation as it is then. The error is [ErrNotQueued] where the report does not
// wait any more, and [ErrReportMoved] where it is not where op says.
func (o *Operations) AdvanceReport(ctx context.Context, op Operation, page *ReportPage, at time.Time) (Operation, error) {
	at = at.Truncate(time.Microsecond)
	next, was := op, op.Report
	is := *was
	is.PageToken, is.Rows, is.Bytes = page.Next, is.Rows+page.Rows, is.Bytes+int64(len(page.Data))
	is.Total = max(is.Total, page.Total)
	if is.Sequence == 0 {
		is.Sequence = page.Sequence
	}
	var finished time.Time
	next.Attempts, next.Failure, next.Report = 0, nil, &is
	if page.Next == "" {
		next.State, finished, is.Total = OperationAccepted, at, is.Rows
		next.FinishedAt = finished
	}
	parts := partRows{}
	for data := range slices.Chunk(page.Data, MaxReportPart) {
		parts.add(op, is.Run, is.Parts, data)
		is.Parts++
	}
	err := o.directory.write(ctx, op.Clinic, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, touchReport, op.Clinic, op.IdempotencyKey, next.State, nullTime(finished))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrNotQueued
		}
		tag, err = tx.Exec(ctx, advanceReport, op.Clinic, op.IdempotencyKey, was.Run, was.Parts, was.PageToken,
			is.PageToken, is.Rows, is.Total, is.Parts, is.Bytes, is.Sequence)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrReportMoved
		}
		if len(parts.part) == 0 {
			return nil
		}
		_, err = tx.Exec(ctx, reportPartsTable.insert(), parts.columns()...)
		return err
	})
	if err != nil {
		return op, fmt.Errorf("txn: write a part of a report: %w", err)
	}
	return next, nil
}

type partRows struct {
	clinic, key []string
	run, part   []int32
	body        [][]byte
}

func (r *partRows) add(op Operation, run, part int, body []byte) {
	r.clinic, r.key = append(r.clinic, string(op.Clinic)), append(r.key, op.IdempotencyKey)
	r.run, r.part, r.body = append(r.run, int32(run)), append(r.part, int32(part)), append(r.body, body)
}

func (r *partRows) columns() []any { return []any{r.clinic, r.key, r.run, r.part, r.body} }

// RejectReport ends a report that can't be read as it is.
func (o *Operations) RejectReport(ctx context.Context, op Operation, cause *ledger.Rejection, at time.Time) error {
	text, err := formatFailure(cause)
	if err != nil {
		return err
	}
	err = o.directory.write(ctx, op.Clinic, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, settleOperation, op.Clinic, op.IdempotencyKey, OperationRejected, at, 0, text)
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: reject a report: %w", err)
	}
	return nil
}

// BeginReportAnew drops what was read of a report that can't be gone on with.
func (o *Operations) BeginReportAnew(ctx context.Context, op Operation) error {
	err := o.directory.write(ctx, op.Clinic, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, beginReportAnew+` AND run = $3`, op.Clinic, op.IdempotencyKey, op.Report.Run)
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: begin a report anew: %w", err)
	}
	return nil
}

// Submission returns what a report was submitted with, nil where there is none.
func (o *Operations) Submission(ctx context.Context, clinic ledger.ClinicID, key string) (submission []byte, err error) {
	err = o.directory.read(ctx, clinic, func(tx pgx.Tx) error {
		submission = nil
		err := tx.QueryRow(ctx, selectSubmission, clinic, key).Scan(&submission)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: read the submission of an operation: %w", err)
	}
	return submission, nil
}

// ReportPart returns a part of the result of a report's run, nil where it is not
// there any more.
func (o *Operations) ReportPart(ctx context.Context, op *Operation, part int) (body []byte, err error) {
	err = o.directory.read(ctx, op.Clinic, func(tx pgx.Tx) error {
		body = nil
		err := tx.QueryRow(ctx, selectReportPart, op.Clinic, op.IdempotencyKey, op.Report.Run, part).Scan(&body)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: read a part of a report: %w", err)
	}
	return body, nil
}
