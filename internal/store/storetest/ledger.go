package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// telling are the promises of the ledger. That every way in which deliveries are made and end is told is
// checked after each promise of the suite; see checkTold.
var telling = []promise{
	{"facts wait until they are booked, and are told once however often they are booked", func(w *world) {
		w.booking()
		first := w.finished(w.endpoint, ok)
		entries := w.factEntries()
		facts := w.facts()
		slices.SortFunc(facts, func(a, b kapsel.Fact) int { return cmp.Compare(a.Kind, b.Kind) })
		w.same("facts", []kapsel.Fact{kapsel.MadeFact(&first.Delivery), kapsel.EndFact(&first.Delivery)}, facts)
		ids := make([]kapsel.EntryID, 0, len(entries))
		for _, e := range entries {
			ids = append(ids, e.ID)
		}
		w.must(w.store.Booked(w.ctx, ids[:1], nil))
		w.same("facts left", 1, len(w.facts()))
		w.must(w.store.Complete(w.ctx, first)) // again
		w.must(w.store.Booked(w.ctx, ids, nil))
		w.must(w.store.Booked(w.ctx, ids, nil))
		w.same("facts left", 0, len(w.facts()))
		w.same("told", kapsel.FactTotals{Accepted: 1, Delivered: 1}, w.account(w.endpoint).Told)
	}},

	{"entries come in the order of their facts, and a page is cut at about so many facts", func(w *world) {
		var all []kapsel.DeliveryID
		for range 5 {
			w.pass(time.Millisecond)
			all = append(all, w.accept(w.endpoint).Deliveries[0].ID)
		}
		var got []kapsel.DeliveryID
		for _, f := range w.facts() {
			got = append(got, f.DeliveryID)
		}
		w.same("order", all, got)
		for _, c := range []struct{ limit, atMost, want int }{{3, 100, 3}, {100, 3, 3}, {100, 1, 1}, {100, 100, 5}} {
			page, err := w.store.FactEntries(w.ctx, c.limit, c.atMost)
			w.must(err)
			w.same(fmt.Sprintf("entries of %d with %d facts", c.limit, c.atMost), c.want, len(page))
		}
	}},

	{"accounts are of one moment, each tenant before its endpoints", func(w *world) {
		w.booking()
		other := w.newTenant()
		elsewhere := w.newEndpoint(other)
		second := w.newEndpoint(w.tenant)
		w.finished(w.endpoint, refusal)
		w.finished(second, ok)
		w.accept(elsewhere)
		replayed := w.finished(elsewhere, useless)
		_, err := w.store.Replay(w.ctx, other.ID, replayed.Delivery.EventID, replayed.Delivery.ID, w.now)
		w.must(err)

		owners := []store.Owner{
			{TenantID: w.tenant.ID}, {TenantID: w.tenant.ID, EndpointID: w.endpoint.ID}, {TenantID: w.tenant.ID, EndpointID: second.ID},
			{TenantID: other.ID}, {TenantID: other.ID, EndpointID: elsewhere.ID},
		}
		want := map[store.Owner]kapsel.FactTotals{
			owners[0]: {Accepted: 2, Delivered: 1, Failed: 1}, owners[1]: {Accepted: 1, Failed: 1}, owners[2]: {Accepted: 1, Delivered: 1},
			owners[3]: {Accepted: 2, Replayed: 1, DeadLetter: 1}, owners[4]: {Accepted: 2, Replayed: 1, DeadLetter: 1},
		}
		slices.SortFunc(owners, store.Owner.Compare)
		for limit := 1; limit <= 6; limit++ {
			var got []store.Owner
			for after := (store.Owner{}); ; {
				page, err := w.store.Accounts(w.ctx, kapsel.TenantID{}, after, limit)
				w.must(err)
				for _, a := range page {
					got, after = append(got, a.Owner), a.Owner
					w.same("told", want[a.Owner], a.Told)
					w.same("unbooked", want[a.Owner], *a.Unbooked)
					if a.Report != nil {
						w.t.Fatal("the books were reported")
					}
				}
				if len(page) < limit {
					break
				}
			}
			w.same(fmt.Sprintf("owners in pages of %d", limit), owners, got)
		}
		page, err := w.store.Accounts(w.ctx, other.ID, store.Owner{TenantID: other.ID}, 10)
		w.must(err)
		w.same("of the other tenant behind itself", elsewhere.ID, page[0].EndpointID)
		w.same("accounts", 1, len(page))
		page, err = w.store.Accounts(w.ctx, other.ID, store.Owner{}, 10)
		w.must(err)
		w.same("of the other tenant", 2, len(page))

		books := kapsel.FactTotals{Accepted: 3, DeadLetter: 2, Delivered: 4, Failed: 5, Canceled: 6, Replayed: 7}
		for range 2 { // the second replaces the first
			books.Accepted++
			w.must(w.store.ReportBooks(w.ctx, []store.BookReport{
				{Owner: store.Owner{TenantID: other.ID, EndpointID: elsewhere.ID}, Books: books, Cut: kapsel.FactTotals{Failed: -1}, At: w.now},
				{Owner: store.Owner{TenantID: other.ID}, Books: kapsel.FactTotals{Accepted: 9}, At: w.now},
			}))
		}
		got := w.account(elsewhere)
		w.same("report", store.BookReport{Owner: got.Owner, Books: books, Cut: kapsel.FactTotals{Failed: -1}, At: w.now}, *got.Report)
		page, err = w.store.Accounts(w.ctx, other.ID, store.Owner{}, 1)
		w.must(err)
		w.same("the tenant's own books", kapsel.FactTotals{Accepted: 9}, page[0].Report.Books)
		_, err = w.store.AccountOf(w.ctx, store.Owner{TenantID: other.ID, EndpointID: w.endpoint.ID})
		w.refused(err, kapsel.NotFound, "the account of another tenant's endpoint")
	}},

	{"an outbox that is too long is not read for accounts", func(w *world) {
		for range store.MaxUnbooked {
			w.accept(w.endpoint)
		}
		w.same("unbooked", int64(store.MaxUnbooked), w.account(w.endpoint).Unbooked.Accepted)
		w.accept(w.endpoint)
		if w.account(w.endpoint).Unbooked != nil {
			w.t.Fatal("the outbox was read")
		}
	}},

	{"conflicts are kept as they were first reported, and listed in the order in which they were found", func(w *world) {
		w.booking()
		other := w.newEndpoint(w.newTenant())
		a, b, c := w.finished(w.endpoint, ok).Delivery, w.finished(other, ok).Delivery, w.finished(w.endpoint, refusal).Delivery
		conflict := func(f kapsel.Fact, answer string) store.BookConflict {
			return store.BookConflict{Fact: f, Answer: answer, At: w.now}
		}
		w.must(w.store.Booked(w.ctx, nil, []store.BookConflict{conflict(kapsel.EndFact(&a), "first"), conflict(kapsel.EndFact(&b), "second")}))
		w.must(w.store.Booked(w.ctx, nil, []store.BookConflict{conflict(kapsel.EndFact(&a), "again"), conflict(kapsel.MadeFact(&c), "third")}))
		read := func(tenant kapsel.TenantID, limit int) (answers []string) {
			for after := int64(0); ; {
				page, err := w.store.BookConflicts(w.ctx, tenant, after, limit)
				w.must(err)
				for _, c := range page {
					answers, after = append(answers, c.Answer), c.Number
					w.same("found", w.now, c.At)
				}
				if len(page) < limit {
					return answers
				}
			}
		}
		w.same("all", []string{"first", "second", "third"}, read(kapsel.TenantID{}, 2))
		w.same("of one tenant", []string{"first", "third"}, read(w.tenant.ID, 1))
		page, err := w.store.BookConflicts(w.ctx, other.TenantID, 0, 10)
		w.must(err)
		w.same("fact", kapsel.EndFact(&b), page[0].Fact)
	}},

	{"a conflict is shown to whom it is of, whatever it names", func(w *world) {
		other := w.newEndpoint(w.newTenant())
		w.accept(other)
		mine, theirs := w.finished(w.endpoint, ok).Delivery, w.finished(other, ok).Delivery
		strange := kapsel.EndFact(&theirs)
		strange.TenantID, strange.EndpointID, strange.EventID = mine.TenantID, mine.EndpointID, mine.EventID
		unknown := kapsel.EndFact(&mine)
		unknown.DeliveryID, unknown.EndpointID = kapsel.NewDeliveryID(w.now, other.Part), other.ID
		lost := kapsel.EndFact(&mine)
		lost.DeliveryID = kapsel.NewDeliveryID(w.now, w.endpoint.Part)
		var all []store.BookConflict
		for _, f := range []kapsel.Fact{strange, unknown, lost} {
			all = append(all, store.BookConflict{Fact: f, Answer: "not_in_store", At: w.now})
		}
		w.must(w.store.Booked(w.ctx, nil, all))
		facts := func(tenant kapsel.TenantID) (facts []kapsel.Fact) {
			page, err := w.store.BookConflicts(w.ctx, tenant, 0, 10)
			w.must(err)
			for _, c := range page {
				facts = append(facts, c.Fact)
			}
			return facts
		}
		w.same("of the tenant that is named", []kapsel.Fact{lost}, facts(w.tenant.ID))
		w.same("of whom the delivery is", []kapsel.Fact{kapsel.EndFact(&theirs)}, facts(other.TenantID))
		w.same("of all", 2, len(facts(kapsel.TenantID{})))

		// A report about an endpoint of another tenant is of nobody, also once the endpoint has an account.
		w.must(w.store.ReportBooks(w.ctx, []store.BookReport{
			{Owner: store.Owner{TenantID: w.tenant.ID, EndpointID: other.ID}, Books: kapsel.FactTotals{Accepted: 9}, At: w.now},
		}))
		for _, tenant := range []kapsel.TenantID{w.tenant.ID, other.TenantID} {
			page, err := w.store.Accounts(w.ctx, tenant, store.Owner{}, 10)
			w.must(err)
			w.same("accounts", 2, len(page))
			for _, a := range page {
				if a.Report != nil {
					w.t.Errorf("%v has the report %+v", a.Owner, a.Report)
				}
			}
		}
	}},

	{"what was not told is told by a walk, once", func(w *world) {
		for range 3 {
			w.finished(w.endpoint, ok)
			w.accept(w.newEndpoint(w.tenant))
		}
		w.walked(false)
		told, more, err := w.store.Walk(w.ctx, 10)
		w.must(err)
		w.same("before anything is told, told by the walk", 0, told)
		w.same("more to look at", false, more)
		w.must(w.store.KeepBooks(w.ctx, true))
		w.walked(false)
		w.same("told by the walk", 0, w.walk(2)) // this store has told all along
		w.walked(true)
		w.must(w.store.KeepBooks(w.ctx, true))
		w.walked(true)
		w.must(w.store.KeepBooks(w.ctx, false))
		w.walked(false)
		w.must(w.store.KeepBooks(w.ctx, true))
		w.walked(false)
		w.same("told by the next walk", 0, w.walk(100))
		w.walked(true)
	}},
}

