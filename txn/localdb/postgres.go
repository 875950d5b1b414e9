package localdb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// minPostgres is the oldest PostgreSQL that the ledger supports.
const minPostgres = 15

// postgresUser is the superuser of a server that we start.
const postgresUser = "stockledger"

// errNoPostgres means that nothing usable is installed.
var errNoPostgres = fmt.Errorf("localdb: no database was found: install PostgreSQL (%s), or put cockroach into PATH, or set %s",
	whatToInstall(), URLVariable)

// install is a folder with PostgreSQL's programs.
type install struct {
	bin   string
	major int
}

func (i install) program(name string) string { return filepath.Join(i.bin, name) }

// postgresSettings makes the server durable, private, and roomy enough for the
// predicate locks of large SERIALIZABLE transactions; without that room these
// are merged into locks on whole tables, and everything conflicts.
var postgresSettings = [][2]string{
	{"listen_addresses", "127.0.0.1"},
	{"unix_socket_directories", ""},
	{"max_connections", "200"},
	{"max_pred_locks_per_transaction", "2048"},
	{"max_pred_locks_per_page", "256"},
	{"shared_buffers", "256MB"},
	// A checkpoint makes the next write of every page log all of it. Rarer and
	// compressed, that costs less; durability is untouched.
	{"max_wal_size", "8GB"},
	{"checkpoint_timeout", "30min"},
	{"wal_compression", "on"},
	{"fsync", "on"},
	{"full_page_writes", "on"},
	{"synchronous_commit", "on"},
	// Parallel workers need more shared memory than containers give.
	{"max_parallel_workers_per_gather", "0"},
	{"logging_collector", "off"},
	{"log_destination", "stderr"},
}

// findPostgres returns the programs in PATH, or else the newest that are
// installed; for existing data, those of the version that made it.
func findPostgres(ctx context.Context, dir string) (install, error) {
	installs := postgresInstalls(ctx)
	if len(installs) == 0 {
		return install{}, errNoPostgres
	}
	content, err := os.ReadFile(filepath.Join(postgresLink(dir), "PG_VERSION"))
	if err != nil {
		return installs[0], nil //nolint:nilerr // there is no data yet: the newest will make it
	}
	made := strings.TrimSpace(string(content))
	for _, found := range installs {
		if strconv.Itoa(found.major) == made {
			return found, nil
		}
	}
	return install{}, fmt.Errorf("localdb: the data in %s was made by PostgreSQL %s, and only %d is installed: "+
		"install that version again, or remove the data (make clean-data)", dir, made, installs[0].major)
}

func postgresInstalls(ctx context.Context) []install {
	var bins []string
	if postgres, err := exec.LookPath("postgres"); err == nil {
		if resolved, err := filepath.EvalSymlinks(postgres); err == nil {
			bins = append(bins, filepath.Dir(resolved))
		}
	}
	inPath := len(bins)
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",          // Debian
		"/usr/pgsql-*/bin",                   // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/usr/local/pgsql/bin", // built from source
	} {
		found, _ := filepath.Glob(pattern)
		bins = append(bins, found...)
	}
	var installs []install
	for i, bin := range bins {
		found := install{bin: bin, major: postgresMajor(ctx, filepath.Join(bin, "postgres"))}
		usable := found.major >= minPostgres && exists(found.program("initdb"))
		if !usable || slices.Contains(installs, found) {
			continue
		}
		installs = append(installs, found)
		if i >= inPath {
			// Newest first, after what PATH names.
			rest := installs[min(inPath, len(installs)):]
			slices.SortStableFunc(rest, func(a, b install) int { return b.major - a.major })
		}
	}
	return installs
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func postgresMajor(ctx context.Context, program string) int {
	output, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return 0
	}
	match := versionPattern.FindSubmatch(output)
	if match == nil {
		return 0
	}
	major, _ := strconv.Atoi(string(match[1]))
	return major
}

func postgresEngine(
	ctx context.Context, found install, dir string, temporary bool, log *slog.Logger,
) (*engine, error) {
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	password, err := serverPassword(dir)
	if err != nil {
		return nil, err
	}
	data, err := postgresData(dir, elsewhere, account)
	if err != nil {
		return nil, err
	}
	if !exists(filepath.Join(data, "PG_VERSION")) {
		log.Info("creating a PostgreSQL data folder", "folder", data, "version", found.major)
		if err := initDatabase(ctx, found, account, data, password, temporary); err != nil {
			return nil, err
		}
	}
	return &engine{
		source:  SourcePostgres,
		dir:     data,
		logFile: filepath.Join(dir, "postgres.log"),
		command: func(port int) *exec.Cmd {
			args := []string{"-D", data, "-p", strconv.Itoa(port)}
			for _, setting := range postgresSettings {
				args = append(args, "-c", setting[0]+"="+setting[1])
			}
			cmd := exec.Command(found.program("postgres"), args...)
			cmd.Dir = data
			cmd.Env = cleanEnv()
			account.lend(cmd)
			return cmd
		},
		url: func(port int, database string) string {
			target := url.URL{
				Scheme:   "postgresql",
				User:     url.UserPassword(postgresUser, password),
				Host:     fmt.Sprintf("127.0.0.1:%d", port),
				Path:     database,
				RawQuery: "sslmode=disable",
			}
			return target.String()
		},
		admin:      "postgres",
		clearStale: func(ctx context.Context) error { return clearStalePostgres(ctx, data, log) },
		stop:       syscall.SIGINT,  // "fast": ends the sessions, then a checkpoint
		crash:      syscall.SIGQUIT, // "immediate": recovers at the next start
	}, nil
}

