package rpc

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// OperationQueue is what OperationService stands on.
type OperationQueue struct {
	Store *txn.Operations
	// Encode is how a submission is kept until it is carried out.
	Encode func(txn.Submission) ([]byte, error)
	// Submitted tells whoever carries operations out that some of a priority wait.
	Submitted func(ledger.ClinicID, txn.Priority)
}

type operationService struct {
	*commandHandler
	*queryHandler
	OperationQueue
	ended    <-chan struct{}
	services csvServices // that reports are read from
	plans    accessPlans
}

// Submit records commands to be carried out later.
func (s *operationService) Submit(ctx context.Context, req *stockledgerv1.SubmitRequest) (*stockledgerv1.SubmitResponse, error) {
	principal, clinic := principalOf(ctx), ledger.ClinicID(req.GetClinicId())
	texts, err := s.sealed(ctx, clinic, req.GetCommands(), s.rules.command)
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.SubmitResponse{Outcomes: make([]*stockledgerv1.SubmitOutcome, len(req.GetCommands()))}
	var operations []txn.NewOperation
	var places []int // of the operations
	for i, c := range req.GetCommands() {
		n, err := s.operation(principal, clinic, c, texts[i], req.GetPriority())
		var r *ledger.Rejection
		switch {
		case errors.As(err, &r):
			answer.Outcomes[i] = notSubmitted(inCommand(c, r))
		case err != nil:
			return nil, err
		default:
			operations, places = append(operations, n), append(places, i)
		}
	}
	if len(operations) == 0 {
		return answer, nil
	}
	submitted, err := s.Store.Submit(ctx, clinic, operations, time.Now())
	if err != nil {
		return nil, err
	}
	s.submitted(clinic, operations)
	for i, o := range submitted {
		var r *ledger.Rejection
		if errors.As(o.Err, &r) {
			answer.Outcomes[places[i]] = notSubmitted(inCommand(req.GetCommands()[places[i]], r))
			continue
		}
		answer.Outcomes[places[i]] = &stockledgerv1.SubmitOutcome{Outcome: &stockledgerv1.SubmitOutcome_Operation{Operation: s.render(principal, &o.Operation)}}
	}
	return answer, nil
}

func (s *operationService) submitted(clinic ledger.ClinicID, operations []txn.NewOperation) {
	for _, p := range txn.Priorities() {
		if slices.ContainsFunc(operations, func(n txn.NewOperation) bool { return n.Priority == p }) {
			s.Submitted(clinic, p)
		}
	}
}

func notSubmitted(r *ledger.Rejection) *stockledgerv1.SubmitOutcome {
	return &stockledgerv1.SubmitOutcome{Outcome: &stockledgerv1.SubmitOutcome_Rejected{Rejected: explainRejection(r).rejected()}}
}

// operation makes an operation of a command, with the rights of who gives it.
func (s *operationService) operation(
	principal *Principal, clinic ledger.ClinicID, c *stockledgerv1.Command, text sealedText, priority stockledgerv1.Priority,
) (txn.NewOperation, error) {
	seconds := &witnesses{verifier: s.verifier, clinic: clinic}
	command, r := read(clinic, principal.Subject, c, text, seconds)
	if r == nil {
		r = ledger.Check(command)
	}
	if r != nil {
		return txn.NewOperation{}, r
	}
	submission := txn.Submission{
		Clinic: clinic, Commands: []ledger.Command{command}, Locations: principal.Locations,
		Permits: s.needs.deciding(principal), Witnesses: seconds.locations, MayBackdate: principal.may(permissionBackdate),
		Private: make(map[string][]txn.PrivateText), Refused: make(map[string]*ledger.Rejection),
	}
	text.accompany(&submission, command.IdempotencyKey)
	stored, err := s.Encode(submission)
	return txn.NewOperation{Command: command, Priority: toPriority(priority, command.Body.Kind()), Submission: stored}, err
}

// toPriority is the asked one, or that of the kind.
func toPriority(asked stockledgerv1.Priority, kind ledger.Kind) txn.Priority {
	switch asked {
	case stockledgerv1.Priority_PRIORITY_HIGH:
		return txn.HighPriority
	case stockledgerv1.Priority_PRIORITY_NORMAL:
		return txn.NormalPriority
	case stockledgerv1.Priority_PRIORITY_LOW:
		return txn.LowPriority
	}
	switch kind {
	case ledger.KindReserveStock, ledger.KindDispenseMedicine, ledger.KindPrepareDispensing, ledger.KindHandOver:
		return txn.HighPriority
	}
	return txn.NormalPriority
}

