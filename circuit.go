package kapsel

import "time"

// CircuitPolicy says when an endpoint's circuit opens and closes. Package breaker has the exact
// rules.
type CircuitPolicy struct {
	Disabled  bool          `json:"disabled,omitempty"` // the circuit never opens
	Failures  int           `json:"failures"`           // consecutive failures that open the circuit
	Ratio     float64       `json:"ratio"`              // share of failed exchanges in the window that opens it, in (0, 1]
	Window    int           `json:"window"`             // how many of the latest counted exchanges the ratio covers; those older than 60 s drop out
	Minimum   int           `json:"minimum"`            // failures in the window below which the ratio is ignored
	OpenFor   time.Duration `json:"open_for"`           // how long the circuit stays open before the first probe
	Successes int           `json:"successes"`          // successful probes that close the circuit
}

// DefaultCircuit returns the policy of an endpoint that sets none.
func DefaultCircuit() CircuitPolicy {
	return CircuitPolicy{Failures: 5, Ratio: 0.8, Window: 20, Minimum: 10, OpenFor: 30 * time.Second, Successes: 3}
}

// CircuitState is the state of an endpoint's circuit.
type CircuitState string

// The states of a circuit.
const (
	CircuitClosed   CircuitState = "closed"
	CircuitOpened   CircuitState = "open"
	CircuitHalfOpen CircuitState = "half_open"
)

// Circuit is the stored state of one endpoint's circuit breaker. All nodes share it; package
// breaker decides how it changes. The zero Circuit is closed and has never changed.
type Circuit struct {
	EndpointID  EndpointID
	Destination int          // the destination that the circuit belongs to; see Endpoint.Destination
	State       CircuitState // "" reads as closed
	ChangedAt   time.Time
	RetryAt     time.Time // when open: the time from which the first probe may start
	Probe       NodeID    // when half-open: the node that probes; zero: any node may become it
	HoldUntil   time.Time // the destination asked for no requests before this time (429 with Retry-After)
	Version     int64     // of the row; a change must name the version that it read
	Revision    int64     // value of the settings counter at the last change
}

// CircuitNow returns the circuit that a stored circuit amounts to for the endpoint as configured
// now. If the stored circuit belongs to a former destination, the result is closed and has no
// HoldUntil. If the policy disables the circuit, the result is closed but keeps HoldUntil. The
// result always keeps Version and Revision, so it can be saved.
func (e *Endpoint) CircuitNow(stored Circuit) Circuit {
	now := Circuit{EndpointID: e.ID, Destination: e.Destination, State: CircuitClosed, Version: stored.Version, Revision: stored.Revision}
	switch {
	case stored.Destination != e.Destination:
		return now
	case e.EndpointConfig.Circuit.Disabled:
		now.HoldUntil = stored.HoldUntil
		return now
	case stored.State == "":
		stored.State = CircuitClosed
	}
	return stored
}
