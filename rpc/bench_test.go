package rpc

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

func benchRequest() *stockledgerv1.CommandRequest {
	return &stockledgerv1.CommandRequest{ClinicId: "c1", Command: keyed(reserve("store", 1))[0]}
}

// BenchmarkChecks measures what stands between a decoded request and the
// executor.
func BenchmarkChecks(b *testing.B) {
	plans, err := newAccessPlans(stockledgerServices()...)
	if err != nil {
		b.Fatal(err)
	}
	rules, err := newRules()
	if err != nil {
		b.Fatal(err)
	}
	issuer := newTestIssuer(b)
	verifier := NewVerifier(issuer.Trust())
	token, err := issuer.Issue(pharmacist("c1"), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	req, principal := benchRequest(), pharmacist("c1")
	b.Run("token", func(b *testing.B) {
		for b.Loop() {
			if _, err := verifier.Verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("permission", func(b *testing.B) {
		for b.Loop() {
			if err := plans[reserveProcedure].check(b.Context(), &principal, req.ProtoReflect()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rules", func(b *testing.B) {
		for b.Loop() {
			if err := rules.check(req); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("convert", func(b *testing.B) {
		for b.Loop() {
			if _, r := toCommand("c1", "asha", req.GetCommand(), nil); r != nil {
				b.Fatal(r)
			}
		}
	})
}

// accepting answers every command at once, so that what is left is the cost of
// the way to the executor and back.
func accepting(_ context.Context, s txn.Submission) ([]txn.Verdict, error) {
	verdicts := make([]txn.Verdict, len(s.Commands))
	for i := range verdicts {
		verdicts[i].Record.Event = ledger.Event{
			Clinic: s.Clinic, Sequence: 7, At: 1e15, Body: &ledger.StockReserved{
				Shelf: ledger.Shelf{Location: "store", Medicine: "zinc"}, HoldID: "hold_0000000000000000",
				Lines: []ledger.Line{{Lot: "L1", Quantity: 1}},
			},
		}
	}
	return verdicts, nil
}

// BenchmarkUnaryHandler is a whole unary call but for the sockets.
func BenchmarkUnaryHandler(b *testing.B) {
	n := openNode(b, Config{}, Deps{Executor: executorFunc(accepting)})
	defer n.stop()
	token := n.token(b, pharmacist("c1"))
	body, err := proto.Marshal(benchRequest())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		request := httptest.NewRequest(http.MethodPost, reserveProcedure, newBody(body))
		request.Header.Set("Content-Type", "application/proto")
		request.Header.Set("Authorization", "Bearer "+token)
		answer := httptest.NewRecorder()
		n.api.Handler.ServeHTTP(answer, request)
		if answer.Code != http.StatusOK {
			b.Fatal(answer.Body.String())
		}
	}
}

type benchBody struct {
	left []byte
}

func newBody(body []byte) io.Reader { return &benchBody{left: body} }

func (b *benchBody) Read(p []byte) (int, error) {
	n := copy(p, b.left)
	b.left = b.left[n:]
	if len(b.left) == 0 {
		return n, io.EOF
	}
	return n, nil
}
