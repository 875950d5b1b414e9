package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stockledger/stockledger/ledger"
)

// leftOf counts the rows of a clinic on a shard, by table.
func leftOf(t *testing.T, db *DB, clinic ledger.ClinicID) map[string]int {
	t.Helper()
	left := make(map[string]int)
	for _, table := range tenantTables(t, db) {
		var n int
		if err := db.read.QueryRow(context.Background(), "SELECT count(*) FROM "+table+" WHERE clinic_id = $1", clinic).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			left[table] = n
		}
	}
	return left
}

func leftCopies(t *testing.T, d *Directory, shard ShardID) []ledger.ClinicID {
	t.Helper()
	copies, err := d.LeftCopies(t.Context(), shard)
	if err != nil {
		t.Fatal(err)
	}
	clinics := make([]ledger.ClinicID, len(copies))
	for i, c := range copies {
		if clinics[i] = c.Clinic; c.SealedAt.IsZero() || c.Shard != shard {
			t.Errorf("a copy is %+v", c)
		}
	}
	return clinics
}

// What a move left is deleted, and whoever takes the clinic to be there still is
// refused as before.
func TestPurgeOfACopy(t *testing.T) {
	t.Parallel()
	p, d := movedWhole(t), twoShards(t)
	NewReadModels(p.e.db, ReadModelsConfig{}).moveUp(t, p.id)
	if _, err := PurgeCopy(t.Context(), d, p.id, MainShard); !errors.Is(err, ErrInUse) {
		t.Errorf("where the clinic is, a purge ends with %v", err)
	}
	if rows, err := PurgeCopy(t.Context(), d, p.id, secondShard); rows != 0 || err != nil {
		t.Errorf("where it never was, a purge deletes %d rows: %v", rows, err)
	}
	moveTo(t, d, p.id, secondShard)
	if copies := leftCopies(t, d, MainShard); !slices.Contains(copies, p.id) {
		t.Errorf("the clinics that left are %v", copies)
	}
	want, head := rowsMoved(t, d.On(secondShard), p.id), len(leftOf(t, d.Main(), p.id))
	if head < 10 {
		t.Fatalf("little is left: %v", leftOf(t, d.Main(), p.id))
	}
	alone := NewDirectory(p.e.db) // a node that has not heard
	cold, warm := testExecutors(t, alone), p.commands(&ledger.AddMedicine{MedicineID: "x", Name: "X", BaseUnit: "tablet"})
	refused := func(when string) {
		t.Helper()
		create := ledger.Command{Clinic: p.id, IdempotencyKey: "anew-" + when, Actor: "tester", Body: &ledger.CreateClinic{Name: "Anew", TimeZone: "UTC"}}
		for _, command := range append(warm, create) {
			for name, x := range map[string]interface {
				Submit(context.Context, Submission) ([]Verdict, error)
			}{"warm": p.e, "cold": cold} {
				verdicts, err := x.Submit(t.Context(), Submission{Clinic: p.id, Commands: []ledger.Command{command}})
				if err == nil {
					err = verdicts[0].Err
				}
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("%s, a %s node that has not heard answers %v", when, name, err)
				}
			}
		}
		if _, _, err := NewQueries(alone).Clinic(t.Context(), p.id, ReadOptions{}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s, a node that has not heard reads %v", when, err)
		}
	}
	refused("before the purge")

	// Interrupted after each table in turn, it goes on, and nothing comes back
	// meanwhile.
	tables := purgedTables
	var rows int64
	for i := range tables {
		purged, err := purgeFew(t, d, p.id, tables[:i])
		if rows += purged; err != nil {
			t.Fatal(err)
		}
		refused(fmt.Sprintf("with %d tables purged", i))
		if copies := leftCopies(t, d, MainShard); !slices.Contains(copies, p.id) {
			t.Errorf("with %d tables purged, nothing is left to purge", i)
		}
	}
	if _, err := MoveClinic(t.Context(), d, p.id, MainShard, MoveOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a move back over half a copy ends with %v", err)
	}
	if _, err := PurgeCopy(t.Context(), d, p.id, MainShard); !errors.Is(err, ErrInUse) {
		t.Errorf("while a move goes on, a purge ends with %v", err)
	}
	if _, err := MoveClinic(t.Context(), d, p.id, secondShard, MoveOptions{}); err != nil {
		t.Fatal(err) // gives the move up
	}
	last, err := PurgeCopy(t.Context(), d, p.id, MainShard)
	if rows += last; err != nil || rows < int64(head) {
		t.Fatalf("%d rows were deleted: %v", rows, err)
	}
	for table, n := range leftOf(t, d.Main(), p.id) {
		if !slices.Contains(placed, table) && table != "heads" && table != "clinics" && table != "epochs" {
			t.Errorf("%d rows are left in %s", n, table)
		}
	}
	if again, err := PurgeCopy(t.Context(), d, p.id, MainShard); again != 0 || err != nil {
		t.Errorf("purged again, it deletes %d rows: %v", again, err)
	}
	if copies := leftCopies(t, d, MainShard); slices.Contains(copies, p.id) {
		t.Error("what was purged is left still")
	}
	refused("after the purge")
	if summary, err := Verify(t.Context(), d.Main(), VerifyOptions{Report: func(v Violation) {
		if v.Clinic == p.id {
			t.Error(v)
		}
	}}); err != nil {
		t.Error(summary, err)
	}
	if diff := cmp.Diff(want, rowsMoved(t, d.On(secondShard), p.id)); diff != "" {
		t.Errorf("where the clinic is (-want +got):\n%s", diff)
	}

	// It comes back as to a shard that it never was on.
	moveTo(t, d, p.id, MainShard)
	if diff := cmp.Diff(want, rowsMoved(t, d.Main(), p.id)); diff != "" {
		t.Errorf("what came back (-want +got):\n%s", diff)
	}
	models := NewReadModels(p.e.db, ReadModelsConfig{})
	models.moveUp(t, p.id)
	verifyOn(t, d.Main(), p.id)
}

// purgeFew is a purge that is interrupted after some tables.
func purgeFew(t *testing.T, d *Directory, clinic ledger.ClinicID, tables []clinicTable) (rows int64, err error) {
	t.Helper()
	if err := d.mayPurge(t.Context(), clinic, MainShard); err != nil {
		return 0, err
	}
	if _, err := d.Main().empty(t.Context(), clinic); err != nil {
		return 0, err
	}
	for _, table := range tables {
		if err := d.Main().purge(t.Context(), clinic, table, &rows); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// A long copy is deleted a part at a time, and all of it.
func TestPurgeOfManyRows(t *testing.T) {
	t.Parallel()
	c, d := newTestClinic(t, testExecutor(t, ExecutorConfig{})), twoShards(t)
	for range 3 {
		bodies := make([]ledger.CommandBody, 900)
		for i := range bodies {
			bodies[i] = &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1, Supplier: "Acme", Reference: "DN"}
		}
		c.mustAll(bodies...)
	}
	moveTo(t, d, c.id, secondShard)
	rows, err := PurgeCopy(t.Context(), d, c.id, MainShard)
	if err != nil || rows < 5400 {
		t.Errorf("%d rows were deleted: %v", rows, err)
	}
	left := leftOf(t, d.Main(), c.id)
	maps.DeleteFunc(left, func(table string, _ int) bool { return slices.Contains(placed, table) })
	if diff := cmp.Diff(map[string]int{"heads": 1, "clinics": 1}, left); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
}
