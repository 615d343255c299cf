package storetest

import (
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// putOff is an answer of an endpoint's first destination that asks for an hour.
func (w *world) putOff() kapsel.Answer {
	a := again
	a.NotBefore, a.Destination = w.now.Add(time.Hour), 1
	return a
}

// patch changes the world's endpoint and returns it as it is stored.
func (w *world) patch(change func(*kapsel.Endpoint)) kapsel.Endpoint {
	w.t.Helper()
	e, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, func(e *kapsel.Endpoint) error { change(e); return nil })
	w.must(err)
	return e
}

// replan goes over all that waits for the world's endpoint, so many deliveries a step.
func (w *world) replan(step int) {
	w.t.Helper()
	var at store.Due
	for more := true; more; {
		var err error
		at, more, err = w.store.Replan(w.ctx, w.endpoint.ID, w.now, at, step)
		w.must(err)
	}
}

// every sets a plan that waits as long after each attempt.
func every(d time.Duration) func(*kapsel.Endpoint) {
	return func(e *kapsel.Endpoint) {
		e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 20, Base: d, Max: d}
	}
}

func moves(url string) func(*kapsel.Endpoint) {
	return func(e *kapsel.Endpoint) { e.URL = url }
}

// about ends the test unless a delivery is due within the jitter of a delay after an attempt's end.
func (w *world) about(what string, d kapsel.Delivery, ended time.Time, delay time.Duration) {
	w.t.Helper()
	if after := d.DueAt.Sub(ended); d.Status != kapsel.Pending || after < delay*3/4 || after >= delay*5/4 {
		w.t.Fatalf("%s: %s, due %v after its attempt, want about %v", what, d.Status, after, delay)
	}
}

