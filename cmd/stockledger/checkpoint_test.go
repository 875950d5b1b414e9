package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/cluster"
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
	if written, err := writeCheckpoints(ctx, txn.NewDirectory(db), issuer, dir); err != nil || written == 0 {
		t.Fatalf("%d checkpoints were written, %v", written, err)
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

// The leader writes a checkpoint of each clinic. A clinic whose file cannot be
// written is told of, and does not hold up the others.
func TestCheckpointsAreAJob(t *testing.T) {
	first, second := aClinic(t), aClinic(t)
	ctx, dir, key := context.Background(), t.TempDir(), filepath.Join(t.TempDir(), "issuer.key")
	issuer, err := rpc.OpenIssuer(key)
	if err != nil {
		t.Fatal(err)
	}
	directory := txn.NewDirectory(txntest.Open(t))
	chores := txn.NewChores(directory, nil, quiet())
	job := cluster.CheckpointJob(chores, checkpointer(directory, issuer, dir))
	for _, clinic := range []string{first, second} {
		listed, err := job.Clinics(ctx, cluster.Turn{}, ledger.ClinicID(clinic[:len(clinic)-1]), 10)
		if err != nil || !slices.Contains(listed, ledger.ClinicID(clinic)) {
			t.Errorf("listed are %q, %v", listed, err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, second+checkpointSuffix), 0o700); err != nil {
		t.Fatal(err)
	}
	do := func(clinic string) error {
		_, err := job.Do(ctx, txn.Errand{Clinic: ledger.ClinicID(clinic)})
		return err
	}
	if err := errors.Join(do(first), do(first)); err != nil { // a run that is repeated adds a line
		t.Error(err)
	}
	if err := do(second); err == nil {
		t.Error("a file that cannot be written goes unnoticed")
	}
	var out bytes.Buffer
	report, err := compareCheckpoints(ctx, txn.NewQueries(directory), issuer, dir, []ledger.ClinicID{ledger.ClinicID(first)}, &out)
	if err != nil || report != (checkpointReport{held: 2}) {
		t.Errorf("they hold %+v, %v: %s", report, err, out.String())
	}
	if err := do("no-such-clinic"); err == nil {
		t.Error("a clinic without a journal has a checkpoint")
	}
}

// A folder that cannot be made keeps a node from starting: it would lead, and
// write nothing.
func TestCheckpointDirThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	flags := nodeFlags{IssuerKey: filepath.Join(t.TempDir(), "issuer.key"), CheckpointDir: filepath.Join(file, "checkpoints"), clusterFlags: clusterFlags{JobTimeZone: "UTC"}}
	n, err := openNode(context.Background(), databaseFlags{DatabaseURL: txntest.URL(t)}, flags, quiet())
	if err == nil {
		n.directory.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "checkpoints") {
		t.Errorf("it says %v", err)
	}
}