// serverPassword returns the password of the server in dir, made at random
// once.
func serverPassword(dir string) (string, error) {
	name := filepath.Join(dir, "postgres.password")
	content, err := os.ReadFile(name)
	if err == nil && len(content) > 0 {
		return strings.TrimSpace(string(content)), nil
	}
	password := rand.Text()
	if err := os.WriteFile(name, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("localdb: %w", err)
	}
	return password, nil
}

// postgresLink is where a data folder has PostgreSQL's own, or a link to it.
func postgresLink(dir string) string { return filepath.Join(dir, "postgres") }

// elsewhere holds the data that can't stay where it was asked for.
const elsewhere = "/var/lib/stockledger"

// postgresData returns the folder for PostgreSQL's own data. Where the server's
// user can't pass through the folders above (a repository in root's home), it
// is under elsewhere, and a link leads there; if the link is gone, so is the
// data, as if both had been one folder.
func postgresData(dir, elsewhere string, account *account) (string, error) {
	link := postgresLink(dir)
	blocked := account.blockedAt(link)
	if blocked == "" {
		return link, nil
	}
	sum := sha256.Sum256([]byte(dir))
	data := filepath.Join(elsewhere, hex.EncodeToString(sum[:8]), "postgres")
	if target, err := os.Readlink(link); err == nil && target == data {
		return data, nil
	}
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("localdb: user %q, as which PostgreSQL must run, can't reach %s: allow it "+
			"(chmod o+x %s), or choose another data folder: %w", account.name, dir, blocked, err)
	}
	if err := os.RemoveAll(filepath.Dir(data)); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(data), 0o755); err != nil {
		return fail(err)
	}
	if blocked := account.blockedAt(data); blocked != "" {
		return fail(fmt.Errorf("nor can it reach %s", blocked))
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	if err := os.Symlink(data, link); err != nil {
		return fail(err)
	}
	return data, nil
}

// initDatabase makes a data folder. It appears under its name only when it is
// complete.
func initDatabase(
	ctx context.Context, found install, account *account, data, password string, temporary bool,
) error {
	fresh := data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	if err := account.own(fresh); err != nil {
		return err
	}
	passwordFile := data + ".pw"
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	defer func() { _ = os.Remove(passwordFile) }()
	if err := account.own(passwordFile); err != nil {
		return err
	}
	args := []string{
		"-D", fresh, "--username=" + postgresUser, "--pwfile=" + passwordFile,
		"--auth=scram-sha-256", "--locale=C", "--encoding=UTF8",
	}
	if temporary {
		args = append(args, "--no-sync") // of the empty data folder only
	}
	cmd := exec.CommandContext(ctx, found.program("initdb"), args...)
	cmd.Dir = fresh
	cmd.Env = cleanEnv()
	account.lend(cmd)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("localdb: initdb: %w\n%s", err, output)
	}
	if err := os.Rename(fresh, data); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	return nil
}

// clearStalePostgres ends a server that outlived the process that started it,
// waits for the last of its processes, and removes a pid file that names a
// process of somebody else, which PostgreSQL would take for a running server.
// The caller holds the lock on the folder, so nobody else uses it rightfully.
func clearStalePostgres(ctx context.Context, data string, log *slog.Logger) error {
	data, err := filepath.EvalSymlinks(data)
	if err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	pidFile := filepath.Join(data, "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil || !canSeeProcesses {
		return nil // PostgreSQL judges by itself
	}
	first, _, _ := strings.Cut(string(content), "\n")
	postmaster, _ := strconv.Atoi(strings.TrimSpace(first))
	if slices.Contains(postgresIn(data), postmaster) {
		log.Warn("a PostgreSQL server was left running: ending it", "pid", postmaster, "folder", data)
		_ = syscall.Kill(postmaster, syscall.SIGINT)
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for left := postgresIn(data); len(left) > 0; left = postgresIn(data) {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("localdb: processes %v still use %s: %w", left, data, ctx.Err())
		}
	}
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("localdb: %w", err)
	}
	return nil
}
