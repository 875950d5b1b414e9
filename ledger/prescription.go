package ledger

import (
	"slices"
	"strconv"
	"strings"
)

// PrescriptionID names a prescription, and is what people call it: RX- and the
// sequence of the command that created it. It is unique in the clinic.
type PrescriptionID string

// Kinds of commands about prescriptions.
const (
	KindCreatePrescription         Kind = 60
	KindCancelPrescription         Kind = 61
	KindSetPrescriptionTemplate    Kind = 69
	KindRemovePrescriptionTemplate Kind = 70
)

// PrescriptionStatus says what became of a prescription. The numbers are
// stored. Whether it has expired follows from ValidUntil and the day.
type PrescriptionStatus int16

// The states of a prescription.
const (
	PrescriptionActive    PrescriptionStatus = 1
	PrescriptionFilled    PrescriptionStatus = 2 // everything was dispensed
	PrescriptionCancelled PrescriptionStatus = 3
)

// Limits of one prescription.
const (
	maxPrescriptionLines = 50
	maxRefills           = 999
)

// Prescription is what a prescriber ordered for a patient.
type Prescription struct {
	PrescriptionID PrescriptionID
	Status         PrescriptionStatus
	PatientID      PatientID
	Location       LocationID // where it is to be filled; empty: anywhere
	Lines          []PrescriptionLine
	Prescriber     string
	Written        Instant // when the prescriber wrote it
	ValidUntil     Date    // the last day on which it can be filled
	Identifier     string  // system|value, unique in the clinic; may be empty
	TemplateID     TemplateID
	ReasonCode     string // why it was cancelled
	// TextDigest names the text that belongs to it, which is kept outside of
	// the journal: see Patient.
	TextDigest string
}

// PrescriptionLine is one medicine of a prescription, in base units.
type PrescriptionLine struct {
	Medicine       MedicineID
	Quantity       int64 // of one fill
	Refills        int64 // how often it may be filled beyond the first time
	NoSubstitution bool
	Dosage         string // of the template; what concerns the patient is kept elsewhere
	Dispensed      int64  // net of cancelled dispensings
	Prepared       int64  // lies ready to be handed over
	HoldID         HoldID // what was reserved for it, if anything
}

// Left is what may still be dispensed; it is negative where more was dispensed
// during downtime than was prescribed.
func (l *PrescriptionLine) Left() int64 {
	return l.Quantity*(1+l.Refills) - l.Dispensed - l.Prepared
}

// About is for the index of documents.
func (p *Prescription) About() About {
	return About{
		DocumentKey: DocumentKey{DocumentPrescription, string(p.PrescriptionID)},
		Open:        p.Status == PrescriptionActive, Location: p.Location, Patient: p.PatientID,
	}
}

func (p *Prescription) opened() Sequence { return numberOf(string(p.PrescriptionID)) }

// numberOf is the sequence in an id that people read, or zero.
func numberOf(id string) Sequence {
	_, number, _ := strings.Cut(id, "-")
	sequence, err := strconv.ParseInt(number, 10, 64)
	if err != nil || sequence < 0 {
		return 0
	}
	return Sequence(sequence)
}

func (p *Prescription) fields(c *codec) {
	text(c, &p.PrescriptionID)
	number(c, &p.Status)
	text(c, &p.PatientID)
	text(c, &p.Location)
	list(c, &p.Lines, 8, func(c *codec, l *PrescriptionLine) {
		text(c, &l.Medicine)
		number(c, &l.Quantity)
		number(c, &l.Refills)
		c.flag(&l.NoSubstitution)
		text(c, &l.Dosage)
		number(c, &l.Dispensed)
		number(c, &l.Prepared)
		text(c, &l.HoldID)
	})
	text(c, &p.Prescriber)
	number(c, &p.Written)
	number(c, &p.ValidUntil)
	text(c, &p.Identifier)
	text(c, &p.TemplateID)
	text(c, &p.ReasonCode)
	text(c, &p.TextDigest)
}

func (p *Prescription) clone() *Prescription {
	next := *p
	next.Lines = slices.Clone(p.Lines)
	return &next
}

// settle sets the status that follows from the lines.
func (p *Prescription) settle() {
	if p.Status == PrescriptionCancelled {
		return
	}
	p.Status = PrescriptionFilled
	for i := range p.Lines {
		if p.Lines[i].Left() > 0 || p.Lines[i].Prepared > 0 {
			p.Status = PrescriptionActive
		}
	}
}

// PrescriptionIdentifier says which prescription an external identifier names.
type PrescriptionIdentifier struct {
	Identifier     string // system|value
	PrescriptionID PrescriptionID
}

