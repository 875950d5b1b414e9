package loadtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

const (
	rollingClients = 12
	rollingDrain   = 2 * time.Second
	// probeEvery is how often the balancer asks each node, several times a
	// rollingDrain.
	probeEvery = 200 * time.Millisecond
)

// balancer sends to the nodes that were ready when it last asked, as a load
// balancer does that probes /readyz.
type balancer struct {
	d       *devCluster
	ready   []atomic.Bool
	stop    chan struct{}
	probing sync.WaitGroup
}

func (d *devCluster) balance() *balancer {
	b := &balancer{d: d, ready: make([]atomic.Bool, len(d.nodes)), stop: make(chan struct{})}
	for i, n := range d.nodes {
		b.ready[i].Store(isReady(n))
		b.probing.Go(func() {
			tick := time.NewTicker(probeEvery)
			defer tick.Stop()
			for {
				select {
				case <-b.stop:
					return
				case <-tick.C:
					b.ready[i].Store(isReady(n))
				}
			}
		})
	}
	return b
}

func (b *balancer) end() {
	close(b.stop)
	b.probing.Wait()
}

// pick returns one of the ready nodes.
func (b *balancer) pick() int {
	for from := rand.IntN(len(b.ready)); ; from++ {
		if i := from % len(b.ready); b.ready[i].Load() {
			return i
		}
	}
}

// TestRollingRestartFailsNothing restarts the nodes one after the other with
// SIGTERM under load. Clients send each request once, to a node that their
// balancer believes to be ready: every command, query and page is answered.
func TestRollingRestartFailsNothing(t *testing.T) {
	t.Setenv("STOCKLEDGER_DRAIN_DELAY", rollingDrain.String())
	const units = 1 << 40
	d := startDevCluster(t)
	eventually(d.tb, d.complete, "all nodes know each other")
	clinics := make([]string, 9)
	for i := range clinics {
		clinics[i] = d.clinic(units)
	}
	b := d.balance()
	load := &persistent{d: d, clinics: clinics, stop: make(chan struct{})}
	var reads atomic.Int64
	for client := range rollingClients {
		load.running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-load.stop:
					return
				default:
				}
				clinic := clinics[i%len(clinics)]
				b.issue(load, issueOf(clinic, fmt.Sprint(client, "-", i)))
				if i%4 == client%4 {
					b.read(clinic)
					reads.Add(1)
				}
			}
		})
	}
	for round := range 2 {
		for which := range d.nodes {
			load.more(300)
			d.end(which, syscall.SIGTERM)
			eventually(d.tb, b.ready[which].Load, "the balancer sends to the node again")
			eventually(d.tb, d.complete, fmt.Sprint("all nodes are back in round ", round+1))
		}
	}
	load.more(300)
	load.check(units)
	b.end()
	t.Logf("%d commands were answered and %d reads sent over %d restarts", load.count.Load(), reads.Load(), 2*len(d.nodes))
}

// issue sends a command once.
func (b *balancer) issue(load *persistent, req *pb.CommandRequest) {
	which := b.pick()
	answer, err := stockledgerv1connect.NewInventoryServiceClient(connectTo(b.d.nodes[which])).IssueStock(context.Background(), req)
	if err != nil {
		b.d.tb.Errorf("a command at node %d: %v", which, err)
		return
	}
	load.acks.Store([2]string{req.GetClinicId(), req.GetCommand().GetIdempotencyKey()}, answer.GetAccepted().GetSequence())
	load.count.Add(1)
}

// read asks once for what a clinic has, from the database.
func (b *balancer) read(clinic string) {
	which := b.pick()
	_, err := stockledgerv1connect.NewQueryServiceClient(connectTo(b.d.nodes[which])).GetStock(context.Background(), &pb.GetStockRequest{
		ClinicId: clinic, LocationId: "store", MedicineId: "zinc", Read: &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG},
	})
	if err != nil {
		b.d.tb.Errorf("a query at node %d: %v", which, err)
	}
}
