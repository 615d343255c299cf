package delivery_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// obeyed is within what time a change of the settings holds.
const obeyed = time.Second

// TestGone_FD20 checks that a destination that answers 410 disables its endpoint, and later
// events wait until the endpoint is active again.
func TestGone_FD20(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(410))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		id := p.Event(ep, "x")
		w.Pass(obeyed)
		if got := w.Delivery(id); got.Status != kapsel.Failed || got.LastStatusCode != 410 {
			t.Errorf("the delivery is %+v", got)
		}
		if got := w.Endpoint(ep); got.State != kapsel.EndpointDisabled || got.DisabledReason != kapsel.DisabledGone {
			t.Errorf("the endpoint is %s (%s)", got.State, got.DisabledReason)
		}
		next := p.Event(ep, "y") // accepted, and waits
		w.Pass(time.Minute)
		if got := w.Delivery(next); got.Status != kapsel.Pending || got.Attempts != 0 || d.Count() != 1 {
			t.Errorf("the next delivery is %+v, with %d requests", got, d.Count())
		}
		if why := p.Engine.Why(new(w.Endpoint(ep)), w.Delivery(next)); why != "disabled" {
			t.Errorf("it waits for %q, want disabled", why)
		}
		d.Script(sim.Always(200))
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State, e.DisabledReason = kapsel.EndpointActive, "" })
		w.Pass(obeyed + time.Second)
		if got := w.Delivery(next); got.Status != kapsel.Delivered {
			t.Errorf("after resuming it is %s", got.Status)
		}
		balanced(t, p)
	})
}

// TestPause checks that nothing starts later than a second after a pause, that everything goes out
// after resuming, and that a running exchange ends as usual.
func TestPause(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(3*time.Second))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		for range 20 {
			p.Event(ep, "x")
		}
		w.Pass(100 * time.Millisecond)
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		paused := time.Now()
		w.Pass(obeyed)
		waits := p.Event(ep, "y")
		if why := p.Engine.Why(new(w.Endpoint(ep)), w.Delivery(waits)); why != "paused" {
			t.Errorf("it waits for %q, want paused", why)
		}
		w.Pass(time.Hour)
		for _, r := range d.Requests() {
			if r.At.Sub(paused) > obeyed {
				t.Errorf("a request started %v after the pause", r.At.Sub(paused))
			}
		}
		for _, got := range w.Deliveries(ep) {
			if got.Status != kapsel.Delivered && (got.Status != kapsel.Pending || got.Attempts != 0) {
				t.Errorf("while paused a delivery is %+v", got)
			}
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.UntilDone(time.Minute)
		if d.Count() != 21 {
			t.Errorf("%d requests, want 21", d.Count())
		}
		balanced(t, p)
	})
}

// TestPause_StaleSettings checks that the first request to an endpoint does not bring back its old
// settings if the request began before they were changed.
func TestPause_StaleSettings(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		w.NewEndpoint(d, nil)
		p := w.Start()
		w.Pass(obeyed)
		created := w.NewEndpoint(d, nil)
		stale, err := p.Settings.Endpoint(context.Background(), created.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.Patch(created, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		w.Pass(obeyed)
		if p.Engine.Permits([]*kapsel.Endpoint{stale}, stale.Part, 1)[0] != nil {
			t.Error("a paused endpoint got a permit")
		}
		p.Event(created, "x")
		w.Pass(time.Minute)
		if d.Count() != 0 {
			t.Errorf("%d requests to a paused endpoint", d.Count())
		}
	})
}

