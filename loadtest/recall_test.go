package loadtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// How large the recall is; RECALL_LOCATIONS and RECALL_HOLDS (at each location)
// make it larger: 1000 and 100 are what the ledger is built for.
const (
	defaultRecallLocations = 40
	defaultRecallHolds     = 50
	recallKills            = 3
)

func sizeFrom(tb testing.TB, variable string, otherwise int) int {
	tb.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	size, err := strconv.Atoi(text)
	if err != nil || size < 1 {
		tb.Fatalf("%s is %q; give a number from 1", variable, text)
	}
	return size
}

// recalledClinic is a clinic whose lot L1 lies at many locations with many
// holds, driven by an executor of the test's own.
type recalledClinic struct {
	tb       testing.TB
	executor *txn.Executor
	queries  *txn.Queries
	id       ledger.ClinicID
	keys     int
}

func (c *recalledClinic) submit(bodies ...ledger.CommandBody) []txn.Verdict {
	c.tb.Helper()
	commands := make([]ledger.Command, len(bodies))
	for i, body := range bodies {
		c.keys++
		commands[i] = ledger.Command{Clinic: c.id, Actor: "tester", IdempotencyKey: fmt.Sprintf("key-%d", c.keys), Body: body}
	}
	verdicts, err := c.executor.Submit(context.Background(), txn.Submission{Clinic: c.id, Commands: commands, Bulk: true})
	if err != nil {
		c.tb.Fatal(err)
	}
	return verdicts
}

func (c *recalledClinic) must(bodies ...ledger.CommandBody) {
	c.tb.Helper()
	for i, v := range c.submit(bodies...) {
		if v.Err != nil {
			c.tb.Fatalf("%s: %v", bodies[i].Kind(), v.Err)
		}
	}
}

func place(i int) ledger.LocationID { return ledger.LocationID(fmt.Sprintf("ward-%04d", i)) }

func newRecalledClinic(t *testing.T, locations, holds int) *recalledClinic {
	t.Helper()
	db := txntest.Open(t)
	c := &recalledClinic{
		tb: t, executor: txn.NewExecutor(db, txn.ExecutorConfig{}), queries: txn.NewQueries(txn.NewDirectory(db)), id: ledger.ClinicID(txntest.NewClinicID(t)),
	}
	t.Cleanup(func() {
		if err := c.executor.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	c.must(
		&ledger.CreateClinic{Name: "Recalled", TimeZone: "UTC"},
		&ledger.AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet"},
		&ledger.RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate},
		&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: ledger.MaxDate - 1},
	)
	deadline := ledger.InstantOf(time.Now().Add(time.Hour))
	for i := range locations {
		bodies := []ledger.CommandBody{
			&ledger.CreateLocation{LocationID: place(i), Name: string(place(i)), LocationKind: ledger.Ward},
			&ledger.ReceiveStock{LocationID: place(i), LotID: "L1", Quantity: int64(2*holds + 10)},
		}
		for range holds {
			bodies = append(bodies, &ledger.ReserveStock{LocationID: place(i), MedicineID: "zinc", Quantity: 2, ReasonCode: "ward", Deadline: deadline})
		}
		c.must(bodies...)
	}
	return c
}

func (c *recalledClinic) recall() *ledger.Recall {
	c.tb.Helper()
	documents, _, _, err := c.queries.Documents(context.Background(), c.id, txn.DocumentFilter{Kind: ledger.DocumentRecall}, nil, 1, txn.ReadOptions{})
	if err != nil || len(documents) != 1 {
		c.tb.Fatalf("%d recalls, %v", len(documents), err)
	}
	return documents[0].Body.(*ledger.Recall)
}

// awaitRecall waits until the follow-up is as far as it is to be.
func (c *recalledClinic) awaitRecall(far func(*ledger.Recall) bool) *ledger.Recall {
	c.tb.Helper()
	deadline := time.NewTimer(5 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		recall := c.recall()
		if far(recall) {
			return recall
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			c.tb.Fatalf("the follow-up stands at step %d with %d holds voided", recall.Step, recall.HoldsVoided)
		}
	}
}

// TestRecallUnderLoad recalls a lot that lies at many locations with many
// holds. The recall alone bars every issue; server processes follow it up while
// other stock is reserved and issued, and are killed in the middle of it.
func TestRecallUnderLoad(t *testing.T) {
	t.Parallel()
	locations, holds := sizeFrom(t, "RECALL_LOCATIONS", defaultRecallLocations), sizeFrom(t, "RECALL_HOLDS", defaultRecallHolds)
	c := newRecalledClinic(t, locations, holds)
	servers := startCluster(t)

	began := time.Now()
	c.must(&ledger.RecallLot{LotID: "L1", ReasonCode: "contaminated"})
	barred := time.Since(began)
	for i := range locations {
		for _, v := range c.submit(&ledger.IssueStock{LocationID: place(i), MedicineID: "zinc", Quantity: 1}, &ledger.IssueStock{LocationID: place(i), MedicineID: "zinc", LotID: "L1", Quantity: 1}) {
			if v.Err == nil {
				t.Fatalf("a recalled lot was issued at %s", place(i))
			}
		}
	}
	stop := c.load()
	total := int64(locations * holds)
	for kill := range int64(recallKills) {
		c.awaitRecall(func(r *ledger.Recall) bool { return r.HoldsVoided >= total*(kill+1)/(recallKills+2) || r.FollowedUp })
		servers.crash()
	}
	recall := c.awaitRecall(func(r *ledger.Recall) bool { return r.FollowedUp })
	followed := time.Since(began)
	served := stop()
	if units := total*2 + int64(locations)*10; recall.HoldsVoided != total || recall.Quarantined != units {
		t.Errorf("%d holds were voided and %d units quarantined; there were %d and %d", recall.HoldsVoided, recall.Quarantined, total, units)
	}
	servers.verify(string(c.id))
	t.Logf("%d locations, %d holds: barred after %s, followed up after %s in %d steps and %d crashes, while %d other commands were served",
		locations, total, barred.Round(time.Millisecond), followed.Round(time.Millisecond), recall.Step, recallKills, served)
}

// load reserves and issues another lot until it is stopped, and returns how
// many commands were served.
func (c *recalledClinic) load() (stop func() int) {
	c.must(&ledger.ReceiveStock{LocationID: place(0), LotID: "L2", Quantity: 1 << 30})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	served := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, v := range c.submit(&ledger.IssueStock{LocationID: place(0), MedicineID: "zinc", Quantity: 1, Recipient: "bed-1"}) {
				if v.Err != nil {
					c.tb.Errorf("during the follow-up: %v", v.Err)
					return
				}
				served++
			}
		}
	})
	return func() int {
		cancel()
		wg.Wait()
		return served
	}
}
