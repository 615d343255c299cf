-- +goose NO TRANSACTION
-- +goose Up

-- What a node took and did not send waits too, with no attempt and due in the future, and is not
-- scheduled. So the index of what is not scheduled goes by claims and not by attempts. It is made
-- beside writes; one that a crash has left half-made is made anew.
DROP INDEX IF EXISTS deliveries_taken;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY deliveries_taken ON deliveries (endpoint_id, due_at) WHERE status = 0 AND claims > 0;
DROP INDEX CONCURRENTLY IF EXISTS deliveries_retried;
RESET statement_timeout;
