-- +goose Up

-- What was tried and waits, by when it is due. A delivery that was never tried and is due in the
-- future is scheduled, and counts do not look at it, however many there are.
CREATE INDEX deliveries_retried ON deliveries (endpoint_id, due_at) WHERE status = 0 AND attempts > 0;

UPDATE schema_info SET version = 7;
