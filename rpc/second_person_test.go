package rpc

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

func writeOff(quantity int64) *stockledgerv1.WriteOffStock {
	return &stockledgerv1.WriteOffStock{LocationId: "store", LotId: "L1", Quantity: quantity, ReasonCode: "broken"}
}

// policed is a clinic where write-offs need approval, adjustments a review, and
// returns a witness.
func policed(t *testing.T, n *node) *clinic {
	t.Helper()
	c := newClinic(t, n)
	c.must(t, command(&stockledgerv1.SetPolicy{ApprovalHours: 1, Rules: []*stockledgerv1.PolicyRule{
		{ControlClass: "*", Command: "WriteOffStock", Requires: stockledgerv1.Requirement_REQUIREMENT_APPROVAL},
		{ControlClass: "*", Command: "DeactivateMedicine", Requires: stockledgerv1.Requirement_REQUIREMENT_APPROVAL},
		{ControlClass: "*", Command: "AdjustStock", Requires: stockledgerv1.Requirement_REQUIREMENT_REVIEW},
		{ControlClass: "*", Command: "ReturnToSupplier", Requires: stockledgerv1.Requirement_REQUIREMENT_WITNESS},
		{ControlClass: "*", Command: "CompleteTransfer", Requires: stockledgerv1.Requirement_REQUIREMENT_APPROVAL},
	}}))
	return c
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "mwana", RoleManager)
	get := func() *stockledgerv1.Policy {
		t.Helper()
		response, err := p.catalog.GetPolicy(t.Context(), &stockledgerv1.GetPolicyRequest{ClinicId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetPolicy()
	}
	if got := get(); got.GetEtag() != "0" || got.GetApprovalHours() != 72 || got.GetRules() != nil {
		t.Errorf("never set: %v", got)
	}
	want := &stockledgerv1.Policy{
		Rules:         []*stockledgerv1.PolicyRule{{ControlClass: "schedule-2", Command: "WriteOffStock", Above: 5, Requires: stockledgerv1.Requirement_REQUIREMENT_WITNESS}},
		ApprovalHours: 48, ToleranceUnits: 2, ToleranceBasisPoints: 50, CountApproval: true, Recount: true,
		ReasonCodes: []*stockledgerv1.PolicyReasonCodes{{Command: "AdjustStock", Codes: []string{"typo", "broken"}}},
	}
	set := &stockledgerv1.SetPolicy{
		Rules: want.Rules, ApprovalHours: want.ApprovalHours, ToleranceUnits: want.ToleranceUnits, ToleranceBasisPoints: want.ToleranceBasisPoints,
		CountApproval: true, Recount: true, ReasonCodes: want.ReasonCodes, Etag: "0",
	}
	want.Etag = p.give(t, set).GetChange().GetDocuments()[0].GetEtag()
	if got := get(); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	p.refused(t, connect.CodeAborted, ledger.ReasonEtagMismatch, set)
	p.refused(t, connect.CodeFailedPrecondition, ledger.ReasonReasonCodeUnknown, &stockledgerv1.AdjustStock{
		LocationId: "store", LotId: "L1", Direction: stockledgerv1.AdjustmentDirection_ADJUSTMENT_DIRECTION_INCREASE, Quantity: 1, ReasonCode: "whim",
	})
	for _, name := range []string{"Nonsense", "RequestApproval", "ApproveCommand"} {
		_, err := p.try(t, command(&stockledgerv1.SetPolicy{ApprovalHours: 1, Rules: []*stockledgerv1.PolicyRule{{Command: name, Requires: stockledgerv1.Requirement_REQUIREMENT_REVIEW}}}))
		info := wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
		if got := info.GetMetadata()["field"]; got != "command.set_policy.rules[0].command" {
			t.Errorf("%s: field %q", name, got)
		}
	}
}

func TestACommandWaitsForASecondPerson(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := policed(t, n)
	keeper, chemist := c.person(t, "sefu", RoleStorekeeper), c.person(t, "asha", RolePharmacist)
	asked := keeper.give(t, writeOff(7))
	request := asked.GetApproval()
	if request.GetCommand() != "WriteOffStock" || asked.GetStock() != nil || asked.GetChange() != nil ||
		request.GetMoves()[0].GetTo() != stockledgerv1.Bucket_BUCKET_PENDING || request.GetDeadline() == nil {
		t.Fatalf("asked: %v", asked)
	}
	list, err := chemist.query.ListApprovals(t.Context(), &stockledgerv1.ListApprovalsRequest{ClinicId: c.id})
	if got := list.GetApprovals(); err != nil || len(got) != 1 || got[0].GetApprovalId() != request.GetApprovalId() || got[0].GetRequester() != "sefu" ||
		got[0].GetLines()[0].GetQuantity() != 7 || got[0].GetOverdue() || got[0].GetReview() {
		t.Errorf("the queue: %v, %v", list, err)
	}
	decision := command(&stockledgerv1.ApproveCommand{ApprovalId: request.GetApprovalId()})
	approved, err := chemist.try(t, decision)
	if err != nil {
		t.Fatal(err)
	}
	inner := approved.GetChange().GetApproved()
	if inner.GetCommand() != "WriteOffStock" || inner.GetRequester() != "sefu" || inner.GetStock().GetQuantity() != 7 ||
		inner.GetStock().GetLots()[0].GetBalances().GetAvailable() != 93 {
		t.Errorf("approved: %v", approved)
	}
	again, err := chemist.try(t, decision)
	if again.Replayed = false; err != nil || !proto.Equal(approved, again) {
		t.Errorf("again: %v, %v", again, err)
	}
	got, err := keeper.query.GetApproval(t.Context(), &stockledgerv1.GetApprovalRequest{ClinicId: c.id, ApprovalId: request.GetApprovalId()})
	if err != nil || got.GetApproval().GetStatus() != stockledgerv1.ApprovalStatus_APPROVAL_STATUS_APPROVED || got.GetApproval().GetDecider() != "asha" {
		t.Errorf("decided: %v, %v", got, err)
	}
	movements, err := chemist.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, NewestFirst: true})
	if last := movements.GetMovements()[0]; err != nil || last.GetCommand() != "WriteOffStock" || last.GetActor() != "asha" || last.GetRequester() != "sefu" {
		t.Errorf("movements: %v, %v", movements, err)
	}

	// Withdrawn by who asked; refused by somebody else; not due.
	mine := keeper.give(t, writeOff(1)).GetApproval().GetApprovalId()
	keeper.refused(t, connect.CodeFailedPrecondition, ledger.ReasonApprovalNotDue, &stockledgerv1.LapseCommand{ApprovalId: mine})
	keeper.give(t, &stockledgerv1.RejectCommand{ApprovalId: mine, ReasonCode: "mistake"})
	theirs := keeper.give(t, writeOff(1)).GetApproval().GetApprovalId()
	chemist.give(t, &stockledgerv1.RejectCommand{ApprovalId: theirs, ReasonCode: "why"})
	chemist.refused(t, connect.CodeNotFound, ledger.ReasonApprovalNotFound, &stockledgerv1.ApproveCommand{ApprovalId: theirs})
	closed, err := chemist.query.ListApprovals(t.Context(), &stockledgerv1.ListApprovalsRequest{ClinicId: c.id, IncludeClosed: true, NewestFirst: true})
	if got := closed.GetApprovals(); err != nil || len(got) != 3 || got[0].GetStatus() != stockledgerv1.ApprovalStatus_APPROVAL_STATUS_REJECTED ||
		got[1].GetStatus() != stockledgerv1.ApprovalStatus_APPROVAL_STATUS_WITHDRAWN {
		t.Errorf("closed: %v, %v", closed, err)
	}
}