// RunUntold checks that a store that told nothing tells everything later, again and again. open opens a new
// database for the first time and then always the same one, for a process that tells facts or tells none. It
// closes what was opened before.
func RunUntold(t *testing.T, open func(tells bool) store.Store) {
	world := newWorld(t, open(false))
	world.must(world.store.KeepBooks(world.ctx, false))
	was := world.someOfEach()
	world.same("facts that were not told", 0, len(world.factEntries()))
	_, err := world.store.AccountOf(world.ctx, store.Owner{TenantID: world.tenant.ID, EndpointID: world.endpoint.ID})
	world.refused(err, kapsel.NotFound, "the account of what was not told")

	for range 2 {
		world.reopen(open(true))
		world.must(world.store.KeepBooks(world.ctx, true))
		world.walked(false)
		for i := range was { // some end, and new ones are made, before the walk comes to them
			if i%2 == 0 {
				world.must(world.store.Complete(world.ctx, world.completion(was[i], ok)))
			}
		}
		world.finished(world.endpoint, refusal)
		world.begin(3)
		world.must(world.store.Complete(world.ctx, world.completion(was[1], useless)))
		world.walked(false)
		world.walk(3)
		world.checkTold()
		world.walked(true)

		world.reopen(open(false))
		world.must(world.store.KeepBooks(world.ctx, false))
		world.walked(false)
		was = world.someOfEach()
		_, more, err := world.store.Walk(world.ctx, 100)
		world.must(err)
		world.same("a store that tells nothing walks", false, more)
		world.walked(false)
	}
}

