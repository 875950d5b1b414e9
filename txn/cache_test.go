package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn/localdb/redistest"
)

// cachingNode is a node with a cache of its own.
type cachingNode struct {
	executor *Executor
	queries  *Queries
	cache    *Cache
}

// newCachingNode makes a node whose cache follows journals if it is to.
func newCachingNode(tb testing.TB, cfg CacheConfig, follows bool) *cachingNode {
	tb.Helper()
	db := testDB(tb)
	cache, err := NewCache(NewDirectory(db), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	n := &cachingNode{testExecutor(tb, ExecutorConfig{Cache: cache}), NewQueries(NewDirectory(db)), cache}
	n.queries.UseCache(cache)
	if cfg.Clock != nil {
		n.queries.Clock = cfg.Clock
	}
	if follows {
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { cache.Run(ctx, func(err error) { tb.Logf("follow: %v", err) }) })
		tb.Cleanup(func() {
			cancel()
			running.Wait()
		})
	}
	return n
}

// on is a clinic as another node sees it.
func (c *testClinic) on(n *cachingNode) *testClinic {
	return &testClinic{tb: c.tb, e: n.executor, id: c.id, keys: 100_000}
}

var (
	zincInStore = ledger.Shelf{Location: "store", Medicine: "zinc"}
	zincOnWard  = ledger.Shelf{Location: "ward", Medicine: "zinc"}
)

func (n *cachingNode) stock(tb testing.TB, clinic ledger.ClinicID, shelf ledger.Shelf, o ReadOptions) (StockOnShelf, AsOf) {
	tb.Helper()
	stock, asOf, err := n.queries.Stock(tb.Context(), clinic, shelf, o)
	if err != nil {
		tb.Fatal(err)
	}
	return stock, asOf
}

// from counts answers about a family by where they came from.
func (n *cachingNode) from(family, from string) float64 {
	return testutil.ToFloat64(n.cache.metrics.reads.WithLabelValues(family, from))
}

func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	limit := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatalf("it did not come about: %s", what)
		}
	}
}

var fromCache = ReadOptions{Consistency: Cached}

// A node's own commands show in its cache at once; what did not change is
// answered from memory, and holds up to the last command that is known.
func TestCacheShowsOwnCommandsAtOnce(t *testing.T) {
	t.Parallel()
	n := newCachingNode(t, CacheConfig{}, false)
	c := newTestClinic(t, n.executor)
	c.receive(10)
	for i := range 3 {
		head := c.head()
		inStore, asOf := n.stock(t, c.id, zincInStore, fromCache)
		if inStore.Usable != int64(10+i) || asOf.Sequence != head.Sequence || asOf.Time != head.At {
			t.Fatalf("the store has %d as of %+v; the head is %+v", inStore.Usable, asOf, head)
		}
		onWard, asOf := n.stock(t, c.id, zincOnWard, fromCache)
		if onWard.Usable != 0 || asOf.Sequence != head.Sequence {
			t.Fatalf("the ward has %d as of %+v; the head is %+v", onWard.Usable, asOf, head)
		}
		c.receive(1)
	}
	if read, kept := n.from("stock", "database"), n.from("stock", "memory"); read != 4 || kept != 2 {
		t.Errorf("%v answers came from the database and %v from memory, want 4 and 2", read, kept)
	}
}

