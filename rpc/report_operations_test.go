package rpc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// asker submits reports and fetches their results.
type asker struct {
	stockledgerv1connect.OperationServiceClient
	clinic string
}

func (c *clinic) asker(tb testing.TB, p Principal) *asker {
	tb.Helper()
	if p.Clinics == nil {
		p.Clinics = []ledger.ClinicID{ledger.ClinicID(c.id)}
	}
	return &asker{c.node.operations(tb, p), c.id}
}

func (a *asker) submit(tb testing.TB, key, report string, parameters map[string]string) (*stockledgerv1.Operation, error) {
	tb.Helper()
	answer, err := a.SubmitReport(tb.Context(), &stockledgerv1.SubmitReportRequest{ClinicId: a.clinic, IdempotencyKey: key, Report: report, Parameters: parameters})
	return answer.GetOperation(), err
}

// done submits a report and waits for its end.
func (a *asker) done(tb testing.TB, key, report string, parameters map[string]string) *stockledgerv1.Operation {
	tb.Helper()
	if _, err := a.submit(tb, key, report, parameters); err != nil {
		tb.Fatalf("%s: %v", report, err)
	}
	return a.wait(tb, key)
}

func (a *asker) wait(tb testing.TB, key string) *stockledgerv1.Operation {
	tb.Helper()
	answer, err := a.WaitOperation(tb.Context(), &stockledgerv1.WaitOperationRequest{ClinicId: a.clinic, IdempotencyKey: key, Timeout: durationpb.New(time.Minute)})
	if err != nil {
		tb.Fatal(err)
	}
	if answer.GetOperation().GetState() == stockledgerv1.OperationState_OPERATION_STATE_WAITING {
		tb.Fatalf("it waits still: %v", answer.GetOperation())
	}
	return answer.GetOperation()
}

func (a *asker) fetch(tb testing.TB, key string, first int32) ([]*stockledgerv1.FetchResultResponse, error) {
	tb.Helper()
	stream, err := a.FetchResult(tb.Context(), &stockledgerv1.FetchResultRequest{ClinicId: a.clinic, IdempotencyKey: key, FirstPart: first})
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	var parts []*stockledgerv1.FetchResultResponse
	for {
		part, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return parts, err
		}
		parts = append(parts, part)
	}
}

func joined(parts []*stockledgerv1.FetchResultResponse) string {
	var text strings.Builder
	for _, part := range parts {
		text.Write(part.GetData())
	}
	return text.String()
}

