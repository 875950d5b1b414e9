package localdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
)

// canInstall says that this is Debian, or a child of it, and that we are root.
func canInstall() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil && os.Geteuid() == 0 && exists("/etc/debian_version")
}

// clusterConfig keeps Debian's packages from creating and starting a server of
// their own on the standard port: only the programs are wanted.
const clusterConfig = "/etc/postgresql-common/createcluster.conf"

func installPostgres(ctx context.Context, log *slog.Logger) error {
	log.Info("no database was found: installing PostgreSQL with apt-get")
	if err := noSystemCluster(clusterConfig); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"update"},
		{"install", "--yes", "--no-install-recommends", "postgresql"},
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("localdb: apt-get %s: %w\n%s\nInstall PostgreSQL 15 or newer by hand, or set %s",
				args[0], err, output, URLVariable)
		}
	}
	return nil
}

// noSystemCluster writes the setting only where nobody has made a choice.
func noSystemCluster(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	_, err = file.WriteString("create_main_cluster = false\n")
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	return nil
}
