package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// PrescriptionFilter narrows a list of prescriptions.
type PrescriptionFilter struct {
	Patient  ledger.PatientID  // empty: any
	Location ledger.LocationID // empty: any; prescriptions for no location in particular are shown for each
	// Locations, where not nil, are the only ones shown, beside prescriptions
	// for no location in particular.
	Locations   []ledger.LocationID
	OpenOnly    bool // neither filled nor cancelled; they may have expired
	NewestFirst bool
}

// medicationsOf reports whether the filter means all prescriptions of a patient.
func (f *PrescriptionFilter) medicationsOf() bool {
	return f.Patient != "" && f.NewestFirst && !f.OpenOnly && f.Location == "" && f.Locations == nil
}

// Prescriptions reads prescriptions by when they were created, from after a
// place (nil: from the beginning). next is the place to go on from, nil at the
// end.
func (q *Queries) Prescriptions(ctx context.Context, clinic ledger.ClinicID, f PrescriptionFilter, after *DocumentPlace, limit int, o ReadOptions) ([]ledger.Document, *DocumentPlace, AsOf, error) {
	if q.cached(o) && after == nil && limit <= maxCachedMedications && f.medicationsOf() {
		return q.cachedMedications(ctx, clinic, f.Patient, limit, o)
	}
	list := pharmacyList{
		kind: ledger.DocumentPrescription, patient: f.Patient, location: f.Location, locations: f.Locations,
		anywhere: true, openOnly: f.OpenOnly, newestFirst: f.NewestFirst,
	}
	return q.pharmacy(ctx, clinic, list, after, limit, o)
}

// DispensingFilter narrows a list of dispensings.
type DispensingFilter struct {
	Patient   ledger.PatientID  // empty: any
	Location  ledger.LocationID // empty: any
	Locations []ledger.LocationID
	// From and To (inclusive) are days at the clinic on which it happened; zero
	// leaves an end open.
	From, To    ledger.Date
	OpenOnly    bool // what lies ready
	NewestFirst bool
}

// Dispensings reads dispensings by when they were begun, from after a place
// (nil: from the beginning). next is the place to go on from, nil at the end.
func (q *Queries) Dispensings(ctx context.Context, clinic ledger.ClinicID, f DispensingFilter, after *DocumentPlace, limit int, o ReadOptions) ([]ledger.Document, *DocumentPlace, AsOf, error) {
	list := pharmacyList{
		kind: ledger.DocumentDispensing, patient: f.Patient, location: f.Location, locations: f.Locations,
		from: f.From, to: f.To, openOnly: f.OpenOnly, newestFirst: f.NewestFirst,
	}
	return q.pharmacy(ctx, clinic, list, after, limit, o)
}

// ChargeFilter narrows a list of billing events.
type ChargeFilter struct {
	Patient   ledger.PatientID
	Location  ledger.LocationID
	Locations []ledger.LocationID
	From, To  ledger.Date // inclusive; zero leaves an end open
}

// Charges reads billing events in the order in which they were emitted, from
// after a place (nil: from the beginning). next is the place to go on from, nil
// at the end.
func (q *Queries) Charges(ctx context.Context, clinic ledger.ClinicID, f ChargeFilter, after *DocumentPlace, limit int, o ReadOptions) ([]ledger.Document, *DocumentPlace, AsOf, error) {
	list := pharmacyList{
		kind: ledger.DocumentCharge, patient: f.Patient, location: f.Location, locations: f.Locations, from: f.From, to: f.To,
	}
	return q.pharmacy(ctx, clinic, list, after, limit, o)
}

// pharmacyList says which documents of the pharmacy to list.
type pharmacyList struct {
	kind      ledger.DocumentKind
	patient   ledger.PatientID
	location  ledger.LocationID
	locations []ledger.LocationID
	// anywhere shows documents without a location wherever one is asked for.
	anywhere              bool
	from, to              ledger.Date
	openOnly, newestFirst bool
}

func (q *Queries) pharmacy(ctx context.Context, clinic ledger.ClinicID, f pharmacyList, after *DocumentPlace, limit int, o ReadOptions) (documents []ledger.Document, next *DocumentPlace, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		documents, err = collect(ctx, v.tx, f.selection(clinic, after, limit+1), scanDocument(f.kind))
		return err
	})
	documents, next = pageOfDocuments(documents, limit)
	return documents, next, asOf, err
}

// pageOfDocuments cuts off what was read only to know whether there is more, and
// returns the place to go on from.
func pageOfDocuments(documents []ledger.Document, limit int) ([]ledger.Document, *DocumentPlace) {
	documents, more := page(documents, limit)
	if !more {
		return documents, nil
	}
	last := documents[len(documents)-1]
	return documents, &DocumentPlace{last.OpenedSequence, last.Body.About().ID}
}

