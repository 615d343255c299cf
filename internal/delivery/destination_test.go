package delivery_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// to moves an endpoint to a destination.
func to(w *sim.World, ep *kapsel.Endpoint, d *sim.Destination) {
	w.Helper()
	w.Patch(ep, func(e *kapsel.Endpoint) { e.URL = d.URL() })
}

// allDelivered ends the test unless every delivery of the endpoint was delivered.
func allDelivered(t *testing.T, w *sim.World, ep *kapsel.Endpoint) {
	t.Helper()
	for _, d := range w.Deliveries(ep) {
		if d.Status != kapsel.Delivered {
			t.Errorf("a delivery is %s after %d attempts, due %v from now", d.Status, d.Attempts, time.Until(d.DueAt))
		}
	}
}

// TestDestination_Hold checks that a time that a destination asked for with Retry-After no longer
// holds once the endpoint has another destination, neither for the endpoint nor for the delivery
// that it put off.
func TestDestination_Hold(t *testing.T) {
	for _, status := range []int{429, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				former := w.Net.Destination("former.example", func(*sim.Request) sim.Answer {
					return sim.Answer{Status: status, Header: map[string][]string{"Retry-After": {"3600"}}}
				})
				ep := w.NewEndpoint(former, nil)
				p := w.Start()
				for range 3 {
					p.Event(ep, "x")
					w.Pass(100 * time.Millisecond)
				}
				w.Pass(5 * time.Minute)
				if n := former.Count(); n > 3 {
					t.Fatalf("%d requests, want none after the answers", n)
				}
				to(w, ep, w.Net.Destination("shop.example", sim.Always(200)))
				w.Pass(3 * time.Second)
				p.Event(ep, "y")
				w.Pass(3 * time.Second)
				allDelivered(t, w, ep)
				w.Pass(time.Minute)
				if e := w.Endpoint(ep); e.Replan != 0 {
					t.Error("the endpoint is still marked")
				}
				balanced(t, p)
			})
		})
	}
}

// TestDestination_SameWithAnotherQuery checks that a URL with another query is the same
// destination.
func TestDestination_SameWithAnotherQuery(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ask(429, seconds(600)))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		p.Event(ep, "x")
		w.Pass(time.Second)
		w.Patch(ep, func(e *kapsel.Endpoint) { e.URL += "?key=2" })
		p.Event(ep, "y")
		w.Pass(time.Minute)
		if n := d.Count(); n != 1 {
			t.Errorf("%d requests during the hold", n-1)
		}
		w.UntilDone(time.Hour)
		balanced(t, p)
	})
}

// TestDestination_Circuit checks that a new destination does not inherit the circuit of the former
// one, and begins with the exchanges at once that every new destination has earned.
func TestDestination_Circuit(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		former := w.Net.Destination("former.example", byBody)
		ep := w.NewEndpoint(former, slowly)
		p := w.Start()
		for range 20 {
			oneByOne(w, p, ep, "200")
		}
		w.Pass(61 * time.Second)
		oneByOne(w, p, ep, "500", "500", "500", "500", "500")
		if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened {
			t.Fatalf("the circuit is %s", got)
		}
		for range 10 {
			p.Event(ep, "200")
		}
		d := w.Net.Destination("shop.example", ends(time.Second))
		to(w, ep, d)
		w.Pass(10 * time.Second)
		requests := d.Requests()
		if len(requests) != 10 {
			t.Fatalf("%d requests, want 10", len(requests))
		}
		if gap := requests[2].At.Sub(requests[0].At); gap < time.Second {
			t.Errorf("the third exchange with a new destination came %v after the first, which takes 1s", gap)
		}
		if earned, _ := p.Engine.Earned(ep.Name); earned != 12 {
			t.Errorf("after 10 answers it has earned %d, want 12", earned)
		}
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}

// TestDestination_ExchangesUnderWay checks that exchanges with a former destination, however they
// end, change nothing that is known of the present one and do not take its places.
func TestDestination_ExchangesUnderWay(t *testing.T) {
	for name, answer := range map[string]sim.Answer{
		"no answer":   {Hang: true},
		"5xx":         {Status: 500, After: 5 * time.Second},
		"Retry-After": {Status: 429, After: 5 * time.Second, Header: map[string][]string{"Retry-After": {"3600"}}},
		"success":     {Status: 200, After: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				var slow atomic.Bool
				former := w.Net.Destination("former.example", func(*sim.Request) sim.Answer {
					if slow.Load() {
						return answer
					}
					return sim.Answer{Status: 200}
				})
				ep := w.NewEndpoint(former, func(e *kapsel.Endpoint) { e.Timeout = 10 * time.Second })
				p := w.Start()
				for range 20 {
					oneByOne(w, p, ep, "x")
				}
				slow.Store(true)
				for range 22 {
					p.Event(ep, "slow")
				}
				w.Pass(time.Second)
				if _, running := p.Engine.Earned(ep.Name); running != 22 {
					t.Fatalf("%d exchanges run", running)
				}
				d := w.Net.Destination("shop.example", sim.Always(200))
				to(w, ep, d)
				w.Pass(time.Second)
				next := p.Event(ep, "next")
				w.Pass(10 * time.Millisecond)
				if got := w.Delivery(next); got.Status != kapsel.Delivered {
					t.Errorf("while the former exchanges run the next delivery is %s", got.Status)
				}
				w.Pass(7 * time.Second) // answers have come
				if c := w.Circuit(ep); state(c) != kapsel.CircuitClosed || !c.HoldUntil.IsZero() {
					t.Errorf("the circuit is %+v", c)
				}
				w.Pass(30 * time.Second) // time-outs, too, and all was tried again
				if c := w.Circuit(ep); state(c) != kapsel.CircuitClosed || !c.HoldUntil.IsZero() {
					t.Errorf("later the circuit is %+v", c)
				}
				if earned, running := p.Engine.Earned(ep.Name); earned != 2+d.Count() || running != 0 {
					t.Errorf("after %d answers it has earned %d, and %d run", d.Count(), earned, running)
				}
				allDelivered(t, w, ep)
				balanced(t, p)
			})
		})
	}
}

