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
// journal, or what another account of the lot came to.
func (h *queryHandler) GetBalanceAt(ctx context.Context, req *stockledgerv1.GetBalanceAtRequest) (*stockledgerv1.GetBalanceAtResponse, error) {
	at := balanceQuestion{
		clinic:  ledger.ClinicID(req.GetClinicId()),
		shelf:   ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())},
		lot:     ledger.LotID(req.GetLotId()),
		bucket:  ledger.Bucket(req.GetBucket()),
		options: readOptions(req.GetRead(), txn.Strong), sequence: ledger.Sequence(req.GetSequence()),
	}
	if at.sequence == 0 {
		at.byOccurrence = req.GetOccurredAt() != nil
		field, stamp := "recorded_at", req.GetRecordedAt()
		if at.byOccurrence {
			field, stamp = "occurred_at", req.GetOccurredAt()
		}
		var r *ledger.Rejection
		if at.moment, r = toInstant(field, stamp); r != nil {
			return nil, r
		}
	}
	response := &stockledgerv1.GetBalanceAtResponse{}
	var asOf txn.AsOf
	var err error
	if at.bucket == 0 || at.bucket.Held() {
		var balances ledger.Balances
		balances, asOf, err = h.balances(ctx, at)
		response.Balances, response.Balance = fromBalances(balances), balances.Of(at.bucket)
	} else {
		response.Balance, asOf, err = h.queries.FlowAt(ctx, at.clinic, at.shelf, at.lot, at.bucket, at.sequence, at.moment, at.byOccurrence, at.options)
	}
	if err != nil {
		return nil, err
	}
	response.AsOf = fromAsOf(asOf)
	return response, unchanged(ctx, asOf)
}

// balanceQuestion asks for a balance at a sequence or, where that is 0, at a
// moment.
type balanceQuestion struct {
	clinic       ledger.ClinicID
	shelf        ledger.Shelf
	lot          ledger.LotID
	bucket       ledger.Bucket
	sequence     ledger.Sequence
	moment       ledger.Instant
	byOccurrence bool
	options      txn.ReadOptions
}

func (h *queryHandler) balances(ctx context.Context, at balanceQuestion) (ledger.Balances, txn.AsOf, error) {
	if at.sequence > 0 {
		return h.queries.BalanceAt(ctx, at.clinic, at.shelf, at.lot, at.sequence, at.options)
	}
	return h.queries.BalanceAtTime(ctx, at.clinic, at.shelf, at.lot, at.moment, at.byOccurrence, at.options)
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
