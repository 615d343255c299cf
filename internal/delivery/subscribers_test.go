package delivery_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// TestSubscribers checks that an event goes to the endpoint of its ingest URL and to all endpoints
// that subscribe to it, each with retries, a circuit and a pause of its own, and no longer to an
// endpoint that has unsubscribed.
func TestSubscribers(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		own := w.Net.Destination("own.example", sim.Always(200))
		good := w.Net.Destination("good.example", sim.Always(204))
		flaky := w.Net.Destination("flaky.example", sim.Always(503))
		later := w.Net.Destination("later.example", sim.Always(200))
		source := w.NewEndpoint(own, nil)
		to := func(e *kapsel.Endpoint) {
			e.Subscriptions, e.NoIngest = []kapsel.Subscription{{Source: source.ID.String()}}, true
		}
		w.NewEndpoint(good, to)
		w.NewEndpoint(flaky, func(e *kapsel.Endpoint) { to(e); e.Retry.MaxAttempts = 3 })
		paused := w.NewEndpoint(later, func(e *kapsel.Endpoint) { to(e); e.State = kapsel.EndpointPaused })
		p := w.Start()
		w.Pass(obeyed)

		p.Event(source, "first")
		w.Pass(time.Minute)
		for d, want := range map[*sim.Destination]int{own: 1, good: 1, flaky: 3, later: 0} {
			if d.Count() != want {
				t.Errorf("%s got %d requests, want %d", d.Host, d.Count(), want)
			}
		}
		w.Patch(paused, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive; e.Subscriptions = nil })
		w.Pass(obeyed)
		p.Event(source, "second")
		w.Pass(time.Minute)
		if got := later.Requests(); len(got) != 1 || string(got[0].Body) != "first" {
			t.Errorf("what was paused, and then left, got %d requests, want the first event", len(got))
		}
		ids := map[string]bool{}
		for _, d := range []*sim.Destination{own, good} {
			for _, r := range d.Requests() {
				ids[r.Header.Get("X-Kapsel-Event-Id")] = true
				if via := r.Header.Get("X-Kapsel-Via"); via != (kapsel.InstanceID{}).Mark(source.ID) {
					t.Errorf("X-Kapsel-Via is %q", via)
				}
			}
		}
		if len(ids) != 2 {
			t.Errorf("two events have the ids %v", ids)
		}
	})
}

// TestSubscribers_Die checks that no delivery of an event is lost if the process ends with
// exchanges under way.
func TestSubscribers_Die(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		var all []*sim.Destination
		source := w.NewEndpoint(w.Net.Destination("own.example", sim.Always(200)), nil)
		for _, name := range []string{"a.example", "b.example", "c.example"} {
			d := w.Net.Destination(name, func(*sim.Request) sim.Answer {
				return sim.Answer{After: 5 * time.Second, Status: 200}
			})
			all = append(all, d)
			w.NewEndpoint(d, func(e *kapsel.Endpoint) {
				e.Subscriptions, e.NoIngest = []kapsel.Subscription{{Source: source.ID.String()}}, true
			})
		}
		p := w.Start()
		w.Pass(obeyed)
		p.Event(source, "x")
		w.Pass(time.Second)
		p.Kill()
		w.Start()
		w.UntilDone(10 * time.Minute)
		for _, d := range all {
			if !slices.ContainsFunc(d.Requests(), func(r *sim.Request) bool { return r.Answered == 200 }) {
				t.Errorf("%s has not got the event", d.Host)
			}
		}
	})
}
