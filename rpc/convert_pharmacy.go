package rpc

import (
	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// toPharmacyBody reads the commands about prescriptions.
func toPharmacyBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_CreatePrescription:
		return toCreatePrescription(body.CreatePrescription)
	case *stockledgerv1.Command_CancelPrescription:
		b := body.CancelPrescription
		return &ledger.CancelPrescription{
			PrescriptionID: ledger.PrescriptionID(b.GetPrescriptionId()), ReasonCode: b.GetReasonCode(), Etag: b.GetEtag(),
		}, nil
	case *stockledgerv1.Command_SetPrescriptionTemplate:
		b := body.SetPrescriptionTemplate
		return &ledger.SetPrescriptionTemplate{
			TemplateID: ledger.TemplateID(b.GetTemplateId()), Name: b.GetName(), Lines: each(b.GetLines(), toTemplateLine), Etag: b.GetEtag(),
		}, nil
	case *stockledgerv1.Command_RemovePrescriptionTemplate:
		b := body.RemovePrescriptionTemplate
		return &ledger.RemovePrescriptionTemplate{TemplateID: ledger.TemplateID(b.GetTemplateId()), Etag: b.GetEtag()}, nil
	}
	return toDispensingBody(c)
}

// toCreatePrescription reads all but the private text: see [privateTexts].
func toCreatePrescription(b *stockledgerv1.CreatePrescription) (ledger.CommandBody, *ledger.Rejection) {
	validUntil, r := toDate("valid_until", b.GetValidUntil())
	if r != nil {
		return nil, r
	}
	holdUntil, r := toInstant("hold_until", b.GetHoldUntil())
	return &ledger.CreatePrescription{
		PatientID: ledger.PatientID(b.GetPatientId()), LocationID: ledger.LocationID(b.GetLocationId()),
		Lines: each(b.GetLines(), toPrescribedLine), TemplateID: ledger.TemplateID(b.GetTemplateId()),
		Prescriber: b.GetPrescriber(), ValidUntil: validUntil, Identifier: joinIdentifier(b.GetIdentifier()), HoldUntil: holdUntil,
	}, r
}

func toPrescribedLine(l *stockledgerv1.PrescribedLine) ledger.PrescribedLine {
	return ledger.PrescribedLine{
		MedicineID: ledger.MedicineID(l.GetMedicineId()), Quantity: l.GetQuantity(), Pack: l.GetPack(),
		Refills: l.GetRefills(), NoSubstitution: l.GetNoSubstitution(),
	}
}

func toTemplateLine(l *stockledgerv1.TemplateLine) ledger.PrescribedLine {
	return ledger.PrescribedLine{
		MedicineID: ledger.MedicineID(l.GetMedicineId()), Quantity: l.GetQuantity(), Pack: l.GetPack(),
		Refills: l.GetRefills(), NoSubstitution: l.GetNoSubstitution(), Dosage: l.GetDosageText(),
	}
}

// joinIdentifier is how the core knows another system's name: system|value. The
// schema keeps bars out of both.
func joinIdentifier(id *stockledgerv1.ExternalIdentifier) string {
	if id == nil {
		return ""
	}
	return id.GetSystem() + referenceBar + id.GetValue()
}

// toDispensingBody reads the commands about dispensing.
func toDispensingBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_DispenseMedicine:
		return &ledger.DispenseMedicine{Dispense: toDispense(body.DispenseMedicine)}, nil
	case *stockledgerv1.Command_PrepareDispensing:
		collectBy, r := toInstant("collect_by", body.PrepareDispensing.GetCollectBy())
		return &ledger.PrepareDispensing{Dispense: toDispense(body.PrepareDispensing), CollectBy: collectBy}, r
	case *stockledgerv1.Command_CheckDispensing:
		return &ledger.CheckDispensing{DispensingID: ledger.DispensingID(body.CheckDispensing.GetDispensingId())}, nil
	case *stockledgerv1.Command_HandOver:
		return &ledger.HandOver{DispensingID: ledger.DispensingID(body.HandOver.GetDispensingId())}, nil
	case *stockledgerv1.Command_CancelDispensing:
		b := body.CancelDispensing
		return &ledger.CancelDispensing{
			DispensingID: ledger.DispensingID(b.GetDispensingId()), ReasonCode: b.GetReasonCode(), NeverLeftCustody: b.GetNeverLeftCustody(),
		}, nil
	case *stockledgerv1.Command_ReturnFromPatient:
		b := body.ReturnFromPatient
		return &ledger.ReturnFromPatient{
			DispensingID: ledger.DispensingID(b.GetDispensingId()), Lines: toLotLines(b.GetLines()),
			ReasonCode: b.GetReasonCode(), Destroy: b.GetDestroy(),
		}, nil
	case *stockledgerv1.Command_RecordDowntime:
		return toRecordDowntime(body.RecordDowntime), nil
	}
	return toPatientBody(c)
}

// dispense is what the messages that dispense in one step and in three have in
// common.
type dispense interface {
	GetLocationId() string
	GetPrescriptionId() string
	GetLine() int64
	GetEtag() string
	GetPatientId() string
	GetMedicineId() string
	GetLotId() string
	GetQuantity() int64
	GetPack() string
	GetSubstitutionReason() string
	GetWastedQuantity() int64
	GetWasteReason() string
	GetPayer() string
}

