-- +goose Up

-- Links for a tenant's customers into the portal, each with its one session.
CREATE TABLE portal_links (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id  BLOB NOT NULL,
    app_id     BLOB,          -- NULL: it shows all of the tenant
    mode       TEXT NOT NULL CHECK (mode IN ('read', 'manage')),
    sites      BLOB NOT NULL, -- JSON, a list of origins
    key_id     BLOB,          -- NULL: the admin key made it
    key_hash   BLOB NOT NULL CHECK (length(key_hash) = 32),
    token      BLOB NOT NULL UNIQUE CHECK (length(token) = 32),   -- a hash
    session    BLOB UNIQUE CHECK (length(session) = 32),          -- a hash; NULL: the link was not used
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX portal_links_tenant ON portal_links (tenant_id, id);
CREATE INDEX portal_links_expiry ON portal_links (expires_at);

UPDATE schema_info SET version = 20;
