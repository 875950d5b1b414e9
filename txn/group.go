package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/stockledger/stockledger/ledger"
)

// What one transaction may grow to, beside its number of commands.
const (
	maxGroupRows  = 8000
	maxGroupBytes = 4 << 20
)

// resolversPerGroup is how many clinics of an aborted group are executed at a
// time, each in a transaction of its own.
const resolversPerGroup = 4

// run executes a group and answers every command in it. Callers that have left
// do not stop it.
//
// The first attempt is blind: it decides on the states in memory, reads nothing
// and writes everything in one round trip. A state that was behind, a key that
// was bound before, or another node in the way makes the database refuse it
// whole. Then each clinic is executed by itself, with its head locked.
func (e *Executor) run(g *group) {
	ctx := context.Background()
	slices.SortFunc(g.parts, func(a, b part) int { return strings.Compare(string(a.clinic), string(b.clinic)) })
	homes := e.homes.take(g.parts)
	defer e.homes.give(homes)
	e.metrics.groupCommands.Observe(float64(g.commands))
	e.load(ctx, g.parts, homes)
	e.learn(ctx, g.parts, homes)
	queued := takeQueued(g.parts)
	for pending := g.parts; len(pending) > 0; {
		var plans []*plan
		plans, pending = e.plan(pending, homes)
		e.commitBlind(ctx, plans)
	}
	var each errgroup.Group
	each.SetLimit(resolversPerGroup)
	for i, units := range queued {
		if len(units) > 0 {
			each.Go(func() error {
				e.resolve(ctx, homes[i], units, false)
				return nil
			})
		}
	}
	_ = each.Wait()
}

// takeQueued takes the operations out of parts. Whether one still waits is read
// under its clinic's head's lock, and so they are never decided blindly.
func takeQueued(parts []part) [][]*unit {
	queued := make([][]*unit, len(parts))
	for i := range parts {
		if !slices.ContainsFunc(parts[i].units, func(w *unit) bool { return w.submission.Queued }) {
			continue
		}
		var others []*unit
		for _, w := range parts[i].units {
			if w.submission.Queued {
				queued[i] = append(queued[i], w)
			} else {
				others = append(others, w)
			}
		}
		parts[i].units = others
	}
	return queued
}

// load fills in the states that are not in memory. Where that fails, the units
// are answered and leave the group.
func (e *Executor) load(ctx context.Context, parts []part, homes []*home) {
	var cold []ledger.ClinicID
	for _, h := range homes {
		if h.state == nil {
			cold = append(cold, h.clinic)
		}
	}
	if len(cold) == 0 {
		return
	}
	states, err := e.db.loadStates(ctx, cold)
	for i, h := range homes {
		if h.state != nil {
			continue
		}
		cause := err
		if state := states[h.clinic]; state != nil && absence(state.Head().Epoch) != nil {
			cause = absence(state.Head().Epoch)
		} else if h.state = state; state != nil {
			continue
		}
		for _, w := range parts[i].units {
			e.fail(w, e.failure(w, cause))
		}
		parts[i].units = nil
	}
	e.metrics.loads.Add(float64(len(cold)))
}

// plan decides as many units as one transaction may hold, and returns the rest.
func (e *Executor) plan(parts []part, homes []*home) (plans []*plan, rest []part) {
	byClinic := make(map[ledger.ClinicID]*home, len(homes))
	for _, h := range homes {
		byClinic[h.clinic] = h
	}
	at := ledger.InstantOf(e.cfg.Clock())
	rows, bytes := 0, 0
	for _, part := range parts {
		h := byClinic[part.clinic]
		if len(part.units) == 0 {
			continue
		}
		suspect := func(key string) bool { return e.homes.keys.has(part.clinic, key) }
		p := newPlan(h, nil, suspect)
		for len(part.units) > 0 && rows+p.rows < maxGroupRows && bytes+p.bytes < maxGroupBytes {
			w := part.units[0]
			part.units = part.units[1:]
			if err := p.add(w, at); err != nil {
				e.corrupt(h, err)
				part.units = append(p.units, part.units...)
				e.resolve(context.Background(), h, part.units, false)
				p, part.units = nil, nil
				break
			}
		}
		if len(part.units) > 0 {
			rest = append(rest, part)
		}
		if p != nil && len(p.units) > 0 {
			rows, bytes = rows+p.rows, bytes+p.bytes
			plans = append(plans, p)
		}
	}
	return plans, rest
}

// corrupt drops a state that its own events do not fit: memory is wrong, or
// the code is. The database decides which.
func (e *Executor) corrupt(h *home, err error) {
	e.cfg.Log.Error("a clinic's state in memory is wrong and is loaded anew", "clinic", h.clinic, "error", err)
	h.state = nil
}