// A report that is read later is, byte for byte, the one that is read at once.
func TestReportsThatAreReadLater(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	principal := Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}
	token, admin := n.token(t, principal), c.asker(t, principal)
	var commands []*stockledgerv1.Command
	for range 2*csvPage + 10 {
		commands = append(commands, receive("ward", "L2", 1))
	}
	c.must(t, commands...)
	c.must(t,
		&stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateStockLevels{UpdateStockLevels: &stockledgerv1.UpdateStockLevels{LocationId: "ward", MedicineId: "zinc", Reorder: 6000, Max: 9000}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_DispenseMedicine{DispenseMedicine: &stockledgerv1.DispenseMedicine{LocationId: "store", MedicineId: "zinc", Quantity: 7}}},
	)
	for deadline := time.Now().Add(20 * time.Second); len(c.table(t, "low-stock", token)) == 0; { // until the read models have seen it all
		if time.Now().After(deadline) {
			t.Fatal("the read models do not see that there is too little")
		}
	}
	today := time.Now().UTC()
	long, soon := today.AddDate(0, 0, -100).Format(time.DateOnly), today.AddDate(0, 0, 1).Format(time.DateOnly)
	for name, test := range map[string]struct {
		report     string
		parameters map[string]string
		rows       int64
	}{
		"a stock card":        {"stock-card", map[string]string{"location_id": "ward", "medicine_id": "zinc", "lot_id": "L2"}, 2*csvPage + 10},
		"stock on hand":       {"stock-on-hand", nil, 4},
		"of one location":     {"stock-on-hand", map[string]string{"location_id": "store"}, 2},
		"low stock":           {"low-stock", nil, 1},
		"reorder":             {"reorder-suggestions", nil, 1},
		"expiries":            {"expiries", map[string]string{"within_days": "3000"}, 4},
		"nothing expires":     {"expiries", map[string]string{"within_days": "1"}, 0},
		"dispensings by days": {"dispensing", map[string]string{"from": long, "to": soon}, 1},
		"no dispensings":      {"dispensing", map[string]string{"from": long, "to": long}, 0},
		"the journal":         {"journal", map[string]string{"to_sequence": "2015"}, 2015},
		"a part of it":        {"journal", map[string]string{"after.sequence": "10", "to_sequence": "2012"}, 2002},
		"one kind of events":  {"journal", map[string]string{"filter.types": "MedicineDispensed,StockLevelsUpdated"}, 2},
		"after its end":       {"journal", map[string]string{"after.sequence": "2012", "to_sequence": "12"}, 0},
	} {
		key := "later " + name
		op := admin.done(t, key, test.report, test.parameters)
		r := op.GetReport()
		if op.GetState() != stockledgerv1.OperationState_OPERATION_STATE_ACCEPTED || op.GetKind() != "Report" || op.GetResult() != nil || op.GetPriority() != stockledgerv1.Priority_PRIORITY_LOW {
			t.Errorf("%s: %v", name, op)
		}
		if r.GetReport() != test.report || r.GetRowsDone() != test.rows || r.RowsTotal == nil || r.GetRowsTotal() != test.rows || r.GetAsOfSequence() < 1 || len(r.GetParameters()) != len(test.parameters) {
			t.Errorf("%s came to %v", name, r)
		}
		if kept := r.GetKeptUntil().AsTime().Sub(op.GetFinishedAt().AsTime()); kept != txn.ResultsAreKept {
			t.Errorf("%s is kept for %s", name, kept)
		}
		query := make([]string, 0, len(test.parameters))
		for parameter, value := range test.parameters {
			query = append(query, parameter+"="+value)
		}
		_, _, now := n.report(t, http.MethodGet, "/csv/"+c.id+"/"+test.report+"?"+strings.Join(query, "&"), token)
		parts, err := admin.fetch(t, key, 0)
		if err != nil || joined(parts) != now || int64(len(now)) != r.GetBytes() || len(parts) != int(r.GetParts()) {
			t.Errorf("%s: %v; %d parts with %d bytes, and the download has %d", name, err, len(parts), len(joined(parts)), len(now))
		}
		status, header, body := n.report(t, http.MethodGet, "/csv/"+c.id+"/operations/"+strings.ReplaceAll(key, " ", "%20"), token)
		if status != http.StatusOK || body != now || header.Get("Content-Type") != csvContentType || header.Get("Cache-Control") != "no-store" ||
			!strings.Contains(header.Get("Content-Disposition"), test.report+"-"+c.id+".csv") || header.Get(asOfHeader) == "" {
			t.Errorf("%s by GET: %d %v, %d bytes", name, status, header, len(body))
		}
	}
	// What was interrupted is gone on with.
	parts, err := admin.fetch(t, "later a stock card", 0)
	if err != nil || len(parts) < 3 {
		t.Fatal(len(parts), err)
	}
	rest, err := admin.fetch(t, "later a stock card", 1)
	if err != nil || joined(rest) != joined(parts[1:]) || rest[0].GetPart() != 1 || int(rest[0].GetParts()) != len(parts) {
		t.Errorf("from the second part on: %d parts, %v", len(rest), err)
	}
	if rest, err := admin.fetch(t, "later a stock card", int32(len(parts))); err != nil || len(rest) != 0 {
		t.Errorf("after the last part: %d, %v", len(rest), err)
	}
	_, err = admin.fetch(t, "later a stock card", int32(len(parts))+1)
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
}

// The same key with the same report is the same operation.
func TestReportsAreSubmittedOnce(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	keeper := c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}})
	first := keeper.done(t, "k", "stock-on-hand", map[string]string{"location_id": "store"})
	again, err := keeper.submit(t, "k", "stock-on-hand", map[string]string{"location_id": "store"})
	if err != nil || !proto.Equal(first, again) {
		t.Errorf("submitted again it is %v, %v", again, err)
	}
	_, err = keeper.submit(t, "k", "stock-on-hand", map[string]string{"location_id": "ward"})
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
	_, err = keeper.submit(t, "k", "expiries", map[string]string{"location_id": "store"})
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
	_, err = c.asker(t, Principal{Subject: "other", Roles: []Role{RoleStorekeeper}}).submit(t, "k", "stock-on-hand", map[string]string{"location_id": "store"})
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
	command := keyed(reserve("store", 1))[0]
	command.IdempotencyKey = "k"
	reused, err := keeper.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{command}})
	if err != nil || reused.GetOutcomes()[0].GetRejected().GetReason() != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("a command under a report's key: %v, %v", reused, err)
	}
	command.IdempotencyKey = "command"
	if _, err := keeper.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{command}}); err != nil {
		t.Fatal(err)
	}
	_, err = keeper.submit(t, "command", "stock-on-hand", nil)
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)
	keeper.wait(t, "command")
	_, err = keeper.fetch(t, "command", 0)
	wantError(t, err, connect.CodeFailedPrecondition, reasonOperationState)
	list, err := keeper.ListOperations(t.Context(), &stockledgerv1.ListOperationsRequest{ClinicId: c.id})
	if err != nil || len(list.GetOperations()) != 2 || !proto.Equal(list.GetOperations()[1], first) || list.GetOperations()[0].GetReport() != nil {
		t.Errorf("the list is %v, %v", list, err)
	}
	_, err = keeper.ResubmitOperation(t.Context(), &stockledgerv1.ResubmitOperationRequest{ClinicId: c.id, IdempotencyKey: "k"})
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
}

