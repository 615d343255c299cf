-- +goose Up

-- An event may have deliveries to endpoints other than the one whose ingest it came in at.
-- first_of is the event, for the first delivery to each of them; replays and the delivery to
-- the event's origin have none. They are found by their event, once an endpoint and event, and
-- by their endpoint, whose own events do not name them.
ALTER TABLE deliveries ADD COLUMN first_of BLOB;
CREATE INDEX deliveries_first_of ON deliveries (first_of) WHERE first_of IS NOT NULL;
CREATE UNIQUE INDEX deliveries_first_once ON deliveries (endpoint_id, first_of) WHERE first_of IS NOT NULL;
CREATE INDEX deliveries_first_id ON deliveries (endpoint_id, id) WHERE first_of IS NOT NULL;

-- A binary that knows one delivery an event would not show or delete the others.
UPDATE schema_info SET version = 5, readable_by = 5;
