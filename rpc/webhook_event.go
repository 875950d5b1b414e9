package rpc

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// eventTypePrefix stands before the name of an event in a CloudEvent's type.
const eventTypePrefix = "stockledger.v1."

// cloudEvent is a CloudEvent of version 1.0 in the structured mode.
type cloudEvent struct {
	SpecVersion string `json:"specversion"`
	ID          string `json:"id"`
	Source      string `json:"source"`
	Type        string `json:"type"`
	Subject     string `json:"subject,omitempty"`
	Time        string `json:"time"`
	// Extensions. Their integers have 32 bits, so these are texts; sequence, which
	// others know too, has to sort as a text.
	Epoch    string `json:"epoch"`
	Sequence string `json:"sequence"`

	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
}

// eventID names an event for ever.
func eventID(clinic ledger.ClinicID, p txn.Place) string {
	return fmt.Sprintf("%s/%d/%d", clinic, p.Epoch, p.Sequence)
}

// WebhookEvent renders an event as a webhook is sent it, and returns its id: a
// CloudEvent whose data is what EventService tells of the event to whoever made
// the webhook.
func WebhookEvent(w *txn.Webhook, e *txn.EventRecord) (id string, body []byte, err error) {
	told, err := fromEvent(results{managesCounts: w.SeesVariances}, e)
	if err != nil {
		return "", nil, err
	}
	data, err := newJSONCodec().MarshalOptions.Marshal(told)
	if err != nil {
		return "", nil, fmt.Errorf("rpc: render an event: %w", err)
	}
	id = eventID(e.Event.Clinic, txn.Place{Epoch: e.Epoch, Sequence: e.Event.Sequence})
	body, err = json.Marshal(cloudEvent{
		SpecVersion: "1.0", ID: id, Source: "/clinics/" + told.GetClinicId(), Type: eventTypePrefix + told.GetType(),
		Subject: eventSubject(told.GetOutcome()), Time: e.Event.At.Time().UTC().Format(time.RFC3339Nano),
		Epoch: decimal(e.Epoch), Sequence: fmt.Sprintf("%019d", e.Event.Sequence),
		DataContentType: "application/json", Data: data,
	})
	return id, body, err
}

// eventSubject is what an event is about in the first place, where that has a
// name.
func eventSubject(outcome *stockledgerv1.Accepted) string {
	switch {
	case outcome.GetStock().GetHoldId() != "":
		return outcome.GetStock().GetHoldId()
	case outcome.GetStock() != nil:
		return outcome.GetStock().GetLocationId() + "/" + outcome.GetStock().GetMedicineId()
	case outcome.GetDocument() != nil:
		return outcome.GetDocument().GetId()
	case outcome.GetApproval() != nil:
		return outcome.GetApproval().GetApprovalId()
	case len(outcome.GetChange().GetDocuments()) > 0:
		return outcome.GetChange().GetDocuments()[0].GetId()
	}
	return ""
}
