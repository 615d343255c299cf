package delivery_test

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// TestScheduled checks that a scheduled event's deliveries start when they are due, at each
// endpoint, whatever happens to the endpoint and to the process meanwhile.
func TestScheduled(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		published := func(e *kapsel.Endpoint) {
			e.NoIngest, e.Subscriptions = true, []kapsel.Subscription{{Source: kapsel.Publish}}
		}
		shop, flaky := w.Net.Destination("shop.example", sim.Always(200)), w.Net.Destination("flaky.example", func() func(*sim.Request) sim.Answer {
			n := 0
			return func(*sim.Request) sim.Answer {
				if n++; n == 1 {
					return sim.Answer{Status: 503}
				}
				return sim.Answer{Status: 200}
			}
		}())
		one, other := w.NewEndpoint(shop, published), w.NewEndpoint(flaky, published)
		p := w.Start()
		w.Pass(obeyed)
		start := time.Now()
		at := start.Add(time.Hour)
		p.Publish(kapsel.Publication{Type: "a", Body: []byte("later"), DeliverAt: at})
		p.Publish(kapsel.Publication{Type: "a", Body: []byte("at once"), DeliverAt: start.Add(-time.Hour)})
		w.Pass(time.Minute)
		if shop.Count() != 1 || flaky.Count() != 2 { // the second of them is a retry
			t.Fatalf("%d and %d requests, want those of the event that is due", shop.Count(), flaky.Count())
		}

		// None of this moves what is scheduled.
		w.Patch(one, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		w.Patch(other, func(e *kapsel.Endpoint) { e.Retry.Base, e.Retry.Max = time.Second, time.Second })
		w.Pass(time.Minute)
		w.Patch(one, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.Patch(other, func(e *kapsel.Endpoint) { e.URL += "?" })
		w.Pass(time.Minute)
		p.Stop()
		p = w.Start()
		w.Pass(10 * time.Minute)
		p.Kill()
		p = w.Start()
		w.Pass(time.Until(at) - time.Second)
		if shop.Count() != 1 || flaky.Count() != 2 {
			t.Fatalf("%d and %d requests before it is due", shop.Count(), flaky.Count())
		}
		w.Patch(one, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		w.Pass(time.Minute)
		w.Patch(one, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.Pass(time.Minute)
		if n := shop.Count(); n != 2 {
			t.Errorf("the paused endpoint got %d requests once it was active, want the second", n)
		}
		requests := flaky.Requests()
		if len(requests) != 3 || requests[2].At.Before(at) || requests[2].At.After(at.Add(late)) || string(requests[2].Body) != "later" {
			t.Errorf("the other endpoint got %d requests, the last at %v; want it at %v", len(requests), requests[len(requests)-1].At, at)
		}
		balanced(t, p)
	})
}

// TestScheduled_WaitsFor checks that a delivery waits only for its schedule until it is due the
// first time.
func TestScheduled_WaitsFor(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(503))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			e.NoIngest, e.Subscriptions, e.Circuit = true, []kapsel.Subscription{{Source: kapsel.Publish}}, never
		})
		p := w.Start()
		w.Pass(obeyed)
		id := p.Publish(kapsel.Publication{Type: "a", DeliverAt: time.Now().Add(time.Hour)})
		why := func() string { e := w.Endpoint(ep); return p.Engine.Why(&e, w.Delivery(id)) }
		if got := why(); got != "scheduled" {
			t.Errorf("it waits for %q", got)
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		w.Pass(obeyed)
		if got := why(); got != "scheduled" {
			t.Errorf("at a paused endpoint it waits for %q", got)
		}
		w.Pass(time.Hour)
		if got := why(); got != "paused" {
			t.Errorf("due at a paused endpoint it waits for %q", got)
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.Pass(obeyed + 100*time.Millisecond)
		if got := why(); got != "retry" || d.Count() != 1 {
			t.Errorf("after %d requests it waits for %q", d.Count(), got)
		}
	})
}
