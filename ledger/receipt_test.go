package ledger

import (
	"fmt"
	"testing"
)

func TestReverseReceipt(t *testing.T) {
	w := transferWorld(t)
	receipt := w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 20, Supplier: "Acme"}).Sequence
	reverse := func(quantity int64) CommandBody {
		return &ReverseReceipt{Sequence: receipt, Quantity: quantity, ReasonCode: "TYPO", Reference: "N-1"}
	}
	event := w.must(t, reverse(5))
	change := event.Body.(*Change)
	same(t, "what it corrects", fmt.Sprintf("%d %s %s", change.Corrects, change.Party, change.Reference), fmt.Sprintf("%d Acme N-1", receipt))
	same(t, "a part", w.balances("store", "zinc-1").Available, 45)
	w.refused(t, "amina", reverse(16), ReasonReceiptReversed)
	w.must(t, reverse(0))
	same(t, "the rest", w.balances("store", "zinc-1").Available, 30)
	same(t, "whole", document[Reversal](w.state, DocumentReversal, w.latest(DocumentReversal)).Whole, true)
	w.refused(t, "amina", reverse(0), ReasonReceiptReversed)
	// The command that reversed it is no receipt.
	w.refused(t, "amina", &ReverseReceipt{Sequence: event.Sequence, ReasonCode: "TYPO"}, ReasonReceiptNotFound)
	checkInvariants(t, w)
}

// Units that went to quarantine are taken back from there, and a receipt that
// was approved is one.
func TestReverseReceiptOfWhatWasApprovedAndBarred(t *testing.T) {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindReceiveStock, 0, RequireApprovalBefore}))
	w.must(t, &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"})
	id := w.putOff(t, &ReceiveStock{LocationID: "ward", LotID: "zinc-1", Quantity: 7, Supplier: "Acme"})
	receipt := w.mustBy(t, "brian", &ApproveCommand{ApprovalID: id}).Sequence
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{Quarantined: 7})
	w.must(t, &ReverseReceipt{Sequence: receipt, ReasonCode: "TYPO"})
	same(t, "ward", w.balances("ward", "zinc-1"), Balances{})
	checkReplay(t, w)
}

// Two requests to reverse one receipt hold their units apart, and together
// reverse no more than there was.
func TestReversalsThatWait(t *testing.T) {
	w := newWorld(t)
	receipt := w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 20}).Sequence
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 20})
	w.must(t, policy(time1, Rule{"*", KindReverseReceipt, 0, RequireApprovalBefore}))
	first := w.putOff(t, &ReverseReceipt{Sequence: receipt, Quantity: 15, ReasonCode: "TYPO"})
	second := w.putOff(t, &ReverseReceipt{Sequence: receipt, Quantity: 15, ReasonCode: "TYPO"})
	same(t, "pending", w.balances("store", "zinc-2"), Balances{Available: 10, Pending: 30})
	w.mustBy(t, "brian", &ApproveCommand{ApprovalID: first})
	w.refused(t, "brian", &ApproveCommand{ApprovalID: second}, ReasonReceiptReversed)
	w.mustBy(t, "brian", &RejectCommand{ApprovalID: second, ReasonCode: "TWICE"})
	same(t, "in the end", w.balances("store", "zinc-2"), Balances{Available: 25})
	checkInvariants(t, w)
}
