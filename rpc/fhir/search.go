package fhir

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// parameter is one that a search takes.
type parameter struct {
	name, kind, doc string
}

// Parameters of several searches.
var (
	patientParameter  = parameter{"patient", "reference", "The patient: Patient/ and the token of the patient here, or the token alone."}
	locationParameter = parameter{"location", "token", "Of this server: only at this location, by its id or another system's name for it as system|value."}
	countParameter    = parameter{"_count", "number", "How many resources a page has at most, 1 to 100; 20 by default."}
)

// Parameters of this server's own that links to the next page carry.
const (
	pageParameter  = "_page"
	afterParameter = "_after"
)

const (
	defaultCount = 20
	maxCount     = 100
)

// searchRequest is a search as it was understood.
type searchRequest struct {
	values url.Values
	count  int
	page   string // where the underlying list goes on
}

// get returns a parameter, empty where it was not given.
func (s *searchRequest) get(name string) string { return s.values.Get(name) }

// among reports whether a status is one of those asked for.
func (s *searchRequest) among(status string) bool {
	wanted := s.get("status")
	return wanted == "" || slices.Contains(strings.Split(wanted, ","), status)
}

// pageOf is the part of the underlying list that is read.
func (s *searchRequest) pageOf() *stockledgerv1.Page {
	return &stockledgerv1.Page{PageSize: int32(s.count), PageToken: s.page}
}

// found is a resource that a search found.
type found struct {
	id       string
	resource any
}

func parseSearch(t *served, query url.Values) (*searchRequest, error) {
	s := &searchRequest{values: query, count: defaultCount, page: query.Get(pageParameter)}
	for name, values := range query {
		switch {
		case name == pageParameter, name == afterParameter:
		case !slices.ContainsFunc(t.parameters, func(p parameter) bool { return p.name == name }):
			return nil, refuseWith(http.StatusBadRequest, codeNotSupported, "The search parameter %q is not supported by this server for %s. It has: %s.", clip(name), t.name, t.parameterNames())
		}
		if len(values) > 1 {
			return nil, refuseWith(http.StatusBadRequest, codeNotSupported, "The search parameter %s is there %d times; once is supported by this server.", clip(name), len(values))
		}
		if values[0] == "" {
			return nil, refuseWith(http.StatusBadRequest, codeValue, "The search parameter %s is empty: leave it out.", clip(name))
		}
	}
	if text := query.Get("_count"); text != "" {
		count, err := strconv.Atoi(text)
		if err != nil || count < 1 {
			return nil, refuseWith(http.StatusBadRequest, codeValue, "_count must be a whole number from 1; more than %d count as %d.", maxCount, maxCount)
		}
		s.count = min(count, maxCount)
	}
	return s, nil
}

func (t *served) parameterNames() string {
	names := make([]string, len(t.parameters))
	for i, p := range t.parameters {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}

// statuses refuses a status that no resource of the type has.
func (s *searchRequest) statuses(codes ...string) error {
	if s.get("status") == "" {
		return nil
	}
	for _, code := range strings.Split(s.get("status"), ",") {
		if !slices.Contains(codes, code) {
			return refuseWith(http.StatusBadRequest, codeCodeInvalid, "The status %q is none of: %s.", clip(code), strings.Join(codes, ", "))
		}
	}
	return nil
}

// checkIdentifier judges a token parameter. Both system and value are needed: a
// value means nothing without its system.
func checkIdentifier(token string) error {
	system, value, ok := strings.Cut(token, "|")
	if !ok || system == "" || value == "" || strings.ContainsAny(value, "|,") {
		return refuseWith(http.StatusBadRequest, codeValue, "An identifier is searched for as system|value, one at a time.")
	}
	return nil
}

// bundle is a page of a search.
type bundle struct {
	ResourceType string        `json:"resourceType"`
	Type         string        `json:"type"`
	Link         []bundleLink  `json:"link"`
	Entry        []bundleEntry `json:"entry,omitempty"`
}

type bundleLink struct {
	Relation string `json:"relation"`
	URL      string `json:"url"`
}

type bundleEntry struct {
	FullURL  string       `json:"fullUrl"`
	Resource any          `json:"resource"`
	Search   bundleSearch `json:"search"`
}

type bundleSearch struct {
	Mode string `json:"mode"`
}

// maxEmptyPages bounds how many pages of the underlying list are read for one
// page that has something on it.
const maxEmptyPages = 5

// search answers with a page. Documents of the ledger can come to several
// resources, so a page can end within a document: the link to the next one
// carries where the underlying list goes on, and the last resource shown.
func (x *exchange) search(t *served, query url.Values) (*answer, error) {
	s, err := parseSearch(t, query)
	if err != nil {
		return nil, err
	}
	after := query.Get(afterParameter)
	var matches []found
	var next string
	for read := 1; ; read++ {
		if matches, next, err = t.search(x, s); err != nil {
			return nil, err
		}
		matches = following(matches, after)
		if len(matches) > 0 || next == "" || read == maxEmptyPages {
			break
		}
		s.page, after = next, ""
	}
	b := &bundle{ResourceType: "Bundle", Type: "searchset", Link: []bundleLink{{"self", x.link(t, query, query.Get(pageParameter), query.Get(afterParameter))}}}
	switch {
	case len(matches) > s.count:
		matches = matches[:s.count]
		b.Link = append(b.Link, bundleLink{"next", x.link(t, query, s.page, matches[s.count-1].id)})
	case next != "":
		b.Link = append(b.Link, bundleLink{"next", x.link(t, query, next, "")})
	}
	for _, m := range matches {
		b.Entry = append(b.Entry, bundleEntry{x.base + "/" + t.name + "/" + m.id, m.resource, bundleSearch{"match"}})
	}
	return &answer{status: http.StatusOK, body: b}, nil
}

// following drops the resources up to the one that a page before ended with.
// Where that is gone, the page is shown from its beginning: twice is better
// than never.
func following(matches []found, after string) []found {
	i := slices.IndexFunc(matches, func(m found) bool { return m.id == after })
	return matches[i+1:]
}

func (x *exchange) link(t *served, query url.Values, page, after string) string {
	values := make(url.Values, len(query))
	for name, v := range query {
		values[name] = v
	}
	for name, value := range map[string]string{pageParameter: page, afterParameter: after} {
		values.Del(name)
		if value != "" {
			values.Set(name, value)
		}
	}
	address := x.base + "/" + t.name
	if len(values) > 0 {
		address += "?" + values.Encode()
	}
	return address
}
