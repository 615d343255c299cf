package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// changes returns all rows of changes of a store, the newest first.
func (w *world) changes() []kapsel.Change {
	w.t.Helper()
	all, err := w.store.ListChanges(w.t.Context(), kapsel.TenantID{}, store.ChangeFilter{}, store.Page[kapsel.ChangeID]{Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// noChanges holds the operations that change nothing that people set, each with why.
var noChanges = map[string]string{
	"publish": "an event is no setting, and its row says all of it",

	"acknowledge-ledger-entries": "a program says what it has booked, and people set nothing",
	"report-books":               "a program says what the books say, and people set nothing",
}

// changing says what a call of an operation needs before it changes something, and its body where the
// matrix's would change nothing.
var changing = map[string]struct {
	prepare func(w *world, e *estate)
	body    string
}{
	"resume-endpoint": {prepare: func(w *world, e *estate) { w.want(200, "POST", "/v1/endpoints/"+e.endpoint+"/pause", e.write, nil) }},
	"resume-replay":   {prepare: func(w *world, e *estate) { w.want(200, "POST", "/v1/replays/"+e.replay+"/pause", e.write, nil) }},
	"delete-tenant": {prepare: func(w *world, e *estate) {
		e.tenant = w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"empty"}`).text("id")
	}},
	"reset-circuit": {prepare: func(w *world, e *estate) {
		_, err := w.store.SaveCircuit(w.t.Context(), kapsel.Circuit{EndpointID: w.stored(e.endpoint).ID, Destination: 1, State: kapsel.CircuitOpened, ChangedAt: w.now, RetryAt: w.now.Add(time.Hour)})
		if err != nil {
			w.t.Fatal(err)
		}
	}},
	"put-event-type": {body: `{"group":"new"}`},
}

// TestChanges_EachOperation calls each operation that changes something and checks that it leaves one row
// with who, from where and what, and that the same request leaves none where it is refused. An operation
// that the document gains is called, too, so a use case cannot forget its row.
func TestChanges_EachOperation(t *testing.T) {
	w := newWorld(t)
	other := w.newHouse("other")
	called := 0
	for template, operations := range w.doc.Paths {
		for method, op := range operations {
			id := op.OperationID
			if method == "get" || noChanges[id] != "" {
				continue
			}
			t.Run(id, func(t *testing.T) {
				w.t = t
				called++
				e := w.newEstate(strings.ReplaceAll(id, "-", "."))
				c, r := changing[id], matrix[id]
				if c.prepare != nil {
					c.prepare(w, &e)
				}
				w.now = w.now.Add(time.Minute)
				var body any
				if text := c.body; text != "" {
					body = text
				} else if r.body != "" {
					body = strings.ReplaceAll(r.body, "#", fmt.Sprint(called))
				}
				key, verb := e.write, strings.ToUpper(method)
				if op.Access == "admin" {
					key = adminKey
				}
				path := e.path(id, template)
				before := len(w.changes())
				if strings.Contains(template, "{") {
					if a := w.do(verb, path, other.read, body); a.status < 400 {
						t.Fatalf("a stranger is answered %d", a.status)
					}
					if n := len(w.changes()); n != before {
						t.Fatalf("a refused request left %d rows", n-before)
					}
				}
				if a := w.do(verb, path, key, body); a.status >= 300 {
					t.Fatalf("%s %s: %d %s", verb, path, a.status, a.body)
				}
				rows := w.changes()
				if len(rows) != before+1 {
					t.Fatalf("%d rows, want 1: use m.by for what the use case changes", len(rows)-before)
				}
				row := rows[0]
				kind := kapsel.ActorKey
				if key == adminKey {
					kind = kapsel.ActorAdmin
				}
				if row.Actor.Kind != kind || row.Actor.Client.String() != "192.0.2.1" || kind == kapsel.ActorKey && (row.Actor.KeyID.IsZero() || row.Actor.Prefix != key[:8]) {
					t.Errorf("by %+v", row.Actor)
				}
				if !row.At.Equal(w.now) || row.Verb == "" || row.Subject.ID == "" || row.Before == nil && row.After == nil {
					t.Errorf("row %+v", row)
				}
				if id != "create-tenant" && id != "delete-tenant" && !strings.Contains(id, "instance-key") && row.TenantID.String() != e.tenant {
					t.Errorf("of tenant %s, want %s", row.TenantID, e.tenant)
				}
			})
		}
	}
	if w.t = t; called < 30 {
		t.Errorf("only %d operations were called", called)
	}
}

// TestChanges_NoSecrets checks that no row of a change has a secret that was set or made.
func TestChanges_NoSecrets(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	secrets := []string{h.read, h.write, adminKey, "hunter2-verification", "hunter2-header", "hunter2-token", "hunter2-second", "hunter2-source", "hunter2-moved"}
	made := w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"shop","url":"https://example.com","verification":{"provider":"meta","secrets":["hunter2-verification"],"verify_token":"hunter2-token"},
		"headers":{"set":{"X-Api-Key":"hunter2-header"}}}`)
	path := "/v1/endpoints/" + made.text("id")
	secrets = append(secrets, made.text("signing_secret"), w.want(200, "POST", path+"/secrets/rotate", h.write, nil).text("signing_secret"))
	w.want(200, "PATCH", path, h.write, `{"verification":{"secrets":["hunter2-second"]},"headers":{"set":{"X-Other":"hunter2-header"}}}`)
	w.want(204, "DELETE", path+"?keep_ingest=true", h.write, nil)
	source := w.want(201, "POST", "/v1/sources", h.write, `{"name":"hmac","verification":{"provider":"hmac","secrets":["hunter2-source"]}}`).text("id")
	w.want(200, "PATCH", "/v1/sources/"+source, h.write, `{"verification":{"secrets":["hunter2-moved"]}}`)
	w.want(204, "DELETE", "/v1/sources/"+source, h.write, nil)
	secrets = append(secrets, w.want(201, "POST", "/v1/tenants/"+h.tenant+"/keys", h.write, `{"name":"ci","scope":"read"}`).text("secret"))
	rows := w.changes()
	if len(rows) < 10 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		text, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has %q: %s", row.Verb, secret, text)
			}
		}
		if strings.Contains(string(text), "sealed") {
			t.Errorf("%s has a sealed secret: %s", row.Verb, text)
		}
	}
}

