-- +goose Up

-- Links for a tenant's customers into the portal, each with its one session.
CREATE TABLE portal_links (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL,
    app_id     uuid,          -- NULL: it shows all of the tenant
    mode       text NOT NULL CHECK (mode IN ('read', 'manage')),
    sites      text NOT NULL, -- JSON, a list of origins
    key_id     uuid,          -- NULL: the admin key made it
    key_hash   bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    token      bytea NOT NULL UNIQUE CHECK (octet_length(token) = 32),   -- a hash
    session    bytea UNIQUE CHECK (octet_length(session) = 32),          -- a hash; NULL: the link was not used
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    revoked_at timestamptz
);
CREATE INDEX portal_links_tenant ON portal_links (tenant_id, id);
CREATE INDEX portal_links_expiry ON portal_links (expires_at);
ALTER TABLE portal_links ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON portal_links USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
