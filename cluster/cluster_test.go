package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func TestMain(m *testing.M) { txntest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

// privateDB returns a database of the test's own: it belongs to one etcd
// cluster, and has one leader.
func privateDB(tb testing.TB) *txn.DB {
	tb.Helper()
	url := txntest.PrivateServer(tb).URL
	if err := txn.Migrate(tb.Context(), url); err != nil {
		tb.Fatal(err)
	}
	db, err := txn.Open(tb.Context(), txn.Config{DatabaseURL: url, Log: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// member runs a node with an etcd member of its own, and returns where that is.
func member(tb testing.TB, db *txn.DB, id string) *Cluster {
	tb.Helper()
	return joined(tb, db, id, EtcdConfig{Dir: tb.TempDir()})
}

func joined(tb testing.TB, db *txn.DB, id string, etcd EtcdConfig) *Cluster {
	tb.Helper()
	c, err := Join(tb.Context(), db, Config{Etcd: etcd, Self: Node{ID: id, API: id + ":8080", Version: "test", Started: time.Now()}, LeaseTTL: 2 * time.Second, Log: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// start runs a node's part until the test ends, or the returned function is
// called.
func start(tb testing.TB, c *Cluster, lead func(context.Context)) (leave func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx, lead) })
	leave = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(leave)
	return leave
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatal("it did not happen: ", what)
		}
	}
}

// valve passes connections on to an address, until it is shut.
type valve struct {
	listener net.Listener
	to       string
	mute     atomic.Bool // what comes back is lost
	mu       sync.Mutex
	shut     bool
	conns    []net.Conn
}

// answers is the way back through a valve.
type answers struct {
	net.Conn
	from *valve
}

func (a answers) Write(p []byte) (int, error) {
	if a.from.mute.Load() {
		return len(p), nil
	}
	return a.Conn.Write(p)
}

func newValve(tb testing.TB, to string) *valve {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	v := &valve{listener: l, to: to}
	tb.Cleanup(func() { _ = l.Close(); v.turn(true) })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go v.pass(in)
		}
	}()
	return v
}

func (v *valve) pass(in net.Conn) {
	out, err := net.Dial("tcp", v.to)
	if err != nil {
		_ = in.Close()
		return
	}
	v.mu.Lock()
	v.conns = append(v.conns, in, out)
	shut := v.shut
	v.mu.Unlock()
	if shut {
		_ = in.Close()
		_ = out.Close()
		return
	}
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
	_, _ = io.Copy(answers{in, v}, out)
	_ = in.Close()
}

// turn shuts the valve, which cuts what passes through it, or opens it.
func (v *valve) turn(shut bool) {
	v.mu.Lock()
	v.shut = shut
	v.mu.Unlock()
	if shut {
		v.cut()
	}
}

// cut cuts what passes through the valve at this moment.
func (v *valve) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.conns {
		_ = c.Close()
	}
	v.conns = nil
}

func TestOneLeadsAndAnotherFollows(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	var leaders atomic.Int32
	lead := func(ctx context.Context) {
		if leaders.Add(1) > 1 {
			t.Error("two lead at a time")
		}
		<-ctx.Done()
		leaders.Add(-1)
	}
	first := member(t, db, "a")
	start(t, first, lead)
	eventually(t, "a leads", first.Leading)
	others := []*Cluster{joined(t, db, "b", EtcdConfig{Endpoints: first.EtcdAddresses(t.Context())}), joined(t, db, "c", EtcdConfig{Endpoints: first.EtcdAddresses(t.Context())})}
	leave := []func(){start(t, others[0], lead), start(t, others[1], lead)}
	eventually(t, "all see three nodes and the leader", func() bool {
		return !slices.ContainsFunc(append(others, first), func(c *Cluster) bool { return len(c.Nodes()) != 3 || c.Leader() != "a" })
	})
	if n := others[0].Nodes()[2]; n.ID != "c" || n.API != "c:8080" || n.Started.IsZero() {
		t.Errorf("the third node is %+v", n)
	}
	leave[0]()
	eventually(t, "b is gone", func() bool { return len(others[1].Nodes()) == 2 })
	if others[1].Leader() != "a" {
		t.Error("the leader changed with a follower")
	}
}

