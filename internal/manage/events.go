package manage

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// EventDetail is an event with its deliveries, oldest first.
type EventDetail struct {
	store.EventRecord
	Described []Delivery
}

// ListEvents returns a page of the events that pass a filter, newest first: of one tenant, or of all for
// an admin who names none. f.Shared is found here. For reached see store.Archive.
func (m *Manager) ListEvents(ctx context.Context, c access.Caller, tenant kapsel.TenantID, f store.EventFilter, p store.Page[kapsel.EventID]) (page []store.EventRecord, reached kapsel.EventID, err error) {
	if err := c.Check(access.Read); err != nil {
		return nil, reached, err
	}
	if f.Status != "" && !f.EndpointID.IsZero() {
		e, err := m.Store.Endpoint(ctx, c.TenantOr(tenant), f.EndpointID)
		if err != nil && !missing(err) {
			return nil, reached, err
		}
		f.Shared = err != nil || e.Shared // of a deleted endpoint it is not known any more
	}
	return m.Store.ListEvents(ctx, c.TenantOr(tenant), f, p)
}

// Event returns an event without its body, with its deliveries.
func (m *Manager) Event(ctx context.Context, c access.Caller, id kapsel.EventID) (EventDetail, error) {
	r, err := m.event(ctx, c, id)
	if err != nil {
		return EventDetail{}, err
	}
	described, err := m.viewer(ctx).all(r.Deliveries)
	return EventDetail{r, described}, err
}

// Payload returns an event with its body, whose memory it charges to Config.Bodies until ctx ends: callers
// must pass the context of the request that they answer with the body. The error is QueueFull if there is no
// memory for the body now, and NotFound if the contents of the event were erased.
func (m *Manager) Payload(ctx context.Context, c access.Caller, id kapsel.EventID) (kapsel.Event, error) {
	head, err := m.event(ctx, c, id)
	if err != nil {
		return kapsel.Event{}, err
	}
	if at := head.Event.ErasedAt; !at.IsZero() {
		return kapsel.Event{}, &kapsel.Error{
			Code: kapsel.NotFound, Status: http.StatusGone,
			Detail: fmt.Sprintf("the contents of the event were erased at %s; its ids, times and outcomes are kept", at.UTC().Format(time.RFC3339)),
		}
	}
	if err := m.hold(ctx, int64(head.Event.Size)); err != nil {
		return kapsel.Event{}, err
	}
	r, err := m.Store.Event(ctx, c.Tenant, id)
	return r.Event, err
}

// EraseEvent erases the contents of an event for ever: its body, headers and query, its salt in the audit log,
// what its attempts keep of requests and answers, and the texts of their leaves. Of an event that was erased
// it does nothing. Conflict: a delivery of the event has not ended.
func (m *Manager) EraseEvent(ctx context.Context, c access.Caller, id kapsel.EventID) (EventDetail, error) {
	if err := c.Check(access.Write); err != nil {
		return EventDetail{}, err
	}
	if _, err := m.by(c, "erase").EraseEvent(ctx, c.Tenant, id, m.Clock()); err != nil {
		return EventDetail{}, err
	}
	return m.Event(ctx, c, id)
}

// event returns the record of an event that the caller sees, without its body.
func (m *Manager) event(ctx context.Context, c access.Caller, id kapsel.EventID) (store.EventRecord, error) {
	if err := c.Check(access.Read); err != nil {
		return store.EventRecord{}, err
	}
	return m.Store.EventHead(ctx, c.Tenant, id)
}

// hold charges n bytes to Bodies until ctx ends.
func (m *Manager) hold(ctx context.Context, n int64) error {
	if m.Bodies == nil || n == 0 {
		return nil
	}
	release, ok := m.Bodies.Read(n)
	if !ok {
		return &kapsel.Error{Code: kapsel.QueueFull, Detail: "the node has no memory for another payload (KAPSEL_BODY_MEMORY); try again", RetryAfter: time.Second}
	}
	context.AfterFunc(ctx, release)
	return nil
}

// ReplayEvent delivers an event again: to one endpoint, which need not have had it; or without an endpoint
// to the only one that it went to, or where it failed. If there are several of these, ReplayEvent returns an
// InvalidRequest.
func (m *Manager) ReplayEvent(ctx context.Context, c access.Caller, id kapsel.EventID, endpoint *kapsel.EndpointID) (Delivery, error) {
	if err := c.Check(access.Write); err != nil {
		return Delivery{}, err
	}
	d, err := m.again(ctx, c, id, endpoint)
	if err != nil {
		return Delivery{}, err
	}
	m.Due(d)
	return m.viewer(ctx).view(d)
}

