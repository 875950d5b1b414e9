package ledger

import (
	"bytes"
	"reflect"
	"testing"
)

// sampleEvents are events of every kind that could be next in the stage's
// journal, and those that are in it.
func (s *stage) sampleEvents(t fataler) []Event {
	t.Helper()
	var events []Event
	for _, r := range s.records {
		events = append(events, r.Event)
	}
	samples := s.samples()
	for _, kind := range Kinds() {
		if event, r := Decide(s.state, s.attach(s.fill(samples[kind])), s.now); r == nil {
			events = append(events, event)
		}
	}
	w := newWorld(t)
	return append(events, w.must(t, &DeactivateClinic{ReasonCode: "CLOSED"}))
}

func TestSampleEventsAreOfEveryKind(t *testing.T) {
	seen := make(map[Kind]bool)
	for _, e := range newStage(t).sampleEvents(t) {
		seen[e.Kind()] = true
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no event is of kind %s", kind)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	s := newStage(f)
	for _, e := range s.sampleEvents(f) {
		f.Add(AppendEvent(nil, e))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		event, err := DecodeEvent(stored)
		if err != nil {
			return
		}
		if again := AppendEvent(nil, event); !bytes.Equal(again, stored) {
			t.Fatalf("two encodings of one event:\n%x\n%x", stored, again)
		}
		// Whatever decodes is applied or refused, never a panic: to an empty
		// journal, and to one where it could be next.
		state := NewState(event.Clinic, utcOnly)
		_, _ = Evolve(state, Seal(state, event))
		event.Clinic, event.Sequence, event.At = s.state.id, s.state.head.Sequence+1, s.state.head.At
		mark := s.state.Mark()
		_, _ = Evolve(s.state, Seal(s.state, event))
		s.state.Rollback(mark)
		_, _ = EntriesOf(event), ScopeOf(event)
	})
}

func FuzzDecodeDocument(f *testing.F) {
	for _, e := range newStage(f).sampleEvents(f) {
		change, ok := e.Body.(*Change)
		if !ok {
			continue
		}
		for _, document := range change.Documents {
			f.Add(int16(document.About().Kind), AppendDocument(nil, document))
		}
	}
	f.Fuzz(func(t *testing.T, kind int16, stored []byte) {
		body, err := DecodeDocument(DocumentKind(kind), stored)
		if err != nil {
			return
		}
		if again := AppendDocument(nil, body); !bytes.Equal(again, stored) {
			t.Fatalf("two encodings of one %s:\n%x\n%x", DocumentKind(kind), stored, again)
		}
		if about := body.About(); about.Kind != DocumentKind(kind) {
			t.Fatalf("a document of kind %d says that it is of kind %d", kind, about.Kind)
		}
	})
}

// Every command travels and arrives as it was.
func TestCommandsTravel(t *testing.T) {
	s := newStage(t)
	for kind, c := range s.samples() {
		c = s.fill(c)
		c.Witness, c.LateReasonCode = "brian", "OUTAGE"
		stored := AppendCommand(nil, c)
		again, err := DecodeCommand(stored)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if !reflect.DeepEqual(c, again) {
			t.Errorf("%s: sent %+v, arrived %+v", kind, c, again)
		}
		if again.RequestHash() != c.RequestHash() {
			t.Errorf("%s: it arrived with another request hash", kind)
		}
		if _, err := DecodeCommand(append(stored, 1)); err == nil {
			t.Errorf("%s: bytes after its end are taken", kind)
		}
	}
}

// FuzzDecodeCommand reads what requests for second persons keep.
func FuzzDecodeCommand(f *testing.F) {
	s := newStage(f)
	for kind, c := range s.samples() {
		f.Add(int16(kind), appendBody(s.attach(s.fill(c)).Body))
	}
	f.Fuzz(func(t *testing.T, kind int16, stored []byte) {
		body, err := decodeBody(Kind(kind), stored)
		if err != nil {
			return
		}
		if again := appendBody(body); !bytes.Equal(again, stored) {
			t.Fatalf("two encodings of one %s:\n%x\n%x", Kind(kind), stored, again)
		}
		mark := s.state.Mark()
		if body.check() == nil {
			_, _ = body.decide(s.state, "amina", s.now)
		}
		s.state.Rollback(mark)
	})
}
