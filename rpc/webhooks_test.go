package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/rpc/webhook"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func newWebhook(c *clinic, id string) *stockledgerv1.CreateWebhookRequest {
	return &stockledgerv1.CreateWebhookRequest{
		ClinicId: c.id, WebhookId: id, Url: "https://example.org/events?key=5up3r",
		Filter: &stockledgerv1.EventFilter{Types: []string{"StockReserved"}, MedicineIds: []string{"zinc"}},
	}
}

func (p *person) createWebhook(tb testing.TB, request *stockledgerv1.CreateWebhookRequest) *stockledgerv1.CreateWebhookResponse {
	tb.Helper()
	made, err := p.events.CreateWebhook(tb.Context(), request)
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

// Whoever makes a webhook is sent, with the signature of the secret that it was
// told, what it may see and nothing of patients.
func TestWebhooksAreDelivered(t *testing.T) {
	t.Parallel()
	issuer, directory, feed := newTestIssuer(t), txn.NewDirectory(txntest.Open(t)), txn.NewFeed(txn.NewDirectory(txntest.Open(t)), time.Hour)
	store, secrets := txn.NewWebhooks(directory), NewWebhookSecrets(issuer)
	var mine sync.Map // other tests have webhooks too
	courier := cluster.NewCourier(store, txn.NewQueries(directory), cluster.NewRouter(nil, nil, quietLog()), cluster.CourierConfig{
		Render: WebhookEvent, Secrets: secrets.Live, AllowPrivate: true, LookEvery: 20 * time.Millisecond, Log: quietLog(),
		IsHome: func(clinic ledger.ClinicID) bool { _, ok := mine.Load(clinic); return ok },
	})
	feed.Tell(courier.Committed)
	n := startNode(t, Config{}, Deps{Issuer: issuer, Feed: feed, Webhooks: Webhooks{Store: store, Secrets: secrets, AllowPrivate: true, Changed: courier.Changed}})
	c := newClinic(t, n)
	mine.Store(ledger.ClinicID(c.id), true)
	manager, ward := c.person(t, "mwana", RoleManager), c.person(t, "neema", RoleManager, "ward")

	type arrival struct {
		path   string
		header http.Header
		body   []byte
	}
	arrived := make(chan arrival, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- arrival{r.URL.Path, r.Header, body}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(receiver.Close)
	all := manager.createWebhook(t, &stockledgerv1.CreateWebhookRequest{ClinicId: c.id, WebhookId: "all", Url: receiver.URL + "/all", After: &stockledgerv1.EventPlace{Sequence: 9}})
	own := ward.createWebhook(t, &stockledgerv1.CreateWebhookRequest{ClinicId: c.id, WebhookId: "own", Url: receiver.URL + "/own"})
	var running sync.WaitGroup
	running.Go(func() { courier.Run(t.Context()) })
	t.Cleanup(running.Wait)
	// Nobody who may not see it has a hand in what the ward's webhook is sent.
	if got := own.GetWebhook().GetWithinLocationIds(); !slices.Equal(got, []string{"ward"}) {
		t.Errorf("the ward's webhook is within %v", got)
	}
	held := c.must(t, reserve("store", 3), reserve("ward", 2))
	for range 3 {
		var a arrival
		select {
		case a = <-arrived:
		case <-time.After(30 * time.Second):
			t.Fatal("an event does not arrive")
		}
		text := map[string]string{"/all": all.GetSecret(), "/own": own.GetSecret()}[a.path]
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := webhook.Verify(a.header, a.body, time.Now(), secret); err != nil {
			t.Errorf("%s: %v", a.path, err)
		}
		var event struct {
			Type, Subject, Sequence string
			Data                    json.RawMessage
		}
		if err := json.Unmarshal(a.body, &event); err != nil {
			t.Fatal(err)
		}
		told := &stockledgerv1.Event{}
		if err := newJSONCodec().UnmarshalOptions.Unmarshal(event.Data, told); err != nil {
			t.Fatal(err)
		}
		if a.path == "/own" && !slices.Contains(told.GetLocationIds(), "ward") {
			t.Errorf("the ward is told %v", told)
		}
		hold := held[told.GetSequence()-held[0].GetSequence()].GetStock().GetHoldId()
		if event.Type != "stockledger.v1.StockReserved" || event.Subject != hold || told.GetOutcome().GetStock().GetHoldId() != hold || event.Sequence != fmt.Sprintf("%019d", told.GetSequence()) {
			t.Errorf("%s: %s", a.path, a.body)
		}
	}
}

func TestWebhooksAreManaged(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	p, ctx := c.person(t, "mwana", RoleManager), t.Context()
	made := p.createWebhook(t, newWebhook(c, "billing"))
	if w := made.GetWebhook(); !strings.HasPrefix(made.GetSecret(), "whsec_") || w.GetEtag() != "1" || w.GetCreatedBy() != "mwana" || w.GetState() != stockledgerv1.WebhookState_WEBHOOK_STATE_ACTIVE || w.GetCursor().GetSequence() != 9 {
		t.Errorf("made %v", made)
	}
	// Made again it is as it was, and the secret is told once.
	again := p.createWebhook(t, newWebhook(c, "billing"))
	if again.GetSecret() != "" || !proto.Equal(again.GetWebhook(), made.GetWebhook()) {
		t.Errorf("made again: %v", again)
	}
	other := newWebhook(c, "billing")
	other.Filter = nil
	_, err := p.events.CreateWebhook(ctx, other)
	wantError(t, err, connect.CodeAlreadyExists, reasonWebhookExists)

	updated, err := p.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{ClinicId: c.id, WebhookId: "billing", Url: "https://example.net", UpdateMask: mask("url"), Etag: "1"})
	if w := updated.GetWebhook(); err != nil || w.GetUrl() != "https://example.net" || w.GetEtag() != "2" || !proto.Equal(w.GetFilter(), made.GetWebhook().GetFilter()) {
		t.Errorf("updated: %v, %v", updated, err)
	}
	_, err = p.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{ClinicId: c.id, WebhookId: "billing", UpdateMask: mask("filter"), Etag: "1"})
	wantError(t, err, connect.CodeAborted, ledger.ReasonEtagMismatch)

	paused, err := p.events.PauseWebhook(ctx, &stockledgerv1.PauseWebhookRequest{ClinicId: c.id, WebhookId: "billing"})
	if w := paused.GetWebhook(); err != nil || w.GetState() != stockledgerv1.WebhookState_WEBHOOK_STATE_PAUSED || w.GetPauseReason() != "BY_HAND" || w.GetPausedAt() == nil {
		t.Errorf("paused: %v, %v", paused, err)
	}
	replayed, err := p.events.ReplayWebhook(ctx, &stockledgerv1.ReplayWebhookRequest{ClinicId: c.id, WebhookId: "billing", After: &stockledgerv1.EventPlace{Epoch: 1, Sequence: 4}})
	if w := replayed.GetWebhook(); err != nil || w.GetCursor().GetSequence() != 4 || w.GetState() != stockledgerv1.WebhookState_WEBHOOK_STATE_PAUSED {
		t.Errorf("replayed: %v, %v", replayed, err)
	}
	_, err = p.events.ReplayWebhook(ctx, &stockledgerv1.ReplayWebhookRequest{ClinicId: c.id, WebhookId: "billing", After: &stockledgerv1.EventPlace{Sequence: 1000}})
	wantError(t, err, connect.CodeFailedPrecondition, reasonSequenceNotReached)
	_, err = p.events.ReplayWebhook(ctx, &stockledgerv1.ReplayWebhookRequest{ClinicId: c.id, WebhookId: "billing", After: &stockledgerv1.EventPlace{Epoch: 7, Sequence: 2}})
	wantError(t, err, connect.CodeFailedPrecondition, reasonJournalRewound)
	resumed, err := p.events.ResumeWebhook(ctx, &stockledgerv1.ResumeWebhookRequest{ClinicId: c.id, WebhookId: "billing"})
	if w := resumed.GetWebhook(); err != nil || w.GetState() != stockledgerv1.WebhookState_WEBHOOK_STATE_ACTIVE || w.GetPauseReason() != "" {
		t.Errorf("resumed: %v, %v", resumed, err)
	}
	got, err := p.events.GetWebhook(ctx, &stockledgerv1.GetWebhookRequest{ClinicId: c.id, WebhookId: "billing"})
	if err != nil || !proto.Equal(got.GetWebhook(), resumed.GetWebhook()) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = p.events.DeleteWebhook(ctx, &stockledgerv1.DeleteWebhookRequest{ClinicId: c.id, WebhookId: "billing", Etag: "1"})
	wantError(t, err, connect.CodeAborted, ledger.ReasonEtagMismatch)
	for range 2 {
		if _, err := p.events.DeleteWebhook(ctx, &stockledgerv1.DeleteWebhookRequest{ClinicId: c.id, WebhookId: "billing"}); err != nil {
			t.Error(err)
		}
	}
	_, err = p.events.GetWebhook(ctx, &stockledgerv1.GetWebhookRequest{ClinicId: c.id, WebhookId: "billing"})
	wantError(t, err, connect.CodeNotFound, reasonWebhookNotFound)
}

