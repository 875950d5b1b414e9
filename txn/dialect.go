package txn

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Everything that only one of the two servers has is in this file.

// ServerKind is one of the two servers that we speak to.
type ServerKind string

// The servers.
const (
	PostgreSQL  ServerKind = "PostgreSQL"
	CockroachDB ServerKind = "CockroachDB"
)

// Server is what the database said that it is.
type Server struct {
	Kind ServerKind
	// Version is the server's own sentence about itself.
	Version string
}

func detectServer(ctx context.Context, conn *pgx.Conn) (Server, error) {
	var version string
	if err := conn.QueryRow(ctx, "SELECT version()").Scan(&version); err != nil {
		return Server{}, fmt.Errorf("txn: ask the server's version: %w", statementError(err))
	}
	kind := PostgreSQL
	if strings.HasPrefix(version, "CockroachDB") {
		kind = CockroachDB
	}
	return Server{Kind: kind, Version: version}, nil
}

// session is what a connection is for.
type session int

const (
	writeSession session = iota
	readSession
	replicaSession // of a PostgreSQL standby, which does not do SERIALIZABLE
)

// sessionSettings returns the statements that a new connection begins with.
//
// On PostgreSQL a SERIALIZABLE transaction locks what its plans touch. A plan
// that scans or hashes a table, or reads it through a bitmap, locks all of it,
// and every group of commands would then conflict with every other; so hot
// statements must run as index look-ups. Reading a small table by scanning it
// would abort writers in the same way.
func sessionSettings(server ServerKind, kind session, cfg Config) string {
	// A bare integer is milliseconds on both servers; CockroachDB 21.1 refuses
	// some of the other spellings.
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	settings := []string{"SET statement_timeout = " + milliseconds(cfg.StatementTimeout)}
	if kind == writeSession {
		settings = append(settings, "SET idle_in_transaction_session_timeout = "+milliseconds(cfg.IdleTimeout))
	} else {
		settings = append(settings, "SET default_transaction_read_only = on")
	}
	if server == PostgreSQL {
		isolation := "serializable"
		if kind == replicaSession {
			isolation = "repeatable read"
		}
		settings = append(settings,
			"SET default_transaction_isolation = '"+isolation+"'",
			"SET enable_seqscan = off")
		if kind == writeSession {
			settings = append(settings,
				"SET enable_hashjoin = off",
				"SET enable_mergejoin = off",
				"SET enable_bitmapscan = off")
		}
	}
	return strings.Join(settings, "; ")
}

// What PostgreSQL needs so that the predicate locks of large concurrent groups
// are not merged into locks on whole tables.
const (
	minPredLocksPerTransaction = 2048
	minPredLocksPerPage        = 256
)

var predicateLocksRemedy = fmt.Sprintf(
	"set max_pred_locks_per_transaction = %d and max_pred_locks_per_page = %d in postgresql.conf and restart PostgreSQL",
	minPredLocksPerTransaction, minPredLocksPerPage)

func predicateLocksTuned(ctx context.Context, conn *pgx.Conn, server Server) (bool, error) {
	if server.Kind != PostgreSQL {
		return true, nil
	}
	var perTransaction, perPage int
	err := conn.QueryRow(ctx, `
		SELECT current_setting('max_pred_locks_per_transaction')::int,
		       current_setting('max_pred_locks_per_page')::int`).Scan(&perTransaction, &perPage)
	if err != nil {
		return false, fmt.Errorf("txn: read the predicate locks' settings: %w", statementError(err))
	}
	return perTransaction >= minPredLocksPerTransaction && perPage >= minPredLocksPerPage, nil
}

// insertSQL returns a statement that inserts many rows from one array for each
// column, in the columns' order. types are the elements' types. The select list
// is the one place where both servers type such arrays right.
func insertSQL(table string, columns, types []string) string {
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") SELECT " + unnestList(types)
}

