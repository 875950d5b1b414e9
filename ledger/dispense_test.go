package ledger

import (
	"slices"
	"testing"
)

// prescribe makes a prescription of ten tablets of zinc for the store, and
// returns its id.
func (w *world) prescribe(t fataler, edit func(*CreatePrescription)) PrescriptionID {
	t.Helper()
	b := &CreatePrescription{
		PatientID: patientNo(0), LocationID: "store", Prescriber: "Dr. Hill", ValidUntil: today + 9,
		Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 10}},
	}
	if edit != nil {
		edit(b)
	}
	w.must(t, b)
	return PrescriptionID(w.latest(DocumentPrescription))
}

func (w *world) prescription(id PrescriptionID) *Prescription {
	return document[Prescription](w.state, DocumentPrescription, string(id))
}

func (w *world) dispensing(id DispensingID) *Dispensing {
	return document[Dispensing](w.state, DocumentDispensing, string(id))
}

// at gives a command that happened at a time, with a witness where one is named.
func (w *world) at(t fataler, happened Instant, witness Actor, body CommandBody) Event {
	t.Helper()
	c := w.command(body)
	c.OccurredAt, c.Witness = happened, witness
	event, r := w.give(t, c)
	if r != nil {
		t.Fatalf("%s was rejected: %v", body.Kind(), r)
	}
	return event
}

// shelfOf is what the store has of the two lots of zinc that can be used.
type shelfOf struct{ available1, reserved1, available2 int64 }

func (w *world) zinc() shelfOf {
	first, second := w.balances("store", "zinc-1"), w.balances("store", "zinc-2")
	return shelfOf{first.Available, first.Reserved, second.Available}
}

func TestOwnHoldIsUsedFirst(t *testing.T) {
	for name, c := range map[string]struct {
		given func(*world)
		edit  func(*Dispense)
		want  shelfOf
		left  int64 // in the hold
	}{
		"the fill":                {nil, func(*Dispense) {}, shelfOf{50, 0, 60}, 0},
		"a part":                  {nil, func(d *Dispense) { d.Quantity = 4 }, shelfOf{50, 6, 60}, 6},
		"more than a fill":        {nil, func(d *Dispense) { d.Quantity = 25 }, shelfOf{35, 0, 60}, 0},
		"the lot is scanned":      {nil, func(d *Dispense) { d.LotID = "zinc-1" }, shelfOf{50, 0, 60}, 0},
		"another lot is scanned":  {nil, func(d *Dispense) { d.LotID = "zinc-2" }, shelfOf{60, 0, 50}, 0},
		"a part of another lot":   {nil, func(d *Dispense) { d.LotID, d.Quantity = "zinc-2", 4 }, shelfOf{54, 6, 56}, 6},
		"a substitute":            {nil, func(d *Dispense) { d.MedicineID, d.SubstitutionReason, d.Quantity = "amoxicillin", "OUT", 4 }, shelfOf{54, 6, 60}, 6},
		"elsewhere":               {nil, func(d *Dispense) { d.LocationID, d.Quantity = "ward", 4 }, shelfOf{50, 10, 60}, 10},
		"a part of it is wasted":  {nil, func(d *Dispense) { d.Quantity, d.WastedQuantity, d.WasteReason = 8, 4, "SPILT" }, shelfOf{48, 0, 60}, 0},
		"waste leaves the rest":   {nil, func(d *Dispense) { d.Quantity, d.WastedQuantity, d.WasteReason = 2, 3, "SPILT" }, shelfOf{50, 5, 60}, 5},
		"the held lot was barred": {func(w *world) { w.must(t, &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"}) }, func(*Dispense) {}, shelfOf{60, 0, 50}, 0},
		"the hold is overdue":     {func(w *world) { w.now += 2 * testDay }, func(*Dispense) {}, shelfOf{40, 10, 60}, 10},
		"the hold was released": {func(w *world) {
			w.must(t, &ReleaseStock{HoldID: w.prescription(PrescriptionID(w.latest(DocumentPrescription))).Lines[0].HoldID})
		}, func(*Dispense) {}, shelfOf{50, 0, 60}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := pharmacyWorld(t)
			id := w.prescribe(t, func(b *CreatePrescription) { b.HoldUntil, b.Lines[0].Refills = w.now+testDay, 2 })
			same(t, "with the hold", w.zinc(), shelfOf{50, 10, 60})
			if c.given != nil {
				c.given(w)
			}
			d := Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10}
			c.edit(&d)
			w.at(t, 0, "dalia", &DispenseMedicine{d})
			same(t, "the shelf", w.zinc(), c.want)
			var left int64
			if _, hold := w.state.openHold(w.prescription(id).Lines[0].HoldID); hold != nil {
				left = hold.lines[0].quantity
			}
			same(t, "left in the hold", left, c.left)
			same(t, "dispensed", w.prescription(id).Lines[0].Dispensed, d.Quantity)
			checkInvariants(t, w)
			checkOwnedHolds(t, w)
		})
	}
}

// A prescription's own hold that is overdue is given up like any other where
// nothing else is left.
func TestOverdueHoldOfAPrescriptionMakesRoom(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.HoldUntil, b.Lines[0].Quantity = w.now+testDay, 120 })
	w.now += testDay + 1
	c := w.command(&DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 120}})
	expiries := ExpiriesFor(w.state, c, w.now)
	if len(expiries) != 1 {
		t.Fatalf("expiries: %+v", expiries)
	}
	w.must(t, expiries[0].Body)
	if _, r := w.give(t, c); r != nil {
		t.Fatal(r)
	}
	same(t, "status", w.prescription(id).Status, PrescriptionFilled)
}

