-- Allocation and the catalogue ask for a medicine's lots.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS lots_by_medicine ON lots (clinic_id, medicine_id, lot_id);
