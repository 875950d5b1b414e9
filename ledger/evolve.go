package ledger

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Effects are what one event changed: the entries it posted and the documents
// as they are after it. Stock rows follow from the entries.
type Effects struct {
	Entries   []Entry
	Stock     []*Stock
	Holds     []*Hold
	Clinic    *Clinic
	Location  *Location
	Medicine  *Medicine
	Lots      []*Lot
	Documents []*Document
}

// ErrCorrupt is wrapped by every error of [Evolve]: the record does not follow
// from the journal before it.
var ErrCorrupt = errors.New("the journal is corrupt")

// Evolve applies a record to the state of the journal before it. It trusts
// nothing: a gap in the sequence, a broken hash, time that runs back, or a
// balance other than the one recorded is an error, and changes nothing.
func Evolve(s *State, r Record) (Effects, error) {
	e := &r.Event
	if err := follows(s, r); err != nil {
		return Effects{}, corrupt(e, err)
	}
	mark := s.Mark()
	var effects Effects
	if err := s.apply(e, &effects); err != nil {
		s.Rollback(mark)
		return Effects{}, corrupt(e, err)
	}
	change(s, &s.head, Head{Epoch: s.head.Epoch, Sequence: e.Sequence, Hash: r.Hash, At: e.At})
	return effects, nil
}

// apply makes the event's lots, posts its entries and changes its documents.
func (s *State) apply(e *Event, effects *Effects) error {
	if body, ok := e.Body.(lotMaker); ok {
		if err := body.makeLots(s, e, effects); err != nil {
			return err
		}
	}
	if body, ok := e.Body.(mover); ok {
		if err := s.post(e, body.moves(), effects); err != nil {
			return err
		}
	}
	if err := e.Body.evolve(s, e, effects); err != nil {
		return err
	}
	if e.ReviewBy != 0 {
		return s.openReview(e, effects)
	}
	return nil
}

func corrupt(e *Event, err error) error {
	return fmt.Errorf("%w: clinic %s, sequence %d, %s: %w", ErrCorrupt, e.Clinic, e.Sequence, e.Kind(), err)
}

func follows(s *State, r Record) error {
	e := &r.Event
	switch {
	case e.Clinic != s.id:
		return fmt.Errorf("the event belongs to clinic %s", e.Clinic)
	case e.Sequence != s.head.Sequence+1:
		return fmt.Errorf("the sequence before it is %d", s.head.Sequence)
	case e.At < s.head.At:
		return fmt.Errorf("it was recorded at %s, before %s", e.At, s.head.At)
	case Chain(s.head.Hash, r.Stored) != r.Hash:
		return errors.New("its hash does not follow from its bytes and the hash before it")
	case s.clinic == nil && e.Kind() != KindCreateClinic:
		return errors.New("the journal does not begin with the clinic's creation")
	}
	return nil
}

func (b *ClinicCreated) evolve(s *State, e *Event, effects *Effects) error {
	if s.clinic != nil {
		return errors.New("the clinic exists")
	}
	clinic := &Clinic{Name: b.Name, TimeZone: b.TimeZone, BackdatingDays: b.BackdatingDays, Active: true, LastSequence: e.Sequence}
	s.setClinic(clinic, effects)
	return nil
}

func (s *State) setClinic(clinic *Clinic, effects *Effects) {
	change(s, &s.clinic, clinic)
	s.setZone(clinic.TimeZone)
	effects.Clinic = clinic
}

func (b *ClinicUpdated) evolve(s *State, e *Event, effects *Effects) error {
	s.setClinic(&Clinic{Name: b.Name, TimeZone: b.TimeZone, BackdatingDays: b.BackdatingDays, Active: b.Active, LastSequence: e.Sequence}, effects)
	return nil
}

func (b *ClinicDeactivated) evolve(s *State, e *Event, effects *Effects) error {
	clinic := *s.clinic
	clinic.Active, clinic.LastSequence = false, e.Sequence
	s.setClinic(&clinic, effects)
	return nil
}

