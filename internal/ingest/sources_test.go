package ingest_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// source makes a source.
func (w *world) source(change func(*kapsel.Source)) *kapsel.Source {
	w.t.Helper()
	now := time.Now()
	src := &kapsel.Source{
		ID: kapsel.NewSourceID(now), TenantID: w.tenant.ID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now,
		SourceConfig: kapsel.DefaultSource(),
	}
	src.Name = "shop"
	if change != nil {
		change(src)
	}
	w.must(w.db.CreateSource(context.Background(), *src))
	return src
}

// subscriber makes an endpoint that gets a source's events of some types, all without any.
func (w *world) subscriber(src *kapsel.Source, change func(*kapsel.Endpoint), types ...string) *kapsel.Endpoint {
	w.t.Helper()
	ep := w.endpoint(func(ep *kapsel.Endpoint) {
		ep.Subscriptions, ep.NoIngest = []kapsel.Subscription{{Source: src.ID.String(), EventTypes: types}}, true
		if change != nil {
			change(ep)
		}
	})
	w.must(w.settings.Load(context.Background()))
	return ep
}

// send posts a webhook to a source.
func (w *world) send(src *kapsel.Source, body string, header ...string) answer {
	w.t.Helper()
	return w.raw(request("POST", "/ingest/"+src.ID.String(), body, header...))
}

// TestSource checks that a webhook posted to a source is one event of the source, with a delivery
// to each endpoint that subscribes.
func TestSource(t *testing.T) {
	w := newWorld(t)
	src, other := w.source(nil), w.source(nil)
	one, two := w.subscriber(src, nil), w.subscriber(src, nil)
	w.subscriber(other, nil)
	a := w.send(src, `{"a":1}`, "X-Shop: 1", "Idempotency-Key: k")
	if want := fmt.Sprintf(`{"event_id":"%s","status":"received"}`, a.event()); a.status != 200 || a.body != want {
		t.Fatalf("answered %v", a)
	}
	got := w.event(a.event())
	if got.Event.SourceID != src.ID || !got.Event.EndpointID.IsZero() || got.Event.Type != "" || string(got.Event.Body) != `{"a":1}` ||
		got.Event.ID.Part() != kapsel.PartOf(src.ID) {
		t.Errorf("stored: %+v", got.Event)
	}
	if len(got.Deliveries) != 2 || !got.To(one.ID) || !got.To(two.ID) {
		t.Errorf("deliveries: %+v", got.Deliveries)
	}
	again := w.send(src, `{"a":2}`, "Idempotency-Key: k")
	if again.event() != a.event() || again.header.Get("Idempotent-Replayed") != "true" || again.body != a.body {
		t.Errorf("a duplicate: %v", again)
	}
	if a := w.send(other, `{}`, "Idempotency-Key: k"); a.status != 200 || a.event() == got.Event.ID {
		t.Errorf("the same key at another source: %v", a)
	}
}

// TestSource_Missing checks that a missing or disabled source is answered like a missing endpoint
// and nothing is stored, and that the answer is 503 if the store cannot say whether the source
// exists.
func TestSource_Missing(t *testing.T) {
	w := newWorld(t)
	disabled := w.source(func(s *kapsel.Source) { s.State = kapsel.SourceDisabled })
	deleted := w.source(nil)
	w.must(w.db.DeleteSource(context.Background(), kapsel.TenantID{}, deleted.ID, time.Now()))
	var answers []string
	for _, id := range []string{
		disabled.ID.String(), deleted.ID.String(), kapsel.NewSourceID(time.Now()).String(),
		"src_" + strings.Repeat("8", 26), "src_", "src", kapsel.EndpointID(w.source(nil).ID).String(),
	} {
		a := w.raw(request("POST", "/ingest/"+id, "{}"))
		w.is(a, 404, kapsel.InvalidEndpoint)
		same, _, _ := strings.Cut(a.body, `"request_id"`)
		answers = append(answers, same)
	}
	for _, a := range answers {
		if a != answers[0] {
			t.Errorf("they are answered otherwise:\n%s\n%s", answers[0], a)
		}
	}
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored", n)
	}
	unknown := w.source(nil)
	w.fault(storetest.Nth("Source", 1, storetest.NotPersisted))
	w.is(w.send(unknown, "{}"), 503, kapsel.DatabaseUnavailable)
	w.fault(nil)
	if a := w.send(unknown, "{}"); a.status != 200 {
		t.Errorf("once the store answers: %v", a)
	}
	w.is(w.raw(request("GET", "/ingest/"+unknown.ID.String(), "")), 405, kapsel.InvalidRequest)
}