func TestReportsThatCannotBe(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	keeper := c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}})
	for name, test := range map[string]struct {
		report     string
		parameters map[string]string
		field      string
		says       string
	}{
		"no such report":      {"stock-of-gold", nil, "report", "There are: "},
		"no such parameter":   {"expiries", map[string]string{"colour": "red"}, "parameters.colour", "It has: "},
		"no number":           {"expiries", map[string]string{"within_days": "ten"}, "parameters.within_days", "not a number"},
		"a number too large":  {"expiries", map[string]string{"within_days": "99999"}, "parameters.within_days", ""},
		"half a stock card":   {"stock-card", map[string]string{"location_id": "ward"}, "", "together"},
		"a page of its own":   {"stock-on-hand", map[string]string{"page": "x"}, "parameters.page", "no parameter"},
		"another clinic":      {"stock-on-hand", map[string]string{"clinic_id": "x"}, "parameters.clinic_id", "no parameter"},
		"no register of what": {"controlled-register", nil, "", ""},
		"no such event":       {"journal", map[string]string{"filter.types": "StockReserved,GoldFound"}, "parameters.filter.types", "GoldFound"},
		"no field of a place": {"journal", map[string]string{"after.colour": "1"}, "parameters.after.colour", "after.sequence, to_sequence, filter.location_ids"},
		"before the journal":  {"journal", map[string]string{"after.sequence": "-1"}, "parameters.after.sequence", ""},
		"a field of a time":   {"controlled-register", map[string]string{"from.seconds": "1"}, "parameters.from.seconds", "no parameter"},
	} {
		_, err := keeper.submit(t, "bad "+name, test.report, test.parameters)
		info := wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
		var refused *connect.Error
		if !errors.As(err, &refused) || !strings.Contains(refused.Message(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
		if got := info.GetMetadata()["field"]; test.field != "" && got != test.field {
			t.Errorf("%s names the field %q: %v", name, got, err)
		}
	}
	_, err := keeper.submit(t, "nowhere", "expiries", map[string]string{"location_id": "nowhere"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonLocationNotFound)
	_, err = keeper.submit(t, "", "expiries", nil)
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	_, err = keeper.submit(t, "ключ", "expiries", nil)
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	_, err = keeper.fetch(t, "none", 0)
	wantError(t, err, connect.CodeNotFound, reasonOperationNotFound)
	status, _, body := n.report(t, http.MethodGet, "/csv/"+c.id+"/operations/none", n.token(t, Principal{Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}))
	if status != http.StatusNotFound || !strings.Contains(body, "none") {
		t.Errorf("%d %s", status, body)
	}
	list, err := keeper.ListOperations(t.Context(), &stockledgerv1.ListOperationsRequest{ClinicId: c.id})
	if err != nil || len(list.GetOperations()) != 0 {
		t.Errorf("refused reports are there: %v, %v", list, err)
	}
}

// A report needs what it needs at once, and is its submitter's and of those who
// see all operations, as far as their locations reach.
func TestReportsOfOthers(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	viewer := c.asker(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}})
	_, err := viewer.submit(t, "card", "stock-card", nil)
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	_, err = c.asker(t, Principal{Subject: "cara", Roles: []Role{RoleCounter}}).submit(t, "hers", "stock-on-hand", nil)
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	_, err = c.asker(t, Principal{Subject: "x", Roles: []Role{RoleViewer}, Clinics: []ledger.ClinicID{"elsewhere"}}).submit(t, "e", "stock-on-hand", nil)
	wantError(t, err, connect.CodePermissionDenied, reasonClinicForbidden)

	if op := viewer.done(t, "hers", "stock-on-hand", nil); op.GetReport().GetRowsDone() != 3 {
		t.Errorf("it is %v", op)
	}
	_, err = c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}}).fetch(t, "hers", 0)
	wantError(t, err, connect.CodeNotFound, reasonOperationNotFound)
	if parts, err := c.asker(t, Principal{Subject: "otieno", Roles: []Role{RoleAuditor}}).fetch(t, "hers", 0); err != nil || len(parts) != 1 {
		t.Errorf("an auditor gets %d parts, %v", len(parts), err)
	}
	// Limited to the ward, she gets the ward's, and not what she got before.
	ward := c.asker(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}, Locations: []ledger.LocationID{"ward"}})
	_, err = ward.fetch(t, "hers", 0)
	wantError(t, err, connect.CodePermissionDenied, reasonLocationRequired)
	_, err = ward.submit(t, "store", "stock-on-hand", map[string]string{"location_id": "store"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	if op := ward.done(t, "ward", "stock-on-hand", nil); op.GetReport().GetRowsDone() != 1 {
		t.Errorf("of the ward: %v", op)
	}
	parts, err := ward.fetch(t, "ward", 0)
	if err != nil || strings.Contains(joined(parts), "store") || !strings.Contains(joined(parts), "ward") {
		t.Errorf("of the ward: %q, %v", joined(parts), err)
	}
	_, err = c.asker(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}, Locations: []ledger.LocationID{"store"}}).fetch(t, "ward", 0)
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	if _, err := c.asker(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}, Locations: []ledger.LocationID{"store", "ward"}}).fetch(t, "ward", 0); err != nil {
		t.Errorf("with more than the ward: %v", err)
	}
	// Who lost the permission to read it gets nothing of it any more.
	keeper := c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}})
	keeper.done(t, "card", "stock-card", nil)
	_, err = c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleViewer}}).fetch(t, "card", 0)
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
}

