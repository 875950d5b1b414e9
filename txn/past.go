package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// The statements that read what a journal said in the past. A lot that has not
// moved since is found by its stock row alone; of others, entries are walked
// back from the sequence, which is as far as the lot's own last movement.
const (
	selectLastRecordedBy = `SELECT sequence FROM journal WHERE clinic_id = $1 AND recorded_at <= $2 ORDER BY sequence DESC LIMIT 1`
	selectRecordAt       = `SELECT event, hash FROM journal WHERE clinic_id = $1 AND sequence = $2`
	selectStockOf        = `SELECT available, reserved, pending, quarantined, in_transit, first_sequence, last_sequence FROM stock
		WHERE clinic_id = $1 AND location_id = $2 AND medicine_id = $3 AND lot_id = $4`
	selectEntryUpTo = `SELECT available, reserved, pending, quarantined, in_transit FROM entries
		WHERE clinic_id = $1 AND location_id = $2 AND medicine_id = $3 AND sequence <= $5 AND lot_id = $4
		ORDER BY sequence DESC, line DESC LIMIT 1`
)

// withPast gives a command the facts of the past that it is decided by.
func withPast(ctx context.Context, tx pgx.Tx, server ServerKind, state *ledger.State, c ledger.Command, at ledger.Instant) (ledger.Command, error) {
	if !ledger.NeedsPast(c) {
		return c, nil
	}
	if sequence, ok := ledger.ReceiptWanted(c); ok {
		rows, err := tx.Query(ctx, selectRecordAt, c.Clinic, sequence)
		if err != nil {
			return c, fmt.Errorf("read a receipt: %w", err)
		}
		records, err := readRecords(rows)
		if err != nil {
			return c, fmt.Errorf("read a receipt: %w", err)
		}
		if len(records) == 0 {
			return ledger.WithReceipt(c, ledger.Record{}), nil
		}
		return ledger.WithReceipt(c, records[0]), nil
	}
	if shelf, lot, happened, ok := ledger.DowntimeCountWanted(state, c, at); ok {
		since, err := movedSince(ctx, tx, server, c.Clinic, shelf, lot, happened)
		return ledger.WithBooked(state, c, shelf, lot, since), err
	}
	wanted := ledger.BalancesWanted(state, c, at)
	balances, err := balancesAt(ctx, tx, c.Clinic, wanted)
	for i, w := range wanted {
		if err == nil && w.Lot != "" {
			err = countedSince(ctx, tx, server, c.Clinic, w, &balances[i])
		}
	}
	return ledger.WithBalances(c, balances), err
}

// countedSince adds to a balance of the past what counts have corrected since.
// They found the same units missing or left over, so another count of the same
// moment must not find them again.
func countedSince(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, w ledger.BalanceAt, balance *ledger.Balances) error {
	s := selectFrom(`SELECT e.line, j.event, j.hash FROM entries AS e `+
		lookUpJoin(server, "journal", "j", "e", []string{"clinic_id", "sequence"}, []string{"event", "hash"})+` WHERE`).
		add(` e.clinic_id = ? AND e.location_id = ? AND e.medicine_id = ? AND e.sequence > ? AND e.lot_id = ?`,
			clinic, w.Location, w.Medicine, w.Sequence, w.Lot).
		add(` AND (e.debit = ? OR e.credit = ?)`, int16(ledger.Variance), int16(ledger.Variance))
	_, err := collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error {
		entry, event, err := scanEntryOfRecord(rows)
		if err != nil {
			return err
		}
		m := movement(event, entry)
		if m.Kind != ledger.KindRecordCount {
			return nil
		}
		balance.Available += flowInto(&m.Entry, ledger.Available)
		balance.Quarantined += flowInto(&m.Entry, ledger.Quarantined)
		return nil
	})
	return err
}

// movedSince adds up what has happened after a moment to the units of a lot that
// lie on a shelf, whenever it was recorded, and out of quarantine. Nothing is
// recorded before it happens, so only what was recorded after the moment counts.
func movedSince(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, shelf ledger.Shelf, lot ledger.LotID, moment ledger.Instant) (int64, error) {
	var before ledger.Sequence
	err := tx.QueryRow(ctx, selectLastRecordedBy, clinic, moment.Time()).Scan(&before)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("find what was recorded last before a moment: %w", err)
	}
	var moved int64
	err = entriesAfter(ctx, tx, server, clinic, ledger.BalanceAt{Shelf: shelf, Lot: lot, Sequence: before}, func(entry *ledger.Entry, event *ledger.Event) {
		if event.OccurredAt <= moment {
			return
		}
		for _, bucket := range []ledger.Bucket{ledger.Available, ledger.Reserved, ledger.Pending} {
			moved += flowInto(entry, bucket)
		}
	})
	return moved, err
}

