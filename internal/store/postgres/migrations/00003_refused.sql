-- How many webhooks an endpoint refused. What is there was counted before refusals were.

-- +goose Up

ALTER TABLE endpoint_stats ADD COLUMN refused integer NOT NULL DEFAULT 0;
