package txn

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Entries that happened before they were recorded are kept apart, as a read
// model, so that a balance by occurrence needs not read everything that was
// recorded later.

var lateTable = table{"late_entries", []string{"clinic_id", "location_id", "medicine_id", "lot_id", "lateness", "occurred_at", "sequence", "line"}, []column{
	{"clinic_id", "text"}, {"location_id", "text"}, {"medicine_id", "text"}, {"lot_id", "text"},
	{"lateness", "int2"}, {"occurred_at", "timestamptz"}, {"sequence", "int8"}, {"line", "int4"},
	{"debit", "int2"}, {"credit", "int2"}, {"quantity", "int8"},
}}

// lateEntry is an entry that was recorded after it happened.
type lateEntry struct {
	clinic   ledger.ClinicID
	occurred ledger.Instant
	lateness lateness
	ledger.Entry
}

// lateness is how much later something was recorded, roughly: what was recorded
// after a moment and happened before it, happened within so long before it. The
// numbers are stored.
type lateness int16

// longest are the longest times of each lateness; the last one has none.
var longest = [...]time.Duration{
	time.Second, time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 35 * 24 * time.Hour, 366 * 24 * time.Hour, 0,
}

func latenessOf(late time.Duration) lateness {
	l := 0
	for l < len(longest)-1 && late > longest[l] {
		l++
	}
	return lateness(l)
}

// since is after which moment something so late happened that was recorded
// after another one.
func (l lateness) since(recorded ledger.Instant) ledger.Instant {
	if longest[l] == 0 {
		return -1
	}
	return max(-1, recorded-ledger.Instant(longest[l]/time.Microsecond))
}

// lateEntriesOf are the entries of an event that was recorded after it happened.
func lateEntriesOf(clinic ledger.ClinicID, e *ledger.Event, entries []ledger.Entry) []lateEntry {
	if e.OccurredAt == 0 || e.OccurredAt >= e.At || len(entries) == 0 {
		return nil
	}
	late := make([]lateEntry, len(entries))
	l := latenessOf(e.At.Time().Sub(e.OccurredAt.Time()))
	for i := range entries {
		late[i] = lateEntry{clinic, e.OccurredAt, l, entries[i]}
	}
	return late
}

// digest hashes what is stored of a late entry.
func (e *lateEntry) digest() [sha256.Size]byte {
	return digestOf([]string{string(e.Location), string(e.Medicine), string(e.Lot)},
		int64(e.lateness), int64(e.occurred), int64(e.Sequence), int64(e.Line), int64(e.Debit), int64(e.Credit), e.Quantity)
}

type lateRows struct {
	clinic, location, medicine, lot []string
	lateness                        []int16
	occurred                        []time.Time
	sequence                        []int64
	line                            []int32
	debit, credit                   []int16
	quantity                        []int64
}

func (r *lateRows) add(e *lateEntry) {
	r.clinic = append(r.clinic, string(e.clinic))
	r.location = append(r.location, string(e.Location))
	r.medicine = append(r.medicine, string(e.Medicine))
	r.lot = append(r.lot, string(e.Lot))
	r.lateness = append(r.lateness, int16(e.lateness))
	r.occurred = append(r.occurred, e.occurred.Time())
	r.sequence = append(r.sequence, int64(e.Sequence))
	r.line = append(r.line, int32(e.Line))
	r.debit = append(r.debit, int16(e.Debit))
	r.credit = append(r.credit, int16(e.Credit))
	r.quantity = append(r.quantity, e.Quantity)
}

func (r *lateRows) columns() []any {
	return []any{r.clinic, r.location, r.medicine, r.lot, r.lateness, r.occurred, r.sequence, r.line, r.debit, r.credit, r.quantity}
}

const selectLate = `SELECT sequence, line, debit, credit, quantity FROM late_entries
	WHERE clinic_id = $1 AND location_id = $2 AND medicine_id = $3 AND lot_id = $4 AND lateness = $5
	AND occurred_at > $6 AND occurred_at <= $7 AND sequence > $8`

