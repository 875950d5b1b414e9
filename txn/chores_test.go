package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// chores are those of a pharmacy, at its own time.
func (p *pharmacy) chores() *Chores {
	c := NewChores(NewDirectory(p.e.db), p.e, slog.New(slog.DiscardHandler))
	c.queries.Clock = p.clock.read
	return c
}

// run does a chore and compares what it came to.
func (p *pharmacy) run(chore func(context.Context, Errand) (Looked, error), commands int64, findings ...string) {
	p.tb.Helper()
	done, err := chore(context.Background(), Errand{Clinic: p.id, Now: p.clock.read()})
	if err != nil {
		p.tb.Fatal(err)
	}
	var found []string
	for _, f := range done.Findings {
		found = append(found, fmt.Sprintf("%s: %s (%d)", f.Kind, f.Subject, f.Sequence))
	}
	slices.Sort(found)
	if diff := cmp.Diff(findings, found); diff != "" || done.Commands != commands {
		p.tb.Errorf("%d commands, want %d; findings (-want +got):\n%s", done.Commands, commands, diff)
	}
}

// listed reports whether a list of clinics has this one.
func (p *pharmacy) listed(list func(context.Context, time.Time, ledger.ClinicID, int) ([]ledger.ClinicID, error)) bool {
	p.tb.Helper()
	before := p.id[:len(p.id)-1] // the ids of tests are random
	ids, err := list(context.Background(), p.clock.read(), before, 10)
	if err != nil {
		p.tb.Fatal(err)
	}
	return slices.Contains(ids, p.id)
}

func TestOverdueHoldsAreGivenUp(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	c := p.chores()
	before := p.stock("store", "zinc", "L1").Reserved
	p.hold("zinc", 3, 3*time.Hour) // from noon: an hour from now
	p.hold("zinc", 4, 6*time.Hour)
	id := p.request(5)
	p.must(&ledger.ApproveTransfer{TransferID: id})
	p.run(c.ExpireHolds, 0)
	if p.listed(c.WithHoldsDue) {
		t.Error("nothing is due, and the clinic is listed")
	}
	p.clock.set(p.clock.read().Add(2 * time.Hour))
	if !p.listed(c.WithHoldsDue) {
		t.Error("holds are due, and the clinic is not listed")
	}
	p.run(c.ExpireHolds, 2)
	p.run(c.ExpireHolds, 0)
	if got := p.stock("store", "zinc", "L1").Reserved - before; got > 4 {
		t.Errorf("%d units are still reserved, want 4 at most", got)
	}
	p.rejected(p.give(p.command(&ledger.DispatchTransfer{TransferID: id})), ledger.ReasonTransferNotFound)
	p.verify()
}

// More holds than one look takes; some of them are given up by somebody else at
// the same time.
func TestManyOverdueHoldsAreGivenUp(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 2 * choreChunk})
	bodies := make([]ledger.CommandBody, choreChunk+100)
	for i := range bodies {
		bodies[i] = &ledger.ReserveStock{LocationID: "ward", MedicineID: "zinc", Quantity: 1, ReasonCode: "round", Deadline: ledger.InstantOf(p.clock.read().Add(time.Minute))}
	}
	p.mustAll(bodies...)
	p.clock.set(p.clock.read().Add(time.Hour))
	c := p.chores()
	type outcome struct {
		done Looked
		err  error
	}
	both := make(chan outcome, 2)
	for range 2 {
		go func() {
			done, err := c.ExpireHolds(context.Background(), Errand{Clinic: p.id, Now: p.clock.read()})
			both <- outcome{done, err}
		}()
	}
	var commands int64
	for range 2 {
		o := <-both
		if o.err != nil {
			t.Fatal(o.err)
		}
		commands += o.done.Commands
	}
	if commands != int64(len(bodies)) {
		t.Errorf("%d holds were given up, want each of %d once", commands, len(bodies))
	}
	if b := p.stock("ward", "zinc", "L1"); b.Reserved != 0 || b.Available != 2*choreChunk {
		t.Errorf("the ward has %+v", b)
	}
	p.verify()
}

