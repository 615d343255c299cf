package upkeep_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// expansions is a world with endpoints that get what is published.
type expansions struct {
	*schematest.World
	made atomic.Int64 // how often an expander said that it made deliveries
}

// publishing runs a test in a bubble where endpoints get what is published.
func publishing(t *testing.T, endpoints int, test func(w *expansions)) {
	schematest.InBubble(t, func(w *schematest.World) {
		for range endpoints {
			now := time.Now().UTC()
			e := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: w.Endpoint.TenantID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now, Destination: 1}
			e.NoIngest, e.Subscriptions = true, []kapsel.Subscription{{Source: kapsel.Publish}}
			w.Must(w.Store.CreateEndpoint(w.Context(), e, 0))
		}
		test(&expansions{World: w})
	})
}

// publish stores an event whose deliveries are all left to an expansion.
func (w *expansions) publish() kapsel.EventID {
	w.Helper()
	now := time.Now().UTC()
	p := kapsel.Publication{Type: "a"}
	e := p.Event(w.Endpoint.TenantID, kapsel.AppID{}, now)
	_, err := w.Store.Accept(w.Context(), store.Acceptance{Event: e, ExpandAfter: kapsel.EndpointID{15: 1}})
	w.Must(err)
	return e.ID
}

// deliveries counts those of an event, and says whether its expansion is open.
func (w *expansions) deliveries(id kapsel.EventID) (n int, expanding bool) {
	w.Helper()
	r, err := w.Store.Event(w.Context(), kapsel.TenantID{}, id)
	w.Must(err)
	return len(r.Deliveries), r.Expanding
}

// start runs an expander of a node of its own.
func (w *expansions) start(s store.Store) (x *upkeep.Expander, stop func()) {
	w.Helper()
	clock, err := clock.New(w.Context(), w.Store)
	w.Must(err)
	ctx, cancel := context.WithCancel(w.Context())
	x = upkeep.NewExpander(s, clock, kapsel.NewNodeID(clock.Now()), slog.New(slog.DiscardHandler), func() { w.made.Add(1) })
	done := make(chan struct{})
	go func() { x.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	w.Cleanup(stop)
	return x, stop
}

// TestExpander checks that an expansion is done in steps up to the last endpoint, at once if the
// expander is told of it, and within a second otherwise.
func TestExpander(t *testing.T) {
	publishing(t, 2*kapsel.MaxInline+1, func(w *expansions) {
		x, _ := w.start(w.Store)
		w.Pass(500 * time.Millisecond)
		told := w.publish()
		x.Opened()
		synctest.Wait()
		if n, expanding := w.deliveries(told); n != 2*kapsel.MaxInline+1 || expanding || w.made.Load() < 3 {
			t.Errorf("%d deliveries, expanding %t, told %d times of them", n, expanding, w.made.Load())
		}
		untold := w.publish()
		w.Pass(time.Second)
		if n, expanding := w.deliveries(untold); n != 2*kapsel.MaxInline+1 || expanding {
			t.Errorf("%d deliveries, expanding %t", n, expanding)
		}
	})
}

// TestExpander_OneNode checks that one node does the work at a time, and that another goes on after
// it has ended.
func TestExpander_OneNode(t *testing.T) {
	publishing(t, 3, func(w *expansions) {
		var calls [2]atomic.Int64
		counted := func(i int) store.Store {
			return storetest.Faulty(w.Store, func(method string) storetest.Fault {
				if method == "Expand" {
					calls[i].Add(1)
				}
				return storetest.NoFault
			})
		}
		_, stop := w.start(counted(0))
		w.publish()
		w.Pass(1500 * time.Millisecond)
		w.start(counted(1))
		second := w.publish()
		w.Pass(2 * time.Second)
		if n, expanding := w.deliveries(second); n != 3 || expanding || calls[1].Load() > 0 {
			t.Errorf("%d deliveries, expanding %t; the second node made %d steps", n, expanding, calls[1].Load())
		}
		stop()
		third := w.publish()
		w.Pass(10 * time.Second)
		if n, expanding := w.deliveries(third); n != 3 || expanding || calls[1].Load() == 0 {
			t.Errorf("%d deliveries, expanding %t; the second node made %d steps", n, expanding, calls[1].Load())
		}
	})
}

// TestExpander_Trouble checks that a step that the store refuses is tried again, and that a step
// whose commit was not confirmed repeats nothing.
func TestExpander_Trouble(t *testing.T) {
	publishing(t, 3, func(w *expansions) {
		var n atomic.Int64
		failing := storetest.Faulty(w.Store, func(method string) storetest.Fault {
			if method != "Expand" {
				return storetest.NoFault
			}
			switch n.Add(1) {
			case 1:
				return storetest.NotPersisted
			case 2:
				return storetest.Persisted
			}
			return storetest.NoFault
		})
		w.start(failing)
		id := w.publish()
		w.Pass(5 * time.Second)
		if n, expanding := w.deliveries(id); n != 3 || expanding {
			t.Errorf("%d deliveries, expanding %t", n, expanding)
		}
	})
}

// refusing is a store that cannot expand an event.
type refusing struct {
	store.Store
	event kapsel.EventID
}

func (r *refusing) Expand(ctx context.Context, event kapsel.EventID, now time.Time, limit int) (int, bool, error) {
	if event == r.event {
		return 0, false, store.Unavailable(storetest.ErrInjected)
	}
	return r.Store.Expand(ctx, event, now, limit)
}

// TestExpander_OthersGoOn checks that an expansion that always fails slows down no other: in one turn another
// event gets all of its deliveries.
func TestExpander_OthersGoOn(t *testing.T) {
	publishing(t, 2*kapsel.MaxInline+1, func(w *expansions) {
		bad := w.publish()
		time.Sleep(time.Millisecond)
		x, _ := w.start(&refusing{w.Store, bad})
		w.Pass(100 * time.Millisecond)
		good := w.publish()
		x.Opened()
		synctest.Wait()
		if n, expanding := w.deliveries(good); n != 2*kapsel.MaxInline+1 || expanding {
			t.Errorf("%d deliveries, expanding %t", n, expanding)
		}
		if n, expanding := w.deliveries(bad); n != 0 || !expanding {
			t.Errorf("of the bad one %d deliveries, expanding %t", n, expanding)
		}
	})
}

// stuck is a store whose steps for one expansion take until their statement's time-out, and fail.
type stuck struct {
	store.Store
	event kapsel.EventID
}

func (s *stuck) Expand(ctx context.Context, event kapsel.EventID, now time.Time, limit int) (int, bool, error) {
	if event != s.event {
		return s.Store.Expand(ctx, event, now, limit)
	}
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
	}
	return 0, false, store.Unavailable(errors.New("canceling statement due to statement timeout"))
}

// TestExpander_OthersGoOnBesideASlowOne checks that an expansion whose steps run into the statement's time-out does
// not take the time of the others, before it or behind it.
func TestExpander_OthersGoOnBesideASlowOne(t *testing.T) {
	publishing(t, 2*kapsel.MaxInline+1, func(w *expansions) {
		bad := w.publish()
		time.Sleep(time.Millisecond)
		w.start(&stuck{w.Store, bad})
		for n := range 5 {
			good := w.publish()
			w.Pass(7 * time.Second)
			if n, expanding := w.deliveries(good); n != 2*kapsel.MaxInline+1 || expanding {
				t.Errorf("%d deliveries, expanding %t", n, expanding)
			}
			if n%2 == 0 {
				w.Pass(30 * time.Second)
			}
		}
	})
}
