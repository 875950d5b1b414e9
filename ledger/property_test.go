package ledger

import (
	"bytes"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// verdict is what became of a random command.
type verdict struct {
	command  Command
	rejected *Rejection
}

// step advances the clock and gives a random command, with the expiries that
// make room for it as the executor does.
func step(t fataler, c chooser, w *world) verdict {
	t.Helper()
	w.now += Instant(pick(c, "tick", []int64{-5, 0, 1, 1_000_000, 60_000_000, int64(testDay) / 20}))
	command := w.attach(drawCommand(c, w))
	event, rejection := Decide(w.state, command, w.now)
	if rejection == nil {
		checkUse(t, w.state, event)
		w.accept(t, event)
		return verdict{command, nil}
	}
	if rejection.Reason.Info().Reason == "" {
		t.Fatalf("reason %s is not in the catalogue", rejection.Reason)
	}
	expiries := ExpiriesFor(w.state, command, w.now)
	if len(expiries) == 0 || rejection.Reason != ReasonInsufficientStock {
		return verdict{command, rejection}
	}
	for _, expiry := range expiries {
		if _, r := w.give(t, expiry); r != nil {
			t.Fatalf("an overdue hold does not expire: %v", r)
		}
	}
	if _, rejection = w.give(t, command); rejection != nil {
		t.Fatalf("expiries were posted for nothing: %v", rejection)
	}
	return verdict{command, nil}
}

func TestInvariantsHoldAfterEveryCommand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newBusyWorld(t)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			step(t, rapidChooser{t}, w)
			checkInvariants(t, w)
		}
		checkReplay(t, w)
	})
}

// TestDecideChangesNothing compares all that the state keeps in memory.
func TestDecideChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newBusyWorld(t)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			step(t, rapidChooser{t}, w)
		}
		for range 10 {
			command := w.attach(drawCommand(rapidChooser{t}, w))
			before := memoryOf(w.state)
			event, rejection := Decide(w.state, command, w.now)
			again, rejection2 := Decide(w.state, command, w.now)
			mustBeSame(t, "Decide changed the state", before, memoryOf(w.state))
			ExpiriesFor(w.state, command, w.now)
			mustBeSame(t, "ExpiriesFor changed the state", before, memoryOf(w.state))
			mustBeSame(t, "two verdicts on one command", rejection, rejection2)
			if rejection == nil && !bytes.Equal(AppendEvent(nil, event), AppendEvent(nil, again)) {
				t.Fatalf("two events of one command: %+v and %+v", event, again)
			}
		}
	})
}

// checkReplay rebuilds the state from stored bytes alone.
func checkReplay(t fataler, w *world) {
	t.Helper()
	replayed := NewState(w.state.id, utcOnly)
	var entries []Entry
	for _, r := range w.records {
		opened, err := OpenRecord(r.Stored, r.Hash)
		if err != nil {
			t.Fatalf("a stored event does not decode: %v", err)
		}
		mustBeSame(t, "a decoded event", told(r.Event), opened.Event)
		effects, err := Evolve(replayed, opened)
		if err != nil {
			t.Fatalf("replay: %v", err)
		}
		mustBeSame(t, "entries of an event alone", effects.Entries, EntriesOf(opened.Event))
		entries = append(entries, effects.Entries...)
	}
	mustBeSame(t, "replayed entries", w.entries, entries)
	want := memoryOf(w.state)
	mustBeSame(t, "replayed state", want, memoryOf(replayed))
	restored, err := Restore(w.state.id, utcOnly, want.Snapshot)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	mustBeSame(t, "restored state", want, memoryOf(restored))
}

// told is an event without what it told the policy and nobody else.
func told(e Event) Event {
	if change, ok := e.Body.(*Change); ok {
		e.Body = change.told()
	}
	return e
}

func (b *Change) told() *Change {
	next := *b
	next.beyondTolerance, next.counted = false, nil
	if approved, ok := b.Approved.(*Change); ok {
		next.Approved = approved.told()
	}
	return &next
}

func TestRollbackRestoresTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newBusyWorld(t)
		for range rapid.IntRange(0, 40).Draw(t, "before") {
			step(t, rapidChooser{t}, w)
		}
		w.state.Commit()
		want, before := memoryOf(w.state), *w
		before.documents = maps.Clone(w.documents)
		before.book = &book{maps.Clone(w.book.sums), maps.Clone(w.book.flow)}
		mark := w.state.Mark()
		for range rapid.IntRange(1, 40).Draw(t, "after") {
			step(t, rapidChooser{t}, w)
		}
		w.state.Rollback(mark)
		mustBeSame(t, "rollback left changes", want, memoryOf(w.state))
		*w = before
		for range 20 {
			step(t, rapidChooser{t}, w)
			checkInvariants(t, w)
		}
		checkReplay(t, w)
	})
}

func TestRestoredStateDecidesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newBusyWorld(t)
		for range rapid.IntRange(0, 80).Draw(t, "before") {
			step(t, rapidChooser{t}, w)
		}
		restored, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
		if err != nil {
			t.Fatalf("restore: %v", err)
		}
		for range 20 {
			command := w.attach(drawCommand(rapidChooser{t}, w))
			learnFrom(t, restored, w.state, command)
			event, rejection := Decide(w.state, command, w.now)
			event2, rejection2 := Decide(restored, command, w.now)
			mustBeSame(t, "verdicts", rejection, rejection2)
			if rejection == nil && !bytes.Equal(AppendEvent(nil, event), AppendEvent(nil, event2)) {
				t.Fatalf("events differ: %+v and %+v", event, event2)
			}
			mustBeSame(t, "expiries", ExpiriesFor(w.state, command, w.now), ExpiriesFor(restored, command, w.now))
		}
	})
}

func TestEvolveRefusesAnyTampering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newBusyWorld(t)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			step(t, rapidChooser{t}, w)
		}
		broken := rapid.IntRange(0, len(w.records)-1).Draw(t, "record")
		at := rapid.IntRange(0, len(w.records[broken].Stored)-1).Draw(t, "byte")
		state := NewState(w.state.id, utcOnly)
		for i, r := range w.records {
			if i == broken {
				r.Stored = bytes.Clone(r.Stored)
				r.Stored[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
			}
			opened, err := OpenRecord(r.Stored, r.Hash)
			if err == nil {
				_, err = Evolve(state, opened)
			}
			if err != nil {
				if i != broken {
					t.Fatalf("record %d was refused, %d was altered: %v", i, broken, err)
				}
				return
			}
		}
		t.Fatalf("altered byte %d of record %d went unnoticed", at, broken)
	})
}

// TestEvolveSurvivesForgery seals altered events with a hash that fits, as only
// who can write the database could. They are applied or refused; either way the
// state stays usable.
func TestEvolveSurvivesForgery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newBusyWorld(t)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			step(t, rapidChooser{t}, w)
		}
		from := rapid.IntRange(1, len(w.records)-1).Draw(t, "record")
		stored := bytes.Clone(w.records[from].Stored)
		state := NewState(w.state.id, utcOnly)
		for _, r := range w.records[:from] {
			if _, err := Evolve(state, r); err != nil {
				t.Fatalf("replay: %v", err)
			}
		}
		for range rapid.IntRange(1, 3).Draw(t, "flips") {
			stored[rapid.IntRange(0, len(stored)-1).Draw(t, "byte")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		}
		event, err := DecodeEvent(stored)
		if err != nil {
			return
		}
		before := memoryOf(state)
		if _, err = Evolve(state, Seal(state, event)); err != nil {
			mustBeSame(t, "a refused event changed the state", before, memoryOf(state))
		}
	})
}
