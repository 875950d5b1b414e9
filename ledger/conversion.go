package ledger

import "slices"

// Kinds of commands that make a lot out of others.
const (
	KindConvertStock  Kind = 33
	KindOpenContainer Kind = 34
)

const maxConversionInputs = 50

// ConvertStock uses up units of lots at a location and makes a new lot there:
// repacking, compounding, reconstituting. The new lot remembers what it was
// made from, so a recall of an ingredient reaches it.
type ConvertStock struct {
	LocationID LocationID
	Inputs     []LotLine
	// What is made. Its expiry must not lie after that of any input.
	MedicineID   MedicineID
	LotID        LotID // empty: the server makes one
	LotNumber    string
	Manufacturer string // who made it, for example the clinic's pharmacy
	Expiry       Date
	Quantity     int64 // base units of MedicineID
	Pack         string
	ReasonCode   string // for example REPACK, COMPOUND, RECONSTITUTE
	Reference    string // the batch record
}

// OpenContainer sets units of a lot apart as opened: they become a lot of their
// own, with the day until which they are good once opened, and are used first.
type OpenContainer struct {
	LocationID LocationID
	LotID      LotID
	Quantity   int64
	Pack       string
	InUseUntil Date // the last usable day; at most the lot's own expiry
	ReasonCode string
}

// Kind identifies the command.
func (*ConvertStock) Kind() Kind { return KindConvertStock }

// Kind identifies the command.
func (*OpenContainer) Kind() Kind { return KindOpenContainer }

func (b *ConvertStock) fields(c *codec) {
	text(c, &b.LocationID)
	lotLines(c, &b.Inputs)
	text(c, &b.MedicineID)
	text(c, &b.LotID)
	text(c, &b.LotNumber)
	text(c, &b.Manufacturer)
	number(c, &b.Expiry)
	number(c, &b.Quantity)
	text(c, &b.Pack)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func (b *OpenContainer) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.Pack)
	number(c, &b.InUseUntil)
	text(c, &b.ReasonCode)
}

func (b *ConvertStock) check() *Rejection {
	if len(b.Inputs) == 0 || len(b.Inputs) > maxConversionInputs {
		return reject(ReasonInvalidField, "lines", "A conversion uses 1 to %d lots; this one names %d.", maxConversionInputs, len(b.Inputs))
	}
	return first(
		checkReference("location_id", b.LocationID),
		checkLotLines(b.Inputs),
		checkReference("medicine_id", b.MedicineID),
		checkNewID("lot_id", b.LotID),
		word("lot_number", true)(b.LotNumber),
		name("manufacturer", true)(b.Manufacturer),
		checkExpiry(b.Expiry),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func (b *OpenContainer) check() *Rejection {
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkExpiry(b.InUseUntil).of("in_use_until"),
		checkCode("reason_code", b.ReasonCode, false),
	)
}

func (b *ConvertStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	made, r := s.medicineItem(b.MedicineID, at)
	if r != nil {
		return nil, r
	}
	quantity, r := made.units(s, b.Quantity, b.Pack)
	if r != nil {
		return nil, r
	}
	if today := s.today(at); b.Expiry < today {
		return nil, reject(ReasonInvalidField, "expiry", "The expiry is %s, and it is %s at the clinic.", b.Expiry, today)
	}
	lot := &Lot{
		ID: newID(s, b.LotID, lotPrefix), Medicine: made.medicine.ID, Active: true,
		LotFacts: LotFacts{Manufacturer: b.Manufacturer, LotNumber: b.LotNumber, Expiry: b.Expiry},
	}
	d := &draft{s: s}
	for i, line := range b.Inputs {
		if r := d.consume(location.ID, line, lot, at); r != nil {
			return nil, r.inLine(i)
		}
	}
	event, r := d.produce(b.Kind(), location.ID, lot, quantity)
	if r != nil {
		return nil, r
	}
	event.ReasonCode, event.Reference = b.ReasonCode, b.Reference
	return event, nil
}

// consume uses up one input of a conversion.
func (d *draft) consume(location LocationID, line LotLine, made *Lot, at Instant) *Rejection {
	found, quantity, r := d.s.lotLine(line, at)
	if r != nil {
		return r
	}
	if r := d.s.usable(found.lot, at); r != nil {
		return r
	}
	if made.Expiry > found.lot.Expiry {
		return reject(ReasonExpiryTooLate, "lot_id", "Lot %q expires on %s; what is made from it cannot last until %s.", found.lot.ID, found.lot.Expiry, made.Expiry).
			with("lot_id", found.lot.ID, "expiry", found.lot.Expiry)
	}
	if !slices.Contains(made.Parents, found.lot.ID) {
		made.Parents = append(made.Parents, found.lot.ID)
	}
	d.move(Shelf{location, found.lot.Medicine}, found.lot, Available, Converted, quantity)
	return d.refused
}

// produce makes the lot that a conversion ends in.
func (d *draft) produce(of Kind, location LocationID, lot *Lot, quantity int64) (*Change, *Rejection) {
	if r := d.s.newLot(lot); r != nil {
		return nil, r
	}
	if recall := d.s.recallOf(lot.LotFacts, ""); recall != nil {
		lot.Bar, lot.RecallID = BarRecalled, recall.RecallID
	}
	d.move(Shelf{location, lot.Medicine}, lot, Converted, availableOr(lot.Bar != BarNone), quantity)
	event := d.change(of)
	event.Lots = []Lot{*lot}
	return event, d.refused
}

// newLot refuses a lot that exists.
func (s *State) newLot(lot *Lot) *Rejection {
	r := unique(s, ReasonLotExists, "lot_id", s.lots, lot.ID, lotIdentity(lot.Medicine, lot.LotFacts))
	if r == nil && lot.GTIN != "" {
		r = unique(s, ReasonLotExists, "lot_id", s.lots, lot.ID, gtinLotIdentity(lot.GTIN, lot.LotNumber))
	}
	return r
}

func (b *OpenContainer) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	found, r := s.lotItem(b.LotID, at)
	if r != nil {
		return nil, r
	}
	quantity, r := found.units(s, b.Quantity, b.Pack)
	if r != nil {
		return nil, r
	}
	if today := s.today(at); b.InUseUntil < today {
		return nil, reject(ReasonInvalidField, "in_use_until", "in_use_until is %s, and it is %s at the clinic.", b.InUseUntil, today)
	}
	opened := &Lot{
		ID: LotID(deriveID(lotPrefix, s.tag, s.head.Sequence+1, 0)), Medicine: found.lot.Medicine, Active: true, LotFacts: found.lot.LotFacts,
	}
	opened.Expiry = b.InUseUntil
	// The number on the container, and which opening of it: unique, since
	// only one command has this sequence. A scan still finds the sealed lot.
	opened.LotNumber, opened.GTIN = s.openedNumber(found.lot), ""
	if opened.Manufacturer == "" {
		opened.Manufacturer = "GTIN " + found.lot.GTIN
	}
	d := &draft{s: s}
	line := LotLine{LotID: found.lot.ID, Quantity: quantity}
	if r := d.consume(location.ID, line, opened, at); r != nil {
		if r.Reason == ReasonExpiryTooLate {
			r.Field = "in_use_until"
		}
		return nil, r
	}
	event, r := d.produce(b.Kind(), location.ID, opened, quantity)
	if r != nil {
		return nil, r
	}
	event.ReasonCode = b.ReasonCode
	return event, nil
}

func (s *State) openedNumber(lot *Lot) string { return s.numbered(lot.LotNumber + "/opened") }
