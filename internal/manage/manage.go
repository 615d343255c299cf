// Package manage holds the use cases of Kapsel's management: what people and programs do with tenants,
// keys, apps, event types, sources, endpoints, events, deliveries and replays, whatever face they do it
// through.
//
// Each use case takes a context, the access.Caller and plain values. It checks what the caller may do
// and whose objects the caller sees, works against the store's contract, waits until the nodes obey
// where a change must be obeyed, and returns values of the domain or a *kapsel.Error. An object of
// another tenant is NotFound, as one that does not exist. Wrong values are InvalidRequest with all wrong
// fields, named as in the API's JSON. Faces translate: they parse, call and show.
package manage

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Store is what the use cases need of the store. What people change goes through By alone, so that no use
// case changes anything without saying who does.
type Store interface {
	store.Changes
	store.Apps
	Tenant(ctx context.Context, id kapsel.TenantID) (kapsel.Tenant, error)
	ListTenants(ctx context.Context, p store.Page[kapsel.TenantID]) ([]kapsel.Tenant, error)
	Key(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID) (kapsel.Key, error)
	ListKeys(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error)
	InstanceKeys(ctx context.Context, p store.Page[kapsel.KeyID]) ([]kapsel.Key, error)
	Endpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (kapsel.Endpoint, error)
	Endpoints(ctx context.Context, tenant kapsel.TenantID, ids []kapsel.EndpointID) ([]kapsel.Endpoint, error)
	ListEndpoints(ctx context.Context, tenant kapsel.TenantID, app kapsel.AppID, p store.Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error)
	Source(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID) (kapsel.Source, error)
	ListSources(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.SourceID]) ([]kapsel.Source, error)
	ListApps(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.AppID]) ([]kapsel.App, error)
	EventType(ctx context.Context, tenant kapsel.TenantID, name string) (kapsel.EventType, error)
	ListEventTypes(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.EventTypeID]) ([]kapsel.EventType, error)
	Event(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (store.EventRecord, error)
	EventHead(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (store.EventRecord, error)
	ListEvents(ctx context.Context, tenant kapsel.TenantID, f store.EventFilter, p store.Page[kapsel.EventID]) ([]store.EventRecord, kapsel.EventID, error)
	Delivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID) (kapsel.Delivery, error)
	ListDeliveries(ctx context.Context, tenant kapsel.TenantID, f store.DeliveryFilter, p store.Page[kapsel.DeliveryID]) ([]kapsel.Delivery, error)
	Attempt(ctx context.Context, tenant kapsel.TenantID, id kapsel.AttemptID) (kapsel.Attempt, error)
	ListAttempts(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, after int, limit int) ([]kapsel.Attempt, error)
	CountReplay(ctx context.Context, r kapsel.Replay, atMost, sample int) (count int, some []kapsel.Delivery, err error)
	ReadReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID) (kapsel.Replay, error)
	ListReplays(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.ReplayID]) ([]kapsel.Replay, error)
	PortalLogo(ctx context.Context, tenant kapsel.TenantID) (kapsel.PortalLogo, error)
	PortalLogoHead(ctx context.Context, tenant kapsel.TenantID) (kapsel.PortalLogo, error)
	PortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID) (kapsel.PortalLink, error)
	ListPortalLinks(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.PortalLinkID]) ([]kapsel.PortalLink, error)
	store.Stream
	store.Counters
	store.Inbox // for test events
	store.Sessions
	store.Journal
	audit.Meta // has the keys
	store.Ledger
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
	Circuit(ctx context.Context, id kapsel.EndpointID) (kapsel.Circuit, error)
	Backlog(ctx context.Context) ([]store.Waiting, error)
	BacklogOf(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, atMost int) (count int, oldest time.Time, err error)
}

