package txn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ClinicRow is a clinic with its id.
type ClinicRow struct {
	ID ledger.ClinicID
	ledger.Clinic
}

// Clinic reads a clinic.
func (q *Queries) Clinic(ctx context.Context, clinic ledger.ClinicID, o ReadOptions) (ledger.Clinic, AsOf, error) {
	var c ledger.Clinic
	asOf, err := q.read(ctx, clinic, o, func(v *view) error {
		c = v.clinic
		return nil
	})
	return c, asOf, err
}

// ListClinics reads clinics by id: all, or where ids is not nil, those of them
// that exist. It reports whether there are more.
func (q *Queries) ListClinics(ctx context.Context, ids []ledger.ClinicID, after ledger.ClinicID, limit int) ([]ClinicRow, bool, error) {
	all, err := merged(q.directory, limit+1, func(c ClinicRow) string { return string(c.ID) }, func(db *DB) ([]ClinicRow, error) {
		return q.clinicsOn(ctx, db, ids, after, limit+1)
	})
	rows, more := page(all, limit)
	return rows, more, err
}

// clinicsOn reads the next clinics that a shard holds. What is left there of one
// that has moved is passed over.
func (q *Queries) clinicsOn(ctx context.Context, db *DB, ids []ledger.ClinicID, after ledger.ClinicID, limit int) (held []ClinicRow, err error) {
	for {
		s := selectFrom(`SELECT clinic_id, name, time_zone, backdating_days, active, last_sequence FROM clinics`).
			add(` WHERE clinic_id > ?`, after).
			addIf(ids != nil, ` AND clinic_id = ANY(?)`, texts(ids)).
			add(` ORDER BY clinic_id LIMIT ?`, limit)
		var rows []ClinicRow
		err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
			rows, err = collect(ctx, tx, s, func(rows pgx.Rows, c *ClinicRow) error {
				return rows.Scan(&c.ID, &c.Name, &c.TimeZone, &c.BackdatingDays, &c.Active, &c.LastSequence)
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			after = row.ID
			at, err := q.directory.likely(ctx, row.ID)
			if err != nil && !errors.Is(err, ErrUnavailable) {
				return nil, err
			}
			if at == db {
				held = append(held, row)
			}
		}
		if len(held) >= limit || len(rows) < limit {
			return held, nil
		}
	}
}

const (
	selectLocations = `SELECT location_id, name, kind, active, last_sequence FROM locations WHERE clinic_id = `
	selectMedicines = `SELECT medicine_id, name, base_unit, strength, form, atc_code, category, active, last_sequence, control_class FROM medicines WHERE clinic_id = `
	selectLots      = `SELECT lot_id, medicine_id, manufacturer, gtin, lot_number, expiry, active, registered_sequence, last_sequence, bar, recall_id, parents FROM lots WHERE clinic_id = `
)

func scanLocation(rows pgx.Rows, d *ledger.Location) error {
	return rows.Scan(&d.ID, &d.Name, &d.Kind, &d.Active, &d.LastSequence)
}

func scanMedicine(rows pgx.Rows, d *ledger.Medicine) error {
	return rows.Scan(&d.ID, &d.Name, &d.BaseUnit, &d.Strength, &d.Form, &d.ATCCode, &d.Category, &d.Active, &d.LastSequence, &d.ControlClass)
}

func scanLot(rows pgx.Rows, d *ledger.Lot) error {
	var expiry time.Time
	var parents string
	err := rows.Scan(&d.ID, &d.Medicine, &d.Manufacturer, &d.GTIN, &d.LotNumber, &expiry, &d.Active, &d.RegisteredSequence, &d.LastSequence,
		&d.Bar, &d.RecallID, &parents)
	d.Expiry, d.Parents = ledger.DateOf(expiry), parentsOf(parents)
	return err
}

// one reads the single document of a selection, or answers with a rejection.
func one[T any](ctx context.Context, v *view, s *selection, scan func(pgx.Rows, *T) error, absent *ledger.Rejection) (T, error) {
	rows, err := collect(ctx, v.tx, s, scan)
	if err == nil && len(rows) == 0 {
		err = absent
	}
	if err != nil {
		var none T
		return none, err
	}
	return rows[0], nil
}

func notFound(reason ledger.Reason, field, what string, clinic ledger.ClinicID, id string) *ledger.Rejection {
	return &ledger.Rejection{
		Reason: reason, Field: field, Message: fmt.Sprintf("Clinic %q has no %s %q.", clinic, what, id),
		Metadata: map[string]string{field: id},
	}
}

func locationNotFound(clinic ledger.ClinicID, id ledger.LocationID) *ledger.Rejection {
	return notFound(ledger.ReasonLocationNotFound, "location_id", "location", clinic, string(id))
}

func medicineNotFound(clinic ledger.ClinicID, id ledger.MedicineID) *ledger.Rejection {
	return notFound(ledger.ReasonMedicineNotFound, "medicine_id", "medicine", clinic, string(id))
}

// Location reads a location.
func (q *Queries) Location(ctx context.Context, clinic ledger.ClinicID, id ledger.LocationID, o ReadOptions) (location ledger.Location, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		s := selectFrom(selectLocations).add(`? AND location_id = ?`, clinic, id)
		location, err = one(ctx, v, s, scanLocation, locationNotFound(clinic, id))
		return err
	})
	return location, asOf, err
}

