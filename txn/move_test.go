package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// secondShard is the id of the tests' other database.
const secondShard ShardID = "shard-2"

var sharedShard struct {
	sync.Once
	url string
	db  *DB
	err error
}

// twoShards returns a directory of the process's database and another one.
func twoShards(t *testing.T) *Directory {
	t.Helper()
	main := testDB(t)
	sharedShard.Do(func() {
		sharedShard.url = keptDatabaseURL(t, strings.ReplaceAll(newClinicID(t), "-", "_"))
		ctx := context.Background()
		if sharedShard.err = Migrate(ctx, sharedShard.url); sharedShard.err != nil {
			return
		}
		if sharedShard.db, sharedShard.err = Open(ctx, Config{DatabaseURL: sharedShard.url}); sharedShard.err != nil {
			return
		}
		sharedShard.err = errors.Join(
			NewDirectory(main).Add(ctx, MainShard, "north", main),
			NewDirectory(main).Add(ctx, secondShard, "south", sharedShard.db),
		)
	})
	if sharedShard.err != nil {
		t.Fatal(sharedShard.err)
	}
	d := NewDirectory(main)
	if err := d.Reach(t.Context(), secondShard, sharedShard.db); err != nil {
		t.Fatal(err)
	}
	return d
}

func testExecutors(t *testing.T, d *Directory) *Executors {
	t.Helper()
	x := NewExecutors(d, ExecutorConfig{}, nil)
	t.Cleanup(func() {
		if err := x.Close(context.Background()); err != nil {
			t.Errorf("close executors: %v", err)
		}
	})
	return x
}

