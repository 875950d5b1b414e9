package ledger

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden journal of the present event format; do it once, when a format is released")

// goldens write the golden journals: each has what the event format had become
// when it was written.
var goldens = map[string]func(fataler) *world{
	"journal-v1.txt":   goldenV1,
	"journal-v1-2.txt": goldenV1Second,
	"journal-v1-3.txt": goldenV1Third,
}

// Golden journals are what releases wrote. They are never changed: a release
// that reads one to another state has lost its users' books.
func TestGoldenJournalsReplay(t *testing.T) {
	if *update {
		for name, write := range goldens {
			writeGolden(t, filepath.Join("testdata", name), write)
		}
	}
	files, err := filepath.Glob("testdata/journal-v*.txt")
	if err != nil || len(files) < len(goldens) {
		t.Fatalf("golden journals are missing: there are %v (%v)", files, err)
	}
	seen := make(map[Kind]bool)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			state := replayGolden(t, file, seen)
			got, err := json.MarshalIndent(state.Snapshot(), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(stateFile(file))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(got, '\n'), want) {
				t.Errorf("the journal replays to another state than when it was written:\n%s", got)
			}
		})
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no golden journal has a %s: write another one with its own writer", kind)
		}
	}
}

func stateFile(journal string) string { return strings.TrimSuffix(journal, ".txt") + ".state.json" }