func (b *LocationCreated) evolve(s *State, e *Event, effects *Effects) error {
	if _, exists := s.locations[b.LocationID]; exists {
		return fmt.Errorf("location %s exists", b.LocationID)
	}
	location := &Location{ID: b.LocationID, Name: b.Name, Kind: b.LocationKind, Active: true, LastSequence: e.Sequence}
	put(s, s.locations, b.LocationID, location)
	put(s, s.byIdentity, locationIdentity(b.Name), string(b.LocationID))
	effects.Location = location
	return nil
}

// revise replaces a document by a changed copy, so that what others read of
// the old one stays as it was.
func revise[K ~string, V any](s *State, documents map[K]*V, id K, edit func(*V)) (*V, error) {
	old, ok := documents[id]
	if !ok {
		return nil, fmt.Errorf("%s is unknown", id)
	}
	revised := *old
	edit(&revised)
	put(s, documents, id, &revised)
	return &revised, nil
}

func (b *LocationUpdated) evolve(s *State, e *Event, effects *Effects) error {
	location, err := revise(s, s.locations, b.LocationID, func(l *Location) {
		s.rename(locationIdentity(l.Name), locationIdentity(b.Name), string(l.ID))
		l.Name, l.Kind, l.Active, l.LastSequence = b.Name, b.LocationKind, b.Active, e.Sequence
	})
	effects.Location = location
	return err
}

func (b *LocationDeactivated) evolve(s *State, e *Event, effects *Effects) error {
	location, err := revise(s, s.locations, b.LocationID, func(l *Location) {
		l.Active, l.LastSequence = false, e.Sequence
	})
	effects.Location = location
	return err
}

func (b *MedicineAdded) evolve(s *State, e *Event, effects *Effects) error {
	if _, exists := s.medicines[b.MedicineID]; exists {
		return fmt.Errorf("medicine %s exists", b.MedicineID)
	}
	medicine := &Medicine{ID: b.MedicineID, MedicineFacts: b.MedicineFacts, Active: true, LastSequence: e.Sequence}
	put(s, s.medicines, b.MedicineID, medicine)
	put(s, s.byIdentity, medicineIdentity(b.MedicineFacts), string(b.MedicineID))
	effects.Medicine = medicine
	return nil
}

func (b *MedicineUpdated) evolve(s *State, e *Event, effects *Effects) error {
	medicine, err := revise(s, s.medicines, b.MedicineID, func(m *Medicine) {
		s.rename(medicineIdentity(m.MedicineFacts), medicineIdentity(b.MedicineFacts), string(m.ID))
		m.MedicineFacts, m.Active, m.LastSequence = b.MedicineFacts, b.Active, e.Sequence
	})
	effects.Medicine = medicine
	return err
}

func (b *MedicineDeactivated) evolve(s *State, e *Event, effects *Effects) error {
	medicine, err := revise(s, s.medicines, b.MedicineID, func(m *Medicine) {
		m.Active, m.LastSequence = false, e.Sequence
	})
	effects.Medicine = medicine
	return err
}

func (b *LotRegistered) evolve(s *State, e *Event, effects *Effects) error {
	lot := &Lot{ID: b.LotID, Medicine: b.MedicineID, LotFacts: b.LotFacts, Active: true}
	if b.RecallID != "" {
		lot.Bar, lot.RecallID = BarRecalled, b.RecallID
	}
	return s.addLot(e, lot, effects)
}

func (s *State) addLot(e *Event, lot *Lot, effects *Effects) error {
	if _, exists := s.lots[lot.ID]; exists {
		return fmt.Errorf("lot %s exists", lot.ID)
	}
	if _, known := s.medicines[lot.Medicine]; !known {
		return fmt.Errorf("lot %s is of medicine %s, which is unknown", lot.ID, lot.Medicine)
	}
	lot.RegisteredSequence, lot.LastSequence = e.Sequence, e.Sequence
	put(s, s.lots, lot.ID, lot)
	s.nameLot(lot)
	document := *lot
	effects.Lots = append(effects.Lots, &document)
	return nil
}

