package ledger

import (
	"crypto/sha256"
	"fmt"
)

// EventVersion is the version of the event format that this release writes.
// Releases read every version that was ever written.
const EventVersion = 1

// Event is an accepted command with every fact resolved: which lots, which
// ids, which balances. Replay needs nothing else.
type Event struct {
	Clinic         ClinicID
	Sequence       Sequence
	At             Instant // when it was recorded; never before the event before it
	OccurredAt     Instant // when it happened; at most At
	Actor          Actor
	IdempotencyKey string
	RequestHash    RequestHash
	Body           EventBody
	// Witness is the second person who stood by, or empty.
	Witness Actor
	// LateReasonCode is why it was recorded after the clinic's window for
	// backdating, or empty where it was not.
	LateReasonCode string
	// ReviewBy is until when a second person is to look at it, where the
	// clinic's policy wants that afterwards; else zero.
	ReviewBy Instant
}

// Kind identifies the command that the event came from.
func (e Event) Kind() Kind { return e.Body.kind() }

// EventBody is one of the event types of this package.
type EventBody interface {
	kind() Kind
	fields(*codec)
	// evolve changes the state and notes what it touched. The entries of an
	// event that moves stock are posted before it.
	evolve(s *State, e *Event, effects *Effects) error
}

// Line is one lot's part in a movement, with the held balances after it.
type Line struct {
	Lot      LotID
	Quantity int64
	After    Balances
}

// ClinicCreated begins a journal.
type ClinicCreated struct {
	Name           string
	TimeZone       string
	BackdatingDays int64
}

// ClinicUpdated carries the clinic as it is from now on.
type ClinicUpdated struct {
	Name           string
	TimeZone       string
	BackdatingDays int64
	Active         bool
}

// ClinicDeactivated ends the clinic's activity.
type ClinicDeactivated struct{ ReasonCode string }

// LocationCreated adds a location.
type LocationCreated struct {
	LocationID   LocationID
	Name         string
	LocationKind LocationKind
}

// LocationUpdated carries the location as it is from now on.
type LocationUpdated struct {
	LocationID   LocationID
	Name         string
	LocationKind LocationKind
	Active       bool
}

// LocationDeactivated ends a location's activity.
type LocationDeactivated struct {
	LocationID LocationID
	ReasonCode string
}

// MedicineAdded adds a medicine.
type MedicineAdded struct {
	MedicineID MedicineID
	MedicineFacts
}

// MedicineUpdated carries the medicine as it is from now on.
type MedicineUpdated struct {
	MedicineID MedicineID
	MedicineFacts
	Active bool
}

// MedicineFacts describe a medicine.
type MedicineFacts struct {
	Name     string
	BaseUnit string
	Strength string
	Form     string
	ATCCode  string
	Category string
	// ControlClass groups the medicines that the law controls alike, for
	// example schedule-2; empty for the others.
	ControlClass string `json:",omitempty"`
}

// MedicineDeactivated ends a medicine's activity.
type MedicineDeactivated struct {
	MedicineID MedicineID
	ReasonCode string
}

// LotRegistered adds a lot.
type LotRegistered struct {
	LotID      LotID
	MedicineID MedicineID
	LotFacts
	RecallID RecallID // the recall that the lot fell under at once, or empty
}

// LotUpdated carries the lot as it is from now on.
type LotUpdated struct {
	LotID LotID
	LotFacts
	Active   bool
	RecallID RecallID // the recall that the lot fell under by the change, or empty
}

// LotFacts describe a lot.
type LotFacts struct {
	Manufacturer string
	GTIN         string
	LotNumber    string
	Expiry       Date
}

// LotDeactivated ends a lot's activity.
type LotDeactivated struct {
	LotID      LotID
	ReasonCode string
}

// Shelf is one medicine at one location.
type Shelf struct {
	Location LocationID
	Medicine MedicineID
}

// StockReceived moved units from the supplier to the shelf.
type StockReceived struct {
	Shelf
	Lines       []Line
	Supplier    string
	Reference   string
	Quarantined bool // the lot was barred, so the units went to quarantine
}

// StockReserved moved units from available to reserved and opened a hold.
type StockReserved struct {
	Shelf
	HoldID     HoldID
	Lines      []Line
	ReasonCode string
	Deadline   Instant
}

// StockReleased moved units of a hold back to available.
type StockReleased struct {
	Shelf
	HoldID     HoldID
	Lines      []Line
	ReasonCode string
}

// ReservationExpired moved all units of an overdue hold back to available.
type ReservationExpired struct {
	Shelf
	HoldID HoldID
	Lines  []Line
}

// StockIssued moved units to issued, out of a hold where one is named.
type StockIssued struct {
	Shelf
	HoldID     HoldID // empty: from available
	Lines      []Line
	Recipient  string
	ReasonCode string
}

// StockAdjusted corrected available units.
type StockAdjusted struct {
	Shelf
	Direction  Direction
	Lines      []Line
	ReasonCode string
}

