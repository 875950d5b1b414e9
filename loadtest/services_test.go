package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn/txntest"
)

// externalEtcd runs an etcd that survives every node, and returns its address.
func externalEtcd(tb testing.TB) string {
	tb.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = tb.TempDir()
	free := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = free, free, free, free
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.LogOutputs, cfg.LogLevel = []string{filepath.Join(cfg.Dir, "log")}, "error"
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(member.Close)
	<-member.Server.ReadyNotify()
	return "http://" + member.Clients[0].Addr().String()
}

// apart is a pharmacy process and two inventory processes on one database.
type apart struct {
	cluster          // of the first inventory node
	etcd      string // its address
	pharmacy  *node.Node
	inventory [2]*node.Node // nil: killed
}

func (a *apart) start(name, services string) *node.Node {
	a.tb.Helper()
	n, err := node.Start(context.Background(), a.binary, a.databaseURL, a.key, "--etcd-endpoints", a.etcd, "--node-name", name, "--services", services)
	if err != nil {
		a.tb.Fatal(err)
	}
	return n
}

func (a *apart) startInventory(i int) {
	a.tb.Helper()
	a.inventory[i] = a.start([]string{"one", "two"}[i], "inventory")
	a.node = a.inventory[i]
}

func (a *apart) kill(i int) {
	a.tb.Helper()
	if err := a.inventory[i].Kill(); err != nil {
		a.tb.Fatal(err)
	}
	a.inventory[i] = nil
}

func startApart(tb testing.TB) *apart {
	tb.Helper()
	a := &apart{
		cluster: cluster{tb: tb, binary: buildServer(tb), key: filepath.Join(tb.TempDir(), "issuer.key"), databaseURL: txntest.PrivateServer(tb).URL},
		etcd:    externalEtcd(tb),
	}
	tb.Cleanup(func() {
		for _, n := range append(a.inventory[:], a.pharmacy) {
			if n == nil {
				continue
			}
			if err := n.Stop(); err != nil {
				tb.Errorf("stop a node: %v", err)
			}
		}
	})
	a.startInventory(1)
	a.startInventory(0)
	a.pharmacy = a.start("pharmacy", "pharmacy")
	return a
}

func dispensing(clinic, key string) *pb.CommandRequest {
	return &pb.CommandRequest{ClinicId: clinic, Command: &pb.Command{IdempotencyKey: key, Body: &pb.Command_DispenseMedicine{DispenseMedicine: &pb.DispenseMedicine{
		LocationId: "store", MedicineId: "zinc", Quantity: 1,
	}}}}
}

// reasonOf is the reason of an error, and the pause that it asks for.
func reasonOf(err error) (reason string, pause time.Duration) {
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return "", 0
	}
	for _, d := range wire.Details() {
		message, err := connectproto.UnmarshalErrorDetail(d)
		if err != nil {
			continue
		}
		switch detail := message.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.GetReason()
		case *errdetails.RetryInfo:
			pause = detail.GetRetryDelay().AsDuration()
		}
	}
	return reason, pause
}

// dispensers dispense until they are told to stop, each command under its key
// until it is done.
type dispensers struct {
	done, again atomic.Int64
	sequences   sync.Map
	stop        chan struct{}
	running     sync.WaitGroup
}

func (a *apart) dispense(clients int, clinic string) *dispensers {
	d := &dispensers{stop: make(chan struct{})}
	pharmacy := stockledgerv1connect.NewPharmacyServiceClient(connectTo(a.pharmacy))
	once := func(req *pb.CommandRequest) bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		answer, err := pharmacy.DispenseMedicine(ctx, req)
		if err == nil {
			if _, twice := d.sequences.LoadOrStore(answer.GetAccepted().GetSequence(), true); twice {
				a.tb.Errorf("sequence %d answers two keys", answer.GetAccepted().GetSequence())
			}
			d.done.Add(1)
			return true
		}
		reason, _ := reasonOf(err)
		if connect.CodeOf(err) != connect.CodeUnavailable || reason != "INVENTORY_UNAVAILABLE" && reason != "OUTCOME_UNKNOWN" {
			a.tb.Errorf("a pharmacist was told: %v", err)
			return true
		}
		d.again.Add(1)
		<-time.After(20 * time.Millisecond)
		return false
	}
	for client := range clients {
		d.running.Go(func() {
			for i := 0; ; i++ {
				req := dispensing(clinic, fmt.Sprint(client, "-", i))
				for !once(req) {
				}
				select {
				case <-d.stop:
					return
				default:
				}
			}
		})
	}
	return d
}

func (a *apart) more(d *dispensers, n int64) {
	a.tb.Helper()
	until := d.done.Load() + n
	eventually(a.tb, func() bool { return d.done.Load() >= until || a.tb.Failed() }, fmt.Sprint(n, " more dispensings are done"))
}

