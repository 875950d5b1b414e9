package rpc

import (
	"time"

	"github.com/stockledger/stockledger/rpc/webhook"
	"github.com/stockledger/stockledger/txn"
)

// WebhookSecrets encrypts what webhooks' deliveries are signed with. Every node
// must have the same key.
type WebhookSecrets struct{ key []byte }

// NewWebhookSecrets returns what encrypts under the issuer's key.
func NewWebhookSecrets(i *Issuer) *WebhookSecrets { return &WebhookSecrets{i.Secret("webhooks")} }

func (s *WebhookSecrets) seal(of txn.WebhookKey, secret webhook.Secret) ([]byte, error) {
	return encrypt(s.key, secret, "webhook", string(of.Clinic), of.ID)
}

func (s *WebhookSecrets) open(of txn.WebhookKey, sealed []byte) (webhook.Secret, error) {
	return decrypt(s.key, sealed, "webhook", string(of.Clinic), of.ID)
}

// Live returns the secrets that a webhook's deliveries are signed with now, the
// latest first. There is none where the key that they were encrypted under is
// another one.
func (s *WebhookSecrets) Live(w *txn.Webhook, now time.Time) (live []webhook.Secret) {
	sealed := [][]byte{w.Secret}
	if len(w.OldSecret) > 0 && now.Before(w.OldSecretUntil) {
		sealed = append(sealed, w.OldSecret)
	}
	for _, text := range sealed {
		if secret, err := s.open(w.WebhookKey, text); err == nil {
			live = append(live, secret)
		}
	}
	return live
}
