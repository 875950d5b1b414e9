package ledger

import "slices"

// The outcomes of a command that is not rejected.
const (
	accepted          Reason = "accepted"
	approvalRequested Reason = "approval requested"
)

// Reasons that come together, because the same code finds them.
var (
	byLocation     = []Reason{ReasonLocationNotFound, ReasonLocationInactive}
	byMedicineScan = []Reason{ReasonScanUnreadable, ReasonScanIncomplete}
	byMedicine     = slices.Concat([]Reason{ReasonMedicineNotFound, ReasonMedicineInactive}, byMedicineScan)
	byLot          = []Reason{ReasonLotNotFound, ReasonScanUnreadable, ReasonScanIncomplete, ReasonScanContradictsLot}
	byWish         = slices.Concat(byMedicine, byLot, []Reason{ReasonLotOfOtherMedicine})
	byUnits        = []Reason{ReasonQuantityOutOfRange, ReasonPackNotFound}
	byUse          = []Reason{ReasonLotExpired, ReasonLotQuarantined, ReasonLotRecalled}
	byTransfer     = []Reason{ReasonTransferNotFound, ReasonTransferState}
	byHold         = []Reason{ReasonHoldNotFound, ReasonHoldOfTransfer}
	byLotMove      = slices.Concat(byLocation, byLot, byUnits, []Reason{ReasonLotInactive})
	byLoan         = slices.Concat(byLotMove, byUse, []Reason{ReasonMedicineInactive})
)

func reasons(lists ...any) []Reason {
	var all []Reason
	for _, list := range lists {
		switch l := list.(type) {
		case Reason:
			all = append(all, l)
		case []Reason:
			all = append(all, l...)
		}
	}
	return all
}