// upsertSQL returns a statement that writes many rows from one array for each
// column, replacing the rows whose key exists. columns must be all columns of
// the table.
//
// CockroachDB reads a whole table for ON CONFLICT DO UPDATE over many rows;
// its UPSERT of all columns writes without reading. PostgreSQL has only the
// former, and looks each key up in its index.
func upsertSQL(server ServerKind, table string, columns, types, key []string) string {
	if server == CockroachDB {
		return "UPSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") SELECT " + unnestList(types)
	}
	inKey := make(map[string]bool, len(key))
	for _, column := range key {
		inKey[column] = true
	}
	var sets []string
	for _, column := range columns {
		if !inKey[column] {
			sets = append(sets, column+" = excluded."+column)
		}
	}
	action := "NOTHING"
	if len(sets) > 0 {
		action = "UPDATE SET " + strings.Join(sets, ", ")
	}
	return insertSQL(table, columns, types) + " ON CONFLICT (" + strings.Join(key, ", ") + ") DO " + action
}

// staleHeads makes the statement fail in which it is selected, with its words in
// the server's error.
const staleHeads = `CAST('heads that are as they should be: ' || CAST(count(*) AS TEXT) AS INT8)`

// nextHeadsSQL returns the statement that moves the heads of journals that go
// on. It fails, and with it the transaction, where a head is missing, in another
// epoch than the one written, or not the one that the writer went on from: a
// hash stands for all of the journal before it. So whatever a node has in
// memory, it cannot go on with what a restore has taken back.
//
// On PostgreSQL the upsert looks at the row that it finds anyway; reading the
// heads apart from that would lock pages of their index against other groups.
// Its parameters are an array for each of the heads' columns, that of the hashes
// with the hash before behind each one, and how many heads there are. A row that
// was there bears this transaction in xmax; one that was inserted bears none.
//
// On CockroachDB an upsert that is fast does not look, so nextHeadsGuard does,
// before it.
func nextHeadsSQL(server ServerKind) string {
	if server == CockroachDB {
		return headsTable.upsert(server)
	}
	names, types := headsTable.names()
	return "WITH moved AS (" + insertSQL(headsTable.name, names, types) + ` ON CONFLICT (clinic_id) DO UPDATE
		SET sequence = excluded.sequence, hash = substr(excluded.hash, 1, 32), recorded_at = excluded.recorded_at
		WHERE heads.epoch = excluded.epoch AND heads.hash = substr(excluded.hash, 33)
		RETURNING xmax <> 0 AS was_there) SELECT ` + staleHeads + ` FROM moved WHERE was_there HAVING count(*) <> $6::int8`
}

// nextHeadsGuard fails unless so many clinics' heads are in the epochs and have
// the hashes given, one array for each of the three.
var nextHeadsGuard = "SELECT " + staleHeads + " FROM " +
	keySource(CockroachDB, []string{"clinic_id", "epoch", "hash"}, []string{"text", "int8", "bytea"}) + " " +
	lookUpJoin(CockroachDB, "heads", "t", "k", []string{"clinic_id"}, []string{"epoch", "hash"}) +
	" WHERE t.epoch = k.epoch AND t.hash = k.hash HAVING count(*) <> $4::INT8"

// queueNextHeads moves the heads of journals that go on.
func queueNextHeads(b *pgx.Batch, sql statements, r *nextHeadRows) {
	if len(r.clinic) == 0 {
		return
	}
	if sql.server == CockroachDB {
		b.Queue(nextHeadsGuard, r.clinic, r.epoch, r.before, len(r.clinic))
		b.Queue(sql.nextHeads, r.columns()...)
		return
	}
	hashes := make([][]byte, len(r.hash))
	for i := range hashes {
		hashes[i] = slices.Concat(r.hash[i], r.before[i])
	}
	b.Queue(sql.nextHeads, r.clinic, r.epoch, r.sequence, hashes, r.at, len(r.clinic))
}

func unnestList(types []string) string {
	items := make([]string, len(types))
	for i, elem := range types {
		items[i] = fmt.Sprintf("unnest($%d::%s[])", i+1, elem)
	}
	return strings.Join(items, ", ")
}

