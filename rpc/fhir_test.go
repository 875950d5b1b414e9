package rpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// fhirAnswer is an answer of the FHIR edge.
type fhirAnswer struct {
	status int
	header http.Header
	body   map[string]any
}

// fhirCaller speaks FHIR to a clinic as one person.
type fhirCaller struct {
	base, token string
}

func (p *person) fhir() *fhirCaller {
	return &fhirCaller{p.clinic.node.url + "/fhir/" + p.clinic.id, p.token}
}

// do sends a request; header holds names and values in turn.
func (f *fhirCaller) do(tb testing.TB, method, address, body string, header ...string) *fhirAnswer {
	tb.Helper()
	if !strings.HasPrefix(address, "http") {
		address = f.base + "/" + address
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, address, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	if f.token != "" {
		req.Header.Set("Authorization", "Bearer "+f.token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		tb.Fatal(err)
	}
	answer := &fhirAnswer{status: res.StatusCode, header: res.Header}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer.body); err != nil {
			tb.Fatalf("%s %s: %d %q: %v", method, address, res.StatusCode, text, err)
		}
	}
	if kept := res.Header.Get("Cache-Control"); kept != "no-store" {
		tb.Errorf("%s %s: Cache-Control is %q", method, address, kept)
	}
	if kind := res.Header.Get("Content-Type"); len(text) > 0 && kind != "application/fhir+json; charset=utf-8" {
		tb.Errorf("%s %s: Content-Type is %q", method, address, kind)
	}
	return answer
}

func (f *fhirCaller) get(tb testing.TB, address string) *fhirAnswer {
	tb.Helper()
	return f.do(tb, http.MethodGet, address, "")
}

func (f *fhirCaller) order(tb testing.TB, body string, header ...string) *fhirAnswer {
	tb.Helper()
	return f.do(tb, http.MethodPost, "MedicationRequest", body, header...)
}

// dig follows names and indexes into an answer.
func (a *fhirAnswer) dig(steps ...any) any { return digInto(a.body, steps...) }

func digInto(value any, steps ...any) any {
	for _, step := range steps {
		switch s := step.(type) {
		case string:
			object, _ := value.(map[string]any)
			value = object[s]
		case int:
			list, _ := value.([]any)
			if s >= len(list) {
				return nil
			}
			value = list[s]
		}
	}
	return value
}

// refuses checks that an answer is an OperationOutcome with a status that names
// an element.
func (a *fhirAnswer) refuses(tb testing.TB, what string, status int, code, expression string) {
	tb.Helper()
	issues, _ := a.dig("issue").([]any)
	named := slices.ContainsFunc(issues, func(i any) bool {
		element, _ := digInto(i, "expression", 0).(string)
		return digInto(i, "severity") == "error" && digInto(i, "code") == code && element == expression && digInto(i, "diagnostics") != ""
	})
	if a.status != status || a.dig("resourceType") != "OperationOutcome" || !named {
		tb.Errorf("%s: got %d %v, want %d with %s at %q", what, a.status, a.body, status, code, expression)
	}
}

// resources are what a Bundle holds.
func (a *fhirAnswer) resources(tb testing.TB) []any {
	tb.Helper()
	if a.status != http.StatusOK || a.dig("type") != "searchset" {
		tb.Fatalf("got %d %v, want a searchset", a.status, a.body)
	}
	entries, _ := a.dig("entry").([]any)
	all := make([]any, len(entries))
	for i, e := range entries {
		all[i] = digInto(e, "resource")
	}
	return all
}

// link is a Bundle's link with a relation, empty where it has none.
func (a *fhirAnswer) link(relation string) string {
	links, _ := a.dig("link").([]any)
	for _, l := range links {
		if digInto(l, "relation") == relation {
			return digInto(l, "url").(string)
		}
	}
	return ""
}

