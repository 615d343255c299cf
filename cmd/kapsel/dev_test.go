package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestInbox checks that the inbox shows a body as text, that nothing in a body acts as markup of
// the page or as a terminal's escape, and that the page shows new requests.
func TestInbox(t *testing.T) {
	var box inbox
	for body, want := range map[string]string{
		"{\n\t\"hello\": \"käpsel\"\r\n}": "{\n\t&#34;hello&#34;: &#34;käpsel&#34;\n}",
		"<script>alert(1)</script>":       "&lt;script&gt;alert(1)&lt;/script&gt;",
		"a\x1b[31mred\x00":                `a\x1b[31mred\x00`,
		"\xff\xfe\x00":                    "(3 B that are not text)",
		strings.Repeat("x", 20<<10):       strings.Repeat("x", 16<<10) + "… (4.0 KiB more)",
	} {
		rec := httptest.NewRecorder()
		box.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, inboxPath, strings.NewReader(body)))
		if rec.Code != http.StatusOK {
			t.Fatalf("%.20q: status %d", body, rec.Code)
		}
		rec = httptest.NewRecorder()
		box.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, inboxPath, nil))
		if page := rec.Body.String(); !strings.Contains(page, "\n"+want+"\n</pre>") || !strings.Contains(page, `<meta http-equiv="refresh"`) {
			t.Errorf("%.20q: the page is %.2000s", body, page)
		}
	}
}

// TestRoutes_Pages checks which requests go to the dashboard: those of its paths, and no others.
func TestRoutes_Pages(t *testing.T) {
	routes := &router{}
	answer := func(status int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
	}
	routes.rest.Store(&services{api: answer(201), ingest: answer(202), dashboard: answer(203)})
	for path, want := range map[string]int{
		"/": 203, "//sign-in": 404, "/sign-in": 203, "/sessions": 203, "/static/style.css": 203, "/v1/events": 201, "/docs": 201, "/ingest/": 202,
		"/nothing": 404, "/v2": 404,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			rec := httptest.NewRecorder()
			routes.ServeHTTP(rec, httptest.NewRequest(method, "http://kapsel.test"+path, nil))
			want := want
			if path == "/" && method == http.MethodPost {
				want = 404
			}
			if rec.Code != want {
				t.Errorf("%s %s: %d, want %d", method, path, rec.Code, want)
			}
		}
	}
}
