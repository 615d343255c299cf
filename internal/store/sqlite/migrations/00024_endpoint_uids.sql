-- +goose Up

-- The tenant's own id of an endpoint, unique among those of its app, or among those without one; NULL: none.
ALTER TABLE endpoints ADD COLUMN uid TEXT;
CREATE UNIQUE INDEX endpoints_uid ON endpoints (tenant_id, uid, ifnull(app_id, x''))
    WHERE uid IS NOT NULL AND deleted_at IS NULL;

-- A binary from before would write endpoints without their uids.
UPDATE schema_info SET version = 24, readable_by = 24;
