package ledger

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Head is the end of a clinic's journal.
type Head struct {
	Epoch    int64 // from 1; raised when a restore rewinds the journal
	Sequence Sequence
	Hash     Hash
	At       Instant
}

// Clinic is the tenant as its commands left it.
type Clinic struct {
	Name           string
	TimeZone       string
	BackdatingDays int64
	Active         bool
	LastSequence   Sequence
}

// Location is a place that holds stock.
type Location struct {
	ID           LocationID
	Name         string
	Kind         LocationKind
	Active       bool
	LastSequence Sequence
}

// Medicine is an item of the formulary.
type Medicine struct {
	ID MedicineID
	MedicineFacts
	Active       bool
	LastSequence Sequence
}

// Lot is a lot of a medicine.
type Lot struct {
	ID       LotID
	Medicine MedicineID
	LotFacts
	Active             bool
	Bar                Bar      `json:",omitempty"`
	RecallID           RecallID `json:",omitempty"` // the recall that bars it
	Parents            []LotID  `json:",omitempty"` // the lots that it was made from
	RegisteredSequence Sequence
	LastSequence       Sequence
}

// Bar says what keeps a lot from being reserved for issue or issued, anywhere
// in the clinic. The numbers are stored.
type Bar int16

// The bars. One flag on the lot bars it at every location at once.
const (
	BarNone        Bar = 0
	BarQuarantined Bar = 1
	BarRecalled    Bar = 2
)

// Stock is what one location holds of one lot.
type Stock struct {
	Shelf
	Lot LotID
	Balances
	FirstSequence Sequence // of its first entry: the tie-breaker of FEFO
	LastSequence  Sequence // of its last entry
}

// HoldStatus says what became of a hold. The numbers are stored.
type HoldStatus int16

// The states of a hold.
const (
	HoldOpen       HoldStatus = 1
	HoldReleased   HoldStatus = 2
	HoldIssued     HoldStatus = 3
	HoldExpired    HoldStatus = 4
	HoldVoided     HoldStatus = 5 // its lots were recalled
	HoldDispatched HoldStatus = 6 // its transfer set out
	HoldDispensed  HoldStatus = 7
)

// Hold is a reservation of named lots.
type Hold struct {
	ID HoldID
	Shelf
	ReasonCode     string
	Deadline       Instant // the last moment at which it can be issued
	Actor          Actor
	Status         HoldStatus
	OpenedSequence Sequence
	LastSequence   Sequence
	Lines          []HoldLine
	// Owner is the prescription or dispensing that it belongs to, or empty.
	// Which holds belong to a transfer stands in the transfer.
	Owner string `json:",omitempty"`
}

// HoldLine is one lot's part of a hold, in base units.
type HoldLine struct {
	Lot      LotID
	Quantity int64 // still held
	Reserved int64 // held when it was opened
}

// stockRow is a Stock with a way to its lot's expiry.
type stockRow struct {
	Stock
	lot *Lot
}

// shelfState is the stock of one medicine at one location.
type shelfState struct {
	Shelf
	rows      []*stockRow // first expired first
	deadlines deadlineHeap
}

// openHold is an open hold, kept small: a busy clinic has many.
type openHold struct {
	shelf      *shelfState
	reasonCode string
	actor      Actor
	deadline   Instant
	transfer   TransferID // the transfer that it belongs to, or empty
	owner      string     // the prescription or dispensing that it belongs to, or empty
	last       Sequence
	lines      []openLine
}

type openLine struct {
	row      *stockRow
	quantity int64
	reserved int64
}

// State is everything about a clinic that [Decide] reads. It is not safe for
// concurrent use. Every change can be undone until it is committed.
type State struct {
	id    ClinicID
	tag   uint32
	zones Zones
	zone  *time.Location

	head       Head
	clinic     *Clinic
	locations  map[LocationID]*Location
	medicines  map[MedicineID]*Medicine
	lots       map[LotID]*Lot
	shelves    map[Shelf]*shelfState
	rows       int // stock rows on all shelves
	holds      map[holdKey]*openHold
	documents  map[DocumentKey]*Document // open ones
	onDemand   map[DocumentKey]*Document // on demand; nil is known not to exist
	forgotten  Sequence                  // until when changes of those may have been forgotten
	byIdentity map[string]string         // unique names to ids, see identity.go

	undo []func()
}

// NewState returns the state of a clinic whose journal is empty.
func NewState(clinic ClinicID, zones Zones) *State {
	return &State{
		id: clinic, tag: clinicTag(clinic), zones: zones, zone: time.UTC,
		head:       Head{Epoch: 1, Hash: Genesis(clinic)},
		locations:  make(map[LocationID]*Location),
		medicines:  make(map[MedicineID]*Medicine),
		lots:       make(map[LotID]*Lot),
		shelves:    make(map[Shelf]*shelfState),
		holds:      make(map[holdKey]*openHold),
		documents:  make(map[DocumentKey]*Document),
		onDemand:   make(map[DocumentKey]*Document),
		byIdentity: make(map[string]string),
	}
}

// Clinic returns the id of the clinic that the state is of.
func (s *State) Clinic() ClinicID { return s.id }

// Head returns the end of the journal that led to this state.
func (s *State) Head() Head { return s.head }

