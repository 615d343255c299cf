package kapsel_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

// middle is the random number that leaves a delay as it is.
const middle = 0.5

func TestRetryDefaults(t *testing.T) {
	p := kapsel.DefaultRetry()
	var total time.Duration
	for n := 1; n < p.MaxAttempts; n++ {
		d := p.Delay(n, middle)
		if want := time.Second << (n - 1); n <= 10 && d != want {
			t.Errorf("delay after attempt %d is %v, want %v", n, d, want)
		}
		if d > 4*time.Hour {
			t.Errorf("delay after attempt %d is %v", n, d)
		}
		total += d
	}
	if total < 23*time.Hour || total > 25*time.Hour || p.MaxAttempts != 20 {
		t.Errorf("%d attempts take %v, want 20 in about 24h", p.MaxAttempts, total)
	}
}

func TestRetryDelay(t *testing.T) {
	const s = time.Second
	schedule := []time.Duration{5 * s, 60 * s, 20 * s}
	for _, tt := range []struct {
		name   string
		policy kapsel.RetryPolicy
		want   []time.Duration // after attempts 1, 2, …
	}{
		{"exponential", kapsel.RetryPolicy{Strategy: kapsel.RetryExponential, Base: 3 * s, Max: 30 * s}, []time.Duration{3 * s, 6 * s, 12 * s, 24 * s, 30 * s, 30 * s}},
		{"exponential, max a power", kapsel.RetryPolicy{Strategy: kapsel.RetryExponential, Base: s, Max: 4 * s}, []time.Duration{s, 2 * s, 4 * s, 4 * s}},
		{"linear", kapsel.RetryPolicy{Strategy: kapsel.RetryLinear, Base: 3 * s, Max: 10 * s}, []time.Duration{3 * s, 6 * s, 9 * s, 10 * s, 10 * s}},
		{"fixed", kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, Base: 3 * s, Max: 10 * s}, []time.Duration{3 * s, 3 * s, 3 * s}},
		{"schedule", kapsel.RetryPolicy{Strategy: kapsel.RetrySchedule, Base: s, Max: time.Hour, Schedule: schedule}, []time.Duration{5 * s, 60 * s, 20 * s, 20 * s, 20 * s}},
		{"schedule, capped", kapsel.RetryPolicy{Strategy: kapsel.RetrySchedule, Base: s, Max: 30 * s, Schedule: schedule}, []time.Duration{5 * s, 30 * s, 20 * s}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []time.Duration
			for n := range tt.want {
				got = append(got, tt.policy.Delay(n+1, middle))
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// No policy within its limits overflows: every delay is within [0.75, 1.25) of one between
// the shortest and the longest that the policy names, and grows with random.
func TestRetryDelayBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := kapsel.RetryPolicy{
			Strategy: rapid.SampledFrom([]string{kapsel.RetryExponential, kapsel.RetryLinear, kapsel.RetryFixed, kapsel.RetrySchedule}).Draw(t, "strategy"),
			Base:     time.Duration(rapid.Int64Range(int64(10*time.Millisecond), int64(time.Hour)).Draw(t, "base")),
		}
		p.Max = time.Duration(rapid.Int64Range(int64(p.Base), int64(24*time.Hour)).Draw(t, "max"))
		least := p.Base
		if p.Strategy == kapsel.RetrySchedule {
			for _, ns := range rapid.SliceOfN(rapid.Int64Range(int64(10*time.Millisecond), int64(24*time.Hour)), 1, 10).Draw(t, "schedule") {
				p.Schedule = append(p.Schedule, time.Duration(ns))
				least = min(least, time.Duration(ns))
			}
		}
		n := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 1<<40)).Draw(t, "n")
		random := rapid.Float64Range(0, 1-1.0/(1<<53)).Draw(t, "random")

		plain, got := p.Delay(n, middle), p.Delay(n, random)
		if plain < least-1 || plain > p.Max {
			t.Fatalf("delay after attempt %d is %v, outside of %v to %v", n, plain, least, p.Max)
		}
		if low, high := plain-plain/4-1, plain+(plain+3)/4+1; got < low || got > high || got >= p.Max+p.Max/4+1 {
			t.Fatalf("delay after attempt %d is %v, outside of [0.75, 1.25) of %v", n, got, plain)
		}
		if more := p.Delay(n, (random+1)/2); more < got {
			t.Fatalf("delay %v of random %v is shorter than %v of less", more, (random+1)/2, got)
		}
		if p.Strategy != kapsel.RetrySchedule && p.Delay(n+1, middle) < plain {
			t.Fatalf("delay after attempt %d is shorter than the one before", n+1)
		}
	})
}

func TestRetryJitterIsHalfOpen(t *testing.T) {
	p := kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, Base: 4 * time.Second, Max: time.Hour}
	if got := p.Delay(1, 0); got != 3*time.Second {
		t.Errorf("shortest is %v, want 3s", got)
	}
	if got := p.Delay(1, 1-1.0/(1<<53)); got >= 5*time.Second || got < 5*time.Second-time.Microsecond {
		t.Errorf("longest is %v, want just under 5s", got)
	}
}
