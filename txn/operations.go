package txn

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Priority says which operations of a clinic are carried out before others.
type Priority int16

// The priorities.
const (
	HighPriority   Priority = 1
	NormalPriority Priority = 2
	LowPriority    Priority = 3
)

// Priorities are all of them, the most urgent first.
func Priorities() []Priority { return []Priority{HighPriority, NormalPriority, LowPriority} }

// String is the priority's name.
func (p Priority) String() string {
	switch p {
	case HighPriority:
		return "high"
	case NormalPriority:
		return "normal"
	case LowPriority:
		return "low"
	case ReportPriority:
		return "report"
	}
	return fmt.Sprintf("priority %d", int16(p))
}

// OperationState is what has become of an operation.
type OperationState int16

// The states. All but the first are final, until somebody submits the operation
// again.
const (
	OperationWaiting   OperationState = 1
	OperationAccepted  OperationState = 2
	OperationRejected  OperationState = 3
	OperationFailed    OperationState = 4 // it could not be judged, again and again
	OperationCancelled OperationState = 5
)

var operationStates = []OperationState{OperationWaiting, OperationAccepted, OperationRejected, OperationFailed, OperationCancelled}

// Operation is a command or a report that is carried out later. With its clinic,
// its idempotency key, which is the command's, names it.
type Operation struct {
	Clinic         ledger.ClinicID
	IdempotencyKey string
	Priority       Priority
	State          OperationState
	Kind           ledger.Kind // zero: a report
	Actor          ledger.Actor
	Attempts       int // that came to no verdict
	SubmittedAt    time.Time
	DueAt          time.Time // it is not tried before
	FinishedAt     time.Time // zero while it waits
	Sequence       ledger.Sequence
	// Failure is why it was rejected, or why the last attempt came to no verdict;
	// nil where neither was.
	Failure *ledger.Rejection
	// Report is how far a report has come; nil for a command.
	Report *ReportProgress
}

// NewOperation is a command that is to be carried out later.
type NewOperation struct {
	Command  ledger.Command
	Priority Priority
	// Submission is the command with the rights of who gives it, in an encoding
	// of the caller's: it comes back as it is.
	Submission []byte
}

// SubmittedOperation is an operation, or why there is none.
type SubmittedOperation struct {
	Operation
	// Repeated tells that it was submitted before, under the same key.
	Repeated bool
	// Err is a *[ledger.Rejection] where the key belongs to another command.
	Err error
}

// QueuedOperation is one that waits, with its submission.
type QueuedOperation struct {
	Operation
	Submission []byte
}

// ErrNotQueued is the verdict on a command of a queue that does not wait there
// any more: it was carried out, refused or cancelled. Nothing was done.
var ErrNotQueued = errors.New("txn: the operation does not wait any more")

// Operations keeps the commands that are carried out later.
type Operations struct{ directory *Directory }

// NewOperations returns the operations in the databases of a directory.
func NewOperations(d *Directory) *Operations { return &Operations{d} }

var operationsTable = table{"operations", []string{"clinic_id", "idempotency_key"}, []column{
	{"clinic_id", "text"}, {"idempotency_key", "text"}, {"priority", "int2"}, {"state", "int2"}, {"kind", "int2"}, {"actor", "text"},
	{"request_hash", "bytea"}, {"submission", "bytea"}, {"attempts", "int4"}, {"submitted_at", "timestamptz"}, {"due_at", "timestamptz"},
	{"sequence", "int8"}, {"failure", "text"},
}}

