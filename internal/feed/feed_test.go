package feed_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// counted is a stream that counts its readings, and fails them while it must.
type counted struct {
	store.Store
	n    atomic.Int64
	fail atomic.Bool
}

func (c *counted) StreamEvents(ctx context.Context, f store.StreamFilter, after store.Position, now time.Time, limit int) ([]store.Streamed, store.Position, bool, error) {
	c.n.Add(1)
	if c.fail.Load() {
		return nil, store.Position{}, false, store.Unavailable(errors.New("down"))
	}
	return c.Store.StreamEvents(ctx, f, after, now, limit)
}

// following is a world whose events a feed hands on.
type following struct{ *schematest.World }

// feeding is a feed that runs over a store in a bubble.
func feeding(t *testing.T, test func(w *following, db *counted, f *feed.Feed)) {
	schematest.InBubble(t, func(w *schematest.World) {
		db := &counted{Store: w.Store}
		clock, err := clock.New(w.Context(), db)
		w.Must(err)
		f := feed.New(db, clock, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); f.Run(ctx) }()
		test(&following{w}, db, f)
		cancel()
		<-ended
	})
}

// stored returns all events in the order of the stream.
func (w *following) stored() (ids []kapsel.EventID) {
	w.Helper()
	var at store.Position
	for more := true; more; {
		var events []store.Streamed
		var err error
		events, at, more, err = w.Store.StreamEvents(context.Background(), store.StreamFilter{}, at, time.Now(), 1000)
		w.Must(err)
		for _, e := range events {
			ids = append(ids, e.Event.ID)
		}
	}
	return ids
}

// follow adds a follower of everything, for an owner of its own.
func (w *following) follow(f *feed.Feed) *feed.Follower {
	w.Helper()
	l, err := f.Follow(context.Background(), feed.Owner{Tenant: kapsel.NewTenantID(time.Now())}, kapsel.KeyID{}, kapsel.TenantID{}, store.StreamFilter{}, nil)
	w.Must(err)
	return l
}

// TestFeedReadsOnceForAll checks that followers that have caught up cause no reading of their own,
// and that nothing is read while there are no followers.
func TestFeedReadsOnceForAll(t *testing.T) {
	feeding(t, func(w *following, db *counted, f *feed.Feed) {
		time.Sleep(time.Minute)
		if n := db.n.Load(); n != 0 {
			w.Errorf("%d readings for nobody", n)
		}
		end, err := db.StreamEnd(w.Context(), time.Now())
		w.Must(err)
		const all = 300
		followers, got := make([]*feed.Follower, all), make(chan []kapsel.EventID, all)
		for i := range followers {
			followers[i] = w.follow(f)
			go func() {
				var ids []kapsel.EventID
				at := end
				for {
					events, next, err := followers[i].Next(followers[i].Context(), at)
					if err != nil {
						got <- ids
						return
					}
					for _, e := range events {
						ids = append(ids, e.Event.ID)
					}
					at = next
				}
			}()
		}
		time.Sleep(time.Second)
		before := db.n.Load()
		w.Accept(3)
		time.Sleep(30 * time.Second)
		w.Accept(3)
		time.Sleep(30 * time.Second)
		if n := db.n.Load() - before; n > 4*60+2 {
			w.Errorf("%d readings in a minute for %d followers", n, all)
		}
		f.Stop()
		want := w.stored()
		for range all {
			if ids := <-got; !slices.Equal(ids, want) {
				w.Fatalf("a follower got %v, want %v", ids, want)
			}
		}
		for _, l := range followers {
			l.Leave()
		}
		if _, err := f.Follow(context.Background(), feed.Owner{}, kapsel.KeyID{}, kapsel.TenantID{}, store.StreamFilter{}, nil); kapsel.CodeOf(err) != kapsel.ShuttingDown {
			w.Errorf("after the stop: %v", err)
		}
	})
}