// TestDelete checks that waiting deliveries of a deleted endpoint are canceled, and that a running
// exchange is recorded and then canceled instead of retried.
func TestDelete(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
			if r.N == 1 {
				return sim.Answer{Status: 200, After: 3 * time.Second}
			}
			return sim.Answer{Status: 500, After: 3 * time.Second}
		})
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		for range 10 {
			p.Event(ep, "x")
		}
		w.Pass(100 * time.Millisecond)
		w.Delete(ep)
		deleted := time.Now()
		w.Pass(obeyed)
		if status, _ := p.Post(ep, "late"); status != 404 {
			t.Errorf("a deleted endpoint answers %d, want 404", status)
		}
		w.UntilDone(10 * time.Second)
		for _, r := range d.Requests() {
			if r.At.Sub(deleted) > obeyed {
				t.Errorf("a request started %v after the deletion", r.At.Sub(deleted))
			}
		}
		count := map[kapsel.DeliveryStatus]int{}
		for _, got := range w.Deliveries(ep) {
			count[got.Status]++
			switch {
			case got.Attempts == 1 && got.LastStatusCode == 500 && got.Status == kapsel.Canceled:
			case got.Attempts == 1 && got.LastStatusCode == 200 && got.Status == kapsel.Delivered:
			case got.Attempts == 0 && got.Status == kapsel.Canceled:
			default:
				t.Errorf("a delivery is %+v", got)
			}
		}
		if count[kapsel.Delivered] != 1 || count[kapsel.Canceled] != 9 {
			t.Errorf("deliveries by state: %v", count)
		}
		balanced(t, p)
	})
}

// TestDelete_Restart checks that deliveries to an endpoint that was deleted while no process ran
// are canceled.
func TestDelete_Restart(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, nil)
		for range 3 {
			w.Pending(ep, "x")
		}
		w.Delete(ep)
		p := w.Start()
		w.UntilDone(10 * time.Second)
		for _, got := range w.Deliveries(ep) {
			if got.Status != kapsel.Canceled || d.Count() != 0 {
				t.Errorf("a delivery is %s, with %d requests", got.Status, d.Count())
			}
		}
		balanced(t, p)
	})
}

// TestPatch checks that changed settings apply to deliveries that wait already.
func TestPatch(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		before := w.Net.Destination("before.example", sim.Always(500))
		after := w.Net.Destination("after.example", sim.Always(503))
		ep := w.NewEndpoint(before, func(e *kapsel.Endpoint) { slowly(e); e.Retry.Base = time.Minute })
		p := w.Start()
		id := p.Event(ep, "x")
		w.Pass(time.Second)
		w.Patch(ep, func(e *kapsel.Endpoint) {
			e.URL, e.Timeout = after.URL(), time.Second
			e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 4, Base: time.Second, Max: time.Second}
			e.Headers.Set = map[string]kapsel.Secret{"X-New": w.Seal(e, "1")}
		})
		w.UntilDone(2 * time.Minute)
		if before.Count() != 1 || after.Count() != 3 {
			t.Errorf("%d requests before, %d after; want 1 and 3", before.Count(), after.Count())
		}
		within(t, gaps(after), []time.Duration{time.Second, time.Second})
		for _, r := range after.Requests() {
			if r.Header.Get("X-New") != "1" {
				t.Error("a header that was set is missing")
			}
		}
		if got := w.Delivery(id); got.Status != kapsel.DeadLetter || got.Attempts != 4 {
			t.Errorf("the delivery is %+v", got)
		}
		balanced(t, p)
	})
}

// TestPatch_Concurrency checks that a changed concurrency applies to a backlog under way.
func TestPatch_Concurrency(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(300*time.Millisecond))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		backlog(w, p, 1500, ep)
		w.Pass(2 * time.Second)
		if now, _ := d.Open(); now < 20 {
			t.Fatalf("%d exchanges at once", now)
		}
		for _, limit := range []int{3, 1, 30, 2} {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.Concurrency = limit })
			w.Pass(obeyed + 400*time.Millisecond)
			for range 10 {
				now, _ := d.Open()
				if now > limit || limit < 10 && now < limit {
					t.Errorf("%d exchanges at once, limit %d", now, limit)
				}
				w.Pass(73 * time.Millisecond)
			}
			w.Pass(3 * time.Second)
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.Concurrency = 100 })
		w.UntilDone(time.Minute)
		balanced(t, p)
	})
}

