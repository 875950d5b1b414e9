package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
)

// serveCmd serves the API.
type serveCmd struct {
	databaseFlags
	nodeFlags
	Migrate        bool          `env:"STOCKLEDGER_MIGRATE" help:"Bring the schema up to date before serving. Safe on many nodes at once."`
	StartupTimeout time.Duration `default:"60s" env:"STOCKLEDGER_STARTUP_TIMEOUT" help:"How long to wait for the database at the start."`
}

// nodeFlags say how a node serves.
type nodeFlags struct {
	Listen          string        `default:"127.0.0.1:8080" env:"STOCKLEDGER_LISTEN" placeholder:"ADDRESS" help:"Address of the API: Connect, gRPC, gRPC-Web and JSON on one port. Default: 127.0.0.1:8080."`
	AdminListen     string        `default:"127.0.0.1:8081" env:"STOCKLEDGER_ADMIN_LISTEN" placeholder:"ADDRESS" help:"Address of /livez, /readyz and /metrics. They need no token: keep it private. Default: 127.0.0.1:8081."`
	IssuerKey       string        `default:"issuer.key" type:"path" env:"STOCKLEDGER_ISSUER_KEY" placeholder:"FILE" help:"Key that signs and checks tokens. Made on first start; give all nodes the same file. Default: issuer.key in the current folder."`
	PatientKey      string        `type:"path" env:"STOCKLEDGER_PATIENT_KEY" placeholder:"FILE" help:"Key that patients' names and texts are kept under. Made on first start; give all nodes the same file, and keep a copy: without it the texts are lost. Without this flag, commands that bring any are refused."`
	Services        []string      `env:"STOCKLEDGER_SERVICES" placeholder:"SERVICE,..." help:"What this process serves: inventory, pharmacy or both. Default: inventory,pharmacy. One with pharmacy alone has its commands executed by the nodes that serve inventory, which it finds in the etcd cluster that it shares with them."`
	AllowedOrigins  []string      `env:"STOCKLEDGER_ALLOWED_ORIGINS" placeholder:"ORIGIN" help:"Web origins whose pages may call the API from a browser."`
	WriteConns      int           `default:"8" env:"STOCKLEDGER_WRITE_CONNECTIONS" help:"Database connections for commands."`
	ReadConns       int           `default:"16" env:"STOCKLEDGER_READ_CONNECTIONS" help:"Database connections for queries."`
	GroupCommands   int           `default:"0" env:"STOCKLEDGER_GROUP_COMMANDS" help:"Most commands in one transaction. 0: 1000 on PostgreSQL, 500 on CockroachDB."`
	GroupsInFlight  int           `default:"0" env:"STOCKLEDGER_GROUPS_IN_FLIGHT" help:"Most groups of commands executed at a time. 0: 2, or 1 on a PostgreSQL server with few predicate locks."`
	QueueCommands   int           `default:"0" env:"STOCKLEDGER_QUEUE_COMMANDS" help:"Most commands that may wait for one clinic. 0: 4000."`
	CachedDocuments int           `default:"400000" env:"STOCKLEDGER_CACHED_DOCUMENTS" help:"Most documents of clinics' states kept in memory. The node's memory limit is 256 MiB and 400 bytes for each, unless GOMEMLIMIT says otherwise."`
	CachedAnswers   int           `default:"100000" env:"STOCKLEDGER_CACHED_ANSWERS" help:"Most answers to queries kept in memory."`
	RedisURL        string        `env:"STOCKLEDGER_REDIS_URL" placeholder:"URL" help:"Redis server through which nodes share answers to queries, for example redis://:password@redis:6379/0. Nothing fails without it."`
	ReplicaURLs     []string      `name:"replica-url" env:"STOCKLEDGER_REPLICA_URLS" placeholder:"URL" help:"Streaming replica of a PostgreSQL database, for reads with CONSISTENCY_BOUNDED. May be repeated. CockroachDB needs none: it reads from its followers."`
	ReplicaMaxLag   time.Duration `default:"100ms" env:"STOCKLEDGER_REPLICA_MAX_LAG" help:"How far a replica may be behind and still be read."`
	NoReadModels    bool          `env:"STOCKLEDGER_NO_READ_MODELS" help:"Leave it to other nodes to keep the read models up that reports read. At least one has to do it."`
	CheckpointDir   string        `type:"path" env:"STOCKLEDGER_CHECKPOINT_DIR" placeholder:"FOLDER" help:"Have the job \"checkpoints\" write a signed checkpoint of each journal here once a day. The node that leads does it: give all nodes the same folder. See stockledger checkpoint --help."`
	DrainDelay      time.Duration `default:"0s" env:"STOCKLEDGER_DRAIN_DELAY" help:"Time between readiness going off and the port closing, for load balancers to notice."`
	GracePeriod     time.Duration `default:"25s" env:"STOCKLEDGER_GRACE_PERIOD" help:"How long a shutdown may take after the drain delay; the last fifth of it, 2s at most, is for closing."`
	clusterFlags
	webhookFlags
	Profiling bool `env:"STOCKLEDGER_PROFILING" help:"Serve profiles at /debug/pprof on the admin address."`
}

