package rpc

import (
	"context"
	"strings"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// pharmacyService serves what a pharmacist does. Its queries stand in the files
// of what they show.
type pharmacyService struct {
	// Answers for methods that this release does not serve.
	stockledgerv1connect.UnimplementedPharmacyServiceHandler

	*commandHandler
	*queryHandler
}

var _ stockledgerv1connect.PharmacyServiceHandler = (*pharmacyService)(nil)

// noStore keeps answers about patients out of every cache: those of the
// pharmacy's methods that do not declare that they may be sent by GET.
func noStore(next connect.ServerFunc) connect.ServerFunc {
	const pharmacy = "/" + stockledgerv1connect.PharmacyServiceName + "/"
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		if strings.HasPrefix(spec.Procedure, pharmacy) && spec.IdempotencyLevel != connect.IdempotencyNoSideEffects {
			if info, ok := connect.CallInfoForServerContext(ctx); ok {
				info.ResponseHeader().Set("Cache-Control", "no-store")
			}
		}
		return next(ctx, spec, stream)
	}
}

// CreatePrescription records what a prescriber ordered for a patient.
func (s *pharmacyService) CreatePrescription(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCreatePrescription)
}

// CancelPrescription ends a prescription.
func (s *pharmacyService) CancelPrescription(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCancelPrescription)
}

// DispenseMedicine gives a medicine to a patient in one step.
func (s *pharmacyService) DispenseMedicine(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindDispenseMedicine)
}

// PrepareDispensing lays a medicine ready for a patient.
func (s *pharmacyService) PrepareDispensing(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindPrepareDispensing)
}

// CheckDispensing confirms that what lies ready is what was prescribed.
func (s *pharmacyService) CheckDispensing(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCheckDispensing)
}

// HandOver gives a patient what lies ready.
func (s *pharmacyService) HandOver(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindHandOver)
}

// CancelDispensing takes a dispensing back.
func (s *pharmacyService) CancelDispensing(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCancelDispensing)
}

// ReturnFromPatient takes units back that a patient had.
func (s *pharmacyService) ReturnFromPatient(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReturnFromPatient)
}

// RecordDowntime records what was done while the ledger could not be reached.
func (s *pharmacyService) RecordDowntime(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRecordDowntime)
}

// SetPrescriptionTemplate makes a template for prescriptions, or replaces it.
func (s *pharmacyService) SetPrescriptionTemplate(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindSetPrescriptionTemplate)
}

// RemovePrescriptionTemplate removes a template for prescriptions.
func (s *pharmacyService) RemovePrescriptionTemplate(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRemovePrescriptionTemplate)
}

// RegisterPatient makes a patient known by a token.
func (s *pharmacyService) RegisterPatient(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRegisterPatient)
}

// UpdatePatient replaces what is kept of a patient's identity.
func (s *pharmacyService) UpdatePatient(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindUpdatePatient)
}

// ErasePatient destroys what is kept of a patient.
func (s *pharmacyService) ErasePatient(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindErasePatient)
}

// PlaceLegalHold forbids to erase a patient.
func (s *pharmacyService) PlaceLegalHold(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindPlaceLegalHold)
}

// LiftLegalHold allows again to erase a patient.
func (s *pharmacyService) LiftLegalHold(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindLiftLegalHold)
}
