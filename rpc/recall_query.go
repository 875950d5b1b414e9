package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetRecall reads a recall.
func (s *queryService) GetRecall(ctx context.Context, req *stockledgerv1.GetRecallRequest) (*stockledgerv1.GetRecallResponse, error) {
	body, document, asOf, err := findDocument[*ledger.Recall](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentRecall, req.GetRecallId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetRecallResponse{Recall: fromRecall(document, body), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

// ListRecalls lists recalls with the progress of their follow-up.
func (s *queryService) ListRecalls(ctx context.Context, req *stockledgerv1.ListRecallsRequest) (*stockledgerv1.ListRecallsResponse, error) {
	filter := txn.DocumentFilter{Kind: ledger.DocumentRecall, OpenOnly: !req.GetIncludeClosed(), NewestFirst: req.GetNewestFirst()}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, nil)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListRecallsResponse{
		Recalls: rendered(page.documents, fromRecall), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromRecall(d *ledger.Document, r *ledger.Recall) *stockledgerv1.Recall {
	return &stockledgerv1.Recall{
		RecallId: string(r.RecallID), LotIds: each(r.LotIDs, func(id ledger.LotID) string { return string(id) }),
		ReasonCode: r.ReasonCode, Reference: r.Reference, Gtin: r.GTIN, Manufacturer: r.Manufacturer, LotNumber: r.LotNumber,
		FollowedUp: r.FollowedUp, Steps: r.Step, HoldsVoided: r.HoldsVoided, Quarantined: r.Quarantined, Lifted: r.Lifted,
		OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence),
	}
}
