package ledger

import (
	"fmt"
	"maps"
	"slices"
)

// Category groups reasons by what a caller does about them. Each maps to one
// RPC code.
type Category int

// The categories of reasons.
const (
	Invalid       Category = iota + 1 // the request is wrong by itself; mend it
	NotFound                          // it names what the clinic does not have
	AlreadyExists                     // it would make a second one of something unique
	Precondition                      // right in itself, but not in this state
	Conflict                          // the caller acted on an older version
	Forbidden                         // the caller's token does not cover it
)

// Reason is a stable machine-readable cause of a rejection.
type Reason string

// The reasons of every rejection. The catalogue with meaning and remedy is
// [Reasons].
const (
	ReasonInvalidField              Reason = "INVALID_FIELD"
	ReasonQuantityOutOfRange        Reason = "QUANTITY_OUT_OF_RANGE"
	ReasonClinicNotFound            Reason = "CLINIC_NOT_FOUND"
	ReasonClinicExists              Reason = "CLINIC_EXISTS"
	ReasonClinicInactive            Reason = "CLINIC_INACTIVE"
	ReasonClinicHoldsStock          Reason = "CLINIC_HOLDS_STOCK"
	ReasonLocationNotFound          Reason = "LOCATION_NOT_FOUND"
	ReasonLocationExists            Reason = "LOCATION_EXISTS"
	ReasonLocationInactive          Reason = "LOCATION_INACTIVE"
	ReasonLocationHoldsStock        Reason = "LOCATION_HOLDS_STOCK"
	ReasonMedicineNotFound          Reason = "MEDICINE_NOT_FOUND"
	ReasonMedicineExists            Reason = "MEDICINE_EXISTS"
	ReasonMedicineInactive          Reason = "MEDICINE_INACTIVE"
	ReasonMedicineHoldsStock        Reason = "MEDICINE_HOLDS_STOCK"
	ReasonMedicineInUse             Reason = "MEDICINE_IN_USE"
	ReasonLotNotFound               Reason = "LOT_NOT_FOUND"
	ReasonLotExists                 Reason = "LOT_EXISTS"
	ReasonLotInactive               Reason = "LOT_INACTIVE"
	ReasonLotHoldsStock             Reason = "LOT_HOLDS_STOCK"
	ReasonLotExpired                Reason = "LOT_EXPIRED"
	ReasonLotOfOtherMedicine        Reason = "LOT_OF_OTHER_MEDICINE"
	ReasonInsufficientStock         Reason = "INSUFFICIENT_STOCK"
	ReasonBalanceOverflow           Reason = "BALANCE_OVERFLOW"
	ReasonHoldNotFound              Reason = "HOLD_NOT_FOUND"
	ReasonHoldOverdue               Reason = "HOLD_OVERDUE"
	ReasonHoldNotDue                Reason = "HOLD_NOT_DUE"
	ReasonHoldTooSmall              Reason = "HOLD_TOO_SMALL"
	ReasonDeadlinePassed            Reason = "DEADLINE_PASSED"
	ReasonOccurredInFuture          Reason = "OCCURRED_IN_FUTURE"
	ReasonOccurredTooEarly          Reason = "OCCURRED_TOO_EARLY"
	ReasonIdempotencyKeyReused      Reason = "IDEMPOTENCY_KEY_REUSED"
	ReasonEtagMismatch              Reason = "ETAG_MISMATCH"
	ReasonLinkedCommandRejected     Reason = "LINKED_COMMAND_REJECTED"
	ReasonLocationForbidden         Reason = "LOCATION_FORBIDDEN"
	ReasonCommandForbidden          Reason = "COMMAND_FORBIDDEN"
	ReasonLotQuarantined            Reason = "LOT_QUARANTINED"
	ReasonLotRecalled               Reason = "LOT_RECALLED"
	ReasonLotNotBarred              Reason = "LOT_NOT_BARRED"
	ReasonHoldOfTransfer            Reason = "HOLD_OF_TRANSFER"
	ReasonTransferNotFound          Reason = "TRANSFER_NOT_FOUND"
	ReasonTransferState             Reason = "TRANSFER_STATE"
	ReasonTransferOverdue           Reason = "TRANSFER_OVERDUE"
	ReasonTransferEmpty             Reason = "TRANSFER_EMPTY"
	ReasonTransferSurplus           Reason = "TRANSFER_SURPLUS"
	ReasonTransferShort             Reason = "TRANSFER_SHORT"
	ReasonRecallNotFound            Reason = "RECALL_NOT_FOUND"
	ReasonRecallExists              Reason = "RECALL_EXISTS"
	ReasonRecallStep                Reason = "RECALL_STEP"
	ReasonCountNotFound             Reason = "COUNT_NOT_FOUND"
	ReasonCountEmpty                Reason = "COUNT_EMPTY"
	ReasonCountTooLarge             Reason = "COUNT_TOO_LARGE"
	ReasonCountInFuture             Reason = "COUNT_IN_FUTURE"
	ReasonCountEatsHeld             Reason = "COUNT_EATS_HELD"
	ReasonCountIncomplete           Reason = "COUNT_INCOMPLETE"
	ReasonReceiptNotFound           Reason = "RECEIPT_NOT_FOUND"
	ReasonReceiptReversed           Reason = "RECEIPT_REVERSED"
	ReasonExpiryTooLate             Reason = "EXPIRY_TOO_LATE"
	ReasonLoanExists                Reason = "LOAN_EXISTS"
	ReasonLoanNotFound              Reason = "LOAN_NOT_FOUND"
	ReasonLoanTooSmall              Reason = "LOAN_TOO_SMALL"
	ReasonPackNotFound              Reason = "PACK_NOT_FOUND"
	ReasonIdentifierExists          Reason = "IDENTIFIER_EXISTS"
	ReasonIdentifierNotFound        Reason = "IDENTIFIER_NOT_FOUND"
	ReasonScanUnreadable            Reason = "SCAN_UNREADABLE"
	ReasonScanIncomplete            Reason = "SCAN_INCOMPLETE"
	ReasonScanContradictsLot        Reason = "SCAN_CONTRADICTS_LOT"
	ReasonReasonCodeUnknown         Reason = "REASON_CODE_UNKNOWN"
	ReasonWitnessRequired           Reason = "WITNESS_REQUIRED"
	ReasonSamePerson                Reason = "SAME_PERSON"
	ReasonApprovalNotFound          Reason = "APPROVAL_NOT_FOUND"
	ReasonApprovalLapsed            Reason = "APPROVAL_LAPSED"
	ReasonApprovalNotDue            Reason = "APPROVAL_NOT_DUE"
	ReasonCountBeyondTolerance      Reason = "COUNT_BEYOND_TOLERANCE"
	ReasonPrescriptionNotFound      Reason = "PRESCRIPTION_NOT_FOUND"
	ReasonPrescriptionExists        Reason = "PRESCRIPTION_EXISTS"
	ReasonPrescriptionCancelled     Reason = "PRESCRIPTION_CANCELLED"
	ReasonPrescriptionExpired       Reason = "PRESCRIPTION_EXPIRED"
	ReasonPrescriptionExceeded      Reason = "PRESCRIPTION_EXCEEDED"
	ReasonPrescriptionLine          Reason = "PRESCRIPTION_LINE"
	ReasonPrescriptionInPreparation Reason = "PRESCRIPTION_IN_PREPARATION"
	ReasonPrescriptionRequired      Reason = "PRESCRIPTION_REQUIRED"
	ReasonSubstitutionReason        Reason = "SUBSTITUTION_REASON"
	ReasonSubstitutionForbidden     Reason = "SUBSTITUTION_FORBIDDEN"
	ReasonControlQuantityExceeded   Reason = "CONTROL_QUANTITY_EXCEEDED"
	ReasonControlRefillsExceeded    Reason = "CONTROL_REFILLS_EXCEEDED"
	ReasonControlValidityExceeded   Reason = "CONTROL_VALIDITY_EXCEEDED"
	ReasonDispensingNotFound        Reason = "DISPENSING_NOT_FOUND"
	ReasonDispensingState           Reason = "DISPENSING_STATE"
	ReasonDispensingUnchecked       Reason = "DISPENSING_UNCHECKED"
	ReasonDispensingOverdue         Reason = "DISPENSING_OVERDUE"
	ReasonDispensingIncomplete      Reason = "DISPENSING_INCOMPLETE"
	ReasonDispensingReturned        Reason = "DISPENSING_RETURNED"
	ReasonReturnExceeded            Reason = "RETURN_EXCEEDED"
	ReasonPatientNotFound           Reason = "PATIENT_NOT_FOUND"
	ReasonPatientExists             Reason = "PATIENT_EXISTS"
	ReasonPatientErased             Reason = "PATIENT_ERASED"
	ReasonLegalHold                 Reason = "LEGAL_HOLD"
	ReasonNoLegalHold               Reason = "NO_LEGAL_HOLD"
	ReasonTemplateNotFound          Reason = "TEMPLATE_NOT_FOUND"
	ReasonAmountTooLarge            Reason = "AMOUNT_TOO_LARGE"
	ReasonHoldOfPrescription        Reason = "HOLD_OF_PRESCRIPTION"
	ReasonHoldOfDispensing          Reason = "HOLD_OF_DISPENSING"
)

