package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// RunReopen checks what a store keeps when it is closed and opened again. open gives a new,
// empty store and a function that opens the same database again, once the first is closed.
func RunReopen(t *testing.T, open func(t *testing.T) (s store.Store, reopen func() store.Store)) {
	for _, p := range reopening {
		t.Run(p.text, func(t *testing.T) {
			s, reopen := open(t)
			p.check(newWorld(t, s), reopen)
		})
	}
}

// reopening are the promises of Close.
var reopening = []struct {
	text  string
	check func(w *world, reopen func() store.Store)
}{
	{"all that was written is there when it is opened again", func(w *world, reopen func() store.Store) {
		w.varied()
		w.newKey(w.tenant)
		_, err := w.store.SaveCircuit(w.ctx, kapsel.Circuit{EndpointID: w.endpoint.ID, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now})
		w.must(err)
		_, err = w.store.SetMeta(w.ctx, "check", []byte("value"))
		w.must(err)
		leads, err := w.store.Lead(w.ctx, "audit", w.node, w.now, lease)
		w.must(err)
		w.same("leads", true, leads)
		_, err = w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { e.EndpointConfig = w.fullConfig(); return nil })
		w.must(err)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.newEndpoint(w.tenant).ID, w.now))
		before := w.everything()

		w.must(w.store.Close())
		w.store = reopen()
		w.same("everything", before, w.everything())
		got, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, key("key 1")))
		w.must(err)
		w.same("a key that it remembers", true, got.Duplicate)
		leads, err = w.store.Lead(w.ctx, "audit", kapsel.NewNodeID(w.now), w.now, lease)
		w.must(err)
		w.same("another leads", false, leads)
		revision := w.settings(0).Revision
		w.newTenant()
		w.same("the counter goes on", revision+1, w.settings(0).Revision)
	}},

	{"F-A10 a replay goes on where it was before the store was closed", func(w *world, reopen func() store.Store) {
		for range 10 {
			w.finished(w.endpoint, refusal)
		}
		r := w.newReplay()
		made, more := w.step(r.ID, 4)
		w.same("made", 4, made)
		w.same("more", true, more)
		w.must(w.store.Close())
		w.store = reopen()
		w.same("made", 6, w.walkOut(r.ID, 4))
		w.same("created", 10, w.readReplay(r.ID).Created)
		w.same("deliveries", 20, len(w.deliveries(w.endpoint)))
	}},

	{"F-A10 replays of what is missing and of what waits go on where they were", func(w *world, reopen func() store.Store) {
		s := w.newSource()
		for range 10 {
			w.arrived(s)
			in := w.accept(w.endpoint, heldBy(w.node))
			w.complete(in.Deliveries[0], again)
			w.pass(time.Millisecond)
		}
		late := w.named(s.ID.String())
		w.must(w.store.CreateEndpoint(w.ctx, late, 0))
		w.pass(time.Second)
		replays := []kapsel.Replay{w.newReplay(ofMissing(late)), w.newReplay(ofWaiting)}
		for _, r := range replays {
			made, more := w.step(r.ID, 4)
			w.same("made", 4, made)
			w.same("more", true, more)
		}
		w.must(w.store.Close())
		w.store = reopen()
		for _, r := range replays {
			w.same("made", 6, w.walkOut(r.ID, 4))
			w.same("created", 10, w.readReplay(r.ID).Created)
		}
		w.same("deliveries", 10, len(w.deliveries(late)))
		w.same("due", 10, len(w.claim(w.endpoint)))
	}},

	{"Close waits for writes under way, and what was acknowledged is there", func(w *world, reopen func() store.Store) {
		const writers = 16
		var acknowledged sync.Map
		var count atomic.Int64
		enough := make(chan struct{})
		endpoint, now := w.endpoint, w.now
		w.together(writers+1, func(i int) error {
			if i == writers {
				<-enough
				return w.store.Close()
			}
			for {
				in := w.acceptance(endpoint)
				in.Event.ReceivedAt = now
				_, err := w.store.Accept(w.ctx, in)
				switch {
				case kapsel.CodeOf(err) == kapsel.DatabaseUnavailable:
					return nil
				case err != nil:
					return fmt.Errorf("accept while closing: %w", err)
				}
				acknowledged.Store(in.Deliveries[0].ID, in.Deliveries[0])
				if count.Add(1) == 200 {
					close(enough)
				}
			}
		})
		w.store = reopen()
		stored := map[kapsel.DeliveryID]kapsel.Delivery{}
		for _, d := range w.deliveries(endpoint) {
			stored[d.ID] = d
		}
		for id, want := range acknowledged.Range {
			w.same("acknowledged", want, stored[id.(kapsel.DeliveryID)])
		}
	}},

	{"a closed store says that it is unavailable", func(w *world, reopen func() store.Store) {
		in := w.accept(w.endpoint, heldBy(w.node))
		w.must(w.store.Close())
		_, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint))
		w.refused(err, kapsel.DatabaseUnavailable, "Accept")
		w.refused(w.store.Complete(w.ctx, w.completion(in.Deliveries[0], ok)), kapsel.DatabaseUnavailable, "Complete")
		_, _, err = w.store.Claim(w.ctx, w.node, w.now, []store.Want{{EndpointID: w.endpoint.ID, Limit: 1}}, 1)
		w.refused(err, kapsel.DatabaseUnavailable, "Claim")
		_, err = w.store.Endpoint(w.ctx, w.tenant.ID, w.endpoint.ID)
		w.refused(err, kapsel.DatabaseUnavailable, "Endpoint")
		_, err = w.store.Event(w.ctx, w.tenant.ID, in.Event.ID)
		w.refused(err, kapsel.DatabaseUnavailable, "Event")
		w.refused(w.store.CreateEndpoint(w.ctx, w.endpointOf(w.tenant), 0), kapsel.DatabaseUnavailable, "CreateEndpoint")
		w.refused(w.store.Ping(w.ctx), kapsel.DatabaseUnavailable, "Ping")
		w.store = reopen()
		w.same("delivery", in.Deliveries[0], w.delivery(in.Deliveries[0].ID))
	}},
}

// everything is all that can be read of a store.
type everything struct {
	Settings store.Settings
	Meta     []byte
	Events   []store.EventRecord
	Attempts map[kapsel.DeliveryID][]kapsel.Attempt
	Held     []kapsel.Delivery
	Backlog  map[kapsel.EndpointID]time.Time
	Nodes    []kapsel.NodeID
}

func (w *world) everything() everything {
	w.t.Helper()
	all := everything{
		Settings: w.settings(0), Attempts: map[kapsel.DeliveryID][]kapsel.Attempt{}, Backlog: map[kapsel.EndpointID]time.Time{},
	}
	for _, r := range w.listEvents(kapsel.TenantID{}, store.EventFilter{}, 200) {
		r = w.event(r.Event.ID)
		all.Events = append(all.Events, r)
		for _, d := range r.Deliveries {
			all.Attempts[d.ID] = w.attempts(d.ID)
		}
	}
	var err error
	all.Meta, err = w.store.Meta(w.ctx, "check")
	w.must(err)
	all.Held, err = w.store.Held(w.ctx, w.node)
	w.must(err)
	all.Nodes, err = w.store.Nodes(w.ctx, w.now)
	w.must(err)
	backlog, err := w.store.Backlog(w.ctx)
	w.must(err)
	for _, b := range backlog {
		all.Backlog[b.EndpointID] = b.DueAt
	}
	return all
}
