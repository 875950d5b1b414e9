package txn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stockledger/stockledger/ledger"
)

func testExecutor(tb testing.TB, cfg ExecutorConfig) *Executor {
	tb.Helper()
	return testExecutorOn(tb, testDB(tb), cfg)
}

func testExecutorOn(tb testing.TB, db *DB, cfg ExecutorConfig) *Executor {
	tb.Helper()
	e := NewExecutor(db, cfg)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			tb.Errorf("close executor: %v", err)
		}
	})
	return e
}

// testClinic drives one clinic through an executor.
type testClinic struct {
	tb   testing.TB
	e    *Executor
	id   ledger.ClinicID
	mu   sync.Mutex
	keys int
	// before, where not nil, runs before each submission.
	before func()
}

// newTestClinic creates a clinic with locations store and ward, medicine zinc
// and lot L1 of it.
func newTestClinic(tb testing.TB, e *Executor) *testClinic {
	tb.Helper()
	c := &testClinic{tb: tb, e: e, id: ledger.ClinicID(newClinicID(tb))}
	c.mustAll(
		&ledger.CreateClinic{Name: "Test clinic", TimeZone: "Africa/Nairobi"},
		&ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store},
		&ledger.CreateLocation{LocationID: "ward", Name: "Ward", LocationKind: ledger.Ward},
		&ledger.AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet"},
		&ledger.RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate},
	)
	return c
}

func (c *testClinic) command(body ledger.CommandBody) ledger.Command {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys++
	return ledger.Command{Clinic: c.id, IdempotencyKey: fmt.Sprintf("key-%d", c.keys), Actor: "tester", Body: body}
}

func (c *testClinic) commands(bodies ...ledger.CommandBody) []ledger.Command {
	commands := make([]ledger.Command, len(bodies))
	for i, body := range bodies {
		commands[i] = c.command(body)
	}
	return commands
}

func (c *testClinic) submit(s Submission) []Verdict {
	c.tb.Helper()
	s.Clinic = c.id
	if c.before != nil {
		c.before()
	}
	verdicts, err := c.e.Submit(context.Background(), s)
	if err != nil {
		c.tb.Fatalf("submit: %v", err)
	}
	return verdicts
}

func (c *testClinic) give(command ledger.Command) Verdict {
	c.tb.Helper()
	return c.submit(Submission{Commands: []ledger.Command{command}})[0]
}

func (c *testClinic) mustAll(bodies ...ledger.CommandBody) []Verdict {
	c.tb.Helper()
	verdicts := c.submit(Submission{Commands: c.commands(bodies...)})
	for i, v := range verdicts {
		if v.Err != nil {
			c.tb.Fatalf("%s: %v", bodies[i].Kind(), v.Err)
		}
	}
	return verdicts
}

func (c *testClinic) must(body ledger.CommandBody) ledger.Record {
	c.tb.Helper()
	return c.mustAll(body)[0].Record
}

func (c *testClinic) receive(quantity int64) {
	c.tb.Helper()
	c.must(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: quantity})
}

func reserve(quantity int64) *ledger.ReserveStock {
	return &ledger.ReserveStock{
		LocationID: "store", MedicineID: "zinc", Quantity: quantity, ReasonCode: "ward-round",
		Deadline: ledger.InstantOf(time.Now().Add(time.Hour)),
	}
}

func (c *testClinic) rejected(v Verdict, want ledger.Reason) *ledger.Rejection {
	c.tb.Helper()
	var r *ledger.Rejection
	if !errors.As(v.Err, &r) || r.Reason != want {
		c.tb.Fatalf("verdict is %v (%v), want rejection %s", v.Record.Event.Sequence, v.Err, want)
	}
	return r
}

// verify replays the clinic's journal against everything that is stored.
func (c *testClinic) verify() {
	c.tb.Helper()
	_, err := Verify(context.Background(), c.e.db, VerifyOptions{Clinics: []ledger.ClinicID{c.id}, Report: func(v Violation) {
		c.tb.Errorf("violation: %+v", v)
	}})
	if err != nil {
		c.tb.Fatalf("verify: %v", err)
	}
}

