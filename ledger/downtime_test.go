package ledger

import (
	"fmt"
	"testing"
)

// record gives what was done an hour ago, during a downtime.
func (w *world) record(t fataler, witness Actor, edit func(*RecordDowntime)) (Event, *Downtime) {
	t.Helper()
	b := &RecordDowntime{Device: "pad-1", PaperReference: fmt.Sprint(w.keys)}
	edit(b)
	event := w.at(t, w.now-testDay/24, witness, b)
	return event, documentOf[*Downtime](event)
}

func TestDispensedDuringADowntime(t *testing.T) {
	type broken = []Reason
	expired := func(w *world) { w.now += 21 * testDay } // zinc-1 is, and so are prescriptions
	for name, c := range map[string]struct {
		given     func(*world)
		d         Dispense
		witness   Actor
		broken    broken
		shortage  int64
		lots      []DispensedLot
		patient   PatientID
		ofNothing bool // it counts for no prescription
	}{
		"by the rules": {
			d: Dispense{PrescriptionID: "his|1", Quantity: 10}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 10}}, patient: patientNo(0),
		},
		"over the counter": {
			d: Dispense{MedicineID: "zinc", Quantity: 70}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 60}, {Lot: "zinc-2", Quantity: 10}}, ofNothing: true,
		},
		"more than there was": {
			d:        Dispense{MedicineID: "zinc", Quantity: 130, PatientID: patientNo(1)},
			shortage: 10, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 60}, {Lot: "zinc-2", Quantity: 70}}, patient: patientNo(1), ofNothing: true,
		},
		"the prescription is unknown": {
			d:      Dispense{PrescriptionID: "RX-9999", MedicineID: "zinc", Quantity: 1},
			broken: broken{ReasonPrescriptionNotFound}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1}}, ofNothing: true,
		},
		"its number is unknown": {
			d:      Dispense{PrescriptionID: "his|2", MedicineID: "zinc", Quantity: 1},
			broken: broken{ReasonPrescriptionNotFound}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1}}, ofNothing: true,
		},
		"it has no such line": {
			d:      Dispense{PrescriptionID: "his|1", Line: 2, MedicineID: "zinc", Quantity: 1},
			broken: broken{ReasonPrescriptionLine}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1}}, patient: patientNo(0), ofNothing: true,
		},
		"more than was prescribed": {
			d:      Dispense{PrescriptionID: "his|1", Quantity: 11},
			broken: broken{ReasonPrescriptionExceeded}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 11}}, patient: patientNo(0),
		},
		"too much, too late, of what had expired": {
			given:  expired,
			d:      Dispense{PrescriptionID: "his|1", LotID: "zinc-1", Quantity: 11},
			broken: broken{ReasonLotExpired, ReasonPrescriptionExpired, ReasonPrescriptionExceeded}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 11}}, patient: patientNo(0),
		},
		"for a cancelled prescription": {
			given: func(w *world) { w.must(t, &CancelPrescription{PrescriptionID: "his|1", ReasonCode: "CHANGED"}) },
			d:     Dispense{PrescriptionID: "his|1", Quantity: 1}, broken: broken{ReasonPrescriptionCancelled},
			lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1}}, patient: patientNo(0),
		},
		"a substitute without a reason": {
			d: Dispense{PrescriptionID: "his|1", LotID: "amoxicillin-2", Quantity: 1}, broken: broken{ReasonSubstitutionReason},
			lots: []DispensedLot{{Lot: "amoxicillin-2", Quantity: 1}}, patient: patientNo(0),
		},
		"a recalled lot, which lies in quarantine": {
			given: func(w *world) {
				w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
				w.must(t, &ContinueRecall{RecallID: w.lastRecall()})
			},
			d:      Dispense{LotID: "zinc-1", Quantity: 65},
			broken: broken{ReasonLotRecalled}, shortage: 5, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 65}}, ofNothing: true,
		},
		"only barred lots are there": {
			given: func(w *world) {
				w.must(t, &QuarantineLot{LotID: "amoxicillin-2", ReasonCode: "DAMP"})
			},
			d:      Dispense{MedicineID: "amoxicillin", Quantity: 2},
			broken: broken{ReasonLotQuarantined}, shortage: 2, lots: []DispensedLot{{Lot: "amoxicillin-2", Quantity: 2}}, ofNothing: true,
		},
		"what others reserved": {
			given: func(w *world) {
				for _, lot := range []LotID{"zinc-1", "zinc-2"} {
					w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", LotID: lot, Quantity: 60, ReasonCode: "WARD", Deadline: w.now + testDay})
				}
			},
			d:        Dispense{MedicineID: "zinc", Quantity: 5},
			shortage: 5, lots: []DispensedLot{{Lot: "zinc-2", Quantity: 5}}, ofNothing: true,
		},
		"a controlled medicine, alone": {
			d:      Dispense{MedicineID: "morphine", Quantity: 21},
			broken: broken{ReasonPrescriptionRequired, ReasonControlQuantityExceeded, ReasonWitnessRequired}, lots: []DispensedLot{{Lot: "morphine-1", Quantity: 21}}, ofNothing: true,
		},
		"a controlled medicine, with a witness": {
			d: Dispense{MedicineID: "morphine", Quantity: 20}, witness: "dalia",
			broken: broken{ReasonPrescriptionRequired}, lots: []DispensedLot{{Lot: "morphine-1", Quantity: 20}}, ofNothing: true,
		},
		"waste, alone": {
			d:      Dispense{MedicineID: "zinc", Quantity: 1, WastedQuantity: 2, WasteReason: "SPILT"},
			broken: broken{ReasonWitnessRequired}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1, Wasted: 2}}, ofNothing: true,
		},
		"an unknown patient": {
			d:      Dispense{MedicineID: "zinc", Quantity: 1, PatientID: patientNo(8)},
			broken: broken{ReasonPatientNotFound}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1}}, ofNothing: true,
		},
		"an erased patient": {
			given:  func(w *world) { w.must(t, &ErasePatient{patientNo(1), "ASKED"}) },
			d:      Dispense{MedicineID: "zinc", Quantity: 1, PatientID: patientNo(1)},
			broken: broken{ReasonPatientErased}, lots: []DispensedLot{{Lot: "zinc-1", Quantity: 1}}, ofNothing: true,
		},
		"a medicine and a location that are inactive": {
			given: func(w *world) {
				w.must(t, &CreateLocation{LocationID: "hut", Name: "hut", LocationKind: Store})
				w.must(t, &DeactivateLocation{LocationID: "hut", ReasonCode: "MOVED"})
				w.must(t, &AddMedicine{MedicineID: "old", Name: "old", BaseUnit: "tablet"})
				w.must(t, &RegisterLot{LotID: "old-1", MedicineID: "old", Manufacturer: "Acme", LotNumber: "1", Expiry: today + 9})
				w.must(t, &DeactivateMedicine{MedicineID: "old", ReasonCode: "UNUSED"})
			},
			d:      Dispense{LocationID: "hut", MedicineID: "old", Quantity: 3},
			broken: broken{ReasonLocationInactive, ReasonMedicineInactive}, shortage: 3, lots: []DispensedLot{{Lot: "old-1", Quantity: 3}}, ofNothing: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := pharmacyWorld(t)
			rx := w.prescribe(t, func(b *CreatePrescription) { b.Identifier = "his|1" })
			if c.given != nil {
				c.given(w)
			}
			if c.d.LocationID == "" {
				c.d.LocationID = "store"
			}
			event, record := w.record(t, c.witness, func(b *RecordDowntime) { b.Dispensed = &c.d })
			d := documentOf[*Dispensing](event)
			mustBeSame(t, "broken rules", c.broken, record.Exceptions)
			mustBeSame(t, "broken rules", record.Exceptions, d.Exceptions)
			same(t, "shortage", record.Shortage, c.shortage)
			mustBeSame(t, "lots", c.lots, d.Lots)
			same(t, "patient", d.PatientID, c.patient)
			same(t, "status", d.Status, DispensingHandedOver)
			same(t, "charge", documentOf[*Charge](event).ChargeID, d.ChargeID)
			checkShortage(t, event, c.shortage)
			checkReview(t, w, event)
			var counted int64
			if !c.ofNothing {
				counted = c.d.Quantity
			}
			same(t, "dispensed for the prescription", w.prescription(rx).Lines[0].Dispensed, counted)
			checkPharmacy(t, w)
			checkInvariants(t, w)
			if c.d.LocationID != "store" {
				return
			}
			w.must(t, &CancelDispensing{d.DispensingID, "MISTAKE", false}) // what was wrong can be corrected
			same(t, "dispensed for the prescription", w.prescription(rx).Lines[0].Dispensed, 0)
		})
	}
}

