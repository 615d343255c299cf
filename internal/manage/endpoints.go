package manage

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// EndpointSettings are what people set on an endpoint.
type EndpointSettings struct {
	Config  kapsel.EndpointConfig // its secrets, AppID, UID and what the stores keep in it are not looked at
	UID     *string               // the tenant's own ID of it; nil: none
	App     *string               // the ID or uid of the app that the endpoint belongs to, for ever; nil: none
	Secrets IntakeSecrets
	Headers HeaderValues
}

// HeaderValues say what becomes of the headers that an endpoint sets, whose values cannot be read back. A
// header that is not mentioned stays as it is.
type HeaderValues struct {
	Clear bool                    // whether the headers that there are go first
	Set   map[string]*secret.Text // by name; nil takes the header away
}

// DefaultEndpoint returns the settings of an endpoint on which nothing is set.
func DefaultEndpoint() EndpointSettings {
	return EndpointSettings{Config: kapsel.DefaultEndpoint()}
}

// endpointSettings returns what is set on an endpoint.
func endpointSettings(e *kapsel.Endpoint) EndpointSettings {
	s := EndpointSettings{Config: e.EndpointConfig, UID: orNil(e.UID)}
	if !e.AppID.IsZero() {
		s.App = new(e.AppID.String())
	}
	return s
}

// EndpointChange is a change of an endpoint.
type EndpointChange struct {
	// Edit changes the settings as they are. It may run more than once; its error is returned.
	Edit func(*EndpointSettings) error
	// State is the endpoint's new state; nil: as it is. Only the admin may set it; others pause and resume.
	State *kapsel.EndpointState
	// SetsURL says that the URL is set, even to what it was: then deliveries must be allowed to go there.
	SetsURL bool
}

// Endpoint is an endpoint with what is known of it now. Its verification is the one in force, defaults
// included, and its signing secrets are those that have not expired.
type Endpoint struct {
	kapsel.Endpoint
	IngestURL       string // where the provider posts to; "": the endpoint has no ingest
	Breaker         kapsel.Circuit
	ThrottledUntil  time.Time   // nothing is sent before, because the destination asked for it; zero: it did not
	Backlog         *int        // waiting deliveries; nil: not known
	OldestWaitingAt time.Time   // when the oldest of them is due
	Warnings        []string    // what its owner should know; not nil
	At              time.Time   // when all this was so
	SigningSecret   secret.Text // a new one, from CreateEndpoint and RotateSecret alone
	HandshakeSecret string      // what a handshake brought, while it may be shown; only from Manager.Endpoint
}

// EndpointAt returns what an endpoint's row and its circuit say of it at a time.
func EndpointAt(e *kapsel.Endpoint, circuit kapsel.Circuit, now time.Time) Endpoint {
	view := Endpoint{Endpoint: *e, Breaker: circuit, Warnings: endpointWarnings(e), At: now}
	view.Verification, view.Signing.Secrets = signature.InForce(e.Verification), valid(e.Signing.Secrets, now)
	if circuit.HoldUntil.After(now) {
		view.ThrottledUntil = circuit.HoldUntil
	}
	return view
}

// shown returns an endpoint with what is known of it now.
func (m *Manager) shown(ctx context.Context, e kapsel.Endpoint, err error) (Endpoint, error) {
	if err != nil {
		return Endpoint{}, err
	}
	circuit, err := m.Store.Circuit(ctx, e.ID)
	if err != nil {
		return Endpoint{}, err
	}
	now := m.Clock()
	view := EndpointAt(&e, e.CircuitNow(circuit), now)
	if e.Ingests() {
		view.IngestURL = m.PublicURL + kapsel.IngestPath + e.ID.String()
	}
	view.Backlog, view.OldestWaitingAt = m.backlogs.get(ctx, e.ID, now)
	unkeyed, err := m.unkeyed(ctx, &e, now)
	if err != nil {
		return Endpoint{}, err
	}
	if unkeyed > 0 {
		view.Warnings = append(view.Warnings, unkeyedWarning(&e, unkeyed))
	}
	return view, nil
}

