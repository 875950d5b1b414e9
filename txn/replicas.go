package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// ReplicasConfig names a primary's replicas.
type ReplicasConfig struct {
	// URLs are connection URLs of streaming replicas of a PostgreSQL primary.
	URLs []string
	// MaxLag is how far a replica may be behind and still be read. Default
	// 100 ms.
	MaxLag time.Duration
	// MaxConns is the number of connections to each replica. Default 16.
	MaxConns int
	// Log receives what an operator should know. Default slog.Default().
	Log *slog.Logger
}

// Replicas are PostgreSQL's hot standbys, for BOUNDED reads.
//
// How far one is behind is measured by positions in the write-ahead log, not by
// its clock: what the primary had written at a moment, the replica has replayed
// by now, so it shows everything that was acknowledged until that moment. An
// idle primary does not look like a lag.
type Replicas struct {
	primary *DB
	cfg     ReplicasConfig
	list    []*replica
	turn    atomic.Uint32
	metrics *replicaMetrics

	mu    sync.Mutex
	marks []walMark // the latest, oldest first
}

// walMark is how far the primary had written at a moment.
type walMark struct {
	at       time.Time // before it was asked
	position walPosition
}

// replica is one of them.
type replica struct {
	name string // without the password
	db   *DB
	// current is the latest moment, in nanoseconds, of which it is known that
	// the replica shows everything acknowledged until then; 0: none.
	current atomic.Int64
	// What follows is of its own goroutine: how far it was when it was asked
	// last, and when it had answered; whether it is known to be a replica of our
	// primary; and whether the log says that it is left out.
	replayed   walPosition
	replayedAt time.Time
	known      bool
	troubled   bool
}

const (
	// replicaTimeout bounds reads of a replica: whatever takes longer is read
	// from the primary.
	replicaTimeout = 5 * time.Second
	// replicaConnectTimeout bounds the wait for a connection to one, and for an
	// answer to a probe.
	replicaConnectTimeout = time.Second
	// keptMarks is how many marks are remembered: beyond them a lag is no longer
	// measured, but known to be too long.
	keptMarks = 1024
)

// errNotReplica means that a server is not a replica of the primary.
var errNotReplica = errors.New("txn: not a replica of this database")

// OpenReplicas checks the replicas that are there. One that is away is used when
// it comes; a server that is no replica of the database is an error. Replicas
// are read while [Replicas.Run] runs.
func OpenReplicas(ctx context.Context, primary *DB, cfg ReplicasConfig) (*Replicas, error) {
	setDefault(&cfg.MaxLag, 100*time.Millisecond)
	setDefault(&cfg.MaxConns, 16)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if len(cfg.URLs) > 0 && primary.server.Kind != PostgreSQL {
		return nil, fmt.Errorf("txn: %s reads from its own followers: replica URLs are for PostgreSQL", primary.server.Kind)
	}
	r := &Replicas{primary: primary, cfg: cfg}
	r.metrics = newReplicaMetrics(r)
	for _, url := range cfg.URLs {
		one, err := r.open(ctx, url)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.list = append(r.list, one)
		if err := r.identify(ctx, one); errors.Is(err, errNotReplica) {
			r.Close()
			return nil, fmt.Errorf("replica %s: %w", one.name, err)
		} else if err != nil {
			one.troubled = true
			cfg.Log.Warn("a replica is away; it is used when it comes", "replica", one.name, "error", err)
		}
	}
	return r, nil
}

func (r *Replicas) open(ctx context.Context, url string) (*replica, error) {
	cfg := r.primary.cfg
	cfg.DatabaseURL, cfg.MaxAttempts = url, 1
	cfg.ConnectTimeout, cfg.StatementTimeout, cfg.TransactionTimeout = replicaConnectTimeout, replicaTimeout, replicaTimeout
	db := &DB{cfg: cfg, server: r.primary.server}
	conn, err := connConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if db.read, err = db.openPool(ctx, replicaSession, r.cfg.MaxConns); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return &replica{name: net.JoinHostPort(conn.Host, strconv.Itoa(int(conn.Port))), db: db}, nil
}

// Close closes the connections to the replicas.
func (r *Replicas) Close() {
	for _, one := range r.list {
		one.db.read.Close()
	}
}

// RegisterMetrics registers what the replicas measure.
func (r *Replicas) RegisterMetrics(to prometheus.Registerer) { r.metrics.register(to) }

// Run measures how far the replicas are behind until ctx ends.
func (r *Replicas) Run(ctx context.Context) {
	if len(r.list) == 0 {
		return
	}
	every := max(r.cfg.MaxLag/4, 5*time.Millisecond)
	var probing sync.WaitGroup
	probing.Go(func() { periodically(ctx, every, r.mark) })
	for _, one := range r.list {
		probing.Go(func() { periodically(ctx, every, func(ctx context.Context) { r.probe(ctx, one) }) })
	}
	probing.Wait()
}

func periodically(ctx context.Context, every time.Duration, do func(context.Context)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// mark notes how far the primary has written.
func (r *Replicas) mark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, replicaConnectTimeout)
	defer cancel()
	at := time.Now()
	position, err := primaryPosition(ctx, r.primary.read)
	if err != nil {
		return // lags grow meanwhile, as they should
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.marks) == keptMarks {
		r.marks = append(r.marks[:0], r.marks[1:]...)
	}
	r.marks = append(r.marks, walMark{at, position})
}

// shown returns the latest moment at which the primary had written no more than
// a replica has replayed, zero where none is remembered, and the latest mark.
func (r *Replicas) shown(replayed walPosition) (at time.Time, latest walMark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, mark := range slices.Backward(r.marks) {
		if mark.position <= replayed {
			at = mark.at
			break
		}
	}
	if n := len(r.marks); n > 0 {
		latest = r.marks[n-1]
	}
	return at, latest
}

