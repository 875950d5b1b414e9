package ledger

import "fmt"

// counterStage is what the stage has of the pharmacy.
type counterStage struct {
	known, held, erased PatientID

	active, expired, cancelled, filled, byPaper, inPreparation PrescriptionID
	holding, controlled                                        PrescriptionID

	given, sold, prepared, checked, overdue, incomplete, returned, undone DispensingID
	ofControlled, ofExpired                                               DispensingID
	holdOfPrescription, holdOfDispensing                                  HoldID
}

func (s *stage) prescription(t fataler, edit func(*CreatePrescription)) PrescriptionID {
	b := &CreatePrescription{
		PatientID: s.counter.known, LocationID: "store", Prescriber: "Dr. Hill", ValidUntil: today + 90,
		Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 2, Refills: 1}},
	}
	edit(b)
	s.must(t, b)
	return PrescriptionID(s.latest(DocumentPrescription))
}

func (s *stage) dispensed(t fataler, body CommandBody) DispensingID {
	s.must(t, body)
	return DispensingID(s.latest(DocumentDispensing))
}

func (s *stage) prepare(t fataler, id PrescriptionID, until Instant) DispensingID {
	return s.dispensed(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: id, LotID: "zinc-1", Quantity: 1}, until})
}

// prescribe opens what becomes overdue before the stage's clock moves on.
func (s *stage) prescribe(t fataler) {
	c := &s.counter
	c.known, c.held, c.erased = patientNo(0), patientNo(1), patientNo(2)
	for _, id := range []PatientID{c.known, c.held, c.erased} {
		s.must(t, &RegisterPatient{PatientID: id, TextDigest: "00112233445566778899aabbccddeeff"})
	}
	s.must(t, &PlaceLegalHold{c.held, "LAWSUIT"})
	s.must(t, &ErasePatient{c.erased, "ASKED"})
	s.must(t, &SetPrice{MedicineID: "zinc", Price: Price{From: today - 9, Amount: 125, Per: 10, Currency: "KES"}})
	s.must(t, &SetPrice{MedicineID: "morphine", Price: Price{From: today - 9, Amount: MaxQuantity, Per: 1, Currency: "KES"}})
	s.must(t, &SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", MaxQuantity: 10, MaxRefills: 1, MaxValidDays: 100, PrescriptionRequired: true}})
	s.must(t, &SetPrescriptionTemplate{TemplateID: "gut", Name: "Gut", Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 2, Dosage: "daily"}}})
	s.must(t, &AddMedicine{MedicineID: "gone", Name: "gone", BaseUnit: "tablet"})
	s.must(t, &SetPrescriptionTemplate{TemplateID: "stale", Name: "Stale", Lines: []PrescribedLine{{MedicineID: "gone", Quantity: 2}}})
	s.must(t, &DeactivateMedicine{MedicineID: "gone", ReasonCode: "UNUSED"})
	s.must(t, &RegisterLot{LotID: "zinc-later", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "later", Expiry: today + 150})
	s.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-later", Quantity: 20})
	s.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 15})
	none := func(*CreatePrescription) {}
	c.active = s.prescription(t, none)
	c.expired = s.prescription(t, func(b *CreatePrescription) { b.ValidUntil = today })
	c.cancelled = s.prescription(t, none)
	s.must(t, &CancelPrescription{PrescriptionID: c.cancelled, ReasonCode: "CHANGED"})
	c.filled = s.prescription(t, none)
	s.must(t, &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: c.filled, Quantity: 4}})
	c.byPaper = s.prescription(t, func(b *CreatePrescription) {
		b.Identifier = "paper|1"
		b.Lines = append(b.Lines, PrescribedLine{MedicineID: "amoxicillin", Quantity: 1, NoSubstitution: true})
	})
	c.holding = s.prescription(t, func(b *CreatePrescription) { b.HoldUntil = s.now + 30*testDay })
	c.holdOfPrescription = document[Prescription](s.state, DocumentPrescription, string(c.holding)).Lines[0].HoldID
	c.controlled = s.prescription(t, func(b *CreatePrescription) { b.Lines = []PrescribedLine{{MedicineID: "morphine", Quantity: 5}} })
	c.inPreparation = s.prescription(t, func(b *CreatePrescription) { b.Lines[0].Quantity = 10 })
	later := s.now + 30*testDay
	c.prepared = s.prepare(t, c.inPreparation, later)
	c.holdOfDispensing = document[Dispensing](s.state, DocumentDispensing, string(c.prepared)).HoldID
	c.checked = s.prepare(t, c.inPreparation, later)
	s.must(t, &CheckDispensing{c.checked})
	c.overdue = s.prepare(t, c.inPreparation, s.now+testDay/2)
	c.ofExpired = s.prepare(t, c.expired, later)
	c.ofControlled = s.dispensed(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: c.controlled, Quantity: 5}, later})
	c.incomplete = s.dispensed(t, &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: c.inPreparation, LotID: "zinc-later", Quantity: 1}, later})
	c.given = s.dispensed(t, &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: c.inPreparation, LotID: "zinc-1", Quantity: 2}})
	c.sold = s.dispensed(t, &DispenseMedicine{Dispense{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 2}})
	c.returned = s.dispensed(t, &DispenseMedicine{Dispense{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 2}})
	s.must(t, &ReturnFromPatient{DispensingID: c.returned, Lines: []LotLine{{LotID: "zinc-1", Quantity: 1}}, ReasonCode: "UNUSED"})
	c.undone = s.dispensed(t, &DispenseMedicine{Dispense{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 2}})
	s.must(t, &CancelDispensing{c.undone, "MISTAKE", true})
	s.must(t, &QuarantineLot{LotID: "zinc-later", ReasonCode: "DAMP"})
}

