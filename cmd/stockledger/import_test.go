package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// importJob imports files into one clinic.
type importJob struct {
	t      *testing.T
	node   *testNode
	clinic string
	dir    string
}

func newImportJob(t *testing.T) *importJob {
	return &importJob{t: t, node: startTestNode(t), clinic: txntest.NewClinicID(t), dir: t.TempDir()}
}

func (j *importJob) flags(file, content, reference string) importFlags {
	j.t.Helper()
	path := filepath.Join(j.dir, file)
	if content != "" {
		writeFile(j.t, path, content)
	}
	return importFlags{
		File: path, Clinic: j.clinic, Server: j.node.url, Token: j.node.token, Reference: reference, Batch: 2,
		CreateClinic: "Imported", TimeZone: "UTC",
	}
}

// report runs an import and returns what it says.
func (j *importJob) report(do func(out *bytes.Buffer) error) (string, error) {
	j.t.Helper()
	var out bytes.Buffer
	err := do(&out)
	return out.String(), err
}

func (j *importJob) medicines(content string) (string, error) {
	return j.report(func(out *bytes.Buffer) error {
		return (&importMedicinesCmd{j.flags("medicines.csv", content, "")}).importTo(context.Background(), out)
	})
}

func (j *importJob) stock(file, content, reference string) (string, error) {
	return j.report(func(out *bytes.Buffer) error {
		return (&importStockCmd{importFlags: j.flags(file, content, reference), CreateLocations: true}).importTo(context.Background(), out)
	})
}

func (j *importJob) onHand() int64 {
	j.t.Helper()
	rows, _, _, err := txn.NewQueries(txn.NewDirectory(j.node.db)).ListStock(context.Background(), ledger.ClinicID(j.clinic), txn.StockFilter{}, txn.StockKey{}, 1000, txn.ReadOptions{})
	if err != nil {
		j.t.Fatal(err)
	}
	var sum int64
	for _, row := range rows {
		sum += row.OnHand()
	}
	return sum
}

func expect(t *testing.T, out string, err error, wantErr bool, parts ...string) {
	t.Helper()
	var exit exitError
	if wantErr != errors.As(err, &exit) || !wantErr && err != nil {
		t.Errorf("error is %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			t.Errorf("the report does not say %q:\n%s", part, out)
		}
	}
}

func TestImportIsResumableAndReportsRefusedRows(t *testing.T) {
	j := newImportJob(t)
	// A byte order mark, columns in another order, one that is unknown.
	medicines := "\xef\xbb\xbfUnit,Name,Indication\nTablet,Zinc,gut\nCapsule,Iron,blood\n,Salt,\n"
	out, err := j.medicines(medicines)
	expect(t, out, err, false, "3 rows imported, 0 were there already, 0 refused", "columns not imported: indication")
	out, err = j.medicines(medicines)
	expect(t, out, err, false, "0 rows imported, 3 were there already, 0 refused")

	stock := "location,medicine,lot_number,expiry,quantity\n" +
		"Shelf A,zinc,Z1,2031-01-31,100\n" +
		"Shelf A,zinc,Z1,2031-01-31,100\n" + // twice the same is two deliveries
		"Shelf B,Iron,I1,2031-02-30,50\n" + // no such day
		"Shelf B,Gold,G1,2031-02-28,50\n" + // no such medicine
		"Shelf B,Salt,S1,2031-02-28,0\n" +
		"Shelf B,Salt,S1,2001-02-28,7\n" // expired
	out, err = j.stock("stock.csv", stock, "")
	expect(t, out, err, true, "2 rows imported, 0 were there already, 4 refused",
		"line 4", "is not a day", "line 5", `no medicine "Gold"`, "line 6", "quantity", "line 7", "expired")
	if got := j.onHand(); got != 200 {
		t.Errorf("%d units are on hand, want 200", got)
	}
	out, err = j.stock("stock.csv", stock, "")
	expect(t, out, err, true, "0 rows imported, 2 were there already, 4 refused")

	refused, readErr := os.ReadFile(filepath.Join(j.dir, "stock.refused.csv"))
	if readErr != nil || !strings.Contains(string(refused), `Gold,G1,2031-02-28,50,5,"the clinic has no medicine`) {
		t.Errorf("the refused rows are %v\n%s", readErr, refused)
	}
	mended := strings.NewReplacer("2031-02-30", "2031-02-28", "Gold", "Iron", ",0\n", ",5\n", "2001", "2031").Replace(stock)
	out, err = j.stock("stock.csv", mended, "")
	expect(t, out, err, false, "4 rows imported, 2 were there already, 0 refused")
	if got := j.onHand(); got != 200+50+50+5+7 {
		t.Errorf("%d units are on hand, want 312", got)
	}
	// Another delivery may look the same.
	out, err = j.stock("stock.csv", stock, "second delivery")
	expect(t, out, err, true, "2 rows imported, 0 were there already")
	j.node.verify(t, j.clinic)
}

func TestImportExplainsUnusableFiles(t *testing.T) {
	j := newImportJob(t)
	for name, c := range map[string]struct{ content, want string }{
		"empty":        {"", "must name the columns"},
		"no name":      {"unit,strength\nTablet,5 mg\n", `has no column "name"`},
		"not UTF-8":    {"name,unit\nZinc,Tablet\nCaf\xe9,Tablet\n", "not valid UTF-8"},
		"short row":    {"name,unit\nZinc\n", "the row has 1 fields"},
		"long name":    {"name\n" + strings.Repeat("x", 300) + "\n", "at most 200"},
		"unclosed row": {"name\n\"Zinc\n", "unusable"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(j.dir, "bad.csv")
			writeFile(t, path, c.content)
			out, err := j.report(func(out *bytes.Buffer) error {
				flags := j.flags("bad.csv", "", "")
				return (&importMedicinesCmd{flags}).importTo(context.Background(), out)
			})
			if err == nil {
				t.Fatalf("it was imported: %s", out)
			}
			if c.want != "unusable" && !strings.Contains(out+err.Error(), c.want) {
				t.Errorf("it says %v\n%s", err, out)
			}
		})
	}
}

func TestImportExplainsAServerThatIsAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.csv")
	writeFile(t, path, "name\nZinc\n")
	cmd := &importMedicinesCmd{importFlags{File: path, Clinic: "c", Server: "http://127.0.0.1:1", Token: "t", Batch: 10}}
	err := cmd.importTo(context.Background(), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "start it again to go on") {
		t.Errorf("error is %v", err)
	}
}

func TestRowKeysDependOnContentAlone(t *testing.T) {
	key := func(reference string, rows ...string) []string {
		k := rowKeys{reference: reference, seen: make(map[string]int)}
		var keys []string
		for _, row := range rows {
			keys = append(keys, k.next("stock", row))
		}
		return keys
	}
	one, other := key("r", "a", "b", "a"), key("r", "b", "a", "a")
	if one[0] == one[2] || one[0] != other[1] || one[2] != other[2] || one[1] != other[0] {
		t.Errorf("keys are %v and %v", one, other)
	}
	if key("r", "a")[0] == key("s", "a")[0] {
		t.Error("another reference has the same key")
	}
	if len(one[0]) > 64 {
		t.Errorf("a key has %d characters", len(one[0]))
	}
}
