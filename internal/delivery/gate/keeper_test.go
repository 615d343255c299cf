package gate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
)

// world is a Keeper with a host that writes down what the Keeper decides.
type world struct {
	k       *Keeper
	at      Time
	budget  *budget.Budget
	started []*Job
	gates   map[*Job]*Gate
	back    int     // jobs given back
	moving  []*Gate // with moves to be written
	probing map[*Gate]kapsel.Circuit
	stopped bool
	woken   bool
}

func newWorld(workers int) *world {
	w := &world{
		at: Time{Store: time.Unix(1_000_000, 0), Mono: time.Now()}, budget: budget.New(1 << 30),
		gates: map[*Job]*Gate{}, probing: map[*Gate]kapsel.Circuit{},
	}
	w.k = New(w, workers)
	w.k.SetNode(kapsel.NewNodeID(w.at.Store))
	return w
}

func (w *world) MayStart() bool                  { return !w.stopped }
func (w *world) Start(g *Gate, j *Job)           { w.started = append(w.started, j); w.gates[j] = g }
func (w *world) GiveBack(jobs []*Job)            { w.back += len(jobs) }
func (w *world) Wake()                           { w.woken = true }
func (w *world) Tripped(*Gate, kapsel.Code)      {}
func (w *world) Exhausted()                      {}
func (w *world) WriteCircuit(g *Gate)            { w.moving = append(w.moving, g) }
func (w *world) Probe(g *Gate, c kapsel.Circuit) { w.probing[g] = c }
func (w *world) Share(ep *kapsel.Endpoint) (places int, rate float64) {
	return max(1, ep.Concurrency), 1
}

func (w *world) pass(d time.Duration) { w.at = Time{w.at.Store.Add(d), w.at.Mono.Add(d)} }

func (w *world) endpoint(tenant kapsel.TenantID, name string) *kapsel.Endpoint {
	return &kapsel.Endpoint{
		ID: kapsel.NewEndpointID(w.at.Store), TenantID: tenant, State: kapsel.EndpointActive, Destination: 1, Revision: 1,
		EndpointConfig: kapsel.EndpointConfig{Name: name, Concurrency: 10, Circuit: kapsel.DefaultEndpoint().Circuit},
	}
}

func (w *world) use(ep *kapsel.Endpoint) *Gate {
	return w.k.Use(ep, func(ep *kapsel.Endpoint) *kapsel.Endpoint { return ep },
		func(id kapsel.EndpointID) kapsel.Circuit { return kapsel.Circuit{EndpointID: id} }, w.at)
}

func (w *world) job(g *Gate) *Job {
	return &Job{Delivery: kapsel.Delivery{EndpointID: g.id, Size: 1}, Body: w.budget.Have(1), Due: w.at.Store}
}

// claimed has the gate claim n deliveries, as far as it has room.
func (w *world) claimed(g *Gate, n int) {
	w.k.DueAt(g, w.at.Store)
	claims := w.k.Collect(w.at)
	var jobs []*Job
	for _, c := range claims {
		for range min(n, c.Limit) {
			jobs = append(jobs, w.job(c.Gate))
		}
	}
	w.k.Claimed(claims, jobs, len(claims), true, w.at)
}

// end ends the exchange that was started first.
func (w *world) end(r Result) {
	j := w.started[0]
	w.started = w.started[1:]
	g := w.gates[j]
	delete(w.gates, j)
	j.Release()
	w.k.End(g, j, r, w.at)
	w.k.Recorded(g, j, w.at)
}

func (w *world) names() (names []string) {
	for _, j := range w.started {
		names = append(names, w.gates[j].ep.Name)
	}
	return names
}

// silent returns n gates of endpoints that have not answered an exchange.
func (w *world) silent(tenant kapsel.TenantID, n int) (all []*Gate) {
	for range n {
		g := w.use(w.endpoint(tenant, "silent"))
		w.claimed(g, 1)
		w.end(Result{Code: kapsel.ConnectionTimeout})
		w.k.Collect(w.at)
		all = append(all, g)
	}
	return all
}

