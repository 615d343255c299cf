package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type endpointsCmd struct {
	List         ask[endpointsList]         `cmd:"" help:"List endpoints, newest first."`
	Get          ask[endpointsGet]          `cmd:"" help:"Show an endpoint: its URLs, state, circuit and backlog."`
	Create       ask[endpointsCreate]       `cmd:"" help:"Create an endpoint; its signing secret is shown once."`
	Update       ask[endpointsUpdate]       `cmd:"" help:"Change an endpoint; waiting deliveries follow the change."`
	Delete       ask[endpointsDelete]       `cmd:"" help:"Delete an endpoint; its waiting deliveries are canceled."`
	Pause        ask[endpointsPause]        `cmd:"" help:"Start no more deliveries; events are still accepted and wait."`
	Resume       ask[endpointsResume]       `cmd:"" help:"Start deliveries again."`
	Stats        ask[endpointsStats]        `cmd:"" help:"Count attempts and deliveries by hour or day, with success rate and latency."`
	Refusals     ask[endpointsRefusals]     `cmd:"" help:"Show which webhooks were refused lately, and why."`
	Test         ask[endpointsTest]         `cmd:"" help:"Send a test event to the destination."`
	Rotate       ask[endpointsRotate]       `cmd:"" help:"Make a new signing secret; it is shown once."`
	ResetCircuit ask[endpointsResetCircuit] `cmd:"" help:"Close the circuit now instead of waiting for probes."`
}

// endpointID is the argument of commands that are about one endpoint.
type endpointID struct {
	ID string `arg:"" name:"endpoint" help:"An endpoint's id, ep_…"`
}

// ofTenant narrows what the admin key sees.
type ofTenant struct {
	Tenant string `placeholder:"TENANT" help:"With the admin key: only this tenant's, ten_…"`
}

type endpointsList struct {
	ofTenant
	most
}

// Help has examples.
func (endpointsList) Help() string {
	return `Examples:
  kapsel endpoints list
  kapsel endpoints list --tenant ten_01m84yz4zqfgjtcypmsesbpznb --json`
}

func (c endpointsList) do(ctx context.Context, s *session) error {
	return list(s, s.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: c.Tenant}), c.most,
		column[client.Endpoint]{"ID", func(e client.Endpoint) string { return e.ID }},
		column[client.Endpoint]{"NAME", func(e client.Endpoint) string { return e.Name }},
		column[client.Endpoint]{"STATE", func(e client.Endpoint) string { return e.State }},
		column[client.Endpoint]{"CIRCUIT", func(e client.Endpoint) string { return e.Circuit.State }},
		column[client.Endpoint]{"BACKLOG", func(e client.Endpoint) string { return or(e.Backlog) }},
		column[client.Endpoint]{"URL", func(e client.Endpoint) string { return e.URL }})
}

type endpointsGet struct{ endpointID }

// Help has an example.
func (endpointsGet) Help() string {
	return `Example:
  kapsel endpoints get ep_01m84yz4zqfgjtcypmsesbpznb`
}

func (c endpointsGet) do(ctx context.Context, s *session) error {
	return s.showEndpoint(s.GetEndpoint(ctx, c.ID))
}

// showEndpoint prints the endpoint that a call answered, or returns the call's error.
func (s *session) showEndpoint(e client.Endpoint, err error) error {
	if err != nil {
		return err
	}
	return s.show(e, e.ID, func(w io.Writer) { endpointCard(w, e) })
}

// showNewEndpoint is showEndpoint with the signing secret that is shown once.
func (s *session) showNewEndpoint(e client.NewEndpoint, err error) error {
	if err != nil {
		return err
	}
	return s.show(e, e.ID, func(w io.Writer) {
		endpointCard(w, e.Endpoint)
		fmt.Fprintf(w, "\nThe signing secret, shown once; the destination checks deliveries with it:\n  %s\n", clean(e.SigningSecret))
	})
}

