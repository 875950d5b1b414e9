package rpc

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// The journal as a report is what Replay tells: each event once, with its hash.
func TestJournalReport(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	c.must(t, receive("ward", "L1", 5), issueWithout("ward", 3))
	admin := Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}
	rows := c.table(t, "journal", n.token(t, admin))
	stream, err := c.admin.events.Replay(t.Context(), &stockledgerv1.ReplayRequest{ClinicId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	var events []*stockledgerv1.Event
	for {
		message, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, message.GetEvents()...)
	}
	if len(rows) != len(events) || len(rows) < 3 {
		t.Fatalf("%d rows for %d events", len(rows), len(events))
	}
	for i, e := range events {
		row := rows[i]
		if row["epoch"] != decimal(e.GetEpoch()) || row["sequence"] != decimal(e.GetSequence()) || row["hash"] != hex.EncodeToString(e.GetHash()) ||
			row["type"] != e.GetType() || row["command"] != e.GetCommand() || row["actor"] != e.GetActor() || row["recorded_at"] != cellTime(e.GetRecordedAt()) ||
			row["location_ids"] != strings.Join(e.GetLocationIds(), "; ") || row["medicine_ids"] != strings.Join(e.GetMedicineIds(), "; ") {
			t.Errorf("%v is written as %v", e, row)
		}
	}
	var outcome struct {
		Sequence string
		Stock    struct{ LocationID, Quantity string }
	}
	last := rows[len(rows)-1]
	if err := json.Unmarshal([]byte(last["outcome"]), &outcome); err != nil || outcome.Sequence != last["sequence"] || outcome.Stock.Quantity != "3" || outcome.Stock.LocationID != "ward" {
		t.Errorf("what was issued is %s, %v", last["outcome"], err)
	}
	limited := admin
	limited.Locations = []ledger.LocationID{"ward"}
	for _, row := range c.table(t, "journal", n.token(t, limited)) {
		if places := row["location_ids"]; places != "" && !slices.Contains(strings.Split(places, "; "), "ward") {
			t.Errorf("a token of the ward is told of %q", places)
		}
	}
}

// How many rows there will be is told where it is known, and to nobody who may
// not read them all.
func TestJournalReportTellsItsTotal(t *testing.T) {
	t.Parallel()
	n, store := idleNode(t)
	c := newClinic(t, n)
	all := int64(len(c.table(t, "journal", n.token(t, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}))))
	for i, test := range []struct {
		locations  []ledger.LocationID
		parameters map[string]string
		total      int64
	}{
		{nil, nil, all},
		{nil, map[string]string{"after.sequence": "2"}, all - 2},
		{nil, map[string]string{"to_sequence": "3"}, 3},
		{nil, map[string]string{"filter.types": "StockReceived"}, 0},
		{[]ledger.LocationID{"ward"}, nil, 0},
	} {
		keeper := c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}, Locations: test.locations})
		key := fmt.Sprint("k", i)
		if _, err := keeper.submit(t, key, "journal", test.parameters); err != nil {
			t.Fatal(err)
		}
		ops, err := store.Next(t.Context(), ledger.ClinicID(c.id), txn.ReportPriority, txn.OperationPlace{}, time.Now(), 1)
		if err != nil || len(ops) != 1 {
			t.Fatal(ops, err)
		}
		page, err := n.ReadReport(t.Context(), &ops[0])
		if err != nil || page.Total != test.total || page.Rows == 0 || page.Next != "" {
			t.Errorf("%v: %d rows of %d, next %q: %v", test, page.Rows, page.Total, page.Next, err)
		}
		if _, err := keeper.CancelOperation(t.Context(), &stockledgerv1.CancelOperationRequest{ClinicId: c.id, IdempotencyKey: key}); err != nil {
			t.Fatal(err)
		}
	}
}

// A restore that takes back where a journal's report is has it begun anew. One that
// names an epoch that there is not is refused at once.
func TestJournalReportOverARestore(t *testing.T) {
	t.Parallel()
	n, store := idleNode(t)
	c := newClinic(t, n)
	keeper := c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}})
	_, err := keeper.submit(t, "epoch", "journal", map[string]string{"after.epoch": "7", "after.sequence": "2"})
	wantError(t, err, connect.CodeFailedPrecondition, reasonJournalRewound)
	if _, err := keeper.submit(t, "k", "journal", nil); err != nil {
		t.Fatal(err)
	}
	ops, err := store.Next(t.Context(), ledger.ClinicID(c.id), txn.ReportPriority, txn.OperationPlace{}, time.Now(), 1)
	if err != nil || len(ops) != 1 {
		t.Fatal(ops, err)
	}
	ops[0].Report.PageToken = "7:2:4"
	var known *txn.ReportError
	if _, err := n.ReadReport(t.Context(), &ops[0]); !errors.As(err, &known) || !known.Anew || known.Final {
		t.Errorf("in the middle of it: %v, %+v", err, known)
	}
	if !errors.As(reportError(fail(reasonJournalRewound, "It was rewound.")), &known) || !known.Anew || known.Final {
		t.Errorf("within the first page: %+v", known)
	}
}

// A journal that shows how far a blind count is off goes to nobody who may not
// see that.
func TestJournalOfBlindCounts(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	manager, counter := c.person(t, "mwana", RoleManager), c.person(t, "chacha", RoleCounter)
	id := documentOf(t, manager.give(t, &stockledgerv1.StartCount{LocationId: "store", MedicineIds: []string{"zinc"}, Blind: true}), stockledgerv1.DocumentKind_DOCUMENT_KIND_COUNT)
	counter.give(t, &stockledgerv1.RecordCount{CountId: id, ReasonCode: "monthly", Lines: []*stockledgerv1.CountedLine{{LotId: "L1", Counted: 97}}})
	read := func(a *asker, key string) string {
		t.Helper()
		a.done(t, key, "journal", map[string]string{"filter.types": "CountRecorded"})
		parts, err := a.fetch(t, key, 0)
		if err != nil || len(parts) == 0 {
			t.Fatalf("%d parts, %v", len(parts), err)
		}
		return joined(parts)
	}
	auditor := c.asker(t, Principal{Subject: "otieno", Roles: []Role{RoleAuditor}})
	theirs, own := read(c.asker(t, Principal{Subject: "mary", Roles: []Role{RoleManager}}), "theirs"), read(auditor, "own")
	if theirs == own {
		t.Errorf("an auditor reads what a manager does: %s", own)
	}
	_, err := auditor.fetch(t, "theirs", 0)
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
}
