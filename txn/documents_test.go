package txn

import (
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// documentOf returns the id of the first document that a record changed.
func documentOf(tb testing.TB, r ledger.Record) string {
	tb.Helper()
	change, ok := r.Event.Body.(*ledger.Change)
	if !ok || len(change.Documents) == 0 {
		tb.Fatalf("%s changed no document", r.Event.Kind())
	}
	return change.Documents[0].About().ID
}

// request asks for a transfer of zinc from the store to the ward.
func (p *pharmacy) request(quantity int64) ledger.TransferID {
	p.tb.Helper()
	record := p.must(&ledger.TransferStock{
		From: "store", To: "ward", Lines: []ledger.RequestedLine{{MedicineID: "zinc", Quantity: quantity}},
		DispatchBy: ledger.InstantOf(p.clock.read().Add(time.Hour)), ReasonCode: "restock",
	})
	return ledger.TransferID(documentOf(p.tb, record))
}

func (p *pharmacy) transferAll(quantity int64) ledger.TransferID {
	p.tb.Helper()
	id := p.request(quantity)
	p.mustAll(
		&ledger.ApproveTransfer{TransferID: id}, &ledger.DispatchTransfer{TransferID: id},
		&ledger.ReceiveTransfer{TransferID: id}, &ledger.CompleteTransfer{TransferID: id},
	)
	return id
}

// everyDocument leaves open and closed documents of every kind.
func (p *pharmacy) everyDocument() {
	p.tb.Helper()
	p.transferAll(5)
	id := p.request(7)
	p.must(&ledger.ApproveTransfer{TransferID: id})
	receipt := p.must(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 9, Supplier: "Acme"}).Event.Sequence
	p.mustAll(
		&ledger.ReverseReceipt{Sequence: receipt, Quantity: 4, ReasonCode: "typo"},
		&ledger.AddIdentifier{Subject: ledger.SubjectMedicine, SubjectID: "zinc", System: "rxnorm", Value: "11416"},
		&ledger.AddIdentifier{Subject: ledger.SubjectSupplier, SubjectID: "Acme", System: "gln", Value: "4012345000009"},
		&ledger.RemoveIdentifier{Subject: ledger.SubjectSupplier, System: "gln", Value: "4012345000009", ReasonCode: "wrong"},
		&ledger.SetPacks{MedicineID: "zinc", Packs: []ledger.Pack{{Name: "box", Factor: 10}}},
		&ledger.UpdateStockLevels{LocationID: "store", MedicineID: "rxnorm|11416", Min: 5, Reorder: 10, Max: 100},
		&ledger.LendStock{LoanMove: ledger.LoanMove{Partner: "riverside", LocationID: "store", LotID: "L1", Quantity: 1, Pack: "box", Reference: "LN-1"}},
		&ledger.ReceiveRepayment{LoanMove: ledger.LoanMove{Partner: "riverside", LocationID: "store", LotID: "L1", Quantity: 3, Reference: "LN-1"}},
		&ledger.RecallLot{LotID: "A2", ReasonCode: "maker"},
		&ledger.StartCount{LocationID: "ward"},
	)
	policy := ledger.Policy{ApprovalHours: 1, Rules: []ledger.Rule{{ControlClass: "*", Command: ledger.KindWriteOffStock, Requires: ledger.RequireApprovalBefore}}}
	p.mustAll(&ledger.SetPolicy{Policy: policy}, &ledger.WriteOffStock{LocationID: "store", LotID: "L1", Quantity: 2, ReasonCode: "broken"})
}

func TestEveryDocumentIsStoredAndLoaded(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.everyDispensing()
	p.everyDocument()
	p.verify()
	// A node that starts now decides on the same state.
	again := testExecutor(t, ExecutorConfig{Clock: p.clock.read})
	c := &testClinic{tb: t, e: again, id: p.id, keys: 1000}
	transfers, _, _, err := p.q.Documents(t.Context(), p.id, DocumentFilter{Kind: ledger.DocumentTransfer, OpenOnly: true}, nil, 10, ReadOptions{})
	if err != nil || len(transfers) != 1 {
		t.Fatalf("%d open transfers, %v", len(transfers), err)
	}
	id := transfers[0].Body.(*ledger.Transfer).TransferID
	c.mustAll(&ledger.DispatchTransfer{TransferID: id}, &ledger.CancelTransfer{TransferID: id, ReasonCode: "changed"})
	p.verify()
}

