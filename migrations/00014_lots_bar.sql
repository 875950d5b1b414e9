-- What bars a lot everywhere in the clinic (0 nothing, 1 quarantine, 2 a
-- recall), which recall that is, and the lots that it was made from, their ids
-- separated by spaces.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE lots
    ADD COLUMN IF NOT EXISTS bar INT2 NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS recall_id TEXT NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS parents TEXT NOT NULL DEFAULT '';
