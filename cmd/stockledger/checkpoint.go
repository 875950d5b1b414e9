package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
)

// checkpointCmd writes signed checkpoints of journals.
type checkpointCmd struct {
	databaseFlags
	Dir       string `required:"" type:"path" env:"STOCKLEDGER_CHECKPOINT_DIR" placeholder:"FOLDER" help:"Where to write them, a file for each clinic: on another machine, or where nothing can be overwritten."`
	IssuerKey string `default:"issuer.key" type:"path" env:"STOCKLEDGER_ISSUER_KEY" placeholder:"FILE" help:"Key that signs them: the one that the nodes have. Default: issuer.key in the current folder."`
}

// Help says what checkpoints are for.
func (checkpointCmd) Help() string {
	return `Writes where each clinic's journal ends, with its hash, signed, as one more line in FOLDER/CLINIC.checkpoints. Whoever can write to the database can rewrite a journal together with its hashes; what left the database before tells. "stockledger verify --checkpoints FOLDER" compares.

Nodes with --checkpoint-dir do this once a day: it is the background job "checkpoints" of the node that leads, so all nodes need the same folder.

Example:

  stockledger checkpoint --dir /mnt/write-once/checkpoints`
}

// Run writes one checkpoint for each clinic.
func (c *checkpointCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, err := c.open(ctx, txn.Config{Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	issuer, err := rpc.OpenIssuer(c.IssuerKey)
	if err != nil {
		return err
	}
	written, err := writeCheckpoints(ctx, directory, issuer, c.Dir)
	fmt.Printf("%d checkpoints written to %s\n", written, c.Dir)
	return err
}

// checkpointSuffix ends the names of the files with checkpoints.
const checkpointSuffix = ".checkpoints"

// clinicsAtOnce is how many heads are read at a time.
const clinicsAtOnce = 500

// writeCheckpoints adds a checkpoint to the file of each clinic.
func writeCheckpoints(ctx context.Context, directory *txn.Directory, issuer *rpc.Issuer, dir string) (int, error) {
	if err := makeCheckpointDir(dir); err != nil {
		return 0, err
	}
	written := 0
	for after := ledger.ClinicID(""); ; {
		heads, err := txn.Heads(ctx, directory, after, clinicsAtOnce)
		if err != nil {
			return written, err
		}
		for _, head := range heads {
			after = head.Clinic
			if err := writeCheckpoint(issuer, dir, head); err != nil {
				return written, err
			}
			written++
		}
		if len(heads) < clinicsAtOnce {
			return written, nil
		}
	}
}

func makeCheckpointDir(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("the folder for checkpoints: %w", err)
	}
	return nil
}

// writeCheckpoint adds a line to a clinic's file.
func writeCheckpoint(issuer *rpc.Issuer, dir string, head txn.ClinicHead) error {
	line, err := issuer.SignCheckpoint(head.Clinic, txn.Place{Epoch: head.Epoch, Sequence: head.Sequence}, head.Hash)
	if err != nil {
		return err
	}
	return appendLine(filepath.Join(dir, string(head.Clinic)+checkpointSuffix), line)
}

// checkpointer is the leader's work on checkpoints at one clinic.
func checkpointer(directory *txn.Directory, issuer *rpc.Issuer, dir string) func(context.Context, txn.Errand) (txn.Looked, error) {
	return func(ctx context.Context, e txn.Errand) (txn.Looked, error) {
		head, err := txn.HeadOf(ctx, directory, e.Clinic)
		if err != nil {
			return txn.Looked{}, err
		}
		return txn.Looked{}, writeCheckpoint(issuer, dir, head)
	}
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640) //nolint:gosec // it is no secret, and auditors read it
	if err != nil {
		return err
	}
	if torn, err := endsTorn(path); err != nil {
		return errors.Join(err, f.Close())
	} else if torn {
		line = "\n" + line
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// endsTorn reports whether a file's last line has no end: whoever wrote it was
// cut off, and the next line must not be glued to it.
func endsTorn(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return false, err
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, size-1)
	return last[0] != '\n', err
}

// checkpointReport is what checkpoints tell about journals.
type checkpointReport struct{ held, rewound, broken int }

// compareCheckpoints holds the journals against the checkpoints in a folder, of
// all clinics or of some.
func compareCheckpoints(ctx context.Context, q *txn.Queries, issuer *rpc.Issuer, dir string, clinics []ledger.ClinicID, out io.Writer) (checkpointReport, error) {
	var report checkpointReport
	files, err := filepath.Glob(filepath.Join(dir, "*"+checkpointSuffix))
	if err != nil {
		return report, err
	}
	if len(files) == 0 {
		return report, fmt.Errorf("there are no checkpoints in %s", dir)
	}
	wanted := make(map[ledger.ClinicID]bool)
	for _, clinic := range clinics {
		wanted[clinic] = true
	}
	for _, path := range files {
		clinic := ledger.ClinicID(strings.TrimSuffix(filepath.Base(path), checkpointSuffix))
		if len(wanted) > 0 && !wanted[clinic] {
			continue
		}
		if err := report.compareFile(ctx, q, issuer, path, clinic, out); err != nil {
			return report, err
		}
	}
	return report, nil
}

func (r *checkpointReport) compareFile(ctx context.Context, q *txn.Queries, issuer *rpc.Issuer, path string, clinic ledger.ClinicID, out io.Writer) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for number := 1; lines.Scan(); number++ {
		c, err := issuer.ReadCheckpoint(lines.Text())
		if err != nil || c.Clinic != clinic {
			r.broken++
			fmt.Fprintf(out, "%s, line %d: this is no checkpoint of clinic %s that the key signed: %v\n", path, number, clinic, err)
			continue
		}
		verdict, err := q.CompareCheckpoint(ctx, clinic, c.Place, c.Hash)
		if err != nil {
			return fmt.Errorf("clinic %s: %w", clinic, err)
		}
		switch verdict {
		case txn.CheckpointHolds:
			r.held++
		case txn.CheckpointRewound:
			r.rewound++
		case txn.CheckpointBroken:
			r.broken++
			fmt.Fprintf(out, "clinic %s: the journal was rewritten or cut off at or before sequence %d of epoch %d: it had another hash on %s (%s, line %d)\n",
				clinic, c.Sequence, c.Epoch, c.At.UTC().Format(time.RFC3339), path, number)
		}
	}
	return lines.Err()
}