// reviseLot changes a lot in place, because stock rows point to it.
func (s *State) reviseLot(e *Event, id LotID, effects *Effects, edit func(*Lot)) error {
	lot, ok := s.lots[id]
	if !ok {
		return fmt.Errorf("lot %s is unknown", id)
	}
	before := *lot
	after := before
	edit(&after)
	after.LastSequence = e.Sequence
	named := after.LotFacts
	if named.Expiry = before.Expiry; named != before.LotFacts {
		s.unnameLot(lot)
	}
	change(s, lot, after)
	s.nameLot(lot)
	if before.Expiry != lot.Expiry {
		s.resort(lot.Medicine)
	}
	effects.Lots = append(effects.Lots, &after)
	return nil
}

func (b *LotUpdated) evolve(s *State, e *Event, effects *Effects) error {
	err := s.reviseLot(e, b.LotID, effects, func(l *Lot) { l.LotFacts, l.Active = b.LotFacts, b.Active })
	if err != nil || b.RecallID == "" {
		return err
	}
	return s.fallUnder(e, b.RecallID, b.LotID, effects)
}

// fallUnder bars a lot that was registered, and what was made from it, by a
// recall that began before. Their stock has to be followed up.
func (s *State) fallUnder(e *Event, id RecallID, lot LotID, effects *Effects) error {
	recall := document[Recall](s, DocumentRecall, string(id))
	if recall == nil {
		return fmt.Errorf("recall %s is not open", id)
	}
	for _, l := range s.descendants([]*Lot{s.lots[lot]}) {
		if l.Bar == BarRecalled {
			continue
		}
		if err := s.reviseLot(e, l.ID, effects, func(l *Lot) { l.Bar, l.RecallID = BarRecalled, id }); err != nil {
			return err
		}
	}
	next := *recall
	next.FollowedUp = false
	return s.putDocument(e, &next, effects)
}

func (b *LotDeactivated) evolve(s *State, e *Event, effects *Effects) error {
	return s.reviseLot(e, b.LotID, effects, func(l *Lot) { l.Active = false })
}

// post moves each line's quantity between buckets and checks that the balances
// come out as recorded.
func (s *State) post(e *Event, moves []Move, effects *Effects) error {
	effects.Entries = entriesOf(e.Sequence, moves)
	effects.Stock = make([]*Stock, 0, len(effects.Entries))
	for i := range moves {
		m := &moves[i]
		if !m.From.known() || !m.To.known() || m.From == m.To {
			return fmt.Errorf("a move goes from %s to %s", m.From, m.To)
		}
		shelf := s.shelf(m.Shelf)
		for _, line := range m.Lines {
			stock, err := s.postLine(e, shelf, m, line)
			if err != nil {
				return err
			}
			effects.Stock = append(effects.Stock, stock)
		}
	}
	return nil
}

func (s *State) postLine(e *Event, shelf *shelfState, m *Move, line Line) (*Stock, error) {
	lot, ok := s.lots[line.Lot]
	if !ok || lot.Medicine != m.Medicine {
		return nil, fmt.Errorf("lot %s of medicine %s is unknown", line.Lot, m.Medicine)
	}
	row := s.row(shelf, lot)
	after, ok := row.move(m.From, m.To, line.Quantity)
	if !ok || line.Quantity <= 0 || after != line.After {
		return nil, fmt.Errorf("location %s, lot %s: moving %d from %s to %s leaves %+v, and %+v is recorded", m.Location, line.Lot, line.Quantity, m.From, m.To, after, line.After)
	}
	stock := row.Stock
	stock.Balances, stock.LastSequence = after, e.Sequence
	change(s, &row.Stock, stock)
	return &row.Stock, nil
}

