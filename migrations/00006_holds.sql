-- Holds are reservations: one hold spans one row for each lot that it reserves.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS holds (
    clinic_id         TEXT        NOT NULL,
    location_id       TEXT        NOT NULL,
    medicine_id       TEXT        NOT NULL,
    hold_id           TEXT        NOT NULL,
    lot_id            TEXT        NOT NULL,
    -- The lot's place in the hold, from 0: the order in which it was taken.
    line              INT4        NOT NULL CHECK (line >= 0),
    -- Still held; 0 once the hold is closed.
    quantity          INT8        NOT NULL CHECK (quantity >= 0),
    -- What was reserved at first.
    reserved_quantity INT8        NOT NULL CHECK (reserved_quantity > 0),
    -- 1 open, 2 released, 3 issued, 4 expired.
    status            INT2        NOT NULL,
    reason_code       TEXT        NOT NULL,
    deadline          TIMESTAMPTZ NOT NULL,
    actor             TEXT        NOT NULL,
    opened_sequence   INT8        NOT NULL,
    last_sequence     INT8        NOT NULL,
    CONSTRAINT holds_pkey PRIMARY KEY (clinic_id, location_id, medicine_id, hold_id, lot_id)
);
