-- Up to which command the read models of a clinic reflect its journal: all of
-- them the same one.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS read_model_cursors (
    clinic_id   TEXT NOT NULL,
    epoch       INT8 NOT NULL,
    sequence    INT8 NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    -- The clinic's time zone then: days end by it.
    time_zone   TEXT NOT NULL,
    CONSTRAINT read_model_cursors_pkey PRIMARY KEY (clinic_id)
);
