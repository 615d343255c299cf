package ingest

import (
	"context"
	"log/slog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// destinations returns the endpoints that get an event: own, the endpoint whose ingest it came in
// at (nil if it came in elsewhere), and those with a subscription that matches. Callers must not
// change the result.
func (h *Handler) destinations(ev *kapsel.Event, own *kapsel.Endpoint) []*kapsel.Endpoint {
	others := h.Settings.Subscribers(ev.Origin(), ev.Type, ev.Channels)
	if own == nil {
		return others
	}
	to := make([]*kapsel.Endpoint, 0, 1+len(others))
	return append(append(to, own), others...)
}

// accept stores an event with one delivery to each of the endpoints to, and returns the
// deliveries. If there are more than MaxInline, accept stores and returns the first of them, and
// leaves the others to an expansion. Callers must pass in without deliveries. If the engine has a
// permit for a delivery, this node holds the delivery from the start and sends it as soon as it is
// committed; the other deliveries wait in the store, as all deliveries of a scheduled event do. If
// the event is a duplicate, accept returns no deliveries.
func (h *Handler) accept(ctx context.Context, in store.Acceptance, to []*kapsel.Endpoint) (store.Accepted, []kapsel.Delivery, error) {
	ev := &in.Event
	if len(to) > kapsel.MaxInline {
		to = to[:kapsel.MaxInline]
		in.ExpandAfter = to[len(to)-1].ID
	}
	var permits []*delivery.Permit // nil: none
	if !ev.FirstDue(ev.ReceivedAt).After(ev.ReceivedAt) {
		permits = h.Engine.Permits(to, ev.ID.Part(), ev.Size)
	}
	confirmed := false // stays false if the store panics; the deferred call returns the permits all the same
	defer func() {
		for _, p := range permits {
			if p != nil {
				h.Engine.Return(p, confirmed)
			}
		}
	}()
	in.Deliveries = firstDeliveries(ev, to)
	for i, p := range permits {
		if p == nil {
			continue
		}
		d := &in.Deliveries[i]
		var err error
		if *d, err = d.After(kapsel.Claim{Node: p.Node, Token: p.Token}, ev.ReceivedAt); err != nil {
			return store.Accepted{}, nil, err
		}
	}
	_, endSpan := telemetry.Span(ev.TraceParent, "commit")
	accepted, err := h.Store.Accept(ctx, in)
	endSpan(err, slog.Any("event_id", ev.ID))
	confirmed = err == nil || kapsel.CodeOf(err) != kapsel.DatabaseUnavailable
	if err != nil || accepted.Duplicate {
		return accepted, nil, err
	}
	for i, dest := range to {
		if permits == nil || permits[i] == nil {
			h.Engine.Waiting(dest, in.Deliveries[i].DueAt)
			continue
		}
		h.Engine.HandOver(permits[i], in.Deliveries[i], *ev)
		permits[i] = nil
	}
	if !in.ExpandAfter.IsZero() && h.Opened != nil {
		h.Opened()
	}
	return accepted, in.Deliveries, nil
}

// firstDeliveries returns the first deliveries of an event, pending, in the order of the endpoints
// to. They are due at once, or when the event says.
func firstDeliveries(ev *kapsel.Event, to []*kapsel.Endpoint) []kapsel.Delivery {
	deliveries, due := make([]kapsel.Delivery, len(to)), ev.FirstDue(ev.ReceivedAt)
	for i, dest := range to {
		deliveries[i] = kapsel.Delivery{
			ID: kapsel.NewDeliveryID(ev.ReceivedAt, ev.ID.Part()), EventID: ev.ID, EndpointID: dest.ID, TenantID: ev.TenantID,
			Status: kapsel.Pending, DueAt: due, Size: ev.Size, CreatedAt: ev.ReceivedAt,
		}
	}
	return deliveries
}

// redeliver makes new deliveries of an event that was sent again after deliveries of it had
// failed. If a person makes a provider send an event once more, the provider keeps the ID, and the
// person expects a new delivery.
func (h *Handler) redeliver(ctx context.Context, id kapsel.EventID) error {
	for {
		made, err := h.Store.Redeliver(ctx, id, h.Clock.Now())
		for _, d := range made {
			h.Engine.Due(d)
		}
		if err != nil || len(made) < kapsel.MaxInline {
			return err
		}
	}
}
