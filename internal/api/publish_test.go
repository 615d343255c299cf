package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// subscriber makes an endpoint of a house that subscribes to published events.
func (w *world) subscriber(h house, fields object) string {
	w.t.Helper()
	fields["source"] = "publish"
	return w.want(201, "POST", "/v1/endpoints", h.write, object{
		"name": "subscriber", "url": "https://example.com/hook", "subscriptions": []object{fields},
	}).text("id")
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	paid := w.subscriber(h, object{"event_types": []string{"invoice.paid"}})
	w.subscriber(h, object{"event_types": []string{"order.*"}})
	all := w.subscriber(h, object{})

	data := "{ \"total\": 9007199254740993,\t\"note\":\"<\\u00e4>\" }"
	a := w.do("POST", "/v1/events", h.write, `{"type":"invoice.paid","data": `+data+` ,"id":"i-1"}`)
	e := w.want(201, "POST", "/v1/events", h.write, `{"type":"invoice.paid","data":`+data+`,"id":"i-2","channels":["eu"],"ordering_key":"c 1"}`)
	if a.status != 201 || a.header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if e["deliveries"] != 2.0 || e["status"] != "received" || e["idempotency_key"] != "i-2" || e["content_type"] != "application/json" || e["tenant_id"] != h.tenant {
		t.Errorf("published: %v", e)
	}
	detail := w.want(200, "GET", "/v1/events/"+e.text("id"), h.read, nil)
	var to []string
	for _, d := range detail.list("deliveries") {
		to = append(to, d.text("endpoint_id"))
	}
	want := []string{paid, all}
	slices.Sort(want)
	slices.Sort(to)
	if diff := cmp.Diff(want, to); diff != "" || detail["type"] != "invoice.paid" || detail["endpoint_id"] != nil {
		t.Errorf("stored is %v (-want +got):\n%s", detail, diff)
	}
	if payload := w.do("GET", "/v1/events/"+e.text("id")+"/payload", h.read, nil); string(payload.body) != data {
		t.Errorf("the body is %q, published was %q", payload.body, data)
	}

	again := w.do("POST", "/v1/events", h.write, `{"type":"other","data":1,"id":"i-2","ordering_key":"c 1"}`)
	if again.status != 200 || again.header.Get("Idempotent-Replayed") != "true" || !bytes.Contains(again.body, []byte(e.text("id"))) {
		t.Errorf("published again: %d %v %s", again.status, again.header, again.body)
	}
	if o := w.want(201, "POST", "/v1/events", h.write, `{"type":"nobody.wants","body_base64":"/w==","content_type":"image/x"}`); o["deliveries"] != 1.0 {
		t.Errorf("%v", o)
	}
	stranger := w.newHouse("stranger")
	if o := w.want(201, "POST", "/v1/events", stranger.write, `{"type":"invoice.paid","data":1}`); o["deliveries"] != 0.0 || o["status"] != "unmatched" {
		t.Errorf("for nobody: %v", o)
	}
	if list := w.want(200, "GET", "/v1/events?status=unmatched", stranger.read, nil).list("data"); len(list) != 1 {
		t.Errorf("%d events are unmatched", len(list))
	}
}

