-- What documents of the pharmacy are looked for by: the token of the patient
-- that they concern, the day at the clinic on which it happened, and until when
-- something waits. Kinds: 11 prices, 12 prescription template, 13 control limit,
-- and, read only when a command names them, 20 prescription, 21 dispensing,
-- 22 prescription identifier, 23 patient, 24 charge, 25 downtime record.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE documents
    ADD COLUMN IF NOT EXISTS patient_id TEXT NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS day DATE NOT NULL DEFAULT '1970-01-01',
    ADD COLUMN IF NOT EXISTS due_at TIMESTAMPTZ NOT NULL DEFAULT '1970-01-01 00:00:00+00';
