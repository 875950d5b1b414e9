package rpc

import (
	"net/http"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"

	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/rpc/fhir"
)

// fhirProcedure labels requests of the FHIR edge: callers must not be able to
// make up labels of metrics, and an address may name a patient.
const fhirProcedure = "fhir"

// fhirRoutes serves FHIR. Its handler calls the services of this node in
// process, through every interceptor, with the token of its caller.
func (s *Server) fhirRoutes(server *connect.Server, verifier *Verifier) http.Handler {
	if !s.cfg.serves(PartPharmacy) {
		return s.observed(fhirProcedure, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			refuse(w.(*answerWriter), http.StatusNotFound, elsewhere("FHIR", PartPharmacy))
		}))
	}
	conn := connect.NewClient(connectinprocess.New(server))
	edge := fhir.NewHandler(fhir.Services{
		Pharmacy: stockledgerv1connect.NewPharmacyServiceClient(conn),
		Catalog:  stockledgerv1connect.NewCatalogServiceClient(conn),
		Query:    stockledgerv1connect.NewQueryServiceClient(conn),
		Authenticate: func(authorization string) error {
			_, err := verifier.bearer(authorization)
			return err
		},
	})
	return s.observed(fhirProcedure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := w.(*answerWriter)
		s.bound(answer, r)
		edge.ServeHTTP(w, r)
		answer.record.note(func(known *requestFacts) {
			known.protocol = "fhir+json"
			if known.status < http.StatusBadRequest {
				// A call in process may have failed on the way to a good answer: that
				// an identifier is free, for example, is good news.
				known.code, known.reason, known.cause = 0, "", nil
			}
		})
	}))
}

// bound limits the time that a caller may take to send a request and to receive
// its answer, as guarded does for calls.
func (s *Server) bound(answer *answerWriter, r *http.Request) {
	control := http.NewResponseController(answer.ResponseWriter)
	_ = control.SetWriteDeadline(time.Time{})
	answer.begun = func() { _ = control.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout)) }
	if r.ContentLength != 0 {
		_ = control.SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout))
		r.Body = &requestBody{ReadCloser: r.Body, control: control, deadline: true}
	}
}
