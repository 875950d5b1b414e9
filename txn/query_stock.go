package txn

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// StockRow is what one location holds of one lot, with what a reader wants to
// know about the lot.
type StockRow struct {
	ledger.Stock
	LotNumber string
	Expiry    ledger.Date
	LotActive bool
	LotBar    ledger.Bar
	Expired   bool // the expiry has passed at the clinic
}

// usable returns the units that can be reserved or issued, for a supply that
// must last until a day.
func (r *StockRow) usable(lastsUntil ledger.Date) int64 {
	if r.Expired || !r.LotActive || r.LotBar != ledger.BarNone || r.Expiry < lastsUntil {
		return 0
	}
	return r.Available
}

// StockOnShelf is what one location holds of one medicine.
type StockOnShelf struct {
	Rows   []StockRow // first expired first
	Totals ledger.Balances
	Usable int64 // units that can be reserved or issued now
}

// StockKey is a place in a list of stock.
type StockKey struct {
	ledger.Shelf
	Lot ledger.LotID
}

// StockFilter narrows a list of stock. Empty fields do not.
type StockFilter struct {
	Location ledger.LocationID
	Medicine ledger.MedicineID
	// Locations, where not nil, are the only ones shown.
	Locations []ledger.LocationID
}

const stockColumns = `s.location_id, s.medicine_id, s.lot_id, s.available, s.reserved, s.pending, s.quarantined, s.in_transit,
	s.first_sequence, s.last_sequence, l.lot_number, l.expiry, l.active, l.bar`

func (v *view) selectStock() *selection {
	return selectFrom(`SELECT `+stockColumns+` FROM stock AS s `+v.joinLots()+` WHERE`).add(` s.clinic_id = ?`, v.id)
}

// joinLots joins stock with what a reader wants to know about the lots.
func (v *view) joinLots() string {
	return lookUpJoin(v.server, "lots", "l", "s", []string{"clinic_id", "lot_id"}, []string{"lot_number", "expiry", "active", "bar"})
}

// selectStockOf selects the stock whose keys are listed, one array for each of
// the key's columns.
func (v *view) selectStockOf(keys ...any) *selection {
	names, types := stockTable.names()
	s := selectFrom("SELECT " + stockColumns + " FROM " + keySource(v.server, stockTable.key, types[:len(stockTable.key)]) + " " +
		lookUpJoin(v.server, stockTable.name, "s", "k", stockTable.key, names) + " " + v.joinLots())
	s.args = keys
	return s
}

func (v *view) scanStock(rows pgx.Rows, r *StockRow) error {
	var expiry time.Time
	err := rows.Scan(&r.Location, &r.Medicine, &r.Lot, &r.Available, &r.Reserved, &r.Pending, &r.Quarantined, &r.InTransit,
		&r.FirstSequence, &r.LastSequence, &r.LotNumber, &expiry, &r.LotActive, &r.LotBar)
	r.Expiry = ledger.DateOf(expiry)
	r.Expired = r.Expiry < v.today
	return err
}

// Stock reads what one location holds of one medicine. A location or medicine
// that the clinic does not have is a rejection.
func (q *Queries) Stock(ctx context.Context, clinic ledger.ClinicID, shelf ledger.Shelf, o ReadOptions) (stock StockOnShelf, asOf AsOf, err error) {
	if q.cached(o) {
		rows, asOf, err := q.cachedShelves(ctx, clinic, []ledger.Shelf{shelf}, o)
		return sumStock(rows), asOf, err
	}
	asked := existing{locations: []ledger.LocationID{shelf.Location}, medicines: []ledger.MedicineID{shelf.Medicine}}
	var rows []StockRow
	first := func(v *view) []question {
		s := v.selectStock().add(` AND s.location_id = ? AND s.medicine_id = ?`, shelf.Location, shelf.Medicine)
		return append(asked.questions(clinic), ask(s, &rows, v.scanStock))
	}
	asOf, err = q.readFirst(ctx, clinic, o, first, func(*view) error { return asked.check(clinic) })
	slices.SortFunc(rows, firstExpiredFirst)
	return sumStock(rows), asOf, err
}

func firstExpiredFirst(a, b StockRow) int {
	return cmp.Or(cmp.Compare(a.Expiry, b.Expiry), cmp.Compare(a.FirstSequence, b.FirstSequence), cmp.Compare(a.Lot, b.Lot))
}

