package cluster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc/webhook"
	"github.com/stockledger/stockledger/txn"
)

// CourierConfig tunes the delivery of events to webhooks.
type CourierConfig struct {
	// Render returns an event's id and what is sent of it. Required.
	Render func(*txn.Webhook, *txn.EventRecord) (id string, body []byte, err error)
	// Secrets are what a webhook's deliveries are signed with at a moment. Required.
	Secrets func(*txn.Webhook, time.Time) []webhook.Secret
	// IsHome tells whose events are delivered here. Default: those of the clinics
	// that the router executes here.
	IsHome func(ledger.ClinicID) bool
	// AllowPrivate has events delivered to private addresses too.
	AllowPrivate bool
	// Webhooks is how many are delivered to at a time, and again as many of those
	// whose last attempt failed. Default 128.
	Webhooks int
	// Timeout bounds one attempt. Default 10 s.
	Timeout time.Duration
	// LookEvery is how often webhooks are looked for that nobody told of. Default
	// 3 s.
	LookEvery time.Duration
	// RetryAfter is the first pause after a failed attempt; each one doubles it,
	// up to RetryAtMost. Default 5 s, and 15 min.
	RetryAfter, RetryAtMost time.Duration
	// PauseAfter is for how long all attempts must have failed before a webhook is
	// paused. Default 24 h.
	PauseAfter time.Duration
	// Join is how long to wait at the start for the router to know of other nodes,
	// whose webhooks need not be delivered to here. Default none.
	Join time.Duration
	// Grace is how long attempts under way may take at the end. Default 5 s.
	Grace time.Duration
	// Clock tells the time. Default time.Now.
	Clock func() time.Time
	Log   *slog.Logger
}

