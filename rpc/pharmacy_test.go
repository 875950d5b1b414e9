package rpc

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// patient makes a patient known of whom nothing but the token is kept.
func (c *clinic) patient(tb testing.TB) string {
	tb.Helper()
	digits := strings.NewReplacer("I", "0", "L", "1", "O", "8", "U", "9").Replace(rand.Text())
	id := ledger.PatientPrefix + strings.ToLower(digits[:ledger.PatientDigits])
	verdicts, err := c.node.deps.Executor.Submit(tb.Context(), txn.Submission{Clinic: ledger.ClinicID(c.id), Commands: []ledger.Command{{
		Clinic: ledger.ClinicID(c.id), IdempotencyKey: key(), Actor: "test", Body: &ledger.RegisterPatient{PatientID: ledger.PatientID(id)},
	}}})
	if err == nil {
		err = verdicts[0].Err
	}
	if err != nil {
		tb.Fatalf("register a patient: %v", err)
	}
	return id
}

// namedBy returns the id of the document of a kind that a command made or
// changed.
func namedBy(tb testing.TB, accepted *stockledgerv1.Accepted, kind stockledgerv1.DocumentKind) string {
	tb.Helper()
	for _, d := range accepted.GetChange().GetDocuments() {
		if d.GetKind() == kind {
			return d.GetId()
		}
	}
	tb.Fatalf("got %v, want a %s", accepted, kind)
	return ""
}

const (
	kindPrescription = stockledgerv1.DocumentKind_DOCUMENT_KIND_PRESCRIPTION
	kindDispensing   = stockledgerv1.DocumentKind_DOCUMENT_KIND_DISPENSING
	kindCharge       = stockledgerv1.DocumentKind_DOCUMENT_KIND_CHARGE
)

func nextYear() *date.Date { return &date.Date{Year: int32(time.Now().Year() + 1), Month: 3, Day: 31} }

// zincFor is a prescription for 10 tablets of zinc, to be filled up to three
// times.
func zincFor(patient string) *stockledgerv1.CreatePrescription {
	return &stockledgerv1.CreatePrescription{
		PatientId: patient, LocationId: "store", Prescriber: "Dr. Hill", ValidUntil: nextYear(),
		Lines: []*stockledgerv1.PrescribedLine{{MedicineId: "zinc", Quantity: 10, Refills: 2}},
	}
}

func (p *person) prescribe(tb testing.TB, patient string) string {
	tb.Helper()
	return namedBy(tb, p.give(tb, zincFor(patient)), kindPrescription)
}

func (p *person) prescription(tb testing.TB, id string) *stockledgerv1.Prescription {
	tb.Helper()
	response, err := p.pharmacy.GetPrescription(tb.Context(), &stockledgerv1.GetPrescriptionRequest{ClinicId: p.clinic.id, PrescriptionId: id})
	if err != nil {
		tb.Fatal(err)
	}
	return response.GetPrescription()
}

func (p *person) dispensing(tb testing.TB, id string) *stockledgerv1.Dispensing {
	tb.Helper()
	response, err := p.pharmacy.GetDispensing(tb.Context(), &stockledgerv1.GetDispensingRequest{ClinicId: p.clinic.id, DispensingId: id})
	if err != nil {
		tb.Fatal(err)
	}
	return response.GetDispensing()
}

