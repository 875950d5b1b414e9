package ledger

import (
	"fmt"
	"testing"
)

// strictWorld wants somebody to approve every WriteOffStock before.
func strictWorld(t fataler) *world {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindWriteOffStock, 0, RequireApprovalBefore}))
	return w
}

func writeOff(quantity int64) *WriteOffStock {
	return &WriteOffStock{LocationID: "store", LotID: "zinc-1", Quantity: quantity, ReasonCode: "BROKEN", Reference: "D-1"}
}

// putOff gives a command that has to be approved.
func (w *world) putOff(t fataler, body CommandBody) ApprovalID {
	t.Helper()
	if event := w.must(t, body); event.Kind() != KindRequestApproval {
		t.Fatalf("%s was carried out without approval", body.Kind())
	}
	return w.lastApproval()
}

func TestApprovedCommandIsCarriedOutForWhoAskedForIt(t *testing.T) {
	w := strictWorld(t)
	id := w.putOff(t, writeOff(4))
	same(t, "while it waits", w.balances("store", "zinc-1"), Balances{Available: 26, Pending: 4})
	w.refused(t, "amina", &ApproveCommand{ApprovalID: id}, ReasonSamePerson)
	event := w.mustBy(t, "brian", &ApproveCommand{ApprovalID: id})
	same(t, "approved", w.balances("store", "zinc-1"), Balances{Available: 26})
	change := event.Body.(*Change)
	same(t, "who asked", change.Requester, "amina")
	same(t, "who approved", event.Actor, "brian")
	same(t, "the request", documentOf[*Approval](event).Status, ApprovalApproved)
	written := change.Approved.(*StockWrittenOff)
	same(t, "what was approved", written.ReasonCode+" "+written.Reference, "BROKEN D-1")
	same(t, "entries", fmt.Sprint(len(EntriesOf(event)), change.OwnLines(), change.ApprovedKind()), "2 1 WriteOffStock")
	w.refused(t, "chidi", &ApproveCommand{ApprovalID: id}, ReasonApprovalNotFound)
	checkInvariants(t, w)
	checkReplay(t, w)
}

// What is made by an approved command is made by who asked for it.
func TestApprovedCommandsKeepTheirRequester(t *testing.T) {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindReserveStock, 0, RequireApprovalBefore}, Rule{"*", KindTransferStock, 0, RequireApprovalBefore}))
	id := w.putOff(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 5, ReasonCode: "WARD", Deadline: w.now + testDay})
	w.mustBy(t, "brian", &ApproveCommand{ApprovalID: id})
	same(t, "whose hold", w.state.Snapshot().Holds[0].Actor, "amina")
	id = w.putOff(t, &TransferStock{From: "store", To: "ward", Lines: []RequestedLine{{MedicineID: "zinc", Quantity: 5}}, DispatchBy: w.now + testDay, ReasonCode: "REFILL"})
	w.mustBy(t, "brian", &ApproveCommand{ApprovalID: id})
	same(t, "whose transfer", document[Transfer](w.state, DocumentTransfer, w.latest(DocumentTransfer)).Requester, "amina")
	checkReplay(t, w)
}

func TestWaysInWhichARequestEnds(t *testing.T) {
	for name, c := range map[string]struct {
		by    Actor
		later Instant
		body  func(ApprovalID) CommandBody
		want  ApprovalStatus
	}{
		"rejected":  {"brian", 0, func(id ApprovalID) CommandBody { return &RejectCommand{ApprovalID: id, ReasonCode: "NO"} }, ApprovalRejected},
		"withdrawn": {"amina", 0, func(id ApprovalID) CommandBody { return &RejectCommand{ApprovalID: id, ReasonCode: "NO"} }, ApprovalWithdrawn},
		"lapsed":    {"chidi", testDay + 1, func(id ApprovalID) CommandBody { return &LapseCommand{ApprovalID: id} }, ApprovalLapsed},
	} {
		for _, recalled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, recalled %v", name, recalled), func(t *testing.T) {
				w := strictWorld(t)
				w.must(t, &QuarantineLot{LotID: "zinc-1", LocationID: "store", Quantity: 5, ReasonCode: "DAMP"})
				fromShelf := w.putOff(t, writeOff(4))
				fromQuarantine := w.putOff(t, writeOff(3).quarantined())
				same(t, "while they wait", w.balances("store", "zinc-1"), Balances{Available: 21, Pending: 7, Quarantined: 2})
				if recalled {
					w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
				}
				w.now += c.later
				for _, id := range []ApprovalID{fromShelf, fromQuarantine} {
					event := w.mustBy(t, c.by, c.body(id))
					same(t, "status", documentOf[*Approval](event).Status, c.want)
					same(t, "decider", documentOf[*Approval](event).Decider, c.by)
				}
				want := Balances{Available: 25, Quarantined: 5}
				if recalled {
					want = Balances{Available: 21, Quarantined: 9}
				}
				same(t, "units came back", w.balances("store", "zinc-1"), want)
				checkInvariants(t, w)
				checkReplay(t, w)
			})
		}
	}
}

