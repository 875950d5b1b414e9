package txn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stockledger/stockledger/ledger"
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
	summary, err := Verify(context.Background(), db, []ledger.ClinicID{clinic}, func(v Violation) {
		if v.Clinic != clinic {
			tb.Errorf("a violation of clinic %s is reported for %s", clinic, v.Clinic)
		}
		tb.Logf("%s", v)
		got = append(got, fmt.Sprintf("%d %s: %s", v.Sequence, v.Account, v.Invariant))
	})
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
		"clinic_directory", "heads", "journal", "entries", "stock", "holds", "clinics", "locations", "medicines", "lots",
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
	summary, err := VerifyWith(t.Context(), c.e.db, VerifyOptions{
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

// The ways to break a clinic. $1 is the clinic; OPEN and CLOSED are its holds.
var corruptions = map[string]struct {
	sql  string
	want []string
}{
	"a balance in stock is wrong": {
		sql:  `UPDATE stock SET available = available + 1 WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: nil,
	},
	"units are reserved for nobody": {
		sql:  `UPDATE stock SET available = available - 1, reserved = reserved + 1 WHERE clinic_id = $1 AND location_id = 'store'`,
		want: nil,
	},
	"a stock row's sequence is wrong": {
		sql:  `UPDATE stock SET last_sequence = 11 WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: nil,
	},
	"a stock row is missing": {
		sql:  `DELETE FROM stock WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: nil,
	},
	"a stock row is made up": {
		sql:  `INSERT INTO stock SELECT clinic_id, 'attic', medicine_id, lot_id, available, reserved, pending, quarantined, in_transit, first_sequence, last_sequence FROM stock WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: nil,
	},
	"the last entry is missing": {
		sql:  `DELETE FROM entries WHERE clinic_id = $1 AND sequence = 12`,
		want: nil,
	},
	"an entry in the middle is missing": {
		sql:  `DELETE FROM entries WHERE clinic_id = $1 AND sequence = 8`,
		want: nil,
	},
	"a shelf's entries are missing": {
		sql:  `DELETE FROM entries WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: nil,
	},
	"an entry's quantity is wrong": {
		sql:  `UPDATE entries SET quantity = 99 WHERE clinic_id = $1 AND sequence = 6`,
		want: nil,
	},
	"an entry's balance is wrong": {
		sql:  `UPDATE entries SET available = available + 1 WHERE clinic_id = $1 AND sequence = 7`,
		want: nil,
	},
	"an entry's counterparty is wrong": {
		sql:  `UPDATE entries SET debit = 20 WHERE clinic_id = $1 AND sequence = 10`,
		want: nil,
	},
	"an entry's lot is wrong": {
		sql:  `UPDATE entries SET lot_id = 'L2' WHERE clinic_id = $1 AND sequence = 12`,
		want: nil,
	},
	"an entry is made up": {
		sql:  `INSERT INTO entries SELECT clinic_id, location_id, medicine_id, sequence, line + 1, lot_id, debit, credit, quantity, available - quantity, reserved, pending, quarantined, in_transit FROM entries WHERE clinic_id = $1 AND sequence = 12`,
		want: nil,
	},
	"an entry of a command to come": {
		sql:  `INSERT INTO entries SELECT clinic_id, 'attic', medicine_id, 5000, line, lot_id, debit, credit, quantity, quantity, 0, 0, 0, 0 FROM entries WHERE clinic_id = $1 AND sequence = 11`,
		want: nil,
	},
	"an event's byte is wrong": {
		sql:  `UPDATE journal SET event = set_byte(event, length(event) - 1, 90) WHERE clinic_id = $1 AND sequence = 10`,
		want: nil,
	},
	"an event's first byte is wrong": {
		sql:  `UPDATE journal SET event = set_byte(event, 0, 90) WHERE clinic_id = $1 AND sequence = 10`,
		want: nil,
	},
	"a hash is wrong": {
		sql:  `UPDATE journal SET hash = set_byte(hash, 0, (get_byte(hash, 0) + 1) % 256) WHERE clinic_id = $1 AND sequence = 10`,
		want: nil,
	},
	"a hash is short": {
		sql:  `UPDATE journal SET hash = '\x00' WHERE clinic_id = $1 AND sequence = 10`,
		want: nil,
	},
	"a key is wrong": {
		sql:  `UPDATE journal SET idempotency_key = 'another' WHERE clinic_id = $1 AND sequence = 8`,
		want: nil,
	},
	"a kind is wrong": {
		sql:  `UPDATE journal SET kind = kind + 1 WHERE clinic_id = $1 AND sequence = 8`,
		want: nil,
	},
	"a time is wrong": {
		sql:  `UPDATE journal SET recorded_at = recorded_at - INTERVAL '1 second' WHERE clinic_id = $1 AND sequence = 8`,
		want: nil,
	},
	"a time is infinite": {
		sql:  `UPDATE journal SET recorded_at = 'infinity' WHERE clinic_id = $1 AND sequence = 8`,
		want: nil,
	},
	"a journal row is missing": {
		sql:  `DELETE FROM journal WHERE clinic_id = $1 AND sequence = 9`,
		want: nil,
	},
	"the last journal row is missing": {
		sql:  `DELETE FROM journal WHERE clinic_id = $1 AND sequence = 12`,
		want: nil,
	},
	"the journal is missing": {
		sql:  `DELETE FROM journal WHERE clinic_id = $1`,
		want: nil,
	},
	"a journal row has moved": {
		sql:  `UPDATE journal SET sequence = 13 WHERE clinic_id = $1 AND sequence = 12`,
		want: nil,
	},
	"the head's sequence is wrong": {
		sql:  `UPDATE heads SET sequence = 11 WHERE clinic_id = $1`,
		want: nil,
	},
	"the head's hash is wrong": {
		sql:  `UPDATE heads SET hash = set_byte(hash, 0, (get_byte(hash, 0) + 1) % 256) WHERE clinic_id = $1`,
		want: nil,
	},
	"the head's hash is short": {
		sql:  `UPDATE heads SET hash = '\x00' WHERE clinic_id = $1`,
		want: nil,
	},
	"the head's time is wrong": {
		sql:  `UPDATE heads SET recorded_at = recorded_at + INTERVAL '1 microsecond' WHERE clinic_id = $1`,
		want: nil,
	},
	"the head is missing": {
		sql:  `DELETE FROM heads WHERE clinic_id = $1`,
		want: nil,
	},
	"an open hold is missing": {
		sql:  `DELETE FROM holds WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: nil,
	},
	"an open hold holds too little": {
		sql:  `UPDATE holds SET quantity = 29 WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: nil,
	},
	"an open hold's deadline is wrong": {
		sql:  `UPDATE holds SET deadline = deadline + INTERVAL '1 hour' WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: nil,
	},
	"an open hold is stored as closed": {
		sql:  `UPDATE holds SET status = 2, quantity = 0 WHERE clinic_id = $1 AND hold_id = 'OPEN'`,
		want: nil,
	},
	"a closed hold is stored as open": {
		sql:  `UPDATE holds SET status = 1 WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: nil,
	},
	"a closed hold holds units": {
		sql:  `UPDATE holds SET quantity = 1 WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: nil,
	},
	"a closed hold is missing": {
		sql:  `DELETE FROM holds WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: nil,
	},
	"a closed hold's end is wrong": {
		sql:  `UPDATE holds SET status = 4 WHERE clinic_id = $1 AND hold_id = 'CLOSED'`,
		want: nil,
	},
	"a lot's expiry is wrong": {
		sql:  `UPDATE lots SET expiry = expiry - 1 WHERE clinic_id = $1`,
		want: nil,
	},
	"a lot's expiry is infinite": {
		sql:  `UPDATE lots SET expiry = 'infinity' WHERE clinic_id = $1`,
		want: nil,
	},
	"a lot is missing": {
		sql:  `DELETE FROM lots WHERE clinic_id = $1`,
		want: nil,
	},
	"a medicine's unit is wrong": {
		sql:  `UPDATE medicines SET base_unit = 'ml' WHERE clinic_id = $1`,
		want: nil,
	},
	"a location is made up": {
		sql:  `INSERT INTO locations SELECT clinic_id, 'attic', 'Attic', kind, active, last_sequence FROM locations WHERE clinic_id = $1 AND location_id = 'ward'`,
		want: nil,
	},
	"the clinic's zone is wrong": {
		sql:  `UPDATE clinics SET time_zone = 'UTC' WHERE clinic_id = $1`,
		want: nil,
	},
	"the clinic's row is missing": {
		sql:  `DELETE FROM clinics WHERE clinic_id = $1`,
		want: nil,
	},
}

func TestVerifyNamesWhatIsBroken(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	for name, test := range corruptions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, open, closed := verifiable(t, e)
			t.Cleanup(func() { wipe(t, e.db, c.id) })
			holds := strings.NewReplacer("OPEN", string(open), "CLOSED", string(closed))
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
