// Package migrations holds the database's schema as numbered SQL files, embedded
// in the binary.
//
// Each file holds one statement, outside a transaction, in the SQL that
// CockroachDB 21.1 and PostgreSQL 15 share: on CockroachDB a schema change is
// asynchronous and cannot be rolled back, so a file either happened or did not,
// and running it twice must be harmless (IF NOT EXISTS). A file that was
// released is never edited; there are no down migrations, since nothing in the
// journal may be deleted.
//
// Applying the files is package txn's business, not this one's.
package migrations

import "embed"

// FS holds the migration files at its root.
//
//go:embed *.sql
var FS embed.FS
