package ledger

import (
	"fmt"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// pharmacyWorld is a clinic with patients, prices, limits, and a policy that
// wants a second person for what is controlled.
func pharmacyWorld(t fataler) *world {
	w := newBusyWorld(t)
	for i := range 3 {
		w.must(t, &RegisterPatient{PatientID: patientNo(i)})
	}
	w.must(t, &SetPrice{MedicineID: "zinc", Price: Price{From: today - 100, Amount: 125, Per: 10, Currency: "KES"}})
	w.must(t, &SetPrice{MedicineID: "zinc", Price: Price{From: today + 2, Amount: 7, Per: 3, Currency: "KES"}})
	w.must(t, &SetPrice{MedicineID: "morphine", Price: Price{From: today - 100, Amount: 999, Per: 1, Currency: "KES"}, Pack: "box"})
	w.must(t, &SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-2", MaxQuantity: 20, NoRefills: true, MaxValidDays: 10, PrescriptionRequired: true}})
	w.must(t, &SetPolicy{Policy: Policy{ApprovalHours: 24, Rules: []Rule{{"schedule-2", KindCheckDispensing, 0, RequireWitness}}}})
	return w
}

func patientNo(i int) PatientID {
	return PatientID(fmt.Sprintf("pt_%025d%c", i, idAlphabet[i]))
}

// walkKinds are drawn in a walk through the pharmacy, the first ones often.
var walkKinds = []Kind{
	KindCreatePrescription, KindCreatePrescription, KindDispenseMedicine, KindDispenseMedicine, KindDispenseMedicine, KindDispenseMedicine,
	KindPrepareDispensing, KindPrepareDispensing, KindCheckDispensing, KindHandOver, KindHandOver, KindCancelDispensing, KindReturnFromPatient,
	KindRecordDowntime, KindCancelPrescription, KindErasePatient, KindPlaceLegalHold, KindLiftLegalHold, KindSetPrice,
	KindReceiveStock, KindQuarantineLot, KindReleaseLot, KindRecallLot, KindContinueRecall, KindLiftRecall, KindApproveCommand, KindRejectCommand, KindIssueStock, KindReserveStock,
	KindSetControlLimit, KindRegisterPatient, KindUpdatePatient, KindReleaseStock, KindSetPolicy,
}

// walkPolicies are what clinics demand of their pharmacists, strict and lax.
var walkPolicies = []*SetPolicy{
	policy(24, Rule{"schedule-2", KindCheckDispensing, 0, RequireWitness}),
	policy(24, Rule{"schedule-2", KindCheckDispensing, 0, RequireReview}, Rule{"*", KindDispenseMedicine, 10, RequireApprovalBefore}),
	policy(24, Rule{"schedule-2", KindCheckDispensing, 3, RequireReview}, Rule{"*", KindCancelDispensing, 0, RequireApprovalBefore}),
	policy(24, Rule{"*", KindPrepareDispensing, 5, RequireApprovalBefore}, Rule{"schedule-2", KindHandOver, 0, RequireApprovalBefore}),
	policy(24),
}

// drawPharmacy makes a random command of the pharmacy, or one that gets in its
// way.
func drawPharmacy(c chooser, w *world) Command {
	kind := pick(c, "kind", walkKinds)
	if kind == KindSetPolicy {
		return w.command(pick(c, "policy", walkPolicies))
	}
	draw, ok := pharmacyDrawings[kind]
	if !ok {
		command := w.command(drawings[kind](c, w))
		command.Actor = pick(c, "actor", []Actor{"amina", "brian"})
		return command
	}
	command := w.command(draw(c, w))
	command.Actor = pick(c, "actor", []Actor{"amina", "brian", "chidi"})
	command.Witness = pick(c, "witness", []Actor{"", "", "dalia"})
	if kind == KindRecordDowntime || c.int("backdated", 0, 5) == 0 {
		command.OccurredAt = w.now - Instant(c.int("ago", 0, 30))*testDay/24
	}
	return command
}

func aPrescription(c chooser, w *world) PrescriptionID {
	if c.int("by identifier", 0, 3) == 0 {
		return PrescriptionID(oneOf(c, "identifier", w.documents[DocumentPrescriptionIdentifier]))
	}
	return PrescriptionID(oneOf(c, "prescription", w.documents[DocumentPrescription]))
}

func aDispensing(c chooser, w *world) DispensingID {
	return DispensingID(oneOf(c, "dispensing", w.documents[DocumentDispensing]))
}

func aDispense(c chooser, w *world) Dispense {
	d := Dispense{LocationID: location(c), Quantity: quantity(c), Payer: pick(c, "payer", []string{"", "NHIF"})}
	if len(w.documents[DocumentPrescription]) > 0 && c.int("counter", 0, 3) > 0 {
		d.PrescriptionID, d.Line = aPrescription(c, w), int64(c.int("line", 0, 2))
		d.SubstitutionReason = pick(c, "why", []string{"", "OUT"})
	} else {
		d.MedicineID, d.PatientID = medicine(c), pick(c, "patient", []PatientID{"", patientNo(0), patientNo(1)})
	}
	if c.int("scan", 0, 3) == 0 {
		d.LotID = lot(c, w)
	}
	if c.int("waste", 0, 6) == 0 {
		d.WastedQuantity, d.WasteReason = int64(c.int("wasted", 1, 3)), "SPILT"
	}
	return d
}

var pharmacyDrawings = map[Kind]func(chooser, *world) CommandBody{
	KindCreatePrescription: func(c chooser, w *world) CommandBody {
		b := &CreatePrescription{
			PatientID: pick(c, "patient", []PatientID{patientNo(0), patientNo(1), patientNo(2)}), LocationID: pick(c, "where", []LocationID{"", "store", "ward"}),
			Prescriber: "Dr. Hill", ValidUntil: today + Date(c.int("valid", 0, 12)),
		}
		for range c.int("lines", 1, 2) {
			b.Lines = append(b.Lines, PrescribedLine{
				MedicineID: medicine(c), Quantity: quantity(c), Refills: int64(c.int("refills", 0, 2)), NoSubstitution: c.int("only", 0, 4) == 0,
			})
		}
		if c.int("identified", 0, 2) == 0 {
			b.Identifier = fmt.Sprintf("his|%d", c.int("number", 1, 30))
		}
		if b.LocationID != "" && c.int("hold", 0, 1) == 0 {
			b.HoldUntil = w.now + Instant(c.int("hours", 1, 60))*testDay/24
		}
		return b
	},
	KindCancelPrescription: func(c chooser, w *world) CommandBody {
		return &CancelPrescription{PrescriptionID: aPrescription(c, w), ReasonCode: "CHANGED"}
	},
	KindDispenseMedicine: func(c chooser, w *world) CommandBody { return &DispenseMedicine{aDispense(c, w)} },
	KindPrepareDispensing: func(c chooser, w *world) CommandBody {
		return &PrepareDispensing{aDispense(c, w), w.now + Instant(c.int("hours", 1, 48))*testDay/24}
	},
	KindCheckDispensing: func(c chooser, w *world) CommandBody { return &CheckDispensing{aDispensing(c, w)} },
	KindHandOver:        func(c chooser, w *world) CommandBody { return &HandOver{aDispensing(c, w)} },
	KindCancelDispensing: func(c chooser, w *world) CommandBody {
		return &CancelDispensing{aDispensing(c, w), "MISTAKE", c.int("never left", 0, 1) == 0}
	},
	KindReturnFromPatient: func(c chooser, w *world) CommandBody {
		b := &ReturnFromPatient{DispensingID: aDispensing(c, w), ReasonCode: "UNUSED", Destroy: c.int("destroy", 0, 2) == 0}
		if c.int("some", 0, 1) == 0 {
			b.Lines = []LotLine{{LotID: lot(c, w), Quantity: quantity(c)}}
		}
		return b
	},
	KindRecordDowntime: func(c chooser, w *world) CommandBody {
		b := &RecordDowntime{Device: "pad-1", PaperReference: fmt.Sprint(w.keys)}
		switch c.int("what", 0, 3) {
		case 0:
			b.Received = &ReceiveStock{LocationID: location(c), LotID: lot(c, w), Quantity: quantity(c)}
		case 1:
			b.Counted = &DowntimeCount{LocationID: location(c), LotID: lot(c, w), Counted: quantity(c), ReasonCode: "PAPER"}
		default:
			d := aDispense(c, w)
			b.Dispensed = &d
		}
		return b
	},
	KindErasePatient: func(c chooser, _ *world) CommandBody {
		return &ErasePatient{patientNo(c.int("patient", 2, 3)), "ASKED"}
	},
	KindPlaceLegalHold: func(c chooser, _ *world) CommandBody {
		return &PlaceLegalHold{patientNo(c.int("patient", 1, 3)), "LAWSUIT"}
	},
	KindLiftLegalHold: func(c chooser, _ *world) CommandBody {
		return &LiftLegalHold{patientNo(c.int("patient", 1, 3)), "SETTLED"}
	},
	KindSetControlLimit: func(c chooser, _ *world) CommandBody {
		return &SetControlLimit{ControlLimit: ControlLimit{
			ControlClass: pick(c, "class", []string{"schedule-2", "schedule-3"}), MaxQuantity: int64(c.int("most", 0, 30)),
			MaxRefills: int64(c.int("refills", 0, 2)), MaxValidDays: int64(c.int("days", 0, 20)), PrescriptionRequired: c.int("only", 0, 1) == 0,
		}}
	},
	KindSetPrescriptionTemplate: func(c chooser, _ *world) CommandBody {
		return &SetPrescriptionTemplate{
			TemplateID: pick(c, "template", []TemplateID{"gut", "pain"}), Name: "Often", Lines: []PrescribedLine{{MedicineID: medicine(c), Quantity: quantity(c), Dosage: "daily"}},
		}
	},
	KindRemovePrescriptionTemplate: func(c chooser, _ *world) CommandBody {
		return &RemovePrescriptionTemplate{TemplateID: pick(c, "template", []TemplateID{"gut", "pain"})}
	},
	KindRegisterPatient: func(c chooser, _ *world) CommandBody {
		return &RegisterPatient{PatientID: patientNo(c.int("patient", 0, 6))}
	},
	KindUpdatePatient: func(c chooser, _ *world) CommandBody {
		return &UpdatePatient{PatientID: patientNo(c.int("patient", 0, 6)), TextDigest: "00112233445566778899aabbccddeeff"}
	},
	KindSetPrice: func(c chooser, _ *world) CommandBody {
		return &SetPrice{MedicineID: medicine(c), Price: Price{From: today + Date(c.int("from", 0, 9)), Amount: int64(c.int("amount", 0, 999)), Per: int64(c.int("per", 1, 12)), Currency: "KES"}}
	},
}

// withBooked gives a count during a downtime what the executor reads for it.
func (w *world) withBooked(c Command) Command {
	shelf, lot, happened, ok := DowntimeCountWanted(w.state, c, w.now)
	if !ok {
		return c
	}
	var since int64
	for _, r := range w.records {
		if r.Event.OccurredAt <= happened {
			continue
		}
		for _, e := range EntriesOf(r.Event) {
			if (Shelf{e.Location, e.Medicine}) != shelf || e.Lot != lot {
				continue
			}
			for _, bucket := range []Bucket{Available, Reserved, Pending} {
				if e.Debit == bucket {
					since += e.Quantity
				}
				if e.Credit == bucket {
					since -= e.Quantity
				}
			}
		}
	}
	return WithBooked(w.state, c, shelf, lot, since)
}

// pharmacyStep gives a random command, with the expiries that make room for it.
func pharmacyStep(t fataler, c chooser, w *world) {
	t.Helper()
	w.now += Instant(pick(c, "tick", []int64{0, 1_000_000, 3_600_000_000, int64(testDay) / 6, int64(testDay) / 2}))
	command := w.withBooked(w.attach(drawPharmacy(c, w)))
	event, r := Decide(w.state, command, w.now)
	if r != nil && r.Reason == ReasonInsufficientStock {
		for _, expiry := range ExpiriesFor(w.state, command, w.now) {
			if _, refused := w.give(t, expiry); refused != nil {
				t.Fatalf("an overdue hold does not expire: %v", refused)
			}
		}
		event, r = Decide(w.state, command, w.now)
	}
	if r != nil {
		if r.Reason.Info().Reason == "" {
			t.Fatalf("reason %s is not in the catalogue", r.Reason)
		}
		if _, downtime := command.Body.(*RecordDowntime); downtime && r.Reason == ReasonInsufficientStock {
			t.Fatalf("what was done during a downtime is refused for lack of stock: %v", r)
		}
		return
	}
	checkDispensed(t, w, command, event)
	w.accept(t, event)
	checkInvariants(t, w)
	checkOwnedHolds(t, w)
}

// checkDispensed judges an event, before it is applied, by what must never
// happen.
func checkDispensed(t fataler, w *world, c Command, e Event) {
	t.Helper()
	change, ok := e.Body.(*Change)
	if !ok {
		return
	}
	by := []Actor{e.Actor}
	if approved, ok := change.Approved.(*Change); ok {
		change, by = approved, append(by, e.Body.(*Change).Requester)
	}
	for _, body := range change.Documents {
		d, ok := body.(*Dispensing)
		if !ok || d.Status != DispensingHandedOver || change.of == KindReturnFromPatient {
			continue
		}
		if change.of == KindRecordDowntime {
			checkDowntime(t, w, e, d)
			continue
		}
		checkLots(t, w, e, change, d)
		checkAmount(t, w, d, documentOf[*Charge](Event{Body: change}))
		if len(by) == 1 {
			same(t, "the day of what was dispensed", d.Day, w.state.today(e.OccurredAt))
		}
		checkSecondPerson(t, w, e, d, len(by) > 1 && by[0] != by[1])
		p := document[Prescription](w.state, DocumentPrescription, string(d.PrescriptionID))
		if limit := w.state.controlLimit(d.Medicine); limit != nil && limit.PrescriptionRequired && p == nil && d.HoldID == "" {
			t.Fatalf("a controlled medicine over the counter: %+v", d)
		}
		if p != nil && p.ValidUntil < w.state.today(max(e.At, w.state.head.At)) {
			t.Fatalf("%s by %v for a prescription that had expired on %s: %+v", c.Body.Kind(), by, p.ValidUntil, d)
		}
	}
}

// checkSecondPerson: what the policy wants checked is never one person's word,
// and nothing is wasted on one.
func checkSecondPerson(t fataler, w *world, e Event, d *Dispensing, approved bool) {
	t.Helper()
	witnessed := e.Witness != "" && e.Witness != e.Actor
	second := approved || witnessed
	if d.HoldID != "" {
		second = d.Checker != "" && d.Checker != d.Preparer
	} else if d.Wasted > 0 && !second {
		t.Fatalf("wasted by %s alone: %+v", e.Actor, d)
	}
	if w.state.checkRequired(d.Medicine, d.Quantity) && !second {
		t.Fatalf("dispensed on one person's word: %+v", d)
	}
}

// checkAmount: what is charged is price times quantity, halves rounded up.
func checkAmount(t fataler, w *world, d *Dispensing, charged *Charge) {
	t.Helper()
	want := big.NewInt(0)
	if price, ok := w.state.price(d.Medicine, d.Day); ok {
		twice := new(big.Int).Mul(big.NewInt(2*d.Quantity), big.NewInt(price.Amount))
		want.Div(twice.Add(twice, big.NewInt(price.Per)), big.NewInt(2*price.Per))
	}
	if charged == nil || charged.ChargeID != d.ChargeID || charged.Amount != d.Amount || !want.IsInt64() || d.Amount != want.Int64() {
		t.Fatalf("%+v is charged as %+v; the price comes to %s", d, charged, want)
	}
}

// checkOwnedHolds holds what is reserved for prescriptions and dispensings
// against what those say.
func checkOwnedHolds(t fataler, w *world) {
	t.Helper()
	for key, hold := range w.state.holds {
		id, held := key.id(w.state.tag), int64(0)
		for _, line := range hold.lines {
			held += line.quantity
		}
		switch p, d := document[Prescription](w.state, DocumentPrescription, hold.owner), document[Dispensing](w.state, DocumentDispensing, hold.owner); {
		case hold.owner == "":
		case p != nil:
			at := slices.IndexFunc(p.Lines, func(l PrescriptionLine) bool { return l.HoldID == id })
			if at < 0 || p.Status == PrescriptionCancelled || held > p.Lines[at].Quantity || hold.shelf.Shelf != (Shelf{p.Location, p.Lines[at].Medicine}) {
				t.Fatalf("hold %s of %d units is none of %+v", id, held, p)
			}
		case d != nil:
			if d.HoldID != id || d.Status >= DispensingHandedOver || held > d.Quantity || hold.deadline != d.CollectBy || hold.shelf.Shelf != (Shelf{d.Location, d.Medicine}) {
				t.Fatalf("hold %s of %d units is none of %+v", id, held, d)
			}
		default:
			t.Fatalf("hold %s belongs to %q, which is not there", id, hold.owner)
		}
	}
}

// checkLots looks at each lot that leaves.
func checkLots(t fataler, w *world, e Event, change *Change, d *Dispensing) {
	t.Helper()
	for _, move := range change.Moves {
		for _, line := range move.Lines {
			lot := w.state.lots[line.Lot]
			if move.To == Dispensed && (lot.Bar != BarNone || lot.Expiry < w.state.today(e.At)) {
				t.Fatalf("lot %+v was dispensed on %s: %+v", lot, w.state.today(e.At), d)
			}
		}
	}
}

// checkDowntime: what broke a rule is flagged, and a second person is asked.
func checkDowntime(t fataler, w *world, e Event, d *Dispensing) {
	t.Helper()
	flagged := func(reasons ...Reason) bool {
		return slices.ContainsFunc(reasons, func(r Reason) bool { return slices.Contains(d.Exceptions, r) })
	}
	if len(d.Exceptions) > 0 != (e.ReviewBy > 0) {
		t.Fatalf("exceptions %v, review by %d", d.Exceptions, e.ReviewBy)
	}
	if w.state.checkRequired(d.Medicine, d.Quantity) && e.Witness == "" && !flagged(ReasonWitnessRequired) {
		t.Fatalf("a controlled medicine on one person's word is not flagged: %+v", d)
	}
	for _, part := range d.Lots {
		lot := w.state.lots[part.Lot]
		if lot != nil && w.state.usable(lot, e.OccurredAt) != nil && !flagged(ReasonLotQuarantined, ReasonLotRecalled, ReasonLotExpired) {
			t.Fatalf("a lot that may not be used is not flagged: %+v of %+v", lot, d)
		}
	}
	p := document[Prescription](w.state, DocumentPrescription, string(d.PrescriptionID))
	if p != nil && p.Lines[d.Line-1].Left() < d.Quantity && !flagged(ReasonPrescriptionExceeded) {
		t.Fatalf("more than was prescribed is not flagged: %+v of %+v", d, p)
	}
	if p != nil && p.ValidUntil < d.Day && !flagged(ReasonPrescriptionExpired) {
		t.Fatalf("what was given after the last day is not flagged: %+v of %+v", d, p)
	}
	checkAmount(t, w, d, documentOf[*Charge](e))
}

// checkPharmacy holds all documents of the pharmacy against each other.
func checkPharmacy(t fataler, w *world) {
	t.Helper()
	type line struct {
		id     PrescriptionID
		number int64
	}
	given, ready, beyond := make(map[line]int64), make(map[line]int64), make(map[line]bool)
	charges := make(map[DispensingID][]*Charge)
	for _, id := range w.documents[DocumentCharge] {
		b := document[Charge](w.state, DocumentCharge, id)
		charges[b.DispensingID] = append(charges[b.DispensingID], b)
	}
	for _, id := range w.documents[DocumentDispensing] {
		d := document[Dispensing](w.state, DocumentDispensing, id)
		at := line{d.PrescriptionID, d.Line}
		switch d.Status {
		case DispensingHandedOver:
			given[at] += d.Quantity
			beyond[at] = beyond[at] || len(d.Exceptions) > 0
		case DispensingPrepared, DispensingChecked:
			ready[at] += d.Quantity
		}
		checkCharges(t, w, d, charges[d.DispensingID])
		for _, part := range d.Lots {
			if part.Returned > part.Quantity {
				t.Fatalf("more came back than was given: %+v", d)
			}
		}
	}
	for _, id := range w.documents[DocumentPrescription] {
		p := document[Prescription](w.state, DocumentPrescription, id)
		for i, l := range p.Lines {
			at := line{p.PrescriptionID, int64(i + 1)}
			if l.Dispensed != given[at] || l.Prepared != ready[at] {
				t.Fatalf("line %d of %+v: dispensed were %d, and %d lie ready", i+1, p, given[at], ready[at])
			}
			if !beyond[at] && l.Dispensed+l.Prepared > l.Quantity*(1+l.Refills) {
				t.Fatalf("line %d of %+v was dispensed beyond what was prescribed", i+1, p)
			}
		}
	}
}

// checkCharges: one for what the patient had, and its reversal where it was
// taken back.
func checkCharges(t fataler, w *world, d *Dispensing, charges []*Charge) {
	t.Helper()
	want := 0
	switch {
	case d.Status == DispensingHandedOver:
		want = 1
	case d.Status == DispensingCancelled && d.ChargeID != "":
		want = 2
	}
	if len(charges) != want {
		t.Fatalf("%+v has %d billing events, want %d", d, len(charges), want)
	}
	var sum int64
	for _, b := range charges {
		sum += b.Amount
	}
	if want == 2 && (sum != 0 || charges[1].Reverses != charges[0].ChargeID) || want == 1 && sum != d.Amount {
		t.Fatalf("the billing events of %+v sum to %d: %+v", d, sum, charges)
	}
}

func TestPharmacyKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := pharmacyWorld(t)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			pharmacyStep(t, rapidChooser{t}, w)
		}
		checkPharmacy(t, w)
		checkReplay(t, w)
	})
}

