-- Epochs: where a clinic's journal was rewound. A restore brings the journal
-- back as it was; what the lost database recorded after that is gone, and its
-- sequences come again with other commands. So each restore starts an epoch, and
-- (epoch, sequence) never repeats. The first epoch has no row here.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS epochs (
    clinic_id      TEXT        NOT NULL,
    epoch          INT8        NOT NULL CHECK (epoch > 1),
    -- One after the last sequence that the epoch has in common with the one
    -- before it.
    first_sequence INT8        NOT NULL CHECK (first_sequence > 0),
    started_at     TIMESTAMPTZ NOT NULL,
    CONSTRAINT epochs_pkey PRIMARY KEY (clinic_id, epoch)
);