// idleNode carries nothing out by itself.
func idleNode(tb testing.TB) (*node, *txn.Operations) {
	tb.Helper()
	shared(tb) // has looked for what waits before there is anything
	store := txn.NewOperations(txn.NewDirectory(txntest.Open(tb)))
	encode := func(txn.Submission) ([]byte, error) { return []byte("x"), nil }
	return startNode(tb, Config{}, Deps{Operations: OperationQueue{Store: store, Encode: encode, Submitted: func(ledger.ClinicID, txn.Priority) {}}}), store
}

// What waits can be cancelled, a command or a report that is under way; then it
// is not carried out, and can be submitted again.
func TestWaitingOperationsAreCancelled(t *testing.T) {
	t.Parallel()
	n, store := idleNode(t)
	c := newClinic(t, n)
	manager := c.asker(t, Principal{Subject: "amina", Roles: []Role{RoleManager}})
	command := keyed(reserve("store", 1))[0]
	command.IdempotencyKey = "command"
	if _, err := manager.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{command}}); err != nil {
		t.Fatal(err)
	}
	var commands []*stockledgerv1.Command
	for range csvPage + 10 {
		commands = append(commands, receive("ward", "L2", 1))
	}
	c.must(t, commands...)
	if op, err := manager.submit(t, "report", "stock-card", nil); err != nil || op.GetState() != stockledgerv1.OperationState_OPERATION_STATE_WAITING || op.GetReport().RowsTotal != nil {
		t.Fatal(op, err)
	}
	_, err := manager.fetch(t, "report", 0)
	wantError(t, err, connect.CodeFailedPrecondition, reasonOperationState)
	next := func() *txn.QueuedOperation {
		t.Helper()
		ops, err := store.Next(t.Context(), ledger.ClinicID(c.id), txn.ReportPriority, txn.OperationPlace{}, time.Now(), 9)
		if err != nil || len(ops) != 1 {
			t.Fatal(len(ops), err)
		}
		return &ops[0]
	}
	step := func(op *txn.QueuedOperation) error {
		page, err := n.ReadReport(t.Context(), op)
		if err == nil {
			op.Operation, err = store.AdvanceReport(t.Context(), op.Operation, page, time.Now())
		}
		return err
	}
	underWay := next()
	if err := step(underWay); err != nil {
		t.Fatal(err)
	}
	got, err := manager.GetOperation(t.Context(), &stockledgerv1.GetOperationRequest{ClinicId: c.id, IdempotencyKey: "report"})
	if r := got.GetOperation().GetReport(); err != nil || r.GetRowsDone() != csvPage || r.GetBytes() == 0 || got.GetOperation().GetState() != stockledgerv1.OperationState_OPERATION_STATE_WAITING {
		t.Errorf("under way it is %v, %v", got, err)
	}
	for _, key := range []string{"command", "report"} {
		answer, err := manager.CancelOperation(t.Context(), &stockledgerv1.CancelOperationRequest{ClinicId: c.id, IdempotencyKey: key})
		if err != nil || answer.GetOperation().GetState() != stockledgerv1.OperationState_OPERATION_STATE_CANCELLED || answer.GetOperation().GetFinishedAt() == nil {
			t.Errorf("cancelled, the %s is %v, %v", key, answer, err)
		}
		_, err = manager.CancelOperation(t.Context(), &stockledgerv1.CancelOperationRequest{ClinicId: c.id, IdempotencyKey: key})
		if wantState := "CANCELLED"; err != nil && !strings.Contains(err.Error(), wantState) {
			t.Errorf("cancelled again: %v", err)
		}
	}
	if err := step(underWay); !errors.Is(err, txn.ErrNotQueued) {
		t.Errorf("the cancelled report goes on: %v", err)
	}
	_, err = manager.fetch(t, "report", 0)
	wantError(t, err, connect.CodeFailedPrecondition, reasonOperationState)
	if ops, err := store.Next(t.Context(), ledger.ClinicID(c.id), txn.HighPriority, txn.OperationPlace{}, time.Now(), 9); err != nil || len(ops) != 0 {
		t.Errorf("the cancelled command waits: %v, %v", ops, err)
	}
	// Submitted again it begins anew, and the old run's reader writes nothing.
	if _, err := manager.ResubmitOperation(t.Context(), &stockledgerv1.ResubmitOperationRequest{ClinicId: c.id, IdempotencyKey: "report"}); err != nil {
		t.Fatal(err)
	}
	again := next()
	if again.Report.Rows != 0 || again.Report.Parts != 0 || again.Report.PageToken != "" {
		t.Errorf("again it is %+v", again.Report)
	}
	if err := step(underWay); !errors.Is(err, txn.ErrReportMoved) {
		t.Errorf("the old run goes on: %v", err)
	}
	for again.State == txn.OperationWaiting {
		if err := step(again); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := manager.fetch(t, "report", 0)
	if err != nil || strings.Count(joined(parts), "\r\n") != 1+3+csvPage+10 {
		t.Errorf("%d lines, %v", strings.Count(joined(parts), "\r\n"), err)
	}
}