// TestForgettingChangesNothing decides with a state that knows no document on
// demand but what it wants and is given.
func TestForgettingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := pharmacyWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			pharmacyStep(t, rapidChooser{t}, w)
		}
		forgetful, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
		if err != nil {
			t.Fatalf("restore: %v", err)
		}
		for range 10 {
			command := w.withBooked(w.attach(drawPharmacy(rapidChooser{t}, w)))
			learnFrom(t, forgetful, w.state, command)
			event, rejection := Decide(w.state, command, w.now)
			event2, rejection2 := Decide(forgetful, command, w.now)
			mustBeSame(t, "verdicts", rejection, rejection2)
			mustBeSame(t, "events", event, event2)
		}
	})
}

// TestForgettingAllAlong walks with two states, of which one forgets now and
// then all that is read on demand.
func TestForgettingAllAlong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, c := pharmacyWorld(t), rapidChooser{t}
		forgetful, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
		if err != nil {
			t.Fatalf("restore: %v", err)
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			w.now += Instant(pick(c, "tick", []int64{0, 1_000_000, int64(testDay) / 6}))
			command := w.attach(drawPharmacy(c, w))
			learnFrom(t, forgetful, w.state, command)
			event, rejection := Decide(w.state, command, w.now)
			event2, rejection2 := Decide(forgetful, command, w.now)
			mustBeSame(t, "verdicts", rejection, rejection2)
			mustBeSame(t, "events", event, event2)
			if rejection != nil {
				continue
			}
			w.accept(t, event)
			if _, err := Evolve(forgetful, w.records[len(w.records)-1]); err != nil {
				t.Fatalf("the forgetful state does not evolve: %v", err)
			}
			if c.int("forget", 0, 4) == 0 {
				forgetful.Commit()
				clear(forgetful.onDemand)
				forgetful.forgotten = forgetful.head.Sequence
			}
		}
		mustBeSame(t, "states", memoryOf(w.state), memoryOf(forgetful))
	})
}

