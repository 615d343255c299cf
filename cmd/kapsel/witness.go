package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/durable"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
	"github.com/kapsel-hq/kapsel/internal/witness"
	"github.com/kapsel-hq/kapsel/receipt"
)

// witnessCmd is `kapsel witness`. It uses no database.
type witnessCmd struct {
	Name          string        `env:"KAPSEL_WITNESS_NAME" required:"" placeholder:"NAME" help:"The witness's name in its signatures: a URL without its scheme, such as witness.example/w1 (${env})."`
	Dir           string        `env:"KAPSEL_WITNESS_DIR" default:"kapsel-witness" placeholder:"DIR" help:"Directory of what the witness has signed; made if it is not there, and never to be lost (${env}, default ${default})."`
	KeyFile       string        `env:"KAPSEL_WITNESS_KEY_FILE" placeholder:"FILE" help:"File with the witness's key, 32 bytes in base64; made if it is not there (${env}, default witness.key in the directory)."`
	Log           []string      `sep:"none" placeholder:"KEY[,KEY] [URL]" help:"A log to know: its public key, and the URL of its Kapsel if the witness is to ask for its heads. Base64 alone is the key of every log of one Kapsel. Keys that follow each other in a rotation stand in one --log, with a comma between. May be repeated."`
	Logs          string        `env:"KAPSEL_WITNESS_LOGS" placeholder:"FILE" help:"File of logs to know, a line for each as --log has them (${env})."`
	Every         time.Duration `default:"10s" help:"How often a log with a URL is asked for its head, 1s to 24h (default ${default})."`
	Listen        string        `env:"KAPSEL_WITNESS_LISTEN" default:"127.0.0.1:8081" help:"Address at which logs ask for signatures (${env}, default ${default})."`
	MetricsListen string        `env:"KAPSEL_WITNESS_METRICS_LISTEN" help:"Address of /metrics and /debug/pprof (${env}, default: none)."`
	Once          bool          `help:"Ask the logs that have a URL once, and exit: 1 if there is an alarm or a log cannot be read."`
	NewState      bool          `help:"Once, with a key that has never signed: begin with an empty directory."`
	LogLevel      string        `env:"LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error (${env}, default ${default})."`
	LogFormat     string        `env:"LOG_FORMAT" default:"json" enum:"json,text" help:"json, or text for people (${env}, default ${default})."`
}

// Help is shown by `kapsel witness --help`.
func (witnessCmd) Help() string {
	return `Runs a witness: it remembers the newest head of each audit log that it knows, signs a head
only if the log has just grown since, and keeps the evidence when a log has signed two heads
that contradict each other. Run it where who runs the logs has no access.

Logs post their heads (C2SP tlog-witness), or the witness asks for them. Its public key, which
it prints at the start, goes into KAPSEL_AUDIT_WITNESSES of those who run the logs, and to
everybody who verifies.

Examples:
  kapsel witness --name witness.example/w1 --log "u5dWyoJ7EOmE3RvYQG8T1VTAC4Bxl+bsTxMC1GyGRHU="
  kapsel witness --name witness.example/w1 --log "$VKEY https://hooks.example" --once`
}

// Run serves until ctx ends.
func (c *witnessCmd) Run(ctx context.Context, io streams) error {
	logs, err := c.logs()
	if err != nil {
		return err
	}
	for _, a := range []struct{ name, address string }{{"KAPSEL_WITNESS_LISTEN (--listen)", c.Listen}, {"KAPSEL_WITNESS_METRICS_LISTEN (--metrics-listen)", c.MetricsListen}} {
		if _, _, err := net.SplitHostPort(a.address); err != nil && a.address != "" {
			return settingError("%s: %q is not host:port", a.name, a.address)
		}
	}
	if c.Every < time.Second || c.Every > 24*time.Hour {
		return settingError("--every: %v is not between 1s and 24h", c.Every)
	}
	if err := receipt.CheckName(c.Name); err != nil {
		return settingError("KAPSEL_WITNESS_NAME (--name): %v", err)
	}
	stackOnQuit(io.err)
	out := (&databaseSettings{LogLevel: c.LogLevel, LogFormat: c.LogFormat}).output(io)
	defer out.end()
	noCoreDumps(out.log)
	if err := durable.MakeDirs(c.Dir); err != nil {
		return unusable("KAPSEL_WITNESS_DIR (--dir)", err)
	}
	key, made, err := ed25519File("KAPSEL_WITNESS_KEY_FILE (--key-file)", cmp.Or(c.KeyFile, filepath.Join(c.Dir, "witness.key")))
	if err != nil {
		return err
	}
	w, err := witness.Open(ctx, witness.Config{
		Name: c.Name, Key: key, Dir: c.Dir, Fresh: made || c.NewState, Logs: logs, Now: time.Now, Log: out.log,
		Do: egress.NewClient(egress.Config{AllowAllPrivate: true}).Do, // it asks whom its operator names
	})
	if err != nil {
		return unusable("KAPSEL_WITNESS_DIR (--dir)", err)
	}
	defer w.Close()
	if c.Once {
		return c.once(ctx, w, out)
	}
	return c.serve(ctx, w, out)
}

