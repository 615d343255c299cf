-- +goose Up

-- Whether a duplicate of the event made the delivery, after the one that it repeats was given up.
ALTER TABLE deliveries ADD COLUMN by_duplicate boolean NOT NULL DEFAULT false;
