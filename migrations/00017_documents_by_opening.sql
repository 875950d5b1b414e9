-- Lists of documents, open and closed, go by when they were opened.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_by_opening
    ON documents (clinic_id, kind, opened_sequence, document_id);