// replanning are the promises of Replans, and of Delivery.PutOffBy.
var replanning = []promise{
	{"which destination put a delivery off is kept until the delivery moves", func(w *world) {
		put := w.finished(w.endpoint, w.putOff()).Delivery
		if put.PutOffBy != 1 {
			w.t.Fatalf("put off by %d", put.PutOffBy)
		}
		w.same("stored", put, w.delivery(put.ID))
		w.pass(time.Hour)
		held := w.claimOne()
		w.same("claimed", held, w.delivery(put.ID))
		w.same("claimed, put off by", 0, held.PutOffBy)
		held.DueAt = w.now
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{held}))
		w.same("given back, put off by", 0, w.delivery(put.ID).PutOffBy)
		w.same("put off again", w.complete(w.claimOne(), w.putOff()).Delivery, w.delivery(put.ID))
		moved, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, put.ID, kapsel.Retry{}, w.now)
		w.must(err)
		w.same("retried", moved, w.delivery(put.ID))
		w.same("retried, put off by", 0, moved.PutOffBy)
		w.complete(w.claimOne(), w.putOff())
		canceled, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, put.ID, kapsel.Cancel{}, w.now)
		w.must(err)
		w.same("canceled", canceled, w.delivery(put.ID))
	}},

	{"a change of the retry policy or the destination marks the endpoint, nothing else does", func(w *world) {
		marked := func() (ids []kapsel.EndpointID) {
			w.t.Helper()
			all, err := w.store.Replanning(w.ctx, 10)
			w.must(err)
			for _, e := range all {
				ids = append(ids, e.ID)
			}
			return ids
		}
		w.patch(func(e *kapsel.Endpoint) { e.Name, e.State, e.Circuit.Failures = "other", kapsel.EndpointPaused, 7 })
		w.same("marked after other changes", 0, len(marked()))
		first := w.patch(every(time.Minute))
		w.same("marked", []kapsel.EndpointID{w.endpoint.ID}, marked())
		w.patch(func(e *kapsel.Endpoint) { e.Name = "again" })
		w.same("after another change", []kapsel.EndpointID{w.endpoint.ID}, marked())
		second := w.patch(moves("https://other.example/"))
		if first.Replan == 0 || second.Replan <= first.Replan {
			w.t.Errorf("the marks are %d and %d", first.Replan, second.Replan)
		}
		w.must(w.store.Replanned(w.ctx, w.endpoint.ID, first.Replan))
		w.same("after the end of the former change", []kapsel.EndpointID{w.endpoint.ID}, marked())
		w.must(w.store.Replanned(w.ctx, w.endpoint.ID, second.Replan))
		w.same("after the end of the change", 0, len(marked()))
		w.same("and for good", int64(0), w.patch(func(e *kapsel.Endpoint) { e.Name = "more" }).Replan)

		w.patch(every(time.Hour))
		other := w.newEndpoint(w.tenant)
		_, err := w.store.UpdateEndpoint(w.ctx, w.tenant.ID, other.ID, func(e *kapsel.Endpoint) error { every(time.Hour)(e); return nil })
		w.must(err)
		one, err := w.store.Replanning(w.ctx, 1)
		w.must(err)
		w.same("with a limit", 1, len(one))
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, other.ID, w.now))
		w.same("without deleted ones", []kapsel.EndpointID{w.endpoint.ID}, marked())
	}},

	{"what waits is due at the earlier of the former and the new plan", func(w *world) {
		slow := again
		slow.Delay = 10 * time.Hour
		var waiting []kapsel.Delivery // after 1, 2 and 3 attempts
		ended := w.now
		for n := range 3 {
			in := w.accept(w.endpoint, heldBy(w.node))
			d := w.complete(in.Deliveries[0], slow).Delivery
			for range n {
				_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, d.ID, kapsel.Retry{}, w.now)
				w.must(err)
				d = w.complete(w.claimOne(), slow).Delivery
			}
			waiting = append(waiting, d)
		}
		fresh := w.accept(w.endpoint, due(w.now.Add(time.Hour))).Deliveries[0]
		w.pass(time.Minute)

		w.patch(every(48 * time.Hour))
		w.replan(100)
		for _, d := range waiting {
			w.same("a longer plan", d, w.delivery(d.ID))
		}
		w.patch(func(e *kapsel.Endpoint) {
			e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryLinear, MaxAttempts: 20, Base: time.Hour, Max: 5 * time.Hour}
		})
		w.replan(100)
		for i, d := range waiting {
			got := w.delivery(d.ID)
			w.about("a shorter plan", got, ended, time.Duration(i+1)*time.Hour)
			d.DueAt = got.DueAt
			w.same("all but the due time", d, got)
			w.replan(100)
			w.same("the same plan again", got, w.delivery(d.ID))
		}
		w.patch(every(time.Second))
		w.replan(100)
		for _, d := range waiting {
			w.same("a plan by which it was due before", w.now, w.delivery(d.ID).DueAt)
		}
		w.same("what was never tried", fresh, w.delivery(fresh.ID))
		w.same("due", 3, len(w.claim(w.endpoint)))
	}},

	{"what the present destination asked for stays, what a former one asked for does not", func(w *world) {
		ended := w.now
		put := w.finished(w.endpoint, w.putOff()).Delivery
		planned := w.finished(w.endpoint, again).Delivery
		w.patch(every(10 * time.Second))
		w.replan(100)
		w.same("put off, with another plan", put, w.delivery(put.ID))
		w.about("planned, with another plan", w.delivery(planned.ID), ended, 10*time.Second)

		w.patch(every(20 * time.Minute))
		planned = w.delivery(planned.ID)
		w.patch(moves("https://other.example/hook"))
		w.replan(100)
		moved := w.delivery(put.ID)
		w.about("put off, at another destination", moved, ended, 20*time.Minute)
		w.same("put off by", 0, moved.PutOffBy)
		w.same("planned, at another destination", planned, w.delivery(planned.ID))

		later := again
		later.NotBefore, later.Destination = w.now.Add(2*time.Hour), 2
		mine := w.finished(w.endpoint, later).Delivery
		w.replan(100)
		w.same("put off by the present destination", mine, w.delivery(mine.ID))
	}},

	{"a large backlog is gone over in steps, other endpoints are left alone", func(w *world) {
		const n = 230
		ended := w.now
		other := w.newEndpoint(w.tenant)
		slow := again
		slow.Delay = 10 * time.Hour
		beside := w.finished(other, slow).Delivery
		same := w.putOff() // many with one due time
		for i := range n {
			if i%2 == 0 {
				slow.Delay += time.Second
				w.finished(w.endpoint, slow)
			} else {
				w.finished(w.endpoint, same)
			}
		}
		w.patch(func(e *kapsel.Endpoint) { every(time.Minute)(e); moves("https://other.example/")(e) })
		var at store.Due
		for left := n; left > 0; left -= 50 {
			next, more, err := w.store.Replan(w.ctx, w.endpoint.ID, w.now, at, 50)
			w.must(err)
			if more != (left > 50) || !next.At.After(at.At) && next.At != at.At {
				w.t.Fatalf("with %d left: more is %v, from %v to %v", left, more, at, next)
			}
			at = next
		}
		for _, d := range w.deliveries(w.endpoint) {
			w.about("rescheduled", d, ended, time.Minute)
		}
		w.same("another endpoint's", beside, w.delivery(beside.ID))
	}},

	{"an endpoint that is deleted, or that has nothing waiting, has nothing to reschedule", func(w *world) {
		slow := again
		slow.Delay = 10 * time.Hour
		w.patch(every(time.Second))
		_, more, err := w.store.Replan(w.ctx, w.endpoint.ID, w.now, store.Due{}, 10)
		w.must(err)
		w.same("more, with nothing waiting", false, more)
		d := w.finished(w.endpoint, slow).Delivery
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		_, more, err = w.store.Replan(w.ctx, w.endpoint.ID, w.now, store.Due{}, 10)
		w.must(err)
		w.same("more, of a deleted endpoint", false, more)
		w.same("its delivery", d, w.delivery(d.ID))
	}},

	{"rescheduling, claiming and retrying at the same time lose nothing", func(w *world) {
		slow := again
		slow.Delay = 10 * time.Hour
		var all []kapsel.Delivery
		for range 60 {
			all = append(all, w.finished(w.endpoint, slow).Delivery)
		}
		w.patch(every(time.Second))
		w.pass(time.Minute)
		w.together(4, func(i int) error {
			switch i {
			case 0, 1:
				var at store.Due
				for more := true; more; {
					var err error
					if at, more, err = w.store.Replan(w.ctx, w.endpoint.ID, w.now, at, 7); err != nil {
						return err
					}
				}
			case 2:
				for _, d := range all[:20] {
					_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, d.ID, kapsel.Retry{}, w.now)
					if err != nil && kapsel.CodeOf(err) != kapsel.Conflict {
						return fmt.Errorf("retry: %w", err)
					}
				}
			case 3:
				_, _, err := w.store.Claim(w.ctx, w.node, w.now, []store.Want{{EndpointID: w.endpoint.ID, Limit: 30}}, 1<<30)
				return err
			}
			return nil
		})
		w.replan(100) // what was passed over
		w.claim(w.endpoint)
		for _, d := range w.deliveries(w.endpoint) {
			w.same("claimed", kapsel.Delivering, d.Status)
		}
	}},
}