// moveTo moves a clinic and checks that it verifies where it is then.
func moveTo(t *testing.T, d *Directory, clinic ledger.ClinicID, to ShardID) MovedClinic {
	t.Helper()
	moved, err := MoveClinic(t.Context(), d, clinic, to, MoveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	verifyOn(t, d.On(to), clinic)
	return moved
}

func verifyOn(t *testing.T, db *DB, clinic ledger.ClinicID) {
	t.Helper()
	summary, err := Verify(t.Context(), db, VerifyOptions{
		Clinics: []ledger.ClinicID{clinic}, Report: func(v Violation) { t.Error(v) },
	})
	if err != nil || summary.Commands == 0 {
		t.Fatalf("%d commands verified: %v", summary.Commands, err)
	}
}

// movedWhole is a clinic with everything that a clinic can have.
func movedWhole(t *testing.T) *pharmacy {
	t.Helper()
	p := newPharmacy(t)
	p.everyDispensing()
	p.everyDocument()
	p.putKey(bob)
	p.mustPrivate(&ledger.RegisterPatient{PatientID: bob, TextDigest: textDigest(1)}, identity(bob, 1, textDigest(9)))
	_, err := NewOperations(NewDirectory(p.e.db)).Submit(t.Context(), p.id, []NewOperation{{
		Priority: LowPriority, Submission: []byte("later"), Command: p.command(&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1}),
	}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	a := &aisle{p.testClinic, NewOperations(NewDirectory(p.e.db))}
	if _, err := a.ops.AdvanceReport(t.Context(), a.ask(t, "report", noon), &ReportPage{Data: []byte("a page"), Rows: 1, Sequence: 1, Next: "b"}, noon); err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewWebhooks(NewDirectory(p.e.db)).Create(t.Context(), testWebhook(p.id, "billing")); err != nil {
		t.Fatal(err)
	}
	return p
}

// placed are the tables that are about where a clinic is.
var placed = []string{"clinic_directory", "clinic_moves", "sealed_clinics", "reconciled", "job_findings", "job_missed"}

func rowsMoved(t *testing.T, db *DB, clinic ledger.ClinicID) map[string][]string {
	t.Helper()
	rows := rowsOf(t, db, clinic)
	maps.DeleteFunc(rows, func(table string, _ []string) bool { return slices.Contains(placed, table) })
	return rows
}

func TestClinicMovesWithAllThatItHas(t *testing.T) {
	t.Parallel()
	p, d := movedWhole(t), twoShards(t)
	want, head := rowsMoved(t, d.Main(), p.id), p.head()
	for _, kept := range keptTables {
		if len(want[kept.name]) == 0 {
			t.Fatalf("the clinic has nothing in %s", kept.name)
		}
	}

	moved := moveTo(t, d, p.id, secondShard)
	t.Logf("%d commands moved, sealed for %s", moved.Head.Sequence, moved.Sealed)
	if moved.From != MainShard || moved.Already || moved.Head.Sequence != head.Sequence || moved.Head.Hash != head.Hash || moved.Head.Epoch != head.Epoch {
		t.Errorf("the move says %+v, and the head was %+v", moved, head)
	}
	if diff := cmp.Diff(want, rowsMoved(t, d.On(secondShard), p.id)); diff != "" {
		t.Errorf("what arrived (-want +got):\n%s", diff)
	}
	left := rowsMoved(t, d.Main(), p.id)
	for _, kept := range keptTables {
		if len(left[kept.name]) > 0 {
			t.Errorf("%s still has rows where the clinic was", kept.name)
		}
	}

	// Nodes that reach both shards follow, with everything that they read.
	x, q := testExecutors(t, d), NewQueries(d)
	again, err := x.Submit(t.Context(), Submission{Clinic: p.id, Commands: []ledger.Command{{
		Clinic: p.id, IdempotencyKey: "key-1", Actor: "tester", Body: &ledger.CreateClinic{Name: "Test clinic", TimeZone: "Africa/Nairobi"},
	}}})
	if err != nil || !again[0].Replayed {
		t.Errorf("a command from before the move is answered %+v, %v", again, err)
	}
	if _, asOf, err := q.Clinic(t.Context(), p.id, ReadOptions{}); err != nil || asOf.Sequence != head.Sequence || asOf.Epoch != head.Epoch {
		t.Errorf("it is read as of %+v, %v; want %+v", asOf, err, head)
	}
	if key, err := NewPatients(d).Key(t.Context(), p.id, bob); err != nil || string(key) != "wrapped" {
		t.Errorf("the patient's key is %q, %v", key, err)
	}
	// Those that do not, say so.
	alone, refused := testExecutors(t, NewDirectory(p.e.db)), p.commands(&ledger.AddMedicine{MedicineID: "x", Name: "X", BaseUnit: "tablet"})
	verdicts, err := alone.Submit(t.Context(), Submission{Clinic: p.id, Commands: refused})
	if err == nil {
		err = verdicts[0].Err
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("a node without the shard answers %v", err)
	}
	if _, _, err := p.q.Clinic(t.Context(), p.id, ReadOptions{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a node without the shard reads %v", err)
	}
	if moved := moveTo(t, d, p.id, secondShard); !moved.Already {
		t.Errorf("a second move says %+v", moved)
	}
	if moves, err := d.Moves(t.Context()); err != nil || slices.ContainsFunc(moves, func(m ClinicMove) bool { return m.Clinic == p.id }) {
		t.Errorf("moves under way: %v, %v", moves, err)
	}
}

func TestClinicMovesThereAndBack(t *testing.T) {
	t.Parallel()
	p, d := movedWhole(t), twoShards(t)
	x := testExecutors(t, d)
	want := p.head().Sequence
	for i, to := range []ShardID{secondShard, MainShard, secondShard, MainShard} {
		moveTo(t, d, p.id, to)
		verdicts, err := x.Submit(t.Context(), Submission{Clinic: p.id, Commands: []ledger.Command{{
			Clinic: p.id, Actor: "tester", IdempotencyKey: fmt.Sprintf("there-%d", i),
			Body: &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1, Supplier: "Acme", Reference: "DN"},
		}}})
		if want++; err != nil || verdicts[0].Err != nil || verdicts[0].Record.Event.Sequence != want {
			t.Fatalf("on %s: %+v, %v", to, verdicts, err)
		}
		verifyOn(t, d.On(to), p.id)
	}
}

// TestMoveGoesOnWhereItWas interrupts a move after each of its steps.
func TestMoveGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	for _, last := range []MoveStep{MoveBegin, MoveCopy, MoveSeal, MoveRest, MoveOpen, MoveFlip, MoveClear} {
		t.Run(string(last), func(t *testing.T) {
			t.Parallel()
			p, d := movedWhole(t), twoShards(t)
			x, want := testExecutors(t, d), rowsMoved(t, d.Main(), p.id)
			killed := errors.New("killed")
			_, err := MoveClinic(t.Context(), d, p.id, secondShard, MoveOptions{Done: func(step MoveStep) error {
				if step == last {
					return killed
				}
				return nil
			}})
			if !errors.Is(err, killed) {
				t.Fatalf("the first attempt ended with %v", err)
			}
			command := ledger.Command{
				Clinic: p.id, Actor: "tester", IdempotencyKey: "meanwhile",
				Body: &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1, Supplier: "Acme", Reference: "DN"},
			}
			works := slices.Contains([]MoveStep{MoveBegin, MoveCopy, MoveFlip, MoveClear}, last)
			verdicts, err := x.Submit(t.Context(), Submission{Clinic: p.id, Commands: []ledger.Command{command}})
			if err == nil {
				err = verdicts[0].Err
			}
			if works && err != nil || !works && !errors.Is(err, ErrUnavailable) {
				t.Errorf("after %s, a command is answered %v", last, err)
			}
			// Where it is not sealed, it may stay; where it has arrived, another move
			// has to wait.
			gaveUp := last == MoveBegin || last == MoveCopy
			if _, err := MoveClinic(t.Context(), d, p.id, MainShard, MoveOptions{}); gaveUp && err != nil || !gaveUp && !errors.Is(err, ErrMovesElsewhere) {
				t.Errorf("another move is answered %v", err)
			}
			if gaveUp {
				summary, err := Verify(t.Context(), d.On(secondShard), VerifyOptions{Report: func(v Violation) {
					if v.Clinic == p.id { // others may be on their way
						t.Error(v)
					}
				}})
				if err != nil {
					t.Error(summary, err)
				}
			}
			moveTo(t, d, p.id, secondShard)
			verdicts, err = x.Submit(t.Context(), Submission{Clinic: p.id, Commands: []ledger.Command{command}})
			if err != nil || verdicts[0].Err != nil || verdicts[0].Replayed != works {
				t.Errorf("after the move: %+v, %v", verdicts, err)
			}
			got := rowsMoved(t, d.On(secondShard), p.id)
			for _, table := range []string{"patient_keys", "patient_texts", "patient_identifiers", "operations", "webhooks", "reports", "report_parts"} {
				if diff := cmp.Diff(want[table], got[table]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", table, diff)
				}
			}
		})
	}
}

