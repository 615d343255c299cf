package delivery_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// slowly retries so late that only what a test posts is on the wire.
func slowly(e *kapsel.Endpoint) {
	e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 100, Base: 20 * time.Minute, Max: 20 * time.Minute}
}

// byBody answers as the body says: a status, after "after" seconds.
func byBody(r *sim.Request) sim.Answer {
	var status, after int
	fmt.Sscanf(string(r.Body), "%d %d", &status, &after)
	return sim.Answer{Status: status, After: time.Duration(after) * time.Second}
}

// oneByOne posts events with these bodies, each after the one before has ended.
func oneByOne(w *sim.World, p *sim.Process, ep *kapsel.Endpoint, bodies ...string) {
	for _, b := range bodies {
		p.Event(ep, b)
		w.Pass(5 * time.Millisecond) // a commit waits for others for less
	}
}

func state(c kapsel.Circuit) kapsel.CircuitState {
	if c.State == "" {
		return kapsel.CircuitClosed
	}
	return c.State
}

func TestCircuit_OpensAndCloses(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(500))
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		oneByOne(w, p, ep, "1", "2", "3", "4")
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Fatalf("after 4 failures the circuit is %s", got)
		}
		oneByOne(w, p, ep, "5")
		opened := time.Now()
		if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened {
			t.Fatalf("after 5 failures the circuit is %s", got)
		}

		// While it is open nothing starts, and what waits uses up no attempts.
		var waiting []kapsel.EventID
		for range 20 {
			waiting = append(waiting, p.Event(ep, "x"))
			w.Pass(time.Millisecond)
		}
		w.Pass(29 * time.Second)
		if n := d.Count(); n != 5 {
			t.Fatalf("%d requests while the circuit is open", n-5)
		}
		for _, id := range waiting {
			if got := w.Delivery(id); got.Status != kapsel.Pending || got.Attempts != 0 {
				t.Fatalf("a waiting delivery is %+v", got)
			}
			if why := p.Engine.Why(ep, w.Delivery(id)); why != "circuit" {
				t.Fatalf("it waits for %q, want circuit", why)
			}
		}

		// Then one probe every 30 s, which carries one attempt.
		w.Pass(2*time.Minute + 2*time.Second)
		requests := d.Requests()[5:]
		if len(requests) != 5 {
			t.Fatalf("%d probes in two and a half minutes, want 5", len(requests))
		}
		for i, r := range requests {
			after := r.At.Sub(opened)
			if want := time.Duration(i+1) * 30 * time.Second; after < want-10*time.Millisecond || after > want+time.Duration(i+1)*100*time.Millisecond {
				t.Errorf("probe %d came %v after the circuit opened", i+1, after)
			}
		}

		// Three successes close it, first one and then two at a time; the backlog follows.
		d.Script(func(r *sim.Request) sim.Answer { return sim.Answer{Status: 200, After: time.Second} })
		before := d.Count()
		w.Until("three probes were answered", time.Minute, 100*time.Millisecond, func() bool { return state(w.Circuit(ep)) == kapsel.CircuitClosed })
		first, second, third := d.Requests()[before], d.Requests()[before+1], d.Requests()[before+2]
		if gap := second.At.Sub(first.At); gap < time.Second {
			t.Errorf("the second probe came %v after the first: not one at a time", gap)
		}
		if gap := third.At.Sub(second.At); gap > 900*time.Millisecond {
			t.Errorf("the third probe came %v after the second: not two at a time", gap)
		}
		w.Pass(time.Minute)
		for _, id := range waiting[5:] {
			if got := w.Delivery(id); got.Status != kapsel.Delivered || got.Attempts != 1 {
				t.Errorf("a delivery is %s after %d attempts, want delivered after 1", got.Status, got.Attempts)
			}
		}
		w.UntilDone(2 * time.Hour)
		balanced(t, p)
	})
}

