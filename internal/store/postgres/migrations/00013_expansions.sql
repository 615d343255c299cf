-- +goose Up

-- Events whose deliveries are still being made. after_endpoint is the cursor: the endpoints with ids
-- up to it have theirs.
CREATE TABLE expansions (
    part           smallint NOT NULL CHECK (part BETWEEN 0 AND 255),
    event_id       uuid NOT NULL,
    tenant_id      uuid NOT NULL,
    after_endpoint uuid NOT NULL,
    PRIMARY KEY (part, event_id)
);
ALTER TABLE expansions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON expansions USING ((SELECT current_setting('kapsel.tenant', true)) = '*'
    OR tenant_id = (SELECT nullif(nullif(current_setting('kapsel.tenant', true), ''), '*')::uuid));
