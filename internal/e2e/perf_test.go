//go:build perf

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/kapsel-hq/kapsel/internal/bench"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// These measure: every promise with a number of milliseconds, events a second or bytes. They
// print a table of what was seen against its limit, and fail outside it. Figures mean
// something on a quiet machine only.

// row is one line of the table.
type row struct {
	what, saw, limit string
	ok               bool
}

var table struct {
	sync.Mutex
	rows []row
}

// check adds a row to the table; a row that is not ok fails the test.
func check(t *testing.T, ok bool, what, saw, limit string) {
	t.Helper()
	table.Lock()
	defer table.Unlock()
	table.rows = append(table.rows, row{what, saw, limit, ok})
	if !ok {
		t.Errorf("%s: %s, limit %s", what, saw, limit)
	}
}

// TestPerf checks that neither secrets nor blocked destinations can be told apart by time, and
// every other promise with a number holds. It runs all measurements and prints their table
// (B-72 and B-98 among them).
func TestPerf(t *testing.T) {
	defer printTable()
	t.Run("side channels", sideChannels)
	stores := []struct {
		name string
		url  func(t *testing.T) string
	}{
		{"sqlite", func(*testing.T) string { return "" }},
		{"postgres", func(t *testing.T) string { return pgtest.New(t) }},
	}
	for _, s := range stores {
		t.Run(s.name, func(t *testing.T) {
			for _, endpoints := range []int{1, 100} {
				t.Run(fmt.Sprintf("closed-%d", endpoints), func(t *testing.T) { closedLoop(t, s.name, s.url(t), 128, endpoints, false) })
			}
			t.Run("closed-keys", func(t *testing.T) { closedLoop(t, s.name, s.url(t), 128, 1, true) })
			for _, connections := range []int{32, 64, 256} {
				t.Run(fmt.Sprintf("closed-by-%d", connections), func(t *testing.T) { closedLoop(t, s.name, s.url(t), connections, 1, false) })
			}
			t.Run("destinations", func(t *testing.T) { manyDestinations(t, s.name, s.url(t)) })
			t.Run("publish", func(t *testing.T) { publishing(t, s.name, s.url(t)) })
			t.Run("ledger", func(t *testing.T) { ledgerCost(t, s.name, s.url) })
			t.Run("open", func(t *testing.T) { openLoop(t, s.name, s.url(t)) })
			t.Run("dead", func(t *testing.T) { deadEndpoints(t, s.name, s.url(t)) })
			t.Run("huge", func(t *testing.T) { hugeTenant(t, s.name, s.url(t)) })
			t.Run("restart", func(t *testing.T) { backlogRestart(t, s.name, s.url(t)) })
			t.Run("million", func(t *testing.T) { bulkReads(t, s.name, s.url(t)) })
			t.Run("live", func(t *testing.T) { liveList(t, s.name, s.url(t)) })
			t.Run("dashboards", func(t *testing.T) { dashboardsBeside(t, s.name, s.url(t)) })
			t.Run("flood", func(t *testing.T) { flood(t, s.name, s.url(t)) })
			t.Run("bodies", func(t *testing.T) { largeBodies(t, s.name, s.url(t)) })
		})
	}
	t.Run("limits", func(t *testing.T) { sharedLimit(t, pgtest.New(t)) })
}

func printTable() {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nmeasured\tsaw\tlimit\t")
	for _, r := range table.rows {
		verdict := "ok"
		if !r.ok {
			verdict = "OUTSIDE"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.what, r.saw, r.limit, verdict)
	}
	w.Flush()
}