// checkShortage: what was not in the books is entered into them by an
// adjustment, with a reason of its own.
func checkShortage(t fataler, event Event, want int64) {
	t.Helper()
	var adjusted int64
	for _, e := range EntriesOf(event) {
		if e.Credit == Adjustment && e.Debit == Available {
			adjusted += e.Quantity
		}
	}
	same(t, "adjusted", adjusted, want)
	code := ""
	if want > 0 {
		code = "DOWNTIME_SHORTAGE"
	}
	same(t, "reason", reasonCodeOf(event.Body), code)
}

// checkReview: what broke a rule waits for another person, and nothing else
// does.
func checkReview(t fataler, w *world, event Event) {
	t.Helper()
	id := ApprovalID(fmt.Sprintf("AP-%d", event.Sequence))
	review := document[Approval](w.state, DocumentApproval, string(id))
	if len(documentOf[*Downtime](event).Exceptions) == 0 {
		if review != nil {
			t.Fatalf("what broke no rule is to be reviewed: %+v", review)
		}
		return
	}
	if review == nil || !review.Review {
		t.Fatalf("what broke a rule is not to be reviewed: %+v", review)
	}
	w.refused(t, "amina", &ApproveCommand{id}, ReasonSamePerson)
	w.refused(t, "amina", &RejectCommand{id, "FINE"}, ReasonSamePerson)
	w.mustBy(t, "brian", &ApproveCommand{id})
}

