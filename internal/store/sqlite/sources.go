package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const sourceColumns = `id, tenant_id, state, config, created_at, updated_at, deleted_at, revision`

func scanSource(s *stmt) (src kapsel.Source, err error) {
	src = kapsel.Source{ID: s.colID(), TenantID: s.colID(), State: kapsel.SourceState(s.colText())}
	if err := json.Unmarshal(s.view(), &src.SourceConfig); err != nil {
		return src, fmt.Errorf("read the source's configuration: %w", err)
	}
	src.CreatedAt, src.UpdatedAt, src.DeletedAt, src.Revision = s.colTime(), s.colTime(), s.colTime(), s.colInt()
	return src, nil
}

// liveSource returns a source of the tenant, or of any tenant if tenant is zero. It fails with
// NotFound if there is none or it is deleted.
func liveSource(c *conn, tenant kapsel.TenantID, id kapsel.SourceID) (kapsel.Source, error) {
	src, err := live(c.query(`SELECT `+sourceColumns+` FROM sources WHERE id = ? AND deleted_at IS NULL`, id), "source", scanSource)
	if err == nil && !tenant.IsZero() && src.TenantID != tenant {
		err = store.NotFound("source")
	}
	return src, err
}

// saveSource writes a source, new or not, under the next revision.
func saveSource(c *conn, src *kapsel.Source) (err error) {
	config, err := json.Marshal(src.SourceConfig)
	if err != nil {
		return fmt.Errorf("write the source's configuration: %w", err)
	}
	if src.Revision, err = nextRevision(c); err != nil {
		return err
	}
	return c.exec(`INSERT OR REPLACE INTO sources (`+sourceColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		src.ID, src.TenantID, string(src.State), config, src.CreatedAt, src.UpdatedAt, src.DeletedAt, src.Revision)
}

// CreateSource implements store.Directory.
func (s *Store) CreateSource(ctx context.Context, src kapsel.Source) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if _, err := liveTenant(c, src.TenantID); err != nil {
			return err
		}
		if err := absent(c, "sources", src.ID); err != nil {
			return err
		}
		if err := saveSource(c, &src); err != nil {
			return err
		}
		return s.note(c, store.Seen{}, s.by.See(&src))
	})
}

// Source implements store.Directory.
func (s *Store) Source(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID) (src kapsel.Source, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		src, err = liveSource(c, tenant, id)
		return err
	})
	return src, err
}

// UpdateSource implements store.Directory.
func (s *Store) UpdateSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, change func(*kapsel.Source) error) (kapsel.Source, error) {
	return update(s, ctx, func(c *conn) (kapsel.Source, error) { return liveSource(c, tenant, id) }, change, saveSource)
}

// DeleteSource implements store.Directory.
func (s *Store) DeleteSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, now time.Time) error {
	return s.writer.cold(ctx, func(c *conn) error {
		src, err := liveSource(c, tenant, id)
		if err != nil {
			return err
		}
		if err := rules.SourceUnused(subscribing{c: c, tenant: src.TenantID}, src.ID); err != nil {
			return err
		}
		was := s.by.See(&src)
		src.DeletedAt, src.UpdatedAt = now, now
		if err := saveSource(c, &src); err != nil {
			return err
		}
		return s.note(c, was, s.by.See(&src))
	})
}

// ListSources implements store.Directory.
func (s *Store) ListSources(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.SourceID]) ([]kapsel.Source, error) {
	return listOf(s, ctx, "sources", sourceColumns, scanSource, tenant, p)
}