func endpointCard(w io.Writer, e client.Endpoint) {
	state, circuit := e.State, e.Circuit.State
	if e.DisabledReason != nil {
		state += " (" + *e.DisabledReason + ")"
	}
	if e.Circuit.RetryAt != nil {
		circuit += ", next probe " + ago(*e.Circuit.RetryAt)
	}
	rate := ""
	if l := e.RateLimit; l != nil {
		rate = fmt.Sprintf("%v a second, bursts of %d", l.PerSecond, l.Burst)
	}
	facts := []fact{
		{"id", e.ID}, {"name", e.Name}, {"tenant", e.TenantID}, {"description", e.Description}, {"state", state}, {"circuit", circuit},
		{"ingest URL", e.IngestURL}, {"destination", e.URL}, {"verification", e.Verification.Provider},
		{"idempotency", there(e.Idempotency.Strategy)}, {"retry", retryText(e.Retry)}, {"timeout", e.Timeout.String()},
		{"concurrency", strconv.FormatInt(e.Concurrency, 10)}, {"rate limit", rate}, {"backlog", there(e.Backlog)},
		{"oldest waiting", atOr(e.OldestWaitingAt)}, {"created", at(e.CreatedAt)}, {"updated", at(e.UpdatedAt)},
	}
	for _, warning := range e.Warnings {
		facts = append(facts, fact{"warning", warning})
	}
	card(w, facts...)
}

func retryText(r client.Retry) string {
	if r.Strategy == nil || r.MaxAttempts == nil {
		return ""
	}
	return fmt.Sprintf("%s, %d attempts, base %s, at most %s", *r.Strategy, *r.MaxAttempts, or(r.Base), or(r.Max))
}

// endpointFlags are the settings of an endpoint that have a flag; File has all.
type endpointFlags struct {
	Description     *string           `help:"For people."`
	Provider        *string           `placeholder:"NAME" help:"Who signs what is sent to the ingest URL: stripe, github, hmac, …"`
	SecretFile      string            `placeholder:"FILE" help:"A file with the provider's secrets, one a line; - is standard input."`
	Verification    map[string]string `mapsep:"none" placeholder:"FIELD=VALUE" help:"Another field of verification, such as tolerance=1h, or for the provider hmac signed={time}.{body}; may be repeated."`
	VerifyTokenFile string            `placeholder:"FILE" help:"A file with the verify token, for providers that have one; - is standard input."`
	Timeout         *time.Duration    `placeholder:"DURATION" help:"Of one exchange with the destination, 1s to 300s."`
	Concurrency     *int64            `placeholder:"N" help:"Exchanges at once, 1 to 1000."`
	RateLimit       *float64          `placeholder:"N" help:"Start at most N exchanges a second; goes with --rate-burst."`
	RateBurst       *int64            `placeholder:"N" help:"Start N exchanges at once."`
	RetryStrategy   *string           `placeholder:"NAME" help:"exponential, linear, fixed or schedule."`
	RetryBase       *time.Duration    `placeholder:"DURATION" help:"The first delay, 100ms to 1h."`
	RetryMax        *time.Duration    `placeholder:"DURATION" help:"The longest delay, up to 24h."`
	MaxAttempts     *int64            `placeholder:"N" help:"How often a delivery is tried, 1 to 100."`
	RetryOn         []int64           `placeholder:"STATUS" help:"Statuses that are retried beside 408, 425, 429 and 5xx."`
	File            string            `placeholder:"FILE" help:"A JSON object with any of the API's fields; - is standard input. Flags come on top."`
}

// body is the JSON that the file and the flags ask for. It is no type of the client's, so
// that the file's nulls are kept: in a patch they stand for the defaults.
func (f endpointFlags) body(name, destination string) (map[string]any, error) {
	standard := 0 // inputs that are standard input
	for _, name := range []string{f.File, f.SecretFile, f.VerifyTokenFile} {
		if name == "-" {
			standard++
		}
	}
	if standard > 1 {
		return nil, settingError("--file, --secret-file, --verify-token-file: only one of them can be standard input")
	}
	body, err := readObject(f.File)
	if err != nil {
		return nil, err
	}
	set(body, "name", nonEmpty(name))
	set(body, "url", nonEmpty(destination))
	set(body, "description", f.Description)
	set(body, "verification.provider", f.Provider)
	if f.SecretFile != "" {
		secrets, err := readLines(f.SecretFile)
		if err != nil {
			return nil, err
		}
		set(body, "verification.secrets", &secrets)
	}
	if f.VerifyTokenFile != "" {
		lines, err := readLines(f.VerifyTokenFile)
		if err != nil {
			return nil, err
		}
		if len(lines) != 1 {
			return nil, settingError("--verify-token-file: %s must have one line", f.VerifyTokenFile)
		}
		set(body, "verification.verify_token", &lines[0])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Verification)) {
		value, err := verificationField(name, f.Verification[name])
		if err != nil {
			return nil, err
		}
		set(body, "verification."+name, &value)
	}
	set(body, "timeout", text(f.Timeout))
	set(body, "concurrency", f.Concurrency)
	set(body, "rate_limit.per_second", f.RateLimit)
	set(body, "rate_limit.burst", f.RateBurst)
	set(body, "retry.strategy", f.RetryStrategy)
	set(body, "retry.base", text(f.RetryBase))
	set(body, "retry.max", text(f.RetryMax))
	set(body, "retry.max_attempts", f.MaxAttempts)
	if f.RetryOn != nil {
		set(body, "retry_on", &f.RetryOn)
	}
	return body, nil
}

