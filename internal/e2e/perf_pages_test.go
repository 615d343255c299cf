//go:build perf

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/harness"
)

// browsing is a browser without scripts in which somebody is signed in.
type browsing struct {
	client *http.Client
	origin string
}

// enter sends the form that begins a session: at the dashboard with a key, at the portal with a link's token.
func (w *world) enter(path, field, value string) browsing {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	b := browsing{&http.Client{Jar: jar, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}, w.nodes[0].URL}
	w.t.Cleanup(b.client.CloseIdleConnections)
	req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, b.origin+path, strings.NewReader(url.Values{field: {value}}.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", b.origin)
	resp, err := b.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("POST %s: %s", path, resp.Status)
	}
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

// signIn signs in with a key.
func (w *world) signIn(key string) browsing { return w.enter("/sign-in", "key", key) }

// keyOf makes a key of a tenant.
func (w *world) keyOf(tenant string) string {
	w.t.Helper()
	var made struct{ Secret string }
	if err := w.nodes[0].API(w.ctx, http.MethodPost, "/v1/tenants/"+tenant+"/keys", map[string]any{"name": "pages", "scope": "write"}, &made); err != nil {
		w.t.Fatal(err)
	}
	return made.Secret
}

// visitPortal opens a portal link of the first tenant: of one app, or for "" of all.
func (w *world) visitPortal(app string) browsing {
	w.t.Helper()
	fields := map[string]any{"mode": "manage"}
	if app != "" {
		fields["app"] = app
	}
	var made struct{ URL string }
	if err := w.nodes[0].API(w.ctx, http.MethodPost, "/v1/portal-links?tenant_id="+w.tenant, fields, &made); err != nil {
		w.t.Fatal(err)
	}
	at, err := url.Parse(made.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.enter(at.Path, "token", at.Fragment)
}

// open asks for a page and returns the answer, which callers must close.
func (b browsing) open(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.origin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := b.client.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s %s", path, resp.Status, text)
	}
	return resp, err
}

// read reads a page to its end.
func (b browsing) read(ctx context.Context, path string) error {
	resp, err := b.open(ctx, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// pages reads each page of the dashboard and of the portal many times among a million events.
func (w *world) pages(name string, f filled) {
	t, node := w.t, w.nodes[0]
	t.Helper()
	const tenant = 0 // in filled, whose key and customers read
	tenantPages, adminPages, appPages, portalPages := map[string]func() string{}, map[string]func() string{}, map[string]func() string{}, map[string]func() string{}

	endpoint := func() string { return f.endpoints[2*rand.N(10)].ID }
	lists := map[string]func() string{
		"newest":                                     func() string { return "" },
		"an older page":                              func() string { return "until=" + f.within(0).Format(time.RFC3339) },
		"of an endpoint":                             func() string { return "endpoint=" + endpoint() },
		"of a source's endpoint":                     func() string { return "endpoint=" + f.served[tenant].ID },
		"of a source":                                func() string { return "source=" + f.sources[tenant] },
		"of an app":                                  func() string { return "app=" + f.apps[tenant] },
		"of a common type":                           func() string { return "type=" + commonType },
		"of another type":                            func() string { return "type=" + otherType },
		"of an endpoint's own type":                  func() string { return "type=" + ownType },
		"of a type that none has":                    func() string { return "type=none" },
		"by key":                                     func() string { return fmt.Sprintf("q=order-%d", rand.N(million)) },
		"by a key that none has":                     func() string { return fmt.Sprintf("q=none-%d", rand.N(million)) },
		"by key, of an endpoint":                     func() string { return fmt.Sprintf("q=order-%d&endpoint=%s", rand.N(million), endpoint()) },
		"of the last day":                            func() string { return "since=24h" },
		"of an hour":                                 func() string { return f.hour() },
		"of an hour, delivered":                      func() string { return f.hour() + "&status=delivered" },
		"of an hour, dead letters":                   func() string { return f.hour() + "&status=dead_letter" },
		"of an hour, of an endpoint":                 func() string { return f.hour() + "&endpoint=" + endpoint() },
		"of an hour, of a type":                      func() string { return f.hour() + "&type=" + otherType },
		"of an app, dead letters":                    func() string { return "status=dead_letter&app=" + f.apps[tenant] },
		"of an app, canceled":                        func() string { return "status=canceled&app=" + f.apps[tenant] },
		"of an app, pending":                         func() string { return "status=pending&app=" + f.apps[tenant] },
		"of an app, unmatched":                       func() string { return "status=unmatched&app=" + f.apps[tenant] },
		"of a source, dead letters":                  func() string { return "status=dead_letter&source=" + f.sources[tenant] },
		"of a source, canceled":                      func() string { return "status=canceled&source=" + f.sources[tenant] },
		"of a source, pending":                       func() string { return "status=pending&source=" + f.sources[tenant] },
		"of a source, unmatched":                     func() string { return "status=unmatched&source=" + f.sources[tenant] },
		"of a source, of an endpoint that has none":  func() string { return "source=" + f.sources[tenant] + "&endpoint=" + endpoint() },
		"of an app, of an endpoint that has none":    func() string { return "app=" + f.apps[tenant] + "&endpoint=" + endpoint() },
		"of a type, dead letters":                    func() string { return "status=dead_letter&type=" + otherType },
		"of a type, pending":                         func() string { return "status=pending&type=" + otherType },
		"of a type that all got, dead letters":       func() string { return "status=dead_letter&type=" + ownType },
		"of a type that all got, pending":            func() string { return "status=pending&type=" + ownType },
		"of a type that all got, received":           func() string { return "status=received&type=" + ownType },
		"of a type, of an endpoint":                  func() string { return "type=" + otherType + "&endpoint=" + endpoint() },
		"of a type, of an endpoint that has none":    func() string { return "type=" + ownType + "&endpoint=" + f.endpoints[2+2*rand.N(9)].ID },
		"of a type, of a source that has none":       func() string { return "type=" + ownType + "&source=" + f.sources[tenant] },
		"of a type, of an app that has none":         func() string { return "type=" + ownType + "&app=" + f.apps[tenant] },
		"of a type, an endpoint, a status; all bare": func() string { return "status=failed&type=" + ownType + "&endpoint=" + f.endpoints[2].ID },
	}
	for _, status := range []string{"received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled", "unmatched"} {
		lists[status] = func() string { return "status=" + status }
		lists[status+", of an endpoint"] = func() string { return "status=" + status + "&endpoint=" + endpoint() }
	}
	for what, query := range lists {
		tenantPages["events: "+what] = func() string { return "/events?" + query() }
		if !strings.Contains(what, "app") {
			adminPages["all tenants' events: "+what] = tenantPages["events: "+what]
		}
	}
	some := func(path string) func() string {
		var got listed
		if err := node.API(w.ctx, http.MethodGet, path, nil, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Data) == 0 {
			t.Fatalf("%s is empty", path)
		}
		return func() string { return got.Data[rand.N(len(got.Data))].ID }
	}
	events := some("/v1/events?limit=200&tenant_id=" + w.tenant + "&until=" + f.within(0).Format(time.RFC3339))
	published := some("/v1/events?limit=200&tenant_id=" + w.tenant + "&endpoint_id=" + f.customers[tenant].ID)
	for what, page := range map[string]func() string{
		"overview":                       func() string { return "/" },
		"endpoints":                      func() string { return "/endpoints" },
		"endpoint":                       func() string { return "/endpoints/" + endpoint() },
		"endpoint of a source":           func() string { return "/endpoints/" + f.served[tenant].ID },
		"edit an endpoint":               func() string { return "/endpoints/" + endpoint() + "/edit" },
		"event":                          func() string { return "/events/" + events() },
		"sources":                        func() string { return "/sources" },
		"source":                         func() string { return "/sources/" + f.sources[tenant] },
		"apps":                           func() string { return "/apps" },
		"app":                            func() string { return "/apps/" + f.apps[tenant] },
		"event types":                    func() string { return "/event-types" },
		"undelivered":                    func() string { return "/undelivered" },
		"undelivered for a month":        func() string { return "/undelivered?since=720h" },
		"undelivered, of an endpoint":    func() string { return "/undelivered?since=720h&endpoint=" + endpoint() },
		"dead letters":                   func() string { return "/dead-letters" },
		"dead letters of an endpoint":    func() string { return "/dead-letters?endpoint=" + endpoint() },
		"dead letters of a cause":        func() string { return "/dead-letters?cause=none" },
		"refused deliveries":             func() string { return "/dead-letters?status=failed" },
		"replays":                        func() string { return "/replays" },
		"usage":                          func() string { return "/usage" },
		"usage of a year":                func() string { return "/usage?days=365" },
		"changes":                        func() string { return "/changes" },
		"subscriptions":                  func() string { return "/subscriptions" },
		"keys":                           func() string { return "/keys" },
		"sessions":                       func() string { return "/sessions" },
		"replay of an endpoint, asked":   func() string { return "/replays/new?since=720h&endpoint=" + endpoint() },
		"replay of a day, asked":         func() string { return "/replays/new?since=24h" },
		"replay of what it missed":       func() string { return "/replays/new?statuses=missing&since=24h&endpoint=" + endpoint() },
		"replay of all, asked":           func() string { return "/replays/new?since=720h" },
		"connect a provider":             func() string { return "/providers" },
		"dead letters, the page of both": func() string { return "/dead-letters?status=failed&endpoint=" + endpoint() },
	} {
		tenantPages[what] = page
	}
	for what, path := range map[string]string{"overview": "/", "endpoints": "/endpoints", "undelivered": "/undelivered", "dead letters": "/dead-letters", "usage": "/usage", "changes": "/changes", "tenants": "/tenants"} {
		adminPages["all tenants': "+what] = func() string { return path }
	}
	portal := func(pages map[string]func() string, what string, of, event func() string) {
		pages["portal"+what] = func() string { return "/portal" }
		pages["portal"+what+": endpoint"] = func() string { return "/portal/endpoints/" + of() }
		pages["portal"+what+": event"] = func() string { return "/portal/events/" + event() }
		for _, status := range []string{"", "pending", "delivered", "failed", "dead_letter"} {
			pages["portal"+what+": events "+status] = func() string { return "/portal/events?status=" + status }
			pages["portal"+what+": events of an endpoint "+status] = func() string { return "/portal/events?status=" + status + "&endpoint=" + of() }
		}
	}
	portal(portalPages, "", endpoint, events)
	portal(appPages, " of an app", func() string { return f.customers[tenant].ID }, published)

	reads := 200
	if testing.Short() {
		reads = 5
	}
	slowest, usual, names := map[string]time.Duration{}, map[string]time.Duration{}, []string{}
	for _, as := range []struct {
		browsing
		pages map[string]func() string
	}{
		{w.signIn(w.keyOf(w.tenant)), tenantPages}, {w.signIn(node.AdminKey), adminPages},
		{w.visitPortal(""), portalPages}, {w.visitPortal(f.apps[tenant]), appPages},
	} {
		for page, path := range as.pages {
			took := make([]time.Duration, 0, reads)
			for first := time.Now(); len(took) < reads && time.Since(first) < 10*time.Second; { // the slowest of few is as good as a p99
				begin := time.Now()
				if err := as.read(w.ctx, path()); err != nil {
					t.Fatalf("%s: %v", page, err)
				}
				took = append(took, time.Since(begin))
			}
			slowest[page], usual[page], names = p99(took), took[len(took)/2], append(names, page)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return int(slowest[b] - slowest[a]) })
	for _, page := range names {
		t.Logf("page: %-60s p99 %v, median %v", page, slowest[page].Round(100*time.Microsecond), usual[page].Round(100*time.Microsecond))
	}
	const limit = 100 * time.Millisecond
	worst, over := names[0], 0
	for _, page := range names {
		if slowest[page] >= limit {
			over++
		}
	}
	check(t, over == 0, fmt.Sprintf("%s, a million events: slowest of %d pages p99", name, len(names)),
		fmt.Sprintf("%v (%s; %d are outside)", slowest[worst].Round(100*time.Microsecond), worst, over), "< 100 ms")
}

// liveSeen is what a reader of a live list has seen.
type liveSeen struct {
	shown  int                      // rows
	twice  int                      // rows that were there before
	late   map[string]time.Duration // from when an event came in until its row was there, by its ID
	missed string                   // the newest words about events that are not shown
}

var (
	shownRow = regexp.MustCompile(`<tr id="(evt_[0-9a-z]+)"`)
	howMany  = regexp.MustCompile(`([0-9\x{202f}]+) more event`)
)

// left returns how many events the list says it has left out, and whether there may be more.
func (s *liveSeen) left() (n int, more bool) {
	if m := howMany.FindStringSubmatch(s.missed); m != nil {
		n, _ = strconv.Atoi(strings.ReplaceAll(m[1], "\u202f", ""))
	}
	return n, strings.Contains(s.missed, "At least") || strings.Contains(s.missed, "may be missing")
}

// readLive reads a live list of events, which has begun, until it ends.
func readLive(resp *http.Response) (*liveSeen, error) {
	s := &liveSeen{late: map[string]time.Duration{}}
	defer resp.Body.Close()
	event, lines := "", bufio.NewScanner(resp.Body)
	for lines.Buffer(nil, 1<<20); lines.Scan(); {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(line, "data: ")
		switch {
		case !ok:
		case event == "skipped":
			s.missed = data
		case event == "signed-out":
			return nil, errors.New("the session ended")
		case event == "rows":
			for _, m := range shownRow.FindAllStringSubmatch(data, -1) {
				id, err := kapsel.ParseEventID(m[1])
				if err != nil {
					return nil, err
				}
				if s.shown++; s.late[m[1]] > 0 {
					s.twice++
				}
				s.late[m[1]] = time.Since(id.Time())
			}
		}
	}
	return s, nil
}

// dashboards are browsers in which somebody is signed in. No tenant may have all streams of a node, so half are a
// tenant's and half the operator's.
func (w *world) dashboards() (readers []browsing) {
	w.t.Helper()
	key := w.keyOf(w.tenant)
	for i := range 10 {
		readers = append(readers, w.signIn([]string{key, w.nodes[0].AdminKey}[i%2]))
	}
	return readers
}

// openLive keeps n live pages open, overviews and lists of events in equal numbers, and returns what closes them.
func (w *world) openLive(readers []browsing, n int) (closeAll func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	var all errgroup.Group
	for i := range n {
		reader, path := readers[i%len(readers)], []string{"/live/overview", "/live/events"}[i/len(readers)%2]
		var resp *http.Response
		eventually(w.t, "a live page opens", time.Minute, func() bool { // those that were closed may still count
			var err error
			resp, err = reader.open(ctx, path)
			return err == nil
		})
		all.Go(func() error {
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); ctx.Err() == nil {
				return fmt.Errorf("a live page ended: %v", err)
			}
			return nil
		})
	}
	return func() {
		w.t.Helper()
		cancel()
		if err := all.Wait(); err != nil {
			w.t.Error(err)
		}
	}
}

var heapAlloc = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

// heap returns the bytes that are alive in the node's memory, after a collection.
func (w *world) heap() int64 {
	w.t.Helper()
	resp, err := http.Get(w.nodes[0].Metrics + "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	m := heapAlloc.FindSubmatch(text)
	if err != nil || m == nil {
		w.t.Fatalf("the node's heap: %s %.200s, %v", resp.Status, text, err)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// liveList lets one reader, then ten, follow the list of events while 1,000 events a second come in.
func liveList(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "live", "url": w.sink.URL(0)})
	if err != nil {
		t.Fatal(err)
	}
	const rate = 1000
	span := time.Minute
	if testing.Short() {
		span = 10 * time.Second
	}
	w.load(harness.LoadConfig{URLs: []string{ep.IngestURL}, Rate: rate, Duration: 2 * time.Second, Connections: 64, Sink: w.sink}) // to warm up
	for _, readers := range []int{1, 10} {
		name := fmt.Sprintf("%s, live list of %d beside %d/s for %v: ", store, readers, rate, span)
		ctx, cancel := context.WithCancel(w.ctx)
		seen := make([]*liveSeen, readers)
		var all errgroup.Group
		b := w.signIn(w.keyOf(w.tenant))
		for i := range readers {
			resp, err := b.open(ctx, "/live/events")
			if err != nil {
				t.Fatal(err)
			}
			all.Go(func() (err error) {
				seen[i], err = readLive(resp)
				return err
			})
		}
		heaps := make(chan []int64)
		go func() {
			at := []int64{}
			for range 3 { // at a tenth, in the middle, and at the end
				time.Sleep([]time.Duration{span / 10, span * 4 / 10, span * 4 / 10}[len(at)])
				at = append(at, w.heap())
			}
			heaps <- at
		}()
		r := w.load(harness.LoadConfig{URLs: []string{ep.IngestURL}, Rate: rate, Duration: span, Connections: 64, Sink: w.sink})
		at := <-heaps
		time.Sleep(3 * time.Second) // for what the list has not shown yet
		cancel()
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		fewest, twice, wrong := math.MaxInt, 0, 0
		var late []time.Duration
		for _, s := range seen {
			fewest, twice = min(fewest, s.shown), twice+s.twice
			late = slices.AppendSeq(late, maps.Values(s.late))
			if n, more := s.left(); s.shown+n > r.Acked || s.shown+n < r.Acked && !more {
				t.Logf("%d shown, %q, of %d", s.shown, s.missed, r.Acked)
				wrong++
			}
		}
		const least = 10 // rows a second, of the 20 that a list shows at most
		check(t, fewest >= least*int(span.Seconds()), name+"rows shown to each", fmt.Sprint(fewest), fmt.Sprintf(">= %d", least*int(span.Seconds())))
		check(t, p99(late) < 3*time.Second, name+"from the event to its row p99", p99(late).Round(time.Millisecond).String(), "< 3 s")
		check(t, twice == 0 && wrong == 0, name+"rows shown twice, readers told a wrong number", fmt.Sprintf("%d, %d", twice, wrong), "0, 0")
		check(t, at[2]-at[0] < 8<<20, name+"heap at a tenth, the middle, the end", fmt.Sprintf("%.1f, %.1f, %.1f MiB", float64(at[0])/(1<<20), float64(at[1])/(1<<20), float64(at[2])/(1<<20)), "< 8 MiB more")
	}
	peak, err := w.nodes[0].PeakRSS()
	if err != nil {
		t.Fatal(err)
	}
	check(t, peak < 300<<20, store+", live lists: peak memory", fmt.Sprintf("%d MiB", peak>>20), "< 300 MiB")
}

// dashboardsBeside measures ingest with no live page and with a hundred, in turn.
func dashboardsBeside(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "watched", "url": w.sink.URL(0)})
	if err != nil {
		t.Fatal(err)
	}
	turns, load := 20, harness.LoadConfig{URLs: []string{ep.IngestURL}, Events: 20_000, Connections: 128, Sink: w.sink}
	if testing.Short() {
		turns, load.Events = 3, 10_000
	}
	w.load(load) // to warm up
	readers := w.dashboards()
	var none, hundred, shares []float64
	for i := range turns {
		with := func() {
			closeAll := w.openLive(readers, 100)
			defer closeAll()
			hundred = append(hundred, w.load(load).AckPerS)
		}
		without := func() { none = append(none, w.load(load).AckPerS) }
		if i%2 == 0 { // so that neither always has the better minute
			without()
			with()
		} else {
			with()
			without()
		}
		shares = append(shares, hundred[i]/none[i])
	}
	for _, x := range [][]float64{none, hundred, shares} {
		slices.Sort(x)
	}
	check(t, median(shares) >= 0.95, store+", 100 open dashboards: ingest beside none",
		fmt.Sprintf("%.3f (%.3f to %.3f; %.0f/s, none %.0f/s)", median(shares), shares[0], shares[len(shares)-1], median(hundred), median(none)), ">= 0.95")
}
