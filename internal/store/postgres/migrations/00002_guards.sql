-- +goose Up

-- What was signed of the requests of endpoints that keep guards, and the event that it was
-- accepted as, or is a duplicate of.
CREATE TABLE guards (
    part        smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    endpoint_id uuid NOT NULL,
    guard       bytea NOT NULL,
    event_id    uuid NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (part, endpoint_id, guard)
);
CREATE INDEX guards_expiry ON guards (expires_at);
-- As that of idempotency_keys: it has no tenant's id, and is not for tenants.
ALTER TABLE guards ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON guards USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
