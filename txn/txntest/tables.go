package txntest

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
)

// connect opens a connection of the test's own.
func connect(tb testing.TB) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), URL(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// CountRows counts the rows of a table that are about a patient of a clinic.
func CountRows(tb testing.TB, table, clinic, patient string) int {
	tb.Helper()
	var rows int
	query := "SELECT count(*) FROM " + pgx.Identifier{table}.Sanitize() + " WHERE clinic_id = $1 AND patient_id = $2"
	if err := connect(tb).QueryRow(context.Background(), query, clinic, patient).Scan(&rows); err != nil {
		tb.Fatal(err)
	}
	return rows
}

// PlacesThatHold looks for a word in every column of every table, and returns
// the columns that hold it.
func PlacesThatHold(tb testing.TB, word string) []string {
	tb.Helper()
	conn, ctx := connect(tb), context.Background()
	rows, err := conn.Query(ctx, `SELECT table_name, column_name, data_type FROM information_schema.columns
		WHERE table_schema = 'public' AND data_type IN ('text', 'bytea', 'character varying')`)
	if err != nil {
		tb.Fatal(err)
	}
	type place struct{ table, column, kind string }
	places, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p place, err error) {
		err = row.Scan(&p.table, &p.column, &p.kind)
		return p, err
	})
	if err != nil || len(places) < 50 {
		tb.Fatalf("%d columns were found: %v", len(places), err)
	}
	var found []string
	for _, p := range places {
		value := pgx.Identifier{p.column}.Sanitize()
		if p.kind == "bytea" {
			value = "encode(" + value + ", 'escape')"
		}
		var hits int
		query := fmt.Sprintf("SELECT count(*) FROM %s WHERE %s LIKE $1", pgx.Identifier{p.table}.Sanitize(), value)
		if err := conn.QueryRow(ctx, query, "%"+word+"%").Scan(&hits); err != nil {
			tb.Fatalf("%s: %v", query, err)
		}
		if hits > 0 {
			found = append(found, p.table+"."+p.column)
		}
	}
	return found
}
