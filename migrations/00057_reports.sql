-- Reports that are read later: how far each of those operations has come. The
-- rights of who asked stand with the operation.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS reports (
    clinic_id       TEXT        NOT NULL,
    idempotency_key TEXT        NOT NULL,
    name            TEXT        NOT NULL,
    parameters      TEXT        NOT NULL,
    -- Counts how often it was begun. Parts of earlier runs count for nothing.
    run             INT4        NOT NULL,
    -- Where the next page begins; empty at the beginning.
    page_token      TEXT        NOT NULL,
    rows_done       INT8        NOT NULL,
    -- 0 where it is not known.
    rows_total      INT8        NOT NULL,
    parts           INT4        NOT NULL,
    bytes           INT8        NOT NULL,
    -- The sequence that the first rows show.
    as_of_sequence  INT8        NOT NULL,
    -- Set before the result is deleted, so that nobody gets a piece of it.
    deleted_at      TIMESTAMPTZ,
    CONSTRAINT reports_pkey PRIMARY KEY (clinic_id, idempotency_key)
);
