package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func TestEndpointStats(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint + "/stats"
	try := func(a kapsel.Answer, took time.Duration) {
		w.receive(h.endpoint, nil)
		w.attempt(h.endpoint, a, func(t *kapsel.Attempt) { t.StartedAt, t.Duration = w.now.Add(-took), took })
	}
	w.now = w.now.Add(-24 * time.Hour) // just as much as to be in the default's first hour
	try(kapsel.Answer{Status: 200, MaxAttempts: 1}, 3*time.Millisecond)
	w.now = w.now.Add(24*time.Hour + 30*time.Minute)
	for range 97 {
		try(kapsel.Answer{Status: 200, MaxAttempts: 1}, 100*time.Millisecond)
	}
	try(kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError, MaxAttempts: 1}, 3*time.Second)
	try(kapsel.Answer{Code: kapsel.ConnectionTimeout, Retry: true, MaxAttempts: 1}, 30*time.Second)
	try(kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1}, time.Millisecond)
	id, err := kapsel.ParseEndpointID(h.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	arrivals := map[store.StatsKey]store.Arrivals{{Endpoint: id, Hour: kapsel.StatsHour(w.now).UnixMicro()}: {Refused: 3, Unkeyed: 2}}
	if err := w.store.CountArrivals(t.Context(), arrivals); err != nil {
		t.Fatal(err)
	}

	got := w.want(200, "GET", path, h.read, nil)
	now := map[string]any{
		"attempts":     map[string]any{"total": 100., "succeeded": 97., "client_errors": 1., "server_errors": 0., "timeouts": 1., "no_answers": 1., "unknown": 0.},
		"deliveries":   map[string]any{"delivered": 97., "failed": 1., "dead_letter": 2., "canceled": 0.},
		"success_rate": 0.97,
		// Half of 99 is 49.5 of the 97 between 64 and 128 ms; 98.01 of 99 is in the last one, of 16.4 to 32.8 s.
		"latency": map[string]any{"p50_ms": 96.7, "p95_ms": 126.1, "p99_ms": 16547.8},
		"refused": 3.,
		"unkeyed": 2.,
	}
	if diff := cmp.Diff(map[string]any{
		"endpoint_id": h.endpoint, "interval": "hour", "since": "2026-02-28T12:00:00.000Z", "until": "2026-03-01T13:00:00.000Z",
	}, map[string]any{"endpoint_id": got["endpoint_id"], "interval": got["interval"], "since": got["since"], "until": got["until"]}); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	intervals := got.list("intervals")
	if len(intervals) != 25 {
		t.Fatalf("%d intervals", len(intervals))
	}
	for i, v := range intervals {
		start := time.Date(2026, 2, 28, 12+i, 0, 0, 0, time.UTC).Format("2006-01-02T15:04:05.000Z")
		attempts := v["attempts"].(map[string]any)["total"]
		if want := map[int]float64{0: 1, 24: 100}[i]; v.text("start") != start || attempts != want {
			t.Errorf("interval %d begins at %v with %v attempts, want %v and %v", i, v["start"], attempts, start, want)
		}
		if i == 1 && (v["success_rate"] != nil || v["latency"].(map[string]any)["p50_ms"] != nil) {
			t.Errorf("nothing is %v", v)
		}
	}
	delete(intervals[24], "start")
	if diff := cmp.Diff(object(now), intervals[24]); diff != "" {
		t.Errorf("the last interval (-want +got):\n%s", diff)
	}
	if total := got["total"].(map[string]any)["attempts"].(map[string]any)["total"]; total != 101. {
		t.Errorf("%v attempts in total", total)
	}

	days := w.want(200, "GET", path+"?interval=day&since=2026-02-28T20:00:00Z&until=2026-03-02T00:00:00Z", h.read, nil)
	if all := days.list("intervals"); len(all) != 2 || all[0].text("start") != "2026-02-28T00:00:00.000Z" || all[0]["success_rate"] != 1. || all[1]["success_rate"] != 0.97 {
		t.Errorf("days are %v", all)
	}
	if all := w.want(200, "GET", path+"?interval=day", h.read, nil).list("intervals"); len(all) != 31 {
		t.Errorf("by default there are %d days", len(all))
	}
	for query, field := range map[string]string{
		"since=2026-03-01T12:30:00Z": "since", "until=2000-01-01T00:00:00Z&since=2000-01-01T00:00:00Z": "since",
		"since=2026-01-29T12:00:00Z": "since", "interval=day&since=2025-11-29T00:00:00Z": "since",
		"since=yesterday": "since", "interval=week": "interval", "step=1h": "step",
	} {
		w.refused(kapsel.InvalidRequest, 400, []string{field}, "GET", path+"?"+query, h.read, nil)
	}
	w.want(200, "GET", path+"?since=2026-01-29T13:00:00Z", h.read, nil) // 744 hours
}

