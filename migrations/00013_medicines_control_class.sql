-- The class of medicines that the law controls alike; empty for the others.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE medicines ADD COLUMN IF NOT EXISTS control_class TEXT NOT NULL DEFAULT '';
