package delivery_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// sent posts one event and is its only request, with the attempt's row.
func sent(t *testing.T, w *sim.World, ep *kapsel.Endpoint, d *sim.Destination, body string, header ...string) (*sim.Request, kapsel.Attempt) {
	t.Helper()
	p := w.Start()
	id := p.Event(ep, body, header...)
	w.UntilDone(time.Minute)
	if d.Count() != 1 {
		t.Fatalf("%d requests, want 1", d.Count())
	}
	balanced(t, p)
	return d.Requests()[0], w.Attempts(w.Delivery(id).ID)[0]
}

func TestRequest(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.URL = "http://shop.example:8080/a/b?c=d&e=%20" })
		body := "\x00\xff not { JSON"
		const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		r, a := sent(t, w, ep, d, body, "traceparent", parent)
		id := w.Acked()[0].Event
		if r.Method != "POST" || r.Proto != "HTTP/1.1" || r.URI != "/a/b?c=d&e=%20" || r.Host != "shop.example:8080" || string(r.Body) != body {
			t.Errorf("on the wire: %s %s %s, host %s, body %q", r.Method, r.URI, r.Proto, r.Host, r.Body)
		}
		trace := r.Header.Get("Traceparent")
		if !strings.HasPrefix(trace, parent[:36]) || !strings.HasSuffix(trace, "-01") || trace == parent {
			t.Errorf("traceparent is %q, which does not continue %q", trace, parent)
		}
		want := http.Header{
			"Content-Type": {"application/json"}, "Content-Length": {fmt.Sprint(len(body))},
			"User-Agent": {"Kapsel/1.2.3"}, "Traceparent": {trace},
			"X-Kapsel-Event-Id": {id.String()}, "X-Kapsel-Delivery-Attempt": {"1"}, "X-Kapsel-Attempt-Id": {a.ID.String()},
			"X-Kapsel-Original-Timestamp": {"2000-01-01T00:00:00.000Z"}, "X-Kapsel-Via": {kapsel.InstanceID{}.Mark(ep.ID)},
		}
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Errorf("the header (-want +got):\n%s", diff)
		}
		recorded := http.Header{}
		for _, f := range a.RequestHeaders {
			recorded.Add(f.Name, f.Value)
		}
		want.Del("Content-Length") // framing is not recorded
		if diff := cmp.Diff(want, recorded); diff != "" {
			t.Errorf("as recorded (-want +got):\n%s", diff)
		}
	})
}

