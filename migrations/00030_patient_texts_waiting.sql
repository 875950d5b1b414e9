-- Whether the command that brought a text waits for a second person, so that
-- the text is not in force yet; and the keyed digests of the identifiers that an
-- identity gives, separated by spaces, for when it is.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE patient_texts
    ADD COLUMN IF NOT EXISTS waiting BOOL NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS identifiers TEXT NOT NULL DEFAULT '';
