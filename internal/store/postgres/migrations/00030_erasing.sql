-- +goose NO TRANSACTION
-- +goose Up

-- Events whose erasure is not complete. The index is made beside writes; one that a crash has left half-made
-- is made anew.
DROP INDEX IF EXISTS events_erasing;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY events_erasing ON events (part, id) WHERE erasing IS NOT NULL;
RESET statement_timeout;
