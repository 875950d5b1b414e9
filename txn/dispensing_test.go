package txn

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// A patient's token, as nobody would draw it.
const ada = ledger.PatientID("pt_0123456789abcdefghjkmnpqrs")

// prescribe makes a prescription for zinc that can be filled three times.
func (p *pharmacy) prescribe(identifier string) ledger.PrescriptionID {
	p.tb.Helper()
	record := p.must(&ledger.CreatePrescription{
		PatientID: ada, LocationID: "store", Prescriber: "Dr. Hill", ValidUntil: day(p.tb, "2027-04-30"), Identifier: identifier,
		Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 5, Refills: 2}},
	})
	return ledger.PrescriptionID(documentOf(p.tb, record))
}

func dispense(id ledger.PrescriptionID, quantity int64) *ledger.DispenseMedicine {
	return &ledger.DispenseMedicine{Dispense: ledger.Dispense{LocationID: "store", PrescriptionID: id, Quantity: quantity, Payer: "self"}}
}

func counter(lot ledger.LotID, quantity int64) *ledger.DispenseMedicine {
	return &ledger.DispenseMedicine{Dispense: ledger.Dispense{LocationID: "store", MedicineID: "amox", LotID: lot, Quantity: quantity}}
}

// everyDispensing leaves documents of the pharmacy in all their states.
func (p *pharmacy) everyDispensing() ledger.PrescriptionID {
	p.tb.Helper()
	p.must(&ledger.RegisterPatient{PatientID: ada})
	p.must(&ledger.SetPrice{MedicineID: "zinc", Price: ledger.Price{From: day(p.tb, "2027-01-01"), Amount: 25, Per: 10, Currency: "KES"}})
	id := p.prescribe("his|rx-1")
	prepare := &ledger.PrepareDispensing{Dispense: dispense(id, 5).Dispense, CollectBy: ledger.InstantOf(p.clock.read().Add(24 * time.Hour))}
	given := ledger.DispensingID(documentOf(p.tb, p.must(dispense(id, 5))))
	ready := ledger.DispensingID(documentOf(p.tb, p.must(prepare)))
	p.mustAll(&ledger.CheckDispensing{DispensingID: ready}, &ledger.HandOver{DispensingID: ready})
	p.mustAll(
		&ledger.CancelDispensing{DispensingID: given, ReasonCode: "mistake"},
		&ledger.ReturnFromPatient{DispensingID: ready, Lines: []ledger.LotLine{{LotID: "L1", Quantity: 2}}, ReasonCode: "unused"},
		prepare, counter("A2", 2),
		&ledger.RecordDowntime{Device: "pad-1", PaperReference: "17", Dispensed: &ledger.Dispense{LocationID: "store", MedicineID: "amox", Quantity: 100}},
		&ledger.SetPrescriptionTemplate{TemplateID: "diarrhoea", Name: "Diarrhoea", Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 10}}},
		&ledger.SetControlLimit{ControlLimit: ledger.ControlLimit{ControlClass: "schedule-2", NoRefills: true}},
	)
	return id
}

// What one node does not have in memory it reads, under an id or under another
// system's identifier, whether it knows the clinic or not.
func TestNamedDocumentsAreRead(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	id := p.everyDispensing()
	p.verify()
	other := &testClinic{tb: t, e: testExecutor(t, ExecutorConfig{Clock: p.clock.read}), id: p.id, keys: 1000}
	other.must(dispense("his|rx-1", 2)) // cold
	p.must(dispense(id, 1))             // stale
	other.must(dispense("his|rx-1", 2)) // stale
	other.rejected(other.give(other.command(dispense(id, 1))), ledger.ReasonPrescriptionExceeded)
	p.rejected(p.give(p.command(dispense(id, 1))), ledger.ReasonPrescriptionExceeded)
	for _, unknown := range []ledger.PrescriptionID{"RX-1", "RX-99999", "RX-", "his|rx-2", "zinc"} {
		p.rejected(p.give(p.command(dispense(unknown, 1))), ledger.ReasonPrescriptionNotFound)
	}
	p.rejected(p.give(p.command(&ledger.CreatePrescription{
		PatientID: ada, Prescriber: "Dr. Hill", ValidUntil: day(t, "2027-04-30"), Identifier: "his|rx-1", Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 5}},
	})), ledger.ReasonPrescriptionExists)
	p.verify()
}

