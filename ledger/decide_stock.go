package ledger

func (b *ReceiveStock) decide(s *State, at Instant) (EventBody, *Rejection) {
	if _, r := s.activeLocation(b.LocationID); r != nil {
		return nil, r
	}
	lot, r := s.activeLot(b.LotID)
	if r != nil {
		return nil, r
	}
	if _, r := s.activeMedicine(lot.Medicine); r != nil {
		return nil, r
	}
	if r := s.notExpired(lot, at); r != nil {
		return nil, r
	}
	shelf := Shelf{Location: b.LocationID, Medicine: lot.Medicine}
	line, r := s.line(shelf, lot.ID, Supplier, Available, b.Quantity)
	if r != nil {
		return nil, r
	}
	return &StockReceived{Shelf: shelf, Lines: []Line{line}, Supplier: b.Supplier, Reference: b.Reference}, nil
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
		return Line{}, s.shortage(shelf, lot, quantity, before.Of(from), before.Reserved)
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
	return (d.lot == "" || row.Lot == d.lot) && row.lot.Active &&
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
	return nil, s.shortage(d.shelf, d.lot, d.quantity, available, reserved)
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
	return s.notExpired(lot, at)
}

func (b *ReserveStock) demand() demand {
	return demand{Shelf{b.LocationID, b.MedicineID}, b.LotID, b.Quantity, b.LastsUntil}
}

func (b *IssueStock) demand() demand {
	return demand{shelf: Shelf{b.LocationID, b.MedicineID}, lot: b.LotID, quantity: b.Quantity}
}

func (b *ReserveStock) decide(s *State, at Instant) (EventBody, *Rejection) {
	if b.Deadline <= at {
		return nil, reject(ReasonDeadlinePassed, "deadline", "The deadline is %s, and it is %s now.", b.Deadline, at).
			with("deadline", b.Deadline, "now", at)
	}
	d := b.demand()
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

func (b *ReleaseStock) decide(s *State, _ Instant) (EventBody, *Rejection) {
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

func (b *ExpireReservation) decide(s *State, at Instant) (EventBody, *Rejection) {
	hold, r := s.knownHold(b.HoldID)
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

func (b *IssueStock) decide(s *State, at Instant) (EventBody, *Rejection) {
	event := &StockIssued{HoldID: b.HoldID, Recipient: b.Recipient, ReasonCode: b.ReasonCode}
	if b.HoldID == "" {
		d := b.demand()
		lines, r := s.allocate(d, Issued, at)
		event.Shelf, event.Lines = d.shelf, lines
		return event, r
	}
	hold, r := s.knownHold(b.HoldID)
	if r != nil {
		return nil, r
	}
	if hold.deadline < at {
		return nil, reject(ReasonHoldOverdue, "hold_id", "Hold %q lasted until %s; it is %s now.", b.HoldID, hold.deadline, at).
			with("hold_id", b.HoldID, "deadline", hold.deadline, "now", at)
	}
	lines, r := s.take(hold, Issued, b.Quantity)
	if r != nil {
		return nil, r
	}
	for _, line := range lines {
		if r := s.notExpired(s.lots[line.Lot], at); r != nil {
			return nil, r
		}
	}
	event.Shelf, event.Lines = hold.shelf.Shelf, lines
	return event, nil
}

func (b *AdjustStock) decide(s *State, _ Instant) (EventBody, *Rejection) {
	from, to := Available, Adjustment
	if b.Direction == Increase {
		from, to = Adjustment, Available
	}
	shelf, lines, r := s.moveLot(b.LocationID, b.LotID, from, to, b.Quantity)
	return &StockAdjusted{Shelf: shelf, Direction: b.Direction, Lines: lines, ReasonCode: b.ReasonCode}, r
}

func (b *WriteOffStock) decide(s *State, _ Instant) (EventBody, *Rejection) {
	shelf, lines, r := s.moveLot(b.LocationID, b.LotID, Available, Wasted, b.Quantity)
	return &StockWrittenOff{Shelf: shelf, Lines: lines, ReasonCode: b.ReasonCode, Reference: b.Reference}, r
}

func (b *ReturnToSupplier) decide(s *State, _ Instant) (EventBody, *Rejection) {
	shelf, lines, r := s.moveLot(b.LocationID, b.LotID, Available, Supplier, b.Quantity)
	return &StockReturnedToSupplier{Shelf: shelf, Lines: lines, ReasonCode: b.ReasonCode, Supplier: b.Supplier, Reference: b.Reference}, r
}

// moveLot moves units of one named lot, whether or not it has expired.
func (s *State) moveLot(location LocationID, id LotID, from, to Bucket, quantity int64) (Shelf, []Line, *Rejection) {
	if _, r := s.activeLocation(location); r != nil {
		return Shelf{}, nil, r
	}
	lot, r := s.activeLot(id)
	if r != nil {
		return Shelf{}, nil, r
	}
	shelf := Shelf{Location: location, Medicine: lot.Medicine}
	line, r := s.line(shelf, lot.ID, from, to, quantity)
	return shelf, []Line{line}, r
}

// ExpiriesFor returns the ExpireReservation commands that make room for a
// command which was short of stock: holds past their deadline count as reserved
// until one is posted. It returns none where even all of them would not do.
func ExpiriesFor(s *State, c Command, at Instant) []Command {
	d, named, ok := s.demanded(c)
	if !ok {
		return nil
	}
	shelf, ok := s.shelves[d.shelf]
	if !ok {
		return nil
	}
	at = max(at, s.head.At)
	today := s.today(at)
	// A command that names a lot takes it as it is.
	serves := func(row *stockRow) bool { return named && row.Lot == d.lot || !named && d.usable(row, today) }
	short := d.quantity
	for _, row := range shelf.rows {
		if serves(row) {
			short -= row.Available
		}
	}
	keys := s.overdue(shelf, at, func(hold *openHold) bool {
		for _, line := range hold.lines {
			if serves(line.row) {
				short -= line.quantity
			}
		}
		return short <= 0
	})
	if short > 0 {
		return nil
	}
	expiries := make([]Command, len(keys))
	for i, key := range keys {
		id := key.id(s.tag)
		expiries[i] = Command{
			Clinic: s.id, Actor: SystemActor, Body: &ExpireReservation{HoldID: id},
			IdempotencyKey: SystemKeyPrefix + "expire:" + string(id),
		}
	}
	return expiries
}

// demanded returns what a command takes off a shelf, and whether it names the
// lot and takes it whatever its expiry.
func (s *State) demanded(c Command) (d demand, named, ok bool) {
	ofLot := func(location LocationID, id LotID, quantity int64) (demand, bool, bool) {
		lot, known := s.lots[id]
		if !known {
			return demand{}, false, false
		}
		return demand{shelf: Shelf{location, lot.Medicine}, lot: id, quantity: quantity}, true, true
	}
	switch body := c.Body.(type) {
	case *ReserveStock:
		return body.demand(), false, true
	case *IssueStock:
		return body.demand(), false, true
	case *AdjustStock:
		if body.Direction == Decrease {
			return ofLot(body.LocationID, body.LotID, body.Quantity)
		}
	case *WriteOffStock:
		return ofLot(body.LocationID, body.LotID, body.Quantity)
	case *ReturnToSupplier:
		return ofLot(body.LocationID, body.LotID, body.Quantity)
	}
	return demand{}, false, false
}