// ListLocations reads a clinic's locations by id: all, or where only is not
// nil, those of them. It reports whether there are more.
func (q *Queries) ListLocations(ctx context.Context, clinic ledger.ClinicID, only []ledger.LocationID, after ledger.LocationID, limit int, o ReadOptions) (locations []ledger.Location, more bool, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		s := selectFrom(selectLocations).add(`? AND location_id > ?`, clinic, after).
			addIf(only != nil, ` AND location_id = ANY(?)`, texts(only)).
			add(` ORDER BY location_id LIMIT ?`, limit+1)
		locations, err = collect(ctx, v.tx, s, scanLocation)
		return err
	})
	locations, more = page(locations, limit)
	return locations, more, asOf, err
}

// Medicine reads a medicine.
func (q *Queries) Medicine(ctx context.Context, clinic ledger.ClinicID, id ledger.MedicineID, o ReadOptions) (medicine ledger.Medicine, asOf AsOf, err error) {
	if q.cached(o) {
		return q.cachedMedicine(ctx, clinic, id, o)
	}
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		s := selectFrom(selectMedicines).add(`? AND medicine_id = ?`, clinic, id)
		medicine, err = one(ctx, v, s, scanMedicine, medicineNotFound(clinic, id))
		return err
	})
	return medicine, asOf, err
}

// ListMedicines reads a clinic's medicines by id, of those whose name contains
// a text without regard to case. It reports whether there are more.
func (q *Queries) ListMedicines(ctx context.Context, clinic ledger.ClinicID, nameContains string, after ledger.MedicineID, limit int, o ReadOptions) (medicines []ledger.Medicine, more bool, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		medicines, err = v.medicines(ctx, nameContains, after, limit+1)
		return err
	})
	medicines, more = page(medicines, limit)
	return medicines, more, asOf, err
}

// medicineChunk is how many medicines are read at a time to look for a name.
const medicineChunk = 1000

// medicines reads up to limit medicines after an id. Names are compared here:
// what the servers take for the other case of a letter depends on their locale,
// and is ASCII alone in the locale C.
func (v *view) medicines(ctx context.Context, nameContains string, after ledger.MedicineID, limit int) ([]ledger.Medicine, error) {
	part, chunk := strings.ToLower(nameContains), limit
	if part != "" {
		chunk = medicineChunk
	}
	var found []ledger.Medicine
	for {
		s := selectFrom(selectMedicines).add(`? AND medicine_id > ? ORDER BY medicine_id LIMIT ?`, v.id, after, chunk)
		rows, err := collect(ctx, v.tx, s, scanMedicine)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			after = row.ID
			if strings.Contains(strings.ToLower(row.Name), part) {
				found = append(found, row)
			}
		}
		if len(found) >= limit || len(rows) < chunk {
			return found[:min(limit, len(found))], nil
		}
	}
}

// Lot reads a lot.
func (q *Queries) Lot(ctx context.Context, clinic ledger.ClinicID, id ledger.LotID, o ReadOptions) (lot ledger.Lot, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		s := selectFrom(selectLots).add(`? AND lot_id = ?`, clinic, id)
		lot, err = one(ctx, v, s, scanLot, notFound(ledger.ReasonLotNotFound, "lot_id", "lot", clinic, string(id)))
		return err
	})
	return lot, asOf, err
}

// ListLots reads a clinic's lots by id, of one medicine where it is given. It
// reports whether there are more.
func (q *Queries) ListLots(ctx context.Context, clinic ledger.ClinicID, medicine ledger.MedicineID, after ledger.LotID, limit int, o ReadOptions) (lots []ledger.Lot, more bool, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		s := selectFrom(selectLots).add(`?`, clinic).
			addIf(medicine != "", ` AND medicine_id = ?`, medicine).
			add(` AND lot_id > ? ORDER BY lot_id LIMIT ?`, after, limit+1)
		lots, err = collect(ctx, v.tx, s, scanLot)
		return err
	})
	lots, more = page(lots, limit)
	return lots, more, asOf, err
}
