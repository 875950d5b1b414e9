package ledger

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// transferWorld has 30 units each of two lots in the store.
func transferWorld(t fataler) *world {
	w := newWorld(t)
	for i, lot := range []LotID{"zinc-1", "zinc-2"} {
		w.must(t, &UpdateLot{LotID: lot, Expiry: ptr(today + 100*Date(i+1))})
		w.must(t, &ReceiveStock{LocationID: "store", LotID: lot, Quantity: 30})
	}
	return w
}

// ask asks for units of zinc to be moved to the ward.
func (w *world) ask(t fataler, quantity int64, lot LotID) TransferID {
	t.Helper()
	w.must(t, &TransferStock{
		From: "store", To: "ward", Lines: []RequestedLine{{MedicineID: "zinc", LotID: lot, Quantity: quantity}},
		DispatchBy: w.now + testDay, ReasonCode: "REFILL",
	})
	return w.lastTransfer()
}

// sent is a transfer under way.
func (w *world) sent(t fataler, quantity int64, lot LotID) TransferID {
	t.Helper()
	id := w.ask(t, quantity, lot)
	w.must(t, &ApproveTransfer{TransferID: id})
	w.must(t, &DispatchTransfer{TransferID: id})
	return id
}

func lotOf(lot LotID, quantity int64) []LotLine { return []LotLine{{LotID: lot, Quantity: quantity}} }

func TestTransferFromShelfToShelf(t *testing.T) {
	w := transferWorld(t)
	expect := func(step string, store1, store2, ward1, ward2 Balances) {
		t.Helper()
		same(t, step+": zinc-1 in the store", w.balances("store", "zinc-1"), store1)
		same(t, step+": zinc-2 in the store", w.balances("store", "zinc-2"), store2)
		same(t, step+": zinc-1 in the ward", w.balances("ward", "zinc-1"), ward1)
		same(t, step+": zinc-2 in the ward", w.balances("ward", "zinc-2"), ward2)
		checkInvariants(t, w)
	}
	none := Balances{}
	id := w.ask(t, 40, "")
	expect("requested", Balances{Available: 30}, Balances{Available: 30}, none, none)
	w.must(t, &ApproveTransfer{TransferID: id})
	expect("approved", Balances{Reserved: 30}, Balances{Available: 20, Reserved: 10}, none, none)
	w.must(t, &DispatchTransfer{TransferID: id, Lines: []LotLine{{LotID: "zinc-1", Quantity: 25}, {LotID: "zinc-2", Quantity: 10}}})
	expect("dispatched", Balances{Available: 5, InTransit: 25}, Balances{Available: 20, InTransit: 10}, none, none)
	w.must(t, &ReceiveTransfer{TransferID: id, Lines: []LotLine{{LotID: "zinc-1", Quantity: 20}, {LotID: "zinc-1", Quantity: 2, Quarantine: true}}})
	expect("received in part", Balances{Available: 5, InTransit: 3}, Balances{Available: 20, InTransit: 10}, Balances{Available: 20, Quarantined: 2}, none)
	w.must(t, &ReceiveTransfer{TransferID: id, Lines: lotOf("zinc-2", 10)})
	expect("received in part again", Balances{Available: 5, InTransit: 3}, Balances{Available: 20}, Balances{Available: 20, Quarantined: 2}, Balances{Available: 10})
	w.refused(t, "amina", &CompleteTransfer{TransferID: id}, ReasonTransferShort)
	w.must(t, &CompleteTransfer{TransferID: id, ReasonCode: "LOST"})
	expect("completed", Balances{Available: 5}, Balances{Available: 20}, Balances{Available: 20, Quarantined: 2}, Balances{Available: 10})
	parcels := documentOf[*Transfer](w.records[len(w.records)-1].Event).Parcels
	same(t, "first parcel", parcels[0], Parcel{Medicine: "zinc", Lot: "zinc-1", Approved: 30, Dispatched: 25, Received: 22, Missing: 3})
	same(t, "second parcel", parcels[1], Parcel{Medicine: "zinc", Lot: "zinc-2", Approved: 10, Dispatched: 10, Received: 10})
	w.refused(t, "amina", &ReceiveTransfer{TransferID: id}, ReasonTransferNotFound)
}

// A unit is always somewhere, and never in two places: the sum over all
// locations changes only by what is lost and found.
func TestTransfersNeitherMakeNorLoseUnits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, c := transferWorld(t), rapidChooser{t}
		var lost, found int64
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			kind := pick(c, "kind", []Kind{
				KindTransferStock, KindApproveTransfer, KindDispatchTransfer, KindReceiveTransfer, KindReceiveTransfer, KindCompleteTransfer, KindCancelTransfer,
			})
			body := drawings[kind](c, w)
			if ask, ok := body.(*TransferStock); ok {
				ask.Lines = []RequestedLine{{MedicineID: "zinc", Quantity: int64(c.int("quantity", 1, 30))}}
			}
			event, r := w.try(t, body)
			if r != nil {
				continue
			}
			for _, e := range EntriesOf(event) {
				if e.Debit == Variance {
					lost += e.Quantity
				}
				if e.Credit == Variance {
					found += e.Quantity
				}
			}
			var total int64
			for _, stock := range w.state.Snapshot().Stock {
				total += stock.OnHand()
			}
			same(t, "units of the clinic", total, 60-lost+found)
			checkInvariants(t, w)
		}
	})
}

