package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery/gate"
)

// now returns the time by both clocks.
func (e *Engine) now() gate.Time { return gate.Time{Store: e.Clock.Now(), Mono: time.Now()} }

// gateOf returns the gate of an endpoint that has work. Callers must hold mu: settingsChanged then
// tells the gate of all changes that the cache learns from here on.
func (e *Engine) gateOf(ep *kapsel.Endpoint, at gate.Time) *gate.Gate {
	return e.gates.Use(ep, e.Settings.Latest, e.Settings.Circuit, at)
}

// poke wakes the claim loop.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// relist makes the claim loop list the backlog at once. Callers must not hold mu.
func (e *Engine) relist() {
	e.mu.Lock()
	e.listed = time.Time{}
	e.mu.Unlock()
	e.poke()
}

// background runs f in a goroutine that a stop waits for.
func (e *Engine) background(f func()) {
	e.work.Add(1)
	go func() { defer e.work.Done(); f() }()
}

// insist repeats a write while the store is unavailable, until a stop can wait no longer. It
// returns any other error at once, such as a Conflict. If insist gives up, the node's lease runs
// out and another node finds what was held.
func (e *Engine) insist(write func(ctx context.Context) error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		ctx, cancel := context.WithTimeout(e.last, 30*time.Second)
		err := write(ctx)
		cancel()
		if err == nil || !errors.Is(err, &kapsel.Error{Code: kapsel.DatabaseUnavailable}) {
			return err
		}
		select {
		case <-e.last.Done():
			return err
		case <-time.After(wait):
		}
	}
}
