package rpc

import (
	"context"
	"slices"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetTransfer reads a transfer.
func (s *queryService) GetTransfer(ctx context.Context, req *stockledgerv1.GetTransferRequest) (*stockledgerv1.GetTransferResponse, error) {
	body, document, asOf, err := findDocument[*ledger.Transfer](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentTransfer, req.GetTransferId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	transfer := fromTransfer(document, body, s.now(asOf))
	transfer.Parcels = each(body.Parcels, fromParcel)
	// Whether it is overdue changes with every moment, so this answer has no
	// etag.
	return &stockledgerv1.GetTransferResponse{Transfer: transfer, AsOf: fromAsOf(asOf)}, nil
}

// ListTransfers lists transfers.
func (s *queryService) ListTransfers(ctx context.Context, req *stockledgerv1.ListTransfersRequest) (*stockledgerv1.ListTransfersResponse, error) {
	filter := txn.DocumentFilter{
		Kind: ledger.DocumentTransfer, OpenOnly: !req.GetIncludeClosed(),
		Location: ledger.LocationID(req.GetLocationId()), NewestFirst: req.GetNewestFirst(),
	}
	var shows func(ledger.DocumentBody) bool
	if wanted := req.GetStatuses(); len(wanted) > 0 {
		filter.OpenOnly = !slices.ContainsFunc(wanted, func(status stockledgerv1.TransferStatus) bool {
			return !(&ledger.Transfer{Status: ledger.TransferStatus(status)}).About().Open
		})
		shows = func(body ledger.DocumentBody) bool {
			transfer, ok := body.(*ledger.Transfer)
			return ok && slices.Contains(wanted, fromTransferStatus(transfer.Status))
		}
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, shows)
	if err != nil {
		return nil, err
	}
	now := s.now(page.asOf)
	transfers := rendered(page.documents, func(d *ledger.Document, t *ledger.Transfer) *stockledgerv1.Transfer { return fromTransfer(d, t, now) })
	return &stockledgerv1.ListTransfersResponse{Transfers: transfers, NextPageToken: page.token, AsOf: fromAsOf(page.asOf)}, nil
}

// fromTransfer renders a transfer without its lots.
func fromTransfer(d *ledger.Document, t *ledger.Transfer, now ledger.Instant) *stockledgerv1.Transfer {
	return &stockledgerv1.Transfer{
		TransferId: string(t.TransferID), FromLocationId: string(t.From), ToLocationId: string(t.To),
		Status: fromTransferStatus(t.Status), Overdue: overdue(t, now),
		Lines: each(t.Lines, func(l ledger.TransferLine) *stockledgerv1.TransferLine {
			return &stockledgerv1.TransferLine{MedicineId: string(l.Medicine), LotId: string(l.Lot), Quantity: l.Quantity}
		}),
		HoldIds:   each(t.HoldIDs, func(id ledger.HoldID) string { return string(id) }),
		Requester: string(t.Requester), ReasonCode: t.ReasonCode, Reference: t.Reference,
		DispatchBy: fromInstant(t.DispatchBy), ReceiveBy: fromInstant(t.ReceiveBy),
		OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence),
	}
}

// overdue reports whether a transfer should have set out, or arrived, by now.
func overdue(t *ledger.Transfer, now ledger.Instant) bool {
	switch t.Status {
	case ledger.TransferRequested, ledger.TransferApproved:
		return t.DispatchBy < now
	case ledger.TransferInTransit:
		return t.ReceiveBy != 0 && t.ReceiveBy < now
	}
	return false
}

func fromParcel(p ledger.Parcel) *stockledgerv1.Parcel {
	return &stockledgerv1.Parcel{
		MedicineId: string(p.Medicine), LotId: string(p.Lot), Approved: p.Approved, Dispatched: p.Dispatched, Received: p.Received,
		Returned: p.Returned, Missing: p.Missing, Surplus: p.Surplus, InTransit: p.InTransit(),
	}
}

// The wire gives the states of documents the numbers that the core stores,
// which a test makes sure of.

func fromTransferStatus(s ledger.TransferStatus) stockledgerv1.TransferStatus {
	return stockledgerv1.TransferStatus(s)
}
