package storetest

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// journaling are the promises of Journal.
var journaling = []promise{
	{"an attempt that is recorded is an entry, with all that its leaf says", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		done := w.completion(in.Deliveries[0], again)
		done.Commitments = kapsel.Commitments{
			URL: bytes.Repeat([]byte{1}, 32), Payload: bytes.Repeat([]byte{2}, 32), Response: bytes.Repeat([]byte{4}, 32),
		}
		w.must(w.store.Complete(w.ctx, done))
		w.must(w.store.Complete(w.ctx, done)) // a repeated call
		a := done.Attempt
		a.RequestHeaders = nil
		w.same("entries", []store.Record{store.RecordOf(&a, &done.Commitments)}, w.recorded(w.entries()))
		w.same("tenant", a.TenantID, w.entries()[0].TenantID)
		w.same("logged", true, w.logged(a.ID))
	}},

	{"an attempt of a dead node is an entry without commitments", func(w *world) {
		in := w.accept(w.endpoint, heldBy(w.node))
		late := w.completion(in.Deliveries[0], ok)
		w.must(w.store.Leave(w.ctx, w.node))
		w.node = w.join(time.Hour)
		_, err := w.store.TakeOver(w.ctx, w.now, 10)
		w.must(err)
		w.refused(w.store.Complete(w.ctx, late), kapsel.Conflict, "a late result")
		a := w.attempts(in.Deliveries[0].ID)[0]
		w.same("entries", []store.Record{store.RecordOf(&a, &kapsel.Commitments{})}, w.recorded(w.entries()))
	}},

	{"entries come in an order, from behind one of them", func(w *world) {
		var want []kapsel.AttemptID
		for range 5 {
			want = append(want, w.finished(w.newEndpoint(w.tenant), ok).Attempt.ID)
		}
		slices.SortFunc(want, byAttempt)
		w.same("entries", want, attemptsOf(w.entriesWithout(nil, 2)))
	}},

	{"entries of some tenants are passed over", func(w *world) {
		others := map[kapsel.TenantID]bool{w.newTenant().ID: true}
		for range 3 {
			other := w.newTenant()
			others[other.ID] = true
			w.finished(w.newEndpoint(other), ok)
			w.finished(w.newEndpoint(other), ok)
		}
		mine := w.finished(w.endpoint, ok).Attempt
		for _, limit := range []int{1, 2, 100} {
			got := w.entriesWithout(others, limit)
			w.same("entries", []kapsel.AttemptID{mine.ID}, []kapsel.AttemptID{got[0].AttemptID})
			w.same("entries", 1, len(got))
		}
		delete(others, mine.TenantID)
		w.same("all entries", 7, len(w.entries()))
	}},

	{"entries that were written together are read, taken and erased one by one", func(w *world) {
		const n = 12
		l := w.takeLogs(w.tenant.ID)[0]
		l.State = w.appended(l, w.finished(w.endpoint, ok).Attempt.ID)
		done := make([]store.Completion, n)
		for i := range done {
			done[i] = w.completion(w.accept(w.endpoint, heldBy(w.node)).Deliveries[0], refusal)
		}
		w.together(n, func(i int) error { return w.store.Complete(w.ctx, done[i]) })
		all := w.entries()
		for _, page := range []int{1, 5, n} {
			w.same("entries, in pages", all, w.entriesWithout(nil, page))
		}
		w.same("entries", n, len(all))
		event := map[kapsel.AttemptID]kapsel.EventID{}
		for _, c := range done {
			event[c.Attempt.ID] = c.Attempt.EventID
		}
		left := func(what string, gone ...int) {
			w.t.Helper()
			var want []store.Entry
			for i, e := range all {
				if !slices.Contains(gone, i) {
					want = append(want, e)
				}
			}
			w.same(what, attemptsOf(want), attemptsOf(w.entries()))
			w.same("strays", 0, len(w.strays()))
		}

		// Some become leaves.
		old := w.growth(l, all[3].AttemptID, all[4].AttemptID)
		l.State = w.appended(l, all[1].AttemptID, all[3].AttemptID, all[10].AttemptID)
		left("after some were taken", 1, 3, 10)
		old.Was, old.Size = l.State, l.Size+2
		old.Leaves[0].Index, old.Leaves[1].Index = l.Size, l.Size+1
		_, err := w.store.Append(w.ctx, []store.Growth{old})
		w.refused(err, kapsel.Conflict, "one that is gone, and one that is not")
		left("after a conflict", 1, 3, 10)

		// One is erased: its entry has no text, and the others have theirs.
		erased := all[6].AttemptID
		before := w.growth(l, all[5].AttemptID, erased)
		_, err = w.store.EraseEvent(w.ctx, w.tenant.ID, event[erased], w.now)
		w.must(err)
		for _, e := range w.entries() {
			if _, is := store.ErasedHash(e.Record); is != (e.AttemptID == erased) {
				if _, erasure := store.ReadErasure(e.Record); !erasure {
					w.t.Errorf("attempt %s: erased: %v", e.AttemptID, is)
				}
			}
		}
		_, err = w.store.Append(w.ctx, []store.Growth{before})
		w.refused(err, kapsel.Conflict, "one that was erased since it was read")
		var rest []kapsel.AttemptID
		for i, e := range all {
			if !slices.Contains([]int{1, 3, 10}, i) {
				rest = append(rest, e.AttemptID)
			}
		}
		l.State = w.appended(l, rest...)
		w.same("strays", 0, len(w.strays()))
		w.same("left: the erasure", 1, len(w.entries()))
		leaves, err := w.store.LeafIndexes(w.ctx, w.tenant.ID, slices.Collect(maps.Keys(event)))
		w.must(err)
		w.same("leaves", n, len(leaves))
	}},

	{"a tenant has one log, whose epoch each writer raises", func(w *world) {
		other := w.newTenant()
		logs := w.takeLogs(other.ID, w.tenant.ID)
		w.same("tenants", []kapsel.TenantID{other.ID, w.tenant.ID}, []kapsel.TenantID{logs[0].TenantID, logs[1].TenantID})
		w.same("a new log", store.Log{ID: logs[1].ID, TenantID: w.tenant.ID, CreatedAt: w.now, State: store.State{Epoch: 1, Root: rules.EmptyRoot}}, logs[1])
		w.pass(time.Hour)
		next := w.takeLogs(w.tenant.ID)[0]
		logs[1].Epoch = 2
		w.same("the log later", logs[1], next)
		got, err := w.store.LogOf(w.ctx, w.tenant.ID)
		w.must(err)
		w.same("of the tenant", next, got)
		got, err = w.store.Log(w.ctx, next.ID)
		w.must(err)
		w.same("by its id", next, got)
		all, err := w.store.Logs(w.ctx, kapsel.LogID{}, 1)
		w.must(err)
		more, err := w.store.Logs(w.ctx, all[0].ID, 10)
		w.must(err)
		w.same("logs", 1, len(more))
		_, err = w.store.LogOf(w.ctx, w.newTenant().ID)
		w.refused(err, kapsel.NotFound, "a tenant without a log")
		_, err = w.store.Log(w.ctx, kapsel.NewLogID())
		w.refused(err, kapsel.NotFound, "no log")
	}},

	{"an append takes entries and makes leaves, of each log whole or not at all", func(w *world) {
		mine, theirs := w.finished(w.endpoint, ok).Attempt, w.finished(w.newEndpoint(w.newTenant()), ok).Attempt
		logs := w.takeLogs(mine.TenantID, theirs.TenantID)
		first, second := w.growth(logs[0], mine.ID), w.growth(logs[1], theirs.ID)
		for _, change := range []func(*store.State){
			func(s *store.State) { s.Epoch-- }, func(s *store.State) { s.Size++ }, func(s *store.State) { s.Root[0]++ },
		} {
			stale := second
			change(&stale.Was)
			w.same("stale", []kapsel.LogID{logs[1].ID}, w.append(stale))
		}
		w.takeLogs(theirs.TenantID)
		first.Tiles = []store.Tile{{Level: 1, N: 0, Hashes: bytes.Repeat([]byte{1}, 32)}, {Level: 0, N: 3, Hashes: bytes.Repeat([]byte{2}, 64)}}
		w.same("stale beside another", []kapsel.LogID{logs[1].ID}, w.append(first, second))
		w.same("left in the outbox", theirs.ID, w.entries()[0].AttemptID)
		w.same("entries", 1, len(w.entries()))

		l, leaf, err := w.store.LeafOf(w.ctx, mine.TenantID, mine.ID)
		w.must(err)
		w.same("leaf", first.Leaves[0], leaf)
		logs[0].Size, logs[0].Root, logs[0].Edge = first.Size, first.Root, first.Edge
		w.same("log", logs[0], l)
		leaves, err := w.store.Leaves(w.ctx, l.ID, 0, 10)
		w.must(err)
		w.same("leaves", first.Leaves, leaves)
		hashes, err := w.store.Hashes(w.ctx, l.ID, 0, 10)
		w.must(err)
		w.same("hashes", leaf.Hash[:], hashes)
		tile, err := w.store.Tile(w.ctx, l.ID, 1, 0)
		w.must(err)
		w.same("tile", first.Tiles[0].Hashes, tile)
		tile, err = w.store.Tile(w.ctx, l.ID, 1, 1)
		w.must(err)
		w.same("no tile", 0, len(tile))
		indexes, err := w.store.LeafIndexes(w.ctx, mine.TenantID, []kapsel.AttemptID{mine.ID, theirs.ID})
		w.must(err)
		w.same("indexes", map[kapsel.AttemptID]store.Place{mine.ID: {Log: l.ID, Index: 0}}, indexes)
		indexes, err = w.store.LeafIndexes(w.ctx, w.newTenant().ID, []kapsel.AttemptID{mine.ID})
		w.must(err)
		w.same("indexes of a tenant without a log", 0, len(indexes))
		_, _, err = w.store.LeafOf(w.ctx, theirs.TenantID, mine.ID)
		w.refused(err, kapsel.NotFound, "another tenant's leaf")
		w.same("logged", true, w.logged(mine.ID))
		_, err = w.store.Logged(w.ctx, theirs.TenantID, mine.ID)
		w.refused(err, kapsel.NotFound, "another tenant's attempt")
	}},

	{"a tile that goes on is replaced", func(w *world) {
		l := w.takeLogs(w.tenant.ID)[0]
		for n := 1; n <= 2; n++ {
			g := growth(l)
			g.Tiles = []store.Tile{{Level: 1, N: 0, Hashes: bytes.Repeat([]byte{1}, 32*n)}}
			w.same("stale", 0, len(w.append(g)))
		}
		tile, err := w.store.Tile(w.ctx, l.ID, 1, 0)
		w.must(err)
		w.same("tile", 64, len(tile))
	}},

	{"no attempt becomes two leaves", func(w *world) {
		a := w.finished(w.endpoint, ok).Attempt
		l := w.takeLogs(w.tenant.ID)[0]
		g := w.growth(l, a.ID)
		w.same("stale", 0, len(w.append(g)))
		l.State = store.State{Epoch: l.Epoch, Size: g.Size, Root: g.Root, Edge: g.Edge}
		again := growth(l, a.ID)
		again.Taken = g.Taken
		_, err := w.store.Append(w.ctx, []store.Growth{again})
		w.refused(err, kapsel.Conflict, "an entry that is gone")
		twice := growth(l, a.ID)
		_, err = w.store.Append(w.ctx, []store.Growth{twice})
		w.refused(err, kapsel.Conflict, "a second leaf")
		got, err := w.store.Log(w.ctx, l.ID)
		w.must(err)
		w.same("log", l, got)
	}},

	{"a head is published if the log is as it says", func(w *world) {
		a := w.finished(w.endpoint, ok).Attempt
		l := w.takeLogs(w.tenant.ID)[0]
		_, err := w.store.Head(w.ctx, l.ID)
		w.refused(err, kapsel.NotFound, "no head")
		w.same("unpublished, empty", 0, len(w.unpublished()))
		g := w.growth(l, a.ID)
		w.append(g)
		l.Size, l.Root, l.Edge = g.Size, g.Root, g.Edge
		w.same("unpublished", []store.Log{l}, w.unpublished())
		head := store.SignedHead{Log: l.ID, Epoch: l.Epoch, Size: l.Size, Root: l.Root, SignedAt: w.now, Note: []byte("note \xff")}
		for _, change := range []func(*store.SignedHead){
			func(h *store.SignedHead) { h.Epoch-- }, func(h *store.SignedHead) { h.Size++ }, func(h *store.SignedHead) { h.Root[0]++ },
		} {
			stale := head
			change(&stale)
			w.same("stale", []kapsel.LogID{l.ID}, w.publish(stale))
		}
		w.same("stale", 0, len(w.publish(head)))
		again := head
		again.Note = []byte("another")
		w.same("stale", 0, len(w.publish(again)))
		head.Epoch = 0
		got, err := w.store.Head(w.ctx, l.ID)
		w.must(err)
		w.same("head", head, got)
		heads, err := w.store.Heads(w.ctx, l.ID, 0, 10)
		w.must(err)
		w.same("heads", []store.SignedHead{head}, heads)
		heads, err = w.store.Heads(w.ctx, l.ID, head.Size, 10)
		w.must(err)
		w.same("later heads", 0, len(heads))
		w.same("unpublished", 0, len(w.unpublished()))
	}},

	{"a leaf of a log that was closed is found", func(w *world) {
		a := w.finished(w.endpoint, ok).Attempt
		old := w.takeLogs(a.TenantID)[0]
		w.append(w.growth(old, a.ID))
		w.must(w.store.CloseLog(w.ctx, old.ID, w.now))
		b := w.finished(w.endpoint, ok).Attempt
		next := w.takeLogs(b.TenantID)[0]
		w.append(w.growth(next, b.ID))
		l, leaf, err := w.store.LeafOf(w.ctx, a.TenantID, a.ID)
		w.must(err)
		w.same("log", old.ID, l.ID)
		w.same("closed", w.now, l.ClosedAt)
		w.same("index", int64(0), leaf.Index)
		places, err := w.store.LeafIndexes(w.ctx, a.TenantID, []kapsel.AttemptID{a.ID, b.ID})
		w.must(err)
		w.same("places", map[kapsel.AttemptID]store.Place{a.ID: {Log: old.ID}, b.ID: {Log: next.ID}}, places)
	}},

	{"what witnesses have signed never goes back", func(w *world) {
		l := w.takeLogs(w.tenant.ID)[0]
		_, err := w.store.Witnessed(w.ctx, l.ID)
		w.refused(err, kapsel.NotFound, "nothing yet")
		none := store.Witnessed{SignedHead: store.SignedHead{Log: l.ID}, States: []byte("away")}
		w.must(w.store.SetWitnessed(w.ctx, []store.Witnessed{none}))
		signed := store.Witnessed{SignedHead: store.SignedHead{Log: l.ID, Size: 7, Root: store.Hash{7}, SignedAt: w.now, Note: []byte("seven")}, States: []byte("signed")}
		for _, c := range []struct{ set, want store.Witnessed }{
			{none, none},
			{signed, signed},
			{store.Witnessed{SignedHead: store.SignedHead{Log: l.ID, Size: 6, SignedAt: w.now}, States: []byte("again")}, store.Witnessed{SignedHead: signed.SignedHead, States: []byte("again")}},
			{none, store.Witnessed{SignedHead: signed.SignedHead, States: none.States}},
			{signed, signed},
		} {
			w.must(w.store.SetWitnessed(w.ctx, []store.Witnessed{c.set}))
			got, err := w.store.Witnessed(w.ctx, l.ID)
			w.must(err)
			if got.Note == nil {
				got.Note = []byte{}
			}
			if c.want.Note == nil {
				c.want.Note = []byte{}
			}
			w.same("witnessed", c.want, got)
		}
	}},

	{"a log tells its tenant, also when the tenant is deleted", func(w *world) {
		mine := w.newTenant().ID
		l := w.takeLogs(mine)[0]
		_, err := w.store.OwnerOf(w.ctx, kapsel.NewLogID())
		w.refused(err, kapsel.NotFound, "no log")
		set := kapsel.AuditSettings{Private: true, Witnesses: new(2), Retention: new(24 * time.Hour)}
		_, err = w.store.UpdateTenant(w.ctx, mine, func(t *kapsel.Tenant) error { t.Audit = set; return nil })
		w.must(err)
		t, err := w.store.Tenant(w.ctx, mine)
		w.must(err)
		w.same("settings", set, t.Audit)
		made := w.newTenant()
		w.same("settings of a new tenant", kapsel.AuditSettings{}, made.Audit)
		w.must(w.store.DeleteTenant(w.ctx, mine, w.now))
		got, err := w.store.OwnerOf(w.ctx, l.ID)
		w.must(err)
		w.same("tenant", mine, got.ID)
		w.same("when it was deleted", w.now, got.DeletedAt)
		w.same("settings of a deleted tenant", set, got.Audit)
	}},

	{"of the heads before a time, the last of each hour and the newest stay", func(w *world) {
		l := w.takeLogs(w.tenant.ID)[0]
		for _, minutes := range []int{5, 10, 59, 60, 61, 200, 201} { // after noon
			g := w.growth(l, w.finished(w.endpoint, ok).Attempt.ID)
			w.same("stale", 0, len(w.append(g)))
			l.Size, l.Root, l.Edge = g.Size, g.Root, g.Edge
			at := noon.Add(time.Duration(minutes) * time.Minute)
			w.same("stale", 0, len(w.publish(store.SignedHead{Log: l.ID, Epoch: l.Epoch, Size: l.Size, Root: l.Root, SignedAt: at, Note: []byte("note")})))
		}
		delete := func(before time.Time, limit, want int) {
			w.t.Helper()
			decided, err := w.store.DeleteOldHeads(w.ctx, before, limit)
			w.must(err)
			w.same("decided", want, decided)
		}
		sizes := func(want ...int64) {
			w.t.Helper()
			heads, err := w.store.Heads(w.ctx, l.ID, 0, 100)
			w.must(err)
			var got []int64
			for _, h := range heads {
				got = append(got, h.Size)
			}
			w.same("heads", want, got)
		}
		delete(noon.Add(200*time.Minute), 2, 2)
		sizes(3, 4, 5, 6, 7)
		delete(noon.Add(200*time.Minute), 100, 3)
		sizes(3, 5, 6, 7)
		delete(noon.Add(24*time.Hour), 100, 2)
		sizes(3, 5, 7)
		delete(noon.Add(24*time.Hour), 100, 0)
	}},

	{"nothing is published of a log with a fault", func(w *world) {
		a := w.finished(w.endpoint, ok).Attempt
		l := w.takeLogs(w.tenant.ID)[0]
		g := w.growth(l, a.ID)
		w.append(g)
		for epoch, want := range map[int64]bool{l.Epoch - 1: false, l.Epoch + 1: false, l.Epoch: true} {
			set, err := w.store.Fault(w.ctx, l.ID, epoch, "leaf 0 was changed")
			w.must(err)
			w.same("set", want, set)
		}
		w.same("unpublished", 0, len(w.unpublished()))
		head := store.SignedHead{Log: l.ID, Epoch: l.Epoch, Size: g.Size, Root: g.Root, SignedAt: w.now, Note: []byte("note")}
		w.same("stale", []kapsel.LogID{l.ID}, w.publish(head))
		got, err := w.store.Log(w.ctx, l.ID)
		w.must(err)
		w.same("fault", "leaf 0 was changed", got.Fault)
		w.must(w.store.ReplaceFault(w.ctx, l.ID, "another fault", ""))
		got, err = w.store.Log(w.ctx, l.ID)
		w.must(err)
		w.same("fault", "leaf 0 was changed", got.Fault)
		w.must(w.store.ReplaceFault(w.ctx, l.ID, "leaf 0 was changed", ""))
		w.same("stale", 0, len(w.publish(head)))
	}},

	{"a tenant that does not exist has no log", func(w *world) {
		logs, err := w.store.TakeLogs(w.ctx, []kapsel.TenantID{kapsel.NewTenantID(w.now), w.tenant.ID}, w.now)
		w.must(err)
		if len(logs) != 1 || logs[0].TenantID != w.tenant.ID {
			w.t.Errorf("the logs are %+v", logs)
		}
	}},

	{"a log that is closed stays as it is, and another one goes on", func(w *world) {
		a := w.finished(w.endpoint, ok).Attempt
		old := w.takeLogs(w.tenant.ID)[0]
		w.must(w.store.CloseLog(w.ctx, old.ID, w.now))
		g := w.growth(old, a.ID)
		w.same("stale", []kapsel.LogID{old.ID}, w.append(g))
		w.same("stale", []kapsel.LogID{old.ID}, w.publish(store.SignedHead{Log: old.ID, Epoch: old.Epoch, Size: old.Size, Root: old.Root, SignedAt: w.now, Note: []byte("note")}))
		next := w.takeLogs(w.tenant.ID)[0]
		if next.ID == old.ID || next.Epoch != 1 {
			w.t.Errorf("the next log is %+v", next)
		}
		got, err := w.store.Log(w.ctx, old.ID)
		w.must(err)
		w.same("closed", w.now, got.ClosedAt)
	}},

	{"attempts are found by their ids, and those that lack a leaf by a walk", func(w *world) {
		leaf, entry := w.finished(w.endpoint, ok).Attempt, w.finished(w.newEndpoint(w.newTenant()), useless).Attempt
		l := w.takeLogs(w.tenant.ID)[0]
		w.same("stale", 0, len(w.append(w.growth(l, leaf.ID))))
		recorded, err := w.store.Recorded(w.ctx, []kapsel.AttemptID{entry.ID, kapsel.NewAttemptID(w.now, 3), leaf.ID})
		w.must(err)
		leaf.RequestHeaders, entry.RequestHeaders = nil, nil
		w.same("recorded", map[kapsel.AttemptID]kapsel.Attempt{leaf.ID: leaf, entry.ID: entry}, recorded)
		w.same("strays", []kapsel.AttemptID(nil), w.strays())

		// A closed log counts too. What was taken out of the outbox and is no leaf is a stray.
		w.must(w.store.CloseLog(w.ctx, l.ID, w.now))
		w.same("strays", []kapsel.AttemptID(nil), w.strays())
		other := w.takeLogs(entry.TenantID)[0]
		lost := w.growth(other, entry.ID)
		lost.Leaves[0].AttemptID = kapsel.AttemptID{}
		w.same("stale", 0, len(w.append(lost)))
		w.same("strays", []kapsel.AttemptID{entry.ID}, w.strays())
	}},

	{"the salt of an event is kept with its body", func(w *world) {
		in := w.acceptance(w.endpoint)
		in.Event.Salt = kapsel.NewSalt()
		_, err := w.store.Accept(w.ctx, in)
		w.must(err)
		w.same("with the body", in.Event.Salt, w.event(in.Event.ID).Event.Salt)
		w.same("claimed", in.Event.Salt, w.claim(w.endpoint)[0].Event.Salt)
		salt, err := w.store.Salt(w.ctx, w.tenant.ID, in.Event.ID)
		w.must(err)
		w.same("alone", in.Event.Salt, salt)
		_, err = w.store.Salt(w.ctx, w.newTenant().ID, in.Event.ID)
		w.refused(err, kapsel.NotFound, "another tenant's event")
		old := w.accept(w.endpoint)
		salt, err = w.store.Salt(w.ctx, kapsel.TenantID{}, old.Event.ID)
		w.must(err)
		w.same("of an event without one", 0, len(salt))
	}},
}

