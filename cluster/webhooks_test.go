package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/rpc/webhook"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// received is an event as a receiver saw it.
type received struct {
	id, kind        string
	epoch, sequence int64
	data            map[string]any
}

// receiver is where events are sent. It answers as the test wants, and takes in
// what it answers with 204.
type receiver struct {
	*httptest.Server
	tb      testing.TB
	secrets []webhook.Secret

	mu     sync.Mutex
	now    func() time.Time
	answer func(w http.ResponseWriter, e received, attempt int) int
	tries  int
	taken  []received
}

func newReceiver(tb testing.TB, secrets ...webhook.Secret) *receiver {
	tb.Helper()
	r := &receiver{tb: tb, secrets: secrets, now: time.Now}
	r.Server = httptest.NewServer(http.HandlerFunc(r.receive))
	tb.Cleanup(r.Close)
	return r
}

func (r *receiver) receive(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // the courier has left
	}
	r.mu.Lock()
	now := r.now()
	r.mu.Unlock()
	if err := webhook.Verify(request.Header, body, now, r.secrets...); err != nil {
		r.tb.Errorf("a delivery is not signed: %v", err)
	}
	var e struct {
		SpecVersion, ID, Source, Type, Time, Epoch, Sequence, DataContentType string
		Data                                                                  map[string]any
	}
	if err := json.Unmarshal(body, &e); err != nil {
		r.tb.Errorf("%s: %v", body, err)
	}
	got := received{id: e.ID, kind: e.Type, data: e.Data}
	got.epoch, _ = strconv.ParseInt(e.Epoch, 10, 64)
	got.sequence, _ = strconv.ParseInt(e.Sequence, 10, 64)
	if _, err := time.Parse(time.RFC3339Nano, e.Time); err != nil || e.SpecVersion != "1.0" || e.DataContentType != "application/json" || len(e.Sequence) != 19 ||
		request.Header.Get("Content-Type") != "application/cloudevents+json" || request.Header.Get(webhook.HeaderID) != e.ID ||
		e.ID != fmt.Sprintf("%s/%d/%d", strings.TrimPrefix(e.Source, "/clinics/"), got.epoch, got.sequence) || e.Data["sequence"] != fmt.Sprint(got.sequence) {
		r.tb.Errorf("this is no event of ours: %s", body)
	}
	r.mu.Lock()
	r.tries++
	answer, attempt := r.answer, r.tries
	r.mu.Unlock()
	status := http.StatusNoContent
	if answer != nil {
		status = answer(w, got, attempt)
	}
	if status == http.StatusNoContent {
		r.mu.Lock()
		r.taken = append(r.taken, got)
		r.mu.Unlock()
	}
	w.WriteHeader(status)
}

func (r *receiver) setAnswer(answer func(w http.ResponseWriter, e received, attempt int) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func always(code int) func(http.ResponseWriter, received, int) int {
	return func(http.ResponseWriter, received, int) int { return code }
}

func (r *receiver) attempts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

// all are the events that were taken in, each as often as it was.
func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

// once are the sequences that were taken in, without those that had been before.
func (r *receiver) once() (sequences []int64) {
	seen := make(map[[2]int64]bool)
	for _, e := range r.all() {
		if place := [2]int64{e.epoch, e.sequence}; !seen[place] {
			seen[place] = true
			sequences = append(sequences, e.sequence)
		}
	}
	return sequences
}

// fromTo lists sequences.
func fromTo(first, last ledger.Sequence) (all []int64) {
	for s := first; s <= last; s++ {
		all = append(all, int64(s))
	}
	return all
}

// gets waits until events of just these sequences were taken in, in this order.
func (r *receiver) gets(want []int64) {
	r.tb.Helper()
	eventually(r.tb, fmt.Sprintf("%d events arrive", len(want)), func() bool { return len(r.once()) >= len(want) })
	if got := r.once(); !slices.Equal(got, want) {
		r.tb.Errorf("the events %v arrived, not %v", got, want)
	}
}

// clock is a time that a test moves.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += by
}

