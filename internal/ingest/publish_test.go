package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// published publishes for a tenant. The request's body is as long as those of the events.
func (w *world) published(tenant kapsel.TenantID, list ...kapsel.Publication) ([]kapsel.Published, http.Header, error) {
	w.t.Helper()
	size := 0
	for i := range list {
		if list[i].ContentType == "" {
			list[i].ContentType = "application/json"
		}
		size += len(list[i].Body)
	}
	rec := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(strings.Repeat("x", size)))
	results, err := w.handler.Publish(rec, r, tenant, func(_ []byte, reserve func(int) error) ([]kapsel.Publication, error) {
		return list, reserve(size)
	})
	return results, rec.Header(), err
}

// one publishes an event that must be stored, or be a duplicate.
func (w *world) one(p kapsel.Publication) kapsel.Published {
	w.t.Helper()
	results, _, err := w.published(w.tenant.ID, p)
	if err != nil || len(results) != 1 || results[0].Err != nil {
		w.t.Fatalf("publish %+v: %+v, %v", p, results, err)
	}
	return results[0]
}

// subscribed makes an endpoint that subscribes to published events.
func (w *world) subscribed(name string, types, channels []string, change ...func(*kapsel.Endpoint)) *kapsel.Endpoint {
	w.t.Helper()
	ep := w.endpoint(func(ep *kapsel.Endpoint) {
		ep.Name, ep.NoIngest = name, true
		ep.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish, EventTypes: types, Channels: channels}}
		for _, c := range change {
			c(ep)
		}
	})
	w.must(w.settings.Load(context.Background()))
	return ep
}

// eventType makes an event type with a schema that its events must fit.
func (w *world) eventType(name, schema string) {
	w.t.Helper()
	now := time.Now()
	config := kapsel.EventTypeConfig{Validate: kapsel.ValidateRefuse, Schemas: map[string]json.RawMessage{"1": json.RawMessage(schema)}}
	w.must(w.db.CreateEventType(context.Background(), kapsel.EventType{
		ID: kapsel.NewEventTypeID(now), TenantID: w.tenant.ID, Name: name, CreatedAt: now, UpdatedAt: now, EventTypeConfig: config,
	}))
	w.must(w.settings.Load(context.Background()))
}

// app makes an app of the world's tenant.
func (w *world) app(uid string, rate *kapsel.RateLimit) kapsel.App {
	w.t.Helper()
	now := time.Now()
	a := kapsel.App{ID: kapsel.NewAppID(now), TenantID: w.tenant.ID, UID: uid, CreatedAt: now, UpdatedAt: now, AppConfig: kapsel.AppConfig{Name: uid, RateLimit: rate}}
	w.must(w.db.CreateApp(context.Background(), a))
	return a
}