// TestFeedFilters checks that a follower gets what its filter lets through, of what it reads for
// itself and of what the feed has read.
func TestFeedFilters(t *testing.T) {
	feeding(t, func(w *following, db *counted, f *feed.Feed) {
		now := time.Now().UTC()
		src := kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: w.Endpoint.TenantID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
		w.Must(w.Store.CreateSource(w.Context(), src))
		arrive := func() kapsel.EventID {
			now := time.Now().UTC()
			e := kapsel.Event{ID: kapsel.NewEventID(now, 0), TenantID: src.TenantID, SourceID: src.ID, ReceivedAt: now}
			_, err := w.Store.Accept(w.Context(), store.Acceptance{Event: e})
			w.Must(err)
			return e.ID
		}
		w.Accept(2)
		want := []kapsel.EventID{arrive()}
		l, err := f.Follow(w.Context(), feed.Owner{Tenant: src.TenantID}, kapsel.KeyID{}, src.TenantID, store.StreamFilter{SourceID: src.ID}, nil)
		w.Must(err)
		defer l.Leave()
		var at store.Position
		for i := range 3 {
			events, next, err := l.Next(w.Context(), at)
			w.Must(err)
			if at = next; len(events) != 1 || events[0].Event.ID != want[i] {
				t.Fatalf("it got %d events, want %v", len(events), want[i])
			}
			w.Pass(time.Second) // the feed has read on
			w.Accept(2)
			want = append(want, arrive())
		}
	})
}

// TestFeedCatchesUp checks that a follower that is further behind than the feed keeps misses
// nothing and gets nothing twice, also while more events come and while the store fails.
func TestFeedCatchesUp(t *testing.T) {
	feeding(t, func(w *following, db *counted, f *feed.Feed) {
		w.Accept(1300)
		accepted := 1300
		early := w.follow(f) // which makes the feed run
		l := w.follow(f)
		var got []kapsel.EventID
		var at store.Position
		for round := 0; len(got) < 2800; round++ {
			if round == 1000 {
				w.Fatalf("after %d rounds there are %d events", round, len(got))
			}
			if (round%2 == 0 || len(got) == accepted) && accepted < 2800 {
				w.Accept(500)
				accepted += 500
			}
			down := round == 3
			if db.fail.Store(down); down {
				time.Sleep(5 * time.Second) // the feed sees it too
			}
			beat, cancel := context.WithTimeout(l.Context(), time.Second)
			events, next, err := l.Next(beat, at)
			cancel()
			if err != nil && (!down || len(events) > 0) {
				w.Fatal(err)
			}
			for _, e := range events {
				got = append(got, e.Event.ID)
			}
			at = next
		}
		if want := w.stored(); !slices.Equal(got, want) {
			w.Errorf("got %d events, want %d, or in another order", len(got), len(want))
		}
		beat, cancel := context.WithTimeout(l.Context(), time.Second)
		if events, _, err := l.Next(beat, at); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("at the end: %d events, %v", len(events), err)
		}
		cancel()
		l.Leave()
		early.Leave()
		synctest.Wait()
		n := db.n.Load()
		time.Sleep(time.Minute)
		if more := db.n.Load() - n; more > 1 {
			w.Errorf("%d readings after all have left", more)
		}
	})
}

// page adds a follower for a page that shows a tenant's events, or those of all tenants.
func (w *following) page(f *feed.Feed, tenant kapsel.TenantID) *feed.Follower {
	w.Helper()
	l, err := f.Follow(context.Background(), feed.Owner{Tenant: tenant, Pages: true}, kapsel.KeyID{}, tenant, store.StreamFilter{}, nil)
	w.Must(err)
	return l
}