// TestSource_Unmatched checks that an event that no endpoint wants is accepted and stored like
// others.
func TestSource_Unmatched(t *testing.T) {
	w := newWorld(t)
	src := w.source(nil)
	w.subscriber(src, nil, "invoice.*")
	a := w.send(src, "{}", "Idempotency-Key: k")
	if a.status != 200 {
		t.Fatalf("answered %v", a)
	}
	got := w.event(a.event())
	if status := kapsel.StatusOfEvent(got.Newest(), false); status != kapsel.EventUnmatched {
		t.Errorf("the event is %s, with %d deliveries", status, len(got.Deliveries))
	}
	if again := w.send(src, "{}", "Idempotency-Key: k"); again.event() != a.event() {
		t.Errorf("a duplicate: %v", again)
	}
}

// TestSource_Type checks that the type is read where the source's settings say, and decides which
// endpoints get the event.
func TestSource_Type(t *testing.T) {
	long := strings.Repeat("t", 255)
	for name, tt := range map[string]struct {
		rule   kapsel.TypeRule
		header []string
		body   string
		want   string
	}{
		"none":                {kapsel.TypeRule{}, []string{"X-Topic: invoice.paid"}, `{"type":"invoice.paid"}`, ""},
		"const":               {kapsel.TypeRule{From: "const", Value: "invoice.paid"}, nil, "not JSON", "invoice.paid"},
		"header":              {kapsel.TypeRule{From: "header:x-topic"}, []string{"X-Topic: invoice.paid"}, "", "invoice.paid"},
		"header with a slash": {kapsel.TypeRule{From: "header:X-Topic"}, []string{"X-Topic: orders/create"}, "", "orders/create"},
		"header, missing":     {kapsel.TypeRule{From: "header:X-Topic"}, nil, `{}`, ""},
		"header, no type":     {kapsel.TypeRule{From: "header:X-Topic"}, []string{"X-Topic: invoice paid"}, "", ""},
		"header, too long":    {kapsel.TypeRule{From: "header:X-Topic"}, []string{"X-Topic: " + long + "t"}, "", ""},
		"header, long":        {kapsel.TypeRule{From: "header:X-Topic"}, []string{"X-Topic: " + long}, "", long},
		"path":                {kapsel.TypeRule{From: "path:$.event.type"}, nil, `{"event":{"type":"invoice.paid"}}`, "invoice.paid"},
		"path into a form":    {kapsel.TypeRule{From: "path:$.type"}, nil, "payload=%7B%22type%22%3A%22invoice.paid%22%7D", "invoice.paid"},
		"path, missing":       {kapsel.TypeRule{From: "path:$.event.type"}, nil, `{"event":{}}`, ""},
		"path, no type":       {kapsel.TypeRule{From: "path:$.type"}, nil, `{"type":"größer"}`, ""},
		"path, no JSON":       {kapsel.TypeRule{From: "path:$.type"}, nil, `type`, ""},
	} {
		w := newWorld(t)
		src := w.source(func(s *kapsel.Source) { s.Type = tt.rule })
		all, some, none := w.subscriber(src, nil), w.subscriber(src, nil, "other", "invoice.*"), w.subscriber(src, nil, "order.*")
		a := w.send(src, tt.body, tt.header...)
		if a.status != 200 {
			t.Fatalf("%s: answered %v", name, a)
		}
		got := w.event(a.event())
		if got.Event.Type != tt.want || string(got.Event.Body) != tt.body {
			t.Errorf("%s: the type is %q, want %q", name, got.Event.Type, tt.want)
		}
		if !got.To(all.ID) || got.To(some.ID) != strings.HasPrefix(tt.want, "invoice.") || got.To(none.ID) {
			t.Errorf("%s: it goes to %+v", name, got.Deliveries)
		}
	}
}

// TestSource_Sent: a delivery of a source's event has the sender's headers and the type, and none
// of the credentials that came with it, whatever the subscriber keeps.
func TestSource_Sent(t *testing.T) {
	w := newWorld(t)
	src := w.source(func(s *kapsel.Source) { s.Type = kapsel.TypeRule{From: "header:X-Topic"} })
	w.subscriber(src, func(ep *kapsel.Endpoint) {
		ep.State = kapsel.EndpointActive
		ep.Headers.Keep = []string{"Authorization", "Cookie"}
	})
	a := w.send(src, "{}", "X-Topic: a.b", "Authorization: Bearer hunter2", "Cookie: hunter2", "Proxy-Authorization: hunter2", "X-Kapsel-Event-Type: forged")
	if a.status != 200 {
		t.Fatalf("answered %v", a)
	}
	sent := w.delivered()
	if got := sent.Header.Values("X-Kapsel-Event-Type"); len(got) != 1 || got[0] != "a.b" || sent.Header.Get("X-Topic") != "a.b" {
		t.Errorf("sent: %v", sent.Header)
	}
	if via := sent.Header.Get("X-Kapsel-Via"); via != (kapsel.InstanceID{}).Mark(src.ID) {
		t.Errorf("the mark is %q", via)
	}
	for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
		if got := sent.Header.Get(name); got != "" {
			t.Errorf("%s: %s was sent", name, got)
		}
		if got := w.event(a.event()).Event.Header.Get(name); got != secret.Redacted {
			t.Errorf("%s: %s is stored", name, got)
		}
	}
	back := w.send(src, "{}", "X-Kapsel-Via: "+sent.Header.Get("X-Kapsel-Via"))
	w.is(back, 422, kapsel.InvalidRequest)
}

