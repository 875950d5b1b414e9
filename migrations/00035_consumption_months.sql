-- What was used of a medicine at a location in a month at the clinic.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS consumption_months (
    clinic_id   TEXT NOT NULL,
    medicine_id TEXT NOT NULL,
    location_id TEXT NOT NULL,
    -- Its first day.
    month       DATE NOT NULL,
    -- Dispensed and issued, less what came back of it.
    used        INT8 NOT NULL,
    wasted      INT8 NOT NULL,
    CONSTRAINT consumption_months_pkey PRIMARY KEY (clinic_id, medicine_id, location_id, month)
);
