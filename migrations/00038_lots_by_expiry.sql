-- The lots that expire soon. All lots have an expiry: the condition keeps reads
-- that do not state it off this index.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS lots_by_expiry
    ON lots (clinic_id, expiry, lot_id)
    WHERE expiry > '1970-01-01';
