package api

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func TestTenants(t *testing.T) {
	w := newWorld(t)
	unlimited := map[string]any{"closed_catalogue": false, "ingest_per_second": nil, "ingest_burst": nil, "endpoints": nil, "events_per_month": nil, "retention": "2160h"}
	made := w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"acme"}`)
	want := object{"id": made["id"], "name": "acme", "plan": "unlimited", "limits": unlimited, "audit": map[string]any{"public": true, "witnesses": nil, "retention": "61320h"}, "created_at": "2026-03-01T12:00:00.000Z"}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("POST (-want +got):\n%s", diff)
	}
	path := "/v1/tenants/" + made.text("id")
	if diff := cmp.Diff(made, w.want(200, "GET", path, adminKey, nil)); diff != "" {
		t.Errorf("GET (-POST +GET):\n%s", diff)
	}
	if w.changed != 1 {
		t.Errorf("Changed was called %d times", w.changed)
	}

	limits := func(patch string) object {
		t.Helper()
		return w.want(200, "PATCH", path, adminKey, patch).object("limits")
	}
	free := object{"closed_catalogue": false, "ingest_per_second": 10., "ingest_burst": 50., "endpoints": 10., "events_per_month": 100000., "retention": "168h"}
	if diff := cmp.Diff(free, limits(`{"plan":"free"}`)); diff != "" {
		t.Errorf("plan free (-want +got):\n%s", diff)
	}
	own := object{"closed_catalogue": false, "ingest_per_second": 10., "ingest_burst": 50., "endpoints": nil, "events_per_month": 5., "retention": "24h"}
	if diff := cmp.Diff(own, limits(`{"limits":{"endpoints":null,"events_per_month":5,"retention":"24h"}}`)); diff != "" {
		t.Errorf("own limits (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(own, limits(`{"plan":"team"}`)); diff != "" {
		t.Errorf("own limits after a change of plan (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(object(unlimited), limits(`{"plan":null,"limits":null}`)); diff != "" {
		t.Errorf("limits null (-want +got):\n%s", diff)
	}
	if got := w.want(200, "PATCH", path, adminKey, `{"name":"Acme Ltd"}`).text("name"); got != "Acme Ltd" {
		t.Errorf("name %q", got)
	}
	if diff := cmp.Diff(object{"closed_catalogue": false, "ingest_per_second": 10., "ingest_burst": 50., "endpoints": 3., "events_per_month": 100000., "retention": "168h"},
		w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"b","plan":"free","limits":{"endpoints":3}}`).object("limits")); diff != "" {
		t.Errorf("POST with limits (-want +got):\n%s", diff)
	}

	w.refused(kapsel.InvalidRequest, 422, []string{"name"}, "POST", "/v1/tenants", adminKey, `{}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"name", "plan", "limits.endpoints"}, "POST", "/v1/tenants", adminKey, `{"name":" ","plan":"gold","limits":{"endpoints":0}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"name"}, "PATCH", path, adminKey, `{"name":null}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"limits.endpoints", "limits.retention", "limits.x"}, "PATCH", path, adminKey, `{"limits":{"endpoints":"3","retention":"long","x":1}}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"id", "created_at", "data_key"}, "POST", "/v1/tenants", adminKey, `{"name":"a","id":"x","created_at":null,"data_key":""}`)

	w.want(204, "DELETE", path, adminKey, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", path, adminKey, nil)
	w.refused(kapsel.NotFound, 404, nil, "DELETE", path, adminKey, nil)
	h := w.newHouse("c")
	w.refused(kapsel.Conflict, 409, nil, "DELETE", "/v1/tenants/"+h.tenant, adminKey, nil)
	w.want(204, "DELETE", "/v1/endpoints/"+h.endpoint, h.write, nil)
	w.want(204, "DELETE", "/v1/tenants/"+h.tenant, adminKey, nil)
	w.refused(kapsel.Unauthorized, 401, nil, "GET", "/v1/endpoints", h.write, nil)
}

func TestTenantsOfAKey(t *testing.T) {
	w := newWorld(t)
	a, b := w.newHouse("a"), w.newHouse("b")
	if got := w.want(200, "GET", "/v1/tenants/"+a.tenant, a.read, nil).text("name"); got != "a" {
		t.Errorf("name %q", got)
	}
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/tenants/"+b.tenant, a.write, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/tenants/"+b.tenant+"/keys", a.write, nil)
	w.refused(kapsel.NotFound, 404, nil, "POST", "/v1/tenants/"+b.tenant+"/keys", a.write, `{"name":"a","scope":"read"}`)
	for _, key := range []string{a.read, a.write} {
		w.refused(kapsel.Forbidden, 403, nil, "GET", "/v1/tenants", key, nil)
		w.refused(kapsel.Forbidden, 403, nil, "POST", "/v1/tenants", key, `{"name":"x"}`)
		w.refused(kapsel.Forbidden, 403, nil, "PATCH", "/v1/tenants/"+a.tenant, key, `{"name":"x"}`)
		w.refused(kapsel.Forbidden, 403, nil, "DELETE", "/v1/tenants/"+b.tenant, key, nil)
		w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", "/v1/endpoints?tenant_id="+a.tenant, key, nil)
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/tenants/" + h.tenant + "/keys"
	made := w.want(201, "POST", path, h.write, `{"name":"ci","scope":"read","expires_at":"2026-03-01T13:00:00Z"}`)
	text := made.text("secret")
	if len(text) != 4+43+6 || !strings.HasPrefix(text, "kap_") || made.text("prefix") != text[:8] {
		t.Errorf("secret %q, prefix %q", text, made.text("prefix"))
	}
	delete(made, "secret")
	want := object{"id": made["id"], "tenant_id": h.tenant, "name": "ci", "scope": "read", "prefix": made["prefix"], "created_at": "2026-03-01T12:00:00.000Z",
		"expires_at": "2026-03-01T13:00:00.000Z", "last_used_at": nil, "revoked_at": nil}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("POST (-want +got):\n%s", diff)
	}
	w.want(200, "GET", "/v1/endpoints", text, nil)
	listed := w.want(200, "GET", path, h.read, nil).list("data")
	want["last_used_at"] = "2026-03-01T12:00:00.000Z"
	found := false
	for _, k := range listed {
		if k["secret"] != nil {
			t.Errorf("the list shows a secret: %v", k)
		}
		if k["id"] == made["id"] {
			found = true
			if diff := cmp.Diff(want, k); diff != "" {
				t.Errorf("GET (-want +got):\n%s", diff)
			}
		}
	}
	if len(listed) != 3 || !found {
		t.Errorf("%d keys are listed", len(listed))
	}

	w.now = w.now.Add(time.Hour)
	w.refused(kapsel.Unauthorized, 401, nil, "GET", "/v1/endpoints", text, nil)
	w.want(204, "DELETE", path+"/"+made.text("id"), h.write, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"name", "scope", "expires_at"}, "POST", path, h.write, `{"name":"","scope":"admin","expires_at":"2026-03-01T13:00:00Z"}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"tenant_id"}, "POST", path, h.write, `{"name":"a","scope":"read","tenant_id":"x"}`)
	w.refused(kapsel.Forbidden, 403, nil, "POST", path, h.read, `{"name":"a","scope":"read"}`)

	// A key may revoke itself.
	for _, k := range w.want(200, "GET", path, adminKey, nil).list("data") {
		if k.text("scope") == "write" {
			w.want(204, "DELETE", path+"/"+k.text("id"), h.write, nil)
		}
	}
	w.refused(kapsel.Unauthorized, 401, nil, "GET", path, h.write, nil)
}
