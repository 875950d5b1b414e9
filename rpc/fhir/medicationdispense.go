package fhir

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

var medicationDispenses = &served{
	name: "MedicationDispense",
	parameters: []parameter{
		patientParameter,
		{"prescription", "reference", "The MedicationRequest that was dispensed."},
		{"status", "token", "One or several of preparation, in-progress, completed and cancelled, separated by commas."},
		locationParameter,
		countParameter,
	},
	read:   (*exchange).readDispense,
	search: (*exchange).searchDispenses,
}

// medicationDispense is what one lot was in a dispensing.
type medicationDispense struct {
	ResourceType            string           `json:"resourceType"`
	ID                      string           `json:"id"`
	Meta                    meta             `json:"meta"`
	Contained               []*medication    `json:"contained"`
	Identifier              []identifier     `json:"identifier"`
	Status                  string           `json:"status"`
	StatusReason            *codeableConcept `json:"statusReasonCodeableConcept,omitempty"`
	Medication              reference        `json:"medicationReference"`
	Subject                 *reference       `json:"subject,omitempty"`
	Performer               []performer      `json:"performer,omitempty"`
	Location                *reference       `json:"location"`
	AuthorizingPrescription []reference      `json:"authorizingPrescription,omitempty"`
	Quantity                quantity         `json:"quantity"`
	WhenPrepared            string           `json:"whenPrepared,omitempty"`
	WhenHandedOver          string           `json:"whenHandedOver,omitempty"`
	Note                    []annotation     `json:"note,omitempty"`
	Substitution            *wasSubstitution `json:"substitution,omitempty"`
}

type performer struct {
	Function *codeableConcept `json:"function,omitempty"`
	Actor    reference        `json:"actor"`
}

type wasSubstitution struct {
	WasSubstituted bool              `json:"wasSubstituted"`
	Reason         []codeableConcept `json:"reason,omitempty"`
}

func quantityOf(units int64, unit string) quantity {
	return quantity{json.Number(strconv.FormatInt(units, 10)), unit}
}

var dispenseStatuses = map[stockledgerv1.DispensingStatus]string{
	stockledgerv1.DispensingStatus_DISPENSING_STATUS_PREPARED:    "preparation",
	stockledgerv1.DispensingStatus_DISPENSING_STATUS_CHECKED:     "in-progress",
	stockledgerv1.DispensingStatus_DISPENSING_STATUS_HANDED_OVER: "completed",
	stockledgerv1.DispensingStatus_DISPENSING_STATUS_CANCELLED:   "cancelled",
}

func (x *exchange) readDispense(id string) (*answer, error) {
	number, lot, ok := splitLine(id, "DN-")
	if !ok {
		return nil, missing("MedicationDispense", id)
	}
	got, err := x.Pharmacy.GetDispensing(x.call(), &stockledgerv1.GetDispensingRequest{ClinicId: x.clinic, DispensingId: number, Read: strong()})
	if err != nil {
		return nil, err
	}
	if lot > len(got.GetDispensing().GetLots()) {
		return nil, missing("MedicationDispense", id)
	}
	resource, err := x.medicationDispense(got.GetDispensing(), lot)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, header: http.Header{"Etag": {weakETag(resource.Meta.VersionID)}}, body: resource}, nil
}

func (x *exchange) searchDispenses(s *searchRequest) ([]found, string, error) {
	if err := s.statuses("preparation", "in-progress", "cancelled", "on-hold", "completed", "entered-in-error", "stopped", "declined", "unknown"); err != nil {
		return nil, "", err
	}
	patient, err := x.patientParameter(s)
	if err != nil {
		return nil, "", err
	}
	prescription, line, err := x.prescriptionParameter(s)
	if err != nil {
		return nil, "", err
	}
	listed, err := x.Pharmacy.ListDispensings(x.call(), &stockledgerv1.ListDispensingsRequest{
		ClinicId: x.clinic, PatientId: patient, PrescriptionId: prescription, LocationId: s.get("location"),
		Page: s.pageOf(), Read: strong(), NewestFirst: true,
	})
	if err != nil {
		return nil, "", err
	}
	var matches []found
	for _, d := range listed.GetDispensings() {
		if !s.among(dispenseStatuses[d.GetStatus()]) || line != 0 && int64(line) != d.GetLine() {
			continue
		}
		for i := range d.GetLots() {
			resource, err := x.medicationDispense(d, i+1)
			if err != nil {
				return nil, "", err
			}
			matches = append(matches, found{resource.ID, resource})
		}
	}
	return matches, listed.GetNextPageToken(), nil
}

