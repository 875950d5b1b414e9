package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/type/date"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// patientTexts keeps private texts in the side table, under the patients' keys.
type patientTexts struct {
	keys    *Keyring
	table   *txn.Patients
	queries *txn.Queries
}

var _ privateTexts = (*patientTexts)(nil)

// What a text is about; part of its digest.
const (
	aboutIdentity     = "identity"
	aboutPrescription = "prescription"
)

// identityText is who a patient is, as it is encrypted. Its JSON never changes
// for what it holds, since the digest is over it.
type identityText struct {
	FamilyName  string      `json:"family,omitempty"`
	GivenNames  string      `json:"given,omitempty"`
	BirthDate   *[3]int32   `json:"birth,omitempty"` // year, month, day
	Sex         string      `json:"sex,omitempty"`
	Phone       string      `json:"phone,omitempty"`
	Address     string      `json:"address,omitempty"`
	Note        string      `json:"note,omitempty"`
	Identifiers [][2]string `json:"identifiers,omitempty"` // system, value
}

// prescriptionText is the private text of a prescription, as it is encrypted.
type prescriptionText struct {
	Note     string   `json:"note,omitempty"`
	Original string   `json:"original,omitempty"`
	Dosage   []string `json:"dosage,omitempty"` // by line
}

func toIdentityText(p *stockledgerv1.PatientIdentity) identityText {
	text := identityText{
		FamilyName: p.GetFamilyName(), GivenNames: p.GetGivenNames(), Sex: p.GetSex(), Phone: p.GetPhone(), Address: p.GetAddress(), Note: p.GetNote(),
	}
	if d := p.GetBirthDate(); d != nil {
		text.BirthDate = &[3]int32{d.GetYear(), d.GetMonth(), d.GetDay()}
	}
	for _, id := range p.GetIdentifiers() {
		text.Identifiers = append(text.Identifiers, [2]string{id.GetSystem(), id.GetValue()})
	}
	return text
}

func (t identityText) shown() *stockledgerv1.PatientIdentity {
	identity := &stockledgerv1.PatientIdentity{
		FamilyName: t.FamilyName, GivenNames: t.GivenNames, Sex: t.Sex, Phone: t.Phone, Address: t.Address, Note: t.Note,
	}
	if t.BirthDate != nil {
		identity.BirthDate = &date.Date{Year: t.BirthDate[0], Month: t.BirthDate[1], Day: t.BirthDate[2]}
	}
	for _, id := range t.Identifiers {
		identity.Identifiers = append(identity.Identifiers, &stockledgerv1.ExternalIdentifier{System: id[0], Value: id[1]})
	}
	return identity
}

func toPrescriptionText(b *stockledgerv1.CreatePrescription) prescriptionText {
	text := prescriptionText{Note: b.GetNote(), Original: b.GetOriginal()}
	for _, line := range b.GetLines() {
		text.Dosage = append(text.Dosage, line.GetDosageText())
	}
	return text
}

func (t *patientTexts) seal(ctx context.Context, clinic ledger.ClinicID, commands []*stockledgerv1.Command) ([]sealedText, error) {
	sealed := make([]sealedText, len(commands))
	for i, c := range commands {
		var err error
		if sealed[i], err = t.sealOne(ctx, clinic, c); err != nil {
			return nil, err
		}
	}
	return sealed, nil
}

func (t *patientTexts) sealOne(ctx context.Context, clinic ledger.ClinicID, c *stockledgerv1.Command) (sealedText, error) {
	w := sealing{clinic: clinic, idempotencyKey: c.GetIdempotencyKey()}
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_RegisterPatient:
		w.patient, w.register = t.keys.token(clinic, w.idempotencyKey), true
		return t.sealIdentity(ctx, w, body.RegisterPatient.GetIdentity())
	case *stockledgerv1.Command_UpdatePatient:
		w.patient = ledger.PatientID(body.UpdatePatient.GetPatientId())
		return t.sealIdentity(ctx, w, body.UpdatePatient.GetIdentity())
	case *stockledgerv1.Command_CreatePrescription:
		w.patient = ledger.PatientID(body.CreatePrescription.GetPatientId())
		return t.sealText(ctx, w, aboutPrescription, toPrescriptionText(body.CreatePrescription))
	}
	return sealedText{}, fmt.Errorf("rpc: %T holds no private text", c.GetBody())
}

// sealing is the command whose private text is put away.
type sealing struct {
	clinic         ledger.ClinicID
	idempotencyKey string
	patient        ledger.PatientID
	register       bool // it makes the patient known
}