func (p *person) charges(tb testing.TB, req *stockledgerv1.ListChargesRequest) []*stockledgerv1.Charge {
	tb.Helper()
	req.ClinicId, req.Read = p.clinic.id, strong()
	response, err := p.pharmacy.ListCharges(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	return response.GetCharges()
}

func strong() *stockledgerv1.ReadOptions {
	return &stockledgerv1.ReadOptions{Consistency: stockledgerv1.Consistency_CONSISTENCY_STRONG}
}

// From the prescription to what the patient brings back, in three steps.
func TestAPrescriptionAllTheWay(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	patient := c.patient(t)
	c.must(t, command(&stockledgerv1.SetPrice{
		MedicineId: "zinc", EffectiveFrom: &date.Date{Year: 2020, Month: 1, Day: 1}, AmountMinor: 250, PerQuantity: 10, Currency: "KES",
	}))
	doctor, asha, juma := c.person(t, "hill", RolePrescriber), c.person(t, "asha", RolePharmacist), c.person(t, "juma", RolePharmacist)

	order := zincFor(patient)
	order.Identifier, order.HoldUntil = &stockledgerv1.ExternalIdentifier{System: "urn:his", Value: "4711"}, inAnHour()
	accepted := doctor.give(t, order)
	rx := namedBy(t, accepted, kindPrescription)
	got := doctor.prescription(t, rx)
	if !strings.HasPrefix(rx, "RX-") || got.GetStatus() != stockledgerv1.PrescriptionStatus_PRESCRIPTION_STATUS_ACTIVE || got.GetExpired() ||
		got.GetPatientId() != patient || got.GetIdentifier().GetValue() != "4711" || got.GetLines()[0].GetLeft() != 30 ||
		!slices.Equal(accepted.GetChange().GetHoldIds(), []string{got.GetLines()[0].GetHoldId()}) || got.GetEtag() != decimal(accepted.GetSequence()) {
		t.Errorf("%s: %v", rx, got)
	}
	if same := doctor.prescription(t, "urn:his|4711"); !proto.Equal(same, got) {
		t.Errorf("by its identifier: %v, want %v", same, got)
	}
	doctor.refused(t, connect.CodeAlreadyExists, ledger.ReasonPrescriptionExists, order)

	ready := asha.give(t, &stockledgerv1.PrepareDispensing{LocationId: "store", PrescriptionId: "urn:his|4711", Quantity: 10, CollectBy: inAnHour(), Payer: "nhif"})
	dn := namedBy(t, ready, kindDispensing)
	if d := asha.dispensing(t, dn); d.GetStatus() != stockledgerv1.DispensingStatus_DISPENSING_STATUS_PREPARED || d.GetPreparer() != "asha" ||
		d.GetPatientId() != patient || d.GetPrescriptionId() != rx || d.GetLine() != 1 || d.GetLots()[0].GetLotId() != "L1" {
		t.Errorf("prepared: %v", d)
	}
	if got := asha.prescription(t, rx); got.GetLines()[0].GetPrepared() != 10 || got.GetLines()[0].GetLeft() != 20 {
		t.Errorf("while it lies ready: %v", got)
	}
	asha.refused(t, connect.CodeFailedPrecondition, ledger.ReasonPrescriptionInPreparation, &stockledgerv1.CancelPrescription{PrescriptionId: rx, ReasonCode: "mistake"})
	juma.give(t, &stockledgerv1.CheckDispensing{DispensingId: dn})
	bl := namedBy(t, asha.give(t, &stockledgerv1.HandOver{DispensingId: dn}), kindCharge)
	d := asha.dispensing(t, dn)
	if d.GetStatus() != stockledgerv1.DispensingStatus_DISPENSING_STATUS_HANDED_OVER || d.GetChecker() != "juma" || d.GetDispenser() != "asha" ||
		d.GetChargeId() != bl || d.GetAmountMinor() != 250 || d.GetCurrency() != "KES" {
		t.Errorf("handed over: %v", d)
	}
	asha.refused(t, connect.CodeFailedPrecondition, ledger.ReasonDispensingState, &stockledgerv1.HandOver{DispensingId: dn})

	back := asha.give(t, &stockledgerv1.CancelDispensing{DispensingId: dn, ReasonCode: "mistake", NeverLeftCustody: true})
	if moves := back.GetChange().GetMoves(); len(moves) != 1 || moves[0].GetTo() != stockledgerv1.Bucket_BUCKET_AVAILABLE {
		t.Errorf("cancelled: %v", back)
	}
	charges := asha.charges(t, &stockledgerv1.ListChargesRequest{PatientId: patient})
	if len(charges) != 2 || charges[0].GetChargeId() != bl || charges[0].GetPayer() != "nhif" ||
		charges[1].GetReversesChargeId() != bl || charges[1].GetAmountMinor() != -250 {
		t.Errorf("charges: %v", charges)
	}

	again := asha.give(t, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 30})
	if got := asha.prescription(t, rx); got.GetStatus() != stockledgerv1.PrescriptionStatus_PRESCRIPTION_STATUS_FILLED || got.GetLines()[0].GetDispensed() != 30 {
		t.Errorf("filled: %v", got)
	}
	asha.refused(t, connect.CodeFailedPrecondition, ledger.ReasonPrescriptionExceeded, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 1})
	second := namedBy(t, again, kindDispensing)
	returned := asha.give(t, &stockledgerv1.ReturnFromPatient{DispensingId: second, ReasonCode: "unused", Lines: []*stockledgerv1.LotLine{{LotId: "L1", Quantity: 4}}})
	if moves := returned.GetChange().GetMoves(); len(moves) != 1 || moves[0].GetTo() != stockledgerv1.Bucket_BUCKET_QUARANTINED {
		t.Errorf("returned: %v", returned)
	}
	asha.refused(t, connect.CodeFailedPrecondition, ledger.ReasonReturnExceeded, &stockledgerv1.ReturnFromPatient{
		DispensingId: second, ReasonCode: "unused", Lines: []*stockledgerv1.LotLine{{LotId: "L1", Quantity: 27}},
	})
	if d := asha.dispensing(t, second); d.GetLots()[0].GetReturned() != 4 {
		t.Errorf("after the return: %v", d)
	}
	if latest := asha.charges(t, &stockledgerv1.ListChargesRequest{AfterSequence: back.GetSequence()}); len(latest) != 1 || latest[0].GetSequence() != again.GetSequence() {
		t.Errorf("the feed after the reversal: %v", latest)
	}
}