// selection reads through the index of what narrows the list most: a patient
// has few documents, and what is open are few.
func (f pharmacyList) selection(clinic ledger.ClinicID, after *DocumentPlace, limit int) *selection {
	s := selectFrom(`SELECT opened_sequence, last_sequence, document FROM documents WHERE`).
		add(` clinic_id = ? AND kind = ?`, clinic, f.kind)
	switch {
	case f.patient != "":
		s.add(` AND patient_id = ? AND patient_id <> ''`, f.patient)
	case f.openOnly:
	default:
		s.add(` AND opened_sequence > 0`) // states the condition of the index by opening
	}
	s.addIf(f.openOnly, ` AND is_open`)
	f.restrict(s)
	if f.from > 0 {
		s.add(` AND day >= ?`, f.from.Time())
	}
	if f.to > 0 {
		s.add(` AND day <= ?`, f.to.Time())
	}
	if f.newestFirst {
		if after != nil {
			s.add(` AND (opened_sequence, document_id) < (?, ?)`, after.Opened, after.ID)
		}
		return s.add(` ORDER BY opened_sequence DESC, document_id DESC LIMIT ?`, limit)
	}
	if after != nil {
		s.add(` AND (opened_sequence, document_id) > (?, ?)`, after.Opened, after.ID)
	}
	return s.add(` ORDER BY opened_sequence, document_id LIMIT ?`, limit)
}

// restrict narrows a list to locations.
func (f pharmacyList) restrict(s *selection) {
	if f.location != "" {
		s.add(` AND location_id = ANY(?)`, f.places([]ledger.LocationID{f.location}))
	}
	if f.locations != nil {
		s.add(` AND location_id = ANY(?)`, f.places(f.locations))
	}
}

func (f pharmacyList) places(locations []ledger.LocationID) []string {
	places := texts(locations)
	if f.anywhere {
		places = append(places, "")
	}
	return places
}

// DispensingReportRow is what one person dispensed of one medicine at one
// location on one day at the clinic, cancelled dispensings left out.
type DispensingReportRow struct {
	Day        ledger.Date
	Medicine   ledger.MedicineID
	Location   ledger.LocationID
	Pharmacist ledger.Actor // who handed it over
	// Dispensings is their number; the others are base units.
	Dispensings, Quantity, Wasted int64
	Amounts                       map[string]int64 // minor units by currency
}

// reportChunk is how many dispensings a report reads at a time.
const reportChunk = 2000

// maxReportRows bounds what a report may grow to in memory.
const maxReportRows = 20_000

// ErrReportTooLarge means that a report would have too many rows: ask for fewer
// days, or one location.
var ErrReportTooLarge = fmt.Errorf("txn: the report has more than %d rows; ask for fewer days or one location", maxReportRows)

// DispensingReport adds up what was dispensed, by day, medicine, location and
// pharmacist, in that order. Only what was handed over counts. The filter's
// OpenOnly and NewestFirst do not matter. A report that need not be strong comes
// from the read models where they show what the options ask for.
func (q *Queries) DispensingReport(ctx context.Context, clinic ledger.ClinicID, f DispensingFilter, o ReadOptions) (rows []DispensingReportRow, asOf AsOf, err error) {
	if o.Consistency != Strong && f.Patient == "" {
		asOf, err = q.readModelsOnce(ctx, clinic, o, new(o.MinSequence), true, func(v *view) (err error) {
			rows, err = v.dispensingDays(ctx, f)
			return err
		})
		var behind *ReadModelsBehindError
		if !errors.As(err, &behind) {
			return rows, asOf, err
		}
	}
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		rows, err = v.dispensingReport(ctx, f)
		return err
	})
	return rows, asOf, err
}

type reportKey struct {
	day        ledger.Date
	medicine   ledger.MedicineID
	location   ledger.LocationID
	pharmacist ledger.Actor
}

// dispensingDays reads the report from its read model.
func (v *view) dispensingDays(ctx context.Context, f DispensingFilter) ([]DispensingReportRow, error) {
	s := selectFrom(`SELECT day, medicine_id, location_id, dispenser, currency, dispensings, quantity, wasted, amount FROM dispensing_days WHERE`).
		add(` clinic_id = ? AND day >= ?`, v.id, f.From.Time()).
		addIf(f.To > 0, ` AND day <= ?`, f.To.Time())
	list := pharmacyList{location: f.Location, locations: f.Locations}
	list.restrict(s)
	totals := make(map[reportKey]*DispensingReportRow)
	read, err := collect(ctx, v.tx, s.add(` LIMIT ?`, maxReportRows+1), func(rows pgx.Rows, _ *struct{}) error {
		var key reportKey
		var day time.Time
		var currency string
		var d dispensed
		err := rows.Scan(&day, &key.medicine, &key.location, &key.pharmacist, &currency, &d.dispensings, &d.quantity, &d.wasted, &d.amount)
		if err != nil || d.dispensings == 0 { // all of them were cancelled
			return err
		}
		key.day = ledger.DateOf(day)
		row := key.row(totals)
		row.Dispensings += d.dispensings
		row.Quantity += d.quantity
		row.Wasted += d.wasted
		if currency != "" {
			row.Amounts[currency] += d.amount
		}
		return nil
	})
	if err == nil && len(read) > maxReportRows {
		err = ErrReportTooLarge
	}
	return sortedReport(totals), err
}