// stored reads the clinic's state from the database.
func (c *testClinic) stored() ledger.Snapshot {
	c.tb.Helper()
	states, err := c.e.db.loadStates(context.Background(), []ledger.ClinicID{c.id})
	if err != nil {
		c.tb.Fatalf("load: %v", err)
	}
	return states[c.id].Snapshot()
}

func TestExecutorReservesAndIssues(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(100)
	hold := c.must(reserve(30)).Event.Body.(*ledger.StockReserved)
	c.must(&ledger.IssueStock{HoldID: hold.HoldID, Quantity: 10, Recipient: "ward-3"})
	c.must(&ledger.ReleaseStock{HoldID: hold.HoldID, Quantity: 5})
	c.must(&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 50})
	c.must(&ledger.AdjustStock{LocationID: "store", LotID: "L1", Direction: ledger.Decrease, Quantity: 1, ReasonCode: "broken"})

	got := c.stored()
	if len(got.Stock) != 1 || got.Stock[0].Balances != (ledger.Balances{Available: 24, Reserved: 15}) {
		t.Errorf("stock is %+v", got.Stock)
	}
	if len(got.Holds) != 1 || got.Holds[0].Lines[0].Quantity != 15 {
		t.Errorf("holds are %+v", got.Holds)
	}
	r := c.rejected(c.give(c.command(reserve(25))), ledger.ReasonInsufficientStock)
	if r.Metadata["available"] != "24" || r.Metadata["requested"] != "25" {
		t.Errorf("the rejection names %v", r.Metadata)
	}
	c.must(&ledger.IssueStock{HoldID: hold.HoldID})
	c.rejected(c.give(c.command(&ledger.IssueStock{HoldID: hold.HoldID})), ledger.ReasonHoldNotFound)
	c.verify()
}

func TestExecutorAnswersRepeatedKeysFromTheJournal(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(10)
	command := c.command(reserve(10))
	first := c.give(command)
	if first.Err != nil || first.Replayed {
		t.Fatalf("first answer is %+v", first)
	}
	same := func(v Verdict, what string) {
		t.Helper()
		if v.Err != nil || !v.Replayed || v.Record.Hash != first.Record.Hash {
			t.Errorf("%s: the answer is %+v", what, v)
		}
	}
	same(c.give(command), "at once")
	// Another node knows nothing of the key, and no stock is left.
	other := &testClinic{tb: t, e: testExecutor(t, ExecutorConfig{}), id: c.id}
	same(other.give(command), "by another node")

	// The key decides before the stock does, and after it was forgotten.
	c.receive(10)
	c.e.homes.keys = recentKeys{known: make(map[boundKey]struct{})}
	same(c.give(command), "with stock")

	reused := command
	reused.Body = reserve(1)
	c.rejected(c.give(reused), ledger.ReasonIdempotencyKeyReused)
	reused = command
	reused.Actor = "somebody else"
	c.rejected(c.give(reused), ledger.ReasonIdempotencyKeyReused)

	twice := c.command(reserve(3))
	verdicts := c.submit(Submission{Commands: []ledger.Command{twice, twice}})
	if verdicts[0].Err != nil || !verdicts[1].Replayed || verdicts[0].Record.Hash != verdicts[1].Record.Hash {
		t.Errorf("a double click in one group gave %+v", verdicts)
	}
	c.verify()
}

func TestExecutorBindsNoKeyToARejection(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	command := c.command(reserve(5))
	c.rejected(c.give(command), ledger.ReasonInsufficientStock)
	c.receive(5)
	if v := c.give(command); v.Err != nil || v.Replayed {
		t.Errorf("the key of a rejected command gave %+v", v)
	}
}

