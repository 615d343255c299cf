package bench

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s: %s", name, d)
	}
}

// example returns a report of two targets and two rounds.
func example() *Report {
	run := func(rate float64, lost int) harness.Result {
		ms := func(f float64) harness.Latency {
			return harness.Latency{P50: f, P90: 2 * f, P99: 5 * f, P999: 20 * f, Max: 1000 * f}
		}
		return harness.Result{
			Sent: 60_000, Acked: 60_000, Status: map[int]int{200: 60_000}, Seconds: 60_000 / rate, AckPerS: rate + 100,
			Delivered: 60_000 - lost, DeliveredPerS: rate, Lost: lost, Requests: 60_000 - lost,
			AckMS: ms(3.25), E2EMS: ms(7.5), AfterAckMS: ms(4.25), PeakRSSMiB: rate / 100,
		}
	}
	return &Report{
		Command:  "kapsel bench --runs 2",
		Machine:  Machine{CPU: "Example 9000", Cores: 2, Kernel: "Linux 6.18.0 x86_64", Filesystem: "ext4", Go: "go1.26.0", Kapsel: "v1.2.3"},
		Settings: Settings{Events: 60_000, Size: 1024, Connections: 128, Endpoints: 1, Runs: 2, Sink: harness.OK, Database: "sqlite"},
		Targets: []Target{
			{Name: relayName, Runs: []harness.Result{run(20_000, 0), run(21_000, 0)}},
			{Name: kapselName, Runs: []harness.Result{run(13_000, 0), run(12_600, 0)}},
		},
	}
}

func TestReport_Golden(t *testing.T) {
	r := example()
	r.summarize()
	var text, js bytes.Buffer
	if err := errors.Join(r.WriteText(&text), r.WriteJSON(&js)); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.Bytes())
	golden(t, "report.json", js.Bytes())
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}

func TestReport_GoldenDeadSink(t *testing.T) {
	r := example()
	r.Settings.Sink, r.Settings.Rate, r.Settings.Keys = harness.Hang, 500, true
	r.Machine.Filesystem = "tmpfs"
	r.Targets = r.Targets[1:]
	r.Targets[0].Runs[1].Output = "/tmp/kapsel.log"
	r.summarize()
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "dead-sink.txt", text.Bytes())
}

