package rpc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn/txntest"
)

func TestRolesNamePermissionsThatExist(t *testing.T) {
	t.Parallel()
	plans, err := newAccessPlans(stockledgerServices()...)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[permission]bool{permissionWitness: true, permissionBackdate: true, permissionAllOperations: true} // by what a command says
	for _, plan := range plans {
		asked[plan.permission] = true
		for _, body := range plan.bodies {
			asked[body.permission] = true
		}
	}
	for role, granted := range roles {
		for _, p := range granted {
			if p != everyPermission && !asked[p] {
				t.Errorf("role %s has the permission %q, which nothing asks for", role, p)
			}
		}
	}
	for p := range asked {
		if !RoleAdmin.permits(p) {
			t.Errorf("the admin may not %s", p)
		}
		if RoleAuditor.permits(p) != strings.HasSuffix(string(p), ".read") {
			t.Errorf("an auditor may %s: %t", p, RoleAuditor.permits(p))
		}
	}
}

func TestEveryTenantMethodChecksItsClinic(t *testing.T) {
	t.Parallel()
	plans, err := newAccessPlans(stockledgerServices()...)
	if err != nil {
		t.Fatal(err)
	}
	// These ask for a token for all clinics.
	forAll := []string{
		"/stockledger.v1.AdminService/GetCluster", "/stockledger.v1.AdminService/ListJobs", "/stockledger.v1.AdminService/ListJobRuns", "/stockledger.v1.AdminService/RunJob",
		"/stockledger.v1.AdminService/ListClinicsWithFindings",
	}
	for procedure, plan := range plans {
		if plan.clinic == nil && procedure != "/stockledger.v1.CatalogService/ListClinics" && !slices.Contains(forAll, procedure) {
			t.Errorf("%s checks no clinic", procedure)
		}
		if plan.clinic != nil && plan.clinic.Number() != 1 {
			t.Errorf("%s: clinic_id is field %d", procedure, plan.clinic.Number())
		}
	}
}

func TestRolesPermitOnlyTheirCommands(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	nurse := n.client(n.token(t, Principal{Subject: "neema", Roles: []Role{RoleNurse}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}), h2c())
	if _, err := nurse.ReserveStock(t.Context(), c.request(reserve("ward", 1))); err != nil {
		t.Error(err)
	}
	_, err := nurse.ReceiveStock(t.Context(), c.request(receive("ward", "L1", 1)))
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	_, err = nurse.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(reserve("ward", 1))})
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)

	// The batch's permission does not stand in for that of a command in it.
	keeper := n.client(n.token(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}), h2c())
	end := &stockledgerv1.Command{Body: &stockledgerv1.Command_DeactivateClinic{DeactivateClinic: &stockledgerv1.DeactivateClinic{ReasonCode: "x"}}}
	_, err = keeper.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(receive("ward", "L1", 1), end)})
	info := wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	if info.GetMetadata()["command_index"] != "1" {
		t.Errorf("metadata: %v", info.GetMetadata())
	}
}

func TestAnotherClinicLooksLikeNone(t *testing.T) {
	t.Parallel()
	n := shared(t)
	mine, theirs := newClinic(t, n), newClinic(t, n)
	me := n.client(n.token(t, pharmacist(mine.id)), h2c())
	_, err := me.ReserveStock(t.Context(), theirs.request(reserve("store", 1)))
	existing := wantError(t, err, connect.CodePermissionDenied, reasonClinicForbidden)
	missing := &clinic{id: txntest.NewClinicID(t), node: n}
	_, err = me.ReserveStock(t.Context(), missing.request(reserve("store", 1)))
	absent := wantError(t, err, connect.CodePermissionDenied, reasonClinicForbidden)
	if a, b := existing.GetMetadata(), absent.GetMetadata(); len(a) != len(b) || a["clinic_id"] == b["clinic_id"] {
		t.Errorf("the answers tell them apart: %v, %v", a, b)
	}
	_, err = me.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: theirs.id, Commands: keyed(reserve("store", 1))})
	wantError(t, err, connect.CodePermissionDenied, reasonClinicForbidden)

	// Only who may reach every clinic learns that there is none.
	_, err = mine.admin.ReserveStock(t.Context(), missing.request(reserve("store", 1)))
	wantError(t, err, connect.CodeNotFound, ledger.ReasonClinicNotFound)
}

