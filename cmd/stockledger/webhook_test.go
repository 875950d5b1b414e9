package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn/txntest"
)

func TestWebhookCommands(t *testing.T) {
	t.Parallel()
	n := startTestNode(t)
	clinic := txntest.NewClinicID(t)
	api := newClient(n.url, n.token)
	if _, err := api.execute(t.Context(), clinic, []*pb.Command{{
		IdempotencyKey: "c", Body: &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: "Test clinic", TimeZone: "UTC"}},
	}}); err != nil {
		t.Fatal(err)
	}
	command := func(want int, line string) {
		t.Helper()
		args := append([]string{"webhook"}, strings.Fields(line)...)
		if got := run(context.Background(), append(args, "--server", n.url, "--token", n.token)); got != want {
			t.Errorf("webhook %s ended with %d, not %d", line, got, want)
		}
	}
	webhook := func() *pb.Webhook {
		t.Helper()
		answer, err := api.events.GetWebhook(t.Context(), &pb.GetWebhookRequest{ClinicId: clinic, WebhookId: "billing"})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetWebhook()
	}
	command(0, "list "+clinic)
	command(2, "create "+clinic+" billing http://127.0.0.1:1")
	command(0, "create "+clinic+" billing https://example.org/events --types StockReserved,StockIssued --locations store --after 0")
	if w := webhook(); w.GetCursor().GetSequence() != 0 || len(w.GetFilter().GetTypes()) != 2 || w.GetFilter().GetLocationIds()[0] != "store" {
		t.Errorf("created: %v", w)
	}
	command(2, "create "+clinic+" billing https://example.org/events --types StockReserved,StockIssued --locations store --after 0")
	command(0, "pause "+clinic+" billing")
	command(0, "replay "+clinic+" billing --from 2")
	command(2, "replay "+clinic+" billing --from 0")
	command(2, "replay "+clinic+" billing --from 99")
	if w := webhook(); w.GetCursor().GetSequence() != 1 || w.GetPauseReason() != "BY_HAND" {
		t.Errorf("replayed: %v", w)
	}
	var out bytes.Buffer
	if err := printWebhooks(&out, []*pb.Webhook{webhook()}); err != nil || !strings.Contains(out.String(), "paused, by_hand") || !strings.Contains(out.String(), "https://example.org/events") {
		t.Errorf("%v: %s", err, out.String())
	}
	command(0, "resume "+clinic+" billing")
	command(0, "rotate "+clinic+" billing --keep-old 1h")
	command(2, "rotate "+clinic+" billing")
	command(0, "rotate "+clinic+" billing --replace-unused")
	if w := webhook(); w.GetState() != pb.WebhookState_WEBHOOK_STATE_ACTIVE || w.GetOldSecretUntil() == nil {
		t.Errorf("rotated: %v", w)
	}
	command(0, "list "+clinic)
	command(0, "delete "+clinic+" billing")
	command(2, "resume "+clinic+" billing")
}
