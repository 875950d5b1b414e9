package ledger

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden journal of the present event format; do it once, when a format is released")

// Golden journals are what releases wrote. They are never changed: a release
// that reads one to another state has lost its users' books.
func TestGoldenJournalsReplay(t *testing.T) {
	current := filepath.Join("testdata", fmt.Sprintf("journal-v%d.txt", EventVersion))
	if *update {
		writeGolden(t, current)
	}
	files, err := filepath.Glob("testdata/journal-v*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no golden journals: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			state := replayGolden(t, file)
			got, err := json.MarshalIndent(state.Snapshot(), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(stateFile(file))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(got, '\n'), want) {
				t.Errorf("the journal replays to another state than when it was written:\n%s", got)
			}
		})
	}
}

func stateFile(journal string) string { return strings.TrimSuffix(journal, ".txt") + ".state.json" }

func replayGolden(t *testing.T, file string) *State {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	state := NewState("golden", utcOnly)
	kinds := make(map[Kind]bool)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		stored, hash, _ := strings.Cut(lines.Text(), " ")
		event, err1 := hex.DecodeString(stored)
		link, err2 := hex.DecodeString(hash)
		if err1 != nil || err2 != nil || len(link) != len(Hash{}) {
			t.Fatalf("a line of %s is not hexadecimal", file)
		}
		record, err := OpenRecord(event, Hash(link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Evolve(state, record); err != nil {
			t.Fatal(err)
		}
		kinds[record.Event.Kind()] = true
	}
	if len(kinds) < 19 {
		t.Errorf("%s has only %d kinds of events", file, len(kinds))
	}
	return state
}

// writeGolden writes a journal that has every kind of event.
func writeGolden(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err == nil {
		t.Fatalf("%s exists, and golden journals are never changed", file)
	}
	w := &world{state: NewState("golden", utcOnly), now: epoch}
	name, expiry, days := "Renamed", Date(22000), int64(3)
	give := func(body CommandBody) Event {
		w.keys++
		w.now += 1_000_000
		event, rejection := w.give(t, Command{Clinic: "golden", IdempotencyKey: fmt.Sprintf("key-%d", w.keys), Actor: "tester", Body: body})
		if rejection != nil {
			t.Fatalf("%s: %v", body.Kind(), rejection)
		}
		return event
	}
	give(&CreateClinic{Name: "Golden", TimeZone: "UTC", BackdatingDays: 1})
	give(&UpdateClinic{Name: &name, BackdatingDays: &days})
	give(&CreateLocation{LocationID: "store", Name: "Store", LocationKind: Store})
	give(&CreateLocation{Name: "Old ward", LocationKind: Ward})
	ward := w.records[3].Event.Body.(*LocationCreated).LocationID
	give(&UpdateLocation{LocationID: ward, Name: &name})
	give(&DeactivateLocation{LocationID: ward, ReasonCode: "closed"})
	give(&AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet", Strength: "20 mg", Form: "tablet", ATCCode: "A12CB01", Category: "Gut"})
	give(&AddMedicine{MedicineID: "iron", Name: "Iron", BaseUnit: "tablet"})
	give(&UpdateMedicine{MedicineID: "iron", Name: &name})
	give(&DeactivateMedicine{MedicineID: "iron", ReasonCode: "unused"})
	give(&RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: 21500})
	give(&RegisterLot{LotID: "L2", MedicineID: "zinc", GTIN: "4006381333931", LotNumber: "2", Expiry: 21600})
	give(&RegisterLot{MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "3", Expiry: 21700})
	give(&UpdateLot{LotID: "L1", Expiry: &expiry})
	give(&DeactivateLot{LotID: w.records[12].Event.Body.(*LotRegistered).LotID, ReasonCode: "unused"})
	give(&ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 100, Supplier: "Acme", Reference: "DN-1"})
	give(&ReceiveStock{LocationID: "store", LotID: "L2", Quantity: 50})
	hold := func(quantity int64) HoldID {
		e := give(&ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: quantity, ReasonCode: "ward", Deadline: w.now + testDay})
		return e.Body.(*StockReserved).HoldID
	}
	split, open, late := hold(70), hold(10), hold(5)
	give(&IssueStock{HoldID: split, Quantity: 60, Recipient: "ward-1"})
	give(&ReleaseStock{HoldID: open, Quantity: 4, ReasonCode: "changed"})
	give(&AdjustStock{LocationID: "store", LotID: "L1", Direction: Increase, Quantity: 3, ReasonCode: "found"})
	give(&AdjustStock{LocationID: "store", LotID: "L1", Direction: Decrease, Quantity: 1, ReasonCode: "broken"})
	give(&IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 2, ReasonCode: "dressing"})
	give(&WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 1, ReasonCode: "broken", Reference: "D-1"})
	give(&ReturnToSupplier{LocationID: "store", LotID: "L1", Quantity: 1, ReasonCode: "recall", Supplier: "Acme", Reference: "R-1"})
	w.now += 2 * testDay
	give(&ExpireReservation{HoldID: late})
	var out bytes.Buffer
	for _, r := range w.records {
		fmt.Fprintf(&out, "%x %s\n", r.Stored, r.Hash)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	state, err := json.MarshalIndent(w.state.Snapshot(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stateFile(file), append(state, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}
