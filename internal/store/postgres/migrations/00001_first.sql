-- The first schema. What holds for all of it:
--   * The hot tables (events, deliveries, attempts, idempotency_keys, circuits, counters) have
--     "part" first in their keys, no foreign keys, no triggers and no sequences, so that they can be
--     distributed by it.
--   * No other index begins with the part, so that a statement can only take the one it
--     means: on a young table the planner is as glad to read a whole part.
--   * Times are parameters of the statements; nothing here calls a clock.
--   * What customers sent is bytea: NUL, invalid UTF-8 and huge numbers break text and jsonb.

-- +goose Up

CREATE TABLE meta (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);

-- One row. Every change of the directory adds one and stamps the changed row with it. The
-- row's lock makes revisions become visible in their order.
CREATE TABLE settings_counter (
    id    boolean PRIMARY KEY DEFAULT true CHECK (id),
    value bigint NOT NULL
);
INSERT INTO settings_counter (value) VALUES (0);

CREATE TABLE tenants (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    plan       text NOT NULL,
    limits     text NOT NULL, -- JSON
    data_key   bytea,         -- wrapped
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    revision   bigint NOT NULL
);
CREATE INDEX tenants_revision ON tenants (revision);

CREATE TABLE keys (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenants,
    name         text NOT NULL,
    scope        text NOT NULL,
    prefix       text NOT NULL,
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    revision     bigint NOT NULL
);
CREATE INDEX keys_tenant ON keys (tenant_id, id);
CREATE INDEX keys_revision ON keys (revision);

CREATE TABLE endpoints (
    id              uuid PRIMARY KEY,
    tenant_id       uuid NOT NULL REFERENCES tenants,
    part            smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    state           text NOT NULL CHECK (state IN ('active', 'paused', 'disabled')),
    disabled_reason text NOT NULL CHECK ((state = 'disabled') = (disabled_reason <> '')),
    config          text NOT NULL, -- JSON, its secrets sealed
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    deleted_at      timestamptz,
    revision        bigint NOT NULL
);
CREATE INDEX endpoints_tenant ON endpoints (tenant_id, id);
CREATE INDEX endpoints_revision ON endpoints (revision);

CREATE TABLE circuits (
    part        smallint NOT NULL,
    endpoint_id uuid NOT NULL,
    state       text NOT NULL CHECK (state IN ('', 'closed', 'open', 'half_open')),
    changed_at  timestamptz,
    retry_at    timestamptz,
    successes   integer NOT NULL,
    probe       uuid, -- the node whose probe is on its way
    hold_until  timestamptz,
    version     bigint NOT NULL CHECK (version > 0),
    revision    bigint NOT NULL,
    PRIMARY KEY (part, endpoint_id)
);
CREATE INDEX circuits_revision ON circuits (revision);
CREATE INDEX circuits_probe ON circuits (probe) WHERE probe IS NOT NULL;

-- Events never change.
CREATE TABLE events (
    part            smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    id              uuid NOT NULL,
    tenant_id       uuid NOT NULL,
    endpoint_id     uuid NOT NULL,
    received_at     timestamptz NOT NULL,
    content_type    bytea NOT NULL,
    header          bytea NOT NULL, -- lines of "Name: value\r\n"
    query           bytea NOT NULL,
    body            bytea NOT NULL,
    idempotency_key bytea,
    signature       text NOT NULL, -- the verdict, JSON
    traceparent     bytea NOT NULL,
    seq             bigint NOT NULL, -- the id of the transaction that wrote it; see stream.go
    PRIMARY KEY (part, id)
);
CREATE INDEX events_endpoint ON events (endpoint_id, id);
-- How events are found by their keys, as long as they are kept.
CREATE INDEX events_key ON events (endpoint_id, idempotency_key, id) WHERE idempotency_key IS NOT NULL;
-- Grows at its end only, and a batch shares one value.
CREATE INDEX events_seq ON events (seq);
-- Bodies are read whole, once: compressing them costs more time than it saves.
ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL;

