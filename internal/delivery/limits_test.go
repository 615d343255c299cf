package delivery_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// ends answers 200 after a time.
func ends(after time.Duration) func(*sim.Request) sim.Answer {
	return func(*sim.Request) sim.Answer { return sim.Answer{Status: 200, After: after} }
}

// backlog stores events for an endpoint that no permit lets start: it is paused meanwhile.
func backlog(w *sim.World, p *sim.Process, n int, endpoints ...*kapsel.Endpoint) {
	for _, ep := range endpoints {
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
	}
	w.Pass(time.Second)
	for range n {
		for _, ep := range endpoints {
			p.Event(ep, "backlog")
		}
	}
	for _, ep := range endpoints {
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
	}
}

// TestRate checks that exchanges start no faster than the endpoint's rate, and that a backlog is
// worked off at that rate.
func TestRate(t *testing.T) {
	for _, test := range []struct {
		rate  float64
		burst int
		takes time.Duration // an answer
	}{{1, 1, 0}, {1, 5, 0}, {10, 1, 0}, {10, 1, 3 * time.Second}, {0.2, 1, 0}, {200, 10, 50 * time.Millisecond}} {
		for _, waits := range []bool{false, true} {
			t.Run(fmt.Sprint(test.rate, "/", test.burst, "/", test.takes, "/backlog=", waits), func(t *testing.T) {
				in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
					d := w.Net.Destination("shop.example", ends(test.takes))
					ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
						e.RateLimit = &kapsel.RateLimit{PerSecond: test.rate, Burst: test.burst}
					})
					p := w.Start()
					const n = 100
					if waits {
						backlog(w, p, n, ep)
					} else {
						for range n {
							p.Event(ep, "x")
						}
					}
					start := time.Now()
					ideal := time.Duration(float64(n-test.burst) / test.rate * float64(time.Second))
					w.UntilDone(2*ideal + time.Minute)
					balanced(t, p)
					r := d.Requests()
					for i := test.burst; i < len(r); i++ {
						if gap := r[i].At.Sub(r[i-test.burst].At); gap < time.Duration(0.98*float64(time.Second)/test.rate)*time.Duration(1) {
							t.Fatalf("requests %d and %d are %v apart", i-test.burst+1, i+1, gap)
						}
					}
					took := r[len(r)-1].At.Sub(start)
					if most := ideal + ideal/10 + 2*time.Second + 6*test.takes; took > most {
						t.Errorf("the last of %d started after %v, want at most %v", n, took, most)
					}
				})
			})
		}
	}
}

// TestEarned checks that concurrency starts with 2, that each answer adds one, up to the endpoint's
// own limit, and that no answer halves it.
func TestEarned(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(time.Second))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			e.Concurrency, e.Timeout, e.Circuit = 20, 10*time.Second, never
			slowlyOnly(e)
		})
		p := w.Start()
		backlog(w, p, 200, ep)
		w.Until("the first start", 5*time.Second, time.Millisecond, func() bool { return d.Count() > 0 })
		w.Pass(100 * time.Millisecond)
		for i, want := range []int{2, 4, 8, 16, 20, 20} {
			if now, _ := d.Open(); now != want {
				t.Errorf("in second %d there are %d exchanges at once, want %d", i, now, want)
			}
			if i < 5 {
				w.Pass(time.Second)
			}
		}
		d.Script(func(*sim.Request) sim.Answer { return sim.Answer{Hang: true} })
		w.Pass(1100 * time.Millisecond) // now 20 hang
		if earned, running := p.Engine.Earned(ep.Name); earned != 20 || running != 20 {
			t.Fatalf("earned %d, running %d", earned, running)
		}
		w.Pass(10 * time.Second)
		if earned, _ := p.Engine.Earned(ep.Name); earned != 1 {
			t.Errorf("after 20 time-outs it has earned %d, want 1", earned)
		}
		w.Pass(2 * time.Second)
		if now, _ := d.Open(); now > 1 {
			t.Errorf("%d exchanges at once, earned 1", now)
		}
		if _, most := d.Open(); most > 20 {
			t.Errorf("%d exchanges at once, limit 20", most)
		}
		d.Script(sim.Always(200))
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}

