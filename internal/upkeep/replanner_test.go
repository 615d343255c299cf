package upkeep_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// tenHours is an answer after which a delivery waits for long.
var tenHours = kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, Retry: true, Delay: 10 * time.Hour, MaxAttempts: 20}

// plan has the endpoint retry after a minute from now on.
func (w *replays) plan() {
	w.Helper()
	_, err := w.Store.UpdateEndpoint(w.Context(), kapsel.TenantID{}, w.Endpoint.ID, func(e *kapsel.Endpoint) error {
		e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 20, Base: time.Minute, Max: time.Minute}
		return nil
	})
	w.Must(err)
}

// replans runs a Replanner of a node of its own, with the settings that wake it, until the
// function that it returns is called.
func (w *replays) replans(s store.Store) (stop func()) {
	w.Helper()
	clock, err := clock.New(w.Context(), w.Store)
	w.Must(err)
	log := slog.New(slog.DiscardHandler)
	r := upkeep.NewReplanner(s, clock, kapsel.NewNodeID(clock.Now()), log)
	cache := settings.NewCache(w.Store)
	cache.OnChange(r.Changed)
	w.Must(cache.Load(w.Context()))
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan struct{}, 2)
	go func() { r.Run(ctx); ended <- struct{}{} }()
	go func() { cache.Run(ctx, log); ended <- struct{}{} }()
	return func() { cancel(); <-ended; <-ended }
}

// late counts the deliveries that are due later than a minute's plan allows, and reports
// whether the endpoint is marked.
func (w *replays) late() (n int, marked bool) {
	w.Helper()
	p := store.Page[kapsel.DeliveryID]{Limit: 200}
	for {
		page, err := w.Store.ListDeliveries(w.Context(), kapsel.TenantID{}, store.DeliveryFilter{}, p)
		w.Must(err)
		for _, d := range page {
			if time.Until(d.DueAt) > 75*time.Second {
				n++
			}
		}
		if len(page) < p.Limit {
			break
		}
		p.Before = page[len(page)-1].ID
	}
	all, err := w.Store.Replanning(w.Context(), 10)
	w.Must(err)
	return n, len(all) > 0
}

// TestReplanner checks that waiting deliveries follow a change at once, and that a delivery that a
// node records by the former policy a moment later follows, too.
func TestReplanner(t *testing.T) {
	inBubble(t, 0, func(w *replays) {
		w.Accept(1200)
		w.Answer(tenHours)
		w.Answer(tenHours) // claims are of 1000
		defer w.replans(w.Store)()
		defer w.replans(w.Store)() // a second node does no harm
		w.Pass(time.Minute)
		if n, marked := w.late(); n != 1200 || marked {
			t.Fatalf("%d wait for long, marked: %v", n, marked)
		}
		w.plan()
		w.Pass(3 * time.Second)
		if n, marked := w.late(); n != 0 || !marked {
			t.Errorf("after the change %d still wait for long, marked: %v", n, marked)
		}
		w.Answer(tenHours) // those that were due, by a node that has not read the change
		if n, _ := w.late(); n == 0 {
			t.Fatal("nothing was recorded by the former plan")
		}
		w.Pass(15 * time.Second)
		if n, marked := w.late(); n != 0 || marked {
			t.Errorf("at the end %d still wait for long, marked: %v", n, marked)
		}
	})
}

// TestReplanner_FaultsAndRestarts checks that all waiting deliveries are rescheduled, and the mark
// is then removed, although steps fail before and after they are written and the process is
// replaced.
func TestReplanner_FaultsAndRestarts(t *testing.T) {
	inBubble(t, 0, func(w *replays) {
		w.Accept(1000)
		w.Answer(tenHours)
		faults, stops := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4)) // one for each goroutine
		faulty := storetest.Faulty(w.Store, func(method string) storetest.Fault {
			if method == "Replan" || method == "Replanned" || method == "Replanning" || method == "Lead" {
				return storetest.Fault(faults.IntN(3))
			}
			return storetest.NoFault
		})
		w.plan()
		for range 10 {
			stop := w.replans(faulty)
			w.Pass(time.Duration(stops.IntN(int(5 * time.Second))))
			stop()
		}
		defer w.replans(w.Store)()
		w.Pass(time.Minute)
		if n, marked := w.late(); n != 0 || marked {
			t.Errorf("%d still wait for long, marked: %v", n, marked)
		}
	})
}

// endless is a store in which an endpoint's waiting deliveries never end.
type endless struct {
	store.Store
	endpoint kapsel.EndpointID
}

func (e *endless) Replan(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, after store.Due, limit int) (store.Due, bool, error) {
	if endpoint == e.endpoint {
		time.Sleep(50 * time.Millisecond)
		return after, true, nil
	}
	return e.Store.Replan(ctx, endpoint, now, after, limit)
}

// TestReplanner_OthersGoOn checks that an endpoint's waiting deliveries follow a change although another
// endpoint has more of them than can be looked at.
func TestReplanner_OthersGoOn(t *testing.T) {
	inBubble(t, 0, func(w *replays) {
		now := time.Now().UTC()
		for _, at := range []time.Time{now.Add(-time.Hour), now.Add(time.Hour)} { // IDs before and after that of the world's endpoint
			other := kapsel.Endpoint{ID: kapsel.NewEndpointID(at), TenantID: w.Endpoint.TenantID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now}
			w.Must(w.Store.CreateEndpoint(w.Context(), other, 0))
			_, err := w.Store.UpdateEndpoint(w.Context(), other.TenantID, other.ID, func(e *kapsel.Endpoint) error {
				e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 20, Base: time.Minute, Max: time.Minute}
				return nil
			})
			w.Must(err)
			stop := w.replans(&endless{w.Store, other.ID})
			w.Accept(600)
			w.Answer(tenHours)
			w.Pass(time.Second)
			w.plan()
			w.Pass(10 * time.Second)
			if n, _ := w.late(); n != 0 {
				t.Errorf("%d still wait for long", n)
			}
			stop()
		}
	})
}
