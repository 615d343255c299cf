-- +goose NO TRANSACTION
-- +goose Up

-- The index is made beside writes; one that a crash has left half-made is made anew.
DROP INDEX IF EXISTS events_unmatched;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY events_unmatched ON events (tenant_id, id) WHERE unmatched;
RESET statement_timeout;