// all follows a search over its pages, none of which may hold more than count.
func (f *fhirCaller) all(tb testing.TB, address string, count int) []any {
	tb.Helper()
	var all []any
	for address != "" {
		page := f.get(tb, address)
		resources := page.resources(tb)
		if len(resources) > count {
			tb.Fatalf("a page of %d has %d", count, len(resources))
		}
		all = append(all, resources...)
		address = page.link("next")
	}
	return all
}

func fhirData(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("fhir", "testdata", filepath.FromSlash(name)))
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// fhirOrder is a valid order for a patient.
func fhirOrder(tb testing.TB, patient, number string) string {
	tb.Helper()
	return strings.NewReplacer("pt_00000000000000000000000000", patient, `"A-1"`, `"`+number+`"`).Replace(fhirData(tb, "valid.json"))
}

// fhirClinic is a clinic whose zinc other systems know, and a patient.
func fhirClinic(t *testing.T, n *node) (*clinic, string) {
	t.Helper()
	c := newClinic(t, n)
	c.must(t,
		command(&stockledgerv1.SetPacks{MedicineId: "zinc", Packs: []*stockledgerv1.Pack{{Name: "box", Factor: 30}}}),
		command(identifies("zinc", "rxnorm", "11416")),
	)
	return c, namedBy(t, c.must(t, register(somebody("quill"), key()))[0], kindPatient)
}

func identifies(medicine, system, value string) *stockledgerv1.AddIdentifier {
	return &stockledgerv1.AddIdentifier{
		Subject: stockledgerv1.IdentifierSubject_IDENTIFIER_SUBJECT_MEDICINE, SubjectId: medicine, System: system, Value: value,
	}
}

// same compares an order that was read with the one that was sent, but for what
// the server gives: the id, and the version in meta.
func same(t *testing.T, what string, read map[string]any, sent string) {
	t.Helper()
	var want map[string]any
	if err := json.Unmarshal([]byte(sent), &want); err != nil {
		t.Fatal(err)
	}
	for _, order := range []map[string]any{read, want} {
		delete(order, "id")
		if meta, ok := order["meta"].(map[string]any); ok {
			delete(meta, "versionId")
			delete(meta, "lastUpdated")
			if len(meta) == 0 {
				delete(order, "meta")
			}
		}
	}
	if !reflect.DeepEqual(read, want) {
		t.Errorf("%s: read  %v\nwant %v", what, read, want)
	}
}