// office is a node that executes and delivers.
type office struct {
	tb       testing.TB
	db       *txn.DB
	store    *txn.Webhooks
	executor *txn.Executors
	courier  *Courier
	stop     func()
	mine     sync.Map // the clinics whose home it is; tests share a database
}

// plainSecrets takes what is stored for the secrets themselves.
func plainSecrets(w *txn.Webhook, now time.Time) (live []webhook.Secret) {
	if len(w.Secret) > 0 {
		live = append(live, w.Secret)
	}
	if now.Before(w.OldSecretUntil) {
		live = append(live, w.OldSecret)
	}
	return live
}

// open starts a node that delivers to this machine, and looks often.
func open(tb testing.TB, db *txn.DB, cfg CourierConfig) *office {
	tb.Helper()
	directory := txn.NewDirectory(db)
	feed := txn.NewFeed(directory, time.Hour)
	o := &office{tb: tb, db: db, store: txn.NewWebhooks(directory), executor: txn.NewExecutors(directory, txn.ExecutorConfig{Feed: feed, Log: quiet}, nil)}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = 20 * time.Millisecond
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = time.Millisecond
	}
	cfg.IsHome = func(clinic ledger.ClinicID) bool {
		_, mine := o.mine.Load(clinic)
		return mine
	}
	cfg.Render, cfg.Secrets, cfg.AllowPrivate, cfg.Log = rpc.WebhookEvent, plainSecrets, !cfg.AllowPrivate, quiet
	o.courier = NewCourier(o.store, txn.NewQueries(directory), NewRouter(o.executor, nil, quiet), cfg)
	feed.Tell(o.courier.Committed)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { o.courier.Run(ctx) })
	o.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	tb.Cleanup(func() {
		o.stop()
		_ = o.executor.Close(context.Background())
	})
	return o
}

// onlyPublic has [open] make a courier that refuses private addresses.
const onlyPublic = true

var testSecretKey = webhook.Secret(strings.Repeat("s", 32))

// hook has a clinic's events from the beginning sent to a URL.
func (o *office) hook(clinic ledger.ClinicID, id, url string, change ...func(*txn.Webhook)) txn.WebhookKey {
	o.tb.Helper()
	o.mine.Store(clinic, true)
	now := time.Now().Truncate(time.Microsecond)
	w := txn.Webhook{
		WebhookKey: txn.WebhookKey{Clinic: clinic, ID: id}, URL: url, Secret: testSecretKey, Cursor: txn.Place{Epoch: 1},
		WebhookProgress: txn.WebhookProgress{DueAt: now}, CreatedBy: "amina", CreatedAt: now,
	}
	for _, fn := range change {
		fn(&w)
	}
	if _, _, err := o.store.Create(context.Background(), w); err != nil {
		o.tb.Fatal(err)
	}
	o.courier.Changed(clinic)
	return w.WebhookKey
}

func (o *office) get(key txn.WebhookKey) txn.Webhook {
	o.tb.Helper()
	w, err := o.store.Get(context.Background(), key)
	if err != nil {
		o.tb.Fatal(err)
	}
	return w
}

func (o *office) change(key txn.WebhookKey, change func(*txn.Webhook)) {
	o.tb.Helper()
	if _, err := o.store.Change(context.Background(), key, func(w *txn.Webhook) error { change(w); return nil }); err != nil {
		o.tb.Fatal(err)
	}
	o.courier.Changed(key.Clinic)
}

// receiveStock has units received, a command at a time.
func (o *office) receiveStock(clinic ledger.ClinicID, label string, commands int) {
	o.tb.Helper()
	for i := range commands {
		o.command(clinic, fmt.Sprint(label, i), receiving(1))
	}
}

func (o *office) command(clinic ledger.ClinicID, key string, body ledger.CommandBody) {
	o.tb.Helper()
	verdicts, err := o.executor.Submit(context.Background(), txn.Submission{Clinic: clinic, Commands: []ledger.Command{{Clinic: clinic, IdempotencyKey: key, Actor: "amina", Body: body}}})
	if err == nil {
		err = verdicts[0].Err
	}
	if err != nil {
		o.tb.Fatal(err)
	}
}

