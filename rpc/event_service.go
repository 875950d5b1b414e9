package rpc

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// eventService tells what happened.
type eventService struct {
	*queryHandler
	feed     *txn.Feed
	ending   <-chan struct{}
	webhooks Webhooks
}

// defaultHeartbeat is how long a watch may be silent.
const defaultHeartbeat = 15 * time.Second

// eventsAtOnce is how many events are read at a time, and told in one message
// of a replay.
const eventsAtOnce = 500

// toEventFilter reads a filter, with what the caller may see.
func toEventFilter(ctx context.Context, f *stockledgerv1.EventFilter) (*txn.EventFilter, error) {
	known := ledger.EventNames()
	for _, name := range f.GetTypes() {
		if !slices.Contains(known, name) {
			return nil, invalidField("filter.types", "There is no event %q. There are %s.", name, strings.Join(known, ", "))
		}
	}
	filter := &txn.EventFilter{Names: f.GetTypes(), Within: only(ctx)}
	for _, id := range f.GetLocationIds() {
		filter.Locations = append(filter.Locations, ledger.LocationID(id))
	}
	for _, id := range f.GetMedicineIds() {
		filter.Medicines = append(filter.Medicines, ledger.MedicineID(id))
	}
	return filter, nil
}

func toPlace(p *stockledgerv1.EventPlace) txn.Place {
	return txn.Place{Epoch: p.GetEpoch(), Sequence: ledger.Sequence(p.GetSequence())}
}

func fromPlace(p txn.Place) *stockledgerv1.EventPlace {
	return &stockledgerv1.EventPlace{Epoch: p.Epoch, Sequence: int64(p.Sequence)}
}

// fromEvent renders an event for a caller.
func fromEvent(rendered results, e *txn.EventRecord) (*stockledgerv1.Event, error) {
	event := &e.Event
	outcome, err := rendered.accepted(e.Record, false)
	if err != nil {
		return nil, err
	}
	locations, medicines := event.Subjects()
	told := &stockledgerv1.Event{
		ClinicId: string(event.Clinic), Epoch: e.Epoch, Sequence: int64(event.Sequence),
		Type: event.Kind().EventName(), Command: event.Kind().String(), Actor: string(event.Actor), Witness: string(event.Witness),
		RecordedAt: fromInstant(event.At), OccurredAt: fromInstant(event.OccurredAt), Outcome: outcome, Hash: e.Hash[:],
		LocationIds: each(locations, func(id ledger.LocationID) string { return string(id) }),
		MedicineIds: each(medicines, func(id ledger.MedicineID) string { return string(id) }),
	}
	if names := event.Names(); len(names) > 1 {
		told.ApprovedType = names[1]
	}
	return told, nil
}

// reading is a reader's place in a clinic's events.
type reading struct {
	clinic   ledger.ClinicID
	after    txn.Place
	to       ledger.Sequence // 0: no end
	filter   *txn.EventFilter
	rendered results
}

// next reads on: the events that pass, and whether all there is was looked at.
func (s *eventService) next(ctx context.Context, r *reading) ([]*stockledgerv1.Event, bool, error) {
	found, looked, asOf, err := s.queries.Events(ctx, r.clinic, r.after, r.filter, eventsAtOnce, txn.ReadOptions{})
	if err != nil {
		return nil, false, err
	}
	r.after = looked
	var events []*stockledgerv1.Event
	for i := range found {
		if r.to > 0 && found[i].Event.Sequence > r.to {
			break
		}
		event, err := fromEvent(r.rendered, &found[i])
		if err != nil {
			return nil, false, err
		}
		events = append(events, event)
	}
	return events, looked.Sequence >= asOf.Sequence || r.to > 0 && looked.Sequence >= r.to, nil
}

func (s *eventService) begin(ctx context.Context, clinic string, after *stockledgerv1.EventPlace, f *stockledgerv1.EventFilter) (*reading, error) {
	filter, err := toEventFilter(ctx, f)
	if err != nil {
		return nil, err
	}
	return &reading{clinic: ledger.ClinicID(clinic), after: toPlace(after), filter: filter, rendered: resultsFor(principalOf(ctx))}, nil
}

// Watch tells events as they are recorded.
func (s *eventService) Watch(ctx context.Context, req *stockledgerv1.WatchRequest, stream stockledgerv1connect.EventServiceWatchServerStream) error {
	r, err := s.begin(ctx, req.GetClinicId(), req.GetAfter(), req.GetFilter())
	if err != nil {
		return err
	}
	if req.GetFromNow() {
		if req.GetAfter() != nil {
			return invalidField("from_now", "Begin after an event or from now on, not both.")
		}
		if r.after, err = s.now(ctx, r.clinic); err != nil {
			return err
		}
	}
	silence := defaultHeartbeat
	if req.GetHeartbeat() != nil {
		silence = req.GetHeartbeat().AsDuration()
	}
	w := &watch{eventService: s, reading: r, send: stream.Send, silence: silence, told: time.Now()}
	return w.run(ctx)
}

