package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// publishSlack is how many bytes a request to publish may have beside the bodies of its events.
const publishSlack = 64 << 10

// MaxPublish returns how many bytes a request to publish may have: enough for the longest body in
// base64, and publishSlack.
func (h *Handler) MaxPublish() int64 { return (h.MaxBody*4+2)/3 + publishSlack }

// Publish stores the events that a tenant publishes with one request, each with its deliveries to the
// endpoints that subscribe to it. The checks come in ingest's order: stopping → Content-Length → room →
// body → rate (a token for each event) → app → catalogue → quota → key → store. The events share a group
// commit, but each succeeds or fails by itself. If Publish returns an error, nothing was stored.
//
// read returns the publications in the body of the request, at least one. Before it copies n bytes it
// calls reserve(n), and returns the error of reserve. It fails if the body is not valid.
func (h *Handler) Publish(w http.ResponseWriter, r *http.Request, tenant kapsel.TenantID, read func(body []byte, reserve func(n int) error) ([]kapsel.Publication, error)) ([]kapsel.Published, error) {
	// The events are stored even if the client hangs up.
	ctx := context.WithoutCancel(r.Context())
	t, err := h.Settings.Tenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	limits := t.Effective()
	rate := h.rate(t.ID, limits)
	rate.tell(w)
	most := h.MaxPublish()
	if r.ContentLength > most {
		return nil, tooLarge(most)
	}
	room, err := h.enter(r)
	if err != nil {
		return nil, err
	}
	defer room.leave()
	body, err := room.read(w, r, most)
	if err != nil {
		return nil, err
	}
	publications, err := read(body, room.more)
	if err != nil {
		return nil, err
	}
	if !h.current.Load() {
		if err := h.Store.Current(ctx, h.Clock.Now()); err != nil {
			return nil, err
		}
		h.current.Store(true)
	}
	if err := room.seat(len(publications)); err != nil {
		return nil, err
	}
	if err := rate.take(w, len(publications)); err != nil {
		return nil, err
	}
	return h.publishAll(ctx, t.ID, limits, publications, room, r.Header.Get("Traceparent")), nil
}

// publishAll publishes events at the same time, so that they can share a commit. If several have the
// same key, it publishes the first, and returns the others as its duplicates.
func (h *Handler) publishAll(ctx context.Context, tenant kapsel.TenantID, limits kapsel.Limits, publications []kapsel.Publication, room *room, trace string) []kapsel.Published {
	type key struct {
		scope kapsel.OriginID
		id    string
	}
	first := make(map[key]int, len(publications))
	repeats := make(map[int]int) // publication → the earlier one with the same key
	results := make([]kapsel.Published, len(publications))
	now := h.Clock.Now()
	var running sync.WaitGroup
	for i := range publications {
		p := &publications[i]
		// The key of a publication that is refused does not count: a later one with it is no duplicate.
		if int64(len(p.Body)) > h.MaxBody {
			results[i] = kapsel.Published{Err: tooLarge(h.MaxBody)}
			continue
		}
		app, err := h.app(ctx, tenant, p.App)
		if err != nil {
			results[i] = kapsel.Published{Err: err}
			continue
		}
		ev := p.Event(tenant, app, now)
		k := key{ev.KeyScope(), p.ID}
		if original, known := first[k]; known && !p.DryRun {
			repeats[i] = original
			continue
		}
		held := room.held
		warnings, err := h.catalogue(&ev, limits.ClosedCatalogue, room.more)
		room.shrink(held)
		if err != nil {
			results[i] = h.refusedOr(ctx, &ev, err)
			continue
		}
		if p.ID != "" && !p.DryRun {
			first[k] = i
		}
		publish := func() {
			if results[i] = h.publish(ctx, ev, limits.EventsPerMonth, p.DryRun, trace); results[i].Err == nil && !results[i].Duplicate {
				results[i].Warnings = warnings
			}
		}
		if len(publications) == 1 {
			publish()
		} else {
			running.Go(publish)
		}
	}
	running.Wait()
	for i, original := range repeats {
		if results[i].Err = results[original].Err; results[i].Err == nil {
			results[i] = duplicate(results[original].Event.ID)
		}
	}
	return results
}

// app returns the app that an event is published to, zero for none, and takes a token of the app's rate.
// It fails if the tenant has no such app, the app's rate is used up, or the store cannot be read.
func (h *Handler) app(ctx context.Context, tenant kapsel.TenantID, ref string) (kapsel.AppID, error) {
	if ref == "" {
		return kapsel.AppID{}, nil
	}
	app, err := h.Settings.App(ctx, tenant, ref)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		err = kapsel.NoApp("app")
	}
	if err != nil {
		return kapsel.AppID{}, err
	}
	if l := app.RateLimit; l != nil {
		_, _, err = h.rateOf(kapsel.OriginID(app.ID), l.PerSecond, l.Burst, "events are published to the app faster than its rate_limit; slow down").allow(1)
	}
	return app.ID, err
}

// publish publishes one event. A panic becomes the event's error, so that it affects no other event.
func (h *Handler) publish(ctx context.Context, ev kapsel.Event, limit *int64, dryRun bool, trace string) (p kapsel.Published) {
	defer func() {
		if r := recover(); r != nil {
			p = kapsel.Published{Err: fmt.Errorf("panic: %v\n%s", r, debug.Stack())}
		}
	}()
	to := h.Settings.Subscribers(ev.Audience(), ev.Type, ev.Channels)
	if dryRun {
		ev.ID = kapsel.EventID{}
		some := to[:min(len(to), kapsel.MaxInline)]
		return kapsel.Published{Event: ev, Deliveries: firstDeliveries(&ev, some), Others: len(to) - len(some)}
	}
	place, err := h.quotas.take(ctx, ev.TenantID, limit)
	if err != nil {
		return h.refusedOr(ctx, &ev, err)
	}
	defer place.leave()
	var endSpan func(error, ...slog.Attr)
	ev.TraceParent, endSpan = telemetry.Span(trace, "publish")
	accepted, deliveries, err := h.accept(ctx, store.Acceptance{Event: ev, Window: kapsel.PublishedKept}, to)
	place.settle(accepted, err)
	endSpan(err, slog.Any("event_id", ev.ID))
	if err == nil && accepted.Duplicate {
		return duplicate(accepted.EventID)
	}
	if err != nil {
		return kapsel.Published{Err: err}
	}
	return kapsel.Published{Event: ev, Deliveries: deliveries, Others: len(to) - len(deliveries)}
}

// duplicate returns the outcome of a publication with the key of an earlier event.
func duplicate(id kapsel.EventID) kapsel.Published {
	return kapsel.Published{Event: kapsel.Event{ID: id}, Duplicate: true}
}

// seat takes places for all events of a request. It fails if too many requests wait for the store. A
// request always gets its places while no other one waits.
func (m *room) seat(events int) error {
	more := int64(events) - m.places
	if n := m.h.waiting.Add(more); n > int64(m.h.Capacity) && n > int64(events) {
		m.h.waiting.Add(-more)
		return full("too many requests wait for the database; try again")
	}
	m.places += more
	return nil
}
