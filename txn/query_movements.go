package txn

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Movement is an entry with the command that posted it.
type Movement struct {
	ledger.Entry
	RecordedAt ledger.Instant
	OccurredAt ledger.Instant
	Actor      ledger.Actor
	// Kind is the command; of one that a second person approved, that one.
	Kind       ledger.Kind
	ReasonCode string
	Reference  string // the delivery note, or the recipient
	HoldID     ledger.HoldID
	// Party is who delivered, lent, got it back or used it.
	Party string
	// Requester gave a command that Actor, as second person, decided on.
	Requester ledger.Actor
	Witness   ledger.Actor
	// Corrects is the command that this one corrects, or zero.
	Corrects ledger.Sequence
	// DocumentID is the transfer, count, recall, approval, loan, prescription or
	// dispensing, or empty.
	DocumentID string
	// Of what was dispensed: the prescription and who wrote it, empty for what
	// was sold over the counter, and the patient's token, where there is one.
	PrescriptionID ledger.PrescriptionID
	Prescriber     string
	PatientID      ledger.PatientID
}

// MovementKey is a place in a list of movements.
type MovementKey struct {
	Sequence ledger.Sequence
	Line     int
}

// MovementFilter narrows a list of movements: to a stock card by location and
// medicine, which go together, or to nothing.
type MovementFilter struct {
	ledger.Shelf
	Lot         ledger.LotID // empty: any
	From, To    ledger.Sequence
	NewestFirst bool
	// Locations, where not nil, are the only ones shown.
	Locations []ledger.LocationID
}

func (f *MovementFilter) shows(e *ledger.Entry) bool {
	return (f.Lot == "" || e.Lot == f.Lot) && (f.Locations == nil || slices.Contains(f.Locations, e.Location))
}

// Journal rows are read in chunks, and one page looks at so many of them at
// most: a page of a rare lot may be short, or empty, and still have a next one.
const (
	movementChunk  = 1000
	movementsLimit = 20_000
)

// Movements reads entries by sequence and line, from after a key (nil: from the
// beginning). next is the key to go on from, nil at the end.
func (q *Queries) Movements(ctx context.Context, clinic ledger.ClinicID, filter MovementFilter, after *MovementKey, limit int, o ReadOptions) (movements []Movement, next *MovementKey, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		if filter.Location != "" {
			movements, next, err = v.stockCard(ctx, filter, after, limit)
		} else {
			movements, next, err = v.allMovements(ctx, filter, after, limit)
		}
		return err
	})
	return movements, next, asOf, err
}

// stockCard reads the entries of one shelf by their primary key.
func (v *view) stockCard(ctx context.Context, f MovementFilter, after *MovementKey, limit int) ([]Movement, *MovementKey, error) {
	if err := v.known(ctx, []ledger.LocationID{f.Location}, []ledger.MedicineID{f.Medicine}); err != nil {
		return nil, nil, err
	}
	if f.Locations != nil && !slices.Contains(f.Locations, f.Location) {
		return nil, nil, nil
	}
	s := selectFrom(`SELECT e.line, j.event, j.hash FROM entries AS e `+
		lookUpJoin(v.server, "journal", "j", "e", []string{"clinic_id", "sequence"}, []string{"event", "hash"})+` WHERE`).
		add(` e.clinic_id = ? AND e.location_id = ? AND e.medicine_id = ?`, v.id, f.Location, f.Medicine).
		addIf(f.From > 0, ` AND e.sequence >= ?`, f.From).
		addIf(f.To > 0, ` AND e.sequence <= ?`, f.To).
		addIf(f.Lot != "", ` AND e.lot_id = ?`, f.Lot)
	if f.NewestFirst {
		if after != nil {
			s.add(` AND (e.sequence, e.line) < (?, ?)`, after.Sequence, after.Line)
		}
		s.add(` ORDER BY e.sequence DESC, e.line DESC LIMIT ?`, limit+1)
	} else {
		if after != nil {
			s.add(` AND (e.sequence, e.line) > (?, ?)`, after.Sequence, after.Line)
		}
		s.add(` ORDER BY e.sequence, e.line LIMIT ?`, limit+1)
	}
	movements, err := collect(ctx, v.tx, s, func(rows pgx.Rows, m *Movement) error {
		var line int
		var event, hash []byte
		if err := rows.Scan(&line, &event, &hash); err != nil {
			return err
		}
		record, err := openRecord(event, hash)
		if err != nil {
			return err
		}
		entries := ledger.EntriesOf(record.Event)
		if line < 0 || line >= len(entries) {
			return fmt.Errorf("an entry of clinic %s names line %d of sequence %d, which has %d", v.id, line, record.Event.Sequence, len(entries))
		}
		*m = movement(record.Event, entries[line])
		return nil
	})
	movements, more := page(movements, limit)
	if !more {
		return movements, nil, err
	}
	return movements, keyOf(&movements[len(movements)-1]), err
}

func keyOf(m *Movement) *MovementKey { return &MovementKey{Sequence: m.Sequence, Line: m.Line} }

// firstStockKind is the first kind of command that posts entries.
const firstStockKind = ledger.KindReceiveStock

