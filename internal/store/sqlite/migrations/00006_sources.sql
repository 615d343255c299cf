-- +goose Up

-- Ingest URLs without a destination of their own.
CREATE TABLE sources (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id  BLOB NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('active', 'disabled')),
    config     BLOB NOT NULL, -- JSON of kapsel.SourceConfig
    created_at INTEGER,
    updated_at INTEGER,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sources_tenant ON sources (tenant_id, id);
CREATE INDEX sources_revision ON sources (revision, id);

-- events.endpoint_id is where an event came in: an endpoint, a source, or for a published event
-- its tenant. extra is JSON of kapsel.Event.Extra, NULL for an endpoint's events. These columns
-- are behind the body, and NULL for most events: NULL takes nothing but a byte of the row's head,
-- and is read without the body.
ALTER TABLE events ADD COLUMN type TEXT;
ALTER TABLE events ADD COLUMN extra TEXT;

-- 1: the event had no delivery when it came in. Later it may have got one.
ALTER TABLE events ADD COLUMN unmatched INTEGER;
CREATE INDEX events_unmatched ON events (tenant_id, id) WHERE unmatched = 1;

-- A binary that knows only endpoints as origins can neither read their subscriptions nor delete
-- the events of others.
UPDATE schema_info SET version = 6, readable_by = 6;
