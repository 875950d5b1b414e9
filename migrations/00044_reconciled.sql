-- How far each clinic's journal has been verified. The nightly reconciliation
-- goes on from here, and over some weeks starts each clinic from nothing.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS reconciled (
    clinic_id   TEXT        NOT NULL,
    epoch       INT8        NOT NULL,
    sequence    INT8        NOT NULL,
    hash        BYTEA       NOT NULL,
    verified_at TIMESTAMPTZ NOT NULL,
    -- When it was last verified from nothing.
    full_at     TIMESTAMPTZ NOT NULL,
    CONSTRAINT reconciled_pkey PRIMARY KEY (clinic_id)
);
