package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// This file is the one place where an error gets its code, its reason and its
// words on the wire. Text of drivers and of the runtime never passes it.

// ErrorDomain is the domain of every google.rpc.ErrorInfo.
const ErrorDomain = "stockledger"

// Reasons of errors that are not a command's rejection.
const (
	reasonUnauthenticated      ledger.Reason = "UNAUTHENTICATED"
	reasonPermissionDenied     ledger.Reason = "PERMISSION_DENIED"
	reasonClinicForbidden      ledger.Reason = "CLINIC_FORBIDDEN"
	reasonLocationRequired     ledger.Reason = "LOCATION_REQUIRED"
	reasonWitnessInvalid       ledger.Reason = "WITNESS_INVALID"
	reasonNotExact             ledger.Reason = "CONVERSION_NOT_EXACT"
	reasonMalformedRequest     ledger.Reason = "MALFORMED_REQUEST"
	reasonRequestTooLarge      ledger.Reason = "REQUEST_TOO_LARGE"
	reasonRequestIncomplete    ledger.Reason = "REQUEST_INCOMPLETE"
	reasonUnknownMethod        ledger.Reason = "UNKNOWN_METHOD"
	reasonUnknownService       ledger.Reason = "UNKNOWN_SERVICE"
	reasonServedElsewhere      ledger.Reason = "SERVED_ELSEWHERE"
	reasonBusy                 ledger.Reason = "BUSY"
	reasonUnavailable          ledger.Reason = "UNAVAILABLE"
	reasonInventoryUnavailable ledger.Reason = "INVENTORY_UNAVAILABLE"
	reasonShuttingDown         ledger.Reason = "SHUTTING_DOWN"
	reasonOutcomeUnknown       ledger.Reason = "OUTCOME_UNKNOWN"
	reasonSequenceNotReached   ledger.Reason = "SEQUENCE_NOT_REACHED"
	reasonReportBehind         ledger.Reason = "REPORT_BEHIND"
	reasonHistoryTooLong       ledger.Reason = "HISTORY_TOO_LONG"
	reasonJournalRewound       ledger.Reason = "JOURNAL_REWOUND"
	reasonClinicRestoring      ledger.Reason = "CLINIC_RESTORING"
	reasonClinicMoving         ledger.Reason = "CLINIC_MOVING"
	reasonNotAttempted         ledger.Reason = "NOT_ATTEMPTED"
	reasonOperationNotFound    ledger.Reason = "OPERATION_NOT_FOUND"
	reasonOperationState       ledger.Reason = "OPERATION_STATE"
	reasonWebhookNotFound      ledger.Reason = "WEBHOOK_NOT_FOUND"
	reasonWebhookExists        ledger.Reason = "WEBHOOK_EXISTS"
	reasonWebhookLimit         ledger.Reason = "WEBHOOK_LIMIT"
	reasonWebhookRotating      ledger.Reason = "WEBHOOK_ROTATING"
	reasonTooManyReports       ledger.Reason = "TOO_MANY_REPORTS"
	reasonReportTooLarge       ledger.Reason = "REPORT_TOO_LARGE"
	reasonResultExpired        ledger.Reason = "RESULT_EXPIRED"
	reasonNoPatientKey         ledger.Reason = "NO_PATIENT_KEY"
	reasonCanceled             ledger.Reason = "CANCELED"
	reasonDeadlineExceeded     ledger.Reason = "DEADLINE_EXCEEDED"
	reasonInternal             ledger.Reason = "INTERNAL"
)

// ReasonDoc documents one reason of the API.
type ReasonDoc struct {
	Reason  ledger.Reason
	Code    connect.Code
	Meaning string
	Remedy  string
}

