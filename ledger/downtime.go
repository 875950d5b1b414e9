package ledger

import "slices"

// KindRecordDowntime is the kind of RecordDowntime.
const KindRecordDowntime Kind = 68

// DowntimeID names what was recorded after a downtime: DT- and the sequence of
// the command. It is unique in the clinic.
type DowntimeID string

// Downtime is something that was done on paper or offline and recorded later,
// as it was.
type Downtime struct {
	DowntimeID     DowntimeID
	What           Kind // DispenseMedicine, ReceiveStock or RecordCount
	Device         string
	PaperReference string
	DispensingID   DispensingID
	Location       LocationID
	Medicine       MedicineID
	Lot            LotID // of what was received or counted
	Quantity       int64
	Exceptions     []Reason // the rules that were broken
	Shortage       int64    // units that were given out and not in the books
	Day            Date
}

// About is for the index of documents.
func (d *Downtime) About() About {
	return About{DocumentKey: DocumentKey{DocumentDowntime, string(d.DowntimeID)}, Location: d.Location, Day: d.Day}
}

func (d *Downtime) opened() Sequence { return numberOf(string(d.DowntimeID)) }

func (d *Downtime) fields(c *codec) {
	text(c, &d.DowntimeID)
	number(c, &d.What)
	text(c, &d.Device)
	text(c, &d.PaperReference)
	text(c, &d.DispensingID)
	text(c, &d.Location)
	text(c, &d.Medicine)
	text(c, &d.Lot)
	number(c, &d.Quantity)
	list(c, &d.Exceptions, 1, text[Reason])
	number(c, &d.Shortage)
	number(c, &d.Day)
}

// RecordDowntime records one thing that was done while the ledger could not be
// reached: a dispensing, a receipt or a count. It is never refused for lack of
// stock; what breaks a rule is recorded as it was, and waits for a second
// person to look at it.
type RecordDowntime struct {
	Device         string // what it was noted with: a terminal, a pad of forms
	PaperReference string // the number of the form, or of the entry on the device
	Dispensed      *Dispense
	Received       *ReceiveStock
	Counted        *DowntimeCount

	// Booked is how many units the books had on the shelf of what was counted,
	// when it was counted. It is read from the journal by who executes the
	// command, and is no part of what the caller asks for.
	Booked *int64
}

// DowntimeCount is a lot that was counted: all that lay on the shelf, reserved
// units included, and not those in quarantine.
type DowntimeCount struct {
	LocationID LocationID
	LotID      LotID
	Counted    int64
	Pack       string
	ReasonCode string
}

// Kind identifies the command.
func (*RecordDowntime) Kind() Kind { return KindRecordDowntime }

func (b *RecordDowntime) fields(c *codec) {
	text(c, &b.Device)
	text(c, &b.PaperReference)
	optional(c, &b.Dispensed, func(c *codec, d *Dispense) { d.fields(c) })
	optional(c, &b.Received, func(c *codec, r *ReceiveStock) { r.fields(c) })
	optional(c, &b.Counted, func(c *codec, n *DowntimeCount) {
		text(c, &n.LocationID)
		text(c, &n.LotID)
		number(c, &n.Counted)
		text(c, &n.Pack)
		text(c, &n.ReasonCode)
	})
}

func (b *RecordDowntime) check() *Rejection {
	given := 0
	var r *Rejection
	if b.Dispensed != nil {
		given++
		r = b.Dispensed.check()
		if r == nil && b.Dispensed.Etag != "" {
			r = reject(ReasonInvalidField, "", "What was done without the ledger knows no etag.")
		}
		r = r.within("dispensed")
	}
	if b.Received != nil && r == nil {
		given++
		r = b.Received.check().within("received")
	}
	if b.Counted != nil && r == nil {
		given++
		r = b.Counted.check().within("counted")
	}
	if given != 1 && r == nil {
		return reject(ReasonInvalidField, "dispensed", "Record one thing: what was dispensed, received or counted.")
	}
	return first(r, checkCode("device", b.Device, true), checkCode("paper_reference", b.PaperReference, true))
}