// TestDestination_Back checks that an endpoint that returns to a former destination begins anew,
// and that exchanges begun earlier do not count.
func TestDestination_Back(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { slowly(e); e.Circuit.Failures = 2 })
		p := w.Start()
		oneByOne(w, p, ep, "200", "200", "200")
		for range 5 {
			p.Event(ep, "500 5")
		}
		w.Pass(time.Second)
		to(w, ep, w.Net.Destination("other.example", sim.Always(200)))
		to(w, ep, d) // no node has seen the one in between
		w.Pass(10 * time.Second)
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Errorf("the circuit is %s", got)
		}
		if earned, running := p.Engine.Earned(ep.Name); earned != 2 || running != 0 {
			t.Errorf("it has earned %d, and %d run", earned, running)
		}
		oneByOne(w, p, ep, "500", "500")
		if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened {
			t.Errorf("after failures of its own the circuit is %s", got)
		}
		d.Script(sim.Always(200))
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}

// TestDestination_StaleNode checks that a node that has not read the change yet goes on with the
// former destination, and that what it writes about that destination does not affect the present
// one.
func TestDestination_StaleNode(t *testing.T) {
	for _, bodies := range [][]string{
		{"500", "500", "500", "500", "500"}, // a circuit
		{"429"},                             // a hold
		{"410"},                             // gone
	} {
		for _, known := range []bool{false, true} { // whether there was a circuit before
			t.Run(fmt.Sprint(bodies[0], "/known=", known), func(t *testing.T) {
				in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
					var deaf atomic.Bool
					w.Wrap = func(_ *sim.Process, db store.Store) store.Store {
						return storetest.Faulty(db, func(method string) storetest.Fault {
							if deaf.Load() && method == "Settings" {
								return storetest.NotPersisted
							}
							return storetest.NoFault
						})
					}
					former := w.Net.Destination("former.example", func(r *sim.Request) sim.Answer {
						a := byBody(r)
						a.Header = map[string][]string{"Retry-After": {"600"}}
						return a
					})
					ep := w.NewEndpoint(former, slowly)
					p := w.Start()
					if known {
						p.Event(ep, "429")
						w.Pass(11 * time.Minute)
					}
					oneByOne(w, p, ep, "200")
					w.Pass(2 * time.Minute)
					deaf.Store(true)
					d := w.Net.Destination("shop.example", sim.Always(200))
					to(w, ep, d)
					oneByOne(w, p, ep, bodies...)
					w.Pass(2 * time.Second)
					if d.Count() > 0 {
						t.Fatal("the node knows of the change")
					}
					deaf.Store(false)
					w.Pass(3 * time.Second)
					id := p.Event(ep, "next")
					w.Pass(3 * time.Second)
					if got := w.Delivery(id); got.Status != kapsel.Delivered {
						t.Errorf("the next delivery is %s; circuit %+v", got.Status, w.Circuit(ep))
					}
					if e := w.Endpoint(ep); e.State != kapsel.EndpointActive {
						t.Errorf("the endpoint is %s (%s)", e.State, e.DisabledReason)
					}
					w.UntilDone(3 * time.Hour)
					balanced(t, p)
				})
			})
		}
	}
}

// TestDestination_Gone: an endpoint that is disabled because its destination is gone stays so
// until a person resumes it.
func TestDestination_Gone(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		ep := w.NewEndpoint(w.Net.Destination("gone.example", sim.Always(410)), nil)
		p := w.Start()
		p.Event(ep, "x")
		w.Pass(time.Second)
		d := w.Net.Destination("shop.example", sim.Always(200))
		to(w, ep, d)
		p.Event(ep, "y")
		w.Pass(time.Minute)
		if got := w.Endpoint(ep); got.State != kapsel.EndpointDisabled || d.Count() != 0 {
			t.Errorf("the endpoint is %s, with %d requests", got.State, d.Count())
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State, e.DisabledReason = kapsel.EndpointActive, "" })
		w.UntilDone(time.Minute)
		balanced(t, p)
	})
}

// TestPatch_RetryPlan checks that a shorter retry policy brings waiting deliveries forward and a
// longer one does not put them off, even if the process crashes right after the change.
func TestPatch_RetryPlan(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", sim.Always(500))
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { slowly(e); e.Circuit = never })
				p := w.Start()
				for range 20 {
					p.Event(ep, "x")
				}
				w.Pass(10 * time.Second)
				if n := d.Count(); n != 20 {
					t.Fatalf("%d requests, want 20", n)
				}
				d.Script(sim.Always(200))
				w.Patch(ep, func(e *kapsel.Endpoint) { e.Retry.Base, e.Retry.Max = 10*time.Hour, 10*time.Hour })
				w.Pass(20 * time.Second)
				w.Patch(ep, func(e *kapsel.Endpoint) { e.Retry.Base, e.Retry.Max = time.Minute, time.Minute })
				if killed {
					p.Kill()
					p = w.Start()
				}
				w.Pass(50 * time.Second) // 80 s after the attempts
				allDelivered(t, w, ep)
				balanced(t, p)
			})
		})
	}
}