func TestAReviewComesAfterwards(t *testing.T) {
	t.Parallel()
	c := policed(t, shared(t))
	keeper, chemist := c.person(t, "sefu", RoleStorekeeper), c.person(t, "asha", RolePharmacist)
	adjusted := keeper.give(t, &stockledgerv1.AdjustStock{
		LocationId: "store", LotId: "L1", Direction: stockledgerv1.AdjustmentDirection_ADJUSTMENT_DIRECTION_INCREASE, Quantity: 1, ReasonCode: "found",
	})
	if adjusted.GetStock().GetQuantity() != 1 || adjusted.GetReview().GetDeadline() == nil {
		t.Errorf("adjusted: %v", adjusted)
	}
	got, err := chemist.query.GetApproval(t.Context(), &stockledgerv1.GetApprovalRequest{ClinicId: c.id, ApprovalId: adjusted.GetReview().GetApprovalId()})
	if err != nil || !got.GetApproval().GetReview() || got.GetApproval().GetCommand() != "AdjustStock" || got.GetApproval().GetOpenedSequence() != adjusted.GetSequence() {
		t.Errorf("review: %v, %v", got, err)
	}
	confirmed := chemist.give(t, &stockledgerv1.ApproveCommand{ApprovalId: adjusted.GetReview().GetApprovalId()})
	if confirmed.GetChange().GetApproved() != nil || len(confirmed.GetChange().GetMoves()) != 0 {
		t.Errorf("confirmed: %v", confirmed)
	}
}

