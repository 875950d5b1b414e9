-- How many clinics a shard holds, to place the next one.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS clinic_directory_by_shard ON clinic_directory (shard_id);
