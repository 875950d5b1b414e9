package webhook_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/stockledger/stockledger/rpc/webhook"
)

// A receiver that takes in each event once.
func Example() {
	secret := webhook.NewSecret() // what CreateWebhook answered with
	last := ""                    // the id of the last event, kept in the receiver's database
	receiver := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
		if err != nil || webhook.Verify(r.Header, body, time.Now(), secret) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if id := r.Header.Get(webhook.HeaderID); id != last {
			fmt.Println("taken in:", id, string(body))
			last = id
		}
		w.WriteHeader(http.StatusNoContent)
	})
	for range 2 { // at least once
		body := `{"specversion":"1.0"}`
		delivery := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		webhook.Sign(delivery.Header, "hillside/1/42", time.Now(), []byte(body), secret)
		receiver(httptest.NewRecorder(), delivery)
	}
	// Output: taken in: hillside/1/42 {"specversion":"1.0"}
}
