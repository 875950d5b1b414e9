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

// ReadModelsBehindError means that the read models did not come to show what was
// asked for in time.
type ReadModelsBehindError struct{ Want, Have ledger.Sequence }

// Error says what was asked for and how far the models are.
func (e *ReadModelsBehindError) Error() string {
	return fmt.Sprintf("the read models are at sequence %d, and %d was asked for", e.Have, e.Want)
}

const (
	// modelsPatience is how long a query waits for read models.
	modelsPatience = 2 * time.Second
	// modelsPoll is how often it looks meanwhile.
	modelsPoll = 20 * time.Millisecond
)

// readModels runs fn on one snapshot of a clinic, and says how far the read
// models had come in it. A strong read waits until they show all that the clinic
// had recorded when it began; others wait for the options' command, and until
// what they lack is no older than the options allow. Where that takes too long
// it is a ReadModelsBehindError.
func (q *Queries) readModels(ctx context.Context, clinic ledger.ClinicID, o ReadOptions, fn func(*view) error) (AsOf, error) {
	limit := time.NewTimer(modelsPatience)
	defer limit.Stop()
	poll := time.NewTicker(modelsPoll)
	defer poll.Stop()
	want := o.MinSequence
	for first := true; ; first = false {
		asOf, err := q.readModelsOnce(ctx, clinic, o, &want, first, fn)
		var behind *ReadModelsBehindError
		if !errors.As(err, &behind) {
			return asOf, err
		}
		select {
		case <-poll.C:
		case <-limit.C:
			return asOf, err
		case <-ctx.Done():
			return asOf, ctx.Err()
		}
	}
}

func (q *Queries) readModelsOnce(ctx context.Context, clinic ledger.ClinicID, o ReadOptions, want *ledger.Sequence, first bool, fn func(*view) error) (AsOf, error) {
	var asOf AsOf
	_, err := q.read(ctx, clinic, o, func(v *view) error {
		cursor, err := v.modelsAsOf(ctx)
		if err != nil {
			return err
		}
		asOf = cursor
		if first && o.Consistency == Strong {
			*want = max(*want, v.asOf.Sequence)
		}
		needs := *want
		if o.Continues.Epoch == cursor.Epoch { // a list does not go back
			needs = max(needs, o.Continues.Sequence)
		}
		behind := cursor.Epoch != v.asOf.Epoch || cursor.Sequence < needs
		if !behind && o.Consistency == Bounded && cursor.Sequence < v.asOf.Sequence {
			if behind, err = v.lacksSince(ctx, cursor.Sequence, o.MaxStaleness); err != nil {
				return err
			}
		}
		if behind {
			return &ReadModelsBehindError{Want: max(needs, cursor.Sequence+1), Have: cursor.Sequence}
		}
		return fn(v)
	})
	return asOf, err
}

// modelsAsOf tells which state the read models show.
func (v *view) modelsAsOf(ctx context.Context) (AsOf, error) {
	var asOf AsOf
	var at time.Time
	err := v.tx.QueryRow(ctx, `SELECT epoch, sequence, recorded_at FROM read_model_cursors WHERE clinic_id = $1`, v.id).Scan(&asOf.Epoch, &asOf.Sequence, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return AsOf{}, nil
	}
	if err != nil {
		return AsOf{}, fmt.Errorf("query: how far the read models are: %w", err)
	}
	asOf.Time = ledger.InstantOf(at)
	return asOf, nil
}

// lacksSince reports whether the command after one was recorded longer ago.
func (v *view) lacksSince(ctx context.Context, after ledger.Sequence, limit time.Duration) (bool, error) {
	var at time.Time
	err := v.tx.QueryRow(ctx, `SELECT recorded_at FROM journal WHERE clinic_id = $1 AND sequence = $2`, v.id, after+1).Scan(&at)
	if err != nil {
		return false, fmt.Errorf("query: what the read models lack: %w", err)
	}
	return v.now.Time().Sub(at) > limit, nil
}

// SummaryFilter narrows a list of stock summaries. Empty fields do not.
type SummaryFilter struct {
	StockFilter
	LowOnly bool // only where there is too little
}

// StockSummaries reads what locations hold of medicines, by location and
// medicine, from after a shelf. It reports whether there is more.
func (q *Queries) StockSummaries(ctx context.Context, clinic ledger.ClinicID, f SummaryFilter, after ledger.Shelf, limit int, o ReadOptions) (rows []StockSummary, more bool, asOf AsOf, err error) {
	asOf, err = q.readModels(ctx, clinic, o, func(v *view) error {
		if err := v.knownIDs(ctx, f.StockFilter); err != nil {
			return err
		}
		rows, err = v.stockSummaries(ctx, f, after, limit+1)
		return err
	})
	rows, more = page(rows, limit)
	return rows, more, asOf, err
}

