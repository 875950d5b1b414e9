package rpc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// person is a client of one person in one clinic, who gives commands by the
// methods of their names.
type person struct {
	*client
	clinic *clinic
	token  string
}

func (c *clinic) person(tb testing.TB, subject string, role Role, locations ...ledger.LocationID) *person {
	tb.Helper()
	token := c.node.token(tb, Principal{
		Subject: ledger.Actor(subject), Roles: []Role{role}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}, Locations: locations,
	})
	return &person{client: c.node.client(token, h2c()), clinic: c, token: token}
}

// try gives a command by the method of its name.
func (p *person) try(tb testing.TB, c *stockledgerv1.Command) (*stockledgerv1.Accepted, error) {
	tb.Helper()
	response := &stockledgerv1.CommandResponse{}
	err := p.conn.CallUnary(tb.Context(), connect.Spec{Procedure: procedureFor(c)}, p.clinic.request(c), response)
	return response.GetAccepted(), err
}

// give gives a command that must be accepted.
func (p *person) give(tb testing.TB, body proto.Message) *stockledgerv1.Accepted {
	tb.Helper()
	accepted, err := p.try(tb, command(body))
	if err != nil {
		tb.Fatalf("%s: %v", body.ProtoReflect().Descriptor().Name(), err)
	}
	return accepted
}

// refused gives a command that must not be accepted.
func (p *person) refused(tb testing.TB, code connect.Code, reason ledger.Reason, body proto.Message) {
	tb.Helper()
	_, err := p.try(tb, command(body))
	wantError(tb, err, code, reason)
}

// documentOf returns the id of the first document that a command changed.
func documentOf(tb testing.TB, accepted *stockledgerv1.Accepted, kind stockledgerv1.DocumentKind) string {
	tb.Helper()
	documents := accepted.GetChange().GetDocuments()
	if len(documents) == 0 || documents[0].GetKind() != kind || documents[0].GetEtag() != decimal(accepted.GetSequence()) {
		tb.Fatalf("got %v, want a %s", accepted, kind)
	}
	return documents[0].GetId()
}

func inAnHour() *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(time.Hour)) }

func zinc(quantity int64) []*stockledgerv1.RequestedLine {
	return []*stockledgerv1.RequestedLine{{MedicineId: "zinc", Quantity: quantity}}
}

func (p *person) request(tb testing.TB, quantity int64) string {
	tb.Helper()
	return documentOf(tb, p.give(tb, &stockledgerv1.TransferStock{
		FromLocationId: "store", ToLocationId: "ward", Lines: zinc(quantity), DispatchBy: inAnHour(), ReasonCode: "restock",
	}), stockledgerv1.DocumentKind_DOCUMENT_KIND_TRANSFER)
}

