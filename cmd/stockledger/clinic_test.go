package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// aClinic makes a clinic with a few commands on the shared database.
func aClinic(t *testing.T) string {
	t.Helper()
	executor := txn.NewExecutor(txntest.Open(t), txn.ExecutorConfig{})
	defer func() { _ = executor.Close(context.Background()) }()
	clinic := ledger.ClinicID(txntest.NewClinicID(t))
	var commands []ledger.Command
	for _, c := range []struct {
		key  string
		body ledger.CommandBody
	}{
		{"1", &ledger.CreateClinic{Name: "Hillside", TimeZone: "Africa/Nairobi"}},
		{"2", &ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store}},
		{"3", &ledger.AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet"}},
		{"4", &ledger.RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate}},
		{"5", &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 50}},
	} {
		commands = append(commands, ledger.Command{Clinic: clinic, Actor: "amina", IdempotencyKey: c.key, Body: c.body})
	}
	verdicts, err := executor.Submit(t.Context(), txn.Submission{Clinic: clinic, Commands: commands})
	for _, v := range verdicts {
		if err == nil {
			err = v.Err
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(clinic)
}

// The drill: back up, lose the database, restore, verify.
func TestBackUpAndRestore(t *testing.T) {
	clinic, url, lost := aClinic(t), txntest.URL(t), txntest.PrivateServer(t).URL
	folder := t.TempDir()
	file := filepath.Join(folder, "hillside.journal")
	ends := func(want int, args ...string) {
		t.Helper()
		if code := run(context.Background(), args); code != want {
			t.Errorf("%q ends with %d, want %d", args, code, want)
		}
	}
	ends(0, "clinic", "export", clinic, "--database-url", url, "--output", file)
	ends(0, "verify", "--file", file)
	ends(0, "clinic", "import", file, "--database-url", lost)
	ends(0, "clinic", "import", file, "--database-url", lost)
	ends(0, "verify", "--database-url", lost, "--clinic", clinic)
	ends(0, "clinic", "new-epoch", clinic, "--database-url", lost, "--epoch", "5")
	ends(0, "clinic", "new-epoch", "--all", "--database-url", lost)
	again := filepath.Join(folder, "again.journal")
	ends(0, "clinic", "export", clinic, "--database-url", lost, "--output", again)
	ends(0, "verify", "--file", again)

	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(content, restored) || !bytes.Contains(restored, []byte(`"epoch":6,`)) {
		t.Error("the export of the restored clinic does not name its epochs")
	}

	content[len(content)/2] ^= 1
	writeFile(t, file, string(content))
	ends(1, "verify", "--file", file)
	ends(1, "clinic", "import", file, "--database-url", lost)
	ends(2, "verify", "--file", filepath.Join(folder, "missing"))
	ends(2, "verify")
	ends(2, "clinic", "import", os.DevNull, "--database-url", lost)
	ends(2, "clinic", "new-epoch", "--database-url", lost)
	ends(2, "clinic", "new-epoch", clinic, "--all", "--database-url", lost)
	ends(2, "clinic", "new-epoch", "no-such-clinic", "--database-url", lost)
	ends(2, "clinic", "export", "no-such-clinic", "--database-url", lost, "--output", filepath.Join(folder, "none.journal"))
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("a failed export leaves %v", left)
	}
	hidden, err := filepath.Glob(filepath.Join(folder, ".*"))
	if err != nil || len(hidden) != 0 {
		t.Errorf("a failed export leaves %v", hidden)
	}
}

// Replaying shows each table beside what the journal makes of it, and ends with
// 1 where they differ.
func TestReplay(t *testing.T) {
	clinic, url := aClinic(t), txntest.URL(t)
	if code := run(context.Background(), []string{"replay", clinic, "--database-url", url}); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	if code := run(context.Background(), []string{"replay", "no-such-clinic", "--database-url", url}); code != 2 {
		t.Errorf("without the clinic it ends with %d", code)
	}
	db := txntest.Open(t)
	table := func() string {
		t.Helper()
		var out bytes.Buffer
		if _, err := replay(t.Context(), txn.NewDirectory(db), []ledger.ClinicID{ledger.ClinicID(clinic)}, &out, newProgress(io.Discard, "commands", 0)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	sound := table()
	if !strings.Contains(sound, "replayed up to sequence ") || strings.Contains(sound, "read-models") || len(strings.Split(sound, "\n")) < 12 {
		t.Errorf("it says:\n%s", sound)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "UPDATE stock SET available = available + 1 WHERE clinic_id = $1", clinic); err != nil {
		t.Fatal(err)
	}
	if broken := table(); !regexp.MustCompile(`(?m)^ *stock +1 +1 +1$`).MatchString(broken) || !strings.Contains(broken, "projection-follows-journal") {
		t.Errorf("with a wrong balance it says:\n%s", broken)
	}
	if code := run(context.Background(), []string{"replay", clinic, "--database-url", url}); code != 1 {
		t.Errorf("with a wrong balance it ends with %d", code)
	}
	if _, err := conn.Exec(t.Context(), "UPDATE stock SET available = available - 1 WHERE clinic_id = $1", clinic); err != nil {
		t.Fatal(err)
	}
}
