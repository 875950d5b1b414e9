package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// ListPrices lists what medicines cost.
func (s *catalogService) ListPrices(ctx context.Context, req *stockledgerv1.ListPricesRequest) (*stockledgerv1.ListPricesResponse, error) {
	var shows func(ledger.DocumentBody) bool
	if medicine := ledger.MedicineID(req.GetMedicineId()); medicine != "" {
		shows = func(body ledger.DocumentBody) bool {
			prices, ok := body.(*ledger.Prices)
			return ok && prices.MedicineID == medicine
		}
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), txn.DocumentFilter{Kind: ledger.DocumentPrices}, shows)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListPricesResponse{
		Medicines: rendered(page.documents, fromPrices), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromPrices(d *ledger.Document, p *ledger.Prices) *stockledgerv1.MedicinePrices {
	return &stockledgerv1.MedicinePrices{
		MedicineId: string(p.MedicineID), LastSequence: int64(d.LastSequence), Etag: ledger.Etag(d.LastSequence),
		Prices: each(p.Prices, func(p ledger.Price) *stockledgerv1.Price {
			return &stockledgerv1.Price{EffectiveFrom: fromDate(p.From), AmountMinor: p.Amount, PerQuantity: p.Per, Currency: p.Currency}
		}),
	}
}

// ListControlLimits lists what the law allows for control classes.
func (s *catalogService) ListControlLimits(ctx context.Context, req *stockledgerv1.ListControlLimitsRequest) (*stockledgerv1.ListControlLimitsResponse, error) {
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), txn.DocumentFilter{Kind: ledger.DocumentControlLimit}, nil)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListControlLimitsResponse{
		Limits: rendered(page.documents, fromControlLimit), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromControlLimit(d *ledger.Document, l *ledger.ControlLimit) *stockledgerv1.ControlLimit {
	return &stockledgerv1.ControlLimit{
		ControlClass: l.ControlClass, MaxQuantity: l.MaxQuantity, NoRefills: l.NoRefills, MaxRefills: l.MaxRefills,
		MaxValidDays: l.MaxValidDays, PrescriptionRequired: l.PrescriptionRequired,
		LastSequence: int64(d.LastSequence), Etag: ledger.Etag(d.LastSequence),
	}
}

// ListCharges lists billing events in the order in which they were emitted.
func (s *pharmacyService) ListCharges(ctx context.Context, req *stockledgerv1.ListChargesRequest) (*stockledgerv1.ListChargesResponse, error) {
	from, to, err := days(req)
	if err != nil {
		return nil, err
	}
	filter := txn.ChargeFilter{
		Patient: ledger.PatientID(req.GetPatientId()), Location: ledger.LocationID(req.GetLocationId()), Locations: only(ctx), From: from, To: to,
	}
	list := documentList{read: func(after *txn.DocumentPlace, limit int, o txn.ReadOptions) ([]ledger.Document, *txn.DocumentPlace, txn.AsOf, error) {
		return s.queries.Charges(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, limit, o)
	}}
	if after := req.GetAfterSequence(); after > 0 {
		// No id is empty, so this is before all of the next command.
		list.start = &txn.DocumentPlace{Opened: ledger.Sequence(after) + 1}
	}
	page, err := s.list(ctx, req, list)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListChargesResponse{
		Charges: rendered(page.documents, fromCharge), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, nil
}

func fromCharge(d *ledger.Document, c *ledger.Charge) *stockledgerv1.Charge {
	return &stockledgerv1.Charge{
		ChargeId: string(c.ChargeID), ReversesChargeId: string(c.Reverses), DispensingId: string(c.DispensingID),
		PrescriptionId: string(c.PrescriptionID), PatientId: string(c.PatientID), LocationId: string(c.Location), MedicineId: string(c.Medicine),
		Quantity: c.Quantity, AmountMinor: c.Amount, Currency: c.Currency, PriceFrom: fromDate(c.PriceFrom), Payer: c.Payer,
		Day: fromDate(c.Day), Sequence: int64(d.OpenedSequence),
	}
}