func TestDocumentsAreListedInPages(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	var want []string
	for range 5 {
		want = append(want, string(p.transferAll(1)))
	}
	want = append(want, string(p.request(1)))
	for _, newest := range []bool{false, true} {
		var got []string
		for place, more := (*DocumentPlace)(nil), true; more; more = place != nil {
			documents, next, _, err := p.q.Documents(t.Context(), p.id, DocumentFilter{Kind: ledger.DocumentTransfer, NewestFirst: newest}, place, 2, ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range documents {
				got = append(got, d.Body.About().ID)
			}
			place = next
		}
		for i, id := range got {
			at := i
			if newest {
				at = len(want) - 1 - i
			}
			if len(got) != len(want) || id != want[at] {
				t.Fatalf("newest first %v: got %v, want %v", newest, got, want)
			}
		}
	}
	elsewhere, _, _, err := p.q.Documents(t.Context(), p.id, DocumentFilter{Kind: ledger.DocumentTransfer, Locations: []ledger.LocationID{"attic"}}, nil, 10, ReadOptions{})
	if err != nil || len(elsewhere) != 0 {
		t.Errorf("a token for the attic sees %d transfers, %v", len(elsewhere), err)
	}
}

func TestCountAgainstThePast(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	// 100 were received; what was issued and held since is in the balance now.
	counted := p.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 50}).Event.Sequence
	p.must(&ledger.IssueStock{LocationID: "ward", MedicineID: "zinc", Quantity: 20})
	record := p.must(&ledger.RecordCount{
		LocationID: "ward", Lines: []ledger.CountedLine{{LotID: "L1", Counted: 47, Sequence: counted}}, ReasonCode: "monthly",
	})
	entries := ledger.EntriesOf(record.Event)
	if len(entries) != 1 || entries[0].Quantity != 3 || entries[0].Debit != ledger.Variance || entries[0].After.Available != 27 {
		t.Fatalf("47 counted of 50, and 20 issued since, posted %+v", entries)
	}
	p.rejected(p.give(p.command(&ledger.RecordCount{
		LocationID: "ward", Lines: []ledger.CountedLine{{LotID: "L1", Counted: 1, Sequence: 1 << 40}}, ReasonCode: "monthly",
	})), ledger.ReasonCountInFuture)
	// Others counted the same shelf at the same moment: the three units are
	// missing once, and a fourth one is missing more.
	for _, other := range []struct{ counted, missing int64 }{{47, 0}, {46, 1}} {
		record := p.must(&ledger.RecordCount{
			LocationID: "ward", Lines: []ledger.CountedLine{{LotID: "L1", Counted: other.counted, Sequence: counted}}, ReasonCode: "monthly",
		})
		var missing int64
		for _, e := range ledger.EntriesOf(record.Event) {
			missing += flowInto(&e, ledger.Variance)
		}
		if missing != other.missing {
			t.Errorf("%d counted at the same moment posted %d units missing, want %d", other.counted, missing, other.missing)
		}
	}
	p.verify()
}

func TestReverseReceipt(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	receipt := p.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 50, Supplier: "Acme"}).Event.Sequence
	p.must(&ledger.ReverseReceipt{Sequence: receipt, Quantity: 30, ReasonCode: "typo"})
	p.rejected(p.give(p.command(&ledger.ReverseReceipt{Sequence: receipt, Quantity: 21, ReasonCode: "typo"})), ledger.ReasonReceiptReversed)
	p.must(&ledger.ReverseReceipt{Sequence: receipt, ReasonCode: "typo"})
	p.rejected(p.give(p.command(&ledger.ReverseReceipt{Sequence: 1, ReasonCode: "typo"})), ledger.ReasonReceiptNotFound)
	p.verify()
}

func TestBalanceAt(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	shelf := ledger.Shelf{Location: "ward", Medicine: "zinc"}
	want := make(map[ledger.Sequence]ledger.Balances)
	for i := range int64(20) {
		record := p.must(&ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: i + 1})
		want[record.Event.Sequence] = ledger.EntriesOf(record.Event)[0].After
		record = p.must(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1})
		want[record.Event.Sequence] = want[record.Event.Sequence-1]
	}
	for sequence, balances := range want {
		got, _, err := p.q.BalanceAt(t.Context(), p.id, shelf, "L1", sequence, ReadOptions{})
		if err != nil || got != balances {
			t.Errorf("at %d: %+v, %v; want %+v", sequence, got, err, balances)
		}
	}
	if got, _, err := p.q.BalanceAt(t.Context(), p.id, shelf, "L1", 1, ReadOptions{}); err != nil || got != (ledger.Balances{}) {
		t.Errorf("before the first movement: %+v, %v", got, err)
	}
}

// A balance of a moment is what the books said then, or what had happened by
// then as it is known now.
func TestBalanceAtTime(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	shelf := ledger.Shelf{Location: "store", Medicine: "zinc"}
	moment := p.clock.read().Add(time.Minute)
	before := p.stock("store", "zinc", "L1")
	p.clock.set(moment.Add(time.Minute))
	late := p.command(&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 3})
	late.OccurredAt = ledger.InstantOf(moment.Add(-time.Second))
	if v := p.give(late); v.Err != nil {
		t.Fatal(v.Err)
	}
	p.must(&ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 5})
	at := func(when time.Time, byOccurrence bool) int64 {
		t.Helper()
		balance, _, err := p.q.BalanceAtTime(t.Context(), p.id, shelf, "L1", ledger.InstantOf(when), byOccurrence, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return balance.Available
	}
	for _, test := range []struct {
		when         time.Time
		byOccurrence bool
		want         int64
	}{
		{moment, false, before.Available}, {moment, true, before.Available - 3}, {moment.Add(-time.Minute / 2), true, before.Available},
		{moment.Add(time.Hour), false, before.Available - 8}, {moment.Add(time.Hour), true, before.Available - 8}, {noon.Add(-time.Hour), true, 0},
	} {
		if got := at(test.when, test.byOccurrence); got != test.want {
			t.Errorf("at %s, by occurrence %t: %d, want %d", test.when, test.byOccurrence, got, test.want)
		}
	}
}
