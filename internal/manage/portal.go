package manage

import (
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// PortalLinkSettings are what people set on a portal link, once.
type PortalLinkSettings struct {
	App   *string // the ID or uid of the app whose endpoints and events it shows; nil: all of the tenant
	Mode  kapsel.PortalMode
	Life  time.Duration // zero: kapsel.DefaultPortalLife
	Sites []string
}

// CreatePortalLink makes a link into the portal and returns it with its URL, which is nowhere else. id is
// the link's ID; zero: a new one.
func (m *Manager) CreatePortalLink(ctx context.Context, c access.Caller, tenant kapsel.TenantID, id kapsel.PortalLinkID, s PortalLinkSettings) (l kapsel.PortalLink, url secret.Text, err error) {
	if err := c.Check(access.Write); err != nil {
		return l, url, err
	}
	t, err := m.owner(ctx, c, tenant)
	if err != nil {
		return l, url, err
	}
	now := m.Clock()
	if s.Life == 0 {
		s.Life = kapsel.DefaultPortalLife
	}
	l = kapsel.PortalLink{
		ID: orNew(id, kapsel.NewPortalLinkID, now), TenantID: t.ID, Mode: s.Mode, Sites: s.Sites, KeyID: c.Key,
		CreatedAt: now, ExpiresAt: now.Add(s.Life),
	}
	if err := check(l.Validate()); err != nil {
		return l, url, err
	}
	if s.App != nil {
		app, err := m.app(ctx, t.ID, *s.App)
		if missing(err) {
			err = kapsel.NoApp("app")
		}
		if err != nil {
			return l, url, err
		}
		l.AppID = app.ID
	}
	if !c.Key.IsZero() {
		key, err := m.Store.Key(ctx, t.ID, c.Key)
		if err != nil {
			return l, url, err
		}
		l.KeyHash = key.Hash
	}
	token, hash := m.PortalToken()
	l.Token = hash
	return l, secret.NewText(m.PublicURL + "/portal/open/" + l.ID.String() + "#" + token.Reveal()), m.by(c, "create").CreatePortalLink(ctx, l)
}

// ListPortalLinks returns a page of the links that have not expired, newest first: of one tenant, or of all
// for an admin who names none.
func (m *Manager) ListPortalLinks(ctx context.Context, c access.Caller, tenant kapsel.TenantID, p store.Page[kapsel.PortalLinkID]) ([]kapsel.PortalLink, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	return m.Store.ListPortalLinks(ctx, c.TenantOr(tenant), p)
}

// PortalLink returns a link, whatever has become of it.
func (m *Manager) PortalLink(ctx context.Context, c access.Caller, id kapsel.PortalLinkID) (kapsel.PortalLink, error) {
	if err := c.Check(access.Read); err != nil {
		return kapsel.PortalLink{}, err
	}
	return m.Store.PortalLink(ctx, c.Tenant, id)
}

// RevokePortalLink ends a link and its session.
func (m *Manager) RevokePortalLink(ctx context.Context, c access.Caller, id kapsel.PortalLinkID) error {
	if err := c.Check(access.Write); err != nil {
		return err
	}
	return m.by(c, "revoke").RevokePortalLink(ctx, c.Tenant, id, m.Clock())
}

// PortalSites returns the sites that may frame the portal under a link, also of one that has ended: then what
// they frame is a page that says so. It returns none for a link that there is not.
func (m *Manager) PortalSites(ctx context.Context, id kapsel.PortalLinkID) ([]string, error) {
	l, err := m.Store.PortalLink(ctx, kapsel.TenantID{}, id)
	if missing(err) {
		return nil, nil
	}
	return l.Sites, err
}

// Portal is what a customer sees and does under a link. All that does not belong to the link's app is
// NotFound, as what does not exist; and of what belongs to it no header values are shown.
type Portal struct {
	m    *Manager
	c    access.Caller
	link kapsel.PortalLink
}

// Portal returns the portal of a link's caller, which access.Guard.Portal found.
func (m *Manager) Portal(c access.Caller, l kapsel.PortalLink) Portal { return Portal{m, c, l} }

// May reports whether the customer may change things.
func (p Portal) May() bool { return p.c.May(access.Write) }

// Leave ends the customer's session, and the link with it.
func (p Portal) Leave(ctx context.Context) error {
	if err := p.c.Check(access.Read); err != nil {
		return err
	}
	return p.m.by(p.c, "leave").RevokePortalLink(ctx, p.link.TenantID, p.link.ID, p.m.Clock())
}

// Endpoints returns a page of the customer's endpoints, newest first.
func (p Portal) Endpoints(ctx context.Context, page store.Page[kapsel.EndpointID]) (all []Endpoint, err error) {
	list, err := p.m.ListEndpoints(ctx, p.c, p.link.TenantID, p.link.AppID, page)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		shown, err := p.m.Describe(ctx, e)
		if err != nil {
			return nil, err
		}
		all = append(all, shown)
	}
	return all, nil
}