// A linked batch may name by its identifier what it makes itself.
func TestLinkedBatchDispensesWhatItPrescribes(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.must(&ledger.RegisterPatient{PatientID: ada})
	commands := p.commands(
		&ledger.CreatePrescription{
			PatientID: ada, Prescriber: "Dr. Hill", ValidUntil: day(t, "2027-04-30"), Identifier: "his|rx-7", Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 5}},
		},
		dispense("his|rx-7", 5),
	)
	verdicts, err := p.e.Submit(t.Context(), Submission{Clinic: p.id, Commands: commands, Linked: true})
	if err != nil || verdicts[0].Err != nil || verdicts[1].Err != nil {
		t.Fatalf("%v, %v", verdicts, err)
	}
	p.rejected(p.give(p.command(dispense("his|rx-7", 1))), ledger.ReasonPrescriptionExceeded)
	p.verify()
}

// TestQueriesOfThePharmacy reads what everyDispensing left.
func TestQueriesOfThePharmacy(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	id := p.everyDispensing()
	ctx, o := t.Context(), ReadOptions{}
	prescriptions, _, _, err := p.q.Prescriptions(ctx, p.id, PrescriptionFilter{Patient: ada, Location: "store", OpenOnly: true}, nil, 10, o)
	if err != nil || len(prescriptions) != 1 || prescriptions[0].Body.(*ledger.Prescription).PrescriptionID != id {
		t.Errorf("prescriptions are %v, %v", prescriptions, err)
	}
	elsewhere, _, _, err := p.q.Prescriptions(ctx, p.id, PrescriptionFilter{Locations: []ledger.LocationID{"ward"}}, nil, 10, o)
	if err != nil || len(elsewhere) != 0 {
		t.Errorf("at the ward are %v, %v", elsewhere, err)
	}
	for name, list := range map[string]struct {
		filter DispensingFilter
		want   int
	}{
		"all": {DispensingFilter{}, 5}, "of the patient": {DispensingFilter{Patient: ada, NewestFirst: true}, 3}, "ready": {DispensingFilter{OpenOnly: true}, 1},
		"today": {DispensingFilter{From: day(t, "2027-03-10"), To: day(t, "2027-03-10")}, 5}, "tomorrow": {DispensingFilter{From: day(t, "2027-03-11")}, 0},
		"at the ward": {DispensingFilter{Location: "ward"}, 0},
	} {
		seen := 0
		var after *DocumentPlace
		for {
			page, next, _, err := p.q.Dispensings(ctx, p.id, list.filter, after, 2, o)
			if err != nil {
				t.Fatal(err)
			}
			seen += len(page)
			if after = next; next == nil {
				break
			}
		}
		if seen != list.want {
			t.Errorf("%s: %d dispensings, want %d", name, seen, list.want)
		}
	}
	p.charged(t)
	report, _, err := p.q.DispensingReport(ctx, p.id, DispensingFilter{From: day(t, "2027-03-10"), Location: "store"}, o)
	if err != nil || len(report) != 2 {
		t.Fatalf("the report is %v, %v", report, err)
	}
	if amox, zinc := report[0], report[1]; amox.Quantity != 102 || amox.Dispensings != 2 || zinc.Quantity != 5 || zinc.Amounts["KES"] != 13 {
		t.Errorf("the report is %+v", report)
	}
}