func TestTransferSurplus(t *testing.T) {
	w := transferWorld(t)
	id := w.sent(t, 10, "zinc-1")
	more := &ReceiveTransfer{TransferID: id, Lines: lotOf("zinc-1", 12)}
	w.refused(t, "amina", more, ReasonTransferSurplus)
	more.ReasonCode = "EXTRA"
	event := w.must(t, more)
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{Available: 12})
	same(t, "parcel", documentOf[*Transfer](event).Parcels[0], Parcel{Medicine: "zinc", Lot: "zinc-1", Approved: 10, Dispatched: 10, Received: 10, Surplus: 2})
	same(t, "status", documentOf[*Transfer](event).Status, TransferReceived)

	// Another lot than the one that was sent is all surplus; the one that was
	// sent stays under way.
	id = w.sent(t, 10, "zinc-2")
	event = w.must(t, &ReceiveTransfer{TransferID: id, Lines: lotOf("zinc-1", 10), ReasonCode: "MIXED-UP"})
	same(t, "under way", w.balances("store", "zinc-2"), Balances{Available: 20, InTransit: 10})
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{Available: 22})
	same(t, "status", documentOf[*Transfer](event).Status, TransferInTransit)
	w.must(t, &CompleteTransfer{TransferID: id, ReasonCode: "MIXED-UP"})
	checkInvariants(t, w)
}

func TestCancelTransfer(t *testing.T) {
	for name, c := range map[string]struct {
		sent, received int64
		want           TransferStatus
	}{
		"before it is approved":   {-1, 0, TransferCancelled},
		"before it sets out":      {0, 0, TransferCancelled},
		"while it is under way":   {10, 0, TransferCancelled},
		"after a part arrived":    {10, 4, TransferCompleted},
		"after a part was sent":   {6, 0, TransferCancelled},
		"after most of it arrive": {10, 9, TransferCompleted},
	} {
		t.Run(name, func(t *testing.T) {
			w := transferWorld(t)
			id := w.ask(t, 10, "zinc-1")
			if c.sent >= 0 {
				w.must(t, &ApproveTransfer{TransferID: id})
			}
			if c.sent > 0 {
				w.must(t, &DispatchTransfer{TransferID: id, Lines: lotOf("zinc-1", c.sent)})
			}
			if c.received > 0 {
				w.must(t, &ReceiveTransfer{TransferID: id, Lines: lotOf("zinc-1", c.received)})
			}
			event := w.must(t, &CancelTransfer{TransferID: id, ReasonCode: "CHANGED"})
			same(t, "status", documentOf[*Transfer](event).Status, c.want)
			same(t, "store", w.balances("store", "zinc-1"), Balances{Available: 30 - c.received})
			same(t, "ward", w.balances("ward", "zinc-1"), Balances{Available: c.received})
			same(t, "open documents", len(w.state.documents), 0)
			same(t, "open holds", len(w.state.holds), 0)
			checkInvariants(t, w)
		})
	}
}

func TestHoldsOfTransfersGoWithThem(t *testing.T) {
	w := transferWorld(t)
	id := w.ask(t, 40, "")
	event := w.must(t, &ApproveTransfer{TransferID: id})
	holds := documentOf[*Transfer](event).HoldIDs
	same(t, "holds of one medicine", len(holds), 1)
	for _, body := range []CommandBody{&ReleaseStock{HoldID: holds[0]}, &IssueStock{HoldID: holds[0]}, &ExpireReservation{HoldID: holds[0]}} {
		r := w.refused(t, "amina", body, ReasonHoldOfTransfer)
		same(t, "the transfer that is named", r.Metadata["transfer_id"], string(id))
	}
	// So it is in a state that was restored, which learns it from the transfer.
	restored, err := Restore("hillside", utcOnly, w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	if _, r := Decide(restored, w.command(&ReleaseStock{HoldID: holds[0]}), w.now); r == nil || r.Reason != ReasonHoldOfTransfer {
		t.Errorf("a restored hold of a transfer: %v", r)
	}
}

func TestOverdueTransfersAreCancelledToMakeRoom(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &AddMedicine{MedicineID: "iron", Name: "Iron", BaseUnit: "tablet"})
	w.must(t, &RegisterLot{LotID: "iron-1", MedicineID: "iron", Manufacturer: "Acme", LotNumber: "1", Expiry: today + 99})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "iron-1", Quantity: 5})
	w.must(t, &TransferStock{
		From: "store", To: "ward", Lines: []RequestedLine{{MedicineID: "zinc", Quantity: 50}, {MedicineID: "iron", Quantity: 5}},
		DispatchBy: w.now + testDay, ReasonCode: "REFILL",
	})
	id := w.lastTransfer()
	w.must(t, &ApproveTransfer{TransferID: id})
	issue := w.command(&IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 20})
	if expiries := ExpiriesFor(w.state, issue, w.now); len(expiries) > 0 {
		t.Fatalf("a transfer that can still set out is cancelled: %+v", expiries)
	}
	w.now += testDay + 1
	w.refused(t, "amina", &DispatchTransfer{TransferID: id}, ReasonTransferOverdue)
	w.refused(t, "amina", issue.Body, ReasonInsufficientStock)
	expiries := ExpiriesFor(w.state, issue, w.now)
	same(t, "expiries", len(expiries), 1)
	same(t, "its body", *expiries[0].Body.(*CancelTransfer), CancelTransfer{TransferID: id, ReasonCode: ReasonCodeOverdue})
	if _, r := w.give(t, expiries[0]); r != nil {
		t.Fatalf("the ledger's own command: %v", r)
	}
	w.must(t, issue.Body)
	same(t, "the transfer's other medicine", w.balances("store", "iron-1"), Balances{Available: 5})
}

