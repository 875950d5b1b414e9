-- Lists of documents, open and closed, go by when they were opened. The
-- condition holds for every row; what looks a document up by its id does not
-- state it, and so cannot be planned with this index, which would read all of a
-- clinic's documents of the kind.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS documents_by_opening
    ON documents (clinic_id, kind, opened_sequence)
    WHERE opened_sequence > 0;
