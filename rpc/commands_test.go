package rpc

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn/txntest"
)

// unary is a named method that takes one command.
type unary func(context.Context, *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error)

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// TestEveryCommandByItsName walks a clinic's life through the named methods.
func TestEveryCommandByItsName(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := &clinic{id: txntest.NewClinicID(t), node: n}
	admin := n.client(n.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}}), h2c())
	give := func(method unary, command *stockledgerv1.Command) *stockledgerv1.Accepted {
		t.Helper()
		response, err := method(t.Context(), c.request(command))
		if err != nil {
			t.Fatal(err)
		}
		return response.GetAccepted()
	}
	document := func(method unary, id string, command *stockledgerv1.Command) {
		t.Helper()
		accepted := give(method, command)
		if got := accepted.GetDocument(); got.GetId() != id || got.GetEtag() != decimal(accepted.GetSequence()) {
			t.Errorf("got %v, want %s", accepted, id)
		}
	}
	year := int32(time.Now().Year())
	expiry := &date.Date{Year: year + 1, Month: 6, Day: 30}

	document(admin.catalog.CreateClinic, c.id, &stockledgerv1.Command{Body: &stockledgerv1.Command_CreateClinic{CreateClinic: &stockledgerv1.CreateClinic{Name: "A", TimeZone: "UTC"}}})
	document(admin.catalog.UpdateClinic, c.id, &stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateClinic{UpdateClinic: &stockledgerv1.UpdateClinic{
		Name: "B", BackdatingDays: 30, UpdateMask: mask("name", "backdating_days"),
	}}})
	document(admin.catalog.CreateLocation, "store", &stockledgerv1.Command{Body: &stockledgerv1.Command_CreateLocation{CreateLocation: &stockledgerv1.CreateLocation{LocationId: "store", Name: "Store", Kind: stockledgerv1.LocationKind_LOCATION_KIND_STORE}}})
	document(admin.catalog.UpdateLocation, "store", &stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateLocation{UpdateLocation: &stockledgerv1.UpdateLocation{
		LocationId: "store", Kind: stockledgerv1.LocationKind_LOCATION_KIND_DISPENSARY, UpdateMask: mask("kind"),
	}}})
	document(admin.catalog.AddMedicine, "zinc", &stockledgerv1.Command{Body: &stockledgerv1.Command_AddMedicine{AddMedicine: &stockledgerv1.AddMedicine{MedicineId: "zinc", Name: "Zinc", BaseUnit: "tablet"}}})
	document(admin.catalog.RegisterLot, "L1", &stockledgerv1.Command{Body: &stockledgerv1.Command_RegisterLot{RegisterLot: &stockledgerv1.RegisterLot{LotId: "L1", MedicineId: "zinc", Gtin: "4006381333931", LotNumber: "1", Expiry: expiry}}})
	document(admin.catalog.UpdateLot, "L1", &stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateLot{UpdateLot: &stockledgerv1.UpdateLot{
		LotId: "L1", Expiry: &date.Date{Year: year + 2, Month: 1, Day: 31}, UpdateMask: mask("expiry"),
	}}})

	give(admin.ReceiveStock, receive("store", "L1", 10))
	adjusted := give(admin.AdjustStock, &stockledgerv1.Command{Body: &stockledgerv1.Command_AdjustStock{AdjustStock: &stockledgerv1.AdjustStock{
		LocationId: "store", LotId: "L1", Direction: stockledgerv1.AdjustmentDirection_ADJUSTMENT_DIRECTION_DECREASE, Quantity: 1, ReasonCode: "broken",
	}}})
	if got := adjusted.GetStock().GetLots()[0].GetBalances().GetAvailable(); got != 9 {
		t.Errorf("%d units are available after the adjustment", got)
	}
	first := give(admin.ReserveStock, reserve("store", 4)).GetStock().GetHoldId()
	second := give(admin.ReserveStock, reserve("store", 2)).GetStock().GetHoldId()
	if got := give(admin.IssueStock, issueHold(first, 3)).GetStock(); got.GetQuantity() != 3 || got.GetHoldId() != first {
		t.Errorf("issued %v", got)
	}
	give(admin.IssueStock, issueHold(first, 0))
	_, err := admin.ExpireReservation(t.Context(), c.request(&stockledgerv1.Command{Body: &stockledgerv1.Command_ExpireReservation{ExpireReservation: &stockledgerv1.ExpireReservation{HoldId: second}}}))
	wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonHoldNotDue)
	give(admin.ReleaseStock, release(second))

	end := &stockledgerv1.Command{Body: &stockledgerv1.Command_DeactivateLot{DeactivateLot: &stockledgerv1.DeactivateLot{LotId: "L1", ReasonCode: "done"}}}
	_, err = admin.catalog.DeactivateLot(t.Context(), c.request(end))
	wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonLotHoldsStock)
	give(admin.IssueStock, &stockledgerv1.Command{Body: &stockledgerv1.Command_IssueStock{IssueStock: &stockledgerv1.IssueStock{LocationId: "store", MedicineId: "zinc", Quantity: 2, Recipient: "ward-3"}}})
	give(admin.WriteOffStock, &stockledgerv1.Command{Body: &stockledgerv1.Command_WriteOffStock{WriteOffStock: &stockledgerv1.WriteOffStock{LocationId: "store", LotId: "L1", Quantity: 2, ReasonCode: "broken", Reference: "destroyed-7"}}})
	returned := give(admin.ReturnToSupplier, &stockledgerv1.Command{Body: &stockledgerv1.Command_ReturnToSupplier{ReturnToSupplier: &stockledgerv1.ReturnToSupplier{LocationId: "store", LotId: "L1", Quantity: 1, ReasonCode: "recall", Supplier: "Acme"}}})
	if got := returned.GetStock(); got.GetLocationId() != "store" || got.GetQuantity() != 1 || got.GetLots()[0].GetBalances().GetAvailable() != 0 {
		t.Errorf("returned %v", got)
	}

	document(admin.catalog.DeactivateLot, "L1", &stockledgerv1.Command{Body: &stockledgerv1.Command_DeactivateLot{DeactivateLot: &stockledgerv1.DeactivateLot{LotId: "L1", ReasonCode: "done"}}})
	document(admin.catalog.DeactivateMedicine, "zinc", &stockledgerv1.Command{Body: &stockledgerv1.Command_DeactivateMedicine{DeactivateMedicine: &stockledgerv1.DeactivateMedicine{MedicineId: "zinc", ReasonCode: "done"}}})
	document(admin.catalog.DeactivateLocation, "store", &stockledgerv1.Command{Body: &stockledgerv1.Command_DeactivateLocation{DeactivateLocation: &stockledgerv1.DeactivateLocation{LocationId: "store", ReasonCode: "done"}}})
	document(admin.catalog.DeactivateClinic, c.id, &stockledgerv1.Command{Body: &stockledgerv1.Command_DeactivateClinic{DeactivateClinic: &stockledgerv1.DeactivateClinic{ReasonCode: "done"}}})
	_, err = admin.ReserveStock(t.Context(), c.request(reserve("store", 1)))
	wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonClinicInactive)
	back, err := admin.catalog.GetClinic(t.Context(), &stockledgerv1.GetClinicRequest{ClinicId: c.id, Read: &stockledgerv1.ReadOptions{Consistency: stockledgerv1.Consistency_CONSISTENCY_STRONG}})
	if err != nil || back.GetClinic().GetName() != "B" || back.GetClinic().GetActive() {
		t.Errorf("clinic: %v, %v", back, err)
	}
}