// TestPublish_Matches checks that an event goes to the endpoints of its tenant that subscribe to
// its type and channels, and is kept even if there is none.
func TestPublish_Matches(t *testing.T) {
	w := newWorld(t)
	names := map[kapsel.EndpointID]string{}
	for name, wants := range map[string][2][]string{
		"paid":      {{"invoice.paid"}, nil},
		"invoices":  {{"invoice.*"}, nil},
		"two":       {{"order.made", "invoice.paid"}, nil},
		"eu":        {nil, []string{"eu", "ch"}},
		"paid, eu":  {{"invoice.paid"}, {"eu"}},
		"all":       {nil, nil},
		"something": {{"invoice"}, nil},
	} {
		names[w.subscribed(name, wants[0], wants[1]).ID] = name
	}
	w.endpoint(nil) // subscribes to nothing
	mine := w.tenant
	w.tenant = w.newTenant(kapsel.Limits{})
	w.subscribed("another tenant's", nil, nil)
	w.tenant = mine

	for _, tt := range []struct {
		eventType string
		channels  []string
		want      string
	}{
		{"invoice.paid", nil, "all, invoices, paid, two"},
		{"invoice.paid", []string{"us"}, "all, invoices, paid, two"},
		{"invoice.paid", []string{"us", "ch"}, "all, eu, invoices, paid, two"},
		{"invoice.paid", []string{"eu"}, "all, eu, invoices, paid, paid, eu, two"},
		{"invoice.", nil, "all"},
		{"invoice.paid.twice", nil, "all, invoices"},
		{"Invoice.paid", nil, "all"},
		{"order.made", []string{"eu"}, "all, eu, two"},
	} {
		got := w.one(kapsel.Publication{Type: tt.eventType, Channels: tt.channels, OrderingKey: "c", Body: []byte(`{"a":1}`)})
		stored := w.event(got.Event.ID)
		if len(stored.Deliveries) != len(got.Deliveries) {
			t.Errorf("%s: %d deliveries are stored of %d", tt.eventType, len(stored.Deliveries), len(got.Deliveries))
		}
		var to []string
		for _, d := range stored.Deliveries {
			to = append(to, names[d.EndpointID])
		}
		slices.Sort(to)
		if s := strings.Join(to, ", "); s != tt.want {
			t.Errorf("%s of %v went to %s, want %s", tt.eventType, tt.channels, s, tt.want)
		}
		e := stored.Event
		if e.Type != tt.eventType || !slices.Equal(e.Channels, tt.channels) || e.OrderingKey != "c" || string(e.Body) != `{"a":1}` ||
			e.ContentType != "application/json" || !e.EndpointID.IsZero() || e.TenantID != mine.ID || len(e.Header) != 0 || e.Query != "" {
			t.Errorf("stored is %+v", e)
		}
	}

	other := w.newTenant(kapsel.Limits{})
	results, _, err := w.published(other.ID, kapsel.Publication{Type: "invoice.paid", Body: []byte("1")})
	if err != nil || results[0].Err != nil || len(results[0].Deliveries) != 0 {
		t.Fatalf("%+v, %v", results, err)
	}
	if r := w.event(results[0].Event.ID); kapsel.StatusOfEvent(r.Deliveries, false) != kapsel.EventUnmatched {
		t.Errorf("an event for nobody is %s", kapsel.StatusOfEvent(r.Deliveries, false))
	}
}

// TestPublish_App checks that an event published to an app goes only to the app's endpoints, that
// keys are unique within the app, and that another tenant's app counts as missing.
func TestPublish_App(t *testing.T) {
	w := newWorld(t)
	shop, other := w.app("shop", nil), w.app("other", nil)
	of := func(a kapsel.App) func(*kapsel.Endpoint) {
		return func(ep *kapsel.Endpoint) { ep.AppID = a.ID }
	}
	to := map[string]kapsel.EndpointID{
		"shop": w.subscribed("shop", []string{"a.*"}, nil, of(shop)).ID, "other": w.subscribed("other", nil, nil, of(other)).ID, "": w.subscribed("none", nil, nil).ID,
	}
	firsts := map[kapsel.EventID]bool{}
	for app, want := range to {
		p := kapsel.Publication{Type: "a.b", App: app, ID: "k"}
		got := w.one(p)
		stored := w.event(got.Event.ID)
		if len(stored.Deliveries) != 1 || stored.Deliveries[0].EndpointID != want || stored.Event.AppID != got.Event.AppID || stored.Event.AppID.IsZero() != (app == "") {
			t.Errorf("published to %q: %+v", app, stored)
		}
		if again := w.one(p); !again.Duplicate || again.Event.ID != got.Event.ID {
			t.Errorf("published again to %q: %+v", app, again)
		}
		firsts[got.Event.ID] = true
	}
	if len(firsts) != 3 {
		t.Errorf("%d events have a key in three scopes", len(firsts))
	}
	if got := w.one(kapsel.Publication{Type: "a.b", App: shop.ID.String(), ID: "k"}); !got.Duplicate {
		t.Errorf("by the app's id: %+v", got)
	}
	if got := w.one(kapsel.Publication{Type: "b", App: "shop"}); len(got.Deliveries) != 0 {
		t.Errorf("another type: %+v", got)
	}
	stranger := w.newTenant(kapsel.Limits{})
	for _, app := range []string{"shop", shop.ID.String(), "missing"} {
		results, _, err := w.published(stranger.ID, kapsel.Publication{Type: "a", App: app}, kapsel.Publication{Type: "a"})
		if err != nil || kapsel.CodeOf(results[0].Err) != kapsel.InvalidRequest || results[1].Err != nil {
			t.Errorf("to the app %s of another tenant: %+v, %v", app, results, err)
		}
	}
}

