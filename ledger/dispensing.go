package ledger

import "slices"

// DispensingID names a dispensing, and is what people call it: DN- and the
// sequence of the command that began it. It is unique in the clinic.
type DispensingID string

const dispensingPrefix = "DN-"

// ChargeID names a billing event: BL- and the sequence of the command that
// emitted it. It is unique in the clinic.
type ChargeID string

// Kinds of commands about dispensing.
const (
	KindDispenseMedicine  Kind = 62
	KindPrepareDispensing Kind = 63
	KindCheckDispensing   Kind = 64
	KindHandOver          Kind = 65
	KindCancelDispensing  Kind = 66
	KindReturnFromPatient Kind = 67
)

// DispensingStatus says how far a dispensing has come. The numbers are stored.
type DispensingStatus int16

// The states of a dispensing.
const (
	DispensingPrepared   DispensingStatus = 1 // lies ready, reserved
	DispensingChecked    DispensingStatus = 2 // somebody looked at what lies ready
	DispensingHandedOver DispensingStatus = 3 // the patient has it
	DispensingCancelled  DispensingStatus = 4
)

// Dispensing is one medicine given to a patient, in base units.
type Dispensing struct {
	DispensingID   DispensingID
	Status         DispensingStatus
	PrescriptionID PrescriptionID // empty: sold over the counter
	Line           int64          // of the prescription, from 1
	PatientID      PatientID      // empty: nobody known
	Location       LocationID
	Medicine       MedicineID
	// Prescribed is what the prescription says, where another medicine was
	// given for it.
	Prescribed         MedicineID
	SubstitutionReason string
	Lots               []DispensedLot
	Quantity           int64 // what the patient gets
	Wasted             int64 // what was taken for it and thrown away
	WasteReason        string
	Day                Date    // at the clinic, when it happened
	CollectBy          Instant // until when it lies ready
	HoldID             HoldID  // what reserves it until then
	Preparer           Actor
	Checker            Actor
	Dispenser          Actor // who handed it over
	Witness            Actor
	Amount             int64 // in minor units
	Currency           string
	PriceFrom          Date // the day from which the price counts; zero: there was none
	Payer              string
	ChargeID           ChargeID
	ReasonCode         string // why it was cancelled
	// Of what was recorded after a downtime.
	Exceptions []Reason // the rules that were broken
	Shortage   int64    // units that were not in the books
}

// DispensedLot is one lot's part in a dispensing, in base units.
type DispensedLot struct {
	Lot      LotID
	Quantity int64 // what the patient gets
	Wasted   int64
	Returned int64 // what the patient brought back
}

// About is for the index of documents.
func (d *Dispensing) About() About {
	return About{
		DocumentKey: DocumentKey{DocumentDispensing, string(d.DispensingID)},
		Open:        d.Status < DispensingHandedOver, Location: d.Location,
		Patient: d.PatientID, Day: d.Day, Due: d.CollectBy,
	}
}

func (d *Dispensing) opened() Sequence { return numberOf(string(d.DispensingID)) }

func (d *Dispensing) fields(c *codec) {
	text(c, &d.DispensingID)
	number(c, &d.Status)
	text(c, &d.PrescriptionID)
	number(c, &d.Line)
	text(c, &d.PatientID)
	text(c, &d.Location)
	text(c, &d.Medicine)
	text(c, &d.Prescribed)
	text(c, &d.SubstitutionReason)
	list(c, &d.Lots, 4, func(c *codec, l *DispensedLot) {
		text(c, &l.Lot)
		number(c, &l.Quantity)
		number(c, &l.Wasted)
		number(c, &l.Returned)
	})
	number(c, &d.Quantity)
	number(c, &d.Wasted)
	text(c, &d.WasteReason)
	number(c, &d.Day)
	number(c, &d.CollectBy)
	text(c, &d.HoldID)
	text(c, &d.Preparer)
	text(c, &d.Checker)
	text(c, &d.Dispenser)
	text(c, &d.Witness)
	number(c, &d.Amount)
	text(c, &d.Currency)
	number(c, &d.PriceFrom)
	text(c, &d.Payer)
	text(c, &d.ChargeID)
	text(c, &d.ReasonCode)
	list(c, &d.Exceptions, 1, text[Reason])
	number(c, &d.Shortage)
}