// knownIDs answers with a rejection where a filter names what the clinic does
// not have.
func (v *view) knownIDs(ctx context.Context, f StockFilter) error {
	var locations []ledger.LocationID
	var medicines []ledger.MedicineID
	if f.Location != "" {
		locations = append(locations, f.Location)
	}
	if f.Medicine != "" {
		medicines = append(medicines, f.Medicine)
	}
	if locations == nil && medicines == nil {
		return nil
	}
	return v.known(ctx, locations, medicines)
}

func (v *view) stockSummaries(ctx context.Context, f SummaryFilter, after ledger.Shelf, limit int) ([]StockSummary, error) {
	s := f.where(summaryTable.selection().add(` clinic_id = ?`, v.id)).
		addIf(f.LowOnly, ` AND low_sequence > 0`).
		add(` AND (location_id, medicine_id) > (?, ?) ORDER BY location_id, medicine_id LIMIT ?`, after.Location, after.Medicine, limit)
	return collect(ctx, v.tx, s, func(rows pgx.Rows, row *StockSummary) error {
		var id ledger.ClinicID
		return scanSummary(rows, &id, row)
	})
}

func (f StockFilter) where(s *selection) *selection {
	return s.addIf(f.Location != "", ` AND location_id = ?`, f.Location).
		addIf(f.Medicine != "", ` AND medicine_id = ?`, f.Medicine).
		addIf(f.Locations != nil, ` AND location_id = ANY(?)`, texts(f.Locations))
}

// MedicineSummary is what a clinic holds of a medicine, over all locations that
// were asked for.
type MedicineSummary struct {
	Medicine ledger.MedicineID
	ledger.Balances
	Lots      int64 // over all locations: a lot at two of them counts twice
	Locations int64 // that hold some
	Low       int64 // locations with too little
}

// MedicineSummaries reads what a clinic holds of medicines, by medicine, from
// after one. It reports whether there is more.
func (q *Queries) MedicineSummaries(ctx context.Context, clinic ledger.ClinicID, f StockFilter, after ledger.MedicineID, limit int, o ReadOptions) (sums []MedicineSummary, more bool, asOf AsOf, err error) {
	asOf, err = q.readModels(ctx, clinic, o, func(v *view) error {
		if err := v.knownIDs(ctx, f); err != nil {
			return err
		}
		s := f.where(selectFrom(selectMedicineSummaries).add(` clinic_id = ?`, clinic)).
			add(` AND medicine_id > ? GROUP BY medicine_id ORDER BY medicine_id LIMIT ?`, after, limit+1)
		sums, err = collect(ctx, v.tx, s, func(rows pgx.Rows, m *MedicineSummary) error {
			return rows.Scan(&m.Medicine, &m.Available, &m.Reserved, &m.Pending, &m.Quarantined, &m.InTransit, &m.Lots, &m.Locations, &m.Low)
		})
		return err
	})
	sums, more = page(sums, limit)
	return sums, more, asOf, err
}

const selectMedicineSummaries = `SELECT medicine_id, sum(available)::INT8, sum(reserved)::INT8, sum(pending)::INT8, sum(quarantined)::INT8, sum(in_transit)::INT8,
	sum(lots)::INT8, sum(CASE WHEN lots > 0 THEN 1 ELSE 0 END)::INT8, sum(CASE WHEN low_sequence > 0 THEN 1 ELSE 0 END)::INT8
	FROM location_stock_summary WHERE`

// ExpiringPlace is a place in the list of what expires.
type ExpiringPlace struct {
	Expiry   ledger.Date
	Lot      ledger.LotID
	Location ledger.LocationID
}

// Expiring reads what there is of lots whose expiry lies between two days,
// inclusive, by expiry, lot and location, from after a place (nil: from the
// beginning). next is the place to go on from, nil at the end. It needs no read
// model: lots lie by their expiry.
func (q *Queries) Expiring(ctx context.Context, clinic ledger.ClinicID, f StockFilter, window func(today ledger.Date) (from, to ledger.Date), after *ExpiringPlace, limit int, o ReadOptions) (rows []StockRow, next *ExpiringPlace, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) error {
		if err := v.knownIDs(ctx, f); err != nil {
			return err
		}
		from, to := window(v.today)
		rows, err = v.expiring(ctx, f, from, to, after, limit+1)
		return err
	})
	rows, more := page(rows, limit)
	if more {
		last := rows[len(rows)-1]
		next = &ExpiringPlace{last.Expiry, last.Lot, last.Location}
	}
	return rows, next, asOf, err
}

