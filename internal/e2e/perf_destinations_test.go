//go:build perf

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// manyDestinations measures what more destinations of an event cost: deliveries a second,
// bytes written, and what an event to as many as there may be does to others.
func manyDestinations(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	made := func(name string, fields map[string]any) harness.Endpoint {
		fields["name"], fields["url"] = name, w.sink.URL(0)
		ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, fields)
		if err != nil {
			t.Fatal(err)
		}
		return ep
	}
	to := func(destinations int) harness.Endpoint {
		source := made(fmt.Sprint("to ", destinations), map[string]any{})
		for i := range destinations - 1 {
			made(fmt.Sprintf("%d of %d", i+2, destinations), map[string]any{"subscriptions": []any{map[string]any{"source": source.ID}}})
		}
		return source
	}
	one, ten, most := to(1), to(10), to(256)
	requests := w.countRequests()
	rate := func(ep harness.Endpoint, events, destinations int) float64 {
		requests.Store(0)
		begin := time.Now()
		w.load(harness.LoadConfig{URLs: []string{ep.IngestURL}, Events: events, Connections: 128})
		requests.await(t, int64(events*destinations))
		return float64(events*destinations) / time.Since(begin).Seconds()
	}
	rate(one, 5_000, 1) // to warm up
	rate(ten, 1_000, 10)
	toOne, toTen := rate(one, 40_000, 1), rate(ten, 8_000, 10)
	check(t, toTen >= 1.4*toOne, store+", one event to 10 endpoints: deliveries/s", fmt.Sprintf("%.0f/s (to one %.0f/s)", toTen, toOne), ">= 1.4 x to one")

	bytesOf := func(ep harness.Endpoint, destinations int) int64 {
		const events = 2_000
		before := w.written(database)
		requests.Store(0)
		postRandom(w, ep, events, 10<<10)
		requests.await(t, int64(events*destinations))
		w.quiet()
		return (w.written(database) - before) / events
	}
	writtenOne, writtenTen := bytesOf(one, 1), bytesOf(ten, 10)
	check(t, float64(writtenTen) <= 3*float64(writtenOne), store+", one event of 10 KiB to 10 endpoints: written",
		fmt.Sprintf("%.1f KiB (to one %.1f KiB)", float64(writtenTen)/1024, float64(writtenOne)/1024), "<= 3 x to one")

	steady := harness.LoadConfig{URLs: []string{one.IngestURL}, Rate: 200, Events: 3_000, Connections: 16, Sink: w.sink}
	alone := w.load(steady)
	ctx, stop := context.WithTimeout(w.ctx, 7*time.Second)
	defer stop()
	go func() {
		<-ctx.Done()
		if w.ctx.Err() == nil {
			postRandom(w, most, 1, 1<<10)
		}
	}()
	beside := w.load(steady)
	check(t, beside.E2EMS.P99 <= 2*alone.E2EMS.P99 && beside.Lost == 0, store+", beside an event to 256 endpoints: end to end p99",
		fmt.Sprintf("%.1f ms (alone %.1f ms)", beside.E2EMS.P99, alone.E2EMS.P99), "<= 2 x alone")
}

// publishing measures how many events a second are published, beside how many webhooks come in at
// an ingest URL, by turns.
func publishing(t *testing.T, store, database string) {
	w := perfWorld(t, database)
	node := w.nodes[0]
	var key struct{ Secret string }
	if err := node.API(w.ctx, http.MethodPost, "/v1/tenants/"+w.tenant+"/keys", map[string]string{"name": "publisher", "scope": "write"}, &key); err != nil {
		t.Fatal(err)
	}
	came, err := node.CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "receives", "url": w.sink.URL(0)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = node.CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": "subscribes", "url": w.sink.URL(1), "subscriptions": []any{map[string]any{"source": "publish"}}})
	if err != nil {
		t.Fatal(err)
	}
	ingest := harness.LoadConfig{URLs: []string{came.IngestURL}, Events: 40_000, Connections: 128, Sink: w.sink}
	publish := ingest
	publish.URLs, publish.Publish, publish.Header = []string{node.URL + "/v1/events"}, true, []string{"Authorization: Bearer " + key.Secret}
	var in, out []float64
	lost := 0
	for range 3 {
		received, published := w.load(ingest), w.load(publish)
		in, out = append(in, received.DeliveredPerS), append(out, published.DeliveredPerS)
		lost += received.Lost + published.Lost + 2*ingest.Events - received.Acked - published.Acked
	}
	slices.Sort(in)
	slices.Sort(out)
	check(t, out[1] >= 0.9*in[1], store+", published: delivered/s", fmt.Sprintf("%.0f/s (received %.0f/s)", out[1], in[1]), ">= 0.9 x received")
	check(t, lost == 0, store+", published: lost or refused", fmt.Sprint(lost), "0")
}

// written returns how much the store has written so far, in bytes: PostgreSQL's log, or what the
// process that has SQLite in it handed to the disk.
func (w *world) written(database string) int64 {
	w.t.Helper()
	if database == "" {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", w.nodes[0].PID()))
		if err != nil {
			w.t.Fatal(err)
		}
		var n int64
		_, rest, _ := strings.Cut(string(text), "\nwrite_bytes: ")
		if _, err := fmt.Sscan(rest, &n); err != nil {
			w.t.Fatal(err)
		}
		return n
	}
	conn, err := pgx.Connect(w.ctx, pgtest.Superuser(database))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(w.ctx)
	var n int64
	if err := conn.QueryRow(w.ctx, "SELECT (pg_current_wal_lsn() - '0/0')::bigint").Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// postRandom posts n events with bodies that do not compress.
func postRandom(w *world, ep harness.Endpoint, n, size int) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range min(n, 16) {
		wg.Go(func() {
			body := make([]byte, size)
			for left.Add(-1) >= 0 {
				rand.Read(body)
				resp, err := client.Post(ep.IngestURL, "application/octet-stream", bytes.NewReader(body))
				if err != nil {
					w.t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					w.t.Errorf("an event is answered %d", resp.StatusCode)
				}
			}
		})
	}
	wg.Wait()
}
