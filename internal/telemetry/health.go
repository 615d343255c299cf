package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
)

const (
	// checkLimit is how long a check may take before it counts as failed.
	checkLimit = time.Second
	// checkFresh is how long a check's result is used again.
	checkFresh = time.Second
)

// Health answers whether the process lives, has started and can take work. Its three
// handlers need no key, so reasons say nothing that a stranger may not read: the detail of
// a kapsel.Error, of any other error only that the check failed. The log has all of it.
type Health struct {
	log *slog.Logger

	mu       sync.Mutex
	checks   []*check
	started  bool
	stopping bool
}

// NewHealth makes a Health that is neither started nor stopping. Checks that begin or cease
// to fail are logged.
func NewHealth(log *slog.Logger) *Health { return &Health{log: log} }

// Add makes readiness depend on a check. It runs when readiness is asked for, at most once a
// second and never twice at a time, and fails when it takes longer than a second. Its context
// ends then; a check that goes on anyway is waited for before it runs again.
func (h *Health) Add(name string, run func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, &check{name: name, run: run, log: h.log})
}

// SetStarted says that everything needed to take work has started.
func (h *Health) SetStarted() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started = true
}

// SetStopping makes readiness fail from now on, so that load balancers look elsewhere while
// the process still takes work.
func (h *Health) SetStopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Live answers 200: a process that answers lives. It depends on nothing else, since starting
// the process anew mends neither the database nor a destination.
func (h *Health) Live(w http.ResponseWriter, _ *http.Request) { answer(w, nil) }

// Startup answers 200 once SetStarted was called, before that 503.
func (h *Health) Startup(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.started {
		answer(w, map[string]string{"startup": "starting"})
		return
	}
	answer(w, nil)
}

// Ready answers 200 when the process has started, is not stopping and every check passes,
// else 503 with the reasons.
func (h *Health) Ready(w http.ResponseWriter, r *http.Request) {
	answer(w, h.Reasons(r.Context()))
}

// Reasons are why the process is not ready, by the check's name; empty when it is ready.
func (h *Health) Reasons(ctx context.Context) map[string]string {
	h.mu.Lock()
	started, stopping, checks := h.started, h.stopping, h.checks
	h.mu.Unlock()
	switch {
	case stopping:
		return map[string]string{"shutdown": "stopping"}
	case !started:
		return map[string]string{"startup": "starting"}
	}

	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.result(ctx) })
	}
	wg.Wait()
	reasons := make(map[string]string)
	for i, c := range checks {
		if errs[i] != nil {
			reasons[c.name] = public(errs[i])
		}
	}
	return reasons
}

// errSlow is a check's failure to answer in time.
var errSlow = fmt.Errorf("no answer within %v", checkLimit)

// public is what strangers may read of an error.
func public(err error) string {
	if err == errSlow {
		return err.Error()
	}
	if e, ok := errors.AsType[*kapsel.Error](err); ok {
		return e.Detail
	}
	return "failed; the log says why"
}

// answer writes 200, or 503 with reasons.
func answer(w http.ResponseWriter, reasons map[string]string) {
	body := struct {
		Status  string            `json:"status"`
		Reasons map[string]string `json:"reasons,omitempty"`
	}{"ok", reasons}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	status := http.StatusOK
	if len(reasons) > 0 {
		status, body.Status = http.StatusServiceUnavailable, "unavailable"
		header.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	// An error here is the client's: it has gone.
	_ = json.NewEncoder(w).Encode(body)
}

// check is one condition of readiness, with its last result and the run under way.
type check struct {
	name string
	run  func(context.Context) error
	log  *slog.Logger

	mu    sync.Mutex
	doing *running  // nil: no run under way
	err   error     // of the last run that ended
	at    time.Time // when that was; zero: never
}

// running is one run of a check: ctx ends at its limit, done is closed at its end.
type running struct {
	ctx  context.Context
	done chan struct{}
}

// result is the check's last result while it is fresh, else that of the one run that all
// callers of the moment wait for.
func (c *check) result(ctx context.Context) error {
	c.mu.Lock()
	if c.doing == nil {
		if !c.at.IsZero() && time.Since(c.at) < checkFresh {
			defer c.mu.Unlock()
			return c.err
		}
		// Not the caller's context: one that hangs up must not fail the others.
		runCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkLimit)
		c.doing = &running{ctx: runCtx, done: make(chan struct{})}
		go func() {
			defer cancel()
			c.finish(safely(runCtx, c.run))
		}()
	}
	doing := c.doing
	c.mu.Unlock()

	select {
	case <-doing.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.err
	case <-doing.ctx.Done():
		return errSlow
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish records a run's result and logs a change.
func (c *check) finish(err error) {
	c.mu.Lock()
	doing, before := c.doing, c.err
	if doing.ctx.Err() != nil {
		err = errSlow // the same answer to all, whether or not the check minded its context
	}
	c.doing, c.err, c.at = nil, err, time.Now()
	c.mu.Unlock()
	close(doing.done)
	switch {
	case err != nil && before == nil:
		c.log.Warn("health check fails", "check", c.name, "error", err)
	case err == nil && before != nil:
		c.log.Info("health check passes again", "check", c.name)
	}
}

// safely runs a check; a panic is its failure.
func safely(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("check panicked: %v", r)
		}
	}()
	return run(ctx)
}
