package ledger

import "strings"

// PatientID is a random token that stands for a patient in one clinic. It says
// nothing about who that is: identity and free text are kept in a deletable
// side table, under a key of the patient's own.
type PatientID string

// Kinds of commands about patients.
const (
	KindRegisterPatient Kind = 75
	KindUpdatePatient   Kind = 76
	KindErasePatient    Kind = 77
	KindPlaceLegalHold  Kind = 78
	KindLiftLegalHold   Kind = 79
)

// Patient is what the journal knows of a patient. TextDigest, here and in other
// documents, names a text in the side table: it is a keyed digest under the
// patient's key, so it says nothing once the key is gone.
type Patient struct {
	PatientID  PatientID
	Registered Sequence
	TextDigest string // of the identity
	Erased     bool
	LegalHold  bool // must not be erased
	ReasonCode string
}

// About is for the index of documents.
func (p *Patient) About() About {
	return About{DocumentKey: DocumentKey{DocumentPatient, string(p.PatientID)}, Open: !p.Erased, Patient: p.PatientID}
}

func (p *Patient) opened() Sequence { return p.Registered }

func (p *Patient) fields(c *codec) {
	text(c, &p.PatientID)
	number(c, &p.Registered)
	text(c, &p.TextDigest)
	c.flag(&p.Erased)
	c.flag(&p.LegalHold)
	text(c, &p.ReasonCode)
}

// Patient tokens: a prefix and 26 digits of Crockford's base 32, 130 random bits.
const (
	PatientPrefix = "pt_"
	PatientDigits = 26
)

// Valid reports whether the id has the form of a token.
func (id PatientID) Valid() bool {
	digits, ok := strings.CutPrefix(string(id), PatientPrefix)
	return ok && len(digits) == PatientDigits && strings.Trim(digits, idAlphabet) == ""
}

func checkPatientID(id PatientID) *Rejection {
	if id.Valid() {
		return nil
	}
	return reject(ReasonInvalidField, "patient_id", "The patient_id must be a token that RegisterPatient made: %s and %d letters and digits.", PatientPrefix, PatientDigits)
}

// A digest of a text is 128 bits in hexadecimal.
const textDigestDigits = 32

func checkTextDigest(field, digest string) *Rejection {
	if digest == "" || len(digest) == textDigestDigits && strings.Trim(digest, "0123456789abcdef") == "" {
		return nil
	}
	return reject(ReasonInvalidField, field, "The digest of the text must be %d hexadecimal digits.", textDigestDigits)
}

// PrivateText returns the patient whom the text is about that was given with the
// command which waits, and the text's digest; an empty one where there is none.
func (a *Approval) PrivateText() (PatientID, string) {
	body, err := decodeBody(a.Command, a.Body)
	if a.Review || err != nil {
		return "", ""
	}
	switch b := body.(type) {
	case *RegisterPatient:
		return b.PatientID, b.TextDigest
	case *UpdatePatient:
		return b.PatientID, b.TextDigest
	case *CreatePrescription:
		return b.PatientID, b.TextDigest
	}
	return "", ""
}

// RegisterPatient makes a patient known by a token.
type RegisterPatient struct {
	PatientID  PatientID // random, made by who receives the command
	TextDigest string
}

// UpdatePatient replaces the identity that is kept of a patient.
type UpdatePatient struct {
	PatientID  PatientID
	TextDigest string
	Etag       string
}

// ErasePatient destroys all that is kept of a patient outside of the journal.
type ErasePatient struct {
	PatientID  PatientID
	ReasonCode string
}

// PlaceLegalHold forbids to erase a patient.
type PlaceLegalHold struct {
	PatientID  PatientID
	ReasonCode string
}

// LiftLegalHold allows again to erase a patient.
type LiftLegalHold struct {
	PatientID  PatientID
	ReasonCode string
}

// Kind identifies the command.
func (*RegisterPatient) Kind() Kind { return KindRegisterPatient }

// Kind identifies the command.
func (*UpdatePatient) Kind() Kind { return KindUpdatePatient }

// Kind identifies the command.
func (*ErasePatient) Kind() Kind { return KindErasePatient }

// Kind identifies the command.
func (*PlaceLegalHold) Kind() Kind { return KindPlaceLegalHold }

// Kind identifies the command.
func (*LiftLegalHold) Kind() Kind { return KindLiftLegalHold }

