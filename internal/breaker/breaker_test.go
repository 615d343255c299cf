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
		{"a success of the last minute makes a row twice as long", "sffffffffff", time.Second, 11},
		{"one that is older does not", "sfffff", 13 * time.Second, 6},
		{"one that has just left the minute", "sffffffffff", 10 * time.Second, 7},
		{"one before the window does not", strings.Repeat("s", 20) + strings.Repeat("f", 20), time.Second / 100, 30},
		{"four fifths of the last twenty", strings.Repeat("ffffs", 3), time.Second, 12},
		{"of a window that has filled", strings.Repeat("s", 10) + strings.Repeat("ffffs", 5), time.Second, 29},
		{"just under four fifths", strings.Repeat("ffs", 20), time.Second, 0},
		{"half", strings.Repeat("fs", 100), time.Second / 2, 0},
		{"nine failures are too few for the ratio", "ffffsfffffs", time.Second, 0},
		{"what is older than a minute is forgotten", strings.Repeat("ffffs", 20), 7 * time.Second, 0},
		{"neutral ones take no place", strings.Repeat("nfnfnfnfns", 5), 500 * time.Millisecond, 24},
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
	record(&w, "ffffsffffsf", time.Second, policy) // one failure short of the ratio
	w.Reset()
	if got := record(&w, "ffff", time.Second, policy); got != 0 {
		t.Errorf("tripped after %d failures that followed a reset", got)
	}
}

func TestWindowFollowsAChangedPolicy(t *testing.T) {
	var w breaker.Window
	narrow := policy
	narrow.Window, narrow.Minimum = 4, 2
	narrow.Ratio = 0.5
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
			want := v == breaker.Failure && (row >= p.Failures && failed == counted || row >= 2*p.Failures ||
				failed >= p.Minimum && float64(failed)/float64(counted) >= p.Ratio)
			if got := w.Record(v, now, p); got != want {
				t.Fatalf("exchange %d: tripped = %v, want %v (row %d, %d of %d failed, %+v)", i, got, want, row, failed, counted, p)
			}
		}
	})
}

// trial feeds a Trial probes, written as record does, until it finds something. It returns what
// it found, after how many, and how many places there were after each.
func trial(probes string, p kapsel.CircuitPolicy) (f breaker.Finding, after int, places []int) {
	verdicts := map[rune]breaker.Verdict{'f': breaker.Failure, 's': breaker.Success, 'n': breaker.Neutral}
	var t breaker.Trial
	for i, x := range probes {
		if f = t.Record(verdicts[x], p); f != breaker.Undecided {
			return f, i + 1, places
		}
		places = append(places, t.Places())
	}
	return breaker.Undecided, 0, places
}

func TestTrial(t *testing.T) {
	patient := policy
	patient.Successes = 50
	for _, tt := range []struct {
		name   string
		probes string
		policy kapsel.CircuitPolicy
		want   breaker.Finding
		after  int
		places []int
	}{
		{"the first fails", "f", policy, breaker.Failing, 1, nil},
		{"the first that counts fails", "nnf", policy, breaker.Failing, 3, []int{1, 1}},
		{"three successes", "sss", policy, breaker.Recovered, 3, []int{2, 4}},
		{"not in a row", "sfnsnffs", policy, breaker.Recovered, 8, []int{2, 1, 1, 2, 2, 1, 1}},
		{"failures in a row", "sfffff", policy, breaker.Failing, 6, []int{2, 1, 1, 1, 1}},
		{"neutral ones do not break the row", "sffnfnff", policy, breaker.Failing, 8, []int{2, 1, 1, 1, 1, 1, 1}},
		{"the ratio", "sffffsffff", policy, breaker.Failing, 10, []int{2, 1, 1, 1, 1, 2, 1, 1, 1}},
		{"just under the ratio", "sffffsfffs", policy, breaker.Recovered, 10, []int{2, 1, 1, 1, 1, 2, 1, 1, 1}},
		{"doubling and halving", "sssffsssf", patient, breaker.Undecided, 0, []int{2, 4, 8, 4, 2, 4, 8, 16, 8}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, after, places := trial(tt.probes, tt.policy)
			if got != tt.want || after != tt.after {
				t.Errorf("found %d after %d probes, want %d after %d", got, after, tt.want, tt.after)
			}
			if diff := cmp.Diff(tt.places, places); diff != "" {
				t.Errorf("places (-want +got)\n%s", diff)
			}
		})
	}
	var zero breaker.Trial
	if zero.Places() != 1 {
		t.Errorf("a new trial has %d places", zero.Places())
	}
}