// TestKeeper_Turns: tenants take turns, however many endpoints and deliveries each of them has.
func TestKeeper_Turns(t *testing.T) {
	w := newWorld(4)
	many, one := kapsel.NewTenantID(w.at.Store), kapsel.NewTenantID(w.at.Store)
	w.stopped = true // nothing starts until all wait
	for i := range 3 {
		w.claimed(w.use(w.endpoint(many, fmt.Sprintf("a%d", i))), 2)
	}
	w.claimed(w.use(w.endpoint(one, "b")), 2)
	w.stopped = false
	w.k.Dispatch(w.at)
	if got, want := strings.Join(w.names(), " "), "a0 b a1 b"; got != want {
		t.Errorf("started: %s, want %s", got, want)
	}
}

// TestKeeper_Slow: endpoints that do not answer hold at most half of the workers.
func TestKeeper_Slow(t *testing.T) {
	w := newWorld(8)
	tenant := kapsel.NewTenantID(w.at.Store)
	silent := w.silent(tenant, 8)
	for _, g := range silent {
		w.claimed(g, 1)
	}
	if got := w.k.Busy(); got != 4 {
		t.Errorf("%d of 8 workers have exchanges with endpoints that do not answer, want 4", got)
	}
	w.claimed(w.use(w.endpoint(tenant, "quick")), 2)
	if got := w.k.Busy(); got != 6 {
		t.Errorf("%d workers are in use, want 6: two for another endpoint", got)
	}
}

// TestKeeper_SlowRoom checks that deliveries for endpoints that do not answer, of which half of the workers
// could start a few, do not take the room of other endpoints.
func TestKeeper_SlowRoom(t *testing.T) {
	w := newWorld(8)
	tenant := kapsel.NewTenantID(w.at.Store)
	silent := w.silent(tenant, 24)
	w.pass(time.Second)
	for _, g := range silent {
		w.k.DueAt(g, w.at.Store)
	}
	w.claimed(silent[0], 1)
	if got := w.k.Busy(); got != 4 {
		t.Errorf("%d of 8 workers have exchanges with endpoints that do not answer, want 4", got)
	}
	if w.k.Admits(silent[23], w.at) {
		t.Error("an endpoint that does not answer gets a permit beyond its share")
	}
	quick := w.use(w.endpoint(tenant, "quick"))
	if !w.k.Admits(quick, w.at) {
		t.Error("another endpoint gets no permit")
	}
	w.claimed(quick, 2)
	if got := w.k.Busy(); got != 6 {
		t.Errorf("%d workers are in use, want 6: two for another endpoint", got)
	}
}

// TestKeeper_SlowPermits checks that permits for endpoints that do not answer are no more than may start.
func TestKeeper_SlowPermits(t *testing.T) {
	w := newWorld(4)
	tenant := kapsel.NewTenantID(w.at.Store)
	silent := w.silent(tenant, 3)
	for _, g := range silent[:2] {
		if !w.k.Admits(g, w.at) {
			t.Fatal("no permit within the share")
		}
		w.k.Reserve(g, w.at)
	}
	if w.k.Admits(silent[2], w.at) {
		t.Error("three permits for two places")
	}
	w.k.Cancel(silent[1], w.at)
	if !w.k.Admits(silent[2], w.at) {
		t.Error("no permit for the place that was given back")
	}
}

// TestKeeper_SlowWait checks that deliveries for endpoints that do not answer are not gathered while all workers
// are busy, of which they may have one.
func TestKeeper_SlowWait(t *testing.T) {
	w := newWorld(8)
	tenant := kapsel.NewTenantID(w.at.Store)
	silent := w.silent(tenant, 12)
	for _, g := range silent[:3] {
		w.claimed(g, 1)
	}
	for range 5 {
		w.claimed(w.use(w.endpoint(tenant, "quick")), 1)
	}
	if got := w.k.Busy(); got != 8 {
		t.Fatalf("%d workers are busy, want all", got)
	}
	for range 10 { // each look could take one more
		for _, g := range silent[3:] {
			w.claimed(g, 1)
		}
		w.pass(slowWait)
	}
	if w.k.waiting > 1 {
		t.Errorf("%d deliveries for endpoints that do not answer wait, of which one may start", w.k.waiting)
	}
}

