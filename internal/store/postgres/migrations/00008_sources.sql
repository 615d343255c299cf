-- +goose Up

-- Ingest URLs without a destination of their own.
CREATE TABLE sources (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    state      text NOT NULL CHECK (state IN ('active', 'disabled')),
    config     text NOT NULL, -- JSON of kapsel.SourceConfig, its secrets sealed
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    revision   bigint NOT NULL
);
CREATE INDEX sources_tenant ON sources (tenant_id, id);
CREATE INDEX sources_revision ON sources (revision);
ALTER TABLE sources ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON sources USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));

-- events.endpoint_id is where an event came in: an endpoint, a source, or for a published event
-- its tenant. extra is JSON of kapsel.Event.Extra, null for an endpoint's events. unmatched: the
-- event had no delivery when it came in; later it may have got one.
ALTER TABLE events ADD COLUMN type text, ADD COLUMN extra text, ADD COLUMN unmatched boolean;

-- The schema that a node's binary knows; null before it was written. A node that knows less than
-- 8 cannot read subscriptions to sources.
ALTER TABLE nodes ADD COLUMN schema integer;
