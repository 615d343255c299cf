package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func requestFor(path string) *http.Request { return httptest.NewRequest("GET", path, nil) }

func TestEvents(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	body := []byte("\x00\xff<script>\r\n")
	ev, d := w.receive(h.endpoint, func(e *kapsel.Event) {
		e.Body, e.IdempotencyKey, e.ContentType = body, []byte("order-1"), "text/html"
		e.Signature = kapsel.SignatureVerdict{Scheme: "stripe", Valid: true, KeyID: "sec_1", Skew: 1500 * time.Millisecond}
		e.Header = append(e.Header, kapsel.HeaderField{Name: "Authorization", Value: "Bearer hunter2"}, kapsel.HeaderField{Name: "X-Gitlab-Token", Value: "hunter2"},
			kapsel.HeaderField{Name: "X-Raw", Value: "a\xffb"})
	})
	path := "/v1/events/" + ev.ID.String()
	listed := object{
		"id": ev.ID.String(), "endpoint_id": h.endpoint, "tenant_id": h.tenant, "status": "received", "received_at": "2026-03-01T12:00:00.000Z", "delivered_at": nil, "erased_at": nil,
		"content_type": "text/html", "size": float64(len(body)), "idempotency_key": "order-1",
		"source_id": nil, "app_id": nil, "deliver_at": nil, "expanding": false, "type": nil, "channels": []any{}, "ordering_key": nil,
		"signature": map[string]any{"scheme": "stripe", "valid": true, "key_id": "sec_1", "skew": "1.5s"},
	}
	if diff := cmp.Diff([]object{listed}, w.want(200, "GET", "/v1/events", h.read, nil).list("data")); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	detail := w.want(200, "GET", path, h.read, nil)
	for name, v := range listed {
		if diff := cmp.Diff(v, detail[name]); diff != "" {
			t.Errorf("GET %s (-want +got):\n%s", name, diff)
		}
	}
	wantHeaders := []any{
		[]any{"Content-Type", "application/json"}, []any{"X-Id", "1"}, []any{"X-Id", "2"}, []any{"Authorization", "[redacted]"}, []any{"X-Gitlab-Token", "[redacted]"},
		[]any{"X-Raw", "a\ufffdb"},
	}
	if diff := cmp.Diff(wantHeaders, detail["headers"]); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if detail.text("query") != "a=1&b" || ids(detail.list("deliveries")) != d.ID.String() {
		t.Errorf("query %q, deliveries %v", detail.text("query"), detail.list("deliveries"))
	}

	a := w.do("GET", path+"/payload", h.read, nil)
	if a.status != 200 || !bytes.Equal(a.body, body) {
		t.Errorf("payload: %d %q", a.status, a.body)
	}
	if got := a.header.Get("Content-Type") + ", " + a.header.Get("Content-Disposition"); got != `application/octet-stream, attachment; filename="`+ev.ID.String()+`"` {
		t.Errorf("payload is sent as %s", got)
	}
	w.now = w.now.Add(time.Millisecond) // so that the first one is the older
	empty, _ := w.receive(h.endpoint, func(e *kapsel.Event) { e.Body = nil })
	if a := w.do("GET", "/v1/events/"+empty.ID.String()+"/payload", h.read, nil); a.status != 200 || len(a.body) != 0 {
		t.Errorf("empty payload: %d %q", a.status, a.body)
	}

	w.attempt(h.endpoint, kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, MaxAttempts: 1, Retry: true}, nil)
	if got := w.want(200, "GET", path, h.read, nil).text("status"); got != "dead_letter" {
		t.Errorf("status %q", got)
	}
	replay := w.want(200, "POST", path+"/replay", h.write, nil)
	if replay.text("replay_of") != d.ID.String() || replay.text("status") != "pending" || replay.text("event_id") != ev.ID.String() {
		t.Errorf("replay: %v", replay)
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", path+"/replay", h.write, nil)
	w.want(200, "POST", "/v1/deliveries/"+replay.text("id")+"/retry", h.write, nil)
	if got := w.want(200, "GET", path, h.read, nil).text("status"); got != "received" {
		t.Errorf("status with a fresh replay: %q", got)
	}
	w.now = w.now.Add(time.Second)
	w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil) // the empty one, which was due first
	w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	got := w.want(200, "GET", path, h.read, nil)
	if got.text("status") != "delivered" || got.text("delivered_at") != "2026-03-01T12:00:01.001Z" {
		t.Errorf("status %q, delivered at %q", got.text("status"), got.text("delivered_at"))
	}
}

