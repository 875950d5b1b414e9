package ledger

import (
	"maps"
	"reflect"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// book keeps the sums of all entries, to be compared with what the state says.
type book struct {
	sums map[bookKey]Balances
	flow map[LotID]int64 // what counterparties gave, less what they took
}

type bookKey struct {
	Shelf
	lot LotID
}

func newBook() *book { return &book{make(map[bookKey]Balances), make(map[LotID]int64)} }

// post adds the entries of one command.
func (b *book) post(t fataler, entries []Entry) {
	t.Helper()
	type cleared struct {
		medicine MedicineID
		lot      LotID
	}
	clearing := make(map[cleared]int64)
	for i, e := range entries {
		if e.Quantity <= 0 || e.Debit == e.Credit || e.Line != i {
			t.Fatalf("entry %+v moves nothing, or is not line %d", e, i)
		}
		key := bookKey{Shelf{e.Location, e.Medicine}, e.Lot}
		sum := b.sums[key]
		for bucket, quantity := range map[Bucket]int64{e.Debit: e.Quantity, e.Credit: -e.Quantity} {
			if p := sum.bucket(bucket); p != nil {
				*p += quantity
			} else {
				b.flow[e.Lot] -= quantity
			}
			if bucket == Clearing {
				clearing[cleared{e.Medicine, e.Lot}] += quantity
			}
		}
		if sum != e.After {
			t.Fatalf("entry %+v records balances other than the sum %+v", e, sum)
		}
		b.sums[key] = sum
	}
	for what, units := range clearing {
		if units != 0 {
			t.Fatalf("clearing keeps %d units of %+v", units, what)
		}
	}
}

// checkInvariants is DESIGN's invariants 1, 2 and 3 over one clinic.
func checkInvariants(t fataler, w *world) {
	t.Helper()
	snapshot := w.state.Snapshot()
	for _, err := range snapshot.CheckInvariants() {
		t.Fatalf("%v", err)
	}
	onHand, rows := make(map[LotID]int64), 0
	for _, stock := range snapshot.Stock {
		if sum := w.book.sums[bookKey{stock.Shelf, stock.Lot}]; sum != stock.Balances {
			t.Fatalf("balance %+v is not the one stored with the last entry, %+v", stock, sum)
		}
		onHand[stock.Lot] += stock.OnHand()
		rows++
	}
	if rows != len(w.book.sums) || rows != w.state.rows {
		t.Fatalf("there are %d stock rows, %d are counted, and entries are of %d", rows, w.state.rows, len(w.book.sums))
	}
	for lot, units := range w.book.flow {
		if onHand[lot] != units {
			t.Fatalf("lot %s: counterparties gave %d, on hand are %d", lot, units, onHand[lot])
		}
	}
}

// checkUse is DESIGN's invariant 8: what an accepted command issues, or
// reserves for issue, is neither expired nor barred. It is called before the
// event is applied.
func checkUse(t fataler, s *State, e Event) {
	t.Helper()
	body := e.Body
	if change, ok := body.(*Change); ok && change.Approved != nil {
		body = change.Approved
	}
	if body.kind() == KindRecordDowntime {
		return // it was done, and is flagged
	}
	_, reserves := body.(*StockReserved)
	for _, entry := range EntriesOf(e) {
		used := entry.Debit == Issued || entry.Debit == Dispensed || reserves && entry.Debit == Reserved
		if lot := s.lots[entry.Lot]; used && (lot.Bar != BarNone || lot.Expiry < s.today(e.At)) {
			t.Fatalf("%s of lot %+v on %s", body.kind(), *lot, s.today(e.At))
		}
	}
}

// memory is a state with what it keeps beside its documents.
type memory struct {
	Snapshot   Snapshot
	ByIdentity map[string]string
	Transfers  map[holdKey]TransferID
	Deadlines  map[Shelf][]holdKey // those of open holds, each once
	Zone       string
}

func memoryOf(s *State) memory {
	m := memory{
		Snapshot: s.Snapshot(), ByIdentity: maps.Clone(s.byIdentity), Zone: s.zone.String(),
		Transfers: make(map[holdKey]TransferID), Deadlines: make(map[Shelf][]holdKey),
	}
	for key, hold := range s.holds {
		m.Transfers[key] = hold.transfer
	}
	for key, shelf := range s.shelves {
		for _, item := range shelf.deadlines {
			if hold, open := s.holds[item.key]; open && hold.shelf == shelf && hold.deadline == item.deadline {
				m.Deadlines[key] = appendNew(m.Deadlines[key], item.key)
			}
		}
		slices.SortFunc(m.Deadlines[key], compareHolds)
	}
	return m
}

// mustBeSame compares two values, to which an empty list is as good as none. It
// asks cmp only where they are not plainly equal: cmp is slow.
func mustBeSame(t fataler, what string, want, got any) {
	t.Helper()
	if reflect.DeepEqual(want, got) {
		return
	}
	everything := cmp.Exporter(func(reflect.Type) bool { return true })
	if diff := cmp.Diff(want, got, everything, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}