// About is for the index of documents.
func (i *PrescriptionIdentifier) About() About {
	return About{DocumentKey: DocumentKey{DocumentPrescriptionIdentifier, i.Identifier}}
}

func (i *PrescriptionIdentifier) fields(c *codec) {
	text(c, &i.Identifier)
	text(c, &i.PrescriptionID)
}

// TemplateID names a template for prescriptions. It is chosen by the clinic.
type TemplateID string

// PrescriptionTemplate is lines that are often prescribed together.
type PrescriptionTemplate struct {
	TemplateID TemplateID
	Name       string
	Lines      []TemplateLine
	Removed    bool
}

// TemplateLine is one medicine of a template, in base units.
type TemplateLine struct {
	Medicine       MedicineID
	Quantity       int64
	Refills        int64
	NoSubstitution bool
	Dosage         string // for every patient alike
}

// About is for the index of documents.
func (t *PrescriptionTemplate) About() About {
	return About{DocumentKey: DocumentKey{DocumentPrescriptionTemplate, string(t.TemplateID)}, Open: !t.Removed}
}

func (t *PrescriptionTemplate) fields(c *codec) {
	text(c, &t.TemplateID)
	text(c, &t.Name)
	list(c, &t.Lines, 5, func(c *codec, l *TemplateLine) {
		text(c, &l.Medicine)
		number(c, &l.Quantity)
		number(c, &l.Refills)
		c.flag(&l.NoSubstitution)
		text(c, &l.Dosage)
	})
	c.flag(&t.Removed)
}

// CreatePrescription records what a prescriber ordered for a patient.
type CreatePrescription struct {
	PatientID  PatientID
	LocationID LocationID // where it is to be filled; needed to hold stock
	Lines      []PrescribedLine
	TemplateID TemplateID // whose lines to take where there are none
	Prescriber string
	ValidUntil Date
	Identifier string // system|value, for example the number on the paper; may be empty
	// HoldUntil, where not zero, reserves one fill of each line until then.
	HoldUntil Instant
	// TextDigest names the text that belongs to it, see Patient.
	TextDigest string
}

// PrescribedLine asks for a medicine.
type PrescribedLine struct {
	MedicineID     MedicineID
	Quantity       int64 // of one fill
	Pack           string
	Refills        int64 // 0 to 999
	NoSubstitution bool
	Dosage         string // only in templates
}

// CancelPrescription ends a prescription. What it reserves is released.
type CancelPrescription struct {
	PrescriptionID PrescriptionID
	ReasonCode     string
	Etag           string
}

// SetPrescriptionTemplate makes a template, or replaces it.
type SetPrescriptionTemplate struct {
	TemplateID TemplateID
	Name       string
	Lines      []PrescribedLine
	Etag       string
}

// RemovePrescriptionTemplate removes a template. What was made from it stays.
type RemovePrescriptionTemplate struct {
	TemplateID TemplateID
	Etag       string
}

// Kind identifies the command.
func (*CreatePrescription) Kind() Kind { return KindCreatePrescription }

// Kind identifies the command.
func (*CancelPrescription) Kind() Kind { return KindCancelPrescription }

// Kind identifies the command.
func (*SetPrescriptionTemplate) Kind() Kind { return KindSetPrescriptionTemplate }

// Kind identifies the command.
func (*RemovePrescriptionTemplate) Kind() Kind { return KindRemovePrescriptionTemplate }

func prescribedLines(c *codec, p *[]PrescribedLine) {
	list(c, p, 6, func(c *codec, l *PrescribedLine) {
		text(c, &l.MedicineID)
		number(c, &l.Quantity)
		text(c, &l.Pack)
		number(c, &l.Refills)
		c.flag(&l.NoSubstitution)
		text(c, &l.Dosage)
	})
}

func (b *CreatePrescription) fields(c *codec) {
	text(c, &b.PatientID)
	text(c, &b.LocationID)
	prescribedLines(c, &b.Lines)
	text(c, &b.TemplateID)
	text(c, &b.Prescriber)
	number(c, &b.ValidUntil)
	text(c, &b.Identifier)
	number(c, &b.HoldUntil)
	text(c, &b.TextDigest)
}

func (b *CancelPrescription) fields(c *codec) {
	text(c, &b.PrescriptionID)
	text(c, &b.ReasonCode)
	text(c, &b.Etag)
}

func (b *SetPrescriptionTemplate) fields(c *codec) {
	text(c, &b.TemplateID)
	text(c, &b.Name)
	prescribedLines(c, &b.Lines)
	text(c, &b.Etag)
}

