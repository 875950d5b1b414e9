package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
)

// migrateCmd keeps the schema.
type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Apply what is missing. Safe on many nodes at once."`
	Status migrateStatusCmd `cmd:"" help:"List the migrations and when each was applied."`
}

type migrateUpCmd struct{ databaseFlags }

// Help says when to run it.
func (migrateUpCmd) Help() string {
	return `Run it before the first start and before each upgrade's first node. Nodes refuse to start on a schema that is too old, and work on one that is newer.

Example:

  stockledger migrate up --database-url postgresql://ledger@db1:26257,db2:26257/stockledger`
}

// Run applies what is missing.
func (c *migrateUpCmd) Run(ctx context.Context, log *slog.Logger) error {
	if err := c.migrate(ctx); err != nil {
		return err
	}
	log.Info("the schema is up to date")
	return nil
}

type migrateStatusCmd struct{ databaseFlags }

// Run lists the migrations.
func (c *migrateStatusCmd) Run(ctx context.Context) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SHARD\tVERSION\tNAME\tAPPLIED")
	urls := maps.Clone(c.Shards)
	if urls == nil {
		urls = make(map[txn.ShardID]string)
	}
	urls[txn.MainShard] = c.DatabaseURL
	for _, id := range slices.Sorted(maps.Keys(urls)) {
		states, err := txn.MigrationStatus(ctx, urls[id])
		if err != nil {
			return fmt.Errorf("shard %s: %w", id, err)
		}
		for _, s := range states {
			applied := "pending"
			if !s.AppliedAt.IsZero() {
				applied = s.AppliedAt.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", id, s.Version, s.Name, applied)
		}
	}
	return w.Flush()
}

// verifyCmd looks for anything in the database that contradicts a journal.
type verifyCmd struct {
	DatabaseURL string `env:"STOCKLEDGER_DATABASE_URL" placeholder:"URL" help:"Connection URL of CockroachDB or PostgreSQL. Required, but for a file."`
	shardFlags
	Clinic      []string `env:"STOCKLEDGER_CLINICS" placeholder:"ID" help:"Verify only these clinics. Default: all."`
	Checkpoints string   `type:"path" env:"STOCKLEDGER_CHECKPOINTS" placeholder:"FOLDER" help:"Compare the journals with the signed checkpoints in a folder too."`
	IssuerKey   string   `default:"issuer.key" type:"path" env:"STOCKLEDGER_ISSUER_KEY" placeholder:"FILE" help:"Key that the checkpoints were signed with. Default: issuer.key in the current folder."`
	File        string   `env:"STOCKLEDGER_VERIFY_FILE" placeholder:"FILE" help:"Verify a journal's file, as clinic export writes it, and no database; - for standard input."`
}

// Help says what the exit codes mean.
func (verifyCmd) Help() string {
	return `Replays each clinic's journal from nothing and compares entries, balances, holds, documents and the head with it. It reads one moment of each clinic, so it can run under load.

With --file it needs no database: it replays a journal's file and checks each hash, sequence and recorded balance, the head, and the file's checksum. It ends at the first record that does not follow from those before.

Exit codes: 0 everything agrees; 1 violations were found, each printed with its clinic, account and sequence; 2 it could not run.

Examples:

  stockledger verify
  stockledger verify --clinic hillside --clinic riverside
  stockledger verify --checkpoints /mnt/write-once/checkpoints
  stockledger verify --file hillside.journal`
}

// Run verifies, and ends with code 1 where something contradicts.
func (c *verifyCmd) Run(ctx context.Context, log *slog.Logger) error {
	switch {
	case c.File != "":
		return verifyFile(ctx, c.File, os.Stdout)
	case c.DatabaseURL == "":
		return errors.New("name a database with --database-url (STOCKLEDGER_DATABASE_URL), or a journal's file with --file")
	}
	directory, clinics, err := openToVerify(ctx, databaseFlags{c.DatabaseURL, c.shardFlags}, c.Clinic, log)
	if err != nil {
		return err
	}
	defer directory.Close()
	bar := newProgress(os.Stderr, "commands", 0)
	summary, err := verifyShards(ctx, directory, clinics, txn.VerifyOptions{
		Report:   func(v txn.Violation) { fmt.Println(v) },
		Progress: func(p txn.VerifyProgress) { bar.set(int(p.Commands), int(p.CommandsTotal)) },
	})
	bar.finish()
	if err != nil {
		return err
	}
	fmt.Printf("%d clinics, %d commands and %d entries verified; %d violations\n", summary.Clinics, summary.Commands, summary.Entries, summary.Violations)
	broken, err := c.compare(ctx, directory, clinics)
	if err != nil {
		return err
	}
	if summary.Violations > 0 || broken > 0 {
		return exitError(1)
	}
	return nil
}

