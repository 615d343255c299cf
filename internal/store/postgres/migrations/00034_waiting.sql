-- +goose NO TRANSACTION
-- +goose Up

-- Lists of what waits go by ids, however much waits. The indexes are made beside writes; one that a crash has left
-- half-made is made anew. Their condition is not "status = 0", so that no statement about one delivery that waits reads
-- them whole while they are small.
DROP INDEX IF EXISTS deliveries_waiting;
DROP INDEX IF EXISTS deliveries_waiting_event;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY deliveries_waiting ON deliveries (endpoint_id, id) WHERE status + 0 = 0;
CREATE INDEX CONCURRENTLY deliveries_waiting_event ON deliveries (endpoint_id, event_id) WHERE status + 0 = 0;
RESET statement_timeout;
