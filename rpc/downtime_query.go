package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// ListDowntimeRecords lists what was recorded after downtimes.
func (s *pharmacyService) ListDowntimeRecords(ctx context.Context, req *stockledgerv1.ListDowntimeRecordsRequest) (*stockledgerv1.ListDowntimeRecordsResponse, error) {
	filter := txn.DocumentFilter{
		Kind: ledger.DocumentDowntime, Location: ledger.LocationID(req.GetLocationId()), NewestFirst: req.GetNewestFirst(),
	}
	var shows func(ledger.DocumentBody) bool
	if device, exceptions := req.GetDevice(), req.GetExceptionsOnly(); device != "" || exceptions {
		shows = func(body ledger.DocumentBody) bool {
			d, ok := body.(*ledger.Downtime)
			return ok && (device == "" || d.Device == device) && (!exceptions || len(d.Exceptions) > 0 || d.Shortage > 0)
		}
	}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, shows)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListDowntimeRecordsResponse{
		Records: rendered(page.documents, fromDowntime), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromDowntime(d *ledger.Document, b *ledger.Downtime) *stockledgerv1.DowntimeRecord {
	return &stockledgerv1.DowntimeRecord{
		DowntimeId: string(b.DowntimeID), Command: b.What.String(), Device: b.Device, PaperReference: b.PaperReference,
		DispensingId: string(b.DispensingID), LocationId: string(b.Location), MedicineId: string(b.Medicine), LotId: string(b.Lot),
		Quantity: b.Quantity, Exceptions: each(b.Exceptions, func(r ledger.Reason) string { return string(r) }), Shortage: b.Shortage,
		Day: fromDate(b.Day), Sequence: int64(d.OpenedSequence),
	}
}