// What changes a lot, a medicine, a location or the clinic changes what is kept
// of shelves.
func TestCacheForgetsWhatWiderChangesTouch(t *testing.T) {
	t.Parallel()
	n := newCachingNode(t, CacheConfig{}, false)
	c := newTestClinic(t, n.executor)
	c.receive(10)
	for _, body := range []ledger.CommandBody{
		&ledger.QuarantineLot{LotID: "L1", ReasonCode: "DAMP"},
		&ledger.ReleaseLot{LotID: "L1", ReasonCode: "DRY"},
		&ledger.UpdateLot{LotID: "L1", Manufacturer: new("Other"), LotNumber: new("77")},
		&ledger.UpdateClinic{TimeZone: new("Asia/Tokyo")},
		&ledger.RecallLot{LotID: "L1", ReasonCode: "MAKER"},
	} {
		n.stock(t, c.id, zincInStore, fromCache)
		c.must(body)
		kept, asOf := n.stock(t, c.id, zincInStore, fromCache)
		want, now := n.stock(t, c.id, zincInStore, ReadOptions{})
		if !reflect.DeepEqual(kept, want) || asOf.Sequence > now.Sequence {
			t.Errorf("after %s the cache has %+v, want %+v", body.Kind(), kept, want)
		}
	}
	locations := func() AsOf {
		found, asOf, err := n.queries.Availability(t.Context(), c.id, []ledger.MedicineID{"zinc"}, nil, 0, fromCache)
		want, _, wantErr := n.queries.Availability(t.Context(), c.id, []ledger.MedicineID{"zinc"}, nil, 0, ReadOptions{})
		if err != nil || wantErr != nil || !reflect.DeepEqual(found, want) {
			t.Errorf("available is %+v, want %+v: %v, %v", found, want, err, wantErr)
		}
		return asOf
	}
	locations()
	c.mustAll(
		&ledger.CreateLocation{LocationID: "annex", Name: "Annex", LocationKind: ledger.Store},
		&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: ledger.MaxDate},
		&ledger.ReceiveStock{LocationID: "annex", LotID: "L2", Quantity: 5},
	)
	if asOf := locations(); asOf.Sequence != c.head().Sequence {
		t.Errorf("it holds up to %d of %d", asOf.Sequence, c.head().Sequence)
	}
	var refused *ledger.Rejection
	if _, _, err := n.queries.Stock(t.Context(), c.id, ledger.Shelf{Location: "store", Medicine: "none"}, fromCache); !errors.As(err, &refused) {
		t.Errorf("an unknown medicine gives %v", err)
	}
	if _, _, err := n.queries.Stock(t.Context(), "nowhere", zincInStore, fromCache); !errors.As(err, &refused) {
		t.Errorf("an unknown clinic gives %v", err)
	}
}

// A node that hears nothing of another one's commands says how old its answers
// are; whoever needs more gets it, or an error.
func TestCacheThatHearsNothingDoesNotLie(t *testing.T) {
	t.Parallel()
	writer, deaf := newCachingNode(t, CacheConfig{}, false), newCachingNode(t, CacheConfig{}, false)
	c := newTestClinic(t, writer.executor)
	c.receive(10)
	before := c.head().Sequence
	deaf.stock(t, c.id, zincInStore, fromCache)
	c.receive(5)
	after := c.head().Sequence

	old, asOf := deaf.stock(t, c.id, zincInStore, fromCache)
	if old.Usable != 10 || asOf.Sequence != before {
		t.Fatalf("it says %d as of %d, want 10 as of %d", old.Usable, asOf.Sequence, before)
	}
	needed := ReadOptions{Consistency: Cached, MinSequence: after}
	fresh, asOf := deaf.stock(t, c.id, zincInStore, needed)
	if fresh.Usable != 15 || asOf.Sequence != after {
		t.Fatalf("it says %d as of %d, want 15 as of %d", fresh.Usable, asOf.Sequence, after)
	}
	if kept, asOf := deaf.stock(t, c.id, zincInStore, fromCache); kept.Usable != 15 || asOf.Sequence != after {
		t.Errorf("what was read for one caller is not kept: %d as of %d", kept.Usable, asOf.Sequence)
	}
	needed.MinSequence++
	var notReached *SequenceNotReachedError
	if _, _, err := deaf.queries.Stock(t.Context(), c.id, zincInStore, needed); !errors.As(err, &notReached) {
		t.Errorf("more than there is gives %v", err)
	}
	if err := deaf.cache.catchUp(t.Context(), testDB(t)); err != nil {
		t.Fatal(err)
	}
	c.must(&ledger.CreateLocation{LocationID: "annex", Name: "Annex", LocationKind: ledger.Store})
	if err := deaf.cache.catchUp(t.Context(), testDB(t)); err != nil {
		t.Fatal(err)
	}
	if kept, asOf := deaf.stock(t, c.id, zincInStore, fromCache); kept.Usable != 15 || asOf.Sequence != after+1 {
		t.Errorf("now that it has heard, it says %d as of %d, want 15 as of %d", kept.Usable, asOf.Sequence, after+1)
	}
}