func slowlyOnly(e *kapsel.Endpoint) {
	e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 100, Base: 20 * time.Minute, Max: 20 * time.Minute}
}

// TestHalfHangs checks that exchanges that hang do not keep the endpoint's other deliveries from
// the free places.
func TestHalfHangs(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
			if strings.HasPrefix(string(r.Body), "hang") {
				return sim.Answer{Hang: true}
			}
			return sim.Answer{Status: 200, After: 10 * time.Millisecond}
		})
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			e.Concurrency, e.Timeout, e.Circuit = 20, 5*time.Minute, never
			slowlyOnly(e)
		})
		p := w.Start()
		for range 30 {
			p.Event(ep, "x")
			w.Pass(20 * time.Millisecond)
		}
		for range 15 {
			p.Event(ep, "hang")
		}
		w.Pass(time.Millisecond)
		backlog(w, p, 200, ep)
		done := d.Count()
		w.Pass(10 * time.Second)
		if n := d.Count() - done; n != 200 {
			t.Errorf("%d of 200 were sent while 15 of 20 places hang", n)
		}
		d.Script(sim.Always(200))
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}

// TestSlowShare_FE1_FE2 checks that endpoints that do not answer hold at most half of the
// workers together and do not slow the others down.
func TestSlowShare_FE1_FE2(t *testing.T) {
	in(t, sim.Options{Workers: 20}, func(t *testing.T, w *sim.World) {
		dead := w.Net.Destination("dead.example", func(*sim.Request) sim.Answer { return sim.Answer{Hang: true} })
		good := w.Net.Destination("good.example", ends(10*time.Millisecond))
		var endpoints []*kapsel.Endpoint
		for range 60 {
			endpoints = append(endpoints, w.NewEndpoint(dead, func(e *kapsel.Endpoint) { e.Circuit = never }))
		}
		healthy := w.NewEndpoint(good, nil)
		p := w.Start()
		for range 10 {
			for _, ep := range endpoints {
				p.Event(ep, "x")
			}
		}
		w.Pass(5 * time.Minute) // now all have been tried, and are known to be slow
		most := 0
		for range 600 {
			p.Event(healthy, "x")
			w.Pass(100 * time.Millisecond)
			now, _ := dead.Open()
			most = max(most, now)
		}
		if most > 10 {
			t.Errorf("slow endpoints hold %d of 20 workers", most)
		}
		if most < 8 {
			t.Errorf("slow endpoints hold at most %d workers: half of 20 is theirs", most)
		}
		worst := time.Duration(0)
		for _, r := range good.Requests() {
			sent, _ := time.Parse("2006-01-02T15:04:05.000Z", r.Header.Get("X-Kapsel-Original-Timestamp"))
			worst = max(worst, r.At.Sub(sent))
		}
		if n := good.Count(); n != 600 || worst > 100*time.Millisecond {
			t.Errorf("of 600 healthy deliveries %d were sent, the slowest after %v", n, worst)
		}
		dead.Script(sim.Always(200))
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}

// TestTurns_FE3 checks that tenants with work take turns for the workers, as do the endpoints
// of one tenant, whoever has the longer backlog.
func TestTurns_FE3(t *testing.T) {
	in(t, sim.Options{Workers: 10}, func(t *testing.T, w *sim.World) {
		big, small := w.Tenant, w.NewTenant("small", nil)
		at := map[string]*sim.Destination{}
		endpoint := func(name string, tenant kapsel.Tenant) *kapsel.Endpoint {
			at[name] = w.Net.Destination(name, ends(100*time.Millisecond))
			return w.NewEndpoint(at[name], func(e *kapsel.Endpoint) { e.TenantID = tenant.ID })
		}
		var all []*kapsel.Endpoint
		for i := range 20 {
			all = append(all, endpoint(fmt.Sprint("big", i), big))
		}
		one := endpoint("small", small)
		p := w.Start()
		backlog(w, p, 100, append(all, one)...)
		w.Pass(6 * time.Second) // about 550 exchanges
		total := 0
		least, most := 1000, 0
		for i := range 20 {
			n := at[fmt.Sprint("big", i)].Count()
			total += n
			least, most = min(least, n), max(most, n)
		}
		if n := at["small"].Count(); n != 100 {
			t.Errorf("the small tenant got %d exchanges of its 100 while the big one got %d", n, total)
		}
		if least*2 < most-2 {
			t.Errorf("of the big tenant's endpoints one got %d exchanges, another %d", least, most)
		}
		w.UntilDone(10 * time.Minute)
		balanced(t, p)
	})
}

// TestOlderWork checks that deliveries that wait in the store get their turns while new events
// would take all workers. Here they get a quarter of the workers, because 10 of 40 endpoints with
// work have no new events.
func TestOlderWork(t *testing.T) {
	in(t, sim.Options{Workers: 12}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(200*time.Millisecond))
		old := w.Net.Destination("old.example", ends(200*time.Millisecond))
		var fresh []*kapsel.Endpoint
		for range 12 {
			fresh = append(fresh, w.NewEndpoint(d, nil))
		}
		var waits []*kapsel.Endpoint
		for range 10 {
			waits = append(waits, w.NewEndpoint(old, nil))
		}
		p := w.Start()
		backlog(w, p, 20, waits...)
		start := time.Now()
		for time.Since(start) < 8*time.Second {
			for _, ep := range fresh {
				p.Event(ep, "x")
			}
			w.Pass(100 * time.Millisecond) // 120 a second for workers that manage 60
		}
		if n, all := old.Count(), old.Count()+d.Count(); n < 8*60/4*2/3 || all < 400 {
			t.Errorf("older work got %d of %d exchanges, want about a quarter of 480", n, all)
		}
		w.UntilDone(20 * time.Minute)
		balanced(t, p)
	})
}

