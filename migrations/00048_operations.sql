-- Commands that are carried out later, with what became of them. A waiting one
-- ends in the transaction that carries it out, refuses it or cancels it.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS operations (
    clinic_id       TEXT        NOT NULL,
    idempotency_key TEXT        NOT NULL,
    -- 1 high, 2 normal, 3 low.
    priority        INT2        NOT NULL,
    -- 1 waiting, 2 accepted, 3 rejected, 4 failed, 5 cancelled.
    state           INT2        NOT NULL,
    kind            INT2        NOT NULL,
    actor           TEXT        NOT NULL,
    -- The command's request hash: another command under the same key is refused.
    request_hash    BYTEA       NOT NULL,
    -- The command with the rights of who submitted it.
    submission      BYTEA       NOT NULL,
    -- How often it was tried and could not be judged.
    attempts        INT4        NOT NULL,
    submitted_at    TIMESTAMPTZ NOT NULL,
    -- It is not tried before.
    due_at          TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ,
    -- Its place in the journal; 0 where it is not there.
    sequence        INT8        NOT NULL,
    -- Why it was rejected or could not be judged, as JSON; else empty.
    failure         TEXT        NOT NULL,
    CONSTRAINT operations_pkey PRIMARY KEY (clinic_id, idempotency_key)
);
