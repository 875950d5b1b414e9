package txntest_test

import (
	"regexp"
	"testing"

	"github.com/stockledger/stockledger/txn/txntest"
)

func TestMain(m *testing.M) { txntest.Main(m) }

func TestOpenGivesAMigratedDatabase(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	current, wanted, err := db.SchemaVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if current < wanted || wanted == 0 {
		t.Errorf("schema version %d, want %d", current, wanted)
	}
	if again := txntest.Open(t); again != db {
		t.Error("the database is not shared")
	}
}

func TestNewClinicIDIsAClinicID(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	first, second := txntest.NewClinicID(t), txntest.NewClinicID(t)
	if !valid.MatchString(first) || first == second {
		t.Errorf("got %q and %q", first, second)
	}
}
