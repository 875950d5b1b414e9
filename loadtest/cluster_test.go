package loadtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn/localdb"
	"github.com/stockledger/stockledger/txn/txntest"
)

// devCluster is a `stockledger dev --nodes 3`, which starts a node again that
// has ended.
type devCluster struct {
	cluster // for what does not matter where it is asked
	cmd     *exec.Cmd
	stderr  bytes.Buffer
	read    chan struct{} // closed when it prints no more
	nodes   []*node.Node
	pids    []atomic.Int64
	ready   chan struct{}
}

const devClusterNodes = 3

var nodeLine = regexp.MustCompile(`^node ([a-z])  http://(\S+)  pid (\d+)`)

// startDevCluster starts three nodes on a database that is theirs alone, with
// more in their environment.
func startDevCluster(tb testing.TB, environment ...string) *devCluster {
	tb.Helper()
	url := txntest.PrivateServer(tb).URL
	dir := filepath.Join(tb.TempDir(), "data")
	d := &devCluster{cluster: cluster{tb: tb, binary: buildServer(tb), databaseURL: url}, read: make(chan struct{}), ready: make(chan struct{}), pids: make([]atomic.Int64, devClusterNodes)}
	base := freePorts(tb)
	for i := range devClusterNodes {
		d.nodes = append(d.nodes, &node.Node{Address: fmt.Sprint("127.0.0.1:", base+10*i), Admin: fmt.Sprint("127.0.0.1:", base+10*i+1)})
	}
	d.cmd = exec.Command(d.binary, "dev", "--nodes", strconv.Itoa(devClusterNodes), "--base-port", strconv.Itoa(base), "--data-dir", dir)
	d.cmd.Env = append(append(os.Environ(), localdb.URLVariable+"="+url), environment...)
	d.cmd.Stderr = &d.stderr
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.interrupt)
	go d.follow(bufio.NewScanner(stdout))
	select {
	case <-d.ready:
	case <-d.read:
		tb.Fatalf("it ended before it was ready: %s", d.stderr.String())
	case <-time.After(2 * time.Minute):
		tb.Fatal("it was not ready in two minutes")
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, n := range d.nodes {
		n.Token = strings.TrimSpace(string(token))
	}
	d.node = d.nodes[0]
	return d
}

// freePorts returns the first of as many ports as the nodes need.
func freePorts(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		base := 20_000 + rand.IntN(10_000)
		free := true
		for port := base; port < base+10*devClusterNodes && free; port++ {
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	tb.Fatal("there are no free ports")
	return 0
}

// follow reads what it prints: which process each node is, again and again.
func (d *devCluster) follow(lines *bufio.Scanner) {
	defer close(d.read)
	for lines.Scan() {
		if m := nodeLine.FindStringSubmatch(lines.Text()); m != nil {
			pid, err := strconv.Atoi(m[3])
			if err == nil {
				d.pids[m[1][0]-'a'].Store(int64(pid))
			}
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C stops") {
			close(d.ready)
		}
	}
}

func (d *devCluster) interrupt() {
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		d.tb.Error(err)
	}
	<-d.read
	if err := d.cmd.Wait(); err != nil {
		d.tb.Errorf("after Ctrl-C: %v\n%s", err, d.stderr.String())
	}
}

// end sends a node's process a signal, and waits until another one is ready in
// its place.
func (d *devCluster) end(which int, signal syscall.Signal) {
	d.tb.Helper()
	pid := d.signal(which, signal)
	eventually(d.tb, func() bool { return d.pids[which].Load() != pid && isReady(d.nodes[which]) }, "the node is started again")
}

// signal sends a node's process a signal, and returns which that is.
func (d *devCluster) signal(which int, signal syscall.Signal) (pid int64) {
	d.tb.Helper()
	pid = d.pids[which].Load()
	process, err := os.FindProcess(int(pid))
	if err == nil {
		err = process.Signal(signal)
	}
	if err != nil {
		d.tb.Fatalf("send node %d %s: %v", which, signal, err)
	}
	return pid
}

