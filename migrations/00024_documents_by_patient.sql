-- A patient's history.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_by_patient
    ON documents (clinic_id, patient_id, kind, opened_sequence)
    WHERE patient_id <> '';
