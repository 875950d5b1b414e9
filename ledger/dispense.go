package ledger

import "slices"

// givenBy is a command whose rules depend on more of it than its body: when it
// happened, and who stood by.
type givenBy interface {
	decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection)
}

// decideBody judges a command's body against the state.
func decideBody(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	if b, ok := c.Body.(givenBy); ok {
		return b.decideGiven(s, c, at)
	}
	return c.Body.decide(s, c.Actor, at)
}

// dispenseWork is a dispensing under way.
type dispenseWork struct {
	draft
	at           Instant
	location     *Location
	prescription *Prescription // to be changed; nil over the counter
	line         *PrescriptionLine
	medicine     *Medicine
	lot          LotID // empty: first expired first
	quantity     int64
	// hold is what was reserved for the line, and left what it still has of
	// each lot. drawn is what was taken out of it.
	hold  *openHold
	left  []int64
	drawn []Line

	dispensing *Dispensing
}

// begin resolves what a dispensing is about and judges it by every rule but
// that there is enough.
func (b *Dispense) begin(s *State, c *Command, at Instant) (*dispenseWork, *Rejection) {
	w := &dispenseWork{draft: draft{s: s}, at: at}
	r := inTurn(
		func() *Rejection { return w.place(b) },
		func() *Rejection { return w.prescribed(b) },
		func() *Rejection { return w.item(b) },
		func() *Rejection { return w.substitution(b) },
		w.limits,
	)
	if r != nil {
		return nil, r
	}
	w.open(b, c)
	return w, nil
}

// inTurn returns the first rejection of steps that depend on each other.
func inTurn(steps ...func() *Rejection) *Rejection {
	for _, step := range steps {
		if r := step(); r != nil {
			return r
		}
	}
	return nil
}

func (w *dispenseWork) place(b *Dispense) (r *Rejection) {
	w.location, r = w.s.activeLocation(b.LocationID)
	return r
}

// prescribed finds the line of the prescription, where there is one.
func (w *dispenseWork) prescribed(b *Dispense) *Rejection {
	if b.PrescriptionID == "" {
		if b.PatientID == "" {
			return nil
		}
		_, r := w.s.knownPatient(b.PatientID)
		return r
	}
	old, r := w.s.knownPrescription(b.PrescriptionID)
	if r != nil {
		return r
	}
	if r := w.s.checkDocumentVersion(b.Etag, old.About().DocumentKey); r != nil {
		return r
	}
	w.prescription = old.clone()
	w.line, r = w.prescription.line(b.Line)
	return r
}

// line returns a line by its number from 1; 0 is the only one.
func (p *Prescription) line(number int64) (*PrescriptionLine, *Rejection) {
	if number == 0 && len(p.Lines) == 1 {
		number = 1
	}
	if number < 1 || number > int64(len(p.Lines)) {
		return nil, reject(ReasonPrescriptionLine, "line", "Prescription %q has %d lines, which count from 1; line is %d.", p.PrescriptionID, len(p.Lines), number).
			with("prescription_id", p.PrescriptionID, "lines", len(p.Lines))
	}
	return &p.Lines[number-1], nil
}

// item finds the medicine and lot that are given, and how much.
func (w *dispenseWork) item(b *Dispense) *Rejection {
	medicine := b.MedicineID
	switch {
	case medicine != "":
	case b.LotID != "":
		// A scanned lot of another medicine than the prescribed one is a
		// substitution.
		lot, r := w.s.lotItem(b.LotID, w.at)
		if r != nil {
			return r
		}
		medicine = lot.medicine.ID
	default:
		medicine = w.line.Medicine
	}
	found, r := w.s.requestedItem(medicine, b.LotID, w.at)
	if r != nil {
		return r
	}
	w.medicine, w.lot = found.medicine, found.lotID()
	w.quantity, r = found.units(w.s, b.Quantity, b.Pack)
	return r
}

func (w *dispenseWork) substitution(b *Dispense) *Rejection {
	if w.line == nil || w.medicine.ID == w.line.Medicine {
		return nil
	}
	if w.line.NoSubstitution {
		return reject(ReasonSubstitutionForbidden, "medicine_id", "Prescription %q is for medicine %q and no other; %q was to be given.", w.prescription.PrescriptionID, w.line.Medicine, w.medicine.ID).
			with("prescribed_medicine_id", w.line.Medicine, "medicine_id", w.medicine.ID)
	}
	if b.SubstitutionReason == "" {
		return reject(ReasonSubstitutionReason, "substitution_reason", "Prescription %q is for medicine %q; %q was to be given without a reason.", w.prescription.PrescriptionID, w.line.Medicine, w.medicine.ID).
			with("prescribed_medicine_id", w.line.Medicine, "medicine_id", w.medicine.ID)
	}
	return nil
}

