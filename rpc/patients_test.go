package rpc

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

const kindPatient = stockledgerv1.DocumentKind_DOCUMENT_KIND_PATIENT

// somebody is a patient with words in all fields that stand nowhere else.
func somebody(word string) *stockledgerv1.PatientIdentity {
	return &stockledgerv1.PatientIdentity{
		FamilyName: word + "family", GivenNames: word + "given", BirthDate: &date.Date{Year: 1987, Month: 2, Day: 3}, Sex: word + "sex",
		Phone: word + "phone", Address: word + "address", Note: word + "note",
		Identifiers: []*stockledgerv1.ExternalIdentifier{{System: "mrn", Value: word + "mrn"}},
	}
}

func register(identity *stockledgerv1.PatientIdentity, key string) *stockledgerv1.Command {
	return &stockledgerv1.Command{IdempotencyKey: key, Body: &stockledgerv1.Command_RegisterPatient{RegisterPatient: &stockledgerv1.RegisterPatient{Identity: identity}}}
}

func (p *person) patientNamed(tb testing.TB, id string) *stockledgerv1.Patient {
	tb.Helper()
	response, err := p.pharmacy.GetPatient(tb.Context(), &stockledgerv1.GetPatientRequest{ClinicId: p.clinic.id, PatientId: id})
	if err != nil {
		tb.Fatal(err)
	}
	return response.GetPatient()
}

func (p *person) found(tb testing.TB, value string) (*stockledgerv1.Patient, error) {
	tb.Helper()
	response, err := p.pharmacy.FindPatient(tb.Context(), &stockledgerv1.FindPatientRequest{
		ClinicId: p.clinic.id, Identifier: &stockledgerv1.ExternalIdentifier{System: "mrn", Value: value},
	})
	return response.GetPatient(), err
}

func TestAPatientFromRegistrationToErasure(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "amina", RoleAdmin)
	identity := somebody("ann")
	first := c.must(t, register(identity, "register"))[0]
	id := namedBy(t, first, kindPatient)
	again := c.must(t, register(identity, "register"))[0]
	if !again.GetReplayed() || namedBy(t, again, kindPatient) != id {
		t.Errorf("the repetition answered %v", again)
	}
	if got := p.patientNamed(t, id); !cmp.Equal(got.GetIdentity(), identity, protocmp.Transform()) || got.GetErased() {
		t.Errorf("registered is %v", got)
	}
	found, err := p.found(t, "annmrn")
	if err != nil || found.GetPatientId() != id {
		t.Errorf("found is %v, %v", found, err)
	}
	_, err = p.pharmacy.RegisterPatient(t.Context(), c.request(register(somebody("ann"), "other")))
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdentifierExists)
	_, err = p.pharmacy.RegisterPatient(t.Context(), c.request(register(somebody("eve"), "register")))
	wantError(t, err, connect.CodeAlreadyExists, ledger.ReasonIdempotencyKeyReused)

	changed := proto.Clone(identity).(*stockledgerv1.PatientIdentity)
	changed.FamilyName, changed.Identifiers[0].Value = "annmarried", "annnew"
	p.give(t, &stockledgerv1.UpdatePatient{PatientId: id, Identity: changed})
	if got := p.patientNamed(t, id); !cmp.Equal(got.GetIdentity(), changed, protocmp.Transform()) {
		t.Errorf("updated is %v", got)
	}
	if _, err := p.found(t, "annmrn"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("by the former identifier: %v", err)
	}
	if rows := c.rowsOf(t, id); rows != [3]int{1, 1, 1} {
		t.Errorf("keys, texts and identifiers are %v", rows)
	}

	order := zincFor(id)
	order.Note, order.Lines[0].DosageText = "annorder", "anndose"
	prescribed := command(order)
	prescribed.IdempotencyKey = "prescribe"
	rx := namedBy(t, c.must(t, prescribed)[0], kindPrescription)
	if got := p.prescription(t, rx); got.GetNote() != "annorder" || got.GetLines()[0].GetDosageText() != "anndose" {
		t.Errorf("prescribed is %v", got)
	}
	p.give(t, &stockledgerv1.PlaceLegalHold{PatientId: id, ReasonCode: "LAWSUIT"})
	_, err = p.pharmacy.ErasePatient(t.Context(), c.request(command(&stockledgerv1.ErasePatient{PatientId: id, ReasonCode: "ASKED"})))
	wantError(t, err, connect.CodeFailedPrecondition, ledger.ReasonLegalHold)
	p.give(t, &stockledgerv1.LiftLegalHold{PatientId: id, ReasonCode: "SETTLED"})
	p.give(t, &stockledgerv1.ErasePatient{PatientId: id, ReasonCode: "ASKED"})
	if got := p.patientNamed(t, id); !got.GetErased() || got.GetIdentity() != nil {
		t.Errorf("erased is %v", got)
	}
	if got := p.prescription(t, rx); got.GetNote() != "" || got.GetLines()[0].GetDosageText() != "" || got.GetPatientId() != id {
		t.Errorf("after the erasure the prescription is %v", got)
	}
	if _, err := p.found(t, "annnew"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("by the identifier after the erasure: %v", err)
	}
	if rows := c.rowsOf(t, id); rows != [3]int{} {
		t.Errorf("after the erasure keys, texts and identifiers are %v", rows)
	}
	for _, repeated := range []*stockledgerv1.Command{register(identity, "register"), prescribed} {
		results, err := c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{repeated}})
		if err != nil || results.GetResults()[0].GetRejected().GetReason() != string(ledger.ReasonPatientErased) {
			t.Errorf("repeated after the erasure: %v, %v", results, err)
		}
	}
	c.verify(t)
}

