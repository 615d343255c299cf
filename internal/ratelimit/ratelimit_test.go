package ratelimit

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestBucket(t *testing.T) {
	var b Bucket
	for range 1000 {
		if !b.Take(start) {
			t.Fatal("the zero Bucket refuses")
		}
	}
	if next := b.Next(start); !next.Equal(start) {
		t.Errorf("the zero Bucket's next token is %v away", next.Sub(start))
	}

	b.Set(2, 3, start)
	for i, want := range []bool{true, true, true, false} {
		if got := b.Take(start); got != want {
			t.Errorf("take %d of a burst of 3 = %v", i+1, got)
		}
	}
	next := b.Next(start)
	if got := next.Sub(start); got != 500*time.Millisecond {
		t.Errorf("next token at 2 a second is %v away, want 500ms", got)
	}
	if b.Take(next.Add(-time.Millisecond)) {
		t.Error("a token came early")
	}
	if !b.Take(next) {
		t.Error("no token when it was promised")
	}
}

// Several tokens are taken together or not at all, and more than the burst from a full bucket,
// which then owes them.
func TestBucketTakeN(t *testing.T) {
	var b Bucket
	if !b.TakeN(start, 1000) {
		t.Error("the zero Bucket refuses")
	}
	b.Set(2, 10, start)
	for i, tt := range []struct {
		n    int
		want bool
	}{{4, true}, {7, false}, {25, false}, {6, true}, {0, true}, {1, false}} {
		if got := b.TakeN(start, tt.n); got != tt.want {
			t.Errorf("%d: taking %d = %t", i, tt.n, got)
		}
	}
	full := start.Add(5 * time.Second)
	if !b.TakeN(full, 25) {
		t.Fatal("a full bucket of 10 refuses 25")
	}
	if b.TakeN(full, 1) || b.TakeN(full, 25) {
		t.Error("a bucket gives what it owes")
	}
	if got := b.Next(full).Sub(full); got != 8*time.Second {
		t.Errorf("the next token behind a debt of 15 at 2 a second is %v away, want 8s", got)
	}
	if !b.Take(full.Add(8 * time.Second)) {
		t.Error("no token when it was promised")
	}
}

func TestBucketSet(t *testing.T) {
	var b Bucket
	b.Set(1, 10, start)
	for range 4 {
		b.Take(start)
	}
	b.Set(1, 20, start) // 6 tokens stay 6
	for range 6 {
		if !b.Take(start) {
			t.Fatal("a larger burst lost tokens")
		}
	}
	if b.Take(start) {
		t.Error("a larger burst gave tokens at once")
	}
	b.Set(0.5, 20, start)
	if got := b.Next(start).Sub(start); got != 2*time.Second {
		t.Errorf("next token at 0.5 a second is %v away, want 2s", got)
	}
	later := start.Add(time.Hour) // full with 20
	b.Set(0.5, 3, later)
	for i, want := range []bool{true, true, true, false} {
		if got := b.Take(later); got != want {
			t.Errorf("take %d of a burst cut to 3 = %v", i+1, got)
		}
	}
	b.Set(0, 0, later)
	if got := b.Next(later).Sub(later); got < 100*365*24*time.Hour {
		t.Errorf("next token at 0 a second is %v away", got)
	}
}

// Whatever is asked when: no stretch of time gives more than its tokens and a burst, nobody
// who comes when Next says is refused, and nobody gets in a millisecond before.
func TestBucketProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.Float64Range(0.01, 500).Draw(t, "per second")
		burst := rapid.IntRange(1, 50).Draw(t, "burst")
		var b Bucket
		b.Set(perSecond, burst, start)
		now, taken := start, 0
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			if rapid.Bool().Draw(t, "wait") {
				next := b.Next(now)
				if early := next.Add(-time.Millisecond); early.After(now) && b.Take(early) {
					t.Fatalf("a token came %v before Next", time.Millisecond)
				}
				if next.After(now) {
					now = next
				}
				if !b.Take(now) {
					t.Fatal("refused at the time of Next")
				}
				taken++
			} else {
				now = now.Add(time.Duration(rapid.Int64Range(-1e9, 3e9).Draw(t, "ns")))
				if b.Take(now) {
					taken++
				}
			}
			allowed := float64(burst) + perSecond*b.last.Sub(start).Seconds()
			if float64(taken) > allowed+1e-3 {
				t.Fatalf("%d taken, %.3f allowed", taken, allowed)
			}
		}
	})
}

func TestLimiter(t *testing.T) {
	var l Limiter[string]
	for _, tt := range []struct {
		name      string
		key       string
		perSecond float64
		burst     int
		at        time.Duration
		ok        bool
		remaining int
		reset     time.Duration
	}{
		{"first of a burst", "a", 2, 2, 0, true, 1, 500 * time.Millisecond},
		{"last of a burst", "a", 2, 2, 0, true, 0, 500 * time.Millisecond},
		{"refused", "a", 2, 2, 100 * time.Millisecond, false, 0, 400 * time.Millisecond},
		{"another key", "b", 2, 2, 100 * time.Millisecond, true, 1, 500 * time.Millisecond},
		{"a token came back", "a", 2, 2, 500 * time.Millisecond, true, 0, 500 * time.Millisecond},
		{"a higher rate", "a", 10, 2, 600 * time.Millisecond, false, 0, 80 * time.Millisecond},
		{"a larger burst gives nothing at once", "a", 10, 5, 10 * time.Second, true, 1, 100 * time.Millisecond},
		{"but fills", "a", 10, 5, 20 * time.Second, true, 4, 100 * time.Millisecond},
		{"a smaller burst cuts", "a", 10, 2, 20 * time.Second, true, 1, 100 * time.Millisecond},
		{"a burst of nothing is one", "c", 1, 0, 0, true, 0, time.Second},
		{"a clock that went back", "c", 1, 0, -time.Hour, false, 0, time.Second},
		{"nothing comes back", "d", 0, 1, 20 * time.Second, true, 0, math.MaxInt64},
	} {
		ok, remaining, reset := l.Allow(tt.key, tt.perSecond, tt.burst, start.Add(tt.at))
		if ok != tt.ok || remaining != tt.remaining || (reset-tt.reset).Abs() > time.Microsecond {
			t.Errorf("%s: Allow = %v, %d, %v; want %v, %d, %v", tt.name, ok, remaining, reset, tt.ok, tt.remaining, tt.reset)
		}
	}
}

func TestLimiterDropsFullBuckets(t *testing.T) {
	var l Limiter[int]
	for key := range 1000 {
		l.Allow(key, 1, 2, start)
	}
	l.Allow(-1, 0.001, 2, start) // not full for a long while
	l.Allow(-2, 1, 1, start.Add(2*sweepEvery))
	if len(l.buckets) != 2 {
		t.Errorf("%d buckets are kept, want 2", len(l.buckets))
	}
	if _, remaining, _ := l.Allow(-1, 0.001, 2, start.Add(2*sweepEvery)); remaining != 0 {
		t.Errorf("a bucket that was not full was dropped: %d remain", remaining)
	}
}

func TestLimiterIsSafeForConcurrentUse(t *testing.T) {
	var l Limiter[int]
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				if ok, _, _ := l.Allow(i%5, 1, 7, start); ok {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := allowed.Load(); got != 5*7 {
		t.Errorf("%d allowed of five bursts of 7", got)
	}
}