// Endpoint returns one of the customer's endpoints.
func (p Portal) Endpoint(ctx context.Context, id kapsel.EndpointID) (Endpoint, error) {
	e, err := p.m.Endpoint(ctx, p.c, id)
	if err == nil && !p.link.Has(e.AppID) {
		return Endpoint{}, store.NotFound("endpoint")
	}
	return e, err
}

// PortalEndpoint is what a customer sets on an endpoint.
type PortalEndpoint struct {
	Name, Description, URL string
	Types                  []string // of the published events that it gets; none: all
}

// Bounds of what customers do, so that one of them cannot use up what their tenant may have.
const (
	maxPortalEndpoints = 50          // that there are when a customer makes another
	portalTests        = 10          // test events at once,
	portalTestsEvery   = time.Minute // and one more each time this has passed
)

// CreateEndpoint makes an endpoint that gets what is published to the customer.
func (p Portal) CreateEndpoint(ctx context.Context, s PortalEndpoint) (Endpoint, error) {
	there, err := p.m.ListEndpoints(ctx, p.c, p.link.TenantID, p.link.AppID, store.Page[kapsel.EndpointID]{Limit: maxPortalEndpoints})
	if err != nil {
		return Endpoint{}, err
	}
	if len(there) == maxPortalEndpoints {
		return Endpoint{}, kapsel.Full("there are %d endpoints, which is the most that can be made here; delete one", maxPortalEndpoints)
	}
	next := DefaultEndpoint()
	next.Config.NoIngest = true
	s.apply(&next.Config)
	if !p.link.AppID.IsZero() {
		next.App = new(p.link.AppID.String())
	}
	return p.m.CreateEndpoint(ctx, p.c, p.link.TenantID, kapsel.EndpointID{}, next)
}

// UpdateEndpoint changes what a customer may set on an endpoint.
func (p Portal) UpdateEndpoint(ctx context.Context, id kapsel.EndpointID, s PortalEndpoint) (Endpoint, error) {
	was, err := p.Endpoint(ctx, id)
	if err != nil {
		return Endpoint{}, err
	}
	return p.m.UpdateEndpoint(ctx, p.c, id, EndpointChange{SetsURL: was.URL != s.URL, Edit: func(e *EndpointSettings) error {
		s.apply(&e.Config)
		return nil
	}})
}

// apply writes the settings into a configuration. If they name other types than before, one subscription
// to what is published takes the place of all that there were; the first one's other settings stay.
func (s PortalEndpoint) apply(c *kapsel.EndpointConfig) {
	c.Name, c.Description, c.URL = s.Name, s.Description, s.URL
	had, some := PublishedTypes(c.Subscriptions)
	if some && slices.Equal(had, s.Types) || !some && !c.NoIngest && len(s.Types) == 0 {
		return
	}
	published := kapsel.Subscription{Source: kapsel.Publish}
	if i := slices.IndexFunc(c.Subscriptions, ofPublished); i >= 0 {
		published = c.Subscriptions[i]
	}
	published.EventTypes = s.Types
	c.Subscriptions = append(slices.DeleteFunc(slices.Clone(c.Subscriptions), ofPublished), published)
}

func ofPublished(s kapsel.Subscription) bool { return s.Source == kapsel.Publish }

// PublishedTypes returns the types of the published events that subscriptions choose, each once; none: all
// of them. some reports whether they choose any event.
func PublishedTypes(all []kapsel.Subscription) (types []string, some bool) {
	for _, s := range all {
		if !ofPublished(s) {
			continue
		}
		if len(s.EventTypes) == 0 {
			return nil, true
		}
		some = true
		for _, t := range s.EventTypes {
			if !slices.Contains(types, t) {
				types = append(types, t)
			}
		}
	}
	return types, some
}

// PortalAction is something that a customer does with an endpoint.
type PortalAction string

// The actions.
const (
	PortalPause  PortalAction = "pause"
	PortalResume PortalAction = "resume"
	PortalRotate PortalAction = "rotate"
	PortalDelete PortalAction = "delete"
)

// secretOverlap is how long deliveries still carry the signature of a secret that a customer replaced.
const secretOverlap = 24 * time.Hour

