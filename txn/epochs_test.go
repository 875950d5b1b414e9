package txn

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// head reads the clinic's head.
func (c *testClinic) head() ledger.Head {
	c.tb.Helper()
	head, _, err := c.e.db.readHead(context.Background(), c.id)
	if err != nil {
		c.tb.Fatal(err)
	}
	return head
}

func (c *testClinic) startEpoch() Epoch {
	c.tb.Helper()
	e, err := StartEpoch(context.Background(), c.e.db, c.id, 0)
	if err != nil {
		c.tb.Fatal(err)
	}
	return e
}

func TestReadsOfWhatARestoreTookBack(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	db, q := c.e.db, NewQueries(NewDirectory(c.e.db))
	older := export(t, db, c.id) // 12 commands
	c.receive(1)
	c.receive(1) // 13 and 14 are lost
	lose(t, db, c.id)
	restore(t, db, older) // epoch 2 from 13
	c.receive(2)
	c.receive(2)
	c.receive(2)   // 13, 14 and 15
	c.startEpoch() // epoch 3 from 16
	c.receive(3)   // 16

	for _, test := range []struct {
		name string
		o    ReadOptions
		want any
	}{
		{"nothing", ReadOptions{}, nil},
		{"the present epoch", ReadOptions{MinEpoch: 3, MinSequence: 16}, nil},
		{"the present epoch, too much", ReadOptions{MinEpoch: 3, MinSequence: 17}, &SequenceNotReachedError{Want: 17, Have: 16}},
		{"no epoch", ReadOptions{MinSequence: 16}, nil},
		{"what all epochs have", ReadOptions{MinEpoch: 1, MinSequence: 12}, nil},
		{"what the first epoch lost", ReadOptions{MinEpoch: 1, MinSequence: 13}, &JournalRewoundError{Asked: Place{1, 13}, Epoch: 3, LastCommon: 12}},
		{"what the first epoch lost, long ago", ReadOptions{MinEpoch: 1, MinSequence: 1000}, &JournalRewoundError{Asked: Place{1, 1000}, Epoch: 3, LastCommon: 12}},
		{"what the second epoch has", ReadOptions{MinEpoch: 2, MinSequence: 15}, nil},
		{"what the second epoch lost", ReadOptions{MinEpoch: 2, MinSequence: 16}, &JournalRewoundError{Asked: Place{2, 16}, Epoch: 3, LastCommon: 15}},
		{"an epoch to come", ReadOptions{MinEpoch: 4, MinSequence: 1}, &JournalRewoundError{Asked: Place{4, 1}, Epoch: 3}},
		{"an epoch without a sequence", ReadOptions{MinEpoch: 1}, nil},
		{"a list from here", ReadOptions{Continues: Place{3, 16}}, nil},
		{"a list from before", ReadOptions{Continues: Place{1, 12}}, nil},
		{"a list that showed more", ReadOptions{Continues: Place{1, 14}}, &JournalRewoundError{Asked: Place{1, 14}, Epoch: 3, LastCommon: 12}},
		{"a list from before, and more than there is", ReadOptions{Continues: Place{2, 3}, MinEpoch: 2, MinSequence: 99}, &JournalRewoundError{Asked: Place{2, 99}, Epoch: 3, LastCommon: 15}},
	} {
		for _, consistency := range []Consistency{Strong, Bounded, Cached} {
			o := test.o
			o.Consistency, o.MaxStaleness = consistency, time.Minute
			_, asOf, err := q.Clinic(t.Context(), c.id, o)
			var rewound *JournalRewoundError
			var notReached *SequenceNotReachedError
			switch want := test.want.(type) {
			case nil:
				if err != nil || asOf.Epoch != 3 && consistency == Strong {
					t.Errorf("%s: as of %+v, %v", test.name, asOf, err)
				}
			case *JournalRewoundError:
				if !errors.As(err, &rewound) || *rewound != *want {
					t.Errorf("%s: %v, want %v", test.name, err, want)
				}
			case *SequenceNotReachedError:
				if !errors.As(err, &notReached) || *notReached != *want {
					t.Errorf("%s: %v, want %v", test.name, err, want)
				}
			}
		}
	}
	c.verify()
}