// Help shows an example.
func (serveCmd) Help() string {
	return `Example:

  stockledger serve --database-url postgresql://ledger@db1:26257,db2:26257/stockledger --listen :8080 --admin-listen :8081 --issuer-key /etc/stockledger/issuer.key

All stock is in the database. Nodes know each other through etcd, which also elects the one that runs the background jobs: by default a node runs an etcd member of its own, in --etcd-dir, which is right for one node. Several nodes need one etcd cluster: name one that runs already with --etcd-endpoints, or give three nodes a member each with --etcd-initial-cluster. A second node that does neither is refused; with --no-cluster it serves and takes no part.

It stops cleanly on SIGTERM: it answers what it has accepted, and refuses the rest.`
}

// Run serves until the process is told to stop.
func (c *serveCmd) Run(ctx context.Context, log *slog.Logger) error {
	if c.Migrate {
		if err := awaitDatabase(ctx, log, c.StartupTimeout, c.migrate); err != nil {
			return err
		}
	}
	var n *node
	err := awaitDatabase(ctx, log, c.StartupTimeout, func(ctx context.Context) (err error) {
		n, err = openNode(ctx, c.databaseFlags, c.nodeFlags, log)
		return err
	})
	if err != nil {
		return err
	}
	return n.run(ctx, func() {})
}

