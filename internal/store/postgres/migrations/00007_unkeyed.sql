-- How many webhooks an endpoint accepted without a key, where it says where they have one.

-- +goose Up

ALTER TABLE endpoint_stats ADD COLUMN unkeyed integer NOT NULL DEFAULT 0;
