package txn

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

var (
	cursorsTable = table{"read_model_cursors", []string{"clinic_id"}, []column{
		{"clinic_id", "text"}, {"epoch", "int8"}, {"sequence", "int8"}, {"recorded_at", "timestamptz"}, {"time_zone", "text"}, {"version", "int8"},
	}}
	summaryTable = table{"location_stock_summary", []string{"clinic_id", "medicine_id", "location_id"}, []column{
		{"clinic_id", "text"}, {"medicine_id", "text"}, {"location_id", "text"},
		{"available", "int8"}, {"reserved", "int8"}, {"pending", "int8"}, {"quarantined", "int8"}, {"in_transit", "int8"},
		{"lots", "int8"}, {"moved_at", "timestamptz"}, {"out_since", "timestamptz"},
		{"min_level", "int8"}, {"max_level", "int8"}, {"reorder", "int8"}, {"low_since", "timestamptz"}, {"low_sequence", "int8"},
	}}
	consumptionTable = table{"consumption_months", []string{"clinic_id", "medicine_id", "location_id", "month"}, []column{
		{"clinic_id", "text"}, {"medicine_id", "text"}, {"location_id", "text"}, {"month", "date"}, {"used", "int8"}, {"wasted", "int8"},
	}}
	stockOutsTable = table{"stock_outs", []string{"clinic_id", "medicine_id", "location_id", "began_at"}, []column{
		{"clinic_id", "text"}, {"medicine_id", "text"}, {"location_id", "text"}, {"began_at", "timestamptz"}, {"ended_at", "timestamptz"},
	}}
	dispensingDaysTable = table{"dispensing_days", []string{"clinic_id", "day", "medicine_id", "location_id", "dispenser", "currency"}, []column{
		{"clinic_id", "text"}, {"day", "date"}, {"medicine_id", "text"}, {"location_id", "text"}, {"dispenser", "text"}, {"currency", "text"},
		{"dispensings", "int8"}, {"quantity", "int8"}, {"wasted", "int8"}, {"amount", "int8"},
	}}
	modelTables = []table{summaryTable, consumptionTable, stockOutsTable, dispensingDaysTable, lateTable}
)

// shelfOf is a shelf of a clinic.
type shelfOf struct {
	clinic ledger.ClinicID
	ledger.Shelf
}

// StockSummary is what a location holds of a medicine, over all its lots.
type StockSummary struct {
	ledger.Shelf
	ledger.Balances
	Lots     int64          // of which it holds some
	MovedAt  ledger.Instant // when it last changed; zero where it never did
	OutSince ledger.Instant // since when nothing is available; zero where something is
	// What it is to hold; zero where nobody said.
	Min, Max, Reorder int64
	// Since when, and by which command, it holds too little: no more than
	// Reorder, or less than Min. Zero where it does not.
	LowSince    ledger.Instant
	LowSequence ledger.Sequence
}

type consumptionKey struct {
	shelfOf
	month ledger.Date // its first day
}

type consumption struct{ used, wasted int64 }

type stockOutKey struct {
	shelfOf
	began ledger.Instant
}

type dispensingKey struct {
	clinic    ledger.ClinicID
	day       ledger.Date
	medicine  ledger.MedicineID
	location  ledger.LocationID
	dispenser ledger.Actor
	currency  string
}

type dispensed struct{ dispensings, quantity, wasted, amount int64 }

// modelRows are the rows that some steps are about: as they were before the
// steps, and after fold as they are after them.
type modelRows struct {
	summaries   map[shelfOf]*StockSummary
	consumption map[consumptionKey]*consumption
	outs        map[stockOutKey]ledger.Instant // when it ended; zero while it lasts
	dispensings map[dispensingKey]*dispensed
	late        []lateEntry // which are only ever added
}

func newModelRows() *modelRows {
	return &modelRows{
		make(map[shelfOf]*StockSummary), make(map[consumptionKey]*consumption),
		make(map[stockOutKey]ledger.Instant), make(map[dispensingKey]*dispensed), nil,
	}
}

