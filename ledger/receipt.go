package ledger

import "strconv"

// KindReverseReceipt is the kind of ReverseReceipt.
const KindReverseReceipt Kind = 28

// ReverseReceipt takes back a receipt that was entered wrong, or a part of it:
// the units go back to the supplier's account.
type ReverseReceipt struct {
	Sequence   Sequence // of the ReceiveStock
	Quantity   int64    // base units; zero: all that was not reversed before
	ReasonCode string
	Reference  string

	// Receipt is the receipt that the sequence names. It is read from the
	// journal by who executes the command, and is no part of what the caller
	// asks for. Nil: there is none.
	Receipt *StockReceived
}

// Reversal says how much of a receipt was taken back.
type Reversal struct {
	Sequence Sequence
	Quantity int64
	Whole    bool // nothing is left to be taken back
}

// About is for the index of documents.
func (r *Reversal) About() About {
	id := strconv.FormatInt(int64(r.Sequence), 10)
	return About{DocumentKey: DocumentKey{DocumentReversal, id}, Open: true}
}

func (r *Reversal) fields(c *codec) {
	number(c, &r.Sequence)
	number(c, &r.Quantity)
	c.flag(&r.Whole)
}

// Kind identifies the command.
func (*ReverseReceipt) Kind() Kind { return KindReverseReceipt }

func (b *ReverseReceipt) fields(c *codec) {
	number(c, &b.Sequence)
	number(c, &b.Quantity)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func (b *ReverseReceipt) attached(c *codec) {
	optional(c, &b.Receipt, func(c *codec, r *StockReceived) { r.fields(c) })
}

func (b *ReverseReceipt) check() *Rejection {
	if b.Sequence <= 0 {
		return reject(ReasonInvalidField, "sequence", "The sequence must be that of a ReceiveStock.")
	}
	return first(
		checkQuantity(b.Quantity, true),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func (b *ReverseReceipt) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	if b.Receipt == nil || len(b.Receipt.Lines) != 1 || s.lots[b.Receipt.Lines[0].Lot] == nil {
		return nil, reject(ReasonReceiptNotFound, "sequence", "Sequence %d of clinic %q is not a ReceiveStock.", b.Sequence, s.id).with("sequence", b.Sequence)
	}
	received := b.Receipt.Lines[0]
	reversal := Reversal{Sequence: b.Sequence}
	if old := document[Reversal](s, DocumentReversal, reversal.About().ID); old != nil {
		reversal = *old
	}
	left := received.Quantity - reversal.Quantity
	quantity := b.Quantity
	if quantity == 0 {
		quantity = left
	}
	if left == 0 || quantity > left {
		return nil, reject(ReasonReceiptReversed, "quantity", "%d of the %d units of receipt %d are left to be reversed; %d were asked for.", left, received.Quantity, b.Sequence, quantity).
			with("sequence", b.Sequence, "left", left, "requested", quantity)
	}
	d := &draft{s: s}
	d.move(b.Receipt.Shelf, s.lots[received.Lot], availableOr(b.Receipt.Quarantined), Supplier, quantity)
	if d.refused != nil {
		return nil, d.refused
	}
	reversal.Quantity += quantity
	reversal.Whole = reversal.Quantity == received.Quantity
	event := d.change(b.Kind())
	event.Documents = []DocumentBody{&reversal}
	event.ReasonCode, event.Reference, event.Party, event.Corrects = b.ReasonCode, b.Reference, b.Receipt.Supplier, b.Sequence
	return event, nil
}
