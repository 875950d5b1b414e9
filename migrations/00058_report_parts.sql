-- Results of reports, in parts of at most 1 MiB. A part is written with the page
-- token that follows it.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS report_parts (
    clinic_id       TEXT  NOT NULL,
    idempotency_key TEXT  NOT NULL,
    run             INT4  NOT NULL,
    part            INT4  NOT NULL,
    body            BYTEA NOT NULL,
    CONSTRAINT report_parts_pkey PRIMARY KEY (clinic_id, idempotency_key, run, part)
);
