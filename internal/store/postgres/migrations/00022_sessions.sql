-- +goose Up

-- Sign-ins of people. owner is the tenant of the key, all zeros for the admin key, as is key_id then.
CREATE TABLE sessions (
    id         uuid PRIMARY KEY,
    hash       bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32), -- of the token
    owner      uuid NOT NULL,
    key_id     uuid NOT NULL,
    key_hash   bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    address    text NOT NULL,
    agent      text NOT NULL,
    created_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_owner ON sessions (owner, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON sessions USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR owner = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