// TestOlderWork_SameEndpoint checks that an endpoint's waiting deliveries get at least a quarter of
// its capacity while its new events would take all of it.
func TestOlderWork_SameEndpoint(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		const places = 8
		d := w.Net.Destination("shop.example", ends(200*time.Millisecond))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Concurrency = places })
		p := w.Start()
		backlog(w, p, 200, ep)
		start := time.Now()
		for time.Since(start) < 5*time.Second {
			for range 4 {
				p.Event(ep, "new")
			}
			w.Pass(10 * time.Millisecond) // 400 a second for a destination that takes 40
		}
		old, all := 0, 0
		for _, r := range d.Requests() {
			if all++; string(r.Body) == "backlog" {
				old++
			}
		}
		if old < all/4*9/10 || all < 5*places*5*8/10 {
			t.Errorf("older work got %d of %d exchanges, want a quarter of about 200", old, all)
		}
		w.UntilDone(20 * time.Minute)
		balanced(t, p)
	})
}

// TestManyEndpoints checks that everything is sent although far more endpoints have work than the
// node has capacity, even if some of them turn out to have none any more.
func TestManyEndpoints(t *testing.T) {
	in(t, sim.Options{Workers: 2}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(time.Millisecond))
		var endpoints []*kapsel.Endpoint
		for range 300 {
			endpoints = append(endpoints, w.NewEndpoint(d, nil))
		}
		p := w.Start()
		backlog(w, p, 1, endpoints...)
		w.Pass(time.Second)
		for _, ep := range endpoints[:150] {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		}
		w.Pass(time.Minute)
		for _, ep := range endpoints[150:] {
			for _, got := range w.Deliveries(ep) {
				if got.Status != kapsel.Delivered {
					t.Fatalf("a delivery is still %s after a minute", got.Status)
				}
			}
		}
		for _, ep := range endpoints[:150] {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		}
		w.UntilDone(time.Minute)
		balanced(t, p)
	})
}