func TestStartEpoch(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	for _, test := range []struct{ least, want int64 }{{0, 2}, {0, 3}, {9, 9}, {4, 10}} {
		e, err := StartEpoch(t.Context(), c.e.db, c.id, test.least)
		if err != nil || e.Epoch != test.want || e.LastCommon() != 12 || e.StartedAt == 0 {
			t.Errorf("at least %d: %+v, %v", test.least, e, err)
		}
	}
	if head := c.head(); head.Epoch != 10 || head.Sequence != 12 {
		t.Errorf("the head is %+v", head)
	}
	c.verify()
	var absent *ledger.Rejection
	if _, err := StartEpoch(t.Context(), c.e.db, "t-nowhere", 0); !errors.As(err, &absent) || absent.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("an unknown clinic: %v", err)
	}
	listed, err := ClinicsWithHeads(t.Context(), c.e.db, c.id[:len(c.id)-1], 10)
	if err != nil || !slices.Contains(listed, c.id) {
		t.Errorf("the clinics are %v (%v)", listed, err)
	}
}

func TestMergeEpochs(t *testing.T) {
	t.Parallel()
	got := mergeEpochs([]Epoch{{2, 10, 1}, {4, 30, 1}}, []Epoch{{2, 12, 2}, {3, 20, 2}, {4, 25, 2}, {5, 40, 2}})
	if want := []Epoch{{2, 10, 1}, {3, 20, 2}, {4, 25, 2}, {5, 40, 2}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A node that has a clinic's state in memory goes on after a new epoch, in the
// new epoch.
func TestANodeNoticesANewEpoch(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	c.startEpoch()
	c.receive(1)
	if head := c.head(); head.Epoch != 2 || head.Sequence != 13 {
		t.Errorf("the head is %+v", head)
	}
	// A rejection too is told of the present state.
	c.startEpoch()
	c.rejected(c.give(c.command(reserve(5000))), ledger.ReasonInsufficientStock)
	if state := c.e.homes.homes[c.id].state; state.Head().Epoch != 3 {
		t.Errorf("the node is in epoch %d", state.Head().Epoch)
	}
	c.receive(1)
	if head := c.head(); head.Epoch != 3 || head.Sequence != 14 {
		t.Errorf("the head is %+v", head)
	}
	c.verify()
}

// The whole drill with a node that nobody stopped: it has more in memory than
// the backup, the clinic disappears under it, and comes back shorter.
func TestAStaleNodeCannotGoOnWithWhatIsLost(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]int{"with the same commands": 0, "with more commands": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
			db := c.e.db
			file := export(t, db, c.id)
			lostCommands := c.commands(slices.Repeat([]ledger.CommandBody{&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1}}, lost)...)
			c.submit(Submission{Commands: lostCommands})
			lose(t, db, c.id)

			// Nothing of the clinic is left, and nothing may be written.
			c.rejected(c.give(c.command(reserve(1))), ledger.ReasonClinicNotFound)
			if rows := rowsOf(t, db, c.id); len(rows) > 0 {
				t.Fatalf("a node wrote %v into an empty database", rows)
			}
			// It has forgotten the clinic by now; another has not.
			stale := testExecutor(t, ExecutorConfig{})
			restoreInto := func() { restore(t, db, file) }
			other := &testClinic{tb: t, e: stale, id: c.id, keys: 1000}
			restoreInto()
			other.receive(1) // 13, and in its memory
			lose(t, db, c.id)
			restoreInto()
			v := other.give(other.command(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 5}))
			if v.Err != nil || v.Record.Event.Sequence != 13 {
				t.Fatalf("the stale node's command: %+v", v)
			}
			// What was lost may be given again under its key, once.
			for _, again := range c.submit(Submission{Commands: lostCommands}) {
				if again.Err != nil || again.Replayed {
					t.Errorf("a lost command, given again: %+v", again)
				}
			}
			for _, again := range c.submit(Submission{Commands: lostCommands}) {
				if again.Err != nil || !again.Replayed {
					t.Errorf("a lost command, given twice: %+v", again)
				}
			}
			if head := c.head(); head.Epoch != 2 || head.Sequence != ledger.Sequence(13+lost) {
				t.Errorf("the head is %+v", head)
			}
			c.verify()
		})
	}
}

