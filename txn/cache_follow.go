package txn

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// followed is what a cache knows of a clinic's journal: from a command on, which
// topics were last changed by which one.
type followed struct {
	used atomic.Int64 // when it was last asked, in Unix seconds

	mu    sync.RWMutex
	epoch int64
	// from is the command after which all changes are known, and head the last
	// one of those that are.
	from ledger.Sequence
	head AsOf
	// changed are the topics that changed since, some of them by commands after
	// the head.
	changed map[ledger.Topic]ledger.Sequence
}

const (
	// maxChanged bounds what is noted of a clinic. With more it begins anew, and
	// what was kept before is read again.
	maxChanged = 20_000
	// maxBehind is how many commands are read to catch up with a clinic. With
	// more it begins anew.
	maxBehind = 5_000
	// unusedFor is how long a clinic is followed that nobody asks about.
	unusedFor = 10 * time.Minute
	// headsChunk is how many heads are read at a time.
	headsChunk = 1_000
)

// clinic returns what is known of a clinic's journal, beginning with what was
// read of it just now where nothing is.
func (c *Cache) clinic(id ledger.ClinicID, begin AsOf) *followed {
	c.mu.RLock()
	f := c.followed[id]
	c.mu.RUnlock()
	if f == nil {
		c.mu.Lock()
		if f = c.followed[id]; f == nil {
			f = &followed{epoch: begin.Epoch, from: begin.Sequence, head: begin, changed: make(map[ledger.Topic]ledger.Sequence)}
			c.followed[id] = f
		}
		c.mu.Unlock()
	}
	if now := c.cfg.Clock().Unix(); f.used.Load() != now {
		f.used.Store(now)
	}
	return f
}

// holds returns the last command up to which an answer is known to be true,
// and the zero AsOf for one that a later command may have changed.
func (c *Cache) holds(k cacheKey, v *kept) AsOf {
	f := c.clinic(k.clinic, v.asOf)
	f.mu.RLock()
	defer f.mu.RUnlock()
	switch {
	case v.asOf.Epoch != f.epoch, v.asOf.Sequence < f.from, f.last(k.topic) > v.asOf.Sequence:
		return AsOf{}
	case v.asOf.Sequence >= f.head.Sequence:
		return v.asOf
	}
	return f.head
}

// changed is the last command that is known to have changed a topic.
func (c *Cache) changed(k cacheKey) Place {
	c.mu.RLock()
	f := c.followed[k.clinic]
	c.mu.RUnlock()
	if f == nil {
		return Place{}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return Place{f.epoch, max(f.from, f.last(k.topic))}
}

// last is the last command that changed a topic, or what it is a part of.
func (f *followed) last(t ledger.Topic) ledger.Sequence {
	if len(f.changed) == 0 {
		return 0
	}
	last := max(f.changed[t], f.changed[ledger.Topic{Kind: ledger.TopicClinic}])
	if t.Kind == ledger.TopicShelf {
		last = max(last, f.changed[ledger.Topic{Kind: ledger.TopicLocation, ID: t.ID}], f.changed[ledger.Topic{Kind: ledger.TopicMedicine, ID: t.Of}])
	}
	return last
}

// committed takes in what this node committed after a head.
func (c *Cache) committed(clinic ledger.ClinicID, base ledger.Head, records []ledger.Record) {
	c.mu.RLock()
	f := c.followed[clinic]
	c.mu.RUnlock()
	if f == nil && c.shared == nil {
		return
	}
	events := make([]ledger.Event, len(records))
	for i := range records {
		events[i] = records[i].Event
	}
	if c.shared != nil {
		c.forgetShared(clinic, base.Epoch, events)
	}
	if f != nil && !f.note(base.Epoch, base.Sequence, events) {
		c.lookSoon()
	}
}

// heard takes in a command that another node executed, which has told Redis.
func (c *Cache) heard(event ledger.Event) {
	c.mu.RLock()
	f := c.followed[event.Clinic]
	c.mu.RUnlock()
	if f == nil {
		return
	}
	f.mu.RLock()
	epoch := f.epoch // or the heads will tell
	f.mu.RUnlock()
	if !f.note(epoch, event.Sequence-1, []ledger.Event{event}) {
		c.lookSoon()
	}
}

// lookSoon has the journals read up to their heads.
func (c *Cache) lookSoon() {
	select {
	case c.behind <- struct{}{}:
	default:
	}
}

// forgetShared tells Redis which answers are out of date.
func (c *Cache) forgetShared(clinic ledger.ClinicID, epoch int64, events []ledger.Event) {
	for i := range events {
		events[i].Changed(func(t ledger.Topic) {
			if families[t.Kind].key != nil {
				c.shared.forget(sharedKey(cacheKey{clinic, t}), Place{epoch, events[i].Sequence})
			}
		})
	}
}

// note takes in the events after a command, and reports whether the commands up
// to it were known: else the journal has to be read.
func (f *followed) note(epoch int64, after ledger.Sequence, events []ledger.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch != f.epoch {
		return false
	}
	for i := range events {
		sequence := events[i].Sequence
		if sequence <= f.head.Sequence {
			continue
		}
		events[i].Changed(func(t ledger.Topic) { f.changed[t] = max(f.changed[t], sequence) })
	}
	if after > f.head.Sequence {
		return false
	}
	if last := &events[len(events)-1]; last.Sequence > f.head.Sequence {
		f.head = AsOf{Epoch: epoch, Sequence: last.Sequence, Time: last.At}
	}
	if len(f.changed) > maxChanged {
		f.begin(f.head)
	}
	return true
}

// begin forgets what was known before a command.
func (f *followed) begin(at AsOf) {
	f.epoch, f.from, f.head = at.Epoch, at.Sequence, at
	clear(f.changed)
}

// follow looks for what other nodes committed until ctx ends.
func (c *Cache) follow(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(c.cfg.LookEvery)
	defer tick.Stop()
	looks := c.directory.newRounds(c.catchUp, failed)
	defer looks.wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			looks.begin(ctx, false)
		case <-c.behind:
			looks.begin(ctx, true)
		}
	}
}