// From the order to what was dispensed, with words in the order that must not
// come into the log.
func TestFHIR(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	n := startNode(t, Config{Log: slog.New(slog.NewTextHandler(&lockedWriter{w: &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))}, Deps{})
	c, patient := fhirClinic(t, n)
	hill := c.person(t, "hill", RolePharmacist)
	f := hill.fhir()
	order := fhirOrder(t, patient, "A-1")

	created := f.order(t, order)
	id, _ := created.dig("id").(string)
	version, _ := created.dig("meta", "versionId").(string)
	if created.status != http.StatusCreated || id == "" ||
		created.header.Get("Location") != f.base+"/MedicationRequest/"+id+"/_history/"+version || created.header.Get("ETag") != `W/"`+version+`"` {
		t.Fatalf("created is %d %v %v", created.status, created.header, created.body)
	}
	same(t, "created", created.body, order)
	read := f.get(t, "MedicationRequest/"+id)
	if read.status != http.StatusOK || read.header.Get("ETag") != created.header.Get("ETag") {
		t.Errorf("read is %d %v", read.status, read.header)
	}
	same(t, "read", read.body, order)
	if same := f.do(t, http.MethodGet, "MedicationRequest/"+id, "", "If-None-Match", created.header.Get("ETag")); same.status != http.StatusNotModified {
		t.Errorf("read again is %d", same.status)
	}
	rx := strings.TrimSuffix(id, "-1")
	kept := hill.prescription(t, rx)
	if kept.GetNote() != "Take with food" || kept.GetLines()[0].GetDosageText() != "One tablet every morning" || kept.GetLines()[0].GetQuantity() != 30 ||
		kept.GetLines()[0].GetRefills() != 2 || kept.GetPrescriber() != "http://example.org/doctors|007" {
		t.Errorf("the ledger has %v", kept)
	}

	searched := f.get(t, "MedicationRequest?patient=Patient/"+patient+"&identifier="+url.QueryEscape("http://example.org/orders|A-1")+"&status=active,completed")
	if got := searched.resources(t); len(got) != 1 || digInto(got[0], "id") != id || searched.dig("entry", 0, "fullUrl") != f.base+"/MedicationRequest/"+id {
		t.Errorf("found %v", searched.body)
	}
	posted := f.do(t, http.MethodPost, "MedicationRequest/_search", "patient="+patient+"&status=cancelled", "Content-Type", "application/x-www-form-urlencoded")
	if got := posted.resources(t); len(got) != 0 {
		t.Errorf("cancelled are %v", got)
	}

	for range 3 {
		hill.give(t, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 30})
	}
	if got := f.get(t, "MedicationRequest/"+id); got.dig("status") != "completed" || got.dig("text") != nil {
		t.Errorf("dispensed is %v", got.body)
	}
	if got := f.all(t, "MedicationDispense?prescription=MedicationRequest/"+id+"&_count=2", 2); len(got) != 3 {
		t.Errorf("dispensed were %v", got)
	}
	f.order(t, strings.Replace(order, `"Take with food"`, `""`, 1)).refuses(t, "broken", http.StatusBadRequest, "value", "MedicationRequest.note[0].text")
	c.must(t, command(&stockledgerv1.ErasePatient{PatientId: patient, ReasonCode: "ASKED"}))
	if got := f.get(t, "MedicationRequest/"+id); got.dig("status") != "completed" || got.dig("note") != nil || got.dig("dosageInstruction") != nil ||
		got.dig("dispenseRequest", "quantity", "value") != 30.0 || got.dig("identifier", 0, "value") != "A-1" {
		t.Errorf("after the erasure it is %v", got.body)
	}
	n.stop()
	if !strings.Contains(log.String(), "procedure=fhir") {
		t.Error("the log has no line of FHIR")
	}
	for _, word := range []string{patient, "food", "morning", "orders", "11416", "Patient/"} {
		if strings.Contains(log.String(), word) {
			t.Errorf("the log has %q", word)
		}
	}
}

