package ingest_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// TestAccepted checks that the answer is constant but for the ID, and that everything of the
// webhook is stored before the answer.
func TestAccepted(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	a := w.raw(request("POST", path(ep)+"?b=2&a=%00%ff", "the\x00body\xff", "Content-Type: application/x-any", "X-Two: 2", "X-Two: 1"))
	if a.status != http.StatusOK {
		t.Fatalf("answered %v", a)
	}
	id := a.event()
	if want := `{"event_id":"` + id.String() + `","status":"received"}`; a.body != want {
		t.Errorf("answered %q, want %q", a.body, want)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the content type is %q", got)
	}
	for _, name := range []string{"Idempotent-Replayed", "Retry-After", "X-Ratelimit-Limit", "Set-Cookie"} {
		if v, ok := a.header[name]; ok {
			t.Errorf("the answer has %s: %v", name, v)
		}
	}
	got := w.event(id)
	header := kapsel.Header{{Name: "Content-Length", Value: "9"}, {Name: "Content-Type", Value: "application/x-any"}, {Name: "X-Two", Value: "2"}, {Name: "X-Two", Value: "1"}}
	if diff := cmp.Diff(header, got.Event.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if got.Event.Query != "b=2&a=%00%ff" || string(got.Event.Body) != "the\x00body\xff" || got.Event.Size != 9 ||
		got.Event.ContentType != "application/x-any" || got.Event.IdempotencyKey != nil || got.Event.Signature.Scheme != "none" ||
		got.Event.EndpointID != ep.ID || got.Event.TenantID != ep.TenantID || id.Part() != ep.Part {
		t.Errorf("stored is %+v", got.Event)
	}
	if len(got.Deliveries) != 1 || got.Deliveries[0].Status != kapsel.Pending || got.Deliveries[0].ID.Part() != ep.Part {
		t.Errorf("its deliveries are %+v", got.Deliveries)
	}
}

// TestStates checks that events are accepted in every state of an endpoint, and that only an active
// endpoint is sent events.
func TestStates(t *testing.T) {
	w := newWorld(t)
	for _, state := range []kapsel.EndpointState{kapsel.EndpointPaused, kapsel.EndpointDisabled} {
		ep := w.endpoint(func(ep *kapsel.Endpoint) { ep.State = state })
		if got := w.accepted(ep, "waits").Deliveries[0]; got.Status != kapsel.Pending {
			t.Errorf("an event of an endpoint that is %s is %v", state, got.Status)
		}
	}
	w.accepted(w.endpoint(active), "goes out")
	if body, _ := io.ReadAll(w.delivered().Body); string(body) != "goes out" {
		t.Errorf("%q was delivered", body)
	}
}

// TestMethods: everything but POST is 405 with Allow, and HEAD has no body.
func TestMethods(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "PURGE"} {
		c := w.dial()
		c.write(request(method, path(ep), ""))
		a, err := c.read(method)
		if err != nil {
			t.Fatal(err)
		}
		if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "POST" {
			t.Errorf("%s was answered %v", method, a)
		}
		if method != "HEAD" {
			w.is(a, http.StatusMethodNotAllowed, kapsel.InvalidRequest)
		}
	}
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored", n)
	}
}

