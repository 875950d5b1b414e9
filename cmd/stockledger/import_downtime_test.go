package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// furnish makes a clinic with zinc at its dispensary: 100 of a lot, and a lot
// that is in quarantine.
func (n *testNode) furnish(t *testing.T, clinic ledger.ClinicID) {
	t.Helper()
	var commands []ledger.Command
	twoHoursAgo := ledger.InstantOf(time.Now().Add(-2 * time.Hour))
	for i, body := range []ledger.CommandBody{
		&ledger.CreateClinic{Name: "Hillside", TimeZone: "Africa/Nairobi", BackdatingDays: 2},
		&ledger.CreateLocation{LocationID: "dispensary", Name: "Dispensary", LocationKind: ledger.Dispensary},
		&ledger.AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet"},
		&ledger.RegisterLot{LotID: "Z1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "A-1", Expiry: ledger.MaxDate},
		&ledger.RegisterLot{LotID: "Z2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "A-2", Expiry: ledger.MaxDate},
		&ledger.ReceiveStock{LocationID: "dispensary", LotID: "Z1", Quantity: 100},
		&ledger.ReceiveStock{LocationID: "dispensary", LotID: "Z2", Quantity: 10},
		&ledger.QuarantineLot{LotID: "Z2", ReasonCode: "DAMP"},
	} {
		commands = append(commands, ledger.Command{Clinic: clinic, Actor: "amina", IdempotencyKey: fmt.Sprint(i), Body: body})
		if i > 0 {
			commands[i].OccurredAt = twoHoursAgo // the clinic's window is open once it is there
		}
	}
	verdicts, err := n.executors.Submit(t.Context(), txn.Submission{Clinic: clinic, Commands: commands})
	for _, v := range verdicts {
		err = errors.Join(err, v.Err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What was done on paper is recorded in the order in which it happened, once,
// and the report says what is to be looked at.
func TestImportDowntime(t *testing.T) {
	n := startTestNode(t)
	clinic := txntest.NewClinicID(t)
	n.furnish(t, ledger.ClinicID(clinic))
	at := func(minutes int) string {
		return time.Now().Add(-time.Hour).Add(time.Duration(minutes) * time.Minute).UTC().Format(time.RFC3339)
	}
	file := filepath.Join(t.TempDir(), "monday.csv")
	writeFile(t, file, strings.Join([]string{
		"what,occurred_at,device,paper_reference,location,medicine,lot_number,quantity,lot,prescription",
		"counted," + at(3) + ",pad-1,3,Dispensary,zinc,A-1,79,,",
		"dispensed," + at(1) + ",pad-1,1,Dispensary,zinc,A-1,20,,",
		"dispensed," + at(2) + ",pad-1,2,Dispensary,,,4,Z2,",
		"dispensed," + at(4) + ",pad-1,4,Dispensary,Zinc,,200,,RX-999",
		"received," + at(5) + ",pad-1,5,Dispensary,zinc,A-1,30,,",
		"eaten," + at(6) + ",pad-1,6,Dispensary,zinc,A-1,1,,",
		"dispensed,yesterday,pad-1,7,Dispensary,zinc,A-1,1,,",
		"dispensed," + at(8) + ",pad-1,8,Dispensary,zinc,A-9,1,,",
		"counted," + at(9) + ",pad-1,9,Dispensary,zinc,,1,,",
	}, "\n")+"\n")
	run := func() (string, error) {
		var out bytes.Buffer
		command := importDowntimeCmd{importFlags: importFlags{File: file, Clinic: clinic, Server: n.url, Token: n.token, Batch: 100, RetryFor: time.Second}}
		err := command.importTo(context.Background(), &out)
		return out.String(), err
	}
	report, err := run()
	if !errors.Is(err, exitError(1)) {
		t.Fatalf("the import ends with %v\n%s", err, report)
	}
	for _, want := range []string{
		"5 rows imported, 0 were there already, 4 refused",
		"line 4: DT-10 (pad-1 2): LOT_QUARANTINED; approval AP-10 waits for a second person",
		"line 5: DT-12 (pad-1 4): PRESCRIPTION_NOT_FOUND; approval AP-12 waits for a second person; 121 units were not in the books (DOWNTIME_SHORTAGE)",
		"line 7: what is \"eaten\"", "line 8: occurred_at is \"yesterday\"", "line 9: the clinic has no lot \"A-9\"", "line 10: a row that was received or counted needs a lot",
	} {
		if !strings.Contains(report, want) {
			t.Errorf("the report does not say %q:\n%s", want, report)
		}
	}
	n.verify(t, clinic)
	if report, _ := run(); !strings.Contains(report, "0 rows imported, 5 were there already, 4 refused") {
		t.Errorf("a second time the report is\n%s", report)
	}
	n.reached(t, clinic)
}

// reached lists whom the lot reached that was dispensed on paper.
func (n *testNode) reached(t *testing.T, clinic string) {
	t.Helper()
	var out bytes.Buffer
	command := recalledPatientsCmd{Clinic: clinic, Lot: "Z1", Server: n.url, Token: n.token, RetryFor: time.Second}
	rows, err := command.write(context.Background(), newClient(n.url, n.token), &out)
	if err != nil || rows != 3 {
		t.Fatalf("%d rows, %v", rows, err)
	}
	table, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(table) != 4 || table[1][2]+table[2][2]+table[3][2] != "2079121" || table[1][6] != "handed_over" {
		t.Errorf("reached are %v, %v", table, err)
	}
	command.Server, command.Page, command.RetryFor = n.cutOnce(t), 1, time.Minute
	out.Reset()
	if rows, err = command.write(context.Background(), newClient(command.Server, n.token), &out); err != nil || rows != 3 {
		t.Fatalf("through a cut: %d rows, %v", rows, err)
	}
	if again, err := csv.NewReader(&out).ReadAll(); err != nil || !reflect.DeepEqual(again, table) {
		t.Errorf("through a cut: %v, %v, want %v", again, err, table)
	}
	command = recalledPatientsCmd{Clinic: clinic}
	if err := command.Run(context.Background(), quiet()); err == nil {
		t.Error("a list of nothing in particular is written")
	}
}

// cutOnce forwards to the node, and cuts the first answer that is longer than
// one message in its second one. It returns its URL.
func (n *testNode) cutOnce(t *testing.T) string {
	t.Helper()
	target, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !cut.Swap(true) {
			r.Body = &cutBody{ReadCloser: r.Body}
		}
		return nil
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(func() {
		server.Close()
		if !cut.Load() {
			t.Error("nothing was cut")
		}
	})
	return server.URL
}

// cutBody is a stream of Connect's envelopes that breaks off after the header of
// its second one.
type cutBody struct {
	io.ReadCloser
	sent, end int
}

func (b *cutBody) Read(p []byte) (int, error) {
	const header = 5
	if b.end == 0 {
		n, err := io.ReadFull(b.ReadCloser, p[:header])
		if err != nil {
			return n, err
		}
		b.sent, b.end = header, header+int(binary.BigEndian.Uint32(p[1:]))+header
		return n, nil
	}
	if b.sent == b.end {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.end-b.sent)])
	b.sent += n
	return n, err
}

func TestClinicTimesOnPaper(t *testing.T) {
	zone, err := time.LoadLocation("Africa/Nairobi")
	if err != nil {
		t.Fatal(err)
	}
	im := &downtimeImporter{zone: zone}
	want := time.Date(2027, 3, 10, 11, 30, 0, 0, time.UTC)
	for _, text := range []string{"2027-03-10T14:30:00+03:00", "2027-03-10 14:30", "2027-03-10T14:30", "2027-03-10 14:30:00", "2027-03-10T11:30:00Z"} {
		if got, err := im.moment(text); err != nil || !got.Equal(want) {
			t.Errorf("%s is %s, %v", text, got, err)
		}
	}
}
