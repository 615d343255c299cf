-- +goose Up

-- Whether a duplicate of the event made the delivery, after the one that it repeats was given up.
ALTER TABLE deliveries ADD COLUMN by_duplicate INTEGER NOT NULL DEFAULT 0 CHECK (by_duplicate = 0 OR replay_of IS NOT NULL);

UPDATE schema_info SET version = 4;
