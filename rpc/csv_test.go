package rpc

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// report reads a report as CSV.
func (n *node) report(tb testing.TB, method, path, token string) (int, http.Header, string) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), method, n.url+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
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
	return response.StatusCode, response.Header, string(body)
}

// table reads a report that must be there, as maps by column.
func (c *clinic) table(tb testing.TB, path, token string) []map[string]string {
	tb.Helper()
	status, header, body := c.node.report(tb, http.MethodGet, "/csv/"+c.id+"/"+path, token)
	if status != http.StatusOK || header.Get("Content-Type") != "text/csv; charset=utf-8; header=present" || header.Get("Cache-Control") != "no-store" ||
		!strings.Contains(header.Get("Content-Disposition"), c.id+".csv") {
		tb.Fatalf("%s: %d %v\n%s", path, status, header, body)
	}
	if sequence, err := strconv.Atoi(header.Get(asOfHeader)); err != nil || sequence < 1 {
		tb.Errorf("%s is as of %q", path, header.Get(asOfHeader))
	}
	records, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if err != nil || len(records) == 0 {
		tb.Fatalf("%s: %v\n%s", path, err, body)
	}
	rows := make([]map[string]string, 0, len(records)-1)
	for _, record := range records[1:] {
		row := make(map[string]string)
		for i, column := range records[0] {
			row[column] = record[i]
		}
		rows = append(rows, row)
	}
	return rows
}

// pick returns some columns of rows, a text each.
func pick(rows []map[string]string, columns ...string) []string {
	texts := make([]string, len(rows))
	for i, row := range rows {
		var cells []string
		for _, column := range columns {
			cells = append(cells, row[column])
		}
		texts[i] = strings.Join(cells, " ")
	}
	return texts
}

