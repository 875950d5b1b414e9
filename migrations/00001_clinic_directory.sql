-- The directory: which shard holds a clinic. A clinic is looked up here first;
-- everything else about it lives in its shard.
-- Constraints are named throughout: CockroachDB reports a unique violation by
-- the constraint's name alone, without the table's.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS clinic_directory (
    clinic_id  TEXT        NOT NULL,
    shard_id   TEXT        NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT clinic_directory_pkey PRIMARY KEY (clinic_id)
);