// live are the secrets that deliveries of a webhook are signed with at a moment.
func (n *node) live(tb testing.TB, c *clinic, id string, at time.Time) (texts []string) {
	tb.Helper()
	w, err := n.deps.Webhooks.Store.Get(tb.Context(), txn.WebhookKey{Clinic: ledger.ClinicID(c.id), ID: id})
	if err != nil {
		tb.Fatal(err)
	}
	for _, secret := range n.deps.Webhooks.Secrets.Live(&w, at) {
		texts = append(texts, secret.String())
	}
	return texts
}

func TestWebhookSecretsAreRotated(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	p, ctx := c.person(t, "mwana", RoleManager), t.Context()
	first := p.createWebhook(t, newWebhook(c, "billing")).GetSecret()
	rotate := func(change func(*stockledgerv1.RotateWebhookSecretRequest)) (string, error) {
		request := &stockledgerv1.RotateWebhookSecretRequest{ClinicId: c.id, WebhookId: "billing"}
		change(request)
		answer, err := p.events.RotateWebhookSecret(ctx, request)
		return answer.GetSecret(), err
	}
	none := func(*stockledgerv1.RotateWebhookSecretRequest) {}
	check := func(what string, at time.Time, want ...string) {
		t.Helper()
		if got := n.live(t, c, "billing", at); !slices.Equal(got, want) {
			t.Errorf("%s the secrets are %v, not %v", what, got, want)
		}
	}
	check("at first", time.Now(), first)
	second, err := rotate(none)
	if err != nil {
		t.Fatal(err)
	}
	check("after a rotation", time.Now(), second, first)
	check("nearly a day later", time.Now().Add(keepOldSecret-time.Minute), second, first)
	check("a day later", time.Now().Add(keepOldSecret), second)
	// A repetition must not end the secret that the receiver has.
	_, err = rotate(none)
	if got := wantError(t, err, connect.CodeFailedPrecondition, reasonWebhookRotating).GetMetadata()["webhook_id"]; got != "billing" {
		t.Errorf("it names %q", got)
	}
	third, err := rotate(func(r *stockledgerv1.RotateWebhookSecretRequest) { r.ReplaceUnused = true })
	if err != nil {
		t.Fatal(err)
	}
	check("after the unused one was replaced", time.Now(), third, first)
	// With a secret of the caller's own a repetition changes nothing.
	own := webhook.NewSecret().String()
	for range 2 {
		got, err := rotate(func(r *stockledgerv1.RotateWebhookSecretRequest) { r.Secret, r.ReplaceUnused = own, true })
		if err != nil || got != own {
			t.Errorf("%s, %v", got, err)
		}
		check("with one's own", time.Now(), own, first)
	}
	last, err := rotate(func(r *stockledgerv1.RotateWebhookSecretRequest) { r.KeepOld = durationpb.New(0) })
	if err != nil {
		t.Fatal(err)
	}
	check("after one got out", time.Now(), last)
	// Under another issuer's key there is none.
	w, err := n.deps.Webhooks.Store.Get(ctx, txn.WebhookKey{Clinic: ledger.ClinicID(c.id), ID: "billing"})
	if err != nil || len(NewWebhookSecrets(newTestIssuer(t)).Live(&w, time.Now())) != 0 || strings.Contains(string(w.Secret), last) {
		t.Errorf("another key opens them: %v", err)
	}
	w.ID = "other"
	if got := n.deps.Webhooks.Secrets.Live(&w, time.Now()); len(got) != 0 {
		t.Error("the secret of one webhook serves another")
	}
}

