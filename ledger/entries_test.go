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
		"received when barred":     {&StockReceived{Shelf: shelf, Lines: lines, Quarantined: true}, Supplier, Quarantined},
		"destroyed":                {&StockWrittenOff{Shelf: shelf, Lines: lines, FromQuarantine: true}, Quarantined, Wasted},
		"recalled and returned":    {&StockReturnedToSupplier{Shelf: shelf, Lines: lines, FromQuarantine: true}, Quarantined, Supplier},
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
			continue // its moves are written out: see below
		}
		if _, moves := e.Body.(mover); moves != covered[kind] {
			t.Errorf("%s moves stock: %v; whether it is told here: %v", kind, moves, covered[kind])
		}
		if !covered[kind] && EntriesOf(e) != nil {
			t.Errorf("%s posts entries", kind)
		}
	}
}

// A change posts its own moves in their order, then those of what it approved;
// lines are numbered through.
func TestEntriesOfChanges(t *testing.T) {
	store, ward := Shelf{"store", "zinc"}, Shelf{"ward", "zinc"}
	after := func(n int64) Balances { return Balances{Available: n} }
	own := []Move{
		{store, InTransit, Clearing, []Line{{"L1", 5, after(1)}, {"L2", 6, after(2)}}},
		{ward, Clearing, Available, []Line{{"L1", 5, after(3)}}},
	}
	entry := func(line int, shelf Shelf, lot LotID, from, to Bucket, quantity int64, left Balances) Entry {
		return Entry{Sequence: 9, Line: line, Location: shelf.Location, Medicine: shelf.Medicine, Lot: lot, Debit: to, Credit: from, Quantity: quantity, After: left}
	}
	posted := []Entry{
		entry(0, store, "L1", InTransit, Clearing, 5, after(1)),
		entry(1, store, "L2", InTransit, Clearing, 6, after(2)),
		entry(2, ward, "L1", Clearing, Available, 5, after(3)),
	}
	lines := []Line{{"L2", 7, after(4)}, {"L1", 8, after(5)}}
	for name, c := range map[string]struct {
		body *Change
		more []Entry
		kind Kind
	}{
		"by itself": {&Change{Moves: own}, nil, 0},
		"with what it approved": {&Change{Moves: own, Approved: &StockWrittenOff{Shelf: store, Lines: lines}}, []Entry{
			entry(3, store, "L2", Available, Wasted, 7, after(4)), entry(4, store, "L1", Available, Wasted, 8, after(5)),
		}, KindWriteOffStock},
		"with a change that it approved": {&Change{Moves: own, Approved: &Change{of: KindReceiveTransfer, Moves: []Move{{ward, Variance, Quarantined, lines[:1]}}}}, []Entry{
			entry(3, ward, "L2", Variance, Quarantined, 7, after(4)),
		}, KindReceiveTransfer},
		"with what moves nothing": {&Change{Moves: own, Approved: &LocationCreated{LocationID: "annex"}}, nil, KindCreateLocation},
	} {
		mustBeSame(t, name, append(slices.Clone(posted), c.more...), EntriesOf(Event{Sequence: 9, Body: c.body}))
		same(t, name+": its own", c.body.OwnLines(), 3)
		same(t, name+": what it approved", c.body.ApprovedKind(), c.kind)
	}
	if EntriesOf(Event{Sequence: 9, Body: &Change{}}) != nil {
		t.Errorf("a change without moves posts entries")
	}
}
