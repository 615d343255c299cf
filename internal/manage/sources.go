package manage

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// SourceSettings are what people set on a source.
type SourceSettings struct {
	Name    string
	Type    *kapsel.TypeRule // where the type of its events is; nil: they have none
	Intake  kapsel.Intake    // its secrets are not looked at
	Secrets IntakeSecrets
	State   kapsel.SourceState
}

// DefaultSource returns the settings of a source on which nothing is set.
func DefaultSource() SourceSettings {
	return sourceSettings(&kapsel.Source{State: kapsel.SourceActive, SourceConfig: kapsel.DefaultSource()})
}

// sourceSettings returns what is set on a source.
func sourceSettings(s *kapsel.Source) SourceSettings {
	return SourceSettings{Name: s.Name, Type: orNil(s.Type), Intake: s.Intake, State: s.State}
}

// Source is a source with what is known of it now. Its verification is the one in force, defaults included.
type Source struct {
	kapsel.Source
	IngestURL       string   // where the provider posts to
	Warnings        []string // what its owner should know; not nil
	HandshakeSecret string   // what a handshake brought, while it may be shown; only from Manager.Source
	At              time.Time
}

// SourceAt returns what a source's row says of it at a time. publicURL is where the service is reached.
func SourceAt(s *kapsel.Source, publicURL string, now time.Time) Source {
	view := Source{Source: *s, IngestURL: publicURL + kapsel.IngestPath + s.ID.String(), Warnings: intakeWarnings(&s.Intake), At: now}
	view.Verification = signature.InForce(s.Verification)
	return view
}

func (m *Manager) shownSource(s kapsel.Source, err error) (Source, error) {
	if err != nil {
		return Source{}, err
	}
	return SourceAt(&s, m.PublicURL, m.Clock()), nil
}

// CreateSource makes a source of a tenant. id is the source's ID; zero: a new one. The state in s does not
// count.
func (m *Manager) CreateSource(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.SourceID, s SourceSettings) (Source, error) {
	if err := c.Check(access.Write); err != nil {
		return Source{}, err
	}
	t, err := m.owner(ctx, c, tenant)
	if err != nil {
		return Source{}, err
	}
	now := m.Clock()
	made := kapsel.Source{ID: orNew(id, kapsel.NewSourceID, now), TenantID: t.ID, CreatedAt: now}
	s.State = kapsel.SourceActive
	if err := m.configureSource(&made, &t, &s, now); err != nil {
		return Source{}, err
	}
	return m.shownSource(settled(m, made, m.by(c, "create").CreateSource(ctx, made)))
}

// ListSources returns a page of the sources that are not deleted, newest first: of one tenant, or of all
// for an admin who names none.
func (m *Manager) ListSources(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.SourceID]) ([]Source, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	rows, err := m.Store.ListSources(ctx, c.TenantOr(tenant), p)
	list := make([]Source, len(rows))
	for i := range rows {
		list[i] = SourceAt(&rows[i], m.PublicURL, m.Clock())
	}
	return list, err
}

// Source returns a source, and to a caller who may write the secret that a handshake brought.
func (m *Manager) Source(ctx context.Context, c access.Caller, id kapsel.SourceID) (Source, error) {
	if err := c.Check(access.Read); err != nil {
		return Source{}, err
	}
	s, err := m.shownSource(m.Store.Source(ctx, c.Tenant, id))
	if err != nil {
		return Source{}, err
	}
	s.HandshakeSecret, err = m.brought(ctx, c, s.TenantID, s.ID.String(), s.Verification)
	return s, err
}

// UpdateSource changes what is set on a source. edit may run more than once; its error is returned.
func (m *Manager) UpdateSource(ctx context.Context, c access.Caller, id kapsel.SourceID, edit func(*SourceSettings) error) (Source, error) {
	if err := c.Check(access.Write); err != nil {
		return Source{}, err
	}
	s, err := m.Store.Source(ctx, c.Tenant, id)
	if err != nil {
		return Source{}, err
	}
	t, err := m.Store.Tenant(ctx, s.TenantID)
	if err != nil {
		return Source{}, err
	}
	now := m.Clock()
	change := func(s *kapsel.Source) error {
		next := sourceSettings(s)
		if err := edit(&next); err != nil {
			return err
		}
		forgetProvider(&s.Intake, next.Intake)
		return m.configureSource(s, &t, &next, now)
	}
	// Once on a copy, so that most mistakes are found outside of the store's transaction.
	if err := change(&s); err != nil {
		return Source{}, err
	}
	s, err = m.by(c, "update").UpdateSource(ctx, c.Tenant, id, change)
	return m.shownSource(settled(m, s, err))
}

// DeleteSource deletes a source. It returns Conflict while endpoints subscribe to it.
func (m *Manager) DeleteSource(ctx context.Context, c access.Caller, id kapsel.SourceID) error {
	if err := c.Check(access.Write); err != nil {
		return err
	}
	_, err := settled(m, id, m.by(c, "delete").DeleteSource(ctx, c.Tenant, id, m.Clock()))
	return err
}

// configureSource sets the settings on a source.
func (m *Manager) configureSource(s *kapsel.Source, t *kapsel.Tenant, next *SourceSettings, now time.Time) error {
	intake, wrong, err := m.intake(&s.Intake, t, s.ID.String(), next.Intake, &next.Secrets, now)
	if err != nil {
		return err
	}
	s.State, s.UpdatedAt = next.State, now
	s.SourceConfig = kapsel.SourceConfig{Name: next.Name, Intake: intake, Kept: s.Kept}
	if next.Type != nil {
		s.Type = *next.Type
		if s.Type.From == "" {
			wrong = append(wrong, kapsel.FieldError{Field: "type.from", Detail: "is needed: header:NAME, path:$.… or const"})
			s.Type = kapsel.TypeRule{}
		}
	}
	if header, ok := s.Type.Header(); ok {
		wrong = append(wrong, storedSecret(s.Verification, "type.from", header)...)
	}
	if path, ok := s.Type.Path(); ok {
		if _, err := jsonpath.Parse(path); err != nil {
			wrong = append(wrong, kapsel.FieldError{Field: "type.from", Detail: "the path " + err.Error()})
		}
	}
	return check(append(wrong, s.Validate()...))
}