func TestApprovalsLapse(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	c := p.chores()
	if p.listed(c.WithApprovals) {
		t.Error("nothing waits, and the clinic is listed")
	}
	policy := ledger.Policy{ApprovalHours: 1, Rules: []ledger.Rule{
		{ControlClass: "*", Command: ledger.KindWriteOffStock, Requires: ledger.RequireApprovalBefore},
		{ControlClass: "*", Command: ledger.KindAdjustStock, Requires: ledger.RequireReview},
	}}
	p.mustAll(&ledger.SetPolicy{Policy: policy}, &ledger.WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 2, ReasonCode: "broken"})
	reviewed := p.must(&ledger.AdjustStock{LocationID: "store", LotID: "L1", Direction: ledger.Decrease, Quantity: 1, ReasonCode: "lost"})
	p.run(c.LapseApprovals, 0)
	if !p.listed(c.WithApprovals) {
		t.Error("a command waits, and the clinic is not listed")
	}
	pending := p.stock("store", "zinc", "L1").Pending
	p.clock.set(p.clock.read().Add(25 * time.Hour))
	review := fmt.Sprintf("REVIEW_OVERDUE: approval AP-%d (%d)", reviewed.Event.Sequence, reviewed.Event.Sequence)
	p.run(c.LapseApprovals, 1, review)
	p.run(c.LapseApprovals, 0, review)
	if pending != 2 || p.stock("store", "zinc", "L1").Pending != 0 {
		t.Errorf("%d units were pending, and %d are", pending, p.stock("store", "zinc", "L1").Pending)
	}
	p.verify()
}

func TestTransfersAreCompletedAndToldOf(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	c := p.chores()
	arrive := func(received bool) ledger.TransferID {
		id := ledger.TransferID(documentOf(t, p.must(&ledger.TransferStock{
			From: "store", To: "ward", Lines: []ledger.RequestedLine{{MedicineID: "zinc", Quantity: 2}},
			DispatchBy: ledger.InstantOf(p.clock.read().Add(time.Hour)), ReceiveBy: ledger.InstantOf(p.clock.read().Add(2 * time.Hour)), ReasonCode: "restock",
		})))
		p.mustAll(&ledger.ApproveTransfer{TransferID: id}, &ledger.DispatchTransfer{TransferID: id})
		if received {
			p.must(&ledger.ReceiveTransfer{TransferID: id})
		}
		return id
	}
	arrived, late := arrive(true), arrive(false)
	p.run(c.CompleteTransfers, 1)
	p.rejected(p.give(p.command(&ledger.CompleteTransfer{TransferID: arrived})), ledger.ReasonTransferNotFound)
	p.clock.set(p.clock.read().Add(3 * time.Hour))
	document, _, err := p.q.Document(t.Context(), p.id, ledger.DocumentKey{Kind: ledger.DocumentTransfer, ID: string(late)}, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.run(c.CompleteTransfers, 0, fmt.Sprintf("TRANSFER_OVERDUE: transfer %s (%d)", late, document.LastSequence))
	if !p.listed(c.WithTransfers) {
		t.Error("a transfer is open, and the clinic is not listed")
	}
	p.verify()
}

func TestExpiredLotsGoToQuarantine(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	today := ledger.DateOf(p.clock.read())
	for i, days := range []ledger.Date{3, 40, 80, 200} {
		lot := ledger.LotID(fmt.Sprintf("E%d", i))
		p.mustAll(
			&ledger.RegisterLot{LotID: lot, MedicineID: "zinc", Manufacturer: "Acme", LotNumber: string(lot), Expiry: today + days},
			&ledger.ReceiveStock{LocationID: "ward", LotID: lot, Quantity: 10},
		)
	}
	mine := func(done Looked) (kinds []string) {
		for _, f := range done.Findings {
			if lot := f.Subject[len(f.Subject)-2:]; strings.HasPrefix(lot, "E") {
				kinds = append(kinds, lot+" "+f.Kind)
			}
		}
		return kinds
	}
	c := p.chores()
	look := func() Looked {
		done, err := c.QuarantineExpired(t.Context(), Errand{Clinic: p.id, Now: p.clock.read()})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	want := []string{"E0 " + FindingLotExpires30, "E1 " + FindingLotExpires60, "E2 " + FindingLotExpires90}
	if got := mine(look()); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	p.clock.set(p.clock.read().Add(10 * 24 * time.Hour))
	done := look()
	if got := mine(done); !slices.Equal(got, []string{"E1 " + FindingLotExpires30, "E2 " + FindingLotExpires90}) || done.Commands == 0 {
		t.Errorf("after ten days it found %q with %d commands", got, done.Commands)
	}
	if b := p.stock("ward", "zinc", "E0"); b != (ledger.Balances{Quarantined: 10}) {
		t.Errorf("of the expired lot there are %+v", b)
	}
	if again := look(); again.Commands != 0 {
		t.Errorf("once more took %d commands", again.Commands)
	}
	// Nobody looked for years.
	p.clock.set(p.clock.read().AddDate(3, 0, 0))
	if done := look(); done.Commands == 0 {
		t.Error("what expired long ago is not moved")
	}
	if b := p.stock("ward", "zinc", "E3"); b != (ledger.Balances{Quarantined: 10}) {
		t.Errorf("of the lot that expired long ago there are %+v", b)
	}
	p.verify()
}

func TestLowStockIsToldOf(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	c, models := p.chores(), NewReadModels(p.e.db, ReadModelsConfig{})
	p.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 5})
	models.moveUp(t, p.id)
	p.run(c.ListLowStock, 0)
	p.must(&ledger.UpdateStockLevels{LocationID: "ward", MedicineID: "zinc", Min: 5, Reorder: 10, Max: 1000})
	models.moveUp(t, p.id)
	since := p.head().Sequence
	done, err := c.ListLowStock(t.Context(), Errand{Clinic: p.id, Now: p.clock.read()})
	if err != nil {
		t.Fatal(err)
	}
	on := p.stock("ward", "zinc", "L1").Available
	if on >= 10 {
		t.Fatalf("the ward has %d units: the test needs less", on)
	}
	want := fmt.Sprintf("%d units are available; the reorder level is 10 and the minimum 5.", on)
	if len(done.Findings) != 1 || done.Findings[0].Message != want || done.Findings[0].Kind != FindingStockLow ||
		done.Findings[0].Subject != "location ward, medicine zinc" || done.Findings[0].Sequence != since {
		t.Errorf("found %+v, want %q at %d", done.Findings, want, since)
	}
	p.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 100})
	models.moveUp(t, p.id)
	p.run(c.ListLowStock, 0)
}

