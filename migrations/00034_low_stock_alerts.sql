-- What is low, by location.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS low_stock_alerts
    ON location_stock_summary (clinic_id, location_id, medicine_id)
    WHERE low_sequence > 0;