// expiringKeys is how many places are looked into at a time.
const expiringKeys = 2000

// expiringLot is a lot by its expiry.
type expiringLot struct {
	id       ledger.LotID
	medicine ledger.MedicineID
	expiry   ledger.Date
}

// expiring reads lots by their expiry and looks each up at the locations.
func (v *view) expiring(ctx context.Context, f StockFilter, from, to ledger.Date, after *ExpiringPlace, limit int) (found []StockRow, err error) {
	locations, err := v.locationsOf(ctx, f)
	if err != nil || len(locations) == 0 {
		return nil, err
	}
	chunk := max(expiringKeys/len(locations), 10)
	place, beyond := ExpiringPlace{Expiry: from}, ">="
	if after != nil {
		place = *after // whose lot may be at more locations
	}
	for {
		// The first condition is that of the index.
		s := selectFrom(`SELECT lot_id, medicine_id, expiry FROM lots WHERE expiry > '1970-01-01' AND`).
			add(` clinic_id = ? AND (expiry, lot_id) `+beyond+` (?, ?) AND expiry <= ?`, v.id, place.Expiry.Time(), place.Lot, to.Time()).
			addIf(f.Medicine != "", ` AND medicine_id = ?`, f.Medicine).
			add(` ORDER BY expiry, lot_id LIMIT ?`, chunk)
		lots, err := collect(ctx, v.tx, s, func(rows pgx.Rows, l *expiringLot) error {
			var expiry time.Time
			err := rows.Scan(&l.id, &l.medicine, &expiry)
			l.expiry = ledger.DateOf(expiry)
			return err
		})
		if err != nil || len(lots) == 0 {
			return found, err
		}
		rows, err := v.heldOf(ctx, lots, locations)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			if after == nil || compareExpiring(placeOf(&rows[i]), *after) > 0 {
				if found = append(found, rows[i]); len(found) == limit {
					return found, nil
				}
			}
		}
		if len(lots) < chunk {
			return found, nil
		}
		last := lots[len(lots)-1]
		place, beyond = ExpiringPlace{Expiry: last.expiry, Lot: last.id}, ">"
	}
}

// locationsOf returns the locations that a filter shows.
func (v *view) locationsOf(ctx context.Context, f StockFilter) ([]ledger.LocationID, error) {
	switch {
	case f.Location != "" && f.Locations != nil && !slices.Contains(f.Locations, f.Location):
		return nil, nil
	case f.Location != "":
		return []ledger.LocationID{f.Location}, nil
	case f.Locations != nil:
		return f.Locations, nil
	}
	return v.locations(ctx)
}

// heldOf reads what locations hold of lots, by expiry, lot and location.
func (v *view) heldOf(ctx context.Context, lots []expiringLot, locations []ledger.LocationID) ([]StockRow, error) {
	var clinics, at, medicines, ids []string
	for _, lot := range lots {
		for _, location := range locations {
			clinics, at = append(clinics, string(v.id)), append(at, string(location))
			medicines, ids = append(medicines, string(lot.medicine)), append(ids, string(lot.id))
		}
	}
	rows, err := collect(ctx, v.tx, v.selectStockOf(clinics, at, medicines, ids), v.scanStock)
	rows = slices.DeleteFunc(rows, func(r StockRow) bool { return r.OnHand() == 0 })
	slices.SortFunc(rows, func(a, b StockRow) int { return compareExpiring(placeOf(&a), placeOf(&b)) })
	return rows, err
}

func placeOf(r *StockRow) ExpiringPlace { return ExpiringPlace{r.Expiry, r.Lot, r.Location} }

func compareExpiring(a, b ExpiringPlace) int {
	return cmp.Or(cmp.Compare(a.Expiry, b.Expiry), cmp.Compare(a.Lot, b.Lot), cmp.Compare(a.Location, b.Location))
}

// MonthConsumption is what a location used of a medicine in a calendar month at
// the clinic.
type MonthConsumption struct {
	First        ledger.Date // of the month
	Used, Wasted int64
	// DaysOut is how long nothing was available, in days of 24 hours.
	DaysOut float64
}

// Consumption is what a location uses of a medicine.
type Consumption struct {
	ledger.Shelf
	// Months are the full ones that were asked for, oldest first.
	Months  []MonthConsumption
	Current MonthConsumption // this month so far
}