// TestPatch_Rate checks that a rate limit can be set, changed and removed.
func TestPatch_Rate(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", ends(100*time.Millisecond))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		backlog(w, p, 1500, ep)
		for _, rate := range []float64{10, 1, 30} {
			w.Patch(ep, func(e *kapsel.Endpoint) { e.RateLimit = &kapsel.RateLimit{PerSecond: rate, Burst: 1} })
			w.Pass(obeyed)
			n := d.Count()
			w.Pass(20 * time.Second)
			if got := float64(d.Count()-n) / 20; got > rate*1.1+0.1 || got < rate*0.9-0.1 {
				t.Errorf("%v a second, limit %v", got, rate)
			}
		}
		w.Patch(ep, func(e *kapsel.Endpoint) { e.RateLimit = nil })
		w.UntilDone(time.Minute)
		balanced(t, p)
	})
}

// TestRetryAndCancel checks that a person's retry starts the next attempt now and a cancel ends the
// delivery.
func TestRetryAndCancel(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(500))
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		id := p.Event(ep, "x")
		w.Pass(10 * time.Second)
		move := func(h kapsel.Transition) error {
			_, err := w.Store().MoveDelivery(context.Background(), kapsel.TenantID{}, w.Delivery(id).ID, h, p.Clock.Now())
			return err
		}
		if why := p.Engine.Why(ep, w.Delivery(id)); why != "retry" {
			t.Errorf("it waits for %q, want retry", why)
		}
		if err := move(kapsel.Retry{}); err != nil {
			t.Fatal(err)
		}
		w.Pass(2 * time.Second)
		if d.Count() != 2 {
			t.Fatalf("%d requests after a retry, want 2", d.Count())
		}
		if err := move(kapsel.Cancel{}); err != nil {
			t.Fatal(err)
		}
		w.Pass(30 * time.Minute)
		if got := w.Delivery(id); got.Status != kapsel.Canceled || d.Count() != 2 {
			t.Errorf("it is %s, with %d requests", got.Status, d.Count())
		}
		if err := move(kapsel.Retry{}); kapsel.CodeOf(err) != kapsel.Conflict {
			t.Errorf("retrying what is terminal: %v", err)
		}
		balanced(t, p)
	})
}

// TestReplay checks that a replay makes a new delivery beside the old one.
func TestReplay(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(404))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		id := p.Event(ep, "x")
		w.Pass(time.Second)
		d.Script(sim.Always(200))
		again, err := w.Store().Replay(context.Background(), kapsel.TenantID{}, id, kapsel.DeliveryID{}, p.Clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		w.UntilDone(5 * time.Second)
		all := w.Deliveries(ep)
		if len(all) != 2 || all[0].ReplayedAs != again.ID || all[1].ReplayOf != all[0].ID || all[1].Status != kapsel.Delivered {
			t.Errorf("the deliveries are %+v", all)
		}
		if r := d.Requests(); len(r) != 2 || r[1].Number != 1 || r[0].Event != r[1].Event {
			t.Errorf("%d requests", len(r))
		}
		for _, off := range p.Engine.Books() {
			t.Error(off)
		}
	})
}

// TestDue checks that a delivery that a person made or moved starts at once, before the next list
// of the backlog.
func TestDue(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(500))
		ep := w.NewEndpoint(d, slowly)
		p := w.Start()
		id := p.Event(ep, "x")
		w.Pass(10*time.Second + 100*time.Millisecond) // between two lists
		delivery, err := w.Store().MoveDelivery(context.Background(), kapsel.TenantID{}, w.Delivery(id).ID, kapsel.Retry{}, p.Clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		d.Script(sim.Always(404))
		p.Engine.Due(delivery)
		w.Pass(10 * time.Millisecond)
		if d.Count() != 2 {
			t.Fatalf("%d requests after a retry, want 2", d.Count())
		}
		if delivery, err = w.Store().Replay(context.Background(), kapsel.TenantID{}, id, kapsel.DeliveryID{}, p.Clock.Now()); err != nil {
			t.Fatal(err)
		}
		p.Engine.Due(delivery)
		w.Pass(10 * time.Millisecond)
		if d.Count() != 3 {
			t.Fatalf("%d requests after a replay, want 3", d.Count())
		}
		if _, err = w.Store().Replay(context.Background(), kapsel.TenantID{}, id, kapsel.DeliveryID{}, p.Clock.Now()); err != nil {
			t.Fatal(err)
		}
		d.Script(sim.Always(200))
		p.Engine.DueAnywhere()
		w.Pass(10 * time.Millisecond)
		if d.Count() != 4 {
			t.Fatalf("%d requests after a replay of many, want 4", d.Count())
		}
		for _, off := range p.Engine.Books() {
			t.Error(off)
		}
	})
}