// limits are what was prescribed, and what the control class allows.
func (w *dispenseWork) limits() *Rejection { return first(w.broken()...) }

// broken returns all limits that are broken, and nil for each that is not.
func (w *dispenseWork) broken() []*Rejection {
	limit := w.s.controlLimit(w.medicine.ID)
	if w.prescription != nil {
		return append(w.beyondPrescription(), limit.allows(w.quantity), w.beyondSubstitute())
	}
	if limit != nil && limit.PrescriptionRequired {
		return []*Rejection{
			reject(ReasonPrescriptionRequired, "prescription_id", "Medicine %q is of class %q, which needs a prescription.", w.medicine.ID, limit.ControlClass).
				with("control_class", limit.ControlClass),
			limit.allows(w.quantity),
		}
	}
	return []*Rejection{limit.allows(w.quantity)}
}

func (w *dispenseWork) beyondPrescription() (broken []*Rejection) {
	p := w.prescription
	if p.Status == PrescriptionCancelled {
		broken = append(broken, p.notActive())
	}
	broken = append(broken, p.notExpired(w.s.today(w.at)))
	if left := w.line.Left(); w.quantity > left {
		broken = append(broken, reject(ReasonPrescriptionExceeded, "quantity", "%d units are left to be dispensed for prescription %q; %d were asked for.", max(left, 0), p.PrescriptionID, w.quantity).
			with("prescription_id", p.PrescriptionID, "left", max(left, 0), "requested", w.quantity))
	}
	return broken
}

// notExpired refuses what is given after the last day of a prescription.
func (p *Prescription) notExpired(today Date) *Rejection {
	if p.ValidUntil >= today {
		return nil
	}
	return reject(ReasonPrescriptionExpired, "prescription_id", "Prescription %q was valid until %s; it is %s at the clinic.", p.PrescriptionID, p.ValidUntil, today).
		with("prescription_id", p.PrescriptionID, "valid_until", p.ValidUntil, "today", today)
}

// beyondSubstitute judges a substitute by its own control class: the
// prescription was judged by that of the prescribed medicine.
func (w *dispenseWork) beyondSubstitute() *Rejection {
	if w.medicine.ID == w.line.Medicine {
		return nil
	}
	given := PrescriptionLine{Medicine: w.medicine.ID, Quantity: w.quantity, Refills: w.line.Refills}
	p := w.prescription
	return w.s.withinControlLimits(&given, p.ValidUntil, w.s.today(p.Written)).of("medicine_id")
}

// open makes the record of the dispensing.
func (w *dispenseWork) open(b *Dispense, c *Command) {
	w.dispensing = &Dispensing{
		DispensingID: DispensingID(w.s.numbered("DN")), PatientID: b.PatientID, Location: w.location.ID, Medicine: w.medicine.ID,
		Quantity: w.quantity, Wasted: b.WastedQuantity, WasteReason: b.WasteReason, Day: w.s.today(c.happened(w.at)), Payer: b.Payer,
		Preparer: c.Actor, Witness: c.Witness,
	}
	if w.prescription == nil {
		return
	}
	d := w.dispensing
	d.PrescriptionID, d.PatientID = w.prescription.PrescriptionID, w.prescription.PatientID
	for i := range w.prescription.Lines {
		if &w.prescription.Lines[i] == w.line {
			d.Line = int64(i + 1)
		}
	}
	if w.line.Medicine != d.Medicine {
		d.Prescribed, d.SubstitutionReason = w.line.Medicine, b.SubstitutionReason
	}
	w.findHold()
}

// happened is when a command's matter happened.
func (c *Command) happened(at Instant) Instant {
	if c.OccurredAt != 0 {
		return c.OccurredAt
	}
	return at
}

// findHold finds what is reserved for the line, unless it is overdue or lies
// elsewhere.
func (w *dispenseWork) findHold() {
	_, hold := w.s.openHold(w.line.HoldID)
	if hold == nil || hold.deadline < w.at || hold.shelf.Location != w.location.ID {
		return
	}
	w.hold = hold
	for _, line := range hold.lines {
		w.left = append(w.left, line.quantity)
	}
}