// ownReasons are what each command can be rejected for, beside what all of its
// sort can: see declared.
var ownReasons = map[Kind][]Reason{
	KindCreateClinic:       reasons(ReasonClinicExists),
	KindUpdateClinic:       reasons(ReasonEtagMismatch, ReasonClinicHoldsStock),
	KindDeactivateClinic:   reasons(ReasonEtagMismatch, ReasonClinicHoldsStock),
	KindCreateLocation:     reasons(ReasonLocationExists),
	KindUpdateLocation:     reasons(ReasonLocationNotFound, ReasonEtagMismatch, ReasonLocationExists, ReasonLocationHoldsStock),
	KindDeactivateLocation: reasons(byLocation, ReasonEtagMismatch, ReasonLocationHoldsStock),
	KindAddMedicine:        reasons(ReasonMedicineExists),
	KindUpdateMedicine:     reasons(ReasonMedicineNotFound, ReasonEtagMismatch, ReasonMedicineExists, ReasonMedicineInUse, ReasonMedicineHoldsStock),
	KindDeactivateMedicine: reasons(ReasonMedicineNotFound, ReasonMedicineInactive, ReasonEtagMismatch, ReasonMedicineHoldsStock),
	KindRegisterLot:        reasons(byMedicine, ReasonLotExists),
	KindUpdateLot:          reasons(ReasonLotNotFound, ReasonEtagMismatch, ReasonLotExists, ReasonLotHoldsStock),
	KindDeactivateLot:      reasons(ReasonLotNotFound, ReasonLotInactive, ReasonEtagMismatch, ReasonLotHoldsStock),

	KindSetPacks:          reasons(ReasonMedicineNotFound, ReasonMedicineInactive, ReasonEtagMismatch, ReasonIdentifierExists, ReasonQuantityOutOfRange),
	KindAddIdentifier:     reasons(byLocation, ReasonMedicineNotFound, ReasonMedicineInactive, ReasonLotNotFound, ReasonIdentifierNotFound, ReasonIdentifierExists),
	KindRemoveIdentifier:  reasons(ReasonIdentifierNotFound),
	KindSetPolicy:         reasons(ReasonEtagMismatch, ReasonQuantityOutOfRange),
	KindUpdateStockLevels: reasons(byLocation, byMedicine, ReasonQuantityOutOfRange, ReasonEtagMismatch),

	KindReceiveStock:      reasons(byLotMove, ReasonMedicineInactive, ReasonLotExpired, ReasonIdentifierNotFound, ReasonBalanceOverflow),
	KindReserveStock:      reasons(byLocation, byWish, byUnits, byUse, ReasonLotInactive, ReasonInsufficientStock, ReasonDeadlinePassed),
	KindReleaseStock:      reasons(byHold, ReasonHoldTooSmall, ReasonQuantityOutOfRange),
	KindExpireReservation: reasons(byHold, ReasonHoldNotDue),
	KindIssueStock:        reasons(byLocation, byWish, byUnits, byUse, byHold, ReasonLotInactive, ReasonInsufficientStock, ReasonHoldOverdue, ReasonHoldTooSmall),
	KindAdjustStock:       reasons(byLotMove, ReasonMedicineInactive, ReasonInsufficientStock, ReasonBalanceOverflow),
	KindWriteOffStock:     reasons(byLotMove, ReasonInsufficientStock),
	KindReturnToSupplier:  reasons(byLotMove, ReasonInsufficientStock, ReasonIdentifierNotFound),
	KindReverseReceipt:    reasons(ReasonQuantityOutOfRange, ReasonReceiptNotFound, ReasonReceiptReversed, ReasonInsufficientStock),

	KindStartCount:    reasons(byLocation, byMedicine, ReasonCountEmpty, ReasonCountTooLarge),
	KindRecordCount:   reasons(byLotMove, ReasonMedicineInactive, ReasonCountNotFound, ReasonCountInFuture, ReasonCountEatsHeld, ReasonBalanceOverflow),
	KindCompleteCount: reasons(ReasonCountNotFound, ReasonCountIncomplete),
	KindCancelCount:   reasons(ReasonCountNotFound),
	KindConvertStock:  reasons(byLocation, byMedicine, byLot, byUnits, byUse, ReasonExpiryTooLate, ReasonInsufficientStock, ReasonLotExists),
	KindOpenContainer: reasons(byLocation, byLot, byUnits, byUse, ReasonExpiryTooLate, ReasonInsufficientStock, ReasonLotExists),

	KindQuarantineLot:  reasons(byLocation, byLot, byUnits, ReasonLotQuarantined, ReasonLotRecalled, ReasonInsufficientStock),
	KindReleaseLot:     reasons(byLocation, byLot, byUnits, ReasonLotRecalled, ReasonLotNotBarred, ReasonInsufficientStock),
	KindRecallLot:      reasons(byLot, ReasonLotRecalled, ReasonRecallExists),
	KindContinueRecall: reasons(ReasonRecallNotFound, ReasonRecallStep),
	KindLiftRecall:     reasons(ReasonRecallNotFound),

	KindTransferStock:    reasons(byLocation, byWish, byUnits, ReasonDeadlinePassed),
	KindApproveTransfer:  reasons(byTransfer, byWish, byUnits, ReasonTransferOverdue, ReasonLocationInactive, ReasonLotInactive, ReasonInsufficientStock),
	KindRejectTransfer:   reasons(byTransfer),
	KindCancelTransfer:   reasons(byTransfer),
	KindDispatchTransfer: reasons(byTransfer, byLot, byUnits, ReasonTransferOverdue, ReasonTransferEmpty, ReasonHoldTooSmall),
	KindReceiveTransfer: reasons(byTransfer, byLot, byUnits, ReasonLocationInactive, ReasonTransferSurplus, ReasonLotInactive,
		ReasonMedicineInactive, ReasonBalanceOverflow),
	KindCompleteTransfer: reasons(byTransfer, ReasonTransferShort),

	KindLendStock:        reasons(byLoan, ReasonLoanExists, ReasonInsufficientStock),
	KindBorrowStock:      reasons(byLoan, ReasonLoanExists, ReasonBalanceOverflow),
	KindRepayLoan:        reasons(byLoan, ReasonLoanNotFound, ReasonLoanTooSmall, ReasonLotOfOtherMedicine, ReasonInsufficientStock),
	KindReceiveRepayment: reasons(byLoan, ReasonLoanNotFound, ReasonLoanTooSmall, ReasonLotOfOtherMedicine, ReasonBalanceOverflow),

	// ApproveCommand can also be rejected for what rejects the command that it
	// approves: see inherited.
	KindApproveCommand: reasons(ReasonApprovalNotFound, ReasonApprovalLapsed, ReasonReasonCodeUnknown, ReasonInsufficientStock, ReasonReceiptReversed,
		ReasonCountNotFound, ReasonTransferState, ReasonLotRecalled, ReasonHoldNotFound),
	KindRejectCommand: reasons(ReasonApprovalNotFound),
	KindLapseCommand:  reasons(ReasonApprovalNotFound, ReasonApprovalNotDue),
}

// declared are all outcomes that a command can have.
func declared(kind Kind) []Reason {
	all := reasons(ownReasons[kind], accepted, ReasonInvalidField, ReasonOccurredInFuture, ReasonOccurredTooEarly, ReasonSamePerson)
	if kind != KindCreateClinic {
		all = append(all, ReasonClinicNotFound)
	}
	if kind != KindCreateClinic && kind != KindUpdateClinic {
		all = append(all, ReasonClinicInactive)
	}
	if slices.Contains(reasoned, kind) {
		all = append(all, ReasonReasonCodeUnknown)
	}
	if asksSecondPerson(kind) {
		all = append(all, approvalRequested, ReasonWitnessRequired)
	}
	return all
}

// asksSecondPerson tells whether a policy can ask for a second person by a rule
// about the command. One about CheckDispensing asks for the check itself.
func asksSecondPerson(kind Kind) bool {
	return !slices.Contains(exempt, kind) && kind != KindCheckDispensing
}

// inherited reports whether ApproveCommand may be rejected for a reason because
// a command that can be approved may.
func inherited(kind Kind, reason Reason) bool {
	return kind == KindApproveCommand && slices.ContainsFunc(Kinds(), func(k Kind) bool {
		return !slices.Contains(exempt, k) && slices.Contains(ownReasons[k], reason)
	})
}
