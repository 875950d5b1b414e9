package txn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// A clinic moves in steps, each of which may be repeated:
//
//	begin   note the move beside the directory
//	copy    replay the journal into the other shard, and verify it there, while
//	        the clinic works
//	seal    from here on nobody can execute or read it where it was
//	rest    copy what came since, and what is kept beside the journal; verify
//	open    it is in use at the other shard: what was copied is what was sealed
//	flip    the directory says so
//	clear   delete what was kept beside the journal where the clinic was
//	end     forget the move
//
// A move that was interrupted goes on when it is started again. Two that do the
// same one at a time do no harm: until the clinic is opened both write the same
// rows, and afterwards neither writes any. Each move has an id, which stands
// beside the directory and on both shards, and every step looks for it: one that
// slept through the move's end, and through later ones, does nothing more.

// MoveStep is a step of a move.
type MoveStep string

// The steps, in their order.
const (
	MoveBegin MoveStep = "begin"
	MoveCopy  MoveStep = "copy"
	MoveSeal  MoveStep = "seal"
	MoveRest  MoveStep = "rest"
	MoveOpen  MoveStep = "open"
	MoveFlip  MoveStep = "flip"
	MoveClear MoveStep = "clear"
	MoveEnd   MoveStep = "end"
)

// MoveOptions say what happens during [MoveClinic]. Nothing is required.
type MoveOptions struct {
	// Progress is called every few thousand commands that were copied or read.
	Progress func(done, total int64)
	// Done is called after each step; its error ends the move there.
	Done func(MoveStep) error
}

// MovedClinic says what a move did.
type MovedClinic struct {
	Clinic   ledger.ClinicID
	From, To ShardID
	Head     ledger.Head // of the journal that moved
	Kept     int64       // rows that were copied beside the journal
	// Sealed is how long the clinic was not available, as far as this attempt
	// knows: from the seal to the directory.
	Sealed time.Duration
	// Already tells that it was there and nothing was done.
	Already bool
}

// errMoveEnded means that the move is not under way any more: somebody else has
// brought it to its end.
var errMoveEnded = errors.New("the move has ended meanwhile; \"stockledger shard list\" shows where clinics are")

// ErrMovesElsewhere means that a move of the clinic to another shard has not
// ended.
var ErrMovesElsewhere = errors.New("the clinic is on its way to another shard")

// MoveClinic moves a clinic to another shard that the directory reaches: its
// journal with the same hashes, everything that follows from it, and what is
// kept of patients and operations. It verifies the copy before anybody uses it.
// The clinic works meanwhile, but for a moment at the end.
//
// Errors are a *[ledger.Rejection] with CLINIC_NOT_FOUND, ErrRestoring,
// ErrMovesElsewhere, ErrHalfPurged, one that names what does not verify, or those
// of the databases. Whatever the error, the move can be started again, and goes on
// where it was. A move to the shard where the clinic is gives up one that was not
// sealed yet.
func MoveClinic(ctx context.Context, d *Directory, clinic ledger.ClinicID, to ShardID, options MoveOptions) (MovedClinic, error) {
	m := mover{directory: d, clinic: clinic, options: options, moved: MovedClinic{Clinic: clinic, To: to}}
	if err := m.run(ctx); err != nil {
		return m.moved, fmt.Errorf("txn: move clinic %s: %w", clinic, err)
	}
	return m.moved, nil
}

// mover moves one clinic.
type mover struct {
	directory *Directory
	clinic    ledger.ClinicID
	id        string
	options   MoveOptions
	from, to  *DB
	verified  reconciled // how far the copy is
	sealedAt  time.Time
	moved     MovedClinic
	restorer
}