// A medicine of which no lot was ever registered was given out all the same.
func TestDowntimeWithoutAnyLot(t *testing.T) {
	w := pharmacyWorld(t)
	w.must(t, &AddMedicine{MedicineID: "new", Name: "new", BaseUnit: "tablet"})
	event, record := w.record(t, "dalia", func(b *RecordDowntime) {
		b.Dispensed = &Dispense{LocationID: "store", MedicineID: "new", Quantity: 4, WastedQuantity: 1, WasteReason: "SPILT"}
	})
	d := documentOf[*Dispensing](event)
	if len(d.Lots) != 1 || d.Lots[0].Quantity != 4 || d.Lots[0].Wasted != 1 || record.Shortage != 5 || len(record.Exceptions) > 0 {
		t.Fatalf("%+v of %+v", record, d)
	}
	lot := w.state.lots[d.Lots[0].Lot]
	if lot.Medicine != "new" || lot.LotNumber != "UNKNOWN" || lot.Expiry != today || !lot.Active {
		t.Errorf("the lot that nobody noted: %+v", lot)
	}
	// The next one is of the same lot.
	event, _ = w.record(t, "", func(b *RecordDowntime) { b.Dispensed = &Dispense{LocationID: "ward", MedicineID: "new", Quantity: 1} })
	same(t, "lot", documentOf[*Dispensing](event).Lots[0].Lot, lot.ID)
	checkReplay(t, w)
}

