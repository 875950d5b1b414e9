package txn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// PrivateText is what a command brings that must not enter the journal. It is
// written in the transaction of the command, if the command is accepted, and is
// encrypted before it gets here.
type PrivateText struct {
	Patient ledger.PatientID
	// Digest is the name that the journal has for it. No other command's text
	// may have the same: a text goes with its command.
	Digest     string
	Ciphertext []byte
	// Identity tells that it says who the patient is. It replaces what was kept
	// of that before, identifiers included.
	Identity bool
	// Identifiers are keyed digests of what other systems call the patient.
	Identifiers []string
}

// patientTextsTable is written for a whole group at a time: most prescriptions
// bring a text. A journal that was restored to an earlier place accepts a
// command anew whose text is there already.
var patientTextsTable = table{"patient_texts", []string{"clinic_id", "patient_id", "digest"}, []column{
	{"clinic_id", "text"}, {"patient_id", "text"}, {"digest", "text"}, {"is_identity", "bool"}, {"ciphertext", "bytea"},
	{"waiting", "bool"}, {"identifiers", "text"},
}}

// The other statements about patients. Each is about one patient, and few
// commands need any.
const (
	deleteFormerIdentity = `DELETE FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2 AND is_identity AND NOT waiting AND digest <> $3`
	deleteWaiting        = `DELETE FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2 AND digest = $3 AND waiting`
	settleText           = `UPDATE patient_texts SET waiting = false WHERE clinic_id = $1 AND patient_id = $2 AND digest = $3`
	deleteTexts          = `DELETE FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2`
	deleteIdentifiers    = `DELETE FROM patient_identifiers WHERE clinic_id = $1 AND patient_id = $2`
	deleteKey            = `DELETE FROM patient_keys WHERE clinic_id = $1 AND patient_id = $2`
	insertIdentifier     = `INSERT INTO patient_identifiers (clinic_id, digest, patient_id) VALUES ($1, $2, $3) ON CONFLICT (clinic_id, digest) DO NOTHING`
	insertIdentifiers    = `INSERT INTO patient_identifiers (clinic_id, digest, patient_id)
		SELECT clinic_id, unnest(string_to_array(identifiers, ' ')), patient_id FROM patient_texts
		WHERE clinic_id = $1 AND patient_id = $2 AND digest = $3 AND identifiers <> ''
		ON CONFLICT (clinic_id, digest) DO NOTHING`
	insertKey = `INSERT INTO patient_keys (clinic_id, patient_id, wrapped_key)
		SELECT $1::text, $2::text, $3::bytea
		WHERE NOT EXISTS (SELECT 1 FROM documents WHERE clinic_id = $1::text AND kind = $4::int2 AND document_id = $2::text)
		ON CONFLICT (clinic_id, patient_id) DO NOTHING`
	selectKey        = `SELECT wrapped_key FROM patient_keys WHERE clinic_id = $1 AND patient_id = $2`
	selectText       = `SELECT ciphertext FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2 AND digest = $3`
	selectIdentified = `SELECT patient_id FROM patient_identifiers WHERE clinic_id = $1 AND digest = $2`
)

// privateTextRows are the texts that accepted commands bring.
type privateTextRows struct {
	clinic, patient, digest []string
	identity                []bool
	ciphertext              [][]byte
	waiting                 []bool
	identifiers             []string
}

func (r *privateTextRows) add(clinic ledger.ClinicID, t PrivateText, waiting bool) {
	r.clinic = append(r.clinic, string(clinic))
	r.patient = append(r.patient, string(t.Patient))
	r.digest = append(r.digest, t.Digest)
	r.identity = append(r.identity, t.Identity)
	r.ciphertext = append(r.ciphertext, t.Ciphertext)
	r.waiting = append(r.waiting, waiting)
	r.identifiers = append(r.identifiers, strings.Join(t.Identifiers, " "))
}

func (r *privateTextRows) columns() []any {
	return []any{r.clinic, r.patient, r.digest, r.identity, r.ciphertext, r.waiting, r.identifiers}
}

// privateStatement is a statement about one patient.
type privateStatement struct {
	sql  string
	args []any
}

// privateRows are what follows from plans for what is kept of patients: first
// all texts are written, then the statements are carried out in their order.
type privateRows struct {
	texts      privateTextRows
	statements []privateStatement
}

// add takes over what a plan's commands brought, and what they did to patients.
func (r *privateRows) add(p *plan) {
	changed := patientChanges{clinic: p.home.clinic, rows: r}
	for i := range p.records {
		event := &p.records[i].Event
		for _, text := range p.private[event.IdempotencyKey] {
			r.texts.add(p.home.clinic, text, event.Kind() == ledger.KindRequestApproval)
			if event.Kind() == ledger.KindRegisterPatient {
				changed.identifyNew(text)
			}
		}
		for _, document := range p.effects[i].Documents {
			changed.note(event, document)
		}
	}
	for _, last := range changed.last.values {
		if last.Erased {
			changed.erase(last.PatientID)
		} else if !p.replays {
			changed.identify(last)
		}
	}
}