// A reader that is slow to come back with what it read does not bring the past
// back, neither to memory nor to Redis.
func TestSlowReaderDoesNotBringBackThePast(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := newCachingNode(t, CacheConfig{RedisURL: redis.URL()}, true)
	eventually(t, "a connection to Redis", func() bool { return n.cache.shared.client.Load() != nil })
	c := newTestClinic(t, n.executor)
	c.receive(10)
	n.stock(t, c.id, zincOnWard, fromCache) // the clinic is followed from now on
	key := cacheKey{c.id, ledger.ShelfTopic(zincInStore)}
	read, release := make(chan struct{}), make(chan struct{})
	slow := make(chan error, 1)
	go func() {
		slow <- func() error {
			found, _, err := n.cache.getAll(context.Background(), []cacheKey{key}, fromCache, func(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
				found, err := n.queries.loadShelves(ctx, o, keys)
				close(read)
				<-release
				return found, err
			})
			if err == nil && found[0].value.([]StockRow)[0].Available != 10 {
				err = fmt.Errorf("the slow reader got %+v", found[0].value)
			}
			return err
		}()
	}()
	<-read
	c.receive(5)
	close(release)
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	if now, asOf := n.stock(t, c.id, zincInStore, fromCache); now.Usable != 15 || asOf.Sequence != c.head().Sequence {
		t.Errorf("the cache says %d as of %d", now.Usable, asOf.Sequence)
	}
	// Redis judges by itself: the old answer comes late to it, from a node that
	// knows nothing.
	eventually(t, "the answer is in Redis", func() bool { return n.cache.shared.read(t.Context(), []cacheKey{key})[0] != nil })
	inRedis := n.cache.shared.read(t.Context(), []cacheKey{key})[0]
	c.receive(1)
	eventually(t, "Redis forgets", func() bool { return n.cache.shared.read(t.Context(), []cacheKey{key})[0] == nil })
	text, err := (&sharedValue{key, inRedis, time.Minute}).text()
	if err != nil {
		t.Fatal(err)
	}
	late := []string{decimalText(inRedis.asOf.Epoch), decimalText(int64(inRedis.asOf.Sequence)), text, "60000"}
	if taken, err := putShared.Exec(t.Context(), *n.cache.shared.client.Load(), []string{sharedKey(key)}, late).ToInt64(); taken != 0 || err != nil {
		t.Errorf("Redis took what is out of date: %d, %v", taken, err)
	}
	n.stock(t, c.id, zincInStore, fromCache)
	eventually(t, "the present is in Redis", func() bool {
		v := n.cache.shared.read(t.Context(), []cacheKey{key})[0]
		return v != nil && v.asOf.Sequence == c.head().Sequence
	})
}

// A Redis that hangs costs a few reads a moment each, and then none; when it goes
// on, it is used again.
func TestRedisThatHangs(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := newCachingNode(t, CacheConfig{RedisURL: redis.URL()}, true)
	connected := func() bool { return n.cache.shared.client.Load() != nil }
	eventually(t, "a connection to Redis", connected)
	c := newTestClinic(t, n.executor)
	const medicines = 60
	var bodies []ledger.CommandBody
	for i := range medicines {
		bodies = append(bodies, &ledger.AddMedicine{MedicineID: ledger.MedicineID(fmt.Sprintf("m%d", i)), Name: fmt.Sprintf("M%d", i), BaseUnit: "tablet"})
	}
	c.mustAll(bodies...)
	missing := 0
	miss := func() {
		t.Helper()
		n.stock(t, c.id, ledger.Shelf{Location: "store", Medicine: ledger.MedicineID(fmt.Sprintf("m%d", missing))}, fromCache)
		missing++
	}
	redis.Pause()
	for range maxLate {
		miss()
	}
	if connected() {
		t.Errorf("after %d reads that Redis did not answer, it is still asked", maxLate)
	}
	begun := time.Now()
	errorsBefore := testutil.ToFloat64(n.cache.metrics.sharedErrors)
	for range medicines / 2 {
		miss()
	}
	if took := time.Since(begun); took > medicines/2*sharedTimeout {
		t.Errorf("while Redis hung, %d reads took %s", medicines/2, took)
	}
	// Whoever tries to come back to it waits by themselves.
	eventually(t, "another attempt at Redis", func() bool { return testutil.ToFloat64(n.cache.metrics.sharedErrors) >= errorsBefore+2 })
	if connected() {
		t.Error("a Redis that hangs counts as there")
	}
	miss()
	redis.Resume()
	eventually(t, "Redis is used again", connected)
	miss()
	key := cacheKey{c.id, ledger.ShelfTopic(ledger.Shelf{Location: "store", Medicine: ledger.MedicineID(fmt.Sprintf("m%d", missing-1))})}
	eventually(t, "what was read is in Redis", func() bool { return n.cache.shared.read(t.Context(), []cacheKey{key})[0] != nil })
}