var ownReasons = []ReasonDoc{
	{reasonUnauthenticated, connect.CodeUnauthenticated, "The request carries no token, or one that is not accepted here.", "Send Authorization: Bearer TOKEN with a token that is current; stockledger token makes one."},
	{reasonPermissionDenied, connect.CodePermissionDenied, "None of the token's roles permits this method or command.", "Use a token with a role that permits it."},
	{reasonClinicForbidden, connect.CodePermissionDenied, "The token does not name this clinic. The answer is the same whether the clinic exists or not.", "Check clinic_id, or use a token that names the clinic."},
	{reasonLocationRequired, connect.CodePermissionDenied, "The token is limited to some locations, and the request reaches beyond them.", "Name one of the token's locations, or use a token without that limit."},
	{reasonWitnessInvalid, connect.CodePermissionDenied, "The witness_token is not the current token of somebody who may witness in this clinic. The answer is the same whatever is wrong with it.", "Have the witness sign in again and send their own token; it must name the clinic, and its role must permit command.witness."},
	{reasonNotExact, connect.CodeInvalidArgument, "The quantity is not a whole number of the pack that was asked for.", "Ask for base units or a smaller pack, or for a quantity that fits: the error names the rest."},
	{reasonMalformedRequest, connect.CodeInvalidArgument, "The request is not what the protocol or the schema asks for: broken JSON or protobuf, text that is not UTF-8, an unknown field or enum value.", "Mend the request as the message says."},
	{reasonRequestTooLarge, connect.CodeResourceExhausted, "The request is larger than a message may be.", "Split it: a batch takes up to 10,000 commands, and a request 16 MiB."},
	{reasonRequestIncomplete, connect.CodeInvalidArgument, "The request did not arrive whole, or not in time.", "Send it again; nothing of it was carried out."},
	{reasonUnknownMethod, connect.CodeUnimplemented, "The service has no such method.", "Check the method's name; reflection lists them."},
	{reasonUnknownService, connect.CodeNotFound, "The health check names a service that is not served here.", "Check the service's name; reflection lists them."},
	{reasonServedElsewhere, connect.CodeUnimplemented, "Inventory and pharmacy run apart, and this process serves the other one.", "Send the request to a process that serves what metadata.services names."},
	{reasonBusy, connect.CodeResourceExhausted, "Too many commands wait for this clinic. This one was not taken.", "Repeat it after the pause that the error names, with the same idempotency key."},
	{reasonUnavailable, connect.CodeUnavailable, "The database can't be reached or can't do the work now. Nothing was carried out.", "Repeat the request after a pause; commands with the same idempotency key."},
	{reasonInventoryUnavailable, connect.CodeUnavailable, "Pharmacy runs apart from inventory, and no node that serves inventory can be reached now. Nothing was carried out.", "Repeat the request after the pause that the error names; commands with the same idempotency key."},
	{reasonShuttingDown, connect.CodeUnavailable, "This node is shutting down. Nothing was carried out.", "Repeat the request at another node; commands with the same idempotency key."},
	{reasonOutcomeUnknown, connect.CodeUnavailable, "The connection to the database broke while the command was being recorded, so it is not known whether it was.", "Repeat it with the same idempotency key: it is carried out once at most, and the answer tells."},
	{reasonSequenceNotReached, connect.CodeFailedPrecondition, "The clinic has not reached the min_sequence that the query asks for.", "Check min_sequence: it must come from an answer of the same clinic and epoch."},
	{reasonReportBehind, connect.CodeUnavailable, "The report was asked to reflect a command, or to be fresher than it is, and did not come to within two seconds.", "Ask again, with another min_sequence, a longer max_staleness or CACHED for what there is now; or have the operator look whether the read models move."},
	{reasonHistoryTooLong, connect.CodeFailedPrecondition, "Of a counterparty's account no balance is kept, and the location has more entries of the medicine by then than one request adds up.", "Ask for an earlier point, or add the movements up from ListMovements or the CSV of the stock card."},
	{reasonJournalRewound, connect.CodeFailedPrecondition, "The clinic was restored from a backup, and min_sequence or the page token comes from what the restore has taken back. Up to last_common_sequence the journal is as it was; epoch is the present one.", "Drop what was read after last_common_sequence, read it anew without min_sequence and page token, and give commands that are gone again."},
	{reasonClinicMoving, connect.CodeUnavailable, "The clinic moves to another database. Nothing was carried out.", "Repeat the request in a second; commands with the same idempotency key."},
	{reasonClinicRestoring, connect.CodeUnavailable, "The clinic is being restored from a backup. Nothing was carried out.", "Repeat the request when the restore is done; commands with the same idempotency key."},
	{reasonOperationNotFound, connect.CodeNotFound, "There is no operation under this key at the clinic, or the caller may see its own alone. What ended long ago is forgotten.", "Check clinic_id and idempotency_key; ListOperations shows what there is."},
	{reasonOperationState, connect.CodeFailedPrecondition, "The operation is in a state in which this can't be done: it has ended, or it waits already.", "Look at it with GetOperation. To take back what was carried out, give the command that reverses it."},
	{reasonWebhookNotFound, connect.CodeNotFound, "There is no webhook of this name at the clinic, or it is sent more than the caller may see.", "Check clinic_id and webhook_id; ListWebhooks shows what there is."},
	{reasonWebhookExists, connect.CodeAlreadyExists, "There is a webhook of this name at the clinic, with another URL or filter, or one that the caller may not see.", "Choose another webhook_id, or change that one with UpdateWebhook."},
	{reasonWebhookLimit, connect.CodeFailedPrecondition, "The clinic has as many webhooks as it may have.", "Delete one that nobody needs, or let one receiver pass events on."},
	{reasonWebhookRotating, connect.CodeFailedPrecondition, "Two secrets of the webhook are live since its last rotation, and another rotation would end one of them.", "Wait until old_secret_until. If the latest secret was never put to use, set replace_unused; if one got out, set keep_old to zero."},
	{reasonTooManyReports, connect.CodeResourceExhausted, "A hundred reports wait at the clinic already. This one was not taken.", "Wait until some have ended, or cancel those that nobody needs; ListOperations shows them."},
	{reasonReportTooLarge, connect.CodeFailedPrecondition, "The report's result became larger than a result may be.", "Narrow it by its parameters (a location, a medicine, fewer days), and submit that under another key; or read it page by page."},
	{reasonResultExpired, connect.CodeNotFound, "The report's result was deleted: results are kept for 7 days after the report has ended.", "Submit the report again under another key."},
	{reasonNotAttempted, connect.CodeUnavailable, "The batch ended early, before this command was taken.", "Send it again with the same idempotency key."},
	{reasonNoPatientKey, connect.CodeFailedPrecondition, "The node has no key for what is kept of patients.", "Start the node with --patient-key; all nodes need the same one."},
	{reasonCanceled, connect.CodeCanceled, "The caller ended the request. A command in it may still be carried out.", "Repeat a command with the same idempotency key to learn its outcome."},
	{reasonDeadlineExceeded, connect.CodeDeadlineExceeded, "The caller's deadline passed. A command in the request may still be carried out.", "Allow more time, and repeat a command with the same idempotency key to learn its outcome."},
	{reasonInternal, connect.CodeInternal, "A defect in the ledger, which the operator's log describes under the request id.", "Report the request id. Repeat a command with the same idempotency key only."},
}

