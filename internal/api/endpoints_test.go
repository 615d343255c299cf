package api

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func TestEndpoints(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"orders","url":"https://example.com/hook"}`)
	id, signing := made.text("id"), made.text("signing_secret")
	if key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing, "whsec_")); err != nil || len(key) != 32 {
		t.Errorf("signing secret %q", signing)
	}
	delete(made, "signing_secret")
	secrets := made.object("signing")["secrets"]
	want := object{
		"id": id, "tenant_id": h.tenant, "name": "orders", "url": "https://example.com/hook", "description": "", "uid": nil, "metadata": map[string]any{}, "state": "active", "disabled_reason": nil,
		"ingest_url":   "https://kapsel.example/ingest/" + id,
		"verification": map[string]any{"provider": "none", "secrets": []any{}, "tolerance": nil},
		"idempotency":  map[string]any{"strategy": "header", "header": "", "path": "", "window": "24h"},
		"retry":        map[string]any{"strategy": "exponential", "max_attempts": 20., "base": "1s", "max": "4h", "schedule": []any{}},
		"retry_on":     []any{}, "timeout": "30s", "rate_limit": nil, "concurrency": 100., "challenge": nil, "probe": false, "response": nil, "expect_every": nil, "forward_query": false, "app": nil, "subscriptions": []any{},
		"circuit": map[string]any{"enabled": true, "failures": 5., "ratio": 0.8, "window": 20., "minimum": 10., "open_for": "30s", "successes": 3., "state": "closed", "changed_at": nil, "retry_at": nil},
		"headers": map[string]any{"set": map[string]any{}, "drop": []any{}, "keep": []any{}},
		"signing": map[string]any{"enabled": true, "v1a": false, "secrets": secrets},
		"backlog": 0., "oldest_waiting_at": nil, "throttled_until": nil, "warnings": []any{"unverified: anyone who knows the URL can post events"},
		"created_at": "2026-03-01T12:00:00.000Z", "updated_at": "2026-03-01T12:00:00.000Z",
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("POST (-want +got):\n%s", diff)
	}
	if l, _ := secrets.([]any); len(l) != 1 || fmt.Sprint(object(l[0].(map[string]any)).names()) != "[created_at id]" {
		t.Errorf("signing secrets read as %v", secrets)
	}
	if diff := cmp.Diff(want, w.want(200, "GET", "/v1/endpoints/"+id, h.read, nil)); diff != "" {
		t.Errorf("GET (-want +got):\n%s", diff)
	}
	if list := w.want(200, "GET", "/v1/endpoints", h.read, nil).list("data"); len(list) != 2 || fmt.Sprint(list[0].names()) != fmt.Sprint(want.names()) {
		t.Errorf("list: %v", list)
	}
	e := w.stored(id)
	if e.Part != kapsel.PartOf(e.ID) {
		t.Errorf("part %d", e.Part)
	}
	if plain := w.opened(e, e.Signing.Secrets[0]); "whsec_"+base64.StdEncoding.EncodeToString([]byte(plain)) != signing {
		t.Error("the stored signing secret is another")
	}
}

// stored is an endpoint as the store has it.
func (w *world) stored(id string) kapsel.Endpoint {
	w.t.Helper()
	parsed, _ := kapsel.ParseEndpointID(id)
	e, err := w.store.Endpoint(w.t.Context(), kapsel.TenantID{}, parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// change changes an endpoint in the store.
func (w *world) change(id string, change func(*kapsel.Endpoint)) {
	w.t.Helper()
	e := w.stored(id)
	if _, err := w.store.UpdateEndpoint(w.t.Context(), e.TenantID, e.ID, func(e *kapsel.Endpoint) error { change(e); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// opened is a secret of an endpoint in the clear.
func (w *world) opened(e kapsel.Endpoint, s kapsel.Secret) string {
	w.t.Helper()
	tenant, err := w.store.Tenant(w.t.Context(), e.TenantID)
	if err != nil {
		w.t.Fatal(err)
	}
	plain, err := w.vault.Open(&tenant, e.ID.String(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(plain)
}

func TestEndpointWithEverything(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	body := `{"name":"a","url":"http://example.com","description":"two\nlines","uid":"shop.1","metadata":{"plan":"gold","empty":""},
		"verification":{"provider":"hmac","secrets":["first secret","second secret"],"tolerance":"1m","algorithm":"sha512","encoding":"base64","prefix":"v1="},
		"idempotency":{"strategy":"source_id","header":"X-My-Key","path":"$.data[0].id","window":"1h30m"},
		"retry":{"strategy":"schedule","max_attempts":3,"base":"2s","max":"1h","schedule":["1s","10m"]},
		"retry_on":[404,409],"timeout":"5s","rate_limit":{"per_second":2.5,"burst":10},"concurrency":7,
		"circuit":{"failures":1,"ratio":1,"window":1,"minimum":1,"open_for":"1s","successes":1},
		"headers":{"set":{"X-Token":"hunter2","X-Empty":""},"drop":["X-Drop"],"keep":["Authorization"]},
		"signing":{"enabled":false}}`
	made := w.want(201, "POST", "/v1/endpoints", h.write, body)
	e := w.stored(made.text("id"))
	for i, want := range []string{"first secret", "second secret"} {
		if got := w.opened(e, e.Verification.Secrets[i]); got != want {
			t.Errorf("secret %d is %q", i, got)
		}
	}
	if got := w.opened(e, e.Headers.Set["X-Token"]) + w.opened(e, e.Headers.Set["X-Empty"]); got != "hunter2" {
		t.Errorf("headers %q", got)
	}
	text := fmt.Sprint(made)
	for _, secret := range []string{"hunter2", "first secret", "second secret"} {
		if strings.Contains(text, secret) || strings.Contains(w.log.String(), secret) {
			t.Errorf("%q is shown", secret)
		}
	}
	verification := made.object("verification")
	delete(verification, "secrets")
	if diff := cmp.Diff(object{"provider": "hmac", "tolerance": "1m", "header": "X-Webhook-Signature", "algorithm": "sha512", "encoding": "base64", "prefix": "v1=",
		"signed": "{body}", "format": "plain", "time_unit": "seconds", "key_encoding": "text", "decompress": false}, verification); diff != "" {
		t.Errorf("verification (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(object{"strategy": "schedule", "max_attempts": 3., "base": "2s", "max": "1h", "schedule": []any{"1s", "10m"}}, made.object("retry")); diff != "" {
		t.Errorf("retry (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{"unencrypted: anyone on the way to the destination can read the events", "unsigned: the destination cannot tell who sent a delivery"}, made["warnings"]); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if made["uid"] != "shop.1" || fmt.Sprint(made["metadata"]) != "map[empty: plan:gold]" {
		t.Errorf("uid %v, metadata %v", made["uid"], made["metadata"])
	}
	config := e.EndpointConfig
	// A PATCH that says nothing changes nothing, secrets included.
	w.now = w.now.Add(time.Minute)
	w.want(200, "PATCH", "/v1/endpoints/"+made.text("id"), h.write, `{}`)
	if diff := cmp.Diff(config, w.stored(made.text("id")).EndpointConfig); diff != "" {
		t.Errorf("an empty PATCH (-before +after):\n%s", diff)
	}
	if got := w.stored(made.text("id")).UpdatedAt; !got.Equal(w.now) {
		t.Errorf("updated at %v", got)
	}
}

// TestEndpoints_Own: an endpoint has a uid and texts of its owner's, which PATCH changes one by one. A uid is
// the only one in its app, or among endpoints without an app, until its endpoint is deleted.
func TestEndpoints_Own(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	w.want(201, "POST", "/v1/apps", h.write, `{"uid":"shop","name":"Shop"}`)
	const alone = `{"name":"a","url":"https://a.example/","uid":"main","metadata":{"region":"eu","gone":null}}`
	const ofApp = `{"name":"a","url":"https://a.example/","uid":"main","app":"shop","subscriptions":[{"source":"publish"}]}`
	made := w.want(201, "POST", "/v1/endpoints", h.write, alone)
	if made["uid"] != "main" || fmt.Sprint(made["metadata"]) != "map[region:eu]" {
		t.Errorf("made: %v", made)
	}
	apps := w.want(201, "POST", "/v1/endpoints", h.write, ofApp)
	w.want(201, "POST", "/v1/endpoints", other.write, alone)
	for _, body := range []string{alone, ofApp} {
		w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/endpoints", h.write, body)
	}
	plain := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"b","url":"https://a.example/"}`)
	w.refused(kapsel.Conflict, 409, nil, "PATCH", "/v1/endpoints/"+plain.text("id"), h.write, `{"uid":"main"}`)

	path := "/v1/endpoints/" + made.text("id")
	if got := w.want(200, "PATCH", path, h.write, `{"metadata":{"owner":"ann"}}`); got["uid"] != "main" || fmt.Sprint(got["metadata"]) != "map[owner:ann region:eu]" {
		t.Errorf("changed: %v", got)
	}
	if got := w.want(200, "PATCH", path, h.write, `{"metadata":{"region":null},"uid":null}`); got["uid"] != nil || fmt.Sprint(got["metadata"]) != "map[owner:ann]" {
		t.Errorf("taken back: %v", got)
	}
	if got := w.want(200, "PATCH", path, h.write, `{"metadata":null}`); fmt.Sprint(got["metadata"]) != "map[]" {
		t.Errorf("without metadata: %v", got)
	}
	w.want(200, "PATCH", "/v1/endpoints/"+plain.text("id"), h.write, `{"uid":"main"}`)
	w.want(204, "DELETE", "/v1/endpoints/"+apps.text("id"), h.write, nil)
	w.want(201, "POST", "/v1/endpoints", h.write, ofApp)

	for body, fields := range map[string]string{
		`"uid":""`:    "uid",
		`"uid":"a/b"`: "uid",
		`"uid":"` + kapsel.NewEndpointID(w.now).String() + `","concurrency":0`: "concurrency uid",
		`"metadata":{"x":"` + strings.Repeat("a", 501) + `"}`:                  "metadata.x",
		`"metadata":{"":"x"}`: "metadata",
	} {
		w.refused(kapsel.InvalidRequest, 422, strings.Fields(fields), "POST", "/v1/endpoints", h.write, `{"name":"b","url":"https://a.example/",`+body+`}`)
		w.refused(kapsel.InvalidRequest, 422, strings.Fields(fields), "PATCH", path, h.write, `{`+body+`}`)
	}
}

