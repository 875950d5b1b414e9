package txn

import (
	"container/list"
	"fmt"
	"sync"

	"github.com/stockledger/stockledger/ledger"
)

// home keeps one clinic's state between groups. Its state may be behind the
// database, when another node executed commands of the clinic: the journal's
// primary key refuses what was decided on it. Only the group that the clinic is
// in touches it.
type home struct {
	clinic ledger.ClinicID
	state  *ledger.State // nil: to be loaded
	size   int
	place  *list.Element
	busy   bool
	gone   bool // to be forgotten when it is given back
}

// homeCache holds as many clinics' states as fit, the last used ones.
type homeCache struct {
	mu     sync.Mutex
	limit  int // documents
	size   int
	homes  map[ledger.ClinicID]*home
	recent *list.List // of *home, the last used first
	keys   recentKeys
}

func newHomeCache(limit int) *homeCache {
	return &homeCache{
		limit: limit, homes: make(map[ledger.ClinicID]*home), recent: list.New(),
		keys: recentKeys{known: make(map[boundKey]struct{})},
	}
}

// take lends the homes of a group's clinics.
func (c *homeCache) take(parts []part) []*home {
	c.mu.Lock()
	defer c.mu.Unlock()
	homes := make([]*home, len(parts))
	for i, p := range parts {
		h := c.homes[p.clinic]
		if h == nil {
			h = &home{clinic: p.clinic}
			h.place = c.recent.PushFront(h)
			c.homes[p.clinic] = h
		} else {
			c.recent.MoveToFront(h.place)
		}
		h.busy, h.gone = true, false
		homes[i] = h
	}
	return homes
}

// give takes homes back and forgets the least recently used ones that no
// longer fit. The last used one stays even where it does not fit by itself: else
// a clinic with that much would be loaded for each of its groups.
func (c *homeCache) give(homes []*home) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range homes {
		h.busy = false
		size := 0
		if h.state != nil {
			size = 1 + h.state.Size()
		}
		c.size += size - h.size
		h.size = size
		if h.state == nil || h.gone {
			c.forget(h)
		}
	}
	for place := c.recent.Back(); place != nil && c.size > c.limit && c.recent.Len() > 1; {
		h := place.Value.(*home)
		place = place.Prev()
		if !h.busy {
			c.forget(h)
		}
	}
}

func (c *homeCache) forget(h *home) {
	c.size -= h.size
	c.recent.Remove(h.place)
	delete(c.homes, h.clinic)
}

// drop forgets the clinics for which gone is true: at once, or when the group
// that has them gives them back.
func (c *homeCache) drop(gone func(ledger.ClinicID) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for clinic, h := range c.homes {
		switch {
		case !gone(clinic):
		case h.busy:
			h.gone = true
		default:
			c.forget(h)
		}
	}
}

func (c *homeCache) clinics() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.homes)
}

func (c *homeCache) documents() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.size)
}

// recentKeys remembers the keys of the last accepted commands. A command that
// comes with one is most likely a repetition: it is looked up instead of being
// tried, which would cost its whole group the attempt.
type recentKeys struct {
	mu    sync.Mutex
	known map[boundKey]struct{}
	ring  [recentKeysKept]boundKey
	next  int
}

const recentKeysKept = 8192

type boundKey struct {
	clinic ledger.ClinicID
	key    string
}

func (r *recentKeys) has(clinic ledger.ClinicID, key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.known[boundKey{clinic, key}]
	return ok
}

func (r *recentKeys) add(records []ledger.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range records {
		key := boundKey{records[i].Event.Clinic, records[i].Event.IdempotencyKey}
		delete(r.known, r.ring[r.next])
		r.ring[r.next] = key
		r.known[key] = struct{}{}
		r.next = (r.next + 1) % recentKeysKept
	}
}

// plan is what one clinic's part of a group comes to when it is decided on a
// state in memory: the rows to write and the verdicts to give once they are
// committed. It is a step function of the state: units in, rows and verdicts
// out.
type plan struct {
	home     *home
	base     ledger.Head
	units    []*unit
	verdicts [][]Verdict
	records  []ledger.Record
	effects  []ledger.Effects
	byKey    map[string]int // keys bound by this plan to their record

	// known holds the records of keys that were bound before; nil means that
	// nobody looked, and then lookups lists the keys whose verdicts depend on it.
	known   map[string]ledger.Record
	lookups []string
	suspect func(key string) bool
	waiting []bool // the verdicts of this unit wait for its lookup
	// private are the private texts of accepted commands, by their keys.
	private map[string][]PrivateText
	// replays tells that the records come from a journal that is restored. What
	// is kept of patients is restored by other means, and stays as it is but for
	// those who were erased.
	replays bool
	// behind are the submissions one of whose units is executed later, under
	// the head's lock: those after it are too, to keep their order.
	behind map[*submission]bool

	// past reads what a command needs of the journal; nil where nothing can be
	// read, and then such commands wait.
	past func(ledger.Command) (ledger.Command, error)

	rows, bytes int
}

