package delivery_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// switches are calls of the store that fail while they are on.
type switches struct{ on atomic.Pointer[[]string] }

// fail makes these calls fail from now on, and no others.
func (s *switches) fail(methods ...string) { s.on.Store(&methods) }

// wrap is for sim.Options.Wrap.
func (s *switches) wrap(_ *sim.Process, db store.Store) store.Store {
	return storetest.Faulty(db, func(method string) storetest.Fault {
		if on := s.on.Load(); on != nil && (slices.Contains(*on, method) || slices.Contains(*on, "*")) {
			return storetest.NotPersisted
		}
		return storetest.NoFault
	})
}

// TestLease_NotRenewed_FF2 checks that a node that cannot renew its lease starts no request
// and permits none, and goes on once its lease is certain again.
func TestLease_NotRenewed_FF2(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		var s switches
		w.Wrap = s.wrap
		d := w.Net.Destination("shop.example", ends(100*time.Millisecond))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		w.Pass(2500 * time.Millisecond) // renewed at 2 s
		s.fail("Renew")
		var last time.Time
		for range 90 {
			p.Event(ep, "x")
			w.Pass(200 * time.Millisecond)
		}
		for _, r := range d.Requests() {
			last = r.At
		}
		if at := last.Sub(epoch); at < 8*time.Second || at > 9*time.Second {
			t.Errorf("the last exchange started %v after the start; the lease was certain until 9 s", at)
		}
		if p.Engine.Leased() {
			t.Error("it says that it is leased")
		}
		s.fail()
		w.UntilDone(time.Minute)
		if n := d.Count(); n != 90 {
			t.Errorf("%d requests, want 90", n)
		}
		balanced(t, p)
	})
}

// epoch is when every bubble begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// TestLease_DeclaredDead_FF1 checks that a node that others declared dead joins under a new id
// and gives back what it had not sent, and its late results change nothing.
func TestLease_DeclaredDead_FF1(t *testing.T) {
	in(t, sim.Options{Workers: 4}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
			if r.Number == 1 && r.At.Sub(epoch) < time.Second {
				return sim.Answer{Status: 500, After: 15 * time.Second} // would be retried
			}
			return sim.Answer{Status: 200, After: 15 * time.Second}
		})
		var endpoints []*kapsel.Endpoint
		for range 3 {
			endpoints = append(endpoints, w.NewEndpoint(d, nil))
		}
		p := w.Start()
		var ids []kapsel.EventID
		for range 2 {
			for _, ep := range endpoints {
				ids = append(ids, p.Event(ep, "x")) // 4 are sent, 2 wait for a worker
			}
		}
		synctest.Wait()
		if n := d.Count(); n != 4 {
			t.Fatalf("%d requests, want 4", n)
		}
		was := p.Engine.Node()
		if err := w.Store().Leave(context.Background(), was); err != nil {
			t.Fatal(err)
		}
		w.Pass(5 * time.Second)
		if p.Engine.Node() == was {
			t.Fatal("it goes on under the id that was declared dead")
		}
		w.UntilDone(10 * time.Minute)
		unknown := 0
		for _, id := range ids {
			got := w.Delivery(id)
			rows := w.Attempts(got.ID)
			if got.Status != kapsel.Delivered || rows[len(rows)-1].StatusCode != 200 {
				t.Errorf("a delivery ended %s", got.Status)
			}
			if rows[0].ErrorCode == kapsel.OutcomeUnknown {
				unknown++
			}
			if len(rows) > 2 {
				t.Errorf("it took %d attempts", len(rows))
			}
		}
		if unknown < 4 { // more where the take-over is quicker than giving back
			t.Errorf("%d attempts are unknown, want at least the 4 that were under way", unknown)
		}
		balanced(t, p)
	})
}

