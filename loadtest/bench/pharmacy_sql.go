package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sqlPharmacy prescribes and dispenses as an engineer would write it without a
// ledger: one SERIALIZABLE transaction each. A prescription is a row with a line
// and an event; a dispensing looks at the line, raises what was dispensed of it,
// lowers a balance, and inserts an entry, the dispensing, what is to be paid for
// it, and an event.
type sqlPharmacy struct {
	baseline
	prescribed, dispensed int64 // of all rounds so far
}

var pharmacySchema = append(baselineSchema,
	`CREATE TABLE IF NOT EXISTS bench_prescriptions (run TEXT, prescription_id TEXT, patient TEXT NOT NULL, prescriber TEXT NOT NULL, valid_until DATE NOT NULL, status INT2 NOT NULL, PRIMARY KEY (run, prescription_id))`,
	`CREATE TABLE IF NOT EXISTS bench_lines (run TEXT, prescription_id TEXT, line INT4, shelf INT8 NOT NULL, quantity INT8 NOT NULL, refills INT8 NOT NULL, dispensed INT8 NOT NULL, PRIMARY KEY (run, prescription_id, line))`,
	`CREATE TABLE IF NOT EXISTS bench_dispensings (run TEXT, dispensing_id TEXT, prescription_id TEXT NOT NULL, shelf INT8 NOT NULL, quantity INT8 NOT NULL, actor TEXT NOT NULL, at TIMESTAMPTZ NOT NULL, PRIMARY KEY (run, dispensing_id))`,
	`CREATE TABLE IF NOT EXISTS bench_charges (run TEXT, dispensing_id TEXT, amount INT8 NOT NULL, currency TEXT NOT NULL, payer TEXT NOT NULL, PRIMARY KEY (run, dispensing_id))`,
)

var pharmacyTables = append([]string{"bench_prescriptions", "bench_lines", "bench_dispensings", "bench_charges"}, baselineTables...)

const (
	sqlPrescribe = `INSERT INTO bench_prescriptions (run, prescription_id, patient, prescriber, valid_until, status) VALUES ($1, $2, $3, 'Dr. Hill', '2099-01-01', 1)`
	sqlLine      = `INSERT INTO bench_lines (run, prescription_id, line, shelf, quantity, refills, dispensed) VALUES ($1, $2, 1, $3, 1, 999, 0)`
	sqlLook      = `SELECT l.shelf, l.quantity * (1 + l.refills) - l.dispensed FROM bench_prescriptions AS p JOIN bench_lines AS l ON l.run = p.run AND l.prescription_id = p.prescription_id
		WHERE p.run = $1 AND p.prescription_id = $2 AND p.status = 1 AND p.valid_until >= current_date AND l.line = 1`
	sqlFill     = `UPDATE bench_lines SET dispensed = dispensed + 1 WHERE run = $1 AND prescription_id = $2 AND line = 1`
	sqlOneEntry = `INSERT INTO bench_entries (run, event_id, line, shelf, bucket, quantity) VALUES ($1, $2, 0, $3, 1, -1)`
	sqlGiven    = `INSERT INTO bench_dispensings (run, dispensing_id, prescription_id, shelf, quantity, actor, at) VALUES ($1, $2, $3, $4, 1, 'bench', now())`
	sqlCharge   = `INSERT INTO bench_charges (run, dispensing_id, amount, currency, payer) VALUES ($1, $2, 125, 'KES', 'NHIF')`
)

// sqlStanding is how many prescriptions there are to dispense against.
const sqlStanding = 20_000

func newSQLPharmacy(ctx context.Context, pool *pgxpool.Pool, run string) (*sqlPharmacy, error) {
	p := &sqlPharmacy{baseline: baseline{pool: pool, run: run + "-pharmacy"}}
	for _, ddl := range pharmacySchema {
		if _, err := pool.Exec(ctx, ddl); err != nil {
			return nil, fmt.Errorf("make the pharmacy's tables: %w", err)
		}
	}
	for _, fill := range []string{
		`INSERT INTO bench_balances (run, shelf, bucket, balance) SELECT $1, s, 1, 1000000000000 FROM generate_series(0, $2::int8 - 1) AS s`,
		`INSERT INTO bench_prescriptions (run, prescription_id, patient, prescriber, valid_until, status)
			SELECT $1, 'standing-' || s, 'p' || s, 'Dr. Hill', '2099-01-01', 1 FROM generate_series(0, $2::int8 - 1) AS s`,
		`INSERT INTO bench_lines (run, prescription_id, line, shelf, quantity, refills, dispensed)
			SELECT $1, 'standing-' || s, 1, s, 1, 999999, 0 FROM generate_series(0, $2::int8 - 1) AS s`,
	} {
		if _, err := pool.Exec(ctx, fill, p.run, sqlStanding); err != nil {
			return nil, fmt.Errorf("fill the pharmacy's tables: %w", err)
		}
	}
	for _, table := range pharmacyTables[:2] {
		if _, err := pool.Exec(ctx, "ANALYZE "+table); err != nil {
			return nil, fmt.Errorf("analyze the pharmacy's tables: %w", err)
		}
	}
	return p, nil
}

