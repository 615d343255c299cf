package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// calls are those of the store that the engine makes, and ingest's.
var calls = []string{
	"Accept", "Renew", "Nodes", "TakeOver", "Backlog", "Claim", "Complete", "GiveBack", "Held",
	"SaveCircuit", "Circuit", "DisableGone", "CancelWaiting", "Settings", "Follow", "Endpoint", "Tenant", "Leave",
}

// TestStoreFails is a life with everything in it (first sends, retries, a circuit that opens
// and closes, a hold, a 410, pause, deletion, a stop), in which the n-th call of one kind
// fails, done or not done. Nothing is lost, nothing is stuck, all books balance. With
// KAPSEL_CHAOS=full more calls fail, and several in a row.
func TestStoreFails(t *testing.T) {
	full := os.Getenv("KAPSEL_CHAOS") == "full"
	nth := []int{2}
	if full {
		nth = []int{1, 2, 4}
	}
	for _, method := range calls {
		for _, fault := range []storetest.Fault{storetest.NotPersisted, storetest.Persisted} {
			for _, from := range nth {
				t.Run(fmt.Sprint(method, "/persisted=", fault == storetest.Persisted, "/", from), func(t *testing.T) {
					life(t, breaks(method, from, from, fault))
				})
			}
			if !full {
				continue
			}
			t.Run(fmt.Sprint(method, "/persisted=", fault == storetest.Persisted, "/3 to 12"), func(t *testing.T) {
				life(t, breaks(method, 3, 12, fault))
			})
		}
	}
}

// breaks is a plan by which calls of a method go wrong, from one to another.
func breaks(method string, from, to int, fault storetest.Fault) func(string) storetest.Fault {
	var mu sync.Mutex
	n := 0
	return func(m string) storetest.Fault {
		if m != method {
			return storetest.NoFault
		}
		mu.Lock()
		defer mu.Unlock()
		if n++; n >= from && n <= to {
			return fault
		}
		return storetest.NoFault
	}
}

func life(t *testing.T, plan func(string) storetest.Fault) {
	in(t, sim.Options{Workers: 6, Level: 12}, func(t *testing.T, w *sim.World) {
		p := w.Start()
		p.Stop()
		w.Wrap = func(_ *sim.Process, db store.Store) store.Store { return storetest.Faulty(db, plan) }
		fast := func(e *kapsel.Endpoint) {
			e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 50, Base: time.Second, Max: time.Second}
			e.Circuit.OpenFor = 5 * time.Second
		}
		at := func(name string, script func(*sim.Request) sim.Answer) *kapsel.Endpoint {
			return w.NewEndpoint(w.Net.Destination(name+".example", script), fast)
		}
		good := at("good", ends(20*time.Millisecond))
		flaky := at("flaky", func(r *sim.Request) sim.Answer {
			if r.N%3 == 1 {
				return sim.Answer{Status: 503}
			}
			return sim.Answer{Status: 200, After: 10 * time.Millisecond}
		})
		down := at("down", func(r *sim.Request) sim.Answer {
			if time.Since(epoch) < 20*time.Second {
				return sim.Answer{Status: 500}
			}
			return sim.Answer{Status: 200}
		})
		busy := at("busy", ask(429, seconds(3)))
		gone := at("gone", sim.Always(410))
		deleted := at("deleted", ends(3*time.Second))
		paused := at("paused", ends(time.Second))

		p, err := w.TryStart()
		for try := 0; err != nil; try++ {
			if try == 60 {
				t.Fatalf("no process has started in a minute: %v", err)
			}
			w.Pass(time.Second)
			p, err = w.TryStart()
		}
		for i := range 12 {
			for _, ep := range []*kapsel.Endpoint{good, flaky, down, busy, deleted, paused} {
				p.Post(ep, "x")
			}
			if i == 3 {
				p.Post(gone, "x")
				w.Patch(paused, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused })
				w.Delete(deleted)
			}
			w.Pass(300 * time.Millisecond)
		}
		w.Pass(40 * time.Second)
		w.Patch(paused, func(e *kapsel.Endpoint) { e.State = kapsel.EndpointActive })
		w.UntilDone(3 * time.Minute)
		w.Pass(time.Second)
		balanced(t, p)
		if got := w.Endpoint(gone); got.State != kapsel.EndpointDisabled || got.DisabledReason != kapsel.DisabledGone {
			t.Errorf("after 410 the endpoint is %s (%s)", got.State, got.DisabledReason)
		}
		for _, ep := range []*kapsel.Endpoint{good, flaky, down, busy, paused} {
			for _, d := range w.Deliveries(ep) {
				if d.Status != kapsel.Delivered {
					t.Errorf("a delivery to %s is %s", ep.Name, d.Status)
				}
			}
		}
		p.Stop()
	})
}

// TestStoreDown_FB1 checks that events get 503 while the store is away, and exchanges which
// were running are recorded once it is back.
func TestStoreDown_FB1(t *testing.T) {
	in(t, sim.Options{Level: 12}, func(t *testing.T, w *sim.World) {
		var s switches
		w.Wrap = s.wrap
		d := w.Net.Destination("shop.example", ends(time.Second))
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		for range 20 {
			p.Event(ep, "x")
			w.Pass(100 * time.Millisecond)
		}
		s.fail("*")
		for range 30 {
			if status, _ := p.Post(ep, "x"); status != 503 {
				t.Fatalf("an event is answered %d while the store is down", status)
			}
			w.Pass(time.Second)
		}
		s.fail()
		w.UntilDone(30 * time.Second)
		if n := d.Count(); n != 20 {
			t.Errorf("%d requests, want 20", n)
		}
		balanced(t, p)
	})
}

// refuses is a store that cannot write attempts with a certain answer.
type refuses struct{ store.Store }

func (r refuses) Complete(ctx context.Context, done store.Completion) error {
	if string(done.Attempt.ResponseBody) == "poison" {
		return errors.New("a constraint failed")
	}
	return r.Store.Complete(ctx, done)
}

// TestPoison_Record_FF4d checks that an answer that the store refuses to record does not hold
// its delivery or a worker for ever.
func TestPoison_Record_FF4d(t *testing.T) {
	in(t, sim.Options{Workers: 2, Level: 12}, func(t *testing.T, w *sim.World) {
		w.Wrap = func(_ *sim.Process, s store.Store) store.Store { return refuses{s} }
		d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
			return sim.Answer{Status: 200, Body: string(r.Body)}
		})
		ep := w.NewEndpoint(d, nil)
		p := w.Start()
		id := p.Event(ep, "poison")
		for range 20 {
			p.Event(ep, "x")
		}
		w.UntilDone(time.Minute)
		if got := w.Delivery(id); got.Status != kapsel.DeadLetter || got.Attempts != kapsel.MaxTakeovers || got.LastErrorCode != kapsel.OutcomeUnknown {
			t.Errorf("it is %+v", got)
		}
		balanced(t, p)
	})
}