// ReasonInfo documents one reason.
type ReasonInfo struct {
	Reason   Reason
	Category Category
	Meaning  string
	Remedy   string
}

var reasonInfos = indexReasons(
	ReasonInfo{ReasonInvalidField, Invalid, "A field's value is missing or malformed.", "Mend the field that the error names and send the command again."},
	ReasonInfo{ReasonQuantityOutOfRange, Invalid, "A quantity is zero, negative or above 2^53 base units.", "Send a whole number of base units from 1 to 9007199254740992."},
	ReasonInfo{ReasonClinicNotFound, NotFound, "There is no clinic with this id.", "Check the id, or create the clinic with CreateClinic."},
	ReasonInfo{ReasonClinicExists, AlreadyExists, "A clinic with this id exists.", "Choose another id, or use the clinic that exists."},
	ReasonInfo{ReasonClinicInactive, Precondition, "The clinic was deactivated and takes no commands.", "Reactivate it with UpdateClinic (active = true)."},
	ReasonInfo{ReasonClinicHoldsStock, Precondition, "The clinic still holds stock, so it cannot be deactivated.", "Issue or adjust away the stock that the error names first."},
	ReasonInfo{ReasonLocationNotFound, NotFound, "The clinic has no location with this id.", "List the clinic's locations with ListLocations."},
	ReasonInfo{ReasonLocationExists, AlreadyExists, "The clinic has a location with this id or name.", "Use the location that the error names, or choose another id and name."},
	ReasonInfo{ReasonLocationInactive, Precondition, "The location was deactivated.", "Use another location, or reactivate it with UpdateLocation (active = true)."},
	ReasonInfo{ReasonLocationHoldsStock, Precondition, "The location still holds stock, so it cannot be deactivated.", "Issue or adjust away the stock that the error names first."},
	ReasonInfo{ReasonMedicineNotFound, NotFound, "The clinic's formulary has no medicine with this id.", "List the formulary with ListMedicines, or add it with AddMedicine."},
	ReasonInfo{ReasonMedicineExists, AlreadyExists, "The formulary has a medicine with this id, or with this name, strength and form.", "Use the medicine that the error names."},
	ReasonInfo{ReasonMedicineInactive, Precondition, "The medicine was deactivated.", "Reactivate it with UpdateMedicine (active = true)."},
	ReasonInfo{ReasonMedicineHoldsStock, Precondition, "Stock of the medicine remains, so it cannot be deactivated.", "Issue or adjust away the stock that the error names first."},
	ReasonInfo{ReasonMedicineInUse, Precondition, "The base unit is fixed once a lot of the medicine is registered.", "Add a new medicine with the other base unit and deactivate this one."},
	ReasonInfo{ReasonLotNotFound, NotFound, "The clinic has no lot with this id.", "List lots with ListLots, or register it with RegisterLot."},
	ReasonInfo{ReasonLotExists, AlreadyExists, "The clinic has this lot: the same id, or the same medicine, manufacturer or GTIN, and lot number.", "Use the lot that the error names."},
	ReasonInfo{ReasonLotInactive, Precondition, "The lot was deactivated.", "Use another lot, or reactivate it with UpdateLot (active = true)."},
	ReasonInfo{ReasonLotHoldsStock, Precondition, "Stock of the lot remains, so it cannot be deactivated.", "Issue or adjust away the stock that the error names first."},
	ReasonInfo{ReasonLotExpired, Precondition, "The lot's last usable day has passed in the clinic's time zone.", "Use another lot; correct the expiry with UpdateLot if it was entered wrong."},
	ReasonInfo{ReasonLotOfOtherMedicine, Invalid, "The lot belongs to another medicine than the command names.", "Name a lot of this medicine, or the lot's own medicine."},
	ReasonInfo{ReasonInsufficientStock, Precondition, "Fewer units are available than the command needs.", "Ask for no more than is available, release a hold, or receive stock."},
	ReasonInfo{ReasonBalanceOverflow, Precondition, "The balance would exceed 2^53 base units.", "Check the quantity; no shelf holds that much."},
	ReasonInfo{ReasonHoldNotFound, NotFound, "No open hold has this id: it was never made in this clinic, or it was released, issued or expired.", "List open holds with ListHolds, or reserve again."},
	ReasonInfo{ReasonHoldOverdue, Precondition, "The hold's deadline has passed, so it can no longer be issued.", "Reserve again, or release the hold."},
	ReasonInfo{ReasonHoldNotDue, Precondition, "The hold's deadline has not passed.", "Use ReleaseStock to give up a hold before its deadline."},
	ReasonInfo{ReasonHoldTooSmall, Precondition, "The hold has fewer units left than the command names.", "Name at most what is left, or leave the quantity out to take all of it."},
	ReasonInfo{ReasonDeadlinePassed, Invalid, "The deadline is not in the future.", "Send a deadline after the present."},
	ReasonInfo{ReasonOccurredInFuture, Invalid, "occurred_at lies in the future.", "Leave occurred_at out, or send when it happened; check the sender's clock."},
	ReasonInfo{ReasonOccurredTooEarly, Precondition, "occurred_at lies before the clinic's window for backdating.", "Record it with a later occurred_at; or give a late_reason_code, with a token that permits command.backdate; or widen the window with UpdateClinic."},
	ReasonInfo{ReasonIdempotencyKeyReused, AlreadyExists, "The idempotency key was used for another command, or by another actor.", "Use a new key for a new command; repeat a key only with the same body and actor."},
	ReasonInfo{ReasonEtagMismatch, Conflict, "It was changed since the caller read it.", "Read it again and send the update with its new etag."},
	ReasonInfo{ReasonCommandForbidden, Forbidden, "The caller decides on another person's command which their own token does not permit.", "Use a token that permits both command.approve and the command itself."},
	ReasonInfo{ReasonLocationForbidden, Forbidden, "The caller's token does not name the location whose stock the command would move.", "Use a token that names the location."},
	ReasonInfo{ReasonLotQuarantined, Precondition, "The lot is in quarantine and may be neither reserved for issue nor issued.", "Use another lot, or release this one with ReleaseLot."},
	ReasonInfo{ReasonLotRecalled, Precondition, "The lot is recalled and may be neither reserved for issue nor issued.", "Use another lot; a recall ends with LiftRecall."},
	ReasonInfo{ReasonLotNotBarred, Precondition, "The lot is not in quarantine as a whole.", "Name the location to release units that lie in quarantine there."},
	ReasonInfo{ReasonHoldOfTransfer, Precondition, "The hold belongs to a transfer and goes with it.", "Dispatch or cancel the transfer that the error names."},
	ReasonInfo{ReasonTransferNotFound, NotFound, "No open transfer has this id: it was never asked for in this clinic, or it was completed, rejected or cancelled.", "List transfers with ListTransfers."},
	ReasonInfo{ReasonTransferState, Precondition, "The transfer is in a state in which this cannot be done.", "Look at the transfer with GetTransfer; the error names its status."},
	ReasonInfo{ReasonTransferOverdue, Precondition, "The transfer should have set out before, and its holds may be given up.", "Cancel it and ask for a new one."},
	ReasonInfo{ReasonTransferEmpty, Precondition, "Nothing is reserved for the transfer any more: its lots were recalled.", "Cancel it and ask for a new one."},
	ReasonInfo{ReasonTransferSurplus, Precondition, "More of a lot arrived than is under way in the transfer.", "Count again; if it is so, give a reason_code, and the surplus is taken from variance."},
	ReasonInfo{ReasonTransferShort, Precondition, "Units of the transfer are still under way.", "Receive them; if they are lost, give a reason_code, and they go to variance."},
	ReasonInfo{ReasonRecallNotFound, NotFound, "No open recall has this id: it was never begun in this clinic, or it was lifted.", "List recalls with ListRecalls."},
	ReasonInfo{ReasonRecallExists, AlreadyExists, "An open recall names the same lot number of the same maker.", "Use the recall that the error names."},
	ReasonInfo{ReasonRecallStep, Conflict, "The recall's follow-up is at another step.", "Go on with the step that the error names."},
	ReasonInfo{ReasonCountNotFound, NotFound, "No open count has this id: it was never begun in this clinic, or it has ended.", "List counts with ListCounts, or start one."},
	ReasonInfo{ReasonCountEmpty, Precondition, "The location holds nothing of what is to be counted.", "Record what is found there with RecordCount and the location_id, without a count session."},
	ReasonInfo{ReasonCountTooLarge, Precondition, "The location holds more lots than one count session takes.", "Name the medicines to count, and count the location in several sessions."},
	ReasonInfo{ReasonCountInFuture, Invalid, "A line names a sequence that the clinic's journal does not have yet.", "Send the sequence of the as_of of the answer that was read while counting, or leave it out to count against now."},
	ReasonInfo{ReasonCountEatsHeld, Precondition, "So many units are missing that promised ones must be among them.", "Release the holds and requests that the error names, then record the count again."},
	ReasonInfo{ReasonCountIncomplete, Precondition, "Lots of the count were not counted, or must be counted again.", "Count them; to end the count all the same, give a reason_code."},
	ReasonInfo{ReasonReceiptNotFound, NotFound, "No ReceiveStock of the clinic has this sequence.", "Find the receipt's sequence with ListMovements."},
	ReasonInfo{ReasonReceiptReversed, Precondition, "Less of the receipt is left to be reversed than the command names.", "Name at most what is left, or leave the quantity out to reverse all of it."},
	ReasonInfo{ReasonExpiryTooLate, Precondition, "What is made cannot last longer than what it is made from.", "Send an expiry that is not after that of any input."},
	ReasonInfo{ReasonLoanExists, AlreadyExists, "An open loan has this reference.", "Choose another reference; it is shared by both clinics."},
	ReasonInfo{ReasonLoanNotFound, NotFound, "No open loan with this clinic has this reference.", "List loans with ListLoans."},
	ReasonInfo{ReasonLoanTooSmall, Precondition, "Less of the loan is left to be repaid than the command names.", "Repay at most what is left."},
	ReasonInfo{ReasonPackNotFound, NotFound, "The medicine has no such pack, so the quantity cannot be converted exactly.", "Define the pack with SetPacks, or send base units."},
	ReasonInfo{ReasonIdentifierExists, AlreadyExists, "This identifier names something else already.", "Remove it there first: with RemoveIdentifier, or a patient's with UpdatePatient."},
	ReasonInfo{ReasonIdentifierNotFound, NotFound, "Nothing of the clinic has this identifier.", "Add it with AddIdentifier, or use the id."},
	ReasonInfo{ReasonScanUnreadable, Invalid, "What was scanned is not a GS1 element string that the ledger reads.", "Scan the pack again; the message says what is wrong and where."},
	ReasonInfo{ReasonScanIncomplete, Invalid, "The scan lacks what is needed to find the lot.", "Scan the pack's DataMatrix, or name the lot by its id."},
	ReasonInfo{ReasonScanContradictsLot, Precondition, "The expiry on the pack is another one than the lot's.", "Compare pack and lot; correct the lot with UpdateLot if it was entered wrong."},
	ReasonInfo{ReasonReasonCodeUnknown, Precondition, "The clinic's policy does not know this reason code for this command.", "Use one of the codes that the error names, or add it with SetPolicy."},
	ReasonInfo{ReasonWitnessRequired, Precondition, "The clinic's policy wants a second person to stand by.", "Send the command again with the witness's own token in witness_token."},
	ReasonInfo{ReasonSamePerson, Forbidden, "One person cannot be both who gives a command and its second person.", "Have somebody else witness, approve or reject it."},
	ReasonInfo{ReasonApprovalNotFound, NotFound, "No open request has this id: it was never made in this clinic, or it was decided.", "List requests with ListApprovals."},
	ReasonInfo{ReasonApprovalLapsed, Precondition, "The request's time has run out.", "Give the command again; LapseCommand puts the units back that the request holds."},
	ReasonInfo{ReasonApprovalNotDue, Precondition, "The request's time has not run out.", "Reject or withdraw it with RejectCommand."},
	ReasonInfo{ReasonCountBeyondTolerance, Precondition, "A count that was taken during a downtime differs from the books by more than the clinic tolerates. It was recorded all the same.", "Somebody else looks at it: ApproveCommand confirms it, RejectCommand says that it needs a correction."},
	ReasonInfo{ReasonPrescriptionNotFound, NotFound, "The clinic has no prescription with this id or identifier.", "List prescriptions with ListPrescriptions."},
	ReasonInfo{ReasonPrescriptionExists, AlreadyExists, "A prescription with this identifier exists.", "Use the prescription that the error names."},
	ReasonInfo{ReasonPrescriptionCancelled, Precondition, "The prescription was cancelled.", "Ask the prescriber for a new one."},
	ReasonInfo{ReasonPrescriptionExpired, Precondition, "The prescription's last valid day has passed in the clinic's time zone.", "Ask the prescriber for a new one."},
	ReasonInfo{ReasonPrescriptionExceeded, Precondition, "More would be dispensed than was prescribed, refills included.", "Dispense at most what the error says is left, or ask the prescriber for a new prescription."},
	ReasonInfo{ReasonPrescriptionLine, Invalid, "The prescription has no such line, or several and none is named.", "Name one of the prescription's lines; they count from 1."},
	ReasonInfo{ReasonPrescriptionInPreparation, Precondition, "Medicines lie ready for the prescription.", "Hand them over or cancel them with CancelDispensing first."},
	ReasonInfo{ReasonPrescriptionRequired, Precondition, "The medicine's control class is never sold over the counter.", "Dispense it against a prescription."},
	ReasonInfo{ReasonSubstitutionReason, Invalid, "Another medicine than the prescribed one is given, without a reason.", "Give a substitution_reason, or the prescribed medicine."},
	ReasonInfo{ReasonSubstitutionForbidden, Precondition, "The prescriber allows no other medicine.", "Give the prescribed medicine, or ask the prescriber for a new prescription."},
	ReasonInfo{ReasonControlQuantityExceeded, Precondition, "The quantity exceeds what the control class allows at a time.", "Dispense no more than the error names."},
	ReasonInfo{ReasonControlRefillsExceeded, Precondition, "The control class allows fewer refills.", "Prescribe no more refills than the error names."},
	ReasonInfo{ReasonControlValidityExceeded, Precondition, "Prescriptions of the control class are not valid for so long.", "Send an earlier valid_until."},
	ReasonInfo{ReasonDispensingNotFound, NotFound, "The clinic has no dispensing with this id.", "Find it with ListDispensings."},
	ReasonInfo{ReasonDispensingState, Precondition, "The dispensing is in a state in which this cannot be done.", "Look at it with GetDispensing; the error names its status."},
	ReasonInfo{ReasonDispensingUnchecked, Precondition, "The clinic's policy wants another person to check what lies ready before it is handed over.", "Have another person check it with CheckDispensing."},
	ReasonInfo{ReasonDispensingOverdue, Precondition, "It was to be collected before, and its units may be back on the shelf.", "Cancel it with CancelDispensing and prepare it again."},
	ReasonInfo{ReasonDispensingIncomplete, Precondition, "What lay ready is not all there any more: a lot was recalled or has expired.", "Cancel it with CancelDispensing and prepare it again."},
	ReasonInfo{ReasonDispensingReturned, Precondition, "The patient brought units of it back already.", "Take the rest back with ReturnFromPatient."},
	ReasonInfo{ReasonReturnExceeded, Precondition, "More would come back than the patient was given of the lot.", "Return at most what the error says is left."},
	ReasonInfo{ReasonPatientNotFound, NotFound, "The clinic has no patient with this token.", "Register the patient with RegisterPatient."},
	ReasonInfo{ReasonPatientExists, AlreadyExists, "The token is taken.", "Send the command again with another idempotency key."},
	ReasonInfo{ReasonPatientErased, Precondition, "The patient was erased; nothing is kept of the person any more.", "Register the patient anew where treatment goes on."},
	ReasonInfo{ReasonLegalHold, Precondition, "The patient is under legal hold.", "Lift the hold with LiftLegalHold first."},
	ReasonInfo{ReasonNoLegalHold, Precondition, "The patient is under no legal hold.", "Nothing is to be done."},
	ReasonInfo{ReasonTemplateNotFound, NotFound, "The clinic has no template with this id.", "List templates with ListPrescriptionTemplates."},
	ReasonInfo{ReasonAmountTooLarge, Precondition, "What it costs exceeds 2^53 minor units.", "Check the quantity and the price; correct the price with SetPrice."},
	ReasonInfo{ReasonHoldOfPrescription, Precondition, "The hold belongs to a prescription.", "Dispense against the prescription that the error names, or cancel it."},
	ReasonInfo{ReasonHoldOfDispensing, Precondition, "The hold belongs to a dispensing that lies ready.", "Hand over or cancel the dispensing that the error names."},
	ReasonInfo{ReasonLinkedCommandRejected, Precondition, "Another command of the linked batch was rejected, so none was carried out.", "Mend the command that was rejected and send the batch again."},
)

