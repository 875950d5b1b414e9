package ledger

import (
	"fmt"
	"slices"
	"testing"
)

func (w *world) lot(id LotID) Lot { return *w.state.lots[id] }

func (w *world) wantBar(t fataler, id LotID, bar Bar, recall RecallID) {
	t.Helper()
	lot := w.lot(id)
	if lot.Bar != bar || lot.RecallID != recall {
		t.Fatalf("lot %s is barred by %d of %q, want %d of %q", id, lot.Bar, lot.RecallID, bar, recall)
	}
}

func TestRecallByID(t *testing.T) {
	w := transferWorld(t)
	hold := w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 35, ReasonCode: "WARD", Deadline: w.now + testDay}).Body.(*StockReserved).HoldID
	w.must(t, &ApproveTransfer{TransferID: w.ask(t, 5, "zinc-2")})
	approved := w.lastTransfer()
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE", Reference: "N-1"})
	recall := w.lastRecall()
	// The bar takes effect at once, wherever the units lie.
	w.wantBar(t, "zinc-1", BarRecalled, recall)
	w.refused(t, "amina", &IssueStock{HoldID: hold}, ReasonLotRecalled)
	w.refused(t, "amina", &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 1}, ReasonLotRecalled)
	w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1})
	same(t, "the lot that is issued", w.balances("store", "zinc-2").Available, 19)
	// What arrives afterwards goes to quarantine.
	w.must(t, &ReceiveStock{LocationID: "ward", LotID: "zinc-1", Quantity: 7})
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{Quarantined: 7})

	event := w.must(t, &ContinueRecall{RecallID: recall})
	same(t, "store", w.balances("store", "zinc-1"), Balances{Quarantined: 30})
	got := documentOf[*Recall](event)
	same(t, "followed up", fmt.Sprint(got.FollowedUp, got.Step, got.HoldsVoided, got.Quarantined), "true 1 1 30")
	// The hold keeps what it has of other lots, and the transfer of another
	// lot is untouched.
	w.must(t, &IssueStock{HoldID: hold})
	same(t, "the hold's other lot", w.balances("store", "zinc-2"), Balances{Available: 19, Reserved: 5})
	w.must(t, &DispatchTransfer{TransferID: approved})
	w.must(t, &LiftRecall{RecallID: recall, ReasonCode: "MISTAKE"})
	w.wantBar(t, "zinc-1", BarNone, "")
	same(t, "lifted: store", w.balances("store", "zinc-1"), Balances{Quarantined: 30})
	w.must(t, &ReleaseLot{LotID: "zinc-1", LocationID: "store", ReasonCode: "FINE"})
	same(t, "released: store", w.balances("store", "zinc-1"), Balances{Available: 30})
	checkInvariants(t, w)
}

func TestRecallByMakerReachesLotsRegisteredLater(t *testing.T) {
	for name, recall := range map[string]*RecallLot{
		"by GTIN":         {GTIN: gtinBox[1:], LotNumber: "R1", ReasonCode: "NOTICE"},
		"by manufacturer": {Manufacturer: "ACME", LotNumber: "R1", ReasonCode: "NOTICE"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			register := func(id LotID, number string) {
				w.must(t, &RegisterLot{LotID: id, MedicineID: "zinc", Manufacturer: "Acme", GTIN: gtinBox, LotNumber: number, Expiry: today + 99})
			}
			register("before", "R1")
			w.must(t, recall)
			id := w.lastRecall()
			w.wantBar(t, "before", BarRecalled, id)
			w.must(t, &UpdateLot{LotID: "before", LotNumber: ptr("R1-typo")})
			w.wantBar(t, "before", BarRecalled, id) // what was barred stays so
			register("after", "R1")
			w.wantBar(t, "after", BarRecalled, id)
			register("other", "R2")
			w.wantBar(t, "other", BarNone, "")
			w.must(t, &ReceiveStock{LocationID: "store", LotID: "after", Quantity: 5})
			same(t, "received", w.balances("store", "after"), Balances{Quarantined: 5})
			checkReplay(t, w)
			w.must(t, &LiftRecall{RecallID: id, ReasonCode: "MISTAKE"})
			w.wantBar(t, "before", BarNone, "")
			w.wantBar(t, "after", BarNone, "")
			checkReplay(t, w)
		})
	}
}

// A lot whose number was entered wrong falls under the recall when it is
// corrected, with what was made from it, and its stock is followed up.
func TestCorrectedLotFallsUnderARecall(t *testing.T) {
	w := newWorld(t)
	w.must(t, &RegisterLot{LotID: "typo", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "R1-typo", Expiry: today + 99})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "typo", Quantity: 10})
	w.must(t, convert("typo", "made", 4))
	w.must(t, &RecallLot{Manufacturer: "Acme", LotNumber: "R1", ReasonCode: "NOTICE"})
	recall := w.lastRecall()
	same(t, "nothing to follow up", documentOf[*Recall](w.must(t, &ContinueRecall{RecallID: recall})).FollowedUp, true)
	w.must(t, &UpdateLot{LotID: "typo", LotNumber: ptr("R1")})
	w.wantBar(t, "typo", BarRecalled, recall)
	w.wantBar(t, "made", BarRecalled, recall)
	same(t, "it is to be followed up again", document[Recall](w.state, DocumentRecall, string(recall)).FollowedUp, false)
	w.must(t, &ContinueRecall{RecallID: recall, Step: 1})
	same(t, "typo", w.balances("store", "typo"), Balances{Quarantined: 6})
	same(t, "made", w.balances("store", "made"), Balances{Quarantined: 4})
	checkInvariants(t, w)
	checkReplay(t, w)
}

