-- +goose Up

-- What is set on a tenant's audit log, JSON.
ALTER TABLE tenants ADD COLUMN audit BLOB NOT NULL DEFAULT x'7b7d';

-- Attempts of logs that were closed are found by their tenant, too.
CREATE INDEX audit_logs_of_tenant ON audit_logs (tenant_id);

-- The newest head of a log that enough witnesses have signed, with their lines in note; size 0: there is
-- none. states is what each witness last did, JSON.
CREATE TABLE audit_witnessed (
    log       BLOB PRIMARY KEY CHECK (length(log) = 16),
    size      INTEGER NOT NULL,
    root      BLOB NOT NULL CHECK (length(root) = 32),
    signed_at INTEGER NOT NULL,
    note      BLOB NOT NULL,
    states    BLOB NOT NULL
) STRICT, WITHOUT ROWID;

UPDATE schema_info SET version = 19;