func (b *RegisterPatient) fields(c *codec) {
	text(c, &b.PatientID)
	text(c, &b.TextDigest)
}

func (b *UpdatePatient) fields(c *codec) {
	text(c, &b.PatientID)
	text(c, &b.TextDigest)
	text(c, &b.Etag)
}

func (b *ErasePatient) fields(c *codec) {
	text(c, &b.PatientID)
	text(c, &b.ReasonCode)
}

func (b *PlaceLegalHold) fields(c *codec) { (*ErasePatient)(b).fields(c) }

func (b *LiftLegalHold) fields(c *codec) { (*ErasePatient)(b).fields(c) }

func (b *RegisterPatient) check() *Rejection {
	return first(checkPatientID(b.PatientID).of(""), checkTextDigest("identity", b.TextDigest))
}

func (b *UpdatePatient) check() *Rejection {
	return first(checkPatientID(b.PatientID), checkTextDigest("identity", b.TextDigest), checkEtag(b.Etag))
}

func (b *ErasePatient) check() *Rejection {
	return first(checkPatientID(b.PatientID), checkCode("reason_code", b.ReasonCode, true))
}

func (b *PlaceLegalHold) check() *Rejection { return (*ErasePatient)(b).check() }

func (b *LiftLegalHold) check() *Rejection { return (*ErasePatient)(b).check() }

// knownPatient finds a patient who was not erased.
func (s *State) knownPatient(id PatientID) (*Patient, *Rejection) {
	patient := document[Patient](s, DocumentPatient, string(id))
	if patient == nil {
		return nil, reject(ReasonPatientNotFound, "patient_id", "Clinic %q has no patient %q.", s.id, id).with("patient_id", id)
	}
	if patient.Erased {
		return nil, reject(ReasonPatientErased, "patient_id", "Patient %q was erased.", id).with("patient_id", id)
	}
	return patient, nil
}

func (b *RegisterPatient) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	if document[Patient](s, DocumentPatient, string(b.PatientID)) != nil {
		return nil, reject(ReasonPatientExists, "", "Patient %q is registered.", b.PatientID).with("patient_id", b.PatientID)
	}
	patient := &Patient{PatientID: b.PatientID, Registered: s.head.Sequence + 1, TextDigest: b.TextDigest}
	return &Change{of: b.Kind(), Documents: []DocumentBody{patient}}, nil
}

// changePatient makes the event of a command that changes a patient.
func (s *State) changePatient(kind Kind, old *Patient, reasonCode string, edit func(*Patient)) *Change {
	next := *old
	next.ReasonCode = reasonCode
	edit(&next)
	return &Change{of: kind, ReasonCode: reasonCode, Documents: []DocumentBody{&next}}
}

func (b *UpdatePatient) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownPatient(b.PatientID)
	if r != nil {
		return nil, r
	}
	if r := s.checkDocumentVersion(b.Etag, old.About().DocumentKey); r != nil {
		return nil, r
	}
	return s.changePatient(b.Kind(), old, old.ReasonCode, func(p *Patient) { p.TextDigest = b.TextDigest }), nil
}

func (b *ErasePatient) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownPatient(b.PatientID)
	if r != nil {
		return nil, r
	}
	if old.LegalHold {
		return nil, reject(ReasonLegalHold, "patient_id", "Patient %q is under legal hold (%s).", b.PatientID, old.ReasonCode).with("patient_id", b.PatientID)
	}
	return s.changePatient(b.Kind(), old, b.ReasonCode, func(p *Patient) { p.Erased, p.TextDigest = true, "" }), nil
}

func (b *PlaceLegalHold) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownPatient(b.PatientID)
	if r != nil {
		return nil, r
	}
	if old.LegalHold {
		return nil, reject(ReasonLegalHold, "patient_id", "Patient %q is under legal hold (%s).", b.PatientID, old.ReasonCode).with("patient_id", b.PatientID)
	}
	return s.changePatient(b.Kind(), old, b.ReasonCode, func(p *Patient) { p.LegalHold = true }), nil
}

func (b *LiftLegalHold) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownPatient(b.PatientID)
	if r != nil {
		return nil, r
	}
	if !old.LegalHold {
		return nil, reject(ReasonNoLegalHold, "patient_id", "Patient %q is under no legal hold.", b.PatientID).with("patient_id", b.PatientID)
	}
	return s.changePatient(b.Kind(), old, b.ReasonCode, func(p *Patient) { p.LegalHold = false }), nil
}
