-- Locations: the places in a clinic that hold stock.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS locations (
    clinic_id     TEXT NOT NULL,
    location_id   TEXT NOT NULL,
    name          TEXT NOT NULL,
    -- 1 store, 2 dispensary, 3 ward.
    kind          INT2 NOT NULL,
    active        BOOL NOT NULL,
    last_sequence INT8 NOT NULL,
    CONSTRAINT locations_pkey PRIMARY KEY (clinic_id, location_id)
);