func (b *RemovePrescriptionTemplate) fields(c *codec) {
	text(c, &b.TemplateID)
	text(c, &b.Etag)
}

func (b *CreatePrescription) check() *Rejection {
	switch {
	case b.HoldUntil != 0 && b.LocationID == "":
		return reject(ReasonInvalidField, "location_id", "To hold stock, a prescription needs the location that it is to be filled at.")
	case b.HoldUntil < 0 || b.HoldUntil > MaxInstant:
		return reject(ReasonInvalidField, "hold_until", "hold_until must lie after the present and before the year 10000.")
	case len(b.Lines) == 0 && b.TemplateID == "":
		return reject(ReasonInvalidField, "lines", "A prescription needs lines, or a template to take them from.")
	case len(b.Lines) > 0 && b.TemplateID != "":
		return reject(ReasonInvalidField, "template_id", "Give either lines or a template to take them from.")
	}
	return first(
		checkPatientID(b.PatientID),
		checkOptionalReference("location_id", b.LocationID),
		checkPrescribed(b.Lines, false),
		checkOptionalID("template_id", b.TemplateID),
		name("prescriber", true)(b.Prescriber),
		checkDay("valid_until", b.ValidUntil),
		checkPrescriptionIdentifier(b.Identifier),
		checkTextDigest("note", b.TextDigest),
	)
}

// checkPrescribed judges the lines of a prescription or a template.
func checkPrescribed(lines []PrescribedLine, template bool) *Rejection {
	if len(lines) > maxPrescriptionLines || template && len(lines) == 0 {
		return reject(ReasonInvalidField, "lines", "There must be 1 to %d lines; there are %d.", maxPrescriptionLines, len(lines))
	}
	for i, line := range lines {
		r := first(
			checkReference("medicine_id", line.MedicineID),
			checkQuantity(line.Quantity, false),
			checkPack(line.Pack),
			checkText("dosage_text", line.Dosage, maxDosage, false),
		)
		switch {
		case r != nil:
		case line.Refills < 0 || line.Refills > maxRefills:
			r = reject(ReasonInvalidField, "refills", "A line may be refilled 0 to %d times; refills is %d.", maxRefills, line.Refills)
		case line.Dosage != "" && !template:
			r = reject(ReasonInvalidField, "dosage_text", "What concerns a patient is kept outside of the journal.")
		}
		if r != nil {
			return r.inLine(i)
		}
	}
	return nil
}

const maxDosage = 500

// checkDay judges a day that must be given.
func checkDay(field string, day Date) *Rejection {
	if day == 0 {
		return reject(ReasonInvalidField, field, "%s is missing.", field)
	}
	if day < 0 || day > MaxDate {
		return reject(ReasonInvalidField, field, "%s must be a day from 1970-01-02 to 9999-12-31.", field)
	}
	return nil
}

func checkPrescriptionIdentifier(identifier string) *Rejection {
	if identifier == "" {
		return nil
	}
	system, value, ok := strings.Cut(identifier, referenceBar)
	if !ok || system == "" || value == "" || strings.Contains(value, referenceBar) || len(identifier) > maxReference || !printable(identifier) {
		return reject(ReasonInvalidField, "identifier", "An identifier is a system and a value, at most %d bytes of printable text together, without a vertical bar in them.", maxReference)
	}
	return nil
}

func (b *CancelPrescription) check() *Rejection {
	return first(checkReference("prescription_id", b.PrescriptionID), checkCode("reason_code", b.ReasonCode, true), checkEtag(b.Etag))
}

func (b *SetPrescriptionTemplate) check() *Rejection {
	if b.TemplateID == "" {
		return reject(ReasonInvalidField, "template_id", "template_id is missing.")
	}
	return first(checkNewID("template_id", b.TemplateID), name("name", true)(b.Name), checkPrescribed(b.Lines, true), checkEtag(b.Etag))
}

func (b *RemovePrescriptionTemplate) check() *Rejection {
	return first(checkID("template_id", b.TemplateID), checkEtag(b.Etag))
}

// prescribed resolves the lines of a prescription or a template.
func (s *State) prescribed(lines []PrescribedLine, at Instant) ([]PrescriptionLine, *Rejection) {
	resolved := make([]PrescriptionLine, len(lines))
	for i, line := range lines {
		found, r := s.medicineItem(line.MedicineID, at)
		if r != nil {
			return nil, r.inLine(i)
		}
		quantity, r := found.units(s, line.Quantity, line.Pack)
		if r != nil {
			return nil, r.inLine(i)
		}
		resolved[i] = PrescriptionLine{
			Medicine: found.medicine.ID, Quantity: quantity, Refills: line.Refills, NoSubstitution: line.NoSubstitution, Dosage: line.Dosage,
		}
	}
	return resolved, nil
}