func newPlan(h *home, known map[string]ledger.Record, suspect func(string) bool) *plan {
	return &plan{home: h, base: h.state.Head(), byKey: make(map[string]int), known: known, suspect: suspect, behind: make(map[*submission]bool), private: make(map[string][]PrivateText)}
}

// add decides one unit.
func (p *plan) add(w *unit, at ledger.Instant) error {
	p.units = append(p.units, w)
	verdicts, waits, err := p.decideUnit(w, at)
	if err != nil {
		return err
	}
	p.verdicts = append(p.verdicts, verdicts)
	p.waiting = append(p.waiting, waits)
	if waits {
		for _, c := range w.commands {
			p.lookups = append(p.lookups, c.IdempotencyKey)
		}
	}
	return nil
}

// refuse answers a unit without deciding it.
func (p *plan) refuse(w *unit, err error) {
	verdicts := make([]Verdict, len(w.commands))
	for i := range verdicts {
		verdicts[i].Err = err
	}
	p.units, p.verdicts, p.waiting = append(p.units, w), append(p.verdicts, verdicts), append(p.waiting, false)
}

func (p *plan) decideUnit(w *unit, at ledger.Instant) (verdicts []Verdict, waits bool, err error) {
	if verdicts, ok := answerBound(w, p.bound); ok {
		return verdicts, false, nil
	}
	if p.known == nil && p.mustWait(w) {
		return make([]Verdict, len(w.commands)), true, nil
	}
	mark, records := p.home.state.Mark(), len(p.records)
	verdicts = make([]Verdict, len(w.commands))
	for i, c := range w.commands {
		if p.past != nil {
			if c, err = p.past(c); err != nil {
				return nil, false, err
			}
		}
		record, rejection, err := p.decide(w.submission, c, at)
		if err != nil {
			return nil, false, err
		}
		if rejection == nil {
			verdicts[i] = Verdict{Record: record}
			continue
		}
		p.takeBack(mark, records)
		if w.submission.Linked {
			rejectLinked(verdicts, i, rejection)
		} else {
			verdicts[i] = Verdict{Err: rejection}
		}
		// Whether the key was bound before must be known before a rejection
		// is told.
		return verdicts, p.known == nil, nil
	}
	return verdicts, false, nil
}

// mustWait reports whether a unit cannot be decided without reading, or comes
// after one of its submission that cannot.
func (p *plan) mustWait(w *unit) bool {
	if p.behind[w.submission] {
		return true
	}
	for _, c := range w.commands {
		// What needs the past is read under the head's lock, and so are
		// documents that could not be read before.
		if ledger.NeedsPast(c) || len(ledger.Wanted(p.home.state, c)) > 0 {
			p.behind[w.submission] = true
			return true
		}
		if p.suspect(c.IdempotencyKey) {
			return true
		}
	}
	return false
}

// bound returns the record of a key that is bound already.
func (p *plan) bound(key string) (ledger.Record, bool) {
	if i, ok := p.byKey[key]; ok {
		return p.records[i], true
	}
	record, ok := p.known[key]
	return record, ok
}

// decide judges one command and applies it to the state. Where stock is short
// because of holds past their deadline, those are expired first.
func (p *plan) decide(s *submission, c ledger.Command, at ledger.Instant) (ledger.Record, *ledger.Rejection, error) {
	if _, ok := p.byKey[c.IdempotencyKey]; ok {
		return ledger.Record{}, keyReused(c.IdempotencyKey), nil
	}
	state := p.home.state
	if !ledger.Concerns(state, c, s.Locations) {
		return ledger.Record{}, locationForbidden(), nil
	}
	if refused := s.Refused[c.IdempotencyKey]; refused != nil {
		return ledger.Record{}, refused, nil
	}
	event, rejection := ledger.Decide(state, c, at)
	if rejection != nil && rejection.Reason == ledger.ReasonInsufficientStock {
		for _, expiry := range ledger.ExpiriesFor(state, c, at) {
			expired, refused := ledger.Decide(state, expiry, at)
			if refused != nil {
				return ledger.Record{}, nil, fmt.Errorf("expire an overdue hold: %w", refused)
			}
			if _, err := p.accept(expired); err != nil {
				return ledger.Record{}, nil, err
			}
		}
		event, rejection = ledger.Decide(state, c, at)
	}
	if rejection == nil {
		rejection = s.forbidsEvent(event)
	}
	if rejection != nil {
		return ledger.Record{}, rejection, nil
	}
	if texts := s.Private[c.IdempotencyKey]; len(texts) > 0 {
		p.private[c.IdempotencyKey] = texts
	}
	record, err := p.accept(event)
	return record, nil, err
}

func (p *plan) accept(event ledger.Event) (ledger.Record, error) {
	record := ledger.Seal(p.home.state, event)
	effects, err := ledger.Evolve(p.home.state, record)
	if err != nil {
		return record, fmt.Errorf("apply an event just decided: %w", err)
	}
	p.byKey[event.IdempotencyKey] = len(p.records)
	p.records = append(p.records, record)
	p.effects = append(p.effects, effects)
	p.rows += 2 + 2*len(effects.Entries)
	p.bytes += len(record.Stored)
	return record, nil
}

