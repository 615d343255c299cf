package delivery_test

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// fleet lets several processes of a world be nodes together, as on a shared database: the
// store of the world is for one process, so who is alive and what they demand is kept here.
type fleet struct {
	mu    sync.Mutex
	alive map[kapsel.NodeID]*member
	dead  map[*sim.Process]bool // cannot reach the store any more
	calls int                   // of Demands
}

type member struct {
	until time.Time
	told  store.NodeDemands
}

// together is a world whose processes are nodes of one fleet.
func together(t *testing.T, o sim.Options, test func(t *testing.T, w *sim.World, f *fleet)) {
	in(t, o, func(t *testing.T, w *sim.World) {
		f := &fleet{alive: map[kapsel.NodeID]*member{}, dead: map[*sim.Process]bool{}}
		w.Wrap = func(p *sim.Process, s store.Store) store.Store {
			return &membership{storetest.Faulty(s, func(string) storetest.Fault {
				if f.isDead(p) {
					return storetest.NotPersisted
				}
				return storetest.NoFault
			}), f, p}
		}
		test(t, w, f)
	})
}

// membership is one process's way to the store.
type membership struct {
	store.Store
	fleet *fleet
	p     *sim.Process
}

func (m *membership) ask(f func() error) error {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	if m.fleet.dead[m.p] {
		return store.Unavailable(context.DeadlineExceeded)
	}
	return f()
}

func (m *membership) Join(_ context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return m.ask(func() error {
		m.fleet.alive[node] = &member{until: now.Add(lease), told: store.NodeDemands{Node: node}}
		return nil
	})
}

func (m *membership) Renew(_ context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return m.ask(func() error {
		m.fleet.alive[node].until = now.Add(lease)
		return nil
	})
}

func (m *membership) Leave(_ context.Context, node kapsel.NodeID) error {
	return m.ask(func() error { delete(m.fleet.alive, node); return nil })
}

// TakeOver frees circuits that a dead node probes, and moves no deliveries.
func (m *membership) TakeOver(ctx context.Context, now time.Time, _ int) (int, error) {
	settings, err := m.Store.Settings(ctx, 0)
	if err != nil {
		return 0, err
	}
	alive, err := m.Nodes(ctx, now)
	if err != nil {
		return 0, err
	}
	for _, c := range settings.Circuits {
		if c.Probe.IsZero() || slices.Contains(alive, c.Probe) {
			continue
		}
		c.Probe = kapsel.NodeID{}
		if _, err := m.SaveCircuit(ctx, c); err != nil && kapsel.CodeOf(err) != kapsel.Conflict {
			return 0, err
		}
	}
	return 0, nil
}

func (m *membership) Nodes(ctx context.Context, now time.Time) (ids []kapsel.NodeID, err error) {
	err = m.ask(func() error {
		for _, d := range m.fleet.told(now) {
			ids = append(ids, d.Node)
		}
		return nil
	})
	return ids, err
}

func (m *membership) Demands(_ context.Context, node kapsel.NodeID, now time.Time, own []store.Demand) (all []store.NodeDemands, err error) {
	err = m.ask(func() error {
		m.fleet.calls++
		if n := m.fleet.alive[node]; n != nil {
			n.told.At, n.told.Demands = now, store.DecodeDemands(store.EncodeDemands(own))
		}
		all = m.fleet.told(now)
		return nil
	})
	return all, err
}

func (f *fleet) told(now time.Time) (all []store.NodeDemands) {
	for _, n := range f.alive {
		if !n.until.Before(now) {
			all = append(all, n.told)
		}
	}
	slices.SortFunc(all, func(a, b store.NodeDemands) int {
		return slices.Compare(a.Node[:], b.Node[:])
	})
	return all
}

// die cuts a process from the store: others see no more of it than that its lease ends.
func (f *fleet) die(p *sim.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[p] = true
}

func (f *fleet) isDead(p *sim.Process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead[p]
}