func TestRequestsHaveADeadline(t *testing.T) {
	w := strictWorld(t)
	id := w.putOff(t, writeOff(4))
	w.refused(t, "brian", &LapseCommand{ApprovalID: id}, ReasonApprovalNotDue)
	w.now += testDay // the last moment
	w.refused(t, "brian", &LapseCommand{ApprovalID: id}, ReasonApprovalNotDue)
	w.now++
	w.refused(t, "brian", &ApproveCommand{ApprovalID: id}, ReasonApprovalLapsed)
	same(t, "it still holds its units", w.balances("store", "zinc-1").Pending, 4)
	w.mustBy(t, "brian", &RejectCommand{ApprovalID: id, ReasonCode: "LATE"})
}

// ApproveCommand decides afresh: what has become impossible is rejected, and the
// request stays open with its units.
func TestApproveDecidesAfresh(t *testing.T) {
	w := strictWorld(t)
	id := w.putOff(t, writeOff(4))
	// The request holds units of its own, so that nobody can take them.
	w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 26})
	w.refused(t, "amina", &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 1}, ReasonInsufficientStock)
	// A recall takes them into quarantine, and they are not on the shelf any more.
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	w.refused(t, "brian", &ApproveCommand{ApprovalID: id}, ReasonInsufficientStock)
	same(t, "it stays open", w.balances("store", "zinc-1"), Balances{Pending: 4})
	w.must(t, &LiftRecall{RecallID: w.lastRecall(), ReasonCode: "MISTAKE"})
	w.mustBy(t, "brian", &ApproveCommand{ApprovalID: id})
	same(t, "now it is possible", w.balances("store", "zinc-1"), Balances{})

	// A hold that went meanwhile: requests hold no units that are held already.
	w = transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindIssueStock, 0, RequireApprovalBefore}))
	hold := w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 5, ReasonCode: "WARD", Deadline: w.now + testDay}).Body.(*StockReserved).HoldID
	id = w.putOff(t, &IssueStock{HoldID: hold})
	w.must(t, &ReleaseStock{HoldID: hold})
	w.refused(t, "brian", &ApproveCommand{ApprovalID: id}, ReasonHoldNotFound)
	same(t, "it stays open", document[Approval](w.state, DocumentApproval, string(id)).Status, ApprovalOpen)
	checkInvariants(t, w)
}

// An approved command is short of stock because of overdue holds: they make
// room for it as for any other.
func TestOverdueHoldsMakeRoomForAnApproval(t *testing.T) {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindReceiveTransfer, 0, RequireApprovalBefore}, Rule{"*", KindWriteOffStock, 0, RequireApprovalBefore}))
	id := w.putOff(t, writeOff(10))
	w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 20, ReasonCode: "WARD", Deadline: w.now + 10})
	w.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	w.now += 11
	approve := w.command(&ApproveCommand{ApprovalID: id})
	approve.Actor = "brian"
	if _, r := w.give(t, approve); r == nil || r.Reason != ReasonInsufficientStock {
		t.Fatalf("without its units: %v", r)
	}
	same(t, "expiries", len(ExpiriesFor(w.state, approve, w.now)), 1)
	for _, c := range append(ExpiriesFor(w.state, approve, w.now), approve) {
		if _, r := w.give(t, c); r != nil {
			t.Fatalf("%s: %v", c.Body.Kind(), r)
		}
	}
	checkInvariants(t, w)
}

