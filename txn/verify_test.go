package txn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
)

// verifiable makes a clinic whose journal has, after the five commands of
// newTestClinic:
//
//	6 100 of L1 received at the store     10 5 issued at the store
//	7 30 reserved, and held to the end    11 40 of L1 received at the ward
//	8 10 reserved                         12 3 of them lost
//	9 the 10 issued, which closes a hold
//
// It returns the open hold and the closed one.
func verifiable(tb testing.TB, e *Executor) (c *testClinic, open, closed ledger.HoldID) {
	tb.Helper()
	c = newTestClinic(tb, e)
	c.receive(100)
	open = c.must(reserve(30)).Event.Body.(*ledger.StockReserved).HoldID
	closed = c.must(reserve(10)).Event.Body.(*ledger.StockReserved).HoldID
	c.must(&ledger.IssueStock{HoldID: closed})
	c.must(&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 5})
	c.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 40})
	c.must(&ledger.AdjustStock{LocationID: "ward", LotID: "L1", Direction: ledger.Decrease, Quantity: 3, ReasonCode: "lost"})
	return c, open, closed
}

// violations verifies a clinic and writes each violation as "sequence account:
// invariant".
func violations(tb testing.TB, db *DB, clinic ledger.ClinicID) []string {
	tb.Helper()
	var got []string
	summary, err := Verify(context.Background(), db, VerifyOptions{Clinics: []ledger.ClinicID{clinic}, Report: func(v Violation) {
		if v.Clinic != clinic {
			tb.Errorf("a violation of clinic %s is reported for %s", clinic, v.Clinic)
		}
		tb.Logf("%s", v)
		got = append(got, fmt.Sprintf("%d %s: %s", v.Sequence, v.Account, v.Invariant))
	}})
	if err != nil {
		tb.Fatalf("verify: %v", err)
	}
	if summary.Clinics != 1 || summary.Violations != int64(len(got)) {
		tb.Errorf("the summary is %+v, and %d violations were reported", summary, len(got))
	}
	return got
}

// wipe deletes every row of a clinic, so that nobody finds it broken later.
func wipe(tb testing.TB, db *DB, clinic ledger.ClinicID) {
	tb.Helper()
	for _, table := range []string{
		"clinic_directory", "heads", "journal", "entries", "stock", "holds", "clinics", "locations", "medicines", "lots", "documents",
		"patient_keys", "patient_texts", "patient_identifiers",
	} {
		if _, err := db.write.Exec(context.Background(), "DELETE FROM "+table+" WHERE clinic_id = $1", clinic); err != nil {
			tb.Errorf("wipe %s: %v", table, err)
		}
	}
}

