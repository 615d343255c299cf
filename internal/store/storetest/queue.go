package storetest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// claiming are the promises of Backlog and Claim.
var claiming = []promise{
	{"a claim holds what it took, with its event", func(w *world) {
		in := w.accept(w.endpoint, key("k"), due(w.now.Add(-time.Minute)))
		got := w.claim(w.endpoint)
		if len(got) != 1 {
			w.t.Fatalf("claimed %d, want 1", len(got))
		}
		token := got[0].Delivery.Token
		if token.IsZero() || token.Part() != in.Event.ID.Part() {
			w.t.Errorf("token %v of part %d, want one of part %d", token, token.Part(), in.Event.ID.Part())
		}
		want, err := in.Deliveries[0].After(kapsel.Claim{Node: w.node, Token: token}, w.now)
		w.must(err)
		w.same("claimed", store.Claimed{Delivery: want, Event: in.Event, DueSince: in.Deliveries[0].DueAt}, got[0])
		w.same("stored", want, w.delivery(want.ID))
		w.same("claimed again", 0, len(w.claim(w.endpoint)))
	}},

	{"what is due now is taken, what is due later is not", func(w *world) {
		now := w.accept(w.endpoint)
		later := w.accept(w.endpoint, due(w.now.Add(time.Microsecond)))
		w.same("now", now.Deliveries[0].ID, w.claimOne().ID)
		w.pass(time.Microsecond)
		w.same("later", later.Deliveries[0].ID, w.claimOne().ID)
	}},

	{"the oldest of each endpoint come first, up to its limit", func(w *world) {
		other := w.newEndpoint(w.newTenant())
		for _, e := range []kapsel.Endpoint{w.endpoint, other} {
			for _, age := range []int{3, 1, 5, 2, 4} {
				w.accept(e, due(w.now.Add(-time.Duration(age)*time.Minute)))
			}
		}
		wants := []store.Want{{EndpointID: w.endpoint.ID, Limit: 2}, {EndpointID: other.ID, Limit: 3}}
		ages := map[kapsel.EndpointID][]float64{}
		for range 2 {
			got, _, err := w.store.Claim(w.ctx, w.node, w.now, wants, 1<<30)
			w.must(err)
			slices.SortStableFunc(got, func(a, b store.Claimed) int { return cmp.Compare(a.DueSince.Unix(), b.DueSince.Unix()) })
			for _, c := range got {
				id := c.Delivery.EndpointID
				ages[id] = append(ages[id], w.now.Sub(c.DueSince).Minutes())
			}
		}
		w.same("of the first", []float64{5, 4, 3, 2}, ages[w.endpoint.ID])
		w.same("of the other", []float64{5, 4, 3, 2, 1}, ages[other.ID])
	}},

	{"bodies do not exceed maxBytes together, but one always fits", func(w *world) {
		for i := range 10 {
			w.accept(w.endpoint, body(make([]byte, 100)), due(w.now.Add(time.Duration(i-20)*time.Second)))
		}
		wants := []store.Want{{EndpointID: w.endpoint.ID, Limit: 100}}
		for _, tt := range []struct{ maxBytes, want int }{{300, 3}, {299, 2}, {100, 1}, {99, 1}, {0, 1}, {1000, 2}, {1000, 0}} {
			got, _, err := w.store.Claim(w.ctx, w.node, w.now, wants, tt.maxBytes)
			w.must(err)
			w.same(fmt.Sprintf("claimed of %d bytes", tt.maxBytes), tt.want, len(got))
		}
	}},

	{"a claim says at which endpoint it ended for want of bytes", func(w *world) {
		large, last := w.newEndpoint(w.tenant), w.newEndpoint(w.tenant)
		w.accept(w.endpoint, body(make([]byte, 10)))
		w.accept(large, body(make([]byte, 500)))
		w.accept(last, body(make([]byte, 10)))
		wants := []store.Want{{EndpointID: w.endpoint.ID, Limit: 2}, {EndpointID: large.ID, Limit: 2}, {EndpointID: last.ID, Limit: 2}}
		var none kapsel.EndpointID
		for _, tt := range []struct {
			of  kapsel.EndpointID
			cut kapsel.EndpointID
		}{{w.endpoint.ID, large.ID}, {large.ID, last.ID}, {last.ID, none}, {none, none}} {
			got, cut, err := w.store.Claim(w.ctx, w.node, w.now, wants, 500)
			w.must(err)
			var of kapsel.EndpointID
			if len(got) > 0 {
				of = got[0].Delivery.EndpointID
			}
			w.same("claimed of", tt.of, of)
			w.same("deliveries", tt.of != none, len(got) == 1)
			w.same("ended at", tt.cut, cut)
		}
	}},

	{"endpoints that are not asked for are left alone", func(w *world) {
		quiet := w.newEndpoint(w.tenant)
		in := w.accept(quiet)
		w.accept(w.endpoint)
		w.claimOne()
		w.same("the other's", in.Deliveries[0], w.delivery(in.Deliveries[0].ID))
		for _, wants := range [][]store.Want{nil, {{EndpointID: quiet.ID}}, {{EndpointID: kapsel.NewEndpointID(w.now), Limit: 5}}} {
			got, _, err := w.store.Claim(w.ctx, w.node, w.now, wants, 1<<20)
			w.must(err)
			w.same("claimed", 0, len(got))
		}
	}},

	{"only pending deliveries are taken", func(w *world) {
		w.accept(w.endpoint, heldBy(w.node))
		for _, a := range []kapsel.Answer{ok, refusal, useless} {
			w.finished(w.endpoint, a)
		}
		canceled := w.accept(w.endpoint)
		_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, canceled.Deliveries[0].ID, kapsel.Cancel{}, w.now)
		w.must(err)
		w.same("claimed", 0, len(w.claim(w.endpoint)))
	}},

	{"of claims at the same time no two take one delivery, and together they take all", func(w *world) {
		const deliveries = 300
		other := w.newEndpoint(w.tenant)
		for i := range deliveries {
			w.accept([]kapsel.Endpoint{w.endpoint, other}[i%2])
		}
		nodes := w.several(4)
		wants := []store.Want{{EndpointID: w.endpoint.ID, Limit: 7}, {EndpointID: other.ID, Limit: 7}}
		var mu sync.Mutex
		holders := map[kapsel.DeliveryID]kapsel.Delivery{}
		w.together(8, func(i int) error {
			for {
				got, _, err := w.store.Claim(w.ctx, nodes[i%len(nodes)], w.now, wants, 1<<20)
				if err != nil {
					return err
				}
				mu.Lock()
				for _, c := range got {
					if _, twice := holders[c.Delivery.ID]; twice {
						err = fmt.Errorf("%s was claimed twice", c.Delivery.ID)
					}
					holders[c.Delivery.ID] = c.Delivery
				}
				all := len(holders) == deliveries
				mu.Unlock()
				if err != nil || all {
					return err
				}
				// Nothing came: what is left was being taken by another claim, or is taken.
			}
		})
		tokens := map[kapsel.AttemptID]bool{}
		for id, d := range holders {
			w.same("stored", d, w.delivery(id))
			tokens[d.Token] = true
		}
		w.same("tokens", deliveries, len(tokens))
	}},

	{"the backlog has the oldest due time of each endpoint with pending work", func(w *world) {
		oldest, future, idle, busy := w.endpoint, w.newEndpoint(w.newTenant()), w.newEndpoint(w.tenant), w.newEndpoint(w.tenant)
		for _, s := range []int{-1, -3, -2, 60} {
			w.accept(oldest, due(w.now.Add(time.Duration(s)*time.Second)))
		}
		w.accept(future, due(w.now.Add(time.Hour)))
		w.finished(idle, ok)
		w.accept(busy, heldBy(w.node))
		got, err := w.store.Backlog(w.ctx)
		w.must(err)
		slices.SortFunc(got, func(a, b store.Waiting) int { return a.DueAt.Compare(b.DueAt) })
		w.same("backlog", []store.Waiting{
			{EndpointID: oldest.ID, DueAt: w.now.Add(-3 * time.Second)}, {EndpointID: future.ID, DueAt: w.now.Add(time.Hour)},
		}, got)
	}},

	{"the backlog of 300 endpoints is whole", func(w *world) {
		want := map[kapsel.EndpointID]bool{}
		for i := range 300 {
			e := w.newEndpoint(w.tenant)
			w.accept(e, due(w.now.Add(time.Duration(i)*time.Second)))
			want[e.ID] = true
		}
		waiting, err := w.store.Backlog(w.ctx)
		w.must(err)
		got := map[kapsel.EndpointID]bool{}
		for _, b := range waiting {
			got[b.EndpointID] = true
		}
		w.same("endpoints", want, got)
	}},
}