// Average is what was used in a month on average, in base units.
func (c *Consumption) Average() float64 {
	var used int64
	for _, month := range c.Months {
		used += month.Used
	}
	return float64(used) / float64(max(len(c.Months), 1))
}

// Adjusted is what would have been used in a month on average had there always
// been some: units used, by the months less the part of them in which nothing
// was available. It is the adjusted average monthly consumption of Management
// Sciences for Health (MDS-3, 2012, chapter 20), with the months' own lengths
// for its 30.5 days. It is 0 where there was some for less than a day.
func (c *Consumption) Adjusted() float64 {
	var days, out float64
	for _, month := range c.Months {
		days += float64(nextMonth(month.First) - month.First)
		out += month.DaysOut
	}
	if days-out < 1 {
		return 0
	}
	return c.Average() * days / (days - out)
}

// firstOfMonth is the first day of the month that lies so many months after the
// one of a day.
func firstOfMonth(day ledger.Date, months int) ledger.Date {
	t := day.Time()
	return ledger.DateOf(time.Date(t.Year(), t.Month()+time.Month(months), 1, 0, 0, 0, 0, time.UTC))
}

func nextMonth(first ledger.Date) ledger.Date { return firstOfMonth(first, 1) }

// Consumptions reads what locations use of medicines, by location and medicine,
// from after a shelf, over so many full months (at least 1) and the present one.
// A day is that on which something happened at the clinic; what came back is
// taken off the day on which it came back. It reports whether there is more.
func (q *Queries) Consumptions(ctx context.Context, clinic ledger.ClinicID, f StockFilter, months int, after ledger.Shelf, limit int, o ReadOptions) (list []Consumption, more bool, asOf AsOf, err error) {
	asOf, err = q.readModels(ctx, clinic, o, func(v *view) error {
		if err := v.knownIDs(ctx, f); err != nil {
			return err
		}
		rows, err := v.stockSummaries(ctx, SummaryFilter{StockFilter: f}, after, limit+1)
		if err != nil {
			return err
		}
		rows, more = page(rows, limit)
		list, err = v.consumptions(ctx, rows, months)
		return err
	})
	return list, more, asOf, err
}

// consumptions reads what shelves used.
func (v *view) consumptions(ctx context.Context, shelves []StockSummary, months int) ([]Consumption, error) {
	list := make([]Consumption, len(shelves))
	if len(shelves) == 0 {
		return list, nil
	}
	byShelf := make(map[ledger.Shelf]*Consumption, len(shelves))
	var keys consumptionRows
	var places summaryRows
	for i := range shelves {
		c := &list[i]
		*c = Consumption{Shelf: shelves[i].Shelf, Months: make([]MonthConsumption, months), Current: MonthConsumption{First: firstOfMonth(v.today, 0)}}
		for m := range c.Months {
			c.Months[m].First = firstOfMonth(v.today, m-months)
		}
		byShelf[c.Shelf] = c
		places.add(v.id, &shelves[i])
		c.each(func(m *MonthConsumption) { keys.add(consumptionKey{shelfOf{v.id, c.Shelf}, m.First}, &consumption{}) })
	}
	rows := newModelRows()
	if err := answer(ctx, v.tx,
		askFor(v.server, consumptionTable, keys.columns(), rows.scanConsumption),
		askFor(v.server, stockOutsTable, places.columns()[:3], rows.scanStockOut),
	); err != nil {
		return nil, fmt.Errorf("query: consumption: %w", err)
	}
	for k, used := range rows.consumption {
		month := byShelf[k.Shelf].month(k.month)
		month.Used, month.Wasted = used.used, used.wasted
	}
	for k, ended := range rows.outs {
		if ended == 0 {
			ended = v.now
		}
		byShelf[k.Shelf].wasOut(k.began.Time(), ended.Time(), v.zone)
	}
	return list, nil
}

// each calls a function for each month, the present one last.
func (c *Consumption) each(fn func(*MonthConsumption)) {
	for i := range c.Months {
		fn(&c.Months[i])
	}
	fn(&c.Current)
}

// month finds the month that begins with a day.
func (c *Consumption) month(first ledger.Date) (found *MonthConsumption) {
	c.each(func(m *MonthConsumption) {
		if m.First == first {
			found = m
		}
	})
	return found
}

