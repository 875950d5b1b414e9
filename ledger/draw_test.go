package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// drawCommand makes a random command of any kind, good or bad, for anybody.
func drawCommand(c chooser, w *world) Command {
	command := w.command(drawBody(c, w))
	command.Actor = pick(c, "actor", []Actor{"amina", "amina", "brian", "chidi"})
	command.Witness = pick(c, "witness", []Actor{"", "", "", "", "brian", "chidi", "dalia", "dalia"})
	switch c.int("occurred", 0, 30) {
	case 0:
		command.OccurredAt = w.now + 1
	case 1, 2:
		command.OccurredAt = w.now - testDay
	case 3:
		command.OccurredAt = w.now - 9*testDay
	case 4:
		command.OccurredAt, command.LateReasonCode = w.now-9*testDay, "OUTAGE"
	}
	return command
}

// stocking are kinds that a clinic gives often. Without them a walk would have
// little to move.
var stocking = []Kind{
	KindReceiveStock, KindReceiveStock, KindReceiveStock, KindReserveStock, KindReserveStock, KindIssueStock,
	KindTransferStock, KindTransferStock, KindTransferStock, KindTransferStock, KindRecordCount, KindRecordCount,
	KindContinueRecall, KindLendStock, KindBorrowStock, KindSetPolicy, KindOpenContainer,
}

func drawBody(c chooser, w *world) CommandBody {
	kind := pick(c, "kind", append(Kinds(), stocking...))
	// What others wait for is done more often than not.
	if open := openOnes(w); len(open) > 0 && c.int("go on", 0, 2) == 0 {
		kind = pick(c, "next", open)
	}
	return drawings[kind](c, w)
}

// openOnes are the kinds of commands that a transfer, request or loan waits for.
func openOnes(w *world) []Kind {
	var open []Kind
	for _, kind := range []DocumentKind{DocumentTransfer, DocumentApproval, DocumentLoan} {
		for _, id := range w.documents[kind] {
			found, ok := w.state.documents[DocumentKey{kind, id}]
			if !ok {
				continue
			}
			switch d := found.Body.(type) {
			case *Transfer:
				next := map[TransferStatus]Kind{
					TransferRequested: KindApproveTransfer, TransferApproved: KindDispatchTransfer,
					TransferInTransit: KindReceiveTransfer, TransferReceived: KindCompleteTransfer,
				}
				open = appendNew(open, next[d.Status])
			case *Approval:
				open = appendNew(open, KindApproveCommand)
			case *Loan:
				open = appendNew(open, map[LoanDirection]Kind{LoanLent: KindReceiveRepayment, LoanBorrowed: KindRepayLoan}[d.Direction])
			}
		}
	}
	return open
}

// drawings make a random body of each kind.
var drawings map[Kind]func(chooser, *world) CommandBody

func init() {
	drawings = make(map[Kind]func(chooser, *world) CommandBody)
	for _, group := range []map[Kind]func(chooser, *world) CommandBody{
		drawCatalog, drawDeactivations, drawNames, drawRules, drawStock, drawTakes, drawCounts, drawLots, drawTransfers, drawLoans, drawSeconds, pharmacyDrawings,
	} {
		for kind, draw := range group {
			drawings[kind] = draw
		}
	}
}

// mostly picks something good, and now and then something else.
func mostly[T any](c chooser, label string, good, other []T) T {
	if c.int(label+" is odd", 0, 14) == 0 {
		return pick(c, "odd "+label, other)
	}
	return pick(c, label, good)
}

func location(c chooser) LocationID {
	return mostly(c, "location", []LocationID{"store", "store", "store", "ward", "ward", "erp|S"}, []LocationID{"attic", "erp|X"})
}

func medicine(c chooser) MedicineID {
	return mostly(c, "medicine",
		[]MedicineID{"zinc", "zinc", "morphine", "morphine", "amoxicillin", "erp|Z", "gtin|" + gtinBox, "gs1|(01)" + gtinBox, "gs1|(01)" + gtinBox + "(10)M1"},
		[]MedicineID{"gold", "gs1|(10)M1", "gs1|?", "gs1|(01)" + gtinCase + "(10)M9"})
}