func TestReport_Check(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Report)
		want   string
	}{
		{"fine", func(*Report) {}, ""},
		{"the relay lost", func(r *Report) { r.Targets[0].Runs[0].Lost = 1 }, ""},
		{"lost", func(r *Report) { r.Targets[1].Runs[0].Lost = 2 }, "kapsel lost 2 and duplicated 0 of 120000 acknowledged events"},
		{"duplicated", func(r *Report) { r.Targets[1].Runs[1].Duplicates = 1 }, "kapsel lost 0 and duplicated 1 of 120000 acknowledged events"},
		{"nothing", func(r *Report) {
			for i := range r.Targets[1].Runs {
				r.Targets[1].Runs[i].Acked, r.Targets[1].Runs[i].FirstError = 0, "connection refused"
			}
		}, "kapsel acknowledged nothing: connection refused"},
	} {
		r := example()
		c.change(r)
		r.summarize()
		got := ""
		if err := r.Check(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCommandLine_HasNoSecrets(t *testing.T) {
	got := CommandLine([]string{
		"kapsel", "bench", "--database", "postgres://me:hidden@db/x", "--database=postgres://me:hidden@db/x",
		"--env", "KAPSEL_ADMIN_KEY=hidden", "--env=DATABASE_URL=postgres://me:hidden@db/x", "--env", "LOG_LEVEL=warn",
		"--header", "Authorization: Bearer hidden", "--header=X-A: it's b", "-n", "5", "",
	})
	want := `kapsel bench --database postgres://me:xxxxx@db/x --database=postgres://me:xxxxx@db/x` +
		` --env KAPSEL_ADMIN_KEY=xxxxx --env=DATABASE_URL=postgres://me:xxxxx@db/x --env LOG_LEVEL=warn` +
		` --header 'Authorization: xxxxx' '--header=X-A: it'\''s b' -n 5 ''`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestProgress(t *testing.T) {
	last := harness.Progress{Elapsed: time.Second, Events: 1000, Acked: 100, Delivered: 100}
	p := harness.Progress{Elapsed: 3 * time.Second, Events: 1000, Sent: 800, Acked: 700, Delivered: 200, Errors: 3}
	got := progressLine("kapsel 1/3", last, p)
	want := "kapsel 1/3   [############............]  50%     3.0s  acked 300/s  delivered 50/s  waiting 500  errors 3"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	var out bytes.Buffer
	if m := NewMeter(&out, false); m != nil {
		t.Error("a meter without a terminal, unasked")
	}
	m := NewMeter(&out, true)
	m.begin("x")
	for i := range 9 {
		m.show(harness.Progress{Elapsed: time.Duration(i) * time.Second / 4, Events: 10})
	}
	m.end()
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines for two seconds:\n%s", n, out.String())
	}
	var none *Meter
	none.begin("x")
	none.show(p)
	none.end()
}

// plan returns a small comparison with the stand-in, which has the fault.
func plan(t *testing.T, fault string) Plan {
	return Plan{
		Load:      harness.LoadConfig{Events: 300, Connections: 4, Size: 256, Drain: 500 * time.Millisecond},
		Relay:     true,
		Runs:      2,
		Bin:       testBin(t),
		Dir:       t.TempDir(),
		Env:       []string{"STANDIN_FAULT=" + fault},
		Endpoints: 3,
		SinkAddr:  "127.0.0.1:0",
		SinkMode:  harness.OK,
	}
}

func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

func TestCompare(t *testing.T) {
	p := plan(t, "")
	r, err := Compare(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if len(r.Targets) != 2 || r.Targets[0].Name != relayName || r.Targets[1].Name != kapselName {
		t.Fatalf("targets %+v", r.Targets)
	}
	for _, target := range r.Targets {
		for i, run := range target.Runs {
			if run.Acked != 300 || run.Delivered != 300 || run.PeakRSSMiB < 1 {
				t.Errorf("%s, run %d: %+v", target.Name, i, run)
			}
		}
	}
	if r.Ratio <= 0 || r.AckRatio <= 0 || len(r.Ratios) != 2 {
		t.Errorf("ratios %v, %v, %v", r.Ratio, r.AckRatio, r.Ratios)
	}
	if left, _ := os.ReadDir(p.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCompare_Faults(t *testing.T) {
	for fault, want := range map[string]string{
		"lose":   "kapsel lost 6 and duplicated 0 of 600 acknowledged events",
		"repeat": "kapsel lost 0 and duplicated 6 of 600 acknowledged events",
	} {
		p := plan(t, fault)
		p.Relay = false
		r, err := Compare(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", fault, err, want)
		}
		var outputs []string
		for _, run := range r.Targets[0].Runs {
			outputs = append(outputs, run.Output)
		}
		if d := cmp.Diff(leftovers(t, p.Dir), outputs); d != "" || len(outputs) != 2 {
			t.Errorf("outputs kept: %s", d)
		}
	}
}

func TestCompare_GatewayThatCrashesOrWillNotStart(t *testing.T) {
	p := plan(t, "crash")
	r, err := Compare(t.Context(), p)
	logs := leftovers(t, p.Dir)
	if err == nil || len(logs) != 1 || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), logs[0]) {
		t.Errorf("%v; kept %v", err, logs)
	}
	if len(r.Targets) != 2 || r.Targets[1].Runs[0].Errors == 0 {
		t.Errorf("what was measured until then is missing: %+v", r.Targets)
	}

	p = plan(t, "refuse to start")
	p.Relay = false
	if r, err := Compare(t.Context(), p); err == nil || len(r.Targets) != 0 {
		t.Errorf("%v, %+v", err, r.Targets)
	}
}

func TestCompare_DeadSinks(t *testing.T) {
	for _, mode := range []harness.Mode{harness.Refuse, harness.Fail, harness.Hang} {
		p := plan(t, "")
		p.Relay, p.Runs, p.SinkMode = false, 1, mode
		r, err := Compare(t.Context(), p)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		run := r.Targets[0].Runs[0]
		if run.Acked != 300 || run.Lost != 0 || run.Delivered != 0 {
			t.Errorf("%s: %+v", mode, run)
		}
	}
}

func TestCompare_RunningGateway(t *testing.T) {
	sink := newTestSink(t, harness.OK) // only to find a free port
	addr := sink.Addr().String()
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	relay, err := startRelay(t.Context(), t.TempDir(), testBin(t), "http://"+addr+"/hook")
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Kill()
	p := plan(t, "")
	p.SinkAddr, p.Runs, p.Relay = addr, 1, false
	p.Load.URLs = []string{relay.URL + "/ingest/x"}
	r, err := Compare(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r.Targets[0].Name != gatewayName || r.Targets[0].Runs[0].Delivered != 300 || r.Settings.Database != "" {
		t.Errorf("%+v", r)
	}
	if err := relay.Term(); err != nil {
		t.Error(err)
	}
}
