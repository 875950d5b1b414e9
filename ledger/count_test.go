package ledger

import (
	"strings"
	"testing"
)

// counted records what lies in the store, outside of a session.
func counted(lines ...CountedLine) *RecordCount {
	return &RecordCount{LocationID: "store", Lines: lines, ReasonCode: "CYCLE"}
}

func TestCountIsAgainstTheBalanceWhenItWasTaken(t *testing.T) {
	for name, c := range map[string]struct {
		counted int64
		at      func(*world) Sequence
		want    int64 // available after it
	}{
		// 30 lie there; 10 are issued after somebody counted.
		"right then":          {30, func(w *world) Sequence { return w.state.head.Sequence - 1 }, 20},
		"two missing then":    {28, func(w *world) Sequence { return w.state.head.Sequence - 1 }, 18},
		"two too many then":   {32, func(w *world) Sequence { return w.state.head.Sequence - 1 }, 22},
		"right now":           {20, func(w *world) Sequence { return 0 }, 20},
		"right at the head":   {20, func(w *world) Sequence { return w.state.head.Sequence }, 20},
		"two missing now":     {18, func(w *world) Sequence { return 0 }, 18},
		"before it was there": {0, func(*world) Sequence { return 1 }, 20},
	} {
		t.Run(name, func(t *testing.T) {
			w := transferWorld(t)
			w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 10})
			w.must(t, counted(CountedLine{LotID: "zinc-1", Counted: c.counted, Sequence: c.at(w)}))
			same(t, "available", w.balances("store", "zinc-1"), Balances{Available: c.want})
			checkInvariants(t, w)
		})
	}
}

func TestCountIncludesWhatIsHeld(t *testing.T) {
	w := transferWorld(t)
	w.must(t, policy(time1, Rule{"*", KindWriteOffStock, 0, RequireApprovalBefore}))
	hold := w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 10, ReasonCode: "WARD", Deadline: w.now + testDay}).Body.(*StockReserved).HoldID
	w.must(t, &WriteOffStock{LocationID: "store", LotID: "zinc-1", Quantity: 5, ReasonCode: "BROKEN"})
	w.must(t, &QuarantineLot{LotID: "zinc-1", LocationID: "store", Quantity: 5, ReasonCode: "DAMP"})
	same(t, "store", w.balances("store", "zinc-1"), Balances{Available: 10, Reserved: 10, Pending: 5, Quarantined: 5})
	w.must(t, counted(CountedLine{LotID: "zinc-1", Counted: 25}, CountedLine{LotID: "zinc-1", Counted: 6, Quarantined: true}))
	same(t, "right but for quarantine", w.balances("store", "zinc-1"), Balances{Available: 10, Reserved: 10, Pending: 5, Quarantined: 6})
	w.must(t, counted(CountedLine{LotID: "zinc-1", Counted: 15}))
	same(t, "all that is free is missing", w.balances("store", "zinc-1"), Balances{Reserved: 10, Pending: 5, Quarantined: 6})
	r := w.refused(t, "amina", counted(CountedLine{LotID: "zinc-1", Counted: 12}), ReasonCountEatsHeld)
	want := string(w.lastApproval()) + "," + string(hold)
	same(t, "who has them", r.Metadata["held_by"], want)
	same(t, "how many", r.Metadata["missing"]+" of "+r.Metadata["available"], "3 of 0")
	r = w.refused(t, "amina", counted(CountedLine{LotID: "zinc-1", Counted: 0, Quarantined: true, Sequence: w.state.head.Sequence}, CountedLine{LotID: "zinc-1", Counted: 3}), ReasonCountEatsHeld)
	same(t, "the line at fault", r.Field, "lines[1].counted")
	checkInvariants(t, w)
}

// A blind count keeps the balance from who counts, in rejections too.
func TestBlindCountTellsNoBalance(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-1", Quantity: 20, ReasonCode: "WARD", Deadline: w.now + testDay})
	w.must(t, &StartCount{LocationID: "store", Blind: true})
	record := &RecordCount{CountID: w.lastCount(), Lines: []CountedLine{{LotID: "zinc-1", Counted: 3}}, ReasonCode: "CYCLE"}
	r := w.refused(t, "amina", record, ReasonCountEatsHeld)
	for _, told := range []string{r.Message, r.Metadata["missing"], r.Metadata["available"]} {
		if strings.Contains(told, "27") || strings.Contains(told, "10") {
			t.Errorf("it tells %q", told)
		}
	}
}

