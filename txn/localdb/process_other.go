//go:build !linux

package localdb

import (
	"os/exec"
	"syscall"
)

// detach gives the child a process group of its own.
func detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

func postgresIn(string) []int { return nil }

// canSeeProcesses says that postgresIn can be relied upon.
const canSeeProcesses = false