func lot(c chooser, w *world) LotID {
	if len(w.lots) > 0 && c.int("any lot", 0, 3) == 0 {
		return pick(c, "lot", w.lots)
	}
	return mostly(c, "known lot",
		[]LotID{"amoxicillin-2", "zinc-1", "zinc-2", "morphine-0", "morphine-1", "morphine-2", "erp|Z2", LotID("gs1|(01)" + gtinBox + "(10)M1(17)" + yymmdd(today+30))},
		[]LotID{"gold-0", "zinc-0", "gs1|(01)" + gtinCase + "(10)M1", "gs1|(01)" + gtinBox + "(10)M2(17)270301", "gs1|(10)M1", "gs1|(01)1", "gs1|(02)" + gtinBox + "(37)2(10)M2"})
}

func yymmdd(d Date) string { return strings.ReplaceAll(d.String()[2:], "-", "") }

func quantity(c chooser) int64 {
	if c.int("quantity is odd", 0, 30) == 0 {
		return pick(c, "odd quantity", []int64{-1, 0, MaxQuantity, MaxQuantity + 1})
	}
	return int64(c.int("quantity", 1, 25))
}

func quantityOrAll(c chooser) int64 { return pick(c, "part", []int64{0, quantity(c)}) }

func pack(c chooser) string {
	return mostly(c, "pack", []string{""}, []string{"box", "BOX", "case", "barrel"})
}

func reasonCode(c chooser) string {
	return mostly(c, "reason", []string{"ward", "ward", "found", "broken"}, []string{"", "", "two words"})
}

func reference(c chooser) string {
	return mostly(c, "reference", []string{"", "DN-1"}, []string{"a b"})
}

func etag(c chooser, w *world) string {
	return mostly(c, "etag", []string{""}, []string{"0", "1", Etag(w.state.head.Sequence)})
}

func deadline(c chooser, w *world) Instant {
	return w.now + Instant(pick(c, "deadline", []int{-1, 1, 2, 4, 8, 8, 20, 20, 40, 40}))*testDay/4
}

func day(c chooser) Date { return today + Date(pick(c, "day", []int{-2, 1, 7, 20, 40, 300, 400})) }

func flip(c chooser, label string) bool { return c.int(label, 0, 1) == 1 }

// some draws from one to three of something.
func some[T any](c chooser, label string, draw func() T) []T {
	list := make([]T, c.int(label, 1, 3))
	for i := range list {
		list[i] = draw()
	}
	return list
}

func called(c chooser) string {
	return mostly(c, "name", []string{"a", "b", "B", "c", "d"}, []string{"store", "zinc", "", "con\x00trol"})
}

var drawCatalog = map[Kind]func(chooser, *world) CommandBody{
	KindCreateClinic: func(c chooser, _ *world) CommandBody {
		return &CreateClinic{Name: called(c), TimeZone: pick(c, "zone", []string{"UTC", "Mars/Olympus"})}
	},
	KindUpdateClinic: func(c chooser, w *world) CommandBody {
		b := &UpdateClinic{Etag: etag(c, w), Name: ptr(called(c)), Active: ptr(c.int("active", 0, 5) > 0)}
		if flip(c, "zone too") {
			b.TimeZone, b.BackdatingDays = ptr(pick(c, "zone", []string{"UTC", "Local"})), ptr(int64(c.int("window", 0, 4)))
		}
		return b
	},
	KindCreateLocation: func(c chooser, _ *world) CommandBody {
		return &CreateLocation{LocationID: pick(c, "id", []LocationID{"", "", "ward", "annex", "a|b"}), Name: called(c), LocationKind: Ward}
	},
	KindUpdateLocation: func(c chooser, w *world) CommandBody {
		return &UpdateLocation{LocationID: location(c), Etag: etag(c, w), Name: ptr(called(c)), Active: ptr(flip(c, "active"))}
	},
	KindAddMedicine: func(c chooser, _ *world) CommandBody {
		return &AddMedicine{MedicineID: pick(c, "id", []MedicineID{"", "", "gold", "zinc"}), Name: called(c), BaseUnit: "ml", ControlClass: class(c)}
	},
	KindUpdateMedicine: func(c chooser, w *world) CommandBody {
		b := &UpdateMedicine{MedicineID: medicine(c), Etag: etag(c, w), Active: ptr(c.int("active", 0, 3) > 0), ControlClass: ptr(class(c))}
		if flip(c, "name too") {
			b.Name, b.BaseUnit = ptr(called(c)), ptr(pick(c, "unit", []string{"tablet", "ml"}))
		}
		return b
	},
	KindRegisterLot: func(c chooser, _ *world) CommandBody {
		return &RegisterLot{
			LotID: pick(c, "id", []LotID{"", "", "zinc-1", "new"}), MedicineID: medicine(c), Manufacturer: pick(c, "maker", []string{"Acme", "acme", ""}),
			GTIN: pick(c, "gtin", []string{"", "", gtinBox, gtinVial, "123"}), LotNumber: pick(c, "number", []string{"M1", "zinc-1", "N1", "N2"}), Expiry: day(c),
		}
	},
	KindUpdateLot: func(c chooser, w *world) CommandBody {
		b := &UpdateLot{LotID: lot(c, w), Etag: etag(c, w)}
		switch c.int("what", 0, 3) {
		case 0:
			b.Expiry = ptr(day(c))
		case 1:
			b.Active = ptr(flip(c, "active"))
		case 2:
			b.LotNumber = ptr(pick(c, "number", []string{"M1", "zinc-1", "N1", "N2"}))
		case 3:
			b.Manufacturer, b.GTIN = ptr(pick(c, "maker", []string{"Acme", "Bolt", ""})), ptr(pick(c, "gtin", []string{"", gtinBox, gtinVial}))
		}
		return b
	},
}