func isReady(n *node.Node) bool {
	res, err := http.Get("http://" + n.Admin + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// eventually waits for a condition, a minute at most.
func eventually(tb testing.TB, holds func() bool, what string) {
	tb.Helper()
	deadline := time.After(time.Minute)
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

// persistent are clients that ask another node, under the same key, when one
// does not answer, as an application does.
type persistent struct {
	d       *devCluster
	clinics []string
	acks    sync.Map // the request's clinic and key to the sequence
	count   atomic.Int64
	again   atomic.Int64 // answers that said to try again
	stop    chan struct{}
	running sync.WaitGroup
}

func (d *devCluster) load(clients int, clinics []string) *persistent {
	p := &persistent{d: d, clinics: clinics, stop: make(chan struct{})}
	for client := range clients {
		p.running.Go(func() {
			var nodes []stockledgerv1connect.InventoryServiceClient
			for _, n := range d.nodes {
				nodes = append(nodes, stockledgerv1connect.NewInventoryServiceClient(connectTo(n)))
			}
			for i := 0; ; i++ {
				select {
				case <-p.stop:
					return
				default:
					p.issue(nodes, client, issueOf(clinics[i%len(clinics)], fmt.Sprint(client, "-", i)))
				}
			}
		})
	}
	return p
}

func issueOf(clinic, key string) *pb.CommandRequest {
	return &pb.CommandRequest{ClinicId: clinic, Command: &pb.Command{IdempotencyKey: key, Body: &pb.Command_IssueStock{IssueStock: &pb.IssueStock{
		LocationId: "store", MedicineId: "zinc", Quantity: 1, Recipient: "ward",
	}}}}
}

// patience is how long a client asks around for one command.
const patience = 30 * time.Second

// issue asks one node after the other until one says that it is done.
func (p *persistent) issue(nodes []stockledgerv1connect.InventoryServiceClient, from int, req *pb.CommandRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for attempt := from; ctx.Err() == nil; attempt++ {
		answer, err := nodes[attempt%len(nodes)].IssueStock(ctx, req)
		if err == nil {
			p.acks.Store([2]string{req.GetClinicId(), req.GetCommand().GetIdempotencyKey()}, answer.GetAccepted().GetSequence())
			p.count.Add(1)
			return
		}
		// Unknown and Canceled are what Connect's client makes of a connection
		// that broke.
		if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeCanceled {
			p.d.tb.Errorf("a client was told: %v", err)
			return
		}
		p.again.Add(1)
		wait := time.NewTimer(time.Duration(1+rand.IntN(20)) * time.Millisecond)
		<-wait.C
	}
	p.d.tb.Errorf("command %s was not done within %s", req.GetCommand().GetIdempotencyKey(), patience)
}

// more waits until so many more commands are acknowledged.
func (p *persistent) more(n int64) {
	p.d.tb.Helper()
	until := p.count.Load() + n
	eventually(p.d.tb, func() bool { return p.count.Load() >= until }, fmt.Sprint(n, " more commands are done"))
}

// check ends the load and counts: each clinic gave out as many units as there
// were acknowledged commands, each of which is still where it was said to be.
func (p *persistent) check(units int64) {
	p.d.tb.Helper()
	close(p.stop)
	p.running.Wait()
	done, seen := make(map[string]int64), make(map[string]bool)
	inventory := p.d.inventory()
	p.acks.Range(func(key, sequence any) bool {
		clinic, id := key.([2]string)[0], key.([2]string)[1]
		done[clinic]++
		at := fmt.Sprint(clinic, sequence)
		if seen[at] {
			p.d.tb.Errorf("sequence %d of %s answers two keys", sequence, clinic)
		}
		seen[at] = true
		if len(seen)%17 != 0 { // the totals speak for the rest
			return true
		}
		answer, err := inventory.IssueStock(context.Background(), issueOf(clinic, id))
		if err != nil || answer.GetAccepted().GetSequence() != sequence || !answer.GetAccepted().GetReplayed() {
			p.d.tb.Errorf("key %s was acknowledged at %d, and now: %v %v", id, sequence, answer, err)
		}
		return true
	})
	queries := stockledgerv1connect.NewQueryServiceClient(p.d.connect())
	for _, clinic := range p.clinics {
		stock, err := queries.GetStock(context.Background(), &pb.GetStockRequest{ClinicId: clinic, LocationId: "store", MedicineId: "zinc", Read: &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG}})
		if err != nil {
			p.d.tb.Fatal(err)
		}
		if got := units - stock.GetTotals().GetAvailable(); got != done[clinic] {
			p.d.tb.Errorf("%d units were given out by %d commands at %s", got, done[clinic], clinic)
		}
		p.d.verify(clinic)
	}
}

// members asks a node who is there and who leads.
func (d *devCluster) members(which int) (names []string, leader string) {
	answer, err := stockledgerv1connect.NewAdminServiceClient(connectTo(d.nodes[which])).GetCluster(context.Background(), &pb.GetClusterRequest{})
	if err != nil {
		return nil, ""
	}
	for _, n := range answer.GetNodes() {
		names = append(names, n.GetName())
		if n.GetId() == answer.GetLeaderId() {
			leader = n.GetName()
		}
	}
	slices.Sort(names)
	return names, leader
}

func (d *devCluster) complete() bool {
	for i := range d.nodes {
		if names, leader := d.members(i); !slices.Equal(names, []string{"a", "b", "c"}) || leader == "" {
			return false
		}
	}
	return true
}

const (
	clusterKills   = 20
	clusterClients = 12
)

// TestAnyNodeMayDie kills the nodes of a cluster in turn, each with its etcd
// member, twenty times under load, and then restarts them one after the other in
// good order. The clients' own retries hide all of it.
func TestAnyNodeMayDie(t *testing.T) {
	t.Parallel()
	const units = 1 << 40
	d := startDevCluster(t)
	eventually(d.tb, d.complete, "all nodes know each other")
	clinics := make([]string, 5)
	for i := range clinics {
		clinics[i] = d.clinic(units)
	}
	load := d.load(clusterClients, clinics)
	for kill := range clusterKills {
		load.more(100)
		d.end(kill%devClusterNodes, syscall.SIGKILL)
	}
	load.more(100)
	eventually(d.tb, d.complete, "all nodes are back")
	killed := load.again.Load()
	for which := range d.nodes {
		d.end(which, syscall.SIGTERM)
		load.more(100)
	}
	eventually(d.tb, d.complete, "all nodes are back after the rolling restart")
	load.check(units)
	out, err := exec.Command(d.binary, "cluster", "status", "--server", "http://"+d.nodes[1].Address, "--token", d.nodes[1].Token).CombinedOutput()
	if err != nil || strings.Count(string(out), "127.0.0.1:") < devClusterNodes || !strings.Contains(string(out), "leader, epoch") {
		t.Errorf("status: %v\n%s", err, out)
	}
	t.Logf("%d commands acknowledged; %d answers said to try again while nodes were killed, %d in the rolling restart", load.count.Load(), killed, load.again.Load()-killed)
}