func TestATransferAllTheWay(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "sefu", RoleStorekeeper)
	get := func(id string) *stockledgerv1.Transfer {
		t.Helper()
		response, err := p.query.GetTransfer(t.Context(), &stockledgerv1.GetTransferRequest{ClinicId: c.id, TransferId: id})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetTransfer()
	}
	id := p.request(t, 120)
	if got := get(id); !strings.HasPrefix(id, "TR-") || got.GetStatus() != stockledgerv1.TransferStatus_TRANSFER_STATUS_REQUESTED ||
		got.GetOverdue() || got.GetRequester() != "sefu" || got.GetLines()[0].GetQuantity() != 120 {
		t.Errorf("%s: %v", id, got)
	}
	approved := p.give(t, &stockledgerv1.ApproveTransfer{TransferId: id, Lines: zinc(110)}).GetChange()
	if len(approved.GetHoldIds()) != 1 || !slices.Equal(get(id).GetHoldIds(), approved.GetHoldIds()) || approved.GetMoves()[0].GetTo() != stockledgerv1.Bucket_BUCKET_RESERVED {
		t.Errorf("approved: %v", approved)
	}
	sent := p.give(t, &stockledgerv1.DispatchTransfer{TransferId: id, Reference: "DN-1", Lines: []*stockledgerv1.LotLine{
		{LotId: "L1", Quantity: 100}, {LotId: "L2", Quantity: 6},
	}}).GetChange()
	if moves := sent.GetMoves(); len(moves) < 2 || moves[0].GetTo() != stockledgerv1.Bucket_BUCKET_IN_TRANSIT || moves[0].GetLots()[0].GetBalances().GetInTransit() != 100 {
		t.Errorf("dispatched: %v", sent)
	}
	received := p.give(t, &stockledgerv1.ReceiveTransfer{TransferId: id, Lines: []*stockledgerv1.LotLine{
		{LotId: "L1", Quantity: 90}, {LotId: "L1", Quantity: 5, Quarantine: true},
	}}).GetChange()
	if last := received.GetMoves()[len(received.GetMoves())-1]; last.GetLocationId() != "ward" || last.GetFrom() != stockledgerv1.Bucket_BUCKET_CLEARING ||
		last.GetTo() != stockledgerv1.Bucket_BUCKET_QUARANTINED || last.GetLots()[0].GetBalances().GetQuarantined() != 5 {
		t.Errorf("received: %v", received)
	}
	p.refused(t, connect.CodeFailedPrecondition, ledger.ReasonTransferSurplus, &stockledgerv1.ReceiveTransfer{TransferId: id, Lines: []*stockledgerv1.LotLine{{LotId: "L2", Quantity: 7}}})
	p.give(t, &stockledgerv1.ReceiveTransfer{TransferId: id, ReasonCode: "extra", Lines: []*stockledgerv1.LotLine{{LotId: "L2", Quantity: 7}}})
	p.refused(t, connect.CodeFailedPrecondition, ledger.ReasonTransferShort, &stockledgerv1.CompleteTransfer{TransferId: id})
	p.give(t, &stockledgerv1.CompleteTransfer{TransferId: id, ReasonCode: "lost"})
	got := get(id)
	want := &stockledgerv1.Parcel{MedicineId: "zinc", LotId: "L1", Approved: 100, Dispatched: 100, Received: 95, Missing: 5}
	if got.GetStatus() != stockledgerv1.TransferStatus_TRANSFER_STATUS_COMPLETED || !proto.Equal(got.GetParcels()[0], want) || got.GetParcels()[1].GetSurplus() != 1 {
		t.Errorf("completed: %v", got)
	}
	movements, err := p.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, NewestFirst: true})
	if err != nil || movements.GetMovements()[0].GetDocumentId() != id || movements.GetMovements()[0].GetReasonCode() != "lost" {
		t.Errorf("movements: %v, %v", movements, err)
	}
}

func TestTheQueueOfTransfers(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "sefu", RoleStorekeeper)
	rejected, cancelled, waiting, approved := p.request(t, 1), p.request(t, 2), p.request(t, 3), p.request(t, 4)
	p.give(t, &stockledgerv1.RejectTransfer{TransferId: rejected, ReasonCode: "none"})
	p.give(t, &stockledgerv1.CancelTransfer{TransferId: cancelled, ReasonCode: "changed"})
	p.give(t, &stockledgerv1.ApproveTransfer{TransferId: approved})
	list := func(req *stockledgerv1.ListTransfersRequest) (ids []string) {
		t.Helper()
		req.ClinicId, req.Read = c.id, &stockledgerv1.ReadOptions{Consistency: stockledgerv1.Consistency_CONSISTENCY_STRONG}
		for {
			response, err := p.query.ListTransfers(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, transfer := range response.GetTransfers() {
				ids = append(ids, transfer.GetTransferId())
			}
			if response.GetNextPageToken() == "" {
				return ids
			}
			req.Page = &stockledgerv1.Page{PageSize: 1, PageToken: response.GetNextPageToken()}
		}
	}
	one := &stockledgerv1.Page{PageSize: 1}
	for name, test := range map[string]struct{ got, want []string }{
		"open":         {list(&stockledgerv1.ListTransfersRequest{}), []string{waiting, approved}},
		"page by page": {list(&stockledgerv1.ListTransfersRequest{Page: one, IncludeClosed: true}), []string{rejected, cancelled, waiting, approved}},
		"newest":       {list(&stockledgerv1.ListTransfersRequest{Page: one, IncludeClosed: true, NewestFirst: true}), []string{approved, waiting, cancelled, rejected}},
		"by status": {list(&stockledgerv1.ListTransfersRequest{Page: one, Statuses: []stockledgerv1.TransferStatus{
			stockledgerv1.TransferStatus_TRANSFER_STATUS_REJECTED, stockledgerv1.TransferStatus_TRANSFER_STATUS_APPROVED,
		}}), []string{rejected, approved}},
		"by location": {list(&stockledgerv1.ListTransfersRequest{LocationId: "ward"}), []string{waiting, approved}},
		"none":        {list(&stockledgerv1.ListTransfersRequest{Statuses: []stockledgerv1.TransferStatus{stockledgerv1.TransferStatus_TRANSFER_STATUS_RECEIVED}}), nil},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%s: got %v, want %v", name, test.got, test.want)
		}
	}
	_, err := p.query.GetTransfer(t.Context(), &stockledgerv1.GetTransferRequest{ClinicId: c.id, TransferId: "TR-1"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonTransferNotFound)
}

