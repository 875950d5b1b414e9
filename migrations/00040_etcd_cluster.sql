-- The etcd cluster that this database belongs to: one row. Nodes of another
-- cluster would elect a second leader, and refuse to start.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS etcd_cluster (
    only_row    INT2        NOT NULL CHECK (only_row = 1),
    -- etcd's own id of the cluster, in hexadecimal.
    cluster_id  TEXT        NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT etcd_cluster_pkey PRIMARY KEY (only_row)
);