func sumStock(rows []StockRow) StockOnShelf {
	stock := StockOnShelf{Rows: rows}
	for i := range rows {
		stock.Usable += rows[i].usable(0)
		stock.Totals.Available += rows[i].Available
		stock.Totals.Reserved += rows[i].Reserved
		stock.Totals.Pending += rows[i].Pending
		stock.Totals.Quarantined += rows[i].Quarantined
		stock.Totals.InTransit += rows[i].InTransit
	}
	return stock
}

// known answers with a rejection for the first id that the clinic does not
// have.
func (v *view) known(ctx context.Context, locations []ledger.LocationID, medicines []ledger.MedicineID) error {
	asked := existing{locations: locations, medicines: medicines}
	if err := answer(ctx, v.tx, asked.questions(v.id)...); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	return asked.check(v.id)
}

// ListStock reads a clinic's stock by location, medicine and lot. It reports
// whether there is more.
func (q *Queries) ListStock(ctx context.Context, clinic ledger.ClinicID, filter StockFilter, after StockKey, limit int, o ReadOptions) (stock []StockRow, more bool, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) error {
		only := filter.Locations
		if filter.Medicine != "" && filter.Location == "" && only == nil {
			// The key begins with the location: a medicine alone is looked up
			// at each.
			if only, err = v.locations(ctx); err != nil {
				return err
			}
		}
		s := v.selectStock().
			addIf(filter.Location != "", ` AND s.location_id = ?`, filter.Location).
			addIf(only != nil, ` AND s.location_id = ANY(?)`, texts(only)).
			addIf(filter.Medicine != "", ` AND s.medicine_id = ?`, filter.Medicine).
			add(` AND (s.location_id, s.medicine_id, s.lot_id) > (?, ?, ?)`, after.Location, after.Medicine, after.Lot).
			add(` ORDER BY s.location_id, s.medicine_id, s.lot_id LIMIT ?`, limit+1)
		stock, err = collect(ctx, v.tx, s, v.scanStock)
		return err
	})
	stock, more = page(stock, limit)
	return stock, more, asOf, err
}

