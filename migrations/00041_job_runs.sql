-- Runs of the background jobs: who ran them, when, how far they came, and what
-- they did. Written only by the leader, under its epoch.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS job_runs (
    job          TEXT        NOT NULL,
    -- When the run was due, or when somebody asked for it.
    scheduled_at TIMESTAMPTZ NOT NULL,
    -- Who asked for it; empty: the schedule.
    requested_by TEXT        NOT NULL,
    -- The leader that has it, with its epoch; empty and 0 until one has.
    node         TEXT        NOT NULL,
    epoch        INT8        NOT NULL,
    started_at   TIMESTAMPTZ,
    finished_at  TIMESTAMPTZ,
    -- All clinics up to this one are done; a run goes on after it.
    after_clinic TEXT        NOT NULL,
    clinics      INT8        NOT NULL,
    commands     INT8        NOT NULL,
    findings     INT8        NOT NULL,
    -- Clinics that could not be done, and why the last one could not.
    failures     INT8        NOT NULL,
    failure      TEXT        NOT NULL,
    CONSTRAINT job_runs_pkey PRIMARY KEY (job, scheduled_at)
);
