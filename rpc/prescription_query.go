package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// GetPrescription reads a prescription with its texts.
func (s *pharmacyService) GetPrescription(ctx context.Context, req *stockledgerv1.GetPrescriptionRequest) (*stockledgerv1.GetPrescriptionResponse, error) {
	options := readOptions(req.GetRead(), txn.Strong)
	id, err := s.prescriptionID(ctx, req.GetClinicId(), req.GetPrescriptionId(), options)
	if err != nil {
		return nil, err
	}
	body, document, asOf, err := findDocument[*ledger.Prescription](ctx, s.queryHandler, req.GetClinicId(), ledger.DocumentPrescription, id, options)
	if err != nil {
		return nil, err
	}
	today, err := s.today(ctx, req.GetClinicId(), options)
	if err != nil {
		return nil, err
	}
	shown := fromPrescription(document, body, today)
	if err := s.texts.reveal(ctx, ledger.ClinicID(req.GetClinicId()), body, shown); err != nil {
		return nil, err
	}
	return &stockledgerv1.GetPrescriptionResponse{Prescription: shown, AsOf: fromAsOf(asOf)}, nil
}

// prescriptionID finds the number of a prescription that may be given by another
// system's name. One that nothing has stays as it is, and is not found later.
func (h *queryHandler) prescriptionID(ctx context.Context, clinic, reference string, o txn.ReadOptions) (string, error) {
	if !isReference(reference) {
		return reference, nil
	}
	key := ledger.DocumentKey{Kind: ledger.DocumentPrescriptionIdentifier, ID: reference}
	document, _, err := h.queries.Document(ctx, ledger.ClinicID(clinic), key, o)
	if err != nil || document == nil {
		return reference, err
	}
	if found, ok := document.Body.(*ledger.PrescriptionIdentifier); ok {
		return string(found.PrescriptionID), nil
	}
	return reference, nil
}

// today is the day at a clinic.
func (h *queryHandler) today(ctx context.Context, clinic string, o txn.ReadOptions) (ledger.Date, error) {
	found, asOf, err := h.queries.Clinic(ctx, ledger.ClinicID(clinic), o)
	if err != nil {
		return 0, err
	}
	zone, err := time.LoadLocation(found.TimeZone)
	if err != nil {
		return 0, fmt.Errorf("rpc: time zone of clinic %s: %w", clinic, err)
	}
	return ledger.DateOf(h.now(asOf).Time().In(zone)), nil
}

// ListPrescriptions lists prescriptions.
func (s *pharmacyService) ListPrescriptions(ctx context.Context, req *stockledgerv1.ListPrescriptionsRequest) (*stockledgerv1.ListPrescriptionsResponse, error) {
	filter := txn.PrescriptionFilter{
		Patient: ledger.PatientID(req.GetPatientId()), Location: ledger.LocationID(req.GetLocationId()), Locations: only(ctx),
		OpenOnly: req.GetPendingOnly(), NewestFirst: req.GetNewestFirst(),
	}
	today, err := s.today(ctx, req.GetClinicId(), readOptions(req.GetRead(), txn.Bounded))
	if err != nil {
		return nil, err
	}
	medicine, pending := ledger.MedicineID(req.GetMedicineId()), req.GetPendingOnly()
	list := documentList{read: func(after *txn.DocumentPlace, limit int, o txn.ReadOptions) ([]ledger.Document, *txn.DocumentPlace, txn.AsOf, error) {
		return s.queries.Prescriptions(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, limit, o)
	}}
	if medicine != "" || pending {
		list.shows = func(body ledger.DocumentBody) bool {
			p, ok := body.(*ledger.Prescription)
			return ok && (!pending || !expired(p, today)) && (medicine == "" || prescribes(p, medicine))
		}
	}
	page, err := s.list(ctx, req, list)
	if err != nil {
		return nil, err
	}
	prescriptions := rendered(page.documents, func(d *ledger.Document, p *ledger.Prescription) *stockledgerv1.Prescription {
		return fromPrescription(d, p, today)
	})
	return &stockledgerv1.ListPrescriptionsResponse{Prescriptions: prescriptions, NextPageToken: page.token, AsOf: fromAsOf(page.asOf)}, nil
}

