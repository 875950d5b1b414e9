package txn

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

func testWebhook(clinic ledger.ClinicID, id string) Webhook {
	at := time.Unix(1_700_000_000, 0)
	return Webhook{
		WebhookKey: WebhookKey{clinic, id}, URL: "https://example.org/" + id,
		Filter: EventFilter{
			Locations: []ledger.LocationID{"store"}, Medicines: []ledger.MedicineID{"zinc"}, Names: []string{"StockReserved"},
			Within: []ledger.LocationID{"store", "ward"},
		},
		SeesVariances: true, Secret: []byte("sealed"), OldSecret: []byte("older"), OldSecretUntil: at.Add(time.Hour), Cursor: Place{1, 3},
		WebhookProgress: WebhookProgress{DueAt: at}, CreatedBy: "amina", CreatedAt: at,
	}
}

// sameMoment makes stored times comparable.
func sameMoment(w Webhook) Webhook {
	for _, at := range []*time.Time{&w.OldSecretUntil, &w.DeliveredAt, &w.FailingSince, &w.DueAt, &w.PausedAt, &w.CreatedAt} {
		if !at.IsZero() {
			*at = at.UTC()
		}
	}
	return w
}

func TestWebhooksAreKept(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	s, ctx := NewWebhooks(NewDirectory(testDB(t))), t.Context()
	want := testWebhook(c.id, "billing")
	made, created, err := s.Create(ctx, want)
	if err != nil || !created || made.Version != 1 {
		t.Fatalf("created %t: %+v, %v", created, made, err)
	}
	got, err := s.Get(ctx, want.WebhookKey)
	if want.Version = 1; err != nil || !reflect.DeepEqual(sameMoment(got), sameMoment(want)) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	other := testWebhook(c.id, "billing")
	other.URL = "https://example.com"
	if again, created, err := s.Create(ctx, other); err != nil || created || again.URL != want.URL {
		t.Errorf("made twice: %t, %+v, %v", created, again, err)
	}
	changed, err := s.Change(ctx, want.WebhookKey, func(w *Webhook) error {
		w.URL, w.Filter.Names, w.OldSecret, w.OldSecretUntil = "https://example.net", nil, nil, time.Time{}
		w.Pause(PausedByHand, want.CreatedAt)
		return nil
	})
	if err != nil || changed.Version != 2 {
		t.Fatalf("changed: %+v, %v", changed, err)
	}
	got, err = s.Get(ctx, want.WebhookKey)
	if err != nil || got.URL != "https://example.net" || len(got.Filter.Names) != 0 || got.OldSecret != nil || got.PauseReason != PausedByHand || got.Version != 2 {
		t.Errorf("after a change: %+v, %v", got, err)
	}
	refused := errors.New("no")
	if _, err := s.Change(ctx, want.WebhookKey, func(*Webhook) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a change that is refused: %v", err)
	}
	if err := s.Delete(ctx, &made); !errors.Is(err, ErrWebhookChanged) {
		t.Errorf("deleted by an old version: %v", err)
	}
	if err := s.Delete(ctx, &got); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		func() error { _, err := s.Get(ctx, want.WebhookKey); return err }(),
		func() error {
			_, err := s.Change(ctx, want.WebhookKey, func(*Webhook) error { return nil })
			return err
		}(),
	} {
		if !errors.Is(err, ErrWebhookNotFound) {
			t.Errorf("of a webhook that is gone: %v", err)
		}
	}
}

// The cursor moves only from where its courier found it, and not after somebody
// has changed the webhook.
func TestWebhookCursorsNeverSkip(t *testing.T) {
	t.Parallel()
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	s, ctx := NewWebhooks(NewDirectory(testDB(t))), t.Context()
	one, _, err := s.Create(ctx, testWebhook(c.id, "billing"))
	if err != nil {
		t.Fatal(err)
	}
	move := func(w Webhook, to Place, want bool) {
		t.Helper()
		progress := w.WebhookProgress
		progress.DeliveredAt = w.CreatedAt.Add(time.Minute)
		if moved, err := s.Move(ctx, &w, to, progress); err != nil || moved != want {
			t.Errorf("from %v to %v: %t, %v", w.Cursor, to, moved, err)
		}
	}
	two := one // another node has read it too
	move(one, Place{1, 5}, true)
	move(two, Place{1, 4}, false)
	now, err := s.Get(ctx, one.WebhookKey)
	if err != nil || now.Cursor != (Place{1, 5}) || now.DeliveredAt.IsZero() || now.Version != 1 {
		t.Fatalf("it is %+v, %v", now, err)
	}
	replayed, err := s.Change(ctx, one.WebhookKey, func(w *Webhook) error { w.Cursor = Place{1, 2}; return nil })
	if err != nil {
		t.Fatal(err)
	}
	move(now, Place{1, 6}, false)
	move(replayed, Place{1, 5}, true)
	move(now, Place{1, 6}, false) // it is where that one began, and was replayed since
}

func TestWebhooksAreLimited(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	c := newTestClinic(t, e)
	s, ctx := NewWebhooks(NewDirectory(testDB(t))), t.Context()
	for i := range MaxWebhooks {
		if _, _, err := s.Create(ctx, testWebhook(c.id, fmt.Sprintf("w%02d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Create(ctx, testWebhook(c.id, "more")); !errors.Is(err, ErrTooManyWebhooks) {
		t.Errorf("one too many: %v", err)
	}
	if _, created, err := s.Create(ctx, testWebhook(c.id, "w00")); err != nil || created {
		t.Errorf("one of them: %t, %v", created, err)
	}
	if list, err := s.List(ctx, c.id); err != nil || len(list) != MaxWebhooks || list[0].ID != "w00" || list[MaxWebhooks-1].ID != "w19" {
		t.Errorf("%d are listed, %v", len(list), err)
	}
	// All of all clinics are seen, however few are looked at in a read.
	seen := make(map[WebhookKey]WebhookState)
	for after := (WebhookKey{}); ; {
		states, err := s.Look(ctx, after, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, state := range states {
			if _, twice := seen[state.WebhookKey]; twice {
				t.Fatalf("%v is seen twice", state.WebhookKey)
			}
			seen[state.WebhookKey] = state
		}
		if len(states) < 7 {
			break
		}
		after = states[6].WebhookKey
	}
	for i := range MaxWebhooks {
		state, ok := seen[WebhookKey{c.id, fmt.Sprintf("w%02d", i)}]
		if !ok || !state.Behind || state.Absent || state.Paused || state.Failing {
			t.Errorf("webhook %d is %+v, %t", i, state, ok)
		}
	}
}
