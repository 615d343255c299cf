-- +goose Up

-- What was signed of the requests of endpoints that keep guards, and the event that it was
-- accepted as, or is a duplicate of.
CREATE TABLE guards (
    endpoint_id BLOB NOT NULL,
    guard       BLOB NOT NULL,
    event_id    BLOB NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (endpoint_id, guard)
) STRICT, WITHOUT ROWID;
CREATE INDEX guards_expiry ON guards (expires_at);

UPDATE schema_info SET version = 2;
