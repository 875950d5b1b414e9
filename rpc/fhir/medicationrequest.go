package fhir

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

var medicationRequests = &served{
	name: "MedicationRequest",
	parameters: []parameter{
		patientParameter,
		{"identifier", "token", "The identifier of the prescription, as system|value."},
		{"status", "token", "One or several of active, completed, cancelled and stopped, separated by commas."},
		locationParameter,
		countParameter,
	},
	read:   (*exchange).readRequest,
	create: (*exchange).createRequest,
	search: (*exchange).searchRequests,
}

// A line of a prescription is one MedicationRequest: RX-17-1 is the first line of
// RX-17.

func lineID(prescription string, line int) string { return prescription + "-" + strconv.Itoa(line) }

// splitLine reads the id of a part of a document, counted from 1.
func splitLine(id, prefix string) (document string, line int, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i < 0 || !strings.HasPrefix(id, prefix) {
		return "", 0, false
	}
	line, err := strconv.Atoi(id[i+1:])
	document = id[:i]
	return document, line, err == nil && line > 0 && strconv.Itoa(line) == id[i+1:] && len(document) > len(prefix) && len(id) <= 64
}

func missing(resourceType, id string) error {
	return refuseWith(http.StatusNotFound, codeNotFound, "This clinic has no %s %q.", resourceType, clip(id))
}

func (x *exchange) readRequest(id string) (*answer, error) {
	number, line, ok := splitLine(id, "RX-")
	if !ok {
		return nil, missing("MedicationRequest", id)
	}
	p, err := x.prescription(number, 0)
	if err != nil {
		return nil, err
	}
	if line > len(p.GetLines()) {
		return nil, missing("MedicationRequest", id)
	}
	etag := weakETag(p.GetEtag())
	if none := x.r.Header.Get("If-None-Match"); none != "" && strings.TrimPrefix(none, "W/") == strings.TrimPrefix(etag, "W/") {
		return &answer{status: http.StatusNotModified, header: http.Header{"Etag": {etag}}}, nil
	}
	resource, err := x.medicationRequest(p, line)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, header: http.Header{"Etag": {etag}}, body: resource}, nil
}

func weakETag(version string) string { return `W/"` + version + `"` }

// prescription reads one with its texts, by its number or system|value.
func (x *exchange) prescription(id string, sequence int64) (*stockledgerv1.Prescription, error) {
	read := strong()
	read.MinSequence = sequence
	got, err := x.Pharmacy.GetPrescription(x.call(), &stockledgerv1.GetPrescriptionRequest{ClinicId: x.clinic, PrescriptionId: id, Read: read})
	if err != nil {
		return nil, err
	}
	return got.GetPrescription(), nil
}

// requestStatuses are the ones that a MedicationRequest has here.
var requestStatuses = []string{"active", "completed", "cancelled", "stopped"}

// requestStatus is what became of a line. One that has expired is stopped:
// nothing more happens, though not everything did.
func requestStatus(p *stockledgerv1.Prescription, line *stockledgerv1.PrescriptionLine) string {
	switch {
	case line.GetLeft() <= 0 && line.GetPrepared() == 0:
		return "completed"
	case p.GetStatus() == stockledgerv1.PrescriptionStatus_PRESCRIPTION_STATUS_CANCELLED:
		return "cancelled"
	case p.GetExpired() && line.GetPrepared() == 0:
		return "stopped"
	}
	return "active"
}

// medicationRequest shows a line of a prescription. One that came as a
// MedicationRequest is shown as it came; its id, version and status are the
// ledger's.
func (x *exchange) medicationRequest(p *stockledgerv1.Prescription, line int) (*node, error) {
	root, err := parseJSON([]byte(p.GetOriginal()))
	if err != nil || root.get("resourceType").string() != "MedicationRequest" || len(p.GetLines()) != 1 {
		if root, err = x.ownRequest(p, p.GetLines()[line-1]); err != nil {
			return nil, err
		}
	}
	status := requestStatus(p, p.GetLines()[line-1])
	out := &node{kind: kindObject}
	out.set("resourceType", textNode("MedicationRequest"))
	out.set("id", textNode(lineID(p.GetPrescriptionId(), line)))
	version := &node{kind: kindObject, members: []member{{"versionId", textNode(p.GetEtag())}}}
	for _, m := range root.get("meta").fields() {
		version.set(m.name, m.value)
	}
	out.set("meta", version)
	for _, m := range root.members {
		if m.name != "meta" {
			out.set(m.name, m.value)
		}
	}
	out.set("status", textNode(status))
	if status != "active" && out.at("text", "status").string() == "generated" {
		// It was generated from what has changed since.
		out.remove("text")
	}
	if status == "cancelled" && p.GetReasonCode() != "" {
		out.set("statusReason", toNode(codeableConcept{Text: p.GetReasonCode()}))
	}
	subject := &node{kind: kindObject}
	subject.set("reference", textNode("Patient/"+p.GetPatientId()))
	for _, m := range root.get("subject").fields() {
		if m.name != "reference" {
			subject.set(m.name, m.value)
		}
	}
	out.set("subject", subject)
	return out, nil
}

