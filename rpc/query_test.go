package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

func TestStockTellsWhatIsWhere(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	hold := c.must(t, reserve("store", 120))[0]
	caller := n.client(n.token(t, pharmacist(c.id)), h2c(), connecthttp.WithGRPC())
	stock, err := caller.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{
		ClinicId: c.id, LocationId: "store", MedicineId: "zinc", Read: &stockledgerv1.ReadOptions{MinSequence: hold.GetSequence()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if stock.GetUsable() != 80 || stock.GetTotals().GetReserved() != 120 || len(stock.GetRows()) != 2 || stock.GetAsOf().GetSequence() != hold.GetSequence() {
		t.Errorf("got %v", stock)
	}
	if first := stock.GetRows()[0]; first.GetLotId() != "L1" || first.GetBalances().GetReserved() != 100 || first.GetLot().GetLotNumber() != "1" || !first.GetLot().GetActive() {
		t.Errorf("first: %v", first)
	}

	holds, err := caller.query.ListHolds(t.Context(), &stockledgerv1.ListHoldsRequest{ClinicId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	got := holds.GetHolds()[0]
	if len(holds.GetHolds()) != 1 || got.GetHoldId() != hold.GetStock().GetHoldId() || got.GetStatus() != stockledgerv1.HoldStatus_HOLD_STATUS_OPEN || len(got.GetLines()) != 2 || got.GetActor() != "admin" {
		t.Errorf("holds: %v", holds)
	}

	movements, err := caller.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc", NewestFirst: true})
	if err != nil {
		t.Fatal(err)
	}
	last := movements.GetMovements()[0]
	if len(movements.GetMovements()) != 4 || last.GetCommand() != "ReserveStock" || last.GetDebit() != stockledgerv1.Bucket_BUCKET_RESERVED ||
		last.GetCredit() != stockledgerv1.Bucket_BUCKET_AVAILABLE || last.GetHoldId() != hold.GetStock().GetHoldId() {
		t.Errorf("movements: %v", movements)
	}
}

func TestAvailability(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	ask := func(caller *client, quantity int64, lastsUntil *date.Date, locations ...string) *stockledgerv1.MedicineAvailability {
		t.Helper()
		answer, err := caller.query.CheckAvailability(t.Context(), &stockledgerv1.CheckAvailabilityRequest{
			ClinicId: c.id, Demands: []*stockledgerv1.Demand{{MedicineId: "zinc", Quantity: quantity}}, LocationIds: locations, LastsUntil: lastsUntil,
		})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetMedicines()[0]
	}
	if got := ask(c.admin, 200, nil); got.GetUsable() != 250 || !got.GetSufficient() || len(got.GetLocations()) != 2 {
		t.Errorf("got %v", got)
	}
	if got := ask(c.admin, 201, nil); got.GetSufficient() {
		t.Error("250 units in two places serve 201 in one")
	}
	if got := ask(c.admin, 51, nil, "ward"); got.GetUsable() != 50 || got.GetSufficient() {
		t.Errorf("got %v", got)
	}
	later := &date.Date{Year: int32(time.Now().Year() + 2), Month: 1, Day: 1}
	if got := ask(c.admin, 100, later); got.GetUsable() != 100 || got.GetLocations()[0].GetEarliestExpiry().GetMonth() != 6 {
		t.Errorf("got %v", got)
	}
	// A token may name locations of other clinics too.
	p := pharmacist(c.id)
	p.Locations = []ledger.LocationID{"ward", "elsewhere"}
	if got := ask(n.client(n.token(t, p), h2c()), 0, nil); got.GetUsable() != 50 || len(got.GetLocations()) != 1 {
		t.Errorf("got %v", got)
	}
	p.Locations = []ledger.LocationID{"elsewhere"}
	if got := ask(n.client(n.token(t, p), h2c()), 1, nil); got.GetUsable() != 0 || got.GetSufficient() {
		t.Errorf("got %v", got)
	}
}

func TestCatalogReadsWhatCommandsWrote(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	medicine, err := c.admin.catalog.GetMedicine(t.Context(), &stockledgerv1.GetMedicineRequest{ClinicId: c.id, MedicineId: "zinc"})
	if err != nil {
		t.Fatal(err)
	}
	update := &stockledgerv1.UpdateMedicine{
		MedicineId: "zinc", Name: "ignored", AtcCode: "A07XA", UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"atc_code"}},
		Etag: medicine.GetMedicine().GetEtag(),
	}
	response, err := c.admin.catalog.UpdateMedicine(t.Context(), c.request(&stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateMedicine{UpdateMedicine: update}}))
	if err != nil {
		t.Fatal(err)
	}
	medicine, err = c.admin.catalog.GetMedicine(t.Context(), &stockledgerv1.GetMedicineRequest{ClinicId: c.id, MedicineId: "zinc"})
	if err != nil {
		t.Fatal(err)
	}
	if m := medicine.GetMedicine(); m.GetName() != "Zinc sulfate" || m.GetAtcCode() != "A07XA" || m.GetEtag() != response.GetAccepted().GetDocument().GetEtag() {
		t.Errorf("got %v", m)
	}
	_, err = c.admin.catalog.UpdateMedicine(t.Context(), c.request(&stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateMedicine{UpdateMedicine: update}}))
	wantError(t, err, connect.CodeAborted, ledger.ReasonEtagMismatch)

	clinic, err := c.admin.catalog.GetClinic(t.Context(), &stockledgerv1.GetClinicRequest{ClinicId: c.id})
	if err != nil || clinic.GetClinic().GetTimeZone() != "Africa/Nairobi" || !clinic.GetClinic().GetActive() {
		t.Errorf("clinic: %v, %v", clinic, err)
	}
	location, err := c.admin.catalog.GetLocation(t.Context(), &stockledgerv1.GetLocationRequest{ClinicId: c.id, LocationId: "ward"})
	if err != nil || location.GetLocation().GetKind() != stockledgerv1.LocationKind_LOCATION_KIND_WARD {
		t.Errorf("location: %v, %v", location, err)
	}
	lot, err := c.admin.catalog.GetLot(t.Context(), &stockledgerv1.GetLotRequest{ClinicId: c.id, LotId: "L1"})
	if err != nil || lot.GetLot().GetExpiry().GetDay() != 30 || lot.GetLot().GetMedicineId() != "zinc" {
		t.Errorf("lot: %v, %v", lot, err)
	}
	found, err := c.admin.catalog.ListMedicines(t.Context(), &stockledgerv1.ListMedicinesRequest{ClinicId: c.id, NameContains: "SULF"})
	if err != nil || len(found.GetMedicines()) != 1 {
		t.Errorf("medicines: %v, %v", found, err)
	}
	locations, err := c.admin.catalog.ListLocations(t.Context(), &stockledgerv1.ListLocationsRequest{ClinicId: c.id})
	if err != nil || len(locations.GetLocations()) != 2 {
		t.Errorf("locations: %v, %v", locations, err)
	}
	_, err = c.admin.catalog.GetLot(t.Context(), &stockledgerv1.GetLotRequest{ClinicId: c.id, LotId: "L9"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonLotNotFound)
}

func TestListClinicsIsLimitedToTheToken(t *testing.T) {
	t.Parallel()
	n := shared(t)
	first, second := newClinic(t, n), newClinic(t, n)
	_ = newClinic(t, n)
	caller := n.client(n.token(t, pharmacist(first.id, second.id, "never-made")), h2c())
	var got []string
	var token string
	for {
		list, err := caller.catalog.ListClinics(t.Context(), &stockledgerv1.ListClinicsRequest{Page: &stockledgerv1.Page{PageSize: 1, PageToken: token}})
		if err != nil {
			t.Fatal(err)
		}
		for _, clinic := range list.GetClinics() {
			got = append(got, clinic.GetClinicId())
		}
		if token = list.GetNextPageToken(); token == "" {
			break
		}
	}
	want := []string{first.id, second.id}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPagesMakeTheWholeList(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	for range 5 {
		c.must(t, reserve("store", 1), reserve("ward", 1))
	}
	page := func(token string) *stockledgerv1.Page { return &stockledgerv1.Page{PageSize: 3, PageToken: token} }
	for name, list := range map[string]struct {
		rows int
		next func(token string) (rows int, next string, err error)
	}{
		"stock": {3, func(token string) (int, string, error) {
			r, err := c.admin.query.ListStock(t.Context(), &stockledgerv1.ListStockRequest{ClinicId: c.id, Page: page(token)})
			return len(r.GetRows()), r.GetNextPageToken(), err
		}},
		"holds": {10, func(token string) (int, string, error) {
			r, err := c.admin.query.ListHolds(t.Context(), &stockledgerv1.ListHoldsRequest{ClinicId: c.id, Page: page(token)})
			return len(r.GetHolds()), r.GetNextPageToken(), err
		}},
		"movements": {13, func(token string) (int, string, error) {
			r, err := c.admin.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, Page: page(token)})
			return len(r.GetMovements()), r.GetNextPageToken(), err
		}},
		"lots": {2, func(token string) (int, string, error) {
			p := page(token)
			p.PageSize = 1
			r, err := c.admin.catalog.ListLots(t.Context(), &stockledgerv1.ListLotsRequest{ClinicId: c.id, MedicineId: "zinc", Page: p})
			return len(r.GetLots()), r.GetNextPageToken(), err
		}},
	} {
		rows, token := 0, ""
		for pages := 1; ; pages++ {
			got, next, err := list.next(token)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if rows += got; next == "" {
				break
			}
			if token = next; pages > 20 {
				t.Fatalf("%s: the list does not end", name)
			}
		}
		if rows != list.rows {
			t.Errorf("%s: %d rows, want %d", name, rows, list.rows)
		}
	}
}