// patientChanges collects what a plan did to the patients of its clinic. Of
// several identities, one after the other, only the last is kept.
type patientChanges struct {
	clinic ledger.ClinicID
	rows   *privateRows
	last   latest[ledger.PatientID, *ledger.Patient]
}

func (c *patientChanges) do(sql string, args ...any) {
	c.rows.statements = append(c.rows.statements, privateStatement{sql, append([]any{c.clinic}, args...)})
}

// note takes over a document that an event made or changed.
func (c *patientChanges) note(event *ledger.Event, document *ledger.Document) {
	kind, approved := carriedOut(event)
	switch body := document.Body.(type) {
	case *ledger.Patient:
		if body.Erased || kind == ledger.KindUpdatePatient || approved && kind == ledger.KindRegisterPatient {
			c.last.set(body.PatientID, body)
		}
		if approved && !body.Erased {
			c.do(settleText, body.PatientID, body.TextDigest)
		}
	case *ledger.Prescription:
		if approved && kind == ledger.KindCreatePrescription && body.TextDigest != "" {
			c.do(settleText, body.PatientID, body.TextDigest)
		}
	case *ledger.Approval:
		if body.Status == ledger.ApprovalOpen || body.Status == ledger.ApprovalApproved {
			return
		}
		if patient, digest := body.PrivateText(); digest != "" {
			c.do(deleteWaiting, patient, digest)
		}
	}
}

// carriedOut is the kind of the command that an event carries out, and whether
// that command waited for a second person.
func carriedOut(event *ledger.Event) (kind ledger.Kind, approved bool) {
	if change, ok := event.Body.(*ledger.Change); ok && change.Approved != nil {
		return change.ApprovedKind(), true
	}
	return event.Kind(), false
}

// identifyNew puts the identity of a patient in force of whom nothing was kept:
// without looking, since what a group reads can be in another one's way.
func (c *patientChanges) identifyNew(t PrivateText) {
	for _, digest := range t.Identifiers {
		c.do(insertIdentifier, digest, t.Patient)
	}
}

// identify puts the identity of a patient in force, and deletes the former one.
// One that waits for a second person stays.
func (c *patientChanges) identify(p *ledger.Patient) {
	c.do(deleteFormerIdentity, p.PatientID, p.TextDigest)
	c.do(deleteIdentifiers, p.PatientID)
	c.do(insertIdentifiers, p.PatientID, p.TextDigest)
}

// erase deletes all that is kept of a patient, the key last.
func (c *patientChanges) erase(patient ledger.PatientID) {
	c.do(deleteTexts, patient)
	c.do(deleteIdentifiers, patient)
	c.do(deleteKey, patient)
}

func (r *privateRows) queue(b *pgx.Batch, sql statements) {
	queueRows(b, sql.privateTexts, len(r.texts.clinic), r.texts.columns)
	for _, s := range r.statements {
		b.Queue(s.sql, s.args...)
	}
}

// Patients reads and writes what is kept of patients outside of the journal. It
// knows only ciphertext.
type Patients struct{ directory *Directory }

// NewPatients returns the side tables of a directory's databases.
func NewPatients(d *Directory) *Patients { return &Patients{d} }

// Key reads a patient's wrapped key, nil where there is none.
func (p *Patients) Key(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID) ([]byte, error) {
	return p.one(ctx, clinic, "read a patient's key", selectKey, patient)
}

// PutKey stores a wrapped key for a patient who is about to be registered,
// unless there is one, and returns the one that there is: nil for a patient who
// was erased meanwhile. A key without a patient says nothing about anybody.
func (p *Patients) PutKey(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID, wrapped []byte) ([]byte, error) {
	var stored []byte
	err := p.directory.write(ctx, clinic, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertKey, clinic, patient, wrapped, ledger.DocumentPatient); err != nil {
			return err
		}
		stored = nil
		err := tx.QueryRow(ctx, selectKey, clinic, patient).Scan(&stored)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: store a patient's key: %w", err)
	}
	return stored, nil
}

// Text reads the ciphertext of a text, nil where there is none.
func (p *Patients) Text(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID, digest string) ([]byte, error) {
	return p.one(ctx, clinic, "read a patient's text", selectText, patient, digest)
}

// one reads one value; the clinic is the statement's first argument.
func (p *Patients) one(ctx context.Context, clinic ledger.ClinicID, what, sql string, args ...any) ([]byte, error) {
	var found []byte
	err := p.directory.read(ctx, clinic, func(tx pgx.Tx) error {
		found = nil
		err := tx.QueryRow(ctx, sql, append([]any{clinic}, args...)...).Scan(&found)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: %s: %w", what, err)
	}
	return found, nil
}

// Identified returns the patient with an identifier, by its digest; empty where
// there is none.
func (p *Patients) Identified(ctx context.Context, clinic ledger.ClinicID, digest string) (ledger.PatientID, error) {
	found, err := p.one(ctx, clinic, "find a patient", selectIdentified, digest)
	return ledger.PatientID(found), err
}
