package fhir

import (
	"encoding/json"
	"testing"

	"google.golang.org/genproto/googleapis/type/date"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// knowing is an exchange that has looked up all that the resources name.
func knowing() *exchange {
	x := &exchange{clinic: "c", base: "http://localhost/fhir/c"}
	x.names = newNames(x)
	for _, id := range []string{"zinc", "zinc-drops"} {
		medicine := &stockledgerv1.Medicine{MedicineId: id, Name: "Zinc", Strength: "20 mg", Form: "tablet", BaseUnit: "tablet"}
		x.names.medicines[id] = &medicineFacts{medicine, []coding{{medicineSystem, id, "Zinc"}}}
	}
	x.names.lots["L1"] = &stockledgerv1.Lot{LotId: "L1", LotNumber: "77", Manufacturer: "Acme", Expiry: &date.Date{Year: 2099, Month: 6, Day: 30}}
	x.names.locations["store"], x.names.locations["ward"] = "Store", ""
	return x
}

// Everything that is written is FHIR: with all that a resource can say, and with
// as little as there can be.
func TestWhatIsWrittenIsFHIR(t *testing.T) {
	x := knowing()
	day := &date.Date{Year: 2026, Month: 11, Day: 3}
	lots := []*stockledgerv1.DispensedLot{{LotId: "L1", Quantity: 10, Returned: 2}}
	var written []any
	for _, d := range []*stockledgerv1.Dispensing{
		{DispensingId: "DN-7", MedicineId: "zinc", LocationId: "store", Lots: lots, Status: stockledgerv1.DispensingStatus_DISPENSING_STATUS_PREPARED, Preparer: "ann", Day: day},
		{
			DispensingId: "DN-8", MedicineId: "zinc-drops", LocationId: "ward", Lots: lots, Status: stockledgerv1.DispensingStatus_DISPENSING_STATUS_CANCELLED,
			Preparer: "ann", Checker: "bo", Dispenser: "ann", Day: day, PatientId: "pt_1", PrescriptionId: "RX-3", Line: 2, ReasonCode: "MISTAKE",
			PrescribedMedicineId: "zinc", SubstitutionReason: "OUT_OF_STOCK", LastSequence: 9,
		},
	} {
		resource, err := x.medicationDispense(d, 1)
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, resource)
	}
	delivery, err := x.supplyDelivery(&stockledgerv1.Transfer{
		TransferId: "TR-4", FromLocationId: "store", ToLocationId: "ward", LastSequence: 5,
		Parcels: []*stockledgerv1.Parcel{{MedicineId: "zinc", LotId: "L1", InTransit: 1, Received: 3}},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	written = append(written, delivery)
	for _, resource := range written {
		body, err := json.Marshal(resource)
		if err != nil {
			t.Fatal(err)
		}
		checkOutgoing(t, body)
	}
}

// An order that the ledger made itself could have come from outside.
func TestOwnOrdersAreFHIR(t *testing.T) {
	x := knowing()
	line := &stockledgerv1.PrescriptionLine{MedicineId: "zinc", Quantity: 10, Left: 10, Refills: 2, DosageText: "one a day", NoSubstitution: true}
	p := &stockledgerv1.Prescription{
		PrescriptionId: "RX-3", PatientId: "pt_1", Lines: []*stockledgerv1.PrescriptionLine{line, line}, ValidUntil: &date.Date{Year: 2099, Month: 1, Day: 31},
		Prescriber: "Dr. Otieno", Note: "with food", Etag: "3", Identifier: &stockledgerv1.ExternalIdentifier{System: "paper", Value: "R-1"},
	}
	resource, err := x.medicationRequest(p, 2)
	if err != nil {
		t.Fatal(err)
	}
	if issues := judge(string(resource.append(nil))); len(issues) > 0 {
		t.Errorf("%s: %+v", resource.append(nil), issues)
	}
}
