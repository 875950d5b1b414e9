package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func reachable(names ...string) []Node {
	nodes := make([]Node, len(names))
	for i, name := range names {
		nodes[i] = Node{ID: name + "-1", Name: name, Peer: name + ":1"}
	}
	return nodes
}

func TestHomesMoveOnlyWhatTheyMust(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}`), 2, 9, rapid.ID).Draw(t, "names")
		gone := rapid.IntRange(0, len(names)-1).Draw(t, "gone")
		all := reachable(names...)
		places := rapid.SliceOfN(rapid.SampledFrom([]string{"", "north", "south"}), len(names), len(names)).Draw(t, "regions")
		there := make(map[string]int)
		for i := range all {
			all[i].Region = places[i]
			there[places[i]]++
		}
		rest := append(append([]Node{}, all[:gone]...), all[gone+1:]...)
		regionOf := func(clinic ledger.ClinicID) string { return []string{"", "north", "south", "west"}[len(clinic)%4] }
		before, after := NewHomes(all, nil, regionOf), NewHomes(rest, nil, regionOf)
		for i := range 200 {
			clinic := ledger.ClinicID(strings.Repeat("x", i%7) + fmt.Sprint("clinic-", i))
			was, _ := before.Of(clinic)
			is, ok := after.Of(clinic)
			region := regionOf(clinic)
			if region != "" && there[region] > 0 && was.Region != region {
				t.Fatalf("%s of %s is at %s in %q", clinic, region, was.ID, was.Region)
			}
			if !ok || was.ID != all[gone].ID && is.ID != was.ID {
				t.Fatalf("%s went from %s to %s when %s left", clinic, was.ID, is.ID, all[gone].ID)
			}
		}
	})
}

func TestHomesAreSharedOut(t *testing.T) {
	t.Parallel()
	nodes := append(reachable("a", "b", "c"), Node{ID: "d-1", Name: "d"}) // nobody reaches d
	homes, share := NewHomes(nodes, nil, nil), make(map[string]int)
	const clinics = 30_000
	for i := range clinics {
		home, _ := homes.Of(ledger.ClinicID(fmt.Sprint("clinic-", i)))
		share[home.Name]++
	}
	for _, name := range []string{"a", "b", "c"} {
		if share[name] < clinics/3*95/100 || share[name] > clinics/3*105/100 {
			t.Errorf("the shares are %v", share)
		}
	}
	if share["d"] != 0 {
		t.Error("a node that nobody reaches is home to clinics")
	}
	if _, ok := NewHomes(nil, nil, nil).Of("x"); ok {
		t.Error("there is a home without a node")
	}
	pinned := NewHomes(nodes, map[ledger.ClinicID]string{"x": "b", "y": "gone", "z": "d"}, nil)
	if home, _ := pinned.Of("x"); home.Name != "b" {
		t.Errorf("x is at %s", home.Name)
	}
	for _, clinic := range []ledger.ClinicID{"y", "z"} {
		was, _ := homes.Of(clinic)
		if is, _ := pinned.Of(clinic); is.ID != was.ID {
			t.Errorf("%s, pinned to who is not there, is at %s and not %s", clinic, is.Name, was.Name)
		}
	}
}

func TestSubmissionsTravel(t *testing.T) {
	t.Parallel()
	s := txn.Submission{
		Clinic: "hillside", Linked: true, Bulk: true, MayBackdate: true,
		Commands: []ledger.Command{
			{Clinic: "hillside", IdempotencyKey: "k", Actor: "amina", Witness: "brian", Body: &ledger.ApproveCommand{ApprovalID: "A-1"}},
		},
		Locations: []ledger.LocationID{"store"}, Permits: func(k ledger.Kind) bool { return k == ledger.KindAdjustStock },
		Private:   map[string][]txn.PrivateText{"k": {{Patient: "p", Digest: "d", Ciphertext: []byte{1, 2}, Identity: true, Identifiers: []string{"i"}}}},
		Refused:   map[string]*ledger.Rejection{"k": {Reason: ledger.ReasonInvalidField, Field: "f", Message: "m", Metadata: map[string]string{"a": "b"}}},
		Witnesses: map[ledger.Actor][]ledger.LocationID{"brian": {"ward"}},
	}
	got, err := submissionFromWire(submissionToWire(s, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range ledger.Kinds() {
		if got.Permits(kind) != s.Permits(kind) {
			t.Errorf("permission for %s was %t", kind, s.Permits(kind))
		}
	}
	got.Permits, s.Permits = nil, nil
	if !reflect.DeepEqual(got, s) {
		t.Errorf("sent %+v, arrived %+v", s, got)
	}
	w := submissionToWire(s, 0)
	w.Commands[0] = append(w.Commands[0], 0)
	if _, err := submissionFromWire(w); err == nil {
		t.Error("a command that cannot be read was taken")
	}
	for _, want := range []error{
		txn.ErrBusy, txn.ErrRestoring, txn.ErrAmbiguous, txn.ErrUnavailable, txn.ErrInternal, context.DeadlineExceeded, errRefused,
	} {
		if got := failureFromWire(failureToWire(fmt.Errorf("because: %w", want))); !errors.Is(got, want) {
			t.Errorf("%v arrived as %v", want, got)
		}
	}
}

// testRouter is a node without etcd: an executor, a server for peers and a
// router.
type testRouter struct {
	*Router
	executor   *txn.Executors
	dispatcher *Dispatcher
	peers      *PeerServer
	self       Node
}

func testSecret() []byte { return make([]byte, 32) }

func newTestRouter(tb testing.TB, db *txn.DB, name string) *testRouter {
	tb.Helper()
	security, err := PeerTLS(testSecret())
	if err != nil {
		tb.Fatal(err)
	}
	executor := newExecutor(tb, db, nil)
	router := NewRouter(executor, security, quiet)
	dispatcher := NewDispatcher(txn.NewOperations(txn.NewDirectory(db)), executor, router, DispatcherConfig{LookEvery: time.Hour, RetryAfter: 100 * time.Millisecond, Log: quiet})
	peers, err := ListenForPeers(tb.Context(), "127.0.0.1:0", security, executor, dispatcher.Wake, quiet)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- peers.Serve() }()
	r := &testRouter{router, executor, dispatcher, peers, Node{ID: name + "-1", Name: name, Peer: peers.Addr()}}
	tb.Cleanup(func() {
		r.Close()
		cutOff(peers)
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return r
}

// cutOff ends all connections at once.
func cutOff(peers *PeerServer) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = peers.Close(now)
}

// meet makes routers know of each other.
func meet(pins map[ledger.ClinicID]string, routers ...*testRouter) {
	var nodes []Node
	for _, r := range routers {
		nodes = append(nodes, r.self)
	}
	for _, r := range routers {
		r.Follow(r.self.ID, NewHomes(nodes, pins, nil))
	}
}

func issue(key string, clinic ledger.ClinicID, quantity int64) txn.Submission {
	return txn.Submission{Clinic: clinic, Commands: []ledger.Command{{
		Clinic: clinic, IdempotencyKey: key, Actor: "amina",
		Body: &ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: quantity, ReasonCode: "WARD"},
	}}}
}

func TestCommandsAreBroughtHome(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	meet(map[ledger.ClinicID]string{clinic: "b", clinic + "x": "b"}, a, b)
	eventually(t, "a forgets the clinic that is not its own", func() bool { _, kept := a.executor.Load(); return kept == 0 })
	verdicts, err := a.Submit(t.Context(), issue("i1", clinic, 3))
	if err != nil || verdicts[0].Err != nil {
		t.Fatal(err, verdicts)
	}
	if _, kept := a.executor.Load(); kept != 0 {
		t.Error("a executed the command")
	}
	if _, kept := b.executor.Load(); kept != 1 {
		t.Error("b did not execute the command")
	}
	again, err := a.Submit(t.Context(), issue("i1", clinic, 3))
	if err != nil || !again[0].Replayed || !reflect.DeepEqual(again[0].Record, verdicts[0].Record) {
		t.Errorf("repeated, it is %+v, %v", again, err)
	}
	short, err := a.Submit(t.Context(), issue("i2", clinic, 1000))
	var rejection *ledger.Rejection
	if err != nil || !errors.As(short[0].Err, &rejection) || rejection.Reason != ledger.ReasonInsufficientStock || rejection.Metadata["available"] != "97" {
		t.Errorf("what there is not: %+v, %v", short, err)
	}
	none, err := a.Submit(t.Context(), issue("i3", clinic+"x", 1))
	if none != nil || !errors.As(err, &rejection) || rejection.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("a clinic that there is not: %+v, %v", none, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Submit(gone, issue("i4", clinic, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that left: %v", err)
	}
	if got := testutil.ToFloat64(a.forwarded.WithLabelValues("answered")); got != 4 {
		t.Errorf("%v submissions were answered", got)
	}
}

// A home that stops refuses what it is sent, and what it took it answers.
func TestHomeStopsInGoodOrder(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	meet(map[ledger.ClinicID]string{clinic: "b"}, a, b)
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for caller := range 4 {
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				verdicts, err := a.Submit(context.Background(), txn.Submission{Clinic: clinic, Commands: []ledger.Command{{
					Clinic: clinic, IdempotencyKey: fmt.Sprint("r", caller, "-", i), Actor: "amina",
					Body: &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1},
				}}})
				if err != nil || verdicts[0].Err != nil || verdicts[0].Replayed {
					t.Errorf("caller %d: %v %v", caller, err, verdicts)
					return
				}
			}
		})
	}
	answered := func() float64 { return testutil.ToFloat64(a.forwarded.WithLabelValues("answered")) }
	eventually(t, "commands reach b", func() bool { return answered() > 50 })
	// The order in which a node shuts down.
	if err := errors.Join(b.executor.Close(t.Context()), b.peers.Close(t.Context())); err != nil {
		t.Error(err)
	}
	here := func() float64 { return testutil.ToFloat64(a.taken.WithLabelValues("unreachable")) }
	eventually(t, "a executes the commands", func() bool { return here() > 50 })
	meet(nil, a)
	close(stop)
	asking.Wait()
	verified(t, db, clinic)
}

func verified(tb testing.TB, db *txn.DB, clinics ...ledger.ClinicID) {
	tb.Helper()
	_, err := txn.Verify(context.Background(), db, txn.VerifyOptions{Clinics: clinics, Report: func(v txn.Violation) { tb.Errorf("violation: %s", v) }})
	if err != nil {
		tb.Fatal(err)
	}
}

// Connections break at random; each command is carried out once.
func TestConnectionsBreak(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	clinic := clinics(t, a.executor, 1, 0)[0]
	v := newValve(t, b.self.Peer)
	b.self.Peer = v.listener.Addr().String()
	meet(map[ledger.ClinicID]string{clinic: "b"}, a, b)
	const callers, each = 8, 60
	var asking sync.WaitGroup
	done := make(chan struct{})
	for caller := range callers {
		asking.Go(func() {
			for i := range each {
				verdicts, err := a.Submit(context.Background(), txn.Submission{Clinic: clinic, Commands: []ledger.Command{{
					Clinic: clinic, IdempotencyKey: fmt.Sprint("r", caller, "-", i), Actor: "amina",
					Body: &ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1},
				}}})
				if err != nil || verdicts[0].Err != nil {
					t.Errorf("caller %d: %v %v", caller, err, verdicts)
				}
			}
		})
	}
	go func() {
		asking.Wait()
		close(done)
	}()
	answered := func() float64 { return testutil.ToFloat64(a.forwarded.WithLabelValues("answered")) }
	for ended := false; !ended; {
		before := answered()
		eventually(t, "b answers", func() bool {
			select {
			case <-done:
				ended = true
			default:
			}
			return ended || answered() > before+20
		})
		v.turn(true)
		v.turn(false)
	}
	state, _, err := txn.NewQueries(txn.NewDirectory(db)).BalanceAt(t.Context(), clinic, ledger.Shelf{Location: "store", Medicine: "zinc"}, "L1", head(t, db, clinic), txn.ReadOptions{Consistency: txn.Strong})
	if err != nil || state.Available != 100+callers*each {
		t.Errorf("there are %d units, %v", state.Available, err)
	}
	if lost := testutil.ToFloat64(a.forwarded.WithLabelValues("lost")); lost == 0 {
		t.Error("no connection broke with a command on its way")
	}
	verified(t, db, clinic)
}

// Two nodes believe that they are home of a clinic. It is slower, and as exact.
func TestTwoHomesOfOneClinic(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a, b := newTestRouter(t, db, "a"), newTestRouter(t, db, "b")
	ids := clinics(t, a.executor, 3, 0)
	both := []Node{a.self, b.self}
	mine := func(name string) map[ledger.ClinicID]string {
		pins := make(map[ledger.ClinicID]string)
		for _, id := range ids {
			pins[id] = name
		}
		return pins
	}
	a.Follow(a.self.ID, NewHomes(both, mine("a"), nil))
	b.Follow(b.self.ID, NewHomes(both, mine("b"), nil))
	// 100 units of each; each command is sent to both nodes, and half of the
	// commands are too many.
	const commands = 200
	var mu sync.Mutex
	accepted := make(map[string]int64) // by clinic and key
	var asking sync.WaitGroup
	for i := range commands {
		for _, r := range []*testRouter{a, b} {
			for _, id := range ids {
				asking.Go(func() {
					key := fmt.Sprint("i", i)
					verdicts, err := r.Submit(context.Background(), issue(key, id, 1))
					var rejection *ledger.Rejection
					switch {
					case err != nil:
						t.Error(err)
					case errors.As(verdicts[0].Err, &rejection) && rejection.Reason == ledger.ReasonInsufficientStock:
					case verdicts[0].Err != nil:
						t.Error(verdicts[0].Err)
					default:
						mu.Lock()
						defer mu.Unlock()
						sequence := int64(verdicts[0].Record.Event.Sequence)
						if was, ok := accepted[string(id)+key]; ok && was != sequence {
							t.Errorf("%s was carried out as %d and as %d", key, was, sequence)
						}
						accepted[string(id)+key] = sequence
					}
				})
			}
		}
	}
	asking.Wait()
	if len(accepted) != 100*len(ids) {
		t.Errorf("%d commands were accepted of the %d that there was stock for", len(accepted), 100*len(ids))
	}
	verified(t, db, ids...)
}

// Who does not know the nodes' secret is no peer, as client or as server.
func TestStrangersAreNoPeers(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	a := newTestRouter(t, db, "a")
	secret := testSecret()
	secret[0]++
	other, err := PeerTLS(secret)
	if err != nil {
		t.Fatal(err)
	}
	own, err := PeerTLS(testSecret())
	if err != nil {
		t.Fatal(err)
	}
	nobody := own.Clone()
	nobody.Certificates = nil
	trusting := other.Clone()
	trusting.InsecureSkipVerify = true // what an attacker would do
	for name, security := range map[string]*tls.Config{"another secret": other, "no certificate": nobody, "trusts anybody": trusting} {
		p := newPeer(t.Context(), a.self, security, quiet)
		if _, err := p.deliver(t.Context(), issue("i", "x", 1)); !errors.Is(err, errLost) && !errors.Is(err, errUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
		p.close()
	}
	p := newPeer(t.Context(), a.self, own, quiet)
	defer p.close()
	var rejection *ledger.Rejection
	if _, err := p.deliver(t.Context(), issue("i", "there-is-none", 1)); !errors.As(err, &rejection) {
		t.Errorf("a peer is told: %v", err)
	}
}

func head(tb testing.TB, db *txn.DB, clinic ledger.ClinicID) ledger.Sequence {
	tb.Helper()
	_, asOf, err := txn.NewQueries(txn.NewDirectory(db)).Clinic(tb.Context(), clinic, txn.ReadOptions{Consistency: txn.Strong})
	if err != nil {
		tb.Fatal(err)
	}
	return asOf.Sequence
}
