package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// rewrite changes an event of the journal and makes everything after it follow:
// what somebody with the database's password and this program's source can do.
func rewrite(t *testing.T, clinic string, from ledger.Sequence) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, txntest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT event FROM journal WHERE clinic_id = $1 ORDER BY sequence`, clinic)
	if err != nil {
		t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	hash := ledger.Genesis(ledger.ClinicID(clinic))
	for i, stored := range events {
		sequence := ledger.Sequence(i + 1)
		event, err := ledger.DecodeEvent(stored)
		if err != nil {
			t.Fatal(err)
		}
		if sequence == from {
			event.Actor = "somebody-else"
			stored = ledger.AppendEvent(nil, event)
		}
		hash = ledger.Chain(hash, stored)
		if _, err := conn.Exec(ctx, `UPDATE journal SET event = $3, hash = $4 WHERE clinic_id = $1 AND sequence = $2`, clinic, sequence, stored, hash[:]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(ctx, `UPDATE heads SET hash = $2 WHERE clinic_id = $1`, clinic, hash[:]); err != nil {
		t.Fatal(err)
	}
}

// A journal that was rewritten with all its hashes agrees with itself, and not
// with what left the database before.
func TestCheckpointsFindARewrittenJournal(t *testing.T) {
	clinic := aClinic(t)
	ctx, dir, key := context.Background(), t.TempDir(), filepath.Join(t.TempDir(), "issuer.key")
	db := txntest.Open(t)
	issuer, err := rpc.OpenIssuer(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func() int {
		written, err := writeCheckpoints(ctx, txn.NewDirectory(db), issuer, dir, time.Now().Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return written
	}
	if first, again := write(), write(); first == 0 || again != 0 {
		t.Errorf("%d checkpoints were written, and %d within the hour after", first, again)
	}
	compare := func() (checkpointReport, string) {
		t.Helper()
		var out bytes.Buffer
		report, err := compareCheckpoints(ctx, txn.NewQueries(txn.NewDirectory(db)), issuer, dir, []ledger.ClinicID{ledger.ClinicID(clinic)}, &out)
		if err != nil {
			t.Fatal(err)
		}
		return report, out.String()
	}
	if report, out := compare(); report != (checkpointReport{held: 1}) {
		t.Fatalf("before it is rewritten: %+v %s", report, out)
	}
	rewrite(t, clinic, 3)
	check := &verifyCmd{DatabaseURL: txntest.URL(t), Clinic: []string{clinic}, IssuerKey: key}
	if err := check.Run(ctx, quiet()); err != nil {
		t.Errorf("a rewritten journal agrees with itself, and verify says: %v", err)
	}
	report, out := compare()
	if report != (checkpointReport{broken: 1}) || !strings.Contains(out, clinic) {
		t.Errorf("after it was rewritten: %+v %s", report, out)
	}
	check.Checkpoints = dir
	if err := check.Run(ctx, quiet()); !errors.Is(err, exitError(1)) {
		t.Errorf("verify with checkpoints ends with %v", err)
	}
	path := filepath.Join(dir, clinic+checkpointSuffix)
	if err := os.WriteFile(path, []byte("not.a.checkpoint\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if report, out := compare(); report.broken != 1 || !strings.Contains(out, "line 1") {
		t.Errorf("of a forged line: %+v %s", report, out)
	}
}