func TestCountSession(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &ReceiveStock{LocationID: "ward", LotID: "zinc-1", Quantity: 9})
	tolerant := policy(time1)
	tolerant.ToleranceUnits, tolerant.Recount = 2, true
	w.must(t, tolerant)
	w.must(t, &StartCount{LocationID: "store"})
	id := w.lastCount()
	status := func(lot LotID) CountLine {
		for _, line := range document[Count](w.state, DocumentCount, string(id)).Lines {
			if line.Lot == lot {
				return line
			}
		}
		return CountLine{}
	}
	record := func(lot LotID, n int64) {
		w.must(t, &RecordCount{CountID: id, Lines: []CountedLine{{LotID: lot, Counted: n}}, ReasonCode: "CYCLE"})
	}
	record("zinc-1", 28) // within the tolerance
	same(t, "within", status("zinc-1"), CountLine{Medicine: "zinc", Lot: "zinc-1", Status: CountDone, Counted: 28, Variance: -2})
	same(t, "it is posted", w.balances("store", "zinc-1").Available, 28)
	record("zinc-2", 27) // beyond it: nothing is posted before the second count
	same(t, "beyond", status("zinc-2"), CountLine{Medicine: "zinc", Lot: "zinc-2", Status: CountRecount, Counted: 27, Variance: -3})
	same(t, "it is not posted", w.balances("store", "zinc-2").Available, 30)
	w.refused(t, "amina", &CompleteCount{CountID: id}, ReasonCountIncomplete)
	record("zinc-2", 26)
	same(t, "counted twice", status("zinc-2"), CountLine{Medicine: "zinc", Lot: "zinc-2", Status: CountDone, Counted: 26, Variance: -4})
	same(t, "now it is posted", w.balances("store", "zinc-2").Available, 26)
	record("zinc-0", 1) // the books had none
	same(t, "found", status("zinc-0"), CountLine{Medicine: "zinc", Lot: "zinc-0", Status: CountDone, Counted: 1, Variance: 1})
	w.must(t, &CompleteCount{CountID: id})
	same(t, "open documents", len(w.documents[DocumentCount]), 1)
	w.refused(t, "amina", &CancelCount{CountID: id, ReasonCode: "LATE"}, ReasonCountNotFound)
	same(t, "the ward was not counted", w.balances("ward", "zinc-1").Available, 9)
	checkReplay(t, w)
}

func TestTolerance(t *testing.T) {
	for name, c := range map[string]struct {
		units, basisPoints, variance, booked int64
		want                                 bool
	}{
		"nothing is off":              {0, 0, 0, 100, false},
		"one is off":                  {0, 0, 1, 100, true},
		"within the units":            {2, 0, -2, 100, false},
		"beyond the units":            {2, 0, -3, 100, true},
		"at the share":                {0, 500, 5, 100, false},
		"beyond the share":            {0, 500, -6, 100, true},
		"either will do":              {6, 500, -6, 100, false},
		"found where nothing was":     {0, 10_000, 1, 0, true},
		"everything is gone":          {0, 9_999, -100, 100, true},
		"as much as there can be":     {0, 9_999, MaxQuantity, MaxQuantity, true},
		"half of what there can be":   {0, 5_000, -MaxQuantity / 2, MaxQuantity, false},
		"a bit more than half of all": {0, 5_000, -MaxQuantity/2 - 1, MaxQuantity, true},
	} {
		p := Policy{Recount: true, ToleranceUnits: c.units, ToleranceBasisPoints: c.basisPoints}
		if got := p.exceedsTolerance(c.variance, c.booked); got != c.want {
			t.Errorf("%s: beyond the tolerance: %v", name, got)
		}
	}
	if (&Policy{}).exceedsTolerance(9, 9) {
		t.Errorf("a policy that does not mind has a tolerance")
	}
}