func TestDispensingInThreeSteps(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.HoldUntil = w.now + testDay })
	prepare := &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10, Payer: "NHIF"}, w.now + testDay}
	w.must(t, prepare)
	d := w.dispensing(DispensingID(w.latest(DocumentDispensing)))
	same(t, "the shelf", w.zinc(), shelfOf{50, 10, 60})
	same(t, "lies ready", w.prescription(id).Lines[0].Prepared, 10)
	w.refused(t, "amina", prepare, ReasonPrescriptionExceeded)
	w.refused(t, "amina", &CancelPrescription{PrescriptionID: id, ReasonCode: "CHANGED"}, ReasonPrescriptionInPreparation)
	w.must(t, &CheckDispensing{d.DispensingID})
	event := w.mustBy(t, "brian", &HandOver{d.DispensingID})
	same(t, "the shelf", w.zinc(), shelfOf{50, 0, 60})
	line := w.prescription(id).Lines[0]
	same(t, "dispensed", line.Dispensed, 10)
	same(t, "lies ready", line.Prepared, 0)
	same(t, "status", w.prescription(id).Status, PrescriptionFilled)
	charge := documentOf[*Charge](event)
	same(t, "charged", charge.Amount, 125)
	same(t, "payer", charge.Payer, "NHIF")
	same(t, "dispenser", w.dispensing(d.DispensingID).Dispenser, "brian")
	w.refused(t, "brian", &HandOver{d.DispensingID}, ReasonDispensingState)
	checkPharmacy(t, w)
}

// What lies ready can be the last of a prescription, which is then not filled.
func TestPrescriptionIsOpenWhileItLiesReady(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, nil)
	w.must(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10}, w.now + testDay})
	same(t, "status", w.prescription(id).Status, PrescriptionActive)
	w.must(t, &CancelDispensing{DispensingID(w.latest(DocumentDispensing)), "MISTAKE", false})
	same(t, "left", w.prescription(id).Lines[0].Left(), 10)
}

func TestWhatIsNotCollectedGoesBack(t *testing.T) {
	for name, expire := range map[string]bool{"its hold has expired": true, "its hold is open": false} {
		t.Run(name, func(t *testing.T) {
			w := pharmacyWorld(t)
			id := w.prescribe(t, nil)
			before := w.zinc()
			w.must(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, LotID: "zinc-1", Quantity: 10}, w.now + testDay})
			d := w.dispensing(DispensingID(w.latest(DocumentDispensing)))
			w.refused(t, "amina", &ExpireReservation{d.HoldID}, ReasonHoldNotDue)
			w.now += testDay + 1
			w.refused(t, "amina", &HandOver{d.DispensingID}, ReasonDispensingOverdue)
			if expire {
				w.mustBy(t, SystemActor, &ExpireReservation{d.HoldID})
				w.refused(t, "amina", &HandOver{d.DispensingID}, ReasonDispensingOverdue)
				same(t, "lies ready", w.prescription(id).Lines[0].Prepared, 10)
			}
			w.mustBy(t, SystemActor, &CancelDispensing{d.DispensingID, "NOT_COLLECTED", false})
			same(t, "the shelf", w.zinc(), before)
			same(t, "lies ready", w.prescription(id).Lines[0].Prepared, 0)
			same(t, "left", w.prescription(id).Lines[0].Left(), 10)
			if charges := w.documents[DocumentCharge]; len(charges) > 0 {
				t.Errorf("what nobody got is charged: %v", charges)
			}
			checkPharmacy(t, w)
		})
	}
}