// Act does something with an endpoint. It returns the endpoint as it is then, with the new signing secret
// after PortalRotate; for PortalDelete the zero Endpoint.
func (p Portal) Act(ctx context.Context, id kapsel.EndpointID, action PortalAction) (e Endpoint, err error) {
	if _, err := p.Endpoint(ctx, id); err != nil {
		return Endpoint{}, err
	}
	switch action {
	case PortalPause:
		return p.m.PauseEndpoint(ctx, p.c, id)
	case PortalResume:
		return p.m.ResumeEndpoint(ctx, p.c, id)
	case PortalRotate:
		return p.m.RotateSecret(ctx, p.c, id, secretOverlap)
	case PortalDelete:
		return Endpoint{}, p.m.DeleteEndpoint(ctx, p.c, id, false)
	}
	return Endpoint{}, kapsel.Errorf(kapsel.NotFound, "there is no such action")
}

// Test sends a test event to an endpoint and returns the event.
func (p Portal) Test(ctx context.Context, id kapsel.EndpointID) (store.EventRecord, error) {
	if err := p.c.Check(access.Write); err != nil {
		return store.EventRecord{}, err
	}
	if _, err := p.Endpoint(ctx, id); err != nil {
		return store.EventRecord{}, err
	}
	customer := [2][16]byte{p.link.TenantID, p.link.AppID}
	if ok, _, reset := p.m.tests.Allow(customer, 1/portalTestsEvery.Seconds(), portalTests, p.m.Clock()); !ok {
		return store.EventRecord{}, &kapsel.Error{Code: kapsel.RateLimited, Detail: "too many test events were sent; try again in a minute", RetryAfter: max(reset, time.Second)}
	}
	return p.m.TestEndpoint(ctx, p.c, id)
}

// Types returns a page of the tenant's catalogue of event types, newest first, without archived ones.
func (p Portal) Types(ctx context.Context, page store.Page[kapsel.EventTypeID]) ([]kapsel.EventType, error) {
	all, err := p.m.ListEventTypes(ctx, p.c, p.link.TenantID, page)
	return slices.DeleteFunc(all, func(t kapsel.EventType) bool { return t.Archived }), err
}

// Events returns a page of the customer's events, newest first: those of an endpoint, or with the zero ID
// of all.
func (p Portal) Events(ctx context.Context, endpoint kapsel.EndpointID, status kapsel.EventStatus, page store.Page[kapsel.EventID]) (all []store.EventRecord, reached kapsel.EventID, err error) {
	if !endpoint.IsZero() {
		if _, err := p.Endpoint(ctx, endpoint); err != nil {
			return nil, reached, err
		}
	}
	all, reached, err = p.m.ListEvents(ctx, p.c, p.link.TenantID, store.EventFilter{AppID: p.link.AppID, EndpointID: endpoint, Status: status}, page)
	for i := range all {
		headless(&all[i].Event)
	}
	return all, reached, err
}

// Event returns one of the customer's events.
func (p Portal) Event(ctx context.Context, id kapsel.EventID) (EventDetail, error) {
	e, err := p.m.Event(ctx, p.c, id)
	if err == nil && !p.link.Has(e.Event.AppID) {
		return EventDetail{}, store.NotFound("event")
	}
	headless(&e.Event)
	return e, err
}

// headless takes out of an event what a portal does not show.
func headless(e *kapsel.Event) { e.Header, e.Query = nil, "" }

// Payload returns an event with its body.
func (p Portal) Payload(ctx context.Context, id kapsel.EventID) (kapsel.Event, error) {
	if _, err := p.Event(ctx, id); err != nil {
		return kapsel.Event{}, err
	}
	e, err := p.m.Payload(ctx, p.c, id)
	headless(&e)
	return e, err
}

// Tried is a delivery with its first attempts, which have no headers.
type Tried struct {
	Delivery
	Attempts []Attempt
}

// Tried returns one of the customer's events, and the newest of its deliveries with up to attempts attempts
// each.
func (p Portal) Tried(ctx context.Context, event kapsel.EventID, deliveries, attempts int) (e EventDetail, tried []Tried, err error) {
	if e, err = p.Event(ctx, event); err != nil {
		return e, nil, err
	}
	for _, d := range slices.Backward(e.Described[max(0, len(e.Described)-deliveries):]) {
		all, err := p.m.ListAttempts(ctx, p.c, d.ID, 0, attempts)
		if err != nil {
			return e, nil, err
		}
		for i := range all {
			all[i].RequestHeaders, all[i].ResponseHeaders = nil, nil
		}
		tried = append(tried, Tried{d, all})
	}
	return e, tried, nil
}

// SendAgain replays an event to one of the customer's endpoints.
func (p Portal) SendAgain(ctx context.Context, event kapsel.EventID, endpoint kapsel.EndpointID) (Delivery, error) {
	if err := p.c.Check(access.Write); err != nil {
		return Delivery{}, err
	}
	if _, err := p.Event(ctx, event); err != nil {
		return Delivery{}, err
	}
	if _, err := p.Endpoint(ctx, endpoint); err != nil {
		return Delivery{}, err
	}
	return p.m.ReplayEvent(ctx, p.c, event, &endpoint)
}
