package ledger

import "strings"

// OnDemand reports whether documents of the kind are read when a command names
// them: there are many, and few are ever named again. The others are part of
// every state for as long as they are open.
func (k DocumentKind) OnDemand() bool { return k >= DocumentPrescription }

// maxNamed is how many documents that were read on demand a state keeps.
const maxNamed = 20_000

func (s *State) findDocument(key DocumentKey) *Document {
	if key.Kind.OnDemand() {
		return s.onDemand[key]
	}
	return s.documents[key]
}

// Wanted returns the documents that must be read before a command can be
// decided: those on demand that it names and the state does not know. Once they
// were given to [State.Learn] there may be others, which those name.
func Wanted(s *State, c Command) []DocumentKey {
	var wanted []DocumentKey
	for _, key := range namesOf(s, c.Body) {
		if _, known := s.onDemand[key]; !known && s.mayExist(key) {
			wanted = append(wanted, key)
		}
	}
	return wanted
}

// mayExist tells whether a document can exist at all: ids with a number name the
// command that made it.
func (s *State) mayExist(key DocumentKey) bool {
	switch key.Kind {
	case DocumentPrescription, DocumentDispensing:
		sequence := numberOf(key.ID)
		return sequence > 0 && sequence <= s.head.Sequence
	}
	return key.ID != ""
}

// ofDispensing is a command on a dispensing, ofPrescription one that may name a
// prescription, and ofPatient one on a patient.
type (
	ofDispensing   interface{ dispensing() DispensingID }
	ofPrescription interface{ prescription() PrescriptionID }
	ofPatient      interface{ patient() PatientID }
)

func (b *CheckDispensing) dispensing() DispensingID   { return b.DispensingID }
func (b *HandOver) dispensing() DispensingID          { return b.DispensingID }
func (b *CancelDispensing) dispensing() DispensingID  { return b.DispensingID }
func (b *ReturnFromPatient) dispensing() DispensingID { return b.DispensingID }

func (b *CancelPrescription) prescription() PrescriptionID { return b.PrescriptionID }
func (b *Dispense) prescription() PrescriptionID           { return b.PrescriptionID }

func (b *RecordDowntime) prescription() PrescriptionID {
	if b.Dispensed == nil {
		return ""
	}
	return b.Dispensed.PrescriptionID
}

func (b *RegisterPatient) patient() PatientID { return b.PatientID }
func (b *UpdatePatient) patient() PatientID   { return b.PatientID }
func (b *ErasePatient) patient() PatientID    { return b.PatientID }
func (b *PlaceLegalHold) patient() PatientID  { return b.PatientID }
func (b *LiftLegalHold) patient() PatientID   { return b.PatientID }

// namesOf returns the documents on demand that a command names, as far as the
// state knows.
func namesOf(s *State, body CommandBody) []DocumentKey {
	switch b := body.(type) {
	case ofDispensing:
		return s.namesDispensing(b.dispensing())
	case ofPatient:
		return []DocumentKey{{DocumentPatient, string(b.patient())}}
	case *CreatePrescription:
		names := []DocumentKey{{DocumentPatient, string(b.PatientID)}}
		if b.Identifier != "" {
			names = append(names, DocumentKey{DocumentPrescriptionIdentifier, b.Identifier})
		}
		return names
	case *CancelPrescription:
		return s.namesPrescription(b.PrescriptionID)
	case *DispenseMedicine:
		return b.names(s)
	case *PrepareDispensing:
		return b.names(s)
	case *RecordDowntime:
		if b.Dispensed != nil {
			return b.Dispensed.names(s)
		}
	case *ApproveCommand:
		return s.namesWaiting(b.ApprovalID)
	}
	return nil
}

// namesWaiting returns what a command names that waits for a second person.
func (s *State) namesWaiting(id ApprovalID) []DocumentKey {
	approval := document[Approval](s, DocumentApproval, string(id))
	if approval == nil || approval.Review {
		return nil
	}
	waiting, err := decodeBody(approval.Command, approval.Body)
	if err != nil {
		return nil
	}
	return namesOf(s, waiting)
}

func (b *Dispense) names(s *State) []DocumentKey {
	names := s.namesPrescription(b.PrescriptionID)
	if b.PatientID != "" {
		names = append(names, DocumentKey{DocumentPatient, string(b.PatientID)})
	}
	return names
}

// namesPrescription follows an external identifier as far as it is known.
func (s *State) namesPrescription(reference PrescriptionID) []DocumentKey {
	if reference == "" {
		return nil
	}
	if !strings.Contains(string(reference), referenceBar) {
		return []DocumentKey{{DocumentPrescription, string(reference)}}
	}
	names := []DocumentKey{{DocumentPrescriptionIdentifier, string(reference)}}
	if id := s.identifiedPrescription(string(reference)); id != "" {
		names = append(names, DocumentKey{DocumentPrescription, string(id)})
	}
	return names
}

// namesDispensing follows a dispensing to its prescription.
func (s *State) namesDispensing(id DispensingID) []DocumentKey {
	names := []DocumentKey{{DocumentDispensing, string(id)}}
	if d := document[Dispensing](s, DocumentDispensing, string(id)); d != nil && d.PrescriptionID != "" {
		names = append(names, DocumentKey{DocumentPrescription, string(d.PrescriptionID)})
	}
	return names
}

// Learn takes in a document that was wanted as it was read, nil where there is
// none, in a database whose journal ended at a sequence. It reports whether the
// document is as of the state's head; where it is not, the state is behind or
// has forgotten a change, and the document must be read again.
func (s *State) Learn(key DocumentKey, read *Document, asOf Sequence) bool {
	if _, known := s.onDemand[key]; known {
		return true
	}
	if asOf < s.forgotten || read != nil && read.LastSequence > s.head.Sequence {
		return false
	}
	put(s, s.onDemand, key, read)
	return true
}

// forgetNamed forgets what was read on demand when it has become too much. What
// is read from now on must be as of the present head at least.
func (s *State) forgetNamed() {
	if len(s.onDemand) <= maxNamed {
		return
	}
	clear(s.onDemand)
	s.forgotten = s.head.Sequence
}