// CreateEndpoint makes an endpoint of a tenant and returns it with its signing secret, which is in no
// later answer. id is the endpoint's ID; zero: a new one. An endpoint whose settings have a list of
// subscriptions, even an empty one, has no ingest.
func (m *Manager) CreateEndpoint(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.EndpointID, s EndpointSettings) (Endpoint, error) {
	if err := c.Check(access.Write); err != nil {
		return Endpoint{}, err
	}
	t, err := m.owner(ctx, c, tenant)
	if err != nil {
		return Endpoint{}, err
	}
	now := m.Clock()
	e := kapsel.Endpoint{ID: orNew(id, kapsel.NewEndpointID, now), TenantID: t.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now, Destination: 1}
	e.Part, e.NoIngest = kapsel.PartOf(e.ID), s.Config.Subscriptions != nil
	var wrong []kapsel.FieldError
	if s.App != nil {
		app, err := m.app(ctx, t.ID, *s.App)
		if missing(err) {
			wrong = kapsel.NoApp("app").Fields
		} else if err != nil {
			return Endpoint{}, err
		}
		e.AppID = app.ID
	}
	if err := m.configure(&e, &t, &s, now, wrong...); err != nil {
		return Endpoint{}, err
	}
	if err := m.CheckURL(e.URL); err != nil {
		return Endpoint{}, err
	}
	text, err := m.addSigningSecret(&e, &t, now)
	if err != nil {
		return Endpoint{}, err
	}
	most := 0
	if l := t.Effective().Endpoints; l != nil {
		most = *l
	}
	e, err = settled(m, e, m.by(c, "create").CreateEndpoint(ctx, e, most))
	view, err := m.shown(ctx, e, err)
	view.SigningSecret = text
	return view, err
}

// ListEndpoints returns a page of the endpoints that are not deleted, newest first: of one tenant, or of
// all for an admin who names none; of one app, unless app is zero.
func (m *Manager) ListEndpoints(ctx context.Context, c access.Caller, tenant kapsel.TenantID, app kapsel.AppID, p store.Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	return m.Store.ListEndpoints(ctx, c.TenantOr(tenant), app, p)
}

// Describe returns an endpoint of a list with what is known of it now.
func (m *Manager) Describe(ctx context.Context, e kapsel.Endpoint) (Endpoint, error) {
	return m.shown(ctx, e, nil)
}

// Endpoint returns an endpoint, and to a caller who may write the secret that a handshake brought.
func (m *Manager) Endpoint(ctx context.Context, c access.Caller, id kapsel.EndpointID) (Endpoint, error) {
	e, err := m.endpoint(ctx, c, access.Read, id)
	view, err := m.shown(ctx, e, err)
	if err != nil {
		return Endpoint{}, err
	}
	view.HandshakeSecret, err = m.brought(ctx, c, e.TenantID, e.ID.String(), e.Verification)
	return view, err
}

// endpoint returns the row of an endpoint that the caller sees, if the caller has a right.
func (m *Manager) endpoint(ctx context.Context, c access.Caller, need access.Right, id kapsel.EndpointID) (kapsel.Endpoint, error) {
	if err := c.Check(need); err != nil {
		return kapsel.Endpoint{}, err
	}
	return m.Store.Endpoint(ctx, c.Tenant, id)
}

