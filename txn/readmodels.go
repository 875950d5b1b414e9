package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

// ReadModelsConfig says how often read models move. Every field has a default.
type ReadModelsConfig struct {
	// Every is how often the models of a clinic move while it is written to. The
	// longer, the fewer rows are written for as many commands. Default 750 ms.
	Every time.Duration
	// LookEvery is how often a part of all clinics is looked at for models that
	// nobody moves: of clinics that were imported, or whose node died. Default
	// 1 s.
	LookEvery time.Duration
	// Log receives what an operator should know. Default slog.Default().
	Log *slog.Logger
}

// ReadModels keeps what reports read up with the journals: sums of stock, what
// is low, what was used and what was dispensed. All models of a clinic move
// together, in one transaction with the cursor that says how far they have come,
// and only from where it was: several nodes that move the models of one clinic
// are slower, not wrong.
//
// They are folded out of the events alone, so what a step costs grows with what
// the commands since the last one touched. A restored journal has another epoch;
// then they are folded anew from its beginning.
type ReadModels struct {
	db      *DB
	cfg     ReadModelsConfig
	metrics *readModelMetrics
	lag     *modelLag

	mu       sync.Mutex
	backlogs map[ledger.ClinicID]*backlog
	waiting  int // events in all backlogs

	// What follows is of the goroutine that moves.

	looked ledger.ClinicID // where the next look goes on
	// broken are clinics with events that cannot be read, and where their heads
	// were when that was found.
	broken map[ledger.ClinicID]Place
	kept   map[ledger.ClinicID]*keptModels
}

// backlog is what this node committed of a clinic since its models moved.
type backlog struct {
	after  Place
	events []ledger.Event
	// lost tells that there were more: the journal has them.
	lost bool
}

const (
	// maxBacklog bounds the events that are kept in memory for the models.
	maxBacklog = 100_000
	// modelEvents is how many events of a clinic one step takes.
	modelEvents = 5_000
	// stepEvents is how many events one transaction takes, of all its clinics,
	// give or take those of one.
	stepEvents = 50_000
	// modelClinics is how many clinics move in one transaction.
	modelClinics = 25
	// modelsLooked is how many clinics one look is at.
	modelsLooked = 2_000
	// modelsBehind is how far models must be behind for a node to move them that
	// did not commit what they lack.
	modelsBehind = 3 * time.Second
)

