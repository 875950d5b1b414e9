package rpc

import (
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// A balance of the past is asked for by sequence, by when it was recorded and by
// when things happened, of held and of other accounts, and both services say the
// same.
func TestBalancesOfThePast(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	caller := n.client(n.token(t, pharmacist(c.id)), h2c())
	issue := &stockledgerv1.Command{Body: &stockledgerv1.Command_IssueStock{IssueStock: &stockledgerv1.IssueStock{LocationId: "ward", MedicineId: "zinc", Quantity: 8, ReasonCode: "ward-round"}}}
	late := receive("ward", "L1", 30)
	late.OccurredAt = timestamppb.New(time.Now().Add(-30 * time.Minute))
	issued := c.must(t, issue)[0]
	received := c.must(t, late)[0]
	now := timestamppb.New(time.Now().Add(time.Second))
	before := timestamppb.New(time.Now().Add(-15 * time.Minute))
	bucket := stockledgerv1.Bucket_BUCKET_UNSPECIFIED
	for _, test := range []struct {
		name                string
		at                  *stockledgerv1.GetBalanceAtRequest
		held, out, supplied int64 // available at the ward, issued from it, from the supplier
	}{
		{"before both", &stockledgerv1.GetBalanceAtRequest{Sequence: issued.GetSequence() - 1}, 50, 0, -50},
		{"at the issue", &stockledgerv1.GetBalanceAtRequest{Sequence: issued.GetSequence()}, 42, 8, -50},
		{"at the receipt", &stockledgerv1.GetBalanceAtRequest{Sequence: received.GetSequence()}, 72, 8, -80},
		{"as recorded by the issue", &stockledgerv1.GetBalanceAtRequest{RecordedAt: issued.GetCommittedAt()}, 42, 8, -50},
		{"as recorded by now", &stockledgerv1.GetBalanceAtRequest{RecordedAt: now}, 72, 8, -80},
		{"as recorded a quarter of an hour ago", &stockledgerv1.GetBalanceAtRequest{RecordedAt: before}, 0, 0, 0},
		{"as it was by the issue", &stockledgerv1.GetBalanceAtRequest{OccurredAt: issued.GetCommittedAt()}, 72, 8, -80},
		{"as it was a quarter of an hour ago", &stockledgerv1.GetBalanceAtRequest{OccurredAt: before}, 30, 0, -30},
	} {
		for of, want := range map[stockledgerv1.Bucket]int64{
			bucket: 0, stockledgerv1.Bucket_BUCKET_AVAILABLE: test.held, stockledgerv1.Bucket_BUCKET_RESERVED: 0,
			stockledgerv1.Bucket_BUCKET_ISSUED: test.out, stockledgerv1.Bucket_BUCKET_SUPPLIER: test.supplied, stockledgerv1.Bucket_BUCKET_WASTED: 0,
		} {
			test.at.ClinicId, test.at.LocationId, test.at.MedicineId, test.at.LotId, test.at.Bucket = c.id, "ward", "zinc", "L1", of
			got, err := caller.query.GetBalanceAt(t.Context(), test.at)
			if err != nil {
				t.Fatalf("%s, %s: %v", test.name, of, err)
			}
			held := of == bucket || of <= stockledgerv1.Bucket_BUCKET_IN_TRANSIT
			if got.GetBalance() != want || (got.GetBalances() != nil) != held || held && got.GetBalances().GetAvailable() != test.held {
				t.Errorf("%s, %s: %v, want %d of the account and %d available", test.name, of, got, want, test.held)
			}
			if got.GetAsOf().GetSequence() < received.GetSequence() {
				t.Errorf("%s: as of %v", test.name, got.GetAsOf())
			}
			again, err := caller.events.GetBalanceAt(t.Context(), test.at)
			if err != nil || again.GetBalance() != got.GetBalance() || again.GetBalances().GetAvailable() != got.GetBalances().GetAvailable() {
				t.Errorf("%s, %s: EventService says %v, %v, and QueryService %v", test.name, of, again, err, got)
			}
		}
	}
}

func TestBalancesOfThePastRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	caller := n.client(n.token(t, pharmacist(c.id)), h2c())
	ask := func(caller *client, change func(*stockledgerv1.GetBalanceAtRequest)) error {
		req := &stockledgerv1.GetBalanceAtRequest{ClinicId: c.id, LocationId: "ward", MedicineId: "zinc", LotId: "L1", Sequence: 1}
		change(req)
		_, query := caller.query.GetBalanceAt(t.Context(), req)
		_, events := caller.events.GetBalanceAt(t.Context(), req)
		if connect.CodeOf(query) != connect.CodeOf(events) {
			t.Errorf("QueryService says %v, and EventService %v", query, events)
		}
		return events
	}
	wantField(t, ask(caller, func(r *stockledgerv1.GetBalanceAtRequest) { r.Bucket = 9 }), "bucket")
	for name, change := range map[string]func(*stockledgerv1.GetBalanceAtRequest){
		"no moment":   func(r *stockledgerv1.GetBalanceAtRequest) { r.Sequence = 0 },
		"two moments": func(r *stockledgerv1.GetBalanceAtRequest) { r.RecordedAt = timestamppb.Now() },
		"half a micro": func(r *stockledgerv1.GetBalanceAtRequest) {
			r.Sequence, r.OccurredAt = 0, &timestamppb.Timestamp{Nanos: -1}
		},
	} {
		if err := ask(caller, change); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantError(t, ask(caller, func(r *stockledgerv1.GetBalanceAtRequest) {
		r.Sequence, r.Bucket = 1_000_000, stockledgerv1.Bucket_BUCKET_ISSUED
	}), connect.CodeFailedPrecondition, reasonSequenceNotReached)
	wantError(t, ask(caller, func(r *stockledgerv1.GetBalanceAtRequest) {
		r.MedicineId, r.Bucket = "ors", stockledgerv1.Bucket_BUCKET_ISSUED
	}), connect.CodeNotFound, ledger.ReasonMedicineNotFound)
	store := pharmacist(c.id)
	store.Locations = []ledger.LocationID{"store"}
	wantError(t, ask(n.client(n.token(t, store), h2c()), func(*stockledgerv1.GetBalanceAtRequest) {}), connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
}
