-- Clinics: the tenants, with the policies that commands are judged by.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS clinics (
    clinic_id       TEXT NOT NULL,
    name            TEXT NOT NULL,
    -- An IANA name; a lot's expiry is a day in this zone.
    time_zone       TEXT NOT NULL,
    -- How many days back occurred_at may lie.
    backdating_days INT8 NOT NULL,
    active          BOOL NOT NULL,
    last_sequence   INT8 NOT NULL,
    CONSTRAINT clinics_pkey PRIMARY KEY (clinic_id)
);
