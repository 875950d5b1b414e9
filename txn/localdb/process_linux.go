package localdb

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// postgresIn returns the PostgreSQL processes that use a data folder: it is the
// working folder of each of them.
func postgresIn(data string) []int {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, proc := range procs {
		if cwd, err := os.Readlink(filepath.Join(proc, "cwd")); err != nil || cwd != data {
			continue
		}
		name, err := os.ReadFile(filepath.Join(proc, "comm"))
		if err != nil || strings.TrimSpace(string(name)) != "postgres" {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// canSeeProcesses says that postgresIn can be relied upon.
const canSeeProcesses = true