func (n *DowntimeCount) check() *Rejection {
	if n.Counted < 0 || n.Counted > MaxQuantity {
		return reject(ReasonQuantityOutOfRange, "counted", "The count is %d.", n.Counted)
	}
	return first(
		checkReference("location_id", n.LocationID), checkReference("lot_id", n.LotID), checkPack(n.Pack),
		checkCode("reason_code", n.ReasonCode, true),
	)
}

// shortageReason is why units are entered into the books that were given out
// during a downtime and not in them.
const shortageReason = "DOWNTIME_SHORTAGE"

// unknownLot is what a lot is called that nobody noted, of a medicine that has
// no lot at all.
const unknownLot = "UNKNOWN"

// brokeRules tells whether an event records what broke a rule.
func brokeRules(body EventBody) bool {
	b, ok := body.(*Change)
	if !ok {
		return false
	}
	for _, document := range b.Documents {
		if d, ok := document.(*Downtime); ok && len(d.Exceptions) > 0 {
			return true
		}
	}
	return false
}

// wasteful tells whether an event throws a part of a medicine away, which
// somebody has to witness.
func wasteful(body EventBody) bool {
	b, ok := body.(*Change)
	if !ok || b.of != KindDispenseMedicine && b.of != KindPrepareDispensing {
		return false
	}
	for _, document := range b.Documents {
		if d, ok := document.(*Dispensing); ok && d.Wasted > 0 {
			return true
		}
	}
	return false
}

func (b *RecordDowntime) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	return b.decideGiven(s, &Command{Actor: by}, at)
}

func (b *RecordDowntime) decideGiven(s *State, c *Command, at Instant) (EventBody, *Rejection) {
	happened := c.happened(at)
	record := &Downtime{
		DowntimeID: DowntimeID(s.numbered("DT")), Device: b.Device, PaperReference: b.PaperReference, Day: s.today(happened),
	}
	w := &downtimeWork{dispenseWork: dispenseWork{draft: draft{s: s}, at: happened}, record: record}
	switch {
	case b.Dispensed != nil:
		event, r := w.dispense(b.Dispensed, c)
		return event, r.within("dispensed")
	case b.Received != nil:
		event, r := w.receive(b.Received)
		return event, r.within("received")
	default:
		event, r := w.count(b)
		return event, r.within("counted")
	}
}

// within names the message that the rejected field stands in; the location
// stands beside it.
func (r *Rejection) within(message string) *Rejection {
	if r != nil && r.Field != "" && r.Field != "location_id" {
		r.Field = message + "." + r.Field
	}
	return r
}

// downtimeWork is the record of a downtime under way.
type downtimeWork struct {
	dispenseWork
	record *Downtime
	made   []*Lot
}

// except notes the rules that were broken; nil stands for one that was not.
func (w *downtimeWork) except(rejections ...*Rejection) {
	for _, r := range rejections {
		if r != nil && !slices.Contains(w.record.Exceptions, r.Reason) {
			w.record.Exceptions = append(w.record.Exceptions, r.Reason)
		}
	}
}

// placed finds the location, active or not.
func (w *downtimeWork) placed(id LocationID) *Rejection {
	location, r := w.s.knownLocation(id)
	if r != nil {
		return r
	}
	w.location, w.record.Location = location, location.ID
	if !location.Active {
		_, r := w.s.activeLocation(location.ID)
		w.except(r)
	}
	return nil
}

// itemOf finds what was used, active or not.
func (w *downtimeWork) itemOf(medicine MedicineID, lot LotID) (item, *Rejection) {
	if lot != "" {
		found, r := w.s.lotItem(lot, w.at)
		if r != nil {
			return found, r
		}
		w.except(w.s.stockable(found))
		return found, nil
	}
	found, r := w.s.medicineItem(medicine, w.at)
	if r == nil || r.Reason != ReasonMedicineInactive {
		return found, r
	}
	w.except(r)
	known, r := w.s.knownMedicine(medicine)
	return item{medicine: known}, r
}