// However many ask for what is not kept, it is read once.
func TestOneFlight(t *testing.T) {
	t.Parallel()
	n := newCachingNode(t, CacheConfig{}, false)
	c := newTestClinic(t, n.executor)
	c.receive(10)
	key := cacheKey{c.id, ledger.ShelfTopic(zincInStore)}
	release := make(chan struct{})
	var loads atomic.Int64
	var asking, asked sync.WaitGroup
	for range 64 {
		asking.Add(1)
		asked.Go(func() {
			asking.Done()
			found, _, err := n.cache.getAll(context.Background(), []cacheKey{key}, fromCache, func(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
				loads.Add(1)
				<-release
				return n.queries.loadShelves(ctx, o, keys)
			})
			if err != nil || found[0].value.([]StockRow)[0].Available != 10 {
				t.Errorf("%v, %v", found, err)
			}
		})
	}
	asking.Wait()
	close(release)
	asked.Wait()
	if loads.Load() != 1 {
		t.Errorf("it was read %d times", loads.Load())
	}
}

// Requests whose keys overlap read none of them twice, and each reads what it
// alone lacks at a time.
func TestFlightsOfOverlappingKeys(t *testing.T) {
	t.Parallel()
	n := newCachingNode(t, CacheConfig{}, false)
	c := newTestClinic(t, n.executor)
	c.receive(10)
	c.must(&ledger.CreateLocation{LocationID: "annex", Name: "Annex", LocationKind: ledger.Store})
	at := func(locations ...ledger.LocationID) (keys []cacheKey) {
		for _, location := range locations {
			keys = append(keys, cacheKey{c.id, ledger.ShelfTopic(ledger.Shelf{Location: location, Medicine: "zinc"})})
		}
		return keys
	}
	loads := make(chan []cacheKey, 8)
	release := make(chan struct{})
	ask := func(keys []cacheKey) <-chan error {
		answered := make(chan error, 1)
		go func() {
			found, asOf, err := n.cache.getAll(context.Background(), keys, fromCache, func(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
				loads <- keys
				<-release
				return n.queries.loadShelves(ctx, o, keys)
			})
			for i, k := range keys {
				if err == nil && (len(found[i].value.([]StockRow)) == 1) != (k.topic.ID == "store") {
					err = fmt.Errorf("%s is %+v", k.topic.ID, found[i].value)
				}
			}
			if err == nil && asOf.Sequence != c.head().Sequence {
				err = fmt.Errorf("it is as of %+v", asOf)
			}
			answered <- err
		}()
		return answered
	}
	first := ask(at("ward", "store"))
	if keys := <-loads; !slices.Equal(keys, at("ward", "store")) {
		t.Errorf("the first loads %v", keys)
	}
	second := ask(at("store", "annex"))
	if keys := <-loads; !slices.Equal(keys, at("annex")) {
		t.Errorf("the second loads %v", keys)
	}
	third := ask(at("annex", "ward", "store")) // all of it is on its way
	eventually(t, "the third has nothing to load", func() bool { return n.from("stock", "database") == 3 })
	close(release)
	for i, answered := range []<-chan error{first, second, third} {
		if err := <-answered; err != nil {
			t.Errorf("request %d: %v", i+1, err)
		}
	}
	if read := n.from("stock", "database"); read != 3 || len(loads) > 0 {
		t.Errorf("%v answers were read, and %d more loads", read, len(loads))
	}
}