// commitBlind writes the plans of a group in one round trip and answers.
func (e *Executor) commitBlind(ctx context.Context, plans []*plan) {
	if len(plans) == 0 {
		return
	}
	began := time.Now()
	set := newRowSet()
	reads := blindReads{}
	for _, p := range plans {
		set.add(p)
		reads.add(p)
	}
	err := e.db.execBlind(ctx, func(b *pgx.Batch) {
		set.queue(b, e.sql)
		reads.queue(b, e.sql)
	}, func(br pgx.BatchResults) error {
		if err := set.read(br); err != nil {
			return err
		}
		return reads.read(br)
	})
	e.metrics.commit("blind", began, err)
	if err != nil {
		e.retreat(ctx, plans, err)
		return
	}
	var stale errgroup.Group
	stale.SetLimit(resolversPerGroup)
	for _, p := range plans {
		p.home.state.Commit()
		e.homes.keys.add(p.records)
		again := p.settle(reads.found[p.home.clinic], len(p.records) > 0 || reads.proves(p))
		e.answer(p)
		if len(again) > 0 {
			stale.Go(func() error {
				e.resolve(ctx, p.home, again, false)
				return nil
			})
		}
	}
	_ = stale.Wait()
}

// retreat takes a refused or unknown group's plans back and executes each
// clinic's units by themselves.
func (e *Executor) retreat(ctx context.Context, plans []*plan, cause error) {
	for _, p := range plans {
		p.home.state.Rollback(0)
	}
	unknown := isAmbiguous(cause)
	if !unknown && isUnavailable(cause) && !isRetryable(cause) {
		for _, p := range plans {
			for _, w := range p.units {
				e.fail(w, e.failure(w, cause))
			}
		}
		return
	}
	e.metrics.retreats.Inc()
	e.cfg.Log.Debug("a group is executed again clinic by clinic", "clinics", len(plans), "cause", cause)
	var each errgroup.Group
	each.SetLimit(resolversPerGroup)
	for _, p := range plans {
		each.Go(func() error {
			e.resolve(ctx, p.home, p.units, unknown)
			return nil
		})
	}
	_ = each.Wait()
}

// resolve executes units of one clinic under its head's lock until they are
// answered. Keys that turn out to be bound are answered from the journal, which
// is also how an unknown outcome becomes known. A command that the database
// itself refuses is found by halving, and costs its neighbours nothing.
func (e *Executor) resolve(ctx context.Context, h *home, units []*unit, unknown bool) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ResolveTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		began := time.Now()
		p, err := e.executeLocked(ctx, h, units)
		e.metrics.commit("locked", began, err)
		if err == nil {
			h.state.Commit()
			e.homes.keys.add(p.records)
			e.answer(p)
			return
		}
		if h.state != nil {
			h.state.Rollback(0)
		}
		unknown = unknown || isAmbiguous(err)
		_, duplicate := uniqueViolation(err)
		again := duplicate || isAmbiguous(err) || mayRepeat(err) || unknown && isUnavailable(err)
		switch {
		case again && e.pauseAfter(ctx, attempt, err) == nil:
			continue
		case unknown:
			err = ambiguous(err)
		case again || isUnavailable(err) || ctx.Err() != nil:
			err = unavailable(err)
		case len(units) > 1:
			half := len(units) / 2
			e.resolve(context.WithoutCancel(ctx), h, units[:half], false)
			e.resolve(context.WithoutCancel(ctx), h, units[half:], false)
			return
		}
		for _, w := range units {
			e.fail(w, e.failure(w, err))
		}
		return
	}
}

// errNoTurn means that a clinic's head could not be locked.
var errNoTurn = errors.New("no turn at the clinic's head")

// pauseAfter waits before another attempt, unless the one before has waited for
// another node's.
func (e *Executor) pauseAfter(ctx context.Context, attempt int, err error) error {
	if lostTurn(e.sql.server, err) {
		return ctx.Err()
	}
	return e.db.pause(ctx, attempt)
}

// executeLocked executes units of one clinic in a transaction that locks its
// head first. The plan it returns is committed.
func (e *Executor) executeLocked(ctx context.Context, h *home, units []*unit) (*plan, error) {
	var keys []string
	for _, w := range units {
		for _, c := range w.commands {
			keys = append(keys, c.IdempotencyKey)
		}
	}
	at := ledger.InstantOf(e.cfg.Clock())
	var p *plan
	err := e.db.tryTx(ctx, func(tx pgx.Tx) error {
		if err := e.freshen(ctx, tx, h); err != nil {
			return err
		}
		known, err := readRecordsByKey(ctx, tx, e.sql, h.clinic, keys)
		if err != nil {
			return err
		}
		queued, err := stillQueued(ctx, tx, e.sql.server, h.clinic, queuedKeys(units))
		if err != nil {
			return err
		}
		p = newPlan(h, known, nil)
		if err := e.named(ctx, tx, h.state, units); err != nil {
			return err
		}
		p.past = func(c ledger.Command) (ledger.Command, error) {
			// What an earlier command of this group made known may name more.
			if err := e.named(ctx, tx, h.state, []*unit{{commands: []ledger.Command{c}}}); err != nil {
				return c, err
			}
			return withPast(ctx, tx, e.sql.server, h.state, c, at)
		}
		for _, w := range units {
			if w.submission.Queued && !queued[w.commands[0].IdempotencyKey] {
				p.refuse(w, ErrNotQueued)
				continue
			}
			if err := p.add(w, at); err != nil {
				e.corrupt(h, err)
				return err
			}
		}
		set := newRowSet()
		set.add(p)
		if err := set.send(ctx, tx, e.sql); err != nil {
			return err
		}
		return settleQueued(ctx, tx, p, at)
	})
	return p, err
}

