-- +goose NO TRANSACTION
-- +goose Up

-- Lists of the events of a type. The index is made beside writes; one that a crash has left half-made is
-- made anew.
DROP INDEX IF EXISTS events_type;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY events_type ON events (tenant_id, type, id) WHERE type IS NOT NULL;
RESET statement_timeout;
