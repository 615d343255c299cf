package upkeep_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// replays is a world in which replays are made.
type replays struct{ *schematest.World }

// inBubble runs a test in a bubble where the store has some dead letters.
func inBubble(t *testing.T, dead int, test func(w *replays)) {
	schematest.InBubble(t, func(w *schematest.World) {
		w.Accept(dead)
		w.Answer(kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1})
		test(&replays{w})
	})
}

// create makes a replay of all dead letters.
func (w *replays) create(rate, total int) kapsel.ReplayID {
	w.Helper()
	now := time.Now().UTC()
	r := kapsel.Replay{
		ID: kapsel.NewReplayID(now), TenantID: w.Endpoint.TenantID, Since: now.Add(-time.Hour), Statuses: kapsel.DefaultReplayStatuses(), Rate: rate,
		Status: kapsel.ReplayRunning, Total: total, CreatedAt: now,
	}
	w.Must(w.Store.CreateReplay(w.Context(), r))
	return r.ID
}

func (w *replays) read(id kapsel.ReplayID) kapsel.Replay {
	w.Helper()
	r, err := w.Store.ReadReplay(w.Context(), kapsel.TenantID{}, id)
	w.Must(err)
	return r
}

// start runs a Replayer of a node of its own until the function that it returns is called.
func (w *replays) start(s store.Store) (stop func()) {
	w.Helper()
	return w.startWith(s, nil, nil)
}

func (w *replays) startWith(s store.Store, wake <-chan struct{}, made func()) (stop func()) {
	w.Helper()
	clock, err := clock.New(w.Context(), w.Store)
	w.Must(err)
	ctx, cancel := context.WithCancel(w.Context())
	r := &upkeep.Replayer{Store: s, Clock: clock, Node: kapsel.NewNodeID(clock.Now()), Log: slog.New(slog.DiscardHandler), Wake: wake, Made: made}
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	w.Cleanup(stop)
	return stop
}

func TestReplayerKeepsToTheRate(t *testing.T) {
	inBubble(t, 500, func(w *replays) {
		fast, slow := w.create(120, 500), kapsel.ReplayID{}
		defer w.start(w.Store)()
		defer w.start(w.Store)() // a second node adds nothing
		w.Pass(1500 * time.Millisecond)
		if got := w.read(fast).Created; got != 120 {
			t.Errorf("%d after the first second", got)
		}
		if got := w.Answer(kapsel.Answer{Status: 200}); got != 120 {
			t.Errorf("%d are due", got)
		}
		slow = w.create(3, 380)
		w.Pass(2 * time.Second)
		if got := []int{w.read(fast).Created, w.read(slow).Created}; !slices.Equal(got, []int{360, 6}) {
			t.Errorf("%v after the third second", got)
		}
		_, err := w.Store.MoveReplay(w.Context(), kapsel.TenantID{}, fast, kapsel.ReplayPaused, time.Now())
		w.Must(err)
		w.Pass(2 * time.Second)
		if got := []int{w.read(fast).Created, w.read(slow).Created}; !slices.Equal(got, []int{360, 12}) {
			t.Errorf("%v while one is paused", got)
		}
		_, err = w.Store.MoveReplay(w.Context(), kapsel.TenantID{}, fast, kapsel.ReplayRunning, time.Now())
		w.Must(err)
		w.Pass(5 * time.Second)
		w.Answer(kapsel.Answer{Status: 200})
		w.Pass(time.Second)
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
		defer w.startWith(w.Store, wake, func() { made++ })()
		w.Pass(1100 * time.Millisecond)
		young := w.create(20, 490)
		created := func() []int { return []int{w.read(old).Created, w.read(young).Created} }
		for range 5 {
			wake <- struct{}{}
			synctest.Wait()
		}
		if got := created(); !slices.Equal(got, []int{10, 20}) || made != 2 {
			t.Errorf("when it was announced: %v, told %d times", got, made)
		}
		if got := w.Answer(kapsel.Answer{Status: 200}); got != 30 {
			t.Errorf("%d are due", got)
		}
		w.Pass(time.Second)
		wake <- struct{}{}
		w.Pass(0)
		if got := created(); !slices.Equal(got, []int{20, 20}) {
			t.Errorf("in the second after: %v", got)
		}
		w.Pass(time.Second)
		if got := created(); !slices.Equal(got, []int{30, 40}) {
			t.Errorf("in the one after that: %v", got)
		}
	})
}