// TestFeed_Newest checks that pages that look once a second get the newest events and the number of the others,
// without reading the store, whatever comes in; and that a page of a tenant with few events gets each of them.
func TestFeed_Newest(t *testing.T) {
	feeding(t, func(w *following, db *counted, f *feed.Feed) {
		now := time.Now().UTC()
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), CreatedAt: now, UpdatedAt: now}
		tenant.Name = "quiet"
		w.Must(w.Store.CreateTenant(w.Context(), tenant))
		src := kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: tenant.ID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
		w.Must(w.Store.CreateSource(w.Context(), src))
		at, err := db.StreamEnd(w.Context(), time.Now())
		w.Must(err)
		all, quiet := w.page(f, kapsel.TenantID{}), w.page(f, tenant.ID)
		defer all.Leave()
		defer quiet.Leave()
		time.Sleep(time.Second) // they have joined
		const n = 20
		look := func(l *feed.Follower, at *store.Position) feed.Batch {
			w.Helper()
			b, err := l.Newest(l.Context(), *at, n)
			w.Must(err)
			*at = b.At
			return b
		}
		atAll, atQuiet, counted := at, at, 0
		const flood = 1600 // events at once, which the feed does not read by one reading
		for second := range 4 {
			w.Accept(flood - 1)
			now := time.Now().UTC()
			e := kapsel.Event{ID: kapsel.NewEventID(now, 0), TenantID: tenant.ID, SourceID: src.ID, ReceivedAt: now}
			_, err := w.Store.Accept(w.Context(), store.Acceptance{Event: e})
			w.Must(err)
			time.Sleep(time.Second)
			before := db.n.Load()
			b := look(all, &atAll)
			if len(b.Events) != n || b.Gap || b.Events[n-1].Event.ID != e.ID {
				t.Errorf("in second %d the list of all has %d events, gap %t", second, len(b.Events), b.Gap)
			}
			if counted += n + b.Left; counted != (second+1)*flood {
				t.Errorf("in second %d the list of all has counted %d events of %d", second, counted, (second+1)*flood)
			}
			if b := look(quiet, &atQuiet); len(b.Events) != 1 || b.Left != 0 || b.Gap || b.Events[0].Event.ID != e.ID {
				t.Errorf("in second %d the list of the quiet tenant has %d events, %d left out, gap %t", second, len(b.Events), b.Left, b.Gap)
			}
			if read := db.n.Load() - before; read != 0 {
				t.Errorf("in second %d the pages caused %d readings", second, read)
			}
		}
		// A page that is opened between two readings counts what came in behind its position, and nothing else.
		w.Accept(flood)
		time.Sleep(300 * time.Millisecond) // the next reading is a second later
		w.Accept(100)
		atLate, err := db.StreamEnd(w.Context(), time.Now())
		w.Must(err)
		w.Accept(n + 10)
		late := w.page(f, kapsel.TenantID{})
		defer late.Leave()
		time.Sleep(3 * time.Second)
		if b := look(late, &atLate); len(b.Events) != n || b.Left != 10 || b.Gap {
			t.Errorf("a page that is opened meanwhile has %d events, %d left out, gap %t", len(b.Events), b.Left, b.Gap)
		}
		for range 3 { // nobody looks, for longer than events are kept
			w.Accept(flood)
			time.Sleep(time.Second)
		}
		before := db.n.Load()
		if b := look(all, &atAll); len(b.Events) != n {
			t.Errorf("after a pause the list has %d events", len(b.Events))
		}
		if read := db.n.Load() - before; read != 0 {
			t.Errorf("after a pause the page caused %d readings", read)
		}
	})
}

// TestFeed_Expanding checks that a follower of an endpoint gets the events whose deliveries to the
// endpoint are still to be made, and no event that the endpoint will not get.
func TestFeed_Expanding(t *testing.T) {
	feeding(t, func(w *following, db *counted, f *feed.Feed) {
		ep := kapsel.Endpoint{
			ID: kapsel.NewEndpointID(time.Now()), TenantID: w.Endpoint.TenantID, State: kapsel.EndpointActive,
			CreatedAt: time.Now(), UpdatedAt: time.Now(), Destination: 1,
		}
		ep.NoIngest, ep.Subscriptions = true, []kapsel.Subscription{{Source: kapsel.Publish, EventTypes: []string{"a"}}}
		w.Must(w.Store.CreateEndpoint(w.Context(), ep, 0))
		publish := func(eventType string, after kapsel.EndpointID) kapsel.EventID {
			w.Pass(time.Millisecond)
			p := kapsel.Publication{Type: eventType}
			e := p.Event(ep.TenantID, kapsel.AppID{}, time.Now().UTC())
			_, err := w.Store.Accept(w.Context(), store.Acceptance{Event: e, ExpandAfter: after})
			w.Must(err)
			return e.ID
		}
		ahead := kapsel.EndpointID{15: 1}
		want := []kapsel.EventID{publish("a", ahead)}
		publish("b", ahead)
		publish("a", ep.ID) // it was passed over
		l, err := f.Follow(w.Context(), feed.Owner{Tenant: ep.TenantID}, kapsel.KeyID{}, ep.TenantID, store.StreamFilter{EndpointID: ep.ID}, &ep)
		w.Must(err)
		defer l.Leave()
		var at store.Position
		next := func() {
			w.Helper()
			beat, cancel := context.WithTimeout(w.Context(), time.Minute)
			defer cancel()
			events, behind, err := l.Next(beat, at)
			w.Must(err)
			if at = behind; len(events) != 1 || events[0].Event.ID != want[len(want)-1] {
				t.Fatalf("it got %d events, want %v", len(events), want[len(want)-1])
			}
		}
		next()
		w.Pass(time.Second) // the feed has read on
		publish("b", ahead)
		want = append(want, publish("a", ahead))
		next()
		ep.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish, EventTypes: []string{"b"}}}
		f.Changed(store.Settings{Endpoints: []kapsel.Endpoint{ep}})
		publish("a", ahead)
		want = append(want, publish("b", ahead))
		next()
	})
}
