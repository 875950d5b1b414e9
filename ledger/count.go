package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// CountID names a count of a location, and is what people call it: CN- and the
// sequence of the command that began it. It is unique in the clinic.
type CountID string

// Kinds of commands about counting.
const (
	KindStartCount    Kind = 29
	KindRecordCount   Kind = 30
	KindCompleteCount Kind = 31
	KindCancelCount   Kind = 32
)

// maxCountLines bounds a count session and a RecordCount.
const maxCountLines = 1000

// Count is a session in which the stock of a location is counted.
type Count struct {
	CountID  CountID
	Location LocationID
	// Blind keeps the balances from those who count.
	Blind      bool
	Lines      []CountLine
	Ended      bool
	Cancelled  bool
	ReasonCode string
}

// CountLine is a lot to be counted, or counted.
type CountLine struct {
	Medicine MedicineID
	Lot      LotID
	Status   CountStatus
	Counted  int64 // at last, in base units
	Variance int64 // at last: what was posted, or what asks for a recount
}

// CountStatus says how far a line is. The numbers are stored.
type CountStatus int16

// The states of a line.
const (
	CountOpen    CountStatus = 0
	CountRecount CountStatus = 1 // counted once, beyond the tolerance: count it again
	CountDone    CountStatus = 2
)

// About is for the index of documents.
func (n *Count) About() About {
	return About{DocumentKey: DocumentKey{DocumentCount, string(n.CountID)}, Open: !n.Ended, Location: n.Location}
}

func (n *Count) fields(c *codec) {
	text(c, &n.CountID)
	text(c, &n.Location)
	c.flag(&n.Blind)
	list(c, &n.Lines, 5, func(c *codec, l *CountLine) {
		text(c, &l.Medicine)
		text(c, &l.Lot)
		number(c, &l.Status)
		number(c, &l.Counted)
		signed(c, &l.Variance)
	})
	c.flag(&n.Ended)
	c.flag(&n.Cancelled)
	text(c, &n.ReasonCode)
}

func (n *Count) clone() *Count {
	next := *n
	next.Lines = slices.Clone(n.Lines)
	return &next
}

// StartCount begins to count a location, or some medicines there.
type StartCount struct {
	LocationID LocationID
	Medicines  []MedicineID // empty: all that the location holds
	Blind      bool
}

// RecordCount records what lies on a shelf. The variance of a line is against
// the balance at its sequence, and is applied to the present balance: nobody
// has to freeze the shelf to count it.
type RecordCount struct {
	CountID    CountID    // empty: outside of a session
	LocationID LocationID // outside of a session
	Lines      []CountedLine
	ReasonCode string

	// Balances are those at the sequences of the lines, in their order. They
	// are read from the journal by who executes the command, and are no part
	// of what the caller asks for.
	Balances []Balances
}

// CountedLine is what was counted of a lot: all that lies on the shelf,
// reserved and pending units included, and not those in quarantine.
type CountedLine struct {
	LotID    LotID
	Counted  int64 // 0 to 2^53
	Pack     string
	Sequence Sequence // of the clinic's journal when it was counted; 0: now
	// Quarantined tells that it is the lot's quarantine that was counted.
	Quarantined bool
}

// CompleteCount ends a session. Lines that were not counted need a reason.
type CompleteCount struct {
	CountID    CountID
	ReasonCode string
}

// CancelCount gives a session up. What was posted stays posted.
type CancelCount struct {
	CountID    CountID
	ReasonCode string
}

// Kind identifies the command.
func (*StartCount) Kind() Kind { return KindStartCount }

// Kind identifies the command.
func (*RecordCount) Kind() Kind { return KindRecordCount }

// Kind identifies the command.
func (*CompleteCount) Kind() Kind { return KindCompleteCount }

// Kind identifies the command.
func (*CancelCount) Kind() Kind { return KindCancelCount }

func (b *StartCount) fields(c *codec) {
	text(c, &b.LocationID)
	list(c, &b.Medicines, 1, text[MedicineID])
	c.flag(&b.Blind)
}

func (b *RecordCount) fields(c *codec) {
	text(c, &b.CountID)
	text(c, &b.LocationID)
	list(c, &b.Lines, 5, func(c *codec, l *CountedLine) {
		text(c, &l.LotID)
		number(c, &l.Counted)
		text(c, &l.Pack)
		number(c, &l.Sequence)
		c.flag(&l.Quarantined)
	})
	text(c, &b.ReasonCode)
}