// completing are the promises of Complete.
var completing = []promise{
	{"every end of an attempt is recorded, and moves the delivery", func(w *world) {
		for _, tt := range []struct {
			name   string
			answer kapsel.Answer
			want   kapsel.DeliveryStatus
		}{
			{"answered 2xx", ok, kapsel.Delivered},
			{"refused", refusal, kapsel.Failed},
			{"to retry", again, kapsel.Pending},
			{"out of attempts", useless, kapsel.DeadLetter},
			{"of a deleted endpoint", kapsel.Answer{Code: kapsel.DNSError, Retry: true, MaxAttempts: 20, Gone: true}, kapsel.Canceled},
		} {
			in := w.accept(w.endpoint, heldBy(w.node))
			done := w.completion(in.Deliveries[0], tt.answer)
			w.must(w.store.Complete(w.ctx, done))
			w.same(tt.name, tt.want, done.Delivery.Status)
			w.same(tt.name+": delivery", done.Delivery, w.delivery(in.Deliveries[0].ID))
			w.same(tt.name+": attempts", []kapsel.Attempt{done.Attempt}, w.attempts(in.Deliveries[0].ID))
			attempt, err := w.store.Attempt(w.ctx, w.tenant.ID, in.Deliveries[0].Token)
			w.must(err)
			w.same(tt.name+": attempt", done.Attempt, attempt)
		}
	}},

	{"B-30 attempts keep every byte", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		done := w.completion(in.Deliveries[0], refusal)
		done.Attempt.Duration = 300*time.Second + 7*time.Microsecond
		done.Attempt.StartedAt = w.now.Add(-done.Attempt.Duration)
		done.Attempt.Error = "the destination answered 404; it said: \"naïve\""
		done.Attempt.RequestHeaders = kapsel.Header{{Name: "X-A", Value: "\x80\xff"}, {Name: "x-a", Value: ""}}
		done.Attempt.ResponseHeaders = kapsel.Header{{Name: "Set-Cookie", Value: "a"}, {Name: "Set-Cookie", Value: "b\xfe"}}
		done.Attempt.ResponseBody = bytes.Repeat([]byte{0, 0xff, 0xc0, '\\', '\'', '\n', 0x80, 7}, 512)
		w.must(w.store.Complete(w.ctx, done))
		w.same("attempts", []kapsel.Attempt{done.Attempt}, w.attempts(in.Deliveries[0].ID))
	}},

	{"a retry is due when it says, and claimed as the next attempt", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		first := w.complete(in.Deliveries[0], again)
		w.pass(again.Delay - time.Microsecond)
		w.same("claimed early", 0, len(w.claim(w.endpoint)))
		w.pass(time.Microsecond)
		held := w.claimOne()
		if held.Token == in.Deliveries[0].Token {
			w.t.Error("the second attempt has the first's id")
		}
		second := w.complete(held, ok)
		w.same("delivery", second.Delivery, w.delivery(held.ID))
		w.same("attempts", []kapsel.Attempt{first.Attempt, second.Attempt}, w.attempts(held.ID))
	}},

	{"the same call again changes nothing and is no error", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		first := w.complete(in.Deliveries[0], again)
		w.must(w.store.Complete(w.ctx, first))
		w.same("while it waits", first.Delivery, w.delivery(in.Deliveries[0].ID))
		w.pass(again.Delay)
		held := w.claimOne()
		w.must(w.store.Complete(w.ctx, first))
		w.same("while it is held for the next", held, w.delivery(in.Deliveries[0].ID))
		second := w.complete(held, ok)
		w.must(w.store.Complete(w.ctx, first))
		w.must(w.store.Complete(w.ctx, second))
		w.same("when it has ended", second.Delivery, w.delivery(in.Deliveries[0].ID))
		w.same("attempts", []kapsel.Attempt{first.Attempt, second.Attempt}, w.attempts(held.ID))
	}},

	{"under the same id with another outcome, it is a Conflict and changes nothing", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		first := w.complete(in.Deliveries[0], again)
		for what, change := range map[string]func(*kapsel.Attempt){
			"another status code": func(a *kapsel.Attempt) { a.StatusCode++ },
			"another error code":  func(a *kapsel.Attempt) { a.ErrorCode = kapsel.BadResponse },
			"another start":       func(a *kapsel.Attempt) { a.StartedAt = a.StartedAt.Add(time.Microsecond) },
			"another duration":    func(a *kapsel.Attempt) { a.Duration++ },
		} {
			other := first
			change(&other.Attempt)
			w.refusedAs(w.store.Complete(w.ctx, other), rules.NotHeld(), what)
		}
		w.same("attempts", []kapsel.Attempt{first.Attempt}, w.attempts(in.Deliveries[0].ID))
	}},

	{"the same call many times at once is one attempt", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		done := w.completion(in.Deliveries[0], ok)
		w.together(20, func(int) error { return w.store.Complete(w.ctx, done) })
		w.same("delivery", done.Delivery, w.delivery(in.Deliveries[0].ID))
		w.same("attempts", []kapsel.Attempt{done.Attempt}, w.attempts(in.Deliveries[0].ID))
	}},

	{"F-F1 a completion under a token that does not hold the delivery is a Conflict and changes nothing", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		stale := w.completion(in.Deliveries[0], ok)
		held := in.Deliveries[0]
		held.DueAt = w.now
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{held}))

		w.refusedAs(w.store.Complete(w.ctx, stale), rules.NotHeld(), "given back")
		now := w.claimOne()
		w.refusedAs(w.store.Complete(w.ctx, stale), rules.NotHeld(), "held for another attempt")
		w.same("delivery", now, w.delivery(now.ID))
		w.same("attempts", 0, len(w.attempts(now.ID)))
		done := w.complete(now, refusal)
		w.refusedAs(w.store.Complete(w.ctx, stale), rules.NotHeld(), "ended by another attempt")
		w.same("delivery", done.Delivery, w.delivery(now.ID))
		w.same("attempts", []kapsel.Attempt{done.Attempt}, w.attempts(now.ID))

		unknown := w.completion(w.acceptance(w.endpoint, heldBy(w.node)).Deliveries[0], ok)
		w.refused(w.store.Complete(w.ctx, unknown), kapsel.Conflict, "of a delivery that is not there")
		_, err := w.store.Attempt(w.ctx, kapsel.TenantID{}, unknown.Attempt.ID)
		w.refused(err, kapsel.NotFound, "its attempt")
	}},

	{"calls of one moment all get their own answer", func(w *world) {
		const calls = 1200 // more than a group commit holds
		var done [calls]store.Completion
		answers := []kapsel.Answer{ok, refusal, again, useless}
		var ins [calls]store.Acceptance
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, heldBy(w.node))
		}
		w.together(calls, func(i int) error {
			_, err := w.store.Accept(w.ctx, ins[i])
			return err
		})
		for i := range done {
			done[i] = w.completion(ins[i].Deliveries[0], answers[i%len(answers)])
			if i%7 == 0 { // late, and so a Conflict
				done[i].Attempt.ID = kapsel.NewAttemptID(w.now, w.endpoint.Part)
			}
		}
		w.together(calls, func(i int) error {
			err := w.store.Complete(w.ctx, done[i])
			switch {
			case i%7 != 0:
				return err
			case kapsel.CodeOf(err) != kapsel.Conflict:
				return fmt.Errorf("call %d: error is %v, want %s", i, err, kapsel.Conflict)
			}
			return nil
		})
		for i := range done {
			want := done[i].Delivery
			if i%7 == 0 {
				want = ins[i].Deliveries[0]
			}
			w.same("delivery", want, w.delivery(want.ID))
		}
	}},

	{"accepts, claims and completions at the same time lose nothing and double nothing", func(w *world) {
		const writers, each = 4, 60
		var mu sync.Mutex
		delivered := map[kapsel.DeliveryID]int{}
		total := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			return len(delivered)
		}
		var ins [writers][each]store.Acceptance
		for i := range ins {
			for j := range ins[i] {
				ins[i][j] = w.acceptance(w.endpoint)
			}
		}
		node, now := w.node, w.now
		w.together(2*writers, func(i int) error {
			if i < writers {
				for j := range each {
					if _, err := w.store.Accept(w.ctx, ins[i][j]); err != nil {
						return err
					}
				}
				return nil
			}
			for total() < writers*each {
				got, _, err := w.store.Claim(w.ctx, node, now, []store.Want{{EndpointID: w.endpoint.ID, Limit: 10}}, 1<<20)
				if err != nil {
					return err
				}
				for _, c := range got {
					after, err := c.Delivery.After(ok, now)
					if err != nil {
						return err
					}
					attempt := kapsel.Attempt{
						ID: c.Delivery.Token, DeliveryID: after.ID, EventID: after.EventID, EndpointID: after.EndpointID, TenantID: after.TenantID,
						Number: after.Attempts, StartedAt: now, StatusCode: 200,
					}
					if err := w.store.Complete(w.ctx, store.Completion{Attempt: attempt, Delivery: after}); err != nil {
						return err
					}
					mu.Lock()
					delivered[after.ID]++
					mu.Unlock()
				}
			}
			return nil
		})
		all := w.deliveries(w.endpoint)
		w.same("deliveries", writers*each, len(all))
		for _, d := range all {
			if d.Status != kapsel.Delivered || d.Attempts != 1 || d.Claims != 1 || delivered[d.ID] != 1 {
				w.t.Errorf("%s is %s with %d attempts, %d claims, delivered %d times", d.ID, d.Status, d.Attempts, d.Claims, delivered[d.ID])
			}
		}
	}},
}

