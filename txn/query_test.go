package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// noon is when a pharmacy's journal begins: three in the afternoon of
// 2027-03-10 at the clinic.
var noon = time.Date(2027, 3, 10, 12, 0, 0, 0, time.UTC)

func day(tb testing.TB, s string) ledger.Date {
	tb.Helper()
	d, err := ledger.ParseDate(s)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// testClock is a clock that the test sets.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// pharmacy is a clinic with something for every query to find.
type pharmacy struct {
	*testClinic
	q     *Queries
	clock *testClock
	// The holds: an open one, and one for each way to close.
	open, released, issued, expired ledger.HoldID
	last                            ledger.Record
}

// newPharmacy makes a clinic with zinc at the store, and amoxicillin at the
// store and the ward: A1 expires at the end of the day, A2 and A3 on one day in
// June, and A3 was received first. Its clock stands at two hours past noon.
func newPharmacy(tb testing.TB) *pharmacy {
	tb.Helper()
	clock := &testClock{now: noon}
	p := &pharmacy{testClinic: newTestClinic(tb, testExecutor(tb, ExecutorConfig{Clock: clock.read})), clock: clock}
	p.q = &Queries{directory: NewDirectory(p.e.db), Clock: clock.read}
	p.furnish()
	return p
}

// furnish gives the pharmacy what its comment says.
func (p *pharmacy) furnish() {
	tb, clock := p.tb, p.clock
	tb.Helper()
	lot := func(id ledger.LotID, expiry string) ledger.CommandBody {
		return &ledger.RegisterLot{LotID: id, MedicineID: "amox", Manufacturer: "Acme", LotNumber: "N-" + string(id), Expiry: day(tb, expiry)}
	}
	receive := func(at ledger.LocationID, lot ledger.LotID, quantity int64) ledger.CommandBody {
		return &ledger.ReceiveStock{LocationID: at, LotID: lot, Quantity: quantity, Supplier: "Acme", Reference: "DN-" + string(lot)}
	}
	p.mustAll(
		&ledger.CreateLocation{LocationID: "attic", Name: "Attic", LocationKind: ledger.Store},
		&ledger.AddMedicine{MedicineID: "amox", Name: "Amoxicillin", BaseUnit: "capsule", Strength: "500 mg", ATCCode: "J01CA04"},
		lot("A1", "2027-03-10"), lot("A2", "2027-06-30"), lot("A3", "2027-06-30"),
		receive("store", "A3", 20), receive("store", "A2", 30), receive("store", "A1", 10),
		receive("ward", "A2", 5), receive("store", "L1", 100),
	)
	p.open = p.hold("amox", 35, 24*time.Hour)
	p.must(&ledger.IssueStock{HoldID: p.open, Quantity: 4, Recipient: "bed-3", ReasonCode: "ward-round"})
	p.released = p.hold("zinc", 1, time.Hour)
	p.must(&ledger.ReleaseStock{HoldID: p.released, ReasonCode: "not-needed"})
	p.issued = p.hold("zinc", 2, time.Hour)
	p.must(&ledger.IssueStock{HoldID: p.issued})
	p.expired = p.hold("zinc", 3, time.Hour)
	clock.set(noon.Add(2 * time.Hour))
	p.mustAll(
		&ledger.ExpireReservation{HoldID: p.expired},
		&ledger.AdjustStock{LocationID: "ward", LotID: "A2", Direction: ledger.Decrease, Quantity: 2, ReasonCode: "lost"},
		&ledger.IssueStock{LocationID: "store", MedicineID: "amox", Quantity: 5},
		receive("store", "A1", 7),
	)
	p.last = p.must(&ledger.DeactivateLocation{LocationID: "attic", ReasonCode: "closed"})
}

func (p *pharmacy) hold(medicine ledger.MedicineID, quantity int64, lasts time.Duration) ledger.HoldID {
	p.tb.Helper()
	return p.must(&ledger.ReserveStock{
		LocationID: "store", MedicineID: medicine, Quantity: quantity, ReasonCode: "ward-round",
		Deadline: ledger.InstantOf(noon.Add(lasts)),
	}).Event.Body.(*ledger.StockReserved).HoldID
}

// entries reads the clinic's entries from their table, in the order of the
// journal.
func (c *testClinic) entries() []ledger.Entry {
	c.tb.Helper()
	var all []ledger.Entry
	err := c.e.db.readTx(context.Background(), func(tx pgx.Tx) error {
		all = nil
		return newVerifier(c.id, tx).eachEntry(context.Background(), func(e *ledger.Entry) { all = append(all, *e) })
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	slices.SortFunc(all, func(a, b ledger.Entry) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Line, b.Line))
	})
	return all
}

func shelf(location ledger.LocationID, medicine ledger.MedicineID) ledger.Shelf {
	return ledger.Shelf{Location: location, Medicine: medicine}
}

