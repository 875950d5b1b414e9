package fhir

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// broken is a line of testdata/broken.tsv.
type broken struct {
	name, code, expression, body string
	status                       int
}

func readBroken(t testing.TB, file string) []broken {
	t.Helper()
	valid, lines := readFile(t, "valid.json"), strings.Split(readFile(t, file), "\n")
	unescape := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t")
	var all []broken
	for _, line := range lines {
		if line == "" || line[0] == '#' {
			continue
		}
		columns := strings.Split(line, "\t")
		if len(columns) != 6 {
			t.Fatalf("%s: %q has %d columns", file, columns[0], len(columns))
		}
		before, after := unescape.Replace(columns[4]), unescape.Replace(columns[5])
		if !strings.Contains(valid, before) {
			t.Fatalf("%s: %q changes what is not there", file, columns[0])
		}
		status, err := strconv.Atoi(columns[1])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, broken{columns[0], columns[2], strings.TrimPrefix(columns[3], "-"), strings.Replace(valid, before, after, 1), status})
	}
	return all
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// judge reads an order as far as no clinic is needed.
func judge(body string) []issue {
	root, issues := parseResource([]byte(body), "MedicationRequest")
	if len(issues) > 0 {
		return issues
	}
	now := func() time.Time { return time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC) }
	o := &order{exchange: &exchange{Services: Services{Now: now}}, root: root}
	o.check()
	return o.issues
}

func TestBrokenOrdersAreRefusedByElement(t *testing.T) {
	for _, b := range readBroken(t, "broken.tsv") {
		t.Run(b.name, func(t *testing.T) {
			issues := judge(b.body)
			if len(issues) == 0 {
				t.Fatal("it was accepted")
			}
			named := slices.ContainsFunc(issues, func(i issue) bool {
				return i.expression == b.expression && string(i.code) == b.code
			})
			if status := refuse(issues...).status; !named || status != b.status {
				t.Errorf("got %d %+v, want %d %s at %q", status, issues, b.status, b.code, b.expression)
			}
		})
	}
}

func TestOrdersBrokenInTheirReferencesPassUntilTheyAreLookedUp(t *testing.T) {
	for _, b := range readBroken(t, "broken_here.tsv") {
		if issues := judge(b.body); len(issues) > 0 && b.code != string(issues[0].code) {
			t.Errorf("%s: got %+v", b.name, issues)
		}
	}
}

