package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/cluster"
)

// lasts is the lease of the nodes in these tests.
const lasts = 10 * time.Second

// table is the store's table of nodes, and the host of the one node that is tested. It writes down
// each call. Tests are bubbles, so a call's time is the time since the bubble began.
type table struct {
	node  *cluster.Node
	begin time.Time
	jump  time.Duration // of the store's clock
	log   bytes.Buffer

	mu    sync.Mutex
	calls []string
	at    []time.Duration // of each call
	alive map[kapsel.NodeID]bool
	fail  map[string]error         // by call
	slow  map[string]time.Duration // how long a call takes
	held  int                      // deliveries of dead nodes
	last  time.Time                // the time by which leases were last judged
}

// in runs a test of a node in a bubble.
func in(t *testing.T, test func(t *testing.T, w *table)) {
	synctest.Test(t, func(t *testing.T) {
		w := &table{begin: time.Now(), alive: map[kapsel.NodeID]bool{}, fail: map[string]error{}, slow: map[string]time.Duration{}}
		w.node = cluster.NewNode(cluster.NodeConfig{Store: w, Now: w.now, Lease: lasts, Host: w, Log: slog.New(slog.NewTextHandler(&w.log, nil))})
		test(t, w)
	})
}

func (w *table) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.jump)
}

// set changes the table for calls from now on.
func (w *table) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// called notes a call, lets it take its time, and returns the error that it is to fail with.
func (w *table) called(call string) error {
	w.mu.Lock()
	w.calls, w.at = append(w.calls, call), append(w.at, time.Since(w.begin))
	slow, err := w.slow[call], w.fail[call]
	w.mu.Unlock()
	time.Sleep(slow)
	return err
}

// times returns when a call was made, and forgets all calls.
func (w *table) times(call string) (at []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, c := range w.calls {
		if c == call {
			at = append(at, w.at[i])
		}
	}
	w.calls, w.at = nil, nil
	return at
}

func (w *table) Join(_ context.Context, node kapsel.NodeID, _ time.Time, _ time.Duration) error {
	err := w.called("Join")
	if err == nil {
		w.set(func() { w.alive[node] = true })
	}
	return err
}

func (w *table) Renew(_ context.Context, node kapsel.NodeID, _ time.Time, _ time.Duration) error {
	err := w.called("Renew")
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && !w.alive[node] {
		err = kapsel.Errorf(kapsel.Conflict, "the node is dead")
	}
	return err
}

func (w *table) Leave(_ context.Context, node kapsel.NodeID) error {
	w.set(func() { delete(w.alive, node) })
	return w.called("Leave")
}

func (w *table) TakeOver(_ context.Context, now time.Time, limit int) (int, error) {
	err := w.called("TakeOver")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = now
	if err != nil {
		return 0, err
	}
	moved := min(w.held, limit)
	w.held -= moved
	return moved, nil
}

func (w *table) Joined(id kapsel.NodeID) {
	if now, certain := w.node.Certain(); certain || now == id {
		w.called("Joined too late")
	}
	w.called("Joined")
}

func (w *table) Renewed(_ context.Context, joined bool) error {
	if _, certain := w.node.Certain(); !certain {
		w.called("Renewed without a lease")
	}
	if joined {
		return w.called("Renewed as new")
	}
	return w.called("Renewed")
}

func (w *table) Lost() {
	if _, certain := w.node.Certain(); certain {
		w.called("Lost with a lease")
	}
	w.called("Lost")
}

func (w *table) TookOver(context.Context, int) { w.called("TookOver") }

// live joins the node and has it renew its lease and take over until the test ends.
func (w *table) live(t *testing.T) {
	t.Helper()
	if err := w.node.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { w.node.KeepAlive(ctx) })
	loops.Go(func() { w.node.TakeOver(ctx) })
	t.Cleanup(func() { end(); loops.Wait() })
	synctest.Wait()
}

// pass lets time pass, and all that is due in it happen.
func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

func certain(w *table) bool { _, ok := w.node.Certain(); return ok }

// TestNode_Join checks that a node is not certain before it has joined, that the host knows the new
// ID before Certain returns it, and that a join that fails leaves the node as it was.
func TestNode_Join(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		down := errors.New("down")
		w.fail["Join"] = down
		if err := w.node.Join(t.Context()); !errors.Is(err, down) || certain(w) || !w.node.ID().IsZero() {
			t.Errorf("a join that fails returns %v and leaves the ID %s", err, w.node.ID())
		}
		delete(w.fail, "Join")
		if err := w.node.Join(t.Context()); err != nil || !certain(w) || !w.alive[w.node.ID()] {
			t.Errorf("a join returns %v and leaves the ID %s", err, w.node.ID())
		}
		if want := []string{"Join", "Join", "Joined", "Renewed as new"}; !slices.Equal(w.calls, want) {
			t.Errorf("the calls are %q, want %q", w.calls, want)
		}
	})
}

