package txn

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
)

// CacheConfig says how much a cache keeps, and where. Every field has a default.
type CacheConfig struct {
	// Entries is how many answers are kept in memory at most. Default 100,000.
	Entries int
	// RedisURL is a Redis server that nodes share answers through, for example
	// redis://user:password@host:6379/0. Default none.
	RedisURL string
	// LookEvery is how often a cache looks for what other nodes committed in the
	// clinics that it keeps answers about. Default 200 ms.
	LookEvery time.Duration
	// Clock tells how old an answer is. Default time.Now.
	Clock func() time.Time
	// Log receives what an operator should know. Default slog.Default().
	Log *slog.Logger
}

// Cache keeps answers of queries: in memory and, where there is one, in Redis.
//
// It never guesses. With each answer it keeps the sequence that it was read at,
// and of each clinic that it keeps answers about it notes which topics were
// changed by which command, without a gap: what this node commits at once, and
// the rest by reading the journal. So it can tell up to which command an answer
// still holds, and that is what its AsOf says. An answer that was read before a
// change and comes after it, from a slow reader or from another node, is
// recognized by its sequence and dropped.
type Cache struct {
	directory *Directory
	cfg       CacheConfig
	memory    *otter.Cache[cacheKey, *kept]
	shared    *sharedCache // nil: there is none
	flights   flights
	metrics   *cacheMetrics
	behind    chan struct{} // one is waiting when a clinic has to be caught up with

	mu       sync.RWMutex
	followed map[ledger.ClinicID]*followed
}

// cacheKey names what is kept.
type cacheKey struct {
	clinic ledger.ClinicID
	topic  ledger.Topic
}

// kept is an answer as it was read from the database. Nobody changes it.
type kept struct {
	asOf   AsOf
	filled time.Time
	// until is when it ceases to be true by the passing of time alone; zero for
	// never.
	until time.Time
	value any
}

// family says how the answers about one kind of topic are kept. The lifetimes
// are upper bounds, counted from when the database was read.
type family struct {
	name           string
	memory, shared time.Duration
	// key is the name in Redis, after the clinic's prefix.
	key    func(clinic ledger.ClinicID, t ledger.Topic) string
	encode func(any) ([]byte, error)
	decode func([]byte) (any, error)
}

// cacheLoader reads what is missing from the database, in the order of the keys.
type cacheLoader func(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error)

const (
	// loadTimeout bounds a read that several callers wait for: none of them may
	// end it for the others.
	loadTimeout = 10 * time.Second
	// maxFlights is how often a caller waits for an answer that changes faster
	// than it can be read, before it reads for itself.
	maxFlights = 3
)

// NewCache returns a cache. It follows journals as long as [Cache.Run] runs.
func NewCache(d *Directory, cfg CacheConfig) (*Cache, error) {
	setDefault(&cfg.Entries, 100_000)
	setDefault(&cfg.LookEvery, 200*time.Millisecond)
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	c := &Cache{
		directory: d, cfg: cfg, flights: flights{under: make(map[cacheKey]*flight)}, metrics: newCacheMetrics(), behind: make(chan struct{}, 1), followed: make(map[ledger.ClinicID]*followed),
	}
	var err error
	c.memory, err = otter.New(&otter.Options[cacheKey, *kept]{
		MaximumSize: cfg.Entries,
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[cacheKey, *kept]) time.Duration {
			return max(time.Nanosecond, families[e.Key.topic.Kind].memory-c.cfg.Clock().Sub(e.Value.filled))
		}),
	})
	if err != nil {
		return nil, err
	}
	if cfg.RedisURL != "" {
		c.shared, err = newSharedCache(cfg.RedisURL, cfg.Log, c.metrics)
	}
	return c, err
}

// Run follows the journals of the clinics that answers are kept about until ctx
// ends, and then closes the connection to Redis. failed is told of reads that
// failed; they are tried again. It is called concurrently where there are several
// shards.
func (c *Cache) Run(ctx context.Context, failed func(error)) {
	var background sync.WaitGroup
	if c.shared != nil {
		background.Go(func() { c.shared.run(ctx) })
	}
	c.follow(ctx, failed)
	background.Wait()
}

