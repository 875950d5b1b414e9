package txn

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// flipped are a row of a journal with one byte of it flipped, and which one.
type flipped struct {
	column string
	clinic ledger.ClinicID
	row    journalRow
}

// flips flips bytes of every column, of the long ones at the beginning, in the
// middle and at the end.
func flips(clinic ledger.ClinicID, row journalRow) []flipped {
	var all []flipped
	with := func(column string, change func(f *flipped)) {
		f := flipped{column, clinic, row}
		change(&f)
		all = append(all, f)
	}
	at := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 0x40
		return b
	}
	with("clinic_id", func(f *flipped) { f.clinic = ledger.ClinicID(at([]byte(clinic), 0)) })
	with("sequence", func(f *flipped) { f.row.sequence ^= 64 })
	with("sequence", func(f *flipped) { f.row.sequence ^= 1 << 40 })
	with("kind", func(f *flipped) { f.row.kind ^= 1 })
	with("kind", func(f *flipped) { f.row.kind ^= -1 << 15 })
	for _, far := range []time.Duration{time.Microsecond, time.Microsecond << 16, time.Microsecond << 40} {
		with("recorded_at", func(f *flipped) { f.row.recordedAt.Time = f.row.recordedAt.Time.Add(far) })
	}
	for _, place := range []func(int) int{func(int) int { return 0 }, func(n int) int { return n / 2 }, func(n int) int { return n - 1 }} {
		with("idempotency_key", func(f *flipped) { f.row.key = string(at([]byte(row.key), place(len(row.key)))) })
		with("event", func(f *flipped) { f.row.event = at(row.event, place(len(row.event))) })
		with("hash", func(f *flipped) { f.row.hash = at(row.hash, place(len(row.hash))) })
	}
	return all
}

