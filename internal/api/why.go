package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) why() {
	op := huma.Operation{
		OperationID: "get-why", Method: http.MethodGet, Path: "/v1/events/{id}/why", Tags: []string{"Events"},
		Summary: "Say of each endpoint that an event concerns what its delivery waits for, or why it has none",
	}
	add(a, access.Read, op, a.getWhy)
}

// EventReasons is the list of why an event is where it is.
type EventReasons struct {
	EventPath
	PageQuery
}

// Reason says why an endpoint has or has not received an event.
type Reason struct {
	EndpointID      kapsel.EndpointID  `json:"endpoint_id"`
	DeliveryID      *kapsel.DeliveryID `json:"delivery_id" nullable:"true" doc:"Its newest delivery of the event; null: there is none"`
	Status          *string            `json:"status" nullable:"true" doc:"Of the delivery"`
	WaitingFor      *string            `json:"waiting_for" nullable:"true" doc:"Of a delivery that is pending: scheduled, retry, circuit, paused, disabled, throttled, rate, concurrency, worker; null: nothing"`
	SettingsChanged bool               `json:"settings_changed" doc:"The endpoint was made or changed after the event came in; what is said is by its settings of now"`
	Reason          string             `json:"reason" doc:"In words"`
}

// concerned is an endpoint that has a delivery of an event, or subscribes to its origin.
type concerned struct {
	id       kapsel.EndpointID
	endpoint *kapsel.Endpoint // nil: deleted
	delivery *kapsel.Delivery // the newest; nil: none
}

func (a *api) getWhy(ctx context.Context, in *EventReasons) (*out[list[Reason]], error) {
	r, err := a.Store.Event(ctx, callerOf(ctx).Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	viewer := a.deliveryViewer(ctx)
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.EndpointID]) ([]concerned, error) { return a.concerned(ctx, &r, p) },
		func(c concerned) kapsel.EndpointID { return c.id },
		func(c concerned) (Reason, error) {
			reason := Reason{EndpointID: c.id, SettingsChanged: c.endpoint != nil && c.endpoint.UpdatedAt.After(r.Event.ReceivedAt)}
			if c.delivery == nil {
				reason.Reason = undelivered(&r, c.endpoint)
				return reason, nil
			}
			d, err := viewer.view(*c.delivery)
			if err != nil {
				return reason, err
			}
			reason.DeliveryID, reason.Status, reason.WaitingFor = &d.ID, &d.Status, d.WaitingFor
			reason.Reason = standing(d, c.endpoint)
			return reason, nil
		})
}

// concerned lists the endpoints that an event concerns, newest first. It reads all endpoints of
// the event's tenant.
func (a *api) concerned(ctx context.Context, r *store.EventRecord, p store.Page[kapsel.EndpointID]) ([]concerned, error) {
	origin := r.Event.Audience()
	deliveries := map[kapsel.EndpointID]*kapsel.Delivery{}
	for _, d := range r.Newest() {
		deliveries[d.EndpointID] = &d
	}
	var all []concerned
	for page := (store.Page[kapsel.EndpointID]{Limit: 200}); ; {
		endpoints, err := a.Store.ListEndpoints(ctx, r.Event.TenantID, r.Event.AppID, page)
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
	switch {
	case e == nil && d.FinishedAt == nil:
		return "the endpoint is deleted, and the delivery will be canceled"
	case d.Status == kapsel.Delivering.String():
		return "an attempt is under way"
	case e == nil && d.Status == kapsel.Canceled.String():
		return "its endpoint is deleted, which cancels what waits"
	case d.FinishedAt != nil:
		return endings[d.Status]
	case d.WaitingFor == nil:
		return "it is due and starts at once"
	}
	words := waits[*d.WaitingFor]
	if (*d.WaitingFor == "retry" || *d.WaitingFor == "scheduled") && d.NextAttemptAt != nil {
		at, _ := d.NextAttemptAt.MarshalText()
		words += " " + string(at)
	}
	return words
}

// endings are the ends of deliveries, and waits what pending ones wait for, in words.
var (
	endings = map[string]string{
		"delivered":   "the destination answered 2xx",
		"failed":      "the destination refused it; a replay delivers it again",
		"dead_letter": "its attempts are used up; a replay delivers it again",
		"canceled":    "a person canceled it; POST /replay with its id delivers the event again",
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
