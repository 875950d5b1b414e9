-- A read model: the entries that happened before they were recorded, by how late
-- they were and when they happened. What lay on a shelf at a moment, as it is
-- known now, is what the books said then and those of these that were recorded
-- after it.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS late_entries (
    clinic_id   TEXT NOT NULL,
    location_id TEXT NOT NULL,
    medicine_id TEXT NOT NULL,
    lot_id      TEXT NOT NULL,
    -- 0 up to a second, 1 a minute, 2 an hour, 3 a day, 4 a week, 5 five weeks,
    -- 6 a year, 7 longer.
    lateness    INT2 NOT NULL,
    occurred_at TIMESTAMPTZ NOT NULL,
    sequence    INT8 NOT NULL,
    line        INT4 NOT NULL,
    debit       INT2 NOT NULL,
    credit      INT2 NOT NULL,
    quantity    INT8 NOT NULL,
    CONSTRAINT late_entries_pkey PRIMARY KEY (clinic_id, location_id, medicine_id, lot_id, lateness, occurred_at, sequence, line)
);
