package txn

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

// The read models by name. Those that are folded out of the journal move
// together, so they are behind by the same; the others are read where their
// documents are, as of the head.
var (
	foldedModels = []string{"location_stock_summary", "clinic_stock_aggregate", "low_stock_alerts", "dispensing_report", "consumption", "reorder_suggestions"}
	sourceModels = []string{"transfer_pending_queue", "expiring_lots", "prescription_history"}
)

// modelLag knows which clinics have commands that their models do not show, and
// since when: of this node's own commits at once, and of the rest by what it
// finds when it looks. It is asked when metrics are collected, so what it tells
// grows while nothing moves, whatever the reason.
type modelLag struct {
	seconds, commands *prometheus.Desc

	mu     sync.Mutex
	behind map[ledger.ClinicID]*behindModels
}

// behindModels are the models of a clinic that lack something.
type behindModels struct {
	at, head Place
	since    time.Time // when the first command was recorded that they lack
}

func newModelLag() *modelLag {
	return &modelLag{
		seconds: prometheus.NewDesc("stockledger_read_model_lag_seconds",
			"Age of the oldest command that a read model does not show yet, of the clinic that is furthest behind; 0 where all are shown. Low stock is promised within 60, location summaries within 300, clinic aggregates within 900. Models that are read at their source are always 0.",
			[]string{"model"}, nil),
		commands: prometheus.NewDesc("stockledger_read_model_behind_commands",
			"Commands that a read model does not show yet, of the clinic that has most of them.",
			[]string{"model"}, nil),
		behind: make(map[ledger.ClinicID]*behindModels),
	}
}

// grew takes in that a journal grew from a place up to another one, beginning
// with a command recorded at a moment.
func (l *modelLag) grew(clinic ledger.ClinicID, from, head Place, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.behind[clinic]
	if b == nil || from.Epoch > b.head.Epoch {
		l.behind[clinic] = &behindModels{at: from, head: head, since: at}
		return
	}
	if b.head.before(head) {
		b.head = head
	}
}

// moved takes in that models show everything up to a command.
func (l *modelLag) moved(clinic ledger.ClinicID, to AsOf) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.behind[clinic]
	switch {
	case b == nil || to.place().before(b.at):
	case !to.place().before(b.head):
		delete(l.behind, clinic)
	default:
		// The next command was recorded no earlier.
		b.at, b.since = to.place(), to.Time.Time()
	}
}

// forget takes in that a clinic has left the shard.
func (l *modelLag) forget(clinic ledger.ClinicID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.behind, clinic)
}

// known reports whether a clinic is known to be behind.
func (l *modelLag) known(clinic ledger.ClinicID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.behind[clinic] != nil
}

// worst is how old the oldest command is that is not shown, and how many the
// clinic lacks that lacks most.
func (l *modelLag) worst(now time.Time) (age time.Duration, commands int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.behind {
		age = max(age, now.Sub(b.since))
		shown := b.at.Sequence
		if b.at.Epoch != b.head.Epoch {
			shown = 0
		}
		commands = max(commands, int64(b.head.Sequence-shown))
	}
	return age, commands
}

// Describe tells which metrics there are.
func (l *modelLag) Describe(to chan<- *prometheus.Desc) {
	to <- l.seconds
	to <- l.commands
}

// Collect tells how far the models are behind now.
func (l *modelLag) Collect(to chan<- prometheus.Metric) {
	age, commands := l.worst(time.Now())
	tell := func(models []string, seconds, commands float64) {
		for _, model := range models {
			to <- prometheus.MustNewConstMetric(l.seconds, prometheus.GaugeValue, seconds, model)
			to <- prometheus.MustNewConstMetric(l.commands, prometheus.GaugeValue, commands, model)
		}
	}
	tell(foldedModels, age.Seconds(), float64(commands))
	tell(sourceModels, 0, 0)
}

// note takes in what a look found: where a clinic's head and models are.
func (l *modelLag) note(head clinicPlace, cursor Place, first map[ledger.ClinicID]time.Time) {
	switch {
	case absence(head.Epoch) != nil:
		l.forget(head.clinic)
	case head.Place == cursor:
		l.moved(head.clinic, AsOf{Epoch: cursor.Epoch, Sequence: cursor.Sequence, Time: ledger.InstantOf(head.at)})
	default:
		since, ok := first[head.clinic]
		if !ok {
			since = time.Now() // models of another epoch, or none: since they were missed
		}
		l.grew(head.clinic, cursor, head.Place, since)
	}
}

// firstMissing reads when the first commands were recorded that models lack, of
// clinics that were not known to be behind.
func (m *ReadModels) firstMissing(ctx context.Context, tx pgx.Tx, heads []clinicPlace, cursors map[ledger.ClinicID]clinicPlace) (map[ledger.ClinicID]time.Time, error) {
	var clinics []string
	var sequences []int64
	for _, head := range heads {
		cursor := cursors[head.clinic]
		if head.Epoch == cursor.Epoch && head.Sequence > cursor.Sequence && !m.lag.known(head.clinic) {
			clinics, sequences = append(clinics, string(head.clinic)), append(sequences, int64(cursor.Sequence)+1)
		}
	}
	if len(clinics) == 0 {
		return nil, nil
	}
	key := []string{"clinic_id", "sequence"}
	s := selectFrom("SELECT k.clinic_id, j.recorded_at FROM " + keySource(m.db.server.Kind, key, []string{"text", "int8"}) + " " +
		lookUpJoin(m.db.server.Kind, "journal", "j", "k", key, []string{"recorded_at"}))
	s.args = []any{clinics, sequences}
	first := make(map[ledger.ClinicID]time.Time, len(clinics))
	_, err := collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error {
		var clinic ledger.ClinicID
		var at time.Time
		err := rows.Scan(&clinic, &at)
		first[clinic] = at.UTC()
		return err
	})
	return first, err
}
