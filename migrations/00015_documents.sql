-- Documents are what commands are about for longer than one command:
-- transfers, counts, recalls, approvals, loans, stock levels, packs,
-- identifiers, the policy. The document itself is in the core's encoding; the
-- columns hold what documents are looked for by.

-- +goose NO TRANSACTION
-- +goose Up
CREATE TABLE IF NOT EXISTS documents (
    clinic_id         TEXT  NOT NULL,
    -- 1 transfer, 2 count, 3 recall, 4 approval, 5 reversal, 6 loan, 7 stock
    -- levels, 8 policy, 9 packs, 10 identifier.
    kind              INT2  NOT NULL,
    document_id       TEXT  NOT NULL,
    -- Commands still depend on it.
    is_open           BOOL  NOT NULL,
    -- The locations that it concerns; both empty: the clinic as a whole.
    location_id       TEXT  NOT NULL,
    other_location_id TEXT  NOT NULL,
    opened_sequence   INT8  NOT NULL,
    last_sequence     INT8  NOT NULL,
    document          BYTEA NOT NULL,
    CONSTRAINT documents_pkey PRIMARY KEY (clinic_id, kind, document_id)
);
