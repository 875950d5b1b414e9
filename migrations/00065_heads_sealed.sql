-- A head of a negative epoch is sealed: its clinic leaves this shard, or has
-- left. The check that forbade it has another name on each server.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE heads
    DROP CONSTRAINT IF EXISTS heads_epoch_check,
    DROP CONSTRAINT IF EXISTS check_epoch;
