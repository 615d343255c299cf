package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// TestApps: an app is made, read by its id and its uid, changed, replaced, listed and deleted.
func TestApps(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	made := w.want(201, "POST", "/v1/apps", h.write, `{"uid":"shop-1","name":"Shop","metadata":{"plan":"gold"},"rate_limit":{"per_second":2.5,"burst":5}}`)
	id := made.text("id")
	want := object{
		"id": id, "tenant_id": h.tenant, "uid": "shop-1", "name": "Shop", "metadata": map[string]any{"plan": "gold"},
		"rate_limit": map[string]any{"per_second": 2.5, "burst": 5.0},
		"created_at": "2026-03-01T12:00:00.000Z", "updated_at": "2026-03-01T12:00:00.000Z",
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	for _, ref := range []string{id, "shop-1"} {
		if diff := cmp.Diff(want, w.want(200, "GET", "/v1/apps/"+ref, h.read, nil)); diff != "" {
			t.Errorf("GET %s (-want +got):\n%s", ref, diff)
		}
		w.want(200, "GET", "/v1/apps/"+ref+"?tenant_id="+h.tenant, adminKey, nil)
	}
	w.want(200, "GET", "/v1/apps/"+id, adminKey, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", "/v1/apps/shop-1", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/apps", adminKey, `{"name":"a"}`)
	w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/apps", h.write, `{"uid":"shop-1","name":"a"}`)
	w.refused(kapsel.Forbidden, 403, nil, "PUT", "/v1/apps/shop-1", h.read, `{"name":"a"}`)

	got := w.want(200, "PATCH", "/v1/apps/shop-1", h.write, `{"metadata":{"since":"2026"},"rate_limit":null}`)
	if fmt.Sprint(got["metadata"]) != "map[plan:gold since:2026]" || got["rate_limit"] != nil || got["uid"] != "shop-1" {
		t.Errorf("changed: %v", got)
	}
	if got = w.want(200, "PATCH", "/v1/apps/"+id, h.write, `{"metadata":{"plan":null},"uid":null,"name":"Store"}`); got["uid"] != nil || fmt.Sprint(got["metadata"]) != "map[since:2026]" || got["name"] != "Store" {
		t.Errorf("taken back: %v", got)
	}
	w.want(404, "GET", "/v1/apps/shop-1", h.read, nil)

	second := w.want(201, "PUT", "/v1/apps/shop-2", h.write, `{"name":"Two","metadata":{"a":"b"}}`)
	if again := w.want(200, "PUT", "/v1/apps/shop-2", h.write, `{"uid":"shop-2","name":"Zwei"}`); again["id"] != second["id"] || again["name"] != "Zwei" || again["uid"] != "shop-2" || fmt.Sprint(again["metadata"]) != "map[]" {
		t.Errorf("replaced: %v", again)
	}
	if again := w.want(200, "PUT", "/v1/apps/"+second.text("id"), h.write, `{"name":"Two"}`); again["uid"] != "shop-2" {
		t.Errorf("replaced by its id: %v", again)
	}
	w.want(404, "PUT", "/v1/apps/"+kapsel.NewAppID(time.Now()).String(), h.write, `{"name":"Two"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"uid"}, "PUT", "/v1/apps/shop-3", h.write, `{"uid":"shop-4","name":"a"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "PUT", "/v1/apps/shop-3", adminKey, `{"name":"a"}`)
	for _, uid := range []string{"shop%203", "a%2Fb", kapsel.NewTenantID(time.Now()).String()} {
		w.refused(kapsel.InvalidRequest, 422, []string{"uid"}, "PUT", "/v1/apps/"+uid, h.write, `{"name":"a"}`)
	}
	if list := w.want(200, "GET", "/v1/apps", h.read, nil).list("data"); len(list) != 2 {
		t.Errorf("listed: %v", list)
	}
	other := w.newHouse("other")
	missing := w.want(404, "GET", "/v1/apps/"+kapsel.NewAppID(time.Now()).String(), other.read, nil)
	for _, ref := range []string{id, "shop-2", "no such", "app_x!"} {
		if got := w.want(404, "GET", "/v1/apps/"+strings.ReplaceAll(ref, " ", "%20"), other.read, nil); got["detail"] != missing["detail"] {
			t.Errorf("another tenant's %s is answered %v, a missing one %v", ref, got, missing)
		}
	}
	w.want(204, "DELETE", "/v1/apps/shop-2", h.write, nil)
	w.want(404, "GET", "/v1/apps/"+second.text("id"), h.read, nil)
}

// TestApps_BadInput: what is wrong with an app is told by its field, all of it.
func TestApps_BadInput(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	for body, want := range map[string]string{
		`{}`:                       "name",
		`{"name":" ","uid":"a/b"}`: "name uid",
		`{"name":"a","uid":""}`:    "uid",
		`{"name":"a","uid":"` + kapsel.NewAppID(time.Now()).String() + `"}`: "uid",
		`{"name":"a","rate_limit":{"per_second":0,"burst":0}}`:              "rate_limit.per_second rate_limit.burst",
		`{"name":"a","metadata":{"":"x"}}`:                                  "metadata",
		`{"name":"a","metadata":{"x":"` + strings.Repeat("a", 501) + `"}}`:  "metadata.x",
	} {
		w.refused(kapsel.InvalidRequest, 422, strings.Fields(want), "POST", "/v1/apps", h.write, body)
	}
	w.refused(kapsel.InvalidRequest, 400, []string{"metadata.x"}, "POST", "/v1/apps", h.write, `{"name":"a","metadata":{"x":1}}`)
}

// TestApps_Endpoints: an endpoint of an app has it for ever, gets only what is published to the app,
// and is listed by it.
func TestApps_Endpoints(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	app := w.want(201, "POST", "/v1/apps", h.write, `{"uid":"shop","name":"Shop"}`).text("id")
	other := w.want(201, "POST", "/v1/apps", h.write, `{"uid":"other","name":"Other"}`).text("id")
	make := func(app string) object {
		return w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://a.example/","app":"`+app+`","subscriptions":[{"source":"publish","event_types":["a.*"]}]}`)
	}
	byUID, byID := make("shop"), make(app)
	for _, e := range []object{byUID, byID} {
		if e["app"] != app || e["ingest_url"] != nil {
			t.Errorf("made: %v", e)
		}
	}
	plain := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"plain","url":"https://a.example/","subscriptions":[{"source":"publish"}]}`)
	path := "/v1/endpoints/" + byUID.text("id")
	for _, body := range []string{`{"app":"other"}`, `{"app":null}`, `{"app":"missing"}`, `{"app":"` + other + `"}`} {
		w.refused(kapsel.InvalidRequest, 422, []string{"app"}, "PATCH", path, h.write, body)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"app"}, "PATCH", "/v1/endpoints/"+plain.text("id"), h.write, `{"app":"shop"}`)
	refusal := w.want(422, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://a.example/","app":"missing","subscriptions":[]}`)
	if !strings.HasPrefix(refusal.text("detail"), "app is no app of the tenant; ") {
		t.Errorf("refused: %v", refusal)
	}
	for _, body := range []string{`{"app":"shop","name":"b"}`, `{"app":"` + app + `"}`, `{"name":"c"}`} {
		if e := w.want(200, "PATCH", path, h.write, body); e["app"] != app {
			t.Errorf("after %s: %v", body, e)
		}
	}
	source := w.want(201, "POST", "/v1/sources", h.write, `{"name":"s"}`).text("id")
	for body, fields := range map[string]string{
		`"app":"missing","subscriptions":[{"source":"publish"}]`:                  "app",
		`"app":"missing","concurrency":0`:                                         "app concurrency",
		`"app":"` + kapsel.NewAppID(time.Now()).String() + `","subscriptions":[]`: "app",
		`"app":"shop"`: "subscriptions",
		`"app":"shop","subscriptions":[{"source":"publish"},{"source":"` + source + `"}]`: "subscriptions[1].source",
	} {
		w.refused(kapsel.InvalidRequest, 422, strings.Fields(fields), "POST", "/v1/endpoints", h.write, `{"name":"b","url":"https://a.example/",`+body+`}`)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"subscriptions[0].source"}, "PATCH", path, h.write, `{"subscriptions":[{"source":"`+source+`"}]}`)

	for _, ref := range []string{"shop", app} {
		if list := w.want(200, "GET", "/v1/endpoints?app_id="+ref, h.read, nil).list("data"); len(list) != 2 {
			t.Errorf("of the app %s: %v", ref, list)
		}
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"app_id"}, "GET", "/v1/endpoints?app_id=missing", h.read, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", "/v1/endpoints?app_id=shop", adminKey, nil)
	w.want(200, "GET", "/v1/endpoints?app_id=shop&tenant_id="+h.tenant, adminKey, nil)
	if list := w.want(200, "GET", "/v1/endpoints?app_id="+app, w.newHouse("x").read, nil).list("data"); len(list) != 0 {
		t.Errorf("another tenant's: %v", list)
	}
	w.refused(kapsel.Conflict, 409, nil, "DELETE", "/v1/apps/shop", h.write, nil)
}