func (b *RecordCount) attached(c *codec) {
	list(c, &b.Balances, 5, func(c *codec, balances *Balances) {
		number(c, &balances.Available)
		number(c, &balances.Reserved)
		number(c, &balances.Pending)
		number(c, &balances.Quarantined)
		number(c, &balances.InTransit)
	})
}

func (b *CompleteCount) fields(c *codec) {
	text(c, &b.CountID)
	text(c, &b.ReasonCode)
}

func (b *CancelCount) fields(c *codec) {
	text(c, &b.CountID)
	text(c, &b.ReasonCode)
}

func (b *StartCount) check() *Rejection {
	if len(b.Medicines) > maxCountLines {
		return reject(ReasonInvalidField, "medicine_ids", "A count names at most %d medicines.", maxCountLines)
	}
	for _, id := range b.Medicines {
		if r := checkReference("medicine_ids", id); r != nil {
			return r
		}
	}
	return checkReference("location_id", b.LocationID)
}

func (b *RecordCount) check() *Rejection {
	if (b.CountID == "") == (b.LocationID == "") {
		return reject(ReasonInvalidField, "count_id", "Name either the count that the lines belong to, or a location.")
	}
	if len(b.Lines) == 0 || len(b.Lines) > maxCountLines {
		return reject(ReasonInvalidField, "lines", "There must be 1 to %d lines; there are %d.", maxCountLines, len(b.Lines))
	}
	for i, line := range b.Lines {
		r := first(checkReference("lot_id", line.LotID), checkPack(line.Pack))
		switch {
		case r != nil:
		case line.Counted < 0 || line.Counted > MaxQuantity:
			r = reject(ReasonQuantityOutOfRange, "counted", "The count is %d.", line.Counted)
		case line.Sequence < 0:
			r = reject(ReasonInvalidField, "sequence", "The sequence is %d.", line.Sequence)
		}
		if r != nil {
			return r.inLine(i)
		}
	}
	return first(
		checkOptionalID("count_id", b.CountID),
		checkOptionalReference("location_id", b.LocationID),
		checkCode("reason_code", b.ReasonCode, true),
	)
}

func (b *CompleteCount) check() *Rejection {
	return first(checkID("count_id", b.CountID), checkCode("reason_code", b.ReasonCode, false))
}

func (b *CancelCount) check() *Rejection {
	return first(checkID("count_id", b.CountID), checkCode("reason_code", b.ReasonCode, true))
}

func (b *StartCount) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	wanted := make(map[MedicineID]bool)
	for _, id := range b.Medicines {
		found, r := s.medicineItem(id, at)
		if r != nil {
			return nil, r.of("medicine_ids")
		}
		wanted[found.medicine.ID] = true
	}
	count := &Count{CountID: CountID(s.numbered("CN")), Location: location.ID, Blind: b.Blind}
	for key, shelf := range s.shelves {
		if key.Location != location.ID || len(wanted) > 0 && !wanted[key.Medicine] {
			continue
		}
		for _, row := range shelf.rows {
			if row.Available+row.Reserved+row.Pending > 0 {
				count.Lines = append(count.Lines, CountLine{Medicine: key.Medicine, Lot: row.Lot})
			}
		}
	}
	if len(count.Lines) == 0 {
		return nil, reject(ReasonCountEmpty, "location_id", "Location %q holds nothing to count.", location.ID).with("location_id", location.ID)
	}
	if len(count.Lines) > maxCountLines {
		return nil, reject(ReasonCountTooLarge, "medicine_ids", "Location %q holds %d lots; a count takes at most %d. Name the medicines to count.", location.ID, len(count.Lines), maxCountLines).
			with("location_id", location.ID, "lots", len(count.Lines))
	}
	slices.SortFunc(count.Lines, func(a, b CountLine) int {
		return cmp.Or(cmp.Compare(a.Medicine, b.Medicine), cmp.Compare(a.Lot, b.Lot))
	})
	return &Change{of: b.Kind(), Documents: []DocumentBody{count}}, nil
}

func (s *State) knownCount(id CountID) (*Count, *Rejection) {
	count := document[Count](s, DocumentCount, string(id))
	if count == nil {
		return nil, reject(ReasonCountNotFound, "count_id", "Clinic %q has no open count %q.", s.id, id).with("count_id", id)
	}
	return count, nil
}

