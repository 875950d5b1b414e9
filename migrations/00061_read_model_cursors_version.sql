-- Which read models a cursor stands for. Those of an older version lack some
-- that came later, and are folded anew.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE read_model_cursors
    ADD COLUMN IF NOT EXISTS version INT8 NOT NULL DEFAULT 1;
