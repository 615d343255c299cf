-- Endpoints number their destinations, so that what was learned about a former one is told from
-- what is known of the present one.

-- +goose Up

-- destination: kapsel.Endpoint.Destination. replan: the revision of a change after which waiting
-- deliveries have to be rescheduled, 0 once they have been.
ALTER TABLE endpoints ADD COLUMN destination integer NOT NULL DEFAULT 1;
ALTER TABLE endpoints ADD COLUMN replan bigint NOT NULL DEFAULT 0;
CREATE INDEX endpoints_replan ON endpoints (id) WHERE replan > 0;

-- Whose circuit it is. The column successes is no longer used: the node that probes counts.
ALTER TABLE circuits ADD COLUMN destination integer NOT NULL DEFAULT 1;
ALTER TABLE circuits ALTER COLUMN successes SET DEFAULT 0;

-- The destination whose Retry-After due_at is.
ALTER TABLE deliveries ADD COLUMN put_off_by integer;

-- The default ratio of a circuit was 0.5 and is 0.8 now: half of all exchanges failing starved
-- the endpoint. Endpoints that have the former default take the new one.
SELECT set_config('kapsel.tenant', '*', true);
WITH next AS (
    UPDATE settings_counter SET value = value + 1 RETURNING value
)
UPDATE endpoints SET config = jsonb_set(config::jsonb, '{circuit,ratio}', '0.8')::text, revision = next.value
FROM next WHERE (config::jsonb #>> '{circuit,ratio}')::numeric = 0.5;