const (
	operationColumns = `clinic_id, idempotency_key, priority, state, kind, actor, attempts, submitted_at, due_at, finished_at, sequence, failure`
	// Each of these ends, or puts back, an operation only if it is as expected. The
	// sum keeps planners from looking through all that waits instead of looking up
	// the key.
	settleOperation = `UPDATE operations SET state = $3, finished_at = $4, sequence = $5, failure = $6
		WHERE clinic_id = $1 AND idempotency_key = $2 AND state + 0 = 1`
	postponeOperation = `UPDATE operations SET state = $3, finished_at = $4, attempts = $5, due_at = $6, failure = $7
		WHERE clinic_id = $1 AND idempotency_key = $2 AND state + 0 = 1`
	cancelOperation = `UPDATE operations SET state = 5, finished_at = $3
		WHERE clinic_id = $1 AND idempotency_key = $2 AND state + 0 = 1`
	resubmitOperation = `UPDATE operations SET state = 1, finished_at = NULL, attempts = 0, submitted_at = $3, due_at = $3, failure = ''
		WHERE clinic_id = $1 AND idempotency_key = $2 AND state IN (3, 4, 5)`
	// Those that end later than they were submitted long ago stay.
	deleteOperations = `DELETE FROM operations WHERE clinic_id = $1 AND state = $2
		AND (submitted_at, idempotency_key) > ($3, $4) AND (submitted_at, idempotency_key) <= ($5, $6) AND finished_at < $7`
	// One look-up a clinic, however much waits at each.
	selectWaitingClinics = `WITH RECURSIVE waiting (clinic_id) AS (
			(SELECT clinic_id FROM operations WHERE state = 1 AND clinic_id > '' ORDER BY clinic_id, priority LIMIT 1)
			UNION ALL
			SELECT (SELECT o.clinic_id FROM operations AS o WHERE o.state = 1 AND o.clinic_id > waiting.clinic_id ORDER BY o.clinic_id, o.priority LIMIT 1)
			FROM waiting WHERE waiting.clinic_id IS NOT NULL
		) SELECT clinic_id FROM waiting WHERE clinic_id IS NOT NULL`
	selectDepths      = `SELECT priority, count(*), min(submitted_at) FROM operations WHERE state = 1 GROUP BY priority`
	selectDeadLetters = `SELECT count(*), min(finished_at) FROM operations WHERE state = 4`
)

func scanOperation(rows pgx.Rows, o *Operation) error { return scanOperationAnd(rows, o) }

// scanOperationAnd also reads the columns that follow.
func scanOperationAnd(rows pgx.Rows, o *Operation, more ...any) error {
	var finished *time.Time
	var failure string
	err := rows.Scan(append([]any{&o.Clinic, &o.IdempotencyKey, &o.Priority, &o.State, &o.Kind, &o.Actor, &o.Attempts,
		&o.SubmittedAt, &o.DueAt, &finished, &o.Sequence, &failure}, more...)...)
	if err != nil {
		return err
	}
	if finished != nil {
		o.FinishedAt = *finished
	}
	o.Failure, err = parseFailure(failure)
	return err
}