func TestValidOrderIsReadAndWrittenAsItCame(t *testing.T) {
	valid := readFile(t, "valid.json")
	if issues := judge(valid); len(issues) > 0 {
		t.Fatalf("it was refused: %+v", issues)
	}
	root, _ := parseResource([]byte(valid), "MedicationRequest")
	written := string(root.append(nil))
	again, err := parseJSON([]byte(written))
	if err != nil {
		t.Fatal(err)
	}
	if string(again.append(nil)) != written {
		t.Error("it changes when it is read again")
	}
	// Decimals keep their digits.
	if !strings.Contains(written, `"period":1.0,`) || !strings.Contains(written, `"value":2.50`) {
		t.Errorf("decimals lost digits: %s", written)
	}
	var a, b any
	if err := json.Unmarshal([]byte(valid), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(written), &b); err != nil {
		t.Fatal(err)
	}
	if x, y := mustJSON(t, a), mustJSON(t, b); x != y {
		t.Errorf("got  %s\nwant %s", y, x)
	}
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestKeptLeavesOutWhatACreateIgnores(t *testing.T) {
	root, _ := parseResource([]byte(readFile(t, "valid.json")), "MedicationRequest")
	kept := (&order{root: root}).kept()
	if kept.get("id") != nil || kept.at("meta", "versionId") != nil || kept.at("meta", "lastUpdated") != nil || kept.at("meta", "profile") == nil {
		t.Errorf("got %s", kept.append(nil))
	}
	if root.get("id") == nil || root.at("meta", "versionId") == nil {
		t.Error("the order itself was changed")
	}
}

// published are the official examples of R4 that are orders, and what makes this
// server refuse them as published; empty: nothing does. Where an order is over,
// alive says what would be refused were it not.
var published = []struct{ number, refused, alive string }{
	{"0301", "MedicationRequest.contained[1].resourceType", ""},
	{"0302", "", ""},
	{"0303", "MedicationRequest.substitution.allowedCodeableConcept", ""},
	{"0304", "MedicationRequest.status", ""},
	{"0305", "MedicationRequest.status", ""},
	{"0306", "MedicationRequest.dispenseRequest", ""},
	{"0307", "MedicationRequest.status", ""},
	{"0308", "MedicationRequest.status", ""},
	{"0309", "MedicationRequest.dispenseRequest", ""},
	{"0310", "MedicationRequest.dispenseRequest", ""},
	{"0312", "", ""},
	{"0313", "MedicationRequest.status", ""},
	{"0320", "MedicationRequest.status", ""},
	{"0327", "", ""},
}

func TestPublishedExamples(t *testing.T) {
	for _, example := range published {
		body := readFile(t, "examples/medicationrequest"+example.number+".json")
		check := func(body, want string) {
			t.Helper()
			issues := judge(body)
			switch {
			case want == "" && len(issues) > 0:
				t.Errorf("%s: got %+v, want it accepted", example.number, issues)
			case want != "" && !slices.ContainsFunc(issues, func(i issue) bool { return i.expression == want && i.code != codeStructure }):
				t.Errorf("%s: got %+v, want %s refused", example.number, issues, want)
			}
		}
		check(body, example.refused)
		if example.refused == "MedicationRequest.status" {
			check(strings.Replace(body, `"status": "completed"`, `"status": "active"`, 1), example.alive)
		}
	}
}

// outgoing are the types of the resources that are only written.
func outgoing(t testing.TB) map[string]*typeDef {
	t.Helper()
	return readSchema(readFile(t, "out_schema.txt"))
}

// checkOutgoing judges a resource that this server writes.
func checkOutgoing(t testing.TB, body []byte) {
	t.Helper()
	types := outgoing(t)
	for name, definition := range types {
		schema[name] = definition
	}
	t.Cleanup(func() {
		for name := range types {
			delete(schema, name)
		}
	})
	root, err := parseJSON(body)
	if err != nil {
		t.Fatal(err)
	}
	name := root.get("resourceType").string()
	// The lot belongs in what is written.
	medicine := *schema["Medication"].elements["batch"]
	kept := medicine
	kept.refused = ""
	schema["Medication"].elements["batch"] = &kept
	defer func() { schema["Medication"].elements["batch"] = &medicine }()
	if _, issues := parseResource(body, name); len(issues) > 0 {
		t.Errorf("%s: %+v", body, issues)
	}
}

func TestPublishedExamplesOfWhatIsWritten(t *testing.T) {
	for _, name := range []string{"medicationdispense0301", "supplydelivery-example"} {
		checkOutgoing(t, []byte(readFile(t, "examples/"+name+".json")))
	}
}

func FuzzReadOrder(f *testing.F) {
	f.Add([]byte(readFile(f, "valid.json")))
	for _, b := range readBroken(f, "broken.tsv") {
		f.Add([]byte(b.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		root, issues := parseResource(body, "MedicationRequest")
		again, sameIssues := parseResource(body, "MedicationRequest")
		if (root == nil) != (len(issues) > 0) || (again == nil) != (root == nil) || len(issues) != len(sameIssues) {
			t.Fatal("it is judged differently the second time")
		}
		for i := range issues {
			if issues[i] != sameIssues[i] {
				t.Fatalf("got %+v, then %+v", issues[i], sameIssues[i])
			}
		}
		if root == nil {
			return
		}
		written := root.append(nil)
		back, issues := parseResource(written, "MedicationRequest")
		if len(issues) > 0 || string(back.append(nil)) != string(written) {
			t.Fatalf("%s is read back otherwise: %+v", written, issues)
		}
		if !json.Valid(written) {
			t.Fatalf("%s is no JSON", written)
		}
		judge(string(body))
	})
}