// Size counts the documents that the state keeps in memory.
func (s *State) Size() int {
	return len(s.locations) + len(s.medicines) + len(s.lots) + len(s.holds) + len(s.documents) + len(s.onDemand) + s.rows
}

// Mark names the present point for [State.Rollback].
func (s *State) Mark() int { return len(s.undo) }

// Rollback takes back every change since the mark.
func (s *State) Rollback(mark int) {
	for i := len(s.undo) - 1; i >= mark; i-- {
		s.undo[i]()
	}
	clear(s.undo[mark:])
	s.undo = s.undo[:mark]
}

// Commit makes all changes so far permanent.
func (s *State) Commit() {
	clear(s.undo)
	s.undo = s.undo[:0]
	s.forgetNamed()
}

func (s *State) onUndo(f func()) { s.undo = append(s.undo, f) }

// change assigns to a part of the state and can take it back.
func change[T any](s *State, p *T, value T) {
	old := *p
	s.onUndo(func() { *p = old })
	*p = value
}

// put sets a map's key and can take it back.
func put[K comparable, V any](s *State, m map[K]V, key K, value V) {
	old, had := m[key]
	s.onUndo(func() {
		if had {
			m[key] = old
		} else {
			delete(m, key)
		}
	})
	m[key] = value
}

// remove deletes a map's key and can take it back.
func remove[K comparable, V any](s *State, m map[K]V, key K) {
	old, had := m[key]
	if !had {
		return
	}
	s.onUndo(func() { m[key] = old })
	delete(m, key)
}

// today is the calendar day of an instant at the clinic.
func (s *State) today(at Instant) Date { return DateOf(time.UnixMicro(int64(at)).In(s.zone)) }

func (s *State) setZone(name string) {
	zone, err := s.zones(name)
	if err != nil {
		// The name was known when it was accepted. A machine that has lost
		// the zone judges expiry by UTC, which no replay depends on.
		zone = time.UTC
	}
	change(s, &s.zone, zone)
}

// shelf returns the shelf's state, making it where it is missing.
func (s *State) shelf(key Shelf) *shelfState {
	if shelf, ok := s.shelves[key]; ok {
		return shelf
	}
	shelf := &shelfState{Shelf: key}
	put(s, s.shelves, key, shelf)
	return shelf
}

// row returns the stock of a lot on a shelf, making it where it is missing.
func (s *State) row(shelf *shelfState, lot *Lot) *stockRow {
	if row := shelf.find(lot.ID); row != nil {
		return row
	}
	row := &stockRow{
		Stock: Stock{Shelf: shelf.Shelf, Lot: lot.ID, FirstSequence: s.head.Sequence + 1},
		lot:   lot,
	}
	change(s, &shelf.rows, insertRow(shelf.rows, row))
	change(s, &s.rows, s.rows+1)
	return row
}

func (f *shelfState) find(lot LotID) *stockRow {
	for _, row := range f.rows {
		if row.Lot == lot {
			return row
		}
	}
	return nil
}

// insertRow returns rows with row in its place; the slice passed in stays as
// it was, so that an undo can go back to it.
func insertRow(rows []*stockRow, row *stockRow) []*stockRow {
	at, _ := slices.BinarySearchFunc(rows, row, firstExpired)
	grown := make([]*stockRow, 0, len(rows)+1)
	grown = append(grown, rows[:at]...)
	grown = append(grown, row)
	return append(grown, rows[at:]...)
}

// firstExpired orders by expiry, then first receipt, then lot id.
func firstExpired(a, b *stockRow) int {
	return cmp.Or(
		cmp.Compare(a.lot.Expiry, b.lot.Expiry),
		cmp.Compare(a.FirstSequence, b.FirstSequence),
		strings.Compare(string(a.Lot), string(b.Lot)),
	)
}

// resort puts the shelves of a medicine in order after a lot's expiry changed.
func (s *State) resort(medicine MedicineID) {
	for key, shelf := range s.shelves {
		if key.Medicine == medicine {
			change(s, &shelf.rows, slices.SortedFunc(slices.Values(shelf.rows), firstExpired))
		}
	}
}

// heldBy returns a stock row with units on hand that matches, or nil.
func (s *State) heldBy(match func(*stockRow) bool) *stockRow {
	var found *stockRow
	for _, shelf := range s.shelves {
		for _, row := range shelf.rows {
			if row.OnHand() == 0 || !match(row) {
				continue
			}
			if found == nil || compareStock(row.Stock, found.Stock) < 0 {
				found = row
			}
		}
	}
	return found
}

func (s *State) openHold(id HoldID) (holdKey, *openHold) {
	key, ok := parseHoldID(id, s.tag)
	if !ok {
		return key, nil
	}
	return key, s.holds[key]
}

func (s *State) holdDocument(key holdKey, h *openHold) *Hold {
	hold := &Hold{
		ID: key.id(s.tag), Shelf: h.shelf.Shelf, ReasonCode: h.reasonCode, Deadline: h.deadline,
		Actor: h.actor, Status: HoldOpen, OpenedSequence: key.sequence, LastSequence: h.last,
		Lines: make([]HoldLine, len(h.lines)), Owner: h.owner,
	}
	for i, line := range h.lines {
		hold.Lines[i] = HoldLine{Lot: line.row.Lot, Quantity: line.quantity, Reserved: line.reserved}
	}
	return hold
}
