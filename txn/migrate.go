package txn

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"

	"github.com/stockledger/stockledger/migrations"
)

const (
	versionTable = "schema_migrations"
	lockTable    = "schema_lock"
)

// The lock on migrating. A node that dies while it migrates holds the others up
// for the lease; a schema change on a large CockroachDB cluster takes seconds,
// so waiting may take minutes.
const (
	lockLease     = 15 * time.Second
	lockHeartbeat = 3 * time.Second
	lockPoll      = 250 * time.Millisecond
	lockWait      = 10 * time.Minute
)

// Migrate brings the database's schema up to what this binary needs. Any number
// of nodes may call it at once: one of them does the work and the others wait.
// It does nothing to a schema that is current or newer.
func Migrate(ctx context.Context, databaseURL string) error {
	provider, closeAll, err := migrator(databaseURL)
	if err != nil {
		return err
	}
	defer closeAll()
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("txn: migrate: %w", statementError(err))
	}
	db, err := openSQL(databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := leaveRoom(ctx, db); err != nil {
		return fmt.Errorf("txn: settings of tables: %w", statementError(err))
	}
	return nil
}

// MigrationState is one migration that this binary knows.
type MigrationState struct {
	Version int64
	// Name is the name of its file.
	Name string
	// AppliedAt is zero if the migration is still to be applied.
	AppliedAt time.Time
}

// MigrationStatus lists all migrations in order. It changes nothing.
func MigrationStatus(ctx context.Context, databaseURL string) ([]MigrationState, error) {
	provider, closeAll, err := migrator(databaseURL)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	db, err := openSQL(databaseURL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	applied, err := appliedAt(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("txn: migration status: %w", statementError(err))
	}
	var states []MigrationState
	for _, source := range provider.ListSources() {
		states = append(states, MigrationState{
			Version:   source.Version,
			Name:      path.Base(source.Path),
			AppliedAt: applied[source.Version],
		})
	}
	return states, nil
}

// SchemaVersion returns the version of the database's schema, 0 for an empty
// database, and the version that this binary needs. A node is ready when the
// former is at least the latter.
func (db *DB) SchemaVersion(ctx context.Context) (current, wanted int64, err error) {
	return schemaVersion(ctx, db.read)
}

func schemaVersion(ctx context.Context, db rowQuerier) (current, wanted int64, err error) {
	wanted, err = wantedVersion()
	if err != nil {
		return 0, 0, err
	}
	err = db.QueryRow(ctx, "SELECT COALESCE(max(version), 0) FROM "+versionTable).Scan(&current)
	if pg, ok := pgError(err); ok && pg.Code == codeUndefinedTable {
		return 0, wanted, nil
	}
	if err != nil {
		return 0, wanted, fmt.Errorf("txn: schema version: %w", statementError(err))
	}
	return current, wanted, nil
}

func wantedVersion() (int64, error) {
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return 0, fmt.Errorf("txn: list migrations: %w", err)
	}
	var wanted int64
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return 0, fmt.Errorf("txn: migration %s: %w", file, err)
		}
		wanted = max(wanted, version)
	}
	return wanted, nil
}

func migrator(databaseURL string) (*goose.Provider, func(), error) {
	db, err := openSQL(databaseURL)
	if err != nil {
		return nil, nil, err
	}
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableName(lockTable),
		lock.WithTableLeaseDuration(lockLease),
		lock.WithTableHeartbeatInterval(lockHeartbeat),
		lock.WithTableLockTimeout(lockPoll, uint64(lockWait/lockPoll)),
		lock.WithTableUnlockTimeout(lockPoll, 20),
		lock.WithTableRetryPolicy(func(err error) bool { return !isUnavailable(err) }),
	)
	if err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("txn: migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db, migrations.FS,
		goose.WithStore(versionStore{}),
		goose.WithLocker(locker),
		// CockroachDB's schema changes are asynchronous: no transaction may
		// contain one together with anything else.
		goose.WithIsolateDDL(true),
		goose.WithDisableGlobalRegistry(true),
	)
	if err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("txn: read migrations: %w", err)
	}
	return provider, func() { _ = db.Close() }, nil
}

