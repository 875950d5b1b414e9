package localdb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ErrNoReplica is returned by StartReplica for a server that this package did
// not start, or that is not PostgreSQL.
var ErrNoReplica = errors.New("localdb: only a PostgreSQL server that was started here gets a replica")

// StartReplica starts a hot standby in a temporary folder that streams what is
// committed on the server. It is a server like any other, but takes no writes.
func (s *Server) StartReplica(ctx context.Context) (*Server, error) {
	if !s.Owned || s.Source != SourcePostgres {
		return nil, ErrNoReplica
	}
	r := &Server{Owned: true, log: s.log}
	if err := r.openDir(""); err != nil {
		return nil, err
	}
	if err := r.copyOf(ctx, s); err != nil {
		r.closeDir()
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		if r.process != nil {
			_ = r.process.End(context.WithoutCancel(ctx), r.engine.crash)
		}
		r.closeDir()
		return nil, err
	}
	return r, nil
}

// copyOf copies a running server's data, and what it takes to follow it.
func (s *Server) copyOf(ctx context.Context, primary *Server) error {
	at, err := url.Parse(primary.URL)
	if err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	password, _ := at.User.Password()
	if err := os.WriteFile(filepath.Join(s.dir, "postgres.password"), []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	found, err := findPostgres(ctx, primary.dir)
	if err != nil {
		return err
	}
	account, err := serverAccount()
	if err != nil {
		return err
	}
	data, err := postgresData(s.dir, elsewhere, account)
	if err != nil {
		return err
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	if err := account.own(data); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, found.program("pg_basebackup"),
		"--pgdata="+data, "--host="+at.Hostname(), "--port="+strconv.Itoa(primary.port), "--username="+at.User.Username(),
		"--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync")
	cmd.Dir = data
	cmd.Env = append(cleanEnv(), "PGPASSWORD="+password)
	account.lend(cmd)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("localdb: pg_basebackup: %w\n%s", err, output)
	}
	return nil
}

// PauseReplay makes a replica stop showing what its primary writes, and returns
// once it has stopped.
func (s *Server) PauseReplay(ctx context.Context) error {
	conn, err := connect(ctx, s.URL)
	if err != nil {
		return fmt.Errorf("localdb: pause the replica: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "SELECT pg_wal_replay_pause()"); err != nil {
		return fmt.Errorf("localdb: pause the replica: %w", err)
	}
	for state := ""; state != "paused"; {
		if err := conn.QueryRow(ctx, "SELECT pg_get_wal_replay_pause_state()").Scan(&state); err != nil {
			return fmt.Errorf("localdb: pause the replica: %w", err)
		}
	}
	return nil
}
