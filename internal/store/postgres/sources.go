package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const sourceColumns = "id, tenant_id, state, config, created_at, updated_at, deleted_at, revision"

func scanSource(r *row) kapsel.Source {
	src := kapsel.Source{ID: r.id(), TenantID: r.id(), State: kapsel.SourceState(r.text())}
	scanJSON(r, &src.SourceConfig)
	src.CreatedAt, src.UpdatedAt, src.DeletedAt, src.Revision = r.time(), r.time(), r.time(), r.int8()
	return src
}

// source returns a source of the tenant, or of any tenant for the zero one. It fails with NotFound
// if there is none or it is deleted. lock must be "" or a locking clause.
func source(ctx context.Context, q querier, tenantID kapsel.TenantID, sourceID kapsel.SourceID, lock string) (kapsel.Source, error) {
	src, ok, err := first(ctx, q, scanSource, `
		SELECT `+sourceColumns+` FROM sources
		WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2) AND deleted_at IS NULL`+lock, id(sourceID), id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("source")
	}
	return src, err
}

// CreateSource stores a source; see store.Directory.
func (s *Store) CreateSource(ctx context.Context, src kapsel.Source) error {
	return s.change(ctx, viewOf(src.TenantID), func(ctx context.Context, tx pgx.Tx) error {
		// CreateSource locks the tenant's row as CreateEndpoint does, so that the tenant is not deleted
		// meanwhile.
		if _, err := tenant(ctx, tx, src.TenantID, " FOR UPDATE"); err != nil {
			return err
		}
		if err := current(ctx, tx, src.CreatedAt, sourcesSchema); err != nil {
			return err
		}
		var err error
		if src.Revision, err = nextRevision(ctx, tx); err != nil {
			return err
		}
		if err := insertSource(ctx, tx, &src); err != nil {
			return err
		}
		return s.note(ctx, tx, store.Seen{}, s.by.See(&src))
	})
}

// insertSource writes a new source under its revision.
func insertSource(ctx context.Context, tx pgx.Tx, src *kapsel.Source) error {
	config, err := json.Marshal(src.SourceConfig)
	if err != nil {
		return err
	}
	return created(tx.Exec(ctx, `
		INSERT INTO sources (id, tenant_id, state, config, created_at, updated_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`,
		id(src.ID), id(src.TenantID), string(src.State), string(config), src.CreatedAt, src.UpdatedAt, src.Revision))
}

// Source reads a source; see store.Directory.
func (s *Store) Source(ctx context.Context, tenantID kapsel.TenantID, sourceID kapsel.SourceID) (src kapsel.Source, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		src, err = source(ctx, q, tenantID, sourceID, "")
		return err
	})
	return src, err
}

// UpdateSource changes a source; see store.Directory.
func (s *Store) UpdateSource(ctx context.Context, tenantID kapsel.TenantID, sourceID kapsel.SourceID, change func(*kapsel.Source) error) (kapsel.Source, error) {
	return s.changeSource(ctx, tenantID, sourceID, func(_ context.Context, _ pgx.Tx, src *kapsel.Source) error {
		if err := change(src); err != nil {
			return callerError{err}
		}
		return nil
	})
}

// DeleteSource hides a source to which nobody subscribes; see store.Directory.
func (s *Store) DeleteSource(ctx context.Context, tenantID kapsel.TenantID, sourceID kapsel.SourceID, now time.Time) error {
	_, err := s.changeSource(ctx, tenantID, sourceID, func(ctx context.Context, tx pgx.Tx, src *kapsel.Source) error {
		src.DeletedAt, src.UpdatedAt = now, now
		return rules.SourceUnused(subscribing{ctx: ctx, tx: tx, tenant: src.TenantID, now: now}, src.ID)
	})
	return err
}

// changeSource calls change with a source that is not deleted, and writes it under the next
// revision.
func (s *Store) changeSource(ctx context.Context, tenantID kapsel.TenantID, sourceID kapsel.SourceID, change func(context.Context, pgx.Tx, *kapsel.Source) error) (src kapsel.Source, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		if src, err = source(ctx, tx, tenantID, sourceID, " FOR UPDATE"); err != nil {
			return err
		}
		was := s.by.See(&src)
		if err := change(ctx, tx, &src); err != nil {
			return err
		}
		config, err := json.Marshal(src.SourceConfig)
		if err != nil {
			return err
		}
		if src.Revision, err = nextRevision(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE sources SET state = $2, config = $3, updated_at = $4, deleted_at = $5, revision = $6 WHERE id = $1",
			id(src.ID), string(src.State), string(config), src.UpdatedAt, at(src.DeletedAt), src.Revision)
		if err != nil {
			return err
		}
		return s.note(ctx, tx, was, s.by.See(&src))
	})
	if err != nil {
		return kapsel.Source{}, err
	}
	return src, nil
}

// ListSources returns a tenant's sources, those of all tenants for the zero one; see
// store.Directory.
func (s *Store) ListSources(ctx context.Context, tenantID kapsel.TenantID, p store.Page[kapsel.SourceID]) ([]kapsel.Source, error) {
	return list(ctx, s, viewOf(tenantID), scanSource, `
		SELECT `+sourceColumns+` FROM sources
		WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1) AND id < $2
		ORDER BY id DESC LIMIT $3`, id(tenantID), before(p.Before), p.Limit)
}