// reopen goes on with the store that another process has opened, as a node of its own.
func (w *world) reopen(s store.Store) {
	w.t.Helper()
	w.store = s
	w.must(s.Leave(w.ctx, w.node))
	w.node = w.join(24 * time.Hour)
}

// RunTogether checks that nothing is lost while nodes that tell facts work beside nodes that tell none. open
// gives two stores of one new database: one that tells facts and one that tells none.
func RunTogether(t *testing.T, open func(t *testing.T) (tells, quiet store.Store)) {
	type both struct {
		*world
		tells, quiet store.Store
	}
	// asQuiet lets a function work as a node that tells nothing, which it joins for one lease.
	asQuiet := func(w both, f func()) (node kapsel.NodeID) {
		w.t.Helper()
		was := w.node
		w.store = w.quiet
		w.must(w.store.KeepBooks(w.ctx, false))
		node = w.join(lease)
		w.node = node
		f()
		w.store, w.node = w.tells, was
		w.walked(false)
		return node
	}
	// idle ends the test unless there is nothing to walk, and the walk has not ended.
	idle := func(w both, when string) {
		w.t.Helper()
		told, more, err := w.store.Walk(w.ctx, 100)
		w.must(err)
		w.same(when+": told", 0, told)
		w.same(when+": more to look at", false, more)
		w.walked(false)
	}
	for name, test := range map[string]func(w both){
		"a node that tells nothing works, and dies": func(w both) {
			held := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
			asQuiet(w, func() {
				w.must(w.store.Complete(w.ctx, w.completion(held, ok)))
				w.someOfEach()
			})
			idle(w, "alive")
			w.must(w.store.KeepBooks(w.ctx, true)) // a node that tells facts starts
			idle(w, "alive")
			w.pass(lease + time.Millisecond)
			idle(w, "silent and not declared dead")
			w.takeOver(100)
			w.walked(false)
			if told := w.walk(3); told == 0 {
				w.t.Error("nothing was told by the walk")
			}
		},
		"a node that tells nothing leaves": func(w both) {
			node := asQuiet(w, func() { w.someOfEach() })
			w.must(w.store.Leave(w.ctx, node))
			w.walk(100)
		},
		"it is turned on node by node": func(w both) {
			w.someOfEach()
			first := asQuiet(w, func() { w.someOfEach() })
			second := asQuiet(w, func() { w.someOfEach() })
			w.must(w.store.Leave(w.ctx, first))
			w.must(w.store.KeepBooks(w.ctx, true))
			w.join(24 * time.Hour)
			idle(w, "one of two tells")
			asQuiet(w, func() {}) // and one more, which writes later
			w.pass(lease + time.Millisecond)
			w.takeOver(100)
			w.must(w.store.KeepBooks(w.ctx, true))
			w.must(w.store.Leave(w.ctx, second))
			w.walk(2)
		},
		"a node that tells nothing comes and goes while the walk is under way": func(w both) {
			w.must(w.store.Leave(w.ctx, asQuiet(w, func() { w.someOfEach() })))
			w.begin(2)
			node := asQuiet(w, func() { w.someOfEach() })
			idle(w, "alive")
			w.must(w.store.Leave(w.ctx, node))
			w.walk(2)
		},
		"a node that tells nothing was declared dead, and comes back": func(w both) {
			quiet := asQuiet(w, func() { w.someOfEach() })
			w.pass(lease + time.Millisecond)
			w.takeOver(100)
			w.walk(100)
			w.walked(true)
			w.store = w.quiet
			w.accept(w.endpoint) // before it notices
			w.refusedAs(w.store.Renew(w.ctx, quiet, w.now, lease), rules.NodeDead(), "renew")
			quiet = w.join(lease)
			w.store = w.tells
			idle(w, "back")
			w.must(w.store.Leave(w.ctx, quiet))
			w.walk(100)
		},
		"a node that told nothing is not forgotten before a walk has begun": func(w both) {
			w.store = w.quiet
			was := w.node
			w.node = w.join(lease)
			w.someOfEach()
			w.must(w.store.Leave(w.ctx, w.node))
			w.store, w.node = w.tells, was
			for range 2 {
				w.pass(48 * time.Hour)
				w.must(w.store.Renew(w.ctx, w.node, w.now, lease))
				w.takeOver(100)
			}
			w.walked(false)
			w.walk(100)
		},
		"retention tells what it deletes": func(w both) {
			done := w.finished(w.endpoint, ok)
			before := w.account(w.endpoint).Told
			asQuiet(w, func() {
				w.finished(w.endpoint, refusal)
				others, err := w.store.OthersTell(w.ctx)
				w.must(err)
				w.same("others tell, for a node that tells nothing", true, others)
			})
			others, err := w.store.OthersTell(w.ctx)
			w.must(err)
			w.same("others tell, for a node that tells facts", false, others)
			w.pass(time.Hour)
			deleted, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now, 10)
			w.must(err)
			w.same("deleted", 2, deleted)
			_, err = w.store.Delivery(w.ctx, kapsel.TenantID{}, done.Delivery.ID)
			w.refused(err, kapsel.NotFound, "a deleted delivery")
			before.Accepted, before.Failed = before.Accepted+1, before.Failed+1
			w.same("told", before, w.account(w.endpoint).Told)
			w.takeOver(100)
			w.walk(100)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var w both
			w.tells, w.quiet = open(t)
			w.world = newWorld(t, w.tells)
			w.must(w.store.KeepBooks(w.ctx, true))
			w.walk(100)
			w.walked(true)
			test(w)
			w.walked(true)
			w.checkTold()
			others, err := w.quiet.OthersTell(w.ctx)
			w.must(err)
			w.same("others tell", true, others)
		})
	}
}

