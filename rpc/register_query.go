package rpc

import (
	"context"
	"fmt"
	"strconv"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetBalanceAt tells what one location held of one lot at a point of the
// journal.
func (s *queryService) GetBalanceAt(ctx context.Context, req *stockledgerv1.GetBalanceAtRequest) (*stockledgerv1.GetBalanceAtResponse, error) {
	shelf := ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())}
	balances, asOf, err := s.balanceAt(ctx, req, shelf)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetBalanceAtResponse{Balances: fromBalances(balances), AsOf: fromAsOf(asOf)}, unchanged(ctx, asOf)
}

// balanceAt reads a balance at a sequence, or at a time.
func (s *queryService) balanceAt(ctx context.Context, req *stockledgerv1.GetBalanceAtRequest, shelf ledger.Shelf) (ledger.Balances, txn.AsOf, error) {
	clinic, lot, options := ledger.ClinicID(req.GetClinicId()), ledger.LotID(req.GetLotId()), readOptions(req.GetRead(), txn.Strong)
	if req.GetSequence() > 0 {
		return s.queries.BalanceAt(ctx, clinic, shelf, lot, ledger.Sequence(req.GetSequence()), options)
	}
	byOccurrence := req.GetOccurredAt() != nil
	field, stamp := "recorded_at", req.GetRecordedAt()
	if byOccurrence {
		field, stamp = "occurred_at", req.GetOccurredAt()
	}
	at, r := toInstant(field, stamp)
	if r != nil {
		return ledger.Balances{}, txn.AsOf{}, r
	}
	return s.queries.BalanceAtTime(ctx, clinic, shelf, lot, at, byOccurrence, options)
}

// ControlledRegister tells what went in and out of one location of one medicine.
func (s *queryService) ControlledRegister(ctx context.Context, req *stockledgerv1.ControlledRegisterRequest) (*stockledgerv1.ControlledRegisterResponse, error) {
	page, err := s.open(ctx, req, 3)
	if err != nil {
		return nil, err
	}
	after, err := toRegisterPlace(page.key)
	if err != nil {
		return nil, err
	}
	filter := txn.RegisterFilter{Shelf: ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())}}
	var r *ledger.Rejection
	if filter.From, r = toInstant("from", req.GetFrom()); r != nil {
		return nil, r
	}
	if filter.To, r = toInstant("to", req.GetTo()); r != nil {
		return nil, r
	}
	lines, next, asOf, err := s.queries.Register(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, page.size, page.options(txn.Strong))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ControlledRegisterResponse{Lines: make([]*stockledgerv1.RegisterLine, len(lines)), AsOf: fromAsOf(asOf)}
	for i := range lines {
		line := &lines[i]
		response.Lines[i] = &stockledgerv1.RegisterLine{
			Movement: fromMovement(&line.Movement), Opening: line.Opening, In: line.In, Out: line.Out, Balance: line.Balance,
		}
	}
	if next != nil {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, decimal(next.Sequence), decimal(next.Line), decimal(next.Balance)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

func toRegisterPlace(key []string) (*txn.RegisterPlace, error) {
	movement, err := toMovementKey(key[:2])
	if err != nil || movement == nil {
		return nil, err
	}
	balance, err := strconv.ParseInt(key[2], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	return &txn.RegisterPlace{MovementKey: *movement, Balance: balance}, nil
}
