package txn

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

const selectJournalUpTo = `SELECT event, hash FROM journal WHERE clinic_id = $1 AND sequence > $2 AND sequence <= $3 ORDER BY sequence LIMIT $4`

// errChanged means that an export and a restore of the same clinic met.
var errChanged = errors.New("the clinic was restored meanwhile; export it again")

// ExportJournal writes a clinic's journal as a file, up to the head that it has
// now. Progress, where not nil, is called every few thousand commands.
//
// What stands in a journal never changes, so the rows are read in many short
// transactions up to a head that was read first: load does not disturb the
// export, a lost connection costs one chunk and not the stream, and the export
// keeps no old rows alive. Each record is replayed before it is written, so that
// a file holds nothing that does not follow from the beginning. Memory grows
// with the clinic's state, not with its journal.
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
	for e.state.Head().Sequence < head.Sequence {
		if err := e.chunk(ctx, out, head); err != nil {
			return err
		}
		if e.progress != nil {
			e.progress(int64(e.state.Head().Sequence), int64(head.Sequence))
		}
	}
	if found := e.finish(head); len(found) > 0 {
		return errors.New(found[0].String())
	}
	now, _, err := e.db.readHead(ctx, e.clinic)
	if err != nil {
		return err
	}
	if now.Epoch != head.Epoch {
		return errChanged
	}
	return out.Close(head)
}

// chunk reads, replays and writes the next records.
func (e *exporter) chunk(ctx context.Context, out *JournalWriter, head ledger.Head) error {
	type row struct{ event, hash []byte }
	var rows []row
	err := e.db.readTx(ctx, func(tx pgx.Tx) (err error) {
		s := selectFrom(selectJournalUpTo)
		s.args = []any{e.clinic, e.state.Head().Sequence, head.Sequence, verifyChunk}
		rows, err = collect(ctx, tx, s, func(rows pgx.Rows, r *row) error { return rows.Scan(&r.event, &r.hash) })
		return err
	})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	next := e.state.Head().Sequence + 1
	if len(rows) == 0 {
		return errors.New(e.violation(ruleGapFree, next, "the journal has no such row, and its head is at %d", head.Sequence).String())
	}
	for _, r := range rows {
		if len(r.hash) != len(ledger.Hash{}) {
			return errors.New(e.violation(ruleReadable, e.state.Head().Sequence+1, "its hash has %d bytes", len(r.hash)).String())
		}
		record, _, violation := e.apply(r.event, ledger.Hash(r.hash))
		if violation != nil {
			return errors.New(violation.String())
		}
		if err := out.Write(&record); err != nil {
			return err
		}
	}
	return e.renew()
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