// row finds the row of a key, or makes it.
func (k reportKey) row(totals map[reportKey]*DispensingReportRow) *DispensingReportRow {
	row := totals[k]
	if row == nil {
		row = &DispensingReportRow{Day: k.day, Medicine: k.medicine, Location: k.location, Pharmacist: k.pharmacist, Amounts: make(map[string]int64)}
		totals[k] = row
	}
	return row
}

func (v *view) dispensingReport(ctx context.Context, f DispensingFilter) ([]DispensingReportRow, error) {
	totals := make(map[reportKey]*DispensingReportRow)
	day, opened := ledger.Date(0), ledger.Sequence(0)
	for {
		documents, err := collect(ctx, v.tx, f.byDay(v.id, day, opened), scanDocument(ledger.DocumentDispensing))
		if err != nil {
			return nil, err
		}
		for i := range documents {
			d, ok := documents[i].Body.(*ledger.Dispensing)
			if !ok {
				continue
			}
			day, opened = d.Day, documents[i].OpenedSequence
			if d.Status == ledger.DispensingHandedOver {
				addToReport(totals, d)
			}
		}
		if len(totals) > maxReportRows {
			return nil, ErrReportTooLarge
		}
		if len(documents) < reportChunk {
			return sortedReport(totals), nil
		}
	}
}

// byDay reads dispensings by the day on which they happened.
func (f DispensingFilter) byDay(clinic ledger.ClinicID, day ledger.Date, opened ledger.Sequence) *selection {
	s := selectFrom(`SELECT opened_sequence, last_sequence, document FROM documents WHERE`).
		add(` clinic_id = ? AND kind = ? AND day > '1970-01-01'`, clinic, ledger.DocumentDispensing). // states the index's condition
		add(` AND (day, opened_sequence) > (?, ?)`, max(day, f.From-1).Time(), reportFrom(day, f.From, opened))
	if f.To > 0 {
		s.add(` AND day <= ?`, f.To.Time())
	}
	list := pharmacyList{location: f.Location, locations: f.Locations}
	list.restrict(s)
	if f.Patient != "" {
		s.add(` AND patient_id = ?`, f.Patient)
	}
	return s.add(` ORDER BY day, opened_sequence LIMIT ?`, reportChunk)
}

// reportFrom is the place within the day before the first one that a report
// begins after: its end.
func reportFrom(day, from ledger.Date, opened ledger.Sequence) ledger.Sequence {
	if day < from {
		return ledger.Sequence(1 << 62)
	}
	return opened
}

func addToReport(totals map[reportKey]*DispensingReportRow, d *ledger.Dispensing) {
	row := reportKey{d.Day, d.Medicine, d.Location, d.Dispenser}.row(totals)
	row.Dispensings++
	row.Quantity += d.Quantity
	row.Wasted += d.Wasted
	if d.Currency != "" {
		row.Amounts[d.Currency] += d.Amount
	}
}

func sortedReport(totals map[reportKey]*DispensingReportRow) []DispensingReportRow {
	rows := make([]DispensingReportRow, 0, len(totals))
	for _, row := range totals {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b DispensingReportRow) int {
		return cmp.Or(
			cmp.Compare(a.Day, b.Day), cmp.Compare(a.Medicine, b.Medicine),
			cmp.Compare(a.Location, b.Location), cmp.Compare(a.Pharmacist, b.Pharmacist),
		)
	})
	return rows
}

// RecalledPlace is a place in the list of whom lots reached.
type RecalledPlace struct {
	Lot      ledger.LotID
	Sequence ledger.Sequence
	Line     int
}

// RecalledDispensing is a dispensing that units of a lot went into.
type RecalledDispensing struct {
	Lot        ledger.LotID
	Quantity   int64             // of the lot, in base units
	Dispensing ledger.Dispensing // as it is now: what came back stands in its lots
	Sequence   ledger.Sequence   // of the command that gave the units out
	Place      RecalledPlace
}

