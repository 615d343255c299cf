-- +goose Up

-- What a node took and did not send waits too, with no attempt and due in the future, and is not
-- scheduled. So the index of what is not scheduled goes by claims and not by attempts.
CREATE INDEX deliveries_taken ON deliveries (endpoint_id, due_at) WHERE status = 0 AND claims > 0;
DROP INDEX deliveries_retried;

-- A binary of schema 7 to 10 names the index that is gone.
UPDATE schema_info SET version = 11, readable_by = 11;
