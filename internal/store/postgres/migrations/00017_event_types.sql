-- +goose Up

-- The catalogue of the types that a tenant publishes.
CREATE TABLE event_types (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    name       text NOT NULL,
    config     text NOT NULL, -- JSON of kapsel.EventTypeConfig
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    revision   bigint NOT NULL
);
CREATE INDEX event_types_tenant ON event_types (tenant_id, id);
CREATE UNIQUE INDEX event_types_name ON event_types (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX event_types_revision ON event_types (revision);
ALTER TABLE event_types ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON event_types USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
