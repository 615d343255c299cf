package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
	"github.com/kapsel-hq/kapsel/receipt"
)

// erasing are the promises of EraseEvent, DeleteTexts and DropLog.
var erasing = []promise{
	{"S-28 what is erased is gone, with the texts of its leaves, and an entry says so", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node), key("k"), salted)
		tried := w.completion(in.Deliveries[0], again)
		tried.Attempt.ResponseHeaders, tried.Attempt.ResponseBody = kapsel.Header{{Name: "A", Value: "secret"}}, []byte("secret")
		w.must(w.store.Complete(w.ctx, tried))
		l := w.takeLogs(w.tenant.ID)[0]
		w.same("stale", 0, len(w.append(w.growth(l, tried.Attempt.ID))))
		w.pass(time.Hour)
		ended := w.complete(w.claimOne(), refusal)
		other := w.finished(w.endpoint, ok).Attempt
		was := w.event(in.Event.ID)
		for range 2 {
			at, err := w.store.EraseEvent(w.ctx, w.tenant.ID, in.Event.ID, w.now)
			w.must(err)
			w.same("erased at", was.Event.ReceivedAt.Add(time.Hour), at)
			w.pass(time.Minute)
		}
		want := was
		want.Event.Body, want.Event.Header, want.Event.Query, want.Event.Salt, want.Event.Size = []byte{}, kapsel.Header{}, "", nil, 0
		want.Event.ErasedAt = was.Event.ReceivedAt.Add(time.Hour)
		w.same("event", want, w.event(in.Event.ID))
		listed, _, err := w.store.ListEvents(w.ctx, w.tenant.ID, store.EventFilter{IdempotencyKey: []byte("k")}, store.Page[kapsel.EventID]{Limit: 10})
		w.must(err)
		w.same("listed", want.Event.ErasedAt, listed[0].Event.ErasedAt)
		for _, a := range w.attempts(in.Deliveries[0].ID) {
			w.same("what attempts have", 0, len(a.RequestHeaders)+len(a.ResponseHeaders)+len(a.ResponseBody))
		}

		_, leaf, err := w.store.LeafOf(w.ctx, w.tenant.ID, tried.Attempt.ID)
		w.must(err)
		w.same("leaf", store.Leaf{AttemptID: tried.Attempt.ID, Hash: store.Hash{3}}, leaf)
		said := store.RecordOf(&ended.Attempt, &kapsel.Commitments{})
		attempts := []kapsel.AttemptID{tried.Attempt.ID, ended.Attempt.ID}
		slices.SortFunc(attempts, func(a, b kapsel.AttemptID) int { return bytes.Compare(a[:], b[:]) })
		var entries, erasures int
		for _, e := range w.entries() {
			entries++
			w.same("tenant of an entry", w.tenant.ID, e.TenantID)
			if erasure, ok := store.ReadErasure(e.Record); ok {
				erasures++
				w.same("erasure", store.Erasure{EventID: in.Event.ID, Attempts: attempts, At: want.Event.ErasedAt.UnixMilli()}, erasure)
				continue
			}
			hash, erased := store.ErasedHash(e.Record)
			w.same("erased", e.AttemptID != other.ID, erased)
			if erased {
				w.same("attempt", ended.Attempt.ID, e.AttemptID)
				w.same("hash", store.Hash(receipt.LeafHash(said.Leaf().Append(nil))), hash)
			}
		}
		w.same("entries", 3, entries)
		w.same("erasures", 1, erasures)
		w.same("strays", []kapsel.AttemptID(nil), w.strays())
		w.duplicate(in.Event.ID, w.acceptance(w.endpoint, key("k")))
	}},

	{"an event is erased once its deliveries have ended, and by its tenant", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		erase := func(tenant kapsel.TenantID, event kapsel.EventID) error {
			_, err := w.store.EraseEvent(w.ctx, tenant, event, w.now)
			return err
		}
		w.refused(erase(w.tenant.ID, in.Event.ID), kapsel.Conflict, "held")
		w.complete(in.Deliveries[0], again)
		w.refused(erase(w.tenant.ID, in.Event.ID), kapsel.Conflict, "waiting")
		w.same("its body", in.Event.Body, w.event(in.Event.ID).Event.Body)
		_, _, err := w.store.CancelEvent(w.ctx, w.tenant.ID, in.Event.ID, kapsel.EndpointID{}, w.now)
		w.must(err)
		w.refused(erase(w.newTenant().ID, in.Event.ID), kapsel.NotFound, "another tenant's")
		w.refused(erase(w.tenant.ID, kapsel.NewEventID(w.now, 0)), kapsel.NotFound, "no event")
		w.must(erase(kapsel.TenantID{}, in.Event.ID))

		nobody := w.accept(w.endpoint, nowhere)
		w.must(erase(w.tenant.ID, nobody.Event.ID))
		w.same("without a delivery", 0, len(w.event(nobody.Event.ID).Event.Body))
	}},

	{"what is erased is delivered to nobody", func(w *world) {
		failed := w.finished(w.endpoint, refusal)
		second := w.newEndpoint(w.tenant)
		id := failed.Delivery.EventID
		_, err := w.store.EraseEvent(w.ctx, w.tenant.ID, id, w.now)
		w.must(err)
		was := w.event(id)
		_, err = w.store.Replay(w.ctx, w.tenant.ID, id, kapsel.DeliveryID{}, w.now)
		w.refused(err, kapsel.Conflict, "replay")
		_, err = w.store.Deliver(w.ctx, w.tenant.ID, id, second.ID, w.now)
		w.refused(err, kapsel.Conflict, "deliver")
		w.pass(time.Hour)
		made, err := w.store.Redeliver(w.ctx, id, w.now)
		w.must(err)
		w.same("for a duplicate", 0, len(made))
		kept := w.finished(w.endpoint, refusal)
		w.pass(time.Minute)
		r := kapsel.Replay{
			ID: kapsel.NewReplayID(w.now), TenantID: w.tenant.ID, EndpointID: w.endpoint.ID, Since: w.now.Add(-3 * time.Hour), Until: w.now,
			Statuses: []kapsel.DeliveryStatus{kapsel.Failed}, Status: kapsel.ReplayRunning, CreatedAt: w.now,
		}
		n, _, err := w.store.CountReplay(w.ctx, r, 10, 10)
		w.must(err)
		w.same("counted by a bulk replay", 1, n)
		w.must(w.store.CreateReplay(w.ctx, r))
		w.same("made by a bulk replay", 1, w.walkOut(r.ID, 10))
		w.same("the other one was", 2, len(w.event(kept.Delivery.EventID).Deliveries))
		w.same("event", was, w.event(id))
	}},

	{"an erasure of very many attempts is done in parts, each with an entry", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		held := in.Deliveries[0]
		const attempts = 2*rules.ErasedTogether + 7
		for n := 1; ; n++ {
			if n == attempts {
				w.complete(held, refusal)
				break
			}
			more := again
			more.MaxAttempts = attempts + 1
			w.complete(held, more)
			w.pass(time.Hour)
			held = w.claimOne()
		}
		_, err := w.store.EraseEvent(w.ctx, w.tenant.ID, in.Event.ID, w.now)
		w.must(err)
		var named []kapsel.AttemptID
		hashes := 0
		for _, e := range w.entries() {
			if erasure, ok := store.ReadErasure(e.Record); ok {
				named = append(named, erasure.Attempts...)
			} else if _, ok := store.ErasedHash(e.Record); ok {
				hashes++
			}
		}
		slices.SortFunc(named, func(a, b kapsel.AttemptID) int { return bytes.Compare(a[:], b[:]) })
		w.same("named", attempts, len(slices.Compact(named)))
		w.same("hashes", attempts, hashes)
		left, err := w.store.Erasing(w.ctx, 10)
		w.must(err)
		w.same("left", 0, len(left))
	}},

	{"no leaf is made of what an entry said before it was erased", func(w *world) {
		a := w.finished(w.endpoint, refusal).Attempt
		l := w.takeLogs(w.tenant.ID)[0]
		g := w.growth(l, a.ID)
		_, err := w.store.EraseEvent(w.ctx, w.tenant.ID, a.EventID, w.now)
		w.must(err)
		_, err = w.store.Append(w.ctx, []store.Growth{g})
		w.refused(err, kapsel.Conflict, "an entry that was erased")
		_, _, err = w.store.LeafOf(w.ctx, w.tenant.ID, a.ID)
		w.refused(err, kapsel.NotFound, "its leaf")
		g = w.growth(l, a.ID)
		g.Leaves[0].Record = nil
		w.same("stale", 0, len(w.append(g)))
		_, leaf, err := w.store.LeafOf(w.ctx, w.tenant.ID, a.ID)
		w.must(err)
		w.same("a leaf without a text", g.Leaves[0], leaf)
	}},

	{"an event that is erased while its attempts become leaves has no text left", func(w *world) {
		l := w.takeLogs(w.tenant.ID)[0]
		for range 10 {
			a := w.finished(w.endpoint, refusal).Attempt
			g := w.growth(l, a.ID)
			w.together(2, func(i int) error {
				if i == 0 {
					_, err := w.store.EraseEvent(w.ctx, w.tenant.ID, a.EventID, w.now)
					return err
				}
				_, err := w.store.Append(w.ctx, []store.Growth{g})
				if kapsel.CodeOf(err) == kapsel.Conflict {
					return nil
				}
				return err
			})
			if _, leaf, err := w.store.LeafOf(w.ctx, w.tenant.ID, a.ID); kapsel.CodeOf(err) != kapsel.NotFound {
				w.must(err)
				w.same("text", 0, len(leaf.Record))
			}
			for _, e := range w.entries() {
				if _, err := store.ReadRecord(e.AttemptID, e.Record); err == nil {
					w.t.Errorf("an entry says %x", e.Record)
				}
			}
			now, err := w.store.Log(w.ctx, l.ID)
			w.must(err)
			l.State = now.State
		}
	}},

	{"the row of an erasure says who did it, once", func(w *world) {
		id := w.finished(w.endpoint, refusal).Delivery.EventID
		now := w.now
		row := fmt.Sprintf(`event %s erase  {"erased_at":"%s"}`, id, now.UTC().Format(time.RFC3339Nano))
		erase := func(s store.Store) error { _, err := s.EraseEvent(w.ctx, w.tenant.ID, id, now); return err }
		w.left("erase", erase, row)
		w.left("erase", erase)
	}},

	{"texts of leaves are deleted by their attempts' times, and nothing else is", func(w *world) {
		l := w.takeLogs(w.tenant.ID)[0]
		var leaves []store.Leaf
		grow := func(change func(*store.Growth)) {
			g := w.growth(l, w.finished(w.endpoint, ok).Attempt.ID)
			change(&g)
			g.Tiles = []store.Tile{{Level: 1, Hashes: []byte("hashes")}}
			w.same("stale", 0, len(w.append(g)))
			l.Size, l.Root, l.Edge = g.Size, g.Root, g.Edge
			leaves = append(leaves, g.Leaves...)
		}
		for i := range 6 {
			grow(func(g *store.Growth) {
				if i == 2 {
					g.Leaves = append(g.Leaves, store.Leaf{Index: g.Size, Record: []byte("of no attempt")})
					g.Size++
				}
			})
			w.pass(time.Hour)
		}
		check := func(gone int) {
			w.t.Helper()
			want := slices.Clone(leaves)
			for i := range gone {
				if !want[i].AttemptID.IsZero() {
					want[i].Record = nil
				}
			}
			got, err := w.store.Leaves(w.ctx, l.ID, 0, 100)
			w.must(err)
			w.same("leaves", want, got)
			l.TextsFrom = int64(gone)
			log, err := w.store.Log(w.ctx, l.ID)
			w.must(err)
			w.same("log", l, log)
		}
		delete := func(before time.Time, limit, want int) {
			w.t.Helper()
			n, err := w.store.DeleteTexts(w.ctx, l.ID, before, limit)
			w.must(err)
			w.same("passed", want, n)
		}
		start := leaves[0].AttemptID.Time()
		delete(start, 10, 0)
		check(0)
		delete(start.Add(time.Minute), 10, 1)
		check(1)
		delete(start.Add(3*time.Hour+time.Minute), 2, 2)
		check(3)
		delete(start.Add(3*time.Hour+time.Minute), 10, 2)
		check(5)
		delete(start.Add(100*time.Hour), 10, 2)
		check(7)
		delete(start.Add(100*time.Hour), 10, 0)
		n, err := w.store.DeleteTexts(w.ctx, kapsel.NewLogID(), w.now, 10)
		w.must(err)
		w.same("of no log", 0, n)
	}},

	{"of a log that is dropped its row alone is left", func(w *world) {
		w.logSome()
		l, err := w.store.LogOf(w.ctx, w.tenant.ID)
		w.must(err)
		other := w.newEndpoint(w.newTenant())
		kept := w.takeLogs(other.TenantID)[0]
		w.same("stale", 0, len(w.append(w.growth(kept, w.finished(other, ok).Attempt.ID))))
		total := 0
		for first := true; ; first = false {
			n, err := w.store.DropLog(w.ctx, l.ID, w.now, 2)
			w.must(err)
			got, err := w.store.Log(w.ctx, l.ID)
			w.must(err)
			if total += n; n < 2 {
				w.same("the log", store.Log{ID: l.ID, TenantID: w.tenant.ID, CreatedAt: l.CreatedAt, ClosedAt: got.ClosedAt, DroppedAt: got.DroppedAt, State: store.State{Epoch: l.Epoch, Root: got.Root}}, got)
				break
			}
			w.same("dropped", true, first || !got.DroppedAt.IsZero())
			w.pass(time.Minute)
		}
		w.same("rows", 5, total) // two leaves, a tile, a head and what witnesses signed
		leaves, err := w.store.Leaves(w.ctx, l.ID, 0, 10)
		w.must(err)
		w.same("leaves", 0, len(leaves))
		_, err = w.store.Head(w.ctx, l.ID)
		w.refused(err, kapsel.NotFound, "its head")
		_, err = w.store.Witnessed(w.ctx, l.ID)
		w.refused(err, kapsel.NotFound, "what witnesses signed")
		leaves, err = w.store.Leaves(w.ctx, kept.ID, 0, 10)
		w.must(err)
		w.same("another log's leaves", 1, len(leaves))
	}},
}

// salted is for an event of the audit log.
func salted(in *store.Acceptance) { in.Event.Salt = kapsel.NewSalt() }