func TestOverdueTransfers(t *testing.T) {
	t.Parallel()
	for status, want := range map[ledger.TransferStatus][2]bool{ // before receive_by and after it
		ledger.TransferRequested: {true, true}, ledger.TransferApproved: {true, true}, ledger.TransferInTransit: {false, true},
		ledger.TransferReceived: {false, false}, ledger.TransferCompleted: {false, false}, ledger.TransferCancelled: {false, false},
	} {
		transfer := &ledger.Transfer{Status: status, DispatchBy: 10, ReceiveBy: 20}
		if got := [2]bool{overdue(transfer, 15), overdue(transfer, 25)}; got != want {
			t.Errorf("%s: %v, want %v", status, got, want)
		}
		if transfer.ReceiveBy = 0; overdue(transfer, 5) || status == ledger.TransferInTransit && overdue(transfer, 25) {
			t.Errorf("%s is overdue too soon", status)
		}
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	manager, counter := c.person(t, "mwana", RoleManager), c.person(t, "chacha", RoleCounter)
	id := documentOf(t, manager.give(t, &stockledgerv1.StartCount{LocationId: "store", MedicineIds: []string{"zinc"}, Blind: true}), stockledgerv1.DocumentKind_DOCUMENT_KIND_COUNT)
	counter.refused(t, connect.CodePermissionDenied, reasonPermissionDenied, &stockledgerv1.StartCount{LocationId: "store"})
	record := command(&stockledgerv1.RecordCount{CountId: id, ReasonCode: "monthly", Lines: []*stockledgerv1.CountedLine{{LotId: "L1", Counted: 97}}})
	first, err := counter.try(t, record)
	if err != nil {
		t.Fatal(err)
	}
	again, err := counter.try(t, record)
	if err != nil || !again.GetReplayed() || len(again.GetChange().GetMoves())+len(first.GetChange().GetMoves()) != 0 {
		t.Errorf("who counts blindly is told %v, %v", first, again)
	}
	get := func(p *person) *stockledgerv1.Count {
		t.Helper()
		response, err := p.query.GetCount(t.Context(), &stockledgerv1.GetCountRequest{ClinicId: c.id, CountId: id})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetCount()
	}
	blind, open := get(counter), get(manager)
	if line := blind.GetLines()[0]; line.Variance != nil || line.GetCounted() != 97 || line.GetStatus() != stockledgerv1.CountLineStatus_COUNT_LINE_STATUS_COUNTED {
		t.Errorf("who counts sees %v", blind)
	}
	if open.GetLines()[0].GetVariance() != -3 || open.GetLinesTotal() != 2 || open.GetLinesCounted() != 1 || open.GetStatus() != stockledgerv1.CountStatus_COUNT_STATUS_OPEN {
		t.Errorf("who manages sees %v", open)
	}
	manager.refused(t, connect.CodeFailedPrecondition, ledger.ReasonCountIncomplete, &stockledgerv1.CompleteCount{CountId: id})
	manager.give(t, &stockledgerv1.CompleteCount{CountId: id, ReasonCode: "late"})
	if ended := get(counter); ended.GetLines()[0].GetVariance() != -3 || ended.GetStatus() != stockledgerv1.CountStatus_COUNT_STATUS_COMPLETED {
		t.Errorf("after its end: %v", ended)
	}
	other := documentOf(t, manager.give(t, &stockledgerv1.StartCount{LocationId: "ward"}), stockledgerv1.DocumentKind_DOCUMENT_KIND_COUNT)
	list, err := counter.query.ListCounts(t.Context(), &stockledgerv1.ListCountsRequest{ClinicId: c.id})
	if err != nil || len(list.GetCounts()) != 1 || list.GetCounts()[0].GetCountId() != other || list.GetCounts()[0].GetLines() != nil {
		t.Errorf("open counts: %v, %v", list, err)
	}
	manager.give(t, &stockledgerv1.CancelCount{CountId: other, ReasonCode: "mistake"})
	// What was counted by itself is no session's, and nobody is blind to it.
	alone := counter.give(t, &stockledgerv1.RecordCount{LocationId: "ward", ReasonCode: "spot", Lines: []*stockledgerv1.CountedLine{{LotId: "L1", Counted: 51}}})
	if moves := alone.GetChange().GetMoves(); len(moves) != 1 || moves[0].GetFrom() != stockledgerv1.Bucket_BUCKET_VARIANCE || moves[0].GetLots()[0].GetQuantity() != 1 {
		t.Errorf("a line by itself: %v", alone)
	}
}

func TestAVarianceThatNeedsApprovalStaysHidden(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	manager, counter := c.person(t, "mwana", RoleManager), c.person(t, "chacha", RoleCounter)
	manager.give(t, &stockledgerv1.SetPolicy{ApprovalHours: 1, CountApproval: true})
	id := documentOf(t, manager.give(t, &stockledgerv1.StartCount{LocationId: "store", Blind: true}), stockledgerv1.DocumentKind_DOCUMENT_KIND_COUNT)
	asked := counter.give(t, &stockledgerv1.RecordCount{CountId: id, ReasonCode: "monthly", Lines: []*stockledgerv1.CountedLine{{LotId: "L1", Counted: 1}}})
	if asked.GetApproval().GetCommand() != "RecordCount" || asked.GetApproval().GetMoves() != nil {
		t.Errorf("who counts is told %v", asked)
	}
	approved := manager.give(t, &stockledgerv1.ApproveCommand{ApprovalId: asked.GetApproval().GetApprovalId()}).GetChange()
	if got := approved.GetApproved(); got.GetCommand() != "RecordCount" || got.GetRequester() != "chacha" || got.GetChange().GetMoves()[0].GetLots()[0].GetQuantity() != 99 {
		t.Errorf("approved: %v", approved)
	}
}

func TestQuarantineAndRecall(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	some := p.give(t, &stockledgerv1.QuarantineLot{LotId: "L1", LocationId: "store", Quantity: 10, ReasonCode: "wet"})
	if move := some.GetChange().GetMoves()[0]; move.GetTo() != stockledgerv1.Bucket_BUCKET_QUARANTINED || move.GetLots()[0].GetQuantity() != 10 {
		t.Errorf("some of a lot: %v", some)
	}
	p.give(t, &stockledgerv1.WriteOffStock{LocationId: "store", LotId: "L1", Quantity: 4, ReasonCode: "wet", FromQuarantine: true})
	p.give(t, &stockledgerv1.ReturnToSupplier{LocationId: "store", LotId: "L1", Quantity: 1, ReasonCode: "wet", FromQuarantine: true})
	p.give(t, &stockledgerv1.ReleaseLot{LotId: "L1", LocationId: "store", ReasonCode: "dry"})
	whole := p.give(t, &stockledgerv1.QuarantineLot{LotId: "L1", ReasonCode: "suspect"})
	if got := whole.GetChange().GetLotIds(); !slices.Equal(got, []string{"L1"}) {
		t.Errorf("a whole lot: %v", whole)
	}
	stock, err := p.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "ward", MedicineId: "zinc"})
	if err != nil || stock.GetUsable() != 0 || stock.GetRows()[0].GetLot().GetBar() != stockledgerv1.LotBar_LOT_BAR_QUARANTINED {
		t.Errorf("barred stock: %v, %v", stock, err)
	}
	p.refused(t, connect.CodeFailedPrecondition, ledger.ReasonLotQuarantined, &stockledgerv1.IssueStock{LocationId: "ward", MedicineId: "zinc", LotId: "L1", Quantity: 1})
	p.give(t, &stockledgerv1.ReleaseLot{LotId: "L1", ReasonCode: "fine"})

	hold := p.give(t, reserve("store", 5).GetReserveStock()).GetStock().GetHoldId()
	recalled := p.give(t, &stockledgerv1.RecallLot{Manufacturer: "acme", LotNumber: "1", ReasonCode: "maker", Reference: "N-7"})
	id := documentOf(t, recalled, stockledgerv1.DocumentKind_DOCUMENT_KIND_RECALL)
	step := p.give(t, &stockledgerv1.ContinueRecall{RecallId: id})
	if len(step.GetChange().GetMoves()) == 0 {
		t.Errorf("the follow-up moved nothing: %v", step)
	}
	p.refused(t, connect.CodeAborted, ledger.ReasonRecallStep, &stockledgerv1.ContinueRecall{RecallId: id})
	recall, err := p.query.GetRecall(t.Context(), &stockledgerv1.GetRecallRequest{ClinicId: c.id, RecallId: id})
	if got := recall.GetRecall(); err != nil || !got.GetFollowedUp() || got.GetSteps() != 1 || got.GetHoldsVoided() != 1 || got.GetQuarantined() != 145 || got.GetLotNumber() != "1" {
		t.Errorf("recall: %v, %v", recall, err)
	}
	holds, err := p.query.ListHolds(t.Context(), &stockledgerv1.ListHoldsRequest{ClinicId: c.id, IncludeClosed: true})
	if err != nil || holds.GetHolds()[0].GetHoldId() != hold || holds.GetHolds()[0].GetStatus() != stockledgerv1.HoldStatus_HOLD_STATUS_VOIDED {
		t.Errorf("holds: %v, %v", holds, err)
	}
	lot, err := p.catalog.GetLot(t.Context(), &stockledgerv1.GetLotRequest{ClinicId: c.id, LotId: "L1"})
	if err != nil || lot.GetLot().GetBar() != stockledgerv1.LotBar_LOT_BAR_RECALLED || lot.GetLot().GetRecallId() != id {
		t.Errorf("lot: %v, %v", lot, err)
	}
	list, err := p.query.ListRecalls(t.Context(), &stockledgerv1.ListRecallsRequest{ClinicId: c.id})
	if err != nil || len(list.GetRecalls()) != 1 {
		t.Errorf("recalls: %v, %v", list, err)
	}
	p.give(t, &stockledgerv1.LiftRecall{RecallId: id, ReasonCode: "over"})
}

