package breaker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/breaker"
)

var (
	start  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	policy = kapsel.DefaultEndpoint().Circuit
	nodeA  = kapsel.NewNodeID(start)
	nodeB  = kapsel.NewNodeID(start)
)

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		code   kapsel.Code
		status int
		want   breaker.Verdict
	}{
		{"", 200, breaker.Success},
		{"", 204, breaker.Success},
		{kapsel.HTTPClientError, 301, breaker.Success},
		{kapsel.HTTPClientError, 400, breaker.Success},
		{kapsel.HTTPClientError, 404, breaker.Success},
		{kapsel.HTTPClientError, 410, breaker.Success},
		{kapsel.HTTPClientError, 408, breaker.Neutral},
		{kapsel.HTTPClientError, 425, breaker.Neutral},
		{kapsel.HTTPClientError, 429, breaker.Neutral},
		{kapsel.HTTPServerError, 500, breaker.Failure},
		{kapsel.HTTPServerError, 503, breaker.Failure},
		{kapsel.ConnectionRefused, 0, breaker.Failure},
		{kapsel.ConnectionTimeout, 0, breaker.Failure},
		{kapsel.TLSError, 0, breaker.Failure},
		{kapsel.DNSError, 0, breaker.Failure},
		{kapsel.BadResponse, 0, breaker.Failure},
		{kapsel.BadResponse, 200, breaker.Failure},
		{kapsel.DialBlocked, 0, breaker.Neutral},
		{kapsel.OutcomeUnknown, 0, breaker.Neutral},
	} {
		if got := breaker.Judge(tt.code, tt.status); got != tt.want {
			t.Errorf("Judge(%q, %d) = %v, want %v", tt.code, tt.status, got, tt.want)
		}
	}
}

// record feeds a window one exchange a step, written as f(ailure), s(uccess) and n(eutral),
// and returns how many it took to trip, 0 if they did not.
func record(w *breaker.Window, exchanges string, step time.Duration, p kapsel.CircuitPolicy) int {
	verdicts := map[rune]breaker.Verdict{'f': breaker.Failure, 's': breaker.Success, 'n': breaker.Neutral}
	for i, x := range exchanges {
		if w.Record(verdicts[x], start.Add(time.Duration(i)*step), p) {
			return i + 1
		}
	}
	return 0
}

func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		name      string
		exchanges string
		step      time.Duration
		trips     int
	}{
		{"failures in a row", "fffff", time.Second, 5},
		{"four are not enough", "ffffsffff", time.Second, 0},
		{"a row has no age", "fffff", time.Hour, 5},
		{"neutral ones do not break a row", "ffnfnnff", time.Second, 8},
		{"a success does", "ffsfffs", time.Second, 0},
		{"half of the last twenty", strings.Repeat("sf", 10), time.Second, 20},
		{"just under half", strings.Repeat("sfs", 7), time.Second, 0},
		{"nine failures are too few for the ratio", "sfsffffsffffsss", time.Second, 0},
		{"ten failures of fewer than twenty", "ffffsffffsff", time.Second, 12},
		{"what is older than a minute is forgotten", strings.Repeat("sf", 40), 4 * time.Second, 0},
		{"what was before the last twenty is forgotten", strings.Repeat("s", 200) + strings.Repeat("fs", 10), 100 * time.Millisecond, 219},
		{"neutral ones take no place", strings.Repeat("nnsf", 10), 500 * time.Millisecond, 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var w breaker.Window
			if got := record(&w, tt.exchanges, tt.step, policy); got != tt.trips {
				t.Errorf("tripped after %d exchanges, want %d", got, tt.trips)
			}
		})
	}
}

func TestWindowResetForgets(t *testing.T) {
	var w breaker.Window
	record(&w, "ffffsffffsf", time.Second, policy) // one failure short, both ways
	w.Reset()
	if got := record(&w, "ffff", time.Second, policy); got != 0 {
		t.Errorf("tripped after %d failures that followed a reset", got)
	}
}

