package main

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn/txntest"
)

// stoppable is a node that a test stops itself.
type stoppable struct {
	*testNode
	cancel context.CancelFunc
	ended  chan error
}

func startStoppable(t *testing.T, flags nodeFlags) *stoppable {
	t.Helper()
	flags.Listen, flags.AdminListen, flags.IssuerKey = "127.0.0.1:0", "127.0.0.1:0", filepath.Join(t.TempDir(), "issuer.key")
	flags.CachedDocuments, flags.JobTimeZone = 10_000, "UTC"
	n, err := openNode(context.Background(), databaseFlags{DatabaseURL: txntest.URL(t)}, flags, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s := &stoppable{&testNode{node: n}, cancel, make(chan error, 1)}
	listening := make(chan struct{})
	go func() { s.ended <- n.run(ctx, func() { close(listening) }) }()
	select {
	case <-listening:
	case err := <-s.ended:
		t.Fatalf("the node did not start: %v", err)
	}
	s.url = "http://" + n.server.Addr()
	s.token, err = n.issuer.Issue(rpc.Principal{Subject: "tester", Roles: []rpc.Role{rpc.RoleAdmin}, Clinics: []ledger.ClinicID{rpc.AllClinics}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stop stops the node and returns how long that took and what it ended with.
func (s *stoppable) stop() (time.Duration, error) {
	began := time.Now()
	s.cancel()
	err := <-s.ended
	return time.Since(began), err
}

func newClinicOf(t *testing.T, n *testNode) string {
	t.Helper()
	clinic := txntest.NewClinicID(t)
	results, err := newClient(n.url, n.token).execute(t.Context(), clinic, []*pb.Command{
		{IdempotencyKey: "1", Body: &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: "Test", TimeZone: "UTC"}}},
	})
	if err != nil || results[0].GetAccepted() == nil {
		t.Fatal(err, results)
	}
	return clinic
}

// A node that nothing holds up stops long before its time is over, whoever
// watches.
func TestShutdownIsQuick(t *testing.T) {
	t.Parallel()
	const grace = 30 * time.Second
	s := startStoppable(t, nodeFlags{GracePeriod: grace, clusterFlags: clusterFlags{NoCluster: true}})
	clinic := newClinicOf(t, s.testNode)
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Authorization", "Bearer "+s.token)
	events := stockledgerv1connect.NewEventServiceClient(connect.NewClient(connecthttp.NewTransport(http.DefaultClient, s.url)))
	watch, err := events.Watch(ctx, &pb.WatchRequest{ClinicId: clinic})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Receive(); err != nil {
		t.Fatal(err)
	}
	if took, err := s.stop(); err != nil || took > grace/2 {
		t.Errorf("it took %s, %v", took, err)
	}
	for err == nil {
		_, err = watch.Receive()
	}
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "watch on another one") {
		t.Errorf("the watch ended with %v", err)
	}
}

// A command that the database does not finish cannot hold up the shutdown: all
// of it shares one grace period.
func TestShutdownEndsInTime(t *testing.T) {
	t.Parallel()
	const drain, grace = 500 * time.Millisecond, 3 * time.Second
	s := startStoppable(t, nodeFlags{DrainDelay: drain, GracePeriod: grace, clusterFlags: clusterFlags{NoCluster: true}})
	clinic := newClinicOf(t, s.testNode)
	conn, err := pgx.Connect(t.Context(), txntest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "SELECT sequence FROM heads WHERE clinic_id = $1 FOR UPDATE", clinic); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := newClient(s.url, s.token).execute(context.Background(), clinic, []*pb.Command{{IdempotencyKey: "2", Body: &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{
			LocationId: "store", Name: "Store", Kind: pb.LocationKind_LOCATION_KIND_STORE,
		}}}})
		answered <- err
	}()
	for arrived := false; !arrived; {
		arrived = strings.Contains(metricsOf(t, s.server.AdminAddr()), "stockledger_rpc_requests_in_flight 1")
	}
	took, err := s.stop()
	if took < drain || took > drain+grace+2*time.Second {
		t.Errorf("it took %s", took)
	}
	if err == nil {
		t.Error("requests were cut off, and the node says nothing of it")
	}
	if err := <-answered; err == nil {
		t.Error("the command was answered")
	}
}

func metricsOf(t *testing.T, admin string) string {
	t.Helper()
	res, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A process that executes nothing must find those that do.
func TestServicesAreChecked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		flags nodeFlags
		says  string
	}{
		"unknown":        {nodeFlags{Services: []string{"coffee"}}, `no service "coffee"`},
		"no cluster":     {nodeFlags{Services: []string{"pharmacy"}, clusterFlags: clusterFlags{NoCluster: true}}, "--etcd-endpoints"},
		"etcd for one":   {nodeFlags{Services: []string{"pharmacy"}}, "--etcd-endpoints"},
		"a member alone": {nodeFlags{Services: []string{"pharmacy"}, clusterFlags: clusterFlags{EtcdInitialCluster: "a=http://a:2380"}}, "--etcd-endpoints"},
	} {
		if _, err := openNode(t.Context(), databaseFlags{DatabaseURL: "postgresql://nobody.invalid"}, test.flags, quiet()); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, flags := range map[string]nodeFlags{
		"all": {}, "inventory alone": {Services: []string{"inventory"}, clusterFlags: clusterFlags{NoCluster: true}},
		"external": {Services: []string{"pharmacy"}, clusterFlags: clusterFlags{EtcdEndpoints: []string{"http://e:2379"}}},
		"members":  {Services: []string{"pharmacy"}, clusterFlags: clusterFlags{EtcdInitialCluster: "a=http://a:2380,b=http://b:2380"}},
	} {
		if _, err := flags.parts(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