// What a double click, a retry and a race may not do is create two.
func TestFHIRCreatesOnce(t *testing.T) {
	t.Parallel()
	c, patient := fhirClinic(t, shared(t))
	f := c.person(t, "hill", RolePrescriber).fhir()
	order := fhirOrder(t, patient, "A-1")
	first := f.order(t, order)
	if again := f.order(t, order); again.status != http.StatusCreated || again.dig("id") != first.dig("id") {
		t.Errorf("again is %d %v", again.status, again.body)
	}
	other := strings.Replace(order, `"value": 30`, `"value": 31`, 1)
	f.order(t, other).refuses(t, "another order with the key", http.StatusConflict, "duplicate", "")
	f.order(t, other, "Idempotency-Key", "k").refuses(t, "another order with the identifier", http.StatusConflict, "duplicate", "MedicationRequest.identifier[0]")
	unless := []string{"If-None-Exist", "identifier=" + url.QueryEscape("http://example.org/orders|A-1")}
	if existing := f.order(t, other, unless...); existing.status != http.StatusOK || existing.dig("id") != first.dig("id") ||
		existing.dig("dispenseRequest", "quantity", "value") != 30.0 {
		t.Errorf("existing is %d %v", existing.status, existing.body)
	}
	stranger := namedBy(t, c.must(t, register(somebody("quake"), key()))[0], kindPatient)
	f.order(t, fhirOrder(t, stranger, "A-1"), unless...).refuses(t, "another patient's", http.StatusConflict, "duplicate", "MedicationRequest.identifier[0]")
	f.order(t, fhirOrder(t, patient, "A-2"), unless...).refuses(t, "another identifier than the condition's", http.StatusBadRequest, "invariant", "MedicationRequest.identifier")
	f.order(t, order, "If-None-Exist", "status=active").refuses(t, "another condition", http.StatusPreconditionFailed, "not-supported", "")

	var wait sync.WaitGroup
	statuses, ids := make([]int, 8), make([]any, 8)
	for i := range statuses {
		wait.Go(func() {
			raced := f.order(t, fhirOrder(t, patient, "A-3"), "If-None-Exist", "identifier="+url.QueryEscape("http://example.org/orders|A-3"))
			statuses[i], ids[i] = raced.status, raced.dig("id")
		})
	}
	wait.Wait()
	for i := range ids {
		if ids[i] == nil || ids[i] != ids[0] || statuses[i] != http.StatusOK && statuses[i] != http.StatusCreated {
			t.Errorf("the race ended with %v %v", statuses, ids)
		}
	}

	nameless := strings.Replace(order, `"identifier": [{"system": "http://example.org/orders", "value": "A-1", "period": {"start": "2026-01", "end": "2027"}}],`, "", 1)
	f.order(t, nameless).refuses(t, "neither identifier nor key", http.StatusUnprocessableEntity, "required", "MedicationRequest.identifier")
	keyed := f.order(t, nameless, "Idempotency-Key", "a key of some length, and with spaces")
	if again := f.order(t, nameless, "Idempotency-Key", "a key of some length, and with spaces"); keyed.status != http.StatusCreated || again.dig("id") != keyed.dig("id") {
		t.Errorf("by the key %v, and again %v", keyed.body, again.body)
	}
	if quiet := f.order(t, fhirOrder(t, patient, "A-4"), "Prefer", "return=minimal"); quiet.status != http.StatusCreated || quiet.body != nil || quiet.header.Get("Location") == "" {
		t.Errorf("quietly created is %d %v", quiet.status, quiet.body)
	}
	if got := f.all(t, "MedicationRequest?patient="+patient+"&_count=1", 1); len(got) != 4 {
		t.Errorf("there are %d orders, want 4", len(got))
	}
}

// Every broken order of the corpus is refused by its element, by the node as by
// the reader alone, and nothing comes of any of them.
func TestFHIRRefusesBrokenOrders(t *testing.T) {
	t.Parallel()
	c, patient := fhirClinic(t, shared(t))
	f := c.person(t, "hill", RolePrescriber).fhir()
	unescape := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t")
	valid := fhirData(t, "valid.json")
	for _, line := range strings.Split(fhirData(t, "broken.tsv")+fhirData(t, "broken_here.tsv"), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		columns := strings.Split(line, "\t")
		status, err := strconv.Atoi(columns[1])
		if err != nil {
			t.Fatal(err)
		}
		body := strings.Replace(valid, unescape.Replace(columns[4]), unescape.Replace(columns[5]), 1)
		body = strings.Replace(body, "pt_00000000000000000000000000", patient, 1)
		f.order(t, body).refuses(t, columns[0], status, columns[2], strings.TrimPrefix(columns[3], "-"))
	}
	if got := f.all(t, "MedicationRequest?patient="+patient, 20); len(got) != 0 {
		t.Errorf("broken orders were created: %v", got)
	}
}