// TestTakeOver_FA6_FA7 checks that what a dead process had under way is tried again at once,
// as a new attempt.
func TestTakeOver_FA6_FA7(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(time.Minute))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		ids := []kapsel.EventID{p.Event(ep, "a"), p.Event(ep, "b"), p.Event(ep, "c")}
		w.Pass(time.Second)
		p.Kill()
		d.Script(sim.Always(200))
		p = w.Start()
		w.UntilDone(10 * time.Second)
		for i, id := range ids {
			got := w.Delivery(id)
			rows := w.Attempts(got.ID)
			if i < 2 { // a destination begins with two at once
				if len(rows) != 2 || rows[0].ErrorCode != kapsel.OutcomeUnknown || rows[1].StatusCode != 200 || got.Counted != 1 {
					t.Errorf("delivery %d: %+v", i, rows)
				}
			} else if len(rows) > 2 {
				t.Errorf("delivery %d: %+v", i, rows)
			}
		}
		balanced(t, p)
	})
}

// TestTakeOver_Poison_FF4 checks that a delivery that ends its process five times in a row
// becomes a dead letter, and an answer in between restarts the count.
func TestTakeOver_Poison_FF4(t *testing.T) {
	for _, answered := range []bool{false, true} {
		in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
			d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
				if answered && r.N == 3 {
					return sim.Answer{Status: 500}
				}
				return sim.Answer{Hang: true}
			})
			ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Timeout = 5 * time.Minute })
			p := w.Start()
			id := p.Event(ep, "poison")
			for range 4 {
				w.Pass(5 * time.Second)
				p.Kill()
				p = w.Start()
			}
			w.Pass(5 * time.Second)
			if got := w.Delivery(id); got.Status != kapsel.Delivering {
				t.Fatalf("after 4 deaths it is %+v", got)
			}
			p.Kill()
			p = w.Start()
			w.Pass(5 * time.Second)
			got := w.Delivery(id)
			if answered {
				if got.Status != kapsel.Delivering || got.Attempts != 6 || got.Counted != 1 {
					t.Errorf("answered once in between, it is %+v", got)
				}
				return
			}
			if got.Status != kapsel.DeadLetter || got.LastErrorCode != kapsel.OutcomeUnknown || got.Attempts != 5 || got.Counted != 0 {
				t.Errorf("after 5 deaths it is %+v", got)
			}
			if d.Count() != 5 {
				t.Errorf("%d requests, want 5", d.Count())
			}
			balanced(t, p)
		})
	}
}

// TestPanic_FA13 checks that a panic during an exchange costs one attempt and no worker, and a
// delivery which always panics becomes a dead letter.
func TestPanic_FA13(t *testing.T) {
	in(t, sim.Options{Level: 12, Workers: 4}, func(t *testing.T, w *sim.World) {
		var calls atomic.Int64
		w.Transport = func(next http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if n := calls.Add(1); r.URL.Host == "poison.example" || n%10 == 0 {
					panic("boom")
				}
				return next.RoundTrip(r)
			})
		}
		d := w.Net.Destination("shop.example", sim.Always(200))
		good, poison := w.NewEndpoint(d, nil), w.NewEndpoint(w.Net.Destination("poison.example", nil), nil)
		p := w.Start()
		id := p.Event(poison, "x")
		for range 200 {
			p.Event(good, "x")
			w.Pass(time.Millisecond)
		}
		w.UntilDone(time.Minute)
		if got := w.Delivery(id); got.Status != kapsel.DeadLetter || got.LastErrorCode != kapsel.OutcomeUnknown || got.Attempts != kapsel.MaxTakeovers {
			t.Errorf("what always panics is %+v", got)
		}
		if d.Count() != 200 {
			t.Errorf("%d requests, want 200", d.Count())
		}
		balanced(t, p)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestStop checks that nothing starts after the signal, that running exchanges end, and that unsent
// deliveries go back without an attempt and with their due time.
func TestStop(t *testing.T) {
	in(t, sim.Options{Workers: 4}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(10*time.Second))
		var endpoints []*kapsel.Endpoint
		for range 4 {
			endpoints = append(endpoints, w.NewEndpoint(d, nil))
		}
		p := w.Start()
		var ids []kapsel.EventID
		for range 2 {
			for _, ep := range endpoints {
				ids = append(ids, p.Event(ep, "x"))
			}
		}
		w.Pass(time.Second)
		if n := d.Count(); n != 4 {
			t.Fatalf("%d requests, want 4", n)
		}
		signal := time.Now()
		p.Stop()
		if took := time.Since(signal); took < 8*time.Second || took > 10*time.Second {
			t.Errorf("stopping took %v, want as long as the running exchanges", took)
		}
		delivered, waiting := 0, 0
		for _, id := range ids {
			got := w.Delivery(id)
			switch {
			case got.Status == kapsel.Delivered && got.Attempts == 1:
				delivered++
			case got.Status == kapsel.Pending && got.Attempts == 0 && got.DueAt.Equal(got.CreatedAt):
				waiting++
			default:
				t.Errorf("a delivery is %+v", got)
			}
		}
		if delivered != 4 || waiting != 4 || d.Count() != 4 {
			t.Errorf("%d delivered, %d waiting, %d requests; want 4 of each", delivered, waiting, d.Count())
		}
		balanced(t, p)

		p = w.Start()
		w.UntilDone(time.Minute)
		for _, id := range ids {
			if got := w.Delivery(id); got.Attempts != 1 {
				t.Errorf("a delivery has %d attempts", got.Attempts)
			}
		}
		balanced(t, p)
	})
}