var ownReasonIndex = func() map[ledger.Reason]ReasonDoc {
	index := make(map[ledger.Reason]ReasonDoc, len(ownReasons))
	for _, doc := range ownReasons {
		index[doc.Reason] = doc
	}
	return index
}()

var categoryCodes = map[ledger.Category]connect.Code{
	ledger.Invalid:       connect.CodeInvalidArgument,
	ledger.NotFound:      connect.CodeNotFound,
	ledger.AlreadyExists: connect.CodeAlreadyExists,
	ledger.Precondition:  connect.CodeFailedPrecondition,
	ledger.Conflict:      connect.CodeAborted,
	ledger.Forbidden:     connect.CodePermissionDenied,
}

// Reasons returns the catalogue of every reason of the API, sorted.
func Reasons() []ReasonDoc {
	docs := slices.Clone(ownReasons)
	for _, info := range ledger.Reasons() {
		docs = append(docs, ReasonDoc{info.Reason, categoryCodes[info.Category], info.Meaning, info.Remedy})
	}
	slices.SortFunc(docs, func(a, b ReasonDoc) int { return strings.Compare(string(a.Reason), string(b.Reason)) })
	return docs
}

// failure is an error as the wire shows it, in an RPC's error and in a batch's
// verdict alike.
type failure struct {
	code       connect.Code
	reason     ledger.Reason
	message    string // what is wrong
	remedy     string // what to do
	field      string
	metadata   map[string]string
	violations []*errdetails.BadRequest_FieldViolation
	details    []proto.Message
	cause      error // for the log only
}