// A lot that is recalled while it lies ready is not handed over.
func TestRecallOfWhatLiesReady(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, nil)
	w.must(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10}, w.now + testDay})
	d := DispensingID(w.latest(DocumentDispensing))
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	w.refused(t, "amina", &HandOver{d}, ReasonDispensingIncomplete)
	w.must(t, &ContinueRecall{RecallID: w.lastRecall()})
	w.refused(t, "amina", &HandOver{d}, ReasonDispensingIncomplete)
	w.must(t, &CancelDispensing{d, "RECALLED", false})
	same(t, "quarantined", w.balances("store", "zinc-1").Quarantined, 60)
	checkPharmacy(t, w)
}

func TestCheckIsByAnotherPerson(t *testing.T) {
	lax, strict := policy(24), policy(24, Rule{"schedule-2", KindCheckDispensing, 0, RequireReview})
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.Lines[0].MedicineID = "morphine" })
	prepare := func() DispensingID {
		w.must(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 5}, w.now + testDay})
		return DispensingID(w.latest(DocumentDispensing))
	}
	d := prepare()
	w.refused(t, "amina", &CheckDispensing{d}, ReasonSamePerson)
	w.refused(t, "brian", &HandOver{d}, ReasonDispensingUnchecked)
	w.mustBy(t, "brian", &CheckDispensing{d})
	w.refused(t, "chidi", &CheckDispensing{d}, ReasonDispensingState)
	w.must(t, &HandOver{d})

	// Who prepared it looked at it while nobody wanted more: now somebody does.
	w.must(t, lax)
	d = prepare()
	w.must(t, &CheckDispensing{d})
	w.must(t, strict)
	w.refused(t, "amina", &HandOver{d}, ReasonDispensingUnchecked)
	w.refused(t, "amina", &CheckDispensing{d}, ReasonSamePerson)
	w.mustBy(t, "brian", &CheckDispensing{d})
	w.must(t, &HandOver{d})
	same(t, "checker", w.dispensing(d).Checker, "brian")
}

// In one step nobody can check what is controlled, so somebody stands by.
func TestOneStepWantsAWitness(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.Lines[0].MedicineID = "morphine" })
	give := &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 5}}
	w.refused(t, "amina", give, ReasonWitnessRequired)
	w.at(t, 0, "dalia", give)
	same(t, "witness", w.dispensing(DispensingID(w.latest(DocumentDispensing))).Witness, "dalia")
	w.must(t, policy(24, Rule{"schedule-2", KindCheckDispensing, 5, RequireReview}))
	w.must(t, give) // not above the tier
}

func TestNothingIsHandedOverAfterTheLastDay(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.ValidUntil = today })
	w.must(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 5}, w.now + 5*testDay})
	d := DispensingID(w.latest(DocumentDispensing))
	w.now += testDay
	w.refused(t, "amina", &HandOver{d}, ReasonPrescriptionExpired)
	w.refused(t, "amina", &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 5}}, ReasonPrescriptionExpired)
	w.must(t, &CancelDispensing{d, "EXPIRED", false})
	same(t, "the shelf", w.zinc(), shelfOf{60, 0, 60})
}

