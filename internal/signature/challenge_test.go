package signature

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func TestChallenge_Answer(t *testing.T) {
	plain := func(text string) *Answer { return plainAnswer(text) }
	for _, tt := range []struct {
		from, to            string
		method, query, body string
		header              [2]string
		want                *Answer
	}{
		{"query:challenge", "body", "GET", "challenge=a+b", "", [2]string{}, plain("a b")},
		{"query:challenge", "body", "HEAD", "challenge=a", "", [2]string{}, plain("a")},
		{"query:challenge", "body", "POST", "challenge=a", "", [2]string{}, plain("a")},
		{"query:challenge", "body", "POST", "challenge=a", "{}", [2]string{}, nil},
		{"query:challenge", "body", "PUT", "challenge=a", "", [2]string{}, nil},
		{"query:challenge", "body", "OPTIONS", "challenge=a", "", [2]string{}, nil},
		{"query:challenge", "body", "GET", "challenge=", "", [2]string{}, nil},
		{"query:challenge", "body", "GET", "challenge=a%0ab", "", [2]string{}, nil},
		{"query:challenge", "body", "GET", "challenge=%c3%a9", "", [2]string{}, nil},
		{"query:challenge", "body", "GET", "challenge=" + strings.Repeat("a", maxChallenge), "", [2]string{}, plain(strings.Repeat("a", maxChallenge))},
		{"query:challenge", "body", "GET", "challenge=" + strings.Repeat("a", maxChallenge+1), "", [2]string{}, nil},
		{"query:challenge", "json:challenge", "GET", `challenge="}<`, "", [2]string{}, &Answer{Status: 200, ContentType: "application/json", Body: []byte(`{"challenge":"\"}\u003c"}`)}},
		{"json:$.challenge", "json:challenge", "POST", "", `{"challenge":"a"}`, [2]string{}, jsonAnswer(map[string]string{"challenge": "a"})},
		{"json:$.challenge", "body", "POST", "", `{"a":"1","challenge":"x","b":"2"}`, [2]string{}, plain("x")},
		{"json:$.challenge", "body", "POST", "", `{"a":"1","challenge":"x","b":"2","c":"3"}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"a":1,"challenge":"x"}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"a":{},"challenge":"x"}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"a":null,"challenge":"x"}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"challenge":12}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"event":{"challenge":"x"}}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `[{"challenge":"x"}]`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"challenge":"x","challenge":"y"}`, [2]string{}, nil},
		{"json:$.challenge", "body", "POST", "", `{"challenge":"x","a":"` + strings.Repeat("a", maxHandshake) + `"}`, [2]string{}, nil},
		{"json:$.challenge", "body", "GET", "", `{"challenge":"x"}`, [2]string{}, nil},
		{`json:$["a b"]`, "body", "POST", "", `{"a b":"x"}`, [2]string{}, plain("x")},
		{"header:x-hook-secret", "header:X-Hook-Secret", "POST", "", "", [2]string{"X-Hook-Secret", "s"}, &Answer{Status: 200, Header: map[string]string{"X-Hook-Secret": "s"}}},
		{"header:x-hook-secret", "header:X-Hook-Secret", "POST", "", "{}", [2]string{"X-Hook-Secret", "s"}, nil},
		{"header:x-hook-secret", "body", "GET", "", "", [2]string{"X-Hook-Secret", "s"}, plain("s")},
		{"header:x-hook-secret", "body", "GET", "", "", [2]string{}, nil},
	} {
		c := kapsel.Challenge{From: tt.from, To: tt.to}
		if fields := CheckChallenge("hmac", &c, true); fields != nil {
			t.Fatalf("%+v: %v", c, fields)
		}
		r := Request{Method: tt.method, URL: "https://hooks.example.com/ingest/ep_1?" + tt.query, Header: http.Header{}, Body: []byte(tt.body)}
		if tt.header[0] != "" {
			r.Header.Set(tt.header[0], tt.header[1])
		}
		if diff := cmp.Diff(tt.want, NewChallenge(&c, false).Answer(r)); diff != "" {
			t.Errorf("%s to %s, %s %.50s %.50s (-want +got):\n%s", tt.from, tt.to, tt.method, tt.query, tt.body, diff)
		}
	}
	for method, want := range map[string]*Answer{"GET": {Status: 200}, "HEAD": {Status: 200}, "POST": nil, "PUT": nil, "OPTIONS": nil} {
		if diff := cmp.Diff(want, NewChallenge(nil, true).Answer(Request{Method: method})); diff != "" {
			t.Errorf("probe by %s (-want +got):\n%s", method, diff)
		}
		if a := NewChallenge(nil, false).Answer(Request{Method: method}); a != nil {
			t.Errorf("%s without settings: %+v", method, a)
		}
	}
}

// TestClaims checks that a challenge that has a signature or the secret is answered only if it is
// right.
func TestClaims(t *testing.T) {
	for _, tt := range []struct {
		v             kapsel.Verification
		header, query string
		want          bool
	}{
		{kapsel.Verification{Provider: "hmac"}, "X-Webhook-Signature", "", true},
		{kapsel.Verification{Provider: "hmac"}, "X-Other", "", false},
		{kapsel.Verification{Provider: "token", In: "header:x-token"}, "X-Token", "", true},
		{kapsel.Verification{Provider: "token", In: "basic"}, "Authorization", "", true},
		{kapsel.Verification{Provider: "token", In: "query:token"}, "", "%74oken=x", true},
		{kapsel.Verification{Provider: "token", In: "query:token"}, "", "challenge=x", false},
	} {
		r := Request{Method: "POST", URL: "https://hooks.example.com/?" + tt.query, Header: http.Header{tt.header: {"x"}}}
		if got := verifier(t, tt.v, "s").Claims(r); got != tt.want {
			t.Errorf("%+v: %s %s: %v", tt.v, tt.header, tt.query, got)
		}
	}
}
