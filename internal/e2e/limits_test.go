package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// limitedTenant makes a tenant with a rate, and an endpoint of the tenant.
func (w *world) limitedTenant(name string, perSecond float64, burst int) harness.Endpoint {
	w.t.Helper()
	var tenant struct {
		ID string `json:"id"`
	}
	err := w.nodes[0].API(w.ctx, http.MethodPost, "/v1/tenants", map[string]any{
		"name": name, "limits": map[string]any{"ingest_per_second": perSecond, "ingest_burst": burst},
	}, &tenant)
	if err != nil {
		w.t.Fatal(err)
	}
	ep, err := w.nodes[0].CreateEndpoint(w.ctx, tenant.ID, map[string]any{"name": name, "url": w.sink.URL(0)})
	if err != nil {
		w.t.Fatal(err)
	}
	return ep
}

// event posts one event to a node and returns the answer's status and header.
func (w *world) event(node *harness.Process, ep harness.Endpoint) (int, http.Header) {
	w.t.Helper()
	resp, err := client.Post(node.URL+"/ingest/"+ep.ID, "application/json", strings.NewReader("{}"))
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header
}

// TestLimits_MoveBetweenNodes checks that two nodes share a tenant's limit, with the larger share
// where its requests come in, and that no 10 s have more events than the limit and a tenth, however
// the requests move.
func TestLimits_MoveBetweenNodes(t *testing.T) {
	w := newWorld(t, schematest.Postgres(t))
	const limit = 100
	ep := w.limitedTenant("limited", limit, limit)
	w.node()
	for _, turn := range []int{0, 1, 0} {
		node := w.nodes[turn]
		// Alone with half of the limit, a node's bucket never holds more than half of the burst.
		deadline := time.Now().Add(patience)
		for {
			status, header := w.event(node, ep)
			if status != http.StatusOK && status != http.StatusTooManyRequests {
				t.Fatalf("answered %d", status)
			}
			if got := header.Get("X-RateLimit-Limit"); got != strconv.Itoa(limit) {
				t.Fatalf("X-RateLimit-Limit is %q, the tenant's limit is %d", got, limit)
			}
			left, err := strconv.Atoi(header.Get("X-RateLimit-Remaining"))
			if err != nil {
				t.Fatal(err)
			}
			if left > limit/2+2 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("node %d has all of the tenant's requests and not the larger share: %d remain", turn, left)
			}
			time.Sleep(15 * time.Millisecond)
		}
		// Now post to both nodes as fast as possible.
		for range 3 * limit {
			w.event(w.nodes[0], ep)
			w.event(w.nodes[1], ep)
		}
	}
	w.quiet()
	var at []time.Time
	for _, e := range list[struct {
		At time.Time `json:"received_at"`
	}](w, "/v1/events", url.Values{"endpoint_id": {ep.ID}}) {
		at = append(at, e.At)
	}
	for first, last := 0, 0; last < len(at); last++ { // newest first
		for at[first].Sub(at[last]) >= 10*time.Second {
			first++
		}
		if n := last - first + 1; n > 11*limit+limit { // and the burst
			t.Fatalf("%d events were accepted in 10 s, the limit is %d a second", n, limit)
		}
	}
}

// TestLimits_FE4_FloodIsTheTenantsOwn checks that a tenant that sends far more than its limit
// gets 429 with Retry-After, and no request of another tenant is refused.
func TestLimits_FE4_FloodIsTheTenantsOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		if !w.sqlite {
			w.node()
		}
		flooded := w.limitedTenant("flood", 10, 10)
		var others []harness.Endpoint
		for i := range 3 {
			others = append(others, w.limitedTenant(fmt.Sprint("other ", i), 1000, 1000))
		}
		stop, refused := make(chan struct{}), 0
		var flood sync.WaitGroup
		flood.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Post(w.nodes[i%len(w.nodes)].URL+"/ingest/"+flooded.ID, "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode == http.StatusTooManyRequests {
					refused++
					if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
						t.Errorf("429 with Retry-After %q", resp.Header.Get("Retry-After"))
						return
					}
				}
			}
		})
		for i := range 100 {
			for _, ep := range others {
				if status, _ := w.event(w.nodes[i%len(w.nodes)], ep); status != http.StatusOK {
					t.Errorf("another tenant's event was answered %d", status)
				}
			}
		}
		close(stop)
		flood.Wait()
		if refused == 0 {
			t.Error("the flood was not refused anything")
		}
	})
}
