-- +goose Up

-- The ledger: see store.Ledger. told has a bit for each fact of the delivery that was told: 1 that it
-- was made, 2 that it ended. NULL: none was.
ALTER TABLE deliveries ADD COLUMN told INTEGER;

-- Facts that are not booked yet: of each transaction what it told, as store.AppendFact writes it.
CREATE TABLE ledger_outbox (
    id    BLOB PRIMARY KEY CHECK (length(id) = 16),
    facts BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- How many facts were ever told of an endpoint's deliveries.
CREATE TABLE ledger_totals (
    tenant_id   BLOB NOT NULL,
    endpoint_id BLOB NOT NULL,
    accepted    INTEGER NOT NULL,
    replayed    INTEGER NOT NULL,
    delivered   INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    dead_letter INTEGER NOT NULL,
    canceled    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, endpoint_id)
) STRICT, WITHOUT ROWID;

-- What the books say of an owner, as last reported, and what they should have said: both as
-- store.AppendTotals writes it. endpoint_id is all zeros in the row of a tenant's own accounts.
CREATE TABLE ledger_books (
    tenant_id   BLOB NOT NULL,
    endpoint_id BLOB NOT NULL,
    books       BLOB NOT NULL,
    cut         BLOB NOT NULL,
    reported_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, endpoint_id)
) STRICT, WITHOUT ROWID;

-- Facts that the books do not have as they were told, or that the store does not have.
CREATE TABLE ledger_conflicts (
    n           INTEGER PRIMARY KEY,
    kind        INTEGER NOT NULL,
    delivery_id BLOB NOT NULL,
    event_id    BLOB NOT NULL,
    endpoint_id BLOB NOT NULL,
    tenant_id   BLOB NOT NULL,
    at          INTEGER NOT NULL,
    answer      TEXT NOT NULL,
    found_at    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX ledger_conflicts_fact ON ledger_conflicts (delivery_id, kind);
CREATE INDEX ledger_conflicts_tenant ON ledger_conflicts (tenant_id, n);

UPDATE schema_info SET version = 18;
