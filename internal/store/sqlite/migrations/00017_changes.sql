-- +goose Up

-- Who changed what. A row is written in the transaction of its change.
CREATE TABLE changes (
    id        BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant_id BLOB,             -- whose object was changed; NULL: the instance itself was
    at        INTEGER NOT NULL,
    actor     TEXT NOT NULL,    -- JSON of kapsel.Actor
    key_id    BLOB,             -- the actor's
    verb      TEXT NOT NULL,
    kind      TEXT NOT NULL,    -- of the object, as its ID and its name
    subject   TEXT NOT NULL,
    name      TEXT NOT NULL,
    before    TEXT,             -- JSON without secrets; NULL: the object was made
    after     TEXT              -- JSON without secrets; NULL: the object was deleted
) STRICT;
CREATE INDEX changes_tenant ON changes (tenant_id, id);
CREATE INDEX changes_subject ON changes (subject, id);

UPDATE schema_info SET version = 17;
