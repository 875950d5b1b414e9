package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// shardCmd handles the databases that hold clinics.
type shardCmd struct {
	List  shardListCmd  `cmd:"" help:"List the shards with their clinics, and the moves that have not ended."`
	Add   shardAddCmd   `cmd:"" help:"Make a database a shard, or say which region one is in."`
	Open  shardOpenCmd  `cmd:"" help:"Place new clinics on a shard."`
	Close shardCloseCmd `cmd:"" help:"Place no more new clinics on a shard."`
}

// Help says what a shard is, and how one is added.
func (shardCmd) Help() string {
	return `A shard is a database that holds clinics: a CockroachDB database in a region, or a PostgreSQL server, and all of the same kind. The one of --database-url, shard-1, holds the directory too, which says where each clinic is. To add another:

  export STOCKLEDGER_SHARDS='south=postgresql://ledger@south-db/stockledger'
  stockledger migrate up
  stockledger shard add shard-1 --region north
  stockledger shard add south --region south
  (restart all nodes with STOCKLEDGER_SHARDS set)
  stockledger shard open south

New clinics go to an open shard of the node's --region where there is one, and of those to the one with the fewest clinics. stockledger clinic move brings clinics from one shard to another.`
}

type shardListCmd struct{ databaseFlags }

// Run lists the shards.
func (c *shardListCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, err := c.open(ctx, txn.Config{Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	shards, err := directory.List(ctx)
	if err != nil {
		return err
	}
	moves, err := directory.Moves(ctx)
	if err != nil {
		return err
	}
	left := make(map[txn.ShardID]int)
	for _, s := range shards {
		if directory.On(s.ID) == nil {
			continue
		}
		copies, err := directory.LeftCopies(ctx, s.ID)
		if err != nil {
			return err
		}
		left[s.ID] = len(copies)
	}
	return printShards(os.Stdout, directory, shards, left, moves)
}

func printShards(out io.Writer, directory *txn.Directory, shards []txn.Shard, left map[txn.ShardID]int, moves []txn.ClinicMove) error {
	if len(shards) == 0 {
		fmt.Fprintln(out, "no shard was added: all clinics are in the database of --database-url")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SHARD\tREGION\tNEW CLINICS\tCLINICS\tLEFT BEHIND\tREACHED")
	for _, s := range shards {
		open, reached, behind := "no", "no: give it to --shard", "?"
		if s.Open {
			open = "yes"
		}
		if directory.On(s.ID) != nil {
			reached, behind = "yes", strconv.Itoa(left[s.ID])
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", s.ID, s.Region, open, s.Clinics, behind, reached)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range moves {
		fmt.Fprintf(out, "clinic %s is on its way from %s to %s since %s: start \"stockledger clinic move %s --to %s\" again unless it is running\n",
			m.Clinic, m.From, m.To, m.StartedAt.UTC().Format(time.RFC3339), m.Clinic, m.To)
	}
	return nil
}

type shardAddCmd struct {
	databaseFlags
	Shard  string `arg:"" help:"Its id: shard-1, or one that --shard gives a URL."`
	Region string `env:"STOCKLEDGER_SHARD_REGION" placeholder:"NAME" help:"The region that it is in; nodes of this --region are home to its clinics and place new ones there."`
}

// Run adds the shard. It may be repeated.
func (c *shardAddCmd) Run(ctx context.Context, log *slog.Logger) error {
	id := txn.ShardID(c.Shard)
	main, err := txn.OpenDirectory(ctx, txn.Config{DatabaseURL: c.DatabaseURL, Log: log}, nil)
	if err != nil {
		return err
	}
	defer main.Close()
	db := main.Main()
	if id != txn.MainShard {
		url := c.Shards[id]
		if url == "" {
			return fmt.Errorf("where is shard %s? Give --shard %s=URL", id, id)
		}
		if db, err = txn.Open(ctx, txn.Config{DatabaseURL: url, Log: log}); err != nil {
			return err
		}
		defer db.Close()
	}
	if err := main.Add(ctx, id, c.Region, db); err != nil {
		return err
	}
	fmt.Printf("shard %s is there; give all nodes its URL and restart them before you open it or move clinics to it\n", id)
	return nil
}

type shardOpenCmd struct {
	databaseFlags
	Shard string `arg:"" help:"The shard."`
}

// Run opens the shard.
func (c *shardOpenCmd) Run(ctx context.Context, log *slog.Logger) error {
	return setOpen(ctx, c.databaseFlags, log, c.Shard, true)
}

type shardCloseCmd struct {
	databaseFlags
	Shard string `arg:"" help:"The shard."`
}

// Run closes the shard.
func (c *shardCloseCmd) Run(ctx context.Context, log *slog.Logger) error {
	return setOpen(ctx, c.databaseFlags, log, c.Shard, false)
}

// setOpen says whether new clinics are placed on a shard.
func setOpen(ctx context.Context, databases databaseFlags, log *slog.Logger, shard string, open bool) error {
	directory, err := databases.open(ctx, txn.Config{Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	found, err := directory.SetOpen(ctx, txn.ShardID(shard), open)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("there is no shard %s; \"stockledger shard list\" shows which there are", shard)
	}
	return nil
}

// clinicMoveCmd moves a clinic to another shard.
type clinicMoveCmd struct {
	databaseFlags
	Clinic string `arg:"" help:"The clinic."`
	To     string `required:"" env:"STOCKLEDGER_MOVE_TO" placeholder:"SHARD" help:"The shard that it goes to."`
}

// Help says what happens.
func (clinicMoveCmd) Help() string {
	return `Copies the clinic's journal to the other shard and verifies it there while the clinic works; then seals the clinic where it is, brings what came since, verifies that too, opens it at its new place and has the directory say so. From the seal to the directory, which is short since most was copied before, the clinic is unavailable, and callers repeat. The old place stays sealed: a node that does not know yet is refused there, and asks the directory.

Interrupt it as you like and start it again: it goes on where it was. A move to the shard where the clinic is gives up one that was not sealed yet. After the seal it has to be brought to its end for the clinic to work.

Example:

  stockledger clinic move hillside --to south`
}

// Run moves the clinic.
func (c *clinicMoveCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, err := c.open(ctx, txn.Config{StatementTimeout: 10 * time.Minute, Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	bar := newProgress(os.Stderr, "commands", 0)
	moved, err := txn.MoveClinic(ctx, directory, ledger.ClinicID(c.Clinic), txn.ShardID(c.To), txn.MoveOptions{
		Progress: func(done, total int64) { bar.set(int(done), int(total)) },
		Done:     func(step txn.MoveStep) error { log.Debug("a step of the move is done", "step", step); return nil },
	})
	bar.finish()
	if err != nil {
		return fmt.Errorf("%w; start the move again to go on", err)
	}
	tellMove(os.Stdout, moved)
	return nil
}

func tellMove(out io.Writer, m txn.MovedClinic) {
	if m.Already {
		fmt.Fprintf(out, "nothing to do: clinic %s is on shard %s\n", m.Clinic, m.To)
		return
	}
	fmt.Fprintf(out, "clinic %s moved from shard %s to %s: %d commands, head %s, and %d rows beside the journal", m.Clinic, m.From, m.To, m.Head.Sequence, m.Head.Hash, m.Kept)
	if m.Sealed > 0 {
		fmt.Fprintf(out, "; it was unavailable for %s", m.Sealed.Round(time.Millisecond))
	}
	fmt.Fprintln(out)
}

// clinicPurgeCmd deletes what moves left behind.
type clinicPurgeCmd struct {
	databaseFlags
	Clinics []string `arg:"" optional:"" name:"clinic" help:"The clinics. Default: all that moves have left behind on the shard."`
	From    string   `required:"" env:"STOCKLEDGER_PURGE_FROM" placeholder:"SHARD" help:"The shard that they have left."`
}

// Help says what is deleted, and what is not.
func (clinicPurgeCmd) Help() string {
	return `A move leaves the clinic's journal at its old place, sealed. It takes room; on the other hand, a clinic that moves back has only the rest copied. The purge deletes it, but for the few rows that refuse a node that has not heard of the move. A clinic that is in use on the shard, or whose move has not ended, is refused.

Interrupt it as you like and start it again: it goes on where it was. "stockledger shard list" tells how many clinics have left something on each shard.

Example:

  stockledger clinic purge hillside --from shard-1`
}

// Run purges one clinic after the other.
func (c *clinicPurgeCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, err := c.open(ctx, txn.Config{StatementTimeout: 10 * time.Minute, Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	shard := txn.ShardID(c.From)
	if len(c.Clinics) == 0 {
		left, err := directory.LeftCopies(ctx, shard)
		if err != nil {
			return err
		}
		for _, clinic := range left {
			c.Clinics = append(c.Clinics, string(clinic))
		}
	}
	for _, clinic := range c.Clinics {
		rows, err := txn.PurgeCopy(ctx, directory, ledger.ClinicID(clinic), shard)
		if err != nil {
			return fmt.Errorf("%w; %d rows were deleted before", err, rows)
		}
		if rows == 0 {
			fmt.Printf("nothing to do: nothing of clinic %s is left on shard %s\n", clinic, shard)
			continue
		}
		fmt.Printf("clinic %s: %d rows deleted from shard %s\n", clinic, rows, shard)
	}
	if len(c.Clinics) == 0 {
		fmt.Printf("nothing to do: no clinic has left anything on shard %s\n", shard)
	}
	return nil
}