// pharmacySamples are commands that the stage accepts.
func (s *stage) pharmacySamples() []CommandBody {
	c := &s.counter
	return []CommandBody{
		&SetPrice{MedicineID: "zinc", Price: Price{From: today + 9, Amount: 130, Per: 10, Currency: "KES"}},
		&SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-3", NoRefills: true}},
		&CreatePrescription{
			PatientID: c.known, LocationID: "store", Prescriber: "Dr. Hill", ValidUntil: today + 90, Identifier: "paper|2", HoldUntil: s.now + testDay,
			TextDigest: "00112233445566778899aabbccddeeff", Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 2}},
		},
		&CancelPrescription{PrescriptionID: c.holding, ReasonCode: "CHANGED"},
		&DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: c.active, Quantity: 2}},
		&PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: c.active, Quantity: 2}, s.now + testDay},
		&CheckDispensing{c.prepared},
		&HandOver{c.checked},
		&CancelDispensing{c.given, "MISTAKE", true},
		&ReturnFromPatient{DispensingID: c.given, Lines: []LotLine{{LotID: "zinc-1", Quantity: 1}}, ReasonCode: "UNUSED"},
		&RecordDowntime{Device: "pad-1", PaperReference: "1", Dispensed: &Dispense{LocationID: "store", MedicineID: "zinc", Quantity: 1}},
		&SetPrescriptionTemplate{TemplateID: "gut", Name: "Gut 2", Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 3}}},
		&RemovePrescriptionTemplate{TemplateID: "gut"},
		&RegisterPatient{PatientID: patientNo(9), TextDigest: "00112233445566778899aabbccddeeff"},
		&UpdatePatient{PatientID: c.known, TextDigest: "ffeeddccbbaa99887766554433221100"},
		&ErasePatient{c.known, "ASKED"},
		&PlaceLegalHold{c.known, "LAWSUIT"},
		&LiftLegalHold{c.held, "SETTLED"},
	}
}

func (s *stage) pharmacyCases() []testCase {
	var all []testCase
	for _, group := range [][]testCase{
		s.prescribingCases(), s.dispensingCases(), s.preparedCases(), s.downtimeCases(), s.patientCases(), s.priceCases(),
	} {
		all = append(all, group...)
	}
	return all
}

