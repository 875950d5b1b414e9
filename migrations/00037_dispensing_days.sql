-- What was handed over on a day at the clinic, less what was cancelled since.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS dispensing_days (
    clinic_id   TEXT NOT NULL,
    day         DATE NOT NULL,
    medicine_id TEXT NOT NULL,
    location_id TEXT NOT NULL,
    dispenser   TEXT NOT NULL,
    -- Empty for what had no price.
    currency    TEXT NOT NULL,
    dispensings INT8 NOT NULL,
    quantity    INT8 NOT NULL,
    wasted      INT8 NOT NULL,
    -- In minor units.
    amount      INT8 NOT NULL,
    CONSTRAINT dispensing_days_pkey PRIMARY KEY (clinic_id, day, medicine_id, location_id, dispenser, currency)
);