// RegisterMetrics registers what the cache measures.
func (c *Cache) RegisterMetrics(r prometheus.Registerer) {
	c.metrics.register(r, func() float64 { return float64(c.memory.EstimatedSize()) }, func() float64 {
		c.mu.RLock()
		defer c.mu.RUnlock()
		return float64(len(c.followed))
	})
}

// getAll returns the answers about some topics of one clinic, and the command up
// to which all of them hold. What is neither kept nor on its way is loaded, once
// for all who wait for it.
func (c *Cache) getAll(ctx context.Context, keys []cacheKey, o ReadOptions, load cacheLoader) ([]*kept, AsOf, error) {
	found := make([]*kept, len(keys))
	var all AsOf
	for i, k := range keys {
		v, asOf := c.find(k, load)
		if v == nil || i > 0 && asOf.Epoch != all.Epoch {
			return c.getMissing(ctx, keys, o, load)
		}
		if found[i] = v; i == 0 || asOf.Sequence < all.Sequence {
			all = asOf
		}
	}
	if !all.satisfies(o) {
		return c.bypass(ctx, keys, o, load)
	}
	return found, all, nil
}

// getMissing is getAll where something is missing.
func (c *Cache) getMissing(ctx context.Context, keys []cacheKey, o ReadOptions, load cacheLoader) ([]*kept, AsOf, error) {
	found := make([]*kept, len(keys))
	asOfs := make([]AsOf, len(keys))
	needed := make([]Place, len(keys))
	for i, k := range keys {
		needed[i] = c.changed(k)
	}
	for range maxFlights {
		var missing []cacheKey
		for i, k := range keys {
			if found[i] == nil {
				found[i], asOfs[i] = c.find(k, load)
			}
			if found[i] == nil {
				missing = append(missing, k)
			}
		}
		if len(missing) == 0 {
			break
		}
		loaded, err := c.fly(ctx, missing, load)
		if err != nil {
			return nil, AsOf{}, err
		}
		for i, k := range keys {
			// What is on its way may have been read before a change that is
			// known by now.
			if v := loaded[k]; found[i] == nil && v != nil && !v.asOf.place().before(needed[i]) {
				found[i], asOfs[i] = v, cmp.Or(c.holds(k, v), v.asOf)
			}
		}
	}
	if asOf, ok := oldest(asOfs); ok && asOf.satisfies(o) {
		return found, asOf, nil
	}
	return c.bypass(ctx, keys, o, load)
}

// bypass reads the database for one caller, who wants more than is kept.
func (c *Cache) bypass(ctx context.Context, keys []cacheKey, o ReadOptions, load cacheLoader) ([]*kept, AsOf, error) {
	c.metrics.count(keys[0], "bypassed", len(keys))
	o.Consistency = Strong
	found, err := load(ctx, o, keys)
	if err != nil {
		return nil, AsOf{}, err
	}
	for i, k := range keys {
		c.put(k, found[i])
	}
	return found, found[0].asOf, nil
}

// find looks a key up in memory. An answer that has lived for most of its time
// is loaded anew in the background, while it is still served.
func (c *Cache) find(k cacheKey, load cacheLoader) (*kept, AsOf) {
	f, now := families[k.topic.Kind], c.cfg.Clock()
	v, ok := c.memory.GetIfPresent(k)
	if !ok || !v.alive(now, f.memory) {
		return nil, AsOf{}
	}
	asOf := c.holds(k, v)
	if asOf == (AsOf{}) {
		return nil, AsOf{}
	}
	c.metrics.memory[k.topic.Kind].Inc()
	if now.Sub(v.filled) > f.memory/5*4 {
		c.refresh(k, load)
	}
	return v, asOf
}

// alive reports whether an answer's time has not run out.
func (v *kept) alive(now time.Time, lifetime time.Duration) bool {
	return now.Sub(v.filled) < lifetime && (v.until.IsZero() || now.Before(v.until))
}

// refresh loads a key without anybody waiting for it, unless it is on its way.
func (c *Cache) refresh(k cacheKey, load cacheLoader) {
	if own, _ := c.flights.board([]cacheKey{k}); own != nil {
		go c.depart(context.Background(), own, load, false)
	}
}