// TestOnePersonIsNeverBoth tries it alone, in a batch and in a linked batch.
func TestOnePersonIsNeverBoth(t *testing.T) {
	t.Parallel()
	c := policed(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	withWitness := func() *stockledgerv1.Command {
		c := command(&stockledgerv1.ReturnToSupplier{LocationId: "store", LotId: "L1", Quantity: 1, ReasonCode: "recall"})
		c.WitnessToken = p.token
		return c
	}
	asked := p.give(t, writeOff(1))
	for name, attempt := range map[string]func() *stockledgerv1.Command{
		"approve": func() *stockledgerv1.Command {
			return command(&stockledgerv1.ApproveCommand{ApprovalId: asked.GetApproval().GetApprovalId()})
		},
		"witness": withWitness,
	} {
		_, err := p.try(t, attempt())
		wantError(t, err, connect.CodePermissionDenied, ledger.ReasonSamePerson)
		for _, linked := range []bool{false, true} {
			response, err := p.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Linked: linked, Commands: keyed(attempt(), reserve("ward", 1))})
			if err != nil {
				t.Fatal(err)
			}
			other := ledger.Reason("")
			if linked {
				other = ledger.ReasonLinkedCommandRejected
			}
			t.Log(name, linked)
			wantReasons(t, response.GetResults(), ledger.ReasonSamePerson, other)
		}
	}
	// The number of a request can be guessed, so it may stand in the batch that
	// asks for it.
	sequence := p.give(t, reserve("ward", 1).GetReserveStock()).GetSequence()
	response, err := p.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Linked: true, Commands: keyed(
		command(writeOff(1)), command(&stockledgerv1.ApproveCommand{ApprovalId: reviewID(ledger.Sequence(sequence) + 1)}),
	)})
	if err != nil {
		t.Fatal(err)
	}
	wantReasons(t, response.GetResults(), ledger.ReasonLinkedCommandRejected, ledger.ReasonSamePerson)
}

func TestWhoDecidesMustBeAllowedToGiveTheCommand(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := policed(t, n)
	keeper, other := c.person(t, "sefu", RoleStorekeeper), c.person(t, "juma", RoleStorekeeper)
	id := keeper.give(t, writeOff(1)).GetApproval().GetApprovalId()
	// A storekeeper may withdraw requests, and none but their own.
	other.refused(t, connect.CodePermissionDenied, ledger.ReasonCommandForbidden, &stockledgerv1.RejectCommand{ApprovalId: id, ReasonCode: "no"})
	other.refused(t, connect.CodePermissionDenied, reasonPermissionDenied, &stockledgerv1.ApproveCommand{ApprovalId: id})
	needs, err := newCommandPermissions()
	if err != nil {
		t.Fatal(err)
	}
	chemist := &Principal{Roles: []Role{RolePharmacist}}
	if decides := needs.deciding(chemist); !decides(ledger.KindWriteOffStock) || decides(ledger.KindSetPolicy) || decides(ledger.KindRequestApproval) {
		t.Error("a pharmacist decides on what a pharmacist may not give, or not on what they may")
	}
	if needs.deciding(&Principal{Roles: []Role{RoleStorekeeper}})(ledger.KindWriteOffStock) {
		t.Error("a storekeeper decides")
	}
}