func (s *State) knownTemplate(id TemplateID) (*PrescriptionTemplate, *Rejection) {
	template := document[PrescriptionTemplate](s, DocumentPrescriptionTemplate, string(id))
	if template == nil {
		return nil, reject(ReasonTemplateNotFound, "template_id", "Clinic %q has no template %q.", s.id, id).with("template_id", id)
	}
	return template, nil
}

// linesOf returns the lines that a prescription is to have.
func (b *CreatePrescription) linesOf(s *State, at Instant) ([]PrescriptionLine, *Rejection) {
	if b.TemplateID == "" {
		return s.prescribed(b.Lines, at)
	}
	template, r := s.knownTemplate(b.TemplateID)
	if r != nil {
		return nil, r
	}
	lines := make([]PrescriptionLine, len(template.Lines))
	for i, line := range template.Lines {
		if _, r := s.activeMedicine(line.Medicine); r != nil {
			return nil, r.of("template_id")
		}
		lines[i] = PrescriptionLine{
			Medicine: line.Medicine, Quantity: line.Quantity, Refills: line.Refills, NoSubstitution: line.NoSubstitution, Dosage: line.Dosage,
		}
	}
	return lines, nil
}

func (b *CreatePrescription) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	return b.decideGiven(s, &Command{Actor: by}, at)
}

func (b *CreatePrescription) decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	if _, r := s.knownPatient(b.PatientID); r != nil {
		return nil, r
	}
	today := s.today(at)
	if b.ValidUntil < today {
		return nil, reject(ReasonPrescriptionExpired, "valid_until", "valid_until is %s, and it is %s at the clinic.", b.ValidUntil, today).
			with("valid_until", b.ValidUntil, "today", today)
	}
	if b.HoldUntil != 0 && b.HoldUntil <= at {
		return nil, reject(ReasonDeadlinePassed, "hold_until", "hold_until is %s, and it is %s now.", b.HoldUntil, at).
			with("deadline", b.HoldUntil, "now", at)
	}
	p := &Prescription{
		PrescriptionID: PrescriptionID(s.numbered("RX")), Status: PrescriptionActive, PatientID: b.PatientID,
		Prescriber: b.Prescriber, Written: c.happened(at), ValidUntil: b.ValidUntil, Identifier: b.Identifier, TemplateID: b.TemplateID, TextDigest: b.TextDigest,
	}
	if taken := s.identifiedPrescription(b.Identifier); taken != "" {
		return nil, reject(ReasonPrescriptionExists, "identifier", "Prescription %q has this identifier.", taken).with("prescription_id", taken)
	}
	if b.LocationID != "" {
		location, r := s.activeLocation(b.LocationID)
		if r != nil {
			return nil, r
		}
		p.Location = location.ID
	}
	var r *Rejection
	if p.Lines, r = b.linesOf(s, at); r != nil {
		return nil, r
	}
	for i := range p.Lines {
		r := s.withinControlLimits(&p.Lines[i], b.ValidUntil, today)
		if r != nil && r.Reason != ReasonControlValidityExceeded {
			r = r.inLine(i)
		}
		if r != nil {
			return nil, r
		}
	}
	d := &draft{s: s}
	openings := d.holdFills(p, b.HoldUntil, at)
	event := d.change(b.Kind())
	event.Openings, event.Documents = openings, []DocumentBody{p}
	if p.Identifier != "" {
		event.Documents = append(event.Documents, &PrescriptionIdentifier{p.Identifier, p.PrescriptionID})
	}
	return event, d.refused
}

// prescriptionHold is why stock is reserved for a prescription.
const prescriptionHold = "PRESCRIPTION"

// holdFills reserves one fill of each line until a deadline.
func (d *draft) holdFills(p *Prescription, until, at Instant) []HoldOpening {
	if until == 0 {
		return nil
	}
	openings := make([]HoldOpening, 0, len(p.Lines))
	for i := range p.Lines {
		line, shelf := &p.Lines[i], Shelf{p.Location, p.Lines[i].Medicine}
		lines := d.allocate(demand{shelf: shelf, quantity: line.Quantity}, Reserved, at)
		if d.refused != nil {
			d.refused = d.refused.inLine(i)
			return nil
		}
		line.HoldID = HoldID(deriveID(holdPrefix, d.s.tag, d.s.head.Sequence+1, i))
		for j := range lines {
			lines[j].After = Balances{} // the moves have it
		}
		openings = append(openings, HoldOpening{
			Shelf: shelf, HoldID: line.HoldID, Lines: lines, ReasonCode: prescriptionHold, Deadline: until, Owner: string(p.PrescriptionID),
		})
	}
	return openings
}