// TestKeeper_PermitReturned checks that an endpoint with one place goes on after a delivery with a permit was
// given back.
func TestKeeper_PermitReturned(t *testing.T) {
	w := newWorld(8)
	ep := w.endpoint(kapsel.NewTenantID(w.at.Store), "e")
	ep.Concurrency = 1
	g := w.use(ep)
	w.k.Reserve(g, w.at)
	w.claimed(g, 1) // another delivery is due, and there is no place for it
	j := w.job(g)
	j.Permitted = true
	w.k.Redeem(g, j, false, w.at)
	if w.back != 1 || len(w.started) != 0 {
		t.Fatalf("%d given back, %d started", w.back, len(w.started))
	}
	w.pass(time.Second)
	if claims := w.k.Collect(w.at); len(claims) != 1 {
		t.Errorf("%d claims, want one for what waits", len(claims))
	}
}

// TestKeeper_ShortageOver checks that what waits for an endpoint starts when a shortage is over, also if a
// delivery came due during it and an exchange hangs.
func TestKeeper_ShortageOver(t *testing.T) {
	w := newWorld(8)
	g := w.use(w.endpoint(kapsel.NewTenantID(w.at.Store), "e"))
	w.claimed(g, 2)
	w.started = w.started[1:] // the first one hangs
	w.end(Result{Unsent: true, Short: true, ShortPorts: true})
	w.claimed(g, 1)
	if len(w.started) != 0 {
		t.Fatal("one started during the shortage")
	}
	w.pass(shortWait + 2*claimWait)
	if claims := w.k.Collect(w.at); len(claims) != 1 {
		t.Errorf("%d claims after the shortage, want one", len(claims))
	}
}

// TestKeeper_Shortage checks that a shortage on this machine does not count against the endpoint,
// and that the node asks for less until it ends.
func TestKeeper_Shortage(t *testing.T) {
	w := newWorld(8)
	g := w.use(w.endpoint(kapsel.NewTenantID(w.at.Store), "e"))
	w.claimed(g, 2)
	j := w.started[0]
	w.started = w.started[1:]
	j.Release()
	if due := w.k.End(g, j, Result{Unsent: true, Short: true}, w.at); due.Sub(w.at.Store) != shortWait {
		t.Errorf("the delivery is due in %v, want %v", due.Sub(w.at.Store), shortWait)
	}
	w.k.Recorded(g, j, w.at)
	if n := w.k.Workers(w.at); n != 1 {
		t.Errorf("%d exchanges at once, want the one that runs", n)
	}
	if g.earned != firstEarned || len(w.moving) > 0 {
		t.Errorf("the destination has earned %d, and %d circuits move", g.earned, len(w.moving))
	}
	for _, want := range []int{2, 4, 8} { // 1 more, 2 more, then 4 more
		w.pass(time.Second)
		if n := w.k.Workers(w.at); n != want {
			t.Errorf("%d exchanges at once, want %d", n, want)
		}
	}
}

// TestKeeper_Circuit checks that failures open the circuit, and that after its time one node asks
// for the right to probe and starts only its probe.
func TestKeeper_Circuit(t *testing.T) {
	w := newWorld(8)
	g := w.use(w.endpoint(kapsel.NewTenantID(w.at.Store), "e"))
	for i := 0; g.circuit.State == kapsel.CircuitClosed || g.circuit.State == ""; i++ {
		if i == 100 {
			t.Fatal("100 failures in a row do not open the circuit")
		}
		w.claimed(g, 1)
		w.end(Result{Code: kapsel.ConnectionRefused})
	}
	move, stored := w.k.NextMove(g)
	next, ok := move(stored)
	if !ok || next.State != kapsel.CircuitOpened {
		t.Fatalf("the circuit to write is %+v, %t", next, ok)
	}
	next.Version++
	if w.k.Moved(g, next, w.at) {
		t.Error("there are more moves than one")
	}
	if w.claimed(g, 1); len(w.started) > 0 || w.k.Admits(g, w.at) {
		t.Error("an exchange may start though the circuit is open")
	}
	w.at.Store = next.RetryAt
	w.claimed(g, 1)
	want, ok := w.probing[g]
	if !ok || want.Probe != w.k.node {
		t.Fatalf("the node asks for the right to probe: %t, %+v", ok, want)
	}
	want.Version++
	w.k.Won(g, &want, w.at)
	w.pass(winWait)
	w.claimed(g, 5)
	if len(w.started) != 1 {
		t.Errorf("%d probes at once, want 1", len(w.started))
	}
}