func TestWhatAPharmacyRefuses(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	patient := c.patient(t)
	c.must(t,
		command(&stockledgerv1.AddMedicine{MedicineId: "morphine", Name: "Morphine", BaseUnit: "tablet", ControlClass: "schedule-2"}),
		command(&stockledgerv1.SetControlLimit{ControlClass: "schedule-2", MaxQuantity: 20, NoRefills: true, MaxValidDays: 30, PrescriptionRequired: true}),
	)
	p := c.person(t, "asha", RolePharmacist)
	rx := p.prescribe(t, patient)
	morphine := func(quantity, refills int64) *stockledgerv1.CreatePrescription {
		order, soon := zincFor(patient), time.Now().AddDate(0, 0, 10)
		order.ValidUntil = &date.Date{Year: int32(soon.Year()), Month: int32(soon.Month()), Day: int32(soon.Day())}
		order.Lines = []*stockledgerv1.PrescribedLine{{MedicineId: "morphine", Quantity: quantity, Refills: refills}}
		return order
	}
	long := morphine(10, 0)
	long.ValidUntil = &date.Date{Year: 9000, Month: 1, Day: 1}
	late := zincFor(patient)
	late.ValidUntil = &date.Date{Year: 2020, Month: 1, Day: 1}
	unknown := zincFor(ledger.PatientPrefix + strings.Repeat("0", ledger.PatientDigits))
	for _, refused := range []struct {
		code   connect.Code
		reason ledger.Reason
		field  string
		body   proto.Message
	}{
		{connect.CodeNotFound, ledger.ReasonPatientNotFound, "patient_id", unknown},
		{connect.CodeFailedPrecondition, ledger.ReasonPrescriptionExpired, "valid_until", late},
		{connect.CodeFailedPrecondition, ledger.ReasonControlQuantityExceeded, "lines[0].quantity", morphine(21, 0)},
		{connect.CodeFailedPrecondition, ledger.ReasonControlRefillsExceeded, "lines[0].refills", morphine(10, 1)},
		{connect.CodeFailedPrecondition, ledger.ReasonControlValidityExceeded, "valid_until", long},
		{connect.CodeFailedPrecondition, ledger.ReasonPrescriptionRequired, "prescription_id", &stockledgerv1.DispenseMedicine{LocationId: "store", MedicineId: "morphine", Quantity: 1}},
		{connect.CodeNotFound, ledger.ReasonPrescriptionNotFound, "prescription_id", &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: "RX-99999", Quantity: 1}},
		{connect.CodeNotFound, ledger.ReasonPrescriptionNotFound, "prescription_id", &stockledgerv1.CancelPrescription{PrescriptionId: "urn:his|0", ReasonCode: "mistake"}},
		{connect.CodeNotFound, ledger.ReasonDispensingNotFound, "dispensing_id", &stockledgerv1.HandOver{DispensingId: "DN-99999"}},
		{connect.CodeFailedPrecondition, ledger.ReasonPrescriptionExceeded, "quantity", &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 31}},
		{connect.CodeInvalidArgument, ledger.ReasonInvalidField, "medicine_id", &stockledgerv1.DispenseMedicine{LocationId: "store", Quantity: 1}},
		{connect.CodeFailedPrecondition, ledger.ReasonWitnessRequired, "", &stockledgerv1.DispenseMedicine{
			LocationId: "store", PrescriptionId: rx, Quantity: 1, WastedQuantity: 1, WasteReason: "broken",
		}},
		{connect.CodeNotFound, ledger.ReasonTemplateNotFound, "template_id", &stockledgerv1.RemovePrescriptionTemplate{TemplateId: "none"}},
	} {
		cmd := command(refused.body)
		_, err := p.try(t, cmd)
		info := wantError(t, err, refused.code, refused.reason)
		if want := "command." + bodyName(cmd) + "." + refused.field; refused.field != "" && info.GetMetadata()["field"] != want {
			t.Errorf("%s: the field is %q, want %q", refused.reason, info.GetMetadata()["field"], want)
		}
	}
	p.give(t, &stockledgerv1.CancelPrescription{PrescriptionId: rx, ReasonCode: "mistake"})
	p.refused(t, connect.CodeFailedPrecondition, ledger.ReasonPrescriptionCancelled, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 1})
}