// locations returns the ids of all of the clinic's locations.
func (v *view) locations(ctx context.Context) ([]ledger.LocationID, error) {
	s := selectFrom(selectLocations).add(`?`, v.id)
	rows, err := collect(ctx, v.tx, s, scanLocation)
	ids := make([]ledger.LocationID, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	return ids, err
}

// Availability is how much of a medicine one location has.
type Availability struct {
	ledger.Shelf
	Usable         int64
	Reserved       int64
	OnHand         int64
	EarliestExpiry ledger.Date // of the usable lots; zero where none is
}

// Availability reads how much there is of medicines at locations, where no
// locations means all active ones. Only lots that last until a day count as
// usable. The answer is sorted by location and medicine and leaves out what is
// not on hand at all. Unknown ids are rejections.
func (q *Queries) Availability(ctx context.Context, clinic ledger.ClinicID, medicines []ledger.MedicineID, locations []ledger.LocationID, lastsUntil ledger.Date, o ReadOptions) (found []Availability, asOf AsOf, err error) {
	if q.cached(o) {
		return q.cachedAvailability(ctx, clinic, medicines, locations, lastsUntil, o)
	}
	asOf, err = q.read(ctx, clinic, o, func(v *view) error {
		if err := v.known(ctx, locations, medicines); err != nil {
			return err
		}
		at := locations
		if len(at) == 0 {
			s := selectFrom(selectLocations).add(`? AND active`, v.id)
			rows, err := collect(ctx, v.tx, s, scanLocation)
			if err != nil {
				return err
			}
			for _, row := range rows {
				at = append(at, row.ID)
			}
		}
		s := v.selectStock().
			add(` AND s.location_id = ANY(?) AND s.medicine_id = ANY(?)`, texts(at), texts(medicines))
		rows, err := collect(ctx, v.tx, s, v.scanStock)
		slices.SortFunc(rows, func(a, b StockRow) int {
			return cmp.Or(cmp.Compare(a.Location, b.Location), cmp.Compare(a.Medicine, b.Medicine))
		})
		found = sumAvailability(rows, lastsUntil)
		return err
	})
	return found, asOf, err
}

// sumAvailability adds up rows that are sorted by shelf.
func sumAvailability(rows []StockRow, lastsUntil ledger.Date) []Availability {
	var sums []Availability
	for i := range rows {
		row := &rows[i]
		if n := len(sums); n == 0 || sums[n-1].Shelf != row.Shelf {
			sums = append(sums, Availability{Shelf: row.Shelf})
		}
		sum := &sums[len(sums)-1]
		usable := row.usable(lastsUntil)
		sum.Usable += usable
		sum.Reserved += row.Reserved
		sum.OnHand += row.OnHand()
		if usable > 0 && (sum.EarliestExpiry == 0 || row.Expiry < sum.EarliestExpiry) {
			sum.EarliestExpiry = row.Expiry
		}
	}
	return slices.DeleteFunc(sums, func(a Availability) bool { return a.OnHand == 0 })
}

// HoldKey is a place in a list of holds.
type HoldKey struct {
	ledger.Shelf
	Hold ledger.HoldID
}

// HoldFilter narrows a list of holds. A medicine needs its location.
type HoldFilter struct {
	ledger.Shelf
	IncludeClosed bool
	// Locations, where not nil, are the only ones shown.
	Locations []ledger.LocationID
}

func (f HoldFilter) where(s *selection) *selection {
	return s.addIf(!f.IncludeClosed, ` AND status = 1`).
		addIf(f.Location != "", ` AND location_id = ?`, f.Location).
		addIf(f.Medicine != "", ` AND medicine_id = ?`, f.Medicine).
		addIf(f.Locations != nil, ` AND location_id = ANY(?)`, texts(f.Locations))
}

// HoldRow is a hold, with whether its deadline has passed while it is open.
type HoldRow struct {
	ledger.Hold
	Overdue bool
}

// Holds reads holds by location, medicine and id. It reports whether there are
// more.
func (q *Queries) Holds(ctx context.Context, clinic ledger.ClinicID, filter HoldFilter, after HoldKey, limit int, o ReadOptions) (holds []HoldRow, more bool, asOf AsOf, err error) {
	asOf, err = q.read(ctx, clinic, o, func(v *view) error {
		holds, more = nil, false // of an attempt that failed
		s := filter.where(selectFrom(`SELECT DISTINCT location_id, medicine_id, hold_id FROM holds WHERE`).add(` clinic_id = ?`, v.id)).
			add(` AND (location_id, medicine_id, hold_id) > (?, ?, ?)`, after.Location, after.Medicine, after.Hold).
			add(` ORDER BY location_id, medicine_id, hold_id LIMIT ?`, limit+1)
		keys, err := collect(ctx, v.tx, s, func(rows pgx.Rows, k *HoldKey) error {
			return rows.Scan(&k.Location, &k.Medicine, &k.Hold)
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		keys, more = page(keys, limit)
		holds, err = v.holds(ctx, filter, keys[0], keys[len(keys)-1])
		return err
	})
	return holds, more, asOf, err
}

// holds reads all lines of the holds between two keys.
func (v *view) holds(ctx context.Context, filter HoldFilter, first, last HoldKey) ([]HoldRow, error) {
	s := filter.where(selectFrom(`SELECT location_id, medicine_id, hold_id, lot_id, quantity, reserved_quantity, status, reason_code,
		deadline, actor, opened_sequence, last_sequence FROM holds WHERE`).add(` clinic_id = ?`, v.id)).
		add(` AND (location_id, medicine_id, hold_id) >= (?, ?, ?)`, first.Location, first.Medicine, first.Hold).
		add(` AND (location_id, medicine_id, hold_id) <= (?, ?, ?)`, last.Location, last.Medicine, last.Hold).
		add(` ORDER BY location_id, medicine_id, hold_id, line`)
	lines, err := collect(ctx, v.tx, s, func(rows pgx.Rows, h *HoldRow) error {
		var line ledger.HoldLine
		var deadline time.Time
		err := rows.Scan(&h.Location, &h.Medicine, &h.ID, &line.Lot, &line.Quantity, &line.Reserved, &h.Status, &h.ReasonCode,
			&deadline, &h.Actor, &h.OpenedSequence, &h.LastSequence)
		h.Deadline, h.Lines = ledger.InstantOf(deadline), []ledger.HoldLine{line}
		h.Overdue = h.Status == ledger.HoldOpen && h.Deadline < v.now
		return err
	})
	var holds []HoldRow
	for _, line := range lines {
		if n := len(holds); n > 0 && holds[n-1].ID == line.ID {
			holds[n-1].Lines = append(holds[n-1].Lines, line.Lines...)
			continue
		}
		holds = append(holds, line)
	}
	return holds, err
}
