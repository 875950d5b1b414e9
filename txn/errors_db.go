package txn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of the door. Both wrap their cause.
var (
	// ErrAmbiguous means that the outcome of a transaction is unknown: COMMIT
	// was sent, and what came back was not a clear answer. It must be looked
	// up, never repeated blindly and never taken for a failure.
	ErrAmbiguous = errors.New("txn: the outcome of the transaction is unknown")

	// ErrUnavailable means that the database was away, refused connections,
	// stalled, or was too contended for the attempts allowed. Nothing was
	// committed.
	ErrUnavailable = errors.New("txn: the database is unavailable")
)

func ambiguous(err error) error {
	if errors.Is(err, ErrAmbiguous) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrAmbiguous, err)
}

func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// The SQLSTATEs that we know by name.
const (
	codeSerializationFailure  = "40001"
	codeAmbiguousResult       = "40003"
	codeDeadlock              = "40P01"
	codeCockroachRetry        = "CR000" // the former spelling of 40001
	codeUniqueViolation       = "23505"
	codeInsufficientPrivilege = "42501"
	codeNoSuchDatabase        = "3D000"
	codeUndefinedTable        = "42P01"
	codeDuplicateTable        = "42P07"
	codeReadOnlyTransaction   = "25006" // a standby, after a failover
	codeIdleInTransaction     = "25P03" // idle_in_transaction_session_timeout
	codeDiskFull              = "53100"
	codeTooManyConnections    = "53300"
	codeQueryCanceled         = "57014" // statement_timeout
	codeRangeUnavailable      = "58C00" // CockroachDB
	codeNodeUnreachable       = "58C01" // CockroachDB
)

func pgError(err error) (*pgconn.PgError, bool) {
	var pg *pgconn.PgError
	ok := errors.As(err, &pg)
	return pg, ok
}

// isAmbiguous says that the outcome is unknown.
func isAmbiguous(err error) bool {
	if errors.Is(err, ErrAmbiguous) {
		return true
	}
	pg, ok := pgError(err)
	return ok && pg.Code == codeAmbiguousResult
}

// isRetryable says that the transaction was certainly not committed, because of
// another transaction or because it idled, and may succeed if all of it is done
// again. It still holds for the error that ends the last attempt.
func isRetryable(err error) bool {
	if isAmbiguous(err) {
		return false
	}
	pg, ok := pgError(err)
	if !ok {
		return false
	}
	switch pg.Code {
	case codeSerializationFailure, codeDeadlock, codeCockroachRetry, codeIdleInTransaction:
		return true
	}
	return false
}

// isUnavailable says that the database could not do the work now, whatever the
// work. Nothing was committed.
func isUnavailable(err error) bool {
	if err == nil || isAmbiguous(err) {
		return false
	}
	if errors.Is(err, ErrUnavailable) {
		return true
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return true
	}
	pg, ok := pgError(err)
	return ok && unavailableCode(pg.Code)
}

func unavailableCode(code string) bool {
	switch code {
	case codeReadOnlyTransaction, codeDiskFull, codeTooManyConnections, codeQueryCanceled,
		codeRangeUnavailable, codeNodeUnreachable:
		return true
	}
	// 08: connection exceptions; 57P: the server starts, stops or was told to
	// end the session.
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P")
}

// uniqueViolation returns the name of the constraint that refused a duplicate.
// CockroachDB does not name the table, so constraints' names are unique.
func uniqueViolation(err error) (constraint string, ok bool) {
	pg, ok := pgError(err)
	if !ok || pg.Code != codeUniqueViolation {
		return "", false
	}
	return pg.ConstraintName, true
}

// statementError classifies an error of a statement before COMMIT was sent:
// nothing was committed, unless the server itself says that it doesn't know.
func statementError(err error) error {
	if isAmbiguous(err) {
		return ambiguous(err)
	}
	if isUnavailable(err) {
		return unavailable(err)
	}
	return err
}

// commitError classifies an error after COMMIT was sent. Only a server's clear
// refusal says that nothing was committed.
func commitError(err error) error {
	if clearRefusal(err) {
		return err
	}
	return ambiguous(err)
}

// clearRefusal says that an answer to COMMIT means that nothing was committed:
// an ordinary error about the transaction itself. A session that is ended while
// it commits says FATAL, and may have committed; CockroachDB reports a COMMIT
// that ran out of time as a cancelled query, and may have committed too.
func clearRefusal(err error) bool {
	pg, ok := pgError(err)
	if !ok || fatal(pg) || pg.Code == codeAmbiguousResult {
		return false
	}
	if pg.Code == codeCockroachRetry {
		return true
	}
	switch {
	case strings.HasPrefix(pg.Code, "40"), // the transaction was rolled back
		strings.HasPrefix(pg.Code, "23"), // a constraint checked at COMMIT
		strings.HasPrefix(pg.Code, "25"): // the transaction had failed already
		return true
	}
	return false
}

func fatal(pg *pgconn.PgError) bool {
	severity := pg.SeverityUnlocalized
	if severity == "" {
		severity = pg.Severity
	}
	return severity == "FATAL" || severity == "PANIC"
}

// contextEnded says that err is only the caller's context coming to its end.
func contextEnded(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}
