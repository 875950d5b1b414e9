package rpc

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
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
	// Of a part nobody knows how many rows pass.
	keeper := c.asker(t, Principal{Subject: "sefu", Roles: []Role{RoleStorekeeper}, Locations: []ledger.LocationID{"ward"}})
	op := keeper.done(t, "part", "journal", nil)
	if r := op.GetReport(); r.GetRowsDone() < 2 || r.GetRowsDone() >= int64(len(rows)) || r.GetRowsTotal() != r.GetRowsDone() {
		t.Errorf("of the ward it is %v", op)
	}
}

// A journal that shows how far a blind count is off goes to nobody who may not
// see that.
func TestJournalOfBlindCounts(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	c.asker(t, Principal{Subject: "mary", Roles: []Role{RoleManager}}).done(t, "journal", "journal", nil)
	auditor := Principal{Subject: "otieno", Roles: []Role{RoleAuditor}}
	_, err := c.asker(t, auditor).fetch(t, "journal", 0)
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	own := c.asker(t, auditor)
	own.done(t, "own", "journal", nil)
	if parts, err := own.fetch(t, "own", 0); err != nil || len(parts) == 0 {
		t.Errorf("an auditor's own journal: %d parts, %v", len(parts), err)
	}
}
