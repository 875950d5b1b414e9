package txn

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn/localdb"
	"github.com/stockledger/stockledger/txn/localdb/localdbtest"
)

// replicated is a clinic on a primary with a real streaming replica, which is
// asked how far it is only when the test says so, or while it runs.
type replicated struct {
	*testClinic
	q        *Queries
	replicas *Replicas
	one      *replica
	server   *localdb.Server // the replica
}

func newReplicated(t *testing.T, maxLag time.Duration) *replicated {
	t.Helper()
	primary := localdbtest.Private(t)
	if primary.Source != localdb.SourcePostgres {
		t.Skip("CockroachDB reads from its own followers")
	}
	if err := Migrate(t.Context(), primary.URL); err != nil {
		t.Fatal(err)
	}
	server, err := primary.StartReplica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	db := openTest(t, Config{DatabaseURL: primary.URL})
	replicas, err := OpenReplicas(t.Context(), db, ReplicasConfig{URLs: []string{server.URL}, MaxLag: maxLag})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replicas.Close)
	q := NewQueries(NewDirectory(db))
	q.UseReplicas(replicas)
	return &replicated{newTestClinic(t, testExecutorOn(t, db, ExecutorConfig{})), q, replicas, replicas.list[0], server}
}

// run measures until the test ends.
func (r *replicated) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.replicas.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// ask measures once.
func (r *replicated) ask() {
	r.replicas.mark(r.tb.Context())
	r.replicas.probe(r.tb.Context(), r.one)
}

// follows waits until the replica is read again.
func (r *replicated) follows() {
	r.tb.Helper()
	eventually(r.tb, "the replica is read", func() bool {
		r.ask()
		lag, known := r.one.lag(time.Now())
		return known && lag <= r.replicas.cfg.MaxLag
	})
}

func (r *replicated) read(o ReadOptions) (StockOnShelf, AsOf, error) {
	return r.q.Stock(r.tb.Context(), r.id, zincInStore, o)
}

// served counts reads by who served them.
func (r *replicated) served(from, because string) float64 {
	return testutil.ToFloat64(r.replicas.metrics.reads.WithLabelValues(from, because))
}

func (r *replicated) onReplica(sql string) {
	r.tb.Helper()
	conn, err := pgx.Connect(r.tb.Context(), r.server.URL)
	if err != nil {
		r.tb.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(r.tb.Context(), sql); err != nil {
		r.tb.Fatalf("%s: %v", sql, err)
	}
}

var bounded = ReadOptions{Consistency: Bounded, MaxStaleness: time.Minute}

// A replica answers what may be behind, with the sequence that it shows; what it
// lacks, the primary answers; and beyond the bound nobody asks it.
func TestReplicaThatLags(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, time.Minute)
	r.receive(5)
	before := r.head()
	r.follows()
	eventually(t, "the replica shows what there is", func() bool {
		_, asOf, err := r.read(bounded)
		return err == nil && asOf.Sequence == before.Sequence && r.served(r.one.name, "") > 0
	})
	strong := r.served(r.one.name, "")
	if _, _, err := r.read(ReadOptions{}); err != nil || r.served(r.one.name, "") != strong {
		t.Errorf("a strong read went to the replica, or failed: %v", err)
	}

	r.onReplica("SELECT pg_wal_replay_pause()")
	eventually(t, "the replay is paused", func() bool {
		var state string
		err := r.one.db.read.QueryRow(t.Context(), "SELECT pg_get_wal_replay_pause_state()").Scan(&state)
		return err == nil && state == "paused"
	})
	r.receive(7)
	after := r.head()
	for name, test := range map[string]struct {
		o    ReadOptions
		want ledger.Sequence
	}{
		"nothing in particular": {bounded, before.Sequence},
		"what it has":           {ReadOptions{Consistency: Bounded, MaxStaleness: time.Minute, MinSequence: before.Sequence}, before.Sequence},
		"what it lacks":         {ReadOptions{Consistency: Bounded, MaxStaleness: time.Minute, MinSequence: after.Sequence}, after.Sequence},
		"the page after one of the primary": {
			ReadOptions{Consistency: Bounded, MaxStaleness: time.Minute, Continues: Place{after.Epoch, after.Sequence}}, after.Sequence,
		},
		"strong": {ReadOptions{}, after.Sequence},
	} {
		stock, asOf, err := r.read(test.o)
		want, _, noBalance := r.q.BalanceAt(t.Context(), r.id, zincInStore, "L1", test.want, ReadOptions{})
		if err != nil || noBalance != nil || asOf.Sequence != test.want || stock.Totals != want {
			t.Errorf("%s: %+v as of %+v, %v; want %+v as of %d", name, stock.Totals, asOf, err, want, test.want)
		}
	}
	var notReached *SequenceNotReachedError
	if _, _, err := r.read(ReadOptions{Consistency: Bounded, MaxStaleness: time.Minute, MinSequence: after.Sequence + 1}); !errors.As(err, &notReached) {
		t.Errorf("what nobody has: %v", err)
	}

	// Time passes, and the replica has not replayed what was written since.
	r.replicas.cfg.MaxLag = 10 * time.Millisecond
	eventually(t, "the replica is left out", func() bool {
		r.ask()
		return r.replicas.pick(time.Minute) == nil
	})
	if stock, asOf, err := r.read(bounded); err != nil || asOf.Sequence != after.Sequence || stock.Totals.Available != 12 {
		t.Errorf("without the replica: %+v as of %+v, %v", stock.Totals, asOf, err)
	}
	r.replicas.cfg.MaxLag = time.Minute
	if r.replicas.pick(time.Millisecond) != nil {
		t.Error("a caller who wants it fresher gets the replica")
	}
	if n, err := testutil.GatherAndCount(registered(r.replicas), "stockledger_replica_lag_seconds"); err != nil || n != 1 {
		t.Errorf("lags of %d replicas are told: %v", n, err)
	}
	r.onReplica("SELECT pg_wal_replay_resume()")
	served := r.served(r.one.name, "")
	eventually(t, "the replica has caught up and is read", func() bool {
		r.ask()
		_, asOf, err := r.read(bounded)
		return err == nil && asOf.Sequence == after.Sequence && r.served(r.one.name, "") > served
	})

	r.onReplica("SELECT pg_promote()")
	r.ask()
	if _, known := r.one.lag(time.Now()); known {
		t.Error("a server that accepts writes of its own is still read")
	}
	if _, asOf, err := r.read(bounded); err != nil || asOf.Sequence != after.Sequence {
		t.Errorf("after the promotion: as of %+v, %v", asOf, err)
	}
}

