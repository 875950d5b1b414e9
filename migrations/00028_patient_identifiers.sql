-- What other systems call patients, as keyed digests: a patient can be found by
-- an identifier, and nobody without the key can tell which ones there are.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS patient_identifiers (
    clinic_id  TEXT NOT NULL,
    digest     TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    CONSTRAINT patient_identifiers_pkey PRIMARY KEY (clinic_id, digest)
);
