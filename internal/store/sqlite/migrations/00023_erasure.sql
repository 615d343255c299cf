-- +goose Up

-- When the contents of an event were erased. erasing is the attempt up to which they are gone; NULL: all are.
ALTER TABLE events ADD COLUMN erased_at INTEGER;
ALTER TABLE events ADD COLUMN erasing BLOB;
CREATE INDEX events_erasing ON events (id) WHERE erasing IS NOT NULL;

-- Of leaves below texts_from the texts are gone, because their time is over; but for leaves about no attempt.
-- Of a log that was dropped nothing but this row is left: its tenant was deleted, and its time is over. Until
-- all is gone, size is above 0.
ALTER TABLE audit_logs ADD COLUMN texts_from INTEGER NOT NULL DEFAULT 0;
ALTER TABLE audit_logs ADD COLUMN dropped_at INTEGER;

-- A key without a tenant is one of the instance.
CREATE TABLE keys_of_all (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id    BLOB,
    name         TEXT NOT NULL,
    scope        TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at   INTEGER,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER,
    revision     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO keys_of_all SELECT id, tenant_id, name, scope, prefix, hash, created_at, expires_at, last_used_at, revoked_at, revision FROM keys;
DROP TABLE keys;
ALTER TABLE keys_of_all RENAME TO keys;
CREATE INDEX keys_tenant ON keys (tenant_id, id);
CREATE INDEX keys_revision ON keys (revision);

-- A binary from before would deliver an erased event again, without a body.
UPDATE schema_info SET version = 23, readable_by = 23;