func TestEventFilters(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	other := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"b","url":"https://example.com"}`).text("id")
	sum := sha256.Sum256([]byte("x"))
	first, _ := w.receive(h.endpoint, func(e *kapsel.Event) { e.IdempotencyKey = []byte("k") })
	w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	w.now = w.now.Add(time.Minute)
	second, _ := w.receive(h.endpoint, func(e *kapsel.Event) { e.IdempotencyKey = sum[:] })
	w.now = w.now.Add(time.Minute)
	third, _ := w.receive(other, nil)
	for filter, want := range map[string][]kapsel.EventID{
		"":                           {third.ID, second.ID, first.ID},
		"endpoint_id=" + other:       {third.ID},
		"status=delivered":           {first.ID},
		"status=received":            {third.ID, second.ID},
		"status=failed":              nil,
		"idempotency_key=k":          {first.ID},
		"idempotency_key=K":          nil,
		"since=2026-03-01T12:01:00Z": {third.ID, second.ID},
		"until=2026-03-01T12:01:00Z": {first.ID},
		"since=2026-03-01T13:01:00%2B01:00&until=2026-03-01T12:02:00Z": {second.ID},
		"status=received&endpoint_id=" + h.endpoint:                    {second.ID},
		"idempotency_key=" + fmt.Sprintf("sha256:%x", sum):             {second.ID},
	} {
		var text []string
		for _, id := range want {
			text = append(text, id.String())
		}
		if got := ids(w.want(200, "GET", "/v1/events?"+filter, h.read, nil).list("data")); got != strings.Join(text, " ") {
			t.Errorf("%s: %s, want %s", filter, got, text)
		}
	}
	if got := w.want(200, "GET", "/v1/events/"+second.ID.String(), h.read, nil).text("idempotency_key"); got != fmt.Sprintf("sha256:%x", sum) {
		t.Errorf("a key of content shows as %q", got)
	}
}

func TestDeliveriesAndAttempts(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	ev, d := w.receive(h.endpoint, nil)
	path := "/v1/deliveries/" + d.ID.String()
	want := object{
		"id": d.ID.String(), "event_id": ev.ID.String(), "endpoint_id": h.endpoint, "status": "pending", "attempts": 0., "max_attempts": 20.,
		"next_attempt_at": "2026-03-01T12:00:00.000Z", "waiting_for": "worker", "last_status_code": nil, "last_error_code": nil, "replay_of": nil, "replayed_as": nil,
		"created_at": "2026-03-01T12:00:00.000Z", "finished_at": nil,
	}
	if diff := cmp.Diff(want, w.want(200, "GET", path, h.read, nil)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	first := w.attempt(h.endpoint, kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, MaxAttempts: 20, Retry: true, Delay: time.Minute}, func(a *kapsel.Attempt) {
		a.Error = "the destination answered 503"
		a.ResponseHeaders = kapsel.Header{{Name: "Retry-After", Value: "1"}, {Name: "Set-Cookie", Value: "hunter2"}}
		a.ResponseBody = []byte("\xff\x00")
	})
	want["attempts"], want["next_attempt_at"], want["last_status_code"], want["last_error_code"] = 1., "2026-03-01T12:01:00.000Z", 503., "E2004"
	if diff := cmp.Diff(want, w.want(200, "GET", path, h.read, nil)); diff != "" {
		t.Errorf("after a failure (-want +got):\n%s", diff)
	}
	attempt := object{
		"id": first.ID.String(), "delivery_id": d.ID.String(), "event_id": ev.ID.String(), "endpoint_id": h.endpoint, "number": 1., "started_at": "2026-03-01T12:00:00.000Z",
		"duration_ms": 1.235, "status_code": 503., "error_code": "E2004", "error": "the destination answered 503",
		"request_headers":  []any{[]any{"X-Token", "[redacted]"}, []any{"Host", "example.com"}},
		"response_headers": []any{[]any{"Retry-After", "1"}, []any{"Set-Cookie", "[redacted]"}},
		"response_body":    nil, "response_body_base64": base64.StdEncoding.EncodeToString([]byte("\xff\x00")), "leaf_index": nil,
	}
	if diff := cmp.Diff(attempt, w.want(200, "GET", "/v1/attempts/"+first.ID.String(), h.read, nil)); diff != "" {
		t.Errorf("attempt (-want +got):\n%s", diff)
	}

	w.now = w.now.Add(time.Second)
	if got := w.want(200, "POST", path+"/retry", h.write, nil).text("next_attempt_at"); got != "2026-03-01T12:00:01.000Z" {
		t.Errorf("retry: due at %s", got)
	}
	second := w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 20}, nil)
	for _, action := range []string{"/retry", "/cancel"} {
		w.refused(kapsel.Conflict, 409, nil, "POST", path+action, h.write, nil)
	}
	page := w.want(200, "GET", path+"/attempts?limit=1", h.read, nil)
	next := w.want(200, "GET", path+"/attempts?limit=1&cursor="+page.text("next_cursor"), h.read, nil)
	if got := ids(page.list("data")) + " " + ids(next.list("data")); got != first.ID.String()+" "+second.ID.String() || next["next_cursor"] != nil {
		t.Errorf("attempts %s, then %v", got, next["next_cursor"])
	}
	if got := next.list("data")[0]; got.text("response_body") != "ok" || got["error"] != nil || got["error_code"] != nil {
		t.Errorf("second attempt: %v", got)
	}
	done := w.want(200, "GET", path, h.read, nil)
	if done.text("status") != "delivered" || done["waiting_for"] != nil || done["next_attempt_at"] != nil || done.text("finished_at") != "2026-03-01T12:00:01.000Z" {
		t.Errorf("delivered: %v", done)
	}

	_, waiting := w.receive(h.endpoint, nil)
	canceled := w.want(200, "POST", "/v1/deliveries/"+waiting.ID.String()+"/cancel", h.write, nil)
	if canceled.text("status") != "canceled" {
		t.Errorf("cancel: %v", canceled)
	}
	w.want(200, "POST", "/v1/events/"+ev.ID.String()+"/replay", h.write, nil)
	for filter, want := range map[string]string{
		"status=delivered": d.ID.String(), "status=canceled": waiting.ID.String(), "status=delivered&replayed=false": "", "replayed=true": d.ID.String(),
		"status=canceled&replayed=false&endpoint_id=" + h.endpoint: waiting.ID.String(),
	} {
		if got := ids(w.want(200, "GET", "/v1/deliveries?"+filter, h.read, nil).list("data")); got != want {
			t.Errorf("%s: %s, want %s", filter, got, want)
		}
	}

	// What is left of an endpoint stays readable when it is deleted.
	w.want(204, "DELETE", "/v1/endpoints/"+h.endpoint, h.write, nil)
	if got := w.want(200, "GET", path, h.read, nil); got["max_attempts"] != nil || got.text("status") != "delivered" {
		t.Errorf("of a deleted endpoint: %v", got)
	}
	w.want(200, "GET", "/v1/events/"+ev.ID.String(), h.read, nil)
	w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/events/"+ev.ID.String()+"/replay", h.write, nil)
}

// TestReplayEvent_ToOneEndpoint: of several endpoints that an event went to, the one that is named
// gets it again.
func TestReplayEvent_ToOneEndpoint(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	subscriber := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"b","url":"https://example.com","subscriptions":[{"source":"`+h.endpoint+`"}]}`).text("id")
	source := w.stored(h.endpoint)
	in := store.Acceptance{Event: kapsel.Event{
		ID: kapsel.NewEventID(w.now, source.Part), TenantID: source.TenantID, EndpointID: source.ID, ReceivedAt: w.now, Body: []byte("x"), Size: 1,
	}}
	for _, id := range []kapsel.EndpointID{source.ID, w.stored(subscriber).ID} {
		in.Deliveries = append(in.Deliveries, kapsel.Delivery{
			ID: kapsel.NewDeliveryID(w.now, source.Part), EventID: in.Event.ID, EndpointID: id, TenantID: source.TenantID, DueAt: w.now, Size: 1, CreatedAt: w.now,
		})
	}
	if _, err := w.store.Accept(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	path := "/v1/events/" + in.Event.ID.String()
	body := func(endpoint string) string { return `{"endpoint_id":"` + endpoint + `"}` }
	w.refused(kapsel.Conflict, 409, nil, "POST", path+"/replay", h.write, body(h.endpoint)) // it waits
	for _, d := range in.Deliveries {
		w.want(200, "POST", "/v1/deliveries/"+d.ID.String()+"/cancel", h.write, nil)
	}
	for i, endpoint := range []string{h.endpoint, subscriber} {
		again := w.want(200, "POST", path+"/replay", h.write, body(endpoint))
		if again.text("endpoint_id") != endpoint || again.text("replay_of") != in.Deliveries[i].ID.String() {
			t.Errorf("a replay to %s is %v", endpoint, again)
		}
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"endpoint_id"}, "POST", path+"/replay", h.write, body(other.endpoint))
	if events := w.want(200, "GET", "/v1/events?status=received&endpoint_id="+subscriber, h.read, nil).list("data"); len(events) != 1 {
		t.Errorf("%d events wait for the subscriber", len(events))
	}
}

