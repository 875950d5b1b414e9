package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// newRemoteRouter is a node that executes nothing, and knows some that do.
func newRemoteRouter(tb testing.TB, db *txn.DB, pins map[ledger.ClinicID]string, others ...Node) *Router {
	tb.Helper()
	security, err := PeerTLS(testSecret())
	if err != nil {
		tb.Fatal(err)
	}
	r := NewRemoteRouter(newExecutor(tb, db, nil), security, quiet)
	tb.Cleanup(r.Close)
	r.Follow("remote-1", NewHomes(others, pins, nil))
	return r
}

// behindValve puts a valve before a node.
func behindValve(tb testing.TB, n Node) (Node, *valve) {
	tb.Helper()
	v := newValve(tb, n.Peer)
	n.Peer = v.listener.Addr().String()
	return n, v
}

// loseAnswer submits a command whose answer is lost on its way back.
func loseAnswer(t *testing.T, db *txn.DB, v *valve, submit func(context.Context, txn.Submission) ([]txn.Verdict, error), s txn.Submission) ([]txn.Verdict, error) {
	t.Helper()
	before := head(t, db, s.Clinic)
	v.mute.Store(true)
	var verdicts []txn.Verdict
	var failed error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		verdicts, failed = submit(context.Background(), s)
	}()
	eventually(t, "the command is carried out", func() bool { return head(t, db, s.Clinic) > before })
	v.turn(true)
	v.mute.Store(false)
	v.turn(false)
	<-answered
	return verdicts, failed
}

// A connection that broke after a command was sent is made again, and the home
// answers from its journal: nobody else executes it meanwhile.
func TestLostAnswersAreAskedForAtTheHome(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	at, v := behindValve(t, b.self)
	a.Follow(a.self.ID, NewHomes([]Node{a.self, at}, map[ledger.ClinicID]string{clinic: "b"}, nil))
	if _, err := a.Submit(t.Context(), issue("first", clinic, 1)); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		verdicts, err := loseAnswer(t, db, v, a.Submit, issue(fmt.Sprint("i", i), clinic, 1))
		if err != nil || verdicts[0].Err != nil || !verdicts[0].Replayed {
			t.Fatalf("the caller was told %+v, %v", verdicts, err)
		}
	}
	if lost := testutil.ToFloat64(a.forwarded.WithLabelValues("lost")); lost < 5 {
		t.Errorf("%v answers were lost", lost)
	}
	if here := testutil.ToFloat64(a.taken.WithLabelValues("unreachable")); here != 0 {
		t.Errorf("%v commands were executed by the node that only lost an answer", here)
	}
	verified(t, db, clinic)
}

