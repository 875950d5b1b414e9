package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// PrivateText is what a command brings that must not enter the journal. It is
// written in the transaction of the command, if the command is accepted, and is
// encrypted before it gets here.
type PrivateText struct {
	Patient    ledger.PatientID
	Digest     string // by which the journal names it
	Ciphertext []byte
	// Identity tells that it says who the patient is. It replaces what was kept
	// of that before, identifiers included.
	Identity bool
	// Identifiers are keyed digests of what other systems call the patient.
	Identifiers []string
}

// The statements about patients. None of them is about more than one patient
// but the inserts, and few commands need any.
const (
	deleteFormerIdentity = `DELETE FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2 AND is_identity AND digest <> $3`
	deleteTexts          = `DELETE FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2`
	deleteIdentifiers    = `DELETE FROM patient_identifiers WHERE clinic_id = $1 AND patient_id = $2`
	deleteKey            = `DELETE FROM patient_keys WHERE clinic_id = $1 AND patient_id = $2`
	insertText           = `INSERT INTO patient_texts (clinic_id, patient_id, digest, is_identity, ciphertext) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (clinic_id, patient_id, digest) DO NOTHING`
	insertIdentifier = `INSERT INTO patient_identifiers (clinic_id, digest, patient_id) VALUES ($1, $2, $3) ON CONFLICT (clinic_id, digest) DO NOTHING`
	insertKey        = `INSERT INTO patient_keys (clinic_id, patient_id, wrapped_key) VALUES ($1, $2, $3) ON CONFLICT (clinic_id, patient_id) DO NOTHING`
	selectKey        = `SELECT wrapped_key FROM patient_keys WHERE clinic_id = $1 AND patient_id = $2`
	selectText       = `SELECT ciphertext FROM patient_texts WHERE clinic_id = $1 AND patient_id = $2 AND digest = $3`
	selectIdentified = `SELECT patient_id FROM patient_identifiers WHERE clinic_id = $1 AND digest = $2`
)

// statement with its arguments, for a batch.
type privateStatement struct {
	sql  string
	args []any
}

// privateRows are the statements about patients that follow from a plan, in the
// order of its records.
type privateRows struct{ statements []privateStatement }

func (r *privateRows) add(sql string, args ...any) {
	r.statements = append(r.statements, privateStatement{sql, args})
}

// note takes over what a record brought, and what it did to patients.
func (r *privateRows) note(clinic ledger.ClinicID, effects *ledger.Effects, texts []PrivateText) {
	for _, document := range effects.Documents {
		if patient, ok := document.Body.(*ledger.Patient); ok {
			if patient.Erased || document.OpenedSequence < document.LastSequence {
				r.patient(clinic, patient)
			}
		}
	}
	for _, t := range texts {
		if t.Identity {
			r.add(deleteIdentifiers, clinic, t.Patient)
		}
		r.add(insertText, clinic, t.Patient, t.Digest, t.Identity, t.Ciphertext)
		for _, digest := range t.Identifiers {
			r.add(insertIdentifier, clinic, digest, t.Patient)
		}
	}
}

// patient deletes what must not be kept of a patient any more.
func (r *privateRows) patient(clinic ledger.ClinicID, p *ledger.Patient) {
	if !p.Erased {
		r.add(deleteFormerIdentity, clinic, p.PatientID, p.TextDigest)
		return
	}
	r.add(deleteTexts, clinic, p.PatientID)
	r.add(deleteIdentifiers, clinic, p.PatientID)
	r.add(deleteKey, clinic, p.PatientID)
}

func (r *privateRows) queue(b *pgx.Batch) {
	for _, s := range r.statements {
		b.Queue(s.sql, s.args...)
	}
}

// Patients reads and writes what is kept of patients outside of the journal. It
// knows only ciphertext.
type Patients struct{ db *DB }

// NewPatients returns the side table of a database.
func NewPatients(db *DB) *Patients { return &Patients{db} }

// Key reads a patient's wrapped key, nil where there is none.
func (p *Patients) Key(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID) ([]byte, error) {
	return p.one(ctx, "read a patient's key", selectKey, clinic, patient)
}

// PutKey stores a wrapped key unless the patient has one, and returns the one
// that the patient has. A key without a patient says nothing about anybody.
func (p *Patients) PutKey(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID, wrapped []byte) ([]byte, error) {
	var stored []byte
	err := p.db.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertKey, clinic, patient, wrapped); err != nil {
			return err
		}
		return tx.QueryRow(ctx, selectKey, clinic, patient).Scan(&stored)
	})
	if err != nil {
		return nil, fmt.Errorf("txn: store a patient's key: %w", err)
	}
	return stored, nil
}

// Text reads the ciphertext of a text, nil where there is none.
func (p *Patients) Text(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID, digest string) ([]byte, error) {
	return p.one(ctx, "read a patient's text", selectText, clinic, patient, digest)
}

func (p *Patients) one(ctx context.Context, what, sql string, args ...any) ([]byte, error) {
	var found []byte
	err := p.db.readTx(ctx, func(tx pgx.Tx) error {
		found = nil
		err := tx.QueryRow(ctx, sql, args...).Scan(&found)
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
	found, err := p.one(ctx, "find a patient", selectIdentified, clinic, digest)
	return ledger.PatientID(found), err
}