func TestWaste(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, nil)
	give := &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10, WastedQuantity: 2, WasteReason: "SPILT"}}
	lay := &PrepareDispensing{give.Dispense, w.now + testDay}
	w.refused(t, "amina", give, ReasonWitnessRequired)
	w.refused(t, "amina", lay, ReasonWitnessRequired)
	event := w.at(t, 0, "dalia", give)
	d := documentOf[*Dispensing](event)
	mustBeSame(t, "lots", []DispensedLot{{Lot: "zinc-1", Quantity: 10, Wasted: 2}}, d.Lots)
	same(t, "witness", d.Witness, "dalia")
	same(t, "charged for", documentOf[*Charge](event).Quantity, 10)
	same(t, "status", w.prescription(id).Status, PrescriptionFilled) // waste is none of what was prescribed
	// What was wasted does not come back with the rest.
	w.must(t, &CancelDispensing{d.DispensingID, "MISTAKE", true})
	same(t, "the shelf", w.zinc(), shelfOf{58, 0, 60})
	same(t, "left", w.prescription(id).Lines[0].Left(), 10)

	id = w.prescribe(t, nil)
	w.at(t, 0, "dalia", &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10, WastedQuantity: 2, WasteReason: "SPILT"}, w.now + testDay})
	same(t, "the shelf", w.zinc(), shelfOf{46, 10, 60})
	checkOwnedHolds(t, w)
}

// A dispensing that waits for a second person is decided afresh when it is
// approved.
func TestApprovalOfADispensing(t *testing.T) {
	w := pharmacyWorld(t)
	w.must(t, policy(24, Rule{"*", KindDispenseMedicine, 0, RequireApprovalBefore}))
	id := w.prescribe(t, nil)
	give := &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 6}}
	first, second := w.putOff(t, give), w.putOff(t, give)
	same(t, "pending", w.balances("store", "zinc-1").Pending, 12)
	same(t, "dispensed", w.prescription(id).Lines[0].Dispensed, 0)
	w.refused(t, "amina", &ApproveCommand{first}, ReasonSamePerson)

	// Who approves may not have read what the command names.
	fresh, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	approve := w.command(&ApproveCommand{first})
	mustBeSame(t, "wanted", []DocumentKey{{DocumentPrescription, string(id)}}, Wanted(fresh, approve))

	event := w.mustBy(t, "brian", &ApproveCommand{first})
	d := documentOf[*Dispensing](Event{Body: event.Body.(*Change).Approved})
	same(t, "dispenser", d.Dispenser, "amina")
	same(t, "number", numberOf(string(d.DispensingID)), event.Sequence)
	same(t, "the shelf", w.zinc(), shelfOf{48, 0, 60})
	w.refused(t, "brian", &ApproveCommand{second}, ReasonPrescriptionExceeded)
	w.mustBy(t, "brian", &RejectCommand{second, "ENOUGH"})
	same(t, "the shelf", w.zinc(), shelfOf{54, 0, 60})

	id = w.prescribe(t, func(b *CreatePrescription) { b.Lines[0].MedicineID = "morphine" })
	late := w.putOff(t, &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 8}})
	w.must(t, &SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", MaxQuantity: 5}})
	w.refused(t, "brian", &ApproveCommand{late}, ReasonControlQuantityExceeded)
	checkPharmacy(t, w)
}

// The next command of a group may name a prescription by another system's
// number, which no one has read: it is made by the one before.
func TestPrescriptionIsNamedByTheNextCommand(t *testing.T) {
	w := pharmacyWorld(t)
	s, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	create := w.command(&CreatePrescription{
		PatientID: patientNo(0), Prescriber: "Dr. Hill", ValidUntil: today + 9, Identifier: "his|7", Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 10}},
	})
	give := w.command(&DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: "his|7", Quantity: 10}})
	mark := s.Mark()
	for _, c := range []Command{create, give} {
		learnFrom(t, s, w.state, c)
		event, r := Decide(s, c, w.now)
		if r != nil {
			t.Fatalf("%s: %v", c.Body.Kind(), r)
		}
		if _, err := Evolve(s, Seal(s, event)); err != nil {
			t.Fatal(err)
		}
	}
	s.Rollback(mark)
	learnFrom(t, s, w.state, give)
	if _, r := Decide(s, give, w.now); r == nil || r.Reason != ReasonPrescriptionNotFound {
		t.Errorf("what was taken back is found: %v", r)
	}
	w.must(t, create.Body)
	w.refused(t, "amina", create.Body, ReasonPrescriptionExists)
}

