-- +goose Up
-- Times are microseconds since the epoch, durations nanoseconds, ids 16 bytes. What comes
-- from outside is a BLOB. The CHECKs hold the state machine of kapsel.Delivery.

-- version is this schema's; a binary whose own is below readable_by may not use it.
CREATE TABLE schema_info (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    version     INTEGER NOT NULL,
    readable_by INTEGER NOT NULL
) STRICT;
INSERT INTO schema_info VALUES (1, 1, 1);

-- event_n: at least the n of every event that retention deleted. settings: the revision of the directory. event_skew: the most milliseconds by which the id
-- of an event was ever off its received_at, so that a range of times is a range of ids;
-- delivery_skew: the same of an event's first delivery and the event, so that the order of
-- events is nearly that of deliveries; pings: written to see whether writing works.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('settings', 0), ('event_skew', 0), ('delivery_skew', 0), ('event_n', 0);

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT NOT NULL,
    plan       TEXT NOT NULL,
    limits     BLOB NOT NULL, -- JSON of kapsel.Limits
    data_key   BLOB,
    created_at INTEGER,
    updated_at INTEGER,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tenants_revision ON tenants (revision);

CREATE TABLE keys (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id    BLOB NOT NULL,
    name         TEXT NOT NULL,
    scope        TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at   INTEGER,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER,
    revision     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_tenant ON keys (tenant_id, id);
CREATE INDEX keys_revision ON keys (revision);

CREATE TABLE endpoints (
    id              BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id       BLOB NOT NULL,
    part            INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('active', 'paused', 'disabled')),
    disabled_reason TEXT NOT NULL,
    config          BLOB NOT NULL, -- JSON of kapsel.EndpointConfig
    created_at      INTEGER,
    updated_at      INTEGER,
    deleted_at      INTEGER,
    revision        INTEGER NOT NULL
) STRICT;
CREATE INDEX endpoints_tenant ON endpoints (tenant_id, id);
CREATE INDEX endpoints_revision ON endpoints (revision, id);