// TestMoverThatSlept has a mover sleep after one of its steps, while others bring
// its move to the end and the clinic back.
func TestMoverThatSlept(t *testing.T) {
	t.Parallel()
	for _, last := range []MoveStep{MoveBegin, MoveCopy, MoveSeal, MoveRest, MoveOpen, MoveFlip, MoveClear} {
		t.Run(string(last), func(t *testing.T) {
			t.Parallel()
			p, d := movedWhole(t), twoShards(t)
			want, slept := rowsMoved(t, d.Main(), p.id), false
			_, err := MoveClinic(t.Context(), d, p.id, secondShard, MoveOptions{Done: func(step MoveStep) error {
				if step == last && !slept {
					slept = true
					moveTo(t, twoShards(t), p.id, secondShard)
					moveTo(t, twoShards(t), p.id, MainShard)
				}
				return nil
			}})
			if err == nil && last != MoveClear {
				t.Error("it took the move back for its own")
			}
			if shard, err := NewDirectory(d.Main()).Shard(t.Context(), p.id); err != nil || shard != MainShard {
				t.Errorf("the clinic is on %s, %v", shard, err)
			}
			if diff := cmp.Diff(want, rowsMoved(t, d.Main(), p.id)); diff != "" {
				t.Errorf("what is there after it (-want +got):\n%s", diff)
			}
			p.receive(1)
			moveTo(t, d, p.id, secondShard)
		})
	}
}