// take moves units of the hold and then of the shelf to a bucket, and notes the
// lots. What is reserved and stays so does not move.
func (w *dispenseWork) take(quantity int64, to Bucket) []Line {
	taken := w.takeHeld(quantity, to)
	for _, line := range taken {
		quantity -= line.Quantity
	}
	if quantity == 0 || w.refused != nil {
		return taken
	}
	want := demand{shelf: Shelf{w.location.ID, w.medicine.ID}, lot: w.lot, quantity: quantity}
	return append(taken, w.allocate(want, to, w.at)...)
}

func (w *dispenseWork) takeHeld(quantity int64, to Bucket) []Line {
	var taken []Line
	if w.hold == nil || w.hold.shelf.Medicine != w.medicine.ID {
		return nil
	}
	for i, line := range w.hold.lines {
		units := min(quantity, w.left[i])
		if units == 0 || w.lot != "" && line.row.Lot != w.lot || w.s.usable(line.row.lot, w.at) != nil {
			continue
		}
		if to != Reserved {
			w.move(w.hold.shelf.Shelf, line.row.lot, Reserved, to, units)
		}
		part := Line{Lot: line.row.Lot, Quantity: units}
		taken, w.drawn = append(taken, part), append(w.drawn, part)
		w.left[i] -= units
		quantity -= units
	}
	return taken
}

// releaseRest gives up as much of the hold as was served from elsewhere: it was
// for this fill.
func (w *dispenseWork) releaseRest() {
	if w.hold == nil {
		return
	}
	rest := w.quantity
	for _, line := range w.drawn {
		rest -= line.Quantity
	}
	for i, line := range w.hold.lines {
		units := min(rest, w.left[i])
		if units <= 0 {
			continue
		}
		w.move(w.hold.shelf.Shelf, line.row.lot, Reserved, Available, units)
		w.drawn = append(w.drawn, Line{Lot: line.row.Lot, Quantity: units})
		w.left[i] -= units
		rest -= units
	}
}

// note adds lines to the lots of the dispensing.
func (d *Dispensing) note(lines []Line, wasted bool) {
	for _, line := range lines {
		i := slices.IndexFunc(d.Lots, func(l DispensedLot) bool { return l.Lot == line.Lot })
		if i < 0 {
			i = len(d.Lots)
			d.Lots = append(d.Lots, DispensedLot{Lot: line.Lot})
		}
		if wasted {
			d.Lots[i].Wasted += line.Quantity
		} else {
			d.Lots[i].Quantity += line.Quantity
		}
	}
}

// finish makes the event: moves, the hold that was drawn on, and the documents.
func (w *dispenseWork) finish(kind Kind) (*Change, *Rejection) {
	w.releaseRest()
	if w.refused != nil {
		return nil, w.refused
	}
	event := w.change(kind)
	if len(w.drawn) > 0 {
		event.Draws = []HoldDraw{{HoldID: w.line.HoldID, Lines: w.drawn, Closes: HoldDispensed}}
	}
	event.ReasonCode = w.dispensing.SubstitutionReason
	event.Documents = []DocumentBody{w.dispensing}
	if w.prescription != nil {
		w.prescription.settle()
		event.Documents = append(event.Documents, w.prescription)
	}
	return event, nil
}

func (b *DispenseMedicine) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	return b.decideGiven(s, &Command{Actor: by}, at)
}

func (b *DispenseMedicine) decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	w, r := b.begin(s, c, at)
	if r != nil {
		return nil, r
	}
	d := w.dispensing
	d.Status, d.Dispenser = DispensingHandedOver, c.Actor
	d.note(w.take(w.quantity, Dispensed), false)
	d.note(w.take(b.WastedQuantity, Wasted), true)
	if w.line != nil {
		w.line.Dispensed += w.quantity
	}
	event, r := w.finish(b.Kind())
	if r != nil {
		return nil, r
	}
	return event, s.charge(event, d)
}

func (b *PrepareDispensing) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	return b.decideGiven(s, &Command{Actor: by}, at)
}

