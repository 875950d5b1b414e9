package ledger

import "slices"

// BalanceAt names a balance of the past: what a shelf held of a lot once the
// clinic's command with the sequence had been posted.
type BalanceAt struct {
	Shelf
	Lot      LotID
	Sequence Sequence
}

// NeedsPast reports whether facts must be read from the journal before a
// command can be decided: see [WithReceipt] and [BalancesWanted].
func NeedsPast(c Command) bool {
	switch b := c.Body.(type) {
	case *ReverseReceipt:
		return b.Receipt == nil
	case *RecordDowntime:
		return b.Counted != nil && b.Booked == nil
	case *RecordCount:
		return b.Balances == nil && slices.ContainsFunc(b.Lines, func(l CountedLine) bool { return l.Sequence != 0 })
	}
	return false
}

// ReceiptWanted returns the sequence of the receipt that a command takes back.
func ReceiptWanted(c Command) (Sequence, bool) {
	b, ok := c.Body.(*ReverseReceipt)
	if !ok {
		return 0, false
	}
	return b.Sequence, true
}

// WithReceipt gives a command the journal's record that it takes back. What is
// not a receipt is left out, and the command will be rejected.
func WithReceipt(c Command, r Record) Command {
	b, ok := c.Body.(*ReverseReceipt)
	if !ok {
		return c
	}
	found := *b
	switch body := r.Event.Body.(type) {
	case *StockReceived:
		found.Receipt = body
	case *Change:
		found.Receipt, _ = body.Approved.(*StockReceived)
	}
	c.Body = &found
	return c
}

// BalancesWanted returns the balances of the past that a command is judged by,
// one for each of its lines; those of lines that want none have no lot. It ends
// before the first line whose sequence the journal does not have yet.
func BalancesWanted(s *State, c Command, at Instant) []BalanceAt {
	b, ok := c.Body.(*RecordCount)
	if !ok {
		return nil
	}
	location := b.location(s)
	wanted := make([]BalanceAt, 0, len(b.Lines))
	for _, line := range b.Lines {
		if line.Sequence > s.head.Sequence {
			break
		}
		var balance BalanceAt
		if found, r := s.lotItem(line.LotID, max(at, s.head.At)); r == nil && line.Sequence != 0 {
			balance = BalanceAt{Shelf{location, found.lot.Medicine}, found.lot.ID, line.Sequence}
		}
		wanted = append(wanted, balance)
	}
	return wanted
}

// WithBalances gives a command the balances that [BalancesWanted] asked for.
func WithBalances(c Command, balances []Balances) Command {
	b, ok := c.Body.(*RecordCount)
	if !ok {
		return c
	}
	found := *b
	found.Balances = balances
	c.Body = &found
	return c
}

// DowntimeCountWanted returns the shelf and the lot that a count during a
// downtime was about, and when it was counted: wanted is how many units should
// have lain there then, by what had happened until then, whenever it was
// recorded. ok is false where the command is none, or names what the clinic
// does not have.
func DowntimeCountWanted(s *State, c Command, at Instant) (shelf Shelf, lot LotID, happened Instant, ok bool) {
	b, isDowntime := c.Body.(*RecordDowntime)
	if !isDowntime || b.Counted == nil {
		return shelf, "", 0, false
	}
	happened = c.happened(max(at, s.head.At))
	location, r := s.knownLocation(b.Counted.LocationID)
	if r != nil {
		return shelf, "", happened, false
	}
	found, r := s.lotItem(b.Counted.LotID, happened)
	if r != nil {
		return shelf, "", happened, false
	}
	return Shelf{location.ID, found.lot.Medicine}, found.lot.ID, happened, true
}

// WithBooked gives a count during a downtime what the books should have said
// when it was counted: what they say now, less what has happened since.
func WithBooked(s *State, c Command, shelf Shelf, lot LotID, since int64) Command {
	b, ok := c.Body.(*RecordDowntime)
	if !ok {
		return c
	}
	now := s.balance(shelf, lot)
	booked, found := now.Available+now.Reserved+now.Pending-since, *b
	found.Booked = &booked
	c.Body = &found
	return c
}
