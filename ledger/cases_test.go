package ledger

import "fmt"

// testCase is a command on the stage and what becomes of it.
type testCase struct {
	given []Command // accepted before
	Command
	want Reason
}

// bodyOf ties a body's type to its pointer, which is the command.
type bodyOf[T any] interface {
	*T
	CommandBody
}

// vary is a sample with one thing changed.
func vary[T any, P bodyOf[T], V any](sample func() P, at func(P) *V, value V) CommandBody {
	b := sample()
	*at(b) = value
	return b
}

func edited[T any, P bodyOf[T]](sample func() P, edit func(P)) CommandBody {
	b := sample()
	edit(b)
	return b
}

// outcome is a case of a command by amina.
func outcome(want Reason, body CommandBody, given ...CommandBody) testCase {
	c := testCase{Command: Command{Actor: "amina", Body: body}, want: want}
	for _, b := range given {
		c.given = append(c.given, Command{Actor: "amina", Body: b})
	}
	return c
}

// outcomeBy is a case of a command by somebody.
func outcomeBy(want Reason, by Actor, body CommandBody, given ...CommandBody) testCase {
	c := outcome(want, body, given...)
	c.Actor = by
	return c
}

// Cases of what is named in a command, each with the reason that it leads to.

func locationCases[T any, P bodyOf[T]](sample func() P, at func(P) *LocationID) []testCase {
	return []testCase{
		outcome(ReasonLocationNotFound, vary(sample, at, "attic")),
		outcome(ReasonLocationNotFound, vary(sample, at, "erp|?")),
		outcome(ReasonLocationInactive, vary(sample, at, "closed")),
	}
}

func medicineCases[T any, P bodyOf[T]](sample func() P, at func(P) *MedicineID) []testCase {
	return []testCase{
		outcome(ReasonMedicineNotFound, vary(sample, at, "gold")),
		outcome(ReasonMedicineNotFound, vary(sample, at, "gs1|(01)"+gtinStrip)),
		outcome(ReasonMedicineInactive, vary(sample, at, "retired")),
		outcome(ReasonScanUnreadable, vary(sample, at, "gs1|?")),
		outcome(ReasonScanIncomplete, vary(sample, at, "gs1|(10)Z1")),
	}
}

func lotCases[T any, P bodyOf[T]](sample func() P, at func(P) *LotID) []testCase {
	return []testCase{
		outcome(ReasonLotNotFound, vary(sample, at, "none")),
		outcome(ReasonLotNotFound, vary(sample, at, "gs1|(01)"+gtinBox+"(10)Z9")),
		outcome(ReasonScanUnreadable, vary(sample, at, "gs1|(01)1")),
		outcome(ReasonScanIncomplete, vary(sample, at, "gs1|(10)Z1")),
		outcome(ReasonScanContradictsLot, vary(sample, at, "gs1|(01)"+gtinBox+"(10)Z1(17)300101")),
	}
}

func unitCases[T any, P bodyOf[T]](sample func() P, quantity func(P) *int64, pack func(P) *string) []testCase {
	return []testCase{
		outcome(ReasonPackNotFound, vary(sample, pack, "barrel")),
		outcome(ReasonInvalidField, vary(sample, pack, " ")),
		outcome(ReasonQuantityOutOfRange, vary(sample, quantity, -1)),
		outcome(ReasonQuantityOutOfRange, vary(sample, quantity, MaxQuantity+1)),
		outcome(ReasonQuantityOutOfRange, edited(sample, func(b P) { *quantity(b), *pack(b) = MaxQuantity, "box" })),
	}
}

func useCases[T any, P bodyOf[T]](sample func() P, at func(P) *LotID) []testCase {
	return []testCase{
		outcome(ReasonLotExpired, vary(sample, at, "zinc-old")),
		outcome(ReasonLotQuarantined, vary(sample, at, "zinc-q")),
		outcome(ReasonLotRecalled, vary(sample, at, "zinc-r")),
	}
}

func etagCase[T any, P bodyOf[T]](sample func() P, at func(P) *string) testCase {
	return outcome(ReasonEtagMismatch, vary(sample, at, "9999"))
}

// samples are commands that the stage accepts, by whom they are accepted.
func (s *stage) samples() map[Kind]Command {
	amina, brian := Actor("amina"), Actor("brian")
	later := s.now + 9*testDay
	loan := func(partner ClinicID, reference string) LoanMove {
		return LoanMove{Partner: partner, LocationID: "store", LotID: "zinc-2", Quantity: 2, Reference: reference, ReasonCode: "HELP"}
	}
	all := map[Kind]Command{}
	add := func(by Actor, bodies ...CommandBody) {
		for _, b := range bodies {
			all[b.Kind()] = Command{Actor: by, Body: b}
		}
	}
	add(amina,
		&CreateClinic{Name: "Hillside", TimeZone: "UTC"},
		&UpdateClinic{Name: ptr("Hillside 2")},
		&DeactivateClinic{ReasonCode: "CLOSED"}, // accepted only where there is no stock
		&CreateLocation{Name: "attic", LocationKind: Ward},
		&UpdateLocation{LocationID: "erp|S", Name: ptr("Store 2")},
		&DeactivateLocation{LocationID: "empty", ReasonCode: "MOVED"},
		&AddMedicine{Name: "Gold", BaseUnit: "mg"},
		&UpdateMedicine{MedicineID: "erp|Z", Name: ptr("Zinc 2")},
		&DeactivateMedicine{MedicineID: "lonely", ReasonCode: "UNUSED"},
		&RegisterLot{MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "new", Expiry: today + 9},
		&UpdateLot{LotID: "erp|Z1", Expiry: ptr(today + 50)},
		&DeactivateLot{LotID: "zinc-none", ReasonCode: "UNUSED"},
		&SetPacks{MedicineID: "zinc", Packs: append(zincPacks()[:2], Pack{"strip", 2, gtinStrip})},
		&AddIdentifier{Subject: SubjectLot, SubjectID: "erp|Z1", System: "erp", Value: "Z1b"},
		&RemoveIdentifier{Subject: SubjectLot, System: "erp", Value: "Z1", ReasonCode: "WRONG"},
		policy(48),
		&UpdateStockLevels{LocationID: "ward", MedicineID: "zinc", Min: 5, Reorder: 5},
		&ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5, Supplier: "erp|A"},
		&ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 5, ReasonCode: "WARD", Deadline: later},
		&ReleaseStock{HoldID: s.hold, ReasonCode: "CHANGED"},
		&ExpireReservation{HoldID: s.lateHold},
		&IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 5, ReasonCode: "DRESSING"},
		&AdjustStock{LocationID: "store", LotID: "zinc-2", Direction: Increase, Quantity: 1, ReasonCode: "FOUND"},
		&WriteOffStock{LocationID: "store", LotID: "zinc-2", Quantity: 1, ReasonCode: "BROKEN"},
		&ReturnToSupplier{LocationID: "store", LotID: "zinc-2", Quantity: 1, ReasonCode: "WRONG"},
		&ReverseReceipt{Sequence: s.receipt, Quantity: 5, ReasonCode: "TYPO"},
		&StartCount{LocationID: "ward"},
		&RecordCount{LocationID: "ward", Lines: []CountedLine{{LotID: "zinc-2", Counted: 24}}, ReasonCode: "CYCLE"},
		&CompleteCount{CountID: s.count, ReasonCode: "ENOUGH"},
		&CancelCount{CountID: s.count, ReasonCode: "WRONG"},
		&ConvertStock{
			LocationID: "store", Inputs: []LotLine{{LotID: "zinc-2", Quantity: 2}}, MedicineID: "zinc", LotNumber: "C1", Manufacturer: "Hillside",
			Expiry: today + 30, Quantity: 4, ReasonCode: "REPACK",
		},
		&OpenContainer{LocationID: "store", LotID: "zinc-2", Quantity: 1, InUseUntil: today + 30, ReasonCode: "OPEN"},
		&QuarantineLot{LotID: "zinc-2", ReasonCode: "DAMP"},
		&ReleaseLot{LotID: "zinc-q", ReasonCode: "DRY"},
		&RecallLot{GTIN: gtinBox, LotNumber: "Z1", ReasonCode: "NOTICE"},
		&ContinueRecall{RecallID: s.recall, Step: 1},
		&LiftRecall{RecallID: s.recall, ReasonCode: "MISTAKE"},
		&TransferStock{From: "store", To: "ward", Lines: []RequestedLine{{MedicineID: "zinc", Quantity: 5}}, DispatchBy: later, ReasonCode: "REFILL"},
		&ApproveTransfer{TransferID: s.requested},
		&RejectTransfer{TransferID: s.requested, ReasonCode: "EMPTY"},
		&CancelTransfer{TransferID: s.approved, ReasonCode: "CHANGED"},
		&DispatchTransfer{TransferID: s.approved},
		&ReceiveTransfer{TransferID: s.inTransit, ReasonCode: "LATE"},
		&CompleteTransfer{TransferID: s.received, ReasonCode: "DONE"},
		&LendStock{loan("riverside", "NEW")},
		&BorrowStock{loan("riverside", "NEW")},
		&RepayLoan{loan("riverside", "BORROWED")},
		&ReceiveRepayment{loan("riverside", "LENT")},
		&RejectCommand{ApprovalID: s.waiting, ReasonCode: "NO"},
		&LapseCommand{ApprovalID: s.lapsed},
	)
	add(amina, s.pharmacySamples()...)
	add(brian, &ApproveCommand{ApprovalID: s.waiting})
	return all
}