// Error returns what is wrong and what to do.
func (f *failure) Error() string { return f.message + " " + f.remedy }

// Unwrap returns the cause, which never reaches the wire.
func (f *failure) Unwrap() error { return f.cause }

// fail makes a failure of one of this package's own reasons.
func fail(reason ledger.Reason, format string, args ...any) *failure {
	doc := ownReasonIndex[reason]
	return &failure{code: doc.Code, reason: reason, message: fmt.Sprintf(format, args...), remedy: doc.Remedy}
}

func (f *failure) with(key, value string) *failure {
	if f.metadata == nil {
		f.metadata = make(map[string]string)
	}
	f.metadata[key] = value
	return f
}

func (f *failure) because(err error) *failure {
	f.cause = err
	return f
}

func unauthenticated(err error) error {
	return fail(reasonUnauthenticated, "The call is not authenticated: %s.", err)
}

// invalidField is a rejection for a value that the core never gets to see.
func invalidField(field, format string, args ...any) *ledger.Rejection {
	return &ledger.Rejection{Reason: ledger.ReasonInvalidField, Field: field, Message: fmt.Sprintf(format, args...)}
}

// explain finds the failure that an error means to the caller.
func explain(err error) *failure {
	var f *failure
	var rejection *ledger.Rejection
	var received *connect.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &rejection):
		return explainRejection(rejection)
	}
	for _, of := range []func(error) *failure{explainRead, explainUnavailable} {
		if f = of(err); f != nil {
			return f
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fail(reasonCanceled, "The caller ended the request.").because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return fail(reasonDeadlineExceeded, "The caller's deadline passed.").because(err)
	case errors.As(err, &received):
		return explainTransport(received)
	}
	return fail(reasonInternal, "Something went wrong inside the ledger.").because(err)
}

// explainRead finds what a query's error means, and what is wrong with a
// webhook or a report; nil where it is none of these.
func explainRead(err error) (f *failure) {
	var notReached *txn.SequenceNotReachedError
	var behind *txn.ReadModelsBehindError
	var rewound *txn.JournalRewoundError
	var tooLong *txn.HistoryTooLongError
	switch {
	case errors.As(err, &notReached):
		return fail(reasonSequenceNotReached, "Sequence %d was asked for, and the clinic's last is %d.", notReached.Want, notReached.Have).
			with("min_sequence", decimal(notReached.Want)).with("sequence", decimal(notReached.Have))
	case errors.As(err, &behind):
		f = fail(reasonReportBehind, "The report reflects sequence %d, and should reflect %d.", behind.Have, behind.Want).
			with("sequence", decimal(behind.Have)).with("wanted_sequence", decimal(behind.Want))
		f.details = []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(unavailablePause)}}
		return f
	case errors.As(err, &tooLong):
		return fail(reasonHistoryTooLong, "The location has more than %d entries of the medicine by then.", tooLong.Limit).with("limit", decimal(tooLong.Limit))
	case errors.As(err, &rewound):
		return explainRewound(rewound)
	case errors.Is(err, txn.ErrWebhookNotFound):
		return fail(reasonWebhookNotFound, "There is no such webhook.")
	case errors.Is(err, txn.ErrTooManyWebhooks):
		return fail(reasonWebhookLimit, "The clinic has %d webhooks.", txn.MaxWebhooks)
	case errors.Is(err, txn.ErrTooManyReports):
		return fail(reasonTooManyReports, "Too many reports wait at this clinic.").because(err)
	}
	return nil
}

