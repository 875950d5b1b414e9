package ledger

import "strings"

func (b *ReceiveStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	found, r := s.lotItem(b.LotID, at)
	if r != nil {
		return nil, r
	}
	lot := found.lot
	if r := s.stockable(found); r != nil {
		return nil, r
	}
	if r := s.notExpired(lot, at); r != nil {
		return nil, r
	}
	quantity, r := found.units(s, b.Quantity, b.Pack)
	if r != nil {
		return nil, r
	}
	supplier, r := s.supplier(b.Supplier)
	if r != nil {
		return nil, r
	}
	shelf, barred := Shelf{Location: location.ID, Medicine: lot.Medicine}, lot.Bar != BarNone
	line, r := s.line(shelf, lot.ID, Supplier, availableOr(barred), quantity)
	if r != nil {
		return nil, r
	}
	return &StockReceived{Shelf: shelf, Lines: []Line{line}, Supplier: supplier, Reference: b.Reference, Quarantined: barred}, nil
}

// activeLotItem resolves a reference to an active lot.
func (s *State) activeLotItem(reference LotID, at Instant) (item, *Rejection) {
	found, r := s.lotItem(reference, at)
	if r == nil {
		r = found.active()
	}
	return found, r
}

func (i item) active() *Rejection {
	if i.lot.Active {
		return nil
	}
	return reject(ReasonLotInactive, "lot_id", "Lot %q is inactive.", i.lot.ID).with("lot_id", i.lot.ID)
}

// stockable refuses to put units of an inactive lot or medicine on a shelf:
// they would be out of sight.
func (s *State) stockable(found item) *Rejection {
	if r := found.active(); r != nil {
		return r
	}
	_, r := s.activeMedicine(found.medicine.ID)
	return r.of("lot_id")
}

// usable refuses the use of a lot that has expired or is barred.
func (s *State) usable(lot *Lot, at Instant) *Rejection {
	if r := s.notExpired(lot, at); r != nil {
		return r
	}
	return s.barred(lot)
}

func (s *State) notExpired(lot *Lot, at Instant) *Rejection {
	today := s.today(at)
	if lot.Expiry >= today {
		return nil
	}
	return reject(ReasonLotExpired, "lot_id", "Lot %q (%s) expired on %s; it is %s at the clinic.", lot.ID, lot.LotNumber, lot.Expiry, today).
		with("lot_id", lot.ID, "expiry", lot.Expiry, "today", today)
}

// line computes what a movement of one lot leaves behind.
func (s *State) line(shelf Shelf, lot LotID, from, to Bucket, quantity int64) (Line, *Rejection) {
	var before Balances
	if f, ok := s.shelves[shelf]; ok {
		if row := f.find(lot); row != nil {
			before = row.Balances
		}
	}
	after, ok := before.move(from, to, quantity)
	if ok {
		return Line{Lot: lot, Quantity: quantity, After: after}, nil
	}
	if from.Held() && before.Of(from) < quantity {
		r := s.shortage(shelf, lot, quantity, before.Of(from), before.Reserved)
		if from == Available {
			r.short = shortfall{shelf, quantity - before.Available}
		}
		return Line{}, r
	}
	return Line{}, reject(ReasonBalanceOverflow, "quantity", "Lot %q at location %q holds %d units; %d more exceed what a balance can be.", lot, shelf.Location, before.OnHand(), quantity).
		with("location_id", shelf.Location, "lot_id", lot, "on_hand", before.OnHand(), "requested", quantity)
}

func (s *State) shortage(shelf Shelf, lot LotID, requested, available, reserved int64) *Rejection {
	what := "medicine " + quoted(string(shelf.Medicine))
	if lot != "" {
		what = "lot " + quoted(string(lot))
	}
	r := reject(ReasonInsufficientStock, "quantity", "%d units of %s were asked for at location %q; %d are available and %d are reserved.", requested, what, shelf.Location, available, reserved).
		with("location_id", shelf.Location, "medicine_id", shelf.Medicine, "requested", requested, "available", available, "reserved", reserved)
	if lot != "" {
		r.with("lot_id", lot)
	}
	return r
}