// Whatever a webhook's receiver refuses, and however nodes die and take over, it
// takes in every event, first in the order of the journal.
func TestEventsSurviveTheirNode(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, testSecretKey)
	r.setAnswer(func(_ http.ResponseWriter, _ received, attempt int) int {
		if attempt%7 == 3 {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	url := txntest.URL(t)
	doomed, err := txn.Open(t.Context(), txn.Config{DatabaseURL: url, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	first := open(t, doomed, CourierConfig{})
	clinic := clinics(t, first.executor, 1, 0)[0]
	first.receiveStock(clinic, "a", 300)
	key := first.hook(clinic, "billing", r.URL)
	eventually(t, "a part is delivered", func() bool { return len(r.all()) > 120 })
	doomed.Close() // in the middle: what was delivered last cannot be recorded
	first.stop()
	arrived := len(r.all())

	second := open(t, txntest.Open(t), CourierConfig{})
	second.mine.Store(clinic, true)
	second.receiveStock(clinic, "b", 20)
	last := head(t, second.db, clinic)
	r.gets(fromTo(1, last))
	if arrived >= int(last) {
		t.Errorf("%d events had arrived before the node died", arrived)
	}
	eventually(t, "the cursor is at the end", func() bool { return second.get(key).Cursor == txn.Place{Epoch: 1, Sequence: last} })
	if w := second.get(key); w.Attempts != 0 || w.DeliveredAt.IsZero() {
		t.Errorf("it is %+v", w)
	}
}

// Two nodes that both believe they are a clinic's home deliver twice. None is
// left out, and the cursor does not go back.
func TestTwoCouriersOnlyRepeat(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, testSecretKey)
	db := txntest.Open(t)
	a := open(t, db, CourierConfig{})
	clinic := clinics(t, a.executor, 1, 0)[0]
	a.receiveStock(clinic, "a", 100)
	key := a.hook(clinic, "billing", r.URL)
	b := open(t, db, CourierConfig{})
	b.mine.Store(clinic, true)
	cursors := make(chan struct{})
	go func() {
		defer close(cursors)
		for last := (txn.Place{}); last.Sequence < 300; {
			w, err := a.store.Get(context.Background(), key)
			if err != nil {
				t.Error(err)
				return
			}
			if w.Cursor.Sequence < last.Sequence {
				t.Errorf("the cursor went from %v to %v", last, w.Cursor)
			}
			last = w.Cursor
		}
	}()
	for i := range 200 {
		a.command(clinic, fmt.Sprint("b", i), receiving(1))
	}
	last := head(t, db, clinic)
	r.gets(fromTo(1, last))
	<-cursors
	eventually(t, "the cursor is at the end", func() bool { return a.get(key).Cursor.Sequence == last })
	if got := len(r.all()); got == int(last) {
		t.Logf("all %d events came once: the two did not meet", got)
	}
	delivered := func(o *office) float64 {
		return testutil.ToFloat64(o.courier.metrics.attempts.WithLabelValues("delivered"))
	}
	eventually(t, "the deliveries are counted", func() bool { return delivered(a)+delivered(b) >= float64(last) })
}

// A commit of the node itself is delivered without waiting for the next look.
func TestCommitsAreDeliveredAtOnce(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, testSecretKey)
	o := open(t, txntest.Open(t), CourierConfig{LookEvery: time.Hour})
	clinic := clinics(t, o.executor, 1, 0)[0]
	eventually(t, "the courier runs", func() bool {
		o.courier.mu.Lock()
		defer o.courier.mu.Unlock()
		return o.courier.ctx != nil
	})
	o.hook(clinic, "billing", r.URL)
	r.gets(fromTo(1, 5))
	o.receiveStock(clinic, "a", 3)
	r.gets(fromTo(1, 8))
	first := r.all()[0]
	if first.kind != "stockledger.v1.ClinicCreated" || first.data["clinicId"] != string(clinic) {
		t.Errorf("the first is %+v", first)
	}
}

// A webhook that fails for a day is paused, with its reason; resumed it goes on
// where it was.
func TestWebhooksThatFailArePaused(t *testing.T) {
	t.Parallel()
	r, at := newReceiver(t, testSecretKey), &clock{}
	r.mu.Lock()
	r.now, r.answer = at.now, always(http.StatusInternalServerError)
	r.mu.Unlock()
	o := open(t, txntest.Open(t), CourierConfig{Clock: at.now, RetryAfter: time.Minute, RetryAtMost: time.Hour})
	clinic := clinics(t, o.executor, 1, 0)[0]
	key := o.hook(clinic, "billing", r.URL)
	eventually(t, "an attempt fails", func() bool { return o.get(key).Attempts == 1 })
	w := o.get(key)
	if pause := w.DueAt.Sub(w.FailingSince); pause < 30*time.Second || pause > time.Minute || !strings.Contains(w.LastFailure, "500") || w.Cursor.Sequence != 0 {
		t.Errorf("after a failure it is %+v", w)
	}
	eventually(t, "it is seen to wait", func() bool { return testutil.ToFloat64(o.courier.metrics.lag) > 0 })
	o.receiveStock(clinic, "a", 1) // commits do not make it try earlier
	at.advance(time.Minute)
	eventually(t, "another one fails", func() bool { return o.get(key).Attempts == 2 })
	if w := o.get(key); w.DueAt.Sub(at.now()) <= 0 {
		t.Errorf("after two failures it is %+v", w)
	}
	for o.get(key).PausedAt.IsZero() {
		tried := o.get(key).Attempts
		at.advance(time.Hour)
		eventually(t, "another one fails", func() bool { return o.get(key).Attempts > tried })
	}
	w = o.get(key)
	if failing := w.PausedAt.Sub(w.FailingSince); w.PauseReason != txn.PausedFailing || failing < 24*time.Hour || failing > 26*time.Hour {
		t.Errorf("paused after %v: %+v", failing, w)
	}
	eventually(t, "it is counted", func() bool {
		return testutil.ToFloat64(o.courier.metrics.paused) == 1 && testutil.ToFloat64(o.courier.metrics.lag) == 0
	})
	tried := r.attempts()
	at.advance(48 * time.Hour)
	o.receiveStock(clinic, "b", 1)
	r.setAnswer(nil)
	o.change(key, func(w *txn.Webhook) { w.Resume(at.now().Truncate(time.Microsecond)) })
	r.gets(fromTo(1, 7))
	if got := r.attempts(); got != tried+7 {
		t.Errorf("%d attempts after the pause, %d before", got-tried, tried)
	}
}

func TestReceiversThatWantNoMore(t *testing.T) {
	t.Parallel()
	gone, busy, at := newReceiver(t, testSecretKey), newReceiver(t, testSecretKey), &clock{}
	gone.setAnswer(always(http.StatusGone))
	busy.setAnswer(func(w http.ResponseWriter, _ received, _ int) int {
		w.Header().Set("Retry-After", "1200")
		return http.StatusTooManyRequests
	})
	o := open(t, txntest.Open(t), CourierConfig{Clock: at.now})
	clinic := clinics(t, o.executor, 1, 0)[0]
	ended, waits, locked := o.hook(clinic, "gone", gone.URL), o.hook(clinic, "busy", busy.URL), o.hook(clinic, "locked", gone.URL, func(w *txn.Webhook) { w.Secret = []byte{} })
	eventually(t, "410 pauses at once", func() bool { return o.get(ended).PauseReason == txn.PausedGone })
	eventually(t, "who has no secret is paused", func() bool { return o.get(locked).PauseReason == txn.PausedNoSecret })
	eventually(t, "429 is waited for", func() bool { return o.get(waits).Attempts == 1 })
	if w := o.get(waits); w.DueAt.Sub(w.FailingSince) != 20*time.Minute {
		t.Errorf("who asked for a pause is tried again after %v", w.DueAt.Sub(w.FailingSince))
	}
	if n := gone.attempts(); n != 1 {
		t.Errorf("who wants no more was asked %d times", n)
	}
}

// While receivers hang, others get their events.
func TestSlowReceiversHoldUpNoOther(t *testing.T) {
	t.Parallel()
	free := make(chan struct{})
	hanging, good := newReceiver(t, testSecretKey), newReceiver(t, testSecretKey)
	hanging.setAnswer(func(http.ResponseWriter, received, int) int {
		<-free
		return http.StatusNoContent
	})
	t.Cleanup(func() { close(free) })
	// One place only: a webhook that failed before does not take it from the others.
	o := open(t, txntest.Open(t), CourierConfig{Webhooks: 1, Timeout: 100 * time.Millisecond, RetryAfter: time.Millisecond, RetryAtMost: 2 * time.Millisecond})
	clinic := clinics(t, o.executor, 1, 0)[0]
	slow := []txn.WebhookKey{o.hook(clinic, "slow-1", hanging.URL), o.hook(clinic, "slow-2", hanging.URL), o.hook(clinic, "slow-3", hanging.URL)}
	for _, key := range slow {
		eventually(t, "it hangs", func() bool { return o.get(key).Attempts > 0 })
	}
	if w := o.get(slow[0]); !strings.Contains(w.LastFailure, "in time") {
		t.Errorf("it is %+v", w)
	}
	o.hook(clinic, "good", good.URL)
	good.gets(fromTo(1, 5))
	before := o.get(slow[0]).Attempts
	o.receiveStock(clinic, "a", 50)
	good.gets(fromTo(1, 55))
	eventually(t, "the slow ones are still tried", func() bool { return o.get(slow[0]).Attempts > before })
	if got := len(hanging.all()); got != 0 {
		t.Errorf("%d events were taken in by who hangs", got)
	}
}

// A place is for a turn only: those that are slow and take events in cannot keep
// it for as long as they have any left.
func TestPlacesGoRound(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, testSecretKey)
	o := open(t, txntest.Open(t), CourierConfig{Webhooks: 1})
	ids := clinics(t, o.executor, 2, 0)
	o.receiveStock(ids[0], "a", 4*eventsATurn)
	o.hook(ids[0], "long", r.URL)
	eventually(t, "the long one has begun", func() bool { return len(r.all()) > 0 })
	o.hook(ids[1], "short", r.URL)
	eventually(t, "all arrives", func() bool { return len(r.all()) == 4*eventsATurn+10 })
	all := r.all()
	ended := slices.IndexFunc(all, func(e received) bool { return e.data["clinicId"] == string(ids[1]) })
	if ended > 3*eventsATurn {
		t.Errorf("the short one came at place %d of %d", ended, len(all))
	}
}

func TestWebhooksAreReplayed(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, testSecretKey)
	o := open(t, txntest.Open(t), CourierConfig{})
	clinic := clinics(t, o.executor, 1, 0)[0]
	key := o.hook(clinic, "billing", r.URL)
	r.gets(fromTo(1, 5))
	eventually(t, "it is recorded", func() bool { return o.get(key).Cursor.Sequence == 5 })
	o.change(key, func(w *txn.Webhook) { w.Cursor = txn.Place{Epoch: 1, Sequence: 2} })
	eventually(t, "they come again", func() bool { return len(r.all()) == 8 })
	var again []string
	for _, e := range r.all()[5:] {
		again = append(again, strings.TrimPrefix(e.id, string(clinic)))
	}
	if !slices.Equal(again, []string{"/1/3", "/1/4", "/1/5"}) {
		t.Errorf("%v came again", again)
	}
}

