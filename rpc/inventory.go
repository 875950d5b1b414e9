package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// inventoryService serves the commands on stock.
type inventoryService struct{ *commandHandler }

var _ stockledgerv1connect.InventoryServiceHandler = (*inventoryService)(nil)

// ReceiveStock takes units in from a supplier.
func (s *inventoryService) ReceiveStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReceiveStock)
}

// ReserveStock holds units until a deadline.
func (s *inventoryService) ReserveStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReserveStock)
}

// ReleaseStock gives up a hold, or a part of it.
func (s *inventoryService) ReleaseStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReleaseStock)
}

// ExpireReservation gives up a hold whose deadline has passed.
func (s *inventoryService) ExpireReservation(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindExpireReservation)
}

// IssueStock uses units without a patient.
func (s *inventoryService) IssueStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindIssueStock)
}

// WriteOffStock takes units of a lot out as wasted.
func (s *inventoryService) WriteOffStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindWriteOffStock)
}

// ReturnToSupplier gives units of a lot back to the supplier.
func (s *inventoryService) ReturnToSupplier(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReturnToSupplier)
}

// AdjustStock corrects the available units of a lot.
func (s *inventoryService) AdjustStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindAdjustStock)
}

// ExecuteBatch carries out many commands and answers with a verdict for each.
func (s *inventoryService) ExecuteBatch(ctx context.Context, req *stockledgerv1.ExecuteBatchRequest) (*stockledgerv1.ExecuteBatchResponse, error) {
	response := &stockledgerv1.ExecuteBatchResponse{
		Results: make([]*stockledgerv1.CommandResult, 0, len(req.GetCommands())),
	}
	err := s.batch(ctx, req, func(_ int, results []*stockledgerv1.CommandResult) error {
		response.Results = append(response.Results, results...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

// StreamBatch is ExecuteBatch with the verdicts sent as they are known.
func (s *inventoryService) StreamBatch(
	ctx context.Context, req *stockledgerv1.ExecuteBatchRequest, stream stockledgerv1connect.InventoryServiceStreamBatchServerStream,
) error {
	return s.batch(ctx, req, func(first int, results []*stockledgerv1.CommandResult) error {
		return stream.Send(&stockledgerv1.StreamBatchResponse{FirstIndex: int32(first), Results: results})
	})
}
