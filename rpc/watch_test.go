package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// watchFor is how long a test waits for what a watch should tell.
const watchFor = 30 * time.Second

// watching begins a watch that ends with the test, or when it has told nothing
// that the test waits for.
func watching(t *testing.T, c *client, req *stockledgerv1.WatchRequest) func() (*stockledgerv1.WatchResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchFor)
	t.Cleanup(cancel)
	stream, err := c.events.Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return stream.Receive
}

// told is what a watch tells next; a test fails where it ends.
func told(t *testing.T, receive func() (*stockledgerv1.WatchResponse, error)) *stockledgerv1.WatchResponse {
	t.Helper()
	response, err := receive()
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// Who watches for what seldom happens hears that the watch is alive, however
// much else is going on.
func TestAWatchOfABusyClinicIsNotSilent(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	caller := n.client(n.token(t, pharmacist(c.id)), h2c())
	receiveNext := watching(t, caller, &stockledgerv1.WatchRequest{
		ClinicId: c.id, FromNow: true, Heartbeat: durationpb.New(time.Second), Filter: &stockledgerv1.EventFilter{LocationIds: []string{"ward"}},
	})
	last := told(t, receiveNext).GetHeartbeat().GetSequence() // caught up with
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
				if _, err := c.admin.ReceiveStock(t.Context(), c.request(receive("store", "L1", 1))); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range 2 {
		beat := told(t, receiveNext).GetHeartbeat()
		if beat.GetSequence() <= last {
			t.Errorf("after sequence %d was heard, the watch tells %v", last, beat)
		}
		last = beat.GetSequence()
	}
	close(done)
	<-stopped
	event := c.must(t, receive("ward", "L1", 1))[0].GetSequence()
	for {
		response := told(t, receiveNext)
		if response.GetEvent() != nil {
			if got := response.GetEvent().GetSequence(); got != event {
				t.Errorf("the watch tells %d, want %d", got, event)
			}
			return
		}
	}
}

// A long past in which nothing is to be told is no silence either, and who comes
// back after a heartbeat does not begin anew.
func TestAWatchTellsWhereItIsInALongPast(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	const past = 2_200
	commands := make([]*stockledgerv1.Command, past)
	for i := range commands {
		commands[i] = receive("store", "L1", 1)
	}
	end := c.must(t, commands...)[past-1].GetSequence()
	service := &eventService{&queryHandler{queries: txn.NewQueries(txn.NewDirectory(txntest.Open(t)))}, txn.NewFeed(nil, time.Hour), nil, Webhooks{}}
	enough := errors.New("enough")
	beats := func(after txn.Place, count int) (heard []int64) {
		w := &watch{
			eventService: service, silence: 0, told: time.Now(), // silence begins at once
			reading: &reading{clinic: ledger.ClinicID(c.id), after: after, filter: &txn.EventFilter{Names: []string{"StockReserved"}}},
			send: func(response *stockledgerv1.WatchResponse) error {
				if response.GetEvent() != nil {
					t.Errorf("the watch tells %v", response.GetEvent())
				}
				heard = append(heard, response.GetHeartbeat().GetSequence())
				if len(heard) == count {
					return enough
				}
				return nil
			},
		}
		if err := w.run(t.Context()); !errors.Is(err, enough) {
			t.Fatal(err)
		}
		return heard
	}
	if heard := beats(txn.Place{}, 3); !slices.Equal(heard, []int64{1000, 2000, end}) {
		t.Errorf("heartbeats at %v", heard)
	}
	if heard := beats(txn.Place{Epoch: 1, Sequence: 1000}, 2); !slices.Equal(heard, []int64{2000, end}) {
		t.Errorf("after the first heartbeat, heartbeats at %v", heard)
	}
}

// A token's end is the end of what was begun with it.
func TestAWatchEndsWithItsToken(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	issuer := *n.issuer
	issuer.now = func() time.Time { return time.Now().Add(-time.Hour) }
	// Issued an hour ago, it is accepted for one or two seconds more.
	token, err := issuer.Issue(Principal{Subject: "asha", Roles: []Role{RolePharmacist}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}}, time.Hour-clockLeeway+2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	receiveNext := watching(t, n.client(token, h2c()), &stockledgerv1.WatchRequest{ClinicId: c.id, FromNow: true})
	if told(t, receiveNext).GetHeartbeat() == nil {
		t.Error("the watch does not begin with a heartbeat")
	}
	_, err = receiveNext()
	wantError(t, err, connect.CodeUnauthenticated, reasonUnauthenticated)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the watch went on for %s", took)
	}
	// What takes no longer than a call is not cut off: the token was good when it
	// came.
	short := &Principal{Expires: time.Now().Add(-time.Second)}
	if err := untilExpired(t.Context(), short, func(context.Context) error { return nil }); err != nil {
		t.Errorf("what ended well is told as %v", err)
	}
}

