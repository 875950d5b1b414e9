package ledger

import (
	"fmt"
	"slices"
	"strings"
)

// Kinds of commands about packs and identifiers.
const (
	KindSetPacks         Kind = 13
	KindAddIdentifier    Kind = 14
	KindRemoveIdentifier Kind = 15
)

// maxPacks bounds the packs of one medicine.
const maxPacks = 50

// maxPackFactor is the largest number of base units in a pack: a million is
// more than any pallet holds.
const maxPackFactor = 1_000_000_000

// Packs are the ways in which a medicine is packed.
type Packs struct {
	MedicineID MedicineID
	Packs      []Pack
}

// Pack is a pack of a medicine, for example a box or a case.
type Pack struct {
	Name   string // unique for the medicine, without regard to case
	Factor int64  // base units in one pack, 1 to 10^9
	GTIN   string // what its bar code says, 8, 12, 13 or 14 digits; may be empty
}

// About is for the index of documents.
func (p *Packs) About() About {
	return About{DocumentKey: DocumentKey{DocumentPacks, string(p.MedicineID)}, Open: true}
}

func (p *Packs) fields(c *codec) {
	text(c, &p.MedicineID)
	packFields(c, &p.Packs)
}

func packFields(c *codec, p *[]Pack) {
	list(c, p, 3, func(c *codec, pack *Pack) {
		text(c, &pack.Name)
		number(c, &pack.Factor)
		text(c, &pack.GTIN)
	})
}

// IdentifierSubject says what an identifier identifies. The numbers are stored.
type IdentifierSubject int16

// What an identifier can identify.
const (
	SubjectMedicine IdentifierSubject = 1
	SubjectLot      IdentifierSubject = 2
	SubjectLocation IdentifierSubject = 3
	SubjectSupplier IdentifierSubject = 4 // by its name
)

var subjectNames = map[IdentifierSubject]string{
	SubjectMedicine: "medicine", SubjectLot: "lot", SubjectLocation: "location", SubjectSupplier: "supplier",
}

// String returns the subject's word in the API.
func (s IdentifierSubject) String() string {
	if name, ok := subjectNames[s]; ok {
		return name
	}
	return fmt.Sprintf("subject(%d)", int16(s))
}

// Identifier is the name that another system gives to something of the clinic.
type Identifier struct {
	Subject       IdentifierSubject
	SubjectID     string
	System, Value string
	Removed       bool
}

// About is for the index of documents.
func (i *Identifier) About() About {
	return About{
		DocumentKey: DocumentKey{DocumentIdentifier, identifierID(i.Subject, i.System, i.Value)},
		Open:        !i.Removed,
	}
}

func identifierID(subject IdentifierSubject, system, value string) string {
	return subject.String() + referenceBar + system + referenceBar + value
}

func (i *Identifier) fields(c *codec) {
	number(c, &i.Subject)
	text(c, &i.SubjectID)
	text(c, &i.System)
	text(c, &i.Value)
	c.flag(&i.Removed)
}

// SetPacks says how a medicine is packed from now on. Quantities in packs are
// converted when a command is given, so nothing recorded changes.
type SetPacks struct {
	MedicineID MedicineID
	Packs      []Pack
	Etag       string
}

// AddIdentifier makes another system's name for something known. A system and
// value name one subject of a kind.
type AddIdentifier struct {
	Subject       IdentifierSubject
	SubjectID     string
	System, Value string
}

// RemoveIdentifier forgets another system's name.
type RemoveIdentifier struct {
	Subject       IdentifierSubject
	System, Value string
	ReasonCode    string
}

// Kind identifies the command.
func (*SetPacks) Kind() Kind { return KindSetPacks }

// Kind identifies the command.
func (*AddIdentifier) Kind() Kind { return KindAddIdentifier }

// Kind identifies the command.
func (*RemoveIdentifier) Kind() Kind { return KindRemoveIdentifier }

func (b *SetPacks) fields(c *codec) {
	text(c, &b.MedicineID)
	packFields(c, &b.Packs)
	text(c, &b.Etag)
}

func (b *AddIdentifier) fields(c *codec) {
	number(c, &b.Subject)
	text(c, &b.SubjectID)
	text(c, &b.System)
	text(c, &b.Value)
}

func (b *RemoveIdentifier) fields(c *codec) {
	number(c, &b.Subject)
	text(c, &b.System)
	text(c, &b.Value)
	text(c, &b.ReasonCode)
}

func (b *SetPacks) check() *Rejection {
	if len(b.Packs) > maxPacks {
		return reject(ReasonInvalidField, "packs", "A medicine may have at most %d packs; there are %d.", maxPacks, len(b.Packs))
	}
	names, gtins := make(map[string]bool), make(map[string]bool)
	for i, pack := range b.Packs {
		r := first(word("name", true)(pack.Name), checkGTIN(pack.GTIN))
		key := strings.ToLower(pack.Name)
		switch {
		case r != nil:
		case pack.Factor < 1 || pack.Factor > maxPackFactor:
			r = reject(ReasonQuantityOutOfRange, "factor", "A pack holds 1 to %d base units; this one would hold %d.", maxPackFactor, pack.Factor)
		case names[key]:
			r = reject(ReasonInvalidField, "name", "Two packs are called %q.", pack.Name)
		case pack.GTIN != "" && gtins[gtin14(pack.GTIN)]:
			r = reject(ReasonInvalidField, "gtin", "Two packs have the GTIN %s.", pack.GTIN)
		}
		if r != nil {
			return r.of(fmt.Sprintf("packs[%d].%s", i, r.Field))
		}
		names[key], gtins[gtin14(pack.GTIN)] = true, true
	}
	return first(checkReference("medicine_id", b.MedicineID), checkEtag(b.Etag))
}

