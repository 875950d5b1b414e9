package ledger

import (
	"errors"
	"fmt"
)

// Change is the event of every command that moves stock over several shelves
// or concerns a document: the moves, and each hold, lot and document as it is
// from then on. What it means does not depend on which command it came from.
type Change struct {
	of Kind
	// Moves are posted in their order.
	Moves []Move
	// Draws take units out of open holds, and Openings make holds of units
	// that Moves reserved.
	Draws    []HoldDraw
	Openings []HoldOpening
	// Lots are made, or are from now on as they stand here.
	Lots []Lot
	// Documents are made, or are from now on as they stand here.
	Documents []DocumentBody
	// Facts for people and reports.
	ReasonCode string
	Reference  string
	Party      string   // who delivered, lent, got it back or used it
	Corrects   Sequence // the command that this one corrects, or zero
	// Approved is what an approved command came to, and Requester who gave it.
	// Its moves come after those of the change, and its effects last.
	Approved  EventBody
	Requester Actor

	// beyondTolerance tells the rules about second persons that a count is
	// far off, and counted what it was about. They are no part of the event.
	beyondTolerance bool
	counted         []MedicineID
}

// HoldOpening is a hold that a command makes.
type HoldOpening struct {
	Shelf
	HoldID     HoldID
	Lines      []Line
	ReasonCode string
	Deadline   Instant
	// Owner is the transfer, prescription or dispensing that it belongs to, or
	// empty.
	Owner string
}

// HoldDraw takes units out of a hold, for what it is closed as when nothing is
// left.
type HoldDraw struct {
	HoldID HoldID
	Lines  []Line
	Closes HoldStatus
}

func (b *Change) kind() Kind { return b.of }

func (b *Change) moves() []Move {
	approved, ok := b.Approved.(mover)
	if !ok {
		return b.Moves
	}
	moves := make([]Move, 0, len(b.Moves)+1)
	return append(append(moves, b.Moves...), approved.moves()...)
}

func (b *Change) fields(c *codec) {
	list(c, &b.Moves, 5, func(c *codec, m *Move) { m.fields(c) })
	list(c, &b.Draws, 3, func(c *codec, d *HoldDraw) {
		text(c, &d.HoldID)
		heldLines(c, &d.Lines)
		number(c, &d.Closes)
	})
	list(c, &b.Openings, 7, func(c *codec, o *HoldOpening) {
		shelfField(c, &o.Shelf)
		text(c, &o.HoldID)
		heldLines(c, &o.Lines)
		text(c, &o.ReasonCode)
		number(c, &o.Deadline)
		text(c, &o.Owner)
	})
	list(c, &b.Lots, 10, lotField)
	list(c, &b.Documents, 2, documentField)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
	text(c, &b.Party)
	number(c, &b.Corrects)
	b.approvedField(c)
}

// heldLines codes lots and quantities; the balances stand with the moves.
func heldLines(c *codec, p *[]Line) {
	list(c, p, 2, func(c *codec, l *Line) {
		text(c, &l.Lot)
		number(c, &l.Quantity)
	})
}

func lotField(c *codec, l *Lot) {
	text(c, &l.ID)
	text(c, &l.Medicine)
	lotFactsField(c, &l.LotFacts)
	c.flag(&l.Active)
	number(c, &l.Bar)
	text(c, &l.RecallID)
	list(c, &l.Parents, 1, text[LotID])
}

// approvedField codes the event of an approved command as bytes of its own,
// because bodies may have extras at their end.
func (b *Change) approvedField(c *codec) {
	kind, body := Kind(0), []byte(nil)
	if b.Approved != nil && !c.reading {
		inner := codec{}
		b.Approved.fields(&inner)
		kind, body = b.Approved.kind(), inner.buf
	}
	number(c, &kind)
	if kind == 0 {
		return
	}
	c.blob(&body)
	text(c, &b.Requester)
	if !c.reading || c.err != nil {
		return
	}
	spec, ok := kinds[kind]
	if !ok || spec.event == nil {
		c.fail(fmt.Errorf("approved event kind %d is unknown to this release", int16(kind)))
		return
	}
	inner := codec{buf: body, reading: true, nested: c.nested + 1}
	if inner.nested > 1 {
		c.fail(errors.New("an approved event holds another one"))
		return
	}
	b.Approved = spec.event()
	b.Approved.fields(&inner)
	if inner.err == nil && len(inner.buf) > 0 {
		inner.err = fmt.Errorf("%d bytes follow its end", len(inner.buf))
	}
	if inner.err != nil {
		c.fail(fmt.Errorf("approved event: %w", inner.err))
	}
}

func (b *Change) evolve(s *State, e *Event, effects *Effects) error {
	for _, draw := range b.Draws {
		if draw.Closes < HoldReleased || draw.Closes > HoldDispensed {
			return fmt.Errorf("hold status %d is unknown", draw.Closes)
		}
		if err := s.draw(e, draw.HoldID, draw.Lines, effects, draw.Closes); err != nil {
			return err
		}
	}
	for i := range b.Openings {
		if err := s.open(e, &b.Openings[i], effects); err != nil {
			return err
		}
	}
	for i := range b.Documents {
		if err := s.putDocument(e, b.Documents[i], effects); err != nil {
			return err
		}
	}
	if b.Approved == nil {
		return nil
	}
	approved := *e
	approved.Actor, approved.Body = b.Requester, b.Approved
	return b.Approved.evolve(s, &approved, effects)
}

// lotMaker is an event that makes or changes lots, which its moves may name.
type lotMaker interface {
	makeLots(s *State, e *Event, effects *Effects) error
}

func (b *Change) makeLots(s *State, e *Event, effects *Effects) error {
	for i := range b.Lots {
		lot := b.Lots[i]
		if _, exists := s.lots[lot.ID]; !exists {
			if err := s.addLot(e, &lot, effects); err != nil {
				return err
			}
			continue
		}
		err := s.reviseLot(e, lot.ID, effects, func(l *Lot) {
			l.LotFacts, l.Active, l.Bar, l.RecallID = lot.LotFacts, lot.Active, lot.Bar, lot.RecallID
		})
		if err != nil {
			return err
		}
	}
	if approved, ok := b.Approved.(lotMaker); ok {
		return approved.makeLots(s, e, effects)
	}
	return nil
}

// change returns an event of a command that has moved what the draft says.
func (d *draft) change(of Kind) *Change { return &Change{of: of, Moves: d.moves} }

// OwnLines is how many of the event's entries come before those of the command
// that it approved.
func (b *Change) OwnLines() int {
	lines := 0
	for i := range b.Moves {
		lines += len(b.Moves[i].Lines)
	}
	return lines
}

// ApprovedKind is the kind of the event that was approved, or zero.
func (b *Change) ApprovedKind() Kind {
	if b.Approved == nil {
		return 0
	}
	return b.Approved.kind()
}

func shelfField(c *codec, s *Shelf) { s.fields(c) }

func lotFactsField(c *codec, f *LotFacts) { f.fields(c) }
