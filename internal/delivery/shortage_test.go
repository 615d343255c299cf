package delivery_test

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// TestShortage checks that a delivery goes back without an attempt if this machine is short of
// something, that it waits 1 s, 2 s and so on up to 30 s, and that nothing is learned about its
// destination.
func TestShortage(t *testing.T) {
	for name, fault := range map[string]sim.DialFault{"files": sim.NoFiles, "ports": sim.NoPorts} {
		t.Run(name, func(t *testing.T) {
			in(t, sim.Options{Level: shortagesToo}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", sim.Always(200))
				ep := w.NewEndpoint(d, nil)
				p := w.Start()
				for range 5 { // earns 7, over connections that age
					p.Event(ep, "x")
					w.Pass(time.Second)
				}
				w.Pass(3 * time.Minute)
				var dials []time.Time
				short := true
				d.Dial(func() sim.DialFault {
					dials = append(dials, time.Now())
					if short {
						return fault
					}
					return sim.Connects
				})
				id := p.Event(ep, "x")
				w.Pass(5 * time.Second)
				if got := w.Delivery(id); got.Status != kapsel.Pending || got.Attempts != 0 {
					t.Errorf("the delivery is %+v", got)
				}
				if why := p.Engine.Why(ep, w.Delivery(id)); why != "worker" {
					t.Errorf("it waits for %q", why)
				}
				w.Pass(4 * time.Minute)
				short = false
				w.UntilDone(time.Minute)
				if got := w.Delivery(id); got.Status != kapsel.Delivered || got.Attempts != 1 {
					t.Errorf("the delivery is %+v", got)
				}
				if c := p.Settings.Circuit(ep.ID); c.Version != 0 {
					t.Errorf("the circuit moved: %+v", c)
				}
				if earned, _ := p.Engine.Earned(ep.Name); earned != 8 {
					t.Errorf("earned %d, want 8", earned)
				}
				var waits []time.Duration
				for i := 1; i < len(dials); i++ {
					waits = append(waits, dials[i].Sub(dials[i-1]))
				}
				want := []time.Duration{1, 2, 4, 8, 16, 30, 30}
				for i, seconds := range want {
					least := seconds * time.Second // and what the list of the backlog takes
					if i >= len(waits) || waits[i] < least || waits[i] > least+1500*time.Millisecond {
						t.Fatalf("between the dials passed %v, want %v and a little more", waits, want)
					}
				}
				balanced(t, p)
			})
		})
	}
}

// TestShortage_FewFiles checks that many endpoints can share few files: everything is delivered at
// the first attempt, no circuit moves, and the node does not keep trying without files.
func TestShortage_FewFiles(t *testing.T) {
	in(t, sim.Options{Level: shortagesToo}, func(t *testing.T, w *sim.World) {
		const endpoints, each, files = 60, 4, 10
		var of []*sim.Destination
		var eps []*kapsel.Endpoint
		dials := 0
		for i := range endpoints {
			d := w.Net.Destination("host-"+string(rune('a'+i%26))+string(rune('a'+i/26))+".example", ends(2*time.Second))
			d.Dial(func() sim.DialFault { dials++; return sim.Connects })
			of = append(of, d)
			eps = append(eps, w.NewEndpoint(d, nil))
		}
		p := w.Start()
		p.Uplink.Files(files)
		var ids []kapsel.EventID
		for range each {
			for _, ep := range eps {
				ids = append(ids, p.Event(ep, "x"))
			}
		}
		begin := time.Now()
		w.UntilDone(10 * time.Minute)
		took := time.Since(begin)
		for _, id := range ids {
			if got := w.Delivery(id); got.Status != kapsel.Delivered || got.Attempts != 1 {
				t.Fatalf("a delivery is %+v", got)
			}
		}
		for i, d := range of {
			if n := d.Count(); n != each {
				t.Errorf("%d requests at one destination", n)
			}
			if c := p.Settings.Circuit(eps[i].ID); c.Version != 0 {
				t.Errorf("a circuit moved: %+v", c)
			}
		}
		t.Logf("%d dials in %v", dials, took)
		if ideal := 2 * time.Second * endpoints * each / files; took > 2*ideal {
			t.Errorf("all was delivered after %v; with %d at once it would be %v", took, files, ideal)
		}
		if dials > 4*len(ids) {
			t.Errorf("%d dials for %d deliveries", dials, len(ids))
		}
		balanced(t, p)
	})
}