// TestKeeper_Books makes random calls. No limit is ever passed, and when all has ended nothing is
// left on the books.
func TestKeeper_Books(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 6).Draw(t, "workers"))
		var gates []*Gate
		for i := range rapid.IntRange(1, 4).Draw(t, "endpoints") {
			ep := w.endpoint(kapsel.TenantID{15: byte(i % 2)}, fmt.Sprint(i))
			ep.Concurrency = rapid.IntRange(1, 4).Draw(t, "concurrency")
			if rapid.Bool().Draw(t, "limited") {
				ep.RateLimit = &kapsel.RateLimit{PerSecond: 5, Burst: 2}
			}
			gates = append(gates, w.use(ep))
		}
		reserved := map[*Gate]int{}
		gate := func() *Gate { return rapid.SampledFrom(gates).Draw(t, "gate") }
		results := []Result{
			{Status: 200}, {Status: 500}, {Status: 429}, {Code: kapsel.ConnectionRefused}, {Lost: true, Code: kapsel.OutcomeUnknown},
			{Unsent: true}, {Unsent: true, Short: true}, {Unsent: true, Short: true, ShortPorts: true},
		}
		write := func() {
			for _, g := range w.moving {
				for more := true; more; {
					move, stored := w.k.NextMove(g)
					if next, ok := move(stored); ok {
						stored = next
						stored.Version++
					}
					more = w.k.Moved(g, stored, w.at)
				}
			}
			w.moving = nil
			for g, want := range w.probing {
				want.Version++
				w.k.Won(g, &want, w.at)
			}
			clear(w.probing)
		}
		calls := map[string]func(*rapid.T){
			"claim": func(t *rapid.T) { w.claimed(gate(), rapid.IntRange(0, 8).Draw(t, "found")) },
			"permit": func(t *rapid.T) {
				if g := gate(); w.k.Admits(g, w.at) {
					w.k.Reserve(g, w.at)
					reserved[g]++
				}
			},
			"redeem": func(t *rapid.T) {
				g := gate()
				if reserved[g] == 0 {
					return
				}
				reserved[g]--
				if rapid.Bool().Draw(t, "unused") {
					w.k.Cancel(g, w.at)
					return
				}
				j := w.job(g)
				j.Permitted = true
				w.k.Redeem(g, j, rapid.Bool().Draw(t, "valid"), w.at)
			},
			"end": func(t *rapid.T) {
				if len(w.started) > 0 {
					w.end(rapid.SampledFrom(results).Draw(t, "result"))
				}
			},
			"change": func(t *rapid.T) {
				g := gate()
				ep := *g.ep
				ep.Revision++
				switch rapid.IntRange(0, 2).Draw(t, "what") {
				case 0:
					ep.Destination++
				case 1:
					ep.State = kapsel.EndpointPaused
				default:
					ep.State = kapsel.EndpointActive
				}
				w.k.SetEndpoint(g, &ep, w.at)
			},
			"write": func(*rapid.T) { write() },
			"pass":  func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond) },
			"": func(t *rapid.T) {
				if w.k.Busy() > w.k.most {
					t.Fatalf("%d exchanges at once, of %d", w.k.Busy(), w.k.most)
				}
				running := map[*Gate]int{}
				for _, j := range w.started {
					if g := w.gates[j]; j.Endpoint.Destination == g.ep.Destination {
						running[g]++
					}
				}
				for g, n := range running {
					if n > g.ep.Concurrency || n != g.running {
						t.Fatalf("%d exchanges at once with an endpoint, of %d; the gate counts %d", n, g.ep.Concurrency, g.running)
					}
				}
			},
		}
		t.Repeat(calls)

		for _, g := range gates { // the end: nothing is due, everything active, all exchanges end well
			ep := *g.ep
			ep.Revision++
			ep.State, ep.Circuit.Disabled = kapsel.EndpointActive, true
			w.k.SetEndpoint(g, &ep, w.at)
			for ; reserved[g] > 0; reserved[g]-- {
				w.k.Cancel(g, w.at)
			}
		}
		for range 1000 {
			write()
			w.pass(time.Second)
			for len(w.started) > 0 {
				w.end(Result{Status: 200})
			}
			for claims := w.k.Collect(w.at); len(claims) > 0; claims = w.k.Collect(w.at) {
				w.k.Claimed(claims, nil, len(claims), true, w.at) // none is found
			}
			if len(w.k.Unbalanced(false)) == 0 {
				break
			}
		}
		if off := w.k.Unbalanced(false); len(off) > 0 {
			slices.Sort(off)
			t.Fatalf("at the end %s", strings.Join(off, ", "))
		}
		if n := w.budget.Used(); n != 0 {
			t.Fatalf("%d bytes of bodies are held at the end", n)
		}
	})
}