// TestVerificationInForce: an endpoint shows what its provider's verification does where its
// owner left it out, and a PATCH still tells the one from the other.
// TestVerificationRefused: what cannot be right is refused in words.
func TestVerificationRefused(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	for given, want := range map[string]string{
		`{"provider":"stripe","secrets":["whsec_a\n"]}`:                              "white space",
		`{"provider":"stripe","secrets":["whsec_a"],"verify_token":"x"}`:             "is for provider meta only",
		`{"provider":"meta","secrets":["a"],"verify_token":""}`:                      "must have 1 to",
		`{"provider":"hmac","secrets":["xy"],"key_encoding":"hex"}`:                  "not hex digits",
		`{"provider":"hmac","secrets":["a"],"signed":"{time}.{body}"}`:               "needs time_header",
		`{"provider":"token","secrets":["a"]}`:                                       "must be header:NAME, basic or query:NAME",
		`{"provider":"stripe","secrets":["whsec_a"],"tolerance":"96h1s"}`:            "must be from 1s to 96h",
		`{"provider":"stripe","secrets":["whsec_a"],"in":"basic","decompress":true}`: "is for provider token only",
	} {
		a := w.want(422, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":`+given+`}`)
		if text := fmt.Sprint(a["errors"]); !strings.Contains(text, want) {
			t.Errorf("%s: %s, want %q", given, text, want)
		}
	}
}

// TestChallengeSettings: what an endpoint answers to a sender's registration is set, shown and
// taken away, and nothing can be set that a browser obeys or that could swallow events.
func TestChallengeSettings(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	create := func(status int, fields string) object {
		return w.want(status, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com",`+fields+`}`)
	}
	made := create(201, `"challenge":{"from":"json:$.challenge","to":"json:challenge"},"probe":true`)
	path := "/v1/endpoints/" + made.text("id")
	if diff := cmp.Diff(object{"from": "json:$.challenge", "to": "json:challenge"}, made.object("challenge")); diff != "" || made["probe"] != true {
		t.Errorf("made: %v", made)
	}
	got := w.want(200, "PATCH", path, h.write, `{"challenge":null,"probe":null}`)
	if got["challenge"] != nil || got["probe"] != false {
		t.Errorf("taken away: %v", got)
	}
	for fields, want := range map[string]string{
		`"challenge":{"from":"body","to":"body"}`:                                                         "challenge.from",
		`"challenge":{"from":"json:$.a.b","to":"body"}`:                                                   "challenge.from",
		`"challenge":{"from":"json:$[0]","to":"body"}`:                                                    "challenge.from",
		`"challenge":{"from":"query:a&b","to":"body"}`:                                                    "challenge.from",
		`"challenge":{"from":"header:a b","to":"body"}`:                                                   "challenge.from",
		`"challenge":{"from":"query:c","to":"header:X-C"}`:                                                "challenge.to",
		`"challenge":{"from":"header:X-A","to":"header:X-B"}`:                                             "challenge.to",
		`"challenge":{"from":"header:Location","to":"header:Location"}`:                                   "challenge.to",
		`"challenge":{"from":"header:Set-Cookie","to":"header:Set-Cookie"}`:                               "challenge.to",
		`"challenge":{"from":"header:X-Kapsel-A","to":"header:X-Kapsel-A"}`:                               "challenge.to",
		`"challenge":{"from":"header:X-Frame-Options","to":"header:X-Frame-Options"}`:                     "challenge.to",
		`"challenge":{"from":"query:c","to":"json:"}`:                                                     "challenge.to",
		`"challenge":{"from":"query:c","to":"body:x"}`:                                                    "challenge.to",
		`"probe":true,"verification":{"provider":"stripe","secrets":["a"]}`:                               "probe",
		`"expect_every":"59s"`:                                                                            "expect_every",
		`"expect_every":"721h"`:                                                                           "expect_every",
		`"challenge":{"from":"query:c","to":"body"},"verification":{"provider":"stripe","secrets":["a"]}`: "challenge",
	} {
		if text := fmt.Sprint(create(422, fields)["errors"]); !strings.Contains(text, "field:"+want+"]") {
			t.Errorf("%s: %s, want %s", fields, text, want)
		}
	}
}

// TestSubscriptions: an endpoint that is made with subscriptions has no ingest, ever; one with an
// ingest may subscribe too. What it subscribes to is the tenant's and stays while it does.
func TestSubscriptions(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	create := func(status int, fields string) object {
		return w.want(status, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com",`+fields+`}`)
	}
	to := func(source string) string { return `"subscriptions":[{"source":"` + source + `"}]` }
	made := create(201, to(h.endpoint))
	path := "/v1/endpoints/" + made.text("id")
	if diff := cmp.Diff([]any{map[string]any{"source": h.endpoint}}, made["subscriptions"]); diff != "" || made["ingest_url"] != nil || len(made["warnings"].([]any)) != 0 {
		t.Errorf("made: %v", made)
	}
	if !w.stored(h.endpoint).Shared {
		t.Error("the source is not shared")
	}
	w.refused(kapsel.Conflict, 409, nil, "DELETE", "/v1/endpoints/"+h.endpoint, h.write, nil)

	for _, step := range []string{`{"subscriptions":[]}`, `{"subscriptions":[{"source":"` + h.endpoint + `"}]}`, `{"name":"b"}`, `{"subscriptions":null}`} {
		if got := w.want(200, "PATCH", path, h.write, step); got["ingest_url"] != nil {
			t.Errorf("%s gave it an ingest", step)
		}
	}
	if got := w.want(200, "GET", path, h.read, nil); len(got["subscriptions"].([]any)) != 0 {
		t.Errorf("after null it subscribes to %v", got["subscriptions"])
	}
	if none := create(201, `"subscriptions":[]`); none["ingest_url"] != nil {
		t.Error("an empty list makes an endpoint with an ingest")
	}
	if got := w.want(200, "PATCH", "/v1/endpoints/"+h.endpoint, h.write, `{"subscriptions":[]}`); got["ingest_url"] == nil {
		t.Error("a list took an ingest away")
	}
	w.want(204, "DELETE", "/v1/endpoints/"+h.endpoint, h.write, nil)

	with := create(201, `"probe":false`).text("id")
	for fields, want := range map[string]string{
		to(h.endpoint):                      "subscriptions[0].source", // deleted
		to(other.endpoint):                  "subscriptions[0].source",
		to("ep_01kjmma2g0fpsacgxsv0gwcpzg"): "subscriptions[0].source",
		to(made.text("id")):                 "subscriptions[0].source", // has no ingest
		`"subscriptions":[{"source":"` + with + `"},{"source":"` + with + `"}]`: "subscriptions[1].source",
		to(with) + `,"probe":true`:                                         "probe",
		to(with) + `,"expect_every":"1h"`:                                  "expect_every",
		to(with) + `,"response":{}`:                                        "response",
		to(with) + `,"challenge":{"from":"query:c","to":"body"}`:           "challenge",
		to(with) + `,"idempotency":{"strategy":"content"}`:                 "idempotency",
		to(with) + `,"verification":{"provider":"github","secrets":["a"]}`: "verification",
	} {
		if text := fmt.Sprint(create(422, fields)["errors"]); !strings.Contains(text, "field:"+want+"]") {
			t.Errorf("%s: %s, want %s", fields, text, want)
		}
	}
	missing := create(422, to("ep_01kjmma2g0fpsacgxsv0gwcpzg"))["errors"]
	if diff := cmp.Diff(missing, create(422, to(other.endpoint))["errors"]); diff != "" {
		t.Errorf("another tenant's endpoint is refused otherwise than a missing one:\n%s", diff)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"subscriptions[0].source"}, "PATCH", "/v1/endpoints/"+with, h.write, `{`+to(with)+`}`)
	if w.stored(with).Shared {
		t.Error("a refused subscription shared its source")
	}
}

// TestResponseSettings: an endpoint's own answer has defaults, is changed field by field and
// taken away, and is bounded.
func TestResponseSettings(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	create := func(status int, fields string) object {
		return w.want(status, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com",`+fields+`}`)
	}
	made := create(201, `"response":{},"forward_query":true`)
	path := "/v1/endpoints/" + made.text("id")
	if diff := cmp.Diff(object{"status": 200., "content_type": "none", "body": ""}, made.object("response")); diff != "" || made["forward_query"] != true {
		t.Errorf("made (-want +got):\n%s%v", diff, made)
	}
	most := strings.Repeat("é", 2048)
	for _, step := range []struct {
		patch string
		want  any
	}{
		{`{"response":{"status":202,"content_type":"text/plain","body":"` + most + `"}}`, map[string]any{"status": 202., "content_type": "text/plain", "body": most}},
		{`{"response":{"body":"{}","content_type":"application/json"}}`, map[string]any{"status": 202., "content_type": "application/json", "body": "{}"}},
		{`{"response":{"status":null,"content_type":null}}`, map[string]any{"status": 200., "content_type": "none", "body": "{}"}},
		{`{"response":{"status":204,"body":null}}`, map[string]any{"status": 204., "content_type": "none", "body": ""}},
		{`{"name":"b"}`, map[string]any{"status": 204., "content_type": "none", "body": ""}},
		{`{"response":null,"forward_query":null}`, nil},
	} {
		got := w.want(200, "PATCH", path, h.write, step.patch)
		if diff := cmp.Diff(step.want, got["response"]); diff != "" {
			t.Errorf("%.100s (-want +got):\n%s", step.patch, diff)
		}
	}
	if got := w.want(200, "GET", path, h.read, nil); got["response"] != nil || got["forward_query"] != false {
		t.Errorf("taken away: %v", got)
	}
	for fields, want := range map[string]string{
		`"response":{"status":204,"body":"x"}`:                     "response.body",
		`"response":{"body":"` + most + `x"}`:                      "response.body",
		`"response":{"status":203}`:                                "response.status",
		`"response":{"status":302}`:                                "response.status",
		`"response":{"status":0}`:                                  "response.status",
		`"response":{"content_type":"text/html"}`:                  "response.content_type",
		`"response":{"content_type":""}`:                           "response.content_type",
		`"response":{"content_type":"text/plain; charset=utf-16"}`: "response.content_type",
	} {
		if text := fmt.Sprint(create(422, fields)["errors"]); !strings.Contains(text, "field:"+want+"]") {
			t.Errorf("%.100s: %s, want %s", fields, text, want)
		}
	}
	w.want(400, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","response":{"header":"x"}}`)
	w.want(400, "POST", "/v1/endpoints", h.write, "{\"name\":\"a\",\"url\":\"https://example.com\",\"response\":{\"body\":\"\xff\"}}")
}

// TestAwaitingHandshake: the window is opened by a person, for ten minutes, and what came is
// shown to who may write, where it must be pasted back.
func TestAwaitingHandshake(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"notion"}}`)
	path := "/v1/endpoints/" + made.text("id")
	if made.object("verification")["awaiting_handshake"] != false || !strings.Contains(fmt.Sprint(made["warnings"]), "no secret yet") {
		t.Errorf("made: %v", made)
	}
	open := w.want(200, "PATCH", path, h.write, `{"verification":{"awaiting_handshake":true}}`)
	if stored := w.stored(made.text("id")).Verification; open.object("verification")["awaiting_handshake"] != true || !stored.AwaitingUntil.Equal(w.now.Add(10*time.Minute)) {
		t.Errorf("opened: %v, %v", open["verification"], stored.AwaitingUntil)
	}
	if got := w.want(200, "PATCH", path, h.write, `{"name":"b"}`); got.object("verification")["awaiting_handshake"] != true {
		t.Errorf("another patch: %v", got["verification"])
	}
	if got := w.want(200, "PATCH", path, h.write, `{"verification":{"awaiting_handshake":null}}`); got.object("verification")["awaiting_handshake"] != false {
		t.Errorf("closed: %v", got["verification"])
	}
	w.want(422, "PATCH", path, h.write, `{"verification":{"secrets":["s"],"awaiting_handshake":true}}`)
	w.want(422, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"github","secrets":["s"],"awaiting_handshake":true}}`)

	w.want(200, "PATCH", path, h.write, `{"verification":{"secrets":["secret_MARK"]}}`)
	if _, there := w.want(200, "GET", path, h.write, nil).object("verification")["handshake_secret"]; there {
		t.Error("a secret that a person set is shown")
	}
	w.change(made.text("id"), func(e *kapsel.Endpoint) { e.Verification.ShownUntil = w.now.Add(time.Minute) })
	if got := w.want(200, "GET", path, h.write, nil).object("verification").text("handshake_secret"); got != "secret_MARK" {
		t.Errorf("shown: %q", got)
	}
	for what, a := range map[string]object{
		"to a key that reads": w.want(200, "GET", path, h.read, nil),
		"in a list":           w.want(200, "GET", "/v1/endpoints", h.write, nil),
		"by a patch":          w.want(200, "PATCH", path, h.write, `{"name":"c"}`),
	} {
		if strings.Contains(fmt.Sprint(a), "MARK") {
			t.Errorf("shown %s: %v", what, a)
		}
	}
	w.want(200, "PATCH", path, h.write, `{"verification":{"secrets":["secret_MARK2"]}}`)
	if strings.Contains(fmt.Sprint(w.want(200, "GET", path, h.write, nil)), "MARK") {
		t.Error("a secret that a person set in its place is shown")
	}
}

// TestVerifyToken: the verify token is kept sealed, shown by its id alone, kept by a patch
// that says nothing of it, and taken away by null.
func TestVerifyToken(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"meta","secrets":["app"],"verify_token":"MARK"}}`)
	id := made.text("id")
	first := made.object("verification").object("verify_token").text("id")
	if !strings.HasPrefix(first, "sec_") || strings.Contains(fmt.Sprint(made), "MARK") {
		t.Errorf("made: %v", made)
	}
	got := w.want(200, "PATCH", "/v1/endpoints/"+id, h.write, `{"verification":{"tolerance":"1m"},"name":"b"}`)
	if got.object("verification").object("verify_token").text("id") != first {
		t.Errorf("a patch that says nothing of it: %v", got["verification"])
	}
	got = w.want(200, "PATCH", "/v1/endpoints/"+id, h.write, `{"verification":{"verify_token":null}}`)
	if _, there := got.object("verification")["verify_token"]; there || w.stored(id).Verification.VerifyToken != nil {
		t.Errorf("taken away: %v", got["verification"])
	}
}

func TestVerificationInForce(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	for _, tt := range []struct {
		given string
		want  object
	}{
		{`{"provider":"hmac","secrets":["a"]}`, object{"provider": "hmac", "tolerance": nil, "header": "X-Webhook-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "",
			"signed": "{body}", "format": "plain", "time_unit": "seconds", "key_encoding": "text", "decompress": false}},
		{`{"provider":"hmac","secrets":["00ff"],"signed":"{time}.{body}","format":"pairs","time_unit":"milliseconds","key_encoding":"hex","decompress":true}`,
			object{"provider": "hmac", "tolerance": "5m", "header": "X-Webhook-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "",
				"signed": "{time}.{body}", "format": "pairs", "time_unit": "milliseconds", "key_encoding": "hex", "decompress": true}},
		{`{"provider":"hmac","secrets":["a"],"signed":"{time}{body}","time_header":"X-Time"}`,
			object{"provider": "hmac", "tolerance": "5m", "header": "X-Webhook-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "",
				"signed": "{time}{body}", "format": "plain", "time_header": "X-Time", "time_unit": "seconds", "key_encoding": "text", "decompress": false}},
		{`{"provider":"token","secrets":["a"],"in":"query:token"}`, object{"provider": "token", "tolerance": nil, "in": "query:token"}},
		{`{"provider":"github","secrets":["a"]}`, object{"provider": "github", "tolerance": nil}},
		{`{"provider":"stripe","secrets":["a"]}`, object{"provider": "stripe", "tolerance": "5m"}},
		{`{"provider":"linear","secrets":["a"]}`, object{"provider": "linear", "tolerance": "9h"}},
		{`{"provider":"linear","secrets":["a"],"tolerance":"3m"}`, object{"provider": "linear", "tolerance": "3m"}},
	} {
		made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":`+tt.given+`}`)
		w.want(200, "PATCH", "/v1/endpoints/"+made.text("id"), h.write, `{"name":"b"}`)
		got := w.want(200, "GET", "/v1/endpoints/"+made.text("id"), h.read, nil).object("verification")
		delete(got, "secrets")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.given, diff)
		}
		if stored := w.stored(made.text("id")).Verification; !strings.Contains(tt.given, "tolerance") && stored.Tolerance != 0 {
			t.Errorf("%s: the provider's tolerance became the owner's: %v", tt.given, stored.Tolerance)
		}
	}
}

