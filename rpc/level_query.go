package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetStockLevels reads how much of a medicine a location is to have.
func (s *queryService) GetStockLevels(ctx context.Context, req *stockledgerv1.GetStockLevelsRequest) (*stockledgerv1.GetStockLevelsResponse, error) {
	clinic, options := ledger.ClinicID(req.GetClinicId()), readOptions(req.GetRead(), txn.Strong)
	level := &ledger.Level{Shelf: ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())}}
	document, asOf, err := s.queries.Document(ctx, clinic, level.About().DocumentKey, options)
	if err != nil {
		return nil, err
	}
	if document == nil {
		// Levels that were never set are not those of a shelf that cannot be.
		if _, _, err := s.queries.Stock(ctx, clinic, level.Shelf, options); err != nil {
			return nil, err
		}
		document = &ledger.Document{Body: level}
	}
	if found, ok := document.Body.(*ledger.Level); ok {
		level = found
	}
	return &stockledgerv1.GetStockLevelsResponse{Levels: fromLevel(document, level), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

// ListStockLevels lists the levels that were set.
func (s *queryService) ListStockLevels(ctx context.Context, req *stockledgerv1.ListStockLevelsRequest) (*stockledgerv1.ListStockLevelsResponse, error) {
	filter := txn.DocumentFilter{Kind: ledger.DocumentLevel, Location: ledger.LocationID(req.GetLocationId())}
	var shows func(ledger.DocumentBody) bool
	if medicine := ledger.MedicineID(req.GetMedicineId()); medicine != "" {
		shows = func(body ledger.DocumentBody) bool {
			level, ok := body.(*ledger.Level)
			return ok && level.Medicine == medicine
		}
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, shows)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListStockLevelsResponse{
		Levels: rendered(page.documents, fromLevel), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromLevel(d *ledger.Document, l *ledger.Level) *stockledgerv1.StockLevels {
	return &stockledgerv1.StockLevels{
		LocationId: string(l.Location), MedicineId: string(l.Medicine), Min: l.Min, Max: l.Max, Reorder: l.Reorder,
		Etag: ledger.Etag(d.LastSequence),
	}
}