func TestWindowFollowsAChangedPolicy(t *testing.T) {
	var w breaker.Window
	narrow := policy
	narrow.Window, narrow.Minimum = 4, 2
	record(&w, "sssfssssss", time.Second, policy)
	if got := record(&w, "fsf", time.Second, narrow); got != 3 {
		t.Errorf("tripped after %d exchanges of the narrow policy, want 3", got)
	}
}

// The window agrees with a model that keeps everything and looks back over it.
func TestWindowAgreesWithModel(t *testing.T) {
	type exchange struct {
		at     time.Time
		failed bool
	}
	rapid.Check(t, func(t *rapid.T) {
		p := kapsel.CircuitPolicy{
			Failures: rapid.IntRange(1, 12).Draw(t, "failures"),
			Ratio:    rapid.Float64Range(0.1, 1).Draw(t, "ratio"),
			Window:   rapid.IntRange(1, 30).Draw(t, "window"),
			Minimum:  rapid.IntRange(1, 15).Draw(t, "minimum"),
		}
		var w breaker.Window
		var all []exchange
		now := start
		for i := range rapid.IntRange(1, 120).Draw(t, "n") {
			now = now.Add(time.Duration(rapid.IntRange(0, 9000).Draw(t, "ms")) * time.Millisecond)
			v := rapid.SampledFrom([]breaker.Verdict{breaker.Neutral, breaker.Success, breaker.Failure}).Draw(t, "verdict")
			if v != breaker.Neutral {
				all = append(all, exchange{now, v == breaker.Failure})
			}
			row, counted, failed := 0, 0, 0
			for j := len(all) - 1; j >= 0 && all[j].failed; j-- {
				row++
			}
			for _, x := range all[max(0, len(all)-p.Window):] {
				if now.Sub(x.at) < time.Minute {
					counted++
					if x.failed {
						failed++
					}
				}
			}
			want := v == breaker.Failure &&
				(row >= p.Failures || failed >= p.Minimum && float64(failed)/float64(counted) >= p.Ratio)
			if got := w.Record(v, now, p); got != want {
				t.Fatalf("exchange %d: tripped = %v, want %v (row %d, %d of %d failed, %+v)", i, got, want, row, failed, counted, p)
			}
		}
	})
}