func TestWebhooksOfOthers(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c, elsewhere := newClinic(t, n), newClinic(t, n)
	ctx := t.Context()
	manager, ward, auditor, keeper := c.person(t, "mwana", RoleManager), c.person(t, "neema", RoleManager, "ward"), c.person(t, "otieno", RoleAuditor), c.person(t, "sefu", RoleStorekeeper)
	manager.createWebhook(t, newWebhook(c, "all"))
	ward.createWebhook(t, newWebhook(c, "own"))

	_, err := keeper.events.ListWebhooks(ctx, &stockledgerv1.ListWebhooksRequest{ClinicId: c.id})
	wantError(t, err, connect.CodePermissionDenied, reasonPermissionDenied)
	for name, who := range map[string]*person{"a storekeeper": keeper, "an auditor": auditor} {
		if _, err := who.events.CreateWebhook(ctx, newWebhook(c, "mine")); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s makes one: %v", name, err)
		}
		if _, err := who.events.RotateWebhookSecret(ctx, &stockledgerv1.RotateWebhookSecretRequest{ClinicId: c.id, WebhookId: "all"}); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s rotates one: %v", name, err)
		}
	}
	_, err = manager.events.CreateWebhook(ctx, newWebhook(elsewhere, "mine"))
	wantError(t, err, connect.CodePermissionDenied, reasonClinicForbidden)

	// A URL may hold a secret, which only those see who could change it.
	shown, err := auditor.events.GetWebhook(ctx, &stockledgerv1.GetWebhookRequest{ClinicId: c.id, WebhookId: "all"})
	if err != nil || shown.GetWebhook().GetUrl() != "https://example.org" {
		t.Errorf("an auditor sees %v, %v", shown, err)
	}
	names := func(p *person) (ids []string) {
		t.Helper()
		list, err := p.events.ListWebhooks(ctx, &stockledgerv1.ListWebhooksRequest{ClinicId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range list.GetWebhooks() {
			ids = append(ids, w.GetWebhookId())
		}
		return ids
	}
	if got := names(manager); !slices.Equal(got, []string{"all", "own"}) {
		t.Errorf("the manager sees %v", got)
	}
	if got := names(ward); !slices.Equal(got, []string{"own"}) {
		t.Errorf("the ward sees %v", got)
	}
	// What is sent more than the ward may see looks like none there, and cannot be
	// turned to a receiver of its own.
	of := func(id string) (string, string) { return c.id, id }
	clinicID, all := of("all")
	for name, call := range map[string]func() error{
		"get": func() error {
			_, err := ward.events.GetWebhook(ctx, &stockledgerv1.GetWebhookRequest{ClinicId: clinicID, WebhookId: all})
			return err
		},
		"update": func() error {
			_, err := ward.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{ClinicId: clinicID, WebhookId: all, Url: "https://example.net", UpdateMask: mask("url")})
			return err
		},
		"rotate": func() error {
			_, err := ward.events.RotateWebhookSecret(ctx, &stockledgerv1.RotateWebhookSecretRequest{ClinicId: clinicID, WebhookId: all})
			return err
		},
		"pause": func() error {
			_, err := ward.events.PauseWebhook(ctx, &stockledgerv1.PauseWebhookRequest{ClinicId: clinicID, WebhookId: all})
			return err
		},
		"resume": func() error {
			_, err := ward.events.ResumeWebhook(ctx, &stockledgerv1.ResumeWebhookRequest{ClinicId: clinicID, WebhookId: all})
			return err
		},
		"replay": func() error {
			_, err := ward.events.ReplayWebhook(ctx, &stockledgerv1.ReplayWebhookRequest{ClinicId: clinicID, WebhookId: all, After: &stockledgerv1.EventPlace{}})
			return err
		},
	} {
		if err := call(); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("the ward may %s it: %v", name, err)
		}
	}
	if _, err := ward.events.DeleteWebhook(ctx, &stockledgerv1.DeleteWebhookRequest{ClinicId: clinicID, WebhookId: all}); err != nil || len(names(manager)) != 2 {
		t.Errorf("the ward deletes it: %v", err)
	}
	// Who sees more does not make the ward's webhook see more.
	wider, err := manager.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{
		ClinicId: c.id, WebhookId: "own", Filter: &stockledgerv1.EventFilter{LocationIds: []string{"store"}}, UpdateMask: mask("filter"),
	})
	if err != nil || !slices.Equal(wider.GetWebhook().GetWithinLocationIds(), []string{"ward"}) {
		t.Errorf("updated by the manager it is %v, %v", wider, err)
	}
}