func (b *RecordCount) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	work := &countWork{draft: draft{s: s}, at: at, seen: make(map[CountedLine]bool)}
	location := b.LocationID
	if b.CountID != "" {
		count, r := s.knownCount(b.CountID)
		if r != nil {
			return nil, r
		}
		work.count, location = count.clone(), count.Location
	}
	place, r := s.activeLocation(location)
	if r != nil && b.CountID != "" {
		r.Field = "count_id"
	}
	if r != nil {
		return nil, r
	}
	work.location = place.ID
	for i, line := range b.Lines {
		var then *Balances
		if line.Sequence != 0 {
			if line.Sequence > s.head.Sequence || i >= len(b.Balances) {
				return nil, reject(ReasonCountInFuture, "sequence", "The sequence is %d, and the clinic's journal ends at %d.", line.Sequence, s.head.Sequence).
					with("sequence", line.Sequence, "last_sequence", s.head.Sequence).inLine(i)
			}
			then = &b.Balances[i]
		}
		if r := work.line(line, then); r != nil {
			if r.Field == "quantity" {
				r.Field = "counted"
			}
			return nil, r.inLine(i)
		}
	}
	event := work.change(b.Kind())
	event.ReasonCode = b.ReasonCode
	if work.count != nil {
		event.Documents = []DocumentBody{work.count}
	}
	event.beyondTolerance, event.counted = work.beyond, work.medicines
	return event, nil
}

// location is where the count was taken: a place of the clinic, if it is one.
func (b *RecordCount) location(s *State) LocationID {
	location := b.LocationID
	if count := document[Count](s, DocumentCount, string(b.CountID)); count != nil {
		location = count.Location
	}
	if place, r := s.activeLocation(location); r == nil {
		location = place.ID
	}
	return location
}

// pinned returns the count with the sequence and the balance of each line that
// was counted now: it is judged by them when somebody approves it, however much
// was moved since.
func (b *RecordCount) pinned(s *State, at Instant) *RecordCount {
	location, pinned := b.location(s), *b
	pinned.Lines, pinned.Balances = slices.Clone(b.Lines), make([]Balances, len(b.Lines))
	copy(pinned.Balances, b.Balances)
	for i := range pinned.Lines {
		line := &pinned.Lines[i]
		if found, r := s.lotItem(line.LotID, at); r == nil && line.Sequence == 0 {
			line.Sequence = s.head.Sequence
			pinned.Balances[i] = s.balance(Shelf{location, found.lot.Medicine}, found.lot.ID)
		}
	}
	return &pinned
}

// countWork is a RecordCount under way.
type countWork struct {
	draft
	at       Instant
	location LocationID
	count    *Count // nil outside of a session
	seen     map[CountedLine]bool
	beyond   bool // a posted variance exceeds the tolerance

	medicines []MedicineID // of all lines
}

// line posts the variance of one line, or asks for a recount. then is the
// balance when it was counted; nil means now.
func (w *countWork) line(line CountedLine, then *Balances) *Rejection {
	found, r := w.s.lotItem(line.LotID, w.at)
	if r != nil {
		return r
	}
	// Two references may be to one lot, and its variance be posted twice.
	key := CountedLine{LotID: found.lot.ID, Quarantined: line.Quarantined}
	if w.seen[key] {
		return reject(ReasonInvalidField, "lot_id", "Lot %q is counted twice.", found.lot.ID)
	}
	w.seen[key] = true
	w.medicines = append(w.medicines, found.medicine.ID)
	counted, r := found.units(w.s, line.Counted, line.Pack)
	if r != nil {
		return r
	}
	shelf := Shelf{w.location, found.lot.Medicine}
	if then == nil {
		now := w.s.balance(shelf, found.lot.ID)
		then = &now
	}
	booked, bucket := then.Available+then.Reserved+then.Pending, Available
	if line.Quarantined {
		booked, bucket = then.Quarantined, Quarantined
	}
	variance := counted - booked
	exceeds := w.s.policy().exceedsTolerance(variance, booked)
	if w.count != nil && !line.Quarantined {
		if w.countedOnce(found.lot, counted, variance, exceeds) {
			return nil
		}
	}
	w.beyond = w.beyond || exceeds
	if variance > 0 {
		if r := w.s.stockable(found); r != nil {
			return r
		}
	}
	return w.postVariance(shelf, found.lot, bucket, variance)
}

