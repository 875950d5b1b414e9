package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stockledger/stockledger/cluster"
)

// background is what runs beside the server.
type background struct {
	following context.Context
	stop      context.CancelFunc
	running   sync.WaitGroup

	mu  sync.Mutex
	err error // why the node can't go on
}

// newBackground returns one that outlives ctx.
func newBackground(ctx context.Context) *background {
	b := &background{}
	b.following, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	return b
}

// Go runs something until it is told to stop.
func (b *background) Go(run func(following context.Context)) {
	b.running.Go(func() { run(b.following) })
}

func (b *background) refuse(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *background) refused() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// closing is the share of the grace period that requests under way leave for
// closing what they stood on.
func closing(grace time.Duration) time.Duration { return min(grace/5, 2*time.Second) }

// shutdown stops in the reverse order of the start, all of it until grace ends:
//
// Readiness goes off, and the node leaves the cluster, so that the other nodes
// bring it no more commands and another one leads. What callers still ask of it
// until the port closes, it brings to the new homes. Then requests and streams
// end, then what runs beside them, then the groups of commands and the answers
// to other nodes; and then there is nothing left that needs etcd and the
// database.
func (n *node) shutdown(grace context.Context, peers *cluster.PeerServer, work *background) error {
	n.server.Drain()
	deadline, _ := grace.Deadline()
	serving, end := context.WithDeadline(grace, deadline.Add(-closing(n.grace)))
	defer end()
	left := make(chan error, 1)
	go func() { left <- n.leave(serving) }()
	err := errors.Join(n.server.Shutdown(serving), <-left)
	work.stop()
	err = errors.Join(err, within(grace, "what runs in the background", func() error { work.running.Wait(); return nil }), n.executors.Close(grace))
	if peers != nil {
		err = errors.Join(err, peers.Close(grace))
	}
	n.router.Close()
	if c := n.joined.Load(); c != nil {
		err = errors.Join(err, within(grace, "etcd", c.Close))
	}
	n.replicas.Close()
	return errors.Join(err, within(grace, "the database's connections", func() error { n.directory.Close(); return nil }))
}

// leave gives up homes and leadership.
func (n *node) leave(ctx context.Context) error {
	if c := n.joined.Load(); c != nil {
		return c.Leave(ctx)
	}
	return nil
}

// within waits for something that knows no deadline, until ctx ends.
func within(ctx context.Context, what string, end func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s did not end in time: %w", what, ctx.Err())
	}
}