-- The queue. The statuses: 0 pending, 1 delivering, 2 delivered, 3 failed, 4 dead letter,
-- 5 canceled. The checks are the state machine: who waits has a due time, who is held has a
-- holder and a token, who is finished has a time of it; nobody else has.
CREATE TABLE deliveries (
    part             smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    id               uuid NOT NULL,
    event_id         uuid NOT NULL,
    endpoint_id      uuid NOT NULL,
    tenant_id        uuid NOT NULL,
    status           smallint NOT NULL CHECK (status BETWEEN 0 AND 5),
    due_at           timestamptz,
    node             uuid,
    token            uuid,
    claims           integer NOT NULL,
    attempts         integer NOT NULL,
    counted          integer NOT NULL,
    takeovers        integer NOT NULL,
    last_status_code integer NOT NULL,
    last_error_code  text NOT NULL,
    replay_of        uuid,
    replayed_as      uuid,
    size             integer NOT NULL,
    created_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    replay_id        uuid, -- the bulk replay that made it
    PRIMARY KEY (part, id),
    CONSTRAINT deliveries_pending CHECK ((status = 0) = (due_at IS NOT NULL)),
    CONSTRAINT deliveries_held CHECK ((status = 1) = (node IS NOT NULL) AND (status = 1) = (token IS NOT NULL)),
    CONSTRAINT deliveries_finished CHECK ((status >= 2) = (finished_at IS NOT NULL)),
    CONSTRAINT deliveries_counts CHECK (counted BETWEEN 0 AND attempts AND takeovers >= 0),
    CONSTRAINT deliveries_replayed CHECK (replayed_as IS NULL OR status >= 2),
    CONSTRAINT deliveries_replay CHECK (replay_id IS NULL OR replay_of IS NOT NULL)
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000
);
CREATE INDEX deliveries_event ON deliveries (event_id);
CREATE INDEX deliveries_endpoint ON deliveries (endpoint_id, id);
-- What is open. It finds the due of an endpoint, the endpoints that have any, and what is
-- held (due_at is null there, after all that wait).
CREATE INDEX deliveries_open ON deliveries (endpoint_id, due_at) WHERE status <= 1;
-- What ended badly: what people look for, and what replays walk. By its events, only what was
-- not replayed, which is what gives them their status.
CREATE INDEX deliveries_ended ON deliveries (endpoint_id, id) WHERE status IN (3, 4, 5);
CREATE INDEX deliveries_ended_event ON deliveries (endpoint_id, status, event_id) WHERE status IN (3, 4, 5) AND replayed_as IS NULL;
CREATE INDEX deliveries_replayed ON deliveries (endpoint_id, id) WHERE replayed_as IS NOT NULL;
-- Of a bulk replay: what it made, once of each, and how it ended.
CREATE UNIQUE INDEX deliveries_replay_once ON deliveries (replay_id, replay_of) WHERE replay_id IS NOT NULL;
CREATE INDEX deliveries_replay_status ON deliveries (replay_id, status) WHERE replay_id IS NOT NULL;

CREATE TABLE attempts (
    part             smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    id               uuid NOT NULL, -- the token under which it was made
    delivery_id      uuid NOT NULL,
    event_id         uuid NOT NULL,
    endpoint_id      uuid NOT NULL,
    tenant_id        uuid NOT NULL,
    number           integer NOT NULL CHECK (number > 0),
    started_at       timestamptz NOT NULL,
    duration         bigint NOT NULL, -- nanoseconds
    status_code      integer NOT NULL,
    error_code       text NOT NULL,
    error            bytea NOT NULL,
    request_headers  bytea NOT NULL,
    response_headers bytea NOT NULL,
    response_body    bytea NOT NULL,
    PRIMARY KEY (part, id)
);
CREATE INDEX attempts_delivery ON attempts (delivery_id, number);