// compare holds the journals against checkpoints, where there are any to
// compare with, and says how many do not hold.
func (c *verifyCmd) compare(ctx context.Context, directory *txn.Directory, clinics []ledger.ClinicID) (int, error) {
	if c.Checkpoints == "" {
		return 0, nil
	}
	if _, err := os.Stat(c.IssuerKey); err != nil {
		return 0, fmt.Errorf("the key that signed the checkpoints is missing (--issuer-key): %w", err)
	}
	issuer, err := rpc.OpenIssuer(c.IssuerKey)
	if err != nil {
		return 0, err
	}
	report, err := compareCheckpoints(ctx, txn.NewQueries(directory), issuer, c.Checkpoints, clinics, os.Stdout)
	if err != nil {
		return 0, err
	}
	fmt.Printf("%d checkpoints hold, %d are of what a restore took back, %d do not hold\n", report.held, report.rewound, report.broken)
	return report.broken, nil
}

// openToVerify opens databases whose clinics are read whole.
func openToVerify(ctx context.Context, databases databaseFlags, ids []string, log *slog.Logger) (*txn.Directory, []ledger.ClinicID, error) {
	directory, err := databases.open(ctx, txn.Config{StatementTimeout: 10 * time.Minute, Log: log})
	if err != nil {
		return nil, nil, err
	}
	clinics, err := known(ctx, directory, ids)
	if err != nil {
		directory.Close()
		return nil, nil, err
	}
	return directory, clinics, nil
}

// verifyShards verifies some clinics, each on its shard, or all of all shards.
func verifyShards(ctx context.Context, directory *txn.Directory, clinics []ledger.ClinicID, options txn.VerifyOptions) (txn.VerifySummary, error) {
	var total txn.VerifySummary
	on := make(map[txn.ShardID][]ledger.ClinicID)
	for _, clinic := range clinics {
		if _, err := directory.DB(ctx, clinic); err != nil {
			return total, err
		}
		shard, err := directory.Shard(ctx, clinic)
		if err != nil {
			return total, err
		}
		on[shard] = append(on[shard], clinic)
	}
	for _, shard := range directory.Shards() {
		options.Clinics = on[shard]
		if len(clinics) > 0 && len(options.Clinics) == 0 {
			continue
		}
		summary, err := txn.Verify(ctx, directory.On(shard), options)
		if err != nil {
			return total, fmt.Errorf("shard %s: %w", shard, err)
		}
		total.Clinics += summary.Clinics
		total.Commands += summary.Commands
		total.Entries += summary.Entries
		total.Violations += summary.Violations
	}
	return total, nil
}

// known refuses clinics that do not exist: a misspelt one would verify clean.
func known(ctx context.Context, directory *txn.Directory, ids []string) ([]ledger.ClinicID, error) {
	clinics := make([]ledger.ClinicID, len(ids))
	for i, id := range ids {
		clinics[i] = ledger.ClinicID(id)
		if _, err := directory.Shard(ctx, clinics[i]); err != nil {
			return nil, err
		}
	}
	return clinics, nil
}

// replayCmd recomputes clinics from their journals.
type replayCmd struct {
	databaseFlags
	Clinic []string `arg:"" help:"The clinics."`
}

// Help says what it does and does not do.
func (replayCmd) Help() string {
	return `Replays the clinics' journals into memory, from nothing, and shows beside each table how many rows the journal makes, how many are stored, and in how many the two differ; each difference is named after its table's clinic, account and command. Nothing is changed. It reads one moment of each clinic, so it can run under load.

Exit codes: 0 nothing differs; 1 something does; 2 it could not run.

Example:

  stockledger replay hillside riverside`
}