// logSome leaves an attempt in the outbox and makes a leaf of another, in a log that is open and beside
// one that is closed.
func (w *world) logSome() {
	w.t.Helper()
	w.must(w.store.CloseLog(w.ctx, w.takeLogs(w.tenant.ID)[0].ID, w.now))
	l := w.takeLogs(w.tenant.ID)[0]
	left, a := w.finished(w.endpoint, ok).Attempt, w.finished(w.endpoint, ok).Attempt
	g := w.growth(l, a.ID)
	g.Leaves = append(g.Leaves, store.Leaf{Index: 1, Record: []byte("of no attempt")})
	g.Size, g.Tiles = 2, []store.Tile{{Level: 1, Hashes: []byte("\x00hashes")}}
	w.same("stale", 0, len(w.append(g)))
	w.same("stale", 0, len(w.publish(store.SignedHead{Log: l.ID, Epoch: l.Epoch, Size: 2, Root: g.Root, SignedAt: w.now, Note: []byte("note")})))
	w.must(w.store.SetWitnessed(w.ctx, []store.Witnessed{{
		SignedHead: store.SignedHead{Log: l.ID, Size: 2, Root: g.Root, SignedAt: w.now, Note: []byte("note\nwitnessed")}, States: []byte("[]"),
	}}))
	_, err := w.store.Fault(w.ctx, l.ID, l.Epoch, "a fault")
	w.must(err)
	w.same("left in the outbox", true, w.logged(left.ID))
}

