-- Entries are immutable movements: a quantity from one bucket of a lot to
-- another, with the lot's held balances after it.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS entries (
    clinic_id   TEXT NOT NULL,
    location_id TEXT NOT NULL,
    medicine_id TEXT NOT NULL,
    -- The journal record that made the entry, and the entry's place in it.
    sequence    INT8 NOT NULL,
    line        INT4 NOT NULL,
    lot_id      TEXT NOT NULL,
    -- Buckets: 1 available, 2 reserved, 3 pending, 4 quarantined, 5 in transit;
    -- counterparties: 16 supplier, 17 dispensed, 18 issued, 19 adjustment,
    -- 20 wasted, 21 variance, 22 converted, 23 clearing.
    debit       INT2 NOT NULL,
    credit      INT2 NOT NULL,
    quantity    INT8 NOT NULL CHECK (quantity > 0),
    available   INT8 NOT NULL CHECK (available >= 0),
    reserved    INT8 NOT NULL CHECK (reserved >= 0),
    pending     INT8 NOT NULL CHECK (pending >= 0),
    quarantined INT8 NOT NULL CHECK (quarantined >= 0),
    in_transit  INT8 NOT NULL CHECK (in_transit >= 0),
    -- In a stock card's order: one medicine at one location, by sequence.
    CONSTRAINT entries_pkey PRIMARY KEY (clinic_id, location_id, medicine_id, sequence, line)
);
