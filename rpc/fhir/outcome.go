package fhir

import (
	"fmt"
	"math/big"
	"net/http"
	"strings"
)

// issueCode is a code of FHIR's IssueType.
type issueCode string

// The codes that are used here.
const (
	codeInvalid      issueCode = "invalid"
	codeStructure    issueCode = "structure"
	codeRequired     issueCode = "required"
	codeValue        issueCode = "value"
	codeInvariant    issueCode = "invariant"
	codeLogin        issueCode = "login"
	codeForbidden    issueCode = "forbidden"
	codeNotSupported issueCode = "not-supported"
	codeDuplicate    issueCode = "duplicate"
	codeNotFound     issueCode = "not-found"
	codeTooLong      issueCode = "too-long"
	codeCodeInvalid  issueCode = "code-invalid"
	codeBusinessRule issueCode = "business-rule"
	codeConflict     issueCode = "conflict"
	codeTransient    issueCode = "transient"
	codeThrottled    issueCode = "throttled"
	codeTimeout      issueCode = "timeout"
	codeException    issueCode = "exception"
)

// issue is one thing that is wrong.
type issue struct {
	status     int // of HTTP, were it the only one
	code       issueCode
	expression string // the element, empty where none is to blame
	text       string
	reason     string // the product's own reason, for machines
	severity   string // empty: error
}

func malformed(code issueCode, expression, format string, args ...any) issue {
	return issue{status: http.StatusBadRequest, code: code, expression: expression, text: fmt.Sprintf(format, args...)}
}

// unsupported is what FHIR knows and this server cannot keep.
func unsupported(expression, format string, args ...any) issue {
	return issue{status: http.StatusUnprocessableEntity, code: codeNotSupported, expression: expression, text: fmt.Sprintf(format, args...)}
}

// failure is an error with the issues of its OperationOutcome.
type failure struct {
	status int
	issues []issue
	header http.Header
}

// Error joins what is wrong. It may quote the request, so it is for the caller
// alone and never logged.
func (f *failure) Error() string {
	texts := make([]string, len(f.issues))
	for i, issue := range f.issues {
		texts[i] = issue.text
	}
	return strings.Join(texts, " ")
}

// refuse makes a failure. A request that is malformed is answered as such, also
// where it is unsupported in other places.
func refuse(issues ...issue) *failure {
	f := &failure{status: issues[0].status, issues: issues}
	for _, issue := range issues {
		f.status = min(f.status, issue.status)
	}
	return f
}

func refuseWith(status int, code issueCode, format string, args ...any) *failure {
	return refuse(issue{status: status, code: code, text: fmt.Sprintf(format, args...)})
}

// operationOutcome is FHIR's resource for what went wrong.
type operationOutcome struct {
	ResourceType string         `json:"resourceType"`
	Issue        []outcomeIssue `json:"issue"`
}

type outcomeIssue struct {
	Severity    string           `json:"severity"`
	Code        issueCode        `json:"code"`
	Details     *codeableConcept `json:"details,omitempty"`
	Diagnostics string           `json:"diagnostics"`
	Expression  []string         `json:"expression,omitempty"`
}

// reasonSystem is the code system of the product's own reasons, which the
// catalogue of errors explains.
const reasonSystem = "urn:stockledger:reason"

func (f *failure) outcome() *operationOutcome {
	o := &operationOutcome{ResourceType: "OperationOutcome"}
	for _, i := range f.issues {
		rendered := outcomeIssue{Severity: "error", Code: i.code, Diagnostics: i.text}
		if i.severity != "" {
			rendered.Severity = i.severity
		}
		if i.reason != "" {
			rendered.Details = &codeableConcept{Coding: []coding{{System: reasonSystem, Code: i.reason}}}
		}
		if i.expression != "" {
			rendered.Expression = []string{i.expression}
		}
		o.Issue = append(o.Issue, rendered)
	}
	return o
}

// decimalOf reads a decimal exactly. A number with a huge exponent is none that
// anybody means, and would take long to expand.
func decimalOf(n *node) (*big.Rat, bool) {
	if n == nil || n.kind != kindNumber {
		return nil, false
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(n.text), "e"); ok && len(strings.TrimLeft(exponent, "+-0")) > 2 {
		return nil, false
	}
	return new(big.Rat).SetString(n.text)
}