// An identifier names one patient at a time. Who repeats a command gets its
// answer, also where the identifier has become somebody else's since.
func TestIdentifiersOfPatients(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "amina", RoleAdmin)
	first := register(somebody("dan"), "first")
	id := namedBy(t, c.must(t, first)[0], kindPatient)
	update := command(&stockledgerv1.UpdatePatient{PatientId: id, Identity: somebody("don")})
	update.IdempotencyKey = "update"
	c.must(t, update)
	heir := namedBy(t, c.must(t, register(somebody("dan"), "second"))[0], kindPatient)
	c.must(t, command(&stockledgerv1.UpdatePatient{PatientId: id, Identity: somebody("dun")}))
	c.must(t, register(somebody("don"), "third"))
	for _, repeated := range []*stockledgerv1.Command{first, update} {
		if again := c.must(t, repeated)[0]; !again.GetReplayed() || namedBy(t, again, kindPatient) != id {
			t.Errorf("the repetition answered %v", again)
		}
	}
	if found, err := p.found(t, "danmrn"); err != nil || found.GetPatientId() != heir {
		t.Errorf("found is %v, %v; the identifier is %s's", found, err, heir)
	}
	p.refused(t, connect.CodeAlreadyExists, ledger.ReasonIdentifierExists, &stockledgerv1.UpdatePatient{PatientId: id, Identity: somebody("dan")})
	c.verify(t)
}

