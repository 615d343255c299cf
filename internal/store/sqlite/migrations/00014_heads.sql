-- +goose Up

-- Of the heads older than a day, one of each hour stays. 1: it was decided that the head stays.
ALTER TABLE audit_heads ADD COLUMN kept INTEGER;
CREATE INDEX audit_heads_undecided ON audit_heads (signed_at) WHERE kept IS NULL;

UPDATE schema_info SET version = 14;
