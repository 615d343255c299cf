package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const changeColumns = "id, tenant_id, at, actor, key_id, verb, kind, subject, name, before, after"

func scanChange(r *row) kapsel.Change {
	ch := kapsel.Change{ID: r.id(), TenantID: r.id(), At: r.time()}
	scanJSON(r, &ch.Actor)
	_ = r.id() // the actor has the key, too
	ch.Verb = r.text()
	ch.Subject = kapsel.Subject{Kind: r.text(), ID: r.text(), Name: r.text()}
	ch.Before, ch.After = r.bytes(), r.bytes()
	return ch
}

// note writes the row of the author's change of an object, in the transaction of the change, if there is
// an author and the states differ.
func (s *Store) note(ctx context.Context, tx pgx.Tx, before, after store.Seen) error {
	ch, changed := s.by.Change(before, after)
	if !changed {
		return nil
	}
	return insertChange(ctx, tx, &ch)
}

func insertChange(ctx context.Context, tx pgx.Tx, ch *kapsel.Change) error {
	actor, err := json.Marshal(ch.Actor)
	if err != nil {
		return fmt.Errorf("write who made the change: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO changes (`+changeColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING`,
		id(ch.ID), id(ch.TenantID), ch.At, string(actor), id(ch.Actor.KeyID), ch.Verb, ch.Subject.Kind, ch.Subject.ID, ch.Subject.Name, textOrNull(ch.Before), textOrNull(ch.After))
	return err
}

// textOrNull returns a text as an argument, NULL if it is empty.
func textOrNull(text []byte) any {
	if len(text) == 0 {
		return nil
	}
	return string(text)
}

// AddChange writes the row of a change; see store.Changes.
func (s *Store) AddChange(ctx context.Context, ch kapsel.Change) error {
	return s.change(ctx, viewOf(ch.TenantID), func(ctx context.Context, tx pgx.Tx) error { return insertChange(ctx, tx, &ch) })
}

// ListChanges lists changes; see store.Changes.
func (s *Store) ListChanges(ctx context.Context, tenantID kapsel.TenantID, f store.ChangeFilter, p store.Page[kapsel.ChangeID]) ([]kapsel.Change, error) {
	sql, args := "SELECT "+changeColumns+" FROM changes WHERE id < $1", []any{before(p.Before)}
	and := func(condition string, value any) {
		args = append(args, value)
		sql += fmt.Sprintf(" AND %s $%d", condition, len(args))
	}
	if !f.Until.IsZero() {
		and("at <", f.Until)
		and("id <", idAt(f.Until.Add(time.Millisecond)))
	}
	if !f.Since.IsZero() {
		and("at >=", f.Since)
		and("id >=", idAt(f.Since))
	}
	if !tenantID.IsZero() {
		and("tenant_id =", id(tenantID))
	}
	if f.Subject != "" {
		and("subject =", f.Subject)
	}
	if f.Kind != "" {
		and("kind =", f.Kind)
	}
	if f.Verb != "" {
		and("verb =", f.Verb)
	}
	if !f.KeyID.IsZero() {
		and("key_id =", id(f.KeyID))
	}
	args = append(args, p.Limit)
	return list(ctx, s, viewOf(tenantID), scanChange, fmt.Sprintf("%s ORDER BY id DESC LIMIT $%d", sql, len(args)), args...)
}

// DeleteOldChanges deletes old rows of changes; see store.Changes.
func (s *Store) DeleteOldChanges(ctx context.Context, now time.Time, limit int) (deleted int, err error) {
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH old AS (SELECT id FROM changes WHERE id < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
			DELETE FROM changes c USING old WHERE c.id = old.id`, idAt(now.Add(-kapsel.ChangesKept)), limit)
		deleted = int(tag.RowsAffected())
		return err
	})
	return deleted, err
}
