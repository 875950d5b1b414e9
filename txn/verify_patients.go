package txn

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// keptOfPatients are the tables of what is kept beside the journal, and the
// indexes that begin with the patient.
var keptOfPatients = []struct{ table, index string }{
	{"patient_keys", "patient_keys_pkey"}, {"patient_texts", "patient_texts_pkey"}, {"patient_identifiers", "patient_identifiers_by_patient"},
}

// erasedPatientsIn returns the statement that finds closed documents of patients
// of whom a table has rows.
func erasedPatientsIn(server ServerKind, table, index string) string {
	key := []string{"clinic_id", "patient_id"}
	return `SELECT DISTINCT d.patient_id, d.last_sequence FROM
		(SELECT clinic_id, document_id AS patient_id, last_sequence FROM documents WHERE clinic_id = $1 AND kind = $2 AND NOT is_open) AS d ` +
		lookUpJoin(server, tableAtIndex(server, table, index), "t", "d", key, []string{"patient_id"})
}

// checkErasedPatients looks for what is kept of patients who were erased, as
// after a backup was put back. Nothing else can be said of what is kept beside
// the journal: any of it may be lost, and the journal still holds.
func (v *verifier) checkErasedPatients(ctx context.Context) error {
	kept := make(map[string]ledger.Sequence)
	for _, of := range keptOfPatients {
		s := selectFrom(erasedPatientsIn(v.server, of.table, of.index))
		s.args = []any{v.clinic, ledger.DocumentPatient}
		_, err := collect(ctx, v.tx, s, func(rows pgx.Rows, _ *struct{}) error {
			var patient string
			var erased ledger.Sequence
			err := rows.Scan(&patient, &erased)
			kept[patient] = erased
			return err
		})
		if err != nil {
			return fmt.Errorf("look for what is kept of erased patients: %w", err)
		}
	}
	for _, patient := range slices.Sorted(maps.Keys(kept)) {
		name := documentName(ledger.DocumentKey{Kind: ledger.DocumentPatient, ID: patient})
		v.found(ruleErased, name, kept[patient], "the patient was erased, and a key, texts or identifiers are kept")
	}
	return nil
}