// What is wrong with another one's request is no error of one's own.
func TestAFlightThatFailsForAnother(t *testing.T) {
	t.Parallel()
	n := newCachingNode(t, CacheConfig{}, false)
	c := newTestClinic(t, n.executor)
	c.receive(10)
	store := cacheKey{c.id, ledger.ShelfTopic(zincInStore)}
	nowhere := cacheKey{c.id, ledger.ShelfTopic(ledger.Shelf{Location: "nowhere", Medicine: "zinc"})}
	begun, release := make(chan struct{}, 8), make(chan struct{})
	load := func(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
		begun <- struct{}{}
		<-release
		return n.queries.loadShelves(ctx, o, keys)
	}
	wrong := make(chan error, 1)
	go func() {
		_, _, err := n.cache.getAll(context.Background(), []cacheKey{store, nowhere}, fromCache, load)
		wrong <- err
	}()
	<-begun
	right := make(chan error, 1)
	go func() {
		_, _, err := n.cache.getAll(context.Background(), []cacheKey{store}, fromCache, load)
		right <- err
	}()
	close(release)
	var refused *ledger.Rejection
	if err := <-wrong; !errors.As(err, &refused) || refused.Reason != ledger.ReasonLocationNotFound {
		t.Errorf("who asks for what there is not: %v", err)
	}
	if err := <-right; err != nil {
		t.Errorf("who asks for what there is: %v", err)
	}
}

// An answer is renewed while it is still served, and not served beyond its
// lifetime, nor beyond the day on which a lot in it expires.
func TestCacheLifetimes(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	n := newCachingNode(t, CacheConfig{Clock: clock}, false)
	c := newTestClinic(t, n.executor)
	tomorrow := ledger.DateOf(time.Now().Add(36 * time.Hour))
	c.mustAll(
		&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: tomorrow},
		&ledger.ReceiveStock{LocationID: "store", LotID: "L2", Quantity: 10},
	)
	n.stock(t, c.id, zincInStore, fromCache)
	offset.Add(int64(4*time.Minute + 30*time.Second))
	n.stock(t, c.id, zincInStore, fromCache)
	eventually(t, "it is renewed in the background", func() bool { return n.from("stock", "database") == 2 })
	if kept := n.from("stock", "memory"); kept != 1 {
		t.Errorf("%v answers came from memory, want 1", kept)
	}
	eventually(t, "the new one is kept", func() bool {
		v, ok := n.cache.memory.GetIfPresent(cacheKey{c.id, ledger.ShelfTopic(zincInStore)})
		return ok && clock().Sub(v.filled) < time.Minute
	})
	offset.Add(int64(6 * time.Minute))
	n.stock(t, c.id, zincInStore, fromCache)
	if read := n.from("stock", "database"); read != 3 {
		t.Errorf("after its lifetime it was read %v times, want 3", read)
	}
	// To a minute before the end of the day on which the lot can be used.
	zone, err := time.LoadLocation("Africa/Nairobi")
	if err != nil {
		t.Fatal(err)
	}
	year, month, day := tomorrow.Time().Date()
	end := time.Date(year, month, day+1, 0, 0, 0, 0, zone)
	offset.Store(int64(time.Until(end) - time.Minute))
	if stock, _ := n.stock(t, c.id, zincInStore, fromCache); stock.Usable != 10 {
		t.Errorf("a minute before it expires %d are usable", stock.Usable)
	}
	offset.Add(int64(90 * time.Second))
	if stock, _ := n.stock(t, c.id, zincInStore, fromCache); stock.Usable != 0 || !stock.Rows[0].Expired {
		t.Errorf("after it expired %d are usable", stock.Usable)
	}
}

// What is kept of a clinic is worth nothing after a restore.
func TestCacheAfterARestore(t *testing.T) {
	t.Parallel()
	n := newCachingNode(t, CacheConfig{}, false)
	c, _, _ := verifiable(t, n.executor)
	older := export(t, c.e.db, c.id)
	c.receive(7)
	lost, _ := n.stock(t, c.id, zincInStore, fromCache)
	lose(t, c.e.db, c.id)
	restore(t, c.e.db, older)
	if err := n.cache.catchUp(t.Context(), testDB(t)); err != nil {
		t.Fatal(err)
	}
	kept, asOf := n.stock(t, c.id, zincInStore, fromCache)
	want, now := n.stock(t, c.id, zincInStore, ReadOptions{})
	if !reflect.DeepEqual(kept, want) || asOf != now || kept.Totals.Available == lost.Totals.Available {
		t.Errorf("the cache says %+v as of %+v, want %+v as of %+v", kept.Totals, asOf, want.Totals, now)
	}
}

