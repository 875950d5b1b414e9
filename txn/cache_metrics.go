package txn

import (
	"github.com/prometheus/client_golang/prometheus"
)

type cacheMetrics struct {
	reads        *prometheus.CounterVec
	sharedErrors prometheus.Counter
	// memory counts what came from memory: the most frequent case is found
	// without looking for its labels.
	memory [len(families)]prometheus.Counter
}

func newCacheMetrics() *cacheMetrics {
	m := &cacheMetrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_cache_reads_total",
			Help: "Answers by what they are about and where they came from: memory, shared (Redis), database (and kept), or bypassed (read for one caller, who wants more than is kept). Many that are bypassed mean callers with min_sequence or topics that change all the time.",
		}, []string{"family", "from"}),
		sharedErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_cache_shared_errors_total",
			Help: "Failures of Redis, and changes that it was not told. Nothing fails with it, but more is read from the database.",
		}),
	}
	for kind, f := range families {
		if f.name != "" {
			m.memory[kind] = m.reads.WithLabelValues(f.name, "memory")
		}
	}
	return m
}

// count counts answers of a key's family.
func (m *cacheMetrics) count(k cacheKey, from string, answers int) {
	m.reads.WithLabelValues(families[k.topic.Kind].name, from).Add(float64(answers))
}

func (m *cacheMetrics) register(r prometheus.Registerer, entries, followed func() float64) {
	r.MustRegister(m.reads, m.sharedErrors,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stockledger_cache_entries",
			Help: "Answers kept in memory.",
		}, entries),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stockledger_cache_clinics",
			Help: "Clinics whose journals are followed, because answers about them are kept.",
		}, followed))
}
