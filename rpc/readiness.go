package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// readiness tells whether the node can do its work: the database answers, its
// schema is at least what this release needs, and commands are taken.
type readiness struct {
	deps     Deps
	log      *slog.Logger
	draining <-chan struct{}

	mu      sync.Mutex
	last    readinessReport
	expires time.Time
}

// Probes come from many places at once; the database is asked once a second.
const (
	readinessKept    = time.Second
	readinessTimeout = 2 * time.Second
)

// readinessReport is the answer of /readyz.
type readinessReport struct {
	Ready bool              `json:"ready"`
	Parts map[string]string `json:"parts"` // "ok", or what is wrong
}

const partOK = "ok"

func (r *readiness) report(ctx context.Context) readinessReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.After(r.expires) {
		// One caller's leaving must not make the node unready for the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readinessTimeout)
		defer cancel()
		database, schema := r.database(ctx)
		r.note(readinessReport{
			Ready: database == partOK && schema == partOK,
			Parts: map[string]string{"database": database, "schema": schema},
		})
		r.expires = time.Now().Add(readinessKept)
	}
	executor := r.executor()
	report := readinessReport{
		Ready: r.last.Ready && executor == partOK,
		Parts: map[string]string{"database": r.last.Parts["database"], "schema": r.last.Parts["schema"], "executor": executor},
	}
	if r.deps.Reachable != nil {
		report.Parts["inventory"] = r.inventory()
	}
	return report
}

// inventory tells whether nodes can be reached that execute commands. This one
// stays ready without them: it still reads, and a command is better answered
// with the reason than by a balancer that has no node left.
func (r *readiness) inventory() string {
	if !r.deps.Reachable() {
		return "no node can be reached; commands are answered with " + string(reasonInventoryUnavailable)
	}
	return partOK
}

// note logs a change, once.
func (r *readiness) note(report readinessReport) {
	if report.Ready != r.last.Ready {
		level := slog.LevelInfo
		if !report.Ready {
			level = slog.LevelWarn
		}
		r.log.Log(context.Background(), level, "readiness changed", "ready", report.Ready, "parts", report.Parts)
	}
	r.last = report
}

func (r *readiness) database(ctx context.Context) (database, schema string) {
	if err := r.deps.Database.Ping(ctx); err != nil {
		r.log.Debug("the database does not answer", "error", err)
		return "does not answer", "unknown"
	}
	current, wanted, err := r.deps.Database.SchemaVersion(ctx)
	switch {
	case err != nil:
		r.log.Debug("the schema's version can't be read", "error", err)
		return partOK, "can't be read"
	case current < wanted:
		return partOK, fmt.Sprintf("is at version %d; this release needs %d: run stockledger migrate up", current, wanted)
	}
	return partOK, partOK
}

func (r *readiness) executor() string {
	select {
	case <-r.draining:
		return "is shutting down"
	default:
	}
	if !r.deps.Executor.Accepting() {
		if r.deps.Reachable != nil {
			return "has heard of no node yet that serves " + string(PartInventory)
		}
		return "takes no commands"
	}
	return partOK
}