func (s *stage) prescribingCases() []testCase {
	c := &s.counter
	create := func() *CreatePrescription {
		return &CreatePrescription{
			PatientID: c.known, LocationID: "store", Prescriber: "Dr. Hill", ValidUntil: today + 90, Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 2}},
		}
	}
	line := func(edit func(*PrescribedLine)) CommandBody {
		return edited(create, func(b *CreatePrescription) { edit(&b.Lines[0]) })
	}
	cancel := func() *CancelPrescription {
		return &CancelPrescription{PrescriptionID: c.active, ReasonCode: "CHANGED"}
	}
	set := func() *SetPrescriptionTemplate {
		return &SetPrescriptionTemplate{TemplateID: "gut", Name: "Gut", Lines: []PrescribedLine{{MedicineID: "zinc", Quantity: 2}}}
	}
	medicine := func(b *CreatePrescription) *MedicineID { return &b.Lines[0].MedicineID }
	templated := func(b *SetPrescriptionTemplate) *MedicineID { return &b.Lines[0].MedicineID }
	cases := []testCase{
		outcome(ReasonPatientNotFound, edited(create, func(b *CreatePrescription) { b.PatientID = patientNo(7) })),
		outcome(ReasonPatientErased, edited(create, func(b *CreatePrescription) { b.PatientID = c.erased })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.PatientID = "ann" })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.TextDigest = "x" })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.Lines = nil })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.TemplateID = "gut" })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.LocationID, b.HoldUntil = "", s.now+1 })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.ValidUntil = 0 })),
		outcome(ReasonInvalidField, edited(create, func(b *CreatePrescription) { b.Identifier = "paper" })),
		outcome(ReasonInvalidField, line(func(l *PrescribedLine) { l.Refills = maxRefills + 1 })),
		outcome(ReasonInvalidField, line(func(l *PrescribedLine) { l.Dosage = "daily" })),
		outcome(ReasonPrescriptionExpired, edited(create, func(b *CreatePrescription) { b.ValidUntil = today })),
		outcome(ReasonPrescriptionExists, edited(create, func(b *CreatePrescription) { b.Identifier = "paper|1" })),
		outcome(ReasonDeadlinePassed, edited(create, func(b *CreatePrescription) { b.HoldUntil = s.now })),
		outcome(ReasonInsufficientStock, edited(create, func(b *CreatePrescription) { b.HoldUntil, b.Lines[0].Quantity = s.now+1, 1000 })),
		outcome(accepted, edited(create, func(b *CreatePrescription) { b.LocationID = "" })),
		outcome(accepted, edited(create, func(b *CreatePrescription) { b.Lines, b.TemplateID = nil, "gut" })),
		outcome(ReasonTemplateNotFound, edited(create, func(b *CreatePrescription) { b.Lines, b.TemplateID = nil, "none" })),
		outcome(ReasonMedicineInactive, edited(create, func(b *CreatePrescription) { b.Lines, b.TemplateID = nil, "stale" })),
		outcome(ReasonControlQuantityExceeded, line(func(l *PrescribedLine) { l.MedicineID, l.Quantity = "morphine", 11 })),
		outcome(ReasonControlRefillsExceeded, line(func(l *PrescribedLine) { l.MedicineID, l.Refills = "morphine", 2 })),
		outcome(ReasonControlValidityExceeded, edited(create, func(b *CreatePrescription) { b.Lines[0].MedicineID, b.ValidUntil = "morphine", today+300 })),
		outcome(ReasonPrescriptionNotFound, edited(cancel, func(b *CancelPrescription) { b.PrescriptionID = "RX-9999" })),
		outcome(ReasonPrescriptionNotFound, edited(cancel, func(b *CancelPrescription) { b.PrescriptionID = "paper|9" })),
		outcome(ReasonPrescriptionCancelled, edited(cancel, func(b *CancelPrescription) { b.PrescriptionID = c.cancelled })),
		outcome(ReasonPrescriptionExceeded, edited(cancel, func(b *CancelPrescription) { b.PrescriptionID = c.filled })),
		outcome(ReasonPrescriptionInPreparation, edited(cancel, func(b *CancelPrescription) { b.PrescriptionID = c.inPreparation })),
		outcome(accepted, edited(cancel, func(b *CancelPrescription) { b.PrescriptionID = "paper|1" })),
		etagCase(cancel, func(b *CancelPrescription) *string { return &b.Etag }),
		etagCase(set, func(b *SetPrescriptionTemplate) *string { return &b.Etag }),
		outcome(ReasonInvalidField, edited(set, func(b *SetPrescriptionTemplate) { b.Lines = nil })),
		outcome(ReasonInvalidField, edited(set, func(b *SetPrescriptionTemplate) { b.TemplateID = "" })),
		outcome(ReasonTemplateNotFound, &RemovePrescriptionTemplate{TemplateID: "none"}),
		outcome(ReasonEtagMismatch, &RemovePrescriptionTemplate{TemplateID: "gut", Etag: "1"}),
	}
	cases = append(cases, locationCases(create, func(b *CreatePrescription) *LocationID { return &b.LocationID })...)
	cases = append(cases, medicineCases(create, medicine)...)
	cases = append(cases, medicineCases(set, templated)...)
	cases = append(cases, unitCases(create, func(b *CreatePrescription) *int64 { return &b.Lines[0].Quantity }, func(b *CreatePrescription) *string { return &b.Lines[0].Pack })...)
	return append(cases, unitCases(set, func(b *SetPrescriptionTemplate) *int64 { return &b.Lines[0].Quantity }, func(b *SetPrescriptionTemplate) *string { return &b.Lines[0].Pack })...)
}