func quoted(s string) string { return `"` + s + `"` }

// demand is a wish for units off a shelf.
type demand struct {
	shelf      Shelf
	lot        LotID // empty: any
	quantity   int64
	lastsUntil Date
}

// usable reports whether a row may serve the demand on a day: neither expired
// nor barred, and lasting long enough.
func (d demand) usable(row *stockRow, today Date) bool {
	return (d.lot == "" || row.Lot == d.lot) && row.lot.Active && row.lot.Bar == BarNone &&
		row.lot.Expiry >= today && row.lot.Expiry >= d.lastsUntil
}

// allocate serves a demand first expired, first out, by first receipt and lot
// id where the expiry is the same, splitting it over lots where one is not
// enough.
func (s *State) allocate(d demand, to Bucket, at Instant) ([]Line, *Rejection) {
	if r := s.demandable(d, at); r != nil {
		return nil, r
	}
	today, left := s.today(at), d.quantity
	var lines []Line
	var available, reserved int64
	if shelf, ok := s.shelves[d.shelf]; ok {
		for _, row := range shelf.rows {
			if !d.usable(row, today) {
				continue
			}
			available += row.Available
			reserved += row.Reserved
			take := min(left, row.Available)
			if take == 0 {
				continue
			}
			after, ok := row.move(Available, to, take)
			if !ok {
				return nil, reject(ReasonBalanceOverflow, "quantity", "The balance of lot %q would exceed what a balance can be.", row.Lot)
			}
			lines = append(lines, Line{Lot: row.Lot, Quantity: take, After: after})
			if left -= take; left == 0 {
				return lines, nil
			}
		}
	}
	r := s.shortage(d.shelf, d.lot, d.quantity, available, reserved)
	r.short = shortfall{d.shelf, left}
	return nil, r
}

// demandable judges the names in a demand.
func (s *State) demandable(d demand, at Instant) *Rejection {
	if _, r := s.activeLocation(d.shelf.Location); r != nil {
		return r
	}
	if _, r := s.activeMedicine(d.shelf.Medicine); r != nil {
		return r
	}
	if d.lot == "" {
		return nil
	}
	lot, r := s.activeLot(d.lot)
	if r != nil {
		return r
	}
	if lot.Medicine != d.shelf.Medicine {
		return reject(ReasonLotOfOtherMedicine, "lot_id", "Lot %q belongs to medicine %q, not to %q.", lot.ID, lot.Medicine, d.shelf.Medicine).
			with("lot_id", lot.ID, "medicine_id", lot.Medicine)
	}
	return s.usable(lot, at)
}

// wish is a demand as a caller spells it.
type wish struct {
	location LocationID
	medicine MedicineID
	lot      LotID
	quantity int64
	pack     string
}

// resolve turns what a caller spells into a demand.
func (s *State) resolve(w wish, at Instant) (demand, *Rejection) {
	location, r := s.activeLocation(w.location)
	if r != nil {
		return demand{}, r
	}
	found, r := s.requestedItem(w.medicine, w.lot, at)
	if r != nil {
		return demand{}, r
	}
	quantity, r := found.units(s, w.quantity, w.pack)
	return demand{shelf: Shelf{location.ID, found.medicine.ID}, lot: found.lotID(), quantity: quantity}, r
}

func (b *ReserveStock) demand(s *State, at Instant) (demand, *Rejection) {
	d, r := s.resolve(wish{b.LocationID, b.MedicineID, b.LotID, b.Quantity, b.Pack}, at)
	d.lastsUntil = b.LastsUntil
	return d, r
}

func (b *IssueStock) demand(s *State, at Instant) (demand, *Rejection) {
	return s.resolve(wish{b.LocationID, b.MedicineID, b.LotID, b.Quantity, b.Pack}, at)
}

