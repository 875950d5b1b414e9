package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"connectrpc.com/grpcreflect/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/rpc/fhir"
	"github.com/stockledger/stockledger/txn"
)

// maxMessage is the largest request, and the largest message after it is
// decompressed.
const maxMessage = 16 << 20

// Config says how the API is served. Every field has a default.
type Config struct {
	// Listen is the address of the API. Port 0 takes a free one. Default
	// 127.0.0.1:8080.
	Listen string
	// AdminListen is the address of probes and metrics, which need no token and
	// should not be reachable from outside. Default 127.0.0.1:8081.
	AdminListen string
	// Parts are those of the API that are served. Default all.
	Parts []Part
	// AllowedOrigins are the web origins whose pages may call the API from a
	// browser, or * for all. Default none.
	AllowedOrigins []string
	// HeaderTimeout bounds the arrival of a request's header. Default 10 s.
	HeaderTimeout time.Duration
	// ReadTimeout bounds the arrival of a request's body. Default 1 min.
	ReadTimeout time.Duration
	// WriteTimeout bounds the delivery of an answer, or of one part of a
	// streamed one. Default 1 min.
	WriteTimeout time.Duration
	// IdleTimeout is how long a connection may stay open without a request.
	// Default 2 min.
	IdleTimeout time.Duration
	// DrainDelay is the time between readiness going off and the port closing,
	// for load balancers to notice. Default none.
	DrainDelay time.Duration
	// ShutdownTimeout bounds the wait for requests under way in [Server.Run].
	// Default 25 s.
	ShutdownTimeout time.Duration
	// Profiling serves net/http/pprof on the admin address. Default off.
	Profiling bool
	// Log receives one line a request. Default slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.Listen, "127.0.0.1:8080")
	setDefault(&c.AdminListen, "127.0.0.1:8081")
	setDefault(&c.HeaderTimeout, 10*time.Second)
	setDefault(&c.ReadTimeout, time.Minute)
	setDefault(&c.WriteTimeout, time.Minute)
	setDefault(&c.IdleTimeout, 2*time.Minute)
	setDefault(&c.ShutdownTimeout, 25*time.Second)
	if len(c.Parts) == 0 {
		c.Parts = Parts()
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"HeaderTimeout": c.HeaderTimeout, "ReadTimeout": c.ReadTimeout, "WriteTimeout": c.WriteTimeout, "IdleTimeout": c.IdleTimeout,
		"ShutdownTimeout": c.ShutdownTimeout, "DrainDelay": c.DrainDelay,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative", name))
		}
	}
	for _, part := range c.Parts {
		if !slices.Contains(Parts(), part) {
			errs = append(errs, fmt.Errorf("there is no part %q of the API", part))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("rpc: configuration: %w", errors.Join(errs...))
	}
	return nil
}

// Executor executes commands: a [txn.Executor].
type Executor interface {
	Submit(context.Context, txn.Submission) ([]txn.Verdict, error)
	Accepting() bool
}

// Database is what readiness asks: a [txn.DB].
type Database interface {
	Ping(context.Context) error
	SchemaVersion(context.Context) (current, wanted int64, err error)
}

// Deps are the parts that the API stands on. Their owner closes them after
// [Server.Run] has returned.
type Deps struct {
	Executor Executor
	// Reachable reports whether a node that executes commands can be reached; nil
	// where this process executes them.
	Reachable func() bool
	Queries   *txn.Queries
	// Feed tells watches when there is something to read. Who makes it runs it.
	Feed     *txn.Feed
	Database Database
	// Issuer's tokens are trusted, and page tokens are sealed with its key.
	Issuer *Issuer
	// Patients is the side table of patients.
	Patients *txn.Patients
	// Keyring keeps patients' names and private texts; without one, commands
	// that bring any are refused.
	Keyring *Keyring
	// Trusted are issuers outside.
	Trusted []TrustedIssuer
	// Operations is where commands wait that are carried out later.
	Operations OperationQueue
	// Webhooks is where events are sent to.
	Webhooks Webhooks
	// Administration is what operators ask about and do.
	Administration Administration
	// Metrics add what other packages measure to /metrics.
	Metrics []func(prometheus.Registerer)
}