// charged checks the feed of billing events: 5 tablets at 25 for 10 are 12.5
// minor units, which are 13.
func (p *pharmacy) charged(t *testing.T) {
	t.Helper()
	charges, _, _, err := p.q.Charges(t.Context(), p.id, ChargeFilter{}, nil, 10, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var amounts []int64
	for _, c := range charges {
		amounts = append(amounts, c.Body.(*ledger.Charge).Amount)
	}
	if !slices.Equal(amounts, []int64{13, 13, -13, 0, 0}) {
		t.Errorf("charged were %v", amounts)
	}
}

// Whom a lot reached is told in pages that neither skip nor repeat, with what
// became of each dispensing.
func TestWhomALotReached(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.must(&ledger.ReceiveStock{LocationID: "store", LotID: "A3", Quantity: 20})
	for range 5 {
		p.must(counter("A2", 1))
	}
	p.must(counter("A3", 3))
	gone := ledger.DispensingID(documentOf(t, p.must(counter("A2", 2))))
	p.must(&ledger.CancelDispensing{DispensingID: gone, ReasonCode: "mistake"})
	p.must(&ledger.RecallLot{LotID: "A2", ReasonCode: "maker"})
	var after *RecalledPlace
	units := make(map[ledger.LotID]int64)
	cancelled := 0
	for pages := 0; ; pages++ {
		reached, next, _, err := p.q.RecalledDispensings(t.Context(), p.id, []ledger.LotID{"A3", "A2", "A2"}, []ledger.LocationID{"store"}, after, 2, ReadOptions{})
		if err != nil || pages > 10 {
			t.Fatal(pages, err)
		}
		for _, r := range reached {
			units[r.Lot] += r.Quantity
			if r.Dispensing.Status == ledger.DispensingCancelled {
				cancelled++
			}
		}
		if after = next; next == nil {
			break
		}
	}
	if units["A2"] != 7 || units["A3"] != 3 || cancelled != 1 {
		t.Errorf("reached are %v, of which %d were cancelled", units, cancelled)
	}
	nobody, _, _, err := p.q.RecalledDispensings(t.Context(), p.id, []ledger.LotID{"A2"}, []ledger.LocationID{"ward"}, nil, 2, ReadOptions{})
	if err != nil || len(nobody) != 0 {
		t.Errorf("from the ward it reached %v, %v", nobody, err)
	}
}

// What lies ready and is not collected goes back, once.
func TestUncollectedIsPutBack(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.must(&ledger.RegisterPatient{PatientID: ada})
	id := p.prescribe("")
	ready := p.must(&ledger.PrepareDispensing{Dispense: dispense(id, 5).Dispense, CollectBy: ledger.InstantOf(p.clock.read().Add(time.Hour))})
	chores := NewChores(NewDirectory(p.e.db), p.e, slog.Default())
	putBack := func(want int64) {
		t.Helper()
		errand := Errand{Clinic: p.id, Now: p.clock.read()}
		if done, err := chores.ReturnUncollected(t.Context(), errand); err != nil || done.Commands != want {
			t.Fatalf("%d commands, error %v; want %d", done.Commands, err, want)
		}
		due, err := chores.WithDispensingsDue(t.Context(), errand.Now, ledger.ClinicID(string(p.id)[:len(p.id)-1]), 1)
		if err != nil || slices.Contains(due, p.id) {
			t.Fatalf("due: %v, %v", due, err)
		}
	}
	putBack(0)
	p.must(&ledger.CheckDispensing{DispensingID: ledger.DispensingID(documentOf(t, ready))}) // it is still there
	p.clock.set(p.clock.read().Add(2 * time.Hour))
	putBack(1)
	putBack(0)
	p.rejected(p.give(p.command(&ledger.HandOver{DispensingID: ledger.DispensingID(documentOf(t, ready))})), ledger.ReasonDispensingState)
	p.must(dispense(id, 15))
	p.verify()
}

// A count that was taken during a downtime is held against what should have
// lain there then: what happened before it and was recorded later counts, what
// happened after it does not.
func TestCountDuringDowntime(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.must(&ledger.ReceiveStock{LocationID: "store", LotID: "A3", Quantity: 20})
	counted := p.clock.read().Add(time.Minute)
	p.clock.set(counted.Add(time.Minute))
	p.must(counter("A3", 4)) // after the count
	at := func(when time.Time, body ledger.CommandBody) {
		c := p.command(body)
		c.OccurredAt = ledger.InstantOf(when)
		if v := p.give(c); v.Err != nil {
			t.Fatal(v.Err)
		}
	}
	before := p.stock("store", "amox", "A3")
	paper := &ledger.RecordDowntime{Device: "pad-1", PaperReference: "1", Dispensed: &ledger.Dispense{LocationID: "store", MedicineID: "amox", LotID: "A3", Quantity: 2}}
	at(counted.Add(-time.Second), paper)
	there := before.Available + before.Reserved + 4 - 2 // when it was counted
	count := &ledger.RecordDowntime{Device: "pad-1", PaperReference: "2", Counted: &ledger.DowntimeCount{LocationID: "store", LotID: "A3", Counted: there - 1, ReasonCode: "paper"}}
	at(counted, count)
	if after := p.stock("store", "amox", "A3"); after.Available != before.Available-2-1 {
		t.Errorf("%d were available, and %d are: one was missing", before.Available, after.Available)
	}
	p.verify()
}

// stock reads what a shelf holds of a lot.
func (p *pharmacy) stock(location ledger.LocationID, medicine ledger.MedicineID, lot ledger.LotID) ledger.Balances {
	p.tb.Helper()
	found, _, err := p.q.Stock(context.Background(), p.id, ledger.Shelf{Location: location, Medicine: medicine}, ReadOptions{})
	if err != nil {
		p.tb.Fatal(err)
	}
	for _, row := range found.Rows {
		if row.Lot == lot {
			return row.Balances
		}
	}
	p.tb.Fatalf("no stock of %s", lot)
	return ledger.Balances{}
}