// freshen locks the clinic's head and brings the state in memory up to it.
func (e *Executor) freshen(ctx context.Context, tx pgx.Tx, h *home) error {
	if h.state != nil {
		h.state.Rollback(0)
	}
	head, err := lockHead(ctx, tx, h.clinic)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoTurn, err)
	}
	if absent := absence(head.Epoch); absent != nil {
		h.state = nil
		return fmt.Errorf("clinic %s: %w", h.clinic, absent)
	}
	if h.state != nil && h.state.Head().Epoch == head.Epoch && h.state.Head().Sequence <= head.Sequence {
		if err := catchUp(ctx, tx, h.state); err != nil {
			if !errors.Is(err, ledger.ErrCorrupt) {
				return err
			}
			e.corrupt(h, err)
		}
	}
	if h.state == nil || h.state.Head() != head {
		h.state, err = loadStateTx(ctx, tx, h.clinic)
	}
	return err
}

const headLock = `SELECT epoch, sequence, hash, recorded_at FROM heads WHERE clinic_id = $1 FOR UPDATE`

// lockHead makes this transaction the only one that executes the clinic's
// commands. A clinic without a head has nothing to lock: the primary keys
// decide between two that begin its journal.
func lockHead(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) (ledger.Head, error) {
	head := ledger.NewState(clinic, time.LoadLocation).Head()
	var hash []byte
	var at time.Time
	err := tx.QueryRow(ctx, headLock, clinic).Scan(&head.Epoch, &head.Sequence, &hash, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return head, nil
	}
	if err != nil {
		return head, fmt.Errorf("lock the head of clinic %s: %w", clinic, err)
	}
	if len(hash) != len(head.Hash) {
		return head, fmt.Errorf("the head of clinic %s has a hash of %d bytes", clinic, len(hash))
	}
	head.Hash, head.At = ledger.Hash(hash), ledger.InstantOf(at)
	return head, nil
}

// answer gives the verdicts of a committed plan.
func (e *Executor) answer(p *plan) {
	e.noteRecalls(p.records)
	if len(p.records) > 0 && e.cfg.Cache != nil {
		e.cfg.Cache.committed(p.home.clinic, p.base, p.records)
	}
	if len(p.records) > 0 && e.cfg.ReadModels != nil {
		e.cfg.ReadModels.committed(p.home.clinic, p.base, p.records)
	}
	if len(p.records) > 0 && e.cfg.Feed != nil {
		head := p.home.state.Head()
		e.cfg.Feed.committed(p.home.clinic, Place{head.Epoch, head.Sequence})
	}
	for i, w := range p.units {
		if verdicts := p.verdicts[i]; verdicts != nil {
			e.metrics.verdicts(verdicts)
			w.submission.answer(w.first, verdicts)
		}
	}
}

// failure is what a caller is told of a database error: the sentinel that says
// what to do, and never the driver's text.
func (e *Executor) failure(w *unit, err error) error {
	switch {
	case isAmbiguous(err):
		e.cfg.Log.Warn("the outcome of a group is unknown", "clinic", w.submission.Clinic, "error", err)
		return ErrAmbiguous
	case errors.Is(err, ErrRestoring):
		return ErrRestoring
	case errors.Is(err, ErrMoving):
		return ErrMoving
	case isUnavailable(err):
		e.cfg.Log.Debug("the database is unavailable", "clinic", w.submission.Clinic, "error", err)
		return ErrUnavailable
	}
	e.metrics.offenders.Inc()
	e.cfg.Log.Error("the database refused a command", "clinic", w.submission.Clinic,
		"kind", w.commands[0].Body.Kind(), "idempotency_key", w.commands[0].IdempotencyKey, "error", err)
	return ErrInternal
}

func (e *Executor) fail(w *unit, err error) {
	verdicts := make([]Verdict, len(w.commands))
	for i := range verdicts {
		verdicts[i].Err = err
	}
	e.metrics.verdicts(verdicts)
	w.submission.answer(w.first, verdicts)
}
