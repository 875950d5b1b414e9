package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/rpc"
)

// parts reads --services. A process that executes no commands must find those
// that do.
func (f *nodeFlags) parts() ([]rpc.Part, error) {
	parts, err := rpc.ParseParts(f.Services)
	if err != nil {
		return nil, fmt.Errorf("--services: %w", err)
	}
	switch {
	case slices.Contains(parts, rpc.PartInventory):
	case f.NoCluster:
		return nil, errors.New("--services pharmacy: commands are executed by nodes that serve inventory, and with --no-cluster this one finds none; leave --no-cluster out, and name the etcd cluster of those nodes with --etcd-endpoints")
	case len(f.EtcdEndpoints) == 0 && !strings.Contains(f.EtcdInitialCluster, ","):
		return nil, errors.New("--services pharmacy: commands are executed by nodes that serve inventory, and an etcd member of this node's own knows none; name the etcd cluster of those nodes with --etcd-endpoints, for example the --etcd-listen-client of one that brings its member")
	}
	return parts, nil
}

// executes reports whether this node executes commands.
func (n *node) executes() bool { return slices.Contains(n.parts, rpc.PartInventory) }

func (n *node) newRouter() *cluster.Router {
	if !n.executes() {
		return cluster.NewRemoteRouter(n.executors, n.peerTLS, n.log)
	}
	return cluster.NewRouter(n.executors, n.peerTLS, n.log)
}

// reachable tells whether nodes can be reached that execute what this one does
// not.
func (n *node) reachable() func() bool {
	if n.executes() {
		return nil
	}
	return n.router.Reachable
}

// partNames are those that this node tells the others.
func (n *node) partNames() []string {
	names := make([]string, len(n.parts))
	for i, part := range n.parts {
		names[i] = string(part)
	}
	return names
}

// partsOf are what another node serves.
func partsOf(other cluster.Node) []rpc.Part {
	if len(other.Services) == 0 {
		return rpc.Parts() // a release that does not tell
	}
	parts := make([]rpc.Part, len(other.Services))
	for i, name := range other.Services {
		parts[i] = rpc.Part(name)
	}
	return parts
}