// TestPublish_AppRate checks that an app's rate limits the events published to it.
func TestPublish_AppRate(t *testing.T) {
	w := newWorld(t)
	w.app("slow", &kapsel.RateLimit{PerSecond: 0.001, Burst: 2})
	batch := make([]kapsel.Publication, 3)
	for i := range batch {
		batch[i] = kapsel.Publication{Type: "a", App: "slow"}
	}
	results, _, err := w.published(w.tenant.ID, append(batch, kapsel.Publication{Type: "a"})...)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []kapsel.Code{"", "", kapsel.RateLimited, ""} {
		if got := kapsel.CodeOf(results[i].Err); got != want {
			t.Errorf("event %d: %v, want %q", i, results[i].Err, want)
		}
	}
	var limited *kapsel.Error
	if errors.As(results[2].Err, &limited); limited == nil || limited.RetryAfter < time.Minute {
		t.Errorf("%+v", limited)
	}
}

// TestPublish_Delivers: what is sent is the body as it was published, with our headers and no
// others; webhook-id is the same for all endpoints.
func TestPublish_Delivers(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		w.subscribed("a", nil, nil, active, func(ep *kapsel.Endpoint) { ep.Signing.Enabled = false })
	}
	got := w.one(kapsel.Publication{Type: "report.ready", Body: []byte("a,b\n"), ContentType: "text/csv"})
	seen := map[string]bool{}
	for range 2 {
		r := w.delivered()
		body, _ := io.ReadAll(r.Body)
		if string(body) != "a,b\n" {
			t.Errorf("sent %q", body)
		}
		for name := range r.Header {
			if !strings.HasPrefix(name, "X-Kapsel-") && name != "Content-Type" && name != "User-Agent" && name != "Traceparent" {
				t.Errorf("sent with the header %s", name)
			}
		}
		h := r.Header
		if h.Get("X-Kapsel-Event-Id") != got.Event.ID.String() || h.Get("X-Kapsel-Event-Type") != "report.ready" || h.Get("Content-Type") != "text/csv" {
			t.Errorf("sent with %v", h)
		}
		seen[h.Get("X-Kapsel-Attempt-Id")] = true
	}
	if len(seen) != 2 {
		t.Errorf("%d attempts, want one for each endpoint", len(seen))
	}
}

