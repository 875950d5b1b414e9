-- A location's summary.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS location_stock_summary_by_location
    ON location_stock_summary (clinic_id, location_id, medicine_id);