// Server serves the API on one port and probes and metrics on another.
type Server struct {
	cfg       Config
	log       *slog.Logger
	deps      Deps
	registry  *prometheus.Registry
	metrics   *serverMetrics
	readiness *readiness
	api       *http.Server
	admin     *http.Server
	// services answer reports in process.
	services csvServices

	// draining is closed when readiness goes off, ending when the port closes:
	// what may go on for long ends then.
	draining, ending   chan struct{}
	drainOnce, endOnce sync.Once

	apiListener, adminListener net.Listener
}

// NewServer returns a server that does not listen yet.
func NewServer(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, deps: deps, registry: newRegistry(), draining: make(chan struct{}), ending: make(chan struct{})}
	s.metrics = newServerMetrics(s.registry)
	for _, register := range deps.Metrics {
		register(s.registry)
	}
	s.readiness = &readiness{deps: deps, log: s.log, draining: s.draining}
	handler, err := s.routes()
	if err != nil {
		return nil, err
	}
	s.api = s.newHTTPServer(handler)
	s.admin = s.newHTTPServer(s.adminRoutes())
	return s, nil
}

// newHTTPServer leaves the time of a whole request to the handlers: a streamed
// answer may take longer than any that is sent at once.
func (s *Server) newHTTPServer(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    64 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     s.cfg.WriteTimeout,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// routes builds the API: services, interceptors and codecs.
func (s *Server) routes() (http.Handler, error) {
	plans, err := newAccessPlans(stockledgerServices()...)
	if err != nil {
		return nil, err
	}
	rules, err := newRules()
	if err != nil {
		return nil, err
	}
	needs, err := newCommandPermissions()
	if err != nil {
		return nil, err
	}
	verifier := NewVerifier(append(slices.Clone(s.deps.Trusted), s.deps.Issuer.Trust())...)
	interceptors := []connect.ServerInterceptor{s.watch, authenticate(verifier, isOpen), cacheGets, noStore, plans.enforce, rules.enforce, newReferences(s.deps.Queries, plans).enforce}
	// For the calls that FHIR, CSV and reports make: with every service, since
	// what they read may belong to the other part.
	internal := connect.NewServer(interceptors...)
	s.services = newCSVServices(internal)
	all := s.handlers(&commandHandler{
		executor: s.deps.Executor, rules: rules, verifier: verifier, needs: needs, texts: s.privateTexts(), log: s.log, ending: s.ending,
	}, plans)
	all.register(internal)
	served, others := s.onWire(all, interceptors)

	mux := http.NewServeMux()
	for _, server := range []*connect.Server{served, others} {
		connecthttp.Mount(newRouter(s, mux, server), server,
			connecthttp.WithReadMaxBytes(maxMessage),
			connecthttp.WithCompressMinBytes(1024),
			connecthttp.WithCodecs(connectproto.NewBinaryCodec(), newJSONCodec()),
		)
	}
	mux.Handle(fhir.Prefix, s.fhirRoutes(internal, verifier))
	mux.Handle(csvPrefix, s.csvRoutes())
	mux.Handle("/", s.observed(unknownProcedure, http.HandlerFunc(notFound)))
	return allowOrigins(s.cfg.AllowedOrigins, mux), nil
}

// handlers returns what serves each service.
func (s *Server) handlers(commands *commandHandler, plans accessPlans) handlers {
	queries := &queryHandler{queries: s.deps.Queries, pages: newPageTokens(s.deps.Issuer.Secret("page tokens"))}
	return handlers{
		stockledgerv1connect.InventoryServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterInventoryServiceHandler(to, &inventoryService{commands})
		},
		stockledgerv1connect.CatalogServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterCatalogServiceHandler(to, &catalogService{commands, queries})
		},
		stockledgerv1connect.QueryServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterQueryServiceHandler(to, &queryService{queries})
		},
		stockledgerv1connect.EventServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterEventServiceHandler(to, &eventService{queries, s.deps.Feed, s.ending, s.deps.Webhooks})
		},
		stockledgerv1connect.PharmacyServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterPharmacyServiceHandler(to, &pharmacyService{commandHandler: commands, queryHandler: queries})
		},
		stockledgerv1connect.AdminServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterAdminServiceHandler(to, &adminService{queries, s.deps.Administration, s.deps.Operations.Store})
		},
		stockledgerv1connect.OperationServiceName: func(to *connect.Server) {
			stockledgerv1connect.RegisterOperationServiceHandler(to, &operationService{commands, queries, s.deps.Operations, s.ending, s.services, plans})
		},
	}
}

