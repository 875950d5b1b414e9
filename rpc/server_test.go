package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/grpcreflect/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// executorFunc stands for an executor that meets what is hard to bring about.
type executorFunc func(context.Context, txn.Submission) ([]txn.Verdict, error)

func (f executorFunc) Submit(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	return f(ctx, s)
}

func (executorFunc) Accepting() bool { return true }

func TestWhatGoesWrongInsideHasItsCode(t *testing.T) {
	t.Parallel()
	var cause atomic.Pointer[error]
	n := startNode(t, Config{}, Deps{Executor: executorFunc(func(context.Context, txn.Submission) ([]txn.Verdict, error) {
		return nil, *cause.Load()
	})})
	c := &clinic{id: "c1", node: n}
	caller := n.client(n.token(t, pharmacist("c1")), h2c())
	for _, test := range []struct {
		err    error
		code   connect.Code
		reason ledger.Reason
		retry  bool
	}{
		{txn.ErrBusy, connect.CodeResourceExhausted, reasonBusy, true},
		{txn.ErrClosed, connect.CodeUnavailable, reasonShuttingDown, false},
		{fmt.Errorf("%w: dial tcp 10.0.0.7: secret", txn.ErrUnavailable), connect.CodeUnavailable, reasonUnavailable, true},
		{fmt.Errorf("%w: secret", txn.ErrAmbiguous), connect.CodeUnavailable, reasonOutcomeUnknown, false},
		{fmt.Errorf("%w: secret", txn.ErrInternal), connect.CodeInternal, reasonInternal, false},
		{errors.New("secret"), connect.CodeInternal, reasonInternal, false},
		{fmt.Errorf("secret: %w", context.DeadlineExceeded), connect.CodeDeadlineExceeded, reasonDeadlineExceeded, false},
		{&txn.ReadModelsBehindError{Want: 9, Have: 5}, connect.CodeUnavailable, reasonReportBehind, true},
		{&ledger.Rejection{Reason: "NONSENSE", Message: "secret"}, connect.CodeInternal, reasonInternal, false},
	} {
		cause.Store(&test.err)
		_, err := caller.ReserveStock(t.Context(), c.request(reserve("store", 1)))
		info := wantError(t, err, test.code, test.reason)
		if strings.Contains(fmt.Sprint(err, info), "secret") {
			t.Errorf("%v tells what is nobody's business", err)
		}
		if got := detail[*errdetails.RetryInfo](t, err); (got != nil) != test.retry {
			t.Errorf("%s: retry %v", test.reason, got)
		}
		if test.code == connect.CodeInternal && info.GetMetadata()["request_id"] == "" {
			t.Errorf("%v has no request id", info)
		}
	}
}

func TestAPanicStaysInside(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	n := startNode(t, Config{Log: slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, nil))}, Deps{
		Executor: executorFunc(func(context.Context, txn.Submission) ([]txn.Verdict, error) { panic("secret") }),
	})
	c := &clinic{id: "c1", node: n}
	status, body := n.post(t, h1(), reserveProcedure, n.token(t, pharmacist("c1")), "application/json",
		fmt.Appendf(nil, `{"clinicId": "c1", "command": {"idempotencyKey": "k", "reserveStock": {"locationId": "s", "medicineId": "m", "quantity": 1, "reasonCode": "rx", "deadline": "2100-01-01T00:00:00Z"}}}`))
	if status != http.StatusInternalServerError || bytes.Contains(body, []byte("secret")) || bytes.Contains(body, []byte("goroutine")) {
		t.Errorf("%d: %s", status, body)
	}
	_, err := n.client(n.token(t, pharmacist("c1")), h2c(), connecthttp.WithGRPC()).ReserveStock(t.Context(), c.request(reserve("store", 1)))
	wantError(t, err, connect.CodeInternal, reasonInternal)
	n.stop()
	if !strings.Contains(log.String(), "stack=") || !strings.Contains(log.String(), "secret") {
		t.Errorf("the log does not tell: %s", log.String())
	}
}

// lockedWriter lets a logger and a test share a buffer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestABatchThatEndsEarlyKeepsItsVerdicts(t *testing.T) {
	t.Parallel()
	inner := shared(t)
	c := newClinic(t, inner)
	calls := 0
	n := startNode(t, Config{}, Deps{Issuer: inner.issuer, Executor: executorFunc(func(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
		calls++
		switch calls {
		case 1:
			return nil, txn.ErrBusy // waited for
		case 2:
			return inner.deps.Executor.Submit(ctx, s)
		}
		verdicts := make([]txn.Verdict, len(s.Commands))
		for i := range verdicts {
			verdicts[i].Err = txn.ErrAmbiguous
		}
		return verdicts, nil
	})})
	commands := make([]*stockledgerv1.Command, 2*batchChunk+1)
	for i := range commands {
		commands[i] = receive("store", "L1", 1)
	}
	response, err := n.client(n.token(t, pharmacist(c.id)), h2c()).ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(commands...)})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(
		slices.Repeat([]ledger.Reason{""}, batchChunk), slices.Repeat([]ledger.Reason{reasonOutcomeUnknown}, batchChunk), []ledger.Reason{reasonNotAttempted},
	)
	wantReasons(t, response.GetResults(), want...)
}