func TestConversions(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	year := int32(time.Now().Year())
	p.give(t, &stockledgerv1.AddMedicine{MedicineId: "syrup", Name: "Zinc syrup", BaseUnit: "ml"})
	made := p.give(t, &stockledgerv1.ConvertStock{
		LocationId: "store", Lines: []*stockledgerv1.LotLine{{LotId: "L1", Quantity: 10}, {LotId: "L2", Quantity: 5}},
		MedicineId: "syrup", LotId: "S1", LotNumber: "S1", Manufacturer: "Own pharmacy", Expiry: &date.Date{Year: year + 1, Month: 1, Day: 1},
		Quantity: 300, ReasonCode: "COMPOUND", Reference: "B-1",
	}).GetChange()
	if moves := made.GetMoves(); !slices.Equal(made.GetLotIds(), []string{"S1"}) || moves[len(moves)-1].GetFrom() != stockledgerv1.Bucket_BUCKET_CONVERTED {
		t.Errorf("made %v", made)
	}
	lot, err := p.catalog.GetLot(t.Context(), &stockledgerv1.GetLotRequest{ClinicId: c.id, LotId: "S1"})
	if err != nil || !slices.Equal(lot.GetLot().GetParentLotIds(), []string{"L1", "L2"}) {
		t.Errorf("lot: %v, %v", lot, err)
	}
	opened := p.give(t, &stockledgerv1.OpenContainer{LocationId: "store", LotId: "S1", Quantity: 100, InUseUntil: fromDate(ledger.DateOf(time.Now().AddDate(0, 0, 20)))}).GetChange()
	if len(opened.GetLotIds()) != 1 || !strings.HasPrefix(opened.GetLotIds()[0], "lot_") {
		t.Errorf("opened %v", opened)
	}
}

