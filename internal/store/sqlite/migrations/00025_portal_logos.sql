-- +goose Up

-- The picture at the head of a tenant's portal.
CREATE TABLE portal_logos (
    tenant_id  BLOB PRIMARY KEY CHECK (length(tenant_id) = 16),
    type       TEXT NOT NULL CHECK (type IN ('image/png', 'image/jpeg', 'image/webp')),
    image      BLOB NOT NULL CHECK (length(image) BETWEEN 1 AND 65536),
    hash       BLOB NOT NULL CHECK (length(hash) = 32), -- SHA-256 of the image
    alt        TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

UPDATE schema_info SET version = 25;
