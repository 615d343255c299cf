package ingest_test

import (
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestForwardQuery checks that the query is forwarded as it was written, behind the destination's
// own and without secrets, if the endpoint asks for it.
func TestForwardQuery(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name, url, query, want string
		change                 func(*kapsel.Endpoint)
	}{
		{"off by default", "http://shop.example/hook", "?a=1", "/hook", nil},
		{"on", "http://shop.example/hook", "?b=%20&a=1&a=2&&c=é", "/hook?b=%20&a=1&a=2&&c=é", forwarded},
		{"behind the destination's own", "http://shop.example/hook?own=%41", "?a=1", "/hook?own=%41&a=1", forwarded},
		{"none", "http://shop.example/hook?own=1", "", "/hook?own=1", forwarded},
		{"an empty one", "http://shop.example/hook", "?", "/hook", forwarded},
		{"with a token in it", "http://shop.example/hook", "?a=1&key=s&b=2&key=s", "/hook?a=1&b=2", func(ep *kapsel.Endpoint) {
			forwarded(ep)
			w.signedBy("token", "s")(ep)
			ep.Verification.In = "query:key"
		}},
	} {
		w.run(tt.name, func(t *testing.T) {
			ep := w.endpoint(func(ep *kapsel.Endpoint) {
				active(ep)
				ep.URL = tt.url
				if tt.change != nil {
					tt.change(ep)
				}
			})
			if a := w.raw(request("POST", path(ep)+tt.query, "{}")); a.status != 200 {
				t.Fatalf("answered %v", a)
			}
			if got := w.delivered().URL.RequestURI(); got != tt.want {
				t.Errorf("sent to %s, want %s", got, tt.want)
			}
		})
	}
}

func forwarded(ep *kapsel.Endpoint) { ep.ForwardQuery = true }
