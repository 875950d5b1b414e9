-- Open holds are few and asked for often; closed ones stay in the table for
-- good. The index holds only the open ones, so it stays small.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS holds_open
    ON holds (clinic_id, location_id, medicine_id, hold_id)
    WHERE status = 1;
