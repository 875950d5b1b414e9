package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// clinicCmd handles whole clinics.
type clinicCmd struct {
	Export   clinicExportCmd   `cmd:"" help:"Write a clinic's journal to a file: a backup, or a move to another database."`
	Move     clinicMoveCmd     `cmd:"" help:"Move a clinic to another shard, while it works."`
	Purge    clinicPurgeCmd    `cmd:"" help:"Delete what moves have left of clinics on a shard."`
	Import   clinicImportCmd   `cmd:"" help:"Restore a clinic from its journal's file."`
	NewEpoch clinicNewEpochCmd `cmd:"" help:"Start an epoch after the database was restored by its own tools."`
}

// clinicExportCmd writes a journal.
type clinicExportCmd struct {
	databaseFlags
	Clinic string `arg:"" help:"The clinic."`
	Output string `env:"STOCKLEDGER_EXPORT_OUTPUT" placeholder:"FILE" help:"Where to: a file, which appears when it is complete and replaces one of its name, or - for standard output. Default: CLINIC.journal."`
}

// Help says what stands in the file.
func (clinicExportCmd) Help() string {
	return `Writes every command that the clinic has recorded, with its hash; the first line of the file and the last two tell what it is. It replays the journal as it reads it, and can run under load: what is recorded while it runs may be left out.

Examples:

  stockledger clinic export hillside
  stockledger clinic export hillside --output - | ssh backup "cat > hillside.journal"`
}

