package rpc

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

func (n *node) operations(tb testing.TB, p Principal) stockledgerv1connect.OperationServiceClient {
	tb.Helper()
	return stockledgerv1connect.NewOperationServiceClient(connect.NewClient(connecthttp.NewTransport(h2c(), n.url), bearer(n.token(tb, p))))
}

func TestOperations(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	ops := n.operations(t, pharmacist(c.id))
	commands := keyed(reserve("store", 3), reserve("store", 1_000_000), receive("store", "L1", 0))
	submit := func() []*stockledgerv1.SubmitOutcome {
		t.Helper()
		answer, err := ops.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: commands})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetOutcomes()
	}
	outcomes := submit()
	if op := outcomes[0].GetOperation(); op.GetPriority() != stockledgerv1.Priority_PRIORITY_HIGH || op.GetKind() != "ReserveStock" || op.GetSubmittedAt() == nil {
		t.Errorf("submitted: %v", outcomes[0])
	}
	if r := outcomes[2].GetRejected(); r.GetReason() != "INVALID_FIELD" || r.GetField() == "" {
		t.Errorf("a command that cannot be right: %v", outcomes[2])
	}
	wait := func(key string) *stockledgerv1.Operation {
		t.Helper()
		answer, err := ops.WaitOperation(t.Context(), &stockledgerv1.WaitOperationRequest{ClinicId: c.id, IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetOperation()
	}
	done := wait(commands[0].GetIdempotencyKey())
	if accepted := done.GetResult().GetAccepted(); done.GetState() != stockledgerv1.OperationState_OPERATION_STATE_ACCEPTED || accepted.GetStock().GetQuantity() != 3 || accepted.GetStock().GetHoldId() == "" {
		t.Errorf("carried out: %v", done)
	}
	short := wait(commands[1].GetIdempotencyKey())
	if r := short.GetResult().GetRejected(); short.GetState() != stockledgerv1.OperationState_OPERATION_STATE_REJECTED || r.GetReason() != "INSUFFICIENT_STOCK" || r.GetMetadata()["requested"] != "1000000" {
		t.Errorf("too much: %v", short)
	}
	// Sent again, it is what it came to, and is not done again.
	again := submit()
	if op := again[0].GetOperation(); op.GetState() != stockledgerv1.OperationState_OPERATION_STATE_ACCEPTED || op.GetResult().GetAccepted().GetSequence() != done.GetResult().GetAccepted().GetSequence() {
		t.Errorf("submitted again: %v", again[0])
	}
	other := proto.CloneOf(commands[0])
	other.GetReserveStock().Quantity++
	reused, err := ops.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{other}})
	if err != nil || reused.GetOutcomes()[0].GetRejected().GetReason() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another command under the key: %v %v", reused, err)
	}
	got, err := ops.GetOperation(t.Context(), &stockledgerv1.GetOperationRequest{ClinicId: c.id, IdempotencyKey: done.GetIdempotencyKey()})
	if err != nil || !proto.Equal(got.GetOperation(), done) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = ops.GetOperation(t.Context(), &stockledgerv1.GetOperationRequest{ClinicId: c.id, IdempotencyKey: "none"})
	wantError(t, err, connect.CodeNotFound, reasonOperationNotFound)
	_, err = ops.CancelOperation(t.Context(), &stockledgerv1.CancelOperationRequest{ClinicId: c.id, IdempotencyKey: done.GetIdempotencyKey()})
	wantError(t, err, connect.CodeFailedPrecondition, reasonOperationState)
	_, err = ops.ResubmitOperation(t.Context(), &stockledgerv1.ResubmitOperationRequest{ClinicId: c.id, IdempotencyKey: done.GetIdempotencyKey()})
	wantError(t, err, connect.CodeFailedPrecondition, reasonOperationState)
	// What was short can be tried again once there is enough.
	if _, err := c.admin.ReceiveStock(t.Context(), c.request(receive("store", "L1", 2_000_000))); err != nil {
		t.Fatal(err)
	}
	if _, err := ops.ResubmitOperation(t.Context(), &stockledgerv1.ResubmitOperationRequest{ClinicId: c.id, IdempotencyKey: short.GetIdempotencyKey()}); err != nil {
		t.Fatal(err)
	}
	if op := wait(short.GetIdempotencyKey()); op.GetResult().GetAccepted().GetStock().GetQuantity() != 1_000_000 {
		t.Errorf("tried again: %v", op)
	}
}

func TestOperationsOfOthers(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	clinics := []ledger.ClinicID{ledger.ClinicID(c.id)}
	nurse := n.operations(t, Principal{Subject: "neema", Roles: []Role{RoleNurse}, Clinics: clinics})
	keeper := n.operations(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}, Clinics: clinics})
	auditor := n.operations(t, Principal{Subject: "otieno", Roles: []Role{RoleAuditor}, Clinics: clinics})
	var mine []string
	for i := range 5 {
		command := keyed(reserve("store", 1))[0]
		command.IdempotencyKey = fmt.Sprint("n", i)
		if _, err := nurse.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{command}, Priority: stockledgerv1.Priority_PRIORITY_LOW}); err != nil {
			t.Fatal(err)
		}
		mine = append([]string{command.GetIdempotencyKey()}, mine...)
	}
	list := func(from stockledgerv1connect.OperationServiceClient) (keys []string) {
		t.Helper()
		page := &stockledgerv1.Page{PageSize: 2}
		for {
			answer, err := from.ListOperations(t.Context(), &stockledgerv1.ListOperationsRequest{ClinicId: c.id, Page: page})
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range answer.GetOperations() {
				keys = append(keys, op.GetIdempotencyKey())
			}
			if answer.GetNextPageToken() == "" {
				return keys
			}
			page.PageToken = answer.GetNextPageToken()
		}
	}
	if got := list(nurse); fmt.Sprint(got) != fmt.Sprint(mine) {
		t.Errorf("her own are %v", got)
	}
	if got := list(auditor); fmt.Sprint(got) != fmt.Sprint(mine) {
		t.Errorf("an auditor sees %v", got)
	}
	if got := list(keeper); len(got) != 0 {
		t.Errorf("another one sees %v", got)
	}
	_, err := keeper.CancelOperation(t.Context(), &stockledgerv1.CancelOperationRequest{ClinicId: c.id, IdempotencyKey: "n0"})
	wantError(t, err, connect.CodeNotFound, reasonOperationNotFound)
	_, err = keeper.WaitOperation(t.Context(), &stockledgerv1.WaitOperationRequest{ClinicId: c.id, IdempotencyKey: "n0", Timeout: durationpb.New(time.Minute)})
	wantError(t, err, connect.CodeNotFound, reasonOperationNotFound)
	// What a role does not permit now is not permitted later either.
	_, err = nurse.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: keyed(receive("store", "L1", 1))})
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	_, err = auditor.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: keyed(reserve("store", 1))})
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
}
