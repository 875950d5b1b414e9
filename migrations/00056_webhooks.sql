-- Where a clinic's events are sent, how far each has come, and what keeps it from
-- going on. All there is to know of a webhook is in its row.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS webhooks (
    clinic_id           TEXT        NOT NULL,
    webhook_id          TEXT        NOT NULL,
    url                 TEXT        NOT NULL,
    -- What is sent; an empty list is no condition.
    location_ids        TEXT[]      NOT NULL,
    medicine_ids        TEXT[]      NOT NULL,
    event_types         TEXT[]      NOT NULL,
    -- What whoever made it could see: the only locations, null for all, and
    -- whether the variances of blind counts.
    within_location_ids TEXT[],
    sees_variances      BOOL        NOT NULL,
    -- Encrypted. The old one signs too until its time is over.
    secret              BYTEA       NOT NULL,
    old_secret          BYTEA,
    old_secret_until    TIMESTAMPTZ,
    -- The cursor: up to here everything was delivered.
    epoch               INT8        NOT NULL,
    sequence            INT8        NOT NULL,
    delivered_at        TIMESTAMPTZ,
    -- Attempts to deliver the next event that failed, and since when they do.
    attempts            INT4        NOT NULL,
    failing_since       TIMESTAMPTZ,
    last_failure        TEXT        NOT NULL,
    -- It is not tried before.
    due_at              TIMESTAMPTZ NOT NULL,
    paused_at           TIMESTAMPTZ,
    pause_reason        TEXT        NOT NULL,
    -- Rises with each change that somebody makes, and not with the cursor.
    version             INT8        NOT NULL,
    created_by          TEXT        NOT NULL,
    created_at          TIMESTAMPTZ NOT NULL,
    CONSTRAINT webhooks_pkey PRIMARY KEY (clinic_id, webhook_id)
);