func TestPageTokensFitOnlyTheirList(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c, other := newClinic(t, n), newClinic(t, n)
	owner := n.client(n.token(t, pharmacist(c.id, other.id)), h2c())
	first, err := owner.query.ListStock(t.Context(), &stockledgerv1.ListStockRequest{ClinicId: c.id, Page: &stockledgerv1.Page{PageSize: 1}})
	if err != nil {
		t.Fatal(err)
	}
	token := first.GetNextPageToken()
	somebody := pharmacist(c.id, other.id)
	somebody.Subject = "somebody"
	ask := func(caller *client, change func(*stockledgerv1.ListStockRequest)) error {
		req := &stockledgerv1.ListStockRequest{ClinicId: c.id, Page: &stockledgerv1.Page{PageSize: 1, PageToken: token}}
		change(req)
		_, err := caller.query.ListStock(t.Context(), req)
		return err
	}
	if err := ask(owner, func(r *stockledgerv1.ListStockRequest) { r.Page.PageSize = 2 }); err != nil {
		t.Errorf("another page size: %v", err)
	}
	altered := []byte(token)
	altered[len(altered)-1] ^= 1
	for name, err := range map[string]error{
		"another clinic": ask(owner, func(r *stockledgerv1.ListStockRequest) { r.ClinicId = other.id }),
		"another filter": ask(owner, func(r *stockledgerv1.ListStockRequest) { r.MedicineId = "zinc" }),
		"another caller": ask(n.client(n.token(t, somebody), h2c()), func(*stockledgerv1.ListStockRequest) {}),
		"altered":        ask(owner, func(r *stockledgerv1.ListStockRequest) { r.Page.PageToken = string(altered) }),
		"nonsense":       ask(owner, func(r *stockledgerv1.ListStockRequest) { r.Page.PageToken = "hello" }),
		"another method": func() error {
			_, err := owner.query.ListHolds(t.Context(), &stockledgerv1.ListHoldsRequest{ClinicId: c.id, Page: &stockledgerv1.Page{PageToken: token}})
			return err
		}(),
	} {
		info := wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
		if info.GetMetadata()["field"] != "page.page_token" {
			t.Errorf("%s: %v", name, info)
		}
	}
}

