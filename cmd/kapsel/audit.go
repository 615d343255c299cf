package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const auditKeyName = "KAPSEL_AUDIT_KEY_FILE (--audit-key-file)"

// How many leaves are made in one transaction: SQLite has one writer, which others wait for.
const (
	leavesAtOnceSQLite   = 250
	leavesAtOncePostgres = 4000
)

// auditWriter returns the writer of the audit logs. What was published is remembered in a file beside
// the key file, else beside a SQLite database; with neither nothing outside of the database does.
func (s *serveSettings) auditWriter(db store.Store, now func() time.Time, node kapsel.NodeID, keyring *secret.Keyring, log *slog.Logger) (*audit.Writer, error) {
	cfg := audit.Config{
		Store: db, Now: now, Node: node, AtOnce: leavesAtOncePostgres, AcceptRollback: s.AcceptRollback, Log: log,
		Keys: &audit.Keys{Store: db, Seal: keyring, FileName: auditKeyName},
	}
	heads, path := "", s.sqlitePath()
	if path != "" {
		cfg.AtOnce, heads = leavesAtOnceSQLite, filepath.Join(filepath.Dir(path), "audit.heads")
	}
	if s.AuditKeyFile != "" {
		key, err := auditKey(s.AuditKeyFile)
		if err != nil {
			return nil, err
		}
		cfg.Keys.File, heads = key, s.AuditKeyFile+".heads"
	}
	if heads != "" {
		var err error
		if cfg.HighWater, err = audit.OpenHighWater(heads); err != nil {
			return nil, err
		}
	}
	return audit.NewWriter(cfg), nil
}

// auditKey returns the key in a file, which it makes if it is not there.
func auditKey(path string) (ed25519.PrivateKey, error) {
	text, _, err := secret.LoadOrCreateKeyFile(path, func() []byte { return encodeKey(secret.NewKey()) })
	if err != nil {
		return nil, settingError("%s: %v", auditKeyName, err)
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, settingError("%s: the file does not hold %d bytes in standard base64", auditKeyName, ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
