package ledger

import (
	"maps"
	"slices"
)

// stage is a clinic in which every command can be accepted, and rejected for
// every reason: it has one of everything, in every state.
type stage struct {
	*world

	hold, lateHold, transferHold, issued HoldID

	requested, lateRequest, toClosed, ofRetired, ofInactive TransferID // requested
	approved, overdue, emptied                              TransferID // approved
	inTransit, inTransitToClosed, received                  TransferID

	count, countAtClosed CountID
	recall               RecallID
	waiting, lapsed      ApprovalID // of amina, for a WriteOffStock
	review               ApprovalID // of amina's AdjustStock
	receipt, reversed    Sequence

	counter counterStage
}

// Units on the stage's shelves are of these lots.
//
//	zinc-1 and zinc-2     can be used; zinc-1 expires first and has a GTIN
//	zinc-old              has expired
//	zinc-q, zinc-r        are in quarantine, and recalled
//	zinc-full             fills the annex
//	zinc-off, retired-1   are inactive, and of an inactive medicine
//	zinc-none             is nowhere
func newStage(t fataler) *stage { return newStageOf(t, "hillside") }

func newStageOf(t fataler, clinic ClinicID) *stage {
	s := &stage{world: emptyWorld(clinic)}
	s.furnish(t)
	s.stock(t)
	s.send(t)
	s.prescribe(t)
	s.close(t)
	s.ask(t)
	return s
}

func zincPacks() []Pack {
	return []Pack{{"box", 10, gtinBox}, {"case", 100, gtinCase}, {"pallet", maxPackFactor, gtinPallet}}
}

func (s *stage) furnish(t fataler) {
	s.must(t, &CreateClinic{Name: "Hillside", TimeZone: "UTC", BackdatingDays: 2})
	s.must(t, &DeactivateClinic{ReasonCode: "MISTAKE"})
	s.must(t, &UpdateClinic{Active: ptr(true)})
	for _, id := range []LocationID{"store", "ward", "annex", "empty", "closed"} {
		s.must(t, &CreateLocation{LocationID: id, Name: string(id), LocationKind: Store})
	}
	for _, id := range []MedicineID{"zinc", "amoxicillin", "retired", "lonely"} {
		s.must(t, &AddMedicine{MedicineID: id, Name: string(id), BaseUnit: "tablet"})
	}
	s.must(t, &AddMedicine{MedicineID: "morphine", Name: "morphine", BaseUnit: "ampoule", ControlClass: "schedule-2"})
	s.must(t, &SetPacks{MedicineID: "zinc", Packs: zincPacks()})
	s.must(t, &SetPacks{MedicineID: "lonely", Packs: []Pack{{"vial", 5, gtinVial}}})
	s.must(t, &RegisterLot{LotID: "zinc-1", MedicineID: "zinc", GTIN: gtinBox, LotNumber: "Z1", Expiry: today + 100})
	for _, lot := range []LotID{"zinc-2", "zinc-old", "zinc-q", "zinc-r", "zinc-full", "zinc-off", "zinc-none"} {
		expiry := today + 200
		if lot == "zinc-old" {
			expiry = today
		}
		s.must(t, &RegisterLot{LotID: lot, MedicineID: "zinc", Manufacturer: "Acme", LotNumber: string(lot), Expiry: expiry})
	}
	for _, medicine := range []MedicineID{"amoxicillin", "morphine", "retired"} {
		s.must(t, &RegisterLot{LotID: LotID(medicine) + "-1", MedicineID: medicine, Manufacturer: "Acme", LotNumber: "1", Expiry: today + 200})
	}
	s.must(t, &AddIdentifier{Subject: SubjectLocation, SubjectID: "store", System: "erp", Value: "S"})
	s.must(t, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "zinc", System: "erp", Value: "Z"})
	s.must(t, &AddIdentifier{Subject: SubjectLot, SubjectID: "zinc-1", System: "erp", Value: "Z1"})
	s.must(t, &AddIdentifier{Subject: SubjectSupplier, SubjectID: "Acme", System: "erp", Value: "A"})
}

func (s *stage) stock(t fataler) {
	s.receipt = s.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 100, Supplier: "Acme"}).Sequence
	for i, lot := range []LotID{"zinc-2", "zinc-old", "zinc-q", "zinc-r", "amoxicillin-1", "morphine-1"} {
		s.must(t, &ReceiveStock{LocationID: "store", LotID: lot, Quantity: []int64{100, 10, 10, 10, 50, 50}[i]})
	}
	s.must(t, &ReceiveStock{LocationID: "ward", LotID: "zinc-2", Quantity: 20})
	s.must(t, &ReceiveStock{LocationID: "annex", LotID: "zinc-full", Quantity: MaxQuantity})
	s.reversed = s.must(t, &ReceiveStock{LocationID: "store", LotID: "amoxicillin-1", Quantity: 5}).Sequence
	s.must(t, &ReverseReceipt{Sequence: s.reversed, ReasonCode: "TYPO"})
	s.must(t, &LendStock{LoanMove{Partner: "riverside", LocationID: "store", LotID: "zinc-2", Quantity: 5, Reference: "LENT"}})
	s.must(t, &BorrowStock{LoanMove{Partner: "riverside", LocationID: "store", LotID: "zinc-2", Quantity: 5, Reference: "BORROWED"}})
	reserve := func(quantity int64, deadline Instant) HoldID {
		e := s.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: quantity, ReasonCode: "WARD", Deadline: deadline})
		return e.Body.(*StockReserved).HoldID
	}
	s.hold, s.lateHold, s.issued = reserve(5, s.now+30*testDay), reserve(5, s.now+testDay/2), reserve(5, s.now+testDay)
	s.must(t, &IssueStock{HoldID: s.issued})
	s.must(t, &UpdateStockLevels{LocationID: "store", MedicineID: "zinc", Min: 10, Reorder: 20})
}