// explainUnavailable finds why nothing could be done now, or nothing is known of
// what was done; nil where it is neither.
func explainUnavailable(err error) (f *failure) {
	switch {
	case errors.Is(err, txn.ErrBusy):
		f = fail(reasonBusy, "Too many commands wait for this clinic.").because(err)
		f.details = []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(busyPause)}}
		return f
	case errors.Is(err, txn.ErrNoExecutor):
		f = fail(reasonInventoryUnavailable, "No node that serves inventory can be reached.").because(err)
		f.details = []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(unavailablePause)}}
		return f
	case errors.Is(err, txn.ErrClosed):
		return fail(reasonShuttingDown, "This node is shutting down.").because(err)
	case errors.Is(err, txn.ErrAmbiguous):
		return fail(reasonOutcomeUnknown, "The outcome is unknown.").because(err)
	case errors.Is(err, txn.ErrRestoring):
		f = fail(reasonClinicRestoring, "The clinic is being restored.").because(err)
		f.details = []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(restoringPause)}}
		return f
	case errors.Is(err, txn.ErrMoving):
		f = fail(reasonClinicMoving, "The clinic moves to another database.").because(err)
		f.details = []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(unavailablePause)}}
		return f
	case errors.Is(err, txn.ErrUnavailable):
		f = fail(reasonUnavailable, "The database is unavailable.").because(err)
		f.details = []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(unavailablePause)}}
		return f
	}
	return nil
}

// How long a caller should wait before it tries again.
const (
	busyPause        = 200 * time.Millisecond
	unavailablePause = time.Second
	restoringPause   = 10 * time.Second
)

func explainRewound(e *txn.JournalRewoundError) *failure {
	return fail(reasonJournalRewound, "Sequence %d of epoch %d was asked for; the clinic was restored, is in epoch %d, and has the first %d commands in common with that.",
		e.Asked.Sequence, e.Asked.Epoch, e.Epoch, e.LastCommon).
		with("last_common_sequence", decimal(e.LastCommon)).with("epoch", decimal(e.Epoch))
}

func explainRejection(r *ledger.Rejection) *failure {
	info := r.Reason.Info()
	f := &failure{
		code: categoryCodes[info.Category], reason: r.Reason,
		message: r.Message, remedy: info.Remedy, field: r.Field, metadata: maps.Clone(r.Metadata),
	}
	if own, ok := ownReasonIndex[r.Reason]; ok {
		f.code, f.remedy = own.Code, own.Remedy
	}
	if f.code == 0 {
		return fail(reasonInternal, "Something went wrong inside the ledger.").because(fmt.Errorf("reason %s has no category", r.Reason))
	}
	if r.Field != "" {
		f.violations = []*errdetails.BadRequest_FieldViolation{{
			Field: r.Field, Description: r.Error(), Reason: string(r.Reason),
		}}
	}
	if r.Reason == ledger.ReasonInsufficientStock {
		f.details = []proto.Message{stockShortage(r)}
	}
	return f
}

// explainTransport gives an error that the transport met while it read or wrote
// the call a reason. Whatever a caller may send is the caller's mistake, also
// where the transport calls it internal or unknown.
func explainTransport(err *connect.Error) *failure {
	switch err.Code() {
	case connect.CodeCanceled:
		return fail(reasonCanceled, "The caller ended the request.").because(err)
	case connect.CodeDeadlineExceeded:
		return fail(reasonDeadlineExceeded, "The caller's deadline passed.").because(err)
	case connect.CodeUnimplemented:
		return fail(reasonUnknownMethod, "There is no such method.").because(err)
	case connect.CodeResourceExhausted:
		return fail(reasonRequestTooLarge, "The request is too large.").because(err)
	}
	return fail(reasonInternal, "Something went wrong inside the ledger.").because(err)
}

