package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func TestMain(m *testing.M) { txntest.Main(m) }

// node is a server on the shared database.
type node struct {
	*Server
	url, admin string
	issuer     *Issuer
	stop       func() // ends it and waits; tests may call it early
	// carryOut begins to carry operations out: whatever waits in the database, so
	// the shared node alone does.
	carryOut func()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(discard{}, nil)) }

var sharedNode struct {
	once   sync.Once
	node   *node
	failed bool
}

// shared returns the node that most tests share.
func shared(tb testing.TB) *node {
	tb.Helper()
	sharedNode.once.Do(func() {
		sharedNode.failed = true
		sharedNode.node = openNode(tb, Config{}, Deps{})
		sharedNode.node.carryOut()
		sharedNode.failed = false
	})
	if sharedNode.failed {
		tb.Fatal("the shared node did not start")
	}
	return sharedNode.node
}

// startNode starts a node for one test alone.
func startNode(tb testing.TB, cfg Config, deps Deps) *node {
	tb.Helper()
	n := openNode(tb, cfg, deps)
	tb.Cleanup(n.stop)
	return n
}

func openNode(tb testing.TB, cfg Config, deps Deps) *node {
	tb.Helper()
	cfg.Listen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	if cfg.Log == nil {
		cfg.Log = quietLog()
	}
	db := txntest.Open(tb)
	if deps.Feed == nil {
		deps.Feed = txn.NewFeed(txn.NewDirectory(db), 20*time.Millisecond)
	}
	cache, err := txn.NewCache(txn.NewDirectory(db), txn.CacheConfig{LookEvery: 20 * time.Millisecond, Log: cfg.Log})
	if err != nil {
		tb.Fatal(err)
	}
	models := txn.NewReadModels(db, txn.ReadModelsConfig{Every: 20 * time.Millisecond, Log: cfg.Log})
	if deps.Executor == nil {
		deps.Executor = txn.NewExecutor(db, txn.ExecutorConfig{Log: cfg.Log, Feed: deps.Feed, Cache: cache, ReadModels: models})
	}
	if deps.Database == nil {
		deps.Database = db
	}
	if deps.Queries == nil {
		deps.Queries = txn.NewQueries(txn.NewDirectory(db))
		deps.Queries.UseCache(cache)
	}
	if deps.Patients == nil {
		deps.Patients = txn.NewPatients(txn.NewDirectory(db))
	}
	if deps.Keyring == nil {
		deps.Keyring = newTestKeyring(tb)
	}
	if deps.Administration.Jobs == nil {
		deps.Administration = testAdministration(db)
	}
	var dispatcher *cluster.Dispatcher
	if deps.Operations.Store == nil {
		deps.Operations.Store = txn.NewOperations(txn.NewDirectory(db))
		dispatcher = cluster.NewDispatcher(deps.Operations.Store, deps.Executor, cluster.NewRouter(nil, nil, cfg.Log), cluster.DispatcherConfig{LookEvery: time.Hour, Log: cfg.Log})
		deps.Operations.Encode, deps.Operations.Submitted = cluster.EncodeSubmission, dispatcher.Submitted
	}
	if deps.Issuer == nil {
		deps.Issuer = newTestIssuer(tb)
	}
	if deps.Webhooks.Store == nil {
		deps.Webhooks = Webhooks{Store: txn.NewWebhooks(txn.NewDirectory(db)), Secrets: NewWebhookSecrets(deps.Issuer), Changed: func(ledger.ClinicID) {}}
	}
	server, err := NewServer(cfg, deps)
	if err != nil {
		tb.Fatal(err)
	}
	if err := server.Listen(context.Background()); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	go cache.Run(ctx, func(err error) { cfg.Log.Warn("journals cannot be followed", "error", err) })
	go models.Run(ctx)
	go deps.Feed.Run(ctx, func(err error) { cfg.Log.Warn("the heads cannot be read", "error", err) })
	n := &node{Server: server, url: "http://" + server.Addr(), admin: "http://" + server.AdminAddr(), issuer: deps.Issuer}
	n.carryOut = func() {
		dispatcher.ReadReports(server)
		go dispatcher.Run(ctx)
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("the server ended with: %v", err)
		}
	})
	return n
}

func newTestIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	issuer, err := OpenIssuer(filepath.Join(tb.TempDir(), "token.key"))
	if err != nil {
		tb.Fatal(err)
	}
	return issuer
}

func newTestKeyring(tb testing.TB) *Keyring {
	tb.Helper()
	keyring, err := OpenKeyring(filepath.Join(tb.TempDir(), "patient.key"))
	if err != nil {
		tb.Fatal(err)
	}
	return keyring
}

// token returns a token for a principal.
func (n *node) token(tb testing.TB, p Principal) string {
	tb.Helper()
	if p.Subject == "" {
		p.Subject = "tester"
	}
	token, err := n.issuer.Issue(p, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// h2c speaks HTTP/2 without TLS, as gRPC clients do.
func h2c() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

// h1 speaks HTTP/1.1.
func h1() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}
}

// client calls the API as one principal.
type client struct {
	stockledgerv1connect.InventoryServiceClient
	catalog stockledgerv1connect.CatalogServiceClient
	query   stockledgerv1connect.QueryServiceClient
	events  stockledgerv1connect.EventServiceClient
	conn    *connect.Client

	pharmacy stockledgerv1connect.PharmacyServiceClient
}

