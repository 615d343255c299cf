package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// TestSources: a source is made with defaults, changed field by field, listed and deleted; its
// secrets are sealed and do not read back.
func TestSources(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	made := w.want(201, "POST", "/v1/sources", h.write, `{"name":"shop"}`)
	id := made.text("id")
	path := "/v1/sources/" + id
	want := object{
		"id": id, "tenant_id": h.tenant, "name": "shop", "state": "active", "ingest_url": "https://kapsel.example/ingest/" + id, "type": nil,
		"verification": map[string]any{"provider": "none", "secrets": []any{}, "tolerance": nil},
		"idempotency":  map[string]any{"strategy": "header", "header": "", "path": "", "window": "24h"},
		"challenge":    nil, "probe": false, "response": nil, "expect_every": nil, "warnings": []any{"unverified: anyone who knows the URL can post events"},
		"created_at": "2026-03-01T12:00:00.000Z", "updated_at": "2026-03-01T12:00:00.000Z",
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, w.want(200, "GET", path, h.read, nil)); diff != "" {
		t.Errorf("GET (-want +got):\n%s", diff)
	}
	patch := func(body string) object { return w.want(200, "PATCH", path, h.write, body) }
	got := patch(`{"verification":{"provider":"hmac","secrets":["hunter2"]},"type":{"from":"const","value":"a.b"},"response":{"status":202},"state":"disabled"}`)
	if len(got["warnings"].([]any)) != 0 || got.text("state") != "disabled" || fmt.Sprint(got["type"]) != "map[from:const value:a.b]" || strings.Contains(fmt.Sprint(got), "hunter2") {
		t.Errorf("changed: %v", got)
	}
	if got = patch(`{"type":{"from":"header:X-Topic"}}`); fmt.Sprint(got["type"]) != "map[from:header:X-Topic]" || got.text("state") != "disabled" || got["response"] == nil {
		t.Errorf("another type: %v", got)
	}
	secret := got["verification"].(map[string]any)["secrets"].([]any)[0].(map[string]any)["id"].(string)
	if got = patch(`{"verification":{"secrets":[{"id":"` + secret + `"},"another"]},"type":null,"state":null,"response":null}`); got["type"] != nil || got.text("state") != "active" ||
		got["response"] != nil || len(got["verification"].(map[string]any)["secrets"].([]any)) != 2 {
		t.Errorf("taken back: %v", got)
	}
	if list := w.want(200, "GET", "/v1/sources", h.read, nil).list("data"); ids(list) != id {
		t.Errorf("listed: %v", list)
	}
	if list := w.want(200, "GET", "/v1/sources?tenant_id="+h.tenant, adminKey, nil).list("data"); ids(list) != id {
		t.Errorf("listed for the admin: %v", list)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/sources", adminKey, `{"name":"shop"}`)
	w.want(204, "DELETE", path, h.write, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", path, h.read, nil)
	w.want(409, "DELETE", "/v1/tenants/"+h.tenant, adminKey, nil) // its endpoint
}

// TestSources_Kept checks that the ingest of an endpoint becomes a source where the deletion asks for
// that: its secrets keep their ids and open, and a PATCH leaves it what it is.
func TestSources_Kept(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"shop","url":"https://example.com","verification":{"provider":"meta","secrets":["hunter2"],"verify_token":"open sesame"},"idempotency":{"window":"48h"}}`)
	id := made.text("id")
	w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"sub","url":"https://example.com","subscriptions":[{"source":"`+id+`"}]}`)
	if refusal := w.want(409, "DELETE", "/v1/endpoints/"+id, h.write, nil); !strings.Contains(refusal.text("detail"), "keep_ingest=true") {
		t.Errorf("refused with %v", refusal)
	}
	deaf := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"deaf","url":"https://example.com","subscriptions":[]}`).text("id")
	w.refused(kapsel.InvalidRequest, 422, []string{"keep_ingest"}, "DELETE", "/v1/endpoints/"+deaf+"?keep_ingest=true", h.write, nil)
	if refusal := w.want(400, "DELETE", "/v1/endpoints/"+id+"?keep_ingest=perhaps", h.write, nil); refusal.text("detail") != "keep_ingest must be true or false" {
		t.Errorf("refused: %v", refusal)
	}
	w.refused(kapsel.NotFound, 404, nil, "DELETE", "/v1/endpoints/"+id+"?keep_ingest=true", w.newHouse("other").write, nil)
	w.want(409, "DELETE", "/v1/endpoints/"+id+"?keep_ingest=false", h.write, nil)

	w.want(204, "DELETE", "/v1/endpoints/"+id+"?keep_ingest=true", h.write, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/endpoints/"+id, h.read, nil)
	source := "src_" + strings.TrimPrefix(id, "ep_")
	got := w.want(200, "GET", "/v1/sources/"+source, h.read, nil)
	if diff := cmp.Diff(made["verification"], got["verification"]); diff != "" || fmt.Sprint(got["idempotency"]) != fmt.Sprint(made["idempotency"]) ||
		got.text("name") != "shop" || got.text("state") != "active" {
		t.Errorf("the source is %v (-endpoint +source):\n%s", got, diff)
	}
	w.want(200, "PATCH", "/v1/sources/"+source, h.write, `{"name":"shop 2"}`)
	sourceID, err := kapsel.ParseSourceID(source)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := w.store.Source(t.Context(), kapsel.TenantID{}, sourceID)
	if err != nil || !stored.Kept {
		t.Fatalf("after a PATCH: %+v, %v", stored, err)
	}
	tenant, err := w.store.Tenant(t.Context(), stored.TenantID)
	if err != nil {
		t.Fatal(err)
	}
	for text, sealed := range map[string]kapsel.Secret{"hunter2": stored.Verification.Secrets[0], "open sesame": *stored.Verification.VerifyToken} {
		if plain, err := w.vault.Open(&tenant, source, sealed); err != nil || string(plain) != text {
			t.Errorf("a secret opens as %q, %v", plain, err)
		}
	}
	w.want(409, "DELETE", "/v1/sources/"+source, h.write, nil)
}

// TestSources_BadInput: what is wrong with a source is told by its field, all of it.
func TestSources_BadInput(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	for body, want := range map[string]string{
		`{}`:                                     "name",
		`{"name":" "}`:                           "name",
		`{"name":"a","type":{"from":"query:x"}}`: "type.from",
		`{"name":"a","type":{"from":"path:x"}}`:  "type.from",
		`{"name":"a","type":{"from":"header:a b"}}`:           "type.from",
		`{"name":"a","type":{}}`:                              "type.from",
		`{"name":"a","type":{"from":"const"}}`:                "type.value",
		`{"name":"a","type":{"from":"header:X","value":"a"}}`: "type.value",
		`{"name":"a","type":{"from":"header:cookie"}}`:        "type.from",
		`{"name":"a","type":{"from":"header:Authorization"},"idempotency":{"header":"proxy-authorization"}}`:                                       "idempotency.header type.from",
		`{"name":"a","type":{"from":"header:x-secret"},"verification":{"provider":"token","in":"header:X-Secret","secrets":["0123456789abcdef"]}}`: "type.from",
		`{"name":"a","idempotency":{"header":"X-Gitlab-Token"},"verification":{"provider":"gitlab","secrets":["0123456789abcdef"]}}`:               "idempotency.header",
		`{"name":"a","verification":{"provider":"nobody"}}`:                                                                                        "verification.provider",
		`{"name":"a","verification":{"provider":"github"}}`:                                                                                        "verification.secrets",
		`{"name":"a","idempotency":{"strategy":"source_id","path":"$.a["}}`:                                                                        "idempotency.path",
		`{"name":"a","idempotency":{"strategy":"source_id"}}`:                                                                                      "idempotency.path",
		`{"name":"a","response":{"status":404}}`:                                                                                                   "response.status",
		`{"name":"a","challenge":{"from":"body:x","to":"body"}}`:                                                                                   "challenge.from",
		`{"name":" ","type":{"from":"const"},"response":{"status":204,"body":"a"}}`:                                                                "name response.body type.value",
	} {
		var got []string
		for _, e := range w.want(422, "POST", "/v1/sources", h.write, body).list("errors") {
			got = append(got, e.text("field"))
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	for _, body := range []string{`{"name":"a","url":"https://example.com"}`, `{"name":"a","Type":null}`, `{"name":"a","type":"x"}`, `{"name":"a","state":"disabled"}`} {
		w.want(400, "POST", "/v1/sources", h.write, body)
	}
	id := w.want(201, "POST", "/v1/sources", h.write, `{"name":"shop"}`).text("id")
	w.want(422, "PATCH", "/v1/sources/"+id, h.write, `{"state":"paused"}`)
	w.want(422, "PATCH", "/v1/sources/"+id, h.write, `{"name":null}`)
}

// TestSources_Subscriptions: endpoints subscribe to a source by type, and the source stays while
// they do. Another tenant's source is as a missing one.
func TestSources_Subscriptions(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	source := func(h house) string { return w.want(201, "POST", "/v1/sources", h.write, `{"name":"shop"}`).text("id") }
	mine, theirs := source(h), source(other)
	create := func(status int, subscription string) object {
		return w.want(status, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","subscriptions":[`+subscription+`]}`)
	}
	made := create(201, `{"source":"`+mine+`","event_types":["invoice.paid","order.*"]},{"source":"publish","channels":["eu"]}`)
	want := []any{
		map[string]any{"source": mine, "event_types": []any{"invoice.paid", "order.*"}},
		map[string]any{"source": "publish", "channels": []any{"eu"}},
	}
	if diff := cmp.Diff(want, made["subscriptions"]); diff != "" || made["ingest_url"] != nil {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	w.refused(kapsel.Conflict, 409, nil, "DELETE", "/v1/sources/"+mine, h.write, nil)
	missing := create(422, `{"source":"src_01kjmma2g0fpsacgxsv0gwcpzg"}`)["errors"]
	if diff := cmp.Diff(missing, create(422, `{"source":"`+theirs+`"}`)["errors"]); diff != "" {
		t.Errorf("another tenant's source is refused otherwise than a missing one:\n%s", diff)
	}
	for subscription, want := range map[string]string{
		`{"source":"nothing"}`:                                       "subscriptions[0].source",
		`{"source":"` + mine + `","event_types":["*"]}`:              "subscriptions[0].event_types[0]",
		`{"source":"` + mine + `","channels":["a b"]}`:               "subscriptions[0].channels[0]",
		`{"source":"` + mine + `"},{"source":"` + mine + `"}`:        "subscriptions[1].source",
		`{"source":"` + mine + `"},{"source":"` + theirs + `"}`:      "subscriptions[1].source",
		`{"source":"` + strings.Replace(mine, "src", "ep", 1) + `"}`: "subscriptions[0].source",
	} {
		if text := fmt.Sprint(create(422, subscription)["errors"]); !strings.Contains(text, "field:"+want+"]") {
			t.Errorf("%s: %s, want %s", subscription, text, want)
		}
	}
	w.want(200, "PATCH", "/v1/endpoints/"+made.text("id"), h.write, `{"subscriptions":[]}`)
	w.want(204, "DELETE", "/v1/sources/"+mine, h.write, nil)
}