// dispenseCases are those of both forms of dispensing.
func dispenseCases[T any, P bodyOf[T]](s *stage, sample func() P, of func(P) *Dispense) []testCase {
	c := &s.counter
	edit := func(change func(*Dispense)) CommandBody { return edited(sample, func(b P) { change(of(b)) }) }
	cases := []testCase{
		outcome(ReasonPrescriptionNotFound, edit(func(d *Dispense) { d.PrescriptionID = "RX-9999" })),
		outcome(ReasonPrescriptionCancelled, edit(func(d *Dispense) { d.PrescriptionID = c.cancelled })),
		outcome(ReasonPrescriptionExpired, edit(func(d *Dispense) { d.PrescriptionID = c.expired })),
		outcome(ReasonPrescriptionExceeded, edit(func(d *Dispense) { d.PrescriptionID = c.filled })),
		outcome(ReasonPrescriptionExceeded, edit(func(d *Dispense) { d.Quantity = 5 })),
		outcome(ReasonPrescriptionLine, edit(func(d *Dispense) { d.Line = 2 })),
		outcome(ReasonPrescriptionLine, edit(func(d *Dispense) { d.PrescriptionID = c.byPaper })),
		outcome(ReasonEtagMismatch, edit(func(d *Dispense) { d.Etag = "1" })),
		outcome(accepted, edit(func(d *Dispense) { d.PrescriptionID, d.Line = "paper|1", 2; d.Quantity = 1 })),
		outcome(ReasonSubstitutionReason, edit(func(d *Dispense) { d.MedicineID = "amoxicillin" })),
		outcome(accepted, edit(func(d *Dispense) { d.LotID, d.SubstitutionReason = "amoxicillin-1", "OUT" })),
		outcome(ReasonSubstitutionForbidden, edit(func(d *Dispense) {
			d.PrescriptionID, d.Line, d.MedicineID, d.SubstitutionReason, d.Quantity = c.byPaper, 2, "zinc", "OUT", 1
		})),
		outcome(ReasonLotOfOtherMedicine, edit(func(d *Dispense) { d.MedicineID, d.LotID = "zinc", "amoxicillin-1" })),
		outcome(ReasonControlQuantityExceeded, edit(func(d *Dispense) { d.PrescriptionID, d.Quantity = c.controlled, 3 }),
			&SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", MaxQuantity: 2}}, &CancelDispensing{c.ofControlled, "MISTAKE", false}),
		outcome(ReasonPrescriptionRequired, edit(func(d *Dispense) { d.PrescriptionID, d.MedicineID = "", "morphine" })),
		outcome(ReasonControlRefillsExceeded, edit(func(d *Dispense) { d.MedicineID, d.SubstitutionReason = "morphine", "OUT" }),
			&SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", NoRefills: true}}),
		outcome(ReasonControlValidityExceeded, edit(func(d *Dispense) { d.MedicineID, d.SubstitutionReason = "morphine", "OUT" }),
			&SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", MaxRefills: 1, MaxValidDays: 10}}),
		outcome(accepted, edit(func(d *Dispense) { d.PrescriptionID, d.MedicineID, d.PatientID = "", "zinc", c.known })),
		outcome(accepted, edit(func(d *Dispense) { d.PrescriptionID, d.LotID = "", "zinc-1" })),
		outcome(ReasonPatientNotFound, edit(func(d *Dispense) { d.PrescriptionID, d.MedicineID, d.PatientID = "", "zinc", patientNo(7) })),
		outcome(ReasonPatientErased, edit(func(d *Dispense) { d.PrescriptionID, d.MedicineID, d.PatientID = "", "zinc", c.erased })),
		outcome(ReasonInvalidField, edit(func(d *Dispense) { d.PrescriptionID = "" })),
		outcome(ReasonInvalidField, edit(func(d *Dispense) { d.PrescriptionID, d.MedicineID, d.Line = "", "zinc", 1 })),
		outcome(ReasonInvalidField, edit(func(d *Dispense) { d.PatientID = c.known })),
		outcome(ReasonInvalidField, edit(func(d *Dispense) { d.Line = -1 })),
		outcome(ReasonQuantityOutOfRange, edit(func(d *Dispense) { d.WastedQuantity = -1 })),
		outcome(ReasonInvalidField, edit(func(d *Dispense) { d.WastedQuantity = 1 })),
		outcome(ReasonWitnessRequired, edit(func(d *Dispense) { d.WastedQuantity, d.WasteReason = 1, "SPILT" })),
		outcome(ReasonInsufficientStock, edit(func(d *Dispense) { d.LocationID, d.LotID = "ward", "zinc-1" })),
		outcome(ReasonLotInactive, edit(func(d *Dispense) { d.LotID = "zinc-off" })),
		outcome(accepted, edit(func(d *Dispense) { d.PrescriptionID = c.holding })),
		outcome(accepted, edit(func(d *Dispense) { d.PrescriptionID, d.LotID = c.holding, "zinc-2" })),
	}
	witnessed := outcome(accepted, edit(func(d *Dispense) { d.WastedQuantity, d.WasteReason = 1, "SPILT" }))
	witnessed.Witness = "chidi"
	cases = append(cases, witnessed)
	cases = append(cases, locationCases(sample, func(b P) *LocationID { return &of(b).LocationID })...)
	counter := func() P {
		b := sample()
		of(b).PrescriptionID, of(b).MedicineID = "", "zinc"
		return b
	}
	cases = append(cases, medicineCases(counter, func(b P) *MedicineID { return &of(b).MedicineID })...)
	cases = append(cases, lotCases(counter, func(b P) *LotID { return &of(b).LotID })...)
	cases = append(cases, useCases(counter, func(b P) *LotID { return &of(b).LotID })...)
	return append(cases, unitCases(counter, func(b P) *int64 { return &of(b).Quantity }, func(b P) *string { return &of(b).Pack })...)
}

func (s *stage) dispensingCases() []testCase {
	c := &s.counter
	one := func() *DispenseMedicine {
		return &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: c.active, Quantity: 2}}
	}
	three := func() *PrepareDispensing {
		return &PrepareDispensing{Dispense{LocationID: "store", PrescriptionID: c.active, Quantity: 2}, s.now + testDay}
	}
	cases := dispenseCases(s, one, func(b *DispenseMedicine) *Dispense { return &b.Dispense })
	cases = append(cases, dispenseCases(s, three, func(b *PrepareDispensing) *Dispense { return &b.Dispense })...)
	undo := &CancelDispensing{c.ofControlled, "MISTAKE", false}
	return append(cases,
		outcome(ReasonAmountTooLarge, &DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: c.controlled, Quantity: 2}}, undo),
		outcome(ReasonAmountTooLarge, &HandOver{c.ofControlled}),
		outcome(ReasonDeadlinePassed, edited(three, func(b *PrepareDispensing) { b.CollectBy = s.now })),
		outcome(ReasonInvalidField, edited(three, func(b *PrepareDispensing) { b.CollectBy = 0 })),
		outcome(ReasonHoldOfPrescription, &IssueStock{HoldID: c.holdOfPrescription}),
		outcome(ReasonHoldOfDispensing, &IssueStock{HoldID: c.holdOfDispensing}),
		outcome(ReasonHoldOfDispensing, &ReleaseStock{HoldID: c.holdOfDispensing}),
		outcome(accepted, &ReleaseStock{HoldID: c.holdOfPrescription}),
		outcome(accepted, &ExpireReservation{HoldID: document[Dispensing](s.state, DocumentDispensing, string(c.overdue)).HoldID}),
		// In one step there is nothing to check, so somebody stands by.
		outcome(ReasonWitnessRequired, one(), policy(time1, Rule{"*", KindCheckDispensing, 0, RequireReview})),
	)
}