// What the database itself refuses, so that no node's memory has to be trusted:
// moving a head of another epoch, or one that is not there.
func TestHeadsOfOtherEpochsDoNotMove(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	neighbour, _, _ := verifiable(t, c.e)
	missing := ledger.ClinicID(newClinicID(t))
	db, sql := c.e.db, newStatements(c.e.db.server.Kind)
	here, there := c.head(), neighbour.head()
	// from is a head that is thought to be the present one.
	from := func(head ledger.Head, edit func(*ledger.Head)) ledger.Head {
		edit(&head)
		return head
	}
	same := from(there, func(*ledger.Head) {})
	for name, test := range map[string]struct {
		clinics []ledger.ClinicID
		from    []ledger.Head
	}{
		"an older epoch":         {[]ledger.ClinicID{c.id}, []ledger.Head{from(here, func(h *ledger.Head) { h.Epoch-- })}},
		"a later epoch":          {[]ledger.ClinicID{c.id}, []ledger.Head{from(here, func(h *ledger.Head) { h.Epoch++ })}},
		"another journal":        {[]ledger.ClinicID{c.id}, []ledger.Head{from(here, func(h *ledger.Head) { h.Hash[31] ^= 1 })}},
		"no head":                {[]ledger.ClinicID{missing}, []ledger.Head{here}},
		"one of two is stale":    {[]ledger.ClinicID{neighbour.id, c.id}, []ledger.Head{same, from(here, func(h *ledger.Head) { h.Epoch-- })}},
		"one of two is missing":  {[]ledger.ClinicID{neighbour.id, missing}, []ledger.Head{same, here}},
		"one of two is another":  {[]ledger.ClinicID{neighbour.id, c.id}, []ledger.Head{same, there}},
		"the hashes are swapped": {[]ledger.ClinicID{neighbour.id, c.id}, []ledger.Head{here, there}},
	} {
		var r nextHeadRows
		for i, clinic := range test.clinics {
			next := test.from[i]
			next.Sequence, next.Hash = next.Sequence+1, ledger.Hash{1, 2, 3}
			r.add(clinic, test.from[i], next)
		}
		statements := 1
		if db.server.Kind == CockroachDB {
			statements = 2
		}
		err := db.execBlind(t.Context(), func(b *pgx.Batch) { queueNextHeads(b, sql, &r) }, func(br pgx.BatchResults) error {
			for range statements {
				if _, err := br.Exec(); err != nil {
					return err
				}
			}
			return nil
		})
		if _, refused := pgError(err); !refused || isAmbiguous(err) || isUnavailable(err) {
			t.Errorf("%s: %v, want the server to refuse it", name, err)
		}
	}
	if now := c.head(); now != here {
		t.Errorf("the head moved to %+v", now)
	}
	if now := neighbour.head(); now != there {
		t.Errorf("the neighbour's head moved to %+v", now)
	}
	var absent *ledger.Rejection
	if _, _, err := NewQueries(NewDirectory(db)).Clinic(t.Context(), missing, ReadOptions{}); !errors.As(err, &absent) {
		t.Errorf("the missing clinic: %v", err)
	}
	c.receive(1)
	c.verify()
}