// A result is deleted after some time, and says so.
func TestResultsExpire(t *testing.T) {
	t.Parallel()
	n, store := shared(t), txn.NewOperations(txn.NewDirectory(txntest.Open(t)))
	c := newClinic(t, n)
	viewer := c.asker(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}})
	viewer.done(t, "old", "stock-on-hand", nil)
	if err := store.ForgetResults(t.Context(), ledger.ClinicID(c.id), time.Now().Add(-time.Hour), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := viewer.fetch(t, "old", 0); err != nil {
		t.Errorf("a young result: %v", err)
	}
	if err := store.ForgetResults(t.Context(), ledger.ClinicID(c.id), time.Now().Add(time.Hour), time.Now()); err != nil {
		t.Fatal(err)
	}
	_, err := viewer.fetch(t, "old", 0)
	wantError(t, err, connect.CodeNotFound, reasonResultExpired)
	status, _, body := n.report(t, http.MethodGet, "/csv/"+c.id+"/operations/old", n.token(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}))
	if status != http.StatusNotFound || !strings.Contains(body, "Submit the report again") {
		t.Errorf("%d %s", status, body)
	}
	got, err := viewer.GetOperation(t.Context(), &stockledgerv1.GetOperationRequest{ClinicId: c.id, IdempotencyKey: "old"})
	if r := got.GetOperation().GetReport(); err != nil || !r.GetDeleted() || r.GetKeptUntil() != nil || r.GetRowsDone() != 3 {
		t.Errorf("it is %v, %v", got, err)
	}
}

