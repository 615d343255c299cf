-- +goose NO TRANSACTION
-- +goose Up

-- The index is made beside writes; one that a crash has left half-made is made anew.
DROP INDEX IF EXISTS events_app;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY events_app ON events (app_id, id) WHERE app_id IS NOT NULL;
RESET statement_timeout;