func (b *ReserveStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	if b.Deadline <= at {
		return nil, reject(ReasonDeadlinePassed, "deadline", "The deadline is %s, and it is %s now.", b.Deadline, at).
			with("deadline", b.Deadline, "now", at)
	}
	d, r := b.demand(s, at)
	if r != nil {
		return nil, r
	}
	lines, r := s.allocate(d, Reserved, at)
	if r != nil {
		return nil, r
	}
	return &StockReserved{
		Shelf: d.shelf, Lines: lines, ReasonCode: b.ReasonCode, Deadline: b.Deadline,
		HoldID: HoldID(deriveID(holdPrefix, s.tag, s.head.Sequence+1, 0)),
	}, nil
}

// knownHold finds an open hold.
func (s *State) knownHold(id HoldID) (*openHold, *Rejection) {
	_, hold := s.openHold(id)
	if hold == nil {
		return nil, reject(ReasonHoldNotFound, "hold_id", "Clinic %q has no open hold %q.", s.id, id).with("hold_id", id)
	}
	if hold.transfer != "" {
		return nil, reject(ReasonHoldOfTransfer, "hold_id", "Hold %q belongs to transfer %q.", id, hold.transfer).
			with("hold_id", id, "transfer_id", hold.transfer)
	}
	if strings.HasPrefix(hold.owner, dispensingPrefix) {
		return nil, reject(ReasonHoldOfDispensing, "hold_id", "Hold %q belongs to dispensing %q.", id, hold.owner).
			with("hold_id", id, "dispensing_id", hold.owner)
	}
	return hold, nil
}

// take moves units out of a hold, in the order of its lots; zero takes all.
func (s *State) take(hold *openHold, to Bucket, quantity int64) ([]Line, *Rejection) {
	var held int64
	for _, line := range hold.lines {
		held += line.quantity
	}
	if quantity == 0 {
		quantity = held
	}
	if quantity > held {
		return nil, reject(ReasonHoldTooSmall, "quantity", "The hold has %d units left; %d were asked for.", held, quantity).
			with("held", held, "requested", quantity)
	}
	var lines []Line
	for _, line := range hold.lines {
		units := min(quantity, line.quantity)
		if units == 0 {
			continue
		}
		after, ok := line.row.move(Reserved, to, units)
		if !ok {
			// Reserved units always cover the holds, and a release only moves
			// units within a shelf: this state was not made by Evolve.
			return nil, s.shortage(hold.shelf.Shelf, line.row.Lot, units, line.row.Available, line.row.Reserved)
		}
		lines = append(lines, Line{Lot: line.row.Lot, Quantity: units, After: after})
		quantity -= units
	}
	return lines, nil
}

func (b *ReleaseStock) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	hold, r := s.knownHold(b.HoldID)
	if r != nil {
		return nil, r
	}
	lines, r := s.take(hold, Available, b.Quantity)
	if r != nil {
		return nil, r
	}
	return &StockReleased{Shelf: hold.shelf.Shelf, HoldID: b.HoldID, Lines: lines, ReasonCode: b.ReasonCode}, nil
}

func (b *ExpireReservation) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	hold, r := s.knownHold(b.HoldID)
	if r != nil && r.Reason == ReasonHoldOfDispensing {
		// What nobody collected goes back to the shelf like everything else.
		_, hold = s.openHold(b.HoldID)
		r = nil
	}
	if r != nil {
		return nil, r
	}
	if hold.deadline >= at {
		return nil, reject(ReasonHoldNotDue, "hold_id", "Hold %q lasts until %s; it is %s now.", b.HoldID, hold.deadline, at).
			with("hold_id", b.HoldID, "deadline", hold.deadline, "now", at)
	}
	lines, r := s.take(hold, Available, 0)
	if r != nil {
		return nil, r
	}
	return &ReservationExpired{Shelf: hold.shelf.Shelf, HoldID: b.HoldID, Lines: lines}, nil
}

