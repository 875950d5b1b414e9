-- Nodes look over all clinics for medicines that lie ready and were not
-- collected in time. The index holds only what lies ready.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_due
    ON documents (due_at, clinic_id, document_id)
    WHERE kind = 21 AND is_open;