// The published examples of R4 come back as they were sent, or are refused by
// the element that cannot be kept. The test maps what is not the clinic's: the
// patient, the number, which all of them share, and the years.
func TestFHIRPublishedExamples(t *testing.T) {
	t.Parallel()
	c, patient := fhirClinic(t, shared(t))
	f := c.person(t, "hill", RolePrescriber).fhir()
	units := map[string]string{"308047": "tablet", "324689003": "ml", "1313112": "ml", "285018": "ml", "333919005": "patch"}
	systems := map[string]string{"308047": "http://www.nlm.nih.gov/research/umls/rxnorm", "1313112": "rxnorm", "285018": "rxnorm", "856907": "rxnorm", "16590-619-30": "ndc"}
	for _, code := range []string{"324252006", "324689003", "308047", "16590-619-30", "856907", "1313112", "285018", "333919005"} {
		unit, system := units[code], systems[code]
		if unit == "" {
			unit = "tablet"
		}
		if system == "" {
			system = "http://snomed.info/sct"
		}
		c.must(t, command(&stockledgerv1.AddMedicine{MedicineId: "m" + code, Name: code, BaseUnit: unit}), command(identifies("m"+code, system, code)))
	}
	for _, example := range []struct{ number, refused string }{
		{"0301", "MedicationRequest.contained[1].resourceType"}, {"0302", ""}, {"0303", "MedicationRequest.substitution.allowedCodeableConcept"},
		{"0304", "MedicationRequest.status"}, {"0305", "MedicationRequest.status"}, {"0306", "MedicationRequest.dispenseRequest"},
		{"0307", "MedicationRequest.status"}, {"0308", "MedicationRequest.status"}, {"0309", "MedicationRequest.dispenseRequest"},
		{"0310", "MedicationRequest.dispenseRequest"}, {"0312", ""}, {"0313", "MedicationRequest.status"}, {"0320", "MedicationRequest.status"}, {"0327", ""},
	} {
		body := strings.NewReplacer(
			"Patient/pat1", "Patient/"+patient, `"12345689"`, `"`+example.number+`"`, `"end": "2016-01-15"`, fmt.Sprintf(`"end": "%d-01-15"`, time.Now().Year()+1),
		).Replace(fhirData(t, "examples/medicationrequest"+example.number+".json"))
		if example.refused != "" {
			refused := f.order(t, body)
			issues, _ := refused.dig("issue").([]any)
			if refused.status != http.StatusUnprocessableEntity || !slices.ContainsFunc(issues, func(i any) bool { return digInto(i, "expression", 0) == example.refused }) {
				t.Errorf("%s: got %d %v, want %s refused", example.number, refused.status, refused.body, example.refused)
			}
		}
		if example.refused == "MedicationRequest.status" {
			// It is over. As it was before that, it comes back.
			body = strings.Replace(body, `"status": "completed"`, `"status": "active"`, 1)
		} else if example.refused != "" {
			continue
		}
		created := f.order(t, body)
		if created.status != http.StatusCreated {
			t.Errorf("%s: %d %v", example.number, created.status, created.body)
			continue
		}
		address, _, _ := strings.Cut(created.header.Get("Location"), "/_history")
		same(t, example.number, f.get(t, address).body, body)
	}
}

