package ledger

import (
	"testing"
)

// replayed evolves events of rules that no longer hold.
func (w *world) replayed(t fataler, body EventBody) {
	t.Helper()
	w.accept(t, Event{Clinic: w.state.id, Sequence: w.state.head.Sequence + 1, At: w.now, OccurredAt: w.now, Actor: "amina", IdempotencyKey: "k", Body: body})
}

// Earlier rules let lots of two medicines have one GTIN and lot number. Which of
// them a scan names must not depend on whether the state was replayed or
// restored, nor on the order in which they became known.
func TestLotsThatShareAPackAreNamedTheSame(t *testing.T) {
	w := newBusyWorld(t)
	facts := LotFacts{GTIN: gtinVial, LotNumber: "V1", Expiry: today + 9}
	named := func() string { return w.state.byIdentity[gtinLotIdentity(gtinVial, "V1")] }
	check := func(want string) {
		t.Helper()
		same(t, "the lot that is named", named(), want)
		checkReplay(t, w)
	}
	w.replayed(t, &LotRegistered{LotID: "b", MedicineID: "zinc", LotFacts: facts})
	w.replayed(t, &LotRegistered{LotID: "a", MedicineID: "morphine", LotFacts: facts})
	w.replayed(t, &LotRegistered{LotID: "c", MedicineID: "amoxicillin", LotFacts: facts})
	check("a")
	w.must(t, &QuarantineLot{LotID: "c", ReasonCode: "DAMP"})
	check("a")
	w.must(t, &UpdateLot{LotID: "a", LotNumber: ptr("V2")})
	check("b")
	w.must(t, &UpdateLot{LotID: "b", GTIN: ptr(""), Manufacturer: ptr("Acme")})
	check("c")
	w.refused(t, "amina", &UpdateLot{LotID: "a", LotNumber: ptr("V1")}, ReasonLotExists)
}

func TestRestoreRefusesWhatDoesNotFit(t *testing.T) {
	s := newStage(t)
	for name, spoil := range map[string]func(*Snapshot){
		"stock of an unknown lot":  func(n *Snapshot) { n.Stock[0].Lot = "none" },
		"a hold of another clinic": func(n *Snapshot) { n.Holds[0].ID = HoldID(deriveID(holdPrefix, clinicTag("riverside"), 20, 0)) },
		"a hold on no shelf":       func(n *Snapshot) { n.Holds[0].Location = "empty" },
		"a hold of an absent lot":  func(n *Snapshot) { n.Holds[0].Lines[0].Lot = "zinc-none" },
	} {
		snapshot := s.state.Snapshot()
		spoil(&snapshot)
		if _, err := Restore("hillside", utcOnly, snapshot); err == nil {
			t.Errorf("%s: it was restored", name)
		}
	}
}

// CheckInvariants finds each of the ways in which documents and stock can
// contradict each other.
func TestCheckInvariantsFindsWhatIsWrong(t *testing.T) {
	s := newStage(t)
	row := func(n *Snapshot, location LocationID, lot LotID) *Stock {
		for i := range n.Stock {
			if n.Stock[i].Location == location && n.Stock[i].Lot == lot {
				return &n.Stock[i]
			}
		}
		t.Fatalf("there is no %s at %s", lot, location)
		return nil
	}
	drop := func(n *Snapshot, kind DocumentKind) {
		kept := n.Documents[:0]
		for _, d := range n.Documents {
			if d.Body.About().Kind != kind {
				kept = append(kept, d)
			}
		}
		n.Documents = kept
	}
	if broken := s.state.Snapshot().CheckInvariants(); len(broken) > 0 {
		t.Fatalf("nothing is wrong: %v", broken)
	}
	for name, spoil := range map[string]func(*Snapshot){
		"a negative balance":         func(n *Snapshot) { row(n, "store", "zinc-2").Available = -1 },
		"too much reserved":          func(n *Snapshot) { row(n, "store", "zinc-1").Reserved++ },
		"too much pending":           func(n *Snapshot) { row(n, "store", "zinc-2").Pending++ },
		"too little in transit":      func(n *Snapshot) { row(n, "store", "zinc-2").InTransit-- },
		"a hold too few":             func(n *Snapshot) { n.Holds = n.Holds[1:] },
		"an approval too few":        func(n *Snapshot) { drop(n, DocumentApproval) },
		"a transfer too few":         func(n *Snapshot) { drop(n, DocumentTransfer) },
		"a hold of what is not here": func(n *Snapshot) { n.Holds[0].Location = "empty" },
	} {
		snapshot := s.state.Snapshot()
		spoil(&snapshot)
		if len(snapshot.CheckInvariants()) == 0 {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

// A command of each kind is taken back, and leaves nothing behind in memory;
// and a state restored before it goes on the same way.
func TestEveryCommandCanBeTakenBack(t *testing.T) {
	s := newStage(t)
	before := memoryOf(s.state)
	for kind, sample := range s.samples() {
		c := s.attach(s.fill(sample))
		event, r := Decide(s.state, c, s.now)
		if r != nil {
			continue // CreateClinic and DeactivateClinic
		}
		restored, err := Restore("hillside", utcOnly, before.Snapshot)
		if err != nil {
			t.Fatal(err)
		}
		record := Seal(s.state, event)
		if _, err := Evolve(restored, record); err != nil {
			t.Errorf("%s in a restored state: %v", kind, err)
		}
		s.dry(func() {
			s.accept(t, event)
			mustBeSame(t, kind.String()+" in a restored state", memoryOf(s.state), memoryOf(restored))
		})
		mustBeSame(t, kind.String()+" left changes", before, memoryOf(s.state))
	}
}
