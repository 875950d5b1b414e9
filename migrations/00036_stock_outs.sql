-- When a location had nothing available of a medicine that it had before.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS stock_outs (
    clinic_id   TEXT NOT NULL,
    medicine_id TEXT NOT NULL,
    location_id TEXT NOT NULL,
    began_at    TIMESTAMPTZ NOT NULL,
    ended_at    TIMESTAMPTZ,
    CONSTRAINT stock_outs_pkey PRIMARY KEY (clinic_id, medicine_id, location_id, began_at)
);