// watch is a watch under way.
type watch struct {
	*eventService
	*reading
	send func(*stockledgerv1.WatchResponse) error
	// silence is how long the caller may hear nothing, whatever happens at the
	// clinic and however much of its past is passed over.
	silence time.Duration
	told    time.Time // when the caller last heard something
}

// run tells events until the caller leaves or the node does.
func (w *watch) run(ctx context.Context) error {
	caughtUp := false
	for {
		events, all, err := w.next(ctx, w.reading)
		if err != nil {
			return err
		}
		for _, event := range events {
			if err := w.tell(&stockledgerv1.WatchResponse{Kind: &stockledgerv1.WatchResponse_Event{Event: event}}); err != nil {
				return err
			}
		}
		if hasEnded(w.ending) {
			return watchElsewhere()
		}
		if all && !caughtUp || time.Since(w.told) >= w.silence {
			if err := w.beat(); err != nil {
				return err
			}
		}
		if !all {
			continue
		}
		caughtUp = true
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

func (w *watch) tell(response *stockledgerv1.WatchResponse) error {
	err := w.send(response)
	w.told = time.Now()
	return err
}

// beat tells up to where the journal was looked at.
func (w *watch) beat() error {
	return w.tell(&stockledgerv1.WatchResponse{Kind: &stockledgerv1.WatchResponse_Heartbeat{Heartbeat: fromPlace(w.after)}})
}

// wait waits for more, at most until the caller has to hear something.
func (w *watch) wait(ctx context.Context) error {
	waiting, stop := context.WithDeadline(ctx, w.told.Add(w.silence))
	defer stop()
	grown := make(chan struct{})
	go func() {
		defer close(grown)
		_ = w.feed.Wait(waiting, w.clinic, w.after) // its end is all that it has to say
	}()
	select {
	case <-grown:
		return ctx.Err()
	case <-w.ending:
		return watchElsewhere()
	}
}

func watchElsewhere() error {
	return fail(reasonShuttingDown, "This node is shutting down; watch on another one, after the last place you were told.")
}

// now is the end of a clinic's journal.
func (s *eventService) now(ctx context.Context, clinic ledger.ClinicID) (txn.Place, error) {
	_, asOf, err := s.queries.Clinic(ctx, clinic, txn.ReadOptions{})
	return txn.Place{Epoch: asOf.Epoch, Sequence: asOf.Sequence}, err
}

// Replay tells a part of the journal.
func (s *eventService) Replay(ctx context.Context, req *stockledgerv1.ReplayRequest, stream stockledgerv1connect.EventServiceReplayServerStream) error {
	r, err := s.begin(ctx, req.GetClinicId(), req.GetAfter(), req.GetFilter())
	if err != nil {
		return err
	}
	r.to = ledger.Sequence(req.GetToSequence())
	for {
		events, all, err := s.next(ctx, r)
		if err != nil {
			return err
		}
		if err := stream.Send(&stockledgerv1.ReplayResponse{Events: events, Looked: fromPlace(r.after)}); err != nil || all {
			return err
		}
		if hasEnded(s.ending) {
			return fail(reasonShuttingDown, "This node is shutting down; go on at another one, after the last place that was looked at.")
		}
	}
}

// VerifyChain follows the hash chain.
func (s *eventService) VerifyChain(ctx context.Context, req *stockledgerv1.VerifyChainRequest) (*stockledgerv1.VerifyChainResponse, error) {
	from := txn.Checkpoint{Sequence: ledger.Sequence(req.GetFromSequence()), Epoch: req.GetFromEpoch()}
	switch hash := req.GetFromHash(); {
	case from.Sequence == 0 && len(hash) > 0:
		return nil, invalidField("from_hash", "The beginning has no hash of its own: leave from_hash out, or name the sequence that it belongs to.")
	case from.Sequence == 0 && from.Epoch > 0:
		return nil, invalidField("from_epoch", "The beginning is the same in every epoch: leave from_epoch out, or name the checkpoint that it belongs to.")
	case from.Sequence > 0 && len(hash) != len(from.Hash):
		return nil, invalidField("from_hash", "A hash has %d bytes; from_hash has %d.", len(from.Hash), len(hash))
	default:
		copy(from.Hash[:], hash)
	}
	last, broken, asOf, err := s.queries.VerifyChain(ctx, ledger.ClinicID(req.GetClinicId()), from, nil)
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.VerifyChainResponse{
		Sound: broken == nil, LastSequence: int64(last.Sequence), LastHash: last.Hash[:], AsOf: fromAsOf(asOf),
	}
	if broken != nil {
		response.BrokenSequence, response.Problem = int64(broken.Sequence), broken.Problem
	}
	return response, nil
}
