package txn

import (
	"context"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// twoPeople is a clinic whose policy wants two people for a write-off, a witness
// for an adjustment, and a review of every issue.
func twoPeople(tb testing.TB) *testClinic {
	tb.Helper()
	c := newTestClinic(tb, testExecutor(tb, ExecutorConfig{}))
	c.receive(100)
	rule := func(command ledger.Kind, requires ledger.Requirement) ledger.Rule {
		return ledger.Rule{ControlClass: ledger.AnyControlClass, Command: command, Requires: requires}
	}
	c.must(&ledger.SetPolicy{Policy: ledger.Policy{ApprovalHours: 8, Rules: []ledger.Rule{
		rule(ledger.KindWriteOffStock, ledger.RequireApprovalBefore),
		rule(ledger.KindAdjustStock, ledger.RequireWitness),
		rule(ledger.KindIssueStock, ledger.RequireReview),
	}}})
	return c
}

func (c *testClinic) by(actor ledger.Actor, body ledger.CommandBody) ledger.Command {
	command := c.command(body)
	command.Actor = actor
	return command
}

var writeOff = &ledger.WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 3, ReasonCode: "broken"}

// TestNobodyIsTwoPeople tries to be both by one command after the other, in a
// batch, and in a linked batch, and to decide without being entitled.
func TestNobodyIsTwoPeople(t *testing.T) {
	t.Parallel()
	c := twoPeople(t)
	request := c.give(c.by("amina", writeOff))
	approval := ledger.ApprovalID(documentOf(t, request.Record))
	approve := &ledger.ApproveCommand{ApprovalID: approval}
	c.rejected(c.give(c.by("amina", approve)), ledger.ReasonSamePerson)

	for _, linked := range []bool{false, true} {
		// The next command is the first of the batch, and its request is known.
		next := ledger.ApprovalID("")
		if _, asOf, err := NewQueries(NewDirectory(c.e.db)).Clinic(t.Context(), c.id, ReadOptions{}); err == nil {
			next = ledger.ApprovalID("AP-" + ledger.Etag(asOf.Sequence+1))
		}
		verdicts := c.submit(Submission{Linked: linked, Commands: []ledger.Command{
			c.by("amina", writeOff), c.by("amina", &ledger.ApproveCommand{ApprovalID: next}),
		}})
		c.rejected(verdicts[1], ledger.ReasonSamePerson)
		if linked {
			c.rejected(verdicts[0], ledger.ReasonLinkedCommandRejected)
		}
	}

	adjust := c.by("amina", &ledger.AdjustStock{LocationID: "store", LotID: "L1", Direction: ledger.Decrease, Quantity: 1, ReasonCode: "lost"})
	c.rejected(c.give(adjust), ledger.ReasonWitnessRequired)
	adjust.Witness = "amina"
	c.rejected(c.give(adjust), ledger.ReasonSamePerson)
	adjust.Witness = "joseph"
	elsewhere := Submission{Commands: []ledger.Command{adjust}, Witnesses: map[ledger.Actor][]ledger.LocationID{"joseph": {"ward"}}}
	c.rejected(c.submit(elsewhere)[0], ledger.ReasonLocationForbidden)
	if v := c.give(adjust); v.Err != nil {
		t.Errorf("a witness of everywhere: %v", v.Err)
	}

	decide := func(edit func(*Submission)) Verdict {
		s := Submission{Commands: []ledger.Command{c.by("joseph", approve)}}
		edit(&s)
		return c.submit(s)[0]
	}
	c.rejected(decide(func(s *Submission) { s.Locations = []ledger.LocationID{"ward"} }), ledger.ReasonLocationForbidden)
	c.rejected(decide(func(s *Submission) {
		s.Permits = func(kind ledger.Kind) bool { return kind != ledger.KindWriteOffStock }
	}), ledger.ReasonCommandForbidden)
	if v := decide(func(*Submission) {}); v.Err != nil {
		t.Errorf("somebody else approves: %v", v.Err)
	}

	issue := c.give(c.by("amina", &ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1}))
	review := ledger.ApprovalID("AP-" + ledger.Etag(issue.Record.Event.Sequence))
	c.rejected(c.give(c.by("amina", &ledger.ApproveCommand{ApprovalID: review})), ledger.ReasonSamePerson)
	c.rejected(c.give(c.by("amina", &ledger.RejectCommand{ApprovalID: review, ReasonCode: "no"})), ledger.ReasonSamePerson)
	if v := c.give(c.by("joseph", &ledger.ApproveCommand{ApprovalID: review})); v.Err != nil {
		t.Errorf("somebody else reviews: %v", v.Err)
	}
	c.verify()
}

