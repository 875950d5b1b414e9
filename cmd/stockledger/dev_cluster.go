package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stockledger/stockledger/txn/localdb"
	"github.com/stockledger/stockledger/txn/localdb/child"
)

// devNode is one node of a cluster on this machine.
type devNode struct {
	name string
	// The API, probes and metrics, other nodes, and etcd's clients and members.
	api, admin, peer, etcdClient, etcdPeer string
	log                                    string // file
}

// portsOfNode is how far apart the ports of two nodes are.
const portsOfNode = 10

func (c *devCmd) check() error {
	switch {
	case c.Nodes < 1 || c.Nodes > 9 || c.Nodes%2 == 0:
		return fmt.Errorf("--nodes %d: start 1, 3, 5, 7 or 9, so that more than half of them can be there when one is not", c.Nodes)
	case c.BasePort < 1 || c.BasePort+portsOfNode*c.Nodes > 65536:
		return fmt.Errorf("--base-port %d: take one from 1 to %d", c.BasePort, 65536-portsOfNode*c.Nodes)
	}
	return nil
}

func (c *devCmd) devNodes(dir string) []devNode {
	nodes := make([]devNode, c.Nodes)
	for i := range nodes {
		at := func(offset int) string {
			return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.BasePort+portsOfNode*i+offset))
		}
		name := string(rune('a' + i))
		nodes[i] = devNode{name, at(0), at(1), at(2), at(3), at(4), filepath.Join(dir, "node-"+name+".log")}
	}
	return nodes
}

// serveCluster runs several nodes as processes of their own until ctx ends.
func (c *devCmd) serveCluster(ctx context.Context, log *slog.Logger, dir string, database *localdb.Server) error {
	if err := c.keepLayout(dir); err != nil {
		return err
	}
	nodes := c.devNodes(dir)
	if err := portsAreFree(nodes); err != nil {
		return err
	}
	n, err := c.open(ctx, log, dir, database, clusterFlags{NoCluster: true, JobTimeZone: "UTC"})
	if err != nil {
		return err
	}
	err = n.executors.Close(ctx)
	n.directory.Close()
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := supervisor{binary: binary, dir: dir, databaseURL: database.URL, nodes: nodes, out: os.Stdout}
	var running sync.WaitGroup
	failed := make(chan error, len(nodes))
	for _, node := range nodes {
		running.Go(func() { failed <- s.keep(ctx, node) })
	}
	waiting, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for _, node := range nodes {
		if err = node.await(waiting); err != nil {
			break
		}
	}
	if err == nil {
		printClusterWelcome(os.Stdout, nodes, dir)
		select {
		case err = <-failed:
		case <-ctx.Done():
		}
	}
	cancel()
	running.Wait()
	return err
}

// keepLayout refuses another layout than the one that the etcd members in the
// folder know each other by.
func (c *devCmd) keepLayout(dir string) error {
	file, layout := filepath.Join(dir, "layout"), fmt.Sprintf("--nodes %d --base-port %d", c.Nodes, c.BasePort)
	known, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return os.WriteFile(file, []byte(layout+"\n"), 0o600)
	case err != nil:
		return err
	case strings.TrimSpace(string(known)) != layout:
		return fmt.Errorf("the cluster in %s has %s: start it so, or name another folder with --data-dir", dir, strings.TrimSpace(string(known)))
	}
	return nil
}

func portsAreFree(nodes []devNode) error {
	for _, n := range nodes {
		for _, address := range []string{n.api, n.admin, n.peer, n.etcdClient, n.etcdPeer} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return fmt.Errorf("%s, which node %s needs, is in use: choose other ports with --base-port (%w)", address, n.name, err)
			}
			_ = l.Close()
		}
	}
	return nil
}

// supervisor keeps nodes running.
type supervisor struct {
	binary, dir, databaseURL string
	nodes                    []devNode

	mu  sync.Mutex
	out io.Writer
}

// restartAfter is the pause before a node that ended is started again.
const restartAfter = 500 * time.Millisecond

// keep runs a node until ctx ends, and starts it again where it ended by itself.
func (s *supervisor) keep(ctx context.Context, n devNode) error {
	for {
		p, err := s.start(n)
		if err != nil {
			return err
		}
		s.tell("node %s  http://%s  pid %d  log %s\n", n.name, n.api, p.PID(), n.log)
		select {
		case <-ctx.Done():
			return p.End(context.WithoutCancel(ctx), syscall.SIGTERM)
		case <-p.Done():
		}
		s.tell("node %s has ended (%v); starting it again\n", n.name, p.Err())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restartAfter):
		}
	}
}

func (s *supervisor) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format, args...)
}

func (s *supervisor) start(n devNode) (*child.Process, error) {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	var members []string
	for _, other := range s.nodes {
		members = append(members, other.name+"=https://"+other.etcdPeer)
	}
	cmd := exec.Command(s.binary, "serve",
		"--node-name", n.name, "--listen", n.api, "--admin-listen", n.admin, "--peer-listen", n.peer,
		"--issuer-key", filepath.Join(s.dir, "issuer.key"), "--patient-key", filepath.Join(s.dir, "patient.key"), "--grace-period", "10s",
		"--checkpoint-dir", checkpointsOf(s.dir),
		"--etcd-dir", filepath.Join(s.dir, "etcd-"+n.name), "--etcd-name", n.name, "--etcd-listen-client", n.etcdClient, "--etcd-listen-peer", n.etcdPeer,
		"--etcd-initial-cluster", strings.Join(members, ","), "--webhook-allow-private")
	cmd.Env = append(os.Environ(), localdb.URLVariable+"="+s.databaseURL)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := child.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start node %s: %w", n.name, err)
	}
	return p, nil
}

// await waits until a node is ready.
func (n devNode) await(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/readyz", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w; its log is %s", n.name, ctx.Err(), n.log)
		}
	}
}

// printClusterWelcome prints what to try.
func printClusterWelcome(out io.Writer, nodes []devNode, dir string) {
	token, api := shellPath(tokenFile(dir)), "http://"+nodes[0].api
	fmt.Fprintf(out, `
stockledger is ready: %d nodes, each with an etcd member, and one database.

  data     %s
  token    %s   (does everything, for 30 days)

Who is there, who leads, and what waits:

  STOCKLEDGER_TOKEN=$(cat %s) bin/stockledger cluster status --server %s

Kill a node by its pid, kill -9 included: the others go on, and it is started again.

`, len(nodes), dir, token, token, api)
	printToTry(out, api, token)
	fmt.Fprint(out, `
Ctrl-C stops everything. "make clean-data" starts over.

`)
}