// TestPublish_DeliverAt: an event says when its deliveries are due, which wait until then and are
// not in the endpoint's backlog.
func TestPublish_DeliverAt(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now() // published events have the store's time
	h := w.newHouse("acme")
	endpoint := w.subscriber(h, object{})
	w.why = "scheduled"
	at := w.now.Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000Z")
	e := w.want(201, "POST", "/v1/events", h.write, object{"type": "a", "data": 1, "deliver_at": at})
	if e.text("deliver_at") != at || e.text("status") != "received" || e["deliveries"] != 1.0 {
		t.Errorf("published: %v", e)
	}
	detail := w.want(200, "GET", "/v1/events/"+e.text("id"), h.read, nil)
	d := detail.list("deliveries")[0]
	if detail.text("deliver_at") != at || d.text("waiting_for") != "scheduled" || d.text("next_attempt_at") != at {
		t.Errorf("read: %v", detail)
	}
	reason := w.want(200, "GET", "/v1/events/"+e.text("id")+"/why", h.read, nil).list("data")[0]
	if reason.text("reason") != "the event was published with deliver_at, and is due at "+at {
		t.Errorf("why: %v", reason)
	}
	if ep := w.want(200, "GET", "/v1/endpoints/"+endpoint, h.read, nil); ep["backlog"] != 0.0 || ep["oldest_waiting_at"] != nil {
		t.Errorf("the backlog is %v, the oldest waits since %v", ep["backlog"], ep["oldest_waiting_at"])
	}
	w.now = w.now.Add(2 * time.Hour)
	if ep := w.want(200, "GET", "/v1/endpoints/"+endpoint, h.read, nil); ep["backlog"] != 1.0 || ep.text("oldest_waiting_at") != at {
		t.Errorf("due, the backlog is %v, the oldest waits since %v", ep["backlog"], ep["oldest_waiting_at"])
	}
	if e := w.want(201, "POST", "/v1/events", h.write, object{"type": "a", "data": 1}); e["deliver_at"] != nil {
		t.Errorf("at once: %v", e)
	}
	w.now = time.Now()
	if e := w.want(200, "POST", "/v1/events", h.write, object{"type": "a", "data": 1, "deliver_at": at, "dry_run": true}); e.text("deliver_at") != at {
		t.Errorf("dry run: %v", e)
	}
	for at, detail := range map[string]string{
		"2099-01-01T00:00:00Z": "at most 30 days ahead", "2100-01-01T00:00:00Z": "at most 30 days ahead", "9999-12-31T23:59:59-12:00": "at most 30 days ahead",
		"1999-12-31T23:59:59Z": "2000 or later", "0001-01-01T00:00:00Z": "2000 or later", "tomorrow": "must be a time such as",
	} {
		p := w.want(422, "POST", "/v1/events", h.write, object{"type": "a", "data": 1, "deliver_at": at})
		if text, _ := p.list("errors")[0]["detail"].(string); p.list("errors")[0]["field"] != "deliver_at" || !strings.Contains(text, detail) {
			t.Errorf("%s: %v, want %q", at, p["errors"], detail)
		}
	}
}

// TestPublish_Key: the header is the key of one event without an id. It is not a key of stored
// answers: another body is no conflict.
func TestPublish_Key(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	key := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Idempotency-Key"] = values }
	}
	first := w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1}`, key("k 1"))
	a := w.do("POST", "/v1/events", h.write, `{"type":"b","data":2}`, key("k 1"))
	if a.status != 200 || a.header.Get("Idempotent-Replayed") != "true" || !bytes.Contains(a.body, []byte(first.text("id"))) {
		t.Errorf("the same key: %d %s", a.status, a.body)
	}
	if o := w.want(200, "POST", "/v1/events", h.write, `{"type":"b","data":2,"id":"k 1"}`); o["id"] != first["id"] {
		t.Errorf("the same id: %v", o)
	}
	if o := w.want(201, "POST", "/v1/events", h.write, `{"type":"b","data":2,"id":"k 2"}`, key("k 1")); o["id"] == first["id"] {
		t.Error("the header counts beside an id")
	}
	w.want(201, "POST", "/v1/events", h.write, `{"type":"b","data":2,"id":"k 3"}`, key("", "not valid \n"))
	w.refused(kapsel.InvalidRequest, 400, []string{"Idempotency-Key"}, "POST", "/v1/events", h.write, `{"type":"b","data":2}`, key("a", "b"))
	w.refused(kapsel.InvalidRequest, 422, []string{"Idempotency-Key"}, "POST", "/v1/events", h.write, `{"events":[{"type":"b","data":2}]}`, key("a"))
}

// TestPublish_Replayed checks that a repeat says to how many endpoints the event went, however
// often it was delivered to them.
func TestPublish_Replayed(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	ep := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://a.example/","subscriptions":[{"source":"publish"}]}`)
	event := w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1,"id":"k"}`)
	w.want(200, "POST", "/v1/events/"+event.text("id")+"/cancel", h.write, "")
	w.want(200, "POST", "/v1/events/"+event.text("id")+"/replay", h.write, `{"endpoint_id":"`+ep.text("id")+`"}`)
	if again := w.want(200, "POST", "/v1/events", h.write, `{"type":"a","data":1,"id":"k"}`); again["deliveries"] != 1.0 {
		t.Errorf("the repeat says %v deliveries", again["deliveries"])
	}
}

// TestPublish_KeyOfDeleted checks that a key stands for its event also when retention has deleted
// the event before the key's window is over: a repeat is no error.
func TestPublish_KeyOfDeleted(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	first := w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1,"id":"k"}`)
	tenant, err := kapsel.ParseTenantID(h.tenant)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.store.DeleteFinished(t.Context(), tenant, time.Now().Add(time.Hour), 10); n != 1 || err != nil {
		t.Fatalf("%d events deleted, %v", n, err)
	}
	a := w.do("POST", "/v1/events", h.write, `{"type":"b","data":2,"id":"k"}`)
	if a.status != 200 || a.header.Get("Idempotent-Replayed") != "true" || !bytes.Contains(a.body, []byte(first.text("id"))) {
		t.Errorf("published again: %d %v %s", a.status, a.header, a.body)
	}
	for _, item := range w.want(200, "POST", "/v1/events", h.write, `{"events":[{"type":"b","data":2,"id":"k"}]}`).list("data") {
		if e := item.object("event"); item["status"] != 200.0 || e["id"] != first["id"] || e["received_at"] != first["received_at"] {
			t.Errorf("in a batch: %v", item)
		}
	}
}

