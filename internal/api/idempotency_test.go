package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// memory is Answers in memory, with faults.
type memory struct {
	mu       sync.Mutex
	rows     map[string]store.Reservation
	noSettle bool // a crash before the answer is kept
}

func (m *memory) Reserve(_ context.Context, r store.Reservation, now time.Time) (store.Reservation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := r.Owner.String() + " " + r.Key
	if there, ok := m.rows[at]; ok && now.Before(there.ExpiresAt) {
		return there, nil
	}
	m.rows[at] = r
	return r, nil
}

func (m *memory) Resume(_ context.Context, r store.Reservation, now time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := r.Owner.String() + " " + r.Key
	there := m.rows[at]
	if there.Seed != r.Seed || there.Status != r.Status || !there.CreatedAt.Equal(r.CreatedAt) {
		return false, nil
	}
	there.Status, there.CreatedAt = 0, now
	m.rows[at] = there
	return true, nil
}

func (m *memory) Settle(_ context.Context, r store.Reservation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noSettle {
		return errors.New("the process died")
	}
	m.rows[r.Owner.String()+" "+r.Key] = r
	return nil
}

func (m *memory) Forget(_ context.Context, r store.Reservation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.rows, r.Owner.String()+" "+r.Key)
	return nil
}

func newWorldWithAnswers(t *testing.T) (*world, *memory) {
	w, m := newWorld(t), &memory{rows: map[string]store.Reservation{}}
	w.cfg.Answers = m
	w.handler = w.build()
	return w, m
}

func key(k string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Idempotency-Key", k) }
}

// TestIdempotencyKey_B63_B64_B65 checks that a POST with the same Idempotency-Key gets its
// first answer for 24 hours, another body under that key gets 409, and after 24 hours the key
// is new.
func TestIdempotencyKey_B63_B64_B65(t *testing.T) {
	w, _ := newWorldWithAnswers(t)
	post := func(body string) answered {
		return w.do("POST", "/v1/tenants", adminKey, body, key("k1"))
	}
	first := post(`{"name":"a"}`)
	if first.status != 201 || first.header.Get("Idempotent-Replayed") != "" {
		t.Fatalf("%d %v %s", first.status, first.header, first.body)
	}
	w.now = w.now.Add(23 * time.Hour)
	second := post(`{"name":"a"}`)
	if second.status != 201 || string(second.body) != string(first.body) || second.header.Get("Idempotent-Replayed") != "true" ||
		second.header.Get("Content-Type") != "application/json" {
		t.Errorf("repeated: %d %v %s", second.status, second.header, second.body)
	}
	w.refused(kapsel.DuplicateEvent, 409, nil, "POST", "/v1/tenants", adminKey, `{"name":"b"}`, key("k1"))
	w.refused(kapsel.DuplicateEvent, 409, nil, "POST", "/v1/tenants?", adminKey, `{"name":"a" }`, key("k1"))
	w.now = w.now.Add(time.Hour)
	if third := post(`{"name":"a"}`); third.status != 201 || string(third.body) == string(first.body) {
		t.Errorf("after the window: %d %s", third.status, third.body)
	}

	// Without a key, and with one that differs in case, each request makes its own.
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, key("K1"))
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"a"}`)
	if got := len(w.want(200, "GET", "/v1/tenants", adminKey, nil).list("data")); got != 4 {
		t.Errorf("%d tenants, want 4", got)
	}
}

// TestIdempotencyKeyInTheStore: what is made and answered is kept by the store itself.
func TestIdempotencyKeyInTheStore(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	const body = `{"name":"e","url":"https://example.com"}`
	first := w.want(201, "POST", "/v1/endpoints", h.write, body, key("k"))
	w.now = w.now.Add(time.Minute)
	again := w.want(201, "POST", "/v1/endpoints", h.write, body, key("k"))
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("repeated (-first +again):\n%s", diff)
	}
	w.now = w.now.Add(store.SecretKept)
	if _, err := w.store.DeleteExpiredAnswers(t.Context(), w.now, 10); err != nil {
		t.Fatal(err)
	}
	if o := w.want(409, "POST", "/v1/endpoints", h.write, body, key("k")); !strings.Contains(o.text("detail"), first.text("id")) {
		t.Errorf("without the secret: %v", o)
	}
}

// TestIdempotencyKey_B41_Syntax checks that an Idempotency-Key that is empty, longer than 255
// bytes, sent twice or not printable ASCII is refused with 400, as at ingest.
func TestIdempotencyKey_B41_Syntax(t *testing.T) {
	w, _ := newWorldWithAnswers(t)
	for _, k := range []string{"", "a\tb", "ü", "\xff", strings.Repeat("k", 256), strings.Repeat("k", 4096)} {
		w.refused(kapsel.InvalidRequest, 400, []string{"Idempotency-Key"}, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, key(k))
	}
	w.refused(kapsel.InvalidRequest, 400, []string{"Idempotency-Key"}, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, func(r *http.Request) {
		r.Header["Idempotency-Key"] = []string{"a", "a"}
	})
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, key(strings.Repeat("k", 255)))
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, key("a b"))
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, key("'; DROP"[:2]))
}

// TestIdempotencyKey_B62_OfTenants checks that two tenants that use one Idempotency-Key each
// get an answer of their own, and a key opens nothing to callers without the right.
func TestIdempotencyKey_B62_OfTenants(t *testing.T) {
	w, _ := newWorldWithAnswers(t)
	a, b := w.newHouse("a"), w.newHouse("b")
	const body = `{"name":"e","url":"https://example.com"}`
	made := map[string]bool{}
	for _, k := range []string{a.write, b.write} {
		made[w.want(201, "POST", "/v1/endpoints", k, body, key("same")).text("id")] = true
	}
	if len(made) != 2 {
		t.Errorf("two tenants with one key made %v", made)
	}
	w.refused(kapsel.Forbidden, 403, nil, "POST", "/v1/endpoints", a.read, body, key("same"))
	w.refused(kapsel.Unauthorized, 401, nil, "POST", "/v1/endpoints", "", body, key("same"))
}

func TestIdempotencyKeyAfterARefusal(t *testing.T) {
	w, m := newWorldWithAnswers(t)
	w.refused(kapsel.InvalidRequest, 422, []string{"name"}, "POST", "/v1/tenants", adminKey, `{}`, key("k"))
	w.refused(kapsel.PayloadTooLarge, 413, nil, "POST", "/v1/tenants", adminKey, `{"name":"`+strings.Repeat("a", 70<<10)+`"}`, key("k"))
	if len(m.rows) != 0 {
		t.Errorf("a refused request is remembered: %v", m.rows)
	}
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"a"}`, key("k"))
}

