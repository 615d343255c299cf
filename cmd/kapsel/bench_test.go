//go:build unix

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

func TestBench_Plan(t *testing.T) {
	for _, c := range []struct {
		args   string
		events int
		relay  bool
		listen string
	}{
		{"", 60_000, true, "127.0.0.1:0"},
		{"-n 5 --duration 10s", 5, true, "127.0.0.1:0"},
		{"--rate 500 --duration 90s", 45_000, true, "127.0.0.1:0"},
		{"--rate 500", 60_000, true, "127.0.0.1:0"},
		{"--no-ceiling", 60_000, false, "127.0.0.1:0"},
		{"--sink hang", 60_000, false, "127.0.0.1:0"},
		{"--sink hang --ceiling", 60_000, true, "127.0.0.1:0"},
		{"--url http://127.0.0.1:8080/ingest/ep_1", 60_000, false, "127.0.0.1:9900"},
		{"--url http://127.0.0.1:8080/a --ceiling --listen 127.0.0.1:7", 60_000, true, "127.0.0.1:7"},
	} {
		var cmd benchCmd
		parser, err := kong.New(&cmd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(strings.Fields(c.args)); err != nil {
			t.Fatalf("%q: %v", c.args, err)
		}
		p, err := cmd.plan()
		if err != nil {
			t.Fatalf("%q: %v", c.args, err)
		}
		if p.Load.Events != c.events || p.Relay != c.relay || p.SinkAddr != c.listen {
			t.Errorf("%q: %d events, relay %v, sink at %s", c.args, p.Load.Events, p.Relay, p.SinkAddr)
		}
	}
}

func TestBench_WrongCommandLine(t *testing.T) {
	for _, args := range []string{
		"--size 10", "--runs 0", "--rate=-1", "--sink dead", "--connections 0",
		"--url http://127.0.0.1:1/ --endpoints 2", "--url http://127.0.0.1:1/ --env A=b", "--env A", "--header A",
	} {
		var out, errOut bytes.Buffer
		if code := run(append([]string{"bench"}, strings.Fields(args)...), streams{&out, &errOut}); code != 2 {
			t.Errorf("%q: exit code %d, %s", args, code, errOut.String())
		}
	}
}

func TestBench_NothingToMeasure(t *testing.T) {
	sink, err := harness.NewSink("127.0.0.1:0", harness.Refuse)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var out, errOut bytes.Buffer
	dir := t.TempDir()
	args := []string{"bench", "--url", sink.URL(0), "--listen", "127.0.0.1:0", "--dir", dir}
	if code := run(args, streams{&out, &errOut}); code != 1 || !strings.Contains(errOut.String(), "nothing to measure") {
		t.Errorf("exit code %d, %s", code, errOut.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
