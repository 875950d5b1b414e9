// Package localdb finds or starts the database for development and tests.
//
// It looks, in this order, for the variable STOCKLEDGER_DATABASE_URL, a
// cockroach binary (COCKROACH_BINARY or PATH), and PostgreSQL's binaries; on
// Debian, as root, it installs the latter. A server that it starts is a child
// of this process on a free port of the loopback interface, runs as a normal
// user, keeps its durability settings on, and ends with its parent.
//
// It knows nothing about the ledger's schema, and it is not for production:
// there the database is somebody's job.
package localdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/txn/localdb/child"
)

// URLVariable names the environment variable that points everything at a
// database of the user's own.
const URLVariable = "STOCKLEDGER_DATABASE_URL"

// databaseName is the database that is made on a server that we start.
const databaseName = "stockledger"

// startTimeout bounds one start, crash recovery included.
const startTimeout = 2 * time.Minute

// ErrNotOwned is returned by Kill and Restart for a server that this package
// did not start.
var ErrNotOwned = errors.New("localdb: the database server is not ours to kill")

// Options says where a server that is started keeps its data.
type Options struct {
	// DataDir is the folder for the data, the log, the port and the password.
	// It is created if missing; a later Start with the same folder comes back
	// with the data. Default: a temporary folder, which Stop removes.
	DataDir string

	// Log receives progress. Default slog.Default().
	Log *slog.Logger
}

// Source says where the database came from.
type Source string

// The sources, in the order in which they are tried.
const (
	SourceURL       Source = "the URL in " + URLVariable
	SourceCockroach Source = "CockroachDB, started here"
	SourcePostgres  Source = "PostgreSQL, started here"
)

// Server is a database that is ready to be connected to.
type Server struct {
	// URL is the database's connection URL. It may hold a password.
	URL string
	// Source says where the database came from.
	Source Source
	// Description is for people: the server's version, port and folder. It
	// holds no password.
	Description string
	// Owned says that this package started the server, so that Stop ends it.
	Owned bool

	mu        sync.Mutex
	log       *slog.Logger
	dir       string
	temporary bool
	lock      *os.File
	engine    *engine
	port      int
	process   *child.Process // nil while the server is not running
}

// engine is one of the two database programs, ready to run in one data folder.
type engine struct {
	source  Source
	dir     string // its own data
	logFile string
	// command builds the command that runs the server in the foreground.
	command func(port int) *exec.Cmd
	// url returns the URL of a database on the server.
	url func(port int, database string) string
	// admin is a database that always exists.
	admin string
	// clearStale ends, or waits for, what an earlier run left behind.
	clearStale func(ctx context.Context) error
	// stop asks for an orderly end with all connections closed, crash for an
	// end without any tidying.
	stop, crash syscall.Signal
}

// Start finds a database or starts one, and returns when it answers.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if url := os.Getenv(URLVariable); url != "" {
		return &Server{URL: url, Source: SourceURL, Description: string(SourceURL)}, nil
	}
	s := &Server{Owned: true, log: opts.Log}
	if err := s.openDir(opts.DataDir); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		if s.process != nil {
			_ = s.process.End(context.WithoutCancel(ctx), s.engine.crash)
		}
		s.closeDir()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	var err error
	if s.engine, err = findEngine(ctx, s.dir, s.temporary, s.log); err != nil {
		return err
	}
	s.Source = s.engine.source
	s.port = rememberedPort(s.dir)
	if err := s.launch(ctx); err != nil {
		return err
	}
	s.URL = s.engine.url(s.port, databaseName)
	return rememberPort(s.dir, s.port)
}