// rowsOf returns the rows that the steps' events are about, but for those that
// are folded anew: what is kept of them, to be changed, and the rest as it is
// read.
func (m *ReadModels) rowsOf(ctx context.Context, tx pgx.Tx, steps []*modelStep) (*modelRows, error) {
	r := newModelRows()
	shelves := make(map[shelfOf]bool)
	months := make(map[consumptionKey]bool)
	dispensings := make(map[dispensingKey]bool)
	none := newModelRows()
	for _, s := range steps {
		if s.anew {
			continue
		}
		kept := none
		if k := m.kept[s.clinic]; k != nil && k.at == s.from {
			kept = k.modelRows
		}
		for i := range s.events {
			e := &s.events[i]
			for j := range s.entries[i] {
				entry := &s.entries[i][j]
				shelf := shelfOf{s.clinic, ledger.Shelf{Location: entry.Location, Medicine: entry.Medicine}}
				want(r.summaries, kept.summaries, shelves, shelf)
				if used, wasted := consumedBy(entry); used != 0 || wasted != 0 {
					want(r.consumption, kept.consumption, months, consumptionKey{shelf, firstOfMonth(s.days[i], 0)})
				}
			}
			for _, level := range levelsOf(e.Body) {
				want(r.summaries, kept.summaries, shelves, shelfOf{s.clinic, level.Shelf})
			}
			for key := range dispensedBy(s.clinic, e) {
				want(r.dispensings, kept.dispensings, dispensings, key)
			}
		}
	}
	return r, r.read(ctx, tx, m.db.server.Kind, shelves, months, dispensings)
}

// want takes a copy of a row that is kept, or notes that it has to be read.
func want[K comparable, V any](rows, kept map[K]*V, missing map[K]bool, key K) {
	if rows[key] != nil || missing[key] {
		return
	}
	if row := kept[key]; row != nil {
		copied := *row
		rows[key] = &copied
		return
	}
	missing[key] = true
}

func (r *modelRows) read(ctx context.Context, tx pgx.Tx, server ServerKind, shelves map[shelfOf]bool, months map[consumptionKey]bool, dispensings map[dispensingKey]bool) error {
	var questions []question
	if len(shelves) > 0 {
		var keys summaryRows
		for k := range shelves {
			keys.add(k.clinic, &StockSummary{Shelf: k.Shelf})
		}
		questions = append(questions, askFor(server, summaryTable, keys.columns(), r.scanSummary))
	}
	if len(months) > 0 {
		var keys consumptionRows
		for k := range months {
			keys.add(k, &consumption{})
		}
		questions = append(questions, askFor(server, consumptionTable, keys.columns(), r.scanConsumption))
	}
	if len(dispensings) > 0 {
		var keys dispensingRows
		for k := range dispensings {
			keys.add(k, &dispensed{})
		}
		questions = append(questions, askFor(server, dispensingDaysTable, keys.columns(), r.scanDispensing))
	}
	if err := answer(ctx, tx, questions...); err != nil {
		return fmt.Errorf("txn: read read models: %w", err)
	}
	return nil
}

