// Package ratelimit bounds rates: of requests per tenant with a Limiter, of exchanges with one
// endpoint with a Bucket.
//
// Both are token buckets: a bucket starts with burst tokens, each request or exchange takes one,
// and perSecond tokens per second come back, up to burst. Callers pass the time. A time before the
// latest one that a bucket has seen counts as the latest, so clocks read out of order yield no
// extra tokens. A burst below 1 counts as 1.
//
// Part and Places divide a limit among the nodes that share it.
package ratelimit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bucket is a single token bucket. The zero Bucket limits nothing. It is not safe for concurrent
// use, and must not be copied after Set.
type Bucket struct {
	lim   *rate.Limiter // nil: no limit
	last  time.Time     // latest time passed in
	asked int           // used by Limiter: tokens asked for since the last call of Asked
}

// Set changes the bucket's limits. It keeps the tokens in the bucket, up to the new burst.
func (b *Bucket) Set(perSecond float64, burst int, now time.Time) {
	now, burst = b.seen(now), max(burst, 1)
	if b.lim == nil {
		b.lim = rate.NewLimiter(rate.Limit(perSecond), burst)
		return
	}
	if b.lim.Limit() != rate.Limit(perSecond) {
		b.lim.SetLimitAt(now, rate.Limit(perSecond))
	}
	if b.lim.Burst() != burst {
		b.lim.SetBurstAt(now, burst)
	}
}

// Take takes one token and reports whether there was one.
func (b *Bucket) Take(now time.Time) bool { return b.TakeN(now, 1) }

// TakeN takes n tokens and reports whether it did. If n exceeds the burst, TakeN succeeds only if
// the bucket is full, and leaves it in debt: later calls get nothing until the debt is repaid.
func (b *Bucket) TakeN(now time.Time, n int) bool {
	if b.lim == nil || n <= 0 {
		return true
	}
	now = b.seen(now)
	burst := b.lim.Burst()
	if !b.lim.AllowN(now, min(n, burst)) {
		return false
	}
	for n -= burst; n > 0; n -= burst {
		b.lim.ReserveN(now, min(n, burst))
	}
	return true
}

// Next returns when a token will be available; now if there is one.
func (b *Bucket) Next(now time.Time) time.Time {
	if b.lim == nil {
		return now
	}
	at := b.seen(now)
	if b.lim.TokensAt(at) >= 1 {
		return now
	}
	return at.Add(b.until(1, at))
}

func (b *Bucket) seen(now time.Time) time.Time {
	if now.After(b.last) {
		b.last = now
	}
	return b.last
}

// until returns how long after now the bucket will hold a number of tokens, rounded up.
func (b *Bucket) until(tokens float64, now time.Time) time.Duration {
	missing := tokens - b.lim.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	ns := math.Ceil(missing / float64(b.lim.Limit()) * float64(time.Second))
	if !(ns < math.MaxInt64) { // also true if the rate is 0
		return rate.InfDuration
	}
	return time.Duration(ns)
}

func (b *Bucket) full(now time.Time) bool {
	return b.lim.TokensAt(b.seen(now)) >= float64(b.lim.Burst())
}

// sweepEvery is how often a Limiter drops full buckets.
const sweepEvery = time.Minute

// Limiter holds one bucket per key. The zero Limiter is ready to use. It is safe for concurrent
// use. It drops a key when its bucket is full again.
type Limiter[K comparable] struct {
	mu      sync.Mutex
	buckets map[K]*Bucket
	swept   time.Time
}

// Allow takes a token from the key's bucket and reports whether there was one. The limits may
// differ from call to call. remaining is how many whole tokens are left. reset is how long until
// there is one more (0: the bucket is full), so after a refusal it says when to try again.
func (l *Limiter[K]) Allow(key K, perSecond float64, burst int, now time.Time) (ok bool, remaining int, reset time.Duration) {
	return l.AllowN(key, perSecond, burst, now, 1)
}

// AllowN is Allow for n tokens at once, taken as Bucket.TakeN does.
func (l *Limiter[K]) AllowN(key K, perSecond float64, burst int, now time.Time, n int) (ok bool, remaining int, reset time.Duration) {
	return l.ask(key, perSecond, burst, now, func(b *Bucket, now time.Time) bool { b.asked += n; return b.TakeN(now, n) })
}

// Asked returns, by key, how many tokens were asked for since the last call of Asked, granted or
// not, and the bucket's rate. It omits buckets that were dropped in the meantime; they had few
// requests.
func (l *Limiter[K]) Asked() map[K]Asked {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[K]Asked)
	for key, b := range l.buckets {
		if b.asked > 0 {
			all[key] = Asked{b.asked, float64(b.lim.Limit())}
			b.asked = 0
		}
	}
	return all
}

// Asked is the number of tokens asked of a bucket, and the bucket's rate.
type Asked struct {
	Tokens    int
	PerSecond float64
}

// Look returns the remaining and reset of the key's bucket, and takes nothing.
func (l *Limiter[K]) Look(key K, perSecond float64, burst int, now time.Time) (remaining int, reset time.Duration) {
	_, remaining, reset = l.ask(key, perSecond, burst, now, func(*Bucket, time.Time) bool { return true })
	return remaining, reset
}

func (l *Limiter[K]) ask(key K, perSecond float64, burst int, now time.Time, take func(*Bucket, time.Time) bool) (ok bool, remaining int, reset time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) >= sweepEvery {
		l.sweep(now)
	}
	b := l.buckets[key]
	if b == nil {
		b = new(Bucket)
		if l.buckets == nil {
			l.buckets = make(map[K]*Bucket)
		}
		l.buckets[key] = b
	}
	b.Set(perSecond, burst, now)
	ok = take(b, now)
	at := b.seen(now)
	remaining = int(max(b.lim.TokensAt(at), 0))
	if remaining < b.lim.Burst() {
		reset = b.until(float64(remaining+1), at)
	}
	return ok, remaining, reset
}

// sweep drops full buckets, which are the same as new ones.
func (l *Limiter[K]) sweep(now time.Time) {
	l.swept = now
	for key, b := range l.buckets {
		if b.full(now) {
			delete(l.buckets, key)
		}
	}
}