// probe asks a replica how far it is.
func (r *Replicas) probe(ctx context.Context, one *replica) {
	bounded, cancel := context.WithTimeout(ctx, replicaConnectTimeout)
	defer cancel()
	err := r.measure(bounded, one)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		one.current.Store(0)
		one.known = false
	}
	if trouble := err != nil; trouble != one.troubled {
		one.troubled = trouble
		if trouble {
			r.cfg.Log.Warn("a replica is left out; its reads go to the primary", "replica", one.name, "error", err)
		} else {
			r.cfg.Log.Info("a replica is there again", "replica", one.name)
		}
	}
}

func (r *Replicas) measure(ctx context.Context, one *replica) error {
	if !one.known {
		if err := r.identify(ctx, one); err != nil {
			return err
		}
		one.known, one.replayed, one.replayedAt = true, 0, time.Time{}
	}
	// What a replica had replayed before the primary was asked the primary had
	// written: one that is ahead follows another primary.
	if _, latest := r.shown(one.replayed); latest.at.After(one.replayedAt) && one.replayed > latest.position {
		return fmt.Errorf("%w: it has replayed what the primary has not written", errNotReplica)
	}
	standby, replayed, err := replicaPosition(ctx, one.db.read)
	if err != nil {
		return unavailable(err)
	}
	if !standby {
		return fmt.Errorf("%w: it accepts writes of its own", errNotReplica)
	}
	one.replayed, one.replayedAt = replayed, time.Now()
	if at, _ := r.shown(replayed); !at.IsZero() {
		one.current.Store(at.UnixNano())
	}
	return nil
}

// identify makes sure that a server is a replica of the primary.
func (r *Replicas) identify(ctx context.Context, one *replica) error {
	ctx, cancel := context.WithTimeout(ctx, 3*replicaConnectTimeout)
	defer cancel()
	standby, _, err := replicaPosition(ctx, one.db.read)
	if err != nil {
		return unavailable(err)
	}
	if !standby {
		return fmt.Errorf("%w: it accepts writes of its own", errNotReplica)
	}
	theirs, err := systemIdentifier(ctx, one.db.read)
	if err != nil {
		return unavailable(err)
	}
	ours, err := systemIdentifier(ctx, r.primary.read)
	if err != nil {
		return unavailable(err)
	}
	if ours != theirs {
		return fmt.Errorf("%w: it follows another one", errNotReplica)
	}
	return nil
}

// lag is how far a replica may be behind, by what is known now.
func (one *replica) lag(now time.Time) (time.Duration, bool) {
	current := one.current.Load()
	if current == 0 {
		return 0, false
	}
	return now.Sub(time.Unix(0, current)), true
}

// pick returns a replica that is behind by no more than a read allows, in turn;
// nil where there is none.
func (r *Replicas) pick(maxStaleness time.Duration) *replica {
	if r == nil || len(r.list) == 0 {
		return nil
	}
	limit, now := min(r.cfg.MaxLag, maxStaleness), time.Now()
	first := int(r.turn.Add(1))
	for i := range r.list {
		one := r.list[(first+i)%len(r.list)]
		if lag, known := one.lag(now); known && lag <= limit {
			return one
		}
	}
	r.metrics.reads.WithLabelValues("primary", "lag").Inc()
	return nil
}

// readTx runs fn in a transaction that reads the replica, once. A replica does
// not do SERIALIZABLE; one snapshot of it is what the primary was after some
// commit.
func (one *replica) readTx(ctx context.Context, fn func(pgx.Tx) error) error {
	err := one.db.retry(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		return one.db.attempt(ctx, conn, replicaOptions, fn)
	}, one.db.read)
	if errors.Is(err, ErrUnavailable) {
		one.current.Store(0) // until a probe finds it again
	}
	return err
}

// done counts a read that was tried on a replica.
func (r *Replicas) done(one *replica, err error) {
	switch {
	case err == nil:
		r.metrics.reads.WithLabelValues(one.name, "").Inc()
	case errors.Is(err, errBehind):
		r.metrics.reads.WithLabelValues("primary", "behind").Inc()
	default:
		r.metrics.reads.WithLabelValues("primary", "error").Inc()
	}
}

type replicaMetrics struct {
	reads *prometheus.CounterVec
	lag   *replicaLag
}

func newReplicaMetrics(r *Replicas) *replicaMetrics {
	return &replicaMetrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_bounded_reads_total",
			Help: "Reads with CONSISTENCY_BOUNDED by who served them: a replica, or the primary because all lag, the replica was behind what was asked for, or failed. Many of the primary mean replicas that are of no use.",
		}, []string{"from", "because"}),
		lag: &replicaLag{r, prometheus.NewDesc("stockledger_replica_lag_seconds",
			"How far a replica is behind at most; absent where it is away. Beyond --replica-max-lag it is not read.", []string{"replica"}, nil)},
	}
}

func (m *replicaMetrics) register(r prometheus.Registerer) { r.MustRegister(m.reads, m.lag) }

// replicaLag tells how far each replica is behind when it is asked.
type replicaLag struct {
	replicas *Replicas
	desc     *prometheus.Desc
}

// Describe is for Prometheus.
func (l *replicaLag) Describe(to chan<- *prometheus.Desc) { to <- l.desc }

// Collect is for Prometheus.
func (l *replicaLag) Collect(to chan<- prometheus.Metric) {
	now := time.Now()
	for _, one := range l.replicas.list {
		if lag, known := one.lag(now); known {
			to <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, lag.Seconds(), one.name)
		}
	}
}
