package ingest_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// TestCredentials_B52 checks that the sender's credentials are stored only where the endpoint
// sends them along.
func TestCredentials_B52(t *testing.T) {
	w := newWorld(t)
	header := []string{"Authorization: Bearer MARK-1", "authorization: Basic MARK-2", "Cookie: a=MARK-3", "Proxy-Authorization: MARK-4", "X-Other: kept"}
	for _, tt := range []struct {
		keep []string
		want string // what is stored, of those with a mark
	}{
		{nil, ""},
		{[]string{"X-Other"}, ""},
		{[]string{"authorization"}, "1,2"},
		{[]string{"Cookie", "Authorization"}, "1,2,3"},
	} {
		ep := w.endpoint(func(ep *kapsel.Endpoint) { ep.Headers.Keep = tt.keep })
		got := w.accepted(ep, "{}", header...).Event.Header
		var marks []string
		for _, f := range got {
			if _, mark, ok := strings.Cut(f.Value, "MARK-"); ok {
				marks = append(marks, mark)
			} else if f.Name != "X-Other" && f.Name != "Content-Length" && f.Value != "[redacted]" {
				t.Errorf("keep %v: %s is stored as %q", tt.keep, f.Name, f.Value)
			}
		}
		if strings.Join(marks, ",") != tt.want {
			t.Errorf("keep %v: stored are %v, want %s", tt.keep, marks, tt.want)
		}
		if len(got) != len(header)+1 || got.Get("X-Other") != "kept" {
			t.Errorf("keep %v: the header is %v", tt.keep, got)
		}
	}
}

