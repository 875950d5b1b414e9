// Package loadtest breaks and loads a real server from outside. Its tests kill
// processes; its benchmark is in bench.
package loadtest

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn/txntest"
	"github.com/stockledger/stockledger/txn/txntest/history"
)

func TestMain(m *testing.M) { txntest.Main(m) }

// cluster is one database with a server process that can be killed.
type cluster struct {
	tb          testing.TB
	binary, key string
	databaseURL string
	flags       []string // of its nodes

	mu   sync.Mutex
	node *node.Node
}

var built struct {
	once   sync.Once
	binary string
	err    error
}

// buildServer builds the server once and returns where it is.
func buildServer(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() {
		dir, err := filepath.Abs(filepath.Join("..", "bin"))
		built.binary, built.err = filepath.Join(dir, "stockledger-under-test"), err
		if err == nil {
			out, err := exec.Command("go", "build", "-o", built.binary, "../cmd/stockledger").CombinedOutput()
			if err != nil {
				built.err = fmt.Errorf("%w: %s", err, out)
			}
		}
	})
	if built.err != nil {
		tb.Fatalf("build the server: %v", built.err)
	}
	return built.binary
}

func startCluster(tb testing.TB, flags ...string) *cluster {
	tb.Helper()
	c := &cluster{tb: tb, binary: buildServer(tb), key: filepath.Join(tb.TempDir(), "issuer.key"), databaseURL: txntest.URL(tb), flags: flags}
	c.start()
	tb.Cleanup(func() {
		if err := c.node.Stop(); err != nil {
			tb.Errorf("stop the node: %v", err)
		}
	})
	return c
}

func (c *cluster) start() {
	c.tb.Helper()
	n, err := node.Start(context.Background(), c.binary, c.databaseURL, c.key, c.flags...)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.node = n
}

// crash kills the node and starts another. Clients that come meanwhile wait.
func (c *cluster) crash() {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.node.Kill(); err != nil {
		c.tb.Fatal(err)
	}
	c.start()
}

// connect returns a connection to the node that runs now.
func (c *cluster) connect() *connect.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return connectTo(c.node)
}

func connectTo(n *node.Node) *connect.Client {
	token := n.Token
	authorize := func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Authorization", "Bearer "+token)
			}
			return next(ctx, spec)
		}
	}
	return connect.NewClient(connecthttp.NewTransport(http.DefaultClient, "http://"+n.Address), authorize)
}

func (c *cluster) inventory() stockledgerv1connect.InventoryServiceClient {
	return stockledgerv1connect.NewInventoryServiceClient(c.connect())
}

func (c *cluster) pharmacy() stockledgerv1connect.PharmacyServiceClient {
	return stockledgerv1connect.NewPharmacyServiceClient(c.connect())
}

// clinic makes a clinic with one lot of so many units.
func (c *cluster) clinic(units int64) string {
	c.tb.Helper()
	id := txntest.NewClinicID(c.tb)
	commands := []*pb.Command{
		{IdempotencyKey: "1", Body: &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: "Test", TimeZone: "UTC"}}},
		{IdempotencyKey: "2", Body: &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{LocationId: "store", Name: "Store", Kind: pb.LocationKind_LOCATION_KIND_STORE}}},
		{IdempotencyKey: "3", Body: &pb.Command_AddMedicine{AddMedicine: &pb.AddMedicine{MedicineId: "zinc", Name: "Zinc", BaseUnit: "tablet"}}},
		{IdempotencyKey: "4", Body: &pb.Command_RegisterLot{RegisterLot: &pb.RegisterLot{LotId: "L1", MedicineId: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: &date.Date{Year: 9999, Month: 12, Day: 31}}}},
		{IdempotencyKey: "5", Body: &pb.Command_ReceiveStock{ReceiveStock: &pb.ReceiveStock{LocationId: "store", LotId: "L1", Quantity: units}}},
	}
	response, err := c.inventory().ExecuteBatch(context.Background(), &pb.ExecuteBatchRequest{ClinicId: id, Commands: commands})
	if err != nil {
		c.tb.Fatalf("make a clinic: %v", err)
	}
	for _, result := range response.GetResults() {
		if r := result.GetRejected(); r != nil {
			c.tb.Fatalf("make a clinic: %s", r.GetMessage())
		}
	}
	return id
}

func reservation(clinic, key string, quantity int64) *pb.CommandRequest {
	return &pb.CommandRequest{ClinicId: clinic, Command: &pb.Command{IdempotencyKey: key, Body: &pb.Command_ReserveStock{ReserveStock: &pb.ReserveStock{
		LocationId: "store", MedicineId: "zinc", Quantity: quantity, ReasonCode: "test", Deadline: timestamppb.New(time.Now().Add(time.Hour)),
	}}}}
}

// verify runs the verify command over a clinic.
func (c *cluster) verify(clinic string) {
	c.tb.Helper()
	out, err := exec.Command(c.binary, "verify", "--database-url", c.databaseURL, "--clinic", clinic).CombinedOutput()
	if err != nil {
		c.tb.Errorf("verify: %v\n%s", err, out)
	}
}

