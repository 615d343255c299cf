package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// Names of targets.
const (
	relayName   = "relay"
	kapselName  = "kapsel"
	gatewayName = "gateway"
)

// Plan says what Compare measures.
type Plan struct {
	// Load is the load of each run. Its URLs are those of a gateway that runs already; if there are
	// none, Compare starts Kapsel. Compare sets Sink and OnProgress itself.
	Load harness.LoadConfig
	// Relay says to measure the relay before each run of the gateway.
	Relay     bool
	Runs      int
	Bin       string   // the kapsel binary, for Kapsel and the relay
	Dir       string   // directory for their data, in which each run makes its own; "": the system's temporary directory
	Database  string   // URL of a PostgreSQL server on which to create databases; "": SQLite
	Env       []string // settings for Kapsel, "NAME=value"
	Endpoints int      // how many to create

	SinkAddr  string
	SinkMode  harness.Mode
	SinkDelay time.Duration
	Meter     *Meter // shows progress; nil: no progress
}

// Compare runs the plan. Each run has a new process with new data; the sink is the same for all.
// Even with an error, the report has everything measured until then.
func Compare(ctx context.Context, plan Plan) (Report, error) {
	sink, err := harness.NewSink(plan.SinkAddr, plan.SinkMode)
	if err != nil {
		return Report{}, err
	}
	dir, err := os.MkdirTemp(plan.Dir, "kapsel-bench-")
	if err == nil {
		dir, err = filepath.Abs(dir) // absolute, because the processes run in other directories
	}
	if err != nil {
		return Report{}, errors.Join(fmt.Errorf("make a directory for the runs: %w", err), sink.Close())
	}
	sink.Delay(plan.SinkDelay)
	c := &comparison{Plan: plan, dir: dir, sink: sink}
	c.Load.Sink, c.Load.OnProgress = sink, plan.Meter.show
	c.report = Report{Machine: ThisMachine(dir), Settings: c.settings()}
	err = c.run(ctx)
	plan.Meter.end()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), os.RemoveAll(dir)) // all other errors are consequences
	} else {
		_ = os.Remove(dir) // fails if it holds the output of a failed run
	}
	c.report.summarize()
	return c.report, errors.Join(err, sink.Close())
}

type comparison struct {
	Plan
	dir    string
	sink   *harness.Sink
	report Report
}

func (c *comparison) settings() Settings {
	s := Settings{
		Events: c.Load.Events, Size: c.Load.Size, Connections: c.Load.Connections,
		Rate: c.Load.Rate, Keys: c.Load.Keys,
		Endpoints: c.Endpoints, Runs: c.Runs, Sink: c.SinkMode, Database: "sqlite",
	}
	switch {
	case len(c.Load.URLs) > 0:
		s.Endpoints, s.Database = len(c.Load.URLs), ""
	case c.Database != "":
		s.Database = "postgres"
	}
	return s
}

func (c *comparison) run(ctx context.Context) error {
	gateway, start := kapselName, c.startKapsel
	if len(c.Load.URLs) > 0 {
		gateway, start = gatewayName, c.useGateway
	}
	for i := range c.Runs {
		if c.Relay {
			if err := c.measure(ctx, relayName, i, c.startRelay); err != nil {
				return err
			}
		}
		if err := c.measure(ctx, gateway, i, start); err != nil {
			return err
		}
	}
	return nil
}

// started is a gateway that is ready to be measured.
type started struct {
	urls    []string
	process *harness.Process // nil: not started here
	cleanup func() error
}

// measure starts a target, loads it, and stops it. It removes the target's directory, unless that
// has the output of a process that failed, lost or duplicated something.
func (c *comparison) measure(ctx context.Context, name string, round int, start func(context.Context, string) (started, error)) error {
	c.Meter.begin(fmt.Sprintf("%s %d/%d", name, round+1, c.Runs))
	dir := filepath.Join(c.dir, fmt.Sprintf("%s-%d", name, round+1))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory for the run: %w", err)
	}
	target, err := start(ctx, dir)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	load := c.Load
	load.URLs = target.urls
	result, err := harness.Load(ctx, load)
	if err != nil {
		err = fmt.Errorf("load %s: %w", name, err)
	}
	if target.process != nil {
		err = errors.Join(err, c.stop(target.process, &result))
	}
	if target.cleanup != nil {
		err = errors.Join(err, target.cleanup())
	}
	failed := err != nil || result.Lost+result.Duplicates > 0
	if failed && target.process != nil && ctx.Err() == nil {
		result.Output = target.process.Output
	} else {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if result.Sent > 0 {
		t := c.report.target(name)
		t.Runs = append(t.Runs, result)
	}
	return err
}

// stop records the memory of a measured process and stops it.
func (c *comparison) stop(p *harness.Process, result *harness.Result) error {
	select {
	case <-p.Done():
		return fmt.Errorf("the process ended during the run: %w; its output is in %s", p.Ended(), p.Output)
	default:
	}
	if rss, err := p.PeakRSS(); err == nil { // unknown on some systems
		result.PeakRSSMiB = float64(rss) / (1 << 20)
	}
	if c.SinkMode != harness.Hang {
		return p.Term()
	}
	// End the hanging exchanges, for which a graceful stop would wait.
	err := c.sink.SetMode(harness.Refuse)
	return errors.Join(err, p.Term(), c.sink.SetMode(harness.Hang))
}

func (c *comparison) useGateway(context.Context, string) (started, error) {
	return started{urls: c.Load.URLs}, nil
}

func (c *comparison) startRelay(ctx context.Context, dir string) (started, error) {
	p, err := startRelay(ctx, dir, c.Bin, c.sink.URL(0))
	if err != nil {
		return started{}, err
	}
	urls := make([]string, max(1, c.Endpoints))
	for i := range urls {
		urls[i] = fmt.Sprintf("%s/ingest/%d", p.URL, i)
	}
	return started{urls: urls, process: p}, nil
}

func (c *comparison) startKapsel(ctx context.Context, dir string) (started, error) {
	env := []string{"KAPSEL_EGRESS_ALLOW=" + c.sink.Network()}
	cleanup := func() error { return nil }
	if c.Database != "" {
		database, drop, err := freshDatabase(ctx, c.Database)
		if err != nil {
			return started{}, err
		}
		env = append(env, "DATABASE_URL="+database)
		cleanup = func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			return drop(ctx)
		}
	}
	p, err := harness.StartKapsel(ctx, dir, c.Bin, append(env, c.Env...)...)
	if err != nil {
		return started{}, errors.Join(err, cleanup())
	}
	urls, err := c.endpoints(ctx, p)
	if err != nil {
		return started{}, errors.Join(err, p.Kill(), cleanup())
	}
	return started{urls: urls, process: p, cleanup: cleanup}, nil
}

// endpoints creates a tenant with the endpoints and returns their ingest URLs.
func (c *comparison) endpoints(ctx context.Context, p *harness.Process) ([]string, error) {
	tenant, err := p.CreateTenant(ctx, "bench")
	if err != nil {
		return nil, err
	}
	urls := make([]string, max(1, c.Endpoints))
	for i := range urls {
		e, err := p.CreateEndpoint(ctx, tenant, map[string]any{"name": fmt.Sprintf("bench %d", i), "url": c.sink.URL(i)})
		if err != nil {
			return nil, err
		}
		urls[i] = e.IngestURL
	}
	return urls, nil
}