// TestShare_Ingest checks that a tenant that sends at twice its limit is granted the limit by all
// nodes together, however its requests are spread over them, and while nodes join and die.
func TestShare_Ingest(t *testing.T) {
	together(t, sim.Options{}, func(t *testing.T, w *sim.World, f *fleet) {
		const limit = 20.0
		tenant := w.NewTenant("limited", func(t *kapsel.Tenant) {
			perSecond, burst := limit, 10
			t.Limits = kapsel.Limits{IngestPerSecond: &perSecond, IngestBurst: &burst}
		})
		ep := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), func(e *kapsel.Endpoint) { e.TenantID = tenant.ID })
		// Seconds in which the tenant posts at twice its limit to processes in turn; how many are
		// accepted in each.
		var accepted []int
		post := func(seconds int, to ...*sim.Process) (sum int) {
			t.Helper()
			for range seconds {
				n := 0
				for i := range 2 * int(limit) {
					status, _ := to[i%len(to)].Post(ep, "x")
					switch status {
					case http.StatusOK:
						n++
					case http.StatusTooManyRequests:
					default:
						t.Fatalf("answered %d", status)
					}
					w.Pass(time.Second / time.Duration(2*limit))
				}
				accepted = append(accepted, n)
				sum += n
			}
			return sum
		}
		steady := func(what string, to ...*sim.Process) {
			t.Helper()
			post(5, to...)
			if n := post(10, to...); n < 9*limit || n > 11*limit {
				t.Errorf("%s: %d accepted in 10 s, the limit is %v a second; by second: %v", what, n, limit, accepted)
			}
		}
		a := w.Start()
		steady("one node", a)
		if n := accepted[len(accepted)-1]; n != limit {
			t.Errorf("one node alone grants %d in a second, want exactly %v", n, limit)
		}
		if f.calls != 0 {
			t.Errorf("a node that is alone told its demands %d times", f.calls)
		}
		b := w.Start()
		steady("two nodes, all at the first", a)
		steady("two nodes", a, b)
		steady("two nodes, three quarters at the first", a, a, a, b)
		steady("two nodes, all at the second", b)
		c := w.Start()
		steady("three nodes", a, b, c)
		f.die(b)
		steady("one is cut off", a, c)
		c.Stop()
		steady("one stops", a)
		steady("alone again", a)
		// Also where requests moved and nodes came: never more, in any 10 s.
		for i := range len(accepted) - 10 {
			n := 0
			for _, k := range accepted[i : i+10] {
				n += k
			}
			if n > 11*limit {
				t.Errorf("%d accepted in the 10 s from second %d on: %v", n, i, accepted[i:i+10])
			}
		}
	})
}

// TestShare_Newcomer checks that a node that has just started grants what the others leave over at
// once: a tenant far below its limit is refused nothing when a load balancer moves it to another
// node.
func TestShare_Newcomer(t *testing.T) {
	together(t, sim.Options{}, func(t *testing.T, w *sim.World, _ *fleet) {
		tenant := w.NewTenant("limited", func(t *kapsel.Tenant) {
			perSecond := 100.0
			t.Limits = kapsel.Limits{IngestPerSecond: &perSecond}
		})
		ep := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), func(e *kapsel.Endpoint) { e.TenantID = tenant.ID })
		a := w.Start()
		for _, to := range []*sim.Process{a, w.Start(), w.Start(), a} {
			for range 200 {
				to.Event(ep, "x")
				w.Pass(50 * time.Millisecond)
			}
		}
	})
}

// TestShare_Delivery checks that the exchanges of all nodes together keep to an endpoint's rate and
// concurrency, and use them up, even if all of its events come to one node.
func TestShare_Delivery(t *testing.T) {
	for name, change := range map[string]func(*kapsel.Endpoint){
		"rate":          func(e *kapsel.Endpoint) { e.RateLimit = &kapsel.RateLimit{PerSecond: 10, Burst: 1} },
		"concurrency":   func(e *kapsel.Endpoint) { e.Concurrency = 5 },
		"concurrency 1": func(e *kapsel.Endpoint) { e.Concurrency = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			together(t, sim.Options{}, func(t *testing.T, w *sim.World, _ *fleet) {
				d := w.Net.Destination("shop.example", ends(250*time.Millisecond))
				ep := w.NewEndpoint(d, change)
				most, perSecond := 1000, 10.0
				if ep.RateLimit == nil {
					most = ep.Concurrency
					perSecond = 4 * float64(ep.Concurrency)
				}
				a, b := w.Start(), w.Start()
				w.Pass(3 * time.Second)
				for _, to := range []*sim.Process{a, b, a} {
					start := 0
					for second := range 18 {
						if second == 8 {
							start = d.Count()
						}
						for range int(1.3 * perSecond) {
							to.Event(ep, "x")
							w.Pass(time.Second / time.Duration(1.3*perSecond))
							// While a share moves, exchanges begun under the former one may still run.
							if now, _ := d.Open(); second >= 8 && now > most {
								t.Fatalf("%d exchanges at once, the limit is %d", now, most)
							}
						}
					}
					if n := float64(d.Count() - start); n < 9*perSecond || n > 11*perSecond {
						t.Errorf("%v exchanges in 10 s, want about %v", n, 10*perSecond)
					}
				}
				w.UntilDone(10 * time.Minute)
				balanced(t, a)
				balanced(t, b)
			})
		})
	}
}
