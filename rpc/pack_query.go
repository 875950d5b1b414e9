package rpc

import (
	"context"
	"fmt"
	"strings"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// packsOf reads how a medicine is packed. The document has the sequence 0 where
// that was never said.
func (s *catalogService) packsOf(ctx context.Context, clinic, medicine string, o txn.ReadOptions) (ledger.Medicine, *ledger.Document, *ledger.Packs, txn.AsOf, error) {
	id := ledger.ClinicID(clinic)
	item, _, err := s.queries.Medicine(ctx, id, ledger.MedicineID(medicine), o)
	if err != nil {
		return item, nil, nil, txn.AsOf{}, err
	}
	packs := &ledger.Packs{MedicineID: item.ID}
	document, asOf, err := s.queries.Document(ctx, id, packs.About().DocumentKey, o)
	if err != nil {
		return item, nil, nil, asOf, err
	}
	if document == nil {
		document = &ledger.Document{Body: packs}
	}
	if found, ok := document.Body.(*ledger.Packs); ok {
		packs = found
	}
	return item, document, packs, asOf, nil
}

// GetPacks reads how a medicine is packed.
func (s *catalogService) GetPacks(ctx context.Context, req *stockledgerv1.GetPacksRequest) (*stockledgerv1.GetPacksResponse, error) {
	medicine, document, packs, asOf, err := s.packsOf(ctx, req.GetClinicId(), req.GetMedicineId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetPacksResponse{
		MedicineId: string(medicine.ID), BaseUnit: medicine.BaseUnit, Etag: ledger.Etag(document.LastSequence),
		Packs: each(packs.Packs, func(p ledger.Pack) *stockledgerv1.Pack {
			return &stockledgerv1.Pack{Name: p.Name, Factor: p.Factor, Gtin: p.GTIN}
		}),
		AsOf: fromAsOf(asOf),
	}, unchanged(ctx, asOf)
}

// ConvertQuantity converts a quantity between base units and packs.
func (s *catalogService) ConvertQuantity(ctx context.Context, req *stockledgerv1.ConvertQuantityRequest) (*stockledgerv1.ConvertQuantityResponse, error) {
	_, _, packs, asOf, err := s.packsOf(ctx, req.GetClinicId(), req.GetMedicineId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	from, r := packFactor(packs, "from_pack", req.GetFromPack())
	if r != nil {
		return nil, r
	}
	to, r := packFactor(packs, "to_pack", req.GetToPack())
	if r != nil {
		return nil, r
	}
	if req.GetQuantity() > ledger.MaxQuantity/from {
		return nil, &ledger.Rejection{
			Reason: ledger.ReasonQuantityOutOfRange, Field: "quantity",
			Message: fmt.Sprintf("%d times %d base units exceed what a quantity can be.", req.GetQuantity(), from),
		}
	}
	units := req.GetQuantity() * from
	if rest := units % to; rest != 0 {
		return nil, fail(reasonNotExact, "%d base units are %d of %q and a rest of %d.", units, units/to, req.GetToPack(), rest).
			with("base_units", decimal(units)).with("pack", req.GetToPack()).with("factor", decimal(to)).with("rest", decimal(rest))
	}
	return &stockledgerv1.ConvertQuantityResponse{Quantity: units / to, BaseUnits: units, AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

// packFactor is how many base units a pack holds; a base unit holds one.
func packFactor(packs *ledger.Packs, field, name string) (int64, *ledger.Rejection) {
	if name == "" {
		return 1, nil
	}
	for _, pack := range packs.Packs {
		if strings.EqualFold(pack.Name, name) {
			return pack.Factor, nil
		}
	}
	return 0, &ledger.Rejection{
		Reason: ledger.ReasonPackNotFound, Field: field, Message: fmt.Sprintf("Medicine %q has no pack %q.", packs.MedicineID, name),
		Metadata: map[string]string{"medicine_id": string(packs.MedicineID), "pack": name},
	}
}