func TestUsage(t *testing.T) {
	w := newWorld(t)
	h, other := w.newHouse("a"), w.newHouse("b")
	w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, object{"limits": object{"events_per_month": 3}})
	w.now = time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC)
	w.receive(h.endpoint, nil)
	w.now = time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC)
	w.receive(h.endpoint, func(e *kapsel.Event) { e.Body = []byte(strings.Repeat("x", 1000)) })
	w.receive(other.endpoint, nil)
	w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	w.attempt(h.endpoint, kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, MaxAttempts: 1, Retry: true}, nil)

	used := func(events, bytes, attempts, deliveries, delivered float64) map[string]any {
		return map[string]any{"events": events, "bytes": bytes, "attempts": attempts, "deliveries": deliveries, "delivered": delivered}
	}
	day := func(day string, u map[string]any) any {
		u["day"] = day
		return u
	}
	quota := map[string]any{"events_per_month": map[string]any{"limit": 3., "used": 1., "remaining": 2., "resets_at": "2026-04-01T00:00:00.000Z"}}
	want := object{
		"tenant_id": h.tenant, "since": "2026-03-01T00:00:00.000Z", "until": "2026-03-04T00:00:00.000Z",
		"total":  used(1, 1000, 2, 2, 1),
		"days":   []any{day("2026-03-01", used(0, 0, 0, 0, 0)), day("2026-03-02", used(0, 0, 0, 0, 0)), day("2026-03-03", used(1, 1000, 2, 2, 1))},
		"limits": quota,
	}
	if diff := cmp.Diff(want, w.want(200, "GET", "/v1/usage", h.read, nil)); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, w.want(200, "GET", "/v1/usage?tenant_id="+h.tenant, adminKey, nil)); diff != "" {
		t.Errorf("as the admin sees it (-want +got):\n%s", diff)
	}
	// Of another month, beside this month's limits.
	february := w.want(200, "GET", "/v1/usage?until=2026-03-01T00:00:00Z", h.read, nil)
	if days := february.list("days"); len(days) != 28 || days[27]["events"] != 1. || !cmp.Equal(february["limits"], any(quota)) {
		t.Errorf("February is %v", february)
	}
	// All tenants together have no limits, and one without a limit has nothing left to name.
	all := w.want(200, "GET", "/v1/usage?since=2026-02-28T12:00:00Z", adminKey, nil)
	if diff := cmp.Diff(used(3, 1014, 2, 2, 1), all["total"]); diff != "" || all["tenant_id"] != nil || all["limits"] != nil || len(all.list("days")) != 4 {
		t.Errorf("of all tenants: %v\n%s", all, diff)
	}
	free := w.want(200, "GET", "/v1/usage", other.read, nil)["limits"].(map[string]any)["events_per_month"]
	if diff := cmp.Diff(any(map[string]any{"limit": nil, "used": 1., "remaining": nil, "resets_at": "2026-04-01T00:00:00.000Z"}), free); diff != "" {
		t.Errorf("without a limit (-want +got):\n%s", diff)
	}
	// A limit that was lowered below what is used leaves nothing.
	w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, object{"limits": object{"events_per_month": 0}})
	if left := w.want(200, "GET", "/v1/usage", h.read, nil)["limits"].(map[string]any)["events_per_month"].(map[string]any)["remaining"]; left != 0. {
		t.Errorf("%v events are left", left)
	}
	// A test event is an event, and no limit keeps it out.
	w.want(200, "POST", "/v1/endpoints/"+h.endpoint+"/test", h.write, nil)
	if total := w.want(200, "GET", "/v1/usage", h.read, nil)["total"].(map[string]any)["events"]; total != 2. {
		t.Errorf("%v events with the test", total)
	}

	w.refused(kapsel.InvalidRequest, 400, []string{"since"}, "GET", "/v1/usage?since=2026-03-03T09:00:00Z", h.read, nil)
	w.refused(kapsel.InvalidRequest, 400, []string{"since"}, "GET", "/v1/usage?since=2025-01-27T00:00:00Z", h.read, nil)
	w.want(200, "GET", "/v1/usage?since=2025-01-28T00:00:00Z", h.read, nil) // 400 days
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", "/v1/usage?tenant_id="+h.tenant, h.read, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/usage?tenant_id="+kapsel.NewTenantID(w.now).String(), adminKey, nil)
}

