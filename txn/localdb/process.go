package localdb

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a child that runs until it is ended.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // why; valid once done is closed
}

// startProcess starts a child in a process group of its own, so that Ctrl-C
// reaches only us and we can end things in the right order.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	detach(cmd)
	started := make(chan error, 1)
	go func() {
		// Linux ends the child when the thread that started it ends, not the
		// process; so this thread stays for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// killAfter is how long a process may take to end after it was told to, where
// the caller sets no limit.
const killAfter = 30 * time.Second

// end sends a signal and waits until the process has ended; when ctx ends
// first, it kills it.
func (p *process) end(ctx context.Context, signal syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, killAfter)
	defer cancel()
	// An error means that it has ended already.
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("localdb: the database server was killed since it did not end in time: %w", ctx.Err())
	}
}