// TestInvalidEndpoint_B13_Paths checks that a path that names no endpoint gets 404, without a
// look into the store when it holds no id, and a deleted endpoint looks like one that never
// was.
func TestInvalidEndpoint_B13_Paths(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	asked := 0
	w.fault(func(method string) storetest.Fault {
		if method == "Endpoint" {
			asked++
		}
		return storetest.NoFault
	})
	id := ep.ID.String()
	for _, p := range []string{
		"/ingest/", "/ingest/" + id + "/", "/ingest/" + id + "/more", "/ingest//" + id, "/ingest/./" + id, "/ingest/" + id + "%2fmore",
		"/ingest/" + id[:len(id)-1], "/ingest/" + id + "0", "/ingest/" + strings.ToUpper(id), "/ingest/evt_" + id[3:], "/ingest/" + id[3:],
		"/ingest/%2e%2e%2fadmin", "/ingest/../../etc/passwd", "/ingest/a%00b", "/ingest/%ff", "/ingest/" + id + "%00", "/ingest/" + id + "%0a",
		"/ingest/" + id + "%20", "/ingest/%20" + id, "/ingest/ep_%e2%80%8b" + id[6:], "/ingest/" + strings.Repeat("a", 4000), "/ingest/'--",
	} {
		w.is(w.raw(request("POST", p, "{}")), http.StatusNotFound, kapsel.InvalidEndpoint)
	}
	if asked != 0 {
		t.Errorf("the store was asked %d times for what is no id", asked)
	}

	unknown := *ep
	unknown.ID = kapsel.NewEndpointID(time.Now())
	deleted := w.endpoint(nil)
	if err := w.db.DeleteEndpoint(context.Background(), deleted.TenantID, deleted.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	requestID := regexp.MustCompile(`req_\w+`)
	var seen []string
	deaf := w.endpoint(func(ep *kapsel.Endpoint) { ep.NoIngest = true })
	for _, target := range []string{"/ingest/nothing", path(&unknown), path(deleted), path(deaf)} {
		a := w.raw(request("POST", target, "{}"))
		w.is(a, http.StatusNotFound, kapsel.InvalidEndpoint)
		seen = append(seen, requestID.ReplaceAllString(a.body, "req"))
	}
	if len(slices.Compact(seen)) != 1 {
		t.Errorf("the answers differ: %q", seen)
	}
	// An escaped character that needed no escape is the same path.
	if a := w.raw(request("POST", "/ingest/%65"+id[1:], "{}")); a.status != http.StatusOK {
		t.Errorf("an escaped path was answered %v", a)
	}
}

// TestOrderOfChecks_B73 checks that the check that comes first decides the answer to a request
// with two things wrong.
func TestOrderOfChecks_B73(t *testing.T) {
	w := newWorld(t)
	slow, one := 0.0001, 1
	drained := w.newTenant(kapsel.Limits{Own: true, IngestPerSecond: &slow, IngestBurst: &one})
	const secret = "the secret of the order of checks"
	free := w.endpoint(w.signedBy("hmac", secret))
	limited := w.endpoint(func(ep *kapsel.Endpoint) {
		ep.TenantID = drained.ID
		w.signedBy("hmac", secret)(ep)
	})
	if a := w.post(limited, "", "X-Webhook-Signature: "+sign(secret, "")); a.status != 200 {
		t.Fatalf("the only token was answered %v", a)
	}
	none := int64(0)
	spent := w.newTenant(kapsel.Limits{Own: true, EventsPerMonth: &none})
	overQuota := w.endpoint(func(ep *kapsel.Endpoint) {
		ep.TenantID = spent.ID
		w.signedBy("hmac", secret)(ep)
	})
	unknown := *free
	unknown.ID = kapsel.NewEndpointID(time.Now())

	// draft is a request in the making; faults change it, and the world.
	type draft struct {
		method, target, body, signature, framing string
		header                                   []string
	}
	type fault struct {
		name   string
		status int
		code   kapsel.Code
		apply  func(d *draft)
	}
	target := func(ep *kapsel.Endpoint) func(*draft) { return func(d *draft) { d.target = path(ep) } }
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprintf("X-%d: x", i)
	}
	faults := []fault{
		{"id syntax", 404, kapsel.InvalidEndpoint, func(d *draft) { d.target = "/ingest/ep_no" }},
		{"unknown endpoint", 404, kapsel.InvalidEndpoint, target(&unknown)},
		{"method", 405, kapsel.InvalidRequest, func(d *draft) { d.method = "PUT" }},
		{"header lines", 431, kapsel.InvalidRequest, func(d *draft) { d.header = append(d.header, many...) }},
		{"announced length", 413, kapsel.PayloadTooLarge, func(d *draft) { d.framing = "Content-Length: 10485761\r\n" }},
		{"room", 503, kapsel.QueueFull, func(*draft) { w.handler.Capacity = 0 }},
		{"rate", 429, kapsel.RateLimited, target(limited)},
		{"quota", 429, kapsel.QuotaExceeded, target(overQuota)},
		{"broken body", 400, kapsel.InvalidRequest, func(d *draft) { d.framing, d.body = "Transfer-Encoding: chunked\r\n", "0x2\r\n" }},
		{"signature", 401, kapsel.InvalidSignature, func(d *draft) { d.signature = sign("another secret", d.body) }},
		{"key", 400, kapsel.InvalidRequest, func(d *draft) { d.header = append(d.header, "Idempotency-Key: \xff") }},
		{"store", 503, kapsel.DatabaseUnavailable, func(*draft) { w.fault(failing(storetest.NotPersisted, "Accept")) }},
		{"none", 200, "", func(*draft) {}},
	}
	// These say the same thing differently, so no request can have both.
	exclusive := map[string]bool{"id syntax/unknown endpoint": true, "id syntax/rate": true, "unknown endpoint/rate": true, "id syntax/quota": true,
		"unknown endpoint/quota": true, "rate/quota": true, "announced length/broken body": true}
	for i, first := range faults {
		for _, second := range faults[i+1:] {
			if exclusive[first.name+"/"+second.name] {
				continue
			}
			w.run(first.name+"/"+second.name, func(t *testing.T) {
				w.handler.Capacity = 1000
				w.fault(nil)
				d := draft{method: "POST", target: path(free), body: "{}"}
				d.framing = "Content-Length: 2\r\n"
				d.signature = sign(secret, d.body)
				second.apply(&d)
				first.apply(&d)
				text := d.method + " " + d.target + " HTTP/1.1\r\nHost: in.example\r\n" + lines(append(d.header, "X-Webhook-Signature: "+d.signature)) + d.framing + "\r\n" + d.body
				before := w.stored()
				a := w.raw(text)
				w.is(a, first.status, first.code)
				if after := w.stored(); after != before {
					t.Errorf("%d events were stored", after-before)
				}
				w.atRest()
			})
		}
	}
	w.handler.Capacity = 1000
	w.fault(nil)
	if a := w.post(free, "{}", "X-Webhook-Signature: "+sign(secret, "{}")); a.status != 200 {
		t.Errorf("without a fault: %v", a)
	}
}

