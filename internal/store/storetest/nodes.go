package storetest

import (
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const lease = 10 * time.Second

// deadAndLive joins a node for one lease, not heard of again, and then one for good, which
// claims from now on.
func (w *world) deadAndLive() (dead, live kapsel.NodeID) {
	w.t.Helper()
	dead = w.join(lease)
	live = w.join(24 * time.Hour)
	w.node = live
	return dead, live
}

// takeOver takes over what dead nodes hold, once their leases have ended.
func (w *world) takeOver(limit int) int {
	w.t.Helper()
	n, err := w.store.TakeOver(w.ctx, w.now, limit)
	w.must(err)
	return n
}

// unknownAttempt is what a take-over must record of a delivery that was held. When the
// attempt began and what is said of it are the store's.
func unknownAttempt(held kapsel.Delivery) kapsel.Attempt {
	return kapsel.Attempt{
		ID: held.Token, DeliveryID: held.ID, EventID: held.EventID, EndpointID: held.EndpointID, TenantID: held.TenantID,
		Number: held.Attempts + 1, ErrorCode: kapsel.OutcomeUnknown,
	}
}

// nodes are the promises of Join, Renew, Leave, Nodes and TakeOver.
var nodes = []promise{
	{"a node is alive until its lease ends", func(w *world) {
		node := w.join(lease)
		alive := func(want bool, what string) {
			w.t.Helper()
			got, err := w.store.Nodes(w.ctx, w.now)
			w.must(err)
			if slices.Contains(got, node) != want {
				w.t.Fatalf("%s: alive = %v, want %v", what, !want, want)
			}
		}
		alive(true, "joined")
		w.pass(lease - time.Millisecond)
		alive(true, "at the end of its lease")
		w.must(w.store.Renew(w.ctx, node, w.now, lease))
		w.pass(lease - time.Millisecond)
		alive(true, "renewed")
		w.pass(2 * time.Millisecond)
		alive(false, "after its lease")
	}},

	{"nodes are in the order of their ids", func(w *world) {
		all := w.several(4)
		if !slices.IsSortedFunc(all, func(a, b kapsel.NodeID) int { return slices.Compare(a[:], b[:]) }) || !slices.Contains(all, w.node) {
			w.t.Errorf("nodes are %v; %v must be one of them", all, w.node)
		}
	}},

	{"nodes tell each other what they demand, as long as they live", func(w *world) {
		demand := func(kind store.LimitKind, of [16]byte, amount float64, held int) store.Demand {
			return store.Demand{Limit: store.Limit{Kind: kind, Of: of}, Amount: amount, Held: held}
		}
		tell := func(node kapsel.NodeID, own ...store.Demand) map[kapsel.NodeID]store.NodeDemands {
			w.t.Helper()
			all, err := w.store.Demands(w.ctx, node, w.now, own)
			w.must(err)
			if !slices.IsSortedFunc(all, func(a, b store.NodeDemands) int { return slices.Compare(a.Node[:], b.Node[:]) }) {
				w.t.Errorf("not in the order of their ids: %v", all)
			}
			alive, err := w.store.Nodes(w.ctx, w.now)
			w.must(err)
			w.same("nodes", len(alive), len(all))
			by := map[kapsel.NodeID]store.NodeDemands{}
			for _, one := range all {
				by[one.Node] = one
			}
			return by
		}
		nodes := w.several(3)
		me := nodes[0]
		first := []store.Demand{demand(store.IngestRate, w.tenant.ID, 12.5, 0), demand(store.Concurrency, w.endpoint.ID, 3, 7)}
		if all := tell(me, first...); len(all) != len(nodes) {
			w.t.Fatalf("%d nodes of %d are listed", len(all), len(nodes))
		}
		told := w.now
		w.pass(time.Second)
		for _, other := range nodes[1:] {
			all := tell(other, demand(store.DeliveryRate, w.endpoint.ID, 1, 0))
			w.same("told", store.NodeDemands{Node: me, At: told, Demands: first}, all[me])
		}
		second := demand(store.Concurrency, w.endpoint.ID, 4, 0)
		tell(me, second)
		for _, other := range nodes[1:] {
			w.same("told anew", []store.Demand{second}, tell(other)[me].Demands)
		}
		tell(me)
		for _, other := range nodes[1:] {
			w.same("nothing demanded", store.NodeDemands{Node: me, At: w.now}, tell(other)[me])
		}
		w.must(w.store.Leave(w.ctx, me))
		tell(me, second)
		for _, other := range nodes[1:] {
			if _, ok := tell(other)[me]; ok {
				w.t.Error("a node that left still tells")
			}
		}
	}},

	{"who joins a shared database is noticed by the settings counter", func(w *world) {
		if len(w.several(2)) < 2 {
			return // one process: nobody is there to notice
		}
		before := w.settings(0).Revision
		w.join(lease)
		after := w.settings(before)
		if after.Revision <= before {
			w.t.Errorf("the counter is %d, as before", after.Revision)
		}
		w.same("settings changed", 0, len(after.Tenants)+len(after.Keys)+len(after.Endpoints)+len(after.Circuits))
	}},

	{"nodes tell by which settings they work, as long as they live", func(w *world) {
		before := w.join(lease)
		all := w.several(3)
		others := func(revision int64) int {
			w.t.Helper()
			n, err := w.store.Behind(w.ctx, w.node, w.now, revision)
			w.must(err)
			return n
		}
		if len(all) == 1 { // the file has one process
			w.must(w.store.Follow(w.ctx, w.node, 1))
			w.same("behind", 0, others(7))
			return
		}
		rest := len(all) - 1 // without the node that asks
		w.same("behind, when nobody has told", rest, others(7))
		other := all[0]
		if other == w.node {
			other = all[1]
		}
		w.must(w.store.Follow(w.ctx, other, 7))
		w.must(w.store.Renew(w.ctx, other, w.now, 24*time.Hour)) // which leaves it
		w.same("behind, when one has told", rest-1, others(7))
		w.same("behind an older revision", rest-1, others(6))
		w.same("behind a newer revision", rest, others(8))
		w.must(w.store.Follow(w.ctx, other, 9))
		w.same("behind, when one has told anew", rest-1, others(8))
		w.must(w.store.Leave(w.ctx, other))
		w.must(w.store.Follow(w.ctx, other, 1))
		w.same("behind, when that one has left", rest-1, others(8))
		now := len(all)
		w.pass(lease + time.Millisecond)
		alive, err := w.store.Nodes(w.ctx, w.now)
		w.must(err)
		if slices.Contains(alive, before) || len(alive) >= now {
			w.t.Fatalf("%v are alive", alive)
		}
		w.same("behind, when a lease is over", len(alive)-1, others(8))
	}},

	{"what nodes tell goes with their leases, and is bounded", func(w *world) {
		w.join(lease)
		other := w.join(24 * time.Hour)
		all, err := w.store.Demands(w.ctx, other, w.now, make([]store.Demand, store.MaxDemands+1))
		w.must(err)
		before := len(all)
		w.pass(lease + time.Millisecond)
		all, err = w.store.Demands(w.ctx, other, w.now, nil)
		w.must(err)
		for _, one := range all {
			if len(one.Demands) > store.MaxDemands {
				w.t.Errorf("%d demands of one node", len(one.Demands))
			}
		}
		if before > 1 && len(all) != before-1 {
			w.t.Errorf("%d nodes tell, of %d before one's lease ended", len(all), before)
		}
	}},

	{"a lease that was let pass can be renewed while nobody took over", func(w *world) {
		node := w.join(lease)
		w.pass(2 * lease)
		w.must(w.store.Renew(w.ctx, node, w.now, lease))
		w.same("taken over", 0, w.takeOver(100))
		w.must(w.store.Renew(w.ctx, node, w.now, lease))
	}},

	{"F-A5 what a dead node held gets an unknown attempt, and is due at once", func(w *world) {
		dead, live := w.deadAndLive()
		first := w.accept(w.endpoint, heldBy(dead)).Deliveries[0]
		retried := w.complete(w.accept(w.endpoint, heldBy(live)).Deliveries[0], again).Delivery
		w.pass(again.Delay)
		got, _, err := w.store.Claim(w.ctx, dead, w.now, []store.Want{{EndpointID: w.endpoint.ID, Limit: 10}}, 1<<20)
		w.must(err)
		w.same("claimed", 1, len(got))
		second := got[0].Delivery
		w.same("claimed", retried.ID, second.ID)
		mine := w.accept(w.endpoint, heldBy(live)).Deliveries[0]
		waiting := w.accept(w.endpoint, due(w.now.Add(time.Hour))).Deliveries[0]

		w.same("moved", 2, w.takeOver(100))
		for _, held := range []kapsel.Delivery{first, second} {
			want, err := held.After(kapsel.Lost{Takeover: true}, w.now)
			w.must(err)
			w.same("delivery", want, w.delivery(held.ID))
			all := w.attempts(held.ID)
			unknown := all[len(all)-1]
			if unknown.StartedAt.IsZero() || unknown.StartedAt.After(w.now) {
				w.t.Errorf("the attempt began at %v", unknown.StartedAt)
			}
			unknown.StartedAt, unknown.Duration, unknown.Error = time.Time{}, 0, ""
			w.same("unknown attempt", unknownAttempt(held), unknown)
		}
		w.same("a live node's", mine, w.delivery(mine.ID))
		w.same("what waits", waiting, w.delivery(waiting.ID))
		w.same("moved again", 0, w.takeOver(100))
		w.same("due", 2, len(w.claim(w.endpoint)))
	}},

	{"F-F1 a node that was taken over can no longer renew its lease or complete a delivery", func(w *world) {
		dead, _ := w.deadAndLive()
		held := w.accept(w.endpoint, heldBy(dead)).Deliveries[0]
		w.pass(lease + time.Millisecond)
		w.same("moved", 1, w.takeOver(100))
		w.refusedAs(w.store.Renew(w.ctx, dead, w.now, lease), rules.NodeDead(), "renew")

		lost := w.delivery(held.ID)
		w.refusedAs(w.store.Complete(w.ctx, w.completion(held, ok)), rules.NotHeld(), "complete")
		held.DueAt = w.now.Add(time.Hour)
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{held}))
		w.same("delivery", lost, w.delivery(held.ID))
		w.same("attempts", 1, len(w.attempts(held.ID)))

		next := w.claimOne()
		done := w.complete(next, ok)
		w.same("delivery", done.Delivery, w.delivery(held.ID))
		w.same("attempts", 2, len(w.attempts(held.ID)))
	}},

	{"a node that died holding nothing is dead, too", func(w *world) {
		dead, _ := w.deadAndLive()
		w.pass(lease + time.Millisecond)
		w.same("moved", 0, w.takeOver(100))
		w.refusedAs(w.store.Renew(w.ctx, dead, w.now, lease), rules.NodeDead(), "renew")
	}},

	{"nodes with a lease are not taken over", func(w *world) {
		a, b := w.deadAndLive() // on a store of one process a is dead already
		alive, err := w.store.Nodes(w.ctx, w.now)
		w.must(err)
		for _, node := range []kapsel.NodeID{a, b} {
			if slices.Contains(alive, node) {
				w.accept(w.endpoint, heldBy(node))
			}
		}
		w.pass(lease - time.Millisecond)
		w.same("moved", 0, w.takeOver(100))
		for _, node := range alive {
			w.must(w.store.Renew(w.ctx, node, w.now, lease))
		}
		w.pass(lease - time.Millisecond)
		w.same("moved", 0, w.takeOver(100))
	}},

	{"a node that leaves is taken over at once", func(w *world) {
		dead, _ := w.deadAndLive()
		w.accept(w.endpoint, heldBy(dead))
		w.must(w.store.Leave(w.ctx, dead))
		alive, err := w.store.Nodes(w.ctx, w.now)
		w.must(err)
		if slices.Contains(alive, dead) {
			w.t.Error("it is still listed")
		}
		w.pass(time.Millisecond)
		w.same("moved", 1, w.takeOver(100))
		w.refusedAs(w.store.Renew(w.ctx, dead, w.now, lease), rules.NodeDead(), "renew")
	}},

	{"a take-over moves up to its limit, and less when no more is held", func(w *world) {
		for _, n := range []int{4, 2, 1} {
			dead, _ := w.deadAndLive()
			for range n {
				w.accept(w.endpoint, heldBy(dead))
			}
		}
		w.pass(lease + time.Millisecond)
		for _, want := range []int{3, 3, 1, 0} {
			w.same("moved", want, w.takeOver(3))
		}
		w.same("due", 7, len(w.claim(w.endpoint)))
	}},

	{"take-overs at the same time move each delivery once", func(w *world) {
		dead, _ := w.deadAndLive()
		const held = 100
		for range held {
			w.accept(w.endpoint, heldBy(dead))
		}
		w.pass(lease + time.Millisecond)
		w.together(6, func(int) error {
			for {
				n, err := w.store.TakeOver(w.ctx, w.now, 10)
				if err != nil || n < 10 {
					return err
				}
			}
		})
		w.takeOver(1000) // what another was taking while the last of them looked
		for _, d := range w.deliveries(w.endpoint) {
			if d.Status != kapsel.Pending || d.Attempts != 1 || d.Takeovers != 1 || len(w.attempts(d.ID)) != 1 {
				w.t.Fatalf("moved more than once, or not at all: %+v", d)
			}
		}
	}},

	{"F-F4 a delivery whose nodes die five times in a row is a dead letter", func(w *world) {
		in := w.accept(w.endpoint)
		die := func() {
			w.t.Helper()
			w.node = w.join(lease)
			w.claimOne()
			w.must(w.store.Leave(w.ctx, w.node))
			w.node = w.join(24 * time.Hour)
			w.pass(time.Millisecond)
			w.same("moved", 1, w.takeOver(100))
		}
		for range kapsel.MaxTakeovers - 1 {
			die()
		}
		w.complete(w.claimOne(), again) // an answer ends the row
		w.pass(again.Delay)
		for range kapsel.MaxTakeovers - 1 {
			die()
			w.same("status", kapsel.Pending, w.delivery(in.Deliveries[0].ID).Status)
		}
		die()
		got := w.delivery(in.Deliveries[0].ID)
		if got.Status != kapsel.DeadLetter || got.LastErrorCode != kapsel.OutcomeUnknown ||
			got.Attempts != 2*kapsel.MaxTakeovers || got.Counted != 1 || !got.FinishedAt.Equal(w.now) {
			w.t.Errorf("delivery is %+v", got)
		}
		w.same("attempts", got.Attempts, len(w.attempts(got.ID)))
		w.same("due", 0, len(w.claim(w.endpoint)))
	}},

	{"a completion and a take-over at the same time: one of them wins, whole", func(w *world) {
		for range 20 {
			dead := w.join(lease)
			w.node = w.join(24 * time.Hour)
			held := w.accept(w.endpoint, heldBy(dead)).Deliveries[0]
			w.pass(lease + time.Millisecond)
			done := w.completion(held, ok)
			var completed error
			w.together(2, func(i int) (err error) {
				if i == 0 {
					completed = w.store.Complete(w.ctx, done)
					return nil
				}
				_, err = w.store.TakeOver(w.ctx, w.now, 10)
				return err
			})
			w.takeOver(10)
			got, attempts := w.delivery(held.ID), w.attempts(held.ID)
			w.same("attempts", 1, len(attempts))
			if completed == nil {
				w.same("completed", done.Delivery, got)
				w.same("its attempt", done.Attempt, attempts[0])
				continue
			}
			w.refused(completed, kapsel.Conflict, "completion")
			w.same("status", kapsel.Pending, got.Status)
			w.same("its attempt", kapsel.OutcomeUnknown, attempts[0].ErrorCode)
			w.complete(w.claimOne(), ok)
		}
	}},

	{"a dead node's probe is free again, and its late answer a Conflict", func(w *world) {
		dead, live := w.deadAndLive()
		probing := w.newEndpoint(w.tenant)
		c := kapsel.Circuit{EndpointID: w.endpoint.ID, State: kapsel.CircuitHalfOpen, ChangedAt: w.now, Destination: 2, Probe: dead}
		held, err := w.store.SaveCircuit(w.ctx, c)
		w.must(err)
		c.EndpointID, c.Probe = probing.ID, live
		alive, err := w.store.SaveCircuit(w.ctx, c)
		w.must(err)
		before := w.settings(0).Revision
		w.pass(lease + time.Millisecond)
		w.takeOver(100)

		freed, err := w.store.Circuit(w.ctx, w.endpoint.ID)
		w.must(err)
		want := held
		want.Probe, want.Version, want.Revision = kapsel.NodeID{}, freed.Version, freed.Revision
		w.same("circuit", want, freed)
		if freed.Version <= held.Version || freed.Revision <= before {
			w.t.Errorf("version %d and revision %d do not follow %d and %d", freed.Version, freed.Revision, held.Version, before)
		}
		w.same("settings", []kapsel.Circuit{freed}, w.settings(before).Circuits)
		_, err = w.store.SaveCircuit(w.ctx, held)
		w.refused(err, kapsel.Conflict, "the late answer")
		other, err := w.store.Circuit(w.ctx, probing.ID)
		w.must(err)
		w.same("a live node's probe", alive, other)
	}},
}