func TestExecutorLinkedCommandsSucceedOrFailAsOne(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(10)
	before := c.stored()
	linked := Submission{Linked: true, Commands: c.commands(reserve(6), reserve(5), reserve(1))}
	verdicts := c.submit(linked)
	c.rejected(verdicts[0], ledger.ReasonLinkedCommandRejected)
	c.rejected(verdicts[1], ledger.ReasonInsufficientStock)
	if r := c.rejected(verdicts[2], ledger.ReasonLinkedCommandRejected); r.Metadata["rejected_index"] != "1" {
		t.Errorf("the neighbour's rejection names %v", r.Metadata)
	}
	if after := c.stored(); after.Head != before.Head {
		t.Errorf("a rejected batch moved the head to %+v", after.Head)
	}
	c.receive(2)
	for _, v := range c.submit(linked) {
		if v.Err != nil || v.Replayed {
			t.Fatalf("the batch gave %+v", v)
		}
	}
	for _, v := range c.submit(linked) {
		if v.Err != nil || !v.Replayed {
			t.Fatalf("the repeated batch gave %+v", v)
		}
	}
	mixed := Submission{Linked: true, Commands: []ledger.Command{c.command(reserve(1)), linked.Commands[0]}}
	c.rejected(c.submit(mixed)[1], ledger.ReasonIdempotencyKeyReused)
	c.verify()
}

func TestExecutorExpiresOverdueHoldsWhenStockIsShort(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{Clock: clock}))
	c.receive(10)
	overdue := c.must(reserve(8)).Event.Body.(*ledger.StockReserved)
	c.rejected(c.give(c.command(reserve(5))), ledger.ReasonInsufficientStock)
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	later := reserve(5)
	later.Deadline = ledger.InstantOf(now.Add(time.Hour))
	c.rejected(c.give(c.command(&ledger.IssueStock{HoldID: overdue.HoldID})), ledger.ReasonHoldOverdue)
	c.must(later)
	c.rejected(c.give(c.command(&ledger.ReleaseStock{HoldID: overdue.HoldID})), ledger.ReasonHoldNotFound)
	if got := c.stored().Stock[0].Balances; got != (ledger.Balances{Available: 5, Reserved: 5}) {
		t.Errorf("balances are %+v", got)
	}
	c.verify()
}

func TestExecutorRestrictsLocations(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(10)
	hold := c.must(reserve(5)).Event.Body.(*ledger.StockReserved)
	before := c.stored().Head
	ward := []ledger.LocationID{"ward"}
	for _, body := range []ledger.CommandBody{reserve(1), &ledger.IssueStock{HoldID: hold.HoldID}, &ledger.ReleaseStock{HoldID: hold.HoldID}, &ledger.ReleaseStock{HoldID: hold.HoldID, Quantity: 99}, &ledger.ExpireReservation{HoldID: hold.HoldID}} {
		v := c.submit(Submission{Commands: c.commands(body), Locations: ward})[0]
		c.rejected(v, ledger.ReasonLocationForbidden)
	}
	if c.stored().Head != before {
		t.Error("a forbidden command moved the head")
	}
}

// TestExecutorNodesShareClinics lets two nodes execute the same clinics at once:
// affinity is for speed only.
func TestExecutorNodesShareClinics(t *testing.T) {
	t.Parallel()
	nodes := []*Executor{testExecutor(t, ExecutorConfig{}), testExecutor(t, ExecutorConfig{})}
	clinics := make([]*testClinic, 5)
	for i := range clinics {
		clinics[i] = newTestClinic(t, nodes[0])
		clinics[i].receive(1000)
	}
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			c := clinics[worker%len(clinics)]
			on := &testClinic{tb: t, e: nodes[worker%2], id: c.id}
			for range 20 {
				verdicts, err := on.e.Submit(context.Background(), Submission{Clinic: c.id, Commands: c.commands(reserve(1))})
				if err != nil || verdicts[0].Err != nil {
					t.Errorf("submit: %v %v", err, verdicts)
					return
				}
			}
		})
	}
	wg.Wait()
	var reserved int64
	for _, c := range clinics {
		reserved += c.stored().Stock[0].Reserved
		c.verify()
	}
	if reserved != 16*20 {
		t.Errorf("%d units are reserved, want %d", reserved, 16*20)
	}
}

