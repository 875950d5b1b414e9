// Package redistest starts real Redis servers for tests.
package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Server is a Redis server on a free loopback port that a test may kill. What it
// held it holds again when it comes back.
type Server struct {
	tb     testing.TB
	dir    string
	port   int
	cmd    *exec.Cmd
	output bytes.Buffer
	exited chan struct{}
}

// Start starts a server that ends with the test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	tb.Cleanup(func() {
		if s.cmd != nil {
			s.Kill()
		}
	})
	s.Restart()
	return s
}

// URL is the server's address.
func (s *Server) URL() string { return fmt.Sprintf("redis://127.0.0.1:%d/0", s.port) }

// Kill ends the server as a crash would.
func (s *Server) Kill() {
	s.tb.Helper()
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.exited
	s.cmd = nil
}

// Pause makes the server hang: it takes connections and answers nothing.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal os.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.tb.Fatal(err)
	}
}

// Restart starts the server after it was killed, and waits until it answers.
func (s *Server) Restart() {
	s.tb.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		s.tb.Fatal("the tests need Redis: apt-get install redis-server, or redis from another package manager")
	}
	s.cmd = exec.Command(binary, "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no")
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait() // how it ends is of no interest
		close(exited)
	}(s.cmd, s.exited)
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.ping() != nil {
		select {
		case <-tick.C:
		case <-s.exited:
			s.tb.Fatalf("redis-server ended:\n%s", s.output.String())
		case <-limit:
			s.tb.Fatal("redis-server does not answer")
		}
	}
}

// ping succeeds once the server has loaded what it held.
func (s *Server) ping() error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 7)
	if _, err := conn.Read(answer); err != nil {
		return err
	}
	if string(answer) != "+PONG\r\n" {
		return errors.New("it is loading")
	}
	return nil
}
