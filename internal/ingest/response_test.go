package ingest_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestResponse checks that an endpoint's own answer replaces the usual one and a provider's, for
// accepted webhooks and their duplicates and for nothing else.
func TestResponse(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name     string
		response kapsel.Response
		header   string // Content-Type
	}{
		{"empty", kapsel.Response{Status: 200, ContentType: kapsel.NoContentType}, ""},
		{"text", kapsel.Response{Status: 201, ContentType: "text/plain", Body: strings.Repeat("é", kapsel.MaxResponse/2)}, "text/plain"},
		{"JSON", kapsel.Response{Status: 202, ContentType: "application/json", Body: `{"ok":true}`}, "application/json"},
		{"a body of no type", kapsel.Response{Status: 200, ContentType: kapsel.NoContentType, Body: "<script>"}, ""},
		{"no content", kapsel.Response{Status: 204, ContentType: kapsel.NoContentType}, ""},
	} {
		w.run(tt.name, func(t *testing.T) {
			mac, err := hex.DecodeString(sign("s", `{"events":[1]}`))
			w.must(err)
			for provider, signature := range map[string]string{"": "X-None: 1", "xero": "X-Xero-Signature: " + base64Of(mac)} {
				ep := w.endpoint(func(ep *kapsel.Endpoint) {
					if provider != "" {
						w.signedBy(provider, "s")(ep)
					}
					ep.Response = &tt.response
				})
				for _, replayed := range []string{"", "true"} {
					a := w.post(ep, `{"events":[1]}`, signature, "Idempotency-Key: k")
					if a.status != tt.response.Status || a.body != tt.response.Body || a.header.Get("Content-Type") != tt.header ||
						a.header.Get("Idempotent-Replayed") != replayed || a.event().IsZero() {
						t.Errorf("provider %q: answered %v", provider, a)
					}
				}
				w.refused(400, kapsel.InvalidRequest, ep, `{"events":[1]}`, signature, "Idempotency-Key: \xff")
			}
			// A challenge is answered as its provider wants it.
			x := w.endpoint(func(ep *kapsel.Endpoint) {
				w.signedBy("x", "s")(ep)
				ep.Response = &tt.response
			})
			c := w.dial()
			c.write(request("GET", path(x)+"?crc_token=abc", ""))
			if a, err := c.read("GET"); err != nil || a.status != 200 || !strings.Contains(a.body, `"response_token"`) {
				t.Errorf("the challenge is answered %v, %v", a, err)
			}
		})
	}
}
