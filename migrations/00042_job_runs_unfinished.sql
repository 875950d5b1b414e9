-- A new leader goes on with the runs that are not finished. They are few.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS job_runs_unfinished
    ON job_runs (scheduled_at, job)
    WHERE finished_at IS NULL;