// audited is a log with all that is in it, or without an ID what is in the outbox.
type audited struct {
	Log     store.Log
	Leaves  []store.Leaf
	Heads   []store.SignedHead
	Seen    store.Witnessed
	Tile    []byte
	Entries []store.Entry
}

func (w *world) audit() (all []audited) {
	w.t.Helper()
	logs, err := w.store.Logs(w.ctx, kapsel.LogID{}, 100)
	w.must(err)
	for _, l := range logs {
		a := audited{Log: l}
		a.Leaves, err = w.store.Leaves(w.ctx, l.ID, 0, 100)
		w.must(err)
		a.Heads, err = w.store.Heads(w.ctx, l.ID, 0, 100)
		w.must(err)
		a.Tile, err = w.store.Tile(w.ctx, l.ID, 1, 0)
		w.must(err)
		if a.Seen, err = w.store.Witnessed(w.ctx, l.ID); kapsel.CodeOf(err) != kapsel.NotFound {
			w.must(err)
		}
		all = append(all, a)
	}
	entries := w.entries()
	slices.SortFunc(entries, func(a, b store.Entry) int { return byAttempt(a.AttemptID, b.AttemptID) })
	for i := range entries {
		entries[i].Row, entries[i].Pack = 0, kapsel.AttemptID{} // which each store has its own of
	}
	return append(all, audited{Entries: entries})
}