// ownRequest builds what a MedicationRequest would have said, of a prescription
// that did not come as one, or whose texts were erased.
func (x *exchange) ownRequest(p *stockledgerv1.Prescription, line *stockledgerv1.PrescriptionLine) (*node, error) {
	facts, err := x.names.medicine(line.GetMedicineId())
	if err != nil {
		return nil, err
	}
	root := map[string]any{
		"status": "active", "intent": "order", "medicationCodeableConcept": facts.concept(),
		"dispenseRequest": map[string]any{
			"validityPeriod":         map[string]string{"end": dateText(p.GetValidUntil())},
			"numberOfRepeatsAllowed": line.GetRefills(),
			"quantity":               quantityOf(line.GetQuantity(), facts.GetBaseUnit()),
		},
		"substitution": map[string]bool{"allowedBoolean": !line.GetNoSubstitution()},
	}
	if p.GetPrescriber() != "" {
		root["requester"] = reference{Display: p.GetPrescriber()}
	}
	if i := p.GetIdentifier(); i != nil {
		root["identifier"] = []identifier{{i.GetSystem(), i.GetValue()}}
	}
	if len(p.GetLines()) > 1 {
		root["groupIdentifier"] = identifier{prescriptionSystem, p.GetPrescriptionId()}
	}
	if line.GetDosageText() != "" {
		root["dosageInstruction"] = []annotation{{line.GetDosageText()}}
	}
	if p.GetNote() != "" {
		root["note"] = []annotation{{p.GetNote()}}
	}
	return toNode(root), nil
}

// createRequest creates a prescription, once for each order however often it is
// sent.
func (x *exchange) createRequest(w http.ResponseWriter, query url.Values) (*answer, error) {
	if err := onlyParameters(query); err != nil {
		return nil, err
	}
	body, err := x.body(w, mediaType, "application/json", "text/json")
	if err != nil {
		return nil, err
	}
	condition, err := x.condition()
	if err != nil {
		return nil, err
	}
	root, issues := parseResource(body, "MedicationRequest")
	if len(issues) > 0 {
		return nil, refuse(issues...)
	}
	o := &order{exchange: x, root: root}
	if condition != "" {
		if existing, err := x.existing(condition, o); existing != nil || err != nil {
			return existing, err
		}
	}
	if o.check(); len(o.issues) > 0 {
		return nil, refuse(o.issues...)
	}
	key, err := o.key(condition)
	if err != nil {
		return nil, err
	}
	command, err := o.command()
	if err != nil {
		return nil, err
	}
	response, err := x.Pharmacy.CreatePrescription(x.call(), &stockledgerv1.CommandRequest{ClinicId: x.clinic, Command: &stockledgerv1.Command{
		IdempotencyKey: key, Body: &stockledgerv1.Command_CreatePrescription{CreatePrescription: command},
	}})
	if err != nil {
		if code := connect.CodeOf(err); condition != "" && (code == connect.CodeAlreadyExists || code == connect.CodeAborted) {
			// Somebody else was faster.
			if existing, findErr := x.existing(condition, o); existing != nil && findErr == nil {
				return existing, nil
			}
		}
		return nil, explain(err, prescriptionElement)
	}
	return x.created(response.GetAccepted())
}

// condition is the identifier in If-None-Exist, as system|value.
func (x *exchange) condition() (string, error) {
	header := x.r.Header.Get("If-None-Exist")
	if header == "" {
		return "", nil
	}
	if _, query, ok := strings.Cut(header, "?"); ok {
		header = query
	}
	values, err := url.ParseQuery(header)
	if err != nil || len(values) != 1 || len(values["identifier"]) != 1 {
		return "", refuseWith(http.StatusPreconditionFailed, codeNotSupported, "If-None-Exist must be identifier=system|value; other conditions are not supported by this server.")
	}
	return values.Get("identifier"), checkIdentifier(values.Get("identifier"))
}

// existing answers with the prescription that has an identifier; nil: none has.
// The order must be about the same patient, or the sender would take another
// patient's prescription for the one that was sent.
func (x *exchange) existing(identifier string, o *order) (*answer, error) {
	if sent := referenceOf(first(o.root.get("identifier"))); sent != identifier {
		return nil, refuse(malformed(codeInvariant, at("identifier"), "If-None-Exist must name the identifier of the resource that is sent."))
	}
	p, err := x.identifiedBy(identifier)
	if p == nil || err != nil {
		return nil, err
	}
	patient, err := o.patient()
	if err != nil {
		return nil, err
	}
	if patient != p.GetPatientId() {
		return nil, refuse(issue{status: http.StatusConflict, code: codeDuplicate, expression: at("identifier", "[0]"), text: "The prescription with this identifier is for another patient."})
	}
	return x.shown(p, http.StatusOK)
}

// identifiedBy reads the prescription with an identifier, nil where none has it.
func (x *exchange) identifiedBy(identifier string) (*stockledgerv1.Prescription, error) {
	p, err := x.prescription(identifier, 0)
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil, nil
	}
	return p, err
}

func first(list *node) *node {
	if items := list.list(); len(items) > 0 {
		return items[0]
	}
	return nil
}

