-- How many clinics a run is about, so that its progress can be told.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE job_runs ADD COLUMN IF NOT EXISTS clinics_total INT8 NOT NULL DEFAULT 0;
