package txn

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// DocumentFilter narrows a list of documents of one kind.
type DocumentFilter struct {
	Kind     ledger.DocumentKind
	OpenOnly bool
	Location ledger.LocationID // empty: any
	// Locations, where not nil, are the only ones shown: documents that concern
	// one of them, or the clinic as a whole.
	Locations   []ledger.LocationID
	NewestFirst bool
}

// DocumentPlace is a place in a list of documents.
type DocumentPlace struct {
	Opened ledger.Sequence
	ID     string
}

func scanDocument(kind ledger.DocumentKind) func(pgx.Rows, *ledger.Document) error {
	return func(rows pgx.Rows, d *ledger.Document) error {
		var stored []byte
		err := rows.Scan(&d.OpenedSequence, &d.LastSequence, &stored)
		if err != nil {
			return err
		}
		d.Body, err = ledger.DecodeDocument(kind, stored)
		return err
	}
}

// Document reads a document, open or closed. It is nil where there is none.
func (q *Queries) Document(ctx context.Context, clinic ledger.ClinicID, key ledger.DocumentKey, o ReadOptions) (*ledger.Document, AsOf, error) {
	if q.cached(o) && key.Kind == ledger.DocumentPrescription {
		return q.cachedPrescription(ctx, clinic, key.ID, o)
	}
	var found *ledger.Document
	asOf, err := q.read(ctx, clinic, o, func(v *view) error {
		found = nil // of an attempt that failed
		s := selectFrom(`SELECT opened_sequence, last_sequence, document FROM documents WHERE`).
			add(` clinic_id = ? AND kind = ? AND document_id = ?`, clinic, key.Kind, key.ID)
		documents, err := collect(ctx, v.tx, s, scanDocument(key.Kind))
		if len(documents) > 0 {
			found = &documents[0]
		}
		return err
	})
	return found, asOf, err
}

// Documents reads documents by when they were opened, from after a place (nil:
// from the beginning). next is the place to go on from, nil at the end.
func (q *Queries) Documents(ctx context.Context, clinic ledger.ClinicID, f DocumentFilter, after *DocumentPlace, limit int, o ReadOptions) (documents []ledger.Document, next *DocumentPlace, asOf AsOf, err error) {
	if q.cached(o) && after == nil && limit <= maxCachedTemplates && f.templates() {
		return q.cachedTemplates(ctx, clinic, limit, o)
	}
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		documents, err = collect(ctx, v.tx, f.selection(clinic, after, limit+1), scanDocument(f.Kind))
		return err
	})
	documents, more := page(documents, limit)
	if more {
		last := documents[len(documents)-1]
		next = &DocumentPlace{last.OpenedSequence, last.Body.About().ID}
	}
	return documents, next, asOf, err
}

func (f DocumentFilter) selection(clinic ledger.ClinicID, after *DocumentPlace, limit int) *selection {
	s := selectFrom(`SELECT opened_sequence, last_sequence, document FROM documents WHERE`).
		add(` clinic_id = ? AND kind = ? AND opened_sequence > 0`, clinic, f.Kind). // states the index's condition
		addIf(f.OpenOnly, ` AND is_open`).
		addIf(f.Location != "", ` AND (location_id = ? OR other_location_id = ?)`, f.Location, f.Location)
	if f.Locations != nil {
		only := texts(f.Locations)
		s.add(` AND (location_id = ANY(?) OR other_location_id = ANY(?) OR location_id = '' AND other_location_id = '')`, only, only)
	}
	if f.NewestFirst {
		if after != nil {
			s.add(` AND (opened_sequence, document_id) < (?, ?)`, after.Opened, after.ID)
		}
		return s.add(` ORDER BY opened_sequence DESC, document_id DESC LIMIT ?`, limit)
	}
	if after != nil {
		s.add(` AND (opened_sequence, document_id) > (?, ?)`, after.Opened, after.ID)
	}
	return s.add(` ORDER BY opened_sequence, document_id LIMIT ?`, limit)
}

// BalanceAt reads what a location held of a lot once the command with a
// sequence had been posted. A sequence that the journal does not have yet is a
// SequenceNotReachedError.
func (q *Queries) BalanceAt(ctx context.Context, clinic ledger.ClinicID, shelf ledger.Shelf, lot ledger.LotID, at ledger.Sequence, o ReadOptions) (ledger.Balances, AsOf, error) {
	var balance ledger.Balances
	o.MinSequence = max(o.MinSequence, at)
	asOf, err := q.read(ctx, clinic, o, func(v *view) error {
		if err := v.known(ctx, []ledger.LocationID{shelf.Location}, []ledger.MedicineID{shelf.Medicine}); err != nil {
			return err
		}
		balances, err := balancesAt(ctx, v.tx, clinic, []ledger.BalanceAt{{Shelf: shelf, Lot: lot, Sequence: at}})
		if err != nil {
			return fmt.Errorf("read a past balance: %w", err)
		}
		balance = balances[0]
		return nil
	})
	return balance, asOf, err
}

