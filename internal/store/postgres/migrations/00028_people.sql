-- +goose Up

-- Sign-ins of people without a key: who it is at the provider of the single sign-on, '' for a session of a
-- key; the name there; and what the person may do for the tenant, '' for the operator.
ALTER TABLE sessions ADD COLUMN subject text NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN name text NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN scope text NOT NULL DEFAULT '' CHECK (scope IN ('', 'read', 'write'));
