package loadtest

import (
	"bufio"
	"context"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// shardURL makes an empty database beside the tests' own.
func shardURL(tb testing.TB) string {
	tb.Helper()
	base, name := txntest.URL(tb), strings.ReplaceAll(txntest.NewClinicID(tb), "-", "_")
	conn, err := pgx.Connect(context.Background(), base)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	target, err := url.Parse(base)
	if err != nil {
		tb.Fatal(err)
	}
	target.Path = "/" + name
	return target.String()
}

// run runs a command of the server's binary on the database and a shard.
func (c *cluster) run(shard string, args ...string) (string, error) {
	cmd := exec.Command(c.binary, args...)
	cmd.Env = append(os.Environ(), "STOCKLEDGER_DATABASE_URL="+c.databaseURL, "STOCKLEDGER_SHARDS="+shard)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *cluster) must(shard string, args ...string) string {
	c.tb.Helper()
	out, err := c.run(shard, args...)
	if err != nil {
		c.tb.Fatalf("stockledger %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestMoveIsKilled moves a clinic between two databases while clients reserve.
// At first the move is killed after each of its steps in turn; on the way back, at
// any time, a little later each time, and the node too.
func TestMoveIsKilled(t *testing.T) {
	t.Parallel()
	shard := "south=" + shardURL(t)
	setup := &cluster{tb: t, binary: buildServer(t), databaseURL: txntest.URL(t)}
	setup.must(shard, "migrate", "up")
	if out, err := setup.run(shard, "shard", "list"); err == nil || !strings.Contains(out, "stockledger shard add south") {
		t.Errorf("a database that is no shard yet: %v\n%s", err, out)
	}
	setup.must(shard, "shard", "add", "shard-1", "--region", "north")
	setup.must(shard, "shard", "add", "south", "--region", "south")

	c := startCluster(t, "--shard", shard)
	clinic := c.clinic(1 << 40)
	acks := &acknowledgements{sequences: make(map[*pb.CommandRequest]int64)}
	ctx, cancel := context.WithCancel(context.Background())
	clients := c.keepReserving(ctx, clinic, 8, acks)
	awaitMore(t, acks, 100)
	c.killMoveAfterEach(shard, clinic, "south", "shard-1")
	c.must(shard, "clinic", "move", clinic, "--to", "south")
	if left := c.leftBehind(shard, "shard-1"); left != "1" {
		t.Errorf("%s clinics have left shard-1", left)
	}
	if out, err := c.run(shard, "clinic", "purge", clinic, "--from", "south"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a purge where the clinic is: %v\n%s", err, out)
	}
	if out := c.must(shard, "clinic", "purge", clinic, "--from", "shard-1"); !strings.Contains(out, "rows deleted") {
		t.Errorf("a purge: %s", out)
	}
	if out := c.must(shard, "clinic", "purge", clinic, "--from", "shard-1"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a second purge: %s", out)
	}
	if left := c.leftBehind(shard, "shard-1"); left != "0" {
		t.Errorf("after the purge, %s clinics have left shard-1", left)
	}
	awaitMore(t, acks, 100)
	killed := c.moveKilled(shard, clinic, "shard-1")
	c.crash()
	awaitMore(t, acks, 100)
	cancel()
	clients.Wait()
	c.checkAcknowledged(acks)
	if out := c.must(shard, "verify", "--clinic", clinic); !strings.Contains(out, "0 violations") {
		t.Errorf("verify: %s", out)
	}
	if out := c.must(shard, "shard", "list"); !strings.Contains(out, "south") || strings.Contains(out, clinic) {
		t.Errorf("the shards are:\n%s", out)
	}
	if out := c.must(shard, "clinic", "move", clinic, "--to", "shard-1"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a move to where it is: %s", out)
	}
	t.Logf("%d commands acknowledged, %d not answered; the move back was killed %d times", acks.accepted.Load(), len(acks.sequences)-int(acks.accepted.Load()), killed)
}

// leftBehind is how many clinics have left something on a shard, as the list says.
func (c *cluster) leftBehind(shard, of string) string {
	c.tb.Helper()
	for line := range strings.Lines(c.must(shard, "shard", "list")) {
		if fields := strings.Fields(line); len(fields) == 6 && fields[0] == of {
			return fields[4]
		}
	}
	return "none of the shards is " + of
}

// move is a move of a clinic as a process of its own.
func (c *cluster) move(ctx context.Context, shard, clinic, to string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.binary, "clinic", "move", clinic, "--to", to, "--log-level", "debug")
	cmd.Env = append(os.Environ(), "STOCKLEDGER_DATABASE_URL="+c.databaseURL, "STOCKLEDGER_SHARDS="+shard)
	return cmd
}

// killMoveAfterEach moves a clinic and kills the move after each of its steps in
// turn. Whether a kill comes in time before the next step, nobody can say: what
// was over too soon is caught on the way back.
func (c *cluster) killMoveAfterEach(shard, clinic, to, from string) {
	c.tb.Helper()
	steps := []txn.MoveStep{txn.MoveBegin, txn.MoveCopy, txn.MoveSeal, txn.MoveRest, txn.MoveOpen, txn.MoveFlip, txn.MoveClear}
	for range 20 {
		n := 0
		for n < len(steps) && c.killMoveAfter(shard, clinic, to, steps[n]) {
			n++
		}
		c.must(shard, "clinic", "move", clinic, "--to", to)
		if steps = slices.Delete(steps, 0, n); len(steps) == 0 {
			return
		}
		to, from = from, to
	}
	c.tb.Fatalf("no move was killed after the steps %v", steps)
}

// killMoveAfter starts a move and kills it when it tells that a step is done. It
// reports whether it came to that.
func (c *cluster) killMoveAfter(shard, clinic, to string, step txn.MoveStep) bool {
	c.tb.Helper()
	ctx, kill := context.WithTimeout(context.Background(), time.Minute)
	defer kill()
	cmd := c.move(ctx, shard, clinic, to)
	told, err := cmd.StderrPipe()
	if err != nil {
		c.tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.tb.Fatal(err)
	}
	var heard []string
	for lines := bufio.NewScanner(told); lines.Scan(); {
		heard = append(heard, lines.Text())
		if strings.HasSuffix(lines.Text(), " step="+string(step)) {
			kill()
			_ = cmd.Wait()
			return true
		}
	}
	if err := cmd.Wait(); err != nil {
		c.tb.Fatalf("the move that was to be killed after %s: %v\n%s", step, err, strings.Join(heard, "\n"))
	}
	return false
}

// moveKilled starts a move until it ends by itself, and kills it a little later
// each time.
func (c *cluster) moveKilled(shard, clinic, to string) (killed int) {
	c.tb.Helper()
	for patience := 20 * time.Millisecond; ; patience += patience / 2 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		out, err := c.move(ctx, shard, clinic, to).CombinedOutput()
		late := ctx.Err() != nil
		cancel()
		switch {
		case err == nil:
			return killed
		case !late:
			c.tb.Fatalf("the move to %s: %v\n%s", to, err, out)
		case patience > time.Minute:
			c.tb.Fatalf("the move to %s does not end\n%s", to, out)
		}
		killed++
	}
}
