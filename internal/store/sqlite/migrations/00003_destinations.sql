-- +goose Up
-- Endpoints number their destinations, so that what was learned about a former one is told from
-- what is known of the present one.

-- destination: kapsel.Endpoint.Destination. replan: the revision of a change after which waiting
-- deliveries have to be rescheduled, 0 once they have been.
ALTER TABLE endpoints ADD COLUMN destination INTEGER NOT NULL DEFAULT 1;
ALTER TABLE endpoints ADD COLUMN replan INTEGER NOT NULL DEFAULT 0;
CREATE INDEX endpoints_replan ON endpoints (id) WHERE replan > 0;

-- Whose circuit it is. The column successes is no longer used: the node that probes counts.
ALTER TABLE circuits ADD COLUMN destination INTEGER NOT NULL DEFAULT 1;

-- The destination whose Retry-After due_at is.
ALTER TABLE deliveries ADD COLUMN put_off_by INTEGER;

-- The default ratio of a circuit was 0.5 and is 0.8 now: half of all exchanges failing starved
-- the endpoint. Endpoints that have the former default take the new one.
UPDATE counters SET value = value + 1 WHERE name = 'settings';
UPDATE endpoints SET
    config = CAST(json_set(CAST(config AS TEXT), '$.circuit.ratio', 0.8) AS BLOB),
    revision = (SELECT value FROM counters WHERE name = 'settings')
WHERE json_extract(CAST(config AS TEXT), '$.circuit.ratio') = 0.5;

UPDATE schema_info SET version = 3;