func TestWhoIsLimitedDecidesOnNothingBeyond(t *testing.T) {
	t.Parallel()
	c := policed(t, shared(t))
	asha, ward := c.person(t, "asha", RolePharmacist), c.person(t, "neema", RolePharmacist, "ward")
	stock := asha.give(t, writeOff(1)).GetApproval().GetApprovalId()
	ward.refused(t, connect.CodePermissionDenied, ledger.ReasonLocationForbidden, &stockledgerv1.ApproveCommand{ApprovalId: stock})
	_, err := ward.query.GetApproval(t.Context(), &stockledgerv1.GetApprovalRequest{ClinicId: c.id, ApprovalId: stock})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	asha.give(t, &stockledgerv1.AddMedicine{MedicineId: "old", Name: "Old", BaseUnit: "ml"})
	whole := asha.give(t, &stockledgerv1.DeactivateMedicine{MedicineId: "old", ReasonCode: "gone"}).GetApproval().GetApprovalId()
	ward.refused(t, connect.CodePermissionDenied, reasonLocationRequired, &stockledgerv1.ApproveCommand{ApprovalId: whole})
	// The clinic's own requests are not hidden from its people; other
	// locations' are.
	list, err := ward.query.ListApprovals(t.Context(), &stockledgerv1.ListApprovalsRequest{ClinicId: c.id})
	if err != nil || len(list.GetApprovals()) != 1 || list.GetApprovals()[0].GetApprovalId() != whole {
		t.Errorf("the queue: %v, %v", list, err)
	}
}