// One resource for each lot, page by page.
func TestFHIRShowsLots(t *testing.T) {
	t.Parallel()
	c, patient := fhirClinic(t, shared(t))
	hill, ward := c.person(t, "hill", RolePharmacist), c.person(t, "joy", RolePharmacist, "ward")
	f := hill.fhir()
	order := zincFor(patient)
	order.Lines[0].Quantity, order.Lines[0].Refills = 150, 0
	order.Lines = append(order.Lines, &stockledgerv1.PrescribedLine{MedicineId: "zinc", Quantity: 5})
	rx := namedBy(t, hill.give(t, order), kindPrescription)
	hill.give(t, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Line: 1, Quantity: 150})

	own := f.get(t, "MedicationRequest/"+rx+"-2")
	if own.dig("groupIdentifier", "value") != rx || own.dig("status") != "active" || own.dig("dispenseRequest", "quantity", "unit") != "tablet" ||
		own.dig("medicationCodeableConcept", "coding", 1, "system") != "http://www.nlm.nih.gov/research/umls/rxnorm" {
		t.Errorf("the second line is %v", own.body)
	}
	f.get(t, "MedicationRequest/"+rx+"-3").refuses(t, "no such line", http.StatusNotFound, "not-found", "")

	got := f.all(t, "MedicationDispense?patient="+patient+"&_count=1", 1)
	if len(got) != 2 {
		t.Fatalf("got %v, want two lots", got)
	}
	for i, want := range []struct {
		lot      string
		quantity float64
	}{{"1", 100}, {"2", 50}} {
		d := got[i]
		if digInto(d, "contained", 0, "batch", "lotNumber") != want.lot || digInto(d, "quantity", "value") != want.quantity ||
			digInto(d, "authorizingPrescription", 0, "reference") != "MedicationRequest/"+rx+"-1" || digInto(d, "status") != "completed" ||
			digInto(d, "subject", "reference") != "Patient/"+patient || digInto(d, "location", "reference") != "Location/store" {
			t.Errorf("lot %d is %v", i, d)
		}
		id, _ := digInto(d, "id").(string)
		if again := f.get(t, "MedicationDispense/"+id); !reflect.DeepEqual(again.body, d) {
			t.Errorf("read is %v, found was %v", again.body, d)
		}
	}
	if expiry := digInto(got[0], "contained", 0, "batch", "expirationDate"); expiry != fmt.Sprintf("%d-06-30", time.Now().Year()+1) {
		t.Errorf("the lot ends %v", expiry)
	}

	transfer := documentOf(t, hill.give(t, &stockledgerv1.TransferStock{
		FromLocationId: "store", ToLocationId: "ward", DispatchBy: inAnHour(), ReasonCode: "RESTOCK",
		Lines: []*stockledgerv1.RequestedLine{{MedicineId: "zinc", Quantity: 20}},
	}), stockledgerv1.DocumentKind_DOCUMENT_KIND_TRANSFER)
	c.must(t, command(&stockledgerv1.ApproveTransfer{TransferId: transfer}), command(&stockledgerv1.DispatchTransfer{TransferId: transfer}))
	if none := f.all(t, "SupplyDelivery", 20); len(none) != 0 {
		t.Errorf("before anything arrived there is %v", none)
	}
	c.must(t, command(&stockledgerv1.ReceiveTransfer{TransferId: transfer, Lines: []*stockledgerv1.LotLine{{LotId: "L2", Quantity: 15}}}))
	deliveries := f.all(t, "SupplyDelivery?status=in-progress&location=ward", 20)
	if len(deliveries) != 1 || digInto(deliveries[0], "suppliedItem", "quantity", "value") != 15.0 || digInto(deliveries[0], "destination", "reference") != "Location/ward" ||
		digInto(deliveries[0], "contained", 0, "batch", "lotNumber") != "2" {
		t.Fatalf("under way is %v", deliveries)
	}
	c.must(t, command(&stockledgerv1.CompleteTransfer{TransferId: transfer, ReasonCode: "LOST"}))
	if got := f.get(t, "SupplyDelivery/"+transfer+"-1"); got.dig("status") != "completed" || got.dig("suppliedItem", "itemReference", "reference") != "#medication" {
		t.Errorf("in the end it is %v", got.body)
	}

	// A token that names a location sees what is there, and no more.
	ward.fhir().get(t, "MedicationDispense?location=store").refuses(t, "another location", http.StatusForbidden, "forbidden", "")
	if got := ward.fhir().all(t, "MedicationDispense", 20); len(got) != 0 {
		t.Errorf("on the ward there is %v", got)
	}
}

