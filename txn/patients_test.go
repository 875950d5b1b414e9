package txn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Another token that nobody would draw.
const bob = ledger.PatientID("pt_zzzzzzzzzzzzzzzzzzzzzzzzzz")

// textDigest is a digest as the journal has it, with a number in it.
func textDigest(number int) string { return fmt.Sprintf("%032x", number) }

// identity is a private text that says who a patient is.
func identity(patient ledger.PatientID, number int, identifiers ...string) PrivateText {
	return PrivateText{Patient: patient, Digest: textDigest(number), Ciphertext: []byte{byte(number)}, Identity: true, Identifiers: identifiers}
}

func note(patient ledger.PatientID, number int) PrivateText {
	return PrivateText{Patient: patient, Digest: textDigest(number), Ciphertext: []byte{byte(number)}}
}

// private gives one command with the private text that it brings.
func (c *testClinic) private(command ledger.Command, text PrivateText) Verdict {
	c.tb.Helper()
	return c.submit(Submission{
		Commands: []ledger.Command{command}, Private: map[string][]PrivateText{command.IdempotencyKey: {text}},
	})[0]
}

func (c *testClinic) mustPrivate(body ledger.CommandBody, text PrivateText) ledger.Record {
	c.tb.Helper()
	v := c.private(c.command(body), text)
	if v.Err != nil {
		c.tb.Fatalf("%s: %v", body.Kind(), v.Err)
	}
	return v.Record
}

// kept lists what is kept of a patient: "key", the numbers of the texts, and
// the identifiers.
func (c *testClinic) kept(patient ledger.PatientID) []string {
	c.tb.Helper()
	var kept []string
	for _, query := range []string{
		`SELECT 'key' FROM patient_keys WHERE clinic_id = $1 AND patient_id = $2`,
		`SELECT 'text ' || digest FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2 ORDER BY digest`,
		`SELECT 'id ' || digest FROM patient_identifiers WHERE clinic_id = $1 AND patient_id = $2 ORDER BY digest`,
	} {
		rows, err := c.e.db.read.Query(c.tb.Context(), query, c.id, patient)
		if err != nil {
			c.tb.Fatal(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			c.tb.Fatal(err)
		}
		kept = append(kept, found...)
	}
	for i := range kept {
		kept[i] = strings.Replace(kept[i], strings.Repeat("0", 31), "", 1)
	}
	return kept
}

func (c *testClinic) keeps(when string, patient ledger.PatientID, want ...string) {
	c.tb.Helper()
	if diff := cmp.Diff(want, c.kept(patient)); diff != "" {
		c.tb.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// putKey gives a patient a key, as who seals a text does.
func (c *testClinic) putKey(patient ledger.PatientID) {
	c.tb.Helper()
	if stored, err := NewPatients(NewDirectory(c.e.db)).PutKey(c.tb.Context(), c.id, patient, []byte("wrapped")); err != nil || stored == nil {
		c.tb.Fatalf("put the key: %q, %v", stored, err)
	}
}

func prescribed(patient ledger.PatientID, number int) *ledger.CreatePrescription {
	return &ledger.CreatePrescription{
		PatientID: patient, Prescriber: "Dr. Hill", ValidUntil: ledger.MaxDate, TextDigest: textDigest(number),
		Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 1}},
	}
}

// executed runs a test twice: with groups that write blindly, and with such as
// are refused and executed again under the head's lock.
func executed(t *testing.T, test func(t *testing.T, c *testClinic)) {
	t.Helper()
	for _, locked := range []bool{false, true} {
		t.Run(fmt.Sprintf("locked %t", locked), func(t *testing.T) {
			t.Parallel()
			c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
			if !locked {
				test(t, c)
				return
			}
			// Another node's command comes before each of this one's, so that
			// its state is always behind.
			other := &testClinic{tb: t, e: testExecutor(t, ExecutorConfig{}), id: c.id, keys: 100_000}
			c.before = func() { other.receive(1) }
			test(t, c)
		})
	}
}

func TestPrivateTextsFollowTheirCommands(t *testing.T) {
	t.Parallel()
	executed(t, func(t *testing.T, c *testClinic) {
		c.putKey(ada)
		register := c.command(&ledger.RegisterPatient{PatientID: ada, TextDigest: textDigest(1)})
		for range 2 { // the second time it is a repetition
			if v := c.private(register, identity(ada, 1, "mrn")); v.Err != nil {
				t.Fatal(v.Err)
			}
			c.keeps("registered", ada, "key", "text 1", "id mrn")
		}
		other := register
		other.Body = &ledger.RegisterPatient{PatientID: ada, TextDigest: textDigest(2)}
		c.rejected(c.private(other, identity(ada, 2, "else")), ledger.ReasonIdempotencyKeyReused)
		stale := c.command(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(3), Etag: "1"})
		c.rejected(c.private(stale, identity(ada, 3, "stale")), ledger.ReasonEtagMismatch)
		taken := &ledger.Rejection{Reason: ledger.ReasonIdentifierExists, Message: "taken"}
		refused := func(command ledger.Command) Verdict {
			return c.submit(Submission{Commands: []ledger.Command{command}, Refused: map[string]*ledger.Rejection{command.IdempotencyKey: taken}})[0]
		}
		if v := refused(register); v.Err != nil || !v.Replayed {
			t.Errorf("a repetition that would be refused today: %+v", v)
		}
		c.rejected(refused(c.command(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(3)})), ledger.ReasonIdentifierExists)
		c.keeps("after what was rejected", ada, "key", "text 1", "id mrn")

		c.mustPrivate(prescribed(ada, 4), note(ada, 4))
		c.mustPrivate(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(5)}, identity(ada, 5, "mrn", "nhs"))
		c.keeps("updated", ada, "key", "text 4", "text 5", "id mrn", "id nhs")
		c.must(&ledger.PlaceLegalHold{PatientID: ada, ReasonCode: "lawsuit"})
		c.rejected(c.give(c.command(&ledger.ErasePatient{PatientID: ada, ReasonCode: "asked"})), ledger.ReasonLegalHold)
		c.keeps("under legal hold", ada, "key", "text 4", "text 5", "id mrn", "id nhs")
		c.must(&ledger.LiftLegalHold{PatientID: ada, ReasonCode: "settled"})
		c.must(&ledger.ErasePatient{PatientID: ada, ReasonCode: "asked"})
		c.keeps("erased", ada)
		c.rejected(c.private(c.command(prescribed(ada, 6)), note(ada, 6)), ledger.ReasonPatientErased)
		if stored, err := NewPatients(NewDirectory(c.e.db)).PutKey(t.Context(), c.id, ada, []byte("late")); err != nil || stored != nil {
			t.Errorf("a key for who was erased: %q, %v", stored, err)
		}
		c.keeps("after the erasure", ada)
		c.verify()
	})
}

