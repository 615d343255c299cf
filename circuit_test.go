package kapsel_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func TestCircuitNow(t *testing.T) {
	e := kapsel.Endpoint{ID: kapsel.NewEndpointID(noon), Destination: 2, EndpointConfig: kapsel.DefaultEndpoint()}
	off := e
	off.EndpointConfig.Circuit.Disabled = true
	stored := kapsel.Circuit{
		EndpointID: e.ID, Destination: 2, State: kapsel.CircuitHalfOpen, ChangedAt: noon, Probe: nodeA, HoldUntil: noon.Add(time.Hour), Version: 3, Revision: 4,
	}
	closed := kapsel.Circuit{EndpointID: e.ID, Destination: 2, State: kapsel.CircuitClosed, Version: 3, Revision: 4}
	held := closed
	held.HoldUntil = stored.HoldUntil
	former, later := stored, stored
	former.Destination, later.Destination = 1, 3
	for _, tt := range []struct {
		name   string
		e      kapsel.Endpoint
		stored kapsel.Circuit
		want   kapsel.Circuit
	}{
		{"the endpoint's own", e, stored, stored},
		{"of a former destination", e, former, closed},
		{"of a later one", e, later, closed},
		{"turned off: closed, but still held", off, stored, held},
		{"none", e, kapsel.Circuit{EndpointID: e.ID}, kapsel.Circuit{EndpointID: e.ID, Destination: 2, State: kapsel.CircuitClosed}},
		{"without a state", e, kapsel.Circuit{EndpointID: e.ID, Destination: 2, Version: 1}, kapsel.Circuit{EndpointID: e.ID, Destination: 2, State: kapsel.CircuitClosed, Version: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.e.CircuitNow(tt.stored)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