func (b *IssueStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	event := &StockIssued{HoldID: b.HoldID, Recipient: b.Recipient, ReasonCode: b.ReasonCode}
	if b.HoldID == "" {
		d, r := b.demand(s, at)
		if r != nil {
			return nil, r
		}
		lines, r := s.allocate(d, Issued, at)
		event.Shelf, event.Lines = d.shelf, lines
		return event, r
	}
	hold, r := s.knownHold(b.HoldID)
	if r != nil {
		return nil, r
	}
	if hold.owner != "" {
		return nil, reject(ReasonHoldOfPrescription, "hold_id", "Hold %q belongs to prescription %q.", b.HoldID, hold.owner).
			with("hold_id", b.HoldID, "prescription_id", hold.owner)
	}
	if hold.deadline < at {
		return nil, reject(ReasonHoldOverdue, "hold_id", "Hold %q lasted until %s; it is %s now.", b.HoldID, hold.deadline, at).
			with("hold_id", b.HoldID, "deadline", hold.deadline, "now", at)
	}
	quantity, r := item{medicine: s.medicines[hold.shelf.Medicine]}.units(s, b.Quantity, b.Pack)
	if r != nil {
		return nil, r
	}
	lines, r := s.take(hold, Issued, quantity)
	if r != nil {
		return nil, r
	}
	for _, line := range lines {
		if r := s.usable(s.lots[line.Lot], at); r != nil {
			return nil, r
		}
	}
	event.Shelf, event.Lines = hold.shelf.Shelf, lines
	return event, nil
}

func (b *AdjustStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	from, to := Available, Adjustment
	if b.Direction == Increase {
		from, to = Adjustment, Available
	}
	shelf, lines, r := s.moveLot(lotMove{b.LocationID, b.LotID, from, to, b.Quantity, b.Pack}, at)
	return &StockAdjusted{Shelf: shelf, Direction: b.Direction, Lines: lines, ReasonCode: b.ReasonCode}, r
}

func (b *WriteOffStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	shelf, lines, r := s.moveLot(lotMove{b.LocationID, b.LotID, availableOr(b.FromQuarantine), Wasted, b.Quantity, b.Pack}, at)
	return &StockWrittenOff{Shelf: shelf, Lines: lines, ReasonCode: b.ReasonCode, Reference: b.Reference, FromQuarantine: b.FromQuarantine}, r
}

func (b *ReturnToSupplier) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	supplier, r := s.supplier(b.Supplier)
	if r != nil {
		return nil, r
	}
	shelf, lines, r := s.moveLot(lotMove{b.LocationID, b.LotID, availableOr(b.FromQuarantine), Supplier, b.Quantity, b.Pack}, at)
	return &StockReturnedToSupplier{
		Shelf: shelf, Lines: lines, ReasonCode: b.ReasonCode, Supplier: supplier, Reference: b.Reference, FromQuarantine: b.FromQuarantine,
	}, r
}

// lotMove is a movement of units of one named lot.
type lotMove struct {
	location LocationID
	lot      LotID
	from, to Bucket
	quantity int64
	pack     string
}

// moveLot moves units of one named lot, whether or not it has expired.
func (s *State) moveLot(m lotMove, at Instant) (Shelf, []Line, *Rejection) {
	location, r := s.activeLocation(m.location)
	if r != nil {
		return Shelf{}, nil, r
	}
	found, r := s.activeLotItem(m.lot, at)
	if r != nil {
		return Shelf{}, nil, r
	}
	if m.to.Held() {
		if r := s.stockable(found); r != nil {
			return Shelf{}, nil, r
		}
	}
	quantity, r := found.units(s, m.quantity, m.pack)
	if r != nil {
		return Shelf{}, nil, r
	}
	shelf := Shelf{Location: location.ID, Medicine: found.lot.Medicine}
	line, r := s.line(shelf, found.lot.ID, m.from, m.to, quantity)
	return shelf, []Line{line}, r
}
