package kapsel

import "time"

// CircuitPolicy says when the circuit of an endpoint opens and closes.
type CircuitPolicy struct {
	Disabled  bool          `json:"disabled,omitempty"` // the circuit never opens
	Failures  int           `json:"failures"`           // in a row that open it
	Ratio     float64       `json:"ratio"`              // of failures that opens it
	Window    int           `json:"window"`             // counted exchanges looked back at, of the last 60 s
	Minimum   int           `json:"minimum"`            // failures in the window before the ratio counts
	OpenFor   time.Duration `json:"open_for"`           // before the first probe
	Successes int           `json:"successes"`          // of probes that close it
}

// DefaultCircuit is the policy of an endpoint that sets none.
func DefaultCircuit() CircuitPolicy {
	return CircuitPolicy{Failures: 5, Ratio: 0.8, Window: 20, Minimum: 10, OpenFor: 30 * time.Second, Successes: 3}
}

// CircuitState is the state of an endpoint's breaker.
type CircuitState string

// The states of a circuit.
const (
	CircuitClosed   CircuitState = "closed"
	CircuitOpened   CircuitState = "open"
	CircuitHalfOpen CircuitState = "half_open"
)

// Circuit is the breaker of one endpoint as all nodes share it; package breaker moves it.
// The zero Circuit is closed and was never anything else.
type Circuit struct {
	EndpointID  EndpointID
	Destination int          // whose circuit it is; see Endpoint.Destination
	State       CircuitState // "" reads as closed
	ChangedAt   time.Time
	RetryAt     time.Time // open: when the first probe may start
	Probe       NodeID    // half-open: the node that probes; zero: the next one that wants to
	HoldUntil   time.Time // the destination asked for quiet (429 with Retry-After) until then
	Version     int64     // of the row: a change names the version that it saw
	Revision    int64     // of the settings counter, at the last change
}

// CircuitNow returns what a stored circuit means for the endpoint as it is now. The circuit of a former
// destination means nothing: the endpoint's is closed and not held. One that the policy turns
// off reads as closed. The result keeps Version and Revision, so that it can be saved.
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
