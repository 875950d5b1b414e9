package txn

import (
	"regexp"
	"testing"

	"github.com/stockledger/stockledger/ledger"
)

// TestJoinsLookUpWithoutStatistics reads a clinic whose many rows PostgreSQL
// knows nothing about yet, as after an import: a join that reads all of a
// clinic's lots for each row of stock would take seconds.
func TestJoinsLookUpWithoutStatistics(t *testing.T) {
	t.Parallel()
	if testDB(t).server.Kind != PostgreSQL {
		t.Skip("CockroachDB is told to look keys up")
	}
	plain := ownDB(t)
	c := newTestClinic(t, testExecutorOn(t, plain, ExecutorConfig{}))
	c.receive(5)
	for _, sql := range []string{
		`ALTER TABLE lots SET (autovacuum_enabled = off)`,
		`ALTER TABLE stock SET (autovacuum_enabled = off)`,
		`INSERT INTO lots SELECT clinic_id, 'lot'||i, 'zinc', '', '', '', '2030-01-01', true, 1, 1 FROM heads, generate_series(1, 1000) AS i`,
		`INSERT INTO stock SELECT clinic_id, 'ward', 'zinc', 'lot'||i, 1, 0, 0, 0, 0, 1, 1 FROM heads, generate_series(1, 1000) AS i`,
	} {
		if _, err := plain.write.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	db := &DB{cfg: plain.cfg, server: plain.server, tuned: plain.tuned, write: plain.write}
	var read *recorder
	db.read, read = tracedPool(t, plain.read)
	defer db.read.Close()
	queryJoins(t, NewQueries(NewDirectory(db)), c.id)

	joined := map[string]*regexp.Regexp{
		"lots":    regexp.MustCompile(`clinic_id = s\.clinic_id\) AND \(lot_id = s\.lot_id`),
		"journal": regexp.MustCompile(`clinic_id = e\.clinic_id\) AND \(sequence = e\.sequence`),
	}
	seen := map[string]int{}
	for _, s := range read.take() {
		for table, lookUp := range joined {
			if !regexp.MustCompile(`JOIN.*` + table).MatchString(s.sql) {
				continue
			}
			seen[table]++
			if plan := planText(t, plain, s); !lookUp.MatchString(plan) {
				t.Errorf("not a look-up of %s: %s\n%s", table, s.sql, plan)
			}
		}
	}
	if seen["lots"] < 5 || seen["journal"] < 2 {
		t.Errorf("so many joins were sent: %v", seen)
	}
	// The check itself must see what it is there for.
	bad := statement{`SELECT l.expiry FROM stock AS s JOIN lots AS l ON l.clinic_id = s.clinic_id AND l.lot_id = s.lot_id WHERE s.clinic_id = $1`, []any{string(c.id)}}
	if plan := planText(t, plain, bad); joined["lots"].MatchString(plan) {
		t.Errorf("the plain join is a look-up now, so this test proves nothing:\n%s", plan)
	}
}

// queryJoins sends each query that joins.
func queryJoins(t *testing.T, q *Queries, clinic ledger.ClinicID) {
	t.Helper()
	ctx, o := t.Context(), ReadOptions{}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	_, _, err := q.Stock(ctx, clinic, ledger.Shelf{Location: "store", Medicine: "zinc"}, o)
	note(err)
	for _, f := range []StockFilter{{}, {Location: "ward"}, {Medicine: "zinc"}} {
		_, _, _, err = q.ListStock(ctx, clinic, f, StockKey{}, 50, o)
		note(err)
	}
	_, _, err = q.Availability(ctx, clinic, []ledger.MedicineID{"zinc"}, nil, 0, o)
	note(err)
	for _, newest := range []bool{false, true} {
		f := MovementFilter{Shelf: ledger.Shelf{Location: "store", Medicine: "zinc"}, NewestFirst: newest}
		_, _, _, err = q.Movements(ctx, clinic, f, nil, 50, o)
		note(err)
	}
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// planText is the plan of a statement on the connections that read.
func planText(t *testing.T, db *DB, s statement) string {
	t.Helper()
	rows, err := db.read.Query(t.Context(), "EXPLAIN "+s.sql, s.args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var text string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		text += line + "\n"
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return text
}
