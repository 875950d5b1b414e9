package fhir

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/type/date"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// This file reads a MedicationRequest into a CreatePrescription. What the
// ledger has words for becomes its fields; everything else stays in the resource
// itself, which is kept as it came among the patient's private texts.

// order is a MedicationRequest that keeps the schema's rules.
type order struct {
	*exchange
	root   *node
	issues []issue
}

// at is the path of an element of the order.
func at(steps ...string) string {
	return elementPath(append([]string{"MedicationRequest"}, steps...))
}

func (o *order) refuse(i issue) { o.issues = append(o.issues, i) }

func (o *order) need(expression, why string) {
	o.refuse(issue{status: 422, code: codeRequired, expression: expression, text: "The element is missing; this server needs it: " + why})
}

// check judges what the ledger could not keep its word about, before anything
// is looked up.
func (o *order) check() {
	if status := o.root.get("status").string(); status != "active" {
		o.refuse(unsupported(at("status"), "A prescription is created active; the status %s is not supported by this server.", status))
	}
	if intent := o.root.get("intent").string(); intent != "order" {
		o.refuse(unsupported(at("intent"), "Only an order can be filled; the intent %s is not supported by this server.", intent))
	}
	if o.root.get("doNotPerform").string() == "true" {
		o.refuse(unsupported(at("doNotPerform"), "An order not to give a medicine is not supported by this server."))
	}
	o.checkIdentifiers()
	o.checkSubstitution()
	o.checkDosage()
	o.checkDispenseRequest()
}

func (o *order) checkIdentifiers() {
	identifiers := o.root.get("identifier").list()
	if len(identifiers) > 1 {
		o.refuse(unsupported(at("identifier", "[1]"), "A second identifier is not supported by this server: a prescription is found by one."))
	}
	for _, i := range identifiers {
		for _, part := range []struct {
			name    string
			longest int
		}{{"system", 200}, {"value", 99}} {
			text := i.get(part.name).string()
			switch {
			case text == "":
				o.need(at("identifier", "[0]", part.name), "a prescription is found by the system and the value together.")
			case len(text) > part.longest || strings.ContainsFunc(text, func(r rune) bool { return r == '|' || r < ' ' }):
				o.refuse(unsupported(at("identifier", "[0]", part.name), "More than %d bytes, vertical bars and line ends are not supported by this server.", part.longest))
			}
		}
	}
}

const substitutionSystem = "http://terminology.hl7.org/CodeSystem/v3-substanceAdminSubstitution"

func (o *order) checkSubstitution() {
	if o.root.at("substitution", "allowedCodeableConcept") == nil {
		return
	}
	if !o.noSubstitution() {
		o.refuse(unsupported(at("substitution", "allowedCodeableConcept"), "Substitution of some kinds only is not supported by this server: send allowedBoolean, or the code N for none."))
	}
}

// noSubstitution reports whether no other medicine may be given.
func (o *order) noSubstitution() bool {
	if o.root.at("substitution", "allowedBoolean").string() == "false" {
		return true
	}
	codings := o.root.at("substitution", "allowedCodeableConcept", "coding").list()
	return len(codings) == 1 && codings[0].get("system").string() == substitutionSystem && codings[0].get("code").string() == "N"
}

// Limits of the prescription's own texts, in bytes.
const (
	maxDosageText = 1000
	maxNote       = 4000
	maxOriginal   = 64 << 10
)

func (o *order) checkDosage() {
	for i, d := range o.root.get("dosageInstruction").list() {
		if d.get("text").string() == "" {
			o.need(at("dosageInstruction", fmt.Sprintf("[%d]", i), "text"), "it is what the pharmacist reads; structured instructions are kept beside it.")
		}
	}
	if len(o.dosageText()) > maxDosageText {
		o.refuse(unsupported(at("dosageInstruction"), "Instructions of more than %d bytes of text are not supported by this server.", maxDosageText))
	}
	if len(o.note()) > maxNote {
		o.refuse(unsupported(at("note"), "Notes of more than %d bytes of text are not supported by this server.", maxNote))
	}
}

// dosageText is the instructions for people, in the order of their sequence.
func (o *order) dosageText() string { return texts(o.root.get("dosageInstruction")) }

func (o *order) note() string { return texts(o.root.get("note")) }

func texts(list *node) string {
	var lines []string
	for _, item := range list.list() {
		if text := item.get("text").string(); text != "" {
			lines = append(lines, text)
		}
	}
	return strings.Join(lines, "\n")
}