func TestWitnesses(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c, elsewhere := policed(t, n), newClinic(t, n)
	keeper := c.person(t, "sefu", RoleStorekeeper)
	back := func(token string) *stockledgerv1.Command {
		c := command(&stockledgerv1.ReturnToSupplier{LocationId: "store", LotId: "L1", Quantity: 1, ReasonCode: "recall"})
		c.WitnessToken = token
		return c
	}
	_, err := keeper.try(t, back(""))
	wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonWitnessRequired)

	good := c.person(t, "neema", RoleNurse)
	request := c.request(back(good.token))
	first, err := keeper.ReturnToSupplier(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	// The same person with another token is the same witness.
	request.Command.WitnessToken = n.token(t, Principal{Subject: "neema", Roles: []Role{RoleNurse, RoleViewer}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}})
	again, err := keeper.ReturnToSupplier(t.Context(), request)
	if err != nil || !again.GetAccepted().GetReplayed() || again.GetAccepted().GetSequence() != first.GetAccepted().GetSequence() {
		t.Errorf("again: %v, %v", again, err)
	}
	request.Command.WitnessToken = c.person(t, "rehema", RoleNurse).token
	_, err = keeper.ReturnToSupplier(t.Context(), request)
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
	movements, err := good.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"})
	if err != nil || movements.GetTotals().GetAvailable() != 199 {
		t.Errorf("stock: %v, %v", movements, err)
	}
	card, err := keeper.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, NewestFirst: true})
	if err != nil || card.GetMovements()[0].GetWitness() != "neema" {
		t.Errorf("movements: %v, %v", card, err)
	}

	past := *n.issuer
	past.now = func() time.Time { return time.Now().Add(-time.Hour) }
	expired, err := past.Issue(Principal{Subject: "neema", Roles: []Role{RoleNurse}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	messages := make(map[string]bool)
	for name, token := range map[string]string{
		"expired": expired, "nonsense": "hello", "NUL": "a\x00b", "another clinic": elsewhere.person(t, "neema", RoleNurse).token, "may not witness": c.person(t, "neema", RoleAuditor).token,
		"altered": good.token[:len(good.token)-4] + "AAAA", "another issuer": func() string {
			token, err := newTestIssuer(t).Issue(Principal{Subject: "neema", Roles: []Role{RoleNurse}, Clinics: []ledger.ClinicID{"*"}}, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}(),
	} {
		_, err := keeper.try(t, back(token))
		info := wantError(t, err, connect.CodePermissionDenied, reasonWitnessInvalid)
		messages[err.Error()] = true
		if info.GetMetadata()["field"] != "command.witness_token" || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v, %v", name, err, info)
		}
		response, err := keeper.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(back(token), back(good.token))})
		if err != nil {
			t.Fatal(err)
		}
		wantReasons(t, response.GetResults(), reasonWitnessInvalid, "")
		if got := response.GetResults()[0].GetRejected(); got.GetCode() != "permission_denied" || got.GetField() != "witness_token" {
			t.Errorf("%s in a batch: %v", name, got)
		}
	}
	if len(messages) != 1 {
		t.Errorf("the answers tell what is wrong with a token: %v", messages)
	}

	// Witnesses are held to their own locations.
	ward := c.person(t, "upendo", RoleNurse, "ward")
	_, err = keeper.try(t, back(ward.token))
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	both := c.person(t, "upendo", RoleNurse, "ward", "store")
	response, err := keeper.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(back(both.token), back(ward.token))})
	if err != nil {
		t.Fatal(err)
	}
	wantReasons(t, response.GetResults(), "", reasonWitnessInvalid)
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func TestNoLogShowsAWitnessToken(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	n := startNode(t, Config{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, Deps{})
	c := policed(t, n)
	keeper, witness := c.person(t, "sefu", RoleStorekeeper), c.person(t, "neema", RoleNurse)
	const secret = "not-a-token-but-secret"
	for i, token := range []string{witness.token, secret, strings.Repeat(secret, 1000)} {
		back := command(&stockledgerv1.ReturnToSupplier{LocationId: "store", LotId: "L1", Quantity: 1, ReasonCode: "recall"})
		back.WitnessToken = token
		if _, err := keeper.try(t, back); (err == nil) != (i == 0) || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%d: %v", i, err)
		}
		response, err := keeper.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(back)})
		if err != nil || strings.Contains(response.String(), secret) {
			t.Errorf("%d in a batch: %v, %v", i, response, err)
		}
	}
	_, answer := n.post(t, h1(), "/stockledger.v1.InventoryService/ReturnToSupplier", keeper.token, "application/json",
		fmt.Appendf(nil, `{"clinicId": %q, "command": {"idempotencyKey": "k", "witnessToken": %q, "returnToSupplier": {"colour": 1}}}`, c.id, secret))
	if strings.Contains(string(answer), secret) {
		t.Errorf("the answer repeats the token: %s", answer)
	}
	n.stop()
	if text := log.String(); strings.Contains(text, secret) || strings.Contains(text, witness.token) {
		t.Error("the log shows a witness's token")
	} else if !strings.Contains(text, string(reasonWitnessInvalid)) {
		t.Errorf("the log does not show the calls: %s", text)
	}
}

