package storetest

import (
	"maps"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// counting are the promises of Counters.
var counting = []promise{
	{"an event counts on the day of its receipt, with the bytes of its body", func(w *world) {
		w.same("usage of nothing", 0, len(w.usage(w.tenant.ID)))
		w.accept(w.endpoint, body(make([]byte, 1000)))
		w.accept(w.newEndpoint(w.tenant), body(nil), heldBy(w.node))
		other := w.newTenant()
		w.accept(w.newEndpoint(other), body(make([]byte, batch.LargeBody+1)))
		w.pass(11*time.Hour + 59*time.Minute)
		w.accept(w.endpoint, body([]byte("just before midnight")))
		w.pass(time.Minute)
		w.accept(w.endpoint, body([]byte("at midnight")))

		first, second := noon.Truncate(24*time.Hour), noon.Truncate(24*time.Hour).AddDate(0, 0, 1)
		mine := []store.UsageOfDay{
			{Day: first, Usage: kapsel.Usage{Events: 3, Bytes: 1020}}, {Day: second, Usage: kapsel.Usage{Events: 1, Bytes: 11}},
		}
		w.same("usage", mine, w.usage(w.tenant.ID))
		w.same("the other's", []store.UsageOfDay{{Day: first, Usage: kapsel.Usage{Events: 1, Bytes: batch.LargeBody + 1}}}, w.usage(other.ID))
		mine[0].Add(kapsel.Usage{Events: 1, Bytes: batch.LargeBody + 1})
		w.same("all tenants'", mine, w.usage(kapsel.TenantID{}))
		w.counted()
	}},

	{"B-70 duplicates and repeated calls count nothing", func(w *world) {
		plain, keyed, held := w.acceptance(w.endpoint), w.acceptance(w.endpoint, key("k")), w.acceptance(w.endpoint, heldBy(w.node))
		for range 3 {
			for _, in := range []store.Acceptance{plain, keyed, held, w.acceptance(w.endpoint, key("k"), body([]byte("another")))} {
				_, err := w.store.Accept(w.ctx, in)
				w.must(err)
			}
		}
		w.same("events", int64(3), w.usage(w.tenant.ID)[0].Events)
		w.together(50, func(i int) error { // in few batches
			in := []store.Acceptance{plain, keyed, held}[i%3]
			_, err := w.store.Accept(w.ctx, in)
			return err
		})
		w.same("events", int64(3), w.usage(w.tenant.ID)[0].Events)
		w.counted()
	}},

	{"an attempt counts once, by its outcome and how long it took, in the hour of its end", func(w *world) {
		answers := []kapsel.Answer{
			ok, {Status: 302, Code: kapsel.HTTPClientError}, refusal, again, useless,
			{Code: kapsel.ConnectionTimeout, Retry: true, Delay: time.Minute, MaxAttempts: 20},
			{Code: kapsel.DialBlocked}, {Status: 503, Code: kapsel.HTTPServerError, Retry: true, MaxAttempts: 20, Gone: true},
		}
		for i, a := range answers {
			in := w.accept(w.endpoint, heldBy(w.node))
			done := w.completion(in.Deliveries[0], a)
			done.Attempt.Duration = time.Millisecond << (2 * i)
			done.Attempt.StartedAt = w.now.Add(-done.Attempt.Duration)
			for range 2 { // the second changes nothing
				w.must(w.store.Complete(w.ctx, done))
			}
		}
		h := kapsel.Stats{
			Outcomes: [kapsel.OutcomeCount]int64{kapsel.Succeeded: 1, kapsel.ClientErrors: 2, kapsel.ServerErrors: 2, kapsel.Timeouts: 1, kapsel.NoAnswers: 2},
			Ended:    [kapsel.EndedCount]int64{1, 3, 1, 1},
			Latency:  kapsel.Histogram{0: 1, 2: 1, 4: 1, 6: 1, 10: 1, 14: 1},
		}
		w.same("stats", []store.StatsOfHour{{Hour: noon, Stats: h}}, w.stats(w.endpoint.ID))
		usage := kapsel.Usage{Events: 8, Bytes: 8 * 18, Attempts: 8, Deliveries: 6, Delivered: 1}
		w.same("usage", usage, w.usage(w.tenant.ID)[0].Usage)

		// One that began in this hour and ends in the next, and one that ends at midnight.
		for _, d := range []time.Duration{time.Hour, 11 * time.Hour} {
			in := w.accept(w.endpoint, heldBy(w.node))
			w.pass(d)
			w.complete(in.Deliveries[0], refusal)
		}
		late := kapsel.Stats{Outcomes: [kapsel.OutcomeCount]int64{kapsel.ClientErrors: 1}, Ended: [kapsel.EndedCount]int64{0, 1}, Latency: kapsel.Histogram{10: 1}}
		midnight := noon.Add(12 * time.Hour)
		w.same("stats", []store.StatsOfHour{{Hour: noon, Stats: h}, {Hour: noon.Add(time.Hour), Stats: late}, {Hour: midnight, Stats: late}}, w.stats(w.endpoint.ID))
		w.same("the next day", []store.UsageOfDay{{Day: midnight, Usage: kapsel.Usage{Attempts: 1, Deliveries: 1}}}, w.usage(w.tenant.ID)[1:])
		w.counted()
	}},

	{"F-F1 late completions count nothing, and a take-over counts an unknown outcome", func(w *world) {
		dead, _ := w.deadAndLive()
		held := w.accept(w.endpoint, heldBy(dead)).Deliveries[0]
		w.pass(lease + time.Millisecond)
		w.same("moved", 1, w.takeOver(100))
		unknown := kapsel.Stats{Outcomes: [kapsel.OutcomeCount]int64{kapsel.Unknowns: 1}}
		w.same("stats", []store.StatsOfHour{{Hour: noon, Stats: unknown}}, w.stats(w.endpoint.ID))
		w.refusedAs(w.store.Complete(w.ctx, w.completion(held, ok)), rules.NotHeld(), "late")
		w.same("stats", []store.StatsOfHour{{Hour: noon, Stats: unknown}}, w.stats(w.endpoint.ID))
		w.complete(w.claimOne(), ok)
		w.counted()

		// One whose nodes all die is a dead letter in the end.
		w.accept(w.endpoint)
		for range kapsel.MaxTakeovers {
			w.node = w.join(lease)
			w.claimOne()
			w.must(w.store.Leave(w.ctx, w.node))
			w.node = w.join(24 * time.Hour)
			w.pass(time.Millisecond)
			w.same("moved", 1, w.takeOver(100))
		}
		w.same("ended", [kapsel.EndedCount]int64{1, 0, 1, 0}, w.stats(w.endpoint.ID)[0].Ended)
		w.counted()
	}},

	{"what is canceled counts as an end, what is given back or due earlier does not", func(w *world) {
		person := w.accept(w.endpoint).Deliveries[0]
		for range 3 {
			w.accept(w.endpoint)
		}
		back := w.accept(w.endpoint, heldBy(w.node)).Deliveries[0]
		back.DueAt = w.now
		w.must(w.store.GiveBack(w.ctx, []kapsel.Delivery{back}))
		_, err := w.store.MoveDelivery(w.ctx, w.tenant.ID, back.ID, kapsel.Retry{}, w.now)
		w.must(err)
		w.same("stats", 0, len(w.stats(w.endpoint.ID)))

		w.pass(time.Hour)
		_, err = w.store.MoveDelivery(w.ctx, w.tenant.ID, person.ID, kapsel.Cancel{}, w.now)
		w.must(err)
		_, err = w.store.MoveDelivery(w.ctx, w.tenant.ID, person.ID, kapsel.Cancel{}, w.now)
		w.refused(err, kapsel.Conflict, "canceled again")
		w.same("canceled", [kapsel.EndedCount]int64{3: 1}, w.stats(w.endpoint.ID)[0].Ended)
		w.must(w.store.DeleteEndpoint(w.ctx, w.tenant.ID, w.endpoint.ID, w.now))
		n, err := w.store.CancelWaiting(w.ctx, w.endpoint.ID, w.now, 100)
		w.must(err)
		w.same("canceled", 4, n)
		want := kapsel.Stats{Ended: [kapsel.EndedCount]int64{3: 5}}
		w.same("stats", []store.StatsOfHour{{Hour: noon.Add(time.Hour), Stats: want}}, w.stats(w.endpoint.ID))
		w.counted()
	}},

	{"calls of one moment are all counted, but those that are refused", func(w *world) {
		const calls = 1200 // more than a group commit holds
		other := w.newEndpoint(w.newTenant())
		var ins [calls]store.Acceptance
		for i := range ins {
			ins[i] = w.acceptance([]kapsel.Endpoint{w.endpoint, other}[i%2], heldBy(w.node), func(in *store.Acceptance) {
				in.Event.ReceivedAt = w.now.Add(time.Duration(i%3) * 24 * time.Hour)
			})
			switch i % 10 {
			case 0: // a row's own fault
				ins[i].Deliveries[0].Node = kapsel.NodeID{}
			case 1:
				ins[i].Event.IdempotencyKey = []byte("the same")
			}
		}
		w.together(calls, func(i int) error {
			if _, err := w.store.Accept(w.ctx, ins[i]); i%10 != 0 {
				return err
			}
			return nil
		})
		w.same("days", 3, len(w.usage(other.TenantID)))
		w.counted()
		answers := []kapsel.Answer{ok, refusal, again, useless}
		var done [calls]store.Completion
		for i := range done {
			done[i] = w.completion(ins[i].Deliveries[0], answers[i%len(answers)])
			done[i].Attempt.Duration = time.Duration(i) * 3 * time.Millisecond
			done[i].Attempt.StartedAt = w.now.Add(-done[i].Attempt.Duration)
			if i%7 == 0 { // late
				done[i].Attempt.ID = kapsel.NewAttemptID(w.now, w.endpoint.Part)
			}
		}
		w.together(2*calls, func(i int) error { // each twice
			err := w.store.Complete(w.ctx, done[i%calls])
			if kapsel.CodeOf(err) != kapsel.Conflict {
				return err
			}
			return nil
		})
		w.counted()
	}},

	{"F-A3 F-A8 calls that are repeated after an error, whatever was written, are counted once", func(w *world) {
		sound := w.store
		for _, fault := range []Fault{NotPersisted, Persisted} {
			for _, method := range []string{"Accept", "Complete", "TakeOver", "CancelWaiting"} {
				w.store = Faulty(sound, Nth(method, 1, fault))
				repeat := func(call func() error) {
					w.t.Helper()
					if err := call(); kapsel.CodeOf(err) == kapsel.DatabaseUnavailable {
						err = call()
						w.must(err)
					} else {
						w.must(err)
					}
				}
				in := w.acceptance(w.endpoint, heldBy(w.node))
				repeat(func() error { _, err := w.store.Accept(w.ctx, in); return err })
				done := w.completion(in.Deliveries[0], ok)
				repeat(func() error { return w.store.Complete(w.ctx, done) })
				gone := w.newEndpoint(w.tenant)
				w.must(func() error { _, err := sound.Accept(w.ctx, w.acceptance(gone)); return err }())
				repeat(func() error { _, err := w.store.CancelWaiting(w.ctx, gone.ID, w.now, 10); return err })
				dead, _ := w.deadAndLive()
				w.must(func() error { _, err := sound.Accept(w.ctx, w.acceptance(w.endpoint, heldBy(dead))); return err }())
				w.pass(lease + time.Millisecond)
				repeat(func() error { _, err := w.store.TakeOver(w.ctx, w.now, 10); return err })
			}
		}
		w.store = sound
		w.same("events", int64(3*8), w.usage(w.tenant.ID)[0].Events)
		w.counted()
	}},

	{"counts of webhooks are added to what an hour has, and go with it", func(w *world) {
		hour := func(at time.Time) int64 { return kapsel.StatsHour(at).UnixMicro() }
		other := w.newEndpoint(w.newTenant())
		w.finished(w.endpoint, ok)
		before := w.stats(w.endpoint.ID)
		for range 2 {
			w.must(w.store.CountArrivals(w.ctx, map[store.StatsKey]store.Arrivals{
				{Endpoint: w.endpoint.ID, Hour: hour(noon)}: {Refused: 3, Unkeyed: 5}, {Endpoint: w.endpoint.ID, Hour: hour(noon.Add(time.Hour))}: {Refused: 1 << 20},
				{Endpoint: other.ID, Hour: hour(noon)}: {Refused: 1},
			}))
		}
		w.must(w.store.CountArrivals(w.ctx, nil))
		before[0].Refused, before[0].Unkeyed = 6, 10
		want := append(before, store.StatsOfHour{Hour: noon.Add(time.Hour), Stats: kapsel.Stats{Refused: 2 << 20}})
		w.same("stats", want, w.stats(w.endpoint.ID))
		w.same("the other's", []store.StatsOfHour{{Hour: noon, Stats: kapsel.Stats{Refused: 2}}}, w.stats(other.ID))
		w.pass(time.Hour)
		w.finished(w.endpoint, ok)
		w.same("refused", int64(2<<20), w.stats(w.endpoint.ID)[1].Refused)
		got, err := w.store.EndpointStats(w.ctx, other.TenantID, []kapsel.EndpointID{w.endpoint.ID}, ever, never)
		w.must(err)
		w.same("another tenant's", 0, len(got))
		both := []kapsel.EndpointID{other.ID, w.endpoint.ID}
		for _, tenant := range []kapsel.TenantID{{}, w.tenant.ID, other.TenantID} {
			got, err := w.store.EndpointStats(w.ctx, tenant, both, ever, never)
			w.must(err)
			want := map[kapsel.EndpointID][]store.StatsOfHour{}
			for _, e := range []kapsel.Endpoint{w.endpoint, other} {
				if tenant.IsZero() || tenant == e.TenantID {
					want[e.ID] = w.stats(e.ID)
				}
			}
			found := map[kapsel.EndpointID][]store.StatsOfHour{}
			for _, h := range got {
				found[h.EndpointID] = append(found[h.EndpointID], h.StatsOfHour)
			}
			w.same("those of several", want, found)
		}
		got, err = w.store.EndpointStats(w.ctx, kapsel.TenantID{}, nil, ever, never)
		w.must(err)
		w.same("those of none", 0, len(got))
	}},

	{"hours and days are those that begin in a range, half-open", func(w *world) {
		for range 4 {
			w.finished(w.endpoint, ok)
			w.pass(time.Hour)
		}
		hours := func(since, until time.Time) (all []int) {
			got, err := w.store.EndpointStats(w.ctx, w.tenant.ID, []kapsel.EndpointID{w.endpoint.ID}, since, until)
			w.must(err)
			for _, h := range got {
				all = append(all, h.Hour.Hour())
			}
			return all
		}
		w.same("all", []int{12, 13, 14, 15}, hours(noon.Add(-time.Hour), noon.Add(24*time.Hour)))
		w.same("some", []int{13, 14}, hours(noon.Add(time.Hour), noon.Add(3*time.Hour)))
		w.same("begun", []int{13}, hours(noon.Add(time.Microsecond), noon.Add(time.Hour+time.Microsecond)))
		w.same("another's", 0, len(w.stats(w.newEndpoint(w.tenant).ID)))

		day := noon.Truncate(24 * time.Hour)
		for _, tt := range []struct {
			since, until time.Time
			want         int
		}{{day, day.Add(time.Hour), 1}, {day.Add(time.Microsecond), day.Add(48 * time.Hour), 0}, {day.Add(-24 * time.Hour), day, 0}} {
			for _, tenant := range []kapsel.TenantID{w.tenant.ID, {}} {
				got, err := w.store.Usage(w.ctx, tenant, tt.since, tt.until)
				w.must(err)
				w.same("days", tt.want, len(got))
			}
		}
	}},

	{"the stats of all endpoints are those of the hours from one on, and the newest event of an origin is known", func(w *world) {
		other := w.newEndpoint(w.tenant)
		w.finished(w.endpoint, refusal)
		w.pass(time.Hour)
		w.finished(w.endpoint, ok)
		w.finished(other, ok)
		got := map[string]kapsel.Stats{}
		all, err := w.store.RecentStats(w.ctx, kapsel.StatsHour(w.now))
		w.must(err)
		for _, h := range all {
			got[h.EndpointID.String()+h.Hour.String()] = h.Stats
		}
		want := map[string]kapsel.Stats{}
		for _, e := range []kapsel.Endpoint{w.endpoint, other} {
			hours := w.stats(e.ID)
			last := hours[len(hours)-1]
			want[e.ID.String()+last.Hour.String()] = last.Stats
		}
		w.same("stats", want, got)
		w.pass(time.Minute)
		in := w.accept(other)
		last, err := w.store.LastReceived(w.ctx, kapsel.OriginID(other.ID))
		w.must(err)
		w.same("the newest event", in.Event.ReceivedAt, last)
		last, err = w.store.LastReceived(w.ctx, kapsel.OriginID(kapsel.NewSourceID(w.now)))
		w.must(err)
		w.same("none", time.Time{}, last)
	}},

	{"deleting events changes no counter", func(w *world) {
		w.varied()
		before, usage := w.stats(w.endpoint.ID), w.usage(w.tenant.ID)
		n, err := w.store.DeleteFinished(w.ctx, w.tenant.ID, w.now.Add(time.Hour), 1000)
		w.must(err)
		if n == 0 {
			w.t.Fatal("nothing was deleted")
		}
		w.same("stats", before, w.stats(w.endpoint.ID))
		w.same("usage", usage, w.usage(w.tenant.ID))
	}},

	{"old counters are deleted, up to a limit, and no others", func(w *world) {
		for range 5 {
			w.finished(w.endpoint, ok)
			w.pass(time.Hour)
		}
		other := w.newTenant()
		w.finished(w.newEndpoint(other), ok)
		remove := func(now time.Time, want ...int) {
			w.t.Helper()
			for _, n := range want {
				got, err := w.store.DeleteOldCounters(w.ctx, now, 2)
				w.must(err)
				w.same("deleted", n, got)
			}
		}
		third := noon.Add(3 * time.Hour) // the end of the third hour
		remove(third.Add(store.StatsKept-time.Microsecond), 2, 0)
		remove(third.Add(store.StatsKept), 1, 0)
		w.same("kept", 2, len(w.stats(w.endpoint.ID)))
		midnight := noon.Add(12 * time.Hour)
		remove(midnight.Add(store.UsageKept-time.Microsecond), 2, 1, 0)
		w.same("stats", 0, len(w.stats(w.endpoint.ID)))
		w.same("usage", 1, len(w.usage(w.tenant.ID)))
		for removed, n := 0, 1; n > 0; removed += n { // a tenant may have several rows a day
			var err error
			n, err = w.store.DeleteOldCounters(w.ctx, midnight.Add(store.UsageKept), 2)
			w.must(err)
			if n > 2 || n == 0 && removed < 2 {
				w.t.Fatalf("deleted %d after %d", n, removed)
			}
		}
		w.same("usage", 0, len(w.usage(kapsel.TenantID{})))
	}},
}

// ever are times before and after all of a test's.
var ever, never = noon.AddDate(-1, 0, 0), noon.AddDate(50, 0, 0)

func (w *world) stats(id kapsel.EndpointID) []store.StatsOfHour {
	w.t.Helper()
	found, err := w.store.EndpointStats(w.ctx, kapsel.TenantID{}, []kapsel.EndpointID{id}, ever, never)
	w.must(err)
	var all []store.StatsOfHour
	for _, h := range found {
		w.same("the stats' endpoint", id, h.EndpointID)
		all = append(all, h.StatsOfHour)
	}
	return all
}

func (w *world) usage(id kapsel.TenantID) []store.UsageOfDay {
	w.t.Helper()
	all, err := w.store.Usage(w.ctx, id, ever, never)
	w.must(err)
	return all
}

// counted compares the counters with what they count: all that is stored. It is for worlds in
// which nothing was deleted, deliveries ended when their last attempt did, and what was
// canceled ended at its FinishedAt.
func (w *world) counted() {
	w.t.Helper()
	type hour struct {
		endpoint kapsel.EndpointID
		at       time.Time
	}
	type day struct {
		tenant kapsel.TenantID
		at     time.Time
	}
	stats, usage := map[hour]kapsel.Stats{}, map[day]kapsel.Usage{}
	endpoints, tenants := map[kapsel.EndpointID]bool{}, map[kapsel.TenantID]bool{}
	count := func(d *kapsel.Delivery, at time.Time, s func(*kapsel.Stats), u func(*kapsel.Usage)) {
		h, y := hour{d.EndpointID, kapsel.StatsHour(at)}, day{d.TenantID, kapsel.UsageDay(at)}
		forHour, forDay := stats[h], usage[y]
		s(&forHour)
		u(&forDay)
		if forHour != (kapsel.Stats{}) {
			stats[h] = forHour
		}
		usage[y] = forDay
	}
	for _, r := range w.listEvents(kapsel.TenantID{}, store.EventFilter{}, 200) {
		endpoints[r.Event.EndpointID], tenants[r.Event.TenantID] = true, true
		count(&r.Deliveries[0], r.Event.ReceivedAt, func(*kapsel.Stats) {}, func(u *kapsel.Usage) { u.Add(kapsel.Usage{Events: 1, Bytes: int64(r.Event.Size)}) })
		for _, d := range r.Deliveries {
			for _, a := range w.attempts(d.ID) {
				count(&d, a.EndedAt(), func(s *kapsel.Stats) { s.AddAttempt(a.ErrorCode, a.Duration) }, func(u *kapsel.Usage) { u.Attempts++ })
			}
			if d.Status.Terminal() {
				count(&d, d.FinishedAt, func(s *kapsel.Stats) { s.AddEnd(d.Status) }, func(u *kapsel.Usage) { u.AddEnd(d.Status) })
			}
		}
	}
	gotStats, gotUsage := map[hour]kapsel.Stats{}, map[day]kapsel.Usage{}
	for id := range endpoints {
		for _, h := range w.stats(id) {
			gotStats[hour{id, h.Hour}] = h.Stats
		}
	}
	total := map[time.Time]kapsel.Usage{}
	for id := range tenants {
		for _, d := range w.usage(id) {
			gotUsage[day{id, d.Day}] = d.Usage
			sum := total[d.Day]
			sum.Add(d.Usage)
			total[d.Day] = sum
		}
	}
	w.same("stats", stats, gotStats)
	w.same("usage", usage, gotUsage)
	days := slices.SortedFunc(maps.Keys(total), time.Time.Compare)
	all := w.usage(kapsel.TenantID{})
	w.same("days", len(days), len(all))
	for i, d := range days {
		w.same("usage of all", store.UsageOfDay{Day: d, Usage: total[d]}, all[i])
	}
}