func TestPublish_Batch(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	w.subscriber(h, object{})
	var events []object
	for i := range 100 {
		events = append(events, object{"type": "a", "data": i})
	}
	events[7]["id"], events[9]["id"], events[11]["dry_run"] = "x", "x", true
	o := w.want(200, "POST", "/v1/events", h.write, object{"events": events})
	list := o.list("data")
	if len(list) != 100 {
		t.Fatalf("%d of 100 are answered", len(list))
	}
	for i, item := range list {
		want := 201.0
		if i == 9 || i == 11 {
			want = 200
		}
		e := item.object("event")
		if item["status"] != want || e["deliveries"] != 1.0 || item["error"] != nil || (e["id"] == nil) != (i == 11) {
			t.Errorf("%d: %v", i, item)
			continue
		}
		if i == 11 {
			continue
		}
		body := fmt.Sprint(i)
		if i == 9 {
			body = "7"
		}
		if payload := w.do("GET", "/v1/events/"+e.text("id")+"/payload", h.read, nil); string(payload.body) != body {
			t.Errorf("the body of %d is %s", i, payload.body)
		}
	}
	w.refused(kapsel.InvalidRequest, 400, []string{"events[0].type", "events[1].Data", "events[1].data"}, "POST", "/v1/events", h.write,
		`{"events":[{"type":"a b","data":1},{"type":"a","Data":1}]}`)
	large := strings.Repeat("x", 1<<20)
	list = w.want(200, "POST", "/v1/events", h.write, object{"events": []object{{"type": "a", "data": large}, {"type": "a", "data": 1}}}).list("data")
	if list[0]["status"] != 413.0 || list[0].object("error")["code"] != "E1002" || list[0]["event"] != nil || list[1]["status"] != 201.0 {
		t.Errorf("a body that is too long beside another: %.300v", list)
	}
}