func TestQueriesRefuseNonsense(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	q, catalog := c.admin.query, c.admin.catalog
	call := func(_ any, err error) error { return err }
	ctx := t.Context()
	for name, test := range map[string]struct {
		err    error
		code   connect.Code
		reason ledger.Reason
	}{
		"unknown location":  {call(q.GetStock(ctx, &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "x", MedicineId: "zinc"})), connect.CodeNotFound, ledger.ReasonLocationNotFound},
		"unknown medicine":  {call(q.GetStock(ctx, &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: "x"})), connect.CodeNotFound, ledger.ReasonMedicineNotFound},
		"unknown clinic":    {call(catalog.GetClinic(ctx, &stockledgerv1.GetClinicRequest{ClinicId: "never-made"})), connect.CodeNotFound, ledger.ReasonClinicNotFound},
		"NUL":               {call(q.GetStock(ctx, &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "st\x00re", MedicineId: "zinc"})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"NUL in a list":     {call(q.CheckAvailability(ctx, &stockledgerv1.CheckAvailabilityRequest{ClinicId: c.id, Demands: []*stockledgerv1.Demand{{MedicineId: "zi\x00nc"}}})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"NUL in a search":   {call(catalog.ListMedicines(ctx, &stockledgerv1.ListMedicinesRequest{ClinicId: c.id, NameContains: "\x00"})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"page too large":    {call(q.ListStock(ctx, &stockledgerv1.ListStockRequest{ClinicId: c.id, Page: &stockledgerv1.Page{PageSize: 1001}})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"page negative":     {call(q.ListStock(ctx, &stockledgerv1.ListStockRequest{ClinicId: c.id, Page: &stockledgerv1.Page{PageSize: -1}})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"half a stock card": {call(q.ListMovements(ctx, &stockledgerv1.ListMovementsRequest{ClinicId: c.id, LocationId: "store"})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"no such day":       {call(q.CheckAvailability(ctx, &stockledgerv1.CheckAvailabilityRequest{ClinicId: c.id, Demands: []*stockledgerv1.Demand{{MedicineId: "zinc"}}, LastsUntil: &date.Date{Year: 2027, Month: 13, Day: 1}})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"unknown enum":      {call(q.GetStock(ctx, &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc", Read: &stockledgerv1.ReadOptions{Consistency: 77}})), connect.CodeInvalidArgument, ledger.ReasonInvalidField},
		"future sequence":   {call(q.GetStock(ctx, &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc", Read: &stockledgerv1.ReadOptions{MinSequence: 1 << 40}})), connect.CodeFailedPrecondition, reasonSequenceNotReached},
	} {
		t.Run(name, func(t *testing.T) { wantError(t, test.err, test.code, test.reason) })
	}
	if _, err := catalog.ListMedicines(ctx, &stockledgerv1.ListMedicinesRequest{ClinicId: c.id, NameContains: `%_\'"; DROP TABLE journal`}); err != nil {
		t.Errorf("a search for odd characters: %v", err)
	}
}

func TestALimitedTokenSeesOnlyItsLocations(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	c.must(t, reserve("store", 1), reserve("ward", 1))
	p := pharmacist(c.id)
	p.Locations = []ledger.LocationID{"ward"}
	ward := n.client(n.token(t, p), h2c())
	ctx := t.Context()
	answers := make(map[string]proto.Message)
	keep := func(name string, answer proto.Message, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		answers[name] = answer
	}
	stock, err := ward.query.ListStock(ctx, &stockledgerv1.ListStockRequest{ClinicId: c.id})
	keep("ListStock", stock, err)
	holds, err := ward.query.ListHolds(ctx, &stockledgerv1.ListHoldsRequest{ClinicId: c.id})
	keep("ListHolds", holds, err)
	movements, err := ward.query.ListMovements(ctx, &stockledgerv1.ListMovementsRequest{ClinicId: c.id})
	keep("ListMovements", movements, err)
	available, err := ward.query.CheckAvailability(ctx, &stockledgerv1.CheckAvailabilityRequest{ClinicId: c.id, Demands: []*stockledgerv1.Demand{{MedicineId: "zinc"}}})
	keep("CheckAvailability", available, err)
	locations, err := ward.catalog.ListLocations(ctx, &stockledgerv1.ListLocationsRequest{ClinicId: c.id})
	keep("ListLocations", locations, err)
	for name, answer := range answers {
		text := fmt.Sprint(answer)
		if !strings.Contains(text, "ward") || strings.Contains(text, "store") {
			t.Errorf("%s: %s", name, text)
		}
	}
	_, err = ward.query.GetStock(ctx, &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.query.ListStock(ctx, &stockledgerv1.ListStockRequest{ClinicId: c.id, LocationId: "store"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.query.CheckAvailability(ctx, &stockledgerv1.CheckAvailabilityRequest{ClinicId: c.id, Demands: []*stockledgerv1.Demand{{MedicineId: "zinc"}}, LocationIds: []string{"ward", "store"}})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.query.ListMovements(ctx, &stockledgerv1.ListMovementsRequest{ClinicId: c.id, LocationId: "store", MedicineId: "zinc"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.query.ListHolds(ctx, &stockledgerv1.ListHoldsRequest{ClinicId: c.id, LocationId: "store"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.catalog.GetLocation(ctx, &stockledgerv1.GetLocationRequest{ClinicId: c.id, LocationId: "store"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
}

func TestGetCanBeCached(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	token := n.token(t, pharmacist(c.id))
	message, err := json.Marshal(map[string]string{"clinicId": c.id, "locationId": "store", "medicineId": "zinc"})
	if err != nil {
		t.Fatal(err)
	}
	get := func(etag string) (status int, header http.Header, body string) {
		t.Helper()
		query := url.Values{"encoding": {"json"}, "message": {string(message)}, "connect": {"v1"}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+"/stockledger.v1.QueryService/GetStock?"+query.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		if etag != "" {
			request.Header.Set("If-None-Match", etag)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header, string(text)
	}
	status, header, body := get("")
	etag := header.Get("Etag")
	if status != http.StatusOK || etag == "" || !strings.Contains(header.Get("Cache-Control"), "private") || !strings.Contains(strings.ReplaceAll(body, " ", ""), `"quarantined":"0"`) {
		t.Fatalf("%d, etag %q: %s", status, etag, body)
	}
	// The etag turns with the clock every quarter of an hour, so the second
	// request may be the first of a new one.
	if status, header, _ := get(etag); status != http.StatusNotModified {
		etag = header.Get("Etag")
		if status, _, _ := get(etag); status != http.StatusNotModified {
			t.Errorf("unchanged: %d", status)
		}
	}
	// Caches may ask with several tags, on several lines, strong or weak.
	for _, form := range []func(etag string) string{
		func(etag string) string { return strings.TrimPrefix(etag, "W/") },
		func(etag string) string { return `"other", W/"1.2.3" , ` + etag },
		func(etag string) string { return strings.TrimPrefix(etag, "W/") + `,"other"` },
	} {
		if status, header, _ := get(form(etag)); status != http.StatusNotModified {
			etag = header.Get("Etag") // of a new quarter
			if status, _, _ := get(form(etag)); status != http.StatusNotModified {
				t.Errorf("If-None-Match: %s gives %d", form(etag), status)
			}
		}
	}
	for _, other := range []string{`"other"`, "W/", `""`, strings.Trim(strings.TrimPrefix(etag, "W/"), `"`), "*", ","} {
		if status, _, _ := get(other); status != http.StatusOK {
			t.Errorf("If-None-Match: %s gives %d", other, status)
		}
	}
	// Who may not read it learns nothing from knowing the etag.
	own := token
	for name, test := range map[string]struct {
		token  string
		status int
	}{
		"another clinic's": {n.token(t, pharmacist("another")), http.StatusForbidden},
		"the ward's":       {n.token(t, Principal{Roles: []Role{RoleStorekeeper}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}, Locations: []ledger.LocationID{"ward"}}), http.StatusForbidden},
		"no":               {"nonsense", http.StatusUnauthorized},
	} {
		token = test.token
		if status, header, _ := get(etag); status != test.status || header.Get("Etag") != "" {
			t.Errorf("with %s token: %d, etag %q", name, status, header.Get("Etag"))
		}
	}
	// Who may, but sees other things than the one who was told it, gets an answer
	// of their own.
	token = n.token(t, Principal{Roles: []Role{RoleCounter}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}})
	if status, header, _ := get(etag); status == http.StatusNotModified || header.Get("Etag") == etag {
		t.Errorf("another caller's etag: %d, etag %q", status, header.Get("Etag"))
	}
	token = own
	c.must(t, reserve("store", 1))
	if status, _, _ := get(etag); status != http.StatusOK {
		t.Errorf("changed: %d", status)
	}
}

// Nobody but the caller keeps the answer to a GET, whatever was asked, and nobody
// uses it without asking.
func TestEveryGetSaysWhoMayKeepIt(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	token := n.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}})
	gets := 0
	for _, service := range stockledgerServices() {
		methods := service.Methods()
		for i := range methods.Len() {
			method := methods.Get(i)
			options, _ := method.Options().(*descriptorpb.MethodOptions)
			if options.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
				continue
			}
			gets++
			message := "{}"
			if method.Input().Fields().ByName("clinic_id") != nil {
				message = fmt.Sprintf(`{"clinicId":%q}`, c.id)
			}
			query := url.Values{"encoding": {"json"}, "message": {message}, "connect": {"v1"}}
			address := fmt.Sprintf("%s/%s/%s?%s", n.url, service.FullName(), method.Name(), query.Encode())
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			kept := response.Header.Get("Cache-Control")
			if kept != "private, no-cache" && kept != "no-store" || !slices.Contains(response.Header.Values("Vary"), "Authorization") {
				t.Errorf("GET %s: status %d, Cache-Control %q, Vary %v", method.FullName(), response.StatusCode, kept, response.Header.Values("Vary"))
			}
		}
	}
	if gets < 30 {
		t.Errorf("%d methods can be called with GET", gets)
	}
}

func TestNumbersOnTheWireAreTheCores(t *testing.T) {
	t.Parallel()
	for number, name := range stockledgerv1.Bucket_name {
		want := strings.ToUpper(ledger.Bucket(number).String())
		if number != 0 && name != "BUCKET_"+want {
			t.Errorf("bucket %d is %s on the wire and %s in the core", number, name, want)
		}
	}
	for status, want := range map[ledger.HoldStatus]stockledgerv1.HoldStatus{
		ledger.HoldOpen: stockledgerv1.HoldStatus_HOLD_STATUS_OPEN, ledger.HoldReleased: stockledgerv1.HoldStatus_HOLD_STATUS_RELEASED,
		ledger.HoldIssued: stockledgerv1.HoldStatus_HOLD_STATUS_ISSUED, ledger.HoldExpired: stockledgerv1.HoldStatus_HOLD_STATUS_EXPIRED,
	} {
		if got := fromHoldStatus(status); got != want {
			t.Errorf("status %d: %s, want %s", status, got, want)
		}
	}
	for _, kind := range []ledger.LocationKind{ledger.Store, ledger.Dispensary, ledger.Ward} {
		if toLocationKind(fromLocationKind(kind)) != kind {
			t.Errorf("location kind %d", kind)
		}
	}
}