// TestMemory_FE7 checks that bodies on their way out hold at most half of the memory limit and
// one body more, and every delivery gets through nevertheless.
func TestMemory_FE7(t *testing.T) {
	for _, size := range []int{1 << 10, 300 << 10, 900 << 10, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			in(t, sim.Options{Memory: 4 << 20}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", ends(time.Second))
				var endpoints []*kapsel.Endpoint
				for range 8 {
					endpoints = append(endpoints, w.NewEndpoint(d, nil))
				}
				p := w.Start()
				body := strings.Repeat("x", size)
				for range 4 {
					for _, ep := range endpoints {
						p.Event(ep, body)
						if used, most := p.Budget.Used(), int64(2<<20+size); used > most {
							t.Fatalf("%d bytes of bodies are held, more than %d", used, most)
						}
					}
				}
				for range 300 {
					w.Pass(100 * time.Millisecond)
					if used, most := p.Budget.Used(), int64(2<<20+size); used > most {
						t.Fatalf("%d bytes of bodies are held, more than %d", used, most)
					}
				}
				w.UntilDone(2 * time.Minute)
				balanced(t, p)
			})
		})
	}
}

// TestLargeBodies checks that a claim that ends early because its bodies are large is followed by
// the next claim at once, also for endpoints that the first did not reach.
func TestLargeBodies(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(time.Millisecond))
		endpoints := []*kapsel.Endpoint{w.NewEndpoint(d, nil), w.NewEndpoint(d, nil), w.NewEndpoint(d, nil)}
		p := w.Start()
		for _, ep := range endpoints {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		}
		w.Pass(time.Second)
		for range 5 {
			for _, ep := range endpoints {
				p.Event(ep, strings.Repeat("x", 3<<20))
			}
		}
		for _, ep := range endpoints {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		}
		w.UntilDone(10 * time.Second)
		r := d.Requests()
		if took := r[14].At.Sub(r[0].At); took > 500*time.Millisecond {
			t.Errorf("15 deliveries took %v", took)
		}
		balanced(t, p)
	})
}

// TestLargeBodies_BehindSmallOnes checks the same where little was claimed before the large body that ended the
// claim: what waits behind it does not wait for the next list of the backlog, and the large one has its turn.
func TestLargeBodies_BehindSmallOnes(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(time.Millisecond))
		var endpoints []*kapsel.Endpoint
		for range 4 {
			endpoints = append(endpoints, w.NewEndpoint(d, nil))
		}
		p := w.Start()
		for _, ep := range endpoints {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		}
		w.Pass(time.Second)
		events := 0
		for i, ep := range endpoints {
			n, size := 40, 1<<10
			if i == 1 {
				n, size = 3, 5<<20
			}
			for range n {
				p.Event(ep, strings.Repeat("x", size))
				events++
			}
		}
		for _, ep := range endpoints {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		}
		w.UntilDone(10 * time.Second)
		r := d.Requests()
		if took := r[events-1].At.Sub(r[0].At); took > 500*time.Millisecond {
			t.Errorf("%d deliveries took %v", events, took)
		}
		balanced(t, p)
	})
}

// TestWhy_NoRate checks that a delivery that may start now does not wait for a rate, however long
// the answer takes. The test runs by the machine's clock, because no time passes in a bubble
// between two readings.
func TestWhy_NoRate(t *testing.T) {
	w := sim.New(t, sim.Options{})
	ep := w.NewEndpoint(w.Net.Destination("shop.example", ends(100*time.Millisecond)), nil)
	p := w.Start()
	p.Event(ep, "x")
	due := kapsel.Delivery{EndpointID: ep.ID, Status: kapsel.Pending, DueAt: time.Now().Add(-time.Minute)}
	for range 100 {
		if why := p.Engine.Why(ep, due); why != "" {
			t.Fatalf("it waits for %q", why)
		}
	}
	p.Stop()
}