// TestUnsignedLearnsNothing_B70 checks that a sender without a valid signature is not told
// whether an idempotency key was seen.
func TestUnsignedLearnsNothing_B70(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(w.signedBy("hmac", "a secret"))
	w.accepted(ep, "{}", "Idempotency-Key: seen", "X-Webhook-Signature: "+sign("a secret", "{}"))
	requestID := regexp.MustCompile(`req_\w+`)
	seen := requestID.ReplaceAllString(w.refused(401, kapsel.InvalidSignature, ep, "{}", "Idempotency-Key: seen").body, "")
	unseen := requestID.ReplaceAllString(w.refused(401, kapsel.InvalidSignature, ep, "{}", "Idempotency-Key: unseen").body, "")
	if seen != unseen {
		t.Errorf("answered %q and %q", seen, unseen)
	}
}

// TestStore_FailsBefore checks that the answer is 503 and nothing is stored if the store fails, and
// that the sender's retry is accepted.
func TestStore_FailsBefore(t *testing.T) {
	w := newWorld(t)
	for _, ep := range []*kapsel.Endpoint{w.endpoint(nil), w.endpoint(active)} {
		w.fault(failing(storetest.NotPersisted, "Accept"))
		a := w.refused(503, kapsel.DatabaseUnavailable, ep, "{}", "Idempotency-Key: k")
		if strings.Contains(a.body, storetest.ErrInjected.Error()) {
			t.Errorf("the answer tells the cause: %s", a.body)
		}
		w.fault(nil)
		if a := w.post(ep, "{}", "Idempotency-Key: k"); a.status != 200 || a.header.Get("Idempotent-Replayed") != "" {
			t.Errorf("the retry was answered %v", a)
		}
	}
	w.delivered()
	w.atRest()
}

