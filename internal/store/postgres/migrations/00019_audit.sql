-- +goose Up

-- The audit log. Each attempt is a leaf of its tenant's log, which is an RFC 6962 tree. The salt of an
-- event hides what its commitments are made of; an event without one is older than the log.
ALTER TABLE events ADD COLUMN salt bytea;
-- true: the attempt has a row in audit_outbox or a leaf. NULL: it is older than the log.
ALTER TABLE attempts ADD COLUMN logged boolean;

-- Attempts that are no leaves yet. entry is what store.AppendEntry writes. Its rows live for a second.
CREATE TABLE audit_outbox (
    part  smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    id    uuid NOT NULL, -- the attempt's
    entry bytea NOT NULL,
    PRIMARY KEY (part, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- One log a tenant. Who writes a log raises its epoch first, and writes under that epoch only. edge
-- holds the hashes of the complete subtrees that the log consists of, the largest first.
CREATE TABLE audit_logs (
    log        uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    closed_at  timestamptz, -- another log of the tenant goes on in its place
    epoch      bigint NOT NULL,
    size       bigint NOT NULL,
    root       bytea NOT NULL CHECK (octet_length(root) = 32),
    edge       bytea NOT NULL,
    fault      text NOT NULL -- why no head of it is signed; '': there is no reason
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX audit_logs_tenant ON audit_logs (tenant_id) WHERE closed_at IS NULL;

CREATE TABLE audit_leaves (
    log        uuid NOT NULL,
    n          bigint NOT NULL, -- from 0, without gaps
    attempt_id uuid,            -- NULL: it is about no attempt
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    text       bytea,           -- NULL: it was deleted
    PRIMARY KEY (log, n)
);
CREATE UNIQUE INDEX audit_leaves_attempt ON audit_leaves (log, attempt_id) WHERE attempt_id IS NOT NULL;

-- Tiles of 256 hashes; a tile of a level above 0 may hold fewer. Level 0 has complete tiles only: the
-- rest of its hashes are in audit_leaves.
CREATE TABLE audit_tiles (
    log    uuid NOT NULL,
    level  integer NOT NULL,
    n      bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (log, level, n)
);

-- Heads that were signed. note is the checkpoint as it is published.
CREATE TABLE audit_heads (
    log       uuid NOT NULL,
    size      bigint NOT NULL,
    root      bytea NOT NULL CHECK (octet_length(root) = 32),
    signed_at timestamptz NOT NULL,
    note      bytea NOT NULL,
    PRIMARY KEY (log, size)
);

ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_logs USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
-- What belongs to a log is read for the log, which its tenant's row in audit_logs names: no session of
-- a tenant sees these tables.
ALTER TABLE audit_outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_outbox USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
ALTER TABLE audit_leaves ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_leaves USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
ALTER TABLE audit_tiles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_tiles USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_heads USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
