-- Whom a lot reached: the entries by which its units were dispensed, and no
-- others.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS entries_dispensed
    ON entries (clinic_id, lot_id, sequence, line)
    WHERE debit = 17;
