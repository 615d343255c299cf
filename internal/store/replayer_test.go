package store_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// replays is a SQLite store with one endpoint, in a bubble.
type replays struct {
	*testing.T
	store    store.Store
	node     kapsel.NodeID
	endpoint kapsel.Endpoint
}

// inBubble runs a test in a bubble where the store has some dead letters.
func inBubble(t *testing.T, dead int, test func(w *replays)) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), schematest.SQLite(t), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		now := time.Now().UTC()
		w := &replays{T: t, store: s, node: kapsel.NewNodeID(now)}
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "acme", Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
		w.must(s.CreateTenant(t.Context(), tenant))
		w.endpoint = kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now, Destination: 1}
		w.endpoint.Part = kapsel.PartOf(w.endpoint.ID)
		w.must(s.CreateEndpoint(t.Context(), w.endpoint, 0))
		w.must(s.Join(t.Context(), w.node, now, 24*time.Hour))
		w.accept(dead)
		w.answer(kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1})
		test(w)
	})
}

func (w *replays) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// answer ends all that is due, in the same way, and counts it.
func (w *replays) answer(a kapsel.Answer) int {
	w.Helper()
	now := time.Now().UTC()
	due, err := w.store.Claim(w.Context(), w.node, now, []store.Want{{EndpointID: w.endpoint.ID, Limit: 1000}}, 1<<20)
	w.must(err)
	for _, c := range due {
		d := c.Delivery
		after, err := d.After(a, now)
		w.must(err)
		w.must(w.store.Complete(w.Context(), store.Completion{Delivery: after, Attempt: kapsel.Attempt{
			ID: d.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID, Number: after.Attempts, StartedAt: now,
		}}))
	}
	return len(due)
}

// create makes a replay of all dead letters.
func (w *replays) create(rate, total int) kapsel.ReplayID {
	w.Helper()
	now := time.Now().UTC()
	r := kapsel.Replay{
		ID: kapsel.NewReplayID(now), TenantID: w.endpoint.TenantID, Since: now.Add(-time.Hour), Statuses: kapsel.DefaultReplayStatuses(), Rate: rate,
		Status: kapsel.ReplayRunning, Total: total, CreatedAt: now,
	}
	w.must(w.store.CreateReplay(w.Context(), r))
	return r.ID
}

func (w *replays) read(id kapsel.ReplayID) kapsel.Replay {
	w.Helper()
	r, err := w.store.ReadReplay(w.Context(), kapsel.TenantID{}, id)
	w.must(err)
	return r
}

// start runs a Replayer of a node of its own until the function that it returns is called.
func (w *replays) start(s store.Store) (stop func()) {
	w.Helper()
	return w.startWith(s, nil, nil)
}

func (w *replays) startWith(s store.Store, wake <-chan struct{}, made func()) (stop func()) {
	w.Helper()
	clock, err := store.NewClock(w.Context(), w.store)
	w.must(err)
	ctx, cancel := context.WithCancel(w.Context())
	r := &store.Replayer{Store: s, Clock: clock, Node: kapsel.NewNodeID(clock.Now()), Log: slog.New(slog.DiscardHandler), Wake: wake, Made: made}
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	w.Cleanup(stop)
	return stop
}

// pass lets time pass, and what is due then be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestReplayerKeepsToTheRate(t *testing.T) {
	inBubble(t, 500, func(w *replays) {
		fast, slow := w.create(120, 500), kapsel.ReplayID{}
		defer w.start(w.store)()
		defer w.start(w.store)() // a second node adds nothing
		pass(1500 * time.Millisecond)
		if got := w.read(fast).Created; got != 120 {
			t.Errorf("%d after the first second", got)
		}
		if got := w.answer(kapsel.Answer{Status: 200}); got != 120 {
			t.Errorf("%d are due", got)
		}
		slow = w.create(3, 380)
		pass(2 * time.Second)
		if got := []int{w.read(fast).Created, w.read(slow).Created}; !slices.Equal(got, []int{360, 6}) {
			t.Errorf("%v after the third second", got)
		}
		_, err := w.store.MoveReplay(w.Context(), kapsel.TenantID{}, fast, kapsel.ReplayPaused, time.Now())
		w.must(err)
		pass(2 * time.Second)
		if got := []int{w.read(fast).Created, w.read(slow).Created}; !slices.Equal(got, []int{360, 12}) {
			t.Errorf("%v while one is paused", got)
		}
		_, err = w.store.MoveReplay(w.Context(), kapsel.TenantID{}, fast, kapsel.ReplayRunning, time.Now())
		w.must(err)
		pass(5 * time.Second)
		w.answer(kapsel.Answer{Status: 200})
		pass(time.Second)
		a, b := w.read(fast), w.read(slow)
		if a.Status != kapsel.ReplayDone || b.Status != kapsel.ReplayDone || a.Created+b.Created != 500 || a.Delivered+b.Delivered != 500 {
			t.Errorf("at the end: %+v, %+v", a, b)
		}
	})
}

// TestReplayerBeginsAtOnce: a replay that Wake announces does not wait for the next second, and
// however often it is announced no replay makes more than its rate in a second.
func TestReplayerBeginsAtOnce(t *testing.T) {
	inBubble(t, 500, func(w *replays) {
		wake, made := make(chan struct{}, 1), 0
		old := w.create(10, 500)
		defer w.startWith(w.store, wake, func() { made++ })()
		pass(1100 * time.Millisecond)
		young := w.create(20, 490)
		created := func() []int { return []int{w.read(old).Created, w.read(young).Created} }
		for range 5 {
			wake <- struct{}{}
			synctest.Wait()
		}
		if got := created(); !slices.Equal(got, []int{10, 20}) || made != 2 {
			t.Errorf("when it was announced: %v, told %d times", got, made)
		}
		if got := w.answer(kapsel.Answer{Status: 200}); got != 30 {
			t.Errorf("%d are due", got)
		}
		pass(time.Second)
		wake <- struct{}{}
		pass(0)
		if got := created(); !slices.Equal(got, []int{20, 20}) {
			t.Errorf("in the second after: %v", got)
		}
		pass(time.Second)
		if got := created(); !slices.Equal(got, []int{30, 40}) {
			t.Errorf("in the one after that: %v", got)
		}
	})
}

// TestReplayer_FA10_FaultsAndRestarts checks that a bulk replay repeats every dead letter
// once, although steps fail before and after they are written and the process is replaced.
func TestReplayer_FA10_FaultsAndRestarts(t *testing.T) {
	inBubble(t, 300, func(w *replays) {
		faults, stops := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4)) // one for each goroutine
		faulty := storetest.Faulty(w.store, func(method string) storetest.Fault {
			if method != "StepReplay" && method != "Lead" && method != "RunningReplays" {
				return storetest.NoFault
			}
			return storetest.Fault(faults.IntN(3))
		})
		id := w.create(20, 300)
		for range 200 {
			stop := w.start(faulty)
			pass(time.Duration(stops.IntN(int(10 * time.Second))))
			stop()
		}
		if got := w.read(id); got.Created != 300 {
			t.Fatalf("%d created: %+v", got.Created, got)
		}
		if got := w.answer(kapsel.Answer{Status: 200}); got != 300 {
			t.Errorf("%d are due", got)
		}
		defer w.start(w.store)()
		pass(10 * time.Second)
		if got := w.read(id); got.Status != kapsel.ReplayDone || got.Delivered != 300 || got.Total != 300 {
			t.Errorf("at the end: %+v", got)
		}
	})
}