// once asks all logs and reports what is wrong. A log that shows less than it had is asked again until it is
// sure that no cache has answered.
func (c *witnessCmd) once(ctx context.Context, w *witness.Witness, out *output) error {
	lost := w.Round(ctx)
	for w.Doubts() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(c.Every):
			lost = w.Round(ctx)
		}
	}
	alarms := w.Alarms()
	for _, a := range alarms {
		fmt.Fprintln(out.console, "ALARM:", clean(a.Text))
	}
	if len(alarms) > 0 || lost > 0 {
		return fmt.Errorf("alarms: %d; logs that could not be followed: %d", len(alarms), lost)
	}
	return ctx.Err() // interrupted: some logs may not have been asked
}

// serve answers logs and follows others until ctx ends.
func (c *witnessCmd) serve(ctx context.Context, w *witness.Witness, out *output) error {
	health := telemetry.NewHealth(out.log)
	mux := http.NewServeMux()
	mux.Handle("/", w.Handler())
	mux.HandleFunc("GET /health/live", health.Live)
	mux.HandleFunc("GET /health/ready", health.Ready)
	failed := make(chan error, 2)
	var servers []*http.Server
	listen := func(setting, address string, h http.Handler) error {
		if address == "" {
			return nil
		}
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return unusable(setting, err)
		}
		srv := newServer(h, out.log)
		servers = append(servers, srv)
		go func() {
			if err := srv.Serve(newCappedListener(ln, maxConnections, nil)); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
		return nil
	}
	defer func() {
		for _, srv := range servers {
			srv.Close()
		}
	}()
	registry := telemetry.NewRegistry()
	registry.MustRegister(w.Collectors()...)
	if err := listen("KAPSEL_WITNESS_LISTEN (--listen)", c.Listen, hardened(mux, false)); err != nil {
		return err
	}
	if err := listen("KAPSEL_WITNESS_METRICS_LISTEN (--metrics-listen)", c.MetricsListen, telemetry.Handler(registry)); err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() { w.Follow(following, c.Every) })
	defer follower.Wait()
	defer stop()
	health.SetStarted()
	for _, a := range w.Alarms() {
		out.log.Error("ALARM, since before this start: "+a.Text, "log", a.Origin, "kind", string(a.Kind))
	}
	fmt.Fprintln(out.console, w.Key())
	out.log.Info("witnessing", "version", buildVersion(), "listen", c.Listen, "key", w.Key().String())
	select {
	case <-ctx.Done():
	case err := <-failed:
		return err
	}
	health.SetStopping()
	answers, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, srv := range servers {
		if err := srv.Shutdown(answers); err != nil {
			out.log.Warn("an answer was cut", "error", err)
		}
	}
	out.log.Info("stopped")
	return nil
}

// logs returns the logs of --log and --logs.
func (c *witnessCmd) logs() (logs []witness.Log, err error) {
	for _, text := range c.Log {
		l, err := parseLog(text)
		if err != nil {
			return nil, settingError("--log: %v", err)
		}
		logs = append(logs, l)
	}
	if c.Logs != "" {
		file, err := os.Open(c.Logs)
		if err != nil {
			return nil, settingError("KAPSEL_WITNESS_LOGS (--logs): %v", err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for n := 1; lines.Scan(); n++ {
			text := strings.TrimSpace(lines.Text())
			if text == "" || strings.HasPrefix(text, "#") {
				continue
			}
			l, err := parseLog(text)
			if err != nil {
				return nil, settingError("KAPSEL_WITNESS_LOGS (--logs): line %d: %v", n, err)
			}
			logs = append(logs, l)
		}
		if err := lines.Err(); err != nil {
			return nil, settingError("KAPSEL_WITNESS_LOGS (--logs): %v", err)
		}
	}
	if len(logs) == 0 {
		return nil, settingError("--log, or KAPSEL_WITNESS_LOGS (--logs): a witness must know at least one log")
	}
	return logs, nil
}

// parseLog returns the log of keys with commas between and, behind a space, a URL.
func parseLog(text string) (l witness.Log, err error) {
	fields := strings.Fields(text)
	if len(fields) < 1 || len(fields) > 2 {
		return l, fmt.Errorf("%d words with spaces between are not a key, and a URL if the log is to be followed", len(fields))
	}
	for one := range strings.SplitSeq(fields[0], ",") {
		key, err := receipt.ParseKey(one)
		if err != nil {
			return l, err
		}
		if key.Witness {
			return l, errors.New("this is the key of a witness; give that of a log")
		}
		if l.Keys = append(l.Keys, key); key.Name != l.Name() {
			return l, errors.New("keys with a comma between must be those of one log, with the same name, or those of one Kapsel, all without a name")
		}
	}
	if len(fields) == 1 {
		return l, nil
	}
	id, _ := strings.CutPrefix(l.Name(), "kapsel/")
	if _, err := kapsel.ParseLogID(id); err != nil {
		return l, errors.New("only a log of a Kapsel can be followed, and its key must be a vkey (kapsel/…+ID+BASE64), as GET /attestation/{log}/keys has it")
	}
	l.URL, err = plainURL(fields[1])
	return l, err
}

// plainURL returns an http or https URL without a slash at its end. The error does not have the URL, which may
// have a password.
func plainURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("the URL is not an http or https URL without user name, query and fragment")
	}
	return strings.TrimRight(text, "/"), nil
}
