package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
)

// clusterFlags say how a node takes part in a cluster.
type clusterFlags struct {
	NoCluster          bool              `env:"STOCKLEDGER_NO_CLUSTER" help:"Take no part in a cluster: this node serves, and leaves the background jobs and the delivery to webhooks to others. At least one node has to do them."`
	NodeName           string            `env:"STOCKLEDGER_NODE_NAME" placeholder:"NAME" help:"Name of this node, which stays the same when it starts again. Default: the host's name and the API's port."`
	PeerListen         string            `default:"127.0.0.1:0" env:"STOCKLEDGER_PEER_LISTEN" placeholder:"ADDRESS" help:"Address at which this node takes commands from other nodes, under mutual TLS with keys that come from the issuer key. Default: a free port on 127.0.0.1, which only nodes on this machine reach."`
	PeerAdvertise      string            `env:"STOCKLEDGER_PEER_ADVERTISE" placeholder:"ADDRESS" help:"Address at which other nodes reach --peer-listen. Default: the same, with the host's name where it listens on all addresses."`
	Region             string            `env:"STOCKLEDGER_REGION" help:"The region that this node is in. Nodes are home to the clinics of shards in their region first, and place new clinics there."`
	EtcdEndpoints      []string          `env:"STOCKLEDGER_ETCD_ENDPOINTS" placeholder:"URL" help:"An etcd cluster that runs already: https://etcd1:2379,https://etcd2:2379. Without it, this node runs a member of its own."`
	EtcdCA             string            `name:"etcd-ca" type:"path" env:"STOCKLEDGER_ETCD_CA" placeholder:"FILE" help:"Certificates that etcd's is signed by, PEM."`
	EtcdCert           string            `type:"path" env:"STOCKLEDGER_ETCD_CERT" placeholder:"FILE" help:"This node's certificate for etcd, PEM."`
	EtcdKey            string            `type:"path" env:"STOCKLEDGER_ETCD_KEY" placeholder:"FILE" help:"The certificate's key, PEM."`
	EtcdUsername       string            `env:"STOCKLEDGER_ETCD_USERNAME" help:"Name for etcd's authentication."`
	EtcdPassword       string            `env:"STOCKLEDGER_ETCD_PASSWORD" help:"Password for etcd's authentication."`
	EtcdDir            string            `default:"stockledger.etcd" type:"path" env:"STOCKLEDGER_ETCD_DIR" placeholder:"FOLDER" help:"Where the etcd member of this node keeps its data. Default: stockledger.etcd in the current folder."`
	EtcdName           string            `env:"STOCKLEDGER_ETCD_NAME" help:"Name of this node's etcd member in --etcd-initial-cluster."`
	EtcdListenClient   string            `env:"STOCKLEDGER_ETCD_LISTEN_CLIENT" placeholder:"ADDRESS" help:"Address at which this node's etcd member serves other nodes, which name it in --etcd-endpoints. It is not encrypted: keep it private. Default: a free port on 127.0.0.1."`
	EtcdListenPeer     string            `env:"STOCKLEDGER_ETCD_LISTEN_PEER" placeholder:"ADDRESS" help:"Address at which this node's etcd member talks to the others. Default: a free port on 127.0.0.1."`
	EtcdInitialCluster string            `env:"STOCKLEDGER_ETCD_INITIAL_CLUSTER" placeholder:"NAME=URL,..." help:"The etcd members of all nodes at the very first start, for example a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380. With https they talk under mutual TLS, with keys that come from the issuer key."`
	EtcdInitialState   string            `name:"etcd-initial-cluster-state" enum:"new,existing" default:"new" env:"STOCKLEDGER_ETCD_INITIAL_CLUSTER_STATE" help:"new: the members of --etcd-initial-cluster make a cluster. existing: this one joins in the place of a lost one, for which stockledger cluster replace-member made room."`
	JobSchedule        map[string]string `env:"STOCKLEDGER_JOB_SCHEDULE" placeholder:"JOB=CRON" help:"When a background job runs, in place of its own schedule: minute, hour, day of month, month, day of week; never: by hand alone. All nodes need the same. Example: --job-schedule 'reconcile=0 3 * * *'."`
	JobTimeZone        string            `default:"UTC" env:"STOCKLEDGER_JOB_TIME_ZONE" help:"Time zone of the jobs' schedules, for example Africa/Nairobi. Default: UTC."`
}

// etcd says which etcd cluster the node belongs to. secret is what the nodes
// share.
func (f *clusterFlags) etcd(secret []byte) cluster.EtcdConfig {
	return cluster.EtcdConfig{
		Existing: f.EtcdInitialState == "existing", Secret: secret,
		Endpoints: f.EtcdEndpoints, CAFile: f.EtcdCA, CertFile: f.EtcdCert, KeyFile: f.EtcdKey, Username: f.EtcdUsername, Password: f.EtcdPassword,
		Dir: f.EtcdDir, Name: f.EtcdName, ListenClient: f.EtcdListenClient, ListenPeer: f.EtcdListenPeer, InitialCluster: f.EtcdInitialCluster,
	}
}

// neverScheduled stands in the place of a schedule for jobs that run by hand.
const neverScheduled = "never"

