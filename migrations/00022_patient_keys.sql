-- A key for each patient, encrypted under the installation's own. It is no part
-- of the journal: whoever erases it erases what was encrypted with it.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS patient_keys (
    clinic_id   TEXT  NOT NULL,
    patient_id  TEXT  NOT NULL,
    wrapped_key BYTEA NOT NULL,
    CONSTRAINT patient_keys_pkey PRIMARY KEY (clinic_id, patient_id)
);
