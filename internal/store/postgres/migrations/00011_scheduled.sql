-- What was tried and waits, by when it is due. A delivery that was never tried and is due in the
-- future is scheduled, and counts do not look at it, however many there are.

-- +goose NO TRANSACTION
-- +goose Up

-- The index is made beside writes; one that a crash has left half-made is made anew.
DROP INDEX IF EXISTS deliveries_retried;
SET statement_timeout = 0;
CREATE INDEX CONCURRENTLY deliveries_retried ON deliveries (endpoint_id, due_at) WHERE status = 0 AND attempts > 0;
RESET statement_timeout;
