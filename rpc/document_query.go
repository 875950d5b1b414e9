package rpc

import (
	"context"
	"fmt"
	"strconv"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// What a query for documents looks at where it does not show all of them.
const (
	documentChunk  = 500
	documentsLimit = 10_000
)

// documentPage is a part of a list of documents.
type documentPage struct {
	documents []ledger.Document
	token     string // of the next part, empty at the end
	asOf      txn.AsOf
}

// documentList is a list of documents of one kind.
type documentList struct {
	// read reads so many documents from after a place, nil at the beginning.
	read func(after *txn.DocumentPlace, limit int, o txn.ReadOptions) ([]ledger.Document, *txn.DocumentPlace, txn.AsOf, error)
	// start is where the list begins; nil: with the first document.
	start *txn.DocumentPlace
	// shows, where not nil, tells the documents that are not left out. A part
	// may then be short, or empty, and still have a next one.
	shows func(ledger.DocumentBody) bool
	// queue tells that people work the list off: what was put in or taken out
	// must show at once, so it is read STRONG unless asked for otherwise.
	queue bool
}

// listDocuments reads the part of a list that a request asks for.
func (h *queryHandler) listDocuments(
	ctx context.Context, req paged, clinic string, filter txn.DocumentFilter, shows func(ledger.DocumentBody) bool,
) (documentPage, error) {
	filter.Locations = only(ctx)
	read := func(after *txn.DocumentPlace, limit int, o txn.ReadOptions) ([]ledger.Document, *txn.DocumentPlace, txn.AsOf, error) {
		return h.queries.Documents(ctx, ledger.ClinicID(clinic), filter, after, limit, o)
	}
	queue := filter.OpenOnly && (filter.Kind == ledger.DocumentTransfer || filter.Kind == ledger.DocumentApproval)
	return h.list(ctx, req, documentList{read: read, shows: shows, queue: queue})
}

// list reads the part of a list that a request asks for.
func (h *queryHandler) list(ctx context.Context, req paged, list documentList) (page documentPage, err error) {
	asked, err := h.open(ctx, req, 2)
	if err != nil {
		return page, err
	}
	place, err := toDocumentPlace(asked.key)
	if err != nil {
		return page, err
	}
	if place == nil {
		place = list.start
	}
	options := asked.options(txn.Bounded)
	if list.queue {
		options = asked.options(txn.Strong)
	}
	limit := asked.size
	if list.shows != nil {
		limit = max(limit, documentChunk)
	}
	for looked := 0; looked < documentsLimit; looked += limit {
		documents, next, asOf, err := list.read(place, limit, options)
		if err != nil {
			return page, err
		}
		page.asOf, place = asOf, next
		for i, document := range documents {
			if list.shows != nil && !list.shows(document.Body) {
				continue
			}
			page.documents = append(page.documents, document)
			if last := i == len(documents)-1 && next == nil; len(page.documents) == asked.size && !last {
				page.token, err = h.sealPlace(ctx, req, asOf, placeOf(&document))
				return page, err
			}
		}
		if next == nil {
			return page, nil
		}
	}
	page.token, err = h.sealPlace(ctx, req, page.asOf, place)
	return page, err
}

func placeOf(d *ledger.Document) *txn.DocumentPlace {
	return &txn.DocumentPlace{Opened: d.OpenedSequence, ID: d.Body.About().ID}
}

func (h *queryHandler) sealPlace(ctx context.Context, req paged, asOf txn.AsOf, place *txn.DocumentPlace) (string, error) {
	return h.seal(ctx, req, asOf, decimal(place.Opened), place.ID)
}

func toDocumentPlace(key []string) (*txn.DocumentPlace, error) {
	if key[0] == "" {
		return nil, nil
	}
	opened, err := strconv.ParseInt(key[0], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	return &txn.DocumentPlace{Opened: ledger.Sequence(opened), ID: key[1]}, nil
}

// rendered renders documents whose bodies are all of one type.
func rendered[T ledger.DocumentBody, Message any](documents []ledger.Document, render func(*ledger.Document, T) Message) []Message {
	list := make([]Message, 0, len(documents))
	for i := range documents {
		if body, ok := documents[i].Body.(T); ok {
			list = append(list, render(&documents[i], body))
		}
	}
	return list
}

// documentNotFound is what a query says where there is no such document, by its
// kind.
var documentNotFound = map[ledger.DocumentKind]struct {
	reason ledger.Reason
	field  string
}{
	ledger.DocumentTransfer: {ledger.ReasonTransferNotFound, "transfer_id"},
	ledger.DocumentCount:    {ledger.ReasonCountNotFound, "count_id"},
	ledger.DocumentRecall:   {ledger.ReasonRecallNotFound, "recall_id"},
	ledger.DocumentApproval: {ledger.ReasonApprovalNotFound, "approval_id"},

	ledger.DocumentPrescription: {ledger.ReasonPrescriptionNotFound, "prescription_id"},
	ledger.DocumentDispensing:   {ledger.ReasonDispensingNotFound, "dispensing_id"},
	ledger.DocumentPatient:      {ledger.ReasonPatientNotFound, "patient_id"},
}

// findDocument reads one document that the principal may see.
func findDocument[T ledger.DocumentBody](ctx context.Context, h *queryHandler, clinic string, kind ledger.DocumentKind, id string, o txn.ReadOptions) (body T, d *ledger.Document, asOf txn.AsOf, err error) {
	d, asOf, err = h.queries.Document(ctx, ledger.ClinicID(clinic), ledger.DocumentKey{Kind: kind, ID: id}, o)
	if err != nil {
		return body, nil, asOf, err
	}
	absent := documentNotFound[kind]
	if d == nil {
		return body, nil, asOf, &ledger.Rejection{
			Reason: absent.reason, Field: absent.field, Message: fmt.Sprintf("Clinic %q has no %s %q.", clinic, kind, id),
			Metadata: map[string]string{absent.field: id},
		}
	}
	if !principalOf(ctx).seesDocument(d.Body.About()) {
		return body, nil, asOf, subjectForbidden(absent.field, id)
	}
	body, ok := d.Body.(T)
	if !ok {
		return body, nil, asOf, fmt.Errorf("rpc: %s %q is a %T", kind, id, d.Body)
	}
	return body, d, asOf, nil
}

// seesDocument reports whether a document concerns a location that the
// principal reaches, or the clinic as a whole.
func (p *Principal) seesDocument(about ledger.About) bool {
	if about.Location == "" && about.OtherLocation == "" {
		return true
	}
	return about.Location != "" && p.reachesLocation(about.Location) ||
		about.OtherLocation != "" && p.reachesLocation(about.OtherLocation)
}

// now is the time of an answer: as for commands, the journal's where the clock
// is behind it.
func (h *queryHandler) now(asOf txn.AsOf) ledger.Instant {
	return max(ledger.InstantOf(h.queries.Clock()), asOf.Time)
}
