package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The baseline is what an engineer writes without a ledger: one SERIALIZABLE
// transaction a command that lowers one balance, raises another, and inserts
// two entries and one event; retried when it is refused.
const (
	sqlConnections = 32
	sqlShelves     = 40_000
	bulkSize       = 500
)

const (
	bucketAvailable = 1
	bucketReserved  = 2
)

var baselineSchema = []string{
	`CREATE TABLE IF NOT EXISTS bench_balances (run TEXT, shelf INT8, bucket INT2, balance INT8 NOT NULL CHECK (balance >= 0), PRIMARY KEY (run, shelf, bucket))`,
	`CREATE TABLE IF NOT EXISTS bench_entries (run TEXT, event_id TEXT, line INT4, shelf INT8 NOT NULL, bucket INT2 NOT NULL, quantity INT8 NOT NULL, PRIMARY KEY (run, event_id, line))`,
	`CREATE TABLE IF NOT EXISTS bench_events (run TEXT, event_id TEXT, kind INT2 NOT NULL, actor TEXT NOT NULL, at TIMESTAMPTZ NOT NULL, body BYTEA NOT NULL, PRIMARY KEY (run, event_id))`,
}

const (
	sqlLower      = `UPDATE bench_balances SET balance = balance - 1 WHERE run = $1 AND shelf = $2 AND bucket = 1`
	sqlRaise      = `UPDATE bench_balances SET balance = balance + 1 WHERE run = $1 AND shelf = $2 AND bucket = 2`
	sqlEntries    = `INSERT INTO bench_entries (run, event_id, line, shelf, bucket, quantity) VALUES ($1, $2, 0, $3, 1, -1), ($1, $2, 1, $3, 2, 1)`
	sqlEvent      = `INSERT INTO bench_events (run, event_id, kind, actor, at, body) VALUES ($1, $2, 21, 'bench', now(), $3)`
	sqlBulkEvents = `INSERT INTO bench_events (run, event_id, kind, actor, at, body) SELECT $1, unnest($2::text[]), 21, 'bench', now(), $3`
	sqlBulkLines  = `INSERT INTO bench_entries (run, event_id, line, shelf, bucket, quantity) SELECT $1, unnest($2::text[]), unnest($3::int4[]), unnest($4::int8[]), unnest($5::int2[]), unnest($6::int8[])`
	sqlBulkMove   = `UPDATE bench_balances AS b SET balance = b.balance + k.change
		FROM (SELECT unnest($2::int8[]) AS shelf, unnest($3::int2[]) AS bucket, unnest($4::int8[]) AS change) AS k
		WHERE b.run = $1 AND b.shelf = k.shelf AND b.bucket = k.bucket`
)

type baseline struct {
	pool *pgxpool.Pool
	run  string
	mu   sync.Mutex
	done int64 // commands of all parts so far
}

// newBaseline makes the shelves; shelf 0 is the hot one.
func newBaseline(ctx context.Context, pool *pgxpool.Pool, run string) (*baseline, error) {
	for _, ddl := range baselineSchema {
		if _, err := pool.Exec(ctx, ddl); err != nil {
			return nil, fmt.Errorf("make the baseline's tables: %w", err)
		}
	}
	const chunk = 5000
	for from := 0; from < sqlShelves; from += chunk {
		_, err := pool.Exec(ctx, `INSERT INTO bench_balances (run, shelf, bucket, balance)
			SELECT $1, s, b, CASE WHEN b = 1 THEN 1000000000000 ELSE 0 END
			FROM generate_series($2::int8, $3::int8) AS s, generate_series(1, 2) AS b`, run, from, from+chunk-1)
		if err != nil {
			return nil, fmt.Errorf("fill the baseline's tables: %w", err)
		}
	}
	if _, err := pool.Exec(ctx, "ANALYZE bench_balances"); err != nil {
		return nil, fmt.Errorf("analyze the baseline's tables: %w", err)
	}
	return &baseline{pool: pool, run: run}, nil
}

// transact runs fn in a SERIALIZABLE transaction until the database takes it.
func (b *baseline) transact(ctx context.Context, fn func(pgx.Tx) error) error {
	for {
		err := pgx.BeginTxFunc(ctx, b.pool, pgx.TxOptions{IsoLevel: pgx.Serializable}, fn)
		var refused *pgconn.PgError
		if errors.As(err, &refused) && (refused.Code == "40001" || refused.Code == "40P01") {
			continue
		}
		return err
	}
}

var benchBody = make([]byte, 120)

func (b *baseline) unary(shelf func() int64) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, round int) (sample, error) {
		key := rand.Uint32()
		return drive(ctx, sqlConnections, func(ctx context.Context, caller, n int) (int, error) {
			id := fmt.Sprintf("%08x-%d-%d-%d", key, round, caller, n)
			at := shelf()
			err := b.transact(ctx, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, sqlLower, b.run, at); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, sqlRaise, b.run, at); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, sqlEntries, b.run, id, at); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, sqlEvent, b.run, id, benchBody)
				return err
			})
			return 1, err
		})
	}
}

// bulk is the practical limit: the same work for 500 commands a transaction.
func (b *baseline) bulk(ctx context.Context, round int) (sample, error) {
	key := rand.Uint32()
	return drive(ctx, 2, func(ctx context.Context, caller, n int) (int, error) {
		var events, eventOf []string
		var lines []int32
		var shelves, quantities []int64
		var buckets []int16
		changes := make(map[int64]int64)
		for i := range bulkSize {
			// Each caller has its own half of the shelves, so that they do not
			// refuse each other.
			shelf := rand.Int64N(sqlShelves/2) + int64(caller)*sqlShelves/2
			id := fmt.Sprintf("%08x-%d-%d-%d-%d", key, round, caller, n, i)
			events = append(events, id)
			eventOf = append(eventOf, id, id)
			lines = append(lines, 0, 1)
			shelves = append(shelves, shelf, shelf)
			buckets = append(buckets, bucketAvailable, bucketReserved)
			quantities = append(quantities, -1, 1)
			changes[shelf]++
		}
		var changed, change []int64
		var bucket []int16
		for shelf, n := range changes {
			changed = append(changed, shelf, shelf)
			bucket = append(bucket, bucketAvailable, bucketReserved)
			change = append(change, -n, n)
		}
		err := b.transact(ctx, func(tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue(sqlBulkEvents, b.run, events, benchBody)
			batch.Queue(sqlBulkLines, b.run, eventOf, lines, shelves, buckets, quantities)
			batch.Queue(sqlBulkMove, b.run, changed, bucket, change)
			return tx.SendBatch(ctx, batch).Close()
		})
		return bulkSize, err
	})
}

// agree compares balances, entries and events with what was counted.
func (b *baseline) agree(ctx context.Context, commands int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += commands
	var reserved, entries, events int64
	err := b.pool.QueryRow(ctx, `SELECT
		(SELECT COALESCE(sum(balance), 0)::int8 FROM bench_balances WHERE run = $1 AND bucket = 2),
		(SELECT count(*) FROM bench_entries WHERE run = $1 AND line = 1),
		(SELECT count(*) FROM bench_events WHERE run = $1)`, b.run).Scan(&reserved, &entries, &events)
	if err != nil {
		return err
	}
	if reserved != b.done || entries != b.done || events != b.done {
		return fmt.Errorf("%d commands, %d units reserved, %d entries, %d events", b.done, reserved, entries, events)
	}
	return nil
}