// TestSharedSecret_S6 checks that a secret that a provider sends in clear is not stored once
// it was compared, not even where the endpoint keeps the header.
func TestSharedSecret_S6(t *testing.T) {
	w := newWorld(t)
	const secret = "MARK-of-the-endpoint"
	for _, tt := range []struct{ provider, name string }{{"gitlab", "X-Gitlab-Token"}, {"okta", "Authorization"}} {
		ep := w.endpoint(func(ep *kapsel.Endpoint) {
			w.signedBy(tt.provider, secret)(ep)
			ep.Headers.Keep = []string{tt.name}
		})
		got := w.accepted(ep, "{}", tt.name+": "+secret).Event.Header
		if value := got.Get(tt.name); value != "[redacted]" {
			t.Errorf("%s: %s is stored as %q", tt.provider, tt.name, value)
		}
	}
	for in, tt := range map[string]struct{ header, value, query, stored string }{
		"header:x-token": {"X-Token", secret, "a=1&b=2", "a=1&b=2"},
		"basic":          {"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(secret)), "", ""},
		"query:token":    {"X-Other", "kept", "a=1&token=" + secret + "&b=%20&%74oken=" + secret, "a=1&b=%20"},
	} {
		ep := w.endpoint(func(ep *kapsel.Endpoint) {
			w.signedBy("token", secret)(ep)
			ep.Verification.In = in
			ep.Headers.Keep = []string{"Authorization"}
		})
		a := w.raw(request("POST", path(ep)+"?"+tt.query, "{}", tt.header+": "+tt.value))
		if a.status != 200 {
			t.Fatalf("token in %s: answered %v", in, a)
		}
		got := w.event(a.event()).Event
		if value := got.Header.Get(tt.header); (value == "[redacted]") != (in != "query:token") || got.Query != tt.stored {
			t.Errorf("token in %s: %s is stored as %q, the query as %q", in, tt.header, value, got.Query)
		}
	}
	other := w.endpoint(w.signedBy("hmac", secret))
	got := w.accepted(other, "{}", "X-Webhook-Signature: "+sign(secret, "{}"), "X-Gitlab-Token: kept").Event.Header
	if got.Get("X-Gitlab-Token") != "kept" {
		t.Errorf("another provider's header is stored as %q", got.Get("X-Gitlab-Token"))
	}
}

// TestNoSecretInLog checks that the log has nothing that the sender keeps to itself, whatever
// is answered, and each line is one JSON object. Paths that hold a line of a log are tried,
// too (B-122).
func TestNoSecretInLog(t *testing.T) {
	w := newWorld(t)
	const secret = "MARKED secret of the endpoint"
	ep := w.endpoint(w.signedBy("hmac", secret))
	signed := "X-Webhook-Signature: " + sign(secret, "MARK body")
	send := func(status int, method, target, body string, header ...string) {
		t.Helper()
		header = append(header, "Authorization: Bearer MARK", "Cookie: MARK", "X-Any: MARK\x80")
		if a := w.raw(request(method, target+"?token=MARK", body, header...)); a.status != status {
			t.Errorf("answered %v, want %d", a, status)
		} else if strings.Contains(a.body, "MARK") {
			t.Errorf("the answer tells a secret: %s", a.body)
		}
	}
	send(200, "POST", path(ep), "MARK body", signed)
	send(200, "POST", path(ep), "MARK body", signed, "Idempotency-Key: MARK")
	send(200, "POST", path(ep), "MARK body", signed, "Idempotency-Key: MARK")
	send(400, "POST", path(ep), "MARK body", signed, "Idempotency-Key: MARK\xff")
	send(401, "POST", path(ep), "MARK body", "X-Webhook-Signature: MARK")
	send(401, "POST", path(ep), "MARK body")
	send(404, "POST", "/ingest/no", "MARK body")
	send(405, "PUT", path(ep), "MARK body")
	w.raw(chunked(path(ep), "MARK"))
	w.fault(failing(storetest.NotPersisted, "Accept"))
	send(503, "POST", path(ep), "MARK body", signed, "Idempotency-Key: MARK")
	w.fault(nil)
	w.raw(request("POST", "/ingest/%0a%7b%22level%22:%22ERROR%22%7d%1b[2J%e2%80%a8", ""))
	log := w.logged()
	if strings.Contains(log, "MARK") {
		t.Errorf("the log tells a secret:\n%s", log)
	}
	count := 0
	for line := range strings.Lines(log) {
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "ERROR" {
			t.Errorf("%v: %s", err, line)
		}
		if entry.Msg == "webhook refused" {
			count++
		}
	}
	if count != 8 {
		t.Errorf("%d refused webhooks are in the log, want 8:\n%s", count, log)
	}
}

// TestClient: the log names the client: the peer, or behind trusted proxies the last address
// that is none of them.
func TestClient(t *testing.T) {
	w := newWorld(t)
	client := func(forwarded ...string) string {
		t.Helper()
		before := len(w.logged())
		var header []string
		for _, f := range forwarded {
			header = append(header, "X-Forwarded-For: "+f)
		}
		w.raw(request("POST", "/ingest/no", "", header...))
		var entry struct{ Client string }
		if err := json.Unmarshal([]byte(w.logged()[before:]), &entry); err != nil {
			t.Fatal(err)
		}
		return entry.Client
	}
	for _, tt := range []struct {
		forwarded []string
		want      string
	}{
		{nil, "127.0.0.1"},
		{[]string{"192.0.2.1"}, "192.0.2.1"},
		{[]string{"198.51.100.7, 192.0.2.1"}, "192.0.2.1"}, // what stands before is hearsay
		{[]string{"192.0.2.1, 10.1.2.3"}, "192.0.2.1"},
		{[]string{"192.0.2.1", "10.1.2.3,10.1.2.4"}, "192.0.2.1"},
		{[]string{"10.1.2.3"}, "10.1.2.3"},
		{[]string{"2001:db8::1"}, "2001:db8::1"},
		{[]string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{[]string{"192.0.2.1, nonsense"}, "127.0.0.1"},
		{[]string{""}, "127.0.0.1"},
		{[]string{"192.0.2.1:443"}, "127.0.0.1"},
	} {
		if got := client(tt.forwarded...); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.forwarded, got, tt.want)
		}
	}
	w.handler.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if got := client("192.0.2.1"); got != "127.0.0.1" {
		t.Errorf("a stranger's X-Forwarded-For makes it %s", got)
	}
}

// TestWait: with Wait set, ?wait= answers with the status that the delivery comes to; without
// it the query means nothing.
func TestWait(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	target := path(ep) + "?wait=5s"
	status := func(target string) string {
		t.Helper()
		var got struct{ Status string }
		a := w.raw(request("POST", target, "{}"))
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
			t.Errorf("%s: answered %v", target, a)
		}
		return got.Status
	}
	if got := status(target); got != "received" {
		t.Errorf("without Wait: %s", got)
	}
	var until time.Duration
	w.handler.Wait = func(ctx context.Context, id kapsel.EventID) string {
		deadline, _ := ctx.Deadline()
		until = time.Until(deadline)
		w.event(id) // it is stored before it is waited for
		return "delivered"
	}
	for _, tt := range []struct {
		query, want string
		most        time.Duration
	}{
		{"?wait=5s", "delivered", 5 * time.Second},
		{"?a=b&wait=24h", "delivered", time.Minute},
		{"?wait=0s", "received", 0},
		{"?wait=-5s", "received", 0},
		{"?wait=soon", "received", 0},
		{"?wait=", "received", 0},
		{"?await=5s", "received", 0},
		{"", "received", 0},
	} {
		until = 0
		if got := status(path(ep) + tt.query); got != tt.want || until > tt.most || tt.most > 0 && until <= tt.most-4*time.Second {
			t.Errorf("%q: %s within %v, want %s within %v", tt.query, got, until, tt.want, tt.most)
		}
	}
}