// lateBy visits the entries of a lot on a shelf that were recorded after a
// sequence, the last one of a moment, and had happened by then. It reads those
// that were recorded within so long after the moment as they were late, and of
// what the read models do not show yet, everything.
func (v *view) lateBy(ctx context.Context, place ledger.BalanceAt, moment ledger.Instant, visit func(*ledger.Entry)) error {
	shown, err := v.lateShown(ctx)
	if err != nil {
		return err
	}
	if shown > place.Sequence {
		batch := &pgx.Batch{}
		for l := range lateness(len(longest)) {
			batch.Queue(selectLate, v.id, place.Location, place.Medicine, place.Lot, int16(l), l.since(moment).Time(), moment.Time(), place.Sequence).
				Query(func(rows pgx.Rows) error {
					var e ledger.Entry
					for rows.Next() {
						if err := rows.Scan(&e.Sequence, &e.Line, &e.Debit, &e.Credit, &e.Quantity); err != nil {
							return err
						}
						visit(&e)
					}
					return rows.Err()
				})
		}
		if err := sendAll(ctx, v.tx, batch); err != nil {
			return err
		}
	}
	place.Sequence = max(place.Sequence, shown)
	if place.Sequence == v.asOf.Sequence {
		return nil
	}
	return entriesAfter(ctx, v.tx, v.server, v.id, place, func(entry *ledger.Entry, event *ledger.Event) {
		if event.OccurredAt <= moment {
			visit(entry)
		}
	})
}

// lateShown is the command up to which the late entries are known; 0 where the
// read models are of another epoch, or of before there were any.
func (v *view) lateShown(ctx context.Context) (ledger.Sequence, error) {
	s := selectFrom(selectModelCursors)
	s.args = []any{[]string{string(v.id)}}
	cursors, err := collect(ctx, v.tx, s, func(rows pgx.Rows, p *Place) error {
		var clinic, zone string
		return rows.Scan(&clinic, &p.Epoch, &p.Sequence, &zone)
	})
	if err != nil || len(cursors) == 0 || cursors[0].Epoch != v.asOf.Epoch {
		return 0, err
	}
	return min(cursors[0].Sequence, v.asOf.Sequence), nil
}

// eachLate visits the stored late entries of the clinic that is verified.
func (v *verifier) eachLate(ctx context.Context, visit func(*lateEntry)) error {
	after := lateEntry{lateness: -1 << 15, Entry: ledger.Entry{Sequence: -1 << 63}}
	for {
		s := selectFrom(`SELECT location_id, medicine_id, lot_id, lateness, occurred_at, sequence, line, debit, credit, quantity FROM late_entries WHERE`).
			add(` clinic_id = ? AND (location_id, medicine_id, lot_id, lateness, occurred_at, sequence, line) > (?, ?, ?, ?, ?, ?, ?)`,
				v.clinic, after.Location, after.Medicine, after.Lot, int16(after.lateness), after.occurred.Time(), after.Sequence, after.Line).
			add(` ORDER BY location_id, medicine_id, lot_id, lateness, occurred_at, sequence, line LIMIT ?`, verifyChunk)
		rows, err := collect(ctx, v.tx, s, func(rows pgx.Rows, e *lateEntry) error {
			var occurred time.Time
			err := rows.Scan(&e.Location, &e.Medicine, &e.Lot, &e.lateness, &occurred, &e.Sequence, &e.Line, &e.Debit, &e.Credit, &e.Quantity)
			e.occurred = ledger.InstantOf(occurred)
			return err
		})
		if err != nil {
			return err
		}
		for i := range rows {
			visit(&rows[i])
			after = rows[i]
		}
		if len(rows) < verifyChunk {
			return nil
		}
	}
}

// checkLate compares the stored late entries with those of the journal.
func (v *verifier) checkLate(ctx context.Context) error {
	stored := make(tally)
	err := v.eachLate(ctx, func(e *lateEntry) { stored.add(e.Sequence, e.digest()) })
	if err != nil {
		if v.unreadable("read models", v.models.upTo, err) {
			return nil
		}
		return fmt.Errorf("read the late entries: %w", err)
	}
	v.table(lateTable.name, v.models.lateOnes.rows(), stored.rows())
	defer v.ended()
	for span := range v.models.lateOnes.differences(stored) {
		first := max(span*tallySpan, 1)
		v.found(ruleModels, "late entries", first, "what is stored of commands %d to %d is not what the journal says happened before it was recorded", first, (span+1)*tallySpan-1)
	}
	return nil
}
