-- +goose Up

-- Who changed what. A row is written in the transaction of its change.
CREATE TABLE changes (
    id        uuid PRIMARY KEY,
    tenant_id uuid,          -- whose object was changed; NULL: the instance itself was
    at        timestamptz NOT NULL,
    actor     text NOT NULL, -- JSON of kapsel.Actor
    key_id    uuid,          -- the actor's
    verb      text NOT NULL,
    kind      text NOT NULL, -- of the object, as its ID and its name
    subject   text NOT NULL,
    name      text NOT NULL,
    before    text,          -- JSON without secrets; NULL: the object was made
    after     text           -- JSON without secrets; NULL: the object was deleted
);
CREATE INDEX changes_tenant ON changes (tenant_id, id);
CREATE INDEX changes_subject ON changes (subject, id);
ALTER TABLE changes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON changes USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