// identifiedPrescription returns the prescription with an external identifier,
// or nothing.
func (s *State) identifiedPrescription(identifier string) PrescriptionID {
	if identifier == "" {
		return ""
	}
	found := document[PrescriptionIdentifier](s, DocumentPrescriptionIdentifier, identifier)
	if found == nil {
		return ""
	}
	return found.PrescriptionID
}

// knownPrescription resolves a reference to a prescription: its id, or an
// external identifier.
func (s *State) knownPrescription(reference PrescriptionID) (*Prescription, *Rejection) {
	id := reference
	if strings.Contains(string(reference), referenceBar) {
		id = s.identifiedPrescription(string(reference))
	}
	p := document[Prescription](s, DocumentPrescription, string(id))
	if p == nil {
		return nil, reject(ReasonPrescriptionNotFound, "prescription_id", "Clinic %q has no prescription %q.", s.id, reference).with("prescription_id", reference)
	}
	return p, nil
}

func (b *CancelPrescription) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownPrescription(b.PrescriptionID)
	if r != nil {
		return nil, r
	}
	if r := s.checkDocumentVersion(b.Etag, old.About().DocumentKey); r != nil {
		return nil, r
	}
	if old.Status != PrescriptionActive {
		return nil, old.notActive()
	}
	p := old.clone()
	p.Status, p.ReasonCode = PrescriptionCancelled, b.ReasonCode
	d, event := &draft{s: s}, &Change{of: b.Kind(), ReasonCode: b.ReasonCode}
	for i := range p.Lines {
		line := &p.Lines[i]
		if line.Prepared > 0 {
			return nil, reject(ReasonPrescriptionInPreparation, "prescription_id", "%d units of medicine %q lie ready for prescription %q.", line.Prepared, line.Medicine, p.PrescriptionID).
				with("prescription_id", p.PrescriptionID, "prepared", line.Prepared)
		}
		if draw, ok := d.releaseHold(line.HoldID); ok {
			event.Draws = append(event.Draws, draw)
		}
	}
	event.Moves, event.Documents = d.moves, []DocumentBody{p}
	return event, d.refused
}

// releaseHold puts what an open hold reserves back on the shelf.
func (d *draft) releaseHold(id HoldID) (HoldDraw, bool) {
	_, hold := d.s.openHold(id)
	if hold == nil {
		return HoldDraw{}, false
	}
	draw := HoldDraw{HoldID: id, Closes: HoldReleased}
	for _, line := range hold.lines {
		if line.quantity > 0 {
			d.move(hold.shelf.Shelf, line.row.lot, Reserved, Available, line.quantity)
			draw.Lines = append(draw.Lines, Line{Lot: line.row.Lot, Quantity: line.quantity})
		}
	}
	return draw, true
}

// notActive says why nothing can be done with a prescription.
func (p *Prescription) notActive() *Rejection {
	if p.Status == PrescriptionCancelled {
		return reject(ReasonPrescriptionCancelled, "prescription_id", "Prescription %q was cancelled (%s).", p.PrescriptionID, p.ReasonCode).
			with("prescription_id", p.PrescriptionID)
	}
	return reject(ReasonPrescriptionExceeded, "prescription_id", "Everything of prescription %q was dispensed.", p.PrescriptionID).
		with("prescription_id", p.PrescriptionID, "left", 0)
}

func (b *SetPrescriptionTemplate) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	template := &PrescriptionTemplate{TemplateID: b.TemplateID, Name: b.Name}
	if r := s.checkDocumentVersion(b.Etag, template.About().DocumentKey); r != nil {
		return nil, r
	}
	lines, r := s.prescribed(b.Lines, at)
	if r != nil {
		return nil, r
	}
	for _, line := range lines {
		template.Lines = append(template.Lines, TemplateLine{line.Medicine, line.Quantity, line.Refills, line.NoSubstitution, line.Dosage})
	}
	return &Change{of: b.Kind(), Documents: []DocumentBody{template}}, nil
}

func (b *RemovePrescriptionTemplate) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownTemplate(b.TemplateID)
	if r != nil {
		return nil, r
	}
	if r := s.checkDocumentVersion(b.Etag, old.About().DocumentKey); r != nil {
		return nil, r
	}
	removed := *old
	removed.Removed = true
	return &Change{of: b.Kind(), Documents: []DocumentBody{&removed}}, nil
}