// TestHeadersOut_B52 checks that a destination gets the sender's headers without credentials,
// proxies' addresses, hop-by-hop headers and forged X-Kapsel headers, as changed by the
// endpoint's drop, keep and set, and the record of the attempt has no secret.
func TestHeadersOut_B52(t *testing.T) {
	header := []string{
		"X-Custom", "1", "X-Custom", "2", "Accept", "*/*", "Content-Encoding", "gzip", "Stripe-Signature", "t=1,v1=ab",
		"Authorization", "Bearer theirs", "Cookie", "a=b", "Forwarded", "for=1.2.3.4", "X-Forwarded-For", "1.2.3.4",
		"X-Forwarded-Proto", "https", "X-Forwarded-Anything", "x", "X-Real-IP", "1.2.3.4",
		"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate", "a=b", "User-Agent", "Theirs/1",
		"X-Kapsel-Event-Id", "evt_forged", "X-Kapsel-Anything", "forged", "webhook-id", "theirs", "webhook-timestamp", "1", "webhook-signature", "v1,theirs",
		"Connection", "keep-alive, X-Hop", "Connection", "X-Other-Hop", "X-Hop", "1", "X-Other-Hop", "1", "Keep-Alive", "timeout=5", "Proxy-Authorization", "x",
		"Proxy-Connection", "close", "Te", "trailers", "Upgrade", "h2c", "Expect", "100-continue", "Trailer", "X-T",
		"Idempotency-Key", "k1", "X-Idempotency-Key", "k2",
	}
	always := map[string][]string{
		"Accept": {"*/*"}, "Content-Encoding": {"gzip"}, "Stripe-Signature": {"t=1,v1=ab"}, "X-Custom": {"1", "2"},
		"Idempotency-Key": {"k1"}, "X-Idempotency-Key": {"k2"}, "Content-Type": {"application/json"},
		"Webhook-Id": {"theirs"}, "Webhook-Timestamp": {"1"}, "Webhook-Signature": {"v1,theirs"}, // where Kapsel does not sign
	}
	ours := []string{"Content-Length", "Traceparent", "User-Agent", "X-Kapsel-Via", "X-Kapsel-Event-Id", "X-Kapsel-Delivery-Attempt", "X-Kapsel-Attempt-Id", "X-Kapsel-Original-Timestamp"}
	for _, test := range []struct {
		name     string
		change   func(w *sim.World, e *kapsel.Endpoint)
		more     map[string][]string // than always; nil values: not that
		redacted []string
	}{
		{"default", func(*sim.World, *kapsel.Endpoint) {}, nil, nil},
		{"drop a provider's signature", func(_ *sim.World, e *kapsel.Endpoint) { e.Headers.Drop = []string{"webhook-signature"} },
			map[string][]string{"Webhook-Signature": nil}, nil},
		{"drop", func(_ *sim.World, e *kapsel.Endpoint) { e.Headers.Drop = []string{"x-custom", "ACCEPT"} },
			map[string][]string{"X-Custom": nil, "Accept": nil}, nil},
		{"drop the type", func(_ *sim.World, e *kapsel.Endpoint) { e.Headers.Drop = []string{"content-type"} },
			map[string][]string{"Content-Type": nil}, nil},
		{"keep the agent", func(_ *sim.World, e *kapsel.Endpoint) { e.Headers.Keep = []string{"user-agent"} },
			map[string][]string{"User-Agent": {"Theirs/1"}}, nil},
		{"set the agent", func(w *sim.World, e *kapsel.Endpoint) {
			e.Headers.Keep = []string{"User-Agent"}
			e.Headers.Set = map[string]kapsel.Secret{"User-Agent": w.Seal(e, "Shop/1")}
		}, map[string][]string{"User-Agent": {"Shop/1"}}, []string{"User-Agent"}},
		{"keep", func(_ *sim.World, e *kapsel.Endpoint) {
			e.Headers.Keep = []string{"authorization", "Cookie", "X-Forwarded-For", "x-real-ip", "forwarded", "tracestate"}
		}, map[string][]string{
			"Authorization": {"Bearer theirs"}, "Cookie": {"a=b"}, "X-Forwarded-For": {"1.2.3.4"}, "X-Real-Ip": {"1.2.3.4"}, "Forwarded": {"for=1.2.3.4"}, "Tracestate": {"a=b"},
		}, []string{"Authorization", "Cookie"}},
		{"set", func(w *sim.World, e *kapsel.Endpoint) {
			e.Headers.Set = map[string]kapsel.Secret{"authorization": w.Seal(e, "Bearer ours"), "X-Custom": w.Seal(e, "ours")}
		}, map[string][]string{"Authorization": {"Bearer ours"}, "X-Custom": {"ours"}}, []string{"Authorization", "X-Custom"}},
		{"keep, at an endpoint of an app", func(w *sim.World, e *kapsel.Endpoint) {
			e.AppID = kapsel.NewAppID(time.Now())
			if err := w.Store().CreateApp(t.Context(), kapsel.App{ID: e.AppID, TenantID: e.TenantID}); err != nil {
				t.Fatal(err)
			}
			e.Headers.Keep = []string{"Authorization", "Cookie"}
		}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", sim.Always(200))
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { test.change(w, e) })
				r, a := sent(t, w, ep, d, "x", header...)
				want := map[string][]string{}
				for _, all := range []map[string][]string{always, test.more} {
					for name, values := range all {
						want[name] = values
						if values == nil {
							delete(want, name)
						}
					}
				}
				got := map[string][]string(r.Header)
				for _, name := range ours {
					if got[name] == nil {
						t.Errorf("%s is missing", name)
					}
					if want[name] == nil {
						delete(got, name)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("sent along (-want +got):\n%s", diff)
				}
				for _, f := range a.RequestHeaders {
					if secret := slices.Contains(test.redacted, f.Name); secret != (f.Value == "[redacted]") {
						t.Errorf("%s is recorded as %q", f.Name, f.Value)
					}
				}
			})
		})
	}
}