// verificationField is a field of verification in JSON, of its text on the command line.
func verificationField(name, value string) (any, error) {
	switch name {
	case "secrets", "verify_token":
		return nil, settingError("--verification: %s is secret; use --secret-file or --verify-token-file", name)
	case "decompress", "awaiting_handshake":
		on, err := strconv.ParseBool(value)
		if err != nil {
			return nil, settingError("--verification: %s is true or false", name)
		}
		return on, nil
	case "topic_arns":
		return strings.Split(value, ","), nil
	}
	return value, nil
}

// set puts what v points to at a path of objects; nil changes nothing.
func set[T any](body map[string]any, path string, v *T) {
	if v == nil {
		return
	}
	if first, rest, nested := strings.Cut(path, "."); nested {
		inner, ok := body[first].(map[string]any)
		if !ok {
			inner = map[string]any{}
			body[first] = inner
		}
		set(inner, rest, v)
		return
	}
	body[path] = *v
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func text(d *time.Duration) *string {
	if d == nil {
		return nil
	}
	return new(d.String())
}

// open is a file, or standard input for "-".
func open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, badSetting{err.Error()}
	}
	return f, nil
}

// readObject reads a JSON object from a file, an empty one without a name.
func readObject(name string) (map[string]any, error) {
	body := map[string]any{}
	if name == "" {
		return body, nil
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.UseNumber()
	if err := d.Decode(&body); err != nil || body == nil {
		return nil, settingError("--file: %s is not a JSON object: %v", name, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, settingError("--file: %s has more than one JSON object", name)
	}
	return body, nil
}

// readLines reads the lines of a file that are not empty.
func readLines(name string) ([]string, error) {
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := []string{}
	for scan := bufio.NewScanner(f); ; {
		if !scan.Scan() {
			if err := scan.Err(); err != nil {
				return nil, fmt.Errorf("read %s: %w", name, err)
			}
			return lines, nil
		}
		if line := strings.TrimSpace(scan.Text()); line != "" {
			lines = append(lines, line)
		}
	}
}

type endpointsCreate struct {
	Tenant string `placeholder:"TENANT" help:"The tenant that it belongs to, ten_…; needed with the admin key."`
	Name   string `help:"What people call it; needed, here or in --file."`
	URL    string `name:"url" placeholder:"URL" help:"Where the webhooks go; needed, here or in --file."`
	endpointFlags
}

// Help has examples.
func (endpointsCreate) Help() string {
	return `Examples:
  kapsel endpoints create --tenant ten_01m84yz4zqfgjtcypmsesbpznb --name orders --url https://shop.example/hooks
  kapsel endpoints create --name orders --url https://shop.example/hooks --provider stripe --secret-file stripe.secret
  kapsel endpoints create --file endpoint.json --max-attempts 5
  ENDPOINT=$(kapsel endpoints create --name orders --url https://shop.example/hooks -q)

With --quiet the signing secret is not shown; kapsel endpoints rotate makes another.`
}

func (c endpointsCreate) do(ctx context.Context, s *session) error {
	body, err := c.body(c.Name, c.URL)
	if err != nil {
		return err
	}
	path := "/v1/endpoints"
	if c.Tenant != "" {
		path += "?tenant_id=" + url.QueryEscape(c.Tenant)
	}
	var e client.NewEndpoint
	err = s.Do(ctx, http.MethodPost, path, body, &e)
	return s.showNewEndpoint(e, err)
}

type endpointsUpdate struct {
	endpointID
	Name string `help:"What people call it."`
	URL  string `name:"url" placeholder:"URL" help:"Where the webhooks go."`
	endpointFlags
}

// Help has examples.
func (endpointsUpdate) Help() string {
	return `What is not named stays as it is. In --file null sets a field to its default.

Examples:
  kapsel endpoints update ep_01m84yz4zqfgjtcypmsesbpznb --url https://shop.example/new
  kapsel endpoints update ep_01m84yz4zqfgjtcypmsesbpznb --timeout 10s --retry-on 404,409
  echo '{"rate_limit":null}' | kapsel endpoints update ep_01m84yz4zqfgjtcypmsesbpznb --file -`
}

func (c endpointsUpdate) do(ctx context.Context, s *session) error {
	body, err := c.body(c.Name, c.URL)
	if err != nil {
		return err
	}
	var e client.Endpoint
	err = s.Do(ctx, http.MethodPatch, "/v1/endpoints/"+url.PathEscape(c.ID), body, &e)
	return s.showEndpoint(e, err)
}

type endpointsDelete struct{ endpointID }

// Help has an example.
func (endpointsDelete) Help() string {
	return `Its ingest URL answers 404 from then on. Its events stay readable until their retention ends.

Example:
  kapsel endpoints delete ep_01m84yz4zqfgjtcypmsesbpznb`
}

func (c endpointsDelete) do(ctx context.Context, s *session) error {
	if err := s.DeleteEndpoint(ctx, c.ID); err != nil {
		return err
	}
	return s.removed(c.ID, "deleted")
}

type endpointsPause struct{ endpointID }

// Help has an example.
func (endpointsPause) Help() string {
	return `Example:
  kapsel endpoints pause ep_01m84yz4zqfgjtcypmsesbpznb`
}

func (c endpointsPause) do(ctx context.Context, s *session) error {
	return s.showEndpoint(s.PauseEndpoint(ctx, c.ID))
}

type endpointsResume struct{ endpointID }

// Help has an example.
func (endpointsResume) Help() string {
	return `Example:
  kapsel endpoints resume ep_01m84yz4zqfgjtcypmsesbpznb`
}

func (c endpointsResume) do(ctx context.Context, s *session) error {
	return s.showEndpoint(s.ResumeEndpoint(ctx, c.ID))
}

type endpointsTest struct {
	endpointID
	waiting
}

// Help has examples.
func (endpointsTest) Help() string {
	return `Examples:
  kapsel endpoints test ep_01m84yz4zqfgjtcypmsesbpznb
  kapsel endpoints test ep_01m84yz4zqfgjtcypmsesbpznb --wait 10s`
}

func (c endpointsTest) do(ctx context.Context, s *session) error {
	e, err := s.TestEndpoint(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.Wait == 0 {
		return s.show(e, e.ID, func(w io.Writer) { eventCard(w, e) })
	}
	detail, err := s.GetEvent(ctx, e.ID)
	if err != nil {
		return err
	}
	return c.deliver(ctx, s, detail.Deliveries[0])
}

type endpointsRotate struct {
	endpointID
	Overlap *time.Duration `placeholder:"DURATION" help:"How long deliveries carry the former signature too, 0s to 168h (default 24h)."`
}

// Help has examples.
func (endpointsRotate) Help() string {
	return `Examples:
  kapsel endpoints rotate ep_01m84yz4zqfgjtcypmsesbpznb
  kapsel endpoints rotate ep_01m84yz4zqfgjtcypmsesbpznb --overlap 1h`
}

func (c endpointsRotate) do(ctx context.Context, s *session) error {
	e, err := s.RotateSecret(ctx, c.ID, client.RotateInput{Overlap: (*client.Duration)(c.Overlap)})
	return s.showNewEndpoint(e, err)
}

type endpointsResetCircuit struct{ endpointID }

// Help has an example.
func (endpointsResetCircuit) Help() string {
	return `Example:
  kapsel endpoints reset-circuit ep_01m84yz4zqfgjtcypmsesbpznb`
}

func (c endpointsResetCircuit) do(ctx context.Context, s *session) error {
	return s.showEndpoint(s.ResetCircuit(ctx, c.ID))
}
