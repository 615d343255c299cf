-- +goose Up

-- Whether the node may have made or ended deliveries without telling the ledger, with no walk begun since; see
-- store.Ledger. A node of an older release does not say what it does, so its row has the default.
ALTER TABLE nodes ADD COLUMN untold boolean NOT NULL DEFAULT true;