func class(c chooser) string {
	return mostly(c, "class", []string{"", "", "schedule-2"}, []string{"no code"})
}

var drawDeactivations = map[Kind]func(chooser, *world) CommandBody{
	KindDeactivateClinic: func(c chooser, w *world) CommandBody {
		return &DeactivateClinic{Etag: etag(c, w), ReasonCode: reasonCode(c)}
	},
	KindDeactivateLocation: func(c chooser, w *world) CommandBody {
		return &DeactivateLocation{LocationID: location(c), Etag: etag(c, w), ReasonCode: reasonCode(c)}
	},
	KindDeactivateMedicine: func(c chooser, w *world) CommandBody {
		return &DeactivateMedicine{MedicineID: medicine(c), Etag: etag(c, w), ReasonCode: reasonCode(c)}
	},
	KindDeactivateLot: func(c chooser, w *world) CommandBody {
		return &DeactivateLot{LotID: lot(c, w), Etag: etag(c, w), ReasonCode: reasonCode(c)}
	},
}

var drawNames = map[Kind]func(chooser, *world) CommandBody{
	KindSetPacks: func(c chooser, w *world) CommandBody {
		packs := []Pack{{"box", int64(pick(c, "factor", []int{10, 10, 7, 0})), gtinBox}, {"case", 100, gtinCase}}
		if c.int("another pack", 0, 2) == 0 {
			packs = some(c, "packs", func() Pack {
				return Pack{pick(c, "name", []string{"box", "vial", "Box", ""}), int64(c.int("factor", 0, 9)), pick(c, "gtin", []string{"", gtinBox, gtinVial})}
			})
		}
		return &SetPacks{MedicineID: medicine(c), Packs: packs, Etag: etag(c, w)}
	},
	KindAddIdentifier: func(c chooser, w *world) CommandBody {
		subject, id := subjectOf(c, w)
		return &AddIdentifier{Subject: subject, SubjectID: id, System: system(c), Value: value(c)}
	},
	KindRemoveIdentifier: func(c chooser, w *world) CommandBody {
		subject, _ := subjectOf(c, w)
		return &RemoveIdentifier{Subject: subject, System: system(c), Value: value(c), ReasonCode: reasonCode(c)}
	},
}

func subjectOf(c chooser, w *world) (IdentifierSubject, string) {
	subject := IdentifierSubject(c.int("subject", 0, 4))
	switch subject {
	case SubjectMedicine:
		return subject, string(medicine(c))
	case SubjectLot:
		return subject, string(lot(c, w))
	case SubjectLocation:
		return subject, string(location(c))
	}
	return subject, pick(c, "supplier", []string{"Acme", "Bolt", "erp|A", "erp|?"})
}

func system(c chooser) string {
	return mostly(c, "system", []string{"erp", "erp", "gtin"}, []string{"gs1", "n c"})
}

func value(c chooser) string {
	return pick(c, "value", []string{"S", "Z", "Z2", "A", "new", gtinVial, gtinVial[1:], "a|b"})
}

// ruled are the commands that a rule can be about.
var ruled = slices.DeleteFunc(slices.Concat(Kinds(), stocking, stocking), func(k Kind) bool { return slices.Contains(exempt, k) })

