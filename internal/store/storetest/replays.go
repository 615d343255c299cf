package storetest

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// replay is a running replay of all that the world's tenant has, as of now.
func (w *world) replay(changes ...func(*kapsel.Replay)) kapsel.Replay {
	r := kapsel.Replay{
		ID: kapsel.NewReplayID(w.now), TenantID: w.tenant.ID, Since: noon.Add(-time.Hour),
		Statuses: []kapsel.DeliveryStatus{kapsel.Failed, kapsel.DeadLetter}, Rate: 50, Status: kapsel.ReplayRunning, CreatedAt: w.now,
	}
	for _, change := range changes {
		change(&r)
	}
	return r
}

func (w *world) newReplay(changes ...func(*kapsel.Replay)) kapsel.Replay {
	w.t.Helper()
	r := w.replay(changes...)
	w.must(w.store.CreateReplay(w.ctx, r))
	return r
}

func (w *world) readReplay(id kapsel.ReplayID) kapsel.Replay {
	w.t.Helper()
	r, err := w.store.ReadReplay(w.ctx, kapsel.TenantID{}, id)
	w.must(err)
	return r
}

// step is StepReplay, where it must work.
func (w *world) step(id kapsel.ReplayID, limit int) (made int, more bool) {
	w.t.Helper()
	made, more, err := w.store.StepReplay(w.ctx, id, w.now, limit)
	w.must(err)
	if made > limit {
		w.t.Fatalf("a step made %d, its limit is %d", made, limit)
	}
	return made, more
}

// walkOut makes steps until there is no more to make, and counts what they made.
func (w *world) walkOut(id kapsel.ReplayID, limit int) (made int) {
	w.t.Helper()
	for steps := 0; ; steps++ {
		n, more := w.step(id, limit)
		made += n
		if !more {
			return made
		}
		if steps > 10_000 {
			w.t.Fatal("the set does not end")
		}
	}
}

// madeTogether goes on with two replays, twice each, and calls single with each event, twice, all at
// the same time. It returns how many deliveries the replays and the calls made; a Conflict is the
// answer of a call that made none.
func (w *world) madeTogether(one, two kapsel.Replay, events []kapsel.EventID, single func(kapsel.EventID) error) int {
	w.t.Helper()
	var made atomic.Int32
	w.together(6, func(i int) error {
		if i < 2 {
			for _, id := range events {
				switch err := single(id); {
				case err == nil:
					made.Add(1)
				case kapsel.CodeOf(err) != kapsel.Conflict:
					return err
				}
			}
			return nil
		}
		for {
			_, more, err := w.store.StepReplay(w.ctx, []kapsel.Replay{one, two}[i%2].ID, w.now, 3)
			if err != nil || !more {
				return err
			}
		}
	})
	return w.readReplay(one.ID).Created + w.readReplay(two.ID).Created + int(made.Load())
}

// members are the deliveries that a replay would repeat now.
func (w *world) members(r kapsel.Replay) map[kapsel.DeliveryID]kapsel.Delivery {
	w.t.Helper()
	set := map[kapsel.DeliveryID]kapsel.Delivery{}
	for _, e := range w.listEvents(r.TenantID, store.EventFilter{}, 200) {
		if _, err := w.store.Endpoint(w.ctx, r.TenantID, e.Event.EndpointID); kapsel.CodeOf(err) == kapsel.NotFound {
			continue
		}
		for _, d := range e.Deliveries {
			if r.Has(&d, e.Event.ReceivedAt) {
				set[d.ID] = d
			}
		}
	}
	return set
}

