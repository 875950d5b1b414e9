package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/genproto/googleapis/type/date"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// GetDispensing reads a dispensing.
func (s *pharmacyService) GetDispensing(ctx context.Context, req *stockledgerv1.GetDispensingRequest) (*stockledgerv1.GetDispensingResponse, error) {
	body, document, asOf, err := findDocument[*ledger.Dispensing](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentDispensing, req.GetDispensingId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetDispensingResponse{Dispensing: fromDispensing(document, body), AsOf: fromAsOf(asOf)}, nil
}

// ListDispensings lists dispensings.
func (s *pharmacyService) ListDispensings(ctx context.Context, req *stockledgerv1.ListDispensingsRequest) (*stockledgerv1.ListDispensingsResponse, error) {
	from, to, err := days(req)
	if err != nil {
		return nil, err
	}
	filter := txn.DispensingFilter{
		Patient: ledger.PatientID(req.GetPatientId()), Location: ledger.LocationID(req.GetLocationId()), Locations: only(ctx),
		From: from, To: to, OpenOnly: req.GetOpenOnly(), NewestFirst: req.GetNewestFirst(),
	}
	prescription, err := s.prescriptionOf(ctx, req, &filter)
	if err != nil {
		return nil, err
	}
	list := documentList{read: func(after *txn.DocumentPlace, limit int, o txn.ReadOptions) ([]ledger.Document, *txn.DocumentPlace, txn.AsOf, error) {
		return s.queries.Dispensings(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, limit, o)
	}}
	if medicine := ledger.MedicineID(req.GetMedicineId()); medicine != "" || prescription != "" {
		list.shows = func(body ledger.DocumentBody) bool {
			d, ok := body.(*ledger.Dispensing)
			return ok && (medicine == "" || d.Medicine == medicine) && (prescription == "" || d.PrescriptionID == prescription)
		}
	}
	page, err := s.list(ctx, req, list)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListDispensingsResponse{
		Dispensings: rendered(page.documents, fromDispensing), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, nil
}

// prescriptionOf finds the prescription that a list is about. Its dispensings
// are looked for among its patient's, which are few.
func (s *pharmacyService) prescriptionOf(ctx context.Context, req *stockledgerv1.ListDispensingsRequest, filter *txn.DispensingFilter) (ledger.PrescriptionID, error) {
	if req.GetPrescriptionId() == "" {
		return "", nil
	}
	id, err := s.prescriptionID(ctx, req.GetClinicId(), req.GetPrescriptionId(), txn.ReadOptions{})
	if err != nil {
		return "", err
	}
	p, _, _, err := findDocument[*ledger.Prescription](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentPrescription, id, txn.ReadOptions{})
	if err != nil {
		return "", err
	}
	if filter.Patient == "" {
		filter.Patient = p.PatientID
	}
	return p.PrescriptionID, nil
}

// days reads the days that a request is limited to; zero leaves an end open.
func days(req interface {
	GetFrom() *date.Date
	GetTo() *date.Date
}) (from, to ledger.Date, err error) {
	from, r := toDate("from", req.GetFrom())
	if r != nil {
		return 0, 0, r
	}
	to, r = toDate("to", req.GetTo())
	switch {
	case r != nil:
		return 0, 0, r
	case to != 0 && to < from:
		return 0, 0, invalidField("to", "to is %s, which is before from, %s.", to, from)
	}
	return from, to, nil
}

func fromDispensing(d *ledger.Document, b *ledger.Dispensing) *stockledgerv1.Dispensing {
	return &stockledgerv1.Dispensing{
		DispensingId: string(b.DispensingID), Status: stockledgerv1.DispensingStatus(b.Status),
		PrescriptionId: string(b.PrescriptionID), Line: b.Line, PatientId: string(b.PatientID),
		LocationId: string(b.Location), MedicineId: string(b.Medicine),
		PrescribedMedicineId: string(b.Prescribed), SubstitutionReason: b.SubstitutionReason,
		Lots: each(b.Lots, func(l ledger.DispensedLot) *stockledgerv1.DispensedLot {
			return &stockledgerv1.DispensedLot{LotId: string(l.Lot), Quantity: l.Quantity, Wasted: l.Wasted, Returned: l.Returned}
		}),
		Quantity: b.Quantity, WastedQuantity: b.Wasted, WasteReason: b.WasteReason,
		Day: fromDate(b.Day), CollectBy: fromInstant(b.CollectBy), HoldId: string(b.HoldID),
		Preparer: string(b.Preparer), Checker: string(b.Checker), Dispenser: string(b.Dispenser), Witness: string(b.Witness),
		AmountMinor: b.Amount, Currency: b.Currency, Payer: b.Payer, ChargeId: string(b.ChargeID), ReasonCode: b.ReasonCode,
		Exceptions: each(b.Exceptions, func(r ledger.Reason) string { return string(r) }), Shortage: b.Shortage,
		OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence),
	}
}

// DispensingReport adds up what was dispensed.
func (s *pharmacyService) DispensingReport(ctx context.Context, req *stockledgerv1.DispensingReportRequest) (*stockledgerv1.DispensingReportResponse, error) {
	from, to, err := days(req)
	if err != nil {
		return nil, err
	}
	filter := txn.DispensingFilter{Location: ledger.LocationID(req.GetLocationId()), Locations: only(ctx), From: from, To: to}
	rows, asOf, err := s.queries.DispensingReport(ctx, ledger.ClinicID(req.GetClinicId()), filter, readOptions(req.GetRead(), txn.Bounded))
	if errors.Is(err, txn.ErrReportTooLarge) {
		return nil, invalidField("from", "The report has too many rows. Ask for fewer days, or for one location.")
	}
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.DispensingReportResponse{AsOf: fromAsOf(asOf)}
	medicine, pharmacist := ledger.MedicineID(req.GetMedicineId()), ledger.Actor(req.GetPharmacist())
	for i := range rows {
		row := &rows[i]
		if medicine != "" && row.Medicine != medicine || pharmacist != "" && row.Pharmacist != pharmacist {
			continue
		}
		response.Rows = append(response.Rows, &stockledgerv1.DispensingReportRow{
			Day: fromDate(row.Day), MedicineId: string(row.Medicine), LocationId: string(row.Location), Pharmacist: string(row.Pharmacist),
			Dispensings: row.Dispensings, Quantity: row.Quantity, WastedQuantity: row.Wasted, AmountsMinor: row.Amounts,
		})
	}
	return response, unchanged(ctx, asOf)
}

// ListRecalledPatients streams whom a lot reached, or the lots of a recall. It
// keeps one part of the list in memory at a time.
func (s *pharmacyService) ListRecalledPatients(
	ctx context.Context, req *stockledgerv1.ListRecalledPatientsRequest, stream stockledgerv1connect.PharmacyServiceListRecalledPatientsServerStream,
) error {
	asked, err := s.open(ctx, req, 3)
	if err != nil {
		return err
	}
	place, err := toRecalledPlace(asked.key)
	if err != nil {
		return err
	}
	lots, err := s.recalledLots(ctx, req)
	if err != nil {
		return err
	}
	locations := only(ctx)
	if location := ledger.LocationID(req.GetLocationId()); location != "" {
		locations = []ledger.LocationID{location}
	}
	for {
		reached, next, asOf, err := s.queries.RecalledDispensings(ctx, ledger.ClinicID(req.GetClinicId()), lots, locations, place, asked.size, asked.options(txn.Strong))
		if err != nil {
			return err
		}
		response := &stockledgerv1.ListRecalledPatientsResponse{Dispensings: make([]*stockledgerv1.RecalledDispensing, len(reached)), AsOf: fromAsOf(asOf)}
		for i := range reached {
			response.Dispensings[i] = fromRecalled(&reached[i])
		}
		if next != nil {
			response.NextPageToken, err = s.seal(ctx, req, asOf, string(next.Lot), decimal(next.Sequence), decimal(next.Line))
			if err != nil {
				return err
			}
		}
		if err := stream.Send(response); err != nil || next == nil {
			return err
		}
		if hasEnded(s.ending) {
			return fail(reasonShuttingDown, "This node is shutting down; go on at another one, with the last page token.")
		}
		place, asked.from = next, txn.Place{Epoch: asOf.Epoch, Sequence: asOf.Sequence}
	}
}

// recalledLots are the lots that a request means.
func (s *pharmacyService) recalledLots(ctx context.Context, req *stockledgerv1.ListRecalledPatientsRequest) ([]ledger.LotID, error) {
	if req.GetRecallId() == "" {
		lot := ledger.LotID(req.GetLotId())
		_, _, err := s.queries.Lot(ctx, ledger.ClinicID(req.GetClinicId()), lot, txn.ReadOptions{})
		return []ledger.LotID{lot}, err
	}
	recall, _, _, err := findDocument[*ledger.Recall](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentRecall, req.GetRecallId(), txn.ReadOptions{})
	if err != nil {
		return nil, err
	}
	return recall.LotIDs, nil
}

func toRecalledPlace(key []string) (*txn.RecalledPlace, error) {
	if key[0] == "" {
		return nil, nil
	}
	sequence, err := strconv.ParseInt(key[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	line, err := strconv.Atoi(key[2])
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	return &txn.RecalledPlace{Lot: ledger.LotID(key[0]), Sequence: ledger.Sequence(sequence), Line: line}, nil
}

func fromRecalled(r *txn.RecalledDispensing) *stockledgerv1.RecalledDispensing {
	recalled := &stockledgerv1.RecalledDispensing{
		LotId: string(r.Lot), Quantity: r.Quantity, PatientId: string(r.Dispensing.PatientID), Sequence: int64(r.Sequence),
		Dispensing: fromDispensing(&ledger.Document{}, &r.Dispensing),
	}
	for _, lot := range r.Dispensing.Lots {
		if lot.Lot == r.Lot {
			recalled.Returned = lot.Returned
		}
	}
	if r.Dispensing.Status == ledger.DispensingCancelled {
		recalled.Returned = r.Quantity
	}
	return recalled
}