func TestReceiptsAreReversed(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "sefu", RoleStorekeeper)
	sequence := p.give(t, &stockledgerv1.ReceiveStock{LocationId: "ward", LotId: "L1", Quantity: 70, Supplier: "Acme"}).GetSequence()
	reversed := p.give(t, &stockledgerv1.ReverseReceipt{Sequence: sequence, Quantity: 63, ReasonCode: "typo"})
	if documentOf(t, reversed, stockledgerv1.DocumentKind_DOCUMENT_KIND_REVERSAL) != decimal(sequence) {
		t.Errorf("reversed %v", reversed)
	}
	p.refused(t, connect.CodeFailedPrecondition, ledger.ReasonReceiptReversed, &stockledgerv1.ReverseReceipt{Sequence: sequence, Quantity: 8, ReasonCode: "typo"})
	card, err := p.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, LocationId: "ward", MedicineId: "zinc", NewestFirst: true})
	if last := card.GetMovements()[0]; err != nil || last.GetCorrectsSequence() != sequence || last.GetParty() != "Acme" {
		t.Errorf("movements: %v, %v", card, err)
	}
	then, err := p.query.GetBalanceAt(t.Context(), &stockledgerv1.GetBalanceAtRequest{ClinicId: c.id, LocationId: "ward", MedicineId: "zinc", LotId: "L1", Sequence: sequence})
	if err != nil || then.GetBalances().GetAvailable() != 120 {
		t.Errorf("at the receipt: %v, %v", then, err)
	}
	_, err = p.query.GetBalanceAt(t.Context(), &stockledgerv1.GetBalanceAtRequest{ClinicId: c.id, LocationId: "ward", MedicineId: "zinc", LotId: "L1", Sequence: sequence + 1000})
	wantError(t, err, connect.CodeFailedPrecondition, reasonSequenceNotReached)
}