// TestYield checks that a node whose probe could not be sent gives the right to probe back, so that another node may
// probe, and asks for it again only after its shortage; and that it keeps the right once its trial has begun.
func TestYield(t *testing.T) {
	for name, begun := range map[string]bool{"nothing was sent": false, "the trial has begun": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(4)
			g := w.use(w.endpoint(kapsel.NewTenantID(w.at.Store), "shop"))
			stored := kapsel.Circuit{EndpointID: g.id, State: kapsel.CircuitHalfOpen, Probe: w.k.node, Version: 1, Destination: 1}
			w.k.SetCircuit(g, stored, w.at)
			if begun {
				w.claimed(g, 1)
				w.end(Result{Status: 200})
			}
			w.claimed(g, 1)
			if len(w.started) != 1 {
				t.Fatalf("%d probes were started", len(w.started))
			}
			w.end(Result{Unsent: true, Short: true})
			if begun {
				if len(w.moving) != 0 {
					t.Error("the right was given back")
				}
				return
			}
			if len(w.moving) != 1 {
				t.Fatal("the right was not given back")
			}
			move, _ := w.k.NextMove(g)
			next, ok := move(stored)
			if !ok || !next.Probe.IsZero() || next.State != kapsel.CircuitHalfOpen {
				t.Fatalf("the circuit becomes %+v, %t", next, ok)
			}
			next.Version = 2
			w.k.Moved(g, next, w.at)
			w.k.DueAt(g, w.at.Store)
			w.k.Collect(w.at)
			if len(w.probing) != 0 {
				t.Error("the node asks for the right at once")
			}
			w.pass(2 * time.Second)
			w.k.Collect(w.at)
			if len(w.probing) != 1 {
				t.Error("the node does not ask for the right after its shortage")
			}
		})
	}
}

// TestMissed checks that an endpoint to which a claim did not come is first in the next one.
func TestMissed(t *testing.T) {
	w := newWorld(100)
	var gates []*Gate
	for _, name := range []string{"a", "b", "c"} {
		g := w.use(w.endpoint(kapsel.NewTenantID(w.at.Store), name))
		gates = append(gates, g)
		w.k.DueAt(g, w.at.Store)
		w.pass(time.Millisecond)
	}
	order := func(claims []Claim) (names string) {
		for _, c := range claims {
			names += c.Gate.ep.Name
		}
		return names
	}
	claims := w.k.Collect(w.at)
	if got := order(claims); got != "abc" {
		t.Fatalf("claimed for %s", got)
	}
	// The claim ended at b: its body was too large to go with a's.
	if more := w.k.Claimed(claims, []*Job{w.job(gates[0])}, 1, true, w.at); !more {
		t.Error("nothing more is due")
	}
	w.k.DueAt(gates[0], w.at.Store.Add(-time.Hour))
	claims = w.k.Collect(w.at)
	if got := order(claims); got != "bca" {
		t.Errorf("claimed for %s next", got)
	}
	w.k.Claimed(claims, []*Job{w.job(gates[1])}, 1, true, w.at)
	claims = w.k.Collect(w.at)
	if got := order(claims); got[0] != 'c' {
		t.Errorf("claimed for %s in the end", got)
	}
}
