-- At which clinics a job found something, for operators: what the nightly
-- reconciliation found must be seen before anybody names the clinic.

-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX IF NOT EXISTS job_findings_by_kind
    ON job_findings (job, kind, clinic_id) INCLUDE (first_found_at);