func TestWebhooksArePaged(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	p := c.person(t, "mwana", RoleManager)
	page := &stockledgerv1.Page{PageSize: 8}
	if list, err := p.events.ListWebhooks(t.Context(), &stockledgerv1.ListWebhooksRequest{ClinicId: c.id, Page: page}); err != nil || len(list.GetWebhooks()) != 0 || list.GetNextPageToken() != "" {
		t.Errorf("where there is none: %v, %v", list, err)
	}
	var want, got []string
	for i := range txn.MaxWebhooks {
		want = append(want, fmt.Sprintf("w%02d", i))
		p.createWebhook(t, newWebhook(c, want[i]))
	}
	_, err := p.events.CreateWebhook(t.Context(), newWebhook(c, "more"))
	wantError(t, err, connect.CodeFailedPrecondition, reasonWebhookLimit)
	sizes := []int{}
	for {
		list, err := p.events.ListWebhooks(t.Context(), &stockledgerv1.ListWebhooksRequest{ClinicId: c.id, Page: page})
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(list.GetWebhooks()))
		for _, w := range list.GetWebhooks() {
			got = append(got, w.GetWebhookId())
		}
		if page.PageToken = list.GetNextPageToken(); page.PageToken == "" {
			break
		}
	}
	if !slices.Equal(got, want) || !slices.Equal(sizes, []int{8, 8, 4}) {
		t.Errorf("the pages %v are %v", sizes, got)
	}
	page.PageToken = "AAAA"
	_, err = p.events.ListWebhooks(t.Context(), &stockledgerv1.ListWebhooksRequest{ClinicId: c.id, Page: page})
	wantField(t, err, "page.page_token")
}