// TestReplayer_OthersGoOn checks that a replay makes its deliveries, and ends, although the deliveries of a
// hundred older replays wait, and that these end, too.
func TestReplayer_OthersGoOn(t *testing.T) {
	inBubble(t, 0, func(w *replays) {
		var at []time.Time
		for range 110 {
			at = append(at, time.Now().UTC())
			w.Accept(1)
			time.Sleep(time.Millisecond)
		}
		w.Answer(kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1})
		var all []kapsel.ReplayID
		one := func(at time.Time) {
			now := time.Now().UTC()
			r := kapsel.Replay{
				ID: kapsel.NewReplayID(now), TenantID: w.Endpoint.TenantID, Since: at, Until: at.Add(time.Millisecond), Statuses: kapsel.DefaultReplayStatuses(), Rate: 10,
				Status: kapsel.ReplayRunning, Total: 1, CreatedAt: now,
			}
			w.Must(w.Store.CreateReplay(w.Context(), r))
			all = append(all, r.ID)
		}
		for _, at := range at[:109] {
			one(at)
		}
		defer w.start(w.Store)()
		w.Pass(5 * time.Second)
		one(at[109])
		w.Pass(2 * time.Second)
		for i, id := range all {
			if r := w.read(id); r.Created != 1 || r.Status != kapsel.ReplayRunning {
				t.Errorf("replay %d of %d has made %d and is %s", i+1, len(all), r.Created, r.Status)
			}
		}
		if got := w.Answer(kapsel.Answer{Status: 200}); got != len(all) {
			t.Errorf("%d are due", got)
		}
		w.Pass(5 * time.Second)
		for i, id := range all {
			if r := w.read(id); r.Status != kapsel.ReplayDone {
				t.Errorf("replay %d of %d is %s", i+1, len(all), r.Status)
			}
		}
	})
}

// TestReplayer_FA10_FaultsAndRestarts checks that a bulk replay repeats every dead letter
// once, although steps fail before and after they are written and the process is replaced.
func TestReplayer_FA10_FaultsAndRestarts(t *testing.T) {
	inBubble(t, 300, func(w *replays) {
		faults, stops := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4)) // one for each goroutine
		faulty := storetest.Faulty(w.Store, func(method string) storetest.Fault {
			if method != "StepReplay" && method != "Lead" && method != "RunningReplays" {
				return storetest.NoFault
			}
			return storetest.Fault(faults.IntN(3))
		})
		id := w.create(20, 300)
		for range 200 {
			stop := w.start(faulty)
			w.Pass(time.Duration(stops.IntN(int(10 * time.Second))))
			stop()
		}
		if got := w.read(id); got.Created != 300 {
			t.Fatalf("%d created: %+v", got.Created, got)
		}
		if got := w.Answer(kapsel.Answer{Status: 200}); got != 300 {
			t.Errorf("%d are due", got)
		}
		defer w.start(w.Store)()
		w.Pass(10 * time.Second)
		if got := w.read(id); got.Status != kapsel.ReplayDone || got.Delivered != 300 || got.Total != 300 {
			t.Errorf("at the end: %+v", got)
		}
	})
}

// TestReplayer_FA10_MissingThroughFaults checks that a replay of what is missing makes each delivery
// once, although steps fail before and after they are written and the process is replaced.
func TestReplayer_FA10_MissingThroughFaults(t *testing.T) {
	inBubble(t, 300, func(w *replays) {
		late := w.Endpoint
		late.ID, late.NoIngest, late.Subscriptions = kapsel.NewEndpointID(time.Now()), true, []kapsel.Subscription{{Source: w.Endpoint.ID.String()}}
		w.Must(w.Store.CreateEndpoint(w.Context(), late, 0))
		faults, stops := rand.New(rand.NewPCG(5, 6)), rand.New(rand.NewPCG(7, 8))
		faulty := storetest.Faulty(w.Store, func(method string) storetest.Fault {
			if method != "StepReplay" {
				return storetest.NoFault
			}
			return storetest.Fault(faults.IntN(3))
		})
		now := time.Now().UTC()
		r := kapsel.Replay{
			ID: kapsel.NewReplayID(now), TenantID: late.TenantID, Since: now.Add(-time.Hour), Missing: true, Rate: 20,
			Status: kapsel.ReplayRunning, Total: 300, CreatedAt: now,
		}
		w.Must(w.Store.CreateReplay(w.Context(), r))
		for range 50 {
			stop := w.start(faulty)
			w.Pass(time.Duration(stops.IntN(int(10 * time.Second))))
			stop()
		}
		defer w.start(w.Store)()
		w.Pass(time.Minute)
		if got := w.read(r.ID); got.Created != 300 {
			t.Fatalf("%d created: %+v", got.Created, got)
		}
		w.Endpoint = late
		if got := w.Answer(kapsel.Answer{Status: 200}); got != 300 {
			t.Errorf("%d are due", got)
		}
		w.Pass(10 * time.Second)
		if got := w.read(r.ID); got.Status != kapsel.ReplayDone || got.Delivered != 300 {
			t.Errorf("at the end: %+v", got)
		}
	})
}