// storedFailure is how a rejection is kept.
type storedFailure struct {
	Reason   ledger.Reason     `json:"reason"`
	Field    string            `json:"field,omitempty"`
	Message  string            `json:"message,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func parseFailure(text string) (*ledger.Rejection, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // there was none
	}
	var f storedFailure
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return nil, fmt.Errorf("txn: a stored failure: %w", err)
	}
	return &ledger.Rejection{Reason: f.Reason, Field: f.Field, Message: f.Message, Metadata: f.Metadata}, nil
}

func formatFailure(r *ledger.Rejection) (string, error) {
	if r == nil {
		return "", nil
	}
	text, err := json.Marshal(storedFailure{r.Reason, r.Field, r.Message, r.Metadata})
	return string(text), err
}

// Submit records operations of one clinic: all of them, or none. One whose key
// was submitted before is answered with what has become of that.
func (o *Operations) Submit(ctx context.Context, clinic ledger.ClinicID, operations []NewOperation, at time.Time) ([]SubmittedOperation, error) {
	for _, n := range operations {
		if n.Command.Body.Kind() == ledger.KindCreateClinic {
			if _, err := o.directory.assign(ctx, clinic); err != nil {
				return nil, err
			}
		}
	}
	if _, err := o.directory.DB(ctx, clinic); err != nil {
		return nil, err
	}
	at = at.Truncate(time.Microsecond)
	for {
		submitted, err := o.submit(ctx, clinic, operations, at)
		if _, duplicate := uniqueViolation(err); duplicate {
			continue // somebody submits the same at this moment
		}
		if err != nil {
			return nil, fmt.Errorf("txn: submit operations: %w", err)
		}
		return submitted, nil
	}
}

func (o *Operations) submit(ctx context.Context, clinic ledger.ClinicID, operations []NewOperation, at time.Time) (submitted []SubmittedOperation, err error) {
	err = o.directory.writeOn(ctx, clinic, func(db *DB, tx pgx.Tx) error {
		known, err := o.known(ctx, tx, db.server.Kind, clinic, operations)
		if err != nil {
			return err
		}
		submitted = make([]SubmittedOperation, len(operations))
		rows := operationRows{}
		for i, n := range operations {
			key, hash := n.Command.IdempotencyKey, n.Command.RequestHash()
			if k, ok := known[key]; ok {
				submitted[i] = SubmittedOperation{Operation: k.Operation, Repeated: true}
				if !slices.Equal(k.hash, hash[:]) {
					submitted[i] = SubmittedOperation{Err: keyReused(key)}
				}
				continue
			}
			added := Operation{
				Clinic: clinic, IdempotencyKey: key, Priority: n.Priority, State: OperationWaiting, Kind: n.Command.Body.Kind(),
				Actor: n.Command.Actor, SubmittedAt: at, DueAt: at,
			}
			known[key] = knownOperation{added, hash[:]}
			submitted[i] = SubmittedOperation{Operation: added}
			rows.add(added, hash[:], n.Submission)
		}
		if len(rows.clinic) == 0 {
			return nil
		}
		_, err = tx.Exec(ctx, operationsTable.insert(), rows.columns()...)
		return err
	})
	return submitted, err
}

type knownOperation struct {
	Operation
	hash []byte
}

func (o *Operations) known(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, operations []NewOperation) (map[string]knownOperation, error) {
	keys := make([]string, len(operations))
	for i, n := range operations {
		keys[i] = n.Command.IdempotencyKey
	}
	columns := append(strings.Split(operationColumns, ", "), "request_hash")
	list, err := collect(ctx, tx, operationsByKeys(server, columns, clinic, keys), func(rows pgx.Rows, k *knownOperation) error {
		return scanOperationAnd(rows, &k.Operation, &k.hash)
	})
	known := make(map[string]knownOperation, len(list))
	for _, k := range list {
		known[k.IdempotencyKey] = k
	}
	return known, err
}

func operationsByKeys(server ServerKind, columns []string, clinic ledger.ClinicID, keys []string) *selection {
	s := selectFrom(selectByKeysSQL(server, operationsTable.name, columns, operationsTable.key, []string{"text", "text"}, ""))
	s.args = []any{slices.Repeat([]string{string(clinic)}, len(keys)), keys}
	return s
}

type operationRows struct {
	clinic, key, actor, failure []string
	priority, state, kind       []int16
	hash, submission            [][]byte
	attempts                    []int32
	submitted, due              []time.Time
	sequence                    []int64
}

func (r *operationRows) add(o Operation, hash, submission []byte) {
	r.clinic, r.key, r.actor, r.failure = append(r.clinic, string(o.Clinic)), append(r.key, o.IdempotencyKey), append(r.actor, string(o.Actor)), append(r.failure, "")
	r.priority, r.state, r.kind = append(r.priority, int16(o.Priority)), append(r.state, int16(o.State)), append(r.kind, int16(o.Kind))
	r.hash, r.submission = append(r.hash, hash), append(r.submission, submission)
	r.attempts, r.sequence = append(r.attempts, 0), append(r.sequence, 0)
	r.submitted, r.due = append(r.submitted, o.SubmittedAt), append(r.due, o.DueAt)
}

func (r *operationRows) columns() []any {
	return []any{r.clinic, r.key, r.priority, r.state, r.kind, r.actor, r.hash, r.submission, r.attempts, r.submitted, r.due, r.sequence, r.failure}
}

// Get returns an operation, and whether there is one.
func (o *Operations) Get(ctx context.Context, clinic ledger.ClinicID, key string) (found Operation, ok bool, err error) {
	err = o.directory.readOn(ctx, clinic, func(db *DB, tx pgx.Tx) error {
		found, ok, err = getOperation(ctx, tx, db.server.Kind, clinic, key)
		return err
	})
	if err != nil {
		return found, false, fmt.Errorf("txn: read an operation: %w", err)
	}
	return found, ok, nil
}

func getOperation(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, key string) (Operation, bool, error) {
	rows, err := collect(ctx, tx, selectFrom(`SELECT `+operationColumns+` FROM operations WHERE`).
		add(` clinic_id = ? AND idempotency_key = ?`, clinic, key), scanOperation)
	if err != nil || len(rows) == 0 {
		return Operation{}, false, err
	}
	return rows[0], true, withReports(ctx, tx, server, clinic, []*Operation{&rows[0]})
}

// Record returns the record of a command that was carried out, and whether the
// journal has it: a restore may have taken it back.
func (o *Operations) Record(ctx context.Context, clinic ledger.ClinicID, key string) (record ledger.Record, ok bool, err error) {
	err = o.directory.readOn(ctx, clinic, func(db *DB, tx pgx.Tx) error {
		found, err := readRecordsByKey(ctx, tx, newStatements(db.server.Kind), clinic, []string{key})
		record, ok = found[key]
		return err
	})
	if err != nil {
		return record, false, fmt.Errorf("txn: read what an operation came to: %w", err)
	}
	return record, ok, nil
}

// OperationPlace is a place in a list of operations.
type OperationPlace struct {
	SubmittedAt    time.Time
	IdempotencyKey string
}

// OperationFilter says which operations to list. What is empty does not limit.
type OperationFilter struct {
	State OperationState
	Actor ledger.Actor
}

// List returns a clinic's operations before a place, the latest first.
func (o *Operations) List(ctx context.Context, clinic ledger.ClinicID, filter OperationFilter, before OperationPlace, limit int) (list []Operation, err error) {
	states := operationStates
	if filter.State != 0 {
		states = []OperationState{filter.State}
	}
	err = o.directory.readOn(ctx, clinic, func(db *DB, tx pgx.Tx) error {
		list = nil
		for _, state := range states {
			s := selectFrom(`SELECT `+operationColumns+` FROM operations WHERE`).
				add(` clinic_id = ? AND state = ? AND (submitted_at, idempotency_key) < (?, ?)`, clinic, state, before.SubmittedAt, before.IdempotencyKey).
				addIf(filter.Actor != "", ` AND actor = ?`, filter.Actor).
				add(` ORDER BY submitted_at DESC, idempotency_key DESC LIMIT ?`, limit)
			some, err := collect(ctx, tx, s, scanOperation)
			if err != nil {
				return err
			}
			list = append(list, some...)
		}
		latestFirst(list)
		list = list[:min(limit, len(list))]
		listed := make([]*Operation, len(list))
		for i := range list {
			listed[i] = &list[i]
		}
		return withReports(ctx, tx, db.server.Kind, clinic, listed)
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list operations: %w", err)
	}
	return list, nil
}

func latestFirst(list []Operation) {
	slices.SortFunc(list, func(a, b Operation) int {
		return cmp.Or(b.SubmittedAt.Compare(a.SubmittedAt), cmp.Compare(b.IdempotencyKey, a.IdempotencyKey))
	})
}

// Cancel ends an operation that waits. It returns what has become of it, and
// whether there is one.
func (o *Operations) Cancel(ctx context.Context, clinic ledger.ClinicID, key string, at time.Time) (Operation, bool, error) {
	return o.change(ctx, cancelOperation, clinic, key, at)
}

// Resubmit lets an operation that ended without being carried out wait again. A
// report begins anew.
func (o *Operations) Resubmit(ctx context.Context, clinic ledger.ClinicID, key string, at time.Time) (Operation, bool, error) {
	return o.change(ctx, resubmitOperation, clinic, key, at)
}

func (o *Operations) change(ctx context.Context, sql string, clinic ledger.ClinicID, key string, at time.Time) (is Operation, ok bool, err error) {
	err = o.directory.writeOn(ctx, clinic, func(db *DB, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sql, clinic, key, at)
		if err != nil {
			return err
		}
		if sql == resubmitOperation && tag.RowsAffected() > 0 {
			if _, err := tx.Exec(ctx, beginReportAnew, clinic, key); err != nil {
				return err
			}
		}
		is, ok, err = getOperation(ctx, tx, db.server.Kind, clinic, key)
		return err
	})
	if err != nil {
		return is, false, fmt.Errorf("txn: change an operation: %w", err)
	}
	return is, ok, nil
}

// Postpone records that an attempt came to no verdict: the operation is tried
// again when it is due, or never again where due is zero.
func (o *Operations) Postpone(ctx context.Context, op Operation, cause *ledger.Rejection, due, at time.Time) error {
	text, err := formatFailure(cause)
	if err != nil {
		return err
	}
	state, finished := OperationWaiting, time.Time{}
	if due.IsZero() {
		state, finished, due = OperationFailed, at, op.DueAt
	}
	err = o.directory.write(ctx, op.Clinic, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, postponeOperation, op.Clinic, op.IdempotencyKey, state, nullTime(finished), op.Attempts+1, due, text)
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: postpone an operation: %w", err)
	}
	return nil
}

// WaitingClinics are those at which operations wait. With an error come those of
// the shards that answered.
func (o *Operations) WaitingClinics(ctx context.Context) (clinics []ledger.ClinicID, err error) {
	clinics, err = merged(o.directory, math.MaxInt, func(id ledger.ClinicID) string { return string(id) }, func(db *DB) (clinics []ledger.ClinicID, err error) {
		err = db.readTx(ctx, func(tx pgx.Tx) error {
			clinics, err = collect(ctx, tx, selectFrom(selectWaitingClinics), func(rows pgx.Rows, id *ledger.ClinicID) error { return rows.Scan(id) })
			return err
		})
		return clinics, err
	})
	if err != nil {
		return clinics, fmt.Errorf("txn: list the clinics at which operations wait: %w", err)
	}
	return clinics, nil
}

// inOrderOfPriority lists what waits in an order that one index alone has. By the
// priority's value a planner may take another one, and look through all that is
// less urgent.
const inOrderOfPriority = ` ORDER BY priority, submitted_at, idempotency_key LIMIT ?`

// Next returns operations that wait at a clinic and are due, the oldest first,
// from after a place.
func (o *Operations) Next(ctx context.Context, clinic ledger.ClinicID, priority Priority, after OperationPlace, now time.Time, limit int) (next []QueuedOperation, err error) {
	err = o.directory.readOn(ctx, clinic, func(db *DB, tx pgx.Tx) error {
		s := selectFrom(`SELECT `+operationColumns+`, submission FROM operations WHERE`).
			add(` clinic_id = ? AND state = 1 AND (priority, submitted_at, idempotency_key) > (?, ?, ?)`, clinic, priority, after.SubmittedAt, after.IdempotencyKey).
			add(` AND priority <= ? AND due_at <= ?`, priority, now).
			add(inOrderOfPriority, limit)
		next, err = collect(ctx, tx, s, func(rows pgx.Rows, q *QueuedOperation) error {
			return scanOperationAnd(rows, &q.Operation, &q.Submission)
		})
		if err != nil || priority != ReportPriority {
			return err
		}
		reports := make([]*Operation, len(next))
		for i := range next {
			reports[i] = &next[i].Operation
		}
		return withReports(ctx, tx, db.server.Kind, clinic, reports)
	})
	if err != nil {
		return nil, fmt.Errorf("txn: read what waits at clinic %s: %w", clinic, err)
	}
	return next, nil
}

// Depth is how many operations of a priority wait, and since when the first of
// them does.
type Depth struct {
	Priority Priority
	Waiting  int64
	Oldest   time.Time
}

// Depths tells how much waits at all clinics, by priority and of reports; one at
// which nothing does is left out.
func (o *Operations) Depths(ctx context.Context) (depths []Depth, err error) {
	some, err := gather(o.directory, func(db *DB) (depths []Depth, err error) {
		err = db.readTx(ctx, func(tx pgx.Tx) (err error) {
			depths, err = collect(ctx, tx, selectFrom(selectDepths), func(rows pgx.Rows, d *Depth) error { return rows.Scan(&d.Priority, &d.Waiting, &d.Oldest) })
			return err
		})
		return depths, err
	})
	sum := make(map[Priority]Depth)
	for _, d := range slices.Concat(some...) {
		if before, ok := sum[d.Priority]; ok {
			d.Waiting += before.Waiting
			if before.Oldest.Before(d.Oldest) {
				d.Oldest = before.Oldest
			}
		}
		sum[d.Priority] = d
	}
	for _, p := range append(Priorities(), ReportPriority) {
		if d, ok := sum[p]; ok {
			depths = append(depths, d)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("txn: count what waits: %w", err)
	}
	return depths, nil
}

// DeadLetters are the operations that failed again and again and are not tried
// any more.
type DeadLetters struct {
	Count  int64
	Oldest time.Time // when the first of them failed for good; zero where there are none
}

// DeadLetters counts those of all clinics.
func (o *Operations) DeadLetters(ctx context.Context) (letters DeadLetters, err error) {
	some, err := gather(o.directory, func(db *DB) (letters DeadLetters, err error) {
		var oldest *time.Time
		err = db.readTx(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, selectDeadLetters).Scan(&letters.Count, &oldest) })
		if oldest != nil {
			letters.Oldest = *oldest
		}
		return letters, err
	})
	for _, l := range some {
		letters.Count += l.Count
		if !l.Oldest.IsZero() && (letters.Oldest.IsZero() || l.Oldest.Before(letters.Oldest)) {
			letters.Oldest = l.Oldest
		}
	}
	if err != nil {
		return letters, fmt.Errorf("txn: count the dead letters: %w", err)
	}
	return letters, nil
}

// queuedKeys are the keys of units that come from a queue.
func queuedKeys(units []*unit) (keys []string) {
	for _, w := range units {
		if w.submission.Queued {
			for _, c := range w.commands {
				keys = append(keys, c.IdempotencyKey)
			}
		}
	}
	return keys
}

// stillQueued tells which of a clinic's operations wait.
func stillQueued(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, keys []string) (map[string]bool, error) {
	waits := make(map[string]bool)
	if len(keys) == 0 {
		return waits, nil
	}
	list, err := collect(ctx, tx, operationsByKeys(server, []string{"idempotency_key", "state"}, clinic, keys), func(rows pgx.Rows, o *Operation) error {
		return rows.Scan(&o.IdempotencyKey, &o.State)
	})
	if err != nil {
		return nil, fmt.Errorf("look up operations: %w", err)
	}
	for _, o := range list {
		waits[o.IdempotencyKey] = o.State == OperationWaiting
	}
	return waits, nil
}

// settleQueued writes what became of a plan's operations, in the transaction
// that carries them out.
func settleQueued(ctx context.Context, tx pgx.Tx, p *plan, at ledger.Instant) error {
	var b pgx.Batch
	for i, w := range p.units {
		if !w.submission.Queued {
			continue
		}
		for j, v := range p.verdicts[i] {
			var rejection *ledger.Rejection
			state := OperationAccepted
			switch {
			case errors.As(v.Err, &rejection):
				state = OperationRejected
			case v.Err != nil:
				continue
			}
			text, err := formatFailure(rejection)
			if err != nil {
				return err
			}
			b.Queue(settleOperation, p.home.clinic, w.commands[j].IdempotencyKey, state, at.Time(), v.Record.Event.Sequence, text)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("settle operations: %w", err)
	}
	return nil
}