// TestClockJumps_FC3 checks that overdue work drains after the store's clock has jumped,
// nothing is sent early or twice, and new work is not held up.
func TestClockJumps_FC3(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
			var offset atomic.Int64 // ns
			w.Wrap = func(_ *sim.Process, s store.Store) store.Store { return skewed{s, &offset} }
			d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
				if string(r.Body) == "fails" && r.Number == 1 {
					return sim.Answer{Status: 500}
				}
				return sim.Answer{Status: 200, After: 10 * time.Millisecond}
			})
			slow := w.Net.Destination("slow.example", func(*sim.Request) sim.Answer { return sim.Answer{Hang: true} })
			ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { slowly(e); e.Retry.Base = 10 * time.Minute })
			limited := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.RateLimit = &kapsel.RateLimit{PerSecond: 5, Burst: 1} })
			hangs := w.NewEndpoint(slow, func(e *kapsel.Endpoint) { e.Circuit = never })
			p := w.Start()
			for range 4 {
				p.Event(ep, "fails")
			}
			for range 10 {
				p.Event(hangs, "x")
				p.Event(limited, "x")
			}
			w.Pass(time.Minute)
			offset.Store(int64(jump))
			w.Pass(11 * time.Second) // a node asks every 10 s
			sent := d.Count()
			for range 50 {
				p.Event(ep, "x")
			}
			for range 20 {
				p.Event(limited, "x")
			}
			w.Pass(10 * time.Second)
			fresh := 0
			for _, r := range d.Requests()[sent:] { // among retries that are overdue now
				if string(r.Body) == "x" {
					fresh++
				}
			}
			if fresh != 70 {
				t.Errorf("jump %v: %d of 70 new events were sent", jump, fresh)
			}
			slow.Script(sim.Always(200))
			w.UntilDone(3 * time.Hour)
			for _, r := range d.Requests() {
				if r.Number > 2 {
					t.Errorf("jump %v: attempt %d", jump, r.Number)
				}
			}
			balanced(t, p)
		})
	}
}

// skewed is a store whose clock is off.
type skewed struct {
	store.Store
	offset *atomic.Int64
}

func (s skewed) Time(context.Context) (time.Time, error) {
	return time.Now().Add(time.Duration(s.offset.Load())), nil
}

// TestDelete_Backlog checks that canceling a long backlog of a deleted endpoint does not hold up
// other endpoints.
func TestDelete_Backlog(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		hold := make(chan struct{})
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store {
			return storetest.Faulty(db, func(method string) storetest.Fault {
				if method == "CancelWaiting" {
					<-hold
				}
				return storetest.NoFault
			})
		}
		d := w.Net.Destination("shop.example", sim.Always(200))
		deleted, other := w.NewEndpoint(d, nil), w.NewEndpoint(d, nil)
		w.Pending(deleted, "canceled")
		w.Delete(deleted)
		p := w.Start()
		w.Pass(5 * time.Second)
		id := w.Pending(other, "sent")
		w.Pass(5 * time.Second)
		if got := w.Delivery(id); got.Status != kapsel.Delivered {
			t.Errorf("while a deleted endpoint's backlog is canceled, another's delivery is %s", got.Status)
		}
		close(hold)
		w.UntilDone(10 * time.Second)
		balanced(t, p)
	})
}

