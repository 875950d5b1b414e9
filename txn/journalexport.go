package txn

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// errChanged means that an export and a restore of the same clinic met.
var errChanged = errors.New("the clinic was restored meanwhile; export it again")

// ExportJournal writes a clinic's journal as a file, up to the head that it has
// now. Progress, where not nil, is called every few thousand commands.
//
// Each record is replayed before it is written, so that a file holds nothing that
// does not follow from the beginning. Memory grows with the clinic's state, not
// with its journal.
//
// Errors are a *[ledger.Rejection] with CLINIC_NOT_FOUND, ErrRestoring, one that
// names a record that does not replay, or those of the database and of w. What
// was written before an error is no journal file: its end is missing.
func ExportJournal(
	ctx context.Context, db *DB, clinic ledger.ClinicID, w io.Writer, progress func(done, total int64),
) (JournalSummary, error) {
	e := exporter{db: db, clinic: clinic, progress: progress}
	if err := e.run(ctx, w); err != nil {
		return JournalSummary{}, fmt.Errorf("txn: export clinic %s: %w", clinic, err)
	}
	return e.summary(), nil
}

// exporter exports one clinic.
type exporter struct {
	db       *DB
	clinic   ledger.ClinicID
	progress func(done, total int64)
	*replayer
}

func (e *exporter) run(ctx context.Context, w io.Writer) error {
	head, epochs, err := e.db.readHead(ctx, e.clinic)
	if err != nil {
		return err
	}
	switch {
	case head.Sequence == 0:
		return clinicNotFound(e.clinic)
	case absence(head.Epoch) != nil:
		return absence(head.Epoch)
	}
	if e.replayer, err = newReplayer(e.clinic, head.Epoch); err != nil {
		return err
	}
	out, err := NewJournalWriter(w, JournalHeader{Clinic: e.clinic, Epochs: epochs})
	if err != nil {
		return err
	}
	if err := e.write(ctx, out, head); err != nil {
		return err
	}
	if found := e.finish(head); len(found) > 0 {
		return errors.New(found[0].String())
	}
	now, _, err := e.db.readHead(ctx, e.clinic)
	if err != nil {
		return err
	}
	if absent := absence(now.Epoch); absent != nil {
		return absent
	}
	if now.Epoch != head.Epoch {
		return errChanged
	}
	return out.Close(head)
}

// write reads, replays and writes the records up to a head.
func (e *exporter) write(ctx context.Context, out *JournalWriter, head ledger.Head) error {
	pages := &journalPages{db: e.db, clinic: e.clinic, end: head.Sequence}
	for {
		event, hash, err := pages.next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		record, _, violation := e.apply(event, hash)
		if violation != nil {
			return errors.New(violation.String())
		}
		if err := out.Write(&record); err != nil {
			return err
		}
		if len(pages.page) > 0 {
			continue
		}
		if err := e.renew(); err != nil {
			return err
		}
		if e.progress != nil {
			e.progress(int64(pages.last), int64(head.Sequence))
		}
	}
}

// readHead reads a clinic's head with its epochs. Without a head its sequence is
// 0.
func (db *DB) readHead(ctx context.Context, clinic ledger.ClinicID) (head ledger.Head, epochs []Epoch, err error) {
	err = db.readTx(ctx, func(tx pgx.Tx) error {
		snapshots := loader{snapshots: map[ledger.ClinicID]*ledger.Snapshot{clinic: {}}}
		s := selectFrom(loadHeads)
		s.args = []any{[]string{string(clinic)}}
		if _, err := collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error { return snapshots.head(rows) }); err != nil {
			return err
		}
		head = snapshots.snapshots[clinic].Head
		epochs, err = readEpochs(ctx, tx, clinic)
		return err
	})
	if err != nil {
		return head, nil, fmt.Errorf("read the head: %w", err)
	}
	return head, epochs, nil
}
