package ledger

// ExpiriesFor returns the commands that make room for one which was short of
// stock: holds past their deadline count as reserved until ExpireReservation
// is posted, or CancelTransfer where they belong to a transfer. It returns none
// where even all of them would not do.
func ExpiriesFor(s *State, c Command, at Instant) []Command {
	at = max(at, s.head.At)
	d, named, ok := s.demanded(c, at)
	if !ok {
		return nil
	}
	shelf, ok := s.shelves[d.shelf]
	if !ok {
		return nil
	}
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
	return s.expiries(keys)
}

// expiries are the commands that give overdue holds up.
func (s *State) expiries(keys []holdKey) []Command {
	commands := make([]Command, 0, len(keys))
	cancelled := make(map[TransferID]bool)
	for _, key := range keys {
		id := key.id(s.tag)
		expiry := Command{
			Clinic: s.id, Actor: SystemActor, Body: &ExpireReservation{HoldID: id},
			IdempotencyKey: SystemKeyPrefix + "expire:" + string(id),
		}
		if transfer := s.holds[key].transfer; transfer != "" {
			if cancelled[transfer] {
				continue
			}
			cancelled[transfer] = true
			expiry.Body = &CancelTransfer{TransferID: transfer, ReasonCode: overdueReason}
			expiry.IdempotencyKey = SystemKeyPrefix + "cancel:" + string(transfer)
		}
		commands = append(commands, expiry)
	}
	return commands
}

// overdueReason is why the ledger cancels a transfer by itself.
const overdueReason = "OVERDUE"

// demanded returns what a command takes off a shelf, and whether it names the
// lot and takes it whatever its expiry.
func (s *State) demanded(c Command, at Instant) (d demand, named, ok bool) {
	if body, is := c.Body.(*ReserveStock); is {
		d, r := body.demand(s, at)
		return d, false, r == nil
	}
	if body, is := c.Body.(*IssueStock); is && body.HoldID == "" {
		d, r := body.demand(s, at)
		return d, false, r == nil
	}
	var m lotMove
	switch body := c.Body.(type) {
	case *AdjustStock:
		if body.Direction == Decrease {
			m = lotMove{location: body.LocationID, lot: body.LotID, quantity: body.Quantity, pack: body.Pack}
		}
	case *WriteOffStock:
		if !body.FromQuarantine {
			m = lotMove{location: body.LocationID, lot: body.LotID, quantity: body.Quantity, pack: body.Pack}
		}
	case *ReturnToSupplier:
		if !body.FromQuarantine {
			m = lotMove{location: body.LocationID, lot: body.LotID, quantity: body.Quantity, pack: body.Pack}
		}
	case *LendStock:
		m = lotMove{location: body.LocationID, lot: body.LotID, quantity: body.Quantity, pack: body.Pack}
	case *RepayLoan:
		m = lotMove{location: body.LocationID, lot: body.LotID, quantity: body.Quantity, pack: body.Pack}
	case *OpenContainer:
		m = lotMove{location: body.LocationID, lot: body.LotID, quantity: body.Quantity, pack: body.Pack}
	}
	if m.lot == "" {
		return demand{}, false, false
	}
	location, r1 := s.activeLocation(m.location)
	found, r2 := s.lotItem(m.lot, at)
	if r1 != nil || r2 != nil {
		return demand{}, false, false
	}
	quantity, r := found.units(s, m.quantity, m.pack)
	return demand{shelf: Shelf{location.ID, found.lot.Medicine}, lot: found.lot.ID, quantity: quantity}, true, r == nil
}