// TestBackdatingNeedsAPermission records what happened before the clinic's
// window.
func TestBackdatingNeedsAPermission(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	command := c.command(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1})
	command.OccurredAt = ledger.InstantOf(time.Now().Add(-48 * time.Hour))
	c.rejected(c.give(command), ledger.ReasonOccurredTooEarly)
	command.LateReasonCode = "POWER_CUT"
	c.rejected(c.give(command), ledger.ReasonOccurredTooEarly)
	verdicts, err := c.e.Submit(context.Background(), Submission{Clinic: c.id, Commands: []ledger.Command{command}, MayBackdate: true})
	if err != nil || verdicts[0].Err != nil {
		t.Fatalf("with the permission and a reason: %v, %v", err, verdicts)
	}
	if got := verdicts[0].Record.Event.LateReasonCode; got != "POWER_CUT" {
		t.Errorf("the event says %q", got)
	}
	c.verify()
}

// TestLimitedToOneLocation gives commands as somebody who is entitled to the
// ward alone.
func TestLimitedToOneLocation(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(100)
	transfer := func() ledger.TransferID {
		return ledger.TransferID(documentOf(t, c.must(&ledger.TransferStock{
			From: "store", To: "ward", Lines: []ledger.RequestedLine{{MedicineID: "zinc", Quantity: 5}}, DispatchBy: ledger.MaxInstant, ReasonCode: "restock",
		})))
	}
	requested, sent := transfer(), transfer()
	c.mustAll(&ledger.ApproveTransfer{TransferID: sent}, &ledger.DispatchTransfer{TransferID: sent})
	receipt := c.must(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1}).Event.Sequence
	hold := c.must(reserve(1)).Event.Body.(*ledger.StockReserved).HoldID
	atWard := func(body ledger.CommandBody) Verdict {
		return c.submit(Submission{Locations: []ledger.LocationID{"ward"}, Commands: []ledger.Command{c.command(body)}})[0]
	}
	name := "Renamed"
	for _, body := range []ledger.CommandBody{
		&ledger.ApproveTransfer{TransferID: requested},
		&ledger.RejectTransfer{TransferID: requested, ReasonCode: "no"},
		&ledger.ReverseReceipt{Sequence: receipt, ReasonCode: "typo"},
		&ledger.ReleaseStock{HoldID: hold},
		&ledger.RecordCount{LocationID: "store", Lines: []ledger.CountedLine{{LotID: "L1", Counted: 1}}, ReasonCode: "monthly"},
		&ledger.RecordCount{LocationID: "store", Lines: []ledger.CountedLine{{LotID: "L1", Counted: 1, Sequence: receipt}}, ReasonCode: "monthly"},
		&ledger.StartCount{LocationID: "store"},
		&ledger.UpdateStockLevels{LocationID: "store", MedicineID: "zinc", Min: 1, Reorder: 1},
		&ledger.LendStock{LoanMove: ledger.LoanMove{Partner: "riverside", LocationID: "store", LotID: "L1", Quantity: 1, Reference: "LN-1"}},
		&ledger.OpenContainer{LocationID: "store", LotID: "L1", Quantity: 1, InUseUntil: ledger.MaxDate},
		&ledger.QuarantineLot{LotID: "L1", ReasonCode: "complaint"},
		&ledger.QuarantineLot{LotID: "L1", LocationID: "store", ReasonCode: "complaint"},
		&ledger.RecallLot{LotID: "L1", ReasonCode: "maker"},
		&ledger.SetPolicy{Policy: ledger.Policy{ApprovalHours: 1}},
		&ledger.UpdateLocation{LocationID: "store", Name: &name},
	} {
		c.rejected(atWard(body), ledger.ReasonLocationForbidden)
	}
	for _, body := range []ledger.CommandBody{
		&ledger.ReceiveTransfer{TransferID: sent},
		&ledger.CancelTransfer{TransferID: requested, ReasonCode: "changed"},
		&ledger.IssueStock{LocationID: "ward", MedicineID: "zinc", Quantity: 1},
		&ledger.QuarantineLot{LotID: "L1", LocationID: "ward", Quantity: 1, ReasonCode: "complaint"},
	} {
		if v := atWard(body); v.Err != nil {
			t.Errorf("%s at the ward: %v", body.Kind(), v.Err)
		}
	}
	c.verify()
}