func (d *Dispensing) clone() *Dispensing {
	next := *d
	next.Lots = slices.Clone(d.Lots)
	return &next
}

// Charge is a billing event: what a dispensing costs, or that it is not to be
// paid after all. There is one for each dispensing that was handed over, and
// one more that reverses it where it was cancelled.
type Charge struct {
	ChargeID       ChargeID
	Reverses       ChargeID // the charge that it takes back, or empty
	DispensingID   DispensingID
	PrescriptionID PrescriptionID
	PatientID      PatientID
	Location       LocationID
	Medicine       MedicineID
	Quantity       int64
	Amount         int64 // in minor units; negative where it reverses another
	Currency       string
	PriceFrom      Date // zero: the medicine had no price, and nothing is charged
	Payer          string
	Day            Date
}

// About is for the index of documents.
func (b *Charge) About() About {
	return About{DocumentKey: DocumentKey{DocumentCharge, string(b.ChargeID)}, Location: b.Location, Patient: b.PatientID, Day: b.Day}
}

func (b *Charge) opened() Sequence { return numberOf(string(b.ChargeID)) }

func (b *Charge) fields(c *codec) {
	text(c, &b.ChargeID)
	text(c, &b.Reverses)
	text(c, &b.DispensingID)
	text(c, &b.PrescriptionID)
	text(c, &b.PatientID)
	text(c, &b.Location)
	text(c, &b.Medicine)
	number(c, &b.Quantity)
	signed(c, &b.Amount)
	text(c, &b.Currency)
	number(c, &b.PriceFrom)
	text(c, &b.Payer)
	number(c, &b.Day)
}

// Dispense is what DispenseMedicine and PrepareDispensing have in common.
type Dispense struct {
	LocationID LocationID
	// PrescriptionID may be an external identifier. Empty: over the counter.
	PrescriptionID PrescriptionID
	Line           int64  // from 1; 0 where the prescription has one line
	Etag           string // of the prescription
	PatientID      PatientID
	MedicineID     MedicineID // empty: the prescribed one, or that of the lot
	LotID          LotID      // empty: first expired first
	Quantity       int64
	Pack           string
	// SubstitutionReason says why another medicine than the prescribed one is
	// given.
	SubstitutionReason string
	WastedQuantity     int64 // base units thrown away beside what the patient gets
	WasteReason        string
	Payer              string // a code of who pays, never a person
}

// DispenseMedicine gives a medicine to a patient in one step.
type DispenseMedicine struct{ Dispense }

// PrepareDispensing lays a medicine ready, reserved until it is collected.
type PrepareDispensing struct {
	Dispense
	CollectBy Instant
}

// CheckDispensing confirms that what lies ready is what was prescribed.
type CheckDispensing struct{ DispensingID DispensingID }

// HandOver gives a patient what lies ready.
type HandOver struct{ DispensingID DispensingID }

// CancelDispensing takes a dispensing back. What lies ready goes back to the
// shelf; so does what was handed over, but only where it never left custody,
// else it goes to quarantine.
type CancelDispensing struct {
	DispensingID     DispensingID
	ReasonCode       string
	NeverLeftCustody bool
}

// ReturnFromPatient takes units back that a patient had. They go to quarantine,
// or are destroyed; nobody else gets them.
type ReturnFromPatient struct {
	DispensingID DispensingID
	Lines        []LotLine
	ReasonCode   string
	Destroy      bool
}

// Kind identifies the command.
func (*DispenseMedicine) Kind() Kind { return KindDispenseMedicine }

// Kind identifies the command.
func (*PrepareDispensing) Kind() Kind { return KindPrepareDispensing }

// Kind identifies the command.
func (*CheckDispensing) Kind() Kind { return KindCheckDispensing }

// Kind identifies the command.
func (*HandOver) Kind() Kind { return KindHandOver }