func TestCircuit_Counts(t *testing.T) {
	for _, test := range []struct {
		name   string
		bodies string
		opens  bool
	}{
		{"4 in a row", "500 500 500 500 200", false},
		{"5 in a row", "500 500 500 500 500", true},
		{"9 in a row after a success", "200" + strings.Repeat(" 500", 9), false},
		{"10 in a row after a success", "200" + strings.Repeat(" 500", 10), true},
		{"a 4xx is a success", "500 500 500 404 500 500 500 302 500 500 500", false},
		{"429, 408, 425 break no row", "500 500 429 500 408 500 425 500", true},
		{"429, 408, 425 are no failures", "429 408 425 429 408 425 429 408 425 429 408 425", false},
		{"four fifths", strings.Repeat("500 500 500 500 200 ", 2) + "500 500", true},
		{"less than 10 of them", strings.Repeat("500 500 500 500 200 ", 2) + "500 200", false},
		{"less than four fifths of 20", strings.Repeat("500 500 200 ", 12), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", byBody)
				ep := w.NewEndpoint(d, slowly)
				p := w.Start()
				bodies := strings.Fields(test.bodies)
				oneByOne(w, p, ep, bodies...)
				if got := state(w.Circuit(ep)) == kapsel.CircuitOpened; got != test.opens {
					t.Errorf("opened: %t, want %t", got, test.opens)
				}
				if d.Count() != len(bodies) {
					t.Errorf("%d requests, want %d: it opened early", d.Count(), len(bodies))
				}
			})
		})
	}
}

// TestCircuit_NotEnabled checks that a circuit that is turned off never opens, and that turning off
// an open circuit lets everything through at once.
func TestCircuit_NotEnabled(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		oneByOne(w, p, ep, "500", "500", "500", "500", "500")
		for range 10 {
			p.Event(ep, "500")
		}
		w.Pass(time.Second)
		if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened || d.Count() != 5 {
			t.Fatalf("the circuit is %s, with %d requests", got, d.Count())
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.Circuit.Disabled = true })
		w.Pass(2 * time.Second)
		if d.Count() != 15 {
			t.Errorf("%d requests after it was turned off, want 15", d.Count())
		}
		oneByOne(w, p, ep, strings.Fields(strings.Repeat("500 ", 30))...)
		if d.Count() != 45 {
			t.Errorf("%d requests, want 45: the circuit has opened", d.Count())
		}
		if why := p.Engine.Why(new(w.Endpoint(ep)), w.Deliveries(ep)[0]); why != "retry" {
			t.Errorf("a delivery waits for %q, want retry", why)
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.Circuit.Disabled = false })
		d.Script(sim.Always(200))
		w.UntilDone(2 * time.Hour)
		balanced(t, p)
	})
}

// TestCircuit_Minute checks that only exchanges of the last 60 s count for the ratio.
func TestCircuit_Minute(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		for range 28 { // in less than 15 minutes, the shortest delay of a retry
			oneByOne(w, p, ep, "500", "500", "500", "500", "200")
			w.Pass(31 * time.Second) // 8 failures within 60 s
		}
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Errorf("the circuit is %s", got)
		}
	})
}

// TestCircuit_OldExchanges checks that exchanges begun before a change of the circuit's state do
// not count after it.
func TestCircuit_OldExchanges(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			slowly(e)
			e.Timeout, e.Circuit.Failures = 2*time.Minute, 1
		})
		p := w.Start()
		for range 20 {
			oneByOne(w, p, ep, "200") // earns room for what follows
		}
		p.Event(ep, "500 35") // fails when it is half-open
		for range 3 {
			p.Event(ep, "200 36") // succeed then
		}
		p.Event(ep, "500 64") // fails when it has closed again
		w.Pass(time.Millisecond)
		oneByOne(w, p, ep, "500", "500")
		if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened {
			t.Fatalf("the circuit is %s", got)
		}
		p.Event(ep, "200 10") // its probe lasts from 30 s to 40 s
		w.Pass(33 * time.Second)
		if got := w.Circuit(ep); state(got) != kapsel.CircuitHalfOpen {
			t.Fatalf("the circuit is %+v", got)
		}
		w.Pass(5 * time.Second) // 38 s: the old ones have ended
		if got := w.Circuit(ep); state(got) != kapsel.CircuitHalfOpen {
			t.Fatalf("old exchanges moved the circuit: %+v", got)
		}
		p.Event(ep, "200")
		p.Event(ep, "200")
		w.Pass(5 * time.Second)
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Fatalf("after three probes the circuit is %s", got)
		}
		w.Pass(30 * time.Second)
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Fatalf("old failures opened it again: %s", got)
		}
		balanced(t, p)
	})
}