func TestReviewAfterwards(t *testing.T) {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindWriteOffStock, 2, RequireReview}))
	event := w.must(t, writeOff(2))
	same(t, "below the tier", event.ReviewBy, 0)
	event = w.must(t, writeOff(3))
	same(t, "it is carried out", w.balances("store", "zinc-1"), Balances{Available: 25})
	same(t, "until when", event.ReviewBy, w.now+testDay)
	review := document[Approval](w.state, DocumentApproval, w.latest(DocumentApproval))
	same(t, "review", fmt.Sprintf("%v %s %s %v", review.Review, review.Command, review.Requester, review.Scope.All), "true WriteOffStock amina [store]")
	id := w.lastApproval()
	w.refused(t, "amina", &ApproveCommand{ApprovalID: id}, ReasonSamePerson)
	w.refused(t, "amina", &RejectCommand{ApprovalID: id, ReasonCode: "NO"}, ReasonSamePerson)
	event = w.mustBy(t, "brian", &RejectCommand{ApprovalID: id, ReasonCode: "WRONG"})
	same(t, "nothing is undone", len(EntriesOf(event)), 0)
	same(t, "status", documentOf[*Approval](event).Status, ApprovalRejected)
	w.must(t, writeOff(3))
	event = w.mustBy(t, "brian", &ApproveCommand{ApprovalID: w.lastApproval()})
	same(t, "status", documentOf[*Approval](event).Status, ApprovalApproved)
	same(t, "nothing is approved but the review", event.Body.(*Change).ApprovedKind(), 0)
	w.must(t, writeOff(3))
	w.now += testDay + 1
	w.mustBy(t, "brian", &LapseCommand{ApprovalID: w.lastApproval()})
	checkReplay(t, w)
}

func TestWitness(t *testing.T) {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindWriteOffStock, 0, RequireWitness}))
	c := w.command(writeOff(1))
	for _, test := range []struct {
		witness Actor
		want    Reason
	}{{"", ReasonWitnessRequired}, {"amina", ReasonSamePerson}, {"two\nlines", ReasonInvalidField}, {"brian", ""}} {
		c.Witness = test.witness
		event, r := w.give(t, c)
		switch {
		case test.want == "" && (r != nil || event.Witness != "brian"):
			t.Errorf("witnessed by %q: %v, recorded is %q", test.witness, r, event.Witness)
		case test.want != "" && (r == nil || r.Reason != test.want):
			t.Errorf("witnessed by %q: %v, want %s", test.witness, r, test.want)
		}
	}
	// The witness is part of what a key stands for.
	d := c
	d.Witness = "chidi"
	if c.RequestHash() == d.RequestHash() {
		t.Errorf("two witnesses, one request hash")
	}
}

