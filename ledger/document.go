package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// DocumentKind says what a document is about. The numbers are part of the
// stored format and never change.
type DocumentKind int16

// The kinds of documents.
const (
	DocumentTransfer   DocumentKind = 1
	DocumentCount      DocumentKind = 2
	DocumentRecall     DocumentKind = 3
	DocumentApproval   DocumentKind = 4
	DocumentReversal   DocumentKind = 5
	DocumentLoan       DocumentKind = 6
	DocumentLevel      DocumentKind = 7
	DocumentPolicy     DocumentKind = 8
	DocumentPacks      DocumentKind = 9
	DocumentIdentifier DocumentKind = 10

	DocumentPrices               DocumentKind = 11
	DocumentPrescriptionTemplate DocumentKind = 12
	DocumentControlLimit         DocumentKind = 13

	// Those from here on are many, and are read when a command names them: see
	// [DocumentKind.OnDemand].
	DocumentPrescription           DocumentKind = 20
	DocumentDispensing             DocumentKind = 21
	DocumentPrescriptionIdentifier DocumentKind = 22
	DocumentPatient                DocumentKind = 23
	DocumentCharge                 DocumentKind = 24
	DocumentDowntime               DocumentKind = 25
)

var documentKinds = map[DocumentKind]struct {
	name string
	make func() DocumentBody
}{
	DocumentTransfer:   {"transfer", func() DocumentBody { return new(Transfer) }},
	DocumentCount:      {"count", func() DocumentBody { return new(Count) }},
	DocumentRecall:     {"recall", func() DocumentBody { return new(Recall) }},
	DocumentApproval:   {"approval", func() DocumentBody { return new(Approval) }},
	DocumentReversal:   {"reversal", func() DocumentBody { return new(Reversal) }},
	DocumentLoan:       {"loan", func() DocumentBody { return new(Loan) }},
	DocumentLevel:      {"stock levels", func() DocumentBody { return new(Level) }},
	DocumentPolicy:     {"policy", func() DocumentBody { return new(Policy) }},
	DocumentPacks:      {"packs", func() DocumentBody { return new(Packs) }},
	DocumentIdentifier: {"identifier", func() DocumentBody { return new(Identifier) }},

	DocumentPrices:               {"prices", func() DocumentBody { return new(Prices) }},
	DocumentPrescriptionTemplate: {"prescription template", func() DocumentBody { return new(PrescriptionTemplate) }},
	DocumentControlLimit:         {"control limit", func() DocumentBody { return new(ControlLimit) }},

	DocumentPrescription:           {"prescription", func() DocumentBody { return new(Prescription) }},
	DocumentDispensing:             {"dispensing", func() DocumentBody { return new(Dispensing) }},
	DocumentPrescriptionIdentifier: {"prescription identifier", func() DocumentBody { return new(PrescriptionIdentifier) }},
	DocumentPatient:                {"patient", func() DocumentBody { return new(Patient) }},
	DocumentCharge:                 {"charge", func() DocumentBody { return new(Charge) }},
	DocumentDowntime:               {"downtime record", func() DocumentBody { return new(Downtime) }},
}

// String names the kind for people.
func (k DocumentKind) String() string {
	if spec, ok := documentKinds[k]; ok {
		return spec.name
	}
	return fmt.Sprintf("document kind(%d)", int16(k))
}

// DocumentKey names a document in its clinic.
type DocumentKey struct {
	Kind DocumentKind
	ID   string
}

// About is what everybody may know of a document without reading it.
type About struct {
	DocumentKey
	// Open tells that commands still depend on it.
	Open bool
	// Location and OtherLocation are those that it concerns; both empty where
	// it concerns the clinic as a whole.
	Location, OtherLocation LocationID
	// Patient, Day and Due are what documents of the pharmacy are looked for
	// by: whom they concern, the day at the clinic on which it happened, and
	// until when something waits. Empty and zero in the others.
	Patient PatientID
	Day     Date
	Due     Instant
}

// concerns reports whether it concerns one of the locations, or the whole
// clinic.
func (a About) concerns(locations []LocationID) bool {
	return a.Location == "" && a.OtherLocation == "" ||
		slices.Contains(locations, a.Location) || slices.Contains(locations, a.OtherLocation)
}

