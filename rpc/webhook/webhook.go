// Package webhook signs what the ledger sends to webhooks, and verifies it for
// those who receive it, who may import this package or read it.
//
// A delivery carries three headers, as the Standard Webhooks convention has them:
// webhook-id names the event, webhook-timestamp is when this attempt was made, and
// webhook-signature holds an HMAC-SHA256 over both and the body for each secret
// that is live. Libraries for that convention verify it too.
//
// The package knows neither events nor HTTP clients, and needs the standard
// library alone.
package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The headers of a delivery.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// ContentType is that of a delivery: a CloudEvent in JSON.
const ContentType = "application/cloudevents+json"

// Tolerance is how far a delivery's timestamp may be from the receiver's clock, in
// either direction.
const Tolerance = 5 * time.Minute

// Errors of [Verify].
var (
	ErrHeaders   = errors.New("webhook: the signature's headers are missing or not as they should be")
	ErrTimestamp = errors.New("webhook: the timestamp is too old or too new")
	ErrSignature = errors.New("webhook: no signature is of a known secret")
)

const (
	secretPrefix = "whsec_"
	secretBytes  = 32
	version      = "v1,"
	// maxSignatures bounds what is read of the signatures' header: two secrets
	// are live at most.
	maxSignatures = 8
	// Shorter secrets than the convention's could be guessed.
	leastSecretBytes, mostSecretBytes = 24, 64
)

// Secret is what a webhook's deliveries are signed with, known to the ledger and
// the receiver.
type Secret []byte

// NewSecret returns a random secret.
func NewSecret() Secret {
	secret := make(Secret, secretBytes)
	_, _ = rand.Read(secret) // never fails
	return secret
}

// String returns the secret as receivers are told it.
func (s Secret) String() string { return secretPrefix + base64.StdEncoding.EncodeToString(s) }

// ParseSecret reads a secret as receivers are told it.
func ParseSecret(text string) (Secret, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(text, secretPrefix))
	if err != nil {
		return nil, errors.New("webhook: a secret is whsec_ and base64")
	}
	if len(raw) < leastSecretBytes || len(raw) > mostSecretBytes {
		return nil, fmt.Errorf("webhook: a secret has %d to %d bytes, not %d", leastSecretBytes, mostSecretBytes, len(raw))
	}
	return raw, nil
}

// Sign writes the headers of a delivery. The id must not hold a full stop.
func Sign(header http.Header, id string, at time.Time, body []byte, secrets ...Secret) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		signatures[i] = version + base64.StdEncoding.EncodeToString(sum(secret, id, timestamp, body))
	}
	header.Set(HeaderID, id)
	header.Set(HeaderTimestamp, timestamp)
	header.Set(HeaderSignature, strings.Join(signatures, " "))
}

func sum(secret Secret, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// Verify says whether a delivery comes from who knows one of the secrets, and was
// made within the tolerance of now. body must be as it was received, before
// anything decodes it.
//
// It does not say whether the delivery came before: events are delivered at least
// once, in their order, and the receiver keeps the (epoch, sequence) of the last
// one that it took in. The error is ErrHeaders, ErrTimestamp or ErrSignature.
func Verify(header http.Header, body []byte, now time.Time, secrets ...Secret) error {
	id, timestamp := header.Get(HeaderID), header.Get(HeaderTimestamp)
	signatures := strings.Fields(header.Get(HeaderSignature))
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	// One way to write it, and no full stop: what is signed can be cut apart in
	// one way only.
	if err != nil || strconv.FormatInt(seconds, 10) != timestamp || id == "" || strings.Contains(id, ".") ||
		len(signatures) == 0 || len(signatures) > maxSignatures {
		return ErrHeaders
	}
	early, late := now.Add(-Tolerance).Unix(), now.Add(Tolerance).Unix()
	if seconds < early || seconds > late {
		return ErrTimestamp
	}
	for _, secret := range secrets {
		want := sum(secret, id, timestamp, body)
		if len(secret) > 0 && slices.ContainsFunc(signatures, func(s string) bool { return matches(s, want) }) {
			return nil
		}
	}
	return ErrSignature
}

// matches compares in constant time. Signatures of other versions count as wrong.
func matches(signature string, want []byte) bool {
	encoded, ok := strings.CutPrefix(signature, version)
	if !ok {
		return false
	}
	got, err := base64.StdEncoding.Strict().DecodeString(encoded)
	return err == nil && hmac.Equal(got, want)
}