// With successes that the ratio forbids to close on, more of them do.
func TestTrialGoesOnWhileTheRatioIsAgainstIt(t *testing.T) {
	p := policy
	p.Ratio, p.Minimum, p.Window = 0.5, 100, 100
	if got, after, _ := trial("sffsffss"+"sss", p); got != breaker.Recovered || after != 9 {
		t.Errorf("found %d after %d probes, want it to close at the 9th, with 5 of 9", got, after)
	}
}

func TestTrialPlacesAreBounded(t *testing.T) {
	p := policy
	p.Successes = 100
	var tr breaker.Trial
	for range 99 {
		if tr.Record(breaker.Success, p) != breaker.Undecided {
			t.Fatal("it closed early")
		}
	}
	if n := tr.Places(); n < 1000 {
		t.Errorf("%d places after 99 successes", n)
	}
}

func TestCircuit(t *testing.T) {
	id := kapsel.NewEndpointID(start)
	later := start.Add(policy.OpenFor)
	closed := kapsel.Circuit{EndpointID: id, Destination: 3, State: kapsel.CircuitClosed, ChangedAt: start, Version: 7, Revision: 9}
	open := kapsel.Circuit{EndpointID: id, Destination: 3, State: kapsel.CircuitOpened, ChangedAt: start, RetryAt: later, Version: 7, Revision: 9}
	half := kapsel.Circuit{EndpointID: id, Destination: 3, State: kapsel.CircuitHalfOpen, ChangedAt: start, Probe: nodeA, Version: 7, Revision: 9}
	with := func(c kapsel.Circuit, change func(*kapsel.Circuit)) kapsel.Circuit { change(&c); return c }

	conclude := func(node kapsel.NodeID, f breaker.Finding) func(kapsel.Circuit, time.Time) kapsel.Circuit {
		return func(c kapsel.Circuit, now time.Time) kapsel.Circuit { return breaker.Conclude(c, node, f, now, policy) }
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
		{"never used trips", kapsel.Circuit{EndpointID: id, Destination: 3}, trip, start, with(open, func(c *kapsel.Circuit) { c.Version, c.Revision = 0, 0 })},
		{"open does not trip again", open, trip, later, open},
		{"half-open does not trip", half, trip, later, half},
		{"what closed after the failure does not trip", closed, trip, start.Add(-1), closed},

		{"closed needs no probe", closed, probe, later, closed},
		{"open waits", open, probe, later.Add(-1), open},
		{"open probes in time", open, probe, later, with(half, func(c *kapsel.Circuit) { c.ChangedAt, c.Probe = later, nodeB })},
		{"held open waits", with(open, func(c *kapsel.Circuit) { c.HoldUntil = later.Add(1) }), probe, later,
			with(open, func(c *kapsel.Circuit) { c.HoldUntil = later.Add(1) })},
		{"half-open is one node's", half, probe, later, half},
		{"half-open that no node has", with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} }), probe, later,
			with(half, func(c *kapsel.Circuit) { c.Probe = nodeB })},

		{"recovered closes", half, conclude(nodeA, breaker.Recovered), later, with(closed, func(c *kapsel.Circuit) { c.ChangedAt = later })},
		{"failing opens again", half, conclude(nodeA, breaker.Failing), later, with(open, func(c *kapsel.Circuit) {
			c.ChangedAt, c.RetryAt = later, later.Add(policy.OpenFor)
		})},
		{"undecided stays", half, conclude(nodeA, breaker.Undecided), later, half},
		{"another node has nothing to say", half, conclude(nodeB, breaker.Failing), later, half},
		{"nor has one that lost the right", with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} }), conclude(nodeA, breaker.Recovered), later,
			with(half, func(c *kapsel.Circuit) { c.Probe = kapsel.NodeID{} })},
		{"open concludes nothing", open, conclude(nodeA, breaker.Recovered), later, open},
		{"closed concludes nothing", closed, conclude(nodeA, breaker.Failing), later, closed},

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

