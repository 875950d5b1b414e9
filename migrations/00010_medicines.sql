-- Medicines: a clinic's formulary. All quantities count base units.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS medicines (
    clinic_id     TEXT NOT NULL,
    medicine_id   TEXT NOT NULL,
    name          TEXT NOT NULL,
    base_unit     TEXT NOT NULL,
    strength      TEXT NOT NULL,
    form          TEXT NOT NULL,
    atc_code      TEXT NOT NULL,
    category      TEXT NOT NULL,
    active        BOOL NOT NULL,
    last_sequence INT8 NOT NULL,
    CONSTRAINT medicines_pkey PRIMARY KEY (clinic_id, medicine_id)
);