// TestStop_Cut: exchanges that last longer than the grace are cut and recorded as unknown.
func TestStop_Cut(t *testing.T) {
	in(t, sim.Options{Grace: 5 * time.Second}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(*sim.Request) sim.Answer { return sim.Answer{Hang: true} })
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		id := p.Event(ep, "x")
		w.Pass(time.Second)
		signal := time.Now()
		p.Stop()
		if took := time.Since(signal); took < 5*time.Second || took > 5100*time.Millisecond {
			t.Errorf("stopping took %v, want 5 s", took)
		}
		got := w.Delivery(id)
		rows := w.Attempts(got.ID)
		if got.Status != kapsel.Pending || got.Counted != 0 || got.Takeovers != 0 || len(rows) != 1 || rows[0].ErrorCode != kapsel.OutcomeUnknown {
			t.Errorf("the delivery is %+v, its attempts %+v", got, rows)
		}
		balanced(t, p)
		d.Script(sim.Always(200))
		p = w.Start()
		w.UntilDone(10 * time.Second)
		balanced(t, p)
	})
}

// TestStop_Acceptance: a permit whose acceptance is confirmed after the signal is given back,
// and stopping waits for it.
func TestStop_Acceptance(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		hold := make(chan struct{})
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store {
			return storetest.Faulty(db, func(method string) storetest.Fault {
				if method == "Accept" {
					<-hold
				}
				return storetest.NoFault
			})
		}
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		go p.Post(ep, "x")
		synctest.Wait()
		stopped := make(chan struct{})
		go func() { p.Stop(); close(stopped) }()
		w.Pass(3 * time.Second)
		close(hold)
		<-stopped
		all := w.Deliveries(nil)
		if len(all) != 1 || all[0].Status != kapsel.Pending || all[0].Attempts != 0 || d.Count() != 0 {
			t.Errorf("the delivery is %+v, with %d requests", all, d.Count())
		}
		balanced(t, p)
		p = w.Start()
		w.UntilDone(5 * time.Second)
		balanced(t, p)
	})
}

// TestStop_StoreDown: stopping ends in time when the store does not answer, and the work is
// taken over.
func TestStop_StoreDown(t *testing.T) {
	in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
		var s switches
		w.Wrap = s.wrap
		d := w.Net.Destination("shop.example", ends(time.Second))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		id := p.Event(ep, "x")
		s.fail("*")
		w.Pass(2 * time.Second)
		signal := time.Now()
		p.Stop()
		if took := time.Since(signal); took > 24*time.Second {
			t.Errorf("stopping took %v", took)
		}
		s.fail()
		w.Start()
		w.UntilDone(10 * time.Second)
		if got := w.Delivery(id); got.Status != kapsel.Delivered || got.Attempts != 2 {
			t.Errorf("the delivery is %+v", got)
		}
	})
}