var drawRules = map[Kind]func(chooser, *world) CommandBody{
	KindSetPolicy: func(c chooser, w *world) CommandBody {
		b := &SetPolicy{Etag: etag(c, w)}
		b.ApprovalHours = int64(c.int("hours", 0, 40))
		if c.int("lax", 0, 2) == 0 {
			return b
		}
		b.Rules = some(c, "rules", func() Rule {
			return Rule{
				ControlClass: mostly(c, "class", []string{"", "schedule-2", "*", "*"}, []string{"no code"}),
				Command:      mostly(c, "command", ruled, Kinds()), Above: mostly(c, "above", []int64{0, 0, 10}, []int64{-1}),
				Requires: mostly(c, "requires", []Requirement{RequireReview, RequireWitness, RequireApprovalBefore, RequireApprovalBefore}, []Requirement{RequireNothing, 4}),
			}
		})
		if c.int("codes", 0, 3) == 0 {
			b.ReasonCodes = []ReasonCodes{{mostly(c, "listed", reasoned, Kinds()), []string{"ward", "OVERDUE"}}}
		}
		b.ToleranceUnits, b.ToleranceBasisPoints = int64(c.int("tolerance", 0, 9)), mostly(c, "points", []int64{0, 500}, []int64{20_000})
		b.CountApproval, b.Recount = flip(c, "approve counts"), flip(c, "recount")
		return b
	},
	KindUpdateStockLevels: func(c chooser, w *world) CommandBody {
		low := int64(c.int("min", -1, 20))
		return &UpdateStockLevels{LocationID: location(c), MedicineID: medicine(c), Min: low, Max: int64(c.int("max", 0, 60)), Reorder: low + int64(c.int("reorder", -1, 10)), Etag: etag(c, w)}
	},
}

var drawStock = map[Kind]func(chooser, *world) CommandBody{
	KindReceiveStock: func(c chooser, w *world) CommandBody {
		supplier := mostly(c, "supplier", []string{"Acme", "", "erp|A"}, []string{"erp|?"})
		return &ReceiveStock{LocationID: location(c), LotID: lot(c, w), Quantity: quantity(c), Supplier: supplier, Reference: reference(c), Pack: pack(c)}
	},
	KindReverseReceipt: func(c chooser, w *world) CommandBody {
		sequence := Sequence(c.int("sequence", 0, int(w.state.head.Sequence)+1))
		if len(w.receipts) > 0 && c.int("of a receipt", 0, 4) > 0 {
			sequence = pick(c, "receipt", w.receipts)
		}
		return &ReverseReceipt{Sequence: sequence, Quantity: quantityOrAll(c), ReasonCode: reasonCode(c), Reference: reference(c)}
	},
	KindReserveStock: func(c chooser, w *world) CommandBody {
		lasts := mostly(c, "lasts until", []Date{0, 0, 0, today + 5}, []Date{MaxDate + 1})
		medicine, lot := wanted(c, w)
		return &ReserveStock{
			LocationID: location(c), MedicineID: medicine, LotID: lot, Quantity: quantity(c), ReasonCode: reasonCode(c),
			Deadline: deadline(c, w), LastsUntil: lasts, Pack: pack(c),
		}
	},
	KindReleaseStock: func(c chooser, w *world) CommandBody {
		return &ReleaseStock{HoldID: oneOf(c, "hold", w.holds), Quantity: quantityOrAll(c), ReasonCode: reasonCode(c)}
	},
	KindExpireReservation: func(c chooser, w *world) CommandBody {
		return &ExpireReservation{HoldID: oneOf(c, "hold", w.holds)}
	},
	KindIssueStock: func(c chooser, w *world) CommandBody {
		if flip(c, "from a hold") {
			b := &IssueStock{HoldID: oneOf(c, "hold", w.holds), Quantity: quantityOrAll(c), ReasonCode: reasonCode(c), Pack: pack(c)}
			if c.int("both", 0, 9) == 0 {
				b.LocationID = location(c)
			}
			return b
		}
		medicine, lot := wanted(c, w)
		return &IssueStock{LocationID: location(c), MedicineID: medicine, LotID: lot, Quantity: quantity(c), Recipient: reference(c), Pack: pack(c)}
	},
}

