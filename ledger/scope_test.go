package ledger

import (
	"slices"
	"testing"
)

func TestScopeWithin(t *testing.T) {
	both := Scope{All: []LocationID{"store", "ward"}}
	either := Scope{Any: []LocationID{"store", "ward"}}
	for _, c := range []struct {
		scope     Scope
		locations []LocationID
		want      bool
	}{
		{both, nil, true},
		{both, []LocationID{"ward", "store", "annex"}, true},
		{both, []LocationID{"ward"}, false},
		{either, []LocationID{"ward"}, true},
		{either, []LocationID{"annex"}, false},
		{Scope{}, []LocationID{"annex"}, true},
		{Scope{All: []LocationID{"annex"}, Any: []LocationID{"ward"}}, []LocationID{"annex"}, false},
	} {
		if got := c.scope.Within(c.locations); got != c.want {
			t.Errorf("%+v within %v: %v", c.scope, c.locations, got)
		}
	}
}

// Whoever gives a command must be entitled to these locations, and to what it
// names: for a command of each kind that the stage accepts.
func TestScopesOfCommands(t *testing.T) {
	store, ward := []LocationID{"store"}, []LocationID{"ward"}
	all := map[Kind]Scope{
		KindReceiveStock: {All: store}, KindReserveStock: {All: store}, KindReleaseStock: {All: store}, KindExpireReservation: {All: store},
		KindIssueStock: {All: store}, KindAdjustStock: {All: store}, KindWriteOffStock: {All: store}, KindReturnToSupplier: {All: store},
		KindReverseReceipt: {All: store}, KindConvertStock: {All: store}, KindOpenContainer: {All: store},
		KindStartCount: {All: ward}, KindRecordCount: {All: ward}, KindCompleteCount: {All: store}, KindCancelCount: {All: store},
		KindUpdateStockLevels: {All: ward}, KindUpdateLocation: {All: store}, KindDeactivateLocation: {All: []LocationID{"empty"}},
		KindTransferStock: {Any: []LocationID{"store", "ward"}}, KindCancelTransfer: {Any: []LocationID{"store", "ward"}},
		KindCompleteTransfer: {Any: []LocationID{"store", "ward"}},
		KindApproveTransfer:  {All: store}, KindRejectTransfer: {All: store}, KindDispatchTransfer: {All: store}, KindReceiveTransfer: {All: ward},
		KindLendStock: {All: store}, KindBorrowStock: {All: store}, KindRepayLoan: {All: store}, KindReceiveRepayment: {All: store},
		KindApproveCommand: {All: store}, KindRejectCommand: {All: store}, KindLapseCommand: {All: store},
		KindCreatePrescription: {All: store}, KindCancelPrescription: {All: store}, KindDispenseMedicine: {All: store}, KindPrepareDispensing: {All: store},
		KindCheckDispensing: {All: store}, KindHandOver: {All: store}, KindCancelDispensing: {All: store}, KindReturnFromPatient: {All: store},
		KindRecordDowntime: {All: store},
	}
	s := newStage(t)
	samples := s.samples()
	for _, kind := range Kinds() {
		event, r := Decide(s.state, s.attach(s.fill(samples[kind])), s.now)
		if r != nil {
			continue // CreateClinic and DeactivateClinic
		}
		mustBeSame(t, kind.String(), all[kind], ScopeOf(event))
	}
}

func TestConcerns(t *testing.T) {
	s := newStage(t)
	store, ward := []LocationID{"store"}, []LocationID{"ward"}
	both := []LocationID{"store", "ward"}
	// Those who may know what a command names, where it names something.
	known := map[Kind][]LocationID{
		KindReleaseStock: store, KindExpireReservation: store, KindReverseReceipt: store, KindCompleteCount: store, KindCancelCount: store,
		KindApproveTransfer: store, KindRejectTransfer: store, KindDispatchTransfer: store, KindReceiveTransfer: ward,
		KindCancelTransfer: both, KindCompleteTransfer: both, KindRepayLoan: store, KindReceiveRepayment: store,
		KindApproveCommand: store, KindRejectCommand: store, KindLapseCommand: store,
		KindCancelPrescription: store, KindDispenseMedicine: store, KindPrepareDispensing: store, KindCheckDispensing: store, KindHandOver: store, KindCancelDispensing: store, KindReturnFromPatient: store,
	}
	for kind, sample := range s.samples() {
		c := s.attach(sample)
		if !Concerns(s.state, c, nil) {
			t.Errorf("%s does not concern who may see everything", kind)
		}
		for _, location := range []LocationID{"store", "ward", "annex"} {
			want := known[kind] == nil || slices.Contains(known[kind], location)
			if got := Concerns(s.state, c, []LocationID{location}); got != want {
				t.Errorf("%s concerns %s: %v", kind, location, got)
			}
		}
	}
	// What does not exist is nobody's secret.
	for _, body := range []CommandBody{&ReleaseStock{HoldID: "hold_x"}, &ApproveTransfer{TransferID: "TR-0"}, &IssueStock{HoldID: s.issued}} {
		if !Concerns(s.state, s.command(body), []LocationID{"annex"}) {
			t.Errorf("%+v concerns somebody", body)
		}
	}
	ward = []LocationID{"ward"}
	if Concerns(s.state, s.command(&RecordCount{CountID: s.count}), ward) {
		t.Errorf("a count in the store concerns the ward")
	}
	// A prescription is filled, and what remains of it told, where it is to be.
	for _, id := range []PrescriptionID{s.counter.byPaper, "paper|1"} {
		given := Dispense{LocationID: "ward", PrescriptionID: id, Line: 1, Quantity: 1}
		for _, body := range []CommandBody{&DispenseMedicine{given}, &PrepareDispensing{given, s.now + testDay}, &RecordDowntime{Device: "pad", PaperReference: "1", Dispensed: &given}} {
			if Concerns(s.state, s.command(body), ward) || !Concerns(s.state, s.command(body), both) {
				t.Errorf("%s of %s, which is for the store", body.Kind(), id)
			}
		}
	}
	if !Concerns(s.state, s.command(&CancelPrescription{}), ward) || !Concerns(s.state, s.command(&DispenseMedicine{}), ward) {
		t.Errorf("what names nothing concerns somebody")
	}
}

