-- +goose NO TRANSACTION
-- +goose Up

-- An event may have deliveries to endpoints other than the one whose ingest it came in at.
-- first_of is the event, for the first delivery to each of them; replays and the delivery to
-- the event's origin have none. The index is made beside writes; one that a crash has left
-- half-made is made anew.
ALTER TABLE deliveries ADD COLUMN IF NOT EXISTS first_of uuid;
DROP INDEX IF EXISTS deliveries_first_once;
SET statement_timeout = 0;
CREATE UNIQUE INDEX CONCURRENTLY deliveries_first_once ON deliveries (endpoint_id, first_of, part) WHERE first_of IS NOT NULL;
RESET statement_timeout;