func TestSubstitution(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) {
		b.Lines[0].Refills = 1
		b.Lines = append(b.Lines, PrescribedLine{MedicineID: "zinc", Quantity: 10, NoSubstitution: true})
	})
	give := func(line, quantity int64, lot LotID, why string) CommandBody {
		return &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Line: line, LotID: lot, Quantity: quantity, SubstitutionReason: why}}
	}
	w.refused(t, "amina", give(1, 4, "amoxicillin-2", ""), ReasonSubstitutionReason)
	w.refused(t, "amina", give(2, 4, "amoxicillin-2", "OUT"), ReasonSubstitutionForbidden)
	// The substitute's class allows no refills, and the prescription has one.
	w.refused(t, "amina", give(1, 4, "morphine-1", "OUT"), ReasonControlRefillsExceeded)
	event := w.must(t, give(1, 20, "amoxicillin-2", "OUT"))
	d := documentOf[*Dispensing](event)
	same(t, "prescribed", d.Prescribed, "zinc")
	same(t, "reason", d.SubstitutionReason, "OUT")
	same(t, "left", w.prescription(id).Lines[0].Left(), 0)
	w.must(t, give(2, 4, "zinc-2", ""))
}

func TestCancelOfWhatWasHandedOver(t *testing.T) {
	bar := func(w *world) { w.must(t, &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"}) }
	recall := func(w *world) { w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"}) }
	expire := func(w *world) { w.now += 30 * testDay }
	for name, c := range map[string]struct {
		given     func(*world)
		neverLeft bool
		toShelf   bool
	}{
		"never left custody":     {nil, true, true},
		"left custody":           {nil, false, false},
		"never left, barred":     {bar, true, false},
		"never left, recalled":   {recall, true, false},
		"never left, expired":    {expire, true, false},
		"left custody, recalled": {recall, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := pharmacyWorld(t)
			id := w.prescribe(t, nil)
			w.must(t, &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 10}})
			d := DispensingID(w.latest(DocumentDispensing))
			charge := ChargeID(w.latest(DocumentCharge))
			if c.given != nil {
				c.given(w)
			}
			before := w.balances("store", "zinc-1")
			event := w.must(t, &CancelDispensing{d, "MISTAKE", c.neverLeft})
			after := w.balances("store", "zinc-1")
			want := before
			if c.toShelf {
				want.Available += 10
			} else {
				want.Quarantined += 10
			}
			same(t, "balances", after, want)
			reversal := documentOf[*Charge](event)
			same(t, "reverses", reversal.Reverses, charge)
			same(t, "amount", reversal.Amount, -125)
			same(t, "left", w.prescription(id).Lines[0].Left(), 10)
			same(t, "status", w.prescription(id).Status, PrescriptionActive)
			w.refused(t, "amina", &CancelDispensing{d, "MISTAKE", c.neverLeft}, ReasonDispensingState)
			checkPharmacy(t, w)
			checkInvariants(t, w)
		})
	}
}

func TestReturnFromPatient(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.Lines[0].Quantity = 70 })
	w.must(t, &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: id, Quantity: 70}}) // 60 of zinc-1, 10 of zinc-2
	d := DispensingID(w.latest(DocumentDispensing))
	bring := func(destroy bool, lines ...LotLine) CommandBody {
		return &ReturnFromPatient{DispensingID: d, Lines: lines, ReasonCode: "UNUSED", Destroy: destroy}
	}
	w.refused(t, "amina", bring(false, LotLine{LotID: "zinc-2", Quantity: 6}, LotLine{LotID: "zinc-2", Quantity: 5}), ReasonReturnExceeded)
	w.refused(t, "amina", bring(false, LotLine{LotID: "amoxicillin-2", Quantity: 1}), ReasonReturnExceeded)
	w.must(t, bring(false, LotLine{LotID: "zinc-2", Quantity: 6}))
	same(t, "quarantined", w.balances("store", "zinc-2"), Balances{Available: 50, Quarantined: 6})
	event := w.must(t, bring(true)) // all that is left
	same(t, "quarantined", w.balances("store", "zinc-2"), Balances{Available: 50, Quarantined: 6})
	var destroyed int64
	for _, e := range EntriesOf(event) {
		if e.Debit == Wasted && e.Credit == Dispensed {
			destroyed += e.Quantity
		}
	}
	same(t, "destroyed", destroyed, 64)
	w.refused(t, "amina", bring(true, LotLine{LotID: "zinc-1", Quantity: 1}), ReasonReturnExceeded)
	w.refused(t, "amina", &CancelDispensing{d, "MISTAKE", false}, ReasonDispensingReturned)
	same(t, "left", w.prescription(id).Lines[0].Left(), 0) // it was given, and paid for
	checkPharmacy(t, w)
}