// jobs are the standard jobs with the schedules that the flags give them.
func (f *clusterFlags) jobs(all []cluster.Job) ([]cluster.Job, error) {
	zone, err := time.LoadLocation(f.JobTimeZone)
	if err != nil {
		return nil, fmt.Errorf("--job-time-zone %s: %w", f.JobTimeZone, err)
	}
	var names []string
	for i := range all {
		all[i].TimeZone = zone
		names = append(names, all[i].Name)
		if schedule, ok := f.JobSchedule[all[i].Name]; ok {
			if all[i].Schedule = schedule; schedule == neverScheduled {
				all[i].Schedule = ""
			}
		}
	}
	for name := range f.JobSchedule {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("--job-schedule: there is no job %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return all, nil
}

// self is what other nodes know of this one, whose addresses are listened on.
func (f *clusterFlags) self(api, peer string) (cluster.Node, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	name := f.NodeName
	if name == "" {
		_, port, err := net.SplitHostPort(api)
		if err != nil {
			return cluster.Node{}, err
		}
		name = host + "-" + port
	}
	if f.PeerAdvertise != "" {
		peer = f.PeerAdvertise
	} else if at, port, err := net.SplitHostPort(peer); err == nil && net.ParseIP(at).IsUnspecified() {
		peer = net.JoinHostPort(host, port)
	}
	return cluster.Node{
		ID: name + "-" + strings.ToLower(rand.Text()[:8]), Name: name, API: api, Peer: peer, Region: f.Region, Version: version, Started: time.Now(),
	}, nil
}

// administration is what AdminService answers from.
func (n *node) administration() rpc.Administration {
	a := rpc.Administration{Jobs: txn.NewJobs(n.db), Leader: n.db.Leader, Known: n.knownJobs}
	if n.flags.NoCluster {
		return a
	}
	a.Cluster = func() rpc.ClusterState {
		c := n.joined.Load()
		if c == nil {
			return rpc.ClusterState{}
		}
		state := rpc.ClusterState{Leader: c.Leader(), Pins: c.Pins()}
		for _, other := range c.Nodes() {
			state.Nodes = append(state.Nodes, rpc.ClusterNode{
				ID: other.ID, Name: other.Name, API: other.API, Region: other.Region, Version: other.Version, Started: other.Started,
				Waiting: other.Load.Waiting, Clinics: other.Load.Clinics, Parts: partsOf(other),
			})
		}
		return state
	}
	homes := homeCounter{list: txn.NewChores(n.directory, n.router, n.log).Clinics, home: func(clinic ledger.ClinicID) (cluster.Node, bool) {
		if c := n.joined.Load(); c != nil {
			return c.Home(clinic)
		}
		return cluster.Node{}, false
	}}
	a.Homes = homes.count
	a.EtcdEndpoints = func(ctx context.Context) []string {
		if c := n.joined.Load(); c != nil {
			return c.EtcdAddresses(ctx)
		}
		return nil
	}
	a.Home = func(clinic ledger.ClinicID) string {
		if c := n.joined.Load(); c != nil {
			home, _ := c.Home(clinic)
			return home.ID
		}
		return ""
	}
	a.Pin = func(ctx context.Context, clinic ledger.ClinicID, name string) error {
		if c := n.joined.Load(); c != nil {
			return c.Pin(ctx, clinic, name)
		}
		return errors.New("the node is still joining its cluster")
	}
	return a
}

func (n *node) knownJobs() []rpc.JobInfo {
	var infos []rpc.JobInfo
	for _, job := range n.runner.Jobs() {
		infos = append(infos, rpc.JobInfo{Name: job.Name, About: job.About, Schedule: job.Schedule, TimeZone: job.TimeZone.String(), Next: job.Next})
	}
	return infos
}

// joinTimeout bounds one attempt to join the cluster.
const joinTimeout = 30 * time.Second

// listenForPeers takes commands from other nodes, which hear of this one once it
// has joined the cluster.
func (n *node) listenForPeers(ctx context.Context) (*cluster.PeerServer, error) {
	peers, err := cluster.ListenForPeers(ctx, n.flags.PeerListen, n.peerTLS, n.executors, n.dispatcher.Wake, n.log)
	if err != nil {
		return nil, err
	}
	go func() {
		if err := peers.Serve(); err != nil {
			n.log.Error("other nodes are not served any more; they execute this node's clinics themselves", "error", err)
		}
	}()
	return peers, nil
}

// takePart makes the node part of its cluster until following ends, unless ctx
// ends first. Where etcd is not there yet, it is waited for: meanwhile the node
// serves as one that knows no other. peers is where it takes commands, if it
// does.
func (n *node) takePart(ctx, following context.Context, peers *cluster.PeerServer) error {
	peer := ""
	if peers != nil {
		peer = peers.Addr()
	}
	self, err := n.flags.self(n.server.Addr(), peer)
	if err != nil {
		return err
	}
	self.Services = n.partNames()
	lead := func(ctx context.Context) { n.runner.Lead(ctx, self.ID) }
	if !n.executes() {
		self.Peer, lead = "", nil
	}
	for ctx.Err() == nil {
		c, err := n.join(ctx, self)
		switch {
		case err == nil:
			n.joined.Store(c)
			if ctx.Err() == nil {
				c.Run(following, lead)
			}
			return nil
		case !errors.Is(err, cluster.ErrAway) && ctx.Err() == nil:
			return err
		}
		n.log.Warn("this node serves, and is not part of its cluster yet; trying again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

func (n *node) join(ctx context.Context, self cluster.Node) (*cluster.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return cluster.Join(ctx, n.db, cluster.Config{
		Etcd: n.flags.etcd(n.issuer.Secret("nodes")), Self: self, Log: n.log,
		Load: func() cluster.Load {
			waiting, clinics := n.executors.Load()
			return cluster.Load{Waiting: waiting, Clinics: clinics}
		},
		Region: n.directory.Region,
		Homes:  func(homes *cluster.Homes) { n.router.Follow(self.ID, homes) },
	})
}