func openSQL(databaseURL string) (*sql.DB, error) {
	cfg := Config{DatabaseURL: databaseURL}.withDefaults()
	conn, err := connConfig(cfg)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*conn)
	// The migration's connection, the lock's, and its heartbeat's.
	db.SetMaxOpenConns(3)
	return db, nil
}

// versionStore keeps the applied migrations in a table of ours: goose's own
// needs an identity column, which CockroachDB 21.1 does not have. Every method
// may be repeated without harm.
type versionStore struct{}

var _ database.StoreExtender = versionStore{}

func (versionStore) Tablename() string { return versionTable }

func (versionStore) CreateVersionTable(ctx context.Context, db database.DBTxConn) error {
	_, err := db.ExecContext(ctx, `
		CREATE TABLE IF NOT EXISTS `+versionTable+` (
			version    INT8        NOT NULL,
			applied_at TIMESTAMPTZ NOT NULL,
			CONSTRAINT `+versionTable+`_pkey PRIMARY KEY (version)
		)`)
	if pg, ok := pgError(err); ok && (pg.Code == codeUniqueViolation || pg.Code == codeDuplicateTable) {
		// Another node created it in the same moment, which PostgreSQL does
		// not take for "exists".
		return nil
	}
	return err
}

func (versionStore) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	_, err := db.ExecContext(ctx, `
		INSERT INTO `+versionTable+` (version, applied_at) VALUES ($1, now())
		ON CONFLICT (version) DO NOTHING`, req.Version)
	return err
}

func (versionStore) Delete(ctx context.Context, db database.DBTxConn, version int64) error {
	_, err := db.ExecContext(ctx, `DELETE FROM `+versionTable+` WHERE version = $1`, version)
	return err
}

func (versionStore) GetMigration(
	ctx context.Context, db database.DBTxConn, version int64,
) (*database.GetMigrationResult, error) {
	result := &database.GetMigrationResult{IsApplied: true}
	err := db.QueryRowContext(ctx, `SELECT applied_at FROM `+versionTable+` WHERE version = $1`, version).
		Scan(&result.Timestamp)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %d", database.ErrVersionNotFound, version)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

func (versionStore) GetLatestVersion(ctx context.Context, db database.DBTxConn) (int64, error) {
	var version sql.NullInt64
	err := db.QueryRowContext(ctx, `SELECT max(version) FROM `+versionTable).Scan(&version)
	if err != nil {
		return 0, err
	}
	if !version.Valid {
		return 0, database.ErrVersionNotFound
	}
	return version.Int64, nil
}

func (versionStore) ListMigrations(
	ctx context.Context, db database.DBTxConn,
) (results []*database.ListMigrationsResult, err error) {
	rows, err := db.QueryContext(ctx, `SELECT version FROM `+versionTable+` ORDER BY version DESC`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		result := &database.ListMigrationsResult{IsApplied: true}
		if err := rows.Scan(&result.Version); err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	return results, rows.Err()
}

// TableExists also wants the first row, which goose inserts after creating the
// table: a node may have died between the two.
func (s versionStore) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	exists, err := versionTableExists(ctx, db)
	if err != nil || !exists {
		return false, err
	}
	_, err = s.GetMigration(ctx, db, 0)
	if errors.Is(err, database.ErrVersionNotFound) {
		return false, nil
	}
	return err == nil, err
}

func versionTableExists(ctx context.Context, db database.DBTxConn) (exists bool, err error) {
	err = db.QueryRowContext(ctx, `
		SELECT count(*) > 0 FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_name = '`+versionTable+`'`).Scan(&exists)
	return exists, err
}

func appliedAt(ctx context.Context, db *sql.DB) (map[int64]time.Time, error) {
	exists, err := versionTableExists(ctx, db)
	if err != nil || !exists {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, `SELECT version, applied_at FROM `+versionTable)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	applied := make(map[int64]time.Time)
	for rows.Next() {
		var version int64
		var at time.Time
		if err := rows.Scan(&version, &at); err != nil {
			return nil, err
		}
		applied[version] = at
	}
	return applied, rows.Err()
}