// growth returns what makes leaves of attempts in a log, and takes their entries.
func (w *world) growth(l store.Log, attempts ...kapsel.AttemptID) store.Growth {
	w.t.Helper()
	g := growth(l, attempts...)
	for _, e := range w.entries() {
		if slices.Contains(attempts, e.AttemptID) {
			g.Taken = append(g.Taken, e.EntryKey)
		}
	}
	w.same("entries of the attempts", len(attempts), len(g.Taken))
	return g
}

// growth returns what makes leaves of attempts in a log, and takes no entries. The hashes in it are made
// up.
func growth(l store.Log, attempts ...kapsel.AttemptID) store.Growth {
	g := store.Growth{Log: l.ID, Was: l.State, Size: l.Size + int64(len(attempts)), Root: l.Root, Edge: []byte("edge")}
	for i, id := range attempts {
		g.Root[1]++
		g.Leaves = append(g.Leaves, store.Leaf{Index: l.Size + int64(i), AttemptID: id, Hash: store.Hash{3, byte(i)}, Record: []byte("text \xff")})
	}
	return g
}

func (w *world) entries() []store.Entry {
	w.t.Helper()
	return w.entriesWithout(nil, 1000)
}

// attemptsOf returns the attempts of entries, in the order of their IDs.
func attemptsOf(entries []store.Entry) []kapsel.AttemptID {
	all := ids(entries, func(e store.Entry) kapsel.AttemptID { return e.AttemptID })
	slices.SortFunc(all, byAttempt)
	return all
}