// TestReplayEvent_First: an event is delivered to an endpoint that had nothing of it, also one
// that went nowhere, which is listed as unmatched until then.
func TestReplayEvent_First(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	source := kapsel.NewSourceID(w.now)
	ev := kapsel.Event{
		ID: kapsel.NewEventID(w.now, kapsel.PartOf(source)), TenantID: w.stored(h.endpoint).TenantID, SourceID: source, Type: "orders/create",
		ReceivedAt: w.now, Body: []byte("x"), Size: 1,
	}
	if _, err := w.store.Accept(t.Context(), store.Acceptance{Event: ev}); err != nil {
		t.Fatal(err)
	}
	path := "/v1/events/" + ev.ID.String()
	listed := w.want(200, "GET", "/v1/events?status=unmatched", h.read, nil).list("data")
	if len(listed) != 1 || listed[0]["endpoint_id"] != nil || listed[0]["source_id"] != source.String() || listed[0]["type"] != "orders/create" || listed[0]["status"] != "unmatched" {
		t.Errorf("unmatched: %v", listed)
	}
	if got := w.want(200, "GET", "/v1/events?status=unmatched", other.read, nil).list("data"); len(got) != 0 {
		t.Errorf("another tenant sees %v", got)
	}
	body := func(endpoint string) string { return `{"endpoint_id":"` + endpoint + `"}` }
	w.refused(kapsel.InvalidRequest, 422, []string{"endpoint_id"}, "POST", path+"/replay", h.write, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"endpoint_id"}, "POST", path+"/replay", h.write, body(other.endpoint))
	w.refused(kapsel.NotFound, 404, nil, "POST", path+"/replay", other.write, body(other.endpoint))
	made := w.want(200, "POST", path+"/replay", h.write, body(h.endpoint))
	if made.text("endpoint_id") != h.endpoint || made["replay_of"] != nil || made.text("status") != "pending" {
		t.Errorf("made: %v", made)
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", path+"/replay", h.write, body(h.endpoint)) // it waits
	if got := w.want(200, "GET", "/v1/events?status=unmatched", h.read, nil).list("data"); len(got) != 0 {
		t.Errorf("still unmatched: %v", got)
	}
	if got := w.want(200, "GET", path, h.read, nil); got.text("status") != "received" || ids(got.list("deliveries")) != made.text("id") {
		t.Errorf("the event is %v", got)
	}
}

