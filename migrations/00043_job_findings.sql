-- What the jobs found that somebody should look at: an overdue transfer, a lot
-- that expires, a balance that does not follow from its entries. A job's
-- findings of a clinic are replaced by its next look at the clinic.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS job_findings (
    clinic_id      TEXT        NOT NULL,
    job            TEXT        NOT NULL,
    -- What it is about: a document, a shelf, an account.
    subject        TEXT        NOT NULL,
    -- A fixed word for what is the matter.
    kind           TEXT        NOT NULL,
    message        TEXT        NOT NULL,
    -- The command concerned; 0 where none can be named.
    sequence       INT8        NOT NULL,
    first_found_at TIMESTAMPTZ NOT NULL,
    found_at       TIMESTAMPTZ NOT NULL,
    CONSTRAINT job_findings_pkey PRIMARY KEY (clinic_id, job, subject, kind)
);
