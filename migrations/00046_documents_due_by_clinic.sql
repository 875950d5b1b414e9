-- What lies ready at a clinic by when it has to be collected: the job that puts
-- it back looks every minute. It takes the place of documents_due.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_due_by_clinic
    ON documents (clinic_id, due_at, document_id)
    WHERE kind = 21 AND is_open;
