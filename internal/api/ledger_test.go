package api

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// entriesOf reads all entries that are not booked.
func entriesOf(t *testing.T, w *world, query string) (ids []string, facts []LedgerFact) {
	t.Helper()
	var page list[LedgerEntry]
	if err := json.Unmarshal(w.do("GET", "/v1/ledger/entries"+query, adminKey, nil).body, &page); err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Data {
		if e.ID != nil {
			ids = append(ids, e.ID.String())
		}
		facts = append(facts, e.Facts...)
	}
	return ids, facts
}

// TestLedger books through the routes, one booker at a time, and reads what people read.
func TestLedger(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("h")
	_, d := w.receive(h.endpoint, nil)
	ledger := func(query string) Ledger {
		t.Helper()
		var v Ledger
		if err := json.Unmarshal(w.do("GET", "/v1/ledger"+query, h.read, nil).body, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := ledger("")
	if len(v.Data) != 2 || v.Data[0].EndpointID != nil || v.Data[1].EndpointID.String() != h.endpoint || v.Data[1].Store.Made != 1 || *v.Data[1].Store.InFlight != 1 ||
		v.Data[1].Unbooked.Made != 1 || v.Data[1].Books != nil || *v.ErrorCode != kapsel.LedgerUnavailable || *v.Data[0].ErrorCode != kapsel.LedgerUnavailable {
		t.Fatalf("before anything is booked: %+v", v)
	}

	ids, facts := entriesOf(t, w, "?booker=a")
	if len(ids) != 1 || len(facts) != 1 || facts[0] != viewFact(kapsel.MadeFact(&d)) {
		t.Fatalf("entries %v with the facts %+v", ids, facts)
	}
	for _, op := range [][2]string{{"GET", "/v1/ledger/entries?booker=b"}, {"POST", "/v1/ledger/acknowledgements?booker=b"}, {"POST", "/v1/ledger/reports?booker=b"}} {
		var body any
		if op[0] == "POST" {
			body = map[string]string{"/v1/ledger/acknowledgements?booker=b": `{"ids":[]}`, "/v1/ledger/reports?booker=b": `{"accounts":[]}`}[op[1]]
		}
		w.refused(kapsel.Conflict, 409, nil, op[0], op[1], adminKey, body)
	}
	w.now = w.now.Add(31 * time.Second)
	if again, _ := entriesOf(t, w, "?booker=b"); len(again) != 1 || again[0] != ids[0] {
		t.Fatalf("another booker, after the first was silent, gets %v", again)
	}
	conflict := object{"kind": "accepted", "delivery_id": d.ID.String(), "event_id": d.EventID.String(), "endpoint_id": h.endpoint, "tenant_id": h.tenant, "at": facts[0].At, "answer": "exists_with_different_code"}
	for range 2 {
		w.want(204, "POST", "/v1/ledger/acknowledgements?booker=b", adminKey, object{"ids": ids, "conflicts": []object{conflict}})
	}
	if left, _ := entriesOf(t, w, "?booker=b"); len(left) != 0 {
		t.Errorf("acknowledged, and there again: %v", left)
	}
	if _, all := entriesOf(t, w, "?booker=b&endpoint_id="+h.endpoint); len(all) != 1 || all[0] != facts[0] {
		t.Errorf("the facts of the endpoint's deliveries are %+v", all)
	}
	var conflicts list[LedgerConflict]
	if err := json.Unmarshal(w.do("GET", "/v1/ledger/conflicts", h.read, nil).body, &conflicts); err != nil || len(conflicts.Data) != 1 ||
		conflicts.Data[0].Answer != "exists_with_different_code" || conflicts.Data[0].LedgerFact != facts[0] {
		t.Errorf("conflicts: %+v, error %v", conflicts, err)
	}

	w.want(204, "POST", "/v1/ledger/reports?booker=b", adminKey, object{"accounts": []object{
		{"tenant_id": h.tenant, "books": object{"accepted": 1}, "expected": object{"accepted": 1}},
		{"tenant_id": h.tenant, "endpoint_id": h.endpoint, "books": object{"accepted": 3, "delivered": 1}, "expected": object{"accepted": 1}},
	}})
	v = ledger("?endpoint_id=" + h.endpoint)
	if len(v.Data) != 1 || v.ErrorCode != nil || v.Data[0].Books.Made != 3 || v.Data[0].Books.Accepted != nil || *v.Data[0].Books.InFlight != 2 || v.Data[0].Expected.Made != 1 ||
		v.Data[0].Difference.Made != 2 || *v.Data[0].Difference.Delivered != 1 || v.Data[0].Unbooked.Made != 0 {
		t.Errorf("after the report: %+v", v)
	}
	if first := ledger("?limit=1"); first.NextCursor == nil || first.Data[0].EndpointID != nil || *first.Data[0].Books.Accepted != 1 || first.Data[0].Books.InFlight != nil {
		t.Errorf("the tenant's own: %+v", first)
	} else if rest := ledger("?limit=1&cursor=" + *first.NextCursor); rest.NextCursor != nil || rest.Data[0].EndpointID.String() != h.endpoint {
		t.Errorf("the next page: %+v", rest)
	}
	w.now = w.now.Add(5*time.Minute + time.Second)
	if v = ledger(""); v.Data[1].Books != nil || *v.ErrorCode != kapsel.LedgerUnavailable {
		t.Errorf("with a report of long ago: %+v", v)
	}
}

// TestLedgerOff checks that the ledger's routes are not found while it is off.
func TestLedgerOff(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("h")
	w.uses.Ledger = false
	w.handler = w.build()
	for _, path := range []string{"/v1/ledger", "/v1/ledger/conflicts"} {
		w.refused(kapsel.NotFound, 404, nil, "GET", path, h.read, nil)
	}
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/ledger/entries", adminKey, nil)
	w.refused(kapsel.NotFound, 404, nil, "POST", "/v1/ledger/acknowledgements", adminKey, `{"ids":[]}`)
	w.refused(kapsel.NotFound, 404, nil, "POST", "/v1/ledger/reports", adminKey, `{"accounts":[]}`)
}

// TestLedgerRefusals checks that what a booker sends wrongly is refused by its fields.
func TestLedgerRefusals(t *testing.T) {
	w := newWorld(t)
	w.refused(kapsel.InvalidRequest, 422, []string{"conflicts[0].kind", "conflicts[0].at", "conflicts[0]", "conflicts[0].answer"}, "POST", "/v1/ledger/acknowledgements", adminKey, `{"ids":[],"conflicts":[{"kind":"lost"}]}`)
	id := object{"kind": "accepted", "delivery_id": kapsel.NewDeliveryID(w.now, 0), "endpoint_id": kapsel.NewEndpointID(w.now), "tenant_id": kapsel.NewTenantID(w.now), "at": w.now, "answer": "a\x00b"}
	w.refused(kapsel.InvalidRequest, 422, []string{"conflicts[0]", "conflicts[0].answer"}, "POST", "/v1/ledger/acknowledgements", adminKey, object{"ids": []string{}, "conflicts": []object{id}})
	w.refused(kapsel.InvalidRequest, 422, []string{"ids"}, "POST", "/v1/ledger/acknowledgements", adminKey, `{}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"accounts"}, "POST", "/v1/ledger/reports", adminKey, `{}`)
	wide := object{"tenant_id": kapsel.NewTenantID(w.now), "books": object{"accepted": int64(math.MaxInt64), "replayed": 1}, "expected": object{"accepted": int64(math.MinInt64)}}
	w.refused(kapsel.InvalidRequest, 422, []string{"accounts[0].books", "accounts[0].expected"}, "POST", "/v1/ledger/reports", adminKey, object{"accounts": []object{wide}})
	w.refused(kapsel.InvalidRequest, 422, []string{"accounts[0].tenant_id"}, "POST", "/v1/ledger/reports", adminKey, `{"accounts":[{"books":{}}]}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"cursor"}, "GET", "/v1/ledger?cursor=x", adminKey, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"cursor"}, "GET", "/v1/ledger/conflicts?cursor=x", adminKey, nil)
}