// TestStore_FA3_FailsAfter checks that a store that writes and then fails is answered 503, a
// retry with the same key gets the id of what was written, and the event is delivered once,
// even without a retry.
func TestStore_FA3_FailsAfter(t *testing.T) {
	w := newWorld(t)
	waiting, sending := w.endpoint(nil), w.endpoint(active)
	for _, ep := range []*kapsel.Endpoint{waiting, sending} {
		w.fault(failing(storetest.Persisted, "Accept"))
		w.is(w.post(ep, "{}", "Idempotency-Key: k"), 503, kapsel.DatabaseUnavailable)
		w.fault(nil)
	}
	if got := w.delivered().Header.Get("X-Kapsel-Event-Id"); got == "" {
		t.Error("what was delivered has no event id")
	}
	var ids []kapsel.EventID
	for _, ep := range []*kapsel.Endpoint{waiting, sending} {
		for range 2 {
			a := w.post(ep, "{}", "Idempotency-Key: k")
			if a.status != 200 || a.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("the retry was answered %v", a)
			}
			ids = append(ids, a.event())
		}
	}
	if ids[0] != ids[1] || ids[2] != ids[3] || ids[0] == ids[2] {
		t.Errorf("the ids are %v", ids)
	}
	if n := w.stored(); n != 2 {
		t.Errorf("%d events are stored, want 2", n)
	}
	w.atRest()
	if n := len(w.wire.sent); n != 0 {
		t.Errorf("%d more requests were delivered", n)
	}
}

// TestStore_CannotSay checks that the answer is 503 and never 404 if the store cannot say whether
// an endpoint exists or what its tenant may do.
func TestStore_CannotSay(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{"Endpoint", "Tenant"} {
		ep := w.endpoint(func(ep *kapsel.Endpoint) {
			ep.TenantID = w.newTenant(kapsel.Limits{}).ID
			w.signedBy("hmac", "a secret")(ep)
		})
		w.fault(failing(storetest.NotPersisted, method))
		w.is(w.post(ep, "{}"), 503, kapsel.DatabaseUnavailable)
		w.is(w.post(ep, "{}", "X-Webhook-Signature: "+sign("a secret", "{}")), 503, kapsel.DatabaseUnavailable)
		w.fault(nil)
		w.refused(401, kapsel.InvalidSignature, ep, "{}")
		w.accepted(ep, "{}", "X-Webhook-Signature: "+sign("a secret", "{}"))
		w.fault(failing(storetest.NotPersisted, method)) // both are remembered
		w.accepted(ep, "{}", "X-Webhook-Signature: "+sign("a secret", "{}"))
		w.fault(nil)
	}
}

// TestDuplicate_B70 checks that a duplicate gets the first answer with a mark on it, whatever
// its body, and makes no delivery. A key belongs to its endpoint (B-62).
func TestDuplicate_B70(t *testing.T) {
	w := newWorld(t)
	for _, change := range []func(*kapsel.Endpoint){nil, active} {
		ep := w.endpoint(change)
		first := w.post(ep, "first", "X-Idempotency-Key: k")
		for _, body := range []string{"first", "another body", ""} {
			again := w.post(ep, body, "X-Idempotency-Key: k")
			if again.status != first.status || again.body != first.body || again.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("answered %v, then %v", first, again)
			}
		}
		if other := w.post(ep, "first", "X-Idempotency-Key: K"); other.body == first.body {
			t.Error("keys that differ in case are one")
		}
	}
	if n := w.stored(); n != 4 {
		t.Errorf("%d events are stored, want 4", n)
	}
	for range 2 {
		w.delivered()
	}
	w.atRest()
	if n := len(w.wire.sent); n != 0 {
		t.Errorf("%d duplicates were delivered", n)
	}
}