func indexReasons(infos ...ReasonInfo) map[Reason]ReasonInfo {
	index := make(map[Reason]ReasonInfo, len(infos))
	for _, info := range infos {
		index[info.Reason] = info
	}
	return index
}

// Reasons returns the catalogue, sorted by reason.
func Reasons() []ReasonInfo {
	return slices.SortedFunc(maps.Values(reasonInfos), func(a, b ReasonInfo) int {
		if a.Reason < b.Reason {
			return -1
		}
		return 1
	})
}

// Info returns the catalogue's entry for r.
func (r Reason) Info() ReasonInfo { return reasonInfos[r] }

// Rejection says why a command was not carried out. It changed nothing.
type Rejection struct {
	Reason   Reason
	Field    string            // the command's field at fault, in the spelling of the API; may be empty
	Message  string            // for people: what is wrong, with the values
	Metadata map[string]string // the same facts for programs

	short shortfall
}

// shortfall is how many available units a shelf would have to have more, at
// least, for a command to be accepted.
type shortfall struct {
	shelf Shelf
	units int64
}

// Error returns the message with the reason's remedy.
func (r *Rejection) Error() string {
	return r.Message + " " + r.Reason.Info().Remedy
}

func reject(reason Reason, field, format string, args ...any) *Rejection {
	return &Rejection{Reason: reason, Field: field, Message: fmt.Sprintf(format, args...)}
}

// with adds metadata as key, value, key, value …
func (r *Rejection) with(pairs ...any) *Rejection {
	if r.Metadata == nil {
		r.Metadata = make(map[string]string, len(pairs)/2)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		r.Metadata[fmt.Sprint(pairs[i])] = fmt.Sprint(pairs[i+1])
	}
	return r
}