// TestCircuit_ProbeNeutral checks that a probe whose outcome does not count only makes way for the
// next probe.
func TestCircuit_ProbeNeutral(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		oneByOne(w, p, ep, "500", "500", "500", "500", "500")
		for range 4 {
			p.Event(ep, "429")
		}
		p.Event(ep, "200")
		p.Event(ep, "200")
		w.Pass(33 * time.Second)
		if got := w.Circuit(ep); state(got) != kapsel.CircuitHalfOpen || got.Probe != p.Engine.Node() {
			t.Fatalf("the circuit is %+v", got)
		}
		oneByOne(w, p, ep, "200")
		w.Pass(2 * time.Second)
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Fatalf("the circuit is %s", got)
		}
		balanced(t, p)
	})
}

// TestCircuit_Restart checks that an open circuit, and the right to probe, survive the process.
func TestCircuit_Restart(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(w *sim.World, p *sim.Process)
	}{
		{"stopped", func(w *sim.World, p *sim.Process) { p.Stop(); w.Reopen() }},
		{"killed", func(w *sim.World, p *sim.Process) { p.Kill() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", sim.Always(500))
				ep := w.NewEndpoint(d, slowly)
				p := w.Start()
				oneByOne(w, p, ep, "1", "2", "3", "4", "5")
				opened := time.Now()
				p.Event(ep, "x")
				test.end(w, p)
				p = w.Start()
				p.Event(ep, "y")
				w.Pass(29*time.Second - time.Since(opened))
				if n := d.Count(); n != 5 {
					t.Fatalf("%d requests while the circuit is open", n-5)
				}
				d.Script(func(*sim.Request) sim.Answer { return sim.Answer{Status: 200, After: 20 * time.Second} })
				w.Pass(2 * time.Second)
				if n := d.Count(); n != 6 {
					t.Fatalf("%d probes, want 1", n-5)
				}

				// It ends with its probe on the way; the next process may probe again.
				test.end(w, p)
				d.Script(sim.Always(200))
				p = w.Start()
				p.Event(ep, "z")
				p.Event(ep, "z") // it begins again with one, whatever the one before had found
				w.Until("the circuit is closed", time.Minute, time.Second, func() bool { return state(w.Circuit(ep)) == kapsel.CircuitClosed })
				w.UntilDone(2 * time.Hour)
				balanced(t, p)
			})
		})
	}
}

// TestCircuit_Reset checks that the backlog goes out at once after a person has closed the circuit.
func TestCircuit_Reset(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		oneByOne(w, p, ep, "500", "500", "500", "500", "500")
		for range 10 {
			p.Event(ep, "200")
		}
		w.Pass(time.Second)
		_, err := w.Store().SaveCircuit(context.Background(), breaker.Reset(w.Circuit(ep), p.Clock.Now()))
		if err != nil {
			t.Fatal(err)
		}
		w.Pass(2 * time.Second)
		if n := d.Count(); n != 15 {
			t.Errorf("%d requests, want 15", n)
		}
		balanced(t, p)
	})
}

// TestCircuit_PauseDuringProbe: pausing while a probe is claimed or sent, and resuming, does
// not leave the circuit with a probe that nobody makes.
func TestCircuit_PauseDuringProbe(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		oneByOne(w, p, ep, "500", "500", "500", "500", "500")
		for range 5 {
			p.Event(ep, "200 5")
		}
		w.Pass(32 * time.Second)
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		w.Pass(10 * time.Second)
		if n := d.Count(); n != 6 {
			t.Fatalf("%d requests, want 6", n)
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.Pass(time.Minute)
		if n := d.Count(); n != 10 {
			t.Errorf("%d requests, want 10", n)
		}
		if got := state(w.Circuit(ep)); got != kapsel.CircuitClosed {
			t.Errorf("the circuit is %s", got)
		}
		balanced(t, p)
	})
}