// TestDuplicate_B63_AtOnce checks that one of many simultaneous requests with one key is
// stored, and all get its id.
func TestDuplicate_B63_AtOnce(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	var mu sync.Mutex
	var bodies []string
	firsts := 0
	var all sync.WaitGroup
	for range 100 {
		c := w.dial()
		all.Go(func() {
			if _, err := io.WriteString(c, request("POST", path(ep), "{}", "Idempotency-Key: one")); err != nil {
				t.Error(err)
				return
			}
			a, err := c.read("POST")
			if err != nil || a.status != 200 {
				t.Errorf("answered %v, %v", a, err)
			}
			mu.Lock()
			defer mu.Unlock()
			bodies = append(bodies, a.body)
			if a.header.Get("Idempotent-Replayed") == "" {
				firsts++
			}
		})
	}
	all.Wait()
	slices.Sort(bodies)
	if ids := slices.Compact(bodies); len(ids) != 1 || firsts != 1 {
		t.Errorf("%d answers, %d of them first: %v", len(ids), firsts, ids)
	}
	if n := w.stored(); n != 1 {
		t.Errorf("%d events are stored", n)
	}
}

// TestHangsUp checks that an event is stored and delivered even if its client hangs up before the
// commit.
func TestHangsUp(t *testing.T) {
	w := newWorld(t)
	for _, reset := range []bool{false, true} {
		at := make(chan struct{})
		w.fault(func(method string) storetest.Fault {
			if method == "Accept" {
				close(at)
				w.hungUp()
			}
			return storetest.NoFault
		})
		ep := w.endpoint(active)
		c := w.dial()
		c.write(request("POST", path(ep), "{}"))
		<-at
		if reset {
			w.must(c.SetLinger(0))
		}
		c.Close()
		id := w.delivered().Header.Get("X-Kapsel-Event-Id")
		w.fault(nil)
		event, err := kapsel.ParseEventID(id)
		w.must(err)
		w.event(event)
	}
	if n := w.stored(); n != 2 {
		t.Errorf("%d events are stored, want 2", n)
	}
}

// TestHangsUp_UnknownHere is TestHangsUp for an endpoint that this node must ask the store for.
func TestHangsUp_UnknownHere(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{"Endpoint", "Tenant"} {
		ep := w.endpoint(func(ep *kapsel.Endpoint) {
			ep.TenantID = w.newTenant(kapsel.Limits{}).ID
			active(ep)
		})
		at := make(chan struct{})
		w.fault(func(m string) storetest.Fault {
			if m == method {
				close(at)
				w.hungUp()
			}
			return storetest.NoFault
		})
		c := w.dial()
		c.write(request("POST", path(ep), ""))
		<-at
		c.Close()
		w.delivered()
		w.fault(nil)
	}
}

// TestVerdict checks that the result of the signature's check is stored with the event.
func TestVerdict(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(w.signedBy("github", "a secret"))
	got := w.accepted(ep, "{}", "X-Hub-Signature-256: sha256="+sign("a secret", "{}")).Event.Signature
	if got.Scheme != "github" || !got.Valid || got.KeyID != ep.Verification.Secrets[0].ID.String() {
		t.Errorf("the verdict is %+v", got)
	}
	flipped, err := hex.DecodeString(sign("a secret", "{}"))
	w.must(err)
	flipped[0] ^= 1
	w.refused(401, kapsel.InvalidSignature, ep, "{}", "X-Hub-Signature-256: sha256="+hex.EncodeToString(flipped))
	w.refused(401, kapsel.InvalidSignature, ep, "{}")
	// A secret that is replaced counts no more once the settings are read.
	w.must(w.settings.Load(context.Background()))
	_, err = w.db.UpdateEndpoint(context.Background(), kapsel.TenantID{}, ep.ID, func(ep *kapsel.Endpoint) error {
		w.signedBy("github", "a newer secret")(ep)
		return nil
	})
	w.must(err)
	w.must(w.settings.Load(context.Background()))
	w.refused(401, kapsel.InvalidSignature, ep, "{}", "X-Hub-Signature-256: sha256="+sign("a secret", "{}"))
	w.accepted(ep, "{}", "X-Hub-Signature-256: sha256="+sign("a newer secret", "{}"))
}