func TestIdsOfAnotherClinicMeanNothing(t *testing.T) {
	t.Parallel()
	n := shared(t)
	mine, theirs := newClinic(t, n), newClinic(t, n)
	hold := theirs.must(t, reserve("store", 5))[0].GetStock().GetHoldId()
	_, err := mine.admin.IssueStock(t.Context(), mine.request(issueHold(hold, 0)))
	wantError(t, err, connect.CodeNotFound, ledger.ReasonHoldNotFound)
	_, err = mine.admin.ReleaseStock(t.Context(), mine.request(release(hold)))
	wantError(t, err, connect.CodeNotFound, ledger.ReasonHoldNotFound)

	lot := &stockledgerv1.Command{Body: &stockledgerv1.Command_AddMedicine{AddMedicine: &stockledgerv1.AddMedicine{Name: "Only theirs", BaseUnit: "ml"}}}
	medicine := theirs.must(t, lot)[0].GetDocument().GetId()
	foreign := reserve("store", 1)
	foreign.GetReserveStock().MedicineId = medicine
	_, err = mine.admin.ReserveStock(t.Context(), mine.request(foreign))
	wantError(t, err, connect.CodeNotFound, ledger.ReasonMedicineNotFound)
}

func TestATokenLimitedToLocations(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	there := c.must(t, reserve("store", 5))[0].GetStock().GetHoldId()
	p := pharmacist(c.id)
	p.Locations = []ledger.LocationID{"ward"}
	ward := n.client(n.token(t, p), h2c())

	own, err := ward.ReserveStock(t.Context(), c.request(reserve("ward", 5)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ward.IssueStock(t.Context(), c.request(issueHold(own.GetAccepted().GetStock().GetHoldId(), 1))); err != nil {
		t.Errorf("issue from its own hold: %v", err)
	}
	for name, command := range map[string]*stockledgerv1.Command{
		"reserve": reserve("store", 1),
		"receive": receive("store", "L1", 1),
		"issue":   issueHold(there, 0),
		"release": release(there),
	} {
		response, err := ward.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(command)})
		if err != nil {
			wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
			continue
		}
		if got := response.GetResults()[0].GetRejected().GetReason(); got != string(ledger.ReasonLocationForbidden) {
			t.Errorf("%s: got %v", name, response.GetResults()[0])
		}
	}
	_, err = ward.IssueStock(t.Context(), c.request(issueHold(there, 0)))
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.catalog.DeactivateMedicine(t.Context(), c.request(&stockledgerv1.Command{
		Body: &stockledgerv1.Command_DeactivateMedicine{DeactivateMedicine: &stockledgerv1.DeactivateMedicine{MedicineId: "zinc", ReasonCode: "x"}},
	}))
	wantError(t, err, connect.CodePermissionDenied, reasonLocationRequired)
	_, err = ward.catalog.RegisterLot(t.Context(), c.request(&stockledgerv1.Command{
		Body: &stockledgerv1.Command_RegisterLot{RegisterLot: &stockledgerv1.RegisterLot{MedicineId: "zinc", Manufacturer: "Acme", LotNumber: "9", Expiry: fromDate(ledger.MaxDate)}},
	}))
	if err != nil {
		t.Errorf("register a lot: %v", err)
	}
}

func TestTheActorIsTheTokensSubject(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	first := n.client(n.token(t, pharmacist(c.id)), h2c())
	p := pharmacist(c.id)
	p.Subject = "somebody-else"
	second := n.client(n.token(t, p), h2c())
	request := &stockledgerv1.CommandRequest{ClinicId: c.id, Command: reserve("store", 1)}
	request.Command.IdempotencyKey = key()
	request.Command.OccurredAt = timestamppb.New(time.Now().Add(-time.Minute))
	if _, err := first.ReserveStock(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	_, err := second.ReserveStock(t.Context(), request)
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
}