func TestPriceByDay(t *testing.T) {
	w := pharmacyWorld(t) // 125 for 10 until tomorrow, then 7 for 3
	w.must(t, &SetPrice{MedicineID: "zinc", Price: Price{From: today + 4, Amount: 1, Per: 1, Currency: "KES"}})
	w.must(t, &SetPrice{MedicineID: "zinc", Price: Price{From: today + 4, Amount: 1, Per: 2, Currency: "USD"}}) // replaces it
	same(t, "prices", len(document[Prices](w.state, DocumentPrices, "zinc").Prices), 3)
	sell := &DispenseMedicine{Dispense{LocationID: "store", MedicineID: "zinc", Quantity: 5}}
	for _, c := range []struct {
		after, ago Instant // days
		quantity   int64
		amount     int64
		currency   string
		day        Date
	}{
		{0, 0, 5, 63, "KES", today}, // 62.5
		{1, 0, 4, 50, "KES", today + 1},
		{1, 0, 5, 12, "KES", today + 2},  // 11.67
		{0, 1, 5, 63, "KES", today + 1},  // sold yesterday
		{2, 0, 1, 1, "USD", today + 4},   // 0.5
		{0, 1, 4, 9, "KES", today + 3},   // 9.33
		{0, 0, 11, 6, "USD", today + 4},  // 5.5
		{0, 0, 10, 5, "USD", today + 4},  // even
		{0, 2, 10, 23, "KES", today + 2}, // 23.33
	} {
		w.now += c.after * testDay
		sell.Quantity = c.quantity
		charge := documentOf[*Charge](w.at(t, w.now-c.ago*testDay, "", sell))
		if charge.Amount != c.amount || charge.Currency != c.currency || charge.Day != c.day {
			t.Errorf("%d tablets on %s: %+v, want %d %s", c.quantity, c.day, charge, c.amount, c.currency)
		}
	}
	// What costs nothing that anybody said is charged as nothing.
	free := documentOf[*Charge](w.must(t, &DispenseMedicine{Dispense{LocationID: "store", MedicineID: "amoxicillin", Quantity: 5}}))
	if free.Amount != 0 || free.Currency != "" || free.PriceFrom != 0 {
		t.Errorf("without a price: %+v", free)
	}
}

// The day and the price are those on which it was handed over, not recorded.
func TestHandOverHappenedBefore(t *testing.T) {
	w := pharmacyWorld(t)
	w.must(t, &PrepareDispensing{Dispense{LocationID: "store", MedicineID: "zinc", Quantity: 10}, w.now + 9*testDay})
	d := DispensingID(w.latest(DocumentDispensing))
	w.now += 2 * testDay
	charge := documentOf[*Charge](w.at(t, w.now-testDay, "", &HandOver{d}))
	same(t, "day", charge.Day, today+1)
	same(t, "amount", charge.Amount, 125)
	same(t, "day", w.dispensing(d).Day, today+1)
	reversal := documentOf[*Charge](w.at(t, w.now-testDay, "", &CancelDispensing{d, "MISTAKE", false}))
	same(t, "day", reversal.Day, today+1)
}