// allMovements walks the journal and derives the entries from its events.
func (v *view) allMovements(ctx context.Context, f MovementFilter, after *MovementKey, limit int) (movements []Movement, next *MovementKey, err error) {
	at := after
	for looked := 0; looked < movementsLimit; {
		records, err := v.journal(ctx, f, at)
		if err != nil {
			return nil, nil, err
		}
		for _, record := range records {
			entries := ledger.EntriesOf(record.Event)
			if f.NewestFirst {
				slices.Reverse(entries)
			}
			for _, entry := range entries {
				if at != nil && entry.Sequence == at.Sequence && !beyond(entry.Line, at.Line, f.NewestFirst) || !f.shows(&entry) {
					continue
				}
				if len(movements) == limit {
					return movements, keyOf(&movements[limit-1]), nil
				}
				movements = append(movements, movement(record.Event, entry))
			}
		}
		if len(records) < movementChunk {
			return movements, nil, nil
		}
		looked += len(records)
		at = pastAll(records[len(records)-1].Event.Sequence, f.NewestFirst)
	}
	return movements, at, nil
}

func beyond(line, than int, newestFirst bool) bool {
	if newestFirst {
		return line < than
	}
	return line > than
}

// pastAll is the place after every line of a command.
func pastAll(sequence ledger.Sequence, newestFirst bool) *MovementKey {
	if newestFirst {
		return &MovementKey{Sequence: sequence, Line: -1}
	}
	return &MovementKey{Sequence: sequence, Line: 1 << 30}
}

// journal reads the next chunk of stock commands; a command that a page ended
// within comes again.
func (v *view) journal(ctx context.Context, f MovementFilter, at *MovementKey) ([]ledger.Record, error) {
	s := selectFrom(`SELECT event, hash FROM journal WHERE`).add(` clinic_id = ? AND kind >= ?`, v.id, int16(firstStockKind)).
		addIf(f.From > 0, ` AND sequence >= ?`, f.From).
		addIf(f.To > 0, ` AND sequence <= ?`, f.To)
	if at != nil {
		s.addIf(f.NewestFirst, ` AND sequence <= ?`, at.Sequence)
		s.addIf(!f.NewestFirst, ` AND sequence >= ?`, at.Sequence)
	}
	s.addIf(f.NewestFirst, ` ORDER BY sequence DESC`).addIf(!f.NewestFirst, ` ORDER BY sequence`).add(` LIMIT ?`, movementChunk)
	return collect(ctx, v.tx, s, func(rows pgx.Rows, r *ledger.Record) error {
		var event, hash []byte
		if err := rows.Scan(&event, &hash); err != nil {
			return err
		}
		record, err := openRecord(event, hash)
		*r = record
		return err
	})
}

// movement describes an entry by its event.
func movement(event ledger.Event, entry ledger.Entry) Movement {
	m := Movement{
		Entry: entry, RecordedAt: event.At, OccurredAt: event.OccurredAt, Actor: event.Actor, Kind: event.Kind(), Witness: event.Witness,
	}
	body := event.Body
	if change, ok := body.(*ledger.Change); ok {
		m.Requester = change.Requester
		if change.Approved != nil && entry.Line >= change.OwnLines() {
			body = change.Approved
			m.Kind = change.ApprovedKind()
		}
	}
	m.describe(body)
	if m.DocumentID == "" && body != event.Body {
		m.DocumentID = documentOfChange(event.Body.(*ledger.Change))
	}
	return m
}

// documentOfChange is the document that people know the change by, or empty.
func documentOfChange(change *ledger.Change) string {
	for _, document := range change.Documents {
		if about := document.About(); about.Kind != ledger.DocumentReversal {
			return about.ID
		}
	}
	return ""
}

// describe takes over what the body of an event says beside its entries.
func (m *Movement) describe(body ledger.EventBody) {
	switch b := body.(type) {
	case *ledger.Change:
		m.ReasonCode, m.Reference, m.Party, m.Corrects = b.ReasonCode, b.Reference, b.Party, b.Corrects
		m.DocumentID = documentOfChange(b)
		m.describeDispensing(b)
	case *ledger.StockReceived:
		m.Reference, m.Party = b.Reference, b.Supplier
	case *ledger.StockReserved:
		m.ReasonCode, m.HoldID = b.ReasonCode, b.HoldID
	case *ledger.StockReleased:
		m.ReasonCode, m.HoldID = b.ReasonCode, b.HoldID
	case *ledger.ReservationExpired:
		m.HoldID = b.HoldID
	case *ledger.StockIssued:
		m.ReasonCode, m.Reference, m.HoldID, m.Party = b.ReasonCode, b.Recipient, b.HoldID, b.Recipient
	case *ledger.StockAdjusted:
		m.ReasonCode = b.ReasonCode
	case *ledger.StockWrittenOff:
		m.ReasonCode, m.Reference = b.ReasonCode, b.Reference
	case *ledger.StockReturnedToSupplier:
		m.ReasonCode, m.Reference, m.Party = b.ReasonCode, b.Reference, b.Supplier
	}
}

// describeDispensing takes over for whom a medicine was dispensed.
func (m *Movement) describeDispensing(b *ledger.Change) {
	for _, document := range b.Documents {
		switch d := document.(type) {
		case *ledger.Dispensing:
			m.PrescriptionID, m.PatientID = d.PrescriptionID, d.PatientID
		case *ledger.Prescription:
			m.PrescriptionID, m.PatientID, m.Prescriber = d.PrescriptionID, d.PatientID, d.Prescriber
		}
	}
}
