package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/stockledger/stockledger/cluster"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
)

// webhookFlags say where a node may deliver events to.
type webhookFlags struct {
	WebhookAllowPrivate bool `env:"STOCKLEDGER_WEBHOOK_ALLOW_PRIVATE" help:"Let webhooks lead to private addresses and use http, for tests and for receivers in a network of your own. Whoever may manage webhooks can then have this node call what it reaches. All nodes need the same."`
}

// joinBeforeDelivery is how long a node that takes part in a cluster waits to
// know whose webhooks are its own to deliver to.
const joinBeforeDelivery = 10 * time.Second

// webhooks makes what keeps the webhooks and what delivers to them.
func (n *node) webhooks(queries *txn.Queries, flags webhookFlags) rpc.Webhooks {
	store, secrets := txn.NewWebhooks(n.directory), rpc.NewWebhookSecrets(n.issuer)
	n.courier = cluster.NewCourier(store, queries, n.router, cluster.CourierConfig{
		Render: rpc.WebhookEvent, Secrets: secrets.Live, AllowPrivate: flags.WebhookAllowPrivate, Join: joinBeforeDelivery, Log: n.log,
	})
	n.feed.Tell(n.courier.Committed)
	return rpc.Webhooks{Store: store, Secrets: secrets, AllowPrivate: flags.WebhookAllowPrivate, Changed: n.courier.Changed}
}

// webhookCmd shows and changes where a clinic's events are sent.
type webhookCmd struct {
	List   webhookListCmd   `cmd:"" help:"List a clinic's webhooks, each with how its deliveries go."`
	Create webhookCreateCmd `cmd:"" help:"Have a clinic's events sent to a URL, and print the secret that they are signed with."`
	Delete webhookDeleteCmd `cmd:"" help:"End a webhook."`
	Rotate webhookRotateCmd `cmd:"" help:"Have deliveries signed with a new secret, and print it."`
	Pause  webhookPauseCmd  `cmd:"" help:"Deliver nothing until stockledger webhook resume. Nothing is lost meanwhile."`
	Resume webhookResumeCmd `cmd:"" help:"Let a paused webhook go on where it was."`
	Replay webhookReplayCmd `cmd:"" help:"Send events again, from a sequence on."`
}

// oneWebhook names a webhook at a node.
type oneWebhook struct {
	serverFlags
	Clinic  string `arg:"" help:"The clinic."`
	Webhook string `arg:"" help:"The webhook's name within the clinic."`
}

type webhookListCmd struct {
	serverFlags
	Clinic string `arg:"" help:"The clinic."`
}