// selectByKeysSQL returns a statement that reads the rows of a table whose key,
// or prefix of a key, is in a list given as one array for each of its columns.
// A key that is listed twice yields its rows twice. suffix is appended, for
// example " ORDER BY …"; the table is called t in it, and the keys k.
func selectByKeysSQL(server ServerKind, table string, columns, key, types []string, suffix string) string {
	selected := make([]string, len(columns))
	for i, column := range columns {
		selected[i] = "t." + column
	}
	return "SELECT " + strings.Join(selected, ", ") + " FROM " + keySource(server, key, types) + " " +
		lookUpJoin(server, table, "t", "k", key, columns) + suffix
}

// keySource returns a FROM item, called k, with a row for each element of the
// parameters $1, $2, … .
//
// CockroachDB takes an array parameter that is cast inside FROM for a text;
// only its own spelling of a type annotation (:::) says otherwise.
func keySource(server ServerKind, key, types []string) string {
	items := make([]string, len(key))
	if server == CockroachDB {
		for i, column := range key {
			items[i] = fmt.Sprintf("unnest($%d:::%s[]) AS %s", i+1, types[i], column)
		}
		return "(SELECT " + strings.Join(items, ", ") + ") AS k"
	}
	for i := range key {
		items[i] = fmt.Sprintf("$%d::%s[]", i+1, types[i])
	}
	return "unnest(" + strings.Join(items, ", ") + ") AS k(" + strings.Join(key, ", ") + ")"
}

// keyJoin returns the join from a list of keys to a table that looks each key
// up in the table's index. CockroachDB prefers to scan the table unless told.
func keyJoin(server ServerKind) string {
	if server == CockroachDB {
		return "INNER LOOKUP JOIN"
	}
	return "JOIN"
}

// lookUpJoin joins each row so far, called of, with the one row of a table that
// has its key, called alias. Only the listed columns of the table can be used.
//
// PostgreSQL, while it has no statistics about a table, thinks that a clinic
// has a handful of rows in it: it would read all of them and compare each with
// each row so far. OFFSET 0 keeps it from seeing through the subquery, so that
// a look-up for each row is the only plan.
func lookUpJoin(server ServerKind, table, alias, of string, key, columns []string) string {
	on := make([]string, len(key))
	if server == CockroachDB {
		for i, column := range key {
			on[i] = alias + "." + column + " = " + of + "." + column
		}
		return keyJoin(server) + " " + table + " AS " + alias + " ON " + strings.Join(on, " AND ")
	}
	for i, column := range key {
		on[i] = table + "." + column + " = " + of + "." + column
	}
	return "JOIN LATERAL (SELECT " + strings.Join(columns, ", ") + " FROM " + table +
		" WHERE " + strings.Join(on, " AND ") + " OFFSET 0) AS " + alias + " ON true"
}

// tableAtIndex names a table in a join that looks keys up in one of its
// indexes. CockroachDB would otherwise guess which; PostgreSQL knows.
func tableAtIndex(server ServerKind, table, index string) string {
	if server == CockroachDB {
		return table + "@" + index
	}
	return table
}

// queueChanged writes rows that exist, of a table with a second index.
// CockroachDB reads such a table whole to upsert many rows into it, so there
// they are deleted by their keys, which the statement spells out, and inserted
// again.
func queueChanged(b *pgx.Batch, server ServerKind, t table, rows int, keyOf func(row int) []any, columns func() []any) {
	if rows == 0 {
		return
	}
	if server != CockroachDB {
		b.Queue(t.upsert(server), columns()...)
		return
	}
	const most = 128
	for from := 0; from < rows; from += most {
		to := min(rows, from+most)
		// The number of keys is rounded up to a power of two, by repeating the
		// last one, so that there are few different statements.
		size := 1
		for size < to-from {
			size *= 2
		}
		var keys []any
		for i := range size {
			keys = append(keys, keyOf(min(from+i, to-1))...)
		}
		b.Queue(deleteByKeysSQL(t, size), keys...)
	}
	b.Queue(t.insert(), columns()...)
}

func deleteByKeysSQL(t table, keys int) string {
	tuples := make([]string, keys)
	n := 0
	for i := range tuples {
		marks := make([]string, len(t.key))
		for j := range marks {
			n++
			marks[j] = fmt.Sprintf("$%d", n)
		}
		tuples[i] = "(" + strings.Join(marks, ", ") + ")"
	}
	return "DELETE FROM " + t.name + " WHERE (" + strings.Join(t.key, ", ") + ") IN (" + strings.Join(tuples, ", ") + ")"
}