func (s *stage) preparedCases() []testCase {
	c := &s.counter
	checking := policy(time1, Rule{"*", KindCheckDispensing, 0, RequireReview})
	bring := func() *ReturnFromPatient {
		return &ReturnFromPatient{DispensingID: c.given, Lines: []LotLine{{LotID: "zinc-1", Quantity: 1}}, ReasonCode: "UNUSED"}
	}
	lot := func(b *ReturnFromPatient) *LotID { return &b.Lines[0].LotID }
	off := []CommandBody{
		&WriteOffStock{LocationID: "store", LotID: "zinc-1", Quantity: 1, ReasonCode: "BROKEN"},
	}
	cases := []testCase{
		outcome(ReasonDispensingNotFound, &CheckDispensing{"DN-9999"}),
		outcome(ReasonDispensingState, &CheckDispensing{c.given}),
		outcome(ReasonSamePerson, &CheckDispensing{c.prepared}, checking),
		outcomeBy(accepted, "brian", &CheckDispensing{c.prepared}, checking),
		outcome(ReasonDispensingNotFound, &HandOver{"DN-9999"}),
		outcome(ReasonDispensingState, &HandOver{c.given}),
		outcome(ReasonDispensingUnchecked, &HandOver{c.prepared}, checking),
		outcome(ReasonDispensingOverdue, &HandOver{c.overdue}),
		outcome(ReasonPrescriptionExpired, &HandOver{c.ofExpired}),
		outcome(accepted, &CancelDispensing{c.ofExpired, "EXPIRED", false}),
		outcome(ReasonDispensingState, &CheckDispensing{c.checked}, checking, &CancelDispensing{c.checked, "MISTAKE", false}),
		outcome(ReasonDispensingIncomplete, &HandOver{c.incomplete}),
		outcome(accepted, &HandOver{c.prepared}),
		outcome(ReasonDispensingNotFound, &CancelDispensing{"DN-9999", "MISTAKE", false}),
		outcome(ReasonDispensingState, &CancelDispensing{c.undone, "MISTAKE", false}),
		outcome(ReasonDispensingReturned, &CancelDispensing{c.returned, "MISTAKE", false}),
		outcome(accepted, &CancelDispensing{c.overdue, "NOT_COLLECTED", false}),
		outcome(accepted, &CancelDispensing{c.incomplete, "DAMP", false}),
		outcome(accepted, &CancelDispensing{c.sold, "MISTAKE", false}),
		outcome(accepted, &CancelDispensing{c.overdue, "NOT_COLLECTED", false}, &ExpireReservation{HoldID: document[Dispensing](s.state, DocumentDispensing, string(c.overdue)).HoldID}),
		outcome(ReasonDispensingNotFound, edited(bring, func(b *ReturnFromPatient) { b.DispensingID = "DN-9999" })),
		outcome(ReasonDispensingState, edited(bring, func(b *ReturnFromPatient) { b.DispensingID = c.prepared })),
		outcome(ReasonReturnExceeded, edited(bring, func(b *ReturnFromPatient) { b.Lines[0].Quantity = 3 })),
		outcome(ReasonReturnExceeded, vary(bring, lot, "zinc-2"), off...),
		outcome(accepted, edited(bring, func(b *ReturnFromPatient) { b.Lines, b.Destroy = nil, true })),
		outcome(ReasonQuantityOutOfRange, edited(bring, func(b *ReturnFromPatient) { b.Lines[0].Quantity = -1 })),
		outcome(ReasonPackNotFound, edited(bring, func(b *ReturnFromPatient) { b.Lines[0].Pack = "barrel" })),
	}
	return append(append(cases, lotCases(bring, lot)...), s.takenBackCases()...)
}