// What waits for a second person is not shown, nor found, until it is approved.
func TestTextsWaitForASecondPerson(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	rules := make([]*stockledgerv1.PolicyRule, 0, 3)
	for _, kind := range []string{"RegisterPatient", "UpdatePatient", "CreatePrescription"} {
		rules = append(rules, &stockledgerv1.PolicyRule{ControlClass: "*", Command: kind, Requires: stockledgerv1.Requirement_REQUIREMENT_APPROVAL})
	}
	c.must(t, command(&stockledgerv1.SetPolicy{ApprovalHours: 1, Rules: rules}))
	asks, decides := c.person(t, "amina", RoleAdmin), c.person(t, "brian", RoleAdmin)
	approve := func(asked *stockledgerv1.Accepted, kind stockledgerv1.DocumentKind) string {
		t.Helper()
		done := decides.give(t, &stockledgerv1.ApproveCommand{ApprovalId: asked.GetApproval().GetApprovalId()})
		for _, d := range done.GetChange().GetApproved().GetChange().GetDocuments() {
			if d.GetKind() == kind {
				return d.GetId()
			}
		}
		t.Fatalf("nothing was made: %v", done)
		return ""
	}
	registering := asks.give(t, &stockledgerv1.RegisterPatient{Identity: somebody("eli")})
	if _, err := asks.found(t, "elimrn"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("before the approval: %v", err)
	}
	id := approve(registering, kindPatient)
	if found, err := asks.found(t, "elimrn"); err != nil || !cmp.Equal(found.GetIdentity(), somebody("eli"), protocmp.Transform()) {
		t.Errorf("registered is %v, %v", found, err)
	}
	updating := asks.give(t, &stockledgerv1.UpdatePatient{PatientId: id, Identity: somebody("ely")})
	if got := asks.patientNamed(t, id); !cmp.Equal(got.GetIdentity(), somebody("eli"), protocmp.Transform()) {
		t.Errorf("before the approval the patient is %v", got)
	}
	approve(updating, kindPatient)
	if found, err := asks.found(t, "elymrn"); err != nil || !cmp.Equal(found.GetIdentity(), somebody("ely"), protocmp.Transform()) {
		t.Errorf("updated is %v, %v", found, err)
	}
	order := zincFor(id)
	order.Lines[0].DosageText = "elidose"
	rx := approve(asks.give(t, order), kindPrescription)
	if got := asks.prescription(t, rx).GetLines()[0].GetDosageText(); got != "elidose" {
		t.Errorf("the dosage is %q", got)
	}
	refused := asks.give(t, &stockledgerv1.UpdatePatient{PatientId: id, Identity: somebody("els")})
	decides.give(t, &stockledgerv1.RejectCommand{ApprovalId: refused.GetApproval().GetApprovalId(), ReasonCode: "no"})
	if rows := c.rowsOf(t, id); rows != [3]int{1, 2, 1} {
		t.Errorf("keys, texts and identifiers are %v", rows)
	}
	c.verify(t)
}

// rowsOf counts what is kept of a patient: keys, texts, identifiers.
func (c *clinic) rowsOf(tb testing.TB, patient string) [3]int {
	tb.Helper()
	var rows [3]int
	for i, table := range []string{"patient_keys", "patient_texts", "patient_identifiers"} {
		rows[i] = txntest.CountRows(tb, table, c.id, patient)
	}
	return rows
}

func (c *clinic) verify(tb testing.TB) {
	tb.Helper()
	_, err := txn.Verify(context.Background(), txntest.Open(tb), txn.VerifyOptions{
		Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}, Report: func(v txn.Violation) { tb.Errorf("violation: %v", v) },
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// Of many clicks at once on two nodes, one registers the patient and the others
// get its answer.
func TestOnePatientForManyClicks(t *testing.T) {
	t.Parallel()
	first := shared(t)
	second := startNode(t, Config{}, Deps{Issuer: first.issuer, Keyring: first.deps.Keyring})
	c := newClinic(t, first)
	identity := somebody("bob")
	var clicks sync.WaitGroup
	answers := make([]string, 16)
	for i := range answers {
		node := []*node{first, second}[i%2]
		caller := node.client(node.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}}), h2c())
		clicks.Go(func() {
			response, err := caller.pharmacy.RegisterPatient(t.Context(), c.request(register(identity, "click")))
			if err != nil {
				t.Error(err)
				return
			}
			answers[i] = namedBy(t, response.GetAccepted(), kindPatient)
		})
	}
	clicks.Wait()
	for _, answer := range answers {
		if answer != answers[0] {
			t.Fatalf("the clicks were answered with %v", answers)
		}
	}
	if got := c.person(t, "amina", RoleAdmin).patientNamed(t, answers[0]); !cmp.Equal(got.GetIdentity(), identity, protocmp.Transform()) {
		t.Errorf("registered is %v", got)
	}
}

