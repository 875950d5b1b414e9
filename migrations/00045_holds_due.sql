-- The open holds of a clinic by their deadlines: the job that gives up what is
-- overdue looks every minute. Each hold has one line 0; what does not ask for it
-- cannot be planned with this index.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS holds_due
    ON holds (clinic_id, deadline, hold_id)
    WHERE status = 1 AND line = 0;