CREATE TABLE idempotency_keys (
    part        smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    endpoint_id uuid NOT NULL,
    key         bytea NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    event_id    uuid NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (part, endpoint_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- A process from its start to its end. Dead ones stay for a while, to find what they hold.
-- demands is what it told the others, when there are any, that it demands of shared limits.
CREATE TABLE nodes (
    id          uuid PRIMARY KEY,
    lease_until timestamptz NOT NULL,
    dead        boolean NOT NULL DEFAULT false,
    told_at     timestamptz,
    demands     bytea
);

CREATE TABLE duties (
    name        text PRIMARY KEY,
    node        uuid NOT NULL,
    lease_until timestamptz NOT NULL
);

-- Counters: what an endpoint's attempts and deliveries came to by the hour, and what a tenant
-- used by the day. Each writer has a slot and adds to rows of its own, so that none waits for
-- another's commit; their sum counts. The part of a tenant is the last byte of its id. Every
-- commit updates a row or two: no index has a column that changes, and the pages have room.
CREATE TABLE endpoint_stats (
    part          smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    endpoint_id   uuid NOT NULL,
    hour          timestamptz NOT NULL, -- when it begins
    slot          smallint NOT NULL CHECK (slot >= 0),
    succeeded     integer NOT NULL, -- attempts by their outcome
    client_errors integer NOT NULL,
    server_errors integer NOT NULL,
    timeouts      integer NOT NULL,
    no_answers    integer NOT NULL,
    unknowns      integer NOT NULL,
    delivered     integer NOT NULL, -- deliveries by how they ended
    failed        integer NOT NULL,
    dead_letters  integer NOT NULL,
    canceled      integer NOT NULL,
    -- Attempts by how long they took: up to 1 ms, 2 ms, 4 ms, … 262,144 ms, and longer.
    ms0  integer NOT NULL, ms1  integer NOT NULL, ms2  integer NOT NULL, ms3  integer NOT NULL, ms4  integer NOT NULL,
    ms5  integer NOT NULL, ms6  integer NOT NULL, ms7  integer NOT NULL, ms8  integer NOT NULL, ms9  integer NOT NULL,
    ms10 integer NOT NULL, ms11 integer NOT NULL, ms12 integer NOT NULL, ms13 integer NOT NULL, ms14 integer NOT NULL,
    ms15 integer NOT NULL, ms16 integer NOT NULL, ms17 integer NOT NULL, ms18 integer NOT NULL, ms19 integer NOT NULL,
    PRIMARY KEY (part, endpoint_id, hour, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.2, autovacuum_vacuum_threshold = 1000);
CREATE INDEX endpoint_stats_hour ON endpoint_stats (hour);

CREATE TABLE tenant_usage (
    part       smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    tenant_id  uuid NOT NULL,
    day        timestamptz NOT NULL, -- when it begins, UTC
    slot       smallint NOT NULL CHECK (slot >= 0),
    events     bigint NOT NULL,
    bytes      bigint NOT NULL,
    attempts   bigint NOT NULL,
    deliveries bigint NOT NULL,
    delivered  bigint NOT NULL,
    PRIMARY KEY (part, tenant_id, day, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.2, autovacuum_vacuum_threshold = 1000);
CREATE INDEX tenant_usage_day ON tenant_usage (day);

-- What POSTs with an Idempotency-Key were answered. The admin's owner is all zeros. body is
-- null once a secret in it is no longer kept.
CREATE TABLE answers (
    owner      uuid NOT NULL,
    key        text NOT NULL,
    request    bytea NOT NULL CHECK (octet_length(request) = 32),
    seed       uuid NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    status     integer NOT NULL,
    made       text NOT NULL,
    body       bytea,
    sealed     boolean NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX answers_expiry ON answers (expires_at);
CREATE INDEX answers_sealed ON answers (created_at) WHERE sealed AND body IS NOT NULL;

-- Bulk replays. at_endpoint and at_delivery are the cursor: what was looked at so far of the
-- endpoints, in the order of their ids, and of one's deliveries. walked: all was. delivered
-- and failed are counted when the replay is done; until then they are of its deliveries.
CREATE TABLE replays (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    endpoint_id uuid,
    since       timestamptz NOT NULL,
    until       timestamptz,
    statuses    integer NOT NULL, -- a bit for each
    rate        integer NOT NULL,
    status      text NOT NULL CHECK (status IN ('running', 'paused', 'canceled', 'done')),
    total       integer NOT NULL,
    created     integer NOT NULL,
    delivered   integer NOT NULL,
    failed      integer NOT NULL,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz CHECK ((finished_at IS NOT NULL) = (status IN ('canceled', 'done'))),
    at_endpoint uuid NOT NULL,
    at_delivery uuid NOT NULL,
    walked      boolean NOT NULL
);
CREATE INDEX replays_tenant ON replays (tenant_id, id);
CREATE INDEX replays_running ON replays (id) WHERE status = 'running';

-- Row-level security, a wall behind the statements' own conditions: a session sees the rows of
-- the tenant that its setting kapsel.tenant names, those of all for '*', and none without it.
-- FORCE binds the tables' owner, as who we usually connect; superusers and roles with
-- BYPASSRLS it does not bind. The sub-selects are evaluated once a statement, not for each row,
-- and the first decides for the hot path. After a transaction that has set it the setting is
-- not unset but ''.
-- +goose StatementBegin
DO $$
DECLARE
    everyone CONSTANT text := $sql$(SELECT current_setting('kapsel.tenant', true)) = '*'$sql$;
    own CONSTANT text := $sql$(SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid)$sql$;
    t record;
BEGIN
    FOR t IN SELECT * FROM (VALUES
        ('tenants', 'id'), ('keys', 'tenant_id'), ('endpoints', 'tenant_id'), ('events', 'tenant_id'),
        ('deliveries', 'tenant_id'), ('attempts', 'tenant_id'), ('replays', 'tenant_id'), ('answers', 'owner'),
        ('tenant_usage', 'tenant_id'),
        ('circuits', NULL), ('idempotency_keys', NULL) -- what has no tenant's id is not for tenants
    ) AS tables (name, owner)
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t.name);
        EXECUTE format('CREATE POLICY tenant ON %I USING (%s)', t.name,
            everyone || coalesce(' OR ' || quote_ident(t.owner) || ' = ' || own, ''));
    END LOOP;
    -- Stats are whose the endpoint is: the endpoints that a session sees are its tenant's.
    ALTER TABLE endpoint_stats ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    EXECUTE 'CREATE POLICY tenant ON endpoint_stats USING (' || everyone ||
        ' OR EXISTS (SELECT FROM endpoints e WHERE e.id = endpoint_id))';
END $$;
-- +goose StatementEnd