// In one group, and in one linked batch, a patient may be registered, changed
// and erased, beside others.
func TestPrivateTextsOfOneGroup(t *testing.T) {
	t.Parallel()
	for _, linked := range []bool{false, true} {
		t.Run(fmt.Sprintf("linked %t", linked), func(t *testing.T) {
			t.Parallel()
			c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
			c.putKey(ada)
			c.putKey(bob)
			give := func(bodies []ledger.CommandBody, texts []PrivateText) []Verdict {
				s := Submission{Linked: linked, Commands: c.commands(bodies...), Private: make(map[string][]PrivateText)}
				for i, text := range texts {
					s.Private[s.Commands[i].IdempotencyKey] = []PrivateText{text}
				}
				return c.submit(s)
			}
			for i, v := range give([]ledger.CommandBody{
				&ledger.RegisterPatient{PatientID: ada, TextDigest: textDigest(1)}, &ledger.RegisterPatient{PatientID: bob, TextDigest: textDigest(2)},
				&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(3)}, &ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(4)},
				prescribed(ada, 5), prescribed(bob, 6), &ledger.ErasePatient{PatientID: bob, ReasonCode: "asked"},
			}, []PrivateText{
				identity(ada, 1, "a1"), identity(bob, 2, "b1"), identity(ada, 3, "a3"), identity(ada, 4, "a1", "a4"), note(ada, 5), note(bob, 6),
			}) {
				if v.Err != nil {
					t.Fatalf("command %d: %v", i, v.Err)
				}
			}
			c.keeps("changed", ada, "key", "text 4", "text 5", "id a1", "id a4")
			c.keeps("erased", bob)

			// What is rejected leaves nothing, nor does what it is linked to.
			verdicts := give([]ledger.CommandBody{prescribed(ada, 7), &ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(8), Etag: "1"}},
				[]PrivateText{note(ada, 7), identity(ada, 8, "a8")})
			c.rejected(verdicts[1], ledger.ReasonEtagMismatch)
			if linked {
				c.keeps("a linked batch was rejected", ada, "key", "text 4", "text 5", "id a1", "id a4")
			} else {
				c.keeps("one of two was rejected", ada, "key", "text 4", "text 5", "text 7", "id a1", "id a4")
			}
			c.verify()
		})
	}
}

