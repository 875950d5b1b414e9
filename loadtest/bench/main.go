// Command bench measures stockledger against hand-written SQL on the same
// database in the same run, and prints a table.
//
// It starts a database (or uses STOCKLEDGER_DATABASE_URL) with its durability
// on, and a node of the server as a process of its own, and drives both from
// here. The parts run in interleaved rounds and the medians count, since
// machines have moods. After every part the balances, journal, entries and heads
// are compared; a part whose books do not agree fails the run.
//
// It measures and reports. It decides nothing: marks are for its reader.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stockledger/stockledger/loadtest/node"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/localdb"
)

type options struct {
	Seconds       float64  `env:"BENCH_SECONDS" default:"4" help:"Length of each part of each round, in seconds."`
	Rounds        int      `env:"BENCH_ROUNDS" default:"3" help:"Number of interleaved rounds; the medians count."`
	JSON          string   `env:"BENCH_JSON" help:"Also write the figures to this file, as one JSON object." type:"path"`
	Node          string   `env:"BENCH_NODE" default:"bin/stockledger" help:"The server's binary." type:"path"`
	Parts         []string `env:"BENCH_PARTS" help:"Run only these parts, by the beginnings of their names in the JSON; the baseline always runs."`
	History       int      `env:"BENCH_HISTORY" default:"1000000" help:"Number of entries of the account whose stock card is read."`
	LowOperations int      `env:"BENCH_LOW_OPERATIONS" default:"50000" help:"Number of operations of low priority that wait while those of high priority are measured."`
	Distance      float64  `env:"BENCH_DISTANCE" default:"0.5" help:"Milliseconds from a node to the database or to another node in the parts that have them apart; as long back."`
	Many          int      `env:"BENCH_MANY_CLINICS" default:"5000" help:"Number of clinics of the widest spread."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("bench"), kong.Description("Measures stockledger against hand-written SQL on the same database."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	work := func() error { return run(ctx, o, os.Stdout) }
	if address := os.Getenv(bareVariable); address != "" {
		work = func() error { return serveBare(ctx, address) }
	} else if route := os.Getenv(distanceVariable); route != "" {
		work = func() error { return serveDistance(ctx, route) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // an interrupt need not be waited for any more
	}
}

// bench is one run.
type bench struct {
	options
	ctx  context.Context
	out  io.Writer
	pool *pgxpool.Pool
	sql  *baseline
	// sqlTransfers has tables of its own.
	sqlTransfers *sqlTransfers
	sqlPharmacy  *sqlPharmacy
	node         *node.Node
	database     string // its URL
	scratch      string // a folder that goes when the run ends
	version      string // what the database says of itself
	run          string // makes the ids of this run its own
	closing      []func()
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	scratch, err := os.MkdirTemp("", "stockledger-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	database, err := startDatabase(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Stop(context.WithoutCancel(ctx))) }()
	if err := txn.Migrate(ctx, database.URL); err != nil {
		return err
	}
	pool, err := openPool(ctx, database.URL)
	if err != nil {
		return err
	}
	defer pool.Close()
	server, err := node.Start(ctx, o.Node, database.URL, filepath.Join(scratch, "issuer.key"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	b := &bench{options: o, ctx: ctx, out: out, pool: pool, node: server, database: database.URL, scratch: scratch, run: strconv.FormatInt(time.Now().UnixMicro(), 36)}
	return b.measure()
}

func startDatabase(ctx context.Context) (*localdb.Server, error) {
	server, err := localdb.Start(ctx, localdb.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("start a database: %w", err)
	}
	return server, nil
}

func openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	cfg.MaxConns = sqlConnections
	cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
	// The bulk statements run as index look-ups, as an engineer would see to:
	// PostgreSQL locks whole tables for plans that scan or hash them, and bulk
	// transactions would refuse each other.
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		var version string
		if err := conn.QueryRow(ctx, "SELECT version()").Scan(&version); err != nil || !strings.HasPrefix(version, "PostgreSQL") {
			return err
		}
		_, err := conn.Exec(ctx, "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off")
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return pool, nil
}

// measure sets everything up, runs the rounds and reports.
func (b *bench) measure() error {
	if err := b.pool.QueryRow(b.ctx, "SELECT version()").Scan(&b.version); err != nil {
		return err
	}
	b.progress("%s\n", b.version)
	var err error
	if b.sql, err = newBaseline(b.ctx, b.pool, b.run); err != nil {
		return err
	}
	if b.sqlTransfers, err = newSQLTransfers(b.ctx, b.pool, b.run); err != nil {
		return err
	}
	if b.sqlPharmacy, err = newSQLPharmacy(b.ctx, b.pool, b.run); err != nil {
		return err
	}
	parts := b.chosen(b.parts())
	defer func() {
		for _, end := range b.closing {
			end()
		}
	}()
	for round := range b.Rounds {
		for _, p := range parts {
			if err := b.runPart(p, round); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	report := newReport(b.version, parts, b.node.PeakMiB())
	report.print(b.out)
	if b.JSON == "" {
		return nil
	}
	data, err := json.MarshalIndent(report.figures(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.JSON, append(data, '\n'), 0o600)
}

// chosen returns the parts that were asked for, and what they are compared with.
func (b *bench) chosen(parts []*part) []*part {
	if len(b.Parts) == 0 {
		return parts
	}
	wanted := map[*part]bool{parts[0]: true}
	for _, p := range parts {
		if slices.ContainsFunc(b.Parts, func(name string) bool { return strings.HasPrefix(p.key, name) }) {
			wanted[p] = true
			if p.against != nil {
				wanted[p.against] = true
			}
			if p.after != nil {
				wanted[p.after] = true
			}
		}
	}
	return slices.DeleteFunc(parts, func(p *part) bool { return !wanted[p] })
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format, args...)
}

// runPart runs one part once and checks the books after it.
func (b *bench) runPart(p *part, round int) error {
	if p.prepare != nil {
		if err := p.prepare(round); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	before, err := b.footprint(p.tables)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Duration(b.Seconds*float64(time.Second)))
	defer cancel()
	s, err := p.load(ctx, round)
	if err != nil {
		return err
	}
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if s.commands == 0 {
		return errors.New("nothing was executed")
	}
	if err := p.agree(b.ctx, s.commands); err != nil {
		return fmt.Errorf("the books do not agree: %w", err)
	}
	after, err := b.footprint(p.tables)
	if err != nil {
		return err
	}
	s.rows = float64(after.rows-before.rows) / float64(s.commands)
	s.bytes = float64(after.bytes-before.bytes) / float64(s.commands)
	p.samples = append(p.samples, s)
	b.progress("round %d  %-34s %10.0f commands/s\n", round+1, p.name, s.perSecond())
	return nil
}
