package txn

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// question is a selection with what to do with its answer.
type question struct {
	selection *selection
	read      func(pgx.Rows) error
}

// ask makes a question whose answer replaces what is in a slice: an attempt
// that is repeated must not add to the one before.
func ask[T any](s *selection, into *[]T, scan func(pgx.Rows, *T) error) question {
	return question{s, func(rows pgx.Rows) error {
		*into = nil
		for rows.Next() {
			var row T
			if err := scan(rows, &row); err != nil {
				return err
			}
			*into = append(*into, row)
		}
		return nil
	}}
}

// answer asks questions in one round trip and reads the answers in their order.
func answer(ctx context.Context, tx pgx.Tx, questions ...question) error {
	batch := &pgx.Batch{}
	for _, q := range questions {
		batch.Queue(q.selection.sql.String(), q.selection.args...)
	}
	results := tx.SendBatch(ctx, batch)
	for _, q := range questions {
		if err := readAnswer(results, q); err != nil {
			// What is left must be read before the connection can be used.
			_ = results.Close()
			return err
		}
	}
	return results.Close()
}

func readAnswer(results pgx.BatchResults, q question) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := q.read(rows); err != nil {
		return err
	}
	return rows.Err()
}

// existing finds out which of some locations and medicines the clinic has.
type existing struct {
	locations     []ledger.LocationID
	medicines     []ledger.MedicineID
	haveLocations []ledger.LocationID
	haveMedicines []ledger.MedicineID
}

func (e *existing) questions(clinic ledger.ClinicID) []question {
	locations := selectFrom(`SELECT location_id FROM locations WHERE`).add(` clinic_id = ? AND location_id = ANY(?)`, clinic, texts(e.locations))
	medicines := selectFrom(`SELECT medicine_id FROM medicines WHERE`).add(` clinic_id = ? AND medicine_id = ANY(?)`, clinic, texts(e.medicines))
	return []question{
		ask(locations, &e.haveLocations, func(rows pgx.Rows, id *ledger.LocationID) error { return rows.Scan(id) }),
		ask(medicines, &e.haveMedicines, func(rows pgx.Rows, id *ledger.MedicineID) error { return rows.Scan(id) }),
	}
}

// check answers with a rejection for the first id that the clinic does not have.
func (e *existing) check(clinic ledger.ClinicID) error {
	for _, id := range e.locations {
		if !slices.Contains(e.haveLocations, id) {
			return locationNotFound(clinic, id)
		}
	}
	for _, id := range e.medicines {
		if !slices.Contains(e.haveMedicines, id) {
			return medicineNotFound(clinic, id)
		}
	}
	return nil
}
