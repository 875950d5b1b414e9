package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ErrDeposed means that another node has won the leadership since: nothing of
// what the term was to record was recorded.
var ErrDeposed = errors.New("txn: another node leads the jobs now")

// Term is the time between winning the leadership of the jobs and losing it.
type Term struct {
	// Epoch counts the terms; no two have the same.
	Epoch  int64
	Holder string
	WonAt  time.Time
}

const (
	raiseEpoch = `INSERT INTO leadership (role, epoch, holder, won_at) VALUES ('jobs', 1, $1, $2)
		ON CONFLICT (role) DO UPDATE SET epoch = leadership.epoch + 1, holder = excluded.holder, won_at = excluded.won_at
		RETURNING epoch`
	selectTerm  = `SELECT epoch, holder, won_at FROM leadership WHERE role = 'jobs'`
	lockTerm    = `SELECT epoch FROM leadership WHERE role = 'jobs' FOR UPDATE`
	joinCluster = `INSERT INTO etcd_cluster (only_row, cluster_id, recorded_at) VALUES (1, $1, $2) ON CONFLICT (only_row) DO NOTHING`
)

// TakeLead begins a term. Whoever calls it has been elected: from here on, what
// earlier terms still want to record is refused.
func (db *DB) TakeLead(ctx context.Context, holder string) (Term, error) {
	term := Term{Holder: holder, WonAt: time.Now()}
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, raiseEpoch, holder, term.WonAt).Scan(&term.Epoch)
	})
	if err != nil {
		return Term{}, fmt.Errorf("txn: take the lead: %w", err)
	}
	return term, nil
}

// Leader returns the last term that began; the zero Term where none has.
func (db *DB) Leader(ctx context.Context) (Term, error) {
	var term Term
	err := db.readTx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, selectTerm).Scan(&term.Epoch, &term.Holder, &term.WonAt)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Term{}, nil
	}
	if err != nil {
		return Term{}, fmt.Errorf("txn: who leads: %w", err)
	}
	return term, nil
}

// inTerm runs fn in a transaction that commits only while the term lasts.
func (db *DB) inTerm(ctx context.Context, term Term, fn func(pgx.Tx) error) error {
	return db.InTx(ctx, func(tx pgx.Tx) error {
		if err := lasting(ctx, tx, term); err != nil {
			return err
		}
		return fn(tx)
	})
}

// lasting makes sure that a term lasts until the transaction has ended.
func lasting(ctx context.Context, tx pgx.Tx, term Term) error {
	var epoch int64
	if err := tx.QueryRow(ctx, lockTerm).Scan(&epoch); err != nil {
		return fmt.Errorf("txn: who leads: %w", err)
	}
	if epoch != term.Epoch {
		return ErrDeposed
	}
	return nil
}

// noteInTerm runs fn in a transaction on a clinic's database, for what a leader
// notes there. On the main database, which knows who leads, it commits only
// while the term lasts. On another shard the term is asked for just before: what
// is noted there must do no harm where the leader changes in between. The zero
// Term is nobody's, and not asked for.
func (d *Directory) noteInTerm(ctx context.Context, db *DB, term Term, fn func(pgx.Tx) error) error {
	switch {
	case term.Epoch == 0:
		return db.InTx(ctx, fn)
	case db == d.main:
		return db.inTerm(ctx, term, fn)
	}
	if err := d.main.inTerm(ctx, term, func(pgx.Tx) error { return nil }); err != nil {
		return err
	}
	return db.InTx(ctx, fn)
}

// writeInTerm is noteInTerm on the database that has a clinic.
func (d *Directory) writeInTerm(ctx context.Context, term Term, clinic ledger.ClinicID, fn func(pgx.Tx) error) error {
	return d.at(ctx, clinic, func(db *DB) error {
		return d.noteInTerm(ctx, db, term, func(tx pgx.Tx) error {
			if err := unsealed(ctx, tx, clinic); err != nil {
				return err
			}
			return fn(tx)
		})
	})
}

// OtherClusterError means that the database belongs to another etcd cluster.
type OtherClusterError struct{ Has, Wants string }

// Error says what to do.
func (e *OtherClusterError) Error() string {
	return fmt.Sprintf("the database belongs to the etcd cluster %s, and this node has %s: two clusters would elect two leaders. "+
		"A further node names the first one's etcd with --etcd-endpoints (stockledger cluster status shows where it is), or takes no part with --no-cluster. "+
		"Where the first cluster is gone for good, for example because its --etcd-dir was lost, stop all nodes and run \"stockledger cluster adopt\"", e.Has, e.Wants)
}

// JoinCluster records the etcd cluster that the database belongs to, where none
// is recorded, and compares it with an OtherClusterError where one is.
func (db *DB) JoinCluster(ctx context.Context, id string) error {
	var has string
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, joinCluster, id, time.Now()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT cluster_id FROM etcd_cluster WHERE only_row = 1`).Scan(&has)
	})
	if err != nil {
		return fmt.Errorf("txn: the database's etcd cluster: %w", err)
	}
	if has != id {
		return &OtherClusterError{Has: has, Wants: id}
	}
	return nil
}

// LeaveCluster forgets the etcd cluster that the database belongs to: the next
// node that starts brings its own.
func (db *DB) LeaveCluster(ctx context.Context) error {
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM etcd_cluster WHERE only_row = 1`)
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: forget the etcd cluster: %w", err)
	}
	return nil
}