func TestIdempotencyKeyKeepsSecretsSealedAndShort(t *testing.T) {
	w, m := newWorldWithAnswers(t)
	h := w.newHouse("a")
	path := "/v1/tenants/" + h.tenant + "/keys"
	const body = `{"name":"k","scope":"read"}`
	first := w.want(201, "POST", path, h.write, body, key("k"))
	for _, r := range m.rows {
		if strings.Contains(string(r.Body), first.text("secret")[8:]) || !r.Sealed {
			t.Errorf("the secret is kept in the clear: %s", r.Body)
		}
	}
	w.now = w.now.Add(10*time.Minute - 1)
	if got := w.want(201, "POST", path, h.write, body, key("k")).text("secret"); got != first.text("secret") {
		t.Error("another secret comes back")
	}
	w.now = w.now.Add(1)
	o := w.want(409, "POST", path, h.write, body, key("k"))
	if o.text("code") != "E1010" || !strings.Contains(o.text("detail"), first.text("id")) {
		t.Errorf("after ten minutes: %v", o)
	}
}

// TestIdempotencyKey_PortalLink checks that the URL of a portal link, which has the link's token, is kept as
// the secret of a key is.
func TestIdempotencyKey_PortalLink(t *testing.T) {
	w, m := newWorldWithAnswers(t)
	h := w.newHouse("a")
	const path, body = "/v1/portal-links", `{"mode":"manage"}`
	first := w.want(201, "POST", path, h.write, body, key("k"))
	_, token, _ := strings.Cut(first.text("url"), "#")
	for _, r := range m.rows {
		if token == "" || strings.Contains(string(r.Body), token) || !r.Sealed {
			t.Errorf("the token %q is kept in the clear: %s", token, r.Body)
		}
	}
	w.now = w.now.Add(store.SecretKept - 1)
	if got := w.want(201, "POST", path, h.write, body, key("k")).text("url"); got != first.text("url") {
		t.Error("another URL comes back")
	}
	w.now = w.now.Add(1)
	if o := w.want(409, "POST", path, h.write, body, key("k")); o.text("code") != "E1010" || !strings.Contains(o.text("detail"), first.text("id")) {
		t.Errorf("after ten minutes: %v", o)
	}
}

