package rpc

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/type/date"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/ledger/gs1"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// ListIdentifiers lists a clinic's identifiers.
func (s *catalogService) ListIdentifiers(ctx context.Context, req *stockledgerv1.ListIdentifiersRequest) (*stockledgerv1.ListIdentifiersResponse, error) {
	p, subject := principalOf(ctx), ledger.IdentifierSubject(req.GetSubject())
	shows := func(body ledger.DocumentBody) bool {
		i, ok := body.(*ledger.Identifier)
		return ok && p.seesIdentifier(i) &&
			(subject == 0 || i.Subject == subject) && (req.GetSubjectId() == "" || i.SubjectID == req.GetSubjectId())
	}
	filter := txn.DocumentFilter{Kind: ledger.DocumentIdentifier, OpenOnly: true}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, shows)
	if err != nil {
		return nil, err
	}
	identifiers := rendered(page.documents, func(_ *ledger.Document, i *ledger.Identifier) *stockledgerv1.Identifier { return fromIdentifier(i) })
	return &stockledgerv1.ListIdentifiersResponse{Identifiers: identifiers, NextPageToken: page.token, AsOf: fromAsOf(page.asOf)}, unchanged(ctx, page.asOf)
}

// seesIdentifier keeps the names of other locations from a principal who does
// not see the locations.
func (p *Principal) seesIdentifier(i *ledger.Identifier) bool {
	return i.Subject != ledger.SubjectLocation || p.reachesLocation(ledger.LocationID(i.SubjectID))
}

func fromIdentifier(i *ledger.Identifier) *stockledgerv1.Identifier {
	return &stockledgerv1.Identifier{
		Subject: stockledgerv1.IdentifierSubject(i.Subject), SubjectId: i.SubjectID, System: i.System, Value: i.Value,
	}
}

// LookUpIdentifier finds what another system's name stands for.
func (s *catalogService) LookUpIdentifier(ctx context.Context, req *stockledgerv1.LookUpIdentifierRequest) (*stockledgerv1.LookUpIdentifierResponse, error) {
	subjects := []ledger.IdentifierSubject{ledger.SubjectMedicine, ledger.SubjectLot, ledger.SubjectLocation, ledger.SubjectSupplier}
	if req.GetSubject() != 0 {
		subjects = []ledger.IdentifierSubject{ledger.IdentifierSubject(req.GetSubject())}
	}
	find, options := finder{s.queries}, readOptions(req.GetRead(), txn.Strong)
	for _, subject := range subjects {
		found, asOf, err := find.identifier(ctx, ledger.ClinicID(req.GetClinicId()), subject, req.GetSystem(), req.GetValue(), options)
		if err != nil {
			return nil, err
		}
		if found != nil && principalOf(ctx).seesIdentifier(found) {
			return &stockledgerv1.LookUpIdentifierResponse{Identifier: fromIdentifier(found), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
		}
	}
	return nil, &ledger.Rejection{
		Reason: ledger.ReasonIdentifierNotFound, Field: "value",
		Message:  fmt.Sprintf("Nothing of clinic %q has the identifier %s %s.", req.GetClinicId(), req.GetSystem(), req.GetValue()),
		Metadata: map[string]string{"system": req.GetSystem(), "value": req.GetValue()},
	}
}

// ParseScan reads what a scanner read off a pack.
func (s *catalogService) ParseScan(ctx context.Context, req *stockledgerv1.ParseScanRequest) (*stockledgerv1.ParseScanResponse, error) {
	clinic := ledger.ClinicID(req.GetClinicId())
	_, asOf, err := s.queries.Clinic(ctx, clinic, readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	found, err := finder{s.queries}.scan(ctx, clinic, "scan", req.GetScan())
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ParseScanResponse{
		Sscc: found.SSCC, Gtin: found.Item(), Packs: found.Units(), LotNumber: found.Lot, Serial: found.Serial,
		Produced: fromScanDate(found.Produced), Expiry: fromScanDate(found.Expiry),
		MedicineId: string(found.medicine), Pack: found.pack.Name, LotId: string(found.lotID()),
		ContradictsLot: found.contradicts(), AsOf: fromAsOf(asOf),
	}
	if found.pack.Factor != 0 && found.Units() <= ledger.MaxQuantity/found.pack.Factor {
		response.BaseUnits = found.Units() * found.pack.Factor
	}
	return response, unchanged(ctx, asOf)
}

func fromScanDate(d gs1.Date) *date.Date {
	if d.IsZero() {
		return nil
	}
	return &date.Date{Year: int32(d.Year), Month: int32(d.Month), Day: int32(d.Day)}
}