// approvalsForPatients is a clinic whose policy wants two people for all that is
// done to patients.
func (c *testClinic) approvalsForPatients() {
	c.tb.Helper()
	policy := ledger.Policy{ApprovalHours: 8}
	for _, kind := range []ledger.Kind{ledger.KindRegisterPatient, ledger.KindUpdatePatient, ledger.KindErasePatient, ledger.KindCreatePrescription} {
		policy.Rules = append(policy.Rules, ledger.Rule{ControlClass: ledger.AnyControlClass, Command: kind, Requires: ledger.RequireApprovalBefore})
	}
	c.must(&ledger.SetPolicy{Policy: policy})
}

// A text is put away when its command is asked for, and is in force when the
// command is approved: until then the former one is, and one that is refused
// goes.
func TestPrivateTextsWaitForASecondPerson(t *testing.T) {
	t.Parallel()
	executed(t, func(t *testing.T, c *testClinic) {
		c.approvalsForPatients()
		c.putKey(ada)
		ask := func(body ledger.CommandBody, texts ...PrivateText) ledger.ApprovalID {
			t.Helper()
			command := c.by("amina", body)
			v := c.submit(Submission{Commands: []ledger.Command{command}, Private: map[string][]PrivateText{command.IdempotencyKey: texts}})[0]
			if v.Err != nil {
				t.Fatal(v.Err)
			}
			return ledger.ApprovalID(documentOf(t, v.Record))
		}
		decide := func(body ledger.CommandBody) {
			t.Helper()
			if v := c.give(c.by("brian", body)); v.Err != nil {
				t.Fatalf("%s: %v", body.Kind(), v.Err)
			}
		}
		refused := ask(&ledger.RegisterPatient{PatientID: bob, TextDigest: textDigest(9)}, identity(bob, 9, "b9"))
		c.keeps("asked to register", bob, "text 9")
		decide(&ledger.RejectCommand{ApprovalID: refused, ReasonCode: "no"})
		c.keeps("not registered", bob)

		decide(&ledger.ApproveCommand{ApprovalID: ask(&ledger.RegisterPatient{PatientID: ada, TextDigest: textDigest(1)}, identity(ada, 1, "mrn"))})
		c.keeps("registered", ada, "key", "text 1", "id mrn")

		first := ask(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(2)}, identity(ada, 2, "mrn", "nhs"))
		second := ask(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(3)}, identity(ada, 3, "new"))
		c.must(&ledger.PlaceLegalHold{PatientID: ada, ReasonCode: "lawsuit"})
		c.must(&ledger.LiftLegalHold{PatientID: ada, ReasonCode: "settled"})
		c.keeps("asked to update twice", ada, "key", "text 1", "text 2", "text 3", "id mrn")
		decide(&ledger.ApproveCommand{ApprovalID: first})
		c.keeps("updated", ada, "key", "text 2", "text 3", "id mrn", "id nhs")
		decide(&ledger.ApproveCommand{ApprovalID: second})
		c.keeps("updated again", ada, "key", "text 3", "id new")

		withdrawn := ask(prescribed(ada, 4), note(ada, 4))
		c.keeps("asked to prescribe", ada, "key", "text 3", "text 4", "id new")
		if v := c.give(c.by("amina", &ledger.RejectCommand{ApprovalID: withdrawn, ReasonCode: "mistake"})); v.Err != nil {
			t.Fatal(v.Err)
		}
		c.keeps("not prescribed", ada, "key", "text 3", "id new")
		decide(&ledger.ApproveCommand{ApprovalID: ask(prescribed(ada, 5), note(ada, 5))})
		late := ask(prescribed(ada, 6), note(ada, 6))
		erase := ask(&ledger.ErasePatient{PatientID: ada, ReasonCode: "asked"})
		c.keeps("asked to erase", ada, "key", "text 3", "text 5", "text 6", "id new")
		decide(&ledger.ApproveCommand{ApprovalID: erase})
		c.keeps("erased", ada)
		c.rejected(c.give(c.by("brian", &ledger.ApproveCommand{ApprovalID: late})), ledger.ReasonPatientErased)
		c.verify()
	})
}

