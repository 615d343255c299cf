package e2e

import (
	"net/url"
	"slices"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// TestTrust_B93_Loop checks that an event that two Kapsels send to each other ends where it
// comes back, with an answer that says why, and neither reaches its own listeners.
func TestTrust_B93_Loop(t *testing.T) {
	worlds := [2]*world{}
	for i := range worlds {
		worlds[i] = newWorld(t, "", "KAPSEL_EGRESS_ALLOW=127.0.0.0/8")
	}
	endpoint := func(i int, to string) (harness.Endpoint, error) {
		node := worlds[i].nodes[0]
		return node.CreateEndpoint(t.Context(), worlds[i].tenant, map[string]any{"name": "loop", "url": to, "retry": fastRetry})
	}
	there, err := endpoint(1, worlds[1].sink.URL(1)) // until the other's URL is known
	if err != nil {
		t.Fatal(err)
	}
	back, err := endpoint(0, there.IngestURL)
	if err != nil {
		t.Fatal(err)
	}
	node := worlds[1].nodes[0]
	if err := node.API(t.Context(), "PATCH", "/v1/endpoints/"+there.ID, map[string]any{"url": back.IngestURL}, nil); err != nil {
		t.Fatal(err)
	}
	status, code, event := post(t, back.IngestURL, nil, nil)
	if status != 200 {
		t.Fatalf("answered %d %s", status, code)
	}

	// The first hop is from world 0 to world 1; the second leads back to where the event came in,
	// and is refused.
	var all []delivery
	for range 5 {
		for _, w := range worlds { // each hop begins before the one that made it ends
			w.quiet()
		}
	}
	for _, w := range worlds {
		all = append(all, list[delivery](w, "/v1/deliveries", url.Values{})...)
	}
	ended := map[string]int{}
	for _, d := range all {
		ended[d.Status]++
		if d.Status == "failed" && (d.Code != "E2003" || d.Attempts != 1) {
			t.Errorf("the last hop: %+v", d)
		}
	}
	if len(all) != 2 || ended["delivered"] != 1 || ended["failed"] != 1 {
		t.Errorf("%d deliveries of one event in a loop, ended as %v", len(all), ended)
	}
	if !slices.ContainsFunc(all, func(d delivery) bool { return d.EventID == event }) {
		t.Error("the first event has no delivery")
	}

	for _, to := range []string{
		back.IngestURL, worlds[0].nodes[0].URL + "/v1/tenants", worlds[0].nodes[0].Metrics + "/metrics",
	} {
		if _, err := endpoint(0, to); err == nil {
			t.Errorf("an endpoint may send to its own Kapsel at %s", to)
		}
	}
}