// Prescriptions and what a patient was prescribed are kept, too.
func TestCacheOfPrescriptions(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n, other := newCachingNode(t, CacheConfig{RedisURL: redis.URL()}, true), newCachingNode(t, CacheConfig{RedisURL: redis.URL()}, true)
	c := newTestClinic(t, n.executor)
	c.receive(100)
	c.must(&ledger.RegisterPatient{PatientID: ada})
	prescribe := func() ledger.PrescriptionID {
		return ledger.PrescriptionID(documentOf(t, c.must(&ledger.CreatePrescription{
			PatientID: ada, Prescriber: "Dr. Hill", ValidUntil: ledger.MaxDate, Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 5, Refills: 2}},
		})))
	}
	id := prescribe()
	key := ledger.DocumentKey{Kind: ledger.DocumentPrescription, ID: string(id)}
	filter := PrescriptionFilter{Patient: ada, NewestFirst: true}
	check := func(n *cachingNode) {
		t.Helper()
		o := ReadOptions{Consistency: Cached, MinSequence: c.head().Sequence}
		one, asOf, err := n.queries.Document(t.Context(), c.id, key, o)
		want, _, wantErr := n.queries.Document(t.Context(), c.id, key, ReadOptions{})
		if err != nil || wantErr != nil || !reflect.DeepEqual(one, want) || asOf.Sequence < o.MinSequence {
			t.Errorf("the prescription is %+v, want %+v: %v, %v", one, want, err, wantErr)
		}
		list, next, _, err := n.queries.Prescriptions(t.Context(), c.id, filter, nil, 1, o)
		wantList, wantNext, _, wantErr := n.queries.Prescriptions(t.Context(), c.id, filter, nil, 1, ReadOptions{})
		if err != nil || wantErr != nil || !reflect.DeepEqual(list, wantList) || !reflect.DeepEqual(next, wantNext) {
			t.Errorf("prescribed are %+v %+v, want %+v %+v: %v, %v", list, next, wantList, wantNext, err, wantErr)
		}
	}
	check(n)
	check(n)
	if kept := n.from("prescription", "memory") + n.from("patient_medications", "memory"); kept != 2 {
		t.Errorf("%v answers came from memory, want 2", kept)
	}
	c.must(&ledger.DispenseMedicine{Dispense: ledger.Dispense{LocationID: "store", PrescriptionID: id, Quantity: 5}})
	check(n)
	prescribe()
	check(n)
	shared := cacheKey{c.id, ledger.Topic{Kind: ledger.TopicPrescription, ID: string(id)}}
	eventually(t, "it is in Redis", func() bool {
		return n.cache.shared.read(t.Context(), []cacheKey{shared})[0] != nil
	})
	eventually(t, "a connection to Redis", func() bool { return other.cache.shared.client.Load() != nil })
	check(other)
	if kept := other.from("prescription", "shared"); kept != 1 {
		t.Errorf("%v answers came from Redis, want 1", kept)
	}
	if none, _, err := n.queries.Document(t.Context(), c.id, ledger.DocumentKey{Kind: ledger.DocumentPrescription, ID: "RX-0"}, fromCache); none != nil || err != nil {
		t.Errorf("what is not there is %v, %v", none, err)
	}
}

