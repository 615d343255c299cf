package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// TestEventTypes: an event type is made, changed, replaced, listed and deleted, by its name; of its
// schemas each is replaced as a whole.
func TestEventTypes(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	deep := `{"type":"object","properties":{"a":{"properties":{"b":{"properties":{"c":{"properties":{"d":{"properties":{"e":{"properties":{"f":{"properties":{"g":{"enum":[null,1]}}}}}}}}}}}}}}}`
	made := w.want(201, "POST", "/v1/event-types", h.write, `{"name":"invoice.paid","description":"Paid","group":"invoices","schemas":{"1":`+deep+`},"validate":"warn"}`)
	want := object{
		"tenant_id": h.tenant, "name": "invoice.paid", "description": "Paid", "group": "invoices", "validate": "warn", "archived": false, "deprecated": false,
		"created_at": "2026-03-01T12:00:00.000Z", "updated_at": "2026-03-01T12:00:00.000Z", "schemas": made["schemas"],
	}
	if diff := cmp.Diff(want, made); diff != "" || !strings.Contains(fmt.Sprint(made["schemas"]), "enum:[<nil> 1]") {
		t.Errorf("made %v (-want +got):\n%s", made, diff)
	}
	const path = "/v1/event-types/invoice.paid"
	if diff := cmp.Diff(want, w.want(200, "GET", path, h.read, nil)); diff != "" {
		t.Errorf("GET (-want +got):\n%s", diff)
	}
	w.want(200, "GET", path+"?tenant_id="+h.tenant, adminKey, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", path, adminKey, nil)
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "POST", "/v1/event-types", adminKey, `{"name":"a"}`)
	w.refused(kapsel.Conflict, 409, nil, "POST", "/v1/event-types", h.write, `{"name":"invoice.paid"}`)
	w.refused(kapsel.Forbidden, 403, nil, "PUT", path, h.read, `{}`)

	got := w.want(200, "PATCH", path, h.write, `{"schemas":{"2":{"required":["x"]}},"deprecated":true}`)
	if s := fmt.Sprint(got["schemas"]); !strings.Contains(s, "2:map[required:[x]]") || !strings.Contains(s, "enum") || got["deprecated"] != true || got["validate"] != "warn" {
		t.Errorf("a schema more: %v", got)
	}
	got = w.want(200, "PATCH", path, h.write, `{"schemas":{"1":null,"2":{"const":null}},"validate":null,"group":null}`)
	if fmt.Sprint(got["schemas"]) != "map[2:map[const:<nil>]]" || got["validate"] != "off" || got["group"] != "" {
		t.Errorf("replaced: %v", got)
	}
	if got = w.want(200, "PATCH", path, h.write, `{"schemas":null}`); fmt.Sprint(got["schemas"]) != "map[]" || got["description"] != "Paid" {
		t.Errorf("without schemas: %v", got)
	}
	if got = w.want(200, "PUT", path, h.write, `{"name":"invoice.paid","validate":"refuse"}`); got["description"] != "" || got["validate"] != "refuse" || got["deprecated"] != false {
		t.Errorf("replaced: %v", got)
	}
	w.want(201, "PUT", "/v1/event-types/order.made", h.write, `{}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"name"}, "PUT", "/v1/event-types/a", h.write, `{"name":"b"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"name"}, "PUT", "/v1/event-types/a%20b", h.write, `{}`)
	if list := w.want(200, "GET", "/v1/event-types", h.read, nil).list("data"); len(list) != 2 {
		t.Errorf("listed: %v", list)
	}
	other := w.newHouse("other")
	w.refused(kapsel.NotFound, 404, nil, "GET", path, other.read, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/event-types/a%20b", other.read, nil)
	w.want(204, "DELETE", path, h.write, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", path, h.read, nil)
}

// TestEventTypes_BadInput: what is wrong with an event type is told by its field, all of it.
func TestEventTypes_BadInput(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	for body, want := range map[string]string{
		`{}`: "name",
		`{"name":"a/b","validate":"strict","group":"\u0000"}`:                                                          "name group validate",
		`{"name":"a","schemas":{"1":{"type":"strin"},"2":{"$ref":"https://example.com/s.json"}}}`:                      "schemas.2 schemas.1",
		`{"name":"a","schemas":{"a b":{}}}`:                                                                            "schemas",
		`{"name":"a","schemas":{"1":{"allOf":[{"properties":{"x":{"$ref":"#"}}},{"properties":{"x":{"$ref":"#"}}}]}}}`: "schemas.1",
		`{"name":"a","schemas":{"1":{"x":"` + strings.Repeat("a", kapsel.MaxSchema) + `"}}}`:                           "schemas.1",
	} {
		w.refused(kapsel.InvalidRequest, 422, strings.Fields(want), "POST", "/v1/event-types", h.write, body)
	}
	for _, method := range []string{"POST /v1/event-types", "PATCH /v1/event-types/a", "PUT /v1/event-types/a"} {
		verb, path, _ := strings.Cut(method, " ")
		for schema, field := range map[string]string{`{"type":"object","type":"string"}`: "schemas.1.type", `{"properties":{"x":[{"a":1,"a":1}]}}`: "schemas.1.properties.x[0].a"} {
			w.refused(kapsel.InvalidRequest, 400, []string{field}, verb, path, h.write, `{"schemas":{"1":`+schema+`}}`)
		}
	}
	w.refused(kapsel.InvalidRequest, 400, nil, "POST", "/v1/event-types", h.write, `{"name":"a","schemas":{"1":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}}`)
	w.want(201, "POST", "/v1/event-types", h.write, `{"name":"a"}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"schemas.1"}, "PATCH", "/v1/event-types/a", h.write, `{"schemas":{"1":{"type":7}}}`)
}

// TestPublish_Catalogue: what is published is checked against its type's schemas, and a closed
// catalogue refuses what it does not have; a repeat is a repeat whatever the catalogue says.
func TestPublish_Catalogue(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("acme")
	const schema = `"schemas":{"1":{"required":["amount"],"properties":{"amount":{"type":"number"},"to":{"type":"string"}}}}`
	w.want(201, "POST", "/v1/event-types", h.write, `{"name":"strict","validate":"refuse",`+schema+`}`)
	w.want(201, "POST", "/v1/event-types", h.write, `{"name":"lax","validate":"warn",`+schema+`}`)
	w.want(201, "POST", "/v1/event-types", h.write, `{"name":"off","deprecated":true,`+schema+`}`)

	if e := w.want(201, "POST", "/v1/events", h.write, `{"type":"strict","data":{"amount":1},"id":"k"}`); e["warnings"] != nil {
		t.Errorf("what fits: %v", e)
	}
	pointers := []string{"/data/amount", "/data/to"}
	w.refused(kapsel.SchemaMismatch, 422, pointers, "POST", "/v1/events", h.write, `{"type":"strict","data":{"to":7}}`)
	w.refused(kapsel.SchemaMismatch, 422, pointers, "POST", "/v1/events", h.write, `{"type":"strict","data":{"to":7},"dry_run":true}`)
	w.refused(kapsel.SchemaMismatch, 422, []string{"/data"}, "POST", "/v1/events", h.write, `{"type":"strict","body_base64":"YSxi","content_type":"text/csv"}`)
	if a := w.do("POST", "/v1/events", h.write, `{"type":"strict","data":{"to":7},"id":"k"}`); a.status != 200 || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("a repeat that does not fit: %d %s", a.status, a.body)
	}
	e := w.want(201, "POST", "/v1/events", h.write, `{"type":"lax","data":{"to":7}}`)
	if got := fmt.Sprint(e["warnings"]); got != "[map[detail:is needed field:/data/amount] map[detail:got number, want string field:/data/to]]" {
		t.Errorf("warnings: %s", got)
	}
	if e := w.want(201, "POST", "/v1/events", h.write, `{"type":"off","data":7}`); fmt.Sprint(e["warnings"]) != "[map[detail:is deprecated field:type]]" {
		t.Errorf("a deprecated type: %v", e)
	}
	items := w.want(200, "POST", "/v1/events", h.write, `{"events":[{"type":"strict","data":{},"id":"b"},{"type":"strict","data":{"amount":2},"id":"b"},{"type":"strict","data":{},"id":"b"}]}`).list("data")
	if items[0]["status"] != 422.0 || items[1]["status"] != 201.0 || items[2]["status"] != 200.0 {
		t.Errorf("a batch: %v", items)
	}

	w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, `{"limits":{"closed_catalogue":true}}`)
	w.refused(kapsel.UnknownEventType, 422, []string{"type"}, "POST", "/v1/events", h.write, `{"type":"unknown","data":1}`)
	w.want(201, "POST", "/v1/events", h.write, `{"type":"strict","data":{"amount":1}}`)
	w.want(200, "PATCH", "/v1/event-types/strict", h.write, `{"archived":true}`)
	w.refused(kapsel.UnknownEventType, 422, []string{"type"}, "POST", "/v1/events", h.write, `{"type":"strict","data":{"amount":1}}`)
	if a := w.do("POST", "/v1/events", h.write, `{"type":"strict","data":{"amount":1},"id":"k"}`); a.status != http.StatusOK {
		t.Errorf("a repeat of an archived type: %d %s", a.status, a.body)
	}
	w.want(204, "DELETE", "/v1/event-types/lax", h.write, nil)
	w.refused(kapsel.UnknownEventType, 422, []string{"type"}, "POST", "/v1/events", h.write, `{"type":"lax","data":1}`)
	w.want(201, "PUT", "/v1/event-types/lax", h.write, `{}`)
	w.want(201, "POST", "/v1/events", h.write, `{"type":"lax","data":1}`)
	if got := w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, `{"limits":null}`).object("limits"); got["closed_catalogue"] != false {
		t.Errorf("limits: %v", got)
	}
	w.want(201, "POST", "/v1/events", h.write, `{"type":"unknown","data":1}`)
}