// Run prints the webhooks.
func (c *webhookListCmd) Run(ctx context.Context) error {
	from := newClient(c.Server, c.Token).events
	webhooks, err := everyPage(func(page *pb.Page) ([]*pb.Webhook, string, error) {
		answer, err := from.ListWebhooks(ctx, &pb.ListWebhooksRequest{ClinicId: c.Clinic, Page: page})
		return answer.GetWebhooks(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return explain(err)
	}
	return printWebhooks(os.Stdout, webhooks)
}

func printWebhooks(out io.Writer, webhooks []*pb.Webhook) error {
	if len(webhooks) == 0 {
		fmt.Fprintln(out, "the clinic has no webhooks that you may see")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WEBHOOK\tSTATE\tEPOCH\tSEQUENCE\tDELIVERED\tFAILURES\tURL\tLAST FAILURE")
	for _, h := range webhooks {
		state := strings.ToLower(strings.TrimPrefix(h.GetState().String(), "WEBHOOK_STATE_"))
		if h.GetPauseReason() != "" {
			state += ", " + strings.ToLower(h.GetPauseReason())
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\n", h.GetWebhookId(), state, h.GetCursor().GetEpoch(), h.GetCursor().GetSequence(),
			moment(h.GetDeliveredAt()), h.GetAttempts(), h.GetUrl(), h.GetLastFailure())
	}
	return w.Flush()
}

type webhookCreateCmd struct {
	oneWebhook
	URL       string   `arg:"" help:"Where to send events, for example https://example.org/stock-events."`
	Types     []string `env:"STOCKLEDGER_EVENT_TYPES" placeholder:"NAME" help:"Only events of these names, for example StockReserved."`
	Locations []string `env:"STOCKLEDGER_LOCATIONS" placeholder:"LOCATION" help:"Only events about these locations."`
	Medicines []string `env:"STOCKLEDGER_MEDICINES" placeholder:"MEDICINE" help:"Only events about these medicines."`
	After     *int64   `env:"STOCKLEDGER_AFTER" placeholder:"SEQUENCE" help:"Begin after this sequence; 0: with the first event. Default: with what is recorded from now on."`
}

// Run makes a webhook.
func (c *webhookCreateCmd) Run(ctx context.Context) error {
	request := &pb.CreateWebhookRequest{
		ClinicId: c.Clinic, WebhookId: c.Webhook, Url: c.URL,
		Filter: &pb.EventFilter{Types: c.Types, LocationIds: c.Locations, MedicineIds: c.Medicines},
	}
	if c.After != nil {
		request.After = &pb.EventPlace{Sequence: *c.After}
	}
	answer, err := newClient(c.Server, c.Token).events.CreateWebhook(ctx, request)
	if err != nil {
		return explain(err)
	}
	if answer.GetSecret() == "" {
		return fmt.Errorf("the webhook is there already; stockledger webhook rotate %s %s prints a new secret", c.Clinic, c.Webhook)
	}
	fmt.Println(answer.GetSecret())
	return nil
}

type webhookDeleteCmd struct{ oneWebhook }

// Run ends a webhook.
func (c *webhookDeleteCmd) Run(ctx context.Context) error {
	_, err := newClient(c.Server, c.Token).events.DeleteWebhook(ctx, &pb.DeleteWebhookRequest{ClinicId: c.Clinic, WebhookId: c.Webhook})
	return explain(err)
}

type webhookRotateCmd struct {
	oneWebhook
	KeepOld       time.Duration `default:"24h" env:"STOCKLEDGER_KEEP_OLD" help:"How long the secret before it signs too, up to 168h. 0s: all older ones end at once, which is for one that got out. Default: 24h."`
	ReplaceUnused bool          `env:"STOCKLEDGER_REPLACE_UNUSED" help:"The latest secret was never put to use: replace it, and let the older one sign on."`
}

// Run rotates a secret.
func (c *webhookRotateCmd) Run(ctx context.Context) error {
	answer, err := newClient(c.Server, c.Token).events.RotateWebhookSecret(ctx, &pb.RotateWebhookSecretRequest{
		ClinicId: c.Clinic, WebhookId: c.Webhook, KeepOld: durationpb.New(c.KeepOld), ReplaceUnused: c.ReplaceUnused,
	})
	if err != nil {
		return explain(err)
	}
	fmt.Println(answer.GetSecret())
	return nil
}

type webhookPauseCmd struct{ oneWebhook }

// Run pauses a webhook.
func (c *webhookPauseCmd) Run(ctx context.Context) error {
	_, err := newClient(c.Server, c.Token).events.PauseWebhook(ctx, &pb.PauseWebhookRequest{ClinicId: c.Clinic, WebhookId: c.Webhook})
	return explain(err)
}

type webhookResumeCmd struct{ oneWebhook }

// Run resumes a webhook.
func (c *webhookResumeCmd) Run(ctx context.Context) error {
	_, err := newClient(c.Server, c.Token).events.ResumeWebhook(ctx, &pb.ResumeWebhookRequest{ClinicId: c.Clinic, WebhookId: c.Webhook})
	return explain(err)
}

type webhookReplayCmd struct {
	oneWebhook
	From  int64 `required:"" env:"STOCKLEDGER_FROM" placeholder:"SEQUENCE" help:"The first sequence to send again; 1: all there is."`
	Epoch int64 `env:"STOCKLEDGER_EPOCH" help:"The epoch that it was told with. Where a restore has taken it back since, nothing is changed. Default: the present one."`
}

// Run moves a webhook's cursor.
func (c *webhookReplayCmd) Run(ctx context.Context) error {
	if c.From < 1 {
		return fmt.Errorf("--from %d: the first sequence is 1", c.From)
	}
	answer, err := newClient(c.Server, c.Token).events.ReplayWebhook(ctx, &pb.ReplayWebhookRequest{
		ClinicId: c.Clinic, WebhookId: c.Webhook, After: &pb.EventPlace{Epoch: c.Epoch, Sequence: c.From - 1},
	})
	if err != nil {
		return explain(err)
	}
	if answer.GetWebhook().GetState() == pb.WebhookState_WEBHOOK_STATE_PAUSED {
		fmt.Printf("the webhook is paused; stockledger webhook resume %s %s lets it go on\n", c.Clinic, c.Webhook)
	}
	return nil
}