// TestShortage_OthersGoOn checks that a destination for which there is no port holds up no other
// destination, and that its backlog is not tried again and again.
func TestShortage_OthersGoOn(t *testing.T) {
	in(t, sim.Options{Workers: 20, Level: shortagesToo}, func(t *testing.T, w *sim.World) {
		lacking := w.Net.Destination("lacking.example", sim.Always(200))
		dials, short := 0, true
		lacking.Dial(func() sim.DialFault {
			if dials++; short {
				return sim.NoPorts
			}
			return sim.Connects
		})
		healthy := w.Net.Destination("healthy.example", sim.Always(200))
		le, he := w.NewEndpoint(lacking, nil), w.NewEndpoint(healthy, nil)
		p := w.Start()
		backlog(w, p, 200, le)
		for range 300 {
			p.Event(he, "x")
			w.Pass(time.Second)
		}
		if n := healthy.Count(); n != 300 {
			t.Errorf("%d of 300 healthy deliveries were made", n)
		}
		for i, r := range healthy.Requests() {
			if gap := r.At.Sub(healthy.Requests()[0].At); gap > time.Duration(i)*time.Second+100*time.Millisecond {
				t.Fatalf("healthy delivery %d came %v after the first", i, gap)
			}
		}
		if dials > 100 {
			t.Errorf("%d dials in five minutes", dials)
		}
		short = false
		w.UntilDone(10 * time.Minute)
		if n := lacking.Count(); n != 200 {
			t.Errorf("%d of 200 were sent", n)
		}
		balanced(t, p)
	})
}

// TestShortage_OneDestination checks that a shortage that only one destination meets counts as
// E2001 after ten minutes, and then moves its circuit.
func TestShortage_OneDestination(t *testing.T) {
	in(t, sim.Options{Level: shortagesToo}, func(t *testing.T, w *sim.World) {
		lacking := w.Net.Destination("lacking.example", sim.Always(200))
		lacking.Dial(func() sim.DialFault { return sim.NoPorts })
		healthy := w.Net.Destination("healthy.example", func(*sim.Request) sim.Answer { return sim.Answer{Status: 200, Drop: true} })
		le, he := w.NewEndpoint(lacking, nil), w.NewEndpoint(healthy, nil)
		p := w.Start()
		id := p.Event(le, "x")
		for range 20 {
			p.Event(he, "x")
			w.Pass(30 * time.Second)
		}
		if got := w.Delivery(id); got.Attempts != 0 {
			t.Errorf("counts after ten minutes: %+v", got)
		}
		for range 6 {
			p.Event(he, "x")
			w.Pass(30 * time.Second)
		}
		got := w.Delivery(id)
		if got.Attempts == 0 || got.LastErrorCode != kapsel.ConnectionRefused {
			t.Errorf("after thirteen minutes: %+v", got)
		}
		lacking.Dial(func() sim.DialFault { return sim.Connects })
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}

// TestShortage_Probe checks that a probe for which there is no file does not move the circuit.
func TestShortage_Probe(t *testing.T) {
	in(t, sim.Options{Level: shortagesToo}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(500))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 100, Base: time.Second, Max: time.Second}
		})
		p := w.Start()
		for range 20 {
			p.Event(ep, "x")
		}
		opened := func() bool { return p.Settings.Circuit(ep.ID).State == kapsel.CircuitOpened }
		w.Until("the circuit opens", 5*time.Minute, 100*time.Millisecond, opened)
		d.Script(sim.Always(200))
		dials, before := 0, d.Count()
		d.Dial(func() sim.DialFault { dials++; return sim.NoFiles })
		w.Pass(3 * time.Minute)
		c := p.Settings.Circuit(ep.ID)
		if c.State != kapsel.CircuitHalfOpen || d.Count() != before {
			t.Errorf("the circuit is %s after %d requests", c.State, d.Count()-before)
		}
		if dials == 0 || dials > 15 {
			t.Errorf("%d probes were tried in three minutes", dials)
		}
		d.Dial(func() sim.DialFault { return sim.Connects })
		w.UntilDone(10 * time.Minute)
		w.Pass(time.Second)
		if c := p.Settings.Circuit(ep.ID); c.State != kapsel.CircuitClosed {
			t.Errorf("the circuit is %s", c.State)
		}
		balanced(t, p)
	})
}

// TestShortage_Stops checks that a node that is short of files stops like any other node.
func TestShortage_Stops(t *testing.T) {
	in(t, sim.Options{Level: shortagesToo}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(time.Second))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		p.Uplink.Files(1)
		for range 10 {
			p.Event(ep, "x")
		}
		w.Pass(1500 * time.Millisecond)
		p.Stop()
		p = w.Start()
		w.UntilDone(time.Minute)
		if n := len(d.Requests()); n != 10 {
			t.Errorf("%d requests for 10 deliveries", n)
		}
		balanced(t, p)
	})
}

// shortagesToo keeps the warnings of a shortage out of a test's log.
const shortagesToo = 8 // slog.LevelError
