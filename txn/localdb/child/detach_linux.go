package child

import (
	"os/exec"
	"syscall"
)

// detach gives the child a process group of its own and has the kernel tell it
// to end, in good order, if we die without doing so.
func detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
}