func (o *order) checkDispenseRequest() {
	request := o.root.get("dispenseRequest")
	if request == nil {
		o.need(at("dispenseRequest"), "it says how much may be dispensed, and until when.")
		return
	}
	if request.at("quantity", "value") == nil {
		o.need(at("dispenseRequest", "quantity", "value"), "it is how much one fill is.")
	}
	if refills := request.get("numberOfRepeatsAllowed"); refills != nil && len(refills.text) > 3 {
		o.refuse(unsupported(at("dispenseRequest", "numberOfRepeatsAllowed"), "More than 999 repeats are not supported by this server."))
	}
	o.checkValidity(request.get("validityPeriod"))
}

func (o *order) checkValidity(period *node) {
	end := period.get("end").string()
	switch _, err := time.Parse(time.DateOnly, end); {
	case end == "":
		o.need(at("dispenseRequest", "validityPeriod", "end"), "it is the last day on which the prescription can be filled.")
	case err != nil:
		o.refuse(unsupported(at("dispenseRequest", "validityPeriod", "end"), "Give the last day, as YYYY-MM-DD: other precisions are not supported by this server."))
	}
	if start := period.get("start").string(); start != "" {
		// The clinic's day may be one ahead of the server's.
		const widest = 14 * time.Hour
		if first, _ := dateTimeRange(start); first.After(o.Now().Add(widest)) {
			o.refuse(unsupported(at("dispenseRequest", "validityPeriod", "start"), "A prescription can be filled as soon as it is created; one that begins later is not supported by this server."))
		}
	}
}

// command looks up what the order refers to, and builds what it comes to.
func (o *order) command() (*stockledgerv1.CreatePrescription, error) {
	patient, err := o.patient()
	if err != nil {
		return nil, err
	}
	medicine, err := o.medicine()
	if err != nil {
		return nil, err
	}
	units, pack, err := o.quantity(medicine)
	if err != nil {
		return nil, err
	}
	prescriber, err := o.prescriber()
	if err != nil {
		return nil, err
	}
	request := o.root.get("dispenseRequest")
	end, _ := time.Parse(time.DateOnly, request.at("validityPeriod", "end").string())
	repeats, _ := decimalOf(request.get("numberOfRepeatsAllowed"))
	line := &stockledgerv1.PrescribedLine{
		MedicineId: medicine, Quantity: units, Pack: pack, NoSubstitution: o.noSubstitution(), DosageText: o.dosageText(),
	}
	if repeats != nil {
		line.Refills = repeats.Num().Int64()
	}
	original := string(o.kept().append(nil))
	if len(original) > maxOriginal {
		return nil, refuse(issue{status: 422, code: codeTooLong, expression: "MedicationRequest", text: fmt.Sprintf("The resource has %d bytes without spaces; at most %d are kept.", len(original), maxOriginal)})
	}
	return &stockledgerv1.CreatePrescription{
		PatientId: patient, LocationId: referenceOf(request.at("performer", "identifier")), Lines: []*stockledgerv1.PrescribedLine{line},
		Prescriber: prescriber, ValidUntil: &date.Date{Year: int32(end.Year()), Month: int32(end.Month()), Day: int32(end.Day())},
		Identifier: o.identifier(), Note: o.note(), Original: original,
	}, nil
}

// kept is the resource without what FHIR wants a server to ignore in a create:
// its id, and the version that another server gave it.
func (o *order) kept() *node {
	kept := &node{kind: kindObject, members: slices.Clone(o.root.members)}
	kept.remove("id")
	if m := kept.get("meta"); m != nil {
		m = &node{kind: kindObject, members: slices.Clone(m.members)}
		m.remove("versionId")
		m.remove("lastUpdated")
		if kept.set("meta", m); len(m.members) == 0 {
			kept.remove("meta")
		}
	}
	return kept
}

func (o *order) identifier() *stockledgerv1.ExternalIdentifier {
	list := o.root.get("identifier").list()
	if len(list) == 0 {
		return nil
	}
	return &stockledgerv1.ExternalIdentifier{System: list[0].get("system").string(), Value: list[0].get("value").string()}
}

// referenceOf is an identifier as the ledger's commands take it, empty where it
// is not whole.
func referenceOf(identifier *node) string {
	system, value := identifier.get("system").string(), identifier.get("value").string()
	if system == "" || value == "" {
		return ""
	}
	return system + "|" + value
}

