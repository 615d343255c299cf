package ingest_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// TestKey_B41 checks that each strategy finds the idempotency key where it should, and an
// invalid key is refused in a header that the sender chose and ignored elsewhere.
func TestKey_B41(t *testing.T) {
	w := newWorld(t)
	const invalid = "INVALID"
	sum := sha256.Sum256([]byte(`{"a":1}`))
	longest := strings.Repeat("k", 255)
	github := func(ep *kapsel.Endpoint) { w.signedBy("github", "s")(ep) }
	okta := func(ep *kapsel.Endpoint) { w.signedBy("okta", "s")(ep) }
	for _, tt := range []struct {
		name   string
		change func(*kapsel.Endpoint)
		body   string
		header []string
		want   string // "": no key
	}{
		{"none given", nil, "", nil, ""},
		{"header", nil, "", []string{"X-Idempotency-Key: k1"}, "k1"},
		{"the other header", nil, "", []string{"Idempotency-Key: k2"}, "k2"},
		{"any case of the name", nil, "", []string{"iDEMPOTENCY-kEY: k2"}, "k2"},
		{"both", nil, "", []string{"Idempotency-Key: k2", "X-Idempotency-Key: k1"}, "k1"},
		{"the endpoint's own header", keyed("header", "x-My-iD", ""), "", []string{"X-Idempotency-Key: k1", "X-My-Id: own"}, "own"},
		{"the endpoint's own header is not there", keyed("header", "X-My-Id", ""), "", []string{"Idempotency-Key: k2"}, "k2"},
		{"one character", nil, "", []string{"Idempotency-Key: 1"}, "1"},
		{"255 bytes", nil, "", []string{"Idempotency-Key: " + longest}, longest},
		{"printable", nil, "", []string{`Idempotency-Key: '; DROP TABLE events; --" ~!`}, `'; DROP TABLE events; --" ~!`},
		{"spaces around", nil, "", []string{"Idempotency-Key: \t k \t"}, "k"},
		{"a space inside", nil, "", []string{"Idempotency-Key: k k"}, "k k"},
		{"empty", nil, "", []string{"Idempotency-Key:"}, invalid},
		{"256 bytes", nil, "", []string{"Idempotency-Key: " + longest + "k"}, invalid},
		{"a tab inside", nil, "", []string{"Idempotency-Key: k\tk"}, invalid},
		{"not ASCII", nil, "", []string{"Idempotency-Key: ké"}, invalid},
		{"not UTF-8", nil, "", []string{"Idempotency-Key: \xff"}, invalid},
		{"twice", nil, "", []string{"Idempotency-Key: k", "Idempotency-Key: k"}, invalid},
		{"the first header decides", nil, "", []string{"X-Idempotency-Key: \xff", "Idempotency-Key: k"}, invalid},
		{"the endpoint's own header, invalid", keyed("header", "X-My-Id", ""), "", []string{"X-My-Id: \xff", "Idempotency-Key: k"}, invalid},

		{"the provider's header", github, "", []string{"X-GitHub-Delivery: guid"}, "guid"},
		{"the sender's header before the provider's", github, "", []string{"X-GitHub-Delivery: guid", "Idempotency-Key: k"}, "k"},
		{"the provider's header, not ASCII", github, "", []string{"X-GitHub-Delivery: \xff"}, ""},
		{"the provider's header, too long", github, "", []string{"X-GitHub-Delivery: " + longest + "k"}, ""},
		{"the provider's header, empty", github, "", []string{"X-GitHub-Delivery:"}, ""},
		{"the provider's id in the body", okta, `{"eventId":"evt_1"}`, nil, "evt_1"},
		{"the sender's header before the provider's id in the body", okta, `{"eventId":"evt_1"}`, []string{"Idempotency-Key: k"}, "k"},
		{"the provider's id in the body, not ASCII", okta, `{"eventId":"é"}`, nil, ""},
		{"the provider's id is not there", okta, `{}`, nil, ""},
		{"another provider's header", nil, "", []string{"X-GitHub-Delivery: guid"}, ""},

		{"content", keyed("content", "", ""), `{"a":1}`, []string{"Idempotency-Key: k"}, string(sum[:])},
		{"content, with an invalid header", keyed("content", "", ""), `{"a":1}`, []string{"Idempotency-Key: \xff"}, string(sum[:])},

		{"source_id", keyed("source_id", "", "$.id"), `{"id":"evt_1"}`, []string{"Idempotency-Key: k"}, "evt_1"},
		{"source_id, a number", keyed("source_id", "", "$.data[1].n"), `{"data":[0,{"n":1.10e1}]}`, nil, "1.10e1"},
		{"source_id, not ASCII", keyed("source_id", "", "$.id"), `{"id":"é"}`, nil, "é"},
		{"source_id, the other form of é", keyed("source_id", "", "$.id"), "{\"id\":\"e\u0301\"}", nil, "e\u0301"},
		{"source_id, B-41 252 bytes of emoji", keyed("source_id", "", "$.id"), `{"id":"` + strings.Repeat("😀", 63) + `"}`, nil, strings.Repeat("😀", 63)},
		{"source_id, too long", keyed("source_id", "", "$.id"), `{"id":"` + longest + `k"}`, nil, ""},
		{"source_id, empty", keyed("source_id", "", "$.id"), `{"id":""}`, nil, ""},
		{"source_id, not there", keyed("source_id", "", "$.id"), `{"ID":"1"}`, []string{"Idempotency-Key: k"}, ""},
		{"source_id, no JSON", keyed("source_id", "", "$.id"), "id=1", nil, ""},
		{"source_id, no body", keyed("source_id", "", "$.id"), "", nil, ""},
		{"source_id, an object", keyed("source_id", "", "$.id"), `{"id":{}}`, nil, ""},
		{"source_id, B-31 NUL", keyed("source_id", "", "$.id"), `{"id":"\u0000"}`, nil, ""},
		{"source_id, B-32 half a character", keyed("source_id", "", "$.id"), `{"id":"\ud800"}`, nil, ""},
		{"source_id, B-33 not UTF-8", keyed("source_id", "", "$.id"), "{\"id\":\"\xff\"}", nil, ""},
		{"source_id, B-37 nested deep", keyed("source_id", "", "$.id"), `{"a":` + strings.Repeat("[", 100_000), nil, ""},
		{"source_id, behind a byte order mark", keyed("source_id", "", "$.id"), "\ufeff{\"id\":\"1\"}", nil, "1"},
		{"source_id, in a form", keyed("source_id", "", "$.id"), "a=1&payload=%7B%22id%22%3A%221+2%22%7D", []string{"Content-Type: application/x-www-form-urlencoded; charset=utf-8"}, "1 2"},
		{"source_id, in a form, with a name in escapes", keyed("source_id", "", "$.id"), "%70ayload=%7B%22id%22%3A%221%22%7D", []string{"Content-Type: application/x-www-form-urlencoded"}, "1"},
		{"source_id, in a form, behind a byte order mark", keyed("source_id", "", "$.id"), "payload=%EF%BB%BF%7B%22id%22%3A%221%22%7D", []string{"Content-Type: application/x-www-form-urlencoded"}, "1"},
		{"source_id, in a form of another type", keyed("source_id", "", "$.id"), "payload=%7B%22id%22%3A%221%22%7D", []string{"Content-Type: text/plain"}, "1"},
		{"source_id, JSON under the type of a form", keyed("source_id", "", "$.id"), `{"id":"1&payload={}"}`, []string{"Content-Type: application/x-www-form-urlencoded"}, "1&payload={}"},
		{"source_id, in a form with a wrong escape", keyed("source_id", "", "$.id"), "payload=%zz", []string{"Content-Type: application/x-www-form-urlencoded"}, ""},

		{"strategy none", keyed("none", "", ""), "", []string{"Idempotency-Key: k"}, ""},
		{"strategy none, an invalid header", keyed("none", "", ""), "", []string{"Idempotency-Key: \xff"}, ""},
	} {
		w.run(tt.name, func(t *testing.T) {
			ep := w.endpoint(tt.change)
			header := tt.header
			if ep.Verification.Provider != "" {
				header = append(header, "X-Hub-Signature-256: sha256="+sign("s", tt.body), "Authorization: s")
			}
			if tt.want == invalid {
				a := w.refused(400, kapsel.InvalidRequest, ep, tt.body, header...)
				name, _, _ := strings.Cut(tt.header[0], ":")
				if !strings.Contains(a.body, `"errors":[{"field":"`+name+`"`) {
					t.Errorf("the answer does not name the header %s: %s", name, a.body)
				}
				return
			}
			first := w.accepted(ep, tt.body, header...).Event
			if got := string(first.IdempotencyKey); got != tt.want {
				t.Errorf("the key is %q, want %q", got, tt.want)
			}
			again := w.post(ep, tt.body, header...)
			if repeated := again.event() == first.ID; repeated != (tt.want != "") || again.status != 200 {
				t.Errorf("sent again, it was answered %v; the first was %v", again, first.ID)
			}
		})
	}
}

