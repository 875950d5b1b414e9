package localdb

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// findEngine looks for a database program, in the order of the package comment.
// A folder that already holds one engine's data stays with it, unless the user
// names a cockroach binary.
func findEngine(ctx context.Context, dir string, temporary bool, log *slog.Logger) (*engine, error) {
	if binary := os.Getenv("COCKROACH_BINARY"); binary != "" {
		return cockroachEngine(binary, dir), nil
	}
	binary, err := exec.LookPath("cockroach")
	if err == nil && (exists(cockroachDir(dir)) || !exists(postgresLink(dir))) {
		return cockroachEngine(binary, dir), nil
	}
	install, err := findPostgres(ctx, dir)
	if errors.Is(err, errNoPostgres) && canInstall() {
		if err := installPostgres(ctx, log); err != nil {
			return nil, err
		}
		install, err = findPostgres(ctx, dir)
	}
	if err != nil {
		return nil, err
	}
	return postgresEngine(ctx, install, dir, temporary, log)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// whatToInstall is the one thing to do when no database was found.
func whatToInstall() string {
	switch runtime.GOOS {
	case "darwin":
		return "brew install postgresql@17"
	case "linux":
		return "sudo apt-get install postgresql (or your distribution's PostgreSQL 15 or newer)"
	}
	return "PostgreSQL 15 or newer"
}

// cleanEnv is our environment without what would redirect a server or its
// tools to another database.
func cleanEnv() []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PG") && !strings.HasPrefix(variable, "LC_") &&
			!strings.HasPrefix(variable, "LANG") && !strings.HasPrefix(variable, "COCKROACH_") {
			env = append(env, variable)
		}
	}
	return append(env, "LC_ALL=C", "TZ=UTC")
}

func cockroachDir(dir string) string { return filepath.Join(dir, "cockroach") }