// differ compares what a query gave with what it should give.
func differ(tb testing.TB, what string, want, got any) {
	tb.Helper()
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestQueriesReadDocuments(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	want := p.stored()
	asOf := AsOf{Epoch: 1, Sequence: p.last.Event.Sequence, Time: ledger.InstantOf(noon.Add(2 * time.Hour))}
	if asOf.Sequence != want.Head.Sequence || asOf.Time != want.Head.At {
		t.Fatalf("the fixture's head is %+v", want.Head)
	}
	check := func(what string, want, got any, seen AsOf, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		differ(t, what, want, got)
		differ(t, what+" as of", asOf, seen)
	}
	clinic, seen, err := p.q.Clinic(t.Context(), p.id, ReadOptions{})
	check("clinic", *want.Clinic, clinic, seen, err)
	for _, d := range want.Locations {
		got, seen, err := p.q.Location(t.Context(), p.id, d.ID, ReadOptions{})
		check("location "+string(d.ID), d, got, seen, err)
	}
	for _, d := range want.Medicines {
		got, seen, err := p.q.Medicine(t.Context(), p.id, d.ID, ReadOptions{})
		check("medicine "+string(d.ID), d, got, seen, err)
	}
	for _, d := range want.Lots {
		got, seen, err := p.q.Lot(t.Context(), p.id, d.ID, ReadOptions{})
		check("lot "+string(d.ID), d, got, seen, err)
	}
	if len(want.Locations) != 3 || want.Locations[0].Active || len(want.Medicines) != 2 || len(want.Lots) != 4 {
		t.Errorf("the fixture is %+v", want)
	}
}

func TestListsOfDocuments(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	other := newTestClinic(t, p.e)
	want := p.stored()
	ids := []ledger.ClinicID{p.id, other.id, "nobody"}
	slices.Sort(ids)
	clinics := func(after ledger.ClinicID, limit int) ([]ClinicRow, bool) {
		rows, more, err := p.q.ListClinics(t.Context(), ids, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		return rows, more
	}
	rows, more := clinics("", 10)
	if len(rows) != 2 || more || rows[0].ID >= rows[1].ID {
		t.Errorf("clinics are %+v, %v", rows, more)
	}
	first, more := clinics("", 1)
	second, end := clinics(first[0].ID, 1)
	differ(t, "clinics page by page", rows, append(first, second...))
	if !more || end {
		t.Errorf("there are more clinics: %v, then %v", more, end)
	}
	if rows, more, err := p.q.ListClinics(t.Context(), []ledger.ClinicID{}, "", 10); err != nil || len(rows) != 0 || more {
		t.Errorf("of no clinics there are %+v, %v, %v", rows, more, err)
	}
	before, _, err := p.q.ListClinics(t.Context(), nil, p.id[:len(p.id)-1], 1)
	if err != nil || len(before) != 1 || before[0].ID != p.id || before[0].Clinic != *want.Clinic {
		t.Errorf("of all clinics the next one is %+v, %v", before, err)
	}

	locations := func(only []ledger.LocationID) []ledger.Location {
		got, more, _, err := p.q.ListLocations(t.Context(), p.id, only, "", 10, ReadOptions{})
		if err != nil || more {
			t.Fatal(err, more)
		}
		return got
	}
	differ(t, "locations", want.Locations, locations(nil))
	differ(t, "some locations", want.Locations[1:2], locations([]ledger.LocationID{"store", "elsewhere"}))
	differ(t, "no locations", []ledger.Location(nil), locations([]ledger.LocationID{}))

	lots, more, _, err := p.q.ListLots(t.Context(), p.id, "amox", "", 10, ReadOptions{})
	if err != nil || more {
		t.Fatal(err, more)
	}
	differ(t, "lots of amoxicillin", want.Lots[:3], lots)
	lots, more, _, err = p.q.ListLots(t.Context(), p.id, "gold", "", 10, ReadOptions{})
	if err != nil || more || len(lots) != 0 {
		t.Errorf("lots of an unknown medicine are %+v, %v", lots, err)
	}
}

func TestListMedicinesByName(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	q := NewQueries(NewDirectory(c.e.db))
	names := []string{"ÉPINÉPHRINE", "Dextrose 5% in water", "trial_arm", `back\slash`, "Ωmega-3", "ибупрофен"}
	for _, name := range names {
		c.must(&ledger.AddMedicine{Name: name, BaseUnit: "ml"})
	}
	for contains, want := range map[string][]string{
		"zin": {"Zinc"}, "ZINC": {"Zinc"}, "gold": {}, "IN": {"Zinc", "Dextrose 5% in water", "ÉPINÉPHRINE"},
		"%": {"Dextrose 5% in water"}, "_": {"trial_arm"}, `\`: {`back\slash`}, `\\`: {}, "%_": {},
		// Case is no matter of ASCII.
		"épiné": {"ÉPINÉPHRINE"}, "ÉPINÉPHRINE": {"ÉPINÉPHRINE"}, "ωMEGA": {"Ωmega-3"}, "ИБУ": {"ибупрофен"},
		"": append([]string{"Zinc"}, names...),
	} {
		got, more, _, err := q.ListMedicines(t.Context(), c.id, contains, "", 100, ReadOptions{})
		if err != nil || more {
			t.Fatalf("%q: %v, %v", contains, more, err)
		}
		var found []string
		for _, m := range got {
			found = append(found, m.Name)
		}
		slices.Sort(found)
		slices.Sort(want)
		differ(t, fmt.Sprintf("medicines with %q", contains), want, found)
	}
}

// TestListMedicinesByNameOverChunks looks for few names among many.
func TestListMedicinesByNameOverChunks(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	q := NewQueries(NewDirectory(c.e.db))
	var bodies []ledger.CommandBody
	for i := range 2500 {
		name := fmt.Sprintf("Common %d", i)
		if i%1200 == 7 {
			name = fmt.Sprintf("Rare %d", i)
		}
		bodies = append(bodies, &ledger.AddMedicine{MedicineID: ledger.MedicineID(fmt.Sprintf("m%04d", i)), Name: name, BaseUnit: "ml"})
	}
	c.mustAll(bodies...)
	for limit := 1; limit <= 4; limit++ {
		var found []ledger.MedicineID
		for after, more := ledger.MedicineID(""), true; more; {
			rows, again, _, err := q.ListMedicines(t.Context(), c.id, "rare", after, limit, ReadOptions{})
			if err != nil || len(rows) == 0 || again && len(rows) != limit {
				t.Fatalf("limit %d after %q: %d rows, %v", limit, after, len(rows), err)
			}
			for _, m := range rows {
				found = append(found, m.ID)
			}
			if len(found) > 100 {
				t.Fatalf("by %d the list does not end", limit)
			}
			after, more = rows[len(rows)-1].ID, again
		}
		differ(t, fmt.Sprintf("by %d", limit), []ledger.MedicineID{"m0007", "m1207", "m2407"}, found)
	}
}

func TestStockOnShelf(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	read := func(s ledger.Shelf) StockOnShelf {
		t.Helper()
		stock, asOf, err := p.q.Stock(t.Context(), p.id, s, ReadOptions{})
		if err != nil || asOf.Sequence != p.last.Event.Sequence {
			t.Fatalf("stock as of %+v: %v", asOf, err)
		}
		return stock
	}
	var stored []ledger.Stock
	for _, lot := range []ledger.LotID{"A1", "A3", "A2"} { // first expired, then first received
		for _, row := range p.stored().Stock {
			if row.Lot == lot && row.Location == "store" {
				stored = append(stored, row)
			}
		}
	}
	june := day(t, "2027-06-30")
	want := StockOnShelf{
		Rows: []StockRow{
			{Stock: stored[0], LotNumber: "N-A1", Expiry: day(t, "2027-03-10"), LotActive: true},
			{Stock: stored[1], LotNumber: "N-A3", Expiry: june, LotActive: true},
			{Stock: stored[2], LotNumber: "N-A2", Expiry: june, LotActive: true},
		},
		Totals: ledger.Balances{Available: 27, Reserved: 31}, Usable: 27,
	}
	differ(t, "amoxicillin", want, read(shelf("store", "amox")))

	// Midnight in Nairobi is nine in the evening by UTC.
	p.clock.set(time.Date(2027, 3, 10, 20, 59, 59, 0, time.UTC))
	differ(t, "a second before midnight", want, read(shelf("store", "amox")))
	p.clock.set(time.Date(2027, 3, 10, 21, 0, 0, 0, time.UTC))
	want.Rows[0].Expired, want.Usable = true, 20
	differ(t, "at midnight", want, read(shelf("store", "amox")))

	differ(t, "a shelf that never held anything", StockOnShelf{}, read(shelf("attic", "amox")))
}

// A command is never judged before the head's time, so neither is what can be
// reserved.
func TestClockBehindTheHead(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.clock.set(noon.Add(48 * time.Hour))
	p.receive(1)
	p.clock.set(noon)
	stock, asOf, err := p.q.Stock(t.Context(), p.id, shelf("store", "amox"), ReadOptions{})
	if err != nil || asOf.Time != ledger.InstantOf(noon.Add(48*time.Hour)) {
		t.Fatalf("as of %+v: %v", asOf, err)
	}
	if !stock.Rows[0].Expired || stock.Usable != 20 {
		t.Errorf("two days later %d units are usable, of %+v", stock.Usable, stock.Rows)
	}
	holds, _, _, err := p.q.Holds(t.Context(), p.id, HoldFilter{}, HoldKey{}, 10, ReadOptions{})
	if err != nil || len(holds) != 1 || !holds[0].Overdue {
		t.Errorf("two days later the holds are %+v, %v", holds, err)
	}
	// With what the overdue hold gives back there are 45 units that last, and
	// 13 that do not.
	p.rejected(p.give(p.command(&ledger.ReserveStock{
		LocationID: "store", MedicineID: "amox", Quantity: 46, ReasonCode: "ward-round", Deadline: ledger.InstantOf(noon.Add(72 * time.Hour)),
	})), ledger.ReasonInsufficientStock)
}

// What cannot be reached by the commands of today: a lot is barred while there
// is stock of it.
func TestUsableUnits(t *testing.T) {
	t.Parallel()
	row := func(change func(*StockRow)) *StockRow {
		r := &StockRow{Stock: ledger.Stock{Balances: ledger.Balances{Available: 5, Reserved: 2, Quarantined: 1}}, Expiry: 100, LotActive: true}
		change(r)
		return r
	}
	for name, test := range map[string]struct {
		row        *StockRow
		lastsUntil ledger.Date
		want       int64
	}{
		"a good lot":              {row(func(*StockRow) {}), 0, 5},
		"lasts just long enough":  {row(func(*StockRow) {}), 100, 5},
		"does not last":           {row(func(*StockRow) {}), 101, 0},
		"an expired lot":          {row(func(r *StockRow) { r.Expired = true }), 0, 0},
		"a lot that is barred":    {row(func(r *StockRow) { r.LotActive = false }), 0, 0},
		"a lot with nothing left": {row(func(r *StockRow) { r.Available = 0 }), 0, 0},
	} {
		if got := test.row.usable(test.lastsUntil); got != test.want {
			t.Errorf("%s: %d units are usable, want %d", name, got, test.want)
		}
	}
}

func TestListStock(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	for name, test := range map[string]struct {
		filter StockFilter
		want   []string
	}{
		"all":                   {StockFilter{}, []string{"store amox A1", "store amox A2", "store amox A3", "store zinc L1", "ward amox A2"}},
		"of a location":         {StockFilter{Location: "ward"}, []string{"ward amox A2"}},
		"of a medicine":         {StockFilter{Medicine: "amox"}, []string{"store amox A1", "store amox A2", "store amox A3", "ward amox A2"}},
		"of both":               {StockFilter{Location: "store", Medicine: "zinc"}, []string{"store zinc L1"}},
		"of unknown ones":       {StockFilter{Location: "cellar"}, nil},
		"for a limited caller":  {StockFilter{Locations: []ledger.LocationID{"ward", "cellar"}}, []string{"ward amox A2"}},
		"limited, and a filter": {StockFilter{Medicine: "zinc", Locations: []ledger.LocationID{"ward"}}, nil},
		"limited, elsewhere":    {StockFilter{Location: "store", Locations: []ledger.LocationID{"ward"}}, nil},
		"limited to nothing":    {StockFilter{Locations: []ledger.LocationID{}}, nil},
	} {
		for limit := 1; limit <= 6; limit++ {
			var got []string
			for after, more := (StockKey{}), true; more; {
				rows, again, asOf, err := p.q.ListStock(t.Context(), p.id, test.filter, after, limit, ReadOptions{})
				if err != nil || asOf.Sequence != p.last.Event.Sequence || again && len(rows) != limit {
					t.Fatalf("%s by %d: %d rows as of %+v, %v", name, limit, len(rows), asOf, err)
				}
				for _, row := range rows {
					got = append(got, fmt.Sprintf("%s %s %s", row.Location, row.Medicine, row.Lot))
					after = StockKey{Shelf: row.Shelf, Lot: row.Lot}
				}
				if len(got) > 100 {
					t.Fatalf("stock %s by %d does not end", name, limit)
				}
				more = again
			}
			differ(t, fmt.Sprintf("stock %s by %d", name, limit), test.want, got)
		}
	}
}

func TestAvailabilityOfManyMedicines(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	june := day(t, "2027-06-30")
	both := []ledger.MedicineID{"amox", "zinc"}
	store := Availability{Shelf: shelf("store", "amox"), Usable: 27, Reserved: 31, OnHand: 58, EarliestExpiry: day(t, "2027-03-10")}
	ward := Availability{Shelf: shelf("ward", "amox"), Usable: 3, OnHand: 3, EarliestExpiry: june}
	zinc := Availability{Shelf: shelf("store", "zinc"), Usable: 98, OnHand: 98, EarliestExpiry: ledger.MaxDate}
	later := store
	later.Usable, later.EarliestExpiry = 20, june
	never := store
	never.Usable, never.EarliestExpiry = 0, 0
	gone := ward
	gone.Usable, gone.EarliestExpiry = 0, 0
	for name, test := range map[string]struct {
		medicines  []ledger.MedicineID
		locations  []ledger.LocationID
		lastsUntil ledger.Date
		want       []Availability
	}{
		"everywhere":            {both, nil, 0, []Availability{store, zinc, ward}},
		"at the ward":           {both, []ledger.LocationID{"ward", "attic"}, 0, []Availability{ward}},
		"one medicine":          {both[1:], nil, 0, []Availability{zinc}},
		"that lasts a day more": {both[:1], nil, day(t, "2027-03-11"), []Availability{later, ward}},
		"that lasts till June":  {both[:1], nil, june, []Availability{later, ward}},
		"that lasts longer":     {both, nil, june + 1, []Availability{never, zinc, gone}},
		"named twice":           {[]ledger.MedicineID{"amox", "amox"}, []ledger.LocationID{"ward", "ward"}, 0, []Availability{ward}},
		"no medicines":          {nil, nil, 0, nil},
	} {
		got, asOf, err := p.q.Availability(t.Context(), p.id, test.medicines, test.locations, test.lastsUntil, ReadOptions{Consistency: Cached})
		if err != nil || asOf.Sequence != p.last.Event.Sequence {
			t.Fatalf("%s: as of %+v, %v", name, asOf, err)
		}
		differ(t, name, test.want, got)
	}
	p.must(&ledger.IssueStock{LocationID: "ward", MedicineID: "amox", Quantity: 3})
	got, _, err := p.q.Availability(t.Context(), p.id, both, []ledger.LocationID{"ward"}, 0, ReadOptions{})
	if err != nil || len(got) != 0 {
		t.Errorf("of what is not on hand there is %+v, %v", got, err)
	}
}

func TestMovementsAreTheEntries(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	all := p.entries()
	if len(all) != 18 {
		t.Fatalf("the fixture has %d entries", len(all))
	}
	for name, filter := range map[string]MovementFilter{
		"all":                  {},
		"from":                 {From: 13},
		"from and to":          {From: 13, To: 17},
		"a lot":                {Lot: "A2"},
		"a location":           {Locations: []ledger.LocationID{"ward"}},
		"limited to nothing":   {Locations: []ledger.LocationID{}},
		"stock card":           {Shelf: shelf("store", "amox")},
		"part of a stock card": {Shelf: shelf("store", "amox"), From: 13, To: 17, Lot: "A1"},
		"another stock card":   {Shelf: shelf("ward", "amox"), Locations: []ledger.LocationID{"ward"}},
		"a forbidden card":     {Shelf: shelf("store", "amox"), Locations: []ledger.LocationID{"ward"}},
		"an empty card":        {Shelf: shelf("attic", "zinc")},
	} {
		var want []ledger.Entry
		for _, e := range all {
			of := filter.Location == "" || e.Location == filter.Location && e.Medicine == filter.Medicine
			within := e.Sequence >= filter.From && (filter.To == 0 || e.Sequence <= filter.To)
			if of && within && filter.shows(&e) {
				want = append(want, e)
			}
		}
		for _, newest := range []bool{false, true} {
			filter.NewestFirst = newest
			if newest {
				slices.Reverse(want)
			}
			for _, limit := range []int{1, 2, 3, 7, 100} {
				differ(t, fmt.Sprintf("%s by %d, newest first %v", name, limit, newest), want, p.movements(filter, limit))
			}
		}
	}
}

// movements reads all pages of a list.
func (p *pharmacy) movements(filter MovementFilter, limit int) []ledger.Entry {
	p.tb.Helper()
	var entries []ledger.Entry
	for after, more := (*MovementKey)(nil), true; more; {
		movements, next, asOf, err := p.q.Movements(context.Background(), p.id, filter, after, limit, ReadOptions{})
		if err != nil || asOf.Sequence != p.last.Event.Sequence || next != nil && len(movements) != limit {
			p.tb.Fatalf("after %+v: %d movements as of %+v, %v", after, len(movements), asOf, err)
		}
		for _, m := range movements {
			entries = append(entries, m.Entry)
		}
		if len(entries) > 10_000 {
			p.tb.Fatalf("the list of %+v by %d does not end", filter, limit)
		}
		after, more = next, next != nil
	}
	return entries
}

func TestMovementsTellWhoAndWhy(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.must(&ledger.UpdateClinic{BackdatingDays: ptr(int64(3))})
	command := p.command(&ledger.AdjustStock{LocationID: "store", LotID: "L1", Direction: ledger.Increase, Quantity: 1, ReasonCode: "found"})
	command.Actor, command.OccurredAt = "night shift", ledger.InstantOf(noon.Add(-24*time.Hour))
	if v := p.give(command); v.Err != nil {
		t.Fatal(v.Err)
	}
	p.mustAll(
		&ledger.WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 1, ReasonCode: "broken", Reference: "C-1"},
		&ledger.ReturnToSupplier{LocationID: "store", LotID: "L1", Quantity: 1, ReasonCode: "surplus", Supplier: "Acme", Reference: "R-1"},
	)
	start, end := ledger.InstantOf(noon), ledger.InstantOf(noon.Add(2*time.Hour))
	type facts struct {
		recorded, occurred ledger.Instant
		actor              ledger.Actor
		kind               ledger.Kind
		reason, reference  string
		hold               ledger.HoldID
		debit, credit      ledger.Bucket
	}
	want := []facts{
		{start, start, "tester", ledger.KindReceiveStock, "", "DN-L1", "", ledger.Available, ledger.Supplier},
		{start, start, "tester", ledger.KindReserveStock, "ward-round", "", p.released, ledger.Reserved, ledger.Available},
		{start, start, "tester", ledger.KindReleaseStock, "not-needed", "", p.released, ledger.Available, ledger.Reserved},
		{start, start, "tester", ledger.KindReserveStock, "ward-round", "", p.issued, ledger.Reserved, ledger.Available},
		{start, start, "tester", ledger.KindIssueStock, "", "", p.issued, ledger.Issued, ledger.Reserved},
		{start, start, "tester", ledger.KindReserveStock, "ward-round", "", p.expired, ledger.Reserved, ledger.Available},
		{end, end, "tester", ledger.KindExpireReservation, "", "", p.expired, ledger.Available, ledger.Reserved},
		{end, command.OccurredAt, "night shift", ledger.KindAdjustStock, "found", "", "", ledger.Available, ledger.Adjustment},
		{end, end, "tester", ledger.KindWriteOffStock, "broken", "C-1", "", ledger.Wasted, ledger.Available},
		{end, end, "tester", ledger.KindReturnToSupplier, "surplus", "R-1", "", ledger.Supplier, ledger.Available},
	}
	for name, filter := range map[string]MovementFilter{"stock card": {Shelf: shelf("store", "zinc")}, "journal": {Lot: "L1"}} {
		movements, _, _, err := p.q.Movements(t.Context(), p.id, filter, nil, 100, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []facts
		for _, m := range movements {
			got = append(got, facts{m.RecordedAt, m.OccurredAt, m.Actor, m.Kind, m.ReasonCode, m.Reference, m.HoldID, m.Debit, m.Credit})
		}
		if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(facts{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	recipient, _, _, err := p.q.Movements(t.Context(), p.id, MovementFilter{Lot: "A1", From: 17, To: 17}, nil, 10, ReadOptions{})
	if err != nil || len(recipient) != 1 || recipient[0].Reference != "bed-3" || recipient[0].HoldID != p.open || recipient[0].ReasonCode != "ward-round" {
		t.Errorf("the issue is %+v, %v", recipient, err)
	}
}

func ptr[T any](v T) *T { return &v }

// TestMovementsOverChunks reads a journal that takes several reads, the last of
// which is exactly full.
func TestMovementsOverChunks(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	p := &pharmacy{testClinic: c, q: NewQueries(NewDirectory(c.e.db))}
	c.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 7})
	c.mustAll(slices.Repeat([]ledger.CommandBody{&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1}}, 2*movementChunk-1)...)
	p.last.Event.Sequence = ledger.Sequence(5 + 2*movementChunk)
	want := c.entries()
	if len(want) != 2*movementChunk {
		t.Fatalf("there are %d entries", len(want))
	}
	for _, newest := range []bool{false, true} {
		// Pages that end within a chunk, with it, and in the one after it.
		for _, limit := range []int{701, movementChunk, 1500} {
			differ(t, fmt.Sprintf("newest first %v by %d", newest, limit), want, p.movements(MovementFilter{NewestFirst: newest}, limit))
		}
		slices.Reverse(want)
		rare, next, _, err := p.q.Movements(t.Context(), c.id, MovementFilter{NewestFirst: newest, Locations: []ledger.LocationID{"ward"}}, nil, 5, ReadOptions{})
		if err != nil || next != nil || len(rare) != 1 || rare[0].Quantity != 7 {
			t.Errorf("newest first %v: the ward's movements are %+v, then %+v, %v", newest, rare, next, err)
		}
	}
}

// A stock card must not bring the process down because an entry names a line
// that its command does not have.
func TestMovementsOfABrokenEntry(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(5)
	t.Cleanup(func() { wipe(t, c.e.db, c.id) })
	if _, err := c.e.db.write.Exec(t.Context(), `UPDATE entries SET line = 3 WHERE clinic_id = $1`, c.id); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := NewQueries(NewDirectory(c.e.db)).Movements(t.Context(), c.id, MovementFilter{Shelf: shelf("store", "zinc")}, nil, 10, ReadOptions{})
	if err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error is %v", err)
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	status := map[ledger.HoldID]ledger.HoldStatus{
		p.open: ledger.HoldOpen, p.released: ledger.HoldReleased, p.issued: ledger.HoldIssued, p.expired: ledger.HoldExpired,
	}
	open, zinc := []ledger.HoldID{p.open}, []ledger.HoldID{p.released, p.issued, p.expired}
	for name, test := range map[string]struct {
		filter HoldFilter
		want   []ledger.HoldID
	}{
		"open":                 {HoldFilter{}, open},
		"all":                  {HoldFilter{IncludeClosed: true}, append(open[:1:1], zinc...)},
		"of a location":        {HoldFilter{Shelf: shelf("store", ""), IncludeClosed: true}, append(open[:1:1], zinc...)},
		"of another location":  {HoldFilter{Shelf: shelf("ward", ""), IncludeClosed: true}, nil},
		"open ones of a shelf": {HoldFilter{Shelf: shelf("store", "zinc")}, nil},
		"all of a shelf":       {HoldFilter{Shelf: shelf("store", "zinc"), IncludeClosed: true}, zinc},
		"limited":              {HoldFilter{IncludeClosed: true, Locations: []ledger.LocationID{"ward"}}, nil},
		"limited to the store": {HoldFilter{Locations: []ledger.LocationID{"ward", "store"}}, open},
		"limited to nothing":   {HoldFilter{IncludeClosed: true, Locations: []ledger.LocationID{}}, nil},
	} {
		for limit := 1; limit <= 5; limit++ {
			var got []ledger.HoldID
			for after, more := (HoldKey{}), true; more; {
				holds, again, asOf, err := p.q.Holds(t.Context(), p.id, test.filter, after, limit, ReadOptions{})
				if err != nil || asOf.Sequence != p.last.Event.Sequence || again && len(holds) != limit {
					t.Fatalf("%s by %d: %d holds as of %+v, %v", name, limit, len(holds), asOf, err)
				}
				for _, h := range holds {
					if h.Status != status[h.ID] || h.Overdue {
						t.Errorf("%s: hold %+v", name, h)
					}
					got = append(got, h.ID)
					after = HoldKey{Shelf: h.Shelf, Hold: h.ID}
				}
				if len(got) > 100 {
					t.Fatalf("holds %s by %d do not end", name, limit)
				}
				more = again
			}
			differ(t, fmt.Sprintf("holds %s by %d", name, limit), test.want, got)
		}
	}
	first := func() HoldRow {
		t.Helper()
		holds, _, _, err := p.q.Holds(t.Context(), p.id, HoldFilter{}, HoldKey{}, 1, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return holds[0]
	}
	differ(t, "the open hold", HoldRow{Hold: p.stored().Holds[0]}, first())
	p.clock.set(noon.Add(24 * time.Hour))
	if first().Overdue {
		t.Error("a hold is overdue at its deadline")
	}
	p.clock.set(noon.Add(24*time.Hour + time.Microsecond))
	if !first().Overdue {
		t.Error("a hold is not overdue after its deadline")
	}
}

// everyQuery calls each query of one clinic once, with ids that the pharmacy
// has.
func everyQuery(ctx context.Context, q *Queries, clinic ledger.ClinicID, o ReadOptions) map[string]func() (AsOf, error) {
	return map[string]func() (AsOf, error){
		"Clinic":    func() (AsOf, error) { _, at, err := q.Clinic(ctx, clinic, o); return at, err },
		"Location":  func() (AsOf, error) { _, at, err := q.Location(ctx, clinic, "store", o); return at, err },
		"Medicine":  func() (AsOf, error) { _, at, err := q.Medicine(ctx, clinic, "zinc", o); return at, err },
		"Lot":       func() (AsOf, error) { _, at, err := q.Lot(ctx, clinic, "L1", o); return at, err },
		"Locations": func() (AsOf, error) { _, _, at, err := q.ListLocations(ctx, clinic, nil, "", 9, o); return at, err },
		"Medicines": func() (AsOf, error) { _, _, at, err := q.ListMedicines(ctx, clinic, "z", "", 9, o); return at, err },
		"Lots":      func() (AsOf, error) { _, _, at, err := q.ListLots(ctx, clinic, "zinc", "", 9, o); return at, err },
		"Stock":     func() (AsOf, error) { _, at, err := q.Stock(ctx, clinic, shelf("store", "zinc"), o); return at, err },
		"ListStock": func() (AsOf, error) {
			_, _, at, err := q.ListStock(ctx, clinic, StockFilter{Medicine: "zinc"}, StockKey{}, 9, o)
			return at, err
		},
		"Availability": func() (AsOf, error) {
			_, at, err := q.Availability(ctx, clinic, []ledger.MedicineID{"zinc"}, nil, 0, o)
			return at, err
		},
		"Movements": func() (AsOf, error) {
			_, _, at, err := q.Movements(ctx, clinic, MovementFilter{}, nil, 9, o)
			return at, err
		},
		"Holds": func() (AsOf, error) {
			_, _, at, err := q.Holds(ctx, clinic, HoldFilter{}, HoldKey{}, 9, o)
			return at, err
		},
	}
}

func TestReadOptions(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	last := p.last.Event.Sequence
	for _, consistency := range []Consistency{Strong, Bounded, Cached} {
		reached := ReadOptions{Consistency: consistency, MaxStaleness: time.Minute, MinSequence: last}
		for name, query := range everyQuery(t.Context(), p.q, p.id, reached) {
			if asOf, err := query(); err != nil || asOf.Sequence != last {
				t.Errorf("%s with consistency %d: as of %+v, %v", name, consistency, asOf, err)
			}
		}
		ahead := reached
		ahead.MinSequence++
		for name, query := range everyQuery(t.Context(), p.q, p.id, ahead) {
			var notReached *SequenceNotReachedError
			if _, err := query(); !errors.As(err, &notReached) || *notReached != (SequenceNotReachedError{Want: last + 1, Have: last}) {
				t.Errorf("%s with consistency %d ahead of the journal: %v", name, consistency, err)
			}
		}
	}
}

func TestQueriesOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	other := newTestClinic(t, p.e)
	ctx, none := t.Context(), ReadOptions{}
	refused := func(name string, err error, reason ledger.Reason, id string) {
		t.Helper()
		var r *ledger.Rejection
		if !errors.As(err, &r) || r.Reason != reason || r.Field == "" || r.Metadata[r.Field] != id || !strings.Contains(r.Message, id) {
			t.Errorf("%s: error is %#v, want %s of %s", name, err, reason, id)
		}
	}
	for name, query := range everyQuery(ctx, p.q, "nobody", none) {
		_, err := query()
		refused(name, err, ledger.ReasonClinicNotFound, "nobody")
	}
	// The other clinic has neither the attic nor amoxicillin.
	q, id := p.q, other.id
	_, _, err := q.Location(ctx, id, "attic", none)
	refused("Location", err, ledger.ReasonLocationNotFound, "attic")
	_, _, err = q.Medicine(ctx, id, "amox", none)
	refused("Medicine", err, ledger.ReasonMedicineNotFound, "amox")
	_, _, err = q.Lot(ctx, id, "A1", none)
	refused("Lot", err, ledger.ReasonLotNotFound, "A1")
	_, _, err = q.Stock(ctx, id, shelf("attic", "zinc"), none)
	refused("Stock of a location", err, ledger.ReasonLocationNotFound, "attic")
	_, _, err = q.Stock(ctx, id, shelf("store", "amox"), none)
	refused("Stock of a medicine", err, ledger.ReasonMedicineNotFound, "amox")
	_, _, err = q.Availability(ctx, id, []ledger.MedicineID{"zinc", "amox"}, nil, 0, none)
	refused("Availability of a medicine", err, ledger.ReasonMedicineNotFound, "amox")
	_, _, err = q.Availability(ctx, id, []ledger.MedicineID{"zinc"}, []ledger.LocationID{"store", "attic"}, 0, none)
	refused("Availability at a location", err, ledger.ReasonLocationNotFound, "attic")
	_, _, _, err = q.Movements(ctx, id, MovementFilter{Shelf: shelf("store", "amox")}, nil, 9, none)
	refused("Movements of a medicine", err, ledger.ReasonMedicineNotFound, "amox")
	_, _, _, err = q.Movements(ctx, id, MovementFilter{Shelf: shelf("attic", "zinc")}, nil, 9, none)
	refused("Movements at a location", err, ledger.ReasonLocationNotFound, "attic")
}

// TestAnswersAreOfOneMoment reads a clinic of which every command adds one
// unit: how many there are follows from as_of.
func TestAnswersAreOfOneMoment(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	q := NewQueries(NewDirectory(c.e.db))
	done := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				c.receive(1)
			}
		}
	})
	defer func() { close(done); load.Wait() }()
	for grew, last := 0, ledger.Sequence(0); grew < 20; {
		stock, at, err := q.Stock(t.Context(), c.id, shelf("store", "zinc"), ReadOptions{})
		if err != nil || stock.Totals.Available != int64(at.Sequence)-5 {
			t.Fatalf("as of %d there are %d units, %v", at.Sequence, stock.Totals.Available, err)
		}
		for _, s := range []ledger.Shelf{{}, shelf("store", "zinc")} {
			if s.Location != "" && at.Sequence < 6 {
				continue
			}
			movements, _, at, err := q.Movements(t.Context(), c.id, MovementFilter{Shelf: s, NewestFirst: true}, nil, 1, ReadOptions{})
			if err != nil || len(movements) > 0 && movements[0].Sequence != at.Sequence {
				t.Fatalf("as of %d the last movement is %+v, %v", at.Sequence, movements, err)
			}
		}
		if at.Sequence > last {
			grew, last = grew+1, at.Sequence
		}
	}
}

// TestARepeatedReadForgetsTheFirst loses the end of a transaction, and has the
// only hold closed before the next attempt.
func TestARepeatedReadForgetsTheFirst(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	db, _, read := traced(t)
	var once sync.Once
	read.before = func(conn *pgx.Conn, sql string) {
		if !strings.EqualFold(sql, "commit") {
			return
		}
		once.Do(func() {
			p.last = p.must(&ledger.IssueStock{HoldID: p.open})
			if err := conn.PgConn().Conn().Close(); err != nil {
				t.Errorf("cut the connection: %v", err)
			}
		})
	}
	q := &Queries{directory: NewDirectory(db), Clock: p.clock.read}
	holds, more, asOf, err := q.Holds(t.Context(), p.id, HoldFilter{}, HoldKey{}, 1, ReadOptions{})
	if err != nil || asOf.Sequence != p.last.Event.Sequence {
		t.Fatalf("as of %+v, %v; the hold was closed by %d", asOf, err, p.last.Event.Sequence)
	}
	if len(holds) != 0 || more {
		t.Errorf("holds that are closed are listed: %+v, more %v", holds, more)
	}
}
