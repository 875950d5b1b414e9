package txn

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// erasedPatients finds closed documents of patients of whom something is kept.
const erasedPatients = `SELECT d.document_id, d.last_sequence FROM documents AS d
	WHERE d.clinic_id = $1 AND d.kind = $2 AND NOT d.is_open AND (
		EXISTS (SELECT 1 FROM patient_keys AS t WHERE t.clinic_id = d.clinic_id AND t.patient_id = d.document_id)
		OR EXISTS (SELECT 1 FROM patient_texts AS t WHERE t.clinic_id = d.clinic_id AND t.patient_id = d.document_id)
		OR EXISTS (SELECT 1 FROM patient_identifiers AS t WHERE t.clinic_id = d.clinic_id AND t.patient_id = d.document_id))
	ORDER BY d.last_sequence`

// checkErasedPatients looks for what is kept of patients who were erased, as
// after a backup was put back. Nothing else can be said of what is kept beside
// the journal: any of it may be lost, and the journal still holds.
func (v *verifier) checkErasedPatients(ctx context.Context) error {
	type leftover struct {
		patient string
		erased  ledger.Sequence
	}
	s := selectFrom(erasedPatients)
	s.args = []any{v.clinic, ledger.DocumentPatient}
	kept, err := collect(ctx, v.tx, s, func(rows pgx.Rows, l *leftover) error { return rows.Scan(&l.patient, &l.erased) })
	if err != nil {
		return fmt.Errorf("look for what is kept of erased patients: %w", err)
	}
	for _, l := range kept {
		name := documentName(ledger.DocumentKey{Kind: ledger.DocumentPatient, ID: l.patient})
		v.found(ruleErased, name, l.erased, "the patient was erased, and a key, texts or identifiers are kept")
	}
	return nil
}
