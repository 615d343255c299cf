-- +goose Up

-- A binary from before this version does not know the shorter form.
COMMENT ON COLUMN audit_leaves.text IS 'the text of the leaf, or, of an attempt, the shorter record that store.ReadRecord reads; NULL: it was deleted';
