package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/ledger"
	peerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/peer/v1"
	"github.com/stockledger/stockledger/txn"
)

// This file is what submissions and verdicts look like between nodes.

// errRefused means that the other node took nothing of a submission.
var errRefused = errors.New("cluster: the node takes no commands")

func submissionToWire(s txn.Submission, left time.Duration) *peerv1.Submission {
	w := &peerv1.Submission{
		ClinicId: string(s.Clinic), Linked: s.Linked, Bulk: s.Bulk, LocationIds: toStrings(s.Locations), MayBackdate: s.MayBackdate,
		Commands: make([][]byte, len(s.Commands)),
	}
	if left > 0 {
		w.TimeLeft = durationpb.New(left)
	}
	decides := false
	for i, c := range s.Commands {
		w.Commands[i] = ledger.AppendCommand(nil, c)
		kind := c.Body.Kind()
		decides = decides || kind == ledger.KindApproveCommand || kind == ledger.KindRejectCommand
	}
	// Nobody else is asked what they may decide on.
	if w.Restricted = s.Permits != nil; w.Restricted && decides {
		for _, kind := range ledger.Kinds() {
			if s.Permits(kind) {
				w.PermittedKinds = append(w.PermittedKinds, kind.String())
			}
		}
	}
	for key, texts := range s.Private {
		for _, text := range texts {
			w.PrivateTexts = append(w.PrivateTexts, &peerv1.PrivateText{
				IdempotencyKey: key, PatientId: string(text.Patient), Digest: text.Digest, Ciphertext: text.Ciphertext,
				IsIdentity: text.Identity, Identifiers: text.Identifiers,
			})
		}
	}
	for key, rejection := range s.Refused {
		w.Refusals = append(w.Refusals, &peerv1.Refusal{IdempotencyKey: key, Rejection: rejectionToWire(rejection)})
	}
	for actor, locations := range s.Witnesses {
		w.Witnesses = append(w.Witnesses, &peerv1.Witness{Actor: string(actor), LocationIds: toStrings(locations)})
	}
	return w
}

// submissionFromWire reads a submission. What a later release added to commands
// is an error: nobody may carry out what they don't understand.
func submissionFromWire(w *peerv1.Submission) (txn.Submission, error) {
	s := txn.Submission{
		Clinic: ledger.ClinicID(w.GetClinicId()), Linked: w.GetLinked(), Bulk: w.GetBulk(), MayBackdate: w.GetMayBackdate(),
		Locations: fromStrings[ledger.LocationID](w.GetLocationIds()), Commands: make([]ledger.Command, len(w.GetCommands())),
	}
	for i, stored := range w.GetCommands() {
		var err error
		if s.Commands[i], err = ledger.DecodeCommand(stored); err != nil {
			return s, err
		}
	}
	if w.GetRestricted() {
		permitted := w.GetPermittedKinds()
		s.Permits = func(kind ledger.Kind) bool { return slices.Contains(permitted, kind.String()) }
	}
	if len(w.GetPrivateTexts()) > 0 {
		s.Private = make(map[string][]txn.PrivateText)
	}
	for _, text := range w.GetPrivateTexts() {
		s.Private[text.GetIdempotencyKey()] = append(s.Private[text.GetIdempotencyKey()], txn.PrivateText{
			Patient: ledger.PatientID(text.GetPatientId()), Digest: text.GetDigest(), Ciphertext: text.GetCiphertext(),
			Identity: text.GetIsIdentity(), Identifiers: text.GetIdentifiers(),
		})
	}
	if len(w.GetRefusals()) > 0 {
		s.Refused = make(map[string]*ledger.Rejection)
	}
	for _, refusal := range w.GetRefusals() {
		s.Refused[refusal.GetIdempotencyKey()] = rejectionFromWire(refusal.GetRejection())
	}
	if len(w.GetWitnesses()) > 0 {
		s.Witnesses = make(map[ledger.Actor][]ledger.LocationID)
	}
	for _, witness := range w.GetWitnesses() {
		s.Witnesses[ledger.Actor(witness.GetActor())] = fromStrings[ledger.LocationID](witness.GetLocationIds())
	}
	return s, nil
}

func toStrings[T ~string](ids []T) []string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	return texts
}

func fromStrings[T ~string](texts []string) []T {
	ids := make([]T, len(texts))
	for i, text := range texts {
		ids[i] = T(text)
	}
	return ids
}