// walked ends the test unless the walk has ended, or has not.
func (w *world) walked(want bool) {
	w.t.Helper()
	done, err := w.store.Walked(w.ctx)
	w.must(err)
	w.same("walked", want, done)
}

// begin walks until a fact was told.
func (w *world) begin(limit int) {
	w.t.Helper()
	for tries := 0; tries < patience; {
		told, more, err := w.store.Walk(w.ctx, limit)
		w.must(err)
		switch {
		case told > 0:
			return
		case !more:
			tries++
		}
	}
	w.t.Fatal("the walk tells nothing")
}

// walk walks to the end, and returns how many facts were told.
func (w *world) walk(limit int) (told int) {
	w.t.Helper()
	for tries := 0; tries < patience; {
		n, more, err := w.store.Walk(w.ctx, limit)
		w.must(err)
		if told += n; more {
			continue
		}
		done, err := w.store.Walked(w.ctx)
		w.must(err)
		if done {
			return told
		}
		tries++
	}
	w.t.Fatal("the walk does not end")
	return told
}

// patience is how often a walk may wait for transactions of others, also in other databases of the server.
const patience = 60

// someOfEach makes deliveries in every state and returns those that are held.
func (w *world) someOfEach() (held []kapsel.Delivery) {
	for range 4 {
		held = append(held, w.accept(w.endpoint, heldBy(w.node)).Deliveries[0])
	}
	for _, a := range []kapsel.Answer{ok, refusal, useless} {
		w.finished(w.endpoint, a)
	}
	pending := w.accept(w.endpoint).Deliveries[0]
	_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, pending.ID, kapsel.Cancel{}, w.now)
	w.must(err)
	w.accept(w.endpoint)
	return held
}

