package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"crypto/tls"

	"code.dny.dev/ssrf"

	"github.com/stockledger/stockledger/rpc/webhook"
)

// errGone means that a receiver wants no more.
var errGone = errors.New("the receiver answered 410 Gone")

// refusal is an answer that does not take an event in.
type refusal struct {
	status int
	after  time.Duration // the pause that it asks for; 0: none
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the receiver answered %d %s", r.status, http.StatusText(r.status))
}

// maxAnswer is how much of an answer is read, so that its connection serves for
// the next event. Nothing of it is kept: a receiver may send back what it was
// sent.
const maxAnswer = 64 << 10

// longestWait is the longest pause that a receiver may ask for.
const longestWait = time.Hour

// newWebhookClient returns a client for URLs that tenants choose. It connects to
// public addresses alone unless others are allowed: the address is judged when
// the connection is made, so it does not matter what a name stood for before. It
// follows no redirects and uses no proxy, which could lead elsewhere.
func newWebhookClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	if !allowPrivate {
		dialer.Control = ssrf.New(ssrf.WithAnyPort()).Safe
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    5 * time.Second,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post sends an event. The error is nil where the receiver took it in, errGone, a
// *refusal, or says why there is no answer.
func post(ctx context.Context, client *http.Client, url, id string, body []byte, at time.Time, secrets []webhook.Secret) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL is none that can be asked")
	}
	request.Header.Set("Content-Type", webhook.ContentType)
	request.Header.Set("User-Agent", "stockledger")
	webhook.Sign(request.Header, id, at, body, secrets...)
	response, err := client.Do(request)
	if err != nil {
		return unanswered(err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer)
	switch {
	case response.StatusCode >= 200 && response.StatusCode < 300:
		return nil
	case response.StatusCode == http.StatusGone:
		return errGone
	}
	after := time.Duration(0)
	if seconds, err := strconv.ParseInt(response.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
		after = min(time.Duration(seconds)*time.Second, longestWait)
	}
	return &refusal{response.StatusCode, after}
}

// unanswered says why there is no answer, without the URL, which may hold a
// secret.
func unanswered(err error) error {
	var timeout net.Error
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP):
		return errors.New("the URL leads to an address that is not public; the operator can allow it with --webhook-allow-private")
	case errors.As(err, &name) && name.IsNotFound:
		return errors.New("the receiver's name does not exist")
	case errors.As(err, &name): // whose text names the resolver's address
		return errors.New("the receiver's name cannot be looked up")
	case errors.As(err, &certificate):
		return errors.New("the receiver's certificate is not accepted")
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("the receiver did not answer in time")
	}
	var operation *net.OpError
	if errors.As(err, &operation) {
		return fmt.Errorf("the receiver cannot be reached: %w", operation.Err)
	}
	return errors.New("the connection to the receiver broke")
}
