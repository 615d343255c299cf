-- +goose Up

-- Bulk replays that make an event's first delivery to an endpoint that never got it: such a
-- delivery names the replay and repeats none. The rows that are there keep the narrower rule.
ALTER TABLE replays ADD COLUMN missing boolean NOT NULL DEFAULT false;
ALTER TABLE deliveries DROP CONSTRAINT deliveries_replay;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_replay
    CHECK (replay_id IS NULL OR replay_of IS NOT NULL OR first_of IS NOT NULL) NOT VALID;