func (m *mover) run(ctx context.Context) error {
	if to := m.directory.shards[m.moved.To]; to != nil {
		if err := halfPurged(ctx, to, m.clinic); err != nil {
			return err
		}
	}
	flipped, err := m.begin(ctx)
	if err != nil || m.moved.Already {
		return err
	}
	if !flipped {
		if err := m.transfer(ctx); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		name MoveStep
		do   func(context.Context) error
	}{{MoveFlip, m.flip}, {MoveClear, m.clear}, {MoveEnd, m.end}} {
		if err := m.step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// step does a step and tells of it.
func (m *mover) step(ctx context.Context, name MoveStep, do func(context.Context) error) error {
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if m.options.Done != nil {
		return m.options.Done(name)
	}
	return nil
}

const (
	selectMove = `SELECT move_id, from_shard, to_shard FROM clinic_moves WHERE clinic_id = $1`
	insertMove = `INSERT INTO clinic_moves (clinic_id, move_id, from_shard, to_shard, started_at) VALUES ($1, $2, $3, $4, now())`
	deleteMove = `DELETE FROM clinic_moves WHERE clinic_id = $1`
	flipClinic = `UPDATE clinic_directory SET shard_id = $3 WHERE clinic_id = $1 AND shard_id = $2`
	sealClinic = `INSERT INTO sealed_clinics (clinic_id, move_id, sealed_at) VALUES ($1, $2, now())
		ON CONFLICT (clinic_id) DO UPDATE SET move_id = excluded.move_id, sealed_at = excluded.sealed_at`
	openClinic   = `DELETE FROM sealed_clinics WHERE clinic_id = $1`
	selectSealer = `SELECT move_id FROM sealed_clinics WHERE clinic_id = $1`
)

// begin notes the move, or finds the one that was begun, and says whether the
// directory was flipped already.
func (m *mover) begin(ctx context.Context) (flipped bool, err error) {
	var elsewhere ShardID // where a move that has not ended goes
	err = m.step(ctx, MoveBegin, func(ctx context.Context) error {
		return m.directory.main.settleNew(ctx, func(tx pgx.Tx) error {
			m.moved.Already, m.id, elsewhere = false, rand.Text(), ""
			var at, to ShardID
			err := tx.QueryRow(ctx, directorySelect, m.clinic).Scan(&at)
			if errors.Is(err, pgx.ErrNoRows) {
				return clinicNotFound(m.clinic)
			}
			if err != nil {
				return err
			}
			flipped = at == m.moved.To
			err = tx.QueryRow(ctx, selectMove, m.clinic).Scan(&m.id, &m.moved.From, &to)
			switch {
			case errors.Is(err, pgx.ErrNoRows) && flipped:
				m.moved.From, m.moved.Already = at, true
				return nil
			case errors.Is(err, pgx.ErrNoRows):
				m.moved.From = at
				_, err = tx.Exec(ctx, insertMove, m.clinic, m.id, at, m.moved.To)
			case err == nil && to != m.moved.To:
				elsewhere = to
			}
			return err
		})
	})
	if err != nil {
		return false, err
	}
	if elsewhere != "" {
		return false, m.abandon(ctx, elsewhere)
	}
	m.from, m.to = m.directory.shards[m.moved.From], m.directory.shards[m.moved.To]
	for shard, db := range map[ShardID]*DB{m.moved.From: m.from, m.moved.To: m.to} {
		if db == nil {
			return false, m.directory.unreached(m.clinic, shard)
		}
	}
	return flipped, nil
}

// abandon gives up a move to another shard where this one asks for the clinic to
// stay, as long as it is not sealed. What was copied is sealed at once.
func (m *mover) abandon(ctx context.Context, elsewhere ShardID) error {
	from, to := m.directory.shards[m.moved.From], m.directory.shards[elsewhere]
	if from == nil || to == nil || m.moved.To != m.moved.From {
		return fmt.Errorf("%w, %s: let that move end first", ErrMovesElsewhere, elsewhere)
	}
	head, _, err := from.readHead(ctx, m.clinic)
	if err != nil {
		return err
	}
	if head.Epoch <= 0 {
		return fmt.Errorf("%w, %s, and is sealed: let that move end first", ErrMovesElsewhere, elsewhere)
	}
	err = to.settle(ctx, func(tx pgx.Tx) error {
		copied, err := lockHead(ctx, tx, m.clinic)
		if err != nil || copied.Sequence == 0 || copied.Epoch != restoringEpoch {
			return err
		}
		_, err = tx.Exec(ctx, updateHeadEpoch, m.clinic, sealedEpoch(head.Epoch))
		return err
	})
	if err == nil {
		err = m.end(ctx)
	}
	m.moved.Already = true
	return err
}

// settleNew is settle for what inserts a row that somebody else may insert at the
// same time: it looks again then.
func (db *DB) settleNew(ctx context.Context, fn func(pgx.Tx) error) error {
	err := db.settle(ctx, fn)
	if _, taken := uniqueViolation(err); taken {
		err = db.settle(ctx, fn)
	}
	return err
}

// transfer brings everything to the other shard and opens the clinic there.
func (m *mover) transfer(ctx context.Context) error {
	head, _, err := m.from.readHead(ctx, m.clinic)
	if err != nil {
		return err
	}
	if m.restorer, err = newRestorer(ctx, m.to, m.clinic); err != nil {
		return err
	}
	m.guard = m.ours
	switch {
	case m.start.Epoch > 0 && m.start.Sequence > 0:
		return m.opened(ctx, head)
	case head.Sequence == 0: // its creation was never accepted
		return errors.Join(clinicNotFound(m.clinic), m.end(ctx))
	case head.Epoch == restoringEpoch:
		return ErrRestoring
	}
	if err := m.prepare(ctx); err != nil {
		return err
	}
	if head.Epoch > 0 {
		if err := m.step(ctx, MoveCopy, func(ctx context.Context) error { return m.copy(ctx, head) }); err != nil {
			return err
		}
	}
	if err := m.step(ctx, MoveSeal, m.seal); err != nil {
		return err
	}
	if err := m.step(ctx, MoveRest, m.rest); err != nil {
		return err
	}
	return m.step(ctx, MoveOpen, m.open)
}

// opened makes sure that the other shard has what was sealed, where it is in use
// there: an earlier attempt has opened it.
func (m *mover) opened(ctx context.Context, left ledger.Head) error {
	hash, err := m.to.hashAt(ctx, m.clinic, left.Sequence)
	if err != nil {
		return err
	}
	if left.Epoch >= 0 || m.start.Epoch < -left.Epoch || hash != left.Hash {
		return fmt.Errorf("%w: the clinic is in use on shard %s too, and that is not what shard %s has", ErrOtherJournal, m.moved.To, m.moved.From)
	}
	m.moved.Head = m.start
	return nil
}

// hashAt is the hash of a clinic's record; zero where there is none.
func (db *DB) hashAt(ctx context.Context, clinic ledger.ClinicID, sequence ledger.Sequence) (hash ledger.Hash, err error) {
	err = db.readTx(ctx, func(tx pgx.Tx) error {
		var stored []byte
		err := tx.QueryRow(ctx, `SELECT hash FROM journal WHERE clinic_id = $1 AND sequence = $2`, clinic, sequence).Scan(&stored)
		copy(hash[:], stored)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return hash, err
}

// prepare closes what the other shard has of the clinic, in this move's name.
func (m *mover) prepare(ctx context.Context) error {
	if err := m.close(ctx); err != nil {
		return err
	}
	return m.to.settle(ctx, func(tx pgx.Tx) error {
		if _, err := m.lock(ctx, tx, m.start); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sealClinic, m.clinic, m.id)
		return err
	})
}

// ours fails where a shard says that the clinic is not in this move.
func (m *mover) ours(ctx context.Context, tx pgx.Tx) error {
	id, err := sealerOf(ctx, tx, m.clinic)
	if err == nil && id != m.id {
		return errMoveEnded
	}
	return err
}

// underWay fails where the directory's database does not know this move.
func (m *mover) underWay(ctx context.Context, tx pgx.Tx) error {
	var id string
	var from, to ShardID
	err := tx.QueryRow(ctx, selectMove, m.clinic).Scan(&id, &from, &to)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && id != m.id {
		return errMoveEnded
	}
	return err
}

// copy replays the journal up to a head into the other shard and verifies what
// came of it.
func (m *mover) copy(ctx context.Context, head ledger.Head) error {
	if m.start.Sequence > head.Sequence {
		return fmt.Errorf("%w: shard %s has it up to sequence %d, and shard %s up to %d", ErrOtherJournal, m.moved.To, m.start.Sequence, m.moved.From, head.Sequence)
	}
	pages := &journalPages{db: m.from, clinic: m.clinic, last: m.state.Head().Sequence, end: head.Sequence}
	read := func() ([]byte, ledger.Hash, error) {
		event, hash, err := pages.next(ctx)
		if err == nil && pages.last == m.start.Sequence && hash != m.start.Hash {
			err = fmt.Errorf("%w: at sequence %d shard %s has hash %s, and shard %s has %s",
				ErrOtherJournal, pages.last, m.moved.To, m.start.Hash, m.moved.From, hash)
		}
		return event, hash, err
	}
	for more := true; more; {
		var p *plan
		var err error
		if p, more, err = m.next(read); err != nil {
			return err
		}
		if err := m.commit(ctx, p); err != nil {
			return err
		}
		if m.options.Progress != nil {
			m.options.Progress(int64(m.state.Head().Sequence), int64(head.Sequence))
		}
	}
	return m.verify(ctx, head)
}

// verify compares everything that was written to the other shard with the
// journal there, from where it was verified before, and that with a head.
func (m *mover) verify(ctx context.Context, head ledger.Head) error {
	var v *verifier
	place := m.verified
	err := m.to.patient(verifyTimeout).readTx(ctx, func(tx pgx.Tx) error {
		v = newVerifier(m.clinic, tx)
		v.server, v.arriving = m.to.server.Kind, true
		place = m.verified
		if place.Sequence > 0 {
			return v.since(ctx, &place)
		}
		if err := v.run(ctx); err != nil {
			return err
		}
		place.Sequence, place.hash = v.state.Head().Sequence, v.state.Head().Hash
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify the copy: %w", err)
	}
	if v.count > 0 {
		return fmt.Errorf("the copy does not verify: %s", v.sorted()[0])
	}
	if place.Sequence != head.Sequence || place.hash != head.Hash {
		return fmt.Errorf("the copy ends at sequence %d, hash %s, and not at %d, %s", place.Sequence, place.hash, head.Sequence, head.Hash)
	}
	m.verified = place
	return nil
}

// sealAttempts is how often the seal is tried. Every command of a busy clinic may
// come before it.
const sealAttempts = 100

// seal keeps everybody from the clinic where it was, for good.
func (m *mover) seal(ctx context.Context) error {
	err := m.directory.main.readTx(ctx, func(tx pgx.Tx) error { return m.underWay(ctx, tx) })
	if err != nil {
		return err
	}
	err = m.from.persistent(sealAttempts).settle(ctx, func(tx pgx.Tx) error {
		head, err := lockHead(ctx, tx, m.clinic)
		if err != nil {
			return err
		}
		switch {
		case head.Epoch == restoringEpoch:
			return ErrRestoring
		case head.Epoch < 0: // by an earlier attempt, or one that has lost its move
			head.Epoch = -head.Epoch
		default:
			if _, err := tx.Exec(ctx, updateHeadEpoch, m.clinic, sealedEpoch(head.Epoch)); err != nil {
				return err
			}
		}
		m.moved.Head = head
		_, err = tx.Exec(ctx, sealClinic, m.clinic, m.id)
		return err
	})
	m.sealedAt = time.Now()
	return err
}

// rest brings what the copy lacks.
func (m *mover) rest(ctx context.Context) error {
	if err := m.copy(ctx, m.moved.Head); err != nil {
		return err
	}
	for _, t := range keptTables {
		if err := m.copyKept(ctx, t); err != nil {
			return fmt.Errorf("copy %s: %w", t.name, err)
		}
	}
	return nil
}

// open puts the clinic in use at the other shard, in the epoch that it had.
func (m *mover) open(ctx context.Context) error {
	_, epochs, err := m.from.readHead(ctx, m.clinic)
	if err != nil {
		return err
	}
	closed := m.state.Head()
	return m.to.settle(ctx, func(tx pgx.Tx) error {
		opened := closed
		opened.Epoch = m.moved.Head.Epoch
		at, err := m.lock(ctx, tx, closed, opened)
		if err != nil || at == opened {
			return err
		}
		if err := m.ours(ctx, tx); err != nil {
			return err
		}
		if err := writeEpochs(ctx, tx, m.clinic, epochs); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, openClinic, m.clinic); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, updateHeadEpoch, m.clinic, opened.Epoch)
		return err
	})
}

// flip has the directory say where the clinic is.
func (m *mover) flip(ctx context.Context) error {
	err := m.directory.main.settle(ctx, func(tx pgx.Tx) error {
		if err := m.underWay(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, flipClinic, m.clinic, m.moved.From, m.moved.To)
		return err
	})
	m.directory.known.Delete(m.clinic)
	if !m.sealedAt.IsZero() {
		m.moved.Sealed = time.Since(m.sealedAt)
	}
	return err
}

// clear deletes what was kept beside the journal where the clinic was: nobody
// would erase a patient there. The journal itself stays, sealed, until it is
// purged.
func (m *mover) clear(ctx context.Context) error {
	for _, t := range keptTables {
		if err := m.clearKept(ctx, t); err != nil {
			return fmt.Errorf("delete from %s: %w", t.name, err)
		}
	}
	return nil
}

func (m *mover) end(ctx context.Context) error {
	return m.directory.main.settle(ctx, func(tx pgx.Tx) error {
		if err := m.underWay(ctx, tx); err != nil {
			if errors.Is(err, errMoveEnded) {
				return nil // an attempt before this one was committed, or somebody else's
			}
			return err
		}
		_, err := tx.Exec(ctx, deleteMove, m.clinic)
		return err
	})
}

// ClinicMove is a move that has not ended.
type ClinicMove struct {
	Clinic    ledger.ClinicID
	From, To  ShardID
	StartedAt time.Time
}

// Moves lists the moves that have not ended, by clinic.
func (d *Directory) Moves(ctx context.Context) (moves []ClinicMove, err error) {
	err = d.main.readTx(ctx, func(tx pgx.Tx) error {
		s := selectFrom(`SELECT clinic_id, from_shard, to_shard, started_at FROM clinic_moves ORDER BY clinic_id`)
		moves, err = collect(ctx, tx, s, func(rows pgx.Rows, m *ClinicMove) error { return rows.Scan(&m.Clinic, &m.From, &m.To, &m.StartedAt) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list moves: %w", err)
	}
	return moves, nil
}