// TestHandshake checks that a challenge is answered and not stored, that other requests of the same
// endpoint are events, and that a provider that demands a certain answer gets it, with the ID in a
// header.
func TestHandshake(t *testing.T) {
	w := newWorld(t)
	x := w.endpoint(w.signedBy("x", "a secret"))
	c := w.dial()
	c.write(request("GET", path(x)+"?crc_token=abc", ""))
	if a, err := c.read("GET"); err != nil || a.status != 200 || !strings.Contains(a.body, `"response_token":"sha256=`) || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("answered %v, %v", a, err)
	}
	w.is(w.raw(request("GET", path(x), "")), 405, kapsel.InvalidRequest)

	meta := w.endpoint(w.signedBy("meta", "a secret"))
	w.is(w.raw(request("GET", path(meta)+"?hub.mode=subscribe&hub.challenge=1&hub.verify_token=another", "")), 403, kapsel.Forbidden)

	github := w.endpoint(w.signedBy("github", "a secret"))
	w.is(w.raw(request("GET", path(github)+"?crc_token=abc", "")), 405, kapsel.InvalidRequest)
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored of challenges", n)
	}

	xero := w.endpoint(w.signedBy("xero", "a secret"))
	w.refused(401, kapsel.InvalidSignature, xero, `{"events":[]}`)
	mac, err := hex.DecodeString(sign("a secret", `{"events":[1]}`))
	w.must(err)
	a := w.post(xero, `{"events":[1]}`, "X-Xero-Signature: "+base64Of(mac))
	if a.status != 200 || a.body != "" || a.header.Get("Set-Cookie") != "" {
		t.Errorf("answered %v", a)
	}
	w.event(a.event())
}

// TestChallenge checks that a request that an endpoint's settings describe as a challenge is
// answered and not stored, a signed one only with the right signature, and that every other request
// is an event.
func TestChallenge(t *testing.T) {
	w := newWorld(t)
	settings := func(more func(*kapsel.Endpoint)) *kapsel.Endpoint {
		return w.endpoint(func(ep *kapsel.Endpoint) {
			if more != nil {
				more(ep)
			}
			ep.Challenge, ep.Probe = &kapsel.Challenge{From: "json:$.challenge", To: "json:challenge"}, true
		})
	}
	open, signed := settings(nil), settings(w.signedBy("hmac", "a secret"))
	const challenge, event = `{"challenge":"c-1"}`, `{"challenge":"c-1","event":{}}`
	for _, ep := range []*kapsel.Endpoint{open, signed} {
		a := w.post(ep, challenge)
		if a.status != 200 || a.body != challenge || a.header.Get("Content-Type") != "application/json" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("the challenge is answered %v", a)
		}
		if a := w.raw(request("GET", path(ep), "")); a.status != 200 || a.body != "" {
			t.Errorf("a probe is answered %v", a)
		}
		w.is(w.raw(request("PUT", path(ep), "")), 405, kapsel.InvalidRequest)
	}
	w.refused(401, kapsel.InvalidSignature, signed, challenge, "X-Webhook-Signature: "+sign("another", challenge))
	w.refused(401, kapsel.InvalidSignature, signed, event)
	if a := w.post(signed, challenge, "X-Webhook-Signature: "+sign("a secret", challenge)); a.status != 200 || a.body != challenge {
		t.Errorf("the signed challenge is answered %v", a)
	}
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored of challenges", n)
	}
	if got := w.accepted(open, event).Event; string(got.Body) != event {
		t.Errorf("an event with a member challenge is stored as %s", got.Body)
	}
	w.accepted(signed, event, "X-Webhook-Signature: "+sign("a secret", event))
}

