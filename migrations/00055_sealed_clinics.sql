-- Clinics that are about to leave this shard, have left it, or are about to
-- arrive. Their heads are sealed as well, by an epoch that is not above zero; this
-- is for what changes without a head, and for the move that is about the clinic.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS sealed_clinics (
    clinic_id TEXT        NOT NULL,
    move_id   TEXT        NOT NULL,
    sealed_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT sealed_clinics_pkey PRIMARY KEY (clinic_id)
);