// givingBack are the promises of GiveBack and Held.
var givingBack = []promise{
	{"what is given back waits again, with no attempt", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		at := w.now.Add(time.Second)
		want, err := in.Deliveries[0].After(kapsel.GiveBack{Due: at}, w.now)
		w.must(err)
		held := in.Deliveries[0]
		held.DueAt = at
		for range 2 { // the second finds it no longer held
			w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{held}))
			w.same("delivery", want, w.delivery(held.ID))
		}
		w.same("attempts", 0, len(w.attempts(held.ID)))
		w.same("claimed early", 0, len(w.claim(w.endpoint)))
		w.pass(time.Second)
		next := w.claimOne()
		w.same("claims", 2, next.Claims)
	}},

	{"what is no longer held under its token is passed over", func(w *world) {
		mine := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		ended := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		done := w.complete(ended, ok)
		w.accept(w.endpoint)
		first := w.claimOne()
		first.DueAt = w.now
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{first}))
		second := w.claimOne()

		mine.DueAt, ended.DueAt = w.now, w.now
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{ended, first, mine}))
		w.same("ended", done.Delivery, w.delivery(ended.ID))
		w.same("held for another attempt", second, w.delivery(first.ID))
		w.same("mine", mine.ID, w.claimOne().ID)
		w.must(w.store.GiveBack(w.ctx, nil))
	}},

	{"a node's held deliveries are listed, its alone", func(w *world) {
		other, node := w.deadAndLive()
		w.accept(w.endpoint)
		w.finished(w.endpoint, ok)
		a := w.accept(w.endpoint, heldBy(node)).Deliveries[0]
		b := w.accept(w.newEndpoint(w.newTenant()), heldBy(node)).Deliveries[0]
		w.accept(w.endpoint, heldBy(other))
		got, err := w.store.Held(w.ctx, node)
		w.must(err)
		byID := func(a, b kapsel.Delivery) int { return bytes.Compare(a.ID[:], b.ID[:]) }
		want := []kapsel.Delivery{a, b}
		slices.SortFunc(want, byID)
		slices.SortFunc(got, byID)
		w.same("held", want, got)
	}},
}