// TestChanges checks that changes are listed with what differs, to whose they are, and by filters; that
// what changes nothing and what is answered again leave no row; and that a tenant does not see the
// operator's address.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("acme"), w.newHouse("other")
	path := "/v1/endpoints/" + h.endpoint
	w.now = w.now.Add(time.Second)
	w.want(200, "PATCH", path, h.write, `{"timeout":"1m","circuit":{"failures":7},"headers":{"set":{"X-Key":"hunter2"}}}`)
	of := func(query, key string) []object {
		t.Helper()
		return w.want(200, "GET", "/v1/changes?"+query, key, nil).list("data")
	}
	list := of("object_id="+h.endpoint+"&limit=1", h.read)
	if len(list) != 1 {
		t.Fatal(list)
	}
	set := list[0].object("after").object("headers").object("set").object("X-Key")
	want := object{
		"id": list[0]["id"], "tenant_id": h.tenant, "at": "2026-03-01T12:00:01.000Z", "verb": "update", "kind": "endpoint", "object_id": h.endpoint, "name": "acme",
		"by":     map[string]any{"kind": "key", "key_id": list[0].object("by")["key_id"], "prefix": h.write[:8], "session_id": nil, "subject": nil, "name": nil, "client": "192.0.2.1"},
		"before": map[string]any{"timeout": "30s", "circuit": map[string]any{"failures": 5.0}, "headers": map[string]any{"set": map[string]any{"X-Key": nil}}},
		"after":  map[string]any{"timeout": "1m", "circuit": map[string]any{"failures": 7.0}, "headers": map[string]any{"set": map[string]any{"X-Key": map[string]any(set)}}},
	}
	if diff := cmp.Diff(want, list[0]); diff != "" || set.text("id") == "" {
		t.Errorf("the row (-want +got):\n%s", diff)
	}

	before := len(w.changes())
	w.want(200, "PATCH", path, h.write, `{"timeout":"1m"}`)
	w.want(200, "PATCH", path, h.write, `{}`)
	w.want(200, "POST", path+"/circuit/reset", h.write, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"timeout"}, "PATCH", path, h.write, `{"timeout":"1h"}`)
	again := func(r *http.Request) { r.Header.Set("Idempotency-Key", "k") }
	if n := len(w.changes()); n != before {
		t.Errorf("%d rows of what changes nothing", n-before)
	}
	for range 2 {
		w.want(201, "POST", "/v1/apps", h.write, `{"name":"customer"}`, again)
	}
	if n := len(w.changes()); n != before+1 {
		t.Errorf("%d rows of a request that was sent twice", n-before)
	}

	if list := of("object_id="+h.endpoint, other.read); len(list) != 0 {
		t.Errorf("another tenant sees %v", list)
	}
	for _, c := range of("", h.read) {
		if c["tenant_id"] != h.tenant {
			t.Errorf("a tenant sees %v", c)
		}
		if by := c.object("by"); by.text("kind") == "admin" && by["client"] != nil {
			t.Errorf("a tenant sees the operator's address: %v", by)
		}
	}
	if list := of("kind=tenant&tenant_id="+h.tenant, adminKey); len(list) != 1 || list[0].text("verb") != "create" || list[0].object("by")["client"] != "192.0.2.1" {
		t.Errorf("the admin sees %v", list)
	}
	if list := of("verb=create&kind=app", adminKey); len(list) != 1 {
		t.Errorf("by verb and kind: %v", list)
	}
	if list := of("until=2026-03-01T12:00:01Z", h.read); len(list) != 3+1 { // the tenant, two keys and the endpoint
		t.Errorf("until the change: %d rows", len(list))
	}
}