// Kind identifies the command.
func (*CancelDispensing) Kind() Kind { return KindCancelDispensing }

// Kind identifies the command.
func (*ReturnFromPatient) Kind() Kind { return KindReturnFromPatient }

func (b *Dispense) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.PrescriptionID)
	number(c, &b.Line)
	text(c, &b.Etag)
	text(c, &b.PatientID)
	text(c, &b.MedicineID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.Pack)
	text(c, &b.SubstitutionReason)
	number(c, &b.WastedQuantity)
	text(c, &b.WasteReason)
	text(c, &b.Payer)
}

func (b *PrepareDispensing) fields(c *codec) {
	b.Dispense.fields(c)
	number(c, &b.CollectBy)
}

func (b *CheckDispensing) fields(c *codec) { text(c, &b.DispensingID) }

func (b *HandOver) fields(c *codec) { text(c, &b.DispensingID) }

func (b *CancelDispensing) fields(c *codec) {
	text(c, &b.DispensingID)
	text(c, &b.ReasonCode)
	c.flag(&b.NeverLeftCustody)
}

func (b *ReturnFromPatient) fields(c *codec) {
	text(c, &b.DispensingID)
	lotLines(c, &b.Lines)
	text(c, &b.ReasonCode)
	c.flag(&b.Destroy)
}

func (b *Dispense) check() *Rejection {
	counter := b.PrescriptionID == ""
	switch {
	case counter && b.MedicineID == "" && b.LotID == "":
		return reject(ReasonInvalidField, "medicine_id", "Without a prescription, name the medicine, or scan the lot.")
	case counter && (b.Line != 0 || b.Etag != "" || b.SubstitutionReason != ""):
		return reject(ReasonInvalidField, "prescription_id", "A line, an etag and a substitution belong to a prescription, and none is named.")
	case !counter && b.PatientID != "":
		return reject(ReasonInvalidField, "patient_id", "The prescription says who the patient is: leave the patient_id out.")
	case b.Line < 0 || b.Line > maxPrescriptionLines:
		return reject(ReasonInvalidField, "line", "Lines count from 1 to %d.", maxPrescriptionLines)
	case b.WastedQuantity < 0 || b.WastedQuantity > MaxQuantity:
		return reject(ReasonQuantityOutOfRange, "wasted_quantity", "The wasted quantity is %d.", b.WastedQuantity)
	case (b.WastedQuantity == 0) != (b.WasteReason == ""):
		return reject(ReasonInvalidField, "waste_reason", "What is wasted needs a reason, and a reason belongs to what is wasted.")
	}
	return first(
		checkReference("location_id", b.LocationID),
		checkOptionalReference("prescription_id", b.PrescriptionID),
		checkEtag(b.Etag),
		checkOptionalPatient(b.PatientID),
		checkOptionalReference("medicine_id", b.MedicineID),
		checkOptionalReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("substitution_reason", b.SubstitutionReason, false),
		checkCode("waste_reason", b.WasteReason, false),
		checkCode("payer", b.Payer, false),
	)
}

func checkOptionalPatient(id PatientID) *Rejection {
	if id == "" {
		return nil
	}
	return checkPatientID(id)
}

func (b *PrepareDispensing) check() *Rejection {
	if b.CollectBy <= 0 || b.CollectBy > MaxInstant {
		return reject(ReasonInvalidField, "collect_by", "It needs a collect_by after the present and before the year 10000.")
	}
	return b.Dispense.check()
}

func (b *CheckDispensing) check() *Rejection { return checkID("dispensing_id", b.DispensingID) }

func (b *HandOver) check() *Rejection { return checkID("dispensing_id", b.DispensingID) }

func (b *CancelDispensing) check() *Rejection {
	return first(checkID("dispensing_id", b.DispensingID), checkCode("reason_code", b.ReasonCode, true))
}

func (b *ReturnFromPatient) check() *Rejection {
	return first(checkID("dispensing_id", b.DispensingID), checkLotLines(b.Lines), checkCode("reason_code", b.ReasonCode, true))
}