// A journal that is restored leaves alone what is kept beside it, which was
// restored by other means, but for those who are erased in it.
func TestRestoreLeavesPatientsAlone(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.putKey(ada)
	c.putKey(bob)
	c.mustPrivate(&ledger.RegisterPatient{PatientID: ada, TextDigest: textDigest(1)}, identity(ada, 1, "a1"))
	c.mustPrivate(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(2)}, identity(ada, 2, "a2"))
	c.mustPrivate(&ledger.RegisterPatient{PatientID: bob, TextDigest: textDigest(4)}, identity(bob, 4, "b4"))
	older := export(t, c.e.db, c.id)
	c.mustPrivate(&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(3)}, identity(ada, 3, "a3"))
	before := export(t, c.e.db, c.id)
	c.must(&ledger.ErasePatient{PatientID: bob, ReasonCode: "asked"})
	after := export(t, c.e.db, c.id)
	for _, test := range []struct {
		file []byte
		bob  []string
	}{{older, []string{"text 4", "id b4"}}, {before, []string{"text 4", "id b4"}}, {after, nil}} {
		for _, table := range tenantTables(t, c.e.db) {
			if strings.HasPrefix(table, "patient_") {
				continue
			}
			if _, err := c.e.db.write.Exec(t.Context(), "DELETE FROM "+table+" WHERE clinic_id = $1", c.id); err != nil {
				t.Fatal(err)
			}
		}
		for _, insert := range []string{
			`INSERT INTO patient_texts (clinic_id, patient_id, digest, is_identity, ciphertext) VALUES ($1, $2, '00000000000000000000000000000004', true, 'x') ON CONFLICT DO NOTHING`,
			`INSERT INTO patient_identifiers (clinic_id, digest, patient_id) VALUES ($1, 'b4', $2) ON CONFLICT DO NOTHING`,
		} {
			if _, err := c.e.db.write.Exec(t.Context(), insert, c.id, bob); err != nil {
				t.Fatal(err)
			}
		}
		restore(t, c.e.db, test.file)
		c.keeps("restored", ada, "key", "text 3", "id a3")
		c.keeps("restored", bob, test.bob...)
		c.verify()
	}
}

// Verify finds whatever is left of a patient who was erased.
func TestVerifyFindsWhatIsLeftOfAnErasedPatient(t *testing.T) {
	t.Parallel()
	for table, insert := range map[string]string{
		"patient_keys":        `INSERT INTO patient_keys (clinic_id, patient_id, wrapped_key) VALUES ($1, $2, 'x')`,
		"patient_texts":       `INSERT INTO patient_texts (clinic_id, patient_id, digest, is_identity, ciphertext) VALUES ($1, $2, 'd', true, 'x')`,
		"patient_identifiers": `INSERT INTO patient_identifiers (clinic_id, digest, patient_id) VALUES ($1, 'd', $2)`,
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
			t.Cleanup(func() { wipe(t, c.e.db, c.id) })
			c.putKey(bob)
			c.mustPrivate(&ledger.RegisterPatient{PatientID: bob, TextDigest: textDigest(1)}, identity(bob, 1, "b1"))
			c.must(&ledger.RegisterPatient{PatientID: ada})
			erased := c.must(&ledger.ErasePatient{PatientID: ada, ReasonCode: "asked"}).Event.Sequence
			c.verify()
			if _, err := c.e.db.write.Exec(context.Background(), insert, c.id, ada); err != nil {
				t.Fatal(err)
			}
			want := []string{fmt.Sprintf("%d patient %s: erased-patient-is-gone", erased, ada)}
			if got := violations(t, c.e.db, c.id); !slices.Equal(got, want) {
				t.Errorf("violations are %q, want %q", got, want)
			}
		})
	}
}