func compare(t *testing.T, plan bench.Plan) (bench.Report, bench.Target) {
	t.Helper()
	plan.Bin, plan.Dir, plan.SinkAddr, plan.SinkMode = program(t), t.TempDir(), "127.0.0.1:0", harness.OK
	plan.Load.Size, plan.Load.Drain = 1024, 30*time.Second
	report, err := bench.Compare(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	return report, report.Targets[len(report.Targets)-1]
}

// closedLoop measures what Kapsel can do beside the relay, as the median of three rounds.
func closedLoop(t *testing.T, store, database string, connections, endpoints int, keys bool) {
	report, kapsel := compare(t, bench.Plan{
		Load:  harness.LoadConfig{Events: 60_000, Connections: connections, Keys: keys},
		Relay: true, Runs: 3, Database: database, Endpoints: endpoints,
	})
	name, limit := fmt.Sprintf("%s, closed loop by %d, %d endpoints", store, connections, endpoints), 0.5
	if keys {
		name, limit = name+", keys", 0.4
	}
	var rate []string
	peak := 0.0
	for _, r := range kapsel.Runs {
		rate = append(rate, fmt.Sprintf("%.0f", r.DeliveredPerS))
		peak = max(peak, r.PeakRSSMiB)
	}
	check(t, report.Ratio >= limit, name+": delivered/s by the relay's", fmt.Sprintf("%.2f (%s/s)", report.Ratio, strings.Join(rate, ", ")), fmt.Sprintf(">= %.1f", limit))
	check(t, kapsel.Lost == 0 && kapsel.Duplicates == 0, name+": lost, duplicates", fmt.Sprintf("%d, %d", kapsel.Lost, kapsel.Duplicates), "0, 0")
	check(t, peak < 300, name+": peak memory", fmt.Sprintf("%.0f MiB", peak), "< 300 MiB")
}

// ledgerCost measures how much slower deliveries are when they are told to the ledger, by turns.
func ledgerCost(t *testing.T, store string, database func(*testing.T) string) {
	var on, off, shares []float64
	for range 5 {
		for setting, rates := range map[string]*[]float64{"KAPSEL_LEDGER=on": &on, "KAPSEL_LEDGER=off": &off} {
			_, kapsel := compare(t, bench.Plan{
				Load: harness.LoadConfig{Events: 40_000, Connections: 128}, Runs: 1, Database: database(t), Endpoints: 1, Env: []string{setting},
			})
			*rates = append(*rates, kapsel.Runs[0].DeliveredPerS)
		}
		shares = append(shares, on[len(on)-1]/off[len(off)-1])
	}
	for _, all := range [][]float64{on, off, shares} {
		slices.Sort(all)
	}
	check(t, median(shares) >= 0.95, store+", with the ledger: delivered/s beside without",
		fmt.Sprintf("%.3f (%.3f to %.3f; %.0f/s, without %.0f/s)", median(shares), shares[0], shares[4], median(on), median(off)), ">= 0.95")
}

// openLoop measures latency at 5,000 events a second for a minute.
func openLoop(t *testing.T, store, database string) {
	_, kapsel := compare(t, bench.Plan{
		Load: harness.LoadConfig{Events: 300_000, Rate: 5000, Connections: 256},
		Runs: 1, Database: database, Endpoints: 1,
	})
	r := kapsel.Runs[0]
	name := store + ", 5,000/s for 60 s"
	check(t, r.AckMS.P99 < 50, name+": acknowledgement p99", fmt.Sprintf("%.1f ms", r.AckMS.P99), "< 50 ms")
	check(t, r.AfterAckMS.P50 < 100, name+": acceptance to request p50", fmt.Sprintf("%.1f ms", r.AfterAckMS.P50), "< 100 ms")
	check(t, r.AfterAckMS.P99 < 1000, name+": acceptance to request p99", fmt.Sprintf("%.1f ms", r.AfterAckMS.P99), "< 1000 ms")
	check(t, r.Lost == 0 && r.Duplicates == 0, name+": lost, duplicates", fmt.Sprintf("%d, %d", r.Lost, r.Duplicates), "0, 0")
	check(t, r.PeakRSSMiB < 300, name+": peak memory", fmt.Sprintf("%.0f MiB", r.PeakRSSMiB), "< 300 MiB")
}

// sinkOf opens one more destination that the world's nodes may reach.
func sinkOf(t *testing.T, mode harness.Mode) *harness.Sink {
	t.Helper()
	s, err := harness.NewSink("127.0.0.1:0", mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// perfWorld returns a world with default settings that reaches every loopback port.
func perfWorld(t *testing.T, database string) *world {
	return newWorld(t, database, "KAPSEL_EGRESS_ALLOW=127.0.0.0/8", "KAPSEL_NODE_LEASE=10s")
}

// load runs a load against endpoints of the world.
func (w *world) load(cfg harness.LoadConfig) harness.Result {
	w.t.Helper()
	cfg.Size = max(cfg.Size, 1024)
	r, err := harness.Load(w.ctx, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// deadEndpoints measures a healthy endpoint alone, and beside 1,000 dead ones: refusing,
// hanging and answering 500, a third each.
func deadEndpoints(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	healthy, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "healthy", "url": w.sink.URL(0)})
	if err != nil {
		t.Fatal(err)
	}
	steady := harness.LoadConfig{URLs: []string{healthy.IngestURL}, Rate: 50, Events: 1500, Connections: 16, Sink: w.sink}
	alone := w.load(steady)

	var urls []string
	sinks := []*harness.Sink{sinkOf(t, harness.Refuse), sinkOf(t, harness.Hang), sinkOf(t, harness.Fail)}
	for i := range 1000 {
		ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": fmt.Sprint("dead ", i), "url": sinks[i%3].URL(i)})
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, ep.IngestURL)
	}
	w.load(harness.LoadConfig{URLs: urls, Events: 10_000, Connections: 32})
	steady.Events = 3000
	beside := w.load(steady)
	limit := max(2*alone.E2EMS.P99, 1000)
	check(t, beside.E2EMS.P99 <= limit && beside.Lost == 0, store+", beside 1,000 dead endpoints: end to end p99",
		fmt.Sprintf("%.1f ms (alone %.1f ms)", beside.E2EMS.P99, alone.E2EMS.P99), fmt.Sprintf("<= %.0f ms", limit))
}

// waiting makes an endpoint with n deliveries that wait because it is paused.
func (w *world) waiting(tenant string, n, endpoints int) (eps []harness.Endpoint) {
	w.t.Helper()
	var urls []string
	for i := range endpoints {
		ep, err := w.nodes[0].CreateEndpoint(w.ctx, tenant, map[string]any{"name": fmt.Sprint("waiting ", i), "url": w.sink.URL(i)})
		if err != nil {
			w.t.Fatal(err)
		}
		w.act(ep, "pause")
		eps = append(eps, ep)
		urls = append(urls, ep.IngestURL)
	}
	time.Sleep(time.Second) // all nodes obey after at most this long
	if r := w.load(harness.LoadConfig{URLs: urls, Events: n, Connections: 128}); r.Acked != n {
		w.t.Fatalf("%d of %d were acknowledged: %s", r.Acked, n, r.FirstError)
	}
	return eps
}

// hugeTenant gives one tenant 100,000 waiting deliveries and measures five small ones while
// they are worked off.
func hugeTenant(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	w.sink.Delay(20 * time.Millisecond)
	eps := w.waiting(w.tenant, 100_000, 20)
	small := sinkOf(t, harness.OK)
	var urls []string
	for i := range 5 {
		tenant, err := w.nodes[0].CreateTenant(w.ctx, fmt.Sprint("small ", i))
		if err != nil {
			t.Fatal(err)
		}
		ep, err := w.nodes[0].CreateEndpoint(w.ctx, tenant, map[string]any{"name": "small", "url": small.URL(i)})
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, ep.IngestURL)
	}
	for _, ep := range eps {
		w.act(ep, "resume")
	}
	r := w.load(harness.LoadConfig{URLs: urls, Rate: 50, Events: 750, Connections: 16, Sink: small})
	check(t, r.E2EMS.P99 < 2000 && r.Lost == 0, store+", five small tenants beside 100,000 waiting: end to end p99", fmt.Sprintf("%.1f ms", r.E2EMS.P99), "< 2000 ms")
}

// backlogRestart kills a node with 100,000 due deliveries and measures its way back.
func backlogRestart(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "closed loop", "url": w.sink.URL(0)})
	if err != nil {
		t.Fatal(err)
	}
	closed := w.load(harness.LoadConfig{URLs: []string{ep.IngestURL}, Events: 60_000, Connections: 128, Sink: w.sink})
	eps := w.waiting(w.tenant, 100_000, 10)
	for _, ep := range eps {
		w.act(ep, "resume")
	}
	node := w.nodes[0]
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	requests := w.countRequests()
	begin := time.Now()
	if err := node.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	ready := time.Since(begin)
	// What came through before the kill is not counted: measure from the first 5,000 to 85,000.
	requests.await(t, 5_000)
	from := time.Now()
	requests.await(t, 85_000)
	rate := 80_000 / time.Since(from).Seconds()
	peak, err := node.PeakRSS()
	if err != nil {
		t.Fatal(err)
	}
	name := store + ", restart with 100,000 due: "
	check(t, ready < 10*time.Second, name+"ready", ready.Round(time.Millisecond).String(), "< 10 s")
	check(t, rate >= 0.8*closed.DeliveredPerS, name+"drained", fmt.Sprintf("%.0f/s (closed loop %.0f/s)", rate, closed.DeliveredPerS), ">= 0.8 x the closed loop's")
	check(t, peak < 512<<20, name+"peak memory", fmt.Sprintf("%d MiB", peak>>20), "< 512 MiB")
}

