package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// The keys in etcd.
const (
	nodesPrefix  = "/stockledger/nodes/"
	leaderPrefix = "/stockledger/leader"
	pinsPrefix   = "/stockledger/pins/"
)

// Node is a node as the others know it.
type Node struct {
	// ID names this run of the node's process.
	ID string `json:"id"`
	// Name stays the same when the node starts again, so that it becomes home to
	// the same clinics.
	Name string `json:"name"`
	// API is the address that it serves the API on.
	API string `json:"api"`
	// Peer is the address at which it takes commands from other nodes; without
	// one it is home to no clinic.
	Peer   string `json:"peer,omitempty"`
	Region string `json:"region,omitempty"`
	// Services are the parts of the API that it serves; none: all of them, as
	// releases do that do not tell.
	Services []string  `json:"services,omitempty"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Load     Load      `json:"load"`
}

// Load is how busy a node is.
type Load struct {
	// Waiting commands are not executed yet.
	Waiting int `json:"waiting"`
	// Clinics are those whose state it keeps.
	Clinics int `json:"clinics"`
}

// Config says how a node takes part in a cluster.
type Config struct {
	Etcd EtcdConfig
	Self Node
	// LeaseTTL is how long a node that is not heard of is held to be there, in
	// whole seconds, and about how long a killed leader is waited for. Default 5 s.
	LeaseTTL time.Duration
	// Load tells how busy this node is. May be nil.
	Load func() Load
	// Region tells the region of a clinic, whose nodes are preferred as its home. May
	// be nil: it does not matter.
	Region func(ledger.ClinicID) string
	// Homes is called with the homes of all clinics whenever they change. May be
	// nil.
	Homes func(*Homes)
	// Log receives what an operator should know. Default slog.Default().
	Log *slog.Logger
}

// Cluster is a node's part in the cluster.
type Cluster struct {
	cfg  Config
	db   *txn.DB
	etcd *etcd

	mu      sync.Mutex
	nodes   map[string]Node
	pins    map[ledger.ClinicID]string
	homes   *Homes
	leader  string
	leading bool
	leaving bool
	resign  context.CancelFunc // once Run has begun
	left    chan struct{}
}

// ErrAway means that etcd or the database did not answer in time: a later try
// may find them.
var ErrAway = errors.New("cluster: etcd or the database does not answer")

// Join connects to etcd, or starts it, and makes sure that the database belongs
// to the same etcd cluster. It fails with [ErrAway] where trying again may help.
func Join(ctx context.Context, db *txn.DB, cfg Config) (*Cluster, error) {
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	e, err := openEtcd(ctx, cfg.Etcd)
	if err != nil {
		return nil, away(err)
	}
	c := &Cluster{cfg: cfg, db: db, etcd: e, homes: NewHomes(nil, nil, nil)}
	if err := c.recognize(ctx); err != nil {
		return nil, errors.Join(away(err), e.close())
	}
	return c, nil
}

func away(err error) error {
	code := status.Code(err)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, txn.ErrUnavailable) || code == codes.Unavailable || code == codes.DeadlineExceeded {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// recognize compares the etcd cluster with the one that the database belongs to.
func (c *Cluster) recognize(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	id, err := c.etcd.clusterID(ctx)
	if err != nil {
		return err
	}
	return c.db.JoinCluster(ctx, id)
}

// EtcdAddresses are where clients reach etcd's members, as far as they answer.
func (c *Cluster) EtcdAddresses(ctx context.Context) []string { return c.etcd.addresses(ctx) }

// Self is this node.
func (c *Cluster) Self() Node { return c.cfg.Self }

// Nodes returns the nodes that are there, by their ids, as far as this one has
// heard.
func (c *Cluster) Nodes() []Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := make([]Node, 0, len(c.nodes))
	for _, n := range c.nodes {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return nodes
}

// Home is the node that executes a clinic's commands, as far as this one knows.
func (c *Cluster) Home(clinic ledger.ClinicID) (Node, bool) {
	c.mu.Lock()
	homes := c.homes
	c.mu.Unlock()
	return homes.Of(clinic)
}

// Pins are the clinics whose home was chosen by hand, with the homes' names.
func (c *Cluster) Pins() map[ledger.ClinicID]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.pins)
}

// Pin makes the node with a name the home of a clinic for as long as it is
// there. An empty name takes that back.
func (c *Cluster) Pin(ctx context.Context, clinic ledger.ClinicID, name string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var err error
	if name == "" {
		_, err = c.etcd.Delete(ctx, pinsPrefix+string(clinic))
	} else {
		_, err = c.etcd.Put(ctx, pinsPrefix+string(clinic), name)
	}
	if err != nil {
		return fmt.Errorf("cluster: pin clinic %s: %w", clinic, err)
	}
	return nil
}

// Leader is the id of the node that runs the jobs, empty where none is known.
func (c *Cluster) Leader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

// Leading reports whether this node runs the jobs, as far as it knows.
func (c *Cluster) Leading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leading
}

// rejoinAfter is how long a node waits until it tries again to be part of a
// cluster that it lost.
const rejoinAfter = time.Second

// Run keeps the node in the cluster until ctx ends, and calls lead whenever it
// was elected. lead must return when its context ends, which it does when the
// lease is lost. A node with a lead of nil does not stand for election. After
// Run, the node has left.
func (c *Cluster) Run(ctx context.Context, lead func(ctx context.Context)) {
	var watching sync.WaitGroup
	watching.Go(func() { c.watch(ctx) })
	c.stay(ctx, lead)
	watching.Wait()
}

// stay is part of the cluster until ctx ends or the node leaves.
func (c *Cluster) stay(ctx context.Context, lead func(ctx context.Context)) {
	ctx, resign := context.WithCancel(ctx)
	defer resign()
	left := make(chan struct{})
	defer close(left)
	c.mu.Lock()
	c.resign, c.left = resign, left
	if c.leaving {
		resign()
	}
	c.mu.Unlock()
	away := false
	for ctx.Err() == nil {
		err := c.takePart(ctx, lead)
		if ctx.Err() != nil {
			break
		}
		if !away {
			c.cfg.Log.Warn("this node has lost its place in the cluster; joining again", "error", err)
		}
		away = true
		pause(ctx, rejoinAfter)
	}
}

// Leave takes this node out of the cluster while Run goes on: at once it is home
// to no clinic any more, and it leads no longer once lead has returned, which
// Leave waits for until ctx ends. The node still hears who else is there, and
// brings them what it is asked for.
func (c *Cluster) Leave(ctx context.Context) error {
	c.mu.Lock()
	c.leaving = true
	resign, left := c.resign, c.left
	c.mu.Unlock()
	if resign == nil {
		return nil // Run takes no part
	}
	resign()
	telling, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := c.etcd.Delete(telling, nodesPrefix+c.cfg.Self.ID); err != nil {
		c.cfg.Log.Debug("the others are not told that this node leaves; its lease ends by itself", "error", err)
	}
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cluster: the job under way did not stop: %w", ctx.Err())
	}
}

// Close disconnects from etcd and stops the embedded member.
func (c *Cluster) Close() error { return c.etcd.close() }

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// takePart registers the node under a lease and stands for election until the
// lease is lost or ctx ends.
func (c *Cluster) takePart(ctx context.Context, lead func(context.Context)) error {
	session, err := c.session(ctx)
	if err != nil {
		return err
	}
	held, release := context.WithCancel(ctx)
	defer release()
	go func() {
		defer release()
		select {
		case <-session.Done():
		case <-held.Done():
		}
	}()
	defer c.leave(session)
	if err := c.register(held, session.Lease()); err != nil {
		return err
	}
	go c.keepRegistered(held, session.Lease())
	if lead == nil {
		<-held.Done()
		return errors.New("the lease was lost")
	}
	for {
		election := concurrency.NewElection(session, leaderPrefix)
		if err := election.Campaign(held, c.cfg.Self.ID); err != nil {
			return fmt.Errorf("stand for election: %w", err)
		}
		c.lead(held, lead)
		if held.Err() != nil {
			return errors.New("the lease was lost")
		}
		// It gave up: let somebody else.
		if err := election.Resign(held); err != nil {
			return fmt.Errorf("resign: %w", err)
		}
		pause(held, rejoinAfter)
	}
}

// register tells the others who this node is and how busy.
func (c *Cluster) register(ctx context.Context, lease clientv3.LeaseID) error {
	self := c.cfg.Self
	if c.cfg.Load != nil {
		self.Load = c.cfg.Load()
	}
	text, err := json.Marshal(self)
	if err != nil {
		return err
	}
	if _, err := c.etcd.Put(ctx, nodesPrefix+self.ID, string(text), clientv3.WithLease(lease)); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	return nil
}

// registerEvery is how often a node tells how busy it is.
const registerEvery = 10 * time.Second

func (c *Cluster) keepRegistered(ctx context.Context, lease clientv3.LeaseID) {
	tick := time.NewTicker(registerEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := c.register(ctx, lease); err != nil && ctx.Err() == nil {
				c.cfg.Log.Debug("the load cannot be told", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cluster) session(ctx context.Context) (*concurrency.Session, error) {
	ttl := max(1, int(c.cfg.LeaseTTL/time.Second))
	granting, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	lease, err := c.etcd.Grant(granting, int64(ttl))
	if err != nil {
		return nil, fmt.Errorf("ask etcd for a lease: %w", err)
	}
	// Leaving must work after ctx has ended.
	return concurrency.NewSession(c.etcd.Client, concurrency.WithTTL(ttl), concurrency.WithLease(lease.ID), concurrency.WithContext(context.WithoutCancel(ctx)))
}

// leave takes back the lease, and with it everything that this node put under
// it. Where etcd is away, the lease ends by itself.
func (c *Cluster) leave(session *concurrency.Session) {
	session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := c.etcd.Revoke(ctx, session.Lease()); err != nil {
		c.cfg.Log.Debug("the lease in etcd ends by itself", "error", err)
	}
}

func (c *Cluster) lead(ctx context.Context, lead func(context.Context)) {
	set := func(leading bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.leading = leading
	}
	set(true)
	defer set(false)
	lead(ctx)
}

// watch follows who is there and who leads.
func (c *Cluster) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.follow(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Debug("etcd cannot be followed; trying again", "error", err)
		}
		pause(ctx, rejoinAfter)
	}
}

func (c *Cluster) follow(ctx context.Context) error {
	const prefix = "/stockledger/"
	reading, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	all, err := c.etcd.Get(reading, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	seen := newDirectory()
	for _, kv := range all.Kvs {
		seen.put(string(kv.Key), kv.Value, kv.CreateRevision)
	}
	c.see(seen)
	following, stop := context.WithCancel(ctx)
	defer stop()
	for change := range c.etcd.Watch(clientv3.WithRequireLeader(following), prefix, clientv3.WithPrefix(), clientv3.WithRev(all.Header.Revision+1)) {
		if err := change.Err(); err != nil {
			return err
		}
		for _, event := range change.Events {
			if event.Type == clientv3.EventTypeDelete {
				seen.remove(string(event.Kv.Key))
				continue
			}
			seen.put(string(event.Kv.Key), event.Kv.Value, event.Kv.CreateRevision)
		}
		c.see(seen)
	}
	return ctx.Err()
}

// directory is what etcd says of nodes and candidates.
type directory struct {
	nodes      map[string]Node
	candidates map[string]candidate
	pins       map[ledger.ClinicID]string
}

type candidate struct {
	id    string
	since int64 // the revision: the first of them leads
}

func newDirectory() *directory {
	return &directory{make(map[string]Node), make(map[string]candidate), make(map[ledger.ClinicID]string)}
}

func (d *directory) put(key string, value []byte, created int64) {
	if id, ok := strings.CutPrefix(key, nodesPrefix); ok {
		var n Node
		if json.Unmarshal(value, &n) == nil && n.ID == id {
			d.nodes[key] = n
		}
		return
	}
	if clinic, ok := strings.CutPrefix(key, pinsPrefix); ok {
		d.pins[ledger.ClinicID(clinic)] = string(value)
		return
	}
	if strings.HasPrefix(key, leaderPrefix) {
		d.candidates[key] = candidate{string(value), created}
	}
}

func (d *directory) remove(key string) {
	delete(d.nodes, key)
	delete(d.candidates, key)
	if clinic, ok := strings.CutPrefix(key, pinsPrefix); ok {
		delete(d.pins, ledger.ClinicID(clinic))
	}
}

func (d *directory) leader() string {
	var first candidate
	for _, c := range d.candidates {
		if first.id == "" || c.since < first.since {
			first = c
		}
	}
	return first.id
}

// see takes over what etcd says, and tells of new homes. Only the one who
// watches calls it.
func (c *Cluster) see(d *directory) {
	nodes := make(map[string]Node, len(d.nodes))
	there := make([]Node, 0, len(d.nodes))
	for _, n := range d.nodes {
		nodes[n.ID] = n
		there = append(there, n)
	}
	homes := NewHomes(there, maps.Clone(d.pins), c.cfg.Region)
	c.mu.Lock()
	moved := !homes.same(c.homes)
	c.nodes, c.pins, c.homes, c.leader = nodes, homes.pins, homes, d.leader()
	c.mu.Unlock()
	if moved && c.cfg.Homes != nil {
		c.cfg.Homes(homes)
	}
}
