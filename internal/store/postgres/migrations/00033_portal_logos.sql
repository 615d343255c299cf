-- +goose Up

-- The picture at the head of a tenant's portal.
CREATE TABLE portal_logos (
    tenant_id  uuid PRIMARY KEY,
    type       text NOT NULL CHECK (type IN ('image/png', 'image/jpeg', 'image/webp')),
    image      bytea NOT NULL CHECK (octet_length(image) BETWEEN 1 AND 65536),
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32), -- SHA-256 of the image
    alt        text NOT NULL,
    updated_at timestamptz NOT NULL
);
ALTER TABLE portal_logos ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON portal_logos USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