func TestReportsAsCSV(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	token := n.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}})
	evil := receive("ward", "L1", 5)
	evil.GetReceiveStock().Supplier = "=HYPERLINK(\"http://x\",\"a, b\")"
	c.must(t,
		evil, issueWithout("ward", 3),
		&stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateStockLevels{UpdateStockLevels: &stockledgerv1.UpdateStockLevels{LocationId: "ward", MedicineId: "zinc", Reorder: 60, Max: 90}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_DispenseMedicine{DispenseMedicine: &stockledgerv1.DispenseMedicine{LocationId: "store", MedicineId: "zinc", Quantity: 7}}},
	)
	check := func(path string, want []string, columns ...string) {
		t.Helper()
		if got := pick(c.table(t, path, token), columns...); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	check("stock-on-hand", []string{"store zinc L1 1 93 false true", "store zinc L2 2 100 false true", "ward zinc L1 1 52 false true"},
		"location_id", "medicine_id", "lot_id", "lot_number", "available", "expired", "active")
	check("stock-on-hand?location_id=ward", []string{"ward 52"}, "location_id", "available")
	check("stock-card?location_id=ward&medicine_id=zinc",
		[]string{"available supplier 50 50 ", "available supplier 5 55 '=HYPERLINK(\"http://x\",\"a, b\")", "issued available 3 52 "},
		"debit", "credit", "quantity", "available", "party")
	check("controlled-register?location_id=ward&medicine_id=zinc", []string{"0 50 0 50", "50 5 0 55", "55 0 3 52"}, "opening", "in", "out", "balance")
	check("controlled-register?location_id=ward&medicine_id=zinc&to=2001-01-01T00:00:00Z", []string{}, "opening")
	check("expiries?within_days=800", []string{"L1 store", "L1 ward", "L2 store"}, "lot_id", "location_id")
	check("expiries?within_days=1", []string{}, "lot_id")
	eventually(t, "the models show it", func() bool {
		return len(c.table(t, "low-stock", token)) == 1 && len(c.table(t, "dispensing", token)) == 1
	})
	today := time.Now().In(time.FixedZone("Nairobi", 3*60*60)).Format(time.DateOnly)
	check("dispensing?from="+today, []string{today + " store zinc admin 1 7 0"}, "day", "location_id", "medicine_id", "pharmacist", "dispensings", "quantity", "wasted_quantity")
	check("dispensing?from=2001-01-01&to="+today, []string{today}, "day")
	check("dispensing?to=2001-01-01", []string{}, "day")
	check("low-stock", []string{"ward zinc 52 60"}, "location_id", "medicine_id", "available", "reorder")
	check("reorder-suggestions", []string{"ward 38 52 0"}, "location_id", "quantity", "available", "incoming")

	ward := n.token(t, Principal{Subject: "ward", Roles: []Role{RoleStorekeeper}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}, Locations: []ledger.LocationID{"ward"}})
	if got := pick(c.table(t, "stock-on-hand", ward), "location_id"); !slices.Equal(got, []string{"ward"}) {
		t.Errorf("a token of the ward shows %q", got)
	}
	viewer := n.token(t, Principal{Subject: "viewer", Roles: []Role{RoleViewer}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}})
	other := n.token(t, Principal{Subject: "other", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{"another"}})
	for name, test := range map[string]struct {
		method, path, token string
		status              int
		says                string
	}{
		"no token":            {http.MethodGet, c.id + "/stock-on-hand", "", http.StatusUnauthorized, "unauthenticated"},
		"no permission":       {http.MethodGet, c.id + "/controlled-register?location_id=ward&medicine_id=zinc", viewer, http.StatusForbidden, "permission_denied"},
		"another clinic":      {http.MethodGet, c.id + "/stock-on-hand", other, http.StatusForbidden, "permission_denied"},
		"no such report":      {http.MethodGet, c.id + "/gossip", token, http.StatusNotFound, "stock-on-hand"},
		"no report":           {http.MethodGet, c.id, token, http.StatusNotFound, "stock-on-hand"},
		"posted":              {http.MethodPost, c.id + "/stock-on-hand", token, http.StatusMethodNotAllowed, "GET"},
		"unknown parameter":   {http.MethodGet, c.id + "/stock-on-hand?ward=x", token, http.StatusBadRequest, "location_id, medicine_id"},
		"the clinic again":    {http.MethodGet, c.id + "/stock-on-hand?clinic_id=x", token, http.StatusBadRequest, "no parameter"},
		"twice":               {http.MethodGet, c.id + "/stock-on-hand?location_id=ward&location_id=store", token, http.StatusBadRequest, "more than once"},
		"no day":              {http.MethodGet, c.id + "/dispensing?from=yesterday", token, http.StatusBadRequest, "2027-03-31"},
		"no time":             {http.MethodGet, c.id + "/controlled-register?location_id=ward&medicine_id=zinc&from=yesterday", token, http.StatusBadRequest, "2027-03-31T14:00:00Z"},
		"no number":           {http.MethodGet, c.id + "/expiries?within_days=ten", token, http.StatusBadRequest, "not a number"},
		"number too large":    {http.MethodGet, c.id + "/expiries?within_days=99999", token, http.StatusBadRequest, "within_days"},
		"no truth":            {http.MethodGet, c.id + "/expiries?include_expired=perhaps", token, http.StatusBadRequest, "true or false"},
		"half a stock card":   {http.MethodGet, c.id + "/stock-card?location_id=ward", token, http.StatusBadRequest, "together"},
		"an unknown place":    {http.MethodGet, c.id + "/expiries?location_id=nowhere", token, http.StatusNotFound, "nowhere"},
		"a malformed query":   {http.MethodGet, c.id + "/stock-on-hand?a=%zz", token, http.StatusBadRequest, "malformed"},
		"an impossible id":    {http.MethodGet, "NO_SUCH/stock-on-hand", token, http.StatusForbidden, "permission_denied"},
		"a token that lapsed": {http.MethodGet, c.id + "/stock-on-hand", "nonsense", http.StatusUnauthorized, "unauthenticated"},
	} {
		status, header, body := n.report(t, test.method, "/csv/"+test.path, test.token)
		if status != test.status || !strings.Contains(body, test.says) || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s: %s", name, status, header.Get("Content-Type"), body)
		}
	}
}