// patient finds the patient's token.
func (o *order) patient() (string, error) {
	subject := o.root.get("subject")
	if text := subject.get("reference").string(); text != "" {
		token, ok := o.local(text, "Patient")
		if !ok {
			return "", refuse(unsupported(at("subject", "reference"), "The subject must be a patient of this clinic, as Patient/ and the patient's token; others are not supported by this server."))
		}
		return token, nil
	}
	system, value := subject.at("identifier", "system").string(), subject.at("identifier", "value").string()
	if system == "" || value == "" {
		o.issues = nil
		o.need(at("subject", "reference"), "it is Patient/ and the patient's token. An identifier with system and value does as well.")
		return "", refuse(o.issues...)
	}
	got, err := o.Pharmacy.FindPatient(o.call(), &stockledgerv1.FindPatientRequest{
		ClinicId: o.clinic, Identifier: &stockledgerv1.ExternalIdentifier{System: system, Value: value},
	})
	if err != nil {
		return "", explain(err, func(string) string { return at("subject", "identifier") })
	}
	return got.GetPatient().GetPatientId(), nil
}

// local reads a reference to a resource of this clinic: relative, or with this
// server's address.
func (x *exchange) local(text, resourceType string) (id string, ok bool) {
	text = strings.TrimPrefix(text, x.base+"/")
	id, ok = strings.CutPrefix(text, resourceType+"/")
	return id, ok && id != "" && !strings.ContainsAny(id, "/#?|")
}

// medicine finds the medicine's id.
func (o *order) medicine() (string, error) {
	if concept := o.root.get("medicationCodeableConcept"); concept != nil {
		return o.coded(concept, at("medicationCodeableConcept"))
	}
	element := o.root.get("medicationReference")
	text, path := element.get("reference").string(), at("medicationReference", "reference")
	if text == "" {
		concept := &node{kind: kindObject, members: []member{{"coding", &node{kind: kindArray}}}}
		if i := element.get("identifier"); i.get("value").string() != "" {
			c := &node{kind: kindObject, members: []member{{"system", &node{kind: kindText, text: i.get("system").string()}}, {"code", i.get("value")}}}
			concept.members[0].value.items = append(concept.members[0].value.items, c)
		}
		return o.coded(concept, at("medicationReference"))
	}
	if id, ok := strings.CutPrefix(text, "#"); ok {
		for i, contained := range o.root.get("contained").list() {
			if contained.get("id").string() == id {
				return o.coded(contained.get("code"), at("contained", fmt.Sprintf("[%d]", i), "code"))
			}
		}
		return "", refuse(malformed(codeInvariant, path, "No contained resource has the id %q.", clip(id)))
	}
	id, ok := o.local(text, "Medication")
	if !ok {
		return "", refuse(unsupported(path, "The medicine must be one of this clinic, as Medication/ and its id, or a contained one with a code; others are not supported by this server."))
	}
	return id, nil
}

// coded finds the one medicine that a concept's codings stand for.
func (o *order) coded(concept *node, path string) (string, error) {
	medicine := ""
	var tried []string
	for _, c := range concept.get("coding").list() {
		system, code := c.get("system").string(), c.get("code").string()
		if system == "" || code == "" {
			continue
		}
		tried = append(tried, clip(system+"|"+code))
		id, err := o.lookUp(system, code)
		if err != nil {
			return "", explain(err, func(string) string { return path })
		}
		if id != "" && medicine != "" && id != medicine {
			return "", refuse(issue{status: 422, code: codeBusinessRule, expression: path, text: "The codings stand for different medicines of this clinic: " + medicine + " and " + id + "."})
		}
		if id != "" {
			medicine = id
		}
	}
	if medicine != "" {
		return medicine, nil
	}
	text := "The medicine has no coding with system and code; its text alone is not supported by this server."
	if len(tried) > 0 {
		text = "This clinic knows no medicine by " + strings.Join(tried, " or ") + ". AddIdentifier makes a coding known."
	}
	return "", refuse(issue{status: 422, code: codeNotFound, expression: path, text: text})
}

