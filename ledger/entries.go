package ledger

// movement is what a stock event says about entries: lines that all move
// between the same two buckets of one shelf.
type movement struct {
	shelf    Shelf
	from, to Bucket
	lines    []Line
}

// mover is an event that posts entries.
type mover interface{ movement() movement }

func (b *StockReceived) movement() movement {
	return movement{b.Shelf, Supplier, Available, b.Lines}
}

func (b *StockReserved) movement() movement {
	return movement{b.Shelf, Available, Reserved, b.Lines}
}

func (b *StockReleased) movement() movement {
	return movement{b.Shelf, Reserved, Available, b.Lines}
}

func (b *ReservationExpired) movement() movement {
	return movement{b.Shelf, Reserved, Available, b.Lines}
}

func (b *StockIssued) movement() movement {
	if b.HoldID == "" {
		return movement{b.Shelf, Available, Issued, b.Lines}
	}
	return movement{b.Shelf, Reserved, Issued, b.Lines}
}

func (b *StockAdjusted) movement() movement {
	if b.Direction == Increase {
		return movement{b.Shelf, Adjustment, Available, b.Lines}
	}
	return movement{b.Shelf, Available, Adjustment, b.Lines}
}

func (b *StockWrittenOff) movement() movement {
	return movement{b.Shelf, Available, Wasted, b.Lines}
}

func (b *StockReturnedToSupplier) movement() movement {
	return movement{b.Shelf, Available, Supplier, b.Lines}
}

// EntriesOf returns the entries that an event posts, from the event alone. It
// does not prove that they follow from the journal before it; [Evolve] does.
func EntriesOf(e Event) []Entry {
	body, ok := e.Body.(mover)
	if !ok {
		return nil
	}
	m := body.movement()
	entries := make([]Entry, len(m.lines))
	for i, line := range m.lines {
		entries[i] = Entry{
			Sequence: e.Sequence, Line: i, Location: m.shelf.Location, Medicine: m.shelf.Medicine, Lot: line.Lot,
			Debit: m.to, Credit: m.from, Quantity: line.Quantity, After: line.After,
		}
	}
	return entries
}

// LocationOf returns the location whose stock an event moves, or false where
// it moves none.
func LocationOf(e Event) (LocationID, bool) {
	body, ok := e.Body.(mover)
	if !ok {
		return "", false
	}
	return body.movement().shelf.Location, true
}

// HoldLocation returns the location of the open hold that a command draws on,
// or false where it names none that is open.
func HoldLocation(s *State, c Command) (LocationID, bool) {
	var id HoldID
	switch body := c.Body.(type) {
	case *ReleaseStock:
		id = body.HoldID
	case *ExpireReservation:
		id = body.HoldID
	case *IssueStock:
		id = body.HoldID
	}
	_, hold := s.openHold(id)
	if hold == nil {
		return "", false
	}
	return hold.shelf.Location, true
}
