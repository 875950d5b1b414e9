package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetClinic reads a clinic.
func (s *catalogService) GetClinic(ctx context.Context, req *stockledgerv1.GetClinicRequest) (*stockledgerv1.GetClinicResponse, error) {
	id := ledger.ClinicID(req.GetClinicId())
	clinic, asOf, err := s.queries.Clinic(ctx, id, readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetClinicResponse{Clinic: fromClinic(id, clinic), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

func fromClinic(id ledger.ClinicID, c ledger.Clinic) *stockledgerv1.Clinic {
	return &stockledgerv1.Clinic{
		ClinicId: string(id), Name: c.Name, TimeZone: c.TimeZone, BackdatingDays: c.BackdatingDays,
		Active: c.Active, Etag: ledger.Etag(c.LastSequence),
	}
}

// ListClinics lists the clinics that the caller's token names.
func (s *catalogService) ListClinics(ctx context.Context, req *stockledgerv1.ListClinicsRequest) (*stockledgerv1.ListClinicsResponse, error) {
	page, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	ids := append([]ledger.ClinicID{}, p.Clinics...) // never nil, which would mean all
	if p.reaches(AllClinics) {
		ids = nil
	}
	clinics, more, err := s.queries.ListClinics(ctx, ids, ledger.ClinicID(page.key[0]), page.size)
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListClinicsResponse{Clinics: make([]*stockledgerv1.Clinic, len(clinics))}
	for i, c := range clinics {
		response.Clinics[i] = fromClinic(c.ID, c.Clinic)
	}
	if more {
		response.NextPageToken, err = s.seal(ctx, req, txn.AsOf{}, string(clinics[len(clinics)-1].ID))
	}
	return response, err
}

// GetLocation reads a location.
func (s *catalogService) GetLocation(ctx context.Context, req *stockledgerv1.GetLocationRequest) (*stockledgerv1.GetLocationResponse, error) {
	location, asOf, err := s.queries.Location(ctx, ledger.ClinicID(req.GetClinicId()), ledger.LocationID(req.GetLocationId()), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetLocationResponse{Location: fromLocation(location), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

func fromLocation(l ledger.Location) *stockledgerv1.Location {
	return &stockledgerv1.Location{
		LocationId: string(l.ID), Name: l.Name, Kind: fromLocationKind(l.Kind), Active: l.Active, Etag: ledger.Etag(l.LastSequence),
	}
}

func fromLocationKind(kind ledger.LocationKind) stockledgerv1.LocationKind {
	return stockledgerv1.LocationKind(kind)
}

// ListLocations lists a clinic's locations.
func (s *catalogService) ListLocations(ctx context.Context, req *stockledgerv1.ListLocationsRequest) (*stockledgerv1.ListLocationsResponse, error) {
	page, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	locations, more, asOf, err := s.queries.ListLocations(ctx, ledger.ClinicID(req.GetClinicId()), only(ctx), ledger.LocationID(page.key[0]), page.size, page.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListLocationsResponse{Locations: make([]*stockledgerv1.Location, len(locations)), AsOf: fromAsOf(asOf)}
	for i, l := range locations {
		response.Locations[i] = fromLocation(l)
	}
	if more {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(locations[len(locations)-1].ID)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

// GetMedicine reads a medicine.
func (s *catalogService) GetMedicine(ctx context.Context, req *stockledgerv1.GetMedicineRequest) (*stockledgerv1.GetMedicineResponse, error) {
	medicine, asOf, err := s.queries.Medicine(ctx, ledger.ClinicID(req.GetClinicId()), ledger.MedicineID(req.GetMedicineId()), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetMedicineResponse{Medicine: fromMedicine(medicine), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

func fromMedicine(m ledger.Medicine) *stockledgerv1.Medicine {
	return &stockledgerv1.Medicine{
		MedicineId: string(m.ID), Name: m.Name, BaseUnit: m.BaseUnit, Strength: m.Strength, Form: m.Form,
		AtcCode: m.ATCCode, Category: m.Category, Active: m.Active, Etag: ledger.Etag(m.LastSequence),
		ControlClass: m.ControlClass,
	}
}

// ListMedicines lists a clinic's medicines.
func (s *catalogService) ListMedicines(ctx context.Context, req *stockledgerv1.ListMedicinesRequest) (*stockledgerv1.ListMedicinesResponse, error) {
	page, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	medicines, more, asOf, err := s.queries.ListMedicines(ctx, ledger.ClinicID(req.GetClinicId()), req.GetNameContains(), ledger.MedicineID(page.key[0]), page.size, page.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListMedicinesResponse{Medicines: make([]*stockledgerv1.Medicine, len(medicines)), AsOf: fromAsOf(asOf)}
	for i, m := range medicines {
		response.Medicines[i] = fromMedicine(m)
	}
	if more {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(medicines[len(medicines)-1].ID)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

// GetLot reads a lot.
func (s *catalogService) GetLot(ctx context.Context, req *stockledgerv1.GetLotRequest) (*stockledgerv1.GetLotResponse, error) {
	lot, asOf, err := s.queries.Lot(ctx, ledger.ClinicID(req.GetClinicId()), ledger.LotID(req.GetLotId()), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetLotResponse{Lot: fromLot(lot), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

func fromLot(l ledger.Lot) *stockledgerv1.Lot {
	return &stockledgerv1.Lot{
		LotId: string(l.ID), MedicineId: string(l.Medicine), Manufacturer: l.Manufacturer, Gtin: l.GTIN,
		LotNumber: l.LotNumber, Expiry: fromDate(l.Expiry), Active: l.Active, Etag: ledger.Etag(l.LastSequence),
		Bar: fromBar(l.Bar), RecallId: string(l.RecallID), ParentLotIds: each(l.Parents, func(id ledger.LotID) string { return string(id) }),
	}
}

// ListLots lists a clinic's lots.
func (s *catalogService) ListLots(ctx context.Context, req *stockledgerv1.ListLotsRequest) (*stockledgerv1.ListLotsResponse, error) {
	page, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	lots, more, asOf, err := s.queries.ListLots(ctx, ledger.ClinicID(req.GetClinicId()), ledger.MedicineID(req.GetMedicineId()), ledger.LotID(page.key[0]), page.size, page.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListLotsResponse{Lots: make([]*stockledgerv1.Lot, len(lots)), AsOf: fromAsOf(asOf)}
	for i, l := range lots {
		response.Lots[i] = fromLot(l)
	}
	if more {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(lots[len(lots)-1].ID)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}
