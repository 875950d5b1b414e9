package txn

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// TestRegisterOfAYearBalances generates a year of a controlled medicine's
// traffic at a location and reads its register: in pages, as a whole and from
// the middle, each line must follow from the one before it.
func TestRegisterOfAYearBalances(t *testing.T) {
	t.Parallel()
	clock := &testClock{now: noon}
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{Clock: clock.read}))
	q := &Queries{directory: NewDirectory(c.e.db), Clock: clock.read}
	class := "schedule-2"
	c.mustAll(
		&ledger.UpdateMedicine{MedicineID: "zinc", ControlClass: &class},
		&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: ledger.MaxDate},
		&ledger.SetPolicy{Policy: ledger.Policy{ApprovalHours: 48, Rules: []ledger.Rule{
			{ControlClass: class, Command: ledger.KindWriteOffStock, Requires: ledger.RequireApprovalBefore},
			{ControlClass: class, Command: ledger.KindIssueStock, Requires: ledger.RequireReview},
		}}},
	)
	year := yearOfTraffic{testClinic: c, clock: clock, random: rand.New(rand.NewPCG(7, 7))}
	for range 365 {
		clock.set(clock.read().Add(24 * time.Hour))
		year.day()
	}
	c.verify()

	shelf := ledger.Shelf{Location: "store", Medicine: "zinc"}
	whole := c.register(q, RegisterFilter{Shelf: shelf}, 1000)
	if len(whole) < 365 {
		t.Fatalf("the register has only %d lines", len(whole))
	}
	stock, _, err := q.Stock(t.Context(), c.id, shelf, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	onHand := stock.Totals.OnHand() - stock.Totals.InTransit
	if last := whole[len(whole)-1].Balance; last != onHand {
		t.Errorf("the register ends at %d, and %d lie at the location", last, onHand)
	}
	people, corrections := 0, 0
	for i, line := range whole {
		if line.Balance != line.Opening+line.In-line.Out || i > 0 && line.Opening != whole[i-1].Balance || line.Balance < 0 {
			t.Fatalf("line %d does not balance: %+v after %+v", i, line, whole[max(0, i-1)])
		}
		if line.Requester != "" {
			people++
			if line.Requester == line.Actor {
				t.Fatalf("one person asked and approved: %+v", line)
			}
		}
		if line.Corrects != 0 {
			corrections++
			if line.Corrects >= line.Sequence {
				t.Fatalf("a correction comes before what it corrects: %+v", line)
			}
		}
	}
	if people == 0 || corrections == 0 {
		t.Errorf("%d lines with two people, %d corrections", people, corrections)
	}
	for _, page := range []int{1, 7} {
		c.sameRegister(whole, c.register(q, RegisterFilter{Shelf: shelf}, page*40))
	}
	middle := len(whole) / 2
	for whole[middle].RecordedAt == whole[middle-1].RecordedAt {
		middle++
	}
	c.sameRegister(whole[middle:], c.register(q, RegisterFilter{Shelf: shelf, From: whole[middle].RecordedAt}, 100))
	c.sameRegister(whole[:middle], c.register(q, RegisterFilter{Shelf: shelf, To: whole[middle].RecordedAt - 1}, 100))
}

func (c *testClinic) register(q *Queries, f RegisterFilter, page int) []RegisterLine {
	c.tb.Helper()
	var all []RegisterLine
	for place, more := (*RegisterPlace)(nil), true; more; more = place != nil {
		lines, next, _, err := q.Register(c.tb.Context(), c.id, f, place, page, ReadOptions{})
		if err != nil {
			c.tb.Fatal(err)
		}
		all, place = append(all, lines...), next
	}
	return all
}

func (c *testClinic) sameRegister(want, got []RegisterLine) {
	c.tb.Helper()
	if len(want) != len(got) {
		c.tb.Fatalf("the register has %d lines, want %d", len(got), len(want))
	}
	for i := range want {
		if want[i] != got[i] {
			c.tb.Fatalf("line %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

// yearOfTraffic is what happens to a medicine at a location, day by day.
type yearOfTraffic struct {
	*testClinic
	clock    *testClock
	random   *rand.Rand
	receipts []ledger.Sequence
}

// try gives a command, by somebody, that the day may not allow.
func (y *yearOfTraffic) try(actor ledger.Actor, body ledger.CommandBody) (ledger.Record, bool) {
	y.tb.Helper()
	command := y.command(body)
	command.Actor = actor
	v := y.give(command)
	return v.Record, v.Err == nil
}

func (y *yearOfTraffic) day() {
	lot := []ledger.LotID{"L1", "L2"}[y.random.IntN(2)]
	if y.random.IntN(4) == 0 {
		if r, ok := y.try("nurse", &ledger.ReceiveStock{LocationID: "store", LotID: lot, Quantity: 20 + y.random.Int64N(80), Supplier: "Acme"}); ok {
			y.receipts = append(y.receipts, r.Event.Sequence)
		}
	}
	y.try("nurse", &ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1 + y.random.Int64N(10), Recipient: "bed-7"})
	y.try("nurse", &ledger.ReserveStock{
		LocationID: "store", MedicineID: "zinc", Quantity: 2, ReasonCode: "ward", Deadline: ledger.InstantOf(y.clock.read().Add(time.Hour)),
	})
	switch y.random.IntN(6) {
	case 0:
		if r, ok := y.try("nurse", &ledger.WriteOffStock{LocationID: "store", LotID: lot, Quantity: 1, ReasonCode: "broken"}); ok {
			y.try("nurse", &ledger.ApproveCommand{ApprovalID: ledger.ApprovalID(documentOf(y.tb, r))})
			y.try("doctor", &ledger.ApproveCommand{ApprovalID: ledger.ApprovalID(documentOf(y.tb, r))})
		}
	case 1:
		y.transfer()
	case 2:
		y.try("nurse", &ledger.RecordCount{
			LocationID: "store", Lines: []ledger.CountedLine{{LotID: lot, Counted: y.random.Int64N(60)}}, ReasonCode: "monthly",
		})
	case 3:
		if len(y.receipts) > 0 {
			y.try("nurse", &ledger.ReverseReceipt{Sequence: y.receipts[len(y.receipts)-1], Quantity: 1, ReasonCode: "typo"})
		}
	}
}

// transfer sends a few units to the ward, of which one gets lost.
func (y *yearOfTraffic) transfer() {
	r, ok := y.try("nurse", &ledger.TransferStock{
		From: "store", To: "ward", Lines: []ledger.RequestedLine{{MedicineID: "zinc", LotID: "L1", Quantity: 3}},
		DispatchBy: ledger.InstantOf(y.clock.read().Add(time.Hour)), ReasonCode: "restock",
	})
	if !ok {
		return
	}
	id := ledger.TransferID(documentOf(y.tb, r))
	y.try("doctor", &ledger.ApproveTransfer{TransferID: id})
	y.try("nurse", &ledger.DispatchTransfer{TransferID: id})
	y.try("nurse", &ledger.ReceiveTransfer{TransferID: id, Lines: []ledger.LotLine{{LotID: "L1", Quantity: 2}}})
	y.try("doctor", &ledger.CompleteTransfer{TransferID: id, ReasonCode: "lost"})
}
