package rpc

import (
	"fmt"
	"maps"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// results renders what accepted commands came to. It does so from the events
// alone, so that a repetition gets the first answer again.
type results struct {
	// managesCounts tells that the caller may see the variances of blind
	// counts while they are open.
	managesCounts bool
}

func resultsFor(p *Principal) results { return results{managesCounts: p.may(permissionManageCounts)} }

// accepted renders the answer to an accepted command.
func (r results) accepted(record ledger.Record, replayed bool) (*stockledgerv1.Accepted, error) {
	e := record.Event
	accepted := &stockledgerv1.Accepted{
		Sequence: int64(e.Sequence), CommittedAt: fromInstant(e.At), Replayed: replayed, Review: fromReview(e),
	}
	if change, ok := e.Body.(*ledger.Change); ok && e.Kind() == ledger.KindRequestApproval {
		request, err := r.request(change)
		accepted.Result = &stockledgerv1.Accepted_Approval{Approval: request}
		return accepted, err
	}
	came, err := r.cameTo(e, e.Body)
	switch {
	case came.stock != nil:
		accepted.Result = &stockledgerv1.Accepted_Stock{Stock: came.stock}
	case came.change != nil:
		accepted.Result = &stockledgerv1.Accepted_Change{Change: came.change}
	default:
		accepted.Result = &stockledgerv1.Accepted_Document{Document: came.document}
	}
	return accepted, err
}

// rejection keeps from who may count blindly how far off a count is.
func (r results) rejection(rejection *ledger.Rejection) *ledger.Rejection {
	if rejection.Reason != ledger.ReasonCountEatsHeld || r.managesCounts {
		return rejection
	}
	blind := *rejection
	blind.Message = "Units are missing, and so many are promised to others that promised ones must be among them."
	blind.Metadata = maps.Clone(rejection.Metadata)
	delete(blind.Metadata, "missing")
	delete(blind.Metadata, "available")
	return &blind
}

// outcome is what a command came to: one of these.
type outcome struct {
	document *stockledgerv1.DocumentResult
	stock    *stockledgerv1.StockResult
	change   *stockledgerv1.ChangeResult
}

// cameTo renders the body of an event, or of what an event approved.
func (r results) cameTo(e ledger.Event, body ledger.EventBody) (outcome, error) {
	switch b := body.(type) {
	case *ledger.StockReceived:
		return outcome{stock: stockResult(b.Shelf, "", b.Lines)}, nil
	case *ledger.StockReserved:
		return outcome{stock: stockResult(b.Shelf, b.HoldID, b.Lines)}, nil
	case *ledger.StockReleased:
		return outcome{stock: stockResult(b.Shelf, b.HoldID, b.Lines)}, nil
	case *ledger.ReservationExpired:
		return outcome{stock: stockResult(b.Shelf, b.HoldID, b.Lines)}, nil
	case *ledger.StockIssued:
		return outcome{stock: stockResult(b.Shelf, b.HoldID, b.Lines)}, nil
	case *ledger.StockAdjusted:
		return outcome{stock: stockResult(b.Shelf, "", b.Lines)}, nil
	case *ledger.StockWrittenOff:
		return outcome{stock: stockResult(b.Shelf, "", b.Lines)}, nil
	case *ledger.StockReturnedToSupplier:
		return outcome{stock: stockResult(b.Shelf, "", b.Lines)}, nil
	case *ledger.Change:
		change, err := r.changeResult(e, b)
		return outcome{change: change}, err
	}
	id, ok := documentID(e.Clinic, body)
	if !ok {
		return outcome{}, fmt.Errorf("rpc: event %T has no answer", body)
	}
	return outcome{document: &stockledgerv1.DocumentResult{Id: id, Etag: ledger.Etag(e.Sequence)}}, nil
}

func stockResult(shelf ledger.Shelf, hold ledger.HoldID, lines []ledger.Line) *stockledgerv1.StockResult {
	result := &stockledgerv1.StockResult{
		LocationId: string(shelf.Location), MedicineId: string(shelf.Medicine), HoldId: string(hold), Lots: fromLines(lines),
	}
	for _, line := range lines {
		result.Quantity += line.Quantity
	}
	return result
}

func fromLines(lines []ledger.Line) []*stockledgerv1.LotQuantity {
	lots := make([]*stockledgerv1.LotQuantity, len(lines))
	for i, line := range lines {
		lots[i] = &stockledgerv1.LotQuantity{
			LotId: string(line.Lot), Quantity: line.Quantity, Balances: fromBalances(line.After),
		}
	}
	return lots
}

func documentID(clinic ledger.ClinicID, body ledger.EventBody) (string, bool) {
	switch b := body.(type) {
	case *ledger.ClinicCreated, *ledger.ClinicUpdated, *ledger.ClinicDeactivated:
		return string(clinic), true
	case *ledger.LocationCreated:
		return string(b.LocationID), true
	case *ledger.LocationUpdated:
		return string(b.LocationID), true
	case *ledger.LocationDeactivated:
		return string(b.LocationID), true
	case *ledger.MedicineAdded:
		return string(b.MedicineID), true
	case *ledger.MedicineUpdated:
		return string(b.MedicineID), true
	case *ledger.MedicineDeactivated:
		return string(b.MedicineID), true
	case *ledger.LotRegistered:
		return string(b.LotID), true
	case *ledger.LotUpdated:
		return string(b.LotID), true
	case *ledger.LotDeactivated:
		return string(b.LotID), true
	}
	return "", false
}

// reviewID is what the core calls the review of a command: the request that
// follows from it has its number.
func reviewID(sequence ledger.Sequence) string { return fmt.Sprintf("AP-%d", sequence) }

func fromReview(e ledger.Event) *stockledgerv1.Review {
	if e.ReviewBy == 0 {
		return nil
	}
	return &stockledgerv1.Review{ApprovalId: reviewID(e.Sequence), Deadline: fromInstant(e.ReviewBy)}
}

// request renders a command that waits for a second person.
func (r results) request(b *ledger.Change) (*stockledgerv1.ApprovalResult, error) {
	for _, document := range b.Documents {
		approval, ok := document.(*ledger.Approval)
		if !ok {
			continue
		}
		result := &stockledgerv1.ApprovalResult{
			ApprovalId: string(approval.ApprovalID), Command: approval.Command.String(), Deadline: fromInstant(approval.Deadline),
		}
		// What waits of a count is its variance, and whether the count is
		// blind does not stand in the request.
		if approval.Command != ledger.KindRecordCount || r.managesCounts {
			result.Moves = fromMoves(b.Moves)
		}
		return result, nil
	}
	return nil, fmt.Errorf("rpc: a request for approval has no approval")
}

func (r results) changeResult(e ledger.Event, b *ledger.Change) (*stockledgerv1.ChangeResult, error) {
	result := &stockledgerv1.ChangeResult{}
	if !r.blinded(b) {
		result.Moves = fromMoves(b.Moves)
	}
	for _, document := range b.Documents {
		about := document.About()
		result.Documents = append(result.Documents, &stockledgerv1.DocumentVersion{
			Kind: stockledgerv1.DocumentKind(about.Kind), Id: documentName(about.DocumentKey), Etag: ledger.Etag(e.Sequence),
		})
	}
	for i := range b.Openings {
		result.HoldIds = append(result.HoldIds, string(b.Openings[i].HoldID))
	}
	for i := range b.Lots {
		result.LotIds = append(result.LotIds, string(b.Lots[i].ID))
	}
	if b.Approved == nil {
		return result, nil
	}
	approved, err := r.approved(e, b)
	result.Approved = approved
	return result, err
}

// approved renders what the command came to that an event approved.
func (r results) approved(e ledger.Event, b *ledger.Change) (*stockledgerv1.ApprovedResult, error) {
	approved := &stockledgerv1.ApprovedResult{Command: b.ApprovedKind().String(), Requester: string(b.Requester)}
	came, err := r.cameTo(e, b.Approved)
	switch {
	case came.stock != nil:
		approved.Result = &stockledgerv1.ApprovedResult_Stock{Stock: came.stock}
	case came.change != nil:
		approved.Result = &stockledgerv1.ApprovedResult_Change{Change: came.change}
	default:
		approved.Result = &stockledgerv1.ApprovedResult_Document{Document: came.document}
	}
	return approved, err
}

// blinded reports whether what an event moved must be kept from the caller, who
// is still to count without knowing what the books say.
func (r results) blinded(b *ledger.Change) bool {
	if r.managesCounts {
		return false
	}
	for _, document := range b.Documents {
		if count, ok := document.(*ledger.Count); ok {
			return hidesVariance(count)
		}
	}
	return false
}

func fromMoves(moves []ledger.Move) []*stockledgerv1.StockMove {
	list := make([]*stockledgerv1.StockMove, len(moves))
	for i := range moves {
		m := &moves[i]
		list[i] = &stockledgerv1.StockMove{
			LocationId: string(m.Location), MedicineId: string(m.Medicine), From: fromBucket(m.From), To: fromBucket(m.To), Lots: fromLines(m.Lines),
		}
	}
	return list
}

// documentName is how callers know a document. The core puts the side of a loan
// before its reference, which they never see.
func documentName(key ledger.DocumentKey) string {
	if key.Kind == ledger.DocumentLoan {
		return loanReference(key.ID)
	}
	return key.ID
}
