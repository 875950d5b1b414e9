package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// commandHandler is how every command gets from the wire to the executor,
// alone or in a batch.
type commandHandler struct {
	executor Executor
	rules    *rules
	verifier *Verifier // of witnesses' tokens
	needs    commandPermissions
	texts    privateTexts
	log      *slog.Logger
	ending   <-chan struct{} // closed when the node shuts down
}

// batchChunk is how many commands of a batch are submitted at a time. The next
// chunk follows the answer, which keeps their order, and lets a dispense pass.
const batchChunk = 500

// execute carries out the command of a unary call. The command must be of the
// kind that the method is named after: what a permission or a proxy allows by
// the method's name is then what happens.
func (h *commandHandler) execute(ctx context.Context, req *stockledgerv1.CommandRequest, kind ledger.Kind) (*stockledgerv1.CommandResponse, error) {
	principal := principalOf(ctx)
	clinic := ledger.ClinicID(req.GetClinicId())
	texts, err := h.sealed(ctx, clinic, []*stockledgerv1.Command{req.GetCommand()}, other(kind))
	if err != nil {
		return nil, err
	}
	seconds := &witnesses{verifier: h.verifier, clinic: clinic}
	command, r := read(clinic, principal.Subject, req.GetCommand(), texts[0], seconds)
	if r != nil {
		return nil, inRequest(req.GetCommand(), r)
	}
	submission := txn.Submission{
		Clinic: clinic, Commands: []ledger.Command{command}, Locations: principal.Locations,
		Permits: h.needs.deciding(principal), Witnesses: seconds.locations, MayBackdate: principal.may(permissionBackdate),
		Private: make(map[string][]txn.PrivateText), Refused: make(map[string]*ledger.Rejection),
	}
	texts[0].accompany(&submission, command.IdempotencyKey)
	verdicts, err := h.executor.Submit(ctx, submission)
	if err != nil {
		return nil, err
	}
	if err := verdicts[0].Err; err != nil {
		var r *ledger.Rejection
		if errors.As(err, &r) {
			return nil, inRequest(req.GetCommand(), resultsFor(principal).rejection(r))
		}
		return nil, err
	}
	accepted, err := resultsFor(principal).accepted(verdicts[0].Record, verdicts[0].Replayed)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.CommandResponse{Accepted: accepted}, nil
}

// other refuses commands of another kind than the method's.
func other(kind ledger.Kind) func(*stockledgerv1.Command) *ledger.Rejection {
	return func(c *stockledgerv1.Command) *ledger.Rejection {
		field := c.ProtoReflect().WhichOneof(bodyOneof)
		if field == nil || string(field.Message().Name()) == kind.String() {
			return nil // an empty one is refused when it is read
		}
		return invalidField("body", "%s takes a command of the same name; this one is %s.", kind, field.Message().Name())
	}
}

// read reads a command whose private text was put away.
func read(clinic ledger.ClinicID, actor ledger.Actor, c *stockledgerv1.Command, text sealedText, seconds *witnesses) (ledger.Command, *ledger.Rejection) {
	if text.refused != nil {
		return ledger.Command{}, text.refused
	}
	command, r := toCommand(clinic, actor, c, seconds)
	if r == nil {
		text.into(command.Body)
	}
	return command, r
}

// inRequest spells a field that a rejection names as a path from the request.
func inRequest(c *stockledgerv1.Command, r *ledger.Rejection) *ledger.Rejection {
	r = inCommand(c, r)
	if r.Field == "" || r.Field == "clinic_id" {
		return r
	}
	qualified := *r
	qualified.Field = "command." + r.Field
	return &qualified
}

// batch carries out a batch and gives the verdicts away as they are known.
// Where the database fails in the middle, the commands that were not taken say
// so, and those before keep their verdicts.
func (h *commandHandler) batch(
	ctx context.Context, req *stockledgerv1.ExecuteBatchRequest, give func(first int, results []*stockledgerv1.CommandResult) error,
) error {
	commands := req.GetCommands()
	size := batchChunk
	if req.GetLinked() {
		size = len(commands)
	}
	for first := 0; first < len(commands); first += size {
		chunk := commands[first:min(first+size, len(commands))]
		results, failed := h.chunk(ctx, req, chunk)
		switch {
		case failed == nil:
		case first == 0 || ctx.Err() != nil:
			return failed
		default:
			return give(first, endedEarly(failed, len(chunk), len(commands)-first-len(chunk)))
		}
		if err := give(first, results); err != nil {
			return err
		}
	}
	return nil
}

// endedEarly are the verdicts on a chunk that failed and on what follows it.
func endedEarly(failed error, chunk, rest int) []*stockledgerv1.CommandResult {
	return append(repeat(explain(failed), chunk), repeat(fail(reasonNotAttempted, "The batch ended before this command."), rest)...)
}

