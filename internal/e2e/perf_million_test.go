//go:build perf

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// million is how many events the store holds while lists and searches are measured.
const million = 1_000_000

// millionSpan is the time over which the events were received, evenly.
const millionSpan = 30 * 24 * time.Hour

// filled is where the million events are. Of each list the tenants have the members in turn.
type filled struct {
	tenants   []string
	endpoints []harness.Endpoint // ten of each tenant, each with the events of its own ingest
	sources   []string           // one of each tenant, …
	served    []harness.Endpoint // … and the endpoint that gets its events
	apps      []string           // one of each tenant, …
	customers []harness.Endpoint // … and the endpoint that gets what is published to it
	attempts  []int64            // of each tenant
	from      time.Time
}

// The types of the million events: nine of ten are common, one of ten is other. Of the first two endpoints one
// of ten is own, which no other origin has.
const commonType, otherType, ownType = "order.paid", "order.refunded", "invoice.sent"

// owned is an endpoint, and where the events come in that it gets.
type owned struct {
	tenant   kapsel.TenantID
	endpoint kapsel.EndpointID
	source   kapsel.SourceID // zero: they come in at the endpoint, or are published
	app      kapsel.AppID    // zero: they are not published
}

// event returns an event that came in there.
func (o owned) event(at time.Time) kapsel.Event {
	e := kapsel.Event{TenantID: o.tenant, AppID: o.app, SourceID: o.source, ReceivedAt: at}
	if o.source.IsZero() && o.app.IsZero() {
		e.EndpointID = o.endpoint
	}
	e.ID = kapsel.NewEventID(at, kapsel.PartOf(e.Origin()))
	return e
}

// owners makes the tenants, and what the million events come in at and go to.
func (w *world) owners() (f filled, owners []owned) {
	w.t.Helper()
	node := w.nodes[0]
	other, err := node.CreateTenant(w.ctx, "other")
	if err != nil {
		w.t.Fatal(err)
	}
	f = filled{tenants: []string{w.tenant, other}, attempts: make([]int64, 2), from: time.Now().UTC().Add(-millionSpan)}
	add := func(tenant, name string, fields map[string]any) harness.Endpoint {
		fields["name"], fields["url"] = name, w.sink.URL(len(owners))
		ep, err := node.CreateEndpoint(w.ctx, tenant, fields)
		if err != nil {
			w.t.Fatal(err)
		}
		w.act(ep, "pause")
		var o owned
		if o.endpoint, err = kapsel.ParseEndpointID(ep.ID); err != nil {
			w.t.Fatal(err)
		}
		if o.tenant, err = kapsel.ParseTenantID(tenant); err != nil {
			w.t.Fatal(err)
		}
		owners = append(owners, o)
		return ep
	}
	post := func(path string, fields map[string]any) string {
		var made struct{ ID string }
		if err := node.API(w.ctx, http.MethodPost, path, fields, &made); err != nil {
			w.t.Fatal(err)
		}
		return made.ID
	}
	for i := range 20 {
		f.endpoints = append(f.endpoints, add(f.tenants[i%2], fmt.Sprint("full ", i), map[string]any{}))
	}
	for _, tenant := range f.tenants {
		of := "?tenant_id=" + tenant
		source := post("/v1/sources"+of, map[string]any{"name": "shop"})
		f.sources = append(f.sources, source)
		f.served = append(f.served, add(tenant, "served", map[string]any{"subscriptions": []any{map[string]any{"source": source}}}))
		if owners[len(owners)-1].source, err = kapsel.ParseSourceID(source); err != nil {
			w.t.Fatal(err)
		}
		app := post("/v1/apps"+of, map[string]any{"name": "customer"})
		f.apps = append(f.apps, app)
		f.customers = append(f.customers, add(tenant, "customer", map[string]any{"app": app, "subscriptions": []any{map[string]any{"source": "publish"}}}))
		if owners[len(owners)-1].app, err = kapsel.ParseAppID(app); err != nil {
			w.t.Fatal(err)
		}
	}
	return f, owners
}

