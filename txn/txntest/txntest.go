// Package txntest gives other packages' tests a migrated database: one server
// for each test process, or the database that STOCKLEDGER_DATABASE_URL names.
// Tests share it and are kept apart by their clinics; none may look at what it
// did not make.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { txntest.Main(m) }
package txntest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/localdb"
	"github.com/stockledger/stockledger/txn/localdb/localdbtest"
)

// migrateTimeout is long since a schema change on a CockroachDB cluster can
// take seconds, and there are many.
const migrateTimeout = 5 * time.Minute

var (
	migrated struct {
		once sync.Once
		err  error
	}
	opened struct {
		once sync.Once
		db   *txn.DB
		err  error
	}
)

// Main runs the package's tests and stops the database after them. It does not
// return.
func Main(m *testing.M) {
	localdbtest.Main(m, func() {
		if opened.db != nil {
			opened.db.Close()
		}
	})
}

// URL returns the URL of the shared, migrated database.
func URL(tb testing.TB) string {
	tb.Helper()
	url := localdbtest.Shared(tb).URL
	migrated.once.Do(func() { migrated.err = migrate(url) })
	if migrated.err != nil {
		tb.Fatal(migrated.err)
	}
	return url
}

// Open returns the shared database. The test must not close it.
func Open(tb testing.TB) *txn.DB {
	tb.Helper()
	url := URL(tb)
	opened.once.Do(func() {
		opened.db, opened.err = txn.Open(context.Background(), txn.Config{DatabaseURL: url})
	})
	if opened.err != nil {
		tb.Fatal(opened.err)
	}
	return opened.db
}

// PrivateServer starts a server with a migrated database for one test alone,
// which may kill and restart it. The test is skipped where the server is not
// ours to kill.
func PrivateServer(tb testing.TB) *localdb.Server {
	tb.Helper()
	server := localdbtest.Private(tb)
	if err := migrate(server.URL); err != nil {
		tb.Fatal(err)
	}
	return server
}

// NewClinicID returns a clinic id that nobody has used.
func NewClinicID(tb testing.TB) string {
	tb.Helper()
	return localdbtest.NewClinicID(tb)
}

func migrate(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), migrateTimeout)
	defer cancel()
	return txn.Migrate(ctx, url)
}