func TestPatchEndpoint(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","description":"d",
		"verification":{"provider":"github","secrets":["s1"]},"headers":{"set":{"X-A":"1","X-B":"2"},"drop":["X-C"]},
		"retry":{"base":"5s","max_attempts":3},"rate_limit":{"per_second":1,"burst":1},"timeout":"9s"}`)
	path := "/v1/endpoints/" + made.text("id")
	config := func(patch string) kapsel.EndpointConfig {
		t.Helper()
		w.want(200, "PATCH", path, h.write, patch)
		return w.stored(made.text("id")).EndpointConfig
	}
	headers := func(c kapsel.EndpointConfig) map[string]string {
		m := map[string]string{}
		for name, s := range c.Headers.Set {
			m[name] = w.opened(w.stored(made.text("id")), s)
		}
		return m
	}
	before := w.stored(made.text("id")).EndpointConfig

	c := config(`{"retry":{"base":null}}`)
	if c.Retry.Base != time.Second || c.Retry.MaxAttempts != 3 {
		t.Errorf("base null: %+v", c.Retry)
	}
	if c = config(`{"retry":null,"timeout":null,"description":null,"rate_limit":null}`); c.Retry.MaxAttempts != 20 || c.Timeout != 30*time.Second || c.Description != "" || c.RateLimit != nil {
		t.Errorf("nulls: %+v", c)
	}
	if c.Name != "a" || len(c.Verification.Secrets) != 1 || c.Verification.Secrets[0].ID != before.Verification.Secrets[0].ID {
		t.Errorf("what the patch did not name changed: %+v", c)
	}
	if diff := cmp.Diff(map[string]string{"X-A": "1", "X-D": "4"}, headers(config(`{"headers":{"set":{"X-B":null,"X-D":"4"}}}`))); diff != "" {
		t.Errorf("headers.set by name (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"X-A": "9", "X-D": "4"}, headers(config(`{"headers":{"set":{"X-A":"9"},"drop":null}}`))); diff != "" {
		t.Errorf("headers.set again (-want +got):\n%s", diff)
	}
	if c = config(`{"headers":{"set":null}}`); len(c.Headers.Set) != 0 {
		t.Errorf("headers.set null: %v", c.Headers.Set)
	}
	config(`{"headers":{"set":{"X-A":"1"}}}`)
	if c = config(`{"headers":null}`); len(c.Headers.Set)+len(c.Headers.Drop) != 0 {
		t.Errorf("headers null: %v", c.Headers)
	}

	if c = config(`{"verification":{"secrets":["s2","s3"]}}`); len(c.Verification.Secrets) != 2 || w.opened(w.stored(made.text("id")), c.Verification.Secrets[1]) != "s3" {
		t.Errorf("secrets replaced: %+v", c.Verification)
	}
	if c = config(`{"verification":{"provider":"github"}}`); len(c.Verification.Secrets) != 2 {
		t.Errorf("the same provider: %+v", c.Verification)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets"}, "PATCH", path, h.write, `{"verification":{"provider":"stripe"}}`) // GitHub's are not Stripe's
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets"}, "PATCH", path, h.write, `{"verification":{"secrets":[]}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets[1]"}, "PATCH", path, h.write, `{"verification":{"secrets":["a",""]}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets[0]"}, "PATCH", path, h.write, `{"verification":{"provider":"standard-webhooks","secrets":["not base64!"]}}`)
	if c = config(`{"verification":null}`); len(c.Verification.Secrets) != 0 {
		t.Errorf("verification null: %+v", c.Verification)
	}

	signing := w.stored(made.text("id")).Signing.Secrets
	if c = config(`{"signing":{"enabled":false}}`); c.Signing.Enabled || len(c.Signing.Secrets) != 1 {
		t.Errorf("signing off: %+v", c.Signing)
	}
	if c = config(`{"signing":null}`); !c.Signing.Enabled || c.Signing.Secrets[0].ID != signing[0].ID {
		t.Errorf("signing null: %+v", c.Signing)
	}

	w.refused(kapsel.InvalidRequest, 422, []string{"name", "url"}, "PATCH", path, h.write, `{"name":null,"url":null}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"retry.base", "timeout", "concurrency"}, "PATCH", path, h.write, `{"timeout":"1h","retry":{"base":"1ms"},"concurrency":0}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"retry.base", "Timeout", "nope"}, "PATCH", path, h.write, `{"retry":{"base":5},"Timeout":"1s","nope":null}`)
	w.refused(kapsel.DestinationBlocked, 422, nil, "PATCH", path, h.write, `{"url":"http://169.254.169.254/latest"}`)
	if got := w.stored(made.text("id")); got.Name != "a" || got.URL != "https://example.com" || got.Timeout != 30*time.Second {
		t.Errorf("a refused patch changed %+v", got)
	}
}

