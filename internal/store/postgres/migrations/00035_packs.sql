-- +goose Up

-- What a batch of completions puts into the audit log's outbox, of one tenant: one row instead of one for
-- each attempt. attempts is in ascending order, and entries has the entry of each, as audit_outbox has it.
-- An entry that becomes a leaf, or is erased, is taken out of its pack.
CREATE TABLE audit_packs (
    part      smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    id        uuid NOT NULL, -- its first attempt's, when it was made
    tenant_id uuid NOT NULL,
    attempts  uuid[] NOT NULL,
    entries   bytea[] NOT NULL CHECK (cardinality(entries) = cardinality(attempts) AND cardinality(entries) > 0),
    PRIMARY KEY (part, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000, toast.autovacuum_vacuum_cost_delay = 0,
    toast_tuple_target = 8160);
ALTER TABLE audit_packs ALTER COLUMN entries SET STORAGE EXTERNAL; -- ids and hashes: they do not get smaller
ALTER TABLE audit_packs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_packs USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