// followerLag is how far behind CockroachDB's followers are served from: reads
// at an older time need not go to the leaseholder.
const followerLag = 4800 * time.Millisecond

// followerReadSQL returns the statement that makes a read-only transaction read
// from a follower, or "" where there is none, or none fresh enough. PostgreSQL's
// primary satisfies every staleness.
func followerReadSQL(server ServerKind, maxStaleness time.Duration) string {
	if server != CockroachDB || maxStaleness < followerLag {
		return ""
	}
	return "SET TRANSACTION AS OF SYSTEM TIME '-4.8s'"
}

// walPosition is a position in PostgreSQL's write-ahead log.
type walPosition uint64

func parseWALPosition(text string) (walPosition, error) {
	var high, low uint32
	if _, err := fmt.Sscanf(text, "%X/%X", &high, &low); err != nil {
		return 0, fmt.Errorf("position %q in the log: %w", text, err)
	}
	return walPosition(high)<<32 | walPosition(low), nil
}

// primaryPosition is how far a primary has written its log: at least as far as
// every commit that it has acknowledged.
func primaryPosition(ctx context.Context, pool *pgxpool.Pool) (walPosition, error) {
	var text string
	if err := pool.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&text); err != nil {
		return 0, err
	}
	return parseWALPosition(text)
}

// replicaPosition is how far a standby has replayed the log: what comes before,
// its queries see.
func replicaPosition(ctx context.Context, pool *pgxpool.Pool) (standby bool, replayed walPosition, err error) {
	var text string
	err = pool.QueryRow(ctx, "SELECT pg_is_in_recovery(), COALESCE(pg_last_wal_replay_lsn(), '0/0')::text").Scan(&standby, &text)
	if err != nil {
		return false, 0, err
	}
	replayed, err = parseWALPosition(text)
	return standby, replayed, err
}

// systemIdentifier names the database system that a server is part of. Who may
// not ask gets none, which is the same everywhere.
func systemIdentifier(ctx context.Context, pool *pgxpool.Pool) (string, error) {
	var id string
	err := pool.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&id)
	if pg, ok := pgError(err); ok && pg.Code == codeInsufficientPrivilege {
		return "", nil
	}
	return id, err
}

// roomyTables are those whose rows are written again and again, many at once.
// With room left on their pages, PostgreSQL puts a row's next version beside it
// and leaves their indexes alone; else every version costs an entry in each
// index, and the tables grow.
var roomyTables = []string{headsTable.name, stockTable.name, summaryTable.name, cursorsTable.name}

const roomyFillFactor = "fillfactor=45"

// leaveRoom sets how full pages are filled, for what is written from now on.
// CockroachDB has no pages.
func leaveRoom(ctx context.Context, db *sql.DB) error {
	var version string
	if err := db.QueryRowContext(ctx, "SELECT version()").Scan(&version); err != nil || strings.HasPrefix(version, "CockroachDB") {
		return err
	}
	for _, table := range roomyTables {
		var options sql.NullString
		err := db.QueryRowContext(ctx, "SELECT array_to_string(reloptions, ',') FROM pg_class WHERE oid = $1::regclass", table).Scan(&options)
		if err != nil {
			return err
		}
		// Whatever an operator has chosen stays.
		if strings.Contains(options.String, "fillfactor=") {
			continue
		}
		if _, err := db.ExecContext(ctx, "ALTER TABLE "+table+" SET ("+roomyFillFactor+")"); err != nil {
			return err
		}
	}
	return nil
}

// lostTurn says that a transaction failed because it waited for a clinic's head:
// PostgreSQL refuses it once the row has changed. It has to come back at once,
// since the other one does not pause and would keep the clinic. CockroachDB queues
// for locked rows: what fails there is better left alone for a while.
func lostTurn(server ServerKind, err error) bool {
	pg, ok := pgError(err)
	return server == PostgreSQL && ok && pg.Code == codeSerializationFailure && errors.Is(err, errNoTurn)
}