// TestCreateEndpointRefuses checks that an endpoint with wrong settings is refused with the
// names of its fields, and one with a blocked destination is logged too.
func TestCreateEndpointRefuses(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	w.refused(kapsel.InvalidRequest, 422, []string{"name", "url"}, "POST", "/v1/endpoints", h.write, `{}`)
	for _, u := range []string{"http://127.0.0.1/", "http://localhost:1", "http://[::1]/", "https://10.0.0.1/x", "http://169.254.169.254/"} {
		w.refused(kapsel.DestinationBlocked, 422, nil, "POST", "/v1/endpoints", h.write, object{"name": "a", "url": u})
	}
	if n := strings.Count(w.log.String(), `"code":"E1012"`); n != 5 {
		t.Errorf("%d of 5 blocked destinations are in the log (S-23)", n)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"headers.set.X-Long", "headers.set.Host", "headers.set.X Y"}, "POST", "/v1/endpoints", h.write,
		object{"name": "a", "url": "https://example.com", "headers": object{"set": object{"X-Long": strings.Repeat("a", 4097), "Host": "x", "X Y": "z"}}})
	w.refused(kapsel.InvalidRequest, 422, []string{"headers.set.X"}, "POST", "/v1/endpoints", h.write,
		`{"name":"a","url":"https://example.com","headers":{"set":{"X":"a\r\nY: b"}}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.provider"}, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"nobody","secrets":["x"]}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets"}, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"github"}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/endpoints", adminKey, `{"name":"a","url":"https://example.com"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/endpoints?tenant_id="+h.tenant, h.write, `{"name":"a","url":"https://example.com"}`)
	w.refused(kapsel.NotFound, 404, nil, "POST", "/v1/endpoints?tenant_id="+kapsel.NewTenantID(w.now).String(), adminKey, `{"name":"a","url":"https://example.com"}`)
	w.want(201, "POST", "/v1/endpoints?tenant_id="+h.tenant, adminKey, `{"name":"a","url":"https://example.com"}`)

	w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, `{"limits":{"endpoints":2}}`)
	w.refused(kapsel.QuotaExceeded, 403, nil, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com"}`)
}

func TestEndpointStates(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint
	state := func(action, key string) string {
		t.Helper()
		o := w.want(200, "POST", path+action, key, nil)
		return fmt.Sprint(o["state"], " ", o["disabled_reason"])
	}
	patch := func(body string) string {
		t.Helper()
		o := w.want(200, "PATCH", path, adminKey, body)
		return fmt.Sprint(o["state"], " ", o["disabled_reason"])
	}
	check := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("state %q, want %q", got, want)
		}
	}
	check(state("/pause", h.write), "paused <nil>")
	check(state("/pause", h.write), "paused <nil>")
	check(state("/resume", h.write), "active <nil>")
	check(state("/resume", h.write), "active <nil>")

	if err := w.store.DisableGone(t.Context(), w.stored(h.endpoint).ID, 1, w.now); err != nil {
		t.Fatal(err)
	}
	w.refused(kapsel.Conflict, 409, nil, "POST", path+"/pause", h.write, nil)
	check(state("/resume", h.write), "active <nil>")

	check(patch(`{"state":"disabled"}`), "disabled admin")
	w.refused(kapsel.Forbidden, 403, nil, "POST", path+"/resume", h.write, nil)
	check(patch(`{"name":"still"}`), "disabled admin")
	w.want(200, "PATCH", path, h.write, `{"name":"a tenant may change the rest"}`)
	check(state("/resume", adminKey), "active <nil>")
	check(patch(`{"state":"paused"}`), "paused <nil>")
	check(patch(`{"state":"disabled"}`), "disabled admin")
	check(patch(`{"state":null}`), "active <nil>")
	w.refused(kapsel.InvalidRequest, 422, []string{"state"}, "PATCH", path, adminKey, `{"state":"gone"}`)
}