// TestErase_S28 checks that the API shows an event as erased, refuses its payload, a replay and its proof with
// words, and goes on to prove the hash of its leaf.
func TestErase_S28(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("mine")
	ev, _ := w.receive(h.endpoint, nil)
	path := "/v1/events/" + ev.ID.String()
	w.refused(kapsel.Conflict, 409, nil, "POST", path+"/erase", h.write, nil)
	a := w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	w.publishLogs()
	proof := "/v1/attempts/" + a.ID.String() + "/proof"
	w.want(200, "GET", proof, h.read, nil)
	index := w.want(200, "GET", "/v1/attempts/"+a.ID.String(), h.read, nil)["leaf_index"]
	if got := w.want(200, "GET", path, h.read, nil); got["erased_at"] != nil {
		t.Errorf("before it is erased the event is %v", got)
	}
	w.refused(kapsel.Forbidden, 403, nil, "POST", path+"/erase", h.read, nil)
	w.refused(kapsel.NotFound, 404, nil, "POST", path+"/erase", w.newHouse("other").write, nil)
	first := w.want(200, "POST", path+"/erase", h.write, nil)
	w.now = w.now.Add(time.Minute)
	again := w.want(200, "POST", path+"/erase", h.write, nil)
	if first["erased_at"] == nil || first["erased_at"] != again["erased_at"] || len(first.list("deliveries")) != 1 || first["size"] != 0.0 {
		t.Errorf("erased it is %v, and then %v", first, again)
	}
	gone := w.want(410, "GET", path+"/payload", h.read, nil)
	if gone.text("code") != string(kapsel.NotFound) || !strings.Contains(gone.text("detail"), "erased") {
		t.Errorf("its payload is %v", gone)
	}
	for _, refused := range []object{w.want(409, "POST", path+"/replay", h.write, nil), w.want(409, "GET", proof, h.read, nil)} {
		if !strings.Contains(refused.text("detail"), "erased") {
			t.Errorf("refused with %v", refused)
		}
	}
	w.publishLogs()
	if now := w.want(200, "GET", "/v1/attempts/"+a.ID.String(), h.read, nil)["leaf_index"]; now != index {
		t.Errorf("its leaf is %v, was %v", now, index)
	}
	log := w.want(200, "GET", "/v1/attestation", h.read, nil)
	w.want(200, "GET", fmt.Sprintf("/attestation/%s/proof/%v", log.text("log"), index), "", nil)
	if log["size"] != 2.0 {
		t.Errorf("the log has %v leaves, want the attempt's and the erasure's", log["size"])
	}
}

// TestAuditRetention checks that a tenant's audit retention is shown and set, and keeps its default where a
// patch does not name it.
func TestAuditRetention(t *testing.T) {
	w := newWorld(t)
	path := "/v1/tenants/" + w.newHouse("mine").tenant
	retention := func(patch string) any {
		t.Helper()
		return w.want(200, "PATCH", path, adminKey, patch)["audit"].(map[string]any)["retention"]
	}
	for _, tt := range []struct {
		patch string
		want  string
	}{
		{`{}`, "61320h"}, {`{"audit":{"public":false}}`, "61320h"}, {`{"audit":{"retention":"48h"}}`, "48h"}, {`{"audit":{"witnesses":1}}`, "48h"},
		{`{"audit":{"retention":null}}`, "61320h"}, {`{"audit":{"retention":"48h"}}`, "48h"}, {`{"audit":null}`, "61320h"},
	} {
		if got := retention(tt.patch); got != tt.want {
			t.Errorf("after %s it is %v, want %s", tt.patch, got, tt.want)
		}
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"audit.retention"}, "PATCH", path, adminKey, `{"audit":{"retention":"1h"}}`)
}