// NewReadModels returns the read models of a database. They move while
// [ReadModels.Run] runs.
func NewReadModels(db *DB, cfg ReadModelsConfig) *ReadModels {
	setDefault(&cfg.Every, 750*time.Millisecond)
	setDefault(&cfg.LookEvery, time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &ReadModels{
		db: db, cfg: cfg, metrics: newReadModelMetrics(), lag: newModelLag(), backlogs: make(map[ledger.ClinicID]*backlog), broken: make(map[ledger.ClinicID]Place), kept: make(map[ledger.ClinicID]*keptModels),
	}
}

// RegisterMetrics registers what the models measure.
func (m *ReadModels) RegisterMetrics(r prometheus.Registerer) {
	m.metrics.register(r)
	r.MustRegister(m.lag)
}

// committed takes in what this node committed after a head.
func (m *ReadModels) committed(clinic ledger.ClinicID, base ledger.Head, records []ledger.Record) {
	if len(records) > 0 {
		head := Place{base.Epoch, records[len(records)-1].Event.Sequence}
		m.lag.grew(clinic, Place{base.Epoch, base.Sequence}, head, records[0].Event.At.Time())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.backlogs[clinic]
	if b == nil {
		b = &backlog{after: Place{base.Epoch, base.Sequence}}
		m.backlogs[clinic] = b
	}
	if end := b.end(); b.lost || end != (Place{base.Epoch, base.Sequence}) || m.waiting+len(records) > maxBacklog {
		m.waiting -= len(b.events)
		b.events, b.lost = nil, true
		return
	}
	for i := range records {
		b.events = append(b.events, records[i].Event)
	}
	m.waiting += len(records)
}

// end is the last command of a backlog.
func (b *backlog) end() Place {
	if len(b.events) == 0 {
		return b.after
	}
	return Place{b.after.Epoch, b.events[len(b.events)-1].Sequence}
}

// Run moves the models until ctx ends.
func (m *ReadModels) Run(ctx context.Context) {
	move, look := time.NewTicker(m.cfg.Every), time.NewTicker(m.cfg.LookEvery)
	defer move.Stop()
	defer look.Stop()
	away := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-move.C:
			err = m.moveBacklogs(ctx)
		case <-look.C:
			err = m.look(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !away {
			m.cfg.Log.Warn("read models do not move; reports grow older, as they say", "error", err)
		}
		away = err != nil
	}
}

// moveBacklogs moves the models of the clinics that this node wrote to.
func (m *ReadModels) moveBacklogs(ctx context.Context) error {
	m.mu.Lock()
	backlogs := m.backlogs
	m.backlogs, m.waiting = make(map[ledger.ClinicID]*backlog), 0
	m.mu.Unlock()
	return m.moveAll(ctx, backlogs)
}

// moveAll moves the models of some clinics to the ends of their journals.
func (m *ReadModels) moveAll(ctx context.Context, backlogs map[ledger.ClinicID]*backlog) error {
	var failed error
	chunk := make([]ledger.ClinicID, 0, modelClinics)
	move := func() {
		if len(chunk) > 0 {
			failed = errors.Join(failed, m.move(ctx, chunk, backlogs))
		}
		chunk = chunk[:0]
	}
	for clinic := range backlogs {
		if chunk = append(chunk, clinic); len(chunk) == modelClinics {
			move()
		}
	}
	move()
	return failed
}

// look moves the models that nobody else moves, of the next clinics in the order
// of their ids.
func (m *ReadModels) look(ctx context.Context) error {
	behind, err := m.behind(ctx)
	if err != nil {
		return fmt.Errorf("txn: look for read models that are behind: %w", err)
	}
	return m.moveAll(ctx, behind)
}

// behind finds the next clinics whose models nobody moves.
func (m *ReadModels) behind(ctx context.Context) (map[ledger.ClinicID]*backlog, error) {
	behind := make(map[ledger.ClinicID]*backlog)
	var heads []clinicPlace
	var at map[ledger.ClinicID]clinicPlace
	var first map[ledger.ClinicID]time.Time
	err := m.db.readTx(ctx, func(tx pgx.Tx) (err error) {
		s := selectFrom(selectHeadsAfter)
		s.args = []any{m.looked, modelsLooked}
		if heads, err = collect(ctx, tx, s, scanClinicPlace); err != nil || len(heads) == 0 {
			return err
		}
		ids := make([]ledger.ClinicID, len(heads))
		for i, head := range heads {
			ids[i] = head.clinic
		}
		s = selectFrom(selectCursorsOf)
		s.args = []any{texts(ids)}
		cursors, err := collect(ctx, tx, s, scanClinicPlace)
		if err != nil {
			return err
		}
		at = make(map[ledger.ClinicID]clinicPlace, len(cursors))
		for _, cursor := range cursors {
			at[cursor.clinic] = cursor
		}
		first, err = m.firstMissing(ctx, tx, heads, at)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.looked = ""
	if len(heads) == modelsLooked {
		m.looked = heads[len(heads)-1].clinic
	}
	for _, head := range heads {
		cursor := at[head.clinic]
		m.lag.note(head, cursor.Place, first)
		untouched := time.Since(cursor.at) > modelsBehind || time.Since(head.at) > modelsBehind
		if head.Place != cursor.Place && absence(head.Epoch) == nil && untouched {
			behind[head.clinic] = &backlog{lost: true}
		}
	}
	return behind, nil
}

// modelsVersion says which models a cursor stands for: it is raised when one is
// added. 2 is since there are late entries. modelsEpoch is the epoch of models,
// and none for those of an older version: they are folded anew.
const (
	modelsVersion = 2
	modelsEpoch   = `CASE WHEN version < 2 THEN 0 ELSE epoch END`
)

// clinicPlace is where a clinic is, and since when.
type clinicPlace struct {
	clinic ledger.ClinicID
	Place
	at time.Time
}

func scanClinicPlace(rows pgx.Rows, p *clinicPlace) error {
	return rows.Scan(&p.clinic, &p.Epoch, &p.Sequence, &p.at)
}

const (
	selectHeadsAfter = `SELECT clinic_id, epoch, sequence, recorded_at FROM heads WHERE clinic_id > $1 ORDER BY clinic_id LIMIT $2`
	selectCursorsOf  = `SELECT clinic_id, ` + modelsEpoch + `, sequence, recorded_at FROM read_model_cursors WHERE clinic_id = ANY($1)`
)

// move moves the models of a few clinics, in one transaction for each step that
// it takes.
func (m *ReadModels) move(ctx context.Context, clinics []ledger.ClinicID, backlogs map[ledger.ClinicID]*backlog) error {
	for len(clinics) > 0 && ctx.Err() == nil {
		steps, left, err := m.steps(ctx, clinics, backlogs)
		if err != nil {
			return err
		}
		err = m.apply(ctx, steps)
		if errors.Is(err, errModelsMoved) {
			continue // from where they are now
		}
		if err != nil {
			return err
		}
		clinics = slices.Clone(left)
		for _, s := range steps {
			m.metrics.observe(s)
			m.lag.moved(s.clinic, s.to)
			if s.more {
				clinics = append(clinics, s.clinic)
			}
		}
	}
	return ctx.Err()
}

// modelStep is how the models of a clinic move at a time.
type modelStep struct {
	clinic ledger.ClinicID
	zone   string // of the clinic, after the events
	from   Place
	to     AsOf
	events []ledger.Event
	// Of each event, the entries that it posts and the day on which it happened
	// at the clinic.
	entries [][]ledger.Entry
	days    []ledger.Date
	// anew tells that the models are of another epoch, or none: they are folded
	// from the beginning.
	anew bool
	more bool // the journal goes on
}

const (
	selectModelHeads   = `SELECT clinic_id, epoch, sequence FROM heads WHERE clinic_id = ANY($1)`
	selectModelCursors = `SELECT clinic_id, ` + modelsEpoch + `, sequence, time_zone FROM read_model_cursors WHERE clinic_id = ANY($1)`
)

// steps reads what the models of some clinics lack. Journals are read apart from
// the transaction that writes: what is in them does not change any more, and
// who appends to them is not in the way. left are the clinics that were not
// looked at, since the others have enough for one transaction.
func (m *ReadModels) steps(ctx context.Context, clinics []ledger.ClinicID, backlogs map[ledger.ClinicID]*backlog) (steps []*modelStep, left []ledger.ClinicID, err error) {
	err = m.db.readTx(ctx, func(tx pgx.Tx) error {
		heads := make(map[ledger.ClinicID]Place)
		places := selectFrom(selectModelHeads)
		places.args = []any{texts(clinics)}
		if _, err := collect(ctx, tx, places, func(rows pgx.Rows, _ *struct{}) error {
			var clinic ledger.ClinicID
			var head Place
			err := rows.Scan(&clinic, &head.Epoch, &head.Sequence)
			heads[clinic] = head
			return err
		}); err != nil {
			return err
		}
		begun := make(map[ledger.ClinicID]*modelStep)
		cursors := selectFrom(selectModelCursors)
		cursors.args = places.args
		if _, err := collect(ctx, tx, cursors, func(rows pgx.Rows, _ *struct{}) error {
			s := &modelStep{}
			err := rows.Scan(&s.clinic, &s.from.Epoch, &s.from.Sequence, &s.zone)
			begun[s.clinic] = s
			return err
		}); err != nil {
			return err
		}
		steps, left = nil, nil
		events := 0
		for i, clinic := range clinics {
			if events >= stepEvents {
				left = clinics[i:]
				return nil
			}
			head, step := heads[clinic], begun[clinic]
			if step == nil {
				step = &modelStep{clinic: clinic}
			}
			if head == step.from { // also where another node has moved them
				m.lag.moved(clinic, AsOf{Epoch: head.Epoch, Sequence: head.Sequence, Time: ledger.InstantOf(time.Now())})
			}
			if absence(head.Epoch) != nil || head == step.from || m.broken[step.clinic] == head {
				continue
			}
			err := step.read(ctx, tx, head, backlogs[step.clinic])
			if errors.Is(err, errUnreadableEvent) {
				m.broken[step.clinic] = head
				m.cfg.Log.Error("the read models of a clinic stand still: an event of its journal cannot be read; run stockledger verify", "clinic", step.clinic, "error", err)
				continue
			}
			if err != nil {
				return err
			}
			if len(step.events) > 0 {
				steps, events = append(steps, step), events+len(step.events)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("txn: read what read models lack: %w", err)
	}
	return steps, left, nil
}

// read takes the events that the step is about from the backlog, or from the
// journal where that does not have them all.
func (s *modelStep) read(ctx context.Context, tx pgx.Tx, head Place, b *backlog) error {
	after := s.from.Sequence
	if s.from.Epoch != head.Epoch {
		s.anew, after = true, 0
	}
	if b != nil && !b.lost && b.after.Epoch == head.Epoch && b.after.Sequence <= after && len(b.events) > 0 {
		first := int(after - b.after.Sequence)
		s.events = b.events[min(first, len(b.events)):]
	} else {
		q := selectFrom(selectJournalAfter)
		q.args = []any{s.clinic, after, modelEvents}
		var err error
		if s.events, err = collect(ctx, tx, q, scanEvent); err != nil {
			return err
		}
	}
	s.events = s.events[:min(len(s.events), modelEvents)]
	s.days, s.entries = make([]ledger.Date, 0, len(s.events)), make([][]ledger.Entry, 0, len(s.events))
	zone := zoneNamed(s.zone)
	for i := range s.events {
		e := &s.events[i]
		if changed := zoneSet(e.Body); changed != "" {
			s.zone, zone = changed, zoneNamed(changed)
		}
		s.days, s.entries = append(s.days, dayOf(e, zone)), append(s.entries, ledger.EntriesOf(*e))
	}
	if len(s.events) > 0 {
		last := &s.events[len(s.events)-1]
		s.to = AsOf{Epoch: head.Epoch, Sequence: last.Sequence, Time: last.At}
		s.more = last.Sequence < head.Sequence
	}
	return nil
}

// zoneSet is the time zone that an event gives its clinic; empty: none.
func zoneSet(body ledger.EventBody) string {
	switch b := body.(type) {
	case *ledger.ClinicCreated:
		return b.TimeZone
	case *ledger.ClinicUpdated:
		return b.TimeZone
	case *ledger.Change:
		if b.Approved != nil {
			return zoneSet(b.Approved)
		}
	}
	return ""
}

func zoneNamed(name string) *time.Location {
	if zone, err := time.LoadLocation(name); err == nil {
		return zone
	}
	return time.UTC
}

// dayOf is the day in a time zone on which something happened.
func dayOf(e *ledger.Event, zone *time.Location) ledger.Date {
	at := e.OccurredAt
	if at == 0 {
		at = e.At
	}
	return ledger.DateOf(at.Time().In(zone))
}

func scanEvent(rows pgx.Rows, e *ledger.Event) error {
	var stored, hash []byte
	if err := rows.Scan(&stored, &hash); err != nil {
		return err
	}
	event, err := ledger.DecodeEvent(stored)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreadableEvent, err)
	}
	*e = event
	return nil
}

// errUnreadableEvent means that an event is not what this program writes.
var errUnreadableEvent = errors.New("txn: unreadable event")

// errModelsMoved means that another node has moved the models meanwhile.
var errModelsMoved = errors.New("txn: the read models were moved by another node")

// apply carries steps out, all or none.
func (m *ReadModels) apply(ctx context.Context, steps []*modelStep) error {
	if len(steps) == 0 {
		return nil
	}
	var rows *modelRows
	err := m.db.InTx(ctx, func(tx pgx.Tx) (err error) {
		if err := lockCursors(ctx, tx, steps); err != nil {
			return err
		}
		if rows, err = m.rowsOf(ctx, tx, steps); err != nil {
			return err
		}
		for _, s := range steps {
			rows.fold(s)
		}
		var b pgx.Batch
		rows.queue(&b, m.db.server.Kind, steps)
		results := tx.SendBatch(ctx, &b)
		for range b.Len() {
			if _, err := results.Exec(); err != nil {
				return errors.Join(fmt.Errorf("txn: write read models: %w", err), results.Close())
			}
		}
		return results.Close()
	})
	if err == nil {
		m.keep(steps, rows)
	}
	return err
}

// keptModels are rows of a clinic as they were after a command. While the cursor
// is there, nobody has written them since, and they need not be read.
type keptModels struct {
	at Place
	*modelRows
}

// maxKeptModels bounds the rows that are kept in memory, of all clinics.
const maxKeptModels = 200_000

// keep remembers what was written.
func (m *ReadModels) keep(steps []*modelStep, rows *modelRows) {
	for _, s := range steps {
		k := m.kept[s.clinic]
		if k == nil || k.at != s.from || s.anew {
			k = &keptModels{modelRows: newModelRows()}
			m.kept[s.clinic] = k
		}
		k.at = Place{s.to.Epoch, s.to.Sequence}
	}
	count := 0
	for shelf, row := range rows.summaries {
		m.kept[shelf.clinic].summaries[shelf] = row
	}
	for key, c := range rows.consumption {
		m.kept[key.clinic].consumption[key] = c
	}
	for key, d := range rows.dispensings {
		m.kept[key.clinic].dispensings[key] = d
	}
	for _, k := range m.kept {
		count += len(k.summaries) + len(k.consumption) + len(k.dispensings)
	}
	if count > maxKeptModels {
		clear(m.kept)
	}
}

// lockCursors makes sure that the models are where the steps begin.
func lockCursors(ctx context.Context, tx pgx.Tx, steps []*modelStep) error {
	cursors := make(map[ledger.ClinicID]Place)
	clinics := make([]ledger.ClinicID, len(steps))
	for i, s := range steps {
		clinics[i] = s.clinic
	}
	s := selectFrom(selectCursorsOf + ` ORDER BY clinic_id FOR UPDATE`)
	s.args = []any{texts(clinics)}
	places, err := collect(ctx, tx, s, scanClinicPlace)
	if err != nil {
		return err
	}
	for _, p := range places {
		cursors[p.clinic] = p.Place
	}
	for _, s := range steps {
		if cursors[s.clinic] != s.from {
			return errModelsMoved
		}
	}
	return nil
}

type readModelMetrics struct {
	shown    prometheus.Histogram
	commands prometheus.Counter
}

func newReadModelMetrics() *readModelMetrics {
	return &readModelMetrics{
		shown: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stockledger_read_model_shown_after_seconds", Buckets: prometheus.ExponentialBuckets(0.05, 1.6, 18),
			Help: "Time from when a command was recorded until the read models showed it: of the oldest command of each step that was made. What waits is in stockledger_read_model_lag_seconds.",
		}),
		commands: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_read_model_commands_total",
			Help: "Commands that the read models took in on this node. Beside the commands that were accepted it shows whether they keep up.",
		}),
	}
}

func (m *readModelMetrics) register(r prometheus.Registerer) { r.MustRegister(m.shown, m.commands) }

func (m *readModelMetrics) observe(s *modelStep) {
	m.shown.Observe(time.Since(s.events[0].At.Time()).Seconds())
	m.commands.Add(float64(len(s.events)))
}