// bookSome books an entry, and reports a conflict and what the books say.
func (w *world) bookSome() {
	w.t.Helper()
	e := w.factEntries()[0]
	w.must(w.store.Booked(w.ctx, []kapsel.EntryID{e.ID}, []store.BookConflict{{Fact: e.Facts[0], Answer: "ä conflict", At: w.now}}))
	w.must(w.store.ReportBooks(w.ctx, []store.BookReport{
		{Owner: store.Owner{TenantID: w.tenant.ID}, Books: kapsel.FactTotals{Accepted: 1, Replayed: 2}, At: w.now},
		{Owner: store.Owner{TenantID: w.tenant.ID, EndpointID: w.endpoint.ID}, Books: kapsel.FactTotals{Accepted: 3, Delivered: 4, Failed: 5, DeadLetter: 6, Canceled: 7}, At: w.now},
	}))
}

// booking says that the test takes facts out of the outbox, so that checkTold finds nothing there.
func (w *world) booking() { w.books = true }

// factEntries reads the whole outbox.
func (w *world) factEntries() []store.FactEntry {
	w.t.Helper()
	entries, err := w.store.FactEntries(w.ctx, 1<<20, 1<<40)
	w.must(err)
	return entries
}

// facts returns the facts of the whole outbox.
func (w *world) facts() (all []kapsel.Fact) {
	w.t.Helper()
	for _, e := range w.factEntries() {
		all = append(all, e.Facts...)
	}
	return all
}

