package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

func pharmacist(clinics ...string) Principal {
	p := Principal{Subject: "asha", Roles: []Role{RolePharmacist}}
	for _, c := range clinics {
		p.Clinics = append(p.Clinics, ledger.ClinicID(c))
	}
	return p
}

func TestEveryProtocolReserves(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	token := n.token(t, pharmacist(c.id))
	for name, client := range map[string]*client{
		"connect over HTTP/1.1":      n.client(token, h1()),
		"connect over HTTP/2":        n.client(token, h2c()),
		"connect with JSON":          n.client(token, h1(), connecthttp.WithProtoJSON()),
		"connect with gzip":          n.client(token, h1(), connecthttp.WithSendGzip()),
		"gRPC":                       n.client(token, h2c(), connecthttp.WithGRPC()),
		"gRPC with JSON":             n.client(token, h2c(), connecthttp.WithGRPC(), connecthttp.WithProtoJSON()),
		"gRPC-Web over HTTP/1.1":     n.client(token, h1(), connecthttp.WithGRPCWeb()),
		"gRPC-Web over HTTP/2, gzip": n.client(token, h2c(), connecthttp.WithGRPCWeb(), connecthttp.WithSendGzip()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := c.request(reserve("store", 2))
			response, err := client.ReserveStock(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			stock := response.GetAccepted().GetStock()
			if stock.GetHoldId() == "" || stock.GetQuantity() != 2 || stock.GetLots()[0].GetLotId() != "L1" {
				t.Errorf("got %v", stock)
			}
			if response.GetAccepted().GetReplayed() || response.GetAccepted().GetSequence() == 0 {
				t.Errorf("got %v", response)
			}
			_, err = client.ReserveStock(t.Context(), c.request(reserve("store", 100_000)))
			wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonInsufficientStock)
		})
	}
}

// wantError checks an error's code and reason, and that it says what to do.
func wantError(tb testing.TB, err error, code connect.Code, reason ledger.Reason) *errdetails.ErrorInfo {
	tb.Helper()
	if err == nil {
		tb.Fatalf("no error; want %s, %s", code, reason)
	}
	info := detail[*errdetails.ErrorInfo](tb, err)
	if info == nil {
		tb.Fatalf("%v has no ErrorInfo; want %s, %s", err, code, reason)
	}
	if connect.CodeOf(err) != code || info.GetReason() != string(reason) || info.GetDomain() != ErrorDomain {
		tb.Errorf("got %s (%s); want %s, %s", err, info.GetReason(), code, reason)
	}
	return info
}

func detail[T proto.Message](tb testing.TB, err error) T {
	tb.Helper()
	var none T
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return none
	}
	for _, d := range wire.Details() {
		message, err := connectproto.UnmarshalErrorDetail(d)
		if err != nil {
			tb.Fatal(err)
		}
		if typed, ok := message.(T); ok {
			return typed
		}
	}
	return none
}

func TestShortageSaysWhichAccountAndHowMuch(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	_, err := c.admin.ReserveStock(t.Context(), c.request(reserve("ward", 51)))
	info := wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonInsufficientStock)
	if info.GetMetadata()["field"] != "command.reserve_stock.quantity" {
		t.Errorf("metadata: %v", info.GetMetadata())
	}
	want := &stockledgerv1.StockShortage{LocationId: "ward", MedicineId: "zinc", Requested: 51, Available: 50}
	if got := detail[*stockledgerv1.StockShortage](t, err); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	violations := detail[*errdetails.BadRequest](t, err).GetFieldViolations()
	if len(violations) != 1 || violations[0].GetField() != "command.reserve_stock.quantity" {
		t.Errorf("violations: %v", violations)
	}
}

func TestTheSameKeyGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	request := c.request(reserve("store", 150)) // over both lots
	first, err := c.admin.ReserveStock(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if lots := first.GetAccepted().GetStock().GetLots(); len(lots) != 2 || lots[1].GetBalances().GetReserved() != 50 {
		t.Errorf("lots: %v", lots)
	}
	again, err := c.admin.ReserveStock(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if !again.GetAccepted().GetReplayed() {
		t.Error("the second answer does not say that it is a repetition")
	}
	again.GetAccepted().Replayed = false
	if !proto.Equal(first, again) {
		t.Errorf("first %v\nagain %v", first, again)
	}
	request.Command.GetReserveStock().Quantity = 1
	_, err = c.admin.ReserveStock(t.Context(), request)
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
}

func TestAMethodTakesOnlyItsOwnCommand(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	_, err := c.admin.ReleaseStock(t.Context(), c.request(reserve("store", 1)))
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
}

func TestBatchHasAVerdictForEach(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	commands := keyed(
		reserve("store", 1), reserve("store", 0), reserve("nowhere", 1), reserve("store", 100_000), &stockledgerv1.Command{},
		reserve("store", 2),
	)
	response, err := c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: commands})
	if err != nil {
		t.Fatal(err)
	}
	wantReasons(t, response.GetResults(), "", ledger.ReasonInvalidField, ledger.ReasonLocationNotFound, ledger.ReasonInsufficientStock, ledger.ReasonInvalidField, "")
	if field := response.GetResults()[1].GetRejected().GetField(); field != "reserve_stock.quantity" {
		t.Errorf("field %q", field)
	}
	if code := response.GetResults()[2].GetRejected().GetCode(); code != "not_found" {
		t.Errorf("code %q", code)
	}
}