func byAttempt(a, b kapsel.AttemptID) int { return bytes.Compare(a[:], b[:]) }

// entriesWithout returns the entries that are not of some tenants, in pages.
func (w *world) entriesWithout(without map[kapsel.TenantID]bool, page int) (all []store.Entry) {
	w.t.Helper()
	for after := (store.EntryKey{}); ; {
		entries, next, err := w.store.Entries(w.ctx, after, page, without)
		w.must(err)
		all = append(all, entries...)
		if next == (store.EntryKey{}) {
			return all
		}
		after = next
	}
}

// recorded returns what entries say.
func (w *world) recorded(entries []store.Entry) (all []store.Record) {
	w.t.Helper()
	for _, e := range entries {
		r, err := store.ReadRecord(e.AttemptID, e.Record)
		w.must(err)
		all = append(all, r)
	}
	return all
}

func (w *world) takeLogs(tenants ...kapsel.TenantID) []store.Log {
	w.t.Helper()
	logs, err := w.store.TakeLogs(w.ctx, tenants, w.now)
	w.must(err)
	w.same("logs", len(tenants), len(logs))
	return logs
}

func (w *world) append(grown ...store.Growth) []kapsel.LogID {
	w.t.Helper()
	stale, err := w.store.Append(w.ctx, grown)
	w.must(err)
	return stale
}