// lookUp finds a medicine by a coding, empty where none has it.
func (o *order) lookUp(system, code string) (string, error) {
	if system == medicineSystem {
		return code, nil
	}
	const longest = 64
	for _, spelling := range []string{system, shortSystems[system]} {
		if spelling == "" || len(spelling) > longest || len(code) > longest || strings.Contains(code+system, "|") {
			continue
		}
		got, err := o.Catalog.LookUpIdentifier(o.call(), &stockledgerv1.LookUpIdentifierRequest{
			ClinicId: o.clinic, Subject: stockledgerv1.IdentifierSubject_IDENTIFIER_SUBJECT_MEDICINE, System: spelling, Value: code,
		})
		if err == nil {
			return got.GetIdentifier().GetSubjectId(), nil
		}
		if connect.CodeOf(err) != connect.CodeNotFound {
			return "", err
		}
	}
	return "", nil
}

// unitNames are other spellings of units, in small letters, by the one that is
// compared.
var unitNames = map[string]string{
	"tab": "tablet", "tablets": "tablet", "{tbl}": "tablet", "{tablet}": "tablet", "cap": "capsule", "caps": "capsule",
	"capsules": "capsule", "{capsule}": "capsule", "{cbl}": "capsule", "[iu]": "iu",
	"units": "unit", "vials": "vial", "ampoules": "ampoule", "patches": "patch", "millilitre": "ml", "milliliter": "ml",
}

func unitName(text string) string {
	text = strings.ToLower(strings.TrimSpace(text))
	if name, ok := unitNames[text]; ok {
		return name
	}
	return text
}

// quantity reads how much one fill is: a whole number of the medicine's base
// units, or of one of its packs.
func (o *order) quantity(medicine string) (units int64, pack string, err error) {
	element := o.root.at("dispenseRequest", "quantity")
	value, ok := decimalOf(element.get("value"))
	path := at("dispenseRequest", "quantity", "value")
	if !ok || !value.IsInt() || value.Sign() <= 0 || value.Cmp(new(big.Rat).SetInt64(1<<53)) > 0 {
		return 0, "", refuse(issue{status: 422, code: codeValue, expression: path, text: "The quantity must be a whole number from 1 to 2^53: the ledger counts whole base units or packs."})
	}
	pack, err = o.unit(medicine, element)
	return value.Num().Int64(), pack, err
}

// unit finds what a quantity counts: a pack's name, or empty for base units.
func (o *order) unit(medicine string, element *node) (string, error) {
	given := []string{element.get("unit").string(), element.get("code").string()}
	got, err := o.Catalog.GetPacks(o.call(), &stockledgerv1.GetPacksRequest{ClinicId: o.clinic, MedicineId: medicine})
	if err != nil {
		return "", explain(err, func(string) string { return at("medication[x]") })
	}
	if given[0]+given[1] == "" {
		return "", nil
	}
	packs := map[string]string{unitName(got.GetBaseUnit()): ""}
	known := []string{got.GetBaseUnit()}
	for _, p := range got.GetPacks() {
		packs[unitName(p.GetName())] = p.GetName()
		known = append(known, p.GetName())
	}
	byUnit, unitKnown := packs[unitName(given[0])]
	byCode, codeKnown := packs[unitName(given[1])]
	switch {
	case unitKnown && codeKnown && byUnit != byCode:
		return "", badUnit("code", "The unit %q and the code %q are different units of this medicine.", clip(given[0]), clip(given[1]))
	case codeKnown:
		return byCode, nil
	case unitKnown:
		return byUnit, nil
	case given[0] == "":
		return "", badUnit("code", "%q is no unit of this medicine here. It is counted in: %s.", clip(given[1]), strings.Join(known, ", "))
	}
	return "", badUnit("unit", "%q is no unit of this medicine here. It is counted in: %s.", clip(given[0]), strings.Join(known, ", "))
}

func badUnit(element, format string, args ...any) error {
	return refuse(issue{status: 422, code: codeValue, expression: at("dispenseRequest", "quantity", element), text: fmt.Sprintf(format, args...)})
}

// prescriber is who signs: an identifier before a name, and a name before a
// reference that only the sender can follow.
func (o *order) prescriber() (string, error) {
	requester := o.root.get("requester")
	for _, text := range []string{referenceOf(requester.get("identifier")), requester.get("display").string(), requester.get("reference").string()} {
		text = strings.Join(strings.Fields(text), " ")
		switch {
		case text == "":
		case len(text) > 200:
			return "", refuse(unsupported(at("requester"), "A requester of more than 200 bytes is not supported by this server."))
		default:
			return text, nil
		}
	}
	o.issues = nil
	o.need(at("requester"), "a prescription names who prescribes, by an identifier with system and value, a display, or a reference.")
	return "", refuse(o.issues...)
}