// TestKey_FormsStayApart checks that keys that only look alike are different keys.
func TestKey_FormsStayApart(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(keyed("source_id", "", "$.id"))
	seen := map[kapsel.EventID]string{}
	for _, body := range []string{`{"id":"é"}`, "{\"id\":\"e\u0301\"}", `{"id":"A"}`, `{"id":"a"}`, `{"id":"a "}`, `{"id":" a"}`, `{"id":1}`, `{"id":1.0}`, `{"id":"\ud800"}`, `{"id":"\ud801"}`} {
		id := w.accepted(ep, body).Event.ID
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have one key", body, other)
		}
		seen[id] = body
	}
}

// TestWindow checks that an idempotency key is remembered for its window, counted from the
// first acceptance and not prolonged by duplicates. This is B-65 in a running process.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, sim.Options{})
		d := w.Net.Destination("shop.example", sim.Always(200))
		ep := w.NewEndpoint(d, func(ep *kapsel.Endpoint) { ep.Idempotency.Window = time.Minute })
		p := w.Start()
		post := func() kapsel.EventID { return p.Event(ep, "{}", "Idempotency-Key", "k") }
		first := post()
		for range 3 {
			time.Sleep(19 * time.Second)
			if id := post(); id != first {
				t.Fatalf("within the window the event is %v, was %v", id, first)
			}
		}
		time.Sleep(2 * time.Second) // a commit may gather calls for some milliseconds
		if id := post(); id != first {
			t.Fatalf("at the window's end the event is %v, was %v", id, first)
		}
		time.Sleep(2 * time.Second)
		second := post()
		if second == first {
			t.Fatal("after the window it is the same event: the window slides")
		}
		time.Sleep(59 * time.Second)
		if id := post(); id != second {
			t.Fatalf("within the second window the event is %v, was %v", id, second)
		}
		if n := len(d.Requests()); n != 2 {
			t.Errorf("%d requests were delivered, want 2", n)
		}
	})
}

