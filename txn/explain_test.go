package txn

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// statementLog is a tracer that keeps each statement once, with the arguments
// that it first came with.
type statementLog struct {
	mu   sync.Mutex
	args map[string][]any
}

func (l *statementLog) note(sql string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.args[sql]; !known {
		l.args[sql] = args
	}
}

func (l *statementLog) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	l.note(data.SQL, data.Args)
	return ctx
}

func (l *statementLog) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (l *statementLog) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (l *statementLog) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	l.note(data.SQL, data.Args)
}

func (l *statementLog) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

var (
	plannable = regexp.MustCompile(`(?i)^\s*(SELECT|INSERT|UPSERT|UPDATE|DELETE)\b`)
	ourTables = regexp.MustCompile(`\b(clinic_directory|heads|journal|entries|stock|holds|clinics|locations|medicines|lots)\b`)
	scanNode  = regexp.MustCompile(`(Seq Scan|Index Scan|Index Only Scan|Bitmap Heap Scan|Bitmap Index Scan).* on (\w+)`)
)

// readsEverything are the statements whose business is the whole database.
var readsEverything = map[string]bool{selectVerifiable: true}

// fullScans returns the parts of a plan that read more of a table than the
// statement's keys name.
func fullScans(server ServerKind, plan []string) []string {
	var found []string
	for i, line := range plan {
		if server == CockroachDB {
			if strings.Contains(line, "FULL SCAN") {
				found = append(found, line)
			}
			continue
		}
		node := scanNode.FindStringSubmatch(line)
		if node == nil || node[1] == "Bitmap Heap Scan" {
			continue
		}
		keyed := false
		for _, below := range plan[i+1 : min(i+3, len(plan))] {
			keyed = keyed || strings.Contains(below, "Index Cond:") && strings.Contains(below, "clinic_id")
		}
		if !keyed {
			found = append(found, line)
		}
	}
	return found
}

func explain(t *testing.T, db *DB, sql string, args []any) []string {
	t.Helper()
	pool := db.write
	if strings.HasPrefix(strings.TrimSpace(strings.ToUpper(sql)), "SELECT") && !strings.Contains(sql, "FOR UPDATE") {
		pool = db.read
	}
	rows, err := pool.Query(context.Background(), "EXPLAIN "+sql, args...)
	if err != nil {
		t.Fatalf("explain %s: %v", sql, err)
	}
	var plan []string
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			t.Fatal(err)
		}
		plan = append(plan, fmt.Sprint(values...))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("explain %s: %v", sql, err)
	}
	return plan
}

// TestEveryStatementUsesAnIndex runs every command and query, and asks for the
// plan of each statement that they sent.
func TestEveryStatementUsesAnIndex(t *testing.T) {
	t.Parallel()
	log := &statementLog{args: make(map[string][]any)}
	db := openTest(t, Config{DatabaseURL: testURL(t), Tracer: log})
	exercise(t, db)

	checked := 0
	for sql, args := range log.args {
		if !plannable.MatchString(sql) || !ourTables.MatchString(sql) || readsEverything[sql] {
			continue
		}
		checked++
		plan := explain(t, db, sql, args)
		if found := fullScans(db.server.Kind, plan); len(found) > 0 {
			t.Errorf("full scans in the plan of\n%s\n%s", sql, strings.Join(plan, "\n"))
		}
	}
	if checked < 40 {
		t.Errorf("only %d statements were seen", checked)
	}
	// The check itself must see a scan.
	for _, sql := range []string{
		`SELECT event FROM journal WHERE idempotency_key = 'x'`,
		`SELECT lot_id FROM stock WHERE medicine_id = 'x'`,
	} {
		if plan := explain(t, db, sql, nil); len(fullScans(db.server.Kind, plan)) == 0 {
			t.Errorf("a scan went unnoticed:\n%s", strings.Join(plan, "\n"))
		}
	}
}

