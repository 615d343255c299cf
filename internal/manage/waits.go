package manage

import (
	"context"
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// soon is how long an endpoint's rate may delay a delivery that a person wants to send now.
const soon = 10 * time.Second

// sendsNow returns nil if a delivery of the endpoint that is due now would not wait for the state
// of the endpoint or of its destination, nor longer than soon for the endpoint's rate. Otherwise
// sendsNow returns a Conflict that says what the delivery would wait for and what ends the wait. It
// also fails if the store does.
func (m *Manager) sendsNow(ctx context.Context, e *kapsel.Endpoint) error {
	path := "/v1/endpoints/" + e.ID.String()
	switch {
	case e.State == kapsel.EndpointPaused:
		return kapsel.Errorf(kapsel.Conflict, "nothing is sent: the endpoint is paused; POST %s/resume makes it active", path)
	case e.State == kapsel.EndpointDisabled && e.DisabledReason == kapsel.DisabledGone:
		return kapsel.Errorf(kapsel.Conflict, "nothing is sent: the endpoint is disabled, because its destination answered 410; POST %s/resume makes it active", path)
	case e.State == kapsel.EndpointDisabled:
		return kapsel.Errorf(kapsel.Conflict, "nothing is sent: the operator disabled the endpoint; POST %s/resume with the admin key makes it active", path)
	}
	stored, err := m.Store.Circuit(ctx, e.ID)
	if err != nil {
		return err
	}
	now, c := m.Clock(), e.CircuitNow(stored)
	reset := fmt.Sprintf("POST %s/circuit/reset", path)
	switch {
	case c.State == kapsel.CircuitOpened && c.RetryAt.After(now):
		return kapsel.Errorf(kapsel.Conflict, "nothing is sent: the destination fails and the endpoint's circuit is open; the next probe may start at %s, and %s closes the circuit", shown(c.RetryAt), reset)
	case c.State == kapsel.CircuitOpened:
		// The next delivery that is due is the probe, the oldest one first.
		count, oldest, err := m.Store.BacklogOf(ctx, e.ID, now, 1)
		if err != nil {
			return err
		}
		if count > 0 && !oldest.After(now) {
			return kapsel.Errorf(kapsel.Conflict, "nothing else is sent: the endpoint's circuit lets a probe through, and older deliveries are due; %s closes the circuit", reset)
		}
	case c.State == kapsel.CircuitHalfOpen && m.WaitsFor(e, kapsel.Delivery{Status: kapsel.Pending, DueAt: now}) == "circuit":
		return kapsel.Errorf(kapsel.Conflict, "nothing else is sent: the endpoint's circuit is half-open and its destination is being probed; %s closes the circuit", reset)
	}
	if c.HoldUntil.After(now) {
		return kapsel.Errorf(kapsel.Conflict, "nothing is sent: the destination asked for quiet (429 with Retry-After) until %s; %s ends that", shown(c.HoldUntil), reset)
	}
	if at := m.RateAllows(e); at.Sub(now) > soon {
		return kapsel.Errorf(kapsel.Conflict, "nothing is sent: the endpoint's rate_limit lets the next exchange start at %s", shown(at))
	}
	return nil
}

// shown returns a time as an error text shows it: RFC 3339, UTC.
func shown(t time.Time) string { return t.UTC().Format(time.RFC3339) }
