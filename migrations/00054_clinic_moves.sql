-- Clinics on their way from one shard to another, in the database that holds the
-- directory. A row ends with the move.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS clinic_moves (
    clinic_id  TEXT        NOT NULL,
    -- Random: a mover that was asleep does not take a later move for its own.
    move_id    TEXT        NOT NULL,
    from_shard TEXT        NOT NULL,
    to_shard   TEXT        NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT clinic_moves_pkey PRIMARY KEY (clinic_id)
);