// Run replays, and ends with code 1 where something differs.
func (c *replayCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, clinics, err := openToVerify(ctx, c.databaseFlags, c.Clinic, log)
	if err != nil {
		return err
	}
	defer directory.Close()
	bar := newProgress(os.Stderr, "commands", 0)
	summary, err := replay(ctx, directory, clinics, os.Stdout, bar)
	bar.finish()
	if err != nil {
		return err
	}
	if summary.Violations > 0 {
		return exitError(1)
	}
	return nil
}

// replay writes what the journals come to.
func replay(ctx context.Context, directory *txn.Directory, clinics []ledger.ClinicID, out io.Writer, bar *progress) (txn.VerifySummary, error) {
	var found []txn.Violation
	return verifyShards(ctx, directory, clinics, txn.VerifyOptions{
		Report:   func(v txn.Violation) { found = append(found, v) },
		Progress: func(p txn.VerifyProgress) { bar.set(int(p.Commands), int(p.CommandsTotal)) },
		Replayed: func(r txn.Replayed) {
			fmt.Fprintf(out, "clinic %s: replayed up to sequence %d, hash %s\n", r.Clinic, r.Head.Sequence, r.Head.Hash)
			if !r.Whole {
				fmt.Fprintln(out, "the journal goes on, and cannot be replayed further; what is stored beyond is not compared")
			}
			t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(t, "rows of\treplayed\tstored\tdifferences\t")
			for _, table := range r.Tables {
				fmt.Fprintf(t, "%s\t%d\t%d\t%d\t\n", table.Name, table.Replayed, table.Stored, table.Differences)
			}
			_ = t.Flush()
			for _, v := range found {
				fmt.Fprintln(out, v)
			}
			found = nil
		},
	})
}

// tokenCmd prints a token.
type tokenCmd struct {
	IssuerKey string        `default:"issuer.key" type:"path" env:"STOCKLEDGER_ISSUER_KEY" placeholder:"FILE" help:"Key that signs the token: the one that the nodes have. Made if it is missing. Default: issuer.key in the current folder."`
	Role      []string      `required:"" env:"STOCKLEDGER_TOKEN_ROLES" placeholder:"ROLE" help:"What the holder may do: admin, manager, pharmacist, prescriber, storekeeper, counter, nurse, auditor or viewer."`
	Clinic    []string      `required:"" env:"STOCKLEDGER_TOKEN_CLINICS" placeholder:"ID" help:"Clinics that the token is for; * for all."`
	Location  []string      `env:"STOCKLEDGER_TOKEN_LOCATIONS" placeholder:"ID" help:"Locations that the token is limited to. Default: all."`
	Subject   string        `default:"operator" env:"STOCKLEDGER_TOKEN_SUBJECT" help:"Who holds it: the actor of every command given with it."`
	TTL       time.Duration `name:"ttl" default:"12h" env:"STOCKLEDGER_TOKEN_TTL" help:"How long it is valid."`
}

// Help shows an example.
func (tokenCmd) Help() string {
	return `Example:

  export TOKEN=$(stockledger token --role storekeeper --clinic hillside --subject amina)
  curl -H "Authorization: Bearer $TOKEN" …`
}

// Run prints the token alone, for use in a shell.
func (c *tokenCmd) Run(log *slog.Logger) error {
	token, err := c.token(log)
	if err != nil {
		return err
	}
	fmt.Println(token)
	return nil
}

func (c *tokenCmd) token(log *slog.Logger) (string, error) {
	if _, err := os.Stat(c.IssuerKey); errors.Is(err, fs.ErrNotExist) {
		log.Warn("there was no key, so a new one is made: only nodes that get this file accept the token", "issuer_key", c.IssuerKey)
	}
	issuer, err := rpc.OpenIssuer(c.IssuerKey)
	if err != nil {
		return "", err
	}
	p := rpc.Principal{Subject: ledger.Actor(c.Subject)}
	for _, role := range c.Role {
		p.Roles = append(p.Roles, rpc.Role(role))
	}
	for _, clinic := range c.Clinic {
		p.Clinics = append(p.Clinics, ledger.ClinicID(clinic))
	}
	for _, location := range c.Location {
		p.Locations = append(p.Locations, ledger.LocationID(location))
	}
	return issuer.Issue(p, c.TTL)
}
