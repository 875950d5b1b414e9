// Package txn executes the ledger's commands and queries on the database.
//
// It owns every SQL statement and every transaction: they all go through one
// door (tx.go), are SERIALIZABLE, and are retried here and nowhere else. The
// two servers that it speaks to, CockroachDB 21.1 or newer and PostgreSQL 15 or
// newer, differ in one file only (dialect.go).
//
// It must not know the wire: no Connect, no protobuf messages of the API, no
// permissions. It must not decide anything about stock either; that is package
// ledger's business, whose rules it runs.
package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says how to reach the database and how patient to be with it. Only
// DatabaseURL has no default.
type Config struct {
	// DatabaseURL is a PostgreSQL connection URL. It may name several hosts
	// (postgresql://user@host1:26257,host2:26257/stockledger): every connection
	// tries them in turn, and on CockroachDB each starts with another one, so
	// that the load is spread and a dead host costs nothing.
	DatabaseURL string

	// MaxWriteConns is the number of connections for transactions that write.
	// Groups of commands are few and large, so a few are enough. Default 8.
	MaxWriteConns int

	// MaxReadConns is the number of connections for queries. Default 16.
	MaxReadConns int

	// ConnectTimeout bounds an attempt to connect to one host, and the check of
	// a pooled connection before its use. Default 3 s.
	ConnectTimeout time.Duration

	// StatementTimeout bounds one statement on the server. A CockroachDB range
	// whose lease holder died may stall for more than 10 s and then succeed, so
	// it should be longer than that. Default 15 s.
	StatementTimeout time.Duration

	// IdleTimeout is how long the server waits for the next statement of a
	// transaction that writes before it ends the session: a process that was
	// stopped or cut off must not hold its locks for longer. Closures only
	// compute between statements. It is shorter than a leader's lease in etcd, so
	// that the next leader finds no lock of the last one. Default 4 s.
	IdleTimeout time.Duration

	// TransactionTimeout bounds one attempt at a transaction, the wait for a
	// connection included. Default 30 s.
	TransactionTimeout time.Duration

	// MaxAttempts is how often a transaction is tried when the database refuses
	// it because of another one, or when its connection breaks. A clinic's
	// commands are bounded by [ExecutorConfig.ResolveTimeout] instead. Default 10.
	MaxAttempts int

	// Backoff is the longest pause before the second attempt. It doubles for
	// each one after that up to 50 times itself, and the pause is drawn at
	// random from what lies below. Default 5 ms.
	Backoff time.Duration

	// MaxConnLifetime is the age at which a connection is replaced, which moves
	// load back to a host that recovered. Default 30 min.
	MaxConnLifetime time.Duration

	// ApplicationName is what the database's own views call us.
	// Default "stockledger".
	ApplicationName string

	// ShardsMayBeAway lets [OpenDirectory] go on without a shard that cannot be
	// reached. Its clinics are unavailable until it can.
	ShardsMayBeAway bool

	// Log receives what an operator should know. Default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxWriteConns, 8)
	setDefault(&c.MaxReadConns, 16)
	setDefault(&c.ConnectTimeout, 3*time.Second)
	setDefault(&c.StatementTimeout, 15*time.Second)
	setDefault(&c.IdleTimeout, 4*time.Second)
	setDefault(&c.TransactionTimeout, 30*time.Second)
	setDefault(&c.MaxAttempts, 10)
	setDefault(&c.Backoff, 5*time.Millisecond)
	setDefault(&c.MaxConnLifetime, 30*time.Minute)
	setDefault(&c.ApplicationName, "stockledger")
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.DatabaseURL == "", "DatabaseURL is missing")
	refuse(c.MaxWriteConns < 1, "MaxWriteConns must be at least 1, not %d", c.MaxWriteConns)
	refuse(c.MaxReadConns < 1, "MaxReadConns must be at least 1, not %d", c.MaxReadConns)
	refuse(c.ConnectTimeout < 0, "ConnectTimeout must not be negative")
	refuse(c.StatementTimeout < time.Millisecond, "StatementTimeout must be at least 1 ms")
	refuse(c.IdleTimeout < time.Millisecond, "IdleTimeout must be at least 1 ms")
	refuse(c.TransactionTimeout < 0, "TransactionTimeout must not be negative")
	refuse(c.MaxAttempts < 1, "MaxAttempts must be at least 1, not %d", c.MaxAttempts)
	refuse(c.Backoff < 0, "Backoff must not be negative")
	refuse(c.MaxConnLifetime < 0, "MaxConnLifetime must not be negative")
	if len(errs) > 0 {
		return fmt.Errorf("txn: configuration: %w", errors.Join(errs...))
	}
	return nil
}

