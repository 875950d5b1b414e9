package txn

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// TestOneUnitIsNeverTwiceOrNowhere lets 64 clients move a single unit to and fro
// between two locations, in every order that they can think of, on two nodes.
// At every sequence of the journal there is exactly one unit.
func TestOneUnitIsNeverTwiceOrNowhere(t *testing.T) {
	t.Parallel()
	const clients, rounds, most = 64, 16, 400
	first := testExecutor(t, ExecutorConfig{})
	c := newTestClinic(t, first)
	c.receive(1)
	nodes := []*Executor{first, testExecutor(t, ExecutorConfig{})}
	var known transferBoard
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for n := 0; n < rounds || n < most && known.received() < 3; n++ {
				body := known.next(random)
				verdicts, err := nodes[client%2].Submit(context.Background(), Submission{Clinic: c.id, Commands: []ledger.Command{c.command(body)}})
				if err != nil {
					t.Errorf("submit: %v", err)
					return
				}
				var r *ledger.Rejection
				switch v := verdicts[0]; {
				case v.Err == nil:
					known.note(v.Record)
				case !errors.As(v.Err, &r):
					t.Errorf("%s: %v", body.Kind(), v.Err)
				}
			}
		})
	}
	wg.Wait()
	c.verify()
	c.oneUnitEverywhere()
	if known.received() < 3 {
		t.Errorf("only %d transfers were received", known.received())
	}
}

// oneUnitEverywhere asks for the balances at every sequence.
func (c *testClinic) oneUnitEverywhere() {
	c.tb.Helper()
	q := NewQueries(NewDirectory(c.e.db))
	_, asOf, err := q.Clinic(c.tb.Context(), c.id, ReadOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	const received = 6 // the commands before it made the clinic
	for sequence := ledger.Sequence(received); sequence <= asOf.Sequence; sequence++ {
		var units int64
		for _, location := range []ledger.LocationID{"store", "ward"} {
			balances, _, err := q.BalanceAt(c.tb.Context(), c.id, ledger.Shelf{Location: location, Medicine: "zinc"}, "L1", sequence, ReadOptions{})
			if err != nil {
				c.tb.Fatal(err)
			}
			units += balances.OnHand()
		}
		if units != 1 {
			c.tb.Fatalf("at sequence %d there are %d units", sequence, units)
		}
	}
	c.tb.Logf("one unit at each of %d sequences", asOf.Sequence-received+1)
}

// transferBoard is what the clients know of each other's transfers.
type transferBoard struct {
	mu     sync.Mutex
	ids    []ledger.TransferID // under way, as far as is known
	status map[ledger.TransferID]ledger.TransferStatus
	moved  int
}

func (b *transferBoard) received() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moved
}

func (b *transferBoard) note(record ledger.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	transfer := record.Event.Body.(*ledger.Change).Documents[0].(*ledger.Transfer)
	id := transfer.TransferID
	if transfer.Status == ledger.TransferRequested {
		b.ids = append(b.ids, id)
	}
	if transfer.Status >= ledger.TransferReceived {
		b.ids = slices.DeleteFunc(b.ids, func(other ledger.TransferID) bool { return other == id })
	}
	if transfer.Status == ledger.TransferReceived {
		b.moved++
	}
	if b.status == nil {
		b.status = make(map[ledger.TransferID]ledger.TransferStatus)
	}
	b.status[id] = max(b.status[id], transfer.Status)
}

// next draws a step of a transfer, mostly the one whose turn it is, or a new
// transfer.
func (b *transferBoard) next(random *rand.Rand) ledger.CommandBody {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ids) < 4 || random.IntN(10) == 0 {
		from, to := ledger.LocationID("store"), ledger.LocationID("ward")
		if b.moved%2 == 1 || random.IntN(5) == 0 {
			from, to = to, from
		}
		return &ledger.TransferStock{
			From: from, To: to, Lines: []ledger.RequestedLine{{MedicineID: "zinc", Quantity: 1}},
			DispatchBy: ledger.InstantOf(time.Now().Add(time.Hour)), ReasonCode: "restock",
		}
	}
	id := b.ids[random.IntN(len(b.ids))]
	step := random.IntN(20)
	if step > 3 {
		step = int(b.status[id])
	}
	switch step {
	case 1:
		return &ledger.ApproveTransfer{TransferID: id}
	case 2:
		return &ledger.DispatchTransfer{TransferID: id}
	case 3:
		return &ledger.ReceiveTransfer{TransferID: id}
	default:
		return &ledger.CancelTransfer{TransferID: id, ReasonCode: "changed"}
	}
}
