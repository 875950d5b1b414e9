package rpc

import (
	"slices"
	"strings"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// toTransferBody reads the commands about transfers.
func toTransferBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_TransferStock:
		return toTransferStock(body.TransferStock)
	case *stockledgerv1.Command_ApproveTransfer:
		b := body.ApproveTransfer
		return &ledger.ApproveTransfer{TransferID: ledger.TransferID(b.GetTransferId()), Lines: toRequestedLines(b.GetLines())}, nil
	case *stockledgerv1.Command_RejectTransfer:
		b := body.RejectTransfer
		return &ledger.RejectTransfer{TransferID: ledger.TransferID(b.GetTransferId()), ReasonCode: b.GetReasonCode()}, nil
	case *stockledgerv1.Command_CancelTransfer:
		b := body.CancelTransfer
		return &ledger.CancelTransfer{TransferID: ledger.TransferID(b.GetTransferId()), ReasonCode: b.GetReasonCode()}, nil
	case *stockledgerv1.Command_DispatchTransfer:
		b := body.DispatchTransfer
		return &ledger.DispatchTransfer{
			TransferID: ledger.TransferID(b.GetTransferId()), Lines: toLotLines(b.GetLines()), Reference: b.GetReference(),
		}, nil
	case *stockledgerv1.Command_ReceiveTransfer:
		b := body.ReceiveTransfer
		return &ledger.ReceiveTransfer{
			TransferID: ledger.TransferID(b.GetTransferId()), Lines: toLotLines(b.GetLines()),
			ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
		}, nil
	case *stockledgerv1.Command_CompleteTransfer:
		b := body.CompleteTransfer
		return &ledger.CompleteTransfer{TransferID: ledger.TransferID(b.GetTransferId()), ReasonCode: b.GetReasonCode()}, nil
	}
	return toCountBody(c)
}

func toTransferStock(b *stockledgerv1.TransferStock) (ledger.CommandBody, *ledger.Rejection) {
	dispatchBy, r := toInstant("dispatch_by", b.GetDispatchBy())
	if r != nil {
		return nil, r
	}
	receiveBy, r := toInstant("receive_by", b.GetReceiveBy())
	return &ledger.TransferStock{
		From: ledger.LocationID(b.GetFromLocationId()), To: ledger.LocationID(b.GetToLocationId()),
		Lines: toRequestedLines(b.GetLines()), DispatchBy: dispatchBy, ReceiveBy: receiveBy,
		ReasonCode: b.GetReasonCode(), Reference: b.GetReference(),
	}, r
}

func toRequestedLines(lines []*stockledgerv1.RequestedLine) []ledger.RequestedLine {
	return each(lines, func(l *stockledgerv1.RequestedLine) ledger.RequestedLine {
		return ledger.RequestedLine{
			MedicineID: ledger.MedicineID(l.GetMedicineId()), LotID: ledger.LotID(l.GetLotId()), Quantity: l.GetQuantity(), Pack: l.GetPack(),
		}
	})
}

// toCountBody reads the commands about counts.
func toCountBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_StartCount:
		b := body.StartCount
		return &ledger.StartCount{
			LocationID: ledger.LocationID(b.GetLocationId()), Medicines: ids[ledger.MedicineID](b.GetMedicineIds()), Blind: b.GetBlind(),
		}, nil
	case *stockledgerv1.Command_RecordCount:
		b := body.RecordCount
		return &ledger.RecordCount{
			CountID: ledger.CountID(b.GetCountId()), LocationID: ledger.LocationID(b.GetLocationId()),
			Lines: each(b.GetLines(), toCountedLine), ReasonCode: b.GetReasonCode(),
		}, nil
	case *stockledgerv1.Command_CompleteCount:
		b := body.CompleteCount
		return &ledger.CompleteCount{CountID: ledger.CountID(b.GetCountId()), ReasonCode: b.GetReasonCode()}, nil
	case *stockledgerv1.Command_CancelCount:
		b := body.CancelCount
		return &ledger.CancelCount{CountID: ledger.CountID(b.GetCountId()), ReasonCode: b.GetReasonCode()}, nil
	}
	return toLoanBody(c)
}

func ids[T ~string](texts []string) []T {
	return each(texts, func(text string) T { return T(text) })
}

func toCountedLine(l *stockledgerv1.CountedLine) ledger.CountedLine {
	return ledger.CountedLine{
		LotID: ledger.LotID(l.GetLotId()), Counted: l.GetCounted(), Pack: l.GetPack(),
		Sequence: ledger.Sequence(l.GetSequence()), Quarantined: l.GetQuarantined(),
	}
}

// toLoanBody reads the commands about loans.
func toLoanBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_LendStock:
		return &ledger.LendStock{LoanMove: toLoanMove(body.LendStock)}, nil
	case *stockledgerv1.Command_BorrowStock:
		return &ledger.BorrowStock{LoanMove: toLoanMove(body.BorrowStock)}, nil
	case *stockledgerv1.Command_RepayLoan:
		return &ledger.RepayLoan{LoanMove: toLoanMove(body.RepayLoan)}, nil
	case *stockledgerv1.Command_ReceiveRepayment:
		return &ledger.ReceiveRepayment{LoanMove: toLoanMove(body.ReceiveRepayment)}, nil
	}
	return toSecondPersonBody(c)
}

