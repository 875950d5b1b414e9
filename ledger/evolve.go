package ledger

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"
)

// Effects are what one event changed: the entries it posted and the documents
// as they are after it. Stock rows follow from the entries.
type Effects struct {
	Entries  []Entry
	Stock    []*Stock
	Hold     *Hold
	Clinic   *Clinic
	Location *Location
	Medicine *Medicine
	Lot      *Lot
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
	effects, err := e.Body.evolve(s, e)
	if err != nil {
		s.Rollback(mark)
		return Effects{}, corrupt(e, err)
	}
	change(s, &s.head, Head{Epoch: s.head.Epoch, Sequence: e.Sequence, Hash: r.Hash, At: e.At})
	return effects, nil
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
	case chain(s.head.Hash, r.Stored) != r.Hash:
		return errors.New("its hash does not follow from its bytes and the hash before it")
	case s.clinic == nil && e.Kind() != KindCreateClinic:
		return errors.New("the journal does not begin with the clinic's creation")
	}
	return nil
}

func (b *ClinicCreated) evolve(s *State, e *Event) (Effects, error) {
	if s.clinic != nil {
		return Effects{}, errors.New("the clinic exists")
	}
	clinic := &Clinic{Name: b.Name, TimeZone: b.TimeZone, BackdatingDays: b.BackdatingDays, Active: true, LastSequence: e.Sequence}
	return s.setClinic(clinic), nil
}

func (s *State) setClinic(clinic *Clinic) Effects {
	change(s, &s.clinic, clinic)
	s.setZone(clinic.TimeZone)
	return Effects{Clinic: clinic}
}

func (b *ClinicUpdated) evolve(s *State, e *Event) (Effects, error) {
	return s.setClinic(&Clinic{Name: b.Name, TimeZone: b.TimeZone, BackdatingDays: b.BackdatingDays, Active: b.Active, LastSequence: e.Sequence}), nil
}

func (b *ClinicDeactivated) evolve(s *State, e *Event) (Effects, error) {
	clinic := *s.clinic
	clinic.Active, clinic.LastSequence = false, e.Sequence
	return s.setClinic(&clinic), nil
}