func checkPack(pack string) *Rejection { return checkText("pack", pack, maxWord, false) }

func checkIdentifier(subject IdentifierSubject, system, value string) *Rejection {
	if _, ok := subjectNames[subject]; !ok {
		return reject(ReasonInvalidField, "subject", "The subject must be a medicine, lot, location or supplier.")
	}
	if system == systemGS1 {
		return reject(ReasonInvalidField, "system", "The system gs1 stands for what a scanner reads; a pack's GTIN is given with SetPacks.")
	}
	if strings.Contains(value, referenceBar) {
		return reject(ReasonInvalidField, "value", "An identifier's value holds no vertical bar.")
	}
	if system == systemGTIN {
		if r := checkGTIN(value); r != nil {
			return r.of("value")
		}
	}
	return first(checkCode("system", system, true), word("value", true)(value))
}

func (b *AddIdentifier) check() *Rejection {
	return first(
		checkIdentifier(b.Subject, b.System, b.Value),
		checkText("subject_id", b.SubjectID, maxName, true),
	)
}

func (b *RemoveIdentifier) check() *Rejection {
	return first(checkIdentifier(b.Subject, b.System, b.Value), checkCode("reason_code", b.ReasonCode, true))
}

func (b *SetPacks) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	medicine, r := s.activeMedicine(b.MedicineID)
	if r != nil {
		return nil, r
	}
	if r := s.checkDocumentVersion(b.Etag, DocumentKey{DocumentPacks, string(medicine.ID)}); r != nil {
		return nil, r
	}
	for i, pack := range b.Packs {
		// As a pack of another medicine, or as an identifier of one.
		taken, exists := s.identified(SubjectMedicine, systemGTIN+referenceBar+pack.GTIN)
		if pack.GTIN != "" && exists && taken != string(medicine.ID) {
			return nil, reject(ReasonIdentifierExists, fmt.Sprintf("packs[%d].gtin", i), "GTIN %s names medicine %q.", pack.GTIN, taken).
				with("medicine_id", taken)
		}
	}
	packs := &Packs{MedicineID: medicine.ID, Packs: slices.Clone(b.Packs)}
	return &Change{of: b.Kind(), Documents: []DocumentBody{packs}}, nil
}

// checkDocumentVersion refuses to replace a document that was changed since the
// caller read it. The etag of a document that does not exist is 0.
func (s *State) checkDocumentVersion(etag string, key DocumentKey) *Rejection {
	if found := s.findDocument(key); found != nil {
		return checkVersion(etag, found.LastSequence)
	}
	return checkVersion(etag, 0)
}

// packFactor is how many base units a medicine's pack holds.
func (s *State) packFactor(medicine MedicineID, name string) (int64, *Rejection) {
	packs := document[Packs](s, DocumentPacks, string(medicine))
	if packs != nil {
		for _, pack := range packs.Packs {
			if strings.EqualFold(pack.Name, name) {
				return pack.Factor, nil
			}
		}
	}
	return 0, reject(ReasonPackNotFound, "pack", "Medicine %q has no pack %q.", medicine, name).with("medicine_id", medicine, "pack", name)
}

func (b *AddIdentifier) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	identifier := &Identifier{Subject: b.Subject, System: b.System, Value: b.Value}
	if b.System == systemGTIN {
		identifier.Value = gtin14(b.Value)
	}
	var r *Rejection
	if identifier.SubjectID, r = s.subject(b.Subject, b.SubjectID); r != nil {
		return nil, r.of("subject_id")
	}
	if found, ok := s.identified(b.Subject, b.System+referenceBar+b.Value); ok {
		return nil, reject(ReasonIdentifierExists, "value", "%s %s names %s %q.", b.System, b.Value, b.Subject, found).with("subject_id", found)
	}
	return &Change{of: b.Kind(), Documents: []DocumentBody{identifier}}, nil
}

// subject resolves a reference into the id that identifiers are kept with.
func (s *State) subject(subject IdentifierSubject, reference string) (string, *Rejection) {
	switch subject {
	case SubjectMedicine:
		medicine, r := s.activeMedicine(MedicineID(reference))
		if r != nil {
			return "", r
		}
		return string(medicine.ID), nil
	case SubjectLot:
		lot, r := s.knownLot(LotID(reference))
		if r != nil {
			return "", r
		}
		return string(lot.ID), nil
	case SubjectLocation:
		location, r := s.activeLocation(LocationID(reference))
		if r != nil {
			return "", r
		}
		return string(location.ID), nil
	}
	return s.supplier(reference)
}

func (b *RemoveIdentifier) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	value := b.Value
	if b.System == systemGTIN {
		value = gtin14(value)
	}
	found := document[Identifier](s, DocumentIdentifier, identifierID(b.Subject, b.System, value))
	if found == nil {
		return nil, reject(ReasonIdentifierNotFound, "value", "No %s has the identifier %s %s.", b.Subject, b.System, b.Value)
	}
	removed := *found
	removed.Removed = true
	return &Change{of: b.Kind(), Documents: []DocumentBody{&removed}, ReasonCode: b.ReasonCode}, nil
}
