package txn

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// newDatabaseURL makes an empty database on the tests' server.
func newDatabaseURL(t *testing.T) string {
	t.Helper()
	base := testURL(t)
	name := strings.ReplaceAll(newClinicID(t), "-", "_")
	admin := func(statement string) {
		ctx := context.WithoutCancel(t.Context())
		conn, err := pgx.Connect(ctx, base)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(ctx) }()
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	admin("CREATE DATABASE " + name)
	t.Cleanup(func() { admin("DROP DATABASE " + name) })
	return databaseURL(t, base, name)
}

// databaseURL is the URL of another database of a server.
func databaseURL(t *testing.T, base, name string) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	target.Path = "/" + name
	return target.String()
}

func TestMigrateByTenNodesAtOnce(t *testing.T) {
	t.Parallel()
	url := newDatabaseURL(t)
	states, err := MigrationStatus(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range states {
		if !state.AppliedAt.IsZero() {
			t.Errorf("%s is applied in an empty database", state.Name)
		}
	}

	nodes, ctx := errgroup.WithContext(t.Context())
	for range 10 {
		nodes.Go(func() error { return Migrate(ctx, url) })
	}
	if err := nodes.Wait(); err != nil {
		t.Fatal(err)
	}

	db := openTest(t, Config{DatabaseURL: url})
	current, wanted, err := db.SchemaVersion(t.Context())
	if err != nil || current != wanted || wanted != states[len(states)-1].Version {
		t.Errorf("schema version %d of %d (%d migrations), error %v", current, wanted, len(states), err)
	}
	if states, err = MigrationStatus(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	for _, state := range states {
		if state.AppliedAt.IsZero() {
			t.Errorf("%s is not applied", state.Name)
		}
	}
	if err := Migrate(t.Context(), url); err != nil {
		t.Errorf("migrating again: %v", err)
	}
}

func TestSchemaVersionOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: newDatabaseURL(t)})
	current, wanted, err := db.SchemaVersion(t.Context())
	if err != nil || current != 0 || wanted == 0 {
		t.Errorf("schema version %d of %d, error %v", current, wanted, err)
	}
}

func TestMigrateFinishesWhatADeadNodeBegan(t *testing.T) {
	t.Parallel()
	url := newDatabaseURL(t)
	db := openTest(t, Config{DatabaseURL: url})
	// It died after the version table was made, and after a table was.
	for _, statement := range []string{
		"CREATE TABLE schema_migrations (version INT8 PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL)",
		"CREATE TABLE clinic_directory (clinic_id TEXT PRIMARY KEY, shard_id TEXT, created_at TIMESTAMPTZ)",
	} {
		if _, err := db.write.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	current, wanted, err := db.SchemaVersion(t.Context())
	if err != nil || current != wanted {
		t.Errorf("schema version %d of %d, error %v", current, wanted, err)
	}
}

func TestMigrateWithoutADatabase(t *testing.T) {
	t.Parallel()
	err := Migrate(t.Context(), "postgresql://nobody@127.0.0.1:1/none?sslmode=disable")
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}
