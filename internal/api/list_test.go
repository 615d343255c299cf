package api

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// TestBadInput_B43_Limits checks that a list's limit is a plain number from 1 to 200, and
// anything else gets 400.
func TestBadInput_B43_Limits(t *testing.T) {
	w := newWorld(t)
	for _, limit := range []string{"-1", "0", "201", "1e9", "1000000000", "99999999999999999999", "abc", "1.5", "0x10", "+5", "%205", "１"} {
		w.refused(kapsel.InvalidRequest, 400, []string{"limit"}, "GET", "/v1/tenants?limit="+limit, adminKey, nil)
	}
	for path, detail := range map[string]string{
		"/v1/tenants?limit=300": "must be a whole number from 1 to 200",
		"/v1/tenants?limit=0":   "must be a whole number from 1 to 200",
		"/v1/tenants?limit=x":   "must be a whole number from 1 to 200",
		"/v1/events?idempotency_key=" + strings.Repeat("k", 256): "must have at most 255 characters",
		"/v1/events?until=2150-01-01T00:00:00Z":                  "must be a time of the years 2000 to 2099",
	} {
		if p := w.want(400, "GET", path, adminKey, nil); p.list("errors")[0]["detail"] != detail {
			t.Errorf("%s: %v, want %q", path, p["errors"], detail)
		}
	}
	for _, limit := range []string{"1", "200"} {
		w.want(200, "GET", "/v1/tenants?limit="+limit, adminKey, nil)
	}
}

func TestListsPageByPage(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	var all []string
	for range 7 {
		ev, _ := w.receive(h.endpoint, nil)
		all = append([]string{ev.ID.String()}, all...)
		w.now = w.now.Add(1e6)
	}
	for _, limit := range []string{"1", "2", "3", "6", "7", "8", "200"} {
		var got []string
		cursor := ""
		for pages := 0; ; pages++ {
			path := "/v1/events?limit=" + limit
			if cursor != "" {
				path += "&cursor=" + cursor
			}
			page := w.want(200, "GET", path, h.read, nil)
			if diff := cmp.Diff([]string{"data", "next_cursor"}, page.names()); diff != "" {
				t.Fatalf("page (-want +got):\n%s", diff)
			}
			for _, e := range page.list("data") {
				got = append(got, e.text("id"))
			}
			if page["next_cursor"] == nil {
				break
			}
			if cursor = page.text("next_cursor"); pages > 10 {
				t.Fatal("the pages do not end")
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("limit %s (-want +got):\n%s", limit, diff)
		}
	}
	// The cursor does not depend on the limit, so a reader may change it.
	page := w.want(200, "GET", "/v1/events?limit=2", h.read, nil)
	next := w.want(200, "GET", "/v1/events?limit=5&cursor="+page.text("next_cursor"), h.read, nil)
	if got := ids(page.list("data")) + " " + ids(next.list("data")); got != strings.Join(all, " ") {
		t.Errorf("pages of 2 and 5: %s", got)
	}
	// Without events: an empty array, not null.
	w.want(200, "GET", "/v1/deliveries?status=failed", h.read, nil)
}

// TestBadInput_B44_Cursors checks that a cursor that was cut, changed or taken from another
// list, filter or tenant is refused with 400.
func TestBadInput_B44_Cursors(t *testing.T) {
	w := newWorld(t)
	a, b := w.newEstate("a"), w.newEstate("b")
	filter := "status=pending&endpoint_id=" + a.endpoint
	w.receive(a.endpoint, nil)
	w.receive(a.endpoint, nil)
	good := w.want(200, "GET", "/v1/deliveries?limit=1&"+filter, a.read, nil).text("next_cursor")
	if good == "" {
		t.Fatal("no cursor")
	}
	w.want(200, "GET", "/v1/deliveries?limit=1&"+filter+"&cursor="+good, a.read, nil)
	w.want(200, "GET", "/v1/deliveries?endpoint_id="+a.endpoint+"&cursor="+good+"&status=pending", a.read, nil) // the same in another order
	w.want(200, "GET", "/v1/deliveries?limit=1&"+filter+"&cursor="+good, a.write, nil)                          // another key of the tenant

	refused := func(what, path, key string) {
		t.Helper()
		a := w.do("GET", path, key, nil)
		if a.status != 400 || !strings.Contains(string(a.body), `"field":"cursor"`) {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	with := func(cursor string) string {
		return "/v1/deliveries?" + filter + "&cursor=" + url.QueryEscape(cursor)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(good)
	for i := range raw {
		flipped := append([]byte(nil), raw...)
		flipped[i] ^= 1
		refused("flipped", with(base64.RawURLEncoding.EncodeToString(flipped)), a.read)
	}
	for n := 1; n < len(good); n++ {
		refused("cut", with(good[:n]), a.read)
	}
	for what, cursor := range map[string]string{
		"longer": good + "A", "padded": good + "=", "10 KiB": strings.Repeat("A", 10<<10), "an id": a.delivery, "text": "null", "standard base64": base64.StdEncoding.EncodeToString(raw),
		"line": good + "\n", "NUL": "\x00",
	} {
		refused(what, with(cursor), a.read)
	}
	refused("another filter", "/v1/deliveries?endpoint_id="+a.endpoint+"&cursor="+good, a.read)
	refused("another status", "/v1/deliveries?status=failed&endpoint_id="+a.endpoint+"&cursor="+good, a.read)
	refused("another list", "/v1/events?endpoint_id="+a.endpoint+"&cursor="+good, a.read)
	refused("another tenant", with(good), b.read)
	refused("the admin", with(good), adminKey)
	refused("the admin for the tenant", with(good)+"&tenant_id="+a.tenant, adminKey)
}

func FuzzCursor(f *testing.F) {
	a := &api{cursors: []byte("key")}
	f.Add("AAAA")
	f.Add(strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, text string) {
		c := &call{r: requestFor("/v1/events?limit=3")}
		if last, err := a.openCursor(c, text); err == nil && a.cursor(c, last) != text {
			t.Errorf("%q is taken for the cursor %q", text, a.cursor(c, last))
		}
	})
}

// TestLists_EndEarly checks that a page of events which has looked at as many as it may leads on to the next,
// and that the pages together have all that pass the filter.
func TestLists_EndEarly(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	oldest, _ := w.receive(h.endpoint, nil)
	w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	e := w.stored(h.endpoint)
	var all errgroup.Group
	for range 100 {
		at := w.now.Add(time.Second)
		all.Go(func() error {
			for range store.DefaultLook/100 + 1 {
				ev := kapsel.Event{ID: kapsel.NewEventID(at, e.Part), TenantID: e.TenantID, EndpointID: e.ID, ReceivedAt: at, Body: []byte("x"), Size: 1}
				if _, err := w.store.Accept(t.Context(), store.Acceptance{Event: ev}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	path, early := "/v1/events?limit=10&status=delivered&endpoint_id="+h.endpoint, 0
	for next := ""; ; {
		page := w.want(200, "GET", path+next, h.read, nil)
		if found := page.list("data"); len(found) == 1 && found[0].text("id") == oldest.ID.String() && page["next_cursor"] == nil {
			break
		} else if len(found) > 0 || page["next_cursor"] == nil {
			t.Fatalf("after %d pages: %v", early, page)
		}
		early++
		next = "&cursor=" + page.text("next_cursor")
	}
	if early == 0 {
		t.Errorf("no page ended early: %s", path)
	}
}