// TestFrozen_FF1a checks that a process that slept between taking a delivery and sending it
// finds its lease uncertain and sends nothing.
func TestFrozen_FF1a(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		var s switches
		wake := make(chan struct{})
		w.Wrap = func(p *sim.Process, db store.Store) store.Store {
			return storetest.Faulty(s.wrap(p, db), func(method string) storetest.Fault {
				if method == "Tenant" { // the last thing before the lease is looked at
					<-wake
				}
				return storetest.NoFault
			})
		}
		d := w.Net.Destination("shop.example", sim.Always(200))
		p := w.Start()
		s.fail("Settings") // so that the new tenant must be asked for
		tenant := w.NewTenant("new", nil)
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.TenantID = tenant.ID })
		id := w.Pending(ep, "x")
		w.Pass(1500 * time.Millisecond)
		if got := w.Delivery(id); got.Status != kapsel.Delivering {
			t.Fatalf("the delivery is %s", got.Status)
		}
		s.fail("Settings", "Renew")
		w.Pass(9 * time.Second)
		close(wake)
		w.Pass(100 * time.Millisecond)
		got := w.Delivery(id)
		if d.Count() != 0 || got.Status != kapsel.Pending || got.Attempts != 0 || !got.DueAt.Equal(got.CreatedAt) {
			t.Errorf("after waking up it is %+v, with %d requests", got, d.Count())
		}
		s.fail()
		w.UntilDone(10 * time.Second)
		if got := w.Delivery(id); got.Attempts != 1 || d.Count() != 1 {
			t.Errorf("it is %+v, with %d requests", got, d.Count())
		}
		balanced(t, p)
	})
}

// TestStop_Claim checks that deliveries claimed around the signal go back without an attempt, also
// with a store whose calls end with their context.
func TestStop_Claim(t *testing.T) {
	in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store { return &slowClaims{Store: db} }
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		w.Pass(time.Second)
		id := w.Pending(ep, "x")
		w.Until("the delivery is claimed", 5*time.Second, 10*time.Millisecond, func() bool { return w.Delivery(id).Status == kapsel.Delivering })
		p.Stop()
		if got := w.Delivery(id); got.Status != kapsel.Pending || got.Attempts != 0 || d.Count() != 0 {
			t.Errorf("after the stop the delivery is %+v, with %d requests", got, d.Count())
		}
		balanced(t, p)
		p = w.Start()
		w.UntilDone(10 * time.Second)
		if got := w.Delivery(id); got.Attempts != 1 {
			t.Errorf("a delivery that was not sent before the stop has %d attempts, want 1", got.Attempts)
		}
		p.Stop()
	})
}

// slowClaims is a store that answers a claim a second after it was written, as one over a
// network may. A call whose context ends is left alone: it is not known what became of it.
type slowClaims struct{ store.Store }

func (s *slowClaims) Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []store.Want, maxBytes int) ([]store.Claimed, kapsel.EndpointID, error) {
	claimed, cut, err := s.Store.Claim(ctx, node, now, wants, maxBytes)
	select {
	case <-ctx.Done():
		return nil, cut, store.Unavailable(ctx.Err())
	case <-time.After(time.Second):
		return claimed, cut, err
	}
}

// unreadable is a store that cannot read what is due for some endpoints, as where a page of the database is
// damaged.
type unreadable struct {
	store.Store
	bad    atomic.Pointer[map[kapsel.EndpointID]bool]
	failed atomic.Int64
}

