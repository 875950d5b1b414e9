package ledger

// ExpiriesFor returns the commands that make room for one which was short of
// stock: holds past their deadline count as reserved until ExpireReservation
// is posted, or CancelTransfer where they belong to a transfer. It returns none
// where even all of them would not do.
//
// It puts the units of overdue holds back, the longest overdue first, until the
// command is accepted, and takes it all back. So it serves every command,
// whatever it draws on.
func ExpiriesFor(s *State, c Command, at Instant) []Command {
	at = max(at, s.head.At)
	_, r := Decide(s, c, at)
	if r == nil || r.short.units == 0 {
		return nil
	}
	if shelf, ok := s.shelves[r.short.shelf]; ok {
		s.forget(shelf)
	}
	mark := s.Mark()
	defer s.Rollback(mark)
	var keys []holdKey
	given := make(map[holdKey]bool)
	for asked := int64(0); r != nil; _, r = Decide(s, c, at) {
		shelf, ok := s.shelves[r.short.shelf]
		if r.short.units == 0 || !ok {
			return nil
		}
		// What was put back may not serve the command. Asking for ever more
		// bounds how often it is judged.
		asked = max(r.short.units, 2*asked)
		more := s.putBack(shelf, at, asked, given)
		if len(more) == 0 {
			return nil
		}
		keys = append(keys, more...)
	}
	return s.expiries(keys)
}

// putBack makes units of a shelf's overdue holds available, as many as are
// asked for, from holds that were not given before.
func (s *State) putBack(shelf *shelfState, at Instant, asked int64, given map[holdKey]bool) []holdKey {
	d := &draft{s: s}
	overdue := s.overdue(shelf, at, func(key holdKey, hold *openHold) bool {
		for _, line := range hold.lines {
			if !given[key] {
				asked -= line.quantity
			}
		}
		return asked <= 0
	})
	var keys []holdKey
	for _, key := range overdue {
		if given[key] {
			continue
		}
		given[key] = true
		keys = append(keys, key)
		for _, line := range s.holds[key].lines {
			if line.quantity > 0 {
				d.move(shelf.Shelf, line.row.lot, Reserved, Available, line.quantity)
			}
		}
	}
	return keys
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
			expiry.Body = &CancelTransfer{TransferID: transfer, ReasonCode: ReasonCodeOverdue}
			expiry.IdempotencyKey = SystemKeyPrefix + "cancel:" + string(transfer)
		}
		commands = append(commands, expiry)
	}
	return commands
}

// ReasonCodeOverdue is why the ledger cancels a transfer by itself.
const ReasonCodeOverdue = "OVERDUE"