func repeat(f *failure, n int) []*stockledgerv1.CommandResult {
	results := make([]*stockledgerv1.CommandResult, n)
	for i := range results {
		results[i] = rejectedResult(f)
	}
	return results
}

func rejectedResult(f *failure) *stockledgerv1.CommandResult {
	return &stockledgerv1.CommandResult{Verdict: &stockledgerv1.CommandResult_Rejected{Rejected: f.rejected()}}
}

// chunk carries out a part of a batch. It returns an error where none of the
// commands was judged.
func (h *commandHandler) chunk(
	ctx context.Context, req *stockledgerv1.ExecuteBatchRequest, commands []*stockledgerv1.Command,
) ([]*stockledgerv1.CommandResult, error) {
	principal := principalOf(ctx)
	clinic := ledger.ClinicID(req.GetClinicId())
	verdicts, rendered := make([]txn.Verdict, len(commands)), resultsFor(principal)
	seconds := &witnesses{verifier: h.verifier, clinic: clinic}
	submission := txn.Submission{
		Clinic: clinic, Linked: req.GetLinked(), Bulk: true, Locations: principal.Locations,
		Permits: h.needs.deciding(principal), MayBackdate: principal.may(permissionBackdate),
		Commands: make([]ledger.Command, 0, len(commands)), Private: make(map[string][]txn.PrivateText), Refused: make(map[string]*ledger.Rejection),
	}
	texts, err := h.sealed(ctx, clinic, commands, h.rules.command)
	if err != nil {
		return nil, err
	}
	places := make([]int, 0, len(commands)) // of the submitted commands
	for i, c := range commands {
		command, r := read(clinic, principal.Subject, c, texts[i], seconds)
		if r != nil && req.GetLinked() {
			linkedRejection(verdicts, i, r)
			return h.results(rendered, commands, verdicts), nil
		}
		if r != nil {
			verdicts[i].Err = r
			continue
		}
		submission.Commands = append(submission.Commands, command)
		texts[i].accompany(&submission, command.IdempotencyKey)
		places = append(places, i)
	}
	submission.Witnesses = seconds.locations
	answers, err := h.submitPatiently(ctx, submission)
	if err == nil {
		err = undecided(answers)
	}
	if err != nil {
		return nil, err
	}
	for i, answer := range answers {
		verdicts[places[i]] = answer
	}
	return h.results(rendered, commands, verdicts), nil
}

// linkedRejection sets the verdicts of a linked batch of which one command
// can't even be read.
func linkedRejection(verdicts []txn.Verdict, offender int, cause *ledger.Rejection) {
	for i := range verdicts {
		verdicts[i].Err = &ledger.Rejection{
			Reason:   ledger.ReasonLinkedCommandRejected,
			Message:  fmt.Sprintf("Command %d of the linked batch was rejected (%s).", offender+1, cause.Reason),
			Metadata: map[string]string{"rejected_index": fmt.Sprint(offender), "rejected_reason": string(cause.Reason)},
		}
	}
	verdicts[offender].Err = cause
}

// undecided returns the error of a chunk none of whose commands was judged: the
// database was away, and trying the next chunk would only take time.
func undecided(answers []txn.Verdict) error {
	var first error
	for _, answer := range answers {
		var r *ledger.Rejection
		if answer.Err == nil || errors.As(answer.Err, &r) || errors.Is(answer.Err, txn.ErrInternal) {
			return nil
		}
		if first == nil {
			first = answer.Err
		}
	}
	return first
}

// submitPatiently waits where the clinic's queue is full: a batch has time.
func (h *commandHandler) submitPatiently(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	const attempts = 50
	for attempt := 1; ; attempt++ {
		answers, err := h.executor.Submit(ctx, s)
		if !errors.Is(err, txn.ErrBusy) || attempt == attempts {
			return answers, err
		}
		pause := time.NewTimer(busyPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
}

// results renders verdicts.
func (h *commandHandler) results(r results, commands []*stockledgerv1.Command, verdicts []txn.Verdict) []*stockledgerv1.CommandResult {
	rendered := make([]*stockledgerv1.CommandResult, len(verdicts))
	for i, v := range verdicts {
		rendered[i] = h.result(r, commands[i], v)
	}
	return rendered
}

func (h *commandHandler) result(rendered results, c *stockledgerv1.Command, v txn.Verdict) *stockledgerv1.CommandResult {
	err := v.Err
	var r *ledger.Rejection
	if errors.As(err, &r) {
		return rejectedResult(explainRejection(inCommand(c, rendered.rejection(r))))
	}
	if err == nil {
		accepted, renderErr := rendered.accepted(v.Record, v.Replayed)
		if renderErr == nil {
			return &stockledgerv1.CommandResult{Verdict: &stockledgerv1.CommandResult_Accepted{Accepted: accepted}}
		}
		err = renderErr
	}
	f := explain(err)
	if f.reason == reasonInternal {
		h.log.Error("a command of a batch ended in an internal error", "error", err)
	}
	return rejectedResult(f)
}