func TestAWatchTellsWhatPassesItsFilter(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	other := &stockledgerv1.Command{Body: &stockledgerv1.Command_AddMedicine{AddMedicine: &stockledgerv1.AddMedicine{MedicineId: "ors", Name: "ORS", BaseUnit: "sachet", Strength: "1 l"}}}
	start := c.must(t, other)[0].GetSequence()
	after := &stockledgerv1.EventPlace{Epoch: 1, Sequence: start}
	everybody := n.client(n.token(t, pharmacist(c.id)), h2c())
	ward := pharmacist(c.id)
	ward.Locations = []ledger.LocationID{"ward"}
	cases := map[string]struct {
		caller *client
		req    *stockledgerv1.WatchRequest
		want   []int64 // after start
	}{
		"a location":  {everybody, &stockledgerv1.WatchRequest{After: after, Filter: &stockledgerv1.EventFilter{LocationIds: []string{"ward"}}}, []int64{2, 4}},
		"a medicine":  {everybody, &stockledgerv1.WatchRequest{After: after, Filter: &stockledgerv1.EventFilter{MedicineIds: []string{"ors"}}}, nil},
		"a type":      {everybody, &stockledgerv1.WatchRequest{After: after, Filter: &stockledgerv1.EventFilter{Types: []string{"StockReserved"}}}, []int64{3, 4}},
		"both":        {everybody, &stockledgerv1.WatchRequest{After: after, Filter: &stockledgerv1.EventFilter{Types: []string{"StockReserved"}, LocationIds: []string{"ward"}}}, []int64{4}},
		"from now on": {everybody, &stockledgerv1.WatchRequest{FromNow: true}, []int64{1, 2, 3, 4}},
		"one's place": {n.client(n.token(t, ward), h2c()), &stockledgerv1.WatchRequest{After: after}, []int64{2, 4}},
	}
	begun := make(map[string]func() (*stockledgerv1.WatchResponse, error))
	for name, test := range cases {
		test.req.ClinicId, test.req.Heartbeat = c.id, durationpb.New(time.Second)
		begun[name] = watching(t, test.caller, test.req)
		if response := told(t, begun[name]); response.GetHeartbeat().GetSequence() != start {
			t.Errorf("%s: the watch begins with %v", name, response)
		}
	}
	end := c.must(t, receive("store", "L1", 1), receive("ward", "L1", 1), reserve("store", 1), reserve("ward", 1))[3].GetSequence()
	for name, test := range cases {
		var seen []int64
		for place := int64(0); place < end; {
			response := told(t, begun[name])
			place = response.GetHeartbeat().GetSequence()
			if event := response.GetEvent(); event != nil {
				seen, place = append(seen, event.GetSequence()-start), event.GetSequence()
			}
		}
		if !slices.Equal(seen, test.want) {
			t.Errorf("%s: the watch tells %v, want %v", name, seen, test.want)
		}
	}
}

// Who has seen what a restore took back is told so, and up to where it holds.
func TestAWatchOfWhatARestoreTookBack(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	var file bytes.Buffer
	exported, err := txn.ExportJournal(t.Context(), txntest.Open(t), ledger.ClinicID(c.id), &file, nil)
	if err != nil {
		t.Fatal(err)
	}
	last := int64(exported.Head.Sequence)
	lost := c.must(t, receive("store", "L1", 1), receive("store", "L1", 1))[1].GetSequence()
	second := restored(t, n, file.Bytes())
	caller := second.client(n.token(t, pharmacist(c.id)), h2c())
	for name, after := range map[string]*stockledgerv1.EventPlace{
		"what is lost":            {Epoch: 1, Sequence: lost},
		"what was never recorded": {Epoch: 1, Sequence: lost + 10},
	} {
		_, err = watching(t, caller, &stockledgerv1.WatchRequest{ClinicId: c.id, After: after})()
		info := wantError(t, err, connect.CodeFailedPrecondition, reasonJournalRewound)
		if m := info.GetMetadata(); m["last_common_sequence"] != strconv.FormatInt(last, 10) || m["epoch"] != "2" {
			t.Errorf("%s: the metadata is %v", name, m)
		}
	}
	// An honest checkpoint of what is lost is not called a forgery.
	_, err = caller.events.VerifyChain(t.Context(), &stockledgerv1.VerifyChainRequest{ClinicId: c.id, FromSequence: lost, FromHash: bytes.Repeat([]byte{1}, 32), FromEpoch: 1})
	wantError(t, err, connect.CodeFailedPrecondition, reasonJournalRewound)
	receiveNext := watching(t, caller, &stockledgerv1.WatchRequest{ClinicId: c.id, After: &stockledgerv1.EventPlace{Epoch: 1, Sequence: last - 1}})
	event := told(t, receiveNext).GetEvent()
	if event.GetSequence() != last || event.GetEpoch() != 1 {
		t.Errorf("the last common event is told as %s", fmt.Sprint(event.GetEpoch(), event.GetSequence()))
	}
	if beat := told(t, receiveNext).GetHeartbeat(); beat.GetSequence() != last {
		t.Errorf("the watch has caught up with %v", beat)
	}
	if _, err := caller.ReceiveStock(t.Context(), c.request(receive("ward", "L1", 1))); err != nil {
		t.Fatal(err)
	}
	for {
		if event := told(t, receiveNext).GetEvent(); event != nil {
			if event.GetSequence() != last+1 || event.GetEpoch() != 2 {
				t.Errorf("the first event of the new epoch is told as %d of epoch %d", event.GetSequence(), event.GetEpoch())
			}
			return
		}
	}
}