// withTenant returns the row of an endpoint, of a tenant or of all, and its tenant, whose key seals its
// secrets.
func (m *Manager) withTenant(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (e kapsel.Endpoint, t kapsel.Tenant, err error) {
	if e, err = m.Store.Endpoint(ctx, tenant, id); err != nil {
		return e, t, err
	}
	t, err = m.Store.Tenant(ctx, e.TenantID)
	return e, t, err
}

// UpdateEndpoint changes an endpoint.
func (m *Manager) UpdateEndpoint(ctx context.Context, c access.Caller, id kapsel.EndpointID, change EndpointChange) (Endpoint, error) {
	if err := c.Check(access.Write); err != nil {
		return Endpoint{}, err
	}
	if change.State != nil && !c.IsAdmin() {
		return Endpoint{}, kapsel.Errorf(kapsel.Forbidden, "only the admin key may set state; use /pause and /resume")
	}
	// Once on a copy, so that the URL is checked, the app is found and most mistakes are noticed outside
	// of the store's transaction; then on the row as it is inside of it.
	e, t, err := m.withTenant(ctx, c.Tenant, id)
	if err != nil {
		return Endpoint{}, err
	}
	now, apps := m.Clock(), map[string]string{}
	apply := func(e *kapsel.Endpoint) error { return m.change(ctx, e, &t, &change, apps, now) }
	if err := apply(&e); err != nil {
		return Endpoint{}, err
	}
	if change.SetsURL {
		if err := m.CheckURL(e.URL); err != nil {
			return Endpoint{}, err
		}
	}
	e, err = m.by(c, "update").UpdateEndpoint(ctx, c.Tenant, id, apply)
	e, err = settled(m, e, err)
	return m.shown(ctx, e, err)
}

// DeleteEndpoint deletes an endpoint; its waiting deliveries are canceled. keepIngest makes a source of
// its ingest, with the same UUID; without it DeleteEndpoint returns Conflict while others subscribe to the
// ingest.
func (m *Manager) DeleteEndpoint(ctx context.Context, c access.Caller, id kapsel.EndpointID, keepIngest bool) error {
	err := c.Check(access.Write)
	switch {
	case err != nil:
		return err
	case keepIngest:
		err = m.keepIngest(ctx, c, id)
	default:
		err = m.by(c, "delete").DeleteEndpoint(ctx, c.Tenant, id, m.Clock())
	}
	_, err = settled(m, id, err)
	return err
}

// keepIngest deletes an endpoint but for its ingest, whose secrets it seals for the source.
func (m *Manager) keepIngest(ctx context.Context, c access.Caller, id kapsel.EndpointID) error {
	_, t, err := m.withTenant(ctx, c.Tenant, id)
	if err != nil {
		return err
	}
	_, err = m.by(c, "keep_ingest").KeepIngest(ctx, c.Tenant, id, m.Clock(), func(src *kapsel.Source) (err error) {
		from, to, v := id.String(), src.ID.String(), &src.Verification
		v.Secrets = slices.Clone(v.Secrets)
		for i := range v.Secrets {
			if v.Secrets[i], err = m.Vault.Move(&t, from, to, v.Secrets[i]); err != nil {
				return err
			}
		}
		if v.VerifyToken != nil {
			token, err := m.Vault.Move(&t, from, to, *v.VerifyToken)
			if err != nil {
				return err
			}
			v.VerifyToken = &token
		}
		return nil
	})
	return err
}

// PauseEndpoint starts no more deliveries of an endpoint; its events are still accepted.
func (m *Manager) PauseEndpoint(ctx context.Context, c access.Caller, id kapsel.EndpointID) (Endpoint, error) {
	return m.act(ctx, c, "pause", id, func(e *kapsel.Endpoint) error {
		if e.State == kapsel.EndpointDisabled {
			return kapsel.Errorf(kapsel.Conflict, "the endpoint is disabled; /resume makes it active")
		}
		e.State = kapsel.EndpointPaused
		return nil
	})
}

// ResumeEndpoint starts an endpoint's deliveries again. One that the operator disabled only the admin
// resumes.
func (m *Manager) ResumeEndpoint(ctx context.Context, c access.Caller, id kapsel.EndpointID) (Endpoint, error) {
	return m.act(ctx, c, "resume", id, func(e *kapsel.Endpoint) error {
		if e.State == kapsel.EndpointDisabled && e.DisabledReason == kapsel.DisabledAdmin && !c.IsAdmin() {
			return kapsel.Errorf(kapsel.Forbidden, "the operator disabled the endpoint; only the admin key resumes it")
		}
		e.State, e.DisabledReason = kapsel.EndpointActive, ""
		return nil
	})
}

// act changes an endpoint's row.
func (m *Manager) act(ctx context.Context, c access.Caller, verb string, id kapsel.EndpointID, change func(*kapsel.Endpoint) error) (Endpoint, error) {
	if err := c.Check(access.Write); err != nil {
		return Endpoint{}, err
	}
	now := m.Clock()
	e, err := m.by(c, verb).UpdateEndpoint(ctx, c.Tenant, id, func(e *kapsel.Endpoint) error {
		e.UpdatedAt = now
		return change(e)
	})
	e, err = settled(m, e, err)
	return m.shown(ctx, e, err)
}

// ResetCircuit closes an endpoint's circuit now, and ends what the destination asked for with
// Retry-After.
func (m *Manager) ResetCircuit(ctx context.Context, c access.Caller, id kapsel.EndpointID) (Endpoint, error) {
	e, err := m.endpoint(ctx, c, access.Write, id)
	if err != nil {
		return Endpoint{}, err
	}
	for range 5 {
		circuit, err := m.Store.Circuit(ctx, e.ID)
		if err != nil {
			return Endpoint{}, err
		}
		switch _, err := m.by(c, "reset_circuit").SaveCircuit(ctx, breaker.Reset(e.CircuitNow(circuit), m.Clock())); {
		case err == nil:
			m.Changed()
			return m.shown(ctx, e, nil)
		case kapsel.CodeOf(err) != kapsel.Conflict:
			return Endpoint{}, err
		}
		// A node moved the circuit in between: read it again.
	}
	return Endpoint{}, errBusy
}

// change applies a change to an endpoint. apps remembers, by what named them, the IDs of the apps that were
// looked up: in the store's transaction nothing is.
func (m *Manager) change(ctx context.Context, e *kapsel.Endpoint, t *kapsel.Tenant, change *EndpointChange, apps map[string]string, now time.Time) error {
	current := endpointSettings(e)
	next := endpointSettings(e)
	if err := change.Edit(&next); err != nil {
		return err
	}
	forgetProvider(&e.Intake, next.Config.Intake)
	var wrong []kapsel.FieldError
	if next.App != nil && (current.App == nil || *next.App != *current.App) {
		id, known := apps[*next.App]
		if !known {
			app, err := m.app(ctx, t.ID, *next.App)
			if err != nil && !missing(err) {
				return err
			}
			if id = *next.App; err == nil {
				id = app.ID.String()
			}
			apps[*next.App] = id
		}
		next.App = &id
	}
	if was, is := current.App, next.App; (was == nil) != (is == nil) || was != nil && *was != *is {
		wrong = []kapsel.FieldError{{Field: "app", Detail: "is fixed when the endpoint is made; make another endpoint"}}
	}
	if err := m.configure(e, t, &next, now, wrong...); err != nil {
		return err
	}
	if change.State != nil {
		e.State, e.DisabledReason = *change.State, ""
		switch e.State {
		case kapsel.EndpointActive, kapsel.EndpointPaused:
		case kapsel.EndpointDisabled:
			e.DisabledReason = kapsel.DisabledAdmin
		default:
			return refused("state", "must be one of active, paused, disabled")
		}
	}
	e.UpdatedAt = now
	return nil
}

// configure sets the settings on an endpoint, sealing what is secret. known is what is known to be wrong.
func (m *Manager) configure(e *kapsel.Endpoint, t *kapsel.Tenant, s *EndpointSettings, now time.Time, known ...kapsel.FieldError) error {
	config := s.Config
	config.NoIngest, config.Shared, config.AppID = e.NoIngest, e.Shared, e.AppID
	intake, wrong, err := m.intake(&e.Intake, t, e.ID.String(), config.Intake, &s.Secrets, now)
	if err != nil {
		return err
	}
	config.Intake = intake
	wrong = append(known, wrong...)
	var noUID []kapsel.FieldError
	config.UID, noUID = uidOf(s.UID)
	wrong = append(wrong, noUID...)

	config.Headers.Set = maps.Clone(e.Headers.Set)
	if s.Headers.Clear {
		clear(config.Headers.Set)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers.Set)) {
		text := s.Headers.Set[name]
		if text == nil {
			delete(config.Headers.Set, name)
			continue
		}
		wrong = append(wrong, kapsel.ValidateHeaderValue(name, text.Reveal())...)
		sealed, err := m.Vault.Seal(t, e.ID.String(), []byte(text.Reveal()), now)
		if err != nil {
			return err
		}
		if config.Headers.Set == nil {
			config.Headers.Set = map[string]kapsel.Secret{}
		}
		config.Headers.Set[name] = sealed
	}

	config.Signing.Secrets = e.Signing.Secrets
	if err := check(append(wrong, config.Validate(m.Dev)...)); err != nil {
		return err
	}
	e.EndpointConfig = config
	return nil
}

// endpointWarnings returns what an endpoint's owner should know of it.
func endpointWarnings(e *kapsel.Endpoint) []string {
	list := []string{}
	if e.Ingests() {
		list = intakeWarnings(&e.Intake)
	}
	if strings.HasPrefix(strings.ToLower(e.URL), "http:") {
		list = append(list, "unencrypted: anyone on the way to the destination can read the events")
	}
	if !e.Signing.Enabled {
		list = append(list, "unsigned: the destination cannot tell who sent a delivery")
	}
	return list
}

// Refusals returns what this node remembers of the webhooks that an endpoint refused.
func (m *Manager) Refusals(ctx context.Context, c access.Caller, id kapsel.EndpointID) (kapsel.Refused, error) {
	e, err := m.endpoint(ctx, c, access.Read, id)
	if err != nil {
		return kapsel.Refused{}, err
	}
	return m.Refused(e.ID), nil
}
