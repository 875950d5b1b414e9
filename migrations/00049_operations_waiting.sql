-- What waits at a clinic, by priority.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS operations_waiting
    ON operations (clinic_id, priority, submitted_at, idempotency_key)
    WHERE state = 1;
