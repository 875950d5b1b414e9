package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// RegisterFilter says which part of the controlled register to read: one
// medicine at one location, from and to (inclusive) when it was recorded; zero
// leaves an end open.
type RegisterFilter struct {
	ledger.Shelf
	From, To ledger.Instant
}

// RegisterLine is a line of the controlled register: a movement that changed
// what lies at the location, or lost units on their way from it. Quantities are
// base units over all lots; what is in transit does not lie at the location.
type RegisterLine struct {
	Movement
	Opening, In, Out, Balance int64 // Balance = Opening + In - Out
}

// RegisterPlace is a place in a register, with the balance there.
type RegisterPlace struct {
	MovementKey
	Balance int64
}

// Register reads the controlled register of a medicine at a location, from
// after a place (nil: from the beginning). next is the place to go on from, nil
// at the end; a page may be short and still have a next one. Nothing in it is
// ever changed: a correction is a later line that names what it corrects.
func (q *Queries) Register(ctx context.Context, clinic ledger.ClinicID, f RegisterFilter, after *RegisterPlace, limit int, o ReadOptions) (lines []RegisterLine, next *RegisterPlace, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) error {
		if err := v.known(ctx, []ledger.LocationID{f.Location}, []ledger.MedicineID{f.Medicine}); err != nil {
			return err
		}
		lines, next, err = v.register(ctx, f, after, limit)
		return err
	})
	return lines, next, asOf, err
}

func (v *view) register(ctx context.Context, f RegisterFilter, after *RegisterPlace, limit int) (lines []RegisterLine, next *RegisterPlace, err error) {
	card := MovementFilter{Shelf: f.Shelf}
	if f.To != 0 {
		first, err := v.firstRecordedAfter(ctx, f.To+1)
		if err != nil {
			return nil, nil, err
		}
		if card.To = first - 1; card.To == 0 {
			return nil, nil, nil
		}
	}
	place := after
	if place == nil {
		if place, err = v.registerOpening(ctx, f); err != nil {
			return nil, nil, err
		}
	}
	for looked := 0; looked < movementsLimit; looked += movementChunk {
		movements, more, err := v.stockCard(ctx, card, &place.MovementKey, movementChunk)
		if err != nil {
			return nil, nil, err
		}
		for i := range movements {
			line, shown := registerLine(&movements[i], place.Balance)
			place = &RegisterPlace{*keyOf(&movements[i]), line.Balance}
			if !shown {
				continue
			}
			if lines = append(lines, line); len(lines) == limit {
				return lines, place, nil
			}
		}
		if more == nil {
			return lines, nil, nil
		}
	}
	return lines, place, nil
}

// registerLine works out what a movement does to the balance, and whether it is
// a line of the register at all: reserving and releasing are not.
func registerLine(m *Movement, opening int64) (RegisterLine, bool) {
	line := RegisterLine{Movement: *m, Opening: opening}
	from, to := atLocation(m.Credit), atLocation(m.Debit)
	if to && !from {
		line.In = m.Quantity
	}
	if from && !to {
		line.Out = m.Quantity
	}
	line.Balance = opening + line.In - line.Out
	lost := m.Credit == ledger.InTransit && m.Debit == ledger.Variance
	return line, from != to || lost
}

func atLocation(b ledger.Bucket) bool { return b.Held() && b != ledger.InTransit }

// registerOpening is the place and the balance before the register's first
// line.
func (v *view) registerOpening(ctx context.Context, f RegisterFilter) (*RegisterPlace, error) {
	if f.From == 0 {
		return &RegisterPlace{}, nil
	}
	first, err := v.firstRecordedAfter(ctx, f.From)
	if err != nil {
		return nil, err
	}
	s := v.selectStock().add(` AND s.location_id = ? AND s.medicine_id = ?`, f.Location, f.Medicine)
	rows, err := collect(ctx, v.tx, s, v.scanStock)
	if err != nil {
		return nil, err
	}
	wanted := make([]ledger.BalanceAt, len(rows))
	for i, row := range rows {
		wanted[i] = ledger.BalanceAt{Shelf: f.Shelf, Lot: row.Lot, Sequence: first - 1}
	}
	balances, err := balancesAt(ctx, v.tx, v.id, wanted)
	place := &RegisterPlace{MovementKey: *pastAll(first-1, false)}
	for _, b := range balances {
		place.Balance += b.OnHand() - b.InTransit
	}
	return place, err
}

const selectRecordedAt = `SELECT recorded_at FROM journal WHERE clinic_id = $1 AND sequence = $2`

// firstRecordedAfter finds the first command that was recorded at a time or
// later, or the one after the last. A journal's time never runs back, so it is
// found by halving.
func (v *view) firstRecordedAfter(ctx context.Context, at ledger.Instant) (ledger.Sequence, error) {
	low, high := ledger.Sequence(1), v.asOf.Sequence+1
	for low < high {
		middle := low + (high-low)/2
		var recorded time.Time
		err := v.tx.QueryRow(ctx, selectRecordedAt, v.id, middle).Scan(&recorded)
		if errors.Is(err, pgx.ErrNoRows) {
			return 0, fmt.Errorf("clinic %s: sequence %d is missing from the journal", v.id, middle)
		}
		if err != nil {
			return 0, fmt.Errorf("find a time in the journal: %w", err)
		}
		if ledger.InstantOf(recorded) >= at {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low, nil
}
