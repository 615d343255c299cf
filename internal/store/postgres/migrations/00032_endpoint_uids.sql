-- +goose Up

-- The tenant's own id of an endpoint, unique among those of its app, or among those without one; null: none.
ALTER TABLE endpoints ADD COLUMN uid text;
CREATE UNIQUE INDEX endpoints_uid ON endpoints (tenant_id, uid, coalesce(app_id, '00000000-0000-0000-0000-000000000000'))
    WHERE uid IS NOT NULL AND deleted_at IS NULL;
