package fhir

import (
	"fmt"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/type/date"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// Systems of identifiers that the ledger itself gives.
const (
	medicineSystem     = "urn:stockledger:medicine"
	dispensingSystem   = "urn:stockledger:dispensing"
	transferSystem     = "urn:stockledger:transfer"
	prescriptionSystem = "urn:stockledger:prescription"
	actorSystem        = "urn:stockledger:actor"
)

// shortSystems are names of code systems that clinics use in the ledger in the
// place of FHIR's.
var shortSystems = map[string]string{
	"http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
	"http://snomed.info/sct":                      "snomed",
	"http://hl7.org/fhir/sid/ndc":                 "ndc",
	"http://www.whocc.no/atc":                     "atc",
	"https://www.gs1.org/gtin":                    "gtin",
}

// fhirSystem is FHIR's name of a code system of the ledger.
func fhirSystem(system string) string {
	for long, short := range shortSystems {
		if system == short {
			return long
		}
	}
	return system
}

// names finds what things are called, each once for a request.
type names struct {
	x         *exchange
	medicines map[string]*medicineFacts
	lots      map[string]*stockledgerv1.Lot
	locations map[string]string
}

// medicineFacts are what FHIR shows of a medicine.
type medicineFacts struct {
	*stockledgerv1.Medicine
	codings []coding
}

func newNames(x *exchange) names {
	return names{x, make(map[string]*medicineFacts), make(map[string]*stockledgerv1.Lot), make(map[string]string)}
}

// concept is the medicine as FHIR codes it.
func (m *medicineFacts) concept() codeableConcept {
	return codeableConcept{Coding: m.codings, Text: strings.Join(strings.Fields(m.GetName()+" "+m.GetStrength()+" "+m.GetForm()), " ")}
}

func (n names) medicine(id string) (*medicineFacts, error) {
	if known := n.medicines[id]; known != nil {
		return known, nil
	}
	got, err := n.x.Catalog.GetMedicine(n.x.call(), &stockledgerv1.GetMedicineRequest{ClinicId: n.x.clinic, MedicineId: id})
	if err != nil {
		return nil, err
	}
	facts := &medicineFacts{got.GetMedicine(), []coding{{medicineSystem, id, got.GetMedicine().GetName()}}}
	listed, err := n.x.Catalog.ListIdentifiers(n.x.call(), &stockledgerv1.ListIdentifiersRequest{
		ClinicId: n.x.clinic, Subject: stockledgerv1.IdentifierSubject_IDENTIFIER_SUBJECT_MEDICINE, SubjectId: id,
	})
	if err != nil {
		return nil, err
	}
	for _, i := range listed.GetIdentifiers() {
		facts.codings = append(facts.codings, coding{System: fhirSystem(i.GetSystem()), Code: i.GetValue()})
	}
	n.medicines[id] = facts
	return facts, nil
}

func (n names) lot(id string) (*stockledgerv1.Lot, error) {
	if known := n.lots[id]; known != nil {
		return known, nil
	}
	got, err := n.x.Catalog.GetLot(n.x.call(), &stockledgerv1.GetLotRequest{ClinicId: n.x.clinic, LotId: id})
	if err != nil {
		return nil, err
	}
	n.lots[id] = got.GetLot()
	return got.GetLot(), nil
}

// location is a reference to a location. A caller who may not read it gets it
// without its name.
func (n names) location(id string) (*reference, error) {
	name, known := n.locations[id]
	if !known {
		got, err := n.x.Catalog.GetLocation(n.x.call(), &stockledgerv1.GetLocationRequest{ClinicId: n.x.clinic, LocationId: id})
		if err != nil && connect.CodeOf(err) != connect.CodePermissionDenied {
			return nil, err
		}
		name = got.GetLocation().GetName()
		n.locations[id] = name
	}
	return &reference{Reference: "Location/" + id, Display: name}, nil
}

// lotMedication is a medicine of one lot, to be contained in the resource that
// is about it.
func (n names) lotMedication(medicineID, lotID string) (*medication, error) {
	facts, err := n.medicine(medicineID)
	if err != nil {
		return nil, err
	}
	lot, err := n.lot(lotID)
	if err != nil {
		return nil, err
	}
	m := &medication{
		ResourceType: "Medication", ID: "medication", Identifier: []identifier{{medicineSystem, medicineID}}, Code: facts.concept(),
		Batch: &batch{lot.GetLotNumber(), dateText(lot.GetExpiry())},
	}
	if facts.GetForm() != "" {
		m.Form = &codeableConcept{Text: facts.GetForm()}
	}
	if lot.GetManufacturer() != "" {
		m.Manufacturer = &reference{Display: lot.GetManufacturer()}
	}
	return m, nil
}

func dateText(d *date.Date) string {
	return fmt.Sprintf("%04d-%02d-%02d", d.GetYear(), d.GetMonth(), d.GetDay())
}