func TestTheControlledRegister(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	p.give(t, &stockledgerv1.UpdateMedicine{MedicineId: "zinc", ControlClass: "schedule-2", UpdateMask: mask("control_class")})
	medicine, err := p.catalog.GetMedicine(t.Context(), &stockledgerv1.GetMedicineRequest{ClinicId: c.id, MedicineId: "zinc"})
	if err != nil || medicine.GetMedicine().GetControlClass() != "schedule-2" {
		t.Errorf("medicine: %v, %v", medicine, err)
	}
	for range 4 {
		p.give(t, reserve("ward", 1).GetReserveStock())
		p.give(t, &stockledgerv1.IssueStock{LocationId: "ward", MedicineId: "zinc", Quantity: 10, Recipient: "bed-4"})
	}
	auditor := c.person(t, "audit", RoleAuditor)
	var lines []*stockledgerv1.RegisterLine
	req := &stockledgerv1.ControlledRegisterRequest{ClinicId: c.id, LocationId: "ward", MedicineId: "zinc", Page: &stockledgerv1.Page{PageSize: 2}, To: inAnHour()}
	for {
		response, err := auditor.query.ControlledRegister(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, response.GetLines()...)
		if response.GetNextPageToken() == "" {
			break
		}
		req.Page.PageToken = response.GetNextPageToken()
	}
	if len(lines) != 5 || lines[0].GetIn() != 50 || lines[4].GetOut() != 10 || lines[4].GetBalance() != 10 || lines[4].GetOpening() != 20 || lines[4].GetMovement().GetParty() != "bed-4" {
		t.Errorf("register: %v", lines)
	}
}

