-- The databases that hold clinics, beside this one, which holds the directory.
-- None is listed where there is one database alone.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS shards (
    shard_id TEXT        NOT NULL,
    region   TEXT        NOT NULL,
    -- New clinics are placed there.
    is_open  BOOL        NOT NULL,
    added_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT shards_pkey PRIMARY KEY (shard_id)
);