// Whatever happens in whatever order: one node at most has the right to probe, and nobody else
// moves a half-open circuit; it opens for exactly its time; and what the store counts is never
// touched.
func TestCircuitInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policy
		p.OpenFor = time.Duration(rapid.IntRange(1, 60).Draw(t, "open for")) * time.Second
		c := kapsel.Circuit{Destination: 2, Version: 3, Revision: 4}
		now := start
		var has kapsel.NodeID // the model: who has the right to probe
		node := rapid.SampledFrom([]kapsel.NodeID{nodeA, nodeB})
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 90_000).Draw(t, "ms")) * time.Millisecond)
			},
			"trip": func(*rapid.T) { c = breaker.Trip(c, now, p) },
			"a late trip": func(*rapid.T) {
				if before := c; !before.ChangedAt.IsZero() {
					if c = breaker.Trip(c, before.ChangedAt.Add(-1), p); c != before {
						t.Fatalf("a failure before the last change opened it: %+v", c)
					}
				}
			},
			"hold": func(t *rapid.T) {
				c = breaker.Hold(c, now.Add(time.Duration(rapid.IntRange(-10, 100).Draw(t, "s"))*time.Second), now)
			},
			"probe": func(t *rapid.T) {
				node := node.Draw(t, "node")
				before := c
				next, ok := breaker.Probe(c, now, node)
				if !ok {
					if next != before {
						t.Fatalf("refused, but changed: %+v", next)
					}
					return
				}
				if !has.IsZero() {
					t.Fatal("two nodes probe")
				}
				if before.State == kapsel.CircuitOpened && now.Before(before.ChangedAt.Add(p.OpenFor)) {
					t.Fatal("probed too early")
				}
				c, has = next, node
			},
			"the node dies": func(*rapid.T) { c.Probe, has = kapsel.NodeID{}, kapsel.NodeID{} }, // as TakeOver does
			"conclude": func(t *rapid.T) {
				node := node.Draw(t, "node")
				f := rapid.SampledFrom([]breaker.Finding{breaker.Undecided, breaker.Recovered, breaker.Failing}).Draw(t, "finding")
				before := c
				c = breaker.Conclude(c, node, f, now, p)
				if has.IsZero() || node != has || f == breaker.Undecided {
					if c != before {
						t.Fatalf("%v, who has no right or no finding, changed the circuit: %+v", node, c)
					}
					return
				}
				has = kapsel.NodeID{}
				want := map[breaker.Finding]kapsel.CircuitState{breaker.Recovered: kapsel.CircuitClosed, breaker.Failing: kapsel.CircuitOpened}
				if c.State != want[f] {
					t.Fatalf("finding %d leads to %s", f, c.State)
				}
			},
			"reset": func(t *rapid.T) {
				c, has = breaker.Reset(c, now), kapsel.NodeID{}
				if !breaker.Allows(c, now) {
					t.Fatal("does not allow after a reset")
				}
			},
			"": func(t *rapid.T) {
				if c.Probe != has {
					t.Fatalf("%v probes, want %v", c.Probe, has)
				}
				if !has.IsZero() && c.State != kapsel.CircuitHalfOpen {
					t.Fatalf("a node probes while %s", c.State)
				}
				if opened := c.State == kapsel.CircuitOpened; opened == c.RetryAt.IsZero() {
					t.Fatalf("retry at %v while %s", c.RetryAt, c.State)
				}
				if breaker.Allows(c, now) && (c.State == kapsel.CircuitOpened || c.State == kapsel.CircuitHalfOpen || now.Before(c.HoldUntil)) {
					t.Fatalf("allows while %+v", c)
				}
				if c.Destination != 2 || c.Version != 3 || c.Revision != 4 {
					t.Fatal("touched what is not the breaker's")
				}
			},
		})
	})
}

func ExampleJudge() {
	fmt.Println(breaker.Judge(kapsel.HTTPServerError, 503), breaker.Judge(kapsel.HTTPClientError, 429))
	// Output: failure neutral
}