// appended makes leaves of attempts in a log. It returns the log's state afterwards.
func (w *world) appended(l store.Log, attempts ...kapsel.AttemptID) store.State {
	w.t.Helper()
	g := w.growth(l, attempts...)
	w.same("stale", 0, len(w.append(g)))
	return store.State{Epoch: l.Epoch, Size: g.Size, Root: g.Root, Edge: g.Edge}
}

func (w *world) publish(heads ...store.SignedHead) []kapsel.LogID {
	w.t.Helper()
	stale, err := w.store.Publish(w.ctx, heads)
	w.must(err)
	return stale
}

func (w *world) unpublished() []store.Log {
	w.t.Helper()
	logs, err := w.store.Unpublished(w.ctx, kapsel.LogID{}, 10)
	w.must(err)
	return logs
}

// strays are the attempts that lack a leaf, in pages of one.
func (w *world) strays() (all []kapsel.AttemptID) {
	w.t.Helper()
	for after := (kapsel.AttemptID{}); ; {
		some, older, next, err := w.store.Strays(w.ctx, after, 1)
		w.must(err)
		w.same("older", 0, older)
		all = append(all, some...)
		if after = next; after.IsZero() {
			return all
		}
	}
}

func (w *world) logged(attempt kapsel.AttemptID) bool {
	w.t.Helper()
	logged, err := w.store.Logged(w.ctx, w.tenant.ID, attempt)
	w.must(err)
	return logged
}