// privateTexts is where private texts are kept.
func (s *Server) privateTexts() privateTexts {
	if s.deps.Keyring == nil {
		return noTexts{}
	}
	return &patientTexts{s.deps.Keyring, s.deps.Patients, s.deps.Queries}
}

// newJSONCodec is strict on input, since a misspelt optional field that is
// dropped in silence takes stock from the wrong shelf, and complete on output,
// since a balance that is missing is not seen to be zero.
func newJSONCodec() *connectproto.JSONCodec {
	codec := connectproto.NewJSONCodec()
	codec.UnmarshalOptions.DiscardUnknown = false
	codec.MarshalOptions.EmitDefaultValues = true
	return codec
}

// Listen takes the ports, so that their addresses are known before [Server.Run].
func (s *Server) Listen(ctx context.Context) error {
	var config net.ListenConfig
	api, err := config.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("rpc: listen for the API: %w", err)
	}
	admin, err := config.Listen(ctx, "tcp", s.cfg.AdminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("rpc: listen for probes and metrics: %w", err), api.Close())
	}
	s.apiListener, s.adminListener = api, admin
	return nil
}

// Addr is the address of the API once [Server.Listen] has returned.
func (s *Server) Addr() string { return s.apiListener.Addr().String() }

// AdminAddr is the address of probes and metrics once [Server.Listen] has
// returned.
func (s *Server) AdminAddr() string { return s.adminListener.Addr().String() }

// Run serves until ctx ends or a listener fails, and then shuts down within
// DrainDelay and ShutdownTimeout.
func (s *Server) Run(ctx context.Context) error {
	err := s.Serve(ctx)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainDelay+s.cfg.ShutdownTimeout)
	defer cancel()
	return errors.Join(err, s.Shutdown(grace))
}

// Serve serves until ctx ends or a listener fails, and leaves it to
// [Server.Shutdown] to end that. It listens first unless [Server.Listen] did.
func (s *Server) Serve(ctx context.Context) error {
	if s.apiListener == nil {
		if err := s.Listen(ctx); err != nil {
			return err
		}
	}
	failed := make(chan error, 2)
	serve := func(server *http.Server, listener net.Listener) {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("rpc: serve on %s: %w", listener.Addr(), err)
		}
	}
	go serve(s.api, s.apiListener)
	go serve(s.admin, s.adminListener)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// Drain turns readiness off; everything is still served.
func (s *Server) Drain() { s.drainOnce.Do(func() { close(s.draining) }) }

// Shutdown is the reverse of the start: readiness goes off; after the DrainDelay
// the port closes and streams are told to go on elsewhere; requests under way
// are answered, or cut off when ctx ends. Probes are served to the end: they
// tell why nothing else is.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	delay := time.NewTimer(s.cfg.DrainDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
	}
	s.endOnce.Do(func() { close(s.ending) })
	err := s.api.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("rpc: requests were still running and were cut off: %w", err)
		err = errors.Join(err, s.api.Close())
	}
	return errors.Join(err, s.admin.Close())
}

// isOpen tells the procedures that need no token: what is asked before one has
// a token, and what describes the API.
func isOpen(procedure string) bool {
	switch procedure {
	case healthCheck, healthWatch, healthList,
		"/" + grpcreflect.ReflectV1ServiceName + "/ServerReflectionInfo",
		"/" + grpcreflect.ReflectV1AlphaServiceName + "/ServerReflectionInfo":
		return true
	}
	return false
}

// clinicOf tells the record which clinic a request is about.
func clinicOf(ctx context.Context, clinic string) ledger.ClinicID {
	id := ledger.ClinicID(clinic)
	recordOf(ctx).note(func(known *requestFacts) { known.clinic = id })
	return id
}

// hasEnded reports whether a channel is closed.
func hasEnded(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
