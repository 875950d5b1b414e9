-- Who leads the background jobs. etcd elects; this counter, raised by whoever
-- has won, is what every step of a job is checked against: a leader that was cut
-- off and does not know it yet cannot record anything.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS leadership (
    role    TEXT        NOT NULL,
    epoch   INT8        NOT NULL CHECK (epoch > 0),
    holder  TEXT        NOT NULL,
    won_at  TIMESTAMPTZ NOT NULL,
    CONSTRAINT leadership_pkey PRIMARY KEY (role)
);
