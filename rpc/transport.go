package rpc

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
)

// This file stands between net/http and Connect: what a caller can do wrong
// before there is a call.

// unknownProcedure labels requests for paths that do not exist: callers must
// not be able to make up labels of metrics.
const unknownProcedure = "unknown"

// drainBytes is how much of a refused body is read and dropped, so that callers
// that send everything before they read get to see the answer.
const drainBytes = 128 << 20

// router mounts handlers with everything around them.
type router struct {
	server *Server
	mux    *http.ServeMux
	specs  map[string]connect.Spec
}

func newRouter(s *Server, mux *http.ServeMux, server *connect.Server) router {
	r := router{server: s, mux: mux, specs: make(map[string]connect.Spec)}
	for spec := range server.Specs() {
		r.specs[spec.Procedure] = spec
	}
	return r
}

// Handle is for connecthttp.Mount. A pattern that is no procedure is the rest
// of a service.
func (r router) Handle(pattern string, handler http.Handler) {
	spec, ok := r.specs[pattern]
	procedure := pattern
	if !ok {
		procedure = unknownProcedure
	}
	r.mux.Handle(pattern, r.server.observed(procedure, r.server.guarded(spec, handler)))
}

// guarded refuses what Connect would answer with a 5xx, and bounds the time
// that a caller may take to send a request and to receive its answer.
func (s *Server) guarded(spec connect.Spec, next http.Handler) http.Handler {
	bidi := spec.StreamType == connect.StreamTypeBidi
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := w.(*answerWriter)
		control := http.NewResponseController(answer.ResponseWriter)
		if spec.StreamType == connect.StreamTypeUnary {
			// An answer that is sent at once is due in one WriteTimeout from
			// its first byte. An old deadline may still stand on a connection
			// that is used again.
			_ = control.SetWriteDeadline(time.Time{})
			answer.begun = func() { _ = control.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout)) }
		}
		body := &requestBody{ReadCloser: r.Body, control: control}
		r.Body = body
		switch {
		case bidi && r.ProtoMajor < 2:
			w.Header().Set("Upgrade", "h2c")
			http.Error(w, "this method streams both ways and needs HTTP/2", http.StatusUpgradeRequired)
			return
		case spec.StreamType == connect.StreamTypeUnary && !knownEncoding(r):
			refuse(answer, http.StatusUnsupportedMediaType, fail(reasonMalformedRequest, "The request's compression is unknown: use gzip or none."))
		case r.ContentLength > maxMessage+envelopePrefix && !isGRPC(r):
			refuse(answer, http.StatusRequestEntityTooLarge, fail(reasonRequestTooLarge, "The request has %d bytes; at most %d are accepted.", r.ContentLength, maxMessage))
		default:
			if !bidi && r.ContentLength != 0 {
				_ = control.SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout))
				body.deadline = true
			}
			next.ServeHTTP(w, r)
		}
		if answer.record.facts().reason == reasonRequestTooLarge && r.ProtoMajor < 2 && r.Header.Get("Expect") == "" {
			answer.Flush()
			_, _ = io.CopyN(io.Discard, body, drainBytes)
		}
	})
}

// envelopePrefix comes before each message of a stream.
const envelopePrefix = 5

// isGRPC tells the protocols whose errors travel in trailers.
func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// knownEncoding reports whether a request of Connect's unary protocol is
// compressed in a way that is known here. In the others, an unknown compression
// is no HTTP error.
func knownEncoding(r *http.Request) bool {
	encoding := r.Header.Get("Content-Encoding")
	if r.Method == http.MethodGet {
		encoding = r.URL.Query().Get("compression")
	}
	switch encoding {
	case "", connect.CompressionNameIdentity, connect.CompressionNameGzip:
		return true
	}
	return isGRPC(r)
}

// requestBody lifts the deadline for reading once the body is read: net/http
// goes on reading, to notice when the caller leaves. Closing it does nothing,
// since net/http closes the real one, and it may have to be drained first.
type requestBody struct {
	io.ReadCloser
	control  *http.ResponseController
	deadline bool
}

// Read reads the body.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.deadline {
		b.deadline = false
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// Close does nothing.
func (b *requestBody) Close() error { return nil }

// refuse answers with a failure in the form of Connect's unary protocol, under
// a status that plain HTTP clients understand.
func refuse(w *answerWriter, status int, f *failure) {
	w.record.note(func(known *requestFacts) { known.code, known.reason = f.code, f.reason })
	writeJSON(w, status, map[string]any{"code": f.code.String(), "message": f.Error(), "details": wireDetails(f.connectError())})
}

// wireDetails are an error's details as Connect's unary protocol spells them.
func wireDetails(err *connect.Error) []map[string]string {
	var details []map[string]string
	for _, detail := range err.Details() {
		details = append(details, map[string]string{
			"type":  detail.Type,
			"value": connect.EncodeBinaryHeader(detail.Value),
		})
	}
	return details
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A caller that has left needs no answer.
	_ = json.NewEncoder(w).Encode(value)
}

func notFound(w http.ResponseWriter, r *http.Request) {
	refuse(w.(*answerWriter), http.StatusNotFound, fail(reasonUnknownMethod, "There is nothing at %s.", plain(r.URL.Path)))
}

// Headers that a page may send and read, beside the plain ones.
const (
	corsRequestHeaders  = "Authorization, Content-Type, Connect-Protocol-Version, Connect-Timeout-Ms, Grpc-Timeout, X-Grpc-Web, X-User-Agent, X-Request-Id"
	corsResponseHeaders = "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, X-Request-Id, ETag, " + asOfHeader
	corsMaxAge          = "7200"
)

// allowOrigins lets pages of some origins call the API.
func allowOrigins(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	all := slices.Contains(origins, "*")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		header := w.Header()
		header.Add("Vary", "Origin")
		if origin == "" || !all && !slices.Contains(origins, origin) {
			next.ServeHTTP(w, r)
			return
		}
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers", corsResponseHeaders)
		if r.Method != http.MethodOptions {
			next.ServeHTTP(w, r)
			return
		}
		header.Set("Access-Control-Allow-Methods", "GET, POST")
		header.Set("Access-Control-Allow-Headers", corsRequestHeaders)
		header.Set("Access-Control-Max-Age", corsMaxAge)
		w.WriteHeader(http.StatusNoContent)
	})
}
