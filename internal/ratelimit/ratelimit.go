// Package ratelimit bounds how often things happen: requests per tenant with a Limiter,
// exchanges of one endpoint with a Bucket.
//
// Both are token buckets: they begin full with burst tokens, each thing takes one, and
// perSecond of them come back. Times are parameters; one that lies before the latest seen
// counts as that one, so that clocks read out of order give nobody extra tokens. A burst
// below 1 counts as 1.
//
// Part and Places divide a limit between nodes that share it.
package ratelimit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bucket is the token bucket of one thing. The zero Bucket limits nothing. It is not safe
// for concurrent use, and must not be copied once Set.
type Bucket struct {
	lim   *rate.Limiter // nil: no limit
	last  time.Time     // the latest time seen
	asked int           // of a Limiter: tokens asked for since it was last told
}

// Set changes the bucket's limits. The tokens in it stay, as far as they fit.
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

// Take takes a token and reports whether there was one.
func (b *Bucket) Take(now time.Time) bool { return b.TakeN(now, 1) }

// TakeN takes n tokens and reports whether there were so many. More than the burst are taken
// where the bucket is full, which then owes the rest: Take and TakeN take nothing until it has
// come back.
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

// Next is when there is a token to take: now if there is one already.
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

// until is how long after now the bucket holds a number of tokens, rounded up.
func (b *Bucket) until(tokens float64, now time.Time) time.Duration {
	missing := tokens - b.lim.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	ns := math.Ceil(missing / float64(b.lim.Limit()) * float64(time.Second))
	if !(ns < math.MaxInt64) { // also when nothing ever comes back
		return rate.InfDuration
	}
	return time.Duration(ns)
}

func (b *Bucket) full(now time.Time) bool {
	return b.lim.TokensAt(b.seen(now)) >= float64(b.lim.Burst())
}

// sweepEvery is how often a Limiter looks for buckets to drop.
const sweepEvery = time.Minute

// Limiter holds a bucket for each key. The zero Limiter is ready. It is safe for concurrent
// use, and remembers only keys whose bucket is not full again.
type Limiter[K comparable] struct {
	mu      sync.Mutex
	buckets map[K]*Bucket
	swept   time.Time
}

// Allow takes a token from the key's bucket, under limits that may differ from call to call,
// and reports whether there was one. remaining is how many whole tokens are left, reset how
// long until there is one more of them (0: the bucket is full): after a refusal, when to try
// again.
func (l *Limiter[K]) Allow(key K, perSecond float64, burst int, now time.Time) (ok bool, remaining int, reset time.Duration) {
	return l.AllowN(key, perSecond, burst, now, 1)
}

// AllowN is Allow for n things at once, which Bucket.TakeN takes.
func (l *Limiter[K]) AllowN(key K, perSecond float64, burst int, now time.Time, n int) (ok bool, remaining int, reset time.Duration) {
	return l.ask(key, perSecond, burst, now, func(b *Bucket, now time.Time) bool { b.asked += n; return b.TakeN(now, n) })
}

// Asked tells of each key how many tokens were asked for since the last call, granted or
// not, and at what rate they come back. Buckets that were dropped meanwhile are left out:
// little was asked of them.
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

// Asked is how much was asked of a bucket, and its rate.
type Asked struct {
	Tokens    int
	PerSecond float64
}

// Look tells what Allow would, and takes nothing.
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

// sweep drops full buckets: a new one is no different.
func (l *Limiter[K]) sweep(now time.Time) {
	l.swept = now
	for key, b := range l.buckets {
		if b.full(now) {
			delete(l.buckets, key)
		}
	}
}
