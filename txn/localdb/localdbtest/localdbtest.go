// Package localdbtest gives tests a database server: one for each test process,
// started when it is first asked for, or the one that STOCKLEDGER_DATABASE_URL
// names. It knows nothing about the ledger's schema; package txntest does.
package localdbtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/txn/localdb"
)

const stopTimeout = 20 * time.Second

var shared struct {
	once   sync.Once
	server *localdb.Server
	err    error
}

// Shared returns the process's server. The package's TestMain must call Main,
// which stops it.
func Shared(tb testing.TB) *localdb.Server {
	tb.Helper()
	shared.once.Do(func() {
		shared.server, shared.err = localdb.Start(context.Background(), localdb.Options{Log: quiet()})
	})
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server
}

// Private starts a server for one test alone, which may kill it. The test is
// skipped where the server is not ours to kill.
func Private(tb testing.TB) *localdb.Server {
	tb.Helper()
	if os.Getenv(localdb.URLVariable) != "" {
		tb.Skipf("kills the database server, and must not with one that %s names", localdb.URLVariable)
	}
	server, err := localdb.Start(tb.Context(), localdb.Options{Log: quiet()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(server) })
	return server
}

// Main runs a package's tests and stops the shared server after them. before
// runs between the two. It does not return.
func Main(m *testing.M, before ...func()) {
	code := m.Run()
	for _, fn := range before {
		fn()
	}
	if shared.server != nil {
		stop(shared.server)
	}
	os.Exit(code)
}

func stop(server *localdb.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// NewClinicID returns a clinic id that nobody has used: tests share a database
// and are kept apart by their clinics.
func NewClinicID(tb testing.TB) string {
	tb.Helper()
	return "t-" + strings.ToLower(rand.Text())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
