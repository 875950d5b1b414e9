-- documents_due is not used any more: every index of a tenant's table begins
-- with the clinic.

-- +goose NO TRANSACTION
-- +goose Up
DROP INDEX IF EXISTS documents_due;