// Where the policy says so, what lies ready is checked by somebody else.
func TestAnotherPersonChecks(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	c.must(t, command(&stockledgerv1.SetPolicy{ApprovalHours: 1, Rules: []*stockledgerv1.PolicyRule{
		{ControlClass: "*", Command: "CheckDispensing", Requires: stockledgerv1.Requirement_REQUIREMENT_WITNESS},
	}}))
	asha, juma := c.person(t, "asha", RolePharmacist), c.person(t, "juma", RolePharmacist)
	rx := asha.prescribe(t, c.patient(t))
	dn := namedBy(t, asha.give(t, &stockledgerv1.PrepareDispensing{LocationId: "store", PrescriptionId: rx, Quantity: 10, CollectBy: inAnHour()}), kindDispensing)
	asha.refused(t, connect.CodeFailedPrecondition, ledger.ReasonDispensingUnchecked, &stockledgerv1.HandOver{DispensingId: dn})
	asha.refused(t, connect.CodePermissionDenied, ledger.ReasonSamePerson, &stockledgerv1.CheckDispensing{DispensingId: dn})
	juma.give(t, &stockledgerv1.CheckDispensing{DispensingId: dn})
	asha.give(t, &stockledgerv1.HandOver{DispensingId: dn})
	asha.refused(t, connect.CodeFailedPrecondition, ledger.ReasonWitnessRequired, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 10})
}

