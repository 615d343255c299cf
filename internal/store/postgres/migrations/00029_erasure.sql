-- +goose Up

-- When the contents of an event were erased. erasing is the attempt up to which they are gone; NULL: all are.
ALTER TABLE events ADD COLUMN erased_at timestamptz, ADD COLUMN erasing uuid;

-- Of leaves below texts_from the texts are gone, because their time is over; but for leaves about no attempt.
-- Of a log that was dropped nothing but this row is left: its tenant was deleted, and its time is over. Until
-- all is gone, size is above 0.
ALTER TABLE audit_logs ADD COLUMN texts_from bigint NOT NULL DEFAULT 0, ADD COLUMN dropped_at timestamptz;

COMMENT ON TABLE audit_outbox IS 'what is to become leaves: attempts, by their ids, and erasures, by ids of their own';

-- A key without a tenant is one of the instance.
ALTER TABLE keys ALTER COLUMN tenant_id DROP NOT NULL;