// GetOperation tells what has become of a command.
func (s *operationService) GetOperation(ctx context.Context, req *stockledgerv1.GetOperationRequest) (*stockledgerv1.GetOperationResponse, error) {
	op, err := s.find(ctx, req.GetClinicId(), req.GetIdempotencyKey())
	if err != nil {
		return nil, err
	}
	rendered, err := s.whole(ctx, op)
	return &stockledgerv1.GetOperationResponse{Operation: rendered}, err
}

// How long a wait takes where the caller does not say, and how often it looks.
const (
	defaultWait = 10 * time.Second
	firstLook   = 5 * time.Millisecond
	laterLook   = 250 * time.Millisecond
)

// WaitOperation tells it once it has ended.
func (s *operationService) WaitOperation(ctx context.Context, req *stockledgerv1.WaitOperationRequest) (*stockledgerv1.WaitOperationResponse, error) {
	wait := defaultWait
	if req.GetTimeout() != nil {
		wait = req.GetTimeout().AsDuration()
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for began := time.Now(); ; {
		op, err := s.find(ctx, req.GetClinicId(), req.GetIdempotencyKey())
		if err != nil {
			return nil, err
		}
		if op.State != txn.OperationWaiting || waiting.Err() != nil || hasEnded(s.ended) {
			rendered, err := s.whole(ctx, op)
			return &stockledgerv1.WaitOperationResponse{Operation: rendered}, err
		}
		// The longer it took, the less does it matter to know at once.
		pause := time.NewTimer(min(max(time.Since(began)/4, firstLook), laterLook))
		select {
		case <-pause.C:
		case <-waiting.Done():
		case <-s.ended:
		}
		pause.Stop()
	}
}

// CancelOperation ends an operation that waits.
func (s *operationService) CancelOperation(ctx context.Context, req *stockledgerv1.CancelOperationRequest) (*stockledgerv1.CancelOperationResponse, error) {
	if _, err := s.find(ctx, req.GetClinicId(), req.GetIdempotencyKey()); err != nil {
		return nil, err
	}
	op, _, err := s.Store.Cancel(ctx, ledger.ClinicID(req.GetClinicId()), req.GetIdempotencyKey(), time.Now())
	if err != nil {
		return nil, err
	}
	if op.State != txn.OperationCancelled {
		return nil, operationState(&op, "it cannot be cancelled any more")
	}
	rendered, err := s.whole(ctx, &op)
	return &stockledgerv1.CancelOperationResponse{Operation: rendered}, err
}

// ResubmitOperation lets an operation wait again that came to nothing.
func (s *operationService) ResubmitOperation(ctx context.Context, req *stockledgerv1.ResubmitOperationRequest) (*stockledgerv1.ResubmitOperationResponse, error) {
	clinic := ledger.ClinicID(req.GetClinicId())
	op, err := s.find(ctx, req.GetClinicId(), req.GetIdempotencyKey())
	if err != nil {
		return nil, err
	}
	if op.State == txn.OperationAccepted || op.State == txn.OperationWaiting {
		return nil, operationState(op, "there is nothing to submit again")
	}
	again, _, err := s.Store.Resubmit(ctx, clinic, req.GetIdempotencyKey(), time.Now())
	if err != nil {
		return nil, err
	}
	s.Submitted(clinic, again.Priority)
	rendered, err := s.whole(ctx, &again)
	return &stockledgerv1.ResubmitOperationResponse{Operation: rendered}, err
}

func operationState(op *txn.Operation, so string) error {
	state := operationStates[op.State].String()
	word := strings.ToLower(strings.TrimPrefix(state, "OPERATION_STATE_"))
	return fail(reasonOperationState, "Operation %s is %s: %s.", op.IdempotencyKey, word, so).with("state", state)
}

// find returns an operation that the caller may see. One of somebody else looks
// like none.
func (s *operationService) find(ctx context.Context, clinic, key string) (*txn.Operation, error) {
	principal := principalOf(ctx)
	op, ok, err := s.Store.Get(ctx, ledger.ClinicID(clinic), key)
	if err != nil {
		return nil, err
	}
	if !ok || op.Actor != principal.Subject && !seesAllOperations(principal) {
		return nil, fail(reasonOperationNotFound, "There is no operation %s at clinic %s.", key, clinic).with("idempotency_key", key)
	}
	return &op, nil
}

func seesAllOperations(p *Principal) bool { return p.may(permissionAllOperations) && !p.limited() }

// ListOperations lists a clinic's operations.
func (s *operationService) ListOperations(ctx context.Context, req *stockledgerv1.ListOperationsRequest) (*stockledgerv1.ListOperationsResponse, error) {
	principal := principalOf(ctx)
	asked, err := s.open(ctx, req, 2)
	if err != nil {
		return nil, err
	}
	before := txn.OperationPlace{SubmittedAt: endOfTime}
	if asked.key[0] != "" {
		micros, err := strconv.ParseInt(asked.key[0], 10, 64)
		if err != nil {
			return nil, err
		}
		before = txn.OperationPlace{SubmittedAt: time.UnixMicro(micros), IdempotencyKey: asked.key[1]}
	}
	filter := txn.OperationFilter{}
	for state, is := range operationStates {
		if is == req.GetState() {
			filter.State = state
		}
	}
	if !seesAllOperations(principal) {
		filter.Actor = principal.Subject
	}
	operations, err := s.Store.List(ctx, ledger.ClinicID(req.GetClinicId()), filter, before, asked.size+1)
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.ListOperationsResponse{}
	if len(operations) > asked.size {
		operations = operations[:asked.size]
		last := operations[len(operations)-1]
		if answer.NextPageToken, err = s.seal(ctx, req, txn.AsOf{}, decimal(last.SubmittedAt.UnixMicro()), last.IdempotencyKey); err != nil {
			return nil, err
		}
	}
	for i := range operations {
		answer.Operations = append(answer.Operations, s.render(principal, &operations[i]))
	}
	return answer, nil
}

var operationStates = map[txn.OperationState]stockledgerv1.OperationState{
	txn.OperationWaiting:   stockledgerv1.OperationState_OPERATION_STATE_WAITING,
	txn.OperationAccepted:  stockledgerv1.OperationState_OPERATION_STATE_ACCEPTED,
	txn.OperationRejected:  stockledgerv1.OperationState_OPERATION_STATE_REJECTED,
	txn.OperationFailed:    stockledgerv1.OperationState_OPERATION_STATE_FAILED,
	txn.OperationCancelled: stockledgerv1.OperationState_OPERATION_STATE_CANCELLED,
}

// whole renders an operation with all that it came to.
func (s *operationService) whole(ctx context.Context, op *txn.Operation) (*stockledgerv1.Operation, error) {
	principal := principalOf(ctx)
	rendered := s.render(principal, op)
	if op.State != txn.OperationAccepted || op.IsReport() {
		return rendered, nil
	}
	record, ok, err := s.Store.Record(ctx, op.Clinic, op.IdempotencyKey)
	if err != nil || !ok {
		return rendered, err // a restore has taken it back
	}
	accepted, err := resultsFor(principal).accepted(record, false)
	if err != nil {
		return nil, err
	}
	rendered.Result = &stockledgerv1.CommandResult{Verdict: &stockledgerv1.CommandResult_Accepted{Accepted: accepted}}
	return rendered, nil
}

func (s *operationService) render(principal *Principal, op *txn.Operation) *stockledgerv1.Operation {
	rendered := &stockledgerv1.Operation{
		ClinicId: string(op.Clinic), IdempotencyKey: op.IdempotencyKey, Kind: op.Kind.String(), Priority: fromPriority(op.Priority),
		State: operationStates[op.State], SubmittedBy: string(op.Actor), SubmittedAt: timestamppb.New(op.SubmittedAt),
		FinishedAt: timeOrNone(op.FinishedAt), Attempts: int32(op.Attempts),
	}
	if op.IsReport() {
		rendered.Kind, rendered.Report = "Report", fromReport(op)
	}
	var failure *stockledgerv1.Rejected
	if op.Failure != nil {
		failure = explainRejection(resultsFor(principal).rejection(op.Failure)).rejected()
	}
	switch op.State {
	case txn.OperationWaiting:
		rendered.DueAt, rendered.LastFailure = timestamppb.New(op.DueAt), failure
	case txn.OperationAccepted:
		if op.IsReport() {
			break // what it came to is fetched
		}
		rendered.Result = &stockledgerv1.CommandResult{Verdict: &stockledgerv1.CommandResult_Accepted{Accepted: &stockledgerv1.Accepted{Sequence: int64(op.Sequence)}}}
	case txn.OperationRejected:
		rendered.Result = rejectedOperation(failure)
	case txn.OperationFailed:
		rendered.LastFailure = failure
	}
	return rendered
}

func rejectedOperation(failure *stockledgerv1.Rejected) *stockledgerv1.CommandResult {
	return &stockledgerv1.CommandResult{Verdict: &stockledgerv1.CommandResult_Rejected{Rejected: failure}}
}

func fromPriority(p txn.Priority) stockledgerv1.Priority {
	switch p {
	case txn.HighPriority:
		return stockledgerv1.Priority_PRIORITY_HIGH
	case txn.NormalPriority:
		return stockledgerv1.Priority_PRIORITY_NORMAL
	}
	return stockledgerv1.Priority_PRIORITY_LOW
}
