package txn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func serverError(severity, code string) error {
	return fmt.Errorf("wrapped: %w", &pgconn.PgError{
		Severity: severity, SeverityUnlocalized: severity, Code: code, ConstraintName: "journal_pkey",
	})
}

func TestCommitErrorIsAmbiguousUnlessTheServerRefusedClearly(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		err       error
		ambiguous bool
		retryable bool
	}{
		{"serialization failure", serverError("ERROR", "40001"), false, true},
		{"deadlock", serverError("ERROR", "40P01"), false, true},
		{"former CockroachDB retry", serverError("ERROR", "CR000"), false, true},
		{"deferred constraint", serverError("ERROR", "23505"), false, false},
		{"failed transaction", serverError("ERROR", "25P02"), false, false},
		{"ambiguous result", serverError("ERROR", "40003"), true, false},
		{"session ended while committing", serverError("FATAL", "57P01"), true, false},
		{"crash of another session", serverError("FATAL", "57P02"), true, false},
		{"statement timeout", serverError("ERROR", "57014"), true, false},
		{"session ended for its idling", serverError("FATAL", "25P03"), true, false},
		{"internal error", serverError("ERROR", "XX000"), true, false},
		{"connection cut", io.ErrUnexpectedEOF, true, false},
		{"out of time", context.DeadlineExceeded, true, false},
		{"caller left", context.Canceled, true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := commitError(test.err)
			if got := isAmbiguous(err); got != test.ambiguous {
				t.Errorf("isAmbiguous = %v, want %v", got, test.ambiguous)
			}
			if got := errors.Is(err, ErrAmbiguous); got != test.ambiguous {
				t.Errorf("errors.Is(ErrAmbiguous) = %v, want %v", got, test.ambiguous)
			}
			if got := isRetryable(err); got != test.retryable {
				t.Errorf("isRetryable = %v, want %v", got, test.retryable)
			}
			if isUnavailable(err) {
				t.Error("isUnavailable promises that nothing was committed")
			}
			if !errors.Is(err, test.err) {
				t.Error("the cause is lost")
			}
		})
	}
}

func TestStatementErrorKnowsAnAbsentDatabase(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"08006": true, "57P01": true, "57P02": true, "57P03": true, "53300": true, "57014": true,
		"25006": true, "53100": true, "58C00": true,
		"23505": false, "40001": false, "22021": false, "XX000": false, "53200": false,
	} {
		err := statementError(serverError("ERROR", code))
		if got := errors.Is(err, ErrUnavailable); got != want {
			t.Errorf("%s: ErrUnavailable = %v, want %v", code, got, want)
		}
		if got := isUnavailable(err); got != want {
			t.Errorf("%s: isUnavailable = %v, want %v", code, got, want)
		}
	}
}

func TestUniqueViolationNamesTheConstraint(t *testing.T) {
	t.Parallel()
	if constraint, ok := uniqueViolation(serverError("ERROR", "23505")); !ok || constraint != "journal_pkey" {
		t.Errorf("got %q, %v", constraint, ok)
	}
	if _, ok := uniqueViolation(serverError("ERROR", "23514")); ok {
		t.Error("a check violation is not a unique violation")
	}
	if _, ok := uniqueViolation(io.EOF); ok {
		t.Error("an I/O error is not a unique violation")
	}
}