func (w *downtimeWork) dispense(b *Dispense, c *Command) (*Change, *Rejection) {
	if r := w.placed(b.LocationID); r != nil {
		return nil, r
	}
	patient := w.concerning(b)
	medicine := b.MedicineID
	if medicine == "" && w.line != nil {
		medicine = w.line.Medicine
	}
	if medicine == "" && b.LotID == "" {
		return nil, reject(ReasonInvalidField, "medicine_id", "The prescription is unknown, so the medicine must be named.")
	}
	found, r := w.itemOf(medicine, b.LotID)
	if r != nil {
		return nil, r
	}
	w.medicine, w.lot = found.medicine, found.lotID()
	if w.quantity, r = found.units(w.s, b.Quantity, b.Pack); r != nil {
		return nil, r
	}
	if found.lot != nil {
		if _, r := w.s.requestedItem(b.MedicineID, b.LotID, w.at); b.MedicineID != "" && r != nil && r.Reason == ReasonLotOfOtherMedicine {
			return nil, r
		}
		w.except(w.s.usable(found.lot, w.at))
	}
	w.except(w.substitution(b))
	w.except(w.broken()...)
	w.open(b, c)
	d := w.dispensing
	d.PatientID = patient
	d.Status, d.Dispenser = DispensingHandedOver, c.Actor
	d.note(w.takeAny(w.quantity, Dispensed), false)
	d.note(w.takeAny(b.WastedQuantity, Wasted), true)
	if w.line != nil {
		w.line.Dispensed += w.quantity
	}
	event, r := w.finish(KindRecordDowntime)
	if r != nil {
		return nil, r
	}
	if r := w.s.charge(event, d); r != nil {
		return nil, r
	}
	w.record.What, w.record.DispensingID, w.record.Medicine, w.record.Quantity = KindDispenseMedicine, d.DispensingID, d.Medicine, d.Quantity
	if c.Witness == "" && (b.WastedQuantity > 0 || w.s.requirement(KindDispenseMedicine, event) >= RequireWitness) {
		w.except(&Rejection{Reason: ReasonWitnessRequired})
	}
	d.Exceptions, d.Shortage = w.record.Exceptions, w.record.Shortage
	event.ReasonCode = ""
	return w.recorded(event), nil
}

// concerning finds the prescription and the patient, as far as they are known.
func (w *downtimeWork) concerning(b *Dispense) PatientID {
	if b.PrescriptionID != "" {
		r := w.prescribed(b)
		w.except(r)
		if w.prescription == nil {
			return ""
		}
		patient := w.prescription.PatientID
		if r != nil {
			w.prescription, w.line = nil, nil // it has no such line, but the patient is known
		}
		return patient
	}
	if b.PatientID == "" {
		return ""
	}
	if _, r := w.s.knownPatient(b.PatientID); r != nil {
		w.except(r)
		return ""
	}
	return b.PatientID
}

// takeAny takes units from wherever they are, whether or not they may be used,
// and enters those into the books that are not in them.
func (w *downtimeWork) takeAny(quantity int64, to Bucket) []Line {
	taken := w.takeHeld(quantity, to)
	for _, line := range taken {
		quantity -= line.Quantity
	}
	shelf := Shelf{w.location.ID, w.medicine.ID}
	take := func(lot *Lot, from Bucket) {
		if units := min(quantity, w.s.balance(shelf, lot.ID).Of(from)); units > 0 {
			w.move(shelf, lot, from, to, units)
			taken = append(taken, Line{Lot: lot.ID, Quantity: units})
			quantity -= units
		}
	}
	if w.lot != "" {
		take(w.s.lots[w.lot], Available)
		if w.s.lots[w.lot].Bar != BarNone {
			take(w.s.lots[w.lot], Quarantined) // all of it lies there, whatever the pad says
		}
	} else if f, ok := w.s.shelves[shelf]; ok {
		today := w.s.today(w.at)
		for _, row := range f.rows {
			if (demand{}).usable(row, today) {
				take(row.lot, Available)
			}
		}
	}
	if quantity > 0 {
		lot := w.shortLot(shelf)
		w.except(w.s.usable(lot, w.at))
		w.move(shelf, lot, Adjustment, Available, quantity)
		w.move(shelf, lot, Available, to, quantity)
		w.record.Shortage += quantity
		taken = append(taken, Line{Lot: lot.ID, Quantity: quantity})
	}
	return taken
}

