// Command stockledger is the ledger's server and its tools: one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/stockledger/stockledger/txn"
)

// version is set when a release is built.
var version = "development"

// cli is the command line. Every flag has an environment variable.
type cli struct {
	Serve            serveCmd            `cmd:"" help:"Serve the API."`
	Migrate          migrateCmd          `cmd:"" help:"Bring the database's schema up to date, or show its state."`
	Import           importCmd           `cmd:"" help:"Import medicines or stock from a CSV file, through the API."`
	Replay           replayCmd           `cmd:"" help:"Recompute clinics from their journals and show, table by table, how what is stored differs."`
	Verify           verifyCmd           `cmd:"" help:"Replay every journal and compare it with everything stored, or replay a journal's file."`
	Checkpoint       checkpointCmd       `cmd:"" help:"Write signed checkpoints of all journals, to be kept outside of the database."`
	Clinic           clinicCmd           `cmd:"" help:"Export, restore and move whole clinics."`
	Shard            shardCmd            `cmd:"" help:"Add databases that hold clinics, and list them."`
	Register         registerCmd         `cmd:"" help:"Write a controlled medicine's register as CSV, for an inspector."`
	RecalledPatients recalledPatientsCmd `cmd:"" help:"Write whom a lot, or the lots of a recall, reached as CSV."`
	Operations       operationsCmd       `cmd:"" help:"Show, cancel and resubmit what is carried out later."`
	Report           reportCmd           `cmd:"" help:"Have a report read by the server, and write it to a file."`
	Jobs             jobsCmd             `cmd:"" help:"Show and run the background jobs."`
	Cluster          clusterCmd          `cmd:"" help:"Show the cluster."`
	Webhook          webhookCmd          `cmd:"" help:"Show and change where a clinic's events are sent."`
	Token            tokenCmd            `cmd:"" help:"Print a token for callers of the API."`
	Dev              devCmd              `cmd:"" help:"Run all of it on this machine, with demo clinics: what make run does."`
	Version          versionCmd          `cmd:"" help:"Print the version."`

	LogFormat string `enum:"text,json" default:"text" env:"STOCKLEDGER_LOG_FORMAT" help:"Format of the log: text or json."`
	LogLevel  string `enum:"debug,info,warn,error" default:"info" env:"STOCKLEDGER_LOG_LEVEL" help:"Least severe lines to log: debug, info, warn or error."`
}

const description = `A double-entry stock ledger for clinics and pharmacies.

Start with "stockledger dev": it finds a database, loads demo clinics and prints what to try next. In production, run "stockledger migrate up" once and "stockledger serve" on every node.

Every flag can be set by the environment variable that stands beside it.`

// databaseFlags name the database.
type databaseFlags struct {
	DatabaseURL string `required:"" env:"STOCKLEDGER_DATABASE_URL" placeholder:"URL" help:"Connection URL of CockroachDB or PostgreSQL. It may name several hosts: postgresql://user@host1:26257,host2:26257/stockledger."`
	shardFlags
}

// open opens the database and the shards beside it.
func (f *databaseFlags) open(ctx context.Context, cfg txn.Config) (*txn.Directory, error) {
	cfg.DatabaseURL = f.DatabaseURL
	return txn.OpenDirectory(ctx, cfg, f.Shards)
}

// migrate brings the schemas of all of them up to date.
func (f *databaseFlags) migrate(ctx context.Context) error {
	err := txn.Migrate(ctx, f.DatabaseURL)
	for id, url := range f.Shards {
		if err != nil {
			return err
		}
		if err = txn.Migrate(ctx, url); err != nil {
			err = fmt.Errorf("shard %s: %w", id, err)
		}
	}
	return err
}

// shardFlags name the databases beside the one with the directory.
type shardFlags struct {
	Shards map[txn.ShardID]string `name:"shard" env:"STOCKLEDGER_SHARDS" placeholder:"ID=URL" help:"A further database that holds clinics, with its id; see stockledger shard --help. May be repeated; in the environment separated by semicolons."`
}

// exitError ends the process with a code and without a further message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes a command line and returns the process's exit code.
func run(ctx context.Context, args []string) int {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "stockledger:", err)
		return 2
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		parser.Errorf("%s", err)
		fmt.Fprintln(os.Stderr, `Run "stockledger --help" for what there is.`)
		return 2
	}
	log := newLog(c.LogFormat, c.LogLevel)
	slog.SetDefault(log)
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(log)
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	fmt.Fprintln(os.Stderr, "stockledger:", err)
	return 2
}

func newParser(c *cli) (*kong.Kong, error) {
	return kong.New(c, kong.Name("stockledger"), kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: false, WrapUpperBound: 100}), kong.UsageOnError())
}

func newLog(format, level string) *slog.Logger {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		least = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: least}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run() error {
	fmt.Println("stockledger", version)
	return nil
}