// convert makes units of a lot into as many of a new one in the store.
func convert(from, to LotID, quantity int64) *ConvertStock {
	return &ConvertStock{
		LocationID: "store", Inputs: lotOf(from, quantity), MedicineID: "zinc", LotID: to, LotNumber: string(to), Manufacturer: "Hillside",
		Expiry: today + 20, Quantity: quantity, ReasonCode: "REPACK",
	}
}

func TestRecallReachesWhatWasMade(t *testing.T) {
	w := transferWorld(t)
	w.must(t, convert("zinc-1", "child", 10))
	w.must(t, convert("child", "grandchild", 5))
	event := w.must(t, &OpenContainer{LocationID: "store", LotID: "grandchild", Quantity: 2, InUseUntil: today + 5})
	opened := event.Body.(*Change).Lots[0].ID
	w.must(t, convert("zinc-2", "stranger", 5))
	family := []LotID{"zinc-1", "child", "grandchild", opened}
	w.must(t, &QuarantineLot{LotID: "child", ReasonCode: "DAMP"})
	for _, id := range family[1:] {
		w.wantBar(t, id, BarQuarantined, "")
	}
	w.wantBar(t, "zinc-1", BarNone, "")
	w.must(t, &ReleaseLot{LotID: "child", ReasonCode: "DRY"})
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	recall := w.lastRecall()
	for _, id := range family {
		w.wantBar(t, id, BarRecalled, recall)
	}
	w.wantBar(t, "stranger", BarNone, "")
	got := documentOf[*Recall](w.must(t, &ContinueRecall{RecallID: recall}))
	same(t, "units in quarantine", got.Quarantined, 30)
	slices.Sort(family)
	if !slices.Equal(got.LotIDs, family) {
		t.Errorf("the recall names %v", got.LotIDs)
	}
	w.refused(t, "amina", convert("grandchild", "late", 1), ReasonLotRecalled)
	checkReplay(t, w)
}

// What two recalls name stays barred until both are lifted.
func TestLiftedRecallLeavesWhatAnotherNames(t *testing.T) {
	w := transferWorld(t)
	both := convert("zinc-1", "mixed", 5)
	both.Inputs = append(both.Inputs, lotOf("zinc-2", 5)...)
	w.must(t, both)
	w.must(t, convert("mixed", "child", 2))
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	first := w.lastRecall()
	w.must(t, &RecallLot{Manufacturer: "Acme", LotNumber: "zinc-1", ReasonCode: "NOTICE"})
	maker := w.lastRecall()
	w.must(t, &RecallLot{LotID: "zinc-2", ReasonCode: "NOTICE"})
	other := w.lastRecall()
	for _, id := range []LotID{"zinc-1", "mixed", "child"} {
		w.wantBar(t, id, BarRecalled, first)
	}
	for _, id := range []RecallID{first, maker, other} {
		w.must(t, &ContinueRecall{RecallID: id})
	}
	w.must(t, &LiftRecall{RecallID: first, ReasonCode: "MISTAKE"})
	w.wantBar(t, "zinc-1", BarRecalled, maker) // by its maker and number
	for _, id := range []LotID{"mixed", "child"} {
		w.wantBar(t, id, BarRecalled, maker) // through what it was made from
	}
	same(t, "it is to be followed up again", document[Recall](w.state, DocumentRecall, string(maker)).FollowedUp, false)
	w.must(t, &LiftRecall{RecallID: maker, ReasonCode: "MISTAKE"})
	w.wantBar(t, "zinc-1", BarNone, "")
	for _, id := range []LotID{"mixed", "child"} {
		w.wantBar(t, id, BarRecalled, other)
	}
	w.must(t, &LiftRecall{RecallID: other, ReasonCode: "MISTAKE"})
	for _, id := range []LotID{"zinc-2", "mixed", "child"} {
		w.wantBar(t, id, BarNone, "")
	}
	checkReplay(t, w)
}

func TestConversionUnderARecallIsBornBarred(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &RecallLot{Manufacturer: "Hillside", LotNumber: "made", ReasonCode: "NOTICE"})
	w.must(t, convert("zinc-1", "made", 5))
	w.wantBar(t, "made", BarRecalled, w.lastRecall())
	same(t, "made", w.balances("store", "made"), Balances{Quarantined: 5})
	checkReplay(t, w)
}