func TestResetCircuit(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint
	open := kapsel.Circuit{EndpointID: w.stored(h.endpoint).ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now.Add(30 * time.Second), HoldUntil: w.now.Add(time.Hour)}
	if _, err := w.store.SaveCircuit(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	c := w.want(200, "GET", path, h.read, nil).object("circuit")
	if c.text("state") != "open" || c.text("changed_at") != "2026-03-01T12:00:00.000Z" || c.text("retry_at") != "2026-03-01T12:00:30.000Z" {
		t.Errorf("circuit %v", c)
	}
	if got := w.want(200, "GET", path, h.read, nil).text("throttled_until"); got != "2026-03-01T13:00:00.000Z" {
		t.Errorf("throttled until %q", got)
	}
	w.now = w.now.Add(time.Second)
	c = w.want(200, "POST", path+"/circuit/reset", h.write, nil).object("circuit")
	if c.text("state") != "closed" || c.text("changed_at") != "2026-03-01T12:00:01.000Z" || c["retry_at"] != nil {
		t.Errorf("circuit %v", c)
	}
	if c, _ := w.store.Circuit(t.Context(), open.EndpointID); !c.HoldUntil.IsZero() {
		t.Errorf("the endpoint is still held until %v", c.HoldUntil)
	}
	w.want(200, "POST", path+"/circuit/reset", h.write, nil)
}

func TestTestEvent(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	sent := w.want(200, "POST", "/v1/endpoints/"+h.endpoint+"/test", h.write, nil)
	if sent.text("status") != "received" || sent.text("endpoint_id") != h.endpoint {
		t.Errorf("test event %v", sent)
	}
	body := w.want(200, "GET", "/v1/events/"+sent.text("id")+"/payload", h.read, nil)
	want := object{"type": "kapsel.test", "id": sent.text("id"), "endpoint_id": h.endpoint, "sent_at": "2026-03-01T12:00:00.000Z"}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	if got := w.want(200, "GET", "/v1/events/"+sent.text("id"), h.read, nil).text("status"); got != "delivered" {
		t.Errorf("status %q", got)
	}
}

func TestRotateSecret(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint + "/secrets/rotate"
	shown := func() int {
		l, _ := w.want(200, "GET", "/v1/endpoints/"+h.endpoint, h.read, nil).object("signing")["secrets"].([]any)
		return len(l)
	}
	rotate := func(body any) string {
		t.Helper()
		return w.want(200, "POST", path, h.write, body).text("signing_secret")
	}
	first := w.stored(h.endpoint).Signing.Secrets[0]
	text := rotate(nil)
	e := w.stored(h.endpoint)
	if len(e.Signing.Secrets) != 2 || "whsec_"+base64.StdEncoding.EncodeToString([]byte(w.opened(e, e.Signing.Secrets[0]))) != text {
		t.Fatalf("secrets %+v", e.Signing.Secrets)
	}
	if old := e.Signing.Secrets[1]; old.ID != first.ID || !old.ExpiresAt.Equal(w.now.Add(24*time.Hour)) || !e.Signing.Secrets[0].ExpiresAt.IsZero() {
		t.Errorf("overlap until %v", old.ExpiresAt)
	}
	rotate(`{"overlap":"168h"}`)
	e = w.stored(h.endpoint)
	if got := []time.Duration{e.Signing.Secrets[1].ExpiresAt.Sub(w.now), e.Signing.Secrets[2].ExpiresAt.Sub(w.now)}; !slices.Equal(got, []time.Duration{168 * time.Hour, 24 * time.Hour}) {
		t.Errorf("a longer overlap keeps an older secret: %v", got)
	}
	w.now = w.now.Add(24 * time.Hour)
	if got := shown(); got != 2 {
		t.Errorf("%d secrets are shown after the first overlap", got)
	}
	rotate(`{"overlap":"0s"}`)
	if got := len(w.stored(h.endpoint).Signing.Secrets); got != 1 || shown() != 1 {
		t.Errorf("%d secrets without an overlap", got)
	}
	for range 12 {
		rotate(nil)
	}
	if got := len(w.stored(h.endpoint).Signing.Secrets); got != kapsel.MaxSecrets {
		t.Errorf("%d secrets after many rotations", got)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"overlap"}, "POST", path, h.write, `{"overlap":"168h0m1s"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"overlap"}, "POST", path, h.write, `{"overlap":"-1s"}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"overlap"}, "POST", path, h.write, `{"overlap":"tomorrow"}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"overlap"}, "POST", path, h.write, `{"overlap":24}`)
}

// TestBadInput_B116_Quotas checks that a tenant's endpoints and each list in an endpoint's
// settings are bounded.
func TestBadInput_B116_Quotas(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, `{"limits":{"endpoints":3}}`)
	made := 1
	for ; made < 10; made++ {
		if a := w.do("POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com"}`); a.status != 201 {
			break
		}
	}
	w.refused(kapsel.QuotaExceeded, 403, nil, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com"}`)
	if made != 3 {
		t.Errorf("made %d endpoints, want 3", made)
	}
	w.want(204, "DELETE", "/v1/endpoints/"+h.endpoint, h.write, nil)
	w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com"}`)

	names := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint("X-", i))
		}
		return list
	}
	set := map[string]string{}
	for _, name := range names(33) {
		set[name] = "a"
	}
	h = w.newHouse("b")
	for field, patch := range map[string]object{
		"headers.set":          {"headers": object{"set": set}},
		"headers.drop":         {"headers": object{"drop": names(33)}},
		"headers.keep":         {"headers": object{"keep": names(33)}},
		"retry.schedule":       {"retry": object{"strategy": "schedule", "schedule": slices.Repeat([]string{"1s"}, 101)}},
		"retry_on":             {"retry_on": slices.Repeat([]int{500}, 301)},
		"verification.secrets": {"verification": object{"provider": "github", "secrets": names(11)}},
	} {
		w.refused(kapsel.InvalidRequest, 422, []string{field}, "PATCH", "/v1/endpoints/"+h.endpoint, h.write, patch)
	}
}
