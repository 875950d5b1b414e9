package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// A move leaves a sealed copy where the clinic was. Purging deletes it in steps,
// each of which may be repeated:
//
//	empty   the sealed head says that there is no journal
//	delete  what follows from the journal, a part at a time, and then the journal
//
// The head stays, sealed, and so does the clinic's row: whoever still takes the
// clinic to be there is refused as before. A clinic that comes back begins anew,
// once all of its copy is deleted.

// purgedTables are those whose rows of a clinic a purge deletes, in their order.
// What is kept beside the journal a move has deleted already.
var purgedTables = func() []clinicTable {
	tables := slices.Clone(keptTables)
	for _, t := range slices.Concat([]table{cursorsTable}, modelTables, []table{
		entriesTable, stockTable, holdsTable, documentsTable, lotsTable, medicinesTable, locationsTable, journalTable,
	}) {
		tables = append(tables, clinicTable{t.name, t.key[1:], 1000})
	}
	return tables
}()

// ErrInUse means that what is to be purged is no copy that a move left behind.
var ErrInUse = errors.New("the clinic is in use on that shard, or on its way to it or from it")

// ErrHalfPurged means that a clinic can't move to a shard before a purge there has
// ended.
var ErrHalfPurged = errors.New(`what an earlier move left on that shard is not all deleted: start "stockledger clinic purge" again first; ` +
	`where this move is in its way, give the move up by one to the shard where the clinic is`)

// purgeTimeout bounds a transaction of a purge. The first of a table may have to
// pass over much that was deleted just before.
const purgeTimeout = 10 * time.Minute

// LeftCopies lists the clinics of which moves have left something behind on a
// shard, in order. Errors are ErrUnavailable where the directory does not reach the
// shard, or those of the databases.
func (d *Directory) LeftCopies(ctx context.Context, shard ShardID) ([]ledger.ClinicID, error) {
	db := d.shards[shard]
	if db == nil {
		return nil, fmt.Errorf("txn: list what moves left: %w", notReached(shard))
	}
	var clinics []ledger.ClinicID
	err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
		clinics, err = collect(ctx, tx, selectFrom(selectLeftCopies), func(rows pgx.Rows, id *ledger.ClinicID) error { return rows.Scan(id) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list what moves left: %w", err)
	}
	moves, err := d.Moves(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(clinics, func(id ledger.ClinicID) bool {
		return slices.ContainsFunc(moves, func(m ClinicMove) bool { return m.Clinic == id })
	}), nil
}

const (
	selectLeftCopies = `SELECT s.clinic_id FROM sealed_clinics AS s JOIN heads AS h ON h.clinic_id = s.clinic_id
		WHERE h.epoch < 0 AND EXISTS (SELECT 1 FROM journal AS j WHERE j.clinic_id = s.clinic_id OFFSET 0) ORDER BY s.clinic_id`
	emptyHead   = `UPDATE heads SET sequence = 0, hash = $2 WHERE clinic_id = $1 AND epoch < 0`
	deleteHead  = `DELETE FROM heads WHERE clinic_id = $1 AND epoch < 0 AND sequence = 0`
	firstRecord = `SELECT sequence FROM journal WHERE clinic_id = $1 ORDER BY clinic_id, sequence LIMIT 1`
)

// PurgeCopy deletes what a move left behind of a clinic on a shard, and returns
// how many rows that were. Interrupted, it can be started again, and goes on.
//
// Errors are a *[ledger.Rejection] with CLINIC_NOT_FOUND, ErrInUse, ErrOtherJournal
// where the clinic has not all of it at its present place, ErrUnavailable where the
// directory does not reach one of the two shards, or those of the databases.
func PurgeCopy(ctx context.Context, d *Directory, clinic ledger.ClinicID, shard ShardID) (rows int64, err error) {
	db := d.shards[shard]
	if db == nil {
		return 0, fmt.Errorf("txn: purge clinic %s: %w", clinic, notReached(shard))
	}
	db = db.patient(purgeTimeout)
	seal, err := db.sealer(ctx, clinic) // before the directory is asked
	var at ShardID
	if err == nil {
		at, err = d.mayPurge(ctx, clinic, shard)
	}
	if err == nil {
		err = d.isKept(ctx, clinic, db, at)
	}
	there := false
	if err == nil {
		there, err = db.empty(ctx, clinic, seal)
	}
	for _, t := range purgedTables {
		if err == nil && there {
			err = db.purge(ctx, clinic, t, &rows)
		}
	}
	if err != nil {
		return rows, fmt.Errorf("txn: purge clinic %s from shard %s: %w", clinic, shard, err)
	}
	return rows, nil
}

// sealer is the move that a shard knows a clinic's seal by; empty: none.
func (db *DB) sealer(ctx context.Context, clinic ledger.ClinicID) (move string, err error) {
	err = db.readTx(ctx, func(tx pgx.Tx) error {
		move, err = sealerOf(ctx, tx, clinic)
		return err
	})
	return move, err
}

func sealerOf(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) (move string, err error) {
	err = tx.QueryRow(ctx, selectSealer, clinic).Scan(&move)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return move, err
}

// empty has the head of what a move left say that there is no journal, and
// reports whether there is such a head. Another seal than the one that was there
// when the directory was asked is that of a later move: the clinic has been back.
func (db *DB) empty(ctx context.Context, clinic ledger.ClinicID, seal string) (there bool, err error) {
	err = db.settle(ctx, func(tx pgx.Tx) error {
		head, err := lockHead(ctx, tx, clinic)
		if there = head.Epoch <= 0 || head.Sequence > 0; !there || err != nil {
			return err
		}
		now, err := sealerOf(ctx, tx, clinic)
		if err != nil {
			return err
		}
		if head.Epoch >= 0 || now != seal {
			return ErrInUse
		}
		var none ledger.Hash
		_, err = tx.Exec(ctx, emptyHead, clinic, none[:])
		return err
	})
	return there, err
}

func notReached(shard ShardID) error {
	return fmt.Errorf("%w: shard %s is not reached; give it to --shard", ErrUnavailable, shard)
}

// mayPurge returns the shard where a clinic is, and fails where the directory
// knows better than that it has left another one for good.
func (d *Directory) mayPurge(ctx context.Context, clinic ledger.ClinicID, shard ShardID) (at ShardID, err error) {
	err = d.main.readTx(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, directorySelect, clinic).Scan(&at)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return clinicNotFound(clinic)
		case err != nil:
			return err
		case at == shard:
			return ErrInUse
		}
		var id string
		var from, to ShardID
		err = tx.QueryRow(ctx, selectMove, clinic).Scan(&id, &from, &to)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return err
		}
		return fmt.Errorf("%w: a move from %s to %s has not ended", ErrInUse, from, to)
	})
	return at, err
}