var drawTakes = map[Kind]func(chooser, *world) CommandBody{
	KindAdjustStock: func(c chooser, w *world) CommandBody {
		return &AdjustStock{LocationID: location(c), LotID: lot(c, w), Direction: Direction(c.int("direction", 0, 2)), Quantity: quantity(c), ReasonCode: reasonCode(c), Pack: pack(c)}
	},
	KindWriteOffStock: func(c chooser, w *world) CommandBody {
		return &WriteOffStock{LocationID: location(c), LotID: lot(c, w), Quantity: quantity(c), ReasonCode: reasonCode(c), FromQuarantine: flip(c, "quarantined"), Pack: pack(c)}
	},
	KindReturnToSupplier: func(c chooser, w *world) CommandBody {
		return &ReturnToSupplier{
			LocationID: location(c), LotID: lot(c, w), Quantity: quantity(c), ReasonCode: reasonCode(c), FromQuarantine: flip(c, "quarantined"),
			Supplier: mostly(c, "supplier", []string{"Acme", "", "erp|A"}, []string{"erp|?"}), Pack: pack(c),
		}
	},
	KindConvertStock: func(c chooser, w *world) CommandBody {
		return &ConvertStock{
			LocationID: location(c), Inputs: lotLinesOf(c, w), MedicineID: medicine(c), LotID: pick(c, "id", []LotID{"", "", "made", "zinc-1"}),
			LotNumber: pick(c, "number", []string{"C1", "C2", "N1"}), Manufacturer: pick(c, "maker", []string{"Hillside", "Acme"}), Expiry: day(c),
			Quantity: quantity(c), Pack: pack(c), ReasonCode: reasonCode(c), Reference: reference(c),
		}
	},
	KindOpenContainer: func(c chooser, w *world) CommandBody {
		return &OpenContainer{LocationID: location(c), LotID: lot(c, w), Quantity: quantity(c), Pack: pack(c), InUseUntil: day(c), ReasonCode: reasonCode(c)}
	},
}

func lotLinesOf(c chooser, w *world) []LotLine {
	return some(c, "lines", func() LotLine {
		return LotLine{LotID: lot(c, w), Quantity: quantity(c), Pack: pack(c), Quarantine: c.int("quarantine", 0, 4) == 0}
	})
}

var drawCounts = map[Kind]func(chooser, *world) CommandBody{
	KindStartCount: func(c chooser, _ *world) CommandBody {
		b := &StartCount{LocationID: location(c), Blind: flip(c, "blind")}
		if c.int("some medicines", 0, 2) == 0 {
			b.Medicines = some(c, "medicines", func() MedicineID { return medicine(c) })
		}
		return b
	},
	KindRecordCount: func(c chooser, w *world) CommandBody {
		b := &RecordCount{LocationID: location(c), ReasonCode: reasonCode(c)}
		if flip(c, "in a session") {
			b.LocationID, b.CountID = "", CountID(oneOf(c, "count", w.documents[DocumentCount]))
		}
		b.Lines = some(c, "lines", func() CountedLine { return countedLine(c, w) })
		return b
	},
	KindCompleteCount: func(c chooser, w *world) CommandBody {
		return &CompleteCount{CountID: CountID(oneOf(c, "count", w.documents[DocumentCount])), ReasonCode: reasonCode(c)}
	},
	KindCancelCount: func(c chooser, w *world) CommandBody {
		return &CancelCount{CountID: CountID(oneOf(c, "count", w.documents[DocumentCount])), ReasonCode: reasonCode(c)}
	},
}

func countedLine(c chooser, w *world) CountedLine {
	line := CountedLine{LotID: lot(c, w), Counted: int64(c.int("counted", -1, 70)), Pack: pack(c), Quarantined: c.int("quarantined", 0, 5) == 0}
	if flip(c, "in the past") {
		line.Sequence = w.state.head.Sequence - Sequence(c.int("ago", -1, 12))
	}
	// Most counts find what the books say, or nearly so.
	if found, r := w.state.lotItem(line.LotID, w.now); r == nil && c.int("right", 0, 3) > 0 {
		b := w.balances("store", found.lot.ID)
		line.Counted, line.Pack = max(0, b.Available+b.Reserved+b.Pending+int64(c.int("off by", -3, 3))), ""
	}
	return line
}

