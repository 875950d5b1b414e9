package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Consistency says which copy of the data a query may read.
type Consistency int

// The consistencies.
const (
	// Strong reads the primary.
	Strong Consistency = iota
	// Bounded may read a follower that is at most ReadOptions.MaxStaleness
	// behind. PostgreSQL's primary serves it too.
	Bounded
	// Cached may read a cache, whose answers say up to which command they hold.
	// Where nothing is kept it is served like Strong.
	Cached
)

// ReadOptions say how fresh an answer must be.
type ReadOptions struct {
	Consistency  Consistency
	MaxStaleness time.Duration
	// MinSequence is a command that the answer must include; 0 for none.
	MinSequence ledger.Sequence
	// MinEpoch is the epoch of MinSequence; 0 where it is not known.
	MinEpoch int64
	// Continues is where the answer stood whose list this read goes on with. It
	// makes the answer no fresher, but a read of what a restore has since taken
	// back is refused.
	Continues Place
}

// AsOf says which state an answer shows.
type AsOf struct {
	Epoch    int64
	Sequence ledger.Sequence
	Time     ledger.Instant
}

// SequenceNotReachedError means that a read asked for a command that the clinic
// has not recorded.
type SequenceNotReachedError struct{ Want, Have ledger.Sequence }

// Error says what was asked for and what there is.
func (e *SequenceNotReachedError) Error() string {
	return fmt.Sprintf("sequence %d was asked for, and the clinic's last is %d", e.Want, e.Have)
}

// Queries read the projections. They never write, and use connections that
// cannot.
type Queries struct {
	directory *Directory
	cache     *Cache // nil: there is none
	// replicas of the main shard are read where an answer may be behind; nil:
	// there are none.
	replicas *Replicas
	// Clock tells what day it is, for expiry. Default time.Now. Where it is
	// behind the clinic's head, the head's time counts, as it does for commands.
	Clock func() time.Time
}

// NewQueries returns the queries on the databases of a directory.
func NewQueries(d *Directory) *Queries { return &Queries{directory: d, Clock: time.Now} }

// UseReplicas lets reads of the main shard that may be behind go to replicas.
func (q *Queries) UseReplicas(r *Replicas) { q.replicas = r }

// view is one clinic at one moment.
type view struct {
	tx     pgx.Tx
	server ServerKind
	id     ledger.ClinicID
	clinic ledger.Clinic
	zone   *time.Location
	asOf   AsOf
	today  ledger.Date
	now    ledger.Instant
}

const selectView = `SELECT h.epoch, h.sequence, h.recorded_at, c.name, c.time_zone, c.backdating_days, c.active, c.last_sequence
	FROM heads AS h JOIN clinics AS c ON c.clinic_id = h.clinic_id WHERE h.clinic_id = $1`

// errBehind means that a follower does not show what was asked for.
var errBehind = errors.New("the follower is behind")

// read runs fn on one snapshot of a clinic, as fresh as the options ask.
func (q *Queries) read(ctx context.Context, clinic ledger.ClinicID, o ReadOptions, fn func(*view) error) (AsOf, error) {
	return q.readFirst(ctx, clinic, o, func(*view) []question { return nil }, fn)
}

// readFirst is read with questions that are asked in the same round trip as
// what the view is. They are answered once it is known.
func (q *Queries) readFirst(ctx context.Context, clinic ledger.ClinicID, o ReadOptions, first func(*view) []question, fn func(*view) error) (AsOf, error) {
	var asOf AsOf
	err := q.directory.at(ctx, clinic, func(db *DB) (err error) {
		asOf, err = q.readOn(ctx, db, clinic, o, first, fn)
		return err
	})
	return asOf, err
}

// readOn reads a shard. Whatever a follower of it lacks, the primary has the
// last word.
func (q *Queries) readOn(ctx context.Context, db *DB, clinic ledger.ClinicID, o ReadOptions, first func(*view) []question, fn func(*view) error) (AsOf, error) {
	if o.Consistency == Bounded {
		if one := q.replicasOf(db).pick(o.MaxStaleness); one != nil {
			asOf, err := q.readAs(ctx, clinic, o, source{readTx: one.readTx, server: db.server.Kind, follower: true}, first, fn)
			q.replicas.done(one, err)
			if err == nil || ctx.Err() != nil {
				return asOf, err
			}
		}
		if begin := followerReadSQL(db.server.Kind, o.MaxStaleness); begin != "" {
			asOf, err := q.readAs(ctx, clinic, o, source{readTx: db.readTx, server: db.server.Kind, follower: true, begin: begin}, first, fn)
			if err == nil || ctx.Err() != nil {
				return asOf, err
			}
		}
	}
	return q.readAs(ctx, clinic, o, source{readTx: db.readTx, server: db.server.Kind}, first, fn)
}

