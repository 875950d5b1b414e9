-- Who patients are and what was written about them, encrypted under each
-- patient's key. The journal names a text by its keyed digest.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS patient_texts (
    clinic_id   TEXT  NOT NULL,
    patient_id  TEXT  NOT NULL,
    digest      TEXT  NOT NULL,
    -- It says who the patient is; the next one replaces it.
    is_identity BOOL  NOT NULL,
    ciphertext  BYTEA NOT NULL,
    CONSTRAINT patient_texts_pkey PRIMARY KEY (clinic_id, patient_id, digest)
);