// TestPublish_DryRun stores nothing and forgets the key.
func TestPublish_DryRun(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	w.subscriber(h, object{"channels": []string{"eu"}})
	o := w.want(200, "POST", "/v1/events", h.write, `{"type":"a","data":1,"id":"k","channels":["eu"],"dry_run":true}`)
	if o["deliveries"] != 1.0 || o["id"] != nil {
		t.Errorf("%v", o)
	}
	if o := w.want(200, "POST", "/v1/events", h.write, `{"type":"a","data":1,"id":"k","dry_run":true}`); o["deliveries"] != 0.0 || o["status"] != "unmatched" {
		t.Errorf("without a channel: %v", o)
	}
	if list := w.want(200, "GET", "/v1/events", h.read, nil).list("data"); len(list) != 0 {
		t.Errorf("%d events are stored", len(list))
	}
	w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1,"id":"k"}`)
}

func TestPublish_Who(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	const body = `{"type":"a","data":1}`
	w.refused(kapsel.Forbidden, 403, nil, "POST", "/v1/events", h.read, body)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/events", adminKey, body)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/events?tenant_id="+h.tenant, h.write, body)
	w.refused(kapsel.NotFound, 404, nil, "POST", "/v1/events?tenant_id="+kapsel.NewTenantID(w.now).String(), adminKey, body)
	if o := w.want(201, "POST", "/v1/events?tenant_id="+h.tenant, adminKey, body); o["tenant_id"] != h.tenant {
		t.Errorf("by the admin: %v", o)
	}
	w.refused(kapsel.InvalidRequest, 415, nil, "POST", "/v1/events", h.write, body, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
	w.refused(kapsel.InvalidRequest, 400, nil, "POST", "/v1/events", h.write, body+"}")
	w.refused(kapsel.PayloadTooLarge, 413, nil, "POST", "/v1/events", h.write, `{"type":"a","data":"`+strings.Repeat("x", 1<<20)+`"}`)
	w.refused(kapsel.PayloadTooLarge, 413, nil, "POST", "/v1/events", h.write, `{"type":"a","data":"`+strings.Repeat("x", 2<<20)+`"}`)
}

// scripted publishes nothing, and answers what it is told.
type scripted []kapsel.Published

func (s scripted) Publish(_ http.ResponseWriter, _ *http.Request, _ kapsel.TenantID, read func(body []byte, reserve func(n int) error) ([]kapsel.Publication, error)) ([]kapsel.Published, error) {
	body := `{"events":[` + strings.TrimSuffix(strings.Repeat(`{"type":"a","data":1},`, len(s)), ",") + `]}`
	if len(s) == 1 {
		body = `{"type":"a","data":1}`
	}
	_, err := read([]byte(body), func(int) error { return nil })
	return s, err
}

// TestPublish_Trouble: trouble of the store is 503, of one event its own, and of a whole batch
// that of the request.
func TestPublish_Trouble(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	down := kapsel.Published{Err: &kapsel.Error{Code: kapsel.DatabaseUnavailable, Detail: "try again"}}
	over := kapsel.Published{Err: &kapsel.Error{Code: kapsel.QuotaExceeded, Status: 429, Detail: "used up"}}
	bug := kapsel.Published{Err: errors.New("panic: secret detail")}
	stored := kapsel.Published{Event: kapsel.Event{ID: kapsel.NewEventID(w.now, 1)}}
	for _, tt := range []struct {
		results scripted
		want    int
		items   []int
	}{
		{scripted{down}, 503, nil},
		{scripted{over}, 429, nil},
		{scripted{bug}, 500, nil},
		{scripted{down, down}, 503, nil},
		{scripted{down, stored, over, bug}, 200, []int{503, 201, 429, 500}},
	} {
		w.cfg.Publisher = tt.results
		handler := w.build()
		r, _ := http.NewRequest("POST", "/v1/events", strings.NewReader("{}"))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+h.write)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		var answer object
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		var items []int
		for _, item := range answer.list("data") {
			items = append(items, int(item["status"].(float64)))
		}
		if rec.Code != tt.want || !slices.Equal(items, tt.items) || bytes.Contains(rec.Body.Bytes(), []byte("secret")) {
			t.Errorf("%v: %d %v %s", tt.results, rec.Code, items, rec.Body.Bytes())
		}
		if rec.Code >= 429 && rec.Code != 500 && rec.Header().Get("Retry-After") == "" {
			t.Errorf("%d without Retry-After", rec.Code)
		}
	}
}