// TestSource_Intake checks that verification, handshakes and answers work for a source as for an
// endpoint, by its present settings.
func TestSource_Intake(t *testing.T) {
	w := newWorld(t)
	tenant, err := w.db.Tenant(context.Background(), w.tenant.ID)
	w.must(err)
	seal := func(s *kapsel.Source, plain string) {
		sealed, err := w.vault.Seal(&tenant, s.ID.String(), []byte(plain), time.Now())
		w.must(err)
		s.Verification = kapsel.Verification{Provider: "hmac", Secrets: []kapsel.Secret{sealed}}
	}
	src := w.source(func(s *kapsel.Source) {
		seal(s, "s1")
		s.Response = &kapsel.Response{Status: 202, ContentType: "text/plain", Body: "thank you"}
		s.Challenge, s.Probe = &kapsel.Challenge{From: "query:c", To: "body"}, true
	})
	w.is(w.send(src, "{}"), 401, kapsel.InvalidSignature)
	w.is(w.send(src, "{}", "X-Webhook-Signature: "+sign("s2", "{}")), 401, kapsel.InvalidSignature)
	a := w.send(src, "{}", "X-Webhook-Signature: "+sign("s1", "{}"))
	if a.status != http.StatusAccepted || a.body != "thank you" {
		t.Errorf("answered %v", a)
	}
	if got := w.event(a.event()).Event.Signature; !got.Valid || got.Scheme != "hmac" {
		t.Errorf("verdict %+v", got)
	}
	if a := w.raw(request("GET", "/ingest/"+src.ID.String()+"?c=42", "")); a.status != 200 || a.body != "42" {
		t.Errorf("a challenge: %v", a)
	}
	if a := w.raw(request("HEAD", "/ingest/"+src.ID.String(), "")); a.status != 200 {
		t.Errorf("a probe: %v", a)
	}
	_, err = w.db.UpdateSource(context.Background(), kapsel.TenantID{}, src.ID, func(s *kapsel.Source) error { seal(s, "s2"); return nil })
	w.must(err)
	w.must(w.settings.Load(context.Background()))
	w.is(w.send(src, "{}", "X-Webhook-Signature: "+sign("s1", "{}")), 401, kapsel.InvalidSignature)
	if a := w.send(src, "{}", "X-Webhook-Signature: "+sign("s2", "{}")); a.status != http.StatusAccepted {
		t.Errorf("with the new secret: %v", a)
	}

	asana := w.source(func(s *kapsel.Source) {
		s.Verification = kapsel.Verification{Provider: "asana", AwaitingUntil: time.Now().Add(10 * time.Minute)}
	})
	if a := w.send(asana, "{}", "X-Hook-Secret: brought"); a.status != 200 || a.header.Get("X-Hook-Secret") != "brought" {
		t.Errorf("a handshake that brings the secret: %v", a)
	}
	const events = `{"events":[{}]}`
	if a := w.send(asana, events, "X-Hook-Signature: "+sign("brought", events)); a.status != 200 {
		t.Errorf("after it: %v", a)
	}
	if n := w.stored(); n != 3 {
		t.Errorf("%d events are stored, want 3", n)
	}
}

// TestSource_Limits: a source's webhooks count for the limits of its tenant.
func TestSource_Limits(t *testing.T) {
	w := newWorld(t)
	slow := 0.001
	burst := 1
	w.tenant = w.newTenant(kapsel.Limits{Own: true, IngestPerSecond: &slow, IngestBurst: &burst})
	src, ep := w.source(nil), w.endpoint(nil)
	if a := w.send(src, "{}"); a.status != 200 || a.header.Get("X-RateLimit-Limit") != "1" || a.header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("the first: %v", a)
	}
	w.is(w.send(src, "{}"), 429, kapsel.RateLimited)
	w.is(w.post(ep, "{}"), 429, kapsel.RateLimited)
	w.is(w.raw("POST /ingest/"+src.ID.String()+" HTTP/1.1\r\nHost: in.example\r\nContent-Length: 10485761\r\n\r\n"), 413, kapsel.PayloadTooLarge)
}
