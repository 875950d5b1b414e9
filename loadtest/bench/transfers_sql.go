package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sqlTransfers moves units between shelves as an engineer would write it without
// a ledger: the same five steps, from the request to the completion, each a
// SERIALIZABLE transaction that keeps the transfer's row, the balances, two
// entries for what it moves, and an event.
type sqlTransfers struct {
	baseline
	shelves int64
	moved   int64 // transfers of all rounds so far
}

const bucketInTransit = 5

var transferSchema = append(baselineSchema,
	`CREATE TABLE IF NOT EXISTS bench_transfers (run TEXT, transfer_id TEXT, from_shelf INT8 NOT NULL, to_shelf INT8 NOT NULL, quantity INT8 NOT NULL, status INT2 NOT NULL, PRIMARY KEY (run, transfer_id))`,
)

const (
	sqlChange         = `UPDATE bench_balances SET balance = balance + $4 WHERE run = $1 AND shelf = $2 AND bucket = $3`
	sqlMoveEntries    = `INSERT INTO bench_entries (run, event_id, line, shelf, bucket, quantity) VALUES ($1, $2, 0, $3, $4, -1), ($1, $2, 1, $5, $6, 1)`
	sqlRequest        = `INSERT INTO bench_transfers (run, transfer_id, from_shelf, to_shelf, quantity, status) VALUES ($1, $2, $3, $4, 1, 1)`
	sqlTransferStatus = `UPDATE bench_transfers SET status = $3 WHERE run = $1 AND transfer_id = $2`
)

// sqlShelfBalances is what each shelf begins with.
const sqlShelfBalances = 1_000_000_000

func newSQLTransfers(ctx context.Context, pool *pgxpool.Pool, run string) (*sqlTransfers, error) {
	t := &sqlTransfers{baseline: baseline{pool: pool, run: run + "-transfers"}, shelves: 10_000}
	for _, ddl := range transferSchema {
		if _, err := pool.Exec(ctx, ddl); err != nil {
			return nil, fmt.Errorf("make the transfers' tables: %w", err)
		}
	}
	_, err := pool.Exec(ctx, `INSERT INTO bench_balances (run, shelf, bucket, balance)
		SELECT $1, s, b, CASE WHEN b = 1 THEN $3::int8 ELSE 0 END
		FROM generate_series(0, $2::int8) AS s, unnest(ARRAY[1, 2, 5]) AS b`, t.run, t.shelves-1, sqlShelfBalances)
	if err != nil {
		return nil, fmt.Errorf("fill the transfers' tables: %w", err)
	}
	if _, err := pool.Exec(ctx, "ANALYZE bench_balances"); err != nil {
		return nil, fmt.Errorf("analyze the transfers' tables: %w", err)
	}
	return t, nil
}

// sqlMove is what a step does to the balances: one unit from a bucket of a
// shelf to a bucket of a shelf.
type sqlMove struct {
	from, to             int64
	fromBucket, toBucket int16
}

func (t *sqlTransfers) load(ctx context.Context, round int) (sample, error) {
	key := rand.Uint32()
	return drive(ctx, sqlConnections, func(ctx context.Context, caller, n int) (int, error) {
		id := fmt.Sprintf("%08x-%d-%d-%d", key, round, caller, n)
		from := rand.Int64N(t.shelves)
		to := (from + 1 + rand.Int64N(t.shelves-1)) % t.shelves
		steps := []*sqlMove{
			nil, // the request
			{from, from, bucketAvailable, bucketReserved},
			{from, from, bucketReserved, bucketInTransit},
			{from, to, bucketInTransit, bucketAvailable},
			nil, // the completion
		}
		for status, move := range steps {
			err := t.transact(ctx, func(tx pgx.Tx) error { return t.step(ctx, tx, id, status+1, from, to, move) })
			if err != nil {
				return 0, err
			}
		}
		return 1, nil
	})
}

func (t *sqlTransfers) step(ctx context.Context, tx pgx.Tx, id string, status int, from, to int64, move *sqlMove) error {
	event := fmt.Sprintf("%s-%d", id, status)
	batch := &pgx.Batch{}
	if status == 1 {
		batch.Queue(sqlRequest, t.run, id, from, to)
	} else {
		batch.Queue(sqlTransferStatus, t.run, id, status)
	}
	if move != nil {
		batch.Queue(sqlChange, t.run, move.from, move.fromBucket, -1)
		batch.Queue(sqlChange, t.run, move.to, move.toBucket, 1)
		batch.Queue(sqlMoveEntries, t.run, event, move.from, move.fromBucket, move.to, move.toBucket)
	}
	batch.Queue(sqlEvent, t.run, event, benchBody)
	return tx.SendBatch(ctx, batch).Close()
}

// agree compares the books with what was counted: every transfer is complete,
// and no unit is gone or stuck.
func (t *sqlTransfers) agree(ctx context.Context, transfers int64) error {
	t.moved += transfers
	var complete, entries, events, available, stuck int64
	err := t.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM bench_transfers WHERE run = $1 AND status = 5),
		(SELECT count(*) FROM bench_entries WHERE run = $1),
		(SELECT count(*) FROM bench_events WHERE run = $1),
		(SELECT sum(balance)::int8 FROM bench_balances WHERE run = $1 AND bucket = 1),
		(SELECT sum(balance)::int8 FROM bench_balances WHERE run = $1 AND bucket <> 1)`, t.run).
		Scan(&complete, &entries, &events, &available, &stuck)
	if err != nil {
		return err
	}
	if complete != t.moved || entries != 6*t.moved || events != 5*t.moved || stuck != 0 || available != t.shelves*sqlShelfBalances {
		return fmt.Errorf("%d transfers: %d complete, %d entries, %d events, %d units available, %d stuck", t.moved, complete, entries, events, available, stuck)
	}
	return nil
}
