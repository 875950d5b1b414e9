-- The journal is the truth: per clinic a gap-free, hash-chained sequence of
-- accepted commands. Its rows are never updated or deleted; every table but
-- this one and heads is rebuilt by replaying it.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS journal (
    clinic_id       TEXT        NOT NULL,
    sequence        INT8        NOT NULL CHECK (sequence > 0),
    idempotency_key TEXT        NOT NULL,
    -- The kind of event, so that readers may skip events without decoding.
    kind            INT2        NOT NULL,
    recorded_at     TIMESTAMPTZ NOT NULL,
    -- The encoded event, hashed exactly as it stands here.
    event           BYTEA       NOT NULL,
    hash            BYTEA       NOT NULL,
    -- Refuses a writer whose view of the clinic is stale.
    CONSTRAINT journal_pkey PRIMARY KEY (clinic_id, sequence),
    -- Refuses a second execution of the same command.
    CONSTRAINT journal_idempotency_key UNIQUE (clinic_id, idempotency_key)
);