// TestIdempotencyKey_Erased checks that no answer is kept that has contents of an event, which an erasure could
// not find, and that a repeated request shows the event as it is now and does nothing else.
func TestIdempotencyKey_Erased(t *testing.T) {
	w, m := newWorldWithAnswers(t)
	h := w.newHouse("a")
	ev, _ := w.receive(h.endpoint, func(e *kapsel.Event) { e.Header = kapsel.Header{{Name: "X-Name", Value: "of a person"}} })
	path := "/v1/events/" + ev.ID.String()
	first := w.do("POST", path+"/cancel", h.write, "", key("k"))
	if first.status != 200 || !strings.Contains(string(first.body), "of a person") {
		t.Fatalf("the answer is %d %s", first.status, first.body)
	}
	for _, r := range m.rows {
		if len(r.Body) > 0 {
			t.Errorf("the answer is kept: %s", r.Body)
		}
	}
	w.want(200, "POST", path+"/replay", h.write, nil)
	for _, kept := range []bool{true, false} {
		again := w.do("POST", path+"/cancel", h.write, "", key("k"))
		if again.status != 200 || strings.Contains(string(again.body), "of a person") != kept || again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("repeated: %d %v %s", again.status, again.header, again.body)
		}
		if kept {
			w.want(200, "POST", path+"/cancel", h.write, nil) // there is something to cancel: the repeated request left it
			w.want(200, "POST", path+"/erase", h.write, nil)
		}
	}
	w.refused(kapsel.DuplicateEvent, 409, nil, "POST", path+"/cancel", h.write, `{"endpoint_id":"`+h.endpoint+`"}`, key("k"))
}

// TestIdempotencyKeyAfterACrash: the object was made and its answer was not kept.
func TestIdempotencyKeyAfterACrash(t *testing.T) {
	w, m := newWorldWithAnswers(t)
	h := w.newHouse("a")
	for path, body := range map[string]string{
		"/v1/tenants": `{"name":"n"}`, "/v1/tenants/" + h.tenant + "/keys": `{"name":"n","scope":"read"}`, "/v1/endpoints?tenant_id=" + h.tenant: `{"name":"n","url":"https://example.com"}`,
	} {
		m.noSettle = true
		made := w.want(201, "POST", path, adminKey, body, key(path)).text("id")
		m.noSettle = false
		o := w.want(409, "POST", path, adminKey, body, key(path))
		if !strings.Contains(o.text("detail"), "still running") {
			t.Errorf("at once: %v", o)
		}
		w.now = w.now.Add(stillRunning)
		for range 3 {
			if o = w.want(409, "POST", path, adminKey, body, key(path)); o.text("code") != "E1010" || !strings.Contains(o.text("detail"), made) {
				t.Errorf("%s: %v, want %s named", path, o, made)
			}
		}
	}
	// A request that died before it made anything runs when it comes again.
	w.now = w.now.Add(time.Hour)
	m.rows[" early"] = store.Reservation{Key: "early", Request: fingerprint(requestFor("/v1/tenants"), []byte(`{"name":"n"}`)), Seed: kapsel.NewSecretID(w.now), CreatedAt: w.now, ExpiresAt: w.now.Add(time.Hour)}
	w.now = w.now.Add(stillRunning)
	w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"n"}`, key("early"))
}

// TestIdempotencyKey_B63_AtTheSameTime checks that exactly one of many simultaneous POSTs with
// one Idempotency-Key runs, and the others get its answer or 409.
func TestIdempotencyKey_B63_AtTheSameTime(t *testing.T) {
	w, _ := newWorldWithAnswers(t)
	var wg sync.WaitGroup
	answers := make([]answered, 20)
	for i := range answers {
		wg.Go(func() { answers[i] = w.do("POST", "/v1/tenants", adminKey, `{"name":"a"}`, key("k")) })
	}
	wg.Wait()
	for _, a := range answers {
		if a.status != 201 && a.status != 409 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if got := len(w.want(200, "GET", "/v1/tenants", adminKey, nil).list("data")); got != 1 {
		t.Errorf("%d tenants were made", got)
	}
}

// TestIdempotencyKey_B63_AfterAnError checks that exactly one of many simultaneous POSTs runs that repeat one
// which was answered 5xx, or whose process died.
func TestIdempotencyKey_B63_AfterAnError(t *testing.T) {
	w, m := newWorldWithAnswers(t)
	h := w.newHouse("a")
	owner, err := kapsel.ParseTenantID(h.tenant)
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/endpoints/" + h.endpoint + "/secrets/rotate"
	const body = `{"overlap":"0s"}`
	for _, status := range []int{503, 0} {
		k := fmt.Sprint("k", status)
		m.rows[h.tenant+" "+k] = store.Reservation{
			Owner: owner, Key: k, Request: fingerprint(requestFor(path), []byte(body)), Seed: kapsel.NewSecretID(w.now), Status: status, CreatedAt: w.now, ExpiresAt: w.now.Add(time.Hour),
		}
		w.now = w.now.Add(stillRunning)
		secrets := map[string]bool{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				a := w.do("POST", path, h.write, body, key(k))
				mu.Lock()
				defer mu.Unlock()
				switch a.status {
				case 200:
					var o object
					if err := json.Unmarshal(a.body, &o); err != nil {
						t.Error(err)
					}
					secrets[o.text("signing_secret")] = true
				case 409:
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		wg.Wait()
		if len(secrets) != 1 {
			t.Errorf("after %d the secret was rotated %d times", status, len(secrets))
		}
	}
}
