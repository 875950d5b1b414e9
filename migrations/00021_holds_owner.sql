-- The prescription or dispensing that a hold belongs to; empty for the others.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE holds ADD COLUMN IF NOT EXISTS owner TEXT NOT NULL DEFAULT '';
