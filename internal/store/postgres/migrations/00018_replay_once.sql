-- +goose NO TRANSACTION
-- +goose Up

-- A replay makes one delivery of another, which has the same part. With the part in the index, a
-- write looks at the rows of its part only. The index is made beside writes, and takes the place and
-- the name of the former one once it is whole. After a crash the migration goes on where it was: what
-- is half-made is made anew, and what is whole is kept, so that there is always an index.
SET statement_timeout = 0;
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('deliveries_replay_once_new') AND NOT indisvalid) THEN
        DROP INDEX deliveries_replay_once_new;
    END IF;
END $$;
-- +goose StatementEnd
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS deliveries_replay_once_new ON deliveries (replay_id, replay_of, part) WHERE replay_id IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS deliveries_replay_once;
ALTER INDEX deliveries_replay_once_new RENAME TO deliveries_replay_once;
RESET statement_timeout;
