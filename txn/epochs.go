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

// restoringEpoch is the epoch of a head whose journal is being restored: nobody
// but the restore may execute or read the clinic, since more of its journal is
// to come.
const restoringEpoch = 0

// ErrRestoring means that the clinic's journal is being restored. It is
// ErrUnavailable too, of this one clinic: it is back when the restore is done.
var ErrRestoring error = restoringError{}

type restoringError struct{}

// Error says what is going on.
func (restoringError) Error() string {
	return "txn: the clinic is not available while its journal is being restored"
}

// Is makes it ErrUnavailable.
func (restoringError) Is(target error) bool { return target == ErrUnavailable }

// ErrMoving means that the clinic is about to leave the shard, or has left it.
// It is ErrUnavailable too, of this one clinic: within a second or so it is
// back, here or there.
var ErrMoving error = movingError{}

type movingError struct{}

// Error says what is going on.
func (movingError) Error() string {
	return "txn: the clinic is not available while it moves to another shard"
}

// Is makes it ErrUnavailable.
func (movingError) Is(target error) bool { return target == ErrUnavailable }

// sealedEpoch is the epoch of a head whose clinic leaves the shard: nobody can
// execute it there any more.
func sealedEpoch(epoch int64) int64 { return -epoch }

// absence is why nobody may execute or read a clinic whose head has a certain
// epoch; nil where anybody may.
func absence(epoch int64) error {
	switch {
	case epoch > 0:
		return nil
	case epoch == restoringEpoch:
		return ErrRestoring
	}
	return ErrMoving
}

// Epoch is a span of a clinic's journal between two restores. The first one has
// no document of its own: it begins with the journal.
type Epoch struct {
	Epoch int64
	// FirstSequence is one after the last command that the epoch has in common
	// with the one before it.
	FirstSequence ledger.Sequence
	StartedAt     ledger.Instant
}

// LastCommon is the last command that the epoch has in common with the one
// before it.
func (e Epoch) LastCommon() ledger.Sequence { return e.FirstSequence - 1 }

// Place is a command in a certain epoch. The zero place is nowhere.
type Place struct {
	Epoch    int64
	Sequence ledger.Sequence
}

// JournalRewoundError means that a read asked for, or goes on from, a command
// that a restore has taken back.
type JournalRewoundError struct {
	Asked Place
	// Epoch is the clinic's present one.
	Epoch int64
	// LastCommon is the last sequence that the present journal has in common
	// with the one of the epoch asked for; 0 where that epoch is unknown.
	LastCommon ledger.Sequence
}

// Error says what was asked for and what is left of it.
func (e *JournalRewoundError) Error() string {
	return fmt.Sprintf("sequence %d of epoch %d was asked for, and the journal, now in epoch %d, has only the first %d commands of it",
		e.Asked.Sequence, e.Asked.Epoch, e.Epoch, e.LastCommon)
}

const (
	selectEpochs    = `SELECT epoch, first_sequence, started_at FROM epochs WHERE clinic_id = $1 ORDER BY epoch`
	selectRewound   = `SELECT min(first_sequence) FROM epochs WHERE clinic_id = $1 AND epoch > $2`
	deleteEpochs    = `DELETE FROM epochs WHERE clinic_id = $1`
	insertEpoch     = `INSERT INTO epochs (clinic_id, epoch, first_sequence, started_at) VALUES ($1, $2, $3, $4)`
	updateHeadEpoch = `UPDATE heads SET epoch = $2 WHERE clinic_id = $1`
)

// rewound compares a place with the journal of a view: nil where what happened
// up to it is still so.
func (v *view) rewound(ctx context.Context, p Place) error {
	switch {
	case p.Epoch == 0 || p.Epoch == v.asOf.Epoch:
		return nil
	case p.Epoch > v.asOf.Epoch:
		return &JournalRewoundError{Asked: p, Epoch: v.asOf.Epoch}
	}
	var first *ledger.Sequence
	if err := v.tx.QueryRow(ctx, selectRewound, v.id, p.Epoch).Scan(&first); err != nil {
		return fmt.Errorf("read the epochs of clinic %s: %w", v.id, err)
	}
	if first == nil {
		return fmt.Errorf("clinic %s is in epoch %d, of which there is no row", v.id, v.asOf.Epoch)
	}
	if last := *first - 1; p.Sequence > last {
		return &JournalRewoundError{Asked: p, Epoch: v.asOf.Epoch, LastCommon: last}
	}
	return nil
}

