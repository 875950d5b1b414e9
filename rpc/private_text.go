package rpc

import (
	"context"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// privateTexts keeps what must never enter the journal: who a patient is, and
// texts about one. Commands bring it in, and the journal has a digest in its
// place; the query for one prescription shows it again.
type privateTexts interface {
	// seal puts the private text of commands away, before they are read any
	// further, and returns what stands for each of them in the journal, in their
	// order. All of them hold private text. The same command of the same clinic
	// must be sealed to the same again: else its repetition would be another
	// command under the same key. Whether the command will be accepted is not
	// known yet. An error is about the database, and none of the commands is
	// carried out then.
	seal(ctx context.Context, clinic ledger.ClinicID, commands []*stockledgerv1.Command) ([]sealedText, error)
	// reveal adds the texts of a prescription to what a caller is shown, as far
	// as they are still there.
	reveal(ctx context.Context, clinic ledger.ClinicID, p *ledger.Prescription, shown *stockledgerv1.Prescription) error
	// identity is who a patient is, nil where that is not known any more.
	identity(ctx context.Context, clinic ledger.ClinicID, p *ledger.Patient) (*stockledgerv1.PatientIdentity, error)
	// find returns the patient whom another system calls so; empty where there
	// is none.
	find(ctx context.Context, clinic ledger.ClinicID, id *stockledgerv1.ExternalIdentifier) (ledger.PatientID, error)
}

// sealedText is what stands in the journal for the private text of a command.
type sealedText struct {
	patient ledger.PatientID // of RegisterPatient: the token that was made
	digest  string           // see ledger.Patient
	private []txn.PrivateText
	// refused, where not nil, is why the command can't be read.
	refused *ledger.Rejection
	// taken, where not nil, is why the command can't be carried out, unless it
	// was before, under the same key.
	taken *ledger.Rejection
}

// accompany adds to a submission what comes with a command.
func (s sealedText) accompany(submission *txn.Submission, idempotencyKey string) {
	if s.private != nil {
		submission.Private[idempotencyKey] = s.private
	}
	if s.taken != nil {
		submission.Refused[idempotencyKey] = s.taken
	}
}

// into puts what stands for a command's private text into its body.
func (s sealedText) into(body ledger.CommandBody) {
	switch b := body.(type) {
	case *ledger.CreatePrescription:
		b.TextDigest = s.digest
	case *ledger.RegisterPatient:
		b.PatientID, b.TextDigest = s.patient, s.digest
	case *ledger.UpdatePatient:
		b.TextDigest = s.digest
	}
}

// holdsPrivateText reports whether a command brings private text.
func holdsPrivateText(c *stockledgerv1.Command) bool {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_RegisterPatient, *stockledgerv1.Command_UpdatePatient:
		return true
	case *stockledgerv1.Command_CreatePrescription:
		if body.CreatePrescription.GetNote() != "" || body.CreatePrescription.GetOriginal() != "" {
			return true
		}
		for _, line := range body.CreatePrescription.GetLines() {
			if line.GetDosageText() != "" {
				return true
			}
		}
	}
	return false
}

// sealed puts the private text of commands away. Commands that hold none, or
// are already refused, pass.
func (h *commandHandler) sealed(
	ctx context.Context, clinic ledger.ClinicID, commands []*stockledgerv1.Command, refused func(*stockledgerv1.Command) *ledger.Rejection,
) ([]sealedText, error) {
	texts := make([]sealedText, len(commands))
	var private []*stockledgerv1.Command
	var places []int
	for i, c := range commands {
		texts[i].refused = refused(c)
		if texts[i].refused == nil && holdsPrivateText(c) {
			private, places = append(private, c), append(places, i)
		}
	}
	if len(private) == 0 {
		return texts, nil
	}
	sealed, err := h.texts.seal(ctx, clinic, private)
	for i := range sealed {
		texts[places[i]] = sealed[i]
	}
	return texts, err
}

// noTexts is a node that has no key to keep private texts under.
type noTexts struct{}

var _ privateTexts = noTexts{}

func (noTexts) seal(_ context.Context, _ ledger.ClinicID, commands []*stockledgerv1.Command) ([]sealedText, error) {
	sealed := make([]sealedText, len(commands))
	for i := range sealed {
		sealed[i].refused = invalidField("body", "This node has no key to keep patients' names and private texts under. Start it with --patient-key, or leave the texts out.")
	}
	return sealed, nil
}

func (noTexts) identity(context.Context, ledger.ClinicID, *ledger.Patient) (*stockledgerv1.PatientIdentity, error) {
	return nil, nil
}

func (noTexts) find(context.Context, ledger.ClinicID, *stockledgerv1.ExternalIdentifier) (ledger.PatientID, error) {
	return "", fail(reasonNoPatientKey, "This node has no key to find patients with.")
}

func (noTexts) reveal(context.Context, ledger.ClinicID, *ledger.Prescription, *stockledgerv1.Prescription) error {
	return nil
}
