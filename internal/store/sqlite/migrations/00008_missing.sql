-- +goose Up

-- Bulk replays that make an event's first delivery to an endpoint that never got it: such a
-- delivery names the replay and repeats none. Only a CHECK changes, to a wider one, and no row
-- has to be looked at: SQLite's documentation gives this way to do it, beside one that copies
-- the table.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql,
    'CHECK (replay_id IS NULL OR replay_of IS NOT NULL)',
    'CHECK (replay_id IS NULL OR replay_of IS NOT NULL OR first_of IS NOT NULL)')
WHERE type = 'table' AND name = 'deliveries';
PRAGMA writable_schema = RESET;
ALTER TABLE replays ADD COLUMN missing INTEGER NOT NULL DEFAULT 0 CHECK (missing IN (0, 1));

-- A binary that does not know such replays would end them with nothing made, and would not find
-- the ingest of an endpoint that has become a source.
UPDATE schema_info SET version = 8, readable_by = 8;
