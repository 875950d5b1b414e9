package localdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// childVariable makes the test binary start a server in the folder that it
// names and wait to be killed.
const childVariable = "STOCKLEDGER_TEST_LOCALDB_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		server, err := Start(context.Background(), Options{DataDir: dir})
		fmt.Println(server != nil, err)
		select {}
	}
	os.Exit(m.Run())
}

// dataDir returns a folder for data that any user may pass through.
func dataDir(t *testing.T) string {
	t.Helper()
	if os.Getenv(URLVariable) != "" {
		t.Skipf("starts servers of its own, and %s asks for none", URLVariable)
	}
	dir, err := os.MkdirTemp("", "stockledger-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "data")
}

func mustStart(t *testing.T, dir string) *Server {
	t.Helper()
	server, err := Start(t.Context(), Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustStop(t, server) })
	return server
}

func mustStop(t *testing.T, server *Server) {
	t.Helper()
	if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func query[T any](t *testing.T, server *Server, statement string) (value T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if err := conn.QueryRow(t.Context(), statement).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func execute(t *testing.T, server *Server, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestURLVariableComesFirst(t *testing.T) {
	const url = "postgresql://somebody@example.org/stock"
	t.Setenv(URLVariable, url)
	server, err := Start(t.Context(), Options{DataDir: filepath.Join(t.TempDir(), "unused")})
	if err != nil {
		t.Fatal(err)
	}
	if server.URL != url || server.Owned || server.Source != SourceURL {
		t.Errorf("%+v", server)
	}
	if err := server.Kill(); !errors.Is(err, ErrNotOwned) {
		t.Errorf("kill: %v", err)
	}
	mustStop(t, server)
}

func TestDataSurvivesStopAndKill(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := mustStart(t, dir)
	if !server.Owned || strings.Contains(server.Description, "@") {
		t.Errorf("owned %v, description %q", server.Owned, server.Description)
	}
	url := server.URL
	execute(t, server, "CREATE TABLE kept (n INT8)")
	execute(t, server, "INSERT INTO kept VALUES (1)")
	count := func() int { return query[int](t, server, "SELECT count(*) FROM kept") }

	for kill := 1; kill <= 2; kill++ {
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if conn, err := pgx.Connect(t.Context(), url); err == nil {
			_ = conn.Close(t.Context())
			t.Fatal("a killed server answers")
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != kill {
			t.Errorf("after kill %d: %d rows", kill, got)
		}
		execute(t, server, "INSERT INTO kept VALUES (1)")
	}

	mustStop(t, server)
	mustStop(t, server) // again: nothing
	if err := server.Restart(t.Context()); err == nil {
		t.Error("restarted after Stop")
	}
	server = mustStart(t, dir)
	if server.URL != url {
		t.Errorf("the URL changed from %q to %q", url, server.URL)
	}
	if got := count(); got != 3 {
		t.Errorf("after a stop: %d rows, want 3", got)
	}
}

func TestDataFolderIsForOneProcess(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	mustStart(t, dir)
	if _, err := Start(t.Context(), Options{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "another stockledger") {
		t.Errorf("got %v", err)
	}
}

func TestAnotherPortWhenTheOldOneIsTaken(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := mustStart(t, dir)
	port := server.port
	mustStop(t, server)
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Skip("somebody took the port:", err)
	}
	defer func() { _ = listener.Close() }()
	server = mustStart(t, dir)
	if server.port == port {
		t.Error("the port is taken")
	}
	query[int](t, server, "SELECT 1")
}

func TestTemporaryFolderIsRemoved(t *testing.T) {
	t.Parallel()
	dataDir(t) // skips
	server := mustStart(t, "")
	query[int](t, server, "SELECT 1")
	mustStop(t, server)
	if exists(server.dir) {
		t.Errorf("%s is left", server.dir)
	}
}

func requirePostgres(t *testing.T, server *Server) {
	t.Helper()
	if server.Source != SourcePostgres {
		t.Skip("is about PostgreSQL")
	}
}

func TestPostgresIsDurableAndPrivate(t *testing.T) {
	t.Parallel()
	server := mustStart(t, dataDir(t))
	requirePostgres(t, server)
	for setting, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
		"max_pred_locks_per_transaction": "2048", "max_pred_locks_per_page": "256",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "server_encoding": "UTF8", "lc_collate": "C",
	} {
		if got := query[string](t, server, "SELECT current_setting('"+setting+"')"); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	wrong := strings.Replace(server.URL, ":"+passwordOf(t, server)+"@", ":wrong@", 1)
	if conn, err := pgx.Connect(t.Context(), wrong); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password is let in")
	}
	info, err := os.Stat(filepath.Join(server.dir, "postgres.password"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the password's file: %v, %v", info.Mode(), err)
	}
}

func passwordOf(t *testing.T, server *Server) string {
	t.Helper()
	password, err := serverPassword(server.dir)
	if err != nil {
		t.Fatal(err)
	}
	return password
}

// A process that was killed can't stop its server. The kernel does it on Linux;
// in any case the next start copes.
func TestServerOfAKilledProcess(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(binary)
	child.Env = append(os.Environ(), childVariable+"="+dir)
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	started := make([]byte, 256)
	n, _ := output.Read(started)
	if !bytes.HasPrefix(started[:n], []byte("true")) {
		t.Errorf("the child: %s", started[:n])
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	server := mustStart(t, dir)
	query[int](t, server, "SELECT 1")
}

// A server that outlives its parent, however that came to be, is ended.
func TestServerThatWasLeftRunning(t *testing.T) {
	t.Parallel()
	if !canSeeProcesses {
		t.Skip("needs /proc")
	}
	dir := dataDir(t)
	server := mustStart(t, dir)
	requirePostgres(t, server)
	// Forget it: only the lock tells the next one that it may not be ended.
	if err := server.lock.Close(); err != nil {
		t.Fatal(err)
	}
	next := mustStart(t, dir)
	query[int](t, next, "SELECT 1")
	select {
	case <-server.process.Done():
	case <-time.After(10 * time.Second):
		t.Error("the former server still runs")
	}
	server.lock, server.process = nil, nil
}

func TestPidFileOfSomebodyElse(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := mustStart(t, dir)
	requirePostgres(t, server)
	pidFile := filepath.Join(server.engine.dir, "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	mustStop(t, server)
	_, rest, _ := bytes.Cut(content, []byte("\n"))
	// A process that lives, and of the server's user.
	sleeper := exec.Command("sleep", "60")
	account, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	account.lend(sleeper)
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sleeper.Process.Kill(); err != nil {
			t.Error("the process of somebody else was ended:", err)
		}
		_ = sleeper.Wait()
	}()
	stale := append([]byte(strconv.Itoa(sleeper.Process.Pid)+"\n"), rest...)
	if err := os.WriteFile(pidFile, stale, 0o600); err != nil {
		t.Fatal(err)
	}
	if !canSeeProcesses {
		t.Skip("needs /proc")
	}
	query[int](t, mustStart(t, dir), "SELECT 1")
}

func TestDataOfAnotherVersion(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := mustStart(t, dir)
	requirePostgres(t, server)
	mustStop(t, server)
	if err := os.WriteFile(filepath.Join(dir, "postgres", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "PostgreSQL 9") {
		t.Errorf("got %v", err)
	}
}

func TestBrokenDataIsReportedWithTheLog(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := mustStart(t, dir)
	requirePostgres(t, server)
	mustStop(t, server)
	if err := os.Truncate(filepath.Join(dir, "postgres", "global", "pg_control"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "pg_control") {
		t.Errorf("got %v", err)
	}
}

func TestFolderThatTheServersUserCannotReach(t *testing.T) {
	t.Parallel()
	account, err := serverAccount()
	if err != nil || account == nil {
		t.Skip("only root runs a server as another user")
	}
	reachable := dataDir(t)
	closed := filepath.Join(filepath.Dir(reachable), "closed")
	dir := filepath.Join(closed, "data")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(filepath.Dir(reachable), "elsewhere")

	data, err := postgresData(dir, elsewhere, account)
	if err != nil || !strings.HasPrefix(data, elsewhere) {
		t.Fatalf("got %q, %v", data, err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if again, err := postgresData(dir, elsewhere, account); err != nil || again != data || !exists(data) {
		t.Errorf("the second time: %q, %v", again, err)
	}
	// Without the link, the folder was removed to start over.
	if err := os.Remove(postgresLink(dir)); err != nil {
		t.Fatal(err)
	}
	if again, err := postgresData(dir, elsewhere, account); err != nil || again != data || exists(data) {
		t.Errorf("after starting over: %q, %v", again, err)
	}
	// Nowhere to go.
	_ = os.Remove(postgresLink(dir))
	if _, err := postgresData(dir, closed, account); err == nil || !strings.Contains(err.Error(), "chmod o+x "+closed) {
		t.Errorf("got %v, want the remedy", err)
	}
}

func TestSystemClusterSettingRespectsAChoice(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "postgresql-common", "createcluster.conf")
	if err := noSystemCluster(name); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(name)
	if err != nil || string(content) != "create_main_cluster = false\n" {
		t.Errorf("wrote %q, %v", content, err)
	}
	if err := os.WriteFile(name, []byte("chosen"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := noSystemCluster(name); err != nil {
		t.Fatal(err)
	}
	if content, _ = os.ReadFile(name); string(content) != "chosen" {
		t.Errorf("overwrote a choice with %q", content)
	}
}