// TestCircuit_ManyProbes: probes need workers like every exchange; many circuits that turn
// half-open together do not exceed them, and all get their turn.
func TestCircuit_ManyProbes(t *testing.T) {
	in(t, sim.Options{Workers: 4}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(500))
		var endpoints []*kapsel.Endpoint
		for range 40 {
			endpoints = append(endpoints, w.NewEndpoint(d, slowly))
		}
		p := w.Start()
		for range 5 {
			for _, ep := range endpoints {
				p.Event(ep, "x")
			}
			w.Pass(100 * time.Millisecond)
		}
		for _, ep := range endpoints {
			if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened {
				t.Fatalf("a circuit is %s", got)
			}
			p.Event(ep, "waits")
		}
		d.Script(func(*sim.Request) sim.Answer { return sim.Answer{Status: 200, After: time.Second} })
		w.Pass(5 * time.Minute)
		if _, most := d.Open(); most > 4 {
			t.Errorf("%d exchanges at once with 4 workers", most)
		}
		if n := d.Count(); n != 5*40+40 {
			t.Errorf("%d requests, want %d", n, 5*40+40)
		}
		balanced(t, p)
	})
}

// TestCircuit_ProbeAnswer_StoreFails checks that the result of a probe is written although the
// circuit was changed meanwhile and the store fails when the changed circuit is read.
func TestCircuit_ProbeAnswer_StoreFails(t *testing.T) {
	in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
		var deaf, failed atomic.Bool
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store {
			return storetest.Faulty(db, func(method string) storetest.Fault {
				if deaf.Load() && (method == "Settings" || method == "Circuit" && failed.CompareAndSwap(false, true)) {
					return storetest.NotPersisted
				}
				return storetest.NoFault
			})
		}
		d := w.Net.Destination("shop.example", byBody)
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		oneByOne(w, p, ep, "500", "500", "500", "500", "500", "500 5", "200")
		w.Until("the probe is on its way", time.Minute, 100*time.Millisecond, func() bool { return d.Count() == 6 })
		deaf.Store(true)
		c := w.Circuit(ep) // as another node changes it: a hold that is soon over
		c.HoldUntil = time.Now().Add(time.Second)
		if _, err := w.Store().SaveCircuit(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		w.Pass(5 * time.Second)
		deaf.Store(false)
		w.Pass(2 * time.Second)
		if !failed.Load() {
			t.Fatal("the circuit was not read")
		}
		if got := state(w.Circuit(ep)); got != kapsel.CircuitOpened || d.Count() != 6 {
			t.Errorf("after its probe has failed the circuit is %s, with %d more requests; want open, with none", got, d.Count()-6)
		}
	})
}

// TestCircuit_StoreWentBack checks that the stored circuit counts if the store has lost a change
// that it had confirmed, as after a fail-over to a standby that lagged.
func TestCircuit_StoreWentBack(t *testing.T) {
	for lost := 1; lost <= 4; lost++ { // it opens, probes, and one of the answers
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				w.Wrap = func(_ *sim.Process, db store.Store) store.Store { return &forgets{Store: db, nth: lost} }
				d := w.Net.Destination("shop.example", byBody)
				ep := w.NewEndpoint(d, slowly)
				p := w.Start()
				oneByOne(w, p, ep, "500", "500", "500", "500", "500")
				var ids []kapsel.EventID
				for range 5 {
					ids = append(ids, p.Event(ep, "200"))
				}
				w.Pass(2 * time.Minute)
				for _, id := range ids {
					if got := w.Delivery(id); got.Status != kapsel.Delivered {
						t.Errorf("a delivery is %s", got.Status)
					}
				}
				balanced(t, p)
			})
		})
	}
}

// forgets is a store that loses the nth change of a circuit that it has confirmed.
type forgets struct {
	store.Store
	nth, n int
	mu     sync.Mutex
}

func (f *forgets) SaveCircuit(ctx context.Context, c kapsel.Circuit) (kapsel.Circuit, error) {
	f.mu.Lock()
	f.n++
	lost := f.n == f.nth
	f.mu.Unlock()
	if lost {
		c.Version++
		return c, nil
	}
	return f.Store.SaveCircuit(ctx, c)
}
