package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetCount reads a count with its lots.
func (s *queryService) GetCount(ctx context.Context, req *stockledgerv1.GetCountRequest) (*stockledgerv1.GetCountResponse, error) {
	body, document, asOf, err := findDocument[*ledger.Count](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentCount, req.GetCountId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	count, blind := fromCount(document, body), hidesVariance(body) && !principalOf(ctx).may(permissionManageCounts)
	count.Lines = each(body.Lines, func(l ledger.CountLine) *stockledgerv1.CountLine {
		line := &stockledgerv1.CountLine{
			MedicineId: string(l.Medicine), LotId: string(l.Lot), Status: fromCountLineStatus(l.Status), Counted: l.Counted,
		}
		if !blind {
			line.Variance = &l.Variance
		}
		return line
	})
	return &stockledgerv1.GetCountResponse{Count: count, AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

// hidesVariance reports whether a count keeps from those who count what the
// books say.
func hidesVariance(n *ledger.Count) bool { return n.Blind && !n.Ended }

// ListCounts lists counts with their progress.
func (s *queryService) ListCounts(ctx context.Context, req *stockledgerv1.ListCountsRequest) (*stockledgerv1.ListCountsResponse, error) {
	filter := txn.DocumentFilter{
		Kind: ledger.DocumentCount, OpenOnly: !req.GetIncludeClosed(),
		Location: ledger.LocationID(req.GetLocationId()), NewestFirst: req.GetNewestFirst(),
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, nil)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListCountsResponse{
		Counts: rendered(page.documents, fromCount), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

// fromCount renders a count without its lots.
func fromCount(d *ledger.Document, n *ledger.Count) *stockledgerv1.Count {
	count := &stockledgerv1.Count{
		CountId: string(n.CountID), LocationId: string(n.Location), Blind: n.Blind, Status: fromCountStatus(n), ReasonCode: n.ReasonCode,
		LinesTotal: int32(len(n.Lines)), OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence),
	}
	for _, line := range n.Lines {
		switch line.Status {
		case ledger.CountDone:
			count.LinesCounted++
		case ledger.CountRecount:
			count.LinesToRecount++
		}
	}
	return count
}

func fromCountStatus(n *ledger.Count) stockledgerv1.CountStatus {
	switch {
	case n.Cancelled:
		return stockledgerv1.CountStatus_COUNT_STATUS_CANCELLED
	case n.Ended:
		return stockledgerv1.CountStatus_COUNT_STATUS_COMPLETED
	}
	return stockledgerv1.CountStatus_COUNT_STATUS_OPEN
}

// fromCountLineStatus makes room for the zero that the wire never sends.
func fromCountLineStatus(s ledger.CountStatus) stockledgerv1.CountLineStatus {
	return stockledgerv1.CountLineStatus(s + 1)
}