// After a restore a webhook goes on after the last command that both journals
// have, and the epoch tells.
func TestWebhooksFollowARestore(t *testing.T) {
	t.Parallel()
	r, lost := newReceiver(t, testSecretKey), newReceiver(t, testSecretKey)
	o := open(t, txntest.Open(t), CourierConfig{})
	clinic := clinics(t, o.executor, 1, 0)[0]
	key := o.hook(clinic, "billing", r.URL)
	r.gets(fromTo(1, 5))
	eventually(t, "it is recorded", func() bool { return o.get(key).Cursor.Sequence == 5 })
	if _, err := txn.StartEpoch(t.Context(), o.db, clinic, 0); err != nil {
		t.Fatal(err)
	}
	// It had been sent more than was restored.
	o.change(key, func(w *txn.Webhook) { w.Cursor = txn.Place{Epoch: 1, Sequence: 9} })
	eventually(t, "it is back at the last common command", func() bool { return o.get(key).Cursor == txn.Place{Epoch: 2, Sequence: 5} })
	unknown := o.hook(clinic, "lost", lost.URL, func(w *txn.Webhook) { w.Cursor = txn.Place{Epoch: 7, Sequence: 3} })
	eventually(t, "what is in a later epoch is paused", func() bool { return o.get(unknown).PauseReason == txn.PausedRewound })
	fresh := newExecutor(t, o.db, nil) // the other one does not know of the restore
	if verdicts, err := fresh.Submit(t.Context(), issue("i1", clinic, 1)); err != nil || verdicts[0].Err != nil {
		t.Fatal(verdicts, err)
	}
	r.gets(fromTo(1, 6))
	if last := r.all()[5]; last.epoch != 2 || last.id != fmt.Sprintf("%s/2/6", clinic) {
		t.Errorf("after the restore comes %+v", last)
	}
	if n := lost.attempts(); n != 0 {
		t.Errorf("%d deliveries to who cannot be understood", n)
	}
}