// TestPublish_Key: a key stands for the first event with it, in the scope of its tenant and
// ordering key, whatever the body; what has one key has one part.
func TestPublish_Key(t *testing.T) {
	w := newWorld(t)
	w.subscribed("all", nil, nil)
	first := w.one(kapsel.Publication{Type: "a", ID: "1", Body: []byte("1")})
	again := w.one(kapsel.Publication{Type: "b", ID: "1", Body: []byte("22"), Channels: []string{"x"}})
	if !again.Duplicate || again.Event.ID != first.Event.ID {
		t.Errorf("published again: %+v", again)
	}
	ordered := w.one(kapsel.Publication{Type: "a", ID: "1", OrderingKey: "o", Body: []byte("1")})
	if ordered.Duplicate || w.one(kapsel.Publication{Type: "a", ID: "1", OrderingKey: "o", Body: []byte("1")}).Event.ID != ordered.Event.ID {
		t.Error("a key counts beyond its ordering key, or not within it")
	}
	if other := w.one(kapsel.Publication{Type: "a", ID: "2", OrderingKey: "o", Body: []byte("1")}); other.Duplicate || other.Event.ID.Part() != ordered.Event.ID.Part() {
		t.Error("events of one ordering key are of two parts")
	}
	results, _, err := w.published(w.newTenant(kapsel.Limits{}).ID, kapsel.Publication{Type: "a", ID: "1", Body: []byte("1")})
	if err != nil || results[0].Err != nil || results[0].Duplicate {
		t.Errorf("a key counts beyond its tenant: %+v, %v", results, err)
	}
	parts := map[uint8]bool{}
	for range 20 {
		p := w.one(kapsel.Publication{Type: "a", Body: []byte("1")})
		if p.Duplicate {
			t.Fatal("an event without a key is a duplicate")
		}
		parts[p.Event.ID.Part()] = true
	}
	if len(parts) == 1 {
		t.Error("events without a key are all of one part")
	}

	results, _, err = w.published(w.tenant.ID,
		kapsel.Publication{Type: "a", ID: "7", Body: []byte("1")}, kapsel.Publication{Type: "b", ID: "7", Body: []byte("2")},
		kapsel.Publication{Type: "a", ID: "7", OrderingKey: "o", Body: []byte("3")}, kapsel.Publication{Type: "a", ID: "1", Body: []byte("4")},
		kapsel.Publication{Type: "a", ID: "7", DryRun: true, Body: []byte("5")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		w.must(r.Err)
		got = append(got, fmt.Sprint(r.Duplicate, " ", r.Event.Type))
	}
	if diff := cmp.Diff([]string{"false a", "true ", "false a", "true ", "false a"}, got); diff != "" || results[1].Event.ID != results[0].Event.ID || results[3].Event.ID != first.Event.ID || !results[4].Event.ID.IsZero() {
		t.Errorf("a batch with keys (-want +got):\n%s\n%+v", diff, results)
	}
}

// TestPublish_Limits: each event takes a token of the tenant's rate and a place in its quota; a
// dry run takes no place and stores nothing.
func TestPublish_Limits(t *testing.T) {
	w := newWorld(t)
	three := make([]kapsel.Publication, 3)
	for i := range three {
		three[i] = kapsel.Publication{Type: "a", Body: []byte("1")}
	}
	perSecond, burst, month := 0.001, 4, int64(2)
	slow := w.newTenant(kapsel.Limits{IngestPerSecond: &perSecond, IngestBurst: &burst})
	w.must(w.settings.Load(context.Background()))
	if _, h, err := w.published(slow.ID, three...); err != nil || h.Get("X-RateLimit-Remaining") != "1" {
		t.Errorf("three of a burst of four: %v, %v", err, h)
	}
	before := w.stored()
	if _, h, err := w.published(slow.ID, three...); kapsel.CodeOf(err) != kapsel.RateLimited || h.Get("X-RateLimit-Remaining") != "1" {
		t.Errorf("three more: %v, %v", err, h)
	}
	if w.stored() != before {
		t.Error("what is refused is stored")
	}

	few := w.newTenant(kapsel.Limits{EventsPerMonth: &month})
	three[0].DryRun = true
	results, _, err := w.published(few.ID, append(three, three[1])...)
	if err != nil {
		t.Fatal(err)
	}
	over := 0
	for i, r := range results {
		switch {
		case kapsel.CodeOf(r.Err) == kapsel.QuotaExceeded && i > 0:
			over++
		case r.Err != nil || r.Event.ID.IsZero() != (i == 0):
			t.Errorf("%d: %+v", i, r)
		}
	}
	if over != 1 || w.stored() != before+2 {
		t.Errorf("%d events of three are above a quota of two, %d are stored", over, w.stored()-before)
	}

	// What was published already is no event of the quota: who lost the answer learns it.
	one := int64(1)
	last := w.newTenant(kapsel.Limits{EventsPerMonth: &one})
	keyed := kapsel.Publication{Type: "a", Body: []byte("1"), ID: "last of the month"}
	first, _, err := w.published(last.ID, keyed)
	w.must(err)
	again, _, err := w.published(last.ID, keyed, three[1])
	if err != nil || again[0].Err != nil || !again[0].Duplicate || again[0].Event.ID != first[0].Event.ID || kapsel.CodeOf(again[1].Err) != kapsel.QuotaExceeded {
		t.Errorf("published again above the quota: %+v, %v", again, err)
	}
}

// TestPublish_Room checks that a body that is too long, or for which there is no memory, is not
// read or not stored.
func TestPublish_Room(t *testing.T) {
	w := newWorld(t)
	unread := func([]byte, func(int) error) ([]kapsel.Publication, error) {
		t.Error("the body was read")
		return nil, nil
	}
	r := httptest.NewRequest(http.MethodPost, "/v1/events", nil)
	r.ContentLength = w.handler.MaxPublish() + 1
	if _, err := w.handler.Publish(httptest.NewRecorder(), r, w.tenant.ID, unread); kapsel.CodeOf(err) != kapsel.PayloadTooLarge {
		t.Errorf("a request that says it is too long: %v", err)
	}
	r = httptest.NewRequest(http.MethodPost, "/v1/events", io.LimitReader(endless{}, w.handler.MaxPublish()+1))
	r.ContentLength = -1
	if _, err := w.handler.Publish(httptest.NewRecorder(), r, w.tenant.ID, unread); kapsel.CodeOf(err) != kapsel.PayloadTooLarge {
		t.Errorf("a request that is too long: %v", err)
	}
	if !w.budget.Request(bodyMemory) {
		t.Fatal("the memory is not free")
	}
	if _, _, err := w.published(w.tenant.ID, kapsel.Publication{Type: "a", Body: []byte("1")}); kapsel.CodeOf(err) != kapsel.QueueFull {
		t.Errorf("without memory: %v", err)
	}
	w.budget.ReturnRequest(bodyMemory)
	large := kapsel.Publication{Type: "a", Body: make([]byte, ingest.DefaultMaxBody+1)}
	results, _, err := w.published(w.tenant.ID, large, kapsel.Publication{Type: "a", Body: []byte("1")})
	if err != nil || kapsel.CodeOf(results[0].Err) != kapsel.PayloadTooLarge || results[1].Err != nil {
		t.Errorf("a body that is too long beside a short one: %v, %v", results[0].Err, err)
	}
	large.ID = "k" // stands for nothing that is refused
	results, _, err = w.published(w.tenant.ID, large, kapsel.Publication{Type: "a", ID: "k", Body: []byte("1")})
	if err != nil || kapsel.CodeOf(results[0].Err) != kapsel.PayloadTooLarge || results[1].Err != nil || results[1].Duplicate {
		t.Errorf("a body that is too long beside a short one with its key: %v, %v", results[0].Err, results[1].Err)
	}
	if n := w.stored(); n != 2 {
		t.Errorf("%d events are stored", n)
	}
	w.handler.Stop()
	if _, _, err := w.published(w.tenant.ID, kapsel.Publication{Type: "a", Body: []byte("1")}); kapsel.CodeOf(err) != kapsel.ShuttingDown {
		t.Errorf("while stopping: %v", err)
	}
}

// endless reads as zeros without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestPublish_Together: the events of a batch wait for their commit at the same time.
func TestPublish_Together(t *testing.T) {
	w := newWorld(t)
	const n = 10
	var all sync.WaitGroup
	all.Add(n)
	w.fault(func(method string) storetest.Fault {
		if method == "Accept" {
			all.Done()
			met := make(chan struct{})
			go func() { all.Wait(); close(met) }()
			select {
			case <-met:
			case <-time.After(time.Minute):
				t.Error("an event waits for another one's commit")
			}
		}
		return storetest.NoFault
	})
	list := make([]kapsel.Publication, n)
	for i := range list {
		list[i] = kapsel.Publication{Type: "a", Body: fmt.Append(nil, i)}
	}
	results, _, err := w.published(w.tenant.ID, list...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Err != nil || string(w.event(r.Event.ID).Event.Body) != fmt.Sprint(i) {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

// TestPublish_Trouble checks that an error of the store, or a panic, becomes the error of the
// affected events only.
func TestPublish_Trouble(t *testing.T) {
	w := newWorld(t)
	w.subscribed("all", nil, nil, active)
	w.fault(failing(storetest.NotPersisted, "Current"))
	if _, _, err := w.published(w.tenant.ID, kapsel.Publication{Type: "a", Body: []byte("1")}); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("not known whether older nodes are alive: %v", err)
	}
	w.fault(failing(storetest.NotPersisted, "Accept"))
	two := []kapsel.Publication{{Type: "a", ID: "1", Body: []byte("1")}, {Type: "a", ID: "1", Body: []byte("1")}}
	results, _, err := w.published(w.tenant.ID, two...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if kapsel.CodeOf(r.Err) != kapsel.DatabaseUnavailable || r.Duplicate {
			t.Errorf("%d: %+v", i, r)
		}
	}
	w.fault(failing(storetest.NotPersisted, "Current"))
	if _, _, err := w.published(w.newTenant(kapsel.Limits{}).ID, two...); err != nil {
		t.Errorf("asked again whether older nodes are alive: %v", err)
	}
	w.fault(storetest.Nth("Accept", 1, storetest.NotPersisted))
	results, _, err = w.published(w.tenant.ID, kapsel.Publication{Type: "a", Body: []byte("1")}, kapsel.Publication{Type: "a", Body: []byte("1")})
	if err != nil || (results[0].Err == nil) == (results[1].Err == nil) {
		t.Errorf("one of two: %+v, %v", results, err)
	}
	w.fault(func(method string) storetest.Fault {
		if method == "Accept" {
			panic("a bug")
		}
		return storetest.NoFault
	})
	results, _, err = w.published(w.tenant.ID, kapsel.Publication{Type: "a", Body: []byte("1")}, kapsel.Publication{Type: "a", DryRun: true, Body: []byte("1")})
	if err != nil || results[0].Err == nil || kapsel.CodeOf(results[0].Err) != "" || results[1].Err != nil {
		t.Errorf("a panic: %+v, %v", results, err)
	}
	w.fault(nil)
}

// TestPublish_Many checks that an event for more endpoints than are stored with it gets its first
// deliveries, and an expansion that makes the others.
func TestPublish_Many(t *testing.T) {
	w := newWorld(t)
	const n = kapsel.MaxInline + 44
	var all []kapsel.EndpointID
	for range n {
		all = append(all, w.subscribed("many", nil, nil).ID)
	}
	slices.SortFunc(all, func(a, b kapsel.EndpointID) int { return bytes.Compare(a[:], b[:]) })
	opened := 0
	w.handler.Opened = func() { opened++ }
	for i, p := range []kapsel.Publication{{Type: "a"}, {Type: "a", ID: "k"}, {Type: "a", DeliverAt: time.Now().Add(time.Hour)}} {
		got := w.one(p)
		r := w.event(got.Event.ID)
		if len(got.Deliveries) != kapsel.MaxInline || got.Others != n-kapsel.MaxInline || len(r.Deliveries) != kapsel.MaxInline || !r.Expanding || opened != i+1 {
			t.Errorf("%d deliveries and %d others, %d stored, expanding %t, opened %d times", len(got.Deliveries), got.Others, len(r.Deliveries), r.Expanding, opened)
		}
		for j, d := range got.Deliveries {
			if d.EndpointID != all[j] {
				t.Fatalf("delivery %d goes to %v, want %v", j, d.EndpointID, all[j])
			}
		}
		made := 0
		for more := true; more; { // a step ends early where it takes long
			step, open, err := w.db.Expand(context.Background(), got.Event.ID, time.Now(), n)
			w.must(err)
			made, more = made+step, open
		}
		if made != n-kapsel.MaxInline {
			t.Errorf("the expansion made %d", made)
		}
	}
	if got := w.one(kapsel.Publication{Type: "a", ID: "k"}); !got.Duplicate || opened != 3 {
		t.Errorf("%+v, opened %d times", got, opened)
	}
	if got := w.one(kapsel.Publication{Type: "a", DryRun: true}); len(got.Deliveries) != kapsel.MaxInline || got.Others != n-kapsel.MaxInline || opened != 3 {
		t.Errorf("a dry run: %d deliveries, %d others, opened %d times", len(got.Deliveries), got.Others, opened)
	}
}

// TestPublish_DeletedMeanwhile checks that an endpoint that is deleted between the match and the
// commit is no error to the sender, that it gets nothing, and that its delivery is canceled.
func TestPublish_DeletedMeanwhile(t *testing.T) {
	w := newWorld(t)
	gone, kept := w.subscribed("gone", nil, nil), w.subscribed("kept", nil, nil, active)
	w.fault(func(method string) storetest.Fault {
		if method == "Accept" {
			w.must(w.db.DeleteEndpoint(context.Background(), w.tenant.ID, gone.ID, time.Now()))
		}
		return storetest.NoFault
	})
	got := w.one(kapsel.Publication{Type: "a", Body: []byte("{}")})
	w.fault(nil)
	w.must(w.settings.Load(context.Background()))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		status := map[kapsel.EndpointID]kapsel.DeliveryStatus{}
		for _, d := range w.event(got.Event.ID).Deliveries {
			status[d.EndpointID] = d.Status
		}
		if len(status) == 2 && status[gone.ID] == kapsel.Canceled && status[kept.ID] == kapsel.Delivered {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the deliveries are %v", status)
		}
	}
}

// TestPublish_SchemaOfOlderVersion checks that what is published of a type with a stored schema that is no longer
// taken is published unchecked, and that both the publisher and the log hear of it.
func TestPublish_SchemaOfOlderVersion(t *testing.T) {
	w := newWorld(t)
	w.eventType("order.made", `{"pattern":"("}`)
	for range 2 {
		got := w.one(kapsel.Publication{Type: "order.made", Body: []byte(`"("`)})
		if len(got.Warnings) != 1 || got.Warnings[0].Field != "type" || !strings.Contains(got.Warnings[0].Detail, "not checked") {
			t.Errorf("the warnings are %+v", got.Warnings)
		}
	}
	if n := strings.Count(w.logged(), "a stored schema of an event type cannot be used"); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
}

// TestPublish_MemoryOfChecks checks that events of one request take the memory of their checks one after another.
func TestPublish_MemoryOfChecks(t *testing.T) {
	w := newWorld(t)
	w.eventType("order.made", `{"type":"string"}`)
	if !w.budget.Request(1) { // beside another request, nobody may have more than there is
		t.Fatal("no room")
	}
	list := make([]kapsel.Publication, 16)
	for i := range list {
		list[i] = kapsel.Publication{Type: "order.made", Body: []byte(`"` + strings.Repeat("a", 512<<10) + `"`)} // whose check takes 4 MiB
	}
	results, _, err := w.published(w.tenant.ID, list...)
	w.must(err)
	for i, r := range results {
		if r.Err != nil {
			t.Errorf("event %d: %v", i, r.Err)
		}
	}
	w.budget.ReturnRequest(1)
	if n := w.budget.Used(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}
