package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/grpcreflect/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/rpc/fhir"
	"github.com/stockledger/stockledger/txn"
)

func TestPartsHaveNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]Part{
		"": Parts(), "pharmacy": {PartPharmacy}, "pharmacy,inventory": Parts(), "inventory, inventory": {PartInventory},
	} {
		var names []string
		if text != "" {
			names = strings.Split(text, ",")
		}
		if got, err := ParseParts(names); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	if _, err := ParseParts([]string{"coffee"}); err == nil || !strings.Contains(err.Error(), "inventory and pharmacy") {
		t.Errorf("a service that there is not: %v", err)
	}
	if _, err := NewServer(Config{Parts: []Part{"coffee"}}, Deps{}); err == nil {
		t.Error("a server serves a part that there is not")
	}
}

// Each process serves its part, and says of the other where it is.
func TestPartsAreServedApart(t *testing.T) {
	t.Parallel()
	inner := shared(t)
	c := newClinic(t, inner)
	deps := Deps{Issuer: inner.issuer, Executor: inner.deps.Executor, Queries: inner.deps.Queries, Keyring: inner.deps.Keyring}
	pharmacy := startNode(t, Config{Parts: []Part{PartPharmacy}}, deps)
	inventory := startNode(t, Config{Parts: []Part{PartInventory}}, deps)
	token := inner.token(t, pharmacist(c.id))
	dispense := &stockledgerv1.Command{Body: &stockledgerv1.Command_DispenseMedicine{DispenseMedicine: &stockledgerv1.DispenseMedicine{LocationId: "store", MedicineId: "zinc", Quantity: 1}}}
	for name, options := range map[string][]connecthttp.Option{"Connect": nil, "gRPC": {connecthttp.WithGRPC()}, "gRPC-Web": {connecthttp.WithGRPCWeb()}} {
		atPharmacy, atInventory := pharmacy.client(token, h2c(), options...), inventory.client(token, h2c(), options...)
		if _, err := atPharmacy.pharmacy.DispenseMedicine(t.Context(), c.request(dispense)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := atInventory.ReserveStock(t.Context(), c.request(reserve("store", 1))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, err := atInventory.pharmacy.DispenseMedicine(t.Context(), c.request(dispense))
		if info := wantError(t, err, connect.CodeUnimplemented, reasonServedElsewhere); info.GetMetadata()["services"] != "pharmacy" {
			t.Errorf("%s: it is served by %v", name, info.GetMetadata())
		}
		_, err = atPharmacy.ReserveStock(t.Context(), c.request(reserve("store", 1)))
		if info := wantError(t, err, connect.CodeUnimplemented, reasonServedElsewhere); info.GetMetadata()["services"] != "inventory" {
			t.Errorf("%s: it is served by %v", name, info.GetMetadata())
		}
		_, err = atPharmacy.catalog.GetMedicine(t.Context(), &stockledgerv1.GetMedicineRequest{ClinicId: c.id, MedicineId: "zinc"})
		wantError(t, err, connect.CodeUnimplemented, reasonServedElsewhere)
		for _, both := range []*client{atPharmacy, atInventory} {
			if _, err := both.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	_, err := pharmacy.client("", h2c()).ReserveStock(t.Context(), c.request(reserve("store", 1)))
	wantError(t, err, connect.CodeUnimplemented, reasonServedElsewhere)

	for path, statuses := range map[string][2]int{ // at the pharmacy, at the inventory
		csvPrefix + c.id + "/dispensing?from=2026-01-01&to=2026-01-02": {http.StatusOK, http.StatusNotFound},
		csvPrefix + c.id + "/stock-on-hand":                            {http.StatusOK, http.StatusOK},
		fhir.Prefix + c.id + "/metadata":                               {http.StatusOK, http.StatusNotFound},
	} {
		for i, n := range []*node{pharmacy, inventory} {
			status, _, body := n.report(t, http.MethodGet, path, token)
			if status != statuses[i] || status == http.StatusNotFound && !strings.Contains(body, "--services pharmacy") {
				t.Errorf("%s at %d: %d %s", path, i, status, body)
			}
		}
	}
}

func TestPartsTellWhatTheyServe(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{Parts: []Part{PartPharmacy}}, Deps{})
	conn := n.client("", h2c(), connecthttp.WithGRPC()).conn
	var list healthv1.HealthListResponse
	if err := conn.CallUnary(t.Context(), connect.Spec{Procedure: healthList}, &healthv1.HealthListRequest{}, &list); err != nil {
		t.Fatal(err)
	}
	stream := grpcreflect.NewClient(conn).NewStream(t.Context())
	defer func() { _ = stream.Close() }()
	reflected, err := stream.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range stockledgerServices() {
		name := service.FullName()
		want := slices.Contains([]string{"PharmacyService", "QueryService", "EventService", "AdminService"}, string(name.Name()))
		if slices.Contains(reflected, name) != want {
			t.Errorf("reflection on %s: %t", name, !want)
		}
		if _, told := list.GetStatuses()[string(name)]; told != want {
			t.Errorf("health of %s: %t", name, told)
		}
	}
	err = conn.CallUnary(t.Context(), connect.Spec{Procedure: healthCheck}, &healthv1.HealthCheckRequest{Service: "stockledger.v1.InventoryService"}, &healthv1.HealthCheckResponse{})
	wantError(t, err, connect.CodeNotFound, reasonUnknownService)
}

// remoteExecutor executes nothing, as one whose other nodes are away.
type remoteExecutor struct{ accepting, reachable atomic.Bool }

func (*remoteExecutor) Submit(context.Context, txn.Submission) ([]txn.Verdict, error) {
	return nil, fmt.Errorf("%w: secret", txn.ErrNoExecutor)
}

func (e *remoteExecutor) Accepting() bool { return e.accepting.Load() }

func TestPharmacyWithoutInventory(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	away := &remoteExecutor{}
	n := startNode(t, Config{Parts: []Part{PartPharmacy}}, Deps{Issuer: shared(t).issuer, Executor: away, Reachable: away.reachable.Load})
	caller := n.client(n.token(t, pharmacist(c.id)), h2c())
	_, err := caller.pharmacy.DispenseMedicine(t.Context(), c.request(&stockledgerv1.Command{Body: &stockledgerv1.Command_DispenseMedicine{
		DispenseMedicine: &stockledgerv1.DispenseMedicine{LocationId: "store", MedicineId: "zinc", Quantity: 1},
	}}))
	wantError(t, err, connect.CodeUnavailable, reasonInventoryUnavailable)
	if pause := detail[*errdetails.RetryInfo](t, err); pause.GetRetryDelay().AsDuration() <= 0 || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v, with a pause of %v", err, pause)
	}
	for _, test := range []struct {
		accepting, reachable bool
		status               int
		says                 string
	}{
		{false, false, http.StatusServiceUnavailable, "has heard of no node yet"},
		{true, false, http.StatusOK, "no node can be reached"},
		{true, true, http.StatusOK, `"inventory":"ok"`},
	} {
		away.accepting.Store(test.accepting)
		away.reachable.Store(test.reachable)
		if status, body := n.get(t, n.admin+"/readyz"); status != test.status || !strings.Contains(body, test.says) {
			t.Errorf("accepting %t, reachable %t: %d %s", test.accepting, test.reachable, status, body)
		}
	}
}

// A node that shuts down ends streams between two messages: what was told is
// whole, and the error says to go on elsewhere.
func TestStreamsEndAtAMessage(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{}, Deps{})
	c := newClinic(t, n)
	const receipts = 1200
	var commands []*stockledgerv1.Command
	for range receipts {
		commands = append(commands, receive("store", "L1", 1))
	}
	c.must(t, commands...)
	n.endOnce.Do(func() { close(n.ending) })

	replay, err := c.admin.events.Replay(t.Context(), &stockledgerv1.ReplayRequest{ClinicId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	first, err := replay.Receive()
	if err != nil || len(first.GetEvents()) != eventsAtOnce || first.GetLooked().GetSequence() != eventsAtOnce {
		t.Fatalf("%d events, %v", len(first.GetEvents()), err)
	}
	_, err = replay.Receive()
	wantError(t, err, connect.CodeUnavailable, reasonShuttingDown)
	short, err := c.admin.events.Replay(t.Context(), &stockledgerv1.ReplayRequest{ClinicId: c.id, ToSequence: 3})
	if err != nil {
		t.Fatal(err)
	}
	if message, err := short.Receive(); err != nil || len(message.GetEvents()) != 3 {
		t.Errorf("a replay of one message: %v, %v", message, err)
	}
	if _, err := short.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("a replay of one message ends with %v", err)
	}

	watch, err := c.admin.events.Watch(t.Context(), &stockledgerv1.WatchRequest{ClinicId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for err == nil {
		var message *stockledgerv1.WatchResponse
		if message, err = watch.Receive(); message.GetEvent() != nil {
			told++
		}
	}
	wantError(t, err, connect.CodeUnavailable, reasonShuttingDown)
	if told == 0 || told%eventsAtOnce != 0 {
		t.Errorf("the watch ended after %d events", told)
	}

	batch := &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id}
	for range 2*batchChunk + 1 {
		batch.Commands = append(batch.Commands, receive("store", "L1", 1))
	}
	keyed(batch.GetCommands()...)
	stream, err := c.admin.StreamBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	verdicts, err := stream.Receive()
	if err != nil || len(verdicts.GetResults()) != batchChunk {
		t.Fatalf("%d verdicts, %v", len(verdicts.GetResults()), err)
	}
	_, err = stream.Receive()
	wantError(t, err, connect.CodeUnavailable, reasonShuttingDown)
	whole, err := c.admin.ExecuteBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, result := range whole.GetResults() {
		if replayed := result.GetAccepted().GetReplayed(); result.GetAccepted() == nil || replayed != (i < batchChunk) {
			t.Fatalf("command %d, given again: %v", i, result)
		}
	}

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+csvPrefix+c.id+"/stock-card?location_id=store&medicine_id=zinc", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+n.token(t, Principal{Roles: []Role{RoleAuditor}, Clinics: []ledger.ClinicID{AllClinics}}))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if lines := strings.Count(string(text), "\r\n"); err == nil || lines != csvPage+1 || !strings.HasSuffix(string(text), "\r\n") {
		t.Errorf("%d lines came, and the download ended with %v", lines, err)
	}
}