func (s *unreadable) Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []store.Want, maxBytes int) ([]store.Claimed, kapsel.EndpointID, error) {
	for _, want := range wants {
		if (*s.bad.Load())[want.EndpointID] {
			s.failed.Add(1)
			return nil, kapsel.EndpointID{}, store.Lasting("the database says that its data is damaged", errors.New("invalid page"))
		}
	}
	return s.Store.Claim(ctx, node, now, wants, maxBytes)
}

// TestClaim_UnreadableRows checks that an endpoint whose deliveries cannot be read holds up no other, is asked for
// once a minute and no more often, and has its deliveries made once they can be read.
func TestClaim_UnreadableRows(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		bad := map[kapsel.EndpointID]bool{}
		s := &unreadable{}
		s.bad.Store(&bad)
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store { s.Store = db; return s }
		d := w.Net.Destination("shop.example", sim.Always(200))
		var endpoints []*kapsel.Endpoint
		for range 10 {
			endpoints = append(endpoints, w.NewEndpoint(d, nil))
		}
		p := w.Start()
		for _, ep := range endpoints {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		}
		w.Pass(time.Second)
		for _, ep := range endpoints {
			p.Event(ep, "x")
		}
		bad[endpoints[3].ID], bad[endpoints[7].ID] = true, true
		for _, ep := range endpoints {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		}
		w.Pass(10 * time.Second)
		if n := len(d.Requests()); n != 8 {
			t.Errorf("%d deliveries of the 8 that can be read were made", n)
		}
		s.failed.Store(0)
		w.Pass(10 * time.Minute)
		if n := s.failed.Load(); n < 10 || n > 60 {
			t.Errorf("%d claims failed in 10 minutes", n)
		}
		s.bad.Store(&map[kapsel.EndpointID]bool{})
		w.UntilDone(2 * time.Minute)
		balanced(t, p)
	})
}

// TestStop_Doubt checks that a delivery that an unconfirmed acceptance left in the store is given
// back before the node leaves, and is not taken over as if it had been sent.
func TestStop_Doubt(t *testing.T) {
	in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store {
			return storetest.Faulty(db, storetest.Nth("Accept", 1, storetest.Persisted))
		}
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		w.Pass(100 * time.Millisecond)
		if status, _ := p.Post(ep, "x"); status != 503 {
			t.Fatalf("answered %d, want 503", status)
		}
		p.Stop()
		all := w.Deliveries(nil)
		if len(all) != 1 || all[0].Status != kapsel.Pending || all[0].Attempts != 0 {
			t.Errorf("after the stop the deliveries are %+v", all)
		}
	})
}

// TestStop_StoreHangs checks that stopping ends in time even if the engine's calls of the store do not return.
// The settings' calls, Settings and Follow, do: a world's stop waits for them.
func TestStop_StoreHangs(t *testing.T) {
	for _, hung := range [][]string{{"Renew"}, {"Complete"}, {"Claim"}, {"TakeOver"}, {"Leave"}, calls} {
		t.Run(hung[len(hung)-1], func(t *testing.T) {
			in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
				var hangs atomic.Bool
				release := make(chan struct{})
				w.Wrap = func(_ *sim.Process, db store.Store) store.Store {
					return storetest.Faulty(db, func(method string) storetest.Fault {
						if hangs.Load() && method != "Settings" && method != "Follow" && slices.Contains(hung, method) {
							<-release
							return storetest.NotPersisted
						}
						return storetest.NoFault
					})
				}
				d := w.Net.Destination("shop.example", ends(3*time.Second))
				ep := w.NewEndpoint(d, nil)
				p := w.Start()
				p.Event(ep, "handed over")
				w.Pending(ep, "claimed")
				hangs.Store(true)
				w.Pass(5 * time.Second)
				time.AfterFunc(2*time.Minute, func() { close(release) })
				signal := time.Now()
				p.Stop()
				if took := time.Since(signal); took > 23*time.Second {
					t.Errorf("stopping took %v", took)
				}
				<-release // what hung ends, too
			})
		})
	}
}