// The follow-up goes in steps of 250 shelves and holds, over several locations,
// holds of several lots, and the holds of transfers.
func TestRecallIsFollowedUpInSteps(t *testing.T) {
	w := transferWorld(t)
	const holds = 300
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 2 * holds})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 2 * holds})
	w.must(t, &ReceiveStock{LocationID: "ward", LotID: "zinc-1", Quantity: 40})
	reserve := func(location LocationID, quantity int64, lot LotID) {
		w.must(t, &ReserveStock{LocationID: location, MedicineID: "zinc", LotID: lot, Quantity: quantity, ReasonCode: "WARD", Deadline: w.now + 9*testDay})
	}
	for range holds {
		reserve("store", 1, "zinc-1")
	}
	id := w.ask(t, 5, "")
	w.must(t, &ApproveTransfer{TransferID: id})
	reserve("store", w.balances("store", "zinc-1").Available+50, "") // of both lots
	reserve("ward", 10, "")
	total := w.balances("store", "zinc-1").OnHand() + 40
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	recall := w.lastRecall()
	var last *Recall
	for step := int64(0); ; step++ {
		before := len(w.records)
		event := w.must(t, &ContinueRecall{RecallID: recall, Step: step})
		if moved := len(EntriesOf(w.records[before].Event)); moved > recallStep {
			t.Fatalf("step %d moves %d times", step, moved)
		}
		checkInvariants(t, w)
		if last = documentOf[*Recall](event); last.FollowedUp {
			break
		}
	}
	// One shelf each, 300 holds, one of two lots, one in the ward, and the
	// transfer's.
	same(t, "steps, holds, units", fmt.Sprint(last.Step, last.HoldsVoided, last.Quarantined), fmt.Sprint(2, holds+3, total))
	same(t, "store", w.balances("store", "zinc-1").Reserved+w.balances("store", "zinc-1").Available, 0)
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{Quarantined: 40})
	same(t, "the hold of two lots", w.balances("store", "zinc-2").Reserved, 50)
	same(t, "open holds", len(w.state.holds), 1)
	same(t, "the transfer's parcel", document[Transfer](w.state, DocumentTransfer, string(id)).Parcels[0].Approved, 0)
	w.refused(t, "amina", &DispatchTransfer{TransferID: id}, ReasonTransferEmpty)
	w.must(t, &CancelTransfer{TransferID: id, ReasonCode: "EMPTY"})
	checkReplay(t, w)
}

// What a recall leaves of a transfer sets out.
func TestRecallShortensATransfer(t *testing.T) {
	w := transferWorld(t)
	id := w.ask(t, 40, "")
	w.must(t, &ApproveTransfer{TransferID: id})
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	event := w.must(t, &ContinueRecall{RecallID: w.lastRecall()})
	if scope := ScopeOf(event); !slices.Equal(scope.All, []LocationID{"store"}) || len(scope.Any) > 0 {
		t.Errorf("the follow-up concerns %+v", scope)
	}
	w.must(t, &DispatchTransfer{TransferID: id})
	w.must(t, &ReceiveTransfer{TransferID: id})
	same(t, "zinc-1", w.balances("ward", "zinc-1"), Balances{})
	same(t, "zinc-2", w.balances("ward", "zinc-2"), Balances{Available: 10})
	checkInvariants(t, w)
}

// What is made of several lots leaves quarantine with the last of them, unless
// somebody releases it by itself.
func TestReleasedLotLeavesWhatAnotherBars(t *testing.T) {
	w := transferWorld(t)
	both := convert("zinc-1", "mixed", 5)
	both.Inputs = append(both.Inputs, lotOf("zinc-2", 5)...)
	w.must(t, both)
	w.must(t, convert("mixed", "child", 2))
	w.must(t, &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"})
	w.must(t, &QuarantineLot{LotID: "zinc-2", ReasonCode: "DAMP"})
	w.must(t, &ReleaseLot{LotID: "zinc-1", ReasonCode: "DRY"})
	w.wantBar(t, "zinc-1", BarNone, "")
	for _, id := range []LotID{"zinc-2", "mixed", "child"} {
		w.wantBar(t, id, BarQuarantined, "")
	}
	w.dry(func() {
		w.must(t, &ReleaseLot{LotID: "mixed", ReasonCode: "TESTED"})
		for _, id := range []LotID{"mixed", "child"} {
			w.wantBar(t, id, BarNone, "")
		}
	})
	// A recall that is lifted leaves what its parents' quarantine bars.
	w.must(t, &RecallLot{LotID: "mixed", ReasonCode: "NOTICE"})
	w.must(t, &LiftRecall{RecallID: w.lastRecall(), ReasonCode: "MISTAKE"})
	for _, id := range []LotID{"mixed", "child"} {
		w.wantBar(t, id, BarQuarantined, "")
	}
	w.must(t, &ReleaseLot{LotID: "zinc-2", ReasonCode: "DRY"})
	for _, id := range []LotID{"zinc-2", "mixed", "child"} {
		w.wantBar(t, id, BarNone, "")
	}
	checkReplay(t, w)
}