func TestVerifyCleanClinic(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	var progress []VerifyProgress
	summary, err := Verify(t.Context(), c.e.db, VerifyOptions{
		Clinics:  []ledger.ClinicID{c.id},
		Report:   func(v Violation) { t.Errorf("violation: %s", v) },
		Progress: func(p VerifyProgress) { progress = append(progress, p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (VerifySummary{Clinics: 1, Commands: 12, Entries: 7}); summary != want {
		t.Errorf("the summary is %+v, want %+v", summary, want)
	}
	want := VerifyProgress{Clinics: 1, ClinicsTotal: 1, Commands: 12, CommandsTotal: 12, Entries: 7}
	if len(progress) == 0 || progress[len(progress)-1] != want {
		t.Errorf("the progress is %+v, want it to end with %+v", progress, want)
	}
}

// The ways to break a clinic, and all that must be found then. $1 is the clinic,
// OPEN and CLOSED are its holds, and STORE and WARD its lot at those locations.
var corruptions = map[string]struct {
	sql  string
	want []string
}{
	"a balance in stock is wrong": {
		sql: `UPDATE stock SET available = available + 1 WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: []string{
			"12 WARD, bucket available: balance-is-last-entry",
			"12 WARD, bucket available: projection-follows-journal",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"units are reserved for nobody": {
		sql: `UPDATE stock SET available = available - 1, reserved = reserved + 1 WHERE clinic_id = $1 AND location_id = 'store'`,
		want: []string{
			"10 STORE: holds-and-balances",
			"10 STORE, bucket available: balance-is-last-entry",
			"10 STORE, bucket available: projection-follows-journal",
			"10 STORE, bucket reserved: balance-is-last-entry",
			"10 STORE, bucket reserved: projection-follows-journal",
		},
	},
	"a stock row's sequence is wrong": {
		sql: `UPDATE stock SET last_sequence = 11 WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: []string{
			"12 WARD: projection-follows-journal",
		},
	},
	"a stock row is missing": {
		sql: `DELETE FROM stock WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: []string{
			"12 WARD: balance-is-last-entry",
			"12 WARD: projection-follows-journal",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"a stock row is made up": {
		sql: `INSERT INTO stock SELECT clinic_id, 'attic', medicine_id, lot_id, available, reserved, pending, quarantined, in_transit, first_sequence, last_sequence FROM stock WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: []string{
			"12 location attic, medicine zinc, lot L1: projection-follows-journal",
			"12 location attic, medicine zinc, lot L1, bucket available: balance-is-last-entry",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"the last entry is missing": {
		sql: `DELETE FROM entries WHERE clinic_id = $1 AND sequence = 12`,
		want: []string{
			"11 WARD, bucket available: balance-is-last-entry",
			"12 WARD: entries-follow-journal",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"an entry in the middle is missing": {
		sql: `DELETE FROM entries WHERE clinic_id = $1 AND sequence = 8`,
		want: []string{
			"8 STORE: entries-follow-journal",
			"9 STORE, bucket available: balance-is-sum-of-entries",
			"9 STORE, bucket reserved: balance-is-sum-of-entries",
		},
	},
	"a shelf's entries are missing": {
		sql: `DELETE FROM entries WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: []string{
			"11 WARD: entries-follow-journal",
			"12 WARD: entries-follow-journal",
			"12 WARD, bucket available: balance-is-last-entry",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"an entry's quantity is wrong": {
		sql: `UPDATE entries SET quantity = 99 WHERE clinic_id = $1 AND sequence = 6`,
		want: []string{
			"6 STORE: entries-follow-journal",
			"6 STORE, bucket available: balance-is-sum-of-entries",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"an entry's balance is wrong": {
		sql: `UPDATE entries SET available = available + 1 WHERE clinic_id = $1 AND sequence = 7`,
		want: []string{
			"7 STORE: entries-follow-journal",
			"7 STORE, bucket available: balance-is-sum-of-entries",
			"8 STORE, bucket available: balance-is-sum-of-entries",
		},
	},
	"an entry's counterparty is wrong": {
		sql: `UPDATE entries SET debit = 20 WHERE clinic_id = $1 AND sequence = 10`,
		want: []string{
			"10 STORE: entries-follow-journal",
		},
	},
	"an entry's lot is wrong": {
		sql: `UPDATE entries SET lot_id = 'L2' WHERE clinic_id = $1 AND sequence = 12`,
		want: []string{
			"11 WARD, bucket available: balance-is-last-entry",
			"12 WARD: entries-follow-journal",
			"12 location ward, medicine zinc, lot L2: balance-is-last-entry",
			"12 location ward, medicine zinc, lot L2, bucket available: balance-is-sum-of-entries",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
			"12 medicine zinc, lot L2: received-issued-adjusted-on-hand",
		},
	},
	"an entry is made up": {
		sql: `INSERT INTO entries SELECT clinic_id, location_id, medicine_id, sequence, line + 1, lot_id, debit, credit, quantity, available - quantity, reserved, pending, quarantined, in_transit FROM entries WHERE clinic_id = $1 AND sequence = 12`,
		want: []string{
			"12 WARD: entries-follow-journal",
			"12 WARD, bucket available: balance-is-last-entry",
			"12 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"an entry of a command to come": {
		sql: `INSERT INTO entries SELECT clinic_id, 'attic', medicine_id, 5000, line, lot_id, debit, credit, quantity, quantity, 0, 0, 0, 0 FROM entries WHERE clinic_id = $1 AND sequence = 11`,
		want: []string{
			"5000 location attic, medicine zinc, lot L1: balance-is-last-entry",
			"5000 location attic, medicine zinc, lot L1: entries-follow-journal",
			"5000 medicine zinc, lot L1: received-issued-adjusted-on-hand",
		},
	},
	"an event's actor is wrong": {
		sql: `UPDATE journal SET event = decode(replace(encode(event, 'hex'), '746573746572', '746573746573'), 'hex') WHERE clinic_id = $1 AND sequence = 10`,
		want: []string{
			"10 journal: journal-replays",
		},
	},
	"an event's format is unknown": {
		sql: `UPDATE journal SET event = decode('5a' || substr(encode(event, 'hex'), 3), 'hex') WHERE clinic_id = $1 AND sequence = 10`,
		want: []string{
			"10 journal: readable",
		},
	},
	"a hash is wrong": {
		sql: `UPDATE journal SET hash = decode(repeat('ab', 32), 'hex') WHERE clinic_id = $1 AND sequence = 10`,
		want: []string{
			"10 journal: journal-replays",
		},
	},
	"a hash is short": {
		sql: `UPDATE journal SET hash = '\x00' WHERE clinic_id = $1 AND sequence = 10`,
		want: []string{
			"10 journal: readable",
		},
	},
	"a key is wrong": {
		sql: `UPDATE journal SET idempotency_key = 'another' WHERE clinic_id = $1 AND sequence = 8`,
		want: []string{
			"8 journal: journal-columns",
		},
	},
	"a kind is wrong": {
		sql: `UPDATE journal SET kind = kind + 1 WHERE clinic_id = $1 AND sequence = 8`,
		want: []string{
			"8 journal: journal-columns",
		},
	},
	"a time is wrong": {
		sql: `UPDATE journal SET recorded_at = recorded_at - INTERVAL '1 second' WHERE clinic_id = $1 AND sequence = 8`,
		want: []string{
			"8 journal: journal-columns",
		},
	},
	"a time is infinite": {
		sql: `UPDATE journal SET recorded_at = 'infinity' WHERE clinic_id = $1 AND sequence = 8`,
		want: []string{
			"8 journal: journal-columns",
		},
	},
	"a journal row is missing": {
		sql: `DELETE FROM journal WHERE clinic_id = $1 AND sequence = 9`,
		want: []string{
			"9 journal: journal-gap-free",
		},
	},
	"the last journal row is missing": {
		sql: `DELETE FROM journal WHERE clinic_id = $1 AND sequence = 12`,
		want: []string{
			"11 WARD: projection-follows-journal",
			"11 WARD, bucket available: projection-follows-journal",
			"12 head: head-is-last-record",
			"12 WARD: entries-follow-journal",
		},
	},
	"the journal is missing": {
		sql: `DELETE FROM journal WHERE clinic_id = $1`,
		want: []string{
			"0 clinic: projection-follows-journal",
			"1 head: head-is-last-record",
			"2 location store: projection-follows-journal",
			"3 location ward: projection-follows-journal",
			"4 medicine zinc: projection-follows-journal",
			"5 medicine zinc, lot L1: projection-follows-journal",
			"6 STORE: entries-follow-journal",
			"7 location store, medicine zinc, hold OPEN: projection-follows-journal",
			"7 STORE: entries-follow-journal",
			"8 STORE: entries-follow-journal",
			"9 STORE: entries-follow-journal",
			"9 STORE, bucket reserved, hold CLOSED: closed-holds-follow-journal",
			"10 STORE: entries-follow-journal",
			"10 STORE: projection-follows-journal",
			"11 WARD: entries-follow-journal",
			"12 WARD: entries-follow-journal",
			"12 WARD: projection-follows-journal",
		},
	},
	"a journal row has moved": {
		sql: `UPDATE journal SET sequence = 13 WHERE clinic_id = $1 AND sequence = 12`,
		want: []string{
			"12 journal: journal-gap-free",
		},
	},
	"the head's sequence is wrong": {
		sql: `UPDATE heads SET sequence = 11 WHERE clinic_id = $1`,
		want: []string{
			"12 head: head-is-last-record",
		},
	},
	"the head's hash is wrong": {
		sql: `UPDATE heads SET hash = decode(repeat('ab', 32), 'hex') WHERE clinic_id = $1`,
		want: []string{
			"12 head: head-is-last-record",
		},
	},
	"the head's hash is short": {
		sql: `UPDATE heads SET hash = '\x00' WHERE clinic_id = $1`,
		want: []string{
			"12 head: head-is-last-record",
		},
	},
	"the head's time is wrong": {
		sql: `UPDATE heads SET recorded_at = recorded_at + INTERVAL '1 microsecond' WHERE clinic_id = $1`,
		want: []string{
			"12 head: head-is-last-record",
		},
	},
	"the head is missing": {
		sql: `DELETE FROM heads WHERE clinic_id = $1`,
		want: []string{
			"12 head: head-is-last-record",
		},
	},
	"an open hold is missing": {
		sql: `DELETE FROM holds WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: []string{
			"7 location store, medicine zinc, hold OPEN: projection-follows-journal",
			"10 STORE: holds-and-balances",
		},
	},
	"an open hold holds too little": {
		sql: `UPDATE holds SET quantity = 29 WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: []string{
			"7 location store, medicine zinc, hold OPEN: projection-follows-journal",
			"10 STORE: holds-and-balances",
		},
	},
	"an open hold's deadline is wrong": {
		sql: `UPDATE holds SET deadline = deadline + INTERVAL '1 hour' WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: []string{
			"7 location store, medicine zinc, hold OPEN: projection-follows-journal",
		},
	},
	"an open hold is stored as closed": {
		sql: `UPDATE holds SET status = 2, quantity = 0 WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: []string{
			"7 location store, medicine zinc, hold OPEN: projection-follows-journal",
			"7 STORE, bucket reserved, hold OPEN: closed-holds-follow-journal",
			"10 STORE: holds-and-balances",
		},
	},
	"a closed hold is stored as open": {
		sql: `UPDATE holds SET status = 1 WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: []string{
			"9 location store, medicine zinc, hold CLOSED: projection-follows-journal",
			"9 STORE, bucket reserved, hold CLOSED: closed-holds-follow-journal",
		},
	},
	"a closed hold holds units": {
		sql: `UPDATE holds SET quantity = 1 WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: []string{
			"9 STORE, bucket reserved, hold CLOSED: closed-holds-are-empty",
			"9 STORE, bucket reserved, hold CLOSED: closed-holds-follow-journal",
		},
	},
	"a closed hold is missing": {
		sql: `DELETE FROM holds WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: []string{
			"9 STORE, bucket reserved, hold CLOSED: closed-holds-follow-journal",
		},
	},
	"a closed hold's end is wrong": {
		sql: `UPDATE holds SET status = 4 WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: []string{
			"9 STORE, bucket reserved, hold CLOSED: closed-holds-follow-journal",
		},
	},
	"a lot's expiry is wrong": {
		sql: `UPDATE lots SET expiry = expiry - 1 WHERE clinic_id = $1`,
		want: []string{
			"5 medicine zinc, lot L1: projection-follows-journal",
		},
	},
	"a lot's expiry is infinite": {
		sql: `UPDATE lots SET expiry = 'infinity' WHERE clinic_id = $1`,
		want: []string{
			"0 documents: readable",
		},
	},
	"a lot is missing": {
		sql: `DELETE FROM lots WHERE clinic_id = $1`,
		want: []string{
			"5 medicine zinc, lot L1: projection-follows-journal",
		},
	},
	"a medicine's unit is wrong": {
		sql: `UPDATE medicines SET base_unit = 'ml' WHERE clinic_id = $1`,
		want: []string{
			"4 medicine zinc: projection-follows-journal",
		},
	},
	"a location is made up": {
		sql: `INSERT INTO locations SELECT clinic_id, 'attic', 'Attic', kind, active, last_sequence FROM locations WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: []string{
			"3 location attic: projection-follows-journal",
		},
	},
	"the clinic's zone is wrong": {
		sql: `UPDATE clinics SET time_zone = 'UTC' WHERE clinic_id = $1`,
		want: []string{
			"1 clinic: projection-follows-journal",
		},
	},
	"the clinic's row is missing": {
		sql: `DELETE FROM clinics WHERE clinic_id = $1`,
		want: []string{
			"1 clinic: projection-follows-journal",
		},
	},
}

func TestVerifyNamesWhatIsBroken(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	for name, test := range corruptions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e.db.server.Kind == CockroachDB && strings.Contains(test.sql, "infinity") {
				t.Skip("not every CockroachDB has infinite times")
			}
			c, open, closed := verifiable(t, e)
			t.Cleanup(func() { wipe(t, e.db, c.id) })
			holds := strings.NewReplacer(
				"OPEN", string(open), "CLOSED", string(closed),
				"STORE", "location store, medicine zinc, lot L1", "WARD", "location ward, medicine zinc, lot L1")
			tag, err := e.db.write.Exec(t.Context(), holds.Replace(test.sql), c.id)
			if err != nil || tag.RowsAffected() == 0 {
				t.Fatalf("corrupt: %v, %v", tag, err)
			}
			want := slices.Clone(test.want)
			for i := range want {
				want[i] = holds.Replace(want[i])
			}
			if diff := cmp.Diff(want, violations(t, e.db, c.id)); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

// TestVerifyReadsManyChunks breaks a clinic whose journal and entries take
// several reads, far from where they begin.
// Replaying counts the rows of each table beside those that the journal makes.
func TestReplayCountsRows(t *testing.T) {
	t.Parallel()
	e, models := modelled(t, ExecutorConfig{})
	c, _, _ := verifiable(t, e)
	t.Cleanup(func() { wipe(t, e.db, c.id) })
	models.moveUp(t, c.id)
	tables := func() (replayed Replayed) {
		t.Helper()
		if _, err := Verify(t.Context(), e.db, VerifyOptions{Clinics: []ledger.ClinicID{c.id}, Replayed: func(r Replayed) { replayed = r }}); err != nil {
			t.Fatal(err)
		}
		return replayed
	}
	sound := tables()
	want := map[string]int64{
		"entries": 7, "holds, closed": 1, "documents, closed or read on demand": 0, "clinics": 1, "locations": 2, "medicines": 1, "lots": 1,
		"stock": 2, "holds, open": 1, "documents, open": 0, "location_stock_summary": 2, "consumption_months": 1, "stock_outs": 0, "dispensing_days": 0,
		"late_entries": 0,
	}
	if !sound.Whole || sound.Head.Sequence != c.head().Sequence || len(sound.Tables) != len(want) {
		t.Errorf("replayed: %+v", sound)
	}
	for _, table := range sound.Tables {
		if rows, named := want[table.Name]; !named || table.Replayed != rows || table.Stored != rows || table.Differences != 0 {
			t.Errorf("%+v, want %d", table, rows)
		}
	}
	for _, sql := range []string{
		`DELETE FROM entries WHERE clinic_id = $1 AND sequence = 12`, `DELETE FROM stock WHERE clinic_id = $1 AND location_id = 'ward'`,
		`INSERT INTO locations SELECT clinic_id, 'x' || location_id, name, kind, active, last_sequence FROM locations WHERE clinic_id = $1`,
		`UPDATE medicines SET name = 'x' WHERE clinic_id = $1`, `UPDATE consumption_months SET used = 0 WHERE clinic_id = $1`,
	} {
		if _, err := e.db.write.Exec(t.Context(), sql, c.id); err != nil {
			t.Fatal(err)
		}
	}
	broken := map[string]ReplayedTable{
		"entries": {"entries", 7, 6, 1}, "stock": {"stock", 2, 1, 1}, "locations": {"locations", 2, 4, 2},
		"medicines": {"medicines", 1, 1, 1}, "consumption_months": {"consumption_months", 1, 1, 1},
	}
	for _, table := range tables().Tables {
		if want, named := broken[table.Name]; named && table != want || !named && table.Differences != 0 {
			t.Errorf("%+v, want %+v", table, want)
		}
	}
}

func TestVerifyReadsManyChunks(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	t.Cleanup(func() { wipe(t, c.e.db, c.id) })
	c.receive(10_000)
	c.mustAll(slices.Repeat([]ledger.CommandBody{&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1}}, 2*verifyChunk+500)...)
	if got := violations(t, c.e.db, c.id); len(got) != 0 {
		t.Fatalf("a clean clinic has violations: %v", got)
	}
	_, err := c.e.db.write.Exec(t.Context(), `DELETE FROM entries WHERE clinic_id = $1 AND sequence = 4321`, c.id)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"4321 location store, medicine zinc, lot L1: entries-follow-journal",
		"4322 location store, medicine zinc, lot L1, bucket available: balance-is-sum-of-entries",
		"4506 medicine zinc, lot L1: received-issued-adjusted-on-hand",
	}
	if diff := cmp.Diff(want, violations(t, c.e.db, c.id)); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}

	if _, err = c.e.db.write.Exec(t.Context(), `DELETE FROM entries WHERE clinic_id = $1`, c.id); err != nil {
		t.Fatal(err)
	}
	reported := 0
	summary, err := Verify(t.Context(), c.e.db, VerifyOptions{Clinics: []ledger.ClinicID{c.id}, Report: func(Violation) { reported++ }})
	if err != nil || reported != maxViolationsPerClinic || summary.Violations < 4501 {
		t.Errorf("without entries %d violations are reported of %d: %v", reported, summary.Violations, err)
	}
}

func TestVerifyUnderLoad(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(1_000_000)
	done := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				verdicts := c.submit(Submission{Commands: c.commands(reserve(2), reserve(1))})
				for i, v := range verdicts {
					if v.Err != nil {
						t.Errorf("reserve: %v", v.Err)
						return
					}
					body := ledger.CommandBody(&ledger.IssueStock{HoldID: v.Record.Event.Body.(*ledger.StockReserved).HoldID})
					if i == 1 {
						body = &ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 3}
					}
					if v := c.give(c.command(body)); v.Err != nil {
						t.Errorf("%s: %v", body.Kind(), v.Err)
						return
					}
				}
			}
		})
	}
	var last VerifySummary
	grew := 0
	for grew < 10 && !t.Failed() {
		summary, err := Verify(t.Context(), c.e.db, VerifyOptions{Clinics: []ledger.ClinicID{c.id}, Report: func(v Violation) { t.Errorf("violation: %s", v) }})
		if err != nil {
			t.Errorf("verify: %v", err)
			break
		}
		if summary.Commands > last.Commands {
			grew++
		}
		last = summary
	}
	close(done)
	load.Wait()
	c.verify()
}

// TestVerifyRepeatsAClinicWithoutRepeatingItsReport loses the end of a
// transaction that had found everything.
func TestVerifyRepeatsAClinicWithoutRepeatingItsReport(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	t.Cleanup(func() { wipe(t, c.e.db, c.id) })
	if _, err := c.e.db.write.Exec(t.Context(), `UPDATE stock SET last_sequence = 11 WHERE clinic_id = $1 AND location_id = 'ward'`, c.id); err != nil {
		t.Fatal(err)
	}
	proxy := faultproxy.New(t, testURL(t))
	db := openTest(t, Config{DatabaseURL: proxy.URL()})
	for _, fault := range []faultproxy.Fault{faultproxy.LoseRequest, faultproxy.LoseAnswer} {
		before := proxy.Fired()
		proxy.Arm(fault)
		got := violations(t, db, c.id)
		if want := []string{"12 location ward, medicine zinc, lot L1: projection-follows-journal"}; !slices.Equal(got, want) {
			t.Errorf("violations are %q, want %q", got, want)
		}
		if proxy.Fired() != before+1 {
			t.Error("no transaction was repeated")
		}
	}
}

// TestVerifyOutlastsTransactions verifies with a database that gives a
// transaction no time at all: a large clinic takes longer than any other.
func TestVerifyOutlastsTransactions(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	db := openTest(t, Config{DatabaseURL: testURL(t), TransactionTimeout: time.Nanosecond})
	if got := violations(t, db, c.id); len(got) != 0 {
		t.Errorf("violations are %q", got)
	}
}

// TestVerifyListsEveryClinicWithRows leaves clinics a row in one table only.
func TestVerifyListsEveryClinicWithRows(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	stranded := make(map[ledger.ClinicID]string)
	for _, table := range []string{"heads", "journal", "entries", "stock", "holds", "clinics", "locations", "medicines", "lots", "documents", "clinic_directory"} {
		c, _, _ := verifiable(t, e)
		c.must(&ledger.UpdateStockLevels{LocationID: "store", MedicineID: "zinc", Min: 1, Reorder: 1})
		t.Cleanup(func() { wipe(t, e.db, c.id) })
		stranded[c.id] = table
		for _, other := range []string{"heads", "journal", "entries", "stock", "holds", "clinics", "locations", "medicines", "lots", "documents", "clinic_directory"} {
			if other == table {
				continue
			}
			if _, err := e.db.write.Exec(t.Context(), "DELETE FROM "+other+" WHERE clinic_id = $1", c.id); err != nil {
				t.Fatal(err)
			}
		}
	}
	listed, err := e.db.clinicsWithRows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for clinic, table := range stranded {
		if !slices.Contains(listed, clinic) {
			t.Errorf("a clinic with rows in %s only is not listed", table)
		}
		got := violations(t, e.db, clinic)
		headless := slices.ContainsFunc(got, func(v string) bool { return strings.HasSuffix(v, " head: head-is-last-record") })
		if want := table != "clinic_directory"; headless != want {
			t.Errorf("a clinic with rows in %s only has violations %q", table, got)
		}
	}
}

// TestVerifySumsUpClearing is about entries that no command posts.
func TestVerifySumsUpClearing(t *testing.T) {
	t.Parallel()
	v := newVerifier("a", nil)
	out := ledger.Entry{Sequence: 7, Location: "store", Medicine: "zinc", Lot: "L1", Credit: ledger.Available, Debit: ledger.Clearing, Quantity: 5}
	in := ledger.Entry{Sequence: 7, Location: "ward", Medicine: "zinc", Lot: "L1", Credit: ledger.Clearing, Debit: ledger.Available, Quantity: 5}
	if v.checkClearing([]ledger.Entry{out, in}); v.count != 0 {
		t.Errorf("a move between locations has violations %v", v.violations)
	}
	in.Quantity = 4
	v.checkClearing([]ledger.Entry{out, in})
	want := []Violation{{
		Clinic: "a", Account: "medicine zinc, lot L1, bucket clearing", Sequence: 7,
		Invariant: "clearing-is-zero", Message: "1 units are left after the command",
	}}
	if diff := cmp.Diff(want, v.violations); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
}
