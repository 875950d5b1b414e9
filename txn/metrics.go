package txn

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

type executorMetrics struct {
	groupCommands prometheus.Histogram
	commits       *prometheus.HistogramVec
	commands      *prometheus.CounterVec
	retreats      prometheus.Counter
	loads         prometheus.Counter
	offenders     prometheus.Counter
	busy          prometheus.Counter
}

func newExecutorMetrics() *executorMetrics {
	return &executorMetrics{
		groupCommands: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stockledger_group_commands", Buckets: prometheus.ExponentialBuckets(1, 4, 7),
			Help: "Commands executed together. High values mean load that grouping absorbs; values at the limit mean that the database is the bottleneck.",
		}),
		commits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "stockledger_commit_seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
			Help: "Time of an attempt to write and commit a group, by path (blind, locked) and result. High values mean a slow or distant database.",
		}, []string{"path", "result"}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_commands_total",
			Help: "Commands answered, by outcome (accepted, replayed, rejected, failed). Many replays mean callers that retry.",
		}, []string{"outcome"}),
		retreats: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_group_retreats_total",
			Help: "Groups that were refused whole and executed again clinic by clinic. High values mean that several nodes execute the same clinics, or callers that repeat old keys.",
		}),
		loads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_state_loads_total",
			Help: "Clinic states read into memory. High values beside few clinics mean that the cache is too small.",
		}),
		offenders: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_offending_commands_total",
			Help: "Commands that the database itself refused. Any is a defect: the log names them.",
		}),
		busy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_submissions_refused_total",
			Help: "Submissions refused because too many commands waited for their clinic. High values mean more load than the database takes.",
		}),
	}
}

func (m *executorMetrics) register(r prometheus.Registerer, waiting, documents func() float64) {
	r.MustRegister(m.groupCommands, m.commits, m.commands, m.retreats, m.loads, m.offenders, m.busy,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stockledger_commands_waiting",
			Help: "Commands waiting to be executed. High values mean more load than the database takes.",
		}, waiting),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stockledger_cached_documents",
			Help: "Documents of clinic states in memory. Values at the limit mean that states are read again and again.",
		}, documents))
}

func (m *executorMetrics) commit(path string, began time.Time, err error) {
	result := "committed"
	if err != nil {
		result = "failed"
	}
	m.commits.WithLabelValues(path, result).Observe(time.Since(began).Seconds())
}

func (m *executorMetrics) verdicts(verdicts []Verdict) {
	var accepted, replayed, rejected, failed float64
	for i := range verdicts {
		switch v := &verdicts[i]; {
		case v.Err == nil && v.Replayed:
			replayed++
		case v.Err == nil:
			accepted++
		case isRejection(v.Err):
			rejected++
		default:
			failed++
		}
	}
	for outcome, n := range map[string]float64{"accepted": accepted, "replayed": replayed, "rejected": rejected, "failed": failed} {
		if n > 0 {
			m.commands.WithLabelValues(outcome).Add(n)
		}
	}
}

func isRejection(err error) bool {
	var r *ledger.Rejection
	return errors.As(err, &r)
}