func (b *LocationCreated) evolve(s *State, e *Event) (Effects, error) {
	if _, exists := s.locations[b.LocationID]; exists {
		return Effects{}, fmt.Errorf("location %s exists", b.LocationID)
	}
	location := &Location{ID: b.LocationID, Name: b.Name, Kind: b.LocationKind, Active: true, LastSequence: e.Sequence}
	put(s, s.locations, b.LocationID, location)
	put(s, s.byIdentity, locationIdentity(b.Name), string(b.LocationID))
	return Effects{Location: location}, nil
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

func (b *LocationUpdated) evolve(s *State, e *Event) (Effects, error) {
	location, err := revise(s, s.locations, b.LocationID, func(l *Location) {
		s.rename(locationIdentity(l.Name), locationIdentity(b.Name), string(l.ID))
		l.Name, l.Kind, l.Active, l.LastSequence = b.Name, b.LocationKind, b.Active, e.Sequence
	})
	return Effects{Location: location}, err
}

func (b *LocationDeactivated) evolve(s *State, e *Event) (Effects, error) {
	location, err := revise(s, s.locations, b.LocationID, func(l *Location) {
		l.Active, l.LastSequence = false, e.Sequence
	})
	return Effects{Location: location}, err
}

func (b *MedicineAdded) evolve(s *State, e *Event) (Effects, error) {
	if _, exists := s.medicines[b.MedicineID]; exists {
		return Effects{}, fmt.Errorf("medicine %s exists", b.MedicineID)
	}
	medicine := &Medicine{ID: b.MedicineID, MedicineFacts: b.MedicineFacts, Active: true, LastSequence: e.Sequence}
	put(s, s.medicines, b.MedicineID, medicine)
	put(s, s.byIdentity, medicineIdentity(b.MedicineFacts), string(b.MedicineID))
	return Effects{Medicine: medicine}, nil
}

func (b *MedicineUpdated) evolve(s *State, e *Event) (Effects, error) {
	medicine, err := revise(s, s.medicines, b.MedicineID, func(m *Medicine) {
		s.rename(medicineIdentity(m.MedicineFacts), medicineIdentity(b.MedicineFacts), string(m.ID))
		m.MedicineFacts, m.Active, m.LastSequence = b.MedicineFacts, b.Active, e.Sequence
	})
	return Effects{Medicine: medicine}, err
}

func (b *MedicineDeactivated) evolve(s *State, e *Event) (Effects, error) {
	medicine, err := revise(s, s.medicines, b.MedicineID, func(m *Medicine) {
		m.Active, m.LastSequence = false, e.Sequence
	})
	return Effects{Medicine: medicine}, err
}

func (b *LotRegistered) evolve(s *State, e *Event) (Effects, error) {
	if _, exists := s.lots[b.LotID]; exists {
		return Effects{}, fmt.Errorf("lot %s exists", b.LotID)
	}
	lot := &Lot{ID: b.LotID, Medicine: b.MedicineID, LotFacts: b.LotFacts, Active: true, RegisteredSequence: e.Sequence, LastSequence: e.Sequence}
	put(s, s.lots, b.LotID, lot)
	put(s, s.byIdentity, lotIdentity(lot.Medicine, b.LotFacts), string(b.LotID))
	return Effects{Lot: lot}, nil
}

// reviseLot changes a lot in place, because stock rows point to it.
func (s *State) reviseLot(id LotID, edit func(*Lot)) (Effects, error) {
	lot, ok := s.lots[id]
	if !ok {
		return Effects{}, fmt.Errorf("lot %s is unknown", id)
	}
	before := *lot
	after := before
	edit(&after)
	change(s, lot, after)
	s.rename(lotIdentity(lot.Medicine, before.LotFacts), lotIdentity(lot.Medicine, lot.LotFacts), string(id))
	if before.Expiry != lot.Expiry {
		s.resort(lot.Medicine)
	}
	return Effects{Lot: &after}, nil
}

func (b *LotUpdated) evolve(s *State, e *Event) (Effects, error) {
	return s.reviseLot(b.LotID, func(l *Lot) {
		l.LotFacts, l.Active, l.LastSequence = b.LotFacts, b.Active, e.Sequence
	})
}

func (b *LotDeactivated) evolve(s *State, e *Event) (Effects, error) {
	return s.reviseLot(b.LotID, func(l *Lot) { l.Active, l.LastSequence = false, e.Sequence })
}

// post moves each line's quantity between buckets and checks that the balances
// come out as recorded.
func (s *State) post(e *Event, m movement) (Effects, error) {
	effects := Effects{Entries: EntriesOf(*e), Stock: make([]*Stock, len(m.lines))}
	key, shelf := m.shelf, s.shelf(m.shelf)
	for i, line := range m.lines {
		lot, ok := s.lots[line.Lot]
		if !ok || lot.Medicine != key.Medicine {
			return effects, fmt.Errorf("lot %s of medicine %s is unknown", line.Lot, key.Medicine)
		}
		row := s.row(shelf, lot)
		after, ok := row.move(m.from, m.to, line.Quantity)
		if !ok || line.Quantity <= 0 || after != line.After {
			return effects, fmt.Errorf("location %s, lot %s: moving %d from %s to %s leaves %+v, and %+v is recorded", key.Location, line.Lot, line.Quantity, m.from, m.to, after, line.After)
		}
		stock := row.Stock
		stock.Balances, stock.LastSequence = after, e.Sequence
		change(s, &row.Stock, stock)
		effects.Stock[i] = &row.Stock
	}
	return effects, nil
}

func (b *StockReceived) evolve(s *State, e *Event) (Effects, error) {
	return s.post(e, b.movement())
}

func (b *StockAdjusted) evolve(s *State, e *Event) (Effects, error) {
	if b.Direction != Increase && b.Direction != Decrease {
		return Effects{}, fmt.Errorf("direction %d is unknown", b.Direction)
	}
	return s.post(e, b.movement())
}

func (b *StockWrittenOff) evolve(s *State, e *Event) (Effects, error) {
	return s.post(e, b.movement())
}

func (b *StockReturnedToSupplier) evolve(s *State, e *Event) (Effects, error) {
	return s.post(e, b.movement())
}

func (b *StockReserved) evolve(s *State, e *Event) (Effects, error) {
	effects, err := s.post(e, b.movement())
	if err != nil {
		return effects, err
	}
	key, ok := parseHoldID(b.HoldID, s.tag)
	if !ok || key.sequence != e.Sequence || s.holds[key] != nil {
		return effects, fmt.Errorf("hold id %s was not made by this command", b.HoldID)
	}
	shelf := s.shelf(b.Shelf)
	hold := &openHold{shelf: shelf, reasonCode: b.ReasonCode, actor: e.Actor, deadline: b.Deadline, last: e.Sequence, lines: make([]openLine, len(b.Lines))}
	for i, line := range b.Lines {
		hold.lines[i] = openLine{row: shelf.find(line.Lot), quantity: line.Quantity, reserved: line.Quantity}
	}
	put(s, s.holds, key, hold)
	heap.Push(&shelf.deadlines, deadlineItem{deadline: b.Deadline, key: key})
	effects.Hold = s.holdDocument(key, hold)
	return effects, nil
}

// draw takes lines out of a hold and closes it when nothing is left.
func (s *State) draw(e *Event, id HoldID, lines []Line, effects Effects, closes HoldStatus) (Effects, error) {
	key, old := s.openHold(id)
	if old == nil {
		return effects, fmt.Errorf("hold %s is not open", id)
	}
	hold := *old
	hold.last, hold.lines = e.Sequence, slices.Clone(old.lines)
	for _, line := range lines {
		at := slices.IndexFunc(hold.lines, func(l openLine) bool { return l.row.Lot == line.Lot })
		if at < 0 || hold.lines[at].quantity < line.Quantity {
			return effects, fmt.Errorf("hold %s does not hold %d of lot %s", id, line.Quantity, line.Lot)
		}
		hold.lines[at].quantity -= line.Quantity
	}
	effects.Hold = s.holdDocument(key, &hold)
	if slices.ContainsFunc(hold.lines, func(l openLine) bool { return l.quantity > 0 }) {
		put(s, s.holds, key, &hold)
		return effects, nil
	}
	remove(s, s.holds, key)
	effects.Hold.Status = closes
	return effects, nil
}

func (b *StockReleased) evolve(s *State, e *Event) (Effects, error) {
	effects, err := s.post(e, b.movement())
	if err != nil {
		return effects, err
	}
	return s.draw(e, b.HoldID, b.Lines, effects, HoldReleased)
}

func (b *ReservationExpired) evolve(s *State, e *Event) (Effects, error) {
	effects, err := s.post(e, b.movement())
	if err != nil {
		return effects, err
	}
	return s.draw(e, b.HoldID, b.Lines, effects, HoldExpired)
}

func (b *StockIssued) evolve(s *State, e *Event) (Effects, error) {
	effects, err := s.post(e, b.movement())
	if err != nil || b.HoldID == "" {
		return effects, err
	}
	return s.draw(e, b.HoldID, b.Lines, effects, HoldIssued)
}
