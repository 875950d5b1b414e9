package txn

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// EventFilter narrows the events of a clinic.
type EventFilter struct {
	// Locations and Medicines: events about one of them, empty for any. Events
	// about a lot alone name no medicine and are shown for each.
	Locations []ledger.LocationID
	Medicines []ledger.MedicineID
	Names     []string // as [ledger.Event.Names] has them; empty: any
	// Within, where not nil, are the only locations whose events are shown,
	// beside those that concern none in particular.
	Within []ledger.LocationID
}

// Shows reports whether an event passes.
func (f *EventFilter) Shows(e ledger.Event) bool {
	if len(f.Names) > 0 && !slices.ContainsFunc(e.Names(), func(name string) bool { return slices.Contains(f.Names, name) }) {
		return false
	}
	if len(f.Locations) == 0 && len(f.Medicines) == 0 && f.Within == nil {
		return true
	}
	locations, medicines := e.Subjects()
	return (len(f.Locations) == 0 || overlap(locations, f.Locations)) &&
		(len(f.Medicines) == 0 || overlap(medicines, f.Medicines) || ofLotAlone(e.Body)) &&
		(f.Within == nil || len(locations) == 0 || overlap(locations, f.Within))
}

func overlap[T comparable](a, b []T) bool {
	return slices.ContainsFunc(a, func(v T) bool { return slices.Contains(b, v) })
}

func ofLotAlone(body ledger.EventBody) bool {
	switch body.(type) {
	case *ledger.LotUpdated, *ledger.LotDeactivated:
		return true
	}
	return false
}

// EventRecord is an event with the epoch that it was recorded in.
type EventRecord struct {
	ledger.Record
	Epoch int64
}

// eventsChunk is how many records one read of events looks at.
const eventsChunk = 1000

// Events reads the events after a place in the order of the journal, as many as
// limit says at most, and says up to where it has looked: there the next read
// goes on, also where nothing passed the filter. It has looked at all there is
// where that is the AsOf's sequence. A place of an epoch that a restore has
// rewound since is a *JournalRewoundError.
func (q *Queries) Events(ctx context.Context, clinic ledger.ClinicID, after Place, f *EventFilter, limit int, o ReadOptions) (events []EventRecord, looked Place, asOf AsOf, err error) {
	o.Continues = after
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		events, looked, err = v.events(ctx, after.Sequence, f, limit)
		return err
	})
	return events, looked, asOf, err
}

func (v *view) events(ctx context.Context, after ledger.Sequence, f *EventFilter, limit int) ([]EventRecord, Place, error) {
	s := selectFrom(selectJournalAfter)
	s.args = []any{v.id, after, eventsChunk}
	records, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *ledger.Record) error {
		var event, hash []byte
		if err := rows.Scan(&event, &hash); err != nil {
			return err
		}
		record, err := openRecord(event, hash)
		*r = record
		return err
	})
	if err != nil {
		return nil, Place{}, fmt.Errorf("read events of clinic %s: %w", v.id, err)
	}
	epochs, err := v.epochs(ctx)
	if err != nil {
		return nil, Place{}, err
	}
	var events []EventRecord
	looked := Place{epochAt(epochs, after), after}
	for _, record := range records {
		if len(events) == limit {
			break
		}
		looked = Place{epochAt(epochs, record.Event.Sequence), record.Event.Sequence}
		if f.Shows(record.Event) {
			events = append(events, EventRecord{record, looked.Epoch})
		}
	}
	return events, looked, nil
}

// epochs reads the clinic's epochs after the first; most clinics have none.
func (v *view) epochs(ctx context.Context) ([]Epoch, error) {
	if v.asOf.Epoch <= 1 {
		return nil, nil
	}
	return readEpochs(ctx, v.tx, v.id)
}

// epochAt is the epoch that a sequence was recorded in.
func epochAt(epochs []Epoch, sequence ledger.Sequence) int64 {
	epoch := int64(1)
	for _, e := range epochs {
		if e.FirstSequence <= sequence {
			epoch = max(epoch, e.Epoch)
		}
	}
	return epoch
}