// Nothing that a patient is called by, or that was written about one, stands
// anywhere but encrypted: in no table, log line or metric.
func TestNoPatientDataAnywhere(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	writer := &lockedWriter{w: &log}
	n := startNode(t, Config{Log: slog.New(slog.NewTextHandler(writer, &slog.HandlerOptions{Level: slog.LevelDebug}))}, Deps{})
	c := newClinic(t, n)
	p := c.person(t, "amina", RoleAdmin)
	const word = "xqzvunmistakable"
	id := namedBy(t, c.must(t, register(somebody(word), word[:4]))[0], kindPatient)
	order := zincFor(id)
	order.Note, order.Lines[0].DosageText = word+"order", word+"dose"
	rx := p.give(t, order)
	p.give(t, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: namedBy(t, rx, kindPrescription), Quantity: 10})
	p.give(t, &stockledgerv1.UpdatePatient{PatientId: id, Identity: somebody(word + "2")})
	for _, bad := range []*stockledgerv1.Command{
		register(somebody(word), "a key that is far too long"+strings.Repeat("x", 64)),
		command(&stockledgerv1.UpdatePatient{PatientId: "pt_nobody", Identity: somebody(word)}),
		command(&stockledgerv1.CreatePrescription{PatientId: id, Prescriber: "Dr. Hill", Note: word, Lines: []*stockledgerv1.PrescribedLine{{MedicineId: "none", Quantity: 1}}}),
	} {
		if _, err := p.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{bad}}); err != nil {
			t.Logf("refused: %v", err)
		}
	}
	if _, err := p.found(t, word+"nobody"); err == nil {
		t.Error("nobody is found")
	}
	metrics, err := http.Get(n.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(metrics.Body)
	_ = metrics.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	writer.mu.Lock()
	texts := map[string]string{"the log": log.String(), "the metrics": string(page)}
	writer.mu.Unlock()
	for where, text := range texts {
		if strings.Contains(text, word) {
			t.Errorf("%s tell about the patient", where)
		}
	}
	for _, place := range txntest.PlacesThatHold(t, word) {
		t.Errorf("%s tells about the patient", place)
	}
}

// A node with another key than the others can neither read what they keep nor
// pass it off as its own.
func TestAnotherPatientKey(t *testing.T) {
	t.Parallel()
	first := shared(t)
	stranger := startNode(t, Config{}, Deps{Issuer: first.issuer})
	c := newClinic(t, first)
	id := namedBy(t, c.must(t, register(somebody("cal"), "register"))[0], kindPatient)
	caller := stranger.client(stranger.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}}), h2c())
	_, err := caller.pharmacy.GetPatient(t.Context(), &stockledgerv1.GetPatientRequest{ClinicId: c.id, PatientId: id})
	if connect.CodeOf(err) != connect.CodeInternal {
		t.Errorf("the stranger gets %v", err)
	}
}

func TestKeyrings(t *testing.T) {
	t.Parallel()
	a, b := newTestKeyring(t), newTestKeyring(t)
	made, again := a.token("c", "k"), a.token("c", "k")
	if made == b.token("c", "k") || made == a.token("d", "k") || made != again || !made.Valid() {
		t.Error("tokens depend on key, clinic and idempotency key, and on nothing else")
	}
	key := patientKey{"c", "p", randomKey()}
	wrapped, err := a.wrap(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.unwrap("c", "q", wrapped); err == nil {
		t.Error("a key passes for another patient's")
	}
	if _, err := b.unwrap("c", "p", wrapped); err == nil {
		t.Error("a key is unwrapped with another installation's")
	}
	same, err := a.unwrap("c", "p", wrapped)
	if err != nil || !bytes.Equal(same.key, key.key) {
		t.Errorf("unwrapped is %v, %v", same, err)
	}
	digest := key.digest("k", "note", []byte("text"))
	if digest != key.digest("k", "note", []byte("text")) || digest == key.digest("l", "note", []byte("text")) ||
		digest == key.digest("k", "note", []byte("next")) || digest == (patientKey{"c", "p", randomKey()}).digest("k", "note", []byte("text")) {
		t.Error("digests depend on the patient's key, the command and the text")
	}
	sealed, err := key.seal("d", []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.open("e", sealed); err == nil {
		t.Error("a text passes for another one")
	}
	if _, err := key.open("d", sealed[:8]); err == nil {
		t.Error("half a text is read")
	}
	if text, err := key.open("d", sealed); err != nil || string(text) != "text" {
		t.Errorf("opened is %q, %v", text, err)
	}
}