// TestRemoteKeys checks that, while a provider's keys cannot be fetched, a request that may be
// right gets 503 and one that cannot be right gets 401, and that neither is stored.
func TestRemoteKeys(t *testing.T) {
	w := newWorld(t)
	var asked atomic.Int32
	w.handler.Remote = signature.NewRemote(func(context.Context, string) ([]byte, error) {
		asked.Add(1)
		return nil, errors.New("nobody answers")
	})
	sns := w.endpoint(func(ep *kapsel.Endpoint) {
		ep.Verification = kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{"arn:aws:sns:eu-west-1:123456789012:orders"}}
	})
	message := func(topic, cert string) string {
		return `{"Type":"Notification","MessageId":"1","TopicArn":"` + topic + `","Message":"m","Timestamp":"t","SignatureVersion":"2","Signature":"AAAA","SigningCertURL":"` + cert + `"}`
	}
	const topic, cert = "arn:aws:sns:eu-west-1:123456789012:orders", "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-01.pem"
	w.refused(401, kapsel.InvalidSignature, sns, message("arn:aws:sns:eu-west-1:999999999999:orders", cert))
	w.refused(401, kapsel.InvalidSignature, sns, message(topic, "https://169.254.169.254/SimpleNotificationService-01.pem"))
	if n := asked.Load(); n != 0 {
		t.Errorf("forged messages made us ask %d times", n)
	}
	for range 100 {
		a := w.refused(503, kapsel.QueueFull, sns, message(topic, cert))
		if a.header.Get("Retry-After") == "" {
			t.Errorf("answered %v", a)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times in a minute", n)
	}
}

// down is a directory that does not answer.
type down struct{}

func (down) UpdateEndpoint(context.Context, kapsel.TenantID, kapsel.EndpointID, func(*kapsel.Endpoint) error) (kapsel.Endpoint, error) {
	return kapsel.Endpoint{}, kapsel.Errorf(kapsel.DatabaseUnavailable, "the database does not answer")
}

// TestHandshakeThatBringsTheSecret checks that such a handshake counts once, while a person awaits
// it.
func TestHandshakeThatBringsTheSecret(t *testing.T) {
	w := newWorld(t)
	asana := func(until time.Time) *kapsel.Endpoint {
		return w.endpoint(func(ep *kapsel.Endpoint) {
			ep.Verification = kapsel.Verification{Provider: "asana", AwaitingUntil: until}
		})
	}
	late := asana(time.Now().Add(-time.Second))
	w.refused(401, kapsel.InvalidSignature, late, "{}", "X-Hook-Secret: s1")
	ep := asana(time.Now().Add(10 * time.Minute))
	w.refused(401, kapsel.InvalidSignature, ep, "{}", "X-Hook-Signature: "+sign("s1", "{}"))
	directory := w.handler.Endpoints
	w.handler.Endpoints = down{}
	w.refused(503, kapsel.DatabaseUnavailable, ep, "{}", "X-Hook-Secret: s0")
	w.handler.Endpoints = directory
	var kept atomic.Int32
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			secret := fmt.Sprintf("s%d", i)
			switch a := w.post(ep, "{}", "X-Hook-Secret: "+secret); {
			case a.status == 200 && a.header.Get("X-Hook-Secret") == secret && a.body == "":
				kept.Store(int32(i))
			case a.status != 401:
				t.Errorf("answered %v", a)
			}
		})
	}
	all.Wait()
	stored, err := w.db.Endpoint(t.Context(), kapsel.TenantID{}, ep.ID)
	if err != nil || len(stored.Verification.Secrets) != 1 || !stored.Verification.AwaitingUntil.IsZero() || !stored.Verification.ShownUntil.IsZero() {
		t.Fatalf("%+v, %v", stored.Verification, err)
	}
	secret := fmt.Sprintf("s%d", kept.Load())
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored of handshakes", n)
	}
	const events = `{"events":[{}]}`
	w.accepted(ep, events, "X-Hook-Signature: "+sign(secret, events))
	w.refused(401, kapsel.InvalidSignature, ep, "{}", "X-Hook-Secret: another")
	if log := w.logged(); strings.Contains(log, `"another"`) {
		t.Errorf("the log tells a secret:\n%s", log)
	}
}