// learnFrom gives a state what a command names, as another state at the same
// head knows it.
func learnFrom(t fataler, to, from *State, c Command) {
	t.Helper()
	for round := 0; ; round++ {
		wanted := Wanted(to, c)
		if len(wanted) == 0 {
			return
		}
		if round == 3 {
			t.Fatalf("after three rounds %v are still wanted", wanted)
		}
		for _, key := range wanted {
			if !to.Learn(key, from.onDemand[key], from.head.Sequence) {
				t.Fatalf("%v as of the head is not learnt", key)
			}
		}
	}
}

func TestLearnTakesOnlyWhatIsOfTheHead(t *testing.T) {
	w := pharmacyWorld(t)
	key := DocumentKey{DocumentPatient, string(patientNo(0))}
	read := *w.state.onDemand[key]
	fresh, err := Restore(w.state.id, utcOnly, w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	head := fresh.head.Sequence
	if fresh.Learn(key, &read, head-1) {
		t.Error("what was read before the state was made is learnt")
	}
	later := read
	later.LastSequence = head + 1
	if fresh.Learn(key, &later, head+1) {
		t.Error("what was changed after the head is learnt")
	}
	if !fresh.Learn(key, &read, head) || fresh.findDocument(key) == nil || len(Wanted(fresh, w.command(&ErasePatient{patientNo(0), "ASKED"}))) != 0 {
		t.Error("what is of the head is not learnt")
	}
	if wanted := Wanted(fresh, w.command(&HandOver{DispensingID("DN-9999")})); len(wanted) != 0 {
		t.Errorf("what no command can have made is wanted: %v", wanted)
	}
	for i := range maxNamed + 1 {
		fresh.onDemand[DocumentKey{DocumentPatient, fmt.Sprint(i)}] = nil
	}
	fresh.Commit()
	if len(fresh.onDemand) != 0 || fresh.forgotten != head {
		t.Errorf("%d documents are kept, forgotten is up to %d", len(fresh.onDemand), fresh.forgotten)
	}
}
