package fhir

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// Prefix is the path that every address of the handler begins with; the clinic
// follows it.
const Prefix = "/fhir/"

// maxBody is the largest resource that is read, in bytes.
const maxBody = 256 << 10

const mediaType = "application/fhir+json"

// Services are the product's own, which the handler calls with the token of its
// caller.
type Services struct {
	Pharmacy stockledgerv1connect.PharmacyServiceClient
	Catalog  stockledgerv1connect.CatalogServiceClient
	Query    stockledgerv1connect.QueryServiceClient
	// Authenticate judges an Authorization header before anything else of a
	// request is read. Its error says, for the caller, what is wrong with it.
	Authenticate func(authorization string) error
	// Now is the present. Default time.Now.
	Now func() time.Time
}

// Handler serves FHIR. It is safe for concurrent use.
type Handler struct{ services Services }

// NewHandler returns a handler for all paths below [Prefix].
func NewHandler(services Services) *Handler {
	if services.Now == nil {
		services.Now = time.Now
	}
	return &Handler{services}
}

// exchange is one request and what its answer needs.
type exchange struct {
	Services
	r      *http.Request
	clinic string
	base   string // the clinic's address, without a slash at its end
	token  string // the Authorization header
	names  names
}

// answer is what a request comes to.
type answer struct {
	status int
	header http.Header
	body   any // nil: none
}

// ServeHTTP answers one request. No answer may be kept by a cache.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	result, err := h.serve(w, r)
	if err != nil {
		f := explain(err, nil)
		result = &answer{f.status, f.header, f.outcome()}
	}
	body := []byte(nil)
	if result.body != nil {
		if body, err = json.Marshal(result.body); err != nil {
			f := refuseWith(http.StatusInternalServerError, codeException, "Something went wrong inside the ledger.")
			result = &answer{status: f.status}
			body, _ = json.Marshal(f.outcome())
		}
		w.Header().Set("Content-Type", mediaType+"; charset=utf-8")
	}
	for name, values := range result.header {
		w.Header()[name] = values
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(result.status)
	if r.Method != http.MethodHead {
		// A caller that has left needs no answer.
		_, _ = w.Write(body)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (*answer, error) {
	path := strings.Split(strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, Prefix), "/"), "/")
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuseWith(http.StatusBadRequest, codeStructure, "The query of the address is malformed.")
	}
	if err := checkAccepted(r, query); err != nil {
		return nil, err
	}
	query.Del("_format")
	x := &exchange{
		Services: h.services, r: r, clinic: path[0], base: origin(r) + Prefix + url.PathEscape(path[0]),
		token: r.Header.Get("Authorization"),
	}
	x.names = newNames(x)
	if path[0] == "" {
		return nil, refuseWith(http.StatusNotFound, codeNotFound, "Name the clinic: the address begins with %s and its id.", Prefix)
	}
	return x.route(w, path[1:], query)
}

// reads reports whether the request only looks.
func (x *exchange) reads() bool {
	return x.r.Method == http.MethodGet || x.r.Method == http.MethodHead
}

// route finds what a request asks for: metadata, a type, or one resource.
func (x *exchange) route(w http.ResponseWriter, path []string, query url.Values) (*answer, error) {
	if len(path) == 0 {
		return nil, refuseWith(http.StatusMethodNotAllowed, codeNotSupported, "Batches, transactions and searches over all types are not supported by this server.")
	}
	if len(path) == 1 && path[0] == "metadata" {
		if !x.reads() {
			return nil, x.notAllowed("GET")
		}
		return x.capabilities(query)
	}
	if err := x.Authenticate(x.token); err != nil {
		f := refuseWith(http.StatusUnauthorized, codeLogin, "The request is not authenticated: %s. Send Authorization: Bearer TOKEN with a token that is current.", err)
		f.header = http.Header{"Www-Authenticate": {`Bearer realm="stockledger"`}}
		return nil, f
	}
	served, ok := resources[path[0]]
	if !ok {
		return nil, refuseWith(http.StatusNotFound, codeNotSupported, "This server has no resource %q. It has: %s.", clip(path[0]), strings.Join(resourceNames(), ", "))
	}
	switch len(path) {
	case 1:
		return x.onType(w, served, query)
	case 2:
		return x.onInstance(w, served, path[1], query)
	}
	return nil, x.notAllowed("GET")
}

// onType serves a type of resource.
func (x *exchange) onType(w http.ResponseWriter, t *served, query url.Values) (*answer, error) {
	switch {
	case x.reads():
		return x.search(t, query)
	case t.create == nil:
		return nil, x.notAllowed("GET")
	case x.r.Method == http.MethodPost:
		return t.create(x, w, query)
	}
	return nil, x.notAllowed("GET", "POST")
}