// entriesAfter visits the entries of a lot on a shelf that were posted after a
// sequence, with their records.
func entriesAfter(ctx context.Context, tx pgx.Tx, server ServerKind, clinic ledger.ClinicID, at ledger.BalanceAt, visit func(*ledger.Entry, *ledger.Event)) error {
	s := selectFrom(`SELECT e.line, j.event, j.hash FROM entries AS e `+
		lookUpJoin(server, "journal", "j", "e", []string{"clinic_id", "sequence"}, []string{"event", "hash"})+` WHERE`).
		add(` e.clinic_id = ? AND e.location_id = ? AND e.medicine_id = ? AND e.sequence > ? AND e.lot_id = ?`,
			clinic, at.Location, at.Medicine, at.Sequence, at.Lot)
	_, err := collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error {
		entry, event, err := scanEntryOfRecord(rows)
		if err == nil {
			visit(&entry, &event)
		}
		return err
	})
	return err
}

// scanEntryOfRecord reads an entry's line with the record that it stands in.
func scanEntryOfRecord(rows pgx.Rows) (ledger.Entry, ledger.Event, error) {
	var line int
	var stored, hash []byte
	if err := rows.Scan(&line, &stored, &hash); err != nil {
		return ledger.Entry{}, ledger.Event{}, err
	}
	record, err := openRecord(stored, hash)
	if err != nil {
		return ledger.Entry{}, ledger.Event{}, err
	}
	entries := ledger.EntriesOf(record.Event)
	if line < 0 || line >= len(entries) {
		return ledger.Entry{}, ledger.Event{}, fmt.Errorf("an entry of clinic %s names line %d of sequence %d, which has %d", record.Event.Clinic, line, record.Event.Sequence, len(entries))
	}
	return entries[line], record.Event, nil
}

// balancesAt reads balances of the past; those without a lot are zero.
func balancesAt(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID, wanted []ledger.BalanceAt) ([]ledger.Balances, error) {
	balances := make([]ledger.Balances, len(wanted))
	var moved []int // those whose lot has moved since
	batch := &pgx.Batch{}
	for i, w := range wanted {
		if w.Lot == "" {
			continue
		}
		batch.Queue(selectStockOf, clinic, w.Location, w.Medicine, w.Lot).Query(func(rows pgx.Rows) error {
			stock, err := pgx.CollectRows(rows, scanPresent)
			if err != nil || len(stock) == 0 || stock[0].first > w.Sequence {
				return err
			}
			if stock[0].last > w.Sequence {
				moved = append(moved, i)
				return nil
			}
			balances[i] = stock[0].balances
			return nil
		})
	}
	if err := sendAll(ctx, tx, batch); err != nil {
		return nil, err
	}
	batch = &pgx.Batch{}
	for _, i := range moved {
		w := wanted[i]
		batch.Queue(selectEntryUpTo, clinic, w.Location, w.Medicine, w.Lot, w.Sequence).Query(func(rows pgx.Rows) error {
			entry, err := pgx.CollectRows(rows, scanBalances)
			if err == nil && len(entry) > 0 {
				balances[i] = entry[0]
			}
			return err
		})
	}
	return balances, sendAll(ctx, tx, batch)
}

func sendAll(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) error {
	if batch.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("read past balances: %w", err)
	}
	return nil
}

// present is what a stock row says of now.
type present struct {
	balances    ledger.Balances
	first, last ledger.Sequence
}

func scanPresent(row pgx.CollectableRow) (p present, err error) {
	b := &p.balances
	err = row.Scan(&b.Available, &b.Reserved, &b.Pending, &b.Quarantined, &b.InTransit, &p.first, &p.last)
	return p, err
}

func scanBalances(row pgx.CollectableRow) (b ledger.Balances, err error) {
	err = row.Scan(&b.Available, &b.Reserved, &b.Pending, &b.Quarantined, &b.InTransit)
	return b, err
}