var drawLots = map[Kind]func(chooser, *world) CommandBody{
	KindQuarantineLot: func(c chooser, w *world) CommandBody { return quarantine(c, w) },
	KindReleaseLot:    func(c chooser, w *world) CommandBody { return (*ReleaseLot)(quarantine(c, w)) },
	KindRecallLot: func(c chooser, w *world) CommandBody {
		b := &RecallLot{ReasonCode: reasonCode(c), Reference: reference(c)}
		switch c.int("by", 0, 3) {
		case 0:
			b.LotID = lot(c, w)
		case 1:
			b.GTIN, b.LotNumber = pick(c, "gtin", []string{gtinBox, gtinVial}), pick(c, "number", []string{"M0", "M1", "N1"})
		case 2:
			b.Manufacturer, b.LotNumber = pick(c, "maker", []string{"ACME", "Hillside"}), pick(c, "number", []string{"zinc-1", "C1", "N1"})
		}
		return b
	},
	KindContinueRecall: func(c chooser, w *world) CommandBody {
		id, step := oneOf(c, "recall", w.documents[DocumentRecall]), int64(c.int("step", -1, 2))
		if recall := document[Recall](w.state, DocumentRecall, id); recall != nil && c.int("next step", 0, 3) > 0 {
			step = recall.Step
		}
		return &ContinueRecall{RecallID: RecallID(id), Step: step}
	},
	KindLiftRecall: func(c chooser, w *world) CommandBody {
		return &LiftRecall{RecallID: RecallID(oneOf(c, "recall", w.documents[DocumentRecall])), ReasonCode: reasonCode(c)}
	},
}

func quarantine(c chooser, w *world) *QuarantineLot {
	b := &QuarantineLot{LotID: lot(c, w), ReasonCode: reasonCode(c), Reference: reference(c)}
	if flip(c, "at a location") {
		b.LocationID, b.Quantity, b.Pack = location(c), quantityOrAll(c), pack(c)
	}
	return b
}

var drawTransfers = map[Kind]func(chooser, *world) CommandBody{
	KindTransferStock: func(c chooser, w *world) CommandBody {
		b := &TransferStock{From: "store", To: "ward", Lines: requestedLinesOf(c, w), DispatchBy: deadline(c, w), ReasonCode: reasonCode(c), Reference: reference(c)}
		if c.int("any way", 0, 4) == 0 {
			b.From, b.To = location(c), location(c)
		}
		if flip(c, "receive by") {
			b.ReceiveBy = b.DispatchBy + Instant(c.int("later", -1, 9))*testDay
		}
		return b
	},
	KindApproveTransfer: func(c chooser, w *world) CommandBody {
		b := &ApproveTransfer{TransferID: transferIn(c, w, TransferRequested)}
		if c.int("in part", 0, 3) == 0 {
			b.Lines = requestedLinesOf(c, w)
		}
		return b
	},
	KindRejectTransfer: func(c chooser, w *world) CommandBody {
		return &RejectTransfer{TransferID: transferIn(c, w, TransferRequested), ReasonCode: reasonCode(c)}
	},
	KindCancelTransfer: func(c chooser, w *world) CommandBody {
		return &CancelTransfer{TransferID: transferIn(c, w, TransferApproved, TransferInTransit), ReasonCode: reasonCode(c)}
	},
	KindDispatchTransfer: func(c chooser, w *world) CommandBody {
		b := &DispatchTransfer{TransferID: transferIn(c, w, TransferApproved), Reference: reference(c)}
		b.Lines = parcels(c, w, b.TransferID)
		return b
	},
	KindReceiveTransfer: func(c chooser, w *world) CommandBody {
		b := &ReceiveTransfer{TransferID: transferIn(c, w, TransferInTransit), ReasonCode: reasonCode(c), Reference: reference(c)}
		b.Lines = parcels(c, w, b.TransferID)
		return b
	},
	KindCompleteTransfer: func(c chooser, w *world) CommandBody {
		return &CompleteTransfer{TransferID: transferIn(c, w, TransferInTransit, TransferReceived), ReasonCode: reasonCode(c)}
	},
}

// transferIn picks a transfer, one in the given states where there is one.
func transferIn(c chooser, w *world, states ...TransferStatus) TransferID {
	var fit []TransferID
	for _, id := range w.documents[DocumentTransfer] {
		if t := document[Transfer](w.state, DocumentTransfer, id); t != nil && slices.Contains(states, t.Status) {
			fit = append(fit, TransferID(id))
		}
	}
	if len(fit) > 0 && c.int("fitting", 0, 9) > 0 {
		return pick(c, "transfer", fit)
	}
	return TransferID(oneOf(c, "any transfer", w.documents[DocumentTransfer]))
}

