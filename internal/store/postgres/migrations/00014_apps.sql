-- +goose Up

-- Customers of a tenant, which group endpoints and published events.
CREATE TABLE apps (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    uid        text,          -- null: none
    config     text NOT NULL, -- JSON of kapsel.AppConfig
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    revision   bigint NOT NULL
);
CREATE INDEX apps_tenant ON apps (tenant_id, id);
CREATE UNIQUE INDEX apps_uid ON apps (tenant_id, uid) WHERE deleted_at IS NULL;
CREATE INDEX apps_revision ON apps (revision);
ALTER TABLE apps ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON apps USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));

-- Null for an endpoint without an app, and for an event that was published to none.
ALTER TABLE endpoints ADD COLUMN app_id uuid;
CREATE INDEX endpoints_app ON endpoints (app_id, id) WHERE app_id IS NOT NULL;
ALTER TABLE events ADD COLUMN app_id uuid;
