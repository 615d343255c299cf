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
	// checkLimit is how long a check may run before it counts as failed.
	checkLimit = time.Second
	// checkFresh is how long the result of a check is reused.
	checkFresh = time.Second
)

// Health answers whether the process is alive, has started and can take work. Its three handlers
// need no key, so the reasons they give are safe for strangers: the detail of a kapsel.Error, and
// of any other error only that the check failed. The log has the whole error.
type Health struct {
	log *slog.Logger

	mu       sync.Mutex
	checks   []*check
	started  bool
	stopping bool
}

// NewHealth returns a Health that is neither started nor stopping. It logs when a check starts to
// fail and when it passes again.
func NewHealth(log *slog.Logger) *Health { return &Health{log: log} }

// Add makes readiness depend on a check. The check runs when readiness is asked for, at most once
// a second and never twice at a time. After one second its context ends and it counts as failed.
// If it keeps running nevertheless, it is not started again before it returns.
func (h *Health) Add(name string, run func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, &check{name: name, run: run, log: h.log})
}

// SetStarted records that everything needed to take work has started.
func (h *Health) SetStarted() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started = true
}

// SetStopping makes readiness fail from now on, so that load balancers turn to other nodes while
// this process still takes work.
func (h *Health) SetStopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Live always answers 200. It depends on nothing else, because restarting the process repairs
// neither the database nor a destination.
func (h *Health) Live(w http.ResponseWriter, _ *http.Request) { answer(w, nil) }

// Startup answers 200 once SetStarted was called, and 503 before.
func (h *Health) Startup(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.started {
		answer(w, map[string]string{"startup": "starting"})
		return
	}
	answer(w, nil)
}

// Ready answers 200 if the process has started, is not stopping and passes all checks; otherwise
// 503 with the reasons.
func (h *Health) Ready(w http.ResponseWriter, r *http.Request) {
	answer(w, h.Reasons(r.Context()))
}

// Reasons returns why the process is not ready, keyed by check; empty if it is ready.
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

// errSlow says that a check did not finish in time.
var errSlow = fmt.Errorf("no answer within %v", checkLimit)

// public returns the part of an error that strangers may read.
func public(err error) string {
	if err == errSlow {
		return err.Error()
	}
	if e, ok := errors.AsType[*kapsel.Error](err); ok {
		return e.Detail
	}
	return "failed; the log says why"
}

// answer writes 200, or 503 if there are reasons.
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
	// An error means that the client has gone.
	_ = json.NewEncoder(w).Encode(body)
}

// check is one condition of readiness, with its last result and the current run.
type check struct {
	name string
	run  func(context.Context) error
	log  *slog.Logger

	mu    sync.Mutex
	doing *running  // current run; nil: none
	err   error     // result of the last run that ended
	at    time.Time // when that run ended; zero: never
}

// running is one run of a check. ctx ends at the time limit; done is closed when the run ends.
type running struct {
	ctx  context.Context
	done chan struct{}
}

// result returns the last result if it is recent enough. Otherwise it waits for the current run,
// which it starts if there is none; concurrent callers share one run.
func (c *check) result(ctx context.Context) error {
	c.mu.Lock()
	if c.doing == nil {
		if !c.at.IsZero() && time.Since(c.at) < checkFresh {
			defer c.mu.Unlock()
			return c.err
		}
		// Not the caller's context: a caller that hangs up must not fail the others.
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
	case <-doing.ctx.Done():
		select {
		case <-doing.done: // a run that has ended cancels its context
		default:
			return errSlow
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// finish records the result of a run and logs a change.
func (c *check) finish(err error) {
	c.mu.Lock()
	doing, before := c.doing, c.err
	if doing.ctx.Err() != nil {
		err = errSlow // the result that waiting callers got, whatever the check returned
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

// safely runs a check and turns a panic into an error.
func safely(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("check panicked: %v", r)
		}
	}()
	return run(ctx)
}
