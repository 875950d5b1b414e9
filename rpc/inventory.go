package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// inventoryService serves the commands on stock, and on what is about stock.
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

// ReverseReceipt takes back a receipt that was entered wrong.
func (s *inventoryService) ReverseReceipt(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReverseReceipt)
}

// UpdateStockLevels says how much of a medicine a location is to have.
func (s *inventoryService) UpdateStockLevels(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindUpdateStockLevels)
}

// StartCount begins to count a location.
func (s *inventoryService) StartCount(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindStartCount)
}

// RecordCount records what lies on a shelf.
func (s *inventoryService) RecordCount(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRecordCount)
}

// CompleteCount ends a count.
func (s *inventoryService) CompleteCount(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCompleteCount)
}

// CancelCount gives a count up.
func (s *inventoryService) CancelCount(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCancelCount)
}

// ConvertStock makes a lot out of others.
func (s *inventoryService) ConvertStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindConvertStock)
}

// OpenContainer sets units of a lot apart as opened.
func (s *inventoryService) OpenContainer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindOpenContainer)
}

// QuarantineLot bars a lot, or moves units of it to quarantine.
func (s *inventoryService) QuarantineLot(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindQuarantineLot)
}

// ReleaseLot lifts a quarantine.
func (s *inventoryService) ReleaseLot(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReleaseLot)
}

// RecallLot bars lots that are recalled.
func (s *inventoryService) RecallLot(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRecallLot)
}

// ContinueRecall takes the next step of a recall's follow-up.
func (s *inventoryService) ContinueRecall(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindContinueRecall)
}

// LiftRecall ends a recall.
func (s *inventoryService) LiftRecall(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindLiftRecall)
}

// TransferStock asks for stock to be moved.
func (s *inventoryService) TransferStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindTransferStock)
}

// ApproveTransfer reserves the units of a transfer.
func (s *inventoryService) ApproveTransfer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindApproveTransfer)
}

// RejectTransfer refuses a transfer.
func (s *inventoryService) RejectTransfer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRejectTransfer)
}

// CancelTransfer gives a transfer up.
func (s *inventoryService) CancelTransfer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCancelTransfer)
}

// DispatchTransfer sends the units of a transfer on their way.
func (s *inventoryService) DispatchTransfer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindDispatchTransfer)
}

// ReceiveTransfer takes the units of a transfer in.
func (s *inventoryService) ReceiveTransfer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReceiveTransfer)
}

// CompleteTransfer ends a transfer.
func (s *inventoryService) CompleteTransfer(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindCompleteTransfer)
}

// LendStock lends units to another clinic.
func (s *inventoryService) LendStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindLendStock)
}

// BorrowStock borrows units from another clinic.
func (s *inventoryService) BorrowStock(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindBorrowStock)
}

// RepayLoan gives borrowed units back.
func (s *inventoryService) RepayLoan(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRepayLoan)
}

// ReceiveRepayment takes in what a borrower gives back.
func (s *inventoryService) ReceiveRepayment(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindReceiveRepayment)
}

// ApproveCommand carries out a command that waits for a second person.
func (s *inventoryService) ApproveCommand(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindApproveCommand)
}

// RejectCommand refuses a command that waits for a second person.
func (s *inventoryService) RejectCommand(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindRejectCommand)
}

// LapseCommand ends a request whose time has run out.
func (s *inventoryService) LapseCommand(ctx context.Context, req *stockledgerv1.CommandRequest) (*stockledgerv1.CommandResponse, error) {
	return s.execute(ctx, req, ledger.KindLapseCommand)
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
		if err := stream.Send(&stockledgerv1.StreamBatchResponse{FirstIndex: int32(first), Results: results}); err != nil {
			return err
		}
		if hasEnded(s.ending) && first+len(results) < len(req.GetCommands()) {
			return fail(reasonShuttingDown, "This node is shutting down; send the commands without a verdict to another one.")
		}
		return nil
	})
}