// brokenDatabase answers as long as it is whole.
type brokenDatabase struct {
	broken atomic.Bool
	behind atomic.Bool
}

func (d *brokenDatabase) Ping(context.Context) error {
	if d.broken.Load() {
		return errors.New("dial tcp: secret")
	}
	return nil
}

func (d *brokenDatabase) SchemaVersion(context.Context) (current, wanted int64, err error) {
	if d.behind.Load() {
		return 3, 12, nil
	}
	return 12, 12, nil
}

func (n *node) get(tb testing.TB, url string) (int, string) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatalf("it did not come about: %s", what)
		}
	}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	db := &brokenDatabase{}
	n := startNode(t, Config{}, Deps{Database: db})
	if status, _ := n.get(t, n.admin+"/readyz"); status != http.StatusOK {
		t.Errorf("ready: %d", status)
	}
	db.broken.Store(true)
	var body string
	eventually(t, "readiness goes off with the database", func() bool {
		var status int
		status, body = n.get(t, n.admin+"/readyz")
		return status == http.StatusServiceUnavailable
	})
	var report readinessReport
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	if report.Ready || report.Parts["database"] == partOK || report.Parts["executor"] != partOK || strings.Contains(body, "secret") {
		t.Errorf("got %s", body)
	}
	if status, _ := n.get(t, n.admin+"/livez"); status != http.StatusOK {
		t.Errorf("live: %d", status)
	}
	db.broken.Store(false)
	db.behind.Store(true)
	eventually(t, "the schema is what is missing", func() bool {
		_, body = n.get(t, n.admin+"/readyz")
		return strings.Contains(body, "migrate up")
	})
	db.behind.Store(false)
	eventually(t, "readiness comes back", func() bool {
		status, _ := n.get(t, n.admin+"/readyz")
		return status == http.StatusOK
	})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registered := prometheus.NewCounter(prometheus.CounterOpts{Name: "stockledger_test_total", Help: "From another package."})
	n := startNode(t, Config{Profiling: true}, Deps{Metrics: []func(prometheus.Registerer){func(r prometheus.Registerer) { r.MustRegister(registered) }}})
	_, err := n.client("", h2c()).ReserveStock(t.Context(), &stockledgerv1.CommandRequest{})
	wantError(t, err, connect.CodeUnauthenticated, reasonUnauthenticated)
	n.post(t, h1(), "/made/up/path", "", "application/json", nil)
	_, body := n.get(t, n.admin+"/metrics")
	for _, want := range []string{
		`stockledger_rpc_request_duration_seconds_count{code="unauthenticated",procedure="` + reserveProcedure + `"} 1`,
		`stockledger_rpc_request_duration_seconds_count{code="unimplemented",procedure="unknown"} 1`,
		"stockledger_test_total 0", "go_goroutines",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, "made/up") {
		t.Error("a caller made up a label")
	}
	if status, _ := n.get(t, n.admin+"/debug/pprof/"); status != http.StatusOK {
		t.Errorf("profiling: %d", status)
	}
}

func TestOneLineARequest(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	inner := shared(t)
	c := newClinic(t, inner)
	n := startNode(t, Config{Log: slog.New(slog.NewJSONHandler(&lockedWriter{w: &log}, nil))}, Deps{Issuer: inner.issuer, Executor: inner.deps.Executor})
	caller := n.client(n.token(t, pharmacist(c.id)), h2c(), connecthttp.WithGRPC())
	command := reserve("store", 1)
	command.GetReserveStock().ReasonCode = "private-reason"
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set(requestIDHeader, "req-42")
	if _, err := caller.ReserveStock(ctx, c.request(command)); err != nil {
		t.Fatal(err)
	}
	if got := info.ResponseHeader().Get(requestIDHeader); got != "req-42" {
		t.Errorf("the answer's request id is %q", got)
	}
	_, err := caller.ReserveStock(t.Context(), c.request(reserve("store", 100_000)))
	wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonInsufficientStock)
	n.stop()
	var lines []map[string]any
	for line := range strings.Lines(log.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["msg"] == "request" {
			lines = append(lines, fields)
		}
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), log.String())
	}
	for name, want := range map[string]any{
		"procedure": reserveProcedure, "protocol": "grpc+proto", "code": "ok", "clinic": c.id, "actor": "asha", "request_id": "req-42",
	} {
		if lines[0][name] != want {
			t.Errorf("%s: got %v, want %v", name, lines[0][name], want)
		}
	}
	if lines[1]["code"] != "failed_precondition" || lines[1]["reason"] != string(ledger.ReasonInsufficientStock) {
		t.Errorf("got %v", lines[1])
	}
	if strings.Contains(log.String(), "private-reason") {
		t.Error("the log holds a part of a body")
	}
}