// Stop ends a server that Start started and waits for its end; it does nothing
// to any other. If ctx ends first the server is killed, which loses no
// committed data. Calling it again does nothing.
func (s *Server) Stop(ctx context.Context) error {
	if !s.Owned {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.closeDir()
	if s.process == nil {
		return nil
	}
	signal := s.engine.stop
	if s.temporary {
		signal = s.engine.crash // nobody will miss the data
	}
	err := s.process.End(ctx, signal)
	s.process = nil
	return err
}

// Kill ends the server as a crash would, and waits until it is gone. It is for
// tests of what the ledger does then.
func (s *Server) Kill() error {
	if !s.Owned {
		return ErrNotOwned
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	err := s.process.End(context.Background(), s.engine.crash)
	s.process = nil
	return err
}

// Restart starts the server again after Kill, with the same data, port and URL.
func (s *Server) Restart(ctx context.Context) error {
	if !s.Owned {
		return ErrNotOwned
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return errors.New("localdb: the server is running")
	}
	if s.lock == nil {
		return errors.New("localdb: the server was stopped for good")
	}
	process, err := s.run(ctx, s.port)
	if err != nil {
		return err
	}
	s.process = process
	return nil
}

// launch starts the server on the remembered port, or on a free one if that is
// taken or none is remembered, and makes the database.
func (s *Server) launch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	for range 3 {
		if s.port == 0 || !portFree(s.port) {
			if s.port, err = freePort(); err != nil {
				return err
			}
		}
		if s.process, err = s.run(ctx, s.port); err == nil {
			break
		}
		if ctx.Err() != nil || portFree(s.port) {
			return err
		}
		// Somebody took the port in between.
	}
	if err != nil {
		return err
	}
	version, err := s.createDatabase(ctx)
	if err != nil {
		return err
	}
	s.Description = fmt.Sprintf("%s on 127.0.0.1:%d, data in %s", version, s.port, s.engine.dir)
	return nil
}

// run starts the server's process and waits until it answers.
func (s *Server) run(ctx context.Context, port int) (*child.Process, error) {
	if err := s.engine.clearStale(ctx); err != nil {
		return nil, err
	}
	output, err := openLog(s.engine.logFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }() // the child has its own copy
	cmd := s.engine.command(port)
	cmd.Stdout, cmd.Stderr = output, output
	process, err := child.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("localdb: start %s: %w", cmd.Path, err)
	}
	if err := s.waitReady(ctx, process, port); err != nil {
		_ = process.End(context.WithoutCancel(ctx), s.engine.crash)
		return nil, fmt.Errorf("localdb: %s did not start: %w\nThe end of its log, %s:\n%s",
			cmd.Path, err, s.engine.logFile, logTail(s.engine.logFile))
	}
	return process, nil
}

func (s *Server) waitReady(ctx context.Context, process *child.Process, port int) error {
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		conn, err := connect(ctx, s.engine.url(port, s.engine.admin))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-poll.C:
		case <-process.Done():
			return fmt.Errorf("it ended: %w", process.Err())
		case <-ctx.Done():
			return fmt.Errorf("%w; the last attempt to connect: %w", ctx.Err(), err)
		}
	}
}

func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return pgx.Connect(ctx, url)
}

// createDatabase makes our database if it is missing and returns the server's
// version.
func (s *Server) createDatabase(ctx context.Context) (version string, err error) {
	conn, err := connect(ctx, s.engine.url(s.port, s.engine.admin))
	if err != nil {
		return "", fmt.Errorf("localdb: connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var exists bool
	err = conn.QueryRow(ctx, `SELECT version(), EXISTS (SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1)`,
		databaseName).Scan(&version, &exists)
	if err != nil {
		return "", fmt.Errorf("localdb: look for the database: %w", err)
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+databaseName); err != nil {
			return "", fmt.Errorf("localdb: create the database: %w", err)
		}
	}
	name, _, _ := strings.Cut(version, " (")
	name, _, _ = strings.Cut(name, " on ")
	return name, nil
}

// openDir takes the data folder for this process alone.
func (s *Server) openDir(dir string) (err error) {
	if dir == "" {
		removeAbandoned()
		s.temporary = true
		if dir, err = os.MkdirTemp("", temporaryPrefix+"*"); err != nil {
			return fmt.Errorf("localdb: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	if s.dir, err = realPath(dir); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	// The server's user must be able to pass through; the secrets in the
	// folder have modes of their own.
	if err := os.Chmod(s.dir, 0o711); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	s.lock, err = lockDir(s.dir)
	return err
}

func realPath(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

func (s *Server) closeDir() {
	if s.lock == nil {
		return
	}
	if s.temporary {
		if err := os.RemoveAll(s.dir); err != nil {
			s.log.Warn("a temporary folder could not be removed", "folder", s.dir, "error", err)
		}
	}
	_ = s.lock.Close()
	s.lock = nil
}

const temporaryPrefix = "stockledger-db-"

// removeAbandoned removes the temporary folders of processes that were killed.
func removeAbandoned() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*"))
	for _, dir := range dirs {
		// A young folder may be about to be locked by the one who made it.
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue
		}
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("localdb: find a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func portFree(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = listener.Close()
	return true
}

func portFile(dir string) string { return filepath.Join(dir, "port") }

func rememberedPort(dir string) int {
	content, err := os.ReadFile(portFile(dir))
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 16)
	if err != nil {
		return 0
	}
	return int(port)
}

func rememberPort(dir string, port int) error {
	if err := os.WriteFile(portFile(dir), []byte(strconv.Itoa(port)+"\n"), 0o644); err != nil {
		return fmt.Errorf("localdb: remember the port: %w", err)
	}
	return nil
}

// maxLogBytes is the size from which a server's log is started anew.
const maxLogBytes = 16 << 20

func openLog(name string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(name); err == nil && info.Size() > maxLogBytes {
		flags |= os.O_TRUNC
	}
	file, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("localdb: open the server's log: %w", err)
	}
	return file, nil
}

func logTail(name string) []byte {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-12):], []byte("\n"))
}
