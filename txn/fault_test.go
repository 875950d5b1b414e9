package txn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
	"github.com/stockledger/stockledger/txn/txntest/history"
)

// proxied returns an executor whose database is behind a proxy.
func proxied(t *testing.T) (*Executor, *faultproxy.Proxy) {
	t.Helper()
	proxy := faultproxy.New(t, testURL(t))
	db := openTest(t, Config{DatabaseURL: proxy.URL(), TransactionTimeout: time.Second})
	return testExecutorOn(t, db, ExecutorConfig{ResolveTimeout: 10 * time.Second}), proxy
}

// TestExecutorResolvesAmbiguousCommits cuts the connection around COMMIT: the
// caller must get the true answer, and the command must happen exactly once.
func TestExecutorResolvesAmbiguousCommits(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faultproxy.Fault{
		"the commit got lost":   faultproxy.LoseRequest,
		"its answer got lost":   faultproxy.LoseAnswer,
		"its answer is delayed": faultproxy.HoldAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, proxy := proxied(t)
			c := newTestClinic(t, e)
			c.receive(1000)
			for range 5 {
				proxy.Arm(fault)
				before := c.stored()
				v := c.give(c.command(reserve(7)))
				if v.Err != nil {
					t.Fatalf("verdict: %v", v.Err)
				}
				after := c.stored()
				if after.Head.Sequence != before.Head.Sequence+1 || after.Stock[0].Reserved != before.Stock[0].Reserved+7 {
					t.Fatalf("the command happened %d times", after.Head.Sequence-before.Head.Sequence)
				}
			}
			if proxy.Fired() != 5 {
				t.Errorf("%d faults happened, want 5", proxy.Fired())
			}
			c.verify()
		})
	}
}

// TestExecutorHistoryIsLinearizable runs callers on two nodes while commits are
// cut and the database goes away, and checks every answer.
func TestExecutorHistoryIsLinearizable(t *testing.T) {
	t.Parallel()
	first, proxy := proxied(t)
	nodes := []*Executor{first, testExecutor(t, ExecutorConfig{})}
	c := newTestClinic(t, nodes[1])
	c.receive(200)
	recorder := history.NewRecorder()

	var callers sync.WaitGroup
	for client := range 10 {
		callers.Go(func() {
			on := &testClinic{tb: t, e: nodes[client%2], id: c.id}
			random := rand.New(rand.NewPCG(1, uint64(client)))
			var held []ledger.HoldID
			for n := range 20 {
				switch random.IntN(16) {
				case 0:
					proxy.Arm(faultproxy.LoseRequest)
				case 1:
					proxy.Arm(faultproxy.LoseAnswer)
				case 2:
					proxy.Down()
					proxy.Up(t)
				}
				held = on.doOne(recorder, client, n, random, held)
			}
		})
	}
	callers.Wait()
	recorder.Check(t, 200, 0)
	t.Logf("%d operations, %d faults", recorder.Len(), proxy.Fired())
	c.verify()
}

// doOne reserves, releases or issues, and returns the caller's open holds.
func (c *testClinic) doOne(r *history.Recorder, client, n int, random *rand.Rand, held []ledger.HoldID) []ledger.HoldID {
	call := history.Call{Kind: history.Reserve, Quantity: 1 + random.Int64N(9)}
	var body ledger.CommandBody = reserve(call.Quantity)
	if len(held) > 0 && random.IntN(2) == 0 {
		call = history.Call{Kind: history.Release, Quantity: 1}
		body = &ledger.ReleaseStock{HoldID: held[0], Quantity: 1}
		if random.IntN(2) == 0 {
			call.Kind = history.Issue
			body = &ledger.IssueStock{HoldID: held[0], Quantity: 1}
		}
		held = held[1:]
	}
	command := ledger.Command{Clinic: c.id, Actor: "tester", IdempotencyKey: fmt.Sprintf("h-%d-%d", client, n), Body: body}
	r.Do(client, call, func() history.Answer {
		verdicts, err := c.e.Submit(context.Background(), Submission{Clinic: c.id, Commands: []ledger.Command{command}})
		if err == nil {
			err = verdicts[0].Err
		}
		if isRejection(err) {
			return history.Answer{Rejected: true}
		}
		if err != nil {
			if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrAmbiguous) {
				c.tb.Errorf("submit: %v", err)
			}
			return history.Answer{Unknown: true}
		}
		if reserved, ok := verdicts[0].Record.Event.Body.(*ledger.StockReserved); ok {
			held = append(held, reserved.HoldID)
		}
		entries := ledger.EntriesOf(verdicts[0].Record.Event)
		after := entries[len(entries)-1].After
		return history.Answer{Available: after.Available, Reserved: after.Reserved}
	})
	return held
}

// TestExecutorSurvivesTheDatabase takes the database away: callers are told at
// once, and everything goes on by itself when it is back.
func TestExecutorSurvivesTheDatabase(t *testing.T) {
	t.Parallel()
	e, proxy := proxied(t)
	c := newTestClinic(t, e)
	c.receive(1000)
	proxy.Down()
	command := c.command(reserve(5))
	began := time.Now()
	if v := c.give(command); !errors.Is(v.Err, ErrUnavailable) && !errors.Is(v.Err, ErrAmbiguous) {
		t.Errorf("without a database the verdict is %v", v.Err)
	}
	if v := c.give(c.command(reserve(1))); !errors.Is(v.Err, ErrUnavailable) {
		t.Errorf("the next verdict is %v", v.Err)
	}
	t.Logf("two verdicts after %v", time.Since(began))
	proxy.Up(t)
	if v := c.give(command); v.Err != nil {
		t.Fatalf("with the database back: %v", v.Err)
	}
	if got := c.stored().Stock[0].Reserved; got != 5 {
		t.Errorf("%d units are reserved, want 5", got)
	}
	c.verify()
}
