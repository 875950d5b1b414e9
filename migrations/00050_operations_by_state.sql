-- A clinic's operations of one state, the latest first.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS operations_by_state
    ON operations (clinic_id, state, submitted_at, idempotency_key);
