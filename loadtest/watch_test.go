package loadtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// follower watches a clinic's events on whichever of some nodes answers.
type follower struct {
	clinic string
	filter *pb.EventFilter
	place  *pb.EventPlace
	seen   []int64
	broken int // streams that ended under it
}

// follow watches until everything up to the last event was told, going to the
// next node when one goes.
func (f *follower) follow(ctx context.Context, nodes []func() *connect.Client, first int, last func() int64) error {
	for turn := first; ctx.Err() == nil; turn++ {
		done, err := f.stream(ctx, nodes[turn%len(nodes)](), last)
		if done {
			return nil
		}
		if code := connect.CodeOf(err); err != nil && code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeInternal && code != connect.CodeCanceled {
			return fmt.Errorf("after %v: %w", f.place, err)
		}
		f.broken++
	}
	return ctx.Err()
}

func (f *follower) stream(ctx context.Context, conn *connect.Client, last func() int64) (done bool, err error) {
	stream, err := stockledgerv1connect.NewEventServiceClient(conn).Watch(ctx, &pb.WatchRequest{
		ClinicId: f.clinic, After: f.place, Filter: f.filter, Heartbeat: durationpb.New(time.Second),
	})
	if err != nil {
		return false, err
	}
	defer func() { _ = stream.Close() }()
	for {
		told, err := stream.Receive()
		if err != nil {
			return false, err
		}
		if event := told.GetEvent(); event != nil {
			f.seen = append(f.seen, event.GetSequence())
			f.place = &pb.EventPlace{Epoch: event.GetEpoch(), Sequence: event.GetSequence()}
		} else {
			f.place = told.GetHeartbeat()
		}
		if end := last(); end > 0 && f.place.GetSequence() >= end {
			return true, nil
		}
	}
}

// Two hundred watchers on two nodes, some of which want little of what happens,
// see what they asked for once and in its order, while one node is killed and
// another takes its place.
func TestWatchersOverAKilledNode(t *testing.T) {
	t.Parallel()
	const watchers, commands = 200, 150
	c := startCluster(t)
	other, err := node.Start(t.Context(), c.binary, c.databaseURL, c.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Stop(); err != nil {
			t.Errorf("stop the other node: %v", err)
		}
	})
	clinic := c.clinic(1_000_000)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	nodes := []func() *connect.Client{c.connect, func() *connect.Client { return connectTo(other) }}
	var last atomic.Int64
	var watching sync.WaitGroup
	all := make([]*follower, watchers)
	for i := range all {
		f := &follower{clinic: clinic}
		if i%3 == 0 {
			f.filter = &pb.EventFilter{Types: []string{"StockReserved"}, LocationIds: []string{"store"}}
		}
		all[i] = f
		watching.Go(func() {
			if err := f.follow(ctx, nodes, i, last.Load); err != nil {
				t.Errorf("watcher %d: %v", i, err)
			}
		})
	}
	var everything, reserved []int64
	for sequence := range int64(5) {
		everything = append(everything, sequence+1)
	}
	for n := range commands {
		if n == commands/3 {
			c.crash()
		}
		sequence, reserves := c.oneOf(ctx, t, clinic, n, nodes)
		everything = append(everything, sequence)
		if reserves {
			reserved = append(reserved, sequence)
		}
	}
	last.Store(everything[len(everything)-1])
	watching.Wait()
	interrupted := 0
	for i, f := range all {
		want := everything
		if f.filter != nil {
			want = reserved
		}
		if !slices.Equal(f.seen, want) {
			t.Fatalf("watcher %d was told %v, want %v", i, f.seen, want)
		}
		if f.broken > 0 {
			interrupted++
		}
	}
	if interrupted == 0 {
		t.Error("no watcher noticed that its node was killed")
	}
	c.verify(clinic)
}

// oneOf gives a command by one node and, where that does not answer, by the
// other under the same key. Every fifth one reserves.
func (c *cluster) oneOf(ctx context.Context, t *testing.T, clinic string, n int, nodes []func() *connect.Client) (sequence int64, reserves bool) {
	t.Helper()
	key := fmt.Sprintf("w-%d", n)
	reserves = n%5 == 0
	for turn := n; ctx.Err() == nil; turn++ {
		inventory := stockledgerv1connect.NewInventoryServiceClient(nodes[turn%len(nodes)]())
		var answer *pb.CommandResponse
		var err error
		if reserves {
			answer, err = inventory.ReserveStock(ctx, reservation(clinic, key, 1))
		} else {
			answer, err = inventory.IssueStock(ctx, issueOf(clinic, key))
		}
		if err == nil {
			return answer.GetAccepted().GetSequence(), reserves
		}
		if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeInternal && code != connect.CodeCanceled {
			t.Fatal(err)
		}
	}
	t.Fatal(ctx.Err())
	return 0, false
}