// commonCases are those that no command is spared.
func (s *stage) commonCases() []testCase {
	var cases []testCase
	for kind, sample := range s.samples() {
		if kind == KindCreateClinic {
			continue // see creations
		}
		add := func(want Reason, edit func(*Command), given ...CommandBody) {
			c := testCase{Command: sample, want: want}
			for _, b := range given {
				c.given = append(c.given, Command{Actor: "amina", Body: b})
			}
			edit(&c.Command)
			cases = append(cases, c)
		}
		add(ReasonInvalidField, func(c *Command) { c.IdempotencyKey = "tab\t" })
		add(ReasonInvalidField, func(c *Command) { c.Actor = "" })
		add(ReasonInvalidField, func(c *Command) { c.LateReasonCode = "too late" })
		add(ReasonSamePerson, func(c *Command) { c.Witness = c.Actor })
		add(ReasonOccurredInFuture, func(c *Command) { c.OccurredAt = s.now + 1 })
		add(ReasonOccurredTooEarly, func(c *Command) { c.OccurredAt = s.now - 9*testDay })
		add(ReasonClinicNotFound, func(c *Command) { c.Clinic = "nowhere" })
		if kind == KindDeactivateClinic {
			continue // see creations
		}
		none := func(*Command) {}
		add(accepted, none)
		add(accepted, func(c *Command) { c.OccurredAt, c.LateReasonCode = s.now-9*testDay, "OUTAGE" })
		if asksSecondPerson(kind) {
			add(approvalRequested, none, policy(time1, Rule{"*", kind, 0, RequireApprovalBefore}))
			add(ReasonWitnessRequired, none, policy(time1, Rule{"*", kind, 0, RequireWitness}))
			add(accepted, func(c *Command) { c.Witness = "chidi" }, policy(time1, Rule{"*", kind, 0, RequireWitness}))
			add(accepted, none, policy(time1, Rule{"*", kind, 0, RequireReview}))
		}
		if contains(reasoned, kind) {
			codes := policy(time1)
			codes.ReasonCodes = []ReasonCodes{{kind, []string{"OTHER"}}}
			add(ReasonReasonCodeUnknown, none, codes)
		}
	}
	return cases
}

func contains[T comparable](list []T, value T) bool {
	for _, v := range list {
		if v == value {
			return true
		}
	}
	return false
}

// cases are the crafted ones.
func (s *stage) cases() []testCase {
	var all []testCase
	for _, group := range [][]testCase{
		s.commonCases(), s.catalogCases(), s.lotCatalogCases(), s.nameCases(), s.receiptCases(), s.reserveCases(), s.holdCases(), s.takeCases(),
		s.countCases(), s.conversionCases(), s.recallCases(), s.transferCases(), s.approveTransferCases(), s.underWayCases(), s.loanCases(), s.approvalCases(),
		s.pharmacyCases(),
	} {
		all = append(all, group...)
	}
	return all
}

func (s *stage) catalogCases() []testCase {
	updateClinic := func() *UpdateClinic { return &UpdateClinic{} }
	deactivateClinic := func() *DeactivateClinic { return &DeactivateClinic{ReasonCode: "CLOSED"} }
	updateLocation := func() *UpdateLocation { return &UpdateLocation{LocationID: "store"} }
	deactivateLocation := func() *DeactivateLocation { return &DeactivateLocation{LocationID: "empty", ReasonCode: "MOVED"} }
	updateMedicine := func() *UpdateMedicine { return &UpdateMedicine{MedicineID: "zinc"} }
	deactivateMedicine := func() *DeactivateMedicine { return &DeactivateMedicine{MedicineID: "lonely", ReasonCode: "UNUSED"} }
	cases := []testCase{
		etagCase(updateClinic, func(b *UpdateClinic) *string { return &b.Etag }),
		outcome(ReasonClinicHoldsStock, vary(updateClinic, func(b *UpdateClinic) **bool { return &b.Active }, ptr(false))),
		outcome(ReasonInvalidField, vary(updateClinic, func(b *UpdateClinic) **string { return &b.TimeZone }, ptr("Mars/Olympus"))),
		outcome(ReasonInvalidField, vary(updateClinic, func(b *UpdateClinic) **int64 { return &b.BackdatingDays }, ptr(int64(3651)))),
		etagCase(deactivateClinic, func(b *DeactivateClinic) *string { return &b.Etag }),
		outcome(ReasonClinicHoldsStock, deactivateClinic()),
		outcome(ReasonClinicExists, &CreateClinic{Name: "Again", TimeZone: "UTC"}),
		outcome(ReasonLocationExists, &CreateLocation{LocationID: "store", Name: "new", LocationKind: Ward}),
		outcome(ReasonLocationExists, &CreateLocation{Name: "STORE", LocationKind: Ward}),
		outcome(ReasonInvalidField, &CreateLocation{Name: "new"}),
		etagCase(updateLocation, func(b *UpdateLocation) *string { return &b.Etag }),
		outcome(ReasonLocationNotFound, &UpdateLocation{LocationID: "erp|?"}),
		outcome(ReasonLocationExists, &UpdateLocation{LocationID: "store", Name: ptr("Ward")}),
		outcome(ReasonLocationHoldsStock, &UpdateLocation{LocationID: "store", Active: ptr(false)}),
		outcome(accepted, &UpdateLocation{LocationID: "closed", Active: ptr(true)}),
		etagCase(deactivateLocation, func(b *DeactivateLocation) *string { return &b.Etag }),
		outcome(ReasonLocationHoldsStock, &DeactivateLocation{LocationID: "erp|S", ReasonCode: "MOVED"}),
		outcome(ReasonMedicineExists, &AddMedicine{MedicineID: "zinc", Name: "new", BaseUnit: "ml"}),
		outcome(ReasonMedicineExists, &AddMedicine{Name: "ZINC", BaseUnit: "ml"}),
		etagCase(updateMedicine, func(b *UpdateMedicine) *string { return &b.Etag }),
		outcome(ReasonMedicineNotFound, &UpdateMedicine{MedicineID: "erp|?"}),
		outcome(ReasonMedicineExists, &UpdateMedicine{MedicineID: "zinc", Name: ptr("Morphine")}),
		outcome(ReasonMedicineInUse, &UpdateMedicine{MedicineID: "zinc", BaseUnit: ptr("ml")}),
		outcome(accepted, &UpdateMedicine{MedicineID: "lonely", BaseUnit: ptr("ml")}),
		outcome(ReasonMedicineHoldsStock, &UpdateMedicine{MedicineID: "zinc", Active: ptr(false)}),
		etagCase(deactivateMedicine, func(b *DeactivateMedicine) *string { return &b.Etag }),
		outcome(ReasonMedicineHoldsStock, &DeactivateMedicine{MedicineID: "erp|Z", ReasonCode: "UNUSED"}),
		outcome(ReasonMedicineNotFound, &DeactivateMedicine{MedicineID: "gold", ReasonCode: "UNUSED"}),
		outcome(ReasonMedicineInactive, &DeactivateMedicine{MedicineID: "retired", ReasonCode: "UNUSED"}),
	}
	return append(cases, locationCases(deactivateLocation, func(b *DeactivateLocation) *LocationID { return &b.LocationID })...)
}

