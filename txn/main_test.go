package txn

import (
	"context"
	"sync"
	"testing"

	"github.com/stockledger/stockledger/txn/localdb/localdbtest"
)

func TestMain(m *testing.M) {
	localdbtest.Main(m, func() {
		for _, db := range []*DB{testShared.db, sharedShard.db} {
			if db != nil {
				db.Close()
			}
		}
	})
}

var testShared struct {
	migrate, open       sync.Once
	db                  *DB
	migrateErr, openErr error
}

// testURL returns the URL of the process's database, migrated. (Package txntest
// has the same for other packages; it can't be used here, since it imports
// this one.)
func testURL(tb testing.TB) string {
	tb.Helper()
	url := localdbtest.Shared(tb).URL
	testShared.migrate.Do(func() { testShared.migrateErr = Migrate(context.Background(), url) })
	if testShared.migrateErr != nil {
		tb.Fatal(testShared.migrateErr)
	}
	return url
}

// testDB returns the process's database. The test must not close it.
func testDB(tb testing.TB) *DB {
	tb.Helper()
	url := testURL(tb)
	testShared.open.Do(func() {
		testShared.db, testShared.openErr = Open(context.Background(), Config{DatabaseURL: url})
	})
	if testShared.openErr != nil {
		tb.Fatal(testShared.openErr)
	}
	return testShared.db
}

// ownDB returns a database that no other test uses, migrated.
func ownDB(t *testing.T) *DB {
	t.Helper()
	url := newDatabaseURL(t)
	if err := Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return openTest(t, Config{DatabaseURL: url})
}

// newClinicID returns a clinic id that nobody has used.
func newClinicID(tb testing.TB) string {
	tb.Helper()
	return localdbtest.NewClinicID(tb)
}