func registered(r *Replicas) prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	r.RegisterMetrics(registry)
	return registry
}

// Readers and writers at once, while the replica is killed and comes back: no
// read fails, each shows the truth of its sequence, and the lists of one caller
// never go back.
func TestReadsOfAReplicaAreTheTruthOfTheirSequence(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, 2*time.Second)
	r.run(t)
	r.receive(1000)
	done := make(chan struct{})
	var writers, readers sync.WaitGroup
	for i := range 2 {
		at := &testClinic{tb: t, e: r.e, id: r.id, keys: (i + 1) * 1_000_000}
		random := rand.New(rand.NewPCG(3, uint64(i)))
		writers.Go(func() {
			for range 150 {
				at.must(&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 1 + random.Int64N(5)})
			}
		})
	}
	seen := make([][]sighting, 3)
	for i := range seen {
		readers.Go(func() {
			var last AsOf
			for {
				select {
				case <-done:
					return
				default:
				}
				o := bounded
				o.Continues = Place{last.Epoch, last.Sequence}
				stock, asOf, err := r.q.Stock(context.Background(), r.id, zincInStore, o)
				if err != nil {
					t.Errorf("a read failed: %v", err)
					return
				}
				if asOf.Sequence < last.Sequence {
					t.Errorf("a list went back from %d to %d", last.Sequence, asOf.Sequence)
				}
				last = asOf
				lots := make(map[ledger.LotID]ledger.Balances)
				for _, row := range stock.Rows {
					lots[row.Lot] = row.Balances
				}
				seen[i] = append(seen[i], sighting{shelf: zincInStore, asOf: asOf, lots: lots})
			}
		})
	}
	eventually(t, "the replica is read", func() bool { return r.served(r.one.name, "") > 20 })
	if err := r.server.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica is missed", func() bool { return r.one.current.Load() == 0 })
	writers.Wait()
	if err := r.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := r.served(r.one.name, "")
	eventually(t, "the replica is read again", func() bool { return r.served(r.one.name, "") > again+20 })
	close(done)
	readers.Wait()
	r.checkSightings(seen)
}

// A server that is no replica of the database is refused at the start; one that
// is away is not.
func TestOpenReplicas(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	_, err := OpenReplicas(t.Context(), db, ReplicasConfig{URLs: []string{testURL(t)}})
	if db.server.Kind == CockroachDB {
		if err == nil || !strings.Contains(err.Error(), "PostgreSQL") {
			t.Errorf("replicas of CockroachDB: %v", err)
		}
		return
	}
	if !errors.Is(err, errNotReplica) {
		t.Errorf("the primary as its own replica: %v", err)
	}
	if _, err := OpenReplicas(t.Context(), db, ReplicasConfig{URLs: []string{"postgresql://%"}}); err == nil {
		t.Error("a URL that is none is taken")
	}
	r := newReplicated(t, time.Minute)
	if _, err := OpenReplicas(t.Context(), db, ReplicasConfig{URLs: []string{r.server.URL}}); !errors.Is(err, errNotReplica) {
		t.Errorf("another's replica: %v", err)
	}
	away, err := OpenReplicas(t.Context(), db, ReplicasConfig{URLs: []string{"postgresql://nobody@127.0.0.1:1/x"}})
	if err != nil {
		t.Fatalf("one that is away: %v", err)
	}
	defer away.Close()
	q := NewQueries(NewDirectory(db))
	q.UseReplicas(away)
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	if _, _, err := q.Stock(t.Context(), c.id, zincInStore, bounded); err != nil {
		t.Errorf("a read while the replica is away: %v", err)
	}
}

// A replica that has replayed what the primary has not written follows another
// one, and is not read.
func TestReplicaOfAnotherTimeline(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, time.Minute)
	r.follows()
	r.one.replayed += 1 << 40
	r.ask()
	if _, known := r.one.lag(time.Now()); known {
		t.Error("it is still read")
	}
	r.follows() // who comes back is judged anew
}

// A primary that is slow to say how far it is does not make its replica look
// like another's.
func TestReplicaAheadOfALateMark(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, time.Minute)
	r.follows()
	r.receive(5)
	eventually(t, "the replica is ahead of what is known of the primary", func() bool {
		r.replicas.probe(t.Context(), r.one)
		_, latest := r.replicas.shown(0)
		return r.one.replayed > latest.position
	})
	r.replicas.probe(t.Context(), r.one)
	if _, known := r.one.lag(time.Now()); !known {
		t.Error("it is left out")
	}
}

func TestWALPositions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]walPosition{"0/0": 0, "0/16B3748": 0x16B3748, "16/B374D848": 0x16_B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		if got, err := parseWALPosition(text); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "x/y", "/"} {
		if got, err := parseWALPosition(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