func (m *Manager) again(ctx context.Context, c access.Caller, id kapsel.EventID, endpoint *kapsel.EndpointID) (kapsel.Delivery, error) {
	by := m.by(c, "replay")
	if endpoint == nil {
		return by.Replay(ctx, c.Tenant, id, kapsel.DeliveryID{}, m.Clock())
	}
	r, err := m.Store.EventHead(ctx, c.Tenant, id)
	if err != nil {
		return kapsel.Delivery{}, err
	}
	newest := r.Newest()
	if i := slices.IndexFunc(newest, func(d kapsel.Delivery) bool { return d.EndpointID == *endpoint }); i >= 0 {
		return by.Replay(ctx, c.Tenant, id, newest[i].ID, m.Clock())
	}
	if err := m.owns(ctx, r.Event.TenantID, *endpoint); err != nil { // the store would say no more than that something is missing
		return kapsel.Delivery{}, err
	}
	return by.Deliver(ctx, c.Tenant, id, *endpoint, m.Clock())
}

// owns refuses a request that names an endpoint which the tenant does not have.
func (m *Manager) owns(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) error {
	_, err := m.Store.Endpoint(ctx, tenant, id)
	if missing(err) {
		return refused("endpoint_id", "is no endpoint of the tenant")
	}
	return err
}

// CancelEvent cancels an event's pending deliveries, and those that are not made yet; only that to one
// endpoint, unless to is zero. One that starts meanwhile goes on. It returns Conflict if there is none.
func (m *Manager) CancelEvent(ctx context.Context, c access.Caller, id kapsel.EventID, to kapsel.EndpointID) (EventDetail, error) {
	if err := c.Check(access.Write); err != nil {
		return EventDetail{}, err
	}
	canceled, ended, err := m.by(c, "cancel").CancelEvent(ctx, c.Tenant, id, to, m.Clock())
	if err != nil {
		return EventDetail{}, err
	}
	if canceled == 0 && !ended {
		return EventDetail{}, kapsel.Errorf(kapsel.Conflict, "the event has no delivery that is pending; only such a one can be canceled")
	}
	return m.Event(ctx, c, id)
}

// TestEndpoint makes an event of our own for an endpoint. It goes the way of every other event that has to
// wait: it is stored, and a node claims its delivery, this one at once if it can. TestEndpoint returns
// Conflict while the endpoint sends nothing, with what the event would wait for.
func (m *Manager) TestEndpoint(ctx context.Context, c access.Caller, id kapsel.EndpointID) (store.EventRecord, error) {
	e, err := m.endpoint(ctx, c, access.Write, id)
	if err != nil {
		return store.EventRecord{}, err
	}
	if err := m.sendsNow(ctx, &e); err != nil {
		return store.EventRecord{}, err
	}
	now := m.Clock()
	made := kapsel.NewEventID(now, e.Part)
	body := fmt.Appendf(nil, `{"type":"kapsel.test","id":%q,"endpoint_id":%q,"sent_at":%q}`, made, e.ID, now.UTC().Format(milliseconds))
	event := kapsel.Event{
		ID: made, TenantID: e.TenantID, EndpointID: e.ID, AppID: e.AppID, ReceivedAt: now, ContentType: "application/json", Salt: kapsel.NewSalt(),
		Header: kapsel.Header{{Name: "Content-Type", Value: "application/json"}}, Body: body, Size: len(body),
		Signature: kapsel.SignatureVerdict{Scheme: signature.None},
	}
	delivery := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, e.Part), EventID: made, EndpointID: e.ID, TenantID: e.TenantID, Status: kapsel.Pending, DueAt: now, Size: len(body), CreatedAt: now,
	}
	record := store.EventRecord{Event: event, Deliveries: []kapsel.Delivery{delivery}}
	author := m.author(c, "test")
	change, _ := author.Change(store.Seen{}, author.Made(e.TenantID, kapsel.KindEndpoint, e.ID, e.Name, &delivery))
	if _, err := m.Store.Accept(ctx, store.Acceptance{Event: event, Deliveries: record.Deliveries, Change: &change}); err != nil {
		return store.EventRecord{}, err
	}
	m.Due(delivery)
	return record, nil
}