// TestMoveOverAnotherJournal refuses a shard that has the clinic in use too, as
// after a backup was put back.
func TestMoveOverAnotherJournal(t *testing.T) {
	t.Parallel()
	c, d := newTestClinic(t, testExecutor(t, ExecutorConfig{})), twoShards(t)
	moveTo(t, d, c.id, secondShard)
	moveTo(t, d, c.id, MainShard)
	if _, err := d.On(secondShard).write.Exec(t.Context(), `UPDATE heads SET epoch = 1 WHERE clinic_id = $1`, c.id); err != nil {
		t.Fatal(err)
	}
	c.receive(1)
	if _, err := MoveClinic(t.Context(), d, c.id, secondShard, MoveOptions{}); !errors.Is(err, ErrOtherJournal) {
		t.Errorf("the move ended with %v", err)
	}
	c.receive(1)
}

// TestMoveUnderLoad moves a clinic to and fro, with moves cut off at random,
// while commands are given on two nodes.
func TestMoveUnderLoad(t *testing.T) {
	t.Parallel()
	d, other := twoShards(t), twoShards(t)
	nodes := []*Executors{testExecutors(t, d), testExecutors(t, other)}
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	var stop atomic.Bool
	var accepted atomic.Int64
	var working sync.WaitGroup
	for worker := range 4 {
		working.Go(func() {
			for n := 0; !stop.Load(); n++ {
				command := ledger.Command{
					Clinic: c.id, Actor: "tester", IdempotencyKey: fmt.Sprintf("w%d-%d", worker, n),
					Body: &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1, Supplier: "Acme", Reference: "DN"},
				}
				for {
					verdicts, err := nodes[(worker+n)%2].Submit(context.Background(), Submission{Clinic: c.id, Commands: []ledger.Command{command}})
					if err == nil {
						err = verdicts[0].Err
					}
					if err == nil {
						accepted.Add(1)
						break
					}
					if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrAmbiguous) {
						t.Errorf("a command is answered %v", err)
						return
					}
				}
			}
		})
	}
	for i, to := range []ShardID{secondShard, MainShard, secondShard, MainShard} {
		before := accepted.Load()
		for steps := i; ; steps += 3 { // each attempt gets further
			left := steps
			_, err := MoveClinic(t.Context(), d, c.id, to, MoveOptions{Done: func(MoveStep) error {
				if left--; left < 0 {
					return context.Canceled
				}
				return nil
			}})
			if err == nil {
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("the move to %s: %v", to, err)
			}
		}
		for deadline := time.Now().Add(20 * time.Second); accepted.Load() < before+50; {
			if time.Now().After(deadline) {
				t.Fatalf("nothing is accepted after the move to %s", to)
			}
			<-time.After(time.Millisecond)
		}
	}
	stop.Store(true)
	working.Wait()
	verifyOn(t, d.Main(), c.id)
	stock, _, err := NewQueries(d).Stock(t.Context(), c.id, ledger.Shelf{Location: "store", Medicine: "zinc"}, ReadOptions{})
	if err != nil || stock.Totals.Available != accepted.Load() {
		t.Errorf("%d commands were accepted, and %d units are there: %v", accepted.Load(), stock.Totals.Available, err)
	}
}

// TestMoveOfADamagedJournal finds what is wrong before anybody uses the copy.
func TestMoveOfADamagedJournal(t *testing.T) {
	t.Parallel()
	c, d := newTestClinic(t, testExecutor(t, ExecutorConfig{})), twoShards(t)
	c.receive(5)
	c.sql(`UPDATE journal SET hash = sha256(hash) WHERE clinic_id = $1 AND sequence = 4`, c.id)
	if _, err := MoveClinic(t.Context(), d, c.id, secondShard, MoveOptions{}); err == nil || !strings.Contains(err.Error(), "sequence 4") {
		t.Errorf("the move ended with %v", err)
	}
	if shard, err := NewDirectory(d.Main()).Shard(t.Context(), c.id); err != nil || shard != MainShard {
		t.Errorf("the clinic is on %s, %v", shard, err)
	}
	c.receive(1)
}