// fly waits until some keys were loaded. Those that are on their way already, of
// whatever request, are waited for; the others are loaded together. Where a
// load failed that was for more than these, they are missing in the answer:
// what was wrong may be none of the caller's business.
func (c *Cache) fly(ctx context.Context, keys []cacheKey, load cacheLoader) (map[cacheKey]*kept, error) {
	own, others := c.flights.board(keys)
	if own != nil {
		go c.depart(context.WithoutCancel(ctx), own, load, true)
		others = append(others, own)
	}
	loaded := make(map[cacheKey]*kept, len(keys))
	for _, f := range others {
		select {
		case <-f.landed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.err != nil && f.within(keys) {
			return nil, f.err
		}
		for _, k := range keys {
			if v := f.loaded[k]; v != nil {
				loaded[k] = v
			}
		}
	}
	return loaded, nil
}

// depart loads what a flight is for, from Redis first where that may help.
func (c *Cache) depart(ctx context.Context, f *flight, load cacheLoader, shared bool) {
	defer c.flights.land(f)
	missing := f.keys
	if shared {
		missing = c.fromShared(ctx, f.keys, f.loaded)
	}
	if len(missing) > 0 {
		f.err = c.load(ctx, missing, load, f.loaded)
	}
}

// load reads keys from the database and keeps what it finds.
func (c *Cache) load(ctx context.Context, keys []cacheKey, load cacheLoader, into map[cacheKey]*kept) error {
	c.metrics.count(keys[0], "database", len(keys))
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	found, err := load(ctx, ReadOptions{Consistency: Strong}, keys)
	if err != nil {
		return err
	}
	for i, k := range keys {
		into[k] = found[i]
		c.put(k, found[i])
	}
	return nil
}

// fromShared takes what it can from Redis, and returns the keys that are
// missing there.
func (c *Cache) fromShared(ctx context.Context, keys []cacheKey, into map[cacheKey]*kept) (missing []cacheKey) {
	if c.shared == nil {
		return keys
	}
	now := c.cfg.Clock()
	for i, v := range c.shared.read(ctx, keys) {
		k := keys[i]
		if v == nil || !v.alive(now, families[k.topic.Kind].shared) || c.holds(k, v) == (AsOf{}) {
			missing = append(missing, k)
			continue
		}
		c.metrics.count(k, "shared", 1)
		into[k] = v
		c.keep(k, v)
	}
	return missing
}

// put keeps what was read from the database, in memory and in Redis.
func (c *Cache) put(k cacheKey, v *kept) {
	if c.keep(k, v) && c.shared != nil {
		c.shared.put(k, v)
	}
}

// keep keeps an answer in memory unless something newer is known.
func (c *Cache) keep(k cacheKey, v *kept) bool {
	if c.holds(k, v) == (AsOf{}) {
		return false
	}
	c.memory.Compute(k, func(old *kept, found bool) (*kept, otter.ComputeOp) {
		if found && v.asOf.place().before(old.asOf.place()) {
			return old, otter.CancelOp
		}
		return v, otter.WriteOp
	})
	return true
}

func (a AsOf) place() Place { return Place{a.Epoch, a.Sequence} }

// before reports whether a place comes before another one.
func (p Place) before(q Place) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Sequence < q.Sequence
}

// oldest is the command up to which several answers hold, all of one epoch.
func oldest(asOfs []AsOf) (AsOf, bool) {
	first := asOfs[0]
	for _, a := range asOfs {
		if a == (AsOf{}) || a.Epoch != first.Epoch {
			return AsOf{}, false
		}
		if a.Sequence < first.Sequence {
			first = a
		}
	}
	return first, first != (AsOf{})
}

// satisfies reports whether an answer is as fresh as was asked for. Whether a
// place of another epoch was rewound, only the database can tell.
func (a AsOf) satisfies(o ReadOptions) bool {
	return a.Sequence >= o.MinSequence && (o.MinEpoch == 0 || o.MinEpoch == a.Epoch) && o.Continues == Place{}
}