// Config is what a Manager works with. Fields without "may be nil" are needed.
type Config struct {
	Store     Store
	Vault     *secret.Vault   // seals the secrets of endpoints and sources
	Keyring   *secret.Keyring // makes new tenants' data keys
	PublicURL string          // base of ingest URLs, without a slash at the end
	Dev       bool            // allows the shorter delays of a development instance
	Ledger    bool            // the store tells the facts of deliveries
	// WitnessesWanted is how many witnesses must have signed the head of a log, if its tenant does not say.
	WitnessesWanted int
	Clock           func() time.Time
	Feed            *feed.Feed // of streams of events

	// PortalToken returns the token of a new portal link and the hash that finds the link, as
	// access.Guard.NewPortalToken does.
	PortalToken func() (token secret.Text, hash [32]byte)

	// CheckURL reports whether deliveries may go to a URL: DestinationBlocked if not.
	CheckURL func(string) error
	// CheckVerification says what is wrong with a verification, by field.
	CheckVerification func(kapsel.Verification) []kapsel.FieldError

	// Bodies is charged with the bodies that people read. It may be nil: they are not counted.
	Bodies *budget.Budget
	// Show returns an object as the rows of changes show it at a time; see store.Author.
	Show func(object any, at time.Time) any
	// Known is this node's copy of the settings, by which the overview knows the endpoints. It may be nil:
	// then there is no overview.
	Known Known

	// Changed is called after every change of settings, before the use case returns. It returns when
	// the change holds. It may be nil.
	Changed func()
	// WaitsFor says why a pending delivery waits, "" when it does not. It may be nil.
	WaitsFor func(*kapsel.Endpoint, kapsel.Delivery) string
	// Due is told of every delivery that a use case made or moved so that it is due now. It may be nil:
	// the delivery starts when a node looks for work.
	Due func(kapsel.Delivery)
	// Refused returns what this node remembers of the webhooks that an endpoint refused. It may be nil:
	// nothing.
	Refused func(kapsel.EndpointID) kapsel.Refused
	// Arrivals returns what this node has counted of an endpoint's webhooks and not stored yet. It may be
	// nil: nothing.
	Arrivals func(kapsel.EndpointID) store.Arrivals
	// Replaying is told that a replay was made or goes on. It may be nil.
	Replaying func()
	// RateAllows is when an endpoint's rate_limit lets its next exchange start. It may be nil.
	RateAllows func(*kapsel.Endpoint) time.Time
}

// Manager runs the use cases. It is safe for concurrent use.
type Manager struct {
	Config
	backlogs backlogs
	recent   recent
	logs     logs
	tests    ratelimit.Limiter[[2][16]byte] // test events of customers, by tenant and app
}

// New returns a manager.
func New(cfg Config) *Manager {
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.WaitsFor == nil {
		cfg.WaitsFor = func(*kapsel.Endpoint, kapsel.Delivery) string { return "" }
	}
	if cfg.Due == nil {
		cfg.Due = func(kapsel.Delivery) {}
	}
	if cfg.Refused == nil {
		cfg.Refused = func(kapsel.EndpointID) kapsel.Refused { return kapsel.Refused{} }
	}
	if cfg.Arrivals == nil {
		cfg.Arrivals = func(kapsel.EndpointID) store.Arrivals { return store.Arrivals{} }
	}
	if cfg.Replaying == nil {
		cfg.Replaying = func() {}
	}
	if cfg.RateAllows == nil {
		cfg.RateAllows = func(*kapsel.Endpoint) time.Time { return time.Time{} }
	}
	return &Manager{Config: cfg, backlogs: backlogs{of: cfg.Store.BacklogOf}}
}

// owner returns the tenant that a new object belongs to: the caller's own, or the one that the admin
// names.
func (m *Manager) owner(ctx context.Context, c access.Caller, named kapsel.TenantID) (kapsel.Tenant, error) {
	id := c.TenantOr(named)
	if id.IsZero() {
		return kapsel.Tenant{}, refused("tenant_id", "is needed with the admin key")
	}
	return m.Store.Tenant(ctx, id)
}

// settled waits for a change of settings to hold, unless the change failed. It returns what the change
// returned.
func settled[T any](m *Manager, changed T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	m.Changed()
	return changed, nil
}

// upsert changes a thing, or makes it if change says NotFound. It reports whether the thing was made. If
// another makes the thing at the same time, upsert changes that one, so that the later call wins. find
// tells such a Conflict of create from others.
func upsert[T any](change, create func() (T, error), find func() error) (v T, made bool, err error) {
	for range 3 {
		if v, err = change(); !missing(err) {
			return v, false, err
		}
		v, err = create()
		if kapsel.CodeOf(err) != kapsel.Conflict || find() != nil {
			return v, err == nil, err
		}
	}
	return v, false, errBusy
}

// errBusy is returned for a change that lost against others several times in a row.
var errBusy = kapsel.Errorf(kapsel.Conflict, "others change it at the same time; try again")

// missing reports whether an error says that something does not exist.
func missing(err error) bool { return kapsel.CodeOf(err) == kapsel.NotFound }

// unprocessable is the HTTP status of a request that was read and has wrong values.
const unprocessable = 422

// refused returns the error for a value that one field cannot have.
func refused(field, detail string) error {
	return kapsel.Invalid(unprocessable, kapsel.FieldError{Field: field, Detail: detail})
}

// check returns the error for wrong fields, nil if there are none.
func check(wrong []kapsel.FieldError) error {
	if wrong == nil {
		return nil
	}
	return kapsel.Invalid(unprocessable, wrong...)
}
