-- The head orders a clinic's commands: its row is locked, or its sequence
-- proven current, by every transaction that appends to the clinic's journal.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS heads (
    clinic_id   TEXT        NOT NULL,
    -- Raised when the clinic moves to another shard, so that (epoch, sequence)
    -- never repeats.
    epoch       INT8        NOT NULL CHECK (epoch >= 0),
    -- The last sequence in the journal.
    sequence    INT8        NOT NULL CHECK (sequence >= 0),
    -- The hash of the journal's last record.
    hash        BYTEA       NOT NULL,
    -- The time of the journal's last record; time never runs back from here.
    recorded_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT heads_pkey PRIMARY KEY (clinic_id)
);
