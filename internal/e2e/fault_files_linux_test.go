package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// files returns how many files a node has open.
func files(t *testing.T, node *harness.Process) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", node.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// cpu returns how much CPU time a node has used.
func cpu(t *testing.T, node *harness.Process) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", node.PID()))
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// TestDestination_FD23_OneHost checks that many endpoints on one host do not exhaust a node's
// files, and every event arrives.
func TestDestination_FD23_OneHost(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	w.sink.Script(func(harness.SinkRequest) harness.Answer { return harness.Answer{Delay: 300 * time.Millisecond} })
	n := count(60, 500)
	var endpoints []harness.Endpoint
	for i := range n {
		endpoints = append(endpoints, w.endpoint("one host", map[string]any{"url": fmt.Sprintf("%s/%d", w.sink.URL(0), i)}))
	}
	before, most := files(t, w.nodes[0]), 0
	acked := map[string]bool{}
	for range 3 {
		for _, ep := range endpoints {
			status, code, event := post(t, ep.IngestURL, nil, strings.NewReader("x"))
			if status != 200 {
				t.Fatalf("answered %d %s", status, code)
			}
			acked[event] = true
		}
		most = max(most, files(t, w.nodes[0]))
	}
	w.quiet()
	for _, r := range w.sink.Requests() {
		delete(acked, r.EventID)
	}
	if len(acked) != 0 {
		t.Errorf("%d events did not arrive", len(acked))
	}
	t.Logf("%d endpoints; %d open files, were %d", n, most, before)
	if most > before+2*n+50 {
		t.Errorf("%d open files for %d endpoints, were %d", most, n, before)
	}
}

// TestOperations_FewFiles runs a node that may open 100 files, with 120 endpoints on as many
// hosts whose destination is healthy and slow. Too few files are nobody's failure: everything is
// delivered at the first attempt, no circuit moves, and ingest answers throughout.
func TestOperations_FewFiles(t *testing.T) {
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) {
			limited := filepath.Join(t.TempDir(), "kapsel")
			script := "#!/bin/sh\nulimit -n 100 && exec '" + program(t) + "' \"$@\"\n"
			if err := os.WriteFile(limited, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			url := ""
			if database == "postgres" {
				url = schematest.Postgres(t)
			}
			fewFiles(t, newWorldOf(t, limited, url))
		})
	}
}

func fewFiles(t *testing.T, w *world) {
	const endpoints, each = 120, 2
	takes := time.Duration(count(2, 6)) * time.Second
	w.sink.Record(true)
	w.sink.Script(func(harness.SinkRequest) harness.Answer { return harness.Answer{Delay: takes} })
	var targets []harness.Endpoint
	for i := range endpoints {
		targets = append(targets, w.endpoint(fmt.Sprint("target ", i), map[string]any{"url": w.sink.URL(i)}))
	}
	probe := w.endpoint("probe", nil)

	// A sender that opens a connection for each event is answered all the time.
	done := make(chan struct{})
	var probing sync.WaitGroup
	probes := 0
	probing.Go(func() {
		stranger := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			resp, err := stranger.Post(probe.IngestURL, "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Errorf("ingest does not answer: %v", err)
				return
			}
			if resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Errorf("ingest answered %d", resp.StatusCode)
			}
			probes++
		}
	})
	for range each {
		for _, ep := range targets {
			if status, code, _ := post(t, ep.IngestURL, nil, strings.NewReader("x")); status != 200 {
				t.Fatalf("answered %d %s", status, code)
			}
		}
	}
	for begin := time.Now(); len(w.sink.Requests()) < endpoints*each; time.Sleep(100 * time.Millisecond) {
		if time.Since(begin) > 5*time.Minute {
			t.Fatalf("%d of %d deliveries were sent", len(w.sink.Requests()), endpoints*each)
		}
	}
	close(done)
	probing.Wait()
	w.quiet()

	all := list[delivery](w, "/v1/deliveries", url.Values{})
	if len(all) != endpoints*each+probes {
		t.Errorf("%d deliveries of %d events", len(all), endpoints*each+probes)
	}
	for _, d := range all {
		if d.Status != "delivered" || d.Attempts != 1 {
			t.Errorf("a delivery is %s after %d attempts, %s", d.Status, d.Attempts, d.Code)
		}
	}
	for _, ep := range targets {
		var got struct {
			Circuit struct {
				State     string  `json:"state"`
				ChangedAt *string `json:"changed_at"`
			} `json:"circuit"`
		}
		if w.get("/v1/endpoints/"+ep.ID, &got); got.Circuit.State != "closed" || got.Circuit.ChangedAt != nil {
			t.Errorf("a circuit is %s, changed at %v", got.Circuit.State, got.Circuit.ChangedAt)
		}
	}
	log, err := os.ReadFile(w.nodes[0].Output)
	if err != nil {
		t.Fatal(err)
	}
	if said := strings.Count(string(log), "RLIMIT_NOFILE is 100"); said == 0 || said > 6 {
		t.Errorf("the log names the limit %d times", said)
	}
	t.Logf("%d deliveries, %d probes", endpoints*each, probes)
}

// TestOperations_FG7_FileLimit checks that a node that has no file left to open neither ends
// nor spins, goes on when there are some again, and delivers what it had acknowledged.
func TestOperations_FG7_FileLimit(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Record(true)
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		s := w.send(8, ep, 20*time.Millisecond)
		s.load()
		var usual unix.Rlimit
		few := unix.Rlimit{Cur: uint64(files(t, node) + 10)}
		if err := unix.Prlimit(node.PID(), unix.RLIMIT_NOFILE, nil, &usual); err != nil {
			t.Fatal(err)
		}
		few.Max = usual.Max
		for range count(1, 5) {
			if err := unix.Prlimit(node.PID(), unix.RLIMIT_NOFILE, &few, nil); err != nil {
				t.Fatal(err)
			}
			var silent []net.Conn
			for range 50 {
				silent = append(silent, dial(t, node))
			}
			s.rest.Store(true)
			eventually(t, "a node without files and without new events computes less than half of the time", patience, func() bool {
				const watched = 2 * time.Second
				before := cpu(t, node)
				time.Sleep(watched)
				return cpu(t, node)-before < watched/2
			})
			s.rest.Store(false)
			for _, c := range silent {
				c.Close()
			}
			if err := unix.Prlimit(node.PID(), unix.RLIMIT_NOFILE, &usual, nil); err != nil {
				t.Fatal(err)
			}
			s.progress(15 * time.Second)
			s.load()
		}
		s.end()
		w.quiet()
		t.Logf("%d acknowledged, %d duplicates", s.acked(), s.judge(ep))
	})
}
