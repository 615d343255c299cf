package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/witness"
	"github.com/kapsel-hq/kapsel/receipt"
)

const auditKeyName = "KAPSEL_AUDIT_KEY_FILE (--audit-key-file)"

// How many leaves are made in one transaction: SQLite has one writer, which others wait for.
const (
	leavesAtOnceSQLite   = 1000
	leavesAtOncePostgres = 4000
)

// auditWriter returns the writer of the audit logs. What was published is remembered in a file beside
// the key file, else beside a SQLite database; with neither nothing outside of the database does.
func (s *serveSettings) auditWriter(db store.Store, instance kapsel.InstanceID, now func() time.Time, node kapsel.NodeID, keyring *secret.Keyring, witnesses *audit.Witnesses, log *slog.Logger) (*audit.Writer, error) {
	cfg := audit.Config{
		Store: db, Now: now, Node: node, AtOnce: leavesAtOncePostgres, Witnesses: witnesses, Log: log,
		Keys: &audit.Keys{Store: db, Seal: keyring, FileName: auditKeyName},
	}
	beside := s.AuditKeyFile
	if path := s.sqlitePath(); path != "" {
		cfg.AtOnce = leavesAtOnceSQLite
		beside = cmp.Or(beside, path)
	}
	if s.AuditKeyFile != "" {
		key, err := auditKey(s.AuditKeyFile)
		if err != nil {
			return nil, err
		}
		cfg.Keys.File = key
	}
	if beside != "" {
		var err error
		if cfg.HighWater, err = audit.OpenHighWater(filepath.Join(filepath.Dir(beside), headsName(instance))); err != nil {
			return nil, err
		}
	}
	return audit.NewWriter(cfg), nil
}

// askWitnesses returns what asks the witnesses of the settings for signatures; nil if there are none.
func (s *serveSettings) askWitnesses(db store.Store, now func() time.Time, known *settings.Cache, log *slog.Logger) *audit.Witnesses {
	do := egress.NewClient(egress.Config{AllowAllPrivate: true}).Do // the operator has named whom it reaches
	for _, c := range s.witnesses {
		c.Do = do
	}
	return audit.NewWitnesses(audit.WitnessesConfig{
		Store: db, Keys: &audit.Keys{Store: db}, Clients: s.witnesses, Now: now, Log: log,
		Wanted: func(id kapsel.TenantID) int {
			if t, err := known.Tenant(context.Background(), id); err == nil && t.Audit.Witnesses != nil {
				return *t.Audit.Witnesses
			}
			return s.Wanted
		},
	})
}

// parseWitnesses returns the witnesses of a comma list, each a vkey and a URL.
func parseWitnesses(list string) (all []*witness.Client, err error) {
	for i, item := range strings.Split(list, ",") {
		fields := strings.Fields(item)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("item %d of the list is not a vkey and a URL with a space between", i+1)
		}
		c := &witness.Client{}
		if c.Key, err = receipt.ParseKey(fields[0]); err != nil {
			return nil, err
		}
		if !c.Key.Witness {
			return nil, fmt.Errorf("%s is not the key of a witness, which is a vkey NAME+ID+BASE64 of type 4", c.Key)
		}
		if c.URL, err = plainURL(fields[1]); err != nil {
			return nil, fmt.Errorf("the witness %s: %w", c.Key.Name, err)
		}
		for _, other := range all {
			if other.Key.Public.Equal(c.Key.Public) {
				return nil, fmt.Errorf("the key of %s is there twice", c.Key.Name)
			}
		}
		all = append(all, c)
	}
	if len(all) > kapsel.MaxWitnesses {
		return nil, fmt.Errorf("there are more than %d witnesses", kapsel.MaxWitnesses)
	}
	return all, nil
}

// headsName returns the name of the file in which an instance remembers what it has published. A database
// that is restored finds the file again, and another instance in the same directory has another file. The
// name does not tell the instance's ID.
func headsName(instance kapsel.InstanceID) string {
	sum := sha256.Sum256(append([]byte("kapsel audit heads\n"), instance[:]...))
	return fmt.Sprintf("audit-%x.heads", sum[:8])
}

// auditKey returns the key in a file, which it makes if it is not there.
func auditKey(path string) (ed25519.PrivateKey, error) {
	key, _, err := ed25519File(auditKeyName, path)
	return key, err
}

