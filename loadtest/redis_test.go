package loadtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn/localdb/redistest"
)

// checkers ask two nodes, that share a Redis, how much is left of what is
// reserved one by one.
type checkers struct {
	tb     testing.TB
	clinic string
	units  int64
	setUp  int64 // commands before the first reservation
	asked  atomic.Int64
	latest atomic.Int64 // the last reservation that was acknowledged
}

// check asks once. Whatever the cache knows, the answer is the truth of the
// command that it names, and names no command before the one that was asked for.
func (c *checkers) check(queries stockledgerv1connect.QueryServiceClient, atLeast int64) error {
	res, err := queries.CheckAvailability(context.Background(), &pb.CheckAvailabilityRequest{
		ClinicId: c.clinic, LocationIds: []string{"store"}, Demands: []*pb.Demand{{MedicineId: "zinc", Quantity: 1}},
		Read: &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_CACHED, MinSequence: atLeast},
	})
	if err != nil {
		return fmt.Errorf("a check failed: %w", err)
	}
	c.asked.Add(1)
	sequence, usable := res.GetAsOf().GetSequence(), res.GetMedicines()[0].GetUsable()
	if want := c.units - (sequence - c.setUp); usable != want || sequence < atLeast {
		return fmt.Errorf("as of command %d, of at least %d, there are %d, not %d", sequence, atLeast, usable, want)
	}
	return nil
}

// Redis is killed and comes back, again and again, while two nodes answer from
// their caches: no request fails, and no answer is a lie.
func TestRedisComesAndGoes(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	c := startCluster(t, "--redis-url", redis.URL())
	other, err := node.Start(t.Context(), c.binary, c.databaseURL, c.key, c.flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Stop(); err != nil {
			t.Errorf("stop the other node: %v", err)
		}
	})
	const units = 1_000_000
	k := &checkers{tb: t, clinic: c.clinic(units), units: units, setUp: 5}
	k.latest.Store(k.setUp)

	done := make(chan struct{})
	var working sync.WaitGroup
	work := func(what func(turn int) error) {
		working.Go(func() {
			for turn := 0; ; turn++ {
				select {
				case <-done:
					return
				default:
				}
				if err := what(turn); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work(func(turn int) error {
		res, err := c.inventory().ReserveStock(context.Background(), reservation(k.clinic, fmt.Sprintf("r-%d", turn), 1))
		if err != nil {
			return fmt.Errorf("a reservation failed: %w", err)
		}
		k.latest.Store(res.GetAccepted().GetSequence())
		return nil
	})
	for _, n := range []*node.Node{c.node, other} {
		queries := stockledgerv1connect.NewQueryServiceClient(connectTo(n))
		work(func(int) error { return k.check(queries, 0) })
		work(func(int) error { return k.check(queries, k.latest.Load()) })
	}
	for range 3 {
		k.more(500)
		redis.Kill()
		k.more(500)
		redis.Restart()
	}
	k.await("the other node uses Redis again", func() bool {
		before := cacheReads(t, other, "shared")
		k.more(200)
		return cacheReads(t, other, "shared") > before
	})
	close(done)
	working.Wait()
}

// more waits for so many answers more.
func (c *checkers) more(answers int64) {
	c.tb.Helper()
	until := c.asked.Load() + answers
	c.await("more answers", func() bool { return c.asked.Load() >= until || c.tb.Failed() })
}

func (c *checkers) await(what string, condition func() bool) {
	c.tb.Helper()
	limit := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			c.tb.Fatalf("it did not come about: %s", what)
		}
	}
}

var cacheReadsLine = regexp.MustCompile(`(?m)^stockledger_cache_reads_total\{family="stock",from="([a-z]+)"\} ([0-9.e+]+)$`)

// cacheReads is how many answers about stock a node has had from somewhere.
func cacheReads(tb testing.TB, n *node.Node, from string) float64 {
	tb.Helper()
	res, err := http.Get("http://" + n.Admin + "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	for _, line := range cacheReadsLine.FindAllStringSubmatch(string(text), -1) {
		if line[1] == from {
			reads, err := strconv.ParseFloat(line[2], 64)
			if err != nil {
				tb.Fatal(err)
			}
			return reads
		}
	}
	return 0
}