func TestClinicsWithANewDay(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t) // in Nairobi, where midnight is at 21:00 UTC
	c := p.chores()
	at := func(hour, minute int) time.Time { return time.Date(2027, 3, 1, hour, minute, 0, 0, time.UTC) }
	for _, test := range []struct {
		from, to time.Time
		want     bool
	}{
		{at(20, 46), at(21, 1), true},
		{at(21, 1), at(21, 16), false},
		{at(23, 46), at(23, 59), false},
		{time.Time{}, at(12, 0), true},
		{at(9, 0).AddDate(0, 0, -3), at(9, 0), true},
	} {
		ids, err := c.WithNewDay(t.Context(), test.from, test.to, p.id[:len(p.id)-1], 100)
		if err != nil || slices.Contains(ids, p.id) != test.want {
			t.Errorf("from %s to %s: %v, %v; want it listed: %v", test.from, test.to, ids, err, test.want)
		}
	}
	// Whichever days it misses, it is told of while it is being restored, to get
	// another turn when it is back.
	epoch := p.head().Epoch
	set := func(epoch int64) {
		t.Helper()
		if _, err := p.e.db.write.Exec(t.Context(), updateHeadEpoch, p.id, epoch); err != nil {
			t.Fatal(err)
		}
	}
	set(restoringEpoch)
	defer set(epoch)
	ids, err := c.WithNewDay(t.Context(), at(21, 1), at(21, 16), p.id[:len(p.id)-1], 100)
	if err != nil || !slices.Contains(ids, p.id) {
		t.Errorf("while it is being restored: %v, %v", ids, err)
	}
	if _, err := c.QuarantineExpired(t.Context(), Errand{Clinic: p.id, Now: at(21, 16)}); !errors.Is(err, ErrRestoring) {
		t.Errorf("while it is being restored, its turn ends with %v", err)
	}
}