func (n *node) client(token string, transport *http.Client, options ...connecthttp.Option) *client {
	conn := connect.NewClient(connecthttp.NewTransport(transport, n.url, options...), bearer(token))
	return &client{
		InventoryServiceClient: stockledgerv1connect.NewInventoryServiceClient(conn),
		catalog:                stockledgerv1connect.NewCatalogServiceClient(conn),
		query:                  stockledgerv1connect.NewQueryServiceClient(conn),
		events:                 stockledgerv1connect.NewEventServiceClient(conn),
		pharmacy:               stockledgerv1connect.NewPharmacyServiceClient(conn),
		conn:                   conn,
	}
}

func bearer(token string) connect.ClientInterceptor {
	return func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok && token != "" {
				info.RequestHeader().Set("Authorization", "Bearer "+token)
			}
			return next(ctx, spec)
		}
	}
}

var keys atomic.Int64

// key returns an idempotency key that nobody has used.
func key() string { return fmt.Sprintf("test-%d-%d", time.Now().UnixNano(), keys.Add(1)) }

// clinic is a clinic with locations store and ward, medicine zinc, and lots L1
// (100 units in store, 50 in ward) and L2, which ends later (100 units in
// store).
type clinic struct {
	id    string
	node  *node
	admin *client
}

func newClinic(tb testing.TB, n *node) *clinic {
	tb.Helper()
	c := &clinic{id: txntest.NewClinicID(tb), node: n}
	c.admin = n.client(n.token(tb, Principal{Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}}), h2c())
	soon := &date.Date{Year: int32(time.Now().Year() + 1), Month: 6, Day: 30}
	later := &date.Date{Year: int32(time.Now().Year() + 2), Month: 6, Day: 30}
	c.must(tb,
		&stockledgerv1.Command{Body: &stockledgerv1.Command_CreateClinic{CreateClinic: &stockledgerv1.CreateClinic{Name: "Test clinic", TimeZone: "Africa/Nairobi"}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_CreateLocation{CreateLocation: &stockledgerv1.CreateLocation{LocationId: "store", Name: "Store", Kind: stockledgerv1.LocationKind_LOCATION_KIND_STORE}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_CreateLocation{CreateLocation: &stockledgerv1.CreateLocation{LocationId: "ward", Name: "Ward", Kind: stockledgerv1.LocationKind_LOCATION_KIND_WARD}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_AddMedicine{AddMedicine: &stockledgerv1.AddMedicine{MedicineId: "zinc", Name: "Zinc sulfate", BaseUnit: "tablet", Strength: "20 mg"}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_RegisterLot{RegisterLot: &stockledgerv1.RegisterLot{LotId: "L1", MedicineId: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: soon}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_RegisterLot{RegisterLot: &stockledgerv1.RegisterLot{LotId: "L2", MedicineId: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: later}}},
		receive("store", "L1", 100), receive("store", "L2", 100), receive("ward", "L1", 50),
	)
	return c
}

func receive(location, lot string, quantity int64) *stockledgerv1.Command {
	return &stockledgerv1.Command{Body: &stockledgerv1.Command_ReceiveStock{ReceiveStock: &stockledgerv1.ReceiveStock{LocationId: location, LotId: lot, Quantity: quantity}}}
}

func reserve(location string, quantity int64) *stockledgerv1.Command {
	return &stockledgerv1.Command{Body: &stockledgerv1.Command_ReserveStock{ReserveStock: &stockledgerv1.ReserveStock{
		LocationId: location, MedicineId: "zinc", Quantity: quantity, ReasonCode: "rx",
		Deadline: timestamppb.New(time.Now().Add(time.Hour)),
	}}}
}

func issueHold(hold string, quantity int64) *stockledgerv1.Command {
	return &stockledgerv1.Command{Body: &stockledgerv1.Command_IssueStock{IssueStock: &stockledgerv1.IssueStock{HoldId: hold, Quantity: quantity}}}
}

func release(hold string) *stockledgerv1.Command {
	return &stockledgerv1.Command{Body: &stockledgerv1.Command_ReleaseStock{ReleaseStock: &stockledgerv1.ReleaseStock{HoldId: hold}}}
}

func keyed(commands ...*stockledgerv1.Command) []*stockledgerv1.Command {
	for _, c := range commands {
		if c.GetIdempotencyKey() == "" {
			c.IdempotencyKey = key()
		}
	}
	return commands
}

func (c *clinic) request(command *stockledgerv1.Command) *stockledgerv1.CommandRequest {
	return &stockledgerv1.CommandRequest{ClinicId: c.id, Command: keyed(command)[0]}
}

// must carries out commands as the admin and returns their results.
func (c *clinic) must(tb testing.TB, commands ...*stockledgerv1.Command) []*stockledgerv1.Accepted {
	tb.Helper()
	response, err := c.admin.ExecuteBatch(tb.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(commands...)})
	if err != nil {
		tb.Fatalf("batch: %v", err)
	}
	accepted := make([]*stockledgerv1.Accepted, len(commands))
	for i, result := range response.GetResults() {
		if r := result.GetRejected(); r != nil {
			tb.Fatalf("command %d was rejected: %s: %s", i, r.GetReason(), r.GetMessage())
		}
		accepted[i] = result.GetAccepted()
	}
	return accepted
}