// BrokenLink is the first record of a journal that does not follow from those
// before it.
type BrokenLink struct {
	Sequence ledger.Sequence
	Problem  string
}

// Checkpoint is a place in a journal with the hash that it had there.
type Checkpoint struct {
	Sequence ledger.Sequence
	Hash     ledger.Hash
}

// VerifyChain follows the hash chain of a clinic's journal from a checkpoint to
// its end; the zero checkpoint is the beginning. It returns the last place that
// was sound and, where the chain breaks, where and how. tell, where not nil, is
// told how far it is. It reads in chunks and keeps none.
func (q *Queries) VerifyChain(ctx context.Context, clinic ledger.ClinicID, from Checkpoint, tell func(ledger.Sequence)) (Checkpoint, *BrokenLink, AsOf, error) {
	last := from
	if from.Sequence == 0 {
		last.Hash = ledger.Genesis(clinic)
	}
	var head ledger.Sequence
	for {
		var broken *BrokenLink
		read := 0
		asOf, err := q.read(ctx, clinic, ReadOptions{}, func(v *view) (err error) {
			head = v.asOf.Sequence
			if last.Sequence == from.Sequence && from.Sequence > 0 {
				if broken, err = v.checkpointStands(ctx, from); err != nil || broken != nil {
					return err
				}
			}
			read, broken, err = v.follow(ctx, &last)
			return err
		})
		if err != nil || broken != nil {
			return last, broken, asOf, err
		}
		if tell != nil {
			tell(last.Sequence)
		}
		if read < eventsChunk {
			if last.Sequence < head {
				return last, &BrokenLink{last.Sequence + 1, "the record is missing"}, asOf, nil
			}
			return last, nil, asOf, nil
		}
	}
}

// checkpointStands compares a checkpoint with the record that it names.
func (v *view) checkpointStands(ctx context.Context, c Checkpoint) (*BrokenLink, error) {
	s := selectFrom(`SELECT hash FROM journal WHERE`).add(` clinic_id = ? AND sequence = ?`, v.id, c.Sequence)
	hashes, err := collect(ctx, v.tx, s, func(rows pgx.Rows, hash *[]byte) error { return rows.Scan(hash) })
	switch {
	case err != nil:
		return nil, err
	case len(hashes) == 0:
		return &BrokenLink{c.Sequence, "the journal has no such record"}, nil
	case string(hashes[0]) != string(c.Hash[:]):
		return &BrokenLink{c.Sequence, fmt.Sprintf("its hash is %x, and the checkpoint says %s: the journal was rewritten", hashes[0], c.Hash)}, nil
	}
	return nil, nil
}

// follow goes on along the chain for one chunk.
func (v *view) follow(ctx context.Context, last *Checkpoint) (int, *BrokenLink, error) {
	s := selectFrom(selectJournal)
	s.args = []any{v.id, last.Sequence, eventsChunk}
	rows, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *journalRow) error {
		return rows.Scan(&r.sequence, &r.key, &r.kind, &r.recordedAt, &r.event, &r.hash)
	})
	if err != nil {
		return 0, nil, err
	}
	for i := range rows {
		row := &rows[i]
		if row.sequence != last.Sequence+1 {
			return 0, &BrokenLink{last.Sequence + 1, fmt.Sprintf("the record is missing; the next one is %d", row.sequence)}, nil
		}
		hash := ledger.Chain(last.Hash, row.event)
		if string(hash[:]) != string(row.hash) {
			return 0, &BrokenLink{row.sequence, fmt.Sprintf("its hash is %x, and its bytes and the hash before it make %s", row.hash, hash)}, nil
		}
		event, err := ledger.DecodeEvent(row.event)
		if err != nil {
			return 0, &BrokenLink{row.sequence, fmt.Sprintf("its event cannot be read: %v", err)}, nil
		}
		if event.Clinic != v.id || event.Sequence != row.sequence {
			return 0, &BrokenLink{row.sequence, fmt.Sprintf("its event is sequence %d of clinic %s", event.Sequence, event.Clinic)}, nil
		}
		*last = Checkpoint{row.sequence, hash}
	}
	return len(rows), nil, nil
}