// The nightly look goes on from where it was, and names what is wrong as the
// whole verification does.
func TestReconcile(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	night := time.Date(2027, 3, 1, 2, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct{ sql, want string }{
		"nothing is wrong":      {},
		"a balance was changed": {`UPDATE stock SET available = available + 1 WHERE clinic_id = $1 AND location_id = 'ward'`, "location ward, medicine zinc, lot L1, bucket available"},
		"an entry was changed":  {`UPDATE entries SET quantity = quantity + 1 WHERE clinic_id = $1 AND location_id = 'ward' AND sequence = 12`, "location ward, medicine zinc, lot L1"},
		"a new event changed":   {`UPDATE journal SET event = set_byte(event, 20, get_byte(event, 20) # 1) WHERE clinic_id = $1 AND sequence = 12`, "journal"},
		"the chain rewritten":   {`UPDATE journal SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE clinic_id = $1 AND sequence = 11`, "journal"},
		"a record gone":         {`DELETE FROM journal WHERE clinic_id = $1 AND sequence = 12`, "head"},
		"a reserved count":      {`UPDATE stock SET reserved = reserved - 1, available = available + 1 WHERE clinic_id = $1 AND location_id = 'store'`, "location store, medicine zinc, lot L1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _, _ := verifiable(t, e)
			t.Cleanup(func() { wipe(t, e.db, c.id) })
			chores := NewChores(NewDirectory(e.db), e, slog.New(slog.DiscardHandler))
			look := func(after time.Duration) []Finding {
				t.Helper()
				done, err := chores.Reconcile(t.Context(), Errand{Clinic: c.id, Now: night.Add(after)})
				if err != nil {
					t.Fatal(err)
				}
				return done.Findings
			}
			back := func() {
				t.Helper()
				if _, err := e.db.write.Exec(t.Context(), `UPDATE reconciled SET sequence = 10, hash = (SELECT hash FROM journal WHERE clinic_id = $1 AND sequence = 10) WHERE clinic_id = $1`, c.id); err != nil {
					t.Fatal(err)
				}
			}
			if found := look(0); len(found) > 0 {
				t.Fatalf("found %+v before anything was wrong", found)
			}
			back()
			if found := look(time.Hour); len(found) > 0 {
				t.Fatalf("found %+v in what came since", found)
			}
			if test.sql == "" {
				return
			}
			back()
			if tag, err := e.db.write.Exec(t.Context(), test.sql, c.id); err != nil || tag.RowsAffected() == 0 {
				t.Fatal(tag, err)
			}
			for _, after := range []time.Duration{2 * time.Hour, 26 * time.Hour} { // it is told of until it is right
				found := look(after)
				if len(found) == 0 {
					t.Fatalf("after %s nothing was found", after)
				}
				if !slices.ContainsFunc(found, func(f Finding) bool { return strings.HasPrefix(f.Subject, test.want) && f.Sequence > 0 }) {
					t.Errorf("found %+v, want something of %q with its sequence", found, test.want)
				}
			}
		})
	}
}