// parcels draws lines of a transfer's own lots, or other ones, or none.
func parcels(c chooser, w *world, id TransferID) []LotLine {
	t := document[Transfer](w.state, DocumentTransfer, string(id))
	switch {
	case flip(c, "all"):
		return nil
	case t == nil || len(t.Parcels) == 0 || c.int("others", 0, 4) == 0:
		return lotLinesOf(c, w)
	}
	return some(c, "lines", func() LotLine {
		p := pick(c, "parcel", t.Parcels)
		return LotLine{LotID: p.Lot, Quantity: int64(c.int("quantity", 1, int(min(p.Approved+1, 30)))), Quarantine: c.int("quarantine", 0, 4) == 0}
	})
}

func requestedLinesOf(c chooser, w *world) []RequestedLine {
	return some(c, "lines", func() RequestedLine {
		medicine, lot := wanted(c, w)
		return RequestedLine{MedicineID: medicine, LotID: lot, Quantity: quantity(c), Pack: pack(c)}
	})
}

// wanted draws a medicine and, now and then, a lot that is mostly of it.
func wanted(c chooser, w *world) (MedicineID, LotID) {
	m := medicine(c)
	if c.int("lot is named", 0, 2) > 0 {
		return m, ""
	}
	found, r := w.state.medicineItem(m, w.now)
	if r == nil && c.int("of the medicine", 0, 9) > 0 {
		return m, LotID(fmt.Sprintf("%s-%d", found.medicine.ID, c.int("number", 0, 2)))
	}
	return m, lot(c, w)
}

var drawLoans = map[Kind]func(chooser, *world) CommandBody{
	KindLendStock:        func(c chooser, w *world) CommandBody { return &LendStock{loan(c, w)} },
	KindBorrowStock:      func(c chooser, w *world) CommandBody { return &BorrowStock{loan(c, w)} },
	KindRepayLoan:        func(c chooser, w *world) CommandBody { return &RepayLoan{repayment(c, w, LoanBorrowed)} },
	KindReceiveRepayment: func(c chooser, w *world) CommandBody { return &ReceiveRepayment{repayment(c, w, LoanLent)} },
}

// repayment draws a part of an open loan, where there is one.
func repayment(c chooser, w *world, direction LoanDirection) LoanMove {
	b := loan(c, w)
	for _, id := range w.documents[DocumentLoan] {
		l := document[Loan](w.state, DocumentLoan, id)
		if l == nil || l.Direction != direction || c.int("this loan", 0, 1) == 0 {
			continue
		}
		b.Reference = l.Reference
		if c.int("of its medicine", 0, 5) > 0 {
			b.LotID = LotID(fmt.Sprintf("%s-%d", l.Medicine, c.int("number", 1, 2)))
		}
	}
	return b
}

func loan(c chooser, w *world) LoanMove {
	return LoanMove{
		Partner: mostly(c, "partner", []ClinicID{"riverside"}, []ClinicID{"hillside", "lakeside", "No"}), LocationID: location(c), LotID: lot(c, w),
		Quantity: quantity(c), Pack: pack(c), Reference: fmt.Sprintf("L%d", c.int("loan", 1, 6)), ReasonCode: reasonCode(c),
	}
}

var drawSeconds = map[Kind]func(chooser, *world) CommandBody{
	KindApproveCommand: func(c chooser, w *world) CommandBody { return &ApproveCommand{ApprovalID: openApproval(c, w)} },
	KindRejectCommand: func(c chooser, w *world) CommandBody {
		return &RejectCommand{ApprovalID: openApproval(c, w), ReasonCode: reasonCode(c)}
	},
	KindLapseCommand: func(c chooser, w *world) CommandBody { return &LapseCommand{ApprovalID: openApproval(c, w)} },
}

func openApproval(c chooser, w *world) ApprovalID {
	var open []ApprovalID
	for _, id := range w.documents[DocumentApproval] {
		if document[Approval](w.state, DocumentApproval, id) != nil {
			open = append(open, ApprovalID(id))
		}
	}
	if len(open) > 0 && c.int("open one", 0, 9) > 0 {
		return pick(c, "approval", open)
	}
	return ApprovalID(oneOf(c, "any approval", w.documents[DocumentApproval]))
}
