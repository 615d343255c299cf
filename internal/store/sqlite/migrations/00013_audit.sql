-- +goose Up

-- The audit log. Each attempt is a leaf of its tenant's log, which is an RFC 6962 tree. The salt of an
-- event hides what its commitments are made of; an event without one is older than the log.
ALTER TABLE events ADD COLUMN salt BLOB;
-- 1: the attempt has a row in audit_outbox or a leaf. NULL: it is older than the log.
ALTER TABLE attempts ADD COLUMN logged INTEGER;

-- Attempts that are no leaves yet. entry is what store.AppendEntry writes.
CREATE TABLE audit_outbox (
    id    BLOB PRIMARY KEY CHECK (length(id) = 16), -- the attempt's
    entry BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One log a tenant. Who writes a log raises its epoch first, and writes under that epoch only. edge
-- holds the hashes of the complete subtrees that the log consists of, the largest first.
CREATE TABLE audit_logs (
    log        BLOB PRIMARY KEY CHECK (length(log) = 16),
    tenant_id  BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    closed_at  INTEGER, -- another log of the tenant goes on in its place
    epoch      INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    root       BLOB NOT NULL CHECK (length(root) = 32),
    edge       BLOB NOT NULL,
    fault      TEXT NOT NULL -- why no head of it is signed; '': there is no reason
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX audit_logs_tenant ON audit_logs (tenant_id) WHERE closed_at IS NULL;

CREATE TABLE audit_leaves (
    log        BLOB NOT NULL,
    n          INTEGER NOT NULL, -- from 0, without gaps
    attempt_id BLOB,             -- NULL: it is about no attempt
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    text       BLOB,             -- NULL: it was deleted
    PRIMARY KEY (log, n)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX audit_leaves_attempt ON audit_leaves (log, attempt_id) WHERE attempt_id IS NOT NULL;

-- Tiles of 256 hashes; a tile of a level above 0 may hold fewer. Level 0 has complete tiles only: the
-- rest of its hashes are in audit_leaves.
CREATE TABLE audit_tiles (
    log    BLOB NOT NULL,
    level  INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (log, level, n)
) STRICT, WITHOUT ROWID;

-- Heads that were signed. note is the checkpoint as it is published.
CREATE TABLE audit_heads (
    log       BLOB NOT NULL,
    size      INTEGER NOT NULL,
    root      BLOB NOT NULL CHECK (length(root) = 32),
    signed_at INTEGER NOT NULL,
    note      BLOB NOT NULL,
    PRIMARY KEY (log, size)
) STRICT, WITHOUT ROWID;

-- A binary that knows no log would record attempts without leaves.
UPDATE schema_info SET version = 13, readable_by = 13;
