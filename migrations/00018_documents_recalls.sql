-- Nodes look over all clinics for recalls that are not followed up. There are
-- few, and the index holds only them.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_recalls
    ON documents (clinic_id, document_id)
    WHERE kind = 3 AND is_open;