func (b *PrepareDispensing) decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	if b.CollectBy <= at {
		return nil, reject(ReasonDeadlinePassed, "collect_by", "collect_by is %s, and it is %s now.", b.CollectBy, at).
			with("deadline", b.CollectBy, "now", at)
	}
	w, r := b.begin(s, c, at)
	if r != nil {
		return nil, r
	}
	d := w.dispensing
	d.Status, d.CollectBy = DispensingPrepared, b.CollectBy
	d.HoldID = HoldID(deriveID(holdPrefix, s.tag, s.head.Sequence+1, 0))
	d.note(w.take(w.quantity, Reserved), false)
	held := slices.Clone(d.Lots)
	d.note(w.take(b.WastedQuantity, Wasted), true)
	if w.line != nil {
		w.line.Prepared += w.quantity
	}
	event, r := w.finish(b.Kind())
	if r != nil {
		return nil, r
	}
	opening := HoldOpening{
		Shelf: Shelf{d.Location, d.Medicine}, HoldID: d.HoldID, ReasonCode: dispensingHold, Deadline: b.CollectBy, Owner: string(d.DispensingID),
	}
	for _, lot := range held {
		opening.Lines = append(opening.Lines, Line{Lot: lot.Lot, Quantity: lot.Quantity})
	}
	event.Openings = []HoldOpening{opening}
	return event, nil
}

// dispensingHold is why stock is reserved for what lies ready.
const dispensingHold = "DISPENSING"

// charge adds the billing event of what a patient has been given.
func (s *State) charge(event *Change, d *Dispensing) *Rejection {
	d.ChargeID = ChargeID(s.numbered("BL"))
	if price, ok := s.price(d.Medicine, d.Day); ok {
		amount, fits := price.of(d.Quantity)
		if !fits {
			return reject(ReasonAmountTooLarge, "", "%d units of medicine %q at %d %s for %d cost more than can be charged.", d.Quantity, d.Medicine, price.Amount, price.Currency, price.Per).
				with("medicine_id", d.Medicine)
		}
		d.Amount, d.Currency, d.PriceFrom = amount, price.Currency, price.From
	}
	event.Documents = append(event.Documents, d.billed(d.ChargeID))
	return nil
}

// billed is the billing event of a dispensing.
func (d *Dispensing) billed(id ChargeID) *Charge {
	return &Charge{
		ChargeID: id, DispensingID: d.DispensingID, PrescriptionID: d.PrescriptionID, PatientID: d.PatientID, Location: d.Location,
		Medicine: d.Medicine, Quantity: d.Quantity, Amount: d.Amount, Currency: d.Currency, PriceFrom: d.PriceFrom, Payer: d.Payer, Day: d.Day,
	}
}

// knownDispensing finds a dispensing, and its prescription where it has one:
// copies that may be changed.
func (s *State) knownDispensing(id DispensingID) (*Dispensing, *Prescription, *Rejection) {
	d := document[Dispensing](s, DocumentDispensing, string(id))
	if d == nil {
		return nil, nil, reject(ReasonDispensingNotFound, "dispensing_id", "Clinic %q has no dispensing %q.", s.id, id).with("dispensing_id", id)
	}
	if d.PrescriptionID == "" {
		return d.clone(), nil, nil
	}
	p, r := s.knownPrescription(d.PrescriptionID)
	if r != nil {
		return nil, nil, r
	}
	return d.clone(), p.clone(), nil
}

var dispensingStatusNames = map[DispensingStatus]string{
	DispensingPrepared: "prepared", DispensingChecked: "checked", DispensingHandedOver: "handed over", DispensingCancelled: "cancelled",
}

// String names the state for people.
func (s DispensingStatus) String() string { return dispensingStatusNames[s] }

// expects refuses what cannot be done in the dispensing's state.
func (d *Dispensing) expects(allowed ...DispensingStatus) *Rejection {
	if slices.Contains(allowed, d.Status) {
		return nil
	}
	return reject(ReasonDispensingState, "dispensing_id", "Dispensing %q is %s.", d.DispensingID, d.Status).
		with("dispensing_id", d.DispensingID, "status", d.Status)
}

// lined returns the line of the prescription that a dispensing serves, or nil.
func (d *Dispensing) lined(p *Prescription) *PrescriptionLine {
	if p == nil || d.Line < 1 || d.Line > int64(len(p.Lines)) {
		return nil
	}
	return &p.Lines[d.Line-1]
}

// documented returns the event of a command on a dispensing.
func (d *draft) documented(kind Kind, dispensing *Dispensing, p *Prescription) *Change {
	event := d.change(kind)
	event.Documents = []DocumentBody{dispensing}
	if p != nil {
		p.settle()
		event.Documents = append(event.Documents, p)
	}
	return event
}