func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	n := startNode(t, Config{}, Deps{Executor: executorFunc(func(context.Context, txn.Submission) ([]txn.Verdict, error) {
		close(begun)
		<-finish
		return nil, txn.ErrBusy
	})})
	c := &clinic{id: "c1", node: n}
	answered := make(chan error, 1)
	caller := n.client(n.token(t, pharmacist("c1")), h2c())
	go func() {
		_, err := caller.ReserveStock(context.Background(), c.request(reserve("store", 1)))
		answered <- err
	}()
	<-begun
	stopped := make(chan struct{})
	go func() {
		n.stop()
		close(stopped)
	}()
	eventually(t, "readiness goes off first", func() bool {
		status, body := n.get(t, n.admin+"/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "shutting down")
	})
	eventually(t, "the port closes", func() bool {
		conn, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := h1().Do(conn)
		if err == nil {
			_ = response.Body.Close()
		}
		return err != nil
	})
	select {
	case <-stopped:
		t.Fatal("the server stopped before it had answered")
	default:
	}
	close(finish)
	wantError(t, <-answered, connect.CodeResourceExhausted, reasonBusy)
	<-stopped
}

func TestHealth(t *testing.T) {
	t.Parallel()
	db := &brokenDatabase{}
	n := startNode(t, Config{}, Deps{Database: db})
	conn := n.client("", h2c(), connecthttp.WithGRPC()).conn
	check := func(service string) (healthv1.HealthCheckResponse_ServingStatus, error) {
		var answer healthv1.HealthCheckResponse
		err := conn.CallUnary(t.Context(), connect.Spec{Procedure: healthCheck}, &healthv1.HealthCheckRequest{Service: service}, &answer)
		return answer.GetStatus(), err
	}
	for _, service := range []string{"", "stockledger.v1.InventoryService", "stockledger.v1.QueryService"} {
		if status, err := check(service); err != nil || status != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, status, err)
		}
	}
	_, err := check("coffee")
	wantError(t, err, connect.CodeNotFound, reasonUnknownService)
	var list healthv1.HealthListResponse
	if err := conn.CallUnary(t.Context(), connect.Spec{Procedure: healthList}, &healthv1.HealthListRequest{}, &list); err != nil || len(list.GetStatuses()) != len(stockledgerServices())+1 {
		t.Errorf("list: %v, %v", &list, err)
	}

	stream, err := conn.CallServerStream(t.Context(), connect.Spec{StreamType: connect.StreamTypeServer, Procedure: healthWatch}, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() (healthv1.HealthCheckResponse_ServingStatus, error) {
		var answer healthv1.HealthCheckResponse
		err := stream.Receive(&answer)
		return answer.GetStatus(), err
	}
	if status, err := next(); err != nil || status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("watch: %v, %v", status, err)
	}
	db.broken.Store(true)
	if status, err := next(); err != nil || status != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch: %v, %v", status, err)
	}
	n.stop()
	_, err = next()
	wantError(t, err, connect.CodeUnavailable, reasonShuttingDown)
}

func TestReflectionNeedsNoToken(t *testing.T) {
	t.Parallel()
	n := shared(t)
	for name, option := range map[string]connecthttp.Option{"gRPC": connecthttp.WithGRPC(), "gRPC-Web": connecthttp.WithGRPCWeb()} {
		stream := grpcreflect.NewClient(n.client("", h2c(), option).conn).NewStream(t.Context())
		services, err := stream.ListServices()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range []protoreflect.FullName{"stockledger.v1.InventoryService", "stockledger.v1.CatalogService", "stockledger.v1.QueryService", "grpc.health.v1.Health"} {
			if !slices.Contains(services, want) {
				t.Errorf("%s: no %s in %v", name, want, services)
			}
		}
		files, err := stream.FileContainingSymbol("stockledger.v1.InventoryService")
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		_ = stream.Close()
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{AllowedOrigins: []string{"https://pharmacy.example"}}, Deps{})
	preflight := func(origin string) http.Header {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, n.url+reserveProcedure, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", origin)
		request.Header.Set("Access-Control-Request-Method", "POST")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.Header
	}
	if got := preflight("https://pharmacy.example"); got.Get("Access-Control-Allow-Origin") != "https://pharmacy.example" || !strings.Contains(got.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("got %v", got)
	}
	if got := preflight("https://elsewhere.example").Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestNewServerRefusesABadConfig(t *testing.T) {
	t.Parallel()
	if _, err := NewServer(Config{ReadTimeout: -1}, Deps{}); err == nil {
		t.Error("accepted")
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	n := shared(t)
	second, err := NewServer(Config{Listen: n.Addr(), AdminListen: "127.0.0.1:0", Log: quietLog()}, n.deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}

func TestTheErrorsPageIsCurrent(t *testing.T) {
	t.Parallel()
	have, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != ErrorsDoc() {
		t.Error("docs/errors.md is not current: go run ./rpc/gendocs")
	}
}

func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	seen := make(map[ledger.Reason]bool)
	for _, doc := range Reasons() {
		if seen[doc.Reason] {
			t.Errorf("%s is there twice", doc.Reason)
		}
		seen[doc.Reason] = true
		if doc.Code == 0 || doc.Meaning == "" || doc.Remedy == "" {
			t.Errorf("%s: %+v", doc.Reason, doc)
		}
	}
}