func TestListsOfThePharmacy(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	ada, ben := c.patient(t), c.patient(t)
	c.must(t, command(&stockledgerv1.AddMedicine{MedicineId: "ors", Name: "Oral rehydration salts", BaseUnit: "sachet"}))
	p := c.person(t, "asha", RolePharmacist)
	first, second := p.prescribe(t, ada), p.prescribe(t, ada)
	anywhere := zincFor(ben)
	anywhere.LocationId, anywhere.Lines[0].MedicineId = "", "ors"
	third := namedBy(t, p.give(t, anywhere), kindPrescription)
	dispense := func(rx string, quantity int64) string {
		return namedBy(t, p.give(t, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: quantity}), kindDispensing)
	}
	one, two, three := dispense(first, 30), dispense(second, 10), dispense(second, 5)
	sold := namedBy(t, p.give(t, &stockledgerv1.DispenseMedicine{LocationId: "ward", MedicineId: "zinc", Quantity: 7}), kindDispensing)
	ready := namedBy(t, p.give(t, &stockledgerv1.PrepareDispensing{LocationId: "store", PrescriptionId: second, Quantity: 1, CollectBy: inAnHour()}), kindDispensing)

	for want, req := range map[string]*stockledgerv1.ListPrescriptionsRequest{
		first + second + third: {},
		third + second + first: {NewestFirst: true},
		second + first:         {PatientId: ada, NewestFirst: true},
		second + third:         {PendingOnly: true, LocationId: "store"},
		third:                  {PendingOnly: true, LocationId: "ward"},
		first + second:         {MedicineId: "zinc"},
	} {
		req.ClinicId, req.Read = c.id, strong()
		var got string
		for page := (&stockledgerv1.Page{PageSize: 2}); ; {
			req.Page = page
			response, err := p.pharmacy.ListPrescriptions(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, rx := range response.GetPrescriptions() {
				got += rx.GetPrescriptionId()
			}
			if page = (&stockledgerv1.Page{PageSize: 2, PageToken: response.GetNextPageToken()}); page.GetPageToken() == "" {
				break
			}
		}
		if got != want {
			t.Errorf("prescriptions with %v: got %s, want %s", req, got, want)
		}
	}

	today := p.dispensing(t, one).GetDay()
	for want, req := range map[string]*stockledgerv1.ListDispensingsRequest{
		one + two + three + sold + ready: {From: today, To: today},
		ready + three + two:              {PrescriptionId: second, NewestFirst: true},
		one + two + three + ready:        {PatientId: ada, MedicineId: "zinc"},
		sold:                             {LocationId: "ward"},
		ready:                            {OpenOnly: true},
		"":                               {To: &date.Date{Year: 2020, Month: 1, Day: 1}},
	} {
		req.ClinicId, req.Read = c.id, strong()
		response, err := p.pharmacy.ListDispensings(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, d := range response.GetDispensings() {
			got += d.GetDispensingId()
		}
		if got != want {
			t.Errorf("dispensings with %v: got %s, want %s", req, got, want)
		}
	}
	_, err := p.pharmacy.ListDispensings(t.Context(), &stockledgerv1.ListDispensingsRequest{ClinicId: c.id, PrescriptionId: "urn:his|0"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonPrescriptionNotFound)

	report, err := p.pharmacy.DispensingReport(t.Context(), &stockledgerv1.DispensingReportRequest{ClinicId: c.id, From: today, MedicineId: "zinc", Read: strong()})
	if err != nil {
		t.Fatal(err)
	}
	if rows := report.GetRows(); len(rows) != 2 || rows[0].GetLocationId() != "store" || rows[0].GetPharmacist() != "asha" || rows[0].GetDispensings() != 3 ||
		rows[0].GetQuantity() != 45 || !proto.Equal(rows[0].GetDay(), today) || rows[1].GetQuantity() != 7 {
		t.Errorf("report: %v", report)
	}
	_, err = p.pharmacy.DispensingReport(t.Context(), &stockledgerv1.DispensingReportRequest{ClinicId: c.id, From: today, To: &date.Date{Year: 2020, Month: 1, Day: 1}})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
}

func TestTemplatesPricesAndLimits(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "mwana", RoleManager)
	p.give(t, &stockledgerv1.SetPrescriptionTemplate{TemplateId: "diarrhoea", Name: "Diarrhoea", Lines: []*stockledgerv1.TemplateLine{
		{MedicineId: "zinc", Quantity: 10, Refills: 1, DosageText: "one a day"},
	}})
	templates := func() []*stockledgerv1.PrescriptionTemplate {
		t.Helper()
		response, err := p.pharmacy.ListPrescriptionTemplates(t.Context(), &stockledgerv1.ListPrescriptionTemplatesRequest{ClinicId: c.id, Read: strong()})
		if err != nil {
			t.Fatal(err)
		}
		return response.GetTemplates()
	}
	if got := templates(); len(got) != 1 || got[0].GetName() != "Diarrhoea" || got[0].GetLines()[0].GetDosageText() != "one a day" {
		t.Errorf("templates: %v", got)
	}
	order := zincFor(c.patient(t))
	order.Lines, order.TemplateId = nil, "diarrhoea"
	if got := p.prescription(t, namedBy(t, p.give(t, order), kindPrescription)); got.GetTemplateId() != "diarrhoea" || got.GetLines()[0].GetDosageText() != "one a day" || got.GetLines()[0].GetLeft() != 20 {
		t.Errorf("made from a template: %v", got)
	}
	p.refused(t, connect.CodeAborted, ledger.ReasonEtagMismatch, &stockledgerv1.RemovePrescriptionTemplate{TemplateId: "diarrhoea", Etag: "1"})
	p.give(t, &stockledgerv1.RemovePrescriptionTemplate{TemplateId: "diarrhoea", Etag: templates()[0].GetEtag()})
	if got := templates(); len(got) != 0 {
		t.Errorf("after it was removed: %v", got)
	}

	for year, amount := range map[int32]int64{2020: 250, 2021: 300} {
		p.give(t, &stockledgerv1.SetPrice{MedicineId: "zinc", EffectiveFrom: &date.Date{Year: year, Month: 1, Day: 1}, AmountMinor: amount, PerQuantity: 10, Currency: "KES"})
	}
	prices, err := p.catalog.ListPrices(t.Context(), &stockledgerv1.ListPricesRequest{ClinicId: c.id, MedicineId: "zinc", Read: strong()})
	if err != nil {
		t.Fatal(err)
	}
	if got := prices.GetMedicines(); len(got) != 1 || len(got[0].GetPrices()) != 2 || got[0].GetPrices()[1].GetAmountMinor() != 300 {
		t.Errorf("prices: %v", got)
	}
	p.give(t, &stockledgerv1.SetControlLimit{ControlClass: "schedule-2", MaxQuantity: 20, PrescriptionRequired: true})
	limits, err := p.catalog.ListControlLimits(t.Context(), &stockledgerv1.ListControlLimitsRequest{ClinicId: c.id, Read: strong()})
	if err != nil {
		t.Fatal(err)
	}
	if got := limits.GetLimits(); len(got) != 1 || got[0].GetControlClass() != "schedule-2" || got[0].GetMaxQuantity() != 20 || !got[0].GetPrescriptionRequired() {
		t.Errorf("limits: %v", got)
	}
}

func TestDowntimeIsRecordedAsItWas(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	given := &stockledgerv1.RecordDowntime{Device: "pad-1", PaperReference: "17", LocationId: "ward", What: &stockledgerv1.RecordDowntime_Dispensed{
		Dispensed: &stockledgerv1.DowntimeDispensing{MedicineId: "zinc", Quantity: 60},
	}}
	accepted := p.give(t, given)
	if accepted.GetReview() != nil {
		t.Errorf("a shortage alone breaks no rule: %v", accepted)
	}
	counted := &stockledgerv1.RecordDowntime{Device: "pad-1", PaperReference: "18", LocationId: "store", What: &stockledgerv1.RecordDowntime_Counted{
		Counted: &stockledgerv1.DowntimeCount{LotId: "L1", Counted: 99, ReasonCode: "power-cut"},
	}}
	p.give(t, counted)
	response, err := p.pharmacy.ListDowntimeRecords(t.Context(), &stockledgerv1.ListDowntimeRecordsRequest{ClinicId: c.id, ExceptionsOnly: true, Read: strong()})
	if err != nil {
		t.Fatal(err)
	}
	if got := response.GetRecords(); len(got) == 0 || got[0].GetCommand() != "DispenseMedicine" || got[0].GetShortage() != 10 || got[0].GetPaperReference() != "17" ||
		got[0].GetDispensingId() != namedBy(t, accepted, kindDispensing) {
		t.Errorf("records: %v", got)
	}
	given.LocationId = "nowhere"
	_, err = p.try(t, command(given))
	info := wantError(t, err, connect.CodeNotFound, ledger.ReasonLocationNotFound)
	if got := info.GetMetadata()["field"]; got != "command.record_downtime.location_id" {
		t.Errorf("the field is %q", got)
	}
}

func TestARecallFindsItsPatients(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	patients := make([]string, 5)
	dispensed := make([]string, 5)
	for i := range patients {
		patients[i] = c.patient(t)
		lot := "L1"
		if i == 4 {
			lot = "L2"
		}
		dispensed[i] = namedBy(t, p.give(t, &stockledgerv1.DispenseMedicine{LocationId: "store", PatientId: patients[i], MedicineId: "zinc", LotId: lot, Quantity: 2}), kindDispensing)
	}
	p.give(t, &stockledgerv1.ReturnFromPatient{DispensingId: dispensed[1], ReasonCode: "unused"})
	p.give(t, &stockledgerv1.CancelDispensing{DispensingId: dispensed[2], ReasonCode: "mistake"})
	recall := namedBy(t, p.give(t, &stockledgerv1.RecallLot{LotId: "L1", ReasonCode: "maker"}), stockledgerv1.DocumentKind_DOCUMENT_KIND_RECALL)
	request := &stockledgerv1.ListRecalledPatientsRequest{ClinicId: c.id, RecallId: recall, Page: &stockledgerv1.Page{PageSize: 3}}
	got, messages := p.recalled(t, request, 0)
	if messages != 2 || len(got) != 4 || got[3].GetPatientId() != patients[3] || got[1].GetReturned() != 2 || got[2].GetReturned() != 2 || got[0].GetReturned() != 0 ||
		got[0].GetDispensing().GetDispensingId() != dispensed[0] || got[0].GetQuantity() != 2 {
		t.Errorf("%d messages: %v", messages, got)
	}
	// A stream that breaks after its first message is resumed.
	begun, _ := p.recalled(t, request, 1)
	rest, _ := p.recalled(t, request, 0)
	if len(begun) != 3 || len(rest) != 1 || rest[0].GetPatientId() != patients[3] {
		t.Errorf("resumed: %v, %v", begun, rest)
	}
	byLot, _ := p.recalled(t, &stockledgerv1.ListRecalledPatientsRequest{ClinicId: c.id, LotId: "L2"}, 0)
	if len(byLot) != 1 || byLot[0].GetPatientId() != patients[4] {
		t.Errorf("of a lot: %v", byLot)
	}
	for reason, bad := range map[ledger.Reason]*stockledgerv1.ListRecalledPatientsRequest{
		ledger.ReasonRecallNotFound: {ClinicId: c.id, RecallId: "RC-0"},
		ledger.ReasonLotNotFound:    {ClinicId: c.id, LotId: "L9"},
		ledger.ReasonInvalidField:   {ClinicId: c.id},
	} {
		stream, err := p.pharmacy.ListRecalledPatients(t.Context(), bad)
		if err == nil {
			_, err = stream.Receive()
		}
		if info := detail[*errdetails.ErrorInfo](t, err); info.GetReason() != string(reason) {
			t.Errorf("got %v, want %s", err, reason)
		}
	}
}

// recalled reads a stream, or so many messages of it, and leaves the token to
// resume it in the request.
func (p *person) recalled(tb testing.TB, req *stockledgerv1.ListRecalledPatientsRequest, stop int) (all []*stockledgerv1.RecalledDispensing, messages int) {
	tb.Helper()
	stream, err := p.pharmacy.ListRecalledPatients(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	for stop == 0 || messages < stop {
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			tb.Fatal(err)
		}
		messages++
		all = append(all, response.GetDispensings()...)
		if stop > 0 {
			req.Page.PageToken = response.GetNextPageToken()
		}
	}
	return all, messages
}

// A node without a key for private texts refuses them, and does what needs none.
func TestPrivateTextIsNeverDropped(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	order := zincFor(c.patient(t))
	order.Lines[0].DosageText = "one a day"
	texts, err := (&commandHandler{texts: noTexts{}}).sealed(t.Context(), "c1", []*stockledgerv1.Command{command(order), command(zincFor("x"))}, func(*stockledgerv1.Command) *ledger.Rejection { return nil })
	if err != nil || texts[0].refused == nil || texts[1].refused != nil {
		t.Errorf("got %v, %v", texts, err)
	}
}

// Who may do what in a pharmacy, and where.
func TestWhoWorksInAPharmacy(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	patient := c.patient(t)
	doctor, keeper := c.person(t, "hill", RolePrescriber), c.person(t, "sefu", RoleStorekeeper)
	rx := doctor.prescribe(t, patient)
	doctor.refused(t, connect.CodePermissionDenied, reasonPermissionDenied, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 1})
	_, err := keeper.pharmacy.GetPrescription(t.Context(), &stockledgerv1.GetPrescriptionRequest{ClinicId: c.id, PrescriptionId: rx})
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)

	ward := c.person(t, "neema", RolePharmacist, "ward")
	ward.refused(t, connect.CodePermissionDenied, ledger.ReasonLocationForbidden, zincFor(patient))
	ward.refused(t, connect.CodePermissionDenied, ledger.ReasonLocationForbidden, &stockledgerv1.CancelPrescription{PrescriptionId: rx, ReasonCode: "mistake"})
	ward.refused(t, connect.CodePermissionDenied, ledger.ReasonLocationForbidden, &stockledgerv1.DispenseMedicine{LocationId: "store", PrescriptionId: rx, Quantity: 1})
	_, err = ward.pharmacy.GetPrescription(t.Context(), &stockledgerv1.GetPrescriptionRequest{ClinicId: c.id, PrescriptionId: rx})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	anywhere := zincFor(patient)
	anywhere.LocationId = ""
	open := namedBy(t, ward.give(t, anywhere), kindPrescription)
	ward.give(t, &stockledgerv1.DispenseMedicine{LocationId: "ward", PrescriptionId: open, Quantity: 1})
	list, err := ward.pharmacy.ListPrescriptions(t.Context(), &stockledgerv1.ListPrescriptionsRequest{ClinicId: c.id, Read: strong()})
	if err != nil || len(list.GetPrescriptions()) != 1 || list.GetPrescriptions()[0].GetPrescriptionId() != open {
		t.Errorf("got %v, %v", list, err)
	}
}

