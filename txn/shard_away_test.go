package txn

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
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
	db, err := Open(t.Context(), Config{DatabaseURL: proxy.URL(), TransactionTimeout: transactionTimeout, MaxAttempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	d := NewDirectory(both.Main())
	if err := d.Reach(t.Context(), secondShard, db); err != nil {
		t.Fatal(err)
	}
	return d, proxy, newTestClinic(t, testExecutor(t, ExecutorConfig{}))
}

// While a look at a shard hangs for longer than any test takes, those who wait
// for a clinic of another one hear of each command of another node, and a cache
// follows it.
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
	eventually(t, "two looks hang", func() bool {
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

// What looks at all clinics passes over those of a shard that is away, says so,
// and finds them when it is there again.
func TestChoresPassOverAShardThatIsAway(t *testing.T) {
	t.Parallel()
	d, proxy, c := shardBehind(t, 0)
	far := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	moveTo(t, d, far.id, secondShard)
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(io.Writer(&said), nil))
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
	if said.Len() > 0 {
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