func (s *stage) lotCatalogCases() []testCase {
	register := func() *RegisterLot {
		return &RegisterLot{MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "new", Expiry: today + 9}
	}
	number := func(b *RegisterLot) *string { return &b.LotNumber }
	updateLot := func() *UpdateLot { return &UpdateLot{LotID: "zinc-2"} }
	deactivateLot := func() *DeactivateLot { return &DeactivateLot{LotID: "zinc-none", ReasonCode: "UNUSED"} }
	cases := []testCase{
		outcome(ReasonLotExists, vary(register, number, "zinc-2")),
		outcome(ReasonLotExists, vary(register, func(b *RegisterLot) *LotID { return &b.LotID }, "zinc-2")),
		// A GTIN and lot number name one lot, whatever its medicine.
		outcome(ReasonLotExists, &RegisterLot{MedicineID: "morphine", GTIN: gtinBox[1:], LotNumber: "Z1", Expiry: today + 9}),
		outcome(ReasonInvalidField, &RegisterLot{MedicineID: "zinc", LotNumber: "new", Expiry: today + 9}),
		outcome(ReasonInvalidField, &RegisterLot{MedicineID: "zinc", GTIN: "4006381333932", LotNumber: "new", Expiry: today + 9}),
		outcome(accepted, vary(register, func(b *RegisterLot) *MedicineID { return &b.MedicineID }, "gs1|(01)"+gtinBox+"(10)NEW(17)300101")),
		etagCase(updateLot, func(b *UpdateLot) *string { return &b.Etag }),
		outcome(ReasonLotNotFound, &UpdateLot{LotID: "erp|?"}),
		outcome(ReasonLotExists, &UpdateLot{LotID: "zinc-2", LotNumber: ptr("zinc-q")}),
		outcome(ReasonLotExists, &UpdateLot{LotID: "zinc-2", GTIN: ptr(gtinBox), LotNumber: ptr("Z1")}),
		outcome(ReasonLotExists, &UpdateLot{LotID: "morphine-1", GTIN: ptr(gtinBox), LotNumber: ptr("Z1")}),
		outcome(ReasonLotHoldsStock, &UpdateLot{LotID: "zinc-2", Active: ptr(false)}),
		outcome(ReasonInvalidField, &UpdateLot{LotID: "zinc-2", Manufacturer: ptr("")}),
		etagCase(deactivateLot, func(b *DeactivateLot) *string { return &b.Etag }),
		outcome(ReasonLotNotFound, &DeactivateLot{LotID: "none", ReasonCode: "UNUSED"}),
		outcome(ReasonLotInactive, &DeactivateLot{LotID: "zinc-off", ReasonCode: "UNUSED"}),
		outcome(ReasonLotHoldsStock, &DeactivateLot{LotID: "erp|Z1", ReasonCode: "UNUSED"}),
	}
	return append(cases, medicineCases(register, func(b *RegisterLot) *MedicineID { return &b.MedicineID })...)
}

func (s *stage) nameCases() []testCase {
	packs := func() *SetPacks { return &SetPacks{MedicineID: "morphine"} }
	list := func(b *SetPacks) *[]Pack { return &b.Packs }
	levels := func() *UpdateStockLevels { return &UpdateStockLevels{LocationID: "store", MedicineID: "zinc"} }
	identify := func(subject IdentifierSubject, id string) CommandBody {
		return &AddIdentifier{Subject: subject, SubjectID: id, System: "erp", Value: "new"}
	}
	set := func(edit func(*SetPolicy)) CommandBody {
		b := policy(time1)
		edit(b)
		return b
	}
	cases := []testCase{
		outcome(ReasonIdentifierExists, vary(packs, list, []Pack{{"box", 10, gtinBox[1:]}})),
		outcome(ReasonIdentifierExists, vary(packs, list, []Pack{{"box", 10, gtinStrip}}),
			&AddIdentifier{Subject: SubjectMedicine, SubjectID: "zinc", System: "gtin", Value: gtinStrip[1:]}),
		outcome(ReasonQuantityOutOfRange, vary(packs, list, []Pack{{"box", 0, ""}})),
		outcome(ReasonInvalidField, vary(packs, list, []Pack{{"box", 1, ""}, {"BOX", 2, ""}})),
		outcome(ReasonInvalidField, vary(packs, list, []Pack{{"box", 1, gtinVial}, {"case", 2, gtinVial[1:]}})),
		outcome(ReasonInvalidField, vary(packs, list, make([]Pack, maxPacks+1))),
		outcome(ReasonMedicineNotFound, &SetPacks{MedicineID: "gold"}),
		outcome(ReasonMedicineInactive, &SetPacks{MedicineID: "retired"}),
		etagCase(packs, func(b *SetPacks) *string { return &b.Etag }),
		outcome(accepted, vary(packs, func(b *SetPacks) *string { return &b.Etag }, "0")),
		outcome(ReasonLocationNotFound, identify(SubjectLocation, "attic")),
		outcome(ReasonLocationInactive, identify(SubjectLocation, "closed")),
		outcome(ReasonMedicineNotFound, identify(SubjectMedicine, "gold")),
		outcome(ReasonMedicineInactive, identify(SubjectMedicine, "retired")),
		outcome(ReasonLotNotFound, identify(SubjectLot, "none")),
		outcome(ReasonIdentifierNotFound, identify(SubjectSupplier, "erp|?")),
		outcome(ReasonInvalidField, identify(0, "zinc")),
		outcome(ReasonIdentifierExists, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "morphine", System: "erp", Value: "Z"}),
		outcome(ReasonIdentifierExists, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "morphine", System: "gtin", Value: gtinBox}),
		outcome(ReasonInvalidField, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "zinc", System: "gs1", Value: "x"}),
		outcome(ReasonInvalidField, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "zinc", System: "gtin", Value: "12345678"}),
		outcome(ReasonIdentifierNotFound, &RemoveIdentifier{Subject: SubjectLot, System: "erp", Value: "S", ReasonCode: "WRONG"}),
		outcome(ReasonEtagMismatch, set(func(b *SetPolicy) { b.Etag = "1" })),
		outcome(ReasonInvalidField, set(func(b *SetPolicy) { b.ApprovalHours = 0 })),
		outcome(ReasonInvalidField, set(func(b *SetPolicy) { b.Rules = []Rule{{"*", KindApproveCommand, 0, RequireWitness}} })),
		outcome(ReasonInvalidField, set(func(b *SetPolicy) { b.ReasonCodes = []ReasonCodes{{KindSetPolicy, []string{"A"}}} })),
		outcome(ReasonQuantityOutOfRange, set(func(b *SetPolicy) { b.ToleranceUnits = -1 })),
		outcome(ReasonQuantityOutOfRange, set(func(b *SetPolicy) { b.Rules = []Rule{{"*", KindIssueStock, -1, RequireWitness}} })),
		etagCase(levels, func(b *UpdateStockLevels) *string { return &b.Etag }),
		outcome(ReasonQuantityOutOfRange, vary(levels, func(b *UpdateStockLevels) *int64 { return &b.Max }, MaxQuantity+1)),
		outcome(ReasonInvalidField, edited(levels, func(b *UpdateStockLevels) { b.Min, b.Reorder, b.Max = 5, 5, 4 })),
	}
	cases = append(cases, locationCases(levels, func(b *UpdateStockLevels) *LocationID { return &b.LocationID })...)
	return append(cases, medicineCases(levels, func(b *UpdateStockLevels) *MedicineID { return &b.MedicineID })...)
}