// catchUp brings what is known of a shard's followed clinics up to their heads.
func (c *Cache) catchUp(ctx context.Context, db *DB) error {
	c.mu.Lock()
	old := c.cfg.Clock().Add(-unusedFor).Unix()
	var clinics []string
	for id, f := range c.followed {
		if f.used.Load() < old {
			delete(c.followed, id)
			continue
		}
		clinics = append(clinics, string(id))
	}
	c.mu.Unlock()
	var failed error
	for len(clinics) > 0 {
		chunk := clinics[:min(len(clinics), headsChunk)]
		clinics = clinics[len(chunk):]
		if err := db.readTx(ctx, func(tx pgx.Tx) error { return c.catchUpWith(ctx, tx, chunk) }); err != nil {
			failed = fmt.Errorf("txn: follow journals: %w", err)
		}
	}
	return failed
}

const headsOfClinics = `SELECT clinic_id, epoch, sequence, recorded_at FROM heads WHERE clinic_id = ANY($1) AND epoch > 0`

func (c *Cache) catchUpWith(ctx context.Context, tx pgx.Tx, clinics []string) error {
	heads := make(map[ledger.ClinicID]AsOf, len(clinics))
	s := selectFrom(headsOfClinics)
	s.args = []any{clinics}
	_, err := collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error {
		var id ledger.ClinicID
		var head AsOf
		var at time.Time
		err := rows.Scan(&id, &head.Epoch, &head.Sequence, &at)
		head.Time = ledger.InstantOf(at)
		heads[id] = head
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range clinics {
		c.mu.RLock()
		f := c.followed[ledger.ClinicID(id)]
		c.mu.RUnlock()
		if head, ok := heads[ledger.ClinicID(id)]; ok && f != nil {
			if err := f.catchUp(ctx, tx, ledger.ClinicID(id), head); err != nil {
				return err
			}
		}
	}
	return nil
}

// catchUp reads a journal up to its head.
func (f *followed) catchUp(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID, head AsOf) error {
	f.mu.Lock()
	known := f.head
	if head.Epoch > f.epoch || head.Epoch == f.epoch && head.Sequence > known.Sequence+maxBehind {
		f.begin(head)
	}
	current := head.Epoch < f.epoch || head.Sequence <= f.head.Sequence
	f.mu.Unlock()
	for !current {
		s := selectFrom(selectJournalAfter)
		s.args = []any{clinic, known.Sequence, eventsChunk}
		events, err := collect(ctx, tx, s, scanEvent)
		if err != nil || len(events) == 0 {
			return err
		}
		f.note(head.Epoch, known.Sequence, events)
		known.Sequence = events[len(events)-1].Sequence
		current = known.Sequence >= head.Sequence
	}
	return nil
}
