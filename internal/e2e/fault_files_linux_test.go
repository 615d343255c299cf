package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kapsel-hq/kapsel/internal/bench"
)

// files is how many files a node has open.
func files(t *testing.T, node *bench.Process) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", node.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// cpu is how long a node has computed.
func cpu(t *testing.T, node *bench.Process) time.Duration {
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

// TestDestination_FD23_OneHost sends to many endpoints on one host at once.
func TestDestination_FD23_OneHost(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	w.sink.Script(func(bench.SinkRequest) bench.Answer { return bench.Answer{Delay: 300 * time.Millisecond} })
	n := count(60, 500)
	var endpoints []bench.Endpoint
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

// TestOperations_FG7_FileLimit takes all files that a node may open: it neither ends nor
// spins, and goes on when there are some again. What it had acknowledged is delivered.
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
			const watched = 2 * time.Second
			before := cpu(t, node)
			time.Sleep(watched)
			if used := cpu(t, node) - before; used > watched/2 {
				t.Errorf("without files the node computed %v in %v", used, watched)
			}
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
