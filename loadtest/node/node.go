// Package node runs the server as a process of its own, for whoever measures or
// breaks it from outside. It knows the command line and the admin port, and
// nothing of the API.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Node is a running server process.
type Node struct {
	// Address is host and port of the API.
	Address string
	// Admin is host and port of probes and metrics.
	Admin string
	// Token permits everything.
	Token string

	cmd    *exec.Cmd
	log    *bytes.Buffer
	exited chan struct{} // closed when the process has ended
	err    error         // what it ended with
}

const startTimeout = 30 * time.Second

// Start runs a binary's serve command, with more flags where there are any, and
// waits until it is ready. The key file is made where it is missing.
func Start(ctx context.Context, binary, databaseURL, keyFile string, flags ...string) (*Node, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	token, err := exec.CommandContext(ctx, binary, "token", "--issuer-key", keyFile, "--role", "admin", "--clinic", "*", "--subject", "loadtest", "--ttl", "24h").Output()
	if err != nil {
		return nil, fmt.Errorf("make a token with %s: %w", binary, err)
	}
	// Nodes that are not told where etcd is would each bring one of their own, and
	// a database belongs to one.
	if !slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, "--etcd-") }) {
		flags = append(slices.Clone(flags), "--no-cluster")
	}
	n := &Node{Address: address, Admin: admin, Token: strings.TrimSpace(string(token)), log: &bytes.Buffer{}, exited: make(chan struct{})}
	// Not tied to ctx: an interrupt must not kill it before it is stopped.
	n.cmd = exec.Command(binary, append([]string{
		"serve", "--database-url", databaseURL, "--listen", address, "--admin-listen", admin,
		"--issuer-key", keyFile, "--patient-key", keyFile + ".patients", "--log-level", "warn",
	}, flags...)...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the node: %w", err)
	}
	go func() {
		n.err = n.cmd.Wait()
		close(n.exited)
	}()
	if err := n.await(ctx, "http://"+admin+"/readyz"); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

// FreeAddress returns an address on this machine that nobody listens on now.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

func (n *Node) await(ctx context.Context, ready string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-n.exited:
			return fmt.Errorf("the node ended (%w): %s", n.err, n.log)
		case <-ctx.Done():
			return fmt.Errorf("the node did not become ready: %w: %s", ctx.Err(), n.log)
		case <-tick.C:
		}
	}
}

// Kill ends the process at once, as a crash would.
func (n *Node) Kill() error {
	if err := n.cmd.Process.Kill(); err != nil {
		return err
	}
	<-n.exited
	return nil
}

// Stop ends the process in good order.
func (n *Node) Stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-n.exited
	return n.err
}

// PeakMiB is the largest resident memory that the process ever had, or 0 where
// the system does not tell.
func (n *Node) PeakMiB() float64 { return n.status("VmHWM:") }

// MemoryMiB is the resident memory that the process has now, or 0 where the
// system does not tell.
func (n *Node) MemoryMiB() float64 { return n.status("VmRSS:") }

// status reads a size that the system keeps of the process, in MiB.
func (n *Node) status(name string) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}
