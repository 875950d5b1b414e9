package txn

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/txn/localdb/localdbtest"
	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
)

// openTest opens a database of the test's own.
func openTest(t *testing.T, cfg Config) *DB {
	t.Helper()
	db, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// deadHost returns an address at which nobody listens.
func deadHost(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Config{MaxWriteConns: -1, Backoff: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"DatabaseURL is missing", "MaxWriteConns", "Backoff"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not mentioned: %v", want, err)
		}
	}
	_, err = Open(t.Context(), Config{DatabaseURL: "postgresql://user:hunter2@:no:port/x"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a broken URL: %v", err)
	}
}

func TestOpenFailsFastWithoutADatabase(t *testing.T) {
	t.Parallel()
	start := time.Now()
	_, err := Open(t.Context(), Config{DatabaseURL: "postgresql://u@" + deadHost(t) + "/x?sslmode=disable"})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestServerIsKnown(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	server := db.Server()
	if !strings.HasPrefix(server.Version, string(server.Kind)) {
		t.Errorf("%+v", server)
	}
	if localdbtest.Shared(t).Owned && !db.PredicateLocksTuned() {
		t.Error("a server that we start has room for predicate locks")
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestReadConnectionsCannotWrite(t *testing.T) {
	t.Parallel()
	db, clinic := testDB(t), newClinicID(t)
	const insert = "INSERT INTO clinic_directory (clinic_id, shard_id, created_at) VALUES ($1, 'x', now())"
	if _, err := db.read.Exec(t.Context(), insert, clinic); err == nil {
		t.Error("a connection for reading wrote")
	}
	err := db.readTx(t.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), insert, clinic)
		return err
	})
	if err == nil {
		t.Error("a transaction for reading wrote")
	}
}

func TestSeveralHostsOneOfThemDead(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(testURL(t))
	if err != nil {
		t.Fatal(err)
	}
	target.Host = deadHost(t) + "," + target.Host
	db := openTest(t, Config{DatabaseURL: target.String()})
	if err := readOne(t, db); err != nil {
		t.Error(err)
	}
}

func TestShuffleHostsKeepsHostsWhole(t *testing.T) {
	t.Parallel()
	cfg, err := pgx.ParseConfig("postgresql://u@a:1,b:2,c:3/x?sslmode=prefer")
	if err != nil {
		t.Fatal(err)
	}
	firsts := make(map[string]bool)
	for range 200 {
		conn := cfg.Copy()
		shuffleHosts(conn)
		firsts[conn.Host] = true
		hosts, tls := []string{conn.Host}, []bool{conn.TLSConfig != nil}
		for _, fallback := range conn.Fallbacks {
			hosts, tls = append(hosts, fallback.Host), append(tls, fallback.TLSConfig != nil)
		}
		for i := 0; i < len(hosts); i += 2 {
			if hosts[i] != hosts[i+1] || !tls[i] || tls[i+1] {
				t.Fatalf("hosts %v, TLS %v", hosts, tls)
			}
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(hosts))); len(unique) != 3 {
			t.Fatalf("hosts %v", hosts)
		}
	}
	if len(firsts) != 3 {
		t.Errorf("connections start only with %v", firsts)
	}
}

func readOne(t *testing.T, db *DB) error {
	t.Helper()
	return db.readTx(t.Context(), func(tx pgx.Tx) error {
		var one int
		return tx.QueryRow(t.Context(), "SELECT 1").Scan(&one)
	})
}

func TestDatabaseAwayAndBack(t *testing.T) {
	t.Parallel()
	proxy := faultproxy.New(t, testURL(t))
	db := openTest(t, Config{DatabaseURL: proxy.URL(), MaxReadConns: 8})
	// Several connections, so that all of them are stale afterwards.
	for range 3 {
		var conns []interface{ Release() }
		for range 8 {
			conn, err := db.read.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			conn.Release()
		}

		proxy.Down()
		start := time.Now()
		if err := readOne(t, db); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		if err := db.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("ping: got %v, want ErrUnavailable", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v to find out", took)
		}

		proxy.Up(t)
		if err := readOne(t, db); err != nil {
			t.Errorf("after its return: %v", err)
		}
	}
}
