-- The dead letters, which operators count.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS operations_failed
    ON operations (clinic_id, finished_at)
    WHERE state = 4;
