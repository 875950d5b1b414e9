-- The held balances of each lot at each location, as the last entry left them.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS stock (
    clinic_id      TEXT NOT NULL,
    location_id    TEXT NOT NULL,
    medicine_id    TEXT NOT NULL,
    lot_id         TEXT NOT NULL,
    available      INT8 NOT NULL CHECK (available >= 0),
    reserved       INT8 NOT NULL CHECK (reserved >= 0),
    pending        INT8 NOT NULL CHECK (pending >= 0),
    quarantined    INT8 NOT NULL CHECK (quarantined >= 0),
    in_transit     INT8 NOT NULL CHECK (in_transit >= 0),
    -- The first receipt breaks ties between lots that expire on the same day.
    first_sequence INT8 NOT NULL,
    last_sequence  INT8 NOT NULL,
    CONSTRAINT stock_pkey PRIMARY KEY (clinic_id, location_id, medicine_id, lot_id)
);