// What a leader notes beside the journals, too, is refused once another one
// leads.
func TestNotesOfALeaderThatWasDeposed(t *testing.T) {
	e := testExecutor(t, ExecutorConfig{})
	c := newTestClinic(t, e)
	c.receive(5)
	ctx, d := t.Context(), NewDirectory(e.db)
	chores, operations := NewChores(d, e, slog.New(slog.DiscardHandler)), NewOperations(d)
	old, err := e.db.TakeLead(ctx, "old")
	if err != nil {
		t.Fatal(err)
	}
	next, err := e.db.TakeLead(ctx, "next")
	if err != nil {
		t.Fatal(err)
	}
	verified := func() (at ledger.Sequence) {
		t.Helper()
		err := e.db.readTx(ctx, func(tx pgx.Tx) error {
			place, err := lastReconciled(ctx, tx, c.id)
			at = place.Sequence
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	errand := Errand{Clinic: c.id, Now: time.Now(), Term: old}
	if _, err := chores.Reconcile(ctx, errand); !errors.Is(err, ErrDeposed) || verified() != 0 {
		t.Errorf("the old leader noted %d: %v", verified(), err)
	}
	if err := operations.Forget(ctx, old, c.id, time.Now()); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old leader forgot operations: %v", err)
	}
	errand.Term = next
	if _, err := chores.Reconcile(ctx, errand); err != nil || verified() != c.head().Sequence {
		t.Errorf("the leader noted %d: %v", verified(), err)
	}
	if err := operations.Forget(ctx, next, c.id, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestFullPassesAreSpread(t *testing.T) {
	t.Parallel()
	last := time.Date(2027, 3, 1, 2, 0, 0, 0, time.UTC)
	nights := make(map[int]int)
	for i := range 1000 {
		clinic := ledger.ClinicID(fmt.Sprintf("clinic-%d", i))
		night := 0
		for !fullPassDue(clinic, last, last.AddDate(0, 0, night)) {
			night++
		}
		nights[night]++
	}
	for night, clinics := range nights {
		if night < 1 || night > fullPass || clinics > 100 {
			t.Errorf("%d of 1000 clinics are verified from nothing on night %d", clinics, night)
		}
	}
	if len(nights) < fullPass {
		t.Errorf("there are clinics on %d nights alone", len(nights))
	}
	if !fullPassDue("x", time.Time{}, last) {
		t.Error("a clinic that was never verified is not due")
	}
}

// Only the last leader records anything.
func TestRunsAreRecordedByTheLeaderAlone(t *testing.T) {
	db := testDB(t)
	ctx := t.Context()
	jobs := NewJobs(db)
	job := "test-" + newClinicID(t)
	clinic := ledger.ClinicID(newClinicID(t))
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	old, err := db.TakeLead(ctx, "old")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice is once
		if err := jobs.Schedule(ctx, old, job, at); err != nil {
			t.Fatal(err)
		}
	}
	mine := func() []JobRun {
		t.Helper()
		runs, err := jobs.Runs(ctx, job, at.Add(time.Hour), 10)
		if err != nil {
			t.Fatal(err)
		}
		return runs
	}
	run := mine()[0]
	run.StartedAt = at
	found := []ClinicLooked{{Clinic: clinic, Looked: Looked{Commands: 3, Findings: []Finding{{Subject: "a", Kind: "K", Message: "m"}, {Subject: "b", Kind: "K"}}}}}
	if err := jobs.Record(ctx, old, &run, found, at.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	next, err := db.TakeLead(ctx, "new")
	if err != nil || next.Epoch <= old.Epoch {
		t.Fatal(next, err)
	}
	if leader, err := db.Leader(ctx); err != nil || leader.Holder != "new" || leader.Epoch != next.Epoch {
		t.Error(leader, err)
	}
	stale := run
	for name, refused := range map[string]error{
		"record":   jobs.Record(ctx, old, &stale, found, at),
		"schedule": jobs.Schedule(ctx, old, job, at.Add(time.Minute)),
		"forget":   func() error { _, err := jobs.Forget(ctx, old, at.Add(time.Hour)); return err }(),
	} {
		if !errors.Is(refused, ErrDeposed) {
			t.Errorf("%s of the old leader: %v", name, refused)
		}
	}
	if diff := cmp.Diff(run, stale); diff != "" {
		t.Error("what was refused was taken over:", diff)
	}
	failed := ClinicLooked{Clinic: clinic + "2", Failure: errors.New("why")}
	again := []ClinicLooked{{Clinic: clinic, Looked: Looked{Findings: []Finding{{Subject: "a", Kind: "K", Message: "still"}}}}, failed}
	run.FinishedAt = at.Add(time.Hour)
	if err := jobs.Record(ctx, next, &run, again, at.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	stored := mine()
	if len(stored) != 1 {
		t.Fatalf("%d runs, want 1", len(stored))
	}
	want := JobRun{
		Job: job, ScheduledAt: at, Node: "new", Epoch: next.Epoch, StartedAt: at, FinishedAt: at.Add(time.Hour), After: failed.Clinic,
		Clinics: 3, Commands: 3, Findings: 3, Failures: 1, Failure: fmt.Sprintf("clinic %s: why", failed.Clinic),
	}
	utc := cmp.Transformer("UTC", func(t time.Time) time.Time { return t.UTC() })
	if diff := cmp.Diff(want, stored[0], utc); diff != "" {
		t.Error("the run (-want +got):", diff)
	}
	findings, err := jobs.Findings(ctx, clinic, job, FindingPlace{}, 10)
	if err != nil || len(findings) != 1 || findings[0].Message != "still" || !findings[0].FirstFoundAt.Equal(at.Add(time.Minute)) || !findings[0].FoundAt.Equal(at.Add(2*time.Minute)) {
		t.Errorf("findings %+v, %v", findings, err)
	}
	if forgotten, err := jobs.Forget(ctx, next, at.Add(time.Minute)); err != nil || forgotten < 1 || len(mine()) != 0 {
		t.Errorf("forgot %d, %v; %d are left", forgotten, err, len(mine()))
	}
}

// Operators see at which clinics anything was found; a clinic that could not be
// looked at keeps what was found there, and is owed another look.
func TestClinicsWithFindings(t *testing.T) {
	db := testDB(t)
	ctx, jobs := t.Context(), NewJobs(db)
	job := "test-" + newClinicID(t)
	clinics := []ledger.ClinicID{ledger.ClinicID(newClinicID(t)), ledger.ClinicID(newClinicID(t)), ledger.ClinicID(newClinicID(t))}
	slices.Sort(clinics)
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	term, err := db.TakeLead(ctx, "leader")
	if err != nil {
		t.Fatal(err)
	}
	if err := jobs.Schedule(ctx, term, job, at); err != nil {
		t.Fatal(err)
	}
	run := JobRun{Job: job, ScheduledAt: at, StartedAt: at, Total: 3}
	found := func(kinds ...string) (l Looked) {
		for i, kind := range kinds {
			l.Findings = append(l.Findings, Finding{Subject: fmt.Sprint("thing ", i), Kind: kind})
		}
		return l
	}
	record := func(looked ...ClinicLooked) {
		t.Helper()
		at = at.Add(time.Minute)
		if err := jobs.Record(ctx, term, &run, looked, at); err != nil {
			t.Fatal(err)
		}
	}
	list := func(kind string, page int) (rows []string) {
		t.Helper()
		for after := (ClinicFindings{}); ; {
			some, err := jobs.ClinicsWithFindings(ctx, job, kind, after, page)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range some {
				after = c
				rows = append(rows, fmt.Sprintf("%s %d %d since %s", c.Kind, slices.Index(clinics, c.Clinic), c.Findings, c.FirstFoundAt.UTC().Format("15:04")))
			}
			if len(some) < page {
				return rows
			}
		}
	}
	same := func(what string, got []string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if none := list("", 2); len(none) != 0 {
		t.Errorf("before anything was found: %q", none)
	}
	record(ClinicLooked{Clinic: clinics[0], Looked: found("A", "B", "A")}, ClinicLooked{Clinic: clinics[1]}, ClinicLooked{Clinic: clinics[2], Looked: found("A")})
	same("all", list("", 2), "A 0 2 since 00:01", "A 2 1 since 00:01", "B 0 1 since 00:01")
	same("one kind", list("B", 1), "B 0 1 since 00:01")
	// The first could not be looked at, and the third is being restored.
	record(ClinicLooked{Clinic: clinics[0], Failure: errors.New("odd")}, ClinicLooked{Clinic: clinics[1], Looked: found("B")}, ClinicLooked{Clinic: clinics[2], Away: true})
	same("as before", list("", 10), "A 0 2 since 00:01", "A 2 1 since 00:01", "B 0 1 since 00:01", "B 1 1 since 00:02")
	missed := func(after ledger.ClinicID) (which []string) {
		t.Helper()
		ids, err := jobs.Missed(ctx, job, after)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			which = append(which, fmt.Sprint(slices.Index(clinics, id)))
		}
		return which
	}
	same("missed", missed(""), "0", "2")
	same("missed after the first", missed(clinics[0]), "2")
	record(ClinicLooked{Clinic: clinics[0], Owed: true}, ClinicLooked{Clinic: clinics[2], Owed: true, Away: true})
	same("still missed", missed(""), "2")
	same("one is mended", list("", 10), "A 2 1 since 00:01", "B 1 1 since 00:02")
	if run.Failures != 1 || run.Clinics != 8 {
		t.Errorf("the run is %+v", run)
	}
	before, err := jobs.Flagged(ctx)
	if err != nil {
		t.Fatal(err)
	}
	run.Job = JobReconcile + "-" + job
	if err := jobs.Schedule(ctx, term, run.Job, run.ScheduledAt); err != nil {
		t.Fatal(err)
	}
	record(ClinicLooked{Clinic: clinics[1], Looked: found("A", "B")}) // which is not that job
	if after, err := jobs.Flagged(ctx); err != nil || after != before {
		t.Errorf("%d clinics are flagged, and were %d: %v", after, before, err)
	}
	run.Job = JobReconcile
	if err := jobs.Schedule(ctx, term, run.Job, run.ScheduledAt); err != nil {
		t.Fatal(err)
	}
	record(ClinicLooked{Clinic: clinics[1], Looked: found("A", "B")})
	if after, err := jobs.Flagged(ctx); err != nil || after != before+1 {
		t.Errorf("%d clinics are flagged, and were %d: %v", after, before, err)
	}
	record(ClinicLooked{Clinic: clinics[1]})
	if after, err := jobs.Flagged(ctx); err != nil || after != before {
		t.Errorf("%d clinics are flagged after it was mended, and were %d: %v", after, before, err)
	}
}
