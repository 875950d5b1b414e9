package ledger

import "slices"

// Move says that lots of one shelf go from one bucket to another.
type Move struct {
	Shelf
	From, To Bucket
	Lines    []Line
}

func (m *Move) fields(c *codec) {
	m.Shelf.fields(c)
	number(c, &m.From)
	number(c, &m.To)
	c.lines(&m.Lines)
}

// mover is an event that posts entries.
type mover interface{ moves() []Move }

func oneMove(shelf Shelf, from, to Bucket, lines []Line) []Move {
	return []Move{{shelf, from, to, lines}}
}

func (b *StockReceived) moves() []Move {
	if b.Quarantined {
		return oneMove(b.Shelf, Supplier, Quarantined, b.Lines)
	}
	return oneMove(b.Shelf, Supplier, Available, b.Lines)
}

func (b *StockReserved) moves() []Move { return oneMove(b.Shelf, Available, Reserved, b.Lines) }

func (b *StockReleased) moves() []Move { return oneMove(b.Shelf, Reserved, Available, b.Lines) }

func (b *ReservationExpired) moves() []Move { return oneMove(b.Shelf, Reserved, Available, b.Lines) }

func (b *StockIssued) moves() []Move {
	if b.HoldID == "" {
		return oneMove(b.Shelf, Available, Issued, b.Lines)
	}
	return oneMove(b.Shelf, Reserved, Issued, b.Lines)
}

func (b *StockAdjusted) moves() []Move {
	if b.Direction == Increase {
		return oneMove(b.Shelf, Adjustment, Available, b.Lines)
	}
	return oneMove(b.Shelf, Available, Adjustment, b.Lines)
}

func (b *StockWrittenOff) moves() []Move {
	return oneMove(b.Shelf, availableOr(b.FromQuarantine), Wasted, b.Lines)
}

func (b *StockReturnedToSupplier) moves() []Move {
	return oneMove(b.Shelf, availableOr(b.FromQuarantine), Supplier, b.Lines)
}

// availableOr is the bucket that units lie in: available, or quarantined.
func availableOr(quarantined bool) Bucket {
	if quarantined {
		return Quarantined
	}
	return Available
}

// EntriesOf returns the entries that an event posts, from the event alone. It
// does not prove that they follow from the journal before it; [Evolve] does.
func EntriesOf(e Event) []Entry {
	body, ok := e.Body.(mover)
	if !ok {
		return nil
	}
	return entriesOf(e.Sequence, body.moves())
}

func entriesOf(sequence Sequence, moves []Move) []Entry {
	n := 0
	for i := range moves {
		n += len(moves[i].Lines)
	}
	if n == 0 {
		return nil
	}
	entries := make([]Entry, 0, n)
	for i := range moves {
		m := &moves[i]
		for _, line := range m.Lines {
			entries = append(entries, Entry{
				Sequence: sequence, Line: len(entries), Location: m.Location, Medicine: m.Medicine, Lot: line.Lot,
				Debit: m.To, Credit: m.From, Quantity: line.Quantity, After: line.After,
			})
		}
	}
	return entries
}

// movedLocations returns the locations whose stock moves touch, each once, in
// their order.
func movedLocations(moves []Move) []LocationID {
	var locations []LocationID
	for i := range moves {
		if !slices.Contains(locations, moves[i].Location) {
			locations = append(locations, moves[i].Location)
		}
	}
	slices.Sort(locations)
	return locations
}
