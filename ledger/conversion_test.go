package ledger

import "testing"

func TestConvertStock(t *testing.T) {
	w := newBusyWorld(t)
	event := w.must(t, &ConvertStock{
		LocationID: "erp|S", Inputs: []LotLine{{LotID: "morphine-1", Quantity: 1, Pack: "box"}, {LotID: "zinc-2", Quantity: 4}, {LotID: "erp|Z2", Quantity: 1}},
		MedicineID: "morphine", LotNumber: "mix-1", Manufacturer: "Hillside", Expiry: today + 30, Quantity: 2, Pack: "box", ReasonCode: "COMPOUND", Reference: "B-7",
	})
	made := w.lot(event.Body.(*Change).Lots[0].ID)
	mustBeSame(t, "what it was made from", []LotID{"morphine-1", "zinc-2"}, made.Parents)
	same(t, "made", w.balances("store", made.ID), Balances{Available: 20})
	same(t, "morphine used", w.balances("store", "morphine-1"), Balances{Available: 50})
	same(t, "zinc used", w.balances("store", "zinc-2"), Balances{Available: 55})
	// All that went in came out of or into the same account.
	sums := make(map[LotID]int64)
	for _, e := range EntriesOf(event) {
		if e.Debit == Converted {
			sums[e.Lot] += e.Quantity
		} else if e.Credit == Converted {
			sums[e.Lot] -= e.Quantity
		}
	}
	mustBeSame(t, "converted", map[LotID]int64{"morphine-1": 10, "zinc-2": 5, made.ID: -20}, sums)
	checkInvariants(t, w)
	checkReplay(t, w)
}

func TestOpenedContainerIsUsedFirst(t *testing.T) {
	w := newBusyWorld(t)
	event := w.must(t, &OpenContainer{LocationID: "store", LotID: "gs1|(01)" + gtinBox + "(10)M1", Quantity: 1, InUseUntil: today + 7})
	opened := w.lot(event.Body.(*Change).Lots[0].ID)
	same(t, "one scan is a box", w.balances("store", opened.ID), Balances{Available: 10})
	same(t, "its expiry", opened.Expiry, today+7)
	same(t, "its GTIN", opened.GTIN, "")
	// A scan goes on to name the sealed lot.
	found, r := w.state.lotItem("gs1|(01)"+gtinBox+"(10)M1", w.now)
	if r != nil || found.lot.ID != "morphine-1" {
		t.Errorf("the scan names %+v: %v", found.lot, r)
	}
	issued := w.must(t, &IssueStock{LocationID: "store", MedicineID: "morphine", Quantity: 11}).Body.(*StockIssued)
	same(t, "first", issued.Lines[0].Lot, opened.ID)
	same(t, "then", issued.Lines[1].Lot, "morphine-1")
	// Opening what was opened goes by the day that was said first.
	again := &OpenContainer{LocationID: "ward", LotID: "morphine-1", Quantity: 5, InUseUntil: today + 3}
	opened2 := w.must(t, again).Body.(*Change).Lots[0].ID
	late := w.refused(t, "amina", &OpenContainer{LocationID: "ward", LotID: opened2, Quantity: 1, InUseUntil: today + 4}, ReasonExpiryTooLate)
	same(t, "the field at fault", late.Field, "in_use_until")
	checkInvariants(t, w)
	checkReplay(t, w)
}
