package txn

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// statement is what a transaction sent.
type statement struct {
	sql  string
	args []any
}

// recorder keeps every statement that its connections send.
type recorder struct {
	mu         sync.Mutex
	statements []statement
	// before, where not nil, is called before a statement is sent.
	before func(conn *pgx.Conn, sql string)
}

var (
	_ pgx.QueryTracer = (*recorder)(nil)
	_ pgx.BatchTracer = (*recorder)(nil)
)

func (r *recorder) add(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements = append(r.statements, statement{sql, args})
}

// take returns what was sent since the last call.
func (r *recorder) take() []statement {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.statements
	r.statements = nil
	return taken
}

// TraceQueryStart is for pgx.
func (r *recorder) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.add(data.SQL, data.Args)
	if r.before != nil {
		r.before(conn, data.SQL)
	}
	return ctx
}

// TraceQueryEnd is for pgx.
func (r *recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart is for pgx.
func (r *recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, query := range data.Batch.QueuedQueries {
		r.add(query.SQL, query.Arguments)
	}
	return ctx
}

// TraceBatchQuery is for pgx.
func (r *recorder) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd is for pgx.
func (r *recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// traced returns the process's database with pools of its own, and what records
// the statements of each.
func traced(tb testing.TB) (db *DB, write, read *recorder) {
	tb.Helper()
	return tracedOn(tb, testDB(tb))
}

func tracedOn(tb testing.TB, shared *DB) (db *DB, write, read *recorder) {
	tb.Helper()
	db = &DB{cfg: shared.cfg, server: shared.server, tuned: shared.tuned}
	db.write, write = tracedPool(tb, shared.write)
	db.read, read = tracedPool(tb, shared.read)
	tb.Cleanup(db.Close)
	return db, write, read
}

func tracedPool(tb testing.TB, like *pgxpool.Pool) (*pgxpool.Pool, *recorder) {
	tb.Helper()
	cfg, r := like.Config(), &recorder{}
	cfg.ConnConfig.Tracer = r
	cfg.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return pool, r
}