// awaitDatabase tries until the database is there. Patience bounds the wait for
// it and not the work: a migration that has begun is not cut off.
func awaitDatabase(ctx context.Context, log *slog.Logger, patience time.Duration, try func(context.Context) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for began := time.Now(); ; {
		err := try(ctx)
		if err == nil || !errors.Is(err, txn.ErrUnavailable) {
			return err
		}
		if time.Since(began) >= patience {
			return fmt.Errorf("no database within %s (--startup-timeout): %w", patience, err)
		}
		log.Warn("the database is not there yet; trying again", "error", err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// node is a running server with what it stands on, in the order of their start.
type node struct {
	log       *slog.Logger
	directory *txn.Directory
	db        *txn.DB // with the directory
	executors *txn.Executors
	feed      *txn.Feed
	cache     *txn.Cache
	replicas  *txn.Replicas
	issuer    *rpc.Issuer
	server    *rpc.Server
	router    *cluster.Router
	// dispatcher has operations carried out.
	dispatcher *cluster.Dispatcher
	peerTLS    *tls.Config
	runner     *cluster.Runner
	joined     atomic.Pointer[cluster.Cluster]
	flags      clusterFlags
	parts      []rpc.Part
	drainDelay time.Duration
	grace      time.Duration
	// courier delivers events to webhooks.
	courier *cluster.Courier
}

// What a node needs beside its cached documents, and what one of those takes.
const (
	baseMemory     = 256 << 20
	documentMemory = 400
)

// tuneMemory lets the heap grow to what the node was given before it is
// collected: requests leave much short-lived garbage, and collecting it early
// costs latency. GOGC and GOMEMLIMIT, where they are set, have the last word.
func tuneMemory(cachedDocuments int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(baseMemory + documentMemory*int64(cachedDocuments))
	}
}

// openNode opens the database and builds a server that does not listen yet. The
// key comes last: a node that can't start leaves none behind.
func openNode(ctx context.Context, databases databaseFlags, flags nodeFlags, log *slog.Logger) (*node, error) {
	parts, err := flags.parts()
	if err != nil {
		return nil, err
	}
	directory, err := databases.open(ctx, txn.Config{MaxWriteConns: flags.WriteConns, MaxReadConns: flags.ReadConns, ShardsMayBeAway: true, Log: log})
	if err != nil {
		return nil, err
	}
	directory.Near(flags.Region)
	n := &node{log: log, db: directory.Main(), directory: directory, flags: flags.clusterFlags, parts: parts, drainDelay: flags.DrainDelay, grace: flags.GracePeriod}
	if err := n.build(ctx, flags); err != nil {
		directory.Close()
		return nil, err
	}
	return n, nil
}

func (n *node) build(ctx context.Context, flags nodeFlags) error {
	current, wanted, err := n.db.SchemaVersion(ctx)
	if err != nil {
		return err
	}
	if current < wanted {
		return fmt.Errorf("the database's schema is at version %d and this release needs %d: run \"stockledger migrate up\", or serve with --migrate", current, wanted)
	}
	if err := n.directory.CheckMain(ctx); err != nil {
		return err
	}
	if n.issuer, err = rpc.OpenIssuer(flags.IssuerKey); err != nil {
		return err
	}
	tuneMemory(flags.CachedDocuments)
	var keyring *rpc.Keyring
	if flags.PatientKey != "" {
		if keyring, err = rpc.OpenKeyring(flags.PatientKey); err != nil {
			return err
		}
	}
	n.feed = txn.NewFeed(n.directory, lookAtHeadsEvery)
	if n.cache, err = txn.NewCache(n.directory, txn.CacheConfig{Entries: flags.CachedAnswers, RedisURL: flags.RedisURL, Log: n.log}); err != nil {
		return err
	}
	metrics := []func(prometheus.Registerer){n.cache.RegisterMetrics}
	queries := txn.NewQueries(n.directory)
	queries.UseCache(n.cache)
	n.replicas, err = txn.OpenReplicas(ctx, n.db, txn.ReplicasConfig{URLs: flags.ReplicaURLs, MaxLag: flags.ReplicaMaxLag, MaxConns: flags.ReadConns, Log: n.log})
	if err != nil {
		return err
	}
	queries.UseReplicas(n.replicas)
	metrics = append(metrics, n.replicas.RegisterMetrics)
	models := &txn.ReadModelsConfig{Log: n.log}
	if flags.NoReadModels || !n.executes() {
		models = nil
	}
	n.executors = txn.NewExecutors(n.directory, txn.ExecutorConfig{
		GroupCommands: flags.GroupCommands, GroupsInFlight: flags.GroupsInFlight, QueueCommands: flags.QueueCommands,
		CachedDocuments: flags.CachedDocuments, Feed: n.feed, Cache: n.cache, Log: n.log,
	}, models)
	if n.peerTLS, err = cluster.PeerTLS(n.issuer.Secret("nodes")); err != nil {
		return err
	}
	n.router = n.newRouter()
	operations := txn.NewOperations(n.directory)
	n.dispatcher = cluster.NewDispatcher(operations, n.executors, n.router, cluster.DispatcherConfig{Log: n.log})
	webhooks := n.webhooks(queries, flags.webhookFlags)
	if err := n.openRunner(flags.CheckpointDir); err != nil {
		return err
	}
	metrics = append(metrics, n.executors.RegisterMetrics, n.router.RegisterMetrics, n.runner.RegisterMetrics, n.dispatcher.RegisterMetrics, n.courier.RegisterMetrics)
	n.server, err = rpc.NewServer(rpc.Config{
		Listen: flags.Listen, AdminListen: flags.AdminListen, Parts: n.parts, AllowedOrigins: flags.AllowedOrigins,
		DrainDelay: flags.DrainDelay, ShutdownTimeout: flags.GracePeriod, Profiling: flags.Profiling, Log: n.log,
	}, rpc.Deps{
		Executor: n.router, Reachable: n.reachable(), Queries: queries, Feed: n.feed, Database: n.db, Issuer: n.issuer,
		Patients: txn.NewPatients(n.directory), Keyring: keyring, Administration: n.administration(),
		Operations: rpc.OperationQueue{Store: operations, Encode: cluster.EncodeSubmission, Submitted: n.dispatcher.Submitted},
		Webhooks:   webhooks,
		Metrics:    metrics,
	})
	if err == nil {
		n.dispatcher.ReadReports(n.server)
	}
	return err
}

// openRunner prepares the background jobs, for when this node leads.
func (n *node) openRunner(checkpoints string) error {
	chores := txn.NewChores(n.directory, n.router, n.log)
	all := cluster.StandardJobs(n.directory, chores)
	if checkpoints != "" {
		if err := makeCheckpointDir(checkpoints); err != nil {
			return err
		}
		all = append(all, cluster.CheckpointJob(chores, checkpointer(n.directory, n.issuer, checkpoints)))
	}
	jobs, err := n.flags.jobs(all)
	if err != nil {
		return err
	}
	n.runner, err = cluster.NewRunner(n.db, jobs, cluster.RunnerConfig{Log: n.log})
	return err
}

// lookAtHeadsEvery is how often a node looks for what other nodes committed in
// clinics that somebody watches. Its own commits it tells at once.
const lookAtHeadsEvery = 200 * time.Millisecond

// followRecallsEvery is how often a node looks for recalls that another one left
// behind. Its own it follows up at once.
const followRecallsEvery = 10 * time.Second

// run serves until ctx ends and then stops in the reverse order of the start.
// It calls listening once the addresses are known.
func (n *node) run(ctx context.Context, listening func()) error {
	if err := n.server.Listen(ctx); err != nil {
		n.directory.Close()
		return err
	}
	var peers *cluster.PeerServer
	if !n.flags.NoCluster && n.executes() {
		var err error
		if peers, err = n.listenForPeers(ctx); err != nil {
			n.directory.Close()
			return err
		}
	}
	n.log.Info("serving", "api", n.server.Addr(), "admin", n.server.AdminAddr(), "database", n.db.Server().Kind, "version", version)
	listening()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work := n.begin(ctx, peers, cancel)
	err := n.server.Serve(ctx)
	grace, end := context.WithTimeout(context.WithoutCancel(ctx), n.drainDelay+n.grace)
	defer end()
	if err = errors.Join(work.refused(), err, n.shutdown(grace, peers, work)); err == nil {
		n.log.Info("stopped")
	}
	return err
}

// begin starts what runs beside the server. What takes new work ends with ctx,
// and the rest when it is told to stop: requests under way still need it.
func (n *node) begin(ctx context.Context, peers *cluster.PeerServer, cancel func()) *background {
	work := newBackground(ctx)
	if n.executes() {
		work.Go(func(following context.Context) { n.executors.Run(following, followRecallsEvery) })
		work.Go(func(context.Context) { n.dispatcher.Run(ctx) })
	}
	work.Go(func(following context.Context) {
		n.feed.Run(following, func(err error) { n.log.Warn("the heads cannot be read; trying again", "error", err) })
	})
	work.Go(func(following context.Context) {
		n.cache.Run(following, func(err error) {
			n.log.Warn("journals cannot be followed; cached answers grow older, as they say", "error", err)
		})
	})
	work.Go(func(following context.Context) { n.replicas.Run(following) })
	if n.flags.NoCluster {
		return work
	}
	if n.executes() { // without a cluster every such node would deliver everything
		work.Go(func(context.Context) { n.courier.Run(ctx) })
	}
	work.Go(func(following context.Context) {
		if err := n.takePart(ctx, following, peers); err != nil {
			work.refuse(err)
			cancel()
		}
	})
	return work
}