func TestApproveTransferInPart(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &TransferStock{
		From: "store", To: "ward", DispatchBy: w.now + testDay, ReasonCode: "REFILL",
		Lines: []RequestedLine{{MedicineID: "zinc", Quantity: 20}, {MedicineID: "zinc", LotID: "zinc-1", Quantity: 20}},
	})
	id := w.lastTransfer()
	// Any lot comes to ten of zinc-1, and the named one to five more of it.
	event := w.must(t, &ApproveTransfer{TransferID: id, Lines: []RequestedLine{
		{MedicineID: "zinc", Quantity: 10}, {MedicineID: "zinc", LotID: "zinc-1", Quantity: 5},
	}})
	transfer := documentOf[*Transfer](event)
	same(t, "parcels", len(transfer.Parcels), 1)
	same(t, "parcel", transfer.Parcels[0], Parcel{Medicine: "zinc", Lot: "zinc-1", Approved: 15})
	same(t, "store", w.balances("store", "zinc-1"), Balances{Available: 15, Reserved: 15})
	checkInvariants(t, w)
}

// A lot that is named is moved as it is: it may have to be moved because it has
// expired, or to where the recalled ones are kept. Any other is not.
func TestTransfersOfExpiredAndBarredLots(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"})
	id := w.ask(t, 10, "zinc-1")
	w.must(t, &ApproveTransfer{TransferID: id})
	w.must(t, &DispatchTransfer{TransferID: id})
	w.must(t, &ReceiveTransfer{TransferID: id})
	same(t, "a barred lot arrives in quarantine", w.balances("ward", "zinc-1"), Balances{Quarantined: 10})
	w.refused(t, "amina", &ApproveTransfer{TransferID: w.ask(t, 31, "")}, ReasonInsufficientStock)
	event := w.must(t, &ApproveTransfer{TransferID: w.ask(t, 30, "")})
	same(t, "lots", documentOf[*Transfer](event).Parcels[0].Lot, "zinc-2")
	checkInvariants(t, w)

	// Recalled while it is under way, it comes to quarantine at either end.
	w = transferWorld(t)
	id = w.sent(t, 10, "zinc-1")
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	w.must(t, &ReceiveTransfer{TransferID: id, Lines: lotOf("zinc-1", 4)})
	w.must(t, &CancelTransfer{TransferID: id, ReasonCode: "RECALLED"})
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{Quarantined: 4})
	same(t, "store", w.balances("store", "zinc-1"), Balances{Available: 20, Quarantined: 6})
}

// A transfer of more lots than one event should carry is to be split.
func TestTransferOfManyLots(t *testing.T) {
	w := newWorld(t)
	for i := range maxTransferParcels + 1 {
		id := LotID(fmt.Sprintf("many-%d", i))
		w.must(t, &RegisterLot{LotID: id, MedicineID: "zinc", Manufacturer: "Acme", LotNumber: string(id), Expiry: today + 99})
		w.must(t, &ReceiveStock{LocationID: "store", LotID: id, Quantity: 1})
	}
	r := w.refused(t, "amina", &ApproveTransfer{TransferID: w.ask(t, maxTransferParcels+1, "")}, ReasonInvalidField)
	same(t, "field", r.Field, "lines")
	event := w.must(t, &ApproveTransfer{TransferID: w.ask(t, maxTransferParcels, "")})
	same(t, "parcels", len(documentOf[*Transfer](event).Parcels), maxTransferParcels)
	same(t, "holds", len(documentOf[*Transfer](event).HoldIDs), 1)
	checkInvariants(t, w)
}