func TestCircuit(t *testing.T) {
	id := kapsel.NewEndpointID(start)
	later := start.Add(policy.OpenFor)
	closed := kapsel.Circuit{EndpointID: id, State: kapsel.CircuitClosed, ChangedAt: start, Version: 7, Revision: 9}
	open := kapsel.Circuit{EndpointID: id, State: kapsel.CircuitOpened, ChangedAt: start, RetryAt: later, Version: 7, Revision: 9}
	half := kapsel.Circuit{EndpointID: id, State: kapsel.CircuitHalfOpen, ChangedAt: start, Probe: nodeA, Successes: 1, Version: 7, Revision: 9}
	with := func(c kapsel.Circuit, change func(*kapsel.Circuit)) kapsel.Circuit { change(&c); return c }

	answer := func(v breaker.Verdict) func(kapsel.Circuit, time.Time) kapsel.Circuit {
		return func(c kapsel.Circuit, now time.Time) kapsel.Circuit { return breaker.Answer(c, v, now, policy) }
	}
	trip := func(c kapsel.Circuit, now time.Time) kapsel.Circuit { return breaker.Trip(c, now, policy) }
	probe := func(c kapsel.Circuit, now time.Time) kapsel.Circuit {
		p, ok := breaker.Probe(c, now, nodeB)
		if ok == cmp.Equal(p, c) {
			t.Errorf("Probe(%+v) reports %v", c, ok)
		}
		return p
	}

	for _, tt := range []struct {
		name string
		from kapsel.Circuit
		do   func(kapsel.Circuit, time.Time) kapsel.Circuit
		at   time.Time
		want kapsel.Circuit
	}{
		{"closed trips", closed, trip, later, with(open, func(c *kapsel.Circuit) {
			c.ChangedAt, c.RetryAt = later, later.Add(policy.OpenFor)
		})},
		{"never used trips", kapsel.Circuit{EndpointID: id}, trip, start, with(open, func(c *kapsel.Circuit) { c.Version, c.Revision = 0, 0 })},
		{"open does not trip again", open, trip, later, open},
		{"half-open does not trip", half, trip, later, half},

		{"closed needs no probe", closed, probe, later, closed},
		{"open waits", open, probe, later.Add(-1), open},
		{"open probes in time", open, probe, later, with(half, func(c *kapsel.Circuit) {
			c.ChangedAt, c.Probe, c.Successes = later, nodeB, 0
		})},
		{"held open waits", with(open, func(c *kapsel.Circuit) { c.HoldUntil = later.Add(1) }), probe, later,
			with(open, func(c *kapsel.Circuit) { c.HoldUntil = later.Add(1) })},
		{"half-open has one probe", half, probe, later, half},
		{"half-open probes again", with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} }), probe, later,
			with(half, func(c *kapsel.Circuit) { c.Probe = nodeB })},

		{"success counts", half, answer(breaker.Success), later, with(half, func(c *kapsel.Circuit) {
			c.Probe, c.Successes = kapsel.NodeID{}, 2
		})},
		{"last success closes", with(half, func(c *kapsel.Circuit) { c.Successes = 2 }), answer(breaker.Success), later,
			with(closed, func(c *kapsel.Circuit) { c.ChangedAt = later })},
		{"failure opens again", half, answer(breaker.Failure), later, with(open, func(c *kapsel.Circuit) {
			c.ChangedAt, c.RetryAt = later, later.Add(policy.OpenFor)
		})},
		{"neutral frees the probe", half, answer(breaker.Neutral), later, with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} })},
		{"no probe, no answer", with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} }), answer(breaker.Success), later,
			with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} })},
		{"open takes no answer", open, answer(breaker.Success), later, open},
		{"closed takes no answer", closed, answer(breaker.Failure), later, closed},

		{"reset closes open", open, breaker.Reset, later, with(closed, func(c *kapsel.Circuit) { c.ChangedAt = later })},
		{"reset closes half-open", half, breaker.Reset, later, with(closed, func(c *kapsel.Circuit) { c.ChangedAt = later })},
		{"reset leaves closed", closed, breaker.Reset, later, closed},
		{"reset ends a hold", with(closed, func(c *kapsel.Circuit) { c.HoldUntil = later }), breaker.Reset, start, closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.do(tt.from, tt.at)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestHold(t *testing.T) {
	for _, tt := range []struct {
		name        string
		held, until time.Duration // from start; 0: not held
		want        time.Duration
	}{
		{"until then", 0, time.Minute, time.Minute},
		{"at most an hour", 0, 24 * time.Hour, time.Hour},
		{"not shorter", 10 * time.Minute, time.Minute, 10 * time.Minute},
		{"longer", time.Minute, 10 * time.Minute, 10 * time.Minute},
		{"not into the past", 0, -time.Minute, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c kapsel.Circuit
			if tt.held != 0 {
				c.HoldUntil = start.Add(tt.held)
			}
			c = breaker.Hold(c, start.Add(tt.until), start)
			var want time.Time
			if tt.want != 0 {
				want = start.Add(tt.want)
			}
			if !c.HoldUntil.Equal(want) {
				t.Errorf("held until %v, want %v", c.HoldUntil, want)
			}
			if allowed := breaker.Allows(c, start); allowed != want.IsZero() {
				t.Errorf("allows = %v while held until %v", allowed, want)
			}
			if !breaker.Allows(c, c.HoldUntil) {
				t.Error("does not allow at the end of the hold")
			}
		})
	}
}