func (s *stage) receiptCases() []testCase {
	receive := func() *ReceiveStock { return &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5} }
	lot := func(b *ReceiveStock) *LotID { return &b.LotID }
	reverse := func() *ReverseReceipt { return &ReverseReceipt{Sequence: s.receipt, ReasonCode: "TYPO"} }
	quantity := func(b *ReverseReceipt) *int64 { return &b.Quantity }
	cases := []testCase{
		outcome(ReasonLotInactive, vary(receive, lot, "zinc-off")),
		outcome(ReasonMedicineInactive, vary(receive, lot, "retired-1")),
		outcome(ReasonLotExpired, vary(receive, lot, "zinc-old")),
		outcome(accepted, vary(receive, lot, "zinc-r")),
		outcome(ReasonIdentifierNotFound, vary(receive, func(b *ReceiveStock) *string { return &b.Supplier }, "erp|?")),
		outcome(ReasonBalanceOverflow, &ReceiveStock{LocationID: "annex", LotID: "zinc-full", Quantity: 1}),
		outcome(ReasonQuantityOutOfRange, vary(receive, lot, "gs1|(02)"+gtinPallet+"(37)99999999(10)Z1")),
		outcome(ReasonPackNotFound, vary(receive, lot, "gs1|(01)"+gtinBox+"(10)Z1"), &SetPacks{MedicineID: "zinc"}),
		outcome(ReasonInvalidField, edited(receive, func(b *ReceiveStock) { b.LotID, b.Pack = "gs1|(01)"+gtinBox+"(10)Z1", "box" })),
		outcome(ReasonReceiptNotFound, vary(reverse, func(b *ReverseReceipt) *Sequence { return &b.Sequence }, 1)),
		outcome(ReasonReceiptNotFound, vary(reverse, func(b *ReverseReceipt) *Sequence { return &b.Sequence }, 9999)),
		outcome(ReasonInvalidField, vary(reverse, func(b *ReverseReceipt) *Sequence { return &b.Sequence }, 0)),
		outcome(ReasonReceiptReversed, vary(reverse, func(b *ReverseReceipt) *Sequence { return &b.Sequence }, s.reversed)),
		outcome(ReasonReceiptReversed, vary(reverse, quantity, 101)),
		outcome(ReasonQuantityOutOfRange, vary(reverse, quantity, -1)),
		outcome(ReasonInsufficientStock, reverse()), // some of it was issued
	}
	cases = append(cases, locationCases(receive, func(b *ReceiveStock) *LocationID { return &b.LocationID })...)
	cases = append(cases, unitCases(receive, func(b *ReceiveStock) *int64 { return &b.Quantity }, func(b *ReceiveStock) *string { return &b.Pack })...)
	return append(cases, lotCases(receive, lot)...)
}

func (s *stage) reserveCases() []testCase {
	later := s.now + testDay
	reserve := func() *ReserveStock {
		return &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 5, ReasonCode: "WARD", Deadline: later}
	}
	issue := func() *IssueStock { return &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 5} }
	reservedLot, issuedLot := func(b *ReserveStock) *LotID { return &b.LotID }, func(b *IssueStock) *LotID { return &b.LotID }
	reserved, issued := func(b *ReserveStock) *int64 { return &b.Quantity }, func(b *IssueStock) *int64 { return &b.Quantity }
	cases := []testCase{
		outcome(ReasonDeadlinePassed, vary(reserve, func(b *ReserveStock) *Instant { return &b.Deadline }, s.now)),
		outcome(ReasonInvalidField, vary(reserve, func(b *ReserveStock) *Instant { return &b.Deadline }, 0)),
		outcome(ReasonInvalidField, vary(reserve, func(b *ReserveStock) *Date { return &b.LastsUntil }, -1)),
		outcome(ReasonInsufficientStock, vary(reserve, reserved, 1000)),
		outcome(ReasonInsufficientStock, vary(reserve, func(b *ReserveStock) *Date { return &b.LastsUntil }, today+201)),
		outcome(ReasonInsufficientStock, vary(issue, issued, 1000)),
		outcome(ReasonLotInactive, vary(reserve, reservedLot, "zinc-off")),
		outcome(ReasonLotInactive, vary(issue, issuedLot, "zinc-off")),
		outcome(ReasonLotOfOtherMedicine, vary(reserve, reservedLot, "morphine-1")),
		outcome(ReasonLotOfOtherMedicine, vary(issue, issuedLot, "morphine-1")),
		outcome(accepted, vary(reserve, func(b *ReserveStock) *MedicineID { return &b.MedicineID }, "gs1|(01)"+gtinBox+"(10)Z1")),
		outcome(accepted, vary(issue, func(b *IssueStock) *MedicineID { return &b.MedicineID }, MedicineID("gtin|"+gtinBox[1:]))),
	}
	cases = append(cases, locationCases(reserve, func(b *ReserveStock) *LocationID { return &b.LocationID })...)
	cases = append(cases, locationCases(issue, func(b *IssueStock) *LocationID { return &b.LocationID })...)
	cases = append(cases, medicineCases(reserve, func(b *ReserveStock) *MedicineID { return &b.MedicineID })...)
	cases = append(cases, medicineCases(issue, func(b *IssueStock) *MedicineID { return &b.MedicineID })...)
	cases = append(cases, lotCases(reserve, reservedLot)...)
	cases = append(cases, lotCases(issue, issuedLot)...)
	cases = append(cases, useCases(reserve, reservedLot)...)
	cases = append(cases, useCases(issue, issuedLot)...)
	cases = append(cases, unitCases(reserve, reserved, func(b *ReserveStock) *string { return &b.Pack })...)
	return append(cases, unitCases(issue, issued, func(b *IssueStock) *string { return &b.Pack })...)
}

