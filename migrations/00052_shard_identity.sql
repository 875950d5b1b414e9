-- Which shard this database is: one row, or none where it was never added to a
-- directory. A node does not take one shard for another.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS shard_identity (
    shard_id TEXT NOT NULL,
    CONSTRAINT shard_identity_pkey PRIMARY KEY (shard_id)
);