func TestWebhooksAreSentWhatTheyMaySee(t *testing.T) {
	t.Parallel()
	o := open(t, txntest.Open(t), CourierConfig{})
	clinic := clinics(t, o.executor, 1, 0)[0]
	o.command(clinic, "ward", &ledger.CreateLocation{LocationID: "ward", Name: "Ward", LocationKind: ledger.Ward})
	o.command(clinic, "in", &ledger.ReceiveStock{LocationID: "ward", LotID: "L1", Quantity: 7})
	o.command(clinic, "out", &ledger.IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 3, ReasonCode: "WARD"})
	last := head(t, o.db, clinic)
	for id, test := range map[string]struct {
		filter txn.EventFilter
		want   []int64
	}{
		"names":    {txn.EventFilter{Names: []string{"StockReceived"}}, []int64{5, 7}},
		"location": {txn.EventFilter{Locations: []ledger.LocationID{"ward"}}, []int64{6, 7}},
		"medicine": {txn.EventFilter{Medicines: []ledger.MedicineID{"zinc"}, Names: []string{"StockIssued"}}, []int64{8}},
		// Whoever made it could see the ward alone, whatever it asked for.
		"limited": {txn.EventFilter{Names: []string{"StockReceived", "StockIssued"}, Within: []ledger.LocationID{"ward"}}, []int64{7}},
		"beyond":  {txn.EventFilter{Locations: []ledger.LocationID{"store"}, Within: []ledger.LocationID{"ward"}}, nil},
	} {
		r := newReceiver(t, testSecretKey)
		key := o.hook(clinic, id, r.URL, func(w *txn.Webhook) { w.Filter = test.filter })
		eventually(t, id+" has seen all", func() bool { return o.get(key).Cursor.Sequence == last })
		r.gets(test.want)
	}
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, testSecretKey)
	private := open(t, txntest.Open(t), CourierConfig{AllowPrivate: onlyPublic})
	clinic := clinics(t, private.executor, 1, 0)[0]
	_, port, _ := strings.Cut(r.Listener.Addr().String(), ":")
	for id, host := range map[string]string{
		"loopback": "127.0.0.1", "name": "localhost", "mapped": "[::ffff:127.0.0.1]", "loopback6": "[::1]", "any": "0.0.0.0", "any6": "[::]", "ten": "10.0.0.1", "metadata": "169.254.169.254",
		"cgnat": "100.64.0.1", "benchmark": "198.18.0.1", "ula": "[fd00::1]", "link6": "[fe80::1]", "nat64": "[64:ff9b::7f00:1]", "multicast": "224.0.0.1", "six-to-four": "[2002:7f00:1::1]",
	} {
		key := private.hook(clinic, id, "http://"+host+":"+port)
		eventually(t, id+" is refused", func() bool { return private.get(key).Attempts > 0 })
		if w := private.get(key); !strings.Contains(w.LastFailure, "not public") && (!strings.HasSuffix(id, "6") || strings.Contains(w.LastFailure, "answered")) {
			t.Errorf("%s: %s", host, w.LastFailure)
		}
	}
	if n := r.attempts(); n != 0 {
		t.Errorf("%d deliveries reached a private address", n)
	}
}