func TestControlLimits(t *testing.T) {
	w := pharmacyWorld(t)
	prescribe := func(edit func(*CreatePrescription)) CommandBody {
		b := &CreatePrescription{
			PatientID: patientNo(0), Prescriber: "Dr. Hill", ValidUntil: today + 10, Lines: []PrescribedLine{{MedicineID: "morphine", Quantity: 20}},
		}
		edit(b)
		return b
	}
	none := func(*CreatePrescription) {}
	refill := func(b *CreatePrescription) { b.Lines[0].Refills = 1 }
	w.must(t, prescribe(none))
	w.refused(t, "amina", prescribe(refill), ReasonControlRefillsExceeded)
	w.refused(t, "amina", prescribe(func(b *CreatePrescription) { b.ValidUntil++ }), ReasonControlValidityExceeded)
	w.refused(t, "amina", prescribe(func(b *CreatePrescription) { b.Lines[0].Quantity++ }), ReasonControlQuantityExceeded)
	w.refused(t, "amina", prescribe(func(b *CreatePrescription) { b.Lines[0].Quantity, b.Lines[0].Pack = 3, "box" }), ReasonControlQuantityExceeded)
	w.refused(t, "amina", &DispenseMedicine{Dispense{LocationID: "store", MedicineID: "morphine", Quantity: 1}}, ReasonPrescriptionRequired)
	w.must(t, &SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", MaxRefills: 1}})
	w.must(t, prescribe(refill))
	two := func(b *CreatePrescription) { b.Lines[0].Refills = 2 }
	w.refused(t, "amina", prescribe(two), ReasonControlRefillsExceeded)
	w.must(t, &SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2"}}) // nothing is limited
	w.must(t, prescribe(two))
}

func TestErasure(t *testing.T) {
	w := pharmacyWorld(t)
	who := patientNo(1)
	w.must(t, &UpdatePatient{PatientID: who, TextDigest: "00112233445566778899aabbccddeeff"})
	w.refused(t, "amina", &RegisterPatient{PatientID: who}, ReasonPatientExists)
	w.must(t, &PlaceLegalHold{who, "LAWSUIT"})
	w.refused(t, "amina", &PlaceLegalHold{who, "LAWSUIT"}, ReasonLegalHold)
	w.refused(t, "amina", &ErasePatient{who, "ASKED"}, ReasonLegalHold)
	w.must(t, &UpdatePatient{PatientID: who, TextDigest: "ffeeddccbbaa99887766554433221100"}) // who it is may be corrected
	w.refused(t, "amina", &ErasePatient{who, "ASKED"}, ReasonLegalHold)
	w.must(t, &LiftLegalHold{who, "SETTLED"})
	w.must(t, &ErasePatient{who, "ASKED"})
	patient := document[Patient](w.state, DocumentPatient, string(who))
	if !patient.Erased || patient.TextDigest != "" || patient.About().Open {
		t.Errorf("after the erasure: %+v", patient)
	}
	for _, body := range []CommandBody{
		&ErasePatient{who, "ASKED"}, &UpdatePatient{PatientID: who}, &PlaceLegalHold{who, "LAWSUIT"}, &LiftLegalHold{who, "SETTLED"},
		&DispenseMedicine{Dispense{LocationID: "store", PatientID: who, MedicineID: "zinc", Quantity: 1}},
	} {
		w.refused(t, "amina", body, ReasonPatientErased)
	}
	w.refused(t, "amina", &RegisterPatient{PatientID: who}, ReasonPatientExists) // a token is never given twice
}

// A text about a patient waits with the command that brought it.
func TestPrivateTextOfARequest(t *testing.T) {
	w := pharmacyWorld(t)
	var rules []Rule
	for _, kind := range []Kind{KindRegisterPatient, KindUpdatePatient, KindCreatePrescription, KindErasePatient} {
		rules = append(rules, Rule{"*", kind, 0, RequireApprovalBefore})
	}
	w.must(t, policy(24, rules...))
	const digest = "00112233445566778899aabbccddeeff"
	for _, body := range []CommandBody{
		&RegisterPatient{PatientID: patientNo(0), TextDigest: digest},
		&UpdatePatient{PatientID: patientNo(0), TextDigest: digest},
		&CreatePrescription{
			PatientID: patientNo(0), Prescriber: "Dr. Hill", ValidUntil: today + 9, TextDigest: digest, Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 1}},
		},
		&ErasePatient{patientNo(0), "ASKED"},
	} {
		if b, ok := body.(*RegisterPatient); ok {
			b.PatientID = patientNo(9)
		}
		id := w.putOff(t, body)
		patient, text := document[Approval](w.state, DocumentApproval, string(id)).PrivateText()
		if _, erases := body.(*ErasePatient); erases {
			same(t, "text", text, "")
			continue
		}
		same(t, "text", text, digest)
		same(t, "of a patient", slices.Contains([]PatientID{patientNo(0), patientNo(9)}, patient), true)
	}
}
