package api

import (
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestPortalLinks: a link is made with its URL, read without it, and revoked; and what it cannot be.
func TestPortalLinks(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	app := w.want(201, "POST", "/v1/apps", h.write, `{"uid":"shop","name":"Shop"}`).text("id")
	made := w.want(201, "POST", "/v1/portal-links", h.write, `{"app":"shop","mode":"manage","expires_in":"15m","sites":["https://app.example","http://localhost:3000"]}`)
	id, url := made.text("id"), made.text("url")
	page, token, _ := strings.Cut(url, "#")
	if page != "https://kapsel.example/portal/open/"+id || len(token) < 43 || made["app"] != app || made["used_at"] != nil || made.text("expires_at") != "2026-03-01T12:15:00.000Z" {
		t.Errorf("made: %v", made)
	}
	got := w.want(200, "GET", "/v1/portal-links/"+id, h.read, nil)
	if got["url"] != nil || got["mode"] != "manage" || got["revoked_at"] != nil {
		t.Errorf("read: %v", got)
	}
	whole := w.want(201, "POST", "/v1/portal-links?tenant_id="+h.tenant, adminKey, `{"mode":"read"}`)
	if whole["app"] != nil || whole["key_id"] != nil || whole.text("expires_at") != "2026-03-01T13:00:00.000Z" {
		t.Errorf("by the admin: %v", whole)
	}
	if n := len(w.want(200, "GET", "/v1/portal-links", h.read, nil).list("data")); n != 2 {
		t.Errorf("%d links are listed", n)
	}
	for range 2 {
		w.want(204, "DELETE", "/v1/portal-links/"+id, h.write, nil)
	}
	if got = w.want(200, "GET", "/v1/portal-links/"+id, h.read, nil); got["revoked_at"] == nil {
		t.Errorf("revoked: %v", got)
	}
	w.refused(kapsel.Forbidden, 403, nil, "POST", "/v1/portal-links", h.read, `{"mode":"read"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/portal-links", adminKey, `{"mode":"read"}`)
	for body, fields := range map[string][]string{
		`{}`:                                 {"mode"},
		`{"mode":"own"}`:                     {"mode"},
		`{"mode":"read","app":"nobody"}`:     {"app"},
		`{"mode":"read","expires_in":"25h"}`: {"expires_in"},
		`{"mode":"read","expires_in":"1s"}`:  {"expires_in"},
		`{"mode":"read","sites":["*"]}`:      {"sites"},
		`{"mode":"read","sites":["https://a.example/path"]}`:          {"sites"},
		`{"mode":"read","sites":["http://a.example"]}`:                {"sites"},
		`{"mode":"read","sites":["https://a.example; script-src *"]}`: {"sites"},
		`{"mode":"read","sites":["https://*.example"]}`:               {"sites"},
		`{"mode":"read","sites":["data:"]}`:                           {"sites"},
	} {
		w.refused(kapsel.InvalidRequest, 422, fields, "POST", "/v1/portal-links", h.write, body)
	}
}