func (c CourierConfig) withDefaults() CourierConfig {
	for field, value := range map[*time.Duration]time.Duration{
		&c.Timeout: 10 * time.Second, &c.LookEvery: 3 * time.Second, &c.RetryAfter: 5 * time.Second, &c.RetryAtMost: 15 * time.Minute,
		&c.PauseAfter: 24 * time.Hour, &c.Grace: 5 * time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
	if c.Webhooks == 0 {
		c.Webhooks = 128
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Courier delivers the events of this node's clinics to their webhooks: to each
// one by one, in the order of the journal. The cursor of a webhook moves after
// the receiver took an event in, and only from where it was. So two nodes that
// both believe they are a clinic's home deliver events twice, and none is left
// out.
type Courier struct {
	webhooks *txn.Webhooks
	queries  *txn.Queries
	router   *Router
	cfg      CourierConfig
	client   *http.Client
	metrics  *courierMetrics
	// places are one for each webhook at a time; those that fail have their own,
	// so that however many wait for an answer in vain, the others need not.
	places map[bool]chan struct{}

	mu      sync.Mutex
	ctx     context.Context                     // of Run; nil while that does not run
	known   map[ledger.ClinicID]map[string]bool // webhooks here, and whether their last attempt failed
	lanes   map[txn.WebhookKey]bool             // whether it was woken since it last rested
	waiting map[txn.WebhookKey]time.Time        // since when an event waits there
	running sync.WaitGroup
}

// NewCourier returns a courier that does nothing until [Courier.Run].
func NewCourier(webhooks *txn.Webhooks, queries *txn.Queries, router *Router, cfg CourierConfig) *Courier {
	cfg = cfg.withDefaults()
	if cfg.IsHome == nil {
		cfg.IsHome = router.executesHere
	}
	return &Courier{
		webhooks: webhooks, queries: queries, router: router, cfg: cfg, client: newWebhookClient(cfg.AllowPrivate), metrics: newCourierMetrics(),
		places: map[bool]chan struct{}{true: make(chan struct{}, cfg.Webhooks), false: make(chan struct{}, cfg.Webhooks)},
		known:  make(map[ledger.ClinicID]map[string]bool), lanes: make(map[txn.WebhookKey]bool), waiting: make(map[txn.WebhookKey]time.Time),
	}
}

// RegisterMetrics makes the courier's metrics known.
func (c *Courier) RegisterMetrics(to prometheus.Registerer) { c.metrics.register(to) }

// Run delivers events until ctx ends, and then waits for the attempts that are
// under way.
func (c *Courier) Run(ctx context.Context) {
	c.router.awaitHomes(ctx, c.cfg.Join)
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.ctx = nil
		c.mu.Unlock()
		c.running.Wait()
		c.client.CloseIdleConnections()
	}()
	tick := time.NewTicker(c.cfg.LookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("webhooks cannot be looked for; trying again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// lookedAt is how many webhooks are looked at in one read.
const lookedAt = 1000

// look finds the webhooks at which something is due.
func (c *Courier) look(ctx context.Context) error {
	known := make(map[ledger.ClinicID]map[string]bool)
	paused, now := 0, c.cfg.Clock()
	var due []txn.WebhookKey
	var failed error
	for after, more := (txn.WebhookKey{}), true; more && ctx.Err() == nil; {
		states, err := c.webhooks.Look(ctx, after, lookedAt)
		for _, w := range states {
			switch {
			case w.Absent || !c.cfg.IsHome(w.Clinic):
			case w.Paused:
				paused++
			default:
				if known[w.Clinic] == nil {
					known[w.Clinic] = make(map[string]bool)
				}
				known[w.Clinic][w.ID] = w.Failing
				if w.Behind && !w.DueAt.After(now) {
					due = append(due, w.WebhookKey)
				}
			}
		}
		failed = errors.Join(failed, err) // of some shards: the others go on
		if more = len(states) == lookedAt; more {
			after = states[len(states)-1].WebhookKey
		}
	}
	if failed = errors.Join(failed, ctx.Err()); failed != nil {
		c.wakeAll(due)
		return failed
	}
	c.mu.Lock()
	c.known = known
	for key := range c.waiting {
		if _, here := known[key.Clinic][key.ID]; !here {
			delete(c.waiting, key)
		}
	}
	longest := c.longestWait(now)
	c.mu.Unlock()
	c.metrics.paused.Set(float64(paused))
	c.metrics.lag.Set(longest.Seconds())
	c.wakeAll(due)
	return nil
}

// longestWait is how long the oldest event waits that is to be delivered here.
func (c *Courier) longestWait(now time.Time) (longest time.Duration) {
	for _, since := range c.waiting {
		longest = max(longest, now.Sub(since))
	}
	return longest
}

// Committed tells that a clinic's journal has grown. It costs next to nothing
// where the clinic has no webhooks.
func (c *Courier) Committed(clinic ledger.ClinicID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, failing := range c.known[clinic] {
		if !failing { // others are tried when they are due
			c.wake(txn.WebhookKey{Clinic: clinic, ID: id})
		}
	}
}

// Changed tells that a clinic's webhooks have changed. Another home than this
// node finds that out by itself.
func (c *Courier) Changed(clinic ledger.ClinicID) {
	c.mu.Lock()
	ctx := c.ctx
	c.mu.Unlock()
	if ctx == nil || !c.cfg.IsHome(clinic) {
		return
	}
	go func() {
		list, err := c.webhooks.List(ctx, clinic)
		if err != nil {
			return // the next look finds them
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		here := make(map[string]bool)
		for i := range list {
			if w := &list[i]; w.PausedAt.IsZero() {
				here[w.ID] = w.Attempts > 0
				c.wake(w.WebhookKey)
			}
		}
		c.known[clinic] = here
	}()
}

func (c *Courier) wakeAll(keys []txn.WebhookKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		c.wake(key)
	}
}

// wake has a webhook looked at now. The courier must be locked.
func (c *Courier) wake(key txn.WebhookKey) {
	ctx := c.ctx
	if ctx == nil || ctx.Err() != nil {
		return
	}
	_, running := c.lanes[key]
	c.lanes[key] = true
	if !running {
		c.running.Go(func() { c.serve(ctx, key) })
	}
}

// rest ends the work for a webhook, unless it was woken since the last time.
func (c *Courier) rest(key txn.WebhookKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lanes[key] {
		c.lanes[key] = false
		return false
	}
	delete(c.lanes, key)
	return true
}

// Between two looks into the journal of a clinic that is busy, so that what comes
// meanwhile is read at once.
const (
	afterDelivery = 20 * time.Millisecond
	afterNothing  = 250 * time.Millisecond
)

// serve delivers to a webhook until nothing is due.
func (c *Courier) serve(ctx context.Context, key txn.WebhookKey) {
	for ctx.Err() == nil {
		c.mu.Lock()
		failing := c.known[key.Clinic][key.ID]
		c.mu.Unlock()
		did := turnOver
		select {
		case c.places[failing] <- struct{}{}:
			did = c.turn(ctx, key)
			<-c.places[failing]
		case <-ctx.Done():
		}
		switch did {
		case turnFull:
			continue // behind those that waited for the place meanwhile
		case turnDelivered:
			pause(ctx, afterDelivery)
		case turnNothing:
			pause(ctx, afterNothing)
		case turnOver:
			// What was committed meanwhile is not due either: the lane ends below.
			c.leave(key)
			return
		}
		if c.rest(key) {
			return
		}
	}
	c.leave(key)
}

// leave ends a lane, whatever came meanwhile.
func (c *Courier) leave(key txn.WebhookKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lanes, key)
}

// turn is what came of one.
type turn int

const (
	turnOver      turn = iota // nothing can be done now
	turnNothing               // nothing passed the filter, up to the end of the journal
	turnDelivered             // all there was is delivered
	turnFull                  // there is more to do
)

// A webhook keeps its place for so many events at most, or for so long.
const (
	eventsATurn = 100
	longestTurn = 10 * time.Second
)

// turn delivers what a webhook was not sent yet, up to a limit.
func (c *Courier) turn(ctx context.Context, key txn.WebhookKey) turn {
	w, err := c.webhooks.Get(ctx, key)
	if err != nil {
		return c.cannot(ctx, key, err)
	}
	now := c.cfg.Clock()
	if !w.PausedAt.IsZero() || w.DueAt.After(now) || !c.cfg.IsHome(key.Clinic) {
		return turnOver
	}
	events, looked, asOf, err := c.queries.Events(ctx, key.Clinic, w.Cursor, &w.Filter, eventsATurn, txn.ReadOptions{})
	var rewound *txn.JournalRewoundError
	switch {
	case errors.As(err, &rewound):
		return c.rewind(ctx, &w, rewound)
	case err != nil:
		return c.cannot(ctx, key, err)
	}
	if looked.Sequence == asOf.Sequence {
		looked.Epoch = asOf.Epoch // it has seen all of the present one
	}
	d := &trip{Courier: c, webhook: &w, reached: w.Cursor, progress: w.WebhookProgress}
	whole := d.deliver(ctx, events)
	if whole {
		d.reached = looked
	}
	counts, err := d.save(ctx)
	switch {
	case err != nil || d.failed:
		return turnOver
	case !counts:
		c.mu.Lock()
		c.lanes[key] = true
		c.mu.Unlock()
		return turnNothing // and then look again at what it is now
	case !whole || looked.Sequence < asOf.Sequence:
		return turnFull
	case len(events) == 0:
		return turnNothing
	}
	return turnDelivered
}

// cannot notes why nothing can be read; the next look tries again.
func (c *Courier) cannot(ctx context.Context, key txn.WebhookKey, err error) turn {
	if ctx.Err() == nil && !errors.Is(err, txn.ErrWebhookNotFound) {
		c.cfg.Log.Debug("events for a webhook cannot be read; trying again", "clinic", key.Clinic, "webhook", key.ID, "error", err)
	}
	return turnOver
}

// rewind has a webhook go on from the last command that the journal has in common
// with the one that a restore has replaced.
func (c *Courier) rewind(ctx context.Context, w *txn.Webhook, e *txn.JournalRewoundError) turn {
	progress, to := w.WebhookProgress, txn.Place{Epoch: e.Epoch, Sequence: e.LastCommon}
	if e.Asked.Epoch > e.Epoch {
		// Nobody knows what they have in common. All of it again may be more than
		// the receiver bargained for.
		progress.Pause(txn.PausedRewound, c.now())
		to = w.Cursor
	}
	moved, err := c.webhooks.Move(ctx, w, to, progress)
	if err != nil || !moved || !progress.PausedAt.IsZero() {
		return turnOver
	}
	return turnFull
}

// now is the time as the database keeps it.
func (c *Courier) now() time.Time { return c.cfg.Clock().Truncate(time.Microsecond) }

// trip is some events on their way to a webhook.
type trip struct {
	*Courier
	webhook  *txn.Webhook
	reached  txn.Place // up to where the receiver has taken events in
	progress txn.WebhookProgress
	failed   bool
}

// deliver sends events one after the other, until one fails or the time is up. It
// reports whether all were taken in.
func (d *trip) deliver(ctx context.Context, events []txn.EventRecord) bool {
	began := time.Now()
	for i := range events {
		event := &events[i]
		d.wait(event)
		if ctx.Err() != nil || time.Since(began) > longestTurn {
			return false
		}
		err := d.attempt(ctx, event)
		if err != nil && ctx.Err() != nil {
			return false // it was cut off here
		}
		if err != nil {
			d.fail(err)
			return false
		}
		d.metrics.attempts.WithLabelValues("delivered").Inc()
		d.reached = txn.Place{Epoch: event.Epoch, Sequence: event.Event.Sequence}
		d.progress = txn.WebhookProgress{DeliveredAt: d.now(), DueAt: d.progress.DueAt}
	}
	d.wait(nil)
	d.progress = txn.WebhookProgress{DeliveredAt: d.progress.DeliveredAt, DueAt: d.progress.DueAt}
	return true
}

// wait notes which event is the next one, nil where there is none.
func (d *trip) wait(event *txn.EventRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if event == nil {
		delete(d.waiting, d.webhook.WebhookKey)
		return
	}
	d.waiting[d.webhook.WebhookKey] = event.Event.At.Time()
}

var errNoSecret = errors.New("the webhook's secret was encrypted under another key; rotate it")

// attempt sends one event. When ctx ends, it may take a little longer.
func (d *trip) attempt(ctx context.Context, event *txn.EventRecord) error {
	now := d.cfg.Clock()
	secrets := d.cfg.Secrets(d.webhook, now)
	if len(secrets) == 0 {
		return errNoSecret
	}
	id, body, err := d.cfg.Render(d.webhook, event)
	if err != nil {
		d.cfg.Log.Error("an event cannot be rendered for a webhook", "clinic", d.webhook.Clinic, "webhook", d.webhook.ID, "sequence", event.Event.Sequence, "error", err)
		return errors.New("the ledger cannot render the event")
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d.cfg.Grace, cancel) })
	defer stop()
	began := time.Now()
	err = post(bounded, d.client, d.webhook.URL, id, body, now, secrets)
	d.metrics.took.Observe(time.Since(began).Seconds())
	return err
}

// fail notes a failed attempt, and when the next one is due, if ever.
func (d *trip) fail(cause error) {
	now, w := d.now(), d.webhook
	d.failed = true
	p := &d.progress
	p.Attempts++
	p.LastFailure = cause.Error()
	if p.FailingSince.IsZero() {
		p.FailingSince = now
	}
	after := backOff(d.cfg.RetryAfter, d.cfg.RetryAtMost, p.Attempts)
	var refused *refusal
	if errors.As(cause, &refused) {
		after = max(after, refused.after)
	}
	p.DueAt = now.Add(after)
	switch {
	case errors.Is(cause, errGone):
		p.Pause(txn.PausedGone, now)
	case errors.Is(cause, errNoSecret):
		p.Pause(txn.PausedNoSecret, now)
	case now.Sub(p.FailingSince) >= d.cfg.PauseAfter:
		p.Pause(txn.PausedFailing, now)
	}
	outcome := "failed"
	switch {
	case p.PausedAt.IsZero() && p.Attempts == 1:
		d.cfg.Log.Info("a webhook's receiver does not take an event in; trying again", "clinic", w.Clinic, "webhook", w.ID, "failure", p.LastFailure)
	case !p.PausedAt.IsZero():
		outcome = "paused"
		d.cfg.Log.Warn("a webhook is paused; resume it once the cause is gone", "clinic", w.Clinic, "webhook", w.ID, "reason", p.PauseReason, "failure", p.LastFailure)
	}
	d.metrics.attempts.WithLabelValues(outcome).Inc()
}

// backOff is the pause after so many failures: between half and all of a limit
// that doubles, so that webhooks of one receiver do not come back together.
func backOff(first, atMost time.Duration, failures int) time.Duration {
	limit := min(first<<min(failures-1, 20), atMost)
	return limit/2 + rand.N(limit/2+1)
}

// saveTimeout bounds the record of what was delivered when the courier stops.
const saveTimeout = 5 * time.Second

// save records what was delivered, and reports whether that counts: not where
// somebody else has written of the webhook meanwhile.
func (d *trip) save(ctx context.Context) (bool, error) {
	w := d.webhook
	if d.reached == w.Cursor && d.progress == w.WebhookProgress {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	moved, err := d.webhooks.Move(ctx, w, d.reached, d.progress)
	if err != nil {
		d.cfg.Log.Warn("it cannot be recorded what a webhook was sent; it will be sent it again", "clinic", w.Clinic, "webhook", w.ID, "error", err)
		return false, err
	}
	if !moved {
		d.metrics.attempts.WithLabelValues("overtaken").Inc()
		return false, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	here := d.known[w.Clinic]
	if _, ok := here[w.ID]; ok {
		here[w.ID] = d.progress.Attempts > 0
	}
	if !d.progress.PausedAt.IsZero() {
		delete(here, w.ID)
		delete(d.waiting, w.WebhookKey)
	}
	return true, nil
}

type courierMetrics struct {
	attempts    *prometheus.CounterVec
	took        prometheus.Histogram
	lag, paused prometheus.Gauge
}

func newCourierMetrics() *courierMetrics {
	return &courierMetrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockledger_webhook_attempts_total",
			Help: "Attempts of this node to deliver an event to a webhook, by what became of them: delivered, failed (tried again later), paused (the webhook with it), overtaken (some deliveries will be repeated, since the webhook was changed or another node delivers to it too). Many failed ones: receivers are away. Many overtaken ones: nodes disagree about who is home.",
		}, []string{"outcome"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "stockledger_webhook_attempt_seconds",
			Help:    "How long receivers took to answer. High values: events reach them late, one after the other.",
			Buckets: []float64{.005, .02, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stockledger_webhook_lag_seconds",
			Help: "How long the oldest event has waited that this node has to deliver, of all webhooks that are not paused. High values: a receiver is away or too slow; ListWebhooks names it.",
		}),
		paused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stockledger_webhook_paused",
			Help: "Webhooks of this node's clinics that are paused. Any that nobody paused on purpose wants attention: its receiver misses events until it is resumed.",
		}),
	}
}

func (m *courierMetrics) register(to prometheus.Registerer) {
	for _, outcome := range []string{"delivered", "failed", "paused", "overtaken"} {
		m.attempts.WithLabelValues(outcome)
	}
	to.MustRegister(m.attempts, m.took, m.lag, m.paused)
}
