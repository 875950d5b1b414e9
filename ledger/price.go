package ledger

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
)

// Kinds of commands about what is charged and what the law limits.
const (
	KindSetPrice        Kind = 18
	KindSetControlLimit Kind = 19
)

const maxPrices = 200

// Prices are what a medicine costs, by the first day on which each counts.
type Prices struct {
	MedicineID MedicineID
	Prices     []Price // the earliest first
}

// Price is what units of a medicine cost from a day on.
type Price struct {
	From     Date
	Amount   int64  // in minor units of the currency, 0 to 2^53
	Per      int64  // for how many base units
	Currency string // ISO 4217
}

// About is for the index of documents.
func (p *Prices) About() About {
	return About{DocumentKey: DocumentKey{DocumentPrices, string(p.MedicineID)}, Open: true}
}

func (p *Prices) fields(c *codec) {
	text(c, &p.MedicineID)
	list(c, &p.Prices, 4, func(c *codec, price *Price) {
		number(c, &price.From)
		number(c, &price.Amount)
		number(c, &price.Per)
		text(c, &price.Currency)
	})
}

// price is what a medicine costs on a day; ok is false where nobody said.
func (s *State) price(medicine MedicineID, day Date) (price Price, ok bool) {
	prices := document[Prices](s, DocumentPrices, string(medicine))
	if prices == nil {
		return price, false
	}
	for _, p := range prices.Prices {
		if p.From <= day {
			price, ok = p, true
		}
	}
	return price, ok
}

// of is what a quantity costs, rounded to the nearest minor unit, halves up; ok
// is false where it exceeds 2^53.
func (p Price) of(quantity int64) (amount int64, ok bool) {
	high, low := bits.Mul64(uint64(quantity), uint64(p.Amount))
	low, carry := bits.Add64(low, uint64(p.Per/2), 0)
	high += carry
	if high >= uint64(p.Per) {
		return 0, false
	}
	quotient, _ := bits.Div64(high, low, uint64(p.Per))
	return int64(quotient), quotient <= uint64(MaxQuantity)
}

// SetPrice says what a medicine costs from a day on. A price that counts from
// the same day is replaced. What was dispensed before keeps its price.
type SetPrice struct {
	MedicineID MedicineID
	Price
	Pack string // what Per counts; empty: base units
	Etag string
}

// Kind identifies the command.
func (*SetPrice) Kind() Kind { return KindSetPrice }

func (b *SetPrice) fields(c *codec) {
	text(c, &b.MedicineID)
	number(c, &b.From)
	number(c, &b.Amount)
	number(c, &b.Per)
	text(c, &b.Currency)
	text(c, &b.Pack)
	text(c, &b.Etag)
}

func (b *SetPrice) check() *Rejection {
	switch {
	case b.Amount < 0 || b.Amount > MaxQuantity:
		return reject(ReasonQuantityOutOfRange, "amount_minor", "The amount is %d minor units.", b.Amount)
	case b.Per < 1 || b.Per > MaxQuantity:
		return reject(ReasonQuantityOutOfRange, "per_quantity", "The price is for %d units.", b.Per)
	case len(b.Currency) != 3 || strings.Trim(b.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		return reject(ReasonInvalidField, "currency", "The currency must be a code of ISO 4217: three capital letters.")
	}
	return first(checkReference("medicine_id", b.MedicineID), checkDay("effective_from", b.From), checkPack(b.Pack), checkEtag(b.Etag))
}

func (b *SetPrice) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	found, r := s.medicineItem(b.MedicineID, at)
	if r != nil {
		return nil, r
	}
	price := b.Price
	if price.Per, r = found.units(s, b.Per, b.Pack); r != nil {
		return nil, r.of("per_quantity")
	}
	next := &Prices{MedicineID: found.medicine.ID}
	key := next.About().DocumentKey
	if r := s.checkDocumentVersion(b.Etag, key); r != nil {
		return nil, r
	}
	if old := document[Prices](s, key.Kind, key.ID); old != nil {
		next.Prices = slices.DeleteFunc(slices.Clone(old.Prices), func(p Price) bool { return p.From == price.From })
	}
	next.Prices = append(next.Prices, price)
	slices.SortFunc(next.Prices, func(a, b Price) int { return cmp.Compare(a.From, b.From) })
	if len(next.Prices) > maxPrices {
		// The oldest ones have been charged; they stay in the journal.
		next.Prices = next.Prices[len(next.Prices)-maxPrices:]
	}
	return &Change{of: b.Kind(), Documents: []DocumentBody{next}}, nil
}