// TestSources_Events checks that lists and streams of events narrow to a source, and refuse what is
// none.
func TestSources_Events(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	id := w.want(201, "POST", "/v1/sources", h.write, `{"name":"shop"}`).text("id")
	source, err := kapsel.ParseSourceID(id)
	if err != nil {
		t.Fatal(err)
	}
	w.receive(h.endpoint, nil)
	tenant, err := kapsel.ParseTenantID(h.tenant)
	if err != nil {
		t.Fatal(err)
	}
	e := kapsel.Event{ID: kapsel.NewEventID(w.now, kapsel.PartOf(source)), TenantID: tenant, SourceID: source, ReceivedAt: w.now}
	if _, err := w.store.Accept(t.Context(), store.Acceptance{Event: e}); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]int{"": 2, "?source_id=" + id: 1, "?status=unmatched&source_id=" + id: 1, "?status=delivered&source_id=" + id: 0, "?source_id=" + id + "&endpoint_id=" + h.endpoint: 0} {
		if list := w.want(200, "GET", "/v1/events"+query, h.read, nil).list("data"); len(list) != want || want == 1 && list[0].text("id") != e.ID.String() {
			t.Errorf("%s: %v", query, list)
		}
	}
	if list := w.want(200, "GET", "/v1/events?source_id="+id, w.newHouse("other").read, nil).list("data"); len(list) != 0 {
		t.Errorf("another tenant's: %v", list)
	}
	for _, path := range []string{"/v1/events", "/v1/events/stream"} {
		w.refused(kapsel.InvalidRequest, 400, []string{"source_id"}, "GET", path+"?source_id="+h.endpoint, h.read, nil)
	}
	streamed, _ := w.streams()("?after=0&source_id="+id, h.read).begun().events(1)
	w.same("streamed", []string{e.ID.String()}, streamed)
}