// DB is the database: a pool of connections that write and one of connections
// that cannot. It is safe for concurrent use.
type DB struct {
	cfg    Config
	server Server
	write  *pgxpool.Pool
	read   *pgxpool.Pool
	tuned  *atomic.Bool // false until the server was reached

	awaited *awaited // nil: it was there when it was opened

	// lastBroken is when a connection last broke, in nanoseconds. Connections
	// that are older are suspect: they are checked before their next use, so
	// that a restarted database costs one failed attempt and not one for each
	// connection in the pool.
	lastBroken atomic.Int64
}

// awaited is a shard that was away when it was opened.
type awaited struct {
	id     ShardID
	proven atomic.Bool // a connection has led to it
}

// Open connects to the database, finds out which server it is, and returns
// ErrUnavailable, within a few seconds, if it can't be reached. It does not
// migrate.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	db := &DB{cfg: cfg, tuned: new(atomic.Bool)}
	if err := db.inspect(ctx); err != nil {
		return nil, err
	}
	if err := db.openPools(ctx); err != nil {
		return nil, err
	}
	return db, nil
}

// openAway returns a shard that cannot be reached yet, on a server of the same
// kind as another one. Its connections make sure that they lead there, until one
// has.
func openAway(ctx context.Context, cfg Config, id ShardID, like *DB) (*DB, error) {
	db := &DB{cfg: cfg.withDefaults(), server: like.server, tuned: new(atomic.Bool), awaited: &awaited{id: id}}
	if err := db.openPools(ctx); err != nil {
		return nil, err
	}
	return db, nil
}

func (db *DB) openPools(ctx context.Context) (err error) {
	if db.write, err = db.openPool(ctx, writeSession, db.cfg.MaxWriteConns); err != nil {
		return err
	}
	if db.read, err = db.openPool(ctx, readSession, db.cfg.MaxReadConns); err != nil {
		db.write.Close()
	}
	return err
}

// prove makes sure that a connection leads to the shard that is awaited, within
// the time that connecting may take.
func (db *DB) prove(ctx context.Context, conn *pgx.Conn) error {
	a := db.awaited
	if a == nil || a.proven.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, db.cfg.ConnectTimeout)
	defer cancel()
	server, err := detectServer(ctx, conn)
	if err == nil {
		err = sameKind(server, db.server)
	}
	if err == nil {
		err = checkShard(ctx, conn, a.id)
	}
	tuned := false
	if err == nil {
		tuned, err = predicateLocksTuned(ctx, conn, server)
	}
	if err != nil {
		return unavailable(fmt.Errorf("shard %s: %w", a.id, err))
	}
	db.tuned.Store(tuned)
	if !a.proven.Swap(true) {
		db.cfg.Log.Info("a shard that was away can be reached", "shard", a.id)
		db.warnUntuned()
	}
	return nil
}

// Close waits for transactions under way and closes every connection.
func (db *DB) Close() {
	db.write.Close()
	db.read.Close()
}

// Server says which server the database is.
func (db *DB) Server() Server { return db.server }

// PredicateLocksTuned says whether the server has room for the predicate locks
// of several large SERIALIZABLE transactions at once. Where it has not, one
// group of commands at a time is faster than two that abort each other. It is
// always true on CockroachDB, which has no such locks.
func (db *DB) PredicateLocksTuned() bool { return db.tuned.Load() }

// Ping proves that the database answers.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.read.Ping(ctx); err != nil {
		return unavailable(err)
	}
	return nil
}

// inspect asks the server what it is, on a connection of its own.
func (db *DB) inspect(ctx context.Context) error {
	cfg, err := connConfig(db.cfg)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if db.server, err = detectServer(ctx, conn); err != nil {
		return err
	}
	tuned, err := predicateLocksTuned(ctx, conn, db.server)
	if err != nil {
		return err
	}
	db.tuned.Store(tuned)
	db.warnUntuned()
	return nil
}