func expired(p *ledger.Prescription, today ledger.Date) bool {
	return p.Status == ledger.PrescriptionActive && p.ValidUntil < today
}

func prescribes(p *ledger.Prescription, medicine ledger.MedicineID) bool {
	return slices.ContainsFunc(p.Lines, func(l ledger.PrescriptionLine) bool { return l.Medicine == medicine })
}

// fromPrescription renders a prescription without its private texts.
func fromPrescription(d *ledger.Document, p *ledger.Prescription, today ledger.Date) *stockledgerv1.Prescription {
	return &stockledgerv1.Prescription{
		PrescriptionId: string(p.PrescriptionID), Status: stockledgerv1.PrescriptionStatus(p.Status), Expired: expired(p, today),
		PatientId: string(p.PatientID), LocationId: string(p.Location), Lines: each(p.Lines, fromPrescriptionLine),
		Prescriber: p.Prescriber, WrittenAt: fromInstant(p.Written), ValidUntil: fromDate(p.ValidUntil), Identifier: splitIdentifier(p.Identifier),
		TemplateId: string(p.TemplateID), ReasonCode: p.ReasonCode,
		OpenedSequence: int64(d.OpenedSequence), LastSequence: int64(d.LastSequence), Etag: ledger.Etag(d.LastSequence),
	}
}

func fromPrescriptionLine(l ledger.PrescriptionLine) *stockledgerv1.PrescriptionLine {
	return &stockledgerv1.PrescriptionLine{
		MedicineId: string(l.Medicine), Quantity: l.Quantity, Refills: l.Refills, NoSubstitution: l.NoSubstitution, DosageText: l.Dosage,
		Dispensed: l.Dispensed, Prepared: l.Prepared, Left: max(l.Left(), 0), HoldId: string(l.HoldID),
	}
}

// splitIdentifier is the reverse of joinIdentifier.
func splitIdentifier(identifier string) *stockledgerv1.ExternalIdentifier {
	system, value, ok := strings.Cut(identifier, referenceBar)
	if !ok {
		return nil
	}
	return &stockledgerv1.ExternalIdentifier{System: system, Value: value}
}

// ListPrescriptionTemplates lists the templates for prescriptions.
func (s *pharmacyService) ListPrescriptionTemplates(ctx context.Context, req *stockledgerv1.ListPrescriptionTemplatesRequest) (*stockledgerv1.ListPrescriptionTemplatesResponse, error) {
	var shows func(ledger.DocumentBody) bool
	if wanted := ledger.TemplateID(req.GetTemplateId()); wanted != "" {
		shows = func(body ledger.DocumentBody) bool {
			template, ok := body.(*ledger.PrescriptionTemplate)
			return ok && template.TemplateID == wanted
		}
	}
	filter := txn.DocumentFilter{Kind: ledger.DocumentPrescriptionTemplate, OpenOnly: true}
	page, err := s.listDocuments(ctx, req, req.GetClinicId(), filter, shows)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListPrescriptionTemplatesResponse{
		Templates: rendered(page.documents, fromTemplate), NextPageToken: page.token, AsOf: fromAsOf(page.asOf),
	}, unchanged(ctx, page.asOf)
}

func fromTemplate(d *ledger.Document, t *ledger.PrescriptionTemplate) *stockledgerv1.PrescriptionTemplate {
	return &stockledgerv1.PrescriptionTemplate{
		TemplateId: string(t.TemplateID), Name: t.Name, LastSequence: int64(d.LastSequence), Etag: ledger.Etag(d.LastSequence),
		Lines: each(t.Lines, func(l ledger.TemplateLine) *stockledgerv1.TemplateLine {
			return &stockledgerv1.TemplateLine{
				MedicineId: string(l.Medicine), Quantity: l.Quantity, Refills: l.Refills, NoSubstitution: l.NoSubstitution, DosageText: l.Dosage,
			}
		}),
	}
}
