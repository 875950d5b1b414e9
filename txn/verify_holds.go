package txn

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// heldKey is a row's place in the holds' primary key.
type heldKey struct {
	ledger.Shelf
	hold ledger.HoldID
	lot  ledger.LotID
}

// holdRow is a row of the holds' table.
type holdRow struct {
	heldKey
	line               int
	quantity, reserved int64
	status             ledger.HoldStatus
	reasonCode         string
	deadline           ledger.Instant
	actor              ledger.Actor
	opened             ledger.Sequence
	lastSequence       ledger.Sequence
	owner              string
}

func (r *holdRow) digest() [sha256.Size]byte {
	return digestOf([]string{
		string(r.Location), string(r.Medicine), string(r.hold), string(r.lot), r.reasonCode, string(r.actor), r.owner,
	}, int64(r.line), r.quantity, r.reserved, int64(r.status), int64(r.deadline), int64(r.opened), int64(r.lastSequence))
}

// String writes what the row says about its lot's part in the hold.
func (r *holdRow) String() string {
	return fmt.Sprintf("line %d, %d of %d units held, status %d, reason %s, deadline %s, actor %s, owner %q, opened by %d, changed by %d",
		r.line, r.quantity, r.reserved, r.status, r.reasonCode, r.deadline, r.actor, r.owner, r.opened, r.lastSequence)
}

// closedRows are the rows of the holds that a command has closed.
func closedRows(holds []*ledger.Hold) []holdRow {
	var rows []holdRow
	for _, hold := range holds {
		if hold.Status == ledger.HoldOpen {
			continue
		}
		for i, line := range hold.Lines {
			rows = append(rows, holdRow{
				heldKey: heldKey{hold.Shelf, hold.ID, line.Lot}, line: i, quantity: line.Quantity, reserved: line.Reserved,
				status: hold.Status, reasonCode: hold.ReasonCode, deadline: hold.Deadline, actor: hold.Actor,
				opened: hold.OpenedSequence, lastSequence: hold.LastSequence, owner: hold.Owner,
			})
		}
	}
	return rows
}

// eachClosedHold visits the stored rows of closed holds in the order of their
// key.
func (v *verifier) eachClosedHold(ctx context.Context, visit func(*holdRow)) error {
	for after := (heldKey{}); ; {
		s := selectFrom(`SELECT location_id, medicine_id, hold_id, lot_id, line, quantity, reserved_quantity, status, reason_code, deadline, actor, opened_sequence, last_sequence, owner
			FROM holds WHERE`).add(` clinic_id = ? AND status <> 1 AND (location_id, medicine_id, hold_id, lot_id) > (?, ?, ?, ?)`,
			v.clinic, after.Location, after.Medicine, after.hold, after.lot).
			add(` ORDER BY location_id, medicine_id, hold_id, lot_id LIMIT ?`, verifyChunk)
		holds, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *holdRow) error {
			var deadline time.Time
			err := rows.Scan(&r.Location, &r.Medicine, &r.hold, &r.lot, &r.line, &r.quantity, &r.reserved, &r.status,
				&r.reasonCode, &deadline, &r.actor, &r.opened, &r.lastSequence, &r.owner)
			r.deadline = ledger.InstantOf(deadline)
			return err
		})
		if err != nil {
			return err
		}
		for i := range holds {
			visit(&holds[i])
			after = holds[i].heldKey
		}
		v.progress()
		if len(holds) < verifyChunk {
			return nil
		}
	}
}

// checkClosedHolds compares the holds that are closed, which the state has
// forgotten, with those that the journal has closed.
func (v *verifier) checkClosedHolds(ctx context.Context) error {
	err := v.eachClosedHold(ctx, func(r *holdRow) {
		if r.quantity != 0 {
			v.found(ruleClosedEmpty, r.account(), r.lastSequence, "it is closed and holds %d units", r.quantity)
		}
		if !v.beyond(r.lastSequence) {
			v.archived.add(r.lastSequence, r.digest())
		}
	})
	if v.unreadable("holds", 0, err) {
		return nil
	}
	v.table("holds, closed", v.closed.rows(), v.archived.rows())
	defer v.ended()
	if err != nil || maps.Equal(v.closed, v.archived) {
		return err
	}
	return v.explainClosedHolds(ctx)
}

// account names the reserved units of the row's lot, and the hold.
func (r *holdRow) account() string {
	return fmt.Sprintf("%s, hold %s", bucketName(lotKey{r.Shelf, r.lot}, ledger.Reserved), r.hold)
}

// explainClosedHolds names the closed holds in which the journal and the table
// differ.
func (v *verifier) explainClosedHolds(ctx context.Context) error {
	spans := v.closed.differences(v.archived)
	closed := make(map[heldKey]holdRow)
	err := v.again(ctx, func(effects *ledger.Effects) {
		for _, row := range closedRows(effects.Holds) {
			if spans[row.lastSequence/tallySpan] {
				closed[row.heldKey] = row
			}
		}
	})
	if err != nil {
		return err
	}
	err = v.eachClosedHold(ctx, func(r *holdRow) {
		if !spans[r.lastSequence/tallySpan] || v.beyond(r.lastSequence) {
			return
		}
		want, ok := closed[r.heldKey]
		delete(closed, r.heldKey)
		switch {
		case !ok:
			v.found(ruleClosedHolds, r.account(), r.lastSequence, "a closed hold is stored that the journal does not close: %s", r)
		case want != *r:
			v.found(ruleClosedHolds, r.account(), want.lastSequence, "stored is %s, replayed is %s", r, &want)
		}
	})
	missing := slices.SortedFunc(maps.Values(closed), func(a, b holdRow) int { return cmp.Compare(a.lastSequence, b.lastSequence) })
	for _, want := range missing {
		v.found(ruleClosedHolds, want.account(), want.lastSequence, "the closed hold is missing, or stored as open: replayed is %s", &want)
	}
	return err
}
