-- Reports by the day on which medicines were dispensed.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_by_day
    ON documents (clinic_id, kind, day, opened_sequence)
    WHERE day > '1970-01-01';