// TestBothEndsOfATransfer lets two people move stock, each of whom is limited to
// one end.
func TestBothEndsOfATransfer(t *testing.T) {
	t.Parallel()
	c := policed(t, shared(t))
	store, ward := c.person(t, "sefu", RoleStorekeeper, "store"), c.person(t, "neema", RoleStorekeeper, "ward")
	attic := c.person(t, "mwezi", RoleStorekeeper, "attic")
	body := &stockledgerv1.TransferStock{FromLocationId: "store", ToLocationId: "ward", Lines: zinc(10), DispatchBy: inAnHour(), ReasonCode: "restock"}
	attic.refused(t, connect.CodePermissionDenied, ledger.ReasonLocationForbidden, body)
	store.give(t, body)
	id := documentOf(t, ward.give(t, body), stockledgerv1.DocumentKind_DOCUMENT_KIND_TRANSFER)

	const forbidden, denied = ledger.ReasonLocationForbidden, connect.CodePermissionDenied
	ward.refused(t, denied, forbidden, &stockledgerv1.ApproveTransfer{TransferId: id})
	// More than the store has: a rejection would tell the ward how much that is.
	much := documentOf(t, ward.give(t, &stockledgerv1.TransferStock{
		FromLocationId: "store", ToLocationId: "ward", Lines: zinc(1_000_000), DispatchBy: inAnHour(), ReasonCode: "restock",
	}), stockledgerv1.DocumentKind_DOCUMENT_KIND_TRANSFER)
	ward.refused(t, denied, forbidden, &stockledgerv1.ApproveTransfer{TransferId: much})
	store.refused(t, connect.CodeFailedPrecondition, ledger.ReasonInsufficientStock, &stockledgerv1.ApproveTransfer{TransferId: much})
	attic.refused(t, denied, forbidden, &stockledgerv1.ApproveTransfer{TransferId: id})
	store.give(t, &stockledgerv1.ApproveTransfer{TransferId: id})
	ward.refused(t, denied, forbidden, &stockledgerv1.DispatchTransfer{TransferId: id})
	store.give(t, &stockledgerv1.DispatchTransfer{TransferId: id})
	store.refused(t, denied, forbidden, &stockledgerv1.ReceiveTransfer{TransferId: id})
	ward.give(t, &stockledgerv1.ReceiveTransfer{TransferId: id, Lines: []*stockledgerv1.LotLine{{LotId: "L1", Quantity: 9}}})
	attic.refused(t, denied, forbidden, &stockledgerv1.CancelTransfer{TransferId: id, ReasonCode: "x"})
	if asked := ward.give(t, &stockledgerv1.CompleteTransfer{TransferId: id, ReasonCode: "lost"}); asked.GetApproval() == nil {
		t.Errorf("completed without approval: %v", asked)
	}
	for p, want := range map[*person]int{store: 3, ward: 3, attic: 0} {
		list, err := p.query.ListTransfers(t.Context(), &stockledgerv1.ListTransfersRequest{ClinicId: c.id, Read: &stockledgerv1.ReadOptions{Consistency: stockledgerv1.Consistency_CONSISTENCY_STRONG}})
		if err != nil || len(list.GetTransfers()) != want {
			t.Errorf("%v, %v; want %d", list, err, want)
		}
	}
	if _, err := ward.query.GetTransfer(t.Context(), &stockledgerv1.GetTransferRequest{ClinicId: c.id, TransferId: id}); err != nil {
		t.Error(err)
	}
	_, err := attic.query.GetTransfer(t.Context(), &stockledgerv1.GetTransferRequest{ClinicId: c.id, TransferId: id})
	wantError(t, err, denied, forbidden)
	_, err = attic.query.ListTransfers(t.Context(), &stockledgerv1.ListTransfersRequest{ClinicId: c.id, LocationId: "store"})
	wantError(t, err, denied, forbidden)
}