// Medicines and templates for prescriptions are kept, until they are changed, by
// whichever node.
func TestCacheOfTheCatalogue(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n, other := newCachingNode(t, CacheConfig{RedisURL: redis.URL()}, true), newCachingNode(t, CacheConfig{RedisURL: redis.URL()}, true)
	for _, each := range []*cachingNode{n, other} {
		eventually(t, "a connection to Redis", func() bool { return each.cache.shared.client.Load() != nil })
	}
	c := newTestClinic(t, n.executor)
	template := func(id ledger.TemplateID, name string) ledger.CommandBody {
		return &ledger.SetPrescriptionTemplate{TemplateID: id, Name: name, Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 10}}}
	}
	c.mustAll(template("cough", "Cough"), template("fever", "Fever"))
	filter := DocumentFilter{Kind: ledger.DocumentPrescriptionTemplate, OpenOnly: true}
	check := func(n *cachingNode) {
		t.Helper()
		o := ReadOptions{Consistency: Cached, MinSequence: c.head().Sequence}
		medicine, asOf, err := n.queries.Medicine(t.Context(), c.id, "zinc", o)
		want, _, wantErr := n.queries.Medicine(t.Context(), c.id, "zinc", ReadOptions{})
		if err != nil || wantErr != nil || medicine != want || asOf.Sequence < o.MinSequence {
			t.Errorf("the medicine is %+v as of %+v, want %+v: %v, %v", medicine, asOf, want, err, wantErr)
		}
		for _, limit := range []int{1, 2, 10} {
			list, next, _, err := n.queries.Documents(t.Context(), c.id, filter, nil, limit, o)
			wantList, wantNext, _, wantErr := n.queries.Documents(t.Context(), c.id, filter, nil, limit, ReadOptions{})
			if err != nil || wantErr != nil || !reflect.DeepEqual(list, wantList) || !reflect.DeepEqual(next, wantNext) {
				t.Errorf("the templates are %+v %+v, want %+v %+v: %v, %v", list, next, wantList, wantNext, err, wantErr)
			}
		}
	}
	check(n)
	check(n)
	if medicines, templates := n.from("medicine", "memory"), n.from("templates", "memory"); medicines < 1 || templates < 5 {
		t.Errorf("%v medicines and %v lists of templates came from memory", medicines, templates)
	}
	eventually(t, "they are in Redis", func() bool {
		kept := n.cache.shared.read(t.Context(), []cacheKey{{c.id, ledger.Topic{Kind: ledger.TopicMedicine, ID: "zinc"}}, {c.id, ledger.Topic{Kind: ledger.TopicTemplates}}})
		return kept[0] != nil && kept[1] != nil
	})
	check(other)
	if medicines, templates := other.from("medicine", "shared"), other.from("templates", "shared"); medicines != 1 || templates != 1 {
		t.Errorf("%v medicines and %v lists of templates came from Redis", medicines, templates)
	}
	c.mustAll(&ledger.UpdateMedicine{MedicineID: "zinc", Name: ptr("Zinc sulfate")}, template("cough", "Dry cough"), &ledger.RemovePrescriptionTemplate{TemplateID: "fever"})
	check(n)
	check(other)
	if _, _, err := n.queries.Medicine(t.Context(), c.id, "gold", fromCache); err == nil {
		t.Error("a medicine that is not there is found")
	}
}

// shelfHistory are the available units of each lot of a shelf after each command
// that moved them.
type shelfHistory map[ledger.Shelf][]shelfAt

type shelfAt struct {
	sequence ledger.Sequence
	lots     map[ledger.LotID]ledger.Balances
}

// history reads what each shelf held at each sequence.
func (c *testClinic) history() shelfHistory {
	c.tb.Helper()
	history := make(shelfHistory)
	var after *MovementKey
	for {
		moved, next, _, err := NewQueries(NewDirectory(c.e.db)).Movements(c.tb.Context(), c.id, MovementFilter{}, after, 1000, ReadOptions{})
		if err != nil {
			c.tb.Fatal(err)
		}
		for i := range moved {
			m := &moved[i]
			shelf := ledger.Shelf{Location: m.Location, Medicine: m.Medicine}
			steps := history[shelf]
			lots := make(map[ledger.LotID]ledger.Balances)
			if len(steps) > 0 {
				for lot, b := range steps[len(steps)-1].lots {
					lots[lot] = b
				}
			}
			lots[m.Lot] = m.After
			history[shelf] = append(steps, shelfAt{m.Sequence, lots})
		}
		if next == nil {
			return history
		}
		after = next
	}
}

// at is what a shelf held after a command.
func (h shelfHistory) at(shelf ledger.Shelf, sequence ledger.Sequence) map[ledger.LotID]ledger.Balances {
	steps := h[shelf]
	after, _ := slices.BinarySearchFunc(steps, sequence+1, func(step shelfAt, wanted ledger.Sequence) int { return cmp.Compare(step.sequence, wanted) })
	if after == 0 {
		return map[ledger.LotID]ledger.Balances{}
	}
	return steps[after-1].lots
}