// Answers about patients are not kept by caches; others may be.
func TestPharmacyInJSON(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	patient := c.patient(t)
	token := n.token(t, pharmacist(c.id))
	call := func(method string, request map[string]any) (http.Header, map[string]any) {
		t.Helper()
		request["clinicId"] = c.id
		body, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		response, err := h1().Do(n.newPost(t, "/stockledger.v1.PharmacyService/"+method, token, "application/json", bytes.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		answer := map[string]any{}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v: %v", method, response.Status, err, answer)
		}
		return response.Header, answer
	}
	_, created := call("CreatePrescription", map[string]any{"command": map[string]any{"idempotencyKey": key(), "createPrescription": map[string]any{
		"patientId": patient, "prescriber": "Dr. Hill", "validUntil": map[string]any{"year": 2999, "month": 1, "day": 1},
		"lines": []any{map[string]any{"medicineId": "zinc", "quantity": "10"}},
	}}})
	change := created["accepted"].(map[string]any)["change"].(map[string]any)
	named := change["documents"].([]any)[0].(map[string]any)
	if named["kind"] != "DOCUMENT_KIND_PRESCRIPTION" {
		t.Errorf("created: %v", created)
	}
	header, got := call("GetPrescription", map[string]any{"prescriptionId": named["id"]})
	line := got["prescription"].(map[string]any)["lines"].([]any)[0].(map[string]any)
	if header.Get("Cache-Control") != "no-store" || line["left"] != "10" || line["dispensed"] != "0" {
		t.Errorf("%v: %v", header, got)
	}
	if status, _ := n.get(t, n.url+"/stockledger.v1.PharmacyService/GetPrescription?encoding=json&message=%7B%7D"); status != http.StatusMethodNotAllowed {
		t.Errorf("a GET for a prescription: %d", status)
	}
	header, report := call("DispensingReport", map[string]any{})
	if header.Get("Cache-Control") == "no-store" || report["rows"] == nil {
		t.Errorf("%v: %v", header, report)
	}
}
