package ledger

import (
	"fmt"
	"testing"
)

// shortWorld has no free zinc in the store: thirty holds of two units each have
// it, overdue since one second ago, two, three …
func shortWorld(t fataler) *world {
	w := transferWorld(t)
	for i := range 30 {
		w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 2, ReasonCode: "WARD", Deadline: w.now + Instant(30-i)*1_000_000})
	}
	w.now += 31_000_000
	return w
}

// Every command that draws on the shelves is served by what overdue holds have,
// and by no more of them than it takes.
func TestOverdueHoldsMakeRoom(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world)
		body    CommandBody
		want    int
	}{
		"ReserveStock":          {nil, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 3, ReasonCode: "WARD", Deadline: epoch + testDay}, 2},
		"IssueStock":            {nil, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 4}, 2},
		"all of it":             {nil, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 60}, 30},
		"more than all of it":   {nil, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 61}, 0},
		"a lot with old holds":  {nil, &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-2", Quantity: 1}, 1},
		"a lot with young ones": {nil, &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 1}, 16},
		"elsewhere":             {nil, &IssueStock{LocationID: "ward", MedicineID: "zinc", Quantity: 1}, 0},
		"AdjustStock":           {nil, &AdjustStock{LocationID: "store", LotID: "zinc-2", Direction: Decrease, Quantity: 3, ReasonCode: "BROKEN"}, 2},
		"WriteOffStock":         {nil, &WriteOffStock{LocationID: "store", LotID: "zinc-2", Quantity: 3, ReasonCode: "BROKEN"}, 2},
		"from quarantine":       {nil, &WriteOffStock{LocationID: "store", LotID: "zinc-2", Quantity: 3, ReasonCode: "BROKEN", FromQuarantine: true}, 0},
		"ReturnToSupplier":      {nil, &ReturnToSupplier{LocationID: "store", LotID: "zinc-2", Quantity: 3, ReasonCode: "WRONG"}, 2},
		"LendStock":             {nil, &LendStock{LoanMove{Partner: "riverside", LocationID: "store", LotID: "zinc-2", Quantity: 3, Reference: "L"}}, 2},
		"OpenContainer":         {nil, &OpenContainer{LocationID: "store", LotID: "zinc-2", Quantity: 3, InUseUntil: today + 1}, 2},
		"QuarantineLot":         {nil, &QuarantineLot{LocationID: "store", LotID: "zinc-2", Quantity: 3, ReasonCode: "DAMP"}, 2},
		"ReverseReceipt":        {nil, &ReverseReceipt{Sequence: 15, Quantity: 3, ReasonCode: "TYPO"}, 2},
		"ConvertStock": {nil, &ConvertStock{
			LocationID: "store", Inputs: []LotLine{{LotID: "zinc-2", Quantity: 3}, {LotID: "zinc-1", Quantity: 1}}, MedicineID: "zinc", LotNumber: "C1",
			Manufacturer: "Hillside", Expiry: today + 20, Quantity: 4, ReasonCode: "REPACK",
		}, 16},
		"ApproveTransfer": {func(w *world) { w.ask(t, 5, "") }, &ApproveTransfer{TransferID: "TR-46"}, 3},
		"a rejected one":  {nil, &ReceiveStock{LocationID: "attic", LotID: "zinc-2", Quantity: 3}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := shortWorld(t)
			if c.prepare != nil {
				c.prepare(w)
			}
			command := w.attach(w.command(c.body))
			before := memoryOf(w.state)
			expiries := ExpiriesFor(w.state, command, w.now)
			mustBeSame(t, "ExpiriesFor changed the state", before, memoryOf(w.state))
			if len(expiries) < c.want || len(expiries) > 2*c.want {
				t.Fatalf("%d holds expire, at least %d have to", len(expiries), c.want)
			}
			if c.want == 0 {
				return
			}
			w.refused(t, "amina", command.Body, ReasonInsufficientStock)
			for i, expiry := range expiries {
				event, r := w.give(t, expiry)
				if r != nil {
					t.Fatalf("expiry %d: %v", i, r)
				}
				same(t, "the key", event.IdempotencyKey, fmt.Sprintf("sys:expire:%s", expiry.Body.(*ExpireReservation).HoldID))
			}
			w.must(t, command.Body)
			checkInvariants(t, w)
		})
	}
}

// The longest overdue goes first, and of those that ended together the oldest,
// however the state came about.
func TestTheLongestOverdueExpiresFirst(t *testing.T) {
	w := transferWorld(t)
	reserve := func(deadline Instant) HoldID {
		return w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 4, ReasonCode: "WARD", Deadline: deadline}).Body.(*StockReserved).HoldID
	}
	young := reserve(w.now + 9)
	var want []HoldID
	for range 12 {
		want = append(want, reserve(w.now+5))
	}
	want = append([]HoldID{reserve(w.now + 4)}, append(want, young)...)
	w.now += 10
	restored, err := Restore("hillside", utcOnly, w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*State{w.state, restored} {
		expiries := ExpiriesFor(s, w.command(&IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 60}), w.now)
		for i, want := range want {
			same(t, "expiry", expiries[i].Body.(*ExpireReservation).HoldID, want)
		}
	}
}

// What was taken back leaves nothing behind that a later hold of the same id
// could be taken for, and closed holds come back with their deadlines.
func TestDeadlinesSurviveRollback(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &ReceiveStock{LocationID: "ward", LotID: "zinc-2", Quantity: 30})
	reserve := func(location LocationID, quantity int64) *ReserveStock {
		return &ReserveStock{LocationID: location, MedicineID: "zinc", LotID: "zinc-2", Quantity: quantity, ReasonCode: "WARD", Deadline: w.now + 5}
	}
	w.dry(func() { w.must(t, reserve("store", 30)) })
	hold := w.must(t, reserve("ward", 30)).Body.(*StockReserved).HoldID
	w.now++
	own := w.must(t, reserve("store", 10)).Body.(*StockReserved).HoldID
	w.now += 6
	issue := func(location LocationID) Command {
		return w.command(&IssueStock{LocationID: location, MedicineID: "zinc", LotID: "zinc-2", Quantity: 30})
	}
	expiries := ExpiriesFor(w.state, issue("store"), w.now)
	same(t, "holds that expire, and none on another shelf", len(expiries), 1)
	same(t, "the hold", expiries[0].Body.(*ExpireReservation).HoldID, own)
	w.dry(func() {
		w.must(t, &ReleaseStock{HoldID: hold})
		w.must(t, &IssueStock{LocationID: "ward", MedicineID: "zinc", LotID: "zinc-2", Quantity: 30})
		same(t, "closed holds that expire", len(ExpiriesFor(w.state, issue("ward"), w.now)), 0)
		same(t, "closed holds that are remembered", len(w.state.shelves[Shelf{"ward", "zinc"}].deadlines), 0)
	})
	same(t, "open holds that expire", len(ExpiriesFor(w.state, issue("ward"), w.now)), 1)
	w.must(t, &RecallLot{LotID: "zinc-2", ReasonCode: "NOTICE"})
	w.must(t, &ContinueRecall{RecallID: w.lastRecall()})
	same(t, "and are voided at both", w.balances("store", "zinc-2"), Balances{Quarantined: 30})
	same(t, "and are voided", w.balances("ward", "zinc-2"), Balances{Quarantined: 30})
}