// TestHeadersOut_Limit checks that at most 100 headers and 16 KiB are sent, Kapsel's own first.
func TestHeadersOut_Limit(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			e.Headers.Set = map[string]kapsel.Secret{}
			for i := range 20 {
				e.Headers.Set[fmt.Sprint("X-Set-", i)] = w.Seal(e, strings.Repeat("s", 100))
			}
		})
		var header []string
		for i := range 95 {
			header = append(header, fmt.Sprint("X-Theirs-", i), strings.Repeat("t", 130))
		}
		r, _ := sent(t, w, ep, d, "x", header...)
		size := 0
		for _, line := range r.Lines {
			size += len(line) + 2
		}
		if len(r.Lines) > 102 || size > 16<<10+200 { // and Host, Content-Length
			t.Errorf("%d headers, %d bytes", len(r.Lines), size)
		}
		for _, name := range []string{"X-Kapsel-Event-Id", "X-Set-19", "Traceparent"} {
			if r.Header.Get(name) == "" {
				t.Errorf("%s was left out", name)
			}
		}
	})
}

// TestSigned checks that the reference library verifies deliveries with each of two secrets while a
// rotation's overlap lasts, and only with the new one after it.
func TestSigned(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
			if r.N == 1 {
				return sim.Answer{Status: 500}
			}
			return sim.Answer{Status: 200}
		})
		old, fresh := strings.Repeat("o", 32), strings.Repeat("n", 32)
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
			first := w.Seal(e, old)
			first.ExpiresAt = time.Now().Add(time.Hour)
			e.Signing.Enabled = true
			e.Signing.Secrets = []kapsel.Secret{w.Seal(e, fresh), first}
			slowly(e)
			e.Retry.Base = 10 * time.Minute
		})
		p := w.Start()
		id := p.Event(ep, `{"n":1}`, "webhook-id", "theirs", "webhook-timestamp", "1", "webhook-signature", "v1,theirs")
		w.UntilDone(time.Hour)
		w.Pass(time.Hour)
		p.Event(ep, `{"n":2}`)
		w.UntilDone(time.Minute)
		valid := func(r *sim.Request, secret string) bool {
			hook, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString([]byte(secret)))
			if err != nil {
				t.Fatal(err)
			}
			if at := r.Header.Get("webhook-timestamp"); at != fmt.Sprint(r.At.Unix()) {
				t.Errorf("webhook-timestamp is %s at %d", at, r.At.Unix())
			}
			return hook.VerifyIgnoringTimestamp(r.Body, r.Header) == nil
		}
		r := d.Requests()
		if len(r) != 3 {
			t.Fatalf("%d requests, want 3", len(r))
		}
		for i, r := range r {
			for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
				if values := r.Header[name]; len(values) != 1 || strings.Contains(values[0], "theirs") {
					t.Errorf("request %d has %s %q", i+1, name, values)
				}
			}
			if !valid(r, fresh) || valid(r, old) != (i < 2) || valid(r, strings.Repeat("x", 32)) {
				t.Errorf("request %d: signatures %q", i+1, r.Header.Get("webhook-signature"))
			}
		}
		if r[0].Header.Get("webhook-id") != id.String() || r[1].Header.Get("webhook-id") != id.String() {
			t.Error("webhook-id is not the event's id on each attempt")
		}
		if r[0].Header.Get("webhook-timestamp") == r[1].Header.Get("webhook-timestamp") {
			t.Error("webhook-timestamp is not of the attempt")
		}
		balanced(t, p)
	})
}