func answerToWire(number uint64, verdicts []txn.Verdict, err error) *peerv1.Answer {
	a := &peerv1.Answer{Number: number}
	if err != nil {
		a.Refused = failureToWire(err)
		return a
	}
	a.Verdicts = make([]*peerv1.Verdict, len(verdicts))
	for i, v := range verdicts {
		if v.Err != nil {
			a.Verdicts[i] = &peerv1.Verdict{Failure: failureToWire(v.Err)}
			continue
		}
		a.Verdicts[i] = &peerv1.Verdict{Record: v.Record.Stored, Hash: v.Record.Hash[:], Replayed: v.Replayed}
	}
	return a
}

// answerFromWire reads the verdicts on so many commands, or why nothing was
// taken.
func answerFromWire(a *peerv1.Answer, commands int) ([]txn.Verdict, error) {
	if a.GetRefused() != nil {
		return nil, failureFromWire(a.GetRefused())
	}
	if len(a.GetVerdicts()) != commands {
		return nil, fmt.Errorf("%w: %d verdicts came on %d commands", txn.ErrAmbiguous, len(a.GetVerdicts()), commands)
	}
	verdicts := make([]txn.Verdict, commands)
	for i, v := range a.GetVerdicts() {
		if v.GetFailure() != nil {
			verdicts[i].Err = failureFromWire(v.GetFailure())
			continue
		}
		var hash ledger.Hash
		copy(hash[:], v.GetHash())
		record, err := ledger.OpenRecord(v.GetRecord(), hash)
		if err != nil {
			// The home is of a later release and recorded what this one can't read.
			verdicts[i].Err = fmt.Errorf("%w: %w", txn.ErrAmbiguous, err)
			continue
		}
		verdicts[i] = txn.Verdict{Record: record, Replayed: v.GetReplayed()}
	}
	return verdicts, nil
}

// failures are the errors with a kind of their own.
var failures = []struct {
	kind peerv1.FailureKind
	err  error
}{
	{peerv1.FailureKind_FAILURE_KIND_BUSY, txn.ErrBusy},
	{peerv1.FailureKind_FAILURE_KIND_REFUSED, errRefused},
	{peerv1.FailureKind_FAILURE_KIND_REFUSED, txn.ErrClosed},
	{peerv1.FailureKind_FAILURE_KIND_RESTORING, txn.ErrRestoring},
	{peerv1.FailureKind_FAILURE_KIND_MOVING, txn.ErrMoving},
	{peerv1.FailureKind_FAILURE_KIND_AMBIGUOUS, txn.ErrAmbiguous},
	{peerv1.FailureKind_FAILURE_KIND_UNAVAILABLE, txn.ErrUnavailable},
	{peerv1.FailureKind_FAILURE_KIND_TIMEOUT, context.DeadlineExceeded},
	{peerv1.FailureKind_FAILURE_KIND_INTERNAL, txn.ErrInternal},
}

func failureToWire(err error) *peerv1.Failure {
	var rejection *ledger.Rejection
	if errors.As(err, &rejection) {
		return &peerv1.Failure{Kind: peerv1.FailureKind_FAILURE_KIND_REJECTED, Rejection: rejectionToWire(rejection)}
	}
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return &peerv1.Failure{Kind: f.kind, Message: err.Error()}
		}
	}
	return &peerv1.Failure{Kind: peerv1.FailureKind_FAILURE_KIND_INTERNAL, Message: err.Error()}
}

func failureFromWire(w *peerv1.Failure) error {
	if w.GetKind() == peerv1.FailureKind_FAILURE_KIND_REJECTED {
		return rejectionFromWire(w.GetRejection())
	}
	for _, f := range failures {
		if f.kind == w.GetKind() {
			return f.err
		}
	}
	return fmt.Errorf("%w: %s", txn.ErrInternal, w.GetMessage())
}

func rejectionToWire(r *ledger.Rejection) *peerv1.Rejection {
	return &peerv1.Rejection{Reason: string(r.Reason), Field: r.Field, Message: r.Message, Metadata: r.Metadata}
}

func rejectionFromWire(w *peerv1.Rejection) *ledger.Rejection {
	return &ledger.Rejection{Reason: ledger.Reason(w.GetReason()), Field: w.GetField(), Message: w.GetMessage(), Metadata: maps.Clone(w.GetMetadata())}
}