// What was reserved for the patient was used first, as the hold stood then.
func TestDowntimeUsesTheHold(t *testing.T) {
	w := pharmacyWorld(t)
	id := w.prescribe(t, func(b *CreatePrescription) { b.HoldUntil, b.Lines[0].Refills = w.now+testDay, 1 })
	w.now += testDay + testDay/48 // overdue now, and not yet an hour ago
	w.record(t, "dalia", func(b *RecordDowntime) {
		b.Dispensed = &Dispense{LocationID: "store", PrescriptionID: id, Quantity: 7, WastedQuantity: 2, WasteReason: "SPILT"}
	})
	same(t, "the shelf", w.zinc(), shelfOf{50, 1, 60})
	w.record(t, "", func(b *RecordDowntime) {
		b.Dispensed = &Dispense{LocationID: "store", PrescriptionID: id, LotID: "zinc-2", Quantity: 7}
	})
	same(t, "the shelf", w.zinc(), shelfOf{51, 0, 53})
	checkOwnedHolds(t, w)
	checkPharmacy(t, w)
}

func TestReceivedDuringADowntime(t *testing.T) {
	w := pharmacyWorld(t)
	receive := func(location LocationID, lot LotID) (Event, *Downtime) {
		return w.record(t, "", func(b *RecordDowntime) {
			b.Received = &ReceiveStock{LocationID: location, LotID: lot, Quantity: 5, Supplier: "erp|A", Reference: "N-1"}
		})
	}
	event, record := receive("store", "zinc-2")
	same(t, "available", w.balances("store", "zinc-2"), Balances{Available: 65})
	same(t, "supplier", event.Body.(*Change).Party, "Acme")
	mustBeSame(t, "broken rules", []Reason(nil), record.Exceptions)
	checkReview(t, w, event)

	w.must(t, &QuarantineLot{LotID: "zinc-2", ReasonCode: "DAMP"})
	receive("store", "zinc-2")
	same(t, "barred", w.balances("store", "zinc-2"), Balances{Available: 65, Quarantined: 5})

	w.must(t, &CreateLocation{LocationID: "hut", Name: "hut", LocationKind: Store})
	w.must(t, &DeactivateLocation{LocationID: "hut", ReasonCode: "MOVED"})
	w.must(t, &DeactivateLot{LotID: "zinc-0", ReasonCode: "UNUSED"})
	w.now += testDay
	event, record = receive("hut", "zinc-0")
	mustBeSame(t, "broken rules", []Reason{ReasonLocationInactive, ReasonLotInactive, ReasonLotExpired}, record.Exceptions)
	checkReview(t, w, event)
	checkInvariants(t, w)
}

// A count is against what the books should have said when it was taken: what
// happened later does not count, and what was recorded later of before does.
func TestCountedDuringADowntime(t *testing.T) {
	w := pharmacyWorld(t)
	w.must(t, policy(24))
	w.now += testDay / 2
	counted := w.now
	w.now += testDay / 24
	w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 10, Recipient: "WARD"}) // after the count
	w.at(t, counted-1, "", &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 7})                          // before it
	count := func(units int64) *Downtime {
		b := &RecordDowntime{Device: "pad-1", PaperReference: fmt.Sprint(w.keys), Counted: &DowntimeCount{LocationID: "store", LotID: "zinc-1", Counted: units, ReasonCode: "PAPER"}}
		event := w.at(t, counted, "", b)
		checkReview(t, w, event)
		return documentOf[*Downtime](event)
	}
	same(t, "counted", count(67).Quantity, 67) // 60 and 7
	same(t, "nothing differs", w.zinc().available1, 57)
	count(65)
	same(t, "two are missing", w.zinc().available1, 55)
	count(67)
	same(t, "two were found", w.zinc().available1, 57)

	// What is promised to others stays in the books, and somebody looks at it.
	w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 50, ReasonCode: "WARD", Deadline: w.now + testDay})
	mustBeSame(t, "broken rules", []Reason{ReasonCountEatsHeld}, count(20).Exceptions)
	same(t, "the shelf", w.zinc(), shelfOf{0, 50, 60})

	strict := policy(24)
	strict.CountApproval, strict.ToleranceUnits = true, 3
	w.must(t, strict)
	count(67 - 7 + 3)
	same(t, "within the tolerance", w.zinc(), shelfOf{3, 50, 60})
	mustBeSame(t, "broken rules", []Reason{ReasonCountBeyondTolerance}, count(67-7+3+4).Exceptions)
	same(t, "beyond it", w.zinc(), shelfOf{7, 50, 60})
	checkInvariants(t, w)
}