// takenBackCases bring units back to where they would be out of sight, or too
// many.
func (s *stage) takenBackCases() []testCase {
	lot := func(id LotID, medicine MedicineID) CommandBody {
		return &RegisterLot{LotID: id, MedicineID: medicine, Manufacturer: "Acme", LotNumber: string(id), Expiry: today + 200}
	}
	receive := func(location LocationID, lot LotID) CommandBody {
		return &ReceiveStock{LocationID: location, LotID: lot, Quantity: 1}
	}
	sell := func(location LocationID, lot LotID) CommandBody {
		return &DispenseMedicine{Dispense{LocationID: location, LotID: lot, Quantity: 1}}
	}
	var cases []testCase
	for _, c := range []struct {
		want  Reason
		given []CommandBody
	}{
		{ReasonLocationInactive, []CommandBody{
			receive("empty", "zinc-2"), sell("empty", "zinc-2"), &DeactivateLocation{LocationID: "empty", ReasonCode: "MOVED"},
		}},
		{ReasonLotInactive, []CommandBody{
			lot("once", "zinc"), receive("store", "once"), sell("store", "once"), &DeactivateLot{LotID: "once", ReasonCode: "UNUSED"},
		}},
		{ReasonMedicineInactive, []CommandBody{
			&AddMedicine{MedicineID: "once", Name: "once", BaseUnit: "tablet"}, lot("once", "once"), receive("store", "once"), sell("store", "once"),
			&DeactivateMedicine{MedicineID: "once", ReasonCode: "UNUSED"},
		}},
		{ReasonBalanceOverflow, []CommandBody{sell("annex", "zinc-full"), receive("annex", "zinc-full")}},
	} {
		var id DispensingID
		for i, body := range c.given {
			if body.Kind() == KindDispenseMedicine {
				id = DispensingID(fmt.Sprintf("DN-%d", int(s.state.head.Sequence)+i+1))
			}
		}
		cases = append(cases,
			outcome(c.want, &CancelDispensing{id, "MISTAKE", true}, c.given...),
			outcome(c.want, &ReturnFromPatient{DispensingID: id, ReasonCode: "UNUSED"}, c.given...),
			outcome(accepted, &ReturnFromPatient{DispensingID: id, ReasonCode: "UNUSED", Destroy: true}, c.given...),
		)
	}
	return cases
}