// TestApps_Publish: what is published to an app goes to its endpoints and to no others, and is
// listed by it.
func TestApps_Publish(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	endpoint := func(app string) string {
		return w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://a.example/"`+app+`,"subscriptions":[{"source":"publish"}]}`).text("id")
	}
	shop := w.want(201, "POST", "/v1/apps", h.write, `{"uid":"shop","name":"Shop"}`).text("id")
	w.want(201, "POST", "/v1/apps", h.write, `{"uid":"other","name":"Other"}`)
	to := map[string]string{"shop": endpoint(`,"app":"shop"`), "other": endpoint(`,"app":"other"`), "": endpoint("")}
	for app, id := range to {
		body := `{"type":"a","data":1,"id":"same"}`
		if app != "" {
			body = `{"type":"a","data":1,"id":"same","app":"` + app + `"}`
		}
		e := w.want(201, "POST", "/v1/events", h.write, body)
		got := w.want(200, "GET", "/v1/events/"+e.text("id"), h.read, nil)
		if list := got.list("deliveries"); len(list) != 1 || list[0].text("endpoint_id") != id || (e["app_id"] == nil) != (app == "") {
			t.Errorf("published to %q: %v", app, got)
		}
		if again := w.want(200, "POST", "/v1/events", h.write, body); again["id"] != e["id"] {
			t.Errorf("again: %v", again)
		}
		why := w.want(200, "GET", "/v1/events/"+e.text("id")+"/why", h.read, nil).list("data")
		if len(why) != 1 || why[0].text("endpoint_id") != id {
			t.Errorf("why, of %q: %v", app, why)
		}
		if app != "shop" {
			w.refused(kapsel.InvalidRequest, 422, []string{"endpoint_id"}, "POST", "/v1/events/"+e.text("id")+"/replay", h.write, `{"endpoint_id":"`+to["shop"]+`"}`)
		}
	}
	for _, ref := range []string{"shop", shop} {
		list := w.want(200, "GET", "/v1/events?app_id="+ref, h.read, nil).list("data")
		if len(list) != 1 || list[0]["app_id"] != shop {
			t.Errorf("of the app %s: %v", ref, list)
		}
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"app_id"}, "GET", "/v1/events?app_id=missing", h.read, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"app"}, "POST", "/v1/events", h.write, `{"type":"a","data":1,"app":"missing"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"app"}, "POST", "/v1/events", w.newHouse("x").write, `{"type":"a","data":1,"app":"`+shop+`"}`)
	items := w.want(200, "POST", "/v1/events", h.write, `{"events":[{"type":"a","data":1,"app":"shop"},{"type":"a","data":1,"app":"missing"},{"type":"a","data":1,"dry_run":true,"app":"`+shop+`"}]}`).list("data")
	var statuses []any
	for _, item := range items {
		statuses = append(statuses, item["status"])
	}
	if !slices.Equal(statuses, []any{201.0, 422.0, 200.0}) || items[2].object("event")["app_id"] != shop {
		t.Errorf("a batch: %v", items)
	}
}