func wantReasons(tb testing.TB, results []*stockledgerv1.CommandResult, want ...ledger.Reason) {
	tb.Helper()
	if len(results) != len(want) {
		tb.Fatalf("%d results, want %d", len(results), len(want))
	}
	for i, result := range results {
		if got := result.GetRejected().GetReason(); got != string(want[i]) {
			tb.Errorf("command %d: got %q, want %q (%s)", i, got, want[i], result.GetRejected().GetMessage())
		}
		if want[i] == "" && result.GetAccepted().GetSequence() == 0 {
			tb.Errorf("command %d has no sequence", i)
		}
	}
}

func TestLinkedBatchIsAllOrNothing(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	linked := func(commands ...*stockledgerv1.Command) []*stockledgerv1.CommandResult {
		t.Helper()
		response, err := c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Linked: true, Commands: keyed(commands...)})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetResults()
	}
	wantReasons(t, linked(reserve("ward", 50), reserve("ward", 1)), ledger.ReasonLinkedCommandRejected, ledger.ReasonInsufficientStock)
	wantReasons(t, linked(reserve("ward", 50), reserve("ward", -1)), ledger.ReasonLinkedCommandRejected, ledger.ReasonInvalidField)
	wantReasons(t, linked(reserve("ward", 49), reserve("ward", 1)), "", "")
	many := make([]*stockledgerv1.Command, 501)
	for i := range many {
		many[i] = reserve("store", 1)
	}
	_, err := c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Linked: true, Commands: keyed(many...)})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
}

func TestStreamBatchAnswersChunkByChunk(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	commands := make([]*stockledgerv1.Command, 2*batchChunk+10)
	for i := range commands {
		commands[i] = receive("store", "L1", 1)
	}
	for name, caller := range map[string]*client{
		"connect": n.client(n.token(t, pharmacist(c.id)), h1()),
		"gRPC":    n.client(n.token(t, pharmacist(c.id)), h2c(), connecthttp.WithGRPC()),
	} {
		stream, err := caller.StreamBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(commands...)})
		if err != nil {
			t.Fatal(err)
		}
		next, parts := 0, 0
		for {
			part, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if int(part.GetFirstIndex()) != next {
				t.Errorf("%s: a part begins at %d, want %d", name, part.GetFirstIndex(), next)
			}
			for _, result := range part.GetResults() {
				if result.GetAccepted() == nil {
					t.Fatalf("%s: %v", name, result)
				}
			}
			next, parts = next+len(part.GetResults()), parts+1
		}
		if next != len(commands) || parts != 3 {
			t.Errorf("%s: %d results in %d parts", name, next, parts)
		}
	}
}

func TestCurlReserves(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	n := shared(t)
	c := newClinic(t, n)
	body := fmt.Sprintf(`{"clinicId": %q, "command": {"idempotencyKey": %q, "reserveStock": {"locationId": "store", "medicineId": "zinc", "quantity": 3, "reasonCode": "rx", "deadline": %q}}}`,
		c.id, key(), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	out, err := exec.CommandContext(t.Context(), curl, "--silent", "--show-error", "--fail-with-body",
		"--header", "Authorization: Bearer "+n.token(t, pharmacist(c.id)),
		"--json", body, n.url+"/stockledger.v1.InventoryService/ReserveStock").Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var answer struct {
		Accepted struct {
			Replayed *bool
			Stock    struct{ HoldID, Quantity string }
		}
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Accepted.Stock.HoldID == "" || answer.Accepted.Stock.Quantity != "3" || answer.Accepted.Replayed == nil {
		t.Errorf("got %s", out)
	}
}

// grpcurl finds the tool, or builds it as tools.mod pins it.
func grpcurl(tb testing.TB) string {
	tb.Helper()
	if path, err := exec.LookPath("grpcurl"); err == nil {
		return path
	}
	path := filepath.Join(tb.TempDir(), "grpcurl")
	build := exec.CommandContext(tb.Context(), "go", "build", "-modfile=../tools.mod", "-o", path, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build grpcurl: %v: %s", err, out)
	}
	return path
}

func TestGrpcurlReserves(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds grpcurl")
	}
	n := shared(t)
	c := newClinic(t, n)
	body := fmt.Sprintf(`{"clinic_id": %q, "command": {"idempotency_key": %q, "reserve_stock": {"location_id": "store", "medicine_id": "zinc", "quantity": 3, "reason_code": "rx", "deadline": %q}}}`,
		c.id, key(), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	// It learns the schema by reflection.
	command := exec.CommandContext(t.Context(), grpcurl(t), "-plaintext",
		"-H", "Authorization: Bearer "+n.token(t, pharmacist(c.id)), "-d", body,
		n.Addr(), "stockledger.v1.InventoryService/ReserveStock")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !bytes.Contains(bytes.ReplaceAll(out, []byte(" "), nil), []byte(`"holdId":"hold_`)) {
		t.Errorf("got %s", out)
	}
}

// post sends a body as it is to a procedure.
func (n *node) post(tb testing.TB, http *http.Client, procedure, token, contentType string, body []byte) (status int, answer []byte) {
	tb.Helper()
	response, err := http.Do(n.newPost(tb, procedure, token, contentType, bytes.NewReader(body)))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return response.StatusCode, answer
}

func (n *node) newPost(tb testing.TB, procedure, token, contentType string, body io.Reader) *http.Request {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, n.url+procedure, body)
	if err != nil {
		tb.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return request
}