// countedOnce notes a line in the session and reports whether it has to be
// counted again before its variance is posted.
func (w *countWork) countedOnce(lot *Lot, counted, variance int64, exceeds bool) bool {
	at := slices.IndexFunc(w.count.Lines, func(l CountLine) bool { return l.Lot == lot.ID })
	if at < 0 {
		// Found on the shelf, though the books had none when the count began.
		at = len(w.count.Lines)
		w.count.Lines = append(w.count.Lines, CountLine{Medicine: lot.Medicine, Lot: lot.ID})
	}
	line := &w.count.Lines[at]
	again := exceeds && line.Status == CountOpen && w.s.policy().Recount
	line.Counted, line.Variance, line.Status = counted, variance, CountDone
	if again {
		line.Status = CountRecount
	}
	return again
}

func (w *countWork) postVariance(shelf Shelf, lot *Lot, bucket Bucket, variance int64) *Rejection {
	switch {
	case variance > 0:
		w.move(shelf, lot, Variance, bucket, variance)
	case variance < 0:
		if now := w.s.balance(shelf, lot.ID); now.Of(bucket) < -variance {
			return w.eatsHeld(shelf, lot, now.Of(bucket), -variance)
		}
		w.move(shelf, lot, bucket, Variance, -variance)
	}
	return w.refused
}

// eatsHeld refuses a variance that would take units which are promised, and
// names who holds them. Of a blind count it tells no numbers: they would give
// the balance away.
func (w *countWork) eatsHeld(shelf Shelf, lot *Lot, free, missing int64) *Rejection {
	const named = 20
	holders := w.s.holders(shelf, lot.ID)
	total := len(holders)
	who := "nobody holds the others: they left after the count"
	if total > 0 {
		who = fmt.Sprintf("%d holds and approvals have the others, first of all %s", total, strings.Join(holders[:min(total, 3)], ", "))
	}
	if w.count != nil && w.count.Blind {
		return reject(ReasonCountEatsHeld, "counted", "More units of lot %q are missing than are free; %s.", lot.ID, who).
			with("lot_id", lot.ID, "held_by", strings.Join(holders[:min(total, named)], ","))
	}
	return reject(ReasonCountEatsHeld, "counted", "%d units of lot %q are missing, and only %d are free; %s.", missing, lot.ID, free, who).
		with("lot_id", lot.ID, "missing", missing, "available", free, "held_by", strings.Join(holders[:min(total, named)], ","))
}

// holders are the ids of the holds and requests that have units of a lot on a
// shelf.
func (s *State) holders(shelf Shelf, lot LotID) []string {
	var ids []string
	if f, ok := s.shelves[shelf]; ok {
		if row := f.find(lot); row != nil {
			for _, key := range s.holdsOf(f, row) {
				ids = append(ids, string(key.id(s.tag)))
			}
		}
	}
	for _, document := range s.documents {
		approval, ok := document.Body.(*Approval)
		if ok && slices.ContainsFunc(approval.Lines, func(l PendingLine) bool { return l.Shelf == shelf && l.Lot == lot }) {
			ids = append(ids, string(approval.ApprovalID))
		}
	}
	slices.Sort(ids)
	return ids
}

func (b *CompleteCount) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownCount(b.CountID)
	if r != nil {
		return nil, r
	}
	open := 0
	for _, line := range old.Lines {
		if line.Status != CountDone {
			open++
		}
	}
	if open > 0 && b.ReasonCode == "" {
		return nil, reject(ReasonCountIncomplete, "reason_code", "%d of the %d lots of count %q are not counted, or must be counted again. To end it all the same, give a reason_code.", open, len(old.Lines), b.CountID).
			with("count_id", b.CountID, "open", open)
	}
	next := old.clone()
	next.Ended, next.ReasonCode = true, b.ReasonCode
	return &Change{of: b.Kind(), Documents: []DocumentBody{next}, ReasonCode: b.ReasonCode}, nil
}

func (b *CancelCount) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownCount(b.CountID)
	if r != nil {
		return nil, r
	}
	next := old.clone()
	next.Ended, next.Cancelled, next.ReasonCode = true, true, b.ReasonCode
	return &Change{of: b.Kind(), Documents: []DocumentBody{next}, ReasonCode: b.ReasonCode}, nil
}
