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

// LeftCopy is what a move left behind on a shard.
type LeftCopy struct {
	Clinic   ledger.ClinicID
	Shard    ShardID
	SealedAt time.Time
}

// LeftCopies lists what moves have left behind on a shard that the directory
// reaches, by clinic.
func (d *Directory) LeftCopies(ctx context.Context, shard ShardID) ([]LeftCopy, error) {
	db := d.shards[shard]
	if db == nil {
		return nil, fmt.Errorf("txn: list what moves left: %w", notReached(shard))
	}
	var copies []LeftCopy
	err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
		copies, err = collect(ctx, tx, selectFrom(selectLeftCopies), func(rows pgx.Rows, c *LeftCopy) error {
			c.Shard = shard
			return rows.Scan(&c.Clinic, &c.SealedAt)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list what moves left: %w", err)
	}
	moves, err := d.Moves(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(copies, func(c LeftCopy) bool {
		return slices.ContainsFunc(moves, func(m ClinicMove) bool { return m.Clinic == c.Clinic })
	}), nil
}

const (
	selectLeftCopies = `SELECT s.clinic_id, s.sealed_at FROM sealed_clinics AS s JOIN heads AS h ON h.clinic_id = s.clinic_id
		WHERE h.epoch < 0 AND EXISTS (SELECT 1 FROM journal AS j WHERE j.clinic_id = s.clinic_id OFFSET 0) ORDER BY s.clinic_id`
	emptyHead  = `UPDATE heads SET sequence = 0, hash = $2 WHERE clinic_id = $1 AND epoch < 0`
	deleteHead = `DELETE FROM heads WHERE clinic_id = $1 AND epoch < 0 AND sequence = 0`
	hasJournal = `SELECT EXISTS (SELECT 1 FROM journal WHERE clinic_id = $1)`
)

// PurgeCopy deletes what a move left behind of a clinic on a shard, and returns
// how many rows that were. Interrupted, it can be started again, and goes on.
//
// Errors are a *[ledger.Rejection] with CLINIC_NOT_FOUND, ErrInUse, or those of
// the databases.
func PurgeCopy(ctx context.Context, d *Directory, clinic ledger.ClinicID, shard ShardID) (rows int64, err error) {
	db := d.shards[shard]
	if db == nil {
		return 0, fmt.Errorf("txn: purge clinic %s: %w", clinic, notReached(shard))
	}
	if err := d.mayPurge(ctx, clinic, shard); err != nil {
		return 0, fmt.Errorf("txn: purge clinic %s from shard %s: %w", clinic, shard, err)
	}
	there, err := db.empty(ctx, clinic)
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

// empty has the head of what a move left say that there is no journal, and
// reports whether there is such a head.
func (db *DB) empty(ctx context.Context, clinic ledger.ClinicID) (there bool, err error) {
	err = db.settle(ctx, func(tx pgx.Tx) error {
		head, err := lockHead(ctx, tx, clinic)
		if there = head.Epoch <= 0 || head.Sequence > 0; !there || err != nil {
			return err
		}
		if head.Epoch >= 0 {
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

// mayPurge fails where the directory knows better than that a clinic has left a
// shard for good.
func (d *Directory) mayPurge(ctx context.Context, clinic ledger.ClinicID, shard ShardID) error {
	return d.main.readTx(ctx, func(tx pgx.Tx) error {
		var at, from, to ShardID
		err := tx.QueryRow(ctx, directorySelect, clinic).Scan(&at)
		if errors.Is(err, pgx.ErrNoRows) {
			return clinicNotFound(clinic)
		}
		if err != nil {
			return err
		}
		var id string
		err = tx.QueryRow(ctx, selectMove, clinic).Scan(&id, &from, &to)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("%w: a move from %s to %s has not ended", ErrInUse, from, to)
		}
		if at == shard {
			err = ErrInUse
		}
		return err
	})
}

// purge deletes a table's rows of a clinic, until a move brings it back.
func (db *DB) purge(ctx context.Context, clinic ledger.ClinicID, t clinicTable, rows *int64) error {
	for more := true; more; {
		var deleted int64
		err := db.settle(ctx, func(tx pgx.Tx) (err error) {
			head, err := lockHead(ctx, tx, clinic)
			if err != nil {
				return err
			}
			if head.Epoch >= 0 || head.Sequence > 0 {
				return ErrInUse
			}
			deleted, err = t.deletePage(ctx, tx, clinic)
			return err
		})
		if err != nil {
			return fmt.Errorf("delete from %s: %w", t.name, err)
		}
		*rows += deleted
		more = deleted > 0
	}
	return nil
}

// vacate makes room for a journal that begins, where a purge has left a head
// without one.
func vacate(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) error {
	tag, err := tx.Exec(ctx, deleteHead, clinic)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	var left bool
	if err := tx.QueryRow(ctx, hasJournal, clinic).Scan(&left); err != nil {
		return err
	}
	if left {
		return fmt.Errorf("%w: what an earlier move left is not all deleted; start \"stockledger clinic purge\" again first", ErrInUse)
	}
	return nil
}