// TestUnkeyedWarning: an endpoint says that webhooks had no key where it expects one, as the
// store and this node have counted them.
func TestUnkeyedWarning(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/endpoints/" + h.endpoint
	id, err := kapsel.ParseEndpointID(h.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var waiting int64
	w.uses.Arrivals = func(kapsel.EndpointID) store.Arrivals { return store.Arrivals{Unkeyed: waiting} }
	w.handler = w.build()
	for _, tt := range []struct {
		settings object
		waiting  int64 // to be written
		stored   int64 // more of them
		want     string
	}{
		{object{}, 0, 1, ""},
		{object{"idempotency": object{"strategy": "source_id", "path": "$.id"}}, 0, 0, "unkeyed: 1 webhook of the last 24 hours had no idempotency key at idempotency.path $.id; a repetition of one is a new event"},
		{object{"idempotency": object{"strategy": "source_id", "path": "$.id"}}, 0, 4, "unkeyed: 5 webhooks of the last 24 hours had no idempotency key at idempotency.path $.id; a repetition of one is a new event"},
		{object{"idempotency": object{"strategy": "header", "header": "X-My-Id"}}, 2, 3, "unkeyed: 10 webhooks of the last 24 hours had no idempotency key in the header X-My-Id; a repetition of one is a new event"},
		{object{"verification": object{"provider": "github", "secrets": []string{"a secret of github"}}}, 0, 0, "unkeyed: 8 webhooks of the last 24 hours had no idempotency key in the header X-My-Id or where github has it; a repetition of one is a new event"},
		{object{"idempotency": object{"strategy": "content"}}, 1, 0, ""},
	} {
		w.want(200, "PATCH", path, h.write, tt.settings)
		waiting = tt.waiting
		err := w.store.CountArrivals(t.Context(), map[store.StatsKey]store.Arrivals{{Endpoint: id, Hour: kapsel.StatsHour(w.now).UnixMicro()}: {Unkeyed: tt.stored}})
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, warning := range w.want(200, "GET", path, h.read, nil)["warnings"].([]any) {
			if strings.HasPrefix(warning.(string), "unkeyed") {
				got = warning.(string)
			}
		}
		if got != tt.want {
			t.Errorf("%v: the warning is %q, want %q", tt.settings, got, tt.want)
		}
	}
	w.now = w.now.Add(26 * time.Hour)
	waiting = 0
	w.want(200, "PATCH", path, h.write, object{"idempotency": object{"strategy": "source_id", "path": "$.id"}})
	if got := fmt.Sprint(w.want(200, "GET", path, h.read, nil)["warnings"]); strings.Contains(got, "unkeyed") {
		t.Errorf("a day later: %s", got)
	}
}
