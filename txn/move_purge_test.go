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

func leftRows(left map[string]int) (rows int64) {
	for _, n := range left {
		rows += int64(n)
	}
	return rows
}

func leftCopies(t *testing.T, d *Directory, shard ShardID) []ledger.ClinicID {
	t.Helper()
	clinics, err := d.LeftCopies(t.Context(), shard)
	if err != nil {
		t.Fatal(err)
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
	alone := NewDirectory(p.e.db) // a node that has not heard
	known, cold, warm := p.command(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1}), testExecutors(t, alone), testExecutors(t, alone)
	if _, err := warm.Submit(t.Context(), Submission{Clinic: p.id, Commands: []ledger.Command{known}}); err != nil {
		t.Fatal(err)
	}
	moveTo(t, d, p.id, secondShard)
	if copies := leftCopies(t, d, MainShard); !slices.Contains(copies, p.id) {
		t.Errorf("the clinics that left are %v", copies)
	}
	want, before := rowsMoved(t, d.On(secondShard), p.id), leftRows(leftOf(t, d.Main(), p.id))
	if before < 50 {
		t.Fatalf("little is left: %v", leftOf(t, d.Main(), p.id))
	}
	refusedBy := func(x *Executors, when string) {
		t.Helper()
		for _, body := range []ledger.CommandBody{&ledger.AddMedicine{MedicineID: "x", Name: "X", BaseUnit: "tablet"}, &ledger.CreateClinic{Name: "Anew", TimeZone: "UTC"}} {
			verdicts, err := x.Submit(t.Context(), Submission{Clinic: p.id, Commands: p.commands(body)})
			if err == nil {
				err = verdicts[0].Err
			}
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s, a node that has not heard answers %v", when, err)
			}
		}
	}
	refused := func(when string) {
		t.Helper()
		refusedBy(cold, when)
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
	if _, err := MoveClinic(t.Context(), d, p.id, MainShard, MoveOptions{}); !errors.Is(err, ErrHalfPurged) {
		t.Errorf("a move back over half a copy ends with %v", err)
	}
	last, err := PurgeCopy(t.Context(), d, p.id, MainShard)
	if rows += last; err != nil || rows < before-20 || rows > before {
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
	refusedBy(warm, "with what it knows from before the move")
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
	seal, err := d.Main().sealer(t.Context(), clinic)
	if err != nil {
		return 0, err
	}
	if _, err := d.Main().empty(t.Context(), clinic, seal); err != nil {
		return 0, err
	}
	for _, table := range tables {
		if err := d.Main().purge(t.Context(), clinic, table, &rows); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// A purge that slept after it asked the directory, while the clinic came back and
// is about to leave again, deletes nothing.
func TestPurgeThatSlept(t *testing.T) {
	t.Parallel()
	c, d := newTestClinic(t, testExecutor(t, ExecutorConfig{})), twoShards(t)
	moveTo(t, d, c.id, secondShard)
	seal, err := d.Main().sealer(t.Context(), c.id)
	if err != nil || seal == "" {
		t.Fatalf("the clinic is sealed by %q, %v", seal, err)
	}
	moveTo(t, d, c.id, MainShard)
	if there, err := d.Main().empty(t.Context(), c.id, seal); !errors.Is(err, ErrInUse) {
		t.Errorf("where the clinic is again, it empties the head: %t, %v", there, err)
	}
	c.receive(1)
	want, killed := c.head().Sequence, errors.New("killed")
	_, err = MoveClinic(t.Context(), d, c.id, secondShard, MoveOptions{Done: func(step MoveStep) error {
		if step == MoveSeal {
			return killed
		}
		return nil
	}})
	if !errors.Is(err, killed) {
		t.Fatal(err)
	}
	if there, err := d.Main().empty(t.Context(), c.id, seal); !errors.Is(err, ErrInUse) {
		t.Errorf("on the clinic's way away again, it empties the head: %t, %v", there, err)
	}
	if rows, err := PurgeCopy(t.Context(), d, c.id, MainShard); rows != 0 || !errors.Is(err, ErrInUse) {
		t.Errorf("while the move goes on, a purge deletes %d rows: %v", rows, err)
	}
	if moved := moveTo(t, d, c.id, secondShard); moved.Head.Sequence != want {
		t.Errorf("the clinic arrived with sequence %d of %d", moved.Head.Sequence, want)
	}
}

// A copy that is the only one of a record is no copy, as after an old backup was
// put back where the clinic is.
func TestPurgeOfTheOnlyCopy(t *testing.T) {
	t.Parallel()
	c, d := newTestClinic(t, testExecutor(t, ExecutorConfig{})), twoShards(t)
	last := c.head().Sequence
	moveTo(t, d, c.id, secondShard)
	if _, err := d.On(secondShard).write.Exec(t.Context(), `DELETE FROM journal WHERE clinic_id = $1 AND sequence = $2`, c.id, last); err != nil {
		t.Fatal(err)
	}
	before := leftOf(t, d.Main(), c.id)
	if rows, err := PurgeCopy(t.Context(), d, c.id, MainShard); rows != 0 || !errors.Is(err, ErrOtherJournal) {
		t.Errorf("it deletes %d rows: %v", rows, err)
	}
	if diff := cmp.Diff(before, leftOf(t, d.Main(), c.id)); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
	lose(t, d.On(secondShard), c.id) // verifies no more
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