func TestLoans(t *testing.T) {
	t.Parallel()
	n := shared(t)
	lender, borrower := newClinic(t, n), newClinic(t, n)
	a, b := lender.person(t, "asha", RolePharmacist), borrower.person(t, "baraka", RolePharmacist)
	lent := a.give(t, &stockledgerv1.LendStock{PartnerClinicId: borrower.id, LocationId: "store", LotId: "L1", Quantity: 30, Reference: "LN-1"})
	if documentOf(t, lent, stockledgerv1.DocumentKind_DOCUMENT_KIND_LOAN) != "LN-1" {
		t.Errorf("lent %v", lent)
	}
	b.give(t, &stockledgerv1.BorrowStock{PartnerClinicId: lender.id, LocationId: "ward", LotId: "L2", Quantity: 30, Reference: "LN-1"})
	b.give(t, &stockledgerv1.RepayLoan{PartnerClinicId: lender.id, LocationId: "ward", LotId: "L1", Quantity: 20, Reference: "LN-1"})
	a.give(t, &stockledgerv1.ReceiveRepayment{PartnerClinicId: borrower.id, LocationId: "store", LotId: "L2", Quantity: 20, Reference: "LN-1"})
	for p, want := range map[*person]*stockledgerv1.Loan{
		a: {Reference: "LN-1", Direction: stockledgerv1.LoanDirection_LOAN_DIRECTION_LENT, PartnerClinicId: borrower.id, LocationId: "store", MedicineId: "zinc", Quantity: 30, Repaid: 20, Outstanding: 10},
		b: {Reference: "LN-1", Direction: stockledgerv1.LoanDirection_LOAN_DIRECTION_BORROWED, PartnerClinicId: lender.id, LocationId: "ward", MedicineId: "zinc", Quantity: 30, Repaid: 20, Outstanding: 10},
	} {
		list, err := p.query.ListLoans(t.Context(), &stockledgerv1.ListLoansRequest{ClinicId: p.clinic.id})
		if err != nil || len(list.GetLoans()) != 1 {
			t.Fatalf("loans: %v, %v", list, err)
		}
		got := list.GetLoans()[0]
		want.OpenedSequence, want.LastSequence = got.GetOpenedSequence(), got.GetLastSequence()
		if !proto.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	movements, err := a.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: lender.id, NewestFirst: true})
	if err != nil || movements.GetMovements()[0].GetDocumentId() != "LN-1" || movements.GetMovements()[0].GetParty() != borrower.id {
		t.Errorf("movements: %v, %v", movements, err)
	}
}

func TestStockLevels(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	get := func() *stockledgerv1.StockLevels {
		t.Helper()
		response, err := p.query.GetStockLevels(t.Context(), &stockledgerv1.GetStockLevelsRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetLevels()
	}
	none := get()
	if none.GetEtag() != "0" || none.GetMin() != 0 {
		t.Errorf("never set: %v", none)
	}
	p.give(t, &stockledgerv1.UpdateStockLevels{LocationId: "store", MedicineId: "zinc", Min: 10, Reorder: 20, Max: 100, Etag: none.GetEtag()})
	p.refused(t, connect.CodeAborted, ledger.ReasonEtagMismatch, &stockledgerv1.UpdateStockLevels{LocationId: "store", MedicineId: "zinc", Etag: none.GetEtag()})
	if got := get(); got.GetMin() != 10 || got.GetReorder() != 20 || got.GetMax() != 100 {
		t.Errorf("set: %v", got)
	}
	p.give(t, &stockledgerv1.UpdateStockLevels{LocationId: "ward", MedicineId: "zinc", Min: 1, Reorder: 1})
	list, err := p.query.ListStockLevels(t.Context(), &stockledgerv1.ListStockLevelsRequest{ClinicId: c.id, MedicineId: "zinc"})
	if err != nil || len(list.GetLevels()) != 2 {
		t.Errorf("levels: %v, %v", list, err)
	}
	_, err = p.query.GetStockLevels(t.Context(), &stockledgerv1.GetStockLevelsRequest{ClinicId: c.id, LocationId: "store", MedicineId: "gold"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonMedicineNotFound)
}
