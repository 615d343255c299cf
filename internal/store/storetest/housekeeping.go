package storetest

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// keeping are the promises of Housekeeping, and of the store as a whole.
var keeping = []promise{
	{"F-D20 waiting deliveries of an endpoint are canceled, up to a limit", func(w *world) {
		other := w.newEndpoint(w.tenant)
		for i := range 5 {
			w.accept(w.endpoint, due(w.now.Add(time.Duration(i-2)*time.Minute)))
		}
		running := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		failed := w.finished(w.endpoint, refusal).Delivery
		another := w.accept(other).Deliveries[0]
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		w.pass(time.Second)
		for _, want := range []int{2, 2, 1, 0} {
			got, err := w.store.CancelWaiting(w.ctx, w.endpoint.ID, w.now, 2)
			w.must(err)
			w.same("canceled", want, got)
		}
		canceled := 0
		for _, d := range w.deliveries(w.endpoint) {
			switch d.ID {
			case running.ID:
				w.same("running", running, d)
			case failed.ID:
				w.same("failed", failed, d)
			default:
				canceled++
				if d.Status != kapsel.Canceled || !d.FinishedAt.Equal(w.now) || !d.DueAt.IsZero() {
					w.t.Errorf("canceled: %+v", d)
				}
			}
		}
		w.same("canceled", 5, canceled)
		w.same("another endpoint's", another, w.delivery(another.ID))
	}},

	{"finished events are deleted with all that is theirs, and no others", func(w *world) {
		_, others := w.varied()
		before := w.now
		var open, done []store.EventRecord
		for _, r := range w.listEvents(w.tenant.ID, store.EventFilter{}, 200) {
			ended := true
			for _, d := range r.Deliveries {
				ended = ended && d.Status.Terminal()
			}
			if r = w.event(r.Event.ID); ended {
				done = append(done, r)
			} else {
				open = append(open, r)
			}
		}
		w.pass(time.Minute)
		young := w.finished(w.endpoint, ok).Delivery

		for left := len(done); ; left -= 5 {
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, before.Add(time.Microsecond), 5)
			w.must(err)
			w.same("deleted", min(5, max(left, 0)), n)
			if n == 0 {
				break
			}
		}
		for _, r := range done {
			_, err := w.store.Event(w.ctx, kapsel.TenantID{}, r.Event.ID)
			w.refused(err, kapsel.NotFound, "a deleted event")
			for _, d := range r.Deliveries {
				_, err := w.store.Delivery(w.ctx, kapsel.TenantID{}, d.ID)
				w.refused(err, kapsel.NotFound, "its delivery")
				w.same("its attempts", 0, len(w.attemptsOrNone(d.ID)))
			}
		}
		for _, r := range append(open, others) {
			w.same("kept", r, w.event(r.Event.ID))
			for _, d := range r.Deliveries {
				w.same("its attempts", d.Attempts, len(w.attempts(d.ID)))
			}
		}
		w.same("young", young, w.delivery(young.ID))
	}},

	{"what waits at one endpoint hides nothing that has ended there or at others", func(w *world) {
		for range 200 { // several pages of a walk on PostgreSQL
			w.accept(w.endpoint)
		}
		done := []kapsel.EventID{w.finished(w.endpoint, ok).Delivery.EventID}
		for range 20 { // above the endpoints that a statement looks at
			done = append(done, w.finished(w.newEndpoint(w.tenant), ok).Delivery.EventID)
		}
		w.accept(w.endpoint)
		w.pass(time.Minute)
		for left := len(done); left >= 0; left -= 9 {
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 9)
			w.must(err)
			w.same("deleted", min(left, 9), n)
		}
		for _, id := range done {
			_, err := w.store.EventHead(w.ctx, w.tenant.ID, id)
			w.refused(err, kapsel.NotFound, "a deleted event")
		}
	}},

	{"large events are deleted like others", func(w *world) {
		for range 4 {
			in := w.accept(w.endpoint, heldBy(w.node), body(make([]byte, 9<<20)))
			w.complete(in.Deliveries[0], ok)
		}
		w.pass(time.Minute)
		n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 3)
		w.must(err)
		w.same("deleted", 3, n)
		n, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 3)
		w.must(err)
		w.same("deleted", 1, n)
	}},

	{"deleted tenants are listed while they have events, and their events are deleted like others", func(w *world) {
		listed := func(after kapsel.TenantID, limit int, want ...kapsel.Tenant) {
			w.t.Helper()
			got, err := w.store.DeletedTenants(w.ctx, after, limit)
			w.must(err)
			w.same("deleted tenants", len(want), len(got))
			for i := range want {
				w.same("tenant", want[i].ID, got[i].ID)
				w.same("its limits", want[i].Limits, got[i].Limits)
				if got[i].DeletedAt.IsZero() {
					w.t.Error("it has no time of deletion")
				}
			}
		}
		var gone []kapsel.Tenant
		for range 3 {
			tenant := w.newTenant()
			endpoint := w.newEndpoint(tenant)
			if len(gone) < 2 { // the third never had events
				w.finished(endpoint, refusal)
			}
			listed(kapsel.TenantID{}, 10, gone[:min(len(gone), 2)]...)
			w.must(w.store.DeleteEndpoint(w.ctx, tenant.ID, endpoint.ID, w.now))
			w.must(w.store.DeleteTenant(w.ctx, tenant.ID, w.now))
			gone = append(gone, tenant)
			w.pass(time.Second)
		}
		w.finished(w.endpoint, ok) // of one that lives
		listed(kapsel.TenantID{}, 10, gone[0], gone[1])
		listed(kapsel.TenantID{}, 1, gone[0])
		listed(gone[0].ID, 1, gone[1])
		listed(gone[1].ID, 1)
		n, err := w.store.DeleteFinished(w.ctx, gone[0].ID, w.now, 10)
		w.must(err)
		w.same("deleted", 1, n)
		listed(kapsel.TenantID{}, 10, gone[1])
	}},

	{"retention is by the time of receipt, half-open", func(w *world) {
		at := w.finished(w.endpoint, ok).Delivery
		n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 10)
		w.must(err)
		w.same("at the time", 0, n)
		w.delivery(at.ID)
		n, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Microsecond), 10)
		w.must(err)
		w.same("before it", 1, n)
	}},

	{"F-G10 events never lose their body while a delivery is open", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		for range 3 {
			w.pass(time.Hour)
			n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
			w.must(err)
			w.same("deleted", 0, n)
			d := w.event(in.Event.ID).Deliveries[0]
			w.complete(d, again)
			w.pass(again.Delay)
			n, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 100)
			w.must(err)
			w.same("deleted", 0, n)
			got := w.claim(w.endpoint)
			w.same("body", in.Event.Body, got[0].Event.Body)
		}
	}},

	{"a replay and retention at the same time: one of them wins", func(w *world) {
		for range 15 {
			done := w.finished(w.endpoint, refusal).Delivery
			w.pass(time.Second)
			var replayed error
			var deleted int
			w.together(2, func(i int) (err error) {
				if i == 0 {
					_, replayed = w.store.Replay(w.ctx, w.tenant.ID, done.EventID, done.ID, w.now)
					return nil
				}
				deleted, err = w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 10)
				return err
			})
			switch {
			case replayed == nil && deleted == 0:
				w.complete(w.claimOne(), ok)
				_, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 10)
				w.must(err)
			case replayed != nil && deleted == 1:
				w.refused(replayed, kapsel.NotFound, "the replay")
				w.same("due", 0, len(w.claim(w.endpoint)))
			default:
				w.t.Fatalf("deleted %d, and the replay's error is %v", deleted, replayed)
			}
		}
	}},

	{"keys are forgotten when their window is over, up to a limit", func(w *world) {
		for i := range 7 {
			w.accept(w.endpoint, key(fmt.Sprint(i)))
		}
		w.pass(time.Hour)
		kept := w.accept(w.endpoint, key("kept"))
		w.accept(w.endpoint) // has none
		w.pass(23*time.Hour - time.Millisecond)
		for _, step := range []struct {
			pass time.Duration
			want []int
		}{{0, []int{0}}, {2 * time.Millisecond, []int{3, 3, 1, 0}}} {
			w.pass(step.pass)
			for _, want := range step.want {
				n, err := w.store.DeleteExpiredKeys(w.ctx, w.now, 3)
				w.must(err)
				w.same("forgotten", want, n)
			}
		}
		got, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, key("kept")))
		w.must(err)
		w.same("kept", store.Accepted{EventID: kept.Event.ID, Duplicate: true}, got)
		for i := range 7 {
			w.accept(w.endpoint, key(fmt.Sprint(i)))
		}
		w.same("events", 7+1+1+7, len(w.deliveries(w.endpoint)))
	}},

	{"guards are forgotten when their window is over, up to a limit", func(w *world) {
		for i := range 7 {
			w.accept(w.endpoint, guard(fmt.Sprint(i)))
		}
		w.pass(time.Hour)
		kept := w.accept(w.endpoint, guard("kept"))
		w.pass(95*time.Hour - time.Millisecond)
		for _, step := range []struct {
			pass time.Duration
			want []int
		}{{0, []int{0}}, {2 * time.Millisecond, []int{3, 3, 1, 0}}} {
			w.pass(step.pass)
			for _, want := range step.want {
				n, err := w.store.DeleteExpiredGuards(w.ctx, w.now, 3)
				w.must(err)
				w.same("forgotten", want, n)
			}
		}
		w.duplicate(kept.Event.ID, w.acceptance(w.endpoint, guard("kept")))
	}},

	{"F-F6 one node leads a duty until its lease ends", func(w *world) {
		a, b := kapsel.NewNodeID(w.now), kapsel.NewNodeID(w.now)
		lead := func(duty string, node kapsel.NodeID, want bool) {
			w.t.Helper()
			got, err := w.store.Lead(w.ctx, duty, node, w.now, lease)
			w.must(err)
			w.same("leads "+duty, want, got)
		}
		lead("audit", a, true)
		lead("audit", b, false)
		lead("retention", b, true)
		lead("retention", a, false)
		w.pass(lease - time.Millisecond)
		lead("audit", a, true) // for longer
		w.pass(2 * time.Millisecond)
		lead("audit", b, false)
		lead("retention", a, true)
		lead("retention", b, false)
		w.pass(lease)
		lead("audit", b, true)
		lead("audit", a, false)
		w.pass(24 * time.Hour) // the clock jumps, and is put right
		lead("audit", a, true)
		w.pass(-24 * time.Hour)
		lead("audit", b, true)
		lead("audit", a, false)
	}},

	{"of nodes that want to lead at the same time one does", func(w *world) {
		for range 5 {
			var leaders atomic.Int64
			w.together(8, func(i int) error {
				leads, err := w.store.Lead(w.ctx, "audit", kapsel.NewNodeID(w.now), w.now, lease)
				if leads {
					leaders.Add(1)
				}
				return err
			})
			w.same("leaders", int64(1), leaders.Load())
			w.pass(lease + time.Millisecond)
		}
	}},

	{"the queue's depth is counted by state", func(w *world) {
		depth := func(want store.QueueDepth) {
			w.t.Helper()
			got, err := w.store.QueueDepth(w.ctx, w.now, 1000)
			w.must(err)
			w.same("depth", want, got)
		}
		depth(store.QueueDepth{})
		other := w.newEndpoint(w.newTenant())
		w.complete(w.accept(other, heldBy(w.node)).Deliveries[0], again) // due in a minute
		depth(store.QueueDepth{Pending: 1})
		w.accept(w.endpoint, due(w.now.Add(-time.Minute)))
		w.accept(w.endpoint, due(w.now.Add(-time.Hour)))
		w.accept(other, heldBy(w.node))
		w.finished(w.endpoint, ok)
		depth(store.QueueDepth{Pending: 3, Due: 2, Delivering: 1, Oldest: w.now.Add(-time.Hour)})
		w.claim(w.endpoint)
		depth(store.QueueDepth{Pending: 1, Delivering: 3})
	}},

	{"counting stops at so many an endpoint", func(w *world) {
		other := w.newEndpoint(w.tenant)
		for i := range 9 {
			w.accept(w.endpoint, due(w.now.Add(-time.Duration(i)*time.Second)))
		}
		w.accept(other)
		got, err := w.store.QueueDepth(w.ctx, w.now, 4)
		w.must(err)
		w.same("depth", store.QueueDepth{Pending: 5, Due: 5, Oldest: w.now.Add(-8 * time.Second)}, got)
		for _, tt := range []struct {
			endpoint      kapsel.Endpoint
			atMost, count int
			oldest        time.Time
		}{
			{w.endpoint, 4, 4, w.now.Add(-8 * time.Second)}, {w.endpoint, 100, 9, w.now.Add(-8 * time.Second)},
			{other, 4, 1, w.now}, {w.newEndpoint(w.tenant), 4, 0, time.Time{}},
		} {
			count, oldest, err := w.store.BacklogOf(w.ctx, tt.endpoint.ID, w.now, tt.atMost)
			w.must(err)
			if count != tt.count || !oldest.Equal(tt.oldest) {
				w.t.Errorf("backlog of at most %d is %d, oldest %v; want %d, %v", tt.atMost, count, oldest, tt.count, tt.oldest)
			}
		}
	}},

	{"a store answers, and has a time that does not go back", func(w *world) {
		w.must(w.store.Ping(w.ctx))
		before, err := w.store.Time(w.ctx)
		w.must(err)
		after, err := w.store.Time(w.ctx)
		w.must(err)
		if before.IsZero() || after.Before(before) {
			w.t.Errorf("time is %v, then %v", before, after)
		}
	}},
}

// attemptsOrNone are a delivery's attempts, also when the delivery is not there.
func (w *world) attemptsOrNone(id kapsel.DeliveryID) []kapsel.Attempt {
	w.t.Helper()
	all, err := w.store.ListAttempts(w.ctx, kapsel.TenantID{}, id, 0, 1000)
	if kapsel.CodeOf(err) != kapsel.NotFound {
		w.must(err)
	}
	return all
}