func TestWebhooksRefuseBadInput(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	p, ctx := c.person(t, "mwana", RoleManager), t.Context()
	for name, test := range map[string]struct {
		change func(*stockledgerv1.CreateWebhookRequest)
		field  string
	}{
		"no name":    {func(r *stockledgerv1.CreateWebhookRequest) { r.WebhookId = "" }, "webhook_id"},
		"a bad name": {func(r *stockledgerv1.CreateWebhookRequest) { r.WebhookId = "a/b" }, "webhook_id"},
		"no URL":     {func(r *stockledgerv1.CreateWebhookRequest) { r.Url = "" }, "url"},
		"a long URL": {func(r *stockledgerv1.CreateWebhookRequest) {
			r.Url = "https://example.org/" + strings.Repeat("x", 2048)
		}, "url"},
		"an event of no kind":   {func(r *stockledgerv1.CreateWebhookRequest) { r.Filter.Types = []string{"StockVanished"} }, "filter.types"},
		"a short secret":        {func(r *stockledgerv1.CreateWebhookRequest) { r.Secret = "whsec_AAAA" }, "secret"},
		"a secret in no base64": {func(r *stockledgerv1.CreateWebhookRequest) { r.Secret = "hunter2" }, "secret"},
		"a negative place":      {func(r *stockledgerv1.CreateWebhookRequest) { r.After = &stockledgerv1.EventPlace{Sequence: -1} }, "after.sequence"},
	} {
		request := newWebhook(c, "bad")
		test.change(request)
		_, err := p.events.CreateWebhook(ctx, request)
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantField(t, err, test.field)
	}
	for _, url := range []string{
		"example.org", "/events", "mailto:a@example.org", "ftp://example.org", "http://example.org", "file:///etc/passwd", "https://", "https:///x", "https:example.org", "//example.org",
		"https://user@example.org", "https://user:pw@example.org", "https://example.org/#x", "https://example.org/#", "https://exa mple.org", "https://example.org/\r\nX: y", "https://[::1", "https://%zz",
		"https://127.0.0.1", "https://10.1.2.3/x", "https://[::1]", "https://[fe80::1%25eth0]", "https://[::ffff:127.0.0.1]", "https://169.254.169.254", "https://100.100.1.1", "https://198.18.1.1",
		"https://[64:ff9b::7f00:1]", "https://[fd12::1]", "https://0.0.0.0", "https://224.0.0.1", "https://192.168.1.1:8443",
	} {
		request := newWebhook(c, "bad")
		request.Url = url
		_, err := p.events.CreateWebhook(ctx, request)
		if err == nil {
			t.Errorf("%q is accepted", url)
			continue
		}
		wantField(t, err, "url")
	}
	for _, url := range []string{"https://example.org", "https://example.org:8443/a/b?c=d", "https://93.184.216.34", "https://[2606:2800:220:1::1]/x"} {
		if r := n.deps.Webhooks.checkURL(url); r != nil {
			t.Errorf("%s: %v", url, r)
		}
	}
	private := Webhooks{AllowPrivate: true}
	if r := private.checkURL("http://127.0.0.1:8080"); r != nil {
		t.Error(r)
	}
	_, err := p.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{ClinicId: c.id, WebhookId: "none", Url: "http://x", UpdateMask: mask("url")})
	wantField(t, err, "url")
	_, err = p.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{ClinicId: c.id, WebhookId: "none", UpdateMask: mask("secret")})
	wantField(t, err, "update_mask")
	_, err = p.events.RotateWebhookSecret(ctx, &stockledgerv1.RotateWebhookSecretRequest{ClinicId: c.id, WebhookId: "none", KeepOld: durationpb.New(8 * 24 * time.Hour)})
	wantField(t, err, "keep_old")
	_, err = p.events.UpdateWebhook(ctx, &stockledgerv1.UpdateWebhookRequest{ClinicId: c.id, WebhookId: "none", Url: "https://example.org", UpdateMask: mask("url")})
	wantError(t, err, connect.CodeNotFound, reasonWebhookNotFound)
}
