package rpc

import (
	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

func toStockBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_ReceiveStock:
		b := body.ReceiveStock
		return &ledger.ReceiveStock{
			LocationID: ledger.LocationID(b.GetLocationId()), LotID: ledger.LotID(b.GetLotId()),
			Quantity: b.GetQuantity(), Supplier: b.GetSupplier(), Reference: b.GetReference(), Pack: b.GetPack(),
		}, nil
	case *stockledgerv1.Command_ReverseReceipt:
		b := body.ReverseReceipt
		return &ledger.ReverseReceipt{
			Sequence: ledger.Sequence(b.GetSequence()), Quantity: b.GetQuantity(), ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
		}, nil
	case *stockledgerv1.Command_ReserveStock:
		return toReserveStock(body.ReserveStock)
	case *stockledgerv1.Command_ReleaseStock:
		b := body.ReleaseStock
		return &ledger.ReleaseStock{
			HoldID: ledger.HoldID(b.GetHoldId()), Quantity: b.GetQuantity(), ReasonCode: b.GetReasonCode(),
		}, nil
	case *stockledgerv1.Command_ExpireReservation:
		return &ledger.ExpireReservation{HoldID: ledger.HoldID(body.ExpireReservation.GetHoldId())}, nil
	case *stockledgerv1.Command_IssueStock:
		b := body.IssueStock
		return &ledger.IssueStock{
			HoldID: ledger.HoldID(b.GetHoldId()), LocationID: ledger.LocationID(b.GetLocationId()),
			MedicineID: ledger.MedicineID(b.GetMedicineId()), LotID: ledger.LotID(b.GetLotId()),
			Quantity: b.GetQuantity(), Recipient: b.GetRecipient(), ReasonCode: b.GetReasonCode(), Pack: b.GetPack(),
		}, nil
	case *stockledgerv1.Command_AdjustStock:
		b := body.AdjustStock
		return &ledger.AdjustStock{
			LocationID: ledger.LocationID(b.GetLocationId()), LotID: ledger.LotID(b.GetLotId()),
			Direction: toDirection(b.GetDirection()), Quantity: b.GetQuantity(), ReasonCode: b.GetReasonCode(), Pack: b.GetPack(),
		}, nil
	case *stockledgerv1.Command_WriteOffStock:
		b := body.WriteOffStock
		return &ledger.WriteOffStock{
			LocationID: ledger.LocationID(b.GetLocationId()), LotID: ledger.LotID(b.GetLotId()),
			Quantity: b.GetQuantity(), ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
			FromQuarantine: b.GetFromQuarantine(), Pack: b.GetPack(),
		}, nil
	case *stockledgerv1.Command_ReturnToSupplier:
		b := body.ReturnToSupplier
		return &ledger.ReturnToSupplier{
			LocationID: ledger.LocationID(b.GetLocationId()), LotID: ledger.LotID(b.GetLotId()),
			Quantity: b.GetQuantity(), ReasonCode: b.GetReasonCode(), Supplier: b.GetSupplier(), Reference: b.GetReference(),
			FromQuarantine: b.GetFromQuarantine(), Pack: b.GetPack(),
		}, nil
	}
	return toLotBody(c)
}

func toReserveStock(b *stockledgerv1.ReserveStock) (ledger.CommandBody, *ledger.Rejection) {
	deadline, r := toInstant("deadline", b.GetDeadline())
	if r != nil {
		return nil, r
	}
	lastsUntil, r := toDate("lasts_until", b.GetLastsUntil())
	if r != nil {
		return nil, r
	}
	return &ledger.ReserveStock{
		LocationID: ledger.LocationID(b.GetLocationId()), MedicineID: ledger.MedicineID(b.GetMedicineId()),
		LotID: ledger.LotID(b.GetLotId()), Quantity: b.GetQuantity(), ReasonCode: b.GetReasonCode(),
		Deadline: deadline, LastsUntil: lastsUntil, Pack: b.GetPack(),
	}, nil
}

// toLotBody reads the commands that bar lots or make new ones.
func toLotBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_ConvertStock:
		return toConvertStock(body.ConvertStock)
	case *stockledgerv1.Command_OpenContainer:
		b := body.OpenContainer
		inUseUntil, r := toDate("in_use_until", b.GetInUseUntil())
		return &ledger.OpenContainer{
			LocationID: ledger.LocationID(b.GetLocationId()), LotID: ledger.LotID(b.GetLotId()),
			Quantity: b.GetQuantity(), Pack: b.GetPack(), InUseUntil: inUseUntil, ReasonCode: b.GetReasonCode(),
		}, r
	case *stockledgerv1.Command_QuarantineLot:
		b := body.QuarantineLot
		return &ledger.QuarantineLot{
			LotID: ledger.LotID(b.GetLotId()), LocationID: ledger.LocationID(b.GetLocationId()),
			Quantity: b.GetQuantity(), Pack: b.GetPack(), ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
		}, nil
	case *stockledgerv1.Command_ReleaseLot:
		b := body.ReleaseLot
		return &ledger.ReleaseLot{
			LotID: ledger.LotID(b.GetLotId()), LocationID: ledger.LocationID(b.GetLocationId()),
			Quantity: b.GetQuantity(), Pack: b.GetPack(), ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
		}, nil
	case *stockledgerv1.Command_RecallLot:
		b := body.RecallLot
		return &ledger.RecallLot{
			LotID: ledger.LotID(b.GetLotId()), GTIN: b.GetGtin(), Manufacturer: b.GetManufacturer(), LotNumber: b.GetLotNumber(),
			ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
		}, nil
	case *stockledgerv1.Command_ContinueRecall:
		return &ledger.ContinueRecall{
			RecallID: ledger.RecallID(body.ContinueRecall.GetRecallId()), Step: body.ContinueRecall.GetStep(),
		}, nil
	case *stockledgerv1.Command_LiftRecall:
		b := body.LiftRecall
		return &ledger.LiftRecall{
			RecallID: ledger.RecallID(b.GetRecallId()), ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
		}, nil
	}
	return toTransferBody(c)
}

func toConvertStock(b *stockledgerv1.ConvertStock) (ledger.CommandBody, *ledger.Rejection) {
	expiry, r := toDate("expiry", b.GetExpiry())
	return &ledger.ConvertStock{
		LocationID: ledger.LocationID(b.GetLocationId()), Inputs: toLotLines(b.GetLines()),
		MedicineID: ledger.MedicineID(b.GetMedicineId()), LotID: ledger.LotID(b.GetLotId()), LotNumber: b.GetLotNumber(),
		Manufacturer: b.GetManufacturer(), Expiry: expiry, Quantity: b.GetQuantity(), Pack: b.GetPack(),
		ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
	}, r
}

func toLotLines(lines []*stockledgerv1.LotLine) []ledger.LotLine {
	return each(lines, func(l *stockledgerv1.LotLine) ledger.LotLine {
		return ledger.LotLine{LotID: ledger.LotID(l.GetLotId()), Quantity: l.GetQuantity(), Pack: l.GetPack(), Quarantine: l.GetQuarantine()}
	})
}

// each converts a list, nil for an empty one.
func each[From, To any](list []From, convert func(From) To) []To {
	if len(list) == 0 {
		return nil
	}
	converted := make([]To, len(list))
	for i, item := range list {
		converted[i] = convert(item)
	}
	return converted
}