func (p *sqlPharmacy) prescribe(ctx context.Context, round int) (sample, error) {
	key := rand.Uint32()
	return drive(ctx, sqlConnections, func(ctx context.Context, caller, n int) (int, error) {
		id := fmt.Sprintf("%08x-%d-%d-%d", key, round, caller, n)
		return 1, p.transact(ctx, func(tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue(sqlPrescribe, p.run, id, id)
			batch.Queue(sqlLine, p.run, id, rand.Int64N(sqlStanding))
			batch.Queue(sqlEvent, p.run, id, benchBody)
			return tx.SendBatch(ctx, batch).Close()
		})
	})
}

func (p *sqlPharmacy) dispense(ctx context.Context, round int) (sample, error) {
	key := rand.Uint32()
	return drive(ctx, sqlConnections, func(ctx context.Context, caller, n int) (int, error) {
		id, prescription := fmt.Sprintf("%08x-%d-%d-%d", key, round, caller, n), fmt.Sprintf("standing-%d", rand.Int64N(sqlStanding))
		return 1, p.transact(ctx, func(tx pgx.Tx) error {
			var shelf, left int64
			if err := tx.QueryRow(ctx, sqlLook, p.run, prescription).Scan(&shelf, &left); err != nil {
				return err
			}
			if left < 1 {
				return fmt.Errorf("prescription %s is filled", prescription)
			}
			batch := &pgx.Batch{}
			batch.Queue(sqlFill, p.run, prescription)
			batch.Queue(sqlLower, p.run, shelf)
			batch.Queue(sqlOneEntry, p.run, id, shelf)
			batch.Queue(sqlGiven, p.run, id, prescription, shelf)
			batch.Queue(sqlCharge, p.run, id)
			batch.Queue(sqlEvent, p.run, id, benchBody)
			return tx.SendBatch(ctx, batch).Close()
		})
	})
}

func (p *sqlPharmacy) agreePrescribed(ctx context.Context, prescriptions int64) error {
	p.prescribed += prescriptions
	return p.agreeAll(ctx)
}

func (p *sqlPharmacy) agreeDispensed(ctx context.Context, dispensings int64) error {
	p.dispensed += dispensings
	return p.agreeAll(ctx)
}

// agreeAll compares the books with what was counted.
func (p *sqlPharmacy) agreeAll(ctx context.Context) error {
	var prescriptions, lines, dispensed, given, charges, events, left int64
	err := p.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM bench_prescriptions WHERE run = $1),
		(SELECT count(*) FROM bench_lines WHERE run = $1),
		(SELECT sum(dispensed)::int8 FROM bench_lines WHERE run = $1),
		(SELECT count(*) FROM bench_dispensings WHERE run = $1),
		(SELECT count(*) FROM bench_charges WHERE run = $1),
		(SELECT count(*) FROM bench_events WHERE run = $1),
		(SELECT sum(balance)::int8 FROM bench_balances WHERE run = $1)`, p.run).
		Scan(&prescriptions, &lines, &dispensed, &given, &charges, &events, &left)
	if err != nil {
		return err
	}
	if prescriptions != p.prescribed+sqlStanding || lines != prescriptions || dispensed != p.dispensed || given != p.dispensed || charges != p.dispensed ||
		events != p.prescribed+p.dispensed || left != sqlStanding*1_000_000_000_000-p.dispensed {
		return fmt.Errorf("%d prescribed, %d dispensed: %d prescriptions, %d lines, %d dispensed of them, %d dispensings, %d charges, %d events, %d units left",
			p.prescribed, p.dispensed, prescriptions, lines, dispensed, given, charges, events, left)
	}
	return nil
}