func (s *stage) holdCases() []testCase {
	later := s.now + testDay
	release := func(id HoldID, quantity int64) CommandBody { return &ReleaseStock{HoldID: id, Quantity: quantity} }
	issue := func(id HoldID, quantity int64) CommandBody { return &IssueStock{HoldID: id, Quantity: quantity} }
	return []testCase{
		outcome(ReasonHoldNotFound, release(s.issued, 0)),
		outcome(ReasonHoldNotFound, release(HoldID(deriveID(holdPrefix, clinicTag("riverside"), 20, 0)), 0)),
		outcome(ReasonHoldOfTransfer, release(s.transferHold, 0)),
		outcome(ReasonHoldTooSmall, release(s.hold, 6)),
		outcome(ReasonQuantityOutOfRange, release(s.hold, -1)),
		outcome(ReasonHoldNotFound, &ExpireReservation{HoldID: "hold_x"}),
		outcome(ReasonHoldOfTransfer, &ExpireReservation{HoldID: s.transferHold}),
		outcome(ReasonHoldNotDue, &ExpireReservation{HoldID: s.hold}),
		outcome(ReasonHoldNotFound, issue(s.issued, 0)),
		outcome(ReasonHoldOfTransfer, issue(s.transferHold, 0)),
		outcome(ReasonHoldTooSmall, issue(s.hold, 6)),
		outcome(ReasonHoldOverdue, issue(s.lateHold, 0)),
		outcome(ReasonInvalidField, &IssueStock{HoldID: s.hold, LocationID: "store"}),
		outcome(accepted, issue(s.hold, 5)),
		outcome(accepted, release(s.lateHold, 2)),
		outcome(ReasonLotQuarantined, issue(s.hold, 1), &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"}),
		outcome(ReasonLotRecalled, issue(s.hold, 1), &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"}),
		outcome(accepted, &ExpireReservation{HoldID: s.lateHold}),
		outcome(accepted, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 1, ReasonCode: "WARD", Deadline: later}),
	}
}

func (s *stage) takeCases() []testCase {
	adjust := func() *AdjustStock {
		return &AdjustStock{LocationID: "store", LotID: "zinc-2", Direction: Decrease, Quantity: 1, ReasonCode: "BROKEN"}
	}
	writeOff := func() *WriteOffStock {
		return &WriteOffStock{LocationID: "store", LotID: "zinc-2", Quantity: 1, ReasonCode: "BROKEN"}
	}
	giveBack := func() *ReturnToSupplier {
		return &ReturnToSupplier{LocationID: "store", LotID: "zinc-2", Quantity: 1, ReasonCode: "WRONG"}
	}
	adjusted, wrote, gave := func(b *AdjustStock) *LotID { return &b.LotID }, func(b *WriteOffStock) *LotID { return &b.LotID }, func(b *ReturnToSupplier) *LotID { return &b.LotID }
	cases := []testCase{
		outcome(ReasonLotInactive, vary(adjust, adjusted, "zinc-off")),
		outcome(ReasonLotInactive, vary(writeOff, wrote, "zinc-off")),
		outcome(ReasonLotInactive, vary(giveBack, gave, "zinc-off")),
		outcome(ReasonMedicineInactive, edited(adjust, func(b *AdjustStock) { b.LotID, b.Direction = "retired-1", Increase })),
		outcome(ReasonInsufficientStock, vary(adjust, adjusted, "zinc-none")),
		outcome(ReasonInsufficientStock, vary(writeOff, wrote, "zinc-none")),
		outcome(ReasonInsufficientStock, vary(giveBack, gave, "zinc-none")),
		outcome(ReasonInsufficientStock, vary(writeOff, func(b *WriteOffStock) *int64 { return &b.Quantity }, 9).(*WriteOffStock).quarantined()),
		outcome(accepted, vary(writeOff, wrote, "zinc-old")),
		outcome(accepted, writeOff().quarantined()),
		outcome(accepted, vary(giveBack, gave, "zinc-q")),
		outcome(ReasonBalanceOverflow, &AdjustStock{LocationID: "annex", LotID: "zinc-full", Direction: Increase, Quantity: 1, ReasonCode: "FOUND"}),
		outcome(ReasonInvalidField, vary(adjust, func(b *AdjustStock) *Direction { return &b.Direction }, 3)),
		outcome(ReasonIdentifierNotFound, vary(giveBack, func(b *ReturnToSupplier) *string { return &b.Supplier }, "erp|?")),
	}
	cases = append(cases, locationCases(adjust, func(b *AdjustStock) *LocationID { return &b.LocationID })...)
	cases = append(cases, locationCases(writeOff, func(b *WriteOffStock) *LocationID { return &b.LocationID })...)
	cases = append(cases, locationCases(giveBack, func(b *ReturnToSupplier) *LocationID { return &b.LocationID })...)
	cases = append(cases, lotCases(adjust, adjusted)...)
	cases = append(cases, lotCases(writeOff, wrote)...)
	cases = append(cases, lotCases(giveBack, gave)...)
	cases = append(cases, unitCases(adjust, func(b *AdjustStock) *int64 { return &b.Quantity }, func(b *AdjustStock) *string { return &b.Pack })...)
	cases = append(cases, unitCases(writeOff, func(b *WriteOffStock) *int64 { return &b.Quantity }, func(b *WriteOffStock) *string { return &b.Pack })...)
	return append(cases, unitCases(giveBack, func(b *ReturnToSupplier) *int64 { return &b.Quantity }, func(b *ReturnToSupplier) *string { return &b.Pack })...)
}

func (b *WriteOffStock) quarantined() *WriteOffStock {
	b.FromQuarantine = true
	return b
}

func (s *stage) countCases() []testCase {
	start := func() *StartCount { return &StartCount{LocationID: "store", Medicines: []MedicineID{"zinc"}} }
	record := func() *RecordCount {
		return &RecordCount{LocationID: "ward", Lines: []CountedLine{{LotID: "zinc-2", Counted: 1}}, ReasonCode: "CYCLE"}
	}
	line := func(l CountedLine) CommandBody {
		return vary(record, func(b *RecordCount) *[]CountedLine { return &b.Lines }, []CountedLine{l})
	}
	atStore := func(l CountedLine) CommandBody {
		return &RecordCount{LocationID: "store", Lines: []CountedLine{l}, ReasonCode: "CYCLE"}
	}
	cases := []testCase{
		outcome(ReasonCountEmpty, vary(start, func(b *StartCount) *LocationID { return &b.LocationID }, "empty")),
		outcome(ReasonCountTooLarge, &StartCount{LocationID: "store"}, s.manyLots()...),
		outcome(ReasonInvalidField, vary(start, func(b *StartCount) *[]MedicineID { return &b.Medicines }, make([]MedicineID, maxCountLines+1))),
		outcome(ReasonCountNotFound, &RecordCount{CountID: "CN-0", Lines: []CountedLine{{LotID: "zinc-2"}}, ReasonCode: "CYCLE"}),
		outcome(ReasonLocationInactive, &RecordCount{CountID: s.countAtClosed, Lines: []CountedLine{{LotID: "zinc-2"}}, ReasonCode: "CYCLE"}),
		outcome(ReasonInvalidField, &RecordCount{Lines: []CountedLine{{LotID: "zinc-2"}}, ReasonCode: "CYCLE"}),
		outcome(ReasonInvalidField, vary(record, func(b *RecordCount) *[]CountedLine { return &b.Lines }, []CountedLine{{LotID: "zinc-1"}, {LotID: "erp|Z1"}})),
		outcome(ReasonCountInFuture, line(CountedLine{LotID: "zinc-2", Sequence: 9999})),
		outcome(ReasonInvalidField, line(CountedLine{LotID: "zinc-2", Sequence: -1})),
		outcome(ReasonCountEatsHeld, atStore(CountedLine{LotID: "zinc-1", Counted: 1})),
		outcome(ReasonCountEatsHeld, atStore(CountedLine{LotID: "zinc-2", Counted: 1, Sequence: s.receipt + 20})),
		outcome(ReasonLotInactive, line(CountedLine{LotID: "zinc-off", Counted: 1})),
		outcome(ReasonMedicineInactive, line(CountedLine{LotID: "retired-1", Counted: 1})),
		outcome(accepted, line(CountedLine{LotID: "zinc-off"})),
		outcome(ReasonBalanceOverflow, &RecordCount{LocationID: "annex", Lines: []CountedLine{{LotID: "zinc-full", Counted: 1, Quarantined: true}}, ReasonCode: "CYCLE"}),
		outcome(ReasonCountIncomplete, &CompleteCount{CountID: s.count}),
		outcome(ReasonCountNotFound, &CompleteCount{CountID: "CN-0"}),
		outcome(ReasonCountNotFound, &CancelCount{CountID: "CN-0", ReasonCode: "WRONG"}),
	}
	first := func(b *RecordCount) *CountedLine { return &b.Lines[0] }
	cases = append(cases, locationCases(start, func(b *StartCount) *LocationID { return &b.LocationID })...)
	cases = append(cases, medicineCases(start, func(b *StartCount) *MedicineID { return &b.Medicines[0] })...)
	cases = append(cases, locationCases(record, func(b *RecordCount) *LocationID { return &b.LocationID })...)
	cases = append(cases, lotCases(record, func(b *RecordCount) *LotID { return &first(b).LotID })...)
	return append(cases, unitCases(record, func(b *RecordCount) *int64 { return &first(b).Counted }, func(b *RecordCount) *string { return &first(b).Pack })...)
}

// manyLots registers and receives more lots than one count takes.
func (s *stage) manyLots() []CommandBody {
	var given []CommandBody
	for i := range maxCountLines {
		id := LotID(fmt.Sprintf("many-%d", i))
		given = append(given,
			&RegisterLot{LotID: id, MedicineID: "amoxicillin", Manufacturer: "Acme", LotNumber: string(id), Expiry: today + 99},
			&ReceiveStock{LocationID: "store", LotID: id, Quantity: 1})
	}
	return given
}

func (s *stage) conversionCases() []testCase {
	convert := func() *ConvertStock {
		return &ConvertStock{
			LocationID: "store", Inputs: []LotLine{{LotID: "zinc-2", Quantity: 2}}, MedicineID: "zinc", LotNumber: "C1", Manufacturer: "Hillside",
			Expiry: today + 30, Quantity: 4, ReasonCode: "REPACK",
		}
	}
	open := func() *OpenContainer {
		return &OpenContainer{LocationID: "store", LotID: "zinc-2", Quantity: 1, InUseUntil: today + 30}
	}
	input := func(b *ConvertStock) *LotID { return &b.Inputs[0].LotID }
	opened := func(b *OpenContainer) *LotID { return &b.LotID }
	cases := []testCase{
		outcome(ReasonInvalidField, vary(convert, func(b *ConvertStock) *[]LotLine { return &b.Inputs }, nil)),
		outcome(ReasonInvalidField, vary(convert, func(b *ConvertStock) *Date { return &b.Expiry }, today)),
		outcome(ReasonExpiryTooLate, vary(convert, func(b *ConvertStock) *Date { return &b.Expiry }, today+201)),
		outcome(ReasonInsufficientStock, vary(convert, func(b *ConvertStock) *int64 { return &b.Inputs[0].Quantity }, 1000)),
		outcome(ReasonLotExists, vary(convert, func(b *ConvertStock) *LotID { return &b.LotID }, "zinc-1")),
		outcome(ReasonLotExists, edited(convert, func(b *ConvertStock) { b.Manufacturer, b.LotNumber = "ACME", "zinc-q" })),
		outcome(ReasonInvalidField, vary(open, func(b *OpenContainer) *Date { return &b.InUseUntil }, today)),
		outcome(ReasonExpiryTooLate, vary(open, func(b *OpenContainer) *Date { return &b.InUseUntil }, today+201)),
		outcome(ReasonInsufficientStock, vary(open, func(b *OpenContainer) *int64 { return &b.Quantity }, 1000)),
		outcome(ReasonLotExists, open(), &RegisterLot{
			MedicineID: "zinc", Manufacturer: "Acme", Expiry: today + 30, LotNumber: fmt.Sprintf("zinc-2/opened-%d", s.state.head.Sequence+2),
		}),
	}
	cases = append(cases, locationCases(convert, func(b *ConvertStock) *LocationID { return &b.LocationID })...)
	cases = append(cases, medicineCases(convert, func(b *ConvertStock) *MedicineID { return &b.MedicineID })...)
	cases = append(cases, lotCases(convert, input)...)
	cases = append(cases, useCases(convert, input)...)
	cases = append(cases, unitCases(convert, func(b *ConvertStock) *int64 { return &b.Quantity }, func(b *ConvertStock) *string { return &b.Pack })...)
	cases = append(cases, unitCases(convert, func(b *ConvertStock) *int64 { return &b.Inputs[0].Quantity }, func(b *ConvertStock) *string { return &b.Inputs[0].Pack })...)
	cases = append(cases, locationCases(open, func(b *OpenContainer) *LocationID { return &b.LocationID })...)
	cases = append(cases, lotCases(open, opened)...)
	cases = append(cases, useCases(open, opened)...)
	return append(cases, unitCases(open, func(b *OpenContainer) *int64 { return &b.Quantity }, func(b *OpenContainer) *string { return &b.Pack })...)
}

func (s *stage) recallCases() []testCase {
	quarantine := func() *QuarantineLot {
		return &QuarantineLot{LotID: "zinc-2", LocationID: "store", Quantity: 1, ReasonCode: "DAMP"}
	}
	release := func() *ReleaseLot {
		return &ReleaseLot{LotID: "zinc-2", LocationID: "store", Quantity: 1, ReasonCode: "DRY"}
	}
	recall := func() *RecallLot { return &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"} }
	cases := []testCase{
		outcome(ReasonLotQuarantined, &QuarantineLot{LotID: "zinc-q", ReasonCode: "DAMP"}),
		outcome(ReasonLotRecalled, &QuarantineLot{LotID: "zinc-r", ReasonCode: "DAMP"}),
		outcome(ReasonInvalidField, &QuarantineLot{LotID: "zinc-2", Quantity: 1, ReasonCode: "DAMP"}),
		outcome(ReasonInsufficientStock, vary(quarantine, func(b *QuarantineLot) *int64 { return &b.Quantity }, 1000)),
		outcome(ReasonInsufficientStock, &QuarantineLot{LotID: "zinc-none", LocationID: "store", ReasonCode: "DAMP"}),
		outcome(accepted, vary(quarantine, func(b *QuarantineLot) *int64 { return &b.Quantity }, 0)),
		outcome(ReasonLotRecalled, &ReleaseLot{LotID: "zinc-r", LocationID: "store", ReasonCode: "DRY"}),
		outcome(ReasonLotNotBarred, &ReleaseLot{LotID: "zinc-2", ReasonCode: "DRY"}),
		outcome(ReasonInsufficientStock, vary(release, func(b *ReleaseLot) *int64 { return &b.Quantity }, 6)),
		outcome(accepted, vary(release, func(b *ReleaseLot) *int64 { return &b.Quantity }, 0)),
		outcome(ReasonLotRecalled, vary(recall, func(b *RecallLot) *LotID { return &b.LotID }, "zinc-r")),
		outcome(ReasonInvalidField, &RecallLot{LotID: "zinc-1", LotNumber: "Z1", ReasonCode: "NOTICE"}),
		outcome(ReasonInvalidField, &RecallLot{Manufacturer: "Acme", ReasonCode: "NOTICE"}),
		outcome(ReasonRecallExists, &RecallLot{Manufacturer: "ACME", LotNumber: "9", ReasonCode: "NOTICE"}, &RecallLot{Manufacturer: "Acme", LotNumber: "9", ReasonCode: "NOTICE"}),
		outcome(ReasonRecallNotFound, &ContinueRecall{RecallID: "RC-0"}),
		outcome(ReasonRecallStep, &ContinueRecall{RecallID: s.recall}),
		outcome(ReasonInvalidField, &ContinueRecall{RecallID: s.recall, Step: -1}),
		outcome(ReasonRecallNotFound, &LiftRecall{RecallID: "RC-0", ReasonCode: "MISTAKE"}),
	}
	cases = append(cases, locationCases(quarantine, func(b *QuarantineLot) *LocationID { return &b.LocationID })...)
	cases = append(cases, locationCases(release, func(b *ReleaseLot) *LocationID { return &b.LocationID })...)
	cases = append(cases, lotCases(quarantine, func(b *QuarantineLot) *LotID { return &b.LotID })...)
	cases = append(cases, lotCases(release, func(b *ReleaseLot) *LotID { return &b.LotID })...)
	cases = append(cases, lotCases(recall, func(b *RecallLot) *LotID { return &b.LotID })...)
	cases = append(cases, unitCases(quarantine, func(b *QuarantineLot) *int64 { return &b.Quantity }, func(b *QuarantineLot) *string { return &b.Pack })...)
	return append(cases, unitCases(release, func(b *ReleaseLot) *int64 { return &b.Quantity }, func(b *ReleaseLot) *string { return &b.Pack })...)
}

func (s *stage) transferCases() []testCase {
	later := s.now + 9*testDay
	ask := func() *TransferStock {
		return &TransferStock{From: "store", To: "ward", Lines: []RequestedLine{{MedicineID: "zinc", Quantity: 5}}, DispatchBy: later, ReasonCode: "REFILL"}
	}
	line := func(b *TransferStock) *RequestedLine { return &b.Lines[0] }
	lot := func(b *TransferStock) *LotID { return &line(b).LotID }
	cases := []testCase{
		outcome(ReasonDeadlinePassed, vary(ask, func(b *TransferStock) *Instant { return &b.DispatchBy }, s.now)),
		outcome(ReasonInvalidField, vary(ask, func(b *TransferStock) *Instant { return &b.DispatchBy }, 0)),
		outcome(ReasonInvalidField, vary(ask, func(b *TransferStock) *Instant { return &b.ReceiveBy }, later-1)),
		outcome(ReasonInvalidField, vary(ask, func(b *TransferStock) *LocationID { return &b.To }, "store")),
		outcome(ReasonInvalidField, vary(ask, func(b *TransferStock) *LocationID { return &b.To }, "erp|S")),
		outcome(ReasonInvalidField, vary(ask, func(b *TransferStock) *[]RequestedLine { return &b.Lines }, nil)),
		outcome(ReasonInvalidField, vary(ask, func(b *TransferStock) *[]RequestedLine { return &b.Lines },
			[]RequestedLine{{MedicineID: "zinc", Quantity: 1}, {MedicineID: "erp|Z", Quantity: 1}})),
		outcome(ReasonLotOfOtherMedicine, vary(ask, lot, "morphine-1")),
		outcome(accepted, vary(ask, lot, "zinc-r")), // it may have to be moved for that very reason
	}
	cases = append(cases, locationCases(ask, func(b *TransferStock) *LocationID { return &b.From })...)
	cases = append(cases, locationCases(ask, func(b *TransferStock) *LocationID { return &b.To })...)
	cases = append(cases, medicineCases(ask, func(b *TransferStock) *MedicineID { return &line(b).MedicineID })...)
	cases = append(cases, lotCases(ask, lot)...)
	return append(cases, unitCases(ask, func(b *TransferStock) *int64 { return &line(b).Quantity }, func(b *TransferStock) *string { return &line(b).Pack })...)
}

func (s *stage) approveTransferCases() []testCase {
	approve := func() *ApproveTransfer {
		return &ApproveTransfer{TransferID: s.requested, Lines: []RequestedLine{{MedicineID: "zinc", Quantity: 2}}}
	}
	line := func(b *ApproveTransfer) *RequestedLine { return &b.Lines[0] }
	lot := func(b *ApproveTransfer) *LotID { return &line(b).LotID }
	all := func(id TransferID) CommandBody { return &ApproveTransfer{TransferID: id} }
	cases := []testCase{
		outcome(accepted, approve()),
		outcome(ReasonTransferNotFound, all("TR-0")),
		outcome(ReasonTransferState, all(s.approved)),
		outcome(ReasonTransferOverdue, all(s.lateRequest)),
		outcome(ReasonLocationInactive, all(s.toClosed)),
		outcome(ReasonMedicineInactive, all(s.ofRetired)),
		outcome(ReasonLotInactive, all(s.ofInactive)),
		outcome(ReasonLotOfOtherMedicine, vary(approve, lot, "morphine-1")),
		outcome(ReasonInvalidField, vary(approve, lot, "zinc-1")), // it asks for any lot
		outcome(ReasonQuantityOutOfRange, vary(approve, func(b *ApproveTransfer) *int64 { return &line(b).Quantity }, 6)),
		outcome(ReasonInsufficientStock, all(s.requested), &QuarantineLot{LotID: "zinc-1", ReasonCode: "DAMP"}, &QuarantineLot{LotID: "zinc-2", ReasonCode: "DAMP"}),
	}
	cases = append(cases, medicineCases(approve, func(b *ApproveTransfer) *MedicineID { return &line(b).MedicineID })...)
	cases = append(cases, lotCases(approve, lot)...)
	return append(cases, unitCases(approve, func(b *ApproveTransfer) *int64 { return &line(b).Quantity }, func(b *ApproveTransfer) *string { return &line(b).Pack })...)
}

func (s *stage) underWayCases() []testCase {
	dispatch := func() *DispatchTransfer {
		return &DispatchTransfer{TransferID: s.approved, Lines: []LotLine{{LotID: "zinc-2", Quantity: 2}}}
	}
	receive := func() *ReceiveTransfer {
		return &ReceiveTransfer{TransferID: s.inTransit, Lines: []LotLine{{LotID: "zinc-2", Quantity: 2}}}
	}
	sent, got := func(b *DispatchTransfer) *LotLine { return &b.Lines[0] }, func(b *ReceiveTransfer) *LotLine { return &b.Lines[0] }
	surplus := func(lot LotID) CommandBody {
		return &ReceiveTransfer{TransferID: s.inTransit, Lines: []LotLine{{LotID: lot, Quantity: 6}}, ReasonCode: "EXTRA"}
	}
	cases := []testCase{
		outcome(accepted, dispatch()),
		outcome(accepted, receive()),
		outcome(ReasonTransferNotFound, &RejectTransfer{TransferID: "TR-0", ReasonCode: "NO"}),
		outcome(ReasonTransferState, &RejectTransfer{TransferID: s.approved, ReasonCode: "NO"}),
		outcome(ReasonTransferNotFound, &CancelTransfer{TransferID: "TR-0", ReasonCode: "NO"}),
		outcome(ReasonTransferState, &CancelTransfer{TransferID: s.received, ReasonCode: "NO"}),
		outcome(ReasonTransferNotFound, &DispatchTransfer{TransferID: "TR-0"}),
		outcome(ReasonTransferState, &DispatchTransfer{TransferID: s.requested}),
		outcome(ReasonTransferOverdue, &DispatchTransfer{TransferID: s.overdue}),
		outcome(ReasonTransferEmpty, &DispatchTransfer{TransferID: s.emptied}),
		outcome(ReasonHoldTooSmall, vary(dispatch, func(b *DispatchTransfer) *int64 { return &sent(b).Quantity }, 6)),
		outcome(ReasonHoldTooSmall, vary(dispatch, func(b *DispatchTransfer) *LotID { return &sent(b).LotID }, "zinc-1")),
		outcome(ReasonTransferNotFound, &ReceiveTransfer{TransferID: "TR-0"}),
		outcome(ReasonTransferState, &ReceiveTransfer{TransferID: s.approved}),
		outcome(ReasonLocationInactive, &ReceiveTransfer{TransferID: s.inTransitToClosed}),
		outcome(ReasonTransferSurplus, vary(receive, func(b *ReceiveTransfer) *int64 { return &got(b).Quantity }, 6)),
		outcome(accepted, surplus("zinc-2")),
		outcome(accepted, surplus("zinc-1")),
		outcome(ReasonLotInactive, surplus("zinc-off")),
		outcome(ReasonMedicineInactive, surplus("retired-1")),
		outcome(ReasonBalanceOverflow, surplus("zinc-2"), &ReceiveStock{LocationID: "ward", LotID: "zinc-2", Quantity: MaxQuantity - 30}),
		outcome(ReasonTransferNotFound, &CompleteTransfer{TransferID: "TR-0"}),
		outcome(ReasonTransferState, &CompleteTransfer{TransferID: s.approved}),
		outcome(ReasonTransferShort, &CompleteTransfer{TransferID: s.inTransit}),
	}
	cases = append(cases, lotCases(dispatch, func(b *DispatchTransfer) *LotID { return &sent(b).LotID })...)
	cases = append(cases, lotCases(receive, func(b *ReceiveTransfer) *LotID { return &got(b).LotID })...)
	cases = append(cases, unitCases(dispatch, func(b *DispatchTransfer) *int64 { return &sent(b).Quantity }, func(b *DispatchTransfer) *string { return &sent(b).Pack })...)
	return append(cases, unitCases(receive, func(b *ReceiveTransfer) *int64 { return &got(b).Quantity }, func(b *ReceiveTransfer) *string { return &got(b).Pack })...)
}

// eachLoanCase are the cases that all four commands about loans have.
func eachLoanCase[T any, P bodyOf[T]](sample func() P, move func(P) *LoanMove) []testCase {
	lot := func(b P) *LotID { return &move(b).LotID }
	cases := []testCase{
		outcome(ReasonInvalidField, vary(sample, func(b P) *ClinicID { return &move(b).Partner }, "No")),
		outcome(ReasonInvalidField, vary(sample, func(b P) *string { return &move(b).Reference }, "")),
		outcome(ReasonLotInactive, vary(sample, lot, "zinc-off")),
		outcome(ReasonMedicineInactive, vary(sample, lot, "retired-1")),
	}
	cases = append(cases, locationCases(sample, func(b P) *LocationID { return &move(b).LocationID })...)
	cases = append(cases, lotCases(sample, lot)...)
	cases = append(cases, useCases(sample, lot)...)
	return append(cases, unitCases(sample, func(b P) *int64 { return &move(b).Quantity }, func(b P) *string { return &move(b).Pack })...)
}

func (s *stage) loanCases() []testCase {
	move := func(reference string, lot LotID, quantity int64) LoanMove {
		return LoanMove{Partner: "riverside", LocationID: "store", LotID: lot, Quantity: quantity, Reference: reference}
	}
	full := func(reference string) LoanMove {
		return LoanMove{Partner: "riverside", LocationID: "annex", LotID: "zinc-full", Quantity: 1, Reference: reference}
	}
	lend := func() *LendStock { return &LendStock{move("NEW", "zinc-2", 1)} }
	borrow := func() *BorrowStock { return &BorrowStock{move("NEW", "zinc-2", 1)} }
	repay := func() *RepayLoan { return &RepayLoan{move("BORROWED", "zinc-2", 1)} }
	receive := func() *ReceiveRepayment { return &ReceiveRepayment{move("LENT", "zinc-2", 1)} }
	cases := []testCase{
		outcome(ReasonInvalidField, vary(lend, func(b *LendStock) *ClinicID { return &b.Partner }, "hillside")),
		outcome(ReasonLoanExists, &LendStock{move("LENT", "zinc-2", 1)}),
		outcome(ReasonLoanExists, &BorrowStock{move("BORROWED", "zinc-2", 1)}),
		outcome(accepted, &LendStock{move("BORROWED", "zinc-2", 1)}), // each side has references of its own
		outcome(ReasonInsufficientStock, &LendStock{move("NEW", "zinc-none", 1)}),
		outcome(ReasonBalanceOverflow, &BorrowStock{full("NEW")}),
		outcome(ReasonLoanNotFound, &RepayLoan{move("LENT", "zinc-2", 1)}),
		outcome(ReasonLoanNotFound, vary(repay, func(b *RepayLoan) *ClinicID { return &b.Partner }, "lakeside")),
		outcome(ReasonLoanTooSmall, &RepayLoan{move("BORROWED", "zinc-2", 6)}),
		outcome(ReasonLotOfOtherMedicine, &RepayLoan{move("BORROWED", "morphine-1", 1)}),
		outcome(ReasonInsufficientStock, &RepayLoan{move("BORROWED", "zinc-none", 1)}),
		outcome(ReasonLoanNotFound, &ReceiveRepayment{move("BORROWED", "zinc-2", 1)}),
		outcome(ReasonLoanTooSmall, &ReceiveRepayment{move("LENT", "zinc-2", 6)}),
		outcome(ReasonLotOfOtherMedicine, &ReceiveRepayment{move("LENT", "morphine-1", 1)}),
		outcome(ReasonBalanceOverflow, &ReceiveRepayment{full("LENT")}),
	}
	cases = append(cases, eachLoanCase(lend, func(b *LendStock) *LoanMove { return &b.LoanMove })...)
	cases = append(cases, eachLoanCase(borrow, func(b *BorrowStock) *LoanMove { return &b.LoanMove })...)
	cases = append(cases, eachLoanCase(repay, func(b *RepayLoan) *LoanMove { return &b.LoanMove })...)
	return append(cases, eachLoanCase(receive, func(b *ReceiveRepayment) *LoanMove { return &b.LoanMove })...)
}

// approvalCases ask for a second person, change what the request depends on,
// and have somebody else approve it.
func (s *stage) approvalCases() []testCase {
	next := ApprovalID(fmt.Sprintf("AP-%d", s.state.head.Sequence+2))
	// late approves a command that became impossible since it was asked for.
	late := func(want Reason, body CommandBody, meanwhile ...CommandBody) testCase {
		given := append([]CommandBody{policy(time1, Rule{"*", body.Kind(), 0, RequireApprovalBefore}), body}, meanwhile...)
		return outcomeBy(want, "brian", &ApproveCommand{ApprovalID: next}, given...)
	}
	reverse := &ReverseReceipt{Sequence: s.receipt, Quantity: 40, ReasonCode: "TYPO"}
	codes := policy(time1)
	codes.ReasonCodes = []ReasonCodes{{KindWriteOffStock, []string{"OTHER"}}}
	cases := []testCase{
		outcomeBy(accepted, "brian", &ApproveCommand{ApprovalID: s.review}),
		outcomeBy(accepted, "brian", &RejectCommand{ApprovalID: s.review, ReasonCode: "WRONG"}),
		outcome(ReasonSamePerson, &RejectCommand{ApprovalID: s.review, ReasonCode: "WRONG"}),
		outcomeBy(accepted, "brian", &RejectCommand{ApprovalID: s.waiting, ReasonCode: "NO"}),
		outcomeBy(ReasonApprovalNotFound, "brian", &ApproveCommand{ApprovalID: "AP-0"}),
		outcomeBy(ReasonApprovalLapsed, "brian", &ApproveCommand{ApprovalID: s.lapsed}),
		outcome(ReasonSamePerson, &ApproveCommand{ApprovalID: s.waiting}),
		outcome(ReasonSamePerson, &ApproveCommand{ApprovalID: s.review}),
		outcome(ReasonApprovalNotFound, &RejectCommand{ApprovalID: "AP-0", ReasonCode: "NO"}),
		outcome(ReasonApprovalNotFound, &LapseCommand{ApprovalID: "AP-0"}),
		outcome(ReasonApprovalNotDue, &LapseCommand{ApprovalID: s.waiting}),
		outcomeBy(ReasonReasonCodeUnknown, "brian", &ApproveCommand{ApprovalID: s.waiting}, codes),
		late(ReasonInsufficientStock, &WriteOffStock{LocationID: "store", LotID: "zinc-1", Quantity: 5, ReasonCode: "BROKEN"},
			&RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"}, &ContinueRecall{RecallID: RecallID(fmt.Sprintf("RC-%d", s.state.head.Sequence+3))}),
		late(ReasonReceiptReversed, reverse, policy(time1), &ReverseReceipt{Sequence: s.receipt, Quantity: 40, ReasonCode: "TYPO"},
			&ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 50}, &ReverseReceipt{Sequence: s.receipt, Quantity: 30, ReasonCode: "TYPO"}),
		late(ReasonCountNotFound, &CompleteCount{CountID: s.count, ReasonCode: "DONE"}, &CancelCount{CountID: s.count, ReasonCode: "WRONG"}),
		late(ReasonTransferState, &RejectTransfer{TransferID: s.requested, ReasonCode: "NO"}, &ApproveTransfer{TransferID: s.requested}),
		late(ReasonLotRecalled, &QuarantineLot{LotID: "zinc-2", ReasonCode: "DAMP"}, &RecallLot{LotID: "zinc-2", ReasonCode: "NOTICE"}),
		late(ReasonHoldNotFound, &IssueStock{HoldID: s.hold}, &ReleaseStock{HoldID: s.hold}),
	}
	for i := range cases {
		if cases[i].Actor == "brian" && len(cases[i].given) > 0 {
			cases[i].given[0].Actor = "chidi"
		}
	}
	return cases
}
