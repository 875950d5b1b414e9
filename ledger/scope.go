package ledger

import "slices"

// Scope is the locations that a person must be entitled to for a command: all
// of All, and one of Any unless that is empty. Both are empty for commands that
// concern the clinic as a whole.
type Scope struct{ All, Any []LocationID }

// Within reports whether the locations suffice; an empty list is everything.
func (s Scope) Within(locations []LocationID) bool {
	if len(locations) == 0 {
		return true
	}
	for _, location := range s.All {
		if !slices.Contains(locations, location) {
			return false
		}
	}
	return len(s.Any) == 0 || slices.ContainsFunc(s.Any, func(l LocationID) bool { return slices.Contains(locations, l) })
}

// ScopeOf returns the locations that whoever gave an event's command must be
// entitled to.
func ScopeOf(e Event) Scope { return scopeOf(e.Body) }

func scopeOf(body EventBody) Scope {
	if b, ok := body.(*Change); ok {
		return b.scope()
	}
	switch b := body.(type) {
	case mover:
		return Scope{All: movedLocations(b.moves())}
	case *LocationUpdated:
		return Scope{All: []LocationID{b.LocationID}}
	case *LocationDeactivated:
		return Scope{All: []LocationID{b.LocationID}}
	}
	return Scope{}
}

func (b *Change) scope() Scope {
	for _, document := range b.Documents {
		switch d := document.(type) {
		case *Approval:
			return d.Scope.with(b.Approved)
		case *Recall:
			// Transfers that it shortens follow from what it moves.
			return Scope{All: movedLocations(b.Moves)}
		case *Count:
			return Scope{All: []LocationID{d.Location}}
		case *Level:
			return Scope{All: []LocationID{d.Location}}
		case *Transfer:
			return d.scope(b.of)
		case *Dispensing:
			return Scope{All: []LocationID{d.Location}}
		case *Downtime:
			return Scope{All: []LocationID{d.Location}}
		case *Prescription:
			if d.Location != "" {
				return Scope{All: []LocationID{d.Location}}
			}
		}
	}
	return Scope{All: movedLocations(b.Moves)}
}

// with adds the locations of the event that an approved command came to: the
// references in it may name others than when it was asked for.
func (s Scope) with(approved EventBody) Scope {
	if approved == nil {
		return s
	}
	all := append(slices.Clone(s.All), scopeOf(approved).All...)
	slices.Sort(all)
	return Scope{All: slices.Compact(all), Any: s.Any}
}

// scope says who may act on a transfer: the source gives, the destination
// takes, and either may ask for one, give one up or close one.
func (t *Transfer) scope(command Kind) Scope {
	switch command {
	case KindApproveTransfer, KindRejectTransfer, KindDispatchTransfer:
		return Scope{All: []LocationID{t.From}}
	case KindReceiveTransfer:
		return Scope{All: []LocationID{t.To}}
	default:
		return Scope{Any: []LocationID{t.From, t.To}}
	}
}

// ApprovedCommand returns the kind of the command that an event of a second
// person is about.
func ApprovedCommand(e Event) (Kind, bool) {
	b, ok := e.Body.(*Change)
	if !ok || b.of != KindApproveCommand && b.of != KindRejectCommand || len(b.Documents) == 0 {
		return 0, false
	}
	approval, ok := b.Documents[0].(*Approval)
	if !ok || approval.Status == ApprovalWithdrawn {
		return 0, false
	}
	return approval.Command, true
}

// Concerns reports whether what a command names, a hold, a receipt or a document
// that is open, lies within the locations. A rejection would otherwise tell about
// things that the caller may not see.
func Concerns(s *State, c Command, locations []LocationID) bool {
	if len(locations) == 0 {
		return true
	}
	if b, ok := c.Body.(*ReverseReceipt); ok && b.Receipt != nil {
		return slices.Contains(locations, b.Receipt.Location)
	}
	key, hold := s.actsOn(c.Body)
	if hold != "" {
		_, open := s.openHold(hold)
		return open == nil || slices.Contains(locations, open.shelf.Location)
	}
	found := s.findDocument(key)
	if found == nil {
		return true
	}
	if transfer, ok := found.Body.(*Transfer); ok {
		return transfer.scope(c.Body.Kind()).Within(locations)
	}
	return found.Body.About().concerns(locations)
}

// ConcernsWholeClinic reports whether an event's command bars lots everywhere,
// or sets what everybody is judged by: nothing for whoever is entitled to some
// locations alone.
func ConcernsWholeClinic(e Event) bool {
	b, ok := e.Body.(*Change)
	if !ok {
		return false
	}
	kind, scope := b.of, b.scope()
	if len(b.Documents) > 0 {
		if approval, ok := b.Documents[0].(*Approval); ok {
			kind = approval.Command
		}
	}
	switch kind {
	case KindSetPolicy, KindSetControlLimit, KindRecallLot, KindContinueRecall, KindLiftRecall:
		return true
	case KindQuarantineLot, KindReleaseLot:
		return len(scope.All) == 0
	}
	return false
}

// actsOn returns the document or hold that a command acts on.
func (s *State) actsOn(body CommandBody) (key DocumentKey, hold HoldID) {
	switch b := body.(type) {
	case *ReleaseStock:
		return key, b.HoldID
	case *ExpireReservation:
		return key, b.HoldID
	case *IssueStock:
		return key, b.HoldID
	case *ApproveTransfer:
		return DocumentKey{DocumentTransfer, string(b.TransferID)}, ""
	case *RejectTransfer:
		return DocumentKey{DocumentTransfer, string(b.TransferID)}, ""
	case *CancelTransfer:
		return DocumentKey{DocumentTransfer, string(b.TransferID)}, ""
	case *DispatchTransfer:
		return DocumentKey{DocumentTransfer, string(b.TransferID)}, ""
	case *ReceiveTransfer:
		return DocumentKey{DocumentTransfer, string(b.TransferID)}, ""
	case *CompleteTransfer:
		return DocumentKey{DocumentTransfer, string(b.TransferID)}, ""
	case *RecordCount:
		return DocumentKey{DocumentCount, string(b.CountID)}, ""
	case *CompleteCount:
		return DocumentKey{DocumentCount, string(b.CountID)}, ""
	case *CancelCount:
		return DocumentKey{DocumentCount, string(b.CountID)}, ""
	case *RepayLoan:
		return DocumentKey{DocumentLoan, loanID(LoanBorrowed, b.Reference)}, ""
	case *ReceiveRepayment:
		return DocumentKey{DocumentLoan, loanID(LoanLent, b.Reference)}, ""
	case ofDispensing:
		return DocumentKey{DocumentDispensing, string(b.dispensing())}, ""
	case ofPrescription:
		return s.prescriptionKey(b.prescription()), ""
	case ofApproval:
		return DocumentKey{DocumentApproval, string(b.approval())}, ""
	}
	return key, ""
}

// prescriptionKey names the prescription that a reference means, as far as that
// is known.
func (s *State) prescriptionKey(reference PrescriptionID) DocumentKey {
	names := s.namesPrescription(reference)
	if len(names) == 0 {
		return DocumentKey{}
	}
	return names[len(names)-1]
}
