package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// Reports that are submitted are the same tables that /csv serves, read through
// the same services, with the rights of who submitted them.

// resultsPath follows the clinic in the addresses of results.
const resultsPath = "operations/"

// reportSubmission is how a report is kept until it has been read.
type reportSubmission struct {
	Report     string              `json:"report"`
	Parameters string              `json:"parameters"` // as a query of an address
	Subject    ledger.Actor        `json:"subject"`
	Roles      []Role              `json:"roles"`
	Locations  []ledger.LocationID `json:"locations,omitempty"`
}

// principal is who submitted it, as they were then; at this clinic alone.
func (r *reportSubmission) principal(clinic ledger.ClinicID) *Principal {
	return &Principal{Subject: r.Subject, Roles: r.Roles, Clinics: []ledger.ClinicID{clinic}, Locations: r.Locations}
}

// open returns the report and its first request.
func (r *reportSubmission) open(clinic ledger.ClinicID) (*csvReport, proto.Message, error) {
	report, ok := csvReports[r.Report]
	if !ok {
		return nil, nil, invalidField("report", "There is no report %q. There are: %s.", plain(r.Report), strings.Join(slices.Sorted(maps.Keys(csvReports)), ", "))
	}
	query, err := url.ParseQuery(r.Parameters)
	if err != nil {
		return nil, nil, fmt.Errorf("rpc: stored parameters of a report: %w", err)
	}
	req := report.request(string(clinic))
	return &report, req, setParameters(req.ProtoReflect(), query)
}

// SubmitReport records a report to be read later.
func (s *operationService) SubmitReport(ctx context.Context, req *stockledgerv1.SubmitReportRequest) (*stockledgerv1.SubmitReportResponse, error) {
	principal, clinic := principalOf(ctx), ledger.ClinicID(req.GetClinicId())
	query := make(url.Values)
	for name, value := range req.GetParameters() {
		query.Set(name, value)
	}
	submission := reportSubmission{
		Report: req.GetReport(), Parameters: query.Encode(), Subject: principal.Subject, Roles: principal.Roles, Locations: principal.Locations,
	}
	if err := s.tryReport(ctx, clinic, &submission); err != nil {
		return nil, err
	}
	stored, err := json.Marshal(submission)
	if err != nil {
		return nil, err
	}
	submitted, err := s.Store.SubmitReport(ctx, txn.NewReport{
		Clinic: clinic, IdempotencyKey: req.GetIdempotencyKey(), Name: submission.Report, Parameters: submission.Parameters,
		Actor: principal.Subject, Submission: stored,
	}, time.Now())
	if err == nil {
		err = submitted.Err
	}
	if err != nil {
		return nil, err
	}
	s.Submitted(clinic, txn.ReportPriority)
	return &stockledgerv1.SubmitReportResponse{Operation: s.render(principal, &submitted.Operation)}, nil
}

// tryReport reads the beginning of a report, so that a mistake in it, or a right
// that its submitter lacks, is told at once. That it can't be read just now is no
// reason to refuse it.
func (s *operationService) tryReport(ctx context.Context, clinic ledger.ClinicID, submission *reportSubmission) error {
	report, req, err := submission.open(clinic)
	if err != nil {
		return inParameters(req, err)
	}
	if report.shorten != nil {
		report.shorten(req)
	}
	if _, err = report.read(actingFor(ctx, submission.principal(clinic)), s.services, req); err != nil && isFinal(explain(err)) {
		return inParameters(req, err)
	}
	return ctx.Err()
}

// inParameters spells a field of a report's request as the parameter that it came
// from.
func inParameters(req proto.Message, err error) error {
	if req == nil {
		return err
	}
	f := *explain(err)
	spell := func(field string) string {
		if field == "" || field == "report" {
			return field
		}
		return "parameters." + field
	}
	f.field = spell(f.field)
	for i, v := range f.violations {
		v = proto.CloneOf(v)
		v.Field = spell(v.GetField())
		f.violations = slices.Clone(f.violations)
		f.violations[i] = v
	}
	return &f
}

// isFinal tells a failure that would be the same the next time.
func isFinal(f *failure) bool {
	switch f.code {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodePermissionDenied, connect.CodeFailedPrecondition, connect.CodeUnimplemented:
		return true
	}
	return false
}

// ReadReport reads the next page of a report that was submitted.
func (s *Server) ReadReport(ctx context.Context, op *txn.QueuedOperation) (*txn.ReportPage, error) {
	var submission reportSubmission
	if err := json.Unmarshal(op.Submission, &submission); err != nil {
		return nil, fmt.Errorf("rpc: a stored report: %w", err)
	}
	report, req, err := submission.open(op.Clinic)
	token := op.Report.PageToken
	if err == nil && token != "" {
		err = report.goOn(req, token)
	}
	if err != nil {
		return nil, reportError(err)
	}
	rows, err := report.read(actingFor(ctx, submission.principal(op.Clinic)), s.services, req)
	if err != nil {
		return nil, reportError(err)
	}
	var data bytes.Buffer
	if err := report.encode(&data, rows, token == ""); err != nil {
		return nil, err
	}
	page := &txn.ReportPage{
		Data: data.Bytes(), Rows: int64(len(rows.rows)), Sequence: ledger.Sequence(rows.asOf.GetSequence()), Next: rows.next,
	}
	if len(submission.Locations) == 0 { // else it may be less
		page.Total = rows.total
	}
	return page, nil
}

