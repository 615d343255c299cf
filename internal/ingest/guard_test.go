package ingest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestGuard checks that the same signed content is the same event under any unsigned ID if a
// request may be sent again hours after it was signed, and that it takes no key from other events.
func TestGuard(t *testing.T) {
	w := newWorld(t)
	n := 0
	linear := func(age time.Duration) (body string, signature string) {
		n++
		body = fmt.Sprintf(`{"webhookTimestamp":%d,"n":%d}`, time.Now().Add(-age).UnixMilli(), n)
		return body, "Linear-Signature: " + sign("s", body)
	}
	for _, strategy := range []string{kapsel.KeyFromHeader, kapsel.KeyNone, kapsel.KeyFromContent} {
		w.run(strategy, func(t *testing.T) {
			ep := w.endpoint(func(ep *kapsel.Endpoint) {
				w.signedBy("linear", "s")(ep)
				ep.Idempotency.Strategy = strategy
			})
			body, signature := linear(8 * time.Hour)
			first := w.accepted(ep, body, signature, "Linear-Delivery: d1").Event
			before := w.stored()
			for _, id := range []string{"Linear-Delivery: d1", "Linear-Delivery: d2", "Idempotency-Key: k"} {
				a := w.post(ep, body, signature, id)
				if a.status != 200 || a.event() != first.ID || a.header.Get("Idempotent-Replayed") != "true" {
					t.Errorf("sent again with %s it was answered %v, the first was %s", id, a, first.ID)
				}
			}
			if after := w.stored(); after != before {
				t.Errorf("%d more events were stored", after-before)
			}
			// The ids under which it was replayed are free for what has them by right.
			for _, id := range []string{"Linear-Delivery: d2", "Idempotency-Key: k"} {
				body, signature := linear(time.Hour)
				if next := w.accepted(ep, body, signature, id).Event; next.ID == first.ID {
					t.Errorf("another event with %s is taken for the first", id)
				}
			}
			// A header that is refused is refused still: nothing was learnt of the guard.
			if strategy == kapsel.KeyFromHeader {
				w.refused(400, kapsel.InvalidRequest, ep, body, signature, "Idempotency-Key: \xff")
			}
		})
	}

	// Without a signed time, or with a short tolerance, only keys count.
	ep := w.endpoint(w.signedBy("github", "s"))
	header := "X-Hub-Signature-256: sha256=" + sign("s", "{}")
	if a, b := w.accepted(ep, "{}", header).Event, w.accepted(ep, "{}", header).Event; a.ID == b.ID {
		t.Error("two events of a provider that signs no time are one")
	}
}