// key derives the idempotency key, so that an order that is sent twice is
// created once: from the header Idempotency-Key where there is one, else from
// the identifier.
func (o *order) key(condition string) (string, error) {
	source := o.r.Header.Get("Idempotency-Key")
	kind := "key"
	if source == "" {
		kind, source = "identifier", condition
	}
	if source == "" {
		source = referenceOf(first(o.root.get("identifier")))
	}
	if source == "" {
		o.need(at("identifier"), "with it, sending the order twice creates one prescription. The header Idempotency-Key does as well.")
		return "", refuse(o.issues...)
	}
	const digits = 56
	sum := sha256.Sum256([]byte(kind + "\n" + source))
	return "fhir-" + hex.EncodeToString(sum[:])[:digits], nil
}

// created answers with what a command came to.
func (x *exchange) created(accepted *stockledgerv1.Accepted) (*answer, error) {
	if waits := accepted.GetApproval(); waits != nil {
		f := refuse(issue{
			status: http.StatusAccepted, code: "informational", severity: "information",
			text: "Nothing was created yet: a second person must approve " + waits.GetApprovalId() + ".",
		})
		return &answer{status: f.status, body: f.outcome()}, nil
	}
	for _, d := range accepted.GetChange().GetDocuments() {
		if d.GetKind() != stockledgerv1.DocumentKind_DOCUMENT_KIND_PRESCRIPTION {
			continue
		}
		p, err := x.prescription(d.GetId(), accepted.GetSequence())
		if err != nil {
			return nil, err
		}
		return x.shown(p, http.StatusCreated)
	}
	return nil, refuseWith(http.StatusInternalServerError, codeException, "Something went wrong inside the ledger.")
}

// shown answers a create with the prescription.
func (x *exchange) shown(p *stockledgerv1.Prescription, status int) (*answer, error) {
	resource, err := x.medicationRequest(p, 1)
	if err != nil {
		return nil, err
	}
	result := &answer{status: status, body: resource, header: http.Header{
		"Location": {x.base + "/MedicationRequest/" + lineID(p.GetPrescriptionId(), 1) + "/_history/" + p.GetEtag()},
		"Etag":     {weakETag(p.GetEtag())},
	}}
	if strings.Contains(x.r.Header.Get("Prefer"), "return=minimal") {
		result.body = nil
	}
	return result, nil
}

func (x *exchange) searchRequests(s *searchRequest) ([]found, string, error) {
	if err := s.statuses(append(requestStatuses, "on-hold", "entered-in-error", "draft", "unknown")...); err != nil {
		return nil, "", err
	}
	patient, err := x.patientParameter(s)
	if err != nil {
		return nil, "", err
	}
	if s.get("identifier") != "" {
		matches, err := x.identified(s, patient)
		return matches, "", err
	}
	listed, err := x.Pharmacy.ListPrescriptions(x.call(), &stockledgerv1.ListPrescriptionsRequest{
		ClinicId: x.clinic, PatientId: patient, LocationId: s.get("location"), Page: s.pageOf(), Read: strong(), NewestFirst: true,
	})
	if err != nil {
		return nil, "", err
	}
	var matches []found
	for _, p := range listed.GetPrescriptions() {
		more, err := x.linesOf(s, p)
		if err != nil {
			return nil, "", err
		}
		matches = append(matches, more...)
	}
	return matches, listed.GetNextPageToken(), nil
}

// identified finds the prescription with an identifier.
func (x *exchange) identified(s *searchRequest, patient string) ([]found, error) {
	if err := checkIdentifier(s.get("identifier")); err != nil {
		return nil, err
	}
	p, err := x.identifiedBy(s.get("identifier"))
	if p == nil || err != nil {
		return nil, err
	}
	if patient != "" && patient != p.GetPatientId() || s.get("location") != "" && s.get("location") != p.GetLocationId() {
		return nil, nil
	}
	return x.linesOf(s, p)
}

// linesOf shows the lines of a prescription that a search asks for.
func (x *exchange) linesOf(s *searchRequest, p *stockledgerv1.Prescription) ([]found, error) {
	var matches []found
	read := false
	for i := range p.GetLines() {
		if !s.among(requestStatus(p, p.GetLines()[i])) {
			continue
		}
		if !read {
			// Lists leave the texts out.
			full, err := x.prescription(p.GetPrescriptionId(), 0)
			if err != nil {
				return nil, err
			}
			p, read = full, true
		}
		resource, err := x.medicationRequest(p, i+1)
		if err != nil {
			return nil, err
		}
		matches = append(matches, found{lineID(p.GetPrescriptionId(), i+1), resource})
	}
	return matches, nil
}

// patientParameter reads a patient's token, empty where any patient is meant.
func (x *exchange) patientParameter(s *searchRequest) (string, error) {
	text := s.get("patient")
	if token, ok := x.local(text, "Patient"); ok {
		return token, nil
	}
	if strings.ContainsAny(text, "/|,") {
		return "", refuseWith(http.StatusBadRequest, codeValue, "The parameter patient must be one patient of this clinic: Patient/ and the patient's token, or the token alone.")
	}
	return text, nil
}