// TestPharmacyApartFromInventory dispenses through a process that executes
// nothing, while the nodes that do are killed in turn, and both at once.
func TestPharmacyApartFromInventory(t *testing.T) {
	t.Parallel()
	const units = 1 << 40
	a := startApart(t)
	clinic := a.clinic(units)
	checkSplit(t, a, clinic)
	d := a.dispense(8, clinic)
	for kill := range 6 {
		a.more(d, 100)
		a.kill(kill % 2)
		a.more(d, 100)
		a.startInventory(kill % 2)
	}
	a.more(d, 100)
	oneAway := d.again.Load()

	a.kill(0)
	a.kill(1)
	eventually(a.tb, func() bool { return d.again.Load() > oneAway+100 }, "pharmacists are told to try again")
	checkUnavailable(t, a, clinic)
	a.startInventory(1)
	a.more(d, 100)
	close(d.stop)
	d.running.Wait()

	stock, err := stockledgerv1connect.NewQueryServiceClient(connectTo(a.pharmacy)).GetStock(t.Context(), &pb.GetStockRequest{
		ClinicId: clinic, LocationId: "store", MedicineId: "zinc", Read: &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := units - stock.GetTotals().GetAvailable(); got != d.done.Load() {
		t.Errorf("%d units are gone after %d dispensings", got, d.done.Load())
	}
	a.verify(clinic)
	t.Logf("%d dispensings; %d answers said to try again while one of two nodes was killed, six times", d.done.Load(), oneAway)
}

// checkSplit holds each process to what it serves.
func checkSplit(t *testing.T, a *apart, clinic string) {
	t.Helper()
	_, err := stockledgerv1connect.NewInventoryServiceClient(connectTo(a.pharmacy)).IssueStock(t.Context(), issueOf(clinic, "x"))
	if reason, _ := reasonOf(err); connect.CodeOf(err) != connect.CodeUnimplemented || reason != "SERVED_ELSEWHERE" {
		t.Errorf("the pharmacy process was asked for inventory: %v", err)
	}
	_, err = stockledgerv1connect.NewPharmacyServiceClient(connectTo(a.inventory[0])).DispenseMedicine(t.Context(), dispensing(clinic, "x"))
	if reason, _ := reasonOf(err); connect.CodeOf(err) != connect.CodeUnimplemented || reason != "SERVED_ELSEWHERE" {
		t.Errorf("an inventory process was asked for the pharmacy: %v", err)
	}
	var status string
	eventually(a.tb, func() bool {
		out, err := exec.Command(a.binary, "cluster", "status", "--server", "http://"+a.pharmacy.Address, "--token", a.pharmacy.Token).CombinedOutput()
		status = string(out)
		return err == nil && strings.Count(status, "127.0.0.1:") >= 3 && strings.Contains(status, "leader, epoch")
	}, "the pharmacy process knows the cluster")
	for line := range strings.Lines(status) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !slices.Contains([]string{"one", "two", "pharmacy"}, fields[0]) {
			continue
		}
		want := "inventory"
		if fields[0] == "pharmacy" {
			want = "pharmacy"
			if strings.Contains(line, "leader") {
				t.Errorf("the pharmacy process leads: %s", line)
			}
		}
		if !slices.Contains(fields[1:], want) {
			t.Errorf("%s does not serve %s: %s", fields[0], want, line)
		}
	}
}

// checkUnavailable holds the pharmacy process to what it says and does while no
// inventory process runs.
func checkUnavailable(t *testing.T, a *apart, clinic string) {
	t.Helper()
	const calls = 20
	pharmacy := stockledgerv1connect.NewPharmacyServiceClient(connectTo(a.pharmacy))
	var slowest time.Duration
	for i := range calls {
		began := time.Now()
		_, err := pharmacy.DispenseMedicine(t.Context(), dispensing(clinic, fmt.Sprint("away-", i)))
		slowest = max(slowest, time.Since(began))
		if reason, pause := reasonOf(err); connect.CodeOf(err) != connect.CodeUnavailable || reason != "INVENTORY_UNAVAILABLE" || pause <= 0 {
			t.Errorf("without inventory the answer is %v, with a pause of %s", err, pause)
		}
	}
	if slowest > 3*time.Second {
		t.Errorf("one of %d answers took %s", calls, slowest)
	}
	if _, err := stockledgerv1connect.NewQueryServiceClient(connectTo(a.pharmacy)).GetStock(t.Context(), &pb.GetStockRequest{ClinicId: clinic, LocationId: "store", MedicineId: "zinc"}); err != nil {
		t.Errorf("without inventory nothing is read: %v", err)
	}
	ready := get(t, "http://"+a.pharmacy.Admin+"/readyz")
	metrics := get(t, "http://"+a.pharmacy.Admin+"/metrics")
	if !strings.Contains(ready, `"ready":true`) || !strings.Contains(ready, "no node can be reached") {
		t.Errorf("readiness says %s", ready)
	}
	// Both are forgotten when their leases end.
	for _, name := range []string{"one", "two"} {
		if strings.Contains(metrics, fmt.Sprintf("stockledger_peer_breaker_state{peer=%q} 0", name)) {
			t.Errorf("the breaker of %s, which was killed, is closed", name)
		}
	}
	t.Logf("the slowest of %d answers without inventory took %s", calls, slowest)
}

func get(t *testing.T, address string) string {
	t.Helper()
	res, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