// DocumentBody is one of the document types of this package: Transfer, Count,
// Recall, Approval, Reversal, Loan, Level, Policy, Packs, Identifier, Prices,
// PrescriptionTemplate, ControlLimit, Prescription, Dispensing,
// PrescriptionIdentifier, Patient, Charge, Downtime.
type DocumentBody interface {
	About() About
	fields(*codec)
}

// Document is something that commands are about for longer than one command,
// as the last of them left it.
type Document struct {
	Body           DocumentBody
	OpenedSequence Sequence
	LastSequence   Sequence
}

// AppendDocument appends the stored form of a document's body to dst.
func AppendDocument(dst []byte, body DocumentBody) []byte {
	c := codec{buf: dst}
	body.fields(&c)
	return c.buf
}

// DecodeDocument reads the stored form of a document's body. It accepts exactly
// what [AppendDocument] writes.
func DecodeDocument(kind DocumentKind, stored []byte) (DocumentBody, error) {
	spec, ok := documentKinds[kind]
	if !ok {
		return nil, fmt.Errorf("document kind %d is unknown to this release", int16(kind))
	}
	c := codec{buf: stored, reading: true}
	body := spec.make()
	body.fields(&c)
	if c.err == nil && len(c.buf) > 0 {
		c.err = fmt.Errorf("%d bytes follow its end", len(c.buf))
	}
	if c.err != nil {
		return nil, fmt.Errorf("%s: %w", spec.name, c.err)
	}
	return body, nil
}

// documentField codes a document inside an event.
func documentField(c *codec, p *DocumentBody) {
	var kind DocumentKind
	if !c.reading {
		kind = (*p).About().Kind
	}
	number(c, &kind)
	if c.reading {
		spec, ok := documentKinds[kind]
		if !ok {
			c.fail(fmt.Errorf("document kind %d is unknown to this release", int16(kind)))
			// The reader goes on to its end, and must have something to read into.
			*p = new(Reversal)
			return
		}
		*p = spec.make()
	}
	(*p).fields(c)
}

// document returns a document's body, or nil: that of an open one, or of one
// that is read on demand and known.
func document[T any](s *State, kind DocumentKind, id string) *T {
	found := s.findDocument(DocumentKey{kind, id})
	if found == nil {
		return nil
	}
	body, _ := any(found.Body).(*T)
	return body
}

// putDocument replaces a document, or makes it, or forgets it where it is no
// longer open.
func (s *State) putDocument(e *Event, body DocumentBody, effects *Effects) error {
	about := body.About()
	if about.ID == "" {
		return errors.New("a document has no id")
	}
	next := &Document{Body: body, OpenedSequence: e.Sequence, LastSequence: e.Sequence}
	if about.Kind.OnDemand() {
		if b, ok := body.(interface{ opened() Sequence }); ok {
			next.OpenedSequence = b.opened()
		}
		put(s, s.onDemand, about.DocumentKey, next)
		effects.Documents = append(effects.Documents, next)
		return nil
	}
	if old, ok := s.documents[about.DocumentKey]; ok {
		next.OpenedSequence = old.OpenedSequence
		s.unindexDocument(old.Body)
	}
	if about.Open {
		put(s, s.documents, about.DocumentKey, next)
		s.indexDocument(body)
	} else {
		remove(s, s.documents, about.DocumentKey)
	}
	effects.Documents = append(effects.Documents, next)
	return nil
}

// indexDocument keeps what must be found by something else than its id.
func (s *State) indexDocument(body DocumentBody) {
	switch b := body.(type) {
	case *Packs:
		for _, pack := range b.Packs {
			if pack.GTIN != "" {
				put(s, s.byIdentity, packIdentity(pack.GTIN), string(b.MedicineID))
			}
		}
	case *Recall:
		if b.follows() {
			put(s, s.byIdentity, recallIdentity(b), string(b.RecallID))
		}
	}
}

func (s *State) unindexDocument(body DocumentBody) {
	switch b := body.(type) {
	case *Packs:
		for _, pack := range b.Packs {
			if pack.GTIN != "" {
				remove(s, s.byIdentity, packIdentity(pack.GTIN))
			}
		}
	case *Recall:
		if b.follows() {
			remove(s, s.byIdentity, recallIdentity(b))
		}
	}
}

func compareDocuments(a, b Document) int {
	x, y := a.Body.About(), b.Body.About()
	return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.ID, y.ID))
}