// ed25519File returns the key in the file that a setting names. It makes the file if it is not there.
func ed25519File(setting, path string) (key ed25519.PrivateKey, made bool, err error) {
	text, made, err := secret.LoadOrCreateKeyFile(path, func() []byte { return encodeKey(secret.NewKey()) })
	if err != nil {
		return nil, false, unusable(setting, err)
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, false, settingError("%s: the file does not hold %d bytes in standard base64", setting, ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), made, nil
}

// fsckCmd is `kapsel fsck`.
type fsckCmd struct{ databaseSettings }

// Help is shown by `kapsel fsck --help`.
func (c *fsckCmd) Help() string {
	return `Compares the audit logs with themselves and with the attempts in the database: that the
tree and its signed heads are those of the leaves, that each leaf's text has the leaf's hash,
that it says what the attempt's row says, and that no attempt lacks a leaf.

The first leaf of a log that does not fit is printed, and the exit code is 1. No head of such
a log is signed any more, until fsck finds nothing there.

With PostgreSQL, the service may run meanwhile. With SQLite, stop it first.`
}

// Run checks the logs. It remembers when, what it found, and which of the logs contradict themselves.
func (c *fsckCmd) Run(ctx context.Context, io streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := c.mustExist(); err != nil {
		return err
	}
	out := c.output(io)
	defer out.end()
	db, err := c.openWhole(ctx, out.log)
	if err != nil {
		return err
	}
	defer db.Close()
	kept, err := retention(ctx, db)
	if err != nil {
		return err
	}
	began, err := db.Time(ctx)
	if err != nil {
		return err
	}
	findings, broken, first := 0, map[kapsel.LogID]string{}, map[kapsel.LogID]string{}
	over := func(owner *kapsel.Tenant) bool { return !owner.DeletedAt.IsZero() && owner.LogUntil().Before(began) }
	checker := audit.Checker{Store: db, Keys: &audit.Keys{Store: db}, Kept: kept, Over: over, Found: func(f audit.Finding) {
		findings++
		if first[f.Log] == "" {
			first[f.Log] = f.String()
		}
		if f.Tree && broken[f.Log] == "" {
			broken[f.Log] = f.String()
		}
		fmt.Fprintln(out.console, f)
	}}
	checked, err := checker.Check(ctx)
	if err != nil {
		return err
	}
	if err := rememberFaults(ctx, db, checker.Faults, broken); err != nil {
		return err
	}
	if err := (audit.LastCheck{At: began, Findings: first}).Remember(ctx, db); err != nil {
		return err
	}
	fmt.Fprintf(out.console, "logs: %d, heads: %d, leaves: %d, without a text: %d (of erased events: %d); attempts older than the log: %d; logs of deleted tenants whose time is over: %d\n",
		checked.Logs, checked.Heads, checked.Leaves, checked.Deleted, checked.Erased, checked.Older, checked.Dropped)
	if findings > 0 {
		return fmt.Errorf("what does not fit: %d", findings)
	}
	return db.Close()
}

// retention returns a function that reports whether an attempt of a tenant that ended at some time must
// still be in the database.
func retention(ctx context.Context, db store.Store) (func(kapsel.TenantID, time.Time) bool, error) {
	now, err := db.Time(ctx)
	if err != nil {
		return nil, err
	}
	kept := map[kapsel.TenantID]time.Duration{}
	for page := (store.Page[kapsel.TenantID]{Limit: 200}); ; {
		tenants, err := db.ListTenants(ctx, page)
		if err != nil {
			return nil, err
		}
		if len(tenants) == 0 {
			break
		}
		for i := range tenants {
			kept[tenants[i].ID] = tenants[i].Retention()
			page.Before = tenants[i].ID
		}
	}
	// Events go by when they were received, which may be some attempts earlier. A tenant that is not
	// listed is deleted.
	return func(tenant kapsel.TenantID, ended time.Time) bool {
		d, ok := kept[tenant]
		return ok && ended.After(now.Add(-d/2))
	}, nil
}

// rememberFaults keeps which logs contradict themselves, and forgets it of logs that fit. A fault that the writer
// has found since a log was read stays.
func rememberFaults(ctx context.Context, db store.Journal, were, broken map[kapsel.LogID]string) error {
	for id, was := range were {
		if was != broken[id] {
			if err := db.ReplaceFault(ctx, id, was, broken[id]); err != nil {
				return err
			}
		}
	}
	return nil
}

// rotateAuditKeyCmd is `kapsel rotate-audit-key`.
type rotateAuditKeyCmd struct {
	databaseSettings
	EncryptionKey secret.Text `env:"KAPSEL_ENCRYPTION_KEY" placeholder:"KEYS" help:"The encryption key of the database (${env}, default with SQLite: what encryption.key holds)."`
	AuditKeyFile  string      `env:"KAPSEL_AUDIT_KEY_FILE" placeholder:"FILE" help:"File with the new key, 32 bytes in base64; made if it is not there (${env}, default: a new key in the database, sealed)."`
}

// Help is shown by `kapsel rotate-audit-key --help`.
func (c *rotateAuditKeyCmd) Help() string {
	return `Makes another key the one that signs the audit logs. The former keys stay listed, and each
log says in a leaf which key follows which.

With PostgreSQL, nodes may run on: with the key in the database they sign with the new one
within seconds; with a key file, give each node the new file and restart it. With SQLite,
stop the service first.`
}

// Run replaces the key.
func (c *rotateAuditKeyCmd) Run(ctx context.Context, io streams) error {
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
	keys := &audit.Keys{Seal: keyring, FileName: auditKeyName}
	if c.AuditKeyFile != "" {
		if keys.File, err = auditKey(c.AuditKeyFile); err != nil {
			return err
		}
	}
	out := c.output(io)
	defer out.end()
	db, err := c.openWhole(ctx, out.log)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := verifiedCheck(ctx, db, keyring); err != nil {
		return err
	}
	now, err := db.Time(ctx)
	if err != nil {
		return err
	}
	keys.Store = db.By(operator("rotate_audit_key", now))
	key, err := keys.Rotate(ctx, now)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return errors.New("the audit log has no key yet: serve makes the first")
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out.console, "the audit logs are signed with the key %s from now on\n", base64.StdEncoding.EncodeToString(key.Public))
	return db.Close()
}