CREATE TABLE circuits (
    endpoint_id BLOB PRIMARY KEY CHECK (length(endpoint_id) = 16),
    state       TEXT NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    changed_at  INTEGER,
    retry_at    INTEGER,
    successes   INTEGER NOT NULL,
    probe       BLOB,
    hold_until  INTEGER,
    version     INTEGER NOT NULL,
    revision    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX circuits_revision ON circuits (revision);

-- Nodes that are alive; one that is not here is dead.
CREATE TABLE nodes (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE duties (
    name        TEXT PRIMARY KEY,
    node        BLOB NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events are appended and never changed; n is given once, in the order of the commits, and is
-- the order of the stream. An event's deliveries are a list: the first one is
-- named here, each names the one that repeats it. The body is the last column, so that the
-- others are read without it.
CREATE TABLE events (
    n               INTEGER PRIMARY KEY,
    id              BLOB NOT NULL,
    tenant_id       BLOB NOT NULL,
    endpoint_id     BLOB NOT NULL,
    delivery_id     BLOB NOT NULL,
    received_at     INTEGER NOT NULL,
    scheme          TEXT NOT NULL, -- of the signature's check, with the next three
    valid           INTEGER NOT NULL,
    secret          TEXT NOT NULL,
    skew            INTEGER NOT NULL,
    idempotency_key BLOB,
    trace_parent    BLOB NOT NULL,
    content_type    BLOB NOT NULL,
    query           BLOB NOT NULL,
    header          BLOB NOT NULL,
    body            BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_endpoint ON events (endpoint_id, id);

CREATE TABLE deliveries (
    id               BLOB PRIMARY KEY,
    event_id         BLOB NOT NULL,
    endpoint_id      BLOB NOT NULL,
    tenant_id        BLOB NOT NULL,
    status           INTEGER NOT NULL CHECK (status BETWEEN 0 AND 5),
    due_at           INTEGER CHECK ((due_at IS NOT NULL) = (status = 0)),
    node             BLOB CHECK ((node IS NOT NULL) = (status = 1)),
    token            BLOB CHECK ((token IS NOT NULL) = (status = 1)),
    claims           INTEGER NOT NULL,
    attempts         INTEGER NOT NULL,
    counted          INTEGER NOT NULL,
    takeovers        INTEGER NOT NULL,
    last_status_code INTEGER NOT NULL,
    last_error_code  TEXT NOT NULL,
    last_attempt     BLOB,
    replay_of        BLOB,
    replayed_as      BLOB CHECK (replayed_as IS NULL OR status >= 2),
    size             INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    finished_at      INTEGER CHECK ((finished_at IS NOT NULL) = (status >= 2)),
    replay_id        BLOB CHECK (replay_id IS NULL OR replay_of IS NOT NULL) -- the bulk replay that made it
) STRICT, WITHOUT ROWID;
-- A delivery is in one of these indexes at a time, and in none once it was delivered. What
-- waits, by when it is due:
CREATE INDEX deliveries_due ON deliveries (endpoint_id, due_at) WHERE status = 0;
-- What is held, by whom. Its entries are next to each other however many endpoints there are.
CREATE INDEX deliveries_held ON deliveries (node) WHERE status = 1;
-- What people look for among very many that were delivered: what ended otherwise and was not
-- replayed, as deliveries and as events; what was replayed; events that were tried and wait.
CREATE INDEX deliveries_ended ON deliveries (endpoint_id, status, id) WHERE status >= 3 AND replayed_as IS NULL;
CREATE INDEX deliveries_ended_event ON deliveries (endpoint_id, status, event_id) WHERE status >= 3 AND replayed_as IS NULL;
CREATE INDEX deliveries_replayed ON deliveries (endpoint_id, id) WHERE replayed_as IS NOT NULL;
CREATE INDEX deliveries_retried_event ON deliveries (endpoint_id, event_id) WHERE status = 0 AND attempts > 0;
-- An endpoint's deliveries are found by its events; these are the others.
CREATE INDEX deliveries_replays ON deliveries (endpoint_id, id) WHERE replay_of IS NOT NULL;
-- Of a bulk replay: what it made, once of each, and how it ended.
CREATE UNIQUE INDEX deliveries_replay_once ON deliveries (replay_id, replay_of) WHERE replay_id IS NOT NULL;
CREATE INDEX deliveries_replay_status ON deliveries (replay_id, status) WHERE replay_id IS NOT NULL;

-- A delivery's attempts are a list: the delivery names the last one, each the one before it.
CREATE TABLE attempts (
    id               BLOB PRIMARY KEY,
    delivery_id      BLOB NOT NULL,
    number           INTEGER NOT NULL CHECK (number > 0),
    previous         BLOB,
    started_at       INTEGER NOT NULL,
    duration         INTEGER NOT NULL,
    status_code      INTEGER NOT NULL,
    error_code       TEXT NOT NULL,
    error            BLOB NOT NULL,
    request_headers  BLOB NOT NULL,
    response_headers BLOB NOT NULL,
    response_body    BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- At most one event of a key is remembered: expires_at is NULL once it is forgotten. The
-- others are how events are found by their keys.
CREATE TABLE idempotency_keys (
    endpoint_id BLOB NOT NULL,
    key         BLOB NOT NULL,
    event_id    BLOB NOT NULL,
    expires_at  INTEGER,
    PRIMARY KEY (endpoint_id, key, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at) WHERE expires_at IS NOT NULL;

-- Counters: what an endpoint's attempts and deliveries came to by the hour, and what a tenant
-- used by the day (of UTC). hour and day are when they begin.
CREATE TABLE endpoint_stats (
    endpoint_id   BLOB NOT NULL,
    hour          INTEGER NOT NULL,
    counters      BLOB NOT NULL, -- kapsel.Stats, as counters.go writes them
    PRIMARY KEY (endpoint_id, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoint_stats_hour ON endpoint_stats (hour);

CREATE TABLE tenant_usage (
    tenant_id  BLOB NOT NULL,
    day        INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    delivered  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX tenant_usage_day ON tenant_usage (day);

-- What POSTs with an Idempotency-Key were answered. The admin's owner is all zeros. body is
-- NULL once a secret in it is no longer kept.
CREATE TABLE answers (
    owner      BLOB NOT NULL CHECK (length(owner) = 16),
    key        TEXT NOT NULL,
    request    BLOB NOT NULL CHECK (length(request) = 32),
    seed       BLOB NOT NULL CHECK (length(seed) = 16),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    made       TEXT NOT NULL,
    body       BLOB,
    sealed     INTEGER NOT NULL CHECK (sealed IN (0, 1)),
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_expiry ON answers (expires_at);
CREATE INDEX answers_sealed ON answers (created_at) WHERE sealed = 1 AND body IS NOT NULL;

-- Bulk replays. at_endpoint and at_event are the cursor: what was looked at so far of the
-- endpoints, in the order of their ids, and of one's events. walked: all was. delivered and
-- failed are counted when the replay is done; until then they are of its deliveries.
CREATE TABLE replays (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id   BLOB NOT NULL,
    endpoint_id BLOB,
    since       INTEGER NOT NULL,
    until       INTEGER,
    statuses    INTEGER NOT NULL, -- a bit for each
    rate        INTEGER NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('running', 'paused', 'canceled', 'done')),
    total       INTEGER NOT NULL,
    created     INTEGER NOT NULL,
    delivered   INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    finished_at INTEGER CHECK ((finished_at IS NOT NULL) = (status IN ('canceled', 'done'))),
    at_endpoint BLOB NOT NULL,
    at_event    BLOB NOT NULL,
    walked      INTEGER NOT NULL CHECK (walked IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE INDEX replays_tenant ON replays (tenant_id, id);
CREATE INDEX replays_running ON replays (id) WHERE status = 'running';
