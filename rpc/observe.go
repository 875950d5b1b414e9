package rpc

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/stockledger/stockledger/ledger"
)

// requestRecord is what is known of a request. The layers that a request passes
// through write into it, and so do calls that it makes in process, which may
// outlast a caller that leaves.
type requestRecord struct {
	id        string
	procedure string

	mu    sync.Mutex
	known requestFacts
}

// requestFacts are what a request's layers find out. They never hold anything of
// a body but the clinic's id.
type requestFacts struct {
	protocol string
	clinic   ledger.ClinicID
	actor    ledger.Actor
	code     connect.Code // zero: success
	reason   ledger.Reason
	cause    error
	status   int // of HTTP
}

// note adds to what is known.
func (r *requestRecord) note(add func(*requestFacts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	add(&r.known)
}

// facts are what is known by now.
func (r *requestRecord) facts() requestFacts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

type recordKey struct{}

// recordOf returns the request's record. Calls that did not come over HTTP get
// one that nobody reads.
func recordOf(ctx context.Context) *requestRecord {
	if r, ok := ctx.Value(recordKey{}).(*requestRecord); ok {
		return r
	}
	return new(requestRecord)
}

// outcome is the code's name, also for what failed before it came to an RPC.
func (r requestFacts) outcome() string {
	switch {
	case r.code != 0:
		return r.code.String()
	case r.status >= http.StatusBadRequest:
		return "http_" + strconv.Itoa(r.status)
	}
	return "ok"
}

// level of a request's line: what the operator should look at stands out.
func (r requestFacts) level() slog.Level {
	switch r.code {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss:
		return slog.LevelError
	case connect.CodeUnavailable, connect.CodeResourceExhausted:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func (r *requestRecord) log(ctx context.Context, log *slog.Logger, took time.Duration) {
	known := r.facts()
	level := known.level()
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("procedure", r.procedure),
		slog.String("protocol", known.protocol),
		slog.String("code", known.outcome()),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.String("request_id", r.id),
	)
	if known.reason != "" {
		attrs = append(attrs, slog.String("reason", string(known.reason)))
	}
	if known.clinic != "" {
		attrs = append(attrs, slog.String("clinic", string(known.clinic)))
	}
	if known.actor != "" {
		attrs = append(attrs, slog.String("actor", string(known.actor)))
	}
	if known.cause != nil && level > slog.LevelInfo {
		attrs = append(attrs, slog.String("error", known.cause.Error()))
	}
	log.LogAttrs(ctx, level, "request", attrs...)
}

// serverMetrics are the metrics of the API.
type serverMetrics struct {
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	panics   prometheus.Counter
}

func newServerMetrics(registry prometheus.Registerer) *serverMetrics {
	m := &serverMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "stockledger_rpc_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer. High values of mutations mean that groups of commands wait for the database or that queues are long; high values of one query mean that its plan or its page is too large. A high count of unavailable or internal needs an operator.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"procedure", "code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stockledger_rpc_requests_in_flight",
			Help: "Requests being served now. A value that only grows means that the database or the executor stalls.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockledger_rpc_panics_total",
			Help: "Requests that ended in a panic. Any value above zero is a defect: the log has its stack.",
		}),
	}
	registry.MustRegister(m.duration, m.inFlight, m.panics)
	return m
}

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

const requestIDHeader = "X-Request-Id"

// requestID takes the caller's id where it is harmless, else makes one.
func requestID(header http.Header) string {
	const limit = 64
	if id := header.Get(requestIDHeader); id != "" && len(id) <= limit && isCode(id) {
		return id
	}
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	return hex.EncodeToString(id[:])
}

func isCode(s string) bool {
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':' || c == '/'
		if !ok {
			return false
		}
	}
	return true
}

// observed serves a request with next and records how it went.
func (s *Server) observed(procedure string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		record := &requestRecord{id: requestID(r.Header), procedure: procedure, known: requestFacts{protocol: "http"}}
		answer := &answerWriter{ResponseWriter: w, record: record}
		w.Header().Set(requestIDHeader, record.id)
		s.metrics.inFlight.Inc()
		defer func() {
			cause := recover()
			failure, _ := cause.(error)
			cut := errors.Is(failure, http.ErrAbortHandler)
			if cause != nil && !cut {
				s.panicked(record, cause)
				if record.facts().status == 0 {
					http.Error(answer, "internal error", http.StatusInternalServerError)
				}
			}
			took := time.Since(began)
			s.metrics.inFlight.Dec()
			s.metrics.duration.WithLabelValues(procedure, record.facts().outcome()).Observe(took.Seconds())
			record.log(r.Context(), s.log, took)
			if cut {
				panic(cause) // which net/http takes for the wish to cut the connection
			}
		}()
		next.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), recordKey{}, record)))
	})
}

// answerWriter notes the status that a handler answers with.
type answerWriter struct {
	http.ResponseWriter
	record *requestRecord
	begun  func() // runs before the first byte of the answer
}

// Unwrap is for http.ResponseController.
func (a *answerWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader notes the status. A method that does not exist is the caller's
// mistake: Connect's 501 becomes 404, which its clients read the same way.
func (a *answerWriter) WriteHeader(status int) {
	if status == http.StatusNotImplemented {
		status = http.StatusNotFound
	}
	if a.record.facts().status == 0 {
		a.record.note(func(known *requestFacts) { known.status = status })
		if a.begun != nil {
			a.begun()
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (a *answerWriter) Write(b []byte) (int, error) {
	if a.record.facts().status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(b)
}

// Flush sends what was written.
func (a *answerWriter) Flush() {
	if f, ok := a.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

func (s *Server) panicked(record *requestRecord, cause any) {
	s.metrics.panics.Inc()
	s.log.Error("a request panicked", "procedure", record.procedure, "request_id", record.id,
		"panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
}

// watch is the outermost interceptor: it gives every error its form and keeps a
// panic from reaching the caller.
func (s *Server) watch(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) (err error) {
		record := recordOf(ctx)
		if info, ok := connect.CallInfoForServerContext(ctx); ok {
			record.note(func(known *requestFacts) { known.protocol = info.Protocol + "+" + info.Codec })
		}
		defer func() {
			if cause := recover(); cause != nil {
				s.panicked(record, cause)
				err = fail(reasonInternal, "Something went wrong inside the ledger.").because(fmt.Errorf("panic: %v", cause))
			}
			err = finished(record, err)
		}()
		return next(ctx, spec, &explainingStream{ServerStream: stream, ctx: ctx})
	}
}

// explainingStream gives errors of receiving a request their reasons.
type explainingStream struct {
	connect.ServerStream
	ctx context.Context
}

// Receive reads the next message.
func (s *explainingStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return receiveError(s.ctx, err)
	}
	return nil
}