// The strictest of all rules that apply counts, and which apply depends on
// class, tier and command.
func TestRules(t *testing.T) {
	w := newBusyWorld(t)
	rules := []Rule{
		{"schedule-2", KindIssueStock, 5, RequireApprovalBefore},
		{"*", KindIssueStock, 15, RequireWitness},
		{"", KindIssueStock, 10, RequireReview},
		{"schedule-2", KindIssueStock, 0, RequireWitness},
		{"*", KindCreateLocation, 0, RequireReview},
		{"", KindStartCount, 0, RequireReview},
		{"schedule-2", KindAddMedicine, 0, RequireApprovalBefore},
		{"schedule-2", KindUpdateMedicine, 0, RequireApprovalBefore},
		{"schedule-2", KindUpdateLot, 0, RequireApprovalBefore},
		{"schedule-2", KindDeactivateLot, 0, RequireApprovalBefore},
		{"schedule-2", KindAddIdentifier, 0, RequireApprovalBefore},
		{"schedule-2", KindStartCount, 0, RequireApprovalBefore},
		{"", KindSetPolicy, 0, RequireApprovalBefore}, // which concerns no medicine
		{"*", KindTransferStock, 10, RequireApprovalBefore},
		{"*", KindOpenContainer, 10, RequireApprovalBefore},
	}
	w.must(t, policy(time1, rules...))
	issue := func(medicine MedicineID, quantity int64) CommandBody {
		return &IssueStock{LocationID: "store", MedicineID: medicine, Quantity: quantity}
	}
	transfer := func(lines ...RequestedLine) CommandBody {
		return &TransferStock{From: "store", To: "ward", Lines: lines, DispatchBy: w.now + testDay, ReasonCode: "REFILL"}
	}
	for name, c := range map[string]struct {
		body CommandBody
		want Requirement
	}{
		"below the tier":                {issue("zinc", 10), RequireNothing},
		"above the tier":                {issue("zinc", 11), RequireReview},
		"above the stricter tier":       {issue("zinc", 16), RequireWitness},
		"controlled":                    {issue("morphine", 5), RequireWitness},
		"controlled, above the tier":    {issue("morphine", 6), RequireApprovalBefore},
		"controlled, above all tiers":   {issue("morphine", 16), RequireApprovalBefore},
		"about no medicine":             {&CreateLocation{Name: "new", LocationKind: Ward}, RequireReview},
		"about no medicine, no rule":    {policy(time1), RequireNothing},
		"becoming controlled":           {&UpdateMedicine{MedicineID: "zinc", ControlClass: ptr("schedule-2")}, RequireApprovalBefore},
		"being controlled no more":      {&UpdateMedicine{MedicineID: "morphine", ControlClass: ptr("")}, RequireApprovalBefore},
		"a new one":                     {&AddMedicine{Name: "new", BaseUnit: "ml", ControlClass: "schedule-2"}, RequireApprovalBefore},
		"a new one, not controlled":     {&AddMedicine{Name: "new", BaseUnit: "ml"}, RequireNothing},
		"a lot":                         {&UpdateLot{LotID: "morphine-1", Expiry: ptr(today + 9)}, RequireApprovalBefore},
		"a lot that ends":               {&DeactivateLot{LotID: "morphine-0", ReasonCode: "GONE"}, RequireApprovalBefore},
		"a lot, not controlled":         {&UpdateLot{LotID: "zinc-1", Expiry: ptr(today + 9)}, RequireNothing},
		"an identifier of a medicine":   {&AddIdentifier{Subject: SubjectMedicine, SubjectID: "morphine", System: "erp", Value: "M"}, RequireApprovalBefore},
		"an identifier of a lot":        {&AddIdentifier{Subject: SubjectLot, SubjectID: "morphine-1", System: "erp", Value: "M"}, RequireApprovalBefore},
		"an identifier of a location":   {&AddIdentifier{Subject: SubjectLocation, SubjectID: "ward", System: "erp", Value: "W"}, RequireNothing},
		"a count with a controlled one": {&StartCount{LocationID: "store"}, RequireApprovalBefore},
		"a count without one":           {&StartCount{LocationID: "store", Medicines: []MedicineID{"zinc"}}, RequireReview},
		"lines of a medicine together":  {transfer(RequestedLine{MedicineID: "zinc", LotID: "zinc-1", Quantity: 6}, RequestedLine{MedicineID: "zinc", LotID: "zinc-2", Quantity: 6}), RequireApprovalBefore},
		"lines of two medicines":        {transfer(RequestedLine{MedicineID: "zinc", Quantity: 6}, RequestedLine{MedicineID: "morphine", Quantity: 6}), RequireNothing},
		"few units that are converted":  {&OpenContainer{LocationID: "store", LotID: "zinc-2", Quantity: 6, InUseUntil: today + 5}, RequireNothing},
		"many units that are converted": {&OpenContainer{LocationID: "store", LotID: "zinc-2", Quantity: 11, InUseUntil: today + 5}, RequireApprovalBefore},
	} {
		w.dry(func() {
			event, r := w.try(t, c.body)
			got := RequireNothing
			switch {
			case r != nil && r.Reason == ReasonWitnessRequired:
				got = RequireWitness
			case r != nil:
				t.Errorf("%s: %v", name, r)
			case event.Kind() == KindRequestApproval:
				got = RequireApprovalBefore
			case event.ReviewBy != 0:
				got = RequireReview
			}
			if got != c.want {
				t.Errorf("%s: it requires %d, want %d", name, got, c.want)
			}
		})
	}
}

// A list of reason codes says what a code may be, and does not ask for one
// where none is needed. The ledger's own commands have codes of their own.
func TestReasonCodes(t *testing.T) {
	w := transferWorld(t)
	listed := policy(time1)
	listed.ReasonCodes = []ReasonCodes{{KindIssueStock, []string{"DRESSING"}}, {KindCancelTransfer, []string{"CHANGED"}}}
	w.must(t, listed)
	issue := func(code string) CommandBody {
		return &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1, ReasonCode: code}
	}
	w.must(t, issue("DRESSING"))
	w.must(t, issue(""))
	r := w.refused(t, "amina", issue("OTHER"), ReasonReasonCodeUnknown)
	same(t, "what is allowed", r.Metadata["allowed"], "DRESSING")
	id := w.ask(t, 5, "")
	w.refused(t, "amina", &CancelTransfer{TransferID: id, ReasonCode: ReasonCodeOverdue}, ReasonReasonCodeUnknown)
	w.mustBy(t, SystemActor, &CancelTransfer{TransferID: id, ReasonCode: ReasonCodeOverdue})
	// Nobody can shut the door to the policy behind themselves.
	for _, kind := range []Kind{KindSetPolicy, KindApproveCommand, KindLapseCommand, KindRequestApproval, 0} {
		lists := policy(time1)
		lists.ReasonCodes = []ReasonCodes{{kind, []string{"A"}}}
		w.refused(t, "amina", lists, ReasonInvalidField)
	}
}