// Whichever byte of a journal's row changes, both ways to verify it name the
// row.
func TestEveryFlippedByteIsFound(t *testing.T) {
	t.Parallel()
	const sequence = 8
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	q := NewQueries(NewDirectory(c.e.db))
	s := selectFrom(selectJournal)
	s.args = []any{c.id, sequence - 1, 1}
	var rows []journalRow
	if err := c.e.db.readTx(t.Context(), func(tx pgx.Tx) (err error) {
		rows, err = collect(t.Context(), tx, s, scanJournalRow)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// One row is exchanged for another, and back.
	exchange := func(was, is flipped) {
		c.sql(`DELETE FROM journal WHERE clinic_id = $1 AND sequence = $2`, was.clinic, was.row.sequence)
		r := is.row
		c.sql(`INSERT INTO journal (clinic_id, sequence, idempotency_key, kind, recorded_at, event, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			is.clinic, r.sequence, r.key, r.kind, r.recordedAt, r.event, r.hash)
	}
	right := flipped{"", c.id, rows[0]}
	for _, wrong := range flips(c.id, rows[0]) {
		exchange(right, wrong)
		last, broken, _, err := q.VerifyChain(t.Context(), c.id, Checkpoint{}, nil)
		if err != nil || broken == nil || broken.Sequence != sequence || last.Sequence != sequence-1 {
			t.Errorf("a byte of %s: VerifyChain finds %+v after %d, %v", wrong.column, broken, last.Sequence, err)
		}
		var found bool
		if _, err := Verify(t.Context(), c.e.db, VerifyOptions{Clinics: []ledger.ClinicID{c.id}, Report: func(v Violation) {
			found = found || v.Account == "journal" && v.Sequence == sequence
		}}); err != nil || !found {
			t.Errorf("a byte of %s: Verify does not name the row, %v", wrong.column, err)
		}
		exchange(wrong, right)
	}
	if _, broken, _, err := q.VerifyChain(t.Context(), c.id, Checkpoint{}, nil); broken != nil || err != nil {
		t.Errorf("when all is as it was, VerifyChain finds %v, %v", broken, err)
	}
	c.verify()
}

// The end of the chain is what the head says, or it was cut off or rewritten.
func TestVerifyChainComparesWithTheHead(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{})) // 12 commands
	t.Cleanup(func() { wipe(t, c.e.db, c.id) })
	q := NewQueries(NewDirectory(c.e.db))
	for _, test := range []struct {
		name, sql, undo string
		want            ledger.Sequence
	}{
		{"another hash", `UPDATE heads SET hash = set_byte(hash, 31, get_byte(hash, 31) # 1) WHERE clinic_id = $1`, `UPDATE heads SET hash = set_byte(hash, 31, get_byte(hash, 31) # 1) WHERE clinic_id = $1`, 12},
		{"a head that is behind", `UPDATE heads SET sequence = 10 WHERE clinic_id = $1`, `UPDATE heads SET sequence = 12 WHERE clinic_id = $1`, 11},
		{"a journal that was cut off", `DELETE FROM journal WHERE clinic_id = $1 AND sequence > 10`, `SELECT 1 WHERE $1 = ''`, 11},
	} {
		c.sql(test.sql, c.id)
		_, broken, _, err := q.VerifyChain(t.Context(), c.id, Checkpoint{}, nil)
		if err != nil || broken == nil || broken.Sequence != test.want {
			t.Errorf("%s: found is %v, %v", test.name, broken, err)
		}
		c.sql(test.undo, c.id)
	}
}

// A checkpoint that was true before a restore is told from one of a journal that
// was rewritten.
func TestVerifyChainFromBeforeARestore(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	db, q := c.e.db, NewQueries(NewDirectory(c.e.db))
	older := export(t, db, c.id) // 12 commands
	c.receive(1)
	lost := c.head() // 13
	common := c.recordAt(12)
	lose(t, db, c.id)
	restore(t, db, older) // epoch 2 from 13
	c.receive(2)
	c.receive(2)
	check := func(from Checkpoint) (*BrokenLink, error) {
		_, broken, _, err := q.VerifyChain(t.Context(), c.id, from, nil)
		return broken, err
	}
	var rewound *JournalRewoundError
	if _, err := check(Checkpoint{Sequence: 13, Hash: lost.Hash, Epoch: 1}); !errors.As(err, &rewound) || *rewound != (JournalRewoundError{Asked: Place{1, 13}, Epoch: 2, LastCommon: 12}) {
		t.Errorf("what the restore took back: %v", err)
	}
	if broken, err := check(Checkpoint{Sequence: 12, Hash: common.Hash, Epoch: 1}); broken != nil || err != nil {
		t.Errorf("what both epochs have: %v, %v", broken, err)
	}
	for name, from := range map[string]Checkpoint{
		"without its epoch":         {Sequence: 13, Hash: lost.Hash},
		"of the present epoch":      {Sequence: 13, Hash: lost.Hash, Epoch: 2},
		"of what both epochs have":  {Sequence: 12, Hash: lost.Hash, Epoch: 1},
		"of an epoch to come":       {Sequence: 13, Hash: lost.Hash, Epoch: 3},
		"of a record there is none": {Sequence: 99, Hash: lost.Hash, Epoch: 2},
	} {
		if broken, err := check(from); err != nil || broken == nil || broken.Sequence != from.Sequence {
			t.Errorf("a wrong hash, %s: %v, %v", name, broken, err)
		}
	}
	for _, test := range []struct {
		place Place
		hash  ledger.Hash
		want  CheckpointVerdict
	}{
		{Place{1, 13}, lost.Hash, CheckpointRewound},
		{Place{1, 12}, common.Hash, CheckpointHolds},
		{Place{1, 12}, lost.Hash, CheckpointBroken},
		{Place{2, 13}, lost.Hash, CheckpointBroken},
	} {
		if verdict, err := q.CompareCheckpoint(t.Context(), c.id, test.place, test.hash); err != nil || verdict != test.want {
			t.Errorf("%v: verdict %d, %v, want %d", test.place, verdict, err, test.want)
		}
	}
}
