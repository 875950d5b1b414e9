package ledger

import "slices"

// eventNames are what subscribers know events by. They never change.
var eventNames = map[Kind]string{
	KindCreateClinic: "ClinicCreated", KindUpdateClinic: "ClinicUpdated", KindDeactivateClinic: "ClinicDeactivated",
	KindCreateLocation: "LocationCreated", KindUpdateLocation: "LocationUpdated", KindDeactivateLocation: "LocationDeactivated",
	KindAddMedicine: "MedicineAdded", KindUpdateMedicine: "MedicineUpdated", KindDeactivateMedicine: "MedicineDeactivated",
	KindRegisterLot: "LotRegistered", KindUpdateLot: "LotUpdated", KindDeactivateLot: "LotDeactivated",
	KindSetPacks: "PacksSet", KindAddIdentifier: "IdentifierAdded", KindRemoveIdentifier: "IdentifierRemoved",
	KindSetPolicy: "PolicySet", KindUpdateStockLevels: "StockLevelsUpdated", KindSetPrice: "PriceSet", KindSetControlLimit: "ControlLimitSet",

	KindReceiveStock: "StockReceived", KindReverseReceipt: "ReceiptReversed", KindReserveStock: "StockReserved",
	KindReleaseStock: "StockReleased", KindExpireReservation: "ReservationExpired", KindIssueStock: "StockIssued",
	KindAdjustStock: "StockAdjusted", KindWriteOffStock: "StockWrittenOff", KindReturnToSupplier: "StockReturnedToSupplier",
	KindStartCount: "CountStarted", KindRecordCount: "CountRecorded", KindCompleteCount: "CountCompleted", KindCancelCount: "CountCancelled",
	KindConvertStock: "StockConverted", KindOpenContainer: "ContainerOpened",

	KindQuarantineLot: "LotQuarantined", KindReleaseLot: "LotReleased", KindRecallLot: "LotRecalled",
	KindContinueRecall: "RecallContinued", KindLiftRecall: "RecallLifted",

	KindTransferStock: "TransferRequested", KindApproveTransfer: "TransferApproved", KindRejectTransfer: "TransferRejected",
	KindCancelTransfer: "TransferCancelled", KindDispatchTransfer: "TransferDispatched", KindReceiveTransfer: "StockTransferred",
	KindCompleteTransfer: "TransferCompleted",
	KindLendStock:        "StockLent", KindBorrowStock: "StockBorrowed", KindRepayLoan: "LoanRepaid", KindReceiveRepayment: "RepaymentReceived",

	KindRequestApproval: "ApprovalRequested", KindApproveCommand: "CommandApproved", KindRejectCommand: "CommandRejected", KindLapseCommand: "CommandLapsed",

	KindCreatePrescription: "PrescriptionCreated", KindCancelPrescription: "PrescriptionCancelled",
	KindDispenseMedicine: "MedicineDispensed", KindPrepareDispensing: "DispensingPrepared", KindCheckDispensing: "DispensingChecked",
	KindHandOver: "MedicineHandedOver", KindCancelDispensing: "DispensingCancelled", KindReturnFromPatient: "MedicineReturned",
	KindRecordDowntime: "DowntimeRecorded", KindSetPrescriptionTemplate: "PrescriptionTemplateSet", KindRemovePrescriptionTemplate: "PrescriptionTemplateRemoved",

	KindRegisterPatient: "PatientRegistered", KindUpdatePatient: "PatientUpdated", KindErasePatient: "PatientErased",
	KindPlaceLegalHold: "LegalHoldPlaced", KindLiftLegalHold: "LegalHoldLifted",
}

// EventName is what subscribers know the event of a command by, for example
// StockReserved. It is empty for a kind that this release does not know.
func (k Kind) EventName() string { return eventNames[k] }

// EventNames lists all names, in the order of the alphabet.
func EventNames() []string {
	names := make([]string, 0, len(eventNames))
	for _, name := range eventNames {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Names are what an event is known by: its own name and, where it approved a
// command, that of what the command came to.
func (e Event) Names() []string {
	names := []string{e.Kind().EventName()}
	if change, ok := e.Body.(*Change); ok && change.Approved != nil {
		names = append(names, change.ApprovedKind().EventName())
	}
	return names
}

// Subjects returns the locations and medicines that an event is about: those
// whose stock it moves, and those that it names. Both are empty for what
// concerns the clinic as a whole.
func (e Event) Subjects() (locations []LocationID, medicines []MedicineID) {
	location := func(id LocationID) {
		if id != "" && !slices.Contains(locations, id) {
			locations = append(locations, id)
		}
	}
	medicine := func(id MedicineID) {
		if id != "" && !slices.Contains(medicines, id) {
			medicines = append(medicines, id)
		}
	}
	if b, ok := e.Body.(mover); ok {
		for _, move := range b.moves() {
			location(move.Location)
			medicine(move.Medicine)
		}
	}
	subjectsOf(e.Body, location, medicine)
	return locations, medicines
}

func subjectsOf(body EventBody, location func(LocationID), medicine func(MedicineID)) {
	switch b := body.(type) {
	case *LocationCreated:
		location(b.LocationID)
	case *LocationUpdated:
		location(b.LocationID)
	case *LocationDeactivated:
		location(b.LocationID)
	case *MedicineAdded:
		medicine(b.MedicineID)
	case *MedicineUpdated:
		medicine(b.MedicineID)
	case *MedicineDeactivated:
		medicine(b.MedicineID)
	case *LotRegistered:
		medicine(b.MedicineID)
	case *Change:
		for _, lot := range b.Lots {
			medicine(lot.Medicine)
		}
		for _, document := range b.Documents {
			about := document.About()
			location(about.Location)
			location(about.OtherLocation)
			documentMedicines(document, medicine)
		}
		if b.Approved != nil {
			subjectsOf(b.Approved, location, medicine)
		}
	}
}

func documentMedicines(document DocumentBody, medicine func(MedicineID)) {
	switch d := document.(type) {
	case *Transfer:
		for _, line := range d.Lines {
			medicine(line.Medicine)
		}
	case *Count:
		for _, line := range d.Lines {
			medicine(line.Medicine)
		}
	case *Level:
		medicine(d.Medicine)
	case *Packs:
		medicine(d.MedicineID)
	case *Prices:
		medicine(d.MedicineID)
	case *Loan:
		medicine(d.Medicine)
	case *Prescription:
		for _, line := range d.Lines {
			medicine(line.Medicine)
		}
	case *Dispensing:
		medicine(d.Medicine)
	case *Downtime:
		medicine(d.Medicine)
	}
}