func (q *Queries) replicasOf(db *DB) *Replicas {
	if db != q.directory.main {
		return nil
	}
	return q.replicas
}

// source is where a read goes.
type source struct {
	server   ServerKind
	readTx   func(context.Context, func(pgx.Tx) error) error
	follower bool   // which may be behind
	begin    string // what makes a transaction read it; empty: nothing
}

func (q *Queries) readAs(ctx context.Context, clinic ledger.ClinicID, o ReadOptions, from source, first func(*view) []question, fn func(*view) error) (AsOf, error) {
	var asOf AsOf
	err := from.readTx(ctx, func(tx pgx.Tx) error {
		if from.begin != "" {
			if _, err := tx.Exec(ctx, from.begin); err != nil {
				return err
			}
		}
		v, err := q.open(ctx, tx, from.server, clinic, first)
		if err != nil {
			return err
		}
		asOf = v.asOf
		if err := v.fresh(ctx, o, from.follower); err != nil {
			return err
		}
		return fn(v)
	})
	return asOf, err
}

// fresh checks that a view shows what was asked for.
func (v *view) fresh(ctx context.Context, o ReadOptions, follower bool) error {
	if follower && max(o.MinEpoch, o.Continues.Epoch) > v.asOf.Epoch {
		return errBehind
	}
	// A list goes on with what the page before it showed.
	if follower && o.Continues.Epoch == v.asOf.Epoch && o.Continues.Sequence > v.asOf.Sequence {
		return errBehind
	}
	for _, place := range []Place{{o.MinEpoch, o.MinSequence}, o.Continues} {
		if err := v.rewound(ctx, place); err != nil {
			return err
		}
	}
	switch {
	case v.asOf.Sequence >= o.MinSequence:
		return nil
	case follower:
		return errBehind
	}
	return &SequenceNotReachedError{Want: o.MinSequence, Have: v.asOf.Sequence}
}

func (q *Queries) open(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, first func(*view) []question) (*view, error) {
	v := &view{tx: tx, server: server, id: clinic}
	header := question{selectFrom(selectView), func(rows pgx.Rows) error {
		if !rows.Next() {
			return cmp.Or(rows.Err(), error(clinicNotFound(clinic)))
		}
		return q.scanView(rows, v)
	}}
	header.selection.args = []any{clinic}
	err := answer(ctx, tx, append([]question{header}, first(v)...)...)
	var absent *ledger.Rejection
	switch {
	case errors.As(err, &absent):
		return nil, absent
	case err != nil:
		return nil, fmt.Errorf("read clinic %s: %w", clinic, err)
	case absence(v.asOf.Epoch) != nil:
		return nil, fmt.Errorf("read clinic %s: %w", clinic, absence(v.asOf.Epoch))
	}
	return v, nil
}

func (q *Queries) scanView(rows pgx.Rows, v *view) error {
	var at time.Time
	c := &v.clinic
	err := rows.Scan(&v.asOf.Epoch, &v.asOf.Sequence, &at,
		&c.Name, &c.TimeZone, &c.BackdatingDays, &c.Active, &c.LastSequence)
	if err != nil {
		return err
	}
	v.asOf.Time = ledger.InstantOf(at)
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	v.zone = zone
	v.now = max(ledger.InstantOf(q.Clock()), v.asOf.Time)
	v.today = ledger.DateOf(v.now.Time().In(zone))
	return nil
}

// selection builds a SELECT whose conditions depend on what was asked for.
type selection struct {
	sql  strings.Builder
	args []any
}

func selectFrom(sql string) *selection {
	s := &selection{}
	s.sql.WriteString(sql)
	return s
}

// add appends a piece of SQL in which each ? is the next argument.
func (s *selection) add(sql string, args ...any) *selection {
	for _, arg := range args {
		before, after, _ := strings.Cut(sql, "?")
		s.args = append(s.args, arg)
		s.sql.WriteString(before)
		s.sql.WriteString("$")
		s.sql.WriteString(strconv.Itoa(len(s.args)))
		sql = after
	}
	s.sql.WriteString(sql)
	return s
}

// addIf appends a piece where a condition holds.
func (s *selection) addIf(condition bool, sql string, args ...any) *selection {
	if condition {
		s.add(sql, args...)
	}
	return s
}

// collect runs a selection and reads each row.
func collect[T any](ctx context.Context, tx pgx.Tx, s *selection, scan func(pgx.Rows, *T) error) ([]T, error) {
	rows, err := tx.Query(ctx, s.sql.String(), s.args...)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var row T
		if err := scan(rows, &row); err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return all, nil
}

// page cuts the row off that was read only to know whether there are more.
func page[T any](rows []T, limit int) ([]T, bool) {
	if len(rows) > limit {
		return rows[:limit], true
	}
	return rows, false
}

func texts[T ~string](values []T) []string {
	list := make([]string, len(values))
	for i, value := range values {
		list[i] = string(value)
	}
	return list
}