func (db *DB) warnUntuned() {
	if !db.PredicateLocksTuned() {
		db.cfg.Log.Warn("PostgreSQL has few predicate locks: commands are executed one group at a time",
			"remedy", predicateLocksRemedy)
	}
}

// connConfig parses the URL and sets what every connection needs.
func connConfig(cfg Config) (*pgx.ConnConfig, error) {
	conn, err := pgx.ParseConfig(cfg.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("txn: database URL: %w", err)
	}
	prepareConnConfig(conn, cfg)
	return conn, nil
}

func prepareConnConfig(conn *pgx.ConnConfig, cfg Config) {
	// A timeout in the URL is its owner's choice.
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = cfg.ConnectTimeout
	}
	if _, named := conn.RuntimeParams["application_name"]; !named {
		conn.RuntimeParams["application_name"] = cfg.ApplicationName
	}
}

func (db *DB) openPool(ctx context.Context, kind session, size int) (*pgxpool.Pool, error) {
	pool, err := pgxpool.ParseConfig(db.cfg.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("txn: database URL: %w", err)
	}
	prepareConnConfig(pool.ConnConfig, db.cfg)
	pool.MaxConns = int32(min(size, 10_000))
	pool.MaxConnLifetime = db.cfg.MaxConnLifetime
	pool.MaxConnLifetimeJitter = db.cfg.MaxConnLifetime / 4
	pool.PingTimeout = db.cfg.ConnectTimeout
	pool.ShouldPing = db.shouldPing
	if db.server.Kind == CockroachDB {
		pool.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
			shuffleHosts(conn)
			return nil
		}
	}
	settings := sessionSettings(db.server.Kind, kind, db.cfg)
	pool.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		markChecked(conn.PgConn(), time.Now())
		// Without arguments, so in the simple protocol: one round trip for all.
		if _, err := conn.Exec(ctx, settings); err != nil {
			return fmt.Errorf("set up a session: %w", err)
		}
		return db.prove(ctx, conn)
	}
	opened, err := pgxpool.NewWithConfig(ctx, pool)
	if err != nil {
		return nil, fmt.Errorf("txn: open pool: %w", err)
	}
	return opened, nil
}

// checkedKey is where a connection keeps the time of its last proof of life.
const checkedKey = "stockledger.checked"

func markChecked(conn *pgconn.PgConn, now time.Time) {
	conn.CustomData()[checkedKey] = now.UnixNano()
}

// shouldPing wants a connection checked before its use if it was idle for a
// while or is as old as one that broke.
func (db *DB) shouldPing(_ context.Context, params pgxpool.ShouldPingParams) bool {
	conn, now := params.Conn.PgConn(), time.Now()
	checked, _ := conn.CustomData()[checkedKey].(int64)
	if params.IdleDuration <= time.Second && checked > db.lastBroken.Load() {
		return false
	}
	// A connection that fails the check is destroyed, so this one will have
	// passed it whenever it is seen again.
	markChecked(conn, now)
	return true
}

// noteBroken makes every connection that is older than now suspect.
func (db *DB) noteBroken() { db.lastBroken.Store(time.Now().UnixNano()) }

// shuffleHosts puts the hosts of a connection's configuration in random order.
// Entries for the same host stay together and in order: they are the same host
// with and without TLS.
func shuffleHosts(conn *pgx.ConnConfig) {
	entries := append([]*pgconn.FallbackConfig{{
		Host: conn.Host, Port: conn.Port, TLSConfig: conn.TLSConfig,
	}}, conn.Fallbacks...)
	var order []string
	byHost := make(map[string][]*pgconn.FallbackConfig)
	for _, entry := range entries {
		host := net.JoinHostPort(entry.Host, strconv.Itoa(int(entry.Port)))
		if byHost[host] == nil {
			order = append(order, host)
		}
		byHost[host] = append(byHost[host], entry)
	}
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	shuffled := make([]*pgconn.FallbackConfig, 0, len(entries))
	for _, host := range order {
		shuffled = append(shuffled, byHost[host]...)
	}
	conn.Host, conn.Port, conn.TLSConfig = shuffled[0].Host, shuffled[0].Port, shuffled[0].TLSConfig
	conn.Fallbacks = shuffled[1:]
}