// onInstance serves one resource, and the search by POST.
func (x *exchange) onInstance(w http.ResponseWriter, t *served, id string, query url.Values) (*answer, error) {
	switch {
	case id == "_search" && x.r.Method == http.MethodPost:
		form, err := x.form(w, query)
		if err != nil {
			return nil, err
		}
		return x.search(t, form)
	case id == "_search":
		return nil, x.notAllowed("POST")
	case x.reads() && id != "" && !strings.ContainsRune("_$", rune(id[0])):
		if err := onlyParameters(query); err != nil {
			return nil, err
		}
		return t.read(x, id)
	}
	return nil, x.notAllowed("GET")
}

// notAllowed refuses an interaction that FHIR has and this server has not.
func (x *exchange) notAllowed(methods ...string) error {
	f := refuseWith(http.StatusMethodNotAllowed, codeNotSupported, "The interaction is not supported by this server. See %s/metadata for those that are.", x.base)
	f.header = http.Header{"Allow": {strings.Join(methods, ", ")}}
	return f
}

// served is a type of resource that this server has.
type served struct {
	name       string
	parameters []parameter
	read       func(x *exchange, id string) (*answer, error)
	create     func(x *exchange, w http.ResponseWriter, query url.Values) (*answer, error)
	search     func(x *exchange, s *searchRequest) ([]found, string, error)
}

var resources map[string]*served

// The map is filled here, since its functions lead back to it.
func init() {
	resources = map[string]*served{
		"MedicationRequest":  medicationRequests,
		"MedicationDispense": medicationDispenses,
		"SupplyDelivery":     supplyDeliveries,
	}
}

func resourceNames() []string {
	return []string{"MedicationRequest", "MedicationDispense", "SupplyDelivery"}
}

// call returns a context for one call of a service, as the caller.
func (x *exchange) call() context.Context {
	ctx, info := connect.NewClientContext(x.r.Context())
	if x.token != "" {
		info.RequestHeader().Set("Authorization", x.token)
	}
	return ctx
}

// strong reads what was acknowledged before: callers of FHIR expect to find what
// they have just created.
func strong() *stockledgerv1.ReadOptions {
	return &stockledgerv1.ReadOptions{Consistency: stockledgerv1.Consistency_CONSISTENCY_STRONG}
}

// origin is the scheme and host that the caller used.
func origin(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: r.Host}).String()
}

// checkAccepted refuses requests for another format than JSON, or another
// version of FHIR.
func checkAccepted(r *http.Request, query url.Values) error {
	wanted := query["_format"]
	if len(wanted) == 0 {
		wanted = strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",")
	}
	if len(query["_format"]) > 0 && strings.HasPrefix(wanted[0], "application/fhir json") {
		wanted = []string{mediaType} // a plus that was not escaped
	}
	if !slices.ContainsFunc(wanted, acceptable) {
		return refuseWith(http.StatusNotAcceptable, codeNotSupported, "This server answers in JSON of FHIR 4.0 only: ask for %s.", mediaType)
	}
	return nil
}

func acceptable(wanted string) bool {
	wanted = strings.TrimSpace(wanted)
	if wanted == "" || wanted == "json" {
		return true
	}
	name, parameters, err := mime.ParseMediaType(wanted)
	if err != nil || parameters["fhirversion"] != "" && parameters["fhirversion"] != "4.0" || parameters["q"] == "0" {
		return false
	}
	return slices.Contains([]string{mediaType, "application/json", "text/json", "application/*", "*/*"}, name)
}

// body reads what a caller sends, of one of some media types.
func (x *exchange) body(w http.ResponseWriter, types ...string) ([]byte, error) {
	name, parameters, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	charset := strings.ToLower(parameters["charset"])
	switch {
	case err != nil, !slices.Contains(types, name), charset != "" && charset != "utf-8",
		parameters["fhirversion"] != "" && parameters["fhirversion"] != "4.0",
		x.r.Header.Get("Content-Encoding") != "" && x.r.Header.Get("Content-Encoding") != "identity":
		return nil, refuseWith(http.StatusUnsupportedMediaType, codeNotSupported, "Send the body uncompressed in UTF-8, with a Content-Type of %s.", strings.Join(types, " or "))
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, x.r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuseWith(http.StatusRequestEntityTooLarge, codeTooLong, "The body is larger than %d bytes.", maxBody)
	case err != nil:
		return nil, refuseWith(http.StatusBadRequest, codeStructure, "The body did not arrive whole. Nothing of it was carried out.")
	}
	return body, nil
}

// form reads the parameters of a search by POST, whose addresses hold nothing
// about patients.
func (x *exchange) form(w http.ResponseWriter, query url.Values) (url.Values, error) {
	body, err := x.body(w, "application/x-www-form-urlencoded")
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, refuseWith(http.StatusBadRequest, codeStructure, "The form is malformed.")
	}
	if err := checkAccepted(x.r, form); err != nil {
		return nil, err
	}
	form.Del("_format")
	for name, values := range query {
		form[name] = append(form[name], values...)
	}
	return form, nil
}

// onlyParameters refuses parameters where there are none to give.
func onlyParameters(query url.Values, known ...string) error {
	for name := range query {
		if !slices.Contains(known, name) {
			return refuseWith(http.StatusBadRequest, codeNotSupported, "The parameter %q is not supported by this server here.", clip(name))
		}
	}
	return nil
}
