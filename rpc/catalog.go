package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// catalogService serves the commands on documents; catalog_query.go has its queries.
type catalogService struct {
	*commandHandler
	*queryHandler
}

var _ stockledgerv1connect.CatalogServiceHandler = (*catalogService)(nil)

// CreateClinic begins a clinic.
func (s *catalogService) CreateClinic(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCreateClinic)
}

// UpdateClinic changes a clinic.
func (s *catalogService) UpdateClinic(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindUpdateClinic)
}

// DeactivateClinic ends a clinic.
func (s *catalogService) DeactivateClinic(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindDeactivateClinic)
}

// CreateLocation adds a location.
func (s *catalogService) CreateLocation(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCreateLocation)
}

// UpdateLocation changes a location.
func (s *catalogService) UpdateLocation(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindUpdateLocation)
}

// DeactivateLocation ends a location.
func (s *catalogService) DeactivateLocation(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindDeactivateLocation)
}

// AddMedicine adds a medicine.
func (s *catalogService) AddMedicine(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindAddMedicine)
}

// UpdateMedicine changes a medicine.
func (s *catalogService) UpdateMedicine(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindUpdateMedicine)
}

// DeactivateMedicine ends a medicine.
func (s *catalogService) DeactivateMedicine(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindDeactivateMedicine)
}

// RegisterLot adds a lot.
func (s *catalogService) RegisterLot(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRegisterLot)
}

// UpdateLot changes a lot.
func (s *catalogService) UpdateLot(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindUpdateLot)
}

// DeactivateLot ends a lot.
func (s *catalogService) DeactivateLot(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindDeactivateLot)
}

// SetPacks says how a medicine is packed.
func (s *catalogService) SetPacks(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindSetPacks)
}

// AddIdentifier makes another system's name for something known.
func (s *catalogService) AddIdentifier(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindAddIdentifier)
}

// RemoveIdentifier forgets another system's name.
func (s *catalogService) RemoveIdentifier(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRemoveIdentifier)
}

// SetPolicy replaces the clinic's policy.
func (s *catalogService) SetPolicy(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindSetPolicy)
}

// SetPrice says what a medicine costs from a day on.
func (s *catalogService) SetPrice(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindSetPrice)
}

// SetControlLimit says what the law allows for a control class.
func (s *catalogService) SetControlLimit(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindSetControlLimit)
}
