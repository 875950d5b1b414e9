package txn

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

func TestUpsertSQL(t *testing.T) {
	t.Parallel()
	columns, types, key := []string{"a", "b", "n"}, []string{"text", "text", "int8"}, []string{"a", "b"}
	const arrays = "SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::int8[])"
	for server, want := range map[ServerKind]string{
		PostgreSQL:  "INSERT INTO t (a, b, n) " + arrays + " ON CONFLICT (a, b) DO UPDATE SET n = excluded.n",
		CockroachDB: "UPSERT INTO t (a, b, n) " + arrays,
	} {
		if diff := cmp.Diff(want, upsertSQL(server, "t", columns, types, key)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", server, diff)
		}
	}
	want := "INSERT INTO t (a, b, n) " + arrays
	if diff := cmp.Diff(want, insertSQL("t", columns, types)); diff != "" {
		t.Errorf("insert (-want +got):\n%s", diff)
	}
	keyOnly := upsertSQL(PostgreSQL, "t", key, types[:2], key)
	if !strings.HasSuffix(keyOnly, "ON CONFLICT (a, b) DO NOTHING") {
		t.Errorf("without other columns: %s", keyOnly)
	}
}

func TestSelectByKeysSQL(t *testing.T) {
	t.Parallel()
	columns, key, types := []string{"a", "n"}, []string{"a", "b"}, []string{"text", "int8"}
	for server, want := range map[ServerKind]string{
		PostgreSQL: "SELECT t.a, t.n FROM unnest($1::text[], $2::int8[]) AS k(a, b)" +
			" JOIN LATERAL (SELECT a, n FROM stock WHERE stock.a = k.a AND stock.b = k.b OFFSET 0) AS t ON true ORDER BY t.a",
		CockroachDB: "SELECT t.a, t.n FROM (SELECT unnest($1:::text[]) AS a, unnest($2:::int8[]) AS b) AS k" +
			" INNER LOOKUP JOIN stock AS t ON t.a = k.a AND t.b = k.b ORDER BY t.a",
	} {
		if diff := cmp.Diff(want, selectByKeysSQL(server, "stock", columns, key, types, " ORDER BY t.a")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", server, diff)
		}
	}
}

// The generated statements must do on the server what they say.
func TestArrayStatementsOnTheServer(t *testing.T) {
	t.Parallel()
	db, clinic := testDB(t), newClinicID(t)
	kind := db.Server().Kind
	columns := []string{"clinic_id", "epoch", "sequence", "hash", "recorded_at"}
	types := []string{"text", "int8", "int8", "bytea", "timestamptz"}
	upsert := upsertSQL(kind, "heads", columns, types, columns[:1])
	read := selectByKeysSQL(kind, "heads", []string{"clinic_id", "sequence"}, columns[:1], types[:1], " ORDER BY t.clinic_id")
	now := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	clinics := []string{clinic + "-a", clinic + "-b", clinic + "-c"}
	for round := range int64(2) {
		want := map[string]int64{clinics[0]: 1 + round, clinics[2]: 3 + round}
		got := make(map[string]int64)
		err := db.InTx(t.Context(), func(tx pgx.Tx) error {
			clear(got)
			_, err := tx.Exec(t.Context(), upsert,
				[]string{clinics[0], clinics[2]}, []int64{0, 0}, []int64{1 + round, 3 + round},
				[][]byte{{1}, {2}}, []time.Time{now, now})
			if err != nil {
				return err
			}
			rows, err := tx.Query(t.Context(), read, clinics)
			if err != nil {
				return err
			}
			var id string
			var sequence int64
			_, err = pgx.ForEachRow(rows, []any{&id, &sequence}, func() error {
				got[id] = sequence
				return nil
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("round %d (-want +got):\n%s", round, diff)
		}
	}
}

// A hot statement that scans a table, or reads it through a bitmap or a hash,
// would lock all of it and make every group conflict with every other.
func TestArrayStatementsLookKeysUp(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	kind := db.Server().Kind
	key := []string{"clinic_id", "location_id", "medicine_id"}
	read := selectByKeysSQL(kind, "stock", []string{"lot_id", "available"}, key, []string{"text", "text", "text"}, "")
	var plan strings.Builder
	err := db.InTx(t.Context(), func(tx pgx.Tx) error {
		plan.Reset()
		rows, err := tx.Query(t.Context(), "EXPLAIN "+read, []string{"c"}, []string{"l"}, []string{"m"})
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				return err
			}
			for _, value := range values {
				if text, ok := value.(string); ok {
					plan.WriteString(text + " ")
				}
			}
			plan.WriteString("\n")
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[ServerKind]string{PostgreSQL: "Index Scan using stock_pkey", CockroachDB: "lookup join"}[kind]
	if !strings.Contains(plan.String(), want) {
		t.Errorf("want %q in the plan:\n%s", want, plan.String())
	}
	for _, bad := range []string{"Seq Scan", "Bitmap", "FULL SCAN"} {
		if strings.Contains(plan.String(), bad) {
			t.Errorf("%q in the plan:\n%s", bad, plan.String())
		}
	}
}

func TestLostTurns(t *testing.T) {
	t.Parallel()
	atHead := func(err error) error { return fmt.Errorf("%w: %w", errNoTurn, err) }
	changed := atHead(serverError("ERROR", codeSerializationFailure))
	for _, c := range []struct {
		server ServerKind
		err    error
		want   bool
	}{
		{PostgreSQL, changed, true},
		{CockroachDB, changed, false},
		{PostgreSQL, serverError("ERROR", codeSerializationFailure), false}, // of another statement, or COMMIT
		{PostgreSQL, atHead(serverError("ERROR", codeDeadlock)), false},
		{PostgreSQL, unavailable(errBroken), false},
		{PostgreSQL, nil, false},
	} {
		if got := lostTurn(c.server, c.err); got != c.want {
			t.Errorf("on %s %v is a lost turn: %t", c.server, c.err, got)
		}
	}
}
