-- +goose Up

-- Sign-ins of people. owner is the tenant of the key, all zeros for the admin key, as is key_id then.
CREATE TABLE sessions (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    hash       BLOB NOT NULL UNIQUE CHECK (length(hash) = 32), -- of the token
    owner      BLOB NOT NULL CHECK (length(owner) = 16),
    key_id     BLOB NOT NULL CHECK (length(key_id) = 16),
    key_hash   BLOB NOT NULL CHECK (length(key_hash) = 32),
    address    TEXT NOT NULL,
    agent      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_owner ON sessions (owner, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

UPDATE schema_info SET version = 16;