// TestExecutorLosesItsTurnManyTimes has others take a clinic's head, one after
// the other and without a gap, more often than a transaction is tried. A command
// that waits for its turn is slow then, and not refused.
func TestExecutorLosesItsTurnManyTimes(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t)})
	if db.server.Kind == CockroachDB {
		t.Skip("CockroachDB queues for locked rows: nobody loses a turn")
	}
	e := testExecutorOn(t, db, ExecutorConfig{ResolveTimeout: time.Minute})
	c := newTestClinic(t, e)
	c.receive(10)
	others := []*headTaker{newHeadTaker(t, db, c.id), newHeadTaker(t, db, c.id)}
	<-others[0].take()
	verdict := make(chan Verdict, 1)
	go func() { verdict <- c.give(c.command(reserve(1))) }()
	holder, next := others[0], others[1]
	for turn := 0; turn < 2*db.cfg.MaxAttempts && len(verdict) == 0; turn++ {
		taken := next.take()
		// It may get its turn between two others, which is as well.
		eventually(t, "the executor and the next one wait for the head, or it had its turn", func() bool {
			return holder.awaited() >= 2 || len(verdict) > 0
		})
		holder.leave()
		<-taken
		holder, next = next, holder
	}
	holder.leave()
	if v := <-verdict; v.Err != nil {
		t.Errorf("the command was refused: %v", v.Err)
	}
	c.verify()
}

// headTaker keeps a clinic's head for itself, as another node does.
type headTaker struct {
	tb     testing.TB
	clinic ledger.ClinicID
	db     *DB
	conn   *pgx.Conn
}

func newHeadTaker(t *testing.T, db *DB, clinic ledger.ClinicID) *headTaker {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), testURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &headTaker{tb: t, clinic: clinic, db: db, conn: conn}
}

// take begins to wait for the head. The channel ends when it is taken.
func (h *headTaker) take() <-chan struct{} {
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		h.exec("BEGIN ISOLATION LEVEL READ COMMITTED")
		h.exec("UPDATE heads SET recorded_at = recorded_at WHERE clinic_id = $1", h.clinic)
	}()
	return taken
}

func (h *headTaker) leave() { h.exec("COMMIT") }

func (h *headTaker) exec(query string, arguments ...any) {
	if _, err := h.conn.Exec(context.Background(), query, arguments...); err != nil {
		h.tb.Errorf("%s: %v", query, err)
	}
}

// awaited counts who waits for what this one has: the first for its end, and the
// second for the first.
func (h *headTaker) awaited() (n int) {
	const query = `WITH waiting AS (SELECT pid FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))
		SELECT count(*) FROM pg_stat_activity WHERE pid IN (SELECT pid FROM waiting)
		OR EXISTS (SELECT 1 FROM waiting AS first WHERE first.pid = ANY(pg_blocking_pids(pg_stat_activity.pid)))`
	if err := h.db.read.QueryRow(h.tb.Context(), query, int32(h.conn.PgConn().PID())).Scan(&n); err != nil {
		h.tb.Error(err)
	}
	return n
}

// TestExecutorIsolatesPoisonedCommands makes the database itself refuse some
// commands; their neighbours must not notice.
func TestExecutorIsolatesPoisonedCommands(t *testing.T) {
	db := testDB(t)
	ctx := context.Background()
	_, err := db.write.Exec(ctx, `ALTER TABLE journal ADD CONSTRAINT journal_poison CHECK (idempotency_key NOT LIKE 'poison-%') NOT VALID`)
	if err != nil && !strings.Contains(err.Error(), "journal_poison") {
		t.Fatalf("add constraint: %v", err)
	}
	t.Cleanup(func() {
		if _, err := db.write.Exec(ctx, `ALTER TABLE journal DROP CONSTRAINT journal_poison`); err != nil {
			t.Errorf("drop constraint: %v", err)
		}
	})
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(100)
	neighbour := newTestClinic(t, c.e)
	neighbour.receive(100)
	commands := make([]ledger.Command, 40)
	for i := range commands {
		commands[i] = c.command(reserve(1))
	}
	commands[7].IdempotencyKey, commands[29].IdempotencyKey = "poison-7", "poison-29"

	var wg sync.WaitGroup
	wg.Go(func() { neighbour.mustAll(reserve(1), reserve(2)) })
	verdicts := c.submit(Submission{Commands: commands})
	wg.Wait()
	for i, v := range verdicts {
		if poisoned := i == 7 || i == 29; poisoned != errors.Is(v.Err, ErrInternal) || !poisoned && v.Err != nil {
			t.Errorf("command %d: %v", i, v.Err)
		}
	}
	if got := c.stored().Stock[0].Reserved; got != 38 {
		t.Errorf("%d units are reserved, want 38", got)
	}
	c.verify()
	neighbour.verify()
}

