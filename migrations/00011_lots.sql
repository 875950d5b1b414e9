-- Lots: what arrived together and expires together.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS lots (
    clinic_id     TEXT NOT NULL,
    lot_id        TEXT NOT NULL,
    medicine_id   TEXT NOT NULL,
    manufacturer  TEXT NOT NULL,
    gtin          TEXT NOT NULL,
    lot_number    TEXT NOT NULL,
    -- The last day on which the lot may be used, in the clinic's time zone.
    expiry        DATE NOT NULL,
    active        BOOL NOT NULL,
    registered_sequence INT8 NOT NULL,
    last_sequence INT8 NOT NULL,
    CONSTRAINT lots_pkey PRIMARY KEY (clinic_id, lot_id)
);
