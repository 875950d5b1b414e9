package rpc

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"code.dny.dev/ssrf"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/rpc/webhook"
	"github.com/stockledger/stockledger/txn"
)

// Webhooks is what EventService keeps webhooks with.
type Webhooks struct {
	Store   *txn.Webhooks
	Secrets *WebhookSecrets
	// AllowPrivate takes URLs that lead to private addresses, and http ones.
	AllowPrivate bool
	// Changed tells whoever delivers that there may be something to do at a clinic.
	Changed func(ledger.ClinicID)
}

// keepOldSecret is how long the secret before the last one signs where the caller
// does not say.
const keepOldSecret = 24 * time.Hour

// checkURL says what is wrong with where events should be sent. Names are looked
// up when they are: what they stand for can change at any time.
func (s *Webhooks) checkURL(text string) *ledger.Rejection {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return invalidField("url", "url is not an absolute URL, for example https://example.org/stock-events.")
	case u.Scheme != "https" && (u.Scheme != "http" || !s.AllowPrivate):
		return invalidField("url", "url begins with %q; events are sent by https alone.", u.Scheme)
	case u.User != nil:
		return invalidField("url", "url holds a user or a password. Deliveries are known by their signature.")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return invalidField("url", "url has a fragment, which is never sent.")
	}
	address, err := netip.ParseAddr(u.Hostname())
	if err == nil && !s.AllowPrivate && ssrf.New().SafeAddr(address) != nil {
		return invalidField("url", "url leads to %s, which is not a public address. The operator can allow it with --webhook-allow-private.", address)
	}
	return nil
}

// secretOf reads the secret that a caller gave, or makes one.
func secretOf(text string) (webhook.Secret, error) {
	if text == "" {
		return webhook.NewSecret(), nil
	}
	secret, err := webhook.ParseSecret(text)
	if err != nil {
		return nil, invalidField("secret", "secret is not whsec_ and 24 to 64 bytes in base64.")
	}
	return secret, nil
}

// startAfter is the place that a webhook goes on from, in the present journal.
func (s *eventService) startAfter(ctx context.Context, clinic ledger.ClinicID, after *stockledgerv1.EventPlace) (txn.Place, error) {
	options := txn.ReadOptions{Consistency: txn.Strong, MinSequence: ledger.Sequence(after.GetSequence()), MinEpoch: after.GetEpoch()}
	_, asOf, err := s.queries.Clinic(ctx, clinic, options)
	if err != nil || after == nil {
		return txn.Place{Epoch: asOf.Epoch, Sequence: asOf.Sequence}, err
	}
	return txn.Place{Epoch: asOf.Epoch, Sequence: options.MinSequence}, nil
}

