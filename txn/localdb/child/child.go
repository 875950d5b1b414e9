// Package child runs processes that end with the one that started them.
package child

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Process is a child that runs until it is ended.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // why; valid once done is closed
}

// Start starts a child in a process group of its own, so that Ctrl-C
// reaches only us and we can end things in the right order.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
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

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is what the process ended with, once Done is closed.
func (p *Process) Err() error { return p.err }

// End sends a signal and waits until the process has ended; when ctx ends
// first, it kills it.
func (p *Process) End(ctx context.Context, signal syscall.Signal) error {
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
		return fmt.Errorf("child: %s was killed since it did not end in time: %w", filepath.Base(p.cmd.Path), ctx.Err())
	}
}
