-- Clinics at which a job could not be done when it was their turn, because it
-- failed there or the clinic was being restored or moved. The job's next run
-- takes them too, whether or not it is about them.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS job_missed (
    job       TEXT        NOT NULL,
    clinic_id TEXT        NOT NULL,
    missed_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT job_missed_pkey PRIMARY KEY (job, clinic_id)
);
