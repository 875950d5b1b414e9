// Package fhir is the HL7 FHIR R4 (4.0.1) edge of the API: plain HTTP and JSON
// for systems that speak FHIR and nothing else. It takes prescriptions in as
// MedicationRequest, and shows what was dispensed as MedicationDispense and
// what locations received as SupplyDelivery.
//
// It translates, and no more. Whatever it is asked for it asks of the product's
// own services, with the caller's token, so that permissions, scopes and rules
// are the same as everywhere else. It keeps nothing, decides nothing about
// stock, and logs nothing of a resource. It is strict: what it does not know,
// or knows and cannot keep, it refuses by name and never drops.
package fhir