func TestWhoIsLimitedReachesNoOtherLocation(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	all, ward := c.person(t, "mwana", RoleManager), c.person(t, "neema", RoleManager, "ward")
	there := all.give(t, receive("store", "L1", 1).GetReceiveStock()).GetSequence()
	here := all.give(t, receive("ward", "L1", 1).GetReceiveStock()).GetSequence()
	count := documentOf(t, all.give(t, &stockledgerv1.StartCount{LocationId: "store"}), stockledgerv1.DocumentKind_DOCUMENT_KIND_COUNT)
	const forbidden, required, denied = ledger.ReasonLocationForbidden, reasonLocationRequired, connect.CodePermissionDenied
	for _, test := range []struct {
		reason ledger.Reason
		body   proto.Message
	}{
		{forbidden, &stockledgerv1.ReverseReceipt{Sequence: there, ReasonCode: "typo"}},
		{forbidden, &stockledgerv1.RecordCount{CountId: count, ReasonCode: "x", Lines: []*stockledgerv1.CountedLine{{LotId: "L1", Counted: 1}}}},
		{forbidden, &stockledgerv1.RecordCount{LocationId: "store", ReasonCode: "x", Lines: []*stockledgerv1.CountedLine{{LotId: "L1", Counted: 1}}}},
		{forbidden, &stockledgerv1.CompleteCount{CountId: count, ReasonCode: "x"}},
		{forbidden, &stockledgerv1.QuarantineLot{LotId: "L1", LocationId: "store", ReasonCode: "wet"}},
		{forbidden, &stockledgerv1.OpenContainer{LocationId: "store", LotId: "L1", Quantity: 1, InUseUntil: fromDate(ledger.DateOf(time.Now().AddDate(0, 0, 9)))}},
		{forbidden, &stockledgerv1.UpdateStockLevels{LocationId: "store", MedicineId: "zinc"}},
		{forbidden, &stockledgerv1.LendStock{PartnerClinicId: "x", LocationId: "store", LotId: "L1", Quantity: 1, Reference: "LN-1"}},
		{required, &stockledgerv1.QuarantineLot{LotId: "L1", ReasonCode: "wet"}},
		{required, &stockledgerv1.RecallLot{LotId: "L1", ReasonCode: "maker"}},
		{required, &stockledgerv1.LiftRecall{RecallId: "RC-1", ReasonCode: "x"}},
		{required, &stockledgerv1.SetPolicy{ApprovalHours: 1}},
		{required, &stockledgerv1.SetPacks{MedicineId: "zinc"}},
		{required, &stockledgerv1.AddIdentifier{Subject: 1, SubjectId: "zinc", System: "x", Value: "y"}},
	} {
		ward.refused(t, denied, test.reason, test.body)
	}
	ward.give(t, &stockledgerv1.ReverseReceipt{Sequence: here, ReasonCode: "typo"})
	ward.give(t, &stockledgerv1.QuarantineLot{LotId: "L1", LocationId: "ward", Quantity: 1, ReasonCode: "wet"})
	_, err := ward.query.GetCount(t.Context(), &stockledgerv1.GetCountRequest{ClinicId: c.id, CountId: count})
	wantError(t, err, denied, forbidden)
	_, err = ward.query.GetBalanceAt(t.Context(), &stockledgerv1.GetBalanceAtRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc", LotId: "L1", Sequence: 1})
	wantError(t, err, denied, forbidden)
	_, err = ward.query.ControlledRegister(t.Context(), &stockledgerv1.ControlledRegisterRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"})
	wantError(t, err, denied, forbidden)
	_, err = ward.query.GetStockLevels(t.Context(), &stockledgerv1.GetStockLevelsRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"})
	wantError(t, err, denied, forbidden)
	counts, err := ward.query.ListCounts(t.Context(), &stockledgerv1.ListCountsRequest{ClinicId: c.id})
	if err != nil || len(counts.GetCounts()) != 0 {
		t.Errorf("counts: %v, %v", counts, err)
	}
}

func TestJSONOfAChange(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "sefu", RoleStorekeeper)
	client := c.node.client(p.token, h1(), connecthttp.WithProtoJSON())
	response, err := client.TransferStock(t.Context(), c.request(command(&stockledgerv1.TransferStock{
		FromLocationId: "store", ToLocationId: "ward", Lines: zinc(10), DispatchBy: inAnHour(), ReasonCode: "restock",
	})))
	if err != nil {
		t.Fatal(err)
	}
	id := response.GetAccepted().GetChange().GetDocuments()[0].GetId()
	status, answer := c.node.post(t, h1(), "/stockledger.v1.InventoryService/ApproveTransfer", p.token, "application/json",
		fmt.Appendf(nil, `{"clinicId": %q, "command": {"idempotencyKey": %q, "approveTransfer": {"transferId": %q, "lines": [{"medicineId": "zinc", "quantity": "4"}]}}}`, c.id, key(), id))
	text := strings.ReplaceAll(string(answer), " ", "")
	for _, want := range []string{`"change":{"moves":[{"locationId":"store"`, `"to":"BUCKET_RESERVED"`, `"kind":"DOCUMENT_KIND_TRANSFER"`, `"holdIds":["hold_`} {
		if status != 200 || !strings.Contains(text, want) {
			t.Errorf("%d: %s lacks %s", status, text, want)
		}
	}
}
