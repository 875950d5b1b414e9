package rpc

import (
	"fmt"
	"strings"

	"connectrpc.com/connect/v2"
)

// ErrorsDoc returns docs/errors.md: the catalogue of all reasons.
func ErrorsDoc() string {
	var b strings.Builder
	b.WriteString(errorsDocHead)
	b.WriteString("| reason | code | HTTP | what it means | what to do |\n|---|---|---|---|---|\n")
	for _, doc := range Reasons() {
		fmt.Fprintf(&b, "| `%s` | `%s` | %d | %s | %s |\n", doc.Reason, doc.Code, httpStatus(doc), cell(doc.Meaning), cell(doc.Remedy))
	}
	return b.String()
}

const errorsDocHead = `<!-- Written by go run ./rpc/gendocs. Do not edit. -->

# Errors

Every error is a Connect code, a message for people, and a
` + "`google.rpc.ErrorInfo`" + ` detail for programs: its reason is one of the list below,
its domain is ` + "`" + ErrorDomain + "`" + `, and its metadata holds the facts (ids, quantities, and the
field at fault). A field at fault also comes as ` + "`google.rpc.BadRequest`" + `, a shortage as
` + "`stockledger.v1.StockShortage`" + `, and a pause to keep as ` + "`google.rpc.RetryInfo`" + `.

In a batch each command has its own verdict, and a rejected one carries the same
code, reason, message, field and metadata.

A reason never changes its meaning. An error changed nothing, unless its
description says that the outcome is unknown: then repeat the command with the
same idempotency key. HTTP statuses are those of JSON over plain HTTP; gRPC and
gRPC-Web carry the code in their trailers.

`

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// httpStatus is what the Connect protocol makes of a code, but for the reasons
// that transport.go answers under a status that plain HTTP clients understand.
func httpStatus(doc ReasonDoc) int {
	switch doc.Code {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange:
		return 400
	case connect.CodeUnauthenticated:
		return 401
	case connect.CodePermissionDenied:
		return 403
	case connect.CodeNotFound, connect.CodeUnimplemented:
		return 404
	case connect.CodeAlreadyExists, connect.CodeAborted:
		return 409
	case connect.CodeResourceExhausted:
		return 429
	case connect.CodeCanceled:
		return 499
	case connect.CodeUnavailable:
		return 503
	case connect.CodeDeadlineExceeded:
		return 504
	}
	return 500
}
