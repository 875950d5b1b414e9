-- What each location holds of a medicine, summed over its lots, and how that
-- compares with what it is to hold.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS location_stock_summary (
    clinic_id    TEXT NOT NULL,
    medicine_id  TEXT NOT NULL,
    location_id  TEXT NOT NULL,
    available    INT8 NOT NULL,
    reserved     INT8 NOT NULL,
    pending      INT8 NOT NULL,
    quarantined  INT8 NOT NULL,
    in_transit   INT8 NOT NULL,
    -- How many lots it holds some of.
    lots         INT8 NOT NULL,
    moved_at     TIMESTAMPTZ,
    -- Since when nothing is available; null where something is.
    out_since    TIMESTAMPTZ,
    -- What it is to hold; all zero where nobody said.
    min_level    INT8 NOT NULL,
    max_level    INT8 NOT NULL,
    reorder      INT8 NOT NULL,
    -- Since when, and which command, it holds too little; null where it does not.
    low_since    TIMESTAMPTZ,
    low_sequence INT8 NOT NULL,
    CONSTRAINT location_stock_summary_pkey PRIMARY KEY (clinic_id, medicine_id, location_id)
);
