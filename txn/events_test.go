package txn

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// allEvents reads all events that pass, in pages.
func (p *pharmacy) allEvents(f *EventFilter, limit int) []EventRecord {
	p.tb.Helper()
	var all []EventRecord
	for after := (Place{}); ; {
		events, looked, asOf, err := p.q.Events(context.Background(), p.id, after, f, limit, ReadOptions{})
		if err != nil {
			p.tb.Fatal(err)
		}
		all = append(all, events...)
		if after = looked; looked.Sequence == asOf.Sequence {
			return all
		}
	}
}

func TestEventsInPagesAndFiltered(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.everyDispensing()
	all := p.allEvents(&EventFilter{}, 3)
	for i, e := range all {
		if e.Event.Sequence != ledger.Sequence(i+1) || e.Epoch != 1 {
			t.Fatalf("event %d is %d of epoch %d", i+1, e.Event.Sequence, e.Epoch)
		}
	}
	if last := p.stored().Head.Sequence; len(all) != int(last) {
		t.Errorf("%d events were read of %d", len(all), last)
	}
	for name, test := range map[string]struct {
		filter EventFilter
		want   []string
	}{
		"by name":     {EventFilter{Names: []string{"MedicineDispensed", "MedicineHandedOver"}}, []string{"MedicineDispensed", "MedicineHandedOver", "MedicineDispensed"}},
		"by medicine": {EventFilter{Medicines: []ledger.MedicineID{"amox"}, Names: []string{"MedicineAdded", "StockIssued"}}, []string{"MedicineAdded", "StockIssued", "StockIssued"}},
		"by location": {EventFilter{Locations: []ledger.LocationID{"ward"}}, []string{"LocationCreated", "StockReceived", "StockAdjusted"}},
		"for the limited": {
			EventFilter{Within: []ledger.LocationID{"attic"}, Names: []string{"LocationCreated", "LocationDeactivated", "PriceSet", "StockReceived"}},
			[]string{"LocationCreated", "LocationDeactivated", "PriceSet"},
		},
	} {
		var names []string
		for _, e := range p.allEvents(&test.filter, 1) {
			names = append(names, e.Event.Kind().EventName())
		}
		if !slices.Equal(names, test.want) {
			t.Errorf("%s: %v, want %v", name, names, test.want)
		}
	}
}

// Everything that can stand in a journal has a name for subscribers.
func TestEveryEventHasAName(t *testing.T) {
	t.Parallel()
	seen := make(map[string]ledger.Kind)
	for _, kind := range append(ledger.Kinds(), ledger.KindRequestApproval) {
		name := kind.EventName()
		if other, taken := seen[name]; name == "" || taken {
			t.Errorf("%s is called %q, like %s", kind, name, other)
		}
		seen[name] = kind
	}
	if len(ledger.EventNames()) != len(seen) {
		t.Errorf("there are %d names for %d kinds", len(ledger.EventNames()), len(seen))
	}
}

func TestVerifyChainNamesTheFirstBadRecord(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	check := func(from Checkpoint) (Checkpoint, *BrokenLink) {
		t.Helper()
		last, broken, _, err := p.q.VerifyChain(t.Context(), p.id, from, nil)
		if err != nil {
			t.Fatal(err)
		}
		return last, broken
	}
	head := p.stored().Head
	last, broken := check(Checkpoint{})
	if broken != nil || last != (Checkpoint{Sequence: head.Sequence, Hash: head.Hash, Epoch: 1}) {
		t.Fatalf("the chain ends at %v, broken %v", last, broken)
	}
	middle := Checkpoint{Sequence: 10, Hash: p.recordAt(10).Hash}
	if _, broken := check(middle); broken != nil {
		t.Fatalf("from the middle it is broken: %v", broken)
	}
	p.sql(`UPDATE journal SET event = set_byte(event, 12, get_byte(event, 12) # 1) WHERE clinic_id = $1 AND sequence = 7`, p.id)
	if _, broken := check(Checkpoint{}); broken == nil || broken.Sequence != 7 {
		t.Errorf("a byte of 7 was changed, and found is %v", broken)
	}
	if _, broken := check(middle); broken != nil {
		t.Errorf("after it the chain holds, and found is %v", broken)
	}
	p.sql(`UPDATE journal SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE clinic_id = $1 AND sequence = 10`, p.id)
	if _, broken := check(middle); broken == nil || broken.Sequence != 10 {
		t.Errorf("10 was rewritten, and found is %v", broken)
	}
	p.sql(`DELETE FROM journal WHERE clinic_id = $1 AND sequence = 15`, p.id)
	if _, broken := check(Checkpoint{Sequence: 11, Hash: p.recordAt(11).Hash}); broken == nil || broken.Sequence != 15 {
		t.Errorf("15 is missing, and found is %v", broken)
	}
}

func (c *testClinic) recordAt(sequence ledger.Sequence) ledger.Record {
	c.tb.Helper()
	var record ledger.Record
	err := c.e.db.readTx(context.Background(), func(tx pgx.Tx) error {
		var event, hash []byte
		err := tx.QueryRow(context.Background(), selectRecordAt, c.id, sequence).Scan(&event, &hash)
		if err == nil {
			record, err = openRecord(event, hash)
		}
		return err
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	return record
}

// sql changes what nobody may change.
func (c *testClinic) sql(sql string, args ...any) {
	c.tb.Helper()
	err := c.e.db.InTx(context.Background(), func(tx pgx.Tx) error {
		_, err := tx.Exec(context.Background(), sql, args...)
		return err
	})
	if err != nil {
		c.tb.Fatal(err)
	}
}

// A feed tells of this node's commits and of another one's, and forgets whom
// nobody waits for.
func TestFeed(t *testing.T) {
	t.Parallel()
	feed := NewFeed(NewDirectory(testDB(t)), 10*time.Millisecond)
	own := newTestClinic(t, testExecutor(t, ExecutorConfig{Feed: feed}))
	other := &testClinic{tb: t, e: testExecutor(t, ExecutorConfig{}), id: own.id, keys: 1000}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		feed.Run(ctx, func(err error) { t.Error(err) })
	}()
	for range 3 {
		for _, c := range []*testClinic{own, other} {
			at := own.stored().Head
			told := make(chan error, 1)
			go func() { told <- feed.Wait(ctx, own.id, Place{at.Epoch, at.Sequence}) }()
			c.receive(1)
			if err := <-told; err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	<-ran
	if err := feed.Wait(ctx, own.id, Place{1, 1 << 40}); err == nil {
		t.Error("a wait goes on after its end")
	}
	if len(feed.topics) != 0 {
		t.Errorf("%d clinics are still waited for", len(feed.topics))
	}
}