// isKept fails unless the shard where a clinic is has all of the journal that a
// move left behind.
func (d *Directory) isKept(ctx context.Context, clinic ledger.ClinicID, left *DB, at ShardID) error {
	db := d.shards[at]
	if db == nil {
		return d.unreached(clinic, at)
	}
	head, _, err := left.readHead(ctx, clinic)
	if err != nil || head.Sequence == 0 {
		return err
	}
	hash, err := db.hashAt(ctx, clinic, head.Sequence)
	if err == nil && hash != head.Hash {
		err = fmt.Errorf("%w on shard %s: what was left goes up to sequence %d, hash %s, and is not all there", ErrOtherJournal, at, head.Sequence, head.Hash)
	}
	return err
}

// purge deletes a table's rows of a clinic, until a move brings it back.
func (db *DB) purge(ctx context.Context, clinic ledger.ClinicID, t clinicTable, rows *int64) error {
	for after, more := []any(nil), true; more; {
		var last []any
		var deleted int64
		err := db.settle(ctx, func(tx pgx.Tx) (err error) {
			head, err := lockHead(ctx, tx, clinic)
			if err != nil {
				return err
			}
			if head.Epoch >= 0 || head.Sequence > 0 {
				return ErrInUse
			}
			last, deleted, err = t.deletePage(ctx, tx, clinic, after)
			return err
		})
		if err != nil {
			return fmt.Errorf("delete from %s: %w", t.name, err)
		}
		*rows += deleted
		after, more = last, deleted > 0
	}
	return nil
}

// halfPurged fails where what an earlier move left of a clinic is not all deleted.
func halfPurged(ctx context.Context, db *DB, clinic ledger.ClinicID) error {
	head, _, err := db.readHead(ctx, clinic)
	if err != nil || head.Epoch >= 0 || head.Sequence > 0 {
		return err
	}
	return db.readTx(ctx, func(tx pgx.Tx) error { return noJournal(ctx, tx, clinic) })
}

// noJournal fails where there are rows of a clinic's journal.
func noJournal(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) error {
	var first ledger.Sequence
	err := tx.QueryRow(ctx, firstRecord, clinic).Scan(&first)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return ErrHalfPurged
}

// vacate makes room for a journal that begins, where a purge has left a head
// without one.
func vacate(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) error {
	tag, err := tx.Exec(ctx, deleteHead, clinic)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	return noJournal(ctx, tx, clinic)
}