// TestNode_Certain checks that the lease is certain for 70 % of it, counted from when the last
// renewal that succeeded was sent, and again after the next one.
func TestNode_Certain(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		w.live(t)
		w.set(func() { w.slow["Renew"] = time.Second })
		pass(3 * time.Second) // the first renewal was sent at 2 s, and answered at 3 s
		w.set(func() { w.fail["Renew"] = errors.New("down") })
		pass(6*time.Second - time.Millisecond)
		if !certain(w) {
			t.Error("the lease is not certain 7 s after the last renewal was sent")
		}
		pass(time.Millisecond)
		if certain(w) {
			t.Error("the lease is certain 7 s after the last renewal was sent")
		}
		if id, _ := w.node.Certain(); id != w.node.ID() {
			t.Error("a node that is not certain has lost its ID")
		}
		w.set(func() { delete(w.fail, "Renew"); delete(w.slow, "Renew") })
		pass(2 * time.Second)
		if !certain(w) {
			t.Error("the lease is not certain after a renewal")
		}
		if !strings.Contains(w.log.String(), "could not be renewed") {
			t.Errorf("the log does not tell of renewals that failed: %s", &w.log)
		}
	})
}

// TestNode_Loops checks that a lease is renewed, and dead nodes are looked for, every fifth of the
// lease.
func TestNode_Loops(t *testing.T) {
	for _, call := range []string{"Renew", "Renewed", "TakeOver", "TookOver"} {
		in(t, func(t *testing.T, w *table) {
			w.live(t)
			pass(6 * time.Second)
			at := w.times(call)
			if call == "TakeOver" || call == "TookOver" { // at once, too
				if len(at) == 0 || at[0] != 0 {
					t.Fatalf("%s was called at %v", call, at)
				}
				at = at[1:]
			}
			if want := []time.Duration{2 * time.Second, 4 * time.Second, 6 * time.Second}; !slices.Equal(at, want) {
				t.Errorf("%s was called at %v, want %v", call, at, want)
			}
		})
	}
}

// TestNode_Lost checks that a node that was declared dead loses its lease before the host is told,
// and starts again under a new ID; while it cannot join it is not certain, and tries again.
func TestNode_Lost(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		w.live(t)
		was := w.node.ID()
		w.set(func() { clear(w.alive); w.fail["Join"] = errors.New("down") })
		w.times("")
		pass(5 * time.Second)
		if certain(w) || w.node.ID() != was {
			t.Error("a node that is dead and cannot join is certain, or has another ID")
		}
		if at := w.times("Lost"); len(at) != 2 {
			t.Errorf("the host was told at %v that the node is lost, want at each try", at)
		}
		w.set(func() { delete(w.fail, "Join") })
		pass(time.Second)
		if id, ok := w.node.Certain(); !ok || id == was || !w.alive[id] {
			t.Errorf("after a join the node is certain: %t, under a new ID: %t", ok, id != was)
		}
		w.set(func() {
			w.calls = slices.DeleteFunc(w.calls, func(call string) bool { return call == "TakeOver" || call == "TookOver" })
		})
		if want := []string{"Renew", "Lost", "Join", "Joined", "Renewed as new"}; !slices.Equal(w.calls, want) {
			t.Errorf("the calls are %q, want %q", w.calls, want)
		}
	})
}

// TestNode_LostAtStop checks that a node that stops while a renewal is under way does not join again
// when the renewal finds that the node was declared dead.
func TestNode_LostAtStop(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		if err := w.node.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		was := w.node.ID()
		w.set(func() { clear(w.alive); w.slow["Renew"] = time.Second })
		w.times("")
		ctx, stop := context.WithTimeout(t.Context(), lasts/5+time.Second/2)
		defer stop()
		w.node.KeepAlive(ctx)
		if want := []string{"Renew"}; !slices.Equal(w.calls, want) || w.node.ID() != was {
			t.Errorf("the calls are %q, want %q; the node has another ID: %t", w.calls, want, w.node.ID() != was)
		}
	})
}