// sighting is what somebody was told.
type sighting struct {
	shelf ledger.Shelf
	asOf  AsOf
	lots  map[ledger.LotID]ledger.Balances
}

func (n *cachingNode) look(clinic ledger.ClinicID, shelf ledger.Shelf) (sighting, error) {
	stock, asOf, err := n.queries.Stock(context.Background(), clinic, shelf, fromCache)
	seen := sighting{shelf, asOf, make(map[ledger.LotID]ledger.Balances)}
	for _, row := range stock.Rows {
		seen.lots[row.Lot] = row.Balances
	}
	return seen, err
}

// Two nodes write and read one clinic through their caches and one Redis, which
// is killed and comes back with what it held. Every answer is the truth of the
// sequence that it names, nobody's time runs back on a node, and nothing fails.
func TestCachedAnswersAreTheTruthOfTheirSequence(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	cfg := CacheConfig{RedisURL: redis.URL(), LookEvery: 5 * time.Millisecond}
	nodes := []*cachingNode{newCachingNode(t, cfg, true), newCachingNode(t, cfg, true)}
	c := newTestClinic(t, nodes[0].executor)
	c.must(&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: ledger.MaxDate})
	c.receive(1000)
	for _, n := range nodes {
		eventually(t, "a connection to Redis", func() bool { return n.cache.shared.client.Load() != nil })
	}
	const each = 150
	done := make(chan struct{})
	var writers, readers sync.WaitGroup
	for i, n := range nodes {
		at := c.on(n)
		at.keys = (i + 1) * 1_000_000
		random := rand.New(rand.NewPCG(1, uint64(i)))
		writers.Go(func() {
			for range each {
				lot := ledger.LotID(fmt.Sprintf("L%d", 1+random.IntN(2)))
				location := []ledger.LocationID{"store", "ward"}[random.IntN(2)]
				at.must(&ledger.ReceiveStock{LocationID: location, LotID: lot, Quantity: 1 + random.Int64N(5)})
			}
		})
	}
	seen := make([][]sighting, 4)
	for i := range seen {
		n := nodes[i%2]
		readers.Go(func() {
			for turn := 0; ; turn++ {
				select {
				case <-done:
					return
				default:
				}
				s, err := n.look(c.id, []ledger.Shelf{zincInStore, zincOnWard}[turn%2])
				if err != nil {
					t.Errorf("a cached read failed: %v", err)
					return
				}
				if last := len(seen[i]) - 1; last < 0 || seen[i][last].asOf != s.asOf || seen[i][last].shelf != s.shelf {
					seen[i] = append(seen[i], s)
				}
			}
		})
	}
	eventually(t, "a half is written", func() bool { return c.head().Sequence > each })
	redis.Kill()
	eventually(t, "Redis is missed", func() bool { return nodes[0].cache.shared.client.Load() == nil })
	redis.Restart()
	writers.Wait()
	for _, n := range nodes {
		eventually(t, "Redis is used again", func() bool { return n.cache.shared.client.Load() != nil })
		eventually(t, "the node has heard of all", func() bool {
			s, err := n.look(c.id, zincInStore)
			return err == nil && s.asOf.Sequence == c.head().Sequence
		})
	}
	close(done)
	readers.Wait()
	c.checkSightings(seen)
}

func (c *testClinic) checkSightings(seen [][]sighting) {
	c.tb.Helper()
	history, looked := c.history(), 0
	for _, sightings := range seen {
		latest := make(map[ledger.Shelf]ledger.Sequence)
		for _, s := range sightings {
			looked++
			if want := history.at(s.shelf, s.asOf.Sequence); !reflect.DeepEqual(s.lots, want) {
				c.tb.Fatalf("%v had %v at sequence %d, and somebody was told %v", s.shelf, want, s.asOf.Sequence, s.lots)
			}
			if s.asOf.Sequence < latest[s.shelf] {
				c.tb.Fatalf("after sequence %d a reader was told of %d", latest[s.shelf], s.asOf.Sequence)
			}
			latest[s.shelf] = s.asOf.Sequence
		}
	}
	if looked < 100 {
		c.tb.Errorf("only %d different answers were seen", looked)
	}
}
