package txn

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ClinicHead is the end of a clinic's journal.
type ClinicHead struct {
	Clinic ledger.ClinicID
	ledger.Head
}

// Heads reads the ends of all journals, by clinic, from after one of them.
// Clinics that are being restored or moved are left out.
func Heads(ctx context.Context, d *Directory, after ledger.ClinicID, limit int) ([]ClinicHead, error) {
	heads, err := merged(d, limit, func(h ClinicHead) string { return string(h.Clinic) }, func(db *DB) (heads []ClinicHead, err error) {
		err = db.readTx(ctx, func(tx pgx.Tx) error {
			s := selectFrom(`SELECT clinic_id, epoch, sequence, hash FROM heads WHERE`).
				add(` clinic_id > ? AND epoch > 0 ORDER BY clinic_id LIMIT ?`, after, limit)
			heads, err = collect(ctx, tx, s, func(rows pgx.Rows, h *ClinicHead) error {
				var hash []byte
				err := rows.Scan(&h.Clinic, &h.Epoch, &h.Sequence, &hash)
				copy(h.Hash[:], hash)
				return err
			})
			return err
		})
		return heads, err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list heads: %w", err)
	}
	return heads, nil
}

const selectHeadOf = `SELECT epoch, sequence, hash FROM heads WHERE clinic_id = $1`

// HeadOf reads the end of one clinic's journal. The error is ErrRestoring or
// ErrMoving while it is not there.
func HeadOf(ctx context.Context, d *Directory, clinic ledger.ClinicID) (ClinicHead, error) {
	head := ClinicHead{Clinic: clinic}
	err := d.read(ctx, clinic, func(tx pgx.Tx) error {
		var hash []byte
		if err := tx.QueryRow(ctx, selectHeadOf, clinic).Scan(&head.Epoch, &head.Sequence, &hash); err != nil {
			return err
		}
		copy(head.Hash[:], hash)
		return absence(head.Epoch)
	})
	if err != nil {
		return ClinicHead{}, fmt.Errorf("txn: read the head of clinic %s: %w", clinic, err)
	}
	return head, nil
}

// CheckpointVerdict says what a checkpoint that was kept outside of the database
// tells about a journal.
type CheckpointVerdict int

// The verdicts.
const (
	// CheckpointHolds: the journal had this hash there, and has it still.
	CheckpointHolds CheckpointVerdict = iota + 1
	// CheckpointRewound: a restore has taken that part of the journal back.
	CheckpointRewound
	// CheckpointBroken: the journal was rewritten or cut off.
	CheckpointBroken
)

// CompareCheckpoint compares a journal with a checkpoint that was kept outside
// of the database.
func (q *Queries) CompareCheckpoint(ctx context.Context, clinic ledger.ClinicID, place Place, hash ledger.Hash) (CheckpointVerdict, error) {
	verdict := CheckpointHolds
	_, err := q.read(ctx, clinic, ReadOptions{}, func(v *view) error {
		verdict = CheckpointHolds // of an attempt that failed
		epochs, err := v.epochs(ctx)
		if err != nil {
			return err
		}
		if _, taken := takenBack(epochs, place); taken {
			verdict = CheckpointRewound
			return nil
		}
		broken, err := v.checkpointStands(ctx, Checkpoint{Sequence: place.Sequence, Hash: hash, Epoch: place.Epoch})
		if broken != nil {
			verdict = CheckpointBroken
		}
		return err
	})
	return verdict, err
}

// takenBack reports whether a restore has taken a place in a journal back, and
// up to where the journal is as it was then.
func takenBack(epochs []Epoch, place Place) (common ledger.Sequence, taken bool) {
	common = place.Sequence
	for _, e := range epochs {
		if e.Epoch > place.Epoch && e.LastCommon() < common {
			common, taken = e.LastCommon(), true
		}
	}
	return common, taken
}