func replayGolden(t *testing.T, file string, seen map[Kind]bool) *State {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	state := NewState("golden", utcOnly)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		stored, hash, _ := strings.Cut(lines.Text(), " ")
		event, err1 := hex.DecodeString(stored)
		link, err2 := hex.DecodeString(hash)
		if err1 != nil || err2 != nil || len(link) != len(Hash{}) {
			t.Fatalf("a line of %s is not hexadecimal", file)
		}
		record, err := OpenRecord(event, Hash(link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Evolve(state, record); err != nil {
			t.Fatal(err)
		}
		if again := AppendEvent(nil, record.Event); !bytes.Equal(again, event) {
			t.Errorf("sequence %d would be written as %x", record.Event.Sequence, again)
		}
		seen[record.Event.Kind()] = true
	}
	return state
}

// writeGolden writes a golden journal and its state, unless it was written.
func writeGolden(t *testing.T, file string, write func(fataler) *world) {
	t.Helper()
	if _, err := os.Stat(file); err == nil {
		return
	}
	w := write(t)
	var out bytes.Buffer
	for _, r := range w.records {
		fmt.Fprintf(&out, "%x %s\n", r.Stored, r.Hash)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	state, err := json.MarshalIndent(w.state.Snapshot(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stateFile(file), append(state, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// goldenV1 has every kind of event of the first release.
func goldenV1(t fataler) *world {
	w := emptyWorld("golden")
	name, expiry, days := "Renamed", Date(22000), int64(3)
	give := func(body CommandBody) Event {
		w.keys++
		w.now += 1_000_000
		event, rejection := w.give(t, Command{Clinic: "golden", IdempotencyKey: fmt.Sprintf("key-%d", w.keys), Actor: "tester", Body: body})
		if rejection != nil {
			t.Fatalf("%s: %v", body.Kind(), rejection)
		}
		return event
	}
	give(&CreateClinic{Name: "Golden", TimeZone: "UTC", BackdatingDays: 1})
	give(&UpdateClinic{Name: &name, BackdatingDays: &days})
	give(&CreateLocation{LocationID: "store", Name: "Store", LocationKind: Store})
	give(&CreateLocation{Name: "Old ward", LocationKind: Ward})
	ward := w.records[3].Event.Body.(*LocationCreated).LocationID
	give(&UpdateLocation{LocationID: ward, Name: &name})
	give(&DeactivateLocation{LocationID: ward, ReasonCode: "closed"})
	give(&AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet", Strength: "20 mg", Form: "tablet", ATCCode: "A12CB01", Category: "Gut"})
	give(&AddMedicine{MedicineID: "iron", Name: "Iron", BaseUnit: "tablet"})
	give(&UpdateMedicine{MedicineID: "iron", Name: &name})
	give(&DeactivateMedicine{MedicineID: "iron", ReasonCode: "unused"})
	give(&RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: 21500})
	give(&RegisterLot{LotID: "L2", MedicineID: "zinc", GTIN: "4006381333931", LotNumber: "2", Expiry: 21600})
	give(&RegisterLot{MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "3", Expiry: 21700})
	give(&UpdateLot{LotID: "L1", Expiry: &expiry})
	give(&DeactivateLot{LotID: w.records[12].Event.Body.(*LotRegistered).LotID, ReasonCode: "unused"})
	give(&ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 100, Supplier: "Acme", Reference: "DN-1"})
	give(&ReceiveStock{LocationID: "store", LotID: "L2", Quantity: 50})
	hold := func(quantity int64) HoldID {
		e := give(&ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: quantity, ReasonCode: "ward", Deadline: w.now + testDay})
		return e.Body.(*StockReserved).HoldID
	}
	split, open, late := hold(70), hold(10), hold(5)
	give(&IssueStock{HoldID: split, Quantity: 60, Recipient: "ward-1"})
	give(&ReleaseStock{HoldID: open, Quantity: 4, ReasonCode: "changed"})
	give(&AdjustStock{LocationID: "store", LotID: "L1", Direction: Increase, Quantity: 3, ReasonCode: "found"})
	give(&AdjustStock{LocationID: "store", LotID: "L1", Direction: Decrease, Quantity: 1, ReasonCode: "broken"})
	give(&IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 2, ReasonCode: "dressing"})
	give(&WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 1, ReasonCode: "broken", Reference: "D-1"})
	give(&ReturnToSupplier{LocationID: "store", LotID: "L1", Quantity: 1, ReasonCode: "recall", Supplier: "Acme", Reference: "R-1"})
	w.now += 2 * testDay
	give(&ExpireReservation{HoldID: late})
	return w
}

// goldenV1Second has every kind of event that was added to format 1 after its
// first release, and every field that was added to an earlier one.
func goldenV1Second(t fataler) *world {
	s := newStageOf(t, "golden")
	give := func(body CommandBody) Event {
		s.now += 1_000_000
		return s.must(t, body)
	}
	approve := func() {
		s.now += 1_000_000
		s.mustBy(t, "brian", &ApproveCommand{ApprovalID: s.lastApproval()})
	}
	// Second persons: approved, rejected, withdrawn, lapsed, reviewed, witnessed.
	s.mustBy(t, "brian", &ApproveCommand{ApprovalID: s.waiting})
	s.mustBy(t, "brian", &ApproveCommand{ApprovalID: s.review})
	s.mustBy(t, SystemActor, &LapseCommand{ApprovalID: s.lapsed})
	give(policy(time1, Rule{"*", KindReturnToSupplier, 2, RequireApprovalBefore}, Rule{"*", KindRecordCount, 0, RequireApprovalBefore}, Rule{"*", KindRegisterLot, 0, RequireApprovalBefore}))
	give(&ReturnToSupplier{LocationID: "store", LotID: "zinc-q", Quantity: 3, ReasonCode: "DAMP", Supplier: "erp|A", Reference: "R-1"})
	s.mustBy(t, "brian", &RejectCommand{ApprovalID: s.lastApproval(), ReasonCode: "NO"})
	give(&RegisterLot{MedicineID: "zinc", Manufacturer: "Bolt", LotNumber: "B1", Expiry: today + 50})
	approve()
	give(&RecordCount{CountID: s.count, Lines: []CountedLine{
		{LotID: "morphine-1", Counted: 48}, {LotID: "amoxicillin-1", Counted: 51, Sequence: s.state.head.Sequence - 1}, {LotID: "zinc-2", Counted: 4, Quarantined: true},
	}, ReasonCode: "CYCLE"})
	approve()
	withdrawn := s.putOff(t, &ReturnToSupplier{LocationID: "store", LotID: "zinc-2", Quantity: 4, ReasonCode: "WRONG"})
	give(&RejectCommand{ApprovalID: withdrawn, ReasonCode: "CHANGED"})
	listed := policy(time3, Rule{"schedule-2", KindIssueStock, 0, RequireWitness}, Rule{"schedule-2", KindWriteOffStock, 0, RequireReview})
	listed.ReasonCodes = []ReasonCodes{{KindWriteOffStock, []string{"BROKEN", "EXPIRED"}}}
	listed.ToleranceUnits, listed.ToleranceBasisPoints, listed.Recount, listed.CountApproval = 1, 100, true, true
	give(listed)
	witnessed := s.command(&IssueStock{LocationID: "store", MedicineID: "morphine", Quantity: 2, Recipient: "WARD-1"})
	witnessed.Witness, witnessed.OccurredAt, witnessed.LateReasonCode = "chidi", s.now-9*testDay, "OUTAGE"
	if _, r := s.give(t, witnessed); r != nil {
		t.Fatalf("with a witness: %v", r)
	}
	give(&WriteOffStock{LocationID: "store", LotID: "morphine-1", Quantity: 1, ReasonCode: "BROKEN", Reference: "D-2"})
	give(policy(time3))
	s.goldenStock(t, give)
	s.goldenRecalls(give)
	return s.world
}

// goldenStock ends what the stage left open, and uses packs and references.
func (s *stage) goldenStock(t fataler, give func(CommandBody) Event) {
	give(&RecordCount{LocationID: "ward", Lines: []CountedLine{{LotID: "zinc-2", Counted: 21}}, ReasonCode: "CYCLE"})
	give(&CompleteCount{CountID: s.count, ReasonCode: "ENOUGH"})
	give(&CancelCount{CountID: s.countAtClosed, ReasonCode: "CLOSED"})
	give(&ReleaseStock{HoldID: s.hold, Quantity: 2, ReasonCode: "CHANGED"})
	give(&ExpireReservation{HoldID: s.lateHold})
	give(&RejectTransfer{TransferID: s.ofRetired, ReasonCode: "UNUSED"})
	give(&ApproveTransfer{TransferID: s.requested, Lines: []RequestedLine{{MedicineID: "erp|Z", Quantity: 4}}})
	give(&CancelTransfer{TransferID: s.approved, ReasonCode: "CHANGED"})
	give(&ReceiveTransfer{TransferID: s.inTransit, Lines: []LotLine{{LotID: "zinc-2", Quantity: 2, Quarantine: true}, {LotID: "zinc-2", Quantity: 1}}})
	give(&ReceiveTransfer{TransferID: s.inTransit, Lines: []LotLine{{LotID: "gs1|(01)" + gtinBox + "(10)Z1", Quantity: 1}}, ReasonCode: "EXTRA"})
	give(&CompleteTransfer{TransferID: s.inTransit, ReasonCode: "LOST"})
	give(&CompleteTransfer{TransferID: s.received})
	give(&CancelTransfer{TransferID: s.inTransitToClosed, ReasonCode: "CLOSED"})
	give(&ReceiveRepayment{LoanMove{Partner: "riverside", LocationID: "store", LotID: "zinc-2", Quantity: 5, Reference: "LENT"}})
	give(&RepayLoan{LoanMove{Partner: "riverside", LocationID: "store", LotID: "zinc-2", Quantity: 3, Reference: "BORROWED", ReasonCode: "HELP"}})
	give(&ConvertStock{
		LocationID: "erp|S", Inputs: []LotLine{{LotID: "erp|Z1", Quantity: 1, Pack: "box"}, {LotID: "amoxicillin-1", Quantity: 5}}, MedicineID: "zinc",
		LotID: "mixed", LotNumber: "C1", Manufacturer: "Hillside", Expiry: today + 30, Quantity: 12, ReasonCode: "COMPOUND", Reference: "B-1",
	})
	give(&OpenContainer{LocationID: "store", LotID: "mixed", Quantity: 2, InUseUntil: today + 9, ReasonCode: "OPEN"})
	give(&UpdateMedicine{MedicineID: "amoxicillin", ControlClass: ptr("schedule-4")})
	give(&UpdateStockLevels{LocationID: "store", MedicineID: "zinc", Min: 20, Max: 400, Reorder: 40})
	give(&RemoveIdentifier{Subject: SubjectLot, System: "erp", Value: "Z1", ReasonCode: "WRONG"})
	give(&ReverseReceipt{Sequence: s.receipt, Quantity: 2, ReasonCode: "TYPO", Reference: "N-2"})
	give(&UpdateLocation{LocationID: "erp|S", Name: ptr("Main store")})
	checkInvariants(t, s.world)
}

// goldenRecalls has lots that fall under recalls in every way.
func (s *stage) goldenRecalls(give func(CommandBody) Event) {
	give(&ReleaseLot{LotID: "zinc-q", ReasonCode: "DRY"})
	give(&RecallLot{Manufacturer: "Bolt", LotNumber: "B2", ReasonCode: "NOTICE", Reference: "N-3"})
	maker := s.lastRecall()
	give(&RegisterLot{LotID: "born-barred", MedicineID: "zinc", Manufacturer: "Bolt", LotNumber: "B2", Expiry: today + 60})
	give(&ReceiveStock{LocationID: "ward", LotID: "born-barred", Quantity: 6})
	give(&WriteOffStock{LocationID: "ward", LotID: "born-barred", Quantity: 1, ReasonCode: "RECALLED", FromQuarantine: true})
	give(&ReturnToSupplier{LocationID: "ward", LotID: "born-barred", Quantity: 2, ReasonCode: "RECALLED", FromQuarantine: true})
	give(&ContinueRecall{RecallID: maker})
	give(&UpdateLot{LotID: "zinc-1", GTIN: ptr(""), Manufacturer: ptr("Bolt"), LotNumber: ptr("B2-opened")})
	give(&RecallLot{Manufacturer: "Bolt", LotNumber: "B2-opened", ReasonCode: "NOTICE"})
	opened := s.lastRecall()
	give(&ContinueRecall{RecallID: opened})
	give(&RecallLot{LotID: "amoxicillin-1", ReasonCode: "NOTICE"})
	give(&LiftRecall{RecallID: opened, ReasonCode: "MISTAKE"}) // what is mixed of both passes to the other recall
	give(&RegisterLot{LotID: "corrected", MedicineID: "zinc", Manufacturer: "Bolt", LotNumber: "B3", Expiry: today + 60})
	give(&UpdateLot{LotID: "corrected", Manufacturer: ptr("bolt"), LotNumber: ptr("B4")})
	give(&RecallLot{Manufacturer: "Bolt", LotNumber: "B3", ReasonCode: "NOTICE"})
	give(&UpdateLot{LotID: "corrected", LotNumber: ptr("B3")})
}

// goldenV1Third has every kind of event of the pharmacy, in its variants.
func goldenV1Third(t fataler) *world {
	s := newStageOf(t, "golden")
	c := &s.counter
	give := func(body CommandBody) Event {
		s.now += 1_000_000
		return s.must(t, body)
	}
	witnessed := func(body CommandBody) {
		s.now += 1_000_000
		command := s.command(body)
		command.Witness, command.OccurredAt = "chidi", s.now-3_600_000_000
		if _, r := s.give(t, command); r != nil {
			t.Fatalf("%s with a witness: %v", body.Kind(), r)
		}
	}
	give(&SetPrice{MedicineID: "zinc", Price: Price{From: today, Amount: 130, Per: 1, Currency: "KES"}, Pack: "box"})
	give(&SetPrice{MedicineID: "morphine", Price: Price{From: today, Amount: 999, Per: 1, Currency: "KES"}})
	give(&SetControlLimit{ControlLimit: ControlLimit{ControlClass: "schedule-3", MaxQuantity: 30, NoRefills: true, MaxValidDays: 7}})
	give(&UpdatePatient{PatientID: c.known, TextDigest: "ffeeddccbbaa99887766554433221100"})
	give(&LiftLegalHold{c.held, "SETTLED"})
	give(&ErasePatient{c.held, "ASKED"})
	rx := s.prescription(t, func(b *CreatePrescription) {
		b.Identifier, b.HoldUntil, b.TextDigest = "paper|3", s.now+testDay, "0123456789abcdef0123456789abcdef"
		b.Lines = append(b.Lines, PrescribedLine{MedicineID: "amoxicillin", Quantity: 3, NoSubstitution: true})
	})
	give(&CreatePrescription{PatientID: c.known, Prescriber: "Dr. Hill", ValidUntil: today + 40, TemplateID: "gut"})
	give(&DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: "paper|3", Line: 1, Quantity: 2, Payer: "NHIF"}})
	witnessed(&DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: rx, Line: 2, LotID: "amoxicillin-1", Quantity: 2, WastedQuantity: 1, WasteReason: "SPILT"}})
	give(&DispenseMedicine{Dispense{LocationID: "store", PrescriptionID: c.active, LotID: "amoxicillin-1", Quantity: 1, SubstitutionReason: "OUT"}})
	give(policy(time3, Rule{"*", KindCheckDispensing, 0, RequireReview}, Rule{"*", KindCancelDispensing, 0, RequireApprovalBefore}))
	s.mustBy(t, "brian", &CheckDispensing{c.prepared})
	give(&HandOver{c.prepared})
	give(&CancelDispensing{c.given, "MISTAKE", true})
	s.mustBy(t, "brian", &ApproveCommand{ApprovalID: s.lastApproval()})
	give(policy(time3))
	give(&CancelDispensing{c.sold, "MISTAKE", false})
	s.mustBy(t, SystemActor, &CancelDispensing{c.overdue, "NOT_COLLECTED", false})
	give(&ReturnFromPatient{DispensingID: c.prepared, ReasonCode: "UNUSED", Destroy: true})
	give(&ReturnFromPatient{DispensingID: c.returned, Lines: []LotLine{{LotID: "zinc-1", Quantity: 1}}, ReasonCode: "UNUSED"})
	give(&CancelPrescription{PrescriptionID: c.holding, ReasonCode: "CHANGED"})
	give(&SetPrescriptionTemplate{TemplateID: "pain", Name: "Pain", Lines: []PrescribedLine{{MedicineID: "morphine", Quantity: 1, Pack: "", Refills: 1, NoSubstitution: true, Dosage: "at night"}}})
	give(&RemovePrescriptionTemplate{TemplateID: "gut"})
	paper := 0
	record := func(edit func(*RecordDowntime)) {
		paper++
		b := &RecordDowntime{Device: "pad-1", PaperReference: fmt.Sprint(paper)}
		edit(b)
		s.now += 1_000_000
		command := s.attach(s.command(b))
		if _, r := s.give(t, command); r != nil {
			t.Fatalf("%+v: %v", b, r)
		}
	}
	record(func(b *RecordDowntime) {
		b.Dispensed = &Dispense{LocationID: "store", MedicineID: "zinc", Quantity: 500, WastedQuantity: 1, WasteReason: "SPILT"}
	})
	record(func(b *RecordDowntime) { b.Dispensed = &Dispense{LocationID: "store", LotID: "zinc-r", Quantity: 20} })
	record(func(b *RecordDowntime) {
		b.Dispensed = &Dispense{LocationID: "closed", PrescriptionID: c.cancelled, Quantity: 2}
	})
	record(func(b *RecordDowntime) {
		b.Dispensed = &Dispense{LocationID: "ward", MedicineID: "lonely", Quantity: 2}
	})
	record(func(b *RecordDowntime) {
		b.Received = &ReceiveStock{LocationID: "store", LotID: "zinc-old", Quantity: 5, Supplier: "Acme", Reference: "N-9"}
	})
	record(func(b *RecordDowntime) {
		b.Counted = &DowntimeCount{LocationID: "store", LotID: "zinc-2", Counted: 3, ReasonCode: "PAPER"}
	})
	checkInvariants(t, s.world)
	return s.world
}
