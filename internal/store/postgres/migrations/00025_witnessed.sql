-- +goose Up

-- What is set on a tenant's audit log.
ALTER TABLE tenants ADD COLUMN audit text NOT NULL DEFAULT '{}';

-- Attempts of logs that were closed are found by their tenant, too.
CREATE INDEX audit_logs_of_tenant ON audit_logs (tenant_id);

-- The newest head of a log that enough witnesses have signed, with their lines in note; size 0: there is
-- none. states is what each witness last did, JSON.
CREATE TABLE audit_witnessed (
    log       uuid PRIMARY KEY,
    size      bigint NOT NULL,
    root      bytea NOT NULL CHECK (octet_length(root) = 32),
    signed_at timestamptz NOT NULL,
    note      bytea NOT NULL,
    states    bytea NOT NULL
);
ALTER TABLE audit_witnessed ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_witnessed USING ((SELECT current_setting('kapsel.tenant', true)) = '*');