// Whatever happens in whatever order: at most one probe is out, the circuit closes only on
// enough successes in a row, opens for exactly its time, and Version is never touched.
func TestCircuitInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := kapsel.CircuitPolicy{
			OpenFor:   time.Duration(rapid.IntRange(1, 60).Draw(t, "open for")) * time.Second,
			Successes: rapid.IntRange(1, 5).Draw(t, "successes"),
		}
		c := kapsel.Circuit{Version: 3, Revision: 4}
		now := start
		var out kapsel.NodeID // the model: whose probe is out
		row := 0              // and how many succeeded since it was last open
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 90_000).Draw(t, "ms")) * time.Millisecond)
			},
			"trip": func(*rapid.T) { c = breaker.Trip(c, now, p) },
			"hold": func(t *rapid.T) {
				c = breaker.Hold(c, now.Add(time.Duration(rapid.IntRange(-10, 100).Draw(t, "s"))*time.Second), now)
			},
			"probe": func(t *rapid.T) {
				node := rapid.SampledFrom([]kapsel.NodeID{nodeA, nodeB}).Draw(t, "node")
				before := c
				next, ok := breaker.Probe(c, now, node)
				if !ok {
					if next != before {
						t.Fatalf("refused, but changed: %+v", next)
					}
					return
				}
				if !out.IsZero() {
					t.Fatal("a second probe is out")
				}
				if before.State == kapsel.CircuitOpened {
					if now.Before(before.ChangedAt.Add(p.OpenFor)) {
						t.Fatal("probed too early")
					}
					row = 0
				}
				c, out = next, node
			},
			"answer": func(t *rapid.T) {
				if out.IsZero() {
					t.Skip("no probe is out")
				}
				v := rapid.SampledFrom([]breaker.Verdict{breaker.Neutral, breaker.Success, breaker.Failure}).Draw(t, "verdict")
				c, out = breaker.Answer(c, v, now, p), kapsel.NodeID{}
				if v == breaker.Success {
					row++
				}
				want := kapsel.CircuitHalfOpen
				switch {
				case v == breaker.Failure:
					want = kapsel.CircuitOpened
				case row >= p.Successes:
					want = kapsel.CircuitClosed
				}
				if c.State != want {
					t.Fatalf("%v after %d successes of %d leads to %s, want %s", v, row, p.Successes, c.State, want)
				}
			},
			"a late answer": func(t *rapid.T) {
				if !out.IsZero() {
					t.Skip("a probe is out")
				}
				if next := breaker.Answer(c, breaker.Success, now, p); next != c {
					t.Fatalf("an answer to no probe changed the circuit: %+v", next)
				}
			},
			"reset": func(t *rapid.T) {
				c, out = breaker.Reset(c, now), kapsel.NodeID{}
				if !breaker.Allows(c, now) {
					t.Fatal("does not allow after a reset")
				}
			},
			"": func(t *rapid.T) {
				if c.Probe != out {
					t.Fatalf("probe is %v, want %v", c.Probe, out)
				}
				if !out.IsZero() && c.State != kapsel.CircuitHalfOpen {
					t.Fatalf("a probe is out while %s", c.State)
				}
				if opened := c.State == kapsel.CircuitOpened; opened == c.RetryAt.IsZero() {
					t.Fatalf("retry at %v while %s", c.RetryAt, c.State)
				}
				if breaker.Allows(c, now) && (c.State == kapsel.CircuitOpened || c.State == kapsel.CircuitHalfOpen || now.Before(c.HoldUntil)) {
					t.Fatalf("allows while %+v", c)
				}
				if c.Version != 3 || c.Revision != 4 {
					t.Fatal("touched what the store counts")
				}
			},
		})
	})
}

func ExampleJudge() {
	fmt.Println(breaker.Judge(kapsel.HTTPServerError, 503), breaker.Judge(kapsel.HTTPClientError, 429))
	// Output: failure neutral
}