// ControlLimit is what the law allows for a control class. Zero does not limit.
type ControlLimit struct {
	ControlClass         string
	MaxQuantity          int64 // base units of one dispensing, and of one fill
	NoRefills            bool
	MaxRefills           int64
	MaxValidDays         int64 // from the day of the prescription
	PrescriptionRequired bool  // never sold over the counter
}

// About is for the index of documents.
func (l *ControlLimit) About() About {
	return About{DocumentKey: DocumentKey{DocumentControlLimit, l.ControlClass}, Open: true}
}

func (l *ControlLimit) fields(c *codec) {
	text(c, &l.ControlClass)
	number(c, &l.MaxQuantity)
	c.flag(&l.NoRefills)
	number(c, &l.MaxRefills)
	number(c, &l.MaxValidDays)
	c.flag(&l.PrescriptionRequired)
}

// SetControlLimit says what the law allows for a control class.
type SetControlLimit struct {
	ControlLimit
	Etag string
}

// Kind identifies the command.
func (*SetControlLimit) Kind() Kind { return KindSetControlLimit }

func (b *SetControlLimit) fields(c *codec) {
	b.ControlLimit.fields(c)
	text(c, &b.Etag)
}

const maxValidDays = 3650

func (b *SetControlLimit) check() *Rejection {
	switch {
	case b.MaxQuantity < 0 || b.MaxQuantity > MaxQuantity:
		return reject(ReasonQuantityOutOfRange, "max_quantity", "The limit is %d units.", b.MaxQuantity)
	case b.MaxRefills < 0 || b.MaxRefills > maxRefills || b.NoRefills && b.MaxRefills > 0:
		return reject(ReasonInvalidField, "max_refills", "max_refills must be 0 to %d, and 0 where there are to be none.", maxRefills)
	case b.MaxValidDays < 0 || b.MaxValidDays > maxValidDays:
		return reject(ReasonInvalidField, "max_valid_days", "max_valid_days must be 0 to %d.", maxValidDays)
	}
	return first(checkCode("control_class", b.ControlClass, true), checkEtag(b.Etag))
}

func (b *SetControlLimit) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	limit := b.ControlLimit
	if r := s.checkDocumentVersion(b.Etag, limit.About().DocumentKey); r != nil {
		return nil, r
	}
	return &Change{of: b.Kind(), Documents: []DocumentBody{&limit}}, nil
}

// controlLimit is what the law allows for a medicine, or nil.
func (s *State) controlLimit(medicine MedicineID) *ControlLimit {
	m := s.medicines[medicine]
	if m == nil || m.ControlClass == "" {
		return nil
	}
	return document[ControlLimit](s, DocumentControlLimit, m.ControlClass)
}

// withinControlLimits judges a line of a prescription by its medicine's class.
func (s *State) withinControlLimits(line *PrescriptionLine, validUntil, today Date) *Rejection {
	limit := s.controlLimit(line.Medicine)
	if limit == nil {
		return nil
	}
	if (limit.NoRefills || limit.MaxRefills > 0) && line.Refills > limit.MaxRefills {
		return reject(ReasonControlRefillsExceeded, "refills", "Medicines of class %q may be refilled %d times; refills is %d.", limit.ControlClass, limit.MaxRefills, line.Refills).
			with("control_class", limit.ControlClass, "max_refills", limit.MaxRefills)
	}
	if limit.MaxValidDays > 0 && int64(validUntil-today) > limit.MaxValidDays {
		return reject(ReasonControlValidityExceeded, "valid_until", "Prescriptions of class %q are valid for %d days at most; valid_until is %s.", limit.ControlClass, limit.MaxValidDays, validUntil).
			with("control_class", limit.ControlClass, "max_valid_days", limit.MaxValidDays)
	}
	return limit.allows(line.Quantity)
}

// allows judges a quantity of one dispensing.
func (l *ControlLimit) allows(quantity int64) *Rejection {
	if l == nil || l.MaxQuantity == 0 || quantity <= l.MaxQuantity {
		return nil
	}
	return reject(ReasonControlQuantityExceeded, "quantity", "At most %d units of class %q may be dispensed at a time; %d were asked for.", l.MaxQuantity, l.ControlClass, quantity).
		with("control_class", l.ControlClass, "max_quantity", l.MaxQuantity, "requested", quantity)
}