func (s *stage) transfer(t fataler, to LocationID, line RequestedLine, by Instant) TransferID {
	s.must(t, &TransferStock{From: "store", To: to, Lines: []RequestedLine{line}, DispatchBy: by, ReasonCode: "REFILL"})
	return s.lastTransfer()
}

func (s *stage) send(t fataler) {
	zinc, later := RequestedLine{MedicineID: "zinc", LotID: "zinc-2", Quantity: 5}, s.now+30*testDay
	s.requested = s.transfer(t, "ward", RequestedLine{MedicineID: "zinc", Quantity: 5}, later)
	s.lateRequest = s.transfer(t, "ward", zinc, s.now+testDay/2)
	s.toClosed = s.transfer(t, "closed", zinc, later)
	s.ofRetired = s.transfer(t, "ward", RequestedLine{MedicineID: "retired", Quantity: 1}, later)
	s.ofInactive = s.transfer(t, "ward", RequestedLine{MedicineID: "zinc", LotID: "zinc-off", Quantity: 1}, later)
	s.approved, s.overdue = s.transfer(t, "ward", zinc, later), s.transfer(t, "ward", zinc, s.now+testDay/2)
	s.emptied = s.transfer(t, "ward", RequestedLine{MedicineID: "zinc", LotID: "zinc-r", Quantity: 5}, later)
	s.inTransit, s.inTransitToClosed, s.received = s.transfer(t, "ward", zinc, later), s.transfer(t, "closed", zinc, later), s.transfer(t, "ward", zinc, later)
	for _, id := range []TransferID{s.approved, s.overdue, s.emptied, s.inTransit, s.inTransitToClosed, s.received} {
		s.must(t, &ApproveTransfer{TransferID: id})
	}
	for _, id := range []TransferID{s.inTransit, s.inTransitToClosed, s.received} {
		s.must(t, &DispatchTransfer{TransferID: id})
	}
	s.must(t, &ReceiveTransfer{TransferID: s.received})
	s.transferHold = document[Transfer](s.state, DocumentTransfer, string(s.approved)).HoldIDs[0]
}

// close bars and deactivates what is to be barred and inactive.
func (s *stage) close(t fataler) {
	s.must(t, &ReceiveStock{LocationID: "closed", LotID: "zinc-2", Quantity: 1})
	s.must(t, &StartCount{LocationID: "closed"})
	s.countAtClosed = s.lastCount()
	s.must(t, &AdjustStock{LocationID: "closed", LotID: "zinc-2", Direction: Decrease, Quantity: 1, ReasonCode: "BROKEN"})
	s.must(t, &DeactivateLocation{LocationID: "closed", ReasonCode: "MOVED"})
	s.must(t, &DeactivateMedicine{MedicineID: "retired", ReasonCode: "UNUSED"})
	s.must(t, &DeactivateLot{LotID: "zinc-off", ReasonCode: "UNUSED"})
	s.must(t, &StartCount{LocationID: "store"})
	s.count = s.lastCount()
	s.must(t, &QuarantineLot{LotID: "zinc-q", ReasonCode: "DAMP"})
	s.must(t, &QuarantineLot{LotID: "zinc-2", LocationID: "store", Quantity: 5, ReasonCode: "DAMP"})
	s.must(t, &RecallLot{LotID: "zinc-r", ReasonCode: "NOTICE"})
	s.recall = s.lastRecall()
	s.must(t, &ContinueRecall{RecallID: s.recall})
}

// ask leaves requests for second persons, and no policy that makes more.
func (s *stage) ask(t fataler) {
	s.must(t, policy(time1, Rule{"*", KindWriteOffStock, 0, RequireApprovalBefore}, Rule{"*", KindAdjustStock, 0, RequireReview}))
	writeOff := &WriteOffStock{LocationID: "store", LotID: "zinc-2", Quantity: 3, ReasonCode: "BROKEN"}
	s.must(t, writeOff)
	s.lapsed = s.lastApproval()
	s.now += 3 * testDay
	s.must(t, policy(time3, Rule{"*", KindWriteOffStock, 0, RequireApprovalBefore}, Rule{"*", KindAdjustStock, 0, RequireReview}))
	s.must(t, writeOff)
	s.waiting = s.lastApproval()
	s.must(t, &AdjustStock{LocationID: "store", LotID: "zinc-2", Direction: Decrease, Quantity: 1, ReasonCode: "BROKEN"})
	s.review = s.lastApproval()
	s.must(t, policy(time3))
}

// How long requests wait, in hours.
const (
	time1 = 24
	time3 = 72
)

func policy(hours int64, rules ...Rule) *SetPolicy {
	return &SetPolicy{Policy: Policy{ApprovalHours: hours, Rules: rules}}
}

// dry runs f and takes back all that it did.
func (w *world) dry(f func()) {
	before := *w
	before.documents = maps.Clone(w.documents)
	before.records, before.entries = slices.Clip(w.records), slices.Clip(w.entries)
	before.book = &book{maps.Clone(w.book.sums), maps.Clone(w.book.flow)}
	mark := w.state.Mark()
	f()
	w.state.Rollback(mark)
	keys := w.keys
	*w = before
	w.keys = keys // one that was used is spent
}