// replaying are the promises of Replays.
var replaying = []promise{
	{"a replay comes back as it was made, and in lists, newest first", func(w *world) {
		first := w.newReplay(func(r *kapsel.Replay) {
			r.EndpointID, r.Until, r.Rate, r.Total = w.endpoint.ID, w.now, 1000, 1_000_000
			r.Statuses = []kapsel.DeliveryStatus{kapsel.Delivered, kapsel.Failed, kapsel.DeadLetter, kapsel.Canceled}
		})
		w.pass(time.Second)
		second := w.newReplay()
		w.pass(time.Second)
		other := w.newTenant().ID
		third := w.newReplay(func(r *kapsel.Replay) { r.TenantID = other })
		w.refused(w.store.CreateReplay(w.ctx, first), kapsel.Conflict, "an id that is taken")
		w.same("first", first, w.readReplay(first.ID))
		for _, tt := range []struct {
			tenant kapsel.TenantID
			want   []kapsel.Replay
		}{{w.tenant.ID, []kapsel.Replay{second, first}}, {other, []kapsel.Replay{third}}, {kapsel.TenantID{}, []kapsel.Replay{third, second, first}}} {
			var got []kapsel.Replay
			p := store.Page[kapsel.ReplayID]{Limit: 1}
			for range tt.want {
				page, err := w.store.ListReplays(w.ctx, tt.tenant, p)
				w.must(err)
				got = append(got, page...)
				p.Before = page[len(page)-1].ID
			}
			w.same("list", tt.want, got)
			end, err := w.store.ListReplays(w.ctx, tt.tenant, p)
			w.must(err)
			w.same("after the end", 0, len(end))
		}
		for _, tt := range []struct {
			walked bool
			after  kapsel.ReplayID
			want   []kapsel.Replay
		}{{false, kapsel.ReplayID{}, []kapsel.Replay{first, second}}, {false, first.ID, []kapsel.Replay{second, third}}, {false, third.ID, nil}, {true, kapsel.ReplayID{}, nil}} {
			running, err := w.store.RunningReplays(w.ctx, tt.walked, tt.after, 2)
			w.must(err)
			w.same("running", tt.want, running)
		}
	}},

	{"B-76 another tenant's replay looks like a missing one, and stays as it is", func(w *world) {
		r, other := w.newReplay(), w.newTenant().ID
		for _, tt := range []struct {
			tenant kapsel.TenantID
			id     kapsel.ReplayID
		}{{other, r.ID}, {w.tenant.ID, kapsel.NewReplayID(w.now)}, {kapsel.TenantID{}, kapsel.NewReplayID(w.now)}} {
			_, err := w.store.ReadReplay(w.ctx, tt.tenant, tt.id)
			w.refused(err, kapsel.NotFound, "ReadReplay")
			_, err = w.store.MoveReplay(w.ctx, tt.tenant, tt.id, kapsel.ReplayCanceled, w.now)
			w.refused(err, kapsel.NotFound, "MoveReplay")
		}
		_, _, err := w.store.StepReplay(w.ctx, kapsel.NewReplayID(w.now), w.now, 1)
		w.refused(err, kapsel.NotFound, "StepReplay")
		w.same("the replay", r, w.readReplay(r.ID))
	}},

	{"the set is what the filter says, counted and repeated alike, once each, in steps of any size", func(w *world) {
		w.varied()
		gone := w.newEndpoint(w.tenant)
		w.finished(gone, refusal)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, gone.ID, w.now))
		w.newEndpoint(w.tenant)
		middle := noon.Add(2 * time.Minute)
		for i, change := range []func(*kapsel.Replay){
			func(r *kapsel.Replay) { r.Statuses = []kapsel.DeliveryStatus{kapsel.Canceled} },
			func(r *kapsel.Replay) { r.EndpointID, r.Until = w.endpoint.ID, middle },
			func(r *kapsel.Replay) { r.Since = middle; r.Until = middle.Add(time.Microsecond) },
			func(r *kapsel.Replay) { r.Since = w.now.Add(time.Hour) },
			func(r *kapsel.Replay) { r.EndpointID = gone.ID },
			func(r *kapsel.Replay) { r.TenantID = w.newTenant().ID },
			func(r *kapsel.Replay) {},
			func(r *kapsel.Replay) {
				r.EndpointID = w.endpoint.ID
				r.Statuses = []kapsel.DeliveryStatus{kapsel.Delivered}
			},
			func(r *kapsel.Replay) {
				r.Statuses = []kapsel.DeliveryStatus{kapsel.Delivered, kapsel.Failed, kapsel.DeadLetter, kapsel.Canceled}
			},
		} {
			w.pass(time.Second)
			r := w.replay(change)
			set := w.members(r)
			if len(set) == 0 && (i == 0 || i == 2 || i > 5) {
				w.t.Fatalf("replay %d has nothing to make", i)
			}
			preview := r
			preview.ID = kapsel.ReplayID{}
			count, some, err := w.store.CountReplay(w.ctx, preview, 1000, 2)
			w.must(err)
			w.same(fmt.Sprintf("replay %d: count", i), len(set), count)
			w.same("sample", min(2, len(set)), len(some))
			for _, d := range some {
				w.same("sample", set[d.ID], d)
			}
			r.Total = count
			w.must(w.store.CreateReplay(w.ctx, r))
			late := w.finished(w.endpoint, refusal).Delivery // in the same microsecond: in the set, too, if at all
			if r.Has(&late, w.now) {
				set[late.ID] = late
			}
			w.pass(time.Microsecond)
			later := w.finished(w.endpoint, refusal).Delivery

			w.same(fmt.Sprintf("replay %d: made", i), len(set), w.walkOut(r.ID, i%3+1))
			w.same("created", len(set), w.readReplay(r.ID).Created)
			made, more := w.step(r.ID, 10)
			w.same("after the end", 0, made)
			w.same("more after the end", false, more)
			for id, old := range set {
				got := w.delivery(id)
				again := w.delivery(got.ReplayedAs)
				want := kapsel.Delivery{
					ID: again.ID, EventID: old.EventID, EndpointID: old.EndpointID, TenantID: old.TenantID, Status: kapsel.Pending,
					DueAt: w.now, ReplayOf: old.ID, Size: old.Size, CreatedAt: w.now,
				}
				w.same("new delivery", want, again)
				w.same("part", old.EventID.Part(), again.ID.Part())
				old.ReplayedAs = again.ID
				w.same("old delivery", old, got)
				all := w.event(old.EventID).Deliveries
				w.same("newest of the event", again, all[len(all)-1])
			}
			w.same("one that ended later", later, w.delivery(later.ID))
			w.same("left", 0, len(w.members(r)))
		}
	}},

	{"counting stops at about so many", func(w *world) {
		for range 30 {
			w.finished(w.endpoint, refusal)
		}
		count, some, err := w.store.CountReplay(w.ctx, w.replay(), 10, 0)
		w.must(err)
		if count < 10 || count > 30 || len(some) != 0 {
			w.t.Errorf("%d counted, and %d given", count, len(some))
		}
	}},

	{"what was replayed otherwise meanwhile is passed over", func(w *world) {
		var events []kapsel.EventID
		for range 6 {
			events = append(events, w.finished(w.endpoint, refusal).Delivery.EventID)
		}
		r := w.newReplay(func(r *kapsel.Replay) { r.Total = 6 })
		made, _ := w.step(r.ID, 2)
		w.same("made", 2, made)
		others := 0
		for _, id := range events {
			if _, err := w.store.Replay(w.ctx, w.tenant.ID, id, kapsel.DeliveryID{}, w.now); err == nil {
				if others++; others == 2 {
					break
				}
			}
		}
		w.same("made", 2, w.walkOut(r.ID, 10))
		got := w.readReplay(r.ID)
		w.same("created", 4, got.Created)
		w.same("total", 6, got.Total)
	}},

	{"F-A10 steps, single replays and other replays at the same time repeat each delivery once", func(w *world) {
		const n = 40
		var events []kapsel.EventID
		for range n {
			events = append(events, w.finished(w.endpoint, refusal).Delivery.EventID)
		}
		made := w.madeTogether(w.newReplay(), w.newReplay(), events, func(id kapsel.EventID) error {
			_, err := w.store.Replay(w.ctx, w.tenant.ID, id, kapsel.DeliveryID{}, w.now)
			return err
		})
		w.same("made", n, made)
		w.same("waiting", n, len(w.claim(w.endpoint)))
		w.same("deliveries", 2*n, len(w.deliveries(w.endpoint)))
	}},

	{"only a running replay goes on; its state changes as the domain says", func(w *world) {
		for range 6 {
			w.finished(w.endpoint, refusal)
		}
		r := w.newReplay()
		moved := func(to kapsel.ReplayStatus) kapsel.Replay {
			w.t.Helper()
			got, err := w.store.MoveReplay(w.ctx, w.tenant.ID, r.ID, to, w.now)
			w.must(err)
			w.same("moved", got, w.readReplay(r.ID))
			w.same("status", to, got.Status)
			return got
		}
		stands := func(running int) {
			w.t.Helper()
			made, more := w.step(r.ID, 10)
			w.same("made", 0, made)
			w.same("more", false, more)
			w.same("running", running, w.running())
		}
		w.step(r.ID, 2)
		moved(kapsel.ReplayPaused)
		stands(0)
		moved(kapsel.ReplayRunning)
		made, _ := w.step(r.ID, 2)
		w.same("made", 2, made)
		w.pass(time.Second)
		w.same("finished", w.now, moved(kapsel.ReplayCanceled).FinishedAt)
		stands(0)
		_, err := w.store.MoveReplay(w.ctx, w.tenant.ID, r.ID, kapsel.ReplayRunning, w.now)
		w.refused(err, kapsel.Conflict, "resume a canceled one")
		w.same("created", 4, w.readReplay(r.ID).Created)
	}},

	{"a replay is done when all that it made has ended, and keeps its counts", func(w *world) {
		for range 3 {
			w.finished(w.endpoint, refusal)
		}
		w.pass(time.Second)
		r := w.newReplay(func(r *kapsel.Replay) { r.Total = 3 })
		w.same("made", 3, w.walkOut(r.ID, 10))
		for i, c := range w.claim(w.endpoint) {
			w.step(r.ID, 1)
			got := w.readReplay(r.ID)
			w.same("status", kapsel.ReplayRunning, got.Status)
			w.same("ended", [2]int{min(i, 1), max(0, i-1)}, [2]int{got.Delivered, got.Failed})
			w.complete(c.Delivery, []kapsel.Answer{ok, useless, refusal}[i])
		}
		w.pass(time.Second)
		w.step(r.ID, 1)
		r.Status, r.Created, r.Delivered, r.Failed, r.FinishedAt = kapsel.ReplayDone, 3, 1, 2, w.now
		w.same("done", r, w.readReplay(r.ID))
		_, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 100)
		w.must(err)
		w.same("deliveries", 0, len(w.deliveries(w.endpoint)))
		w.same("after retention", r, w.readReplay(r.ID))
		w.same("running", 0, w.running())
	}},

	{"a replay of nothing is done at its second step", func(w *world) {
		r := w.newReplay()
		w.same("made", 0, w.walkOut(r.ID, 10))
		w.step(r.ID, 10)
		w.same("status", kapsel.ReplayDone, w.readReplay(r.ID).Status)
	}},
}

// running counts the replays that are running, up to 20.
func (w *world) running() (n int) {
	w.t.Helper()
	for _, walked := range []bool{false, true} {
		some, err := w.store.RunningReplays(w.ctx, walked, kapsel.ReplayID{}, 10)
		w.must(err)
		n += len(some)
	}
	return n
}
