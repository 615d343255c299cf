package main

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// keyCheck is the name of the value by which a database remembers its encryption key.
const keyCheck = "encryption_key_check"

// rotateKeyCmd is `kapsel rotate-key`.
type rotateKeyCmd struct {
	databaseSettings
	EncryptionKey secret.Text `env:"KAPSEL_ENCRYPTION_KEY" placeholder:"KEYS" help:"The new key, a comma, and the key or keys in use until now (${env}, default with SQLite: what encryption.key holds)."`
}

// Help is shown by `kapsel rotate-key --help`.
func (c *rotateKeyCmd) Help() string {
	return `Wraps each tenant's data key with the first key of KAPSEL_ENCRYPTION_KEY. What the data
keys sealed stays as it is. When it ends with exit code 0, the other keys are not needed any
more but for older backups; when it is interrupted, run it again with the same keys.

With PostgreSQL, restart every node with the list "new,old" first: nodes may run on
meanwhile. With SQLite, stop the service first.`
}

// Run wraps the data keys with the new key and then has the database remember the new key. A crash in between
// leaves some data keys wrapped with the old key, and the old check value: `serve` then starts with both
// keys, and running this command again completes the work.
func (c *rotateKeyCmd) Run(ctx context.Context, io streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := c.mustExist(); err != nil {
		return err
	}
	keyring, err := c.keyring(c.EncryptionKey)
	if err != nil {
		return err
	}
	out := c.output(io)
	defer out.end()
	db, err := c.openWhole(ctx, out.log)
	if err != nil {
		return err
	}
	defer db.Close()
	check, err := verifiedCheck(ctx, db, keyring)
	if err != nil {
		return err
	}
	rewrapped, total := 0, 0
	for {
		var n int
		if n, total, err = rewrapAll(ctx, db, keyring); err != nil {
			return err
		}
		if rewrapped += n; n == 0 { // no node has made a tenant with the old key meanwhile
			break
		}
	}
	if err := (&audit.Keys{Store: db, Seal: keyring}).Reseal(ctx); err != nil {
		return fmt.Errorf("seal the key of the audit log: %w", err)
	}
	now, err := db.Time(ctx)
	if err != nil {
		return err
	}
	if err := db.By(operator("rotate_key", now)).ReplaceMeta(ctx, keyCheck, check, keyring.Check()); err != nil {
		return fmt.Errorf("remember the new key: %w", err)
	}
	fmt.Fprintf(out.console, "the data keys of %d tenants are wrapped with key %s, %d of them since now; keep no other key in KAPSEL_ENCRYPTION_KEY or encryption.key\n", total, keyring.ID(), rewrapped)
	return db.Close()
}

// keyring returns a keyring of the given keys or, if none is given, of the key in encryption.key beside a
// SQLite database. It fails if there is none.
func (s *databaseSettings) keyring(keys secret.Text) (*secret.Keyring, error) {
	text := keys.Reveal()
	if text == "" {
		path := s.sqlitePath()
		if path == "" {
			return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): must be given with PostgreSQL, as the nodes have it; for rotate-key the new key, a comma, and the old")
		}
		file := filepath.Join(filepath.Dir(path), "encryption.key")
		if _, err := os.Stat(file); err != nil {
			return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): must be given, or be in encryption.key: %v", err)
		}
		value, _, err := secret.LoadOrCreateKeyFile(file, nil)
		if err != nil {
			return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", err)
		}
		text = string(value)
	}
	return newKeyring(text)
}

// newKeyring returns a keyring of the keys in the text of a setting.
func newKeyring(text string) (*secret.Keyring, error) {
	list, err := secret.ParseKeys(text)
	if err != nil {
		return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", err)
	}
	keyring, err := secret.NewKeyring(list...)
	if err != nil {
		return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", err)
	}
	return keyring, nil
}

// rewrapAll wraps the data keys that are not wrapped with the first key of keyring. It returns how many it
// wrapped, and how many tenants there are.
func rewrapAll(ctx context.Context, db store.Directory, keyring *secret.Keyring) (rewrapped, total int, err error) {
	page := store.Page[kapsel.TenantID]{Limit: 200}
	for {
		tenants, err := db.ListTenants(ctx, page)
		if err != nil || len(tenants) == 0 {
			return rewrapped, total, err
		}
		for _, t := range tenants {
			wrapped, err := keyring.Rewrap(t.ID, t.DataKey)
			if err == nil && !hmac.Equal(wrapped, t.DataKey) {
				rewrapped++
				_, err = db.UpdateTenant(ctx, t.ID, func(row *kapsel.Tenant) (err error) {
					row.DataKey, err = keyring.Rewrap(row.ID, row.DataKey)
					return err
				})
			}
			var unknown *secret.UnknownKeyError
			switch {
			case errors.As(err, &unknown):
				return 0, 0, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", unknown)
			case err != nil && kapsel.CodeOf(err) != kapsel.NotFound: // deleted since
				return 0, 0, fmt.Errorf("wrap the data key of tenant %s: %w", t.ID, err)
			}
			total++
			page.Before = t.ID
		}
	}
}

// verifiedCheck returns what a database remembers of its encryption key. It fails if the key is not in the keyring.
func verifiedCheck(ctx context.Context, db store.Directory, keyring *secret.Keyring) (check []byte, err error) {
	check, err = db.Meta(ctx, keyCheck)
	switch {
	case kapsel.CodeOf(err) == kapsel.NotFound:
		return nil, settingError("DATABASE_URL (--database-url): the database has no encryption key yet; serve gives it the first")
	case err != nil:
		return nil, err
	}
	if err := keyring.Verify(check); err != nil {
		return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", err)
	}
	return check, nil
}