func (b *CheckDispensing) decide(s *State, by Actor, _ Instant) (EventBody, *Rejection) {
	d, _, r := s.knownDispensing(b.DispensingID)
	if r != nil {
		return nil, r
	}
	if r := d.expects(d.checkable()...); r != nil {
		return nil, r
	}
	if by == d.Preparer && s.checkRequired(d.Medicine, d.Quantity) {
		return nil, reject(ReasonSamePerson, "dispensing_id", "%q prepared dispensing %q and cannot be who checks it.", by, d.DispensingID).with("actor", by)
	}
	d.Status, d.Checker = DispensingChecked, by
	return (&draft{s: s}).documented(b.Kind(), d, nil), nil
}

// checkable are the states in which somebody may check a dispensing. What only
// its preparer looked at can be checked again: a policy may want it by now.
func (d *Dispensing) checkable() []DispensingStatus {
	if d.Checker == d.Preparer {
		return []DispensingStatus{DispensingPrepared, DispensingChecked}
	}
	return []DispensingStatus{DispensingPrepared}
}

// checkRequired tells whether the clinic's policy wants another person to check
// what is given of a medicine: a rule about CheckDispensing that requires
// anything at all.
func (s *State) checkRequired(medicine MedicineID, quantity int64) bool {
	return slices.ContainsFunc(s.policy().Rules, func(rule Rule) bool {
		return rule.Command == KindCheckDispensing && rule.Requires > RequireNothing && s.ruleApplies(rule, nil, medicine, quantity)
	})
}

func (b *HandOver) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	return b.decideGiven(s, &Command{Actor: by}, at)
}

func (b *HandOver) decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	d, p, r := s.knownDispensing(b.DispensingID)
	if r != nil {
		return nil, r
	}
	if r := d.expects(DispensingPrepared, DispensingChecked); r != nil {
		return nil, r
	}
	if (d.Checker == "" || d.Checker == d.Preparer) && s.checkRequired(d.Medicine, d.Quantity) {
		return nil, reject(ReasonDispensingUnchecked, "dispensing_id", "Dispensing %q of medicine %q was not checked by another person.", d.DispensingID, d.Medicine).with("dispensing_id", d.DispensingID)
	}
	if p != nil {
		if r := p.notExpired(s.today(at)); r != nil {
			return nil, r.of("dispensing_id")
		}
	}
	if d.CollectBy < at {
		return nil, reject(ReasonDispensingOverdue, "dispensing_id", "Dispensing %q was to be collected until %s; it is %s now.", d.DispensingID, d.CollectBy, at).
			with("dispensing_id", d.DispensingID, "deadline", d.CollectBy, "now", at)
	}
	work := &draft{s: s}
	draw, r := work.handOver(d, at)
	if r != nil {
		return nil, r
	}
	d.Status, d.Dispenser, d.Day = DispensingHandedOver, c.Actor, s.today(c.happened(at))
	if line := d.lined(p); line != nil {
		line.Prepared -= d.Quantity
		line.Dispensed += d.Quantity
	}
	event := work.documented(b.Kind(), d, p)
	event.Draws = []HoldDraw{draw}
	return event, s.charge(event, d)
}

// handOver moves what lies ready to the patient: all of it, or nothing.
func (d *draft) handOver(dispensing *Dispensing, at Instant) (HoldDraw, *Rejection) {
	draw := HoldDraw{HoldID: dispensing.HoldID, Closes: HoldDispensed}
	_, hold := d.s.openHold(dispensing.HoldID)
	var held int64
	if hold != nil {
		for _, line := range hold.lines {
			if line.quantity == 0 || d.s.usable(line.row.lot, at) != nil {
				continue
			}
			held += line.quantity
			d.move(hold.shelf.Shelf, line.row.lot, Reserved, Dispensed, line.quantity)
			draw.Lines = append(draw.Lines, Line{Lot: line.row.Lot, Quantity: line.quantity})
		}
	}
	if held != dispensing.Quantity {
		return draw, reject(ReasonDispensingIncomplete, "dispensing_id", "Of the %d units of dispensing %q, %d can still be handed over.", dispensing.Quantity, dispensing.DispensingID, held).
			with("dispensing_id", dispensing.DispensingID, "quantity", dispensing.Quantity, "usable", held)
	}
	return draw, d.refused
}

func (b *CancelDispensing) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	return b.decideGiven(s, &Command{Actor: by}, at)
}

