-- +goose Up

-- Events whose deliveries are still being made. after_endpoint is the cursor: the endpoints with ids
-- up to it have theirs.
CREATE TABLE expansions (
    event_id       BLOB PRIMARY KEY CHECK (length(event_id) = 16),
    tenant_id      BLOB NOT NULL,
    after_endpoint BLOB NOT NULL CHECK (length(after_endpoint) = 16)
) STRICT, WITHOUT ROWID;

-- A binary that does not know expansions would not go on with them, and delete their events.
UPDATE schema_info SET version = 9, readable_by = 9;
