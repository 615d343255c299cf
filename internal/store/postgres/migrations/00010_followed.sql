-- +goose Up

-- The revision of the settings by which a node works: all changes of endpoints and sources up to it
-- are known to it. Null before it has said so.
ALTER TABLE nodes ADD COLUMN revision bigint;
