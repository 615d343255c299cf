package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/api"
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

// endpoints describes the endpoints of the API.
var endpoints = objects[client.Endpoint]{
	path:    "/v1/endpoints",
	id:      func(e client.Endpoint) string { return e.ID },
	card:    endpointCard,
	created: func(e client.Endpoint) time.Time { return e.CreatedAt },
	columns: []column[client.Endpoint]{
		{"ID", func(e client.Endpoint) string { return e.ID }},
		{"NAME", func(e client.Endpoint) string { return e.Name }},
		{"STATE", func(e client.Endpoint) string { return e.State }},
		{"CIRCUIT", func(e client.Endpoint) string { return e.Circuit.State }},
		{"BACKLOG", func(e client.Endpoint) string { return or(e.Backlog) }},
		{"URL", func(e client.Endpoint) string { return e.URL }},
	},
}

// newEndpoints describes endpoints in answers that have the signing secret, which is shown once.
var newEndpoints = objects[client.NewEndpoint]{
	path: endpoints.path,
	id:   func(e client.NewEndpoint) string { return e.ID },
	card: func(w io.Writer, e client.NewEndpoint, raw []byte) {
		endpointCard(w, e.Endpoint, raw)
		fmt.Fprintf(w, "\nThe signing secret, shown once; the destination checks deliveries with it:\n  %s\n", clean(e.SigningSecret))
	},
}

// endpointID is the argument of commands that are about one endpoint.
type endpointID struct {
	Endpoint string `arg:"" name:"endpoint" complete:"endpoint" help:"The endpoint's id, ep_…, its uid or its name."`
	Tenant   string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose endpoint has the uid or the name."`
}

// id returns the endpoint's id.
func (c endpointID) id(ctx context.Context, s *session) (string, error) {
	return s.endpointNamed(ctx, c.Endpoint, c.Tenant)
}

// find implements reference.
func (c endpointID) find(ctx context.Context, s *session) (target, error) { return byID(c.id(ctx, s)) }

type endpointsList struct {
	ofTenant
	App   string   `complete:"app" placeholder:"APP" help:"Only those of this app; its id, uid or name."`
	State []string `enum:"active,paused,disabled" placeholder:"STATE" help:"Only those in any of these states: active, paused, disabled."`
	listing
}

// Help has examples.
func (endpointsList) Help() string {
	return `Examples:
  kapsel endpoints list
  kapsel endpoints list --state paused,disabled
  kapsel endpoints list --app customer-17
  kapsel endpoints list --tenant acme --json`
}

func (c endpointsList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	app, err := s.appNamed(ctx, c.App, tenant)
	if err != nil {
		return err
	}
	all := raws(s, s.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: tenant, AppID: app}))
	if c.State != nil {
		all = only(all, func(e client.Endpoint) bool { return slices.Contains(c.State, e.State) })
	}
	return endpoints.list(s, c.listing, all)
}

type endpointsGet struct{ endpointID }

// Help has an example.
func (endpointsGet) Help() string {
	return `Below what every endpoint has it shows the settings that are not the defaults, by the API's names.

Examples:
  kapsel endpoints get orders
  kapsel endpoints get ep_01m84yz4zqfgjtcypmsesbpznb --json`
}

func (c endpointsGet) do(ctx context.Context, s *session) error { return endpoints.get(ctx, s, c) }

// endpointCard prints an endpoint for people: its identity and state, and then its settings that are not the
// defaults. raw is the endpoint as the API answered it.
func endpointCard(w io.Writer, e client.Endpoint, raw []byte) {
	state := e.State
	if e.DisabledReason != nil {
		state += " (" + *e.DisabledReason + ")"
	}
	rate := "none"
	if l := e.RateLimit; l != nil {
		rate = fmt.Sprintf("%v a second, bursts of %d", l.PerSecond, l.Burst)
	}
	signing := "off"
	if e.Signing.Enabled {
		signing = plural(int64(len(e.Signing.Secrets)), "secret")
	}
	facts := []fact{
		{"id", e.ID}, {"uid", there(e.UID)}, {"name", e.Name}, {"tenant", e.TenantID}, {"description", e.Description}, {"state", state},
		{"circuit", circuitText(e.Circuit)}, {"circuit opens", circuitRule(e.Circuit)},
		{"throttled until", atOr(e.ThrottledUntil)}, {"ingest URL", or(e.IngestURL)}, {"app", there(e.App)}, {"subscribed to", subscribed(e)}, {"destination", e.URL}, {"verification", verified(e.Verification)}, {"signing", signing}, {"rate limit", rate},
		{"backlog", there(e.Backlog)}, {"oldest waiting", atOr(e.OldestWaitingAt)}, {"created", at(e.CreatedAt)}, {"updated", at(e.UpdatedAt)},
	}
	facts = append(facts, metadataFacts(e.Metadata)...)
	for _, warning := range e.Warnings {
		facts = append(facts, fact{"warning", warning})
	}
	card(w, facts...)
	changedCard(w, raw, api.Defaults(e.Verification.Provider))
}

