package manage

import (
	"context"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Reason says why an endpoint has or has not received an event.
type Reason struct {
	EndpointID      kapsel.EndpointID
	Delivery        *Delivery // its newest delivery of the event; nil: there is none
	SettingsChanged bool      // the endpoint was made or changed after the event came in; what is said is by its settings of now
	Words           string    // the reason, for people
}

// Reasons are why an event is where it is.
type Reasons struct {
	m      *Manager
	ctx    context.Context
	record store.EventRecord
}

// Why returns the reasons of an event, which Page reads.
func (m *Manager) Why(ctx context.Context, c access.Caller, id kapsel.EventID) (Reasons, error) {
	r, err := m.event(ctx, c, id)
	return Reasons{m, ctx, r}, err
}

// Page returns the reasons of a page of the endpoints that have a delivery of the event, or that subscribe
// to where it came from, newest first.
func (r Reasons) Page(p store.Page[kapsel.EndpointID]) ([]Reason, error) {
	all, err := r.m.concerned(r.ctx, &r.record, p)
	if err != nil {
		return nil, err
	}
	v := r.m.viewer(r.ctx)
	list := make([]Reason, len(all))
	for i, c := range all {
		list[i] = Reason{EndpointID: c.id, SettingsChanged: c.endpoint != nil && c.endpoint.UpdatedAt.After(r.record.Event.ReceivedAt)}
		if c.delivery == nil {
			list[i].Words = undelivered(&r.record, c.endpoint)
			continue
		}
		d, err := v.view(*c.delivery)
		if err != nil {
			return nil, err
		}
		list[i].Delivery, list[i].Words = &d, standing(d, c.endpoint)
	}
	return list, nil
}

// concerned is an endpoint that has a delivery of an event, or subscribes to its origin.
type concerned struct {
	id       kapsel.EndpointID
	endpoint *kapsel.Endpoint // nil: deleted
	delivery *kapsel.Delivery // the newest; nil: none
}

// concerned lists the endpoints that an event concerns, newest first. It reads all endpoints of
// the event's tenant.
func (m *Manager) concerned(ctx context.Context, r *store.EventRecord, p store.Page[kapsel.EndpointID]) ([]concerned, error) {
	origin := r.Event.Audience()
	deliveries := map[kapsel.EndpointID]*kapsel.Delivery{}
	for _, d := range r.Newest() {
		deliveries[d.EndpointID] = &d
	}
	var all []concerned
	for page := (store.Page[kapsel.EndpointID]{Limit: 200}); ; {
		endpoints, err := m.Store.ListEndpoints(ctx, r.Event.TenantID, r.Event.AppID, page)
		if err != nil {
			return nil, err
		}
		for i := range endpoints {
			e := &endpoints[i]
			if d := deliveries[e.ID]; d != nil || e.Subscribes(origin) {
				all = append(all, concerned{e.ID, e, d})
			}
			delete(deliveries, e.ID)
		}
		if len(endpoints) < page.Limit {
			break
		}
		page.Before = endpoints[len(endpoints)-1].ID
	}
	for id, d := range deliveries {
		all = append(all, concerned{id, nil, d})
	}
	slices.SortFunc(all, func(x, y concerned) int { return strings.Compare(y.id.String(), x.id.String()) })
	if !p.Before.IsZero() {
		all = slices.DeleteFunc(all, func(c concerned) bool { return c.id.String() >= p.Before.String() })
	}
	return all[:min(len(all), p.Limit)], nil
}

// undelivered returns why an endpoint that subscribes to an event's origin has no delivery of it.
func undelivered(r *store.EventRecord, e *kapsel.Endpoint) string {
	ev := &r.Event
	origin := ev.Audience()
	ofType := slices.ContainsFunc(e.Subscriptions, func(s kapsel.Subscription) bool {
		return s.Origin(e.Publisher()) == origin && s.Matches(ev.Type, s.Channels)
	})
	switch {
	case !e.Wants(origin, ev.Type, ev.Channels) && ofType:
		return "no delivery: its subscriptions name other channels"
	case !e.Wants(origin, ev.Type, ev.Channels):
		return "no delivery: its subscriptions name other types"
	case e.CreatedAt.After(ev.ReceivedAt):
		return "no delivery: the endpoint was made after the event came in; POST /replay with its id delivers the event to it"
	case r.Expanding:
		return "no delivery yet: the event goes to so many endpoints that some deliveries are still being made"
	case e.UpdatedAt.After(ev.ReceivedAt):
		return "no delivery: its subscriptions let the event through now, but were changed after it came in; POST /replay with its id delivers the event to it"
	}
	return "no delivery: the node that took the event did not know of the subscription yet; POST /replay with its id delivers the event to it"
}

// standing returns how a delivery ended, or what it waits for.
func standing(d Delivery, e *kapsel.Endpoint) string {
	ended := !d.FinishedAt.IsZero()
	switch {
	case e == nil && !ended:
		return "the endpoint is deleted, and the delivery will be canceled"
	case d.Status == kapsel.Delivering:
		return "an attempt is under way"
	case e == nil && d.Status == kapsel.Canceled:
		return "its endpoint is deleted, which cancels what waits"
	case ended:
		return endings[d.Status]
	case d.WaitingFor == "":
		return "it is due and starts at once"
	}
	words := waits[d.WaitingFor]
	if (d.WaitingFor == "retry" || d.WaitingFor == "scheduled") && !d.DueAt.IsZero() {
		words += " " + d.DueAt.UTC().Format(milliseconds)
	}
	return words
}

// milliseconds is how words and bodies show times: RFC 3339 with milliseconds.
const milliseconds = "2006-01-02T15:04:05.000Z07:00"

// endings are the ends of deliveries, and waits what pending ones wait for, in words.
var (
	endings = map[kapsel.DeliveryStatus]string{
		kapsel.Delivered:  "the destination answered 2xx",
		kapsel.Failed:     "the destination refused it; a replay delivers it again",
		kapsel.DeadLetter: "its attempts are used up; a replay delivers it again",
		kapsel.Canceled:   "a person canceled it; POST /replay with its id delivers the event again",
	}
	waits = map[string]string{
		"scheduled":   "the event was published with deliver_at, and is due at",
		"retry":       "an attempt failed, and the next one is at",
		"circuit":     "the destination fails, and the endpoint's circuit is open",
		"paused":      "the endpoint is paused; /resume makes it active",
		"disabled":    "the endpoint is disabled; /resume makes it active",
		"throttled":   "the destination asked for quiet (429 with Retry-After)",
		"rate":        "the endpoint's rate_limit lets it start later",
		"concurrency": "the endpoint has as many exchanges under way as it may",
		"worker":      "the workers are busy, or the endpoint's turn has not come",
	}
)