// TestAnswerHeader checks that an attempt keeps 8 KiB of the answer's header and leaves out fields
// that do not fit.
func TestAnswerHeader(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(*sim.Request) sim.Answer {
			h := http.Header{"X-A": {strings.Repeat("a", 30<<10)}, "X-Z": {"last"}}
			for i := range 20 {
				h.Add("X-M", strings.Repeat("m", 1000)+fmt.Sprint(i))
			}
			return sim.Answer{Status: 200, Header: h}
		})
		_, a := sent(t, w, w.NewEndpoint(d, nil), d, "x")
		size, names := 0, map[string]int{}
		for _, f := range a.ResponseHeaders {
			size += len(f.Name) + len(f.Value) + 4
			names[f.Name]++
		}
		if size > 8<<10 {
			t.Errorf("%d bytes are kept", size)
		}
		want := map[string]int{"Content-Length": 1, "X-M": 8, "X-Z": 1}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("the fields that are kept (-want +got):\n%s", diff)
		}
	})
}

// TestAnswer_FD7 checks that an attempt keeps an answer's status, headers byte for byte and
// the first 4 KiB of its body, however long the body is.
func TestAnswer_FD7(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(*sim.Request) sim.Answer {
			return sim.Answer{Status: 201, Header: http.Header{"X-B": {"1", "2"}, "X-A": {"\xff"}}, Body: strings.Repeat("\xfe", 1<<20)}
		})
		ep := w.NewEndpoint(d, nil)
		_, a := sent(t, w, ep, d, "x")
		if string(a.ResponseBody) != strings.Repeat("\xfe", 4<<10) {
			t.Errorf("%d bytes of the body are kept, want 4096", len(a.ResponseBody))
		}
		want := kapsel.Header{{Name: "Content-Length", Value: "1048576"}, {Name: "X-A", Value: "\xff"}, {Name: "X-B", Value: "1"}, {Name: "X-B", Value: "2"}}
		if diff := cmp.Diff(want, a.ResponseHeaders); diff != "" {
			t.Errorf("the header (-want +got):\n%s", diff)
		}
		if a.StatusCode != 201 || a.ErrorCode != "" || a.Number != 1 {
			t.Errorf("the attempt is %+v", a)
		}
	})
}

// TestCommitments checks that the audit log's entry of an attempt commits to the request exactly if the
// request may have been sent.
func TestCommitments(t *testing.T) {
	dials := func(f sim.DialFault) func(*sim.Destination) {
		return func(d *sim.Destination) { d.Dial(func() sim.DialFault { return f }) }
	}
	answers := func(a sim.Answer) func(*sim.Destination) {
		return func(d *sim.Destination) { d.Script(func(*sim.Request) sim.Answer { return a }) }
	}
	for name, tt := range map[string]struct {
		fails func(*sim.Destination)
		code  kapsel.Code
		sent  bool
	}{
		"refused":          {dials(sim.Refuses), kapsel.ConnectionRefused, false},
		"no such name":     {dials(sim.Unknown), kapsel.DNSError, false},
		"dialled in vain":  {dials(sim.Swallows), kapsel.ConnectionTimeout, false},
		"no answer":        {answers(sim.Answer{Hang: true}), kapsel.ConnectionTimeout, true},
		"closed":           {answers(sim.Answer{}), kapsel.BadResponse, true},
		"answered":         {answers(sim.Answer{Status: 200}), "", true},
		"refused by a 500": {answers(sim.Answer{Status: 500}), kapsel.HTTPServerError, true},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", sim.Always(200))
				tt.fails(d)
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Retry.MaxAttempts = 1 })
				p := w.Start()
				p.Event(ep, "{}")
				w.UntilDone(time.Minute)
				entries, _, err := w.Store().Entries(t.Context(), store.EntryKey{}, 10, nil)
				if err != nil || len(entries) != 1 {
					t.Fatalf("%d entries, %v", len(entries), err)
				}
				r, err := store.ReadRecord(entries[0].AttemptID, entries[0].Record)
				if err != nil || r.ErrorCode != tt.code || (r.Commitments.Request != nil) != tt.sent || r.Commitments.URL == nil || r.Commitments.Payload == nil {
					t.Errorf("%s, with commitments %+v, %v", r.ErrorCode, r.Commitments, err)
				}
			})
		})
	}
}
