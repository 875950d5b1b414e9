package txn

import "github.com/prometheus/client_golang/prometheus"

type cacheMetrics struct {
	reads        *prometheus.CounterVec
	sharedErrors prometheus.Counter
}

func newCacheMetrics() *cacheMetrics {
	return &cacheMetrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_cache_reads_total",
			Help: "Answers by what they are about and where they came from: memory, shared (Redis), database (and kept), or bypassed (read for one caller, who wants more than is kept). Many that are bypassed mean callers with min_sequence or topics that change all the time.",
		}, []string{"family", "from"}),
		sharedErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_cache_shared_errors_total",
			Help: "Failures of Redis, and changes that it was not told. Nothing fails with it, but more is read from the database.",
		}),
	}
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
