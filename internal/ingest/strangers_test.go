package ingest_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// stranger returns an endpoint that nobody has made.
func stranger() *kapsel.Endpoint { return &kapsel.Endpoint{ID: kapsel.NewEndpointID(time.Now())} }

// TestStrangers checks that requests for IDs that nobody has cost the store a limited number of
// look-ups a second, that the answer is 404 only if the store was asked and 503 otherwise, and that
// known endpoints are served.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		w := sim.New(t, sim.Options{Wrap: func(_ *sim.Process, s store.Store) store.Store {
			return storetest.Faulty(s, func(method string) storetest.Fault {
				if method == "Endpoint" {
					asked.Add(1)
				}
				return storetest.NoFault
			})
		}})
		ep := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), nil)
		p := w.Start()
		post := func(n int) (answers map[int]int) {
			answers = map[int]int{}
			for range n {
				status, _ := p.Post(stranger(), "x")
				answers[status]++
			}
			return answers
		}
		before := asked.Load()
		got := post(5000)
		if n := int(asked.Load() - before); got[404] != n || got[503] != 5000-n || n != 1000 {
			t.Errorf("at once: answers %v, the store was asked %d times, want 1000", got, n)
		}
		p.Event(ep, "x")
		w.Pass(time.Second)
		before = asked.Load()
		got = post(1000)
		if n := int(asked.Load() - before); got[404] != n || got[503] != 1000-n || n != 200 {
			t.Errorf("a second later: answers %v, the store was asked %d times, want 200", got, n)
		}
		w.UntilDone(time.Minute)
	})
}

// TestStrangers_AtOnce checks that few such look-ups wait for a slow store, that the others soon
// get 503, and that known endpoints are served.
func TestStrangers_AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		var held atomic.Int64
		w := sim.New(t, sim.Options{Wrap: func(_ *sim.Process, s store.Store) store.Store {
			return storetest.Faulty(s, func(method string) storetest.Fault {
				if method == "Endpoint" {
					held.Add(1)
					<-hold
				}
				return storetest.NoFault
			})
		}})
		known := w.NewEndpoint(w.Net.Destination("shop.example", sim.Always(200)), nil)
		p := w.Start()
		synctest.Wait() // p has read the settings
		// On another node, just now.
		young := w.NewEndpoint(w.Net.Destination("new.example", sim.Always(200)), nil)
		var wg sync.WaitGroup
		var missing, unknown, accepted atomic.Int64
		for i := range 50 {
			wg.Go(func() {
				ep := stranger()
				if i == 0 {
					ep = young
				}
				switch status, _ := p.Post(ep, "x"); status {
				case 200:
					accepted.Add(1)
				case 404:
					missing.Add(1)
				case 503:
					unknown.Add(1)
				default:
					t.Errorf("answered %d", status)
				}
			})
			synctest.Wait()
		}
		if n := held.Load(); n != 8 {
			t.Errorf("%d look-ups at once, want 8", n)
		}
		p.Event(known, "x")
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if n := unknown.Load(); n != 42 {
			t.Errorf("%d are answered 503 after a second, want the 42 that found no place", n)
		}
		close(hold)
		wg.Wait()
		if missing.Load() != 7 || accepted.Load() != 1 {
			t.Errorf("%d answered 404 and %d 200, want 7 and the new endpoint's", missing.Load(), accepted.Load())
		}
		w.UntilDone(time.Minute)
	})
}