// requestCount counts the requests that the world's sink has read.
type requestCount struct{ atomic.Int64 }

// countRequests counts the requests from now on.
func (w *world) countRequests() *requestCount {
	c := &requestCount{}
	w.sink.Watch(func(m harness.Moment, _ harness.SinkRequest) {
		if m == harness.BodyRead {
			c.Add(1)
		}
	})
	return c
}

// await waits until there are n requests.
func (c *requestCount) await(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); c.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d requests in five minutes", c.Load(), n)
		}
	}
}

// largeBodies posts 200 bodies of 10 MiB at once.
func largeBodies(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	w.sink.Record(true)
	ep := w.endpoint("large", nil)
	body := make([]byte, 10<<20)
	rand.Read(body)
	big := &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{MaxConnsPerHost: 200}}
	var wg sync.WaitGroup
	var accepted, full, other atomic.Int64
	for range 200 {
		wg.Go(func() {
			resp, err := big.Post(ep.IngestURL, "application/octet-stream", bytes.NewReader(body))
			if err != nil {
				full.Add(1) // refused before it was read: the connection is closed under the body
				return
			}
			resp.Body.Close()
			switch resp.StatusCode {
			case 200:
				accepted.Add(1)
			case 503:
				full.Add(1)
			default:
				other.Add(1)
			}
		})
	}
	wg.Wait()
	w.quiet()
	whole := 0
	for _, r := range w.sink.Requests() {
		if r.SHA256 == sha256.Sum256(body) {
			whole++
		}
	}
	peak, err := w.nodes[0].PeakRSS()
	if err != nil {
		t.Fatal(err)
	}
	name := store + ", 200 x 10 MiB at once: "
	check(t, peak < (128+2*256)<<20, name+"peak memory", fmt.Sprintf("%d MiB", peak>>20), "< 640 MiB")
	check(t, other.Load() == 0 && accepted.Load() > 0 && int64(whole) >= accepted.Load(), name+"accepted, refused as full, other, arrived whole",
		fmt.Sprintf("%d, %d, %d, %d", accepted.Load(), full.Load(), other.Load(), whole), "other 0, all accepted arrive")
	if n := len(list[delivery](w, "/v1/deliveries", url.Values{"status": {"delivered"}})); int64(n) < accepted.Load() {
		t.Errorf("%d deliveries of %d accepted", n, accepted.Load())
	}
}