func (s *stage) downtimeCases() []testCase {
	c := &s.counter
	record := func(edit func(*RecordDowntime)) CommandBody {
		b := &RecordDowntime{Device: "pad-1", PaperReference: "1"}
		edit(b)
		return b
	}
	dispensed := func(d Dispense) CommandBody {
		if d.LocationID == "" {
			d.LocationID = "store"
		}
		if d.Quantity == 0 {
			d.Quantity = 1
		}
		return record(func(b *RecordDowntime) { b.Dispensed = &d })
	}
	received := func(r ReceiveStock) CommandBody { return record(func(b *RecordDowntime) { b.Received = &r }) }
	counted := func(n DowntimeCount) CommandBody {
		n.ReasonCode = "PAPER"
		return record(func(b *RecordDowntime) { b.Counted = &n })
	}
	return []testCase{
		outcome(ReasonInvalidField, record(func(*RecordDowntime) {})),
		outcome(ReasonInvalidField, record(func(b *RecordDowntime) { b.Device = "" })),
		outcome(ReasonInvalidField, dispensed(Dispense{MedicineID: "zinc", Etag: "1", PrescriptionID: c.active})),
		outcome(ReasonInvalidField, dispensed(Dispense{PrescriptionID: "RX-9999"})),
		outcome(ReasonLocationNotFound, dispensed(Dispense{LocationID: "attic", MedicineID: "zinc"})),
		outcome(ReasonMedicineNotFound, dispensed(Dispense{MedicineID: "gold"})),
		outcome(ReasonScanUnreadable, dispensed(Dispense{MedicineID: "gs1|?"})),
		outcome(ReasonScanIncomplete, dispensed(Dispense{MedicineID: "gs1|(10)Z1"})),
		outcome(ReasonLotNotFound, dispensed(Dispense{LotID: "none"})),
		outcome(ReasonScanContradictsLot, dispensed(Dispense{LotID: "gs1|(01)" + gtinBox + "(10)Z1(17)300101"})),
		outcome(ReasonLotOfOtherMedicine, dispensed(Dispense{MedicineID: "zinc", LotID: "amoxicillin-1"})),
		outcome(ReasonPackNotFound, dispensed(Dispense{MedicineID: "zinc", Pack: "barrel"})),
		outcome(ReasonQuantityOutOfRange, dispensed(Dispense{MedicineID: "zinc", Quantity: -1})),
		outcome(ReasonAmountTooLarge, dispensed(Dispense{MedicineID: "morphine", Quantity: 2})),
		outcome(accepted, dispensed(Dispense{MedicineID: "zinc", Quantity: 5000})),
		outcome(accepted, dispensed(Dispense{MedicineID: "retired"})),
		outcome(accepted, dispensed(Dispense{MedicineID: "lonely"})), // no lot of it is known
		outcome(accepted, dispensed(Dispense{LocationID: "closed", MedicineID: "zinc", LotID: "zinc-old"})),
		outcome(accepted, dispensed(Dispense{LotID: "zinc-r", Quantity: 20})),
		outcome(accepted, dispensed(Dispense{PrescriptionID: c.filled})),
		outcome(accepted, dispensed(Dispense{PrescriptionID: c.expired, Quantity: 20})),
		outcome(accepted, dispensed(Dispense{PrescriptionID: c.cancelled, MedicineID: "amoxicillin"})),
		outcome(accepted, dispensed(Dispense{PrescriptionID: c.holding, WastedQuantity: 1, WasteReason: "SPILT"})),
		outcome(accepted, dispensed(Dispense{MedicineID: "zinc", PatientID: patientNo(7)})),
		outcome(accepted, received(ReceiveStock{LocationID: "closed", LotID: "zinc-old", Quantity: 5})),
		outcome(accepted, received(ReceiveStock{LocationID: "store", LotID: "zinc-r", Quantity: 5})),
		outcome(ReasonIdentifierNotFound, received(ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5, Supplier: "erp|?"})),
		outcome(ReasonBalanceOverflow, received(ReceiveStock{LocationID: "annex", LotID: "zinc-full", Quantity: 1})),
		outcome(accepted, counted(DowntimeCount{LocationID: "store", LotID: "zinc-2", Counted: 0})),
		outcome(accepted, counted(DowntimeCount{LocationID: "store", LotID: "zinc-2", Counted: 500}), func() CommandBody {
			strict := policy(time1)
			strict.CountApproval = true
			return strict
		}()),
		outcome(ReasonQuantityOutOfRange, counted(DowntimeCount{LocationID: "store", LotID: "zinc-2", Counted: -1})),
	}
}

func (s *stage) patientCases() []testCase {
	c := &s.counter
	update := func() *UpdatePatient { return &UpdatePatient{PatientID: c.known} }
	return []testCase{
		outcome(ReasonPatientExists, &RegisterPatient{PatientID: c.erased}),
		outcome(ReasonInvalidField, &RegisterPatient{PatientID: "pt_1"}),
		outcome(ReasonInvalidField, &RegisterPatient{PatientID: patientNo(9), TextDigest: "Ann"}),
		etagCase(update, func(b *UpdatePatient) *string { return &b.Etag }),
		outcome(ReasonPatientNotFound, &UpdatePatient{PatientID: patientNo(7)}),
		outcome(ReasonPatientErased, &UpdatePatient{PatientID: c.erased}),
		outcome(ReasonLegalHold, &ErasePatient{c.held, "ASKED"}),
		outcome(ReasonPatientNotFound, &ErasePatient{patientNo(7), "ASKED"}),
		outcome(ReasonPatientErased, &ErasePatient{c.erased, "ASKED"}),
		outcome(ReasonLegalHold, &PlaceLegalHold{c.held, "LAWSUIT"}),
		outcome(ReasonPatientNotFound, &PlaceLegalHold{patientNo(7), "LAWSUIT"}),
		outcome(ReasonPatientErased, &PlaceLegalHold{c.erased, "LAWSUIT"}),
		outcome(ReasonNoLegalHold, &LiftLegalHold{c.known, "SETTLED"}),
		outcome(ReasonPatientNotFound, &LiftLegalHold{patientNo(7), "SETTLED"}),
		outcome(ReasonPatientErased, &LiftLegalHold{c.erased, "SETTLED"}),
	}
}

