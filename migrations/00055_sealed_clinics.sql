-- Clinics that are about to leave this shard, or have left it. Their heads are
-- sealed as well, by a negative epoch; this is for what changes without a head.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS sealed_clinics (
    clinic_id TEXT        NOT NULL,
    sealed_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT sealed_clinics_pkey PRIMARY KEY (clinic_id)
);