// What is refused before there is an order to judge.
func TestFHIRRefusals(t *testing.T) {
	t.Parallel()
	c, patient := fhirClinic(t, shared(t))
	f := c.person(t, "hill", RolePharmacist).fhir()
	order := fhirOrder(t, patient, "A-1")
	nobody := &fhirCaller{base: f.base}
	statement := nobody.get(t, "metadata")
	if statement.status != http.StatusOK || statement.dig("fhirVersion") != "4.0.1" || statement.dig("rest", 0, "resource", 0, "conditionalCreate") != true {
		t.Errorf("the capabilities are %v", statement.body)
	}
	refused := nobody.order(t, "{")
	refused.refuses(t, "no token", http.StatusUnauthorized, "login", "")
	if refused.header.Get("WWW-Authenticate") == "" {
		t.Error("it does not say how to authenticate")
	}
	c.person(t, "count", RoleCounter).fhir().order(t, order).refuses(t, "not permitted", http.StatusForbidden, "forbidden", "")
	(&fhirCaller{c.node.url + "/fhir/elsewhere", f.token}).get(t, "MedicationRequest/RX-1-1").refuses(t, "another clinic", http.StatusForbidden, "forbidden", "")
	for _, r := range []struct {
		what, method, address, body string
		header                      []string
		status                      int
		code                        string
	}{
		{"unknown resource", "GET", "Patient/1", "", nil, 404, "not-supported"},
		{"no resource", "POST", "", "{}", nil, 405, "not-supported"},
		{"no such order", "GET", "MedicationRequest/RX-999999-1", "", nil, 404, "not-found"},
		{"no id of an order", "GET", "MedicationRequest/1", "", nil, 404, "not-found"},
		{"no such dispensing", "GET", "MedicationDispense/DN-999999-1", "", nil, 404, "not-found"},
		{"no such delivery", "GET", "SupplyDelivery/TR-999999-1", "", nil, 404, "not-found"},
		{"update", "PUT", "MedicationRequest/RX-1-1", order, nil, 405, "not-supported"},
		{"delete", "DELETE", "MedicationRequest/RX-1-1", "", nil, 405, "not-supported"},
		{"history", "GET", "MedicationRequest/RX-1-1/_history", "", nil, 405, "not-supported"},
		{"operation", "POST", "MedicationRequest/$validate", order, nil, 405, "not-supported"},
		{"create what is only shown", "POST", "MedicationDispense", "{}", nil, 405, "not-supported"},
		{"XML sent", "POST", "MedicationRequest", "<a/>", []string{"Content-Type", "application/fhir+xml"}, 415, "not-supported"},
		{"Latin", "POST", "MedicationRequest", order, []string{"Content-Type", "application/fhir+json; charset=latin1"}, 415, "not-supported"},
		{"compressed", "POST", "MedicationRequest", order, []string{"Content-Encoding", "gzip"}, 415, "not-supported"},
		{"another version", "POST", "MedicationRequest", order, []string{"Content-Type", "application/fhir+json; fhirVersion=5.0"}, 415, "not-supported"},
		{"XML wanted", "GET", "MedicationRequest", "", []string{"Accept", "application/fhir+xml"}, 406, "not-supported"},
		{"format of XML", "GET", "MedicationRequest?_format=xml", "", nil, 406, "not-supported"},
		{"too large", "POST", "MedicationRequest", order + strings.Repeat(" ", 256<<10), nil, 413, "too-long"},
		{"unknown parameter", "GET", "MedicationRequest?_include=a", "", nil, 400, "not-supported"},
		{"parameter with a modifier", "GET", "MedicationRequest?patient:missing=true", "", nil, 400, "not-supported"},
		{"parameter twice", "GET", "MedicationRequest?status=active&status=active", "", nil, 400, "not-supported"},
		{"parameter of a read", "GET", "MedicationRequest/RX-1-1?_summary=true", "", nil, 400, "not-supported"},
		{"empty parameter", "GET", "MedicationRequest?patient=", "", nil, 400, "value"},
		{"identifier without a system", "GET", "MedicationRequest?identifier=1", "", nil, 400, "value"},
		{"unknown status", "GET", "MedicationRequest?status=filled", "", nil, 400, "code-invalid"},
		{"page of nothing", "GET", "MedicationRequest?_count=0", "", nil, 400, "value"},
		{"page of somewhere", "GET", "MedicationRequest?_page=abc", "", nil, 400, "value"},
	} {
		f.do(t, r.method, r.address, r.body, r.header...).refuses(t, r.what, r.status, r.code, "")
	}
	for _, format := range []string{"json", "application/json", "application/fhir%2Bjson", "application/fhir+json"} {
		if got := f.get(t, "MedicationRequest?_format="+format); got.status != http.StatusOK {
			t.Errorf("_format %s: %d %v", format, got.status, got.body)
		}
	}
}