// shortLot is the lot that units are booked on which were given out and not in
// the books: the named one, else the last one on the shelf that may be used, or
// the last one there is, else the last one that was registered, else one that
// stands for what nobody noted.
func (w *downtimeWork) shortLot(shelf Shelf) *Lot {
	if w.lot != "" {
		return w.s.lots[w.lot]
	}
	if f, ok := w.s.shelves[shelf]; ok && len(f.rows) > 0 {
		for _, row := range slices.Backward(f.rows) {
			if (demand{}).usable(row, w.s.today(w.at)) {
				return row.lot
			}
		}
		return f.rows[len(f.rows)-1].lot
	}
	var last *Lot
	for _, lot := range w.s.lots {
		if lot.Medicine != shelf.Medicine {
			continue
		}
		if last == nil || lot.RegisteredSequence > last.RegisteredSequence || lot.RegisteredSequence == last.RegisteredSequence && lot.ID > last.ID {
			last = lot
		}
	}
	if last != nil {
		return last
	}
	lot := &Lot{
		ID: newID(w.s, LotID(""), lotPrefix), Medicine: shelf.Medicine, Active: true,
		LotFacts: LotFacts{Manufacturer: unknownLot, LotNumber: unknownLot, Expiry: w.record.Day},
	}
	put(w.s, w.s.lots, lot.ID, lot)
	w.made = append(w.made, lot)
	return lot
}

func (w *downtimeWork) receive(b *ReceiveStock) (*Change, *Rejection) {
	if r := w.placed(b.LocationID); r != nil {
		return nil, r
	}
	found, r := w.itemOf("", b.LotID)
	if r != nil {
		return nil, r
	}
	quantity, r := found.units(w.s, b.Quantity, b.Pack)
	if r != nil {
		return nil, r
	}
	supplier, r := w.s.supplier(b.Supplier)
	if r != nil {
		return nil, r
	}
	w.except(w.s.notExpired(found.lot, w.at))
	w.move(Shelf{w.location.ID, found.lot.Medicine}, found.lot, Supplier, availableOr(found.lot.Bar != BarNone), quantity)
	if w.refused != nil {
		return nil, w.refused
	}
	event := w.change(KindRecordDowntime)
	event.Party, event.Reference = supplier, b.Reference
	w.record.What, w.record.Medicine, w.record.Lot, w.record.Quantity = KindReceiveStock, found.lot.Medicine, found.lot.ID, quantity
	return w.recorded(event), nil
}

// count posts what a count found to differ from the books as they should have
// been when it was counted. What is promised to others stays in the books.
func (w *downtimeWork) count(b *RecordDowntime) (*Change, *Rejection) {
	n := b.Counted
	if r := w.placed(n.LocationID); r != nil {
		return nil, r
	}
	found, r := w.itemOf("", n.LotID)
	if r != nil {
		return nil, r
	}
	counted, r := found.units(w.s, n.Counted, n.Pack)
	if r != nil {
		return nil, r.of("counted")
	}
	shelf := Shelf{w.location.ID, found.lot.Medicine}
	now := w.s.balance(shelf, found.lot.ID)
	booked := now.Available + now.Reserved + now.Pending
	if b.Booked != nil {
		booked = *b.Booked
	}
	variance := counted - booked
	if w.s.policy().exceedsTolerance(variance, max(booked, 0)) {
		w.except(&Rejection{Reason: ReasonCountBeyondTolerance})
	}
	switch {
	case variance > 0:
		w.move(shelf, found.lot, Variance, Available, variance)
	case -variance > now.Available:
		w.except(&Rejection{Reason: ReasonCountEatsHeld})
		variance = -now.Available
	}
	if variance < 0 {
		w.move(shelf, found.lot, Available, Variance, -variance)
	}
	if w.refused != nil {
		return nil, w.refused
	}
	event := w.change(KindRecordDowntime)
	event.ReasonCode = n.ReasonCode
	w.record.What, w.record.Medicine, w.record.Lot, w.record.Quantity = KindRecordCount, found.lot.Medicine, found.lot.ID, counted
	return w.recorded(event), nil
}

// recorded adds the record of the downtime to the event.
func (w *downtimeWork) recorded(event *Change) *Change {
	for _, lot := range w.made {
		event.Lots = append(event.Lots, asStored(lot, lot.Bar))
	}
	if w.record.Shortage > 0 {
		event.ReasonCode = shortageReason
	}
	event.Documents = append(event.Documents, w.record)
	return event
}