// A count that waits for approval is judged as it was taken, whatever was moved
// since.
func TestCountBeyondToleranceWaitsForApproval(t *testing.T) {
	w := transferWorld(t)
	strict := policy(time1)
	strict.ToleranceUnits, strict.CountApproval = 2, true
	w.must(t, strict)
	w.must(t, counted(CountedLine{LotID: "zinc-1", Counted: 29})) // within
	same(t, "store", w.balances("store", "zinc-1"), Balances{Available: 29})
	event := w.must(t, counted(CountedLine{LotID: "zinc-1", Counted: 25}, CountedLine{LotID: "zinc-2", Counted: 35}))
	same(t, "what it came to", event.Kind(), KindRequestApproval)
	same(t, "what is missing waits", w.balances("store", "zinc-1"), Balances{Available: 25, Pending: 4})
	same(t, "what was found does not exist yet", w.balances("store", "zinc-2"), Balances{Available: 30})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 50})
	w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-2", Quantity: 10})
	w.mustBy(t, "brian", &ApproveCommand{ApprovalID: w.lastApproval()})
	same(t, "zinc-1", w.balances("store", "zinc-1"), Balances{Available: 75})
	same(t, "zinc-2", w.balances("store", "zinc-2"), Balances{Available: 25})
	checkInvariants(t, w)
	checkReplay(t, w)
}

// In a session the second count of a line is the one that has to be approved.
func TestRecountThenApproval(t *testing.T) {
	w := transferWorld(t)
	strict := policy(time1)
	strict.CountApproval, strict.Recount = true, true
	w.must(t, strict)
	w.must(t, &StartCount{LocationID: "store", Medicines: []MedicineID{"zinc"}})
	record := &RecordCount{CountID: w.lastCount(), Lines: []CountedLine{{LotID: "zinc-1", Counted: 20}}, ReasonCode: "CYCLE"}
	same(t, "first", w.must(t, record).Kind(), KindRecordCount)
	same(t, "second", w.must(t, record).Kind(), KindRequestApproval)
	same(t, "pending", w.balances("store", "zinc-1"), Balances{Available: 20, Pending: 10})
	w.mustBy(t, "brian", &ApproveCommand{ApprovalID: w.lastApproval()})
	same(t, "store", w.balances("store", "zinc-1"), Balances{Available: 20})
	same(t, "line", document[Count](w.state, DocumentCount, string(w.lastCount())).Lines[0].Status, CountDone)
	checkReplay(t, w)
}

// A rule about counting a controlled medicine holds where nothing is missing,
// too: that nothing is missing is what the witness stands for.
func TestWitnessedCountWithoutVariance(t *testing.T) {
	w := newBusyWorld(t)
	w.must(t, policy(time1, Rule{"schedule-2", KindRecordCount, 0, RequireWitness}))
	w.must(t, counted(CountedLine{LotID: "zinc-1", Counted: 60}))
	right := counted(CountedLine{LotID: "morphine-1", Counted: 60})
	w.refused(t, "amina", right, ReasonWitnessRequired)
	c := w.command(right)
	c.Witness = "brian"
	if event, r := w.give(t, c); r != nil || event.Witness != "brian" {
		t.Errorf("with a witness: %v, by %q", r, event.Witness)
	}
}

func TestBalancesWanted(t *testing.T) {
	w := transferWorld(t)
	w.must(t, &AddIdentifier{Subject: SubjectLocation, SubjectID: "store", System: "erp", Value: "S"})
	w.must(t, &StartCount{LocationID: "store"})
	lines := []CountedLine{{LotID: "zinc-1", Sequence: 3}, {LotID: "zinc-2"}, {LotID: "none", Sequence: 4}, {LotID: "zinc-2", Sequence: 5}, {LotID: "zinc-0", Sequence: 9999}, {LotID: "zinc-1", Sequence: 1}}
	shelf := Shelf{"store", "zinc"}
	want := []BalanceAt{{shelf, "zinc-1", 3}, {}, {}, {shelf, "zinc-2", 5}}
	for name, body := range map[string]*RecordCount{
		"by location":   {LocationID: "store", Lines: lines},
		"by identifier": {LocationID: "erp|S", Lines: lines},
		"by session":    {CountID: w.lastCount(), Lines: lines},
	} {
		mustBeSame(t, name, want, BalancesWanted(w.state, w.command(body), w.now))
	}
}