// exercise sends every statement that the package knows.
func exercise(t *testing.T, db *DB) {
	t.Helper()
	e := testExecutorOn(t, db, ExecutorConfig{})
	c := newTestClinic(t, e)
	c.receive(100)
	name, active := "Zinc sulfate", true
	c.mustAll(
		&ledger.UpdateClinic{Name: &name}, &ledger.UpdateLocation{LocationID: "ward", Name: &name},
		&ledger.UpdateMedicine{MedicineID: "zinc", Name: &name}, &ledger.UpdateLot{LotID: "L1", Active: &active},
	)
	hold := c.must(reserve(10)).Event.Body.(*ledger.StockReserved)
	c.must(&ledger.IssueStock{HoldID: hold.HoldID, Quantity: 3})
	repeated := c.command(reserve(1))
	c.give(repeated)
	c.give(repeated)
	c.rejected(c.give(c.command(reserve(1000))), ledger.ReasonInsufficientStock)
	// Another node makes this one's state stale, so it locks heads and catches up.
	other := &testClinic{tb: t, e: testExecutorOn(t, db, ExecutorConfig{}), id: c.id, keys: 100}
	other.must(reserve(1))
	c.must(reserve(1))
	c.verify()
	exerciseQueries(t, NewQueries(db), c.id)
}

func exerciseQueries(t *testing.T, q *Queries, clinic ledger.ClinicID) {
	t.Helper()
	ctx, shelf := context.Background(), ledger.Shelf{Location: "store", Medicine: "zinc"}
	locations := []ledger.LocationID{"store", "ward"}
	var errs []error
	try := func(err error) { errs = append(errs, err) }
	for _, consistency := range []Consistency{Strong, Bounded} {
		o := ReadOptions{Consistency: consistency, MaxStaleness: 10 * time.Second}
		_, _, err := q.Clinic(ctx, clinic, o)
		try(err)
		_, _, err = q.Location(ctx, clinic, "store", o)
		try(err)
		_, _, err = q.Medicine(ctx, clinic, "zinc", o)
		try(err)
		_, _, err = q.Lot(ctx, clinic, "L1", o)
		try(err)
		for _, only := range [][]ledger.LocationID{nil, locations} {
			_, _, _, err = q.ListLocations(ctx, clinic, only, "", 10, o)
			try(err)
			for _, filter := range []StockFilter{{}, {Location: "store"}, {Medicine: "zinc"}, {Location: "store", Medicine: "zinc"}} {
				filter.Locations = only
				_, _, _, err = q.ListStock(ctx, clinic, filter, StockKey{}, 10, o)
				try(err)
			}
			for _, filter := range []HoldFilter{{}, {Shelf: ledger.Shelf{Location: "store"}}, {Shelf: shelf}, {Shelf: shelf, IncludeClosed: true}} {
				filter.Locations = only
				_, _, _, err = q.Holds(ctx, clinic, filter, HoldKey{}, 10, o)
				try(err)
			}
		}
		for _, contains := range []string{"", "zi"} {
			_, _, _, err = q.ListMedicines(ctx, clinic, contains, "", 10, o)
			try(err)
		}
		for _, medicine := range []ledger.MedicineID{"", "zinc"} {
			_, _, _, err = q.ListLots(ctx, clinic, medicine, "", 10, o)
			try(err)
		}
		_, _, err = q.Stock(ctx, clinic, shelf, o)
		try(err)
		for _, at := range [][]ledger.LocationID{nil, locations} {
			_, _, err = q.Availability(ctx, clinic, []ledger.MedicineID{"zinc"}, at, 0, o)
			try(err)
		}
		for _, newest := range []bool{false, true} {
			for _, of := range []ledger.Shelf{{}, shelf} {
				for _, after := range []*MovementKey{nil, {Sequence: 5}} {
					_, _, _, err = q.Movements(ctx, clinic, MovementFilter{Shelf: of, Lot: "L1", From: 1, To: 100, NewestFirst: newest}, after, 10, o)
					try(err)
				}
			}
		}
	}
	_, _, err := q.ListClinics(ctx, []ledger.ClinicID{clinic}, "", 10)
	try(err)
	_, _, err = q.ListClinics(ctx, nil, "", 10)
	try(err)
	for _, err := range errs {
		if err != nil {
			t.Fatalf("query: %v", err)
		}
	}
}
