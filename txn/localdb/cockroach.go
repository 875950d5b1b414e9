package localdb

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// cockroachEngine runs one CockroachDB node. It has no passwords: whoever can
// reach the loopback interface of this machine can reach the data.
func cockroachEngine(binary, dir string) *engine {
	store := cockroachDir(dir)
	return &engine{
		source:  SourceCockroach,
		dir:     store,
		logFile: filepath.Join(dir, "cockroach.log"),
		command: func(port int) *exec.Cmd {
			cmd := exec.Command(binary, "start-single-node",
				"--insecure",
				"--store="+store,
				"--listen-addr="+net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
				"--http-addr=127.0.0.1:0",
				"--cache=256MiB",
				"--max-sql-memory=256MiB",
			)
			cmd.Dir = dir
			cmd.Env = cleanEnv()
			return cmd
		},
		url: func(port int, database string) string {
			return fmt.Sprintf("postgresql://root@127.0.0.1:%d/%s?sslmode=disable", port, database)
		},
		admin: "defaultdb",
		// The store locks itself for as long as a process uses it.
		clearStale: func(context.Context) error { return nil },
		stop:       syscall.SIGTERM,
		crash:      syscall.SIGKILL,
	}
}
