package fhir

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// This file is the one place where an error of the product's services becomes
// an OperationOutcome.

// meaning is what a code of the services means to HTTP and to FHIR.
type meaning struct {
	status int
	code   issueCode
}

var meanings = map[connect.Code]meaning{
	connect.CodeInvalidArgument:    {http.StatusBadRequest, codeValue},
	connect.CodeOutOfRange:         {http.StatusBadRequest, codeValue},
	connect.CodeUnauthenticated:    {http.StatusUnauthorized, codeLogin},
	connect.CodePermissionDenied:   {http.StatusForbidden, codeForbidden},
	connect.CodeNotFound:           {http.StatusNotFound, codeNotFound},
	connect.CodeAlreadyExists:      {http.StatusConflict, codeDuplicate},
	connect.CodeAborted:            {http.StatusConflict, codeConflict},
	connect.CodeFailedPrecondition: {http.StatusUnprocessableEntity, codeBusinessRule},
	connect.CodeResourceExhausted:  {http.StatusTooManyRequests, codeThrottled},
	connect.CodeUnavailable:        {http.StatusServiceUnavailable, codeTransient},
	connect.CodeCanceled:           {http.StatusServiceUnavailable, codeTransient},
	connect.CodeDeadlineExceeded:   {http.StatusGatewayTimeout, codeTimeout},
}

// explain turns any error into a failure. elements says which element of the
// resource stands for a field of the command; nil where no resource was sent.
func explain(err error, elements func(field string) string) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var remote *connect.Error
	if !errors.As(err, &remote) {
		return refuseWith(http.StatusInternalServerError, codeException, "Something went wrong inside the ledger.")
	}
	m, known := meanings[remote.Code()]
	if !known {
		m = meaning{http.StatusInternalServerError, codeException}
	}
	i := issue{status: m.status, code: m.code, text: remote.Message()}
	header := make(http.Header)
	for _, detail := range remote.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if err != nil {
			continue
		}
		switch d := message.(type) {
		case *errdetails.ErrorInfo:
			i.reason = d.GetReason()
			if elements != nil {
				i.expression = elements(d.GetMetadata()["field"])
			}
		case *errdetails.RetryInfo:
			seconds := int((d.GetRetryDelay().AsDuration() + time.Second - 1) / time.Second)
			header.Set("Retry-After", strconv.Itoa(max(1, seconds)))
		}
	}
	// What a resource refers to and does not exist is no missing resource.
	if elements != nil && i.status == http.StatusNotFound {
		i.status = http.StatusUnprocessableEntity
	}
	if i.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `Bearer realm="stockledger"`)
	}
	f = refuse(i)
	f.header = header
	return f
}

// prescriptionElements are the elements that fields of CreatePrescription come
// from, by the end of the field's path.
var prescriptionElements = []struct{ field, element string }{
	{"patient_id", "subject"},
	{"medicine_id", "medication[x]"},
	{"pack", "dispenseRequest.quantity.unit"},
	{"quantity", "dispenseRequest.quantity.value"},
	{"refills", "dispenseRequest.numberOfRepeatsAllowed"},
	{"no_substitution", "substitution"},
	{"valid_until", "dispenseRequest.validityPeriod.end"},
	{"identifier.system", "identifier[0].system"},
	{"identifier.value", "identifier[0].value"},
	{"identifier", "identifier[0]"},
	{"prescriber", "requester"},
	{"location_id", "dispenseRequest.performer"},
	{"dosage_text", "dosageInstruction"},
	{"note", "note"},
}

// prescriptionElement says which element of a MedicationRequest stands for a
// field of CreatePrescription.
func prescriptionElement(field string) string {
	for _, e := range prescriptionElements {
		if field == e.field || strings.HasSuffix(field, "."+e.field) {
			return "MedicationRequest." + e.element
		}
	}
	return ""
}
