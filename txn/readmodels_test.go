package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

// modelled is a node whose read models move only when they are told to.
func modelled(tb testing.TB, cfg ExecutorConfig) (*Executor, *ReadModels) {
	tb.Helper()
	db := testDB(tb)
	models := NewReadModels(db, ReadModelsConfig{})
	cfg.ReadModels = models
	return testExecutor(tb, cfg), models
}

// moveUp moves the models of a clinic up to its head.
func (m *ReadModels) moveUp(tb testing.TB, clinic ledger.ClinicID) {
	tb.Helper()
	if err := m.moveAll(context.Background(), map[ledger.ClinicID]*backlog{clinic: {lost: true}}); err != nil {
		tb.Fatal(err)
	}
}

// modelsAt is how far the models of a clinic are.
func (c *testClinic) modelsAt() Place {
	var at AsOf
	err := c.e.db.readTx(context.Background(), func(tx pgx.Tx) (err error) {
		at, err = (&view{tx: tx, id: c.id}).modelsAsOf(context.Background())
		return err
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	return Place{at.Epoch, at.Sequence}
}

func (c *testClinic) headPlace() Place {
	head := c.head()
	return Place{head.Epoch, head.Sequence}
}

// checkModels compares the models with what can be learnt without them.
func (c *testClinic) checkModels() {
	c.tb.Helper()
	ctx, q := c.tb.Context(), NewQueries(NewDirectory(c.e.db))
	q.Clock = c.e.cfg.Clock
	sums := make(map[ledger.Shelf]StockSummary)
	for _, row := range c.stored().Stock {
		sum := sums[row.Shelf]
		sum.Shelf = row.Shelf
		sum.Available += row.Available
		sum.Reserved += row.Reserved
		sum.Pending += row.Pending
		sum.Quarantined += row.Quarantined
		sum.InTransit += row.InTransit
		if row.OnHand() > 0 {
			sum.Lots++
		}
		sums[row.Shelf] = sum
	}
	levels, _, _, err := q.Documents(ctx, c.id, DocumentFilter{Kind: ledger.DocumentLevel}, nil, 1000, ReadOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	for _, d := range levels {
		level := d.Body.(*ledger.Level)
		sum := sums[level.Shelf]
		sum.Shelf, sum.Min, sum.Max, sum.Reorder = level.Shelf, level.Min, level.Max, level.Reorder
		sums[level.Shelf] = sum
	}
	rows, _, asOf, err := q.StockSummaries(ctx, c.id, SummaryFilter{}, ledger.Shelf{}, 1000, ReadOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	if head := c.headPlace(); asOf.Epoch != head.Epoch || asOf.Sequence != head.Sequence {
		c.tb.Fatalf("the models are at %+v, and the head at %+v", asOf, head)
	}
	for _, row := range rows {
		want := sums[row.Shelf]
		delete(sums, row.Shelf)
		low := want.Min+want.Max+want.Reorder > 0 && (want.Available <= want.Reorder || want.Available < want.Min)
		if low != (row.LowSequence > 0) || low != (row.LowSince > 0) || (row.OutSince > 0) != (row.Available == 0) {
			c.tb.Errorf("%+v is low: %v", row, low)
		}
		want.MovedAt, want.OutSince, want.LowSince, want.LowSequence = row.MovedAt, row.OutSince, row.LowSince, row.LowSequence
		if row != want {
			c.tb.Errorf("the summary is %+v, want %+v", row, want)
		}
	}
	for shelf, sum := range sums {
		if sum.OnHand() > 0 {
			c.tb.Errorf("the summary lacks %+v: %+v", shelf, sum)
		}
	}
	if want, got := c.usedByEntries(), c.usedByModel(); !reflect.DeepEqual(got, want) {
		c.tb.Errorf("used is %v, want %v", got, want)
	}
	scanned, _, err := q.DispensingReport(ctx, c.id, DispensingFilter{}, ReadOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	kept, _, err := q.DispensingReport(ctx, c.id, DispensingFilter{}, ReadOptions{Consistency: Bounded, MaxStaleness: time.Hour, MinSequence: asOf.Sequence})
	if err != nil || !reflect.DeepEqual(kept, scanned) {
		c.tb.Errorf("the report is %+v, %v; want %+v", kept, err, scanned)
	}
	c.verify()
}

const (
	sumEntries = `SELECT location_id || '/' || medicine_id,
		sum(CASE WHEN debit IN (17, 18) THEN quantity ELSE 0 END - CASE WHEN credit IN (17, 18) THEN quantity ELSE 0 END)::INT8
		FROM entries WHERE clinic_id = $1 GROUP BY 1`
	sumConsumption = `SELECT location_id || '/' || medicine_id, sum(used)::INT8 FROM consumption_months WHERE clinic_id = $1 GROUP BY 1`
)

func (c *testClinic) usedByEntries() map[string]int64 { return c.sums(sumEntries) }
func (c *testClinic) usedByModel() map[string]int64   { return c.sums(sumConsumption) }

// sums reads sums that are not zero.
func (c *testClinic) sums(sql string) map[string]int64 {
	sums := make(map[string]int64)
	err := c.e.db.readTx(context.Background(), func(tx pgx.Tx) error {
		clear(sums)
		s := selectFrom(sql)
		s.args = []any{c.id}
		_, err := collect(context.Background(), tx, s, func(rows pgx.Rows, _ *struct{}) error {
			var shelf string
			var sum int64
			err := rows.Scan(&shelf, &sum)
			if sum != 0 {
				sums[shelf] = sum
			}
			return err
		})
		return err
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	return sums
}

// Whatever is done, by two nodes at once, and however the models move, node by
// node and with a node that starts late: they come to what the journal says.
func TestReadModelsFollowTheJournal(t *testing.T) {
	t.Parallel()
	a, modelsA := modelled(t, ExecutorConfig{})
	b, modelsB := modelled(t, ExecutorConfig{})
	c := newTestClinic(t, a)
	c.mustAll(
		&ledger.AddMedicine{MedicineID: "amox", Name: "Amoxicillin", BaseUnit: "capsule"},
		&ledger.RegisterLot{LotID: "A1", MedicineID: "amox", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate},
		&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: ledger.MaxDate},
		&ledger.SetPrice{MedicineID: "zinc", Price: ledger.Price{From: 1, Amount: 25, Per: 10, Currency: "KES"}},
		&ledger.SetPrice{MedicineID: "amox", Price: ledger.Price{From: 1, Amount: 7, Per: 1, Currency: "UGX"}},
	)
	modelsA.moveUp(t, c.id)
	var walking sync.WaitGroup
	for i, e := range []*Executor{a, b} {
		walker := &modelWalker{c: &testClinic{tb: t, e: e, id: c.id, keys: (i + 1) * 100_000}, random: rand.New(rand.NewPCG(7, uint64(i)))}
		walking.Go(func() {
			for range 250 {
				walker.step()
			}
		})
	}
	done := make(chan struct{})
	var moving sync.WaitGroup
	for _, models := range []*ReadModels{modelsA, modelsB} {
		moving.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := models.moveBacklogs(t.Context()); err != nil {
					t.Errorf("move: %v", err)
				}
			}
		})
	}
	walking.Wait()
	close(done)
	moving.Wait()
	NewReadModels(c.e.db, ReadModelsConfig{}).moveUp(t, c.id)
	c.checkModels()
	if len(c.usedByModel()) < 3 {
		t.Errorf("little was used: %v", c.usedByModel())
	}
}

// modelWalker does what moves the models, at random.
type modelWalker struct {
	c           *testClinic
	random      *rand.Rand
	dispensings []ledger.DispensingID
}

func (w *modelWalker) step() {
	location := []ledger.LocationID{"store", "ward"}[w.random.IntN(2)]
	lot := []ledger.LotID{"L1", "L2", "A1"}[w.random.IntN(3)]
	medicine := ledger.MedicineID("zinc")
	if lot == "A1" {
		medicine = "amox"
	}
	n := 1 + w.random.Int64N(20)
	var body ledger.CommandBody
	switch w.random.IntN(14) {
	case 0, 1, 2:
		body = &ledger.ReceiveStock{LocationID: location, LotID: lot, Quantity: 2 * n}
	case 3:
		body = &ledger.IssueStock{LocationID: location, MedicineID: medicine, Quantity: n}
	case 4, 5:
		body = &ledger.DispenseMedicine{Dispense: ledger.Dispense{LocationID: location, MedicineID: medicine, Quantity: n}}
	case 6:
		body = &ledger.PrepareDispensing{
			Dispense: ledger.Dispense{LocationID: location, MedicineID: medicine, Quantity: n}, CollectBy: ledger.InstantOf(time.Now().Add(time.Hour)),
		}
	case 7:
		if len(w.dispensings) > 0 {
			body = &ledger.CancelDispensing{DispensingID: w.dispensings[w.random.IntN(len(w.dispensings))], ReasonCode: "mistake", NeverLeftCustody: n%2 == 0}
		}
	case 8:
		if len(w.dispensings) > 0 {
			body = &ledger.ReturnFromPatient{
				DispensingID: w.dispensings[w.random.IntN(len(w.dispensings))], ReasonCode: "unused", Destroy: n%2 == 0, Lines: []ledger.LotLine{{LotID: lot, Quantity: 1}},
			}
		}
	case 9:
		if len(w.dispensings) > 0 {
			id := w.dispensings[w.random.IntN(len(w.dispensings))]
			w.c.give(w.c.command(&ledger.CheckDispensing{DispensingID: id}))
			body = &ledger.HandOver{DispensingID: id}
		}
	case 10:
		body = &ledger.WriteOffStock{LocationID: location, LotID: lot, Quantity: n, ReasonCode: "broken"}
	case 11:
		body = &ledger.UpdateStockLevels{LocationID: location, MedicineID: medicine, Min: n, Reorder: 2 * n, Max: 5 * n}
	case 12:
		body = &ledger.TransferStock{
			From: location, To: "ward", Lines: []ledger.RequestedLine{{MedicineID: medicine, Quantity: n}}, DispatchBy: ledger.InstantOf(time.Now().Add(time.Hour)), ReasonCode: "restock",
		}
	case 13:
		zone := []string{"Africa/Nairobi", "Pacific/Auckland", "America/Los_Angeles"}[w.random.IntN(3)]
		body = &ledger.UpdateClinic{TimeZone: &zone}
	}
	if body == nil {
		return
	}
	verdict := w.c.give(w.c.command(body))
	if verdict.Err != nil {
		var rejection *ledger.Rejection
		if !errors.As(verdict.Err, &rejection) {
			w.c.tb.Errorf("%s: %v", body.Kind(), verdict.Err)
		}
		return
	}
	if change, ok := verdict.Record.Event.Body.(*ledger.Change); ok {
		for _, document := range change.Documents {
			if d, ok := document.(*ledger.Dispensing); ok && !slices.Contains(w.dispensings, d.DispensingID) {
				w.dispensings = append(w.dispensings, d.DispensingID)
			}
		}
	}
}

// What every kind of document does shows in the models, and a restore makes them
// anew.
func TestReadModelsOfEveryKind(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.everyDispensing()
	p.everyDocument()
	models := NewReadModels(p.e.db, ReadModelsConfig{})
	models.moveUp(t, p.id)
	p.checkModels()
	older := export(t, p.e.db, p.id)
	p.must(&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 3})
	models.moveUp(t, p.id)
	kept := p.modelsAt()
	p.checkModels()
	for _, table := range tenantTables(t, p.e.db) {
		if table == cursorsTable.name || isModel(table) {
			continue // they are left behind, by a node that was not told
		}
		if _, err := p.e.db.write.Exec(t.Context(), "DELETE FROM "+table+" WHERE clinic_id = $1", p.id); err != nil {
			t.Fatal(err)
		}
	}
	restore(t, p.e.db, older)
	models.moveUp(t, p.id)
	if at := p.modelsAt(); at == kept || at.Epoch == kept.Epoch {
		t.Errorf("after the restore the models are at %+v, as before", at)
	}
	p.checkModels()
}

// A shelf is low from the command on that leaves it with too little, until one
// that brings enough, or lowers the level.
func TestLowStock(t *testing.T) {
	t.Parallel()
	e, models := modelled(t, ExecutorConfig{})
	c := newTestClinic(t, e)
	q := NewQueries(NewDirectory(e.db))
	low := func() []StockSummary {
		t.Helper()
		if err := models.moveBacklogs(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows, _, _, err := q.StockSummaries(t.Context(), c.id, SummaryFilter{LowOnly: true}, ledger.Shelf{}, 10, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	level := func(reorder int64) *ledger.UpdateStockLevels {
		return &ledger.UpdateStockLevels{LocationID: "store", MedicineID: "zinc", Reorder: reorder, Max: 100}
	}
	c.receive(20)
	if rows := low(); len(rows) != 0 {
		t.Errorf("without a level, low is %+v", rows)
	}
	set := c.must(level(20)).Event
	if rows := low(); len(rows) != 1 || rows[0].LowSequence != set.Sequence || rows[0].LowSince != set.At || rows[0].Max != 100 {
		t.Errorf("at its level, low is %+v", rows)
	}
	c.must(reserve(5))
	if rows := low(); len(rows) != 1 || rows[0].LowSequence != set.Sequence || rows[0].Available != 15 {
		t.Errorf("later, low is %+v", rows)
	}
	c.receive(6)
	if rows := low(); len(rows) != 0 {
		t.Errorf("with enough, low is %+v", rows)
	}
	again := c.must(reserve(1)).Event
	if rows := low(); len(rows) != 1 || rows[0].LowSequence != again.Sequence {
		t.Errorf("again, low is %+v", rows)
	}
	c.must(level(10))
	if rows := low(); len(rows) != 0 {
		t.Errorf("with a lower level, low is %+v", rows)
	}
}

// What the models do not show yet a query waits for, then says so; it never
// pretends.
func TestQueriesOfModelsThatAreBehind(t *testing.T) {
	t.Parallel()
	e, models := modelled(t, ExecutorConfig{})
	c := newTestClinic(t, e)
	q := NewQueries(NewDirectory(e.db))
	read := func(o ReadOptions) ([]StockSummary, AsOf, error) {
		rows, _, asOf, err := q.StockSummaries(t.Context(), c.id, SummaryFilter{}, ledger.Shelf{}, 10, o)
		return rows, asOf, err
	}
	models.moveUp(t, c.id)
	before := c.head().Sequence
	c.receive(5)
	last := c.head().Sequence
	var behind *ReadModelsBehindError
	epoch := c.head().Epoch
	for _, o := range []ReadOptions{{}, {Consistency: Cached, MinSequence: last}, {Consistency: Bounded}, {Consistency: Cached, Continues: Place{epoch, last}}} {
		if _, _, err := read(o); !errors.As(err, &behind) || behind.Have != before || behind.Want != last {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []ReadOptions{{Consistency: Cached}, {Consistency: Bounded, MaxStaleness: time.Hour}, {Consistency: Cached, MinSequence: before}} {
		if rows, asOf, err := read(o); err != nil || len(rows) != 0 || asOf.Sequence != before {
			t.Errorf("%+v: %+v as of %+v, %v", o, rows, asOf, err)
		}
	}
	var notReached *SequenceNotReachedError
	if _, _, err := read(ReadOptions{MinSequence: last + 1}); !errors.As(err, &notReached) {
		t.Errorf("a sequence that is not: %v", err)
	}
	// A reader that waits gets its answer when the models move.
	answered := make(chan error, 1)
	go func() {
		rows, asOf, err := read(ReadOptions{Consistency: Cached, MinSequence: last})
		if err == nil && (len(rows) != 1 || rows[0].Available != 5 || asOf.Sequence != last) {
			err = fmt.Errorf("%+v as of %+v", rows, asOf)
		}
		answered <- err
	}()
	if err := models.moveBacklogs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("a reader that waited: %v", err)
	}
}

// A node that only looks finds what nobody moves: here, all there is.
func TestLookForModelsThatNobodyMoves(t *testing.T) {
	t.Parallel()
	e := testExecutorOn(t, ownDB(t), ExecutorConfig{Clock: func() time.Time { return time.Now().Add(-time.Minute) }})
	c, p := newTestClinic(t, e), newTestClinic(t, e)
	c.receive(5)
	models := NewReadModels(c.e.db, ReadModelsConfig{Every: time.Millisecond, LookEvery: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		models.Run(ctx)
	}()
	eventually(t, "the models are where the heads are", func() bool { return c.modelsAt() == c.headPlace() && p.modelsAt() == p.headPlace() })
	cancel()
	<-ended
	c.checkModels()
}

// One clinic whose journal cannot be read does not keep the others waiting.
func TestReadModelsPassBrokenJournals(t *testing.T) {
	t.Parallel()
	e, models := modelled(t, ExecutorConfig{})
	broken, sound := newTestClinic(t, e), newTestClinic(t, e)
	t.Cleanup(func() { wipe(t, e.db, broken.id) })
	if _, err := e.db.write.Exec(t.Context(), `UPDATE journal SET event = 'x' WHERE clinic_id = $1 AND sequence = 2`, broken.id); err != nil {
		t.Fatal(err)
	}
	err := models.moveAll(t.Context(), map[ledger.ClinicID]*backlog{broken.id: {lost: true}, sound.id: {lost: true}})
	if err != nil || broken.modelsAt().Sequence != 0 || sound.modelsAt() != sound.headPlace() {
		t.Errorf("the models are at %+v and %+v, %v", broken.modelsAt(), sound.modelsAt(), err)
	}
}

// Verification names what is wrong in the models, and what only lags is not.
func TestVerifyReadModels(t *testing.T) {
	t.Parallel()
	e, models := modelled(t, ExecutorConfig{})
	for name, sql := range map[string]string{
		"location store, medicine zinc":   `UPDATE location_stock_summary SET available = available + 1 WHERE clinic_id = $1 AND location_id = 'store'`,
		"location ward, medicine zinc":    `DELETE FROM location_stock_summary WHERE clinic_id = $1 AND location_id = 'ward'`,
		"location attic, medicine zinc":   `UPDATE location_stock_summary SET location_id = 'attic' WHERE clinic_id = $1 AND location_id = 'ward'`,
		"location store, medicine zinc, ": `UPDATE consumption_months SET used = used - 1 WHERE clinic_id = $1`,
		"read models":                     `UPDATE read_model_cursors SET sequence = 99 WHERE clinic_id = $1`,
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := verifiable(t, e)
			t.Cleanup(func() { wipe(t, e.db, c.id) })
			models.moveUp(t, c.id)
			c.receive(1)
			if found := violations(t, e.db, c.id); len(found) > 0 {
				t.Errorf("before: %v", found)
			}
			if _, err := e.db.write.Exec(t.Context(), sql, c.id); err != nil {
				t.Fatal(err)
			}
			found := violations(t, e.db, c.id)
			if !slices.ContainsFunc(found, func(v string) bool {
				return strings.HasSuffix(v, ruleModels) && strings.Contains(v, name)
			}) {
				t.Errorf("found %v, want %s", found, name)
			}
		})
	}
}

// What a location uses counts on the day on which it happened, in months at the
// clinic, and so does the time with nothing to use.
func TestConsumption(t *testing.T) {
	t.Parallel()
	clock := &testClock{now: time.Date(2027, 1, 9, 21, 0, 0, 0, time.UTC)} // the 10th in Nairobi
	e, models := modelled(t, ExecutorConfig{Clock: clock.read})
	c := newTestClinic(t, e)
	q := &Queries{directory: NewDirectory(e.db), Clock: clock.read}
	issue := func(quantity int64) ledger.CommandBody {
		return &ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: quantity}
	}
	c.receive(100)
	c.must(issue(30))
	clock.set(time.Date(2027, 1, 31, 21, 30, 0, 0, time.UTC)) // February in Nairobi
	c.mustAll(issue(40), &ledger.WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 10, ReasonCode: "broken"})
	clock.set(time.Date(2027, 2, 18, 21, 0, 0, 0, time.UTC)) // the 19th, midnight
	c.must(issue(20))                                        // which is all there was
	clock.set(time.Date(2027, 3, 1, 21, 0, 0, 0, time.UTC))  // the 2nd, midnight
	c.receive(50)
	c.must(&ledger.UpdateClinic{BackdatingDays: ptr(int64(30))})
	late := c.command(issue(5))
	late.OccurredAt = ledger.InstantOf(time.Date(2027, 2, 28, 9, 0, 0, 0, time.UTC))
	if v := c.submit(Submission{Commands: []ledger.Command{late}})[0]; v.Err != nil {
		t.Fatal(v.Err)
	}
	clock.set(time.Date(2027, 3, 20, 9, 0, 0, 0, time.UTC))
	models.moveUp(t, c.id)
	list, more, _, err := q.Consumptions(t.Context(), c.id, StockFilter{}, 3, ledger.Shelf{}, 10, ReadOptions{})
	if err != nil || len(list) != 1 || more {
		t.Fatalf("%+v, %v, %v", list, more, err)
	}
	first := func(text string) ledger.Date { return day(t, text) }
	want := Consumption{
		Shelf: zincInStore,
		Months: []MonthConsumption{
			{First: first("2026-12-01")}, {First: first("2027-01-01"), Used: 30}, {First: first("2027-02-01"), Used: 65, Wasted: 10, DaysOut: 10},
		},
		Current: MonthConsumption{First: first("2027-03-01"), DaysOut: 1},
	}
	if !reflect.DeepEqual(list[0], want) {
		t.Errorf("the consumption is %+v, want %+v", list[0], want)
	}
	if average, adjusted := list[0].Average(), list[0].Adjusted(); average != 95.0/3 || adjusted != 95.0/3*90/80 {
		t.Errorf("the averages are %v and %v", average, adjusted)
	}
	c.checkModels()
}

// What expires is listed by its expiry, page by page, wherever it lies.
func TestExpiring(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	list := func(f StockFilter, days ledger.Date, limit int) (found []string) {
		t.Helper()
		var after *ExpiringPlace
		for {
			rows, next, _, err := p.q.Expiring(t.Context(), p.id, f, func(today ledger.Date) (ledger.Date, ledger.Date) { return today - 365, today + days }, after, limit, ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				found = append(found, fmt.Sprintf("%s %s %s %d", row.Expiry, row.Lot, row.Location, row.OnHand()))
			}
			if after = next; next == nil {
				return found
			}
		}
	}
	soon, all := []string{"2027-03-10 A1 store 13"}, []string{"2027-03-10 A1 store 13", "2027-06-30 A2 store 30", "2027-06-30 A2 ward 3", "2027-06-30 A3 store 20"}
	for limit := 1; limit < 6; limit++ {
		if got := list(StockFilter{}, 30, limit); !slices.Equal(got, soon) {
			t.Errorf("within 30 days, by %d: %q", limit, got)
		}
		if got := list(StockFilter{}, 200, limit); len(got) != len(all) {
			t.Errorf("within 200 days, by %d: %q", limit, got)
		}
		if got := list(StockFilter{Locations: []ledger.LocationID{"ward"}}, 200, limit); !slices.Equal(got, all[2:3]) {
			t.Errorf("at the ward, by %d: %q", limit, got)
		}
	}
	if got := list(StockFilter{Location: "store", Locations: []ledger.LocationID{"ward"}}, 200, 5); len(got) != 0 {
		t.Errorf("at a location that is not shown: %q", got)
	}
	if got := list(StockFilter{Medicine: "zinc"}, 200, 5); len(got) != 0 {
		t.Errorf("of zinc: %q", got)
	}
}

// A suggestion fills the shelf up, less what is already on its way.
func TestReorderSuggestions(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	models := NewReadModels(p.e.db, ReadModelsConfig{})
	suggest := func() (list []ReorderSuggestion) {
		t.Helper()
		models.moveUp(t, p.id)
		list, next, _, err := p.q.ReorderSuggestions(t.Context(), p.id, StockFilter{}, ledger.Shelf{}, 10, ReadOptions{})
		if err != nil || next != nil {
			t.Fatalf("%+v, %v", next, err)
		}
		return list
	}
	if list := suggest(); len(list) != 0 {
		t.Errorf("without levels: %+v", list)
	}
	p.must(&ledger.UpdateStockLevels{LocationID: "ward", MedicineID: "zinc", Min: 5, Reorder: 20, Max: 60})
	if list := suggest(); len(list) != 1 || list[0].Quantity != 60 || list[0].Location != "ward" {
		t.Errorf("with a level: %+v", list)
	}
	transfer := p.request(15)
	if list := suggest(); len(list) != 1 || list[0].Quantity != 45 || list[0].Incoming != 15 {
		t.Errorf("with a transfer under way: %+v", list)
	}
	p.mustAll(&ledger.ApproveTransfer{TransferID: transfer}, &ledger.DispatchTransfer{TransferID: transfer})
	if list := suggest(); len(list) != 1 || list[0].Quantity != 45 || list[0].Incoming != 15 {
		t.Errorf("with a transfer on its way: %+v", list)
	}
	p.must(&ledger.ReceiveTransfer{TransferID: transfer}) // which the models don't show yet
	list, _, _, err := p.q.ReorderSuggestions(t.Context(), p.id, StockFilter{}, ledger.Shelf{}, 10, ReadOptions{Consistency: Cached})
	if err != nil || len(list) != 1 || list[0].Quantity != 45 || list[0].Incoming != 0 || list[0].Available != 15 {
		t.Errorf("with a transfer that has just arrived: %+v, %v", list, err)
	}
	p.request(6)
	if list := suggest(); len(list) != 0 {
		t.Errorf("with enough arrived and under way: %+v", list)
	}
}

// lagOf reads what is measured of how far a model is behind.
func (m *ReadModels) lagOf(tb testing.TB, model string) (seconds, commands float64) {
	tb.Helper()
	registry := prometheus.NewRegistry()
	m.RegisterMetrics(registry)
	families, err := registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	found := 0
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if len(metric.GetLabel()) != 1 || metric.GetLabel()[0].GetValue() != model {
				continue
			}
			found++
			switch family.GetName() {
			case "stockledger_read_model_lag_seconds":
				seconds = metric.GetGauge().GetValue()
			case "stockledger_read_model_behind_commands":
				commands = metric.GetGauge().GetValue()
			}
		}
	}
	if found != 2 {
		tb.Fatalf("of the model %s, %d metrics are collected", model, found)
	}
	return seconds, commands
}

// The lag grows while nothing moves, whoever committed, and is gone when
// everything is shown, whoever moved it.
func TestStalledReadModelsShow(t *testing.T) {
	t.Parallel()
	e, models := modelled(t, ExecutorConfig{})
	c := newTestClinic(t, e)
	stalled := func(m *ReadModels, want float64) {
		t.Helper()
		for _, model := range foldedModels {
			before, commands := m.lagOf(t, model)
			if before <= 0 || commands != want {
				t.Errorf("%s is %v s and %v commands behind, want %v", model, before, commands, want)
			}
			if after, _ := m.lagOf(t, model); after <= before {
				t.Errorf("%s is %v s behind, and then %v s: it does not grow", model, before, after)
			}
		}
		for _, model := range sourceModels {
			if seconds, commands := m.lagOf(t, model); seconds != 0 || commands != 0 {
				t.Errorf("%s is %v s and %v commands behind", model, seconds, commands)
			}
		}
	}
	shown := func(m *ReadModels) {
		t.Helper()
		if seconds, commands := m.lagOf(t, "low_stock_alerts"); seconds != 0 || commands != 0 {
			t.Errorf("when all is shown, the models are %v s and %v commands behind", seconds, commands)
		}
	}
	stalled(models, float64(c.head().Sequence))
	models.moveUp(t, c.id)
	shown(models)
	c.receive(1)
	c.receive(1)
	stalled(models, 2)
	// Another node has committed nothing, and finds it when it looks.
	other := NewReadModels(e.db, ReadModelsConfig{})
	look := func() {
		t.Helper()
		other.looked = c.id[:len(c.id)-1] // so that the clinic is one of the first
		if _, err := other.behind(t.Context()); err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(other.lag.behind, func(clinic ledger.ClinicID, _ *behindModels) bool { return clinic != c.id })
	}
	look()
	stalled(other, 2)
	if own, found := models.lag.behind[c.id], other.lag.behind[c.id]; *own != *found {
		t.Errorf("who committed says %+v, who looked %+v", own, found)
	}
	other.moveUp(t, c.id)
	shown(other)
	// Who committed learns of it when it looks, too.
	models.moveUp(t, c.id)
	shown(models)
	// An event that cannot be read is no excuse.
	c.sql(`UPDATE journal SET event = '\x00' WHERE clinic_id = $1 AND sequence = 6`, c.id)
	t.Cleanup(func() { wipe(t, e.db, c.id) })
	c.sql(`UPDATE read_model_cursors SET sequence = 5 WHERE clinic_id = $1`, c.id)
	look()
	other.moveUp(t, c.id)
	if _, commands := other.lagOf(t, "consumption"); commands != float64(c.head().Sequence-5) {
		t.Errorf("models that stand still are %v commands behind", commands)
	}
}