func TestConcernsWholeClinic(t *testing.T) {
	s := newStage(t)
	whole := []Kind{KindSetPolicy, KindSetControlLimit, KindQuarantineLot, KindReleaseLot, KindRecallLot, KindContinueRecall, KindLiftRecall}
	for kind, sample := range s.samples() {
		event, r := Decide(s.state, s.attach(s.fill(sample)), s.now)
		if r != nil {
			continue // CreateClinic and DeactivateClinic
		}
		if got := ConcernsWholeClinic(event); got != slices.Contains(whole, kind) {
			t.Errorf("%s concerns the whole clinic: %v", kind, got)
		}
	}
	for _, body := range []CommandBody{
		&QuarantineLot{LotID: "zinc-1", LocationID: "store", ReasonCode: "DAMP"}, &ReleaseLot{LotID: "zinc-2", LocationID: "store", ReasonCode: "DRY"},
	} {
		s.dry(func() {
			if ConcernsWholeClinic(s.must(t, body)) {
				t.Errorf("%s of units at a location concerns the whole clinic", body.Kind())
			}
		})
	}
	// So does the request, and the approval, of what does.
	s.must(t, policy(time1, Rule{"*", KindRecallLot, 0, RequireApprovalBefore}))
	request := s.must(t, &RecallLot{LotID: "zinc-1", ReasonCode: "NOTICE"})
	approval := s.mustBy(t, "brian", &ApproveCommand{ApprovalID: s.lastApproval()})
	if !ConcernsWholeClinic(request) || !ConcernsWholeClinic(approval) {
		t.Errorf("a recall that waits concerns the whole clinic: %v; that is approved: %v", ConcernsWholeClinic(request), ConcernsWholeClinic(approval))
	}
}

// A location's external name may be another location's when a request is
// approved: the approver must be entitled to both.
func TestScopeOfAnApprovalWhoseReferencesMoved(t *testing.T) {
	w := newBusyWorld(t)
	w.must(t, policy(time1, Rule{"*", KindReceiveStock, 0, RequireApprovalBefore}))
	id := w.putOff(t, &ReceiveStock{LocationID: "erp|S", LotID: "zinc-2", Quantity: 5})
	w.must(t, &RemoveIdentifier{Subject: SubjectLocation, System: "erp", Value: "S", ReasonCode: "MOVED"})
	w.must(t, &AddIdentifier{Subject: SubjectLocation, SubjectID: "ward", System: "erp", Value: "S"})
	event := w.mustBy(t, "brian", &ApproveCommand{ApprovalID: id})
	mustBeSame(t, "scope", Scope{All: []LocationID{"store", "ward"}}, ScopeOf(event))
	if kind, ok := ApprovedCommand(event); !ok || kind != KindReceiveStock {
		t.Errorf("the command that was approved is %s, %v", kind, ok)
	}
}

func TestApprovedCommand(t *testing.T) {
	s := newStage(t)
	for name, c := range map[string]struct {
		by   Actor
		body CommandBody
		want Kind
	}{
		"approved":     {"brian", &ApproveCommand{ApprovalID: s.waiting}, KindWriteOffStock},
		"rejected":     {"brian", &RejectCommand{ApprovalID: s.waiting, ReasonCode: "NO"}, KindWriteOffStock},
		"reviewed":     {"brian", &ApproveCommand{ApprovalID: s.review}, KindAdjustStock},
		"withdrawn":    {"amina", &RejectCommand{ApprovalID: s.waiting, ReasonCode: "NO"}, 0},
		"lapsed":       {"brian", &LapseCommand{ApprovalID: s.lapsed}, 0},
		"no second":    {"brian", &LiftRecall{RecallID: s.recall, ReasonCode: "OVER"}, 0},
		"another kind": {"brian", &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 1}, 0},
	} {
		s.dry(func() {
			kind, ok := ApprovedCommand(s.mustBy(t, c.by, c.body))
			if kind != c.want || ok != (c.want != 0) {
				t.Errorf("%s: %s, %v", name, kind, ok)
			}
		})
	}
}
