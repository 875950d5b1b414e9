package cluster

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func ids(c *Cluster) []string {
	var names []string
	for _, n := range c.Nodes() {
		names = append(names, n.ID)
	}
	return names
}

func reachableNode(id string) Node {
	return Node{ID: id, Name: id, API: id + ":8080", Peer: id + ":9090", Version: "test", Started: time.Now()}
}

// A node that leaves is home to nothing at once, and leads no longer; it still
// hears who is there.
func TestNodesLeaveBeforeTheyEnd(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	join := func(self Node, etcd EtcdConfig) *Cluster {
		c, err := Join(t.Context(), db, Config{Etcd: etcd, Self: self, LeaseTTL: 2 * time.Second, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var busy atomic.Bool
	release := make(chan struct{})
	lead := func(ctx context.Context) {
		<-ctx.Done()
		if busy.Load() {
			<-release
		}
	}
	a := join(reachableNode("a"), EtcdConfig{Dir: t.TempDir()})
	etcd := EtcdConfig{Endpoints: a.EtcdAddresses(t.Context())}
	start(t, a, lead)
	eventually(t, "a leads", a.Leading)
	// One that does not stand for election never leads.
	only := join(Node{ID: "only", Name: "only", API: "only:8080", Services: []string{"pharmacy"}}, etcd)
	start(t, only, nil)
	eventually(t, "both are there", func() bool { return slices.Equal(ids(a), []string{"a", "only"}) })
	// One that was told to leave before it began is never seen.
	early := join(reachableNode("early"), etcd)
	if err := early.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	start(t, early, lead)
	eventually(t, "it hears of the others", func() bool { return len(ids(early)) == 2 })

	busy.Store(true)
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := a.Leave(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a job does not stop, and Leave says %v", err)
	}
	gone := func() bool {
		return slices.Equal(ids(a), []string{"only"}) && slices.Equal(ids(only), []string{"only"})
	}
	eventually(t, "nobody takes a for a home", gone)
	if home, ok := a.Home("x"); ok {
		t.Errorf("the home is %s", home.ID)
	}
	b := join(reachableNode("b"), etcd)
	start(t, b, func(ctx context.Context) { <-ctx.Done() })
	eventually(t, "a hears of b", func() bool { home, ok := a.Home("x"); return ok && home.ID == "b" })
	if b.Leading() {
		t.Error("b leads while a's job is under way")
	}
	close(release)
	if err := a.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "b leads", b.Leading)
	if only.Leading() || a.Leading() || early.Leading() {
		t.Error("another one leads too")
	}
	if services := func() []string {
		for _, n := range b.Nodes() {
			if n.ID == "only" {
				return n.Services
			}
		}
		return nil
	}(); !slices.Equal(services, []string{"pharmacy"}) {
		t.Errorf("only is told to serve %v", services)
	}
}