// readClinic reads all rows of a clinic, but for the late entries.
func (r *modelRows) readClinic(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) error {
	scans := map[string]func(pgx.Rows) error{
		summaryTable.name: r.scanSummary, consumptionTable.name: r.scanConsumption,
		stockOutsTable.name: r.scanStockOut, dispensingDaysTable.name: r.scanDispensing,
	}
	for _, t := range modelTables {
		if scans[t.name] == nil {
			continue
		}
		_, err := collect(ctx, tx, t.selection().add(" clinic_id = ?", clinic), func(rows pgx.Rows, _ *struct{}) error { return scans[t.name](rows) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *modelRows) scanSummary(rows pgx.Rows) error {
	var k shelfOf
	row := &StockSummary{}
	err := scanSummary(rows, &k.clinic, row)
	k.Shelf = row.Shelf
	r.summaries[k] = row
	return err
}

func (r *modelRows) scanConsumption(rows pgx.Rows) error {
	var k consumptionKey
	var c consumption
	var month time.Time
	err := rows.Scan(&k.clinic, &k.Medicine, &k.Location, &month, &c.used, &c.wasted)
	k.month = ledger.DateOf(month)
	r.consumption[k] = &c
	return err
}

func (r *modelRows) scanStockOut(rows pgx.Rows) error {
	var k stockOutKey
	var began time.Time
	var ended *time.Time
	err := rows.Scan(&k.clinic, &k.Medicine, &k.Location, &began, &ended)
	k.began = ledger.InstantOf(began)
	r.outs[k] = instantOrZero(ended)
	return err
}

func (r *modelRows) scanDispensing(rows pgx.Rows) error {
	var k dispensingKey
	var d dispensed
	var day time.Time
	err := rows.Scan(&k.clinic, &day, &k.medicine, &k.location, &k.dispenser, &k.currency, &d.dispensings, &d.quantity, &d.wasted, &d.amount)
	k.day = ledger.DateOf(day)
	r.dispensings[k] = &d
	return err
}

// askFor asks for the rows of a table whose keys, which are its first columns,
// or the beginnings of them, are listed, one array for each column.
func askFor(server ServerKind, t table, columns []any, scan func(pgx.Rows) error) question {
	names, types := t.names()
	n := min(len(t.key), len(columns))
	s := selectFrom(selectByKeysSQL(server, t.name, names, t.key[:n], types[:n], ""))
	s.args = columns[:n]
	return question{s, func(rows pgx.Rows) error {
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}}
}

func scanSummary(rows pgx.Rows, clinic *ledger.ClinicID, s *StockSummary) error {
	var moved, out, low *time.Time
	err := rows.Scan(clinic, &s.Medicine, &s.Location, &s.Available, &s.Reserved, &s.Pending, &s.Quarantined, &s.InTransit,
		&s.Lots, &moved, &out, &s.Min, &s.Max, &s.Reorder, &low, &s.LowSequence)
	s.MovedAt, s.OutSince, s.LowSince = instantOrZero(moved), instantOrZero(out), instantOrZero(low)
	return err
}

func instantOrZero(t *time.Time) ledger.Instant {
	if t == nil {
		return 0
	}
	return ledger.InstantOf(*t)
}

func timeOrNull(at ledger.Instant) *time.Time {
	if at == 0 {
		return nil
	}
	t := at.Time()
	return &t
}

// fold takes a step's events in.
func (r *modelRows) fold(s *modelStep) {
	for i := range s.events {
		r.add(s.clinic, &s.events[i], s.entries[i], s.days[i])
	}
}

// add takes an event in, with its entries, that happened on a day at the clinic.
func (r *modelRows) add(clinic ledger.ClinicID, e *ledger.Event, entries []ledger.Entry, day ledger.Date) {
	touched := make([]shelfOf, 0, 2)
	touch := func(shelf shelfOf) *StockSummary {
		if !slices.Contains(touched, shelf) {
			touched = append(touched, shelf)
		}
		return r.summary(shelf)
	}
	for i := range entries {
		entry := &entries[i]
		shelf := shelfOf{clinic, ledger.Shelf{Location: entry.Location, Medicine: entry.Medicine}}
		touch(shelf).post(entry, e.At)
		if used, wasted := consumedBy(entry); used != 0 || wasted != 0 {
			c := r.consumed(consumptionKey{shelf, firstOfMonth(day, 0)})
			c.used += used
			c.wasted += wasted
		}
	}
	for _, level := range levelsOf(e.Body) {
		row := touch(shelfOf{clinic, level.Shelf})
		row.Min, row.Max, row.Reorder = level.Min, level.Max, level.Reorder
	}
	for _, shelf := range touched {
		r.judge(shelf, e)
	}
	r.late = append(r.late, lateEntriesOf(clinic, e, entries)...)
	for key, d := range dispensedBy(clinic, e) {
		sum := r.dispensings[key]
		if sum == nil {
			sum = &dispensed{}
			r.dispensings[key] = sum
		}
		sum.dispensings += d.dispensings
		sum.quantity += d.quantity
		sum.wasted += d.wasted
		sum.amount += d.amount
	}
}

func (r *modelRows) summary(shelf shelfOf) *StockSummary {
	row := r.summaries[shelf]
	if row == nil {
		row = &StockSummary{Shelf: shelf.Shelf}
		r.summaries[shelf] = row
	}
	return row
}

func (r *modelRows) consumed(k consumptionKey) *consumption {
	c := r.consumption[k]
	if c == nil {
		c = &consumption{}
		r.consumption[k] = c
	}
	return c
}

// post adds an entry to a summary. The entry says what the lot holds after it,
// and so before it.
func (s *StockSummary) post(e *ledger.Entry, at ledger.Instant) {
	before := e.After
	for _, side := range []struct {
		bucket ledger.Bucket
		sign   int64
	}{{e.Debit, 1}, {e.Credit, -1}} {
		if held := s.held(side.bucket); held != nil {
			*held += side.sign * e.Quantity
			*heldIn(&before, side.bucket) -= side.sign * e.Quantity
		}
	}
	if before.OnHand() == 0 && e.After.OnHand() > 0 {
		s.Lots++
	}
	if before.OnHand() > 0 && e.After.OnHand() == 0 {
		s.Lots--
	}
	s.MovedAt = at
}

func (s *StockSummary) held(b ledger.Bucket) *int64 { return heldIn(&s.Balances, b) }

// heldIn is the balance of a held bucket, nil for a counterparty's.
func heldIn(b *ledger.Balances, bucket ledger.Bucket) *int64 {
	switch bucket {
	case ledger.Available:
		return &b.Available
	case ledger.Reserved:
		return &b.Reserved
	case ledger.Pending:
		return &b.Pending
	case ledger.Quarantined:
		return &b.Quarantined
	case ledger.InTransit:
		return &b.InTransit
	}
	return nil
}

// low reports whether so many units are too few: no more than the reorder level,
// or less than the minimum.
func (s *StockSummary) low(units int64) bool {
	return s.Min+s.Max+s.Reorder > 0 && (units <= s.Reorder || units < s.Min)
}

// judge notes after an event whether a shelf is out of stock, and low.
func (r *modelRows) judge(shelf shelfOf, e *ledger.Event) {
	s := r.summaries[shelf]
	switch out := s.Available == 0; {
	case out && s.OutSince == 0:
		s.OutSince = e.At
		r.outs[stockOutKey{shelf, e.At}] = 0
	case !out && s.OutSince != 0:
		r.outs[stockOutKey{shelf, s.OutSince}] = e.At
		s.OutSince = 0
	}
	switch low := s.low(s.Available); {
	case low && s.LowSequence == 0:
		s.LowSince, s.LowSequence = e.At, e.Sequence
	case !low:
		s.LowSince, s.LowSequence = 0, 0
	}
}

// consumedBy is what an entry adds to what was used and wasted: what comes back
// is taken off again.
func consumedBy(e *ledger.Entry) (used, wasted int64) {
	for _, side := range []struct {
		bucket ledger.Bucket
		sign   int64
	}{{e.Debit, 1}, {e.Credit, -1}} {
		switch side.bucket {
		case ledger.Dispensed, ledger.Issued:
			used += side.sign * e.Quantity
		case ledger.Wasted:
			wasted += side.sign * e.Quantity
		}
	}
	return used, wasted
}

// levelsOf are the levels that an event sets.
func levelsOf(body ledger.EventBody) (levels []*ledger.Level) {
	change, ok := body.(*ledger.Change)
	if !ok {
		return nil
	}
	for _, document := range change.Documents {
		if level, ok := document.(*ledger.Level); ok {
			levels = append(levels, level)
		}
	}
	if change.Approved != nil {
		levels = append(levels, levelsOf(change.Approved)...)
	}
	return levels
}

// dispensedBy is what an event adds to what was handed over, and takes off where
// it cancels what was.
func dispensedBy(clinic ledger.ClinicID, e *ledger.Event) map[dispensingKey]dispensed {
	change, ok := e.Body.(*ledger.Change)
	if !ok {
		return nil
	}
	kind, approved := carriedOut(e)
	if approved {
		if change, ok = change.Approved.(*ledger.Change); !ok {
			return nil
		}
	}
	var sign int64
	switch kind {
	case ledger.KindDispenseMedicine, ledger.KindHandOver, ledger.KindRecordDowntime:
		sign = 1
	case ledger.KindCancelDispensing:
		sign = -1
	default:
		return nil
	}
	var sums map[dispensingKey]dispensed
	for _, document := range change.Documents {
		d, ok := document.(*ledger.Dispensing)
		if !ok || d.Dispenser == "" || (d.Status == ledger.DispensingHandedOver) != (sign > 0) { // it was never handed over
			continue
		}
		if sums == nil {
			sums = make(map[dispensingKey]dispensed, 1)
		}
		key := dispensingKey{clinic, d.Day, d.Medicine, d.Location, d.Dispenser, d.Currency}
		sum := sums[key]
		sums[key] = dispensed{
			sum.dispensings + sign, sum.quantity + sign*d.Quantity, sum.wasted + sign*d.Wasted, sum.amount + sign*d.Amount,
		}
	}
	return sums
}

// queue writes all rows, and where the models have come to.
func (r *modelRows) queue(b *pgx.Batch, server ServerKind, steps []*modelStep) {
	var cursors cursorRows
	for _, s := range steps {
		cursors.add(s)
		if s.anew {
			for _, t := range modelTables {
				b.Queue("DELETE FROM "+t.name+" WHERE clinic_id = $1", s.clinic)
			}
		}
	}
	var summaries summaryRows
	for shelf, s := range r.summaries {
		summaries.add(shelf.clinic, s)
	}
	queueChanged(b, server, summaryTable, len(summaries.clinic), summaries.key, summaries.columns)
	var used consumptionRows
	for k, c := range r.consumption {
		used.add(k, c)
	}
	queueRows(b, consumptionTable.upsert(server), len(used.clinic), used.columns)
	var outs stockOutRows
	for k, ended := range r.outs {
		outs.add(k, ended)
	}
	queueRows(b, stockOutsTable.upsert(server), len(outs.clinic), outs.columns)
	var days dispensingRows
	for k, d := range r.dispensings {
		days.add(k, d)
	}
	queueRows(b, dispensingDaysTable.upsert(server), len(days.clinic), days.columns)
	var late lateRows
	for i := range r.late {
		late.add(&r.late[i])
	}
	queueRows(b, lateTable.insert(), len(late.clinic), late.columns)
	queueRows(b, cursorsTable.upsert(server), len(cursors.clinic), cursors.columns)
}

type cursorRows struct {
	clinic          []string
	epoch, sequence []int64
	recordedAt      []time.Time
	zone            []string
	version         []int64
}

func (r *cursorRows) add(s *modelStep) {
	r.clinic = append(r.clinic, string(s.clinic))
	r.epoch = append(r.epoch, s.to.Epoch)
	r.sequence = append(r.sequence, int64(s.to.Sequence))
	r.recordedAt = append(r.recordedAt, s.to.Time.Time())
	r.zone = append(r.zone, s.zone)
	r.version = append(r.version, modelsVersion)
}

func (r *cursorRows) columns() []any {
	return []any{r.clinic, r.epoch, r.sequence, r.recordedAt, r.zone, r.version}
}

type summaryRows struct {
	clinic, medicine, location                                 []string
	available, reserved, pending, quarantined, inTransit, lots []int64
	moved, out                                                 []*time.Time
	minimum, maximum, reorder                                  []int64
	low                                                        []*time.Time
	lowSequence                                                []int64
}

func (r *summaryRows) add(clinic ledger.ClinicID, s *StockSummary) {
	r.clinic = append(r.clinic, string(clinic))
	r.medicine = append(r.medicine, string(s.Medicine))
	r.location = append(r.location, string(s.Location))
	r.available = append(r.available, s.Available)
	r.reserved = append(r.reserved, s.Reserved)
	r.pending = append(r.pending, s.Pending)
	r.quarantined = append(r.quarantined, s.Quarantined)
	r.inTransit = append(r.inTransit, s.InTransit)
	r.lots = append(r.lots, s.Lots)
	r.moved = append(r.moved, timeOrNull(s.MovedAt))
	r.out = append(r.out, timeOrNull(s.OutSince))
	r.minimum = append(r.minimum, s.Min)
	r.maximum = append(r.maximum, s.Max)
	r.reorder = append(r.reorder, s.Reorder)
	r.low = append(r.low, timeOrNull(s.LowSince))
	r.lowSequence = append(r.lowSequence, int64(s.LowSequence))
}

func (r *summaryRows) key(row int) []any {
	return []any{r.clinic[row], r.medicine[row], r.location[row]}
}

func (r *summaryRows) columns() []any {
	return []any{
		r.clinic, r.medicine, r.location, r.available, r.reserved, r.pending, r.quarantined, r.inTransit,
		r.lots, r.moved, r.out, r.minimum, r.maximum, r.reorder, r.low, r.lowSequence,
	}
}

type consumptionRows struct {
	clinic, medicine, location []string
	month                      []time.Time
	used, wasted               []int64
}

func (r *consumptionRows) add(k consumptionKey, c *consumption) {
	r.clinic = append(r.clinic, string(k.clinic))
	r.medicine = append(r.medicine, string(k.Medicine))
	r.location = append(r.location, string(k.Location))
	r.month = append(r.month, k.month.Time())
	r.used = append(r.used, c.used)
	r.wasted = append(r.wasted, c.wasted)
}

func (r *consumptionRows) columns() []any {
	return []any{r.clinic, r.medicine, r.location, r.month, r.used, r.wasted}
}

type stockOutRows struct {
	clinic, medicine, location []string
	began                      []time.Time
	ended                      []*time.Time
}

func (r *stockOutRows) add(k stockOutKey, ended ledger.Instant) {
	r.clinic = append(r.clinic, string(k.clinic))
	r.medicine = append(r.medicine, string(k.Medicine))
	r.location = append(r.location, string(k.Location))
	r.began = append(r.began, k.began.Time())
	r.ended = append(r.ended, timeOrNull(ended))
}

func (r *stockOutRows) columns() []any {
	return []any{r.clinic, r.medicine, r.location, r.began, r.ended}
}

type dispensingRows struct {
	clinic                                  []string
	day                                     []time.Time
	medicine, location, dispenser, currency []string
	dispensings, quantity, wasted, amount   []int64
}

func (r *dispensingRows) add(k dispensingKey, d *dispensed) {
	r.clinic = append(r.clinic, string(k.clinic))
	r.day = append(r.day, k.day.Time())
	r.medicine = append(r.medicine, string(k.medicine))
	r.location = append(r.location, string(k.location))
	r.dispenser = append(r.dispenser, string(k.dispenser))
	r.currency = append(r.currency, k.currency)
	r.dispensings = append(r.dispensings, d.dispensings)
	r.quantity = append(r.quantity, d.quantity)
	r.wasted = append(r.wasted, d.wasted)
	r.amount = append(r.amount, d.amount)
}

func (r *dispensingRows) columns() []any {
	return []any{r.clinic, r.day, r.medicine, r.location, r.dispenser, r.currency, r.dispensings, r.quantity, r.wasted, r.amount}
}