// takeBack undoes everything since a point in the plan.
func (p *plan) takeBack(mark, records int) {
	p.home.state.Rollback(mark)
	for _, r := range p.records[records:] {
		delete(p.byKey, r.Event.IdempotencyKey)
		delete(p.private, r.Event.IdempotencyKey)
		p.bytes -= len(r.Stored)
	}
	for _, effects := range p.effects[records:] {
		p.rows -= 2 + 2*len(effects.Entries)
	}
	p.records, p.effects = p.records[:records], p.effects[:records]
}

// settle completes the verdicts that waited for their keys' lookup. Verdicts
// that need more than that are returned: their units must be executed anew.
func (p *plan) settle(found map[string]ledger.Record, proven bool) (again []*unit) {
	bound := func(key string) (ledger.Record, bool) {
		r, ok := found[key]
		return r, ok
	}
	for i, w := range p.units {
		if !p.waiting[i] {
			continue
		}
		if verdicts, ok := answerBound(w, bound); ok {
			p.verdicts[i] = verdicts
			continue
		}
		if undecided := p.verdicts[i][0].Err == nil; undecided || !proven {
			p.verdicts[i] = nil
			again = append(again, w)
		}
	}
	return again
}

// answerBound answers a unit some of whose keys are bound already. A linked
// batch was bound as a whole or not at all.
func answerBound(w *unit, bound func(string) (ledger.Record, bool)) ([]Verdict, bool) {
	var verdicts []Verdict
	for i, c := range w.commands {
		record, ok := bound(c.IdempotencyKey)
		if !ok {
			continue
		}
		if verdicts == nil {
			verdicts = make([]Verdict, len(w.commands))
		}
		verdicts[i] = replay(w.submission, c, record)
	}
	if verdicts == nil {
		return nil, false
	}
	for i, c := range w.commands {
		if verdicts[i].Err != nil || verdicts[i].Replayed {
			continue
		}
		// Some keys of a linked batch are bound and this one is not: it is
		// another batch that reuses keys.
		for j := range verdicts {
			if verdicts[j].Replayed {
				rejectLinked(verdicts, j, keyReused(w.commands[j].IdempotencyKey))
				return verdicts, true
			}
		}
		verdicts[i] = Verdict{Err: keyReused(c.IdempotencyKey)}
	}
	return verdicts, true
}

// replay answers a command whose key is bound with the first answer, provided
// that it is the same command.
func replay(s *submission, c ledger.Command, record ledger.Record) Verdict {
	if record.Event.RequestHash != c.RequestHash() {
		return Verdict{Err: keyReused(c.IdempotencyKey)}
	}
	if forbidden := s.forbidsEvent(record.Event); forbidden != nil {
		return Verdict{Err: forbidden}
	}
	return Verdict{Record: record, Replayed: true}
}

func keyReused(key string) *ledger.Rejection {
	return &ledger.Rejection{
		Reason: ledger.ReasonIdempotencyKeyReused, Field: "idempotency_key",
		Message:  fmt.Sprintf("The idempotency key %q is bound to another command.", key),
		Metadata: map[string]string{"idempotency_key": key},
	}
}

// forbidsEvent refuses an event that the caller, or the witness, is not
// entitled to.
func (s *submission) forbidsEvent(event ledger.Event) *ledger.Rejection {
	entitled := func(locations []ledger.LocationID) bool {
		return len(locations) == 0 || ledger.ScopeOf(event).Within(locations) && !ledger.ConcernsWholeClinic(event)
	}
	if !entitled(s.Locations) {
		return locationForbidden()
	}
	if event.Witness != "" && !entitled(s.Witnesses[event.Witness]) {
		r := locationForbidden()
		r.Field = "witness_token"
		return r
	}
	if event.LateReasonCode != "" && !s.MayBackdate {
		return &ledger.Rejection{
			Reason: ledger.ReasonOccurredTooEarly, Field: "occurred_at",
			Message: fmt.Sprintf("occurred_at is %s, before the clinic's window for backdating, and the token does not permit command.backdate.", event.OccurredAt),
		}
	}
	if kind, ok := ledger.ApprovedCommand(event); ok && s.Permits != nil && !s.Permits(kind) {
		return &ledger.Rejection{
			Reason: ledger.ReasonCommandForbidden, Field: "approval_id",
			Message:  fmt.Sprintf("The token does not permit %s, so it cannot decide on one either.", kind),
			Metadata: map[string]string{"command": kind.String()},
		}
	}
	return nil
}

func locationForbidden() *ledger.Rejection {
	return &ledger.Rejection{
		Reason: ledger.ReasonLocationForbidden, Field: "location_id",
		Message: "The command concerns a location that the token does not name.",
	}
}