func (b *StockReceived) evolve(*State, *Event, *Effects) error { return nil }

func (b *StockAdjusted) evolve(*State, *Event, *Effects) error {
	if b.Direction != Increase && b.Direction != Decrease {
		return fmt.Errorf("direction %d is unknown", b.Direction)
	}
	return nil
}

func (b *StockWrittenOff) evolve(*State, *Event, *Effects) error { return nil }

func (b *StockReturnedToSupplier) evolve(*State, *Event, *Effects) error { return nil }

func (b *StockReserved) evolve(s *State, e *Event, effects *Effects) error {
	return s.open(e, &HoldOpening{Shelf: b.Shelf, HoldID: b.HoldID, Lines: b.Lines, ReasonCode: b.ReasonCode, Deadline: b.Deadline}, effects)
}

// open makes a hold of units that have just been reserved.
func (s *State) open(e *Event, opening *HoldOpening, effects *Effects) error {
	key, ok := parseHoldID(opening.HoldID, s.tag)
	if !ok || key.sequence != e.Sequence || s.holds[key] != nil {
		return fmt.Errorf("hold id %s was not made by this command", opening.HoldID)
	}
	shelf := s.shelf(opening.Shelf)
	hold := &openHold{
		shelf: shelf, reasonCode: opening.ReasonCode, actor: e.Actor, deadline: opening.Deadline,
		last: e.Sequence, lines: make([]openLine, len(opening.Lines)),
	}
	if strings.HasPrefix(opening.Owner, transferPrefix) {
		hold.transfer = TransferID(opening.Owner)
	} else {
		hold.owner = opening.Owner
	}
	for i, line := range opening.Lines {
		row := shelf.find(line.Lot)
		if row == nil {
			return fmt.Errorf("hold %s holds lot %s, which is not at location %s", opening.HoldID, line.Lot, opening.Location)
		}
		hold.lines[i] = openLine{row: row, quantity: line.Quantity, reserved: line.Quantity}
	}
	put(s, s.holds, key, hold)
	heap.Push(&shelf.deadlines, deadlineItem{deadline: opening.Deadline, key: key})
	effects.Holds = append(effects.Holds, s.holdDocument(key, hold))
	return nil
}

// draw takes lines out of a hold and closes it when nothing is left.
func (s *State) draw(e *Event, id HoldID, lines []Line, effects *Effects, closes HoldStatus) error {
	key, old := s.openHold(id)
	if old == nil {
		return fmt.Errorf("hold %s is not open", id)
	}
	hold := *old
	hold.last, hold.lines = e.Sequence, slices.Clone(old.lines)
	for _, line := range lines {
		at := slices.IndexFunc(hold.lines, func(l openLine) bool { return l.row.Lot == line.Lot })
		if at < 0 || hold.lines[at].quantity < line.Quantity {
			return fmt.Errorf("hold %s does not hold %d of lot %s", id, line.Quantity, line.Lot)
		}
		hold.lines[at].quantity -= line.Quantity
	}
	document := s.holdDocument(key, &hold)
	effects.Holds = append(effects.Holds, document)
	if slices.ContainsFunc(hold.lines, func(l openLine) bool { return l.quantity > 0 }) {
		put(s, s.holds, key, &hold)
		return nil
	}
	remove(s, s.holds, key)
	document.Status = closes
	return nil
}

func (b *StockReleased) evolve(s *State, e *Event, effects *Effects) error {
	return s.draw(e, b.HoldID, b.Lines, effects, HoldReleased)
}

func (b *ReservationExpired) evolve(s *State, e *Event, effects *Effects) error {
	return s.draw(e, b.HoldID, b.Lines, effects, HoldExpired)
}

func (b *StockIssued) evolve(s *State, e *Event, effects *Effects) error {
	if b.HoldID == "" {
		return nil
	}
	return s.draw(e, b.HoldID, b.Lines, effects, HoldIssued)
}