// A redirect could lead anywhere, and is an answer like any other.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	inside, front := newReceiver(t, testSecretKey), newReceiver(t, testSecretKey)
	front.setAnswer(func(w http.ResponseWriter, _ received, _ int) int {
		w.Header().Set("Location", inside.URL)
		return http.StatusTemporaryRedirect
	})
	o := open(t, txntest.Open(t), CourierConfig{})
	clinic := clinics(t, o.executor, 1, 0)[0]
	key := o.hook(clinic, "front", front.URL)
	eventually(t, "it fails", func() bool { return o.get(key).Attempts > 1 })
	if w := o.get(key); !strings.Contains(w.LastFailure, "307") || inside.attempts() != 0 {
		t.Errorf("%s; %d deliveries went where it led", w.LastFailure, inside.attempts())
	}
}

// Receivers take their time to learn of a new secret: both sign until then.
func TestBothSecretsSign(t *testing.T) {
	t.Parallel()
	older, newer, at := webhook.NewSecret(), webhook.NewSecret(), &clock{}
	knowsOld, knowsNew := newReceiver(t, older), newReceiver(t, newer)
	o := open(t, txntest.Open(t), CourierConfig{Clock: at.now})
	clinic := clinics(t, o.executor, 1, 0)[0]
	both := func(w *txn.Webhook) {
		w.Secret, w.OldSecret, w.OldSecretUntil = newer, older, w.CreatedAt.Add(time.Minute)
	}
	old, young := o.hook(clinic, "old", knowsOld.URL, both), o.hook(clinic, "new", knowsNew.URL, both)
	knowsOld.gets(fromTo(1, 5))
	knowsNew.gets(fromTo(1, 5))
	w := o.get(old)
	if n := len(plainSecrets(&w, at.now())); n != 2 {
		t.Errorf("%d secrets are live", n)
	}
	if n := len(plainSecrets(&w, at.now().Add(2*time.Minute))); n != 1 {
		t.Errorf("%d secrets are live after the time of the old one", n)
	}
	eventually(t, "it is recorded", func() bool { return o.get(young).Cursor.Sequence == 5 })
}

