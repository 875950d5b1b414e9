package ledger

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// step advances the clock, gives a random command, with the expiries that make
// room for it as the executor does, and returns whether it was accepted.
func step(t *rapid.T, w *world) bool {
	w.now += Instant(rapid.SampledFrom([]int64{-5, 0, 1, int64(testDay) / 3}).Draw(t, "tick"))
	command := w.command(drawBody(t, w))
	before := w.state.Snapshot()
	_, rejection := Decide(w.state, command, w.now)
	if rejection == nil {
		if diff := cmp.Diff(before, w.state.Snapshot()); diff != "" {
			t.Fatalf("Decide changed the state: %s", diff)
		}
		_, rejection = w.give(t, command)
		return rejection == nil
	}
	if rejection.Reason.Info().Reason == "" {
		t.Fatalf("reason %s is not in the catalogue", rejection.Reason)
	}
	if rejection.Reason != ReasonInsufficientStock {
		return false
	}
	expiries := ExpiriesFor(w.state, command, w.now)
	for _, expiry := range expiries {
		if _, rejection := w.give(t, expiry); rejection != nil {
			t.Fatalf("an overdue hold does not expire: %v", rejection)
		}
	}
	if _, rejection = w.give(t, command); rejection != nil && len(expiries) > 0 {
		t.Fatalf("expiries were posted for nothing: %v", rejection)
	}
	return rejection == nil
}

func TestInvariantsHoldAfterEveryCommand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step(t, w)
			checkInvariants(t, w)
		}
		checkReplay(t, w)
	})
}

// checkInvariants is DESIGN's invariants 1, 2, 3 and 8 over one clinic.
func checkInvariants(t *rapid.T, w *world) {
	snapshot := w.state.Snapshot()
	for _, err := range snapshot.CheckInvariants() {
		t.Fatalf("%v", err)
	}
	type rowKey struct {
		Shelf
		lot LotID
	}
	sums := make(map[rowKey]*Balances)
	last := make(map[rowKey]Balances)
	flow := make(map[LotID]int64)
	for _, e := range w.entries {
		key := rowKey{Shelf{e.Location, e.Medicine}, e.Lot}
		if sums[key] == nil {
			sums[key] = new(Balances)
		}
		if e.Quantity <= 0 || e.Debit == e.Credit {
			t.Fatalf("entry %+v moves nothing", e)
		}
		for bucket, sign := range map[Bucket]int64{e.Debit: 1, e.Credit: -1} {
			if p := sums[key].bucket(bucket); p != nil {
				*p += sign * e.Quantity
			} else {
				flow[e.Lot] -= sign * e.Quantity
			}
		}
		if *sums[key] != e.After {
			t.Fatalf("entry %+v records balances other than the sum %+v", e, *sums[key])
		}
		last[key] = e.After
	}
	onHand := make(map[LotID]int64)
	for _, stock := range snapshot.Stock {
		key := rowKey{stock.Shelf, stock.Lot}
		if last[key] != stock.Balances {
			t.Fatalf("balance %+v is not the one stored with the last entry, %+v", stock, last[key])
		}
		onHand[stock.Lot] += stock.OnHand()
	}
	for lot, units := range flow {
		if onHand[lot] != units {
			t.Fatalf("lot %s: counterparties gave %d, on hand are %d", lot, units, onHand[lot])
		}
	}
}

// checkReplay rebuilds the state from stored bytes alone.
func checkReplay(t *rapid.T, w *world) {
	replayed := NewState(w.state.id, utcOnly)
	var entries []Entry
	for _, r := range w.records {
		opened, err := OpenRecord(r.Stored, r.Hash)
		if err != nil {
			t.Fatalf("a stored event does not decode: %v", err)
		}
		if diff := cmp.Diff(r.Event, opened.Event, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("decoded event differs: %s", diff)
		}
		effects, err := Evolve(replayed, opened)
		if err != nil {
			t.Fatalf("replay: %v", err)
		}
		entries = append(entries, effects.Entries...)
	}
	if diff := cmp.Diff(w.entries, entries, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("replayed entries differ: %s", diff)
	}
	want := w.state.Snapshot()
	if diff := cmp.Diff(want, replayed.Snapshot()); diff != "" {
		t.Fatalf("replayed state differs: %s", diff)
	}
	restored, err := Restore(w.state.id, utcOnly, want)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	if diff := cmp.Diff(want, restored.Snapshot()); diff != "" {
		t.Fatalf("restored state differs: %s", diff)
	}
}

func TestRollbackRestoresTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 20).Draw(t, "before") {
			step(t, w)
		}
		w.state.Commit()
		want, records := w.state.Snapshot(), len(w.records)
		mark := w.state.Mark()
		for range rapid.IntRange(1, 20).Draw(t, "after") {
			step(t, w)
		}
		w.state.Rollback(mark)
		if diff := cmp.Diff(want, w.state.Snapshot()); diff != "" {
			t.Fatalf("rollback left changes: %s", diff)
		}
		w.records, w.entries = w.records[:records], nil
		for range 10 {
			step(t, w)
		}
	})
}

func TestRestoredStateDecidesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 40).Draw(t, "before") {
			step(t, w)
		}
		restored, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
		if err != nil {
			t.Fatalf("restore: %v", err)
		}
		for range 10 {
			command := w.command(drawBody(t, w))
			event, rejection := Decide(w.state, command, w.now)
			event2, rejection2 := Decide(restored, command, w.now)
			if diff := cmp.Diff(rejection, rejection2); diff != "" {
				t.Fatalf("verdicts differ: %s", diff)
			}
			if rejection == nil && !bytes.Equal(AppendEvent(nil, event), AppendEvent(nil, event2)) {
				t.Fatalf("events differ: %+v and %+v", event, event2)
			}
			if diff := cmp.Diff(ExpiriesFor(w.state, command, w.now), ExpiriesFor(restored, command, w.now), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("expiries differ: %s", diff)
			}
		}
	})
}

func TestEvolveRefusesAnyTampering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			step(t, w)
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

func FuzzDecodeEvent(f *testing.F) {
	w := newWorld(f)
	w.must(f, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 300})
	hold := w.must(f, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 7, ReasonCode: "ward", Deadline: w.now + testDay})
	w.must(f, &IssueStock{HoldID: hold.Body.(*StockReserved).HoldID, Quantity: 3})
	for _, r := range w.records {
		f.Add(r.Stored)
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		event, err := DecodeEvent(stored)
		if err != nil {
			return
		}
		if again := AppendEvent(nil, event); !bytes.Equal(again, stored) {
			t.Fatalf("two encodings of one event:\n%x\n%x", stored, again)
		}
		// Whatever decodes is applied or refused, never a panic.
		state := NewState(event.Clinic, utcOnly)
		_, _ = Evolve(state, Seal(state, event))
	})
}
