-- +goose Up

-- Of the heads older than a day, one of each hour stays. true: it was decided that the head stays.
ALTER TABLE audit_heads ADD COLUMN kept boolean;
CREATE INDEX audit_heads_undecided ON audit_heads (signed_at) WHERE kept IS NULL;