// flood measures the ingest of tenants within their limits, alone and beside one that sends
// ten times what it may.
func flood(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	var urls []string
	for i := range 5 {
		urls = append(urls, w.limitedTenant(fmt.Sprint("other ", i), 1000, 1000).IngestURL)
	}
	steady := harness.LoadConfig{URLs: urls, Rate: 200, Events: 3000, Connections: 16, Sink: w.sink}
	alone := w.load(steady)
	ep := w.limitedTenant("flood", 100, 100)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var refused atomic.Int64
	for range 10 {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if status, _ := w.event(w.nodes[0], ep); status == http.StatusTooManyRequests {
					refused.Add(1)
				}
			}
		})
	}
	beside := w.load(steady)
	close(stop)
	wg.Wait()
	check(t, beside.Acked == steady.Events, store+", beside a tenant at 10 x its limit: others refused", fmt.Sprint(steady.Events-beside.Acked), "0")
	check(t, refused.Load() > 0, store+", beside a tenant at 10 x its limit: its own refused", fmt.Sprint(refused.Load()), "> 0")
	check(t, beside.AckMS.P99 <= max(2*alone.AckMS.P99, 5), store+", beside a tenant at 10 x its limit: others' ingest p99",
		fmt.Sprintf("%.1f ms (alone %.1f ms)", beside.AckMS.P99, alone.AckMS.P99), "<= 2 x alone")
}

// sharedLimit counts what two nodes together accept of a tenant in 10 s, when it sends twice
// its limit to one, the other and both.
func sharedLimit(t *testing.T, database string) {
	w := perfWorld(t, database)
	w.node()
	const limit = 200
	ep := w.limitedTenant("limited", limit, 20)
	for _, to := range [][]int{{0}, {1}, {0, 1}} {
		var accepted atomic.Int64
		send := func(d time.Duration) {
			var wg sync.WaitGroup
			end := time.Now().Add(d)
			for i := range 20 {
				wg.Go(func() {
					tick := time.NewTicker(20 * time.Second / (2 * limit))
					defer tick.Stop()
					for n := i; time.Now().Before(end); n++ {
						if status, _ := w.event(w.nodes[to[n%len(to)]], ep); status == http.StatusOK {
							accepted.Add(1)
						}
						<-tick.C
					}
				})
			}
			wg.Wait()
		}
		send(5 * time.Second)
		accepted.Store(0)
		send(10 * time.Second)
		share := float64(accepted.Load()) / (10 * limit)
		check(t, share >= 0.9 && share <= 1.1, fmt.Sprintf("postgres, a tenant's limit on two nodes, requests at %v: accepted in 10 s", to),
			fmt.Sprintf("%.0f %%", 100*share), "90 to 110 %")
	}
}
