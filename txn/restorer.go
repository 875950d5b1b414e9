package txn

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// How many commands of a journal one transaction imports. They are fewer than a
// group of new ones on CockroachDB: nobody waits for them, and smaller
// transactions leave room for those who work.
const (
	importCommands          = 1000
	importCommandsCockroach = 250
)

// restorer writes a journal that is there already into a database: its records
// and everything that follows from them. Meanwhile nobody else may execute or
// read the clinic there.
type restorer struct {
	db     *DB
	sql    statements
	clinic ledger.ClinicID
	start  ledger.Head // of the clinic, when it began
	// guard, where not nil, fails where the clinic is somebody else's by now.
	guard func(context.Context, pgx.Tx) error
	*replayer
}

func newRestorer(ctx context.Context, db *DB, clinic ledger.ClinicID) (restorer, error) {
	start, _, err := db.readHead(ctx, clinic)
	if err != nil {
		return restorer{}, err
	}
	again, err := newReplayer(clinic, restoringEpoch)
	return restorer{db: db, sql: newStatements(db.server.Kind), clinic: clinic, start: start, replayer: again}, err
}

// lock makes the head ours, and fails where it is not as this restorer left it.
func (r *restorer) lock(ctx context.Context, tx pgx.Tx, allowed ...ledger.Head) (ledger.Head, error) {
	head, err := lockHead(ctx, tx, r.clinic)
	if err != nil {
		return head, err
	}
	for _, want := range allowed {
		if head == want || head.Sequence == 0 && want.Sequence == 0 {
			return want, nil
		}
	}
	return head, fmt.Errorf("%w: clinic %s is at sequence %d, epoch %d", errMoved, r.clinic, head.Sequence, head.Epoch)
}

// close keeps everybody else from a clinic that has the beginning of the journal
// and is in use.
func (r *restorer) close(ctx context.Context) error {
	if r.start.Sequence == 0 || r.start.Epoch == restoringEpoch {
		r.start.Epoch = restoringEpoch
		return nil
	}
	closed := r.start
	closed.Epoch = restoringEpoch
	err := r.db.settle(ctx, func(tx pgx.Tx) error {
		if _, err := r.lock(ctx, tx, r.start, closed); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, updateHeadEpoch, r.clinic, closed.Epoch); err != nil {
			return fmt.Errorf("close clinic %s: %w", r.clinic, err)
		}
		return nil
	})
	r.start = closed
	return err
}

// next replays as many records as one transaction may hold, and says whether
// there may be more: read ends with io.EOF. Of those that the clinic has,
// nothing is kept.
func (r *restorer) next(read func() ([]byte, ledger.Hash, error)) (p *plan, more bool, err error) {
	most := importCommands
	if r.db.server.Kind == CockroachDB {
		most = importCommandsCockroach
	}
	if err := r.renew(); err != nil {
		return nil, false, err
	}
	p = newPlan(&home{clinic: r.clinic, state: r.state}, nil, nil)
	p.replays = true
	for n := 0; n < most && p.rows < maxGroupRows && p.bytes < maxGroupBytes; n++ {
		stored, hash, err := read()
		if errors.Is(err, io.EOF) {
			return p, false, nil
		}
		if err != nil {
			return p, false, err
		}
		record, effects, violation := r.apply(stored, hash)
		if violation != nil {
			return p, false, fmt.Errorf("%w since it was verified: %s", ErrDamaged, violation)
		}
		if record.Event.Sequence <= r.start.Sequence {
			p.base = r.state.Head()
			continue
		}
		p.records, p.effects = append(p.records, record), append(p.effects, effects)
		p.rows += 2 + 2*len(effects.Entries)
		p.bytes += len(record.Stored)
	}
	return p, true, nil
}

// commit writes a plan's rows.
func (r *restorer) commit(ctx context.Context, p *plan) error {
	if len(p.records) == 0 {
		return nil
	}
	set := newRowSet()
	set.add(p)
	after := r.state.Head()
	err := r.db.settle(ctx, func(tx pgx.Tx) error {
		// An attempt before this one may have been committed, unknown to us.
		at, err := r.lock(ctx, tx, p.base, after)
		if err != nil || at == after {
			return err
		}
		if r.guard != nil {
			if err := r.guard(ctx, tx); err != nil {
				return err
			}
		}
		if p.base.Sequence == 0 {
			if err := vacate(ctx, tx, r.clinic); err != nil {
				return err
			}
		}
		return set.send(ctx, tx, r.sql)
	})
	if constraint, duplicate := uniqueViolation(err); duplicate {
		return fmt.Errorf("%w: a command was recorded while the clinic was empty, or the clinic has rows and no head (%s)", ErrOtherJournal, constraint)
	}
	return err
}

// settle runs fn in transactions until its outcome is known. fn must find out
// by itself whether it was committed before.
func (db *DB) settle(ctx context.Context, fn func(pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := db.InTx(ctx, fn)
		if !isAmbiguous(err) || attempt >= db.cfg.MaxAttempts {
			return err
		}
		if ended := db.pause(ctx, attempt); ended != nil {
			return fmt.Errorf("%w: %w", ended, err)
		}
	}
}