// A journal that was restored, or a token of another key, makes a report begin
// anew; what can't be otherwise ends it.
func TestWhatReportsFailOf(t *testing.T) {
	t.Parallel()
	n, store := idleNode(t)
	c := newClinic(t, n)
	viewer := c.asker(t, Principal{Subject: "vera", Roles: []Role{RoleViewer}})
	if _, err := viewer.submit(t, "k", "stock-on-hand", nil); err != nil {
		t.Fatal(err)
	}
	ops, err := store.Next(t.Context(), ledger.ClinicID(c.id), txn.ReportPriority, txn.OperationPlace{}, time.Now(), 1)
	if err != nil || len(ops) != 1 {
		t.Fatal(ops, err)
	}
	fails := func(change func(*txn.QueuedOperation)) *txn.ReportError {
		t.Helper()
		op, progress := ops[0], *ops[0].Report
		op.Report, op.Submission = &progress, slices.Clone(op.Submission)
		change(&op)
		_, err := n.ReadReport(t.Context(), &op)
		var known *txn.ReportError
		if !errors.As(err, &known) {
			t.Fatalf("it fails with %v", err)
		}
		return known
	}
	if e := fails(func(op *txn.QueuedOperation) { op.Report.PageToken = "AAAA" }); !e.Anew || e.Final {
		t.Errorf("with a token of another key: %+v", e)
	}
	if e := fails(func(op *txn.QueuedOperation) {
		op.Submission = []byte(`{"report":"stock-on-hand","roles":["counter"],"subject":"x"}`)
	}); !e.Final || e.Cause.Reason != reasonPermissionDenied {
		t.Errorf("without permission: %+v", e)
	}
	if e := fails(func(op *txn.QueuedOperation) {
		op.Submission = []byte(`{"report":"later","roles":["admin"],"subject":"x"}`)
	}); !e.Final || e.Cause.Field != "report" {
		t.Errorf("an unknown report: %+v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.ReadReport(ctx, &ops[0]); err == nil {
		t.Error("it was read after the end")
	}
}

// Operators see what waits of commands and of reports, and the dead letters.
func TestClusterTellsOfOperations(t *testing.T) {
	t.Parallel()
	n, store := idleNode(t)
	c := newClinic(t, n)
	manager := c.asker(t, Principal{Subject: "amina", Roles: []Role{RoleManager}})
	command := keyed(reserve("store", 1))[0]
	if _, err := manager.Submit(t.Context(), &stockledgerv1.SubmitRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{command}}); err != nil {
		t.Fatal(err)
	}
	if _, err := manager.submit(t, "waits", "stock-on-hand", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := manager.submit(t, "failed", "stock-on-hand", nil); err != nil {
		t.Fatal(err)
	}
	op, _, err := store.Get(t.Context(), ledger.ClinicID(c.id), "failed")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := store.Postpone(t.Context(), op, &ledger.Rejection{Reason: reasonReportBehind, Message: "It is behind."}, time.Time{}, now); err != nil {
		t.Fatal(err)
	}
	admin := n.administrator(t, Principal{Subject: "root", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}})
	state, err := admin.GetCluster(t.Context(), &stockledgerv1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if letters := state.GetDeadLetters(); letters.GetCount() < 1 || letters.GetOldestAt().AsTime().After(now) {
		t.Errorf("the dead letters are %v", letters)
	}
	if r := state.GetReports(); r.GetWaiting() < 1 || r.GetOldestAt().AsTime().After(now) {
		t.Errorf("the reports that wait are %v", r)
	}
	seen := make(map[stockledgerv1.Priority]bool)
	for _, q := range state.GetQueues() {
		if seen[q.GetPriority()] || q.GetWaiting() < 1 {
			t.Errorf("the queues are %v", state.GetQueues())
		}
		seen[q.GetPriority()] = true
	}
	if !seen[stockledgerv1.Priority_PRIORITY_HIGH] {
		t.Errorf("the queues are %v", state.GetQueues())
	}
	// The list of dead letters says why, and which report it was.
	list, err := manager.ListOperations(t.Context(), &stockledgerv1.ListOperationsRequest{ClinicId: c.id, State: stockledgerv1.OperationState_OPERATION_STATE_FAILED})
	if err != nil || len(list.GetOperations()) != 1 || list.GetOperations()[0].GetLastFailure().GetReason() != "REPORT_BEHIND" || list.GetOperations()[0].GetReport().GetReport() != "stock-on-hand" {
		t.Errorf("the dead letters are %v, %v", list, err)
	}
	again, err := manager.ResubmitOperation(t.Context(), &stockledgerv1.ResubmitOperationRequest{ClinicId: c.id, IdempotencyKey: "failed"})
	if err != nil || again.GetOperation().GetState() != stockledgerv1.OperationState_OPERATION_STATE_WAITING || again.GetOperation().GetLastFailure() != nil {
		t.Errorf("submitted again it is %v, %v", again, err)
	}
}