// TestSixtyFourClientsNeverOversell lets 64 clients reserve from one lot of
// 1,000 units until it is gone.
func TestSixtyFourClientsNeverOversell(t *testing.T) {
	t.Parallel()
	const units, clients = 1000, 64
	c := startCluster(t)
	clinic := c.clinic(units)
	recorder := history.NewRecorder()
	var reserved atomic.Int64
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			inventory := c.inventory()
			for n := 0; ; n++ {
				quantity := int64(1 + (client+n)%3)
				answer := recorder.Do(client, history.Call{Kind: history.Reserve, Quantity: quantity}, func() history.Answer {
					response, err := inventory.ReserveStock(context.Background(), reservation(clinic, fmt.Sprintf("%d-%d", client, n), quantity))
					if err != nil {
						if code := connect.CodeOf(err); code != connect.CodeFailedPrecondition {
							t.Errorf("a client was told: %v", err)
						}
						return history.Answer{Rejected: true}
					}
					lot := response.GetAccepted().GetStock().GetLots()[0]
					return history.Answer{Available: lot.GetBalances().GetAvailable(), Reserved: lot.GetBalances().GetReserved()}
				})
				if !answer.Rejected {
					reserved.Add(quantity)
				} else if quantity == 1 || t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
	if got := reserved.Load(); got != units {
		t.Errorf("%d units were reserved of %d", got, units)
	}
	recorder.Check(t, units, 0)
	c.verify(clinic)
}

// acknowledgements remembers what clients were told.
type acknowledgements struct {
	mu        sync.Mutex
	sequences map[*pb.CommandRequest]int64 // 0: no answer came
	accepted  atomic.Int64
}

func (a *acknowledgements) note(req *pb.CommandRequest, sequence int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sequences[req] = sequence
	if sequence > 0 {
		a.accepted.Add(1)
	}
}

const (
	kills       = 10
	killClients = 24
	killEvery   = 150 // acknowledged commands between kills
)

// TestKillNine kills the server in the middle of load, ten times in a row.
// Whatever was acknowledged must be there, once; whatever was not must have
// happened at most once.
func TestKillNine(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	clinic := c.clinic(1 << 40)
	acks := &acknowledgements{sequences: make(map[*pb.CommandRequest]int64)}
	ctx, cancel := context.WithCancel(context.Background())
	wg := c.keepReserving(ctx, clinic, killClients, acks)
	for range kills {
		awaitMore(t, acks, killEvery)
		c.crash()
	}
	awaitMore(t, acks, killEvery)
	cancel()
	wg.Wait()
	c.checkAcknowledged(acks)
	c.verify(clinic)
	t.Logf("%d commands acknowledged, %d not answered", acks.accepted.Load(), len(acks.sequences)-int(acks.accepted.Load()))
}

// keepReserving reserves one unit after the other from several clients until ctx
// ends, and notes what each was told.
func (c *cluster) keepReserving(ctx context.Context, clinic string, clients int, acks *acknowledgements) *sync.WaitGroup {
	wg := &sync.WaitGroup{}
	for client := range clients {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				req := reservation(clinic, fmt.Sprintf("%d-%d", client, n), 1)
				response, err := c.inventory().ReserveStock(ctx, req)
				switch code := connect.CodeOf(err); {
				case err == nil:
					acks.note(req, response.GetAccepted().GetSequence())
				case code == connect.CodeUnavailable || code == connect.CodeUnknown || code == connect.CodeCanceled:
					// The connection broke, which Connect's client tells in
					// several ways.
					acks.note(req, 0)
				default:
					c.tb.Errorf("a client was told: %v", err)
				}
			}
		})
	}
	return wg
}

// awaitMore waits until so many more commands are acknowledged.
func awaitMore(t *testing.T, acks *acknowledgements, more int64) {
	t.Helper()
	until := acks.accepted.Load() + more
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for acks.accepted.Load() < until {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("only %d commands were acknowledged within a minute", acks.accepted.Load())
		}
	}
}

// checkAcknowledged sends every command again: the acknowledged ones must be
// replayed from the same place, and all sequences must differ.
func (c *cluster) checkAcknowledged(acks *acknowledgements) {
	c.tb.Helper()
	inventory := c.inventory()
	seen := make(map[int64]bool)
	for req, sequence := range acks.sequences {
		response, err := inventory.ReserveStock(context.Background(), req)
		if err != nil {
			c.tb.Fatalf("key %s again: %v", req.GetCommand().GetIdempotencyKey(), err)
		}
		accepted := response.GetAccepted()
		if sequence > 0 && (accepted.GetSequence() != sequence || !accepted.GetReplayed()) {
			c.tb.Errorf("key %s was acknowledged at %d and is now %v", req.GetCommand().GetIdempotencyKey(), sequence, accepted)
		}
		if seen[accepted.GetSequence()] {
			c.tb.Errorf("sequence %d answers two keys", accepted.GetSequence())
		}
		seen[accepted.GetSequence()] = true
	}
}