func (w *world) account(e kapsel.Endpoint) store.OwnerAccount {
	w.t.Helper()
	a, err := w.store.AccountOf(w.ctx, store.Owner{TenantID: e.TenantID, EndpointID: e.ID})
	w.must(err)
	return a
}

// checkTold compares what was told with the deliveries: of each the fact that it was made and, if it has
// ended, that it ended, each once. Facts of deliveries that were deleted may be there. What was told of
// all endpoints is what the facts sum up to.
func (w *world) checkTold() {
	w.t.Helper()
	if w.books {
		return
	}
	type key struct {
		id   kapsel.DeliveryID
		made bool
	}
	told, sums := map[key]kapsel.Fact{}, map[store.Owner]*kapsel.FactTotals{}
	for _, f := range w.facts() {
		k := key{f.DeliveryID, f.Kind.Made()}
		if other, twice := told[k]; twice {
			w.t.Fatalf("two facts of one delivery were told: %+v and %+v", other, f)
		}
		told[k] = f
		for _, o := range []store.Owner{{TenantID: f.TenantID}, {TenantID: f.TenantID, EndpointID: f.EndpointID}} {
			if sums[o] == nil {
				sums[o] = new(kapsel.FactTotals)
			}
			*sums[o].Of(f.Kind)++
		}
	}
	for p := (store.Page[kapsel.DeliveryID]{Limit: 1000}); ; {
		page, err := w.store.ListDeliveries(w.ctx, kapsel.TenantID{}, store.DeliveryFilter{}, p)
		w.must(err)
		for i := range page {
			d := &page[i]
			w.same("the fact that "+d.ID.String()+" was made", kapsel.MadeFact(d), told[key{d.ID, true}])
			delete(told, key{d.ID, true})
			if d.Status.Terminal() {
				w.same("the fact that "+d.ID.String()+" ended", kapsel.EndFact(d), told[key{d.ID, false}])
				delete(told, key{d.ID, false})
			}
		}
		if len(page) < p.Limit {
			break
		}
		p.Before = page[len(page)-1].ID
	}
	for k, f := range told {
		if _, err := w.store.Delivery(w.ctx, kapsel.TenantID{}, k.id); kapsel.CodeOf(err) != kapsel.NotFound {
			w.t.Fatalf("told, and not so: %+v (error %v)", f, err)
		}
	}
	for after := (store.Owner{}); ; {
		page, err := w.store.Accounts(w.ctx, kapsel.TenantID{}, after, 1000)
		w.must(err)
		for _, a := range page {
			want := sums[a.Owner]
			if want == nil {
				w.t.Fatalf("%+v has an account, and no fact of it was told", a.Owner)
			}
			w.same("told of an owner", *want, a.Told)
			delete(sums, a.Owner)
			after = a.Owner
		}
		if len(page) < 1000 {
			break
		}
	}
	w.same("owners without accounts", 0, len(sums))
}
