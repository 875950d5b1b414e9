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
// before it, or that its own columns contradict.
type BrokenLink struct {
	Sequence ledger.Sequence
	Problem  string
	rule     string // as violations name it
}

// Checkpoint is a place in a journal with the hash that it had there.
type Checkpoint struct {
	Sequence ledger.Sequence
	Hash     ledger.Hash
	// Epoch is the one that the journal was in when it had the hash; 0: not
	// known.
	Epoch int64
}

// VerifyChain follows the hash chain of a clinic's journal from a checkpoint to
// its end, and compares that with the head; the zero checkpoint is the
// beginning. It returns the last place that was sound and, where the chain
// breaks, where and how. A checkpoint that a restore has taken back is a
// *JournalRewoundError: it was true. tell, where not nil, is told how far it is.
// It reads in chunks and keeps none.
func (q *Queries) VerifyChain(ctx context.Context, clinic ledger.ClinicID, from Checkpoint, tell func(ledger.Sequence)) (Checkpoint, *BrokenLink, AsOf, error) {
	last := from
	if from.Sequence == 0 {
		last.Hash = ledger.Genesis(clinic)
	}
	var o ReadOptions
	for begun := false; ; begun = true {
		var broken *BrokenLink
		read, reached := 0, last
		asOf, err := q.read(ctx, clinic, o, func(v *view) (err error) {
			broken, reached = nil, last // of an attempt that failed
			if !begun && from.Sequence > 0 {
				if broken, err = v.checkpointHolds(ctx, from); err != nil || broken != nil {
					return err
				}
			}
			if read, broken, err = v.follow(ctx, &reached); err != nil || broken != nil || read == eventsChunk {
				return err
			}
			broken, err = v.headStands(ctx, reached)
			return err
		})
		if err != nil {
			return last, nil, asOf, err
		}
		last, last.Epoch = reached, asOf.Epoch
		if broken != nil {
			return last, broken, asOf, nil
		}
		if tell != nil {
			tell(last.Sequence)
		}
		if read < eventsChunk {
			return last, nil, asOf, nil
		}
		// What was followed must not be taken back meanwhile.
		o.Continues = Place{last.Epoch, last.Sequence}
	}
}

// checkpointHolds compares a checkpoint with the record that it names, unless a
// restore has taken that back.
func (v *view) checkpointHolds(ctx context.Context, c Checkpoint) (*BrokenLink, error) {
	if c.Epoch > 0 {
		epochs, err := v.epochs(ctx)
		if err != nil {
			return nil, err
		}
		place := Place{c.Epoch, c.Sequence}
		if common, taken := takenBack(epochs, place); taken {
			return nil, &JournalRewoundError{Asked: place, Epoch: v.asOf.Epoch, LastCommon: common}
		}
	}
	return v.checkpointStands(ctx, c)
}

// checkpointStands compares a checkpoint with the record that it names.
func (v *view) checkpointStands(ctx context.Context, c Checkpoint) (*BrokenLink, error) {
	s := selectFrom(`SELECT hash FROM journal WHERE`).add(` clinic_id = ? AND sequence = ?`, v.id, c.Sequence)
	hashes, err := collect(ctx, v.tx, s, func(rows pgx.Rows, hash *[]byte) error { return rows.Scan(hash) })
	switch {
	case err != nil:
		return nil, err
	case len(hashes) == 0:
		return &BrokenLink{c.Sequence, "the journal has no such record", ruleGapFree}, nil
	case string(hashes[0]) != string(c.Hash[:]):
		problem := fmt.Sprintf("its hash is %x, and the checkpoint says %s: the journal was rewritten", hashes[0], c.Hash)
		if c.Epoch == 0 && v.asOf.Epoch > 1 {
			problem += ", or the checkpoint is of before a restore, which its epoch would tell"
		}
		return &BrokenLink{c.Sequence, problem, ruleReplays}, nil
	}
	return nil, nil
}

// follow goes on along the chain for one chunk.
func (v *view) follow(ctx context.Context, last *Checkpoint) (int, *BrokenLink, error) {
	s := selectFrom(selectJournal)
	s.args = []any{v.id, last.Sequence, eventsChunk}
	rows, err := collect(ctx, v.tx, s, scanJournalRow)
	if err != nil {
		return 0, nil, err
	}
	for i := range rows {
		next := *last
		event, broken := rows[i].follows(&next)
		if broken == nil {
			broken = rows[i].contradicts(v.id, event)
		}
		if broken != nil {
			return 0, broken, nil
		}
		*last = next
	}
	return len(rows), nil, nil
}

const selectHeadHash = `SELECT hash FROM heads WHERE clinic_id = $1`

// headStands compares the clinic's head with the end of its journal.
func (v *view) headStands(ctx context.Context, end Checkpoint) (*BrokenLink, error) {
	var hash []byte
	if err := v.tx.QueryRow(ctx, selectHeadHash, v.id).Scan(&hash); err != nil {
		return nil, fmt.Errorf("read the head of clinic %s: %w", v.id, err)
	}
	return end.headDiffers(v.asOf.Sequence, hash), nil
}