// CreateWebhook has events sent.
func (s *eventService) CreateWebhook(ctx context.Context, req *stockledgerv1.CreateWebhookRequest) (*stockledgerv1.CreateWebhookResponse, error) {
	principal, now := principalOf(ctx), time.Now().Truncate(time.Microsecond)
	key := txn.WebhookKey{Clinic: ledger.ClinicID(req.GetClinicId()), ID: req.GetWebhookId()}
	if r := s.webhooks.checkURL(req.GetUrl()); r != nil {
		return nil, r
	}
	filter, err := toEventFilter(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	secret, err := secretOf(req.GetSecret())
	if err != nil {
		return nil, err
	}
	sealed, err := s.webhooks.Secrets.seal(key, secret)
	if err != nil {
		return nil, err
	}
	cursor, err := s.startAfter(ctx, key.Clinic, req.GetAfter())
	if err != nil {
		return nil, err
	}
	w, created, err := s.webhooks.Store.Create(ctx, txn.Webhook{
		WebhookKey: key, URL: req.GetUrl(), Filter: *filter, SeesVariances: principal.may(permissionManageCounts), Secret: sealed,
		Cursor: cursor, WebhookProgress: txn.WebhookProgress{DueAt: now}, CreatedBy: principal.Subject, CreatedAt: now,
	})
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.CreateWebhookResponse{Webhook: fromWebhook(principal, &w)}
	switch {
	case created:
		answer.Secret = secret.String()
		s.webhooks.Changed(key.Clinic)
	case !principal.managesWebhook(&w) || w.URL != req.GetUrl() || !sameFilter(&w.Filter, filter):
		return nil, fail(reasonWebhookExists, "There is a webhook %s at clinic %s already.", key.ID, key.Clinic).with("webhook_id", key.ID)
	}
	return answer, nil
}

func sameFilter(a, b *txn.EventFilter) bool {
	return slices.Equal(a.Locations, b.Locations) && slices.Equal(a.Medicines, b.Medicines) && slices.Equal(a.Names, b.Names) && slices.Equal(a.Within, b.Within)
}

// seesWebhook reports whether a principal may see whatever a webhook is sent, by
// its location. Another webhook looks like none.
func (p *Principal) seesWebhook(w *txn.Webhook) bool {
	return !p.limited() || w.Filter.Within != nil && !slices.ContainsFunc(w.Filter.Within, func(l ledger.LocationID) bool { return !p.reachesLocation(l) })
}

// managesWebhook reports whether a principal may have what a webhook is sent go
// to anywhere.
func (p *Principal) managesWebhook(w *txn.Webhook) bool {
	return p.seesWebhook(w) && (!w.SeesVariances || p.may(permissionManageCounts))
}

// webhookRequest is about one webhook.
type webhookRequest interface {
	GetClinicId() string
	GetWebhookId() string
}

func webhookKey(req webhookRequest) txn.WebhookKey {
	return txn.WebhookKey{Clinic: ledger.ClinicID(req.GetClinicId()), ID: req.GetWebhookId()}
}

// GetWebhook shows one webhook.
func (s *eventService) GetWebhook(ctx context.Context, req *stockledgerv1.GetWebhookRequest) (*stockledgerv1.GetWebhookResponse, error) {
	w, err := s.webhooks.Store.Get(ctx, webhookKey(req))
	if err == nil && !principalOf(ctx).seesWebhook(&w) {
		err = txn.ErrWebhookNotFound
	}
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetWebhookResponse{Webhook: fromWebhook(principalOf(ctx), &w)}, nil
}

// ListWebhooks lists a clinic's webhooks.
func (s *eventService) ListWebhooks(ctx context.Context, req *stockledgerv1.ListWebhooksRequest) (*stockledgerv1.ListWebhooksResponse, error) {
	principal := principalOf(ctx)
	asked, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	all, err := s.webhooks.Store.List(ctx, ledger.ClinicID(req.GetClinicId()))
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.ListWebhooksResponse{}
	for i := range all {
		w := &all[i]
		if w.ID <= asked.key[0] || !principal.seesWebhook(w) {
			continue
		}
		if n := len(answer.Webhooks); n == asked.size {
			answer.NextPageToken, err = s.seal(ctx, req, txn.AsOf{}, answer.Webhooks[n-1].GetWebhookId())
			return answer, err
		}
		answer.Webhooks = append(answer.Webhooks, fromWebhook(principal, w))
	}
	return answer, nil
}

// changeWebhook has the caller change a webhook that has an etag, or any where
// that is empty.
func (s *eventService) changeWebhook(ctx context.Context, req webhookRequest, etag string, change func(*txn.Webhook) error) (*stockledgerv1.Webhook, error) {
	principal, key := principalOf(ctx), webhookKey(req)
	w, err := s.webhooks.Store.Change(ctx, key, func(w *txn.Webhook) error {
		if err := mayChange(principal, w, etag); err != nil {
			return err
		}
		return change(w)
	})
	if err != nil {
		return nil, err
	}
	s.webhooks.Changed(key.Clinic)
	return fromWebhook(principal, &w), nil
}

func mayChange(p *Principal, w *txn.Webhook, etag string) error {
	switch {
	case !p.managesWebhook(w):
		return txn.ErrWebhookNotFound
	case etag != "" && etag != decimal(w.Version):
		return webhookChanged(w.ID)
	}
	return nil
}

func webhookChanged(id string) error {
	return &ledger.Rejection{
		Reason: ledger.ReasonEtagMismatch, Field: "etag",
		Message: "Webhook " + id + " was changed meanwhile.", Metadata: map[string]string{"webhook_id": id},
	}
}

// UpdateWebhook changes where events are sent, or which.
func (s *eventService) UpdateWebhook(ctx context.Context, req *stockledgerv1.UpdateWebhookRequest) (*stockledgerv1.UpdateWebhookResponse, error) {
	filter, err := toEventFilter(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	var target string
	var narrowed *txn.EventFilter
	r := masked{
		"url":    func() { target = req.GetUrl() },
		"filter": func() { narrowed = filter },
	}.apply(req.GetUpdateMask())
	if r == nil && slices.Contains(req.GetUpdateMask().GetPaths(), "url") {
		r = s.webhooks.checkURL(target)
	}
	if r != nil {
		return nil, r
	}
	changed, err := s.changeWebhook(ctx, req, req.GetEtag(), func(w *txn.Webhook) error {
		if target != "" {
			w.URL = target
		}
		if narrowed != nil {
			within := w.Filter.Within
			w.Filter = *narrowed
			w.Filter.Within = within
		}
		return nil
	})
	return &stockledgerv1.UpdateWebhookResponse{Webhook: changed}, err
}

// DeleteWebhook ends a webhook.
func (s *eventService) DeleteWebhook(ctx context.Context, req *stockledgerv1.DeleteWebhookRequest) (*stockledgerv1.DeleteWebhookResponse, error) {
	for {
		w, err := s.webhooks.Store.Get(ctx, webhookKey(req))
		if err == nil {
			err = mayChange(principalOf(ctx), &w, req.GetEtag())
		}
		switch {
		case errors.Is(err, txn.ErrWebhookNotFound):
			return &stockledgerv1.DeleteWebhookResponse{}, nil
		case err != nil:
			return nil, err
		}
		if err = s.webhooks.Store.Delete(ctx, &w); !errors.Is(err, txn.ErrWebhookChanged) {
			return &stockledgerv1.DeleteWebhookResponse{}, err
		}
	}
}

// RotateWebhookSecret has deliveries signed with a new secret.
func (s *eventService) RotateWebhookSecret(ctx context.Context, req *stockledgerv1.RotateWebhookSecretRequest) (*stockledgerv1.RotateWebhookSecretResponse, error) {
	secret, err := secretOf(req.GetSecret())
	if err != nil {
		return nil, err
	}
	sealed, err := s.webhooks.Secrets.seal(webhookKey(req), secret)
	if err != nil {
		return nil, err
	}
	keep := keepOldSecret
	if req.GetKeepOld() != nil {
		keep = req.GetKeepOld().AsDuration()
	}
	now := time.Now().Truncate(time.Microsecond)
	changed, err := s.changeWebhook(ctx, req, req.GetEtag(), func(w *txn.Webhook) error {
		present, err := s.webhooks.Secrets.open(w.WebhookKey, w.Secret)
		if err == nil && bytes.Equal(present, secret) {
			return nil
		}
		if w.PauseReason == txn.PausedNoSecret {
			w.Resume(now)
		}
		twoLive := len(s.webhooks.Secrets.Live(w, now)) > 1
		switch {
		case keep == 0:
			w.OldSecret, w.OldSecretUntil = nil, time.Time{}
		case twoLive && !req.GetReplaceUnused():
			return webhookRotating(w)
		case twoLive:
			w.OldSecretUntil = now.Add(keep)
		default:
			w.OldSecret, w.OldSecretUntil = w.Secret, now.Add(keep)
		}
		w.Secret = sealed
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.RotateWebhookSecretResponse{Webhook: changed, Secret: secret.String()}, nil
}

func webhookRotating(w *txn.Webhook) error {
	until := w.OldSecretUntil.UTC().Format(time.RFC3339)
	return fail(reasonWebhookRotating, "Webhook %s has two live secrets until %s, and a third would end one of them.", w.ID, until).
		with("webhook_id", w.ID).with("old_secret_until", until)
}

// PauseWebhook ends deliveries for a time.
func (s *eventService) PauseWebhook(ctx context.Context, req *stockledgerv1.PauseWebhookRequest) (*stockledgerv1.PauseWebhookResponse, error) {
	changed, err := s.changeWebhook(ctx, req, "", func(w *txn.Webhook) error {
		if w.PausedAt.IsZero() {
			w.Pause(txn.PausedByHand, time.Now().Truncate(time.Microsecond))
		}
		return nil
	})
	return &stockledgerv1.PauseWebhookResponse{Webhook: changed}, err
}

// ResumeWebhook lets deliveries go on.
func (s *eventService) ResumeWebhook(ctx context.Context, req *stockledgerv1.ResumeWebhookRequest) (*stockledgerv1.ResumeWebhookResponse, error) {
	changed, err := s.changeWebhook(ctx, req, "", func(w *txn.Webhook) error {
		w.Resume(time.Now().Truncate(time.Microsecond))
		return nil
	})
	return &stockledgerv1.ResumeWebhookResponse{Webhook: changed}, err
}

// ReplayWebhook moves a webhook's cursor.
func (s *eventService) ReplayWebhook(ctx context.Context, req *stockledgerv1.ReplayWebhookRequest) (*stockledgerv1.ReplayWebhookResponse, error) {
	cursor, err := s.startAfter(ctx, ledger.ClinicID(req.GetClinicId()), req.GetAfter())
	if err != nil {
		return nil, err
	}
	changed, err := s.changeWebhook(ctx, req, "", func(w *txn.Webhook) error {
		w.Cursor = cursor
		// What failed is another event than what comes next.
		w.Attempts, w.FailingSince, w.LastFailure, w.DueAt = 0, time.Time{}, "", time.Now().Truncate(time.Microsecond)
		return nil
	})
	return &stockledgerv1.ReplayWebhookResponse{Webhook: changed}, err
}

func fromWebhook(p *Principal, w *txn.Webhook) *stockledgerv1.Webhook {
	shown := &stockledgerv1.Webhook{
		ClinicId: string(w.Clinic), WebhookId: w.ID, Url: w.URL, State: stockledgerv1.WebhookState_WEBHOOK_STATE_ACTIVE,
		Filter: &stockledgerv1.EventFilter{
			LocationIds: each(w.Filter.Locations, func(id ledger.LocationID) string { return string(id) }),
			MedicineIds: each(w.Filter.Medicines, func(id ledger.MedicineID) string { return string(id) }),
			Types:       w.Filter.Names,
		},
		WithinLocationIds: each(w.Filter.Within, func(id ledger.LocationID) string { return string(id) }),
		Cursor:            fromPlace(w.Cursor), DeliveredAt: timeOrNone(w.DeliveredAt), OldSecretUntil: timeOrNone(w.OldSecretUntil),
		CreatedBy: string(w.CreatedBy), CreatedAt: timeOrNone(w.CreatedAt), Etag: decimal(w.Version),
		Attempts: int32(w.Attempts), FailingSince: timeOrNone(w.FailingSince), LastFailure: w.LastFailure,
	}
	if !p.may(permissionManageWebhooks) {
		shown.Url = origin(w.URL)
	}
	switch {
	case !w.PausedAt.IsZero():
		shown.State, shown.PausedAt, shown.PauseReason = stockledgerv1.WebhookState_WEBHOOK_STATE_PAUSED, timeOrNone(w.PausedAt), string(w.PauseReason)
	case w.Attempts > 0:
		shown.State, shown.NextAttemptAt = stockledgerv1.WebhookState_WEBHOOK_STATE_FAILING, timeOrNone(w.DueAt)
	}
	return shown
}

// origin is a URL's scheme and host: what follows may hold a secret.
func origin(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
