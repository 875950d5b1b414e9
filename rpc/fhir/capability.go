package fhir

import (
	"net/http"
	"net/url"
)

// capabilities answers with the CapabilityStatement. It is the same for every
// clinic and caller, and so needs no token.
func (x *exchange) capabilities(query url.Values) (*answer, error) {
	if err := onlyParameters(query, "mode"); err != nil {
		return nil, err
	}
	if mode := query.Get("mode"); mode != "" && mode != "full" {
		return nil, refuseWith(http.StatusBadRequest, codeNotSupported, "The mode must be full; others are not supported by this server.")
	}
	return &answer{status: http.StatusOK, body: capabilityStatement(x.base)}, nil
}

// capabilityDate is the day on which what the server can do last changed.
const capabilityDate = "2026-11-23"

func capabilityStatement(base string) map[string]any {
	types := make([]map[string]any, 0, len(resources))
	for _, name := range resourceNames() {
		types = append(types, resources[name].capability())
	}
	return map[string]any{
		"resourceType": "CapabilityStatement", "status": "active", "date": capabilityDate, "kind": "instance", "fhirVersion": "4.0.1",
		"format":         []string{"json", mediaType},
		"software":       map[string]any{"name": "stockledger"},
		"implementation": map[string]any{"description": "Prescriptions, dispensings and deliveries of one clinic", "url": base},
		"rest": []map[string]any{{
			"mode": "server",
			"security": map[string]any{
				"cors":        false,
				"description": "Every request but this one needs Authorization: Bearer TOKEN; the token names the clinics and locations that it reaches.",
			},
			"resource": types,
		}},
	}
}

func (t *served) capability() map[string]any {
	interactions := []map[string]any{{"code": "read"}, {"code": "search-type"}}
	statement := map[string]any{"type": t.name, "versioning": "versioned", "readHistory": false, "updateCreate": false}
	if t.create != nil {
		interactions = append(interactions, map[string]any{"code": "create"})
		statement["conditionalCreate"] = true
		statement["conditionalRead"] = "not-match"
		statement["documentation"] = "An element that cannot be kept is refused by name. A create needs an identifier with system and value, or the header Idempotency-Key."
	}
	statement["interaction"] = interactions
	parameters := make([]map[string]any, len(t.parameters))
	for i, p := range t.parameters {
		parameters[i] = map[string]any{"name": p.name, "type": p.kind, "documentation": p.doc}
	}
	statement["searchParam"] = parameters
	return statement
}