// StockWrittenOff moved units to wasted.
type StockWrittenOff struct {
	Shelf
	Lines          []Line
	ReasonCode     string
	Reference      string
	FromQuarantine bool
}

// StockReturnedToSupplier moved units back to the supplier.
type StockReturnedToSupplier struct {
	Shelf
	Lines          []Line
	ReasonCode     string
	Supplier       string
	Reference      string
	FromQuarantine bool
}

func (*ClinicCreated) kind() Kind       { return KindCreateClinic }
func (*ClinicUpdated) kind() Kind       { return KindUpdateClinic }
func (*ClinicDeactivated) kind() Kind   { return KindDeactivateClinic }
func (*LocationCreated) kind() Kind     { return KindCreateLocation }
func (*LocationUpdated) kind() Kind     { return KindUpdateLocation }
func (*LocationDeactivated) kind() Kind { return KindDeactivateLocation }
func (*MedicineAdded) kind() Kind       { return KindAddMedicine }
func (*MedicineUpdated) kind() Kind     { return KindUpdateMedicine }
func (*MedicineDeactivated) kind() Kind { return KindDeactivateMedicine }
func (*LotRegistered) kind() Kind       { return KindRegisterLot }
func (*LotUpdated) kind() Kind          { return KindUpdateLot }
func (*LotDeactivated) kind() Kind      { return KindDeactivateLot }
func (*StockReceived) kind() Kind       { return KindReceiveStock }
func (*StockReserved) kind() Kind       { return KindReserveStock }
func (*StockReleased) kind() Kind       { return KindReleaseStock }
func (*ReservationExpired) kind() Kind  { return KindExpireReservation }
func (*StockIssued) kind() Kind         { return KindIssueStock }
func (*StockAdjusted) kind() Kind       { return KindAdjustStock }
func (*StockWrittenOff) kind() Kind     { return KindWriteOffStock }

func (*StockReturnedToSupplier) kind() Kind { return KindReturnToSupplier }

func (b *ClinicCreated) fields(c *codec) {
	text(c, &b.Name)
	text(c, &b.TimeZone)
	number(c, &b.BackdatingDays)
}

func (b *ClinicUpdated) fields(c *codec) {
	text(c, &b.Name)
	text(c, &b.TimeZone)
	number(c, &b.BackdatingDays)
	c.flag(&b.Active)
}

func (b *ClinicDeactivated) fields(c *codec) { text(c, &b.ReasonCode) }

func (b *LocationCreated) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.Name)
	number(c, &b.LocationKind)
}

func (b *LocationUpdated) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.Name)
	number(c, &b.LocationKind)
	c.flag(&b.Active)
}

func (b *LocationDeactivated) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.ReasonCode)
}

func (f *MedicineFacts) fields(c *codec) {
	text(c, &f.Name)
	text(c, &f.BaseUnit)
	text(c, &f.Strength)
	text(c, &f.Form)
	text(c, &f.ATCCode)
	text(c, &f.Category)
}

// What later releases added to bodies of commands and events; see extra.
const (
	extraControlClass   = 1
	extraRecallID       = 2
	extraQuarantined    = 3
	extraFromQuarantine = 4
	extraPack           = 5
	extraWitness        = 100
	extraReviewBy       = 101
	extraLateReasonCode = 102
)

func (b *MedicineAdded) fields(c *codec) {
	text(c, &b.MedicineID)
	b.MedicineFacts.fields(c)
	extraText(c, extraControlClass, &b.ControlClass)
}

func (b *MedicineUpdated) fields(c *codec) {
	text(c, &b.MedicineID)
	b.MedicineFacts.fields(c)
	c.flag(&b.Active)
	extraText(c, extraControlClass, &b.ControlClass)
}

func (b *MedicineDeactivated) fields(c *codec) {
	text(c, &b.MedicineID)
	text(c, &b.ReasonCode)
}

func (f *LotFacts) fields(c *codec) {
	text(c, &f.Manufacturer)
	text(c, &f.GTIN)
	text(c, &f.LotNumber)
	number(c, &f.Expiry)
}

func (b *LotRegistered) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.MedicineID)
	b.LotFacts.fields(c)
	extraText(c, extraRecallID, &b.RecallID)
}

func (b *LotUpdated) fields(c *codec) {
	text(c, &b.LotID)
	b.LotFacts.fields(c)
	c.flag(&b.Active)
	extraText(c, extraRecallID, &b.RecallID)
}

func (b *LotDeactivated) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.ReasonCode)
}

func (s *Shelf) fields(c *codec) {
	text(c, &s.Location)
	text(c, &s.Medicine)
}

func (b *StockReceived) fields(c *codec) {
	b.Shelf.fields(c)
	c.lines(&b.Lines)
	text(c, &b.Supplier)
	text(c, &b.Reference)
	extraFlag(c, extraQuarantined, &b.Quarantined)
}