func (t *patientTexts) sealIdentity(ctx context.Context, w sealing, identity *stockledgerv1.PatientIdentity) (sealedText, error) {
	sealed, err := t.sealText(ctx, w, aboutIdentity, toIdentityText(identity))
	if err != nil || len(sealed.private) == 0 {
		return sealed, err
	}
	sealed.private[0].Identity = true
	for i, id := range identity.GetIdentifiers() {
		digest := t.keys.identifier(w.clinic, id.GetSystem(), id.GetValue())
		other, err := t.table.Identified(ctx, w.clinic, digest)
		if err != nil {
			return sealedText{}, err
		}
		if other != "" && other != w.patient && sealed.taken == nil {
			sealed.taken = &ledger.Rejection{
				Reason: ledger.ReasonIdentifierExists, Field: fmt.Sprintf("identity.identifiers[%d]", i),
				Message:  fmt.Sprintf("Patient %q has this identifier.", other),
				Metadata: map[string]string{"patient_id": string(other)},
			}
		}
		sealed.private[0].Identifiers = append(sealed.private[0].Identifiers, digest)
	}
	return sealed, nil
}

// sealText encrypts a text under the patient's key. Of a patient who is not
// known it seals nothing: the core refuses the command.
func (t *patientTexts) sealText(ctx context.Context, w sealing, about string, text any) (sealedText, error) {
	plain, err := json.Marshal(text)
	if err != nil {
		return sealedText{}, fmt.Errorf("rpc: encode a private text: %w", err)
	}
	wrapped, refused, err := t.keyFor(ctx, w)
	if err != nil || refused != nil || wrapped == nil {
		return sealedText{patient: w.patient, refused: refused}, err
	}
	key, err := t.keys.unwrap(w.clinic, w.patient, wrapped)
	if err != nil {
		return sealedText{}, err
	}
	digest := key.digest(w.idempotencyKey, about, plain)
	ciphertext, err := key.seal(digest, plain)
	if err != nil {
		return sealedText{}, fmt.Errorf("rpc: encrypt a private text: %w", err)
	}
	return sealedText{patient: w.patient, digest: digest, private: []txn.PrivateText{{Patient: w.patient, Digest: digest, Ciphertext: ciphertext}}}, nil
}

// keyFor returns the wrapped key of the patient of a command, nil for one who is
// unknown.
//
// A repetition must find the same key, since the digest of its text depends on
// it; and a key must be random, so that erasing it destroys it. So the key of
// who is to be registered is stored before the command is given, and of several
// repetitions at once all use the one that was stored first.
func (t *patientTexts) keyFor(ctx context.Context, w sealing) ([]byte, *ledger.Rejection, error) {
	if !w.patient.Valid() {
		return nil, nil, nil
	}
	wrapped, err := t.table.Key(ctx, w.clinic, w.patient)
	if err != nil || wrapped != nil {
		return wrapped, nil, err
	}
	known, err := t.patient(ctx, w.clinic, w.patient)
	if err != nil || known == nil && !w.register {
		return nil, nil, err
	}
	if known == nil {
		if wrapped, err = t.makeKey(ctx, w); err != nil || wrapped != nil {
			return wrapped, nil, err
		}
		// A repetition registered the patient meanwhile, who was erased since.
	}
	if known != nil && !known.Erased {
		// A repetition may have registered the patient between the two reads;
		// the key was there before.
		if wrapped, err = t.table.Key(ctx, w.clinic, w.patient); err != nil || wrapped != nil {
			return wrapped, nil, err
		}
		return nil, invalidField("patient_id", "The key of patient %q is missing: restore the table patient_keys.", w.patient), nil
	}
	// Whether this is a repetition can't be told: nothing is left to compare
	// its text with.
	return nil, &ledger.Rejection{
		Reason: ledger.ReasonPatientErased, Message: fmt.Sprintf("Patient %q was erased.", w.patient),
		Metadata: map[string]string{"patient_id": string(w.patient)},
	}, nil
}

// makeKey makes a key for who is to be registered, unless a repetition did.
func (t *patientTexts) makeKey(ctx context.Context, w sealing) ([]byte, error) {
	wrapped, err := t.keys.wrap(patientKey{w.clinic, w.patient, randomKey()})
	if err != nil {
		return nil, fmt.Errorf("rpc: wrap a patient's key: %w", err)
	}
	return t.table.PutKey(ctx, w.clinic, w.patient, wrapped)
}