// A home that can be reached may have what it loses again and again: it is left
// to its caller to ask once more.
func TestAnswersThatAreAlwaysLost(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a := newTestRouter(t, db, "a")
	clinic := clinics(t, a.executor, 1, 0)[0]
	var asked atomic.Int64
	home, v := behindValve(t, otherNode(t, func(ctx context.Context, _ txn.Submission) ([]txn.Verdict, error) {
		asked.Add(1)
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	a.Follow(a.self.ID, NewHomes([]Node{a.self, home}, map[ledger.ClinicID]string{clinic: home.Name}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told := make(chan error, 1)
	go func() {
		_, err := a.Submit(ctx, issue("i", clinic, 1))
		told <- err
	}()
	to := a.Router.peers[home.ID]
	for i := range attempts {
		eventually(t, "the home is reached, and asked", func() bool {
			return int(to.breaker.Counts().TotalSuccesses) > i && int(asked.Load()) > i
		})
		v.cut()
	}
	if err := <-told; !errors.Is(err, txn.ErrAmbiguous) {
		t.Errorf("the caller was told %v", err)
	}
	if here := testutil.ToFloat64(a.taken.WithLabelValues("unreachable")); here != 0 {
		t.Error("a node executed what its home may have")
	}
}

// A node that executes nothing has every command executed by the home, and by
// another node while the home is away.
func TestRemoteRouterFindsAnotherNode(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	b, c := newTestRouter(t, db, "b"), newTestRouter(t, db, "c")
	clinic := clinics(t, b.executor, 1, 0)[0]
	at, v := behindValve(t, b.self)
	r := newRemoteRouter(t, db, map[ledger.ClinicID]string{clinic: "b"}, at, c.self)
	submit := func(key string, replayed bool) {
		t.Helper()
		verdicts, err := r.Submit(t.Context(), issue(key, clinic, 1))
		if err != nil || verdicts[0].Err != nil || verdicts[0].Replayed != replayed {
			t.Fatalf("%s: %+v, %v", key, verdicts, err)
		}
	}
	submit("i1", false)
	submit("i1", true)
	if _, kept := c.executor.Load(); kept != 0 {
		t.Error("c executed a command although the home is there")
	}
	verdicts, err := loseAnswer(t, db, v, r.Submit, issue("i2", clinic, 1))
	if err != nil || verdicts[0].Err != nil || !verdicts[0].Replayed {
		t.Errorf("after the answer was lost: %+v, %v", verdicts, err)
	}
	v.turn(true)
	submit("i3", false)
	submit("i2", true)
	if _, kept := c.executor.Load(); kept != 1 {
		t.Error("c did not execute the command")
	}
	if waiting, kept := r.local.Load(); waiting != 0 || kept != 0 {
		t.Error("the remote node executed something itself")
	}
	verified(t, db, clinic)
}

func TestNodesThatCannotBeReachedAreLeftAlone(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	b := newTestRouter(t, db, "b")
	clinic := clinics(t, b.executor, 1, 0)[0]
	nobody := newRemoteRouter(t, db, nil)
	if _, err := nobody.Submit(t.Context(), issue("i", clinic, 1)); !errors.Is(err, txn.ErrNoExecutor) || nobody.Accepting() || nobody.Reachable() {
		t.Errorf("where no node is known: %v", err)
	}
	at, v := behindValve(t, b.self)
	r := newRemoteRouter(t, db, nil, at)
	metrics := prometheus.NewRegistry()
	r.RegisterMetrics(metrics)
	works := func() bool {
		verdicts, err := r.Submit(t.Context(), issue("i", clinic, 1))
		if err != nil && !errors.Is(err, txn.ErrNoExecutor) && !errors.Is(err, txn.ErrAmbiguous) {
			t.Fatalf("the caller was told %v", err)
		}
		return err == nil && verdicts[0].Err == nil
	}
	state := func() float64 {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "stockledger_peer_breaker_state" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	for range 2 {
		eventually(t, "it works", works)
		if !r.Accepting() || !r.Reachable() || state() != 0 {
			t.Errorf("while it works the breaker is at %v", state())
		}
		v.turn(true)
		if works() {
			t.Error("a command went through a valve that is shut")
		}
		if r.Reachable() || state() != 2 {
			t.Errorf("the breaker is at %v", state())
		}
		open := testutil.ToFloat64(r.forwarded.WithLabelValues("open"))
		began := time.Now()
		const calls = 20
		for range calls {
			works()
		}
		if took := time.Since(began); took > openFor/2 {
			t.Errorf("%d refusals took %s", calls, took)
		}
		if got := testutil.ToFloat64(r.forwarded.WithLabelValues("open")) - open; got < calls-1 {
			t.Errorf("the node was left alone %v times in %d", got, calls)
		}
		v.turn(false)
	}
	verified(t, db, clinic)
}

// Both nodes are cut off at random, at times both. Whatever callers are told,
// under its key each command is carried out once.
func TestRemoteRouterIsExact(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	b, c := newTestRouter(t, db, "b"), newTestRouter(t, db, "c")
	clinic := clinics(t, b.executor, 1, 0)[0]
	toB, vb := behindValve(t, b.self)
	toC, vc := behindValve(t, c.self)
	r := newRemoteRouter(t, db, nil, toB, toC)
	const callers, each = 8, 40
	var asking sync.WaitGroup
	for caller := range callers {
		asking.Go(func() {
			for i := range each {
				s := issue(fmt.Sprint("r", caller, "-", i), clinic, 1)
				s.Commands[0].Body = &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1}
				for {
					verdicts, err := r.Submit(context.Background(), s)
					if err == nil && verdicts[0].Err == nil {
						break
					}
					if !errors.Is(err, txn.ErrNoExecutor) && !errors.Is(err, txn.ErrAmbiguous) {
						t.Errorf("caller %d: %v %v", caller, err, verdicts)
						return
					}
					pause(context.Background(), 20*time.Millisecond)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		asking.Wait()
		close(done)
	}()
	answered := func() float64 { return testutil.ToFloat64(r.forwarded.WithLabelValues("answered")) }
	for turn, ended := 0, false; !ended; turn++ {
		before := answered()
		eventually(t, "a node answers", func() bool {
			select {
			case <-done:
				ended = true
			default:
			}
			return ended || answered() > before+20
		})
		vb.turn(true)
		if turn%3 == 2 {
			vc.turn(true)
			eventually(t, "no node is reachable", func() bool { return !r.Reachable() || isClosed(done) })
		}
		vc.turn(false)
		if turn%2 == 1 {
			vb.turn(false)
		}
		vb, vc = vc, vb
	}
	state, _, err := txn.NewQueries(txn.NewDirectory(db)).BalanceAt(t.Context(), clinic, ledger.Shelf{Location: "store", Medicine: "zinc"}, "L1", head(t, db, clinic), txn.ReadOptions{Consistency: txn.Strong})
	if err != nil || state.Available != 100+callers*each {
		t.Errorf("there are %d units, %v", state.Available, err)
	}
	verified(t, db, clinic)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// What no node would execute is refused without asking one.
func TestRemoteRouterRefusesWhatIsMalformed(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	b := newTestRouter(t, db, "b")
	clinic := clinics(t, b.executor, 1, 0)[0]
	r := newRemoteRouter(t, db, nil, b.self)
	s := issue("i1", clinic, 1)
	s.Commands = append(s.Commands, issue("", clinic, 1).Commands[0], issue("i3", clinic, 2).Commands[0], issue("i4", clinic+"x", 2).Commands[0])
	check := func(verdicts []txn.Verdict, err error, accepted ...bool) {
		t.Helper()
		if err != nil || len(verdicts) != len(accepted) {
			t.Fatalf("%+v, %v", verdicts, err)
		}
		for i, want := range accepted {
			var rejection *ledger.Rejection
			if ok := verdicts[i].Err == nil; ok != want || !ok && !errors.As(verdicts[i].Err, &rejection) {
				t.Errorf("verdict %d is %+v", i, verdicts[i])
			}
		}
	}
	verdicts, err := r.Submit(t.Context(), s)
	check(verdicts, err, true, false, true, false)
	s.Linked = true
	verdicts, err = r.Submit(t.Context(), s)
	check(verdicts, err, false, false, false, false)
	verdicts, err = r.Submit(t.Context(), issue("", clinic, 1))
	check(verdicts, err, false)
	verdicts, err = r.Submit(t.Context(), txn.Submission{Clinic: clinic})
	check(verdicts, err)
}

// submitter stands for the executor of another node.
type submitter func(context.Context, txn.Submission) ([]txn.Verdict, error)

func (f submitter) Submit(ctx context.Context, s txn.Submission) ([]txn.Verdict, error) {
	return f(ctx, s)
}

// otherNode is a node whose commands somebody else executes.
func otherNode(tb testing.TB, execute submitter) Node {
	tb.Helper()
	security, err := PeerTLS(testSecret())
	if err != nil {
		tb.Fatal(err)
	}
	peers, err := ListenForPeers(tb.Context(), "127.0.0.1:0", security, execute, func(ledger.ClinicID) {}, quiet)
	if err != nil {
		tb.Fatal(err)
	}
	go func() { _ = peers.Serve() }()
	tb.Cleanup(func() { cutOff(peers) })
	return Node{ID: "other-1", Name: "other", Peer: peers.Addr()}
}

func TestDeadlinesArePassedOn(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	ended := make(chan error, 1)
	r := newRemoteRouter(t, db, nil, otherNode(t, func(ctx context.Context, _ txn.Submission) ([]txn.Verdict, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}))
	const patience = 300 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	if _, err := r.Submit(ctx, issue("i", "c", 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller was told %v", err)
	}
	if took := time.Since(began); took < patience || took > 10*patience {
		t.Errorf("it took %s", took)
	}
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at the other node it ended with %v", err)
	}
	if !r.Reachable() {
		t.Error("the node is left alone since its database is slow")
	}
}

// A node that leaves the cluster still answers what it was sent.
func TestNodesThatLeaveAnswerWhatTheyTook(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	took, answer := make(chan struct{}), make(chan struct{})
	other := otherNode(t, func(context.Context, txn.Submission) ([]txn.Verdict, error) {
		close(took)
		<-answer
		return nil, txn.ErrBusy
	})
	a := newTestRouter(t, db, "a")
	a.Follow(a.self.ID, NewHomes([]Node{a.self, other}, map[ledger.ClinicID]string{"c": "other"}, nil))
	a.mu.RLock()
	p := a.Router.peers[other.ID]
	a.mu.RUnlock()
	told := make(chan error, 1)
	go func() {
		_, err := a.Submit(context.Background(), issue("i", "c", 1))
		told <- err
	}()
	<-took
	meet(nil, a)
	if _, err := p.deliver(t.Context(), issue("i", "c", 1)); !errors.Is(err, errUnreachable) {
		t.Errorf("a node that left took a submission: %v", err)
	}
	close(answer)
	if err := <-told; !errors.Is(err, txn.ErrBusy) {
		t.Errorf("the caller was told %v", err)
	}
	<-p.ctx.Done() // and the connection is gone
	if lost := testutil.ToFloat64(a.forwarded.WithLabelValues("lost")); lost != 0 {
		t.Errorf("%v submissions were lost", lost)
	}
}