// fill puts a million events with their deliveries and attempts into the store of a world,
// past its node, which is stopped meanwhile. Of a hundred, 89 are delivered, 5 dead letters,
// 3 failed, 1 waits for its retry and 2 for their first attempt; of the dead letters 1,000 are
// replayed and 1,000 of what waits is canceled. Of twelve, ten came in at an endpoint, one at a source, and
// one was published.
func (w *world) fill() filled {
	w.t.Helper()
	node := w.nodes[0]
	f, owners := w.owners()
	if err := node.Term(); err != nil {
		w.t.Fatal(err)
	}
	<-node.Done()

	var s store.Store
	var err error
	database := node.Env("DATABASE_URL")
	if path, ok := strings.CutPrefix(database, "sqlite:"); ok {
		s, err = sqlite.Open(w.ctx, path, sqlite.Options{})
	} else {
		s, err = postgres.Open(w.ctx, database, postgres.Options{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	loader := kapsel.NewNodeID(time.Now())
	if err := s.Join(w.ctx, loader, time.Now(), time.Hour); err != nil {
		w.t.Fatal(err)
	}
	body := []byte(`{"type":"order.paid","data":{"amount":"` + strings.Repeat("1", 200) + `"}}`)
	kindOf := func(i int) int { return i / len(owners) % 100 }
	tried := func(i int) bool { return kindOf(i) >= 2 }
	one := func(i int) error {
		o, at := owners[i%len(owners)], f.from.Add(millionSpan/million*time.Duration(i))
		kind, tenth := kindOf(i), i/len(owners)/100%10 == 0
		e := o.event(at)
		e.ContentType, e.Body, e.Size = "application/json", body, len(body)
		e.Header = kapsel.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "User-Agent", Value: "shop/1"}}
		e.IdempotencyKey, e.Signature = fmt.Appendf(nil, "order-%d", i), kapsel.SignatureVerdict{Scheme: "none"}
		switch e.Type = commonType; {
		case kind%10 == 9:
			e.Type = otherType
		case i%len(owners) < 2 && kind/10 == 5:
			e.Type = ownType
		}
		in, part := store.Acceptance{Window: 2 * millionSpan, Event: e}, e.ID.Part()
		d := kapsel.Delivery{
			ID: kapsel.NewDeliveryID(at, part), EventID: e.ID, EndpointID: o.endpoint, TenantID: o.tenant, DueAt: at, Size: len(body), CreatedAt: at,
		}
		answer := kapsel.Answer{Status: 200}
		switch {
		case !tried(i):
			in.Deliveries = []kapsel.Delivery{d}
			_, err := s.Accept(w.ctx, in)
			if err == nil && kind == 0 && tenth {
				_, err = s.MoveDelivery(w.ctx, o.tenant, d.ID, kapsel.Cancel{}, at)
			}
			return err
		case kind < 5:
			answer = kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError}
		case kind < 10:
			answer = kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, Retry: true, MaxAttempts: 1}
		case kind < 11:
			answer = kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, Retry: true, Delay: millionSpan, MaxAttempts: 20}
		}
		held, err := d.After(kapsel.Claim{Node: loader, Token: kapsel.NewAttemptID(at, part)}, at)
		if err != nil {
			return err
		}
		in.Deliveries = []kapsel.Delivery{held}
		if _, err := s.Accept(w.ctx, in); err != nil {
			return err
		}
		done := store.Completion{Attempt: kapsel.Attempt{
			ID: held.Token, DeliveryID: d.ID, EventID: in.Event.ID, EndpointID: o.endpoint, TenantID: o.tenant, Number: 1,
			StartedAt: at, Duration: 20 * time.Millisecond, StatusCode: answer.Status, ErrorCode: answer.Code,
		}}
		if done.Delivery, err = held.After(answer, at); err != nil {
			return err
		}
		if err := s.Complete(w.ctx, done); err != nil || kind != 5 || !tenth {
			return err
		}
		_, err = s.Replay(w.ctx, o.tenant, in.Event.ID, kapsel.DeliveryID{}, at)
		return err
	}
	for i := range million {
		if tried(i) {
			f.attempts[slices.Index(f.tenants, owners[i%len(owners)].tenant.String())]++
		}
	}
	begin := time.Now()
	var next atomic.Int64
	var all errgroup.Group
	for range 1024 {
		all.Go(func() error {
			for i := next.Add(1) - 1; i < million; i = next.Add(1) - 1 {
				if err := one(int(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("filled in %v", time.Since(begin).Round(time.Second))
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
	if err := node.Start(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// listed is one page of a list.
type listed struct {
	Data []struct {
		ID string `json:"id"`
	} `json:"data"`
}

// bulkReads lists, gets and searches among a million events, and lets ten clients page through
// all of it while events come in.
func bulkReads(t *testing.T, name, database string) {
	w := perfWorld(t, database)
	f := w.fill()
	w.proofs(name, f)
	w.pages(name, f)
	node := w.nodes[0]
	since := func() string { return f.within(0).Format(time.RFC3339) }
	endpoint := func() string { return f.endpoints[2*rand.N(10)].ID } // of the first tenant
	key := func() string { return fmt.Sprintf("order-%d", rand.N(million)) }
	tenant := "tenant_id=" + w.tenant
	queries := map[string]func() string{
		"events: newest":                 func() string { return "/v1/events?" + tenant },
		"events: of all tenants":         func() string { return "/v1/events?limit=200" },
		"events: of an endpoint":         func() string { return "/v1/events?" + tenant + "&endpoint_id=" + endpoint() },
		"events: by key":                 func() string { return "/v1/events?" + tenant + "&idempotency_key=" + key() },
		"events: by key, of all tenants": func() string { return "/v1/events?idempotency_key=" + key() },
		"events: by a key that none has": func() string { return "/v1/events?" + tenant + "&idempotency_key=none-" + key() },
		"events: by key and endpoint": func() string {
			return "/v1/events?" + tenant + "&idempotency_key=" + key() + "&endpoint_id=" + endpoint()
		},
		"events: before a time":              func() string { return "/v1/events?" + tenant + "&until=" + since() },
		"events: dead letters before a time": func() string { return "/v1/events?" + tenant + "&status=dead_letter&until=" + since() },
		"events: failed of an endpoint":      func() string { return "/v1/events?" + tenant + "&status=failed&endpoint_id=" + endpoint() },
		"events: of an hour, of an endpoint": func() string { return "/v1/events?" + tenant + "&endpoint_id=" + endpoint() + "&" + f.hour() },
		"events: of an hour, delivered":      func() string { return "/v1/events?" + tenant + "&status=delivered&" + f.hour() },
		"deliveries: newest":                 func() string { return "/v1/deliveries?" + tenant },
		"deliveries: of all tenants":         func() string { return "/v1/deliveries?limit=200" },
		"deliveries: of an endpoint":         func() string { return "/v1/deliveries?" + tenant + "&endpoint_id=" + endpoint() },
		"deliveries: dead letters to replay": func() string { return "/v1/deliveries?" + tenant + "&status=dead_letter&replayed=false" },
		"deliveries: replayed":               func() string { return "/v1/deliveries?" + tenant + "&replayed=true" },
		"deliveries: failed of an endpoint":  func() string { return "/v1/deliveries?" + tenant + "&status=failed&endpoint_id=" + endpoint() },
	}
	for _, status := range []string{"received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled"} {
		queries["events: "+status] = func() string { return "/v1/events?" + tenant + "&status=" + status }
		if status != "received" {
			queries["deliveries: "+status] = func() string { return "/v1/deliveries?" + tenant + "&status=" + status }
		}
	}
	var got listed
	if err := node.API(w.ctx, http.MethodGet, "/v1/events?limit=200&"+tenant+"&until="+since(), nil, &got); err != nil {
		t.Fatal(err)
	}
	someEvent := func() string { return got.Data[rand.N(len(got.Data))].ID }
	var deliveries listed
	if err := node.API(w.ctx, http.MethodGet, "/v1/deliveries?limit=200&status=failed&"+tenant, nil, &deliveries); err != nil {
		t.Fatal(err)
	}
	someDelivery := func() string { return deliveries.Data[rand.N(len(deliveries.Data))].ID }
	queries["event: get"] = func() string { return "/v1/events/" + someEvent() }
	queries["event: payload"] = func() string { return "/v1/events/" + someEvent() + "/payload" }
	queries["delivery: get"] = func() string { return "/v1/deliveries/" + someDelivery() }
	queries["delivery: attempts"] = func() string { return "/v1/deliveries/" + someDelivery() + "/attempts" }

	slowest, names := map[string]time.Duration{}, []string{}
	for q, path := range queries {
		took := make([]time.Duration, 0, 200)
		for range cap(took) {
			begin := time.Now()
			if err := w.read(path()); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slowest[q], names = p99(took), append(names, q)
	}
	slices.SortFunc(names, func(a, b string) int { return int(slowest[b] - slowest[a]) })
	for _, q := range names {
		t.Logf("%-40s p99 %v", q, slowest[q].Round(100*time.Microsecond))
	}
	worst := names[0]
	check(t, slowest[worst] < 100*time.Millisecond, name+", a million events: slowest read p99", fmt.Sprintf("%v (%s)", slowest[worst].Round(100*time.Microsecond), worst), "< 100 ms")

	var pages []time.Duration
	deep, err := w.pageThrough(w.ctx, "/v1/events?limit=200&"+tenant, 1000, func(d time.Duration) { pages = append(pages, d) })
	if err != nil {
		t.Fatal(err)
	}
	check(t, p99(pages) < 100*time.Millisecond, name+fmt.Sprintf(", %d pages of 200: p99", deep), p99(pages).Round(100*time.Microsecond).String(), "< 100 ms")

	// Ingest alone, and beside ten clients that page through everything.
	ep, err := node.CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "busy", "url": w.sink.URL(0)})
	if err != nil {
		t.Fatal(err)
	}
	steady := harness.LoadConfig{URLs: []string{ep.IngestURL}, Rate: 500, Events: 10_000, Connections: 64, Sink: w.sink}
	alone := w.load(steady)
	ctx, cancel := context.WithCancel(w.ctx)
	var readers errgroup.Group
	var read atomic.Int64
	for i := range 10 {
		path := []string{"/v1/events?limit=200", "/v1/deliveries?limit=200"}[i%2] + "&tenant_id=" + f.tenants[i/2%2]
		readers.Go(func() error {
			for ctx.Err() == nil {
				if _, err := w.pageThrough(ctx, path, million, func(time.Duration) { read.Add(1) }); err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		})
	}
	beside := w.load(steady)
	cancel()
	if err := readers.Wait(); err != nil {
		t.Error(err)
	}
	limit := max(3*alone.AckMS.P99, 100)
	check(t, beside.AckMS.P99 < limit && beside.Lost == 0, name+", 500/s beside ten clients that read everything: acknowledgement p99",
		fmt.Sprintf("%.1f ms (alone %.1f ms; %d pages read)", beside.AckMS.P99, alone.AckMS.P99, read.Load()), fmt.Sprintf("< %.0f ms", limit))
}

// proofs waits until all attempts are leaves of the audit logs under a head, and measures the proofs of
// attempts, and a start.
func (w *world) proofs(name string, f filled) {
	w.t.Helper()
	node := w.nodes[0]
	begin := time.Now()
	for i, tenant := range f.tenants {
		eventually(w.t, "the audit log of a filled tenant is published", 5*time.Minute, func() bool {
			var log struct {
				Size int64 `json:"size"`
				Head *struct {
					Size int64 `json:"tree_size"`
				} `json:"head"`
			}
			if err := node.API(w.ctx, http.MethodGet, "/v1/attestation?tenant_id="+tenant, nil, &log); err != nil {
				w.t.Fatal(err)
			}
			return log.Size >= f.attempts[i] && log.Head != nil && log.Head.Size == log.Size
		})
	}
	w.t.Logf("the audit logs are published after %v", time.Since(begin).Round(time.Second))

	var deliveries listed
	if err := node.API(w.ctx, http.MethodGet, "/v1/deliveries?limit=200&status=delivered&tenant_id="+w.tenant, nil, &deliveries); err != nil {
		w.t.Fatal(err)
	}
	var took []time.Duration
	for _, d := range deliveries.Data {
		var attempts listed
		if err := node.API(w.ctx, http.MethodGet, "/v1/deliveries/"+d.ID+"/attempts", nil, &attempts); err != nil {
			w.t.Fatal(err)
		}
		begin := time.Now()
		if err := w.read("/v1/attempts/" + attempts.Data[0].ID + "/proof"); err != nil {
			w.t.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	check(w.t, p99(took) < 50*time.Millisecond, name+", a million leaves: proof p99", p99(took).Round(100*time.Microsecond).String(), "< 50 ms")

	if err := node.Term(); err != nil {
		w.t.Fatal(err)
	}
	<-node.Done()
	begin = time.Now()
	if err := node.Start(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	start := time.Since(begin)
	check(w.t, start < 10*time.Second, name+", a million leaves: ready", start.Round(time.Millisecond).String(), "< 10 s")
}

// within returns a random time of the million events, which is followed by more of them for at least a span.
func (f filled) within(span time.Duration) time.Time {
	return f.from.Add(time.Hour + rand.N(millionSpan-time.Hour-span))
}

// hour returns the parameters of a list that give it a random hour.
func (f filled) hour() string {
	from := f.within(time.Hour)
	return "since=" + from.Format(time.RFC3339) + "&until=" + from.Add(time.Hour).Format(time.RFC3339)
}

// p99 returns the 99th percentile.
func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// read gets a path of the management API and discards the answer.
func (w *world) read(path string) error {
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, w.nodes[0].URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.nodes[0].AdminKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, body)
	}
	return err
}

// pageThrough reads up to n pages of a list, and says after each how long it took.
func (w *world) pageThrough(ctx context.Context, path string, n int, took func(time.Duration)) (pages int, err error) {
	for cursor := ""; pages < n; pages++ {
		var got struct {
			Data       []json.RawMessage `json:"data"`
			NextCursor *string           `json:"next_cursor"`
		}
		begin := time.Now()
		if err := w.nodes[0].API(ctx, http.MethodGet, path+cursor, nil, &got); err != nil {
			return pages, err
		}
		took(time.Since(begin))
		if got.NextCursor == nil {
			return pages + 1, nil
		}
		cursor = "&cursor=" + url.QueryEscape(*got.NextCursor)
	}
	return pages, nil
}