// TestNode_TakeOver checks that full batches follow each other at once, that the host is told of each, that a
// store that fails is asked again at the next tick, and that the host does its own work meanwhile.
func TestNode_TakeOver(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		w.held = 1200
		w.live(t)
		if at := w.times("TookOver"); len(at) != 3 || at[2] != 0 || w.held != 0 {
			t.Errorf("1,200 deliveries were taken over at %v; %d are left", at, w.held)
		}
		w.set(func() { w.fail["TakeOver"], w.held = errors.New("down"), 1 })
		pass(2 * time.Second)
		if at := w.times("TookOver"); len(at) != 1 || w.held != 1 {
			t.Errorf("while no take-over is done, the host was called at %v; %d are left", at, w.held)
		}
		w.set(func() { delete(w.fail, "TakeOver") })
		pass(2 * time.Second)
		if at := w.times("TookOver"); len(at) != 1 || w.held != 0 {
			t.Errorf("after a failure the host was told at %v; %d deliveries are left", at, w.held)
		}
	})
}

// TestNode_JudgesWhenCertain checks that a node whose own lease is not certain takes nothing over, so
// that it cannot take over its own deliveries after it was frozen, but still calls TookOver.
func TestNode_JudgesWhenCertain(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		w.live(t)
		w.set(func() { w.fail["Renew"] = errors.New("down") })
		pass(7 * time.Second)
		w.times("")
		pass(10 * time.Second)
		w.mu.Lock()
		if slices.Contains(w.calls, "TakeOver") || !slices.Contains(w.calls, "TookOver") {
			t.Errorf("without a certain lease the calls are %q", w.calls)
		}
		w.mu.Unlock()
		w.set(func() { delete(w.fail, "Renew") })
		pass(4 * time.Second)
		if at := w.times("TakeOver"); len(at) == 0 {
			t.Error("nothing is taken over after the lease became certain again")
		}
	})
}

// TestNode_JudgesByItsRenewal checks that other leases are judged by the store's time counted on from
// the last renewal, so that a jump of the clock that no renewal has met yet ends no lease.
func TestNode_JudgesByItsRenewal(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		if err := w.node.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { w.node.TakeOver(ctx) })
		pass(time.Second)
		w.set(func() { w.jump = time.Hour })
		w.times("")
		pass(time.Second)
		if at := w.times("TakeOver"); len(at) != 1 || !w.last.Equal(time.Now()) {
			t.Errorf("after a jump leases were judged at %v, %v ahead of the former clock", at, time.Until(w.last))
		}
		end()
		loop.Wait()
	})
}

// TestNode_Jump checks that a node judges no lease for 15 s and a lease after the store's clock has
// jumped, and that it does not renew its own lease by the new clock while a take-over by the old one
// is under way.
func TestNode_Jump(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		w.live(t)
		w.set(func() { w.slow["TakeOver"] = 3 * time.Second })
		pass(3 * time.Second) // a take-over runs from 2 s to 5 s
		w.set(func() { w.jump = -time.Hour })
		w.times("")
		pass(2500 * time.Millisecond)
		w.set(func() { delete(w.slow, "TakeOver") })
		if at := w.times("Renew"); len(at) != 0 {
			t.Errorf("the lease was renewed at %v, beside a take-over by another clock", at)
		}
		pass(500 * time.Millisecond)
		if at := w.times("Renew"); !slices.Equal(at, []time.Duration{6 * time.Second}) || !certain(w) {
			t.Errorf("after the take-over the lease was renewed at %v", at)
		}
		pass(30 * time.Second)
		at := w.times("TakeOver")
		if len(at) == 0 || at[0] < 31*time.Second || at[0] > 33*time.Second {
			t.Errorf("after a jump that was met at 6 s leases were judged at %v, want from 31 s on", at)
		}
	})
}

// TestNode_JoinsAfterJump checks that a node whose own clock is far from the store's judges no lease for 15 s
// and a lease after it has joined: the store's clock may have jumped just now, and other nodes may not know.
func TestNode_JoinsAfterJump(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		w.set(func() { w.jump = time.Hour })
		w.live(t)
		pass(40 * time.Second)
		at := w.times("TakeOver")
		if len(at) == 0 || at[0] < 25*time.Second || at[0] > 28*time.Second {
			t.Errorf("leases were judged at %v, want from 25 s on", at)
		}
	})
}

// TestNode_Leave checks that a node that leaves ends its lease in the store.
func TestNode_Leave(t *testing.T) {
	in(t, func(t *testing.T, w *table) {
		if err := w.node.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.node.Leave(t.Context()); err != nil || len(w.alive) != 0 {
			t.Errorf("leaving returns %v, and %d nodes are alive", err, len(w.alive))
		}
	})
}
