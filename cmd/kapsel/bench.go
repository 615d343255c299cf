//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/kapsel-hq/kapsel/internal/bench"
	"github.com/kapsel-hq/kapsel/internal/harness"
)

// benchCmd is `kapsel bench`.
type benchCmd struct {
	URL    []string `name:"url" sep:"none" placeholder:"URL" help:"Measure a gateway that runs already, at this ingest URL; its endpoint must deliver to --listen. Repeat for several endpoints. Without it, a fresh Kapsel with default settings is started and measured."`
	Header []string `placeholder:"'NAME: VALUE'" sep:"none" help:"Send this header too. May be repeated."`

	Events      int           `short:"n" placeholder:"N" help:"Events to send in each run. Default: 60000, or as many as --rate makes in --duration."`
	Duration    time.Duration `placeholder:"TIME" help:"Stop sending after this time, even if not all events are sent."`
	Connections int           `short:"c" default:"128" help:"Connections, each with one request at a time."`
	Rate        float64       `default:"0" help:"Send this many events a second, each at its time, and count lateness as latency (open loop); 0: as fast as answers come (closed loop)."`
	Size        int           `default:"1024" help:"Bytes of each event's body."`
	Keys        bool          `help:"Send a unique Idempotency-Key with each event."`
	Endpoints   int           `default:"1" help:"Endpoints to make and to send to in turn."`
	Runs        int           `default:"3" help:"Rounds; the figures are medians over them."`

	Ceiling  *bool    `negatable:"" help:"Measure in each round the relay too, which only appends to a file, syncs and forwards: what a gateway in Go could reach at best on this machine. Default: with the sink ok and without --url."`
	Database string   `placeholder:"URL" help:"Measure Kapsel on a PostgreSQL server, in databases that are made for it and dropped. Default: SQLite."`
	Env      []string `placeholder:"NAME=VALUE" sep:"none" help:"Change a setting of the Kapsel that is started. May be repeated."`
	Dir      string   `type:"path" placeholder:"PATH" help:"Where the data of the runs goes. Default: the system's directory for temporary files."`

	Sink      string        `enum:"ok,refuse,hang,500" default:"ok" help:"How the destination behaves: ok, refuse, hang (reads and never answers) or 500."`
	SinkDelay time.Duration `default:"0" help:"How long the destination takes to answer."`
	Listen    string        `placeholder:"ADDRESS" help:"Where the destination listens. Default: a free loopback port; with --url, 127.0.0.1:9900."`
	Drain     time.Duration `default:"30s" help:"Stop waiting for deliveries when none came for this time."`

	JSON    bool `name:"json" help:"Write the report as JSON."`
	Verbose bool `short:"v" help:"Write a line a second to standard error, also where it is no terminal."`

	// The relay runs in a process of its own, as Kapsel does, so that the two can be compared.
	ServeRelay string `hidden:"" placeholder:"ADDRESS"`
	Dest       string `hidden:"" placeholder:"URL"`
}

// Help is shown by `kapsel bench --help`.
func (c *benchCmd) Help() string {
	return `Sends events, receives their deliveries, and reports rates, latencies, losses and
duplicates. Load, gateway, relay and destination share this machine.

  kapsel bench                          what Kapsel can do here, beside the relay
  kapsel bench --rate 2000 -c 256       latency at a steady rate
  kapsel bench --database postgres://…  the same on PostgreSQL
  kapsel bench --sink hang              whether a dead destination slows ingest

Exit code 1: an acknowledged event was lost or delivered twice, or nothing was acknowledged.`
}

// Run measures and writes the report to standard output. The error says why the exit code is not 0.
func (c *benchCmd) Run(ctx context.Context, command *kong.Context, io streams) error {
	if c.ServeRelay != "" {
		return c.serveRelay(ctx)
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	plan.Meter = bench.NewMeter(io.err, c.Verbose)
	report, err := bench.Compare(ctx, plan)
	report.Command = bench.CommandLine(append([]string{"kapsel"}, command.Args...))
	report.Machine.Kapsel = buildVersion()
	if len(report.Targets) > 0 {
		err = errors.Join(err, c.write(&report, io.out))
	}
	if err != nil {
		return err
	}
	return report.Check()
}

func (c *benchCmd) plan() (bench.Plan, error) {
	bin, err := os.Executable()
	if err != nil {
		return bench.Plan{}, fmt.Errorf("find the kapsel binary: %w", err)
	}
	switch {
	case len(c.URL) > 0 && (c.Database != "" || len(c.Env) > 0 || c.Endpoints != 1):
		return bench.Plan{}, settingError("--database, --env and --endpoints are for a Kapsel that is started, not for --url")
	case c.Events < 0, c.Connections < 1, c.Runs < 1, c.Endpoints < 1:
		return bench.Plan{}, settingError("--events, --connections, --runs and --endpoints are at least 1")
	case c.Rate < 0, c.Duration < 0, c.Drain <= 0, c.SinkDelay < 0:
		return bench.Plan{}, settingError("--rate, --duration, --drain and --sink-delay cannot be negative")
	case c.Size < harness.MinSize:
		return bench.Plan{}, settingError("--size is at least %d, for the marker in each event", harness.MinSize)
	}
	for _, e := range c.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return bench.Plan{}, settingError("--env: %q is not NAME=VALUE", e)
		}
	}
	for _, h := range c.Header {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" {
			return bench.Plan{}, settingError("--header: %q is not 'NAME: VALUE'", h)
		}
	}
	events := c.Events
	switch {
	case events > 0:
	case c.Rate > 0 && c.Duration > 0:
		events = max(1, int(c.Rate*c.Duration.Seconds()))
	default:
		events = 60_000
	}
	relay := len(c.URL) == 0 && c.Sink == string(harness.OK)
	if c.Ceiling != nil {
		relay = *c.Ceiling
	}
	listen := c.Listen
	switch {
	case listen != "":
	case len(c.URL) > 0:
		listen = "127.0.0.1:9900"
	default:
		listen = "127.0.0.1:0"
	}
	return bench.Plan{
		Load: harness.LoadConfig{
			URLs:        c.URL,
			Events:      events,
			Duration:    c.Duration,
			Connections: c.Connections,
			Rate:        c.Rate,
			Size:        c.Size,
			Keys:        c.Keys,
			Header:      c.Header,
			Drain:       c.Drain,
		},
		Relay:     relay,
		Runs:      c.Runs,
		Bin:       bin,
		Dir:       c.Dir,
		Database:  c.Database,
		Env:       c.Env,
		Endpoints: c.Endpoints,
		SinkAddr:  listen,
		SinkMode:  harness.Mode(c.Sink),
		SinkDelay: c.SinkDelay,
	}, nil
}

func (c *benchCmd) write(report *bench.Report, out io.Writer) error {
	if c.JSON {
		return report.WriteJSON(out)
	}
	return report.WriteText(out)
}

func (c *benchCmd) serveRelay(ctx context.Context) error {
	l, err := net.Listen("tcp", c.ServeRelay)
	if err != nil {
		return fmt.Errorf("listen for the relay: %w", err)
	}
	return bench.ServeRelay(ctx, l, c.Dest, filepath.Join(c.Dir, "relay.journal"))
}
