package fhir

import "encoding/json"

// These are the types of FHIR that are written, and never read.

type coding struct {
	System  string `json:"system,omitempty"`
	Code    string `json:"code,omitempty"`
	Display string `json:"display,omitempty"`
}

type codeableConcept struct {
	Coding []coding `json:"coding,omitempty"`
	Text   string   `json:"text,omitempty"`
}

type identifier struct {
	System string `json:"system,omitempty"`
	Value  string `json:"value,omitempty"`
}

type reference struct {
	Reference  string      `json:"reference,omitempty"`
	Identifier *identifier `json:"identifier,omitempty"`
	Display    string      `json:"display,omitempty"`
}

type quantity struct {
	Value json.Number `json:"value"`
	Unit  string      `json:"unit,omitempty"`
}

type meta struct {
	VersionID   string `json:"versionId,omitempty"`
	LastUpdated string `json:"lastUpdated,omitempty"`
}

type annotation struct {
	Text string `json:"text"`
}

// medication is a contained one: it says which medicine, and of which lot.
type medication struct {
	ResourceType string           `json:"resourceType"`
	ID           string           `json:"id"`
	Identifier   []identifier     `json:"identifier,omitempty"`
	Code         codeableConcept  `json:"code"`
	Manufacturer *reference       `json:"manufacturer,omitempty"`
	Form         *codeableConcept `json:"form,omitempty"`
	Batch        *batch           `json:"batch,omitempty"`
}

type batch struct {
	LotNumber      string `json:"lotNumber"`
	ExpirationDate string `json:"expirationDate"`
}