// TestEveryTableMoves finds tables that nobody thought of.
func TestEveryTableMoves(t *testing.T) {
	t.Parallel()
	p, d := movedWhole(t), twoShards(t)
	NewReadModels(p.e.db, ReadModelsConfig{}).moveUp(t, p.id)
	follows := slices.Sorted(maps.Keys(rowsMoved(t, d.Main(), p.id)))
	for _, table := range tenantTables(t, d.Main()) {
		kept := slices.ContainsFunc(keptTables, func(k clinicTable) bool { return k.name == table })
		if !kept && !slices.Contains(follows, table) && !slices.Contains(placed, table) && !isModel(table) && table != cursorsTable.name && table != "epochs" {
			t.Errorf("%s has rows of clinics, and nothing says whether a move brings them (keptTables) or they are about a place", table)
		}
	}
}

func TestMovesThatCannotBe(t *testing.T) {
	t.Parallel()
	d := twoShards(t)
	var absent *ledger.Rejection
	if _, err := MoveClinic(t.Context(), d, "t-nowhere", secondShard, MoveOptions{}); !errors.As(err, &absent) {
		t.Errorf("a clinic that is not there: %v", err)
	}
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	if _, err := MoveClinic(t.Context(), d, c.id, "shard-9", MoveOptions{}); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "shard-9") {
		t.Errorf("a shard that is not there: %v", err)
	}
	c.receive(1) // it works as before
}

func TestNewClinicsArePlaced(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		region string
		want   ShardID
	}{{"north", MainShard}, {"south", secondShard}} {
		d := twoShards(t)
		if _, err := d.SetOpen(t.Context(), secondShard, true); err != nil {
			t.Fatal(err)
		}
		d.Near(test.region)
		x := testExecutors(t, d)
		clinic := ledger.ClinicID(newClinicID(t))
		verdicts, err := x.Submit(t.Context(), Submission{Clinic: clinic, Commands: []ledger.Command{{
			Clinic: clinic, Actor: "tester", IdempotencyKey: "new", Body: &ledger.CreateClinic{Name: "New", TimeZone: "UTC"},
		}}})
		if err != nil || verdicts[0].Err != nil {
			t.Fatal(verdicts, err)
		}
		if shard, err := NewDirectory(d.Main()).Shard(t.Context(), clinic); err != nil || shard != test.want {
			t.Errorf("near %s the clinic is on %s, %v", test.region, shard, err)
		}
		verifyOn(t, d.On(test.want), clinic)
		if region := d.Region(clinic); region != test.region {
			t.Errorf("its region is %q, and not %q", region, test.region)
		}
		all, _, err := NewQueries(d).ListClinics(t.Context(), []ledger.ClinicID{clinic}, "", 10)
		if err != nil || len(all) != 1 {
			t.Errorf("it is listed as %v, %v", all, err)
		}
	}
}

func TestShardsKnowWhoTheyAre(t *testing.T) {
	t.Parallel()
	d := twoShards(t)
	if err := NewDirectory(d.Main()).Reach(t.Context(), "shard-3", d.On(secondShard)); err == nil || !strings.Contains(err.Error(), "shard-2") {
		t.Errorf("a shard under another's name: %v", err)
	}
	if err := NewDirectory(d.On(secondShard)).CheckMain(t.Context()); err == nil {
		t.Error("a shard is taken for the database with the directory")
	}
	if err := NewDirectory(d.Main()).CheckMain(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Add(t.Context(), "shard-3", "", d.Main()); err == nil {
		t.Error("a database with clinics becomes a shard")
	}
	list, err := d.List(t.Context())
	if err != nil || len(list) != 2 || list[0].ID != MainShard || list[1].ID != secondShard || list[1].Region != "south" {
		t.Errorf("the shards are %+v, %v", list, err)
	}
	if found, err := d.SetOpen(t.Context(), "shard-9", true); found || err != nil {
		t.Errorf("a shard that is not there was opened: %t, %v", found, err)
	}
}

// keptDatabaseURL makes an empty database that lasts as long as the process.
func keptDatabaseURL(t *testing.T, name string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), testURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return databaseURL(t, testURL(t), name)
}