// readEpochs reads a clinic's epochs after the first, in their order.
func readEpochs(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) ([]Epoch, error) {
	s := selectFrom(selectEpochs)
	s.args = []any{clinic}
	epochs, err := collect(ctx, tx, s, func(rows pgx.Rows, e *Epoch) error {
		var at time.Time
		err := rows.Scan(&e.Epoch, &e.FirstSequence, &at)
		e.StartedAt = ledger.InstantOf(at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the epochs of clinic %s: %w", clinic, err)
	}
	return epochs, nil
}

// writeEpochs replaces a clinic's epochs, of which there are few.
func writeEpochs(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID, epochs []Epoch) error {
	if _, err := tx.Exec(ctx, deleteEpochs, clinic); err != nil {
		return fmt.Errorf("write the epochs of clinic %s: %w", clinic, err)
	}
	for _, e := range epochs {
		if _, err := tx.Exec(ctx, insertEpoch, clinic, e.Epoch, e.FirstSequence, e.StartedAt.Time()); err != nil {
			return fmt.Errorf("write the epochs of clinic %s: %w", clinic, err)
		}
	}
	return nil
}

// mergeEpochs joins two histories of one journal. Where they differ about an
// epoch, the one that promises less counts.
func mergeEpochs(a, b []Epoch) []Epoch {
	merged := slices.Clone(a)
	for _, e := range b {
		at, found := slices.BinarySearchFunc(merged, e.Epoch, func(m Epoch, epoch int64) int { return int(m.Epoch - epoch) })
		switch {
		case !found:
			merged = slices.Insert(merged, at, e)
		case e.FirstSequence < merged[at].FirstSequence:
			merged[at] = e
		}
	}
	return merged
}

// startEpoch begins the epoch after all that are known of the clinic, or a
// later one that is asked for, with what follows the head. The head must be
// locked.
func startEpoch(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID, head ledger.Head, known []Epoch, least int64) (Epoch, error) {
	next := Epoch{Epoch: max(head.Epoch+1, 2, least), FirstSequence: head.Sequence + 1, StartedAt: ledger.InstantOf(time.Now())}
	if n := len(known); n > 0 {
		next.Epoch = max(next.Epoch, known[n-1].Epoch+1)
	}
	_, err := tx.Exec(ctx, insertEpoch, clinic, next.Epoch, next.FirstSequence, next.StartedAt.Time())
	if err == nil {
		_, err = tx.Exec(ctx, updateHeadEpoch, clinic, next.Epoch)
	}
	if err != nil {
		return next, fmt.Errorf("start epoch %d of clinic %s: %w", next.Epoch, clinic, err)
	}
	return next, nil
}

// StartEpoch begins a new epoch of a clinic after its database was restored by
// other means than [ImportJournal]: what the restored journal holds is common to
// both epochs, and whatever else the lost one held is taken back. The new epoch
// is the one after the present one, or least where that is higher: a backup
// does not know the epochs that came after it.
//
// It returns a *[ledger.Rejection] with CLINIC_NOT_FOUND, ErrRestoring while the
// clinic is being imported, or an error of the database. After ErrAmbiguous it
// can be called again: an epoch too many does no harm.
func StartEpoch(ctx context.Context, db *DB, clinic ledger.ClinicID, least int64) (Epoch, error) {
	var started Epoch
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		head, err := lockHead(ctx, tx, clinic)
		if err != nil {
			return err
		}
		switch {
		case head.Sequence == 0:
			return clinicNotFound(clinic)
		case absence(head.Epoch) != nil:
			return absence(head.Epoch)
		}
		known, err := readEpochs(ctx, tx, clinic)
		if err != nil {
			return err
		}
		started, err = startEpoch(ctx, tx, clinic, head, known, least)
		return err
	})
	if err != nil {
		return Epoch{}, fmt.Errorf("txn: new epoch: %w", err)
	}
	return started, nil
}

// ClinicsWithHeads lists the clinics that have a journal, by id, from after one
// of them. Those that have left for another shard do not count.
func ClinicsWithHeads(ctx context.Context, db *DB, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	var clinics []ledger.ClinicID
	err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
		s := selectFrom(`SELECT clinic_id FROM heads WHERE`).add(` clinic_id > ? AND epoch >= 0 ORDER BY clinic_id LIMIT ?`, after, limit)
		clinics, err = collect(ctx, tx, s, func(rows pgx.Rows, id *ledger.ClinicID) error { return rows.Scan(id) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list clinics: %w", err)
	}
	return clinics, nil
}

// errMoved means that somebody else has written to a clinic that is being
// restored.
var errMoved = errors.New("another restore of the clinic is under way")