// receiveError explains an error of receiving a request message.
func receiveError(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) && connect.CodeOf(err) == connect.CodeUnknown {
		return err // the regular end of a stream
	}
	var received *connect.Error
	if !errors.As(err, &received) {
		return err
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Not the caller's deadline but ours, for reading. net/http ends the
		// context too, so this comes first.
		return fail(reasonRequestIncomplete, "The request did not arrive in time.").because(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fail(reasonRequestIncomplete, "The request ended early.").because(err)
	case ctx.Err() != nil:
		return explain(fmt.Errorf("%w: %w", ctx.Err(), err))
	case received.Code() == connect.CodeCanceled, received.Code() == connect.CodeDeadlineExceeded:
		return explainTransport(received)
	case received.Code() == connect.CodeResourceExhausted:
		return fail(reasonRequestTooLarge, "The request is too large: at most %d bytes are accepted.", maxMessage).because(err)
	}
	return fail(reasonMalformedRequest, "The request can't be read: %s.", plain(received.Message())).because(err)
}

// plain makes one line of a decoder's message. The protobuf module varies its
// spaces on purpose.
func plain(message string) string {
	message = strings.TrimPrefix(message, "unmarshal message: ")
	message = strings.ReplaceAll(message, "\u00a0", " ")
	message = strings.TrimPrefix(message, "proto: ")
	const limit = 300
	if len(message) > limit {
		message = strings.ToValidUTF8(message[:limit], "") + "…"
	}
	return strings.TrimSuffix(message, ".")
}

// validationError turns the violations of the schema's rules into a failure
// that names each field.
func validationError(err error) error {
	var violations *protovalidate.ValidationError
	if !errors.As(err, &violations) {
		return fail(reasonInternal, "Something went wrong inside the ledger.").because(err)
	}
	f := explainRejection(invalidField("", ""))
	f.violations = nil
	for _, v := range violations.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		text := v.Proto.GetMessage()
		f.violations = append(f.violations, &errdetails.BadRequest_FieldViolation{
			Field: path, Description: text, Reason: string(f.reason),
		})
	}
	first := f.violations[0]
	f.field = first.GetField()
	f.message = strings.TrimSuffix(first.GetDescription(), ".") + "."
	if f.field != "" {
		f.message = f.field + ": " + f.message
	}
	return f
}

// connectError writes the failure in the form that all three protocols carry.
func (f *failure) connectError() *connect.Error {
	out := connect.NewError(f.code, f.Error()).WithCause(f)
	if f.field != "" {
		_ = f.with("field", f.field)
	}
	details := []proto.Message{&errdetails.ErrorInfo{Reason: string(f.reason), Domain: ErrorDomain, Metadata: f.metadata}}
	if len(f.violations) > 0 {
		details = append(details, &errdetails.BadRequest{FieldViolations: f.violations})
	}
	for _, message := range append(details, f.details...) {
		detail, err := connectproto.NewErrorDetail(message)
		if err != nil {
			// Only text that is not UTF-8 can't be packed. The code and the
			// message still say what matters.
			continue
		}
		out = out.WithDetail(detail)
	}
	return out
}

// rejected writes the failure as a verdict in a batch.
func (f *failure) rejected() *stockledgerv1.Rejected {
	return &stockledgerv1.Rejected{
		Code: f.code.String(), Reason: string(f.reason), Message: f.Error(), Field: f.field, Metadata: f.metadata,
	}
}

// finished tells the record how a call ended, and gives the error its form.
func finished(record *requestRecord, err error) error {
	if err == nil || connecthttp.IsNotModifiedError(err) {
		return err
	}
	f := explain(err)
	record.note(func(known *requestFacts) { known.code, known.reason, known.cause = f.code, f.reason, f.cause })
	if f.reason == reasonInternal {
		_ = f.with("request_id", record.id)
	}
	return f.connectError()
}