// TestGone_FormerURL checks that a 410 from the URL that an endpoint had when the request was sent
// does not disable the endpoint under its new URL.
func TestGone_FormerURL(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		former := w.Net.Destination("former.example", func(*sim.Request) sim.Answer { return sim.Answer{Status: 410, After: 5 * time.Second} })
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(former, nil)
		p := w.Start()
		first := p.Event(ep, "x")
		w.Pass(time.Second)
		w.Patch(ep, func(e *kapsel.Endpoint) { e.URL = d.URL() })
		w.Pass(10 * time.Second)
		if got := w.Delivery(first); got.Status != kapsel.Failed || got.LastStatusCode != 410 {
			t.Errorf("the delivery that was answered 410 is %+v", got)
		}
		if got := w.Endpoint(ep); got.State != kapsel.EndpointActive {
			t.Errorf("the endpoint is %s (%s)", got.State, got.DisabledReason)
		}
		second := p.Event(ep, "y")
		w.Pass(time.Second)
		if got := w.Delivery(second); got.Status != kapsel.Delivered {
			t.Errorf("the next delivery is %s", got.Status)
		}
		balanced(t, p)
	})
}

// TestGone_SameDestination checks that a 410 disables an endpoint of whose URL only the query was changed
// during the exchange.
func TestGone_SameDestination(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("gone.example", func(*sim.Request) sim.Answer { return sim.Answer{Status: 410, After: 5 * time.Second} })
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		p.Event(ep, "x")
		w.Pass(time.Second)
		w.Patch(ep, func(e *kapsel.Endpoint) { e.URL = d.URL() + "?a=b" })
		w.Pass(10 * time.Second)
		if got := w.Endpoint(ep); got.State != kapsel.EndpointDisabled {
			t.Errorf("the endpoint is %s", got.State)
		}
		balanced(t, p)
	})
}

// TestForget checks that the node drops an endpoint from memory once it is deleted or idle for
// long, and nothing of it runs or waits, and that waiting deliveries go on.
func TestForget(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		slow := w.Net.Destination("slow.example", ends(3*time.Minute))
		var endpoints []*kapsel.Endpoint
		for range 40 {
			endpoints = append(endpoints, w.NewEndpoint(d, nil))
		}
		running := w.NewEndpoint(slow, func(e *kapsel.Endpoint) { e.Timeout = 5 * time.Minute })
		retried := w.NewEndpoint(w.Net.Destination("down.example", sim.Always(500)), func(e *kapsel.Endpoint) {
			e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 100, Base: 2 * time.Hour, Max: 2 * time.Hour}
		})
		paused := w.NewEndpoint(d, nil)
		p := w.Start()
		kept := func(what string, want int) {
			t.Helper()
			gates, recipients := p.Engine.Kept()
			if gates != want || recipients > gates {
				t.Errorf("%s: %d gates and %d recipients are kept, want %d", what, gates, recipients, want)
			}
		}
		for _, ep := range append([]*kapsel.Endpoint{running, retried}, endpoints...) {
			p.Event(ep, "x")
		}
		backlog(w, p, 1, paused)
		w.Patch(paused, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
		w.Pass(time.Second)
		waits := p.Event(paused, "waits")
		kept("all in use", 43)
		for _, ep := range endpoints[:30] {
			w.Delete(ep)
		}
		w.Delete(running)
		w.Pass(obeyed)
		if _, recipients := p.Engine.Kept(); recipients > 13 {
			t.Errorf("%d recipients, which hold secrets, are kept of 13 endpoints that are not deleted", recipients)
		}
		w.Pass(2*time.Minute - obeyed)
		kept("30 deleted, one of them under way", 13)
		w.Pass(3 * time.Minute)
		kept("it has ended", 12)
		w.Pass(70 * time.Minute)
		kept("10 idle", 2)
		for _, ep := range endpoints[30:] {
			p.Event(ep, "again")
		}
		kept("in use again", 12)
		w.Patch(paused, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.Pass(2 * time.Second)
		if got := w.Delivery(waits); got.Status != kapsel.Delivered {
			t.Errorf("what waited for a paused endpoint is %s", got.Status)
		}
		w.Patch(retried, func(e *kapsel.Endpoint) { e.URL = d.URL() })
		w.UntilDone(3 * time.Hour)
		balanced(t, p)
	})
}