func (b *StockReserved) fields(c *codec) {
	b.Shelf.fields(c)
	text(c, &b.HoldID)
	c.lines(&b.Lines)
	text(c, &b.ReasonCode)
	number(c, &b.Deadline)
}

func (b *StockReleased) fields(c *codec) {
	b.Shelf.fields(c)
	text(c, &b.HoldID)
	c.lines(&b.Lines)
	text(c, &b.ReasonCode)
}

func (b *ReservationExpired) fields(c *codec) {
	b.Shelf.fields(c)
	text(c, &b.HoldID)
	c.lines(&b.Lines)
}

func (b *StockIssued) fields(c *codec) {
	b.Shelf.fields(c)
	text(c, &b.HoldID)
	c.lines(&b.Lines)
	text(c, &b.Recipient)
	text(c, &b.ReasonCode)
}

func (b *StockAdjusted) fields(c *codec) {
	b.Shelf.fields(c)
	number(c, &b.Direction)
	c.lines(&b.Lines)
	text(c, &b.ReasonCode)
}

func (b *StockWrittenOff) fields(c *codec) {
	b.Shelf.fields(c)
	c.lines(&b.Lines)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
	extraFlag(c, extraFromQuarantine, &b.FromQuarantine)
}

func (b *StockReturnedToSupplier) fields(c *codec) {
	b.Shelf.fields(c)
	c.lines(&b.Lines)
	text(c, &b.ReasonCode)
	text(c, &b.Supplier)
	text(c, &b.Reference)
	extraFlag(c, extraFromQuarantine, &b.FromQuarantine)
}

func (e *Event) fields(c *codec) {
	text(c, &e.Clinic)
	number(c, &e.Sequence)
	number(c, &e.At)
	number(c, &e.OccurredAt)
	text(c, &e.Actor)
	text(c, &e.IdempotencyKey)
	c.bytes(e.RequestHash[:])
	e.Body.fields(c)
	extraText(c, extraWitness, &e.Witness)
	extra(c, extraReviewBy, &e.ReviewBy)
	extraText(c, extraLateReasonCode, &e.LateReasonCode)
}

// AppendEvent appends the stored form of e to dst: version, kind, envelope,
// body.
func AppendEvent(dst []byte, e Event) []byte {
	c := codec{buf: dst}
	version, kind := EventVersion, e.Kind()
	number(&c, &version)
	number(&c, &kind)
	e.fields(&c)
	return c.buf
}

// DecodeEvent reads the stored form. It accepts exactly what [AppendEvent]
// writes: trailing bytes, unknown versions and kinds, and any second spelling
// of a value are errors.
func DecodeEvent(stored []byte) (Event, error) {
	c := codec{buf: stored, reading: true}
	var version int
	var kind Kind
	number(&c, &version)
	number(&c, &kind)
	if c.err != nil {
		return Event{}, fmt.Errorf("event header: %w", c.err)
	}
	if version != EventVersion {
		return Event{}, fmt.Errorf("event format version %d is unknown to this release, which reads version %d", version, EventVersion)
	}
	spec, ok := kinds[kind]
	if !ok {
		return Event{}, fmt.Errorf("event kind %d is unknown to this release", int16(kind))
	}
	e := Event{Body: spec.event()}
	e.fields(&c)
	if c.err != nil {
		return Event{}, fmt.Errorf("%s event: %w", spec.name, c.err)
	}
	if len(c.buf) != 0 {
		return Event{}, fmt.Errorf("%s event: %d bytes follow its end", spec.name, len(c.buf))
	}
	return e, nil
}

// Hash is a link of a clinic's hash chain.
type Hash [sha256.Size]byte

// String writes the hash in hexadecimal.
func (h Hash) String() string { return fmt.Sprintf("%x", h[:]) }

// Genesis is the link before a clinic's first event. The clinic's id is in it,
// so no journal passes for another clinic's.
func Genesis(clinic ClinicID) Hash {
	return sha256.Sum256([]byte("stockledger journal of clinic " + string(clinic)))
}

// Chain links an event, as stored, to what came before it.
func Chain(previous Hash, stored []byte) Hash {
	h := sha256.New()
	h.Write(previous[:])
	h.Write(stored)
	return Hash(h.Sum(nil))
}

// Record is one row of a journal: an event, its stored bytes and the hash that
// links them to all events before.
type Record struct {
	Event  Event
	Stored []byte
	Hash   Hash
}

// Seal encodes the event and links it to the state's head.
func Seal(s *State, e Event) Record {
	stored := AppendEvent(make([]byte, 0, 224), e)
	return Record{Event: e, Stored: stored, Hash: Chain(s.head.Hash, stored)}
}

// OpenRecord decodes the stored bytes of a journal row.
func OpenRecord(stored []byte, hash Hash) (Record, error) {
	e, err := DecodeEvent(stored)
	if err != nil {
		return Record{}, err
	}
	return Record{Event: e, Stored: stored, Hash: hash}, nil
}