func TestExecutorRefusesWhatDoesNotFitTheQueue(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{QueueCommands: 10, GroupCommands: 5}))
	c.receive(1000)
	var wg sync.WaitGroup
	var mu sync.Mutex
	busy, done := 0, 0
	for range 50 {
		commands := c.commands(reserve(1), reserve(1), reserve(1), reserve(1))
		wg.Go(func() {
			_, err := c.e.Submit(context.Background(), Submission{Clinic: c.id, Commands: commands})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrBusy):
				busy++
			case err == nil:
				done++
			default:
				t.Errorf("submit: %v", err)
			}
		})
	}
	wg.Wait()
	if busy == 0 || done == 0 {
		t.Errorf("%d submissions were refused and %d executed", busy, done)
	}
	if got := c.stored().Stock[0].Reserved; got != int64(4*done) {
		t.Errorf("%d units are reserved, want %d", got, 4*done)
	}
}

func TestExecutorGoesOnWhenTheCallerLeaves(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	c.receive(10)
	ctx, cancel := context.WithCancel(context.Background())
	command := c.command(reserve(10))
	cancel()
	_, err := c.e.Submit(ctx, Submission{Clinic: c.id, Commands: []ledger.Command{command}})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("submit: %v", err)
	}
	if v := c.give(command); v.Err != nil {
		t.Fatalf("the same key again: %v", v.Err)
	}
	if got := c.stored().Stock[0].Reserved; got != 10 {
		t.Errorf("%d units are reserved, want 10", got)
	}
}

func TestExecutorKnowsOnlyClinicsOfTheDirectory(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	c := &testClinic{tb: t, e: e, id: ledger.ClinicID(newClinicID(t))}
	_, err := e.Submit(context.Background(), Submission{Clinic: c.id, Commands: c.commands(reserve(1))})
	var r *ledger.Rejection
	if !errors.As(err, &r) || r.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("error is %v", err)
	}
	c.must(&ledger.CreateClinic{Name: "A", TimeZone: "UTC"})
	c.rejected(c.give(c.command(&ledger.CreateClinic{Name: "B", TimeZone: "UTC"})), ledger.ReasonClinicExists)
}

func TestExecutorForgetsStatesThatDoNotFit(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{CachedDocuments: 12})
	clinics := make([]*testClinic, 6)
	for i := range clinics {
		clinics[i] = newTestClinic(t, e)
		clinics[i].receive(10)
	}
	for range 3 {
		for _, c := range clinics {
			c.must(reserve(1))
		}
	}
	if got := e.homes.documents(); got > 12+10 {
		t.Errorf("%v documents are cached", got)
	}
	for _, c := range clinics {
		c.verify()
	}
}

// A clinic that does not fit by itself is not loaded for each of its groups.
func TestExecutorKeepsALargeClinic(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{CachedDocuments: 1})
	c := newTestClinic(t, e)
	c.receive(10)
	before := testutil.ToFloat64(e.metrics.loads)
	for range 5 {
		c.must(reserve(1))
	}
	if loads := testutil.ToFloat64(e.metrics.loads) - before; loads > 0 {
		t.Errorf("it was loaded %v times", loads)
	}
	other := newTestClinic(t, e)
	other.receive(1)
	if got := e.homes.documents(); got > 8 {
		t.Errorf("%v documents are cached after another clinic's command", got)
	}
}