// BalanceAtTime reads what a location held of a lot at a moment. By recording,
// it is what the books said then. By occurrence, it is what lay there by what
// is known now: what had happened by then and was recorded later counts too.
func (q *Queries) BalanceAtTime(ctx context.Context, clinic ledger.ClinicID, shelf ledger.Shelf, lot ledger.LotID, at ledger.Instant, byOccurrence bool, o ReadOptions) (ledger.Balances, AsOf, error) {
	var balance ledger.Balances
	asOf, err := q.read(ctx, clinic, o, func(v *view) error {
		if err := v.known(ctx, []ledger.LocationID{shelf.Location}, []ledger.MedicineID{shelf.Medicine}); err != nil {
			return err
		}
		after, err := v.firstRecordedAfter(ctx, at+1)
		if err != nil {
			return err
		}
		place := ledger.BalanceAt{Shelf: shelf, Lot: lot, Sequence: after - 1}
		balances, err := balancesAt(ctx, v.tx, clinic, []ledger.BalanceAt{place})
		if err != nil {
			return fmt.Errorf("read a past balance: %w", err)
		}
		balance = balances[0]
		if !byOccurrence {
			return nil
		}
		return v.lateBy(ctx, place, at, func(entry *ledger.Entry) { addFlow(&balance, entry) })
	})
	return balance, asOf, err
}

// maxFlowEntries is how many entries of a shelf are added up at most for the
// account of a counterparty, of which no balance is kept.
const maxFlowEntries = 200_000

// HistoryTooLongError means that an answer would have to read more of a shelf's
// past than one request may.
type HistoryTooLongError struct{ Limit int }

// Error says what the limit is.
func (e *HistoryTooLongError) Error() string {
	return fmt.Sprintf("the shelf has more than %d entries by then", e.Limit)
}

const selectFlow = `SELECT count(*), COALESCE(sum(CASE WHEN lot_id = $4 AND debit = $6 THEN quantity ELSE 0 END
	- CASE WHEN lot_id = $4 AND credit = $6 THEN quantity ELSE 0 END), 0)::INT8
	FROM (SELECT lot_id, debit, credit, quantity FROM entries
		WHERE clinic_id = $1 AND location_id = $2 AND medicine_id = $3 AND sequence <= $5 ORDER BY sequence DESC LIMIT $7) AS e`

// FlowAt reads what a counterparty's account came to: what has gone to the
// bucket of a lot on a shelf, less what came from it, from the beginning to a
// sequence or, where that is 0, to a moment. Of held buckets a balance is kept;
// of these the shelf's entries are added up, and more than 200,000 of them are a
// *HistoryTooLongError.
func (q *Queries) FlowAt(ctx context.Context, clinic ledger.ClinicID, shelf ledger.Shelf, lot ledger.LotID, bucket ledger.Bucket, at ledger.Sequence, moment ledger.Instant, byOccurrence bool, o ReadOptions) (int64, AsOf, error) {
	var flow int64
	o.MinSequence = max(o.MinSequence, at)
	asOf, err := q.read(ctx, clinic, o, func(v *view) error {
		if err := v.known(ctx, []ledger.LocationID{shelf.Location}, []ledger.MedicineID{shelf.Medicine}); err != nil {
			return err
		}
		place := ledger.BalanceAt{Shelf: shelf, Lot: lot, Sequence: at}
		if at == 0 {
			after, err := v.firstRecordedAfter(ctx, moment+1)
			if err != nil {
				return err
			}
			place.Sequence = after - 1
		}
		var entries int
		err := v.tx.QueryRow(ctx, selectFlow, clinic, shelf.Location, shelf.Medicine, lot, place.Sequence, int16(bucket), maxFlowEntries+1).Scan(&entries, &flow)
		switch {
		case err != nil:
			return fmt.Errorf("add up an account: %w", err)
		case entries > maxFlowEntries:
			return &HistoryTooLongError{maxFlowEntries}
		case at > 0 || !byOccurrence:
			return nil
		}
		return v.lateBy(ctx, place, moment, func(entry *ledger.Entry) { flow += flowInto(entry, bucket) })
	})
	return flow, asOf, err
}

// addFlow adds what an entry moved to balances.
func addFlow(b *ledger.Balances, e *ledger.Entry) {
	b.Available += flowInto(e, ledger.Available)
	b.Reserved += flowInto(e, ledger.Reserved)
	b.Pending += flowInto(e, ledger.Pending)
	b.Quarantined += flowInto(e, ledger.Quarantined)
	b.InTransit += flowInto(e, ledger.InTransit)
}