// TestContentKey_Query checks that the content of an event is its body and its query as they were
// written, without secrets and without the query's parameters for Kapsel.
func TestContentKey_Query(t *testing.T) {
	w := newWorld(t)
	sum := func(parts ...string) string {
		h := sha256.New()
		for _, p := range parts {
			h.Write([]byte(p))
		}
		return string(h.Sum(nil))
	}
	token := func(ep *kapsel.Endpoint) {
		keyed("content", "", "")(ep)
		w.signedBy("token", "s")(ep)
		ep.Verification.In = "query:key"
	}
	for _, tt := range []struct {
		name, query, body, want string
		change                  func(*kapsel.Endpoint)
	}{
		{"none", "", "{}", sum("{}"), keyed("content", "", "")},
		{"an empty one", "?", "{}", sum("{}"), keyed("content", "", "")},
		{"one", "?order=1", "", sum(sum(""), "order=1"), keyed("content", "", "")},
		{"another", "?order=2", "", sum(sum(""), "order=2"), keyed("content", "", "")},
		{"its order counts", "?b=%41&a=1&&a=2", "{}", sum(sum("{}"), "b=%41&a=1&&a=2"), keyed("content", "", "")},
		{"only wait", "?wait=1s", "{}", sum("{}"), keyed("content", "", "")},
		{"wait, in any spelling", "?a=1&wait=1s&b=2&w%61it&waits=3", "{}", sum(sum("{}"), "a=1&b=2&waits=3"), keyed("content", "", "")},
		{"only a secret", "?key=s", "{}", sum("{}"), token},
		{"with a secret", "?key=s&order=1", "{}", sum(sum("{}"), "order=1"), token},
	} {
		w.run(tt.name, func(t *testing.T) {
			ep := w.endpoint(tt.change)
			first, again := w.raw(request("POST", path(ep)+tt.query, tt.body)), w.raw(request("POST", path(ep)+tt.query, tt.body))
			if first.status != 200 || again.event() != first.event() {
				t.Fatalf("answered %v, then %v", first, again)
			}
			if got := string(w.event(first.event()).Event.IdempotencyKey); got != tt.want {
				t.Errorf("the key is %x, want %x", got, tt.want)
			}
		})
	}
	ep := w.endpoint(keyed("content", "", ""))
	one, two := w.raw(request("POST", path(ep)+"?order=1", "")), w.raw(request("POST", path(ep)+"?order=2", ""))
	if one.event() == two.event() {
		t.Errorf("two orders are one event: %v, %v", one, two)
	}
}

// TestUnkeyed checks that accepted events without a key are counted if the endpoint says where its
// events have one.
func TestUnkeyed(t *testing.T) {
	w := newWorld(t)
	signed := []string{"X-Hub-Signature-256: sha256=" + sign("s", "{}")}
	for _, tt := range []struct {
		name   string
		change func(*kapsel.Endpoint)
		header []string
		want   int64
	}{
		{"a path that finds nothing", keyed("source_id", "", "$.id"), nil, 2},
		{"a header that is not there", keyed("header", "X-My-Id", ""), nil, 2},
		{"another header that is", keyed("header", "X-My-Id", ""), []string{"Idempotency-Key: k"}, 0},
		{"no id from a provider that has ids", w.signedBy("github", "s"), signed, 2},
		{"an id from a provider", w.signedBy("github", "s"), append(signed, "X-GitHub-Delivery: guid"), 0},
		{"none is expected", nil, nil, 0},
		{"content", keyed("content", "", ""), nil, 0},
		{"strategy none", keyed("none", "", ""), nil, 0},
	} {
		w.run(tt.name, func(t *testing.T) {
			ep := w.endpoint(tt.change)
			for range 2 {
				w.accepted(ep, "{}", tt.header...)
			}
			w.is(w.raw(request("PUT", path(ep), "")), 405, kapsel.InvalidRequest)
			if got, want := w.handler.Arrivals(ep.ID), (store.Arrivals{Refused: 1, Unkeyed: tt.want}); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}
