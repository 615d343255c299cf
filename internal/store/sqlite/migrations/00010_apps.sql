-- +goose Up

-- Customers of a tenant, which group endpoints and published events.
CREATE TABLE apps (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id  BLOB NOT NULL,
    uid        TEXT,          -- NULL: none
    config     BLOB NOT NULL, -- JSON of kapsel.AppConfig
    created_at INTEGER,
    updated_at INTEGER,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX apps_tenant ON apps (tenant_id, id);
CREATE UNIQUE INDEX apps_uid ON apps (tenant_id, uid) WHERE deleted_at IS NULL;
CREATE INDEX apps_revision ON apps (revision, id);

-- NULL for an endpoint without an app, and for an event that was published to none.
ALTER TABLE endpoints ADD COLUMN app_id BLOB;
CREATE INDEX endpoints_app ON endpoints (app_id, id) WHERE app_id IS NOT NULL;
ALTER TABLE events ADD COLUMN app_id BLOB;
CREATE INDEX events_app ON events (app_id, id) WHERE app_id IS NOT NULL;

-- A binary that knows no apps would send what is published to one to endpoints of others.
UPDATE schema_info SET version = 10, readable_by = 10;
