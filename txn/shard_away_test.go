package txn

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
)

// shardBehind returns the directory of two shards of which the second is behind
// a proxy, with a clinic on the first.
func shardBehind(t *testing.T, transactionTimeout time.Duration) (*Directory, *faultproxy.Proxy, *testClinic) {
	t.Helper()
	both := twoShards(t)
	proxy := faultproxy.New(t, sharedShard.url)
	db := openTest(t, Config{DatabaseURL: proxy.URL(), TransactionTimeout: transactionTimeout})
	d := NewDirectory(both.Main())
	if err := d.Reach(t.Context(), secondShard, db); err != nil {
		t.Fatal(err)
	}
	return d, proxy, newTestClinic(t, testExecutor(t, ExecutorConfig{}))
}

// While looks at a shard hang, those who wait for a clinic of another one hear of
// each command of another node, and a cache follows it.
func TestAShardThatHangsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	d, proxy, c := shardBehind(t, time.Hour)
	feed := NewFeed(d, 5*time.Millisecond)
	cache, err := NewCache(d, CacheConfig{LookEvery: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	queries := NewQueries(d)
	queries.UseCache(cache)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	for _, run := range []func(context.Context, func(error)){feed.Run, cache.follow} {
		go func() {
			run(ctx, func(err error) { t.Logf("a look ended: %v", err) })
			ended <- struct{}{}
		}()
	}
	defer func() {
		cancel()
		<-ended
		<-ended
	}()
	stock := func() ledger.Sequence {
		_, asOf, err := queries.Stock(ctx, c.id, zincInStore, fromCache)
		if err != nil {
			t.Fatal(err)
		}
		return asOf.Sequence
	}
	c.receive(1)
	stock() // from now on the cache follows the clinic
	proxy.Hang(t)
	eventually(t, "looks at the second shard hang", func() bool {
		at := c.stored().Head
		short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
		defer stop()
		_ = feed.Wait(short, c.id, Place{at.Epoch, at.Sequence})
		return proxy.Held() >= 2
	})
	for range 3 {
		at := c.stored().Head
		told := make(chan error, 1)
		go func() { told <- feed.Wait(ctx, c.id, Place{at.Epoch, at.Sequence}) }()
		c.receive(1)
		if err := <-told; err != nil {
			t.Fatal(err)
		}
		eventually(t, "the cache has heard of the command", func() bool { return stock() > at.Sequence })
	}
}

// A look that is asked for while one is under way is made after it, if something
// is new; else the one that is under way will do.
func TestRoundsLookAgainAtWhatIsNew(t *testing.T) {
	t.Parallel()
	for _, isNew := range []bool{false, true} {
		looks, begun, let := 0, make(chan struct{}, 3), make(chan struct{})
		r := NewDirectory(testDB(t)).newRounds(func(context.Context, *DB) error {
			looks++
			begun <- struct{}{}
			<-let
			return nil
		}, func(err error) { t.Error(err) })
		r.begin(t.Context(), false)
		<-begun
		r.begin(t.Context(), isNew)
		r.begin(t.Context(), false)
		close(let)
		r.wait()
		if want := map[bool]int{false: 1, true: 2}[isNew]; looks != want {
			t.Errorf("new: %t, %d looks", isNew, looks)
		}
	}
}

// What looks at all clinics passes over those of a shard that is away, says so,
// and finds them when it is there again.
func TestChoresPassOverAShardThatIsAway(t *testing.T) {
	t.Parallel()
	d, proxy, c := shardBehind(t, 0)
	far := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	moveTo(t, d, far.id, secondShard)
	var said lockedText
	log := slog.New(slog.NewTextHandler(&said, nil))
	chores := NewChores(d, nil, log)
	clinics := func() (all []ledger.ClinicID) {
		for after := ledger.ClinicID(""); ; {
			some, err := chores.Clinics(t.Context(), time.Now(), after, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if len(some) == 0 {
				return all
			}
			all, after = append(all, some...), some[len(some)-1]
		}
	}
	if all := clinics(); !slices.Contains(all, c.id) || !slices.Contains(all, far.id) {
		t.Error("the clinics of both shards are not listed")
	}
	if said.String() != "" {
		t.Errorf("with both shards there, it says %s", &said)
	}
	proxy.Down()
	if all := clinics(); !slices.Contains(all, c.id) || slices.Contains(all, far.id) {
		t.Error("with a shard away, the clinics of the other one are not all that is listed")
	}
	if !strings.Contains(said.String(), "shard-2") {
		t.Errorf("of the shard that is away it says %q", &said)
	}
	if _, err := NewOperations(d).Depths(t.Context()); err == nil {
		t.Error("what waits is counted without a shard that is away")
	}
	proxy.Up(t)
	if all := clinics(); !slices.Contains(all, far.id) {
		t.Error("the clinics of the shard that came back are not listed")
	}
}

// A process that starts while a shard is away serves the clinics of the others
// at once, and the shard's own when it comes: if it is the one that it should be.
func TestStartWithAShardAway(t *testing.T) {
	t.Parallel()
	moved := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	moveTo(t, twoShards(t), moved.id, secondShard)
	here := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	proxy := faultproxy.New(t, sharedShard.url)
	proxy.Down()
	var said lockedText
	cfg := Config{DatabaseURL: testURL(t), Log: slog.New(slog.NewTextHandler(&said, nil)), MaxAttempts: 2}
	shards := map[ShardID]string{secondShard: proxy.URL()}
	if _, err := OpenDirectory(t.Context(), cfg, shards); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "shard-2") {
		t.Errorf("a command that needs all shards starts without one: %v", err)
	}
	cfg.ShardsMayBeAway = true
	d, err := OpenDirectory(t.Context(), cfg, shards)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	nodes := testExecutors(t, d)
	receive := func(c *testClinic) error {
		verdicts, err := nodes.Submit(t.Context(), Submission{Clinic: c.id, Commands: []ledger.Command{c.command(&ledger.ReceiveStock{
			LocationID: "store", LotID: "L1", Quantity: 1, Supplier: "Acme", Reference: "DN",
		})}})
		if err == nil {
			err = verdicts[0].Err
		}
		return err
	}
	if err := receive(here); err != nil {
		t.Errorf("a clinic of the shard that is there: %v", err)
	}
	if err := receive(moved); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a clinic of the shard that is away: %v", err)
	}
	if d.On(secondShard).PredicateLocksTuned() {
		t.Error("nobody knows yet how the server is set up")
	}
	proxy.Up(t)
	eventually(t, "the shard is used", func() bool { return receive(moved) == nil })
	eventually(t, "the log tells of both", func() bool {
		s := said.String()
		return strings.Contains(s, "a shard cannot be reached") && strings.Contains(s, "can be reached\" shard=shard-2")
	})
	if tuned := d.On(secondShard).PredicateLocksTuned(); tuned != d.Main().PredicateLocksTuned() {
		t.Errorf("of two databases on one server the second is tuned: %t", tuned)
	}
}