// verified returns the provider of a verification and the number of its secrets, for people.
func verified(v client.Verification) string {
	text := v.Provider
	if n := len(v.Secrets); n > 0 {
		text += ", " + plural(int64(n), "secret")
	}
	return text
}

// subscribed lists an endpoint's subscriptions.
func subscribed(e client.Endpoint) string {
	var all []string
	for _, sub := range e.Subscriptions {
		text := sub.Source
		if len(sub.EventTypes) > 0 {
			text += ":" + strings.Join(sub.EventTypes, ",")
		}
		if len(sub.Channels) > 0 {
			text += " in " + strings.Join(sub.Channels, " or ")
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// circuitText says what the circuit's state means for deliveries.
func circuitText(c client.Circuit) string {
	if c.Enabled != nil && !*c.Enabled {
		return "off"
	}
	text := c.State
	if c.ChangedAt != nil {
		text += " since " + at(*c.ChangedAt)
	}
	switch {
	case c.State == client.CircuitStateOpen && c.RetryAt != nil && time.Until(*c.RetryAt) > 0:
		text += "; nothing is sent, the first probe may start " + ago(*c.RetryAt)
	case c.State == client.CircuitStateOpen:
		text += "; the next delivery that is due goes as a probe"
	case c.State == client.CircuitStateHalfOpen:
		text += "; a few deliveries at a time go as probes"
	}
	return text
}

// circuitRule says when the circuit opens and closes. It returns "" if the circuit never opens.
func circuitRule(c client.Circuit) string {
	if c.Enabled == nil || !*c.Enabled || c.Failures == nil || c.Ratio == nil {
		return ""
	}
	return fmt.Sprintf("at %d failures in a row without a success in the last minute, at %d in any case, or when at least %s of the last %s exchanges and %.4g%% of those within a minute failed; first probe after %s, closes at %s successes",
		*c.Failures, 2**c.Failures, or(c.Minimum), or(c.Window), *c.Ratio*100, or(c.OpenFor), or(c.Successes))
}

// endpointFlags holds the settings of an endpoint that have a flag of their own. File can have any setting.
type endpointFlags struct {
	Description *string `help:"For people."`
	UID         *string `name:"uid" placeholder:"UID" help:"Your own id of it, the only one in its app, or among endpoints without an app."`
	Metadata    pairs   `placeholder:"NAME=VALUE" help:"A text of your own; NAME= takes it away; may be repeated."`
	intakeFlags
	ForwardQuery     *bool          `help:"Send the query along that a webhook came with; --forward-query=false ends it."`
	Subscribe        []string       `sep:"none" complete:"origin" placeholder:"SOURCE[:TYPES]" help:"Also deliver what comes in at a source or at another endpoint's ingest URL, by its id or name, or what is published (publish); behind a colon only some types: publish:invoice.paid,order.*. May be repeated; replaces what is there; none: nothing. An endpoint that is created with it has no ingest URL of its own."`
	Timeout          *time.Duration `placeholder:"DURATION" help:"Of one exchange with the destination, 1s to 300s."`
	Concurrency      *int64         `placeholder:"N" help:"Exchanges at once, 1 to 1000."`
	RateLimit        *string        `complete:"none" placeholder:"N" help:"Start at most N exchanges a second; goes with --rate-burst. none: as many as come."`
	RateBurst        *int64         `placeholder:"N" help:"Start N exchanges at once."`
	RetryStrategy    *string        `complete:"exponential,linear,fixed,schedule" placeholder:"NAME" help:"exponential, linear, fixed or schedule."`
	RetryBase        *time.Duration `placeholder:"DURATION" help:"The first delay, 100ms to 1h."`
	RetryMax         *time.Duration `placeholder:"DURATION" help:"The longest delay, up to 24h."`
	MaxAttempts      *int64         `placeholder:"N" help:"How often a delivery is tried, 1 to 100."`
	RetryOn          []int64        `placeholder:"STATUS" help:"Statuses that are retried beside 408, 425, 429 and 5xx."`
	Circuit          *string        `complete:"on,off" placeholder:"on|off" help:"Whether deliveries stop for a while when the destination fails (on)."`
	CircuitFailures  *int64         `placeholder:"N" help:"Failures in a row that open the circuit while nothing succeeds; twice as many do in any case (5)."`
	CircuitRatio     *float64       `placeholder:"RATIO" help:"The ratio of failures that opens it, above 0 to 1 (0.8)."`
	CircuitWindow    *int64         `placeholder:"N" help:"Exchanges looked back at for the ratio, of the last minute (20)."`
	CircuitMinimum   *int64         `placeholder:"N" help:"Failures among them before the ratio counts (10)."`
	CircuitOpenFor   *time.Duration `placeholder:"DURATION" help:"How long it stays open before a probe, 1s to 1h (30s)."`
	CircuitSuccesses *int64         `placeholder:"N" help:"Probes that must succeed before it closes (3)."`
	File             string         `placeholder:"FILE" help:"A JSON object with any of the API's fields; - is standard input. Flags come on top."`
}

// requestBody is the JSON object of a request, and the flag that each field came from. It is not a type of
// package client, because those lose the nulls of --file, which stand for the defaults in a patch.
type requestBody struct {
	body map[string]any
	by   sentBy
}

// settingsOf returns the request body that --file asks for. flags are the flags by field. The body also knows
// the flags of fields that are not given, unless the file has the field: an error may be about a field
// that is missing or was set by default.
func settingsOf(file string, flags ...map[string]string) (s requestBody, err error) {
	s.by = sentBy{}
	if s.body, err = readObject(file); err != nil {
		return s, err
	}
	if file != "" {
		s.by["(file)"] = "--file"
	}
	for _, of := range flags {
		for path, flag := range of {
			top, _, _ := strings.Cut(path, ".")
			if _, there := s.body[top]; !there {
				s.by[path] = flag
			}
		}
	}
	return s, nil
}

// setRate sets the rate limit that --rate-limit and --rate-burst name.
func (s requestBody) setRate(limit *string, burst *int64) error {
	switch {
	case limit != nil && *limit == "none" && burst != nil:
		return settingError("--rate-burst: does not go with --rate-limit none")
	case limit != nil && *limit == "none":
		set(s, "--rate-limit", "rate_limit", new(any))
	case limit != nil:
		perSecond, err := strconv.ParseFloat(*limit, 64)
		if err != nil {
			return settingError("--rate-limit: %q is neither a number nor none", *limit)
		}
		set(s, "--rate-limit", "rate_limit.per_second", &perSecond)
	}
	set(s, "--rate-burst", "rate_limit.burst", burst)
	return nil
}

// set sets the field at a path of nested objects to what v points to. It does nothing if v is nil.
func set[T any](s requestBody, flag, path string, v *T) {
	if v == nil {
		return
	}
	s.by[path] = flag
	at := s.body
	for {
		first, rest, nested := strings.Cut(path, ".")
		if !nested {
			at[path] = *v
			return
		}
		inner, ok := at[first].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[first] = inner
		}
		at, path = inner, rest
	}
}

// setMetadata sets the texts that --metadata names, beside those of --file. An empty one takes its name away.
func (s requestBody) setMetadata(texts pairs) {
	if texts == nil {
		return
	}
	metadata, _ := s.body["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	for name, text := range texts {
		if metadata[name] = text; text == "" {
			metadata[name] = nil
		}
	}
	set(s, "--metadata", "metadata", &metadata)
}

// endpointFlagOf holds the flags of an endpoint's fields, without those in intakeFlagOf.
var endpointFlagOf = map[string]string{
	"name": "--name", "url": "--url", "app": "--app", "subscriptions": "--subscribe", "description": "--description", "uid": "--uid", "metadata": "--metadata", "timeout": "--timeout", "concurrency": "--concurrency", "retry_on": "--retry-on",
	"rate_limit.per_second": "--rate-limit", "rate_limit.burst": "--rate-burst", "retry.strategy": "--retry-strategy", "retry.base": "--retry-base",
	"retry.max": "--retry-max", "retry.max_attempts": "--max-attempts", "circuit.enabled": "--circuit", "circuit.failures": "--circuit-failures",
	"circuit.ratio": "--circuit-ratio", "circuit.window": "--circuit-window", "circuit.minimum": "--circuit-minimum",
	"circuit.open_for": "--circuit-open-for", "circuit.successes": "--circuit-successes",
}

// settings returns the settings that the file and the flags ask for.
func (f endpointFlags) settings(name, destination string, secretFiles ...string) (requestBody, error) {
	s, err := f.intakeFlags.settings(f.File, endpointFlagOf, secretFiles...)
	if err != nil {
		return s, err
	}
	set(s, "--name", "name", nonEmpty(name))
	set(s, "--url", "url", nonEmpty(destination))
	set(s, "--description", "description", f.Description)
	set(s, "--uid", "uid", f.UID)
	s.setMetadata(f.Metadata)
	set(s, "--forward-query", "forward_query", f.ForwardQuery)
	set(s, "--timeout", "timeout", text(f.Timeout))
	set(s, "--concurrency", "concurrency", f.Concurrency)
	if err := s.setRate(f.RateLimit, f.RateBurst); err != nil {
		return s, err
	}
	set(s, "--retry-strategy", "retry.strategy", f.RetryStrategy)
	set(s, "--retry-base", "retry.base", text(f.RetryBase))
	set(s, "--retry-max", "retry.max", text(f.RetryMax))
	set(s, "--max-attempts", "retry.max_attempts", f.MaxAttempts)
	if f.RetryOn != nil {
		set(s, "--retry-on", "retry_on", &f.RetryOn)
	}
	if f.Circuit != nil {
		if *f.Circuit != "on" && *f.Circuit != "off" {
			return s, settingError("--circuit: %q is neither on nor off", *f.Circuit)
		}
		set(s, "--circuit", "circuit.enabled", new(*f.Circuit == "on"))
	}
	set(s, "--circuit-failures", "circuit.failures", f.CircuitFailures)
	set(s, "--circuit-ratio", "circuit.ratio", f.CircuitRatio)
	set(s, "--circuit-window", "circuit.window", f.CircuitWindow)
	set(s, "--circuit-minimum", "circuit.minimum", f.CircuitMinimum)
	set(s, "--circuit-open-for", "circuit.open_for", text(f.CircuitOpenFor))
	set(s, "--circuit-successes", "circuit.successes", f.CircuitSuccesses)
	return s, nil
}

// subscribe sets the subscriptions that --subscribe names. It asks the service for sources that are given by
// name.
func (f endpointFlags) subscribe(ctx context.Context, s *session, in requestBody, tenant string) error {
	if f.Subscribe == nil {
		return nil
	}
	list := []client.Subscription{}
	add := func(source string, types []string) error {
		id, err := s.originNamed(ctx, source, tenant)
		if err != nil {
			return err
		}
		field, _, _ := strings.Cut(kapsel.SubscriptionField(len(list)), ".")
		in.by[field] = "--subscribe " + source
		list = append(list, client.Subscription{Source: id, EventTypes: types})
		return nil
	}
	for _, text := range f.Subscribe {
		if text == "none" && len(f.Subscribe) == 1 {
			break
		}
		sources, types, typed := strings.Cut(text, ":")
		if typed {
			if err := add(sources, strings.Split(types, ",")); err != nil {
				return err
			}
			continue
		}
		for source := range strings.SplitSeq(sources, ",") {
			if err := add(source, nil); err != nil {
				return err
			}
		}
	}
	set(in, "--subscribe", "subscriptions", &list)
	return nil
}

// nonEmpty returns a pointer to s, nil if s is empty.
func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// text returns a duration in the API's form, nil for nil.
func text(d *time.Duration) *string {
	if d == nil {
		return nil
	}
	return new(d.String())
}

// open opens the file that a flag names; "-" is standard input.
func open(flag, name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, settingError("%s: %v", flag, err)
	}
	return f, nil
}

// readObject reads a JSON object from a file. It returns an empty object if name is "".
func readObject(name string) (map[string]any, error) {
	body := map[string]any{}
	if name == "" {
		return body, nil
	}
	f, err := open("--file", name)
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

// readAll reads a file that a flag names.
func readAll(flag, name string) ([]byte, error) {
	f, err := open(flag, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return text, nil
}

// readLines reads the lines of a file that are not empty.
func readLines(flag, name string) ([]string, error) {
	f, err := open(flag, name)
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
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"The tenant that it belongs to, by id or name; needed with the admin key where there are several."`
	Name   string `help:"What people call it; needed, here or in --file."`
	URL    string `name:"url" placeholder:"URL" help:"Where the webhooks go; needed, here or in --file."`
	App    string `complete:"app" placeholder:"APP" help:"The app that it belongs to, by id, uid or name: it gets what is published to the app, of the types that --subscribe names, or all."`
	endpointFlags
}

// Help has examples.
func (endpointsCreate) Help() string {
	return `Examples:
  kapsel endpoints create --name orders --url https://shop.example/hooks
  kapsel endpoints create --tenant acme --name orders --url https://shop.example/hooks --provider stripe --secret-file stripe.secret
  kapsel endpoints create --file endpoint.json --max-attempts 5
  kapsel endpoints create --name warehouse --url https://stock.example/hooks --subscribe orders
  kapsel endpoints create --name billing --url https://billing.example/hooks --subscribe 'stripe:invoice.*'
  kapsel endpoints create --name customer --url https://customer.example/hooks --subscribe publish:invoice.paid,order.*
  kapsel endpoints create --app customer-17 --name acme --url https://acme.example/hooks
  ENDPOINT=$(kapsel endpoints create --name orders --url https://shop.example/hooks -q)

With --quiet the signing secret is not shown; kapsel endpoints rotate makes another.`
}

func (c endpointsCreate) do(ctx context.Context, s *session) error {
	in, err := c.settings(c.Name, c.URL)
	if err != nil {
		return err
	}
	s.named = in.by
	tenant, err := s.newOwner(ctx, c.Tenant)
	if err != nil {
		return err
	}
	if c.App != "" {
		app, err := s.appNamed(ctx, c.App, tenant)
		if err != nil {
			return err
		}
		set(in, "--app", "app", &app)
		if _, there := in.body["subscriptions"]; !there && c.Subscribe == nil {
			c.Subscribe = []string{kapsel.Publish}
		}
	}
	if err := c.subscribe(ctx, s, in, tenant); err != nil {
		return err
	}
	return newEndpoints.create(ctx, s, tenant, in)
}

type endpointsUpdate struct {
	endpointID
	Name          string `help:"What people call it."`
	URL           string `name:"url" placeholder:"URL" help:"Where the webhooks go."`
	AddSecretFile string `placeholder:"FILE" help:"A file with secrets of the provider, one a line, that count beside those that are there; - is standard input."`
	endpointFlags
}

// Help has examples.
func (endpointsUpdate) Help() string {
	return `What is not named stays as it is. In --file null sets a field to its default.

To rotate a provider's secret add the new one, let the provider change over, and then replace all by
the new one with --secret-file.

Examples:
  kapsel endpoints update orders --url https://shop.example/new
  kapsel endpoints update orders --timeout 10s --retry-on 404,409
  kapsel endpoints update orders --rate-limit none
  kapsel endpoints update orders --add-secret-file stripe.new
  kapsel endpoints update audit --subscribe orders,payments
  echo '{"headers":null}' | kapsel endpoints update ep_01m84yz4zqfgjtcypmsesbpznb --file -`
}

func (c endpointsUpdate) do(ctx context.Context, s *session) error {
	in, err := c.settings(c.Name, c.URL, c.AddSecretFile)
	if err != nil {
		return err
	}
	s.named = in.by
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	tenant := c.Tenant
	if c.Subscribe != nil && s.isAdmin() { // a name means a source of the endpoint's own tenant
		e, err := s.GetEndpoint(ctx, id)
		if err != nil {
			return err
		}
		tenant = e.TenantID
	}
	if err := c.subscribe(ctx, s, in, tenant); err != nil {
		return err
	}
	if c.AddSecretFile != "" {
		e, err := s.GetEndpoint(ctx, id)
		if err != nil {
			return err
		}
		if err := c.addSecrets(c.AddSecretFile, e.Verification.Secrets, in); err != nil {
			return err
		}
	}
	return endpoints.update(ctx, s, target{ref: id}, in)
}

type endpointsDelete struct {
	endpointID
	KeepIngest bool `help:"Make a source of its ingest URL, which goes on for those who post to it and those who subscribe to it."`
}

// Help has an example.
func (endpointsDelete) Help() string {
	return `Its ingest URL answers 404 from then on. Its events stay readable until their retention ends.
An endpoint to whose ingest URL others subscribe is not deleted, unless --keep-ingest makes the URL a
source: it has the endpoint's UUID behind src_, verification and idempotency stay, and so does the URL.

Examples:
  kapsel endpoints delete ep_01m84yz4zqfgjtcypmsesbpznb
  kapsel endpoints delete orders --keep-ingest`
}

func (c endpointsDelete) do(ctx context.Context, s *session) error {
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	if err := s.DeleteEndpoint(ctx, id, c.KeepIngest); err != nil {
		return s.whoSubscribes(ctx, id, err)
	}
	if c.KeepIngest {
		return s.removed(id, "deleted; its ingest URL goes on as the source src_"+strings.TrimPrefix(id, "ep_"))
	}
	return s.removed(id, "deleted")
}

type endpointsPause struct{ endpointID }

// Help has an example.
func (endpointsPause) Help() string {
	return `Example:
  kapsel endpoints pause orders`
}

func (c endpointsPause) do(ctx context.Context, s *session) error {
	return c.act(ctx, s, s.PauseEndpoint)
}

// act makes a request about the endpoint and shows the endpoint that is answered.
func (c endpointID) act(ctx context.Context, s *session, do func(ctx context.Context, id string) (client.Endpoint, error)) error {
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	e, err := do(ctx, id)
	if err != nil {
		return err
	}
	return endpoints.show(s, e)
}

type endpointsResume struct{ endpointID }

// Help has an example.
func (endpointsResume) Help() string {
	return `Example:
  kapsel endpoints resume orders`
}

func (c endpointsResume) do(ctx context.Context, s *session) error {
	return c.act(ctx, s, s.ResumeEndpoint)
}

type endpointsTest struct {
	endpointID
	waiting
}

// Help has examples.
func (endpointsTest) Help() string {
	return `Examples:
  kapsel endpoints test orders
  kapsel endpoints test orders --wait 10s`
}

func (c endpointsTest) do(ctx context.Context, s *session) error {
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	e, err := s.TestEndpoint(ctx, id)
	if err != nil {
		return err
	}
	if c.Wait == 0 {
		return s.show(e.ID, func(w io.Writer) { eventCard(w, e) })
	}
	detail, err := s.GetEvent(ctx, e.ID)
	if err != nil {
		return err
	}
	return c.deliver(ctx, s, detail.Deliveries[0])
}

type endpointsRotate struct {
	endpointID
	Overlap *time.Duration `placeholder:"DURATION" help:"How long deliveries carry the former signature too, 0s to 7d (default 24h)."`
}

// Help has examples.
func (endpointsRotate) Help() string {
	return `Examples:
  kapsel endpoints rotate orders
  kapsel endpoints rotate orders --overlap 2d`
}

func (c endpointsRotate) do(ctx context.Context, s *session) error {
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	e, err := s.RotateSecret(ctx, id, client.RotateInput{Overlap: (*client.Duration)(c.Overlap)})
	if err != nil {
		return err
	}
	return newEndpoints.show(s, e)
}

type endpointsResetCircuit struct{ endpointID }

// Help has an example.
func (endpointsResetCircuit) Help() string {
	return `Example:
  kapsel endpoints reset-circuit orders`
}

func (c endpointsResetCircuit) do(ctx context.Context, s *session) error {
	return c.act(ctx, s, s.ResetCircuit)
}
