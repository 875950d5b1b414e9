package fhir

import (
	"net/http"
	"strconv"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

var supplyDeliveries = &served{
	name: "SupplyDelivery",
	parameters: []parameter{
		{"status", "token", "One or both of in-progress and completed, separated by a comma."},
		locationParameter,
		countParameter,
	},
	read:   (*exchange).readDelivery,
	search: (*exchange).searchDeliveries,
}

// supplyDelivery is what a location received of one lot by one transfer.
type supplyDelivery struct {
	ResourceType string          `json:"resourceType"`
	ID           string          `json:"id"`
	Meta         meta            `json:"meta"`
	Contained    []*medication   `json:"contained"`
	Identifier   []identifier    `json:"identifier"`
	Status       string          `json:"status"`
	Type         codeableConcept `json:"type"`
	SuppliedItem suppliedItem    `json:"suppliedItem"`
	Supplier     *reference      `json:"supplier,omitempty"`
	Destination  *reference      `json:"destination"`
}

type suppliedItem struct {
	Quantity quantity  `json:"quantity"`
	Item     reference `json:"itemReference"`
}

// arriving are the states of transfers of which something may have arrived.
var arriving = []stockledgerv1.TransferStatus{
	stockledgerv1.TransferStatus_TRANSFER_STATUS_IN_TRANSIT, stockledgerv1.TransferStatus_TRANSFER_STATUS_RECEIVED,
	stockledgerv1.TransferStatus_TRANSFER_STATUS_COMPLETED, stockledgerv1.TransferStatus_TRANSFER_STATUS_CANCELLED,
}

// deliveryStatus is how far a parcel has come: more of it may arrive as long as
// some is under way.
func deliveryStatus(p *stockledgerv1.Parcel) string {
	if p.GetInTransit() > 0 {
		return "in-progress"
	}
	return "completed"
}

func arrived(p *stockledgerv1.Parcel) int64 { return p.GetReceived() + p.GetSurplus() }

func (x *exchange) transfer(id string) (*stockledgerv1.Transfer, error) {
	got, err := x.Query.GetTransfer(x.call(), &stockledgerv1.GetTransferRequest{ClinicId: x.clinic, TransferId: id, Read: strong()})
	return got.GetTransfer(), err
}

func (x *exchange) readDelivery(id string) (*answer, error) {
	number, parcel, ok := splitLine(id, "TR-")
	if !ok {
		return nil, missing("SupplyDelivery", id)
	}
	t, err := x.transfer(number)
	if err != nil {
		return nil, err
	}
	if parcel > len(t.GetParcels()) || arrived(t.GetParcels()[parcel-1]) == 0 {
		return nil, missing("SupplyDelivery", id)
	}
	resource, err := x.supplyDelivery(t, parcel)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, header: http.Header{"Etag": {weakETag(resource.Meta.VersionID)}}, body: resource}, nil
}

func (x *exchange) searchDeliveries(s *searchRequest) ([]found, string, error) {
	if err := s.statuses("in-progress", "completed", "abandoned", "entered-in-error"); err != nil {
		return nil, "", err
	}
	listed, err := x.Query.ListTransfers(x.call(), &stockledgerv1.ListTransfersRequest{
		ClinicId: x.clinic, LocationId: s.get("location"), Statuses: arriving, Page: s.pageOf(), Read: strong(), NewestFirst: true,
	})
	if err != nil {
		return nil, "", err
	}
	var matches []found
	for _, t := range listed.GetTransfers() {
		// Lists leave the parcels out.
		full, err := x.transfer(t.GetTransferId())
		if err != nil {
			return nil, "", err
		}
		for i, p := range full.GetParcels() {
			if arrived(p) == 0 || !s.among(deliveryStatus(p)) {
				continue
			}
			resource, err := x.supplyDelivery(full, i+1)
			if err != nil {
				return nil, "", err
			}
			matches = append(matches, found{resource.ID, resource})
		}
	}
	return matches, listed.GetNextPageToken(), nil
}

func (x *exchange) supplyDelivery(t *stockledgerv1.Transfer, parcel int) (*supplyDelivery, error) {
	p := t.GetParcels()[parcel-1]
	contained, err := x.names.lotMedication(p.GetMedicineId(), p.GetLotId())
	if err != nil {
		return nil, err
	}
	facts, err := x.names.medicine(p.GetMedicineId())
	if err != nil {
		return nil, err
	}
	source, err := x.names.location(t.GetFromLocationId())
	if err != nil {
		return nil, err
	}
	destination, err := x.names.location(t.GetToLocationId())
	if err != nil {
		return nil, err
	}
	return &supplyDelivery{
		ResourceType: "SupplyDelivery", ID: lineID(t.GetTransferId(), parcel), Meta: meta{VersionID: strconv.FormatInt(t.GetLastSequence(), 10)},
		Contained: []*medication{contained}, Identifier: []identifier{{transferSystem, t.GetTransferId()}}, Status: deliveryStatus(p),
		Type:         codeableConcept{Coding: []coding{{"http://terminology.hl7.org/CodeSystem/supply-item-type", "medication", "Medication"}}},
		SuppliedItem: suppliedItem{quantityOf(arrived(p), facts.GetBaseUnit()), reference{Reference: "#" + contained.ID, Display: facts.GetName()}},
		// A supplier is a person or an organization in FHIR, never a location.
		Supplier: supplierOf(source), Destination: destination,
	}, nil
}

func supplierOf(location *reference) *reference {
	if location.Display == "" {
		return nil
	}
	return &reference{Display: location.Display}
}