// A shard that takes connections and says nothing is away; one that refuses who
// asks, or has no such database, is somebody's mistake.
func TestWhichShardsAreAway(t *testing.T) {
	t.Parallel()
	twoShards(t)
	silent := faultproxy.New(t, sharedShard.url)
	silent.Hang(t)
	missing := databaseURL(t, testURL(t), "there_is_none")
	for name, test := range map[string]struct {
		url    string
		starts bool
	}{
		"silent":      {silent.URL(), true},
		"no database": {missing, false},
	} {
		cfg := Config{DatabaseURL: testURL(t), ShardsMayBeAway: true, ConnectTimeout: 2 * time.Second}
		d, err := OpenDirectory(t.Context(), cfg, map[ShardID]string{secondShard: test.url})
		if err == nil {
			d.Close()
		}
		if (err == nil) != test.starts {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A database that was away when a process started is not used where it turns out
// to be another shard.
func TestTheWrongShardComes(t *testing.T) {
	t.Parallel()
	twoShards(t)
	proxy := faultproxy.New(t, sharedShard.url)
	proxy.Down()
	d, err := OpenDirectory(t.Context(), Config{DatabaseURL: testURL(t), ShardsMayBeAway: true, MaxAttempts: 2}, map[ShardID]string{"shard-9": proxy.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	proxy.Up(t)
	if err := d.On("shard-9").Ping(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "is shard shard-2, and not shard-9") {
		t.Errorf("another shard answers with %v", err)
	}
}

// lockedText is what several goroutines write.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
