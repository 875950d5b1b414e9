package ledger

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEntriesOfEveryKindOfEvent spells out what each event posts: Evolve posts
// what EntriesOf says, so neither can be judged by the other.
func TestEntriesOfEveryKindOfEvent(t *testing.T) {
	shelf := Shelf{Location: "store", Medicine: "zinc"}
	left := []Balances{{Available: 1, Reserved: 2}, {Available: 3, Quarantined: 4}}
	lines := []Line{{Lot: "L2", Quantity: 5, After: left[0]}, {Lot: "L1", Quantity: 6, After: left[1]}}
	moves := map[string]struct {
		body     EventBody
		from, to Bucket
	}{
		"received":                 {&StockReceived{Shelf: shelf, Lines: lines}, Supplier, Available},
		"reserved":                 {&StockReserved{Shelf: shelf, Lines: lines, HoldID: "hold_1"}, Available, Reserved},
		"released":                 {&StockReleased{Shelf: shelf, Lines: lines, HoldID: "hold_1"}, Reserved, Available},
		"expired":                  {&ReservationExpired{Shelf: shelf, Lines: lines, HoldID: "hold_1"}, Reserved, Available},
		"issued from a hold":       {&StockIssued{Shelf: shelf, Lines: lines, HoldID: "hold_1"}, Reserved, Issued},
		"issued from the shelf":    {&StockIssued{Shelf: shelf, Lines: lines}, Available, Issued},
		"adjusted up":              {&StockAdjusted{Shelf: shelf, Lines: lines, Direction: Increase}, Adjustment, Available},
		"adjusted down":            {&StockAdjusted{Shelf: shelf, Lines: lines, Direction: Decrease}, Available, Adjustment},
		"written off":              {&StockWrittenOff{Shelf: shelf, Lines: lines}, Available, Wasted},
		"returned to the supplier": {&StockReturnedToSupplier{Shelf: shelf, Lines: lines}, Available, Supplier},
	}
	covered := make(map[Kind]bool)
	for name, test := range moves {
		e := Event{Sequence: 7, Body: test.body}
		covered[e.Kind()] = true
		want := []Entry{
			{Sequence: 7, Line: 0, Location: "store", Medicine: "zinc", Lot: "L2", Debit: test.to, Credit: test.from, Quantity: 5, After: left[0]},
			{Sequence: 7, Line: 1, Location: "store", Medicine: "zinc", Lot: "L1", Debit: test.to, Credit: test.from, Quantity: 6, After: left[1]},
		}
		if diff := cmp.Diff(want, EntriesOf(e)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if scope := ScopeOf(e); !slices.Equal(scope.All, []LocationID{"store"}) || scope.Any != nil {
			t.Errorf("%s moves stock of %v", name, scope)
		}
	}
	for kind, spec := range kinds {
		e := Event{Body: spec.event()}
		if _, is := e.Body.(*Change); is {
			continue // its moves are written out
		}
		if _, moves := e.Body.(mover); moves != covered[kind] {
			t.Errorf("%s moves stock: %v; whether it is told here: %v", kind, moves, covered[kind])
		}
		if !covered[kind] && EntriesOf(e) != nil {
			t.Errorf("%s posts entries", kind)
		}
	}
}