// A courier that stops lets the attempt under way end, and records it.
func TestCouriersStopInGoodOrder(t *testing.T) {
	t.Parallel()
	r, began, free := newReceiver(t, testSecretKey), make(chan struct{}), make(chan struct{})
	r.setAnswer(func(_ http.ResponseWriter, _ received, attempt int) int {
		if attempt == 3 {
			close(began)
			<-free
		}
		return http.StatusNoContent
	})
	o := open(t, txntest.Open(t), CourierConfig{})
	clinic := clinics(t, o.executor, 1, 0)[0]
	key := o.hook(clinic, "billing", r.URL)
	<-began
	stopped := make(chan struct{})
	go func() {
		o.stop()
		close(stopped)
	}()
	eventually(t, "it stops", func() bool {
		o.courier.mu.Lock()
		defer o.courier.mu.Unlock()
		return o.courier.ctx == nil
	})
	close(free)
	<-stopped
	if w := o.get(key); w.Cursor.Sequence != 3 || w.Attempts != 0 || len(r.all()) != 3 {
		t.Errorf("%d events arrived, and it is %+v", len(r.all()), w)
	}
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 8: 640 * time.Second, 9: 15 * time.Minute, 10_000: 15 * time.Minute} {
		for range 100 {
			if got := backOff(5*time.Second, 15*time.Minute, failures); got < want/2 || got > want {
				t.Fatalf("after %d failures it waits %v", failures, got)
			}
		}
	}
}
