-- A clinic's open documents are part of the state that its commands are
-- decided on. The index holds only them, so it stays small.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_open
    ON documents (clinic_id, kind, opened_sequence)
    WHERE is_open;