// patient reads what the journal knows of a patient, nil where there is none.
func (t *patientTexts) patient(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID) (*ledger.Patient, error) {
	found, _, err := t.queries.Document(ctx, clinic, ledger.DocumentKey{Kind: ledger.DocumentPatient, ID: string(patient)}, txn.ReadOptions{})
	var none *ledger.Rejection
	if errors.As(err, &none) || err == nil && found == nil {
		return nil, nil // no such clinic, or no such patient: the core says so
	}
	if err != nil {
		return nil, err
	}
	body, _ := found.Body.(*ledger.Patient)
	return body, nil
}

// reveal adds the texts of a prescription to what a caller is shown.
func (t *patientTexts) reveal(ctx context.Context, clinic ledger.ClinicID, p *ledger.Prescription, shown *stockledgerv1.Prescription) error {
	var text prescriptionText
	if found, err := t.read(ctx, clinic, p.PatientID, p.TextDigest, &text); err != nil || !found {
		return err
	}
	shown.Note, shown.Original = text.Note, text.Original
	for i, dosage := range text.Dosage {
		if i < len(shown.Lines) && dosage != "" {
			shown.Lines[i].DosageText = dosage
		}
	}
	return nil
}

// identity is who a patient is, nil where that is not known any more.
func (t *patientTexts) identity(ctx context.Context, clinic ledger.ClinicID, p *ledger.Patient) (*stockledgerv1.PatientIdentity, error) {
	var text identityText
	if found, err := t.read(ctx, clinic, p.PatientID, p.TextDigest, &text); err != nil || !found {
		return nil, err
	}
	return text.shown(), nil
}

// read decrypts a text, as far as it and its key are still there.
func (t *patientTexts) read(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID, digest string, into any) (bool, error) {
	if digest == "" {
		return false, nil
	}
	wrapped, err := t.table.Key(ctx, clinic, patient)
	if err != nil || wrapped == nil {
		return false, err
	}
	ciphertext, err := t.table.Text(ctx, clinic, patient, digest)
	if err != nil || ciphertext == nil {
		return false, err
	}
	key, err := t.keys.unwrap(clinic, patient, wrapped)
	if err != nil {
		return false, err
	}
	plain, err := key.open(digest, ciphertext)
	if err != nil {
		return false, fmt.Errorf("rpc: a text of clinic %s cannot be decrypted: %w", clinic, err)
	}
	if err := json.Unmarshal(plain, into); err != nil {
		return false, fmt.Errorf("rpc: a text of clinic %s cannot be read: %w", clinic, err)
	}
	return true, nil
}

// find returns the patient whom another system calls so; empty where there is
// none.
func (t *patientTexts) find(ctx context.Context, clinic ledger.ClinicID, id *stockledgerv1.ExternalIdentifier) (ledger.PatientID, error) {
	return t.table.Identified(ctx, clinic, t.keys.identifier(clinic, id.GetSystem(), id.GetValue()))
}

// GetPatient reads who a patient is.
func (s *pharmacyService) GetPatient(ctx context.Context, req *stockledgerv1.GetPatientRequest) (*stockledgerv1.GetPatientResponse, error) {
	patient, asOf, err := s.showPatient(ctx, req.GetClinicId(), req.GetPatientId(), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetPatientResponse{Patient: patient, AsOf: fromAsOf(asOf)}, nil
}

// FindPatient finds a patient by what another system calls them.
func (s *pharmacyService) FindPatient(ctx context.Context, req *stockledgerv1.FindPatientRequest) (*stockledgerv1.FindPatientResponse, error) {
	id, err := s.texts.find(ctx, ledger.ClinicID(req.GetClinicId()), req.GetIdentifier())
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, &ledger.Rejection{
			Reason: ledger.ReasonPatientNotFound, Field: "identifier", Message: "No patient of the clinic has this identifier.",
		}
	}
	patient, asOf, err := s.showPatient(ctx, req.GetClinicId(), string(id), readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.FindPatientResponse{Patient: patient, AsOf: fromAsOf(asOf)}, nil
}

func (s *pharmacyService) showPatient(ctx context.Context, clinic, id string, o txn.ReadOptions) (*stockledgerv1.Patient, txn.AsOf, error) {
	body, document, asOf, err := findDocument[*ledger.Patient](ctx, s.queryHandler, clinic, ledger.DocumentPatient, id, o)
	if err != nil {
		return nil, asOf, err
	}
	identity, err := s.texts.identity(ctx, ledger.ClinicID(clinic), body)
	return &stockledgerv1.Patient{
		PatientId: string(body.PatientID), Identity: identity, Erased: body.Erased, LegalHold: body.LegalHold, ReasonCode: body.ReasonCode,
		RegisteredSequence: int64(document.OpenedSequence), LastSequence: int64(document.LastSequence), Etag: ledger.Etag(document.LastSequence),
	}, asOf, err
}
