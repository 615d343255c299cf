-- +goose Up

-- Entries are written behind each other, in the order of their commits, so that a batch touches few
-- pages, and pages of those that became leaves are empty together.
CREATE TABLE audit_entries (
    seq   INTEGER PRIMARY KEY,
    id    BLOB NOT NULL CHECK (length(id) = 16), -- the attempt's
    entry BLOB NOT NULL
) STRICT;
INSERT INTO audit_entries (id, entry) SELECT id, entry FROM audit_outbox ORDER BY id;
DROP TABLE audit_outbox;
ALTER TABLE audit_entries RENAME TO audit_outbox;

-- The text of an attempt's leaf may from now on be the shorter record that store.ReadRecord reads, which
-- a binary from before does not know.
UPDATE schema_info SET version = 15, readable_by = 15;
