package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// ListLoans lists what was lent to other clinics, and borrowed from them.
func (s *queryService) ListLoans(ctx context.Context, req *stockledgerv1.ListLoansRequest) (*stockledgerv1.ListLoansResponse, error) {
	filter := txn.DocumentFilter{
		Kind: ledger.DocumentLoan, OpenOnly: !req.GetIncludeClosed(),
		Location: ledger.LocationID(req.GetLocationId()), NewestFirst: req.GetNewestFirst(),
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, nil)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListLoansResponse{
		Loans: rendered(page.documents, fromLoan), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromLoan(d *ledger.Document, l *ledger.Loan) *stockledgerv1.Loan {
	return &stockledgerv1.Loan{
		Reference: l.Reference, Direction: stockledgerv1.LoanDirection(l.Direction), PartnerClinicId: string(l.Partner),
		LocationId: string(l.Location), MedicineId: string(l.Medicine),
		Quantity: l.Quantity, Repaid: l.Repaid, Outstanding: l.Quantity - l.Repaid,
		OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence),
	}
}
