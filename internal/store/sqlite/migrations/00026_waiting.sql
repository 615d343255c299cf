-- +goose Up

-- Lists of what waits go by ids, however much waits.
CREATE INDEX deliveries_waiting ON deliveries (endpoint_id, id) WHERE status = 0;
CREATE INDEX deliveries_waiting_event ON deliveries (endpoint_id, event_id) WHERE status = 0;

UPDATE schema_info SET version = 26;