// reportError says what to do about an error of reading a page.
func reportError(err error) error {
	f := explain(err)
	if f.reason == reasonInternal {
		return err
	}
	metadata := maps.Clone(f.metadata)
	delete(metadata, "field")
	known := &txn.ReportError{
		Cause: &ledger.Rejection{Reason: f.reason, Field: f.field, Message: f.message, Metadata: metadata},
		// A restore took back what the page goes on from, or the nodes have another
		// key now.
		Anew: f.reason == reasonJournalRewound || f.field == "page.page_token",
	}
	known.Final = isFinal(f) && !known.Anew
	return known
}

// FetchResult sends what was read of a report.
func (s *operationService) FetchResult(ctx context.Context, req *stockledgerv1.FetchResultRequest, stream stockledgerv1connect.OperationServiceFetchResultServerStream) error {
	op, err := s.withResult(ctx, req.GetClinicId(), req.GetIdempotencyKey())
	if err != nil {
		return err
	}
	if first := int(req.GetFirstPart()); first > op.Report.Parts {
		return invalidField("first_part", "The result has %d parts, the first of which is 0.", op.Report.Parts)
	}
	for part := int(req.GetFirstPart()); part < op.Report.Parts; part++ {
		data, err := s.Store.ReportPart(ctx, op, part)
		if err != nil {
			return err
		}
		if data == nil {
			return resultExpired(op)
		}
		if err := stream.Send(&stockledgerv1.FetchResultResponse{Part: int32(part), Parts: int32(op.Report.Parts), Data: data}); err != nil {
			return err
		}
	}
	return nil
}

// withResult returns a report whose result the caller may have.
func (s *operationService) withResult(ctx context.Context, clinic, key string) (*txn.Operation, error) {
	op, err := s.find(ctx, clinic, key)
	if err != nil {
		return nil, err
	}
	if !op.IsReport() {
		return nil, fail(reasonOperationState, "Operation %s is a command; only a report has a result to fetch.", key)
	}
	stored, err := s.Store.Submission(ctx, op.Clinic, key)
	if err != nil {
		return nil, err
	}
	var submission reportSubmission
	if err := json.Unmarshal(stored, &submission); err != nil {
		return nil, fmt.Errorf("rpc: a stored report: %w", err)
	}
	if err := s.mayFetch(principalOf(ctx), &submission); err != nil {
		return nil, err
	}
	switch {
	case op.State != txn.OperationAccepted:
		return nil, operationState(op, "it has no result")
	case !op.Report.DeletedAt.IsZero():
		return nil, resultExpired(op)
	}
	return op, nil
}

// mayFetch refuses a result to who could not read the report, or not all of it.
func (s *operationService) mayFetch(p *Principal, submission *reportSubmission) error {
	report, req, err := submission.open("")
	if err != nil {
		return err
	}
	if needed := s.plans.reading(req); !p.may(needed) {
		return denied(p, needed)
	}
	if more := report.alsoShows; more != "" && submission.principal("").may(more) && !p.may(more) {
		return denied(p, more)
	}
	if !p.limited() {
		return nil
	}
	for _, location := range submission.Locations {
		if err := p.checkLocation(location); err != nil {
			return err
		}
	}
	if len(submission.Locations) == 0 {
		return locationRequired(p)
	}
	return nil
}

func resultExpired(op *txn.Operation) error {
	return fail(reasonResultExpired, "The result of report %s was deleted.", op.IdempotencyKey)
}

func fromReport(op *txn.Operation) *stockledgerv1.ReportProgress {
	r := op.Report
	if r == nil {
		return nil
	}
	progress := &stockledgerv1.ReportProgress{
		Report: r.Name, Parameters: make(map[string]string), RowsDone: r.Rows, Bytes: r.Bytes, Parts: int32(r.Parts),
		AsOfSequence: int64(r.Sequence), ContentType: csvContentType, Deleted: !r.DeletedAt.IsZero(),
	}
	if query, err := url.ParseQuery(r.Parameters); err == nil {
		for name := range query {
			progress.Parameters[name] = query.Get(name)
		}
	}
	if r.Total > 0 || op.State == txn.OperationAccepted {
		progress.RowsTotal = proto.Int64(r.Total)
	}
	if op.State == txn.OperationAccepted && !progress.GetDeleted() {
		progress.KeptUntil = timestamppb.New(op.FinishedAt.Add(txn.ResultsAreKept))
	}
	return progress
}

// serveResult writes the result of a report that was submitted.
func (s *Server) serveResult(ctx context.Context, w *answerWriter, clinic, key string) error {
	stream, err := s.services.operations.FetchResult(ctx, &stockledgerv1.FetchResultRequest{ClinicId: clinic, IdempotencyKey: key})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	control := http.NewResponseController(w.ResponseWriter)
	for begun := false; ; begun = true {
		part, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_ = control.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
		if !begun {
			// After the first part: what is being sent does not grow any more.
			answer, err := s.services.operations.GetOperation(ctx, &stockledgerv1.GetOperationRequest{ClinicId: clinic, IdempotencyKey: key})
			if err != nil {
				return err
			}
			report := answer.GetOperation().GetReport()
			csvHeader(w.Header(), report.GetReport(), clinic, report.GetAsOfSequence())
			w.Header().Set("Content-Length", decimal(report.GetBytes()))
		}
		if _, err := w.Write(part.GetData()); err != nil {
			return err
		}
		w.Flush()
	}
}