func toDispense(b dispense) ledger.Dispense {
	return ledger.Dispense{
		LocationID: ledger.LocationID(b.GetLocationId()), PrescriptionID: ledger.PrescriptionID(b.GetPrescriptionId()),
		Line: b.GetLine(), Etag: b.GetEtag(), PatientID: ledger.PatientID(b.GetPatientId()),
		MedicineID: ledger.MedicineID(b.GetMedicineId()), LotID: ledger.LotID(b.GetLotId()), Quantity: b.GetQuantity(), Pack: b.GetPack(),
		SubstitutionReason: b.GetSubstitutionReason(), WastedQuantity: b.GetWastedQuantity(), WasteReason: b.GetWasteReason(),
		Payer: b.GetPayer(),
	}
}

// toRecordDowntime gives the one location on the wire to what was done there.
func toRecordDowntime(b *stockledgerv1.RecordDowntime) ledger.CommandBody {
	location := ledger.LocationID(b.GetLocationId())
	record := &ledger.RecordDowntime{Device: b.GetDevice(), PaperReference: b.GetPaperReference()}
	switch what := b.GetWhat().(type) {
	case *stockledgerv1.RecordDowntime_Dispensed:
		d := what.Dispensed
		record.Dispensed = &ledger.Dispense{
			LocationID: location, PrescriptionID: ledger.PrescriptionID(d.GetPrescriptionId()), Line: d.GetLine(),
			PatientID: ledger.PatientID(d.GetPatientId()), MedicineID: ledger.MedicineID(d.GetMedicineId()), LotID: ledger.LotID(d.GetLotId()),
			Quantity: d.GetQuantity(), Pack: d.GetPack(), SubstitutionReason: d.GetSubstitutionReason(),
			WastedQuantity: d.GetWastedQuantity(), WasteReason: d.GetWasteReason(), Payer: d.GetPayer(),
		}
	case *stockledgerv1.RecordDowntime_Received:
		d := what.Received
		record.Received = &ledger.ReceiveStock{
			LocationID: location, LotID: ledger.LotID(d.GetLotId()), Quantity: d.GetQuantity(), Pack: d.GetPack(),
			Supplier: d.GetSupplier(), Reference: d.GetReference(),
		}
	case *stockledgerv1.RecordDowntime_Counted:
		d := what.Counted
		record.Counted = &ledger.DowntimeCount{
			LocationID: location, LotID: ledger.LotID(d.GetLotId()), Counted: d.GetCounted(), Pack: d.GetPack(), ReasonCode: d.GetReasonCode(),
		}
	}
	return record
}

// toPatientBody reads the commands about patients, all but who they are: see
// [privateTexts].
func toPatientBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_RegisterPatient:
		return &ledger.RegisterPatient{}, nil
	case *stockledgerv1.Command_UpdatePatient:
		b := body.UpdatePatient
		return &ledger.UpdatePatient{PatientID: ledger.PatientID(b.GetPatientId()), Etag: b.GetEtag()}, nil
	case *stockledgerv1.Command_ErasePatient:
		b := body.ErasePatient
		return &ledger.ErasePatient{PatientID: ledger.PatientID(b.GetPatientId()), ReasonCode: b.GetReasonCode()}, nil
	case *stockledgerv1.Command_PlaceLegalHold:
		b := body.PlaceLegalHold
		return &ledger.PlaceLegalHold{PatientID: ledger.PatientID(b.GetPatientId()), ReasonCode: b.GetReasonCode()}, nil
	case *stockledgerv1.Command_LiftLegalHold:
		b := body.LiftLegalHold
		return &ledger.LiftLegalHold{PatientID: ledger.PatientID(b.GetPatientId()), ReasonCode: b.GetReasonCode()}, nil
	}
	return toBillingBody(c)
}

// toBillingBody reads the commands about prices and what the law limits.
func toBillingBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_SetPrice:
		b := body.SetPrice
		from, r := toDate("effective_from", b.GetEffectiveFrom())
		return &ledger.SetPrice{
			MedicineID: ledger.MedicineID(b.GetMedicineId()),
			Price:      ledger.Price{From: from, Amount: b.GetAmountMinor(), Per: b.GetPerQuantity(), Currency: b.GetCurrency()},
			Pack:       b.GetPack(), Etag: b.GetEtag(),
		}, r
	case *stockledgerv1.Command_SetControlLimit:
		b := body.SetControlLimit
		return &ledger.SetControlLimit{Etag: b.GetEtag(), ControlLimit: ledger.ControlLimit{
			ControlClass: b.GetControlClass(), MaxQuantity: b.GetMaxQuantity(), NoRefills: b.GetNoRefills(), MaxRefills: b.GetMaxRefills(),
			MaxValidDays: b.GetMaxValidDays(), PrescriptionRequired: b.GetPrescriptionRequired(),
		}}, nil
	}
	return nil, invalidField("body", "The command is empty: it needs one body, for example reserve_stock.")
}