// A node that is cut off etcd leads no more, and comes back when etcd does.
func TestLeaderThatIsCutOff(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	etcd := member(t, db, "etcd")
	addr := strings.TrimPrefix(etcd.EtcdAddresses(t.Context())[0], "http://")
	t.Cleanup(func() { _ = etcd.Close() })
	v := newValve(t, addr)
	wait := func(ctx context.Context) { <-ctx.Done() }
	cut := joined(t, db, "cut", EtcdConfig{Endpoints: []string{"http://" + v.listener.Addr().String()}})
	start(t, cut, wait)
	eventually(t, "the first leads", cut.Leading)
	other := joined(t, db, "other", EtcdConfig{Endpoints: etcd.EtcdAddresses(t.Context())})
	start(t, other, wait)
	eventually(t, "the second is there", func() bool { return len(other.Nodes()) == 2 })
	began := time.Now()
	v.turn(true)
	eventually(t, "the second leads", other.Leading)
	// A machine that is busy with other tests may take longer than the ten
	// seconds that loadtest's FAILOVER_WITHIN asks of a quiet one.
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	eventually(t, "the first knows", func() bool { return !cut.Leading() })
	v.turn(false)
	eventually(t, "the first is back", func() bool { return len(other.Nodes()) == 2 && cut.Leader() == "other" })
}

func TestDatabaseOfAnotherCluster(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	dir := t.TempDir()
	cfg := Config{Etcd: EtcdConfig{Dir: dir}, Self: Node{ID: "a"}, Log: quiet}
	for range 2 { // and again with the same data
		c, err := Join(t.Context(), db, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Etcd.Dir = t.TempDir()
	_, err := Join(t.Context(), db, cfg)
	var other *txn.OtherClusterError
	if !errors.As(err, &other) || !strings.Contains(err.Error(), "cluster adopt") || !strings.Contains(err.Error(), "--etcd-endpoints") || !strings.Contains(err.Error(), "--no-cluster") {
		t.Fatalf("got %v, want an OtherClusterError that says what to do", err)
	}
	if err := db.LeaveCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := Join(t.Context(), db, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// clinics makes clinics with stock, each with overdue holds.
func clinics(tb testing.TB, e *txn.Executors, n, holds int) []ledger.ClinicID {
	tb.Helper()
	ids := make([]ledger.ClinicID, n)
	for i := range ids {
		ids[i] = ledger.ClinicID(txntest.NewClinicID(tb))
		bodies := []ledger.CommandBody{
			&ledger.CreateClinic{Name: "Test clinic", TimeZone: "Africa/Nairobi"},
			&ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store},
			&ledger.AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet"},
			&ledger.RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate},
			&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 100},
		}
		for range holds {
			bodies = append(bodies, &ledger.ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 1, ReasonCode: "round", Deadline: ledger.InstantOf(time.Now().Add(-time.Minute))})
		}
		var commands []ledger.Command
		for k, body := range bodies {
			commands = append(commands, ledger.Command{Clinic: ids[i], IdempotencyKey: fmt.Sprint("k", k), Actor: "tester", Body: body})
		}
		verdicts, err := e.Submit(context.Background(), txn.Submission{Clinic: ids[i], Commands: commands})
		if err != nil {
			tb.Fatal(err)
		}
		for k, v := range verdicts {
			if v.Err != nil {
				tb.Fatalf("%s: %v", bodies[k].Kind(), v.Err)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func newExecutor(tb testing.TB, db *txn.DB, clock func() time.Time) *txn.Executors {
	tb.Helper()
	e := txn.NewExecutors(txn.NewDirectory(db), txn.ExecutorConfig{Log: quiet, Clock: clock}, nil)
	tb.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return e
}
