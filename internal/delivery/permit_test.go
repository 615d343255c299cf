package delivery_test

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// permits takes permits until there is none, and returns them unused.
func permits(p *sim.Process, size int, endpoints ...*kapsel.Endpoint) (n int) {
	var all []*delivery.Permit
	for _, ep := range endpoints {
		for {
			permit := p.Engine.Permits([]*kapsel.Endpoint{ep}, ep.Part, size)[0]
			if permit == nil {
				break
			}
			all = append(all, permit)
		}
	}
	for _, permit := range all {
		p.Engine.Return(permit, true)
	}
	return len(all)
}

// TestPermit checks what a delivery needs to be sent without waiting in the store.
func TestPermit(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(e *kapsel.Endpoint)
		before func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint)
		size   int
		want   int
	}{
		{"a new endpoint has earned two", nil, nil, 1, 2},
		{"its own concurrency is one", func(e *kapsel.Endpoint) { e.Concurrency = 1 }, nil, 1, 1},
		{"one runs", nil, func(_ *sim.World, p *sim.Process, ep *kapsel.Endpoint) { p.Event(ep, "hang") }, 1, 1},
		{"two run", nil, func(_ *sim.World, p *sim.Process, ep *kapsel.Endpoint) { p.Event(ep, "hang"); p.Event(ep, "hang") }, 1, 0},
		{"paused", func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused }, nil, 1, 0},
		{"disabled", func(e *kapsel.Endpoint) { e.State = kapsel.EndpointDisabled }, nil, 1, 0},
		{"older work waits", nil, func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint) { p.Engine.Waiting(ep, p.Clock.Now()) }, 1, 1},
		{"older work waits for the only place", func(e *kapsel.Endpoint) { e.Concurrency = 1 },
			func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint) { p.Engine.Waiting(ep, p.Clock.Now()) }, 1, 0},
		{"work waits that is not due", nil, func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint) {
			p.Engine.Waiting(ep, p.Clock.Now().Add(time.Second))
		}, 1, 2},
		{"the rate is used up", func(e *kapsel.Endpoint) { e.RateLimit = &kapsel.RateLimit{PerSecond: 1, Burst: 1} },
			func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint) { p.Event(ep, "200"); w.Pass(time.Millisecond) }, 1, 0},
		{"the memory is used up", nil, nil, 600 << 10, 1},
		{"the memory is used up by another", nil, func(w *sim.World, p *sim.Process, _ *kapsel.Endpoint) {
			other := w.NewEndpoint(w.Net.Destination("other.example", byBody), nil)
			p.Event(other, "200 9 "+string(make([]byte, 800<<10)))
		}, 300 << 10, 0},
		{"the circuit is open", nil, func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint) {
			oneByOne(w, p, ep, "500", "500", "500", "500", "500")
		}, 1, 0},
		{"the destination asked for quiet", nil, func(w *sim.World, p *sim.Process, ep *kapsel.Endpoint) {
			oneByOne(w, p, ep, "429")
		}, 1, 0},
		{"the process stops", nil, func(_ *sim.World, p *sim.Process, _ *kapsel.Endpoint) { p.Stop() }, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{Workers: 8, Memory: 2 << 20}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
					if string(r.Body) == "hang" {
						return sim.Answer{Hang: true}
					}
					a := byBody(r)
					if a.Status == 429 {
						a.Header = map[string][]string{"Retry-After": {"60"}}
					}
					return a
				})
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
					slowly(e)
					if test.change != nil {
						test.change(e)
					}
				})
				p := w.Start()
				w.Pass(time.Second)
				if test.before != nil {
					test.before(w, p, ep)
				}
				if got := permits(p, test.size, ep); got != test.want {
					t.Errorf("%d permits, want %d", got, test.want)
				}
			})
		})
	}
}

// TestPermit_Workers: the node holds at most twice its workers, and while older work waits
// for a worker, permits leave it a quarter of them.
func TestPermit_Workers(t *testing.T) {
	for _, test := range []struct{ older, want int }{{0, 16}, {8, 8}, {9, 6}} {
		in(t, sim.Options{Workers: 8}, func(t *testing.T, w *sim.World) {
			hangs := w.Net.Destination("old.example", func(*sim.Request) sim.Answer { return sim.Answer{Hang: true} })
			d := w.Net.Destination("shop.example", sim.Always(200))
			var fresh, old []*kapsel.Endpoint
			for range 20 {
				fresh = append(fresh, w.NewEndpoint(d, nil))
			}
			for range test.older {
				old = append(old, w.NewEndpoint(hangs, nil))
			}
			p := w.Start()
			backlog(w, p, 1, old...)
			w.Pass(5 * time.Second)
			if got := permits(p, 1, fresh...); got != test.want {
				t.Errorf("with %d older exchanges %d permits, want %d", test.older, got, test.want)
			}
		})
	}
}
