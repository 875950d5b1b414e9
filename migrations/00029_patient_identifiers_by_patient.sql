-- A patient's identifiers are replaced and erased together.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS patient_identifiers_by_patient
    ON patient_identifiers (clinic_id, patient_id);
