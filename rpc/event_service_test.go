package rpc

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// watcher follows a clinic's events from node to node.
type watcher struct {
	clinic string
	filter *stockledgerv1.EventFilter
	last   *stockledgerv1.EventPlace
	seen   []int64
}

// follow watches on one node until it has seen the last event, or the node goes.
func (w *watcher) follow(ctx context.Context, c *client, until int64) error {
	stream, err := c.events.Watch(ctx, &stockledgerv1.WatchRequest{
		ClinicId: w.clinic, After: w.last, Filter: w.filter, Heartbeat: durationpb.New(1e9),
	})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for w.last.GetSequence() < until {
		told, err := stream.Receive()
		if err != nil {
			return err
		}
		if event := told.GetEvent(); event != nil {
			w.seen = append(w.seen, event.GetSequence())
			w.last = &stockledgerv1.EventPlace{Epoch: event.GetEpoch(), Sequence: event.GetSequence()}
			continue
		}
		w.last = told.GetHeartbeat()
	}
	return nil
}

// Two hundred watchers see every event once and in its order, while one of two
// nodes goes away in the middle and both write.
func TestWatchersMissNothingOverARestart(t *testing.T) {
	t.Parallel()
	first, second := startNode(t, Config{}, Deps{}), startNode(t, Config{}, Deps{})
	c := newClinic(t, second)
	auditor := Principal{Roles: []Role{RoleAuditor}, Clinics: []ledger.ClinicID{AllClinics}}
	token := second.token(t, auditor)
	old := first.client(first.token(t, auditor), h2c())
	next := second.client(token, h2c())

	const watchers, commands = 200, 120
	begin := c.must(t, receive("store", "L1", 1))[0].GetSequence()
	end := begin + commands
	var caughtUp sync.WaitGroup
	var gone atomic.Int32
	list := make([]*watcher, watchers)
	var all sync.WaitGroup
	caughtUp.Add(watchers)
	for i := range list {
		w := &watcher{clinic: c.id}
		list[i] = w
		all.Go(func() {
			if err := w.follow(t.Context(), old, begin); err != nil {
				t.Error(err)
			}
			caughtUp.Done()
			if w.follow(t.Context(), old, end) != nil {
				gone.Add(1)
			}
			if err := w.follow(t.Context(), next, end); err != nil {
				t.Error(err)
			}
		})
	}
	caughtUp.Wait()
	for n := range commands {
		c.must(t, receive("store", "L1", 1))
		if n == commands/2 {
			first.stop()
		}
	}
	all.Wait()
	want := make([]int64, end)
	for i := range want {
		want[i] = int64(i + 1)
	}
	for i, w := range list {
		if !slices.Equal(w.seen, want) {
			t.Fatalf("watcher %d saw %d events, want %d: %v", i, len(w.seen), len(want), w.seen)
		}
	}
	if gone.Load() == 0 {
		t.Error("no watcher noticed that its node went away")
	}
}

func TestEventsTellWhatHappened(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	hold := c.must(t, reserve("store", 120))[0]
	caller := n.client(n.token(t, pharmacist(c.id)), h1())
	stream, err := caller.events.Replay(t.Context(), &stockledgerv1.ReplayRequest{
		ClinicId: c.id, Filter: &stockledgerv1.EventFilter{Types: []string{"StockReserved"}, MedicineIds: []string{"zinc"}, LocationIds: []string{"store"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	told, err := stream.Receive()
	if err != nil || len(told.GetEvents()) != 1 || told.GetLooked().GetSequence() < hold.GetSequence() {
		t.Fatalf("told %v, %v", told, err)
	}
	event := told.GetEvents()[0]
	if event.GetType() != "StockReserved" || event.GetCommand() != "ReserveStock" || event.GetSequence() != hold.GetSequence() ||
		event.GetOutcome().GetStock().GetHoldId() != hold.GetStock().GetHoldId() || !slices.Equal(event.GetLocationIds(), []string{"store"}) {
		t.Errorf("told %v", event)
	}
	if _, err := stream.Receive(); err == nil {
		t.Error("the replay goes on after its end")
	}
	chain, err := caller.events.VerifyChain(t.Context(), &stockledgerv1.VerifyChainRequest{ClinicId: c.id, FromSequence: event.GetSequence(), FromHash: event.GetHash()})
	if err != nil || !chain.GetSound() || chain.GetLastSequence() != chain.GetAsOf().GetSequence() {
		t.Errorf("the chain is %v, %v", chain, err)
	}
	wrong := bytes.Repeat([]byte{1}, 32)
	chain, err = caller.events.VerifyChain(t.Context(), &stockledgerv1.VerifyChainRequest{ClinicId: c.id, FromSequence: event.GetSequence(), FromHash: wrong})
	if err != nil || chain.GetSound() || chain.GetBrokenSequence() != event.GetSequence() {
		t.Errorf("from a wrong checkpoint the chain is %v, %v", chain, err)
	}
}

func TestEventsRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	caller := n.client(n.token(t, pharmacist(c.id)), h1())
	for name, test := range map[string]struct {
		request *stockledgerv1.WatchRequest
		field   string
	}{
		"an unknown name": {&stockledgerv1.WatchRequest{ClinicId: c.id, Filter: &stockledgerv1.EventFilter{Types: []string{"StockVanished"}}}, "filter.types"},
		"two beginnings":  {&stockledgerv1.WatchRequest{ClinicId: c.id, FromNow: true, After: &stockledgerv1.EventPlace{Sequence: 1}}, "from_now"},
		"no heartbeat":    {&stockledgerv1.WatchRequest{ClinicId: c.id, Heartbeat: durationpb.New(0)}, "heartbeat"},
	} {
		stream, err := caller.events.Watch(t.Context(), test.request)
		if err == nil {
			_, err = stream.Receive()
		}
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantField(t, err, test.field)
	}
	_, err := caller.events.VerifyChain(t.Context(), &stockledgerv1.VerifyChainRequest{ClinicId: c.id, FromSequence: 3, FromHash: []byte{1}})
	wantField(t, err, "from_hash")
	_, err = caller.events.VerifyChain(t.Context(), &stockledgerv1.VerifyChainRequest{ClinicId: c.id, FromEpoch: 1})
	wantField(t, err, "from_epoch")
}

func wantField(tb testing.TB, err error, field string) {
	tb.Helper()
	if got := wantError(tb, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField).GetMetadata()["field"]; got != field {
		tb.Errorf("the error names %q, not %q", got, field)
	}
}