func (s *stage) priceCases() []testCase {
	price := func() *SetPrice {
		return &SetPrice{MedicineID: "zinc", Price: Price{From: today, Amount: 1, Per: 1, Currency: "KES"}}
	}
	limit := func() *SetControlLimit {
		return &SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2"}}
	}
	cases := []testCase{
		etagCase(price, func(b *SetPrice) *string { return &b.Etag }),
		outcome(accepted, edited(price, func(b *SetPrice) { b.From, b.Pack = today-9, "box" })),
		outcome(ReasonInvalidField, edited(price, func(b *SetPrice) { b.Currency = "kes" })),
		outcome(ReasonInvalidField, edited(price, func(b *SetPrice) { b.From = 0 })),
		outcome(ReasonQuantityOutOfRange, edited(price, func(b *SetPrice) { b.Amount = -1 })),
		outcome(ReasonQuantityOutOfRange, edited(price, func(b *SetPrice) { b.Per = 0 })),
		outcome(ReasonPackNotFound, edited(price, func(b *SetPrice) { b.Pack = "barrel" })),
		etagCase(limit, func(b *SetControlLimit) *string { return &b.Etag }),
		outcome(ReasonInvalidField, edited(limit, func(b *SetControlLimit) { b.ControlClass = "" })),
		outcome(ReasonInvalidField, edited(limit, func(b *SetControlLimit) { b.NoRefills, b.MaxRefills = true, 1 })),
		outcome(ReasonInvalidField, edited(limit, func(b *SetControlLimit) { b.MaxValidDays = maxValidDays + 1 })),
		outcome(ReasonQuantityOutOfRange, edited(limit, func(b *SetControlLimit) { b.MaxQuantity = -1 })),
	}
	return append(cases, medicineCases(price, func(b *SetPrice) *MedicineID { return &b.MedicineID })...)
}

// byDispense are the reasons of both forms of dispensing.
var byDispense = reasons(byLocation, byWish, byUnits, byUse, ReasonLotInactive, ReasonInsufficientStock, ReasonEtagMismatch,
	ReasonPrescriptionNotFound, ReasonPrescriptionCancelled, ReasonPrescriptionExpired, ReasonPrescriptionExceeded, ReasonPrescriptionLine,
	ReasonSubstitutionReason, ReasonSubstitutionForbidden, ReasonControlQuantityExceeded, ReasonPrescriptionRequired, ReasonPatientNotFound,
	ReasonPatientErased, ReasonWitnessRequired, ReasonControlRefillsExceeded, ReasonControlValidityExceeded)

// byTakingBack are the reasons for which units cannot come back.
var byTakingBack = reasons(ReasonLocationInactive, ReasonLotInactive, ReasonMedicineInactive, ReasonBalanceOverflow)

func init() {
	byPatient := reasons(ReasonPatientNotFound, ReasonPatientErased)
	byDispensing := reasons(ReasonDispensingNotFound, ReasonDispensingState)
	for kind, own := range map[Kind][]Reason{
		KindSetPrice:        reasons(byMedicine, byUnits, ReasonEtagMismatch),
		KindSetControlLimit: reasons(ReasonEtagMismatch, ReasonQuantityOutOfRange),
		KindCreatePrescription: reasons(byLocation, byMedicine, byUnits, byPatient, ReasonPrescriptionExpired, ReasonPrescriptionExists, ReasonDeadlinePassed,
			ReasonInsufficientStock, ReasonTemplateNotFound, ReasonControlQuantityExceeded, ReasonControlRefillsExceeded, ReasonControlValidityExceeded),
		KindCancelPrescription: reasons(ReasonPrescriptionNotFound, ReasonPrescriptionCancelled, ReasonPrescriptionExceeded, ReasonPrescriptionInPreparation, ReasonEtagMismatch),
		KindDispenseMedicine:   reasons(byDispense, ReasonAmountTooLarge),
		KindPrepareDispensing:  reasons(byDispense, ReasonDeadlinePassed),
		KindCheckDispensing:    reasons(byDispensing),
		KindHandOver:           reasons(byDispensing, ReasonDispensingUnchecked, ReasonDispensingOverdue, ReasonDispensingIncomplete, ReasonAmountTooLarge, ReasonPrescriptionExpired),
		KindCancelDispensing:   reasons(byDispensing, byTakingBack, ReasonDispensingReturned),
		KindReturnFromPatient:  reasons(byDispensing, byLot, byUnits, byTakingBack, ReasonReturnExceeded),
		KindRecordDowntime: reasons(ReasonLocationNotFound, ReasonMedicineNotFound, byMedicineScan, ReasonLotNotFound, ReasonScanContradictsLot, ReasonLotOfOtherMedicine,
			byUnits, ReasonAmountTooLarge, ReasonIdentifierNotFound, ReasonBalanceOverflow),
		KindSetPrescriptionTemplate:    reasons(byMedicine, byUnits, ReasonEtagMismatch),
		KindRemovePrescriptionTemplate: reasons(ReasonTemplateNotFound, ReasonEtagMismatch),
		KindRegisterPatient:            reasons(ReasonPatientExists),
		KindUpdatePatient:              reasons(byPatient, ReasonEtagMismatch),
		KindErasePatient:               reasons(byPatient, ReasonLegalHold),
		KindPlaceLegalHold:             reasons(byPatient, ReasonLegalHold),
		KindLiftLegalHold:              reasons(byPatient, ReasonNoLegalHold),
	} {
		ownReasons[kind] = own
	}
	ownReasons[KindIssueStock] = append(ownReasons[KindIssueStock], ReasonHoldOfPrescription, ReasonHoldOfDispensing)
	ownReasons[KindReleaseStock] = append(ownReasons[KindReleaseStock], ReasonHoldOfDispensing)
}
