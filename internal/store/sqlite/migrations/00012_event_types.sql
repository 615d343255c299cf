-- +goose Up

-- The catalogue of the types that a tenant publishes.
CREATE TABLE event_types (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id  BLOB NOT NULL,
    name       TEXT NOT NULL,
    config     BLOB NOT NULL, -- JSON of kapsel.EventTypeConfig
    created_at INTEGER,
    updated_at INTEGER,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX event_types_tenant ON event_types (tenant_id, id);
CREATE UNIQUE INDEX event_types_name ON event_types (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX event_types_revision ON event_types (revision, id);

-- A binary that knows no event types would publish what a catalogue refuses.
UPDATE schema_info SET version = 12, readable_by = 12;