// wasOut adds a time with nothing available to the months that it was in.
func (c *Consumption) wasOut(began, ended time.Time, zone *time.Location) {
	c.each(func(m *MonthConsumption) {
		from, to := midnight(m.First, zone), midnight(nextMonth(m.First), zone)
		if began.After(from) {
			from = began
		}
		if ended.Before(to) {
			to = ended
		}
		if to.After(from) {
			m.DaysOut += to.Sub(from).Hours() / 24
		}
	})
}

// midnight is when a day begins in a time zone.
func midnight(day ledger.Date, zone *time.Location) time.Time {
	t := day.Time()
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, zone)
}

// ReorderSuggestion is what a location should get of a medicine.
type ReorderSuggestion struct {
	StockSummary
	// Incoming is what open transfers bring, in base units.
	Incoming int64
	// Quantity fills the shelf up to its maximum, once what is incoming is there.
	Quantity int64
	// Usage is what the location uses, over three full months.
	Usage Consumption
}

// suggestionMonths is over how many months suggestions look at what is used.
const suggestionMonths = 3

// ReorderSuggestions reads what locations should get, by location and medicine,
// from after a shelf: where there is too little, also with what open transfers
// bring, and a maximum is set. What is available and what is incoming are those
// of the moment, at the answer's AsOf or later. next is the shelf to go on from,
// nil at the end; a page may be shorter than the limit before it.
func (q *Queries) ReorderSuggestions(ctx context.Context, clinic ledger.ClinicID, f StockFilter, after ledger.Shelf, limit int, o ReadOptions) (list []ReorderSuggestion, next *ledger.Shelf, asOf AsOf, err error) {
	asOf, err = q.readModels(ctx, clinic, o, func(v *view) error {
		list, next = nil, nil
		if err := v.knownIDs(ctx, f); err != nil {
			return err
		}
		rows, err := v.stockSummaries(ctx, SummaryFilter{f, true}, after, limit+1)
		if err != nil {
			return err
		}
		rows, more := page(rows, limit)
		if more {
			next = &rows[len(rows)-1].Shelf
		}
		usage, err := v.consumptions(ctx, rows, suggestionMonths)
		if err != nil || len(rows) == 0 {
			return err
		}
		// What has arrived is no longer incoming: the two are of one moment.
		available, err := v.availableOn(ctx, rows)
		if err != nil {
			return err
		}
		incoming, err := v.incoming(ctx)
		if err != nil {
			return err
		}
		for i, row := range rows {
			row.Available = available[row.Shelf]
			s := ReorderSuggestion{StockSummary: row, Incoming: incoming[row.Shelf], Usage: usage[i]}
			covered := row.Available + s.Incoming
			if s.Quantity = row.Max - covered; s.Quantity > 0 && row.low(covered) {
				list = append(list, s)
			}
		}
		return nil
	})
	return list, next, asOf, err
}

// availableOn adds up what is available on shelves now.
func (v *view) availableOn(ctx context.Context, shelves []StockSummary) (map[ledger.Shelf]int64, error) {
	var locations []ledger.LocationID
	var medicines []ledger.MedicineID
	for _, s := range shelves {
		locations, medicines = append(locations, s.Location), append(medicines, s.Medicine)
	}
	rows, err := collect(ctx, v.tx, v.selectStock().
		add(` AND s.location_id = ANY(?) AND s.medicine_id = ANY(?)`, texts(sortedIDs(locations)), texts(sortedIDs(medicines))), v.scanStock)
	units := make(map[ledger.Shelf]int64)
	for i := range rows {
		units[rows[i].Shelf] += rows[i].Available
	}
	return units, err
}

// incomingChunk is how many open transfers are read at a time.
const incomingChunk = 500

// incoming adds up what open transfers have yet to bring, by where they go.
func (v *view) incoming(ctx context.Context) (map[ledger.Shelf]int64, error) {
	units := make(map[ledger.Shelf]int64)
	var after *DocumentPlace
	for {
		s := DocumentFilter{Kind: ledger.DocumentTransfer, OpenOnly: true}.selection(v.id, after, incomingChunk)
		documents, err := collect(ctx, v.tx, s, scanDocument(ledger.DocumentTransfer))
		if err != nil {
			return nil, err
		}
		for _, document := range documents {
			if transfer, ok := document.Body.(*ledger.Transfer); ok {
				for medicine, quantity := range transfer.Outstanding() {
					units[ledger.Shelf{Location: transfer.To, Medicine: medicine}] += quantity
				}
			}
		}
		if len(documents) < incomingChunk {
			return units, nil
		}
		last := documents[len(documents)-1]
		after = &DocumentPlace{last.OpenedSequence, last.Body.About().ID}
	}
}
