package rpc

import (
	"context"
	"slices"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetApproval reads a request for a second person.
func (s *queryService) GetApproval(ctx context.Context, req *stockledgerv1.GetApprovalRequest) (*stockledgerv1.GetApprovalResponse, error) {
	body, document, asOf, err := findDocument[*ledger.Approval](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentApproval, req.GetApprovalId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	// Whether it is overdue changes with every moment, so this answer has no
	// etag.
	return &stockledgerv1.GetApprovalResponse{Approval: fromApproval(principalOf(ctx), document, body, s.now(asOf)), AsOf: fromAsOf(asOf)}, nil
}

// ListApprovals lists requests for a second person.
func (s *queryService) ListApprovals(ctx context.Context, req *stockledgerv1.ListApprovalsRequest) (*stockledgerv1.ListApprovalsResponse, error) {
	filter := txn.DocumentFilter{
		Kind: ledger.DocumentApproval, OpenOnly: !req.GetIncludeClosed(),
		Location: ledger.LocationID(req.GetLocationId()), NewestFirst: req.GetNewestFirst(),
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, nil)
	if err != nil {
		return nil, err
	}
	now, p := s.now(page.asOf), principalOf(ctx)
	approvals := rendered(page.documents, func(d *ledger.Document, a *ledger.Approval) *stockledgerv1.Approval {
		return fromApproval(p, d, a, now)
	})
	return &stockledgerv1.ListApprovalsResponse{Approvals: approvals, NextPageToken: page.token, AsOf: fromAsOf(page.asOf)}, nil
}

// fromApproval renders a request without the command itself: its lines tell what
// it would take.
func fromApproval(p *Principal, d *ledger.Document, a *ledger.Approval, now ledger.Instant) *stockledgerv1.Approval {
	lines := slices.DeleteFunc(slices.Clone(a.Lines), func(l ledger.PendingLine) bool { return !p.reachesLocation(l.Location) })
	if a.Command == ledger.KindRecordCount && !p.may(permissionManageCounts) {
		lines = nil // the variance of a count that may be blind
	}
	return &stockledgerv1.Approval{
		ApprovalId: string(a.ApprovalID), Status: fromApprovalStatus(a.Status), Review: a.Review, Command: a.Command.String(),
		Requester: string(a.Requester), Decider: string(a.Decider), Deadline: fromInstant(a.Deadline),
		Overdue: a.Status == ledger.ApprovalOpen && a.Deadline < now,
		Lines: each(lines, func(l ledger.PendingLine) *stockledgerv1.PendingLine {
			return &stockledgerv1.PendingLine{
				LocationId: string(l.Location), MedicineId: string(l.Medicine), LotId: string(l.Lot), Bucket: fromBucket(l.Bucket), Quantity: l.Quantity,
			}
		}),
		OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence),
	}
}

func fromApprovalStatus(s ledger.ApprovalStatus) stockledgerv1.ApprovalStatus {
	return stockledgerv1.ApprovalStatus(s)
}

// defaultApprovalHours is how long a request waits in a clinic that never set a
// policy.
const defaultApprovalHours = 72

// GetPolicy reads the clinic's policy.
func (s *catalogService) GetPolicy(ctx context.Context, req *stockledgerv1.GetPolicyRequest) (*stockledgerv1.GetPolicyResponse, error) {
	clinic := ledger.ClinicID(req.GetClinicId())
	document, asOf, err := s.queries.Document(ctx, clinic, (&ledger.Policy{}).About().DocumentKey, readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	policy := &stockledgerv1.Policy{ApprovalHours: defaultApprovalHours, Etag: ledger.Etag(0)}
	if document != nil {
		if body, ok := document.Body.(*ledger.Policy); ok {
			policy = fromPolicy(document, body)
		}
	}
	return &stockledgerv1.GetPolicyResponse{Policy: policy, AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

func fromPolicy(d *ledger.Document, p *ledger.Policy) *stockledgerv1.Policy {
	return &stockledgerv1.Policy{
		ApprovalHours: p.ApprovalHours, ToleranceUnits: p.ToleranceUnits, ToleranceBasisPoints: p.ToleranceBasisPoints,
		CountApproval: p.CountApproval, Recount: p.Recount, Etag: ledger.Etag(d.LastSequence),
		Rules: each(p.Rules, func(r ledger.Rule) *stockledgerv1.PolicyRule {
			return &stockledgerv1.PolicyRule{
				ControlClass: r.ControlClass, Command: r.Command.String(), Above: r.Above, Requires: fromRequirement(r.Requires),
			}
		}),
		ReasonCodes: each(p.ReasonCodes, func(r ledger.ReasonCodes) *stockledgerv1.PolicyReasonCodes {
			return &stockledgerv1.PolicyReasonCodes{Command: r.Command.String(), Codes: slices.Clone(r.Codes)}
		}),
	}
}

func fromRequirement(r ledger.Requirement) stockledgerv1.Requirement {
	return stockledgerv1.Requirement(r)
}
