package txn

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ErrOtherJournal means that a journal file can't be imported into a clinic,
// because it has a journal that is not the beginning of the file's.
var ErrOtherJournal = errors.New("the clinic has another journal")

// ImportJournalOptions say what happens during [ImportJournal]. Nothing is
// required.
type ImportJournalOptions struct {
	// Check is called while the file is verified, Progress while it is imported:
	// every few thousand commands.
	Check    func(commands int64)
	Progress func(done, total int64)
}

// ImportedJournal says what an import did.
type ImportedJournal struct {
	JournalSummary
	// Resumed is the last sequence that the clinic had already.
	Resumed ledger.Sequence
	// Epoch is the epoch that the import started; its first sequence follows the
	// file's head. It is zero where the clinic had the whole journal already, in
	// use, and so nothing was done.
	Epoch Epoch
}

// ImportJournal restores a clinic's journal from a file: the same records with
// the same hashes, and everything that follows from them, a bounded number of
// commands in each transaction. Then it starts an epoch, since the clinic may
// have gone on after the export.
//
// The whole file is verified before anything is written, so it is read twice.
// The clinic must have no journal, or a beginning of this one: an import that
// was interrupted goes on where it was. Until it is done, the clinic answers
// ErrRestoring to everybody.
//
// Errors wrap ErrDamaged or ErrOtherJournal, then with nothing written, or are
// those of the file or the database; then the import can be started again.
func ImportJournal(ctx context.Context, d *Directory, file io.ReadSeeker, options ImportJournalOptions) (ImportedJournal, error) {
	im := importer{directory: d, file: file, options: options}
	if err := im.run(ctx); err != nil {
		return im.done, fmt.Errorf("txn: import a journal: %w", err)
	}
	return im.done, nil
}

// importer imports one file.
type importer struct {
	directory *Directory
	file      io.ReadSeeker
	options   ImportJournalOptions

	header JournalHeader
	shard  ShardID     // that has the clinic, or will
	end    ledger.Head // of the file
	done   ImportedJournal
	restorer
}

func (im *importer) run(ctx context.Context) error {
	if err := im.check(ctx); err != nil {
		return err
	}
	if im.start.Epoch != restoringEpoch && im.start.Sequence == im.end.Sequence {
		return nil // it is all there, and in use
	}
	if db, err := im.directory.settle(ctx, im.header.Clinic, im.shard); err != nil {
		return err
	} else if db != im.db {
		return fmt.Errorf("%w: clinic %s was created on another shard meanwhile", errMoved, im.header.Clinic)
	}
	if err := im.close(ctx); err != nil {
		return err
	}
	if err := im.write(ctx); err != nil {
		return err
	}
	return im.open(ctx)
}

// check verifies the file and compares its beginning with the clinic's journal.
func (im *importer) check(ctx context.Context) error {
	reader, err := im.rewind()
	if err != nil {
		return err
	}
	im.header = reader.Header()
	if im.shard, err = im.directory.future(ctx, im.header.Clinic); err != nil {
		return err
	}
	db := im.directory.shards[im.shard]
	if db == nil {
		return im.directory.unreached(im.header.Clinic, im.shard)
	}
	if im.restorer, err = newRestorer(ctx, db, im.header.Clinic); err != nil {
		return err
	}
	if errors.Is(absence(im.start.Epoch), ErrMoving) {
		return fmt.Errorf("%w: let the move of clinic %s end first", ErrMoving, im.header.Clinic)
	}
	if _, err := im.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the journal file: %w", err)
	}
	var link ledger.Hash
	var first *Violation
	summary, violations, err := VerifyJournal(ctx, im.file, VerifyJournalOptions{
		Progress: im.options.Check,
		Report: func(v Violation) {
			if first == nil {
				first = &v
			}
		},
		visit: func(record *ledger.Record) {
			if record.Event.Sequence == im.start.Sequence {
				link = record.Hash
			}
		},
	})
	switch {
	case err != nil:
		return err
	case violations > 0:
		return fmt.Errorf("%w: %s", ErrDamaged, first)
	}
	im.end = summary.Head
	im.done.JournalSummary, im.done.Resumed = summary, im.start.Sequence
	return im.compare(link)
}

// compare says whether the clinic's journal is a beginning of the file's; link
// is the file's hash where the clinic's journal ends.
func (im *importer) compare(link ledger.Hash) error {
	switch {
	case im.start.Sequence == 0:
		return nil
	case im.start.Sequence > im.end.Sequence:
		return fmt.Errorf("%w: clinic %s is at sequence %d already, and the file ends at %d",
			ErrOtherJournal, im.header.Clinic, im.start.Sequence, im.end.Sequence)
	case im.start.Hash != link:
		return fmt.Errorf("%w: at sequence %d clinic %s has hash %s, and the file has %s",
			ErrOtherJournal, im.start.Sequence, im.header.Clinic, im.start.Hash, link)
	}
	return nil
}

func (im *importer) rewind() (*JournalReader, error) {
	if _, err := im.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the journal file: %w", err)
	}
	return NewJournalReader(im.file)
}

// write replays the file again and writes what the clinic does not have.
func (im *importer) write(ctx context.Context) error {
	reader, err := im.rewind()
	if err != nil {
		return err
	}
	for more := true; more; {
		var p *plan
		if p, more, err = im.next(reader.Next); err != nil {
			return err
		}
		if err := im.commit(ctx, p); err != nil {
			return err
		}
		if im.options.Progress != nil {
			im.options.Progress(int64(im.state.Head().Sequence), int64(im.end.Sequence))
		}
	}
	return nil
}

// open starts an epoch that is after all epochs of the clinic and of the file,
// and with it lets everybody in again.
func (im *importer) open(ctx context.Context) error {
	closed := im.state.Head()
	return im.db.settle(ctx, func(tx pgx.Tx) error {
		known, err := readEpochs(ctx, tx, im.header.Clinic)
		if err != nil {
			return err
		}
		if n := len(known); im.done.Epoch.Epoch != 0 && n > 0 && known[n-1].Epoch == im.done.Epoch.Epoch {
			return nil // an attempt before this one was committed, unknown to us
		}
		head, err := im.lock(ctx, tx, closed)
		if err != nil {
			return err
		}
		known = mergeEpochs(known, im.header.Epochs)
		if err := writeEpochs(ctx, tx, im.header.Clinic, known); err != nil {
			return err
		}
		im.done.Epoch, err = startEpoch(ctx, tx, im.header.Clinic, head, known, im.end.Epoch+1)
		return err
	})
}