// prescriptionParameter reads which line of which prescription is meant.
func (x *exchange) prescriptionParameter(s *searchRequest) (prescription string, line int, err error) {
	text := s.get("prescription")
	if text == "" {
		return "", 0, nil
	}
	if id, ok := x.local(text, "MedicationRequest"); ok {
		text = id
	}
	prescription, line, ok := splitLine(text, "RX-")
	if !ok {
		return "", 0, refuseWith(http.StatusBadRequest, codeValue, "The parameter prescription must be a MedicationRequest of this clinic, for example MedicationRequest/RX-17-1.")
	}
	return prescription, line, nil
}

func (x *exchange) medicationDispense(d *stockledgerv1.Dispensing, lot int) (*medicationDispense, error) {
	contained, err := x.names.lotMedication(d.GetMedicineId(), d.GetLots()[lot-1].GetLotId())
	if err != nil {
		return nil, err
	}
	location, err := x.names.location(d.GetLocationId())
	if err != nil {
		return nil, err
	}
	facts, err := x.names.medicine(d.GetMedicineId())
	if err != nil {
		return nil, err
	}
	out := &medicationDispense{
		ResourceType: "MedicationDispense", ID: lineID(d.GetDispensingId(), lot), Meta: meta{VersionID: strconv.FormatInt(d.GetLastSequence(), 10)},
		Contained: []*medication{contained}, Identifier: []identifier{{dispensingSystem, d.GetDispensingId()}},
		Status: dispenseStatuses[d.GetStatus()], Medication: reference{Reference: "#" + contained.ID, Display: facts.GetName()},
		Location: location, Quantity: quantityOf(d.GetLots()[lot-1].GetQuantity(), facts.GetBaseUnit()),
		Performer: performersOf(d),
	}
	if d.GetPatientId() != "" {
		out.Subject = &reference{Reference: "Patient/" + d.GetPatientId()}
	}
	if d.GetPrescriptionId() != "" {
		out.AuthorizingPrescription = []reference{{Reference: "MedicationRequest/" + lineID(d.GetPrescriptionId(), int(d.GetLine()))}}
	}
	if d.GetReasonCode() != "" {
		out.StatusReason = &codeableConcept{Text: d.GetReasonCode()}
	}
	if d.GetDispenser() != "" {
		out.WhenHandedOver = dateText(d.GetDay())
	} else {
		out.WhenPrepared = dateText(d.GetDay())
	}
	if returned := d.GetLots()[lot-1].GetReturned(); returned > 0 {
		out.Note = append(out.Note, annotation{fmt.Sprintf("The patient brought back %d %s.", returned, facts.GetBaseUnit())})
	}
	if d.GetPrescriptionId() != "" {
		out.Substitution = &wasSubstitution{WasSubstituted: d.GetPrescribedMedicineId() != ""}
		if d.GetSubstitutionReason() != "" {
			out.Substitution.Reason = []codeableConcept{{Text: d.GetSubstitutionReason()}}
		}
	}
	return out, nil
}

const performerSystem = "http://terminology.hl7.org/CodeSystem/medicationdispense-performer-function"

// performersOf says who laid a medicine ready, checked it and handed it over.
func performersOf(d *stockledgerv1.Dispensing) []performer {
	var all []performer
	for _, p := range []struct{ actor, code, display string }{
		{d.GetPreparer(), "packager", "Packager"}, {d.GetChecker(), "checker", "Checker"}, {d.GetDispenser(), "finalchecker", "Final Checker"},
	} {
		if p.actor != "" {
			all = append(all, performer{
				&codeableConcept{Coding: []coding{{performerSystem, p.code, p.display}}},
				reference{Identifier: &identifier{actorSystem, p.actor}, Display: p.actor},
			})
		}
	}
	return all
}