func (b *CancelDispensing) decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	d, p, r := s.knownDispensing(b.DispensingID)
	if r != nil {
		return nil, r
	}
	if r := d.expects(DispensingPrepared, DispensingChecked, DispensingHandedOver); r != nil {
		return nil, r
	}
	work, line := &draft{s: s}, d.lined(p)
	var draws []HoldDraw
	if d.Status == DispensingHandedOver {
		if r := work.takeBack(d, b.NeverLeftCustody, at); r != nil {
			return nil, r
		}
		if line != nil {
			line.Dispensed -= d.Quantity
		}
	} else {
		if draw, ok := work.releaseHold(d.HoldID); ok {
			draws = append(draws, draw)
		}
		if line != nil {
			line.Prepared -= d.Quantity
		}
	}
	charged := d.ChargeID
	d.Status, d.ReasonCode = DispensingCancelled, b.ReasonCode
	event := work.documented(b.Kind(), d, p)
	event.ReasonCode, event.Draws = b.ReasonCode, draws
	if charged != "" {
		reversal := d.billed(ChargeID(s.numbered("BL")))
		reversal.Reverses, reversal.Amount, reversal.Day = charged, -d.Amount, s.today(c.happened(at))
		event.Documents = append(event.Documents, reversal)
	}
	return event, work.refused.of("dispensing_id")
}

// takesBack refuses to take a lot back where it would be out of sight.
func (s *State) takesBack(location LocationID, lot *Lot) *Rejection {
	if _, r := s.activeLocation(location); r != nil {
		return r.of("dispensing_id")
	}
	return s.stockable(item{medicine: s.medicines[lot.Medicine], lot: lot}).of("dispensing_id")
}

// takeBack moves what was handed over back: to the shelf only where it never
// left custody and may still be used.
func (d *draft) takeBack(dispensing *Dispensing, neverLeft bool, at Instant) *Rejection {
	shelf := Shelf{dispensing.Location, dispensing.Medicine}
	for _, part := range dispensing.Lots {
		if part.Returned > 0 {
			return reject(ReasonDispensingReturned, "dispensing_id", "The patient returned %d units of lot %q of dispensing %q.", part.Returned, part.Lot, dispensing.DispensingID).
				with("dispensing_id", dispensing.DispensingID, "lot_id", part.Lot, "returned", part.Returned)
		}
		if part.Quantity == 0 {
			continue
		}
		lot := d.s.lots[part.Lot]
		if r := d.s.takesBack(dispensing.Location, lot); r != nil {
			return r
		}
		usable := neverLeft && d.s.usable(lot, at) == nil
		d.move(shelf, lot, Dispensed, availableOr(!usable), part.Quantity)
	}
	return d.refused.of("dispensing_id")
}

func (b *ReturnFromPatient) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	d, _, r := s.knownDispensing(b.DispensingID)
	if r != nil {
		return nil, r
	}
	if r := d.expects(DispensingHandedOver); r != nil {
		return nil, r
	}
	to := Quarantined
	if b.Destroy {
		to = Wasted
	}
	work := &draft{s: s}
	lines := b.Lines
	if len(lines) == 0 {
		lines = d.given()
	}
	for i, line := range lines {
		found, quantity, r := s.lotLine(line, at)
		if r != nil {
			return nil, r.inLine(i)
		}
		if to.Held() {
			if r := s.takesBack(d.Location, found.lot); r != nil {
				return nil, r
			}
		}
		part := slices.IndexFunc(d.Lots, func(l DispensedLot) bool { return l.Lot == found.lot.ID })
		left := int64(0)
		if part >= 0 {
			left = d.Lots[part].Quantity - d.Lots[part].Returned
		}
		if quantity > left {
			return nil, reject(ReasonReturnExceeded, "quantity", "The patient has %d units of lot %q from dispensing %q; %d were to be returned.", left, found.lot.ID, d.DispensingID, quantity).
				with("dispensing_id", d.DispensingID, "lot_id", found.lot.ID, "left", left, "requested", quantity).inLine(i)
		}
		d.Lots[part].Returned += quantity
		work.move(Shelf{d.Location, d.Medicine}, found.lot, Dispensed, to, quantity)
	}
	event := work.documented(b.Kind(), d, nil)
	event.ReasonCode = b.ReasonCode
	return event, work.refused.of("lines")
}

// given are the units that the patient still has.
func (d *Dispensing) given() []LotLine {
	var lines []LotLine
	for _, lot := range d.Lots {
		if left := lot.Quantity - lot.Returned; left > 0 {
			lines = append(lines, LotLine{LotID: lot.Lot, Quantity: left})
		}
	}
	return lines
}