// A report of many pages is whole, and each row is there once.
func TestLongReportAsCSV(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	var commands []*stockledgerv1.Command
	for range 2*csvPage + 10 {
		commands = append(commands, receive("ward", "L2", 1))
	}
	c.must(t, commands...)
	token := n.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}})
	rows := c.table(t, "stock-card?location_id=ward&medicine_id=zinc&lot_id=L2", token)
	if len(rows) != len(commands) {
		t.Fatalf("%d rows of %d", len(rows), len(commands))
	}
	for i, row := range rows {
		if row["available"] != strconv.Itoa(i+1) {
			t.Fatalf("row %d: %v", i, row)
		}
	}
}

// A report that fails on its way is cut off, and is no defect.
func TestReportThatBreaksOff(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{}, Deps{})
	edge := httptest.NewServer(n.observed(csvProcedure, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "a,b")
		w.(*answerWriter).Flush()
		refuseCSV(w.(*answerWriter), errors.New("the database went away"))
	})))
	defer edge.Close()
	response, err := http.Get(edge.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("it looks whole: %q", body)
	}
	if panics := testutil.ToFloat64(n.metrics.panics); panics != 0 {
		t.Errorf("%v panics were counted", panics)
	}
}

func TestCellsAreNoFormulas(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "zinc": "zinc", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@x": "'@x", "\t=": "'\t=", "a=1": "a=1", "'": "'"} {
		if got := CSVText(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestDaysAreSplit(t *testing.T) {
	t.Parallel()
	day := func(m, d int32) *date.Date { return &date.Date{Year: 2027, Month: m, Day: d} }
	whole := &stockledgerv1.DispensingReportRequest{ClinicId: "c", From: day(1, 1), To: day(3, 15), LocationId: "store"}
	var parts []string
	for next := whole.GetFrom(); next != nil; {
		whole.From = next
		part, rest := splitDays(whole)
		if part.GetLocationId() != "store" {
			t.Errorf("a part loses its filter: %v", part)
		}
		parts, next = append(parts, cellDate(part.GetFrom())+" to "+cellDate(part.GetTo())), rest
	}
	if want := []string{"2027-01-01 to 2027-01-31", "2027-02-01 to 2027-03-03", "2027-03-04 to 2027-03-15"}; !slices.Equal(parts, want) {
		t.Errorf("the parts are %q", parts)
	}
	for _, open := range []*stockledgerv1.DispensingReportRequest{{}, {From: day(1, 1)}, {To: day(1, 1)}, {From: day(2, 1), To: day(1, 1)}, {From: day(13, 1), To: day(1, 1)}} {
		if part, rest := splitDays(open); rest != nil || !proto.Equal(part, open) {
			t.Errorf("%v is split", open)
		}
	}
	if !reflect.DeepEqual(slices.Sorted(slices.Values(parametersOf((&stockledgerv1.DispensingReportRequest{}).ProtoReflect().Descriptor()))),
		[]string{"from", "location_id", "medicine_id", "pharmacist", "to"}) {
		t.Error("the parameters of a report are the fields that an address can say")
	}
}

// Callers leave a report in the middle of a page. What is read for them goes on
// for a moment: that it writes nowhere is for the race detector.
func TestReportsThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	var commands []*stockledgerv1.Command
	for range 400 {
		commands = append(commands, receive("ward", "L1", 1))
	}
	c.must(t, commands...)
	token := n.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}})
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/csv/"+c.id+"/journal", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		if response, err := http.DefaultClient.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
		cancel()
	}
	if rows := c.table(t, "journal", token); len(rows) < 400 {
		t.Errorf("who stays gets %d rows", len(rows))
	}
}