// Run writes the file and says what is in it.
func (c *clinicExportCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, err := c.open(ctx, txn.Config{Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	db, err := directory.DB(ctx, ledger.ClinicID(c.Clinic))
	if err != nil {
		return err
	}
	bar := newProgress(os.Stderr, "commands", 0)
	defer bar.finish()
	export := func(w io.Writer) error {
		summary, err := txn.ExportJournal(ctx, db, ledger.ClinicID(c.Clinic), w, func(done, total int64) { bar.set(int(done), int(total)) })
		if err == nil {
			bar.finish()
			fmt.Fprintln(os.Stderr, "exported", describe(summary))
		}
		return err
	}
	switch {
	case c.Output != "-":
		return writeWhole(c.file(), export)
	case term.IsTerminal(int(os.Stdout.Fd())):
		return errors.New("a journal is not for a terminal: name a file with --output, or redirect standard output")
	}
	return export(os.Stdout)
}

func (c *clinicExportCmd) file() string {
	if c.Output == "" {
		return c.Clinic + ".journal"
	}
	return c.Output
}

// describe writes what a journal holds on one line.
func describe(s txn.JournalSummary) string {
	return fmt.Sprintf("clinic %s: %d commands, %d entries; epoch %d, head %s", s.Clinic, s.Commands, s.Entries, s.Head.Epoch, s.Head.Hash)
}

// writeWhole writes a file that appears under its name when it is complete and
// on disk, and leaves nothing behind otherwise.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// clinicImportCmd restores a journal.
type clinicImportCmd struct {
	databaseFlags
	File string `arg:"" type:"existingfile" help:"The journal's file."`
}

// Help says what happens, and what is refused.
func (clinicImportCmd) Help() string {
	return `Verifies the whole file, then brings the clinic back as it was: the same commands with the same hashes, and everything that follows from them. The clinic must be empty, or have a beginning of the same journal: started again after an interruption, the import goes on where it was. Until it is done, the clinic is unavailable to everybody. At the end a new epoch starts, so that whoever has seen more than the file holds is told so.

Exit codes: 0 the clinic is there; 1 the file is damaged, or the clinic has another journal, and nothing was written; 2 the import could not run to its end: start it again.

Example:

  stockledger clinic import hillside.journal`
}

// Run imports, and ends with code 1 where that must not be.
func (c *clinicImportCmd) Run(ctx context.Context, log *slog.Logger) error {
	file, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file on disk: it is read twice, once to verify all of it before anything is written, so a pipe has to be saved first", c.File)
	}
	directory, err := c.open(ctx, txn.Config{Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	done, err := c.restore(ctx, directory, file, info.Size())
	if errors.Is(err, txn.ErrDamaged) || errors.Is(err, txn.ErrOtherJournal) {
		fmt.Fprintln(os.Stderr, "stockledger:", err)
		return exitError(1)
	}
	if err != nil {
		return err
	}
	c.tell(done)
	return nil
}

// restore imports the file and shows how far it is.
func (c *clinicImportCmd) restore(ctx context.Context, directory *txn.Directory, file *os.File, size int64) (txn.ImportedJournal, error) {
	checked, bar := newProgress(os.Stderr, "MiB verified", int(size>>20)), newProgress(os.Stderr, "commands", 0)
	defer bar.finish()
	began := false
	done, err := txn.ImportJournal(ctx, directory, file, txn.ImportJournalOptions{
		Check: func(int64) {
			if at, err := file.Seek(0, io.SeekCurrent); err == nil {
				checked.set(int(at>>20), int(size>>20))
			}
		},
		Progress: func(done, total int64) {
			if !began {
				began = true
				checked.finish()
			}
			bar.set(int(done), int(total))
		},
	})
	if err != nil && began {
		err = fmt.Errorf("the import stopped; start it again to go on: %w", err)
	}
	return done, err
}

func (c *clinicImportCmd) tell(done txn.ImportedJournal) {
	if done.Epoch.Epoch == 0 {
		fmt.Printf("nothing to do: clinic %s has all %d commands already, and is in use\n", done.Clinic, done.Commands)
		return
	}
	if done.Resumed > 0 {
		fmt.Printf("the first %d commands were there already\n", done.Resumed)
	}
	fmt.Println("imported", describe(done.JournalSummary))
	tellEpoch(done.Clinic, done.Epoch)
}

func tellEpoch(clinic ledger.ClinicID, e txn.Epoch) {
	fmt.Printf("clinic %s is in epoch %d; its last common sequence is %d\n", clinic, e.Epoch, e.LastCommon())
}

// clinicNewEpochCmd starts epochs.
type clinicNewEpochCmd struct {
	databaseFlags
	Clinic []string `arg:"" optional:"" help:"The clinics."`
	All    bool     `env:"STOCKLEDGER_ALL_CLINICS" help:"All clinics of the database."`
	Epoch  int64    `env:"STOCKLEDGER_EPOCH" placeholder:"N" help:"Number of the epoch, where the lost database had one that the backup does not know. Default: the one after the present one."`
}

// Help says when to run it.
func (clinicNewEpochCmd) Help() string {
	return `Run it once after the database was restored by its own tools (pg_restore, RESTORE) and before nodes are started. What was recorded after the backup is lost, and its sequences will come again with other commands; the epoch tells the two apart: whoever asks for a command that the restored database does not have gets JOURNAL_REWOUND with the last common sequence. stockledger clinic import does this by itself.

Examples:

  stockledger clinic new-epoch --all
  stockledger clinic new-epoch hillside riverside`
}

// Run starts the epochs.
func (c *clinicNewEpochCmd) Run(ctx context.Context, log *slog.Logger) error {
	if c.All == (len(c.Clinic) > 0) {
		return errors.New("name the clinics, or give --all")
	}
	directory, err := c.open(ctx, txn.Config{Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	start := func(clinic ledger.ClinicID) error {
		db, err := directory.DB(ctx, clinic)
		if err != nil {
			return err
		}
		epoch, err := txn.StartEpoch(ctx, db, clinic, c.Epoch)
		if err != nil {
			return err
		}
		tellEpoch(clinic, epoch)
		return nil
	}
	for _, clinic := range c.Clinic {
		if err := start(ledger.ClinicID(clinic)); err != nil {
			return err
		}
	}
	if !c.All {
		return nil
	}
	for _, shard := range directory.Shards() {
		if err := eachClinic(ctx, directory.On(shard), start); err != nil {
			return err
		}
	}
	return nil
}

// eachClinic visits all clinics of a shard that have a journal.
func eachClinic(ctx context.Context, db *txn.DB, visit func(ledger.ClinicID) error) error {
	const chunk = 1000
	for after := ledger.ClinicID(""); ; {
		clinics, err := txn.ClinicsWithHeads(ctx, db, after, chunk)
		if err != nil {
			return err
		}
		for _, clinic := range clinics {
			if err := visit(clinic); err != nil {
				return err
			}
			after = clinic
		}
		if len(clinics) < chunk {
			return nil
		}
	}
}

// verifyFile verifies a journal's file, - for standard input, without any
// database.
func verifyFile(ctx context.Context, path string, out io.Writer) error {
	in := io.Reader(bufio.NewReader(os.Stdin))
	total := int64(0)
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		in, total = file, info.Size()
	}
	read := &countingReader{r: in}
	bar := newProgress(os.Stderr, "MiB", int(total>>20))
	defer bar.finish()
	summary, violations, err := txn.VerifyJournal(ctx, read, txn.VerifyJournalOptions{
		Report:   func(v txn.Violation) { fmt.Fprintln(out, v) },
		Progress: func(int64) { bar.set(int(read.n>>20), int(max(total, read.n)>>20)) },
	})
	bar.finish()
	if err != nil {
		return err
	}
	if violations > 0 {
		fmt.Fprintf(out, "clinic %s: %d commands and %d entries replay; %d violations\n", summary.Clinic, summary.Commands, summary.Entries, violations)
		return exitError(1)
	}
	fmt.Fprintf(out, "%s; 0 violations\n", describe(summary))
	return nil
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
