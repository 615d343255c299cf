-- +goose Up

-- Lists of the events of a type.
CREATE INDEX events_type ON events (tenant_id, type, id) WHERE type IS NOT NULL;

UPDATE schema_info SET version = 21;
