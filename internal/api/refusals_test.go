package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint + "/refusals"
	w.uses.Refused = func(id kapsel.EndpointID) kapsel.Refused {
		if id.String() != h.endpoint {
			t.Errorf("asked for %v", id)
		}
		return kapsel.Refused{
			Since: w.now, Counts: map[kapsel.Code]int64{kapsel.InvalidSignature: 7, "": 1},
			Last: []kapsel.Refusal{{At: w.now, Status: 401, Code: kapsel.InvalidSignature, Detail: "no signature"}, {At: w.now, Status: 500, Detail: "a bug"}},
		}
	}
	w.handler = w.build()
	at := "2026-03-01T12:00:00.000Z"
	want := object{
		"endpoint_id": h.endpoint, "since": at, "total": 8., "counts": map[string]any{"E1001": 7., "internal": 1.},
		"data": []any{
			map[string]any{"time": at, "status": 401., "code": "E1001", "detail": "no signature"},
			map[string]any{"time": at, "status": 500., "code": nil, "detail": "a bug"},
		},
	}
	if diff := cmp.Diff(want, w.want(200, "GET", path, h.read, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.refused(kapsel.NotFound, 404, nil, "GET", path, w.newHouse("b").read, nil)
}
