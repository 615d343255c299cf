package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const changeColumns = `id, tenant_id, at, actor, key_id, verb, kind, subject, name, before, after`

func scanChange(s *stmt) (ch kapsel.Change, err error) {
	ch = kapsel.Change{ID: s.colID(), TenantID: s.colID(), At: s.colTime()}
	if err := json.Unmarshal(s.view(), &ch.Actor); err != nil {
		return ch, fmt.Errorf("read who made the change: %w", err)
	}
	_ = s.colID() // the actor has the key, too
	ch.Verb = s.colText()
	ch.Subject = kapsel.Subject{Kind: s.colText(), ID: s.colText(), Name: s.colText()}
	ch.Before, ch.After = []byte(s.colText()), []byte(s.colText())
	if len(ch.Before) == 0 {
		ch.Before = nil
	}
	if len(ch.After) == 0 {
		ch.After = nil
	}
	return ch, nil
}

// note writes the row of the author's change of an object, in the transaction of the change, if there is
// an author and the states differ.
func (s *Store) note(c *conn, before, after store.Seen) error {
	ch, changed := s.by.Change(before, after)
	if !changed {
		return nil
	}
	return insertChange(c, &ch)
}

func insertChange(c *conn, ch *kapsel.Change) error {
	actor, err := json.Marshal(ch.Actor)
	if err != nil {
		return fmt.Errorf("write who made the change: %w", err)
	}
	q := c.query(`INSERT INTO changes (`+changeColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		ch.ID, ch.TenantID, ch.At, string(actor), ch.Actor.KeyID, ch.Verb, ch.Subject.Kind, ch.Subject.ID, ch.Subject.Name)
	return q.textOrNull(string(ch.Before)).textOrNull(string(ch.After)).exec()
}

// AddChange implements store.Changes.
func (s *Store) AddChange(ctx context.Context, ch kapsel.Change) error {
	return s.writer.cold(ctx, func(c *conn) error { return insertChange(c, &ch) })
}

// ListChanges implements store.Changes.
func (s *Store) ListChanges(ctx context.Context, tenant kapsel.TenantID, f store.ChangeFilter, p store.Page[kapsel.ChangeID]) ([]kapsel.Change, error) {
	rows, args := `SELECT `+changeColumns+` FROM changes WHERE id < ?`, []any{before(p.Before)}
	and := func(condition string, value any) { rows, args = rows+` AND `+condition, append(args, value) }
	if !f.Until.IsZero() {
		and(`at < ?`, f.Until)
		and(`id < ?`, firstID(f.Until.Add(time.Millisecond)))
	}
	if !f.Since.IsZero() {
		and(`at >= ?`, f.Since)
		and(`id >= ?`, firstID(f.Since))
	}
	if !tenant.IsZero() {
		and(`tenant_id = ?`, tenant)
	}
	if f.Subject != "" {
		and(`subject = ?`, f.Subject)
	}
	if f.Kind != "" {
		and(`kind = ?`, f.Kind)
	}
	if f.Verb != "" {
		and(`verb = ?`, f.Verb)
	}
	if !f.KeyID.IsZero() {
		and(`key_id = ?`, f.KeyID)
	}
	return list(s, ctx, p.Limit, scanChange, rows+` ORDER BY id DESC LIMIT ?`, args...)
}

// DeleteOldChanges implements store.Changes.
func (s *Store) DeleteOldChanges(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	old := firstID(now.Add(-kapsel.ChangesKept))
	return s.inUnits(ctx, limit, 200, func(c *conn, limit int) (int, error) {
		err := c.exec(`DELETE FROM changes WHERE id IN (SELECT id FROM changes WHERE id < ? ORDER BY id LIMIT ?)`, old, limit)
		return c.changes(), err
	})
}