// loanMove is what the four messages about loans have in common.
type loanMove interface {
	GetPartnerClinicId() string
	GetLocationId() string
	GetLotId() string
	GetQuantity() int64
	GetPack() string
	GetReference() string
	GetReasonCode() string
}

func toLoanMove(b loanMove) ledger.LoanMove {
	return ledger.LoanMove{
		Partner: ledger.ClinicID(b.GetPartnerClinicId()), LocationID: ledger.LocationID(b.GetLocationId()), LotID: ledger.LotID(b.GetLotId()),
		Quantity: b.GetQuantity(), Pack: b.GetPack(), Reference: b.GetReference(), ReasonCode: b.GetReasonCode(),
	}
}

// loanReference is the reference in the core's id of a loan.
func loanReference(id string) string {
	_, reference, _ := strings.Cut(id, referenceBar)
	return reference
}

// toSecondPersonBody reads the commands of second persons.
func toSecondPersonBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_ApproveCommand:
		return &ledger.ApproveCommand{ApprovalID: ledger.ApprovalID(body.ApproveCommand.GetApprovalId())}, nil
	case *stockledgerv1.Command_RejectCommand:
		b := body.RejectCommand
		return &ledger.RejectCommand{ApprovalID: ledger.ApprovalID(b.GetApprovalId()), ReasonCode: b.GetReasonCode()}, nil
	case *stockledgerv1.Command_LapseCommand:
		return &ledger.LapseCommand{ApprovalID: ledger.ApprovalID(body.LapseCommand.GetApprovalId())}, nil
	}
	return toSettingBody(c)
}

// toSettingBody reads the commands that say how things are to be.
func toSettingBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_SetPacks:
		b := body.SetPacks
		return &ledger.SetPacks{
			MedicineID: ledger.MedicineID(b.GetMedicineId()), Etag: b.GetEtag(),
			Packs: each(b.GetPacks(), func(p *stockledgerv1.Pack) ledger.Pack {
				return ledger.Pack{Name: p.GetName(), Factor: p.GetFactor(), GTIN: p.GetGtin()}
			}),
		}, nil
	case *stockledgerv1.Command_AddIdentifier:
		b := body.AddIdentifier
		return &ledger.AddIdentifier{
			Subject: toSubject(b.GetSubject()), SubjectID: b.GetSubjectId(), System: b.GetSystem(), Value: b.GetValue(),
		}, nil
	case *stockledgerv1.Command_RemoveIdentifier:
		b := body.RemoveIdentifier
		return &ledger.RemoveIdentifier{
			Subject: toSubject(b.GetSubject()), System: b.GetSystem(), Value: b.GetValue(), ReasonCode: b.GetReasonCode(),
		}, nil
	case *stockledgerv1.Command_UpdateStockLevels:
		b := body.UpdateStockLevels
		return &ledger.UpdateStockLevels{
			LocationID: ledger.LocationID(b.GetLocationId()), MedicineID: ledger.MedicineID(b.GetMedicineId()),
			Min: b.GetMin(), Max: b.GetMax(), Reorder: b.GetReorder(), Etag: b.GetEtag(),
		}, nil
	case *stockledgerv1.Command_SetPolicy:
		return toSetPolicy(body.SetPolicy)
	}
	return toPharmacyBody(c)
}

func toSetPolicy(b *stockledgerv1.SetPolicy) (ledger.CommandBody, *ledger.Rejection) {
	policy := &ledger.SetPolicy{Etag: b.GetEtag(), Policy: ledger.Policy{
		ApprovalHours: b.GetApprovalHours(), ToleranceUnits: b.GetToleranceUnits(), ToleranceBasisPoints: b.GetToleranceBasisPoints(),
		CountApproval: b.GetCountApproval(), Recount: b.GetRecount(),
	}}
	for i, rule := range b.GetRules() {
		command, ok := ledger.KindByName(rule.GetCommand())
		if !ok {
			return nil, invalidField("rules["+decimal(i)+"].command", "There is no command %q.", rule.GetCommand())
		}
		policy.Rules = append(policy.Rules, ledger.Rule{
			ControlClass: rule.GetControlClass(), Command: command, Above: rule.GetAbove(), Requires: toRequirement(rule.GetRequires()),
		})
	}
	for i, codes := range b.GetReasonCodes() {
		command, ok := ledger.KindByName(codes.GetCommand())
		if !ok {
			return nil, invalidField("reason_codes["+decimal(i)+"].command", "There is no command %q.", codes.GetCommand())
		}
		policy.ReasonCodes = append(policy.ReasonCodes, ledger.ReasonCodes{Command: command, Codes: slices.Clone(codes.GetCodes())})
	}
	return policy, nil
}

// unknownNumber is what the core refuses wherever it knows numbers: they are
// positive there.
const unknownNumber = -1

// toSubject returns a number that the core refuses for what it does not know.
func toSubject(subject stockledgerv1.IdentifierSubject) ledger.IdentifierSubject {
	if _, ok := stockledgerv1.IdentifierSubject_name[int32(subject)]; !ok || subject == 0 {
		return unknownNumber
	}
	return ledger.IdentifierSubject(subject)
}

// toRequirement returns a number that the core refuses for what it does not
// know.
func toRequirement(requirement stockledgerv1.Requirement) ledger.Requirement {
	if _, ok := stockledgerv1.Requirement_name[int32(requirement)]; !ok || requirement == 0 {
		return unknownNumber
	}
	return ledger.Requirement(requirement)
}