// RecalledDispensings reads whom lots reached, lot by lot in the order of their
// ids, each in the order of time, from after a place (nil: from the beginning).
// next is the place to go on from, nil at the end. Locations, where not nil, are
// the only ones shown. It reads entries of the lots alone, so a page costs the
// same however much was dispensed of others.
func (q *Queries) RecalledDispensings(ctx context.Context, clinic ledger.ClinicID, lots []ledger.LotID, locations []ledger.LocationID, after *RecalledPlace, limit int, o ReadOptions) (reached []RecalledDispensing, next *RecalledPlace, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) (err error) {
		reached, err = v.recalledDispensings(ctx, lots, locations, after, limit+1)
		return err
	})
	reached, more := page(reached, limit)
	if more {
		next = &reached[len(reached)-1].Place
	}
	return reached, next, asOf, err
}

func (v *view) recalledDispensings(ctx context.Context, lots []ledger.LotID, locations []ledger.LocationID, after *RecalledPlace, limit int) ([]RecalledDispensing, error) {
	lots = slices.Compact(slices.Sorted(slices.Values(lots)))
	var reached []RecalledDispensing
	for _, lot := range lots {
		place := RecalledPlace{Lot: lot, Line: -1}
		if after != nil && after.Lot > lot {
			continue
		}
		if after != nil && after.Lot == lot {
			place = *after
		}
		found, err := v.reachedBy(ctx, place, locations, limit-len(reached))
		if err != nil {
			return nil, err
		}
		if reached = append(reached, found...); len(reached) >= limit {
			break
		}
	}
	return reached, v.asTheyAre(ctx, reached)
}

// reachedBy reads the entries by which a lot was dispensed, with their records.
func (v *view) reachedBy(ctx context.Context, place RecalledPlace, locations []ledger.LocationID, limit int) ([]RecalledDispensing, error) {
	s := selectFrom(`SELECT e.line, j.event, j.hash FROM entries AS e `+
		lookUpJoin(v.server, "journal", "j", "e", []string{"clinic_id", "sequence"}, []string{"event", "hash"})+` WHERE`).
		add(` e.clinic_id = ? AND e.lot_id = ? AND e.debit = 17 AND (e.sequence, e.line) > (?, ?)`, v.id, place.Lot, place.Sequence, place.Line)
	if locations != nil {
		s.add(` AND e.location_id = ANY(?)`, texts(locations))
	}
	s.add(` ORDER BY e.sequence, e.line LIMIT ?`, limit)
	return collect(ctx, v.tx, s, func(rows pgx.Rows, r *RecalledDispensing) error {
		entry, event, err := scanEntryOfRecord(rows)
		if err != nil {
			return err
		}
		d := dispensingOf(event.Body)
		if d == nil {
			return fmt.Errorf("an entry of clinic %s dispenses units at sequence %d, which is no dispensing", v.id, event.Sequence)
		}
		*r = RecalledDispensing{
			Lot: entry.Lot, Quantity: entry.Quantity, Dispensing: *d, Sequence: event.Sequence,
			Place: RecalledPlace{entry.Lot, entry.Sequence, entry.Line},
		}
		return nil
	})
}

// dispensingOf is the dispensing that an event is about, or nil.
func dispensingOf(body ledger.EventBody) *ledger.Dispensing {
	change, ok := body.(*ledger.Change)
	if !ok {
		return nil
	}
	for _, document := range change.Documents {
		if d, ok := document.(*ledger.Dispensing); ok {
			return d
		}
	}
	if change.Approved != nil {
		return dispensingOf(change.Approved)
	}
	return nil
}

// asTheyAre replaces dispensings of the past by what became of them.
func (v *view) asTheyAre(ctx context.Context, reached []RecalledDispensing) error {
	clinics, kinds, ids := make([]string, len(reached)), make([]int16, len(reached)), make([]string, len(reached))
	for i := range reached {
		clinics[i], kinds[i], ids[i] = string(v.id), int16(ledger.DocumentDispensing), string(reached[i].Dispensing.DispensingID)
	}
	if len(reached) == 0 {
		return nil
	}
	rows, err := v.tx.Query(ctx, selectNamedSQL(v.server), clinics, kinds, ids)
	if err != nil {
		return fmt.Errorf("read dispensings: %w", err)
	}
	found := make(map[namedKey]*ledger.Document, len(reached))
	if err := readNamed(rows, found); err != nil {
		return fmt.Errorf("read dispensings: %w", err)
	}
	for i := range reached {
		key := namedKey{v.id, ledger.DocumentKey{Kind: ledger.DocumentDispensing, ID: ids[i]}}
		if document := found[key]; document != nil {
			if d, ok := document.Body.(*ledger.Dispensing); ok {
				reached[i].Dispensing = *d
			}
		}
	}
	return nil
}
