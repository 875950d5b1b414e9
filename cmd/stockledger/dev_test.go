package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// devProcess is a `stockledger dev` that a user started.
type devProcess struct {
	t        *testing.T
	cmd      *exec.Cmd
	stderr   bytes.Buffer
	commands []string // the printed ones to paste
	token    string   // the file
}

var (
	pasted    = regexp.MustCompile(`^  (curl -s .*)$`)
	tokenLine = regexp.MustCompile(`^  token +(\S+)`)
)

func startDev(t *testing.T, binary, dir string) *devProcess {
	t.Helper()
	p := &devProcess{t: t}
	p.cmd = exec.Command(binary, "dev", "--data-dir", dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(2*time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if m := pasted.FindStringSubmatch(lines.Text()); m != nil {
			p.commands = append(p.commands, m[1])
		}
		if m := tokenLine.FindStringSubmatch(lines.Text()); m != nil {
			p.token = m[1]
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C stops") {
			return p
		}
	}
	t.Fatalf("it ended before it was ready: %v\n%s", p.cmd.Wait(), p.stderr.String())
	return nil
}

func (p *devProcess) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("after Ctrl-C: %v\n%s", err, p.stderr.String())
	}
}

// paste runs a printed command as a shell does.
func (p *devProcess) paste(n int) string {
	p.t.Helper()
	if n >= len(p.commands) {
		p.t.Fatalf("%d commands were printed, want 3", len(p.commands))
	}
	out, err := exec.Command("sh", "-c", p.commands[n]).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v: %s", p.commands[n], err, out)
	}
	// The server's JSON has spaces in places that vary on purpose.
	return strings.ReplaceAll(string(out), " ", "")
}

func wantIn(t *testing.T, answer string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(answer, part) {
			t.Errorf("the answer does not have %s: %s", part, answer)
		}
	}
}

// TestDevIsReadyToTry does what the README tells a newcomer: start, paste three
// commands, stop, and start again with the data still there.
func TestDevIsReadyToTry(t *testing.T) {
	if os.Getenv("STOCKLEDGER_DATABASE_URL") != "" {
		t.Skip("the demo is for a database of its own")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the printed commands need curl")
	}
	binary := filepath.Join(t.TempDir(), "stockledger")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	dir := filepath.Join(t.TempDir(), "data")
	p := startDev(t, binary, dir)
	wantIn(t, p.paste(0), `"available":"1000"`, `"usable":"2000"`)
	wantIn(t, p.paste(1), `"accepted"`, `"available":"980","reserved":"20"`, `"holdId":"hold_`)
	wantIn(t, p.paste(1), `"reserved":"40"`)
	wantIn(t, p.paste(2), `"accepted"`, `"available":"955","reserved":"40"`)
	p.interrupt()

	again := startDev(t, binary, dir)
	wantIn(t, again.paste(0), `"available":"955","reserved":"40"`)
	wantIn(t, again.paste(2), `"available":"950","reserved":"40"`)
	again.interrupt()

	if out, err := exec.Command(binary, "dev", "--data-dir", dir, "--clean-data").CombinedOutput(); err != nil {
		t.Errorf("clean data: %v: %s", err, out)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the data folder is still there: %v", err)
	}
}
